// SPDX-License-Identifier: Apache-2.0
// Shapes that no file of tests/golden has: windows in any order of layers, heads whose values have another size than
// their keys. Each beside the computation in double, forward and back; the same bits however it is computed; proposed
// tokens; what a file may not say.
#include "tests/check/fault.h"
#include "tests/check/tiny.h"
#include "tests/model/gradient_test.h"
#include "tests/model/model_test.h"

enum { N_IDS = 100, N_TOKENS = 60 };
#define PATTERN "gemma3.attention.sliding_window_pattern"
static char folder[64];

static const unsigned char bools[] = {0, 1, 1, 0}, words[] = {0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0};
static const struct ht_gguf_key irregular = {PATTERN, HT_GGUF_ARRAY, {HT_GGUF_BOOL, 4, bools, sizeof bools}},
                                spelt_0_1 = {PATTERN, HT_GGUF_ARRAY, {HT_GGUF_U32, 4, words, sizeof words}};
static const struct check_tiny windows = {"gemma3", 4, 32, 64, 4, 2, 24, 24, 8, HT_TYPE_F16, &irregular};

static const struct check_tiny shapes[] = {
    {"gemma3", 4, 32, 64, 4, 2, 24, 24, 8, HT_TYPE_F16, &irregular},
    {"llama", 2, 32, 64, 4, 2, 8, 20, 0, HT_TYPE_F16, NULL},
    {"llama", 2, 32, 64, 4, 2, 16, 48, 0, HT_TYPE_Q8_0, NULL}, // whole steps of bf16's products
    {"qwen2", 2, 32, 64, 4, 1, 32, 16, 0, HT_TYPE_F16, NULL},
    {"qwen3", 2, 32, 64, 4, 4, 12, 5, 0, HT_TYPE_F16, NULL},
    {"gemma3", 3, 32, 64, 4, 2, 24, 40, 8, HT_TYPE_F16, NULL},
};
enum { N_SHAPES = sizeof shapes / sizeof shapes[0] };

static const char *path_of(unsigned i)
{
    char name[32];
    snprintf(name, sizeof name, "%u.gguf", i);
    return check_path(folder, name);
}

static int set_up(void **state)
{
    (void)state;
    check_folder_make(folder);
    for (unsigned i = 0; i < N_SHAPES; i++) {
        char name[32];
        snprintf(name, sizeof name, "%u.gguf", i);
        check_tiny_make(folder, name, &shapes[i]);
    }
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    check_folder_remove(folder);
    return 0;
}

// ---------------------------------------------------------------- which layers see only the window

static void layers_are(const struct check_tiny *shape, const char *local)
{
    struct hearth_engine *engine = engine_open(check_tiny_make(folder, "windows.gguf", shape), NULL, 1);
    for (uint32_t i = 0; i < shape->layers; i++)
        assert_int_equal(ht_layer_is_local(&engine->model.hp, i), local[i] == 'w');
    hearth_engine_close(&engine);
}

static void window_of_each_layer(void **state)
{
    (void)state;
    static const unsigned char two[] = {2, 0, 0, 0};
    const struct ht_gguf_key every_second = {PATTERN, HT_GGUF_U32, {HT_GGUF_U32, 1, two, 4}};
    struct check_tiny shape = windows;
    layers_are(&shape, "-ww-");
    shape.pattern = &spelt_0_1;
    layers_are(&shape, "-ww-");
    shape.pattern = &every_second;
    layers_are(&shape, "w-w-");
    shape.pattern = NULL; // the family's
    shape.layers = 7;
    layers_are(&shape, "wwwww-w");
}

static void refused(enum ht_gguf_kind kind, uint64_t count, const void *data, size_t size, const char *cause)
{
    const struct ht_gguf_key pattern = {PATTERN, HT_GGUF_ARRAY, {kind, count, data, size}};
    struct check_tiny shape = windows;
    struct hearth_engine *engine;
    struct hearth_error err;
    shape.pattern = &pattern;
    const struct hearth_engine_params params = {.model_path = check_tiny_make(folder, "bad.gguf", &shape)};
    assert_int_equal(hearth_engine_open(&engine, &params, &err), HEARTH_FORMAT);
    assert_null(engine);
    if (!strstr(err.text, "bad.gguf: key " PATTERN) || !strstr(err.text, cause))
        fail_msg("%s", err.text);
}

static void patterns_that_are_none(void **state)
{
    (void)state;
    static const unsigned char many[32] = {[8] = 2}, minus[16] = {[4] = 255, 255, 255, 255};
    refused(HT_GGUF_BOOL, 3, bools, 3, "has 3 values, the model 4 layers");
    refused(HT_GGUF_BOOL, 5, many + 16, 5, "has 5 values, the model 4 layers");
    refused(HT_GGUF_BOOL, 0, bools, 0, "has 0 values");
    refused(HT_GGUF_F32, 4, many, 16, "is an array of f32, an array of true and false is wanted");
    refused(HT_GGUF_STRING, 4, many + 9, 0, "");
    refused(HT_GGUF_U32, 4, many, 16, "is 2 for layer 2, 0 and 1 are allowed");
    refused(HT_GGUF_I32, 4, minus, 16, "is -1 for layer 1, 0 and 1 are allowed");
}

// ---------------------------------------------------------------- beside the computation in double

static double loss_of(const float *logits, uint32_t n, int32_t target)
{
    float top = logits[0];
    double sum = 0;
    for (uint32_t i = 1; i < n; i++)
        top = fmaxf(top, logits[i]);
    for (uint32_t i = 0; i < n; i++)
        sum += exp((double)logits[i] - (double)top);
    return (double)top + log(sum) - (double)logits[target];
}

// How far the losses of a text over two pages are from the oracle's, with an adapter or without.
static double forward_off(const char *path, enum hearth_kv_type kv, bool lora)
{
    struct hearth_engine *engine = open_engine((struct hearth_engine_params){
        .model_path = path, .device = "cpu", .n_ctx = 64, .kv = kv, .exact = true});
    struct hearth_adapter *a = adapter_make(&engine->model.hp, ALL | HEAD, true);
    const struct hearth_adapter_use use = {a, 1};
    struct rows r = {0};
    double off = 0;
    unsigned id = 0;
    if (lora)
        CHECK_OK(hearth_engine_adapter_load(engine, &use, 1, NULL, &id, &check_err));
    else
        memset(a->values, 0, a->n_values * sizeof *a->values);
    rows_add(&r, ROWS, 1, true);
    struct train_model *m = train_model_make(&engine->model, a, &r.batch);
    train_model_loss(m);
    uint32_t n_vocab = engine->info.n_vocab;
    float *logits = calloc((size_t)ROWS * n_vocab, sizeof *logits);
    const struct hearth_span span = {new_session(engine), r.ids, ROWS, logits, id};
    CHECK_OK(hearth_engine_eval(engine, &span, 1, &check_err));
    for (uint32_t i = 0; i < ROWS; i++)
        if (r.weight[i] > 0 && r.target[i] >= 0)
            off = fmax(off, fabs(loss_of(logits + (size_t)i * n_vocab, n_vocab, r.target[i]) -
                                 train_model_row_loss(m, i)));
    free(logits);
    train_model_free(m);
    hearth_adapter_close(&a);
    hearth_engine_close(&engine);
    return off;
}

// f32 sums lose 1e-6; f16 keeps 11 bits of a key or value, q8 7 of the largest of 32.
static void forward(void **state)
{
    (void)state;
    static const struct {
        enum hearth_kv_type kv;
        double bound;
    } kinds[] = {{HEARTH_KV_F32, 1e-5}, {HEARTH_KV_F16, 4e-3}, {HEARTH_KV_Q8, 6e-2}};
    unsigned failures = 0;
    for (unsigned i = 0; i < N_SHAPES; i++)
        for (unsigned k = 0; k < 3; k++)
            for (int lora = 0; lora < 2; lora++) {
                double off = forward_off(path_of(i), kinds[k].kv, lora);
                print_message("%s %u/%u, KV %u, lora %d: off by %.1e\n", shapes[i].family, shapes[i].k_dim,
                              shapes[i].v_dim, k, lora, off);
                failures += !(off <= kinds[k].bound);
            }
    assert_int_equal(failures, 0);
}

static void learning(void **state)
{
    (void)state;
    unsigned failures = 0;
    for (unsigned i = 0; i < N_SHAPES; i++) {
        struct ht_graph_params p = plain;
        failures += by_differences(path_of(i), 0, 0);
        failures += graph_near(path_of(i), ALL | HEAD, true, p);
        p.checkpointing = true;
        p.dropout = 0.3f;
        p.piece_us = 1; // kv heads on their own
        failures += graph_near(path_of(i), ALL, false, p);
        p.piece_us = 0;
        p.precision = HT_TRAIN_B_AVX512BF16;
        failures += graph_near(path_of(i), ALL, false, p);
        p.precision = HT_TRAIN_B_AMX;
        failures += graph_near(path_of(i), ALL | HEAD, true, p);
    }
    assert_int_equal(failures, 0);
}

// ---------------------------------------------------------------- however it is computed

static float *logits_by(const char *path, enum hearth_kv_type kv, const char *isa, unsigned threads, size_t chunk)
{
    int32_t ids[N_IDS];
    struct hearth_engine *engine;
    const struct hearth_engine_params params = {
        .model_path = path, .device = "cpu", .n_ctx = 128, .n_threads = threads, .kv = kv, .cpu_isa = isa};
    if (hearth_engine_open(&engine, &params, &check_err) == HEARTH_UNSUPPORTED)
        return NULL; // no such instruction set here
    assert_non_null(engine);
    for (int i = 0; i < N_IDS; i++)
        ids[i] = i * 37 % 250;
    float *logits = eval_ids(new_session(engine), engine, ids, N_IDS, chunk);
    hearth_engine_close(&engine);
    return logits;
}

static void same_bits(void **state)
{
    (void)state;
    static const char *const isas[] = {"ref", "avx2", "avx512vnni", "amx", "neon", "dotprod", "i8mm"};
    static const size_t chunks[] = {1, 7, 33};
    static const enum hearth_kv_type kvs[] = {HEARTH_KV_F16, HEARTH_KV_Q8, HEARTH_KV_F32};
    for (unsigned i = 0; i < N_SHAPES; i++)
        for (unsigned k = 0; k < 3; k++) {
            float *want = logits_by(path_of(i), kvs[k], NULL, 1, 0);
            for (size_t n = 0; n < sizeof isas / sizeof isas[0]; n++) {
                float *got = logits_by(path_of(i), kvs[k], isas[n], 1 + (unsigned)n % 3, chunks[n % 3]);
                if (got)
                    assert_memory_equal(want, got, (size_t)N_IDS * 264 * sizeof *want);
                free(got);
            }
            free(want);
        }
}

static void on_event(void *user, const struct hearth_event *event)
{
    if (event->type == HEARTH_EVENT_DONE)
        *(struct hearth_usage *)user = *event->usage;
    assert_int_not_equal(event->type, HEARTH_EVENT_FAILED);
}

// A text that repeats itself goes on the same with proposed tokens, without, and where its pages are found again.
static void proposals_and_pages(void **state)
{
    (void)state;
    int32_t prompt[N_IDS], ids[4][N_TOKENS];
    unsigned drafted = 0, found = 0;
    for (int i = 0; i < N_IDS; i++)
        prompt[i] = 97 + i % 9;
    for (unsigned i = 0; i < N_SHAPES; i++) {
        struct hearth_engine *engine = open_engine((struct hearth_engine_params){
            .model_path = path_of(i), .device = "cpu", .n_ctx = 512, .max_sessions = 2, .kv = HEARTH_KV_Q8});
        for (unsigned way = 0; way < 4; way++) {
            struct hearth_session *session = new_session(engine);
            struct hearth_usage usage = {0};
            struct hearth_request request = {.ids = prompt,
                                             .n_ids = N_IDS,
                                             .max_tokens = N_TOKENS,
                                             .on_event = on_event,
                                             .user = &usage,
                                             .ignore_end = true,
                                             .owner = way == 3 ? 1 : 1 + way, // the last one finds the first one's
                                             .max_draft = way == 1 ? 7 : way == 2 ? 2 : 0};
            hearth_sampling_default(&request.sampling);
            request.sampling.temperature = 0;
            CHECK_OK(hearth_session_submit(session, &request, &check_err));
            for (unsigned busy = 1; busy;)
                CHECK_OK(hearth_engine_step(engine, &busy, &check_err));
            assert_int_equal(hearth_session_last_ids(session, ids[way], N_TOKENS), N_TOKENS);
            assert_memory_equal(ids[0], ids[way], sizeof ids[0]);
            drafted += usage.accepted_tokens;
            found += usage.cached_tokens;
            hearth_session_destroy(&session);
        }
        hearth_engine_close(&engine);
    }
    assert_true(drafted > 0 && found >= N_SHAPES * 64);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(window_of_each_layer), cmocka_unit_test(patterns_that_are_none),
        cmocka_unit_test(forward),              cmocka_unit_test(learning),
        cmocka_unit_test(same_bits),            cmocka_unit_test(proposals_and_pages),
    };
    return cmocka_run_group_tests_name("shapes", tests, set_up, tear_down);
}
