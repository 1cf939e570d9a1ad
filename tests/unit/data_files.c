// SPDX-License-Identifier: Apache-2.0
// Files of training data as they are found: empty, packed, half-written, wrapped, with holes, too deep or too large.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "engine/learn.h"
#include "tests/check/fault.h"

static char folder[64];

static int set_up(void **state)
{
    (void)state;
    check_folder_make(folder);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    check_folder_remove(folder);
    return 0;
}

static const char *file_of(const char *name, const char *text)
{
    return check_file_make(folder, name, text);
}

// What a whole file counts.
static struct hearth_data_counts read_file(const char *path, enum hearth_data_format want)
{
    struct hearth_data_reader *reader;
    struct hearth_data_counts counts;
    const struct hearth_data_record *r;
    struct hearth_error err = {0};
    const struct hearth_data_reader_params params = {.path = path};
    if (hearth_data_open(&reader, &params, &err))
        fail_msg("%s: %s", path, err.text);
    assert_int_equal(hearth_data_get_format(reader), want);
    do
        if (hearth_data_next(reader, &r, &err))
            fail_msg("%s: %s", path, err.text);
    while (r);
    hearth_data_get_counts(reader, &counts);
    hearth_data_close(&reader);
    return counts;
}

static void refused_as(const char *name, const char *text, size_t len, const char *cause)
{
    struct hearth_data_reader *reader;
    struct hearth_error err = {0};
    const char *path = check_path(folder, name);
    const struct hearth_data_reader_params params = {.path = path};
    check_file_write(path, text, len);
    assert_int_equal(hearth_data_open(&reader, &params, &err), HEARTH_FORMAT);
    assert_null(reader);
    if (!strstr(err.text, name) || !strstr(err.text, cause))
        fail_msg("%s does not say '%s'", err.text, cause);
}

static void refused(const char *text, size_t len, const char *cause)
{
    refused_as("bad.json", text, len, cause);
}

static void bad_files(void **state)
{
    (void)state;
    refused("", 0, "empty");
    refused(" \n\n ", 4, "empty");
    refused("\x7F" "ELF\0\0", 6, "not text");
    refused("\xFF\xFEh\0i\0", 6, "UTF-16");
    refused("[{\"a\":1}]", 9, "not recognised; name it after a colon: alpaca, ");
    refused("\xFF\xFE\0\0{\0\0\0", 8, "UTF-32");
    refused("\x1F\x8B\x08", 3, "gzip");
    refused("PK\3\4\n", 5, "zip archive");
    refused("PAR1\x15\4", 6, "Parquet");
    refused("[]", 2, "no records");
    refused("{\"messages\":[{\"role\"", 20, "no whole JSON objects");
    refused("# a comment\n{}\n", 15, ":text");
    refused("{\"turns\":[\"How?\"]}\n{\"messages\":1}\n{\"conversations\":[\"a\",\"b\"]}\n", 62, "not recognised");
    refused_as("a.csv", "question,answer\n1,2\n", 20, "is a table");
    refused_as("a.TSV", "question\tanswer\n1\t2\n", 20, "is a table");
    static const char mixed[] = "{\"instruction\":\"a\",\"output\":\"b\"}\n{\"instruction\":\"a\",\"out\n"
                                "{\"instruction\":\"a\",\"output\":\"\xE9\"}\n[1]\n{\"instruction\":\"c\","
                                "\"output\":1}\n"
                                "\n{\"instruction\":\"e\",\"output\":\"f\"}\n{\"instruction\":\"g\",";
    struct hearth_data_counts c = read_file(file_of("mixed", mixed), HEARTH_DATA_ALPACA);
    assert_int_equal(c.n_records, 2);
    assert_int_equal(c.skipped[HEARTH_DATA_SKIP_NOT_JSON], 1);
    assert_int_equal(c.skipped[HEARTH_DATA_SKIP_NOT_UTF8], 1);
    assert_int_equal(c.skipped[HEARTH_DATA_SKIP_NOT_OBJECT], 1);
    assert_int_equal(c.skipped[HEARTH_DATA_SKIP_MISSING_FIELD], 1);
    assert_int_equal(c.skipped[HEARTH_DATA_SKIP_CUT_OFF], 1);
    assert_int_equal(c.first_line[HEARTH_DATA_SKIP_CUT_OFF], 8);
    // Two on one line, and commas between lines.
    c = read_file(file_of("glued", "{\"input\":\"a\",\"target\":\"b\"}{\"input\":\"c\",\"target\":\"d\"}\n"),
                  HEARTH_DATA_ALPACA);
    assert_int_equal(c.n_records, 2);
    c = read_file(file_of("commas", "{\"input\":\"a\",\"target\":\"b\"},\n{\"input\":\"c\",\"target\":\"d\"},\n"),
                  HEARTH_DATA_ALPACA);
    assert_int_equal(c.n_records, 2);
    c = read_file(file_of("half", "[{\"input\":\"a\",\"target\":\"b\"},\n{\"input\":\"c"), HEARTH_DATA_ALPACA);
    assert_int_equal(c.n_records, 1);
    assert_int_equal(c.skipped[HEARTH_DATA_SKIP_CUT_OFF], 1);
}

// A wrapping of one array; one that holds more, one that has lost its end, and records that only look like one.
static void wrapped_arrays(void **state)
{
    (void)state;
    struct hearth_data_counts c =
        read_file(file_of("whole", "{\"data\": [\n{\"input\":\"a\",\"target\":\"b\"}\n]}\n"), HEARTH_DATA_ALPACA);
    assert_int_equal(c.n_records, 1);
    for (int i = 0; i < HEARTH_DATA_N_SKIPS; i++)
        assert_int_equal(c.skipped[i], 0);
    c = read_file(file_of("two", "{\"train\":[{\"input\":\"a\",\"target\":\"b\"}],\n"
                                 "\"test\":[{\"input\":\"c\",\"target\":\"d\"}]}"),
                  HEARTH_DATA_ALPACA);
    assert_int_equal(c.n_records, 1);
    assert_int_equal(c.skipped[HEARTH_DATA_SKIP_BEHIND], 1);
    assert_int_equal(c.first_line[HEARTH_DATA_SKIP_BEHIND], 2);
    c = read_file(file_of("open", "{\"data\":[{\"input\":\"a\",\"target\":\"b\"}]\n"), HEARTH_DATA_ALPACA);
    assert_int_equal(c.n_records, 1);
    assert_int_equal(c.skipped[HEARTH_DATA_SKIP_CUT_OFF], 1);
    c = read_file(file_of("own", "{\"data\":[{}],\"input\":\"a\",\"target\":\"b\"}\n"
                                 "{\"input\":\"c\",\"target\":\"d\"}\n"),
                  HEARTH_DATA_ALPACA);
    assert_int_equal(c.n_records, 2);
}

// A text whose end is a hole, as a file system leaves one after a power cut, beyond what is looked at in the beginning.
static void zeros_are_no_text(void **state)
{
    (void)state;
    enum { BYTES = 400 << 10, HOLE = 300 << 10 };
    char *text = malloc(BYTES);
    memset(text, 'a', HOLE);
    memset(text + HOLE, 0, BYTES - HOLE);
    for (size_t i = 99; i < HOLE; i += 100)
        text[i] = '\n';
    check_file_write(check_path(folder, "hole"), text, BYTES);
    free(text);
    struct hearth_data_counts c = read_file(check_path(folder, "hole"), HEARTH_DATA_TEXT);
    assert_true(c.n_records > 5);
    assert_true(c.skipped[HEARTH_DATA_SKIP_NOT_UTF8] > 2);
}

// A tree of messages one a line is named by its own first line; one that begins with an answer has lost its question.
static void lines_of_trees(void **state)
{
    (void)state;
#define MESSAGE(id, tree, parent, role)                                                                         \
    "{\"message_id\":\"" id "\",\"message_tree_id\":\"" tree "\",\"parent_id\":" parent ",\"role\":\"" role    \
    "\",\"text\":\"x\"}\n"
    struct hearth_data_reader *reader;
    const struct hearth_data_record *r;
    struct hearth_data_counts counts;
    const struct hearth_data_reader_params params = {
        .path = file_of("trees", MESSAGE("0", "s", "\"9\"", "assistant") MESSAGE("1", "t", "null", "prompter")
                                 MESSAGE("2", "t", "\"1\"", "assistant") MESSAGE("3", "u", "null", "prompter"))};
    assert_int_equal(hearth_data_open(&reader, &params, NULL), HEARTH_OK);
    assert_int_equal(hearth_data_next(reader, &r, NULL), HEARTH_OK);
    assert_int_equal(r->line, 2);
    assert_int_equal(r->n_turns, 2);
    assert_int_equal(hearth_data_next(reader, &r, NULL), HEARTH_OK);
    assert_null(r);
    hearth_data_get_counts(reader, &counts);
    assert_int_equal(counts.first_line[HEARTH_DATA_SKIP_NOT_ALTERNATING], 1);
    assert_int_equal(counts.first_line[HEARTH_DATA_SKIP_NO_ANSWER], 4);
    hearth_data_close(&reader);
}

static void deep_and_large(void **state)
{
    (void)state;
    enum { LARGE = 17 << 20, DEEP = 3000 };
    char *text = malloc(2 * LARGE);
    size_t n = (size_t)snprintf(text, 64, "[{\"input\":\"a\",\"target\":\"b\"},\n{\"input\":");
    memset(text + n, '[', DEEP);
    memset(text + n + DEEP, ']', DEEP);
    n += 2 * DEEP;
    n += (size_t)snprintf(text + n, 64, "},\n{\"input\":\"");
    memset(text + n, 'x', LARGE);
    n += LARGE;
    n += (size_t)snprintf(text + n, 64, "\"},{\"input\":\"e\",\"target\":\"f\"}]");
    check_file_write(check_path(folder, "large"), text, n);
    free(text);
    fault_memory_begin(0);
    struct hearth_data_counts c = read_file(check_path(folder, "large"), HEARTH_DATA_ALPACA);
    assert_true(fault_memory_peak() < (size_t)52 << 20); // the cap, doubled while it grows
    assert_int_equal(fault_memory_end(NULL), 0);
    assert_int_equal(c.n_records, 2);
    assert_int_equal(c.skipped[HEARTH_DATA_SKIP_TOO_LARGE], 1);
    assert_int_equal(c.skipped[HEARTH_DATA_SKIP_TOO_DEEP], 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_files),      cmocka_unit_test(wrapped_arrays), cmocka_unit_test(zeros_are_no_text),
        cmocka_unit_test(lines_of_trees), cmocka_unit_test(deep_and_large),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
