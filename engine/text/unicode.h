// SPDX-License-Identifier: Apache-2.0
// Code points and their classes, as the pre-tokenizers' patterns use them (\p{L}, \p{N}, \p{P}, \s). Any
// thread.
#ifndef HT_UNICODE_H
#define HT_UNICODE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum ht_uc { HT_UC_OTHER = 0, HT_UC_LETTER, HT_UC_NUMBER, HT_UC_SPACE, HT_UC_PUNCTUATION };

// The class of a code point by Unicode 16; white space wins over category.
enum ht_uc ht_uc_class(uint32_t code_point);
// "Numeric" as the Digits pre-tokenizer means it: HT_UC_NUMBER and the digits that Unicode 17 added.
bool ht_uc_is_numeric(uint32_t code_point);

enum { HT_NOT_UTF8 = 0xFFFD }; // what an invalid byte counts as
// The character at s (n > 0 bytes left): its bytes, and the code point. An invalid byte: 1 and HT_NOT_UTF8.
size_t ht_uc_next(const unsigned char *s, size_t n, uint32_t *code_point);

#endif
