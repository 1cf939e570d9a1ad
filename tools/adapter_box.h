// SPDX-License-Identifier: Apache-2.0
// hearth adapter list, use, off, rm, import --name and export NAME FILE: the adapters of the running box. Main thread.
#ifndef HEARTH_TOOLS_ADAPTER_BOX_H
#define HEARTH_TOOLS_ADAPTER_BOX_H
#include "tools/cli.h"

struct adapter_box_words {
    const char *person; // NULL = whoever has made no choice
    const char *name;   // with import: what the box calls it
    double scale;
};
bool adapter_box_is_verb(const char *verb);
int adapter_box(const struct cli *cli, const struct adapter_box_words *words);
// Gives a GGUF-LoRA file to the box.
int adapter_box_import(const struct cli *cli, const struct adapter_box_words *words, const char *path);
// Writes an adapter of the box as a GGUF-LoRA file, readable by this user alone; what stood there is replaced whole.
int adapter_box_export(const struct cli *cli, const char *name, const char *path);

#endif
