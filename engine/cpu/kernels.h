// SPDX-License-Identifier: Apache-2.0
// The inner loops of the CPU back end as a table: plain C fills it, an overlay replaces what it does faster
// with the same bits. All pointers are the caller's memory; functions keep no state. Any thread.
#ifndef HT_CPU_KERNELS_H
#define HT_CPU_KERNELS_H
#include "engine/cpu/features.h"
#include "engine/cpu/layout.h"
#include "engine/ops/backend.h"

// One row of activations, quantised in blocks of 32 (contract Q).
struct ht_xrow {
    int8_t *q;    // [k]
    float *d;     // [k / 32] dx
    float *ds;    // [k / 32] dx * (float)sum of the 32 q
    int32_t *sum; // [k / 16] sums of 16 q
};

// The same for 6 rows side by side, block after block: what a register tile reads in order.
enum { HT_COLS = 6, HT_MAX_MATVEC = 8 };
struct ht_xtile {
    int32_t q[8][HT_COLS]; // 4 q each, ascending k; ht_kernels.word_pairs: [4][HT_COLS][2], two neighbours in k
    float d[HT_COLS], ds[HT_COLS];
    int32_t sum[2][HT_COLS];
};

// The same for 12 rows, each row's q as it is, for matrix registers (the unused lanes hold anything). They are used
// for as many rows as make them the faster way (docs/performance.md).
enum { HT_TALL = 12, HT_TALL_FROM = 64 };
struct ht_xtall {
    int8_t q[HT_TALL][32];
    float d[16], ds[16], sum[2][16];
};

// The same for up to 8 rows side by side, what a step of a few rows reads: per 32 values, column by column. Up to
// HT_MAX_FEW rows go as two such sets.
enum { HT_MAX_FEW = 2 * HT_MAX_MATVEC };
struct ht_xfew {
    int32_t q[HT_MAX_MATVEC][8]; // 4 q each, ascending k
    float d[HT_MAX_MATVEC], ds[HT_MAX_MATVEC];
    float sum[3][HT_MAX_MATVEC]; // of the first 16 q, of the others, of all 32: exact
};

// 32 rows of a weight, unpacked: per 32 values of k the codes as bytes (16 rows of group 0, then of group 1),
// then the scales, 32 rows each: d · [m | dmin] · scales · mins.
struct ht_panel {
    uint8_t code[8][2][64];
    float scale[][2][HT_GROUP];
};
// Number of scales per kind, for the step from block to block of a panel.
static inline size_t ht_panel_block_bytes(enum ht_kind kind)
{
    static const uint8_t n[] = {
        [HT_KIND_D] = 1, [HT_KIND_DM] = 2, [HT_KIND_K32M] = 4, [HT_KIND_K16] = 3, [HT_KIND_K16M] = 6};
    return sizeof(struct ht_panel) + (size_t)n[kind] * 2 * HT_GROUP * sizeof(float);
}

// One kv head of one page; see engine/cpu/kv.c for the bytes.
struct ht_kv_geometry {
    enum ht_kv_type type;
    uint32_t k_dim, v_dim;
    size_t v_at;       // bytes from a head's k to its v
    size_t head_bytes; // k and v of one head
};
enum { HT_MAX_QUERIES = 12 }; // (row, head) pairs that share k and v loads

struct ht_kernels {
    // x (k) -> quantised row
    void (*quantise)(const float *x, uint32_t k, const struct ht_xrow *out);
    // tiles: one group of a weight (16, k); x: n_cols rows -> out (n_cols, 16)
    void (*matvec[HT_N_TYPES])(const unsigned char *tiles, uint32_t k, const struct ht_xrow *x,
                               unsigned n_cols, float *out);
    // The same for 3 to 8 rows side by side (k / 32), the last of an odd count twice. `out` has room for an even count.
    // NULL: matvec does.
    void (*few[HT_N_TYPES])(const unsigned char *tiles, uint32_t k, const struct ht_xfew *x, unsigned n_cols,
                            float *out);
    uint32_t few_from; // rows of x from which `few` is faster than matvec
    // one group -> half 0 or 1 of a panel
    void (*panel[HT_N_TYPES])(const unsigned char *tiles, uint32_t k, unsigned half, unsigned char *panel);
    // panel (32, k), x tiles (k / 32) -> out (HT_COLS, 32)
    void (*tile[HT_N_TYPES])(const unsigned char *panel, const struct ht_xtile *x, uint32_t k, float *out);
    bool word_pairs; // the order of q that `tile` reads
    // The same products for 12 rows of x at a time, NULL where there is nothing faster: out (HT_TALL, 32). A thread
    // calls tall_begin before those of one weight and tall_end after them.
    void (*tall[HT_N_TYPES])(const unsigned char *panel, const struct ht_xtall *x, uint32_t k, float *out);
    void (*tall_begin)(enum ht_type type);
    void (*tall_end)(void);
    // t = value + bias (NULL: value); y = y + t if `add`, else t
    void (*put)(const float *value, const float *bias, bool add, uint32_t n, float *y);
    // One group of a block-quantised weight -> f32 (k, 16), as ht_dequant_row has it. NULL: row by row in plain C.
    void (*dequant[HT_N_TYPES])(const unsigned char *tiles, uint32_t k, float *w);
    // Contract F: w (k, 16) f32, x: n_cols <= 8 rows -> out (n_cols, 16)
    void (*dot_f)(const float *w, uint32_t k, const float *const *x, unsigned n_cols, float *out);
    // f16 or bf16 to f32, n a multiple of 16
    void (*widen_f16)(const uint16_t *x, size_t n, float *y);
    void (*widen_bf16)(const uint16_t *x, size_t n, float *y);
    void (*narrow_f16)(const float *x, size_t n, uint16_t *y); // any n

    void (*rmsnorm)(const float *x, const float *w, uint32_t dim, float eps, bool add, float *y);
    void (*rope)(float *x, const float *cosine, const float *sine, uint32_t n_rot, enum ht_rope_kind kind);
    void (*glu)(enum ht_act act, const float *gate, const float *up, float *y, uint32_t n);
    void (*softcap)(float *x, uint32_t n, float cap);

    // Scores of n_q queries against the 32 positions of a page: out[i * stride + j] = chain over d of q[d][i]
    // * k[j][d]; q (k_dim, n_q)
    void (*scores)(const struct ht_kv_geometry *g, const unsigned char *k_page, const float *q, unsigned n_q,
                   float *out, size_t stride);
    // Positions [from, to) of s (indexed by absolute position, from >= first page): scores times scale,
    // soft-cap, ALiBi (position p of the query), then e = exp(s - max) in place; returns the sum as ops.h
    // orders it.
    float (*softmax)(float *s, uint32_t from, uint32_t to, float scale, float softcap, float slope,
                     uint32_t p);
    // acc[i] (v_dim) = chain over positions [from, to) of the page, e[i * stride + j] * v[j]
    void (*values)(const struct ht_kv_geometry *g, const unsigned char *v_page, const float *e, size_t stride,
                   unsigned n_q, unsigned from, unsigned to, float *const *acc);

    // LoRA (ht_matmul): u[r * u_stride + j] = dot(a[j], x[r]) in 16 folded chains; a (n, k), n_rows rows of x
    void (*lora_down)(const float *a, uint32_t n, uint32_t k, const float *x, size_t x_stride, uint32_t n_rows,
                      float *u, size_t u_stride);
    // y[r * y_stride + i] += chain over j < rank of b[j * 16 + i] * u[r * u_stride + j]; every 16 of the n outputs have
    // their own b (rank, 16)
    void (*lora_up)(const float *b, uint32_t rank, const float *u, size_t u_stride, uint32_t n_rows, uint32_t n,
                    float *y, size_t y_stride);

    // Largest finite value of each run of 256 of x (n); -inf where there is none.
    void (*block_max)(const float *x, uint32_t n, float *out);
};

enum { HT_SAMPLE_BLOCK = 256 };

void ht_kernels_ref(struct ht_kernels *kernels);        // engine/cpu/kernels.c
void ht_kernels_avx2(struct ht_kernels *kernels);       // engine/cpu/overlay_avx2.c
void ht_kernels_avx512vnni(struct ht_kernels *kernels); // engine/cpu/overlay_avx512vnni.c
void ht_kernels_amx(struct ht_kernels *kernels);        // engine/cpu/panel_amx.c
void ht_kernels_neon(struct ht_kernels *kernels);       // engine/cpu/overlay_neon.c
void ht_kernels_dotprod(struct ht_kernels *kernels);    // engine/cpu/matmul_dotprod.c
void ht_kernels_i8mm(struct ht_kernels *kernels);       // engine/cpu/matmul_i8mm.c

#endif
