// SPDX-License-Identifier: Apache-2.0
// JSON as commands print it: whole, or not at all and told. Main thread.
//
// Where memory runs out jansson leaves out what could not be added, and ends the program where it cannot keep the byte
// behind a backslash. So its memory is watched and has a reserve.
#ifndef HEARTH_TOOLS_JSON_LINE_H
#define HEARTH_TOOLS_JSON_LINE_H
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

// Once, before any JSON and any thread.
void json_begin(void);
// Whether all that was read and built since the last json_put was given memory.
bool json_whole(void);
// The value and a line end into `out`; nothing, and false, where it may lack something (NULL is none). `flags`:
// jansson's. What the stream does not take, ferror tells.
bool json_put(const json_t *value, FILE *out, size_t flags);
// The same on stdout, as what every command prints with --json. Takes the reference; `flags` are added to JSON_COMPACT.
// An exit code, the reason of a failure told on stderr.
int json_line(json_t *value, size_t flags);

#endif
