// SPDX-License-Identifier: Apache-2.0
// Packed weights are written by the loader thread when nothing else is to do, once, and never from an engine that is
// gone: closing one, a question, another load and the end of the daemon do not wait for the file.
#include "tests/wire/worker_kit.h"

static int setup_packed(void **state)
{
    setup(state);
    config.packed_cache = true;
    snprintf(config.packed_dir, sizeof config.packed_dir, "%s/packed", dir);
    return 0;
}

static void show(const char *name)
{
    hd_loader_show(hd_worker_loader(worker), path_of(name));
}

static unsigned count(char kind)
{
    unsigned n = 0;
    for (int at = -1; (at = fake_find(kind, NULL, (unsigned)(at + 1))) >= 0; n++)
        ;
    return n;
}

static void written_once_the_hash_is_known(void **state)
{
    (void)state;
    struct hd_id id;
    start(50);
    use("one");
    show("one");
    WAIT_FOR(fake_find('K', "one", 0) >= 0);
    assert_int_equal(ask(1, "one", 3, &id), HEARTH_OK);
    WAIT_FOR(seen.n_done == 1);
    assert_int_equal(ask(1, "two", 3, &id), HEARTH_OK);
    show("two");
    WAIT_FOR(fake_find('K', "two", 0) >= 0);
    assert_int_equal(count('k') - count('l'), 2); // begun again only where it was given up
    assert_int_equal(count('K'), 2);
}

static void off_unless_asked_for(void **state)
{
    (void)state;
    struct hd_file_facts facts;
    config.packed_cache = false;
    start(50);
    use("one");
    show("one");
    WAIT_FOR(hd_loader_facts(hd_worker_loader(worker), path_of("one"), &facts) && facts.sha256[0]);
    show("two"); // the loader comes by once more
    WAIT_FOR(hd_loader_facts(hd_worker_loader(worker), path_of("two"), &facts) && facts.sha256[0]);
    assert_int_equal(fake_find('k', NULL, 0), -1);
}

static void an_engine_that_goes_is_let_go(void **state)
{
    (void)state;
    config.memory_budget_mib = 60; // one at a time
    atomic_store(&fake_slow_write, true);
    start(50);
    use("one");
    show("one");
    WAIT_FOR(fake_find('k', "one", 0) >= 0);
    use("two");
    int let_go = fake_find('l', "one", 0), closed = fake_find('c', "one", 0);
    assert_true(let_go >= 0 && closed > let_go);
    assert_int_equal(fake_find('k', "one", (unsigned)closed), -1);
}

static void a_question_goes_first(void **state)
{
    (void)state;
    struct hd_id id;
    atomic_store(&fake_slow_write, true);
    start(50);
    use("one");
    show("one");
    WAIT_FOR(fake_find('k', "one", 0) >= 0);
    assert_int_equal(ask(1, "one", 200, &id), HEARTH_OK);
    WAIT_FOR(fake_find('l', "one", 0) >= 0); // the disk is not used while somebody is answered
    WAIT_FOR(seen.n_done == 1);
    atomic_store(&fake_slow_write, false);
    WAIT_FOR(fake_find('K', "one", 0) >= 0);
}

static void who_is_never_idle_for_long_keeps_none(void **state)
{
    (void)state;
    struct hd_id id;
    struct hd_file_facts facts;
    atomic_store(&fake_slow_write, true);
    start(50);
    use("one");
    show("one");
    for (unsigned asked = 0; count('l') < 8;) {
        WAIT_FOR(count('k') > count('l') || count('l') == 8); // it is being written, until somebody asks
        assert_int_equal(ask(1, "one", 200, &id), HEARTH_OK);
        asked++;
        WAIT_FOR(seen.n_done == asked);
        assert_true(asked < 100);
    }
    show("two"); // the loader comes by once more
    WAIT_FOR(hd_loader_facts(hd_worker_loader(worker), path_of("two"), &facts) && facts.sha256[0]);
    use("two"); // and is done with that
    assert_int_equal(fake_find('k', "one", (unsigned)fake_find('o', "two", 0)), -1);
}

static void the_end_does_not_wait_for_the_file(void **state)
{
    (void)state;
    atomic_store(&fake_slow_write, true);
    start(50);
    use("one");
    show("one");
    WAIT_FOR(fake_find('k', "one", 0) >= 0);
    hd_worker_stop(&worker); // would hang
    assert_true(fake_find('l', "one", 0) >= 0 && fake_find('c', "one", 0) > fake_find('l', "one", 0));
}

int main(int argc, char **argv)
{
    if (argc > 2 && strcmp(argv[1], "--check-model") == 0) // as the worker calls its own program
        return fake_child(argv[2]);
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup_packed, teardown)
        T(written_once_the_hash_is_known),
        T(off_unless_asked_for),
        T(an_engine_that_goes_is_let_go),
        T(a_question_goes_first),
        T(who_is_never_idle_for_long_keeps_none),
        T(the_end_does_not_wait_for_the_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
