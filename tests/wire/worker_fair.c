// SPDX-License-Identifier: Apache-2.0
// Whose question is next, with an engine of the tests: who is alone has everything, who comes new waits for nobody's
// whole answer, and paused answers lose and repeat nothing, however they end.
#include "tests/wire/worker_kit.h"

static unsigned events(char kind)
{
    unsigned n = 0;
    pthread_mutex_lock(&fake_lock);
    for (unsigned i = 0; i < fake_n; i++)
        n += fake_log[i].kind == kind;
    pthread_mutex_unlock(&fake_lock);
    return n;
}

// Where the n-th one stands, from 1 on.
static int fake_at(char kind, unsigned n)
{
    int at = -1;
    for (unsigned i = 0; i < n; i++)
        at = fake_find(kind, NULL, (unsigned)at + 1);
    return at;
}

static struct hd_worker_state state_now(void)
{
    struct hd_worker_state now;
    hd_worker_state(worker, &now);
    return now;
}

// n questions of one person that run already.
static void flood(unsigned n, unsigned n_tokens, struct hd_id *ids)
{
    for (unsigned i = 0; i < n; i++)
        assert_int_equal(ask(1, "", n_tokens, &ids[i]), HEARTH_OK);
    WAIT_FOR(seen.n_started >= n);
}

static void who_is_alone_has_every_place(void **state)
{
    (void)state;
    struct hd_id id[6];
    start(0);
    use("one");
    atomic_store(&fake_endless, true);
    for (int i = 0; i < 6; i++)
        assert_int_equal(ask(1, "", 60, &id[i]), HEARTH_OK);
    WAIT_FOR(seen.n_started == 4);
    assert_int_equal(seen.n_done, 0);
    assert_int_equal(state_now().active, 4);
    atomic_store(&fake_endless, false);
    WAIT_FOR(seen.n_done == 6);
    assert_int_equal(events('p'), 0);
}

static void a_flood_does_not_keep_another_waiting(void **state)
{
    (void)state;
    struct hd_id many[4], waits, other, third;
    start(0);
    use("one");
    atomic_store(&fake_endless, true);
    flood(4, 150, many);
    assert_int_equal(ask(1, "", 5, &waits), HEARTH_OK);
    assert_int_equal(ask(2, "", 100, &other), HEARTH_OK);
    WAIT_FOR(seen.n_started == 5);
    assert_int_equal(seen.n_done, 0); // it began beside the flood, at once
    assert_true(hd_id_equal(&seen.started[4], &other));
    struct hd_worker_state now = state_now();
    assert_int_equal(now.active, 4); // and one of the flood's stands still
    assert_int_equal(now.queued, 2);
    assert_int_equal(now.models[0].active + now.models[0].queued, 6);
    assert_int_equal(ask(3, "", 20, &third), HEARTH_OK);
    WAIT_FOR(seen.n_started == 6);
    assert_int_equal(seen.n_done, 0);
    assert_true(hd_id_equal(&seen.started[5], &third));
    atomic_store(&fake_endless, false);
    WAIT_FOR(seen.n_done == 7);
    assert_int_equal(events('p'), 2);
    assert_int_equal(events('r'), 2);
    assert_int_equal(events('a'), 7); // nothing was asked twice
    assert_int_equal(fake_most_active, 4);
    for (int i = 0; i < 4; i++)
        assert_int_equal(seen.n_text[many[i].b[0]], 150);
    assert_true(place_in(seen.started, 7, &waits) == 6); // paused ones went first
    now = state_now();
    assert_true(now.active == 0 && now.queued == 0);
}

static void long_questions_give_their_room_to_another(void **state)
{
    (void)state;
    struct hd_id id[3], other, more;
    config.n_ctx = 4096;
    start(0);
    use("one");
    atomic_store(&fake_endless, true);
    ask_messages = 120;
    flood(3, 100, id); // 3,900 of 4,096 positions
    ask_messages = 60;
    assert_int_equal(ask(2, "", 20, &other), HEARTH_OK);
    WAIT_FOR(seen.n_started == 4);
    assert_int_equal(seen.n_done, 0);
    ask_messages = 150; // the flood's two and this one do not fit, and it has one already
    assert_int_equal(ask(2, "", 20, &more), HEARTH_OK);
    usleep(30000);
    drain();
    assert_int_equal(seen.n_started, 4);
    assert_int_equal(events('p'), 1);
    atomic_store(&fake_endless, false);
    WAIT_FOR(seen.n_done == 5);
    assert_true(events('p') <= 2 && fake_most_taken <= 4096);
}

static void questions_that_fail_cost_their_person_a_turn(void **state)
{
    (void)state;
    struct hd_id first, id[4], other;
    config.n_ctx = 512;
    config.max_sessions = 1;
    start(0);
    use("one");
    atomic_store(&fake_endless, true);
    assert_int_equal(ask(3, "", 60, &first), HEARTH_OK);
    WAIT_FOR(seen.n_started == 1);
    ask_messages = 600; // beyond the context
    ask_whole = true;
    for (int i = 0; i < 4; i++)
        assert_int_equal(ask(1, "", 5, &id[i]), HEARTH_OK);
    ask_messages = 1;
    assert_int_equal(ask(2, "", 60, &other), HEARTH_OK);
    hd_worker_cancel(worker, &first);
    WAIT_FOR(seen.n_started == 2);
    assert_true(hd_id_equal(&seen.started[1], &other));
    assert_int_equal(seen.n_failed, 1);
    atomic_store(&fake_endless, false);
    WAIT_FOR(seen.n_failed == 4 && seen.n_done >= 2);
}

// Both have one: nobody's only answer stands still for a question, and a single one is as long as it is.
static void nobodys_last_answer_gives_way_to_a_question(void **state)
{
    (void)state;
    struct hd_id id[2], other;
    config.n_ctx = 1024;
    config.max_sessions = 2;
    start(0);
    use("one");
    atomic_store(&fake_step_us, 1000);
    ask_messages = 80;
    flood(1, 100, id);
    assert_int_equal(ask(2, "", 10, &other), HEARTH_OK);
    WAIT_FOR(seen.n_done == 2);
    assert_true(hd_id_equal(&seen.done[0], &id[0]));
    assert_int_equal(events('p'), 0);
}

static void answers_that_outgrow_the_pool_take_turns(void **state)
{
    (void)state;
    struct hd_id id[4];
    config.n_ctx = 640;
    start(0);
    use("one");
    for (unsigned char i = 0; i < 4; i++) // 10 + 500 positions each
        assert_int_equal(ask(1 + i / 2, "", 500, &id[i]), HEARTH_OK);
    WAIT_FOR(seen.n_done == 4);
    assert_int_equal(seen.n_failed, 0);
    assert_true(events('p') >= 3);
    assert_true(events('p') <= 12);
    assert_true(fake_most_taken <= 640);
    for (int i = 0; i < 4; i++)
        assert_int_equal(seen.n_text[id[i].b[0]], 500);
}

static void two_floods_do_not_pause_each_other(void **state)
{
    (void)state;
    struct hd_id id;
    start(0);
    use("one");
    atomic_store(&fake_endless, true);
    for (int i = 0; i < 20; i++)
        assert_int_equal(ask(1, "", 100, &id), HEARTH_OK);
    WAIT_FOR(seen.n_started == 4);
    for (int i = 0; i < 20; i++)
        assert_int_equal(ask(2, "", 100, &id), HEARTH_OK);
    atomic_store(&fake_endless, false);
    WAIT_FOR(seen.n_done == 40);
    assert_in_range(events('p'), 1, 4); // two in the beginning, and then each has two
}

// Short questions, one after the other, do not stop a flood's paused answers for ever.
static void a_paused_answer_gets_somewhere(void **state)
{
    (void)state;
    struct hd_id many[4], id;
    config.max_sessions = 2;
    start(0);
    use("one");
    atomic_store(&fake_step_us, 500);
    flood(2, 1500, many);
    unsigned n = 0;
    while (place_in(seen.done, seen.n_done, &many[1]) < 0 && n < 200) {
        assert_int_equal(ask(2, "", 1, &id), HEARTH_OK);
        unsigned n_done = seen.n_done;
        WAIT_FOR(seen.n_done > n_done);
        n++;
    }
    WAIT_FOR(place_in(seen.done, seen.n_done, &many[1]) >= 0);
    assert_true(events('p') > 3);
    assert_true(fake_least_run >= 32);
    assert_int_equal(seen.n_text[many[1].b[0]], 1500);
}

// Who has an answer that was paused and finds no room yet gets no room for later questions before it.
static void a_paused_answer_comes_before_later_questions(void **state)
{
    (void)state;
    struct hd_id first, large, other, late[3];
    config.n_ctx = 4096;
    start(0);
    use("one");
    atomic_store(&fake_endless, true);
    ask_messages = 200; // 2,000 positions and its answer's
    assert_int_equal(ask(1, "", 100, &large), HEARTH_OK);
    ask_messages = 100;
    assert_int_equal(ask(1, "", 100, &first), HEARTH_OK);
    WAIT_FOR(seen.n_started == 2);
    ask_messages = 150;
    assert_int_equal(ask(2, "", 100, &other), HEARTH_OK);
    WAIT_FOR(seen.n_started == 3);
    assert_int_equal(events('p'), 1); // the smaller one
    ask_messages = 1;
    for (int i = 0; i < 3; i++)
        assert_int_equal(ask(1, "", 20, &late[i]), HEARTH_OK);
    atomic_store(&fake_endless, false);
    WAIT_FOR(seen.n_started == 6);
    assert_int_equal(events('r'), 1);
    assert_true(fake_find('r', "one", 0) < fake_at('a', 4));
    WAIT_FOR(seen.n_done == 6);
}

// ---- ends of paused answers

// Four of one person's; the last is paused for another's. None ends while fake_endless is set.
static void pause_one(struct hd_id many[4], struct hd_id *other, unsigned n_tokens)
{
    use("one");
    atomic_store(&fake_endless, true);
    flood(4, n_tokens, many);
    assert_int_equal(ask(2, "", n_tokens, other), HEARTH_OK);
    WAIT_FOR(seen.n_started == 5);
    assert_int_equal(events('p'), 1);
    assert_int_equal(seen.n_done, 0);
}

static void a_paused_answer_can_be_cancelled(void **state)
{
    (void)state;
    struct hd_id many[4], other;
    start(0);
    pause_one(many, &other, 400);
    hd_worker_cancel(worker, &many[3]);
    WAIT_FOR(seen.n_done == 1);
    assert_true(hd_id_equal(&seen.done[0], &many[3])); // while it was paused
    assert_int_equal(events('r'), 0);
    struct hd_worker_state now = state_now();
    assert_int_equal(now.active, 4);
    assert_int_equal(now.queued, 0);
    hd_worker_cancel_all(worker);
    WAIT_FOR(seen.n_done == 5);
    usleep(20000);
    drain();
    assert_int_equal(seen.n_done, 5);
    now = state_now();
    assert_true(now.active == 0 && now.queued == 0);
}

// Its file is another one now, and is chosen again: what has begun on the old one ends there.
static void a_model_that_is_replaced_ends_its_paused_answer(void **state)
{
    (void)state;
    struct hd_id many[4], other, late;
    start(1);
    pause_one(many, &other, 200);
    write_model("one", "ok llama Q8_0 4096 20971520 1024 1048576");
    assert_int_equal(hd_worker_load(worker, path_of("one"), 6, &err), HEARTH_OK);
    assert_int_equal(ask(1, "", 5, &late), HEARTH_OK);
    atomic_store(&fake_endless, false);
    WAIT_FOR(seen.n_done == 6);
    assert_int_equal(seen.n_failed, 0);
    assert_int_equal(seen.load_tag, 6);
    assert_int_equal(place_in(seen.done, 6, &late), 5);
    assert_int_equal(seen.n_text[many[3].b[0]], 200);
    assert_true(fake_find('c', "one", 0) > fake_find('r', "one", 0));
    assert_true(fake_at('a', 6) > fake_at('o', 2)); // by the new one
}

static void cancelling_all_ends_paused_ones_too(void **state)
{
    (void)state;
    struct hd_id many[4], other;
    start(0);
    pause_one(many, &other, 400);
    hd_worker_cancel_all(worker);
    WAIT_FOR(seen.n_done == 5);
    for (int i = 0; i < 4; i++)
        assert_true(place_in(seen.done, 5, &many[i]) >= 0);
}

static void stopping_ends_a_paused_answer(void **state)
{
    (void)state;
    struct hd_id many[4], other;
    start(0);
    pause_one(many, &other, 4000);
    int64_t from_ms = now_ms();
    hd_worker_stop(&worker);
    assert_true(now_ms() - from_ms < 5000);
}

static void a_lost_engine_ends_a_paused_answer(void **state)
{
    (void)state;
    struct hd_id many[4], other;
    start(0);
    pause_one(many, &other, 4000);
    atomic_store(&fake_lost, true);
    WAIT_FOR(seen.n_failed == 5);
    struct hd_worker_state now = state_now();
    assert_true(now.active == 0 && now.queued == 0);
    atomic_store(&fake_endless, false);
    use("one");
    assert_int_equal(ask(1, "", 5, &other), HEARTH_OK);
    WAIT_FOR(seen.n_done == 1);
}

// Who leaves ends what has begun, paused ones too, and begins nothing.
static void a_model_that_leaves_ends_its_paused_answer(void **state)
{
    (void)state;
    struct hd_id many[4], other, two, late;
    config.memory_budget_mib = 60;
    start(1);
    pause_one(many, &other, 200);
    assert_int_equal(ask(3, "two", 5, &two), HEARTH_OK);
    usleep(300000); // its file is checked by a child; then the first one leaves
    assert_int_equal(ask(1, "", 5, &late), HEARTH_OK);
    atomic_store(&fake_endless, false);
    WAIT_FOR(seen.n_done == 7);
    assert_int_equal(place_in(seen.done, 7, &two), 5);
    assert_int_equal(place_in(seen.done, 7, &late), 6);
    assert_int_equal(seen.n_text[many[3].b[0]], 200);
    assert_true(fake_find('c', "one", 0) > fake_find('r', "one", 0));
}

static void what_is_deleted_while_paused_is_not_kept(void **state)
{
    (void)state;
    struct hd_id many[4], other, person = id_of(1);
    start(0);
    pause_one(many, &other, 100);
    unsigned from = fake_count();
    uint64_t owner = fake_log[fake_find('a', "one", 0)].owner;
    struct hd_id conversation = id_of((unsigned char)(100 + many[3].b[0]));
    hd_worker_forget(worker, &conversation, &person);
    atomic_store(&fake_endless, false);
    WAIT_FOR(seen.n_done == 5);
    assert_int_equal(seen.n_text[many[3].b[0]], 100); // it goes on
    int at = fake_find('f', "one", from), on = fake_find('r', "one", 0);
    assert_true(at >= 0 && at < on); // at once, and again when it has ended
    assert_true(fake_log[at].owner == owner);
    WAIT_FOR(fake_find('f', "one", (unsigned)on) >= 0);
}

// Whatever happens in whatever order: everything ends once, whole unless it was cancelled, within the pool.
static void any_order_of_everything(void **state)
{
    (void)state;
    struct hd_id id[150];
    unsigned asked[150], n = 0;
    bool cancelled[150] = {false};
    uint32_t x = 7;
    config.n_ctx = 2048;
    start(0);
    use("one");
    atomic_store(&fake_step_us, 100);
    while (n < 150) {
        x = x * 1664525u + 1013904223u;
        unsigned what = x >> 16 & 31, person = 1 + (x >> 24) % 3;
        asked[n] = 1 + (x >> 8) % 400;
        ask_messages = 1 + (x >> 12) % 60;
        if (what < 24 && ask((unsigned char)(what < 14 ? 1 : person), "", asked[n], &id[n]) == HEARTH_OK)
            n++;
        next_id = (unsigned char)n; // of what was taken
        if (what >= 28 && n) {
            unsigned k = (x >> 5) % n;
            cancelled[k] = true;
            hd_worker_cancel(worker, &id[k]);
        }
        struct hd_id whose = id_of((unsigned char)person);
        if (what == 24)
            hd_worker_forget(worker, NULL, &whose);
        usleep(x % 8000);
        drain();
    }
    WAIT_FOR(seen.n_done == 150);
    assert_int_equal(seen.n_failed, 0);
    assert_true(fake_most_active <= 4 && fake_most_taken <= 2048);
    assert_true(events('p') > 5);
    for (unsigned i = 0; i < 150; i++) {
        assert_true(place_in(seen.done, 150, &id[i]) >= 0);
        if (!cancelled[i])
            assert_int_equal(seen.n_text[id[i].b[0]], asked[i]);
    }
    struct hd_worker_state now = state_now();
    assert_true(now.active == 0 && now.queued == 0);
}

// ---- turns

static void two_who_wait_take_turns(void **state)
{
    (void)state;
    struct hd_id a[12], b[12];
    unsigned n_a = 0, n_b = 0;
    config.max_sessions = 2;
    start(0);
    use("one");
    atomic_store(&fake_hang, true);
    for (int i = 0; i < 12; i++)
        assert_int_equal(ask(1, "", 10, &a[i]), HEARTH_OK);
    for (int i = 0; i < 12; i++)
        assert_int_equal(ask(2, "", 10, &b[i]), HEARTH_OK);
    atomic_store(&fake_hang, false);
    WAIT_FOR(seen.n_done == 24);
    for (unsigned i = 0; i < 16; i++) { // at every moment nearly the same number of each
        for (int k = 0; k < 12; k++) {
            n_a += hd_id_equal(&seen.started[i], &a[k]);
            n_b += hd_id_equal(&seen.started[i], &b[k]);
        }
        assert_true(n_a <= n_b + 3 && n_b <= n_a + 3);
    }
}

static void long_answers_count_more(void **state)
{
    (void)state;
    struct hd_id id;
    unsigned n_short = 0;
    config.max_sessions = 1;
    start(0);
    use("one");
    atomic_store(&fake_hang, true);
    for (int i = 0; i < 8; i++)
        assert_int_equal(ask(1, "", 100, &id), HEARTH_OK);
    for (int i = 0; i < 20; i++)
        assert_int_equal(ask(2, "", 10, &id), HEARTH_OK); // ids 9 to 28
    atomic_store(&fake_hang, false);
    WAIT_FOR(seen.n_done == 28);
    for (unsigned i = 0; i < 12; i++)
        n_short += seen.started[i].b[0] > 8;
    assert_true(n_short >= 8); // 110 tokens against 20: five of the one for one of the other
}

// Of the first six answers after one that nobody else was there for: those of who was not.
static unsigned newcomers_share(unsigned char first, unsigned char second)
{
    struct hd_id id;
    unsigned n = 0;
    config.max_sessions = 1;
    start(0);
    use("one");
    assert_int_equal(ask(1, "", 500, &id), HEARTH_OK);
    WAIT_FOR(seen.n_done == 1);
    atomic_store(&fake_hang, true);
    for (int i = 0; i < 6; i++) // ids 2, 4, ... of the first, 3, 5, ... of the second
        assert_true(ask(first, "", 20, &id) == HEARTH_OK && ask(second, "", 20, &id) == HEARTH_OK);
    atomic_store(&fake_hang, false);
    WAIT_FOR(seen.n_done == 13);
    for (unsigned i = 1; i < 7; i++)
        n += seen.started[i].b[0] % 2 == (second == 2);
    return n;
}

static void who_comes_new_does_not_make_up_for_the_past(void **state)
{
    (void)state;
    assert_in_range(newcomers_share(1, 2), 2, 4); // not all six of who had nothing before
}

static void who_comes_when_nobody_is_there_does_not_either(void **state)
{
    (void)state;
    assert_in_range(newcomers_share(2, 1), 2, 4);
}

// A question of nobody else's that runs until it is cancelled, and others that come meanwhile.
static void hold_the_only_place(struct hd_id *id)
{
    config.max_sessions = 1;
    start(0);
    use("one");
    atomic_store(&fake_step_us, 3000);
    assert_int_equal(ask(9, "", 4000, id), HEARTH_OK);
    WAIT_FOR(seen.n_started == 1);
}

static void who_comes_new_starts_where_the_least_of_those_present_is(void **state)
{
    (void)state;
    struct hd_id holder, much, less[2], new;
    hold_the_only_place(&holder);
    ask_messages = 300; // 3,000 tokens
    assert_int_equal(ask(1, "", 4000, &much), HEARTH_OK);
    ask_messages = 1;
    for (int i = 0; i < 2; i++)
        assert_int_equal(ask(2, "", 5, &less[i]), HEARTH_OK);
    hd_worker_cancel(worker, &holder);
    WAIT_FOR(seen.n_started == 2);
    assert_int_equal(ask(3, "", 5, &new), HEARTH_OK);
    hd_worker_cancel(worker, &much);
    WAIT_FOR(seen.n_done == 5);
    assert_int_equal(place_in(seen.started, 5, &much), 1);
    assert_int_equal(place_in(seen.started, 5, &new), 3); // between the two of the other one
}

static void who_comes_back_is_not_new(void **state)
{
    (void)state;
    struct hd_id holder, much, others[3], again;
    hold_the_only_place(&holder);
    ask_messages = 300;
    assert_int_equal(ask(1, "", 1, &much), HEARTH_OK);
    ask_messages = 1;
    for (int i = 0; i < 3; i++)
        assert_int_equal(ask(2, "", i ? 5 : 4000, &others[i]), HEARTH_OK);
    hd_worker_cancel(worker, &holder);
    WAIT_FOR(seen.n_started == 3); // the other one's first; who had much has left
    assert_int_equal(ask(1, "", 5, &again), HEARTH_OK);
    hd_worker_cancel(worker, &others[0]);
    WAIT_FOR(seen.n_done == 6);
    assert_int_equal(place_in(seen.started, 6, &again), 5);
}

static void nobody_runs_more_than_their_share_while_others_wait(void **state)
{
    (void)state;
    struct hd_id a, b;
    start(0);
    use("one");
    atomic_store(&fake_endless, true);
    assert_int_equal(ask(1, "", 200, &a), HEARTH_OK);
    ask_messages = 60; // the other one's first question counts for much
    assert_int_equal(ask(2, "", 200, &b), HEARTH_OK);
    ask_messages = 1;
    WAIT_FOR(seen.n_started == 2);
    hold_step();
    for (int i = 0; i < 6; i++)
        assert_int_equal(ask(1, "", 20, &a), HEARTH_OK);
    assert_int_equal(ask(2, "", 20, &b), HEARTH_OK);
    atomic_store(&fake_endless, false);
    atomic_store(&fake_hang, false);
    WAIT_FOR(seen.n_started >= 4);
    assert_int_equal(place_in(seen.started, seen.n_started, &b), 3); // two places of four are each one's
    hd_worker_cancel_all(worker);
}

static void one_person_cannot_fill_the_queue(void **state)
{
    (void)state;
    struct hd_id id;
    start(0);
    use("one");
    atomic_store(&fake_endless, true);
    for (int i = 0; i < 4; i++)
        assert_int_equal(ask(1, "", 100, &id), HEARTH_OK);
    WAIT_FOR(seen.n_started == 4);
    hold_step();
    atomic_store(&fake_endless, false);
    for (int i = 0; i < HD_MAX_QUEUE_PERSON; i++)
        assert_int_equal(ask(1, "", 5, &id), HEARTH_OK);
    assert_int_equal(ask(1, "", 5, &id), HEARTH_BUSY);
    assert_int_equal(ask(2, "", 5, &id), HEARTH_OK);
    atomic_store(&fake_hang, false);
    WAIT_FOR(seen.n_done == HD_MAX_QUEUE_PERSON + 5);
}

static void all_together_fill_the_queue(void **state)
{
    (void)state;
    struct hd_id id;
    start(0);
    use("one");
    atomic_store(&fake_hang, true);
    for (int i = 0; i < 4; i++) // the places
        assert_int_equal(ask(1, "", 5, &id), HEARTH_OK);
    WAIT_FOR(seen.n_started >= 1);
    unsigned n = 0;
    enum hearth_status status;
    while ((status = ask((unsigned char)(2 + n % 8), "", 5, &id)) == HEARTH_OK && n < 200)
        n++;
    assert_int_equal(status, HEARTH_BUSY);
    assert_int_equal(state_now().queued, HD_MAX_QUEUE);
    assert_int_equal(ask(10, "", 5, &id), HEARTH_BUSY); // who has none waiting neither
    atomic_store(&fake_hang, false);
    WAIT_FOR(seen.n_done == n + 4);
}

int main(int argc, char **argv)
{
    if (argc > 2 && strcmp(argv[1], "--check-model") == 0) // as the worker calls its own program
        return fake_child(argv[2]);
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        T(who_is_alone_has_every_place),
        T(a_flood_does_not_keep_another_waiting),
        T(long_questions_give_their_room_to_another),
        T(questions_that_fail_cost_their_person_a_turn),
        T(nobodys_last_answer_gives_way_to_a_question),
        T(answers_that_outgrow_the_pool_take_turns),
        T(two_floods_do_not_pause_each_other),
        T(a_paused_answer_gets_somewhere),
        T(a_paused_answer_comes_before_later_questions),
        T(a_model_that_is_replaced_ends_its_paused_answer),
        T(a_paused_answer_can_be_cancelled),
        T(cancelling_all_ends_paused_ones_too),
        T(stopping_ends_a_paused_answer),
        T(a_lost_engine_ends_a_paused_answer),
        T(a_model_that_leaves_ends_its_paused_answer),
        T(what_is_deleted_while_paused_is_not_kept),
        T(any_order_of_everything),
        T(two_who_wait_take_turns),
        T(long_answers_count_more),
        T(who_comes_new_does_not_make_up_for_the_past),
        T(who_comes_when_nobody_is_there_does_not_either),
        T(who_comes_new_starts_where_the_least_of_those_present_is),
        T(who_comes_back_is_not_new),
        T(nobody_runs_more_than_their_share_while_others_wait),
        T(one_person_cannot_fill_the_queue),
        T(all_together_fill_the_queue),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
