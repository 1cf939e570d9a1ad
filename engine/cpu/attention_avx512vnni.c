// SPDX-License-Identifier: Apache-2.0
// Attention with AVX-512: up to 12 queries share each k and v that is read and widened. For k lanes are
// positions, for v they are values, so every chain of the contract stays in one lane. Any thread.
#include <math.h>

#include "engine/base/limits.h"
#include "engine/cpu/math_avx512.h"
#include "engine/cpu/overlay_avx512vnni.h"

#define INLINE static inline __attribute__((always_inline))

// 16 stored values from index `at`; q8: times d
INLINE __m512 stored(enum ht_kv_type type, const unsigned char *p, size_t at, __m512 d)
{
    if (type == HT_KV_F32)
        return _mm512_loadu_ps((const float *)(const void *)p + at);
    if (type == HT_KV_F16)
        return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)(p + 2 * at)));
    return _mm512_mul_ps(
        _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(p + at)))),
        d);
}

// n queries against 32 of the positions, from j
INLINE void score_queries(enum ht_kv_type type, const struct ht_kv_geometry *g, const unsigned char *k,
                          const float *q, size_t q_step, unsigned n, unsigned j, float *out, size_t stride)
{
    __m512 acc[HT_MAX_QUERIES][2], d0 = _mm512_setzero_ps(), d1 = d0;
    for (unsigned i = 0; i < n; i++)
        acc[i][0] = acc[i][1] = _mm512_setzero_ps();
    const unsigned char *scale = k + (size_t)g->k_dim * HT_KV_PAGE;
    for (uint32_t d = 0; d < g->k_dim; d++, q += q_step) {
        if (type == HT_KV_Q8 && d % 32 == 0) {
            d0 = stored(HT_KV_F16, scale, d / 32 * HT_KV_PAGE + j, d0);
            d1 = stored(HT_KV_F16, scale, d / 32 * HT_KV_PAGE + j + 16, d1);
        }
        __m512 k0 = stored(type, k, (size_t)d * HT_KV_PAGE + j, d0),
               k1 = stored(type, k, (size_t)d * HT_KV_PAGE + j + 16, d1);
        for (unsigned i = 0; i < n; i++) {
            __m512 qi = _mm512_set1_ps(q[i]);
            acc[i][0] = _mm512_fmadd_ps(qi, k0, acc[i][0]);
            acc[i][1] = _mm512_fmadd_ps(qi, k1, acc[i][1]);
        }
    }
    for (unsigned i = 0; i < n; i++) {
        _mm512_storeu_ps(out + i * stride + j, acc[i][0]);
        _mm512_storeu_ps(out + i * stride + j + 16, acc[i][1]);
    }
}

// n queries, `vectors` * 16 values from d on (the last 16 by mask), positions [from, to)
INLINE void value_columns(enum ht_kv_type type, const struct ht_kv_geometry *g, const unsigned char *v,
                          const float *e, size_t stride, unsigned n, unsigned from, unsigned to, uint32_t d,
                          unsigned vectors, __mmask16 m, float *const *acc)
{
    __m512 sum[HT_MAX_QUERIES][2], scale = _mm512_setzero_ps();
    const uint16_t *scales = (const uint16_t *)(const void *)(v + (size_t)g->v_dim * HT_KV_PAGE);
    uint32_t blocks = (g->v_dim + 31) / 32;
    for (unsigned i = 0; i < n; i++)
        for (unsigned c = 0; c < vectors; c++)
            sum[i][c] = _mm512_maskz_loadu_ps(c + 1 == vectors ? m : 0xFFFF, acc[i] + d + 16 * c);
    for (unsigned j = from; j < to; j++) {
        __m512 value[2];
        if (type == HT_KV_Q8)
            scale = _mm512_cvtph_ps(_mm256_set1_epi16((short)scales[j * blocks + d / 32]));
        for (unsigned c = 0; c < vectors; c++)
            value[c] = stored(type, v, (size_t)j * g->v_dim + d + 16 * c, scale);
        for (unsigned i = 0; i < n; i++) {
            __m512 ei = _mm512_set1_ps(e[i * stride + j]);
            for (unsigned c = 0; c < vectors; c++)
                sum[i][c] = _mm512_fmadd_ps(ei, value[c], sum[i][c]);
        }
    }
    for (unsigned i = 0; i < n; i++)
        for (unsigned c = 0; c < vectors; c++)
            _mm512_mask_storeu_ps(acc[i] + d + 16 * c, c + 1 == vectors ? m : 0xFFFF, sum[i][c]);
}

INLINE void value_queries(enum ht_kv_type type, const struct ht_kv_geometry *g, const unsigned char *v,
                          const float *e, size_t stride, unsigned n, unsigned from, unsigned to,
                          float *const *acc)
{
    uint32_t d = 0;
    for (; d + 32 <= g->v_dim; d += 32)
        value_columns(type, g, v, e, stride, n, from, to, d, 2, 0xFFFF, acc);
    for (; d < g->v_dim; d += 16) // a page's scales or padding follow the last value: reading 16 stays inside
        value_columns(type, g, v, e, stride, n, from, to, d, 1, first_lanes(g->v_dim - d), acc);
}

#define SCORE_POSITIONS HT_KV_PAGE
#define SCORE_COUNTS(take) take(12) take(6) take(3) take(2) take(1)
#define VALUE_COUNTS(take) take(12) take(6) take(3) take(2) take(1)
#include "engine/cpu/attention_template.h"

static float softmax(float *s, uint32_t from, uint32_t to, float scale, float softcap, float slope,
                     uint32_t p)
{
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    uint32_t start = from & ~15u; // lanes are positions modulo 16
    __m512 top = _mm512_set1_ps(-INFINITY), sum = _mm512_setzero_ps();
    for (uint32_t j = start; j < to; j += 16) {
        __mmask16 m = first_lanes(to - j) & (j < from ? (__mmask16)~first_lanes(from - j) : 0xFFFF);
        __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(m, s + j), _mm512_set1_ps(scale));
        if (softcap > 0)
            v = _mm512_mul_ps(_mm512_set1_ps(softcap), tanh512(_mm512_div_ps(v, _mm512_set1_ps(softcap))));
        if (slope != 0) {
            __m512i distance = _mm512_sub_epi32(_mm512_add_epi32(_mm512_set1_epi32((int32_t)j), lane),
                                                _mm512_set1_epi32((int32_t)p));
            v = _mm512_fmadd_ps(_mm512_set1_ps(slope), _mm512_cvtepi32_ps(distance), v);
        }
        _mm512_mask_storeu_ps(s + j, m, v);
        top = _mm512_mask_max_ps(top, m, v, top); // v > top ? v : top
    }
    __m512 most = _mm512_set1_ps(_mm512_reduce_max_ps(top));
    for (uint32_t j = start; j < to; j += 16) {
        __mmask16 m = first_lanes(to - j) & (j < from ? (__mmask16)~first_lanes(from - j) : 0xFFFF);
        __m512 e = exp512(_mm512_sub_ps(_mm512_maskz_loadu_ps(m, s + j), most));
        _mm512_mask_storeu_ps(s + j, m, e);
        sum = _mm512_mask_add_ps(sum, m, sum, e);
    }
    return fold512(sum);
}

void ht_attention_avx512vnni(struct ht_kernels *kernels)
{
    kernels->scores = scores;
    kernels->softmax = softmax;
    kernels->values = values;
}
