// SPDX-License-Identifier: Apache-2.0
// --adapter A[:scale]: adapters that a command answers with. Main thread.
#ifndef HEARTH_TOOLS_ADAPTERS_H
#define HEARTH_TOOLS_ADAPTERS_H
#include "engine/learn.h"
#include "tools/cli.h"

struct adapters {
    struct hearth_adapter_use uses[CLI_LIST_MAX];
    size_t n;
};
// Opens each word; with a base they are checked against it. At most CLI_LIST_MAX words. adapters_close in any case.
int adapters_open(struct adapters *adapters, const char *const *words, size_t n_words,
                  const struct hearth_adapter_base *base);
void adapters_close(struct adapters *adapters);

// Opens each (a GGUF file, a PEFT folder, or a folder of `hearth train`), checks it against the engine's model, which
// is the file that `model` names, and loads their sum. No words: *id = 0. CLI_OK, or an exit code after one line.
int adapters_load(struct hearth_engine *engine, const char *model, const struct cli_list *words, unsigned *id);

#endif
