// SPDX-License-Identifier: Apache-2.0
// From token bytes to shown text: stop strings over token borders, held back and let out again; characters over
// token borders; bytes that are no text.
#include "tests/model/model_test.h"

#include "engine/base/utf8.h"
#include "engine/model/answer.h"

static struct ht_answer answer;
static char shown[256];
static bool stopped;

// Pushes pieces (NULL ends the list) and then finishes, unless a stop string was complete.
static void feed(const char *const *stops, const char *const *pieces)
{
    ht_answer_reset(&answer);
    for (; *stops; stops++)
        assert_true(ht_answer_add_stop(&answer, *stops, strlen(*stops)));
    size_t n = 0;
    stopped = false;
    for (; *pieces && !stopped; pieces++) {
        stopped = ht_answer_push(&answer, *pieces, strlen(*pieces));
        memcpy(shown + n, answer.out, answer.n_out);
        n += answer.n_out;
    }
    if (!stopped) {
        ht_answer_finish(&answer);
        memcpy(shown + n, answer.out, answer.n_out);
        n += answer.n_out;
    }
    shown[n] = 0;
}

static void a_stop_string_over_many_tokens(void **state)
{
    (void)state;
    feed((const char *const[]){"[|Human|]", "###", NULL},
         (const char *const[]){"Hi", " [", "|Hu", "man", "|] more", NULL});
    assert_true(stopped);
    assert_string_equal(shown, "Hi ");
}

static void what_only_looked_like_one_comes_out(void **state)
{
    (void)state;
    feed((const char *const[]){"[|Human|]", NULL}, (const char *const[]){"a [|Hum", "ble|] b", NULL});
    assert_false(stopped);
    assert_string_equal(shown, "a [|Humble|] b");
    feed((const char *const[]){"[|Human|]", NULL}, (const char *const[]){"the end [|Huma", NULL});
    assert_string_equal(shown, "the end [|Huma");
    feed((const char *const[]){"aab", NULL},
         (const char *const[]){"a", "a", "a", "b", "c", NULL}); // begins again inside
    assert_true(stopped);
    assert_string_equal(shown, "a");
}

static void nothing_of_a_beginning_is_shown(void **state)
{
    (void)state;
    ht_answer_reset(&answer);
    assert_true(ht_answer_add_stop(&answer, "STOP", 4));
    assert_false(ht_answer_push(&answer, "go ST", 5));
    assert_int_equal(answer.n_out, 3); // "go "
    assert_false(ht_answer_push(&answer, "O", 1));
    assert_int_equal(answer.n_out, 0);
    assert_false(ht_answer_push(&answer, "ry", 2));
    assert_int_equal(answer.n_out, 5);
    assert_memory_equal(answer.out, "STOry", 5);
}

static void characters_over_token_borders(void **state)
{
    (void)state;
    feed((const char *const[]){NULL}, (const char *const[]){"caf\xC3", "\xA9 \xF0\x9F", "\x94\xA5", NULL});
    assert_string_equal(shown, "caf\xC3\xA9 \xF0\x9F\x94\xA5");
    ht_answer_reset(&answer);
    assert_false(ht_answer_push(&answer, "\xF0\x9F\x94", 3));
    assert_int_equal(answer.n_out, 0);
}

static void bytes_that_are_no_text(void **state)
{
    (void)state;
    // A lone continuation, an overlong form, a surrogate, a character cut off at the end.
    feed((const char *const[]){NULL}, (const char *const[]){"a\x80"
                                                            "b",
                                                            "\xC0\xAF", "\xED\xA0\x80", "\xE2\x82", NULL});
    assert_string_equal(shown, "a\xEF\xBF\xBD"
                               "b"
                               "\xEF\xBF\xBD\xEF\xBF\xBD"
                               "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"
                               "\xEF\xBF\xBD\xEF\xBF\xBD");
}

// Random bytes in tokens of random lengths: what comes out are their characters, each other byte as U+FFFD, and every
// part is text by itself.
static void characters_of_random_bytes(void **state)
{
    (void)state;
    uint32_t random = 3;
    for (int round = 0; round < 2000; round++) {
        char all[48], out[3 * sizeof all], expected[3 * sizeof all];
        size_t n = (size_t)round % sizeof all, n_out = 0, n_expected = 0;
        for (size_t i = 0; i < n; i++) {
            random = random * 1664525 + 1013904223;
            all[i] = (char)(random >> 30 ? 0x80 | (random >> 16 & 0x7F) : random >> 16 & 0x7F); // mostly of longer ones
        }
        for (size_t i = 0, length; i < n; i += length ? length : 1) {
            length = ht_utf8_char(all + i, n - i);
            memcpy(expected + n_expected, length ? all + i : "\xEF\xBF\xBD", length ? length : 3);
            n_expected += length ? length : 3;
        }
        ht_answer_reset(&answer);
        for (size_t at = 0, part; at <= n; at += part) {
            random = random * 1664525 + 1013904223;
            part = at == n ? 1 : 1 + (random >> 16) % (n - at < 4 ? n - at : 4);
            if (at < n)
                assert_false(ht_answer_push(&answer, all + at, part));
            else
                ht_answer_finish(&answer);
            assert_true(ht_utf8_valid(answer.out, answer.n_out));
            memcpy(out + n_out, answer.out, answer.n_out);
            n_out += answer.n_out;
        }
        assert_int_equal(n_out, n_expected);
        assert_memory_equal(out, expected, n_out);
    }
}

static void limits_of_stop_strings(void **state)
{
    (void)state;
    char long_one[HT_MAX_STOP_BYTES + 1];
    memset(long_one, 'x', sizeof long_one);
    ht_answer_reset(&answer);
    assert_false(ht_answer_add_stop(&answer, "", 0));
    assert_false(ht_answer_add_stop(&answer, long_one, HT_MAX_STOP_BYTES + 1));
    for (int i = 0; i < HT_MAX_STOP_STRINGS; i++)
        assert_true(ht_answer_add_stop(&answer, long_one, HT_MAX_STOP_BYTES));
    assert_false(ht_answer_add_stop(&answer, "y", 1));
    static char token[HT_MAX_TOKEN_BYTES];
    memset(token, 'x', HT_MAX_STOP_BYTES - 1);
    assert_false(ht_answer_push(&answer, token, HT_MAX_STOP_BYTES - 1));
    memset(token, 'z', sizeof token);
    assert_false(
        ht_answer_push(&answer, token, sizeof token)); // the largest token on top of the longest beginning
    assert_int_equal(answer.n_out, HT_MAX_STOP_BYTES - 1 + HT_MAX_TOKEN_BYTES);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stop_string_over_many_tokens),
        cmocka_unit_test(what_only_looked_like_one_comes_out),
        cmocka_unit_test(nothing_of_a_beginning_is_shown),
        cmocka_unit_test(characters_over_token_borders),
        cmocka_unit_test(bytes_that_are_no_text),
        cmocka_unit_test(characters_of_random_bytes),
        cmocka_unit_test(limits_of_stop_strings),
    };
    return cmocka_run_group_tests_name("answer", tests, NULL, NULL);
}
