// SPDX-License-Identifier: Apache-2.0
// Harness of the training op tests: plans with a training block, inputs as f32 and as double, slopes by finite
// differences, and outputs that must be the same bits on every path and thread count. One thread.
#ifndef CHECK_TRAIN_H
#define CHECK_TRAIN_H
#include "tests/check/check.h"

struct train_plan {
    struct check_plan base;
    struct ht_train_step train;
    void *memory;
    const struct ht_train_ops *ops;
};
struct train_plan train_plan_begin(struct check_device *d, uint32_t rows, uint32_t outs);
// One segment of all rows, target 0, weight 1, row ids 0 …, step 1.
void train_plan_end(struct train_plan *p);
void train_plan_run(struct train_plan *p);
void train_plan_free(struct train_plan *p);

// (rows, width) of random numbers (sums of three uniform ones times `size`) in a watched buffer and as doubles.
struct train_in {
    struct check_view view;
    double *x, *magnitude; // (rows, width)
    size_t n;
};
struct train_in train_in_make(struct check_device *d, uint32_t rows, uint32_t width, uint32_t stride, float size);
void train_in_free(struct train_in *in);
// View of an output against want ± bound (rows, width), guards too.
unsigned train_compare(const char *what, const struct check_view *v, const double *want, const double *bound);

// Outputs of a case: what the first path gave, every later one must give. Index: any number of the case.
unsigned train_same_bits(const char *what, unsigned index, const struct check_view *v);
void train_bits_forget(void);

// d objective / d *at by finite differences; the step shrinks from 1e-3 to 1.6e-5 where the objective is strongly
// curved. Error about 1e-12 of the objective over the step, plus what its sixth power leaves.
typedef double train_objective(void *user);
double train_slope(train_objective *f, void *user, double *at);
// |got - slope| <= 1e-8 (|slope| + size)?
unsigned train_slope_is(const char *what, double got, double slope, double size);

double *train_doubles(size_t n);        // zeros; the test ends if there are none
double *train_random_doubles(size_t n); // in [-1, 1)

// Runs `test` on every path and with 1, 2, 3 threads; returns the failures.
unsigned train_each_path(unsigned (*test)(struct check_device *d));

#endif
