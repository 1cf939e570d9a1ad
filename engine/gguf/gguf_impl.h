// SPDX-License-Identifier: Apache-2.0
// Inside of the GGUF reader: what parse.c fills and gguf.c, keys.c hand out. The loading thread.
#ifndef HT_GGUF_IMPL_H
#define HT_GGUF_IMPL_H
#include "engine/base/io.h"
#include "engine/gguf/gguf.h"

struct ht_gguf_key_entry {
    struct ht_gguf_key key;
    size_t name_at, data_at; // in the header, while it may still move
    bool used;
};

struct ht_gguf_tensor_entry {
    struct ht_gguf_tensor tensor;
    size_t name_at;
    bool used;
};

struct ht_gguf_part {
    struct ht_file *file;
    char *path;
    char identity[72];
    unsigned char *header; // from the file's first byte to the end of the tensor table, and one byte more
    size_t header_bytes;
    struct ht_gguf_key_entry *keys;
    uint32_t *key_order; // indices of keys by name
    size_t n_keys;
    size_t first_tensor, n_tensors; // its slice of ht_gguf.tensors
    uint64_t data_start;
    uint32_t version, alignment;
};

struct ht_gguf {
    struct ht_gguf_part *parts;
    unsigned n_parts; // opened so far
    struct ht_gguf_tensor_entry *tensors;
    uint32_t *tensor_order; // indices of tensors by name
    size_t n_tensors;
    bool any_type; // list tensors of types that we do not compute with
};

// Reads and checks the header of part `index` (its file is open); appends its tensors to gguf->tensors.
HT_MUST_USE enum hearth_status ht_gguf_parse(struct ht_gguf *gguf, unsigned index, struct hearth_error *err);

// NULL if absent.
const struct ht_gguf_key *ht_gguf_part_key(const struct ht_gguf_part *part, const char *name);
// The whole number that a key holds, as sign and magnitude; false if it holds something else.
bool ht_gguf_key_integer(const struct ht_gguf_key *key, bool *negative, uint64_t *magnitude);
size_t ht_gguf_kind_bytes(enum ht_gguf_kind kind); // 0 for STRING, ARRAY and numbers that are no kind

// Sorts indices in place; compare gives <0, 0, >0 for two indices. No allocation, n log n whatever the order.
typedef int ht_gguf_compare_fn(const void *context, uint32_t a, uint32_t b);
void ht_gguf_sort(uint32_t *order, size_t n, ht_gguf_compare_fn *compare, const void *context);

static inline uint32_t ht_load_u32(const unsigned char *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}
static inline uint64_t ht_load_u64(const unsigned char *p)
{
    return ht_load_u32(p) | (uint64_t)ht_load_u32(p + 4) << 32;
}

#endif
