// SPDX-License-Identifier: Apache-2.0
// kv_store and attention: paths against the contract bit for bit, contract against the oracle, cache formats,
// batches.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/cpu/contract.h"
#include "engine/cpu/kv.h"
#include "engine/cpu/math.h"
#include "engine/cpu/ref.h"
#include "tests/check/check.h"

struct attention_case {
    enum ht_kv_type type;
    uint32_t heads, kv_heads, k_dim, v_dim, length, window;
    float softcap, alibi;
    enum check_input input;
};

struct sequence { // what one session feeds: (length, ...)
    float *q, *k, *v, *y;
};

static struct sequence sequence_make(const struct attention_case *c)
{
    size_t n = c->length;
    struct sequence s = {malloc(n * c->heads * c->k_dim * 4), malloc(n * c->kv_heads * c->k_dim * 4),
                         malloc(n * c->kv_heads * c->v_dim * 4), malloc(n * c->heads * c->v_dim * 4)};
    check_fill(s.q, n * c->heads * c->k_dim, c->input);
    check_fill(s.k, n * c->kv_heads * c->k_dim, c->input);
    check_fill(s.v, n * c->kv_heads * c->v_dim, c->input);
    return s;
}

static void sequence_free(struct sequence *s)
{
    free(s->q);
    free(s->k);
    free(s->v);
    free(s->y);
}

static float slope_of(const struct attention_case *c, uint32_t head)
{
    uint32_t power = 1;
    while (power * 2 <= c->heads)
        power *= 2;
    double step = head < power ? head + 1 : (2.0 * (head - power) + 1) / 2;
    return c->alibi > 0 ? (float)exp2(-(double)c->alibi * step / power) : 0;
}

// The contract, query by query. `stored` (kv_heads, length, dim) receive what the cache keeps. Returns y in
// s->y.
static unsigned contract(const struct attention_case *c, struct sequence *s, bool with_oracle)
{
    struct ht_kv_params params = {1, c->kv_heads, c->k_dim, c->v_dim, 1, c->type};
    struct ht_kv_geometry g;
    struct ht_kernels kernels;
    unsigned failures = 0;
    ht_kernels_ref(&kernels);
    ht_kv_geometry(&params, &g);
    unsigned char *page = calloc(1, g.head_bytes);
    float *k = malloc((size_t)c->length * c->k_dim * 4), *v = malloc((size_t)c->length * c->v_dim * 4);
    float *e = malloc(c->length * 4);
    double *bias = malloc(c->length * 8), *want = malloc(c->v_dim * 8), *size = malloc(c->v_dim * 8);
    float scale = 1.0f / sqrtf((float)c->k_dim);
    for (uint32_t h = 0; h < c->heads; h++) {
        uint32_t kvh = h / (c->heads / c->kv_heads);
        for (uint32_t j = 0; j < c->length; j++) {
            ht_kv_put(&g, &kernels, page, j % 32, s->k + ((size_t)j * c->kv_heads + kvh) * c->k_dim,
                      s->v + ((size_t)j * c->kv_heads + kvh) * c->v_dim);
            for (uint32_t d = 0; d < c->k_dim; d++)
                k[(size_t)j * c->k_dim + d] = ht_kv_get_k(&g, page, j % 32, d);
            for (uint32_t d = 0; d < c->v_dim; d++)
                v[(size_t)j * c->v_dim + d] = ht_kv_get_v(&g, page, j % 32, d);
        }
        for (uint32_t p = 0; p < c->length; p++) {
            const float *q = s->q + ((size_t)p * c->heads + h) * c->k_dim;
            float *y = s->y + ((size_t)p * c->heads + h) * c->v_dim;
            uint32_t from = c->window && p >= c->window ? p - c->window + 1 : 0;
            for (uint32_t j = from; j <= p; j++)
                e[j] = ht_contract_dot_f(q, k + (size_t)j * c->k_dim, c->k_dim);
            float l = ht_contract_softmax(e, from, p + 1, scale, c->softcap, slope_of(c, h), p);
            for (uint32_t d = 0; d < c->v_dim; d++) {
                float acc = 0;
                for (uint32_t j = from; j <= p; j++)
                    acc = fmaf(e[j], v[(size_t)j * c->v_dim + d], acc);
                y[d] = acc / l;
            }
            if (!with_oracle)
                continue;
            uint32_t n = p + 1 - from;
            double most = 0;
            for (uint32_t j = from; j <= p; j++) {
                bias[j - from] = (double)slope_of(c, h) * ((double)j - p);
                double sum = 0;
                for (uint32_t d = 0; d < c->k_dim; d++)
                    sum += fabs((double)q[d] * (double)k[(size_t)j * c->k_dim + d]);
                most = fmax(most, sum * (double)scale + fabs(bias[j - from]));
            }
            ht_ref_attention(q, k + (size_t)from * c->k_dim, v + (size_t)from * c->v_dim, n, c->k_dim,
                             c->v_dim, (double)scale, (double)c->softcap, bias, want, size);
            // A score errs by at most gamma(k_dim + 8) of its terms (chain, scale; soft-cap: a division, tanh
            // of 5 operations whose slope is at most 1, a product; slope: one fma). exp turns that, twice
            // (score and maximum), into a relative error; exp itself and the subtraction: 2 ulp and |s| u.
            // The sums: n fma; n / 16 + 4 additions; one division.
            double score = check_gamma(c->k_dim + 8) * most * 2 + 0x1p-24 * most * 2;
            double relative = expm1(2 * score) + check_gamma(n + n / 16.0 + 16);
            for (uint32_t d = 0; d < c->v_dim; d++)
                size[d] = relative * size[d] * 2 + 0x1p-140;
            failures += check_bounds("attention against the oracle", y, want, size, c->v_dim);
        }
    }
    free(page);
    free(k);
    free(v);
    free(e);
    free(bias);
    free(want);
    free(size);
    return failures;
}

// Feeds two sessions in chunks of the given size, pages in a scattered order, and compares every row.
static unsigned run_case(struct check_device *d, const struct attention_case *c, uint32_t chunk,
                         const struct sequence *s)
{
    char what[160];
    unsigned failures = 0;
    snprintf(what, sizeof what,
             "attention %s kv %d heads %u/%u dims %u,%u len %u win %u cap %g alibi %g %s chunk %u", d->name,
             (int)c->type, c->heads, c->kv_heads, c->k_dim, c->v_dim, c->length, c->window,
             (double)c->softcap, (double)c->alibi, check_input_names[c->input], chunk);
    uint32_t pages = (c->length + 31) / 32, qw = c->heads * c->k_dim, kw = c->kv_heads * c->k_dim,
             vw = c->kv_heads * c->v_dim, yw = c->heads * c->v_dim, rows = 2 * chunk;
    struct ht_kv *kv;
    CHECK_OK(d->ops->kv_create(d->device,
                               &(struct ht_kv_params){2, c->kv_heads, c->k_dim, c->v_dim, 2 * pages, c->type},
                               &kv, &check_err));
    struct check_view q = check_view_make(d, rows, qw, qw + 1), k = check_view_make(d, rows, kw, kw),
                      v = check_view_make(d, rows, vw, vw), y = check_view_make(d, rows, yw, yw + 2);
    struct check_plan p = check_plan_begin(d, (struct ht_step_shape){rows, 1, 2, pages, 0});
    CHECK_OK(d->table->kv_store(p.plan, &(struct ht_kv_store){kv, 1, k.ref, v.ref, k.stride, v.stride},
                                &check_err));
    CHECK_OK(d->table->attention(p.plan,
                                 &(struct ht_attention){kv, 1, q.ref, y.ref, q.stride, y.stride, c->heads,
                                                        1.0f / sqrtf((float)c->k_dim), c->softcap, c->window,
                                                        c->alibi},
                                 &check_err));
    check_plan_end(&p);
    for (uint32_t i = 0; i < 2 * pages; i++)
        p.step.page[i] = (i * 7 + 3) % (2 * pages) == i ? i : 2 * pages - 1 - i;
    p.step.counts[2] = 2;
    for (uint32_t at = 0; at < c->length && !failures; at += chunk) {
        uint32_t n = c->length - at < chunk ? c->length - at : chunk;
        p.step.counts[0] = 2 * n;
        for (uint32_t r = 0; r < 2 * n; r++) {
            uint32_t pos = at + r % n;
            p.step.seq[r] = (int32_t)(r / n);
            p.step.pos[r] = (int32_t)pos;
            check_view_put(&q, r, s->q + (size_t)pos * qw);
            check_view_put(&k, r, s->k + (size_t)pos * kw);
            check_view_put(&v, r, s->v + (size_t)pos * vw);
        }
        check_plan_run(&p);
        for (uint32_t r = 0; r < 2 * n && !failures; r++)
            failures += check_bits(what, check_view_row(&y, r), s->y + (size_t)(at + r % n) * yw, yw);
    }
    failures += check_view_guards(&y, what) + check_view_guards(&q, what);
    uint32_t last = (uint32_t)p.step.pos[p.step.counts[0] - 1] / HT_KV_PAGE; // a page that the pool has not: refused
    p.step.page[pages + last] = 2 * pages;
    failures += d->ops->submit(p.plan, &p.step, &check_err) != HEARTH_INVALID;
    check_plan_free(&p);
    check_view_free(&q);
    check_view_free(&k);
    check_view_free(&v);
    check_view_free(&y);
    d->ops->kv_destroy(d->device, &kv);
    return failures;
}

static const struct attention_case cases[] = {
    {HT_KV_F16, 9, 3, 64, 64, 70, 0, 0, 0, CHECK_NORMAL},
    {HT_KV_F32, 4, 1, 64, 64, 67, 20, 0, 0, CHECK_NORMAL},
    {HT_KV_Q8, 6, 2, 64, 64, 40, 0, 0, 0, CHECK_OUTLIERS},
    {HT_KV_Q8, 3, 3, 40, 24, 35, 7, 0, 0, CHECK_NORMAL},
    {HT_KV_F16, 8, 8, 33, 17, 34, 0, 30.0f, 0, CHECK_NORMAL},
    {HT_KV_F32, 6, 3, 5, 3, 33, 3, 0, 8.0f, CHECK_NORMAL},
    {HT_KV_F16, 28, 2, 16, 16, 37, 0, 50.0f, 8.0f, CHECK_NORMAL},
    {HT_KV_F16, 2, 1, 16, 32, 33, 1, 0, 0, CHECK_LIMITS},
    {HT_KV_F16, 2, 1, 256, 256, 66, 33, 0, 0, CHECK_NORMAL},
    {HT_KV_F32, 1, 1, 1, 1, 3, 0, 0, 0, CHECK_ZEROS},
    {HT_KV_F16, 3, 1, 8, 8, 9, 0, 0, 0, CHECK_NONFINITE},
    {HT_KV_Q8, 3, 1, 32, 32, 9, 0, 0, 0, CHECK_NONFINITE},
    {HT_KV_Q8, 2, 2, 32, 64, 40, 0, 0, 0, CHECK_DENORMAL},
    {HT_KV_F16, 4, 2, 16, 16, 33, 5, 0, 0, CHECK_ONE_HOT},
};

static void paths_equal_contract(void **state)
{
    (void)state;
    static const uint32_t chunks[] = {1, 2, 5, 16, 64};
    unsigned failures = 0;
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        check_reseed(i);
        struct sequence s = sequence_make(&cases[i]);
        failures +=
            contract(&cases[i], &s, cases[i].input != CHECK_NONFINITE && cases[i].input != CHECK_DENORMAL);
        for (int isa = 0; check_isas[isa]; isa++)
            for (unsigned threads = 1; threads <= 3; threads++) {
                struct check_device d;
                if (!check_open(&d, check_isas[isa], threads, HT_PRECISION_Q))
                    continue;
                for (unsigned j = isa ? 0 : threads; j < 5; j += isa ? 1 : 3)
                    failures += run_case(&d, &cases[i], chunks[j], &s);
                check_close(&d);
            }
        sequence_free(&s);
    }
    assert_int_equal(failures, 0);
}

// q8: |value - x| <= d / 2 + |x| 2^-23, d = amax / 127 as a half float (kv.c); f16: half an ulp; f32: none.
static void formats_within_bound(void **state)
{
    (void)state;
    unsigned failures = 0;
    struct ht_kernels kernels;
    ht_kernels_ref(&kernels);
    for (enum ht_kv_type type = HT_KV_F32; type <= HT_KV_Q8; type++)
        for (unsigned input = 0; input < CHECK_N_FINITE; input++) {
            struct ht_kv_params params = {1, 1, 72, 40, 1, type};
            struct ht_kv_geometry g;
            ht_kv_geometry(&params, &g);
            unsigned char *page = calloc(1, g.head_bytes);
            check_reseed(input);
            for (unsigned j = 0; j < 32; j++) {
                float k[72], v[40];
                check_fill(k, 72, input);
                check_fill(v, 40, input);
                ht_kv_put(&g, &kernels, page, j, k, v);
                for (unsigned i = 0; i < 112; i++) {
                    const float *x = i < 72 ? k : v;
                    unsigned dim = i < 72 ? 72 : 40, at = i < 72 ? i : i - 72;
                    float amax = 0;
                    for (unsigned b = at / 32 * 32; b < dim && b < at / 32 * 32 + 32; b++)
                        amax = fabsf(x[b]) > amax ? fabsf(x[b]) : amax;
                    double step = (double)amax / 127, got = (double)(i < 72 ? ht_kv_get_k(&g, page, j, at)
                                                                            : ht_kv_get_v(&g, page, j, at));
                    double half_d = step * 0x1p-11 + 0x1p-25; // d as a half float
                    double bound = type == HT_KV_F32   ? 0
                                   : type == HT_KV_F16 ? fabs((double)x[at]) * 0x1p-11 + 0x1p-25
                                                       : (step + half_d) / 2 + fabs((double)x[at]) * 0x1p-22;
                    if (step < 0x1p-24 && type == HT_KV_Q8)
                        bound = (double)amax; // d rounds to 0 or loses its bits
                    failures += !(fabs(got - (double)x[at]) <= bound);
                }
            }
            free(page);
        }
    assert_int_equal(failures, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(paths_equal_contract),
                                       cmocka_unit_test(formats_within_bound)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
