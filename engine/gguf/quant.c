// SPDX-License-Identifier: Apache-2.0
// Type table and reference dequantisation: the plain meaning of each format, one loop per formula in quant.h.
// Pure functions, any thread. Built without contraction: each float operation is rounded on its own.
#include "engine/gguf/quant.h"

#include <math.h>
#include <string.h>

#include "engine/base/half.h"

enum { KNOWN_TYPES = 42 };

// Sizes of refused types are facts of the file format; they let a file be checked and listed.
static const struct ht_type_info known[KNOWN_TYPES] = {
    [0] = {"F32", 1, 4},          [1] = {"F16", 1, 2},          [2] = {"Q4_0", 32, 18},
    [3] = {"Q4_1", 32, 20},       [4] = {"Q4_2", 32, 0},        [5] = {"Q4_3", 32, 0},
    [6] = {"Q5_0", 32, 22},       [7] = {"Q5_1", 32, 24},       [8] = {"Q8_0", 32, 34},
    [9] = {"Q8_1", 32, 36},       [10] = {"Q2_K", 256, 84},     [11] = {"Q3_K", 256, 110},
    [12] = {"Q4_K", 256, 144},    [13] = {"Q5_K", 256, 176},    [14] = {"Q6_K", 256, 210},
    [15] = {"Q8_K", 256, 292},    [16] = {"IQ2_XXS", 256, 66},  [17] = {"IQ2_XS", 256, 74},
    [18] = {"IQ3_XXS", 256, 98},  [19] = {"IQ1_S", 256, 50},    [20] = {"IQ4_NL", 32, 18},
    [21] = {"IQ3_S", 256, 110},   [22] = {"IQ2_S", 256, 82},    [23] = {"IQ4_XS", 256, 136},
    [24] = {"I8", 1, 1},          [25] = {"I16", 1, 2},         [26] = {"I32", 1, 4},
    [27] = {"I64", 1, 8},         [28] = {"F64", 1, 8},         [29] = {"IQ1_M", 256, 56},
    [30] = {"BF16", 1, 2},        [31] = {"Q4_0_4_4", 32, 0},   [32] = {"Q4_0_4_8", 32, 0},
    [33] = {"Q4_0_8_8", 32, 0},   [34] = {"TQ1_0", 256, 54},    [35] = {"TQ2_0", 256, 66},
    [36] = {"IQ4_NL_4_4", 32, 0}, [37] = {"IQ4_NL_4_8", 32, 0}, [38] = {"IQ4_NL_8_8", 32, 0},
    [39] = {"MXFP4", 32, 17},     [40] = {"NVFP4", 64, 36},     [41] = {"Q1_0", 128, 18},
};

const struct ht_type_info *ht_type_known(uint32_t number)
{
    return number < KNOWN_TYPES ? &known[number] : NULL;
}

const struct ht_type_info *ht_type_info(enum ht_type type)
{
    switch (type) {
    case HT_TYPE_F32:
    case HT_TYPE_F16:
    case HT_TYPE_Q4_0:
    case HT_TYPE_Q4_1:
    case HT_TYPE_Q5_0:
    case HT_TYPE_Q5_1:
    case HT_TYPE_Q8_0:
    case HT_TYPE_Q2_K:
    case HT_TYPE_Q3_K:
    case HT_TYPE_Q4_K:
    case HT_TYPE_Q5_K:
    case HT_TYPE_Q6_K:
    case HT_TYPE_IQ4_NL:
    case HT_TYPE_BF16: return &known[type];
    }
    return NULL;
}

bool ht_row_bytes(uint32_t number, uint64_t n_values, uint64_t *bytes)
{
    const struct ht_type_info *info = ht_type_known(number);
    *bytes = 0;
    if (!info || !info->block_bytes || n_values % info->block_values)
        return false;
    return !__builtin_mul_overflow(n_values / info->block_values, (uint64_t)info->block_bytes, bytes);
}

// Each dequant_* turns one block into its values.

static void dequant_q4_0(const void *block, float *y)
{
    struct ht_block_q4_0 b;
    memcpy(&b, block, sizeof b);
    float d = ht_f16_f32(b.d);
    for (int i = 0; i < 16; i++) {
        y[i] = d * (float)((b.qs[i] & 15) - 8);
        y[i + 16] = d * (float)((b.qs[i] >> 4) - 8);
    }
}

static void dequant_q4_1(const void *block, float *y)
{
    struct ht_block_q4_1 b;
    memcpy(&b, block, sizeof b);
    float d = ht_f16_f32(b.d), m = ht_f16_f32(b.m);
    for (int i = 0; i < 16; i++) {
        y[i] = d * (float)(b.qs[i] & 15) + m;
        y[i + 16] = d * (float)(b.qs[i] >> 4) + m;
    }
}

// Five-bit code of value i in q5_0 and q5_1.
static int code5(const uint8_t qh[4], const uint8_t qs[16], int i)
{
    int nibble = i < 16 ? qs[i] & 15 : qs[i - 16] >> 4;
    return nibble | (qh[i / 8] >> (i % 8) & 1) << 4;
}

static void dequant_q5_0(const void *block, float *y)
{
    struct ht_block_q5_0 b;
    memcpy(&b, block, sizeof b);
    float d = ht_f16_f32(b.d);
    for (int i = 0; i < 32; i++)
        y[i] = d * (float)(code5(b.qh, b.qs, i) - 16);
}

static void dequant_q5_1(const void *block, float *y)
{
    struct ht_block_q5_1 b;
    memcpy(&b, block, sizeof b);
    float d = ht_f16_f32(b.d), m = ht_f16_f32(b.m);
    for (int i = 0; i < 32; i++)
        y[i] = d * (float)code5(b.qh, b.qs, i) + m;
}

static void dequant_q8_0(const void *block, float *y)
{
    struct ht_block_q8_0 b;
    memcpy(&b, block, sizeof b);
    float d = ht_f16_f32(b.d);
    for (int i = 0; i < 32; i++)
        y[i] = d * (float)b.qs[i];
}

static void dequant_iq4_nl(const void *block, float *y)
{
    static const int8_t values[16] = {HT_IQ4_NL_VALUES};
    struct ht_block_iq4_nl b;
    memcpy(&b, block, sizeof b);
    float d = ht_f16_f32(b.d);
    for (int i = 0; i < 16; i++) {
        y[i] = d * (float)values[b.qs[i] & 15];
        y[i + 16] = d * (float)values[b.qs[i] >> 4];
    }
}

// Two-bit code of value i in q2_k, q3_k and the upper bits of q6_k: 128 values share 32 bytes.
static int code2(const uint8_t qs[64], int i)
{
    int half = i / 128, j = i % 128;
    return qs[32 * half + j % 32] >> (2 * (j / 32)) & 3;
}

static void dequant_q2_k(const void *block, float *y)
{
    struct ht_block_q2_k b;
    memcpy(&b, block, sizeof b);
    float d = ht_f16_f32(b.d), dmin = ht_f16_f32(b.dmin);
    for (int i = 0; i < 256; i++) {
        int scale = b.scales[i / 16];
        float scaled = d * (float)(scale & 15), min = dmin * (float)(scale >> 4);
        y[i] = scaled * (float)code2(b.qs, i) - min;
    }
}

static void dequant_q3_k(const void *block, float *y)
{
    struct ht_block_q3_k b;
    memcpy(&b, block, sizeof b);
    float d = ht_f16_f32(b.d);
    for (int i = 0; i < 256; i++) {
        int code = code2(b.qs, i) - (b.hmask[i % 32] >> (i / 32) & 1 ? 0 : 4);
        y[i] = d * (float)ht_q3_k_scale(b.scales, (unsigned)i / 16) * (float)code;
    }
}

// Nibble of value i in q4_k and q5_k: 64 values share 32 bytes.
static int code4(const uint8_t qs[128], int i)
{
    int byte = qs[i / 64 * 32 + i % 32];
    return i % 64 < 32 ? byte & 15 : byte >> 4;
}

static void dequant_q4_k(const void *block, float *y)
{
    struct ht_block_q4_k b;
    memcpy(&b, block, sizeof b);
    float d = ht_f16_f32(b.d), dmin = ht_f16_f32(b.dmin);
    for (int i = 0; i < 256; i++) {
        unsigned g = (unsigned)i / 32;
        float scaled = d * (float)ht_k_scale(b.scales, g), min = dmin * (float)ht_k_min(b.scales, g);
        y[i] = scaled * (float)code4(b.qs, i) - min;
    }
}

static void dequant_q5_k(const void *block, float *y)
{
    struct ht_block_q5_k b;
    memcpy(&b, block, sizeof b);
    float d = ht_f16_f32(b.d), dmin = ht_f16_f32(b.dmin);
    for (int i = 0; i < 256; i++) {
        unsigned g = (unsigned)i / 32;
        float scaled = d * (float)ht_k_scale(b.scales, g), min = dmin * (float)ht_k_min(b.scales, g);
        int code = code4(b.qs, i) | (b.qh[i % 32] >> g & 1) << 4;
        y[i] = scaled * (float)code - min;
    }
}

static void dequant_q6_k(const void *block, float *y)
{
    struct ht_block_q6_k b;
    memcpy(&b, block, sizeof b);
    float d = ht_f16_f32(b.d);
    for (int i = 0; i < 256; i++) {
        int byte = b.ql[i / 128 * 64 + i % 64];
        int code = (i % 128 < 64 ? byte & 15 : byte >> 4) | code2(b.qh, i) << 4;
        y[i] = d * (float)b.scales[i / 16] * (float)(code - 32);
    }
}

static void dequant_f32(const void *block, float *y)
{
    memcpy(y, block, 4);
}

static void dequant_f16(const void *block, float *y)
{
    uint16_t bits;
    memcpy(&bits, block, 2);
    *y = ht_f16_f32(bits);
}

static void dequant_bf16(const void *block, float *y)
{
    uint16_t bits;
    memcpy(&bits, block, 2);
    *y = ht_bf16_f32(bits);
}

typedef void dequant_fn(const void *block, float *y);

static dequant_fn *const dequant[HT_N_TYPES] = {
    [HT_TYPE_F32] = dequant_f32,   [HT_TYPE_F16] = dequant_f16,   [HT_TYPE_BF16] = dequant_bf16,
    [HT_TYPE_Q4_0] = dequant_q4_0, [HT_TYPE_Q4_1] = dequant_q4_1, [HT_TYPE_Q5_0] = dequant_q5_0,
    [HT_TYPE_Q5_1] = dequant_q5_1, [HT_TYPE_Q8_0] = dequant_q8_0, [HT_TYPE_IQ4_NL] = dequant_iq4_nl,
    [HT_TYPE_Q2_K] = dequant_q2_k, [HT_TYPE_Q3_K] = dequant_q3_k, [HT_TYPE_Q4_K] = dequant_q4_k,
    [HT_TYPE_Q5_K] = dequant_q5_k, [HT_TYPE_Q6_K] = dequant_q6_k,
};

void ht_dequant_row(enum ht_type type, const void *blocks, size_t n_values, float *out)
{
    const struct ht_type_info *info = ht_type_info(type);
    if (!info) { // a caller's mistake: make it visible rather than leave old values standing
        for (size_t i = 0; i < n_values; i++)
            out[i] = NAN;
        return;
    }
    const unsigned char *block = blocks;
    for (size_t i = 0; i + info->block_values <= n_values;
         i += info->block_values, block += info->block_bytes)
        dequant[type](block, out + i);
}
