// SPDX-License-Identifier: Apache-2.0
// Finds the parts of a JSON text without copying it: for tools, calls and schemas that go into prompts as they are
// spelt. Any thread; nothing is allocated.
#ifndef HT_JSON_H
#define HT_JSON_H
#include <stdbool.h>
#include <stddef.h>

enum ht_json_end { HT_JSON_WHOLE = 0, HT_JSON_CUT, HT_JSON_BAD };

// The value that begins at text (blanks before it are passed over): *used = bytes up to its end. CUT: the text ends
// inside it; a number at the very end counts as cut. Structure, strings' quotes and escapes are checked, digits are
// not.
enum ht_json_end ht_json_value(const char *text, size_t len_bytes, size_t *used);

// The parts of a whole array or object, one after the other.
struct ht_json_part {
    const char *key; // of an object: between its quotes, as spelt
    size_t key_len_bytes;
    const char *value;
    size_t value_len_bytes;
};
struct ht_json_walk {
    const char *at, *end;
    bool object, bad;
};
// False when it is neither array nor object.
bool ht_json_walk_begin(struct ht_json_walk *walk, const char *text, size_t len_bytes);
// False at the end; then `bad` tells whether something was wrong.
bool ht_json_walk_next(struct ht_json_walk *walk, struct ht_json_part *part);
// The value of a key of a whole object; false if it has none.
bool ht_json_find(const char *text, size_t len_bytes, const char *key, struct ht_json_part *part);

#endif
