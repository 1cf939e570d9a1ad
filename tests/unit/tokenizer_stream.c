// SPDX-License-Identifier: Apache-2.0
// Streaming decoding: whole characters only, invalid bytes replaced, space prefixes.
#include "tests/unit/tiny_vocab.h"

#include "engine/base/utf8.h"

// The text that comes out of ids one after the other; every part must be valid UTF-8 on its own.
static void stream(const struct ht_tokenizer *t, const int32_t *ids, size_t n, bool special, bool at_start,
                   char *out)
{
    struct ht_stream_decoder decoder;
    size_t used = 0;
    ht_stream_decoder_init(&decoder, t, special, at_start);
    for (size_t i = 0; i < n; i++) {
        size_t part = ht_stream_decoder_push(&decoder, ids[i], out + used);
        assert_true(part <= ht_tokenizer_max_piece_bytes(t));
        assert_true(ht_utf8_valid(out + used, part));
        used += part;
    }
    used += ht_stream_decoder_finish(&decoder, out + used);
    assert_int_equal(ht_stream_decoder_finish(&decoder, out + used), 0);
    out[used] = '\0';
}

static void expect(const struct ht_tokenizer *t, const char *bytes, const char *expected)
{
    int32_t ids[64] = {0};
    char out[512];
    size_t n = strlen(bytes);
    for (size_t i = 0; i < n; i++)
        ids[i] = 4 + (unsigned char)bytes[i];
    stream(t, ids, n, false, true, out);
    assert_string_equal(out, expected);
}

#define FFFD "\xEF\xBF\xBD"

static void whole_characters(void **state)
{
    (void)state;
    struct ht_tokenizer *t = tiny_build(tiny_bytes("gpt-2"));
    expect(t, "", "");
    expect(t, "a", "a");
    expect(t, "\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80", "\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80");
    expect(t, "\xE2\x82", FFFD);
    expect(t, "\xF0\x9F\x98", FFFD);
    expect(t,
           "\xE2\x82"
           "a",
           FFFD FFFD "a");
    expect(t, "\xE2\xE2\x82\xAC", FFFD "\xE2\x82\xAC");
    expect(t, "\x80\xFF", FFFD FFFD);
    expect(t, "\xED\xA0\x80", FFFD FFFD FFFD); // a surrogate
    expect(t, "\xC0\xAF", FFFD FFFD);          // overlong
    expect(t, "\xE0\x9F\xBF", FFFD FFFD FFFD);
    expect(t, "\xE0\xA0\x80", "\xE0\xA0\x80");
    expect(t, "\xED\x9F\xBF", "\xED\x9F\xBF");
    expect(t, "\xF4\x8F\xBF\xBF", "\xF4\x8F\xBF\xBF");
    expect(t, "\xF4\x90\x80\x80", FFFD FFFD FFFD FFFD);
    expect(t, "\xF0\x90\x80\x80", "\xF0\x90\x80\x80");

    struct ht_stream_decoder decoder; // nothing is given out before the last byte, and then at once
    char out[64];
    ht_stream_decoder_init(&decoder, t, false, true);
    assert_int_equal(ht_stream_decoder_push(&decoder, 4 + 0xF0, out), 0);
    assert_int_equal(ht_stream_decoder_push(&decoder, 4 + 0x9F, out), 0);
    assert_int_equal(ht_stream_decoder_push(&decoder, -5, out), 0); // an id that does not exist is nothing
    assert_int_equal(ht_stream_decoder_push(&decoder, 4 + 0x98, out), 0);
    assert_int_equal(ht_stream_decoder_push(&decoder, 4 + 0x80, out), 4);
    ht_tokenizer_destroy(&t);
}

static void control_tokens(void **state)
{
    (void)state;
    struct ht_tokenizer *t = tiny_build(tiny_bytes("gpt-2"));
    const int32_t ids[] = {0, 261, 3, 1};
    char out[256];
    stream(t, ids, 4, false, true, out);
    assert_string_equal(out, "abc<ud>");
    stream(t, ids, 4, true, true, out);
    assert_string_equal(out, "<|im_start|>abc<ud><|im_end|>");
    ht_tokenizer_destroy(&t);
}

static void space_prefix(void **state)
{
    (void)state;
    struct ht_tokenizer *t = tiny_build(tiny_pieces());
    const int32_t ids[] = {264, 264, 2, 263, 259};
    char out[256];
    stream(t, ids, 5, false, true, out);
    assert_string_equal(out, "ab aba ");
    stream(t, ids, 5, false, false, out);
    assert_string_equal(out, " ab aba ");
    const int32_t alone[] = {259, 260}; // a lone "▁" is the prefix
    stream(t, alone, 2, false, true, out);
    assert_string_equal(out, "a");
    ht_tokenizer_destroy(&t);
    struct tiny *source = tiny_pieces();
    source->source.add_space_prefix = HT_FLAG_NO;
    t = tiny_build(source);
    stream(t, ids, 5, false, true, out);
    assert_string_equal(out, " ab ab a ");
    ht_tokenizer_destroy(&t);
}

// Random ids: what streams out is what decode gives, with invalid bytes replaced.
static void like_decode(void **state)
{
    (void)state;
    struct ht_tokenizer *t = tiny_build(tiny_bytes("gpt-2"));
    uint32_t random = 3;
    for (int round = 0; round < 2000; round++) {
        int32_t ids[32];
        char all[256], out[1024], expected[1024];
        size_t n = (size_t)round % 32, bytes, used = 0;
        for (size_t i = 0; i < n; i++) {
            random = random * 1664525 + 1013904223;
            ids[i] = (int32_t)((random >> 16) % ht_tokenizer_n_tokens(t));
            if (random >> 30)
                ids[i] = 4 + (int32_t)(0x80 | (random >> 8 & 0x7F)); // mostly bytes of longer characters
        }
        assert_int_equal(ht_tokenizer_decode(t, ids, n, false, all, sizeof all, &bytes, NULL), HEARTH_OK);
        bool cut = false; // an unfinished character at the end is one U+FFFD, like an unfinished one anywhere
        for (size_t i = 0; i < bytes && !cut;) {
            size_t length = ht_utf8_char(all + i, bytes - i);
            for (size_t k = 1; !length && k <= 3 && i + k <= bytes && !cut; k++) {
                char longer[8] = {0};
                memcpy(longer, all + i, k);
                for (int fill = 0; fill < 2; fill++) {
                    memset(longer + k, fill ? 0x80 : 0xBF, 4);
                    cut = cut || (i + k == bytes && ht_utf8_char(longer, k + 4) > k);
                }
            }
            memcpy(expected + used, length ? all + i : FFFD, length ? length : 3);
            used += length ? length : 3;
            i += length ? length : 1;
        }
        expected[used] = '\0';
        stream(t, ids, n, false, true, out);
        assert_string_equal(out, expected);
    }
    ht_tokenizer_destroy(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whole_characters),
        cmocka_unit_test(control_tokens),
        cmocka_unit_test(space_prefix),
        cmocka_unit_test(like_decode),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
