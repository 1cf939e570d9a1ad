// SPDX-License-Identifier: Apache-2.0
// Reads a GGUF model file, or all parts of a split one: keys, tensor table, tensor bytes by pread. Every
// count, length, offset and name is checked when the file is opened; nothing that this header hands out can
// point outside what was read. A `struct ht_gguf` belongs to one thread at a time, except ht_gguf_read.
//
// Messages name the file and the key or tensor. Pointers handed out live until ht_gguf_close.
//
// What a file says and nobody reads must not be ignored: getters mark the key they return as understood,
// ht_gguf_use_tensor marks a tensor, and ht_gguf_refuse_unused_* name the first one left over.
#ifndef HT_GGUF_H
#define HT_GGUF_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/error.h"
#include "engine/base/limits.h"
#include "engine/gguf/quant.h"

struct ht_gguf;

enum ht_gguf_kind { // value types, the numbers stand in files
    HT_GGUF_U8 = 0,
    HT_GGUF_I8 = 1,
    HT_GGUF_U16 = 2,
    HT_GGUF_I16 = 3,
    HT_GGUF_U32 = 4,
    HT_GGUF_I32 = 5,
    HT_GGUF_F32 = 6,
    HT_GGUF_BOOL = 7,
    HT_GGUF_STRING = 8,
    HT_GGUF_ARRAY = 9,
    HT_GGUF_U64 = 10,
    HT_GGUF_I64 = 11,
    HT_GGUF_F64 = 12,
};
const char *ht_gguf_kind_name(enum ht_gguf_kind kind); // "u32"; never NULL

// A single-part or split model (path = its first part). Header bytes only; tensor data is not read.
HT_MUST_USE enum hearth_status ht_gguf_open(struct ht_gguf **gguf, const char *path,
                                            struct hearth_error *err);
// The same, but tensors of types that GGUF knows and Hearth does not compute with are listed instead of
// refused.
HT_MUST_USE enum hearth_status ht_gguf_open_any(struct ht_gguf **gguf, const char *path,
                                                struct hearth_error *err);
void ht_gguf_close(struct ht_gguf **gguf);

const char *ht_gguf_path(const struct ht_gguf *gguf);  // of the first part
const char *ht_gguf_shown(const struct ht_gguf *gguf); // ht_shown_path of it, for messages
unsigned ht_gguf_n_parts(const struct ht_gguf *gguf);
const char *ht_gguf_part_path(const struct ht_gguf *gguf, unsigned part);
uint64_t ht_gguf_part_bytes(const struct ht_gguf *gguf, unsigned part);
uint64_t ht_gguf_file_bytes(const struct ht_gguf *gguf); // all parts
uint32_t ht_gguf_version(const struct ht_gguf *gguf);
uint32_t ht_gguf_alignment(const struct ht_gguf *gguf); // of the first part

// (device, inode, size, mtime) of a part as it was opened; 72 bytes with the NUL.
const char *ht_gguf_identity(const struct ht_gguf *gguf, unsigned part);
// IO "… changed since it was opened" if any part is not what it was. Call it before weights are read again.
HT_MUST_USE enum hearth_status ht_gguf_check_unchanged(const struct ht_gguf *gguf, struct hearth_error *err);

// ---------------------------------------------------------------- keys (of the first part)
// Each getter: OK and *value set, and the key is marked as understood; NOT_FOUND if the file has no such key,
// or FORMAT if its value has another type or does not fit, both with *value left as it was and err filled.
// Integers of any width are accepted where the value fits the result; f32 also takes f64 and whole numbers.

HT_MUST_USE enum hearth_status ht_gguf_get_u32(const struct ht_gguf *gguf, const char *key, uint32_t *value,
                                               struct hearth_error *err);
HT_MUST_USE enum hearth_status ht_gguf_get_u64(const struct ht_gguf *gguf, const char *key, uint64_t *value,
                                               struct hearth_error *err);
HT_MUST_USE enum hearth_status ht_gguf_get_i64(const struct ht_gguf *gguf, const char *key, int64_t *value,
                                               struct hearth_error *err);
HT_MUST_USE enum hearth_status ht_gguf_get_f32(const struct ht_gguf *gguf, const char *key, float *value,
                                               struct hearth_error *err);
HT_MUST_USE enum hearth_status ht_gguf_get_bool(const struct ht_gguf *gguf, const char *key, bool *value,
                                                struct hearth_error *err);
// NUL-terminated, well-formed UTF-8 (otherwise FORMAT). len_bytes may be NULL.
HT_MUST_USE enum hearth_status ht_gguf_get_str(const struct ht_gguf *gguf, const char *key, const char **text,
                                               size_t *len_bytes, struct hearth_error *err);

// For keys that may be absent: HT_TRY(ht_gguf_optional(ht_gguf_get_f32(g, "llama.rope.freq_base", &x, err))).
static inline enum hearth_status ht_gguf_optional(enum hearth_status status)
{
    return status == HEARTH_NOT_FOUND ? HEARTH_OK : status;
}

// An array where it lies in the header: elements are not aligned, read them with the functions below.
struct ht_gguf_array {
    enum ht_gguf_kind kind; // of the elements
    uint64_t count;
    const unsigned char *data;
    size_t size_bytes;
};
struct ht_gguf_str {
    const char *text; // not NUL-terminated, any bytes
    size_t len_bytes;
};
// `kind` is what the caller can use: STRING, BOOL, I64 (integers of any width) or F32 (f32 and f64).
HT_MUST_USE enum hearth_status ht_gguf_get_array(const struct ht_gguf *gguf, const char *key,
                                                 enum ht_gguf_kind kind, struct ht_gguf_array *array,
                                                 struct hearth_error *err);
// i < count, and the kind as asked for. u64 values above INT64_MAX come back as INT64_MAX.
int64_t ht_gguf_array_i64(const struct ht_gguf_array *array, uint64_t i);
float ht_gguf_array_f32(const struct ht_gguf_array *array, uint64_t i);
// Takes the first string off the array; false when none is left.
bool ht_gguf_array_next(struct ht_gguf_array *array, struct ht_gguf_str *string);

// The table itself, in file order.
struct ht_gguf_key {
    const char *name;           // NUL-terminated UTF-8, [1..65535] bytes
    enum ht_gguf_kind kind;     // ARRAY: see `array`
    struct ht_gguf_array array; // scalars and strings are an "array" of one element of their kind
};
size_t ht_gguf_n_keys(const struct ht_gguf *gguf);
const struct ht_gguf_key *ht_gguf_key_at(const struct ht_gguf *gguf, size_t index);
const struct ht_gguf_key *ht_gguf_find_key(const struct ht_gguf *gguf, const char *name); // NULL if absent
// Marks a key that is known and of no consequence; absent is fine.
void ht_gguf_use_key(const struct ht_gguf *gguf, const char *name);
// The first key that begins with `prefix` ("llama.") and was neither read nor used; NULL = none.
const char *ht_gguf_first_unused_key(const struct ht_gguf *gguf, const char *prefix);
// UNSUPPORTED "FILE: key llama.x is not understood" or OK.
HT_MUST_USE enum hearth_status ht_gguf_refuse_unused_keys(const struct ht_gguf *gguf, const char *prefix,
                                                          struct hearth_error *err);

// ---------------------------------------------------------------- tensors (of all parts)

struct ht_gguf_tensor {
    const char *name; // NUL-terminated UTF-8, [1..HT_MAX_GGUF_NAME_BYTES] bytes
    enum ht_type type;
    uint32_t n_dims;               // [1..4]
    uint64_t ne[HT_MAX_GGUF_DIMS]; // ne[0] = values of a row (the contiguous dimension); 1 beyond n_dims
    uint64_t n_values;             // their product
    uint64_t row_bytes;            // of ne[0] values
    uint64_t size_bytes;
    uint64_t offset; // in the part's file
    uint32_t part;
};
size_t ht_gguf_n_tensors(const struct ht_gguf *gguf);
const struct ht_gguf_tensor *ht_gguf_tensor_at(const struct ht_gguf *gguf, size_t index); // file order
// NULL if absent.
const struct ht_gguf_tensor *ht_gguf_find_tensor(const struct ht_gguf *gguf, const char *name);
// Finds and marks as understood; NULL if absent.
const struct ht_gguf_tensor *ht_gguf_use_tensor(const struct ht_gguf *gguf, const char *name);
const struct ht_gguf_tensor *ht_gguf_first_unused_tensor(const struct ht_gguf *gguf); // NULL = none
// UNSUPPORTED "FILE: tensor blk.0.x is not understood" or OK.
HT_MUST_USE enum hearth_status ht_gguf_refuse_unused_tensors(const struct ht_gguf *gguf,
                                                             struct hearth_error *err);

// Bytes [offset, offset + len) of a tensor of this file; beyond its end is INVALID. Thread-safe.
HT_MUST_USE enum hearth_status ht_gguf_read(const struct ht_gguf *gguf, const struct ht_gguf_tensor *tensor,
                                            uint64_t offset, size_t len_bytes, void *data,
                                            struct hearth_error *err);

#endif
