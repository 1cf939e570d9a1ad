// SPDX-License-Identifier: Apache-2.0
// hearth adapter: what an adapter's files hold, the two formats into each other, the difference of two. Main thread.
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/learn.h"
#include "tools/adapter_box.h"
#include "tools/adapters.h"
#include "tools/admin.h"
#include "tools/hash.h"
#include "tools/hearth.h"
#include "tools/json_line.h"
#include "tools/models.h"
#include "tools/progress.h"

struct words {
    const char *base, *to, *out, *type;
    struct adapter_box_words box;
};

// Opens an adapter; `base` names a model, which `out` must not be, or is NULL.
static int open_adapter(struct hearth_adapter **adapter, const char *path, const char *base, const char *out)
{
    struct hearth_error err = {0};
    char base_path[PATHS_MAX], sha256[HASH_HEX], found[PATHS_MAX];
    struct hearth_adapter_base which = {base_path, sha256};
    *adapter = NULL;
    if (base) {
        int code = models_find(base_path, base);
        if (code)
            return code;
        if (out && paths_same(base_path, out))
            return cli_fail(CLI_USAGE, "%s is the model itself: name another file to write", out);
        if (!models_sha256(base_path, sha256))
            return cli_fail(CLI_NOINPUT, "cannot read %s: %s", base_path, strerror(errno));
    }
    if (hearth_adapter_open(adapter, adapters_path(found, path), base ? &which : NULL, &err))
        return cli_fail_status(&err);
    return CLI_OK;
}

static int out_of_memory(void)
{
    return cli_fail(CLI_OSERR, "out of memory");
}

static int print_json(json_t *value)
{
    bool whole = json_put(value, stdout, JSON_INDENT(2));
    json_decref(value);
    return whole ? cli_finish(CLI_OK) : out_of_memory();
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
    int code = open_adapter(&adapter, cli->args[1], words->base, NULL);
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
    int code = open_adapter(&a, cli->args[1], words->base, NULL);
    if (!code)
        code = open_adapter(&b, cli->args[2], words->base, NULL);
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
    int code = open_adapter(&adapter, cli->args[1], words->base, words->out);
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

// Into the running box, by a file of ours beside the temporary ones.
static int import_to_box(const struct cli *cli, const struct words *words)
{
    char path[PATHS_MAX];
    const char *folder = getenv("TMPDIR");
    struct words ours = *words;
    snprintf(path, sizeof path, "%s/hearth-adapter-XXXXXX", folder && *folder ? folder : "/tmp");
    int fd = mkstemp(path);
    if (fd < 0)
        return cli_fail(CLI_CANTCREAT, "%s: %s", path, strerror(errno));
    close(fd);
    ours.out = path;
    int code = convert(cli, &ours, false);
    if (!code)
        code = adapter_box_import(cli, &words->box, path);
    unlink(path);
    return code ? code : cli_finish(CLI_OK);
}

static int import(const struct cli *cli, const struct words *words)
{
    if (!words->out == !words->box.name)
        return cli_wrong(cli, "import needs --out FILE, or --name NAME to give it to the running box");
    return words->box.name ? import_to_box(cli, words) : convert(cli, words, false);
}

// ---------------------------------------------------------------- merge

struct merging {
    struct progress bar;
    uint64_t bytes;
};

static bool on_merged(void *user, double done)
{
    struct merging *m = user;
    progress_set(&m->bar, (uint64_t)(done * (double)m->bytes));
    return true;
}

static int print_report(const struct cli *cli, const struct words *words, const struct hearth_merge_report *r)
{
    if (cli->json)
        return print_json(json_pack("{s:s, s:s, s:I, s:I, s:f, s:f}", "out", words->out, "type",
                                    words->type ? words->type : "keep", "merged", (json_int_t)r->n_merged, "other_type",
                                    (json_int_t)r->n_other_type, "rms_change", r->rms_change, "rms_rounding",
                                    r->rms_rounding));
    printf("%s: %zu tensors merged; they change by %.4g (root mean square), writing them rounds by %.4g\n", words->out,
           r->n_merged, r->rms_change, r->rms_rounding);
    if (r->n_other_type)
        printf("%zu of them are of another type: their rows are not whole blocks of %s\n", r->n_other_type,
               words->type);
    return cli_finish(CLI_OK);
}

static int merge(const struct cli *cli, const struct words *words)
{
    char path[PATHS_MAX], sha256[HASH_HEX];
    const struct hearth_adapter_base base = {path, sha256};
    struct adapters adapters = {.n = 0};
    struct merging m = {.bytes = 0};
    struct hearth_merge_report report;
    struct hearth_error err = {0};
    struct stat st;
    if (!words->out)
        return cli_wrong(cli, "merge needs --out FILE");
    int code = models_find(path, words->base);
    if (code)
        return code;
    if (stat(path, &st) || !models_sha256(path, sha256))
        return cli_fail(CLI_NOINPUT, "cannot read %s: %s", path, strerror(errno));
    code = adapters_open(&adapters, (const char *const *)cli->args + 1, (size_t)cli->n_args - 1, &base, words->out);
    const struct hearth_merge_params params = {.base = &base, .uses = adapters.uses, .n_uses = adapters.n,
                                               .type = words->type, .progress = on_merged, .progress_user = &m};
    m.bytes = (uint64_t)st.st_size;
    progress_start(&m.bar, "merging", 0, m.bytes);
    if (!code && hearth_adapter_merge(words->out, &params, &report, &err))
        code = cli_fail_status(&err);
    progress_end(&m.bar);
    adapters_close(&adapters);
    return code ? code : print_report(cli, words, &report);
}

int cmd_adapter(int argc, char **argv)
{
    struct words words = {.box.scale = 1};
    const struct cli_option options[] = {
        {"base", 'm', CLI_TEXT, "MODEL", "the model it is for: checked, and recorded by import", &words.base, 0, 0,
         NULL},
        {"to", 0, CLI_TEXT, "FORMAT", "of export: peft or gguf", &words.to, 0, 0, NULL},
        {"out", 0, CLI_TEXT, "PATH", "what export, import and merge write", &words.out, 0, 0, NULL},
        {"type", 0, CLI_TEXT, "TYPE", "of merge, for what it changes: keep (default), f16, q8_0, q4_k …", &words.type,
         0, 0, NULL},
        {"name", 0, CLI_TEXT, "NAME", "of import: gives it to the running box under this name", &words.box.name, 0, 0,
         NULL},
        {"person", 0, CLI_TEXT, "NAME", "of use and off: whose answers (default: of who has made no choice)",
         &words.box.person, 0, 0, NULL},
        {"scale", 0, CLI_REAL, "S", "of use: times the adapter's own (1)", &words.box.scale, -4, 4, NULL},
    };
    struct cli cli = {
        .name = "adapter",
        .usage = "inspect PATH | import PATH --out FILE | export PATH --to FORMAT --out PATH | diff A B |\n"
                 "       merge A[:SCALE]... -m MODEL --out FILE [--type TYPE] |\n"
                 "       list | import PATH --name NAME | export NAME FILE | use NAME [--person P] |\n"
                 "       off [--person P] | rm NAME",
        .about = "Looks at LoRA adapters and converts them. PATH is a GGUF file or a folder as PEFT writes it.\n"
                 "import makes a GGUF file of either; an adapter that does not tell its model needs --base.\n"
                 "diff compares what two adapters add to each weight. merge writes the model with adapters added\n"
                 "to its weights as a whole GGUF file. list, import --name, export NAME FILE, use, off and rm are\n"
                 "about the running box: what it has, what comes in and goes out as a GGUF file, what answers are\n"
                 "made with, what it forgets.",
        .example = "hearth adapter import my-lora --base default --out my-lora.gguf",
        .options = options,
        .n_options = sizeof options / sizeof options[0],
        .min_args = 1,
        .max_args = 1 + CLI_LIST_MAX,
    };
    int code = cli_parse(&cli, argc, argv);
    if (code >= 0)
        return code;
    const char *verb = cli.args[0];
    if (adapter_box_is_verb(verb))
        return adapter_box(&cli, &words.box);
    if (!strcmp(verb, "export") && cli.n_args == 3 && !words.to && !words.out)
        return adapter_box_export(&cli, cli.args[1], cli.args[2]);
    if (!strcmp(verb, "merge") && cli.n_args > 1)
        return merge(&cli, &words);
    int want = strcmp(verb, "diff") ? 2 : 3;
    bool known = want == 3 || !strcmp(verb, "inspect") || !strcmp(verb, "export") || !strcmp(verb, "import");
    if (!known || cli.n_args != want)
        return cli_wrong(&cli, "inspect, import and export take one PATH, export of the box NAME FILE, diff two, "
                               "merge some");
    if (want == 3)
        return diff(&cli, &words);
    return !strcmp(verb, "inspect") ? inspect(&cli, &words)
           : !strcmp(verb, "export") ? export_to(&cli, &words)
                                     : import(&cli, &words);
}
