// SPDX-License-Identifier: Apache-2.0
// JSON texts as values, whole or not at all. Pure; any thread.
//
// Where memory runs out jansson takes a text for a wrong one, or goes on without a byte of a string, a member, an
// element. errno remembers: who sets it to 0 before the first call and finds ENOMEM after the last one has nothing
// whole.
#ifndef HT_JSON_READ_H
#define HT_JSON_READ_H
#include <jansson.h>

// Watches the library's memory from now on; the first ht_json_read does it by itself. See hearth_json_watch.
void ht_json_watch(void);
// NULL: the text is wrong and *error (may be NULL) tells where, or memory ran out and errno is ENOMEM; else errno stays
// as it was.
json_t *ht_json_read(const char *text, size_t len_bytes, size_t flags, json_error_t *error);
// How often the library found no memory in this thread. Asked before something is built and behind it: the same number
// tells that it is whole.
size_t ht_json_losses(void);

#endif
