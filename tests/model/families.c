// SPDX-License-Identifier: Apache-2.0
// Each family's decoder against transformers in float32, on tiny random models (tests/golden/make_tiny.py).
#include "tests/model/model_test.h"

#include <math.h>

#include "tests/check/fault.h"

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

// ---- sizes that a file may not say

struct patch {
    const char *key;
    uint32_t values[6]; // one, or (n_values 6) an array of them
    unsigned n_values;
    enum hearth_status status;
    const char *words;
};

// tiny-llama with another value of one key. Six values of 4 bytes move the rest of the file by 32, its alignment.
static void write_patched(const char *path, const struct patch *p)
{
    static unsigned char bytes[1 << 20];
    FILE *f = fopen("tests/golden/tiny-llama.gguf", "rb");
    assert_non_null(f);
    size_t n = fread(bytes, 1, sizeof bytes - 32, f);
    fclose(f);
    const uint32_t array[] = {9, 5, 6, 0}; // an array of i32, how many
    unsigned char *at = memmem(bytes, n, p->key, strlen(p->key));
    assert_non_null(at);
    at += strlen(p->key);
    assert_true(p->n_values == 1 || p->n_values == 6);
    if (p->n_values == 6) {
        memmove(at + 32, at, (size_t)(bytes + n - at));
        n += 32;
        memcpy(at, array, sizeof array);
        memcpy(at + sizeof array, p->values, sizeof p->values);
    } else {
        memcpy(at + 4, p->values, sizeof *p->values); // behind the type
    }
    check_file_write(path, bytes, n);
}

static void sizes_that_are_refused(void **state)
{
    (void)state;
    static const struct patch patches[] = {
        {"llama.block_count", {0}, 1, HEARTH_LIMIT, "llama.block_count is 0, not in [1, 512]"},
        {"llama.block_count", {513}, 1, HEARTH_LIMIT, "is 513, not in [1, 512]"},
        {"llama.block_count", {512}, 1, HEARTH_FORMAT, "is missing"}, // the tensors of the third layer
        {"llama.attention.head_count", {1025}, 1, HEARTH_LIMIT, "not in [1, 1024]"},
        {"llama.attention.head_count_kv", {3}, 1, HEARTH_FORMAT, "no multiple of 3 kv heads"},
        {"llama.attention.head_count_kv", {1}, 1, HEARTH_FORMAT, "is (16, 32), not (8, 32)"}, // rows of a tensor
        {"llama.embedding_length", {36}, 1, HEARTH_FORMAT, "rope.dimension_count is odd"},
        {"llama.rope.freq_base", {0x3F000000}, 1, HEARTH_LIMIT, "is 0.5, not in [1"},
        {"llama.rope.freq_base", {0x7FC00000}, 1, HEARTH_FORMAT, "not a finite number"},
        {"llama.feed_forward_length", {64, 64, 64, 64, 64, 64}, 6, HEARTH_OK, ""}, // one for each layer
        {"llama.feed_forward_length", {64, 64, 64, 64, 64, 65}, 6, HEARTH_UNSUPPORTED, "from layer to layer"},
        {"llama.feed_forward_length", {0, 0, 0, 0, 0, 0}, 6, HEARTH_LIMIT, "is 0, not in"},
        {"llama.feed_forward_length", {-1u, -1u, -1u, -1u, -1u, -1u}, 6, HEARTH_LIMIT, "is -1, not in"},
        {"llama.feed_forward_length", {1 << 20, 1 << 20, 1 << 20, 1 << 20, 1 << 20, 1 << 20}, 6, HEARTH_LIMIT,
         "is 1048576, not in"},
    };
    char folder[64];
    check_folder_make(folder);
    const char *path = check_path(folder, "patched.gguf");
    for (size_t i = 0; i < sizeof patches / sizeof *patches; i++) {
        struct hearth_engine *engine;
        struct hearth_error err = {.text = ""};
        write_patched(path, &patches[i]);
        enum hearth_status status = hearth_engine_open(
            &engine, &(struct hearth_engine_params){.model_path = path, .device = "cpu"}, &err);
        if (status != patches[i].status || !strstr(err.text, patches[i].words))
            fail_msg("%s %u: %d %s", patches[i].key, patches[i].values[0], status, err.text);
        hearth_engine_close(&engine);
    }
    check_folder_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(llama),      cmocka_unit_test(llama_q8_0), cmocka_unit_test(qwen2),
        cmocka_unit_test(qwen2_q4_1), cmocka_unit_test(qwen3),      cmocka_unit_test(gemma3),
        cmocka_unit_test(sizes_that_are_refused),
    };
    return cmocka_run_group_tests_name("families", tests, NULL, NULL);
}
