// SPDX-License-Identifier: Apache-2.0
// A vector of floats under one name for both instruction sets, so that the kernels of training are written once
// (train_tile_avx.h, train_lanes_avx.h): here 16 lanes. Included by *_avx512vnni.c files only.
#ifndef HT_LANES_H
#define HT_LANES_H
#include <stdbool.h>

#include "engine/cpu/math_avx512.h"

#define LANE_FN static inline __attribute__((always_inline))
enum { LANES = 16, SIXTEEN = 1 }; // SIXTEEN: vectors that hold 16 chains
#define TILE_VECTORS 4             // of a row that a block in registers has

typedef __m512 lanes;
typedef __mmask16 lane_mask;

LANE_FN lane_mask first_of(uint32_t n) // the first n lanes, all if there are no more
{
    return first_lanes(n);
}
LANE_FN lane_mask but_first(lane_mask m, uint32_t n) // of m those from lane n on
{
    return m & (lane_mask)~first_lanes(n);
}
LANE_FN lanes load(const float *p)
{
    return _mm512_loadu_ps(p);
}
LANE_FN lanes load_some(const float *p, lane_mask m) // the others 0
{
    return _mm512_maskz_loadu_ps(m, p);
}
LANE_FN void store(float *p, lanes v)
{
    _mm512_storeu_ps(p, v);
}
LANE_FN void store_some(float *p, lane_mask m, lanes v)
{
    _mm512_mask_storeu_ps(p, m, v);
}
LANE_FN lanes all_of(float x)
{
    return _mm512_set1_ps(x);
}
LANE_FN lanes count_from(int32_t i) // i, i + 1, …
{
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_set1_epi32(i), lane));
}
LANE_FN lanes add(lanes a, lanes b)
{
    return _mm512_add_ps(a, b);
}
LANE_FN lanes sub(lanes a, lanes b)
{
    return _mm512_sub_ps(a, b);
}
LANE_FN lanes mul(lanes a, lanes b)
{
    return _mm512_mul_ps(a, b);
}
LANE_FN lanes divide_lanes(lanes a, lanes b)
{
    return _mm512_div_ps(a, b);
}
LANE_FN lanes root(lanes a)
{
    return _mm512_sqrt_ps(a);
}
LANE_FN lanes larger(lanes a, lanes b) // a > b ? a : b
{
    return _mm512_max_ps(a, b);
}
LANE_FN lanes fma_of(lanes a, lanes b, lanes c) // a b + c
{
    return _mm512_fmadd_ps(a, b, c);
}
LANE_FN lanes fma_minus(lanes a, lanes b, lanes c) // c - a b
{
    return _mm512_fnmadd_ps(a, b, c);
}
LANE_FN lanes pick(lane_mask m, lanes a, lanes b) // m ? a : b
{
    return _mm512_mask_blend_ps(m, b, a);
}
LANE_FN lanes minus(lanes a)
{
    return _mm512_xor_ps(a, _mm512_set1_ps(-0.0f));
}
LANE_FN lanes exp_of(lanes x)
{
    return exp512(x);
}
LANE_FN lanes tanh_of(lanes x)
{
    return tanh512(x);
}
LANE_FN float largest_of(lanes v)
{
    return _mm512_reduce_max_ps(v);
}
LANE_FN float fold_lanes(const lanes p[SIXTEEN]) // 16 chains: 8, 4, 2, 1 apart
{
    return fold512(p[0]);
}

// The transpose of 16 rows of 16.
LANE_FN void transpose_lanes(lanes v[LANES])
{
    lanes t[LANES];
    for (int i = 0; i < LANES; i += 2) {
        t[i] = _mm512_unpacklo_ps(v[i], v[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(v[i], v[i + 1]);
    }
    for (int i = 0; i < LANES; i += 4)
        for (int j = 0; j < 2; j++) { // columns 2j, 2j + 1 of each quarter, rows i … i + 3
            __m512d a = _mm512_castps_pd(t[i + j]), b = _mm512_castps_pd(t[i + j + 2]);
            v[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
            v[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
        }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_f32x4(v[i], v[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_f32x4(v[i + 8], v[i + 12], 0x88);
        t[i + 8] = _mm512_shuffle_f32x4(v[i], v[i + 4], 0xDD);
        t[i + 12] = _mm512_shuffle_f32x4(v[i + 8], v[i + 12], 0xDD);
    }
    for (int i = 0; i < 4; i++) {
        v[i] = _mm512_shuffle_f32x4(t[i], t[i + 4], 0x88);
        v[i + 4] = _mm512_shuffle_f32x4(t[i + 8], t[i + 12], 0x88);
        v[i + 8] = _mm512_shuffle_f32x4(t[i], t[i + 4], 0xDD);
        v[i + 12] = _mm512_shuffle_f32x4(t[i + 8], t[i + 12], 0xDD);
    }
}

#endif
