// SPDX-License-Identifier: Apache-2.0
// The ops on rows with AVX2, and contract F. What does not fill a vector is done by the contract's plain C.
// Any thread.
#include <math.h>
#include <string.h>

#include "engine/cpu/contract.h"
#include "engine/cpu/math_avx2.h"
#include "engine/cpu/overlay_avx2.h"

#define INLINE static inline __attribute__((always_inline))

INLINE __m256 abs256(__m256 v)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), v);
}
INLINE uint32_t top_bits(__m256i v) // largest of 8 unsigned
{
    __m128i a = _mm_max_epu32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    a = _mm_max_epu32(a, _mm_shuffle_epi32(a, 0x4E));
    a = _mm_max_epu32(a, _mm_shuffle_epi32(a, 0xB1));
    return (uint32_t)_mm_cvtsi128_si32(a);
}
INLINE int32_t sum8(__m256i v)
{
    __m128i a = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    a = _mm_add_epi32(a, _mm_shuffle_epi32(a, 0x4E));
    return _mm_cvtsi128_si32(_mm_add_epi32(a, _mm_shuffle_epi32(a, 0xB1)));
}

static void quantise(const float *x, uint32_t k, const struct ht_xrow *out)
{
    for (uint32_t b = 0; b < k / 32; b++) {
        __m256 v[4];
        __m256i top = _mm256_setzero_si256(), q[4];
        for (int i = 0; i < 4; i++) {
            v[i] = _mm256_loadu_ps(x + 32 * b + 8 * i);
            top = _mm256_max_epu32(top, _mm256_castps_si256(abs256(v[i])));
        }
        float amax = ht_bits_f32(top_bits(top));
        if (!(amax >= HT_QUANTISE_MIN && amax < INFINITY)) { // zero, tiny or not finite: rare
            struct ht_xrow one = {out->q + 32 * b, out->d + b, out->ds + b, out->sum + 2 * b};
            ht_contract_quantise(x + 32 * b, 32, &one);
            continue;
        }
        __m256 inverse = _mm256_set1_ps(127.0f / amax);
        for (int i = 0; i < 4; i++)
            q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], inverse)); // rounds half to even
        __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
        bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        _mm256_storeu_si256((__m256i *)(void *)(out->q + 32 * b), bytes);
        int32_t s0 = sum8(_mm256_add_epi32(q[0], q[1])), s1 = sum8(_mm256_add_epi32(q[2], q[3]));
        out->d[b] = amax / 127.0f;
        out->sum[2 * b] = s0;
        out->sum[2 * b + 1] = s1;
        out->ds[b] = out->d[b] * (float)(s0 + s1);
    }
}

INLINE void dot_columns(const float *w, uint32_t k, const float *const *x, unsigned n, float *out)
{
    __m256 acc[4][2];
    for (unsigned c = 0; c < n; c++)
        acc[c][0] = acc[c][1] = _mm256_setzero_ps();
    for (uint32_t i = 0; i < k; i++, w += HT_GROUP) {
        __m256 w0 = _mm256_loadu_ps(w), w1 = _mm256_loadu_ps(w + 8);
        for (unsigned c = 0; c < n; c++) {
            __m256 xi = _mm256_set1_ps(x[c][i]);
            acc[c][0] = _mm256_fmadd_ps(w0, xi, acc[c][0]);
            acc[c][1] = _mm256_fmadd_ps(w1, xi, acc[c][1]);
        }
    }
    for (unsigned c = 0; c < n; c++) {
        _mm256_storeu_ps(out + c * HT_GROUP, acc[c][0]);
        _mm256_storeu_ps(out + c * HT_GROUP + 8, acc[c][1]);
    }
}

static void dot_f(const float *w, uint32_t k, const float *const *x, unsigned n, float *out)
{
    for (; n >= 4; n -= 4, x += 4, out += 4 * HT_GROUP)
        dot_columns(w, k, x, 4, out);
    for (; n; n--, x++, out += HT_GROUP)
        dot_columns(w, k, x, 1, out);
}

static void widen_f16(const uint16_t *x, size_t n, float *y)
{
    for (size_t i = 0; i < n; i += 8)
        _mm256_storeu_ps(y + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(x + i))));
}

static void widen_bf16(const uint16_t *x, size_t n, float *y)
{
    for (size_t i = 0; i < n; i += 8) {
        __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)(x + i)));
        _mm256_storeu_si256((__m256i *)(void *)(y + i), _mm256_slli_epi32(wide, 16));
    }
}

static void narrow_f16(const float *x, size_t n, uint16_t *y)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm_storeu_si128(
            (__m128i *)(void *)(y + i),
            _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    for (; i < n; i++)
        y[i] = ht_f32_f16(x[i]);
}

static void rmsnorm(const float *x, const float *w, uint32_t dim, float eps, bool add, float *y)
{
    __m256 p0 = _mm256_setzero_ps(), p1 = p0;
    uint32_t i = 0;
    for (; i + 16 <= dim; i += 16) {
        __m256 a = _mm256_loadu_ps(x + i), b = _mm256_loadu_ps(x + i + 8);
        p0 = _mm256_fmadd_ps(a, a, p0);
        p1 = _mm256_fmadd_ps(b, b, p1);
    }
    float tail[16] = {0}; // lanes without a value add 0 * 0, which changes nothing
    memcpy(tail, x + i, (dim - i) * sizeof *tail);
    p0 = _mm256_fmadd_ps(_mm256_loadu_ps(tail), _mm256_loadu_ps(tail), p0);
    p1 = _mm256_fmadd_ps(_mm256_loadu_ps(tail + 8), _mm256_loadu_ps(tail + 8), p1);
    float scale = 1.0f / sqrtf(fold256(p0, p1) / (float)dim + eps);
    for (i = 0; i + 8 <= dim; i += 8) {
        __m256 v = _mm256_mul_ps(_mm256_mul_ps(_mm256_loadu_ps(x + i), _mm256_set1_ps(scale)),
                                 _mm256_loadu_ps(w + i));
        _mm256_storeu_ps(y + i, add ? _mm256_add_ps(_mm256_loadu_ps(y + i), v) : v);
    }
    for (; i < dim; i++) {
        float v = x[i] * scale * w[i];
        y[i] = add ? y[i] + v : v;
    }
}

static void rope(float *x, const float *cosine, const float *sine, uint32_t n_rot, enum ht_rope_kind kind)
{
    uint32_t pairs = n_rot / 2;
    if (pairs % (kind == HT_ROPE_NORM ? 4 : 8)) {
        ht_contract_rope(x, cosine, sine, n_rot, kind);
        return;
    }
    const __m256i twice = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
    for (uint32_t i = 0; kind == HT_ROPE_NORM && i < pairs; i += 4) {
        __m256 v = _mm256_loadu_ps(x + 2 * i);
        __m256 c = _mm256_permutevar8x32_ps(_mm256_castps128_ps256(_mm_loadu_ps(cosine + i)), twice);
        __m256 s = _mm256_permutevar8x32_ps(_mm256_castps128_ps256(_mm_loadu_ps(sine + i)), twice);
        __m256 cs = _mm256_blend_ps(c, s, 0xAA), sc = _mm256_blend_ps(s, c, 0xAA); // odd lanes differ
        __m256 t = _mm256_mul_ps(_mm256_movehdup_ps(v), sc);
        _mm256_storeu_ps(x + 2 * i, _mm256_fmaddsub_ps(_mm256_moveldup_ps(v), cs, t));
    }
    if (kind == HT_ROPE_NORM)
        return;
    for (uint32_t i = 0; i < pairs; i += 8) {
        __m256 a = _mm256_loadu_ps(x + i), b = _mm256_loadu_ps(x + pairs + i);
        __m256 c = _mm256_loadu_ps(cosine + i), s = _mm256_loadu_ps(sine + i);
        _mm256_storeu_ps(x + i, _mm256_fmsub_ps(a, c, _mm256_mul_ps(b, s)));
        _mm256_storeu_ps(x + pairs + i, _mm256_fmadd_ps(a, s, _mm256_mul_ps(b, c)));
    }
}

static void glu(enum ht_act act, const float *gate, const float *up, float *y, uint32_t n)
{
    const __m256 one = _mm256_set1_ps(1.0f);
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 g = _mm256_loadu_ps(gate + i), value;
        if (act == HT_ACT_SILU) {
            value = _mm256_div_ps(g, _mm256_add_ps(one, exp256(_mm256_xor_ps(g, _mm256_set1_ps(-0.0f)))));
        } else {
            __m256 cube = _mm256_mul_ps(g, _mm256_mul_ps(g, g));
            __m256 u = _mm256_mul_ps(_mm256_set1_ps(HT_GELU_SCALE),
                                     _mm256_fmadd_ps(_mm256_set1_ps(HT_GELU_CUBE), cube, g));
            value = _mm256_mul_ps(_mm256_mul_ps(_mm256_set1_ps(0.5f), g), _mm256_add_ps(one, tanh256(u)));
        }
        _mm256_storeu_ps(y + i, _mm256_mul_ps(value, _mm256_loadu_ps(up + i)));
    }
    ht_contract_glu(act, gate + i, up + i, y + i, n - i);
}

static void softcap(float *x, uint32_t n, float cap)
{
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 c = _mm256_set1_ps(cap);
        _mm256_storeu_ps(x + i, _mm256_mul_ps(c, tanh256(_mm256_div_ps(_mm256_loadu_ps(x + i), c))));
    }
    ht_contract_softcap(x + i, n - i, cap);
}

static void block_max(const float *x, uint32_t n, float *out)
{
    const __m256 infinity = _mm256_set1_ps(INFINITY), none = _mm256_set1_ps(-INFINITY);
    for (uint32_t b = 0; b < n; b += HT_SAMPLE_BLOCK) {
        uint32_t end = n - b < HT_SAMPLE_BLOCK ? n : b + HT_SAMPLE_BLOCK, i = b;
        __m256 top = none;
        for (; i + 8 <= end; i += 8) {
            __m256 v = _mm256_loadu_ps(x + i);
            top =
                _mm256_max_ps(top, _mm256_blendv_ps(none, v, _mm256_cmp_ps(abs256(v), infinity, _CMP_LT_OQ)));
        }
        float lanes[8], best = -INFINITY;
        _mm256_storeu_ps(lanes, top);
        for (int l = 0; l < 8; l++)
            best = lanes[l] > best ? lanes[l] : best;
        for (; i < end; i++)
            if (fabsf(x[i]) < INFINITY && x[i] > best)
                best = x[i];
        *out++ = best;
    }
}

void ht_rows_avx2(struct ht_kernels *kernels)
{
    kernels->quantise = quantise;
    kernels->dot_f = dot_f;
    kernels->widen_f16 = widen_f16;
    kernels->widen_bf16 = widen_bf16;
    kernels->narrow_f16 = narrow_f16;
    kernels->rmsnorm = rmsnorm;
    kernels->rope = rope;
    kernels->glu = glu;
    kernels->softcap = softcap;
    kernels->block_max = block_max;
}
