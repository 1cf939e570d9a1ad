// SPDX-License-Identifier: Apache-2.0
// ht_row_kernels in vectors, operation by operation as train_rows_plain.c has them. Included by train_rows_*.c only.
#ifndef HT_TRAIN_ROW_LANES_H
#define HT_TRAIN_ROW_LANES_H
#include "engine/cpu/lanes.h"
#include "engine/cpu/train.h"
#include "engine/cpu/train_row_kernels.h"

// ---- norms. Sixteen chains are SIXTEEN vectors: a loop goes 16 values at a time.

LANE_FN void clear16(lanes sum[SIXTEEN])
{
    for (unsigned v = 0; v < SIXTEEN; v++)
        sum[v] = all_of(0);
}

static void rmsnorm_back(const float *x, const float *w, const float *dy, uint32_t dim, float eps, bool add_to,
                         float *dx)
{
    lanes squares[SIXTEEN], products[SIXTEEN];
    clear16(squares);
    clear16(products);
    for (uint32_t i = 0; i < dim; i += 16)
        EACH16 (v, i, dim) {
            uint32_t at = i + v * LANES;
            lane_part m = first_of(dim - at);
            lanes value = load_some(x + at, m), u = mul(load_some(w + at, m), load_some(dy + at, m));
            squares[v] = fma_of(value, value, squares[v]);
            products[v] = fma_of(u, value, products[v]);
        }
    float s = 1.0f / sqrtf(fold_lanes(squares) / (float)dim + eps);
    float c = fold_lanes(products) * s * s / (float)dim;
    for (uint32_t i = 0; i < dim; i += LANES) {
        lane_part m = first_of(dim - i);
        lanes u = mul(load_some(w + i, m), load_some(dy + i, m));
        lanes t = mul(all_of(s), fma_minus(all_of(c), load_some(x + i, m), u));
        store_some(dx + i, m, add_to ? add(load_some(dx + i, m), t) : t);
    }
}

struct spread { // of a row: its mean, and 1 / sqrtf(variance + eps)
    float mean, s;
};

LANE_FN struct spread spread_of(const float *x, uint32_t dim, float eps)
{
    lanes sum[SIXTEEN], squares[SIXTEEN];
    clear16(sum);
    clear16(squares);
    for (uint32_t i = 0; i < dim; i += 16)
        EACH16 (v, i, dim)
            sum[v] = add(sum[v], load_some(x + i + v * LANES, first_of(dim - i - v * LANES)));
    float mean = fold_lanes(sum) / (float)dim;
    for (uint32_t i = 0; i < dim; i += 16)
        EACH16 (v, i, dim) {
            lane_part m = first_of(dim - i - v * LANES);
            lanes d = sub(load_some(x + i + v * LANES, m), all_of(mean));
            squares[v] = pick_part(m, fma_of(d, d, squares[v]), squares[v]);
        }
    return (struct spread){mean, 1.0f / sqrtf(fold_lanes(squares) / (float)dim + eps)};
}

static void layernorm(const float *x, const float *w, const float *b, uint32_t dim, float eps, float *y)
{
    struct spread of = spread_of(x, dim, eps);
    for (uint32_t i = 0; i < dim; i += LANES) {
        lane_part m = first_of(dim - i);
        lanes h = mul(sub(load_some(x + i, m), all_of(of.mean)), all_of(of.s)), wi = load_some(w + i, m);
        store_some(y + i, m, b ? fma_of(h, wi, load_some(b + i, m)) : mul(h, wi));
    }
}

static void layernorm_back(const float *x, const float *w, const float *dy, uint32_t dim, float eps, bool add_to,
                           float *dx)
{
    struct spread of = spread_of(x, dim, eps);
    lanes sum[SIXTEEN], products[SIXTEEN];
    clear16(sum);
    clear16(products);
    for (uint32_t i = 0; i < dim; i += 16)
        EACH16 (v, i, dim) { // u is 0 beyond the end
            uint32_t at = i + v * LANES;
            lane_part m = first_of(dim - at);
            lanes u = mul(load_some(w + at, m), load_some(dy + at, m));
            sum[v] = add(sum[v], u);
            lanes h = mul(sub(load_some(x + at, m), all_of(of.mean)), all_of(of.s));
            products[v] = pick_part(m, fma_of(u, h, products[v]), products[v]);
        }
    float mean = fold_lanes(sum) / (float)dim, c = fold_lanes(products) / (float)dim;
    for (uint32_t i = 0; i < dim; i += LANES) {
        lane_part m = first_of(dim - i);
        lanes h = mul(sub(load_some(x + i, m), all_of(of.mean)), all_of(of.s));
        lanes u = sub(mul(load_some(w + i, m), load_some(dy + i, m)), all_of(mean));
        lanes t = mul(all_of(of.s), fma_minus(all_of(c), h, u));
        store_some(dx + i, m, add_to ? add(load_some(dx + i, m), t) : t);
    }
}

// ---- activations

LANE_FN void silu_of(lanes g, lanes *value, lanes *slope)
{
    const lanes one = all_of(1);
    lanes q = divide_lanes(one, add(one, exp_of(minus(g))));
    *value = mul(g, q);
    *slope = mul(q, fma_of(g, sub(one, q), one));
}

LANE_FN void gelu_of(lanes g, lanes *value, lanes *slope)
{
    const lanes one = all_of(1), half = all_of(0.5f), size = all_of(HT_GELU_SCALE);
    lanes square = mul(g, g), t = tanh_of(mul(size, fma_of(all_of(HT_GELU_CUBE), mul(g, square), g)));
    lanes inner = mul(size, fma_of(all_of(3.0f * HT_GELU_CUBE), square, one)), side = add(one, t), hg = mul(half, g);
    *value = mul(hg, side);
    *slope = fma_of(mul(hg, sub(one, mul(t, t))), inner, mul(half, side));
}

static void glu_back(enum ht_act act, const float *gate, const float *up, const float *dy, uint32_t n, float *dgate,
                     float *dup)
{
    for (uint32_t i = 0; i < n; i += LANES) {
        lane_part m = first_of(n - i);
        lanes g = load_some(gate + i, m), u = load_some(up + i, m), d = load_some(dy + i, m), value, slope;
        if (act == HT_ACT_SILU)
            silu_of(g, &value, &slope);
        else
            gelu_of(g, &value, &slope);
        store_some(dup + i, m, mul(d, value));
        store_some(dgate + i, m, mul(mul(d, u), slope));
    }
}

LANE_FN lanes cap_slope(lanes z, lanes cap)
{
    lanes t = divide_lanes(z, cap);
    return fma_minus(t, t, all_of(1));
}

static void softcap_back(const float *y, const float *dy, uint32_t n, float cap, float *dx)
{
    for (uint32_t i = 0; i < n; i += LANES) {
        lane_part m = first_of(n - i);
        store_some(dx + i, m, mul(load_some(dy + i, m), cap_slope(load_some(y + i, m), all_of(cap))));
    }
}

static void add_row(const float *x, uint32_t n, float *y)
{
    for (uint32_t i = 0; i < n; i += LANES) {
        lane_part m = first_of(n - i);
        store_some(y + i, m, add(load_some(y + i, m), load_some(x + i, m)));
    }
}

// ---- the loss

static float cross_entropy(float *x, uint32_t n, float cap, uint32_t target, float weight)
{
    lanes most = all_of(-INFINITY), sum[SIXTEEN];
    for (uint32_t j = 0; j < n; j += LANES) {
        lane_part m = first_of(n - j);
        lanes z = load_some(x + j, m);
        if (cap > 0) {
            z = mul(all_of(cap), tanh_of(divide_lanes(z, all_of(cap))));
            store_some(x + j, m, z);
        }
        most = pick_part(m, larger(z, most), most); // z > most ? z : most
    }
    float top = largest_of(most), wanted = x[target];
    clear16(sum);
    for (uint32_t j = 0; j < n; j += 16)
        EACH16 (v, j, n) {
            uint32_t at = j + v * LANES;
            lane_part m = first_of(n - at);
            lanes e = exp_of(sub(load_some(x + at, m), all_of(top)));
            sum[v] = pick_part(m, add(sum[v], e), sum[v]);
            if (!(cap > 0)) // else its z is still wanted
                store_some(x + at, m, e);
        }
    float l = fold_lanes(sum), inverse = 1.0f / l;
    float at_target = ht_exp(wanted - top), d = (at_target * inverse - 1.0f) * weight, t = wanted / cap;
    for (uint32_t j = 0; j < n; j += LANES) {
        lane_part m = first_of(n - j);
        lanes z = load_some(x + j, m), e = cap > 0 ? exp_of(sub(z, all_of(top))) : z;
        lanes g = mul(mul(e, all_of(inverse)), all_of(weight));
        store_some(x + j, m, cap > 0 ? mul(g, cap_slope(z, all_of(cap))) : g);
    }
    x[target] = cap > 0 ? d * fmaf(-t, t, 1.0f) : d;
    return (float)ht_log((double)l) + (top - wanted);
}

// ---- flat vectors

static double square_sum(const float *x, uint32_t n)
{
    return sum_of_squares(x, n);
}

static void scale(float *x, uint32_t n, float f)
{
    for (uint32_t i = 0; i < n; i += LANES) {
        lane_part m = first_of(n - i);
        store_some(x + i, m, mul(load_some(x + i, m), all_of(f)));
    }
}

static void adamw(const struct ht_adamw_step *s, const float *g, uint32_t n, float *p, float *m, float *v)
{
    const lanes beta1 = all_of(s->beta1), beta2 = all_of(s->beta2), rest1 = all_of(1.0f - s->beta1),
                rest2 = all_of(1.0f - s->beta2), correction2 = all_of(s->correction2), eps = all_of(s->eps),
                keep = all_of(s->keep), rate = all_of(s->step);
    for (uint32_t i = 0; i < n; i += LANES) {
        lane_part some = first_of(n - i);
        lanes gi = load_some(g + i, some);
        lanes first = fma_of(beta1, load_some(m + i, some), mul(rest1, gi));
        lanes second = fma_of(beta2, load_some(v + i, some), mul(mul(rest2, gi), gi));
        lanes size = add(divide_lanes(root(second), correction2), eps);
        lanes w = mul(load_some(p + i, some), keep);
        store_some(m + i, some, first);
        store_some(v + i, some, second);
        store_some(p + i, some, fma_of(rate, divide_lanes(first, size), w));
    }
}

// ---- draws: 4 * LANES words at a time

enum { DRAWN = 4 * LANES };

// A code of t = (its share of the scale) * most²; `up`: the chance in [0, 1).
LANE_FN lanes code_of(lanes t, float most, lanes up)
{
    const lanes one = all_of(1), last = all_of(most);
    lanes a = larger(root(t), all_of(0)); // a NaN is 0
    a = whole(smaller(a, last));
    lane_mask more = both(below(mul(up, add(mul(all_of(2), a), one)), sub(t, mul(a, a))), below(a, last));
    return pick(more, add(a, one), a);
}

static void adamw8(const struct ht_adamw_step *s, const struct ht_draw *draw, uint32_t first, const float *g,
                   uint32_t n, float *p, int8_t *m, uint8_t *v, float scales[2])
{
    const lanes m_unit = all_of(scales[0] * (1.0f / 16129)), v_unit = all_of(scales[1] * (1.0f / 65025));
    const lanes rest1 = all_of(1.0f - s->beta1), rest2 = all_of(1.0f - s->beta2);
    float moments[HT_MOMENT_BLOCK], roots[HT_MOMENT_BLOCK];
    lanes m_top = all_of(0), v_top = all_of(0);
    for (uint32_t i = 0; i < n; i += LANES) {
        lane_part some = first_of(n - i);
        lanes c = load_signed(m + i, n - i), k = load_unsigned(v + i, n - i), gi = load_some(g + i, some);
        lanes r = mul(v_unit, mul(k, k)), square = fma_of(all_of(s->beta2), mul(r, r), mul(mul(rest2, gi), gi));
        lanes moment = fma_of(all_of(s->beta1), mul(m_unit, mul(c, magnitude(c))), mul(rest1, gi));
        r = root(square);
        lanes size = add(divide_lanes(r, all_of(s->correction2)), all_of(s->eps));
        lanes w = mul(load_some(p + i, some), all_of(s->keep));
        store_some(p + i, some, fma_of(all_of(s->step), divide_lanes(moment, size), w));
        store(moments + i, moment); // 0 beyond the end
        store(roots + i, r);
        m_top = larger(magnitude(moment), m_top);
        v_top = larger(r, v_top);
    }
    float m_most = largest_of(m_top), v_most = largest_of(v_top);
    scales[0] = m_most >= HT_MOMENT_MIN ? m_most : 0.0f;
    scales[1] = v_most >= HT_MOMENT_MIN ? v_most : 0.0f;
    float m_inverse = scales[0] > 0 ? 1.0f / scales[0] : 0.0f, v_inverse = scales[1] > 0 ? 1.0f / scales[1] : 0.0f;
    uint32_t words[DRAWN];
    for (uint32_t i = 0; i < n; i += LANES) {
        if (i % DRAWN == 0)
            draw_words(draw->seed, draw->stream, draw->row, (first + i) / 4, words);
        lanes moment = load(moments + i), r = load(roots + i), up_m, up_v;
        halves_of(words + i % DRAWN, &up_m, &up_v);
        lanes c = code_of(mul(mul(magnitude(moment), all_of(m_inverse)), all_of(16129)), 127, up_m);
        lanes k = code_of(mul(mul(r, all_of(v_inverse)), all_of(65025)), 255, up_v);
        lane_mask least = both(below(k, all_of(1)), below(all_of(0), mul(r, all_of(v_inverse))));
        store_signed(m + i, n - i, pick(below(moment, all_of(0)), minus(c), c));
        store_unsigned(v + i, n - i, pick(least, all_of(1), k));
    }
}

static void dropout(const struct ht_draw *draw, const float *x, uint32_t n, uint32_t limit, float scale_by, bool add_to,
                    float *y)
{
    uint32_t words[DRAWN];
    for (uint32_t i = 0; i < n; i += DRAWN) {
        draw_words(draw->seed, draw->stream, draw->row, i / 4, words);
        for (uint32_t j = 0; j < DRAWN && i + j < n; j += LANES) {
            lane_part m = first_of(n - i - j);
            lanes t = pick(not_below(words + j, limit), mul(load_some(x + i + j, m), all_of(scale_by)), all_of(0));
            store_some(y + i + j, m, add_to ? add(load_some(y + i + j, m), t) : t);
        }
    }
}

static void noise(const struct ht_draw *draw, float *x, uint32_t n, float size)
{
    uint32_t words[DRAWN];
    for (uint32_t i = 0; i < n; i += DRAWN) {
        draw_words(draw->seed, draw->stream, draw->row, i / 4, words);
        for (uint32_t j = 0; j < DRAWN && i + j < n; j += LANES) {
            lane_part m = first_of(n - i - j);
            lanes u = sub(mul(all_of(2), unit_of(words + j)), all_of(1));
            store_some(x + i + j, m, fma_of(u, all_of(size), load_some(x + i + j, m)));
        }
    }
}

#endif
