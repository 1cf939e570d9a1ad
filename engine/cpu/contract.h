// SPDX-License-Identifier: Apache-2.0
// The numeric contracts of engine/ops/ops.h spelt out in plain C, one value or row at a time: what every CPU
// path equals bit for bit. The "ref" path runs these functions; the tests hold them to the oracle (ref.h).
// Any thread.
#ifndef HT_CPU_CONTRACT_H
#define HT_CPU_CONTRACT_H
#include "engine/cpu/kernels.h"

// 32 values of a row as contract Q sees them.
struct ht_block32 {
    int16_t code[32];
    int16_t scale[2], min[2]; // per 16 values; 1 and 0 where the type has none
    float d, m;               // m: of q4_1 and q5_1, or dmin
};
// The j-th 32 values of the row that begins at `blocks` (GGUF form).
void ht_contract_block(enum ht_type type, const void *blocks, uint32_t j, struct ht_block32 *out);

void ht_contract_quantise(const float *x, uint32_t k, const struct ht_xrow *out);
// dot(W row, x) by contract Q.
float ht_contract_dot_q(enum ht_type type, const void *blocks, uint32_t k, const struct ht_xrow *x);
// by contract F; w and x f32
float ht_contract_dot_f(const float *w, const float *x, uint32_t k);

// LoRA (ht_matmul): u_j = dot(a, x), and y[0 .. n) += B u for 16 outputs at most; see lora_up in kernels.h.
float ht_contract_lora_down(const float *a, const float *x, uint32_t k);
void ht_contract_lora_up(const float *b, uint32_t rank, const float *u, uint32_t n, float *y);

void ht_contract_rmsnorm(const float *x, const float *w, uint32_t dim, float eps, bool add, float *y);
void ht_contract_rope(float *x, const float *cosine, const float *sine, uint32_t n_rot,
                      enum ht_rope_kind kind);
void ht_contract_glu(enum ht_act act, const float *gate, const float *up, float *y, uint32_t n);
void ht_contract_softcap(float *x, uint32_t n, float cap);
float ht_contract_softmax(float *s, uint32_t from, uint32_t to, float scale, float softcap, float slope,
                          uint32_t p);

#endif
