// SPDX-License-Identifier: Apache-2.0
// Blocks of 256 values: groups with coded scales under one or two scales of the block. Pure functions, any thread.
#include <math.h>
#include <string.h>

#include "engine/base/half.h"
#include "engine/gguf/quantize.h"

enum { VALUES = 256, MAX_GROUPS = 16, ROUNDS = 2 };

static int clamp_code(float x, int lo, int hi)
{
    return !(x > (float)lo) ? lo : x > (float)hi ? hi : (int)lrintf(x);
}

static float divided(float a, float b)
{
    return b != 0 ? a / b : 0;
}

// ---------------------------------------------------------------- scale alone: q3_k, q6_k

struct signed_block {
    const float *x;
    int lo, hi;             // codes of values
    int scale_lo, scale_hi; // of the 16 groups' scales
    float d;
    int scales[MAX_GROUPS];
    int8_t codes[VALUES];
    float error;
};

static float signed_group(const struct signed_block *b, unsigned g, int scale, int8_t *codes)
{
    return ht_code_scale(b->x + 16 * g, 16, b->lo, b->hi, b->d * (float)scale, codes);
}

// Each group's scale: as it is, or one up or down.
static void signed_codes(struct signed_block *b)
{
    b->error = 0;
    for (unsigned g = 0; g < 16; g++) {
        int best = b->scales[g];
        float error = signed_group(b, g, best, NULL);
        for (int step = -1; step <= 1; step += 2) {
            int scale = b->scales[g] + step;
            float e = scale < b->scale_lo || scale > b->scale_hi ? INFINITY : signed_group(b, g, scale, NULL);
            if (e < error) {
                error = e;
                best = scale;
            }
        }
        b->scales[g] = best;
        b->error += signed_group(b, g, best, b->codes + 16 * g);
    }
}

// The least-squares d for the codes; kept only if the whole gets better.
static bool signed_refit(struct signed_block *b)
{
    float xa = 0, aa = 0;
    for (unsigned i = 0; i < VALUES; i++) {
        float a = (float)(b->scales[i / 16] * b->codes[i]);
        xa += b->x[i] * a;
        aa += a * a;
    }
    struct signed_block next = *b;
    next.d = ht_round_half(divided(xa, aa));
    if (next.d == b->d)
        return false;
    signed_codes(&next);
    bool better = next.error < b->error;
    if (better)
        *b = next;
    return better;
}

static void signed_fit(struct signed_block *b)
{
    float scales[MAX_GROUPS], top = 0;
    for (unsigned g = 0; g < 16; g++) {
        ht_fit_scale(b->x + 16 * g, 16, b->lo, b->hi, false, &scales[g]);
        top = fabsf(scales[g]) > fabsf(top) ? scales[g] : top;
    }
    b->d = ht_round_half(top / (float)b->scale_lo); // the largest has the code that is farthest from 0
    for (unsigned g = 0; g < 16; g++)
        b->scales[g] = clamp_code(divided(scales[g], b->d), b->scale_lo, b->scale_hi);
    signed_codes(b);
    for (int round = 0; round < ROUNDS && signed_refit(b); round++)
        continue;
}

static void quantize_q3_k(const float *x, void *block)
{
    struct ht_block_q3_k out = {0};
    struct signed_block b = {.x = x, .lo = -4, .hi = 3, .scale_lo = -32, .scale_hi = 31};
    signed_fit(&b);
    out.d = ht_f32_f16(b.d);
    for (unsigned i = 0; i < VALUES; i++) {
        unsigned code = (unsigned)(b.codes[i] + 4), half = i / 128, j = i % 128;
        out.qs[32 * half + j % 32] |= (uint8_t)((code & 3) << 2 * (j / 32));
        out.hmask[i % 32] |= (uint8_t)((code >> 2) << i / 32);
    }
    for (unsigned g = 0; g < 16; g++) {
        unsigned scale = (unsigned)(b.scales[g] + 32);
        out.scales[g % 8] |= (uint8_t)((scale & 15) << (g < 8 ? 0 : 4));
        out.scales[8 + g % 4] |= (uint8_t)((scale >> 4) << 2 * (g / 4));
    }
    memcpy(block, &out, sizeof out);
}

static void quantize_q6_k(const float *x, void *block)
{
    struct ht_block_q6_k out = {0};
    struct signed_block b = {.x = x, .lo = -32, .hi = 31, .scale_lo = -128, .scale_hi = 127};
    signed_fit(&b);
    out.d = ht_f32_f16(b.d);
    for (unsigned i = 0; i < VALUES; i++) {
        unsigned code = (unsigned)(b.codes[i] + 32), half = i / 128, j = i % 128;
        out.ql[64 * half + j % 64] |= (uint8_t)((code & 15) << (j < 64 ? 0 : 4));
        out.qh[32 * half + j % 32] |= (uint8_t)((code >> 4) << 2 * (j / 32));
    }
    for (unsigned g = 0; g < 16; g++)
        out.scales[g] = (int8_t)b.scales[g];
    memcpy(block, &out, sizeof out);
}

// ---------------------------------------------------------------- scale and min: q2_k, q4_k, q5_k

struct min_block {
    const float *x;
    unsigned n_groups, group; // values of a group
    int hi, scale_hi;
    float d, dmin;
    int scales[MAX_GROUPS], mins[MAX_GROUPS];
    int8_t codes[VALUES];
    float error;
};

static float min_group(const struct min_block *b, unsigned g, int scale, int min, int8_t *codes)
{
    return ht_code_affine(b->x + b->group * g, b->group, b->hi, b->d * (float)scale, -(b->dmin * (float)min), codes);
}

static void min_codes(struct min_block *b)
{
    b->error = 0;
    for (unsigned g = 0; g < b->n_groups; g++) {
        int best_scale = b->scales[g], best_min = b->mins[g];
        float error = min_group(b, g, best_scale, best_min, NULL);
        for (int step = 0; step < 9; step++) {
            int scale = b->scales[g] + step % 3 - 1, min = b->mins[g] + step / 3 - 1;
            if (step == 4 || scale < 0 || min < 0 || scale > b->scale_hi || min > b->scale_hi)
                continue;
            float e = min_group(b, g, scale, min, NULL);
            if (e < error) {
                error = e;
                best_scale = scale;
                best_min = min;
            }
        }
        b->scales[g] = best_scale;
        b->mins[g] = best_min;
        b->error += min_group(b, g, best_scale, best_min, b->codes + b->group * g);
    }
}

// The least-squares d and dmin for the codes; kept only if the whole gets better.
static bool min_refit(struct min_block *b)
{
    double aa = 0, ab = 0, bb = 0, xa = 0, xb = 0; // x ~ d a - dmin b
    for (unsigned i = 0; i < VALUES; i++) {
        double p = b->scales[i / b->group] * b->codes[i], q = -b->mins[i / b->group], x = (double)b->x[i];
        aa += p * p;
        ab += p * q;
        bb += q * q;
        xa += x * p;
        xb += x * q;
    }
    double det = aa * bb - ab * ab;
    struct min_block next = *b;
    if (det > 1e-6 * aa * bb) {
        next.d = ht_round_half((float)((xa * bb - xb * ab) / det));
        next.dmin = ht_round_half((float)((xb * aa - xa * ab) / det));
    } else if (aa > 0 && bb == 0) {
        next.d = ht_round_half((float)(xa / aa));
    }
    if ((next.d == b->d && next.dmin == b->dmin) || next.d < 0 || next.dmin < 0)
        return false;
    min_codes(&next);
    bool better = next.error < b->error;
    if (better)
        *b = next;
    return better;
}

static void min_fit(struct min_block *b)
{
    float scales[MAX_GROUPS], mins[MAX_GROUPS], top = 0, top_min = 0;
    for (unsigned g = 0; g < b->n_groups; g++) {
        ht_fit_affine(b->x + b->group * g, b->group, b->hi, false, &scales[g], &mins[g]);
        top = scales[g] > top ? scales[g] : top;
        top_min = -mins[g] > top_min ? -mins[g] : top_min;
    }
    b->d = ht_round_half(top / (float)b->scale_hi);
    b->dmin = ht_round_half(top_min / (float)b->scale_hi);
    for (unsigned g = 0; g < b->n_groups; g++) {
        b->scales[g] = clamp_code(divided(scales[g], b->d), 0, b->scale_hi);
        b->mins[g] = clamp_code(divided(-mins[g], b->dmin), 0, b->scale_hi);
    }
    min_codes(b);
    for (int round = 0; round < ROUNDS && min_refit(b); round++)
        continue;
}

static void quantize_q2_k(const float *x, void *block)
{
    struct ht_block_q2_k out = {0};
    struct min_block b = {.x = x, .n_groups = 16, .group = 16, .hi = 3, .scale_hi = 15};
    min_fit(&b);
    out.d = ht_f32_f16(b.d);
    out.dmin = ht_f32_f16(b.dmin);
    for (unsigned g = 0; g < 16; g++)
        out.scales[g] = (uint8_t)(b.scales[g] | b.mins[g] << 4);
    for (unsigned i = 0; i < VALUES; i++)
        out.qs[32 * (i / 128) + i % 32] |= (uint8_t)(b.codes[i] << 2 * (i % 128 / 32));
    memcpy(block, &out, sizeof out);
}

// As ht_k_scale and ht_k_min read them.
static void put_scales(const struct min_block *b, uint8_t scales[12])
{
    for (unsigned g = 0; g < 4; g++) {
        scales[g] = (uint8_t)b->scales[g];
        scales[g + 4] = (uint8_t)b->mins[g];
    }
    for (unsigned g = 4; g < 8; g++) {
        scales[g + 4] = (uint8_t)((b->scales[g] & 15) | (b->mins[g] & 15) << 4);
        scales[g - 4] |= (uint8_t)(b->scales[g] >> 4 << 6);
        scales[g] |= (uint8_t)(b->mins[g] >> 4 << 6);
    }
}

static void put_nibbles(const struct min_block *b, uint8_t qs[128])
{
    for (unsigned i = 0; i < VALUES; i++)
        qs[i / 64 * 32 + i % 32] |= (uint8_t)((b->codes[i] & 15) << (i % 64 < 32 ? 0 : 4));
}

static void quantize_q4_k(const float *x, void *block)
{
    struct ht_block_q4_k out = {0};
    struct min_block b = {.x = x, .n_groups = 8, .group = 32, .hi = 15, .scale_hi = 63};
    min_fit(&b);
    out.d = ht_f32_f16(b.d);
    out.dmin = ht_f32_f16(b.dmin);
    put_scales(&b, out.scales);
    put_nibbles(&b, out.qs);
    memcpy(block, &out, sizeof out);
}

static void quantize_q5_k(const float *x, void *block)
{
    struct ht_block_q5_k out = {0};
    struct min_block b = {.x = x, .n_groups = 8, .group = 32, .hi = 31, .scale_hi = 63};
    min_fit(&b);
    out.d = ht_f32_f16(b.d);
    out.dmin = ht_f32_f16(b.dmin);
    put_scales(&b, out.scales);
    put_nibbles(&b, out.qs);
    for (unsigned i = 0; i < VALUES; i++)
        out.qh[i % 32] |= (uint8_t)(b.codes[i] >> 4 << i / 32);
    memcpy(block, &out, sizeof out);
}

void ht_quantize_k(enum ht_type type, const float *x, void *block)
{
    switch (type) {
    case HT_TYPE_Q2_K: quantize_q2_k(x, block); break;
    case HT_TYPE_Q3_K: quantize_q3_k(x, block); break;
    case HT_TYPE_Q4_K: quantize_q4_k(x, block); break;
    case HT_TYPE_Q5_K: quantize_q5_k(x, block); break;
    case HT_TYPE_Q6_K: quantize_q6_k(x, block); break;
    default: break; // the caller knows the types of blocks of 32
    }
}
