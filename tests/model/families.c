// SPDX-License-Identifier: Apache-2.0
// Each family's decoder against transformers in float32, on tiny random models (tests/golden/make_tiny.py).
#include "tests/model/model_test.h"

#include <math.h>

// Contract F against transformers: both are float32 sums in another order. The logits are at most 4; a
// chain of 64 products over 3 layers differs by a few 1e-6.
#define EXACT_BOUND 2e-5

static double largest_difference(const float *a, const float *b, size_t n)
{
    double worst = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        if (!(d <= worst)) // a NaN stays
            worst = d;
    }
    return worst;
}

static void check_family(const char *name)
{
    char model[256], logits_path[256];
    snprintf(model, sizeof model, "tests/golden/tiny-%s.gguf", name);
    snprintf(logits_path, sizeof logits_path, "tests/golden/tiny-%s.logits", name);
    struct golden g = golden_read(logits_path);
    struct hearth_engine *engine =
        open_engine((struct hearth_engine_params){.model_path = model, .exact = true, .device = "cpu"});
    struct hearth_session *session = new_session(engine);
    float *logits = eval_ids(session, engine, g.ids, g.n_tokens, 0);
    double worst = largest_difference(logits, g.logits, (size_t)g.n_tokens * g.n_vocab);
    if (!(worst <= EXACT_BOUND))
        fail_msg("%s: logits differ by %g from transformers, bound %g", name, worst, EXACT_BOUND);
    // The golden must be able to fail: the logits of another position are far away.
    assert_true(largest_difference(logits, g.logits + g.n_vocab, g.n_vocab) > 0.1);
    free(logits);
    golden_free(&g);
    hearth_engine_close(&engine);
}

static void llama(void **state)
{
    (void)state;
    check_family("llama");
}
static void llama_q8_0(void **state)
{
    (void)state;
    check_family("llama-q8_0");
}
static void qwen2(void **state)
{
    (void)state;
    check_family("qwen2");
}
static void qwen2_q4_1(void **state)
{
    (void)state;
    check_family("qwen2-q4_1");
}
static void qwen3(void **state)
{
    (void)state;
    check_family("qwen3");
}
static void gemma3(void **state)
{
    (void)state;
    check_family("gemma3");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(llama),      cmocka_unit_test(llama_q8_0), cmocka_unit_test(qwen2),
        cmocka_unit_test(qwen2_q4_1), cmocka_unit_test(qwen3),      cmocka_unit_test(gemma3),
    };
    return cmocka_run_group_tests_name("families", tests, NULL, NULL);
}
