// SPDX-License-Identifier: Apache-2.0
// One JSON value as a line on stdout: what every command prints with --json. Main thread.
#ifndef HEARTH_TOOLS_JSON_LINE_H
#define HEARTH_TOOLS_JSON_LINE_H
#include <jansson.h>

// Takes the reference; NULL = memory ran out making it. `flags`: jansson's, added to JSON_COMPACT. An exit code, the
// reason of a failure told on stderr.
int json_line(json_t *value, size_t flags);

#endif
