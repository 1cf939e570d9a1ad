// SPDX-License-Identifier: Apache-2.0
// attend and attend_back, in F and both variants of B: every path and thread count the same bits (of B the path "ref"
// is plain C), against the double oracle within the bound below, the oracle against finite differences, and packed
// segments against the same segments alone, bit for bit.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/base/half.h"
#include "engine/cpu/train_ref.h"
#include "tests/check/train.h"

enum { MOST_ROWS = 230 }; // more than a chunk of the backward op, with keys of several blocks
enum { Q, K, V, DY, Y, LSE, DQ, DK, DV, N_VIEWS };

struct shape {
    uint32_t heads, kv_heads, k_dim, v_dim, window;
    float softcap, size, bias;
    uint32_t rows;
};
static const struct shape shapes[] = {
    {1, 1, 1, 1, 0, 0, 1, 0, 45},      {3, 3, 16, 8, 0, 0, 1, 0, 45},    {9, 3, 33, 32, 0, 0, 1, 0, 45},
    {4, 1, 64, 64, 7, 0, 0.5f, 0, 45}, {6, 2, 24, 40, 0, 2.5f, 1, 0, 45}, {2, 1, 8, 16, 16, 30, 2, 0, 45},
    {4, 2, 16, 16, 1, 0, 1, 0, 45},    {2, 2, 32, 32, 0, 0, 3, 0, 45},   {3, 1, 16, 24, 0, 0, 1, 4, 45},
    {5, 5, 8, 8, 9, 2, 1, 8, 45},      {2, 1, 8, 17, 0, 0, 1, 0, 230},   {2, 2, 5, 8, 70, 0, 1, 0, 230},
    {1, 1, 4, 3, 130, 5, 1, 2, 229},
};
enum { N_SHAPES = sizeof shapes / sizeof shapes[0], N_PRECISIONS = HT_TRAIN_B_AMX + 1 };

static uint32_t width_of(const struct shape *s, int view)
{
    uint32_t q = s->heads * s->k_dim, k = s->kv_heads * s->k_dim, v = s->kv_heads * s->v_dim, y = s->heads * s->v_dim;
    uint32_t widths[] = {[Q] = q, [K] = k, [V] = v, [DY] = y, [Y] = y, [LSE] = s->heads, [DQ] = q, [DK] = k, [DV] = v};
    return widths[view];
}

static uint32_t segment_of(uint32_t r) // rows 0..9, 10, 11 and all that follow
{
    return r < 10 ? 0 : r == 10 ? 10 : 11;
}

// Forward and backward over `rows` rows of `in` that begin at `from`; segments as segment_of has them.
static void run(struct check_device *d, const struct shape *s, enum ht_train_precision precision,
                const struct train_in *in, uint32_t from, uint32_t rows, struct train_in *out)
{
    struct train_plan p = train_plan_begin(d, rows, 1);
    for (int i = Q; i < N_VIEWS; i++) {
        out[i] = train_in_make(d, rows, width_of(s, i), width_of(s, i) + (uint32_t)i % 4, 1);
        for (uint32_t r = 0; r < rows && i <= DY; r++)
            check_view_put(&out[i].view, r, check_view_row(&in[i].view, from + r));
    }
#define AT(i) out[i].view.ref
#define BY(i) out[i].view.stride
    struct ht_attend f = {AT(Q),        AT(K),    AT(V),    AT(Y),      AT(LSE),     BY(Q),     BY(K),
                          BY(V),        BY(Y),    BY(LSE),  s->heads,   s->kv_heads, s->k_dim,  s->v_dim,
                          0.3f,         s->softcap, s->window, s->bias, precision};
    struct ht_attend_back b = {f, AT(DY), AT(DQ), AT(DK), AT(DV), BY(DY), BY(DQ), BY(DK), BY(DV)};
    CHECK_OK(p.ops->attend(p.base.plan, &f, &check_err));
    CHECK_OK(p.ops->attend_back(p.base.plan, &b, &check_err));
    train_plan_end(&p);
    for (uint32_t r = 0; r < rows; r++)
        p.train.seg_from[r] = segment_of(from + r) - from;
    train_plan_run(&p);
    train_plan_free(&p);
}

// For B values of 8 bits: what is rounded then is probabilities and the gradients of scores.
static void make_inputs(struct check_device *d, const struct shape *s, enum ht_train_precision precision,
                        struct train_in *in)
{
    for (int i = Q; i <= DY; i++) {
        in[i] = train_in_make(d, s->rows, width_of(s, i), width_of(s, i), i <= K ? s->size : 1);
        float *x = (float *)check_view_row(&in[i].view, 0);
        for (size_t j = 0; j < in[i].n && precision != HT_TRAIN_F; j++) {
            x[j] = ht_bf16_f32(ht_f32_bf16(x[j]));
            in[i].x[j] = (double)x[j];
            in[i].magnitude[j] = fabs(in[i].x[j]);
        }
    }
}

static void free_all(struct train_in *in, int from, int to)
{
    for (int i = from; i <= to; i++)
        train_in_free(&in[i]);
}

// A score errs by δ = γ(k_dim + 2) Σ|q k| scale, through the soft-cap by 8 u c more. A probability exp(s - lse) errs
// relatively by ε = 2 δ (its score and lse), γ(rows + 10) for l, its log and exp, and u for each rounding of s and lse,
// whose size is at most the largest score plus log(rows); 1.1 for the second order. With M = the sums of the
// magnitudes: y errs by (ε + γ) M, gradients by (2 ε + γ) M, since D uses y; the soft-cap's slope errs by
// 2 (δ / c + 5 u) in absolute terms, of at most 1. In B probabilities are rounded by 2^-9 more, and so are gradients of
// scores, whose D has the former's error: ε grows by 2^-8.
static double relative_error(const struct shape *s, enum ht_train_precision precision, const struct train_in *in,
                             double *slope_error)
{
    double u = 0x1p-24, largest = 0;
    for (uint32_t r = 0; r < s->rows; r++)
        for (uint32_t j = 0; j < s->rows; j++)
            for (uint32_t h = 0; h < s->heads; h++) {
                double sum = 0;
                uint32_t kv = h / (s->heads / s->kv_heads);
                for (uint32_t i = 0; i < s->k_dim; i++)
                    sum += in[Q].magnitude[(r * s->heads + h) * s->k_dim + i] *
                           in[K].magnitude[(j * s->kv_heads + kv) * s->k_dim + i];
                largest = fmax(largest, 0.3 * sum);
            }
    double lean = s->bias > 0 ? s->rows : 0; // no slope is above 1
    double delta = check_gamma(s->k_dim + 3) * largest + 8 * u * (double)s->softcap + 2 * u * lean;
    largest += lean;
    *slope_error = s->softcap > 0 ? 2 * (delta / (double)s->softcap + 5 * u) : 0;
    return 1.1 * (2 * delta + check_gamma(s->rows + 10) + 3 * u * (largest + log(s->rows))) +
           (precision == HT_TRAIN_F ? 0 : 0x1p-8);
}

static unsigned one(struct check_device *d, unsigned c, enum ht_train_precision precision)
{
    unsigned failures = 0;
    const struct shape *s = &shapes[c];
    struct train_in in[DY + 1], out[N_VIEWS];
    uint32_t seg_from[MOST_ROWS];
    char what[96];
    snprintf(what, sizeof what, "attend %s precision %d case %u", d->name, (int)precision, c);
    check_reseed(c);
    memset(in, 0, sizeof in);
    make_inputs(d, s, precision, in);
    run(d, s, precision, in, 0, s->rows, out);
    for (uint32_t r = 0; r < s->rows; r++)
        seg_from[r] = segment_of(r);
    struct ht_ref_attend f = {s->rows,   s->heads,      s->kv_heads,        s->k_dim,         s->v_dim,
                              s->window, (double)0.3f, (double)s->softcap, (double)s->bias, seg_from};
    double *want[N_VIEWS], *bound[N_VIEWS], slope_error, e = relative_error(s, precision, in, &slope_error);
    for (int i = Y; i < N_VIEWS; i++) {
        want[i] = train_doubles(out[i].n);
        bound[i] = train_doubles(out[i].n);
    }
    ht_ref_attend(&f, in[Q].x, in[K].x, in[V].x, want[Y]);
    ht_ref_attend(&f, in[Q].x, in[K].x, in[V].magnitude, bound[Y]);
    ht_ref_attend_back(&f, in[Q].x, in[K].x, in[V].x, in[DY].x, false, want[DQ], want[DK], want[DV]);
    ht_ref_attend_back(&f, in[Q].x, in[K].x, in[V].x, in[DY].x, true, bound[DQ], bound[DK], bound[DV]);
    double chains = check_gamma(s->k_dim + 2 * s->v_dim + s->rows * s->heads + 16);
    for (int i = Y; i < N_VIEWS; i++) {
        for (size_t j = 0; j < out[i].n; j++)
            bound[i][j] *= i == Y ? e + chains : 2 * e + slope_error + chains;
        if (i != LSE)
            failures += train_compare(what, &out[i].view, want[i], bound[i]);
        failures += train_same_bits(what, ((unsigned)precision * N_SHAPES + c) * N_VIEWS + (unsigned)i, &out[i].view);
        free(want[i]);
        free(bound[i]);
    }
    free_all(out, Q, DV);
    free_all(in, Q, DY);
    return failures;
}

static unsigned test_attend(struct check_device *d)
{
    unsigned failures = 0;
    for (unsigned p = HT_TRAIN_F; p < N_PRECISIONS; p++)
        for (unsigned c = 0; c < N_SHAPES && d->ops->train->supports(d->device, (enum ht_train_precision)p); c++)
            failures += one(d, c, (enum ht_train_precision)p);
    return failures;
}

static void against_oracle(void **state)
{
    (void)state;
    assert_int_equal(train_each_path(test_attend), 0);
}

static unsigned packed(struct check_device *d, const struct shape *s, enum ht_train_precision precision)
{
    struct train_in in[DY + 1], all[N_VIEWS], alone[N_VIEWS];
    const uint32_t from[] = {0, 10, 11, s->rows};
    unsigned failures = 0;
    memset(in, 0, sizeof in);
    make_inputs(d, s, precision, in);
    run(d, s, precision, in, 0, s->rows, all);
    for (int part = 0; part < 3; part++) {
        run(d, s, precision, in, from[part], from[part + 1] - from[part], alone);
        for (int i = Y; i < N_VIEWS; i++)
            for (uint32_t r = from[part]; r < from[part + 1]; r++)
                failures += check_bits("packed", check_view_row(&all[i].view, r),
                                       check_view_row(&alone[i].view, r - from[part]), all[i].view.width);
        free_all(alone, Q, DV);
    }
    free_all(all, Q, DV);
    free_all(in, Q, DY);
    return failures;
}

static void packed_equals_alone(void **state)
{
    (void)state;
    unsigned failures = 0;
    struct check_device d;
    assert_true(check_open(&d, NULL, 2, HT_PRECISION_Q));
    for (unsigned p = HT_TRAIN_F; p < N_PRECISIONS; p++)
        for (unsigned c = 0; c < N_SHAPES && d.ops->train->supports(d.device, (enum ht_train_precision)p); c++) {
            check_reseed(c);
            failures += packed(&d, &shapes[c], (enum ht_train_precision)p);
        }
    check_close(&d);
    assert_int_equal(failures, 0);
}

struct problem {
    struct ht_ref_attend f;
    double *q, *k, *v, *dy, *y;
    size_t n_y;
};

static double objective(void *user)
{
    struct problem *p = user;
    double sum = 0;
    ht_ref_attend(&p->f, p->q, p->k, p->v, p->y);
    for (size_t i = 0; i < p->n_y; i++)
        sum += p->y[i] * p->dy[i];
    return sum;
}

static void finite_differences(void **state)
{
    (void)state;
    static const uint32_t seg_from[] = {0, 0, 0, 3, 3, 3, 3};
    static const char *const names[] = {"q",      "k",      "v",      "q, window", "k, window", "v, window",
                                        "q, cap", "k, cap", "v, cap", "q, lean",   "k, lean",   "v, lean"};
    unsigned failures = 0;
    for (int c = 0; c < 4; c++) {
        struct problem p = {.n_y = 7 * 4 * 5};
        p.f = (struct ht_ref_attend){7,   4,        2,      3, 5, c == 1 ? 2 : 0,
                                     0.7, c == 2 ? 1.5 : 0, c == 3 ? 6 : 0, seg_from};
        size_t n[3] = {7 * 4 * 3, 7 * 2 * 3, 7 * 2 * 5};
        check_reseed((uint64_t)c);
        double *x[3], *g[3];
        for (int i = 0; i < 3; i++) {
            x[i] = train_random_doubles(n[i]);
            g[i] = train_doubles(n[i]);
        }
        p.q = x[0];
        p.k = x[1];
        p.v = x[2];
        p.dy = train_random_doubles(p.n_y);
        p.y = train_doubles(p.n_y);
        ht_ref_attend_back(&p.f, p.q, p.k, p.v, p.dy, false, g[0], g[1], g[2]);
        for (int i = 0; i < 3; i++)
            for (size_t j = 0; j < n[i]; j++)
                failures += train_slope_is(names[3 * c + i], g[i][j], train_slope(objective, &p, &x[i][j]), 1);
        for (int i = 0; i < 3; i++) {
            free(x[i]);
            free(g[i]);
        }
        free(p.dy);
        free(p.y);
    }
    assert_int_equal(failures, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finite_differences),
        cmocka_unit_test(against_oracle),
        cmocka_unit_test(packed_equals_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
