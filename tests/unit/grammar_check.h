// SPDX-License-Identifier: Apache-2.0
// Shared by the grammar tests: grammars on a vocabulary that has a token for each byte and a few longer ones.
#ifndef GRAMMAR_CHECK_H
#define GRAMMAR_CHECK_H
#include "engine/text/grammar.h"
#include "tests/unit/tiny_vocab.h"

enum { BYTE_0 = 4, END_ID = 2, TINY_N_VOCAB = 271, TINY_WORDS = (TINY_N_VOCAB + 31) / 32 };

static struct ht_tokenizer *tiny_tokenizer;
static struct ht_trie *tiny_trie;

static inline void grammar_setup(void)
{
    struct hearth_error err;
    struct tiny *t = tiny_bytes("default");
    tiny_add(t, "abababababababab", HT_TOKEN_NORMAL, 0);     // 16: the longest that counts as plain
    tiny_add(t, "abababababababababab", HT_TOKEN_NORMAL, 0); // 20
    tiny_tokenizer = tiny_build(t);
    if (ht_trie_create(&tiny_trie, tiny_tokenizer, &err))
        fail_msg("%s", err.text);
}

static inline void grammar_teardown(void)
{
    ht_trie_destroy(&tiny_trie);
    ht_tokenizer_destroy(&tiny_tokenizer);
}

// NULL: refused, and *err says why.
static inline struct ht_matcher *grammar_open(const char *text, size_t len, bool schema,
                                              struct hearth_error *err)
{
    struct ht_grammar *g;
    struct ht_matcher *m;
    enum hearth_status status =
        schema ? ht_grammar_from_json_schema(&g, text, len, err) : ht_grammar_from_gbnf(&g, text, len, err);
    if (status) {
        assert_null(g);
        assert_int_equal(status, err->code);
        return NULL;
    }
    if (ht_matcher_create(&m, &g, tiny_trie, tiny_tokenizer, TINY_N_VOCAB, NULL, 0, err)) {
        assert_null(m);
        return NULL;
    }
    return m;
}

static inline bool has(const uint32_t *mask, int32_t id)
{
    return mask[id / 32] >> id % 32 & 1;
}

// How far the text can be read; *complete: it may end there.
static inline size_t grammar_read(struct ht_matcher *m, const char *text, size_t len, bool *complete)
{
    size_t n = 0;
    while (n < len && ht_matcher_take(m, BYTE_0 + (unsigned char)text[n]))
        n++;
    *complete = ht_matcher_is_complete(m);
    return n;
}

#endif
