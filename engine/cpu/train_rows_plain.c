// SPDX-License-Identifier: Apache-2.0
// Training's ops on rows and flat vectors in plain C. Any thread.
#include <math.h>
#include <string.h>

#include "engine/base/rng.h"
#include "engine/cpu/math.h"
#include "engine/cpu/train.h"
#include "engine/cpu/train_row_kernels.h"

double ht_log(double x)
{
    if (!(x > 0) || isinf(x))
        return x > 0 ? x : NAN;
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    int e = (int)(bits >> 52) - 1022;
    bits = (bits & 0xFFFFFFFFFFFFF) | 1022ull << 52;
    double m;
    memcpy(&m, &bits, sizeof m); // [0.5, 1)
    if (m < 0x1.6a09e667f3bcdp-1) {
        m *= 2;
        e--;
    }
    double s = (m - 1) / (m + 1), z = s * s, sum = 0; // z <= 0.02944: the term after the last is below 1e-17
    for (int i = 21; i >= 3; i -= 2)
        sum = (sum + 1.0 / i) * z;
    return (double)e * 0x1.62e42fefa39efp-1 + 2 * (s + s * sum);
}

// ---- norms

static void rmsnorm_back(const float *x, const float *w, const float *dy, uint32_t dim, float eps, bool add,
                         float *dx)
{
    float squares[16] = {0}, products[16] = {0};
    for (uint32_t i = 0; i < dim; i++) {
        squares[i % 16] = fmaf(x[i], x[i], squares[i % 16]);
        products[i % 16] = fmaf(w[i] * dy[i], x[i], products[i % 16]);
    }
    float s = 1.0f / sqrtf(ht_fold16f(squares) / (float)dim + eps);
    float c = ht_fold16f(products) * s * s / (float)dim;
    for (uint32_t i = 0; i < dim; i++) {
        float t = s * fmaf(-c, x[i], w[i] * dy[i]);
        dx[i] = add ? dx[i] + t : t;
    }
}

struct spread { // of a row: its mean, and 1 / sqrtf(variance + eps)
    float mean, s;
};

static struct spread spread_of(const float *x, uint32_t dim, float eps)
{
    float sum[16] = {0}, squares[16] = {0};
    for (uint32_t i = 0; i < dim; i++)
        sum[i % 16] += x[i];
    float mean = ht_fold16f(sum) / (float)dim;
    for (uint32_t i = 0; i < dim; i++)
        squares[i % 16] = fmaf(x[i] - mean, x[i] - mean, squares[i % 16]);
    return (struct spread){mean, 1.0f / sqrtf(ht_fold16f(squares) / (float)dim + eps)};
}

static void layernorm(const float *x, const float *w, const float *b, uint32_t dim, float eps, float *y)
{
    struct spread of = spread_of(x, dim, eps);
    for (uint32_t i = 0; i < dim; i++) {
        float h = (x[i] - of.mean) * of.s;
        y[i] = b ? fmaf(h, w[i], b[i]) : h * w[i];
    }
}

static void layernorm_back(const float *x, const float *w, const float *dy, uint32_t dim, float eps, bool add,
                           float *dx)
{
    struct spread of = spread_of(x, dim, eps);
    float sum[16] = {0}, products[16] = {0};
    for (uint32_t i = 0; i < dim; i++) {
        float u = w[i] * dy[i];
        sum[i % 16] += u;
        products[i % 16] = fmaf(u, (x[i] - of.mean) * of.s, products[i % 16]);
    }
    float mean = ht_fold16f(sum) / (float)dim, c = ht_fold16f(products) / (float)dim;
    for (uint32_t i = 0; i < dim; i++) {
        float t = of.s * fmaf(-c, (x[i] - of.mean) * of.s, w[i] * dy[i] - mean);
        dx[i] = add ? dx[i] + t : t;
    }
}

// ---- activations

static void glu_back(enum ht_act act, const float *gate, const float *up, const float *dy, uint32_t n,
                     float *dgate, float *dup)
{
    for (uint32_t i = 0; i < n; i++) {
        float g = gate[i], u = up[i], d = dy[i], value, slope;
        if (act == HT_ACT_SILU) {
            float q = 1.0f / (1.0f + ht_exp(-g));
            value = g * q;
            slope = q * fmaf(g, 1.0f - q, 1.0f);
        } else {
            float t = ht_tanh(HT_GELU_SCALE * fmaf(HT_GELU_CUBE, g * (g * g), g)), half = 0.5f * g;
            float inner = HT_GELU_SCALE * fmaf(3.0f * HT_GELU_CUBE, g * g, 1.0f);
            value = half * (1.0f + t);
            slope = fmaf(half * (1.0f - t * t), inner, 0.5f * (1.0f + t));
        }
        dup[i] = d * value;
        dgate[i] = (d * u) * slope;
    }
}

static void softcap_back(const float *y, const float *dy, uint32_t n, float cap, float *dx)
{
    for (uint32_t i = 0; i < n; i++) {
        float t = y[i] / cap;
        dx[i] = dy[i] * fmaf(-t, t, 1.0f);
    }
}

static void add_row(const float *x, uint32_t n, float *y)
{
    for (uint32_t i = 0; i < n; i++)
        y[i] = y[i] + x[i];
}

// ---- the loss

static float cross_entropy(float *x, uint32_t n, float cap, uint32_t target, float weight)
{
    float top = -INFINITY, sum[16] = {0};
    for (uint32_t j = 0; j < n; j++) {
        if (cap > 0)
            x[j] = cap * ht_tanh(x[j] / cap);
        top = x[j] > top ? x[j] : top; // a NaN is passed over here and comes back in the sum
    }
    for (uint32_t j = 0; j < n; j++)
        sum[j % 16] += ht_exp(x[j] - top);
    float l = ht_fold16f(sum), inverse = 1.0f / l, loss = (float)ht_log((double)l) + (top - x[target]);
    for (uint32_t j = 0; j < n; j++) {
        float z = x[j], d = (ht_exp(z - top) * inverse - (j == target ? 1.0f : 0.0f)) * weight, t = z / cap;
        x[j] = cap > 0 ? d * fmaf(-t, t, 1.0f) : d;
    }
    return loss;
}

// ---- flat vectors

static double square_sum(const float *x, uint32_t n)
{
    double p[16] = {0};
    for (uint32_t i = 0; i < n; i++)
        p[i % 16] += (double)x[i] * (double)x[i];
    for (int step = 8; step; step /= 2)
        for (int i = 0; i < step; i++)
            p[i] += p[i + step];
    return p[0];
}

static void scale(float *x, uint32_t n, float f)
{
    for (uint32_t i = 0; i < n; i++)
        x[i] *= f;
}

static void adamw(const struct ht_adamw_step *s, const float *g, uint32_t n, float *p, float *m, float *v)
{
    for (uint32_t i = 0; i < n; i++) {
        m[i] = fmaf(s->beta1, m[i], (1.0f - s->beta1) * g[i]);
        v[i] = fmaf(s->beta2, v[i], (1.0f - s->beta2) * g[i] * g[i]);
        p[i] = fmaf(s->step, m[i] / (sqrtf(v[i]) / s->correction2 + s->eps), p[i] * s->keep);
    }
}

// A code of t = (its share of the scale) * most²; `up`: the chance in [0, 1).
static float code_of(float t, float most, float up)
{
    float a = sqrtf(t);
    a = a > 0 ? a : 0; // a NaN is 0
    a = floorf(a < most ? a : most);
    return up * (2.0f * a + 1.0f) < t - a * a && a < most ? a + 1.0f : a;
}

static void adamw8(const struct ht_adamw_step *s, const struct ht_draw *draw, uint32_t first, const float *g,
                   uint32_t n, float *p, int8_t *m, uint8_t *v, float scales[2])
{
    float m_unit = scales[0] * (1.0f / 16129), v_unit = scales[1] * (1.0f / 65025), m_top = 0, v_top = 0;
    float moment[HT_MOMENT_BLOCK], root[HT_MOMENT_BLOCK];
    for (uint32_t i = 0; i < n; i++) {
        float c = m[i], k = v[i], r = v_unit * (k * k);
        float square = fmaf(s->beta2, r * r, (1.0f - s->beta2) * g[i] * g[i]);
        moment[i] = fmaf(s->beta1, m_unit * (c * fabsf(c)), (1.0f - s->beta1) * g[i]);
        root[i] = sqrtf(square);
        p[i] = fmaf(s->step, moment[i] / (root[i] / s->correction2 + s->eps), p[i] * s->keep);
        m_top = fabsf(moment[i]) > m_top ? fabsf(moment[i]) : m_top;
        v_top = root[i] > v_top ? root[i] : v_top;
    }
    scales[0] = m_top >= HT_MOMENT_MIN ? m_top : 0.0f;
    scales[1] = v_top >= HT_MOMENT_MIN ? v_top : 0.0f;
    float m_inverse = scales[0] > 0 ? 1.0f / scales[0] : 0.0f,
          v_inverse = scales[1] > 0 ? 1.0f / scales[1] : 0.0f;
    struct ht_philox words = {{0}};
    for (uint32_t i = 0; i < n; i++) {
        if (i % 4 == 0)
            words = ht_philox(draw->seed, (uint64_t)draw->row << 32 | (first + i) / 4, draw->stream);
        uint32_t word = words.v[i % 4];
        float c = code_of(fabsf(moment[i]) * m_inverse * 16129.0f, 127, (float)(word >> 16) * 0x1p-16f);
        float k = code_of(root[i] * v_inverse * 65025.0f, 255, (float)(word & 0xFFFF) * 0x1p-16f);
        m[i] = (int8_t)(moment[i] < 0 ? -c : c);
        v[i] = (uint8_t)(k < 1 && root[i] * v_inverse > 0 ? 1 : k);
    }
}

// ---- draws

static void dropout(const struct ht_draw *draw, const float *x, uint32_t n, uint32_t limit, float scale,
                    bool add, float *y)
{
    struct ht_philox words = {{0}};
    for (uint32_t i = 0; i < n; i++) {
        if (i % 4 == 0)
            words = ht_philox(draw->seed, (uint64_t)draw->row << 32 | i / 4, draw->stream);
        float t = words.v[i % 4] >= limit ? x[i] * scale : 0.0f;
        y[i] = add ? y[i] + t : t;
    }
}

static void noise(const struct ht_draw *draw, float *x, uint32_t n, float size)
{
    struct ht_philox words = {{0}};
    for (uint32_t i = 0; i < n; i++) {
        if (i % 4 == 0)
            words = ht_philox(draw->seed, (uint64_t)draw->row << 32 | i / 4, draw->stream);
        x[i] = fmaf(2.0f * ht_unit_f32(words.v[i % 4]) - 1.0f, size, x[i]);
    }
}

const struct ht_row_kernels ht_train_rows_plain = HT_OWN_ROW_KERNELS;

const struct ht_row_kernels *ht_train_rows(enum ht_isa isa)
{
#if defined(__x86_64__)
    if (isa == HT_ISA_AVX2)
        return &ht_train_rows_avx2;
    if (isa == HT_ISA_AVX512VNNI || isa == HT_ISA_AMX)
        return &ht_train_rows_avx512vnni;
#elif defined(__aarch64__)
    if (isa >= HT_ISA_NEON)
        return &ht_train_rows_neon;
#endif
    (void)isa;
    return &ht_train_rows_plain;
}
