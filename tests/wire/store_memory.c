// SPDX-License-Identifier: Apache-2.0
// Memory runs out in the store: over a person's whole evening, every allocation fails once, SQLite's and the libraries'
// included. The call says NOMEM (or manages without), nothing is torn, and the next start finds everything that was
// acknowledged and nothing that was deleted.
#include "tests/wire/store_kit.h"
#include "tests/check/own_malloc.h"

// ---- the evening, and what of it was acknowledged

static struct {
    struct hd_accepted first, second;
    bool started, first_told, second_told, renamed, turn_gone, gone;
} said;

static enum hearth_status evening(void)
{
    struct hd_conversation_list list;
    struct hd_conversation whole;
    struct hd_deleted deleted;
    struct hd_turn turn;
    struct hd_id where;
    struct hd_person person;
    enum hearth_status status;
#define TRY(call)                                                                                            \
    do {                                                                                                     \
        enum hearth_status result = call;                                                                    \
        if (result != HEARTH_OK)                                                                             \
            return result;                                                                                   \
    } while (0)
    TRY(try_open(false));
    TRY(hd_person_find(store, "owner", &person, &err));
    owner = person.id;
    said.started = true;
    TRY(ask(&owner, NULL, "Be kind.", "What is a hearth?", &said.first));
    TRY(hd_store_answer_save(store, &said.first.assistant_turn, "A fire", 6, &err));
    TRY(answer(&said.first, "A fireplace."));
    said.first_told = true;
    TRY(ask(&owner, &said.first.conversation, NULL, "And a home?", &said.second));
    TRY(answer(&said.second, "Where it burns."));
    said.second_told = true;
    TRY(hd_store_conversation_rename(store, &owner, &said.first.conversation, "Fire", 4, &err));
    said.renamed = true;
    TRY(hd_store_conversation_list(store, &owner, 0, 0, &list, &err));
    assert_true(list.n == 1 && strcmp(list.items[0].title, "Fire") == 0);
    hd_conversation_list_free(&list);
    TRY(hd_store_conversation_get(store, &owner, &said.first.conversation, true, &whole, &err));
    assert_int_equal(whole.n_turns, 5);
    hd_conversation_free(&whole);
    TRY(hd_store_response_get(store, &owner, &said.second.response, &turn, &where, &err));
    assert_string_equal(turn.text, "Where it burns.");
    hd_turn_free(&turn);
    status = hd_store_turn_delete(store, &owner, &said.second.user_turn, &deleted, &err);
    hd_deleted_free(&deleted);
    TRY(status);
    said.turn_gone = true;
    TRY(hd_store_tick(store, &err));
    status = hd_store_conversation_delete(store, &owner, &said.first.conversation, &deleted, &err);
    hd_deleted_free(&deleted);
    TRY(status);
    said.gone = true;
#undef TRY
    return HEARTH_OK;
}

// With memory again: what was acknowledged stands, what was deleted does not.
static void look_again(long n)
{
    struct hd_conversation whole;
    if (try_open(false) != HEARTH_OK)
        fail_msg("after allocation %ld failed the store does not open: %s", n, err.text);
    if (said.first_told) {
        enum hearth_status status =
            hd_store_conversation_get(store, &owner, &said.first.conversation, false, &whole, &err);
        if (said.gone) {
            assert_int_equal(status, HEARTH_NOT_FOUND);
        } else if (status == HEARTH_OK) { // a deletion may have got further than its answer
            assert_string_equal(whole.turns[2].text, "A fireplace.");
            if (said.second_told && whole.n_turns == 5)
                assert_string_equal(whole.turns[4].text, "Where it burns.");
            assert_true(!said.turn_gone || whole.n_turns == 3);
            assert_true(!said.renamed || strcmp(whole.head.title, "Fire") == 0);
            hd_conversation_free(&whole);
        } else {
            assert_int_equal(status, HEARTH_NOT_FOUND);
            assert_true(said.turn_gone);
        }
    }
    hd_store_close(&store);
}

static enum hearth_status one_evening(long n)
{
    memset(&said, 0, sizeof said);
    memset(&err, 0, sizeof err);
    next_request = 1;
    check_folder_make(dir);
    long before = live;
    n_allocations = 0;
    fail_at = n;
    enum hearth_status status = evening();
    hd_store_close(&store);
    fail_at = 0;
    if (n > 0 && live != before) // the first evening pays for what the libraries keep
        fail_msg("allocation %ld failed, and %ld blocks were left behind", n, live - before);
    return status;
}

static void every_allocation_fails_once(void **state)
{
    (void)state;
    hd_io_set(NULL);
    setup_common();
    assert_int_equal(one_evening(0), HEARTH_OK);
    long n_total = n_allocations, n_nomem = 0;
    look_again(0);
    check_folder_remove(dir);
    assert_true(!OWN_MALLOC || n_total > 200);
    for (long n = 1; n <= n_total; n++) {
        enum hearth_status status = one_evening(n);
        if (status != HEARTH_OK && status != HEARTH_NOMEM && status != HEARTH_IO)
            fail_msg("allocation %ld failed, and the store said %s: %s", n, hearth_status_text(status),
                     err.text);
        n_nomem += status == HEARTH_NOMEM;
        if (status != HEARTH_OK)
            assert_true(strlen(err.text) > 5);
        look_again(n);
        check_folder_remove(dir);
    }
    print_message("%ld allocations, %ld ended a call with NOMEM\n", n_total, n_nomem);
    assert_true(!OWN_MALLOC || n_nomem * 2 > n_total);
    hd_log_set(NULL, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_allocation_fails_once)};
    return cmocka_run_group_tests_name("store_memory", tests, NULL, NULL);
}
