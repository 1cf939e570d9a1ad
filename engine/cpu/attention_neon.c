// SPDX-License-Identifier: Apache-2.0
// Attention with NEON; see attention_avx512vnni.c. Up to 4 queries share a read of k, up to 6 of v. Any thread.
#include <math.h>

#include "engine/base/limits.h"
#include "engine/cpu/kv.h"
#include "engine/cpu/math_neon.h"
#include "engine/cpu/overlay_neon.h"

#define INLINE static inline __attribute__((always_inline))

struct eight {
    float32x4_t low, high;
};
// 8 stored values from index `at`; q8: times d
INLINE struct eight stored(enum ht_kv_type type, const unsigned char *p, size_t at, struct eight d)
{
    if (type == HT_KV_F32) {
        const float *x = (const float *)(const void *)p + at;
        return (struct eight){vld1q_f32(x), vld1q_f32(x + 4)};
    }
    if (type == HT_KV_F16) {
        float16x8_t x = vreinterpretq_f16_u16(vld1q_u16((const uint16_t *)(const void *)p + at));
        return (struct eight){vcvt_f32_f16(vget_low_f16(x)), vcvt_high_f32_f16(x)};
    }
    int16x8_t x = vmovl_s8(vld1_s8((const int8_t *)p + at));
    return (struct eight){vmulq_f32(vcvtq_f32_s32(vmovl_s16(vget_low_s16(x))), d.low),
                          vmulq_f32(vcvtq_f32_s32(vmovl_high_s16(x)), d.high)};
}

// n queries against 16 of the positions, from j
INLINE void score_queries(enum ht_kv_type type, const struct ht_kv_geometry *g, const unsigned char *k,
                          const float *q, size_t q_step, unsigned n, unsigned j, float *out, size_t stride)
{
    float32x4_t acc[4][4], zero = vdupq_n_f32(0);
    struct eight d0 = {zero, zero}, d1 = d0;
    for (unsigned i = 0; i < n; i++)
        acc[i][0] = acc[i][1] = acc[i][2] = acc[i][3] = zero;
    const unsigned char *scale = k + (size_t)g->k_dim * HT_KV_PAGE;
    for (uint32_t d = 0; d < g->k_dim; d++, q += q_step) {
        if (type == HT_KV_Q8 && d % 32 == 0) {
            d0 = stored(HT_KV_F16, scale, d / 32 * HT_KV_PAGE + j, d0);
            d1 = stored(HT_KV_F16, scale, d / 32 * HT_KV_PAGE + j + 8, d1);
        }
        struct eight k0 = stored(type, k, (size_t)d * HT_KV_PAGE + j, d0),
                     k1 = stored(type, k, (size_t)d * HT_KV_PAGE + j + 8, d1);
        for (unsigned i = 0; i < n; i++) {
            acc[i][0] = vfmaq_n_f32(acc[i][0], k0.low, q[i]);
            acc[i][1] = vfmaq_n_f32(acc[i][1], k0.high, q[i]);
            acc[i][2] = vfmaq_n_f32(acc[i][2], k1.low, q[i]);
            acc[i][3] = vfmaq_n_f32(acc[i][3], k1.high, q[i]);
        }
    }
    for (unsigned i = 0; i < n; i++)
        for (unsigned v = 0; v < 4; v++)
            vst1q_f32(out + i * stride + j + 4 * v, acc[i][v]);
}

INLINE void value_queries(enum ht_kv_type type, const struct ht_kv_geometry *g, const unsigned char *v,
                          const float *e, size_t stride, unsigned n, unsigned from, unsigned to,
                          float *const *acc)
{
    const uint16_t *scales = (const uint16_t *)(const void *)(v + (size_t)g->v_dim * HT_KV_PAGE);
    uint32_t blocks = (g->v_dim + 31) / 32, d = 0;
    for (; d + 8 <= g->v_dim; d += 8) {
        float32x4_t sum[6][2];
        struct eight scale = {vdupq_n_f32(0), vdupq_n_f32(0)};
        for (unsigned i = 0; i < n; i++) {
            sum[i][0] = vld1q_f32(acc[i] + d);
            sum[i][1] = vld1q_f32(acc[i] + d + 4);
        }
        for (unsigned j = from; j < to; j++) {
            if (type == HT_KV_Q8)
                scale.low = scale.high =
                    vcvt_f32_f16(vreinterpret_f16_u16(vld1_dup_u16(scales + j * blocks + d / 32)));
            struct eight value = stored(type, v, (size_t)j * g->v_dim + d, scale);
            for (unsigned i = 0; i < n; i++) {
                sum[i][0] = vfmaq_n_f32(sum[i][0], value.low, e[i * stride + j]);
                sum[i][1] = vfmaq_n_f32(sum[i][1], value.high, e[i * stride + j]);
            }
        }
        for (unsigned i = 0; i < n; i++) {
            vst1q_f32(acc[i] + d, sum[i][0]);
            vst1q_f32(acc[i] + d + 4, sum[i][1]);
        }
    }
    for (; d < g->v_dim; d++)
        for (unsigned i = 0; i < n; i++)
            for (unsigned j = from; j < to; j++)
                acc[i][d] = fmaf(e[i * stride + j], ht_kv_get_v(g, v - g->v_at, j, d), acc[i][d]);
}

#define SCORE_POSITIONS 16
#define SCORE_COUNTS(take) take(4) take(3) take(1)
#define VALUE_COUNTS(take) take(6) take(3) take(1)
#include "engine/cpu/attention_template.h"

// Scaled, capped and biased scores; their exponentials. 4 at a time; ends and the sums, 16 chains, are plain.
static float softmax(float *s, uint32_t from, uint32_t to, float scale, float cap, float slope, uint32_t p)
{
    static const int32_t lanes[4] = {0, 1, 2, 3};
    float top = -INFINITY, sum[16] = {0};
    uint32_t j = from;
    for (; j + 4 <= to; j += 4) {
        float32x4_t v = vmulq_n_f32(vld1q_f32(s + j), scale);
        if (cap > 0)
            v = vmulq_n_f32(tanh128(vdivq_f32(v, vdupq_n_f32(cap))), cap);
        if (slope != 0) {
            int32x4_t distance = vaddq_s32(vdupq_n_s32((int32_t)j - (int32_t)p), vld1q_s32(lanes));
            v = vfmaq_n_f32(v, vcvtq_f32_s32(distance), slope);
        }
        vst1q_f32(s + j, v);
    }
    for (; j < to; j++) {
        s[j] = s[j] * scale;
        if (cap > 0)
            s[j] = cap * ht_tanh(s[j] / cap);
        if (slope != 0)
            s[j] = fmaf(slope, (float)((int32_t)j - (int32_t)p), s[j]);
    }
    float32x4_t tops = vdupq_n_f32(-INFINITY);
    for (j = from; j + 4 <= to; j += 4)
        tops = vmaxnmq_f32(tops, vld1q_f32(s + j)); // passes NaN over, as the contract does
    top = vmaxnmvq_f32(tops);
    for (; j < to; j++)
        top = s[j] > top ? s[j] : top;
    for (j = from; j < to && j % 16; j++)
        sum[j % 16] += s[j] = ht_exp(s[j] - top);
    float32x4_t sums[4] = {vld1q_f32(sum), vld1q_f32(sum + 4), vld1q_f32(sum + 8), vld1q_f32(sum + 12)};
    for (; j + 16 <= to; j += 16)
        for (unsigned v = 0; v < 4; v++) {
            float32x4_t e = exp128(vsubq_f32(vld1q_f32(s + j + 4 * v), vdupq_n_f32(top)));
            vst1q_f32(s + j + 4 * v, e);
            sums[v] = vaddq_f32(sums[v], e);
        }
    for (unsigned v = 0; v < 4; v++)
        vst1q_f32(sum + 4 * v, sums[v]);
    for (; j < to; j++)
        sum[j % 16] += s[j] = ht_exp(s[j] - top);
    for (unsigned v = 0; v < 4; v++)
        sums[v] = vld1q_f32(sum + 4 * v);
    return fold128(sums);
}

void ht_attention_neon(struct ht_kernels *kernels)
{
    kernels->scores = scores;
    kernels->softmax = softmax;
    kernels->values = values;
}
