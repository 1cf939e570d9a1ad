// SPDX-License-Identifier: Apache-2.0
// The kernel table in plain C: the contract's functions, and attention read value by value. Any thread.
#include <math.h>

#include "engine/base/half.h"
#include "engine/base/limits.h"
#include "engine/cpu/contract.h"
#include "engine/cpu/kv.h"

static void dot_f(const float *w, uint32_t k, const float *const *x, unsigned n_cols, float *out)
{
    for (unsigned c = 0; c < n_cols; c++)
        for (unsigned r = 0; r < HT_GROUP; r++) {
            float acc = 0;
            for (uint32_t i = 0; i < k; i++)
                acc = fmaf(w[(size_t)i * HT_GROUP + r], x[c][i], acc);
            out[c * HT_GROUP + r] = acc;
        }
}

static void widen_f16(const uint16_t *x, size_t n, float *y)
{
    for (size_t i = 0; i < n; i++)
        y[i] = ht_f16_f32(x[i]);
}

static void widen_bf16(const uint16_t *x, size_t n, float *y)
{
    for (size_t i = 0; i < n; i++)
        y[i] = ht_bf16_f32(x[i]);
}

static void narrow_f16(const float *x, size_t n, uint16_t *y)
{
    for (size_t i = 0; i < n; i++)
        y[i] = ht_f32_f16(x[i]);
}

static void scores(const struct ht_kv_geometry *g, const unsigned char *k_page, const float *q, unsigned n_q,
                   float *out, size_t stride)
{
    for (unsigned i = 0; i < n_q; i++)
        for (unsigned j = 0; j < HT_KV_PAGE; j++) {
            float acc = 0;
            for (uint32_t d = 0; d < g->k_dim; d++)
                acc = fmaf(q[(size_t)d * n_q + i], ht_kv_get_k(g, k_page, j, d), acc);
            out[i * stride + j] = acc;
        }
}

static void values(const struct ht_kv_geometry *g, const unsigned char *v_page, const float *e, size_t stride,
                   unsigned n_q, unsigned from, unsigned to, float *const *acc)
{
    for (unsigned i = 0; i < n_q; i++)
        for (unsigned j = from; j < to; j++)
            for (uint32_t d = 0; d < g->v_dim; d++)
                acc[i][d] = fmaf(e[i * stride + j], ht_kv_get_v(g, v_page - g->v_at, j, d), acc[i][d]);
}

static void lora_down(const float *a, uint32_t n, uint32_t k, const float *x, size_t x_stride, uint32_t n_rows,
                      float *u, size_t u_stride)
{
    for (uint32_t r = 0; r < n_rows; r++)
        for (uint32_t j = 0; j < n; j++)
            u[r * u_stride + j] = ht_contract_lora_down(a + (size_t)j * k, x + r * x_stride, k);
}

static void lora_up(const float *b, uint32_t rank, const float *u, size_t u_stride, uint32_t n_rows, uint32_t n,
                    float *y, size_t y_stride)
{
    for (uint32_t i = 0; i < n; i += HT_GROUP, b += (size_t)rank * HT_GROUP)
        for (uint32_t r = 0; r < n_rows; r++)
            ht_contract_lora_up(b, rank, u + r * u_stride, n - i < HT_GROUP ? n - i : HT_GROUP, y + r * y_stride + i);
}

static void put(const float *value, const float *bias, bool add, uint32_t n, float *y)
{
    for (uint32_t i = 0; i < n; i++) {
        float t = bias ? value[i] + bias[i] : value[i];
        y[i] = add ? y[i] + t : t;
    }
}

static void block_max(const float *x, uint32_t n, float *out)
{
    for (uint32_t b = 0; b < n; b += HT_SAMPLE_BLOCK) {
        float top = -INFINITY;
        for (uint32_t i = b; i < n && i < b + HT_SAMPLE_BLOCK; i++)
            if (isfinite(x[i]) && x[i] > top)
                top = x[i];
        *out++ = top;
    }
}

void ht_kernels_ref(struct ht_kernels *kernels)
{
    *kernels = (struct ht_kernels){
        .quantise = ht_contract_quantise,
        .dot_f = dot_f,
        .put = put,
        .lora_down = lora_down,
        .lora_up = lora_up,
        .widen_f16 = widen_f16,
        .widen_bf16 = widen_bf16,
        .narrow_f16 = narrow_f16,
        .rmsnorm = ht_contract_rmsnorm,
        .rope = ht_contract_rope,
        .glu = ht_contract_glu,
        .softcap = ht_contract_softcap,
        .scores = scores,
        .softmax = ht_contract_softmax,
        .values = values,
        .block_max = block_max,
    };
}
