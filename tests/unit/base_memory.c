// SPDX-License-Identifier: Apache-2.0
// Allocator and its hook.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "engine/base/mem.h"
#include "tests/check/fault.h"

static int all_zero(const unsigned char *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (p[i])
            return 0;
    return 1;
}

static void allocates(void **state)
{
    (void)state;
    for (size_t n = 1; n < 5000; n = n * 3 + 1) {
        unsigned char *p = ht_calloc(n, 3);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % HT_MEM_ALIGN, 0);
        assert_true(all_zero(p, 3 * n));
        memset(p, 0xAB, 3 * n);
        ht_free(p);
    }
    assert_null(ht_calloc(0, 8));
    assert_null(ht_calloc(8, 0));
    assert_null(ht_calloc(SIZE_MAX / 2, 3));
    assert_null(ht_calloc(SIZE_MAX - 8, 1));
    ht_free(NULL);
}

static void allocates_big(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 65536, (2 << 20) - 1, (2 << 20) + 1, 9 << 20};
    for (size_t i = 0; i < 5; i++) {
        unsigned char *p = ht_alloc_big(sizes[i]);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % (2 << 20), 0);
        assert_true(all_zero(p, sizes[i]));
        memset(p, 1, sizes[i]);
        ht_free_big(p, sizes[i]);
    }
    assert_null(ht_alloc_big(0));
    assert_null(ht_alloc_big(SIZE_MAX - 4096));
    ht_free_big(NULL, 10);
}

static void grows(void **state)
{
    (void)state;
    void *p = NULL;
    assert_true(ht_grow(&p, 0, 4, sizeof(int)));
    memcpy(p, (int[]){1, 2, 3, 4}, 16);
    assert_true(ht_grow(&p, 4, 1000, sizeof(int)));
    assert_memory_equal(p, ((int[]){1, 2, 3, 4}), 16);
    assert_true(all_zero((unsigned char *)p + 16, 996 * sizeof(int)));
    void *before = p;
    assert_false(ht_grow(&p, 1000, SIZE_MAX / 2, sizeof(int)));
    assert_ptr_equal(p, before);
    assert_int_equal(((int *)p)[3], 4);
    ht_free(p);
}

static void hook_fails_each(void **state)
{
    (void)state;
    for (unsigned long n = 1; n <= 4; n++) {
        fault_memory_begin(n);
        void *p[4] = {ht_calloc(1, 10), ht_alloc_big(100), ht_calloc(5, 5), ht_calloc(7, 7)};
        for (unsigned long i = 0; i < 4; i++) {
            if (i + 1 == n)
                assert_null(p[i]);
            else
                assert_non_null(p[i]);
        }
        ht_free(p[0]);
        ht_free_big(p[1], 100);
        ht_free(p[2]);
        unsigned long calls;
        assert_int_equal(fault_memory_end(&calls), n == 4 ? 0 : 1); // p[3] is still there
        assert_int_equal(calls, 4);
        fault_memory_begin(0);
        ht_free(p[3]);
        fault_memory_end(NULL);
    }
}

static void checked_arithmetic(void **state)
{
    (void)state;
    size_t out;
    assert_true(ht_mul(SIZE_MAX / 4, 4, &out));
    assert_false(ht_mul(SIZE_MAX / 4 + 1, 4, &out));
    assert_true(ht_add(SIZE_MAX - 1, 1, &out));
    assert_false(ht_add(SIZE_MAX, 1, &out));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(allocates),
        cmocka_unit_test(allocates_big),
        cmocka_unit_test(grows),
        cmocka_unit_test(hook_fails_each),
        cmocka_unit_test(checked_arithmetic),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
