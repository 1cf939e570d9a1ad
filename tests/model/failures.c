// SPDX-License-Identifier: Apache-2.0
// Every allocation of open, session and request fails once: a clear error, nothing leaked, nothing broken. A step
// allocates nothing at all. A request may end at any step. Mutated model files give an error or an answer, never a
// signal.
#include "tests/model/model_test.h"

#include <unistd.h>

#include "engine/model/session.h"
#include "tests/check/fault.h"

#define MODEL "tests/golden/tiny-qwen2-q4_1.gguf"

static void ignore_event(void *user, const struct hearth_event *event)
{
    *(int *)user += event->type == HEARTH_EVENT_DONE;
}

static const int32_t ids[] = {5, 6, 7, 8, 9, 5, 6, 7, 8, 9, 5, 6, 7, 8};
enum { N_IDS = sizeof ids / sizeof *ids };

static struct hearth_request small_request(int *n_done)
{
    struct hearth_request r = {.ids = ids,
                               .n_ids = N_IDS,
                               .max_tokens = 12,
                               .owner = 3,
                               .max_draft = 7,
                               .on_event = ignore_event,
                               .user = n_done,
                               .ignore_end = true};
    hearth_sampling_default(&r.sampling);
    return r;
}

// A schema whose reading takes every kind of memory that grammars take.
static const char schema[] =
    "{\"$defs\":{\"n\":{\"properties\":{\"v\":{\"pattern\":\"^[^a]x?\"},\"n\":{\"$ref\":\"#/$defs/n\"}},"
    "\"additionalProperties\":{\"enum\":[1.5,\"x\"]}}},"
    "\"allOf\":[{\"$ref\":\"#/$defs/n\"},{\"required\":[\"v\"]}]}";

// Open, session, messages, steps; the same with a grammar. Returns the first status that is not OK.
static enum hearth_status whole_life(struct hearth_error *err)
{
    struct hearth_engine *engine;
    struct hearth_session *session = NULL;
    struct hearth_engine_params params = {.model_path = MODEL, .device = "cpu", .n_ctx = 64, .n_threads = 1};
    enum hearth_status status = hearth_engine_open(&engine, &params, err);
    if (status == HEARTH_OK)
        status = hearth_session_create(engine, &session, err);
    int n_done = 0;
    struct hearth_request request = small_request(&n_done);
    const struct hearth_message hello = {.role = HEARTH_ROLE_USER, .text = "the thing", .len_bytes = 9};
    request.messages = &hello;
    request.n_messages = 1;
    for (int round = 0; round < 2; round++) {
        if (status == HEARTH_OK)
            status = hearth_session_submit(session, &request, err);
        for (unsigned busy = 1; status == HEARTH_OK && busy;) {
            unsigned long before = fault_memory_count();
            status = hearth_engine_step(engine, &busy, err);
            assert_int_equal(fault_memory_count(), before); // a step allocates nothing
        }
        if (status == HEARTH_OK)
            assert_int_equal(n_done, round + 1);
        request.grammar = schema;
        request.grammar_len_bytes = strlen(schema);
        request.grammar_type = HEARTH_GRAMMAR_JSON_SCHEMA;
    }
    hearth_session_destroy(&session);
    hearth_engine_close(&engine);
    assert_null(engine);
    return status;
}

static void every_allocation_fails_once(void **state)
{
    (void)state;
    struct hearth_error err;
    unsigned long n;
    fault_memory_begin(0);
    assert_int_equal(whole_life(&err), HEARTH_OK);
    assert_int_equal(fault_memory_end(&n), 0);
    assert_true(n > 20);
    for (unsigned long i = 1; i <= n; i++) {
        fault_memory_begin(i);
        enum hearth_status status = whole_life(&err);
        if (status != HEARTH_NOMEM)
            fail_msg("allocation %lu of %lu failed, and the answer was %s", i, n, hearth_status_text(status));
        assert_true(strlen(err.text) > 5);
        long left = fault_memory_end(NULL);
        if (left)
            fail_msg("allocation %lu of %lu failed, and %ld blocks were left behind", i, n, left);
    }
}

// ---- mutants

static uint32_t random_state = 12345;
static uint32_t random_bits(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    random_state ^= random_state << 5;
    return random_state;
}

static void answer_a_little(struct hearth_engine *engine)
{
    struct hearth_session *session = NULL;
    struct hearth_error err;
    int n_done = 0;
    struct hearth_request request = small_request(&n_done);
    if (hearth_session_create(engine, &session, &err) == HEARTH_OK &&
        hearth_session_submit(session, &request, &err) == HEARTH_OK)
        for (unsigned busy = 1; busy && hearth_engine_step(engine, &busy, &err) == HEARTH_OK;)
            ;
    hearth_session_destroy(&session);
}

enum { N_MUTANTS = 10000 };

static size_t read_model(const char *path, unsigned char *data, size_t capacity)
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    size_t n = fread(data, 1, capacity, f);
    fclose(f);
    assert_true(n > 10000 && n < capacity);
    return n;
}

// Mostly the header, where everything is decided; 1 to 4 bytes; now and then the end is missing.
static size_t mutate(unsigned char *data, size_t n)
{
    for (uint32_t k = 0, changes = random_bits() % 2 ? 1 : 1 + random_bits() % 4; k < changes; k++)
        data[random_bits() % (random_bits() % 8 ? 9000 : n)] =
            (unsigned char)(random_bits() % 3 ? random_bits() : 255);
    return random_bits() % 16 ? n : random_bits() % n;
}

static void mutants_are_refused_or_answer(void **state)
{
    (void)state;
    static const char *const models[] = {MODEL, "tests/golden/tiny-llama.gguf",
                                         "tests/golden/tiny-llama-q8_0.gguf", "tests/golden/tiny-gemma3.gguf",
                                         "tests/golden/tiny-qwen3.gguf"};
    static unsigned char data[1 << 20];
    char path[] = "/tmp/hearth-mutant-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    const char *seed = getenv("HEARTH_TEST_SEED"); // make test-long sets it
    if (seed)
        random_state = (uint32_t)strtoul(seed, NULL, 10) | 1;
    int opened = 0, refused = 0;
    for (int i = 0; i < N_MUTANTS; i++) {
        size_t length = mutate(data, read_model(models[i % 5], data, sizeof data));
        assert_int_equal(ftruncate(fd, 0), 0);
        assert_int_equal(pwrite(fd, data, length, 0), length);
        struct hearth_engine *engine;
        struct hearth_error err = {.text = ""};
        struct hearth_engine_params params = {
            .model_path = path, .device = "cpu", .n_ctx = 64, .n_threads = 1};
        enum hearth_status status = hearth_engine_open(&engine, &params, &err);
        if (status == HEARTH_OK) {
            opened++;
            answer_a_little(engine);
        } else {
            refused++;
            assert_null(engine);
            assert_true(strlen(err.text) > 5);
        }
        hearth_engine_close(&engine);
    }
    close(fd);
    unlink(path);
    print_message("%d mutants: %d answer, %d are refused\n", N_MUTANTS, opened, refused);
    assert_true(opened > N_MUTANTS / 30 && refused > N_MUTANTS / 30); // both ways are really taken
}

// ---- a request ends at any step: cancelled, or its session destroyed

struct crowd {
    struct hearth_engine *engine;
    struct hearth_session *sessions[4];
    int n_done[4];
};

static void crowd_begin(struct crowd *c)
{
    struct hearth_error err;
    *c = (struct crowd){.engine = open_engine((struct hearth_engine_params){
                            .model_path = MODEL, .device = "cpu", .n_ctx = 256, .max_sessions = 4, .n_threads = 1})};
    for (int i = 0; i < 4; i++) {
        struct hearth_request r = small_request(&c->n_done[i]);
        r.owner = (uint64_t)i / 2; // two of nobody's, two of one owner
        r.max_tokens = 12 + 4 * (unsigned)i;
        c->sessions[i] = new_session(c->engine);
        must(hearth_session_submit(c->sessions[i], &r, &err), &err);
    }
}

// All ended exactly once, nothing is held, and a new request is served.
static void crowd_end(struct crowd *c, int without)
{
    struct hearth_error err;
    unsigned busy = 1;
    for (int i = 0; busy; i++) {
        must(hearth_engine_step(c->engine, &busy, &err), &err);
        assert_true(i < 100);
    }
    for (int i = 0; i < 4; i++)
        assert_int_equal(c->n_done[i], i != without);
    for (uint32_t i = 0; i < c->engine->fair.n_shares; i++)
        assert_int_equal(c->engine->fair.shares[i].n_running, 0);
    for (int i = 0; i < 4; i++)
        hearth_session_destroy(&c->sessions[i]);
    const struct ht_pages *pages = &c->engine->ctx.pages;
    assert_int_equal(pages->n_free + pages->n_idle, pages->n_pages);
    answer_a_little(c->engine);
    hearth_engine_close(&c->engine);
}

static void ended_at_any_step(void **state)
{
    (void)state;
    struct hearth_error err;
    unsigned busy = 1;
    struct crowd c;
    for (int at = 0; busy; at++)
        for (int who = 0; who < 4; who++)
            for (int destroy = 0; destroy < 2; destroy++) {
                crowd_begin(&c);
                for (int i = 0; i < at; i++)
                    must(hearth_engine_step(c.engine, &busy, &err), &err);
                int before = c.n_done[who];
                if (destroy)
                    hearth_session_destroy(&c.sessions[who]);
                else
                    hearth_session_cancel(c.sessions[who]);
                crowd_end(&c, destroy && !before ? who : -1);
            }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_allocation_fails_once),
                                       cmocka_unit_test(ended_at_any_step),
                                       cmocka_unit_test(mutants_are_refused_or_answer)};
    return cmocka_run_group_tests_name("failures", tests, NULL, NULL);
}
