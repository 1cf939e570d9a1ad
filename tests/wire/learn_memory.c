// SPDX-License-Identifier: Apache-2.0
// Memory runs out while what is known of a data set, training or adapter is read: every allocation fails once. It is
// told, and nothing is taken for the half of it.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "engine/learn.h"
#include "firmware/json_text.h"
#include "firmware/learn_internal.h"
#include "firmware/reserve.h"
#include "tests/check/fault.h"
#include "tests/check/own_malloc.h"

// The engine's own watch is there before threads are: what it reads later sets nothing that they use.
static void the_watch_stands(void **state)
{
    (void)state;
    char folder[64];
    json_malloc_t take, later;
    json_free_t give, ignored;
    struct hearth_data_reader *reader;
    struct hearth_error err = {0};
    check_folder_make(folder);
    const struct hearth_data_reader_params params = {.path = check_file_make(folder, "a.jsonl", "{\"text\":\"a\"}\n")};
    hd_json_begin();
    json_get_alloc_funcs(&take, &give);
    assert_int_equal(hearth_data_open(&reader, &params, &err), HEARTH_OK);
    json_get_alloc_funcs(&later, &ignored);
    hearth_data_close(&reader);
    check_folder_remove(folder);
    assert_true(take == later);
}

static void every_allocation_fails_once(void **state)
{
    (void)state;
    char row[] = "{\"base\": \"0011223344556677\", \"data_set\": \"a data set's name\", \"steps\": 7, \"use\": true}";
    hd_json_begin();
    const struct hd_learnt item = {.name = "mine", .meta = row};
    json_t *whole = hd_learnt_meta(&item, &(struct hearth_error){0});
    assert_int_equal(json_object_size(whole), 4);
    for (long n = 0, n_total = 0; n <= n_total; n++) {
        struct hearth_error err = {0};
        long before = live;
        n_allocations = 0;
        fail_at = n;
        json_t *meta = hd_learnt_meta(&item, &err);
        fail_at = 0;
        n_total = n ? n_total : n_allocations;
        assert_true(!OWN_MALLOC || n_total > 3);
        if (meta) // a library had another way
            assert_true(json_equal(meta, whole));
        else
            assert_int_equal(err.code, HEARTH_NOMEM);
        json_decref(meta);
        assert_int_equal(live, before);
    }
    json_decref(whole);
}

// A conversation becomes a line of a data set with all of its turns, or is told to have none.
static void conversations(void **state)
{
    (void)state;
    struct hd_turn turns[] = {
        {.role = HD_ROLE_USER, .text = "a question", .text_len = 10, .finished = true},
        {.role = HD_ROLE_ASSISTANT, .text = "an answer that was cut", .text_len = 22},
        {.role = HD_ROLE_USER, .text = "another question", .text_len = 16, .finished = true},
        {.role = HD_ROLE_ASSISTANT, .text = "an answer", .text_len = 9, .finished = true},
    };
    const struct hd_conversation conversation = {.turns = turns, .n_turns = 4};
    static char whole[4096], again[sizeof whole];
    hd_json_begin();
    for (long n = 0, n_total = 0; n <= n_total; n++) {
        struct hd_learn_own own = {.lines = tmpfile()};
        struct hearth_error err = {0};
        char *text = n ? again : whole;
        assert_non_null(own.lines);
        assert_int_equal(setvbuf(own.lines, NULL, _IONBF, 0), 0);
        long before = live;
        n_allocations = 0;
        fail_at = n;
        enum hearth_status status = hd_learn_own_put(&own, &conversation, &err);
        fail_at = 0;
        n_total = n ? n_total : n_allocations;
        assert_int_equal(live, before);
        assert_true(!OWN_MALLOC || n_total > 10);
        assert_true(n || status == HEARTH_OK);
        rewind(own.lines);
        memset(text, 0, sizeof whole);
        (void)!fread(text, 1, sizeof whole - 1, own.lines);
        fclose(own.lines);
        if (status == HEARTH_OK)
            assert_string_equal(text, whole);
        else
            assert_int_equal(status, HEARTH_NOMEM);
    }
    assert_non_null(strstr(whole, "cut\",\"weight\":0}"));
}

// Where memory is short in the midst of an escape the daemon goes on: with its reserve, and tells.
static void escapes(void **state)
{
    (void)state;
#define TABS "\\tx\\tx\\tx\\tx\\tx\\tx\\tx\\tx\\tx\\tx\\tx\\tx\\tx\\tx\\tx\\tx\\tx\\tx\\tx\\tx"
    static const char text[] = "[\"x" TABS "\"]"; // the 16th byte is one behind a backslash
    hd_json_begin();
    for (long n = 0, n_total = 0; n <= n_total; n++) {
        assert_true(hd_reserve_refill());
        n_allocations = 0;
        fail_at = n;
        json_t *value = hd_json_read(text, sizeof text - 1, 0, NULL);
        fail_at = 0;
        n_total = n ? n_total : n_allocations;
        assert_true(!OWN_MALLOC || n_total > 3);
        assert_true(value ? json_array_size(value) == 1 : errno == ENOMEM);
        json_decref(value);
    }
    hd_reserve_free();
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_watch_stands), // first: once in a program
                                       cmocka_unit_test(every_allocation_fails_once),
                                       cmocka_unit_test(conversations), cmocka_unit_test(escapes)};
    return cmocka_run_group_tests_name("learn_memory", tests, NULL, NULL);
}
