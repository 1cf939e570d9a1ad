// SPDX-License-Identifier: Apache-2.0
// The store on a disk in memory: the power is cut, an operation fails or the process dies at every single
// operation of SQLite and the vault, and every promise that was made before is checked afterwards.
#include "tests/wire/store_kit.h"

// ---- every operation once

enum { N_CHATS = 6 };
enum known { UNASKED, UNSURE, ASKED, ANSWERING, ANSWERED, GOING, GONE };
struct memory {
    enum known known[N_CHATS];
    struct hd_accepted ids[N_CHATS];
};

static const char *text_of(unsigned i, bool is_answer)
{
    static char text[3000];
    snprintf(text, sizeof text, "%s %u ", is_answer ? "answer" : "question", i);
    size_t at = strlen(text); // some span several pages
    memset(text + at, '.', i % 2 ? 2500 : 10);
    text[at + (i % 2 ? 2500 : 10)] = '\0';
    return text;
}

static void try_talk(struct memory *m, unsigned i, const struct hd_id *conversation)
{
    m->known[i] = UNSURE;
    if (ask(&owner, conversation, NULL, text_of(i, false), &m->ids[i]) != HEARTH_OK)
        return;
    m->known[i] = ANSWERING;
    const char *text = text_of(i, true);
    (void)hd_store_answer_save(store, &m->ids[i].assistant_turn, text, strlen(text) / 2, &err);
    m->known[i] = answer(&m->ids[i], text) == HEARTH_OK ? ANSWERED : ANSWERING;
}

static void try_delete(struct memory *m, unsigned i, bool whole)
{
    if (m->known[i] < ASKED)
        return;
    struct hd_deleted deleted;
    m->known[i] = GOING;
    enum hearth_status status =
        whole ? hd_store_conversation_delete(store, &owner, &m->ids[i].conversation, &deleted, &err)
              : hd_store_turn_delete(store, &owner, &m->ids[i].user_turn, &deleted, &err);
    if (status == HEARTH_OK)
        m->known[i] = GONE;
    hd_deleted_free(&deleted);
}

static bool open_quietly(void)
{
    struct hd_person person;
    hd_store_close(&store);
    if (try_open(false) != HEARTH_OK || hd_person_find(store, "owner", &person, &err) != HEARTH_OK)
        return false;
    owner = person.id;
    return true;
}

static void scenario(struct memory *m)
{
    memset(m, 0, sizeof *m);
    next_request = 1;
    if (!open_quietly())
        return;
    try_talk(m, 0, NULL);
    try_talk(m, 1, m->known[0] >= ASKED ? &m->ids[0].conversation : NULL);
    try_talk(m, 2, NULL);
    try_delete(m, 0, false);
    (void)hd_store_tick(store, &err);
    try_talk(m, 3, NULL);
    try_delete(m, 2, true);
    if (!open_quietly())
        return;
    try_talk(m, 4, NULL);
    try_delete(m, 1, false);
    try_talk(m, 5, NULL);
}

static bool shows(const struct hd_accepted *ids, bool is_answer, const char *text)
{
    struct hd_conversation c;
    if (hd_store_conversation_get(store, &owner, &ids->conversation, true, &c, &err) != HEARTH_OK)
        return false;
    bool found = false;
    const struct hd_id *id = is_answer ? &ids->assistant_turn : &ids->user_turn;
    for (size_t i = 0; i < c.n_turns; i++)
        found = found ||
                (hd_id_equal(&c.turns[i].id, id) && (text == NULL || strcmp(c.turns[i].text, text) == 0));
    hd_conversation_free(&c);
    return found;
}

static unsigned broken_promises(const struct memory *m)
{
    unsigned broken = 0;
    if (!open_quietly())
        return 1;
    const struct hd_vault *vault = hd_store_vault(store);
    for (unsigned i = 0; i < N_CHATS; i++) {
        bool asked = m->known[i] == ASKED || m->known[i] == ANSWERING || m->known[i] == ANSWERED;
        if (asked && !shows(&m->ids[i], false, text_of(i, false)))
            broken++;
        if (m->known[i] == ANSWERED && !shows(&m->ids[i], true, text_of(i, true)))
            broken++;
        if (m->known[i] == GONE &&
            (hd_vault_has(vault, &m->ids[i].user_turn) || hd_vault_has(vault, &m->ids[i].assistant_turn) ||
             shows(&m->ids[i], false, NULL) || shows(&m->ids[i], true, NULL)))
            broken++;
        // Half a deletion is none: what is no longer shown has no key.
        if (m->known[i] == GOING && !shows(&m->ids[i], false, NULL) &&
            hd_vault_has(vault, &m->ids[i].user_turn))
            broken++;
    }
    struct hd_accepted a;
    next_request = 100;
    if (ask(&owner, NULL, NULL, "and on it goes", &a) != HEARTH_OK || answer(&a, "yes") != HEARTH_OK)
        broken++;
    hd_store_close(&store);
    return broken;
}

// Every operation is cut, or fails and the power goes later, with each of the first n_policies policies. With
// a lying disk it stops at the first broken promise.
static unsigned sweep(bool cut, const char *ignored_fsync, unsigned n_policies, unsigned *runs)
{
    unsigned broken = 0;
    bool through = false; // the scenario ended before the operation was met
    for (unsigned op = 1; !through; op++)
        for (uint64_t seed = 0; seed < n_policies; seed++) {
            teardown_sim(NULL);
            setup_sim(NULL);
            simdisk_ignore_fsync(disk, ignored_fsync);
            if (cut)
                simdisk_cut_at(disk, op);
            else
                simdisk_fail_at(disk, op);
            struct memory m;
            scenario(&m);
            through = op > simdisk_ops(disk);
            simdisk_cut_at(disk, simdisk_ops(disk) + 1); // an error too is followed by a power cut
            hd_store_close(&store);
            simdisk_restart(disk,
                            seed == 0   ? SIMDISK_DROP
                            : seed == 1 ? SIMDISK_KEEP
                                        : SIMDISK_TEAR,
                            op * 31 + seed);
            unsigned b = broken_promises(&m);
            if (b > 0 && ignored_fsync == NULL)
                print_message("operation %u, seed %u: %u broken (%s)\n", op, (unsigned)seed, b, err.text);
            broken += b;
            ++*runs;
            if (b > 0 && ignored_fsync != NULL)
                return b;
        }
    return broken;
}

static void test_power_cut_at_every_operation(void **state)
{
    (void)state;
    unsigned runs = 0;
    assert_int_equal(sweep(true, NULL, 3, &runs), 0);
    assert_true(runs > 400 * 3);
    print_message("%u power cuts\n", runs);
}

static void test_error_at_every_operation(void **state)
{
    (void)state;
    unsigned runs = 0;
    assert_int_equal(sweep(false, NULL, 2, &runs), 0);
    print_message("%u errors\n", runs);
}

// The process dies, the next one sees what was never synced and goes on; later the power goes.
static void test_death_of_the_process_and_then_a_power_cut(void **state)
{
    (void)state;
    unsigned broken = 0;
    bool through = false;
    for (unsigned op = 1; !through; op++) {
        teardown_sim(NULL);
        setup_sim(NULL);
        simdisk_cut_at(disk, op);
        struct memory m;
        scenario(&m);
        hd_store_close(&store);
        through = op > simdisk_ops(disk);
        simdisk_next_process(disk);
        next_request = 200;
        assert_true(open_quietly());
        struct hd_accepted late = talk(NULL, "asked later", "answered later");
        simdisk_cut_at(disk, simdisk_ops(disk) + 1);
        hd_store_close(&store);
        simdisk_restart(disk, SIMDISK_DROP, 0);
        broken +=
            !open_quietly() || !shows(&late, false, "asked later") || !shows(&late, true, "answered later");
        broken += broken_promises(&m);
    }
    assert_int_equal(broken, 0);
}

static void test_each_fsync_is_needed(void **state)
{
    (void)state;
    static const char *const each[] = {"turns.keys", "turns.keys.new", "box.key.new",
                                       "hearth.db",  "hearth.db-wal",  "/"};
    for (size_t i = 0; i < sizeof each / sizeof *each; i++) {
        unsigned runs = 0;
        if (sweep(true, each[i], 3, &runs) == 0)
            fail_msg("without fsync of %s nothing was lost", each[i]);
    }
}

int main(void)
{
#define SIM(test) cmocka_unit_test_setup_teardown(test, setup_sim, teardown_sim)
    const struct CMUnitTest tests[] = {
        SIM(test_power_cut_at_every_operation),
        SIM(test_error_at_every_operation),
        SIM(test_death_of_the_process_and_then_a_power_cut),
        SIM(test_each_fsync_is_needed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
