// SPDX-License-Identifier: Apache-2.0
// The training graph over the tiny models of every family: gradients against a computation in double, which finite
// differences judge; the same bits with any number of threads, instruction set, checkpointing, packing and serving in
// between; draws; the optimizer's step; what is refused; memory that runs out.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/base/mem.h"
#include "engine/cpu/train_ref.h"
#include "engine/model/session.h"
#include "tests/check/train.h"
#include "tests/check/train_model.h"

#define MODELS "tests/golden/tiny-"
static const char *const families[] = {MODELS "llama.gguf", MODELS "qwen2.gguf", MODELS "qwen2-q4_1.gguf",
                                       MODELS "qwen3.gguf", MODELS "gemma3.gguf"};
enum { N_FAMILIES = sizeof families / sizeof families[0], ROWS = 40, ALL = 0x7F };

// ---------------------------------------------------------------- a model, an adapter, a batch

static struct hearth_engine *engine_open(const char *path, const char *isa, unsigned threads)
{
    struct hearth_engine *engine;
    const struct hearth_engine_params params = {
        .model_path = path, .device = "cpu", .n_ctx = 64, .n_threads = threads, .cpu_isa = isa};
    if (hearth_engine_open(&engine, &params, &check_err) == HEARTH_UNSUPPORTED)
        return NULL; // no such instruction set here
    assert_non_null(engine);
    if (engine->model.hp.window)
        engine->model.hp.final_softcap = 4; // Gemma's, which the tiny one has not
    return engine;
}

// Ranks and alphas differ from linear to linear with `mixed`. B is no longer 0.
static struct hearth_adapter *adapter_make(const struct ht_hparams *hp, unsigned linears, bool mixed)
{
    const struct ht_adapter_spec spec = {.linears = linears, .rank = 3, .alpha = 6, .rslora = mixed};
    struct hearth_adapter *a;
    CHECK_OK(ht_adapter_create(&a, hp, &spec, &check_err));
    if (mixed) {
        for (size_t i = 0; i < a->n_targets; i++) {
            a->targets[i].rank = 1 + (uint32_t)(i * 5 % 7);
            a->targets[i].alpha = 2 + (float)(i % 3);
        }
        ht_free_big(a->values, a->n_values * sizeof *a->values);
        CHECK_OK(ht_adapter_lay_out(a, &check_err));
    }
    ht_adapter_init(a, 5, false);
    for (size_t i = 0; i < a->n_targets; i++)
        for (size_t j = 0; j < (size_t)a->targets[i].n * a->targets[i].rank; j++)
            a->values[a->targets[i].b_at + j] = 0.3f * check_unit();
    return a;
}

struct rows {
    struct ht_batch batch;
    int32_t ids[ROWS], target[ROWS];
    uint32_t pos[ROWS], seg_from[ROWS], row_id[ROWS];
    float weight[ROWS];
};

static void rows_refer(struct rows *r)
{
    r->batch.ids = r->ids;
    r->batch.target = r->target;
    r->batch.pos = r->pos;
    r->batch.seg_from = r->seg_from;
    r->batch.row_id = r->row_id;
    r->batch.weight = r->weight;
}

// A text of n tokens behind those that are there; the last one predicts nothing, a few others count nothing.
static void rows_add(struct rows *r, uint32_t n, uint64_t text, bool counts)
{
    uint32_t from = r->batch.n_rows;
    check_reseed(1000 + text);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t at = from + i;
        r->ids[at] = (int32_t)check_below(260);
        r->target[at] = i + 1 < n ? (int32_t)check_below(260) : -1;
        r->pos[at] = i;
        r->seg_from[at] = from;
        r->row_id[at] = (uint32_t)text * 100 + i;
        r->weight[at] = !counts || i % 5 == 3 ? 0 : 0.02f * (1 + (float)(i % 3));
    }
    r->batch.n_rows += n;
    rows_refer(r);
}

static const struct ht_graph_params plain = {.rows = ROWS,
                                             .precision = HT_TRAIN_F,
                                             .lora_plus = 1,
                                             .beta1 = 0.9f,
                                             .beta2 = 0.99f,
                                             .eps = 1e-6f,
                                             .decay = 0.1f,
                                             .clip = 0};

static struct ht_graph *graph_make(const struct hearth_engine *engine, const struct hearth_adapter *adapter,
                                   struct ht_graph_params params)
{
    struct ht_graph *g;
    CHECK_OK(ht_graph_create(&g, &engine->model, adapter, &params, &check_err));
    return g;
}

static void run_all(struct ht_graph *g)
{
    uint32_t left;
    do
        CHECK_OK(ht_graph_run(g, &left, &check_err));
    while (left);
}

static void pass(struct ht_graph *g, enum ht_graph_pass which, const struct ht_batch *batch, uint64_t step)
{
    CHECK_OK(ht_graph_begin(g, which, batch, 11, step, &check_err));
    run_all(g);
}

static float *vector_of(struct ht_graph *g, enum ht_graph_vector which)
{
    float *x = malloc(ht_graph_n_values(g) * sizeof *x);
    CHECK_OK(ht_graph_read(g, which, x, &check_err));
    return x;
}

// ---------------------------------------------------------------- against double

static const char *name_of(const struct hearth_adapter *a, size_t target, int half)
{
    static char name[80];
    char tensor[64];
    ht_adapter_tensor_name(&a->targets[target], tensor);
    snprintf(name, sizeof name, "%s %c", tensor, half ? 'B' : 'A');
    return name;
}

// The computation in double has the gradient that finite differences of its loss give.
static unsigned by_differences(const char *family, float dropout, float neftune)
{
    struct hearth_engine *engine = engine_open(family, NULL, 1);
    struct hearth_adapter *a = adapter_make(&engine->model.hp, ALL, true);
    struct rows r = {0};
    unsigned failures = 0;
    rows_add(&r, 4, 1, true);
    rows_add(&r, 11, 2, true); // longer than the window
    struct train_model *m = train_model_make(&engine->model, a, &r.batch);
    train_model_draws(m, dropout, neftune, 3, 4);
    train_model_loss(m);
    train_model_back(m);
    check_reseed(9);
    for (size_t i = 0; i < a->n_targets; i++)
        for (int half = 0; half < 2; half++) {
            const struct ht_adapter_target *t = &a->targets[i];
            size_t from = half ? t->b_at : t->a_at, n = (size_t)t->rank * (half ? t->n : t->k);
            double largest = 0;
            for (size_t j = 0; j < n; j++)
                largest = fmax(largest, fabs(train_model_gradient(m)[from + j]));
            assert_true(largest > 1e-5); // one that could be wrong
            for (int j = 0; j < 2; j++) {
                size_t at = from + check_below((uint32_t)n);
                failures += train_slope_is(name_of(a, i, half), train_model_gradient(m)[at],
                                           train_slope(train_model_loss, m, train_model_values(m) + at), 0.1);
            }
        }
    train_model_free(m);
    hearth_adapter_close(&a);
    hearth_engine_close(&engine);
    return failures;
}

static void oracle(void **state)
{
    (void)state;
    unsigned failures = 0;
    for (int i = 0; i < N_FAMILIES; i++)
        failures += by_differences(families[i], 0, 0);
    failures += by_differences(families[N_FAMILIES - 1], 0.25f, 5);
    assert_int_equal(failures, 0);
}

// Losses within 1e-5, each matrix of gradients within 1e-4 of its largest value: f32 sums of some hundred terms over a
// few layers lose 1e-5 of it, a wrong term anywhere more than 1e-3.
static unsigned near(const struct hearth_adapter *a, struct train_model *m, const struct rows *r, struct ht_graph *g)
{
    unsigned failures = 0;
    float *gradient = vector_of(g, HT_GRAPH_GRADIENTS);
    train_model_loss(m);
    train_model_back(m);
    for (uint32_t i = 0; i < r->batch.n_rows; i++)
        failures += !(fabs((double)ht_graph_losses(g)[i] - train_model_row_loss(m, i)) < 1e-5);
    if (failures)
        print_message("%u losses are wrong\n", failures);
    for (size_t i = 0; i < a->n_targets; i++)
        for (int half = 0; half < 2; half++) {
            const struct ht_adapter_target *t = &a->targets[i];
            size_t from = half ? t->b_at : t->a_at, n = (size_t)t->rank * (half ? t->n : t->k);
            double largest = 0, error = 0;
            for (size_t j = 0; j < n; j++) {
                largest = fmax(largest, fabs(train_model_gradient(m)[from + j]));
                error = fmax(error, fabs((double)gradient[from + j] - train_model_gradient(m)[from + j]));
            }
            if (largest > 1e-6 && error <= 1e-4 * largest)
                continue;
            print_message("%s: off by %g of %g\n", name_of(a, i, half), error, largest);
            failures++;
        }
    free(gradient);
    return failures;
}

static unsigned graph_near(const char *family, unsigned linears, bool mixed, struct ht_graph_params params)
{
    struct hearth_engine *engine = engine_open(family, NULL, 2);
    check_reseed(77);
    struct hearth_adapter *a = adapter_make(&engine->model.hp, linears, mixed);
    struct rows r = {0};
    rows_add(&r, 13, 1, true);
    rows_add(&r, 20, 2, true);
    rows_add(&r, 2, 3, true);
    struct ht_graph *g = graph_make(engine, a, params);
    struct train_model *m = train_model_make(&engine->model, a, &r.batch);
    train_model_draws(m, params.dropout, params.neftune, 11, 1);
    pass(g, HT_GRAPH_TRAIN, &r.batch, 1);
    unsigned failures = near(a, m, &r, g);
    if (failures)
        print_message("%s, linears %x\n", family, linears);
    train_model_free(m);
    ht_graph_destroy(&g);
    hearth_adapter_close(&a);
    hearth_engine_close(&engine);
    return failures;
}

static void gradients(void **state)
{
    (void)state;
    unsigned failures = 0;
    struct ht_graph_params saving = plain, drawing = plain, all = plain;
    saving.checkpointing = drawing.checkpointing = true;
    all.dropout = drawing.dropout = 0.3f;
    all.neftune = drawing.neftune = 5;
    for (int i = 0; i < N_FAMILIES; i++) {
        failures += graph_near(families[i], ALL, false, plain);
        failures += graph_near(families[i], ALL, true, saving);
        failures += graph_near(families[i], ALL, true, all);
        failures += graph_near(families[i], ALL, false, drawing);
    }
    for (unsigned linear = 0; linear < HT_N_MATRICES; linear++) { // every type alone
        failures += graph_near(families[0], 1u << linear, false, plain);
        failures += graph_near(families[4], 1u << linear, false, saving);
    }
    failures += graph_near(families[3], 1u << HT_ATTN_Q | 1u << HT_ATTN_V | 1u << HT_FFN_UP, false, all);
    assert_int_equal(failures, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(oracle), cmocka_unit_test(gradients)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
