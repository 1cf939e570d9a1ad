// SPDX-License-Identifier: Apache-2.0
// Encoding and decoding with small vocabularies: merges, segments and their origins, byte ranges, round
// trips.
#include "tests/unit/tiny_vocab.h"

#define N(list) (sizeof(list) / sizeof(list)[0])

static void byte_level_merges(void **state)
{
    (void)state;
    struct ht_tokenizer *t = tiny_build(tiny_bytes("gpt-2"));
    tiny_expect(t, "", HT_ORIGIN_USER, "");
    tiny_expect(t, "ab", HT_ORIGIN_USER, "260");
    tiny_expect(t, "abc", HT_ORIGIN_USER, "261");
    tiny_expect(t, "abcd", HT_ORIGIN_USER, "261 104"); // "ab c" ranks before "c d", so "abc" + "d"
    tiny_expect(t, "cd", HT_ORIGIN_USER, "262");
    tiny_expect(t, "aaaaa", HT_ORIGIN_USER, "265 101"); // leftmost first
    tiny_expect(t, "aaaaaaa", HT_ORIGIN_USER, "265 264 101");
    tiny_expect(t, "b ab", HT_ORIGIN_USER, "102 36 260"); // "a b" ranks before "Ġ a"
    tiny_expect(t, "b a", HT_ORIGIN_USER, "102 263");
    tiny_expect(t, "a'sb", HT_ORIGIN_USER, "101 43 119 102"); // the contraction is a piece of its own
    tiny_expect(t, "\xC3\xA9", HT_ORIGIN_USER, "267");
    tiny_expect(t, "a<ud>b", HT_ORIGIN_USER, "101 3 102"); // user-defined: everywhere
    ht_tokenizer_destroy(&t);
    assert_null(t);
}

// A merge takes place only while both of its sides still stand; of a pair that is listed twice the first rank counts.
static void merges_that_overlap(void **state)
{
    (void)state;
    struct tiny *source = tiny_bytes("gpt-2");
    tiny_add(source, "xy", HT_TOKEN_NORMAL, 0); // 269
    tiny_add(source, "yz", HT_TOKEN_NORMAL, 0);
    tiny_add(source, "zw", HT_TOKEN_NORMAL, 0);
    tiny_add(source, "wv", HT_TOKEN_NORMAL, 0);
    tiny_add(source, "zwv", HT_TOKEN_NORMAL, 0);
    static const char *const merges[] = {"x y", "y z", "w v", "z w", "z wv", "x y"};
    for (size_t i = 0; i < N(merges); i++)
        tiny_merge(source, merges[i]);
    struct ht_tokenizer *t = tiny_build(source);
    tiny_expect(t, "xyz", HT_ORIGIN_USER, "269 126");
    tiny_expect(t, "xyzw", HT_ORIGIN_USER, "269 271");
    tiny_expect(t, "yzw", HT_ORIGIN_USER, "270 123");
    tiny_expect(t, "xyzwv", HT_ORIGIN_USER, "269 273");
    ht_tokenizer_destroy(&t);
    source = tiny_bytes("gpt-2");
    tiny_add(source, "azz", HT_TOKEN_NORMAL, 0);
    tiny_merge(source, "a zz"); // there is no token zz
    struct hearth_error err;
    assert_int_equal(ht_tokenizer_create(&t, &source->source, &err), HEARTH_FORMAT);
    assert_null(t);
    free(source);
}

static void ignored_merges(void **state)
{
    (void)state;
    struct ht_tokenizer *t = tiny_build(tiny_bytes("llama-bpe"));
    tiny_expect(t, "abcd", HT_ORIGIN_USER, "268"); // a piece that is a token is taken whole
    ht_tokenizer_destroy(&t);
    t = tiny_build(tiny_bytes("qwen2"));
    tiny_expect(t, "abcd", HT_ORIGIN_USER, "261 104");
    ht_tokenizer_destroy(&t);
    struct tiny *source = tiny_bytes("llama-bpe");
    source->types[268] = HT_TOKEN_UNUSED; // which no text becomes
    t = tiny_build(source);
    tiny_expect(t, "abcd", HT_ORIGIN_USER, "261 104");
    ht_tokenizer_destroy(&t);
}

static void control_tokens(void **state)
{
    (void)state;
    struct ht_tokenizer *t = tiny_build(tiny_bytes("gpt-2"));
    tiny_expect(t, "<|im_end|>", HT_ORIGIN_TEMPLATE, "1");
    static const uint8_t people[] = {HT_ORIGIN_USER, HT_ORIGIN_SYSTEM, HT_ORIGIN_ASSISTANT};
    for (size_t i = 0; i < N(people); i++) {
        struct ht_segment s = tiny_segment("a<|im_end|>b<|im_start|>", people[i]);
        struct ht_tokens tokens = tiny_encode(t, &s, 1, 0);
        assert_int_equal(tokens.n, 24);
        for (size_t j = 0; j < tokens.n; j++)
            assert_true(tokens.items[j].id > 3);
        ht_tokens_free(&tokens);
    }
    // Half of a mark in a template does not make one of what a person adds, before or after it.
    const struct ht_segment halves[] = {
        tiny_segment("<|im_", HT_ORIGIN_TEMPLATE), tiny_segment("end|>", HT_ORIGIN_USER),
        tiny_segment("<|im_", HT_ORIGIN_USER), tiny_segment("end|>", HT_ORIGIN_TEMPLATE)};
    struct ht_tokens tokens = tiny_encode(t, halves, N(halves), 0);
    for (size_t j = 0; j < tokens.n; j++)
        assert_true(tokens.items[j].id > 3);
    ht_tokens_free(&tokens);
    // Two template segments side by side are one template text, also across an empty one of a person.
    const struct ht_segment joined[] = {tiny_segment("<|im_", HT_ORIGIN_TEMPLATE),
                                        tiny_segment("", HT_ORIGIN_USER),
                                        tiny_segment("end|>", HT_ORIGIN_TEMPLATE)};
    tokens = tiny_encode(t, joined, N(joined), 0);
    tiny_expect_ids(&tokens, "1");
    ht_tokens_free(&tokens);
    // A user-defined token may cross a border.
    const struct ht_segment crossing[] = {tiny_segment("<u", HT_ORIGIN_TEMPLATE),
                                          tiny_segment("d>", HT_ORIGIN_USER)};
    tokens = tiny_encode(t, crossing, N(crossing), 0);
    tiny_expect_ids(&tokens, "3");
    assert_int_equal(tokens.items[0].origins, HT_ORIGIN_TEMPLATE | HT_ORIGIN_USER);
    ht_tokens_free(&tokens);
    ht_tokenizer_destroy(&t);
}

static void segments_and_ranges(void **state)
{
    (void)state;
    struct ht_tokenizer *t = tiny_build(tiny_bytes("gpt-2"));
    struct ht_segment s[] = {
        tiny_segment("<|im_start|>a", HT_ORIGIN_TEMPLATE), tiny_segment("bc", HT_ORIGIN_USER),
        tiny_segment("<|im_end|>", HT_ORIGIN_TEMPLATE),    tiny_segment("cd", HT_ORIGIN_ASSISTANT),
        tiny_segment("<|im_end|>", HT_ORIGIN_TEMPLATE),    tiny_segment("a", HT_ORIGIN_TEMPLATE)};
    s[1].turn = 1;
    s[3].turn = s[4].turn = 2;
    s[4].target = true;
    s[5].turn = 3;
    struct ht_tokens tokens = tiny_encode(t, s, N(s), 0);
    tiny_expect_ids(&tokens, "0 261 1 262 1 101"); // "abc" is merged across the border
    static const struct ht_token expected[] = {{0, 0, 12, HT_ORIGIN_TEMPLATE, false, 0},
                                               {261, 12, 15, HT_ORIGIN_TEMPLATE | HT_ORIGIN_USER, false, 1},
                                               {1, 15, 25, HT_ORIGIN_TEMPLATE, false, 0},
                                               {262, 25, 27, HT_ORIGIN_ASSISTANT, true, 2},
                                               {1, 27, 37, HT_ORIGIN_TEMPLATE, true, 2},
                                               {101, 37, 38, HT_ORIGIN_TEMPLATE, false, 3}};
    for (size_t i = 0; i < N(expected); i++) {
        assert_int_equal(tokens.items[i].start, expected[i].start);
        assert_int_equal(tokens.items[i].end, expected[i].end);
        assert_int_equal(tokens.items[i].origins, expected[i].origins);
        assert_int_equal(tokens.items[i].target, expected[i].target);
        assert_int_equal(tokens.items[i].turn, expected[i].turn);
    }
    ht_tokens_free(&tokens);
    const struct ht_segment half[] = {tiny_segment("a", HT_ORIGIN_ASSISTANT), tiny_segment("b", HT_ORIGIN_USER)};
    tokens = tiny_encode(t, half, 2, 0);
    tiny_expect_ids(&tokens, "260");
    assert_true(tokens.items[0].target); // a part of it is
    ht_tokens_free(&tokens);
    ht_tokenizer_destroy(&t);
}

// However a text is cut into segments of people, its ids are the same.
static void borders_change_nothing(void **state)
{
    (void)state;
    struct ht_tokenizer *tokenizers[] = {tiny_build(tiny_bytes("smollm")),
                                         tiny_build(tiny_bytes("llama-bpe")), tiny_build(tiny_pieces())};
    static const char text[] = "ab abcd  12a aaaa\n\n <ud>x y\xC3\xA9 abab  \xE6\x97\xA5'll a";
    for (size_t which = 0; which < N(tokenizers); which++) {
        struct ht_segment whole = tiny_segment(text, HT_ORIGIN_USER);
        struct ht_tokens expected = tiny_encode(tokenizers[which], &whole, 1, 0);
        for (size_t cut = 0; cut < sizeof text; cut++) {
            const struct ht_segment parts[] = {
                {text, cut, HT_ORIGIN_USER, false, 0},
                {text + cut, sizeof text - 1 - cut, HT_ORIGIN_ASSISTANT, true, 1}};
            struct ht_tokens tokens = tiny_encode(tokenizers[which], parts, 2, 0);
            assert_int_equal(tokens.n, expected.n);
            for (size_t i = 0; i < tokens.n; i++) {
                assert_int_equal(tokens.items[i].id, expected.items[i].id);
                assert_int_equal(tokens.items[i].start, expected.items[i].start);
                if (tokens.items[i].end > tokens.items[i].start)
                    assert_int_equal(tokens.items[i].target, tokens.items[i].end > cut);
            }
            ht_tokens_free(&tokens);
        }
        ht_tokens_free(&expected);
        ht_tokenizer_destroy(&tokenizers[which]);
    }
}

static void pieces(void **state)
{
    (void)state;
    struct tiny *source = tiny_pieces();
    source->source.add_space_prefix = HT_FLAG_NO;
    struct ht_tokenizer *t = tiny_build(source);
    tiny_expect(t, "ab", HT_ORIGIN_USER, "262");
    tiny_expect(t, " ab", HT_ORIGIN_USER, "264"); // ab, then ▁ab
    tiny_expect(t, " a b", HT_ORIGIN_USER, "263 259 261");
    tiny_expect(t, "   a", HT_ORIGIN_USER,
                "266 263"); // user-defined first, the longest at the leftmost place
    tiny_expect(t, "x y", HT_ORIGIN_USER, "268 259 269");  // "x▁" is no token, so "x▁y" is never reached
    tiny_expect(t, "abab", HT_ORIGIN_USER, "262 262");     // an unused token is taken apart again
    tiny_expect(t, "\xC3\xA9", HT_ORIGIN_USER, "198 172"); // bytes
    tiny_expect(t, "a\xFF", HT_ORIGIN_USER, "260 258");
    tiny_expect(t,
                "\xE2\x96\x81"
                "ab",
                HT_ORIGIN_USER, "264"); // "▁" is a space
    const struct ht_segment cut = {"a\xE2\x96\x81", 3, HT_ORIGIN_USER, false, 0}; // not beyond the segment's end
    struct ht_tokens tokens = tiny_encode(t, &cut, 1, 0);
    tiny_expect_ids(&tokens, "260 229 153");
    ht_tokens_free(&tokens);
    tiny_expect(t, "<s>", HT_ORIGIN_TEMPLATE, "1");
    tiny_expect(t, "<s>", HT_ORIGIN_USER, "63 118 65");
    ht_tokenizer_destroy(&t);
}

static void space_prefix(void **state)
{
    (void)state;
    struct ht_tokenizer *t = tiny_build(tiny_pieces()); // absent: SentencePiece adds one
    tiny_expect(t, "ab", HT_ORIGIN_USER, "264");
    tiny_expect(t, "", HT_ORIGIN_USER, "");
    tiny_expect(t, "\xFF", HT_ORIGIN_USER, "259 258");
    tiny_expect(t, "<s>ab</s>ab", HT_ORIGIN_TEMPLATE, "1 264 2 264");
    struct ht_segment s[] = {tiny_segment("a", HT_ORIGIN_USER), tiny_segment("b", HT_ORIGIN_ASSISTANT)};
    struct ht_tokens tokens = tiny_encode(t, s, 2, 0);
    tiny_expect_ids(&tokens, "264");
    assert_int_equal(tokens.items[0].end, 2); // the prefix takes no bytes
    ht_tokens_free(&tokens);
    tokens = tiny_encode(t, s, 2, HT_ENCODE_CONTINUES);
    tiny_expect_ids(&tokens, "262");
    ht_tokens_free(&tokens);
    s[0] = tiny_segment("ab<s>ab", HT_ORIGIN_TEMPLATE); // behind a control token there is one again
    tokens = tiny_encode(t, s, 1, HT_ENCODE_CONTINUES);
    tiny_expect_ids(&tokens, "262 1 264");
    ht_tokens_free(&tokens);
    ht_tokenizer_destroy(&t);
}

static void unknown_text(void **state)
{
    (void)state;
    struct tiny *source = tiny_new("llama", NULL);
    tiny_add(source, "<unk>", HT_TOKEN_UNKNOWN, 0);
    tiny_add(source, "a", HT_TOKEN_NORMAL, -1);
    source->source.unk_id = 0;
    source->source.add_space_prefix = HT_FLAG_NO;
    struct ht_tokenizer *t = tiny_build(source);
    tiny_expect(t, "axya\xC3\xA9z", HT_ORIGIN_USER, "1 0 1 0"); // one for each run
    struct ht_segment s = tiny_segment("xya", HT_ORIGIN_USER);
    struct ht_tokens tokens = tiny_encode(t, &s, 1, 0);
    assert_int_equal(tokens.items[0].end, 2);
    ht_tokens_free(&tokens);
    s = tiny_segment("x", HT_ORIGIN_USER);
    tokens = tiny_encode(t, &s, 1, 0);
    assert_int_equal(ht_tokenizer_encode(t, &s, 1, 0, &tokens, NULL), HEARTH_OK); // no run across two calls
    tiny_expect_ids(&tokens, "0 0");
    ht_tokens_free(&tokens);
    ht_tokenizer_destroy(&t);
}

static void bos_and_eos(void **state)
{
    (void)state;
    struct tiny *source = tiny_pieces();
    source->source.add_eos = HT_FLAG_YES;
    struct ht_tokenizer *t = tiny_build(source);
    struct ht_segment s = tiny_segment("ab", HT_ORIGIN_USER);
    struct ht_tokens tokens = tiny_encode(t, &s, 1, HT_ENCODE_BOS | HT_ENCODE_EOS);
    tiny_expect_ids(&tokens, "1 264 2");
    assert_int_equal(tokens.items[0].origins, 0);
    ht_tokens_free(&tokens);
    s = tiny_segment("<s>ab</s>", HT_ORIGIN_TEMPLATE); // never twice
    tokens = tiny_encode(t, &s, 1, HT_ENCODE_BOS | HT_ENCODE_EOS);
    tiny_expect_ids(&tokens, "1 264 2");
    size_t before = tokens.n; // a list is appended to
    assert_int_equal(ht_tokenizer_encode(t, &s, 1, HT_ENCODE_BOS, &tokens, NULL), HEARTH_OK);
    assert_int_equal(tokens.n, 2 * before);
    assert_int_equal(tokens.items[before].id, 1);
    assert_int_equal(tokens.items[before].start, 0);
    s = tiny_segment("ab", HT_ORIGIN_USER);
    assert_int_equal(ht_tokenizer_encode(t, &s, 1, HT_ENCODE_BOS, &tokens, NULL), HEARTH_OK);
    tiny_expect_ids(&tokens, "1 264 2 1 264 2 1 264");
    ht_tokens_free(&tokens);
    tokens = tiny_encode(t, NULL, 0, HT_ENCODE_BOS | HT_ENCODE_EOS);
    tiny_expect_ids(&tokens, "1 2");
    ht_tokens_free(&tokens);
    ht_tokenizer_destroy(&t);

    static const struct {
        const char *pre;
        int32_t bos_id;
        const char *ids;
    } cases[] = {
        {"llama-bpe", -1, ""}, // wants one, but the vocabulary names none
        {"llama-bpe", 0, "0"},
        {"gpt-2", 0, ""}, // names one, but wants none
    };
    for (size_t i = 0; i < N(cases); i++) {
        source = tiny_bytes(cases[i].pre);
        source->source.bos_id = cases[i].bos_id;
        t = tiny_build(source);
        tokens = tiny_encode(t, NULL, 0, HT_ENCODE_BOS);
        tiny_expect_ids(&tokens, cases[i].ids);
        ht_tokens_free(&tokens);
        ht_tokenizer_destroy(&t);
    }
}

static void dropped_bytes(void **state)
{
    (void)state;
    struct tiny *source = tiny_bytes("gpt-2");
    source->types[4 + 'z'] = HT_TOKEN_CONTROL; // the byte z has no token that text can become
    struct ht_tokenizer *t = tiny_build(source);
    struct ht_segment s[] = {tiny_segment("zazz", HT_ORIGIN_USER), tiny_segment("zb", HT_ORIGIN_ASSISTANT),
                             tiny_segment("z", HT_ORIGIN_SYSTEM)};
    struct ht_tokens tokens = tiny_encode(t, s, 3, 0);
    tiny_expect_ids(&tokens, "260"); // its neighbours become neighbours
    assert_int_equal(tokens.n_dropped_bytes, 5);
    assert_int_equal(tokens.items[0].origins, HT_ORIGIN_USER | HT_ORIGIN_ASSISTANT | HT_ORIGIN_SYSTEM);
    ht_tokens_free(&tokens);
    struct ht_segment all = tiny_segment("z z", HT_ORIGIN_USER);
    tokens = tiny_encode(t, &all, 1, 0);
    tiny_expect_ids(&tokens, "36");
    ht_tokens_free(&tokens);
    const struct ht_segment behind[] = {tiny_segment("a\n", HT_ORIGIN_USER),
                                        tiny_segment("zz", HT_ORIGIN_SYSTEM)};
    tokens = tiny_encode(t, behind, 2, 0); // a whole piece of them at the end
    tiny_expect_ids(&tokens, "101 14");
    assert_int_equal(tokens.items[1].origins, HT_ORIGIN_USER | HT_ORIGIN_SYSTEM);
    const struct ht_segment before[] = {tiny_segment("z", HT_ORIGIN_SYSTEM), tiny_segment("b", HT_ORIGIN_USER)};
    assert_int_equal(ht_tokenizer_encode(t, before, 2, 0, &tokens, NULL), HEARTH_OK); // appended
    tiny_expect_ids(&tokens, "101 14 102");
    assert_int_equal(tokens.items[2].origins, HT_ORIGIN_USER | HT_ORIGIN_SYSTEM);
    assert_int_equal(tokens.n_dropped_bytes, 3);
    ht_tokens_free(&tokens);
    ht_tokenizer_destroy(&t);
}

// decode(encode(x)) = x for any bytes.
static void round_trip(void **state)
{
    (void)state;
    struct tiny *no_prefix = tiny_pieces();
    no_prefix->source.add_space_prefix = HT_FLAG_NO;
    struct ht_tokenizer *tokenizers[] = {tiny_build(tiny_bytes("smollm")), tiny_build(tiny_bytes("default")),
                                         tiny_build(tiny_bytes("llama-bpe")), tiny_build(tiny_pieces()),
                                         tiny_build(no_prefix)};
    static const char *const parts[] = {"a",        "b",    " ",    "  ",           "<ud>", "\n",  "\xFF",
                                        "\xE2",     "\x96", "\xC3", "\xA9",         "7",    "x y", "abab",
                                        "\xF0\x9F", "<s>",  "'s",   "\xED\xA0\x80", "z"};
    uint32_t random = 1;
    for (int round = 0; round < 4000; round++) {
        char text[256], back[512];
        size_t n = 0, back_n;
        for (int i = round % 40; i; i--) {
            random = random * 1664525 + 1013904223;
            const char *part = parts[(random >> 16) % N(parts)];
            memcpy(text + n, part, strlen(part));
            n += strlen(part);
        }
        if (round % 7 == 0) // raw bytes; NUL too
            for (size_t i = 0; i < n; i++) {
                random = random * 1664525 + 1013904223;
                text[i] = (char)(random >> 16);
            }
        for (size_t i = 0; i + 2 < n; i++) // "▁" is a space to SentencePiece
            if (!memcmp(text + i, "\xE2\x96\x81", 3))
                text[i] = 'a';
        const struct ht_segment s = {text, n, HT_ORIGIN_USER, false, 0};
        for (size_t which = 0; which < N(tokenizers); which++) {
            struct ht_tokens tokens = tiny_encode(tokenizers[which], &s, 1, 0);
            int32_t ids[512];
            for (size_t i = 0; i < tokens.n; i++)
                ids[i] = tokens.items[i].id;
            assert_int_equal(ht_tokenizer_decode(tokenizers[which], ids, tokens.n, false, back, sizeof back,
                                                 &back_n, NULL),
                             HEARTH_OK);
            assert_int_equal(back_n, n);
            assert_memory_equal(back, text, n);
            assert_int_equal(tokens.n_dropped_bytes, 0);
            ht_tokens_free(&tokens);
        }
    }
    for (size_t which = 0; which < N(tokenizers); which++)
        ht_tokenizer_destroy(&tokenizers[which]);
}

static void decoding(void **state)
{
    (void)state;
    struct ht_tokenizer *t = tiny_build(tiny_bytes("gpt-2"));
    const int32_t ids[] = {0, 261, 3, 1};
    char text[64];
    size_t n;
    assert_int_equal(ht_tokenizer_decode(t, ids, N(ids), false, text, sizeof text, &n, NULL), HEARTH_OK);
    assert_int_equal(n, 7);
    assert_memory_equal(text, "abc<ud>", 7);
    assert_int_equal(ht_tokenizer_decode(t, ids, N(ids), true, text, sizeof text, &n, NULL), HEARTH_OK);
    assert_memory_equal(text, "<|im_start|>abc<ud><|im_end|>", n);
    memset(text, '#', sizeof text);
    assert_int_equal(ht_tokenizer_decode(t, ids, N(ids), true, text, 13, &n, NULL), HEARTH_OK);
    assert_int_equal(n, 29); // what it needs; not more than the capacity is written
    assert_memory_equal(text, "<|im_start|>a#", 14);
    static const int32_t wrong[] = {-1, 269, INT32_MAX};
    for (size_t i = 0; i < N(wrong); i++) {
        assert_int_equal(ht_tokenizer_decode(t, &wrong[i], 1, true, text, 13, &n, NULL), HEARTH_INVALID);
        assert_int_equal(n, 0);
        assert_int_equal(ht_tokenizer_piece(t, wrong[i], true).len_bytes, 0);
        assert_int_equal(ht_tokenizer_type(t, wrong[i]), HT_TOKEN_UNDEFINED);
        assert_false(ht_tokenizer_is_end(t, wrong[i]));
    }
    assert_int_equal(ht_tokenizer_n_tokens(t), 269);
    assert_int_equal(ht_tokenizer_find_special(t, "<|im_end|>", 10), 1);
    assert_int_equal(ht_tokenizer_find_special(t, "<ud>", 4), 3);
    assert_int_equal(ht_tokenizer_find_special(t, "<ud>x", 5), -1);
    assert_int_equal(ht_tokenizer_find_special(t, "ab", 2), -1);
    assert_int_equal(ht_tokenizer_find_special(t, "", 0), -1);
    ht_tokenizer_destroy(&t);
}

static void expect_decoded(const struct ht_tokenizer *t, const int32_t *ids, size_t n_ids, const char *expected)
{
    char text[64];
    size_t n;
    assert_int_equal(ht_tokenizer_decode(t, ids, n_ids, false, text, sizeof text, &n, NULL), HEARTH_OK);
    assert_int_equal(n, strlen(expected));
    assert_memory_equal(text, expected, n);
}

// The space that encoding puts in front is taken away again, at the beginning and behind control tokens.
static void decoding_space_prefixes(void **state)
{
    (void)state;
    static const int32_t ids[] = {264, 264, 2, 263, 259}, alone[] = {259, 260};
    struct ht_tokenizer *t = tiny_build(tiny_pieces());
    expect_decoded(t, ids, N(ids), "ab aba ");
    expect_decoded(t, alone, N(alone), "a"); // a lone "▁" is the prefix
    ht_tokenizer_destroy(&t);
    struct tiny *source = tiny_pieces();
    source->source.add_space_prefix = HT_FLAG_NO;
    t = tiny_build(source);
    expect_decoded(t, ids, N(ids), " ab ab a ");
    ht_tokenizer_destroy(&t);
}

// Which ids end an answer, and marks that a file calls normal or user-defined.
static void ends_and_marks(void **state)
{
    (void)state;
    struct tiny *source = tiny_bytes("gpt-2");
    int32_t start = tiny_add(source, "<start_of_turn>", HT_TOKEN_USER_DEFINED, 0);
    int32_t eot = tiny_add(source, "<end_of_turn>", HT_TOKEN_NORMAL, 0);
    int32_t eom = tiny_add(source, "<mine>", HT_TOKEN_USER_DEFINED, 0);
    source->source.eom_id = eom;
    struct ht_tokenizer *t = tiny_build(source);
    static const int32_t no_end[] = {0, 3, 100, 260};
    const int32_t ends[] = {1, 2, eot, eom};
    for (size_t i = 0; i < N(no_end); i++)
        assert_false(ht_tokenizer_is_end(t, no_end[i]));
    for (size_t i = 0; i < N(ends); i++)
        assert_true(ht_tokenizer_is_end(t, ends[i]));
    const int32_t marks[] = {start, eot, eom};
    for (size_t i = 0; i < N(marks); i++) {
        assert_int_equal(ht_tokenizer_type(t, marks[i]), HT_TOKEN_CONTROL);
        struct ht_text spelling = ht_tokenizer_piece(t, marks[i], true);
        assert_int_equal(ht_tokenizer_piece(t, marks[i], false).len_bytes, 0);
        struct ht_segment s = {spelling.bytes, spelling.len_bytes, HT_ORIGIN_USER, false, 0};
        struct ht_tokens tokens = tiny_encode(t, &s, 1, 0);
        assert_true(tokens.n > 1);
        ht_tokens_free(&tokens);
        s.origin = HT_ORIGIN_TEMPLATE;
        tokens = tiny_encode(t, &s, 1, 0);
        assert_int_equal(tokens.n, 1);
        assert_int_equal(tokens.items[0].id, marks[i]);
        ht_tokens_free(&tokens);
    }
    ht_tokenizer_destroy(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(byte_level_merges),
        cmocka_unit_test(merges_that_overlap),
        cmocka_unit_test(ignored_merges),
        cmocka_unit_test(control_tokens),
        cmocka_unit_test(segments_and_ranges),
        cmocka_unit_test(pieces),
        cmocka_unit_test(borders_change_nothing),
        cmocka_unit_test(space_prefix),
        cmocka_unit_test(unknown_text),
        cmocka_unit_test(bos_and_eos),
        cmocka_unit_test(dropped_bytes),
        cmocka_unit_test(round_trip),
        cmocka_unit_test(decoding),
        cmocka_unit_test(decoding_space_prefixes),
        cmocka_unit_test(ends_and_marks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
