// SPDX-License-Identifier: Apache-2.0
// The logits of a session are the same bits however its tokens were fed: at once, one by one, in chunks, beside
// others, after a cut, with 1 or 2 or 3 threads, on every instruction set this CPU has.
#include "tests/model/model_test.h"

static const char *const models[] = {
    "tests/golden/tiny-llama-q8_0.gguf",
    "tests/golden/tiny-qwen2-q4_1.gguf",
    "tests/golden/tiny-qwen3.gguf",
    "tests/golden/tiny-gemma3.gguf",
};
enum { N_MODELS = sizeof models / sizeof models[0], N_IDS = 70 };

static void make_ids(int32_t *ids, size_t n, uint32_t seed)
{
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        ids[i] = (int32_t)(seed >> 16) % 256;
    }
}

static struct hearth_engine *engine_for(const char *model, enum hearth_kv_type kv, bool exact,
                                        unsigned threads, const char *isa)
{
    return open_engine((struct hearth_engine_params){.model_path = model,
                                                     .device = "cpu",
                                                     .max_sessions = 4,
                                                     .n_ctx = 512,
                                                     .kv = kv,
                                                     .exact = exact,
                                                     .n_threads = threads,
                                                     .cpu_isa = isa});
}

static void same_bits(const char *what, const float *want, const float *got, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (memcmp(&want[i], &got[i], sizeof *want))
            fail_msg("%s: logit %zu is %.9g, not %.9g", what, i, (double)got[i], (double)want[i]);
}

// Others run in the same batch, before and after it, with other lengths.
static float *eval_beside_others(struct hearth_engine *engine, const int32_t *ids, size_t n)
{
    struct hearth_engine_info info;
    hearth_engine_get_info(engine, &info);
    struct hearth_session *before = new_session(engine), *session = new_session(engine),
                          *after = new_session(engine);
    int32_t other[40];
    make_ids(other, 40, 99);
    float *logits = malloc(n * info.n_vocab * sizeof *logits);
    struct hearth_error err;
    struct hearth_span spans[] = {
        {.session = before, .ids = other, .n_ids = 33},
        {.session = session, .ids = ids, .n_ids = n, .logits = logits},
        {.session = after, .ids = other + 5, .n_ids = 7},
    };
    must(hearth_engine_eval(engine, spans, 3, &err), &err);
    hearth_session_destroy(&before);
    hearth_session_destroy(&session);
    hearth_session_destroy(&after);
    return logits;
}

static void check_engine(const char *what, struct hearth_engine *engine, const int32_t *ids,
                         const float *want, size_t n_logits)
{
    static const size_t chunks[] = {0, 1, 2, 7, 32, 33};
    char text[192];
    for (size_t c = 0; c < sizeof chunks / sizeof chunks[0]; c++) {
        struct hearth_session *session = new_session(engine);
        float *logits = eval_ids(session, engine, ids, N_IDS, chunks[c]);
        snprintf(text, sizeof text, "%s, chunks of %zu", what, chunks[c]);
        same_bits(text, want, logits, n_logits);
        free(logits);
        // After a cut, the rest again.
        struct hearth_error err;
        must(hearth_session_truncate(session, 37, &err), &err);
        logits = eval_ids(session, engine, ids + 37, N_IDS - 37, 5);
        same_bits("after a cut", want + 37 * (n_logits / N_IDS), logits, (N_IDS - 37) * (n_logits / N_IDS));
        free(logits);
        hearth_session_destroy(&session);
    }
    float *logits = eval_beside_others(engine, ids, N_IDS);
    snprintf(text, sizeof text, "%s, beside others", what);
    same_bits(text, want, logits, n_logits);
    free(logits);
}

static void check_model(const char *model, enum hearth_kv_type kv, bool exact)
{
    static const char *const isas[] = {"ref", "avx2", "avx512vnni", "amx", "neon", "dotprod", "i8mm", NULL};
    int32_t ids[N_IDS];
    make_ids(ids, N_IDS, 1);
    struct hearth_engine *plain = engine_for(model, kv, exact, 1, "ref");
    struct hearth_engine_info info;
    hearth_engine_get_info(plain, &info);
    struct hearth_session *session = new_session(plain);
    float *want = eval_ids(session, plain, ids, N_IDS, 0);
    char first_id[33];
    memcpy(first_id, info.numerics_id, sizeof first_id);
    size_t n_logits = (size_t)N_IDS * info.n_vocab;
    hearth_engine_close(&plain);
    for (size_t i = 0; i < sizeof isas / sizeof isas[0]; i++)
        for (unsigned threads = 1; threads <= 3; threads++) {
            struct hearth_engine *engine;
            struct hearth_error err;
            struct hearth_engine_params params = {.model_path = model,
                                                  .device = "cpu",
                                                  .max_sessions = 4,
                                                  .n_ctx = 512,
                                                  .kv = kv,
                                                  .exact = exact,
                                                  .n_threads = threads,
                                                  .cpu_isa = isas[i]};
            enum hearth_status status = hearth_engine_open(&engine, &params, &err);
            if (status == HEARTH_UNSUPPORTED && isas[i])
                continue; // an instruction set that this CPU lacks
            must(status, &err);
            hearth_engine_get_info(engine, &info);
            assert_string_equal(info.numerics_id, first_id);
            char what[128];
            snprintf(what, sizeof what, "%s on %s, kv %d, exact %d", model, info.device, (int)kv, exact);
            check_engine(what, engine, ids, want, n_logits);
            hearth_engine_close(&engine);
        }
    free(want);
}

static void fast_f16(void **state)
{
    (void)state;
    for (int i = 0; i < N_MODELS; i++)
        check_model(models[i], HEARTH_KV_F16, false);
}
static void fast_q8(void **state)
{
    (void)state;
    for (int i = 0; i < N_MODELS; i++)
        check_model(models[i], HEARTH_KV_Q8, false);
}
static void exact_f32(void **state)
{
    (void)state;
    for (int i = 0; i < N_MODELS; i++)
        check_model(models[i], HEARTH_KV_F32, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(fast_f16), cmocka_unit_test(fast_q8),
                                       cmocka_unit_test(exact_f32)};
    return cmocka_run_group_tests_name("batch_invariance", tests, NULL, NULL);
}
