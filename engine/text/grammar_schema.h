// SPDX-License-Identifier: Apache-2.0
// Inside of reading JSON schemas: what its parts share. Owned by one thread.
#ifndef HT_GRAMMAR_SCHEMA_H
#define HT_GRAMMAR_SCHEMA_H
#include <jansson.h>

#include "engine/text/grammar_build.h"

enum { HT_SCHEMA_PATH = 4 * HT_MAX_GRAMMAR_NESTING };

struct ht_schema_ref { // a schema that is a rule
    const json_t *schema;
    uint32_t rule;
};

struct ht_schema_reader {
    struct ht_builder b;
    json_t *root;
    json_t *made; // array: schemas made by merging, kept until the end
    struct ht_schema_ref *refs;
    uint32_t n_refs, cap_refs;
    // Rules used everywhere, 0 = not yet made (rule 0 is the answer itself)
    uint32_t character, string, number, integer, value, key;
    unsigned nesting;
    struct {
        const char *keyword;
        size_t index; // SIZE_MAX = none
    } path[HT_SCHEMA_PATH];
    unsigned n_path;
};

// Fails and names the place: "JSON schema: at #/properties/2/items: …". Returns the empty expression.
ht_expr ht_schema_fail(struct ht_schema_reader *r, enum hearth_status code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
bool ht_schema_ok(const struct ht_schema_reader *r);

// At most one blank or line end.
ht_expr ht_schema_blank(struct ht_schema_reader *r);
ht_expr ht_schema_digits(struct ht_schema_reader *r, char from, char to, uint32_t min, uint32_t max);

// grammar_schema_number.c
ht_expr ht_schema_integer(struct ht_schema_reader *r, const json_t *schema);
ht_expr ht_schema_number(struct ht_schema_reader *r, const json_t *schema);
// Digits of a finite double, as few as give it back; at least 32 bytes.
void ht_schema_print_real(double value, char *text, size_t capacity);

// grammar_schema_string.c
ht_expr ht_schema_string(struct ht_schema_reader *r, const json_t *schema);
uint32_t ht_schema_string_rule(struct ht_schema_reader *r);
// A key in quotes that is none of the properties' names.
ht_expr ht_schema_other_key(struct ht_schema_reader *r, const json_t *properties);
// grammar_schema_pattern.c: a regular expression over characters as they stand in a JSON string.
ht_expr ht_schema_pattern(struct ht_schema_reader *r, const char *pattern, size_t len_bytes);
uint32_t ht_schema_character_rule(struct ht_schema_reader *r);

// grammar_schema_merge.c
// The schema that holds where both do; NULL: failed. It lives as long as the reader.
json_t *ht_schema_merge(struct ht_schema_reader *r, json_t *a, json_t *b);
// What a $ref points to; NULL: failed.
json_t *ht_schema_resolve(struct ht_schema_reader *r, const json_t *ref);
// A copy without one keyword.
json_t *ht_schema_without(struct ht_schema_reader *r, json_t *schema, const char *keyword);
// No answer made for one of them holds for the other; false where that is not plain to see.
bool ht_schema_disjoint(struct ht_schema_reader *r, json_t *a, json_t *b, unsigned depth);
// Types that a schema allows or, without `type`, speaks of: bits.
enum {
    HT_JSON_NULL = 1,
    HT_JSON_BOOLEAN = 2,
    HT_JSON_INTEGER = 4,
    HT_JSON_NUMBER = 8,
    HT_JSON_STRING = 16,
    HT_JSON_ARRAY = 32,
    HT_JSON_OBJECT = 64,
    HT_JSON_ALL = 127,
};
unsigned ht_schema_types(struct ht_schema_reader *r, const json_t *schema);
// 0 = any, an annotation
bool ht_schema_is_annotation(const char *keyword);

#endif
