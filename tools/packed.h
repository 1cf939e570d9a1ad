// SPDX-License-Identifier: Apache-2.0
// The folder with files of packed weights ($XDG_CACHE_HOME/hearth/packed), which hearthd of the same user shares.
// Main thread.
#ifndef HEARTH_TOOLS_PACKED_H
#define HEARTH_TOOLS_PACKED_H
#include "tools/models.h"

// What --packed-cache gives an engine to read: the folder, and the model's SHA-256 where it is remembered; it is not
// computed, which would take longer than packing. False: nothing to read.
bool packed_wanted(const char *model_path, char dir[PATHS_MAX], char sha256[HASH_HEX]);
// Writes the file for next time, unless it was read; a line on stderr when that fails. *took_ms may be NULL; 0: nothing
// was written.
void packed_keep(const struct hearth_engine *engine, const struct model_options *options, double *took_ms);
// Before a model is removed: finds what there is of it; remove it with packed_remove. False: nothing.
bool packed_of_model(const char *model_path, char sha256[HASH_HEX]);
void packed_remove(const char *sha256);
// What the folder holds.
struct hearth_packed_size packed_size(char dir[PATHS_MAX]);

#endif
