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

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(moments)};
    return cmocka_run_group_tests_name("train_moments", tests, NULL, NULL);
}
