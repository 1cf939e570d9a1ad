// SPDX-License-Identifier: Apache-2.0
// hearth adapter: what an adapter's files hold, the two formats into each other, the difference of two. Main thread.
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/learn.h"
#include "tools/admin.h"
#include "tools/hash.h"
#include "tools/hearth.h"
#include "tools/models.h"

struct words {
    const char *base, *to, *out;
};

// Opens an adapter; `base` names a model or is NULL.
static int open_adapter(struct hearth_adapter **adapter, const char *path, const char *base)
{
    struct hearth_error err = {0};
    char base_path[PATHS_MAX], sha256[HASH_HEX];
    struct hearth_adapter_base which = {base_path, sha256};
    *adapter = NULL;
    if (base) {
        int code = models_find(base_path, base);
        if (code)
            return code;
        if (!hash_file(base_path, NULL, sha256))
            return cli_fail(CLI_NOINPUT, "cannot read %s: %s", base_path, strerror(errno));
    }
    if (hearth_adapter_open(adapter, path, base ? &which : NULL, &err))
        return cli_fail_status(&err);
    return CLI_OK;
}

static int out_of_memory(void)
{
    return cli_fail(CLI_OSERR, "out of memory");
}

static int print_json(json_t *value)
{
    char *text = json_dumps(value, JSON_INDENT(2));
    json_decref(value);
    if (!text)
        return out_of_memory();
    puts(text);
    free(text);
    return cli_finish(CLI_OK);
}

// ---------------------------------------------------------------- inspect

static int inspect_json(const struct hearth_adapter *adapter, const struct hearth_adapter_info *info)
{
    json_t *list = json_array();
    for (size_t i = 0; i < info->n_targets; i++) {
        struct hearth_adapter_target t;
        struct hearth_error err = {0};
        if (hearth_adapter_get_target(adapter, i, true, &t, &err))
            return cli_fail_status(&err);
        json_array_append_new(list, json_pack("{s:s, s:i, s:i, s:i, s:f, s:f, s:f, s:f, s:f}", "name", t.name, "n",
                                              (int)t.n, "k", (int)t.k, "rank", (int)t.rank, "alpha", (double)t.alpha,
                                              "scale", (double)t.scale, "norm_a", t.norm_a, "norm_b", t.norm_b,
                                              "norm_delta", t.norm_delta));
    }
    return print_json(json_pack("{s:s, s:s, s:s, s:s, s:s, s:b, s:f, s:I, s:o}", "format", info->format, "name",
                                info->name, "architecture", info->architecture, "base_name", info->base_name,
                                "base_sha256", info->base_sha256, "rslora", (int)info->rslora, "dropout",
                                (double)info->dropout, "n_params", (json_int_t)info->n_params, "targets", list));
}

// Names come from the file: nothing in them reaches the terminal as a command.
static void print_line(const char *label, const char *text)
{
    printf("%-14s", label);
    admin_print_clean(text);
    putchar('\n');
}

static int inspect_text(const struct hearth_adapter *adapter, const struct hearth_adapter_info *info)
{
    print_line("format", info->format);
    print_line("name", info->name[0] ? info->name : "-");
    print_line("architecture", info->architecture[0] ? info->architecture : "not known");
    print_line("base", info->base_name[0] ? info->base_name : "-");
    print_line("base SHA-256", info->base_sha256[0] ? info->base_sha256 : "not known");
    printf("parameters    %llu in %zu linears%s\n\n%-28s %13s %5s %9s %10s\n", (unsigned long long)info->n_params,
           info->n_targets, info->rslora ? ", rsLoRA" : "", "linear", "n x k", "rank", "scale", "norm");
    for (size_t i = 0; i < info->n_targets; i++) {
        struct hearth_adapter_target t;
        struct hearth_error err = {0};
        char shape[32];
        if (hearth_adapter_get_target(adapter, i, true, &t, &err))
            return cli_fail_status(&err);
        snprintf(shape, sizeof shape, "%u x %u", t.n, t.k);
        printf("%-28s %13s %5u %9.4g %10.4g\n", t.name, shape, t.rank, (double)t.scale, t.norm_delta);
    }
    return cli_finish(CLI_OK);
}

static int inspect(const struct cli *cli, const struct words *words)
{
    struct hearth_adapter *adapter;
    struct hearth_adapter_info info;
    int code = open_adapter(&adapter, cli->args[1], words->base);
    if (code)
        return code;
    hearth_adapter_get_info(adapter, &info);
    code = cli->json ? inspect_json(adapter, &info) : inspect_text(adapter, &info);
    hearth_adapter_close(&adapter);
    return code;
}

// ---------------------------------------------------------------- diff

struct list {
    json_t *json; // NULL = text
    double squares, squares_a;
};

static bool each_difference(void *user, const struct hearth_adapter_difference *one)
{
    struct list *list = user;
    list->squares += one->norm_difference * one->norm_difference;
    list->squares_a += one->norm_a * one->norm_a;
    if (list->json)
        return !json_array_append_new(
            list->json, json_pack("{s:s, s:b, s:b, s:f, s:f, s:f}", "name", one->name, "in_a", (int)one->in_a, "in_b",
                                  (int)one->in_b, "norm_a", one->norm_a, "norm_b", one->norm_b, "norm_difference",
                                  one->norm_difference));
    printf("%-28s %10.4g %10.4g %10.4g%s\n", one->name, one->norm_a, one->norm_b, one->norm_difference,
           one->in_a && one->in_b ? "" : one->in_a ? "  only in A" : "  only in B");
    return true;
}

static int diff(const struct cli *cli, const struct words *words)
{
    struct hearth_adapter *a, *b = NULL;
    struct hearth_error err = {0};
    struct list list = {.json = cli->json ? json_array() : NULL};
    int code = open_adapter(&a, cli->args[1], words->base);
    if (!code)
        code = open_adapter(&b, cli->args[2], words->base);
    if (!code && !cli->json)
        printf("%-28s %10s %10s %10s\n", "linear", "A", "B", "A - B");
    if (!code && hearth_adapter_diff(a, b, each_difference, &list, &err))
        code = cli_fail_status(&err);
    if (!code && cli->json) {
        code = print_json(json_pack("{s:f, s:f, s:O}", "norm_difference", sqrt(list.squares), "norm_a",
                                    sqrt(list.squares_a), "targets", list.json));
    } else if (!code) {
        printf("%-28s %10.4g %10s %10.4g\n", "all", sqrt(list.squares_a), "", sqrt(list.squares));
        code = cli_finish(CLI_OK);
    }
    json_decref(list.json);
    hearth_adapter_close(&a);
    hearth_adapter_close(&b);
    return code;
}

// ---------------------------------------------------------------- import and export

static int convert(const struct cli *cli, const struct words *words, bool to_peft)
{
    struct hearth_adapter *adapter;
    struct hearth_adapter_info info;
    struct hearth_error err = {0};
    int code = open_adapter(&adapter, cli->args[1], words->base);
    if (code)
        return code;
    hearth_adapter_get_info(adapter, &info);
    if (!info.base_sha256[0])
        code = cli_fail(CLI_DATAERR, "%s does not tell which model it is for: name it with --base MODEL", cli->args[1]);
    else if (to_peft ? hearth_adapter_write_peft(adapter, words->out, &err)
                     : hearth_adapter_write_gguf(adapter, words->out, &err))
        code = cli_fail_status(&err);
    hearth_adapter_close(&adapter);
    return code ? code : cli_finish(CLI_OK);
}

static int export_to(const struct cli *cli, const struct words *words)
{
    bool peft = words->to && !strcmp(words->to, "peft");
    if (!words->to || !words->out || (!peft && strcmp(words->to, "gguf")))
        return cli_wrong(cli, "export needs --to peft or --to gguf, and --out PATH");
    return convert(cli, words, peft);
}

static int import(const struct cli *cli, const struct words *words)
{
    if (!words->out)
        return cli_wrong(cli, "import needs --out FILE");
    return convert(cli, words, false);
}

int cmd_adapter(int argc, char **argv)
{
    static const char *const later[] = {"list", "use", "drop", "merge", "remove"};
    struct words words = {0};
    const struct cli_option options[] = {
        {"base", 0, CLI_TEXT, "MODEL", "the model it is for: checked, and recorded by import", &words.base, 0, 0, NULL},
        {"to", 0, CLI_TEXT, "FORMAT", "of export: peft or gguf", &words.to, 0, 0, NULL},
        {"out", 0, CLI_TEXT, "PATH", "what export and import write", &words.out, 0, 0, NULL},
    };
    struct cli cli = {
        .name = "adapter",
        .usage = "inspect PATH | import PATH --out FILE | export PATH --to FORMAT --out PATH | diff A B",
        .about = "Looks at LoRA adapters and converts them. PATH is a GGUF file or a folder as PEFT writes it.\n"
                 "import makes a GGUF file of either; an adapter that does not tell its model needs --base.\n"
                 "diff compares what two adapters add to each weight. list, use, drop, merge and remove come later.",
        .example = "hearth adapter import my-lora --base default --out my-lora.gguf",
        .options = options,
        .n_options = sizeof options / sizeof options[0],
        .min_args = 1,
        .max_args = 3,
    };
    int code = cli_parse(&cli, argc, argv);
    if (code >= 0)
        return code;
    const char *verb = cli.args[0];
    for (size_t i = 0; i < sizeof later / sizeof later[0]; i++)
        if (!strcmp(verb, later[i]))
            return cli_fail(CLI_UNAVAILABLE, "adapter %s comes later", verb);
    int want = strcmp(verb, "diff") ? 2 : 3;
    bool known = want == 3 || !strcmp(verb, "inspect") || !strcmp(verb, "export") || !strcmp(verb, "import");
    if (!known || cli.n_args != want)
        return cli_wrong(&cli, "inspect, import and export take one PATH, diff takes two");
    if (want == 3)
        return diff(&cli, &words);
    return !strcmp(verb, "inspect") ? inspect(&cli, &words)
           : !strcmp(verb, "export") ? export_to(&cli, &words)
                                     : import(&cli, &words);
}
