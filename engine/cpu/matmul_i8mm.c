// SPDX-License-Identifier: Apache-2.0
// Many rows with smmla: 2 rows of W times 2 columns of x over 8 values of k, exact in int32, twice the work of an
// sdot. What a register holds, of W and of x: 8 bytes of k of one row, then of the next; so its sums are
// (c0, r0) (c0, r1) (c1, r0) (c1, r1), and scales come in those patterns: pairs of W's twice, each of x's doubled.
// A panel's codes: [row pair 16][eight of k 4][2 rows][8]. Few rows stay with sdot. Any thread.
#include "engine/cpu/codes_neon.h"

enum { PAIRS = HT_COLS / 2, AT_ONCE = 2 }; // column pairs; row pairs of a sweep over k

INLINE void panel(enum ht_type type, const unsigned char *tiles, uint32_t k, unsigned half, unsigned char *to)
{
    enum ht_kind kind = kind_of(type);
    for (uint32_t b = 0; b < k / 32; b += blocks32_of(type), tiles += tile_bytes_of(type))
        for (unsigned j = 0; j < blocks32_of(type); j++, to += ht_panel_block_bytes(kind))
            for (unsigned v = 0; v < 4; v++) {
                struct ht_panel *p = (struct ht_panel *)(void *)to;
                struct scales s = scales_read(type, tiles, j, v);
                int8_t *code = (int8_t *)p->code[0][0] + 64 * (8 * half + 2 * v);
                UNROLL
                for (unsigned t = 0; t < 4; t++) {
                    int32x4_t a = vreinterpretq_s32_s8(codes(type, tiles, j, 2 * t, v)),
                              c = vreinterpretq_s32_s8(codes(type, tiles, j, 2 * t + 1, v));
                    vst1q_s8(code + 16 * t, vreinterpretq_s8_s32(vzip1q_s32(a, c)));
                    vst1q_s8(code + 64 + 16 * t, vreinterpretq_s8_s32(vzip2q_s32(a, c)));
                }
                scales_put(kind, &s, p, half, v);
            }
}

// A pair of 32-bit numbers, twice.
INLINE float32x4_t twice(const void *numbers)
{
    double both;
    memcpy(&both, numbers, 8);
    return vreinterpretq_f32_f64(vdupq_n_f64(both));
}

// What a pair of columns brings for one 32, each number doubled.
struct pair {
    float32x4_t d, ds;
    int32x4_t sum[2];
};
INLINE struct pair pair_of(const struct ht_xtile *x, unsigned c)
{
    float32x4_t d = twice(x->d + 2 * c), ds = twice(x->ds + 2 * c);
    float32x4_t s0 = twice(x->sum[0] + 2 * c), s1 = twice(x->sum[1] + 2 * c);
    return (struct pair){
        vzip1q_f32(d, d),
        vzip1q_f32(ds, ds),
        {vreinterpretq_s32_f32(vzip1q_f32(s0, s0)), vreinterpretq_s32_f32(vzip1q_f32(s1, s1))}};
}

INLINE int32x4_t dots(const int8_t *w, const int8_t *x, unsigned from, unsigned n, int32x4_t sum)
{
    UNROLL
    for (unsigned t = from; t < from + n; t++)
        sum = vmmlaq_s32(sum, vld1q_s8(x + (size_t)t * 8 * HT_COLS), vld1q_s8(w + 16 * t));
    return sum;
}

// acc of a pair of rows and a pair of columns after one 32; w: their codes, scale: of that pair of rows, 32 apart
INLINE float32x4_t step(enum ht_kind kind, int zero, const int8_t *w, const float *scale, const int8_t *xq,
                        const struct pair *x, float32x4_t acc)
{
    int32x4_t isum, bias0 = vmulq_n_s32(x->sum[0], -zero), bias1 = vmulq_n_s32(x->sum[1], -zero);
    if (kind == HT_KIND_K16 || kind == HT_KIND_K16M) {
        isum = vmulq_s32(dots(w, xq, 0, 2, bias0), vreinterpretq_s32_f32(twice(scale + 32)));
        isum = vmlaq_s32(isum, dots(w, xq, 2, 2, bias1), vreinterpretq_s32_f32(twice(scale + 64)));
    } else {
        isum = dots(w, xq, 0, 4, vaddq_s32(bias0, bias1));
    }
    if (kind == HT_KIND_K32M)
        isum = vmulq_s32(isum, vreinterpretq_s32_f32(twice(scale + 64)));
    acc = vfmaq_f32(acc, vcvtq_f32_s32(isum), vmulq_f32(twice(scale), x->d));
    if (kind == HT_KIND_DM)
        acc = vfmaq_f32(acc, twice(scale + 32), x->ds);
    float32x4_t s0 = vcvtq_f32_s32(x->sum[0]), s1 = vcvtq_f32_s32(x->sum[1]);
    if (kind == HT_KIND_K32M) // products and sums of small integers: exact
        acc = vfmsq_f32(acc, vmulq_f32(twice(scale + 96), vaddq_f32(s0, s1)),
                        vmulq_f32(twice(scale + 32), x->d));
    if (kind == HT_KIND_K16M) {
        float32x4_t msum = vfmaq_f32(vmulq_f32(twice(scale + 128), s0), twice(scale + 160), s1);
        acc = vfmsq_f32(acc, msum, vmulq_f32(twice(scale + 96), x->d));
    }
    return acc;
}

INLINE void tile(enum ht_kind kind, int zero, const unsigned char *panel, const struct ht_xtile *x,
                 uint32_t k, float *out)
{
    for (unsigned r = 0; r < HT_GROUP; r += AT_ONCE) {
        float32x4_t acc[AT_ONCE][PAIRS];
        for (unsigned i = 0; i < AT_ONCE; i++)
            for (unsigned c = 0; c < PAIRS; c++)
                acc[i][c] = vdupq_n_f32(0);
        const unsigned char *at = panel;
        for (uint32_t b = 0; b < k / 32; b++, at += ht_panel_block_bytes(kind)) {
            const struct ht_panel *p = (const struct ht_panel *)(const void *)at;
            const int8_t *xq = (const int8_t *)x[b].q[0];
            struct pair pair[PAIRS];
            for (unsigned c = 0; c < PAIRS; c++)
                pair[c] = pair_of(&x[b], c);
            UNROLL
            for (unsigned i = 0; i < AT_ONCE; i++) {
                UNROLL
                for (unsigned c = 0; c < PAIRS; c++)
                    acc[i][c] = step(kind, zero, (const int8_t *)p->code[0][0] + 64 * (r + i),
                                     p->scale[0][0] + 2 * (r + i), xq + 16 * c, &pair[c], acc[i][c]);
            }
        }
        for (unsigned i = 0; i < AT_ONCE; i++)
            for (unsigned c = 0; c < PAIRS; c++) {
                vst1_f32(out + 2 * c * 32 + 2 * (r + i), vget_low_f32(acc[i][c]));
                vst1_f32(out + (2 * c + 1) * 32 + 2 * (r + i), vget_high_f32(acc[i][c]));
            }
    }
}

#define FUNCTIONS(name)                                                                                      \
    static void name##_panel(const unsigned char *tiles, uint32_t k, unsigned half, unsigned char *to)       \
    {                                                                                                        \
        panel(HT_TYPE_##name, tiles, k, half, to);                                                           \
    }                                                                                                        \
    static void name##_tile(const unsigned char *p, const struct ht_xtile *x, uint32_t k, float *out)        \
    {                                                                                                        \
        tile(kind_of(HT_TYPE_##name), signed_zero_of(HT_TYPE_##name), p, x, k, out);                         \
    }
HT_BLOCK_TYPES(FUNCTIONS)

void ht_kernels_i8mm(struct ht_kernels *kernels)
{
    kernels->word_pairs = true;
#define SET(name)                                                                                            \
    kernels->panel[HT_TYPE_##name] = name##_panel;                                                           \
    kernels->tile[HT_TYPE_##name] = name##_tile;
    HT_BLOCK_TYPES(SET)
#undef SET
}
