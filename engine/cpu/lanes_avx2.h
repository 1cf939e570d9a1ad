// SPDX-License-Identifier: Apache-2.0
// A vector of floats under one name for all instruction sets, so that the kernels of training are written once
// (train_tile.h, train_lanes.h, train_row_lanes.h): here 8 lanes. Included by *_avx2.c files only.
#ifndef HT_LANES_H
#define HT_LANES_H
#include <stdbool.h>
#include <string.h>

#include "engine/cpu/math_avx2.h"

#define LANE_FN static inline __attribute__((always_inline))
enum { LANES = 8, SIXTEEN = 2 }; // SIXTEEN: vectors that hold 16 chains
#define TILE_VECTORS 2             // of a row that a block in registers has

typedef __m256 lanes;
typedef __m256i lane_mask;   // what a comparison gives
typedef lane_mask lane_part; // a vector's lanes that lie within a row

LANE_FN lane_part first_of(uint32_t n) // the first n lanes, all if there are no more
{
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n < LANES ? (int32_t)n : LANES), lane);
}
LANE_FN lane_part but_first(lane_part m, uint32_t n) // of m those from lane n on
{
    return _mm256_andnot_si256(first_of(n), m);
}
LANE_FN lanes load(const float *p)
{
    return _mm256_loadu_ps(p);
}
LANE_FN lanes load_some(const float *p, lane_part m) // the others 0
{
    return _mm256_maskload_ps(p, m);
}
LANE_FN void store(float *p, lanes v)
{
    _mm256_storeu_ps(p, v);
}
LANE_FN void store_some(float *p, lane_part m, lanes v)
{
    _mm256_maskstore_ps(p, m, v);
}
LANE_FN lanes all_of(float x)
{
    return _mm256_set1_ps(x);
}
LANE_FN lanes count_from(int32_t i) // i, i + 1, …
{
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cvtepi32_ps(_mm256_add_epi32(_mm256_set1_epi32(i), lane));
}
LANE_FN lanes add(lanes a, lanes b)
{
    return _mm256_add_ps(a, b);
}
LANE_FN lanes sub(lanes a, lanes b)
{
    return _mm256_sub_ps(a, b);
}
LANE_FN lanes mul(lanes a, lanes b)
{
    return _mm256_mul_ps(a, b);
}
LANE_FN lanes divide_lanes(lanes a, lanes b)
{
    return _mm256_div_ps(a, b);
}
LANE_FN lanes root(lanes a)
{
    return _mm256_sqrt_ps(a);
}
LANE_FN lanes larger(lanes a, lanes b) // a > b ? a : b
{
    return _mm256_max_ps(a, b);
}
LANE_FN lanes smaller(lanes a, lanes b) // a < b ? a : b
{
    return _mm256_min_ps(a, b);
}
LANE_FN lanes magnitude(lanes a)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a);
}
LANE_FN lanes whole(lanes a) // the integer below; a in [0, 2^31)
{
    return _mm256_cvtepi32_ps(_mm256_cvttps_epi32(a));
}
LANE_FN lane_mask below(lanes a, lanes b) // a < b
{
    return _mm256_castps_si256(_mm256_cmp_ps(a, b, _CMP_LT_OQ));
}
LANE_FN lane_mask both(lane_mask a, lane_mask b)
{
    return _mm256_and_si256(a, b);
}
LANE_FN __m128i load_bytes(const void *p, uint32_t n)
{
    uint64_t bytes = 0;
    memcpy(&bytes, p, n < LANES ? n : LANES);
    return _mm_cvtsi64_si128((long long)bytes);
}
LANE_FN lanes load_signed(const int8_t *p, uint32_t n) // bytes as floats, beyond n 0
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(load_bytes(p, n)));
}
LANE_FN lanes load_unsigned(const uint8_t *p, uint32_t n)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(load_bytes(p, n)));
}
LANE_FN void store_bytes(void *p, uint32_t n, lanes v) // the low bytes of the integers
{
    const __m256i low = _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0, 4, 8, 12, -1,
                                         -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
    __m256i w = _mm256_shuffle_epi8(_mm256_cvttps_epi32(v), low);
    uint64_t bytes = (uint32_t)_mm256_extract_epi32(w, 0) | (uint64_t)(uint32_t)_mm256_extract_epi32(w, 4) << 32;
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
    return _mm256_fmadd_ps(a, b, c);
}
LANE_FN lanes fma_minus(lanes a, lanes b, lanes c) // c - a b
{
    return _mm256_fnmadd_ps(a, b, c);
}
LANE_FN lanes pick(lane_mask m, lanes a, lanes b) // m ? a : b
{
    return _mm256_blendv_ps(b, a, _mm256_castsi256_ps(m));
}
LANE_FN lanes pick_part(lane_part m, lanes a, lanes b)
{
    return pick(m, a, b);
}
LANE_FN lanes minus(lanes a)
{
    return _mm256_xor_ps(a, _mm256_set1_ps(-0.0f));
}
LANE_FN lanes exp_of(lanes x)
{
    return exp256(x);
}
LANE_FN lanes tanh_of(lanes x)
{
    return tanh256(x);
}
LANE_FN float largest_of(lanes v)
{
    __m128 a = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    a = _mm_max_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_max_ss(a, _mm_movehdup_ps(a)));
}
LANE_FN float fold_lanes(const lanes p[SIXTEEN]) // 16 chains: 8, 4, 2, 1 apart
{
    return fold256(p[0], p[1]);
}

// The transpose of 8 rows of 8.
LANE_FN void transpose_lanes(lanes v[LANES])
{
    lanes t[LANES];
    for (int i = 0; i < LANES; i += 2) {
        t[i] = _mm256_unpacklo_ps(v[i], v[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(v[i], v[i + 1]);
    }
    for (int i = 0; i < LANES; i += 4)
        for (int j = 0; j < 2; j++) {
            __m256d a = _mm256_castps_pd(t[i + j]), b = _mm256_castps_pd(t[i + j + 2]);
            v[i + 2 * j] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, b));
            v[i + 2 * j + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, b));
        }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm256_permute2f128_ps(v[i], v[i + 4], 0x20);
        t[i + 4] = _mm256_permute2f128_ps(v[i], v[i + 4], 0x31);
    }
    for (int i = 0; i < LANES; i++)
        v[i] = t[i];
}

// Σ x² in double: 16 chains by i mod 16, folded 8, 4, 2, 1 apart.
LANE_FN double sum_of_squares(const float *x, uint32_t n)
{
    __m256d p[4] = {_mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd()};
    for (uint32_t i = 0; i < n; i += 8) {
        __m256 v = load_some(x + i, first_of(n - i));
        __m256d a = _mm256_cvtps_pd(_mm256_castps256_ps128(v)), b = _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1));
        __m256d *sum = p + i / 4 % 4;
        sum[0] = _mm256_fmadd_pd(a, a, sum[0]); // the square is exact
        sum[1] = _mm256_fmadd_pd(b, b, sum[1]);
    }
    __m256d four = _mm256_add_pd(_mm256_add_pd(p[0], p[2]), _mm256_add_pd(p[1], p[3]));
    __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}

// ---- Philox: words of counters (first …, row, stream), four each

LANE_FN void multiply_words(__m256i a, uint32_t by, __m256i *high, __m256i *low)
{
    const __m256i m = _mm256_set1_epi32((int)by);
    __m256i even = _mm256_mul_epu32(a, m), odd = _mm256_mul_epu32(_mm256_srli_epi64(a, 32), m);
    *low = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA);
    *high = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA);
}

static inline void draw_words(uint64_t key, uint64_t stream, uint32_t row, uint32_t first, uint32_t *words)
{
    __m256i c[4], r[4];
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    c[0] = _mm256_add_epi32(_mm256_set1_epi32((int)first), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    c[1] = _mm256_set1_epi32((int)row);
    c[2] = _mm256_set1_epi32((int)(uint32_t)stream);
    c[3] = _mm256_set1_epi32((int)(uint32_t)(stream >> 32));
    for (int round = 0; round < 10; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
        __m256i a, b, low, lower;
        multiply_words(c[0], 0xD2511F53u, &a, &low);
        multiply_words(c[2], 0xCD9E8D57u, &b, &lower);
        c[0] = _mm256_xor_si256(_mm256_xor_si256(b, c[1]), _mm256_set1_epi32((int)k0));
        c[2] = _mm256_xor_si256(_mm256_xor_si256(a, c[3]), _mm256_set1_epi32((int)k1));
        c[1] = lower;
        c[3] = low;
    }
    __m256i x = _mm256_unpacklo_epi32(c[0], c[1]), y = _mm256_unpackhi_epi32(c[0], c[1]);
    __m256i z = _mm256_unpacklo_epi32(c[2], c[3]), w = _mm256_unpackhi_epi32(c[2], c[3]);
    r[0] = _mm256_unpacklo_epi64(x, z); // counters 0, 4
    r[1] = _mm256_unpackhi_epi64(x, z);
    r[2] = _mm256_unpacklo_epi64(y, w);
    r[3] = _mm256_unpackhi_epi64(y, w);
    for (int i = 0; i < 4; i++) {
        __m128i *out = (__m128i *)(void *)(words + 4 * i);
        _mm_storeu_si128(out, _mm256_castsi256_si128(r[i]));
        _mm_storeu_si128(out + 4, _mm256_extracti128_si256(r[i], 1));
    }
}
LANE_FN lane_mask not_below(const uint32_t *words, uint32_t limit)
{
    __m256i w = _mm256_loadu_si256((const __m256i *)(const void *)words), least = _mm256_set1_epi32((int)limit);
    return _mm256_cmpeq_epi32(_mm256_max_epu32(w, least), w);
}
LANE_FN lanes unit_of(const uint32_t *words) // ht_unit_f32
{
    __m256i w = _mm256_loadu_si256((const __m256i *)(const void *)words);
    return _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_srli_epi32(w, 8)), _mm256_set1_ps(0x1p-24f));
}
LANE_FN void halves_of(const uint32_t *words, lanes *upper, lanes *lower) // / 2^16
{
    __m256i w = _mm256_loadu_si256((const __m256i *)(const void *)words);
    *upper = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_srli_epi32(w, 16)), _mm256_set1_ps(0x1p-16f));
    *lower = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_and_si256(w, _mm256_set1_epi32(0xFFFF))),
                           _mm256_set1_ps(0x1p-16f));
}

#endif
