// SPDX-License-Identifier: Apache-2.0
// Memory is known before it is used: what `fit` says is what an engine takes, and what cannot fit is refused with the
// figures before the file is read.
#include "engine/base/free_memory.h"
#include "tests/check/fault.h"
#include "tests/model/model_test.h"

#define MODEL "tests/golden/tiny-llama-q8_0.gguf"

static bool never(void *user, double done)
{
    (void)done;
    ++*(int *)user;
    return true;
}

static void fit_is_what_an_engine_takes(void **state)
{
    (void)state;
    static const enum hearth_kv_type types[] = {HEARTH_KV_F16, HEARTH_KV_Q8, HEARTH_KV_F32};
    for (int i = 0; i < 3; i++)
        for (unsigned sessions = 1; sessions <= 20; sessions += 19) {
            struct hearth_engine_params p = {
                .model_path = MODEL, .n_ctx = 128, .kv = types[i], .max_sessions = sessions};
            struct hearth_engine_info info;
            struct hearth_error err;
            struct hearth_fit fit;
            must(hearth_engine_fit(&p, &fit, &err), &err);
            struct hearth_engine *engine = open_engine(p);
            hearth_engine_get_info(engine, &info);
            assert_int_equal(fit.weight_bytes, info.weight_bytes);
            assert_int_equal(fit.scratch_bytes + fit.kv_bytes_per_position * 128,
                             info.scratch_bytes + info.kv_bytes);
            assert_int_equal(fit.n_ctx_train, info.n_ctx_train);
            assert_true(fit.available_bytes > 1 << 20);
            assert_int_equal(fit.n_ctx_fit, 128);
            hearth_engine_close(&engine);
        }
}

// More than the machine has: no byte is read, the message has the figures and a context that fits.
static void what_cannot_fit_is_refused_first(void **state)
{
    (void)state;
    int n_told = 0;
    struct hearth_engine_params p = {.model_path = MODEL,
                                     .n_ctx = 1 << 22,
                                     .kv = HEARTH_KV_F32,
                                     .max_sessions = 1,
                                     .progress = never,
                                     .progress_user = &n_told};
    struct hearth_engine *engine;
    struct hearth_error err;
    struct hearth_fit fit;
    must(hearth_engine_fit(&(struct hearth_engine_params){.model_path = MODEL, .kv = HEARTH_KV_F32}, &fit,
                           &err),
         &err);
    if (fit.kv_bytes_per_position * p.n_ctx < ht_memory_free() + (1 << 30)) {
        print_message("this machine has room for everything\n");
        return;
    }
    assert_int_equal(hearth_engine_open(&engine, &p, &err), HEARTH_NOMEM);
    assert_null(engine);
    assert_int_equal(n_told, 0);
    assert_non_null(strstr(err.text, "4194304 positions"));
    assert_non_null(strstr(err.text, "128 positions would fit"));
    assert_non_null(strstr(err.text, "MiB are free"));
}

static void every_allocation_of_a_fit_fails_once(void **state)
{
    (void)state;
    struct hearth_engine_params p = {.model_path = MODEL, .n_ctx = 128, .n_threads = 1};
    struct hearth_error err;
    struct hearth_fit fit;
    for (unsigned long i = 1;; i++) {
        unsigned long n;
        fault_memory_begin(i);
        enum hearth_status status = hearth_engine_fit(&p, &fit, &err);
        assert_int_equal(fault_memory_end(&n), 0);
        if (i > n) {
            assert_int_equal(status, HEARTH_OK);
            assert_true(n > 20);
            return;
        }
        assert_int_equal(status, HEARTH_NOMEM);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(fit_is_what_an_engine_takes),
                                       cmocka_unit_test(what_cannot_fit_is_refused_first),
                                       cmocka_unit_test(every_allocation_of_a_fit_fails_once)};
    return cmocka_run_group_tests_name("fit", tests, NULL, NULL);
}
