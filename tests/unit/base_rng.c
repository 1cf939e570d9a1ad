// SPDX-License-Identifier: Apache-2.0
// Philox4x32-10 against the known answers published with the generator (Salmon et al., Random123,
// kat_vectors).
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "engine/base/rng.h"

static void known_answers(void **state)
{
    (void)state;
    static const struct {
        uint32_t counter[4], key[2], want[4];
    } cases[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < 3; i++) {
        const uint32_t *c = cases[i].counter, *k = cases[i].key;
        struct ht_philox got =
            ht_philox(k[0] | (uint64_t)k[1] << 32, c[0] | (uint64_t)c[1] << 32, c[2] | (uint64_t)c[3] << 32);
        assert_memory_equal(got.v, cases[i].want, 16);
    }
}

static void unit_floats(void **state)
{
    (void)state;
    assert_true(ht_unit_f32(0) == 0.0f);
    assert_true(ht_unit_f32(UINT32_MAX) < 1.0f);
    assert_true(ht_unit_f32(0x80000000u) == 0.5f);
    double sum = 0;
    for (uint64_t i = 0; i < 100000; i++)
        sum += (double)ht_unit_f32(ht_philox(1, i, 0).v[i % 4]);
    assert_true(sum / 100000 > 0.495 && sum / 100000 < 0.505); // 5 sigma are 0.0046
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(known_answers), cmocka_unit_test(unit_floats)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
