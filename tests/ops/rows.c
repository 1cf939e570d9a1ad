// SPDX-License-Identifier: Apache-2.0
// embed, rmsnorm, rope, glu, gather, softcap and the functions below them: paths against the contract,
// contract against the oracle. Every view has guard zones and odd strides.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/cpu/contract.h"
#include "engine/cpu/math.h"
#include "engine/cpu/ref.h"
#include "tests/check/check.h"

static const uint32_t widths[] = {1, 2, 7, 8, 15, 16, 17, 31, 37, 64, 256, 577, 640};
enum { N_WIDTHS = sizeof widths / sizeof widths[0], ROWS = 5, MAX = 2048 };

// Runs `test` on every path and thread count.
static unsigned each_path(unsigned (*test)(struct check_device *d))
{
    unsigned failures = 0;
    for (int isa = 0; check_isas[isa]; isa++)
        for (unsigned threads = 1; threads <= 3; threads++) {
            struct check_device d;
            if (!check_open(&d, check_isas[isa], threads, HT_PRECISION_Q))
                continue;
            failures += test(&d);
            check_close(&d);
        }
    return failures;
}

static struct check_plan begin(struct check_device *d)
{
    return check_plan_begin(d, (struct ht_step_shape){ROWS, ROWS, 1, 1, 0});
}

static unsigned test_rmsnorm(struct check_device *d)
{
    unsigned failures = 0;
    for (unsigned i = 0; i < N_WIDTHS * 4; i++) {
        uint32_t dim = widths[i % N_WIDTHS], groups = i % 3 + 1, width = dim * groups;
        bool add = i % 2;
        float x[MAX], w[MAX], y[MAX], eps = 1e-6f;
        char what[96];
        snprintf(what, sizeof what, "rmsnorm %s dim %u groups %u", d->name, dim, groups);
        check_reseed(i);
        struct check_view xv = check_view_make(d, ROWS, width, width + i % 4),
                          wv = check_view_make(d, 1, dim, dim),
                          yv = check_view_make(d, ROWS, width, width + i % 3);
        check_fill(w, dim, CHECK_NORMAL);
        check_view_put(&wv, 0, w);
        struct check_plan p = begin(d);
        bool in_place = i % 5 == 4 && !add;
        struct check_view *out = in_place ? &xv : &yv;
        CHECK_OK(d->table->rmsnorm(p.plan,
                                   &(struct ht_rmsnorm){xv.ref, out->ref, wv.ref, xv.stride, out->stride,
                                                        groups, dim, eps, add, HT_ROWS_ALL},
                                   &check_err));
        check_plan_end(&p);
        for (uint32_t r = 0; r < ROWS; r++) {
            check_reseed(1000 + i * 10 + r);
            check_fill(x, width, (i + r) % CHECK_N_INPUTS);
            check_view_put(&xv, r, x);
            check_fill(y, width, CHECK_NORMAL);
            if (add)
                check_view_put(&yv, r, y);
        }
        check_plan_run(&p);
        for (uint32_t r = 0; r < ROWS; r++) {
            check_reseed(1000 + i * 10 + r);
            enum check_input input = (i + r) % CHECK_N_INPUTS;
            check_fill(x, width, input);
            check_fill(y, width, CHECK_NORMAL);
            for (uint32_t g = 0; g < groups; g++) {
                double want[MAX], bound[MAX];
                ht_contract_rmsnorm(x + g * dim, w, dim, eps, add, y + g * dim);
                if (add || input == CHECK_NONFINITE)
                    continue;
                // Sum: dim / 16 fma and 4 additions on the longest chain, all terms positive; mean, eps,
                // root, reciprocal: the relative error of the sum is halved by the root; then two products. m
                // = (dim / 16 + 5) / 2 + 6.
                ht_ref_rmsnorm(x + g * dim, w, dim, (double)eps, want);
                for (uint32_t k = 0; k < dim; k++)
                    bound[k] = check_gamma((dim / 16.0 + 6) / 2 + 6) * fabs(want[k]) + 0x1p-140;
                failures += check_bounds(what, y + g * dim, want, bound, dim);
            }
            failures += check_bits(what, check_view_row(out, r), y, width);
        }
        failures += check_view_guards(&xv, what) + check_view_guards(&yv, what);
        check_plan_free(&p);
        check_view_free(&xv);
        check_view_free(&wv);
        check_view_free(&yv);
    }
    return failures;
}

static void rmsnorm(void **state)
{
    (void)state;
    assert_int_equal(each_path(test_rmsnorm), 0);
}

static unsigned test_rope(struct check_device *d)
{
    static const struct {
        uint32_t dim, n_rot;
    } shapes[] = {{2, 2}, {64, 64}, {64, 32}, {40, 40}, {22, 18}, {256, 256}, {128, 34}};
    static const int32_t positions[ROWS] = {0, 1, 31, 4095, 31 + 32 * 100};
    unsigned failures = 0;
    for (unsigned i = 0; i < 14; i++) {
        uint32_t dim = shapes[i % 7].dim, n_rot = shapes[i % 7].n_rot, heads = i % 3 + 1, width = heads * dim,
                 pairs = n_rot / 2;
        enum ht_rope_kind kind = i < 7 ? HT_ROPE_NORM : HT_ROPE_NEOX;
        float x[ROWS][MAX], freq[MAX], c[MAX], s[MAX], mscale = i % 2 ? 1.0f : 0.8f;
        char what[96];
        snprintf(what, sizeof what, "rope %s dim %u rot %u kind %d", d->name, dim, n_rot, (int)kind);
        check_reseed(i);
        for (uint32_t k = 0; k < pairs; k++)
            freq[k] = powf(10000.0f, -(float)(2 * k) / (float)n_rot);
        struct check_view xv = check_view_make(d, ROWS, width, width + 5),
                          fv = check_view_make(d, 1, pairs, pairs);
        check_view_put(&fv, 0, freq);
        struct check_plan p = check_plan_begin(d, (struct ht_step_shape){ROWS, 1, 1, 128, 0});
        CHECK_OK(d->table->rope(p.plan,
                                &(struct ht_rope){xv.ref, fv.ref, xv.stride, heads, dim, n_rot, kind, mscale},
                                &check_err));
        check_plan_end(&p);
        for (uint32_t r = 0; r < ROWS; r++) {
            p.step.pos[r] = positions[r];
            check_fill(x[r], width, r % CHECK_N_FINITE);
            check_view_put(&xv, r, x[r]);
        }
        check_plan_run(&p);
        for (uint32_t r = 0; r < ROWS; r++) {
            for (uint32_t k = 0; k < pairs; k++) {
                ht_sincos((float)positions[r] * freq[k], &s[k], &c[k]);
                c[k] *= mscale;
                s[k] *= mscale;
            }
            for (uint32_t h = 0; h < heads; h++) {
                double want[MAX], bound[MAX];
                float *v = x[r] + h * dim;
                for (uint32_t k = 0; k < dim; k++)
                    want[k] = (double)v[k];
                ht_ref_rope(v, (double)positions[r], freq, n_rot, kind, (double)mscale, want);
                for (uint32_t k = 0; k < dim; k++)
                    bound[k] = 0; // values beyond n_rot stay as they are
                for (uint32_t k = 0; k < pairs; k++) {
                    uint32_t a = kind == HT_ROPE_NORM ? 2 * k : k,
                             b = kind == HT_ROPE_NORM ? 2 * k + 1 : k + pairs;
                    // cos and sin 1 ulp, mscale, product, fma: gamma_4 of |a| + |b|
                    bound[a] = bound[b] =
                        check_gamma(5) * (fabs((double)v[a]) + fabs((double)v[b])) + 0x1p-140;
                }
                ht_contract_rope(v, c, s, n_rot, kind);
                failures += check_bounds(what, v, want, bound, dim);
            }
            failures += check_bits(what, check_view_row(&xv, r), x[r], width);
        }
        failures += check_view_guards(&xv, what);
        check_plan_free(&p);
        check_view_free(&xv);
        check_view_free(&fv);
    }
    return failures;
}

static void rope(void **state)
{
    (void)state;
    assert_int_equal(each_path(test_rope), 0);
}

static unsigned test_glu(struct check_device *d)
{
    unsigned failures = 0;
    for (unsigned i = 0; i < N_WIDTHS * 2; i++) {
        uint32_t dim = widths[i % N_WIDTHS];
        enum ht_act act = i < N_WIDTHS ? HT_ACT_SILU : HT_ACT_GELU_TANH;
        float g[ROWS][MAX], u[ROWS][MAX], want[MAX];
        char what[96];
        snprintf(what, sizeof what, "glu %s dim %u act %d", d->name, dim, (int)act);
        check_reseed(i);
        struct check_view gv = check_view_make(d, ROWS, dim, dim + 3),
                          uv = check_view_make(d, ROWS, dim, dim),
                          yv = check_view_make(d, ROWS, dim, dim + 1);
        struct check_view *out = i % 3 == 0 ? &gv : i % 3 == 1 ? &uv : &yv;
        struct check_plan p = begin(d);
        CHECK_OK(d->table->glu(
            p.plan, &(struct ht_glu){gv.ref, uv.ref, out->ref, gv.stride, uv.stride, out->stride, dim, act},
            &check_err));
        check_plan_end(&p);
        for (uint32_t r = 0; r < ROWS; r++) {
            check_fill(g[r], dim, (i + r) % CHECK_N_INPUTS);
            check_fill(u[r], dim, r % CHECK_N_INPUTS);
            check_view_put(&gv, r, g[r]);
            check_view_put(&uv, r, u[r]);
        }
        check_plan_run(&p);
        for (uint32_t r = 0; r < ROWS; r++) {
            ht_contract_glu(act, g[r], u[r], want, dim);
            failures += check_bits(what, check_view_row(out, r), want, dim);
        }
        failures +=
            check_view_guards(&gv, what) + check_view_guards(&uv, what) + check_view_guards(&yv, what);
        check_plan_free(&p);
        check_view_free(&gv);
        check_view_free(&uv);
        check_view_free(&yv);
    }
    return failures;
}

static void glu(void **state)
{
    (void)state;
    assert_int_equal(each_path(test_glu), 0);
    // Contract against oracle, up = 1. SiLU: exp (1 ulp), addition, division: gamma_4. GELU: the tanh form
    // loses relative accuracy where 1 + tanh(u) cancels (g << 0): absolute there: 1 - 2 / (e + 1) errs by 4 u
    // at most, times |g| / 2; u itself errs by gamma_4 |u|, times the slope of tanh (1 - tanh² <= 4
    // exp(-2|u|), at most 0.45 / |u|).
    unsigned failures = 0;
    for (int i = -3000; i <= 3000; i++) {
        float g = (float)i / 150.0f, one = 1, got;
        double want, bound;
        ht_contract_glu(HT_ACT_SILU, &g, &one, &got, 1);
        want = ht_ref_glu(HT_ACT_SILU, (double)g, 1);
        bound = check_gamma(4) * fabs(want) + 0x1p-149;
        failures += check_bounds("silu", &got, &want, &bound, 1);
        ht_contract_glu(HT_ACT_GELU_TANH, &g, &one, &got, 1);
        want = ht_ref_glu(HT_ACT_GELU_TANH, (double)g, 1);
        bound = check_gamma(8) * fabs((double)g);
        failures += check_bounds("gelu", &got, &want, &bound, 1);
    }
    assert_int_equal(failures, 0);
}

static unsigned test_softcap_and_gather(struct check_device *d)
{
    unsigned failures = 0;
    for (unsigned i = 0; i < N_WIDTHS; i++) {
        uint32_t dim = widths[i];
        float x[ROWS][MAX], want[MAX];
        char what[96];
        snprintf(what, sizeof what, "gather and softcap %s dim %u", d->name, dim);
        check_reseed(i);
        struct check_view xv = check_view_make(d, ROWS, dim, dim + 3),
                          yv = check_view_make(d, ROWS, dim, dim + 1);
        struct check_plan p = begin(d);
        CHECK_OK(d->table->gather(p.plan, &(struct ht_gather){xv.ref, yv.ref, xv.stride, yv.stride, dim},
                                  &check_err));
        CHECK_OK(d->table->softcap(p.plan, &(struct ht_softcap){yv.ref, yv.stride, dim, 30.0f, HT_ROWS_OUT},
                                   &check_err));
        check_plan_end(&p);
        p.step.counts[1] = 3; // fewer outputs than there is room for: the other rows stay untouched
        for (uint32_t r = 0; r < ROWS; r++) {
            check_fill(x[r], dim, (i + r) % CHECK_N_INPUTS);
            check_view_put(&xv, r, x[r]);
            p.step.out_row[r] = (int32_t)((r * 3 + 1) % ROWS);
        }
        check_plan_run(&p);
        for (uint32_t o = 0; o < ROWS; o++) {
            if (o < 3) {
                memcpy(want, x[(o * 3 + 1) % ROWS], dim * sizeof *want);
                ht_contract_softcap(want, dim, 30.0f);
            } else {
                for (uint32_t k = 0; k < dim; k++)
                    want[k] = NAN;
            }
            failures += check_bits(what, check_view_row(&yv, o), want, dim);
        }
        failures += check_view_guards(&xv, what) + check_view_guards(&yv, what);
        check_plan_free(&p);
        check_view_free(&xv);
        check_view_free(&yv);
    }
    return failures;
}

static void softcap_and_gather(void **state)
{
    (void)state;
    assert_int_equal(each_path(test_softcap_and_gather), 0);
    unsigned failures = 0;
    for (int i = -500; i <= 500;
         i++) { // tanh errs by 4 u absolute; its argument by u |x / cap|, slope at most 1
        float x = (float)i / 3, got = x;
        double want = ht_ref_softcap((double)x, 30), bound = 30 * 0x1p-24 * (8 + fabs((double)x) / 30);
        ht_contract_softcap(&got, 1, 30);
        failures += check_bounds("softcap", &got, &want, &bound, 1);
    }
    assert_int_equal(failures, 0);
}

static unsigned test_embed(struct check_device *d)
{
    unsigned failures = 0;
    for (unsigned t = 0; t < check_n_types; t++) {
        enum { N = 37 };
        enum ht_type type = check_types[t];
        uint32_t k = ht_type_info(type)->block_values == 1 ? 41 : 256;
        uint64_t row_bytes;
        ht_row_bytes(type, k, &row_bytes);
        unsigned char *blocks = malloc(row_bytes * N), *back = malloc(row_bytes);
        float want[256];
        char what[96];
        snprintf(what, sizeof what, "embed %s %s", d->name, ht_type_info(type)->name);
        check_reseed(t);
        for (unsigned i = 0; i < N; i++)
            check_fill_blocks(type, blocks + row_bytes * i, k, i % CHECK_N_INPUTS);
        struct ht_weight *w = check_weight(d, type, N, k, blocks);
        struct check_view y = check_view_make(d, ROWS, k, k + 1);
        struct check_plan p = begin(d);
        CHECK_OK(d->table->embed(p.plan, &(struct ht_embed){w, y.ref, y.stride, 24.0f}, &check_err));
        check_plan_end(&p);
        for (uint32_t r = 0; r < ROWS; r++)
            p.step.ids[r] = (int32_t)(r * 9);
        check_plan_run(&p);
        for (uint32_t r = 0; r < ROWS; r++) {
            ht_dequant_row(type, blocks + row_bytes * (r * 9), k, want);
            for (uint32_t i = 0; i < k; i++)
                want[i] *= 24.0f;
            failures += check_bits(what, check_view_row(&y, r), want, k);
        }
        failures += check_view_guards(&y, what);
        for (uint32_t i = 0; i < N; i++) { // packing loses nothing
            CHECK_OK(d->ops->weight_unpack_row(d->device, w, i, back, &check_err));
            if (memcmp(back, blocks + row_bytes * i, row_bytes)) {
                fprintf(stderr, "%s: row %u comes back changed\n", what, i);
                failures++;
            }
        }
        p.step.ids[1] = N; // beyond the vocabulary: refused, not read
        failures += d->ops->submit(p.plan, &p.step, &check_err) != HEARTH_INVALID;
        check_plan_free(&p);
        check_view_free(&y);
        d->ops->weight_destroy(d->device, &w);
        free(blocks);
        free(back);
    }
    return failures;
}

static void embed(void **state)
{
    (void)state;
    assert_int_equal(each_path(test_embed), 0);
}

// A step that says what is not there is refused before anything is read for it.
static unsigned test_refused_steps(struct check_device *d)
{
    enum { DIM = 32 };
    unsigned failures = 0;
    struct check_view x = check_view_make(d, ROWS, DIM, DIM);
    struct check_plan p = check_plan_begin(d, (struct ht_step_shape){ROWS, ROWS, 2, 1, 0});
    CHECK_OK(d->table->softcap(p.plan,
                               &(struct ht_softcap){.x = x.ref, .stride = x.stride, .dim = DIM, .cap = 30},
                               &check_err));
    check_plan_end(&p);
    check_plan_run(&p);
    struct ht_step *s = &p.step;
    const struct {
        void *at; // 32 bits of the step
        uint32_t value;
    } lies[] = {{&s->seq[1], 1},
                {&s->seq[1], -1u},
                {&s->pos[1], HT_KV_PAGE},
                {&s->pos[1], -1u},
                {&s->counts[0], 0},
                {&s->counts[0], ROWS + 1},
                {&s->counts[0], ROWS - 1}, // fewer than there are outputs
                {&s->counts[1], ROWS + 1},
                {&s->counts[2], 0},
                {&s->counts[2], 3},
                {&s->out_row[1], ROWS},
                {&s->out_row[1], -1u},
                {&s->sampler[1].n_history, HT_MAX_PENALTY_WINDOW + 1},
                {&s->sampler[1].n_bias, HT_MAX_LOGIT_BIAS + 1},
                {&s->sampler[1].masked, 1}}; // the plan has no masks
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        uint32_t before;
        memcpy(&before, lies[i].at, sizeof before);
        memcpy(lies[i].at, &lies[i].value, sizeof before);
        if (d->ops->submit(p.plan, s, &check_err) != HEARTH_INVALID) {
            fprintf(stderr, "%s: lie %zu is believed\n", d->name, i);
            failures++;
        }
        memcpy(lies[i].at, &before, sizeof before);
    }
    s->pos[ROWS - 1] = HT_KV_PAGE - 1; // the last that is there
    check_plan_run(&p);
    check_plan_free(&p);
    check_view_free(&x);
    return failures;
}

static void refused_steps(void **state)
{
    (void)state;
    assert_int_equal(each_path(test_refused_steps), 0);
}

static double ulps(float got, double want)
{
    float near = (float)want;
    double ulp = (double)nextafterf(fabsf(near), INFINITY) - (double)fabsf(near);
    return fabs((double)got - want) / ulp;
}

static void functions(void **state)
{
    (void)state;
    double worst_exp = 0, worst_trig = 0;
    check_reseed(0);
    for (int i = 0; i < 400000; i++) {
        float x = check_unit() * (i % 2 ? 104.0f : 20.0f);
        double want = exp((double)x);
        if (want < 3e38)
            worst_exp = fmax(worst_exp, ulps(ht_exp(x), want));
        float a = check_unit() * (i % 3 == 0 ? 4194304.0f : i % 3 == 1 ? 3.2f : 1000.0f), s, c;
        ht_sincos(a, &s, &c);
        worst_trig = fmax(worst_trig, fmax(ulps(s, sin((double)a)), ulps(c, cos((double)a))));
    }
    assert_true(worst_exp <= 1.0);
    assert_true(worst_trig <= 0.51);
    assert_true(ht_exp(0) == 1 && ht_exp(-INFINITY) == 0 && ht_exp(INFINITY) == INFINITY &&
                ht_exp(-104) == 0);
    assert_true(ht_exp(NAN) != ht_exp(NAN) && ht_exp(-103.2f) == 0x1p-149f);
    assert_true(ht_tanh(100) == 1 && ht_tanh(-100) == -1 && ht_tanh(0) == 0);
    float s, c;
    ht_sincos(INFINITY, &s, &c);
    assert_true(s != s && c != c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(functions),
        cmocka_unit_test(embed),
        cmocka_unit_test(rmsnorm),
        cmocka_unit_test(rope),
        cmocka_unit_test(softcap_and_gather),
        cmocka_unit_test(refused_steps),
        cmocka_unit_test(glu),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
