// SPDX-License-Identifier: Apache-2.0
// libFuzzer entry of grammars, on the vocabulary of a tiny model. First byte: even = GBNF, odd = JSON schema; the
// grammar up to the next zero byte; then each byte chooses one of the allowed tokens. What a mask allows can be taken,
// what it does not allow cannot, and a matcher that says it is finished allows nothing more.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model/session.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_STEPS = 24, MAX_WORDS = 64 };

static void follow(struct ht_matcher *m, uint32_t n_vocab, const uint8_t *choice, size_t n)
{
    uint32_t mask[MAX_WORDS];
    enum ht_allowed allowed;
    for (size_t i = 0; i < n && i < MAX_STEPS; i++) {
        bool finished = ht_matcher_is_finished(m);
        if (ht_matcher_mask(m, NULL, 0, mask, &allowed, NULL) != HEARTH_OK)
            return;
        if (finished != (allowed == HT_ALLOWED_END) && finished)
            abort();
        if (allowed != HT_ALLOWED_TOKENS)
            return;
        int32_t id = (int32_t)(choice[i] * 7u % n_vocab), first = id;
        do { // the next allowed one that is no end token; on the way, forbidden ones are refused
            id = (id + 1) % (int32_t)n_vocab;
            bool bit = mask[id / 32] >> id % 32 & 1, can = ht_matcher_allowed(m, &id, 1);
            if (can && !bit)
                abort();
            if (can)
                break;
        } while (id != first);
        if (!ht_matcher_take(m, id))
            abort(); // some token was allowed
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct hearth_engine *e;
    struct hearth_engine_params params = {.model_path = "tests/golden/tiny-llama.gguf", .vocab_only = true};
    if (!e && (hearth_engine_open(&e, &params, NULL) != HEARTH_OK ||
               ht_trie_create(&e->trie, e->tokenizer, NULL) != HEARTH_OK))
        abort();
    uint32_t n_vocab = (uint32_t)ht_tokenizer_n_tokens(e->tokenizer);
    if (!size || n_vocab > 32 * MAX_WORDS)
        return 0;
    const uint8_t *text = data + 1, *end = memchr(text, 0, size - 1);
    size_t len = end ? (size_t)(end - text) : size - 1;
    struct ht_grammar *g;
    struct ht_matcher *m;
    struct hearth_error err = {.text = ""};
    enum hearth_status status = data[0] & 1 ? ht_grammar_from_json_schema(&g, (const char *)text, len, &err)
                                            : ht_grammar_from_gbnf(&g, (const char *)text, len, &err);
    if (status != HEARTH_OK) {
        if (g || !err.text[0] || err.code != status)
            abort();
        return 0;
    }
    if (ht_matcher_create(&m, &g, e->trie, e->tokenizer, n_vocab, NULL, 0, &err) == HEARTH_OK && end)
        follow(m, n_vocab, end + 1, size - len - 2);
    ht_matcher_destroy(&m);
    return 0;
}
