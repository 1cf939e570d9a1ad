// SPDX-License-Identifier: Apache-2.0
// Attention's row kernels of ht_train_kernels in vectors, operation by operation as train_kernels.c has them. Included
// by train_lanes_*.c only.
#ifndef HT_TRAIN_LANES_H
#define HT_TRAIN_LANES_H
#include "engine/cpu/lanes.h"
#include "engine/cpu/train_kernels.h"

LANE_FN lanes capped(lanes dot, const struct ht_score *score)
{
    lanes s = mul(dot, all_of(score->scale));
    return score->softcap > 0 ? mul(all_of(score->softcap), tanh_of(divide_lanes(s, all_of(score->softcap)))) : s;
}

LANE_FN lanes leaning(lanes s, const struct ht_score *score, int32_t distance)
{
    return score->slope != 0 ? fma_of(all_of(score->slope), count_from(distance), s) : s;
}

static float softmax(float *s, uint32_t from, uint32_t to, const struct ht_score *score, float *top)
{
    lanes most = all_of(-INFINITY), sum[SIXTEEN];
    for (uint32_t j = from & ~(LANES - 1u); j < to; j += LANES) {
        lane_part m = j < from ? but_first(first_of(to - j), from - j) : first_of(to - j);
        lanes v = leaning(capped(load_some(s + j, m), score), score, (int32_t)j - (int32_t)to + 1);
        store_some(s + j, m, v);
        most = pick_part(m, larger(v, most), most); // v > most ? v : most
    }
    *top = largest_of(most);
    for (unsigned i = 0; i < SIXTEEN; i++)
        sum[i] = all_of(0);
    for (uint32_t begin = from & ~15u; begin < to; begin += 16)
        EACH16 (i, begin, to) {
            uint32_t j = begin + i * LANES;
            if (j + LANES <= from)
                continue;
            lane_part m = j < from ? but_first(first_of(to - j), from - j) : first_of(to - j);
            lanes e = exp_of(sub(load_some(s + j, m), all_of(*top)));
            store_some(s + j, m, e);
            sum[i] = pick_part(m, add(sum[i], e), sum[i]);
        }
    return fold_lanes(sum);
}

static void pairs(float *s, float *dp, uint32_t n, const struct ht_score *score, int32_t distance, float lse,
                  float delta)
{
    for (uint32_t j = 0; j < n; j += LANES) {
        lane_part m = first_of(n - j);
        lanes value = capped(load_some(s + j, m), score);
        lanes p = exp_of(sub(leaning(value, score, distance + (int32_t)j), all_of(lse)));
        lanes ds = mul(p, sub(load_some(dp + j, m), all_of(delta)));
        if (score->softcap > 0) {
            lanes t = divide_lanes(value, all_of(score->softcap));
            ds = mul(ds, fma_minus(t, t, all_of(1)));
        }
        store_some(s + j, m, p);
        store_some(dp + j, m, mul(ds, all_of(score->scale)));
    }
}

static float dot(const float *a, const float *b, uint32_t n)
{
    lanes sum[SIXTEEN];
    for (unsigned v = 0; v < SIXTEEN; v++)
        sum[v] = all_of(0);
    for (uint32_t i = 0; i < n; i += 16)
        EACH16 (v, i, n) {
            lane_part m = first_of(n - i - v * LANES);
            sum[v] = fma_of(load_some(a + i + v * LANES, m), load_some(b + i + v * LANES, m), sum[v]);
        }
    return fold_lanes(sum);
}

static void put_scaled(const float *t, uint32_t n, float scale, bool add_to, float *y)
{
    for (uint32_t i = 0; i < n; i += LANES) {
        lane_part m = first_of(n - i);
        lanes v = load_some(t + i, m), f = all_of(scale);
        store_some(y + i, m, add_to ? fma_of(f, v, load_some(y + i, m)) : mul(f, v));
    }
}

#endif
