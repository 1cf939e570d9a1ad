// SPDX-License-Identifier: Apache-2.0
// Backward of the row ops, the loss, the optimizer and the draws: every path and thread count the same bits, against
// the double oracle within derived bounds; the oracle against finite differences (u = 2^-24).
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/cpu/train_ref.h"
#include "tests/check/train.h"

enum { ROWS = 9 };
static const double U = 0x1p-24;
static const uint32_t widths[] = {1, 2, 15, 16, 37, 64, 577};
enum { N_WIDTHS = sizeof widths / sizeof widths[0] };

// M = s |w dy| + |x| s³ / dim Σ|w dy x|: the sums have dim / 16 + 4 roundings, s takes half of its own and 5 more, s³
// three times that; 40 for the rest.
static unsigned test_norm(struct check_device *d)
{
    unsigned failures = 0;
    for (unsigned c = 0; c < N_WIDTHS * 2; c++) {
        uint32_t dim = widths[c / 2], groups = c % 3 + 1, width = dim * groups;
        bool add = c % 2;
        char what[96];
        snprintf(what, sizeof what, "rmsnorm_back %s dim %u groups %u", d->name, dim, groups);
        check_reseed(c);
        struct train_in x = train_in_make(d, ROWS, width, width + 1, 1), w = train_in_make(d, 1, dim, dim, 1),
                        dy = train_in_make(d, ROWS, width, width, 1), dx = train_in_make(d, ROWS, width, width + 2, 1);
        struct train_plan p = train_plan_begin(d, ROWS, 1);
        struct ht_rmsnorm_back op = {x.view.ref, w.view.ref, dy.view.ref, dx.view.ref, x.view.stride, dy.view.stride,
                                     dx.view.stride, groups, dim, 1e-5f, add, HT_ROWS_ALL};
        CHECK_OK(p.ops->rmsnorm_back(p.base.plan, &op, &check_err));
        train_plan_end(&p);
        train_plan_run(&p);
        double *want = train_doubles(dx.n), *bound = train_doubles(dx.n), eps = (double)1e-5f;
        for (size_t g = 0; g < (size_t)ROWS * groups; g++) {
            double squares = 0, along = 0;
            ht_ref_norm_back(x.x + g * dim, w.x, dy.x + g * dim, dim, eps, want + g * dim);
            for (uint32_t i = 0; i < dim; i++) {
                squares += x.x[g * dim + i] * x.x[g * dim + i];
                along += fabs(w.x[i] * dy.x[g * dim + i] * x.x[g * dim + i]);
            }
            double s = 1 / sqrt(squares / dim + eps);
            for (uint32_t i = 0; i < dim; i++) {
                size_t at = g * dim + i;
                double m = s * fabs(w.x[i] * dy.x[at]) + x.magnitude[at] * s * s * s / dim * along;
                bound[at] = check_gamma(3 * (dim / 16 + 1) + 40) * (m + add * dx.magnitude[at]);
                want[at] += add ? dx.x[at] : 0;
            }
        }
        failures += train_compare(what, &dx.view, want, bound) + train_same_bits(what, c, &dx.view);
        free(want);
        free(bound);
        train_plan_free(&p);
        train_in_free(&x);
        train_in_free(&w);
        train_in_free(&dy);
        train_in_free(&dx);
    }
    return failures;
}

// With D = dim / 16 + 6: the mean errs by m = γ_D Σ|x| / dim; s by half of 2 γ_D + 2 m |x - mean| s² and 4 u, at most
// e = γ_(D + 8) + m s; h = (x - mean) s by e (1 + |h|) + m s. y: |w| of that, 2 roundings. dx = s (u - a - h c): a and
// c err by γ_D of their magnitudes and c by the error of h; all is multiplied by s.
static unsigned test_layernorm(struct check_device *d)
{
    unsigned failures = 0;
    for (unsigned c = 0; c < N_WIDTHS * 2; c++) {
        uint32_t dim = widths[c / 2];
        bool add = c % 2; // also: a bias or none
        double eps = (double)1e-3f, chain = check_gamma(dim / 16 + 6);
        char what[96];
        snprintf(what, sizeof what, "layernorm %s dim %u add %d", d->name, dim, add);
        check_reseed(c);
        struct train_in x = train_in_make(d, ROWS, dim, dim + 1, 1), w = train_in_make(d, 1, dim, dim, 1),
                        b = train_in_make(d, 1, dim, dim, 1), y = train_in_make(d, ROWS, dim, dim + 3, 1),
                        dy = train_in_make(d, ROWS, dim, dim, 1), dx = train_in_make(d, ROWS, dim, dim + 2, 1);
        struct train_plan p = train_plan_begin(d, ROWS, 1);
        struct ht_layernorm forward = {x.view.ref, y.view.ref, w.view.ref, add ? b.view.ref : (struct ht_ref){NULL, 0},
                                       x.view.stride, y.view.stride, dim, 1e-3f, HT_ROWS_ALL};
        struct ht_layernorm_back back = {x.view.ref, w.view.ref, dy.view.ref, dx.view.ref, x.view.stride,
                                         dy.view.stride, dx.view.stride, dim, 1e-3f, add, HT_ROWS_ALL};
        CHECK_OK(p.ops->layernorm(p.base.plan, &forward, &check_err));
        CHECK_OK(p.ops->layernorm_back(p.base.plan, &back, &check_err));
        train_plan_end(&p);
        train_plan_run(&p);
        double *want[2] = {train_doubles(x.n), train_doubles(x.n)};
        double *bound[2] = {train_doubles(x.n), train_doubles(x.n)};
        for (size_t r = 0; r < ROWS; r++) {
            const double *xr = x.x + r * dim, *dyr = dy.x + r * dim;
            double sum = 0, size = 0, squares = 0, us = 0, uhs = 0, es = 0;
            ht_ref_layernorm(xr, w.x, add ? b.x : NULL, dim, eps, want[0] + r * dim);
            ht_ref_layernorm_back(xr, w.x, dyr, dim, eps, want[1] + r * dim);
            for (uint32_t i = 0; i < dim; i++) {
                sum += xr[i] / dim;
                size += fabs(xr[i]) / dim;
            }
            for (uint32_t i = 0; i < dim; i++)
                squares += (xr[i] - sum) * (xr[i] - sum) / dim;
            double s = 1 / sqrt(squares + eps), m = chain * size + U * fabs(sum), e = chain + 8 * U + 2 * m * s;
            for (uint32_t i = 0; i < dim; i++) {
                double h = fabs(xr[i] - sum) * s, u = fabs(w.x[i] * dyr[i]);
                us += u / dim;
                uhs += u * h / dim;
                es += u * (e * (1 + h) + m * s) / dim;
            }
            for (uint32_t i = 0; i < dim; i++) {
                size_t at = r * dim + i;
                double h = fabs(xr[i] - sum) * s, h_error = e * (1 + h) + m * s, u = fabs(w.x[i] * dyr[i]);
                double terms = s * (u + us + h * uhs), added = add ? dx.magnitude[at] : 0;
                bound[0][at] = fabs(w.x[i]) * h_error + 3 * U * (fabs(w.x[i]) * h + (add ? b.magnitude[i] : 0));
                bound[1][at] = s * (chain * (us + h * uhs) + h * es + h_error * uhs) + (e + 8 * U) * terms;
                bound[1][at] += 2 * U * added;
                want[1][at] += add ? dx.x[at] : 0;
            }
        }
        failures += train_compare(what, &y.view, want[0], bound[0]) + train_same_bits(what, 260 + 2 * c, &y.view);
        failures += train_compare(what, &dx.view, want[1], bound[1]) + train_same_bits(what, 261 + 2 * c, &dx.view);
        for (int i = 0; i < 2; i++) {
            free(want[i]);
            free(bound[i]);
        }
        train_plan_free(&p);
        struct train_in *all[] = {&x, &w, &b, &y, &dy, &dx};
        for (int i = 0; i < 6; i++)
            train_in_free(all[i]);
    }
    return failures;
}

// Angle and functions: 0.51 ulp each, product, fma: γ_5 (|a| + |b|).
static unsigned test_rope(struct check_device *d)
{
    enum { HEADS = 3, DIM = 12, ROT = 8 };
    unsigned failures = 0;
    for (unsigned c = 0; c < 2; c++) {
        enum ht_rope_kind kind = c ? HT_ROPE_NEOX : HT_ROPE_NORM;
        check_reseed(c);
        struct train_in x = train_in_make(d, ROWS, HEADS * DIM, HEADS * DIM + 1, 1),
                        freq = train_in_make(d, 1, 4, 4, 1);
        struct train_plan p = train_plan_begin(d, ROWS, 1);
        struct ht_rope_back op = {{x.view.ref, freq.view.ref, x.view.stride, HEADS, DIM, ROT, kind, 1.25f}};
        CHECK_OK(p.ops->rope_back(p.base.plan, &op, &check_err));
        train_plan_end(&p);
        train_plan_run(&p);
        double *bound = train_doubles(x.n);
        for (size_t r = 0; r < ROWS; r++)
            for (size_t h = 0; h < HEADS; h++) {
                double angle[ROT / 2], *head = x.x + (r * HEADS + h) * DIM, sum = 0;
                for (int i = 0; i < DIM; i++)
                    sum += fabs(head[i]);
                for (int i = 0; i < ROT / 2; i++)
                    angle[i] = (double)((float)r * check_view_row(&freq.view, 0)[i]);
                for (int i = 0; i < ROT; i++)
                    bound[(r * HEADS + h) * DIM + (size_t)i] = check_gamma(5) * 1.25 * sum;
                ht_ref_rotate(head, angle, ROT, kind, 1.25, -1);
            }
        failures += train_compare(d->name, &x.view, x.x, bound) + train_same_bits(d->name, 100 + c, &x.view);
        free(bound);
        train_plan_free(&p);
        train_in_free(&x);
        train_in_free(&freq);
    }
    return failures;
}

// SiLU: q errs by γ_4 (exp 2 u, sum, division), g q dy by 2 more. SiLU': 1 - q errs by 5 u absolutely: q γ_12 (1 + |g|)
// in all; GELU': tanh errs by γ_7 absolutely (its argument's error times its slope included), so 1 - t² by γ_17:
// γ_24 (1 + |g| inner). Values as in tests/ops/rows.c.
static unsigned test_glu(struct check_device *d)
{
    unsigned failures = 0;
    for (unsigned c = 0; c < N_WIDTHS * 2; c++) {
        uint32_t dim = widths[c / 2];
        enum ht_act act = c % 2 ? HT_ACT_GELU_TANH : HT_ACT_SILU;
        check_reseed(c);
        struct train_in g = train_in_make(d, ROWS, dim, dim + 1, 3), up = train_in_make(d, ROWS, dim, dim + 2, 1),
                        dy = train_in_make(d, ROWS, dim, dim, 1);
        struct train_plan p = train_plan_begin(d, ROWS, 1);
        struct ht_glu_back op = {g.view.ref, up.view.ref, dy.view.ref, g.view.ref, up.view.ref, g.view.stride,
                                 up.view.stride, dy.view.stride, g.view.stride, up.view.stride, dim, act};
        CHECK_OK(p.ops->glu_back(p.base.plan, &op, &check_err)); // in place
        train_plan_end(&p);
        train_plan_run(&p);
        double *want[2] = {train_doubles(g.n), train_doubles(g.n)};
        double *bound[2] = {train_doubles(g.n), train_doubles(g.n)};
        for (size_t i = 0; i < g.n; i++) {
            double x = g.x[i], a = g.magnitude[i], q = 1 / (1 + exp(-x)), inner = 0.8 * (1 + 0.1342 * x * x);
            ht_ref_gate_back(act, x, up.x[i], dy.x[i], &want[0][i], &want[1][i]);
            bound[0][i] = fabs(dy.x[i] * up.x[i]) *
                          (act == HT_ACT_SILU ? check_gamma(14) * q * (1 + a) : check_gamma(26) * (1 + a * inner));
            bound[1][i] = act == HT_ACT_SILU ? check_gamma(6) * fabs(want[1][i]) : check_gamma(9) * fabs(dy.x[i]) * a;
        }
        failures += train_compare("dgate", &g.view, want[0], bound[0]) + train_same_bits("dgate", 110 + 2 * c, &g.view);
        failures += train_compare("dup", &up.view, want[1], bound[1]) + train_same_bits("dup", 111 + 2 * c, &up.view);
        for (int i = 0; i < 2; i++) {
            free(want[i]);
            free(bound[i]);
        }
        train_plan_free(&p);
        train_in_free(&g);
        train_in_free(&up);
        train_in_free(&dy);
    }
    return failures;
}

// softcap_back reads y, here the oracle's rounded: 1 - t² errs by 6 u. scatter moves bits.
static unsigned test_cap_and_scatter(struct check_device *d)
{
    enum { DIM = 37, OUTS = 4 };
    static const int32_t rows[OUTS] = {7, 0, 3, 8};
    unsigned failures = 0;
    check_reseed(0);
    struct train_in x = train_in_make(d, ROWS, DIM, DIM + 1, 4), dy = train_in_make(d, ROWS, DIM, DIM, 1),
                    dx = train_in_make(d, ROWS, DIM, DIM + 3, 1), sum = train_in_make(d, ROWS, DIM, DIM, 1);
    struct train_plan p = train_plan_begin(d, ROWS, OUTS);
    double *want = train_doubles(x.n), *bound = train_doubles(x.n), *moved = train_doubles(x.n);
    struct ht_softcap_back cap = {x.view.ref, dy.view.ref, dx.view.ref, x.view.stride, dy.view.stride,
                                  dx.view.stride, DIM, 5, HT_ROWS_ALL};
    struct ht_scatter scatter = {dy.view.ref, sum.view.ref, dy.view.stride, sum.view.stride, DIM, true};
    CHECK_OK(p.ops->softcap_back(p.base.plan, &cap, &check_err));
    CHECK_OK(p.ops->scatter(p.base.plan, &scatter, &check_err));
    train_plan_end(&p);
    memcpy(p.base.step.out_row, rows, sizeof rows);
    for (size_t i = 0; i < x.n; i++) {
        size_t r = i / DIM, c = i % DIM;
        ((float *)check_view_row(&x.view, (uint32_t)r))[c] = (float)(5 * tanh(x.x[i] / 5));
        want[i] = ht_ref_cap_back(x.x[i], 5, dy.x[i]);
        bound[i] = check_gamma(6) * dy.magnitude[i];
        moved[i] = sum.x[i];
        for (size_t o = 0; o < OUTS; o++)
            if ((size_t)rows[o] == r)
                moved[i] = (double)(float)(sum.x[i] + dy.x[o * DIM + c]);
    }
    train_plan_run(&p);
    failures += train_compare("softcap_back", &dx.view, want, bound) + train_same_bits("softcap_back", 200, &dx.view);
    memset(bound, 0, x.n * sizeof *bound);
    failures += train_compare("scatter", &sum.view, moved, bound);
    free(want);
    free(bound);
    free(moved);
    train_plan_free(&p);
    train_in_free(&x);
    train_in_free(&dy);
    train_in_free(&dx);
    train_in_free(&sum);
    return failures;
}

// z errs by 8 u c through the soft-cap, z - top by u times the range: a probability errs relatively by
// e = γ(n / 16 + 24) + 32 u c + 4 u range, its difference from one-hot by u more; the loss by e and γ_4 of its terms.
static unsigned test_loss(struct check_device *d)
{
    static const uint32_t vocab[] = {1, 7, 16, 513};
    static const int32_t rows[] = {8, 1, 2, 5, 6};
    enum { OUTS = 5 };
    unsigned failures = 0;
    for (unsigned c = 0; c < 8; c++) {
        uint32_t n = vocab[c / 2];
        double cap = c % 2 ? 3 : 0;
        check_reseed(c);
        struct train_in x = train_in_make(d, OUTS, n, n + 1, 4), loss = train_in_make(d, 1, ROWS, ROWS, 1);
        struct train_plan p = train_plan_begin(d, ROWS, OUTS);
        struct ht_cross_entropy op = {x.view.ref, loss.view.ref, x.view.stride, n, (float)cap};
        CHECK_OK(p.ops->cross_entropy(p.base.plan, &op, &check_err));
        train_plan_end(&p);
        memcpy(p.base.step.out_row, rows, sizeof rows);
        double *want = train_doubles(x.n), *bound = train_doubles(x.n), loss_bound[ROWS] = {0}, range = 0;
        for (size_t i = 0; i < x.n; i++)
            range = fmax(range, 2 * x.magnitude[i]);
        double e = check_gamma(n / 16 + 24) + 32 * U * cap + 4 * U * range;
        for (size_t o = 0; o < OUTS; o++) {
            uint32_t r = (uint32_t)rows[o];
            p.train.target[r] = (int32_t)(r * 31 % n);
            p.train.weight[r] = r == 5 ? 0 : 0.25f * (float)r;
            double weight = (double)p.train.weight[r];
            loss.x[r] = ht_ref_cross_entropy(x.x + o * n, n, cap, (uint32_t)p.train.target[r], weight, want + o * n);
            loss_bound[r] = e + check_gamma(4) * (range + log(n));
            for (uint32_t j = 0; j < n; j++) {
                double one = j == (uint32_t)p.train.target[r], t = cap > 0 ? tanh(x.x[o * n + j] / cap) : 0,
                       slope = 1 - t * t, probability = want[o * n + j] / (weight > 0 ? weight * slope : 1) + one;
                bound[o * n + j] = weight * (fabs(probability) * e + 3 * U * one +
                                             (cap > 0 ? 24 * U * fabs(probability - one) : 0) + 1e-12);
            }
        }
        train_plan_run(&p);
        failures += train_compare("cross_entropy", &x.view, want, bound) + train_same_bits("loss", 210 + c, &x.view);
        failures += train_compare("loss", &loss.view, loss.x, loss_bound);
        free(want);
        free(bound);
        train_plan_free(&p);
        train_in_free(&x);
        train_in_free(&loss);
    }
    return failures;
}

// m errs by γ_4 of its terms, v by γ_5 of itself: the step by γ_24 of its size with |m| as the sum of terms.
static unsigned test_flat(struct check_device *d)
{
    enum { N = 9001 };
    unsigned failures = 0;
    check_reseed(3);
    struct train_in w = train_in_make(d, 1, N, N, 1), g = train_in_make(d, 1, N, N, 1),
                    m = train_in_make(d, 1, N, N, 0), v = train_in_make(d, 1, N, N, 0),
                    sum = train_in_make(d, 1, 1, 1, 1);
    struct train_plan p = train_plan_begin(d, 1, 1);
    CHECK_OK(p.ops->sumsq(p.base.plan, &(struct ht_sumsq){g.view.ref, sum.view.ref, N}, &check_err));
    CHECK_OK(p.ops->scale(p.base.plan, &(struct ht_scale){g.view.ref, sum.view.ref, N, 1, 2.0f}, &check_err));
    CHECK_OK(p.ops->adamw(p.base.plan,
                          &(struct ht_adamw){w.view.ref, g.view.ref, m.view.ref, v.view.ref, N, 2, 0.75f, 0.9375f,
                                             1e-8f, 0.125f},
                          &check_err));
    train_plan_end(&p);
    double *bound = train_doubles(N), squares = 0, sum_bound;
    for (uint32_t i = 0; i < N; i++)
        squares += g.x[i] * g.x[i];
    sum_bound = U * squares * 1.01;
    double norm = sqrt(squares), scale = 2 / (norm + 1e-6);
    assert_true(norm > 2);
    for (unsigned step = 1; step <= 2; step++) { // the second step: the norm is 2, nothing is clipped
        double rate = 2 * (double)1e-3f;
        *p.train.values = (struct ht_train_values){1, step, 1e-3f, (float)(1 - pow(0.75, step)),
                                                   (float)sqrt(1 - pow(0.9375, step)), 0};
        train_plan_run(&p);
        for (uint32_t i = 0; i < N; i++) {
            double gi = g.x[i] * scale, terms = 0.75 * fabs(m.x[i]) + 0.25 * fabs(gi);
            ht_ref_adamw(&(struct ht_ref_adamw){rate, 0.75, 0.9375, (double)1e-8f, 0.125, step}, gi, &w.x[i], &m.x[i],
                         &v.x[i]);
            double root = sqrt(v.x[i] / (1 - pow(0.9375, step))) + 1e-8;
            bound[i] += check_gamma(6) * fabs(w.x[i]) + rate / (1 - pow(0.75, step)) * check_gamma(40) * terms / root;
        }
        failures += train_compare("adamw", &w.view, w.x, bound) + train_same_bits("adamw", 230 + step, &w.view);
        if (step == 1)
            failures += train_compare("sumsq", &sum.view, &squares, &sum_bound);
    }
    free(bound);
    train_plan_free(&p);
    train_in_free(&w);
    train_in_free(&g);
    train_in_free(&m);
    train_in_free(&v);
    train_in_free(&sum);
    return failures;
}

// The norm as it is clipped by: a small one shows what is added to it, and one that is no number leaves none.
static unsigned test_clip(struct check_device *d)
{
    enum { N = 40 };
    static const float sizes[] = {1e-6f, 1e25f, NAN};
    unsigned failures = 0;
    struct train_in g = train_in_make(d, 1, N, N, 1), sum = train_in_make(d, 1, 1, 1, 1);
    struct train_plan p = train_plan_begin(d, 1, 1);
    CHECK_OK(p.ops->sumsq(p.base.plan, &(struct ht_sumsq){g.view.ref, sum.view.ref, N}, &check_err));
    CHECK_OK(p.ops->scale(p.base.plan, &(struct ht_scale){g.view.ref, sum.view.ref, N, 1, 1e-6f}, &check_err));
    train_plan_end(&p);
    for (size_t c = 0; c < sizeof sizes / sizeof *sizes; c++) {
        float *x = (float *)check_view_row(&g.view, 0);
        for (uint32_t i = 0; i < N; i++)
            x[i] = i == 3 ? sizes[c] : c ? 1.0f : sizes[c];
        train_plan_run(&p);
        double want = 1e-6 * 1e-6 / (sqrt(N) * 1e-6 + 1e-6); // of the first case
        for (uint32_t i = 0; i < N; i++)
            failures += c ? !isnan(x[i]) : !(fabs((double)x[i] / want - 1) < 1e-6);
    }
    if (failures)
        fprintf(stderr, "%s: clipping is wrong\n", d->name);
    train_plan_free(&p);
    train_in_free(&g);
    train_in_free(&sum);
    return failures;
}

// Moments of one byte, from zeros. The first step moves the values by the bits that adamw moves them by; then codes are
// those around the moment, m within one of them and v too, and neither errs to one side: the sum of the errors of N
// values is within 6 of its standard deviations, each at most half a distance of codes.
static unsigned test_bytes(struct check_device *d)
{
    enum { N = 9001, BLOCKS = (N + HT_MOMENT_BLOCK - 1) / HT_MOMENT_BLOCK, BYTES = (N + 3) / 4 };
    unsigned failures = 0;
    check_reseed(5);
    struct train_in w[2] = {train_in_make(d, 1, N, N, 1), train_in_make(d, 1, N, N, 1)},
                    g = train_in_make(d, 1, N, N, 1), m = train_in_make(d, 1, N, N, 0),
                    v = train_in_make(d, 1, N, N, 0),
                    codes[2] = {train_in_make(d, 1, BYTES, BYTES, 0), train_in_make(d, 1, BYTES, BYTES, 0)},
                    scales = train_in_make(d, 1, 2 * BLOCKS, 2 * BLOCKS, 0);
    check_view_put(&w[1].view, 0, check_view_row(&w[0].view, 0));
    for (uint32_t i = 0; i < N; i += 7)
        ((float *)check_view_row(&g.view, 0))[i] *= 1e-6f; // far below the first code
    struct train_plan p = train_plan_begin(d, 1, 1);
    struct ht_adamw whole = {w[0].view.ref, g.view.ref, m.view.ref, v.view.ref, N, 2, 0.75f, 0.9375f, 1e-8f, 0.125f};
    struct ht_adamw8 bytes = {w[1].view.ref, g.view.ref, codes[0].view.ref, codes[1].view.ref, scales.view.ref, N, 512,
                              9, 2, 0.75f, 0.9375f, 1e-8f, 0.125f};
    CHECK_OK(p.ops->adamw(p.base.plan, &whole, &check_err));
    CHECK_OK(p.ops->adamw8(p.base.plan, &bytes, &check_err));
    bytes.first = 7;
    assert_int_equal(p.ops->adamw8(p.base.plan, &bytes, &check_err), HEARTH_INVALID);
    train_plan_end(&p);
    train_plan_run(&p);
    failures += check_bits("first step", check_view_row(&w[1].view, 0), check_view_row(&w[0].view, 0), N);
    double sum[2] = {0}, variance[2] = {0};
    for (uint32_t i = 0; i < N; i++) {
        const float *scale = check_view_row(&scales.view, 0) + 2 * (i / HT_MOMENT_BLOCK);
        double code[2] = {((const int8_t *)(const void *)check_view_row(&codes[0].view, 0))[i],
                          ((const uint8_t *)(const void *)check_view_row(&codes[1].view, 0))[i]};
        double want[2] = {(double)check_view_row(&m.view, 0)[i], sqrt((double)check_view_row(&v.view, 0)[i])};
        for (int j = 0; j < 2; j++) {
            double most = j ? 255 : 127, top = (double)scale[j], error = top * code[j] * fabs(code[j]) / (most * most);
            double apart = top * (2 * floor(sqrt(fabs(want[j]) / top) * most) + 1) / (most * most);
            error -= want[j];
            failures += fabs(error) > apart + 4 * U * top || (j && want[j] > 0 && code[j] < 1);
            sum[j] += j && code[j] <= 1 ? 0 : error; // a v of at least 1 errs upwards
            variance[j] += apart * apart / 4;
        }
    }
    failures += fabs(sum[0]) > 6 * sqrt(variance[0]) || fabs(sum[1]) > 6 * sqrt(variance[1]);
    for (unsigned step = 2; step <= 4; step++) {
        *p.train.values = (struct ht_train_values){1, step, 1e-3f, (float)(1 - pow(0.75, step)),
                                                   (float)sqrt(1 - pow(0.9375, step)), 0};
        train_plan_run(&p);
    }
    failures += train_same_bits("values", 300, &w[1].view) + train_same_bits("scales", 301, &scales.view);
    for (unsigned j = 0; j < 2; j++)
        failures += train_same_bits("codes", 302 + j, &codes[j].view) + check_view_guards(&codes[j].view, "codes");
    failures += check_view_guards(&w[1].view, "values") + check_view_guards(&scales.view, "scales");
    train_plan_free(&p);
    struct train_in *all[] = {&w[0], &w[1], &g, &m, &v, &codes[0], &codes[1], &scales};
    for (int i = 0; i < 8; i++)
        train_in_free(all[i]);
    return failures;
}

// Σ (w - target)² / 2 goes down with moments of bytes as it does with those of f32.
static unsigned test_descent(struct check_device *d)
{
    enum { N = 700, STEPS = 400, BYTES = N / 4, BLOCKS = 3 };
    unsigned failures = 0;
    check_reseed(6);
    struct train_in w = train_in_make(d, 1, N, N, 1), g = train_in_make(d, 1, N, N, 1),
                    m = train_in_make(d, 1, BYTES, BYTES, 0), v = train_in_make(d, 1, BYTES, BYTES, 0),
                    scales = train_in_make(d, 1, 2 * BLOCKS, 2 * BLOCKS, 0);
    struct train_plan p = train_plan_begin(d, 1, 1);
    struct ht_adamw8 op = {w.view.ref, g.view.ref, m.view.ref, v.view.ref, scales.view.ref, N, 0, 9, 1, 0.9f, 0.99f,
                           1e-8f, 0};
    CHECK_OK(p.ops->adamw8(p.base.plan, &op, &check_err));
    train_plan_end(&p);
    double loss = 0;
    for (unsigned step = 1; step <= STEPS; step++) {
        float *at = (float *)check_view_row(&w.view, 0), *slope = (float *)check_view_row(&g.view, 0);
        for (uint32_t i = 0; i < N; i++)
            slope[i] = (at[i] - 0.5f) * (i % 16 == 0 ? 1.0f : 0.01f); // of different size in a block
        *p.train.values = (struct ht_train_values){1, step, 5e-2f * (float)(STEPS - step) / STEPS,
                                                   (float)(1 - pow(0.9, step)), (float)sqrt(1 - pow(0.99, step)), 0};
        train_plan_run(&p);
    }
    for (uint32_t i = 0; i < N; i++)
        loss = fmax(loss, fabs((double)check_view_row(&w.view, 0)[i] - 0.5));
    failures += !(loss < 0.05); // from up to 3.5
    train_plan_free(&p);
    struct train_in *all[] = {&w, &g, &m, &v, &scales};
    for (int i = 0; i < 5; i++)
        train_in_free(all[i]);
    if (failures)
        fprintf(stderr, "%s: %g away\n", d->name, loss);
    return failures;
}

static unsigned test_draws(struct check_device *d)
{
    enum { DIM = 1000 };
    unsigned failures = 0, kept = 0;
    double mean = 0, largest = 0;
    check_reseed(4);
    struct train_in x = train_in_make(d, ROWS, DIM, DIM + 1, 1), y = train_in_make(d, ROWS, DIM, DIM, 1),
                    z = train_in_make(d, ROWS, DIM, DIM + 2, 1), outs = train_in_make(d, ROWS, DIM, DIM, 1);
    struct train_plan p = train_plan_begin(d, ROWS, 3);
    struct ht_dropout drop = {x.view.ref, y.view.ref, x.view.stride, y.view.stride, DIM, 5, 0.25f, false,
                              HT_ROWS_ALL};
    CHECK_OK(p.ops->dropout(p.base.plan, &drop, &check_err));
    drop.y = outs.view.ref;
    drop.rows = HT_ROWS_OUT;
    CHECK_OK(p.ops->dropout(p.base.plan, &drop, &check_err));
    CHECK_OK(p.ops->fill(p.base.plan, &(struct ht_fill){z.view.ref, DIM, 0.0f}, &check_err)); // its first row
    CHECK_OK(p.ops->noise(p.base.plan, &(struct ht_noise){z.view.ref, z.view.stride, DIM, 5, 6.0f}, &check_err));
    train_plan_end(&p);
    for (uint32_t r = 0; r < ROWS; r++) {
        p.train.seg_from[r] = r < 4 ? 0 : 4;
        p.train.row_id[r] = r == 8 ? 2 : r; // the draws of row 2 again
    }
    for (uint32_t o = 0; o < 3; o++)
        p.base.step.out_row[o] = (int32_t)(7 - 2 * o);
    train_plan_run(&p);
    for (uint32_t o = 0; o < 4; o++) // an output row has the draws of its row; the fourth is none
        for (uint32_t i = 0; i < DIM; i++) {
            float got = check_view_row(&outs.view, o)[i];
            failures += (o < 3 ? check_view_row(&y.view, 7 - 2 * o)[i] != 0 : true) != (got != 0);
        }
    for (uint32_t r = 0; r < ROWS; r++)
        for (uint32_t i = 0; i < DIM; i++) {
            float got = check_view_row(&y.view, r)[i], from = check_view_row(&x.view, r)[i];
            failures += got != 0 && got != from * (1.0f / 0.75f);
            kept += got != 0;
            failures += r == 8 && (got != 0) != (check_view_row(&y.view, 2)[i] != 0);
            double u = (double)check_view_row(&z.view, 0)[i] / (6 / sqrt(4.0 * DIM));
            mean += r ? 0 : u / DIM;
            largest = r ? largest : fmax(largest, fabs(u));
        }
    failures += kept < 6600 || kept > 6900; // 6750 ± 41 (one standard deviation)
    failures += fabs(mean) > 0.075 || largest > 1.000001 || largest < 0.98;
    failures += check_view_guards(&y.view, "dropout") + check_view_guards(&z.view, "noise");
    failures += train_same_bits("dropout", 240, &y.view) + train_same_bits("noise", 241, &z.view);
    train_plan_free(&p);
    train_in_free(&x);
    train_in_free(&y);
    train_in_free(&z);
    train_in_free(&outs);
    return failures;
}

#define TEST(name)                                                                                           \
    static void name(void **state)                                                                           \
    {                                                                                                        \
        (void)state;                                                                                         \
        assert_int_equal(train_each_path(test_##name), 0);                                                   \
    }
TEST(norm)
TEST(layernorm)
TEST(rope)
TEST(glu)
TEST(cap_and_scatter)
TEST(loss)
TEST(flat)
TEST(clip)
TEST(bytes)
TEST(descent)
TEST(draws)

// ---- the oracle against finite differences: objective Σ dy y

enum { N = 7 };
struct problem {
    int op; // 0 norm, 1 glu silu, 2 glu gelu, 3 soft-cap, 4 loss, 5 loss with soft-cap, 6 rope, 7 layernorm
    double *x, *w, *dy;
};

static double objective(void *user)
{
    struct problem *p = user;
    double y[N], sum = 0;
    static const double angle[3] = {0.3, 1.7, -4};
    memcpy(y, p->x, sizeof y);
    if (p->op == 0)
        ht_ref_norm(p->x, p->w, N, 1e-3, y);
    if (p->op == 6)
        ht_ref_rotate(y, angle, 6, HT_ROPE_NORM, 1.5, 1);
    if (p->op == 7)
        ht_ref_layernorm(p->x, p->w, NULL, N, 1e-3, y);
    if (p->op == 4 || p->op == 5)
        return 0.5 * ht_ref_cross_entropy(p->x, N, p->op == 5 ? 2 : 0, 3, 0.5, NULL);
    for (int i = 0; i < N; i++) {
        if (p->op == 1 || p->op == 2)
            y[i] = ht_ref_gate(p->op == 1 ? HT_ACT_SILU : HT_ACT_GELU_TANH, p->x[i], p->w[i]);
        if (p->op == 3)
            y[i] = 2 * tanh(p->x[i] / 2);
        sum += p->dy[i] * y[i];
    }
    return sum;
}

static void finite_differences(void **state)
{
    (void)state;
    static const double angle[3] = {0.3, 1.7, -4};
    unsigned failures = 0;
    check_reseed(9);
    struct problem p = {0, train_random_doubles(N), train_random_doubles(N), train_random_doubles(N)};
    for (; p.op < 8; p.op++) {
        double dx[N], dw[N];
        memcpy(dx, p.dy, sizeof dx);
        if (p.op == 0)
            ht_ref_norm_back(p.x, p.w, p.dy, N, 1e-3, dx);
        if (p.op == 7)
            ht_ref_layernorm_back(p.x, p.w, p.dy, N, 1e-3, dx);
        if (p.op == 4 || p.op == 5)
            ht_ref_cross_entropy(p.x, N, p.op == 5 ? 2 : 0, 3, 0.5, dx);
        if (p.op == 6)
            ht_ref_rotate(dx, angle, 6, HT_ROPE_NORM, 1.5, -1);
        for (int i = 0; i < N; i++) {
            char what[16];
            snprintf(what, sizeof what, "op %d", p.op);
            if (p.op == 1 || p.op == 2) {
                enum ht_act act = p.op == 1 ? HT_ACT_SILU : HT_ACT_GELU_TANH;
                ht_ref_gate_back(act, p.x[i], p.w[i], p.dy[i], &dx[i], &dw[i]);
                failures += train_slope_is("up", dw[i], train_slope(objective, &p, &p.w[i]), 1);
            }
            if (p.op == 3)
                dx[i] = ht_ref_cap_back(p.x[i], 2, p.dy[i]);
            failures += train_slope_is(what, dx[i], train_slope(objective, &p, &p.x[i]), 1);
        }
    }
    free(p.x);
    free(p.w);
    free(p.dy);
    assert_int_equal(failures, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finite_differences), cmocka_unit_test(norm),    cmocka_unit_test(layernorm),
        cmocka_unit_test(rope),               cmocka_unit_test(glu),     cmocka_unit_test(loss),
        cmocka_unit_test(cap_and_scatter),    cmocka_unit_test(flat),    cmocka_unit_test(bytes),
        cmocka_unit_test(descent),            cmocka_unit_test(draws),   cmocka_unit_test(clip),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
