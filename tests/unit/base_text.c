// SPDX-License-Identifier: Apache-2.0
// Error texts, status texts, well-formed UTF-8.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "engine/base/error.h"
#include "engine/base/utf8.h"

static void status_texts(void **state)
{
    (void)state;
    assert_string_equal(hearth_status_text(HEARTH_OK), "ok");
    assert_string_equal(hearth_status_text(HEARTH_BUSY), "busy");
    assert_string_equal(hearth_status_text(HEARTH_UNSUPPORTED), "not supported");
    assert_string_equal(hearth_status_text((enum hearth_status)999), "unknown status");
    assert_int_equal(HEARTH_CONTEXT, 10); // pinned
}

static void fail_fills(void **state)
{
    (void)state;
    struct hearth_error err = {0};
    assert_int_equal(ht_fail(&err, HEARTH_IO, "%s: %d", "file", 7), HEARTH_IO);
    assert_int_equal(err.code, HEARTH_IO);
    assert_string_equal(err.text, "file: 7");
    assert_int_equal(ht_fail(NULL, HEARTH_LIMIT, "x"), HEARTH_LIMIT);
    ht_fail(&err, HEARTH_NOMEM, "outer: %s", err.text); // an argument may be the text itself
    assert_string_equal(err.text, "outer: file: 7");
}

static void fail_cleans(void **state)
{
    (void)state;
    struct hearth_error err;
    ht_fail(&err, HEARTH_FORMAT, "a%cb%cc\x7f%s", '\n', 27, "d");
    assert_string_equal(err.text, "a?b?c?d");
    ht_fail(&err, HEARTH_FORMAT, "%s",
            "\xC2\x9B"
            "31m"); // a control sequence of terminals, U+009B
    assert_string_equal(err.text, "?31m");
    ht_fail(&err, HEARTH_FORMAT, "%s", "\xC3\xA9\xFF\xC3");
    assert_string_equal(err.text, "\xC3\xA9??");
}

// Texts of every length around the limit, of characters of 1 to 4 bytes: always whole characters, never too
// long.
static void fail_cuts(void **state)
{
    (void)state;
    static const char *const characters[] = {"x", "\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\x99\x82"};
    for (size_t c = 0; c < 4; c++)
        for (size_t lead = 0; lead < 5; lead++) {
            char text[1024];
            size_t n = strlen(characters[c]), used = lead;
            memset(text, '.', lead);
            for (; used + n < sizeof text; used += n)
                memcpy(text + used, characters[c], n);
            text[used] = 0;
            struct hearth_error err;
            memset(&err, 'z', sizeof err);
            ht_fail(&err, HEARTH_FORMAT, "%s", text);
            size_t len = strnlen(err.text, sizeof err.text);
            assert_true(len < HEARTH_ERROR_TEXT_BYTES && len >= HEARTH_ERROR_TEXT_BYTES - 4);
            assert_true(ht_utf8_valid(err.text, len));
            assert_memory_equal(err.text, text, len);
            assert_int_equal((len - lead) % n, 0);
        }
}

static void shown_paths(void **state)
{
    (void)state;
    char path[400];
    assert_string_equal(ht_shown_path("/a/b.gguf"), "/a/b.gguf");
    memset(path, 'd', sizeof path);
    memcpy(path + sizeof path - 20, "/models/tiny-1.gguf", 20);
    assert_string_equal(ht_shown_path(path), "models/tiny-1.gguf");
    for (size_t i = 0; i + 3 < sizeof path; i += 3)
        memcpy(path + i, "\xE2\x82\xAC", 3);
    path[399] = 0;
    const char *shown = ht_shown_path(path);
    assert_true(strlen(shown) <= 100 && ht_utf8_valid(shown, strlen(shown)));
}

static void utf8(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t len;
        int n; // as ht_utf8_scan tells it
    } cases[] = {
        {"", 0, 0},
        {"a", 1, 1},
        {"\0", 1, 1},
        {"\xC3\xA9", 2, 2},
        {"\xC3", 1, 0},
        {"\x80", 1, -1},
        {"\xC0\x80", 2, -1},        // overlong NUL
        {"\xC1\xBF", 2, -1},        // overlong
        {"\xE0\x9F\xBF", 3, -1},    // overlong
        {"\xE0\xA0\x80", 3, 3},     // U+0800
        {"\xED\x9F\xBF", 3, 3},     // U+D7FF
        {"\xED\xA0\x80", 3, -1},    // a surrogate
        {"\xEE\x80\x80", 3, 3},     // U+E000
        {"\xF0\x8F\xBF\xBF", 4, -1}, // overlong
        {"\xF0\x90\x80\x80", 4, 4}, // U+10000
        {"\xF4\x8F\xBF\xBF", 4, 4}, // U+10FFFF
        {"\xF4\x90\x80\x80", 4, -1}, // beyond
        {"\xF5\x80\x80\x80", 4, -1},
        {"\xF0\x90\x80\x41", 4, -1},
        {"\xF0\x90\x80\x80", 3, 0}, // cut
        {"\xE0", 1, 0},
        {"\xE0\x9F", 2, -1}, // can no longer become one
        {"\xE0\xA0", 2, 0},
        {"\xF0\x90\x41", 3, -1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(ht_utf8_scan(cases[i].text, cases[i].len), cases[i].n);
        assert_int_equal(ht_utf8_char(cases[i].text, cases[i].len), cases[i].n > 0 ? cases[i].n : 0);
    }
    assert_true(ht_utf8_valid("", 0));
    assert_true(ht_utf8_valid("na\xC3\xAFve", 6));
    assert_false(ht_utf8_valid("na\xC3\xAFve\xC3", 7));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(status_texts), cmocka_unit_test(fail_fills),  cmocka_unit_test(fail_cleans),
        cmocka_unit_test(fail_cuts),    cmocka_unit_test(shown_paths), cmocka_unit_test(utf8),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
