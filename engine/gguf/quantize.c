// SPDX-License-Identifier: Apache-2.0
// Rows into blocks of 32 and plain halves; types by name. Pure functions, any thread.
#include "engine/gguf/quantize.h"

#include <float.h>
#include <math.h>
#include <string.h>
#include <strings.h>

#include "engine/base/half.h"

static const float MOST = 1e12f; // squares of more would overflow their sums; f16 scales reach 127 * 65504

// ---------------------------------------------------------------- codes into bytes

// Nibbles of 32 codes: the low four bits of codes i and i + 16 share a byte. Bit 4 of code i goes to bit i of qh.
static void put_codes(const int8_t codes[32], int offset, uint8_t qs[16], uint8_t qh[4])
{
    for (int i = 0; i < 16; i++) {
        unsigned low = (unsigned)(codes[i] + offset), high = (unsigned)(codes[i + 16] + offset);
        qs[i] = (uint8_t)((low & 15) | (high & 15) << 4);
        if (qh) {
            qh[i / 8] |= (uint8_t)((low >> 4 & 1) << i % 8);
            qh[2 + i / 8] |= (uint8_t)((high >> 4 & 1) << i % 8);
        }
    }
}

static void quantize_q4_0(const float *x, void *block)
{
    struct ht_block_q4_0 b = {0};
    int8_t codes[32];
    float d;
    ht_fit_scale(x, 32, -8, 7, true, &d);
    ht_code_scale(x, 32, -8, 7, d, codes);
    b.d = ht_f32_f16(d);
    put_codes(codes, 8, b.qs, NULL);
    memcpy(block, &b, sizeof b);
}

static void quantize_q5_0(const float *x, void *block)
{
    struct ht_block_q5_0 b = {0};
    int8_t codes[32];
    float d;
    ht_fit_scale(x, 32, -16, 15, true, &d);
    ht_code_scale(x, 32, -16, 15, d, codes);
    b.d = ht_f32_f16(d);
    put_codes(codes, 16, b.qs, b.qh);
    memcpy(block, &b, sizeof b);
}

static void quantize_q4_1(const float *x, void *block)
{
    struct ht_block_q4_1 b = {0};
    int8_t codes[32];
    float d, m;
    ht_fit_affine(x, 32, 15, true, &d, &m);
    ht_code_affine(x, 32, 15, d, m, codes);
    b.d = ht_f32_f16(d);
    b.m = ht_f32_f16(m);
    put_codes(codes, 0, b.qs, NULL);
    memcpy(block, &b, sizeof b);
}

static void quantize_q5_1(const float *x, void *block)
{
    struct ht_block_q5_1 b = {0};
    int8_t codes[32];
    float d, m;
    ht_fit_affine(x, 32, 31, true, &d, &m);
    ht_code_affine(x, 32, 31, d, m, codes);
    b.d = ht_f32_f16(d);
    b.m = ht_f32_f16(m);
    put_codes(codes, 0, b.qs, b.qh);
    memcpy(block, &b, sizeof b);
}

static void quantize_q8_0(const float *x, void *block)
{
    struct ht_block_q8_0 b = {0};
    float top = 0;
    for (int i = 0; i < 32; i++)
        top = fabsf(x[i]) > top ? fabsf(x[i]) : top;
    float d = ht_fit_whole(x, 32, 127, top);
    ht_code_scale(x, 32, -127, 127, d, b.qs);
    b.d = ht_f32_f16(d);
    memcpy(block, &b, sizeof b);
}

// ---------------------------------------------------------------- iq4_nl: one scale, uneven codes

static const float levels[16] = {HT_IQ4_NL_VALUES};

static unsigned nearest_level(float t)
{
    unsigned code = 0;
    for (unsigned step = 8; step; step /= 2) // the border between two levels lies in their middle
        code += t > (levels[code + step - 1] + levels[code + step]) / 2 ? step : 0;
    return code;
}

// The error of scale d; codes, or the least-squares scale for them.
static float try_levels(const float *x, float d, uint8_t *codes, float *better)
{
    float error = 0, xv = 0, vv = 0, inverse = fabsf(d) < 1e-30f ? 0 : 1 / d;
    for (int i = 0; i < 32; i++) {
        unsigned code = nearest_level(x[i] * inverse);
        float v = levels[code], r = x[i] - d * v;
        error += r * r;
        xv += x[i] * v;
        vv += v * v;
        if (codes)
            codes[i] = (uint8_t)code;
    }
    *better = vv > 0 ? xv / vv : 0;
    return error;
}

static void quantize_iq4_nl(const float *x, void *block)
{
    struct ht_block_iq4_nl b = {0};
    float top = 0, best = INFINITY, best_d = 0, better;
    uint8_t codes[32];
    for (int i = 0; i < 32; i++)
        top = fabsf(x[i]) > fabsf(top) ? x[i] : top;
    // the farthest value as each level, and the two ends of the codes a little nearer and farther
    for (int c = 0; c < 16 + 2 * 12 && top != 0; c++) {
        float level = c < 16 ? levels[c] : (c % 2 ? -127.0f : 113.0f) * (0.86f + 0.025f * (float)((c - 16) / 2));
        float d = top / level;
        for (int pass = 0; pass < 2; pass++, d = better) {
            d = ht_round_half(d);
            float error = try_levels(x, d, NULL, &better);
            if (error < best) {
                best = error;
                best_d = d;
            }
        }
    }
    try_levels(x, best_d, codes, &better);
    b.d = ht_f32_f16(best_d);
    for (int i = 0; i < 16; i++)
        b.qs[i] = (uint8_t)(codes[i] | codes[i + 16] << 4);
    memcpy(block, &b, sizeof b);
}

// ---------------------------------------------------------------- one value a block

static void quantize_f32(const float *x, void *block)
{
    memcpy(block, x, 4);
}

static void quantize_f16(const float *x, void *block)
{
    float within = *x < -65504.0f ? -65504.0f : *x > 65504.0f ? 65504.0f : *x;
    uint16_t bits = ht_f32_f16(within);
    memcpy(block, &bits, 2);
}

static void quantize_bf16(const float *x, void *block)
{
    uint16_t bits = ht_f32_bf16(*x);
    memcpy(block, &bits, 2);
}

// ---------------------------------------------------------------- rows

typedef void quantize_fn(const float *x, void *block);

static quantize_fn *const quantize[HT_N_TYPES] = {
    [HT_TYPE_F32] = quantize_f32,   [HT_TYPE_F16] = quantize_f16,   [HT_TYPE_BF16] = quantize_bf16,
    [HT_TYPE_Q4_0] = quantize_q4_0, [HT_TYPE_Q4_1] = quantize_q4_1, [HT_TYPE_Q5_0] = quantize_q5_0,
    [HT_TYPE_Q5_1] = quantize_q5_1, [HT_TYPE_Q8_0] = quantize_q8_0, [HT_TYPE_IQ4_NL] = quantize_iq4_nl,
};

bool ht_quantize_row(enum ht_type type, const float *x, size_t n_values, void *blocks)
{
    const struct ht_type_info *info = ht_type_info(type);
    unsigned char *block = blocks;
    if (!info)
        return false;
    float most = info->block_values == 1 ? FLT_MAX : MOST;
    for (size_t i = 0; i < n_values; i++)
        if (!(fabsf(x[i]) <= most))
            return false;
    for (size_t i = 0; i + info->block_values <= n_values; i += info->block_values, block += info->block_bytes)
        if (quantize[type])
            quantize[type](x + i, block);
        else
            ht_quantize_k(type, x + i, block);
    return true;
}

bool ht_quantize_find(const char *name, enum ht_type *type)
{
    for (unsigned i = 0; i < HT_N_TYPES; i++) {
        const struct ht_type_info *info = ht_type_info((enum ht_type)i);
        if (info && !strcasecmp(info->name, name)) {
            *type = (enum ht_type)i;
            return true;
        }
    }
    return false;
}

enum ht_type ht_quantize_fits(enum ht_type type, uint64_t row_values)
{
    const struct ht_type_info *info = ht_type_info(type);
    if (!info || row_values % info->block_values == 0)
        return type;
    if (row_values % 32)
        return HT_TYPE_F16;
    switch (type) {
    case HT_TYPE_Q4_K: return HT_TYPE_Q5_0;
    case HT_TYPE_Q5_K: return HT_TYPE_Q5_1;
    case HT_TYPE_Q6_K: return HT_TYPE_Q8_0;
    default: return HT_TYPE_IQ4_NL; // q2_k, q3_k
    }
}

uint32_t ht_quantize_file_type(enum ht_type type)
{
    static const uint8_t numbers[HT_N_TYPES] = {
        [HT_TYPE_F32] = 0,   [HT_TYPE_F16] = 1,   [HT_TYPE_Q4_0] = 2,  [HT_TYPE_Q4_1] = 3,    [HT_TYPE_Q8_0] = 7,
        [HT_TYPE_Q5_0] = 8,  [HT_TYPE_Q5_1] = 9,  [HT_TYPE_Q2_K] = 10, [HT_TYPE_Q3_K] = 12,   [HT_TYPE_Q4_K] = 15,
        [HT_TYPE_Q5_K] = 17, [HT_TYPE_Q6_K] = 18, [HT_TYPE_BF16] = 32, [HT_TYPE_IQ4_NL] = 25,
    };
    return numbers[type];
}
