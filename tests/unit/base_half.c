// SPDX-License-Identifier: Apache-2.0
// f16 and bf16: all 65536 values there and back, and rounding at, below and above every tie.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "engine/base/half.h"

// The meaning of a half, by arithmetic in double.
static double f16_value(unsigned h)
{
    unsigned exponent = h >> 10 & 31, mantissa = h & 1023;
    double value = exponent == 31 ? (mantissa ? NAN : INFINITY)
                   : exponent     ? ldexp(1024 + mantissa, (int)exponent - 25)
                                  : ldexp(mantissa, -24);
    return h & 0x8000 ? -value : value;
}

static void f16_round_trip(void **state)
{
    (void)state;
    for (unsigned h = 0; h < 65536; h++) {
        float f = ht_f16_f32((uint16_t)h);
        double value = f16_value(h);
        if (isnan(value)) {
            assert_true(isnan(f));
            unsigned back = ht_f32_f16(f);
            assert_int_equal(back, h | 0x200); // quiet, payload and sign kept
            continue;
        }
        assert_true((double)f == value && !signbit(f) == !(h & 0x8000));
        assert_int_equal(ht_f32_f16(f), h);
    }
}

static void bf16_round_trip(void **state)
{
    (void)state;
    for (unsigned b = 0; b < 65536; b++) {
        float f = ht_bf16_f32((uint16_t)b);
        if (isnan(f))
            assert_int_equal(ht_f32_bf16(f), b | 64);
        else
            assert_int_equal(ht_f32_bf16(f), b);
        assert_int_equal(ht_f32_bits(f), b << 16);
    }
}

// Between every two neighbours: the middle goes to the even one, a float's breadth beside it to the nearer
// one.
static void f16_ties(void **state)
{
    (void)state;
    for (unsigned h = 0; h < 0x7C00; h++) { // up to and including the step to infinity
        double low = f16_value(h), high = h + 1 == 0x7C00 ? 65536 : f16_value(h + 1);
        float middle = (float)((low + high) / 2); // exact: one bit more than a half has
        unsigned even = h & 1 ? h + 1 : h;
        assert_int_equal(ht_f32_f16(middle), even);
        assert_int_equal(ht_f32_f16(nextafterf(middle, 0)), h);
        assert_int_equal(ht_f32_f16(nextafterf(middle, INFINITY)), h + 1);
        assert_int_equal(ht_f32_f16(-middle), even | 0x8000);
    }
    assert_int_equal(ht_f32_f16(1e30f), 0x7C00);
    assert_int_equal(ht_f32_f16(-INFINITY), 0xFC00);
    assert_int_equal(ht_f32_f16(1e-30f), 0);
    assert_int_equal(ht_f32_f16(-1e-45f), 0x8000);
}

static void bf16_ties(void **state)
{
    (void)state;
    for (unsigned b = 0; b < 0x7F80; b++) {
        uint32_t middle = b << 16 | 0x8000;
        assert_int_equal(ht_f32_bf16(ht_bits_f32(middle)), b & 1 ? b + 1 : b);
        assert_int_equal(ht_f32_bf16(ht_bits_f32(middle - 1)), b);
        assert_int_equal(ht_f32_bf16(ht_bits_f32(middle + 1)), b + 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(f16_round_trip),
        cmocka_unit_test(bf16_round_trip),
        cmocka_unit_test(f16_ties),
        cmocka_unit_test(bf16_ties),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
