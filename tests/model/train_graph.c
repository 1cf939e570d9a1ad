// SPDX-License-Identifier: Apache-2.0
// The training graph over the tiny models of every family: gradients against a computation in double, which finite
// differences judge; the same bits with any number of threads, instruction set, checkpointing, packing and serving in
// between; draws; the optimizer's step; what is refused; memory that runs out.
#include "tests/model/graph_test.h"

#include "engine/cpu/train_ref.h"
#include "tests/check/fault.h"
#include "tests/model/gradient_test.h"

// ---------------------------------------------------------------- against double

static void oracle(void **state)
{
    (void)state;
    unsigned failures = 0;
    for (int i = 0; i < N_FAMILIES; i++)
        failures += by_differences(families[i], 0, 0);
    failures += by_differences(families[N_FAMILIES - 1], 0.25f, 5);
    assert_int_equal(failures, 0);
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
        failures += graph_near(families[i], ALL | HEAD, true, saving);
        failures += graph_near(families[i], ALL | HEAD, true, all);
        failures += graph_near(families[i], ALL, false, drawing);
        failures += graph_near(families[i], HEAD, false, drawing);
    }
    for (int i = 0; i < N_FAMILIES; i++) {
        struct ht_graph_params half = plain;
        half.precision = HT_TRAIN_B_AVX512BF16;
        failures += graph_near(families[i], ALL, false, half);
        half.precision = HT_TRAIN_B_AMX;
        failures += graph_near(families[i], ALL | HEAD, true, half);
    }
    for (unsigned linear = 0; linear < HT_N_MATRICES; linear++) { // every type alone
        failures += graph_near(families[0], 1u << linear, false, plain);
        failures += graph_near(families[4], 1u << linear, false, saving);
    }
    failures += graph_near(families[3], 1u << HT_ATTN_Q | 1u << HT_ATTN_V | 1u << HT_FFN_UP, false, all);
    assert_int_equal(failures, 0);
}

// Along the gradient the loss that the graph itself tells rises as the gradient says, as far as f32 shows it.
static void slope(void **state)
{
    (void)state;
    for (int i = 0; i < N_FAMILIES; i++) {
        struct hearth_engine *engine = engine_open(families[i], NULL, 2);
        struct hearth_adapter *a = adapter_make(&engine->model.hp, ALL, false);
        struct rows r = {0};
        rows_add(&r, 30, 1, true);
        struct ht_graph *g = graph_make(engine, a, plain);
        pass(g, HT_GRAPH_TRAIN, &r.batch, 1);
        float *gradient = vector_of(g, HT_GRAPH_GRADIENTS), *moved = malloc(a->n_values * sizeof *moved), norm;
        double loss[2] = {0};
        CHECK_OK(ht_graph_norm(g, &norm, &check_err));
        for (int side = 0; side < 2; side++) {
            for (size_t j = 0; j < a->n_values; j++)
                moved[j] = a->values[j] + (side ? 0.005f : -0.005f) * gradient[j] / norm;
            CHECK_OK(ht_graph_write(g, HT_GRAPH_VALUES, moved, &check_err));
            pass(g, HT_GRAPH_LOSS, &r.batch, 1);
            for (uint32_t row = 0; row < r.batch.n_rows; row++)
                loss[side] += (double)r.weight[row] * (double)ht_graph_losses(g)[row];
        }
        assert_true(fabs((loss[1] - loss[0]) / 0.01 / (double)norm - 1) < 3e-3);
        free(gradient);
        free(moved);
        ht_graph_destroy(&g);
        hearth_adapter_close(&a);
        hearth_engine_close(&engine);
    }
}

// ---------------------------------------------------------------- what must not matter

struct outcome {
    float losses[ROWS], *gradient, *values;
    size_t n;
};

static void outcome_free(struct outcome *o)
{
    free(o->gradient);
    free(o->values);
}

static bool equal(const struct outcome *a, const struct outcome *b, uint32_t row_a, uint32_t row_b, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (a->losses[row_a + i] != b->losses[row_b + i])
            return false;
    for (size_t i = 0; i < a->n; i++)
        if (a->gradient[i] != b->gradient[i] || a->values[i] != b->values[i])
            return false;
    return a->n == b->n;
}

// An answer between two pieces, as the daemon gives them.
static void serve(struct hearth_engine *engine, uint64_t turn)
{
    struct hearth_session *session;
    float *logits = malloc(8 * engine->info.n_vocab * sizeof *logits);
    int32_t ids[8];
    for (size_t i = 0; i < 8; i++)
        ids[i] = (int32_t)((turn * 8 + i * 7) % 250);
    CHECK_OK(hearth_session_create(engine, &session, &check_err));
    const struct hearth_span span = {.session = session, .ids = ids, .n_ids = 8, .logits = logits};
    CHECK_OK(hearth_engine_eval(engine, &span, 1, &check_err));
    hearth_session_destroy(&session);
    free(logits);
}

struct way { // of computing the same
    const char *isa;
    unsigned threads;
    bool checkpointing, serves;
    uint32_t rows;
};

// Two micro-batches and a step of the optimizer, then the first batch again.
static struct outcome outcome_of(const char *family, struct way way, const struct rows *r, const struct rows *second,
                                 struct ht_graph_params params)
{
    struct hearth_engine *engine = engine_open(family, way.isa, way.threads);
    struct outcome o = {.n = 0};
    if (!engine)
        return o;
    if (!engine->dev->train->supports(engine->device, params.precision)) {
        hearth_engine_close(&engine);
        return o;
    }
    check_reseed(5);
    struct hearth_adapter *a = adapter_make(&engine->model.hp, ALL | HEAD, true);
    params.checkpointing = way.checkpointing;
    params.rows = way.rows;
    struct ht_graph *g = graph_make(engine, a, params);
    uint32_t left;
    for (int i = 0; i < 4; i++) {
        if (i == 2)
            CHECK_OK(ht_graph_update(g, 1, 0.01f, &check_err));
        else
            CHECK_OK(ht_graph_begin(g, HT_GRAPH_TRAIN, i == 1 ? &second->batch : &r->batch, 11, i == 3 ? 2 : 1,
                                    &check_err));
        do {
            CHECK_OK(ht_graph_run(g, &left, &check_err));
            if (way.serves)
                serve(engine, left);
        } while (left);
    }
    memcpy(o.losses, ht_graph_losses(g), r->batch.n_rows * sizeof *o.losses);
    o.gradient = vector_of(g, HT_GRAPH_GRADIENTS);
    o.values = vector_of(g, HT_GRAPH_VALUES);
    o.n = ht_graph_n_values(g);
    ht_graph_destroy(&g);
    hearth_adapter_close(&a);
    hearth_engine_close(&engine);
    return o;
}

static void all_same_bits(enum ht_train_precision precision)
{
    struct ht_graph_params params = plain;
    params.precision = precision;
    params.dropout = 0.2f;
    params.neftune = 5;
    params.clip = 0.05f;
    params.lora_plus = 4;
    static const struct way ways[] = {
        {NULL, 1, true, false, ROWS},     {NULL, 2, false, false, ROWS}, {NULL, 3, true, false, ROWS},
        {NULL, 2, false, true, ROWS},     {NULL, 3, true, true, ROWS},   {"ref", 1, false, false, ROWS},
        {"avx2", 2, false, false, ROWS},  {"avx512vnni", 2, true, false, ROWS},
        {"neon", 2, false, false, ROWS},  {NULL, 2, false, false, 33}, // a smaller micro-batch's graph
    };
    struct rows r = {0}, second = {0};
    rows_add(&r, 12, 1, true);
    rows_add(&r, 21, 2, true);
    rows_add(&second, 30, 3, true);
    for (int i = 0; i < N_FAMILIES; i++) {
        struct outcome first = outcome_of(families[i], (struct way){NULL, 1, false, false, ROWS}, &r, &second, params);
        assert_true(first.n > 0 || precision != HT_TRAIN_F);
        for (size_t w = 0; w < sizeof ways / sizeof ways[0]; w++) {
            struct outcome other = outcome_of(families[i], ways[w], &r, &second, params);
            if (other.n && first.n && !equal(&first, &other, 0, 0, r.batch.n_rows))
                fail_msg("%s: way %zu gives other bits", families[i], w);
            outcome_free(&other);
        }
        outcome_free(&first);
    }
}

static void same_bits(void **state)
{
    (void)state;
    all_same_bits(HT_TRAIN_F);
    all_same_bits(HT_TRAIN_B_AVX512BF16);
    all_same_bits(HT_TRAIN_B_AMX);
}

// A text has the losses that it has alone, whatever it is packed with; and where the others count nothing, its
// gradient, too.
static void packing(void **state)
{
    (void)state;
    struct ht_graph_params params = plain;
    params.dropout = 0.2f;
    struct rows alone = {0}, beside = {0}, among = {0}, none = {0};
    rows_add(&none, 5, 6, false);
    rows_add(&alone, 18, 1, true);
    rows_add(&beside, 9, 2, false);
    rows_add(&beside, 18, 1, true);
    rows_add(&beside, 11, 3, false);
    rows_add(&among, 7, 4, true);
    rows_add(&among, 18, 1, true);
    rows_add(&among, 10, 5, true);
    for (int i = 0; i < N_FAMILIES; i++) {
        const struct way way = {NULL, 2, i % 2, false, ROWS};
        struct outcome a = outcome_of(families[i], way, &alone, &none, params);
        struct outcome b = outcome_of(families[i], way, &beside, &none, params);
        assert_true(equal(&a, &b, 0, 9, 18));
        assert_true(a.losses[0] != 0 && a.losses[17] == 0 && b.losses[0] == 0);
        outcome_free(&a);
        outcome_free(&b);
        struct hearth_engine *engine = engine_open(families[i], NULL, 2);
        struct hearth_adapter *adapter = adapter_make(&engine->model.hp, ALL | HEAD, true);
        struct ht_graph *g = graph_make(engine, adapter, params);
        float losses[ROWS];
        pass(g, HT_GRAPH_TRAIN, &alone.batch, 3);
        memcpy(losses, ht_graph_losses(g), sizeof losses);
        pass(g, HT_GRAPH_TRAIN, &among.batch, 3);
        assert_memory_equal(losses, ht_graph_losses(g) + 7, 18 * sizeof *losses);
        ht_graph_destroy(&g);
        hearth_adapter_close(&adapter);
        hearth_engine_close(&engine);
    }
}

// However finely it is cut: pieces of one op, ranges of W, kv heads on their own, head tiles and losses of a few rows.
static void cut(void **state)
{
    (void)state;
    struct hearth_engine *engine = engine_open(families[4], NULL, 2);
    struct ht_hparams *hp = &engine->model.hp; // the same weights as heads whose size is a multiple of 16
    hp->n_heads = 6, hp->n_kv_heads = 3;
    hp->k_dim = hp->v_dim = hp->n_rot = 16;
    struct hearth_adapter *a = adapter_make(&engine->model.hp, ALL | HEAD, true);
    struct rows r = {0};
    rows_add(&r, 14, 1, true);
    rows_add(&r, 23, 2, true);
    float *gradient[2], losses[2][ROWS];
    uint32_t pieces[2];
    for (int fine = 0; fine < 2; fine++) {
        struct ht_graph_params params = plain;
        params.checkpointing = fine;
        params.dropout = 0.25f;
        params.piece_us = fine ? 1 : 0;
        params.logits_bytes = fine ? 7 * engine->info.n_vocab * (uint32_t)sizeof(float) : 0;
        struct ht_graph *g = graph_make(engine, a, params);
        CHECK_OK(ht_graph_begin(g, HT_GRAPH_TRAIN, &r.batch, 11, 1, &check_err));
        CHECK_OK(ht_graph_run(g, &pieces[fine], &check_err));
        run_all(g);
        memcpy(losses[fine], ht_graph_losses(g), sizeof losses[fine]);
        gradient[fine] = vector_of(g, HT_GRAPH_GRADIENTS);
        ht_graph_destroy(&g);
    }
    assert_true(pieces[0] < 10 && pieces[1] > 150);
    assert_memory_equal(losses[0], losses[1], 37 * sizeof **losses);
    assert_memory_equal(gradient[0], gradient[1], a->n_values * sizeof **gradient);
    free(gradient[0]);
    free(gradient[1]);
    hearth_adapter_close(&a);
    hearth_engine_close(&engine);
}

static void draws(void **state)
{
    (void)state;
    struct hearth_engine *engine = engine_open(families[0], NULL, 2);
    struct hearth_adapter *a = adapter_make(&engine->model.hp, ALL | HEAD, false);
    struct ht_graph_params params = plain;
    params.dropout = 0.5f;
    params.neftune = 5;
    struct rows r = {0};
    rows_add(&r, 20, 1, true);
    struct ht_graph *g = graph_make(engine, a, params), *no = graph_make(engine, a, plain);
    float losses[3][ROWS];
    for (uint64_t step = 1; step <= 2; step++) {
        pass(g, HT_GRAPH_TRAIN, &r.batch, step);
        memcpy(losses[step], ht_graph_losses(g), sizeof losses[step]);
    }
    assert_memory_not_equal(losses[1], losses[2], 20 * sizeof(float)); // another step draws anew
    pass(g, HT_GRAPH_TRAIN, &r.batch, 1);
    assert_memory_equal(losses[1], ht_graph_losses(g), 20 * sizeof(float));
    pass(g, HT_GRAPH_LOSS, &r.batch, 1); // an evaluation draws nothing
    pass(no, HT_GRAPH_TRAIN, &r.batch, 1);
    assert_memory_equal(ht_graph_losses(no), ht_graph_losses(g), 20 * sizeof(float));
    ht_graph_destroy(&g);
    ht_graph_destroy(&no);
    hearth_adapter_close(&a);
    hearth_engine_close(&engine);
}

// ---------------------------------------------------------------- the optimizer's step

static void update(void **state)
{
    (void)state;
    struct hearth_engine *engine = engine_open(families[0], NULL, 2);
    struct hearth_adapter *a = adapter_make(&engine->model.hp, 1u << HT_ATTN_Q | 1u << HT_ATTN_V | 1u << HT_FFN_DOWN,
                                            true);
    struct ht_graph_params params = plain;
    params.clip = 0.5f;
    params.lora_plus = 8;
    struct ht_graph *g = graph_make(engine, a, params);
    size_t n = a->n_values;
    float *gradient = malloc(n * sizeof *gradient), norm;
    double *w = train_doubles(n), *m = train_doubles(n), *v = train_doubles(n), *rate = train_doubles(n), sum = 0;
    for (size_t i = 0; i < n; i++) {
        w[i] = (double)a->values[i];
        rate[i] = 0.01;
    }
    for (size_t i = 0; i < a->n_targets; i++)
        for (size_t j = 0; j < (size_t)a->targets[i].n * a->targets[i].rank; j++)
            rate[a->targets[i].b_at + j] = 0.08;
    for (unsigned step = 1; step <= 3; step++) {
        float size = step == 3 ? 1e-4f : 1; // small enough to stay as it is
        for (size_t i = 0; i < n; i++)
            gradient[i] = size * check_unit();
        sum = 0;
        for (size_t i = 0; i < n; i++)
            sum += (double)gradient[i] * (double)gradient[i];
        CHECK_OK(ht_graph_write(g, HT_GRAPH_GRADIENTS, gradient, &check_err));
        CHECK_OK(ht_graph_norm(g, &norm, &check_err));
        assert_true(fabs((double)norm / sqrt(sum) - 1) < 1e-6);
        CHECK_OK(ht_graph_update(g, step, 0.01f, &check_err));
        run_all(g);
        double factor = sqrt(sum) > 0.5 ? 0.5 / (sqrt(sum) + 1e-6) : 1, clipped = 0;
        for (size_t i = 0; i < n; i++) {
            const struct ht_ref_adamw one = {rate[i], 0.9f, 0.99f, 1e-6f, 0.1f, step};
            clipped += (double)gradient[i] * factor * (double)gradient[i] * factor;
            ht_ref_adamw(&one, (double)gradient[i] * factor, &w[i], &m[i], &v[i]);
        }
        assert_true(sqrt(clipped) <= 0.5 && (step == 3) == (factor == 1));
        float *values = vector_of(g, HT_GRAPH_VALUES), *moment = vector_of(g, HT_GRAPH_MOMENT1);
        float *second = vector_of(g, HT_GRAPH_MOMENT2), *after = vector_of(g, HT_GRAPH_GRADIENTS);
        for (size_t i = 0; i < n; i++) {
            assert_true(fabs((double)values[i] - w[i]) < 1e-5 && after[i] == 0);
            assert_true(fabs((double)moment[i] - m[i]) < 1e-6 * 0.5 && fabs((double)second[i] - v[i]) < 1e-6);
        }
        free(values), free(moment), free(second), free(after);
    }
    gradient[n / 2] = NAN;
    CHECK_OK(ht_graph_write(g, HT_GRAPH_GRADIENTS, gradient, &check_err));
    CHECK_OK(ht_graph_norm(g, &norm, &check_err));
    assert_true(isnan(norm));
    free(gradient), free(w), free(m), free(v), free(rate);
    ht_graph_destroy(&g);
    hearth_adapter_close(&a);
    hearth_engine_close(&engine);
}

// The same seed gives the same bytes, whoever computes them; another one others; and it learns.
static void training_with(enum ht_graph_moments kept)
{
    struct rows r[2] = {0};
    rows_add(&r[0], 33, 1, true);
    rows_add(&r[1], 25, 2, true);
    struct ht_graph_params params = plain;
    params.dropout = 0.05f;
    params.clip = 1;
    params.moments = kept;
    float *first = NULL;
    for (int run = 0; run < 4; run++) {
        struct hearth_engine *engine = engine_open(families[2], NULL, 1 + (unsigned)run % 3);
        const struct ht_adapter_spec spec = {.linears = ALL, .rank = 4, .alpha = 8};
        struct hearth_adapter *a;
        CHECK_OK(ht_adapter_create(&a, &engine->model.hp, &spec, &check_err));
        ht_adapter_init(a, 1, false);
        params.checkpointing = run == 1;
        struct ht_graph *g = graph_make(engine, a, params);
        double begin = 0, end = 0;
        for (uint64_t step = 1; step <= 30; step++) {
            end = 0;
            for (int b = 0; b < 2; b++) {
                CHECK_OK(ht_graph_begin(g, HT_GRAPH_TRAIN, &r[b].batch, run == 3 ? 2 : 1, step, &check_err));
                run_all(g);
                for (uint32_t row = 0; row < r[b].batch.n_rows; row++)
                    end += (double)r[b].weight[row] * (double)ht_graph_losses(g)[row];
            }
            begin = step == 1 ? end : begin;
            CHECK_OK(ht_graph_update(g, step, 0.02f, &check_err));
            run_all(g);
        }
        assert_true(end < 0.5 * begin);
        float *values = vector_of(g, HT_GRAPH_VALUES);
        if (!first)
            first = values;
        else
            assert_int_equal(!memcmp(first, values, a->n_values * sizeof *values), run < 3);
        if (run)
            free(values);
        ht_graph_destroy(&g);
        hearth_adapter_close(&a);
        hearth_engine_close(&engine);
    }
    free(first);
}

static void training(void **state)
{
    (void)state;
    training_with(HT_GRAPH_MOMENTS_F32);
    training_with(HT_GRAPH_MOMENTS_8BIT);
}

// ---------------------------------------------------------------- what is refused, and what fails

static enum hearth_status tried(const struct hearth_engine *engine, const struct hearth_adapter *a,
                                struct ht_graph_params params)
{
    struct ht_graph *g = (struct ht_graph *)(void *)&params;
    enum hearth_status status = ht_graph_create(&g, &engine->model, a, &params, &check_err);
    if (status != HEARTH_OK)
        assert_null(g);
    ht_graph_destroy(&g);
    return status;
}

static void refused(void **state)
{
    (void)state;
    struct hearth_engine *engine = engine_open(families[0], NULL, 1);
    struct hearth_adapter *a = adapter_make(&engine->model.hp, ALL, false);
    struct ht_graph_params p = plain;
    p.rows = 0;
    assert_int_equal(tried(engine, a, p), HEARTH_LIMIT);
    p = plain, p.dropout = 1;
    assert_int_equal(tried(engine, a, p), HEARTH_INVALID);
    p = plain, p.clip = NAN;
    assert_int_equal(tried(engine, a, p), HEARTH_INVALID);
    p = plain, p.moments = (enum ht_graph_moments)2;
    assert_int_equal(tried(engine, a, p), HEARTH_INVALID);
    p = plain, p.precision = (enum ht_train_precision)9;
    assert_int_equal(tried(engine, a, p), HEARTH_UNSUPPORTED);
    a->targets[3].linear = HT_ADAPTER_OUTPUT;
    assert_int_equal(tried(engine, a, plain), HEARTH_INVALID);
    assert_non_null(strstr(check_err.text, "output.weight is "));
    a->targets[3].linear = HT_ADAPTER_QKV;
    assert_int_equal(tried(engine, a, plain), HEARTH_INVALID);
    assert_non_null(strstr(check_err.text, "blk.0.attn_qkv.weight is fused"));
    a->targets[3].linear = HT_FFN_DOWN;
    assert_int_equal(tried(engine, a, plain), HEARTH_INVALID);
    assert_non_null(strstr(check_err.text, "blk.0.ffn_down.weight"));
    a->targets[3].linear = HT_ATTN_OUTPUT;
    a->peft_rows = true;
    assert_int_equal(tried(engine, a, plain), HEARTH_INVALID);
    a->peft_rows = false;
    struct ht_graph *g = graph_make(engine, a, plain);
    struct rows good = {0};
    rows_add(&good, 10, 1, true);
    for (int i = 0; i < 8; i++) {
        struct rows bad = good;
        rows_refer(&bad);
        bad.ids[4] = i == 0 ? 264 : bad.ids[4]; // the vocabulary's size
        bad.target[4] = i == 1 ? 264 : bad.target[4];
        bad.ids[5] = i == 2 ? -1 : bad.ids[5];
        bad.seg_from[6] = i == 3 ? 7 : bad.seg_from[6];
        bad.batch.n_rows = i == 4 ? ROWS + 1 : bad.batch.n_rows;
        bad.seg_from[6] = i == 5 ? 3 : bad.seg_from[6]; // within the segment of the row before
        bad.pos[6] = i == 6 ? ROWS : bad.pos[6];
        bad.target[4] = i == 7 ? -2 : bad.target[4];
        assert_int_equal(ht_graph_begin(g, HT_GRAPH_TRAIN, &bad.batch, 1, 1, &check_err), HEARTH_INVALID);
    }
    uint32_t left = 9;
    CHECK_OK(ht_graph_run(g, &left, &check_err)); // nothing has begun
    assert_int_equal(left, 0);
    assert_int_equal(ht_graph_update(g, 0, 1, &check_err), HEARTH_INVALID);
    CHECK_OK(ht_graph_begin(g, HT_GRAPH_TRAIN, &good.batch, 1, 1, &check_err));
    float norm;
    assert_int_equal(ht_graph_begin(g, HT_GRAPH_LOSS, &good.batch, 1, 1, &check_err), HEARTH_INVALID);
    assert_int_equal(ht_graph_update(g, 1, 1, &check_err), HEARTH_INVALID);
    assert_int_equal(ht_graph_norm(g, &norm, &check_err), HEARTH_INVALID);
    run_all(g);
    // Nothing that counts: no pieces, no losses.
    for (uint32_t r = 0; r < 10; r++)
        good.weight[r] = 0;
    CHECK_OK(ht_graph_begin(g, HT_GRAPH_TRAIN, &good.batch, 1, 1, &check_err));
    CHECK_OK(ht_graph_run(g, &left, &check_err));
    assert_int_equal(left, 0);
    for (uint32_t r = 0; r < 10; r++)
        assert_true(ht_graph_losses(g)[r] == 0);
    ht_graph_destroy(&g);
    hearth_adapter_close(&a);
    hearth_engine_close(&engine);
}

static void no_memory(void **state)
{
    (void)state;
    struct hearth_engine *engine = engine_open(families[4], NULL, 1);
    struct hearth_adapter *a = adapter_make(&engine->model.hp, ALL | HEAD, false);
    struct ht_graph_params params = plain;
    params.dropout = 0.1f;
    unsigned long n = 1;
    uint64_t told, again;
    CHECK_OK(ht_graph_memory(&engine->model, a, &params, &told, &check_err));
    CHECK_OK(ht_graph_memory(&engine->model, a, &params, &again, &check_err));
    struct rows r = {0};
    rows_add(&r, 20, 1, true);
    unsigned long made, all;
    fault_memory_begin(0);
    struct ht_graph *g = graph_make(engine, a, params);
    assert_true(told >= again && fault_memory_peak() >= again && fault_memory_peak() < again + (4 << 20));
    made = fault_memory_count();
    pass(g, HT_GRAPH_TRAIN, &r.batch, 1); // once made, it takes nothing more
    CHECK_OK(ht_graph_update(g, 1, 0.1f, &check_err));
    run_all(g);
    ht_graph_destroy(&g);
    assert_int_equal(fault_memory_end(&all), 0);
    assert_int_equal(all, made);
    for (; n <= made; n++) {
        fault_memory_begin(n);
        enum hearth_status status = ht_graph_create(&g, &engine->model, a, &params, &check_err);
        ht_graph_destroy(&g);
        long leaked = fault_memory_end(NULL);
        assert_int_equal(status, HEARTH_NOMEM);
        assert_int_equal(leaked, 0);
    }
    hearth_adapter_close(&a);
    hearth_engine_close(&engine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(oracle), cmocka_unit_test(gradients), cmocka_unit_test(slope),
        cmocka_unit_test(same_bits), cmocka_unit_test(packing), cmocka_unit_test(draws),
        cmocka_unit_test(cut), cmocka_unit_test(update), cmocka_unit_test(training), cmocka_unit_test(refused),
        cmocka_unit_test(no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
