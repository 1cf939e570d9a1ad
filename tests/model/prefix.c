// SPDX-License-Identifier: Apache-2.0
// The prefix cache: what is found again gives the bits of what is computed, nobody finds another owner's pages,
// pages in use are never written, the pool is never more than full, chains stay whole under eviction.
#include "tests/model/prefix_test.h"

// ---- the same bits

static void same_bits_for(enum hearth_kv_type kv, const char *isa)
{
    static const size_t chunks[] = {0, 1, 7, 32};
    static struct answer first, again;
    const int32_t *ids = some_ids(1);
    struct hearth_engine *plain = engine_for(1, 512, kv, "ref"), *engine;
    struct hearth_session *s = new_session(plain);
    struct hearth_engine_info info;
    struct hearth_error err;
    hearth_engine_get_info(plain, &info);
    float *want = eval_ids(s, plain, ids, 150, 0);
    hearth_engine_close(&plain);
    struct hearth_engine_params params = {.model_path = MODEL,
                                          .device = "cpu",
                                          .max_sessions = 2,
                                          .n_ctx = 512,
                                          .kv = kv,
                                          .exact = kv == HEARTH_KV_F32,
                                          .cpu_isa = isa};
    enum hearth_status status = hearth_engine_open(&engine, &params, &err);
    if (status == HEARTH_UNSUPPORTED && isa) {
        free(want);
        return; // an instruction set that this CPU lacks
    }
    must(status, &err);
    ask_once(engine, &first, ids, 130, 7);
    assert_int_equal(first.usage.cached_tokens, 0);
    for (size_t c = 0; c < sizeof chunks / sizeof chunks[0]; c++) {
        s = new_session(engine);
        ask(s, &again, ids, 130, 7);
        assert_int_equal(again.usage.cached_tokens, 129); // four pages, and the leaf that begins the same
        same_answer(&first, &again);
        must(hearth_session_truncate(s, 100, &err), &err); // in the middle of a page that the cache holds
        float *got = eval_ids(s, engine, ids + 100, 50, chunks[c]);
        assert_memory_equal(got, want + 100 * info.n_vocab, 50 * info.n_vocab * sizeof *got);
        free(got);
        hearth_session_destroy(&s);
        check_cache(engine);
    }
    free(want);
    hearth_engine_close(&engine);
}

static void what_is_found_gives_the_same_bits(void **state)
{
    (void)state;
    static const char *const isas[] = {"ref", "avx2", NULL};
    for (int i = 0; i < 3; i++) {
        same_bits_for(HEARTH_KV_F16, isas[i]);
        same_bits_for(HEARTH_KV_Q8, isas[i]);
        same_bits_for(HEARTH_KV_F32, isas[i]);
    }
}

// All comes back but the last token of a prompt, which always runs: full pages, and the beginning of one more.
static void how_much_is_found(void **state)
{
    (void)state;
    static struct answer a;
    struct hearth_engine *engine = engine_for(2, 1024, HEARTH_KV_F16, NULL);
    const int32_t *ids = some_ids(2);
    static const struct {
        size_t n;
        unsigned cached;
    } cases[] = {{100, 99}, {97, 96}, {96, 95}, {65, 64}, {33, 32}, {32, 31}, {1, 0}};
    ask_once(engine, &a, ids, 120, 1);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ask_once(engine, &a, ids, cases[i].n, 1);
        assert_int_equal(a.usage.cached_tokens, cases[i].cached);
    }
    // What was generated is found too: 120 + 6 tokens, the last of them never computed.
    int32_t longer[MAX_IDS];
    struct hearth_session *s = new_session(engine);
    ask(s, &a, ids, 123, 1);
    memcpy(longer, ids, 123 * sizeof *ids);
    assert_int_equal(hearth_session_last_ids(s, longer + 123, 6), 6);
    hearth_session_destroy(&s);
    memcpy(longer + 129, ids, 11 * sizeof *ids);
    ask_once(engine, &a, longer, 140, 1);
    assert_int_equal(a.usage.cached_tokens, 128);
    // Ids that differ in the third page only.
    memcpy(longer, ids, 120 * sizeof *ids);
    longer[70] = (longer[70] + 1) % 256;
    ask_once(engine, &a, longer, 120, 1);
    assert_int_equal(a.usage.cached_tokens, 70);
    // What a session is cut by is found, also where it is cut between two pages.
    struct hearth_error err;
    const int32_t *other = some_ids(9);
    s = new_session(engine);
    ask(s, &a, other, 80, 1);
    must(hearth_session_truncate(s, 64, &err), &err);
    ask_once(engine, &a, other, 80, 1);
    assert_int_equal(a.usage.cached_tokens, 79);
    hearth_engine_close(&engine);
}

static void ask_for_one(struct hearth_engine *engine, const int32_t *ids, size_t n)
{
    static struct answer a;
    struct hearth_error err;
    struct hearth_session *s = new_session(engine);
    struct hearth_request r = request_for(&a, ids, n, 1);
    r.max_tokens = 1; // never computed: the cache holds the prompt
    must(hearth_session_submit(s, &r, &err), &err);
    run_all(engine);
    hearth_session_destroy(&s);
    check_cache(engine);
}

// The end of a chain that a longer one holds too makes room; one that is not a part of it stays.
static void an_end_that_is_covered_goes(void **state)
{
    (void)state;
    static struct answer a;
    struct hearth_engine *engine = engine_for(1, 1024, HEARTH_KV_F16, NULL);
    const struct ht_pages *pages = &engine->ctx.pages;
    const int32_t *ids = some_ids(1);
    int32_t branch[60];
    memcpy(branch, ids, 45 * sizeof *branch);
    memcpy(branch + 45, some_ids(2), 15 * sizeof *branch);
    ask_for_one(engine, ids, 40);
    assert_int_equal(pages->n_idle, 2);
    ask_for_one(engine, ids, 50);
    assert_int_equal(pages->n_idle, 2);
    ask_for_one(engine, branch, 60);
    assert_int_equal(pages->n_idle, 3);
    ask_for_one(engine, ids, 70);
    assert_int_equal(pages->n_idle, 4);
    ask_once(engine, &a, branch, 60, 1);
    assert_int_equal(a.usage.cached_tokens, 59);
    hearth_engine_close(&engine);
}

// In a pause another session may compute all that the paused one knows: its last id still runs, for its logits.
static void a_pause_finds_all_but_the_last(void **state)
{
    (void)state;
    static struct answer a, b, fresh;
    struct hearth_engine *engine = engine_for(3, 1024, HEARTH_KV_F16, NULL);
    const int32_t *ids = some_ids(3);
    struct hearth_error err;
    ask_once(engine, &fresh, ids, 60, 2);
    struct hearth_session *s = new_session(engine), *t = new_session(engine);
    struct hearth_request r = request_for(&a, ids, 60, 1);
    must(hearth_session_submit(s, &r, &err), &err);
    hearth_session_pause(s);
    ask(t, &b, ids, 100, 1);
    hearth_session_resume(s);
    assert_int_equal(hearth_session_length(s), 59);
    run_all(engine);
    assert_true(a.ended && !a.failed);
    same_answer(&a, &fresh);
    check_cache(engine);
    hearth_engine_close(&engine);
}

// Of its own cache and the common one a session takes the longer.
static void a_session_takes_the_longer_chain(void **state)
{
    (void)state;
    static struct answer a, b;
    struct hearth_engine *engine = engine_for(3, 1024, HEARTH_KV_F16, NULL);
    const int32_t *ids = some_ids(3);
    struct hearth_session *s = new_session(engine), *t = new_session(engine);
    ask(s, &a, ids, 70, 1);
    ask(s, &b, ids, 90, 1);
    assert_int_equal(b.usage.cached_tokens, 70); // its own: more than two full pages
    ask(t, &a, ids, 200, 1);
    assert_int_equal(a.usage.cached_tokens, 90); // what the first one holds beyond its pages, too
    assert_int_equal(s->pages[0], t->pages[0]);
    ask(s, &b, ids, 200, 1); // 90 of its own, 199 of the other's, which still holds them
    assert_int_equal(b.usage.cached_tokens, 199);
    same_answer(&a, &b);
    // Two that compute the same together end up with the same pages.
    struct hearth_error err;
    const int32_t *other = some_ids(5);
    struct hearth_request r = request_for(&a, other, 100, 1), q = request_for(&b, other, 100, 1);
    must(hearth_session_submit(s, &r, &err), &err);
    must(hearth_session_submit(t, &q, &err), &err);
    run_all(engine);
    ht_engine_publish(engine, 1, NULL);
    assert_int_equal(a.usage.cached_tokens + b.usage.cached_tokens, 0);
    for (int i = 0; i < 3; i++)
        assert_int_equal(s->pages[i], t->pages[i]);
    check_cache(engine);
    hearth_engine_close(&engine);
}

// ---- who may find what

static void owners_do_not_meet(void **state)
{
    (void)state;
    static struct answer a;
    struct hearth_engine *engine = engine_for(2, 2048, HEARTH_KV_F16, NULL);
    const int32_t *ids = some_ids(4);
    ask_once(engine, &a, ids, 100, 1);
    ask_once(engine, &a, ids, 100, 2);
    assert_int_equal(a.usage.cached_tokens, 0);
    ask_once(engine, &a, ids, 100, 0);
    assert_int_equal(a.usage.cached_tokens, 0);
    ask_once(engine, &a, ids, 100, 0); // nobody's is nobody's
    assert_int_equal(a.usage.cached_tokens, 0);
    ask_once(engine, &a, ids, 100, 1);
    assert_int_equal(a.usage.cached_tokens, 99);
    // One session, two owners: nothing of the first is left for the second.
    struct hearth_session *s = new_session(engine);
    ask(s, &a, ids, 90, 3);
    ask(s, &a, ids, 90, 4);
    assert_int_equal(a.usage.cached_tokens, 0);
    ask(s, &a, ids, 90, 3);
    assert_int_equal(a.usage.cached_tokens, 89);
    ask(s, &a, ids, 90, 0);
    assert_int_equal(a.usage.cached_tokens, 0);
    ask(s, &a, ids, 90, 0); // its own cache it keeps
    assert_int_equal(a.usage.cached_tokens, 89);
    for (int i = 0; i < 2; i++) { // less than a page
        ask_once(engine, &a, some_ids(5), 20, 0);
        assert_int_equal(a.usage.cached_tokens, 0);
    }
    hearth_engine_close(&engine);
}

static char system_text[400];

static void chat_in(struct hearth_session *s, struct answer *a, const char *system, const char *question,
                    uint64_t owner, size_t n_shared)
{
    struct hearth_engine *engine = s->engine;
    struct hearth_error err;
    const struct hearth_message messages[] = {
        {.role = HEARTH_ROLE_USER, .text = system, .len_bytes = strlen(system)},
        {.role = HEARTH_ROLE_ASSISTANT, .text = "yes", .len_bytes = 3},
        {.role = HEARTH_ROLE_USER, .text = question, .len_bytes = strlen(question)},
    };
    struct hearth_request r = request_for(a, NULL, 0, owner);
    r.messages = messages;
    r.n_messages = 3;
    r.n_shared = n_shared;
    must(hearth_session_submit(s, &r, &err), &err);
    run_all(engine);
    assert_true(a->ended && !a->failed);
    check_cache(engine);
}

static void chat(struct hearth_engine *engine, struct answer *a, const char *system, const char *question,
                 uint64_t owner, size_t n_shared)
{
    struct hearth_session *s = new_session(engine);
    chat_in(s, a, system, question, owner, n_shared);
    hearth_session_destroy(&s);
    check_cache(engine);
}

// Pages of the shared messages are found by everybody; the page that a person's first word lies in by that person.
static void shared_messages_are_found_by_all(void **state)
{
    (void)state;
    static struct answer a, fresh;
    struct hearth_engine *engine = open_engine((struct hearth_engine_params){
        .model_path = CHAT_MODEL, .device = "cpu", .max_sessions = 1, .n_ctx = 4096});
    for (size_t i = 0; i + 1 < sizeof system_text; i++)
        system_text[i] = "the thing is red. "[i % 18];
    static char question[200];
    memset(question, 'x', sizeof question - 1);
    chat(engine, &fresh, system_text, question, 1, 2);
    assert_int_equal(fresh.usage.cached_tokens, 0);
    chat(engine, &a, system_text, question, 2, 2);
    unsigned shared = a.usage.cached_tokens;
    same_answer(&a, &fresh);
    assert_true(shared >= 2 * PAGE && shared % PAGE == 0);
    assert_true(shared + 2 * PAGE < fresh.usage.prompt_tokens); // the question is longer than two pages
    chat(engine, &a, system_text, question, 0, 0);
    assert_int_equal(a.usage.cached_tokens, shared);
    chat(engine, &a, system_text, question, 1, 2);
    assert_int_equal(a.usage.cached_tokens, fresh.usage.prompt_tokens - 1);
    // Not said to be shared: only that owner's. The template's first tokens are everybody's.
    system_text[0] = 'T';
    chat(engine, &a, system_text, question, 1, 0);
    unsigned template = a.usage.cached_tokens;
    assert_in_range(template, 1, 6);
    chat(engine, &a, system_text, question, 2, 2);
    assert_int_equal(a.usage.cached_tokens, template);
    hearth_engine_close(&engine);
}

// What was a person's own is not followed by what everybody finds; nor is what is computed after a cut.
static void what_is_shared_is_said_each_time(void **state)
{
    (void)state;
    static struct answer a;
    struct hearth_error err;
    struct hearth_engine *engine = open_engine((struct hearth_engine_params){
        .model_path = CHAT_MODEL, .device = "cpu", .max_sessions = 2, .n_ctx = 4096});
    const struct ht_prefix *prefix = &engine->ctx.prefix;
    struct hearth_session *s = new_session(engine);
    for (size_t i = 0; i + 1 < sizeof system_text; i++)
        system_text[i] = "the thing is blue. "[i % 19];
    chat_in(s, &a, system_text, "why", 1, 0);
    char longer[2 * sizeof system_text];
    snprintf(longer, sizeof longer, "%s%s", system_text, system_text);
    chat_in(s, &a, longer, "why", 1, 2);
    assert_true(s->n_listed > 4);
    hearth_engine_forget(engine, 1);
    check_cache(engine);
    hearth_session_destroy(&s);
    s = new_session(engine);
    chat_in(s, &a, system_text, "why", 2, 2);
    ht_engine_publish(engine, 2, NULL);
    assert_int_equal(prefix->nodes[s->pages[1]].key.owner, 0);
    must(hearth_session_truncate(s, PAGE, &err), &err);
    float *logits = eval_ids(s, engine, some_ids(3), 2 * PAGE, 0);
    free(logits);
    ht_engine_publish(engine, 2, NULL);
    check_cache(engine);
    assert_int_equal(prefix->nodes[s->pages[0]].key.owner, 0);
    assert_int_equal(prefix->nodes[s->pages[1]].key.owner, 2);
    hearth_engine_close(&engine);
}

static void forgetting(void **state)
{
    (void)state;
    static struct answer a;
    struct hearth_engine *engine = engine_for(3, 2048, HEARTH_KV_F16, NULL);
    const int32_t *ids = some_ids(6);
    ask_once(engine, &a, ids, 100, 1);
    ask_once(engine, &a, ids, 100, 2);
    hearth_engine_forget(engine, 1);
    check_cache(engine);
    for (uint32_t p = 0; p < engine->ctx.pages.n_pages; p++) // the ids are gone too
        assert_int_not_equal(engine->ctx.prefix.nodes[p].key.owner, 1);
    ask_once(engine, &a, ids, 100, 2);
    assert_int_equal(a.usage.cached_tokens, 99);
    ask_once(engine, &a, ids, 100, 1);
    assert_int_equal(a.usage.cached_tokens, 0);
    // A session keeps what it holds, but it does not get into the cache any more, nor what is added to it.
    struct hearth_session *s = new_session(engine), *t = new_session(engine);
    ask(s, &a, ids, 100, 1);
    ask(t, &a, ids, 100, 1);
    assert_int_equal(s->pages[0], t->pages[0]);
    hearth_engine_forget(engine, 1);
    check_cache(engine);
    ask(s, &a, ids, 150, 1);
    assert_int_equal(a.usage.cached_tokens, 100);
    ask_once(engine, &a, ids, 100, 1);
    assert_int_equal(a.usage.cached_tokens, 0);
    hearth_engine_forget(engine, 1);
    struct hearth_error err; // still held by both: who writes into it takes a copy
    must(hearth_session_truncate(s, 40, &err), &err);
    float *logits = eval_ids(s, engine, some_ids(7), 20, 0);
    free(logits);
    assert_int_not_equal(s->pages[1], t->pages[1]);
    check_cache(engine);
    hearth_session_destroy(&s);
    hearth_session_destroy(&t);
    check_cache(engine);
    ask_once(engine, &a, ids, 100, 1);
    assert_int_equal(a.usage.cached_tokens, 0);
    s = new_session(engine); // less than a page, too
    ask(s, &a, some_ids(5), 20, 1);
    hearth_engine_forget(engine, 1);
    hearth_session_destroy(&s);
    ask_once(engine, &a, some_ids(5), 20, 1);
    assert_int_equal(a.usage.cached_tokens, 0);
    // A session that was emptied begins anew.
    s = new_session(engine);
    ask(s, &a, ids, 20, 1);
    hearth_engine_forget(engine, 0);
    assert_int_equal(engine->ctx.pages.n_idle, 0);
    ask(s, &a, ids, 100, 1);
    must(hearth_session_truncate(s, 0, &err), &err);
    assert_int_equal(engine->ctx.pages.n_idle, 0);
    ask(s, &a, ids, 100, 1);
    must(hearth_session_truncate(s, 0, &err), &err);
    assert_int_equal(engine->ctx.pages.n_idle, 4);
    hearth_engine_close(&engine);
}

// ---- pages in use are never written

// Ids that leave the given ones in the middle of the second page.
static const int32_t *ids_that_leave(const int32_t *ids)
{
    static int32_t branch[120];
    memcpy(branch, ids, 50 * sizeof *branch);
    memcpy(branch + 50, some_ids(9), 70 * sizeof *branch);
    return branch;
}

static void a_shared_page_is_never_written(void **state)
{
    (void)state;
    static struct answer a, b, fresh;
    struct hearth_engine *engine = engine_for(3, 1024, HEARTH_KV_F16, NULL);
    const int32_t *ids = some_ids(8), *branch = ids_that_leave(ids);
    struct hearth_session *s = new_session(engine), *t = new_session(engine);
    ask(s, &a, ids, 120, 1);
    ask(t, &b, ids, 120, 1);
    assert_int_equal(s->pages[1], t->pages[1]);
    static unsigned char before[1 << 20], after[1 << 20];
    struct hearth_error err;
    must(engine->dev->kv_page_read(engine->device, engine->ctx.kv, s->pages[1], before, &err), &err);
    ask(t, &b, branch, 120, 1); // leaves the common way in the middle of the second page
    assert_int_equal(b.usage.cached_tokens, 50);
    assert_int_equal(s->pages[0], t->pages[0]);
    assert_int_not_equal(s->pages[1], t->pages[1]);
    must(engine->dev->kv_page_read(engine->device, engine->ctx.kv, s->pages[1], after, &err), &err);
    assert_memory_equal(before, after, engine->ctx.kv_bytes / engine->ctx.pages.n_pages);
    ask_once(engine, &fresh, branch, 120, 2);
    same_answer(&b, &fresh);
    ask(s, &b, ids, 120, 1);
    same_answer(&a, &b);
    hearth_engine_close(&engine);
}

// Nor is one that its only session leaves in the middle: others may look for what it was.
static void a_listed_page_is_never_written(void **state)
{
    (void)state;
    static struct answer first, away, back;
    struct hearth_engine *engine = engine_for(3, 1024, HEARTH_KV_F16, NULL);
    const int32_t *ids = some_ids(8), *branch = ids_that_leave(ids);
    struct hearth_session *s = new_session(engine), *t = new_session(engine);
    ask(s, &first, ids, 120, 1);
    ask(s, &away, branch, 120, 1);
    assert_int_equal(away.usage.cached_tokens, 50);
    ask(t, &back, ids, 120, 1);
    assert_true(back.usage.cached_tokens > 50);
    same_answer(&first, &back);
    hearth_engine_close(&engine);
}

// The pool is full of what sessions hold: there is no page for a copy.
static void no_page_for_a_copy(void **state)
{
    (void)state;
    static struct answer a, fresh;
    struct hearth_engine *engine = engine_for(1, 4 * PAGE, HEARTH_KV_F16, NULL);
    struct hearth_session *s = new_session(engine);
    struct hearth_error err;
    const int32_t *ids = some_ids(10), *other = some_ids(11);
    int32_t branch[120];
    memcpy(branch, ids, sizeof branch);
    memcpy(branch + 100, other, 20 * sizeof *branch);
    ask(s, &a, ids, 122, 1);
    ht_engine_publish(engine, 1, NULL);
    assert_int_equal(engine->ctx.pages.n_free + engine->ctx.pages.n_idle, 0);
    ask(s, &a, branch, 120, 1); // only it holds the page: written in place, and no longer in the cache
    assert_int_equal(a.usage.cached_tokens, 100);
    ask(s, &fresh, ids, 122, 1);
    assert_int_equal(fresh.usage.cached_tokens, 100);
    ask(s, &a, branch, 120, 1);
    hearth_session_destroy(&s);
    ask_once(engine, &fresh, branch, 120, 2);
    same_answer(&a, &fresh);
    hearth_engine_close(&engine);
    // Two hold the page and a third has the rest: the session gives the page up, and finds no room.
    engine = engine_for(3, 4 * PAGE, HEARTH_KV_F16, NULL); // six pages
    struct hearth_session *t = new_session(engine), *u = new_session(engine);
    s = new_session(engine);
    static struct answer third;
    ask(s, &a, ids, 91, 1);
    ask(t, &fresh, ids, 91, 1); // 96 positions: three full pages
    float *logits = eval_ids(u, engine, other, 96, 0);
    free(logits);
    assert_int_equal(engine->ctx.pages.n_free + engine->ctx.pages.n_idle, 0);
    memcpy(branch + 40, other, 20 * sizeof *branch);
    struct hearth_request r = request_for(&third, branch, 55, 1);
    must(hearth_session_submit(s, &r, &err), &err);
    run_all(engine);
    check_cache(engine);
    assert_true(third.ended && third.failed);
    assert_int_equal(third.usage.cached_tokens, PAGE);
    ask(t, &third, ids, 91, 1);
    same_answer(&third, &a);
    hearth_session_destroy(&u);
    ask(s, &third, branch, 55, 1);
    ask_once(engine, &fresh, branch, 55, 2);
    same_answer(&third, &fresh);
    hearth_engine_close(&engine);
}

// ---- room

// More conversations than the pool holds: the least recently used go, and of a chain its end first.
static void eviction_takes_the_oldest_end(void **state)
{
    (void)state;
    static struct answer a;
    struct hearth_engine *engine = engine_for(1, 10 * PAGE, HEARTH_KV_F16, NULL);
    ask_once(engine, &a, some_ids(12), 3 * PAGE + 1, 1);
    ask_once(engine, &a, some_ids(13), 3 * PAGE + 1, 1);
    assert_int_equal(engine->ctx.pages.n_free, 2);
    ask_once(engine, &a, some_ids(12), 3 * PAGE + 1, 1); // used again: the other one is the oldest now
    assert_int_equal(a.usage.cached_tokens, 3 * PAGE);
    ask_once(engine, &a, some_ids(14), 3 * PAGE + 1, 1); // wants four pages: two free, two evicted
    ask_once(engine, &a, some_ids(12), 3 * PAGE + 1, 1);
    assert_int_equal(a.usage.cached_tokens, 3 * PAGE);
    ask_once(engine, &a, some_ids(13), 3 * PAGE + 1, 1);
    assert_int_equal(a.usage.cached_tokens, PAGE);
    hearth_engine_close(&engine);
}

// Random requests of several owners and sessions in a pool that is too small for them: answers are those of an engine
// without a cache, and the tables are right after every one.
static void many_requests_in_a_small_pool(void **state)
{
    (void)state;
    static struct answer a, want;
    struct hearth_engine *engine = engine_for(3, 12 * PAGE, HEARTH_KV_F16, NULL),
                         *plain = engine_for(1, 12 * PAGE, HEARTH_KV_F16, NULL);
    struct hearth_session *s[3] = {new_session(engine), new_session(engine), new_session(engine)};
    struct hearth_error err;
    uint32_t random = 99;
    unsigned n_cached = 0, n_failed = 0;
    int32_t ids[MAX_IDS];
    for (int i = 0; i < 300; i++) {
        random = random * 1664525u + 1013904223u;
        unsigned which = random >> 30, from = random >> 8 & 127, n = 20 + (random >> 15 & 127),
                 k = random >> 22 & 3;
        memcpy(ids, some_ids(1 + (random >> 28 & 1)), sizeof ids);
        if (from > 40)
            memcpy(ids + from, some_ids(7), (MAX_IDS - from) * sizeof *ids);
        if (k == 3) { // one goes, or forgets, or is cut
            struct hearth_session **victim = &s[random % 3];
            if (which == 0)
                hearth_engine_forget(engine, random & 1);
            else if (which == 1)
                must(hearth_session_truncate(*victim, from, &err), &err);
            else {
                hearth_session_destroy(victim);
                *victim = new_session(engine);
            }
            check_cache(engine);
            continue;
        }
        struct hearth_request r = request_for(&a, ids, n, which);
        r.max_tokens = 3;
        must(hearth_session_submit(s[k], &r, &err), &err);
        run_all(engine);
        check_cache(engine);
        n_failed += a.failed;
        n_cached += a.usage.cached_tokens > 0;
        struct hearth_session *fresh = new_session(plain);
        r = request_for(&want, ids, n, 0);
        r.max_tokens = 3;
        must(hearth_session_submit(fresh, &r, &err), &err);
        run_all(plain);
        hearth_session_destroy(&fresh);
        if (!a.failed && a.usage.stop == HEARTH_STOP_MAX_TOKENS)
            same_answer(&a, &want);
    }
    assert_true(n_cached > 50);
    assert_true(n_failed < 150);
    hearth_engine_close(&engine);
    hearth_engine_close(&plain);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_found_gives_the_same_bits), cmocka_unit_test(how_much_is_found),
        cmocka_unit_test(a_session_takes_the_longer_chain),  cmocka_unit_test(owners_do_not_meet),
        cmocka_unit_test(a_pause_finds_all_but_the_last),
        cmocka_unit_test(an_end_that_is_covered_goes),       cmocka_unit_test(what_is_shared_is_said_each_time),
        cmocka_unit_test(shared_messages_are_found_by_all),  cmocka_unit_test(forgetting),
        cmocka_unit_test(a_shared_page_is_never_written),    cmocka_unit_test(a_listed_page_is_never_written),
        cmocka_unit_test(no_page_for_a_copy),
        cmocka_unit_test(eviction_takes_the_oldest_end),     cmocka_unit_test(many_requests_in_a_small_pool),
    };
    return cmocka_run_group_tests_name("prefix", tests, set_up, tear_down);
}
