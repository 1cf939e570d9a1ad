// SPDX-License-Identifier: Apache-2.0
// Adapters by what a person calls them: path and scale, their sum on an engine. Main thread.
#include "tools/adapters.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/learn.h"
#include "tools/models.h"

// "path" or "path:scale"; what is there with the colon in its name is that.
static int split(const char *word, char path[PATHS_MAX], float *scale)
{
    struct stat st;
    const char *colon = strrchr(word, ':');
    size_t len = strlen(word);
    *scale = 1;
    if (colon && stat(word, &st)) {
        char *end;
        double value = strtod(colon + 1, &end);
        if (end == colon + 1 || *end || !isfinite((float)value))
            return cli_fail(CLI_USAGE, "--adapter wants PATH or PATH:SCALE, not '%s'", word);
        *scale = (float)value;
        len = (size_t)(colon - word);
    }
    if (!len || len >= PATHS_MAX)
        return cli_fail(CLI_NOINPUT, "the adapter's path is empty or too long");
    memcpy(path, word, len);
    path[len] = 0;
    return CLI_OK;
}

// PEFT's folder has its configuration.
const char *adapters_path(char found[PATHS_MAX], const char *path)
{
    if (!paths_is_dir(path) || !paths_join(found, path, "adapter_config.json") || paths_is_file(found))
        return path;
    return paths_join(found, path, "adapter.gguf") && paths_is_file(found) ? found : path;
}

static int open_one(struct adapters *adapters, const char *word, const struct hearth_adapter_base *base,
                    const char *out)
{
    char word_path[PATHS_MAX], found[PATHS_MAX];
    struct hearth_adapter *adapter;
    struct hearth_error err = {0};
    float scale;
    int code = split(word, word_path, &scale);
    if (code)
        return code;
    const char *path = adapters_path(found, word_path);
    if (out && paths_same(path, out))
        return cli_fail(CLI_USAGE, "%s is one of the adapters: name another file to write", out);
    if (hearth_adapter_open(&adapter, path, base, &err))
        return cli_fail_status(&err);
    adapters->uses[adapters->n++] = (struct hearth_adapter_use){adapter, scale};
    return CLI_OK;
}

// The base's hash is asked for only where an adapter tells its own.
static int load(struct hearth_engine *engine, const char *model, const struct adapters *adapters, unsigned *id)
{
    char path[PATHS_MAX], sha256[HASH_HEX];
    struct hearth_error err = {0};
    bool told = false;
    for (size_t i = 0; i < adapters->n; i++) {
        struct hearth_adapter_info info;
        hearth_adapter_get_info(adapters->uses[i].adapter, &info);
        told = told || info.base_sha256[0];
    }
    if (told) {
        int code = models_find(path, model);
        if (code)
            return code;
        if (!models_sha256(path, sha256))
            return cli_fail(CLI_NOINPUT, "cannot read %s: %s", path, strerror(errno));
    }
    if (hearth_engine_adapter_load(engine, adapters->uses, adapters->n, told ? sha256 : NULL, id, &err))
        return cli_fail_status(&err);
    return CLI_OK;
}

int adapters_open(struct adapters *adapters, const char *const *words, size_t n_words,
                  const struct hearth_adapter_base *base, const char *out)
{
    int code = CLI_OK;
    adapters->n = 0;
    for (size_t i = 0; i < n_words && !code; i++)
        code = open_one(adapters, words[i], base, out);
    return code;
}

void adapters_close(struct adapters *adapters)
{
    for (size_t i = 0; i < adapters->n; i++) {
        struct hearth_adapter *adapter = (struct hearth_adapter *)adapters->uses[i].adapter;
        hearth_adapter_close(&adapter);
    }
    adapters->n = 0;
}

int adapters_load(struct hearth_engine *engine, const char *model, const struct cli_list *words, unsigned *id)
{
    struct adapters adapters;
    *id = 0;
    int code = adapters_open(&adapters, words->items, words->n, NULL, NULL);
    if (!code && adapters.n)
        code = load(engine, model, &adapters, id);
    adapters_close(&adapters);
    return code;
}
