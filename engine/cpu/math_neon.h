// SPDX-License-Identifier: Apache-2.0
// math.h for 4 floats at a time: the same operations in the same order. Included by *_neon.c files only.
#ifndef HT_MATH_NEON_H
#define HT_MATH_NEON_H
#include <arm_neon.h>

#include "engine/cpu/math.h"

static inline __attribute__((always_inline)) float32x4_t exp2i128(int32x4_t n) // 2^n
{
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(n, vdupq_n_s32(127)), 23));
}
static inline __attribute__((always_inline)) float32x4_t exp128(float32x4_t x)
{
    x = vmaxq_f32(x, vdupq_n_f32(HT_EXP_MIN)); // with a NaN, max and min give NaN
    x = vminq_f32(x, vdupq_n_f32(HT_EXP_MAX));
    const float32x4_t round = vdupq_n_f32(HT_EXP_ROUND);
    float32x4_t n = vsubq_f32(vfmaq_f32(round, x, vdupq_n_f32(HT_EXP_LOG2E)), round);
    float32x4_t r = vfmsq_f32(x, n, vdupq_n_f32(HT_EXP_LN2_HI));
    r = vfmsq_f32(r, n, vdupq_n_f32(HT_EXP_LN2_LO));
    float32x4_t q = vfmaq_f32(vdupq_n_f32(HT_EXP_Q3), vdupq_n_f32(HT_EXP_Q4), r);
    q = vfmaq_f32(vdupq_n_f32(HT_EXP_Q2), q, r);
    q = vfmaq_f32(vdupq_n_f32(HT_EXP_Q1), q, r);
    q = vfmaq_f32(vdupq_n_f32(HT_EXP_Q0), q, r);
    float32x4_t p = vaddq_f32(vfmaq_f32(r, q, vmulq_f32(r, r)), vdupq_n_f32(1.0f));
    int32x4_t i = vcvtnq_s32_f32(n), half = vshrq_n_s32(i, 1); // a NaN gives 0: NaN times any power is NaN
    return vmulq_f32(vmulq_f32(p, exp2i128(half)), exp2i128(vsubq_s32(i, half)));
}
static inline __attribute__((always_inline)) float32x4_t tanh128(float32x4_t u)
{
    const float32x4_t one = vdupq_n_f32(1.0f), two = vdupq_n_f32(2.0f);
    return vsubq_f32(one, vdivq_f32(two, vaddq_f32(exp128(vmulq_f32(two, u)), one)));
}
static inline __attribute__((always_inline)) float
fold128(const float32x4_t p[4]) // 16 chains: 8, 4, 2, 1 apart
{
    float32x4_t a = vaddq_f32(vaddq_f32(p[0], p[2]), vaddq_f32(p[1], p[3]));
    float32x2_t b = vadd_f32(vget_low_f32(a), vget_high_f32(a));
    return vget_lane_f32(b, 0) + vget_lane_f32(b, 1);
}

#endif
