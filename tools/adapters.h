// SPDX-License-Identifier: Apache-2.0
// --adapter A[:scale]: adapters that a command answers with. Main thread.
#ifndef HEARTH_TOOLS_ADAPTERS_H
#define HEARTH_TOOLS_ADAPTERS_H
#include "engine/learn.h"
#include "tools/cli.h"
#include "tools/paths.h"

struct adapters {
    struct hearth_adapter_use uses[CLI_LIST_MAX];
    size_t n;
};
// Opens each word; with a base they are checked against it. None may be the file `out`, which will be written (NULL:
// none will). At most CLI_LIST_MAX words. adapters_close in any case.
int adapters_open(struct adapters *adapters, const char *const *words, size_t n_words,
                  const struct hearth_adapter_base *base, const char *out);
void adapters_close(struct adapters *adapters);
// Of a folder of `hearth train` the path of its adapter; else `path` as it is. Up to PATHS_MAX bytes in *found.
const char *adapters_path(char found[PATHS_MAX], const char *path);

// Opens each (a GGUF file, a PEFT folder, or a folder of `hearth train`), checks it against the engine's model, which
// is the file that `model` names, and loads their sum. No words: *id = 0. CLI_OK, or an exit code after one line.
int adapters_load(struct hearth_engine *engine, const char *model, const struct cli_list *words, unsigned *id);

#endif
