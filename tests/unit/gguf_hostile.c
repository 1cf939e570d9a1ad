// SPDX-License-Identifier: Apache-2.0
// Files that lie. Each case is refused with its exact status and a text that names the file and the key or
// tensor, and costs no more memory than its bytes justify. The cases follow the published holes of GGUF
// readers: counts and lengths used before they were checked, products and sums that wrap, alignment 0, data
// beyond the file, …
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "engine/gguf/gguf.h"
#include "tests/check/fault.h"
#include "tests/check/image.h"

enum { MEMORY_FLOOR = 400 << 10 }; // the reader's first buffer and small tables

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

// Opens the image under the allocator that counts; frees it.
static void refused(struct image *image, enum hearth_status want, const char *text)
{
    struct ht_gguf *gguf;
    struct hearth_error err = {0};
    const char *path = check_path(folder, "bad.gguf");
    check_file_write(path, image->data, image->len);
    fault_memory_begin(0);
    enum hearth_status status = ht_gguf_open(&gguf, path, &err);
    size_t peak = fault_memory_peak();
    assert_int_equal(fault_memory_end(NULL), 0);
    if (status != want || !strstr(err.text, text) || !strstr(err.text, "/bad.gguf: "))
        print_error("status %d, text \"%s\", wanted %d \"%s\"\n", (int)status, err.text, (int)want, text);
    assert_int_equal(status, want);
    assert_null(gguf);
    assert_int_equal(err.code, want);
    assert_non_null(strstr(err.text, text));
    assert_non_null(strstr(err.text, "/bad.gguf: "));
    assert_true(peak <= MEMORY_FLOOR + 4 * image->len);
    image_free(image);
}

static struct image empty_image(void)
{
    return (struct image){0};
}

// A file's head and n keys to come.
static struct image with_head(uint64_t n_tensors, uint64_t n_keys)
{
    struct image image = {0};
    image_head(&image, 3, n_tensors, n_keys);
    return image;
}

static struct image padded(struct image image, size_t bytes)
{
    while (bytes--)
        image_u8(&image, 0);
    return image;
}

static void heads(void **state)
{
    (void)state;
    struct image i = empty_image();
    refused(&i, HEARTH_FORMAT, "the file is empty");
    image_bytes(&i, "GGU", 3);
    refused(&i, HEARTH_FORMAT, "not a GGUF file");
    image_bytes(&i, "GGUF", 4); // four bytes are a file too
    refused(&i, HEARTH_FORMAT, "the file ends here, at byte 4");
    image_bytes(&i, "GGML\3\0\0\0aaaaaaaaaaaaaaaaaaa", 26);
    refused(&i, HEARTH_FORMAT, "not a GGUF file");
    static const uint32_t versions[] = {0, 1, 4, 0x7FFFFFFF};
    for (size_t v = 0; v < 4; v++) {
        image_head(&i, versions[v], 0, 0);
        refused(&i, HEARTH_UNSUPPORTED, "only 2 and 3 are supported");
    }
    image_head(&i, 0x03000000, 0, 0);
    refused(&i, HEARTH_UNSUPPORTED, "a big-endian GGUF file");
}

static void counts(void **state)
{
    (void)state;
    static const uint64_t huge[] = {3, 1u << 31, (uint64_t)1 << 32, (uint64_t)1 << 61, INT64_MAX, UINT64_MAX};
    for (size_t h = 0; h < 6; h++) {
        struct image i = padded(with_head(0, huge[h]), 20);
        refused(&i, HEARTH_FORMAT, "keys claimed, but the file has 20 bytes left");
        i = padded(with_head(huge[h], 0), 20);
        refused(&i, HEARTH_FORMAT, "tensors claimed, but the file has 20 bytes left");
    }
    struct image i = padded(with_head(0, HT_MAX_GGUF_KEYS + 1), (HT_MAX_GGUF_KEYS + 1) * 14);
    refused(&i, HEARTH_LIMIT, "keys, at most 65536 are allowed");
    i = padded(with_head(HT_MAX_GGUF_TENSORS + 1, 0), (HT_MAX_GGUF_TENSORS + 1) * 33);
    refused(&i, HEARTH_LIMIT, "tensors, at most 65536 are allowed");
}

static void key_names(void **state)
{
    (void)state;
    static const uint64_t huge[] = {100, (uint64_t)1 << 31, (uint64_t)1 << 32, UINT64_MAX, UINT64_MAX - 7};
    for (size_t h = 0; h < 5; h++) {
        struct image i = with_head(0, 1);
        image_u64(&i, huge[h]);
        i = padded(i, 40);
        refused(&i, HEARTH_FORMAT, "key 1 of 1: a name of");
    }
    struct image i = with_head(0, 1);
    image_u64(&i, HT_MAX_GGUF_KEY_BYTES + 1);
    i = padded(i, 70000);
    refused(&i, HEARTH_LIMIT, "key 1 of 1: a name of 65536 bytes, at most 65535");
    i = with_head(0, 1);
    image_key_u32(&i, "", 1);
    refused(&i, HEARTH_FORMAT, "key 1 of 1: the name is empty");
    i = with_head(0, 2);
    image_key_u32(&i, "good", 1);
    image_u64(&i, 3), image_bytes(&i, "a\0b", 3), image_u32(&i, 4), image_u32(&i, 1);
    refused(&i, HEARTH_FORMAT, "key 2 of 2: the name is not well-formed UTF-8");
    i = with_head(0, 1);
    image_key_u32(&i, "caf\xE9", 1);
    refused(&i, HEARTH_FORMAT, "the name is not well-formed UTF-8");
    i = with_head(0, 3);
    image_key_u32(&i, "x.twice", 1);
    image_key_u32(&i, "x.once", 1);
    image_key_str(&i, "x.twice", "another kind");
    refused(&i, HEARTH_FORMAT, "key x.twice stands there twice");
}

static void values(void **state)
{
    (void)state;
    struct image i = with_head(0, 1);
    image_key(&i, "k.kind", 13);
    i = padded(i, 16);
    refused(&i, HEARTH_FORMAT, "key k.kind: value type 13 is not known");
    i = with_head(0, 1);
    image_key(&i, "k.kind", UINT32_MAX);
    i = padded(i, 16);
    refused(&i, HEARTH_FORMAT, "key k.kind: value type 4294967295 is not known");
    i = with_head(0, 1);
    image_key(&i, "k.bool", 7), image_u8(&i, 2);
    refused(&i, HEARTH_FORMAT, "key k.bool: 2 is neither true nor false");
    static const uint64_t huge[] = {9,          (uint64_t)INT32_MAX + 1, (uint64_t)1 << 32, INT64_MAX,
                                    UINT64_MAX, UINT64_MAX - 15};
    for (size_t h = 0; h < 6; h++) {
        i = with_head(0, 1);
        image_key(&i, "k.text", 8), image_u64(&i, huge[h]), image_bytes(&i, "12345678", 8);
        refused(&i, HEARTH_FORMAT, "key k.text: a string of");
        for (unsigned kind = 0; kind <= 12; kind++) {
            if (kind == 9)
                continue;
            i = with_head(0, 1); // an array whose count is more than the file can hold
            image_key(&i, "k.many", 9), image_u32(&i, kind), image_u64(&i, huge[h]),
                image_bytes(&i, "12345678", 8);
            refused(&i, HEARTH_FORMAT, "key k.many: an array of");
        }
    }
    i = with_head(0, 1);
    image_key(&i, "k.nested", 9), image_u32(&i, 9), image_u64(&i, 1);
    image_u32(&i, 4), image_u64(&i, 1), image_u32(&i, 0);
    refused(&i, HEARTH_FORMAT, "key k.nested: an array of arrays");
    i = with_head(0, 1);
    image_key(&i, "k.element", 9), image_u32(&i, 77), image_u64(&i, 1), image_u64(&i, 1);
    refused(&i, HEARTH_FORMAT, "key k.element: element type 77 is not known");
    i = with_head(0, 1);
    image_key(&i, "k.strings", 9), image_u32(&i, 8), image_u64(&i, 2);
    image_str(&i, "good"), image_u64(&i, (uint64_t)-12); // the second one points backwards
    refused(&i, HEARTH_FORMAT, "key k.strings: a string of");
    i = with_head(0, 1);
    image_key(&i, "k.bools", 9), image_u32(&i, 7), image_u64(&i, 3), image_bytes(&i, "\0\1\7", 3);
    refused(&i, HEARTH_FORMAT, "key k.bools: 7 is neither");
    i = with_head(0, 1);
    image_key(&i, "k.long", 8), image_u64(&i, HT_MAX_GGUF_STRING_BYTES + 1);
    i = padded(i, HT_MAX_GGUF_STRING_BYTES + 1);
    refused(&i, HEARTH_LIMIT, "key k.long: a string of 16777217 bytes, at most 16777216");
}

// A file that really has the bytes that its header claims (holes, here) still cannot make the reader take
// them all.
static void endless_header(void **state)
{
    (void)state;
    struct image i = with_head(0, 1);
    struct hearth_error err = {0};
    struct ht_gguf *g;
    const char *path = check_path(folder, "long.gguf");
    image_key(&i, "k.bytes", 9), image_u32(&i, 0), image_u64(&i, (uint64_t)300 << 20);
    check_file_write(path, i.data, i.len);
    image_free(&i);
    assert_int_equal(truncate(path, (off_t)400 << 20), 0);
    fault_memory_begin(0);
    assert_int_equal(ht_gguf_open(&g, path, &err), HEARTH_LIMIT);
    assert_true(fault_memory_peak() < MEMORY_FLOOR);
    assert_int_equal(fault_memory_end(NULL), 0);
    assert_non_null(strstr(err.text, "long.gguf: key k.bytes: the header is larger than 256 MiB"));
    remove(path);
}

static void alignments(void **state)
{
    (void)state;
    static const uint32_t bad[] = {0, 1, 3, 4, 33, 0xFFFFFFFF};
    for (size_t b = 0; b < 6; b++) {
        struct image i = with_head(1, 1);
        image_key_u32(&i, "general.alignment", bad[b]);
        image_tensor(&i, "t", 8, 0, 0, 0);
        i = padded(i, 64);
        refused(&i, HEARTH_FORMAT, "key general.alignment: ");
    }
    struct image i = with_head(0, 1);
    image_key_str(&i, "general.alignment", "32");
    refused(&i, HEARTH_FORMAT, "key general.alignment is not a whole number");
    i = with_head(0, 1);
    image_key(&i, "general.alignment", 11), image_u64(&i, (uint64_t)-32);
    refused(&i, HEARTH_FORMAT, "key general.alignment: -32 is not");
    i = with_head(0, 1);
    image_key(&i, "general.alignment", 10), image_u64(&i, (uint64_t)1 << 40);
    refused(&i, HEARTH_FORMAT, "key general.alignment: 1099511627776 is not");
    i = with_head(1, 1); // a power of two that moves the data beyond the file
    image_key_u32(&i, "general.alignment", 1u << 31);
    image_tensor(&i, "t", 8, 0, 0, 0);
    i = padded(i, 64);
    refused(&i, HEARTH_FORMAT, "tensor t: 32 bytes at 2147483648 reach beyond the end");
}

static void tensor_names(void **state)
{
    (void)state;
    char name[HT_MAX_GGUF_NAME_BYTES + 2];
    struct image i = with_head(1, 0);
    memset(name, 'n', sizeof name);
    name[HT_MAX_GGUF_NAME_BYTES + 1] = 0;
    image_tensor(&i, name, 8, 0, 0, 0);
    refused(&i, HEARTH_LIMIT, "tensor 1 of 1: a name of 128 bytes, at most 127");
    i = with_head(1, 0);
    image_tensor(&i, "", 8, 0, 0, 0), i = padded(i, 40);
    refused(&i, HEARTH_FORMAT, "tensor 1 of 1: the name is empty");
    i = with_head(1, 0);
    image_u64(&i, UINT64_MAX), i = padded(i, 40);
    refused(&i, HEARTH_FORMAT, "tensor 1 of 1: a name of 18446744073709551615 bytes");
    i = with_head(1, 0);
    image_u64(&i, 2), image_bytes(&i, "t\0", 2), i = padded(i, 40);
    refused(&i, HEARTH_FORMAT, "the name is not well-formed");
    i = with_head(3, 0);
    image_tensor(&i, "t.twice", 8, 0, 0, 0);
    image_tensor(&i, "t.once", 8, 0, 0, 32);
    image_tensor(&i, "t.twice", 8, 0, 0, 64);
    image_pad(&i, 32), i = padded(i, 96);
    refused(&i, HEARTH_FORMAT, "tensor t.twice stands there twice");
}

// One tensor of these dimensions and type at offset 0, with 4 KiB of data behind it.
static struct image shaped(unsigned n_dims, const uint64_t *ne, uint32_t type)
{
    struct image i = with_head(1, 0);
    image_str(&i, "t.w");
    image_u32(&i, n_dims);
    for (unsigned d = 0; d < n_dims && d < 8; d++)
        image_u64(&i, ne[d]);
    image_u32(&i, type);
    image_u64(&i, 0);
    image_pad(&i, 32);
    return padded(i, 4096);
}

static void shapes(void **state)
{
    (void)state;
    static const struct {
        unsigned n_dims;
        uint64_t ne[5];
        uint32_t type;
        enum hearth_status status;
        const char *text;
    } cases[] = {
        {0, {0}, 0, HEARTH_FORMAT, "t.w: 0 dimensions"},
        {5, {1, 1, 1, 1, 1}, 0, HEARTH_FORMAT, "t.w: 5 dimensions"},
        {0xFFFFFFFF, {1, 1, 1, 1, 1}, 0, HEARTH_FORMAT, "t.w: 4294967295 dimensions"},
        {1, {0}, 0, HEARTH_FORMAT, "t.w: dimension 0 is 0"},
        {3, {8, 4, 0}, 0, HEARTH_FORMAT, "t.w: dimension 2 is 0"},
        {2,
         {(uint64_t)1 << 32, (uint64_t)1 << 32},
         0,
         HEARTH_FORMAT,
         "t.w: the product of its dimensions overflows"},
        {4, {65536, 65536, 65536, 65536}, 0, HEARTH_FORMAT, "t.w: the product of its dimensions overflows"},
        {2,
         {(uint64_t)1 << 31, (uint64_t)1 << 32},
         0,
         HEARTH_FORMAT,
         "t.w: the product of its dimensions overflows"},
        {1, {UINT64_MAX}, 0, HEARTH_FORMAT, "t.w: the product of its dimensions overflows"},
        {2,
         {UINT64_MAX / 4 + 2, 4},
         0,
         HEARTH_FORMAT,
         "t.w: the product of its dimensions overflows"},                               // wraps to 4
        {1, {(uint64_t)1 << 62}, 0, HEARTH_FORMAT, "t.w: its size in bytes overflows"}, // × 4 wraps to 0
        {1,
         {((uint64_t)1 << 62) + 1},
         0,
         HEARTH_FORMAT,
         "t.w: its size in bytes overflows"}, // × 4 wraps to 4
        {2, {(uint64_t)1 << 42, (uint64_t)1 << 20}, 0, HEARTH_FORMAT, "t.w: its size in bytes overflows"},
        {1, {(uint64_t)1 << 60}, 0, HEARTH_FORMAT, "tensor t.w: 4611686018427387904 bytes at"},
        {1, {1025}, 0, HEARTH_FORMAT, "tensor t.w: 4100 bytes at"},
        {1, {31}, 2, HEARTH_FORMAT, "t.w: rows of 31 values are not whole Q4_0 blocks of 32"},
        {2, {16, 2}, 8, HEARTH_FORMAT, "t.w: rows of 16 values are not whole Q8_0 blocks of 32"}, // 32 in all
        {2, {128, 2}, 12, HEARTH_FORMAT, "t.w: rows of 128 values are not whole Q4_K blocks of 256"},
        {1, {256}, 17, HEARTH_UNSUPPORTED, "t.w: type IQ2_XS is not supported"},
        {1, {256}, 4, HEARTH_UNSUPPORTED, "t.w: type Q4_2 is not supported"},
        {1, {256}, 31, HEARTH_UNSUPPORTED, "t.w: type Q4_0_4_4 is not supported"},
        {1, {256}, 28, HEARTH_UNSUPPORTED, "t.w: type F64 is not supported"},
        {1, {256}, 39, HEARTH_UNSUPPORTED, "t.w: type MXFP4 is not supported"},
        {1, {256}, 42, HEARTH_UNSUPPORTED, "t.w: type number 42 is not known"},
        {1, {256}, UINT32_MAX, HEARTH_UNSUPPORTED, "t.w: type number 4294967295 is not known"},
    };
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        struct image i = shaped(cases[c].n_dims, cases[c].ne, cases[c].type);
        refused(&i, cases[c].status, cases[c].text);
    }
}

static void offsets(void **state)
{
    (void)state;
    static const struct {
        uint64_t offset[2];
        const char *text;
    } cases[] = {
        {{0, 1}, "tensor t.b: its offset 1 is not a multiple of 32"},
        {{0, 16}, "tensor t.b: its offset 16 is not a multiple of 32"},
        {{0, 128}, "tensor t.b: 64 bytes at"}, // begins where the file ends
        {{0, 96}, "tensor t.b: 64 bytes at"},  // ends 32 bytes beyond it
        {{0, (uint64_t)1 << 63}, "tensor t.b: 64 bytes at"},
        {{0, UINT64_MAX - 31}, "tensor t.b: 64 bytes at"}, // data start + offset wraps
        {{0, UINT64_MAX - 127}, "tensor t.b: 64 bytes at"},
        {{0, 0}, "overlaps"},
        {{0, 32}, "tensor t.b overlaps tensor t.a"},
        {{32, 0}, "tensor t.a overlaps tensor t.b"},
    };
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        struct image i = with_head(2, 0);
        image_tensor(&i, "t.a", 16, 0, 0, cases[c].offset[0]);
        image_tensor(&i, "t.b", 16, 0, 0, cases[c].offset[1]);
        image_pad(&i, 32);
        i = padded(i, 128);
        refused(&i, HEARTH_FORMAT, cases[c].text);
    }
    struct image i = with_head(3, 0); // the last two, while the first stands apart
    image_tensor(&i, "t.a", 8, 0, 0, 0);
    image_tensor(&i, "t.b", 16, 0, 0, 32);
    image_tensor(&i, "t.c", 8, 0, 0, 64);
    image_pad(&i, 32);
    i = padded(i, 128);
    refused(&i, HEARTH_FORMAT, "tensor t.c overlaps tensor t.b");
}

// A valid file cut at every byte: never accepted before its last one, never more than an error.
static void truncated(void **state)
{
    (void)state;
    struct image image = {0};
    size_t header = image_valid(&image), full = image.len;
    for (size_t len = 0; len < full; len++) {
        struct image cut = {0};
        image_bytes(&cut, image.data, len);
        refused(&cut, HEARTH_FORMAT, len < 4 ? "" : len < header ? "file" : "tensor t.");
    }
    image_free(&image);
}

// ---------------------------------------------------------------- split models

struct split {
    int64_t no, count, tensors; // -1 = the key is left out
    const char *tensor, *extra; // extra: a string key of its own
};

static void write_split(const char *name, const struct split *s)
{
    struct image i =
        with_head(1, (uint64_t)((s->no >= 0) + (s->count >= 0) + (s->tensors >= 0) + (s->extra != NULL)));
    if (s->no >= 0)
        image_key_u32(&i, "split.no", (uint32_t)s->no);
    if (s->count >= 0)
        image_key_u32(&i, "split.count", (uint32_t)s->count);
    if (s->tensors >= 0)
        image_key_u32(&i, "split.tensors.count", (uint32_t)s->tensors);
    if (s->extra)
        image_key_str(&i, "llama.extra", s->extra);
    image_tensor(&i, s->tensor, 8, 0, 0, 0);
    image_pad(&i, 32);
    i = padded(i, 32);
    check_file_write(check_path(folder, name), i.data, i.len);
    image_free(&i);
}

static const struct {
    struct split first, second;
    enum hearth_status status;
    const char *text;
} split_cases[] = {
    {{0, 2, 3, "t.a", NULL},
     {1, 2, 3, "t.b", NULL},
     HEARTH_FORMAT,
     "m-00001-of-00002.gguf: key split.tensors.count says 3"},
    {{0, 2, 2, "t.a", NULL}, {0, 2, 2, "t.b", NULL}, HEARTH_FORMAT, "m-00002-of-00002.gguf: key split.no"},
    {{0, 2, 2, "t.a", NULL}, {-1, 2, 2, "t.b", NULL}, HEARTH_FORMAT, "m-00002-of-00002.gguf: key split.no"},
    {{0, 2, 2, "t.a", NULL}, {1, 3, 2, "t.b", NULL}, HEARTH_FORMAT, "m-00002-of-00002.gguf: key split.count"},
    {{0, 2, 2, "t.a", NULL},
     {1, -1, 2, "t.b", NULL},
     HEARTH_FORMAT,
     "m-00002-of-00002.gguf: key split.count"},
    {{0, 2, 2, "t.a", NULL}, {1, 2, 2, "t.a", NULL}, HEARTH_FORMAT, "tensor t.a stands there twice"},
    {{0, 2, 2, "t.a", "x"}, {1, 2, 2, "t.b", "y"}, HEARTH_FORMAT, "m-00002-of-00002.gguf: key llama.extra"},
    {{0, 2, 2, "t.a", NULL}, {1, 2, 2, "t.b", "y"}, HEARTH_FORMAT, "m-00002-of-00002.gguf: key llama.extra"},
    {{1, 2, 2, "t.a", NULL},
     {1, 2, 2, "t.b", NULL},
     HEARTH_INVALID,
     "this is part 2 of 2, open the first one"},
    {{2, 2, 2, "t.a", NULL},
     {1, 2, 2, "t.b", NULL},
     HEARTH_FORMAT,
     "split.no and split.count say part 2 of 2"},
    {{0, 0, 2, "t.a", NULL},
     {1, 2, 2, "t.b", NULL},
     HEARTH_FORMAT,
     "split.no and split.count say part 0 of 0"},
    {{0, 3, 3, "t.a", NULL}, {1, 3, 3, "t.b", NULL}, HEARTH_FORMAT, "does not end in -00001-of-00003.gguf"},
    {{0, 1025, 3, "t.a", NULL}, {1, 2, 3, "t.b", NULL}, HEARTH_LIMIT, "1025 parts, at most 1024"},
    {{0, 0xFFFFFFFF, 3, "t.a", NULL}, {1, 2, 3, "t.b", NULL}, HEARTH_LIMIT, "4294967295 parts, at most 1024"},
    {{0, 2, 2, "t.a", "x"}, {1, 2, 2, "t.b", "x"}, HEARTH_OK, ""}, // a key repeated alike is no lie
};

static void lying_splits(void **state)
{
    (void)state;
    static const struct split good[] = {{0, 2, 2, "t.a", "x"}, {1, 2, 2, "t.b", NULL}};
    const char *path = check_path(folder, "m-00001-of-00002.gguf");
    struct ht_gguf *g;
    for (size_t c = 0; c < sizeof split_cases / sizeof split_cases[0]; c++) {
        struct hearth_error err = {0};
        write_split("m-00001-of-00002.gguf", &split_cases[c].first);
        write_split("m-00002-of-00002.gguf", &split_cases[c].second);
        fault_memory_begin(0);
        enum hearth_status status = ht_gguf_open(&g, path, &err);
        if (status != split_cases[c].status || !strstr(err.text, split_cases[c].text))
            print_error("case %zu: status %d, text \"%s\"\n", c, (int)status, err.text);
        ht_gguf_close(&g);
        assert_int_equal(fault_memory_end(NULL), 0);
        assert_int_equal(status, split_cases[c].status);
        assert_non_null(strstr(err.text, split_cases[c].text));
    }
    struct hearth_error err = {0};
    write_split("m-00001-of-00002.gguf", &good[0]);
    remove(check_path(folder, "m-00002-of-00002.gguf"));
    assert_int_equal(ht_gguf_open(&g, path, &err), HEARTH_NOT_FOUND);
    assert_non_null(strstr(err.text, "m-00002-of-00002.gguf: cannot open"));
    check_file_write(check_path(folder, "m-00002-of-00002.gguf"), "junk", 4);
    assert_int_equal(ht_gguf_open(&g, path, &err), HEARTH_FORMAT);
    assert_non_null(strstr(err.text, "m-00002-of-00002.gguf: not a GGUF file"));
    write_split("m-00002-of-00002.gguf", &good[1]);
    assert_int_equal(ht_gguf_open(&g, path, &err), HEARTH_OK);
    ht_gguf_close(&g);
}

// ---------------------------------------------------------------- the property behind the sums

// Sizes near every power of two, of every type: a file that claims them is accepted only if 128-bit
// arithmetic agrees that the data lies inside it.
static void sizes_against_wide_arithmetic(void **state)
{
    (void)state;
    enum { DATA = 8192 };
    uint64_t seed = 1;
    unsigned accepted = 0;
    for (unsigned n = 0; n < 3000; n++) {
        uint64_t ne[4];
        unsigned __int128 values = 1;
        for (unsigned d = 0; d < 4; d++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            unsigned bits = (unsigned)(seed >> 58) % (n % 3 ? 64 : 6);
            ne[d] = ((uint64_t)1 << bits) + (seed >> 40) % 3 - (bits > 1);
            values *= ne[d];
            if (values >> 60)
                values = (unsigned __int128)1 << 60; // large enough to be wrong, small enough not to wrap
        }
        static const uint32_t types[] = {0, 1, 2, 8, 12, 14, 30};
        uint32_t type = types[n % 7];
        const struct ht_type_info *info = ht_type_known(type);
        int fits = ne[0] && ne[1] && ne[2] && ne[3] && ne[0] % info->block_values == 0 &&
                   values / info->block_values * info->block_bytes <= DATA;
        struct image i = with_head(1, 0);
        image_str(&i, "t"), image_u32(&i, 4);
        for (unsigned d = 0; d < 4; d++)
            image_u64(&i, ne[d]);
        image_u32(&i, type), image_u64(&i, 0);
        image_pad(&i, 32);
        i = padded(i, DATA);
        struct ht_gguf *g;
        check_file_write(check_path(folder, "sum.gguf"), i.data, i.len);
        image_free(&i);
        assert_int_equal(ht_gguf_open(&g, check_path(folder, "sum.gguf"), NULL) == HEARTH_OK, fits);
        if (g) {
            assert_true(ht_gguf_tensor_at(g, 0)->size_bytes ==
                        values / info->block_values * info->block_bytes);
            accepted++;
        }
        ht_gguf_close(&g);
    }
    assert_true(accepted > 50);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(heads),
        cmocka_unit_test(counts),
        cmocka_unit_test(key_names),
        cmocka_unit_test(values),
        cmocka_unit_test(alignments),
        cmocka_unit_test(tensor_names),
        cmocka_unit_test(shapes),
        cmocka_unit_test(offsets),
        cmocka_unit_test(truncated),
        cmocka_unit_test(lying_splits),
        cmocka_unit_test(sizes_against_wide_arithmetic),
        cmocka_unit_test(endless_header),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
