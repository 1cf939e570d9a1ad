// SPDX-License-Identifier: Apache-2.0
// The safetensors reader and writer: what was written is read, files that lie are refused with the cause and for no
// more memory than their bytes justify, and whatever fails leaves no file behind.
#include <errno.h>
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "engine/base/io.h"
#include "engine/base/limits.h"
#include "engine/base/mem.h"
#include "engine/gguf/safetensors.h"
#include "tests/check/fault.h"
#include "tests/check/image.h"

static char folder[64];

static void *json_alloc(size_t size_bytes)
{
    return ht_calloc(1, size_bytes);
}

static int set_up(void **state)
{
    (void)state;
    json_set_alloc_funcs(json_alloc, ht_free); // so that its allocations are counted and fail, too
    check_folder_make(folder);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    ht_io_set_hook(NULL);
    check_folder_remove(folder);
    return 0;
}

static struct image image_of(const char *header, size_t data_bytes)
{
    struct image image = {0};
    image_str(&image, header);
    for (size_t i = 0; i < data_bytes; i++)
        image_u8(&image, (unsigned)i);
    return image;
}

static void refused(const char *header, size_t data_bytes, enum hearth_status want, const char *text)
{
    struct image image = image_of(header, data_bytes);
    struct ht_safetensors *file;
    struct hearth_error err = {0};
    const char *path = check_path(folder, "bad.safetensors");
    check_file_write(path, image.data, image.len);
    fault_memory_begin(0);
    enum hearth_status status = ht_safetensors_open(&file, path, &err);
    size_t peak = fault_memory_peak();
    assert_int_equal(fault_memory_end(NULL), 0);
    if (status != want || !strstr(err.text, text))
        print_error("header %.60s: status %d, \"%s\", wanted %d \"%s\"\n", header, (int)status, err.text, (int)want,
                    text);
    assert_int_equal(status, want);
    assert_null(file);
    assert_non_null(strstr(err.text, text));
    assert_non_null(strstr(err.text, "bad.safetensors"));
    assert_true(peak <= (16 << 10) + 40 * image.len);
    image_free(&image);
}

#define T(shape, offsets) "{\"dtype\":\"F32\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

static void lies(void **state)
{
    (void)state;
    refused("[]", 0, HEARTH_FORMAT, "not a safetensors file");
    refused("{", 0, HEARTH_FORMAT, "a header of 1 bytes");
    refused("{\"a\"", 0, HEARTH_FORMAT, "no JSON of the format");
    refused("{\"a\":1}", 0, HEARTH_FORMAT, "not described by");
    refused("{\"a\":" T("[1]", "[0,4]") ",\"a\":" T("[1]", "[0,4]") "}", 4, HEARTH_FORMAT, "no JSON of the format");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":1}}", 4, HEARTH_FORMAT,
            "not described by");
    refused("{\"a\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[0,8]}}", 8, HEARTH_UNSUPPORTED, "type \"I64\"");
    refused("{\"a\":" T("[2]", "[0,4]") "}", 4, HEARTH_FORMAT, "a has 4 bytes, its shape needs 8");
    refused("{\"a\":" T("[1]", "[0,8]") "}", 4, HEARTH_FORMAT, "beyond the file's end");
    refused("{\"a\":" T("[1]", "[4,0]") "}", 4, HEARTH_FORMAT, "beyond the file's end");
    refused("{\"a\":" T("[1]", "[-4,0]") "}", 4, HEARTH_FORMAT, "not two whole numbers");
    refused("{\"a\":" T("[1]", "[0,4.0]") "}", 4, HEARTH_FORMAT, "not two whole numbers");
    refused("{\"a\":" T("[1]", "[0,4,4]") "}", 4, HEARTH_FORMAT, "not two whole numbers");
    refused("{\"a\":" T("[1]", "[0,99999999999999999999]") "}", 4, HEARTH_FORMAT, "no JSON of the format");
    refused("{\"a\":" T("[-1]", "[0,4]") "}", 4, HEARTH_FORMAT, "no whole number");
    refused("{\"a\":" T("[4294967296,4294967296]", "[0,0]") "}", 4, HEARTH_FORMAT, "the shape overflows");
    refused("{\"a\":" T("[4611686018427387905]", "[0,4]") "}", 4, HEARTH_FORMAT, "the shape overflows");
    refused("{\"a\":" T("[1,1,1,1,1]", "[0,4]") "}", 4, HEARTH_UNSUPPORTED, "5 dimensions");
    refused("{\"a\":" T("{}", "[0,4]") "}", 4, HEARTH_FORMAT, "no shape");
    refused("{\"a\":" T("[2]", "[0,8]") ",\"b\":" T("[1]", "[4,8]") "}", 8, HEARTH_FORMAT, "b overlaps another");
    refused("{\"a\":" T("[1]", "[0,4]") ",\"b\":" T("[1]", "[8,12]") "}", 12, HEARTH_FORMAT, "b lies behind a hole");
    refused("{\"a\":" T("[1]", "[0,4]") "}", 5, HEARTH_FORMAT, "1 bytes belong to no tensor");
    refused("{\"\":" T("[1]", "[0,4]") "}", 4, HEARTH_FORMAT, "name of 0 bytes");
    char name[257], entry[400]; // names of 255 bytes fit where they are copied to
    memset(name, 'n', 256), name[256] = 0;
    snprintf(entry, sizeof entry, "{\"%s\":" T("[1]", "[0,4]") "}", name);
    refused(entry, 4, HEARTH_FORMAT, "name of 256 bytes");
    refused("{\"__metadata__\":[]}", 0, HEARTH_FORMAT, "__metadata__ is no object");
    refused("{\"__metadata__\":{\"a\":1}}", 0, HEARTH_FORMAT, "no text");
    refused("{\"a\":[[[[]]]]}", 0, HEARTH_FORMAT, "nested too deeply");
}

static void large_lies(void **state)
{
    (void)state;
    size_t n = HT_MAX_SAFETENSORS_HEADER_BYTES + 1;
    char *text = malloc(n + 1);
    memset(text, '[', n);
    text[0] = '{', text[n] = 0;
    refused(text, 0, HEARTH_LIMIT, "at most 2097152 are allowed");
    text[n - 1] = 0;
    refused(text, 0, HEARTH_FORMAT, "nested too deeply");
    for (size_t i = 5; i + 3 < n; i += 3)
        memcpy(text + i, "[],", 3);
    memcpy(text, "{\"a\":", 5);
    refused(text, 0, HEARTH_FORMAT, "too many parts");
    memset(text + 5, ' ', n - 6);
    memcpy(text + 5, "\"", 1);
    memset(text + 6, '9', 60000);
    refused(text, 0, HEARTH_FORMAT, "no JSON of the format");
    free(text);
    struct image image = {0};
    image_u64(&image, UINT64_MAX);
    check_file_write(check_path(folder, "bad.safetensors"), image.data, image.len);
    struct ht_safetensors *file;
    assert_int_equal(ht_safetensors_open(&file, check_path(folder, "bad.safetensors"), NULL), HEARTH_FORMAT);
    image_free(&image);
}

static const float values[6] = {1, -2, 0.5f, 3e30f, -0.0f, 1e-40f};
static const uint16_t halves[2] = {0x3C00, 0xC000};
static const struct ht_safetensors_item items[] = {
    {"second", HT_TYPE_F32, 2, {2, 3}, values},
    {"a \"name\"", HT_TYPE_F16, 1, {2}, halves},
    {"b", HT_TYPE_BF16, 2, {1, 2}, halves},
    {"scalar.with.a.longer.name", HT_TYPE_F32, 0, {0}, values},
};
static const struct ht_safetensors_pair pairs[] = {{"format", "pt"}, {"x", "\xC3\xA4"}};

static enum hearth_status write_it(const char *path, struct hearth_error *err)
{
    return ht_safetensors_write(path, items, 4, pairs, 2, err);
}

static void written_is_read(void **state)
{
    (void)state;
    const char *path = check_path(folder, "good.safetensors");
    struct ht_safetensors *file;
    struct hearth_error err = {0};
    float out[6];
    assert_int_equal(write_it(path, &err), HEARTH_OK);
    assert_int_equal(ht_safetensors_open(&file, path, &err), HEARTH_OK);
    assert_int_equal(ht_safetensors_n(file), 4);
    assert_string_equal(ht_safetensors_at(file, 0)->name, "second");
    assert_int_equal(ht_safetensors_at(file, 0)->offset % 8, 0);
    assert_int_equal(ht_safetensors_read(file, ht_safetensors_at(file, 0), out, &err), HEARTH_OK);
    assert_memory_equal(out, values, sizeof values);
    const struct ht_safetensor *half = ht_safetensors_find(file, "a \"name\"");
    assert_int_equal(ht_safetensors_read(file, half, out, &err), HEARTH_OK);
    assert_true(half->n_dims == 1 && out[0] == 1 && out[1] == -2);
    assert_int_equal(ht_safetensors_read(file, ht_safetensors_find(file, "b"), out, &err), HEARTH_OK);
    assert_true(out[0] == 0.0078125f && out[1] == -2);
    assert_int_equal(ht_safetensors_find(file, "scalar.with.a.longer.name")->n_values, 1);
    assert_null(ht_safetensors_find(file, "none"));
    assert_string_equal(ht_safetensors_meta(file, "x"), "\xC3\xA4");
    assert_null(ht_safetensors_meta(file, "y"));
    ht_safetensors_close(&file);
}

static void every_cut(void **state)
{
    (void)state;
    const char *path = check_path(folder, "whole.safetensors");
    unsigned char bytes[2048];
    assert_int_equal(write_it(path, NULL), HEARTH_OK);
    FILE *f = fopen(path, "rb");
    size_t len = fread(bytes, 1, sizeof bytes, f);
    fclose(f);
    assert_true(len > 300 && len < sizeof bytes);
    for (size_t cut = 0; cut < len; cut++) {
        struct ht_safetensors *file;
        struct hearth_error err = {0};
        const char *part = check_path(folder, "cut.safetensors");
        check_file_write(part, bytes, cut);
        assert_int_equal(ht_safetensors_open(&file, part, &err), HEARTH_FORMAT);
        assert_non_null(strstr(err.text, "cut.safetensors"));
    }
}

static void every_allocation(void **state)
{
    (void)state;
    const char *path = check_path(folder, "memory.safetensors");
    enum hearth_status status = HEARTH_NOMEM;
    unsigned long n, n_calls;
    for (n = 1; status != HEARTH_OK; n++) {
        struct hearth_error err = {0};
        fault_memory_begin(n);
        status = write_it(path, &err);
        assert_int_equal(fault_memory_end(&n_calls), 0);
        assert_int_equal(status, n <= n_calls ? HEARTH_NOMEM : HEARTH_OK);
        assert_int_equal(err.code, status);
        assert_int_equal(access(path, F_OK), status == HEARTH_OK ? 0 : -1);
        assert_true(n < 1000);
    }
    assert_true(n > 20);
    status = HEARTH_NOMEM;
    for (n = 1; status != HEARTH_OK; n++) {
        struct ht_safetensors *file;
        struct hearth_error err = {0};
        fault_memory_begin(n);
        status = ht_safetensors_open(&file, path, &err);
        ht_safetensors_close(&file);
        assert_int_equal(fault_memory_end(&n_calls), 0);
        assert_int_equal(status, n <= n_calls ? HEARTH_NOMEM : HEARTH_OK); // nothing is lost in silence
        assert_true(n < 1000);
    }
    assert_true(n > 20);
}

static void every_operation(void **state)
{
    (void)state;
    const char *path = check_path(folder, "disk.safetensors");
    enum hearth_status status = HEARTH_IO;
    int fails_at = 1;
    for (; status != HEARTH_OK; fails_at++) {
        struct hearth_error err = {0};
        fault_io_begin(fails_at);
        status = write_it(path, &err);
        assert_true(status == HEARTH_OK || (status == HEARTH_IO && strstr(err.text, "disk.safetensors")));
        assert_int_equal(access(path, F_OK), status == HEARTH_OK ? 0 : -1);
        assert_int_equal(access(check_path(folder, "disk.safetensors.tmp"), F_OK), -1);
        assert_true(fails_at < 50);
    }
    fault_io_end();
    assert_true(fails_at > 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lies),           cmocka_unit_test(large_lies),      cmocka_unit_test(written_is_read),
        cmocka_unit_test(every_cut),      cmocka_unit_test(every_allocation), cmocka_unit_test(every_operation),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
