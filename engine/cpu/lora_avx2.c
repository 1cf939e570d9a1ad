// SPDX-License-Identifier: Apache-2.0
// LoRA with AVX2: a sum's 16 chains are two vectors. Any thread.
#include "engine/cpu/contract.h"
#include "engine/cpu/math_avx2.h"
#include "engine/cpu/overlay_avx2.h"

#define INLINE static inline __attribute__((always_inline))

// The last values of k, fewer than 16, into their chains.
static float finish(const float *a, const float *x, uint32_t from, uint32_t k, __m256 p0, __m256 p1)
{
    float p[16];
    _mm256_storeu_ps(p, p0);
    _mm256_storeu_ps(p + 8, p1);
    for (uint32_t i = from; i < k; i++)
        p[i % 16] = fmaf(a[i], x[i], p[i % 16]);
    return fold256(_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8));
}

INLINE void down_tile(const float *a, uint32_t k, const float *x, float *u, const unsigned J)
{
    __m256 acc[4][2];
    for (unsigned j = 0; j < J; j++)
        acc[j][0] = acc[j][1] = _mm256_setzero_ps();
    uint32_t i = 0;
    for (; i + 16 <= k; i += 16) {
        __m256 x0 = _mm256_loadu_ps(x + i), x1 = _mm256_loadu_ps(x + i + 8);
        for (unsigned j = 0; j < J; j++) {
            const float *aj = a + (size_t)j * k + i;
            acc[j][0] = _mm256_fmadd_ps(_mm256_loadu_ps(aj), x0, acc[j][0]);
            acc[j][1] = _mm256_fmadd_ps(_mm256_loadu_ps(aj + 8), x1, acc[j][1]);
        }
    }
    for (unsigned j = 0; j < J; j++)
        u[j] = i < k ? finish(a + (size_t)j * k, x, i, k, acc[j][0], acc[j][1]) : fold256(acc[j][0], acc[j][1]);
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
        __m256 t0 = _mm256_setzero_ps(), t1 = t0;
        if (n < HT_GROUP) {
            ht_contract_lora_up(b, rank, u, n, y);
            continue;
        }
        for (uint32_t j = 0; j < rank; j++) {
            __m256 uj = _mm256_set1_ps(u[j]);
            t0 = _mm256_fmadd_ps(_mm256_loadu_ps(b + (size_t)j * HT_GROUP), uj, t0);
            t1 = _mm256_fmadd_ps(_mm256_loadu_ps(b + (size_t)j * HT_GROUP + 8), uj, t1);
        }
        _mm256_storeu_ps(y, _mm256_add_ps(_mm256_loadu_ps(y), t0));
        _mm256_storeu_ps(y + 8, _mm256_add_ps(_mm256_loadu_ps(y + 8), t1));
    }
}

static void lora_up(const float *b, uint32_t rank, const float *u, size_t u_stride, uint32_t n_rows, uint32_t n,
                    float *y, size_t y_stride)
{
    for (uint32_t i = 0; i < n; i += HT_GROUP, b += (size_t)rank * HT_GROUP)
        up_group(b, rank, u, u_stride, n_rows, n - i < HT_GROUP ? n - i : HT_GROUP, y + i, y_stride);
}

void ht_lora_avx2(struct ht_kernels *kernels)
{
    kernels->lora_down = lora_down;
    kernels->lora_up = lora_up;
}
