// SPDX-License-Identifier: Apache-2.0
// JSON values as text, whole or not at all, and back. Pure; any thread.
#ifndef HD_JSON_TEXT_H
#define HD_JSON_TEXT_H
#include <jansson.h>

// Once, at the start: jansson's memory is watched, and has the daemon's reserve behind it, too: the library ends the
// process where what it cannot keep of a text is the byte behind a backslash.
void hd_json_begin(void);
// How often the library found no memory in this thread, the reserve used up: a value that is built meanwhile may lack
// something.
size_t hd_json_losses(void);
// malloc'ed and NUL-terminated; NULL when memory runs out, or value is NULL. Flags as json_dumps takes them, whose text
// lacks a byte where its buffer could not grow behind a key.
char *hd_json_text(const json_t *value, size_t flags);
// NULL: the text is wrong and *error tells where, or, with errno ENOMEM, memory ran out: json_loadb then takes it for a
// wrong text, or goes on without a byte of a string.
json_t *hd_json_read(const char *text, size_t len_bytes, size_t flags, json_error_t *error);

#endif
