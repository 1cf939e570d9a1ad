// SPDX-License-Identifier: Apache-2.0
// Proposing tokens changes no answer: the same bytes, ids and end with any max_draft, greedy and drawn, with every KV
// type, beside others, at every kind of end. What is accepted costs no step of its own.
#include "tests/model/model_test.h"

#include "engine/model/session.h"

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
        assert_true(s->n_pages <= (s->n_tokens + HT_KV_PAGE - 1) / HT_KV_PAGE); // none that only proposals needed
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

// The same at every kind of end: a stop string, the end of the context, a full pool, a cancel after any piece of text.
static void same_at_every_end(void **state)
{
    (void)state;
    static struct answer whole;
    struct hearth_engine *engine = engine_of(models[1], HEARTH_KV_F16, 128, 1);
    struct hearth_session *s = new_session(engine);
    total.accepted = 0;
    for (uint32_t seed = 0; seed < 4; seed++) {
        struct hearth_request r = request_for(&whole, seed, 0);
        r.sampling.temperature = seed % 2 ? 0.2f : 0;
        r.max_tokens = 0;
        check(engine, s, r, 0); // the context's end
        start(s, &whole, &r);
        finish(engine, &whole);
        assert_int_equal(whole.usage.stop, HEARTH_STOP_CONTEXT_FULL);
        assert_int_equal(whole.n_ids, 128 - N_PROMPT);
        for (unsigned n = 1; n < 12; n++) {
            r.max_tokens = n;
            check(engine, s, r, 0);
        }
        r.max_tokens = 60;
        for (unsigned n = 1; n < whole.n_texts; n++)
            check(engine, s, r, n);
        for (size_t at = 0; at + 3 < whole.n; at += 3) {
            char stop[4] = {0};
            memcpy(stop, whole.text + at, 3);
            const char *stops[] = {"not in it", stop};
            r.stop = stops;
            r.n_stop = 2;
            if (!memchr(stop, 0, 3))
                check(engine, s, r, 0);
        }
    }
    assert_true(total.accepted > 1000);
    hearth_engine_close(&engine);
}

// A turn that the model ends itself: with a bias its end token comes now and then, and it may be proposed too.
static void same_where_the_model_ends(void **state)
{
    (void)state;
    unsigned n_ends = 0;
    struct hearth_engine *engine = engine_of(models[1], HEARTH_KV_F16, 256, 1);
    struct hearth_session *s = new_session(engine);
    int32_t end[8];
    size_t n_end;
    struct hearth_error err;
    must(hearth_tokenize(engine, "<|im_end|>", 10, HEARTH_TOKENIZE_SPECIAL, end, 8, &n_end, &err), &err);
    assert_int_equal(n_end, 1);
    static struct answer a;
    for (uint32_t seed = 0; seed < 8; seed++) {
        struct hearth_request r = request_for(&a, seed, 0);
        const struct hearth_logit_bias bias[] = {{.token = end[0], .bias = 1.5f}};
        int32_t ids[N_PROMPT];
        memcpy(ids, r.ids, sizeof ids);
        for (size_t i = 8; i < N_PROMPT; i += 9)
            ids[i] = end[0]; // the prompt has it: so it is proposed
        r.ids = ids;
        r.ignore_end = false;
        r.sampling.temperature = 1;
        r.sampling.logit_bias = bias;
        r.sampling.n_logit_bias = 1;
        check(engine, s, r, 0);
        start(s, &a, &r);
        finish(engine, &a);
        n_ends += a.usage.stop == HEARTH_STOP_END;
    }
    assert_true(n_ends > 0);
    hearth_engine_close(&engine);
}

// Sessions that answer together, some proposing, some not, joining one after another while rows and output rows are
// scarce: each answers as it does alone.
static void same_beside_others(void **state)
{
    (void)state;
    enum { N = 20 };
    static struct answer alone[N], together[N];
    struct hearth_session *s[N];
    struct hearth_error err;
    unsigned busy, drafted = 0;
    struct hearth_engine *engine = engine_of(models[0], HEARTH_KV_Q8, 128 * N, N);
    for (unsigned n = 2; n <= N; n += 6) {
        for (unsigned i = 0; i < n; i++) {
            s[i] = new_session(engine);
            struct hearth_request r = request_for(&alone[i], i, 0);
            r.max_tokens = 20 + 2 * i;
            r.sampling.temperature = i % 3 ? 0.2f : 0;
            start(s[i], &alone[i], &r);
            finish(engine, &alone[i]);
        }
        for (unsigned i = 0; i < n; i++) {
            struct hearth_request r = request_for(&together[i], i, i % 8);
            r.max_tokens = 20 + 2 * i;
            r.sampling.temperature = i % 3 ? 0.2f : 0;
            r.owner = i % 4;
            start(s[i], &together[i], &r);
            must(hearth_engine_step(engine, &busy, &err), &err);
        }
        for (unsigned i = 0; i < n; i++) {
            finish(engine, &together[i]);
            same_answer(&alone[i], &together[i]);
            drafted += together[i].usage.drafted_tokens;
            if (i % 8 == 0)
                assert_int_equal(together[i].usage.drafted_tokens, 0);
        }
        for (unsigned i = 0; i < n; i++)
            hearth_session_destroy(&s[i]);
    }
    assert_true(drafted > 50);
    hearth_engine_close(&engine);
}

// What was proposed and refused leaves nothing in the cache: later turns give the bits of a fresh session.
static void cache_holds_only_the_answer(void **state)
{
    (void)state;
    static struct answer a;
    struct hearth_error err;
    struct hearth_engine *engine = engine_of(models[0], HEARTH_KV_F16, 256, 2);
    struct hearth_session *s = new_session(engine), *fresh = new_session(engine);
    struct hearth_engine_info info;
    hearth_engine_get_info(engine, &info);
    unsigned refused = 0;
    for (uint32_t seed = 0; seed < 6; seed++) {
        struct hearth_request r = request_for(&a, seed, 7);
        r.max_tokens = 30;
        start(s, &a, &r);
        finish(engine, &a);
        refused += a.usage.drafted_tokens - a.usage.accepted_tokens;
        int32_t ids[N_PROMPT + 30];
        memcpy(ids, prompt(seed), N_PROMPT * sizeof *ids);
        memcpy(ids + N_PROMPT, a.ids, 29 * sizeof *ids);
        assert_int_equal(hearth_session_length(s), N_PROMPT + 29);
        must(hearth_session_truncate(fresh, 0, &err), &err);
        free(eval_ids(fresh, engine, ids, N_PROMPT + 29, 0));
        int32_t next = 42;
        float *got = eval_ids(s, engine, &next, 1, 0), *want = eval_ids(fresh, engine, &next, 1, 0);
        assert_memory_equal(got, want, info.n_vocab * sizeof *got);
        free(want);
        free(got);
    }
    assert_true(refused > 20);
    hearth_engine_close(&engine);
}

// Where everything comes true, nothing is proposed that could not be taken.
static void nothing_is_proposed_in_vain(void **state)
{
    (void)state;
    static struct answer a;
    struct hearth_engine *engine = engine_of(models[0], HEARTH_KV_F16, 128, 1);
    struct hearth_session *s = new_session(engine);
    const struct hearth_logit_bias bias[] = {{.token = 97, .bias = 500}};
    int32_t ids[40];
    for (int i = 0; i < 40; i++)
        ids[i] = 97;
    for (unsigned n = 0; n < 40; n++) {
        struct hearth_request r = request_for(&a, 1, 7);
        r.ids = ids;
        r.n_ids = 40;
        r.max_tokens = n;
        r.sampling.logit_bias = bias;
        r.sampling.n_logit_bias = 1;
        start(s, &a, &r);
        finish(engine, &a);
        assert_int_equal(a.n_ids, n ? n : 128 - 40);
        assert_int_equal(a.usage.drafted_tokens, a.usage.accepted_tokens);
        assert_int_equal(a.n_steps + a.usage.accepted_tokens, a.n_ids);
        assert_true(a.n_ids < 4 || a.n_steps <= 1 + a.n_ids / 2);
    }
    hearth_engine_close(&engine);
}

static void too_many_are_refused(void **state)
{
    (void)state;
    static struct answer a;
    struct hearth_error err;
    struct hearth_engine *engine = engine_of(models[0], HEARTH_KV_F16, 128, 1);
    struct hearth_request r = request_for(&a, 1, 8);
    assert_int_equal(hearth_session_submit(new_session(engine), &r, &err), HEARTH_LIMIT);
    hearth_engine_close(&engine);
}

// ---- the drafter alone

static uint32_t propose(struct ht_drafter *d, int32_t *ids, uint32_t n, uint32_t max)
{
    float chance[HT_MAX_DRAFT];
    ht_drafter_learn(d, ids, n, n);
    uint32_t count = ht_drafter_propose(d, ids, n, max, chance);
    for (uint32_t i = 1; i < count; i++)
        assert_true(chance[i] <= chance[i - 1] && chance[i] > 0 && chance[0] <= 1);
    return count;
}

static void the_longest_recent_match_proposes(void **state)
{
    (void)state;
    struct ht_drafter d;
    struct hearth_error err;
    must(ht_drafter_init(&d, 100, &err), &err);
    ht_drafter_reset(&d);
    // "1 2 3" was followed by 40, "2 3" later by 50, "9 2 3" last by 60.
    int32_t ids[100] = {1, 2, 3, 40, 41, 7, 2, 3, 50, 8, 9, 2, 3, 60, 5, 1, 2, 3};
    assert_int_equal(propose(&d, ids, 18, 3), 3);
    assert_int_equal(ids[18], 40);
    assert_int_equal(ids[20], 7);
    ids[15] = 9;
    ht_drafter_reset(&d);
    assert_int_equal(propose(&d, ids, 18, 2), 2);
    assert_int_equal(ids[18], 60);
    ids[15] = 30; // all three agree on two ids: the newest
    ht_drafter_reset(&d);
    propose(&d, ids, 18, 1);
    assert_int_equal(ids[18], 60);
    ids[17] = 77; // never seen
    ht_drafter_reset(&d);
    assert_int_equal(propose(&d, ids, 18, 7), 0);
    // A text that repeats itself is proposed on and on.
    int32_t beat[40] = {1, 2, 3, 1, 2, 3, 1};
    ht_drafter_reset(&d);
    assert_int_equal(propose(&d, beat, 7, 7), 7);
    for (int i = 7; i < 14; i++)
        assert_int_equal(beat[i], i % 3 + 1);
    ht_drafter_deinit(&d);
}

// What came true is trusted more and more, what did not, less.
static void experience_counts(void **state)
{
    (void)state;
    enum { N = 3000 };
    struct ht_drafter d;
    struct hearth_error err;
    static int32_t ids[N + HT_MAX_DRAFT];
    float chance[HT_MAX_DRAFT];
    must(ht_drafter_init(&d, N, &err), &err);
    for (int noise = 0; noise < 2; noise++) {
        uint32_t random = 1;
        for (int i = 0; i < N; i++) {
            random = random * 1664525u + 1013904223u;
            ids[i] = noise ? (int32_t)(random >> 24) % 20 : i % 50;
        }
        ht_drafter_reset(&d);
        ht_drafter_learn(&d, ids, N, 100);
        uint32_t n = ht_drafter_propose(&d, ids, N, 7, chance);
        assert_true(noise ? !n || chance[0] < 0.2f : n == 7 && chance[6] > 0.9f);
    }
    ht_drafter_deinit(&d);
}

// Longer than what it remembers: it goes on finding what is near.
static void a_long_text_is_no_trouble(void **state)
{
    (void)state;
    enum { N = 3 * HT_DRAFT_WINDOW };
    struct ht_drafter d;
    struct hearth_error err;
    int32_t *ids = calloc(N + HT_MAX_DRAFT, sizeof *ids);
    must(ht_drafter_init(&d, 1 << 20, &err), &err);
    assert_int_equal(d.window, HT_DRAFT_WINDOW);
    ht_drafter_reset(&d);
    for (int i = 0; i < N; i++)
        ids[i] = 1000 + i;
    assert_int_equal(propose(&d, ids, N - 1, 7), 0);
    ht_drafter_reset(&d);
    ids[N - 1] = ids[N - 2000];
    assert_int_equal(propose(&d, ids, N, 7), 7);
    assert_int_equal(ids[N + 6], ids[N - 2000 + 7]);
    ht_drafter_deinit(&d);
    free(ids);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_with_every_sampling),
        cmocka_unit_test(same_at_every_end),
        cmocka_unit_test(same_where_the_model_ends),
        cmocka_unit_test(same_beside_others),
        cmocka_unit_test(cache_holds_only_the_answer),
        cmocka_unit_test(nothing_is_proposed_in_vain),
        cmocka_unit_test(too_many_are_refused),
        cmocka_unit_test(the_longest_recent_match_proposes),
        cmocka_unit_test(experience_counts),
        cmocka_unit_test(a_long_text_is_no_trouble),
    };
    return cmocka_run_group_tests_name("speculation", tests, NULL, NULL);
}
