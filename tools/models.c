// SPDX-License-Identifier: Apache-2.0
// Finding a model's file by what a person calls it, and opening it. Main thread.
#include "tools/models.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "tools/packed.h"
#include "tools/progress.h"

enum { NAME_MAX_BYTES = 255, LIST_CONTEXT = 4096 };

bool models_dir(char path[PATHS_MAX])
{
    return paths_get(path, PATHS_CACHE, "models");
}

bool models_catalogue_path(char path[PATHS_MAX], const struct catalogue_model *model)
{
    char dir[PATHS_MAX];
    return models_dir(dir) && paths_join(path, dir, model->file);
}

uint64_t models_memory(const struct cli *cli, const char *path)
{
    struct hearth_fit fit;
    const struct hearth_engine_params params = {
        .model_path = path, .device = cli->device, .n_threads = (unsigned)cli->n_threads};
    if (hearth_engine_fit(&params, &fit, NULL))
        return 0;
    uint64_t n = fit.n_ctx_train && fit.n_ctx_train < LIST_CONTEXT ? fit.n_ctx_train : LIST_CONTEXT;
    return fit.weight_bytes + n * fit.kv_bytes_per_position + fit.scratch_bytes;
}

char *models_chosen(void)
{
    char path[PATHS_MAX];
    if (!paths_get(path, PATHS_CONFIG, "model"))
        return NULL;
    char *name = paths_read(path, PATHS_MAX);
    if (name)
        name[strcspn(name, "\r\n")] = 0;
    if (name && !name[0]) {
        free(name);
        name = NULL;
    }
    return name;
}

// A word without a slash: a file of the models folder, with or without ".gguf".
static bool find_in_folder(char path[PATHS_MAX], const char *name)
{
    char dir[PATHS_MAX], file[NAME_MAX_BYTES + 8];
    if (strchr(name, '/') || strlen(name) > NAME_MAX_BYTES || !models_dir(dir))
        return false;
    if (paths_join(path, dir, name) && paths_is_file(path))
        return true;
    snprintf(file, sizeof file, "%s.gguf", name);
    return paths_join(path, dir, file) && paths_is_file(path);
}

static int find_named(char path[PATHS_MAX], const char *name)
{
    const struct catalogue_model *known = catalogue_find(name);
    if (known) {
        if (!models_catalogue_path(path, known))
            return CLI_CONFIG;
        if (paths_is_file(path))
            return CLI_OK;
        return cli_fail(CLI_NOINPUT, "the model '%s' is not here yet: hearth pull %s", name, known->name);
    }
    if (find_in_folder(path, name))
        return CLI_OK;
    if (strlen(name) >= PATHS_MAX)
        return cli_fail(CLI_NOINPUT, "the model's path is too long");
    if (paths_is_dir(name))
        return cli_fail(CLI_NOINPUT, "%s: is a folder, not a model file", name);
    memcpy(path, name, strlen(name) + 1);
    if (!paths_is_file(path))
        return cli_fail(CLI_NOINPUT, "%s: no such model (see: hearth models list)", name);
    return CLI_OK;
}

int models_find(char path[PATHS_MAX], const char *name)
{
    if (name)
        return find_named(path, name);
    char *chosen = models_chosen();
    int code = find_named(path, chosen ? chosen : catalogue[0].name);
    free(chosen);
    return code;
}

// Where a file's hash is remembered, and how the line begins that is true of it. False: no cache folder.
static bool memory_of(const struct stat *st, char file[PATHS_MAX], char line[128])
{
    char folder[PATHS_MAX], name[64];
    snprintf(name, sizeof name, "%llx-%llx", (unsigned long long)st->st_dev, (unsigned long long)st->st_ino);
    snprintf(line, 128, "%lld %lld.%09ld %lld.%09ld ", (long long)st->st_size, (long long)st->st_mtim.tv_sec,
             st->st_mtim.tv_nsec, (long long)st->st_ctim.tv_sec, st->st_ctim.tv_nsec);
    if (!paths_get(folder, PATHS_CACHE, "") || (mkdir(folder, 0700) && errno != EEXIST))
        return false;
    return paths_get(folder, PATHS_CACHE, "sha256") && (!mkdir(folder, 0700) || errno == EEXIST) &&
           paths_join(file, folder, name);
}

static bool remembered(const char *file, const char *line, char hex[HASH_HEX])
{
    size_t n = strlen(line);
    char *known = paths_read(file, n + HASH_HEX);
    bool good = known && !strncmp(known, line, n) && hash_parse(known + n, strlen(known + n), hex);
    free(known);
    return good;
}

bool models_sha256_known(const char *path, char hex[HASH_HEX])
{
    struct stat st;
    char file[PATHS_MAX], line[128];
    hex[0] = 0;
    return !stat(path, &st) && memory_of(&st, file, line) && remembered(file, line, hex);
}

bool models_sha256(const char *path, char hex[HASH_HEX])
{
    struct stat st, after;
    char file[PATHS_MAX], line[128 + HASH_HEX];
    hex[0] = 0;
    if (stat(path, &st))
        return false;
    bool memory = memory_of(&st, file, line);
    size_t n = strlen(line);
    if (memory && remembered(file, line, hex))
        return true;
    if (!hash_file(path, NULL, hex))
        return false;
    // What was written just now may be written again within one tick of its clock.
    bool steady = !stat(path, &after) && after.st_size == st.st_size && after.st_mtim.tv_sec == st.st_mtim.tv_sec &&
                  after.st_mtim.tv_nsec == st.st_mtim.tv_nsec && time(NULL) > st.st_ctim.tv_sec + 2;
    if (memory && steady) {
        memcpy(line + n, hex, HASH_HEX);
        (void)paths_replace(file, line, strlen(line), 0600); // without it, it is computed again
    }
    return true;
}

bool models_kv(const char *text, enum hearth_kv_type *kv)
{
    if (!text)
        *kv = HEARTH_KV_DEFAULT;
    else if (!strcmp(text, "f32"))
        *kv = HEARTH_KV_F32;
    else if (!strcmp(text, "f16"))
        *kv = HEARTH_KV_F16;
    else if (!strcmp(text, "q8"))
        *kv = HEARTH_KV_Q8;
    else
        return false;
    return true;
}

static bool on_load(void *user, double done)
{
    struct progress *bar = user;
    progress_set(bar, (uint64_t)(done * (double)bar->total));
    return true;
}

static int check_template(const struct cli *cli, const char *name)
{
    char names[1024] = "raw";
    if (!name || !strcmp(name, "raw") || !strcmp(name, "none"))
        return CLI_OK;
    for (const char *const *known = hearth_chat_template_names(); *known; known++) {
        if (!strcmp(name, *known))
            return CLI_OK;
        snprintf(names + strlen(names), sizeof names - strlen(names), " %s", *known);
    }
    return cli_wrong(cli, "no template '%s'; known: %s", name, names);
}

int models_open(struct hearth_engine **engine, const struct cli *cli, const struct model_options *options)
{
    char path[PATHS_MAX], dir[PATHS_MAX], sha256[HASH_HEX];
    struct progress bar;
    struct hearth_error err = {0};
    struct hearth_engine_params params = {
        .model_path = path,
        .device = cli->device,
        .n_threads = (unsigned)cli->n_threads,
        .n_ctx = (unsigned)options->n_ctx,
        .max_sessions = (unsigned)options->max_sessions,
        .exact = options->exact,
        .cpu_isa = options->cpu_isa,
        .vocab_only = options->vocab_only,
        .chat_template = options->chat_template,
        .progress = on_load,
        .progress_user = &bar,
    };
    *engine = NULL;
    if (!models_kv(options->kv, &params.kv))
        return cli_wrong(cli, "--kv wants f16, q8 or f32, not '%s'", options->kv);
    int code = check_template(cli, options->chat_template);
    if (!code)
        code = models_find(path, options->model);
    if (code)
        return code;
    struct hearth_fit fit;
    // A vocabulary needs no device, but one that was asked for by name must be there.
    if (options->vocab_only && strcmp(cli->device, "auto") && strcmp(cli->device, "cpu") &&
        hearth_engine_fit(&params, &fit, &err))
        return cli_fail_status(&err);
    if (options->packed_cache && packed_wanted(path, dir, sha256)) {
        params.packed_dir = dir;
        params.base_sha256 = sha256;
    }
    struct stat st;
    progress_start(&bar, "loading", 0, stat(path, &st) ? 0 : (uint64_t)st.st_size);
    enum hearth_status status = hearth_engine_open(engine, &params, &err);
    progress_end(&bar);
    if (status)
        return cli_fail_status(&err);
    struct hearth_engine_info info;
    hearth_engine_get_info(*engine, &info);
    if (info.packed == HEARTH_PACKED_REFUSED)
        cli_note("packed weights were left out: %s", info.packed_problem);
    return CLI_OK;
}
