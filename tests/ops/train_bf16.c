// SPDX-License-Identifier: Apache-2.0
// linear and linear_t in contract B. The path "ref" is the definition, each instruction written out in plain C; every
// other path, thread count and number of rows gives its bits, for all formats, odd shapes and awkward numbers. Against
// the double oracle: both operands are rounded to 8 bits, the sum as any chain.
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
    uint32_t rows, n[2], blocks; // k: blocks of the format, or 77 values for each
    uint32_t first, count;       // count: part 0 alone, rows of it
    bool add, bias;
    enum check_input input;
};
static const struct shape shapes[] = {
    {19, {21, 40}, 3, 0, 0, false, false, CHECK_NORMAL},    {34, {64, 16}, 1, 0, 0, true, true, CHECK_OUTLIERS},
    {33, {85, 0}, 2, 32, 37, false, true, CHECK_NORMAL},    {1, {33, 1}, 1, 0, 0, true, false, CHECK_DENORMAL},
    {16, {32, 31}, 1, 0, 0, false, false, CHECK_NONFINITE},
};
enum { N_SHAPES = sizeof shapes / sizeof shapes[0], MOST_PARTS = 2 };
static const enum ht_train_precision variants[] = {HT_TRAIN_B_AVX512BF16, HT_TRAIN_B_AMX};

struct sides { // one product both ways
    struct ht_weight *w[MOST_PARTS];
    double *values[MOST_PARTS];
    struct train_in x, dx, bias, y[MOST_PARTS], dy[MOST_PARTS];
    uint32_t k, n_parts, n[MOST_PARTS]; // n: outputs
};

static void make_weight(struct sides *s, struct check_device *d, unsigned i, enum ht_type type, uint32_t n,
                        enum check_input input)
{
    uint64_t row_bytes;
    ht_row_bytes(type, s->k, &row_bytes);
    unsigned char *blocks = malloc(row_bytes * n);
    float *row = malloc(s->k * sizeof *row);
    s->values[i] = train_doubles((size_t)n * s->k);
    for (uint32_t r = 0; r < n; r++) {
        check_fill_blocks(type, blocks + row_bytes * r, s->k, input);
        ht_dequant_row(type, blocks + row_bytes * r, s->k, row);
        for (uint32_t j = 0; j < s->k; j++)
            s->values[i][(size_t)r * s->k + j] = (double)row[j];
    }
    s->w[i] = check_weight(d, type, n, s->k, blocks);
    free(blocks);
    free(row);
}

static struct train_in input(struct check_device *d, uint32_t rows, uint32_t width, uint32_t stride,
                             enum check_input kind)
{
    struct train_in in = train_in_make(d, rows, width, stride, 1);
    for (uint32_t r = 0; r < rows; r++) {
        float *row = (float *)check_view_row(&in.view, r);
        check_fill(row, width, kind);
        for (uint32_t i = 0; i < width; i++) {
            in.x[(size_t)r * width + i] = (double)row[i];
            in.magnitude[(size_t)r * width + i] = fabs((double)row[i]);
        }
    }
    return in;
}

static struct sides make(struct check_device *d, enum ht_type type, const struct shape *shape)
{
    uint32_t block = ht_type_info(type)->block_values;
    struct sides s = {.k = shape->blocks * (block == 1 ? 77 : block), .n_parts = shape->count || !shape->n[1] ? 1 : 2};
    s.x = input(d, shape->rows, s.k, s.k + 3, shape->input);
    s.dx = input(d, shape->rows, s.k, s.k + 5, CHECK_NORMAL);
    s.bias = input(d, 1, shape->n[0], shape->n[0], CHECK_NORMAL);
    for (unsigned i = 0; i < s.n_parts; i++) {
        s.n[i] = shape->count ? shape->count : shape->n[i];
        make_weight(&s, d, i, type, shape->n[i], shape->input);
        s.y[i] = input(d, shape->rows, s.n[i], s.n[i] + 7, CHECK_NORMAL);
        s.dy[i] = input(d, shape->rows, s.n[i], s.n[i] + 1, shape->input);
    }
    return s;
}

static void drop(struct check_device *d, struct sides *s)
{
    train_in_free(&s->x);
    train_in_free(&s->dx);
    train_in_free(&s->bias);
    for (unsigned i = 0; i < s->n_parts; i++) {
        train_in_free(&s->y[i]);
        train_in_free(&s->dy[i]);
        d->ops->weight_destroy(d->device, &s->w[i]);
        free(s->values[i]);
    }
}

// The first `rows` rows through both ops.
static void run(struct check_device *d, const struct sides *s, const struct shape *shape,
                enum ht_train_precision precision, uint32_t rows)
{
    struct train_plan p = train_plan_begin(d, rows, 1);
    struct ht_linear f = {.m = {.x = s->x.view.ref, .x_stride = s->x.view.stride}, .precision = precision};
    struct ht_linear_t b = {.m = {.x = s->dx.view.ref, .x_stride = s->dx.view.stride}, .precision = precision};
    f.m.k = b.m.k = s->k;
    f.m.n_parts = b.m.n_parts = s->n_parts;
    f.m.rows = b.m.rows = HT_ROWS_ALL;
    f.first = b.first = shape->first;
    f.count = b.count = shape->count;
    b.add = shape->add;
    for (unsigned i = 0; i < s->n_parts; i++) {
        f.m.part[i] = (struct ht_matmul_part){
            .w = s->w[i], .y = s->y[i].view.ref, .y_stride = s->y[i].view.stride, .add = shape->add};
        b.m.part[i] = (struct ht_matmul_part){.w = s->w[i], .y = s->dy[i].view.ref, .y_stride = s->dy[i].view.stride};
    }
    if (shape->bias)
        f.m.part[0].bias = s->bias.view.ref;
    CHECK_OK(p.ops->linear(p.base.plan, &f, &check_err));
    CHECK_OK(p.ops->linear_t(p.base.plan, &b, &check_err));
    train_plan_end(&p);
    train_plan_run(&p);
    train_plan_free(&p);
}

// `terms`: the sum of |x||w| of each output, on top of what y held and the bias (their magnitudes in `bound`, the
// exact value in `want`). Rounding both operands changes a term by at most (1 + 2^-8)^2 - 1 of it.
static unsigned judge(const char *what, const struct train_in *y, const double *terms, uint32_t length)
{
    const double both = (1 + 0x1p-8) * (1 + 0x1p-8);
    for (size_t i = 0; i < y->n; i++)
        y->magnitude[i] = check_gamma(length + 2.0) * (terms[i] * both + y->magnitude[i]) + (both - 1) * terms[i];
    return train_compare(what, &y->view, y->x, y->magnitude);
}

static double *magnitudes(const double *x, size_t n)
{
    double *y = train_doubles(n);
    for (size_t i = 0; i < n; i++)
        y[i] = fabs(x[i]);
    return y;
}

// What y and dx should be, from what they were.
static unsigned against_oracle(const char *what, const struct sides *s, const struct shape *shape, uint32_t rows)
{
    unsigned failures = 0;
    double *terms_t = train_doubles(s->dx.n);
    uint32_t length = 0;
    for (size_t i = 0; !shape->add && i < s->dx.n; i++)
        s->dx.x[i] = s->dx.magnitude[i] = 0;
    for (unsigned p = 0; p < s->n_parts; p++) {
        const struct train_in *y = &s->y[p], *dy = &s->dy[p];
        double *values = s->values[p] + (size_t)shape->first * s->k, *terms = train_doubles(y->n),
               *size = magnitudes(values, (size_t)s->n[p] * s->k);
        for (size_t i = 0; i < y->n; i++) {
            double bias = shape->bias && !p ? s->bias.x[shape->first + i % s->n[p]] : 0;
            y->x[i] = (shape->add ? y->x[i] : 0) + bias;
            y->magnitude[i] = (shape->add ? y->magnitude[i] : 0) + fabs(bias);
        }
        ht_ref_dense(HT_DENSE_NT, s->x.x, values, rows, s->n[p], s->k, 1, y->x);
        ht_ref_dense(HT_DENSE_NT, s->x.magnitude, size, rows, s->n[p], s->k, 1, terms);
        ht_ref_dense(HT_DENSE_NN, dy->x, values, rows, s->k, s->n[p], 1, s->dx.x);
        ht_ref_dense(HT_DENSE_NN, dy->magnitude, size, rows, s->k, s->n[p], 1, terms_t);
        failures += judge(what, y, terms, s->k + 32);
        length += s->n[p] + 32;
        free(terms);
        free(size);
    }
    failures += judge(what, &s->dx, terms_t, length);
    free(terms_t);
    return failures;
}

static unsigned one(struct check_device *d, enum ht_train_precision precision, enum ht_type type,
                    const struct shape *shape, unsigned index)
{
    char what[96];
    snprintf(what, sizeof what, "contract B %d %s %s n %u rows %u", (int)precision, d->name, ht_type_info(type)->name,
             shape->n[0], shape->rows);
    check_reseed(index);
    struct sides s = make(d, type, shape);
    run(d, &s, shape, precision, shape->rows);
    unsigned failures = train_same_bits(what, 3 * index, &s.dx.view);
    for (unsigned i = 0; i < s.n_parts; i++)
        failures += train_same_bits(what, 3 * index + 1 + i, &s.y[i].view);
    if (shape->input == CHECK_NORMAL || shape->input == CHECK_OUTLIERS)
        failures += against_oracle(what, &s, shape, shape->rows);
    failures += check_view_guards(&s.x.view, what) + check_view_guards(&s.dy[0].view, what);
    drop(d, &s);
    return failures;
}

static unsigned test_formats(struct check_device *d)
{
    unsigned failures = 0, index = 0;
    for (unsigned v = 0; v < 2; v++)
        for (unsigned t = 0; t < check_n_types; t++)
            for (unsigned i = 0; i < N_SHAPES; i++, index++)
                if (d->ops->train->supports(d->device, variants[v]))
                    failures += one(d, variants[v], check_types[t], &shapes[i], index);
    return failures;
}

static void formats(void **state)
{
    (void)state;
    assert_int_equal(train_each_path(test_formats), 0);
}

// Sums longer than a panel, and enough outputs for every thread.
static unsigned test_long(struct check_device *d)
{
    static const struct shape shape[] = {{17, {96, 40}, 23, 0, 0, true, false, CHECK_NORMAL},
                                         {33, {701, 65}, 1, 0, 0, true, false, CHECK_NORMAL},
                                         {5, {32, 0}, 5, 16, 16, false, false, CHECK_NORMAL}};
    static const enum ht_type types[] = {HT_TYPE_Q4_1, HT_TYPE_Q4_0, HT_TYPE_Q4_K};
    unsigned failures = 0;
    for (unsigned v = 0; v < 2; v++)
        for (unsigned i = 0; i < 3; i++)
            if (d->ops->train->supports(d->device, variants[v]))
                failures += one(d, variants[v], types[i], &shape[i], 3 * v + i);
    return failures;
}

static void long_sums(void **state)
{
    (void)state;
    assert_int_equal(train_each_path(test_long), 0);
}

// A row's values in a micro-batch of 1 are those it has among 50.
static unsigned test_rows(struct check_device *d)
{
    static const uint32_t counts[] = {1, 15, 16, 17, 31, 32, 49};
    static const struct shape shape = {50, {48, 70}, 3, 0, 0, false, false, CHECK_NORMAL};
    unsigned failures = 0;
    for (unsigned v = 0; v < 2; v++) {
        if (!d->ops->train->supports(d->device, variants[v]))
            continue;
        check_reseed(v);
        struct sides s = make(d, HT_TYPE_Q4_1, &shape);
        run(d, &s, &shape, variants[v], shape.rows);
        size_t dx_floats = (size_t)(shape.rows - 1) * s.dx.view.stride + s.k;
        size_t y_floats = (size_t)(shape.rows - 1) * s.y[1].view.stride + s.n[1];
        float *dx = malloc(dx_floats * sizeof *dx), *y = malloc(y_floats * sizeof *y);
        memcpy(dx, check_view_row(&s.dx.view, 0), dx_floats * sizeof *dx);
        memcpy(y, check_view_row(&s.y[1].view, 0), y_floats * sizeof *y);
        for (unsigned i = 0; i < sizeof counts / sizeof counts[0]; i++) {
            memset((float *)check_view_row(&s.dx.view, 0), 0xFF, s.k * sizeof *dx);
            run(d, &s, &shape, variants[v], counts[i]);
            for (uint32_t r = 0; r < shape.rows; r++) {
                failures += check_bits("rows: dx", check_view_row(&s.dx.view, r), dx + r * s.dx.view.stride, s.k);
                failures += check_bits("rows: y", check_view_row(&s.y[1].view, r), y + r * s.y[1].view.stride, s.n[1]);
            }
        }
        free(dx);
        free(y);
        drop(d, &s);
    }
    return failures;
}

static void numbers_of_rows(void **state)
{
    (void)state;
    assert_int_equal(train_each_path(test_rows), 0);
}

// Sums about as small as a normal number can be: what lies below vanishes, after each fma and each addition.
static unsigned test_tiny(struct check_device *d)
{
    enum { N = 64, K = 96, ROWS = 20 };
    static const struct shape shape = {ROWS, {N, 0}, 1, 0, 0, false, false, CHECK_NORMAL};
    unsigned failures = 0;
    for (unsigned v = 0; v < 2; v++) {
        if (!d->ops->train->supports(d->device, variants[v]))
            continue;
        check_reseed(v);
        struct sides s = {.k = K, .n_parts = 1, .n = {N}, .values = {NULL}};
        float w[N * K];
        for (unsigned i = 0; i < N * K; i++)
            w[i] = ldexpf(check_unit(), -62);
        s.w[0] = check_weight(d, HT_TYPE_F32, N, K, w);
        s.x = train_in_make(d, ROWS, K, K, 0x1p-64f);
        s.dx = train_in_make(d, ROWS, K, K, 1);
        s.bias = train_in_make(d, 1, N, N, 1);
        s.y[0] = train_in_make(d, ROWS, N, N, 1);
        s.dy[0] = train_in_make(d, ROWS, N, N, 0x1p-64f);
        run(d, &s, &shape, variants[v], ROWS);
        failures += train_same_bits("tiny sums: y", 2 * v, &s.y[0].view);
        failures += train_same_bits("tiny sums: dx", 2 * v + 1, &s.dx.view);
        drop(d, &s);
    }
    return failures;
}

static void tiny_sums(void **state)
{
    (void)state;
    assert_int_equal(train_each_path(test_tiny), 0);
}

// What lies beyond a range of W's rows is not looked at, in the same group of 16 either.
static unsigned test_beyond(struct check_device *d)
{
    enum { N = 48, K = 32, ROWS = 3, FROM = 16, COUNT = 19 };
    unsigned failures = 0;
    for (unsigned v = 0; v < 2; v++) {
        if (!d->ops->train->supports(d->device, variants[v]))
            continue;
        const struct shape shape = {ROWS, {N, 0}, 1, FROM, COUNT, false, false, CHECK_NORMAL};
        struct sides s = make(d, HT_TYPE_F32, &shape);
        float w[N * K];
        for (unsigned i = 0; i < N * K; i++)
            w[i] = i / K >= FROM && i / K < FROM + COUNT ? 1 : NAN;
        d->ops->weight_destroy(d->device, &s.w[0]);
        s.w[0] = check_weight(d, HT_TYPE_F32, N, s.k = K, w);
        run(d, &s, &shape, variants[v], ROWS);
        for (uint32_t i = 0; i < ROWS * K; i++)
            failures += !isfinite(check_view_row(&s.dx.view, i / K)[i % K]);
        for (uint32_t i = 0; i < ROWS * COUNT; i++)
            failures += !isfinite(check_view_row(&s.y[0].view, i / COUNT)[i % COUNT]);
        drop(d, &s);
    }
    return failures;
}

static void beyond_a_range(void **state)
{
    (void)state;
    assert_int_equal(train_each_path(test_beyond), 0);
}

// What a path offers: plain C both; else what its instructions are for.
static void offers(void **state)
{
    (void)state;
    for (int i = 0; check_isas[i]; i++) {
        struct check_device d;
        if (!check_open(&d, check_isas[i], 1, HT_PRECISION_Q))
            continue;
        bool ref = !strcmp(check_isas[i], "ref"), amx = !strcmp(check_isas[i], "amx");
        assert_true(d.ops->train->supports(d.device, HT_TRAIN_F));
        if (amx)
            assert_true(d.ops->train->supports(d.device, HT_TRAIN_B_AVX512BF16));
        if (!ref)
            assert_int_equal(d.ops->train->supports(d.device, HT_TRAIN_B_AMX), amx);
        if (!strcmp(check_isas[i], "avx2"))
            assert_false(d.ops->train->supports(d.device, HT_TRAIN_B_AVX512BF16));
        check_close(&d);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(formats),
        cmocka_unit_test(long_sums),
        cmocka_unit_test(numbers_of_rows),
        cmocka_unit_test(tiny_sums),
        cmocka_unit_test(beyond_a_range),
        cmocka_unit_test(offers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
