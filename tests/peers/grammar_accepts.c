// SPDX-License-Identifier: Apache-2.0
// Reads stdin by a grammar: "complete", "begun" or "refused at byte N". Tokens are the model's.
//   grammar_accepts MODEL GRAMMAR_FILE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model/session.h"

enum { MAX_BYTES = 1 << 16 };

static size_t slurp(FILE *f, char *bytes)
{
    size_t n = f ? fread(bytes, 1, MAX_BYTES, f) : 0;
    if (f && f != stdin)
        fclose(f);
    return n;
}

int main(int argc, char **argv)
{
    static char grammar[MAX_BYTES], text[MAX_BYTES];
    static int32_t ids[MAX_BYTES];
    struct hearth_engine *e;
    struct hearth_error err;
    struct ht_grammar *g;
    struct ht_matcher *m;
    if (argc != 3)
        return 2;
    size_t n_grammar = slurp(fopen(argv[2], "rb"), grammar), n_text = slurp(stdin, text), n = 0, at = 0;
    if (hearth_engine_open(&e, &(struct hearth_engine_params){.model_path = argv[1], .vocab_only = true},
                           &err) ||
        ht_trie_create(&e->trie, e->tokenizer, &err) || ht_grammar_from_gbnf(&g, grammar, n_grammar, &err) ||
        ht_matcher_create(&m, &g, e->trie, e->tokenizer, (uint32_t)ht_tokenizer_n_tokens(e->tokenizer), NULL,
                          0, &err) ||
        hearth_tokenize(e, text, n_text, 0, ids, MAX_BYTES, &n, &err))
        return fprintf(stderr, "%s\n", err.text), 1;
    for (size_t i = 0; i < n; i++) {
        if (!ht_matcher_take(m, ids[i]))
            return printf("refused at byte %zu\n", at), 0;
        at += ht_tokenizer_piece(e->tokenizer, ids[i], false).len_bytes;
    }
    puts(ht_matcher_is_complete(m) ? "complete" : "begun");
    ht_matcher_destroy(&m);
    hearth_engine_close(&e);
    return 0;
}
