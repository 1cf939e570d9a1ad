// SPDX-License-Identifier: Apache-2.0
// The ops on rows with NEON, and contract F. What does not fill a vector is done by the contract's plain C.
// Any thread.
#include <math.h>
#include <string.h>

#include "engine/cpu/contract.h"
#include "engine/cpu/math_neon.h"
#include "engine/cpu/overlay_neon.h"

#define INLINE static inline __attribute__((always_inline))

static void quantise(const float *x, uint32_t k, const struct ht_xrow *out)
{
    for (uint32_t b = 0; b < k / 32; b++) {
        float32x4_t v[8];
        uint32x4_t top = vdupq_n_u32(0);
        int32x4_t q[8];
        for (int i = 0; i < 8; i++) {
            v[i] = vld1q_f32(x + 32 * b + 4 * i);
            top = vmaxq_u32(top, vreinterpretq_u32_f32(vabsq_f32(v[i])));
        }
        float amax = ht_bits_f32(vmaxvq_u32(top));
        if (!(amax >= HT_QUANTISE_MIN && amax < INFINITY)) { // zero, tiny or not finite: rare
            struct ht_xrow one = {out->q + 32 * b, out->d + b, out->ds + b, out->sum + 2 * b};
            ht_contract_quantise(x + 32 * b, 32, &one);
            continue;
        }
        float inverse = 127.0f / amax;
        for (int i = 0; i < 8; i++)
            q[i] = vcvtnq_s32_f32(vmulq_n_f32(v[i], inverse)); // rounds half to even
        for (int i = 0; i < 8; i += 4) {
            int16x8_t low = vcombine_s16(vmovn_s32(q[i]), vmovn_s32(q[i + 1]));
            int16x8_t high = vcombine_s16(vmovn_s32(q[i + 2]), vmovn_s32(q[i + 3]));
            vst1q_s8(out->q + 32 * b + 4 * i, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
            out->sum[2 * b + (unsigned)i / 4] = vaddvq_s32(vpaddlq_s16(vaddq_s16(low, high)));
        }
        out->d[b] = amax / 127.0f;
        out->ds[b] = out->d[b] * (float)(out->sum[2 * b] + out->sum[2 * b + 1]);
    }
}

INLINE void dot_columns(const float *w, uint32_t k, const float *const *x, unsigned n, float *out)
{
    float32x4_t acc[4][4];
    for (unsigned c = 0; c < n; c++)
        for (int v = 0; v < 4; v++)
            acc[c][v] = vdupq_n_f32(0);
    for (uint32_t i = 0; i < k; i++, w += HT_GROUP) {
        float32x4_t wi[4] = {vld1q_f32(w), vld1q_f32(w + 4), vld1q_f32(w + 8), vld1q_f32(w + 12)};
        for (unsigned c = 0; c < n; c++)
            for (int v = 0; v < 4; v++)
                acc[c][v] = vfmaq_n_f32(acc[c][v], wi[v], x[c][i]);
    }
    for (unsigned c = 0; c < n; c++)
        for (int v = 0; v < 4; v++)
            vst1q_f32(out + c * HT_GROUP + 4 * v, acc[c][v]);
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
    for (size_t i = 0; i < n; i += 4)
        vst1q_f32(y + i, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(x + i))));
}

static void widen_bf16(const uint16_t *x, size_t n, float *y)
{
    for (size_t i = 0; i < n; i += 4)
        vst1q_f32(y + i, vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(x + i), 16)));
}

static void narrow_f16(const float *x, size_t n, uint16_t *y)
{
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        vst1_u16(y + i, vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(x + i))));
    for (; i < n; i++)
        y[i] = ht_f32_f16(x[i]);
}

static void rmsnorm(const float *x, const float *w, uint32_t dim, float eps, bool add, float *y)
{
    float32x4_t p[4] = {vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0)};
    uint32_t i = 0;
    for (; i + 16 <= dim; i += 16)
        for (int v = 0; v < 4; v++) {
            float32x4_t a = vld1q_f32(x + i + 4 * v);
            p[v] = vfmaq_f32(p[v], a, a);
        }
    float tail[16] = {0}; // lanes without a value add 0 * 0, which changes nothing
    memcpy(tail, x + i, (dim - i) * sizeof *tail);
    for (int v = 0; v < 4; v++) {
        float32x4_t a = vld1q_f32(tail + 4 * v);
        p[v] = vfmaq_f32(p[v], a, a);
    }
    float scale = 1.0f / sqrtf(fold128(p) / (float)dim + eps);
    for (i = 0; i + 4 <= dim; i += 4) {
        float32x4_t v = vmulq_f32(vmulq_n_f32(vld1q_f32(x + i), scale), vld1q_f32(w + i));
        vst1q_f32(y + i, add ? vaddq_f32(vld1q_f32(y + i), v) : v);
    }
    for (; i < dim; i++) {
        float v = x[i] * scale * w[i];
        y[i] = add ? y[i] + v : v;
    }
}

static void rope(float *x, const float *cosine, const float *sine, uint32_t n_rot, enum ht_rope_kind kind)
{
    uint32_t pairs = n_rot / 2;
    if (pairs % 4) {
        ht_contract_rope(x, cosine, sine, n_rot, kind);
        return;
    }
    for (uint32_t i = 0; i < pairs; i += 4) {
        float32x4_t c = vld1q_f32(cosine + i), s = vld1q_f32(sine + i);
        float32x4x2_t v; // first and second of 4 pairs
        if (kind == HT_ROPE_NORM)
            v = vld2q_f32(x + 2 * i);
        else
            v = (float32x4x2_t){{vld1q_f32(x + i), vld1q_f32(x + pairs + i)}};
        float32x4x2_t to = {{vfmaq_f32(vnegq_f32(vmulq_f32(v.val[1], s)), v.val[0], c),
                             vfmaq_f32(vmulq_f32(v.val[1], c), v.val[0], s)}};
        if (kind == HT_ROPE_NORM) {
            vst2q_f32(x + 2 * i, to);
        } else {
            vst1q_f32(x + i, to.val[0]);
            vst1q_f32(x + pairs + i, to.val[1]);
        }
    }
}

static void glu(enum ht_act act, const float *gate, const float *up, float *y, uint32_t n)
{
    const float32x4_t one = vdupq_n_f32(1.0f);
    uint32_t i = 0;
    for (; i + 4 <= n; i += 4) {
        float32x4_t g = vld1q_f32(gate + i), value;
        if (act == HT_ACT_SILU) {
            value = vdivq_f32(g, vaddq_f32(one, exp128(vnegq_f32(g))));
        } else {
            float32x4_t cube = vmulq_f32(g, vmulq_f32(g, g));
            float32x4_t u = vmulq_n_f32(vfmaq_f32(g, vdupq_n_f32(HT_GELU_CUBE), cube), HT_GELU_SCALE);
            value = vmulq_f32(vmulq_n_f32(g, 0.5f), vaddq_f32(one, tanh128(u)));
        }
        vst1q_f32(y + i, vmulq_f32(value, vld1q_f32(up + i)));
    }
    ht_contract_glu(act, gate + i, up + i, y + i, n - i);
}

static void softcap(float *x, uint32_t n, float cap)
{
    const float32x4_t c = vdupq_n_f32(cap);
    uint32_t i = 0;
    for (; i + 4 <= n; i += 4)
        vst1q_f32(x + i, vmulq_f32(c, tanh128(vdivq_f32(vld1q_f32(x + i), c))));
    ht_contract_softcap(x + i, n - i, cap);
}

static void block_max(const float *x, uint32_t n, float *out)
{
    const float32x4_t infinity = vdupq_n_f32(INFINITY), none = vdupq_n_f32(-INFINITY);
    for (uint32_t b = 0; b < n; b += HT_SAMPLE_BLOCK) {
        uint32_t end = n - b < HT_SAMPLE_BLOCK ? n : b + HT_SAMPLE_BLOCK, i = b;
        float32x4_t top = none;
        for (; i + 4 <= end; i += 4) {
            float32x4_t v = vld1q_f32(x + i);
            top = vmaxq_f32(top, vbslq_f32(vcltq_f32(vabsq_f32(v), infinity), v, none));
        }
        float best = vmaxvq_f32(top);
        for (; i < end; i++)
            if (fabsf(x[i]) < INFINITY && x[i] > best)
                best = x[i];
        *out++ = best;
    }
}

void ht_rows_neon(struct ht_kernels *kernels)
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
