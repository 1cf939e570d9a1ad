// SPDX-License-Identifier: Apache-2.0
// Fits of codes to values: the search behind quantize.h. Sums run in eight lanes, so that compilers may use vectors
// and every machine adds in the same order. Pure functions, any thread.
#include <math.h>

#include "engine/base/half.h"
#include "engine/gguf/quantize.h"

enum { LANES = 8 };

static const float ROUND = 12582912.0f; // 1.5 · 2^23: adding and subtracting it rounds |x| < 2^22 to even
static const float SMALL = 1e-30f;      // below it a scale is none
static const float STEP = 0.25f;        // between candidates, in codes

float ht_round_half(float x)
{
    x = x < -65504.0f ? -65504.0f : x > 65504.0f ? 65504.0f : x;
    return ht_f16_f32(ht_f32_f16(x));
}

static float inverse_of(float d)
{
    return fabsf(d) < SMALL ? 0 : 1 / d;
}

static float sum_of(const float lanes[LANES])
{
    float sum = 0;
    for (int i = 0; i < LANES; i++)
        sum += lanes[i];
    return sum;
}

static inline float nearest(float t, float lo, float hi)
{
    t = t < lo ? lo : t;
    t = t > hi ? hi : t;
    return (t + ROUND) - ROUND;
}

// ---------------------------------------------------------------- one scale

float ht_code_scale(const float *x, unsigned n, int lo, int hi, float d, int8_t *codes)
{
    float error[LANES] = {0}, inverse = inverse_of(d);
    for (unsigned i = 0; i < n; i += LANES)
        for (unsigned j = 0; j < LANES; j++) {
            float q = nearest(x[i + j] * inverse, (float)lo, (float)hi), r = x[i + j] - d * q;
            error[j] += r * r;
            if (codes)
                codes[i + j] = (int8_t)q;
        }
    return sum_of(error);
}

// The error of scale d, and the least-squares scale for its codes.
static float try_scale(const float *x, unsigned n, float lo, float hi, float d, float *better)
{
    float error[LANES] = {0}, xq[LANES] = {0}, qq[LANES] = {0}, inverse = inverse_of(d);
    for (unsigned i = 0; i < n; i += LANES)
        for (unsigned j = 0; j < LANES; j++) {
            float v = x[i + j], q = nearest(v * inverse, lo, hi), r = v - d * q;
            error[j] += r * r;
            xq[j] += v * q;
            qq[j] += q * q;
        }
    float sum = sum_of(qq);
    *better = sum > 0 ? sum_of(xq) / sum : 0;
    return sum_of(error);
}

struct scale_search {
    const float *x;
    unsigned n;
    float lo, hi;
    bool half;
    float d, error;
};

static void consider_scale(struct scale_search *s, float d)
{
    for (int pass = 0; pass < 2; pass++) {
        float better;
        d = s->half ? ht_round_half(d) : d;
        float error = try_scale(s->x, s->n, s->lo, s->hi, d, &better);
        if (error < s->error) {
            s->error = error;
            s->d = d;
        }
        d = better;
    }
}

static bool all_whole(const float *x, unsigned n, float inverse, float m, float lo, float hi)
{
    for (unsigned i = 0; i < n; i++) {
        float t = (x[i] - m) * inverse, off = t - ((t + ROUND) - ROUND);
        if (!(t > lo - 0.5f && t < hi + 0.5f) || !(fabsf(off) < 2e-3f))
            return false;
    }
    return true;
}

float ht_fit_whole(const float *x, unsigned n, int hi, float top)
{
    for (int c = hi; c >= 1; c--) {
        float d = ht_round_half(top / (float)c);
        if (all_whole(x, n, inverse_of(d), 0, -(float)hi, (float)hi))
            return d;
    }
    return ht_round_half(top / (float)hi);
}

float ht_fit_scale(const float *x, unsigned n, int lo, int hi, bool half, float *d)
{
    float top = 0, squares[LANES] = {0};
    for (unsigned i = 0; i < n; i++) {
        top = fabsf(x[i]) > fabsf(top) ? x[i] : top;
        squares[i % LANES] += x[i] * x[i];
    }
    *d = 0;
    if (fabsf(top) < SMALL)
        return 0;
    struct scale_search s = {x, n, (float)lo, (float)hi, half, 0, INFINITY};
    s.d = half ? ht_round_half(top / s.lo) : top / s.lo;
    float exact = 1e-11f * sum_of(squares);
    for (int j = hi; j >= 1; j--) // values that came from such a block: the farthest has code j or -j - 1
        for (int side = 0; side < 2; side++) {
            float c = (float)(side ? j : lo + hi - j), one = top / c;
            if (all_whole(x, n, inverse_of(one), 0, s.lo, s.hi))
                consider_scale(&s, one);
            if (s.error <= exact)
                goto done;
        }
    for (float t = -1; t <= 1.5f; t += STEP)
        consider_scale(&s, top / (s.lo + t));
    for (float t = -1; t <= 0.75f; t += STEP)
        consider_scale(&s, top / (s.hi + t));
done:
    *d = s.d;
    return s.error;
}

// ---------------------------------------------------------------- scale and offset

float ht_code_affine(const float *x, unsigned n, int hi, float d, float m, int8_t *codes)
{
    float error[LANES] = {0}, inverse = inverse_of(d);
    for (unsigned i = 0; i < n; i += LANES)
        for (unsigned j = 0; j < LANES; j++) {
            float q = nearest((x[i + j] - m) * inverse, 0, (float)hi), r = x[i + j] - (d * q + m);
            error[j] += r * r;
            if (codes)
                codes[i + j] = (int8_t)q;
        }
    return sum_of(error);
}

struct affine_search {
    const float *x;
    unsigned n;
    float hi;
    bool half;
    float d, m, error;
};

// The error of (d, m), and the least-squares pair for its codes. The offset is taken from the sums, so that a large one
// costs no digits.
static float try_affine(const struct affine_search *s, float d, float m, float *better_d, float *better_m)
{
    float error[LANES] = {0}, q1[LANES] = {0}, qq[LANES] = {0}, xq[LANES] = {0}, x1[LANES] = {0};
    float inverse = inverse_of(d), n = (float)s->n;
    for (unsigned i = 0; i < s->n; i += LANES)
        for (unsigned j = 0; j < LANES; j++) {
            float v = s->x[i + j], away = v - m, q = nearest(away * inverse, 0, s->hi), r = v - (d * q + m);
            error[j] += r * r;
            q1[j] += q;
            qq[j] += q * q;
            xq[j] += away * q;
            x1[j] += away;
        }
    float sq = sum_of(q1), sqq = sum_of(qq), sxq = sum_of(xq), sx = sum_of(x1), det = n * sqq - sq * sq;
    *better_d = d;
    *better_m = m;
    if (det > 0) {
        *better_d = (n * sxq - sx * sq) / det;
        *better_m = m + (sx - *better_d * sq) / n;
    }
    if (!s->half && *better_m > 0) { // an offset of K types is never above 0
        *better_m = 0;
        *better_d = sqq > 0 ? (sxq + m * sq) / sqq : 0;
    }
    return sum_of(error);
}

static void consider_affine(struct affine_search *s, float d, float m)
{
    for (int pass = 0; pass < 3 && d > 0; pass++) {
        float next_d, next_m;
        if (s->half) {
            d = ht_round_half(d);
            m = ht_round_half(m);
        }
        float error = try_affine(s, d, m, &next_d, &next_m);
        if (error < s->error) {
            s->error = error;
            s->d = d;
            s->m = m;
        }
        d = next_d;
        m = next_m;
    }
}

// Values that came from such a block: codes from `first` on, `span` codes wide.
static void search_exact(struct affine_search *s, float min, float max, float exact)
{
    for (float span = s->hi; span >= 1; span--) {
        float d = (max - min) / span;
        if (!all_whole(s->x, s->n, inverse_of(d), min, 0, s->hi))
            continue;
        for (float first = 0; first <= s->hi - span && s->error > exact; first++)
            if (s->half || min - d * first <= 0)
                consider_affine(s, d, min - d * first);
    }
}

float ht_fit_affine(const float *x, unsigned n, int hi, bool half, float *d, float *m)
{
    float min = x[0], max = x[0], squares[LANES] = {0};
    for (unsigned i = 0; i < n; i++) {
        min = x[i] < min ? x[i] : min;
        max = x[i] > max ? x[i] : max;
        squares[i % LANES] += x[i] * x[i];
    }
    if (!half && min > 0)
        min = 0;
    struct affine_search s = {x, n, (float)hi, half, 0, half ? ht_round_half(min) : min, INFINITY};
    s.error = ht_code_affine(x, n, hi, 0, s.m, NULL);
    if (max - min >= SMALL) {
        float exact = 1e-11f * sum_of(squares);
        search_exact(&s, min, max, exact);
        for (float t = -1.5f; t <= 1.5f && s.error > exact; t += STEP)
            consider_affine(&s, (max - min) / (s.hi + t), min);
    }
    *d = s.d;
    *m = s.m;
    return s.error;
}
