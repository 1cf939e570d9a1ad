// SPDX-License-Identifier: Apache-2.0
// math.h for 8 floats at a time: the same operations in the same order. Included by *_avx2.c files only.
#ifndef HT_MATH_AVX2_H
#define HT_MATH_AVX2_H
#include <immintrin.h>

#include "engine/cpu/math.h"

static inline __attribute__((always_inline)) __m256 exp2i256(__m256i n) // 2^n
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}
static inline __attribute__((always_inline)) __m256 exp256(__m256 x)
{
    x = _mm256_max_ps(_mm256_set1_ps(HT_EXP_MIN), x); // with a NaN, max and min give their second operand
    x = _mm256_min_ps(_mm256_set1_ps(HT_EXP_MAX), x);
    const __m256 round = _mm256_set1_ps(HT_EXP_ROUND);
    __m256 n = _mm256_sub_ps(_mm256_fmadd_ps(x, _mm256_set1_ps(HT_EXP_LOG2E), round), round);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(HT_EXP_LN2_HI), x);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(HT_EXP_LN2_LO), r);
    __m256 q = _mm256_fmadd_ps(_mm256_set1_ps(HT_EXP_Q4), r, _mm256_set1_ps(HT_EXP_Q3));
    q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(HT_EXP_Q2));
    q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(HT_EXP_Q1));
    q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(HT_EXP_Q0));
    __m256 p = _mm256_add_ps(_mm256_fmadd_ps(q, _mm256_mul_ps(r, r), r), _mm256_set1_ps(1.0f));
    __m256i i = _mm256_cvtps_epi32(n),
            half = _mm256_srai_epi32(i, 1); // a NaN gives some i: NaN times any power is NaN
    return _mm256_mul_ps(_mm256_mul_ps(p, exp2i256(half)), exp2i256(_mm256_sub_epi32(i, half)));
}
static inline __attribute__((always_inline)) __m256 tanh256(__m256 u)
{
    const __m256 one = _mm256_set1_ps(1.0f), two = _mm256_set1_ps(2.0f);
    return _mm256_sub_ps(one, _mm256_div_ps(two, _mm256_add_ps(exp256(_mm256_mul_ps(two, u)), one)));
}
static inline __attribute__((always_inline)) float fold256(__m256 p0,
                                                           __m256 p1) // 16 chains: 8, 4, 2, 1 apart
{
    __m256 a = _mm256_add_ps(p0, p1);
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}

#endif
