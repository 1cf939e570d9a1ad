// SPDX-License-Identifier: Apache-2.0
// People, devices, tokens and pairing secrets on real SQLite and real files.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <sqlite3.h>
#include <unistd.h>

#include "firmware/io.h"
#include "firmware/people.h"
#include "firmware/vault.h"
#include "tests/check/fault.h"

static char dir[64];
static struct hearth_error err;
static struct hd_store *store;
static struct hd_person owner;
static int64_t now_ms;
static struct hd_id revoked[4];
static int n_revoked;

static int64_t test_clock(void)
{
    return now_ms;
}

static void quiet(void *user, enum hd_log_level level, const char *line)
{
    (void)user, (void)level, (void)line;
}

static void note_revoked(void *user, const struct hd_id *device)
{
    assert_ptr_equal(user, &n_revoked);
    revoked[n_revoked++] = *device;
}

static void reopen(void)
{
    struct hd_store_options options = {.dir = dir};
    hd_store_close(&store);
    if (hd_store_open(&store, &options, &err) != HEARTH_OK)
        fail_msg("%s", err.text);
    hd_devices_on_revoked(store, note_revoked, &n_revoked);
}

static int setup(void **state)
{
    (void)state;
    hd_log_set(quiet, NULL);
    now_ms = 1800000000000;
    hd_clock_set(test_clock);
    n_revoked = 0;
    check_folder_make(dir);
    reopen();
    assert_int_equal(hd_person_find(store, "owner", &owner, &err), HEARTH_OK);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    hd_store_close(&store);
    check_folder_remove(dir);
    hd_clock_set(NULL);
    hd_log_set(NULL, NULL);
    return 0;
}

static struct hd_device pair(const struct hd_person *person, uint32_t scopes, const char *name,
                             uint8_t token[HD_SECRET_BYTES])
{
    uint8_t secret[HD_SECRET_BYTES];
    struct hd_device device;
    assert_int_equal(hd_pair_create(store, &person->id, scopes, 0, secret, &err), HEARTH_OK);
    assert_int_equal(hd_pair_redeem(store, secret, sizeof secret, name, "test 1", &device, token, &err),
                     HEARTH_OK);
    return device;
}

static enum hearth_status authenticate(const uint8_t token[HD_SECRET_BYTES], struct hd_device *device)
{
    return hd_device_authenticate(store, token, HD_SECRET_BYTES, NULL, device, &err);
}

static void test_people_come_and_go(void **state)
{
    (void)state;
    struct hd_person ann, again, *people;
    struct hd_deleted deleted;
    size_t n;
    assert_int_equal(hd_person_remove(store, &owner.id, &deleted, &err), HEARTH_INVALID); // the last one
    now_ms += 10;
    assert_int_equal(hd_person_add(store, "Änn", &ann, &err), HEARTH_OK);
    assert_string_equal(ann.name, "Änn");
    assert_int_equal(ann.created_ms, now_ms);
    assert_int_equal(hd_person_add(store, "Änn", &again, &err), HEARTH_INVALID);
    static const char *const bad[] = {"", "a\nb", "\x7f", "\xff"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(hd_person_add(store, bad[i], &again, &err), HEARTH_INVALID);
    char name[66];
    memset(name, 'n', 65);
    name[65] = '\0';
    assert_int_equal(hd_person_add(store, name, &again, &err), HEARTH_LIMIT);
    name[64] = '\0';
    assert_int_equal(hd_person_add(store, name, &again, &err), HEARTH_OK);
    reopen();
    assert_int_equal(hd_people_list(store, &people, &n, &err), HEARTH_OK);
    assert_int_equal(n, 3);
    assert_true(hd_id_equal(&people[0].id, &owner.id) && hd_id_equal(&people[1].id, &ann.id));
    assert_string_equal(people[2].name, name);
    free(people);
    assert_int_equal(hd_person_remove(store, &ann.id, &deleted, &err), HEARTH_OK);
    hd_deleted_free(&deleted);
    assert_int_equal(hd_person_get(store, &ann.id, &again, &err), HEARTH_NOT_FOUND);
    assert_int_equal(hd_person_remove(store, &ann.id, &deleted, &err), HEARTH_NOT_FOUND);
    for (int i = 2; i < HD_MAX_PEOPLE; i++) {
        snprintf(name, sizeof name, "person %d", i);
        assert_int_equal(hd_person_add(store, name, &again, &err), HEARTH_OK);
    }
    assert_int_equal(hd_person_add(store, "one too many", &again, &err), HEARTH_LIMIT);
}

static void test_a_removed_person_takes_everything_along(void **state)
{
    (void)state;
    struct hd_person ann;
    uint8_t token[HD_SECRET_BYTES], owners_token[HD_SECRET_BYTES], secret[HD_SECRET_BYTES],
        none[HD_SECRET_BYTES];
    assert_int_equal(hd_person_add(store, "ann", &ann, &err), HEARTH_OK);
    struct hd_device device = pair(&ann, HD_SCOPE_CHAT, "phone", token), found;
    pair(&owner, HD_SCOPE_ALL, "desk", owners_token);
    assert_int_equal(hd_pair_create(store, &ann.id, HD_SCOPE_CHAT, 0, secret, &err), HEARTH_OK);
    struct hd_chat chat = {
        .person = ann.id, .device = device.id, .request = {{1}}, .text = "hello", .text_len = 5};
    struct hd_accepted accepted;
    struct hd_deleted deleted;
    assert_int_equal(hd_store_chat_begin(store, &chat, &accepted, &err), HEARTH_OK);
    assert_int_equal(hd_vault_count(hd_store_vault(store)), 3);
    assert_int_equal(hd_person_remove(store, &ann.id, &deleted, &err), HEARTH_OK);
    assert_int_equal(deleted.n_turns, 2);
    hd_deleted_free(&deleted);
    assert_int_equal(hd_vault_count(hd_store_vault(store)), 0);
    assert_int_equal(n_revoked, 1);
    assert_true(hd_id_equal(&revoked[0], &device.id));
    assert_int_equal(authenticate(token, &found), HEARTH_NOT_FOUND);
    assert_int_equal(authenticate(owners_token, &found), HEARTH_OK);
    assert_int_equal(hd_pair_redeem(store, secret, 32, "tablet", "", &found, none, &err), HEARTH_NOT_FOUND);
    assert_int_equal(hd_store_chat_begin(store, &chat, &accepted, &err), HEARTH_NOT_FOUND);
}

static void test_a_secret_pairs_one_device_once(void **state)
{
    (void)state;
    uint8_t secret[HD_SECRET_BYTES], token[HD_SECRET_BYTES], second[HD_SECRET_BYTES],
        zero[HD_SECRET_BYTES] = {0};
    struct hd_device device, found;
    bool ever;
    assert_int_equal(hd_invited(store, &ever, &err), HEARTH_OK);
    assert_false(ever);
    assert_int_equal(hd_pair_create(store, &owner.id, HD_SCOPE_CHAT | HD_SCOPE_ADMIN, 0, secret, &err),
                     HEARTH_OK);
    for (int i = 0; i < HD_SECRET_BYTES; i++) { // nothing near it fits
        secret[i] ^= 1;
        assert_int_equal(hd_pair_redeem(store, secret, 32, "phone", "", &device, token, &err),
                         HEARTH_NOT_FOUND);
        assert_memory_equal(token, zero, sizeof zero);
        secret[i] ^= 1;
    }
    assert_int_equal(hd_pair_redeem(store, secret, 31, "phone", "", &device, token, &err), HEARTH_NOT_FOUND);
    assert_int_equal(hd_pair_redeem(store, secret, 0, "phone", "", &device, token, &err), HEARTH_NOT_FOUND);
    assert_int_equal(hd_pair_redeem(store, secret, 32, "", "", &device, token, &err), HEARTH_INVALID);
    char client[HD_MAX_NAME_BYTES + 2] = "";
    memset(client, 'c', HD_MAX_NAME_BYTES + 1);
    assert_int_equal(hd_pair_redeem(store, secret, 32, "phone", client, &device, token, &err), HEARTH_LIMIT);
    assert_int_equal(hd_pair_redeem(store, secret, 32, "phone", "a\nb", &device, token, &err), HEARTH_INVALID);
    reopen();
    assert_int_equal(hd_pair_redeem(store, secret, 32, "phone", "web 0.1", &device, token, &err), HEARTH_OK);
    assert_int_equal(hd_pair_redeem(store, secret, 32, "thief", "web 0.1", &found, second, &err),
                     HEARTH_NOT_FOUND);
    assert_memory_equal(second, zero, sizeof zero);
    assert_string_equal(device.person_name, "owner");
    assert_int_equal(device.scopes, HD_SCOPE_CHAT | HD_SCOPE_ADMIN);
    reopen();
    assert_int_equal(hd_invited(store, &ever, &err), HEARTH_OK);
    assert_false(ever); // the box's own terminal pairs without an invitation
    assert_int_equal(hd_invite(store, &err), HEARTH_OK);
    assert_int_equal(hd_invite(store, &err), HEARTH_OK);
    reopen();
    assert_int_equal(hd_invited(store, &ever, &err), HEARTH_OK);
    assert_true(ever);
    assert_int_equal(authenticate(token, &found), HEARTH_OK);
    assert_true(hd_id_equal(&found.id, &device.id) && hd_id_equal(&found.person, &owner.id));
    assert_int_equal(found.scopes, device.scopes);
    assert_string_equal(found.name, "phone");
    assert_string_equal(found.client, "web 0.1");
}

static void test_secrets_expire_and_are_few(void **state)
{
    (void)state;
    uint8_t secret[HD_SECRET_BYTES], token[HD_SECRET_BYTES];
    struct hd_device device;
    assert_int_equal(hd_pair_create(store, &owner.id, HD_SCOPE_CHAT, 1000, secret, &err), HEARTH_OK);
    now_ms += 1000;
    assert_int_equal(hd_pair_redeem(store, secret, 32, "phone", "", &device, token, &err), HEARTH_NOT_FOUND);
    now_ms -= 1;
    assert_int_equal(hd_pair_redeem(store, secret, 32, "phone", "", &device, token, &err), HEARTH_OK);
    assert_int_equal(hd_pair_create(store, &owner.id, 0, 0, secret, &err), HEARTH_INVALID);
    assert_int_equal(hd_pair_create(store, &owner.id, 8, 0, secret, &err), HEARTH_INVALID);
    assert_int_equal(hd_pair_create(store, &owner.id, 1, -1, secret, &err), HEARTH_INVALID);
    assert_int_equal(hd_pair_create(store, &owner.id, 1, HD_MAX_PAIR_TTL_MS + 1, secret, &err),
                     HEARTH_INVALID);
    struct hd_id nobody = {{3}};
    assert_int_equal(hd_pair_create(store, &nobody, 1, 0, secret, &err), HEARTH_NOT_FOUND);
    for (int i = 0; i < HD_MAX_PAIR_SECRETS; i++)
        assert_int_equal(hd_pair_create(store, &owner.id, 1, 0, secret, &err), HEARTH_OK);
    assert_int_equal(hd_pair_create(store, &owner.id, 1, 0, secret, &err), HEARTH_LIMIT);
    now_ms += HD_DEFAULT_PAIR_TTL_MS; // they end by themselves, and count no more before they are swept away
    assert_int_equal(hd_pair_create(store, &owner.id, 1, 0, secret, &err), HEARTH_OK);
    assert_int_equal(hd_store_tick(store, &err), HEARTH_OK);
    assert_int_equal(hd_pair_create(store, &owner.id, 1, 0, secret, &err), HEARTH_OK);
}

static void in_sql(const char *sql)
{
    char path[128];
    sqlite3 *db;
    hd_store_close(&store);
    snprintf(path, sizeof path, "%s/hearth.db", dir);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK)
        fail_msg("%s", sqlite3_errmsg(db));
    sqlite3_close(db);
    reopen();
}

static void test_a_pairing_that_fails_leaves_the_link_open(void **state)
{
    (void)state;
    uint8_t secret[HD_SECRET_BYTES], token[HD_SECRET_BYTES], zero[HD_SECRET_BYTES] = {0};
    struct hd_device device;
    assert_int_equal(hd_pair_create(store, &owner.id, HD_SCOPE_CHAT, 0, secret, &err), HEARTH_OK);
    pair(&owner, HD_SCOPE_ALL, "desk", token);
    in_sql("CREATE UNIQUE INDEX broken ON devices(person)"); // the second one of a person cannot be written
    assert_int_equal(hd_pair_redeem(store, secret, 32, "phone", "", &device, token, &err), HEARTH_IO);
    assert_memory_equal(token, zero, sizeof zero);
    assert_true(hd_id_is_zero(&device.person));
    in_sql("DROP INDEX broken");
    assert_int_equal(hd_pair_redeem(store, secret, 32, "phone", "", &device, token, &err), HEARTH_OK);
}

static void test_devices_are_bounded(void **state)
{
    (void)state;
    char sql[400];
    uint8_t secret[HD_SECRET_BYTES], token[HD_SECRET_BYTES];
    struct hd_device device;
    assert_int_equal(hd_pair_create(store, &owner.id, HD_SCOPE_CHAT, 0, secret, &err), HEARTH_OK);
    snprintf(sql, sizeof sql,
             "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d)"
             " INSERT INTO devices SELECT randomblob(16), (SELECT id FROM people), 'x', '', randomblob(32), 1, 1, 1,"
             " iif(i > %d, 1, NULL) FROM n", // some were revoked: they do not count
             HD_MAX_DEVICES + 5, HD_MAX_DEVICES);
    in_sql(sql);
    assert_int_equal(hd_pair_redeem(store, secret, 32, "phone", "", &device, token, &err), HEARTH_LIMIT);
    in_sql("UPDATE devices SET revoked = 1 WHERE rowid = 1");
    assert_int_equal(hd_pair_redeem(store, secret, 32, "phone", "", &device, token, &err), HEARTH_OK);
}

static void test_tokens(void **state)
{
    (void)state;
    uint8_t token[HD_SECRET_BYTES];
    struct hd_device device = pair(&owner, HD_SCOPE_ALL, "phone", token), found;
    for (int i = 0; i < HD_SECRET_BYTES; i++) {
        token[i] ^= 0x80;
        assert_int_equal(authenticate(token, &found), HEARTH_NOT_FOUND);
        assert_true(hd_id_is_zero(&found.person) && found.scopes == 0);
        token[i] ^= 0x80;
    }
    assert_int_equal(hd_device_authenticate(store, token, 31, NULL, &found, &err), HEARTH_NOT_FOUND);
    assert_int_equal(hd_device_authenticate(store, token, 0, NULL, &found, &err), HEARTH_NOT_FOUND);
    uint8_t hash[HD_HASH_BYTES]; // what the box stores is no token
    hd_sha256(hash, token, sizeof token);
    assert_int_equal(authenticate(hash, &found), HEARTH_NOT_FOUND);
    assert_int_equal(hd_device_authenticate(store, token, 32, "web 0.2", &found, &err), HEARTH_OK);
    assert_int_equal(hd_device_authenticate(store, token, 32, "a\nb", &found, &err), HEARTH_INVALID);
    reopen();
    assert_int_equal(authenticate(token, &found), HEARTH_OK);
    assert_string_equal(found.client, "web 0.2");
    assert_true(hd_id_equal(&found.id, &device.id));
}

static void test_revoked_devices_stay_out(void **state)
{
    (void)state;
    uint8_t token[2][HD_SECRET_BYTES];
    struct hd_person ann;
    assert_int_equal(hd_person_add(store, "ann", &ann, &err), HEARTH_OK);
    struct hd_device mine = pair(&owner, HD_SCOPE_ALL, "phone", token[0]);
    struct hd_device anns = pair(&ann, HD_SCOPE_CHAT, "tablet", token[1]), found, *devices;
    size_t n;
    assert_int_equal(hd_devices_list(store, NULL, &devices, &n, &err), HEARTH_OK);
    assert_int_equal(n, 2);
    free(devices);
    assert_int_equal(hd_devices_list(store, &ann.id, &devices, &n, &err), HEARTH_OK);
    assert_int_equal(n, 1);
    assert_true(hd_id_equal(&devices[0].id, &anns.id));
    assert_string_equal(devices[0].person_name, "ann");
    free(devices);
    struct hd_id zero = {{0}}; // a person that was never set is not "everybody"
    assert_int_equal(hd_devices_list(store, &zero, &devices, &n, &err), HEARTH_NOT_FOUND);
    assert_int_equal(hd_device_revoke(store, &zero, &mine.id, &err), HEARTH_NOT_FOUND);
    assert_int_equal(hd_device_revoke(store, &ann.id, &mine.id, &err), HEARTH_NOT_FOUND);
    assert_int_equal(n_revoked, 0);
    assert_int_equal(hd_device_revoke(store, &owner.id, &mine.id, &err), HEARTH_OK);
    assert_int_equal(n_revoked, 1);
    assert_true(hd_id_equal(&revoked[0], &mine.id));
    assert_int_equal(hd_device_revoke(store, &owner.id, &mine.id, &err), HEARTH_NOT_FOUND);
    assert_int_equal(authenticate(token[0], &found), HEARTH_NOT_FOUND);
    assert_int_equal(authenticate(token[1], &found), HEARTH_OK);
    reopen();
    assert_int_equal(authenticate(token[0], &found), HEARTH_NOT_FOUND);
    assert_int_equal(hd_device_revoke(store, NULL, &anns.id, &err), HEARTH_OK);
    assert_int_equal(hd_devices_list(store, NULL, &devices, &n, &err), HEARTH_OK);
    assert_int_equal(n, 0);
    free(devices);
}

static int64_t last_seen_of(const struct hd_id *id)
{
    struct hd_device *devices;
    size_t n;
    int64_t at = -1;
    assert_int_equal(hd_devices_list(store, NULL, &devices, &n, &err), HEARTH_OK);
    for (size_t i = 0; i < n; i++)
        at = hd_id_equal(&devices[i].id, id) ? devices[i].last_seen_ms : at;
    free(devices);
    return at;
}

static void test_last_seen(void **state)
{
    (void)state;
    enum { N = 70 }; // more than are held in memory
    static struct hd_device devices[N];
    uint8_t token[HD_SECRET_BYTES];
    for (int i = 0; i < N; i++)
        devices[i] = pair(&owner, HD_SCOPE_CHAT, "phone", token);
    int64_t first = now_ms;
    for (int i = 0; i < N; i++) {
        now_ms++;
        hd_device_seen(store, &devices[i].id);
        hd_device_seen(store, &devices[i].id);
    }
    for (int i = 0; i < N; i++)
        assert_int_equal(last_seen_of(&devices[i].id), first + 1 + i);
    reopen(); // closing writes them
    for (int i = 0; i < N; i++)
        assert_int_equal(last_seen_of(&devices[i].id), first + 1 + i);
    now_ms++;
    for (int i = 0; i < 2 * N; i++) // one that comes again and again takes one place
        hd_device_seen(store, &devices[0].id);
    hd_device_seen(store, &devices[1].id);
    reopen();
    assert_int_equal(last_seen_of(&devices[0].id), now_ms);
    assert_int_equal(last_seen_of(&devices[1].id), now_ms);
    assert_int_equal(last_seen_of(&devices[2].id), first + 3);
}

static void test_secrets_are_stored_hashed(void **state)
{
    (void)state;
    uint8_t token[HD_SECRET_BYTES], secret[HD_SECRET_BYTES], hash[HD_HASH_BYTES];
    pair(&owner, HD_SCOPE_CHAT, "planted-device-name", token);
    assert_int_equal(hd_pair_create(store, &owner.id, HD_SCOPE_CHAT, 0, secret, &err), HEARTH_OK);
    hd_sha256(hash, token, sizeof token);
    hd_store_close(&store);
    static const char *const names[] = {"hearth.db", "turns.keys", "box.key"};
    int found_hash = 0;
    for (int i = 0; i < 3; i++) {
        char path[128];
        uint8_t *data;
        size_t n;
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        assert_int_equal(hd_io_read_file(path, 1 << 24, &data, &n, &err), HEARTH_OK);
        assert_null(memmem(data, n, token, sizeof token));
        assert_null(memmem(data, n, secret, sizeof secret));
        found_hash += memmem(data, n, hash, sizeof hash) != NULL;
        free(data);
    }
    assert_int_equal(found_hash, 1);
}

static void test_scopes_have_names(void **state)
{
    (void)state;
    static const char *const names[] = {"chat", "train", "admin"};
    for (uint32_t i = 0; i < 3; i++) {
        assert_string_equal(hd_scope_name(1u << i), names[i]);
        assert_int_equal(hd_scope_from(names[i]), 1u << i);
    }
    assert_null(hd_scope_name(0));
    assert_null(hd_scope_name(3));
    assert_null(hd_scope_name(8));
    assert_int_equal(hd_scope_from("root"), 0);
}

static void test_helpers(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool good;
    } texts[] = {{"plain", true},
                 {"\xc3\xa4", true},
                 {"\xe2\x82\xac", true},
                 {"\xf4\x8f\xbf\xbf", true},
                 {"\xf4\x90\x80\x80", false},
                 {"\xed\x9f\xbf", true},
                 {"\xed\xa0\x80", false},
                 {"\xc0\x80", false},
                 {"\xe0\x9f\xbf", false},
                 {"\xf0\x8f\xbf\xbf", false},
                 {"\x80", false},
                 {"\xc3", false},
                 {"\xf8\x88\x80\x80\x80", false}};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        assert_int_equal(hd_utf8_valid(texts[i].text, strlen(texts[i].text)), texts[i].good);
    assert_false(hd_utf8_valid("a\0b", 3));
    static const char text[] = "a\xc3\xa4\xe2\x82\xac\xf0\x9f\x94\xa5";
    static const size_t cuts[] = {0, 1, 1, 3, 3, 3, 6, 6, 6, 6, 10, 10};
    for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++)
        assert_int_equal(hd_utf8_cut(text, 10, i), cuts[i]);
    char hex[9];
    uint8_t bytes[4];
    hd_hex(hex, "\x00\x1f\xa0\xff", 4);
    assert_string_equal(hex, "001fa0ff");
    assert_true(hd_unhex(bytes, 4, "001FA0ff"));
    assert_memory_equal(bytes, "\x00\x1f\xa0\xff", 4);
    assert_false(hd_unhex(bytes, 4, "001fa0f"));
    assert_false(hd_unhex(bytes, 4, "001fa0ff0"));
    assert_false(hd_unhex(bytes, 4, "001fa0fg"));
    struct hd_id id;
    assert_false(hd_id_from(&id, "0123456789abcde", 15));
    assert_false(hd_id_from(&id, (uint8_t[16]){0}, 16));
    assert_true(hd_id_from(&id, "0123456789abcdef", 16));
    uint8_t hash[HD_HASH_BYTES];
    hd_sha256(hash, "abc", 3);
    assert_memory_equal(hash, "\xba\x78\x16\xbf\x8f\x01\xcf\xea", 8);
}

int main(void)
{
#define TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_people_come_and_go),
        TEST(test_a_removed_person_takes_everything_along),
        TEST(test_a_secret_pairs_one_device_once),
        TEST(test_secrets_expire_and_are_few),
        TEST(test_a_pairing_that_fails_leaves_the_link_open),
        TEST(test_devices_are_bounded),
        TEST(test_tokens),
        TEST(test_revoked_devices_stay_out),
        TEST(test_last_seen),
        TEST(test_secrets_are_stored_hashed),
        TEST(test_scopes_have_names),
        TEST(test_helpers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
