// SPDX-License-Identifier: Apache-2.0
// The one rule for well-formed UTF-8 (RFC 3629: no surrogates, no overlong forms, at most U+10FFFF). Pure; any thread.
#ifndef HT_UTF8_H
#define HT_UTF8_H
#include <stddef.h>

// Bytes [1..4] of the well-formed character at `text`; -1 if none can begin there; 0 if more bytes are needed to tell.
int ht_utf8_scan(const void *text, size_t len_bytes);
// Bytes [1..4] of the well-formed character at `text`, or 0 if there is none in the len_bytes left.
size_t ht_utf8_char(const void *text, size_t len_bytes);
// Writes a character (no surrogate, at most U+10FFFF); returns its bytes [1..4].
size_t ht_utf8_put(unsigned ch, unsigned char *out);
_Bool ht_utf8_valid(const void *text, size_t len_bytes);

#endif
