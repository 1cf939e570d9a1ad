// SPDX-License-Identifier: Apache-2.0
// Requests: determinism by seed, several sessions together, cache reuse, stop strings with hold-back, cancel, the
// end of the context, and what a request may not ask for.
#include "engine/base/limits.h"
#include "tests/model/model_test.h"

#define MODEL "tests/golden/tiny-llama-q8_0.gguf"

struct answer {
    char text[8192];
    size_t n;
    unsigned n_texts, n_ends, prompt_done;
    bool failed;
    struct hearth_usage usage;
    struct hearth_session *cancel_at_text; // cancel this session at the first text
};

static void on_event(void *user, const struct hearth_event *event)
{
    struct answer *a = user;
    assert_int_equal(a->n_ends, 0); // nothing follows the end
    if (event->type == HEARTH_EVENT_PROMPT)
        a->prompt_done = event->prompt_done;
    if (event->type == HEARTH_EVENT_TEXT) {
        assert_true(a->n + event->len_bytes < sizeof a->text);
        memcpy(a->text + a->n, event->text, event->len_bytes);
        a->n += event->len_bytes;
        a->n_texts++;
        if (a->cancel_at_text)
            hearth_session_cancel(a->cancel_at_text);
    }
    if (event->type == HEARTH_EVENT_DONE || event->type == HEARTH_EVENT_FAILED) {
        a->n_ends++;
        a->failed = event->type == HEARTH_EVENT_FAILED;
        a->usage = *event->usage;
    }
}

static struct hearth_engine *engine_with(unsigned sessions, unsigned n_ctx)
{
    return open_engine((struct hearth_engine_params){
        .model_path = MODEL, .device = "cpu", .max_sessions = sessions, .n_ctx = n_ctx});
}

static struct hearth_request request_for(struct answer *answer, const int32_t *ids, size_t n, uint64_t seed)
{
    struct hearth_request r = {
        .ids = ids, .n_ids = n, .max_tokens = 24, .on_event = on_event, .user = answer, .ignore_end = true};
    hearth_sampling_default(&r.sampling);
    r.sampling.temperature = 1;
    r.sampling.seed = seed;
    memset(answer, 0, sizeof *answer);
    return r;
}

static void run_all(struct hearth_engine *engine)
{
    unsigned busy = 1;
    struct hearth_error err;
    for (int i = 0; busy; i++) {
        must(hearth_engine_step(engine, &busy, &err), &err);
        assert_true(i < 2000);
    }
}

static const int32_t prompt_a[] = {10, 200, 30, 77, 5, 16, 99, 123, 45, 255, 7},
                     prompt_b[] = {90, 91, 92, 14};

static void ask(struct hearth_engine *engine, struct hearth_session *s, struct answer *answer,
                const int32_t *ids, size_t n, uint64_t seed)
{
    struct hearth_error err;
    struct hearth_request r = request_for(answer, ids, n, seed);
    must(hearth_session_submit(s, &r, &err), &err);
    run_all(engine);
    assert_int_equal(answer->n_ends, 1);
    assert_false(answer->failed);
}

static void same_seed_same_answer(void **state)
{
    (void)state;
    struct hearth_engine *engine = engine_with(2, 256);
    struct hearth_session *s = new_session(engine), *t = new_session(engine);
    static struct answer first, second, other;
    ask(engine, s, &first, prompt_a, 11, 42);
    ask(engine, t, &second, prompt_a, 11, 42);
    ask(engine, t, &other, prompt_a, 11, 43);
    assert_int_equal(first.n, second.n);
    assert_memory_equal(first.text, second.text, first.n);
    assert_true(first.n != other.n || memcmp(first.text, other.text, first.n));
    assert_int_equal(first.usage.prompt_tokens, 11);
    assert_int_equal(first.usage.completion_tokens, 24);
    assert_int_equal(first.usage.stop, HEARTH_STOP_MAX_TOKENS);
    assert_int_equal(first.usage.seed, 42);
    assert_int_equal(strlen(first.usage.numerics_id), 32);
    assert_int_equal(other.usage.cached_tokens, 10); // all but the last prompt token
    hearth_engine_close(&engine);
}

static void together_as_alone(void **state)
{
    (void)state;
    struct hearth_engine *engine = engine_with(4, 512);
    static struct answer alone[4], together[4];
    struct hearth_session *s[4];
    struct hearth_error err;
    for (int i = 0; i < 4; i++) {
        s[i] = new_session(engine);
        ask(engine, s[i], &alone[i], i % 2 ? prompt_a : prompt_b, i % 2 ? 11 : 4, (uint64_t)i);
    }
    for (int i = 0; i < 4; i++) {
        must(hearth_session_truncate(s[i], 0, &err), &err);
        struct hearth_request r =
            request_for(&together[i], i % 2 ? prompt_a : prompt_b, i % 2 ? 11 : 4, (uint64_t)i);
        must(hearth_session_submit(s[i], &r, &err), &err);
        unsigned busy;
        must(hearth_engine_step(engine, &busy, &err), &err); // they start one after another
        assert_int_equal(busy, (unsigned)i + 1);
    }
    run_all(engine);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(together[i].n_ends, 1);
        assert_int_equal(together[i].n, alone[i].n);
        assert_memory_equal(together[i].text, alone[i].text, alone[i].n);
    }
    hearth_engine_close(&engine);
}

// Rows of two sessions that stand side by side in a step, at positions that follow each other, are not one session's.
static void neighbours_are_kept_apart(void **state)
{
    (void)state;
    static const int32_t other[] = {3, 250, 31, 76, 200, 18, 9, 124, 40, 25, 70, 8};
    struct hearth_engine *engine = engine_with(2, 512);
    struct hearth_session *s[2] = {new_session(engine), new_session(engine)};
    static struct answer alone[2], together[2];
    struct hearth_error err;
    ask(engine, s[0], &alone[0], prompt_a, 11, 1);
    ask(engine, s[1], &alone[1], other, 12, 2);
    for (int i = 0; i < 2; i++)
        must(hearth_session_truncate(s[i], 0, &err), &err);
    struct hearth_request r = request_for(&together[0], prompt_a, 11, 1), q = request_for(&together[1], other, 12, 2);
    must(hearth_session_submit(s[0], &r, &err), &err);
    must(hearth_session_submit(s[1], &q, &err), &err);
    run_all(engine);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(together[i].n, alone[i].n);
        assert_memory_equal(together[i].text, alone[i].text, alone[i].n);
    }
    hearth_engine_close(&engine);
}

// A second turn that repeats the first computes only what is new, and gives the bits of a fresh session.
static void cache_reuse_changes_nothing(void **state)
{
    (void)state;
    struct hearth_engine *engine = engine_with(2, 512);
    struct hearth_session *s = new_session(engine), *fresh = new_session(engine);
    static struct answer first, second, again;
    ask(engine, s, &first, prompt_a, 11, 1);
    int32_t turn[11 + 24 + 4], answer_ids[32];
    size_t n = hearth_session_last_ids(s, answer_ids, 32);
    assert_int_equal(n, 24);
    memcpy(turn, prompt_a, sizeof prompt_a);
    memcpy(turn + 11, answer_ids, n * sizeof *turn);
    memcpy(turn + 11 + n, prompt_b, sizeof prompt_b);
    ask(engine, s, &second, turn, 11 + n + 4, 2);
    ask(engine, fresh, &again, turn, 11 + n + 4, 2);
    assert_int_equal(second.usage.cached_tokens, 11 + 23); // the last generated token was never computed
    assert_int_equal(again.usage.cached_tokens, 0);
    assert_int_equal(second.n, again.n);
    assert_memory_equal(second.text, again.text, second.n);
    hearth_engine_close(&engine);
}

// Another prompt of the same length, and one that shares only a beginning: nothing wrong is reused.
static void another_prompt_reuses_what_is_equal(void **state)
{
    (void)state;
    struct hearth_engine *engine = engine_with(2, 256);
    struct hearth_session *s = new_session(engine);
    static struct answer first, second, fresh;
    int32_t other[11], branch[11];
    for (int i = 0; i < 11; i++) {
        other[i] = 200 - 7 * i;
        branch[i] = i < 6 ? prompt_a[i] : other[i];
    }
    ask(engine, s, &first, prompt_a, 11, 5);
    const int32_t *const prompts[] = {other, branch, prompt_a};
    const unsigned shared[] = {0, 0, 6};
    for (int i = 0; i < 3; i++) {
        struct hearth_session *t = new_session(engine);
        ask(engine, s, &second, prompts[i], 11, 5);
        ask(engine, t, &fresh, prompts[i], 11, 5);
        assert_int_equal(second.usage.cached_tokens, shared[i]);
        assert_int_equal(second.n, fresh.n);
        assert_memory_equal(second.text, fresh.text, fresh.n);
        hearth_session_destroy(&t);
    }
    hearth_engine_close(&engine);
}

// Two tokens, 55 % and 45 % at every position: each position draws anew, so both come, about as often as they should.
static void every_position_draws_anew(void **state)
{
    (void)state;
    struct hearth_engine *engine = engine_with(1, 256);
    struct hearth_session *s = new_session(engine);
    static struct answer a;
    struct hearth_error err;
    const struct hearth_logit_bias bias[] = {{.token = 65, .bias = 500}, {.token = 66, .bias = 480}};
    struct hearth_request r = request_for(&a, prompt_a, 11, 7);
    r.sampling.logit_bias = bias;
    r.sampling.n_logit_bias = 2;
    r.sampling.temperature = 100; // what the model itself thinks no longer matters
    r.sampling.top_k = 2;
    r.max_tokens = 100;
    must(hearth_session_submit(s, &r, &err), &err);
    run_all(engine);
    unsigned n_first = 0;
    for (size_t i = 0; i < a.n; i++)
        n_first += a.text[i] == 65;
    assert_int_equal(a.usage.completion_tokens, 100);
    assert_in_range(n_first, 30, 80); // binomial: 5 standard deviations each way
    hearth_engine_close(&engine);
}

static void stop_string_is_held_back(void **state)
{
    (void)state;
    struct hearth_engine *engine = engine_with(1, 256);
    struct hearth_session *s = new_session(engine);
    static struct answer whole, cut;
    struct hearth_error err;
    ask(engine, s, &whole, prompt_a, 11, 7);
    assert_true(whole.n > 12);
    // Two whole characters somewhere in the middle become the stop string.
    size_t at = whole.n / 2;
    while ((whole.text[at] & 0xC0) == 0x80)
        at++;
    size_t end = at + 1;
    for (int characters = 0; end < whole.n && characters < 2; end++)
        characters += (whole.text[end] & 0xC0) != 0x80;
    end--;
    char stop[16] = {0};
    memcpy(stop, whole.text + at, end - at);
    const char *stops[] = {"never to be seen", stop};
    struct hearth_request r = request_for(&cut, prompt_a, 11, 7);
    r.stop = stops;
    r.n_stop = 2;
    must(hearth_session_submit(s, &r, &err), &err);
    run_all(engine);
    assert_int_equal(cut.usage.stop, HEARTH_STOP_STRING);
    const char *found = memmem(whole.text, whole.n, stop, strlen(stop));
    assert_int_equal(cut.n, found - whole.text);
    assert_memory_equal(cut.text, whole.text, cut.n);
    hearth_engine_close(&engine);
}

static void cancel_ends_at_the_next_step(void **state)
{
    (void)state;
    struct hearth_engine *engine = engine_with(1, 256);
    struct hearth_session *s = new_session(engine);
    static struct answer a;
    struct hearth_error err;
    struct hearth_request r = request_for(&a, prompt_a, 11, 7);
    a.cancel_at_text = s;
    must(hearth_session_submit(s, &r, &err), &err);
    run_all(engine);
    assert_int_equal(a.usage.stop, HEARTH_STOP_CANCELLED);
    assert_in_range(a.usage.completion_tokens, 1, 5);
    ask(engine, s, &a, prompt_b, 4, 1); // the session goes on
    assert_int_equal(a.usage.stop, HEARTH_STOP_MAX_TOKENS);
    assert_true(a.usage.first_token_ms > 0 && a.usage.prompt_ms > 0); // and is measured anew
    assert_int_equal(a.prompt_done, 4);
    hearth_engine_close(&engine);
}

static void context_is_never_shifted(void **state)
{
    (void)state;
    struct hearth_engine *engine = engine_with(1, 32);
    struct hearth_session *s = new_session(engine);
    static struct answer a;
    struct hearth_error err;
    int32_t ids[64] = {0};
    struct hearth_request r = request_for(&a, ids, 32, 7);
    assert_int_equal(hearth_session_submit(s, &r, &err), HEARTH_CONTEXT);
    assert_non_null(strstr(err.text, "32 tokens"));
    char words[300];
    memset(words, 'a', sizeof words);
    const struct hearth_message message = {.role = HEARTH_ROLE_USER, .text = words, .len_bytes = sizeof words};
    r = request_for(&a, NULL, 0, 7);
    r.messages = &message;
    r.n_messages = 1;
    assert_int_equal(hearth_session_submit(s, &r, &err), HEARTH_CONTEXT);
    r = request_for(&a, prompt_a, 11, 7);
    r.max_tokens = 0;
    must(hearth_session_submit(s, &r, &err), &err);
    run_all(engine);
    assert_int_equal(a.usage.stop, HEARTH_STOP_CONTEXT_FULL);
    assert_int_equal(a.usage.completion_tokens, 32 - 11);
    hearth_engine_close(&engine);
}

// The pool is smaller than what the sessions want together: one ends, said so, the other goes on.
static void pool_is_shared(void **state)
{
    (void)state;
    struct hearth_engine *engine = engine_with(2, 64);
    struct hearth_session *s = new_session(engine), *t = new_session(engine);
    static struct answer a, b;
    struct hearth_error err;
    struct hearth_request r = request_for(&a, prompt_a, 11, 7), q = request_for(&b, prompt_b, 4, 7);
    r.max_tokens = q.max_tokens = 0;
    must(hearth_session_submit(s, &r, &err), &err);
    must(hearth_session_submit(t, &q, &err), &err);
    run_all(engine);
    assert_int_equal(a.n_ends + b.n_ends, 2);
    assert_int_equal(a.usage.stop, HEARTH_STOP_CONTEXT_FULL);
    assert_int_equal(b.usage.stop, HEARTH_STOP_CONTEXT_FULL);
    // All that was promised can be had, although one leaves its page almost empty.
    must(hearth_session_truncate(s, 0, &err), &err);
    must(hearth_session_truncate(t, 5, &err), &err);
    r = request_for(&a, prompt_a, 11, 7);
    r.max_tokens = 0;
    must(hearth_session_submit(s, &r, &err), &err);
    run_all(engine);
    assert_true(hearth_session_length(s) + hearth_session_length(t) >= 64);
    hearth_engine_close(&engine);
}

static void bad_requests(void **state)
{
    (void)state;
    struct hearth_engine *engine = engine_with(1, 256);
    struct hearth_session *s = new_session(engine), *none;
    static struct answer a;
    struct hearth_error err;
    assert_int_equal(hearth_session_create(engine, &none, &err), HEARTH_LIMIT);
    assert_null(none);
    struct hearth_request r = request_for(&a, prompt_a, 0, 7);
    assert_int_equal(hearth_session_submit(s, &r, &err), HEARTH_INVALID);
    int32_t outside[] = {264}, below[] = {-1};
    r = request_for(&a, outside, 1, 7);
    assert_int_equal(hearth_session_submit(s, &r, &err), HEARTH_INVALID);
    r = request_for(&a, below, 1, 7);
    assert_int_equal(hearth_session_submit(s, &r, &err), HEARTH_INVALID);
    r = request_for(&a, prompt_a, 11, 7);
    r.sampling.temperature = 0.0f / 0.0f;
    assert_int_equal(hearth_session_submit(s, &r, &err), HEARTH_INVALID);
    static struct hearth_logit_bias many[HT_MAX_LOGIT_BIAS + 1];
    r = request_for(&a, prompt_a, 11, 7);
    r.sampling.logit_bias = many;
    r.sampling.n_logit_bias = HT_MAX_LOGIT_BIAS + 1;
    assert_int_equal(hearth_session_submit(s, &r, &err), HEARTH_LIMIT);
    r.sampling.n_logit_bias = 1;
    many[0].token = 264;
    assert_int_equal(hearth_session_submit(s, &r, &err), HEARTH_INVALID);
    many[0].token = 0; // as many as are allowed
    r.sampling.n_logit_bias = HT_MAX_LOGIT_BIAS;
    r.sampling.penalty_last_n = HT_MAX_PENALTY_WINDOW;
    const char *stops[HT_MAX_STOP_STRINGS + 1];
    for (int i = 0; i <= HT_MAX_STOP_STRINGS; i++)
        stops[i] = "never said";
    r.stop = stops;
    r.n_stop = HT_MAX_STOP_STRINGS;
    must(hearth_session_submit(s, &r, &err), &err);
    run_all(engine);
    r.n_stop++;
    assert_int_equal(hearth_session_submit(s, &r, &err), HEARTH_LIMIT);
    r.n_stop = 0;
    r.sampling.penalty_last_n++;
    assert_int_equal(hearth_session_submit(s, &r, &err), HEARTH_LIMIT);
    const char *empty[] = {""};
    r = request_for(&a, prompt_a, 11, 7);
    r.stop = empty;
    r.n_stop = 1;
    assert_int_equal(hearth_session_submit(s, &r, &err), HEARTH_INVALID);
    r = request_for(&a, prompt_a, 11, 7);
    must(hearth_session_submit(s, &r, &err), &err);
    assert_int_equal(hearth_session_submit(s, &r, &err), HEARTH_BUSY);
    assert_int_equal(hearth_session_truncate(s, 0, &err), HEARTH_INVALID);
    struct hearth_span span = {.session = s, .ids = prompt_b, .n_ids = 4};
    assert_int_equal(hearth_engine_eval(engine, &span, 1, &err), HEARTH_BUSY);
    run_all(engine);
    assert_int_equal(a.n_ends, 1);
    hearth_engine_close(&engine);
}

static void logit_bias_and_penalties(void **state)
{
    (void)state;
    struct hearth_engine *engine = engine_with(1, 256);
    struct hearth_session *s = new_session(engine);
    static struct answer a;
    struct hearth_error err;
    struct hearth_logit_bias bias = {.token = 65, .bias = 100}; // token 65 is the byte 'A'
    struct hearth_request r = request_for(&a, prompt_a, 11, 7);
    r.sampling.logit_bias = &bias;
    r.sampling.n_logit_bias = 1;
    must(hearth_session_submit(s, &r, &err), &err);
    run_all(engine);
    assert_int_equal(a.n, 24);
    for (size_t i = 0; i < a.n; i++)
        assert_int_equal(a.text[i], 'A');
    // Greedy with a presence penalty beyond every logit: no token comes twice in the window.
    r = request_for(&a, prompt_a, 11, 7);
    r.sampling.temperature = 0;
    r.sampling.presence_penalty = 50;
    r.sampling.penalty_last_n = 64;
    must(hearth_session_submit(s, &r, &err), &err);
    run_all(engine);
    int32_t ids[64];
    size_t n = hearth_session_last_ids(s, ids, 64);
    assert_int_equal(n, 24);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < i; j++)
            assert_int_not_equal(ids[i], ids[j]);
    hearth_engine_close(&engine);
}

// Three tokens above all others and a window of two: whoever was drawn twice ago is due again, for ever in turn.
static void penalties_look_back_so_far(void **state)
{
    (void)state;
    struct hearth_engine *engine = engine_with(1, 256);
    struct hearth_session *s = new_session(engine);
    static struct answer a;
    struct hearth_error err;
    const struct hearth_logit_bias bias[] = {{65, 500}, {66, 500}, {67, 500}};
    struct hearth_request r = request_for(&a, prompt_a, 11, 7);
    r.sampling.logit_bias = bias;
    r.sampling.n_logit_bias = 3;
    r.sampling.temperature = 0;
    r.sampling.presence_penalty = 100;
    r.sampling.penalty_last_n = 2;
    must(hearth_session_submit(s, &r, &err), &err);
    run_all(engine);
    assert_int_equal(a.n, 24);
    for (size_t i = 0; i < a.n; i++) {
        assert_in_range(a.text[i], 65, 67);
        assert_true(i < 1 || a.text[i] != a.text[i - 1]);
        assert_true(i < 2 || a.text[i] != a.text[i - 2]);
    }
    hearth_engine_close(&engine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_seed_same_answer),
        cmocka_unit_test(together_as_alone), cmocka_unit_test(neighbours_are_kept_apart),
        cmocka_unit_test(another_prompt_reuses_what_is_equal),
        cmocka_unit_test(every_position_draws_anew),
        cmocka_unit_test(cache_reuse_changes_nothing),
        cmocka_unit_test(stop_string_is_held_back),
        cmocka_unit_test(cancel_ends_at_the_next_step),
        cmocka_unit_test(context_is_never_shifted),
        cmocka_unit_test(pool_is_shared),
        cmocka_unit_test(bad_requests),
        cmocka_unit_test(logit_bias_and_penalties),
        cmocka_unit_test(penalties_look_back_so_far),
    };
    return cmocka_run_group_tests_name("sessions", tests, NULL, NULL);
}
