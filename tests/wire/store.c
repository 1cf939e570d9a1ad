// SPDX-License-Identifier: Apache-2.0
// The store on real SQLite: round trips, people kept apart, deletion, restart, damage, full disk, planted
// texts sought in every byte of the state folder, and a power cut before every single operation on a disk in
// memory.
#include "tests/wire/store_kit.h"

// ---- what it stores

static void test_a_conversation_comes_back(void **state)
{
    (void)state;
    struct hd_accepted a, b;
    assert_int_equal(ask(&owner, NULL, "Be brief.", "  What is a hearth?\nTell me.", &a), HEARTH_OK);
    assert_false(a.repeated);
    assert_int_equal(hd_store_answer_save(store, &a.assistant_turn, "A fire\xc3", 7, &err), HEARTH_OK);
    struct hd_conversation c = get(&a.conversation);
    assert_int_equal(c.n_turns, 3);
    assert_string_equal(c.turns[2].text, "A fire"); // without the half character
    assert_false(c.turns[2].finished);
    assert_false(c.turns[2].has_usage);
    hd_conversation_free(&c);
    assert_int_equal(answer(&a, "A fireplace. \xf0\x9f\x94\xa5"), HEARTH_OK);
    b = talk(&a.conversation, "Thanks", "");
    for (int restarted = 0; restarted < 2; restarted++) {
        c = get(&a.conversation);
        assert_string_equal(c.head.title, "What is a hearth?");
        assert_int_equal(c.head.turns, 5);
        assert_int_equal(c.n_turns, 5);
        static const enum hd_role roles[] = {HD_ROLE_SYSTEM, HD_ROLE_USER, HD_ROLE_ASSISTANT, HD_ROLE_USER,
                                             HD_ROLE_ASSISTANT};
        static const char *const texts[] = {"Be brief.", "  What is a hearth?\nTell me.",
                                            "A fireplace. \xf0\x9f\x94\xa5", "Thanks", ""};
        for (int i = 0; i < 5; i++) {
            assert_int_equal(c.turns[i].role, roles[i]);
            assert_string_equal(c.turns[i].text, texts[i]);
            assert_int_equal(c.turns[i].text_len, strlen(texts[i]));
            assert_true(c.turns[i].finished);
        }
        const struct hd_turn *t = &c.turns[2];
        assert_true(hd_id_equal(&t->id, &a.assistant_turn) && hd_id_equal(&t->parent, &a.user_turn));
        assert_true(hd_id_equal(&t->response, &a.response) && hd_id_equal(&c.turns[1].id, &a.user_turn));
        assert_int_equal(t->n_tokens, 4);
        assert_memory_equal(t->token_ids, some_tokens, sizeof some_tokens);
        assert_true(t->has_usage && t->usage.seed == some_usage.seed && t->usage.completion_ms == 9.25);
        assert_string_equal(t->usage.numerics_id, "cpu-vnni-1");
        assert_string_equal(t->usage.stop_reason, "end");
        struct hd_turn turn;
        struct hd_id conversation;
        assert_int_equal(hd_store_response_get(store, &owner, &b.response, &turn, &conversation, &err),
                         HEARTH_OK);
        assert_true(hd_id_equal(&turn.id, &b.assistant_turn) && hd_id_equal(&conversation, &a.conversation));
        hd_turn_free(&turn);
        hd_conversation_free(&c);
        reopen();
    }
    assert_int_equal(answer(&a, "again"), HEARTH_NOT_FOUND); // an answer ends once
}

static void test_a_request_counts_once(void **state)
{
    (void)state;
    struct hd_accepted a = talk(NULL, "one", "two"), b;
    next_request--;
    assert_int_equal(ask(&owner, NULL, NULL, "one", &b), HEARTH_OK);
    assert_true(b.repeated && hd_id_equal(&a.response, &b.response) &&
                hd_id_equal(&a.user_turn, &b.user_turn));
    struct hd_conversation_list list;
    assert_int_equal(hd_store_conversation_list(store, &owner, 0, 0, &list, &err), HEARTH_OK);
    assert_int_equal(list.n, 1);
    hd_conversation_list_free(&list);
    device.b[0] ^= 1; // the same request id of another device is another request
    next_request--;
    assert_int_equal(ask(&owner, NULL, NULL, "one", &b), HEARTH_OK);
    assert_false(b.repeated);
    device.b[0] ^= 1;
    struct hd_deleted deleted;
    assert_int_equal(hd_store_conversation_delete(store, &owner, &a.conversation, &deleted, &err), HEARTH_OK);
    hd_deleted_free(&deleted);
    next_request--; // what was deleted does not come back by a late repetition
    assert_int_equal(ask(&owner, NULL, NULL, "one", &b), HEARTH_OK);
    assert_true(b.repeated);
}

static void test_lists_have_pages(void **state)
{
    (void)state;
    struct hd_id ids[7];
    for (int i = 0; i < 7; i++) {
        char text[32];
        snprintf(text, sizeof text, "number %d", i);
        ids[i] = talk(NULL, text, "ok").conversation;
    }
    int64_t before = 0;
    int seen = 0;
    struct hd_conversation_list list;
    do {
        assert_int_equal(hd_store_conversation_list(store, &owner, 3, before, &list, &err), HEARTH_OK);
        for (size_t i = 0; i < list.n; i++, seen++) {
            assert_true(hd_id_equal(&list.items[i].id, &ids[6 - seen]));
            assert_true(before == 0 || list.items[i].updated_ms < before);
            before = list.items[i].updated_ms;
            assert_int_equal(list.items[i].turns, 2);
        }
        assert_true(list.more == (seen < 7));
        bool more = list.more;
        hd_conversation_list_free(&list);
        if (!more)
            break;
    } while (seen < 20);
    assert_int_equal(seen, 7);
    assert_int_equal(hd_store_conversation_list(store, &owner, HD_MAX_PAGE + 1, 0, &list, &err),
                     HEARTH_LIMIT);
    talk(&ids[2], "again", "ok"); // what is used becomes the newest
    assert_int_equal(hd_store_conversation_list(store, &owner, 1, 0, &list, &err), HEARTH_OK);
    assert_true(hd_id_equal(&list.items[0].id, &ids[2]));
    hd_conversation_list_free(&list);
}

static void test_limits(void **state)
{
    (void)state;
    struct hd_accepted a;
    char *big = calloc(1, HD_MAX_TEXT_BYTES + 2);
    memset(big, 'x', HD_MAX_TEXT_BYTES + 1);
    assert_int_equal(ask(&owner, NULL, NULL, big, &a), HEARTH_LIMIT);
    big[HD_MAX_TEXT_BYTES] = '\0';
    assert_int_equal(ask(&owner, NULL, NULL, big, &a), HEARTH_OK);
    assert_int_equal(ask(&owner, NULL, big, "hi", &a), HEARTH_LIMIT);
    assert_int_equal(ask(&owner, NULL, NULL, "", &a), HEARTH_INVALID);
    assert_int_equal(ask(&owner, NULL, NULL, "\xc0\xaf", &a), HEARTH_INVALID);
    assert_int_equal(ask(&owner, NULL, "\xed\xa0\x80", "hi", &a), HEARTH_INVALID);
    a = talk(NULL, "hi", "ho");
    struct hd_accepted b;
    assert_int_equal(ask(&owner, &a.conversation, "late", "hi", &b), HEARTH_INVALID);
    assert_int_equal(hd_store_conversation_rename(store, &owner, &a.conversation, big, 201, &err),
                     HEARTH_LIMIT);
    assert_int_equal(hd_store_conversation_rename(store, &owner, &a.conversation, big, 0, &err),
                     HEARTH_INVALID);
    assert_int_equal(hd_store_conversation_rename(store, &owner, &a.conversation, big, 200, &err), HEARTH_OK);
    assert_int_equal(ask(&owner, &a.conversation, NULL, "hi", &b), HEARTH_OK);
    assert_int_equal(hd_store_answer_save(store, &b.assistant_turn,
                                          "a\xff"
                                          "b",
                                          3, &err),
                     HEARTH_INVALID);
    struct hd_conversation c = get(&a.conversation);
    assert_int_equal(strlen(c.head.title), 200);
    hd_conversation_free(&c);
    free(big);
}

static void test_an_answer_has_an_end(void **state)
{
    (void)state;
    struct hd_accepted a;
    struct hd_usage usage = some_usage;
    assert_int_equal(ask(&owner, NULL, NULL, "hi", &a), HEARTH_OK);
    assert_int_equal(hd_store_answer_save(store, &a.assistant_turn, "x", HD_MAX_ANSWER_BYTES + 1, &err), HEARTH_LIMIT);
    assert_int_equal(hd_store_answer_finish(store, &a.assistant_turn, "x", 1, some_tokens, HD_MAX_ANSWER_TOKENS + 1,
                                            &usage, &err),
                     HEARTH_LIMIT);
    assert_int_equal(answer(&a, "ho"), HEARTH_OK);
}

static void test_a_title_ends_with_a_whole_character(void **state)
{
    (void)state;
    char text[80], title[80];
    memset(text, 'x', sizeof text);
    memcpy(text + 59, "\xc3\xa9 and more", 12); // its second byte would be one too many
    struct hd_accepted a = talk(NULL, text, "ok");
    snprintf(title, sizeof title, "%.59s\xe2\x80\xa6", text);
    struct hd_conversation c = get(&a.conversation);
    assert_string_equal(c.head.title, title);
    hd_conversation_free(&c);
}

// All of a conversation is read for each question: it has an end.
static void test_a_conversation_is_full_at_last(void **state)
{
    (void)state;
    char *big = calloc(1, HD_MAX_TEXT_BYTES + 1);
    memset(big, 'x', HD_MAX_TEXT_BYTES - 64); // sealing adds a little
    struct hd_accepted a = talk(NULL, big, "ok"), b;
    for (int i = 1; i < HD_MAX_CONVERSATION_BYTES / HD_MAX_TEXT_BYTES; i++)
        assert_int_equal(ask(&owner, &a.conversation, NULL, big, &b), HEARTH_OK);
    assert_int_equal(ask(&owner, &a.conversation, NULL, big, &b), HEARTH_LIMIT);
    assert_non_null(strstr(err.text, "full"));
    assert_int_equal(ask(&owner, NULL, NULL, big, &b), HEARTH_OK);
    free(big);
}

static void test_another_person_finds_nothing(void **state)
{
    (void)state;
    struct hd_accepted a = talk(NULL, "my secret", "kept"), b;
    struct hd_person other;
    assert_int_equal(hd_person_add(store, "other", &other, &err), HEARTH_OK);
    struct hd_conversation c;
    struct hd_turn turn;
    struct hd_id id;
    struct hd_deleted deleted;
    struct hd_conversation_list list;
    assert_int_equal(hd_store_conversation_get(store, &other.id, &a.conversation, false, &c, &err),
                     HEARTH_NOT_FOUND);
    assert_null(c.turns);
    assert_int_equal(hd_store_response_get(store, &other.id, &a.response, &turn, &id, &err),
                     HEARTH_NOT_FOUND);
    assert_int_equal(hd_store_conversation_rename(store, &other.id, &a.conversation, "x", 1, &err),
                     HEARTH_NOT_FOUND);
    assert_int_equal(hd_store_turn_delete(store, &other.id, &a.user_turn, &deleted, &err), HEARTH_NOT_FOUND);
    assert_int_equal(hd_store_conversation_delete(store, &other.id, &a.conversation, &deleted, &err),
                     HEARTH_NOT_FOUND);
    assert_int_equal(ask(&other.id, &a.conversation, NULL, "let me in", &b), HEARTH_NOT_FOUND);
    assert_int_equal(hd_store_conversation_list(store, &other.id, 0, 0, &list, &err), HEARTH_OK);
    assert_int_equal(list.n, 0);
    hd_conversation_list_free(&list);
    struct hd_id nobody = {{9}};
    assert_int_equal(ask(&nobody, NULL, NULL, "who am I", &b), HEARTH_NOT_FOUND);
    c = get(&a.conversation);
    assert_int_equal(c.n_turns, 2);
    hd_conversation_free(&c);
}

// ---- deletion

static void test_a_deleted_turn_takes_its_answers_and_its_title(void **state)
{
    (void)state;
    struct hd_accepted a = talk(NULL, "first question", "first answer");
    struct hd_accepted b = talk(&a.conversation, "second question", "second answer");
    struct hd_deleted deleted;
    assert_int_equal(hd_store_turn_delete(store, &owner, &a.user_turn, &deleted, &err), HEARTH_OK);
    assert_int_equal(deleted.n_turns, 2);
    assert_true(hd_id_equal(&deleted.turns[0], &a.user_turn) &&
                hd_id_equal(&deleted.turns[1], &a.assistant_turn));
    hd_deleted_free(&deleted);
    assert_false(hd_vault_has(hd_store_vault(store), &a.user_turn));
    assert_false(hd_vault_has(hd_store_vault(store), &a.assistant_turn));
    struct hd_conversation c = get(&a.conversation);
    assert_string_equal(c.head.title, "");
    assert_int_equal(c.n_turns, 2);
    assert_string_equal(c.turns[0].text, "second question");
    hd_conversation_free(&c);
    assert_int_equal(hd_store_turn_delete(store, &owner, &b.assistant_turn, &deleted, &err), HEARTH_OK);
    hd_deleted_free(&deleted);
    assert_int_equal(hd_store_turn_delete(store, &owner, &b.assistant_turn, &deleted, &err),
                     HEARTH_NOT_FOUND);
    talk(&a.conversation, "third question", "third answer");
    reopen();
    c = get(&a.conversation);
    assert_string_equal(c.head.title, "third question");
    assert_int_equal(c.n_turns, 3);
    hd_conversation_free(&c);
    struct hd_accepted open;
    assert_int_equal(ask(&owner, &a.conversation, NULL, "fourth", &open), HEARTH_OK);
    assert_int_equal(hd_store_conversation_delete(store, &owner, &a.conversation, &deleted, &err), HEARTH_OK);
    assert_int_equal(deleted.n_turns, 5);
    hd_deleted_free(&deleted);
    assert_int_equal(hd_vault_count(hd_store_vault(store)), 0);
    assert_int_equal(hd_store_answer_save(store, &open.assistant_turn, "late", 4, &err), HEARTH_NOT_FOUND);
    assert_int_equal(answer(&open, "late"), HEARTH_NOT_FOUND);
}

static void copy_file(const char *name, const char *to)
{
    char path[128];
    uint8_t *data;
    size_t n;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_int_equal(hd_io_read_file(path, 1 << 26, &data, &n, &err), HEARTH_OK);
    snprintf(path, sizeof path, "%s/%s", dir, to);
    assert_int_equal(hd_io_replace(path, data, n, &err), HEARTH_OK);
    free(data);
}

static void test_a_copied_database_opens_nothing_without_the_keys(void **state)
{
    (void)state;
    struct hd_accepted a = talk(NULL, "to be forgotten", "as you wish");
    struct hd_accepted kept = talk(NULL, "to be kept", "yes");
    hd_store_close(&store);
    copy_file("hearth.db", "copy.db");
    reopen();
    struct hd_deleted deleted;
    assert_int_equal(hd_store_conversation_delete(store, &owner, &a.conversation, &deleted, &err), HEARTH_OK);
    hd_deleted_free(&deleted);
    hd_store_close(&store);
    copy_file("copy.db", "hearth.db"); // the database from before, the keys of now
    assert_int_equal(try_open(false), HEARTH_FORMAT);
    assert_non_null(strstr(err.text, "3 stored texts have lost their keys"));
    assert_int_equal(try_open(true), HEARTH_OK);
    struct hd_conversation c;
    assert_int_equal(hd_store_conversation_get(store, &owner, &a.conversation, true, &c, &err),
                     HEARTH_NOT_FOUND);
    c = get(&kept.conversation);
    assert_string_equal(c.turns[0].text, "to be kept");
    hd_conversation_free(&c);
    reopen();
}

static void test_an_unfinished_answer_is_ended_by_the_next_start(void **state)
{
    (void)state;
    struct hd_accepted a;
    assert_int_equal(ask(&owner, NULL, NULL, "tell a story", &a), HEARTH_OK);
    assert_int_equal(hd_store_answer_save(store, &a.assistant_turn, "Once upon", 9, &err), HEARTH_OK);
    reopen();
    struct hd_conversation c = get(&a.conversation);
    assert_string_equal(c.turns[1].text, "Once upon");
    assert_true(c.turns[1].finished);
    assert_string_equal(c.turns[1].usage.stop_reason, "error");
    hd_conversation_free(&c);
}

// ---- tampering with rows

static void edit(const char *sql)
{
    char path[128];
    sqlite3 *db;
    snprintf(path, sizeof path, "%s/hearth.db", dir);
    hd_store_close(&store);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK)
        fail_msg("%s", sqlite3_errmsg(db));
    sqlite3_close(db);
    reopen();
}

static void test_a_request_is_remembered_for_thirty_days(void **state)
{
    (void)state;
    struct hd_accepted b;
    talk(NULL, "one", "ok");
    talk(NULL, "two", "ok");
    edit("UPDATE responses SET created = created - 86400000 * iif(rank = 1, 31, 29) FROM"
         " (SELECT request AS r, row_number() OVER (ORDER BY request) AS rank FROM responses) WHERE request = r");
    assert_int_equal(hd_store_tick(store, &err), HEARTH_OK);
    next_request -= 2;
    assert_int_equal(ask(&owner, NULL, NULL, "one", &b), HEARTH_OK);
    assert_false(b.repeated);
    assert_int_equal(ask(&owner, NULL, NULL, "two", &b), HEARTH_OK);
    assert_true(b.repeated);
}

static void test_swapped_and_changed_rows_are_refused(void **state)
{
    (void)state;
    static const char *const edits[] = {
        "UPDATE turns SET text = (SELECT text FROM turns WHERE seq = 4) WHERE seq = 2",
        "UPDATE turns SET text = token_ids WHERE seq = 2",
        "UPDATE turns SET text = (SELECT title FROM conversations) WHERE seq = 1",
        "UPDATE turns SET text = substr(text, 1, length(text) - 1) WHERE seq = 3",
        "UPDATE turns SET text = CAST('in plain words, long enough to look sealed' AS BLOB) WHERE seq = 1",
        "UPDATE turns SET text = x'' WHERE seq = 1",
        "UPDATE turns SET token_ids = text WHERE seq = 2",
        "UPDATE conversations SET title = (SELECT text FROM turns WHERE seq = 1)",
    };
    for (size_t i = 0; i < sizeof edits / sizeof *edits; i++) {
        struct hd_accepted a;
        assert_int_equal(ask(&owner, NULL, "system", "one", &a), HEARTH_OK); // seq 0, 1, 2
        assert_int_equal(answer(&a, "two"), HEARTH_OK);
        talk(&a.conversation, "three", "four");
        edit(edits[i]);
        struct hd_conversation c;
        assert_int_equal(hd_store_conversation_get(store, &owner, &a.conversation, true, &c, &err),
                         HEARTH_FORMAT);
        assert_non_null(strstr(err.text, "damaged"));
        assert_null(c.turns);
        struct hd_deleted deleted; // and can still be deleted
        assert_int_equal(hd_store_conversation_delete(store, &owner, &a.conversation, &deleted, &err),
                         HEARTH_OK);
        hd_deleted_free(&deleted);
    }
}

// ---- no text in plain

static const char *const canaries[] = {"canary-in-a-question", "canary-in-an-answer",
                                       "canary-in-a-system-text", "canary-in-a-title", "canary-in-a-partial"};
struct hunt {
    int files, found;
};

static void hunt_in(const char *path, void *user)
{
    struct hunt *hunt = user;
    uint8_t *data;
    size_t n;
    assert_int_equal(hd_io_read_file(path, 1 << 26, &data, &n, &err), HEARTH_OK);
    hunt->files++;
    for (size_t i = 0; i < sizeof canaries / sizeof *canaries; i++)
        hunt->found += memmem(data, n, canaries[i], strlen(canaries[i])) != NULL;
    hunt->found += memmem(data, n, some_tokens, sizeof some_tokens) != NULL;
    free(data);
}

static void plant(void)
{
    struct hd_accepted a;
    assert_int_equal(ask(&owner, NULL, "canary-in-a-system-text", "canary-in-a-question", &a), HEARTH_OK);
    assert_int_equal(hd_store_answer_save(store, &a.assistant_turn, "canary-in-a-partial", 19, &err),
                     HEARTH_OK);
    assert_int_equal(answer(&a, "canary-in-an-answer"), HEARTH_OK);
    assert_int_equal(
        hd_store_conversation_rename(store, &owner, &a.conversation, "canary-in-a-title", 17, &err),
        HEARTH_OK);
}

static void test_no_text_stands_in_plain(void **state)
{
    (void)state;
    for (int i = 0; i < 50; i++)
        plant();
    struct hunt hunt = {0};
    each_file(hunt_in, &hunt); // while it runs: the log is there
    assert_int_equal(hunt.files, 5);
    hd_store_close(&store);
    each_file(hunt_in, &hunt);
    assert_int_equal(hunt.found, 0);
    FILE *f;
    char path[128];
    snprintf(path, sizeof path, "%s/planted", dir); // the hunt itself can fail
    assert_non_null(f = fopen(path, "w"));
    fputs("..canary-in-a-title..", f);
    fclose(f);
    each_file(hunt_in, &hunt);
    assert_int_equal(hunt.found, 1);
}

static void test_no_text_was_ever_written_in_plain(void **state)
{
    (void)state;
    reopen();
    plant();
    assert_int_equal(hd_store_tick(store, &err), HEARTH_OK);
    reopen();
    for (size_t i = 0; i < sizeof canaries / sizeof *canaries; i++)
        assert_false(simdisk_ever_held(disk, canaries[i], strlen(canaries[i])));
    assert_true(simdisk_ever_held(disk, "SQLite format 3", 15));
}

// ---- damage

static void change_file(const char *name, size_t offset, const void *data, size_t n)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "r+");
    assert_non_null(f);
    assert_int_equal(fseek(f, (long)offset, SEEK_SET), 0);
    assert_int_equal(fwrite(data, 1, n, f), n);
    fclose(f);
}

struct sum {
    uint8_t hash[HD_HASH_BYTES];
};

static void add_sum(const char *path, void *user)
{
    struct sum *sum = user;
    uint8_t *data, hash[HD_HASH_BYTES];
    size_t n;
    assert_int_equal(hd_io_read_file(path, 1 << 26, &data, &n, &err), HEARTH_OK);
    hd_sha256(hash, data, n);
    for (int i = 0; i < HD_HASH_BYTES; i++)
        sum->hash[i] ^= hash[i];
    free(data);
}

static void assert_refused(const char *said)
{
    struct sum before = {0}, after = {0};
    each_file(add_sum, &before);
    assert_int_equal(try_open(false), HEARTH_FORMAT);
    assert_null(store);
    if (strstr(err.text, said) == NULL)
        fail_msg("'%s' is not in '%s'", said, err.text);
    each_file(add_sum, &after);
    assert_memory_equal(&before, &after, sizeof before);
}

static void move(const char *from, const char *to)
{
    char a[128], b[128];
    snprintf(a, sizeof a, "%s/%s", dir, from);
    snprintf(b, sizeof b, "%s/%s", dir, to);
    assert_int_equal(rename(a, b), 0);
}

static void test_damaged_files_are_named_and_kept(void **state)
{
    (void)state;
    struct hd_accepted a = talk(NULL, "keep this", "kept");
    hd_store_close(&store);
    copy_file("hearth.db", "good.db");
    copy_file("turns.keys", "good.keys");
    uint8_t garbage[4096];
    memset(garbage, 0x5a, sizeof garbage);
    change_file("hearth.db", 0, garbage, 100);
    assert_refused("hearth.db is damaged");
    copy_file("good.db", "hearth.db");
    change_file("hearth.db", 4096 * 2, garbage, sizeof garbage);
    assert_refused("hearth.db is damaged");
    copy_file("good.db", "hearth.db");
    change_file("turns.keys", 3, garbage, 4);
    assert_refused("turns.keys is damaged");
    copy_file("good.keys", "turns.keys");
    change_file("turns.keys", 80 + 50, garbage, 1);
    assert_refused("turns.keys is damaged or older");
    copy_file("good.keys", "turns.keys");
    move("turns.keys", "away.keys");
    assert_refused("turns.keys is missing");
    move("away.keys", "turns.keys");
    move("box.key", "away.key");
    assert_refused("box.key is missing");
    move("away.key", "box.key");
    move("hearth.db", "away.db");
    assert_refused("hearth.db is missing");
    move("away.db", "hearth.db");
    reopen();
    struct hd_conversation c = get(&a.conversation);
    assert_string_equal(c.turns[1].text, "kept");
    hd_conversation_free(&c);
    hd_store_close(&store);
    char path[128];
    sqlite3 *db;
    snprintf(path, sizeof path, "%s/hearth.db", dir);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "PRAGMA user_version = 99", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    assert_int_equal(try_open(false), HEARTH_FORMAT);
    assert_non_null(strstr(err.text, "newer Hearth"));
}

static void test_another_program_keeps_out(void **state)
{
    (void)state;
    struct hd_store *second;
    struct hd_store_options options = {.dir = dir};
    assert_int_equal(hd_store_open(&second, &options, &err), HEARTH_BUSY);
    char path[128];
    snprintf(path, sizeof path, "%s/hearth.db", dir);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) { // sqlite3 itself, in another process
        sqlite3 *db;
        int code = sqlite3_open(path, &db);
        if (code == SQLITE_OK)
            code = sqlite3_exec(db, "SELECT * FROM people", NULL, NULL, NULL);
        _exit(code);
    }
    int result;
    assert_int_equal(waitpid(child, &result, 0), child);
    assert_true(WIFEXITED(result));
    assert_int_equal(WEXITSTATUS(result), SQLITE_BUSY);
}

static void test_the_model_is_remembered(void **state)
{
    (void)state;
    char name[HD_MAX_MODEL_BYTES + 1];
    assert_int_equal(hd_store_model_get(store, name, &err), HEARTH_NOT_FOUND);
    assert_int_equal(hd_store_model_set(store, "one", NULL, &err), HEARTH_OK);
    assert_int_equal(hd_store_model_set(store, "two", "ab", &err), HEARTH_OK);
    assert_int_equal(hd_store_model_set(store, "one", "cd", &err), HEARTH_OK);
    reopen();
    assert_int_equal(hd_store_model_get(store, name, &err), HEARTH_OK);
    assert_string_equal(name, "one");
    assert_int_equal(hd_store_model_set(store, "", NULL, &err), HEARTH_INVALID);
    char long_name[HD_MAX_MODEL_BYTES + 2];
    memset(long_name, 'x', sizeof long_name - 1);
    long_name[sizeof long_name - 1] = 0;
    assert_int_equal(hd_store_model_set(store, long_name, NULL, &err), HEARTH_INVALID);
}

// ---- full disk

static void test_a_full_disk_loses_nothing(void **state)
{
    (void)state;
    reopen();
    struct hd_accepted first = talk(NULL, "before", "it was full"), open, a;
    assert_int_equal(ask(&owner, NULL, NULL, "open", &open), HEARTH_OK);
    simdisk_set_capacity(disk, 700000);
    char *text = calloc(1, 5001);
    memset(text, 'y', 5000);
    unsigned n = 0;
    while (ask(&owner, NULL, NULL, text, &a) == HEARTH_OK && n < 1000)
        n++;
    assert_in_range(n, 3, 100);
    assert_int_equal(err.code, HEARTH_IO);
    struct hd_usage usage = some_usage;
    char *answer_text = calloc(1, 300001);
    memset(answer_text, 'z', 300000);
    assert_int_equal(
        hd_store_answer_finish(store, &open.assistant_turn, answer_text, 300000, NULL, 0, &usage, &err),
        HEARTH_IO);
    assert_non_null(strstr(err.text, "disk is full"));
    struct hd_conversation c = get(&first.conversation); // reading goes on
    assert_string_equal(c.turns[0].text, "before");
    hd_conversation_free(&c);
    simdisk_set_capacity(disk, 0); // and so does writing, once there is room
    assert_int_equal(
        hd_store_answer_finish(store, &open.assistant_turn, answer_text, 300000, NULL, 0, &usage, &err),
        HEARTH_OK);
    a = talk(&first.conversation, "after", "there is room");
    reopen();
    struct hd_conversation_list list;
    assert_int_equal(hd_store_conversation_list(store, &owner, 200, 0, &list, &err), HEARTH_OK);
    assert_int_equal(list.n, 2 + n);
    hd_conversation_list_free(&list);
    c = get(&first.conversation);
    assert_int_equal(c.n_turns, 4);
    hd_conversation_free(&c);
    c = get(&open.conversation);
    assert_int_equal(c.turns[1].text_len, 300000);
    hd_conversation_free(&c);
    free(text);
    free(answer_text);
}

int main(void)
{
#define REAL(test) cmocka_unit_test_setup_teardown(test, setup_real, teardown_real)
#define SIM(test) cmocka_unit_test_setup_teardown(test, setup_sim, teardown_sim)
    const struct CMUnitTest tests[] = {
        REAL(test_a_conversation_comes_back),
        REAL(test_a_request_counts_once),
        REAL(test_lists_have_pages),
        REAL(test_limits),
        REAL(test_an_answer_has_an_end),
        REAL(test_a_title_ends_with_a_whole_character),
        REAL(test_a_conversation_is_full_at_last),
        REAL(test_another_person_finds_nothing),
        REAL(test_a_deleted_turn_takes_its_answers_and_its_title),
        REAL(test_a_copied_database_opens_nothing_without_the_keys),
        REAL(test_an_unfinished_answer_is_ended_by_the_next_start),
        REAL(test_a_request_is_remembered_for_thirty_days),
        REAL(test_swapped_and_changed_rows_are_refused),
        REAL(test_no_text_stands_in_plain),
        SIM(test_no_text_was_ever_written_in_plain),
        REAL(test_damaged_files_are_named_and_kept),
        REAL(test_another_program_keeps_out),
        REAL(test_the_model_is_remembered),
        SIM(test_a_full_disk_loses_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
