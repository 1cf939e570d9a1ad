// SPDX-License-Identifier: Apache-2.0
// Caches on disk: they come back whole or not at all, whatever is cut, torn or flipped; a deletion takes key and files;
// nothing of them lies anywhere in plain.
#include "firmware/prefixes.h"

#include "tests/wire/store_kit.h"

enum { CACHE_BYTES = (1 << 20) + 4321, MAX_GIVEN = 8 };

static struct hd_config config;
static struct hd_prefixes *prefixes;
static const char model_path[] = "/proc/self/exe"; // any file that stays as it is
static const char canary[] = "what was said to the box in confidence, ";
static uint64_t seq;
static struct {
    struct hd_id person;
    uint8_t version; // of the cache; 0 = damaged
} given[MAX_GIVEN];
static unsigned n_given;

static uint8_t *make_cache(uint8_t version)
{
    uint8_t *data = malloc(CACHE_BYTES);
    assert_non_null(data);
    for (size_t i = 0; i < CACHE_BYTES; i++)
        data[i] = (uint8_t)canary[i % (sizeof canary - 1)];
    data[0] = data[CACHE_BYTES - 1] = version;
    return data;
}

static void give(void *user, const struct hd_id *person, const char *path, uint8_t *data, size_t len_bytes)
{
    (void)user;
    assert_string_equal(path, model_path);
    assert_true(n_given < MAX_GIVEN);
    uint8_t *expected = make_cache(len_bytes == CACHE_BYTES ? data[0] : 0);
    bool whole = len_bytes == CACHE_BYTES && memcmp(expected, data, len_bytes) == 0;
    given[n_given].person = *person;
    given[n_given++].version = whole ? data[0] : 0;
    free(expected);
    free(data);
}

static uint64_t forget_seq(void *user)
{
    (void)user;
    return seq;
}

static bool open_all(void)
{
    struct hd_person person;
    hd_prefixes_close(&prefixes);
    hd_store_close(&store);
    if (try_open(false) != HEARTH_OK || hd_person_find(store, "owner", &person, &err) != HEARTH_OK)
        return false;
    owner = person.id;
    const struct hd_prefixes_params params = {
        .config = &config, .store = store, .give = give, .forget_seq = forget_seq};
    prefixes = hd_prefixes_open(&params);
    return prefixes != NULL;
}

static void work(void)
{
    for (int i = 0; i < 1000 && hd_prefixes_work(prefixes); i++) {
    }
}

static void keep(const struct hd_id *person, uint8_t version, const char *model)
{
    struct hd_note note = {.type = HD_NOTE_PREFIXES,
                           .person = *person,
                           .text = (char *)make_cache(version),
                           .len_bytes = CACHE_BYTES,
                           .tag = seq};
    snprintf(note.model, sizeof note.model, "%s", model);
    hd_model_tag(&config, model_path, note.model_tag);
    hd_prefixes_keep(prefixes, &note);
    work();
    hd_note_free(&note);
}

// What comes back after the model was loaded.
static unsigned read_all(void)
{
    n_given = 0;
    hd_prefixes_loaded(prefixes, model_path);
    work();
    return n_given;
}

static size_t n_keys(void)
{
    struct hd_id ids[4];
    return hd_vault_find(hd_store_vault(store), HD_KEY_PREFIX, NULL, ids, 4);
}

static int setup(void **state)
{
    setup_sim(state);
    check_folder_make(dir);
    memset(&config, 0, sizeof config);
    snprintf(config.state_dir, sizeof config.state_dir, "%s", dir);
    config.prefix_cache_mib = 16;
    seq = 1;
    n_given = 0;
    return 0;
}

static int teardown(void **state)
{
    hd_prefixes_close(&prefixes);
    teardown_sim(state);
    check_folder_remove(dir); // the disk in memory has the files; these are only the folders
    return 0;
}

// ---- tests

static void a_cache_comes_back(void **state)
{
    (void)state;
    assert_true(open_all());
    keep(&owner, 1, "m");
    assert_true(open_all());
    assert_int_equal(read_all(), 1);
    assert_int_equal(given[0].version, 1);
    assert_true(hd_id_equal(&given[0].person, &owner));
    keep(&owner, 2, "m"); // in place of the first
    assert_int_equal(hd_prefixes_bytes(prefixes), CACHE_BYTES);
    assert_true(open_all());
    assert_int_equal(read_all(), 1);
    assert_int_equal(given[0].version, 2);
    assert_int_equal(n_keys(), 1);
    n_given = 0;
    hd_prefixes_loaded(prefixes, model_path);
    hd_prefixes_want(prefixes, &owner, model_path); // at once, without any work
    assert_int_equal(n_given, 1);
    work();
    assert_int_equal(n_given, 1);
}

static void nothing_lies_in_plain(void **state)
{
    (void)state;
    assert_true(open_all());
    keep(&owner, 1, "a model's name");
    assert_true(hd_prefixes_bytes(prefixes) > 0);
    assert_false(simdisk_ever_held(disk, canary, sizeof canary - 1));
    assert_false(simdisk_ever_held(disk, "a model's name", 14));
}

static void any_deletion_takes_key_and_file(void **state)
{
    (void)state;
    struct hd_accepted ids;
    struct hd_deleted deleted;
    assert_true(open_all());
    for (int round = 0; round < 2; round++) {
        assert_int_equal(ask(&owner, NULL, NULL, "a question", &ids), HEARTH_OK);
        keep(&owner, 1, "m");
        assert_int_equal(n_keys(), 1);
        if (round == 0)
            assert_int_equal(hd_store_turn_delete(store, &owner, &ids.user_turn, &deleted, &err), HEARTH_OK);
        else
            assert_int_equal(hd_store_conversation_delete(store, &owner, &ids.conversation, &deleted, &err),
                             HEARTH_OK);
        hd_deleted_free(&deleted);
        assert_int_equal(n_keys(), 0); // in the same stroke, before anything is said
        if (round == 0)
            hd_prefixes_forget(prefixes, &owner);
        else
            assert_true(open_all()); // a crash came before the file was removed
        assert_int_equal(read_all(), 0);
        assert_int_equal(hd_prefixes_bytes(prefixes), 0);
    }
    struct hd_person other;
    assert_int_equal(hd_person_add(store, "other", &other, &err), HEARTH_OK);
    keep(&owner, 1, "m");
    keep(&other.id, 2, "m");
    assert_int_equal(hd_person_remove(store, &other.id, &deleted, &err), HEARTH_OK);
    hd_deleted_free(&deleted);
    hd_prefixes_forget(prefixes, &other.id);
    assert_int_equal(read_all(), 1); // the owner's stays
    assert_int_equal(given[0].version, 1);
}

static void what_was_exported_before_a_deletion_is_dropped(void **state)
{
    (void)state;
    assert_true(open_all());
    struct hd_note note = {.type = HD_NOTE_PREFIXES, .person = owner, .tag = seq};
    note.text = (char *)make_cache(1);
    note.len_bytes = CACHE_BYTES;
    seq++; // the deletion
    hd_prefixes_keep(prefixes, &note);
    assert_non_null(note.text); // was not taken
    hd_note_free(&note);
    work();
    assert_int_equal(hd_prefixes_bytes(prefixes), 0);
}

// Handed over, but nothing of it is written yet. False: it was not taken.
static bool hand_over(uint8_t version)
{
    struct hd_note note = {.type = HD_NOTE_PREFIXES, .person = owner, .tag = seq, .len_bytes = CACHE_BYTES};
    note.text = (char *)make_cache(version);
    snprintf(note.model, sizeof note.model, "m");
    hd_model_tag(&config, model_path, note.model_tag);
    hd_prefixes_keep(prefixes, &note);
    bool taken = !note.text;
    hd_note_free(&note);
    return taken;
}

static void count_one(void *arg, const char *name)
{
    (void)name;
    ++*(unsigned *)arg;
}

static unsigned n_files(void)
{
    char path[160];
    unsigned n = 0;
    snprintf(path, sizeof path, "%s/prefixes", dir);
    assert_int_equal(io.list(io.user, path, count_one, &n), 0);
    return n;
}

static void a_deletion_ends_what_is_under_way(void **state)
{
    (void)state;
    assert_true(open_all());
    for (int steps = 0; steps < 3; steps++) { // waits; begun; partly written
        assert_true(hand_over(1));
        for (int i = 0; i < steps; i++)
            assert_true(hd_prefixes_work(prefixes));
        assert_int_equal(n_files(), steps > 0);
        hd_prefixes_forget(prefixes, &owner);
        work();
        assert_true(hd_prefixes_bytes(prefixes) == 0 && n_files() == 0);
    }
    keep(&owner, 1, "m");
    n_given = 0;
    hd_prefixes_loaded(prefixes, model_path);
    assert_true(hd_prefixes_work(prefixes)); // it is being read
    hd_prefixes_forget(prefixes, NULL);
    work();
    assert_true(n_given == 0 && n_files() == 0);
}

static void what_is_too_much_to_wait_is_not_taken(void **state)
{
    (void)state;
    unsigned n = 0;
    assert_true(open_all());
    while (n < 100 && hand_over(1))
        n++;
    assert_in_range(n, 1, 99);
    work();
    assert_int_equal(n_files(), 1);
    assert_true(hand_over(1));
}

static void a_cache_is_its_models_and_its_persons(void **state)
{
    (void)state;
    struct hd_person other;
    assert_true(open_all());
    assert_int_equal(hd_person_add(store, "other", &other, &err), HEARTH_OK);
    keep(&owner, 1, "m");
    keep(&other.id, 2, "m");
    n_given = 0;
    hd_prefixes_loaded(prefixes, "/etc/passwd");
    hd_prefixes_loaded(prefixes, "/no/such/file");
    work();
    assert_int_equal(n_given, 0);
    hd_prefixes_loaded(prefixes, model_path);
    hd_prefixes_want(prefixes, &other.id, model_path); // not the one that comes first
    assert_true(n_given == 1 && hd_id_equal(&given[0].person, &other.id));
    hd_prefixes_want(prefixes, &owner, model_path);
    assert_true(n_given == 2 && hd_id_equal(&given[1].person, &owner));
}

static void the_budget_drops_the_oldest(void **state)
{
    (void)state;
    config.prefix_cache_mib = 3; // two of them
    assert_true(open_all());
    keep(&owner, 1, "first");
    usleep(3000); // age is told in milliseconds
    keep(&owner, 2, "second");
    usleep(3000);
    keep(&owner, 3, "third");
    assert_true(hd_prefixes_bytes(prefixes) <= 3u << 20);
    assert_int_equal(read_all(), 2);
    assert_int_equal(given[0].version, 3); // newest first
    assert_int_equal(given[1].version, 2);
    config.prefix_cache_mib = 2; // it is less from now on
    assert_true(open_all());
    assert_true(n_files() == 1 && hd_prefixes_bytes(prefixes) <= 2u << 20);
    assert_int_equal(read_all(), 1);
    assert_int_equal(given[0].version, 3);
}

static char file_name[64];

static void note_name(void *arg, const char *name)
{
    (void)arg;
    snprintf(file_name, sizeof file_name, "%s", name);
}

static void flipped_bytes_open_nothing(void **state)
{
    (void)state;
    char path[160];
    assert_true(open_all());
    keep(&owner, 1, "m");
    snprintf(path, sizeof path, "%s/prefixes", dir);
    assert_int_equal(io.list(io.user, path, note_name, NULL), 0);
    snprintf(path, sizeof path, "%s/prefixes/%.32s", dir, file_name);
    size_t len;
    const uint8_t *now = simdisk_file(disk, path, &len);
    uint8_t *good = now ? malloc(len) : NULL;
    assert_non_null(good);
    memcpy(good, now, len);
    for (size_t at = 0; at < len; at += at < 200 ? 7 : 40000) {
        good[at] ^= 0x40;
        simdisk_put(disk, path, good, len);
        good[at] ^= 0x40;
        assert_true(open_all());
        if (read_all() != 0)
            fail_msg("byte %zu of %zu", at, len);
        assert_int_equal(hd_prefixes_bytes(prefixes), 0); // and it is gone
    }
    simdisk_put(disk, path, good, len / 2);
    assert_true(open_all());
    assert_int_equal(read_all(), 0);
    simdisk_put(disk, path, good, len);
    assert_true(open_all());
    assert_int_equal(read_all(), 1); // so it was the flips
    free(good);
}

// A power cut came between the new file and the old one's end; and whatever else lies there.
static void the_start_keeps_the_newer_one_only(void **state)
{
    (void)state;
    char path[160], other[160];
    size_t len;
    assert_true(open_all());
    keep(&owner, 1, "m");
    snprintf(path, sizeof path, "%s/prefixes", dir);
    assert_int_equal(io.list(io.user, path, note_name, NULL), 0);
    snprintf(path, sizeof path, "%s/prefixes/%.32s", dir, file_name);
    const uint8_t *bytes = simdisk_file(disk, path, &len);
    uint8_t *old = malloc(len);
    assert_non_null(old);
    memcpy(old, bytes, len);
    usleep(3000);
    for (int round = 0; round < 2; round++) { // the older one is met last, then first
        if (round == 0)
            keep(&owner, 2, "m");
        simdisk_put(disk, path, old, len);
        if (round == 1)
            keep(&owner, 2, "m");
        snprintf(other, sizeof other, "%s/prefixes/%.32s.new", dir, file_name);
        simdisk_put(disk, other, old, len);
        snprintf(other, sizeof other, "%s/prefixes/notes", dir);
        simdisk_put(disk, other, "x", 1);
        assert_true(open_all());
        assert_int_equal(n_files(), 1);
        assert_int_equal(read_all(), 1);
        assert_int_equal(given[0].version, 2);
    }
    free(old);
}

static bool scenario(struct hd_accepted *ids, bool *is_deleted)
{
    struct hd_deleted deleted;
    *is_deleted = false;
    if (!open_all() || ask(&owner, NULL, NULL, "a question", ids) != HEARTH_OK)
        return false;
    keep(&owner, 1, "m");
    keep(&owner, 2, "m");
    if (hd_store_conversation_delete(store, &owner, &ids->conversation, &deleted, &err) == HEARTH_OK)
        *is_deleted = true;
    hd_prefixes_forget(prefixes, &owner);
    hd_deleted_free(&deleted);
    return true;
}

static void a_power_cut_leaves_the_old_the_new_or_none(void **state)
{
    bool through = false;
    unsigned runs = 0, n_old = 0, n_new = 0;
    for (unsigned op = 1; !through; op++) {
        for (unsigned policy = 0; policy < 3; policy++, runs++) {
            struct hd_accepted ids;
            bool is_deleted;
            teardown(NULL);
            setup(NULL);
            simdisk_cut_at(disk, op);
            scenario(&ids, &is_deleted);
            through = op > simdisk_ops(disk);
            hd_prefixes_close(&prefixes);
            hd_store_close(&store);
            simdisk_restart(disk, (enum simdisk_policy)policy, op);
            if (!open_all())
                fail_msg("operation %u, policy %u: %s", op, policy, err.text);
            read_all();
            assert_true(n_given <= 1);
            assert_true(n_given == 0 || given[0].version == 1 || given[0].version == 2);
            n_old += n_given && given[0].version == 1;
            n_new += n_given && given[0].version == 2;
            if (is_deleted && (n_given || n_keys()))
                fail_msg("operation %u, policy %u: it came back after its deletion", op, policy);
        }
    }
    assert_true(n_old > 0 && n_new > 0);
    print_message("%u power cuts: %u times the first, %u times the second\n", runs, n_old, n_new);
    (void)state;
}

int main(void)
{
#define T(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(a_cache_comes_back),
        T(nothing_lies_in_plain),
        T(any_deletion_takes_key_and_file),
        T(what_was_exported_before_a_deletion_is_dropped),
        T(a_deletion_ends_what_is_under_way),
        T(what_is_too_much_to_wait_is_not_taken),
        T(a_cache_is_its_models_and_its_persons),
        T(the_budget_drops_the_oldest),
        T(the_start_keeps_the_newer_one_only),
        T(flipped_bytes_open_nothing),
        T(a_power_cut_leaves_the_old_the_new_or_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
