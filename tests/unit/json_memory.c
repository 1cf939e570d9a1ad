// SPDX-License-Identifier: Apache-2.0
// Memory runs out while a schema or a header of safetensors is read: every allocation fails once, those of the JSON
// library too. It is told; a string that lacks a byte is never taken for the whole one, whatever stands behind it.
#include "tests/unit/grammar_check.h"

#include "engine/gguf/safetensors.h"
#include "tests/check/fault.h"
#include "tests/check/image.h"
#include "tests/check/own_malloc.h"

static char folder[64];

#define WORDS "a text that is longer than what strings begin with"

// True: it holds for the words and for nothing shorter.
static enum hearth_status read_schema(bool *whole)
{
    static const char schema[] = "{\"anyOf\":[{\"enum\":[\"" WORDS "\"]},{\"type\":\"integer\",\"minimum\":3}]}";
    struct ht_grammar *grammar;
    struct hearth_error err = {0};
    enum hearth_status status = ht_grammar_from_json_schema(&grammar, schema, sizeof schema - 1, &err);
    if (status)
        return status;
    long before = fail_at;
    fail_at = 0;
    struct ht_matcher *m;
    bool complete;
    status = ht_matcher_create(&m, &grammar, tiny_trie, tiny_tokenizer, TINY_N_VOCAB, NULL, 0, &err);
    assert_int_equal(status, HEARTH_OK);
    static const char text[] = "\"" WORDS "\"";
    *whole = grammar_read(m, text, sizeof text - 1, &complete) == sizeof text - 1 && complete;
    ht_matcher_destroy(&m);
    fail_at = before;
    return status;
}

static enum hearth_status read_header(bool *whole)
{
    struct ht_safetensors *file;
    struct hearth_error err = {0};
    enum hearth_status status = ht_safetensors_open(&file, check_path(folder, "a.safetensors"), &err);
    if (status)
        return status;
    *whole = ht_safetensors_n(file) == 2 && ht_safetensors_find(file, WORDS) && ht_safetensors_find(file, "b");
    ht_safetensors_close(&file);
    return status;
}

static void sweep(enum hearth_status (*read)(bool *whole))
{
    for (long n = 0, n_total = 0; n <= n_total; n++) {
        bool whole = true;
        long before = live;
        n_allocations = 0;
        fail_at = n;
        enum hearth_status status = read(&whole);
        n_total = n ? n_total : n_allocations;
        fail_at = 0;
        assert_int_equal(live, before);
        assert_true(n || status == HEARTH_OK);
        assert_true(!OWN_MALLOC || n_total > 10);
        if (status != HEARTH_OK && status != HEARTH_NOMEM)
            fail_msg("allocation %ld of %ld: %s", n, n_total, hearth_status_text(status));
        if (!whole)
            fail_msg("allocation %ld of %ld: a part was taken for the whole", n, n_total);
    }
}

static void schemas(void **state)
{
    (void)state;
    sweep(read_schema);
}

static void headers(void **state)
{
    (void)state;
    static const char header[] = "{\"" WORDS "\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
                                 "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}";
    struct image image = {0};
    image_str(&image, header);
    image_bytes(&image, "01234567", 8);
    check_file_write(check_path(folder, "a.safetensors"), image.data, image.len);
    image_free(&image);
    sweep(read_header);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(schemas), cmocka_unit_test(headers)};
    grammar_setup();
    check_folder_make(folder);
    int failed = cmocka_run_group_tests_name("json_memory", tests, NULL, NULL);
    check_folder_remove(folder);
    grammar_teardown();
    return failed;
}
