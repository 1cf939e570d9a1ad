// SPDX-License-Identifier: Apache-2.0
// Answers that follow a grammar. A grammar (GBNF rules or a JSON schema) becomes a push-down automaton over bytes, so
// that a token may cross rules and end inside a UTF-8 character. A matcher is one answer's place in it and tells which
// tokens may come next, exactly: a token is allowed if some text that the grammar accepts begins with the answer so
// far and the token's bytes; the end tokens are allowed if the answer is complete.
//
// Sizes and costs are bounded (HT_MAX_GRAMMAR_…, engine/base/limits.h). A grammar and a token trie never change once
// made: any thread. A matcher belongs to one thread at a time and takes all its memory when it is made.
#ifndef HT_GRAMMAR_H
#define HT_GRAMMAR_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/error.h"
#include "engine/text/tokenizer.h"

// ---------------------------------------------------------------- grammars

struct ht_grammar;

// GBNF, llama.cpp's dialect: rules `name ::= …` of "literals", [classes], [^negated], `.`, names, (groups), `|`, and
// * + ? {m} {m,} {m,n} {,n}; escapes \n \r \t \\ \" \[ \] \xHH \uHHHH \UHHHHHHHH (code points); # comments. The answer
// is what `root` stands for. INVALID names line, column and cause; UNSUPPORTED: token references `<…>`.
HT_MUST_USE enum hearth_status ht_grammar_from_gbnf(struct ht_grammar **grammar, const char *text,
                                                    size_t len_bytes, struct hearth_error *err);
// JSON schema; what of it is understood: docs/grammars.md. Empty text or `{}`: any JSON value. A keyword that is
// not understood is UNSUPPORTED, never ignored.
HT_MUST_USE enum hearth_status ht_grammar_from_json_schema(struct ht_grammar **grammar, const char *text,
                                                           size_t len_bytes, struct hearth_error *err);
void ht_grammar_destroy(struct ht_grammar **grammar);
size_t ht_grammar_size_bytes(const struct ht_grammar *grammar);

// ---------------------------------------------------------------- the vocabulary as a tree

struct ht_trie;

HT_MUST_USE enum hearth_status ht_trie_create(struct ht_trie **trie, const struct ht_tokenizer *tokenizer,
                                              struct hearth_error *err);
void ht_trie_destroy(struct ht_trie **trie);
size_t ht_trie_size_bytes(const struct ht_trie *trie);

// ---------------------------------------------------------------- matchers

struct ht_matcher;

// Takes the grammar over, also on failure (*grammar becomes NULL). trie and tokenizer must outlive the matcher.
// n_vocab: ids that a mask has bits for. end_ids: end tokens beside those of the tokenizer; n_end_ids ids.
HT_MUST_USE enum hearth_status ht_matcher_create(struct ht_matcher **matcher, struct ht_grammar **grammar,
                                                 const struct ht_trie *trie,
                                                 const struct ht_tokenizer *tokenizer, uint32_t n_vocab,
                                                 const int32_t *end_ids, uint32_t n_end_ids,
                                                 struct hearth_error *err);
void ht_matcher_destroy(struct ht_matcher **matcher);
size_t ht_matcher_size_bytes(const struct ht_matcher *matcher);

enum ht_allowed { HT_ALLOWED_NOTHING = 0, HT_ALLOWED_END, HT_ALLOWED_TOKENS };

// Which ids may come after the answer so far and then ids[0 .. n_ids), which must be allowed in that order. Bit
// id % 32 of mask[id / 32], (n_vocab + 31) / 32 words. *allowed: END = the end tokens only (if the vocabulary has
// any); NOTHING = a dead end: the grammar goes on where no token can. LIMIT: too many ways at once, or too deep.
HT_MUST_USE enum hearth_status ht_matcher_mask(struct ht_matcher *matcher, const int32_t *ids, uint32_t n_ids,
                                               uint32_t *mask, enum ht_allowed *allowed,
                                               struct hearth_error *err);
// How many of ids, from the first on, may follow one another after the answer so far (end tokens: none).
uint32_t ht_matcher_allowed(struct ht_matcher *matcher, const int32_t *ids, uint32_t n_ids);
// The id becomes part of the answer. False if the grammar forbids it (then nothing changes).
bool ht_matcher_take(struct ht_matcher *matcher, int32_t id);
// The answer is complete and nothing may follow.
bool ht_matcher_is_finished(const struct ht_matcher *matcher);
// The answer may end here.
bool ht_matcher_is_complete(const struct ht_matcher *matcher);

#endif
