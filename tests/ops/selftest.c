// SPDX-License-Identifier: Apache-2.0
// The harness itself: kernels broken on purpose must be caught by the same cases that judge the real ones.
// Each is put into the table of an open device; a break that no case notices fails the test.
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "engine/cpu/cpu.h"
#include "tests/check/matmul_case.h"

#define TYPE HT_TYPE_Q4_1
static struct ht_kernels good; // what the broken ones call

// A few cases of the matmul test, around the borders that matter.
static unsigned failures_of(struct check_device *d)
{
    static const struct matmul_case cases[] = {
        {.type = TYPE, .n = 33, .k = 96, .rows = 1, .pad = 3},
        {.type = TYPE, .n = 33, .k = 96, .rows = 5, .bias = true},
        {.type = TYPE, .n = 40, .k = 64, .rows = 13, .pad = 1, .add = true},
        {.type = TYPE, .n = 31, .k = 64, .rows = 20, .input = CHECK_OUTLIERS},
        {.type = TYPE, .n = 33, .k = 96, .rows = HT_TALL_FROM + 8, .input = CHECK_OUTLIERS},
        {.type = TYPE, .n = 16, .k = 64, .rows = 9, .input = CHECK_NONFINITE},
        {.type = TYPE, .n = 16, .k = 64, .rows = 2, .input = CHECK_LIMITS, .weights = CHECK_LIMITS},
    };
    unsigned failures = 0;
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++)
        failures += matmul_case_run(d, &cases[i], HT_PRECISION_Q);
    return failures;
}

// ---- broken on purpose

static void dropped_block(const unsigned char *tiles, uint32_t k, const struct ht_xrow *x, unsigned n,
                          float *out)
{
    good.matvec[TYPE](tiles, k - 32, x, n, out);
}
static void dropped_term(const unsigned char *tiles, uint32_t k, const struct ht_xrow *x, unsigned n,
                         float *out)
{
    for (unsigned c = 0; c < n; c++) // as if the last of k values were not read
        x[c].q[k - 1] = 0;
    good.matvec[TYPE](tiles, k, x, n, out);
}
static void stale_column(const unsigned char *tiles, uint32_t k, const struct ht_xrow *x, unsigned n,
                         float *out)
{
    good.matvec[TYPE](tiles, k, x, n > 1 ? n - 1 : n, out); // the last column keeps what was there
}
static void few_dropped_block(const unsigned char *tiles, uint32_t k, const struct ht_xfew *x, unsigned n,
                              float *out)
{
    good.few[TYPE](tiles, k - 32, x, n, out);
}
static void few_columns_swapped(const unsigned char *tiles, uint32_t k, const struct ht_xfew *x, unsigned n,
                                float *out)
{
    float whole[HT_MAX_MATVEC * HT_GROUP];
    good.few[TYPE](tiles, k, x, n, whole);
    for (unsigned c = 0; c < n; c++)
        memcpy(out + c * HT_GROUP, whole + (c ^ 1) * HT_GROUP, HT_GROUP * sizeof *out);
}
static void few_last_missing(const unsigned char *tiles, uint32_t k, const struct ht_xfew *x, unsigned n,
                             float *out)
{
    good.few[TYPE](tiles, k, x, n, out);
    memset(out + (size_t)(n - 1) * HT_GROUP, 0, HT_GROUP * sizeof *out);
}
static void stale_panel(const unsigned char *tiles, uint32_t k, unsigned half, unsigned char *panel)
{
    if (!half)
        good.panel[TYPE](tiles, k, half, panel);
}
static void shifted_tile(const unsigned char *panel, const struct ht_xtile *x, uint32_t k, float *out)
{
    float whole[HT_COLS * 32 + 1] = {0};
    good.tile[TYPE](panel, x, k, whole);
    memcpy(out, whole + 1, HT_COLS * 32 * sizeof *out); // off by one row
}
static void missing_tail(const unsigned char *panel, const struct ht_xtile *x, uint32_t k, float *out)
{
    good.tile[TYPE](panel, x, k, out);
    for (unsigned r = 0; r < 32; r++)
        out[(HT_COLS - 1) * 32 + r] = 0; // the last of six columns
}
static void shifted_tall(const unsigned char *panel, const struct ht_xtall *x, uint32_t k, float *out)
{
    float whole[HT_TALL * 32 + 1] = {0};
    good.tall[TYPE](panel, x, k, whole);
    memcpy(out, whole + 1, HT_TALL * 32 * sizeof *out);
}
static void missing_last(const unsigned char *panel, const struct ht_xtall *x, uint32_t k, float *out)
{
    good.tall[TYPE](panel, x, k, out);
    for (unsigned r = 0; r < 32; r++)
        out[(HT_TALL - 1) * 32 + r] = 0; // the last of twelve rows
}
static void stale_block(const unsigned char *panel, const struct ht_xtall *x, uint32_t k, float *out)
{
    good.tall[TYPE](panel, x, k - 32, out); // the last block is still under way
}
static void forgotten_bias(const float *value, const float *bias, bool add, uint32_t n, float *y)
{
    (void)bias;
    good.put(value, NULL, add, n, y);
}
static void lost_sum(const float *value, const float *bias, bool add, uint32_t n, float *y)
{
    (void)add;
    good.put(value, bias, false, n, y);
}
static void other_rounding(const float *x, uint32_t k, const struct ht_xrow *out)
{
    good.quantise(x, k, out);
    for (uint32_t b = 0; b < k / 32; b++)
        out->d[b] *= 1.0f + 0x1p-23f; // one ulp
}
static void swallowed_nan(const float *x, uint32_t k, const struct ht_xrow *out)
{
    good.quantise(x, k, out);
    for (uint32_t b = 0; b < k / 32; b++)
        if (out->d[b] != out->d[b])
            out->d[b] = out->ds[b] = 0;
}

static void caught(struct check_device *d, const char *what)
{
    check_quiet = true;
    unsigned failures = failures_of(d);
    check_quiet = false;
    d->device->kernels = good;
    if (!failures)
        fail_msg("the harness did not notice: %s", what);
}

static void broken_kernels_are_caught(void **state)
{
    (void)state;
    for (int isa = 1; check_isas[isa]; isa++) {
        struct check_device d;
        // One thread: some of them write what the team shares.
        if (!check_open(&d, check_isas[isa], 1, HT_PRECISION_Q))
            continue;
        good = d.device->kernels;
        struct ht_kernels *k = &d.device->kernels;
        assert_int_equal(failures_of(&d), 0);
#define BROKEN(entry, function)                                                                              \
    k->entry = function;                                                                                     \
    caught(&d, #function);
        BROKEN(matvec[TYPE], dropped_block)
        BROKEN(matvec[TYPE], dropped_term)
        BROKEN(matvec[TYPE], stale_column)
        if (good.few[TYPE]) {
            BROKEN(few[TYPE], few_dropped_block)
            BROKEN(few[TYPE], few_columns_swapped)
            BROKEN(few[TYPE], few_last_missing)
        }
        BROKEN(panel[TYPE], stale_panel)
        if (k->tall[TYPE]) { // takes the work of the tiles, which are judged without it below
            BROKEN(tall[TYPE], shifted_tall)
            BROKEN(tall[TYPE], missing_last)
            BROKEN(tall[TYPE], stale_block)
        }
        BROKEN(put, forgotten_bias)
        BROKEN(put, lost_sum)
        good.tall[TYPE] = k->tall[TYPE] = NULL;
        BROKEN(tile[TYPE], shifted_tile)
        BROKEN(tile[TYPE], missing_tail)
        BROKEN(quantise, other_rounding)
        BROKEN(quantise, swallowed_nan)
#undef BROKEN
        check_close(&d);
    }
}

// The guard zones: writes one float before, after and between the rows.
static void writes_outside_are_caught(void **state)
{
    (void)state;
    struct check_device d;
    assert_true(check_open(&d, NULL, 1, HT_PRECISION_Q));
    static const int places[] = {-1, 5, 7 + 5, 3 * 7 - 1, 3 * 7};
    for (unsigned i = 0; i < sizeof places / sizeof places[0]; i++) {
        struct check_view v = check_view_make(&d, 3, 5, 7);
        assert_int_equal(check_view_guards(&v, "untouched"), 0);
        ((float *)check_view_row(&v, 0))[places[i]] = 0;
        check_quiet = true;
        unsigned failures = check_view_guards(&v, "written");
        check_quiet = false;
        assert_int_equal(failures, 1);
        check_view_free(&v);
    }
    check_close(&d);
}

static void comparisons(void **state)
{
    (void)state;
    float zero = 0, minus = -0.0f, nan1 = __builtin_nanf("1"), nan2 = -__builtin_nanf("2"), one = 1,
          next = 1 + 0x1p-23f;
    check_quiet = true;
    assert_int_equal(check_bits("signs of zero differ", &zero, &minus, 1), 1);
    assert_int_equal(check_bits("any NaN is a NaN", &nan1, &nan2, 1), 0);
    assert_int_equal(check_bits("an ulp", &one, &next, 1), 1);
    double want = 1, bound = 0x1p-25, nan = __builtin_nan("");
    assert_int_equal(check_bounds("outside", &next, &want, &bound, 1), 1);
    assert_int_equal(check_bounds("NaN for a number", &nan1, &want, &bound, 1), 1);
    assert_int_equal(check_bounds("a number for NaN", &one, &nan, &bound, 1), 1);
    assert_int_equal(check_bounds("inside", &one, &want, &bound, 1), 0);
    check_quiet = false;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(broken_kernels_are_caught),
                                       cmocka_unit_test(writes_outside_are_caught),
                                       cmocka_unit_test(comparisons)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
