// SPDX-License-Identifier: Apache-2.0
// math.h for 16 floats at a time: the same operations in the same order. Included by *_avx512vnni.c files
// only.
#ifndef HT_MATH_AVX512_H
#define HT_MATH_AVX512_H
#include <immintrin.h>

#include "engine/cpu/math.h"

static inline __attribute__((always_inline)) __m512 exp512(__m512 x)
{
    x = _mm512_max_ps(_mm512_set1_ps(HT_EXP_MIN), x); // with a NaN, max and min give their second operand
    x = _mm512_min_ps(_mm512_set1_ps(HT_EXP_MAX), x);
    const __m512 round = _mm512_set1_ps(HT_EXP_ROUND);
    __m512 n = _mm512_sub_ps(_mm512_fmadd_ps(x, _mm512_set1_ps(HT_EXP_LOG2E), round), round);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(HT_EXP_LN2_HI), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(HT_EXP_LN2_LO), r);
    __m512 q = _mm512_fmadd_ps(_mm512_set1_ps(HT_EXP_Q4), r, _mm512_set1_ps(HT_EXP_Q3));
    q = _mm512_fmadd_ps(q, r, _mm512_set1_ps(HT_EXP_Q2));
    q = _mm512_fmadd_ps(q, r, _mm512_set1_ps(HT_EXP_Q1));
    q = _mm512_fmadd_ps(q, r, _mm512_set1_ps(HT_EXP_Q0));
    __m512 p = _mm512_add_ps(_mm512_fmadd_ps(q, _mm512_mul_ps(r, r), r), _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, n); // one rounding, as the scalar form's last product
}
static inline __attribute__((always_inline)) __m512 tanh512(__m512 u)
{
    const __m512 one = _mm512_set1_ps(1.0f), two = _mm512_set1_ps(2.0f);
    return _mm512_sub_ps(one, _mm512_div_ps(two, _mm512_add_ps(exp512(_mm512_mul_ps(two, u)), one)));
}
static inline __attribute__((always_inline)) float fold512(__m512 p) // 8, 4, 2, 1 apart
{
    __m256 a = _mm256_add_ps(_mm512_castps512_ps256(p), _mm512_extractf32x8_ps(p, 1));
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}
static inline __mmask16 first_lanes(uint32_t n) // the first n of 16, all if n >= 16
{
    return n >= 16 ? 0xFFFF : (__mmask16)((1u << n) - 1);
}

#endif
