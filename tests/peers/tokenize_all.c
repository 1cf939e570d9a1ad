// SPDX-License-Identifier: Apache-2.0
// tokenize_all MODEL: many texts through the tokenizer of a model file in one process, for
// test_tokenizers.py. On stdin each text as u32 length and bytes; on stdout for each u32 count, i32 ids, u32
// length and bytes of their decoding.
#include <stdio.h>
#include <stdlib.h>

#include "engine/gguf/gguf.h"
#include "engine/model/vocab.h"

static int stop(const struct hearth_error *err)
{
    fprintf(stderr, "tokenize_all: %s\n", err->text);
    return 1;
}

static int one(const struct ht_tokenizer *tokenizer, uint32_t len_bytes)
{
    struct hearth_error err = {0};
    struct ht_tokens tokens = {0};
    size_t back;
    char *text = malloc(len_bytes + 1);
    if (!text || fread(text, 1, len_bytes, stdin) != len_bytes)
        return 1;
    const struct ht_segment segment = {text, len_bytes, HT_ORIGIN_USER, false, 0};
    if (ht_tokenizer_encode(tokenizer, &segment, 1, 0, &tokens, &err))
        return stop(&err);
    uint32_t n = (uint32_t)tokens.n;
    int32_t *ids = malloc((n + 1) * sizeof *ids);
    for (size_t i = 0; ids && i < n; i++)
        ids[i] = tokens.items[i].id;
    if (!ids || ht_tokenizer_decode(tokenizer, ids, n, false, NULL, 0, &back, &err))
        return stop(&err);
    char *out = malloc(back + 1);
    if (!out || ht_tokenizer_decode(tokenizer, ids, n, false, out, back, &back, &err))
        return stop(&err);
    uint32_t back_bytes = (uint32_t)back;
    fwrite(&n, 4, 1, stdout);
    fwrite(ids, 4, n, stdout);
    fwrite(&back_bytes, 4, 1, stdout);
    fwrite(out, 1, back, stdout);
    ht_tokens_free(&tokens);
    free(text);
    free(ids);
    free(out);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    struct ht_gguf *gguf;
    struct ht_tokenizer *tokenizer;
    struct hearth_error err = {0};
    if (ht_gguf_open(&gguf, argv[1], &err) || ht_vocab_load(gguf, &tokenizer, &err))
        return stop(&err);
    int code = 0;
    for (uint32_t len_bytes; !code && fread(&len_bytes, 4, 1, stdin) == 1;)
        code = one(tokenizer, len_bytes);
    ht_tokenizer_destroy(&tokenizer);
    ht_gguf_close(&gguf);
    return code;
}
