// SPDX-License-Identifier: Apache-2.0
// Shared by the training graph's tests: the tiny models of every family, adapters, rows of a micro-batch, passes.
#ifndef GRAPH_TEST_H
#define GRAPH_TEST_H
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/base/mem.h"
#include "engine/learn/graph.h"
#include "engine/model/session.h"
#include "tests/check/train.h"

#define MODELS "tests/golden/tiny-"
static const char *const families[] = {MODELS "llama.gguf", MODELS "qwen2.gguf", MODELS "qwen2-q4_1.gguf",
                                       MODELS "qwen3.gguf", MODELS "gemma3.gguf"};
enum { N_FAMILIES = sizeof families / sizeof families[0], ROWS = 40, ALL = 0x7F, HEAD = 1 << HT_ADAPTER_OUTPUT };

// ---------------------------------------------------------------- a model, an adapter, a batch

static inline struct hearth_engine *engine_open(const char *path, const char *isa, unsigned threads)
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
static inline struct hearth_adapter *adapter_make(const struct ht_hparams *hp, unsigned linears, bool mixed)
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

static inline void rows_refer(struct rows *r)
{
    r->batch.ids = r->ids;
    r->batch.target = r->target;
    r->batch.pos = r->pos;
    r->batch.seg_from = r->seg_from;
    r->batch.row_id = r->row_id;
    r->batch.weight = r->weight;
}

// A text of n tokens behind those that are there; the last one predicts nothing, a few others count nothing.
static inline void rows_add(struct rows *r, uint32_t n, uint64_t text, bool counts)
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

static inline struct ht_graph *graph_make(const struct hearth_engine *engine, const struct hearth_adapter *adapter,
                                   struct ht_graph_params params)
{
    struct ht_graph *g;
    CHECK_OK(ht_graph_create(&g, &engine->model, adapter, &params, &check_err));
    return g;
}

static inline void run_all(struct ht_graph *g)
{
    uint32_t left;
    do
        CHECK_OK(ht_graph_run(g, &left, &check_err));
    while (left);
}

static inline void pass(struct ht_graph *g, enum ht_graph_pass which, const struct ht_batch *batch, uint64_t step)
{
    CHECK_OK(ht_graph_begin(g, which, batch, 11, step, &check_err));
    run_all(g);
}

static inline float *vector_of(struct ht_graph *g, enum ht_graph_vector which)
{
    float *x = malloc(ht_graph_n_values(g) * sizeof *x);
    CHECK_OK(ht_graph_read(g, which, x, &check_err));
    return x;
}

#endif
