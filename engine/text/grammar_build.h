// SPDX-License-Identifier: Apache-2.0
// Inside of the grammar code: expressions that the readers (GBNF, JSON schema) build, and the automaton they become.
//
// A builder keeps its first failure; after it every call gives the empty expression, so that calls nest without
// checks and the failure is looked at once, at the end. Children are made before their parents and are used once:
// what is needed in two places is a rule. Owned by one thread.
#ifndef HT_GRAMMAR_BUILD_H
#define HT_GRAMMAR_BUILD_H
#include "engine/base/limits.h"
#include "engine/text/grammar.h"

typedef uint32_t ht_expr; // index; 0 = the empty text
enum { HT_NO_END = UINT32_MAX };

enum ht_expr_kind {
    HT_EXPR_EMPTY = 0,
    HT_EXPR_LITERAL,
    HT_EXPR_CHARS,
    HT_EXPR_SEQ,
    HT_EXPR_ALT,
    HT_EXPR_REPEAT,
    HT_EXPR_RULE
};

struct ht_expr_item {
    uint8_t kind;
    // LITERAL: bytes[a .. a + b)   CHARS: ranges[a .. a + b)   SEQ, ALT: a then / or b (long ones grow in a)
    // REPEAT: a, from b to c times (HT_NO_END: any number)   RULE: rule a
    uint32_t a, b, c;
};

struct ht_char_range {
    uint32_t from, to; // code points, both included
};

enum { HT_RULE_NAME_BYTES = 48 };
struct ht_rule {
    char name[HT_RULE_NAME_BYTES]; // for messages; cut
    ht_expr body;
    bool defined;
    uint32_t line; // GBNF: where it was first named; 0 = none
};

struct ht_builder {
    enum hearth_status status;
    struct hearth_error *err;
    struct ht_expr_item *items;
    struct ht_char_range *ranges;
    unsigned char *bytes;
    struct ht_rule *rules;
    uint32_t n_items, n_ranges, n_bytes, n_rules;
    uint32_t cap_items, cap_ranges, cap_bytes, cap_rules;
};

void ht_builder_init(struct ht_builder *b, struct hearth_error *err);
void ht_builder_free(struct ht_builder *b);
// Keeps the first failure.
void ht_builder_fail(struct ht_builder *b, enum hearth_status code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

ht_expr ht_expr_literal(struct ht_builder *b, const void *bytes, size_t len_bytes);
ht_expr ht_expr_text(struct ht_builder *b, const char *text); // a literal, NUL-terminated
// One character of the ranges; sorted and merged here, surrogates taken out. No character at all: matches nothing.
ht_expr ht_expr_chars(struct ht_builder *b, const struct ht_char_range *ranges, size_t n, bool negated);
ht_expr ht_expr_seq(struct ht_builder *b, ht_expr first, ht_expr then);
ht_expr ht_expr_alt(struct ht_builder *b, ht_expr either, ht_expr or);
ht_expr ht_expr_nothing(
    struct ht_builder *b); // matches no text; in an alternative it disappears, a sequence becomes it
bool ht_expr_is_nothing(const struct ht_builder *b, ht_expr e);
ht_expr ht_expr_repeat(struct ht_builder *b, ht_expr body, uint32_t min, uint32_t max);
ht_expr ht_expr_optional(struct ht_builder *b, ht_expr body);
// A rule without a body yet; name may be NULL ("rule 12").
uint32_t ht_rule_new(struct ht_builder *b, const char *name, size_t len_bytes);
void ht_rule_set(struct ht_builder *b, uint32_t rule, ht_expr body);
ht_expr ht_expr_rule(struct ht_builder *b, uint32_t rule);

// ---------------------------------------------------------------- the automaton

enum ht_node_kind {
    HT_NODE_END = 0, // node 0: the rule or the repeated part is over
    HT_NODE_BYTES,   // a byte of set a, then next
    HT_NODE_FORK,    // a or next
    HT_NODE_CALL,    // entry of rule a, then next
    HT_NODE_REPEAT,  // node a, min to max times, then next
};

struct ht_node {
    uint32_t kind, a, next;
    uint32_t min, max; // max HT_NO_END: any number
    bool empty;        // REPEAT: the part may be the empty text (min is 0 then)
};

struct ht_grammar {
    struct ht_node *nodes;
    uint32_t n_nodes, cap_nodes;
    uint32_t *entry; // (n_rules)
    uint32_t n_rules, root;
    // Bytes that no set tells apart are one class; set_classes[set][class / 32] bit class % 32.
    uint32_t (*set_classes)[8];
    uint32_t n_sets, n_classes;
    uint8_t class_of[256];
};

// Checks what the builder holds (every rule defined, none left-recursive, each can end) and makes the automaton.
HT_MUST_USE enum hearth_status ht_grammar_compile(struct ht_grammar **grammar, struct ht_builder *b,
                                                  uint32_t root, struct hearth_error *err);
// The checks alone: nullable[i] = expression i may be the empty text.
HT_MUST_USE enum hearth_status ht_grammar_check(struct ht_builder *b, uint32_t root, bool *nullable,
                                                struct hearth_error *err);

#endif
