// SPDX-License-Identifier: Apache-2.0
// Proposing tokens changes no answer: the same bytes, ids and end with any max_draft, greedy and drawn, with every KV
// type, beside others, at every kind of end. What is accepted costs no step of its own.
#include "tests/model/model_test.h"

static const char *const models[] = {
    "tests/golden/tiny-llama-q8_0.gguf",
    "tests/golden/tiny-qwen2-q4_1.gguf",
    "tests/golden/tiny-qwen3.gguf",
    "tests/golden/tiny-gemma3.gguf",
};
enum { N_MODELS = sizeof models / sizeof models[0], MAX_IDS = 400, N_PROMPT = 60 };

struct answer {
    char text[16384];
    size_t n, n_ids;
    int32_t ids[MAX_IDS];
    unsigned n_texts, n_ends, n_steps, cancel_after;
    struct hearth_session *session;
    struct hearth_usage usage;
};

static void on_event(void *user, const struct hearth_event *event)
{
    struct answer *a = user;
    assert_int_equal(a->n_ends, 0);
    if (event->type == HEARTH_EVENT_TEXT) {
        assert_true(a->n + event->len_bytes < sizeof a->text);
        memcpy(a->text + a->n, event->text, event->len_bytes);
        a->n += event->len_bytes;
        if (++a->n_texts == a->cancel_after)
            hearth_session_cancel(a->session);
    }
    if (event->type == HEARTH_EVENT_DONE || event->type == HEARTH_EVENT_FAILED) {
        a->n_ends++;
        assert_int_equal(event->type, HEARTH_EVENT_DONE);
        a->usage = *event->usage;
    }
}

// A text that repeats itself with small changes, so that there is always something to propose.
static const int32_t *prompt(uint32_t seed)
{
    static int32_t ids[N_PROMPT];
    for (size_t i = 0; i < N_PROMPT; i++)
        ids[i] = 97 + (int32_t)((i % 9 * 5 + seed + (i % 13 == 12)) % 24);
    return ids;
}

static struct hearth_request request_for(struct answer *a, uint32_t seed, unsigned max_draft)
{
    struct hearth_request r = {.ids = prompt(seed),
                               .n_ids = N_PROMPT,
                               .max_tokens = 90,
                               .on_event = on_event,
                               .user = a,
                               .ignore_end = true,
                               .max_draft = max_draft};
    hearth_sampling_default(&r.sampling);
    r.sampling.seed = seed;
    return r;
}

static void start(struct hearth_session *s, struct answer *a, const struct hearth_request *r)
{
    struct hearth_error err;
    unsigned cancel_after = a->cancel_after;
    *a = (struct answer){.session = s, .cancel_after = cancel_after};
    must(hearth_session_truncate(s, 0, &err), &err);
    must(hearth_session_submit(s, r, &err), &err);
}

static void finish(struct hearth_engine *engine, struct answer *a)
{
    struct hearth_error err;
    for (unsigned busy; !a->n_ends; a->n_steps++)
        must(hearth_engine_step(engine, &busy, &err), &err);
    a->n_ids = hearth_session_last_ids(a->session, a->ids, MAX_IDS);
}

static void same_answer(const struct answer *want, const struct answer *got)
{
    assert_int_equal(got->n_ids, want->n_ids);
    assert_memory_equal(got->ids, want->ids, want->n_ids * sizeof *want->ids);
    assert_int_equal(got->n, want->n);
    assert_memory_equal(got->text, want->text, want->n);
    assert_int_equal(got->usage.stop, want->usage.stop);
    assert_int_equal(got->usage.completion_tokens, want->usage.completion_tokens);
    assert_int_equal(got->n_texts, want->n_texts);
    assert_true(got->usage.accepted_tokens <= got->usage.drafted_tokens);
}

static struct hearth_engine *engine_of(const char *model, enum hearth_kv_type kv, unsigned n_ctx, unsigned sessions)
{
    return open_engine((struct hearth_engine_params){.model_path = model,
                                                     .device = "cpu",
                                                     .n_ctx = n_ctx,
                                                     .max_sessions = sessions,
                                                     .kv = kv,
                                                     .exact = kv == HEARTH_KV_F32});
}

static struct {
    unsigned drafted, accepted;
} total;

// One request with every number of proposals gives what it gives without any, and leaves the session the same.
static void check(struct hearth_engine *engine, struct hearth_session *s, struct hearth_request r, unsigned cancel)
{
    static struct answer want, got;
    static const unsigned drafts[] = {1, 2, 7};
    want.cancel_after = got.cancel_after = cancel;
    r.max_draft = 0;
    r.user = &want;
    start(s, &want, &r);
    finish(engine, &want);
    unsigned length = hearth_session_length(s);
    assert_int_equal(want.usage.drafted_tokens, 0);
    for (size_t i = 0; i < sizeof drafts / sizeof *drafts; i++) {
        r.max_draft = drafts[i];
        r.user = &got;
        start(s, &got, &r);
        finish(engine, &got);
        same_answer(&want, &got);
        assert_int_equal(hearth_session_length(s), length);
        assert_true(got.n_steps <= want.n_steps);
        // Every accepted token saved a step.
        if (got.usage.stop == HEARTH_STOP_MAX_TOKENS)
            assert_int_equal(got.n_steps + got.usage.accepted_tokens, want.n_steps);
        total.drafted += got.usage.drafted_tokens;
        total.accepted += got.usage.accepted_tokens;
    }
}

static void same_with_every_sampling(void **state)
{
    (void)state;
    static const enum hearth_kv_type kvs[] = {HEARTH_KV_F16, HEARTH_KV_Q8, HEARTH_KV_F32};
    for (int m = 0; m < N_MODELS; m++)
        for (int k = 0; k < 3; k++) {
            struct hearth_engine *engine = engine_of(models[m], kvs[k], 256, 1);
            struct hearth_session *s = new_session(engine);
            total.drafted = total.accepted = 0;
            for (uint32_t seed = 0; seed < 3; seed++) {
                struct hearth_request r = request_for(NULL, seed, 0);
                check(engine, s, r, 0); // as by default
                r.sampling.temperature = 0;
                check(engine, s, r, 0);
                r.sampling.repeat_penalty = 1.1f;
                r.sampling.frequency_penalty = 0.2f;
                r.sampling.penalty_last_n = 40;
                check(engine, s, r, 0);
                const struct hearth_logit_bias bias[] = {{.token = 97, .bias = 3}, {.token = 98, .bias = 3}};
                r.sampling.temperature = 0.8f;
                r.sampling.presence_penalty = -0.5f;
                r.sampling.logit_bias = bias;
                r.sampling.n_logit_bias = 2;
                check(engine, s, r, 0);
            }
            assert_true(total.accepted > 100);                 // the test means something:
            assert_true(total.drafted > total.accepted + 100); // both are there
            hearth_engine_close(&engine);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_with_every_sampling),
    };
    return cmocka_run_group_tests_name("speculation", tests, NULL, NULL);
}
