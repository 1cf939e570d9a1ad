// SPDX-License-Identifier: Apache-2.0
// Memory runs out while data is read: every allocation fails once, those of the JSON library too. That is told as what
// it is: no record is counted as damaged, left out or cut for it, and nothing is left behind.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "engine/learn.h"
#include "engine/learn/eval.h"
#include "tests/check/fault.h"
#include "tests/check/own_malloc.h"

// Without escapes: jansson ends the program where the byte behind a backslash is the one that it could not keep.
static const char *const files[] = {
    "{\"messages\":[{\"role\":\"system\",\"content\":\"S\"},{\"role\":\"user\",\"content\":[{\"type\":\"text\","
    "\"text\":\"a\"},{\"type\":\"text\",\"text\":\"b\"}]},{\"role\":\"assistant\",\"content\":null,"
    "\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":{\"x\":0.25,\"y\":[1,null]}}}]}],"
    "\"tools\":[{\"name\":\"f\",\"parameters\":{}}],\"id\":7}\n"
    "{\"tools\":\"[]\",\"messages\":[{\"role\":\"user\",\"content\":\"Q\"},{\"role\":\"assistant\","
    "\"content\":\"B\"}]}\n"
    "{\"messages\":[{\"role\":\"user\",\"content\":\"cut off\n"
    "[1]\n"
    "{\"messages\":[{\"role\":\"user\",\"content\":\"Q\"},{\"role\":\"assistant\",\"content\":\"A\"}],"
    "\"lang\":\"en\"}\n"
    "{\"messages\":[{\"role\":\"user\",\"content\":\"a question of more than one line of bytes, and a number\"},"
    "{\"role\":\"assistant\",\"content\":\"A\",\"weight\":1}],\"id\":8}\n",
    "{\"message_id\":\"1\",\"message_tree_id\":\"t\",\"parent_id\":null,\"role\":\"prompter\",\"text\":\"Q\"}\n"
    "{\"message_id\":\"2\",\"message_tree_id\":\"t\",\"parent_id\":\"1\",\"role\":\"assistant\",\"text\":\"A\"}\n"
    "{\"message_id\":\"3\",\"message_tree_id\":\"t\",\"parent_id\":\"1\",\"role\":\"assistant\",\"text\":\"B\"}\n"
    "{\"message_id\":\"4\",\"message_tree_id\":\"u\",\"parent_id\":null,\"role\":\"prompter\",\"text\":\"R\"}\n"
    "{\"message_id\":\"5\",\"message_tree_id\":\"u\",\"parent_id\":\"4\",\"role\":\"assistant\",\"text\":\"C\"}\n",
    "[{\"conversation_id\":\"c\",\"current_node\":\"3\",\"mapping\":{\"0\":{\"parent\":null,\"children\":[\"1\"]},"
    "\"1\":{\"parent\":\"0\",\"children\":[\"2\",\"3\"],\"message\":{\"author\":{\"role\":\"user\"},\"content\":"
    "{\"content_type\":\"text\",\"parts\":[\"Q\",\"R\"]}}},\"2\":{\"parent\":\"1\",\"children\":[],\"message\":"
    "{\"author\":{\"role\":\"assistant\"},\"content\":{\"content_type\":\"text\",\"parts\":[\"old\"]}}},\"3\":"
    "{\"parent\":\"1\",\"children\":[],\"message\":{\"author\":{\"role\":\"assistant\"},\"content\":"
    "{\"content_type\":\"text\",\"parts\":[\"new\"]}}}}}]",
    "{\"conversations\":[{\"from\":\"human\",\"value\":\"a question\"},{\"from\":\"gpt\",\"value\":\"an answer\"}],"
    "\"id\":\"one\"}\n{\"conversations\":[{\"from\":\"human\",\"value\":\"another\"},{\"from\":\"gpt\",\"value\":"
    "\"and what is said\"}],\"id\":\"two\"}\n",
    "{\"prompt\":\"Q\",\"chosen\":\"yes\",\"rejected\":\"no\"}\n",
    ("{\"instruction\":\"Q\",\"output\":\"A\",\"history\":[[\"Q0\",\"A0\"],[\"Q1\",\"A1\"]]}\nno JSON at all\n"
     "{\"instruction\":\"Q\"}\n"),
};
static char folder[64];

static void put(char *text, size_t size, const char *format, ...) __attribute__((format(printf, 3, 4)));
static void put(char *text, size_t size, const char *format, ...)
{
    va_list args;
    size_t n = strlen(text);
    va_start(args, format);
    assert_true((size_t)vsnprintf(text + n, size - n, format, args) < size - n);
    va_end(args);
}

static void put_turns(char *text, size_t size, const struct hearth_data_turn *turns, size_t n)
{
    for (size_t i = 0; i < n; i++)
        put(text, size, "%d %.*s\n", turns[i].role, (int)turns[i].len_bytes, turns[i].text);
}

// All records, and what was left out and changed.
static enum hearth_status read_data(const char *path, char *text, size_t size)
{
    struct hearth_data_reader *reader;
    const struct hearth_data_record *record;
    const struct hearth_data_reader_params params = {.path = path};
    struct hearth_data_counts counts;
    struct hearth_error err = {0};
    text[0] = 0;
    enum hearth_status status = hearth_data_open(&reader, &params, &err);
    if (status)
        return status;
    while (!(status = hearth_data_next(reader, &record, &err)) && record) {
        put(text, size, "%s %s %zu\n", record->id, record->lang, record->n_shared);
        put_turns(text, size, record->turns, record->n_turns);
        put_turns(text, size, record->rejected, record->n_rejected);
    }
    hearth_data_get_counts(reader, &counts);
    hearth_data_close(&reader);
    for (int i = 0; i < HEARTH_DATA_N_SKIPS; i++)
        put(text, size, "%llu ", (unsigned long long)counts.skipped[i]);
    for (int i = 0; i < HEARTH_DATA_N_FIXES; i++)
        put(text, size, "%llu ", (unsigned long long)counts.fixed[i]);
    return status;
}

static enum hearth_status read_tasks(const char *path, char *text, size_t size)
{
    struct ht_task_file file;
    struct hearth_task_counts counts = {0};
    struct hearth_error err = {0};
    const json_t *value;
    text[0] = 0;
    enum hearth_status status = ht_task_open(&file, path, &counts, &err);
    if (status)
        return status;
    while (!(status = ht_task_next(&file, &value, &err)) && value)
        put(text, size, "%zu %s\n", json_object_size(value), json_string_value(json_object_get(value, "output")));
    ht_task_close(&file);
    for (int i = 0; i < HEARTH_TASK_SKIPS; i++)
        put(text, size, "%llu ", (unsigned long long)counts.skipped[i]);
    return status;
}

static void sweep(size_t file, enum hearth_status (*read)(const char *, char *, size_t))
{
    static char whole[8192], again[sizeof whole];
    const char *path = check_file_make(folder, "data.jsonl", files[file]);
    for (long n = 0, n_total = 0; n <= n_total; n++) {
        long before = live;
        n_allocations = 0;
        fail_at = n;
        enum hearth_status status = read(path, n ? again : whole, sizeof whole);
        fail_at = 0;
        assert_int_equal(live, before);
        if (n == 0) {
            assert_int_equal(status, HEARTH_OK);
            n_total = n_allocations;
            assert_true(!OWN_MALLOC || n_total > 20);
        } else if (status == HEARTH_OK) { // a library had another way
            assert_string_equal(again, whole);
        } else if (status != HEARTH_NOMEM) {
            fail_msg("file %zu, allocation %ld of %ld: %s", file, n, n_total, hearth_status_text(status));
        }
    }
}

static void records(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++)
        sweep(i, read_data);
}

static void questions(void **state)
{
    (void)state;
    sweep(0, read_tasks);
    sweep(sizeof files / sizeof files[0] - 1, read_tasks);
}

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

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(records), cmocka_unit_test(questions)};
    return cmocka_run_group_tests_name("data_memory", tests, set_up, tear_down);
}
