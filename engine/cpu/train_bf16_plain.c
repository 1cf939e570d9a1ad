// SPDX-License-Identifier: Apache-2.0
// Contract B in plain C: the definition. Any thread.
#include "engine/cpu/train_bf16.h"

#include <math.h>
#include <string.h>

#include "engine/base/half.h"
#include "engine/cpu/math.h"

static uint16_t rounded(float x)
{
    uint32_t bits = ht_f32_bits(x);
    return (bits & 0x7FFFFFFF) < 0x00800000 ? (uint16_t)(bits >> 16 & 0x8000) : ht_f32_bf16(x);
}

static void round_row(const float *x, uint32_t n, uint16_t *to)
{
    for (uint32_t i = 0; i < (n + HT_B_STEP - 1) / HT_B_STEP * HT_B_STEP; i++)
        to[i / HT_B_STEP * HT_B_TILE + i % HT_B_STEP] = i < n ? rounded(x[i]) : 0;
}

// ---- panels

// The j-th 32 values of a row of the tile; of float types n values and zeros.
static void row_values(enum ht_type type, const unsigned char *tile, unsigned j, uint32_t n, unsigned r, float *values)
{
    enum { MOST = 256 }; // values of a block
    const struct ht_layout *layout = ht_layout_of(type);
    _Alignas(8) unsigned char blocks[MOST * sizeof(float)];
    float all[MOST] = {0};
    uint32_t k = layout->block_values == 1 ? n : layout->block_values;
    ht_layout_unpack_row(layout, tile, k, r, blocks);
    ht_dequant_row(type, blocks, k, all);
    memcpy(values, all + j * HT_B_STEP, HT_B_STEP * sizeof *values);
}

static void panel(enum ht_type type, const unsigned char *tile, unsigned j, uint32_t n, unsigned half, uint16_t *to)
{
    float values[HT_B_STEP];
    for (unsigned r = 0; r < HT_GROUP; r++) {
        row_values(type, tile, j, n, r, values);
        for (uint32_t i = 0; i < HT_B_STEP; i++)
            to[(i / 2 * HT_B_LANES + half * HT_GROUP + r) * 2 + i % 2] = rounded(values[i]);
    }
}

static void panel_t(enum ht_type type, const unsigned char *tile, unsigned j, uint32_t n, unsigned half, uint16_t *to)
{
    float values[HT_B_STEP];
    for (unsigned r = 0; r < HT_GROUP; r++) {
        row_values(type, tile, j, n, r, values);
        for (uint32_t i = 0; i < HT_B_LANES; i++)
            to[((half * 8 + r / 2) * HT_B_LANES + i) * 2 + r % 2] = rounded(values[i]);
    }
}

// ---- sums

static float flushed(float x)
{
    return x != 0 && fabsf(x) < 0x1p-126f ? copysignf(0, x) : x;
}

// Below 2^-126 after rounding to 24 bits, not after rounding as a subnormal: decided 2^64 times as large, where the
// result is normal. There is nothing to overflow: a sum that small of terms that large would be exactly 0.
static float fma_flushed(float a, float b, float c)
{
    float sum = fmaf(a, b, c);
    if (sum != 0 && fabsf(sum) <= 0x1p-126f) {
        bool first = fabsf(a) < fabsf(b);
        float large = fmaf(first ? a * 0x1p64f : a, first ? b : b * 0x1p64f, c * 0x1p64f);
        if (fabsf(large) < 0x1p-62f)
            return copysignf(0, sum);
    }
    return sum;
}

static float pairs_in_turn(const uint16_t *x, const uint16_t *w, float t)
{
    for (unsigned i = 0; i < 16; i++, w += 2 * HT_B_LANES) {
        t = fma_flushed(ht_bf16_f32(x[2 * i + 1]), ht_bf16_f32(w[1]), t);
        t = fma_flushed(ht_bf16_f32(x[2 * i]), ht_bf16_f32(w[0]), t);
    }
    return t;
}

static float two_chains(const uint16_t *x, const uint16_t *w, float t)
{
    float even = 0, odd = 0;
    for (unsigned i = 0; i < 16; i++, w += 2 * HT_B_LANES) {
        even = fma_flushed(ht_bf16_f32(x[2 * i]), ht_bf16_f32(w[0]), even);
        odd = fma_flushed(ht_bf16_f32(x[2 * i + 1]), ht_bf16_f32(w[1]), odd);
    }
    return flushed(t + flushed(even + odd));
}

static void sum(const struct ht_bf16_block *b, float (*step)(const uint16_t *x, const uint16_t *w, float t))
{
    for (uint32_t r = 0; r < b->rows; r++)
        for (unsigned lane = 0; lane < HT_B_LANES; lane++) {
            float *t = b->acc + r * b->acc_stride + lane, value = b->begin ? 0 : *t;
            const uint16_t *x = b->x + r / HT_B_ROWS * b->x_next + r % HT_B_ROWS * HT_B_STEP;
            for (uint32_t s = 0; s < b->steps; s++)
                value = step(x + s * HT_B_TILE, b->panel + s * HT_B_PANEL + 2 * lane, value);
            *t = value;
        }
}

static void sum_avx512bf16(const struct ht_bf16_block *block)
{
    sum(block, pairs_in_turn);
}

static void sum_amx(const struct ht_bf16_block *block)
{
    sum(block, two_chains);
}

static void nothing(void)
{
}

// ---- attention

static void pair(const float *a, const float *b, uint32_t n, uint16_t *to)
{
    for (uint32_t i = 0; i < HT_B_LANES; i++) {
        to[2 * i] = a && i < n ? rounded(a[i]) : 0;
        to[2 * i + 1] = b && i < n ? rounded(b[i]) : 0;
    }
}

static bool sees(const struct ht_bf16_pairs *p, uint32_t query, uint32_t key)
{
    return (uint32_t)p->first + query - key < p->window;
}

static float capped(float dot, const struct ht_score *score)
{
    float s = dot * score->scale;
    return score->softcap > 0 ? score->softcap * ht_tanh(s / score->softcap) : s;
}

static float leaning(float s, const struct ht_bf16_pairs *p, uint32_t query, uint32_t key)
{
    int32_t distance = (int32_t)(key - query) - p->first;
    return p->score.slope != 0 ? fmaf(p->score.slope, (float)distance, s) : s;
}

static void softmax(const struct ht_bf16_pairs *p, uint32_t blocks, float *s, uint16_t *to, float *top, float *sum)
{
    for (uint32_t i = 0; i < HT_B_LANES; i++) {
        top[i] = -INFINITY;
        sum[i] = 0;
        for (uint32_t j = 0; j < blocks * HT_B_STEP; j++) {
            float *score = s + (size_t)j * HT_B_LANES + i;
            *score = leaning(capped(*score, &p->score), p, i, j);
            top[i] = sees(p, i, j) && *score > top[i] ? *score : top[i];
        }
        for (uint32_t j = 0; j < blocks * HT_B_STEP; j++) {
            float e = sees(p, i, j) ? ht_exp(s[(size_t)j * HT_B_LANES + i] - top[i]) : 0;
            sum[i] += e;
            to[((size_t)(j / 2) * HT_B_LANES + i) * 2 + j % 2] = rounded(e);
        }
    }
}

static void pairs(const struct ht_bf16_pairs *p, const float *s, const float *dp, const float *lse, const float *delta,
                  uint16_t *to, uint16_t *to_ds, size_t next, uint16_t *ds_panel)
{
    const float cap = p->score.softcap;
    for (uint32_t j = 0; j < HT_B_STEP; j++)
        for (uint32_t i = 0; i < HT_B_LANES; i++) {
            float value = capped(s[j * HT_B_LANES + i], &p->score), t = cap > 0 ? value / cap : 0;
            float e = ht_exp(leaning(value, p, i, j) - lse[i]), ds = e * (dp[j * HT_B_LANES + i] - delta[i]);
            if (cap > 0)
                ds = ds * fmaf(-t, t, 1.0f);
            bool seen = sees(p, i, j) && i < p->n;
            size_t at = j / HT_B_ROWS * next + j % HT_B_ROWS * HT_B_STEP + i;
            to[at] = rounded(seen ? e : 0);
            to_ds[at] = ds_panel[(j / 2 * HT_B_LANES + i) * 2 + j % 2] = rounded(seen ? ds * p->score.scale : 0);
        }
}

#define PLAIN(SUM)                                                                                           \
    {                                                                                                        \
        .begin = nothing, .end = nothing, .round = round_row, .panel = panel, .panel_t = panel_t, .sum = SUM, \
        .pair = pair, .softmax = softmax, .pairs = pairs                                                     \
    }
const struct ht_bf16_kernels ht_bf16_plain_avx512bf16 = PLAIN(sum_avx512bf16), ht_bf16_plain_amx = PLAIN(sum_amx);

#if defined(__x86_64__)
// Does this CPU sum as the contract says? Terms of many sizes, of which every eighth lane has such that vanish.
static bool as_stated(const struct ht_bf16_kernels *fast, const struct ht_bf16_kernels *plain)
{
    uint16_t x[HT_B_TILE], panel[HT_B_PANEL];
    float want[HT_B_ROWS * HT_B_LANES], got[HT_B_ROWS * HT_B_LANES];
    uint32_t random = 1;
    for (uint32_t i = 0; i < HT_B_TILE + HT_B_PANEL; i++) {
        random = random * 1664525u + 1013904223u;
        bool tiny = i >= HT_B_TILE && (i - HT_B_TILE) / 2 % 8 == 7;
        uint32_t exponent = (tiny ? 1 : 0x78) + (random >> 29);
        *(i < HT_B_TILE ? x + i : panel + i - HT_B_TILE) = (uint16_t)((random >> 8 & 0x807F) | exponent << 7);
    }
    struct ht_bf16_block block = {panel, x, 0, 1, HT_B_ROWS, want, HT_B_LANES, true};
    plain->sum(&block);
    block.acc = got;
    fast->begin();
    fast->sum(&block);
    fast->end();
    return !memcmp(want, got, sizeof want);
}
#endif

const struct ht_bf16_kernels *ht_bf16_kernels(enum ht_isa isa, enum ht_train_precision precision)
{
    if (isa == HT_ISA_REF && ht_isa_best() != HT_ISA_REF)
        return precision == HT_TRAIN_B_AMX          ? &ht_bf16_plain_amx
               : precision == HT_TRAIN_B_AVX512BF16 ? &ht_bf16_plain_avx512bf16
                                                    : NULL;
#if defined(__x86_64__)
    if ((isa != HT_ISA_AMX && isa != HT_ISA_AVX512VNNI) || !ht_isa_has_bf16())
        return NULL;
    if (precision == HT_TRAIN_B_AMX && isa == HT_ISA_AMX && as_stated(&ht_bf16_amx, &ht_bf16_plain_amx))
        return &ht_bf16_amx;
    if (precision == HT_TRAIN_B_AVX512BF16 && as_stated(&ht_bf16_avx512bf16, &ht_bf16_plain_avx512bf16))
        return &ht_bf16_avx512bf16;
#endif
    return NULL;
}
