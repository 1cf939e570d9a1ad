// SPDX-License-Identifier: Apache-2.0
// Formats of the KV cache. A page holds, for each layer and kv head, 32 positions: k first, then v (64-byte
// aligned).
//   k: [k_dim][32 positions], so that vector lanes are positions; v: [32 positions][v_dim], so that lanes are
//   values.
//   f32, f16: numbers as they are (f16: rounded half-even).
//   q8: int8 codes in that order, then half floats d: k [ceil(k_dim / 32)][32], v [32][ceil(v_dim / 32)]: one
//       d for 32 values of a position. amax = max|x|, d = amax / 127 as f16 (at most 65504), q = rint(x / d)
//       half-even within [-127, 127], q = 0 where d is 0; a NaN or infinity makes d NaN. Value = (float)q *
//       d, rounded to f32. So |value - x| <= d / 2 + |x| 2^-23 for amax up to 8.3e6, with the d that is stored.
// Any thread.
#include "engine/cpu/kv.h"

#include <math.h>
#include <string.h>

#include "engine/base/half.h"
#include "engine/base/limits.h"

enum { PAGE = HT_KV_PAGE, ALIGN = 64 };

static size_t aligned(size_t bytes)
{
    return (bytes + ALIGN - 1) & ~(size_t)(ALIGN - 1);
}

static size_t part_bytes(enum ht_kv_type type, uint32_t dim)
{
    size_t values = (size_t)dim * PAGE;
    if (type == HT_KV_Q8)
        return aligned(values + (dim + 31) / 32 * PAGE * 2);
    return aligned(values * (type == HT_KV_F32 ? 4 : 2));
}

void ht_kv_geometry(const struct ht_kv_params *params, struct ht_kv_geometry *out)
{
    out->type = params->type;
    out->k_dim = params->k_dim;
    out->v_dim = params->v_dim;
    out->v_at = part_bytes(params->type, params->k_dim);
    out->head_bytes = out->v_at + part_bytes(params->type, params->v_dim);
}

// n <= 32 values at `x` -> codes `code_step` apart and their d
static void q8_put(const float *x, uint32_t n, int8_t *code, size_t code_step, uint16_t *d)
{
    float amax = 0;
    bool finite = true;
    for (uint32_t i = 0; i < n; i++) {
        finite = finite && fabsf(x[i]) < INFINITY;
        amax = fabsf(x[i]) > amax ? fabsf(x[i]) : amax;
    }
    float wanted = amax / 127.0f;
    *d = ht_f32_f16(finite ? wanted > 65504.0f ? 65504.0f : wanted : NAN);
    float step = ht_f16_f32(*d);
    for (uint32_t i = 0; i < n; i++) {
        float q = step > 0 && finite ? rintf(x[i] / step) : 0.0f;
        code[i * code_step] = (int8_t)(q > 127.0f ? 127.0f : q < -127.0f ? -127.0f : q);
    }
}

void ht_kv_put(const struct ht_kv_geometry *g, const struct ht_kernels *kernels, unsigned char *head,
               unsigned j, const float *k, const float *v)
{
    uint16_t half[HT_MAX_HEAD_DIM];
    unsigned char *vp = head + g->v_at;
    uint32_t v_blocks = (g->v_dim + 31) / 32;
    switch (g->type) {
    case HT_KV_F32:
        for (uint32_t d = 0; d < g->k_dim; d++)
            ((float *)head)[d * PAGE + j] = k[d];
        memcpy((float *)vp + (size_t)j * g->v_dim, v, g->v_dim * sizeof *v);
        break;
    case HT_KV_F16:
        kernels->narrow_f16(k, g->k_dim, half);
        for (uint32_t d = 0; d < g->k_dim; d++)
            ((uint16_t *)head)[d * PAGE + j] = half[d];
        kernels->narrow_f16(v, g->v_dim, (uint16_t *)vp + (size_t)j * g->v_dim);
        break;
    case HT_KV_Q8:
        for (uint32_t d = 0; d < g->k_dim; d += 32)
            q8_put(k + d, g->k_dim - d < 32 ? g->k_dim - d : 32, (int8_t *)head + d * PAGE + j, PAGE,
                   (uint16_t *)(head + (size_t)g->k_dim * PAGE) + d / 32 * PAGE + j);
        for (uint32_t d = 0; d < g->v_dim; d += 32)
            q8_put(v + d, g->v_dim - d < 32 ? g->v_dim - d : 32, (int8_t *)vp + (size_t)j * g->v_dim + d, 1,
                   (uint16_t *)(vp + (size_t)g->v_dim * PAGE) + j * v_blocks + d / 32);
        break;
    }
}

float ht_kv_get_k(const struct ht_kv_geometry *g, const unsigned char *head, unsigned j, uint32_t d)
{
    if (g->type == HT_KV_F32)
        return ((const float *)head)[d * PAGE + j];
    if (g->type == HT_KV_F16)
        return ht_f16_f32(((const uint16_t *)head)[d * PAGE + j]);
    const uint16_t *scale = (const uint16_t *)(head + (size_t)g->k_dim * PAGE);
    return (float)((const int8_t *)head)[d * PAGE + j] * ht_f16_f32(scale[d / 32 * PAGE + j]);
}

float ht_kv_get_v(const struct ht_kv_geometry *g, const unsigned char *head, unsigned j, uint32_t d)
{
    const unsigned char *vp = head + g->v_at;
    size_t at = (size_t)j * g->v_dim + d;
    if (g->type == HT_KV_F32)
        return ((const float *)vp)[at];
    if (g->type == HT_KV_F16)
        return ht_f16_f32(((const uint16_t *)vp)[at]);
    const uint16_t *scale = (const uint16_t *)(vp + (size_t)g->v_dim * PAGE);
    return (float)((const int8_t *)vp)[at] * ht_f16_f32(scale[j * ((g->v_dim + 31) / 32) + d / 32]);
}
