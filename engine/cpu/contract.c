// SPDX-License-Identifier: Apache-2.0
// Contracts Q and F, matmul part: block formats as integers, quantised activations, dot products. Any thread.
#include "engine/cpu/contract.h"

#include <string.h>

#include "engine/cpu/math.h"

static const int8_t iq4_nl_values[16] = {HT_IQ4_NL_VALUES};

static int nibble(const uint8_t *qs, unsigned i) // blocks of 32: lo first 16, hi second
{
    return i < 16 ? qs[i] & 15 : qs[i - 16] >> 4;
}

static void simple_block(enum ht_type type, const unsigned char *p, struct ht_block32 *out)
{
    const uint8_t *qs = p + 2, *qh = p + 2;
    uint16_t half;
    memcpy(&half, p, 2);
    out->d = ht_f16_f32(half);
    if (type == HT_TYPE_Q4_1 || type == HT_TYPE_Q5_1) {
        memcpy(&half, p + 2, 2);
        out->m = ht_f16_f32(half);
        qs += 2;
        qh += 2;
    }
    bool five = type == HT_TYPE_Q5_0 || type == HT_TYPE_Q5_1;
    if (five)
        qs += 4;
    int zero = type == HT_TYPE_Q4_0 ? 8 : type == HT_TYPE_Q5_0 ? 16 : 0;
    for (unsigned i = 0; i < 32; i++) {
        if (type == HT_TYPE_Q8_0)
            out->code[i] = (int8_t)qs[i];
        else if (type == HT_TYPE_IQ4_NL)
            out->code[i] = iq4_nl_values[nibble(qs, i)];
        else
            out->code[i] = (int16_t)(nibble(qs, i) + (five ? (qh[i / 8] >> i % 8 & 1) << 4 : 0) - zero);
    }
}

static void q2_k(const struct ht_block_q2_k *b, unsigned j, struct ht_block32 *out)
{
    out->d = ht_f16_f32(b->d);
    out->m = ht_f16_f32(b->dmin);
    for (unsigned s = 0; s < 2; s++) {
        out->scale[s] = b->scales[2 * j + s] & 15;
        out->min[s] = b->scales[2 * j + s] >> 4;
    }
    for (unsigned i = 0; i < 32; i++)
        out->code[i] = b->qs[j / 4 * 32 + i] >> (j % 4 * 2) & 3;
}

static void q3_k(const struct ht_block_q3_k *b, unsigned j, struct ht_block32 *out)
{
    out->d = ht_f16_f32(b->d);
    for (unsigned s = 0; s < 2; s++)
        out->scale[s] = (int16_t)ht_q3_k_scale(b->scales, 2 * j + s);
    for (unsigned i = 0; i < 32; i++)
        out->code[i] = (int16_t)((b->qs[j / 4 * 32 + i] >> (j % 4 * 2) & 3) + (b->hmask[i] >> j & 1) * 4 - 4);
}

static void q45_k(const unsigned char *p, bool five, unsigned j, struct ht_block32 *out)
{
    const struct ht_block_q5_k *b5 = (const struct ht_block_q5_k *)p;
    const struct ht_block_q4_k *b4 = (const struct ht_block_q4_k *)p;
    const uint8_t *qs =
        (five ? b5->qs : b4->qs) + j / 2 * 32; // d, dmin and scales lie at the same place in both
    out->d = ht_f16_f32(b4->d);
    out->m = ht_f16_f32(b4->dmin);
    out->scale[0] = out->scale[1] = (int16_t)ht_k_scale(b4->scales, j);
    out->min[0] = out->min[1] = (int16_t)ht_k_min(b4->scales, j);
    for (unsigned i = 0; i < 32; i++)
        out->code[i] = (int16_t)((qs[i] >> (j % 2 * 4) & 15) + (five ? (b5->qh[i] >> j & 1) << 4 : 0));
}

static void q6_k(const struct ht_block_q6_k *b, unsigned j, struct ht_block32 *out)
{
    unsigned half = j / 4, t = j % 4;
    out->d = ht_f16_f32(b->d);
    for (unsigned s = 0; s < 2; s++)
        out->scale[s] = b->scales[2 * j + s];
    for (unsigned i = 0; i < 32; i++) {
        int low = b->ql[64 * half + t % 2 * 32 + i] >> (t / 2 * 4) & 15;
        out->code[i] = (int16_t)((low | (b->qh[32 * half + i] >> (2 * t) & 3) << 4) - 32);
    }
}

void ht_contract_block(enum ht_type type, const void *blocks, uint32_t j, struct ht_block32 *out)
{
    const struct ht_layout *layout = ht_layout_of(type);
    unsigned per_block = layout->block_values / 32u;
    _Alignas(8) unsigned char block[256]; // a copy, since rows of a file need not be aligned
    memcpy(block, (const unsigned char *)blocks + (size_t)(j / per_block) * layout->block_bytes,
           layout->block_bytes);
    memset(out, 0, sizeof *out);
    out->scale[0] = out->scale[1] = 1;
    switch (type) {
    case HT_TYPE_Q2_K: q2_k((const struct ht_block_q2_k *)block, j % 8, out); break;
    case HT_TYPE_Q3_K: q3_k((const struct ht_block_q3_k *)block, j % 8, out); break;
    case HT_TYPE_Q4_K:
    case HT_TYPE_Q5_K: q45_k(block, type == HT_TYPE_Q5_K, j % 8, out); break;
    case HT_TYPE_Q6_K: q6_k((const struct ht_block_q6_k *)block, j % 8, out); break;
    default: simple_block(type, block, out);
    }
}

void ht_contract_quantise(const float *x, uint32_t k, const struct ht_xrow *out)
{
    for (uint32_t b = 0; b < k / 32; b++) {
        const float *v = x + 32 * b;
        uint32_t top =
            0; // bits of the largest magnitude: as integers, infinity and NaN are above all numbers
        for (int i = 0; i < 32; i++) {
            uint32_t bits = ht_f32_bits(v[i]) & 0x7FFFFFFF;
            top = bits > top ? bits : top;
        }
        float amax = ht_bits_f32(top);
        bool finite = top < 0x7F800000, live = finite && amax >= HT_QUANTISE_MIN;
        float inverse = live ? 127.0f / amax : 0.0f;
        int32_t sum[2] = {0, 0};
        for (int i = 0; i < 32; i++) {
            int32_t q = live ? (int32_t)rintf(v[i] * inverse) : 0;
            out->q[32 * b + i] = (int8_t)q;
            sum[i / 16] += q;
        }
        out->d[b] = finite ? live ? amax / 127.0f : 0.0f : NAN;
        out->sum[2 * b] = sum[0];
        out->sum[2 * b + 1] = sum[1];
        out->ds[b] = out->d[b] * (float)(sum[0] + sum[1]);
    }
}

float ht_contract_dot_q(enum ht_type type, const void *blocks, uint32_t k, const struct ht_xrow *x)
{
    enum ht_kind kind = ht_layout_of(type)->kind;
    struct ht_block32 w;
    float acc = 0;
    for (uint32_t b = 0; b < k / 32; b++) {
        int32_t isum = 0, msum = 0;
        ht_contract_block(type, blocks, b, &w);
        for (int s = 0; s < 2; s++) {
            int32_t dot = 0;
            for (int i = 16 * s; i < 16 * s + 16; i++)
                dot += w.code[i] * x->q[32 * b + i];
            isum += w.scale[s] * dot;
            msum += w.min[s] * x->sum[2 * b + s];
        }
        acc = fmaf((float)isum, w.d * x->d[b], acc);
        if (kind == HT_KIND_DM)
            acc = fmaf(w.m, x->ds[b], acc);
        else if (kind == HT_KIND_K32M || kind == HT_KIND_K16M)
            acc = fmaf(-(float)msum, w.m * x->d[b], acc);
    }
    return acc;
}

float ht_contract_dot_f(const float *w, const float *x, uint32_t k)
{
    float acc = 0;
    for (uint32_t i = 0; i < k; i++)
        acc = fmaf(w[i], x[i], acc);
    return acc;
}
