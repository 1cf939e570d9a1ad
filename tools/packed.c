// SPDX-License-Identifier: Apache-2.0
// Files of packed weights beside the models. Main thread.
#include "tools/packed.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>

#include "tools/ask.h"
#include "tools/progress.h"

static bool folder(char dir[PATHS_MAX])
{
    return paths_get(dir, PATHS_CACHE, "packed");
}

bool packed_wanted(const char *model_path, char dir[PATHS_MAX], char sha256[HASH_HEX])
{
    return models_sha256_known(model_path, sha256) && folder(dir);
}

static bool go_on(void *user)
{
    (void)user;
    return !ask_interrupted();
}

// Ctrl-C: where the answer was to be stopped it was only noted.
static enum hearth_status write_file(const struct hearth_engine *engine, const char *dir, const char *sha256,
                                     struct hearth_error *err)
{
    ask_watch_interrupt(); // the temporary goes
    enum hearth_status status = hearth_engine_write_packed(engine, dir, sha256, go_on, NULL, err);
    signal(SIGINT, SIG_DFL);
    return status;
}

void packed_keep(const struct hearth_engine *engine, const struct model_options *options, double *took_ms)
{
    char path[PATHS_MAX], dir[PATHS_MAX], sha256[HASH_HEX];
    struct hearth_engine_info info;
    struct hearth_error err = {0};
    if (took_ms)
        *took_ms = 0;
    hearth_engine_get_info(engine, &info);
    if (!options->packed_cache || info.packed == HEARTH_PACKED_READ || models_find(path, options->model) ||
        !folder(dir) || !paths_make_parent(dir))
        return;
    if (mkdir(dir, 0700) && errno != EEXIST) {
        cli_note("%s: %s: packed weights are not kept", dir, strerror(errno));
        return;
    }
    signal(SIGINT, SIG_DFL); // this leaves nothing behind
    if (!models_sha256(path, sha256)) {
        cli_note("%s: %s: packed weights are not kept", path, strerror(errno));
        return;
    }
    double start_s = progress_clock_s();
    enum hearth_status status = write_file(engine, dir, sha256, &err);
    if (status == HEARTH_OK && took_ms)
        *took_ms = (progress_clock_s() - start_s) * 1e3;
    if (status != HEARTH_OK && status != HEARTH_CANCELED && status != HEARTH_BUSY) // busy: another process keeps them
        cli_note("packed weights are not kept: %s", err.text);
}

bool packed_of_model(const char *model_path, char sha256[HASH_HEX])
{
    char dir[PATHS_MAX];
    struct hearth_packed_size size = packed_size(dir);
    return size.n_files && models_sha256(model_path, sha256);
}

void packed_remove(const char *sha256)
{
    char dir[PATHS_MAX];
    struct hearth_error err = {0};
    if (folder(dir) && hearth_packed_remove(dir, sha256, &err))
        cli_note("%s", err.text);
}

struct hearth_packed_size packed_size(char dir[PATHS_MAX])
{
    struct hearth_packed_size size = {0};
    if (folder(dir))
        (void)hearth_packed_measure(dir, NULL, &size, NULL); // a folder that cannot be read holds nothing for us
    return size;
}
