// SPDX-License-Identifier: Apache-2.0
// What the box learns from and has learnt, on disk: sealed files, rows, keys, choices; the power is cut at every
// operation; what is deleted takes along what was made of it.
#include <pthread.h>

#include "firmware/run_files.h"
#include "firmware/sealed_file.h"
#include "firmware/store_learn.h"
#include "tests/wire/store_kit.h"

static const struct hd_id nobody;

static struct hd_sealed_place place_of(const struct hd_id *id)
{
    struct hd_sealed_place place = {.dir = dir};
    if (hd_vault_sealer(hd_store_vault(store), id, &place.sealer, &err) != HEARTH_OK)
        fail_msg("%s", err.text);
    return place;
}

// *data is malloc'ed.
static enum hearth_status read_sealed(const struct hd_sealed_place *place, const char *name, uint64_t max_bytes,
                                      uint8_t **data, size_t *len_bytes)
{
    int fd;
    uint64_t n = 0;
    enum hearth_status status = hd_sealed_read_fd(place, name, max_bytes, &fd, &n, &err);
    *data = NULL;
    *len_bytes = (size_t)n;
    if (status != HEARTH_OK) {
        assert_int_equal(fd, -1);
        return status;
    }
    *data = malloc(n + 1);
    assert_true(pread(fd, *data, n + 1, 0) == (ssize_t)n);
    close(fd);
    return HEARTH_OK;
}

static enum hearth_status write_item(const struct hd_id *id, const char *name, const void *data, size_t n)
{
    struct hd_sealed_place place = {.dir = dir};
    if (hd_vault_sealer(hd_store_vault(store), id, &place.sealer, &err) != HEARTH_OK)
        return err.code;
    enum hearth_status status = hd_sealed_write(&place, name, data, n, &err);
    hd_sealer_unref(&place.sealer);
    return status;
}

static bool reads(const struct hd_id *id, const char *name, const char *text)
{
    struct hd_sealed_place place = {.dir = dir};
    uint8_t *data = NULL;
    size_t n = 0;
    if (hd_vault_sealer(hd_store_vault(store), id, &place.sealer, &err) != HEARTH_OK)
        return false;
    bool good = read_sealed(&place, name, 1 << 24, &data, &n) == HEARTH_OK && n == strlen(text) &&
                memcmp(data, text, n) == 0;
    hd_sealer_unref(&place.sealer);
    hd_wipe_free(data, n);
    return good;
}

static void path_of(const struct hd_id *id, const char *name, char path[160])
{
    char hex[2 * HD_ID_BYTES + 1];
    hd_hex(hex, id->b, HD_ID_BYTES);
    snprintf(path, 160, "%s/%s.%s", dir, hex, name);
}

// ---- sealed files

static void test_sealed_files_hold_nothing_in_plain(void **state)
{
    (void)state;
    static char text[3 << 20]; // several parts
    struct hd_id id;
    size_t n;
    uint8_t *data;
    reopen();
    for (size_t i = 0; i < sizeof text; i++)
        text[i] = (char)('a' + i * i % 23);
    memcpy(text + 100, "a secret of the house", 21);
    assert_int_equal(hd_store_learnt_key(store, &nobody, &id, &err), HEARTH_OK);
    assert_int_equal(write_item(&id, "data", text, sizeof text), HEARTH_OK);
    assert_false(simdisk_ever_held(disk, "a secret of the house", 21));
    struct hd_sealed_place place = place_of(&id);
    assert_int_equal(read_sealed(&place, "data", sizeof text, &data, &n), HEARTH_OK);
    assert_true(n == sizeof text && memcmp(data, text, n) == 0);
    hd_wipe_free(data, n);
    assert_int_equal(read_sealed(&place, "data", sizeof text - 1, &data, &n), HEARTH_LIMIT);
    assert_int_equal(read_sealed(&place, "other", 100, &data, &n), HEARTH_NOT_FOUND);
    assert_int_equal(hd_sealed_write(&place, "", NULL, 0, &err), HEARTH_INVALID);
    assert_int_equal(hd_sealed_write(&place, "../x", NULL, 0, &err), HEARTH_INVALID);
    assert_int_equal(hd_sealed_write(&place, "empty", NULL, 0, &err), HEARTH_OK);
    assert_int_equal(read_sealed(&place, "empty", 0, &data, &n), HEARTH_OK);
    hd_wipe_free(data, n);
    hd_sealer_unref(&place.sealer);
}

static void test_damaged_and_exchanged_files_are_told(void **state)
{
    (void)state;
    struct hd_id a, b;
    char path[160], other[160];
    uint8_t *data, *bytes, *more;
    size_t n, len, more_len;
    static char first[2 << 20], second[2 << 20];
    reopen();
    memset(first, 'a', sizeof first);
    memset(second, 'b', sizeof second);
    assert_int_equal(hd_store_learnt_key(store, &nobody, &a, &err), HEARTH_OK);
    assert_int_equal(hd_store_learnt_key(store, &nobody, &b, &err), HEARTH_OK);
    assert_int_equal(write_item(&a, "data", first, sizeof first), HEARTH_OK);
    path_of(&a, "data", path);
    path_of(&b, "data", other);
    bytes = simdisk_file(disk, path, &len);
    uint8_t *whole = malloc(len);
    memcpy(whole, bytes, len);
    struct hd_sealed_place place = place_of(&a), wrong = place_of(&b);
    for (size_t at = 0; at < len; at += len / 37) { // one bit anywhere
        whole[at] ^= 4;
        simdisk_put(disk, path, whole, len);
        assert_int_equal(read_sealed(&place, "data", 1 << 24, &data, &n), HEARTH_FORMAT);
        whole[at] ^= 4;
    }
    for (size_t cut = 0; cut < len; cut += len / 19) { // an end that is missing
        simdisk_put(disk, path, whole, cut);
        assert_int_equal(read_sealed(&place, "data", 1 << 24, &data, &n), HEARTH_FORMAT);
    }
    simdisk_put(disk, other, whole, len); // another item's
    assert_int_equal(read_sealed(&wrong, "data", 1 << 24, &data, &n), HEARTH_FORMAT);
    assert_int_equal(hd_sealed_write(&place, "data", second, sizeof second, &err), HEARTH_OK);
    more = simdisk_file(disk, path, &more_len); // the first part of one writing, the second of the other
    assert_int_equal(more_len, len);
    const size_t part = 4 + (1 << 20) + HD_SEAL_OVERHEAD_BYTES, at = len - part;
    memcpy(whole + at, more + at, part);
    simdisk_put(disk, path, whole, len);
    assert_int_equal(read_sealed(&place, "data", 1 << 24, &data, &n), HEARTH_FORMAT);
    memset(first, 'c', sizeof first / 2); // two parts of one writing, exchanged
    assert_int_equal(hd_sealed_write(&place, "data", first, sizeof first, &err), HEARTH_OK);
    bytes = simdisk_file(disk, path, &len);
    memcpy(whole, bytes, len);
    memcpy(whole + at - part, bytes + at, part);
    memcpy(whole + at, bytes + at - part, part);
    simdisk_put(disk, path, whole, len);
    assert_int_equal(read_sealed(&place, "data", 1 << 24, &data, &n), HEARTH_FORMAT);
    hd_sealer_unref(&place.sealer);
    hd_sealer_unref(&wrong.sealer);
    free(whole);
}

// ---- the folder

static const char *const planted[] = {"data", "adapter.gguf", "data~new"};

static bool is_there(const char *name)
{
    char path[160];
    size_t len;
    snprintf(path, sizeof path, "%s/learn/%s", dir, name);
    return simdisk_file(disk, path, &len) != NULL;
}

static void plant(const char *name)
{
    char path[160];
    snprintf(path, sizeof path, "%s/learn/%s", dir, name);
    simdisk_put(disk, path, "x", 1);
}

static unsigned count_of(const struct hd_id *id)
{
    unsigned n = 0;
    char hex[2 * HD_ID_BYTES + 1], name[80];
    hd_hex(hex, id->b, HD_ID_BYTES);
    for (size_t i = 0; i < sizeof planted / sizeof planted[0]; i++) {
        snprintf(name, sizeof name, "%s.%s", hex, planted[i]);
        n += is_there(name);
    }
    return n;
}

static bool is_the_first(void *user, const struct hd_id *item)
{
    return hd_id_equal(item, user);
}

// Whole files of an item that is kept stay; with an item go all of its files, and at the start whatever is nobody's.
static void test_what_is_removed_and_swept(void **state)
{
    (void)state;
    struct hd_id ids[3] = {{{1}}, {{2}}, {{3}}};
    char hex[2 * HD_ID_BYTES + 1], name[80], learn[80];
    static const char *const nobodys[] = {"notes", "00.data", "zz000000000000000000000000000000.data",
                                          "01000000000000000000000000000000-data", "01000000000000000000000000000000."};
    snprintf(learn, sizeof learn, "%s/learn", dir);
    for (size_t i = 0; i < 9; i++) {
        hd_hex(hex, ids[i / 3].b, HD_ID_BYTES);
        snprintf(name, sizeof name, "%s.%s", hex, planted[i % 3]);
        plant(name);
    }
    for (size_t i = 0; i < sizeof nobodys / sizeof nobodys[0]; i++)
        plant(nobodys[i]);
    hd_sealed_remove(learn, &ids[1], "data");
    assert_int_equal(count_of(&ids[1]), 2);
    hd_sealed_remove(learn, &ids[1], NULL);
    assert_int_equal(count_of(&ids[1]), 0);
    assert_true(count_of(&ids[0]) == 3 && count_of(&ids[2]) == 3 && is_there("notes"));
    hd_sealed_sweep(learn, is_the_first, &ids[0]);
    assert_int_equal(count_of(&ids[0]), 2); // what was not written to its end is of no use
    assert_int_equal(count_of(&ids[2]), 0);
    for (size_t i = 0; i < sizeof nobodys / sizeof nobodys[0]; i++)
        assert_false(is_there(nobodys[i]));
}

// ---- rows

static enum hearth_status add(enum hd_learnt_kind kind, const struct hd_id *person, const char *name, const char *text,
                              struct hd_id *id)
{
    struct hd_learnt item = {.kind = kind, .person = *person, .created_ms = 5, .meta = (char *)"{}"};
    snprintf(item.name, sizeof item.name, "%s", name);
    enum hearth_status status = hd_store_learnt_key(store, person, &item.id, &err);
    if (status == HEARTH_OK)
        status = write_item(&item.id, "data", text, strlen(text));
    if (status == HEARTH_OK)
        status = hd_store_learnt_add(store, &item, &err);
    *id = item.id;
    return status;
}

static bool is_listed(const struct hd_id *id, enum hd_learnt_kind *kind)
{
    struct hd_learnt *items;
    size_t n;
    bool found = false;
    if (hd_store_learnt_list(store, &items, &n, &err) != HEARTH_OK)
        fail_msg("%s", err.text);
    for (size_t i = 0; i < n; i++) {
        if (!hd_id_equal(&items[i].id, id))
            continue;
        found = true;
        if (kind)
            *kind = items[i].kind;
    }
    hd_learnt_free(items, n);
    return found;
}

static void test_rows_and_names(void **state)
{
    (void)state;
    struct hd_id a, b;
    reopen();
    assert_int_equal(add(HD_LEARNT_SET, &nobody, "pirate", "x", &a), HEARTH_OK);
    assert_int_not_equal(add(HD_LEARNT_SET, &nobody, "pirate", "y", &b), HEARTH_OK); // one of a name
    assert_int_equal(add(HD_LEARNT_ADAPTER, &nobody, "pirate", "y", &b), HEARTH_OK); // another kind
    static const char *const bad[] = {"", "none", "../x", "a b", ".x", "-x", "a/b", "\xc3\xa9"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_false(hd_learnt_name_ok(bad[i]));
    assert_true(hd_learnt_name_ok("My-adapter_1.2"));
    reopen();
    assert_true(is_listed(&a, NULL) && is_listed(&b, NULL) && reads(&a, "data", "x"));
    assert_int_equal(hd_store_learnt_remove(store, &a, &err), HEARTH_OK);
    assert_int_equal(hd_store_learnt_remove(store, &a, &err), HEARTH_NOT_FOUND);
    assert_false(is_listed(&a, NULL) || hd_vault_has(hd_store_vault(store), &a));
    struct hd_id lost;
    assert_int_equal(hd_store_learnt_key(store, &nobody, &lost, &err), HEARTH_OK); // its row never came
    reopen();
    assert_false(is_listed(&lost, NULL));
    assert_true(hd_vault_has(hd_store_vault(store), &lost));
    assert_int_equal(hd_store_learnt_drop_orphans(store, &err), HEARTH_OK);
    assert_false(hd_vault_has(hd_store_vault(store), &lost));
    assert_true(hd_vault_has(hd_store_vault(store), &b));
}

static void test_choices(void **state)
{
    (void)state;
    struct hd_id a;
    struct hd_adapter_choice *list;
    size_t n;
    reopen();
    assert_int_equal(add(HD_LEARNT_ADAPTER, &nobody, "a", "x", &a), HEARTH_OK);
    const struct hd_adapter_choice box = {.adapter = a, .scale = 0.5}, own = {.person = owner, .scale = 1};
    assert_int_equal(hd_store_choice_set(store, &box, &err), HEARTH_OK);
    assert_int_equal(hd_store_choice_set(store, &own, &err), HEARTH_OK);
    assert_int_equal(hd_store_choice_set(store, &box, &err), HEARTH_OK); // again
    reopen();
    assert_int_equal(hd_store_choice_list(store, &list, &n, &err), HEARTH_OK);
    assert_int_equal(n, 2);
    for (size_t i = 0; i < n; i++) {
        bool is_box = hd_id_is_zero(&list[i].person);
        assert_true(hd_id_equal(&list[i].adapter, is_box ? &a : &nobody) && list[i].scale == (is_box ? 0.5 : 1));
    }
    free(list);
    assert_int_equal(hd_store_learnt_remove(store, &a, &err), HEARTH_OK); // takes the choice of it along
    assert_int_equal(hd_store_choice_list(store, &list, &n, &err), HEARTH_OK);
    assert_int_equal(n, 1);
    free(list);
    assert_int_equal(hd_store_choice_clear(store, &owner, &err), HEARTH_OK);
    assert_int_equal(hd_store_choice_list(store, &list, &n, &err), HEARTH_OK);
    assert_int_equal(n, 0);
    free(list);
}

// With the first thing that a person deletes goes all that was learnt from them, and nothing else.
static void test_deleting_takes_along_what_was_learnt(void **state)
{
    (void)state;
    struct hd_id set, adapter, common, others;
    struct hd_person ann;
    struct hd_deleted deleted = {0};
    reopen();
    assert_int_equal(hd_person_add(store, "Ann", &ann, &err), HEARTH_OK);
    struct hd_accepted one = talk(NULL, "a question", "an answer");
    assert_int_equal(add(HD_LEARNT_SET, &owner, "mine", "x", &set), HEARTH_OK);
    assert_int_equal(add(HD_LEARNT_ADAPTER, &owner, "mine", "y", &adapter), HEARTH_OK);
    assert_int_equal(add(HD_LEARNT_SET, &nobody, "common", "z", &common), HEARTH_OK);
    assert_int_equal(add(HD_LEARNT_SET, &ann.id, "anns", "z", &others), HEARTH_OK);
    assert_int_equal(hd_store_turn_delete(store, &owner, &one.user_turn, &deleted, &err), HEARTH_OK);
    hd_deleted_free(&deleted);
    const struct hd_vault *vault = hd_store_vault(store);
    assert_false(is_listed(&set, NULL) || is_listed(&adapter, NULL));
    assert_false(hd_vault_has(vault, &set) || hd_vault_has(vault, &adapter));
    assert_true(is_listed(&common, NULL) && is_listed(&others, NULL));
    assert_int_equal(hd_person_remove(store, &ann.id, &deleted, &err), HEARTH_OK);
    hd_deleted_free(&deleted);
    assert_false(is_listed(&others, NULL));
    assert_true(is_listed(&common, NULL));
    struct hd_adapter_choice choice = {.scale = 1}, *choices;
    size_t n;
    assert_int_equal(hd_person_add(store, "Bob", &ann, &err), HEARTH_OK);
    choice.person = ann.id;
    assert_int_equal(hd_store_choice_set(store, &choice, &err), HEARTH_OK);
    assert_int_equal(hd_person_remove(store, &ann.id, &deleted, &err), HEARTH_OK);
    hd_deleted_free(&deleted);
    assert_int_equal(hd_store_choice_list(store, &choices, &n, &err), HEARTH_OK);
    assert_int_equal(n, 0);
    free(choices);
}

// ---- every operation once

enum known { ABSENT, UNSURE, THERE, CHANGING, CHANGED, GOING, GONE };
enum { SET, RUN, DOOMED, N_ITEMS };
static struct {
    enum known known[N_ITEMS];
    struct hd_id ids[N_ITEMS];
} items;
static const char *const texts[N_ITEMS] = {"the set", "the adapter", "of a person"};

static void try_add(int i, enum hd_learnt_kind kind, const struct hd_id *person, const char *name)
{
    items.known[i] = UNSURE;
    if (add(kind, person, name, texts[i], &items.ids[i]) == HEARTH_OK)
        items.known[i] = THERE;
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

static void scenario(void)
{
    struct hd_deleted deleted = {0};
    struct hd_accepted said;
    memset(&items, 0, sizeof items);
    next_request = 1;
    if (!open_quietly())
        return;
    bool talked = ask(&owner, NULL, NULL, "a question", &said) == HEARTH_OK;
    try_add(SET, HD_LEARNT_SET, &nobody, "set");
    try_add(RUN, HD_LEARNT_RUN, &nobody, "run");
    try_add(DOOMED, HD_LEARNT_SET, &owner, "mine");
    if (items.known[RUN] == THERE) { // a training is done: its row becomes the adapter's
        struct hd_learnt done = {.id = items.ids[RUN], .kind = HD_LEARNT_ADAPTER, .name = "run",
                                 .meta = (char *)"{\"base\":\"x\"}"};
        items.known[RUN] = CHANGING;
        if (hd_store_learnt_update(store, &done, &err) == HEARTH_OK)
            items.known[RUN] = CHANGED;
    }
    if (talked && items.known[DOOMED] == THERE) {
        items.known[DOOMED] = GOING;
        if (hd_store_turn_delete(store, &owner, &said.user_turn, &deleted, &err) == HEARTH_OK)
            items.known[DOOMED] = GONE;
        hd_deleted_free(&deleted);
    }
    if (!open_quietly())
        return;
    if (items.known[SET] == THERE) {
        items.known[SET] = GOING;
        if (hd_store_learnt_remove(store, &items.ids[SET], &err) == HEARTH_OK)
            items.known[SET] = GONE;
    }
}

static unsigned broken_promises(void)
{
    unsigned broken = 0;
    if (!open_quietly() || hd_store_learnt_drop_orphans(store, &err) != HEARTH_OK)
        return 1;
    for (int i = 0; i < N_ITEMS; i++) {
        enum hd_learnt_kind kind = 0;
        bool listed = is_listed(&items.ids[i], &kind);
        bool has_key = hd_vault_has(hd_store_vault(store), &items.ids[i]);
        if ((items.known[i] == THERE || items.known[i] == CHANGING || items.known[i] == CHANGED) && !listed)
            broken++;
        if (items.known[i] == CHANGED && kind != HD_LEARNT_ADAPTER)
            broken++;
        if (items.known[i] == GONE && (listed || has_key))
            broken++;
        if (listed && !reads(&items.ids[i], "data", texts[i])) // what is listed is whole
            broken++;
        if (!listed && has_key) // and what is not has no key
            broken++;
    }
    hd_store_close(&store);
    return broken;
}

static unsigned sweep(bool cut, const char *ignored_fsync, unsigned n_policies, unsigned *runs)
{
    unsigned broken = 0;
    bool through = false;
    for (unsigned op = 1; !through; op++)
        for (uint64_t seed = 0; seed < n_policies; seed++) {
            static const enum simdisk_policy policies[] = {SIMDISK_DROP, SIMDISK_KEEP, SIMDISK_TEAR};
            teardown_sim(NULL);
            setup_sim(NULL);
            simdisk_ignore_fsync(disk, ignored_fsync);
            if (cut)
                simdisk_cut_at(disk, op);
            else
                simdisk_fail_at(disk, op);
            scenario();
            through = op > simdisk_ops(disk);
            simdisk_cut_at(disk, simdisk_ops(disk) + 1);
            hd_store_close(&store);
            simdisk_restart(disk, policies[seed], op * 31 + seed);
            unsigned b = broken_promises();
            if (b > 0 && !ignored_fsync)
                print_message("operation %u, seed %u: %u broken (%s)\n", op, (unsigned)seed, b, err.text);
            broken += b;
            ++*runs;
            if (b > 0 && ignored_fsync)
                return b;
        }
    return broken;
}

// Files are sealed on another thread for a while before there is a row: what happens meanwhile ends that only for the
// person of whom something is deleted.
static void test_what_is_on_its_way_in(void **state)
{
    (void)state;
    struct hd_id common, mine, others;
    struct hd_person ann;
    struct hd_deleted deleted = {0};
    struct hd_learnt item = {.kind = HD_LEARNT_SET, .meta = (char *)"{}", .name = "mine"};
    reopen();
    assert_int_equal(hd_person_add(store, "Ann", &ann, &err), HEARTH_OK);
    struct hd_accepted said = talk(NULL, "a question", "an answer");
    assert_int_equal(hd_store_learnt_key(store, &nobody, &common, &err), HEARTH_OK);
    assert_int_equal(hd_store_learnt_key(store, &owner, &mine, &err), HEARTH_OK);
    assert_int_equal(hd_store_learnt_key(store, &ann.id, &others, &err), HEARTH_OK);
    assert_false(is_listed(&common, NULL));
    assert_int_equal(hd_store_turn_delete(store, &owner, &said.user_turn, &deleted, &err), HEARTH_OK);
    hd_deleted_free(&deleted);
    const struct hd_vault *vault = hd_store_vault(store);
    assert_true(hd_vault_has(vault, &common) && hd_vault_has(vault, &others) && !hd_vault_has(vault, &mine));
    item.id = mine;
    item.person = owner;
    assert_int_equal(hd_store_learnt_add(store, &item, &err), HEARTH_NOT_FOUND);
    item.id = others;
    item.person = ann.id;
    assert_int_equal(hd_store_learnt_add(store, &item, &err), HEARTH_OK);
    assert_int_equal(hd_person_remove(store, &ann.id, &deleted, &err), HEARTH_OK);
    hd_deleted_free(&deleted);
    assert_true(hd_vault_has(vault, &common) && !hd_vault_has(vault, &others));
}

static void test_power_cut_at_every_operation(void **state)
{
    (void)state;
    unsigned runs = 0;
    assert_int_equal(sweep(true, NULL, 3, &runs), 0);
    assert_true(runs > 100 * 3);
    print_message("%u power cuts\n", runs);
}

static void test_error_at_every_operation(void **state)
{
    (void)state;
    unsigned runs = 0;
    assert_int_equal(sweep(false, NULL, 2, &runs), 0);
    print_message("%u errors\n", runs);
}

static void test_each_fsync_is_needed(void **state)
{
    (void)state;
    static const char *const each[] = {"~new", "turns.keys", "hearth.db-wal", "/"};
    for (size_t i = 0; i < sizeof each / sizeof *each; i++) {
        unsigned runs = 0;
        if (sweep(true, each[i], 3, &runs) == 0)
            fail_msg("without fsync of %s nothing was lost", each[i]);
    }
}

// ---- files of a training

static unsigned n_failed;
static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;

static void on_failed(void *user, const struct hearth_error *error)
{
    (void)user;
    n_failed++;
    err = *error;
}

static void wake(void *user)
{
    (void)user;
}

static void run_gate(struct hd_task *task)
{
    (void)task;
    pthread_mutex_lock(&gate);
    pthread_mutex_unlock(&gate);
}

static void done_gate(struct hd_task *task)
{
    (void)task;
}

static enum hearth_status save_part(struct hd_run_files *files, const char *name, const char *text, size_t offset,
                                    size_t n)
{
    const struct hearth_train_part part = {name, strlen(text), offset, text + offset, n};
    return hd_run_files_save(files, &part, &err);
}

static enum hearth_status save_whole(struct hd_run_files *files, const char *name, const char *text)
{
    return save_part(files, name, text, 0, strlen(text));
}

// Loads a file in parts of two bytes.
static enum hearth_status load_whole(struct hd_run_files *files, const char *name, char text[16])
{
    size_t n = 0, size;
    memset(text, 0, 16);
    enum hearth_status status = hd_run_files_load(files, name, 0, NULL, 0, &n, &err);
    for (size_t at = 0; status == HEARTH_OK && at < n; at += 2) {
        assert_true(n < 16);
        status = hd_run_files_load(files, name, at, text + at, n - at < 2 ? n - at : 2, &size, &err);
        assert_int_equal(size, n);
    }
    return status;
}

// What did not come whole is not there, and neither are parts that do not fit.
static void save_in_parts(struct hd_run_files *files)
{
    char text[16];
    assert_int_equal(save_part(files, "checkpoint.bin", "four", 0, 2), HEARTH_OK);
    assert_int_equal(save_part(files, "checkpoint.bin", "three", 2, 2), HEARTH_INVALID);
    assert_int_equal(save_part(files, "checkpoint.bin", "four", 3, 2), HEARTH_INVALID);
    assert_int_equal(load_whole(files, "checkpoint.bin", text), HEARTH_OK);
    assert_string_equal(text, "one");
    assert_int_equal(save_part(files, "checkpoint.bin", "three", 0, 1), HEARTH_OK);
    assert_int_equal(save_part(files, "checkpoint.bin", "three", 1, 3), HEARTH_OK);
    assert_int_equal(save_part(files, "checkpoint.bin", "three", 4, 1), HEARTH_OK);
    assert_int_equal(save_part(files, "checkpoint.bin", "three", 4, 1), HEARTH_INVALID); // it was whole
}

static void test_what_a_training_saves(void **state)
{
    (void)state;
    struct hd_keeper *keeper;
    struct hd_id id;
    char text[16];
    struct hd_task block = {.run = run_gate, .done = done_gate};
    reopen();
    n_failed = 0;
    assert_int_equal(add(HD_LEARNT_RUN, &nobody, "run", "x", &id), HEARTH_OK);
    assert_int_equal(hd_keeper_start(&keeper, wake, NULL, &err), HEARTH_OK);
    struct hd_sealed_place place = place_of(&id);
    struct hd_run_files *files = hd_run_files_new(keeper, &place, on_failed, NULL);
    pthread_mutex_lock(&gate);
    hd_keeper_add(keeper, &block); // nothing is written yet
    assert_int_equal(load_whole(files, "checkpoint.bin", text), HEARTH_NOT_FOUND);
    assert_int_equal(save_whole(files, "checkpoint.bin", "one"), HEARTH_OK);
    save_in_parts(files);
    assert_int_equal(load_whole(files, "checkpoint.bin", text), HEARTH_OK);
    assert_string_equal(text, "three"); // what was saved last
    assert_int_equal(save_whole(files, "../x", "x"), HEARTH_LIMIT);
    char name[16];
    for (int i = 0; i < HD_MAX_RUN_FILES - 1; i++) {
        snprintf(name, sizeof name, "more-%d", i);
        assert_int_equal(save_whole(files, name, "x"), HEARTH_OK);
    }
    assert_int_equal(save_whole(files, "too-many", "x"), HEARTH_LIMIT);
    assert_int_equal(save_part(files, "checkpoint.bin", "half", 0, 2), HEARTH_OK); // and no more of it
    pthread_mutex_unlock(&gate);
    hd_keeper_stop(&keeper); // writes what is left
    assert_int_equal(n_failed, 0);
    assert_true(reads(&id, "checkpoint.bin", "three") && reads(&id, "more-3", "x"));
    assert_int_equal(load_whole(files, "checkpoint.bin", text), HEARTH_OK); // from disk, each time
    assert_int_equal(load_whole(files, "checkpoint.bin", text), HEARTH_OK);
    assert_string_equal(text, "three");
    assert_int_equal(hd_run_files_open(files, "more-3", &err), HEARTH_OK);
    hd_sealed_remove(place.dir, &id, "more-3"); // what was opened needs no disk
    assert_int_equal(load_whole(files, "more-3", text), HEARTH_OK);
    assert_string_equal(text, "x");
    assert_int_equal(load_whole(files, "more-3", text), HEARTH_NOT_FOUND);
    hd_run_files_unref(&files);

    assert_int_equal(hd_keeper_start(&keeper, wake, NULL, &err), HEARTH_OK);
    files = hd_run_files_new(keeper, &place, on_failed, NULL);
    simdisk_set_capacity(disk, 1); // a full disk is told, and the file of before is there
    assert_int_equal(save_whole(files, "checkpoint.bin", "four!"), HEARTH_OK);
    hd_keeper_stop(&keeper);
    assert_int_equal(n_failed, 1);
    assert_int_equal(err.code, HEARTH_IO);
    simdisk_set_capacity(disk, 0);
    assert_true(reads(&id, "checkpoint.bin", "three"));
    char path[160];
    size_t len;
    path_of(&id, "checkpoint.bin~new", path);
    assert_null(simdisk_file(disk, path, &len)); // no half of one stays behind
    hd_run_files_unref(&files);
    hd_sealer_unref(&place.sealer);
}

static void expect_part(struct hd_run_files *files, size_t offset, const char *expected)
{
    char bytes[8] = "";
    size_t size;
    assert_int_equal(hd_run_files_load(files, "checkpoint.bin", offset, bytes, strlen(expected), &size, &err),
                     HEARTH_OK);
    assert_string_equal(bytes, expected);
}

// In any order, but nothing beyond the end, neither of what waits nor of what is on disk.
static void test_parts_of_what_was_saved(void **state)
{
    (void)state;
    struct hd_keeper *keeper;
    struct hd_id id;
    char bytes[16];
    size_t size;
    struct hd_task block = {.run = run_gate, .done = done_gate};
    const struct hearth_train_part huge = {"huge", (size_t)HD_MAX_RUN_FILE_BYTES + 1, 0, "x", 1};
    reopen();
    assert_int_equal(add(HD_LEARNT_RUN, &nobody, "run", "x", &id), HEARTH_OK);
    struct hd_sealed_place place = place_of(&id);
    assert_int_equal(hd_keeper_start(&keeper, wake, NULL, &err), HEARTH_OK);
    struct hd_run_files *files = hd_run_files_new(keeper, &place, on_failed, NULL);
    pthread_mutex_lock(&gate);
    hd_keeper_add(keeper, &block);
    assert_int_equal(hd_run_files_save(files, &huge, &err), HEARTH_LIMIT);
    assert_int_equal(save_whole(files, "checkpoint.bin", "hearth"), HEARTH_OK);
    expect_part(files, 4, "th");
    expect_part(files, 0, "he");
    assert_int_not_equal(hd_run_files_load(files, "checkpoint.bin", 4, bytes, 3, &size, &err), HEARTH_OK);
    assert_int_not_equal(hd_run_files_load(files, "checkpoint.bin", 7, bytes, 1, &size, &err), HEARTH_OK);
    pthread_mutex_unlock(&gate);
    hd_keeper_stop(&keeper);
    expect_part(files, 0, "he");
    expect_part(files, 0, "hea"); // what was read is given back, and read again
    expect_part(files, 4, "t");
    expect_part(files, 2, "ar");
    assert_int_equal(hd_run_files_load(files, "checkpoint.bin", 4, bytes, 3, &size, &err), HEARTH_INVALID);
    assert_int_equal(hd_run_files_load(files, "checkpoint.bin", 7, bytes, 1, &size, &err), HEARTH_INVALID);
    hd_run_files_unref(&files);
    hd_sealer_unref(&place.sealer);
}

// What it learnt from was deleted: what still waits is not written, and nobody is told.
static void test_an_abandoned_training_writes_nothing(void **state)
{
    (void)state;
    struct hd_keeper *keeper;
    struct hd_id id;
    struct hd_task block = {.run = run_gate, .done = done_gate};
    reopen();
    n_failed = 0;
    assert_int_equal(add(HD_LEARNT_RUN, &nobody, "run", "x", &id), HEARTH_OK);
    struct hd_sealed_place place = place_of(&id);
    assert_int_equal(hd_keeper_start(&keeper, wake, NULL, &err), HEARTH_OK);
    struct hd_run_files *files = hd_run_files_new(keeper, &place, on_failed, NULL);
    pthread_mutex_lock(&gate);
    hd_keeper_add(keeper, &block);
    assert_int_equal(save_whole(files, "checkpoint.bin", "late"), HEARTH_OK);
    hd_run_files_abandon(files);
    pthread_mutex_unlock(&gate);
    hd_keeper_stop(&keeper);
    assert_false(reads(&id, "checkpoint.bin", "late"));
    assert_int_equal(n_failed, 0);
    hd_run_files_unref(&files);
    hd_sealer_unref(&place.sealer);
}

// An engine thread that hangs when the box stops is left alone: what it saves when it wakes up goes nowhere.
static void *save_late(void *user)
{
    pthread_mutex_lock(&gate);
    pthread_mutex_unlock(&gate);
    struct hd_run_files *files = user;
    const struct hearth_train_part part = {"checkpoint.bin", 4, 0, "late", 4};
    static struct hearth_error own;
    enum hearth_status status = hd_run_files_save(files, &part, &own);
    hd_run_files_unref(&files);
    return status == HEARTH_IO ? user : NULL;
}

static void test_who_saves_when_all_has_ended(void **state)
{
    (void)state;
    struct hd_keeper *keeper;
    struct hd_id id;
    pthread_t thread;
    void *good;
    reopen();
    n_failed = 0;
    assert_int_equal(add(HD_LEARNT_RUN, &nobody, "run", "x", &id), HEARTH_OK);
    assert_int_equal(hd_keeper_start(&keeper, wake, NULL, &err), HEARTH_OK);
    struct hd_sealed_place place = place_of(&id);
    struct hd_run_files *files = hd_run_files_new(keeper, &place, on_failed, NULL);
    hd_sealer_unref(&place.sealer);
    pthread_mutex_lock(&gate);
    assert_int_equal(pthread_create(&thread, NULL, save_late, hd_run_files_ref(files)), 0);
    assert_int_equal(save_whole(files, "checkpoint.bin", "one"), HEARTH_OK);
    hd_keeper_stop(&keeper);
    hd_run_files_unref(&files);
    pthread_mutex_unlock(&gate);
    pthread_join(thread, &good);
    assert_non_null(good);
    assert_int_equal(n_failed, 0);
    assert_true(reads(&id, "checkpoint.bin", "one"));
}

int main(void)
{
#define SIM(test) cmocka_unit_test_setup_teardown(test, setup_sim, teardown_sim)
    const struct CMUnitTest tests[] = {
        SIM(test_sealed_files_hold_nothing_in_plain),
        SIM(test_damaged_and_exchanged_files_are_told),
        SIM(test_what_is_removed_and_swept),
        SIM(test_rows_and_names),
        SIM(test_choices),
        SIM(test_deleting_takes_along_what_was_learnt),
        SIM(test_what_is_on_its_way_in),
        SIM(test_power_cut_at_every_operation),
        SIM(test_error_at_every_operation),
        SIM(test_each_fsync_is_needed),
        SIM(test_what_a_training_saves),
        SIM(test_parts_of_what_was_saved),
        SIM(test_an_abandoned_training_writes_nothing),
        SIM(test_who_saves_when_all_has_ended),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
