// SPDX-License-Identifier: Apache-2.0
// Inner loops of training in plain C: products and attention. Any thread.
#include "engine/cpu/train_kernels.h"

#include <math.h>

#include "engine/cpu/math.h"
#include "engine/cpu/train.h"

// One row of c; the inner loop runs along b, so that a compiler may take several chains at a time.
static void tile_row(const struct ht_tile *t, uint32_t r, uint32_t from, uint32_t n)
{
    enum { AT_ONCE = 64 };
    float acc[AT_ONCE], *c = t->c + r * t->c_row + from;
    struct ht_span seen = t->seen ? t->seen[r] : (struct ht_span){0, t->count};
    for (uint32_t j = 0; j < n; j++)
        acc[j] = t->end == HT_TILE_CHAIN ? c[j] : 0.0f;
    for (uint32_t i = seen.from; i < seen.to; i++) {
        float a = t->a[r * t->a_row + i * t->a_step];
        const float *b = t->b + i * t->b_step + from;
        for (uint32_t j = 0; j < n; j++)
            acc[j] = fmaf(a, b[j], acc[j]);
    }
    for (uint32_t j = 0; j < n; j++)
        c[j] = t->end == HT_TILE_SCALED       ? t->scale * acc[j]
               : t->end == HT_TILE_SCALED_ADD ? fmaf(t->scale, acc[j], c[j])
                                              : acc[j];
}

static void tile(const struct ht_tile *t)
{
    for (uint32_t r = 0; r < t->m; r++)
        for (uint32_t from = 0; from < t->n; from += 64)
            tile_row(t, r, from, t->n - from < 64 ? t->n - from : 64);
}

static void transpose(const float *x, size_t x_row, uint32_t rows, uint32_t columns, float *y, size_t y_row)
{
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t c = 0; c < columns; c++)
            y[c * y_row + r] = x[r * x_row + c];
}

static float capped(float dot, const struct ht_score *score)
{
    float s = dot * score->scale;
    return score->softcap > 0 ? score->softcap * ht_tanh(s / score->softcap) : s;
}

static float leaning(float s, const struct ht_score *score, int32_t distance)
{
    return score->slope != 0 ? fmaf(score->slope, (float)distance, s) : s;
}

static float softmax(float *s, uint32_t from, uint32_t to, const struct ht_score *score, float *top)
{
    float most = -INFINITY, sum[16] = {0};
    for (uint32_t j = from; j < to; j++) {
        s[j] = leaning(capped(s[j], score), score, (int32_t)j - (int32_t)to + 1);
        most = s[j] > most ? s[j] : most;
    }
    for (uint32_t j = from; j < to; j++) {
        s[j] = ht_exp(s[j] - most);
        sum[j % 16] += s[j];
    }
    *top = most;
    return ht_fold16f(sum);
}

static void pairs(float *s, float *dp, uint32_t n, const struct ht_score *score, int32_t distance, float lse,
                  float delta)
{
    for (uint32_t j = 0; j < n; j++) {
        float value = capped(s[j], score), t = score->softcap > 0 ? value / score->softcap : 0.0f;
        float p = ht_exp(leaning(value, score, distance + (int32_t)j) - lse), ds = p * (dp[j] - delta);
        if (score->softcap > 0)
            ds = ds * fmaf(-t, t, 1.0f);
        s[j] = p;
        dp[j] = ds * score->scale;
    }
}

static float dot(const float *a, const float *b, uint32_t n)
{
    float sum[16] = {0};
    for (uint32_t i = 0; i < n; i++)
        sum[i % 16] = fmaf(a[i], b[i], sum[i % 16]);
    return ht_fold16f(sum);
}

static void put_scaled(const float *t, uint32_t n, float scale, bool add, float *y)
{
    for (uint32_t i = 0; i < n; i++)
        y[i] = add ? fmaf(scale, t[i], y[i]) : scale * t[i];
}

const struct ht_train_kernels ht_train_plain = HT_OWN_TRAIN_KERNELS(HT_PANEL);

const struct ht_train_kernels *ht_train_kernels(enum ht_isa isa)
{
#if defined(__x86_64__)
    if (isa == HT_ISA_AVX2)
        return &ht_train_avx2;
    if (isa == HT_ISA_AVX512VNNI || isa == HT_ISA_AMX)
        return &ht_train_avx512vnni;
#elif defined(__aarch64__)
    if (isa >= HT_ISA_NEON)
        return &ht_train_neon;
#endif
    (void)isa;
    return &ht_train_plain;
}
