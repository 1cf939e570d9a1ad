// SPDX-License-Identifier: Apache-2.0
// The oracle of training: each op of engine/ops/train.h, and the forward ops that it inverts, from their definitions,
// in double throughout, so that whole models can be composed of it and judged by finite differences. It shares no code
// with what it judges. Pure functions of their arguments, any thread.
#ifndef HT_CPU_TRAIN_REF_H
#define HT_CPU_TRAIN_REF_H
#include "engine/ops/train.h"

// All add to y, a (rows, k): NT y (rows, n) += scale a bᵀ; NN y (rows, n) += scale a b; TN y (k, n) += scale aᵀ b.
void ht_ref_dense(enum ht_dense_kind kind, const double *a, const double *b, uint32_t rows, uint32_t n, uint32_t k,
                  double scale, double *y);

void ht_ref_norm(const double *x, const double *w, uint32_t dim, double eps, double *y);
void ht_ref_norm_back(const double *x, const double *w, const double *dy, uint32_t dim, double eps, double *dx);

void ht_ref_layernorm(const double *x, const double *w, const double *b, uint32_t dim, double eps, double *y);
void ht_ref_layernorm_back(const double *x, const double *w, const double *dy, uint32_t dim, double eps, double *dx);

// One head in place; direction 1, or -1 for the gradient. angle (n_rot / 2).
void ht_ref_rotate(double *x, const double *angle, uint32_t n_rot, enum ht_rope_kind kind, double mscale,
                   int direction);

double ht_ref_gate(enum ht_act act, double gate, double up); // ht_ref_glu of ref.h, in two parts for its gradient
void ht_ref_gate_back(enum ht_act act, double gate, double up, double dy, double *dgate, double *dup);
double ht_ref_cap_back(double x, double cap, double dy); // from the input x of the soft-cap

struct ht_ref_attend {
    uint32_t rows, heads, kv_heads, k_dim, v_dim, window;
    double scale, softcap, alibi_max_bias; // 0 = none
    const uint32_t *seg_from;
};
// q (rows, heads, k_dim), k (rows, kv_heads, k_dim), v (rows, kv_heads, v_dim) → y (rows, heads, v_dim)
void ht_ref_attend(const struct ht_ref_attend *p, const double *q, const double *k, const double *v, double *y);
// dq, dk, dv are added to. With `magnitudes` the sums run over the magnitudes of their terms instead.
void ht_ref_attend_back(const struct ht_ref_attend *p, const double *q, const double *k, const double *v,
                        const double *dy, bool magnitudes, double *dq, double *dk, double *dv);

// Loss of one row; d (n) = its gradient times weight, NULL: not wanted.
double ht_ref_cross_entropy(const double *logits, uint32_t n, double softcap, uint32_t target, double weight,
                            double *d);

struct ht_ref_adamw {
    double rate, beta1, beta2, eps, decay;
    unsigned step; // from 1
};
void ht_ref_adamw(const struct ht_ref_adamw *p, double g, double *w, double *m, double *v);

#endif
