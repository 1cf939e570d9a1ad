// SPDX-License-Identifier: Apache-2.0
// Attention with AVX2; see attention_avx512vnni.c. Up to 3 queries share a read of k, up to 6 of v. Any
// thread.
#include <math.h>

#include "engine/base/limits.h"
#include "engine/cpu/kv.h"
#include "engine/cpu/math_avx2.h"
#include "engine/cpu/overlay_avx2.h"

#define INLINE static inline __attribute__((always_inline))

// 8 stored values from index `at`; q8: times d
INLINE __m256 stored(enum ht_kv_type type, const unsigned char *p, size_t at, __m256 d)
{
    if (type == HT_KV_F32)
        return _mm256_loadu_ps((const float *)(const void *)p + at);
    if (type == HT_KV_F16)
        return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(p + 2 * at)));
    return _mm256_mul_ps(
        _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(p + at)))),
        d);
}

// n queries against 16 of the positions, from j
INLINE void score_queries(enum ht_kv_type type, const struct ht_kv_geometry *g, const unsigned char *k,
                          const float *q, size_t q_step, unsigned n, unsigned j, float *out, size_t stride)
{
    __m256 acc[3][2], d0 = _mm256_setzero_ps(), d1 = d0;
    for (unsigned i = 0; i < n; i++)
        acc[i][0] = acc[i][1] = _mm256_setzero_ps();
    const unsigned char *scale = k + (size_t)g->k_dim * HT_KV_PAGE;
    for (uint32_t d = 0; d < g->k_dim; d++, q += q_step) {
        if (type == HT_KV_Q8 && d % 32 == 0) {
            d0 = stored(HT_KV_F16, scale, d / 32 * HT_KV_PAGE + j, d0);
            d1 = stored(HT_KV_F16, scale, d / 32 * HT_KV_PAGE + j + 8, d1);
        }
        __m256 k0 = stored(type, k, (size_t)d * HT_KV_PAGE + j, d0),
               k1 = stored(type, k, (size_t)d * HT_KV_PAGE + j + 8, d1);
        for (unsigned i = 0; i < n; i++) {
            __m256 qi = _mm256_set1_ps(q[i]);
            acc[i][0] = _mm256_fmadd_ps(qi, k0, acc[i][0]);
            acc[i][1] = _mm256_fmadd_ps(qi, k1, acc[i][1]);
        }
    }
    for (unsigned i = 0; i < n; i++) {
        _mm256_storeu_ps(out + i * stride + j, acc[i][0]);
        _mm256_storeu_ps(out + i * stride + j + 8, acc[i][1]);
    }
}

INLINE void value_queries(enum ht_kv_type type, const struct ht_kv_geometry *g, const unsigned char *v,
                          const float *e, size_t stride, unsigned n, unsigned from, unsigned to,
                          float *const *acc)
{
    const uint16_t *scales = (const uint16_t *)(const void *)(v + (size_t)g->v_dim * HT_KV_PAGE);
    uint32_t blocks = (g->v_dim + 31) / 32, d = 0;
    for (; d + 8 <= g->v_dim; d += 8) {
        __m256 sum[6], scale = _mm256_setzero_ps();
        for (unsigned i = 0; i < n; i++)
            sum[i] = _mm256_loadu_ps(acc[i] + d);
        for (unsigned j = from; j < to; j++) {
            if (type == HT_KV_Q8)
                scale = _mm256_cvtph_ps(_mm_set1_epi16((short)scales[j * blocks + d / 32]));
            __m256 value = stored(type, v, (size_t)j * g->v_dim + d, scale);
            for (unsigned i = 0; i < n; i++)
                sum[i] = _mm256_fmadd_ps(_mm256_set1_ps(e[i * stride + j]), value, sum[i]);
        }
        for (unsigned i = 0; i < n; i++)
            _mm256_storeu_ps(acc[i] + d, sum[i]);
    }
    for (; d < g->v_dim; d++)
        for (unsigned i = 0; i < n; i++)
            for (unsigned j = from; j < to; j++)
                acc[i][d] = fmaf(e[i * stride + j], ht_kv_get_v(g, v - g->v_at, j, d), acc[i][d]);
}

#define SCORE_POSITIONS 16
#define SCORE_COUNTS(take) take(3) take(1)
#define VALUE_COUNTS(take) take(6) take(3) take(1)
#include "engine/cpu/attention_template.h"

// Scaled, capped and biased scores; their exponentials. 8 at a time; ends and the sums, 16 chains, are plain.
static float softmax(float *s, uint32_t from, uint32_t to, float scale, float cap, float slope, uint32_t p)
{
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    float top = -INFINITY;
    uint32_t j = from;
    for (; j + 8 <= to; j += 8) {
        __m256 v = _mm256_mul_ps(_mm256_loadu_ps(s + j), _mm256_set1_ps(scale));
        if (cap > 0)
            v = _mm256_mul_ps(_mm256_set1_ps(cap), tanh256(_mm256_div_ps(v, _mm256_set1_ps(cap))));
        if (slope != 0) {
            __m256i distance = _mm256_add_epi32(_mm256_set1_epi32((int32_t)j - (int32_t)p), lane);
            v = _mm256_fmadd_ps(_mm256_set1_ps(slope), _mm256_cvtepi32_ps(distance), v);
        }
        _mm256_storeu_ps(s + j, v);
    }
    for (; j < to; j++) {
        s[j] = s[j] * scale;
        if (cap > 0)
            s[j] = cap * ht_tanh(s[j] / cap);
        if (slope != 0)
            s[j] = fmaf(slope, (float)((int32_t)j - (int32_t)p), s[j]);
    }
    for (j = from; j < to; j++)
        top = s[j] > top ? s[j] : top;
    float sum[16] = {0};
    for (j = from; j < to && j % 16; j++)
        sum[j % 16] += s[j] = ht_exp(s[j] - top);
    __m256 sum0 = _mm256_loadu_ps(sum), sum1 = _mm256_loadu_ps(sum + 8);
    for (; j + 16 <= to; j += 16) {
        __m256 e0 = exp256(_mm256_sub_ps(_mm256_loadu_ps(s + j), _mm256_set1_ps(top)));
        __m256 e1 = exp256(_mm256_sub_ps(_mm256_loadu_ps(s + j + 8), _mm256_set1_ps(top)));
        _mm256_storeu_ps(s + j, e0);
        _mm256_storeu_ps(s + j + 8, e1);
        sum0 = _mm256_add_ps(sum0, e0);
        sum1 = _mm256_add_ps(sum1, e1);
    }
    _mm256_storeu_ps(sum, sum0);
    _mm256_storeu_ps(sum + 8, sum1);
    for (; j < to; j++)
        sum[j % 16] += s[j] = ht_exp(s[j] - top);
    return fold256(_mm256_loadu_ps(sum), _mm256_loadu_ps(sum + 8));
}

void ht_attention_avx2(struct ht_kernels *kernels)
{
    kernels->scores = scores;
    kernels->softmax = softmax;
    kernels->values = values;
}
