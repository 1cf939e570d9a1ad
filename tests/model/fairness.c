// SPDX-License-Identifier: Apache-2.0
// Owners share the steps: a flood delays nobody's question, whoever reads an answer goes on reading, nobody starves,
// and nothing of this changes an answer. Steps are counted, never time.
#include "tests/model/model_test.h"

#include "engine/model/fair.h"
#include "engine/model/session.h"

#define MODEL "tests/golden/tiny-llama-q8_0.gguf"
enum { N_LONG = 120, N_SHORT = 10, MAX_ANSWERS = 64, ANNA = 1, BEN = 2 };

struct answer {
    struct hearth_session *session;
    uint64_t owner;
    char text[1024];
    size_t n;
    unsigned prompt_done;
    unsigned first_step, end_step; // 0 = not yet
};
static struct answer answers[MAX_ANSWERS];
static unsigned n_answers, step, ended_in_order[MAX_ANSWERS], n_ended;

static void on_event(void *user, const struct hearth_event *event)
{
    struct answer *a = user;
    if (event->type == HEARTH_EVENT_PROMPT)
        a->prompt_done = event->prompt_done;
    if (event->type == HEARTH_EVENT_TEXT) {
        assert_true(a->n + event->len_bytes <= sizeof a->text);
        memcpy(a->text + a->n, event->text, event->len_bytes);
        a->n += event->len_bytes;
        a->first_step = a->first_step ? a->first_step : step;
    }
    assert_int_not_equal(event->type, HEARTH_EVENT_FAILED);
    if (event->type == HEARTH_EVENT_DONE) {
        a->end_step = step;
        ended_in_order[n_ended++] = (unsigned)(a - answers);
    }
}

static struct hearth_engine *begin(unsigned sessions)
{
    n_answers = step = n_ended = 0;
    memset(answers, 0, sizeof answers);
    return open_engine((struct hearth_engine_params){
        .model_path = MODEL, .device = "cpu", .max_sessions = sessions, .n_ctx = 128 * sessions});
}

// A question of n ids that nobody else asks, from the first on. Token 65 is the byte 'A': every token is a character at
// once.
static struct answer *ask(struct hearth_engine *engine, uint64_t owner, unsigned n, unsigned max_tokens)
{
    static const struct hearth_logit_bias bias[] = {{.token = 65, .bias = 500}, {.token = 66, .bias = 500}};
    struct answer *a = &answers[n_answers];
    int32_t ids[N_LONG];
    struct hearth_error err;
    for (unsigned i = 0; i < n; i++)
        ids[i] = (int32_t)(i ? (i * 7 + n_answers * 31) % 200 : n_answers);
    *a = (struct answer){.session = new_session(engine), .owner = owner};
    struct hearth_request r = {.ids = ids,
                               .n_ids = n,
                               .max_tokens = max_tokens,
                               .ignore_end = true,
                               .owner = owner,
                               .on_event = on_event,
                               .user = a};
    hearth_sampling_default(&r.sampling);
    r.sampling.temperature = 1;
    r.sampling.seed = n_answers++;
    r.sampling.logit_bias = bias;
    r.sampling.n_logit_bias = 2;
    must(hearth_session_submit(a->session, &r, &err), &err);
    return a;
}

static unsigned run_steps(struct hearth_engine *engine, unsigned n)
{
    unsigned busy = 1;
    struct hearth_error err;
    while (n-- && busy) {
        step++;
        must(hearth_engine_step(engine, &busy, &err), &err);
        assert_true(step < 5000);
    }
    return busy;
}

static void short_question_overtakes_a_flood(void **state)
{
    (void)state;
    struct hearth_engine *engine = begin(64);
    for (int i = 0; i < 60; i++)
        ask(engine, ANNA, N_LONG, 1);
    run_steps(engine, 3);
    struct answer *a = ask(engine, BEN, N_SHORT, 1);
    run_steps(engine, 2);
    assert_int_equal(a->end_step, 4); // the very next step
    assert_true(n_ended < 30);        // while most of the flood still waits
    run_steps(engine, UINT32_MAX);
    for (unsigned i = 0; i < n_answers; i++)
        assert_int_not_equal(answers[i].end_step, 0);
    assert_true(step <= 61 * N_LONG / 512 + 3); // and no step was given away
    for (unsigned i = 1; i < 60; i++)           // an owner's questions in the order they came
        assert_true(answers[i].end_step >= answers[i - 1].end_step);
    hearth_engine_close(&engine);
}

// Rows of prompts that were computed for an owner.
static unsigned rows_of(uint64_t owner)
{
    unsigned n = 0;
    for (unsigned i = 0; i < n_answers; i++)
        n += answers[i].owner == owner ? answers[i].prompt_done : 0;
    return n;
}

static void who_reads_goes_on_beside_a_flood(void **state)
{
    (void)state;
    struct hearth_engine *engine = begin(64);
    struct answer *reader = ask(engine, BEN, N_SHORT, 110);
    run_steps(engine, 1);
    for (int i = 0; i < 60; i++)
        ask(engine, ANNA, N_LONG, 1);
    for (int i = 0; i < 109; i++) {
        unsigned before = rows_of(ANNA);
        run_steps(engine, 1);
        assert_true(rows_of(ANNA) <= before + 64); // small chunks while somebody reads
    }
    assert_int_equal(reader->end_step, 110); // a token in every step
    // The flood had its head start of 1,024 rows, and then as much work as the reader, who was charged what steps of
    // one row cost; a chunk more at most.
    double charged = 110 * (double)(ht_step_cost(1) / HT_PROMPT_ROW_COST);
    assert_true(rows_of(ANNA) >= 1024 + charged - 2 * 64);
    assert_true(rows_of(ANNA) <= 1024 + charged + 64 + N_SHORT);
    run_steps(engine, UINT32_MAX);
    assert_int_equal(rows_of(ANNA), 60 * N_LONG);
    hearth_engine_close(&engine);
}

static void idling_saves_nothing(void **state)
{
    (void)state;
    struct hearth_engine *engine = begin(64);
    for (int i = 0; i < 20; i++)
        ask(engine, ANNA, N_LONG, 1);
    run_steps(engine, UINT32_MAX);
    for (int i = 0; i < 20; i++) {
        ask(engine, ANNA, N_LONG, 1);
        ask(engine, BEN, N_LONG, 1);
    }
    run_steps(engine, 4); // 2,048 rows
    unsigned of_anna = rows_of(ANNA) - 20 * N_LONG, of_ben = rows_of(BEN);
    assert_int_equal(of_anna + of_ben, 2048);
    assert_in_range(of_ben, 1024 - 512, 1024 + 512);
    run_steps(engine, UINT32_MAX);
    hearth_engine_close(&engine);
}

// Sixteen answers of one owner, one of another: he has a token in every step, the step stays within twice what his own
// would cost, and the sixteen take turns.
static void many_answers_take_turns(void **state)
{
    (void)state;
    struct hearth_engine *engine = begin(17);
    static char alone[2][1024];
    for (int i = 0; i < 16; i++)
        ask(engine, ANNA, N_SHORT, 60);
    run_steps(engine, UINT32_MAX);
    assert_int_equal(step, 60); // an owner's own answers all go on in each step
    for (int i = 0; i < 2; i++)
        memcpy(alone[i], answers[7 * i].text, answers[7 * i].n);
    hearth_engine_close(&engine);

    engine = begin(17);
    for (int i = 0; i < 16; i++)
        ask(engine, ANNA, N_SHORT, 60);
    struct answer *one = ask(engine, BEN, N_SHORT, 60);
    run_steps(engine, 1);
    while (!one->end_step) {
        unsigned least = UINT32_MAX, most = 0, sum = 0, before = 0;
        for (unsigned i = 0; i < n_answers; i++)
            before += hearth_session_length(answers[i].session);
        unsigned own = hearth_session_length(one->session);
        run_steps(engine, 1);
        for (int i = 0; i < 16; i++) {
            unsigned length = hearth_session_length(answers[i].session);
            least = length < least ? length : least;
            most = length > most ? length : most;
            sum += length;
        }
        assert_int_equal(hearth_session_length(one->session), own + 1);
        assert_true(most - least <= 1);
        unsigned rows = sum + own + 1 - before;
        assert_true(rows > 2 && ht_step_cost(rows) <= 2 * ht_step_cost(1));
    }
    run_steps(engine, UINT32_MAX);
    for (int i = 0; i < 16; i++)
        assert_int_equal(answers[i].n, 60);
    for (int i = 0; i < 2; i++)
        assert_memory_equal(answers[7 * i].text, alone[i], 60);
    hearth_engine_close(&engine);
}

static void without_an_owner_each_session_counts(void **state)
{
    (void)state;
    struct hearth_engine *engine = begin(17);
    for (int i = 0; i < 17; i++)
        ask(engine, 0, N_SHORT, 60);
    run_steps(engine, UINT32_MAX);
    assert_int_equal(step, 60);
    hearth_engine_close(&engine);

    engine = begin(6);
    for (int i = 0; i < 6; i++)
        ask(engine, 0, N_LONG, 1);
    run_steps(engine, 1);
    for (int i = 0; i < 5; i++) // 512 rows: four prompts, the rest to the fifth, and the sixth goes on next
        assert_int_equal(answers[i].prompt_done, i < 4 ? N_LONG : 512 - 4 * N_LONG);
    hearth_engine_close(&engine);
}

// A session that is closed in the middle of its turn holds nobody back, wherever it stood.
static void who_is_closed_has_no_share(void **state)
{
    (void)state;
    struct hearth_engine *engine = begin(4);
    const struct ht_fair *fair = &engine->fair;
    struct answer *reads = ask(engine, ANNA, N_SHORT, 60), *paused = ask(engine, ANNA, N_SHORT, 60);
    run_steps(engine, 3);
    hearth_session_pause(paused->session);
    struct answer *waits = ask(engine, BEN, N_LONG, 1), *stays = ask(engine, BEN, N_LONG, 1);
    hearth_session_destroy(&waits->session);
    hearth_session_destroy(&reads->session);
    hearth_session_destroy(&paused->session);
    uint32_t n_running = 0;
    for (uint32_t i = 0; i < fair->n_shares; i++)
        n_running += fair->shares[i].n_running;
    assert_int_equal(n_running, 1);
    run_steps(engine, UINT32_MAX);
    assert_int_equal(stays->prompt_done, N_LONG);
    for (uint32_t i = 0; i < fair->n_shares; i++)
        assert_int_equal(fair->shares[i].n_running, 0);
    hearth_engine_close(&engine);
}

// In the order they came, not in that of their sessions.
static void an_owners_questions_keep_their_order(void **state)
{
    (void)state;
    struct hearth_engine *engine = begin(8);
    struct hearth_session *first = new_session(engine);
    for (int i = 0; i < 6; i++)
        ask(engine, ANNA, N_LONG, 1);
    hearth_session_destroy(&first); // the last question is asked in the first place
    struct answer *last = ask(engine, ANNA, N_LONG, 1);
    run_steps(engine, 1);
    assert_int_equal(answers[0].prompt_done, N_LONG);
    assert_int_equal(last->prompt_done, 0);
    hearth_engine_close(&engine);
}

static void shares_are_kept(void **state)
{
    (void)state;
    struct ht_fair fair;
    struct hearth_error err;
    must(ht_fair_init(&fair, 2, &err), &err);
    uint32_t a = ht_fair_join(&fair, 7, 0), b = ht_fair_join(&fair, 8, 1);
    assert_int_not_equal(a, b);
    assert_int_equal(ht_fair_join(&fair, 7, 1), a); // a second request of the same owner
    ht_fair_leave(&fair, a);
    fair.shares[a].work = 500;
    fair.shares[b].work = 100;
    ht_fair_begin(&fair);
    assert_true(ht_fair_least_other(&fair, a) == 100);
    ht_fair_leave(&fair, a);
    assert_true(ht_fair_least_other(&fair, b) > 1e300);
    assert_true(fair.shares[ht_fair_join(&fair, 7, 0)].work == 500); // coming again forgives nothing
    ht_fair_leave(&fair, a);
    uint32_t c = ht_fair_join(&fair, 9, 0);
    assert_true(fair.shares[c].work == 100); // a newcomer begins where the least served stands
    ht_fair_leave(&fair, c);
    for (uint64_t owner = 10; owner < 30; owner++) // who is running is never forgotten
        ht_fair_leave(&fair, ht_fair_join(&fair, owner, 0));
    assert_true(fair.shares[b].owner == 8 && fair.shares[b].n_running == 1);
    assert_true(fair.shares[ht_fair_join(&fair, 7, 0)].work == 500); // nor who is far ahead
    ht_fair_deinit(&fair);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(short_question_overtakes_a_flood), cmocka_unit_test(who_reads_goes_on_beside_a_flood),
        cmocka_unit_test(idling_saves_nothing),             cmocka_unit_test(many_answers_take_turns),
        cmocka_unit_test(without_an_owner_each_session_counts), cmocka_unit_test(shares_are_kept),
        cmocka_unit_test(who_is_closed_has_no_share), cmocka_unit_test(an_owners_questions_keep_their_order),
    };
    return cmocka_run_group_tests_name("fairness", tests, NULL, NULL);
}
