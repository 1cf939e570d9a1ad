// SPDX-License-Identifier: Apache-2.0
// hearth models: what lies in the models folder, which one is used. Main thread.
#include <dirent.h>
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/admin.h"
#include "tools/hearth.h"
#include "tools/json_line.h"
#include "tools/models.h"
#include "tools/packed.h"
#include "tools/split.h"
#include "tools/url.h"

static bool is_gguf(const char *name)
{
    size_t len = strlen(name);
    return len > 5 && !strcmp(name + len - 5, ".gguf");
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static int only_models(const struct dirent *entry)
{
    return is_gguf(entry->d_name) && entry->d_name[0] != '.';
}

static bool is_chosen(const char *chosen, const char *file)
{
    const struct catalogue_model *known = catalogue_find(chosen);
    if (known)
        return !strcmp(known->file, file);
    size_t len = strlen(chosen);
    return !strcmp(chosen, file) || (strlen(file) == len + 5 && !strncmp(chosen, file, len));
}

// What a running hearthd knows of its models, or NULL.
static json_t *told_by_box(const char *dir)
{
    int code = 0;
    struct admin *admin = admin_connect();
    json_t *answer = admin ? admin_call(admin, json_pack("{s:s}", "cmd", "status"), &code) : NULL;
    bool same = answer && !strcmp(admin_text(answer, "models_dir"), dir);
    json_decref(answer);
    answer = same ? admin_call(admin, json_pack("{s:s}", "cmd", "models"), &code) : NULL;
    if (admin)
        admin_close(&admin);
    return answer;
}

// The running box's line for this file, or NULL.
static const json_t *told_of(const json_t *box, const char *path)
{
    const json_t *model;
    size_t i;
    json_array_foreach(json_object_get(box, "models"), i, model)
    {
        if (!strcmp(admin_text(model, "file"), path))
            return model;
    }
    return NULL;
}

static const char *state_of(const json_t *told)
{
    if (!told)
        return "";
    if (admin_text(told, "problem")[0])
        return "  cannot be served";
    if (json_is_true(json_object_get(told, "loaded")))
        return "  loaded";
    return json_is_true(json_object_get(told, "loading")) ? "  loading" : "";
}

static int list(const struct cli *cli)
{
    char dir[PATHS_MAX], path[PATHS_MAX], size[24], memory[24];
    struct dirent **entries = NULL;
    if (!models_dir(dir))
        return CLI_CONFIG;
    char *chosen = models_chosen();
    int code = CLI_OK, n = scandir(dir, &entries, only_models, by_name);
    if (n < 0 && errno != ENOENT) {
        free(chosen);
        return cli_fail(CLI_IOERR, "%s: %s", dir, strerror(errno));
    }
    json_t *array = json_array(), *box = told_by_box(dir);
    for (int i = 0; i < n; i++) {
        const char *file = entries[i]->d_name;
        struct stat st;
        if (!paths_join(path, dir, file) || stat(path, &st) || !S_ISREG(st.st_mode))
            continue;
        uint64_t needed = models_memory(cli, path);
        bool used = is_chosen(chosen ? chosen : catalogue[0].name, file);
        const json_t *told = told_of(box, path);
        if (cli->json)
            json_array_append_new(array, json_pack("{s:s%, s:s, s:I, s:I, s:b, s:O?}", "name", file,
                                                   strlen(file) - 5, "file", path, "size_bytes",
                                                   (json_int_t)st.st_size, "memory_bytes", (json_int_t)needed,
                                                   "used", used, "box", told));
        else
            printf("%c %-40.*s %10s  memory %10s%s\n", used ? '*' : ' ', (int)strlen(file) - 5, file,
                   cli_size((uint64_t)st.st_size, size), needed ? cli_size(needed, memory) : "unknown",
                   state_of(told));
    }
    if (cli->json) {
        code = json_line(json_incref(array), 0);
    } else if (n <= 0) {
        printf("no models in %s (hearth pull default)\n", dir);
    }
    struct hearth_packed_size packed = packed_size(dir);
    if (packed.n_files && !cli->json)
        printf("  %-40s %10s  in %s\n", "packed weights, to start sooner", cli_size(packed.bytes, size), dir);
    for (int i = 0; i < n; i++)
        free(entries[i]);
    free(entries);
    free(chosen);
    json_decref(array);
    json_decref(box);
    return code ? code : cli_finish(CLI_OK);
}

// What was done, as a line or as JSON.
static int done(const struct cli *cli, const char *name, const char *what, const char *path)
{
    if (cli->json)
        return json_line(json_pack("{s:s, s:s}", what, name, "file", path), 0);
    if (!strcmp(what, "used"))
        printf("%s is used from now on\n", name);
    else
        printf("%s is removed\n", path);
    return cli_finish(CLI_OK);
}

// Remembers the choice for `run`; a running hearthd is told.
static int use(const struct cli *cli, const char *name)
{
    char path[PATHS_MAX], file[PATHS_MAX], config[PATHS_MAX], text[PATHS_MAX + 1];
    int code = models_find(path, name);
    if (code)
        return code;
    memcpy(file, path, sizeof file);
    bool in_folder = catalogue_find(name) || !strchr(name, '/');
    char *whole = in_folder ? strdup(name) : realpath(path, NULL);
    if (!whole || !paths_get(config, PATHS_CONFIG, "model") || !paths_make_parent(config)) {
        free(whole);
        return CLI_CANTCREAT;
    }
    int n = snprintf(text, sizeof text, "%s\n", whole);
    free(whole);
    if (!paths_replace(config, text, (size_t)n, 0600))
        return cli_fail(CLI_CANTCREAT, "%s: %s", config, strerror(errno));
    struct admin *admin = in_folder ? admin_connect() : NULL;
    if (admin) {
        char *slash = strrchr(path, '/'), *dot = strrchr(path, '.');
        if (dot && is_gguf(path))
            *dot = 0;
        json_t *answer = admin_call(
            admin, json_pack("{s:s, s:s}", "cmd", "use-model", "name", slash ? slash + 1 : path), &code);
        json_decref(answer);
        admin_close(&admin);
    }
    return code ? code : done(cli, name, "used", file);
}

static int remove_model(const struct cli *cli, const char *name)
{
    char path[PATHS_MAX], dir[PATHS_MAX], config[PATHS_MAX], part[PATHS_MAX], sha256[HASH_HEX];
    if (!catalogue_find(name) && !url_name_safe(name))
        return cli_fail(CLI_USAGE, "'%s' is no name of a model in the models folder", name);
    int code = models_find(path, name);
    if (code)
        return code;
    if (!models_dir(dir) || strncmp(path, dir, strlen(dir)))
        return cli_fail(CLI_USAGE, "'%s' is no name of a model in the models folder", name);
    bool packed = packed_of_model(path, sha256);
    if (unlink(path))
        return cli_fail(CLI_NOPERM, "%s: %s", path, strerror(errno));
    if (packed)
        packed_remove(sha256);
    for (unsigned i = split_count(path); i > 1; i--) // the other parts go along
        if (split_part(part, sizeof part, path, i))
            unlink(part);
    char *chosen = models_chosen();
    if (chosen && is_chosen(chosen, strrchr(path, '/') + 1) && paths_get(config, PATHS_CONFIG, "model"))
        unlink(config);
    free(chosen);
    return done(cli, name, "removed", path);
}

int cmd_models(int argc, char **argv)
{
    struct cli cli = {
        .name = "models",
        .usage = "list | use NAME | rm NAME",
        .about = "Lists the models of the models folder with the memory they need for 4,096 tokens, chooses "
                 "the one that\n"
                 "'run' and hearthd use, or removes one.",
        .example = "hearth models use gemma3-270m",
        .min_args = 1,
        .max_args = 2,
    };
    int code = cli_parse(&cli, argc, argv);
    if (code < 0)
        code = cli_check_list_words(&cli, "use", "rm");
    if (code >= 0)
        return code;
    if (cli.n_args == 1)
        return list(&cli);
    return cli.args[0][0] == 'u' ? use(&cli, cli.args[1]) : remove_model(&cli, cli.args[1]);
}
