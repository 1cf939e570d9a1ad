// SPDX-License-Identifier: Apache-2.0
// A vector of floats under one name for all instruction sets, so that the kernels of training are written once
// (train_tile.h, train_lanes.h, train_row_lanes.h): here 4 lanes, in 32 registers. Included by *_neon.c files only.
#ifndef HT_LANES_H
#define HT_LANES_H
#include <stdbool.h>
#include <string.h>

#include "engine/cpu/math_neon.h"

#define LANE_FN static inline __attribute__((always_inline))
enum { LANES = 4, SIXTEEN = 4 }; // SIXTEEN: vectors that hold 16 chains
#define TILE_VECTORS 4           // of a row that a block in registers has

typedef float32x4_t lanes;
typedef uint32x4_t lane_mask; // what a comparison gives

// A vector's lanes that lie within a row: [from, to), at most all. There are no loads under a mask, and whether all
// lanes are there is cheaper asked of two numbers than of a vector.
typedef struct {
    uint32_t from, to;
} lane_part;

LANE_FN lane_part first_of(uint32_t n) // the first n lanes, all if there are no more
{
    return (lane_part){0, n < LANES ? n : LANES};
}
LANE_FN lane_part but_first(lane_part m, uint32_t n) // of m those from lane n on
{
    return (lane_part){n, m.to};
}
LANE_FN bool is_whole(lane_part m)
{
    return __builtin_expect(m.to - m.from == LANES, 1);
}
LANE_FN lanes load(const float *p)
{
    return vld1q_f32(p);
}
// One by one and without a call, before which what whole vectors need would leave the registers.
LANE_FN lanes load_few(const float *p, lane_part m)
{
    lanes v = vdupq_n_f32(0);
    if (m.from == 0 && m.to > 0)
        v = vld1q_lane_f32(p, v, 0);
    if (m.from <= 1 && m.to > 1)
        v = vld1q_lane_f32(p + 1, v, 1);
    if (m.from <= 2 && m.to > 2)
        v = vld1q_lane_f32(p + 2, v, 2);
    if (m.from <= 3 && m.to > 3)
        v = vld1q_lane_f32(p + 3, v, 3);
    return v;
}
LANE_FN lanes load_some(const float *p, lane_part m) // the others 0
{
    return is_whole(m) ? load(p) : load_few(p, m);
}
LANE_FN void store(float *p, lanes v)
{
    vst1q_f32(p, v);
}
LANE_FN void store_few(float *p, lane_part m, lanes v)
{
    if (m.from == 0 && m.to > 0)
        vst1q_lane_f32(p, v, 0);
    if (m.from <= 1 && m.to > 1)
        vst1q_lane_f32(p + 1, v, 1);
    if (m.from <= 2 && m.to > 2)
        vst1q_lane_f32(p + 2, v, 2);
    if (m.from <= 3 && m.to > 3)
        vst1q_lane_f32(p + 3, v, 3);
}
LANE_FN void store_some(float *p, lane_part m, lanes v)
{
    if (is_whole(m))
        store(p, v);
    else
        store_few(p, m, v);
}
LANE_FN lanes all_of(float x)
{
    return vdupq_n_f32(x);
}
LANE_FN lanes count_from(int32_t i) // i, i + 1, …
{
    static const int32_t lane[LANES] = {0, 1, 2, 3};
    return vcvtq_f32_s32(vaddq_s32(vdupq_n_s32(i), vld1q_s32(lane)));
}
LANE_FN lanes add(lanes a, lanes b)
{
    return vaddq_f32(a, b);
}
LANE_FN lanes sub(lanes a, lanes b)
{
    return vsubq_f32(a, b);
}
LANE_FN lanes mul(lanes a, lanes b)
{
    return vmulq_f32(a, b);
}
LANE_FN lanes divide_lanes(lanes a, lanes b)
{
    return vdivq_f32(a, b);
}
LANE_FN lanes root(lanes a)
{
    return vsqrtq_f32(a);
}
LANE_FN lanes larger(lanes a, lanes b) // a > b ? a : b
{
    return vbslq_f32(vcgtq_f32(a, b), a, b);
}
LANE_FN lanes smaller(lanes a, lanes b) // a < b ? a : b
{
    return vbslq_f32(vcltq_f32(a, b), a, b);
}
LANE_FN lanes magnitude(lanes a)
{
    return vabsq_f32(a);
}
LANE_FN lanes whole(lanes a) // the integer below; a in [0, 2^31)
{
    return vcvtq_f32_s32(vcvtq_s32_f32(a));
}
LANE_FN lane_mask below(lanes a, lanes b) // a < b
{
    return vcltq_f32(a, b);
}
LANE_FN lane_mask both(lane_mask a, lane_mask b)
{
    return vandq_u32(a, b);
}
LANE_FN uint8x8_t load_bytes(const void *p, uint32_t n)
{
    uint32_t bytes = 0;
    memcpy(&bytes, p, n < LANES ? n : LANES);
    return vreinterpret_u8_u32(vdup_n_u32(bytes));
}
LANE_FN lanes load_signed(const int8_t *p, uint32_t n) // bytes as floats, beyond n 0
{
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u8(load_bytes(p, n))))));
}
LANE_FN lanes load_unsigned(const uint8_t *p, uint32_t n)
{
    return vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(load_bytes(p, n)))));
}
LANE_FN void store_bytes(void *p, uint32_t n, lanes v) // the low bytes of the integers
{
    uint16x4_t half = vmovn_u32(vreinterpretq_u32_s32(vcvtq_s32_f32(v)));
    uint32_t bytes = vget_lane_u32(vreinterpret_u32_u8(vmovn_u16(vcombine_u16(half, half))), 0);
    memcpy(p, &bytes, n < LANES ? n : LANES);
}
LANE_FN void store_signed(int8_t *p, uint32_t n, lanes v)
{
    store_bytes(p, n, v);
}
LANE_FN void store_unsigned(uint8_t *p, uint32_t n, lanes v)
{
    store_bytes(p, n, v);
}
LANE_FN lanes fma_of(lanes a, lanes b, lanes c) // a b + c
{
    return vfmaq_f32(c, a, b);
}
LANE_FN lanes fma_minus(lanes a, lanes b, lanes c) // c - a b
{
    return vfmsq_f32(c, a, b);
}
LANE_FN lanes pick(lane_mask m, lanes a, lanes b) // m ? a : b
{
    return vbslq_f32(m, a, b);
}
LANE_FN lanes pick_part(lane_part m, lanes a, lanes b)
{
    static const uint32_t lane[LANES] = {0, 1, 2, 3};
    uint32x4_t i = vld1q_u32(lane);
    if (is_whole(m))
        return a;
    return pick(vandq_u32(vcgeq_u32(i, vdupq_n_u32(m.from)), vcltq_u32(i, vdupq_n_u32(m.to))), a, b);
}
LANE_FN lanes minus(lanes a)
{
    return vnegq_f32(a);
}
LANE_FN lanes exp_of(lanes x)
{
    return exp128(x);
}
LANE_FN lanes tanh_of(lanes x)
{
    return tanh128(x);
}
LANE_FN float largest_of(lanes v) // none is a NaN
{
    return vmaxvq_f32(v);
}
LANE_FN float fold_lanes(const lanes p[SIXTEEN]) // 16 chains: 8, 4, 2, 1 apart
{
    return fold128(p);
}

// The transpose of 4 rows of 4.
LANE_FN void transpose_lanes(lanes v[LANES])
{
    float32x4x2_t a = vtrnq_f32(v[0], v[1]), b = vtrnq_f32(v[2], v[3]);
    v[0] = vcombine_f32(vget_low_f32(a.val[0]), vget_low_f32(b.val[0]));
    v[1] = vcombine_f32(vget_low_f32(a.val[1]), vget_low_f32(b.val[1]));
    v[2] = vcombine_f32(vget_high_f32(a.val[0]), vget_high_f32(b.val[0]));
    v[3] = vcombine_f32(vget_high_f32(a.val[1]), vget_high_f32(b.val[1]));
}

// Σ x² in double: 16 chains by i mod 16, folded 8, 4, 2, 1 apart.
LANE_FN double sum_of_squares(const float *x, uint32_t n)
{
    float64x2_t p[8];
    for (unsigned i = 0; i < 8; i++)
        p[i] = vdupq_n_f64(0);
    for (uint32_t i = 0; i < n; i += 16)
        for (unsigned v = 0; v < SIXTEEN && i + v * LANES < n; v++) {
            lanes s = load_some(x + i + v * LANES, first_of(n - i - v * LANES));
            float64x2_t a = vcvt_f64_f32(vget_low_f32(s)), b = vcvt_high_f64_f32(s);
            p[2 * v] = vfmaq_f64(p[2 * v], a, a); // the square is exact
            p[2 * v + 1] = vfmaq_f64(p[2 * v + 1], b, b);
        }
    for (unsigned step = 4; step; step /= 2)
        for (unsigned i = 0; i < step; i++)
            p[i] = vaddq_f64(p[i], p[i + step]);
    return vgetq_lane_f64(p[0], 0) + vgetq_lane_f64(p[0], 1);
}

// ---- Philox: words of counters (first …, row, stream), four each

LANE_FN uint32x4_t multiply_words(uint32x4_t a, uint32_t by, uint32x4_t *low) // the high words
{
    uint64x2_t p = vmull_n_u32(vget_low_u32(a), by), q = vmull_n_u32(vget_high_u32(a), by);
    *low = vuzp1q_u32(vreinterpretq_u32_u64(p), vreinterpretq_u32_u64(q));
    return vuzp2q_u32(vreinterpretq_u32_u64(p), vreinterpretq_u32_u64(q));
}

static inline void draw_words(uint64_t key, uint64_t stream, uint32_t row, uint32_t first, uint32_t *words)
{
    static const uint32_t lane[LANES] = {0, 1, 2, 3};
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    uint32x4x4_t c = {{vaddq_u32(vdupq_n_u32(first), vld1q_u32(lane)), vdupq_n_u32(row),
                       vdupq_n_u32((uint32_t)stream), vdupq_n_u32((uint32_t)(stream >> 32))}};
    for (int round = 0; round < 10; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
        uint32x4_t low, lower;
        uint32x4_t a = multiply_words(c.val[0], 0xD2511F53u, &low),
                   b = multiply_words(c.val[2], 0xCD9E8D57u, &lower);
        c.val[0] = veorq_u32(veorq_u32(b, c.val[1]), vdupq_n_u32(k0));
        c.val[2] = veorq_u32(veorq_u32(a, c.val[3]), vdupq_n_u32(k1));
        c.val[1] = lower;
        c.val[3] = low;
    }
    vst4q_u32(words, c);
}
LANE_FN lane_mask not_below(const uint32_t *words, uint32_t limit)
{
    return vcgeq_u32(vld1q_u32(words), vdupq_n_u32(limit));
}
LANE_FN lanes unit_of(const uint32_t *words) // ht_unit_f32
{
    return vmulq_n_f32(vcvtq_f32_u32(vshrq_n_u32(vld1q_u32(words), 8)), 0x1p-24f);
}
LANE_FN void halves_of(const uint32_t *words, lanes *upper, lanes *lower) // / 2^16
{
    uint32x4_t w = vld1q_u32(words);
    *upper = vmulq_n_f32(vcvtq_f32_u32(vshrq_n_u32(w, 16)), 0x1p-16f);
    *lower = vmulq_n_f32(vcvtq_f32_u32(vandq_u32(w, vdupq_n_u32(0xFFFF))), 0x1p-16f);
}

#endif
