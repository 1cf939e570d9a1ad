// SPDX-License-Identifier: Apache-2.0
// The byte-wise GGUF maker. Test thread.
#include "tests/check/image.h"

#include <stdlib.h>
#include <string.h>

void image_free(struct image *image)
{
    free(image->data);
    *image = (struct image){0};
}

void image_bytes(struct image *image, const void *data, size_t len)
{
    if (image->len + len > image->capacity) {
        image->capacity = 2 * (image->len + len) + 256;
        image->data = realloc(image->data, image->capacity);
        if (!image->data)
            abort();
    }
    if (len)
        memcpy(image->data + image->len, data, len);
    image->len += len;
}

static void put_number(struct image *image, uint64_t value, size_t len)
{
    unsigned char little[8];
    for (size_t i = 0; i < 8; i++)
        little[i] = (unsigned char)(value >> (8 * i));
    image_bytes(image, little, len);
}

void image_u8(struct image *image, unsigned value)
{
    put_number(image, value, 1);
}

void image_u32(struct image *image, uint32_t value)
{
    put_number(image, value, 4);
}

void image_u64(struct image *image, uint64_t value)
{
    put_number(image, value, 8);
}

void image_str(struct image *image, const char *text)
{
    image_u64(image, strlen(text));
    image_bytes(image, text, strlen(text));
}

void image_pad(struct image *image, size_t align)
{
    while (image->len % align)
        image_u8(image, 0);
}

void image_head(struct image *image, uint32_t version, uint64_t n_tensors, uint64_t n_keys)
{
    image_bytes(image, "GGUF", 4);
    image_u32(image, version);
    image_u64(image, n_tensors);
    image_u64(image, n_keys);
}

void image_key(struct image *image, const char *name, uint32_t kind)
{
    image_str(image, name);
    image_u32(image, kind);
}

void image_key_u32(struct image *image, const char *name, uint32_t value)
{
    image_key(image, name, 4);
    image_u32(image, value);
}

void image_key_str(struct image *image, const char *name, const char *text)
{
    image_key(image, name, 8);
    image_str(image, text);
}

void image_tensor(struct image *image, const char *name, uint64_t ne0, uint64_t ne1, uint32_t type,
                  uint64_t offset)
{
    image_str(image, name);
    image_u32(image, ne1 ? 2 : 1);
    image_u64(image, ne0);
    if (ne1)
        image_u64(image, ne1);
    image_u32(image, type);
    image_u64(image, offset);
}

static void put_array(struct image *image, const char *name, uint32_t kind, uint64_t count)
{
    image_key(image, name, 9);
    image_u32(image, kind);
    image_u64(image, count);
}

size_t image_valid(struct image *image)
{
    image_head(image, 3, 3, 17);
    image_key_str(image, "general.architecture", "llama");
    image_key_u32(image, "llama.block_count", 2);
    image_key(image, "k.u8", 0), image_u8(image, 200);
    image_key(image, "k.i8", 1), image_u8(image, 0xFB); // -5
    image_key(image, "k.u16", 2), image_bytes(image, "\x34\x12", 2);
    image_key(image, "k.i16", 3), image_bytes(image, "\xFE\xFF", 2); // -2
    image_key(image, "k.i32", 5), image_u32(image, (uint32_t)-70000);
    image_key(image, "k.f32", 6), image_u32(image, 0x3F000000); // 0.5
    image_key(image, "k.true", 7), image_u8(image, 1);
    image_key(image, "k.u64", 10), image_u64(image, UINT64_MAX);
    image_key(image, "k.i64", 11), image_u64(image, (uint64_t)INT64_MIN);
    image_key(image, "k.f64", 12), image_u64(image, 0x4004000000000000); // 2.5
    put_array(image, "a.strings", 8, 3);
    image_str(image, "one"), image_str(image, ""), image_str(image, "\xFFtwo");
    put_array(image, "a.i32", 5, 3);
    image_u32(image, 1), image_u32(image, (uint32_t)-2), image_u32(image, 3);
    put_array(image, "a.f32", 6, 2);
    image_u32(image, 0x3F800000), image_u32(image, 0xC0000000); // 1, -2
    put_array(image, "a.empty", 4, 0);
    image_key_str(image, "last", "a text");
    image_tensor(image, "t.f32", 8, 2, 0, 0);       // 64 bytes
    image_tensor(image, "t.q8_0", 32, 3, 8, 64);    // 102 bytes
    image_tensor(image, "t.q4_k", 256, 1, 12, 192); // 144 bytes
    size_t header = image->len;
    image_pad(image, 32);
    for (unsigned i = 0; i < 192 + 144; i++)
        image_u8(image, i);
    return header;
}
