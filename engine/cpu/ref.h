// SPDX-License-Identifier: Apache-2.0
// The oracle: each op's formula in plain C with double accumulators, straight from its definition in
// engine/ops/ops.h. It shares no code with what it judges. The tests hold the contract (contract.h) to it
// within derived bounds. Any thread.
#ifndef HT_CPU_REF_H
#define HT_CPU_REF_H
#include "engine/ops/ops.h"

// Each writes the value and the sum of the magnitudes of its terms, for error bounds.
struct ht_ref_sum {
    double value, magnitude;
};
// Σ w_i x_i over k values of a row in GGUF form; x as given (f32).
struct ht_ref_sum ht_ref_dot(enum ht_type type, const void *blocks, const float *x, uint32_t k);
// scale * B (A x) for one output: b its row of B, a (rank, k).
struct ht_ref_sum ht_ref_lora(const float *a, const float *b, uint32_t rank, double scale, const float *x, uint32_t k);
void ht_ref_rmsnorm(const float *x, const float *w, uint32_t dim, double eps, double *y);
void ht_ref_rope(const float *x, double pos, const float *freq, uint32_t n_rot, enum ht_rope_kind kind,
                 double mscale, double *y);
double ht_ref_glu(enum ht_act act, double gate, double up);
double ht_ref_softcap(double x, double cap);
// One query over n positions: k (n, k_dim), v (n, v_dim) as stored values; bias per position added to the
// scores.
void ht_ref_attention(const float *q, const float *k, const float *v, uint32_t n, uint32_t k_dim,
                      uint32_t v_dim, double scale, double softcap, const double *bias, double *y,
                      double *magnitude);

#endif
