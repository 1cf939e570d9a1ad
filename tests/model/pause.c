// SPDX-License-Identifier: Apache-2.0
// A paused answer goes on as if nothing had been: the same bytes, pieces and ids, drawn, guessed ahead and bound by a
// grammar, in its prompt and in its text, whether its pages are found again or computed. Every end works in a pause.
#include "engine/learn/adapter.h"
#include "tests/model/prefix_test.h"

enum { N_PROMPT = 150, N_ANSWER = 60, POOL = 2048, N_OTHER = 400, OWNER = 7, OTHER = 8, N_KINDS = 6 };

struct told {
    struct answer answer;
    unsigned n_texts, n_ends, prompt_done;
    int32_t ids[N_ANSWER];
    size_t n_ids;
};

static void on_told(void *user, const struct hearth_event *event)
{
    struct told *t = user;
    assert_int_equal(t->n_ends, 0);
    on_event(&t->answer, event);
    t->n_texts += event->type == HEARTH_EVENT_TEXT;
    t->n_ends += t->answer.ended;
    if (event->type == HEARTH_EVENT_PROMPT) { // always further, never twice
        assert_true(event->prompt_done > t->prompt_done && event->prompt_done <= event->prompt_total);
        t->prompt_done = event->prompt_done;
    }
}

static struct hearth_request request_of(struct told *told, unsigned kind, uint64_t owner)
{
    static const char grammar[] = "root ::= ([a-m] [n-z] \"-\"){30}";
    static const char *const stops[] = {"-\xff", "nothing like that"};
    struct hearth_request r = request_for(&told->answer, some_ids(1), N_PROMPT, owner);
    memset(told, 0, sizeof *told);
    r.on_event = on_told;
    r.user = told;
    r.max_tokens = N_ANSWER;
    r.sampling.seed = kind;
    r.sampling.temperature = kind ? 1 : 0;
    r.max_draft = kind >= 2 ? 7 : 0;
    r.stop = stops;
    r.n_stop = 2;
    if (kind == 3) {
        r.sampling.repeat_penalty = 1.3f;
        r.sampling.frequency_penalty = 0.2f;
        r.sampling.penalty_last_n = 90;
    }
    if (kind >= 4) {
        r.grammar = grammar;
        r.grammar_len_bytes = sizeof grammar - 1;
        r.max_draft = kind == 4 ? 0 : 7;
    }
    return r;
}

static void step(struct hearth_engine *engine)
{
    struct hearth_error err;
    unsigned busy;
    must(hearth_engine_step(engine, &busy, &err), &err);
}

static void submit(struct hearth_session *s, const struct hearth_request *r)
{
    struct hearth_error err;
    must(hearth_session_submit(s, r, &err), &err);
}

// Somebody who answers, so that a prompt comes in chunks.
static struct hearth_session *begin_beside(struct hearth_engine *engine)
{
    static struct answer beside;
    struct hearth_session *s = new_session(engine);
    struct hearth_request r = request_for(&beside, some_ids(2), 20, 0);
    r.max_tokens = 0;
    submit(s, &r);
    step(engine);
    return s;
}

// One step alone must not move it, and its pages are other people's.
static void pause_awhile(struct hearth_session *s, bool evict, unsigned round)
{
    static struct answer other;
    uint32_t n = s->n_tokens;
    hearth_session_pause(s);
    hearth_session_pause(s); // again: nothing
    check_cache(s->engine);
    assert_int_equal(hearth_session_length(s), 0);
    step(s->engine);
    for (unsigned i = 0; evict && i < POOL / N_OTHER + 1; i++) {
        struct hearth_session *thief = new_session(s->engine);
        struct hearth_request r = request_for(&other, some_ids(100 + 32 * round + 4 * i), N_OTHER, OTHER);
        r.max_tokens = 1;
        submit(thief, &r);
        while (!other.ended)
            step(s->engine);
        assert_false(other.failed);
        hearth_session_destroy(&thief);
    }
    assert_int_equal(s->n_tokens, n);
    hearth_session_resume(s);
    hearth_session_resume(s);
    check_cache(s->engine);
}

// Runs it to its end, `beside` (or NULL) as long as its prompt; a pause after every `every` tokens, and chunks of its
// prompt (0: none). Returns the pauses.
static unsigned run(struct hearth_session *s, struct hearth_session *beside, struct told *told, unsigned every,
                    bool evict)
{
    unsigned n_pauses = 0, at = 0;
    for (unsigned i = 0; !told->n_ends; i++) {
        step(s->engine);
        assert_true(i < 5000);
        if (beside && s->n_tokens > s->n_prompt)
            hearth_session_cancel(beside);
        unsigned now = s->prompt_told + s->n_tokens - s->n_prompt;
        if (told->n_ends || !every || now < at + every)
            continue;
        at = now;
        pause_awhile(s, evict, n_pauses++);
    }
    assert_false(told->answer.failed);
    told->n_ids = hearth_session_last_ids(s, told->ids, N_ANSWER);
    check_cache(s->engine);
    return n_pauses;
}

static void same(const struct told *want, const struct told *got)
{
    same_answer(&want->answer, &got->answer);
    assert_int_equal(got->n_texts, want->n_texts);
    assert_int_equal(got->n_ids, want->n_ids);
    assert_memory_equal(got->ids, want->ids, want->n_ids * sizeof *want->ids);
    assert_int_equal(got->prompt_done, want->prompt_done);
    assert_int_equal(got->answer.usage.stop, want->answer.usage.stop);
    assert_int_equal(got->answer.usage.prompt_tokens, want->answer.usage.prompt_tokens);
    assert_int_equal(got->answer.usage.cached_tokens, want->answer.usage.cached_tokens);
    assert_int_equal(got->answer.usage.completion_tokens, want->answer.usage.completion_tokens);
}

static void compare(const char *model, enum hearth_kv_type kv, unsigned every, bool evict)
{
    static struct told want, got;
    struct hearth_engine *engine = open_engine((struct hearth_engine_params){
        .model_path = model, .device = "cpu", .max_sessions = 3, .n_ctx = POOL, .n_threads = 2, .kv = kv});
    for (unsigned kind = 0; kind < N_KINDS; kind++)
        for (uint64_t owner = 0; owner <= OWNER; owner += OWNER) {
            struct hearth_session *beside = begin_beside(engine), *s = new_session(engine);
            struct hearth_request r = request_of(&want, kind, owner);
            submit(s, &r);
            run(s, beside, &want, 0, false);
            hearth_session_destroy(&s);
            hearth_engine_forget(engine, 0);
            r = request_of(&got, kind, owner);
            s = new_session(engine);
            submit(s, &r);
            unsigned n_pauses = run(s, beside, &got, every, evict); // in its prompt, and behind it
            assert_true(n_pauses >= 2 + (want.n_ids > 8 + every));
            same(&want, &got);
            hearth_session_destroy(&s);
            hearth_session_destroy(&beside);
            hearth_engine_forget(engine, 0);
        }
    hearth_engine_close(&engine);
}

static void a_paused_answer_is_the_same(void **state)
{
    (void)state;
    compare(MODEL, HEARTH_KV_F16, 2, false);
    compare(MODEL, HEARTH_KV_F16, 9, true);
    compare(MODEL, HEARTH_KV_Q8, 5, true);
    compare(CHAT_MODEL, HEARTH_KV_F16, 5, false);
    compare(CHAT_MODEL, HEARTH_KV_F16, 11, true);
}

// ---- adapters

static unsigned load_adapter(struct hearth_engine *engine, uint32_t seed)
{
    struct hearth_adapter *a;
    struct hearth_error err;
    const struct ht_adapter_spec spec = {.linears = (1 << HT_N_MATRICES) - 1, .rank = 4, .alpha = 2};
    unsigned id;
    must(ht_adapter_create(&a, &engine->model.hp, &spec, &err), &err);
    for (size_t i = 0; i < a->n_values; i++) {
        seed = seed * 1664525u + 1013904223u;
        a->values[i] = 0.3f * (float)((int32_t)(seed >> 8) - (1 << 23)) * 0x1p-23f;
    }
    must(hearth_engine_adapter_load(engine, &(struct hearth_adapter_use){a, 1}, 1, NULL, &id, &err), &err);
    hearth_adapter_close(&a);
    return id;
}

// Pauses it after every `every` tokens; the first time its adapter is dropped and others come and answer meanwhile, in
// every place but its own.
static void run_and_drop(struct hearth_session *s, struct told *told, unsigned adapter, unsigned every)
{
    static struct answer other;
    struct hearth_error err;
    unsigned n_others = 0, others[HEARTH_MAX_ADAPTERS];
    for (unsigned at = 0, i = 0; !told->n_ends; i++) {
        step(s->engine);
        assert_true(i < 5000);
        if (told->n_ends || s->n_tokens < s->n_prompt + at + every)
            continue;
        at = s->n_tokens - s->n_prompt;
        hearth_session_pause(s);
        if (!n_others) {
            must(hearth_engine_adapter_drop(s->engine, adapter, &err), &err);
            for (; n_others < HEARTH_MAX_ADAPTERS - 1; n_others++)
                others[n_others] = load_adapter(s->engine, 1000 + n_others);
        }
        struct hearth_session *thief = new_session(s->engine);
        struct hearth_request r = request_for(&other, some_ids(2), N_OTHER, OTHER);
        r.adapter = others[at % n_others];
        r.max_tokens = 1;
        submit(thief, &r);
        while (!other.ended)
            step(s->engine);
        hearth_session_destroy(&thief);
        hearth_session_resume(s);
    }
    assert_false(told->answer.failed);
    told->n_ids = hearth_session_last_ids(s, told->ids, N_ANSWER);
    for (unsigned i = 0; i < n_others; i++)
        must(hearth_engine_adapter_drop(s->engine, others[i], &err), &err);
}

static void a_paused_answer_keeps_its_adapter(void **state)
{
    (void)state;
    static struct told want, got, plain;
    for (unsigned kind = 0; kind < N_KINDS; kind++) {
        struct hearth_engine *engine = engine_for(3, 768, HEARTH_KV_F16, NULL);
        unsigned id = load_adapter(engine, 1);
        struct hearth_session *s = new_session(engine);
        struct hearth_request r = request_of(&plain, kind, OWNER);
        submit(s, &r);
        run(s, NULL, &plain, 0, false);
        r = request_of(&want, kind, OWNER);
        r.adapter = id;
        submit(s, &r);
        run(s, NULL, &want, 0, false);
        hearth_session_destroy(&s);
        hearth_engine_forget(engine, 0);
        r = request_of(&got, kind, OWNER);
        r.adapter = id;
        s = new_session(engine);
        submit(s, &r);
        run_and_drop(s, &got, id, 3);
        same(&want, &got);
        assert_true(plain.n_ids != want.n_ids || memcmp(plain.ids, want.ids, want.n_ids * sizeof *want.ids));
        for (unsigned i = 0; i < HEARTH_MAX_ADAPTERS; i++) // its place is free again
            (void)load_adapter(engine, i);
        hearth_engine_close(&engine);
    }
}

// What was computed before a pause is not computed again where the pages are still there.
static void pages_are_found_again(void **state)
{
    (void)state;
    static struct told told;
    struct hearth_engine *engine = engine_for(2, POOL, HEARTH_KV_F16, NULL);
    struct hearth_session *s = new_session(engine);
    struct hearth_request r = request_of(&told, 1, OWNER);
    submit(s, &r);
    for (int i = 0; i < 10; i++)
        step(engine);
    uint32_t n = hearth_session_length(s);
    hearth_session_pause(s);
    struct hearth_engine_info info;
    hearth_engine_get_info(engine, &info);
    assert_int_equal(info.n_pages_used, 0); // all of them are anybody's
    hearth_session_resume(s);
    assert_int_equal(hearth_session_length(s), n);
    assert_int_equal(s->phase, HT_DECODE);
    pause_awhile(s, true, 1);
    assert_true(hearth_session_length(s) < n);
    run(s, NULL, &told, 0, false);
    hearth_engine_close(&engine);
}

static void every_end_works_in_a_pause(void **state)
{
    (void)state;
    static struct told told;
    struct hearth_error err;
    struct hearth_engine *engine = engine_for(2, POOL, HEARTH_KV_F16, NULL);
    struct hearth_session *s = new_session(engine);
    unsigned busy;
    for (int n = 0; n < 2; n++) { // before its first token, and behind it
        struct hearth_request r = request_of(&told, 1, OWNER);
        submit(s, &r);
        for (int i = 0; i < 8 * n; i++)
            step(engine);
        hearth_session_pause(s);
        must(hearth_engine_step(engine, &busy, &err), &err);
        assert_int_equal(busy, 0);
        assert_int_equal(told.n_ends, 0);
        assert_int_equal(hearth_session_submit(s, &r, &err), HEARTH_BUSY);
        assert_int_equal(hearth_session_truncate(s, 0, &err), HEARTH_INVALID);
        hearth_session_cancel(s);
        step(engine);
        assert_int_equal(told.n_ends, 1);
        assert_int_equal(told.answer.usage.stop, HEARTH_STOP_CANCELLED);
        assert_int_equal(hearth_session_last_ids(s, told.ids, N_ANSWER), told.answer.usage.completion_tokens);
        hearth_session_resume(s); // too late: nothing
        assert_int_equal(s->phase, HT_IDLE);
    }
    struct hearth_request r = request_of(&told, 1, OWNER);
    submit(s, &r);
    step(engine);
    hearth_session_pause(s);
    hearth_session_destroy(&s); // the share that it had was left
    check_cache(engine);
    for (uint32_t i = 0; i < engine->fair.n_shares; i++)
        assert_int_equal(engine->fair.shares[i].n_running, 0);
    hearth_engine_close(&engine);
}

// A full pool ends an answer that goes on after a pause as it ends any other: with what it has.
static void a_full_pool_ends_it_with_its_text(void **state)
{
    (void)state;
    static struct told told;
    static struct answer other;
    struct hearth_engine *engine = engine_for(2, 256, HEARTH_KV_F16, NULL);
    struct hearth_session *s = new_session(engine), *full = new_session(engine);
    struct hearth_request r = request_of(&told, 1, OWNER);
    submit(s, &r);
    for (int i = 0; i < 10; i++)
        step(engine);
    size_t n = told.answer.n;
    hearth_session_pause(s);
    r = request_for(&other, some_ids(3), 200, OTHER);
    r.max_tokens = 0;
    submit(full, &r);
    step(engine);
    hearth_session_resume(s);
    for (int i = 0; i < 20 && !told.n_ends; i++)
        step(engine);
    assert_false(told.answer.failed);
    assert_int_equal(told.answer.usage.stop, HEARTH_STOP_CONTEXT_FULL);
    assert_true(told.answer.n >= n && n > 0);
    hearth_engine_close(&engine);
}

// What was deleted while an answer was paused does not come into the cache when it is computed again.
static void what_is_forgotten_in_a_pause_stays_so(void **state)
{
    (void)state;
    static struct told told;
    static struct answer again;
    for (int late = 0; late < 2; late++) { // forgotten before the pause, and in it
        struct hearth_engine *engine = engine_for(2, POOL, HEARTH_KV_F16, NULL);
        struct hearth_session *s = new_session(engine);
        struct hearth_request r = request_of(&told, 1, OWNER);
        submit(s, &r);
        for (int i = 0; i < 10; i++)
            step(engine);
        if (!late)
            hearth_engine_forget(engine, OWNER);
        hearth_session_pause(s);
        if (late)
            hearth_engine_forget(engine, OWNER);
        hearth_session_resume(s);
        assert_int_equal(hearth_session_length(s), 0);
        run(s, NULL, &told, 0, false);
        hearth_session_destroy(&s);
        ask_once(engine, &again, some_ids(1), N_PROMPT, OWNER);
        assert_int_equal(again.usage.cached_tokens, 0);
        hearth_engine_close(&engine);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_paused_answer_is_the_same),
        cmocka_unit_test(a_paused_answer_keeps_its_adapter),
        cmocka_unit_test(pages_are_found_again),
        cmocka_unit_test(every_end_works_in_a_pause),
        cmocka_unit_test(a_full_pool_ends_it_with_its_text),
        cmocka_unit_test(what_is_forgotten_in_a_pause_stays_so),
    };
    return cmocka_run_group_tests_name("pause", tests, set_up, tear_down);
}
