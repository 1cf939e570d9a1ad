// SPDX-License-Identifier: Apache-2.0
// Names of split models: "model-00002-of-00003.gguf". Pure.
#ifndef HEARTH_TOOLS_SPLIT_H
#define HEARTH_TOOLS_SPLIT_H
#include <stdbool.h>
#include <stddef.h>

enum { SPLIT_MAX_PARTS = 1000 };

// How many parts the model of this name, or address, has; 0: it is not split.
unsigned split_count(const char *text);
// The same name or address with another part's number. False: it does not fit.
bool split_part(char *out, size_t size, const char *text, unsigned part);

#endif
