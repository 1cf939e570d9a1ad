// SPDX-License-Identifier: Apache-2.0
// The ops on rows with AVX-512, and contract F. Tails are masked: lanes beyond the end neither load nor
// store. Any thread.
#include <math.h>

#include "engine/cpu/math_avx512.h"
#include "engine/cpu/overlay_avx512vnni.h"

#define INLINE static inline __attribute__((always_inline))

static void quantise_block(const float *x, uint32_t b, const struct ht_xrow *out)
{
    __m512 x0 = _mm512_loadu_ps(x + 32 * b), x1 = _mm512_loadu_ps(x + 32 * b + 16);
    __m512i magnitude =
        _mm512_max_epu32(_mm512_castps_si512(_mm512_abs_ps(x0)), _mm512_castps_si512(_mm512_abs_ps(x1)));
    float amax = ht_bits_f32(_mm512_reduce_max_epu32(magnitude)), d = amax / 127.0f;
    if (!(amax >= HT_QUANTISE_MIN && amax < INFINITY)) { // zero, tiny or not finite
        d = amax < HT_QUANTISE_MIN ? 0.0f : NAN;
        amax = INFINITY; // q = x * 0: masked below, since x may be infinite
    }
    __mmask16 live = amax < INFINITY ? 0xFFFF : 0;
    __m512 inverse = _mm512_set1_ps(127.0f / amax);
    __m512i q0 = _mm512_maskz_cvtps_epi32(live, _mm512_mul_ps(x0, inverse)); // rounds half to even
    __m512i q1 = _mm512_maskz_cvtps_epi32(live, _mm512_mul_ps(x1, inverse));
    _mm_storeu_si128((__m128i *)(void *)(out->q + 32 * b), _mm512_cvtepi32_epi8(q0));
    _mm_storeu_si128((__m128i *)(void *)(out->q + 32 * b + 16), _mm512_cvtepi32_epi8(q1));
    int32_t s0 = _mm512_reduce_add_epi32(q0), s1 = _mm512_reduce_add_epi32(q1);
    out->sum[2 * b] = s0;
    out->sum[2 * b + 1] = s1;
    out->d[b] = d;
    out->ds[b] = d * (float)(s0 + s1);
}

// The largest of each of four vectors.
INLINE __m128i max_of_each(const __m512i m[4])
{
    __m512i a = _mm512_max_epu32(_mm512_unpacklo_epi32(m[0], m[1]), _mm512_unpackhi_epi32(m[0], m[1]));
    __m512i b = _mm512_max_epu32(_mm512_unpacklo_epi32(m[2], m[3]), _mm512_unpackhi_epi32(m[2], m[3]));
    a = _mm512_max_epu32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
    a = _mm512_max_epu32(a, _mm512_shuffle_i32x4(a, a, 0x4E));
    return _mm512_castsi512_si128(_mm512_max_epu32(a, _mm512_shuffle_i32x4(a, a, 0xB1)));
}

// Two blocks' q as bytes in order; their four sums of 16 in the first dword of each 128 bits.
INLINE __m512i pack_blocks(const __m512i q[4], __m512i *sums)
{
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __m512i bytes = _mm512_packs_epi16(_mm512_packs_epi32(q[0], q[1]), _mm512_packs_epi32(q[2], q[3]));
    bytes = _mm512_permutexvar_epi32(order, bytes);
    __m512i s = _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(1), bytes);
    s = _mm512_add_epi32(s, _mm512_shuffle_epi32(s, _MM_PERM_BADC));
    *sums = _mm512_add_epi32(s, _mm512_shuffle_epi32(s, _MM_PERM_CDAB));
    return bytes;
}

// Four blocks together: what goes across a vector, and the divisions, are shared.
INLINE void quantise_four(const float *x, uint32_t b, const struct ht_xrow *out)
{
    __m512 v[8];
    __m512i m[4], q[8], sums[2];
    for (unsigned i = 0; i < 8; i++)
        v[i] = _mm512_loadu_ps(x + 32 * b + 16 * i);
    for (unsigned i = 0; i < 4; i++)
        m[i] = _mm512_max_epu32(_mm512_castps_si512(_mm512_abs_ps(v[2 * i])),
                                _mm512_castps_si512(_mm512_abs_ps(v[2 * i + 1])));
    const __m128 least = _mm_set1_ps(HT_QUANTISE_MIN), top = _mm_set1_ps(127.0f);
    __m128 amax = _mm_castsi128_ps(max_of_each(m));
    __mmask8 tiny = _mm_cmp_ps_mask(amax, least, _CMP_LT_OQ),
             finite = _mm_cmp_ps_mask(amax, _mm_set1_ps(INFINITY), _CMP_LT_OQ), live = finite & (__mmask8)~tiny;
    __m128 d = _mm_mask_blend_ps(live, _mm_set1_ps(NAN), _mm_div_ps(amax, top)),
           inverse = _mm_maskz_div_ps(live, top, amax);
    d = _mm_mask_blend_ps(tiny, d, _mm_setzero_ps());
    for (unsigned i = 0; i < 4; i++) {
        __mmask16 all = live >> i & 1 ? 0xFFFF : 0;
        __m512 scale = _mm512_permutexvar_ps(_mm512_set1_epi32((int)i), _mm512_castps128_ps512(inverse));
        q[2 * i] = _mm512_maskz_cvtps_epi32(all, _mm512_mul_ps(v[2 * i], scale)); // rounds half to even
        q[2 * i + 1] = _mm512_maskz_cvtps_epi32(all, _mm512_mul_ps(v[2 * i + 1], scale));
    }
    _mm512_storeu_si512(out->q + 32 * b, pack_blocks(q, &sums[0]));
    _mm512_storeu_si512(out->q + 32 * b + 64, pack_blocks(q + 4, &sums[1]));
    const __m512i firsts = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 0, 0, 0, 0, 0, 0, 0);
    __m256i sum = _mm512_castsi512_si256(_mm512_permutex2var_epi32(sums[0], firsts, sums[1]));
    __m128i whole = _mm_hadd_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
    _mm256_storeu_si256((__m256i *)(void *)(out->sum + 2 * b), sum);
    _mm_storeu_ps(out->d + b, d);
    _mm_storeu_ps(out->ds + b, _mm_mul_ps(d, _mm_cvtepi32_ps(whole)));
}

static void quantise(const float *x, uint32_t k, const struct ht_xrow *out)
{
    uint32_t b = 0;
    for (; b + 4 <= k / 32; b += 4)
        quantise_four(x, b, out);
    for (; b < k / 32; b++)
        quantise_block(x, b, out);
}

static void put(const float *value, const float *bias, bool add, uint32_t n, float *y)
{
    for (uint32_t i = 0; i < n; i += 16) {
        __mmask16 m = first_lanes(n - i);
        __m512 t = _mm512_maskz_loadu_ps(m, value + i);
        if (bias)
            t = _mm512_add_ps(t, _mm512_maskz_loadu_ps(m, bias + i));
        if (add)
            t = _mm512_add_ps(_mm512_maskz_loadu_ps(m, y + i), t);
        _mm512_mask_storeu_ps(y + i, m, t);
    }
}

INLINE void dot_columns(const float *w, uint32_t k, const float *const *x, unsigned n, float *out)
{
    __m512 acc[8];
    for (unsigned c = 0; c < n; c++)
        acc[c] = _mm512_setzero_ps();
    for (uint32_t i = 0; i < k; i++, w += HT_GROUP) {
        __m512 wi = _mm512_loadu_ps(w);
        for (unsigned c = 0; c < n; c++)
            acc[c] = _mm512_fmadd_ps(wi, _mm512_set1_ps(x[c][i]), acc[c]);
    }
    for (unsigned c = 0; c < n; c++)
        _mm512_storeu_ps(out + c * HT_GROUP, acc[c]);
}

static void dot_f(const float *w, uint32_t k, const float *const *x, unsigned n, float *out)
{
    if (n == 8) {
        dot_columns(w, k, x, 8, out);
        return;
    }
    for (; n >= 4; n -= 4, x += 4, out += 4 * HT_GROUP)
        dot_columns(w, k, x, 4, out);
    for (; n >= 2; n -= 2, x += 2, out += 2 * HT_GROUP)
        dot_columns(w, k, x, 2, out);
    if (n)
        dot_columns(w, k, x, 1, out);
}

static void widen_f16(const uint16_t *x, size_t n, float *y)
{
    for (size_t i = 0; i < n; i += 16)
        _mm512_storeu_ps(y + i, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)(x + i))));
}

static void widen_bf16(const uint16_t *x, size_t n, float *y)
{
    for (size_t i = 0; i < n; i += 16) {
        __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)(x + i)));
        _mm512_storeu_si512(y + i, _mm512_slli_epi32(wide, 16));
    }
}

static void narrow_f16(const float *x, size_t n, uint16_t *y)
{
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 m = first_lanes((uint32_t)(n - i));
        __m256i half =
            _mm512_cvtps_ph(_mm512_maskz_loadu_ps(m, x + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        _mm256_mask_storeu_epi16(y + i, m, half);
    }
}

static void rmsnorm(const float *x, const float *w, uint32_t dim, float eps, bool add, float *y)
{
    __m512 p = _mm512_setzero_ps();
    for (uint32_t i = 0; i < dim; i += 16) {
        __mmask16 m = first_lanes(dim - i);
        __m512 v = _mm512_maskz_loadu_ps(m, x + i);
        p = _mm512_fmadd_ps(v, v, p);
    }
    __m512 scale = _mm512_set1_ps(1.0f / sqrtf(fold512(p) / (float)dim + eps));
    for (uint32_t i = 0; i < dim; i += 16) {
        __mmask16 m = first_lanes(dim - i);
        __m512 v = _mm512_mul_ps(_mm512_mul_ps(_mm512_maskz_loadu_ps(m, x + i), scale),
                                 _mm512_maskz_loadu_ps(m, w + i));
        if (add)
            v = _mm512_add_ps(_mm512_maskz_loadu_ps(m, y + i), v);
        _mm512_mask_storeu_ps(y + i, m, v);
    }
}

static void rope(float *x, const float *cosine, const float *sine, uint32_t n_rot, enum ht_rope_kind kind)
{
    uint32_t pairs = n_rot / 2;
    if (kind == HT_ROPE_NORM) {
        const __m512i twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
        for (uint32_t i = 0; i < pairs; i += 8) {
            __mmask16 half = first_lanes(pairs - i < 8 ? pairs - i : 8), m = first_lanes(2 * (pairs - i));
            __m512 v = _mm512_maskz_loadu_ps(m, x + 2 * i);
            __m512 c = _mm512_permutexvar_ps(twice, _mm512_maskz_loadu_ps(half, cosine + i));
            __m512 s = _mm512_permutexvar_ps(twice, _mm512_maskz_loadu_ps(half, sine + i));
            __m512 cs = _mm512_mask_blend_ps(0xAAAA, c, s),
                   sc = _mm512_mask_blend_ps(0xAAAA, s, c); // odd lanes differ
            __m512 t = _mm512_mul_ps(_mm512_movehdup_ps(v), sc);
            _mm512_mask_storeu_ps(x + 2 * i, m, _mm512_fmaddsub_ps(_mm512_moveldup_ps(v), cs, t));
        }
        return;
    }
    for (uint32_t i = 0; i < pairs; i += 16) {
        __mmask16 m = first_lanes(pairs - i);
        __m512 a = _mm512_maskz_loadu_ps(m, x + i), b = _mm512_maskz_loadu_ps(m, x + pairs + i);
        __m512 c = _mm512_maskz_loadu_ps(m, cosine + i), s = _mm512_maskz_loadu_ps(m, sine + i);
        _mm512_mask_storeu_ps(x + i, m, _mm512_fmsub_ps(a, c, _mm512_mul_ps(b, s)));
        _mm512_mask_storeu_ps(x + pairs + i, m, _mm512_fmadd_ps(a, s, _mm512_mul_ps(b, c)));
    }
}

INLINE __m512 silu512(__m512 g)
{
    __m512 negative = _mm512_xor_ps(g, _mm512_set1_ps(-0.0f));
    return _mm512_div_ps(g, _mm512_add_ps(_mm512_set1_ps(1.0f), exp512(negative)));
}

INLINE __m512 gelu512(__m512 g)
{
    __m512 cube = _mm512_mul_ps(g, _mm512_mul_ps(g, g));
    __m512 u =
        _mm512_mul_ps(_mm512_set1_ps(HT_GELU_SCALE), _mm512_fmadd_ps(_mm512_set1_ps(HT_GELU_CUBE), cube, g));
    return _mm512_mul_ps(_mm512_mul_ps(_mm512_set1_ps(0.5f), g),
                         _mm512_add_ps(_mm512_set1_ps(1.0f), tanh512(u)));
}

static void glu(enum ht_act act, const float *gate, const float *up, float *y, uint32_t n)
{
    for (uint32_t i = 0; i < n; i += 16) {
        __mmask16 m = first_lanes(n - i);
        __m512 g = _mm512_maskz_loadu_ps(m, gate + i), u = _mm512_maskz_loadu_ps(m, up + i);
        _mm512_mask_storeu_ps(y + i, m, _mm512_mul_ps(act == HT_ACT_SILU ? silu512(g) : gelu512(g), u));
    }
}

static void softcap(float *x, uint32_t n, float cap)
{
    const __m512 c = _mm512_set1_ps(cap);
    for (uint32_t i = 0; i < n; i += 16) {
        __mmask16 m = first_lanes(n - i);
        _mm512_mask_storeu_ps(x + i, m,
                              _mm512_mul_ps(c, tanh512(_mm512_div_ps(_mm512_maskz_loadu_ps(m, x + i), c))));
    }
}

static void block_max(const float *x, uint32_t n, float *out)
{
    const __m512 infinity = _mm512_set1_ps(INFINITY);
    for (uint32_t b = 0; b < n; b += HT_SAMPLE_BLOCK) {
        uint32_t end = n - b < HT_SAMPLE_BLOCK ? n : b + HT_SAMPLE_BLOCK;
        __m512 top = _mm512_set1_ps(-INFINITY);
        for (uint32_t i = b; i < end; i += 16) {
            __mmask16 m = first_lanes(end - i);
            __m512 v = _mm512_maskz_loadu_ps(m, x + i);
            m = _mm512_mask_cmp_ps_mask(m, _mm512_abs_ps(v), infinity, _CMP_LT_OQ);
            top = _mm512_mask_max_ps(top, m, top, v);
        }
        *out++ = _mm512_reduce_max_ps(top);
    }
}

void ht_rows_avx512vnni(struct ht_kernels *kernels)
{
    kernels->quantise = quantise;
    kernels->put = put;
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
