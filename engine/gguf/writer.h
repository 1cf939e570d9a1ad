// SPDX-License-Identifier: Apache-2.0
// Writes a GGUF v3 file in one pass: keys, then the tensor table, then the data in the same order. Everything
// before the data is kept in memory. The file appears under its name only when complete (ht_file_commit).
// One thread. The writer does not judge what it is given: checking is the reader's work, and tests write bad
// files.
//
//   begin → key_* … → tensor … → data … (each tensor's bytes whole, in order, any pieces) →
// finish, or discard
#ifndef HT_GGUF_WRITER_H
#define HT_GGUF_WRITER_H
#include "engine/gguf/gguf.h"

struct ht_gguf_writer;

// `alignment` a power of two; other than 32 it is written as general.alignment.
HT_MUST_USE enum hearth_status ht_gguf_writer_begin(struct ht_gguf_writer **writer, const char *path,
                                                    uint32_t alignment, struct hearth_error *err);

// Errors of keys and tensors (out of memory, called too late) are kept and returned by the next
// ht_gguf_writer_data or _finish, so that a list of keys needs no checks.
void ht_gguf_writer_u32(struct ht_gguf_writer *writer, const char *key, uint32_t value);
void ht_gguf_writer_u64(struct ht_gguf_writer *writer, const char *key, uint64_t value);
void ht_gguf_writer_f32(struct ht_gguf_writer *writer, const char *key, float value);
void ht_gguf_writer_bool(struct ht_gguf_writer *writer, const char *key, bool value);
void ht_gguf_writer_str(struct ht_gguf_writer *writer, const char *key, const char *text, size_t len_bytes);
void ht_gguf_writer_strings(struct ht_gguf_writer *writer, const char *key, const struct ht_gguf_str *strings,
                            size_t n);
void ht_gguf_writer_i32s(struct ht_gguf_writer *writer, const char *key, const int32_t *values, size_t n);
void ht_gguf_writer_f32s(struct ht_gguf_writer *writer, const char *key, const float *values, size_t n);
// A key as another file holds it, whatever its type: for copies.
void ht_gguf_writer_key(struct ht_gguf_writer *writer, const struct ht_gguf_key *key);

// Announces a tensor; its offset follows from the sizes of those before it.
void ht_gguf_writer_tensor(struct ht_gguf_writer *writer, const char *name, enum ht_type type,
                           unsigned n_dims, const uint64_t *ne);

HT_MUST_USE enum hearth_status ht_gguf_writer_data(struct ht_gguf_writer *writer, const void *data,
                                                   size_t len_bytes, struct hearth_error *err);
// Both take *writer to NULL. finish: INVALID if the data is not exactly what the tensors announced.
HT_MUST_USE enum hearth_status ht_gguf_writer_finish(struct ht_gguf_writer **writer,
                                                     struct hearth_error *err);
void ht_gguf_writer_discard(struct ht_gguf_writer **writer);

#endif
