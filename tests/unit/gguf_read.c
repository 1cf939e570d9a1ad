// SPDX-License-Identifier: Apache-2.0
// Reading what is right: keys of every kind, tensors, bytes, split models, the writer, marks of what was
// understood.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "engine/gguf/gguf.h"
#include "engine/gguf/writer.h"
#include "tests/check/fault.h"
#include "tests/check/image.h"

static char folder[64];

static int make_folder(void **state)
{
    (void)state;
    check_folder_make(folder);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    check_folder_remove(folder);
    return 0;
}

static struct ht_gguf *open_image(const struct image *image, const char *name)
{
    struct ht_gguf *gguf;
    struct hearth_error err = {0};
    check_file_write(check_path(folder, name), image->data, image->len);
    enum hearth_status status = ht_gguf_open(&gguf, check_path(folder, name), &err);
    if (status != HEARTH_OK)
        print_error("%s\n", err.text);
    assert_int_equal(status, HEARTH_OK);
    return gguf;
}

static struct ht_gguf *open_valid(void)
{
    struct image image = {0};
    image_valid(&image);
    struct ht_gguf *gguf = open_image(&image, "valid.gguf");
    image_free(&image);
    return gguf;
}

static void integers(void **state)
{
    (void)state;
    static const struct {
        const char *key;
        int64_t value;
        int u32_fits;
    } cases[] = {
        {"k.u8", 200, 1},     {"k.i8", -5, 0},         {"k.u16", 0x1234, 1},        {"k.i16", -2, 0},
        {"k.i32", -70000, 0}, {"k.i64", INT64_MIN, 0}, {"llama.block_count", 2, 1},
    };
    struct ht_gguf *g = open_valid();
    struct hearth_error err;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int64_t i64 = 77;
        uint32_t u32 = 77;
        uint64_t u64 = 77;
        int fits = cases[i].u32_fits;
        assert_int_equal(ht_gguf_get_u32(g, cases[i].key, &u32, &err), fits ? HEARTH_OK : HEARTH_FORMAT);
        assert_int_equal(u32, fits ? cases[i].value : 77); // left as it was
        assert_int_equal(ht_gguf_get_u64(g, cases[i].key, &u64, &err), fits ? HEARTH_OK : HEARTH_FORMAT);
        assert_int_equal(u64, fits ? cases[i].value : 77);
        assert_int_equal(ht_gguf_get_i64(g, cases[i].key, &i64, &err), HEARTH_OK);
        assert_int_equal(i64, cases[i].value);
    }
    uint64_t u64;
    int64_t i64 = 5;
    uint32_t u32 = 5;
    assert_int_equal(ht_gguf_get_u64(g, "k.u64", &u64, &err), HEARTH_OK);
    assert_true(u64 == UINT64_MAX);
    assert_int_equal(ht_gguf_get_i64(g, "k.u64", &i64, &err), HEARTH_FORMAT);
    assert_non_null(strstr(err.text, "valid.gguf: key k.u64: 18446744073709551615 is out of range"));
    assert_int_equal(ht_gguf_get_u32(g, "k.f32", &u32, &err), HEARTH_FORMAT);
    assert_non_null(strstr(err.text, "valid.gguf: key k.f32 is of type f32, a whole number is wanted"));
    assert_int_equal(ht_gguf_get_u32(g, "a.i32", &u32, &err), HEARTH_FORMAT);
    assert_non_null(strstr(err.text, "valid.gguf: key a.i32 is an array of i32, a whole number is wanted"));
    assert_int_equal(ht_gguf_get_u32(g, "k.true", &u32, &err), HEARTH_FORMAT);
    assert_int_equal(ht_gguf_get_u32(g, "last", &u32, &err), HEARTH_FORMAT);
    assert_int_equal(ht_gguf_get_u32(g, "k.none", &u32, &err), HEARTH_NOT_FOUND);
    assert_non_null(strstr(err.text, "valid.gguf: key k.none is missing"));
    assert_int_equal(ht_gguf_optional(ht_gguf_get_u32(g, "k.none", &u32, NULL)), HEARTH_OK);
    assert_int_equal(u32 + (uint32_t)i64, 10);
    ht_gguf_close(&g);
    assert_null(g);
}

static void other_scalars(void **state)
{
    (void)state;
    struct ht_gguf *g = open_valid();
    struct hearth_error err;
    float f = 0;
    bool b = false;
    const char *text = NULL;
    size_t len = 0;
    assert_int_equal(ht_gguf_get_f32(g, "k.f32", &f, &err), HEARTH_OK);
    assert_true(f == 0.5f);
    assert_int_equal(ht_gguf_get_f32(g, "k.f64", &f, &err), HEARTH_OK);
    assert_true(f == 2.5f);
    assert_int_equal(ht_gguf_get_f32(g, "k.i32", &f, &err), HEARTH_OK);
    assert_true(f == -70000.0f);
    assert_int_equal(ht_gguf_get_f32(g, "last", &f, &err), HEARTH_FORMAT);
    assert_int_equal(ht_gguf_get_bool(g, "k.true", &b, &err), HEARTH_OK);
    assert_true(b);
    assert_int_equal(ht_gguf_get_bool(g, "k.u8", &b, &err), HEARTH_FORMAT);
    assert_int_equal(ht_gguf_get_str(g, "general.architecture", &text, &len, &err), HEARTH_OK);
    assert_string_equal(text, "llama"); // NUL-terminated
    assert_int_equal(len, 5);
    assert_int_equal(ht_gguf_get_str(g, "last", &text, NULL, &err), HEARTH_OK);
    assert_string_equal(text, "a text");
    assert_int_equal(ht_gguf_get_str(g, "k.u8", &text, NULL, &err), HEARTH_FORMAT);
    assert_int_equal(ht_gguf_get_str(g, "a.strings", &text, NULL, &err), HEARTH_FORMAT);
    ht_gguf_close(&g);
}

static void odd_scalars(void **state)
{
    (void)state;
    struct image image = {0};
    struct hearth_error err;
    float f = 3;
    const char *text = "old";
    image_head(&image, 2, 0, 6); // version 2 is laid out alike
    image_key(&image, "nan", 6), image_u32(&image, 0x7FC00000);
    image_key(&image, "inf", 12), image_u64(&image, 0x7FF0000000000000);
    image_key(&image, "huge", 12), image_u64(&image, 0x7E37E43C8800759C); // 1e300: no float
    image_key(&image, "nul", 8), image_u64(&image, 3), image_bytes(&image, "a\0b", 3);
    image_key_str(&image, "latin", "caf\xE9");
    image_key_str(&image, "empty", "");
    struct ht_gguf *g = open_image(&image, "odd.gguf");
    assert_int_equal(ht_gguf_version(g), 2);
    assert_int_equal(ht_gguf_get_f32(g, "nan", &f, &err), HEARTH_FORMAT);
    assert_non_null(strstr(err.text, "key nan is not a finite number"));
    assert_int_equal(ht_gguf_get_f32(g, "inf", &f, &err), HEARTH_FORMAT);
    assert_int_equal(ht_gguf_get_f32(g, "huge", &f, &err), HEARTH_FORMAT);
    assert_true(f == 3);
    assert_int_equal(ht_gguf_get_str(g, "nul", &text, NULL, &err), HEARTH_FORMAT);
    assert_int_equal(ht_gguf_get_str(g, "latin", &text, NULL, &err), HEARTH_FORMAT);
    assert_non_null(strstr(err.text, "key latin is not well-formed UTF-8"));
    assert_string_equal(text, "old");
    assert_int_equal(ht_gguf_get_str(g, "empty", &text, NULL, &err), HEARTH_OK);
    assert_string_equal(text, "");
    ht_gguf_close(&g);
    image_free(&image);
}

static void arrays(void **state)
{
    (void)state;
    struct ht_gguf *g = open_valid();
    struct hearth_error err;
    struct ht_gguf_array a;
    struct ht_gguf_str s;
    assert_int_equal(ht_gguf_get_array(g, "a.strings", HT_GGUF_STRING, &a, &err), HEARTH_OK);
    assert_int_equal(a.count, 3);
    assert_true(ht_gguf_array_next(&a, &s) && s.len_bytes == 3 && !memcmp(s.text, "one", 3));
    assert_true(ht_gguf_array_next(&a, &s) && s.len_bytes == 0);
    assert_true(ht_gguf_array_next(&a, &s) && s.len_bytes == 4 && !memcmp(s.text, "\xFFtwo", 4));
    assert_false(ht_gguf_array_next(&a, &s));
    assert_int_equal(ht_gguf_get_array(g, "a.i32", HT_GGUF_I64, &a, &err), HEARTH_OK);
    assert_int_equal(ht_gguf_array_i64(&a, 0) + ht_gguf_array_i64(&a, 1) * 10 + ht_gguf_array_i64(&a, 2),
                     -16);
    assert_int_equal(ht_gguf_get_array(g, "a.f32", HT_GGUF_F32, &a, &err), HEARTH_OK);
    assert_true(ht_gguf_array_f32(&a, 0) == 1 && ht_gguf_array_f32(&a, 1) == -2);
    assert_int_equal(ht_gguf_get_array(g, "a.empty", HT_GGUF_I64, &a, &err), HEARTH_OK);
    assert_int_equal(a.count, 0);
    assert_int_equal(ht_gguf_get_array(g, "a.f32", HT_GGUF_I64, &a, &err), HEARTH_FORMAT);
    assert_non_null(strstr(err.text, "key a.f32 is an array of f32, an array of whole numbers is wanted"));
    assert_int_equal(ht_gguf_get_array(g, "k.u8", HT_GGUF_I64, &a, &err), HEARTH_FORMAT);
    assert_int_equal(ht_gguf_get_array(g, "a.strings", HT_GGUF_F32, &a, &err), HEARTH_FORMAT);
    ht_gguf_close(&g);
}

// Which kinds of values a caller takes, and what does not fit the C type.
static void kinds_of_arrays(void **state)
{
    (void)state;
    struct image image = {0};
    struct hearth_error err;
    struct ht_gguf_array a;
    uint32_t u32 = 5;
    image_head(&image, 3, 0, 4);
    image_key(&image, "big", 10), image_u64(&image, (uint64_t)UINT32_MAX + 1);
    image_key(&image, "a.f64", 9), image_u32(&image, 12), image_u64(&image, 2);
    image_u64(&image, 0x4004000000000000), image_u64(&image, 0xBFF0000000000000); // 2.5, -1
    image_key(&image, "a.u64", 9), image_u32(&image, 10), image_u64(&image, 3);
    image_u64(&image, UINT64_MAX), image_u64(&image, (uint64_t)INT64_MAX), image_u64(&image, 7);
    image_key(&image, "a.i64", 9), image_u32(&image, 11), image_u64(&image, 1);
    image_u64(&image, (uint64_t)INT64_MIN);
    struct ht_gguf *g = open_image(&image, "kinds.gguf");
    assert_int_equal(ht_gguf_get_u32(g, "big", &u32, &err), HEARTH_FORMAT);
    assert_int_equal(u32, 5);
    assert_int_equal(ht_gguf_get_array(g, "a.f64", HT_GGUF_F32, &a, &err), HEARTH_OK);
    assert_true(ht_gguf_array_f32(&a, 0) == 2.5f && ht_gguf_array_f32(&a, 1) == -1);
    assert_int_equal(ht_gguf_get_array(g, "a.u64", HT_GGUF_I64, &a, &err), HEARTH_OK);
    assert_true(ht_gguf_array_i64(&a, 0) == INT64_MAX); // the most that fits
    assert_true(ht_gguf_array_i64(&a, 1) == INT64_MAX && ht_gguf_array_i64(&a, 2) == 7);
    assert_int_equal(ht_gguf_get_array(g, "a.u64", HT_GGUF_F32, &a, &err), HEARTH_FORMAT);
    assert_int_equal(ht_gguf_get_array(g, "a.i64", HT_GGUF_I64, &a, &err), HEARTH_OK);
    assert_true(ht_gguf_array_i64(&a, 0) == INT64_MIN);
    ht_gguf_close(&g);
    image_free(&image);
}

// A part that says of a key what the first one does not: another kind of the same bytes, or a longer text.
static void parts_that_disagree(void **state)
{
    (void)state;
    static const struct {
        uint32_t kind;
        const char *text;
        enum hearth_status status;
    } cases[] = {{4, "name", HEARTH_OK}, {5, "name", HEARTH_FORMAT}, {4, "names", HEARTH_FORMAT}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct hearth_error err = {0};
        struct ht_gguf *g;
        for (unsigned part = 0; part < 2; part++) {
            struct image image = {0};
            image_head(&image, 3, 0, 4);
            image_key_u32(&image, "split.no", part);
            image_key_u32(&image, "split.count", 2);
            image_key(&image, "n", part ? cases[i].kind : 4), image_u32(&image, 9);
            image_key_str(&image, "t", part ? cases[i].text : "name");
            const char *name = part ? "d-00002-of-00002.gguf" : "d-00001-of-00002.gguf";
            check_file_write(check_path(folder, name), image.data, image.len);
            image_free(&image);
        }
        assert_int_equal(ht_gguf_open(&g, check_path(folder, "d-00001-of-00002.gguf"), &err), cases[i].status);
        if (cases[i].status)
            assert_non_null(strstr(err.text, "is not what the first part says"));
        ht_gguf_close(&g);
    }
}

static void tensors(void **state)
{
    (void)state;
    struct ht_gguf *g = open_valid();
    struct hearth_error err;
    unsigned char data[512];
    assert_int_equal(ht_gguf_n_tensors(g), 3);
    const struct ht_gguf_tensor *t = ht_gguf_find_tensor(g, "t.q8_0");
    assert_non_null(t);
    assert_ptr_equal(t, ht_gguf_tensor_at(g, 1));
    assert_int_equal(t->type, HT_TYPE_Q8_0);
    assert_int_equal(t->n_dims, 2);
    assert_true(t->ne[0] == 32 && t->ne[1] == 3 && t->ne[2] == 1 && t->ne[3] == 1);
    assert_true(t->n_values == 96 && t->row_bytes == 34 && t->size_bytes == 102);
    assert_int_equal(ht_gguf_read(g, t, 0, 102, data, &err), HEARTH_OK);
    assert_true(data[0] == 64 && data[101] == 64 + 101);
    assert_int_equal(ht_gguf_read(g, t, 100, 2, data, &err), HEARTH_OK);
    assert_int_equal(data[0], 164);
    assert_int_equal(ht_gguf_read(g, t, 100, 3, data, &err), HEARTH_INVALID);
    assert_non_null(strstr(err.text, "valid.gguf: tensor t.q8_0 has 102 bytes"));
    assert_int_equal(ht_gguf_read(g, t, UINT64_MAX, 2, data, &err), HEARTH_INVALID);
    assert_null(ht_gguf_find_tensor(g, "t.q8"));
    assert_null(ht_gguf_find_tensor(g, ""));
    assert_null(ht_gguf_tensor_at(g, 3));
    ht_gguf_close(&g);
}

static void understood(void **state)
{
    (void)state;
    struct ht_gguf *g = open_valid();
    struct hearth_error err;
    uint32_t u32;
    assert_string_equal(ht_gguf_first_unused_key(g, "llama."), "llama.block_count");
    assert_int_equal(ht_gguf_refuse_unused_keys(g, "llama.", &err), HEARTH_UNSUPPORTED);
    assert_non_null(strstr(err.text, "valid.gguf: key llama.block_count is not understood"));
    assert_int_equal(ht_gguf_get_u32(g, "llama.block_count", &u32, &err), HEARTH_OK);
    assert_int_equal(ht_gguf_refuse_unused_keys(g, "llama.", &err), HEARTH_OK);
    float f;
    assert_int_equal(ht_gguf_get_f32(g, "last", &f, &err),
                     HEARTH_FORMAT); // a failed read understands nothing
    assert_string_equal(ht_gguf_first_unused_key(g, "la"), "last");
    ht_gguf_use_key(g, "last");
    ht_gguf_use_key(g, "no such key");
    assert_null(ht_gguf_first_unused_key(g, "la"));

    assert_string_equal(ht_gguf_first_unused_tensor(g)->name, "t.f32");
    assert_non_null(ht_gguf_find_tensor(g, "t.f32")); // looking is not using
    assert_string_equal(ht_gguf_first_unused_tensor(g)->name, "t.f32");
    assert_non_null(ht_gguf_use_tensor(g, "t.f32"));
    assert_non_null(ht_gguf_use_tensor(g, "t.q4_k"));
    assert_null(ht_gguf_use_tensor(g, "t.none"));
    assert_int_equal(ht_gguf_refuse_unused_tensors(g, &err), HEARTH_UNSUPPORTED);
    assert_non_null(strstr(err.text, "valid.gguf: tensor t.q8_0 is not understood"));
    ht_gguf_use_tensor(g, "t.q8_0");
    assert_int_equal(ht_gguf_refuse_unused_tensors(g, &err), HEARTH_OK);
    ht_gguf_close(&g);
}

static void changed_file(void **state)
{
    (void)state;
    struct ht_gguf *g = open_valid();
    struct hearth_error err;
    assert_int_equal(ht_gguf_check_unchanged(g, &err), HEARTH_OK);
    assert_int_equal(truncate(check_path(folder, "valid.gguf"), 800), 0);
    assert_int_equal(ht_gguf_check_unchanged(g, &err), HEARTH_IO);
    assert_non_null(strstr(err.text, "valid.gguf: the file changed since it was opened"));
    unsigned char data[144];
    assert_int_equal(ht_gguf_read(g, ht_gguf_find_tensor(g, "t.q4_k"), 0, 144, data, &err), HEARTH_FORMAT);
    ht_gguf_close(&g);
}

// A header much larger than the first read: thousands of keys, tensors and strings, found again by name.
static void many(void **state)
{
    (void)state;
    enum { N_KEYS = 5000, N_STRINGS = 20000, N_TENSORS = 3000 };
    struct image image = {0};
    char name[32];
    image_head(&image, 3, N_TENSORS, N_KEYS + 1);
    for (unsigned i = 0; i < N_KEYS; i++) {
        snprintf(name, sizeof name, "key.%u", i * 7919 % N_KEYS);
        image_key_u32(&image, name, i);
        if (i == N_KEYS / 2) {
            image_key(&image, "strings", 9), image_u32(&image, 8), image_u64(&image, N_STRINGS);
            for (unsigned s = 0; s < N_STRINGS; s++) {
                snprintf(name, sizeof name, "string %u", s);
                image_str(&image, name);
            }
        }
    }
    for (unsigned i = 0; i < N_TENSORS; i++) {
        snprintf(name, sizeof name, "blk.%u.w", i);
        image_tensor(&image, name, 2, 0, 0, 32 * (uint64_t)(N_TENSORS - 1 - i)); // descending in the file
    }
    image_pad(&image, 32);
    for (unsigned i = 0; i < N_TENSORS * 32; i++)
        image_u8(&image, 0);
    struct ht_gguf *g = open_image(&image, "many.gguf");
    struct ht_gguf_array a;
    struct ht_gguf_str s;
    assert_int_equal(ht_gguf_get_array(g, "strings", HT_GGUF_STRING, &a, NULL), HEARTH_OK);
    unsigned n = 0;
    for (; ht_gguf_array_next(&a, &s); n++) {
        int len = snprintf(name, sizeof name, "string %u", n);
        assert_true((size_t)len == s.len_bytes && !memcmp(s.text, name, s.len_bytes));
    }
    assert_int_equal(n, N_STRINGS);
    for (unsigned i = 0; i < N_KEYS; i++) {
        uint32_t value;
        snprintf(name, sizeof name, "key.%u", i * 7919 % N_KEYS);
        assert_int_equal(ht_gguf_get_u32(g, name, &value, NULL), HEARTH_OK);
        assert_int_equal(value, i);
    }
    for (unsigned i = 0; i < N_TENSORS; i++) {
        snprintf(name, sizeof name, "blk.%u.w", i);
        assert_ptr_equal(ht_gguf_find_tensor(g, name), ht_gguf_tensor_at(g, i));
    }
    ht_gguf_close(&g);
    image_free(&image);
}

// ---------------------------------------------------------------- split models

static void write_part(const char *name, unsigned no, unsigned count, unsigned total, const char *tensor,
                       float value)
{
    struct ht_gguf_writer *w;
    uint64_t ne[] = {8};
    float data[8] = {value};
    assert_int_equal(ht_gguf_writer_begin(&w, check_path(folder, name), no == 1 ? 64 : 32, NULL), HEARTH_OK);
    if (!no)
        ht_gguf_writer_u32(w, "llama.block_count", 9);
    ht_gguf_writer_u32(w, "split.no", no);
    ht_gguf_writer_u32(w, "split.count", count);
    ht_gguf_writer_u32(w, "split.tensors.count", total);
    ht_gguf_writer_tensor(w, tensor, HT_TYPE_F32, 1, ne);
    assert_int_equal(ht_gguf_writer_data(w, data, sizeof data, NULL), HEARTH_OK);
    assert_int_equal(ht_gguf_writer_finish(&w, NULL), HEARTH_OK);
}

static void split_model(void **state)
{
    (void)state;
    struct hearth_error err;
    struct ht_gguf *g;
    uint32_t n;
    float value;
    write_part("m-00001-of-00003.gguf", 0, 3, 3, "t.a", 1);
    write_part("m-00002-of-00003.gguf", 1, 3, 3, "t.b", 2);
    write_part("m-00003-of-00003.gguf", 2, 3, 3, "t.c", 3);
    assert_int_equal(ht_gguf_open(&g, check_path(folder, "m-00001-of-00003.gguf"), &err), HEARTH_OK);
    assert_int_equal(ht_gguf_n_parts(g), 3);
    assert_int_equal(ht_gguf_n_tensors(g), 3);
    assert_string_equal(ht_gguf_part_path(g, 2), check_path(folder, "m-00003-of-00003.gguf"));
    assert_int_equal(ht_gguf_file_bytes(g),
                     ht_gguf_part_bytes(g, 0) + ht_gguf_part_bytes(g, 1) + ht_gguf_part_bytes(g, 2));
    assert_int_equal(ht_gguf_get_u32(g, "llama.block_count", &n, &err), HEARTH_OK);
    assert_null(ht_gguf_first_unused_key(g, "")); // split keys are the reader's own
    static const char *const names[] = {"t.a", "t.b", "t.c"};
    for (unsigned i = 0; i < 3; i++) {
        const struct ht_gguf_tensor *t = ht_gguf_use_tensor(g, names[i]);
        assert_non_null(t);
        assert_int_equal(t->part, i);
        assert_int_equal(ht_gguf_read(g, t, 0, sizeof value, &value, &err), HEARTH_OK);
        assert_true(value == (float)(i + 1));
    }
    assert_null(ht_gguf_first_unused_tensor(g));
    ht_gguf_close(&g);
}

// ---------------------------------------------------------------- the writer

static void writes_what_it_reads(void **state)
{
    (void)state;
    struct ht_gguf *g = open_valid(), *copy;
    struct ht_gguf_writer *w;
    struct hearth_error err;
    const char *path = check_path(folder, "copy.gguf");
    assert_int_equal(ht_gguf_writer_begin(&w, path, 32, &err), HEARTH_OK);
    for (size_t i = 0; i < ht_gguf_n_keys(g); i++)
        ht_gguf_writer_key(w, ht_gguf_key_at(g, i));
    for (size_t i = 0; i < 3; i++) {
        const struct ht_gguf_tensor *t = ht_gguf_tensor_at(g, i);
        ht_gguf_writer_tensor(w, t->name, t->type, t->n_dims, t->ne);
    }
    for (size_t i = 0; i < 3; i++) {
        unsigned char data[256];
        const struct ht_gguf_tensor *t = ht_gguf_tensor_at(g, i);
        assert_int_equal(ht_gguf_read(g, t, 0, (size_t)t->size_bytes, data, &err), HEARTH_OK);
        assert_int_equal(ht_gguf_writer_data(w, data, 10, &err), HEARTH_OK); // in pieces
        assert_int_equal(ht_gguf_writer_data(w, data + 10, (size_t)t->size_bytes - 10, &err), HEARTH_OK);
    }
    assert_int_equal(ht_gguf_writer_finish(&w, &err), HEARTH_OK);
    assert_null(w);
    assert_int_equal(ht_gguf_open(&copy, path, &err), HEARTH_OK);
    assert_int_equal(ht_gguf_n_keys(copy), ht_gguf_n_keys(g));
    for (size_t i = 0; i < ht_gguf_n_keys(g); i++) {
        const struct ht_gguf_key *a = ht_gguf_key_at(g, i), *b = ht_gguf_key_at(copy, i);
        assert_string_equal(a->name, b->name);
        assert_true(a->kind == b->kind && a->array.kind == b->array.kind && a->array.count == b->array.count);
        assert_int_equal(a->array.size_bytes, b->array.size_bytes);
        assert_memory_equal(a->array.data, b->array.data, a->array.size_bytes);
    }
    for (size_t i = 0; i < 3; i++) {
        unsigned char x[256], y[256];
        const struct ht_gguf_tensor *a = ht_gguf_tensor_at(g, i), *b = ht_gguf_tensor_at(copy, i);
        assert_string_equal(a->name, b->name);
        assert_int_equal(a->offset, b->offset);
        assert_int_equal(ht_gguf_read(g, a, 0, (size_t)a->size_bytes, x, &err), HEARTH_OK);
        assert_int_equal(ht_gguf_read(copy, b, 0, (size_t)a->size_bytes, y, &err), HEARTH_OK);
        assert_memory_equal(x, y, a->size_bytes);
    }
    ht_gguf_close(&g);
    ht_gguf_close(&copy);
}

// Keys that are made, not copied: of every kind there is a function for.
static void writes_keys_of_every_kind(void **state)
{
    (void)state;
    const struct ht_gguf_str names[] = {{"<s>", 3}, {"", 0}, {"a\0\xFF", 3}};
    const int32_t types[] = {3, -1, INT32_MIN};
    const float scores[] = {-1.5f, 0, 1e30f};
    const char *path = check_path(folder, "keys.gguf"), *text;
    struct ht_gguf_writer *w;
    struct ht_gguf *g;
    struct ht_gguf_array array;
    struct ht_gguf_str one;
    uint32_t u32;
    uint64_t u64;
    float f32;
    bool yes;
    assert_int_equal(ht_gguf_writer_begin(&w, path, 32, NULL), HEARTH_OK);
    ht_gguf_writer_u32(w, "k.u32", UINT32_MAX);
    ht_gguf_writer_u64(w, "k.u64", UINT64_MAX);
    ht_gguf_writer_f32(w, "k.f32", 0.1f);
    ht_gguf_writer_bool(w, "k.bool", true);
    ht_gguf_writer_str(w, "k.str", "na\xC3\xAFve", 6);
    ht_gguf_writer_strings(w, "k.strings", names, 3);
    ht_gguf_writer_i32s(w, "k.i32s", types, 3);
    ht_gguf_writer_f32s(w, "k.f32s", scores, 3);
    ht_gguf_writer_tensor(w, "t", HT_TYPE_F32, 1, (const uint64_t[]){3});
    assert_int_equal(ht_gguf_writer_data(w, scores, sizeof scores, NULL), HEARTH_OK);
    assert_int_equal(ht_gguf_writer_finish(&w, NULL), HEARTH_OK);
    assert_int_equal(ht_gguf_open(&g, path, NULL), HEARTH_OK);
    assert_int_equal(ht_gguf_get_u32(g, "k.u32", &u32, NULL), HEARTH_OK);
    assert_int_equal(ht_gguf_get_u64(g, "k.u64", &u64, NULL), HEARTH_OK);
    assert_int_equal(ht_gguf_get_f32(g, "k.f32", &f32, NULL), HEARTH_OK);
    assert_int_equal(ht_gguf_get_bool(g, "k.bool", &yes, NULL), HEARTH_OK);
    assert_int_equal(ht_gguf_get_str(g, "k.str", &text, NULL, NULL), HEARTH_OK);
    assert_true(u32 == UINT32_MAX && u64 == UINT64_MAX && f32 == 0.1f && yes);
    assert_string_equal(text, "na\xC3\xAFve");
    assert_int_equal(ht_gguf_get_array(g, "k.strings", HT_GGUF_STRING, &array, NULL), HEARTH_OK);
    for (size_t i = 0; i < 3; i++) {
        assert_true(ht_gguf_array_next(&array, &one));
        assert_int_equal(one.len_bytes, names[i].len_bytes);
        assert_memory_equal(one.text, names[i].text, one.len_bytes);
    }
    assert_false(ht_gguf_array_next(&array, &one));
    assert_int_equal(ht_gguf_get_array(g, "k.i32s", HT_GGUF_I64, &array, NULL), HEARTH_OK);
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(ht_gguf_array_i64(&array, i), types[i]);
    assert_int_equal(ht_gguf_get_array(g, "k.f32s", HT_GGUF_F32, &array, NULL), HEARTH_OK);
    assert_int_equal(array.count, 3);
    for (size_t i = 0; i < 3; i++)
        assert_true(ht_gguf_array_f32(&array, i) == scores[i]);
    ht_gguf_close(&g);
}

static void writer_refuses(void **state)
{
    (void)state;
    struct ht_gguf_writer *w;
    struct hearth_error err;
    const char *path = check_path(folder, "never.gguf");
    uint64_t ne[] = {32}, odd[] = {33};
    unsigned char data[64] = {0};
    assert_int_equal(ht_gguf_writer_begin(&w, path, 24, &err), HEARTH_INVALID);
    assert_null(w);
    for (int wrong = 0; wrong < 4; wrong++) {
        assert_int_equal(ht_gguf_writer_begin(&w, path, 32, &err), HEARTH_OK);
        ht_gguf_writer_tensor(w, "t", HT_TYPE_Q8_0, 1, wrong == 0 ? odd : ne);
        enum hearth_status status = ht_gguf_writer_data(w, data,
                                                        wrong == 1   ? 35
                                                        : wrong == 2 ? 33
                                                                     : 34,
                                                        &err);
        assert_int_equal(status, wrong < 2 ? HEARTH_INVALID : HEARTH_OK);
        if (wrong == 3)
            ht_gguf_writer_u32(w, "late", 1);
        assert_int_equal(ht_gguf_writer_finish(&w, &err), wrong == 1 ? HEARTH_OK : HEARTH_INVALID);
        assert_null(w);
        assert_int_equal(access(path, F_OK), wrong == 1 ? 0 : -1);
        unlink(path);
    }
    assert_int_equal(ht_gguf_writer_begin(&w, path, 32, &err), HEARTH_OK);
    ht_gguf_writer_discard(&w);
    ht_gguf_writer_discard(&w);
    assert_int_equal(access(check_path(folder, "never.gguf.tmp"), F_OK), -1);
    // Out of memory at every point: an error, no file, nothing left behind.
    enum hearth_status status = HEARTH_NOMEM;
    for (unsigned long n = 1; status != HEARTH_OK; n++) {
        unsigned long calls;
        fault_memory_begin(n);
        status = ht_gguf_writer_begin(&w, path, 64, &err);
        if (status == HEARTH_OK) {
            ht_gguf_writer_str(w, "k", "text", 4);
            ht_gguf_writer_tensor(w, "t", HT_TYPE_Q8_0, 1, ne);
            status = ht_gguf_writer_data(w, data, 34, &err);
            if (status == HEARTH_OK)
                status = ht_gguf_writer_finish(&w, &err);
            ht_gguf_writer_discard(&w);
        }
        assert_int_equal(fault_memory_end(&calls), 0);
        assert_int_equal(status, calls >= n ? HEARTH_NOMEM : HEARTH_OK);
        assert_int_equal(access(path, F_OK), status == HEARTH_OK ? 0 : -1);
        assert_true(n < 50);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(integers),       cmocka_unit_test(other_scalars),
        cmocka_unit_test(odd_scalars),    cmocka_unit_test(arrays),
        cmocka_unit_test(kinds_of_arrays), cmocka_unit_test(parts_that_disagree),
        cmocka_unit_test(tensors),        cmocka_unit_test(understood),
        cmocka_unit_test(changed_file),   cmocka_unit_test(many),
        cmocka_unit_test(split_model),    cmocka_unit_test(writes_what_it_reads),
        cmocka_unit_test(writes_keys_of_every_kind),
        cmocka_unit_test(writer_refuses),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
