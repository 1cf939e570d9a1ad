// SPDX-License-Identifier: Apache-2.0
// Moments of bytes in the training graph, beside those of f32: the first step, what a graph goes on with, memory.
#include "tests/model/graph_test.h"

// Moments of bytes: from zeros the step is that of f32 ones, with each rate where it belongs; the state is all that a
// graph goes on with, read and written in parts of any length; and it takes a quarter of the memory.
static void one_step_both(const struct hearth_engine *engine, const struct hearth_adapter *a,
                          struct ht_graph_params params)
{
    float *gradient = malloc(a->n_values * sizeof *gradient), *values[2];
    uint64_t bytes[2];
    for (size_t i = 0; i < a->n_values; i++)
        gradient[i] = check_unit();
    for (int i = 0; i < 2; i++) {
        params.moments = i ? HT_GRAPH_MOMENTS_8BIT : HT_GRAPH_MOMENTS_F32;
        for (int k = 0; k < 2; k++) // the second time the device has its scratch
            CHECK_OK(ht_graph_memory(&engine->model, a, &params, &bytes[i], &check_err));
        struct ht_graph *g = graph_make(engine, a, params);
        CHECK_OK(ht_graph_write(g, HT_GRAPH_GRADIENTS, gradient, &check_err));
        CHECK_OK(ht_graph_update(g, 1, 0.01f, &check_err));
        run_all(g);
        values[i] = vector_of(g, HT_GRAPH_VALUES);
        float *moments = malloc(a->n_values * sizeof *moments);
        assert_int_equal(ht_graph_read(g, HT_GRAPH_MOMENT1, moments, &check_err), i ? HEARTH_INVALID : HEARTH_OK);
        assert_int_equal(ht_graph_write(g, HT_GRAPH_MOMENT2, gradient, &check_err), i ? HEARTH_INVALID : HEARTH_OK);
        free(moments);
        ht_graph_destroy(&g);
    }
    assert_memory_equal(values[0], values[1], a->n_values * sizeof **values);
    assert_memory_not_equal(values[0], a->values, a->n_values * sizeof **values);
    double saved = (double)(bytes[0] - bytes[1]), parts = params.lora_plus == 1 ? 1 : 2 * (double)a->n_targets;
    assert_true(saved <= 6 * (double)a->n_values && saved > 5.9 * (double)a->n_values - parts * (512 + 64));
    free(gradient), free(values[0]), free(values[1]);
}

static void learn_a_step(struct ht_graph *g, const struct rows *r, uint64_t step)
{
    pass(g, HT_GRAPH_TRAIN, &r->batch, step);
    CHECK_OK(ht_graph_update(g, step, 0.02f, &check_err));
    run_all(g);
}

static unsigned char *state_of(struct ht_graph *g, size_t part)
{
    size_t n = ht_graph_state_bytes(g);
    unsigned char *bytes = malloc(n);
    for (size_t at = 0; at < n; at += part)
        CHECK_OK(ht_graph_state_read(g, at, bytes + at, n - at < part ? n - at : part, &check_err));
    return bytes;
}

static void goes_on(const struct hearth_engine *engine, const struct hearth_adapter *a, struct ht_graph_params params)
{
    struct rows r = {0};
    rows_add(&r, 33, 1, true);
    struct ht_graph *g[2] = {graph_make(engine, a, params), graph_make(engine, a, params)};
    size_t n = ht_graph_state_bytes(g[0]);
    for (uint64_t step = 1; step <= 5; step++)
        learn_a_step(g[0], &r, step);
    unsigned char *saved = state_of(g[0], 1003), *after[2];
    for (size_t at = 0; at < n; at += 777)
        CHECK_OK(ht_graph_state_write(g[1], at, saved + at, n - at < 777 ? n - at : 777, &check_err));
    for (int i = 0; i < 2; i++) {
        for (uint64_t step = 6; step <= 8; step++)
            learn_a_step(g[i], &r, step);
        after[i] = state_of(g[i], n);
    }
    assert_memory_equal(after[0], after[1], n);
    assert_memory_not_equal(after[0], saved, n);
    assert_int_equal(ht_graph_state_read(g[0], 1, saved, n, &check_err), HEARTH_INVALID);
    assert_int_equal(ht_graph_state_write(g[0], n + 1, saved, 0, &check_err), HEARTH_INVALID);
    for (int i = 0; i < 2; i++) {
        free(after[i]);
        ht_graph_destroy(&g[i]);
    }
    free(saved);
}

static void moments(void **state)
{
    (void)state;
    struct hearth_engine *engine = engine_open(families[1], NULL, 2);
    struct hearth_adapter *a = adapter_make(&engine->model.hp, ALL, true);
    for (int i = 0; i < 4; i++) {
        struct ht_graph_params params = plain;
        params.lora_plus = i % 2 ? 8 : 1;
        if (i < 2)
            one_step_both(engine, a, params);
        params.moments = i < 2 ? HT_GRAPH_MOMENTS_8BIT : HT_GRAPH_MOMENTS_F32;
        goes_on(engine, a, params);
    }
    hearth_adapter_close(&a);
    hearth_engine_close(&engine);
}

// Flat vectors go through the optimizer 2^20 values at a time: what lies behind the first of these pieces is clipped,
// moved and cleared as the first is. Gradients repeat from piece to piece, and so must all that is made of them; but
// where bytes are rounded each value of each step has a draw of its own.
enum { PIECE = 1 << 20, LARGE_RANK = 1331 };

static struct ht_graph *one_large_step(const struct hearth_engine *engine, const struct hearth_adapter *a,
                                       enum ht_graph_moments moments, uint64_t step)
{
    struct ht_graph_params params = plain;
    float *gradient = malloc(a->n_values * sizeof *gradient), norm;
    params.clip = 0.5f;
    params.moments = moments;
    check_reseed(8);
    for (size_t i = 0; i < a->n_values; i++)
        gradient[i] = i < PIECE ? check_unit() : gradient[i - PIECE];
    struct ht_graph *g = graph_make(engine, a, params);
    CHECK_OK(ht_graph_write(g, HT_GRAPH_GRADIENTS, gradient, &check_err));
    CHECK_OK(ht_graph_update(g, step, 0.01f, &check_err));
    run_all(g);
    CHECK_OK(ht_graph_norm(g, &norm, &check_err));
    assert_true(norm == 0);
    free(gradient);
    return g;
}

static void repeats(const float *x, size_t n)
{
    assert_true(n > PIECE + PIECE / 8 && n < 2 * PIECE);
    assert_memory_equal(x + PIECE, x, (n - PIECE) * sizeof *x);
}

static void many_values(void **state)
{
    (void)state;
    struct hearth_engine *engine = engine_open(families[0], NULL, 2);
    const struct ht_adapter_spec spec = {.linears = ALL, .rank = LARGE_RANK, .alpha = 6};
    struct hearth_adapter *a;
    CHECK_OK(ht_adapter_create(&a, &engine->model.hp, &spec, &check_err));
    size_t n = a->n_values, values_bytes = (n + 15) / 16 * 16 * sizeof(float);

    struct ht_graph *g = one_large_step(engine, a, HT_GRAPH_MOMENTS_F32, 1);
    float *values = vector_of(g, HT_GRAPH_VALUES), *moment = vector_of(g, HT_GRAPH_MOMENT1);
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)moment[i] * (double)moment[i];
    repeats(values, n);
    repeats(moment, n);
    assert_true(fabs(sqrt(sum) - 0.1 * 0.5) < 1e-4); // (1 - beta1) of a gradient clipped to 0.5
    free(values), free(moment);
    ht_graph_destroy(&g);

    unsigned char *bytes[2];
    for (uint64_t step = 1; step <= 2; step++) {
        g = one_large_step(engine, a, HT_GRAPH_MOMENTS_8BIT, step);
        bytes[step - 1] = state_of(g, PIECE);
        repeats((const float *)(const void *)bytes[step - 1], n);
        ht_graph_destroy(&g);
    }
    const unsigned char *codes = bytes[0] + values_bytes;
    assert_memory_not_equal(codes + PIECE, codes, n - PIECE);
    assert_memory_not_equal(bytes[1] + values_bytes, codes, n);
    free(bytes[0]), free(bytes[1]);
    hearth_adapter_close(&a);
    hearth_engine_close(&engine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(moments), cmocka_unit_test(many_values)};
    return cmocka_run_group_tests_name("train_moments", tests, NULL, NULL);
}
