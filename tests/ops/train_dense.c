// SPDX-License-Identifier: Apache-2.0
// dense: the three products at sizes around every block of the kernels: each path and number of threads the same bits,
// within γ_m Σ|terms| of the double oracle, m = the length of the chain and what follows it; operands that begin at any
// column of a wider matrix.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/cpu/train_ref.h"
#include "tests/check/train.h"

struct shape {
    uint32_t rows, n, k;
};
static const struct shape shapes[] = {
    {1, 1, 1},     {2, 8, 37},   {150, 8, 130}, {150, 130, 8},  {131, 24, 97}, {131, 97, 24}, {29, 16, 200},
    {29, 200, 16}, {7, 257, 70}, {7, 70, 257},  {25, 300, 300}, {1, 12, 700},  {130, 65, 49}, {26, 9, 4200},
};
enum { N_SHAPES = sizeof shapes / sizeof shapes[0] };

// The view as it stands, `column` further on: (rows, width) of it are used.
static struct ht_ref moved(const struct train_in *in, uint32_t column)
{
    return (struct ht_ref){in->view.ref.buf, in->view.ref.offset + column};
}

// Columns [from, from + width) of a matrix (rows, whole).
static double *cut(const double *x, uint32_t rows, uint32_t whole, uint32_t from, uint32_t width)
{
    double *y = train_doubles((size_t)rows * width);
    for (size_t r = 0; r < rows; r++)
        memcpy(y + r * width, x + r * whole + from, width * sizeof *y);
    return y;
}

// One product with a and b cut out of wider matrices; y is written from column 3 on, what is beside it stays.
static unsigned dense_case(struct check_device *d, const struct shape *s, enum ht_dense_kind kind, bool add,
                           unsigned index)
{
    enum { ASIDE = 3 };
    bool tn = kind == HT_DENSE_TN, nt = kind == HT_DENSE_NT;
    uint32_t b_rows = nt ? s->n : tn ? s->rows : s->k, b_width = nt ? s->k : s->n, y_rows = tn ? s->k : s->rows;
    char what[96];
    snprintf(what, sizeof what, "dense %s kind %d rows %u n %u k %u", d->name, (int)kind, s->rows, s->n, s->k);
    check_reseed(index);
    struct train_in a = train_in_make(d, s->rows, s->k + 1, s->k + 1, 1);
    struct train_in b = train_in_make(d, b_rows, b_width + 2, b_width + 5, 1);
    struct train_in y = train_in_make(d, y_rows, s->n + ASIDE, s->n + ASIDE + 2, 1);
    struct train_plan p = train_plan_begin(d, s->rows, 1);
    CHECK_OK(p.ops->dense(p.base.plan,
                          &(struct ht_dense){kind, moved(&a, 1), moved(&b, 2), moved(&y, ASIDE), a.view.stride,
                                             b.view.stride, y.view.stride, s->n, s->k, 0.75f, add, false, HT_ROWS_ALL},
                          &check_err));
    train_plan_end(&p);
    train_plan_run(&p);
    double *terms[2][2] = {{cut(a.x, s->rows, s->k + 1, 1, s->k), cut(b.x, b_rows, b_width + 2, 2, b_width)},
                           {cut(a.magnitude, s->rows, s->k + 1, 1, s->k),
                            cut(b.magnitude, b_rows, b_width + 2, 2, b_width)}};
    double *bound = train_doubles(y.n);
    for (int i = 0; i < 2; i++) { // values, then magnitudes
        double *sum = train_doubles((size_t)y_rows * s->n), *all = i ? bound : y.x;
        ht_ref_dense(kind, terms[i][0], terms[i][1], s->rows, s->n, s->k, 0.75, sum);
        for (size_t r = 0; r < y_rows; r++)
            for (size_t j = 0; j < s->n; j++) {
                size_t at = r * (s->n + ASIDE) + ASIDE + j;
                double before = add ? (i ? y.magnitude[at] : y.x[at]) : 0;
                all[at] = (before + sum[r * s->n + j]) * (i ? check_gamma((tn ? s->rows : s->k) + 2) : 1);
            }
        free(sum);
        free(terms[i][0]);
        free(terms[i][1]);
    }
    unsigned failures = train_compare(what, &y.view, y.x, bound) + train_same_bits(what, index, &y.view);
    failures += check_view_guards(&a.view, what) + check_view_guards(&b.view, what);
    free(bound);
    train_plan_free(&p);
    train_in_free(&a);
    train_in_free(&b);
    train_in_free(&y);
    return failures;
}

static unsigned test_dense(struct check_device *d)
{
    unsigned failures = 0;
    for (unsigned i = 0; i < 6 * N_SHAPES; i++)
        failures += dense_case(d, &shapes[i / 6], (enum ht_dense_kind)(i % 3), i / 3 % 2, i);
    return failures;
}

// y goes on as a chain over the output rows, then over all rows; NT and NN over the output rows leave the others.
static unsigned chain_case(struct check_device *d, const struct shape *s, unsigned index)
{
    uint32_t outs = s->rows / 2 + 1;
    char what[96];
    snprintf(what, sizeof what, "chain %s rows %u n %u k %u", d->name, s->rows, s->n, s->k);
    check_reseed(index);
    struct train_in a = train_in_make(d, s->rows, s->k, s->k + 1, 1), b = train_in_make(d, s->rows, s->n, s->n, 1);
    struct train_in y = train_in_make(d, s->k, s->n, s->n + 2, 1), z = train_in_make(d, s->rows, s->k, s->k, 1);
    float *want = malloc((size_t)s->k * s->n * sizeof *want), *kept = malloc(s->k * sizeof *kept);
    memcpy(kept, check_view_row(&z.view, s->rows - 1), s->k * sizeof *kept);
    for (uint32_t i = 0; i < s->k; i++)
        for (uint32_t j = 0; j < s->n; j++) {
            float t = check_view_row(&y.view, i)[j];
            for (uint32_t r = 0; r < outs + s->rows; r++) {
                uint32_t row = r < outs ? r : r - outs;
                t = fmaf(check_view_row(&a.view, row)[i], check_view_row(&b.view, row)[j], t);
            }
            want[i * s->n + j] = t;
        }
    struct train_plan p = train_plan_begin(d, s->rows, outs);
    struct ht_dense op = {HT_DENSE_TN,   a.view.ref, b.view.ref, y.view.ref, a.view.stride, b.view.stride,
                          y.view.stride, s->n,       s->k,       1,          false,         true,
                          HT_ROWS_OUT};
    CHECK_OK(p.ops->dense(p.base.plan, &op, &check_err));
    op.rows = HT_ROWS_ALL;
    CHECK_OK(p.ops->dense(p.base.plan, &op, &check_err));
    struct ht_dense of_outs = {HT_DENSE_NT,   b.view.ref, y.view.ref, z.view.ref, b.view.stride, y.view.stride,
                               z.view.stride, s->k,       s->n,       1,          false,         false,
                               HT_ROWS_OUT};
    CHECK_OK(p.ops->dense(p.base.plan, &of_outs, &check_err));
    op.scale = 2;
    unsigned failures = p.ops->dense(p.base.plan, &op, &check_err) != HEARTH_INVALID;
    train_plan_end(&p);
    train_plan_run(&p);
    for (uint32_t i = 0; i < s->k; i++)
        failures += memcmp(check_view_row(&y.view, i), want + i * s->n, s->n * sizeof *want) != 0;
    failures += outs < s->rows && memcmp(kept, check_view_row(&z.view, s->rows - 1), s->k * sizeof *kept) != 0;
    if (failures)
        fprintf(stderr, "%s: %u failures\n", what, failures);
    failures += train_same_bits(what, index, &z.view) + check_view_guards(&y.view, what);
    train_plan_free(&p);
    struct train_in *all[] = {&a, &b, &y, &z};
    for (int i = 0; i < 4; i++)
        train_in_free(all[i]);
    free(want);
    free(kept);
    return failures;
}

static unsigned test_chain(struct check_device *d)
{
    unsigned failures = 0;
    for (unsigned i = 0; i < N_SHAPES; i++)
        failures += chain_case(d, &shapes[i], 200 + i);
    return failures;
}

static void chain(void **state)
{
    (void)state;
    assert_int_equal(train_each_path(test_chain), 0);
}

static void dense(void **state)
{
    (void)state;
    assert_int_equal(train_each_path(test_dense), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(dense), cmocka_unit_test(chain)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
