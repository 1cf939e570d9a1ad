// SPDX-License-Identifier: Apache-2.0
// linear, linear_t, dense: every weight type, path and thread count the same bits; against the double oracle within
// γ_m Σ|terms|, m = the length of the chain and what follows it.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/cpu/train_ref.h"
#include "tests/check/train.h"

enum { ROWS = 11 };

struct matrix { // a weight and its values
    struct ht_weight *w;
    double *x, *magnitude;
};

static struct matrix matrix_make(struct check_device *d, enum ht_type type, uint32_t n, uint32_t k)
{
    uint64_t row_bytes;
    ht_row_bytes(type, k, &row_bytes);
    struct matrix m = {NULL, train_doubles((size_t)n * k), train_doubles((size_t)n * k)};
    unsigned char *blocks = malloc(row_bytes * n);
    float *row = malloc(k * sizeof *row);
    for (uint32_t i = 0; i < n; i++) {
        check_fill_blocks(type, blocks + row_bytes * i, k, CHECK_NORMAL);
        ht_dequant_row(type, blocks + row_bytes * i, k, row);
        for (uint32_t j = 0; j < k; j++) {
            m.x[(size_t)i * k + j] = (double)row[j];
            m.magnitude[(size_t)i * k + j] = fabs((double)row[j]);
        }
    }
    m.w = check_weight(d, type, n, k, blocks);
    free(blocks);
    free(row);
    return m;
}

static void matrix_free(struct check_device *d, struct matrix *m)
{
    d->ops->weight_destroy(d->device, &m->w);
    free(m->x);
    free(m->magnitude);
}

static void times(double *x, size_t n, double by)
{
    for (size_t i = 0; i < n; i++)
        x[i] *= by;
}

// y and the sum of magnitudes become want and bound.
static unsigned judge(const char *what, const struct check_view *v, double *want, double *bound, double roundings)
{
    times(bound, (size_t)v->rows * v->width, check_gamma(roundings));
    return train_compare(what, v, want, bound);
}

static unsigned frozen_case(struct check_device *d, unsigned t, bool add)
{
    enum ht_type type = check_types[t];
    uint32_t block = ht_type_info(type)->block_values, k = block == 1 ? 277 : 3 * block > 768 ? 768 : 3 * block;
    uint32_t n[2] = {21, 40};
    unsigned failures = 0, index = 8 * t + (add ? 4 : 0);
    char what[96];
    snprintf(what, sizeof what, "linear %s %s add %d", d->name, ht_type_info(type)->name, add);
    check_reseed(t);
    struct train_in x = train_in_make(d, ROWS, k, k + 3, 1), dx = train_in_make(d, ROWS, k, k + 1, 1);
    struct train_in bias = train_in_make(d, 1, n[0], n[0], 1);
    struct matrix w[2];
    struct train_in y[2], dy[2];
    struct train_plan p = train_plan_begin(d, ROWS, 1);
    struct ht_linear f = {.m = {x.view.ref, x.view.stride, k, 2, {{0}}, HT_ROWS_ALL, NULL}};
    struct ht_linear_t b = {.m = {dx.view.ref, dx.view.stride, k, 2, {{0}}, HT_ROWS_ALL, NULL}, .add = add};
    for (int i = 0; i < 2; i++) {
        w[i] = matrix_make(d, type, n[i], k);
        y[i] = train_in_make(d, ROWS, n[i], n[i] + 2, 1);
        dy[i] = train_in_make(d, ROWS, n[i], n[i] + 5, 1);
        f.m.part[i] = (struct ht_matmul_part){
            .w = w[i].w, .y = y[i].view.ref, .y_stride = y[i].view.stride, .add = add};
        b.m.part[i] = (struct ht_matmul_part){.w = w[i].w, .y = dy[i].view.ref, .y_stride = dy[i].view.stride};
    }
    f.m.part[0].bias = bias.view.ref;
    CHECK_OK(p.ops->linear(p.base.plan, &f, &check_err));
    CHECK_OK(p.ops->linear_t(p.base.plan, &b, &check_err));
    train_plan_end(&p);
    train_plan_run(&p);
    if (!add) {
        memset(dx.x, 0, dx.n * sizeof *dx.x);
        memset(dx.magnitude, 0, dx.n * sizeof *dx.x);
    }
    for (int i = 0; i < 2; i++) {
        for (size_t j = 0; j < y[i].n; j++) {
            double added = i ? 0 : bias.x[j % n[0]];
            y[i].x[j] = (add ? y[i].x[j] : 0) + added;
            y[i].magnitude[j] = (add ? y[i].magnitude[j] : 0) + fabs(added);
        }
        ht_ref_dense(HT_DENSE_NT, x.x, w[i].x, ROWS, n[i], k, 1, y[i].x);
        ht_ref_dense(HT_DENSE_NT, x.magnitude, w[i].magnitude, ROWS, n[i], k, 1, y[i].magnitude);
        ht_ref_dense(HT_DENSE_NN, dy[i].x, w[i].x, ROWS, k, n[i], 1, dx.x);
        ht_ref_dense(HT_DENSE_NN, dy[i].magnitude, w[i].magnitude, ROWS, k, n[i], 1, dx.magnitude);
        failures += judge(what, &y[i].view, y[i].x, y[i].magnitude, k + 2);
        failures += train_same_bits(what, index + (unsigned)i, &y[i].view);
    }
    failures += judge(what, &dx.view, dx.x, dx.magnitude, n[0] + n[1]);
    failures += train_same_bits(what, index + 2, &dx.view);
    train_plan_free(&p);
    for (int i = 0; i < 2; i++) {
        matrix_free(d, &w[i]);
        train_in_free(&y[i]);
        train_in_free(&dy[i]);
    }
    train_in_free(&x);
    train_in_free(&dx);
    train_in_free(&bias);
    return failures;
}

static unsigned test_frozen(struct check_device *d)
{
    unsigned failures = 0;
    for (unsigned t = 0; t < check_n_types; t++)
        failures += frozen_case(d, t, false) + frozen_case(d, t, true);
    return failures;
}

static void frozen_weights(void **state)
{
    (void)state;
    assert_int_equal(train_each_path(test_frozen), 0);
}

// Rows [first, first + count) of W: the oracle's values, and for linear the bits of the whole product.
static unsigned range_case(struct check_device *d, unsigned t, uint32_t first, uint32_t count)
{
    enum { N = 85 };
    enum ht_type type = check_types[t];
    uint32_t block = ht_type_info(type)->block_values, k = block == 1 ? 77 : block, n[2] = {N, count};
    unsigned failures = 0;
    char what[96];
    snprintf(what, sizeof what, "rows of W %s %s %u + %u", d->name, ht_type_info(type)->name, first, count);
    check_reseed(t);
    struct matrix w = matrix_make(d, type, N, k);
    struct train_in x = train_in_make(d, ROWS, k, k + 3, 1), dx = train_in_make(d, ROWS, k, k, 1), y[2];
    struct train_in bias = train_in_make(d, 1, N, N, 1), dy = train_in_make(d, ROWS, count, count + 1, 1);
    struct train_plan p = train_plan_begin(d, ROWS, 1);
    for (unsigned i = 0; i < 2; i++) {
        y[i] = train_in_make(d, ROWS, n[i], n[i] + 2, 1);
        struct ht_linear f = {.m = {x.view.ref, x.view.stride, k, 1, {{0}}, HT_ROWS_ALL, NULL}, .first = i ? first : 0};
        f.m.part[0] = (struct ht_matmul_part){
            .w = w.w, .y = y[i].view.ref, .bias = bias.view.ref, .y_stride = y[i].view.stride};
        f.count = i ? count : 0;
        CHECK_OK(p.ops->linear(p.base.plan, &f, &check_err));
    }
    struct ht_linear_t b = {.m = {dx.view.ref, dx.view.stride, k, 1, {{0}}, HT_ROWS_ALL, NULL}, .add = true};
    b.m.part[0] = (struct ht_matmul_part){.w = w.w, .y = dy.view.ref, .y_stride = dy.view.stride};
    b.first = first;
    b.count = count;
    CHECK_OK(p.ops->linear_t(p.base.plan, &b, &check_err));
    train_plan_end(&p);
    train_plan_run(&p);
    for (uint32_t r = 0; r < ROWS; r++)
        failures += check_bits(what, check_view_row(&y[1].view, r), check_view_row(&y[0].view, r) + first, count);
    ht_ref_dense(HT_DENSE_NN, dy.x, w.x + (size_t)first * k, ROWS, k, count, 1, dx.x);
    ht_ref_dense(HT_DENSE_NN, dy.magnitude, w.magnitude + (size_t)first * k, ROWS, k, count, 1, dx.magnitude);
    failures += judge(what, &dx.view, dx.x, dx.magnitude, count);
    failures += check_view_guards(&y[1].view, what);
    train_plan_free(&p);
    struct train_in *all[] = {&x, &dx, &y[0], &y[1], &bias, &dy};
    for (unsigned i = 0; i < 6; i++)
        train_in_free(all[i]);
    matrix_free(d, &w);
    return failures;
}

static unsigned test_ranges(struct check_device *d)
{
    static const uint32_t ranges[][2] = {{0, 16}, {16, 37}, {32, 53}, {80, 5}, {0, 85}, {48, 1}};
    unsigned failures = 0;
    for (unsigned t = 0; t < check_n_types; t++)
        for (unsigned i = 0; i < 6; i++)
            failures += range_case(d, t, ranges[i][0], ranges[i][1]);
    return failures;
}

static void row_ranges(void **state)
{
    (void)state;
    assert_int_equal(train_each_path(test_ranges), 0);
}

static unsigned test_dense(struct check_device *d)
{
    static const uint32_t shapes[][2] = {{1, 1}, {8, 37}, {37, 8}, {24, 300}, {300, 24}, {16, 16}};
    unsigned failures = 0;
    for (unsigned i = 0; i < 36; i++) {
        enum ht_dense_kind kind = (enum ht_dense_kind)(i % 3);
        uint32_t n = shapes[i / 6][0], k = shapes[i / 6][1];
        bool add = i / 3 % 2, tn = kind == HT_DENSE_TN, nt = kind == HT_DENSE_NT;
        char what[96];
        snprintf(what, sizeof what, "dense %s kind %d n %u k %u add %d", d->name, (int)kind, n, k, add);
        check_reseed(i);
        struct train_in a = train_in_make(d, ROWS, k, k + 1, 1);
        struct train_in b = train_in_make(d, nt ? n : tn ? ROWS : k, nt ? k : n, (nt ? k : n) + 2, 1);
        struct train_in y = train_in_make(d, tn ? k : ROWS, n, n + 3, 1);
        struct train_plan p = train_plan_begin(d, ROWS, 1);
        CHECK_OK(p.ops->dense(p.base.plan,
                              &(struct ht_dense){kind, a.view.ref, b.view.ref, y.view.ref, a.view.stride, b.view.stride,
                                                 y.view.stride, n, k, 0.75f, add, false, HT_ROWS_ALL},
                              &check_err));
        train_plan_end(&p);
        train_plan_run(&p);
        times(y.x, y.n, add);
        times(y.magnitude, y.n, add);
        ht_ref_dense(kind, a.x, b.x, ROWS, n, k, 0.75, y.x);
        ht_ref_dense(kind, a.magnitude, b.magnitude, ROWS, n, k, 0.75, y.magnitude);
        failures += judge(what, &y.view, y.x, y.magnitude, (tn ? ROWS : k) + 2);
        failures += train_same_bits(what, i, &y.view);
        failures += check_view_guards(&a.view, what) + check_view_guards(&b.view, what);
        train_plan_free(&p);
        train_in_free(&a);
        train_in_free(&b);
        train_in_free(&y);
    }
    return failures;
}

static void dense(void **state)
{
    (void)state;
    assert_int_equal(train_each_path(test_dense), 0);
}

static void refusals(void **state)
{
    (void)state;
    struct check_device d;
    assert_true(check_open(&d, NULL, 1, HT_PRECISION_Q));
    assert_true(d.ops->train && d.ops->train->supports(d.device, HT_TRAIN_F));
    check_reseed(0);
    struct matrix w = matrix_make(&d, HT_TYPE_Q4_0, 16, 32);
    struct train_in x = train_in_make(&d, 4, 32, 32, 1), y = train_in_make(&d, 4, 16, 16, 1);
    struct train_plan p = train_plan_begin(&d, 4, 4);
    struct ht_linear f = {.m = {x.view.ref, 32, 32, 1, {{.w = w.w, .y = y.view.ref, .y_stride = 16}}, HT_ROWS_ALL,
                               NULL}};
    f.precision = (enum ht_train_precision)3;
    assert_int_equal(p.ops->linear(p.base.plan, &f, &check_err), HEARTH_UNSUPPORTED);
    f.precision = HT_TRAIN_F;
    static const uint32_t no_rows[][2] = {{8, 8}, {16, 1}, {0, 17}, {16, 0}, {0xFFFFFFF0u, 32}};
    for (unsigned i = 0; i < 5; i++) { // of a W of 16
        f.first = no_rows[i][0];
        f.count = no_rows[i][1];
        assert_int_equal(p.ops->linear(p.base.plan, &f, &check_err), HEARTH_INVALID);
    }
    f.first = f.count = 0;
    f.m.part[0].y_stride = 1000;
    assert_int_equal(p.ops->linear(p.base.plan, &f, &check_err), HEARTH_INVALID);
    struct ht_dense beyond = {HT_DENSE_TN, x.view.ref, x.view.ref, y.view.ref, 32, 32, 16, 16, 32, 1, false, false,
                               HT_ROWS_ALL};
    assert_int_equal(p.ops->dense(p.base.plan, &beyond, &check_err), HEARTH_INVALID); // y would be (32, 16)
    struct ht_cross_entropy loss = {y.view.ref, x.view.ref, 16, 16, 0};
    assert_int_equal(p.ops->cross_entropy(p.base.plan, &loss, &check_err), HEARTH_OK);
    train_plan_end(&p);
    p.train.target[2] = 16; // beyond the vocabulary
    assert_int_equal(p.ops->submit(p.base.plan, &p.base.step, &p.train, &check_err), HEARTH_INVALID);
    p.train.target[2] = 0;
    p.train.seg_from[2] = 1; // inside another segment
    assert_int_equal(p.ops->submit(p.base.plan, &p.base.step, &p.train, &check_err), HEARTH_INVALID);
    p.train.seg_from[2] = 0;
    assert_int_equal(d.ops->submit(p.base.plan, &p.base.step, &check_err), HEARTH_INVALID); // no training block
    train_plan_run(&p);
    train_plan_free(&p);
    matrix_free(&d, &w);
    train_in_free(&x);
    train_in_free(&y);
    check_close(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frozen_weights),
        cmocka_unit_test(row_ranges),
        cmocka_unit_test(dense),
        cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
