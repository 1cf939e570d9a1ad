// SPDX-License-Identifier: Apache-2.0
// Reads and writes safetensors files: u64 length, JSON header, data. Every offset is checked when the file is opened:
// tensors lie one behind the other without holes or overlaps and fill the file. One thread at a time.
#ifndef HT_SAFETENSORS_H
#define HT_SAFETENSORS_H
#include "engine/base/error.h"
#include "engine/gguf/quant.h"

enum { HT_SAFETENSORS_DIMS = 4 };

struct ht_safetensors;
struct ht_safetensor {
    const char *name;   // well-formed UTF-8, [1..255] bytes
    enum ht_type type;  // F32, F16 or BF16
    unsigned n_dims;    // [0..4]
    uint64_t shape[HT_SAFETENSORS_DIMS]; // slowest dimension first; 1 beyond n_dims
    uint64_t n_values, size_bytes;
    uint64_t offset; // in the file
};

HT_MUST_USE enum hearth_status ht_safetensors_open(struct ht_safetensors **file, const char *path,
                                                   struct hearth_error *err);
void ht_safetensors_close(struct ht_safetensors **file);
size_t ht_safetensors_n(const struct ht_safetensors *file);
const struct ht_safetensor *ht_safetensors_at(const struct ht_safetensors *file, size_t i); // in order of offset
const struct ht_safetensor *ht_safetensors_find(const struct ht_safetensors *file, const char *name); // or NULL
// What __metadata__ says; NULL if absent. Names and texts are NUL-terminated UTF-8.
size_t ht_safetensors_n_meta(const struct ht_safetensors *file);
void ht_safetensors_meta_at(const struct ht_safetensors *file, size_t i, const char **key, const char **value);
const char *ht_safetensors_meta(const struct ht_safetensors *file, const char *key);
// The whole tensor as f32: out has n_values.
HT_MUST_USE enum hearth_status ht_safetensors_read(const struct ht_safetensors *file,
                                                   const struct ht_safetensor *tensor, float *out,
                                                   struct hearth_error *err);

struct ht_safetensors_item { // one to write
    const char *name;
    enum ht_type type; // F32, F16 or BF16
    unsigned n_dims;
    uint64_t shape[HT_SAFETENSORS_DIMS];
    const void *data;
};
struct ht_safetensors_pair {
    const char *key, *value;
};
// All or nothing (ht_file_commit); the data begins at a multiple of 8.
HT_MUST_USE enum hearth_status ht_safetensors_write(const char *path, const struct ht_safetensors_item *items,
                                                    size_t n_items, const struct ht_safetensors_pair *meta,
                                                    size_t n_meta, struct hearth_error *err);

#endif
