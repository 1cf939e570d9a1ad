// SPDX-License-Identifier: Apache-2.0
// SHA-256 of what is downloaded and of files. Any thread.
#ifndef HEARTH_TOOLS_HASH_H
#define HEARTH_TOOLS_HASH_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tools/progress.h"

enum { HASH_BYTES = 32, HASH_HEX = 65 };

struct hash;                    // a running SHA-256
struct hash *hash_create(void); // NULL: no memory
bool hash_add(struct hash *hash, const void *data, size_t len_bytes);
bool hash_end(struct hash **hash, char hex[HASH_HEX]); // frees it

// The whole file; `bar` may be NULL. False with errno set.
bool hash_file(const char *path, struct progress *bar, char hex[HASH_HEX]);
// 64 hexadecimal digits, any case; written in lower case. False if it is not that.
bool hash_parse(const char *text, size_t len_bytes, char hex[HASH_HEX]);
void hash_to_hex(const unsigned char bytes[HASH_BYTES], char hex[HASH_HEX]);

#endif
