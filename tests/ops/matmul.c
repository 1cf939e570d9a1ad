// SPDX-License-Identifier: Apache-2.0
// matmul: every type, path and thread count against the contract, and the contract against the oracle.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/cpu/contract.h"
#include "engine/cpu/ref.h"
#include "tests/check/matmul_case.h"

static uint32_t block_of(enum ht_type type)
{
    return ht_type_info(type)->block_values;
}

// Shapes: n around the groups of 16 and the panels of 32; rows around the paths (few, matvec, tiles of 6 and 12).
static void paths_equal_contract(void **state)
{
    (void)state;
    static const uint32_t n_list[] = {1, 15, 16, 17, 31, 97},
                          row_list[] = {1, 2,  3,  4,  5,  6,  7,  8,
                                       9, 12, 13, 31, HT_TALL_FROM - 1, HT_TALL_FROM, HT_TALL_FROM + 13,
                                       10, 11, 14, 15, HT_MAX_FEW, HT_MAX_FEW + 1};
    unsigned failures = 0;
    for (int isa = 0; check_isas[isa]; isa++)
        for (unsigned threads = 1; threads <= 3; threads++) {
            struct check_device d;
            if (!check_open(&d, check_isas[isa], threads, HT_PRECISION_Q))
                continue;
            for (unsigned t = 0; t < check_n_types; t++) {
                enum ht_type type = check_types[t];
                uint32_t block = block_of(type) < 32 ? 1 : block_of(type);
                uint32_t longest = block == 32 ? 7 : block == 1 ? 64 : 2;
                uint32_t k_list[] = {block, block == 1 ? 37 : 3 * block, longest * block};
                for (unsigned i = 0; i < 18; i++) {
                    struct matmul_case c = {.type = type,
                                            .n = n_list[i % 6],
                                            .k = k_list[i % 3],
                                            .rows = row_list[(i + 6 * threads + t) % 21],
                                            .input = i % CHECK_N_INPUTS,
                                            .weights = i / 3 % CHECK_N_INPUTS,
                                            .bias = i % 2,
                                            .add = i % 3 == 0,
                                            .pad = i % 4 == 0 ? 3 : 0};
                    failures += matmul_case_run(&d, &c, HT_PRECISION_Q);
                }
            }
            check_close(&d);
        }
    assert_int_equal(failures, 0);
}

static void mixed_parts(void **state)
{
    (void)state;
    unsigned failures = 0;
    for (int isa = 0; check_isas[isa]; isa++) {
        struct check_device d;
        if (!check_open(&d, check_isas[isa], 2, HT_PRECISION_Q))
            continue;
        for (uint32_t rows = 1; rows <= 10; rows += 3) {
            failures += matmul_case_run(
                &d,
                &(struct matmul_case){
                    .type = HT_TYPE_Q4_K, .type2 = HT_TYPE_Q6_K, .n = 48, .n2 = 16, .k = 512, .rows = rows},
                HT_PRECISION_Q);
            failures += matmul_case_run(
                &d,
                &(struct matmul_case){
                    .type = HT_TYPE_Q4_1, .type2 = HT_TYPE_F16, .n = 33, .n2 = 20, .k = 96, .rows = rows},
                HT_PRECISION_Q);
        }
        check_close(&d);
    }
    assert_int_equal(failures, 0);
}

static void exact_equals_contract(void **state)
{
    (void)state;
    unsigned failures = 0;
    for (int isa = 0; check_isas[isa]; isa++) {
        struct check_device d;
        if (!check_open(&d, check_isas[isa], 2, HT_PRECISION_F))
            continue;
        for (unsigned t = 0; t < check_n_types; t++)
            for (uint32_t rows = 1; rows <= 17; rows += 4)
                failures += matmul_case_run(&d,
                                            &(struct matmul_case){.type = check_types[t],
                                                                  .n = 37,
                                                                  .k = 512,
                                                                  .rows = rows,
                                                                  .input = rows % CHECK_N_INPUTS,
                                                                  .pad = 5},
                                            HT_PRECISION_F);
        check_close(&d);
    }
    assert_int_equal(failures, 0);
}

// The shapes of SmolLM2-135M and of a K-quant model, on the best path.
static void model_shapes(void **state)
{
    (void)state;
    unsigned failures = 0;
    struct check_device d;
    assert_true(check_open(&d, NULL, 2, HT_PRECISION_Q));
    static const struct matmul_case cases[] = {
        {.type = HT_TYPE_Q4_1, .n = 576, .k = 576, .rows = 64},
        {.type = HT_TYPE_Q4_1, .n = 576, .k = 1536, .rows = 1},
        {.type = HT_TYPE_Q8_0, .n = 2048, .k = 576, .rows = 2},
        {.type = HT_TYPE_Q5_0, .n = 256, .k = 640, .rows = 20},
        {.type = HT_TYPE_Q6_K, .n = 640, .k = 2048, .rows = 7},
    };
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++)
        failures += matmul_case_run(&d, &cases[i], HT_PRECISION_Q);
    check_close(&d);
    assert_int_equal(failures, 0);
}

// Contract Q against the exact sum over the quantised x: y* = Σ w x', x' = dx q.
// Per output the chain has, for each block of 32, the roundings: dx from amax is part of x' (given); fma,
// product d * dx; and with a min another fma and a product: at most 2 on the path of a term and 2 per block
// in the chain, so m = 2 blocks + 2. The terms are |d scale code x'| and |m min x'|.
static void contract_q_within_bound(void **state)
{
    (void)state;
    unsigned failures = 0;
    enum { K = 1024 };
    for (unsigned t = 0; t < check_n_types; t++) {
        enum ht_type type = check_types[t];
        if (block_of(type) == 1)
            continue;
        for (unsigned input = 0; input < CHECK_N_FINITE; input++) {
            if (input == CHECK_DENORMAL)
                continue; // results below the normal range have an absolute error of 2^-149 a rounding instead
            check_reseed(t * 100 + input);
            unsigned char blocks[K * 2];
            float x[K];
            int8_t q[K];
            float dx[K / 32], ds[K / 32];
            int32_t sum[K / 16];
            check_fill_blocks(type, blocks, K, input == CHECK_LIMITS ? CHECK_LIMITS : CHECK_NORMAL);
            check_fill(x, K, input);
            struct ht_xrow row = {q, dx, ds, sum};
            ht_contract_quantise(x, K, &row);
            double want = 0, magnitude = 0;
            struct ht_block32 b;
            for (uint32_t j = 0; j < K / 32; j++) {
                ht_contract_block(type, blocks, j, &b);
                double m = ht_layout_of(type)->kind == HT_KIND_DM ? (double)b.m : 0;
                for (int i = 0; i < 32; i++) {
                    double xq = (double)dx[j] * q[32 * j + i], w = (double)b.d * b.scale[i / 16] * b.code[i];
                    double low = m - (double)b.m * b.min[i / 16];
                    want += (w + low) * xq;
                    magnitude += (fabs(w) + fabs(low)) * fabs(xq);
                }
            }
            float got = ht_contract_dot_q(type, blocks, K, &row);
            double bound = check_gamma(2 * (2 * (K / 32) + 2)) * magnitude;
            failures += check_bounds(ht_type_info(type)->name, &got, &want, &bound, 1);
            // The codes are those of the format: the same sum by the reference dequantisation, whose own two
            // or three roundings a weight are within gamma_3 of the terms.
            float xq[K];
            for (int i = 0; i < K; i++)
                xq[i] = dx[i / 32] * (float)q[i];
            struct ht_ref_sum ref = ht_ref_dot(type, blocks, xq, K);
            bound += check_gamma(4) * magnitude;
            failures += check_bounds(ht_type_info(type)->name, &got, &ref.value, &bound, 1);
        }
    }
    assert_int_equal(failures, 0);
}

// Quantising: |x - dx q| <= dx / 2 (1 + 2^-22) for each value: q rounds x * (127 / amax), of which the two
// roundings move it by at most 127 * 2^-23.
static void quantise_within_bound(void **state)
{
    (void)state;
    enum { K = 640 };
    unsigned failures = 0;
    for (unsigned input = 0; input < CHECK_N_FINITE; input++) {
        float x[K], d[K / 32], ds[K / 32];
        int8_t q[K];
        int32_t sum[K / 16];
        check_reseed(input);
        check_fill(x, K, input);
        ht_contract_quantise(x, K, &(struct ht_xrow){q, d, ds, sum});
        for (int i = 0; i < K; i++) {
            double got = (double)d[i / 32] * q[i],
                   bound = (double)d[i / 32] * (0.5 + 127 * 0x1p-22) + 0x1p-120;
            failures += !(fabs((double)x[i] - got) <= bound);
            failures += q[i] < -127;
        }
        for (int i = 0; i < K / 16; i++) {
            int32_t want = 0;
            for (int j = 0; j < 16; j++)
                want += q[16 * i + j];
            failures += sum[i] != want;
        }
    }
    assert_int_equal(failures, 0);
}

// Contract F: one chain of k fma: gamma_k, and the oracle's w are the same floats.
static void contract_f_within_bound(void **state)
{
    (void)state;
    enum { K = 777 };
    float x[K], w[K];
    unsigned failures = 0;
    for (unsigned input = 0; input < CHECK_N_FINITE; input++) {
        check_reseed(input);
        check_fill(x, K, input);
        check_fill(w, K, CHECK_NORMAL);
        float got = ht_contract_dot_f(w, x, K);
        struct ht_ref_sum want = ht_ref_dot(HT_TYPE_F32, w, x, K);
        double bound = check_gamma(K) * want.magnitude + K * 0x1p-150;
        failures += check_bounds("dot_f", &got, &want.value, &bound, 1);
    }
    assert_int_equal(failures, 0);
}

// A row's result is the same alone, in a batch, at another place of the tile, and at any thread count.
static void batch_invariance(void **state)
{
    (void)state;
    enum { N = 50, K = 512, ROWS = 40 };
    static const enum ht_type types[] = {HT_TYPE_Q4_1, HT_TYPE_Q8_0, HT_TYPE_Q4_K, HT_TYPE_Q6_K, HT_TYPE_F16};
    unsigned failures = 0;
    for (unsigned t = 0; t < sizeof types / sizeof types[0]; t++) {
        static float alone[ROWS][N], x[ROWS][K];
        static unsigned char blocks[N * K * 2];
        uint64_t row_bytes;
        ht_row_bytes(types[t], K, &row_bytes);
        check_reseed(t);
        for (unsigned i = 0; i < N; i++)
            check_fill_blocks(types[t], blocks + row_bytes * i, K, CHECK_NORMAL);
        check_fill(&x[0][0], ROWS * K, CHECK_NORMAL);
        for (unsigned batch = 1; batch <= ROWS; batch = batch * 2 + 1)
            for (unsigned threads = 1; threads <= 2; threads++) {
                struct check_device d;
                assert_true(check_open(&d, NULL, threads, HT_PRECISION_Q));
                struct ht_weight *w = check_weight(&d, types[t], N, K, blocks);
                struct check_view xv = check_view_make(&d, batch, K, K),
                                  yv = check_view_make(&d, batch, N, N);
                struct check_plan plan = check_plan_begin(&d, (struct ht_step_shape){batch, 1, 1, 2, 0});
                struct ht_matmul mm = {.x = xv.ref, .x_stride = K, .k = K, .n_parts = 1};
                mm.part[0] = (struct ht_matmul_part){.w = w, .y = yv.ref, .y_stride = N};
                CHECK_OK(d.table->matmul(plan.plan, &mm, &check_err));
                check_plan_end(&plan);
                for (unsigned first = 0; first + batch <= ROWS; first += batch) {
                    for (unsigned r = 0; r < batch; r++)
                        check_view_put(&xv, r, x[first + r]);
                    check_plan_run(&plan);
                    for (unsigned r = 0; r < batch; r++) {
                        if (batch == 1 && threads == 1)
                            memcpy(alone[first], check_view_row(&yv, 0), sizeof alone[0]);
                        failures += check_bits("batch", check_view_row(&yv, r), alone[first + r], N);
                    }
                }
                check_plan_free(&plan);
                check_view_free(&xv);
                check_view_free(&yv);
                d.ops->weight_destroy(d.device, &w);
                check_close(&d);
            }
    }
    assert_int_equal(failures, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(paths_equal_contract),    cmocka_unit_test(mixed_parts),
        cmocka_unit_test(exact_equals_contract),   cmocka_unit_test(model_shapes),
        cmocka_unit_test(contract_q_within_bound), cmocka_unit_test(quantise_within_bound),
        cmocka_unit_test(contract_f_within_bound), cmocka_unit_test(batch_invariance),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
