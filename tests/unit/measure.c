// SPDX-License-Identifier: Apache-2.0
// What `hearth bench` measures about this machine: every format has a speed, the list ends, memory is not kept.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "engine/engine.h"
#include "tests/check/fault.h"

static void kernels(void **state)
{
    (void)state;
    struct hearth_kernel_speed speed;
    struct hearth_error err;
    assert_int_equal(hearth_measure_kernel(0, 2, 1, &speed, &err), HEARTH_OK);
    assert_string_equal(speed.format, "Q4_0");
    for (unsigned c = 0; c < HEARTH_KERNEL_COLUMNS; c++)
        assert_true(speed.gb_per_second[c] > 0);
    assert_int_equal(hearth_kernel_columns[0], 1);
    unsigned n = 1;
    while (hearth_measure_kernel(n, 0, 0, &speed, NULL) == HEARTH_OK)
        n++;
    assert_int_equal(n, 11);
    assert_int_equal(hearth_measure_kernel(n, 1, 1, &speed, &err), HEARTH_NOT_FOUND);
}

static void barrier(void **state)
{
    (void)state;
    double nanoseconds = 0;
    assert_int_equal(hearth_measure_barrier(1, &nanoseconds, NULL), HEARTH_OK);
    assert_true(nanoseconds > 0 && nanoseconds < 1e6);
    assert_int_equal(hearth_measure_barrier(100000, &nanoseconds, NULL), HEARTH_LIMIT);
}

// Memory runs out at each allocation in turn: an error, and everything is given back.
static void memory_runs_out(void **state)
{
    (void)state;
    struct hearth_kernel_speed speed;
    enum hearth_status status = HEARTH_NOMEM;
    for (unsigned n = 1; status != HEARTH_OK; n++) {
        assert_in_range(n, 1, 100);
        fault_memory_begin(n);
        status = hearth_measure_kernel(1, 1, 1, &speed, NULL);
        assert_int_equal(fault_memory_end(NULL), 0);
        assert_true(status == HEARTH_OK || status == HEARTH_NOMEM);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kernels),
        cmocka_unit_test(barrier),
        cmocka_unit_test(memory_runs_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
