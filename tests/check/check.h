// SPDX-License-Identifier: Apache-2.0
// Harness of the op tests. A test runs one op on a device path (instruction set, threads) over awkward shapes
// and inputs and compares, bit for bit, with the contract in plain C; memory around every output is watched.
//
// Failures are counted and printed with what is needed to repeat them: HEARTH_TEST_SEED=... and the case. The
// seed is taken from the environment or fixed; HEARTH_TEST_SEED=random takes one from the clock.
// One thread.
#ifndef CHECK_H
#define CHECK_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/ops/backend.h"

// ---- random numbers, from one seed
uint64_t check_seed(void);        // printed at first use
void check_reseed(uint64_t salt); // begins a case: its numbers depend on seed and salt only
uint32_t check_random(void);
uint32_t check_below(uint32_t n); // [0, n)
float check_unit(void);           // [-1, 1)

// ---- inputs
enum check_input {
    CHECK_NORMAL,
    CHECK_ZEROS,
    CHECK_ONE_HOT,
    CHECK_LIMITS,
    CHECK_DENORMAL,
    CHECK_OUTLIERS,
    CHECK_N_FINITE,
    CHECK_NONFINITE = CHECK_N_FINITE,
    CHECK_N_INPUTS
};
extern const char *const check_input_names[CHECK_N_INPUTS];
void check_fill(float *x, size_t n, enum check_input input);
// One row of k values of a weight, as GGUF bytes: any codes; scales by `input` (finite, but for
// CHECK_NONFINITE).
void check_fill_blocks(enum ht_type type, void *blocks, uint32_t k, enum check_input input);
extern const enum ht_type check_types[];
extern const unsigned check_n_types;

// ---- devices
extern const char *const check_isas[]; // NULL-terminated, all names
struct check_device {
    const struct ht_device_ops *ops;
    struct ht_device *device;
    const struct ht_ops *table;
    char name[64]; // "avx2, 3 threads"
};
// false: the CPU has no such path (noted once as a counted skip by the caller's choice)
bool check_open(struct check_device *d, const char *isa, unsigned n_threads, enum ht_precision precision);
void check_close(struct check_device *d);

// ---- watched buffers: (rows, width) floats, `stride` apart, with guard zones before, after and between the
// rows. Everything outside the rows holds a pattern; the rows of an output begin as NaN.
struct check_view {
    struct check_device *d;
    struct ht_buf *buf;
    struct ht_ref ref;
    uint32_t rows, width, stride;
};
struct check_view check_view_make(struct check_device *d, uint32_t rows, uint32_t width, uint32_t stride);
void check_view_put(struct check_view *v, uint32_t row, const float *x);
const float *check_view_row(const struct check_view *v, uint32_t row);
// Counts what was written outside the rows, and prints the first place.
unsigned check_view_guards(const struct check_view *v, const char *what);
void check_view_free(struct check_view *v);

// ---- comparing (silent while check_quiet: selftest.c expects failures); each returns the number of
// failures, prints the first of a call
extern bool check_quiet;
bool check_same_bits(float a, float b); // NaN equals NaN
unsigned check_bits(const char *what, const float *got, const float *want, size_t n);
// |got - want| <= bound for each; a NaN must meet a NaN
unsigned check_bounds(const char *what, const float *got, const double *want, const double *bound, size_t n);
double check_gamma(double roundings); // m u / (1 - m u), u = 2^-24

// ---- weights and plans
struct ht_weight *check_weight(struct check_device *d, enum ht_type type, uint32_t n, uint32_t k,
                               const void *blocks);
struct check_plan {
    struct check_device *d;
    struct ht_plan *plan;
    struct ht_step step;
    void *memory;
};
struct check_plan check_plan_begin(struct check_device *d, struct ht_step_shape shape);
// Ends the plan; the step's rows are 0..rows-1 of session 0 at positions 0.., every output row its row.
void check_plan_end(struct check_plan *p);
void check_plan_run(struct check_plan *p);
void check_plan_free(struct check_plan *p);

#define CHECK_OK(expression) check_ok(expression, #expression, __FILE__, __LINE__)
void check_ok(enum hearth_status status, const char *what, const char *file,
              int line); // prints and aborts the test
extern struct hearth_error check_err;

#endif
