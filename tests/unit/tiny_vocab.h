// SPDX-License-Identifier: Apache-2.0
// Small made-up vocabularies for the tokenizer's tests, and texts through them.
#ifndef TINY_VOCAB_H
#define TINY_VOCAB_H
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "engine/text/tokenizer.h"

enum { TINY_MAX_TOKENS = 700, TINY_MAX_MERGES = 400, TINY_TEXT_BYTES = 24 };

struct tiny {
    struct ht_vocab_source source;
    struct ht_text tokens[TINY_MAX_TOKENS], merges[TINY_MAX_MERGES];
    float scores[TINY_MAX_TOKENS];
    int32_t types[TINY_MAX_TOKENS];
    char text[TINY_MAX_TOKENS][TINY_TEXT_BYTES]; // where token texts made here lie
};

// Adds a token (text is not copied); returns its id.
static inline int32_t tiny_add(struct tiny *t, const char *text, int type, float score)
{
    size_t i = t->source.n_tokens++;
    assert_true(i < TINY_MAX_TOKENS);
    t->tokens[i] = (struct ht_text){text, strlen(text)};
    t->types[i] = type;
    t->scores[i] = score;
    return (int32_t)i;
}

static inline void tiny_merge(struct tiny *t, const char *line)
{
    assert_true(t->source.n_merges < TINY_MAX_MERGES);
    t->merges[t->source.n_merges++] = (struct ht_text){line, strlen(line)};
}

static inline struct tiny *tiny_new(const char *model, const char *pre)
{
    struct tiny *t = calloc(1, sizeof *t);
    assert_non_null(t);
    t->source = (struct ht_vocab_source){.file = "tiny",
                                         .model = model,
                                         .pre = pre,
                                         .tokens = t->tokens,
                                         .scores = t->scores,
                                         .types = t->types,
                                         .merges = t->merges,
                                         .bos_id = -1,
                                         .eos_id = -1,
                                         .eot_id = -1,
                                         .eom_id = -1,
                                         .unk_id = -1,
                                         .pad_id = -1};
    return t;
}

// ids 0 <|im_start|>, 1 <|im_end|>, 2 <|endoftext|> (control), 3 "<ud>" (user-defined), 4 + b byte b, then
// the merged ones: 260 "ab", 261 "abc", 262 "cd", 263 " a", 264 "aa", 265 "aaaa", 266 "  ", 267 "é", 268
// "abcd"
static inline struct tiny *tiny_bytes(const char *pre)
{
    struct tiny *t = tiny_new("gpt2", pre);
    tiny_add(t, "<|im_start|>", HT_TOKEN_CONTROL, 0);
    tiny_add(t, "<|im_end|>", HT_TOKEN_CONTROL, 0);
    tiny_add(t, "<|endoftext|>", HT_TOKEN_CONTROL, 0);
    tiny_add(t, "<ud>", HT_TOKEN_USER_DEFINED, 0);
    for (int b = 0, next = 0x100; b < 256; b++) {
        unsigned c = (b > 0x20 && b < 0x7F) || (b > 0xA0 && b != 0xAD) ? (unsigned)b : (unsigned)next++;
        char *text = t->text[t->source.n_tokens];
        if (c < 0x80)
            text[0] = (char)c;
        else
            snprintf(text, TINY_TEXT_BYTES, "%c%c", (int)(0xC0 | c >> 6), (int)(0x80 | (c & 0x3F)));
        tiny_add(t, text, HT_TOKEN_NORMAL, 0);
    }
    static const char *const merged[] = {"ab", "abc", "cd", "Ġa", "aa", "aaaa", "ĠĠ", "Ã©", "abcd"};
    static const char *const merges[] = {"a b", "ab c", "c d", "Ġ a", "a a", "aa aa", "Ġ Ġ", "Ã ©", "ab cd"};
    for (size_t i = 0; i < sizeof merged / sizeof merged[0]; i++) {
        tiny_add(t, merged[i], HT_TOKEN_NORMAL, 0);
        tiny_merge(t, merges[i]);
    }
    t->source.eos_id = 2;
    return t;
}

// ids 0 <unk>, 1 <s>, 2 </s>, 3 + b byte b, 259 "▁", 260 a, 261 b, 262 ab, 263 ▁a, 264 ▁ab, 265 "<ud>"
// (user-defined), 266 "  " (user-defined), 267 x▁y, 268 x, 269 y, 270 abab (unused)
static inline struct tiny *tiny_pieces(void)
{
    struct tiny *t = tiny_new("llama", "default");
    tiny_add(t, "<unk>", HT_TOKEN_UNKNOWN, 0);
    tiny_add(t, "<s>", HT_TOKEN_CONTROL, 0);
    tiny_add(t, "</s>", HT_TOKEN_CONTROL, 0);
    for (int b = 0; b < 256; b++) {
        char *text = t->text[t->source.n_tokens];
        snprintf(text, TINY_TEXT_BYTES, "<0x%02X>", (unsigned)b);
        tiny_add(t, text, HT_TOKEN_BYTE, 0);
    }
    static const struct {
        const char *text;
        int type;
        float score;
    } pieces[] = {{"▁", 1, -9},   {"a", 1, -9},   {"b", 1, -9},   {"ab", 1, -1},
                  {"▁a", 1, -2},  {"▁ab", 1, -3}, {"<ud>", 4, 0}, {"  ", 4, 0},
                  {"x▁y", 1, -4}, {"x", 1, -9},   {"y", 1, -9},   {"abab", 5, -2}};
    for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++)
        tiny_add(t, pieces[i].text, pieces[i].type, pieces[i].score);
    t->source.unk_id = 0;
    t->source.bos_id = 1;
    t->source.eos_id = 2;
    return t;
}

// Builds the tokenizer and frees the vocabulary.
static inline struct ht_tokenizer *tiny_build(struct tiny *t)
{
    struct ht_tokenizer *tokenizer;
    struct hearth_error err = {0};
    if (ht_tokenizer_create(&tokenizer, &t->source, &err))
        fail_msg("%s", err.text);
    free(t);
    return tokenizer;
}

static inline struct ht_segment tiny_segment(const char *text, uint8_t origin)
{
    return (struct ht_segment){text, strlen(text), origin, origin == HT_ORIGIN_ASSISTANT, 0};
}

// What holds of every encoding: ranges join, cover the text and are in order.
static inline void tiny_check_ranges(const struct ht_tokens *tokens, size_t len_bytes)
{
    uint32_t at = 0;
    for (size_t i = 0; i < tokens->n; i++) {
        assert_int_equal(tokens->items[i].start, at);
        assert_true(tokens->items[i].end >= at);
        at = tokens->items[i].end;
    }
    if (tokens->n)
        assert_int_equal(at, len_bytes);
}

static inline struct ht_tokens tiny_encode(const struct ht_tokenizer *tokenizer,
                                           const struct ht_segment *segments, size_t n_segments,
                                           unsigned flags)
{
    struct ht_tokens tokens = {0};
    struct hearth_error err = {0};
    size_t len_bytes = 0;
    if (ht_tokenizer_encode(tokenizer, segments, n_segments, flags, &tokens, &err))
        fail_msg("%s", err.text);
    for (size_t i = 0; i < n_segments; i++)
        len_bytes += segments[i].len_bytes;
    tiny_check_ranges(&tokens, len_bytes);
    return tokens;
}

// Compares with "id id id".
static inline void tiny_expect_ids(const struct ht_tokens *tokens, const char *ids)
{
    char got[1024] = "";
    for (size_t i = 0, used = 0; i < tokens->n && used < sizeof got - 16; i++)
        used += (size_t)snprintf(got + used, sizeof got - used, i ? " %d" : "%d", tokens->items[i].id);
    assert_string_equal(got, ids);
}

static inline void tiny_expect(const struct ht_tokenizer *tokenizer, const char *text, uint8_t origin,
                               const char *ids)
{
    struct ht_segment segment = tiny_segment(text, origin);
    struct ht_tokens tokens = tiny_encode(tokenizer, &segment, 1, 0);
    tiny_expect_ids(&tokens, ids);
    ht_tokens_free(&tokens);
}

#endif
