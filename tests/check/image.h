// SPDX-License-Identifier: Apache-2.0
// GGUF files written byte by byte, so that a test can lie in any field.
#ifndef CHECK_IMAGE_H
#define CHECK_IMAGE_H
#include <stddef.h>
#include <stdint.h>

struct image {
    unsigned char *data;
    size_t len, capacity;
};
void image_free(struct image *image);
void image_bytes(struct image *image, const void *data, size_t len_bytes);
void image_u8(struct image *image, unsigned value);
void image_u32(struct image *image, uint32_t value);
void image_u64(struct image *image, uint64_t value);
void image_str(struct image *image, const char *text); // length and bytes
void image_pad(struct image *image, size_t align);
// "GGUF", version, counts.
void image_head(struct image *image, uint32_t version, uint64_t n_tensors, uint64_t n_keys);
// Name and type; the value follows by the calls above.
void image_key(struct image *image, const char *name, uint32_t kind);
void image_key_u32(struct image *image, const char *name, uint32_t value);
void image_key_str(struct image *image, const char *name, const char *text);
// One- or two-dimensional (ne1 0 = one).
void image_tensor(struct image *image, const char *name, uint64_t ne0, uint64_t ne1, uint32_t type,
                  uint64_t offset);
// A small valid model: keys of every kind, three tensors (F32, Q8_0, Q4_K). Returns the length of its header.
size_t image_valid(struct image *image);

#endif
