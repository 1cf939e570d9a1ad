// SPDX-License-Identifier: Apache-2.0
// A merged model answers as its base with the adapter beside it: in f32 up to the order of sums, in f16 up to the
// rounding of weights: 15 matrices, each off by 2^-11 of itself; the head's is a new tensor where it was tied.
#include "tests/model/model_test.h"

#include <math.h>

#include "engine/base/rng.h"
#include "engine/gguf/gguf.h"
#include "engine/learn/adapter.h"
#include "tests/check/fault.h"

#define SHA "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

static struct hearth_adapter *made(const struct hearth_adapter_base *base)
{
    struct ht_gguf *gguf;
    struct ht_hparams hp;
    struct hearth_adapter *a;
    const struct ht_adapter_spec spec = {.linears = 0xFF, .rank = 3, .alpha = 6};
    assert_int_equal(ht_gguf_open(&gguf, base->path, NULL), HEARTH_OK);
    assert_int_equal(ht_hparams_read(&hp, gguf, NULL), HEARTH_OK);
    ht_gguf_close(&gguf);
    assert_int_equal(ht_adapter_create(&a, &hp, &spec, NULL), HEARTH_OK);
    ht_adapter_init(a, 5, false);
    for (size_t i = 0; i < a->n_targets; i++)
        for (size_t j = 0; j < (size_t)a->targets[i].n * 3; j++)
            a->values[a->targets[i].b_at + j] = 0.2f * (ht_unit_f32(ht_philox(5, j, i).v[0]) - 0.5f);
    assert_int_equal(ht_adapter_bind(a, base, NULL), HEARTH_OK);
    return a;
}

// Exact logits of the golden ids, with an adapter or none.
static float *logits_of(const char *path, const struct hearth_adapter *adapter, const struct golden *g)
{
    struct hearth_engine *e =
        open_engine((struct hearth_engine_params){.model_path = path, .n_ctx = 256, .exact = true});
    struct hearth_session *s = new_session(e);
    struct hearth_error err;
    unsigned id = 0;
    const struct hearth_adapter_use use = {adapter, 1};
    if (adapter)
        must(hearth_engine_adapter_load(e, &use, 1, NULL, &id, &err), &err);
    float *logits = malloc((size_t)g->n_tokens * g->n_vocab * sizeof *logits);
    const struct hearth_span span = {
        .session = s, .ids = g->ids, .n_ids = g->n_tokens, .logits = logits, .adapter = id};
    must(hearth_engine_eval(e, &span, 1, &err), &err);
    hearth_engine_close(&e);
    return logits;
}

static double farthest(const float *a, const float *b, size_t n)
{
    double most = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        if (!(d <= most)) // what is no number is far
            most = d;
    }
    return most;
}

static void same_answers(void **state)
{
    (void)state;
    static const char *const families[] = {"llama", "qwen2", "qwen3", "gemma3"};
    char folder[64], path[64];
    check_folder_make(folder);
    for (size_t i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "tests/golden/tiny-%s.logits", families[i]);
        struct golden g = golden_read(path);
        size_t n = (size_t)g.n_tokens * g.n_vocab;
        snprintf(path, sizeof path, "tests/golden/tiny-%s.gguf", families[i]);
        const struct hearth_adapter_base base = {path, SHA};
        struct hearth_adapter *a = made(&base);
        const struct hearth_adapter_use use = {a, 1};
        float *plain = logits_of(path, NULL, &g), *beside = logits_of(path, a, &g);
        double moved = farthest(plain, beside, n), bounds[] = {1e-5 * (1 + moved), 15 * ldexp(1, -11) * (1 + moved)};
        assert_true(moved > 0.1);
        static const char *const types[] = {"f32", "f16"};
        for (int k = 0; k < 2; k++) {
            struct hearth_error err;
            const struct hearth_merge_params params = {.base = &base, .uses = &use, .n_uses = 1, .type = types[k]};
            const char *out = check_path(folder, types[k]);
            must(hearth_adapter_merge(out, &params, NULL, &err), &err);
            float *merged = logits_of(out, NULL, &g);
            double off = farthest(beside, merged, n);
            if (!(off <= bounds[k]))
                fail_msg("%s merged as %s: off by %g of %g", families[i], types[k], off, moved);
            print_message("%s merged as %s: off by %g of %g\n", families[i], types[k], off, moved);
            free(merged);
        }
        free(plain);
        free(beside);
        hearth_adapter_close(&a);
        golden_free(&g);
    }
    check_folder_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(same_answers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
