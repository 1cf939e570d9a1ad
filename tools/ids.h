// SPDX-License-Identifier: Apache-2.0
// Token ids as text. Main thread.
#ifndef HEARTH_TOOLS_IDS_H
#define HEARTH_TOOLS_IDS_H
#include <stddef.h>
#include <stdint.h>

// Ids separated by blanks (spaces, tabs, newlines, commas). *ids is allocated. CLI_OK, or an exit code after
// one line on stderr that names `where`.
int ids_parse(const char *text, size_t len_bytes, const char *where, int32_t **ids, size_t *n_ids);
int ids_read_file(const char *path, int32_t **ids, size_t *n_ids); // "-" = stdin
// {"text":"…"} on stdout; invalid UTF-8 becomes U+FFFD.
int ids_print_json_text(const char *text, size_t len_bytes);

#endif
