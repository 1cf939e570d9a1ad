// SPDX-License-Identifier: Apache-2.0
// LoRA with NEON: a sum's 16 chains are four vectors. Any thread.
#include "engine/cpu/contract.h"
#include "engine/cpu/math_neon.h"
#include "engine/cpu/overlay_neon.h"

#define INLINE static inline __attribute__((always_inline))

// The last values of k, fewer than 16, into their chains.
static float finish(const float *a, const float *x, uint32_t from, uint32_t k, const float32x4_t acc[4])
{
    float p[16];
    float32x4_t sum[4];
    for (int v = 0; v < 4; v++)
        vst1q_f32(p + 4 * v, acc[v]);
    for (uint32_t i = from; i < k; i++)
        p[i % 16] = fmaf(a[i], x[i], p[i % 16]);
    for (int v = 0; v < 4; v++)
        sum[v] = vld1q_f32(p + 4 * v);
    return fold128(sum);
}

INLINE void down_tile(const float *a, uint32_t k, const float *x, float *u, const unsigned J)
{
    float32x4_t acc[4][4];
    for (unsigned j = 0; j < J; j++)
        for (int v = 0; v < 4; v++)
            acc[j][v] = vdupq_n_f32(0);
    uint32_t i = 0;
    for (; i + 16 <= k; i += 16)
        for (int v = 0; v < 4; v++) {
            float32x4_t xi = vld1q_f32(x + i + 4 * v);
            for (unsigned j = 0; j < J; j++)
                acc[j][v] = vfmaq_f32(acc[j][v], vld1q_f32(a + (size_t)j * k + i + 4 * v), xi);
        }
    for (unsigned j = 0; j < J; j++)
        u[j] = i < k ? finish(a + (size_t)j * k, x, i, k, acc[j]) : fold128(acc[j]);
}

static void lora_down(const float *a, uint32_t n, uint32_t k, const float *x, size_t x_stride, uint32_t n_rows,
                      float *u, size_t u_stride)
{
    for (uint32_t r = 0; r < n_rows; r++, x += x_stride, u += u_stride) {
        uint32_t j = 0;
        for (; j + 4 <= n; j += 4)
            down_tile(a + (size_t)j * k, k, x, u + j, 4);
        for (; j < n; j++)
            down_tile(a + (size_t)j * k, k, x, u + j, 1);
    }
}

static void up_group(const float *b, uint32_t rank, const float *u, size_t u_stride, uint32_t n_rows, uint32_t n,
                     float *y, size_t y_stride)
{
    for (uint32_t r = 0; r < n_rows; r++, u += u_stride, y += y_stride) {
        if (n < HT_GROUP) {
            ht_contract_lora_up(b, rank, u, n, y);
            continue;
        }
        float32x4_t t[4] = {vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0)};
        for (uint32_t j = 0; j < rank; j++)
            for (int v = 0; v < 4; v++)
                t[v] = vfmaq_n_f32(t[v], vld1q_f32(b + (size_t)j * HT_GROUP + 4 * v), u[j]);
        for (int v = 0; v < 4; v++)
            vst1q_f32(y + 4 * v, vaddq_f32(vld1q_f32(y + 4 * v), t[v]));
    }
}

static void lora_up(const float *b, uint32_t rank, const float *u, size_t u_stride, uint32_t n_rows, uint32_t n,
                    float *y, size_t y_stride)
{
    for (uint32_t i = 0; i < n; i += HT_GROUP, b += (size_t)rank * HT_GROUP)
        up_group(b, rank, u, u_stride, n_rows, n - i < HT_GROUP ? n - i : HT_GROUP, y + i, y_stride);
}

void ht_lora_neon(struct ht_kernels *kernels)
{
    kernels->lora_down = lora_down;
    kernels->lora_up = lora_up;
}
