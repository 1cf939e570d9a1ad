// SPDX-License-Identifier: Apache-2.0
// A vector of floats under one name for all instruction sets, so that the kernels of training are written once
// (train_tile.h, train_lanes.h, train_row_lanes.h): here 16 lanes. Included by *_avx512vnni.c files only.
#ifndef HT_LANES_H
#define HT_LANES_H
#include <stdbool.h>

#include "engine/cpu/math_avx512.h"

#define LANE_FN static inline __attribute__((always_inline))
enum { LANES = 16, SIXTEEN = 1 }; // SIXTEEN: vectors that hold 16 chains
#define TILE_VECTORS 4             // of a row that a block in registers has

typedef __m512 lanes;
typedef __mmask16 lane_mask; // what a comparison gives
typedef lane_mask lane_part; // a vector's lanes that lie within a row

LANE_FN lane_part first_of(uint32_t n) // the first n lanes, all if there are no more
{
    return first_lanes(n);
}
LANE_FN lane_part but_first(lane_part m, uint32_t n) // of m those from lane n on
{
    return m & (lane_mask)~first_lanes(n);
}
LANE_FN lanes load(const float *p)
{
    return _mm512_loadu_ps(p);
}
LANE_FN lanes load_some(const float *p, lane_part m) // the others 0
{
    return _mm512_maskz_loadu_ps(m, p);
}
LANE_FN void store(float *p, lanes v)
{
    _mm512_storeu_ps(p, v);
}
LANE_FN void store_some(float *p, lane_part m, lanes v)
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
LANE_FN lanes smaller(lanes a, lanes b) // a < b ? a : b
{
    return _mm512_min_ps(a, b);
}
LANE_FN lanes magnitude(lanes a)
{
    return _mm512_abs_ps(a);
}
LANE_FN lanes whole(lanes a) // the integer below; a in [0, 2^31)
{
    return _mm512_cvtepi32_ps(_mm512_cvttps_epi32(a));
}
LANE_FN lane_mask below(lanes a, lanes b) // a < b
{
    return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ);
}
LANE_FN lane_mask both(lane_mask a, lane_mask b)
{
    return a & b;
}
LANE_FN lanes load_signed(const int8_t *p, uint32_t n) // bytes as floats, beyond n 0
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(first_lanes(n), p)));
}
LANE_FN lanes load_unsigned(const uint8_t *p, uint32_t n)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(first_lanes(n), p)));
}
LANE_FN void store_signed(int8_t *p, uint32_t n, lanes v)
{
    _mm_mask_storeu_epi8(p, first_lanes(n), _mm512_cvtepi32_epi8(_mm512_cvttps_epi32(v)));
}
LANE_FN void store_unsigned(uint8_t *p, uint32_t n, lanes v)
{
    _mm_mask_storeu_epi8(p, first_lanes(n), _mm512_cvtepi32_epi8(_mm512_cvttps_epi32(v)));
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
LANE_FN lanes pick_part(lane_part m, lanes a, lanes b)
{
    return pick(m, a, b);
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

// Σ x² in double: 16 chains by i mod 16, folded 8, 4, 2, 1 apart.
LANE_FN double sum_of_squares(const float *x, uint32_t n)
{
    __m512d low = _mm512_setzero_pd(), high = low;
    for (uint32_t i = 0; i < n; i += 16) {
        __m512 v = _mm512_maskz_loadu_ps(first_lanes(n - i), x + i);
        __m512d a = _mm512_cvtps_pd(_mm512_castps512_ps256(v)), b = _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1));
        low = _mm512_fmadd_pd(a, a, low); // the square is exact
        high = _mm512_fmadd_pd(b, b, high);
    }
    low = _mm512_add_pd(low, high);
    __m256d four = _mm256_add_pd(_mm512_castpd512_pd256(low), _mm512_extractf64x4_pd(low, 1));
    __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}

// ---- Philox: words of counters (first …, row, stream), four each

LANE_FN void multiply_words(__m512i a, uint32_t by, __m512i *high, __m512i *low)
{
    const __m512i m = _mm512_set1_epi32((int)by);
    __m512i even = _mm512_mul_epu32(a, m), odd = _mm512_mul_epu32(_mm512_srli_epi64(a, 32), m);
    *low = _mm512_mask_blend_epi32(0xAAAA, even, _mm512_slli_epi64(odd, 32));
    *high = _mm512_mask_blend_epi32(0xAAAA, _mm512_srli_epi64(even, 32), odd);
}

static inline void draw_words(uint64_t key, uint64_t stream, uint32_t row, uint32_t first, uint32_t *words)
{
    __m512i c[4], r[4];
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    c[0] = _mm512_add_epi32(_mm512_set1_epi32((int)first),
                            _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
    c[1] = _mm512_set1_epi32((int)row);
    c[2] = _mm512_set1_epi32((int)(uint32_t)stream);
    c[3] = _mm512_set1_epi32((int)(uint32_t)(stream >> 32));
    for (int round = 0; round < 10; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
        __m512i a, b, low, lower;
        multiply_words(c[0], 0xD2511F53u, &a, &low);
        multiply_words(c[2], 0xCD9E8D57u, &b, &lower);
        c[0] = _mm512_ternarylogic_epi32(b, c[1], _mm512_set1_epi32((int)k0), 0x96); // of all three: xor
        c[2] = _mm512_ternarylogic_epi32(a, c[3], _mm512_set1_epi32((int)k1), 0x96);
        c[1] = lower;
        c[3] = low;
    }
    __m512i x = _mm512_unpacklo_epi32(c[0], c[1]), y = _mm512_unpackhi_epi32(c[0], c[1]);
    __m512i z = _mm512_unpacklo_epi32(c[2], c[3]), w = _mm512_unpackhi_epi32(c[2], c[3]);
    r[0] = _mm512_unpacklo_epi64(x, z); // counters 0, 4, 8, 12
    r[1] = _mm512_unpackhi_epi64(x, z);
    r[2] = _mm512_unpacklo_epi64(y, w);
    r[3] = _mm512_unpackhi_epi64(y, w);
    for (int i = 0; i < 4; i++) {
        __m128i *out = (__m128i *)(void *)(words + 4 * i);
        _mm_storeu_si128(out, _mm512_castsi512_si128(r[i]));
        _mm_storeu_si128(out + 4, _mm512_extracti32x4_epi32(r[i], 1));
        _mm_storeu_si128(out + 8, _mm512_extracti32x4_epi32(r[i], 2));
        _mm_storeu_si128(out + 12, _mm512_extracti32x4_epi32(r[i], 3));
    }
}
LANE_FN lane_mask not_below(const uint32_t *words, uint32_t limit)
{
    return _mm512_cmpge_epu32_mask(_mm512_loadu_si512(words), _mm512_set1_epi32((int)limit));
}
LANE_FN lanes unit_of(const uint32_t *words) // ht_unit_f32
{
    return _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_srli_epi32(_mm512_loadu_si512(words), 8)),
                         _mm512_set1_ps(0x1p-24f));
}
LANE_FN void halves_of(const uint32_t *words, lanes *upper, lanes *lower) // / 2^16
{
    __m512i w = _mm512_loadu_si512(words);
    *upper = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_srli_epi32(w, 16)), _mm512_set1_ps(0x1p-16f));
    *lower = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_and_si512(w, _mm512_set1_epi32(0xFFFF))),
                           _mm512_set1_ps(0x1p-16f));
}

#endif
