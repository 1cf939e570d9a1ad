// SPDX-License-Identifier: Apache-2.0
// One matmul over one shape: path against contract, bit for bit. Apart from the test, so that selftest.c can
// run it on kernels that it broke. One thread.
#ifndef MATMUL_CASE_H
#define MATMUL_CASE_H
#include "tests/check/check.h"

struct matmul_case {
    enum ht_type type, type2; // of part 0; of part 1, if n2
    uint32_t n, n2, k, rows;
    enum check_input input, weights;
    bool bias, add;
    uint32_t pad; // floats between rows
};
// Fresh numbers from the case; returns the number of failures.
unsigned matmul_case_run(struct check_device *d, const struct matmul_case *c, enum ht_precision precision);
// The contract in plain C: y (rows, n) = x (rows, k) by the blocks of W (n, k); bias and old y may be NULL.
void matmul_contract(enum ht_type type, const void *blocks, uint32_t n, uint32_t k, const float *x,
                     uint32_t rows, enum ht_precision precision, const float *bias, const float *old,
                     float *y);

#endif
