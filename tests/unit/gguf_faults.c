// SPDX-License-Identifier: Apache-2.0
// Thousands of damaged copies of a small model, and every allocation and every read of an opening made to
// fail. Nothing may crash, leak or be accepted with an error text missing.
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "engine/base/io.h"
#include "engine/base/utf8.h"
#include "engine/engine.h"
#include "engine/gguf/gguf.h"
#include "tests/check/exercise.h"
#include "tests/check/fault.h"
#include "tests/check/image.h"

static char folder[64];
static struct image valid;
static size_t valid_header;

static int set_up(void **state)
{
    (void)state;
    check_folder_make(folder);
    valid_header = image_valid(&valid);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    ht_io_set_hook(NULL);
    image_free(&valid);
    check_folder_remove(folder);
    return 0;
}

static uint64_t next_random(void)
{
    static uint64_t seed = 42; // the same files in every run
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return seed >> 16;
}

static bool swallow(void *user, const char *text, size_t len)
{
    (void)text;
    *(size_t *)user += len;
    return true;
}

// Either accepted and wholly readable, or refused with a status and a text that names the file.
static enum hearth_status survives(const struct image *image)
{
    const char *path = check_path(folder, "mutant.gguf");
    struct hearth_error err = {0};
    size_t inspected = 0;
    check_file_write(path, image->data, image->len);
    fault_memory_begin(0);
    enum hearth_status status = exercise_gguf(path, &err);
    assert_true(fault_memory_peak() <= (400 << 10) + 8 * image->len);
    assert_int_equal(fault_memory_end(NULL), 0);
    if (status != HEARTH_OK) {
        assert_true(status == HEARTH_FORMAT || status == HEARTH_UNSUPPORTED || status == HEARTH_LIMIT ||
                    status == HEARTH_INVALID || status == HEARTH_NOT_FOUND);
        assert_int_equal(err.code, status);
        assert_non_null(strstr(err.text, "mutant.gguf"));
        assert_true(ht_utf8_valid(err.text, strlen(err.text)));
    } else {
        assert_int_equal(hearth_gguf_inspect(path, true, swallow, &inspected, &err), HEARTH_OK);
        assert_int_equal(hearth_gguf_inspect(path, false, swallow, &inspected, &err), HEARTH_OK);
        assert_true(inspected > 500);
    }
    return status;
}

static void mutants(void **state)
{
    (void)state;
    static const uint64_t extremes[] = {0,
                                        1,
                                        0x7F,
                                        0xFF,
                                        0x7FFFFFFF,
                                        0xFFFFFFFF,
                                        (uint64_t)1 << 32,
                                        (uint64_t)1 << 62,
                                        INT64_MAX,
                                        UINT64_MAX,
                                        UINT64_MAX - 31};
    unsigned accepted = 0, refused = 0;
    assert_int_equal(survives(&valid), HEARTH_OK);
    for (unsigned n = 0; n < 6000; n++) {
        struct image mutant = {0};
        image_bytes(&mutant, valid.data, valid.len);
        size_t at = next_random() % valid_header;
        switch (n % 4) {
        case 0: mutant.data[at] ^= (unsigned char)(1u << next_random() % 8); break;
        case 1:
            for (unsigned k = 0; k < 1 + n % 7; k++)
                mutant.data[next_random() % valid_header] = (unsigned char)next_random();
            break;
        case 2: memcpy(mutant.data + at, &extremes[next_random() % 11], 1 + next_random() % 8); break;
        default: // a piece moved over another, then cut
            memmove(mutant.data + at, valid.data + next_random() % valid_header, next_random() % 64);
            mutant.len -= next_random() % 40;
        }
        if (survives(&mutant) == HEARTH_OK)
            accepted++;
        else
            refused++;
        image_free(&mutant);
    }
    assert_true(accepted > 300 && refused > 3000); // both roads were taken
}

// The n-th allocation fails, for every n.
static void every_allocation(void **state)
{
    (void)state;
    const char *path = check_path(folder, "memory.gguf");
    struct hearth_error err;
    struct ht_gguf *g;
    check_file_write(path, valid.data, valid.len);
    enum hearth_status status = HEARTH_NOMEM;
    unsigned long n = 0, calls;
    while (status != HEARTH_OK) {
        memset(&err, 0, sizeof err);
        fault_memory_begin(++n);
        status = ht_gguf_open(&g, path, &err);
        ht_gguf_close(&g);
        assert_int_equal(fault_memory_end(&calls), 0);
        if (status != HEARTH_OK) {
            assert_int_equal(status, HEARTH_NOMEM);
            assert_non_null(strstr(err.text, "memory.gguf: "));
        }
        assert_true(n < 100);
    }
    assert_true(n > 8);
    assert_int_equal(calls, n - 1);
}

static int read_fails_at, n_reads;

static int64_t failing_read(void *user, int fd, void *data, size_t len, uint64_t offset)
{
    (void)user;
    if (++n_reads == read_fails_at)
        return -EIO;
    return pread(fd, data, len < 100 ? len : 100, (off_t)offset); // short reads, too
}

static void every_read(void **state)
{
    (void)state;
    const char *path = check_path(folder, "reads.gguf");
    struct ht_io_hook hook = {.read_at = failing_read};
    struct hearth_error err;
    check_file_write(path, valid.data, valid.len);
    ht_io_set_hook(&hook);
    enum hearth_status status = HEARTH_IO;
    for (read_fails_at = 1; status != HEARTH_OK; read_fails_at++) {
        struct ht_gguf *g;
        n_reads = 0;
        fault_memory_begin(0);
        status = ht_gguf_open(&g, path, &err);
        ht_gguf_close(&g);
        assert_int_equal(fault_memory_end(NULL), 0);
        if (status != HEARTH_OK) {
            assert_int_equal(status, HEARTH_IO);
            assert_non_null(strstr(err.text, "reads.gguf: cannot read"));
        }
        assert_true(read_fails_at < 100);
    }
    assert_true(read_fails_at > 5);
    ht_io_set_hook(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mutants),
        cmocka_unit_test(every_allocation),
        cmocka_unit_test(every_read),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
