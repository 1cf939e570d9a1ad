// SPDX-License-Identifier: Apache-2.0
// The contract of the ops that work on rows: LoRA, norm, rope, glu, soft-cap, softmax. Any thread.
#include "engine/cpu/contract.h"

#include "engine/cpu/math.h"

static float fold16(float p[16]) // 8, 4, 2, 1 apart
{
    for (int step = 8; step; step /= 2)
        for (int i = 0; i < step; i++)
            p[i] += p[i + step];
    return p[0];
}

float ht_contract_lora_down(const float *a, const float *x, uint32_t k)
{
    float p[16] = {0};
    for (uint32_t i = 0; i < k; i++)
        p[i % 16] = fmaf(a[i], x[i], p[i % 16]);
    return fold16(p);
}

void ht_contract_lora_up(const float *b, uint32_t rank, const float *u, uint32_t n, float *y)
{
    for (uint32_t i = 0; i < n; i++) {
        float t = 0;
        for (uint32_t j = 0; j < rank; j++)
            t = fmaf(b[(size_t)j * HT_GROUP + i], u[j], t);
        y[i] += t;
    }
}

void ht_contract_rmsnorm(const float *x, const float *w, uint32_t dim, float eps, bool add, float *y)
{
    float p[16] = {0};
    for (uint32_t i = 0; i < dim; i++)
        p[i % 16] = fmaf(x[i], x[i], p[i % 16]);
    float scale = 1.0f / sqrtf(fold16(p) / (float)dim + eps);
    for (uint32_t i = 0; i < dim; i++) {
        float value = x[i] * scale * w[i];
        y[i] = add ? y[i] + value : value;
    }
}

void ht_contract_rope(float *x, const float *cosine, const float *sine, uint32_t n_rot,
                      enum ht_rope_kind kind)
{
    uint32_t pairs = n_rot / 2, step = kind == HT_ROPE_NORM ? 2 : 1, apart = kind == HT_ROPE_NORM ? 1 : pairs;
    for (uint32_t i = 0; i < pairs; i++) {
        float *a = x + i * step, *b = a + apart;
        float va = *a, vb = *b;
        *a = fmaf(va, cosine[i], -(vb * sine[i]));
        *b = fmaf(va, sine[i], vb * cosine[i]);
    }
}

void ht_contract_glu(enum ht_act act, const float *gate, const float *up, float *y, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        y[i] = (act == HT_ACT_SILU ? ht_silu(gate[i]) : ht_gelu_tanh(gate[i])) * up[i];
}

void ht_contract_softcap(float *x, uint32_t n, float cap)
{
    for (uint32_t i = 0; i < n; i++)
        x[i] = cap * ht_tanh(x[i] / cap);
}

float ht_contract_softmax(float *s, uint32_t from, uint32_t to, float scale, float softcap, float slope,
                          uint32_t p)
{
    float top = -INFINITY, sum[16] = {0};
    for (uint32_t j = from; j < to; j++) {
        float v = s[j] * scale;
        if (softcap > 0)
            v = softcap * ht_tanh(v / softcap);
        if (slope != 0)
            v = fmaf(slope, (float)((int32_t)j - (int32_t)p), v);
        s[j] = v;
        top = v > top ? v : top; // a NaN is passed over here and comes back in the sum
    }
    for (uint32_t j = from; j < to; j++) {
        s[j] = ht_exp(s[j] - top);
        sum[j % 16] += s[j];
    }
    return fold16(sum);
}
