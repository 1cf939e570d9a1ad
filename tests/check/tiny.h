// SPDX-License-Identifier: Apache-2.0
// Tiny random models of any family and shape as files, with tiny-llama's vocabulary of 264. Test thread.
#ifndef CHECK_TINY_H
#define CHECK_TINY_H
#include "engine/gguf/gguf.h"

struct check_tiny {
    const char *family;
    uint32_t layers, n_embd, n_ff, heads, kv_heads, k_dim, v_dim, window; // window 0: no such key
    enum ht_type type;                 // of the matrices; rows are whole blocks of it
    const struct ht_gguf_key *pattern; // attention.sliding_window_pattern, or NULL
};
// Writes folder/name; its path as check_path gives it. The same values for the same shape.
const char *check_tiny_make(const char *folder, const char *name, const struct check_tiny *shape);

#endif
