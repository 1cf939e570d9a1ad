// SPDX-License-Identifier: Apache-2.0
// The harness of the training op tests: see train.h. One thread.
#include "tests/check/train.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"

struct train_plan train_plan_begin(struct check_device *d, uint32_t rows, uint32_t outs)
{
    struct train_plan p = {.ops = d->ops->train};
    p.base = check_plan_begin(d, (struct ht_step_shape){rows, outs, 1, rows / HT_KV_PAGE + 1, 0});
    p.memory = ht_calloc(1, ht_train_step_layout(&p.train, rows, NULL));
    ht_train_step_layout(&p.train, rows, p.memory);
    return p;
}

void train_plan_end(struct train_plan *p)
{
    check_plan_end(&p->base);
    for (uint32_t r = 0; r < p->train.rows; r++) {
        p->train.weight[r] = 1;
        p->train.row_id[r] = r;
    }
    *p->train.values = (struct ht_train_values){1, 1, 1e-3f, 0.1f, 0.5f, 0};
}

void train_plan_run(struct train_plan *p)
{
    CHECK_OK(p->ops->submit(p->base.plan, &p->base.step, &p->train, &check_err));
    CHECK_OK(p->base.d->ops->wait(p->base.d->device, 60000, &check_err));
}

void train_plan_free(struct train_plan *p)
{
    check_plan_free(&p->base);
    ht_free(p->memory);
}

double *train_doubles(size_t n)
{
    double *x = calloc(n, sizeof *x);
    if (!x)
        abort();
    return x;
}

double *train_random_doubles(size_t n)
{
    double *x = train_doubles(n);
    for (size_t i = 0; i < n; i++)
        x[i] = (double)check_unit();
    return x;
}

struct train_in train_in_make(struct check_device *d, uint32_t rows, uint32_t width, uint32_t stride, float size)
{
    struct train_in in = {check_view_make(d, rows, width, stride), NULL, NULL, (size_t)rows * width};
    in.x = train_doubles(in.n);
    in.magnitude = train_doubles(in.n);
    for (uint32_t r = 0; r < rows; r++) {
        float *row = (float *)check_view_row(&in.view, r);
        check_fill(row, width, CHECK_NORMAL);
        for (uint32_t i = 0; i < width; i++) {
            row[i] *= size;
            in.x[(size_t)r * width + i] = (double)row[i];
            in.magnitude[(size_t)r * width + i] = fabs((double)row[i]);
        }
    }
    return in;
}

void train_in_free(struct train_in *in)
{
    check_view_free(&in->view);
    free(in->x);
    free(in->magnitude);
}

unsigned train_compare(const char *what, const struct check_view *v, const double *want, const double *bound)
{
    unsigned failures = check_view_guards(v, what);
    for (uint32_t r = 0; r < v->rows; r++)
        failures += check_bounds(what, check_view_row(v, r), want + (size_t)r * v->width,
                                 bound + (size_t)r * v->width, v->width);
    return failures;
}

enum { KEPT = 512 };
static float *kept[KEPT];

unsigned train_same_bits(const char *what, unsigned index, const struct check_view *v)
{
    unsigned failures = 0;
    bool first = !kept[index % KEPT];
    if (first && !(kept[index % KEPT] = malloc((size_t)v->rows * v->width * sizeof(float))))
        abort();
    for (uint32_t r = 0; r < v->rows; r++) {
        float *have = kept[index % KEPT] + (size_t)r * v->width;
        if (first)
            memcpy(have, check_view_row(v, r), v->width * sizeof *have);
        else
            failures += check_bits(what, check_view_row(v, r), have, v->width);
    }
    return failures;
}

void train_bits_forget(void)
{
    for (int i = 0; i < KEPT; i++) {
        free(kept[i]);
        kept[i] = NULL;
    }
}

// Two five-point stencils, of steps h / 2 and h, and what their h^4 leaves; *apart: by how much they differ.
static double slope_of_step(train_objective *f, void *user, double *at, double h, double *apart)
{
    const double x = *at;
    double difference[3]; // f(x + s) - f(x - s) for s = h / 2, h, 2 h
    for (int i = 0; i < 3; i++) {
        double s = h / 2 * (1 << i);
        *at = x + s;
        difference[i] = f(user);
        *at = x - s;
        difference[i] -= f(user);
    }
    *at = x;
    double fine = (8 * difference[0] - difference[1]) / (6 * h);
    double coarse = (8 * difference[1] - difference[2]) / (12 * h);
    *apart = fabs(fine - coarse);
    return (16 * fine - coarse) / 15;
}

double train_slope(train_objective *f, void *user, double *at)
{
    double apart, least = INFINITY, slope = NAN;
    for (double h = 1e-3; h > 1e-5 && least > 1e-9; h /= 4) {
        double now = slope_of_step(f, user, at, h, &apart);
        if (apart < least) {
            least = apart;
            slope = now;
        }
    }
    return slope;
}

unsigned train_slope_is(const char *what, double got, double slope, double size)
{
    if (fabs(got - slope) <= 1e-8 * (fabs(slope) + size))
        return 0;
    if (!check_quiet)
        fprintf(stderr, "HEARTH_TEST_SEED=%llu %s: gradient %.12g, finite difference %.12g\n",
                (unsigned long long)check_seed(), what, got, slope);
    return 1;
}

unsigned train_each_path(unsigned (*test)(struct check_device *d))
{
    unsigned failures = 0;
    train_bits_forget();
    for (int isa = 0; check_isas[isa]; isa++)
        for (unsigned threads = 1; threads <= 3; threads++) {
            struct check_device d;
            if (!check_open(&d, check_isas[isa], threads, HT_PRECISION_Q))
                continue;
            failures += test(&d);
            check_close(&d);
        }
    train_bits_forget();
    return failures;
}
