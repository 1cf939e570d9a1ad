// SPDX-License-Identifier: Apache-2.0
// Dequantisation of every type against golden values (tests/golden/make_dequant.py), bit for bit; the type
// table.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "engine/base/half.h"
#include "engine/gguf/quant.h"

enum { MAX_VALUES = 4096, MAX_BYTES = 16384 };

static void golden_values(void **state)
{
    (void)state;
    static unsigned char blocks[MAX_BYTES + 1];
    static float want[MAX_VALUES], got[MAX_VALUES];
    uint32_t head[3];
    unsigned types_seen = 0;
    FILE *file = fopen("tests/golden/dequant.bin", "rb");
    assert_non_null(file);
    while (fread(head, sizeof head, 1, file) == 1) {
        uint64_t bytes;
        assert_true(head[1] <= MAX_VALUES && head[2] <= MAX_BYTES);
        assert_non_null(ht_type_info((enum ht_type)head[0]));
        assert_true(ht_row_bytes(head[0], head[1], &bytes));
        assert_int_equal(bytes, head[2]);
        assert_int_equal(fread(blocks + 1, 1, head[2], file), head[2]); // + 1: blocks need not be aligned
        assert_int_equal(fread(want, sizeof(float), head[1], file), head[1]);
        memset(got, 0xFF, sizeof got);
        ht_dequant_row((enum ht_type)head[0], blocks + 1, head[1], got);
        for (uint32_t i = 0; i < head[1]; i++)
            if (ht_f32_bits(got[i]) != ht_f32_bits(want[i])) {
                print_error("%s value %u: %a, wanted %a\n", ht_type_info((enum ht_type)head[0])->name, i,
                            (double)got[i], (double)want[i]);
                fail();
            }
        assert_int_equal(ht_f32_bits(got[head[1] % MAX_VALUES]), 0xFFFFFFFF); // nothing beyond the end
        types_seen++;
    }
    fclose(file);
    assert_int_equal(types_seen, 14);
}

static void type_table(void **state)
{
    (void)state;
    static const struct {
        enum ht_type type;
        const char *name;
        unsigned values, bytes;
    } types[] = {
        {HT_TYPE_F32, "F32", 1, 4},       {HT_TYPE_F16, "F16", 1, 2},
        {HT_TYPE_BF16, "BF16", 1, 2},     {HT_TYPE_Q4_0, "Q4_0", 32, 18},
        {HT_TYPE_Q4_1, "Q4_1", 32, 20},   {HT_TYPE_Q5_0, "Q5_0", 32, 22},
        {HT_TYPE_Q5_1, "Q5_1", 32, 24},   {HT_TYPE_Q8_0, "Q8_0", 32, 34},
        {HT_TYPE_Q2_K, "Q2_K", 256, 84},  {HT_TYPE_Q3_K, "Q3_K", 256, 110},
        {HT_TYPE_Q4_K, "Q4_K", 256, 144}, {HT_TYPE_Q5_K, "Q5_K", 256, 176},
        {HT_TYPE_Q6_K, "Q6_K", 256, 210}, {HT_TYPE_IQ4_NL, "IQ4_NL", 32, 18},
    };
    unsigned n_supported = 0;
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        const struct ht_type_info *info = ht_type_info(types[i].type);
        assert_non_null(info);
        assert_string_equal(info->name, types[i].name);
        assert_int_equal(info->block_values, types[i].values);
        assert_int_equal(info->block_bytes, types[i].bytes);
        assert_ptr_equal(info, ht_type_known(types[i].type));
        assert_true((unsigned)types[i].type < HT_N_TYPES);
    }
    for (unsigned number = 0; number < 1000; number++)
        n_supported += ht_type_info((enum ht_type)number) != NULL;
    assert_int_equal(n_supported, 14);
    assert_string_equal(ht_type_known(17)->name, "IQ2_XS");
    assert_int_equal(ht_type_known(4)->block_bytes, 0);
    assert_null(ht_type_known(42));
    assert_null(ht_type_known(UINT32_MAX));
}

static void row_bytes(void **state)
{
    (void)state;
    uint64_t bytes;
    assert_true(ht_row_bytes(HT_TYPE_Q4_1, 64, &bytes) && bytes == 40);
    assert_true(ht_row_bytes(HT_TYPE_F32, 0, &bytes) && bytes == 0);
    assert_false(ht_row_bytes(HT_TYPE_Q4_1, 33, &bytes));
    assert_false(ht_row_bytes(4, 32, &bytes)); // withdrawn
    assert_false(ht_row_bytes(99, 32, &bytes));
    assert_false(ht_row_bytes(HT_TYPE_F32, (uint64_t)1 << 62, &bytes));
    assert_true(ht_row_bytes(HT_TYPE_F32, ((uint64_t)1 << 62) - 1, &bytes) && bytes == UINT64_MAX - 3);
}

static void unknown_type_shows(void **state)
{
    (void)state;
    float out[32] = {0};
    unsigned char blocks[64] = {0};
    ht_dequant_row((enum ht_type)17, blocks, 32, out);
    assert_true(isnan(out[0]) && isnan(out[31]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_values),
        cmocka_unit_test(type_table),
        cmocka_unit_test(row_bytes),
        cmocka_unit_test(unknown_type_shows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
