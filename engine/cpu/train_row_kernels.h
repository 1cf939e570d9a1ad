// SPDX-License-Identifier: Apache-2.0
// Inner loops of training's ops on rows and flat vectors: a table that plain C fills (train_rows_plain.c) and overlays
// replace with the same bits (train_rows_*.c). Formulas: engine/ops/train.h. Pointers that may be the same memory
// there may be so here. No state, the caller's memory. Any thread.
#ifndef HT_CPU_TRAIN_ROW_KERNELS_H
#define HT_CPU_TRAIN_ROW_KERNELS_H
#include "engine/cpu/features.h"
#include "engine/ops/train.h"

struct ht_adamw_step { // what is the same for all values
    float beta1, beta2, eps, correction2;
    float step, keep; // p = fma(step, m / (sqrtf(v) / correction2 + eps), p * keep)
};

// Words of ht_philox(seed, row << 32 | i, stream): four for each i.
struct ht_draw {
    uint64_t seed, stream;
    uint32_t row;
};

enum { HT_SUM_BLOCK = 4096 };
#define HT_MOMENT_MIN 0x1p-120f // blocks whose largest moment is below it are 0: its inverse might overflow

struct ht_row_kernels {
    void (*rmsnorm_back)(const float *x, const float *w, const float *dy, uint32_t dim, float eps, bool add,
                         float *dx);
    void (*layernorm)(const float *x, const float *w, const float *b, uint32_t dim, float eps,
                      float *y); // b or NULL
    void (*layernorm_back)(const float *x, const float *w, const float *dy, uint32_t dim, float eps, bool add,
                           float *dx);
    void (*glu_back)(enum ht_act act, const float *gate, const float *up, const float *dy, uint32_t n,
                     float *dgate, float *dup);
    void (*softcap_back)(const float *y, const float *dy, uint32_t n, float cap, float *dx);
    void (*add)(const float *x, uint32_t n, float *y); // y = y + x
    float (*cross_entropy)(float *x, uint32_t n, float cap, uint32_t target,
                           float weight);             // returns the loss
    double (*square_sum)(const float *x, uint32_t n); // n <= HT_SUM_BLOCK
    void (*scale)(float *x, uint32_t n, float f);
    void (*adamw)(const struct ht_adamw_step *s, const float *g, uint32_t n, float *p, float *m, float *v);
    // One block of at most HT_MOMENT_BLOCK values; `draw` counts from value `first` on.
    void (*adamw8)(const struct ht_adamw_step *s, const struct ht_draw *draw, uint32_t first, const float *g,
                   uint32_t n, float *p, int8_t *m, uint8_t *v, float scales[2]);
    void (*dropout)(const struct ht_draw *draw, const float *x, uint32_t n, uint32_t limit, float scale,
                    bool add, float *y);
    void (*noise)(const struct ht_draw *draw, float *x, uint32_t n, float size);
};

// The table of a file that has a function of each name.
#define HT_OWN_ROW_KERNELS                                                                                   \
    {                                                                                                        \
        .rmsnorm_back = rmsnorm_back, .layernorm = layernorm, .layernorm_back = layernorm_back,              \
        .glu_back = glu_back, .softcap_back = softcap_back, .add = add_row, .cross_entropy = cross_entropy,  \
        .square_sum = square_sum, .scale = scale, .adamw = adamw, .adamw8 = adamw8, .dropout = dropout,      \
        .noise = noise                                                                                       \
    }

extern const struct ht_row_kernels ht_train_rows_plain, ht_train_rows_avx2, ht_train_rows_avx512vnni,
    ht_train_rows_neon;
const struct ht_row_kernels *ht_train_rows(enum ht_isa isa);

#endif
