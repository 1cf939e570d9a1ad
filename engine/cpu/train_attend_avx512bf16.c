// SPDX-License-Identifier: Apache-2.0
// What attention does in contract B besides products, with AVX-512 BF16: a vector is 16 queries at one key. Operation
// by operation as train_bf16_plain.c has it. Any thread.
#include "engine/cpu/lanes_avx512.h"
#include "engine/cpu/train_bf16.h"

#define EACH(i, n) _Pragma("GCC unroll 4") for (uint32_t i = 0; i < (n); i++)

LANE_FN __m512i paired(lanes even, lanes odd) // even[0], odd[0], even[1] …
{
    const __m512i zip = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                                         5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(zip, (__m512i)_mm512_cvtne2ps_pbh(odd, even));
}

void ht_bf16_pair_avx512bf16(const float *a, const float *b, uint32_t n, uint16_t *to)
{
    EACH (v, 2) {
        lane_mask m = n > v * LANES ? first_of(n - v * LANES) : 0;
        lanes even = a ? load_some(a + v * LANES, m) : all_of(0), odd = b ? load_some(b + v * LANES, m) : all_of(0);
        _mm512_storeu_si512(to + (size_t)v * 2 * LANES, paired(even, odd));
    }
}

LANE_FN lane_mask seen(const struct ht_bf16_pairs *p, uint32_t v, uint32_t key)
{
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    int32_t from = (int32_t)((uint32_t)p->first + v * LANES - key);
    return _mm512_cmplt_epu32_mask(_mm512_add_epi32(lane, _mm512_set1_epi32(from)),
                                   _mm512_set1_epi32((int32_t)p->window));
}

LANE_FN lanes capped(lanes dot, const struct ht_score *score)
{
    lanes s = mul(dot, all_of(score->scale));
    return score->softcap > 0 ? mul(all_of(score->softcap), tanh_of(divide_lanes(s, all_of(score->softcap)))) : s;
}

LANE_FN lanes leaning(lanes s, const struct ht_bf16_pairs *p, uint32_t v, uint32_t key)
{
    lanes distance = minus(count_from((int32_t)((uint32_t)p->first + v * LANES - key)));
    return p->score.slope != 0 ? fma_of(all_of(p->score.slope), distance, s) : s;
}

void ht_bf16_softmax_avx512bf16(const struct ht_bf16_pairs *p, uint32_t blocks, float *s, uint16_t *to, float *top,
                                float *sum)
{
    lanes most[2] = {all_of(-INFINITY), all_of(-INFINITY)}, l[2] = {all_of(0), all_of(0)};
    for (uint32_t j = 0; j < blocks * HT_B_STEP; j++)
        EACH (v, 2) {
            float *at = s + (size_t)j * HT_B_LANES + v * LANES;
            lanes score = leaning(capped(load(at), &p->score), p, v, j);
            store(at, score);
            most[v] = pick(seen(p, v, j), larger(score, most[v]), most[v]); // score > most ? score : most
        }
    for (uint32_t j = 0; j < blocks * HT_B_STEP; j += 2, to += 2 * HT_B_LANES)
        EACH (v, 2) {
            lanes e[2];
            EACH (i, 2) {
                lanes score = load(s + (size_t)(j + i) * HT_B_LANES + v * LANES);
                e[i] = pick(seen(p, v, j + i), exp_of(sub(score, most[v])), all_of(0));
                l[v] = add(l[v], e[i]);
            }
            _mm512_storeu_si512(to + (size_t)v * 2 * LANES, paired(e[0], e[1]));
        }
    EACH (v, 2) {
        store(top + v * LANES, most[v]);
        store(sum + v * LANES, l[v]);
    }
}

void ht_bf16_pairs_avx512bf16(const struct ht_bf16_pairs *p, const float *s, const float *dp, const float *lse,
                              const float *delta, uint16_t *to, uint16_t *to_ds, size_t next, uint16_t *ds_panel)
{
    const float cap = p->score.softcap;
    for (uint32_t j = 0; j < HT_B_STEP; j += 2) {
        lanes e[2][2], ds[2][2]; // [key][vector]
        EACH (i, 2)
            EACH (v, 2) {
                lanes value = capped(load(s + (j + i) * HT_B_LANES + v * LANES), &p->score);
                lanes x = exp_of(sub(leaning(value, p, v, j + i), load(lse + v * LANES)));
                lanes d = mul(x, sub(load(dp + (j + i) * HT_B_LANES + v * LANES), load(delta + v * LANES)));
                if (cap > 0) {
                    lanes t = divide_lanes(value, all_of(cap));
                    d = mul(d, fma_minus(t, t, all_of(1)));
                }
                lane_mask m = seen(p, v, j + i) & (p->n > v * LANES ? first_of(p->n - v * LANES) : 0);
                e[i][v] = pick(m, x, all_of(0));
                ds[i][v] = pick(m, mul(d, all_of(p->score.scale)), all_of(0));
            }
        EACH (i, 2) {
            size_t at = (j + i) / HT_B_ROWS * next + (j + i) % HT_B_ROWS * HT_B_STEP;
            _mm512_storeu_si512(to + at, (__m512i)_mm512_cvtne2ps_pbh(e[i][1], e[i][0]));
            _mm512_storeu_si512(to_ds + at, (__m512i)_mm512_cvtne2ps_pbh(ds[i][1], ds[i][0]));
        }
        EACH (v, 2)
            _mm512_storeu_si512(ds_panel + (size_t)(j / 2) * 2 * HT_B_LANES + v * 2 * LANES,
                                paired(ds[0][v], ds[1][v]));
    }
}
