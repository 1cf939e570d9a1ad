// SPDX-License-Identifier: Apache-2.0
// LoRA with AVX-512: tiles of ranks and rows whose chains run side by side. Any thread.
#include "engine/cpu/math_avx512.h"
#include "engine/cpu/overlay_avx512vnni.h"

#define INLINE static inline __attribute__((always_inline))

// J rows of A times R rows of x. Lanes without a value keep their sum.
INLINE void down_tile(const float *a, uint32_t k, const float *x, size_t x_stride, float *u, size_t u_stride,
                      const unsigned J, const unsigned R)
{
    __m512 acc[8 * 4];
    for (unsigned i = 0; i < J * R; i++)
        acc[i] = _mm512_setzero_ps();
    uint32_t i = 0;
    for (; i + 16 <= k; i += 16) {
        __m512 xi[4];
        for (unsigned r = 0; r < R; r++)
            xi[r] = _mm512_loadu_ps(x + r * x_stride + i);
        for (unsigned j = 0; j < J; j++) {
            __m512 ai = _mm512_loadu_ps(a + (size_t)j * k + i);
            for (unsigned r = 0; r < R; r++)
                acc[j * R + r] = _mm512_fmadd_ps(ai, xi[r], acc[j * R + r]);
        }
    }
    __mmask16 m = first_lanes(k - i);
    for (unsigned j = 0; j < J; j++)
        for (unsigned r = 0; r < R; r++) {
            if (m)
                acc[j * R + r] = _mm512_mask3_fmadd_ps(_mm512_maskz_loadu_ps(m, a + (size_t)j * k + i),
                                                       _mm512_maskz_loadu_ps(m, x + r * x_stride + i),
                                                       acc[j * R + r], m);
            u[r * u_stride + j] = fold512(acc[j * R + r]);
        }
}

static void lora_down(const float *a, uint32_t n, uint32_t k, const float *x, size_t x_stride, uint32_t n_rows,
                      float *u, size_t u_stride)
{
    uint32_t r = 0, j;
    for (; r + 4 <= n_rows; r += 4) {
        for (j = 0; j + 4 <= n; j += 4)
            down_tile(a + (size_t)j * k, k, x + r * x_stride, x_stride, u + r * u_stride + j, u_stride, 4, 4);
        for (; j < n; j++)
            down_tile(a + (size_t)j * k, k, x + r * x_stride, x_stride, u + r * u_stride + j, u_stride, 1, 4);
    }
    for (; r < n_rows; r++) {
        for (j = 0; j + 8 <= n; j += 8)
            down_tile(a + (size_t)j * k, k, x + r * x_stride, x_stride, u + r * u_stride + j, u_stride, 8, 1);
        for (; j + 4 <= n; j += 4)
            down_tile(a + (size_t)j * k, k, x + r * x_stride, x_stride, u + r * u_stride + j, u_stride, 4, 1);
        for (; j < n; j++)
            down_tile(a + (size_t)j * k, k, x + r * x_stride, x_stride, u + r * u_stride + j, u_stride, 1, 1);
    }
}

// G groups of outputs for R rows; m: lanes of the last group.
INLINE void up_tile(const float *b, uint32_t rank, const float *u, size_t u_stride, __mmask16 m, float *y,
                    size_t y_stride, const unsigned G, const unsigned R)
{
    __m512 acc[8];
    for (unsigned i = 0; i < G * R; i++)
        acc[i] = _mm512_setzero_ps();
    for (uint32_t j = 0; j < rank; j++) {
        __m512 bj[4];
        for (unsigned g = 0; g < G; g++)
            bj[g] = _mm512_loadu_ps(b + ((size_t)g * rank + j) * HT_GROUP);
        for (unsigned r = 0; r < R; r++)
            for (unsigned g = 0; g < G; g++)
                acc[r * G + g] = _mm512_fmadd_ps(bj[g], _mm512_set1_ps(u[r * u_stride + j]), acc[r * G + g]);
    }
    for (unsigned r = 0; r < R; r++)
        for (unsigned g = 0; g < G; g++) {
            float *to = y + r * y_stride + g * HT_GROUP;
            __mmask16 lanes = g + 1 < G ? 0xFFFF : m;
            _mm512_mask_storeu_ps(to, lanes, _mm512_add_ps(_mm512_maskz_loadu_ps(lanes, to), acc[r * G + g]));
        }
}

static void lora_up(const float *b, uint32_t rank, const float *u, size_t u_stride, uint32_t n_rows, uint32_t n,
                    float *y, size_t y_stride)
{
    uint32_t i = 0, r;
    for (; n_rows < 4 && i + 4 * HT_GROUP <= n; i += 4 * HT_GROUP, b += (size_t)4 * rank * HT_GROUP)
        for (r = 0; r < n_rows; r++)
            up_tile(b, rank, u + r * u_stride, u_stride, 0xFFFF, y + r * y_stride + i, y_stride, 4, 1);
    for (; n_rows >= 4 && i + 2 * HT_GROUP <= n; i += 2 * HT_GROUP, b += (size_t)2 * rank * HT_GROUP) {
        for (r = 0; r + 4 <= n_rows; r += 4)
            up_tile(b, rank, u + r * u_stride, u_stride, 0xFFFF, y + r * y_stride + i, y_stride, 2, 4);
        for (; r < n_rows; r++)
            up_tile(b, rank, u + r * u_stride, u_stride, 0xFFFF, y + r * y_stride + i, y_stride, 2, 1);
    }
    for (; i < n; i += HT_GROUP, b += (size_t)rank * HT_GROUP)
        for (r = 0; r < n_rows; r++)
            up_tile(b, rank, u + r * u_stride, u_stride, first_lanes(n - i), y + r * y_stride + i, y_stride, 1, 1);
}

void ht_lora_avx512vnni(struct ht_kernels *kernels)
{
    kernels->lora_down = lora_down;
    kernels->lora_up = lora_up;
}
