// SPDX-License-Identifier: Apache-2.0
// Requests with a grammar: whatever a random model draws follows it, drafts change nothing, ends are told as what they
// are, and a refused grammar leaves the session as it was.
//   grammar --bench MODEL   what masks cost on a vocabulary, per token of answers that follow typical schemas
#include "tests/model/model_test.h"

#include <jansson.h>
#include <time.h>

#include "engine/model/session.h"

#define MODEL "tests/golden/tiny-llama.gguf"

struct answer {
    char text[1 << 16];
    size_t n;
    unsigned n_ends;
    bool failed;
    struct hearth_error error;
    struct hearth_usage usage;
};

static void on_event(void *user, const struct hearth_event *event)
{
    struct answer *a = user;
    if (event->type == HEARTH_EVENT_TEXT) {
        assert_true(a->n + event->len_bytes < sizeof a->text);
        memcpy(a->text + a->n, event->text, event->len_bytes);
        a->n += event->len_bytes;
    }
    if (event->type == HEARTH_EVENT_DONE || event->type == HEARTH_EVENT_FAILED) {
        a->n_ends++;
        a->failed = event->type == HEARTH_EVENT_FAILED;
        a->usage = *event->usage;
        if (a->failed)
            a->error = *event->error;
    }
}

static struct answer result;

static struct hearth_request request_with(const char *grammar, bool schema, uint64_t seed)
{
    static const int32_t prompt[] = {50, 51, 52, 53, 54};
    struct hearth_request r = {.ids = prompt,
                               .n_ids = 5,
                               .max_tokens = 400,
                               .grammar = grammar,
                               .grammar_len_bytes = strlen(grammar),
                               .grammar_type = schema ? HEARTH_GRAMMAR_JSON_SCHEMA : HEARTH_GRAMMAR_GBNF,
                               .on_event = on_event,
                               .user = &result};
    hearth_sampling_default(&r.sampling);
    r.sampling.temperature = 2;
    r.sampling.top_k = 0;
    r.sampling.top_p = 1;
    r.sampling.min_p = 0;
    r.sampling.seed = seed;
    result = (struct answer){.n = 0};
    return r;
}

static void ask(struct hearth_engine *engine, struct hearth_session *session, const struct hearth_request *r)
{
    struct hearth_error err;
    must(hearth_session_submit(session, r, &err), &err);
    unsigned busy = 1;
    while (busy)
        must(hearth_engine_step(engine, &busy, &err), &err);
    assert_int_equal(result.n_ends, 1);
    result.text[result.n] = 0;
}

static struct hearth_engine *engine_of(unsigned n_ctx)
{
    return open_engine((struct hearth_engine_params){.model_path = MODEL, .device = "cpu", .n_ctx = n_ctx});
}

// ---- what is drawn

static void random_answers_follow_the_schema(void **state)
{
    (void)state;
    static const char *const schemas[] = {
        ("{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\",\"minimum\":-5,\"maximum\":20},"
         "\"b\":{\"type\":\"string\",\"maxLength\":12}},\"required\":[\"a\",\"b\"]}"),
        "{\"type\":\"array\",\"items\":{\"type\":\"boolean\"},\"minItems\":3,\"maxItems\":5}",
        "{\"enum\":[\"red\",\"green\",3,null]}",
        "{\"type\":\"number\"}",
    };
    struct hearth_engine *engine = engine_of(1024);
    struct hearth_session *session = new_session(engine);
    unsigned n_whole = 0;
    for (unsigned i = 0; i < 160; i++) {
        struct hearth_request r = request_with(schemas[i % 4], true, i);
        ask(engine, session, &r);
        assert_false(result.failed);
        json_t *value = json_loadb(result.text, result.n, JSON_DECODE_ANY, NULL);
        if (result.usage.stop == HEARTH_STOP_END && !value)
            fail_msg("seed %u: %s", i, result.text);
        n_whole += value != NULL;
        if (value && i % 4 == 0) {
            json_int_t a = json_integer_value(json_object_get(value, "a"));
            assert_true(a >= -5 && a <= 20 && json_is_integer(json_object_get(value, "a")));
            assert_true(json_is_string(json_object_get(value, "b")));
        }
        if (value && i % 4 == 1)
            assert_true(json_array_size(value) >= 3 && json_array_size(value) <= 5);
        json_decref(value);
    }
    assert_true(n_whole > 150);
    hearth_engine_close(&engine);
}

// The same with and without proposals, drawn and greedy, and some proposals are taken.
static void drafts_change_nothing(void **state)
{
    (void)state;
    static const char *const grammars[] = {"root ::= (\"abc, \" | \"abd, \"){4,30} \".\"",
                                           "root ::= \"[\" x (\", \" x){10,40} \"]\"\nx ::= \"1\" [0-3]{1,2}",
                                           "root ::= ([a-c]{3} \"\\n\"){5,20}"};
    struct hearth_engine *engine = engine_of(1024);
    struct hearth_session *session = new_session(engine);
    unsigned n_taken = 0;
    for (unsigned i = 0; i < 36; i++) {
        struct hearth_request r = request_with(grammars[i % 3], false, i);
        r.max_tokens = i % 4 ? 200 : 37;
        r.sampling.temperature = i % 2 ? 0.5f : 0;
        ask(engine, session, &r);
        struct answer plain = result;
        for (unsigned max_draft = 1; max_draft <= 7; max_draft += 3) {
            result = (struct answer){.n = 0};
            r.max_draft = max_draft;
            ask(engine, session, &r);
            assert_string_equal(result.text, plain.text);
            assert_int_equal(result.usage.stop, plain.usage.stop);
            assert_int_equal(result.usage.completion_tokens, plain.usage.completion_tokens);
            n_taken += result.usage.accepted_tokens;
        }
    }
    assert_true(n_taken > 100);
    hearth_engine_close(&engine);
}

// Each output row has the mask of its own session, drafts and all.
static void sessions_together_answer_as_alone(void **state)
{
    (void)state;
    static const char *const grammars[] = {"root ::= (\"abc, \" | \"abd, \"){4,12} \".\"",
                                           "root ::= [0-9]{30}", NULL, "root ::= ([a-c]{3} \"\\n\"){5,12}"};
    static struct answer alone[4], together[4];
    struct hearth_engine *engine = open_engine((struct hearth_engine_params){
        .model_path = MODEL, .device = "cpu", .n_ctx = 1024, .max_sessions = 4});
    struct hearth_session *sessions[4];
    struct hearth_request requests[4];
    struct hearth_error err;
    for (unsigned i = 0; i < 4; i++) {
        sessions[i] = new_session(engine);
        requests[i] = request_with(grammars[i] ? grammars[i] : "", false, i);
        if (!grammars[i])
            requests[i].grammar = NULL;
        requests[i].max_tokens = 40;
        requests[i].max_draft = 7;
        requests[i].sampling.temperature = 0.7f;
        ask(engine, sessions[i], &requests[i]);
        alone[i] = result;
        together[i] = (struct answer){.n = 0};
        requests[i].user = &together[i];
    }
    unsigned busy = 1;
    for (unsigned i = 0; i < 4; i++)
        must(hearth_session_submit(sessions[i], &requests[i], &err), &err);
    while (busy)
        must(hearth_engine_step(engine, &busy, &err), &err);
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(together[i].n, alone[i].n);
        assert_memory_equal(together[i].text, alone[i].text, alone[i].n);
        assert_int_equal(together[i].usage.stop, alone[i].usage.stop);
    }
    hearth_engine_close(&engine);
}

static void ends_are_told_as_what_they_are(void **state)
{
    (void)state;
    struct hearth_engine *engine = engine_of(1024);
    struct hearth_session *session = new_session(engine);
    const char *stop = "b";
    struct hearth_request r = request_with("root ::= \"abc\"", false, 1);
    ask(engine, session, &r);
    assert_string_equal(result.text, "abc"); // and no step more for the end token
    assert_int_equal(result.usage.stop, HEARTH_STOP_END);
    assert_true(result.usage.completion_tokens <= 3);

    r = request_with("root ::= \"abc\"", false, 1);
    r.stop = &stop;
    r.n_stop = 1;
    ask(engine, session, &r);
    assert_string_equal(result.text, "a");
    assert_int_equal(result.usage.stop, HEARTH_STOP_STRING);

    r = request_with("root ::= \"x\"{2000}", false, 1);
    r.max_tokens = 4;
    ask(engine, session, &r);
    assert_int_equal(result.usage.stop, HEARTH_STOP_MAX_TOKENS);
    assert_int_equal(result.usage.completion_tokens, 4);

    r = request_with("root ::= \"x\"{1,3}", false,
                     7); // also where ends are ignored, a grammar's end is an end
    r.ignore_end = true;
    ask(engine, session, &r);
    assert_int_equal(result.usage.stop, HEARTH_STOP_END);
    assert_true(strspn(result.text, "x") == result.n && result.n >= 1 && result.n <= 3);
    assert_int_equal(result.usage.completion_tokens, result.n);

    r = request_with("root ::= [a]{3}", false, 1); // complete with the last token that it may have
    r.max_tokens = 3;
    ask(engine, session, &r);
    assert_int_equal(result.usage.stop, HEARTH_STOP_END);

    r = request_with("root ::= \"\"", false, 1); // nothing may follow from the first
    ask(engine, session, &r);
    assert_int_equal(result.usage.stop, HEARTH_STOP_END);
    assert_int_equal(result.n, 0);
    assert_int_equal(hearth_session_length(session), r.n_ids - 1); // the last one was not computed
    hearth_engine_close(&engine);
}

static void a_grammar_that_cannot_go_on_fails_the_request(void **state)
{
    (void)state;
    struct hearth_engine *engine = engine_of(1024);
    struct hearth_session *session = new_session(engine);
    struct hearth_error err;
    int32_t open;
    size_t n;
    must(hearth_tokenize(engine, "(", 1, 0, &open, 1, &n, &err), &err);
    const struct hearth_logit_bias bias = {open, 1000};
    // Each bracket goes eleven rules down.
    const char *deep = "root ::= \"(\" \"-\" a \")\" | \"x\"\na ::= b \" \"\nb ::= c \" \"\nc ::= d \" \"\n"
                       "d ::= e \" \"\ne ::= f \" \"\nf ::= g \" \"\ng ::= h \" \"\nh ::= i \" \"\n"
                       "i ::= j \" \"\nj ::= root \" \"";
    struct hearth_request r = request_with(deep, false, 1);
    r.max_tokens = 0;
    r.sampling.logit_bias = &bias;
    r.sampling.n_logit_bias = 1;
    ask(engine, session, &r);
    if (!result.failed)
        fail_msg("stop %d after %zu bytes: %.60s", result.usage.stop, result.n, result.text);
    assert_int_equal(result.error.code, HEARTH_LIMIT);
    assert_non_null(strstr(result.error.text, "nested more than"));
    r = request_with("root ::= \"ok\"", false, 1); // the session goes on
    ask(engine, session, &r);
    assert_string_equal(result.text, "ok");
    hearth_engine_close(&engine);
}

static void refused_grammars_change_nothing(void **state)
{
    (void)state;
    struct hearth_engine *engine = engine_of(512);
    struct hearth_session *session = new_session(engine);
    struct hearth_request good = request_with("root ::= [ab]{20}", false, 3);
    ask(engine, session, &good);
    char first[64];
    memcpy(first, result.text, sizeof first);
    struct hearth_error err;
    struct hearth_request r = request_with("root ::= \"", false, 3);
    assert_int_equal(hearth_session_submit(session, &r, &err), HEARTH_INVALID);
    r = request_with("{\"not\":{}}", true, 3);
    assert_int_equal(hearth_session_submit(session, &r, &err), HEARTH_UNSUPPORTED);
    r = request_with("root ::= \"a\"", false, 3);
    r.grammar_type = (enum hearth_grammar_type)7;
    assert_int_equal(hearth_session_submit(session, &r, &err), HEARTH_INVALID);
    r = request_with("root ::= \"a\"", false, 3);
    r.grammar_len_bytes = (size_t)300 << 10;
    assert_int_equal(hearth_session_submit(session, &r, &err), HEARTH_LIMIT);
    good = request_with("root ::= [ab]{20}", false, 3);
    ask(engine, session, &good);
    assert_string_equal(result.text, first);
    struct hearth_request running = request_with("root ::= [ab]{20}", false, 3);
    must(hearth_session_submit(session, &running, &err), &err);
    hearth_engine_close(&engine); // in the middle of an answer: its grammar goes too
}

// ---- what masks cost

static double now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e6 * (double)t.tv_sec + 1e-3 * (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int bench_one(struct hearth_engine *e, const char *name, const char *schema, const char *text)
{
    static double us[4096];
    static int32_t ids[4096];
    struct hearth_error err;
    struct ht_grammar *g;
    struct ht_matcher *m;
    enum ht_allowed allowed;
    uint32_t n_vocab = (uint32_t)ht_tokenizer_n_tokens(e->tokenizer),
             *mask = calloc(ht_mask_words(n_vocab), 4);
    size_t n;
    double begin = now_us();
    if (ht_grammar_from_json_schema(&g, schema, strlen(schema), &err) ||
        ht_matcher_create(&m, &g, e->trie, e->tokenizer, n_vocab, NULL, 0, &err) ||
        hearth_tokenize(e, text, strlen(text), 0, ids, 4096, &n, &err))
        return fprintf(stderr, "%s: %s\n", name, err.text), 1;
    double made = now_us() - begin, sum = 0;
    for (size_t i = 0; i < n; i++) {
        begin = now_us();
        if (ht_matcher_mask(m, NULL, 0, mask, &allowed, &err))
            return fprintf(stderr, "%s: %s\n", name, err.text), 1;
        us[i] = now_us() - begin;
        sum += us[i];
        if (!ht_matcher_take(m, ids[i]))
            return fprintf(stderr, "%s: token %zu of the text is not allowed\n", name, i), 1;
    }
    qsort(us, n, sizeof *us, by_value);
    printf("%-12s %4zu tokens: mask median %6.1f us, mean %6.1f, p95 %7.1f, max %7.1f; compiled in %5.0f us, "
           "%4.1f MiB\n",
           name, n, us[n / 2], sum / (double)n, us[n * 95 / 100], us[n - 1], made,
           (double)ht_matcher_size_bytes(m) / (1 << 20));
    ht_matcher_destroy(&m);
    free(mask);
    return 0;
}

static int bench(const char *path)
{
    struct hearth_engine *e;
    struct hearth_error err;
    if (hearth_engine_open(&e, &(struct hearth_engine_params){.model_path = path, .vocab_only = true}, &err))
        return fprintf(stderr, "%s\n", err.text), 1;
    double begin = now_us();
    if (ht_trie_create(&e->trie, e->tokenizer, &err))
        return fprintf(stderr, "%s\n", err.text), 1;
    printf("%s: %zu tokens, tree made in %.1f ms, %.1f MiB\n", path, ht_tokenizer_n_tokens(e->tokenizer),
           (now_us() - begin) / 1e3, (double)ht_trie_size_bytes(e->trie) / (1 << 20));
    int failed = bench_one(e, "person",
                           "{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\"},\"age\":{"
                           "\"type\":\"integer\",\"minimum\":0,"
                           "\"maximum\":130},\"hobbies\":{\"type\":\"array\",\"items\":{\"type\":\"string\"}}"
                           ",\"note\":{\"type\":\"string\"}},"
                           "\"required\":[\"name\",\"age\"]}",
                           "{\"name\": \"Anna Maria Schmidt\", \"age\": 34, \"hobbies\": [\"chess\", "
                           "\"rowing on the lake\", \"reading\"], "
                           "\"note\": \"She lives in a small house by the river and likes to cook for her "
                           "friends on Sunday evenings.\"}");
    failed |= bench_one(e, "any JSON", "{}",
                        "{\"id\": 1842, \"tags\": [\"new\", \"sale\"], \"price\": 19.95, \"stock\": "
                        "{\"berlin\": 4, \"paris\": 0}, "
                        "\"active\": true, \"description\": \"A warm blanket made of wool.\"}");
    failed |= bench_one(
        e, "limited",
        "{\"type\":\"object\",\"properties\":{\"title\":{\"type\":\"string\",\"maxLength\":80},\"kind\":{"
        "\"enum\":[\"bug\","
        "\"feature\",\"question\"]},\"when\":{\"type\":\"string\",\"format\":\"date\"},\"code\":{\"type\":"
        "\"string\","
        "\"pattern\":\"^[A-Z]{3}-[0-9]{4}$\"},\"score\":{\"type\":\"number\",\"minimum\":0,\"maximum\":1}},"
        "\"required\":[\"title\",\"kind\",\"when\",\"code\",\"score\"],\"additionalProperties\":false}",
        "{\"title\": \"The page does not load when the network is slow\", \"kind\": \"bug\", \"when\": "
        "\"2024-03-17\", "
        "\"code\": \"NET-0042\", \"score\": 0.875}");
    hearth_engine_close(&e);
    return failed;
}

int main(int argc, char **argv)
{
    if (argc > 2 && !strcmp(argv[1], "--bench"))
        return bench(argv[2]);
    const struct CMUnitTest tests[] = {cmocka_unit_test(random_answers_follow_the_schema),
                                       cmocka_unit_test(drafts_change_nothing),
                                       cmocka_unit_test(sessions_together_answer_as_alone),
                                       cmocka_unit_test(ends_are_told_as_what_they_are),
                                       cmocka_unit_test(a_grammar_that_cannot_go_on_fails_the_request),
                                       cmocka_unit_test(refused_grammars_change_nothing)};
    return cmocka_run_group_tests_name("grammar", tests, NULL, NULL);
}
