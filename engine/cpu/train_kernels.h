// SPDX-License-Identifier: Apache-2.0
// Inner loops of training's attention and dense products: a table that plain C fills (train_kernels.c) and overlays
// replace with the same bits (train_lanes_*.c). No state, the caller's memory. Any thread.
#ifndef HT_CPU_TRAIN_KERNELS_H
#define HT_CPU_TRAIN_KERNELS_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/cpu/features.h"
#include "engine/ops/train.h"

struct ht_span {
    uint32_t from, to;
};

// What a chain begins with and where it ends: t = chain from 0, or from c.
enum ht_tile_end {
    HT_TILE_SET,        // c = t
    HT_TILE_CHAIN,      // the chain begins with c
    HT_TILE_SCALED,     // c = scale * t
    HT_TILE_SCALED_ADD, // c = fma(scale, t, c)
};

// c[r][j] (m, n): chains over i = 0 … count - 1 of a[r * a_row + i * a_step] * b[i * b_step + j]. With `seen`, row r's
// chain runs over i of seen[r] alone (from <= to <= count), and `end` is SET or CHAIN. c overlaps neither a nor b.
struct ht_tile {
    uint32_t m, n, count;
    const float *a, *b;
    size_t a_row, a_step, b_step;
    float *c;
    size_t c_row;
    enum ht_tile_end end;
    float scale;
    const struct ht_span *seen; // [m]; NULL: all
};

enum { HT_PANEL = 64 };

// How a score comes from its dot product (engine/ops/train.h).
struct ht_score {
    float scale, softcap, slope;
};

struct ht_train_kernels {
    uint32_t
        columns; // of b that `tile` goes through at a time: HT_GROUP or HT_PANEL. b is best packed in such strips
    void (*tile)(const struct ht_tile *tile);
    // y[c * y_row + r] = x[r * x_row + c]                                     x (rows, columns)
    void (*transpose)(const float *x, size_t x_row, uint32_t rows, uint32_t columns, float *y, size_t y_row);
    // Dot products s[from … to) of a row with keys of its segment → e; returns their sum, *top = the largest score. The
    // row's own key is to - 1.
    float (*softmax)(float *s, uint32_t from, uint32_t to, const struct ht_score *score, float *top);
    // s (dot products) → p, dp → ds, for n keys of which the first lies `distance` (<= 0) from the row.
    void (*pairs)(float *s, float *dp, uint32_t n, const struct ht_score *score, int32_t distance, float lse,
                  float delta);
    float (*dot)(const float *a, const float *b, uint32_t n); // in 16 chains, folded
    // y = add ? fma(scale, t, y) : scale * t
    void (*put_scaled)(const float *t, uint32_t n, float scale, bool add, float *y);
};

// The table of a file that has a function of each name.
#define HT_OWN_TRAIN_KERNELS(n_columns)                                                                      \
    {                                                                                                        \
        .columns = (n_columns), .tile = tile, .transpose = transpose, .softmax = softmax, .pairs = pairs,    \
        .dot = dot, .put_scaled = put_scaled                                                                 \
    }

// Plain C, and what replaces it.
extern const struct ht_train_kernels ht_train_plain, ht_train_avx2, ht_train_avx512vnni, ht_train_neon;
const struct ht_train_kernels *ht_train_kernels(enum ht_isa isa);

#endif
