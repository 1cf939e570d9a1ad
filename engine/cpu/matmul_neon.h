// SPDX-License-Identifier: Apache-2.0
// Contract Q with NEON, for matmul_neon.c and matmul_dotprod.c: which of them includes this decides what a dot
// product is (__ARM_FEATURE_DOTPROD). 4 rows of W lie in the lanes; a word of x (4 values) is multiplied with all.
//   dotprod  sdot by lane: 4 products and their sum in a lane, exact in int32
//   neon     smull, smlal: products in 16 bits. Codes up to 31 allow 8 sums there (8 * 31 * 127 = 31496), codes up
//            to 63 four (32004), bytes two (2 * 128 * 127 = 32512); then sadalp. So every sum is exact.
#ifndef HT_MATMUL_NEON_H
#define HT_MATMUL_NEON_H
#include "engine/cpu/codes_neon.h"

// Sums of n words of w (4 rows each) with as many of x, `step` words apart, added to `from`.
#ifdef __ARM_FEATURE_DOTPROD
INLINE int32x4_t dot_lane(int32x4_t sum, int8x16_t w, int8x16_t x, unsigned lane)
{
    switch (lane) {
    case 0: return vdotq_laneq_s32(sum, w, x, 0);
    case 1: return vdotq_laneq_s32(sum, w, x, 1);
    case 2: return vdotq_laneq_s32(sum, w, x, 2);
    default: return vdotq_laneq_s32(sum, w, x, 3);
    }
}
INLINE int32x4_t dot(int max, const int8x16_t *w, unsigned n, const int32_t *x, size_t step, int32x4_t from)
{
    (void)max;
    for (unsigned i = 0; i < n; i++) {
        if (step == 1) // neighbours: one load for four
            from = dot_lane(from, w[i], vreinterpretq_s8_s32(vld1q_s32(x + i / 4 * 4)), i % 4);
        else
            from = vdotq_s32(from, w[i], vreinterpretq_s8_s32(vld1q_dup_s32(x + i * step)));
    }
    return from;
}
#else
INLINE int32x4_t dot(int max, const int8x16_t *w, unsigned n, const int32_t *x, size_t step, int32x4_t from)
{
    const unsigned most = max <= 31 ? 8 : max <= 63 ? 4 : 2;
    int32x4_t low = vdupq_n_s32(0), high = low; // 2 sums a row
    for (unsigned i = 0; i < n; i += most) {
        int16x8_t a = vdupq_n_s16(0), b = a;
        for (unsigned j = i; j < i + most && j < n; j++) {
            int8x16_t xj = vreinterpretq_s8_s32(vld1q_dup_s32(x + j * step));
            a = vmlal_s8(a, vget_low_s8(w[j]), vget_low_s8(xj));
            b = vmlal_high_s8(b, w[j], xj);
        }
        low = vpadalq_s16(low, a);
        high = vpadalq_s16(high, b);
    }
    return vaddq_s32(from, vpaddq_s32(low, high));
}
#endif

// The column's numbers for one 32.
struct column {
    const int32_t *q; // words `step` apart
    size_t step;
    float d, ds;
    int32_t sum[2];
};

// acc of one column after one 32, from its exact sum (K16: times the scales)
INLINE float32x4_t fold(enum ht_kind kind, int32x4_t isum, const struct scales *s, const struct column *x,
                        float32x4_t acc)
{
    float s0 = (float)x->sum[0], s1 = (float)x->sum[1], both = (float)(x->sum[0] + x->sum[1]);
    if (kind == HT_KIND_K32M)
        isum = vmulq_s32(isum, s->scale[0]);
    acc = vfmaq_f32(acc, vcvtq_f32_s32(isum), vmulq_n_f32(s->d, x->d));
    if (kind == HT_KIND_DM)
        acc = vfmaq_n_f32(acc, s->m, x->ds);
    if (kind == HT_KIND_K32M) // products and sums of small integers: exact
        acc = vfmsq_f32(acc, vmulq_n_f32(s->min[0], both), vmulq_n_f32(s->m, x->d));
    if (kind == HT_KIND_K16M)
        acc = vfmsq_f32(acc, vfmaq_n_f32(vmulq_n_f32(s->min[0], s0), s->min[1], s1), vmulq_n_f32(s->m, x->d));
    return acc;
}
INLINE float32x4_t step(enum ht_kind kind, int zero, int max, const int8x16_t *w, const struct scales *s,
                        const struct column *x, float32x4_t acc)
{
    int32x4_t isum;
    if (kind == HT_KIND_K16 || kind == HT_KIND_K16M) {
        int32x4_t dot0 = dot(max, w, 4, x->q, x->step, vdupq_n_s32(-zero * x->sum[0]));
        int32x4_t dot1 = dot(max, w + 4, 4, x->q + 4 * x->step, x->step, vdupq_n_s32(-zero * x->sum[1]));
        isum = vmlaq_s32(vmulq_s32(dot0, s->scale[0]), dot1, s->scale[1]);
    } else {
        isum = dot(max, w, 8, x->q, x->step, vdupq_n_s32(-zero * (x->sum[0] + x->sum[1])));
    }
    return fold(kind, isum, s, x, acc);
}

// ---- up to 8 rows of x, straight from the tiles

// 4 rows of W (quad v of a tile) and n rows of x, whose 32s begin at b: acc after one 32
INLINE void quad(enum ht_type type, const unsigned char *tile, unsigned j, unsigned v,
                 const struct ht_xrow *x, uint32_t b, unsigned n, float32x4_t *acc)
{
    int8x16_t w[8];
    UNROLL
    for (unsigned i = 0; i < 8; i++)
        w[i] = codes(type, tile, j, i, v);
    struct scales s = scales_read(type, tile, j, v);
    UNROLL
    for (unsigned c = 0; c < n; c++) {
        uint32_t at = b + j;
        struct column column = {(const int32_t *)(const void *)(x[c].q + 32 * at),
                                1,
                                x[c].d[at],
                                x[c].ds[at],
                                {x[c].sum[2 * at], x[c].sum[2 * at + 1]}};
        acc[c] = step(kind_of(type), signed_zero_of(type), signed_max_of(type), w, &s, &column, acc[c]);
    }
}

// Tiles of 32 values: all 16 rows side by side.
INLINE void columns32(enum ht_type type, const unsigned char *tiles, uint32_t k, const struct ht_xrow *x,
                      unsigned n, float *out)
{
    float32x4_t acc[4][4];
    struct ht_xrow row[4]; // pointers in registers
    memcpy(row, x, n * sizeof *row);
    for (unsigned v = 0; v < 4; v++)
        for (unsigned c = 0; c < n; c++)
            acc[v][c] = vdupq_n_f32(0);
    for (uint32_t b = 0; b < k / 32; b++, tiles += tile_bytes_of(type)) {
        UNROLL
        for (unsigned v = 0; v < 4; v++) {
            quad(type, tiles, 0, v, row, b, n, acc[v]);
            if (n > 2)
                __asm__ volatile("" ::: "memory"); // see columns256
        }
    }
    for (unsigned c = 0; c < n; c++)
        for (unsigned v = 0; v < 4; v++)
            vst1q_f32(out + c * HT_GROUP + 4 * v, acc[v][c]);
}

// Tiles of 256: 4 rows after the other, sums rest in `out` meanwhile. The 32s of a tile share loads of codes, which
// the compiler would keep until they fill the stack: it is told that memory may have changed.
INLINE void columns256(enum ht_type type, const unsigned char *tiles, uint32_t k, const struct ht_xrow *x,
                       unsigned n, float *out)
{
    struct ht_xrow row[4]; // pointers in registers
    memcpy(row, x, n * sizeof *row);
    memset(out, 0, n * HT_GROUP * sizeof *out);
    for (uint32_t b = 0; b < k / 32; b += 8, tiles += tile_bytes_of(type))
        for (unsigned v = 0; v < 4; v++) {
            float32x4_t acc[4];
            for (unsigned c = 0; c < n; c++)
                acc[c] = vld1q_f32(out + c * HT_GROUP + 4 * v);
            for (unsigned j0 = 0; j0 < 8; j0 += 4) {
                UNROLL
                for (unsigned j = j0; j < j0 + 4; j++) { // shifts repeat after 4
                    quad(type, tiles, j, v, row, b, n, acc);
                    __asm__ volatile("" ::: "memory");
                }
            }
            for (unsigned c = 0; c < n; c++)
                vst1q_f32(out + c * HT_GROUP + 4 * v, acc[c]);
        }
}

INLINE void columns(enum ht_type type, const unsigned char *tiles, uint32_t k, const struct ht_xrow *x,
                    unsigned n, float *out)
{
    if (blocks32_of(type) == 1)
        columns32(type, tiles, k, x, n, out);
    else
        columns256(type, tiles, k, x, n, out);
}

INLINE void matvec(enum ht_type type, const unsigned char *tiles, uint32_t k, const struct ht_xrow *x,
                   unsigned n, float *out)
{
    for (; n >= 4; n -= 4, x += 4, out += 4 * HT_GROUP)
        columns(type, tiles, k, x, 4, out);
    for (; n >= 2; n -= 2, x += 2, out += 2 * HT_GROUP)
        columns(type, tiles, k, x, 2, out);
    if (n)
        columns(type, tiles, k, x, 1, out);
}

// ---- many rows, by panels: codes as they come, 16 rows of a half in quads of 4

INLINE void panel(enum ht_type type, const unsigned char *tiles, uint32_t k, unsigned half, unsigned char *to)
{
    enum ht_kind kind = kind_of(type);
    for (uint32_t b = 0; b < k / 32; b += blocks32_of(type), tiles += tile_bytes_of(type))
        for (unsigned j = 0; j < blocks32_of(type); j++, to += ht_panel_block_bytes(kind))
            for (unsigned v = 0; v < 4; v++) {
                struct ht_panel *p = (struct ht_panel *)(void *)to;
                struct scales s = scales_read(type, tiles, j, v);
                UNROLL
                for (unsigned i = 0; i < 8; i++)
                    vst1q_s8((int8_t *)p->code[i][half] + 16 * v, codes(type, tiles, j, i, v));
                scales_put(kind, &s, p, half, v);
            }
}

// Exact sums of 4 rows and the 6 columns over n words of k from word i0; codes of the words 128 bytes apart.
INLINE void tile_dots(int max, const int8_t *w, const struct ht_xtile *x, unsigned i0, unsigned n,
                      int32x4_t *sum)
{
#ifdef __ARM_FEATURE_DOTPROD
    (void)max;
    UNROLL
    for (unsigned i = i0; i < i0 + n; i++) {
        int8x16_t wi = vld1q_s8(w + 128 * i), a = vreinterpretq_s8_s32(vld1q_s32(x->q[i])),
                  b = vreinterpretq_s8_s32(vcombine_s32(vld1_s32(x->q[i] + 4), vdup_n_s32(0)));
        UNROLL
        for (unsigned c = 0; c < HT_COLS; c++)
            sum[c] = dot_lane(sum[c], wi, c < 4 ? a : b, c % 4);
    }
#else
    int8x16_t wi[8];
    for (unsigned i = 0; i < n; i++)
        wi[i] = vld1q_s8(w + 128 * (i0 + i));
    UNROLL
    for (unsigned c = 0; c < HT_COLS; c++)
        sum[c] = dot(max, wi, n, &x->q[i0][c], HT_COLS, sum[c]);
#endif
}

INLINE void tile_quad(enum ht_kind kind, int zero, int max, const struct ht_panel *p, unsigned half,
                      unsigned v, const struct ht_xtile *x, float32x4_t *acc)
{
    const int8_t *w = (const int8_t *)p->code[0][half] + 16 * v;
    bool halves = kind == HT_KIND_K16 || kind == HT_KIND_K16M;
    int32x4_t sum[2][HT_COLS];
    struct scales s;
    scales_get(kind, &s, p, half, v);
    for (unsigned c = 0; c < HT_COLS; c++) {
        sum[0][c] = vdupq_n_s32(-zero * (x->sum[0][c] + (halves ? 0 : x->sum[1][c])));
        sum[1][c] = vdupq_n_s32(-zero * x->sum[1][c]);
    }
    tile_dots(max, w, x, 0, halves ? 4 : 8, sum[0]);
    if (halves) {
        for (unsigned c = 0; c < HT_COLS; c++)
            sum[0][c] = vmulq_s32(sum[0][c], s.scale[0]);
        tile_dots(max, w, x, 4, 4, sum[1]);
        for (unsigned c = 0; c < HT_COLS; c++)
            sum[0][c] = vmlaq_s32(sum[0][c], sum[1][c], s.scale[1]);
    }
    UNROLL
    for (unsigned c = 0; c < HT_COLS; c++) {
        struct column column = {NULL, 0, x->d[c], x->ds[c], {x->sum[0][c], x->sum[1][c]}};
        acc[c] = fold(kind, sum[0][c], &s, &column, acc[c]);
    }
}

INLINE void tile(enum ht_kind kind, int zero, int max, const unsigned char *panel, const struct ht_xtile *x,
                 uint32_t k, float *out)
{
    for (unsigned v = 0; v < 8; v++) {
        float32x4_t acc[HT_COLS];
        for (unsigned c = 0; c < HT_COLS; c++)
            acc[c] = vdupq_n_f32(0);
        const unsigned char *at = panel;
        for (uint32_t b = 0; b < k / 32; b++, at += ht_panel_block_bytes(kind))
            tile_quad(kind, zero, max, (const struct ht_panel *)(const void *)at, v / 4, v % 4, x + b, acc);
        for (unsigned c = 0; c < HT_COLS; c++)
            vst1q_f32(out + c * 32 + 4 * v, acc[c]);
    }
}

#define NEON_FUNCTIONS(name)                                                                                 \
    static void name##_matvec(const unsigned char *tiles, uint32_t k, const struct ht_xrow *x, unsigned n,   \
                              float *out)                                                                    \
    {                                                                                                        \
        matvec(HT_TYPE_##name, tiles, k, x, n, out);                                                         \
    }                                                                                                        \
    static void name##_panel(const unsigned char *tiles, uint32_t k, unsigned half, unsigned char *to)       \
    {                                                                                                        \
        panel(HT_TYPE_##name, tiles, k, half, to);                                                           \
    }                                                                                                        \
    static void name##_tile(const unsigned char *p, const struct ht_xtile *x, uint32_t k, float *out)        \
    {                                                                                                        \
        tile(kind_of(HT_TYPE_##name), signed_zero_of(HT_TYPE_##name), signed_max_of(HT_TYPE_##name), p, x,   \
             k, out);                                                                                        \
    }
#define NEON_SET(name)                                                                                       \
    kernels->matvec[HT_TYPE_##name] = name##_matvec;                                                         \
    kernels->panel[HT_TYPE_##name] = name##_panel;                                                           \
    kernels->tile[HT_TYPE_##name] = name##_tile;

#endif
