// SPDX-License-Identifier: Apache-2.0
// The engine thread with an engine of the tests: which models are loaded within the budget, what a crash of the model
// check or a hanging step does, how caches come and go. worker_fair.c: whose question is next.
#include "tests/wire/worker_kit.h"

// ---- models

static void two_models_that_fit_answer_side_by_side(void **state)
{
    (void)state;
    struct hd_id a, b;
    struct hd_worker_state now;
    start(0);
    use("one");
    assert_int_equal(ask(1, "", 4000, &a), HEARTH_OK);
    WAIT_FOR(seen.n_started == 1);
    assert_int_equal(ask(2, "two", 100, &b), HEARTH_OK); // is loaded while the first one answers
    WAIT_FOR(seen.n_done >= 1);
    assert_true(hd_id_equal(&seen.done[0], &b));
    hd_worker_cancel(worker, &a);
    WAIT_FOR(seen.n_done == 2);
    assert_string_equal(seen.last_model, "two");
    hd_worker_state(worker, &now);
    assert_int_equal(now.n_models, 2);
    assert_int_equal(fake_find('c', NULL, 0), -1); // nothing was unloaded
    assert_true(now.held_bytes <= now.budget_bytes);
    int opened = fake_find('o', "two", 0), from = fake_find('s', "two", 0);
    assert_true(fake_find('s', "one", 0) < opened && fake_find('s', "one", (unsigned)opened) > opened);
    for (int i = from; i < from + 20; i += 2) // one step each
        assert_true(fake_log[i].kind == 's' && fake_log[i + 1].kind == 's' &&
                    strcmp(fake_log[i].name, fake_log[i + 1].name) != 0);
}

static void what_does_not_fit_is_refused_before_anything_is_unloaded(void **state)
{
    (void)state;
    struct hd_id id;
    start(0);
    use("one");
    assert_int_equal(ask(1, "huge", 5, &id), HEARTH_OK);
    WAIT_FOR(seen.n_failed == 1);
    assert_int_equal(seen.last_error.code, HEARTH_UNSUPPORTED);
    assert_non_null(strstr(seen.last_error.text, "105.0 MiB")); // 100 + 4 + 1
    assert_non_null(strstr(seen.last_error.text, "100.0 MiB"));
    assert_int_equal(fake_find('c', NULL, 0), -1);
    assert_int_equal(ask(1, "", 5, &id), HEARTH_OK);
    WAIT_FOR(seen.n_done == 1);
    assert_int_equal(ask(1, "absent", 5, &id), HEARTH_NOT_FOUND);
    assert_int_equal(ask(1, "../one", 5, &id), HEARTH_INVALID);
}

// Positions of the loaded models, in their order.
static void expect_positions(unsigned first, unsigned second)
{
    struct hd_worker_state now;
    hd_worker_state(worker, &now);
    assert_int_equal(now.n_models, 1 + (second > 0));
    assert_int_equal(now.models[0].info.n_ctx, first);
    assert_int_equal(now.models[0].needed_bytes, (41 << 20) + 1024 * first);
    assert_true(now.held_bytes <= now.budget_bytes);
    if (second)
        assert_int_equal(now.models[1].info.n_ctx, second);
}

// Where the budget has room, each session may be as long as the model was trained for; no conversation is longer.
static void sessions_share_more_than_one_context(void **state)
{
    (void)state;
    static const unsigned cases[][3] = { // MiB, ctx, positions
        {1000, 0, 4 * 4096},             // four sessions
        {103, 0, 15872},     // a quarter of the 62 MiB that are left
        {97, 0, 11264},      // so that a second one of 45 MiB still fits
        {46, 0, 4096},       // the least
        {1000, 2048, 2048},  // as it is set
        {1000, 20000, 20000},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        config.memory_budget_mib = cases[i][0];
        config.n_ctx = cases[i][1];
        start(0);
        use("one");
        expect_positions(cases[i][2], 0);
        hd_worker_stop(&worker);
    }
    struct hd_id id;
    config.memory_budget_mib = 100;
    config.n_ctx = 0;
    start(0);
    use("one");
    ask_messages = 500; // 5,000 tokens
    atomic_store(&fake_counts, 0);
    assert_int_equal(ask(1, "", 5, &id), HEARTH_OK);
    ask_messages = 1;
    WAIT_FOR(seen.n_done == 1);
    assert_in_range(fake_counts, 2, 24); // by halves, not one for each dropped turn: nobody is answered meanwhile
    assert_int_equal(ask(1, "two", 5, &id), HEARTH_OK);
    WAIT_FOR(seen.n_done == 2);
    expect_positions(14336, 4096); // side by side: the second one has what is left
    assert_int_equal(seen.n_dropped, 91); // of the model's 4,096
}

static void an_idle_model_makes_room_and_comes_back(void **state)
{
    (void)state;
    struct hd_id id;
    struct hd_worker_state now;
    config.memory_budget_mib = 60; // one of them
    start(0);
    use("one");
    assert_int_equal(ask(1, "two", 5, &id), HEARTH_OK);
    WAIT_FOR(seen.n_done == 1);
    assert_true(fake_find('c', "one", 0) >= 0 && fake_find('o', "two", 0) > fake_find('c', "one", 0));
    hd_worker_state(worker, &now);
    assert_true(now.loaded); // the one in use answers again as soon as somebody asks it
    assert_string_equal(now.path, path_of("one"));
    assert_int_equal(ask(1, "", 5, &id), HEARTH_OK);
    WAIT_FOR(seen.n_done == 2);
    assert_string_equal(seen.last_model, "one");
}

static void running_answers_end_before_their_model_goes(void **state)
{
    (void)state;
    struct hd_id a, b;
    config.memory_budget_mib = 60;
    start(1);
    use("one");
    assert_int_equal(ask(1, "", 300, &a), HEARTH_OK);
    WAIT_FOR(seen.n_started == 1);
    assert_int_equal(ask(2, "two", 5, &b), HEARTH_OK);
    WAIT_FOR(seen.n_done == 2);
    assert_true(hd_id_equal(&seen.done[0], &a));
    assert_int_equal(seen.n_failed, 0);
}

static void who_waits_for_another_model_does_not_starve(void **state)
{
    (void)state;
    struct hd_id id, other;
    config.memory_budget_mib = 60;
    start(50);
    use("one");
    atomic_store(&fake_step_us, 1000);
    for (int i = 0; i < 30; i++) // 30 answers of more than 100 ms each, four at a time
        assert_int_equal(ask(1, "", 100, &id), HEARTH_OK);
    WAIT_FOR(seen.n_started >= 1);
    assert_int_equal(ask(2, "two", 5, &other), HEARTH_OK);
    WAIT_FOR(place_in(seen.done, seen.n_done, &other) >= 0);
    assert_true(seen.n_done < 20); // its turn came long before the queue was empty
    WAIT_FOR(seen.n_done == 31);   // and then the others' came back
    assert_int_equal(seen.n_failed, 0);
}

static void a_choice_that_fails_leaves_the_present_model(void **state)
{
    (void)state;
    struct hd_id id;
    struct hd_worker_state now;
    write_model("bad", "no such architecture");
    write_model("breaks", "ok llama broken 4096 1048576 1024 1048576");
    start(0);
    use("one");
    assert_int_equal(seen.load_error.code, HEARTH_OK);
    assert_int_equal(seen.load_tag, 5);
    use("bad");
    assert_int_equal(seen.load_error.code, HEARTH_FORMAT);
    assert_string_equal(seen.load_error.text, "no such architecture");
    use("breaks");
    assert_int_equal(seen.load_error.code, HEARTH_FORMAT);
    hd_worker_state(worker, &now);
    assert_true(now.loaded && !now.loading);
    assert_string_equal(now.path, path_of("one"));
    assert_int_equal(ask(1, "", 5, &id), HEARTH_OK);
    WAIT_FOR(seen.n_done == 1);
}

static void one_choice_at_a_time(void **state)
{
    (void)state;
    struct hd_worker_state now;
    start(0);
    atomic_store(&fake_slow_open, true);
    assert_int_equal(hd_worker_load(worker, path_of("one"), 1, &err), HEARTH_OK);
    assert_int_equal(hd_worker_load(worker, path_of("two"), 2, &err), HEARTH_BUSY);
    WAIT_FOR(fake_find('w', NULL, 0) >= 0);
    assert_int_equal(hd_worker_load(worker, path_of("two"), 3, &err), HEARTH_BUSY);
    atomic_store(&fake_slow_open, false);
    WAIT_FOR(seen.n_loads == 1);
    assert_int_equal(seen.load_tag, 1);
    hd_worker_state(worker, &now);
    assert_string_equal(now.path, path_of("one"));
}

static void a_model_in_use_outside_of_the_folder_has_a_name(void **state)
{
    (void)state;
    struct hd_id id;
    write_model("outside", "ok llama Q4_1 4096 41943040 1024 1048576");
    snprintf(config.models_dir + strlen(config.models_dir), 8, "/inside");
    start(0);
    use("outside");
    assert_int_equal(ask(1, "outside", 5, &id), HEARTH_OK);
    WAIT_FOR(seen.n_done == 1);
    assert_int_equal(ask(1, "one", 5, &id), HEARTH_NOT_FOUND);
}

static void a_changed_file_is_checked_again(void **state)
{
    (void)state;
    struct hd_id id;
    start(0);
    use("one");
    write_model("one", "somebody else's file, which is longer");
    use("one");
    assert_int_equal(seen.load_error.code, HEARTH_FORMAT);
    write_model("one", "ok llama Q8_0 4096 20971520 1024 1048576 ");
    use("one");
    assert_int_equal(seen.load_error.code, HEARTH_FORMAT); // a blank too many is no answer of the child's
    write_model("one", "ok llama Q8_0 4096 20971520 1024 1048576");
    use("one");
    assert_int_equal(seen.load_error.code, HEARTH_OK);
    assert_true(fake_find('c', "one", 0) >= 0); // what had been loaded of the old file went
    assert_int_equal(ask(1, "one", 5, &id), HEARTH_OK);
    WAIT_FOR(seen.n_done == 1);
}

static void a_lost_engine_ends_its_answers(void **state)
{
    (void)state;
    struct hd_id a, b;
    struct hd_worker_state now;
    start(0);
    use("one");
    assert_int_equal(ask(1, "two", 5, &b), HEARTH_OK);
    WAIT_FOR(seen.n_done == 1);
    atomic_store(&fake_endless, true);
    assert_int_equal(ask(1, "", 1000, &a), HEARTH_OK);
    WAIT_FOR(seen.n_started == 2);
    atomic_store(&fake_lost, true);
    WAIT_FOR(seen.n_failed == 1);
    atomic_store(&fake_endless, false);
    hd_worker_state(worker, &now);
    assert_false(now.loaded);
    assert_string_equal(now.problem, "the fake device is lost");
    assert_int_equal(ask(1, "", 5, &a), HEARTH_UNSUPPORTED);
    assert_int_equal(ask(1, "two", 5, &b), HEARTH_OK); // the other one goes on
    WAIT_FOR(seen.n_done == 2);
}

// ---- the model check's child

static void crashes_of_the_check_are_error_lines(void **state)
{
    (void)state;
    static const struct {
        const char *line, *says;
    } deaths[] = {
        {"segv", "ended in signal 11"}, {"abort", "ended in signal 6"},
        {"kill", "was killed"},         {"hang", "more than 3 s"},
        {"flood", "was killed"},        {"exit", "ended with code 3"},
        {"ok ", "ended with code"},     {"ok llama Q4_1 1 2 3", "ended with"},
        {"a cause", "a cause"},
    };
    struct hd_id id;
    start(0);
    use("one");
    for (size_t i = 0; i < sizeof deaths / sizeof deaths[0]; i++) {
        write_model("victim", deaths[i].line);
        assert_int_equal(ask(1, "victim", 5, &id), HEARTH_OK);
        WAIT_FOR(seen.n_failed == i + 1);
        assert_int_equal(seen.last_error.code, HEARTH_FORMAT);
        if (!strstr(seen.last_error.text, deaths[i].says))
            fail_msg("%s: '%s'", deaths[i].line, seen.last_error.text);
    }
    assert_int_equal(ask(1, "", 5, &id), HEARTH_OK); // nobody else noticed
    WAIT_FOR(seen.n_done == 1);
}

static void stopping_does_not_wait_for_a_hanging_check(void **state)
{
    (void)state;
    struct hd_id id;
    write_model("victim", "hang");
    const struct hd_worker_params params = {.config = &config, .wake = wake, .check_ms = 60000};
    assert_int_equal(hd_worker_start(&worker, &params, &err), HEARTH_OK);
    assert_int_equal(ask(1, "victim", 5, &id), HEARTH_OK);
    usleep(100000);
    int64_t from_ms = now_ms();
    hd_worker_stop(&worker);
    assert_true(now_ms() - from_ms < 5000);
}

static atomic_bool left_alone;

static void look_for_left_alone(void *user, enum hd_log_level level, const char *line)
{
    (void)user, (void)level;
    if (strstr(line, "left alone"))
        atomic_store(&left_alone, true);
}

static void stopping_does_not_wait_for_who_takes_no_notes(void **state)
{
    (void)state;
    struct hd_id id;
    start(0);
    use("one");
    hd_log_set(look_for_left_alone, NULL);
    atomic_store(&fake_step_us, 0);
    assert_int_equal(ask(1, "", 4000, &id), HEARTH_OK);
    unsigned n = 0, before = 1;
    while (n < HD_RING_NOTES / 2 || n != before) { // until there is no room for another note
        before = n;
        usleep(50000);
        n = fake_count();
    }
    assert_true(n < 4000);
    hd_worker_stop(&worker);
    assert_false(atomic_load(&left_alone));
}

// ---- the watchdog

static void a_hanging_step_is_seen(void **state)
{
    (void)state;
    struct hd_id id;
    struct hd_worker_state now;
    start(0);
    use("one");
    hd_worker_state(worker, &now);
    assert_false(now.stalled);
    atomic_store(&fake_hang, true);
    assert_int_equal(ask(1, "", 5, &id), HEARTH_OK);
    WAIT_FOR((hd_worker_state(worker, &now), now.stalled));
    atomic_store(&fake_hang, false);
    WAIT_FOR(seen.n_done == 1);
    hd_worker_state(worker, &now);
    assert_false(now.stalled); // it goes on
    usleep(1200000);
    hd_worker_state(worker, &now);
    assert_false(now.stalled); // and idling is no hanging
}

// ---- caches

static void caches_are_exported_when_idle_and_on_demand(void **state)
{
    (void)state;
    struct hd_id id;
    start(0);
    use("one");
    assert_int_equal(ask(1, "", 5, &id), HEARTH_OK);
    WAIT_FOR(seen.n_prefixes == 1); // idle for 50 ms
    usleep(200000);
    drain();
    assert_int_equal(seen.n_prefixes, 1); // once
    assert_int_equal(ask(1, "", 5, &id), HEARTH_OK);
    assert_int_equal(ask(2, "", 5, &id), HEARTH_OK);
    WAIT_FOR(seen.n_done == 3);
    hd_worker_export_all(worker);
    WAIT_FOR(seen.n_exported == 1);
    assert_int_equal(seen.n_prefixes, 3);
    assert_true(fake_log[fake_find('a', NULL, 0)].owner != 0);
}

static void forgetting_reaches_the_engine_and_voids_exports(void **state)
{
    (void)state;
    struct hd_id id, person = id_of(1);
    start(0);
    use("one");
    assert_int_equal(ask(1, "", 5, &id), HEARTH_OK);
    WAIT_FOR(seen.n_prefixes == 1);
    uint64_t owner = fake_log[fake_find('a', NULL, 0)].owner;
    assert_int_equal(seen.prefix_tag, hd_worker_forget_seq(worker));
    hd_worker_forget(worker, NULL, &person);
    assert_int_not_equal(seen.prefix_tag, hd_worker_forget_seq(worker)); // the export is worth nothing now
    WAIT_FOR(fake_find('f', "one", 0) >= 0);
    assert_true(fake_log[fake_find('f', "one", 0)].owner == owner);
    hd_worker_export_all(worker);
    WAIT_FOR(seen.n_exported == 1);
    assert_int_equal(seen.n_prefixes, 1); // nothing is left to export
}

// The engine thread is in a step meanwhile: it meets all of this at once, the deletion last.
static void what_waits_when_something_is_deleted_is_not_kept(void **state)
{
    (void)state;
    struct hd_id id, own, person = id_of(1), other = id_of(2);
    config.max_sessions = 1;
    start(0);
    use("one");
    atomic_store(&fake_hang, true);
    assert_int_equal(ask(3, "", 5, &id), HEARTH_OK);
    WAIT_FOR(fake_find('s', NULL, 0) >= 0);
    hd_worker_import(worker, &person, path_of("one"), calloc(1, 8), 8);
    hd_worker_import(worker, &other, path_of("one"), calloc(1, 8), 8);
    assert_int_equal(ask(1, "", 5, &own), HEARTH_OK); // may hold the deleted turn
    hd_worker_forget(worker, NULL, &person);
    atomic_store(&fake_hang, false);
    WAIT_FOR(seen.n_done == 2);
    hd_worker_export_all(worker);
    WAIT_FOR(seen.n_exported == 1);
    int import = fake_find('i', "one", 0), answer = fake_find('a', "one", 0);
    answer = fake_find('a', "one", (unsigned)answer + 1);
    uint64_t owner = fake_log[answer].owner;
    assert_true(import >= 0 && fake_log[import].owner != owner); // the other one's alone
    assert_int_equal(fake_find('i', "one", (unsigned)import + 1), -1);
    int forgotten = fake_find('f', "one", (unsigned)answer); // again, what the answer has left
    assert_true(forgotten > answer && fake_log[forgotten].owner == owner);
    assert_int_equal(seen.n_prefixes, 0);
    assert_int_equal(ask(1, "", 5, &own), HEARTH_OK); // later questions are kept as ever
    WAIT_FOR(seen.n_prefixes == 1);
}

static bool was_forgotten(uint64_t owner)
{
    int at = -1;
    while ((at = fake_find('f', NULL, (unsigned)at + 1)) >= 0 && fake_log[at].owner != owner)
        ;
    return at >= 0;
}

// An answer's step does not come back until `fake_hang` is cleared.
static void hold_the_engine(unsigned char person)
{
    struct hd_id id;
    config.max_sessions = 1;
    start(0);
    use("one");
    atomic_store(&fake_hang, true);
    assert_int_equal(ask(person, "", 5, &id), HEARTH_OK);
    WAIT_FOR(fake_find('s', NULL, 0) >= 0);
}

static void more_deletions_than_are_remembered_are_everybodys(void **state)
{
    (void)state;
    struct hd_id person = id_of(1), other = id_of(2);
    hold_the_engine(1);
    for (int i = 0; i < 1000; i++)
        hd_worker_forget(worker, NULL, &other);
    hd_worker_forget(worker, NULL, &person);
    atomic_store(&fake_hang, false);
    WAIT_FOR(seen.n_done == 1);
    hd_worker_export_all(worker);
    WAIT_FOR(seen.n_exported == 1);
    assert_int_equal(seen.n_prefixes, 0);
    assert_true(was_forgotten(0));
}

static void everybody_can_be_forgotten(void **state)
{
    (void)state;
    struct hd_id person = id_of(2);
    hold_the_engine(1);
    hd_worker_import(worker, &person, path_of("one"), calloc(1, 8), 8);
    hd_worker_forget(worker, NULL, NULL);
    atomic_store(&fake_hang, false);
    WAIT_FOR(seen.n_done == 1 && was_forgotten(0));
    assert_int_equal(fake_find('i', NULL, 0), -1);
}

static void caches_beyond_what_may_wait_are_let_go(void **state)
{
    (void)state;
    struct hd_id person = id_of(2);
    hold_the_engine(1);
    for (int i = 0; i < 200; i++)
        hd_worker_import(worker, &person, path_of("one"), calloc(1, 8), 8);
    atomic_store(&fake_hang, false);
    WAIT_FOR(seen.n_done == 1);
    int n = 0;
    for (int at = -1; (at = fake_find('i', NULL, (unsigned)at + 1)) >= 0;)
        n++;
    assert_in_range(n, 1, 100);
}

static void a_cache_from_disk_goes_to_its_model_only(void **state)
{
    (void)state;
    struct hd_id id, person = id_of(1);
    start(0);
    use("one");
    hd_worker_import(worker, &person, path_of("two"), calloc(1, 8), 8); // is not loaded
    hd_worker_import(worker, &person, path_of("one"), calloc(1, 8), 8);
    assert_int_equal(ask(1, "", 5, &id), HEARTH_OK);
    WAIT_FOR(seen.n_done == 1);
    int at = fake_find('i', "one", 0), answer = fake_find('a', "one", 0);
    assert_true(at >= 0 && at < answer); // before the question that came after it
    assert_true(fake_log[at].owner == fake_log[answer].owner);
    assert_int_equal(fake_find('i', "two", 0), -1);
}

static void a_question_that_stands_alone_leaves_no_export(void **state)
{
    (void)state;
    struct hd_id person = id_of(1);
    start(0);
    use("one");
    struct hd_job *job = calloc(1, sizeof *job);
    job->prompt = strdup("once upon a time");
    job->prompt_len_bytes = strlen(job->prompt);
    job->person = person;
    job->response = id_of(90);
    job->max_tokens = 3;
    assert_int_equal(hd_worker_submit(worker, job, &err), HEARTH_OK);
    WAIT_FOR(seen.n_done == 1);
    hd_worker_export_all(worker);
    WAIT_FOR(seen.n_exported == 1);
    assert_int_equal(seen.n_prefixes, 0);
    struct hd_id id;
    assert_int_equal(ask(1, "", 5, &id), HEARTH_OK);
    WAIT_FOR(seen.n_done == 2);
    int first = fake_find('a', NULL, 0), second = fake_find('a', NULL, (unsigned)first + 1);
    uint64_t alone = fake_log[first].owner, kept = fake_log[second].owner;
    assert_true(alone && kept && alone != kept); // no export finds what stood alone
    hd_worker_forget(worker, NULL, &person);
    WAIT_FOR(was_forgotten(alone) && was_forgotten(kept));
}

static bool loads(const char *name)
{
    struct hd_worker_state now;
    bool found = false;
    hd_worker_state(worker, &now);
    for (unsigned i = 0; i < now.n_models; i++)
        found = found || (now.models[i].loading && strcmp(now.models[i].name, name) == 0);
    return found;
}

static void a_load_that_nobody_waits_for_is_given_up(void **state)
{
    (void)state;
    struct hd_id first, second, third;
    start(50);
    use("one");
    atomic_store(&fake_slow_open, true);
    assert_int_equal(ask(1, "two", 2, &first), HEARTH_OK);
    assert_int_equal(ask(2, "two", 2, &second), HEARTH_OK);
    WAIT_FOR(fake_find('w', NULL, 0) >= 0);
    hd_worker_cancel(worker, &first);
    WAIT_FOR(seen.n_done == 1);
    usleep(50000);
    assert_true(loads("two")); // somebody else waits for it
    assert_int_equal(fake_find('g', NULL, 0), -1);
    hd_worker_cancel(worker, &second);
    WAIT_FOR(seen.n_done == 2 && fake_find('g', NULL, 0) >= 0);
    WAIT_FOR(!loads("two"));
    assert_int_equal(seen.n_failed, 0);
    atomic_store(&fake_slow_open, false);
    assert_int_equal(ask(1, "one", 2, &third), HEARTH_OK); // everything goes on
    WAIT_FOR(seen.n_done == 3);
    assert_int_equal(ask(1, "two", 2, &third), HEARTH_OK);
    WAIT_FOR(seen.n_done == 4);
}

static void a_check_that_nobody_waits_for_says_nothing_of_the_file(void **state)
{
    (void)state;
    struct hd_id id;
    struct hd_file_facts facts;
    start(50);
    use("one");
    write_model("late", "hang");
    assert_int_equal(ask(1, "late", 2, &id), HEARTH_OK);
    WAIT_FOR(loads("late"));
    hd_worker_cancel(worker, &id);
    WAIT_FOR(seen.n_done == 1 && !loads("late"));
    assert_true(!hd_loader_facts(hd_worker_loader(worker), path_of("late"), &facts) || !facts.problem[0]);
    assert_int_equal(seen.n_failed, 0);
}

int main(int argc, char **argv)
{
    if (argc > 2 && strcmp(argv[1], "--check-model") == 0) // as the worker calls its own program
        return fake_child(argv[2]);
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        T(two_models_that_fit_answer_side_by_side),
        T(what_does_not_fit_is_refused_before_anything_is_unloaded),
        T(sessions_share_more_than_one_context),
        T(an_idle_model_makes_room_and_comes_back),
        T(running_answers_end_before_their_model_goes),
        T(who_waits_for_another_model_does_not_starve),
        T(a_choice_that_fails_leaves_the_present_model),
        T(one_choice_at_a_time),
        T(a_model_in_use_outside_of_the_folder_has_a_name),
        T(a_changed_file_is_checked_again),
        T(a_lost_engine_ends_its_answers),
        T(crashes_of_the_check_are_error_lines),
        T(stopping_does_not_wait_for_a_hanging_check),
        T(stopping_does_not_wait_for_who_takes_no_notes),
        T(a_hanging_step_is_seen),
        T(caches_are_exported_when_idle_and_on_demand),
        T(forgetting_reaches_the_engine_and_voids_exports),
        T(what_waits_when_something_is_deleted_is_not_kept),
        T(more_deletions_than_are_remembered_are_everybodys),
        T(everybody_can_be_forgotten),
        T(caches_beyond_what_may_wait_are_let_go),
        T(a_cache_from_disk_goes_to_its_model_only),
        T(a_question_that_stands_alone_leaves_no_export),
        T(a_load_that_nobody_waits_for_is_given_up),
        T(a_check_that_nobody_waits_for_says_nothing_of_the_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
