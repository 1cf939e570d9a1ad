// SPDX-License-Identifier: Apache-2.0
// Vocabularies that lie, texts that are made to be slow, and memory that runs out.
#include "tests/unit/tiny_vocab.h"

#include "engine/base/limits.h"
#include "tests/check/fault.h"

#define N(list) (sizeof(list) / sizeof(list)[0])

static void refuse(struct tiny *t, enum hearth_status status, const char *words)
{
    struct ht_tokenizer *tokenizer = (struct ht_tokenizer *)t;
    struct hearth_error err = {0};
    unsigned long n_allocations;
    fault_memory_begin(0);
    assert_int_equal(ht_tokenizer_create(&tokenizer, &t->source, &err), status);
    assert_int_equal(fault_memory_end(&n_allocations), 0); // nothing is left behind
    assert_null(tokenizer);
    assert_int_equal(err.code, status);
    if (!strstr(err.text, words) || strncmp(err.text, "tiny: ", 6) != 0)
        fail_msg("'%s' lacks '%s' or the file's name", err.text, words);
    free(t);
}

static void lying_tokens(void **state)
{
    (void)state;
    struct tiny *t = tiny_bytes("gpt-2");
    t->tokens[7].len_bytes = 0;
    refuse(t, HEARTH_FORMAT, "token 7 is empty");
    t = tiny_bytes("gpt-2");
    t->tokens[8].bytes = NULL;
    refuse(t, HEARTH_FORMAT, "token 8 is empty");
    t = tiny_bytes("gpt-2");
    t->types[9] = 7;
    refuse(t, HEARTH_FORMAT, "token 9 has the unknown type 7");
    t = tiny_bytes("gpt-2");
    t->types[9] = -1;
    refuse(t, HEARTH_FORMAT, "token 9 has the unknown type -1");
    static char long_text[HT_MAX_TOKEN_BYTES + 1];
    memset(long_text, 'x', sizeof long_text);
    t = tiny_bytes("gpt-2");
    t->tokens[10] = (struct ht_text){long_text, sizeof long_text};
    refuse(t, HEARTH_LIMIT, "token 10 has 4097 bytes");
    t = tiny_bytes("gpt-2");
    t->tokens[3] = (struct ht_text){long_text, HT_MAX_SPECIAL_BYTES + 1};
    refuse(t, HEARTH_LIMIT, "special token 3");
    t = tiny_bytes("gpt-2");
    t->source.n_tokens = 0;
    refuse(t, HEARTH_FORMAT, "vocabulary is empty");
    t = tiny_bytes("gpt-2");
    t->source.n_tokens = (size_t)HT_MAX_VOCAB + 1;
    refuse(t, HEARTH_LIMIT, "1048577 tokens");
    static const char *const bytes[] = {"<0x-1>", "<0x1>", "<0x100>", "<0xGG>", "0x41", "<0X41>", "<0x4 >"};
    for (size_t i = 0; i < N(bytes); i++) {
        t = tiny_pieces();
        t->tokens[50] = (struct ht_text){bytes[i], strlen(bytes[i])};
        refuse(t, HEARTH_FORMAT, "token 50 is of type byte");
    }
}

static void lying_ids_and_scores(void **state)
{
    (void)state;
    int64_t bad[] = {-2, INT64_MIN, 269, INT64_MAX};
    static const char *const names[] = {"bos", "eos", "eot", "eom", "unknown", "padding"};
    for (size_t i = 0; i < N(bad); i++)
        for (size_t j = 0; j < N(names); j++) {
            struct tiny *t = tiny_bytes("gpt-2");
            int64_t *ids[] = {&t->source.bos_id, &t->source.eos_id, &t->source.eot_id,
                              &t->source.eom_id, &t->source.unk_id, &t->source.pad_id};
            *ids[j] = bad[i];
            refuse(t, HEARTH_FORMAT, names[j]);
        }
    volatile float zero = 0;
    const float scores[] = {0 / zero, 1 / zero, -1 / zero};
    for (size_t i = 0; i < N(scores); i++) {
        struct tiny *t = tiny_pieces();
        t->scores[262] = scores[i];
        refuse(t, HEARTH_FORMAT, "score of token 262");
    }
    struct tiny *t = tiny_pieces();
    t->source.scores = NULL;
    refuse(t, HEARTH_FORMAT, "no scores");
    t = tiny_pieces();
    t->types[3 + 0x41] = HT_TOKEN_NORMAL;
    t->source.unk_id = -1;
    refuse(t, HEARTH_FORMAT, "byte 0x41");
}

static void lying_merges(void **state)
{
    (void)state;
    static const struct {
        const char *line, *words;
    } cases[] = {
        {"a", "merge 2 is not two"},       {"", "merge 2 is not two"},
        {" a", "merge 2 is not two"},      {"a ", "merge 2 is not two"},
        {"a b c", "merge 2 is not two"},   {"a\n b", "merge 2 is not two"},
        {"a zz", "merge 2 names a token"}, {"b a", "merge 2 names a token"},
        {"\xFF a", "merge 2 is not two"},  {"< |im_end|>", "merge 2 names a token"},
    };
    for (size_t i = 0; i < N(cases); i++) {
        struct tiny *t = tiny_bytes("gpt-2");
        t->merges[2] = (struct ht_text){cases[i].line, strlen(cases[i].line)};
        refuse(t, HEARTH_FORMAT, cases[i].words);
    }
    struct tiny *t = tiny_bytes("gpt-2");
    t->source.n_merges = 0;
    refuse(t, HEARTH_FORMAT, "no merges");
    t = tiny_bytes("gpt-2");
    t->source.n_merges = (size_t)4 * HT_MAX_VOCAB + 1;
    refuse(t, HEARTH_LIMIT, "4194305 merges");
    static char long_line[3 * HT_MAX_TOKEN_BYTES];
    memset(long_line, 'a', sizeof long_line);
    long_line[2 * HT_MAX_TOKEN_BYTES] = ' ';
    t = tiny_bytes("gpt-2");
    t->merges[2] = (struct ht_text){long_line, sizeof long_line};
    refuse(t, HEARTH_FORMAT, "merge 2");
    long_line[2 * HT_MAX_TOKEN_BYTES] = 'a';
    long_line[HT_MAX_TOKEN_BYTES] = ' ';
    t = tiny_bytes("gpt-2");
    t->merges[2] = (struct ht_text){long_line, 2 * HT_MAX_TOKEN_BYTES + 1};
    refuse(t, HEARTH_FORMAT, "merge 2 names a token");
}

static void unknown_kinds(void **state)
{
    (void)state;
    refuse(tiny_bytes("no-such-pre"), HEARTH_UNSUPPORTED, "'no-such-pre'");
    struct tiny *t = tiny_bytes("gpt-2");
    t->source.model = "wordpiece";
    refuse(t, HEARTH_UNSUPPORTED, "'wordpiece'");
    t = tiny_bytes("gpt-2");
    t->source.model = NULL;
    refuse(t, HEARTH_FORMAT, "no tokenizer");
}

// Of tokens that say the same the lowest id stands, and of a pair listed twice the first rank.
static void duplicates(void **state)
{
    (void)state;
    struct tiny *source = tiny_bytes("gpt-2");
    tiny_add(source, "ab", HT_TOKEN_NORMAL, 0);
    tiny_add(source, "<|im_end|>", HT_TOKEN_CONTROL, 0);
    tiny_add(source, "<ud>", HT_TOKEN_CONTROL, 0);
    tiny_merge(source, "a b");
    struct ht_tokenizer *t = tiny_build(source);
    tiny_expect(t, "ab", HT_ORIGIN_USER, "260");
    tiny_expect(t, "<|im_end|>", HT_ORIGIN_TEMPLATE, "1");
    tiny_expect(t, "<ud>", HT_ORIGIN_USER, "3");
    tiny_expect(t, "<ud>", HT_ORIGIN_TEMPLATE, "271"); // where both may match: the control token
    ht_tokenizer_destroy(&t);
    source = tiny_pieces();
    tiny_add(source, "<0x41>", HT_TOKEN_BYTE, 0);
    tiny_add(source, "ab", HT_TOKEN_NORMAL, 5);
    t = tiny_build(source);
    tiny_expect(t, "Aab", HT_ORIGIN_USER, "259 68 262");
    ht_tokenizer_destroy(&t);
}

// ---------------------------------------------------------------- texts made to be slow

static uint64_t steps(const struct ht_tokenizer *t, const char *unit, size_t n_units)
{
    size_t n = strlen(unit);
    char *text = malloc(n * n_units);
    assert_non_null(text);
    for (size_t i = 0; i < n_units; i++)
        memcpy(text + i * n, unit, n);
    const struct ht_segment s = {text, n * n_units, HT_ORIGIN_USER, false, 0};
    struct ht_tokens tokens = tiny_encode(t, &s, 1, 0);
    uint64_t result = tokens.n_steps;
    ht_tokens_free(&tokens);
    free(text);
    return result;
}

// The work, counted: at most c · n · log2(n), and doubling the text at most doubles it and a little. A
// megabyte of the worst ones too.
static void slow_texts(void **state)
{
    (void)state;
    struct ht_tokenizer *tokenizers[] = {
        tiny_build(tiny_bytes("smollm")),  tiny_build(tiny_bytes("llama-bpe")),
        tiny_build(tiny_bytes("qwen2")),   tiny_build(tiny_bytes("gpt-2")),
        tiny_build(tiny_bytes("default")), tiny_build(tiny_pieces())};
    static const char *const units[] = {
        "a",        " ", "\xF0\x9F\x98\x80", "e\xCC\x81", "\n",   "ab", "a ", "7",   "'",
        "\xCC\x81", "<", "<|im_end|",        " \n",       "\xFF", ".",  " a", "x y", "\xE2\x96\x81"};
    for (size_t which = 0; which < N(tokenizers); which++)
        for (size_t i = 0; i < N(units); i++) {
            bool large = i < 4 && (which == 0 || which == 5);
            size_t bytes = large ? 1 << 19 : 1 << 14, n = bytes / strlen(units[i]);
            uint64_t half = steps(tokenizers[which], units[i], n);
            uint64_t whole = steps(tokenizers[which], units[i], 2 * n);
            assert_true(whole <= (uint64_t)2 * bytes * 20 * 6);
            assert_true(whole <= 2 * half + half / 4 + 1000);
        }
    for (size_t which = 0; which < N(tokenizers); which++)
        ht_tokenizer_destroy(&tokenizers[which]);
}

// A special token that the text nearly is, over and over.
static void near_matches(void **state)
{
    (void)state;
    static char mark[HT_MAX_SPECIAL_BYTES + 1];
    memset(mark, 'a', HT_MAX_SPECIAL_BYTES - 1);
    mark[HT_MAX_SPECIAL_BYTES - 1] = 'b';
    struct tiny *source = tiny_bytes("gpt-2");
    tiny_add(source, mark, HT_TOKEN_USER_DEFINED, 0);
    struct ht_tokenizer *t = tiny_build(source);
    assert_true(steps(t, "a", 1 << 16) <= (uint64_t)(1 << 16) * (HT_MAX_SPECIAL_BYTES + 150));
    ht_tokenizer_destroy(&t);
}

static void long_texts(void **state)
{
    (void)state;
    struct ht_tokenizer *t = tiny_build(tiny_bytes("gpt-2"));
    size_t n = (size_t)HT_MAX_STRETCH_BYTES + 1;
    char *text = malloc(n);
    assert_non_null(text);
    memset(text, '.', n);
    struct ht_tokens tokens = {0};
    struct hearth_error err = {0};
    struct ht_segment s[] = {{text, n, HT_ORIGIN_USER, false, 0},
                             {text, HT_MAX_TEXT_BYTES, HT_ORIGIN_USER, false, 0}};
    assert_int_equal(ht_tokenizer_encode(t, s, 1, 0, &tokens, &err), HEARTH_LIMIT);
    assert_non_null(strstr(err.text, "without a place to split"));
    assert_int_equal(ht_tokenizer_encode(t, s, 2, 0, &tokens, &err), HEARTH_LIMIT);
    assert_non_null(strstr(err.text, "more than"));
    assert_int_equal(tokens.n, 0);
    s[0] = (struct ht_segment){NULL, 1, HT_ORIGIN_USER, false, 0};
    assert_int_equal(ht_tokenizer_encode(t, s, 1, 0, &tokens, &err), HEARTH_INVALID);
    s[0] = (struct ht_segment){text, 1, 3, false, 0};
    assert_int_equal(ht_tokenizer_encode(t, s, 1, 0, &tokens, &err), HEARTH_INVALID);
    ht_tokens_free(&tokens);
    free(text);
    ht_tokenizer_destroy(&t);
}

// ---------------------------------------------------------------- memory

static enum hearth_status work(struct tiny *source, bool *lost)
{
    struct ht_tokenizer *t;
    struct ht_tokens tokens = {0};
    struct hearth_error err = {0};
    *lost = false;
    enum hearth_status status = ht_tokenizer_create(&t, &source->source, &err);
    if (status != HEARTH_OK) {
        *lost = t != NULL;
        return status;
    }
    static const struct ht_segment s[] = {
        {"<|im_start|>", 12, HT_ORIGIN_TEMPLATE, false, 0},
        {"ab abab  x y \xFF"
         "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
         96, HT_ORIGIN_USER, false, 1}};
    static const struct ht_segment one = {"ab", 2, HT_ORIGIN_USER, false, 1};
    status = ht_tokenizer_encode(t, &one, 1, 0, &tokens, &err);
    size_t before = tokens.n;
    if (status == HEARTH_OK)
        status = ht_tokenizer_encode(t, s, 2, HT_ENCODE_BOS, &tokens, &err);
    *lost = status != HEARTH_OK && (err.code != status || tokens.n != before);
    ht_tokens_free(&tokens);
    ht_tokenizer_destroy(&t);
    return status;
}

static void out_of_memory(void **state)
{
    (void)state;
    struct tiny *sources[] = {tiny_bytes("smollm"), tiny_pieces()};
    for (size_t which = 0; which < N(sources); which++) {
        unsigned long n_allocations = 0;
        bool lost;
        fault_memory_begin(0);
        assert_int_equal(work(sources[which], &lost), HEARTH_OK);
        assert_int_equal(fault_memory_end(&n_allocations), 0);
        assert_true(n_allocations > 10);
        for (unsigned long n = 1; n <= n_allocations; n++) {
            unsigned long ignored;
            fault_memory_begin(n);
            assert_int_equal(work(sources[which], &lost), HEARTH_NOMEM);
            assert_int_equal(fault_memory_end(&ignored), 0);
            assert_false(lost);
        }
        free(sources[which]);
    }
}

// Random changes to good vocabularies: an error or a tokenizer that works, nothing else.
static void mutated(void **state)
{
    (void)state;
    uint32_t random = 7;
    for (int round = 0; round < 3000; round++) {
        struct tiny *t = round % 2 ? tiny_bytes("smollm") : tiny_pieces();
        for (int i = 0; i < 1 + round % 4; i++) {
            random = random * 1664525 + 1013904223;
            size_t a = (random >> 8) % t->source.n_tokens, b = (random >> 18) % t->source.n_tokens;
            switch (random >> 29) {
            case 0: t->types[a] = (int32_t)(b % 9) - 1; break;
            case 1: t->tokens[a] = t->tokens[b]; break;
            case 2: t->tokens[a].len_bytes /= 2; break;
            case 3: t->scores[a] = (float)b; break;
            case 4: t->source.eos_id = (int64_t)b; break;
            case 5: t->source.unk_id = (int64_t)b - 3; break;
            case 6:
                if (t->source.n_merges)
                    t->merges[a % t->source.n_merges] = t->merges[b % t->source.n_merges];
                break;
            default:
                t->tokens[a].bytes = "\xE2\x96\x81 \xC4\xA0<";
                t->tokens[a].len_bytes = 1 + b % 7;
                break;
            }
        }
        struct ht_tokenizer *tokenizer;
        struct hearth_error err = {0};
        if (ht_tokenizer_create(&tokenizer, &t->source, &err) == HEARTH_OK) {
            const struct ht_segment s[] = {
                tiny_segment("<|im_start|><s>ab abcd", HT_ORIGIN_TEMPLATE),
                tiny_segment(" aab x y\xE2\x96\x81\xFF<|im_end|>12", HT_ORIGIN_USER)};
            struct ht_tokens tokens = tiny_encode(tokenizer, s, 2, HT_ENCODE_BOS | HT_ENCODE_EOS);
            for (size_t i = 0; i < tokens.n; i++)
                assert_true(tokens.items[i].id >= 0 && (size_t)tokens.items[i].id < t->source.n_tokens);
            ht_tokens_free(&tokens);
            ht_tokenizer_destroy(&tokenizer);
        } else {
            assert_null(tokenizer);
            assert_true(strlen(err.text) > 10);
        }
        free(t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lying_tokens),  cmocka_unit_test(lying_ids_and_scores),
        cmocka_unit_test(lying_merges),  cmocka_unit_test(unknown_kinds),
        cmocka_unit_test(duplicates),    cmocka_unit_test(slow_texts),
        cmocka_unit_test(near_matches),  cmocka_unit_test(long_texts),
        cmocka_unit_test(out_of_memory), cmocka_unit_test(mutated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
