// SPDX-License-Identifier: Apache-2.0
// Elementary functions as fixed sequences of IEEE operations, so that scalar and vector code give the same
// bits. The vector forms (math_avx2.h, math_avx512.h) follow these line by line. Any thread.
#ifndef HT_CPU_MATH_H
#define HT_CPU_MATH_H
#include <math.h>
#include <stdint.h>

#include "engine/base/half.h"

// e^x. x = n ln 2 + r, |r| <= ln 2 / 2; e^r = 1 + r + r² q(r), q fitted by minimax: relative error of the
// exact polynomial 4e-9, of the result at most 1 ulp (subnormal results rounded once). Below -104: 0; above
// 88.73: infinity; NaN stays NaN.
#define HT_EXP_MIN    -104.0f
#define HT_EXP_MAX    89.0f
#define HT_EXP_LOG2E  0x1.715476p+0f
#define HT_EXP_LN2_HI 0x1.62e43p-1f
#define HT_EXP_LN2_LO -0x1.05c61p-29f
#define HT_EXP_ROUND  0x1.8p23f // adding it rounds to an integer, half to even
#define HT_EXP_Q4     0x1.6a21b4p-10f
#define HT_EXP_Q3     0x1.123b6ap-7f
#define HT_EXP_Q2     0x1.5558fap-5f
#define HT_EXP_Q1     0x1.55549p-3f
#define HT_EXP_Q0     0x1.fffffcp-2f

// Blocks of activations whose largest magnitude is below this count as zero: 127 / amax would overflow.
#define HT_QUANTISE_MIN 0x1p-120f

static inline float ht_exp2i(int32_t n) // 2^n, -126 <= n <= 127
{
    return ht_bits_f32((uint32_t)(n + 127) << 23);
}
static inline float ht_exp(float x)
{
    if (x != x)
        return x;
    x = x < HT_EXP_MIN ? HT_EXP_MIN : x > HT_EXP_MAX ? HT_EXP_MAX : x;
    float shifted = fmaf(x, HT_EXP_LOG2E, HT_EXP_ROUND), n = shifted - HT_EXP_ROUND;
    float r = fmaf(-n, HT_EXP_LN2_LO, fmaf(-n, HT_EXP_LN2_HI, x));
    float q = fmaf(HT_EXP_Q4, r, HT_EXP_Q3);
    q = fmaf(q, r, HT_EXP_Q2);
    q = fmaf(q, r, HT_EXP_Q1);
    q = fmaf(q, r, HT_EXP_Q0);
    float p = fmaf(q, r * r, r) + 1.0f;
    int32_t i = (int32_t)n,
            half = i >> 1; // two factors: each a normal number, so that only the last product rounds
    return p * ht_exp2i(half) * ht_exp2i(i - half);
}
static inline float ht_tanh(float u)
{
    return 1.0f - 2.0f / (ht_exp(2.0f * u) + 1.0f);
}
static inline float ht_silu(float g)
{
    return g / (1.0f + ht_exp(-g));
}
#define HT_GELU_SCALE 0x1.988454p-1f // sqrt(2 / pi)
#define HT_GELU_CUBE  0x1.6e4e26p-5f // 0.044715
static inline float ht_gelu_tanh(float g)
{
    float u = HT_GELU_SCALE * fmaf(HT_GELU_CUBE, g * (g * g), g);
    return 0.5f * g * (1.0f + ht_tanh(u));
}

// sin and cos of a float angle, in double: reduced by pi/2 in two parts (n pi/2 is exact to about 2^-100),
// then Taylor polynomials on [-pi/4, pi/4] with error below 1e-13. Rounded once to float: at most 0.51 ulp.
// Angles of 2^31 and more, and what is not finite, give NaN.
static inline void ht_sincos(float angle, float *sine, float *cosine)
{
    double x = angle;
    if (!(fabs(x) < 0x1p31)) {
        *sine = *cosine = NAN;
        return;
    }
    double n = x * 0x1.45f306dc9c883p-1 + 0x1.8p52 - 0x1.8p52;
    double r = fma(-n, 0x1.1a62633145c07p-54, fma(-n, 0x1.921fb54442d18p+0, x)), z = r * r;
    double s = 1.0 / 6227020800;
    s = fma(s, z, -1.0 / 39916800);
    s = fma(s, z, 1.0 / 362880);
    s = fma(s, z, -1.0 / 5040);
    s = fma(s, z, 1.0 / 120);
    s = fma(s, z, -1.0 / 6);
    s = fma(s * z, r, r);
    double c = 1.0 / 479001600;
    c = fma(c, z, -1.0 / 3628800);
    c = fma(c, z, 1.0 / 40320);
    c = fma(c, z, -1.0 / 720);
    c = fma(c, z, 1.0 / 24);
    c = fma(c, z, -0.5);
    c = fma(c, z, 1.0);
    unsigned quadrant = (unsigned)(int64_t)n & 3;
    double sin_part = quadrant & 1 ? c : s, cos_part = quadrant & 1 ? s : c;
    *sine = (float)(quadrant & 2 ? -sin_part : sin_part);
    *cosine = (float)((quadrant + 1) & 2 ? -cos_part : cos_part);
}

#endif
