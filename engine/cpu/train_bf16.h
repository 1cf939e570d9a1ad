// SPDX-License-Identifier: Apache-2.0
// Products of contract B (engine/ops/train.h): 32 outputs at a time. Their weights are unpacked to bf16 once, as a
// panel, and multiplied with all rows; x is rounded once for all panels. A table per variant, and plain C beside it:
// what the contract says, value by value. No state, the caller's memory. Any thread.
#ifndef HT_CPU_TRAIN_BF16_H
#define HT_CPU_TRAIN_BF16_H
#include "engine/cpu/kernels.h"
#include "engine/cpu/train_kernels.h"

enum {
    HT_B_STEP = 32,  // values of the index that is summed: 16 pairs
    HT_B_LANES = 32, // outputs of a panel
    HT_B_ROWS = 16,  // of x, side by side
    HT_B_MOST = 9,   // steps of a panel at once, so that two of them and x stay in L1
};
// One step of a panel: [pair][lane][2]. One step of 16 rows of x: [row][value].
enum { HT_B_PANEL = 16 * HT_B_LANES * 2, HT_B_TILE = HT_B_ROWS * HT_B_STEP };

struct ht_bf16_block { // up to 32 rows of x by one panel
    const uint16_t *panel, *x;
    size_t x_next;        // from 16 rows of x to the next 16
    uint32_t steps, rows; // rows: 16 or 32
    float *acc;           // (rows, 32)
    size_t acc_stride;
    bool begin; // t = 0; else t = acc
};

// One step of 16 rows of W, the j-th 32 columns of `tile` (float types: the first n of these 32 tiles, zeros for the
// others), as a half of one step of a panel.
typedef void ht_bf16_unpack_fn(enum ht_type type, const unsigned char *tile, unsigned j, uint32_t n, unsigned half,
                               uint16_t *panel);

// Attention: 32 keys by 32 queries, a row of dot products for each key. Query i sees key j if 0 <= first + i - j <
// window and i < n.
struct ht_bf16_pairs {
    struct ht_score score;
    int32_t first;
    uint32_t window, n;
};

struct ht_bf16_kernels {
    void (*begin)(void), (*end)(void); // a thread's sums lie between them
    // x (n) as one row of its tiles: value i at to[i / 32 * HT_B_TILE + i % 32]; zeros fill the last one.
    void (*round)(const float *x, uint32_t n, uint16_t *to);
    ht_bf16_unpack_fn *panel;   // rows are lanes 16 * half …, columns are summed
    ht_bf16_unpack_fn *panel_t; // rows are summed, pairs 8 * half …; columns are lanes
    void (*sum)(const struct ht_bf16_block *block);
    // A pair of rows of a panel: a[i], b[i] of n <= 32 lanes, zeros for the others and for NULL.
    void (*pair)(const float *a, const float *b, uint32_t n, uint16_t *to);
    // s (blocks * 32 keys, 32) of pairs whose `first` is the first block's → p, a panel of each block (key pairs), not
    // divided by *sum; top[i], sum[i] of each query, i < n or not.
    void (*softmax)(const struct ht_bf16_pairs *pairs, uint32_t blocks, float *s, uint16_t *p, float *top, float *sum);
    // One block: p and ds as x (keys are rows, from 16 of them to the next `next`), ds as a panel, too.
    void (*pairs)(const struct ht_bf16_pairs *pairs, const float *s, const float *dp, const float *lse,
                  const float *delta, uint16_t *p, uint16_t *ds, size_t next, uint16_t *ds_panel);
};

extern const struct ht_bf16_kernels ht_bf16_plain_avx512bf16, ht_bf16_plain_amx; // train_bf16_plain.c
extern const struct ht_bf16_kernels ht_bf16_avx512bf16;                          // train_bf16_avx512bf16.c
extern const struct ht_bf16_kernels ht_bf16_amx;                                 // train_bf16_amx.c
void ht_bf16_round_avx512bf16(const float *x, uint32_t n, uint16_t *to); // shared by the two of them
ht_bf16_unpack_fn ht_bf16_panel_avx512bf16, ht_bf16_panel_t_avx512bf16;
void ht_bf16_pair_avx512bf16(const float *a, const float *b, uint32_t n, uint16_t *to); // train_attend_avx512bf16.c
void ht_bf16_softmax_avx512bf16(const struct ht_bf16_pairs *pairs, uint32_t blocks, float *s, uint16_t *p, float *top,
                                float *sum);
void ht_bf16_pairs_avx512bf16(const struct ht_bf16_pairs *pairs, const float *s, const float *dp, const float *lse,
                              const float *delta, uint16_t *p, uint16_t *ds, size_t next, uint16_t *ds_panel);

// Asked once, when a device is opened. NULL: not on this path, or the instruction does not sum as the contract says. On
// the path "ref" plain C stands in, for tests, where the CPU has a better path.
const struct ht_bf16_kernels *ht_bf16_kernels(enum ht_isa isa, enum ht_train_precision precision);

#endif
