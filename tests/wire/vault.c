// SPDX-License-Identifier: Apache-2.0
// The vault: seal and open, every byte of a sealed value and of the key file flipped, deletion, damage, and a
// power cut before every single operation on a disk in memory.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <mbedtls/gcm.h>

#include "firmware/io.h"
#include "firmware/vault.h"
#include "tests/check/fault.h"
#include "tests/check/simdisk.h"

static const char dir[] = "/box";
static const char box_path[] = "/box/box.key", keys_path[] = "/box/turns.keys";

static struct simdisk *disk;
static struct hd_io io;
static struct hearth_error err;
static unsigned n_log_lines;

static void quiet(void *user, enum hd_log_level level, const char *line)
{
    (void)user, (void)level, (void)line;
    n_log_lines++;
}

static int setup(void **state)
{
    (void)state;
    disk = simdisk_new();
    io = simdisk_io(disk);
    hd_io_set(&io);
    hd_log_set(quiet, NULL);
    n_log_lines = 0;
    memset(&err, 0, sizeof err);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    simdisk_free(disk);
    hd_io_set(NULL);
    hd_log_set(NULL, NULL);
    return 0;
}

static struct hd_id id_of(unsigned n)
{
    struct hd_id id = {{0}};
    uint8_t hash[HD_HASH_BYTES];
    hd_sha256(hash, &n, sizeof n);
    memcpy(id.b, hash, sizeof id.b);
    return id;
}

static struct hd_vault *open_vault(void)
{
    struct hd_vault *vault;
    assert_int_equal(hd_vault_open(&vault, dir, true, &err), HEARTH_OK);
    return vault;
}

static enum hearth_status add(struct hd_vault *vault, unsigned n)
{
    struct hd_key_spec spec = {HD_KEY_TURN, id_of(n), id_of(1000)};
    return hd_vault_add(vault, &spec, 1, &err);
}

static const struct hd_slot slot = {.table = "turns", .field = "text", .row = {{7}}};

static void seal_text(struct hd_vault *vault, unsigned key, const char *text, uint8_t **sealed,
                      size_t *len_bytes)
{
    struct hd_id id = id_of(key);
    assert_int_equal(hd_vault_seal(vault, &id, &slot, text, strlen(text), sealed, len_bytes, &err),
                     HEARTH_OK);
}

static enum hearth_status open_text(struct hd_vault *vault, unsigned key, const struct hd_slot *at,
                                    const uint8_t *sealed, size_t len_bytes, char out[64])
{
    struct hd_id id = id_of(key);
    uint8_t *text;
    size_t text_len;
    enum hearth_status status =
        hd_vault_open_value(vault, &id, at, sealed, len_bytes, &text, &text_len, &err);
    snprintf(out, 64, "%s", status == HEARTH_OK ? (char *)text : "");
    assert_true(status == HEARTH_OK || text == NULL);
    hd_wipe_free(text, text_len);
    return status;
}

static void test_round_trip_and_restart(void **state)
{
    (void)state;
    struct hd_vault *vault = open_vault();
    assert_int_equal(add(vault, 1), HEARTH_OK);
    uint8_t *sealed, *again;
    size_t len_bytes, again_len;
    seal_text(vault, 1, "good evening", &sealed, &len_bytes);
    seal_text(vault, 1, "good evening", &again, &again_len);
    assert_int_equal(len_bytes, strlen("good evening") + HD_SEAL_OVERHEAD_BYTES);
    assert_memory_not_equal(sealed, again, len_bytes); // random nonces
    assert_null(memmem(sealed, len_bytes, "good", 4));
    struct hd_id file_id = hd_vault_file_id(vault);
    hd_vault_close(&vault);
    assert_null(vault);
    vault = open_vault();
    struct hd_id same = hd_vault_file_id(vault);
    assert_true(hd_id_equal(&file_id, &same));
    char text[64];
    assert_int_equal(open_text(vault, 1, &slot, sealed, len_bytes, text), HEARTH_OK);
    assert_string_equal(text, "good evening");
    assert_int_equal(open_text(vault, 2, &slot, sealed, len_bytes, text), HEARTH_NOT_FOUND);
    assert_int_equal(add(vault, 1), HEARTH_INVALID); // a second key for the same id
    free(again);
    seal_text(vault, 1, "", &again, &again_len);
    assert_int_equal(open_text(vault, 1, &slot, again, again_len, text), HEARTH_OK);
    assert_string_equal(text, "");
    free(again);
    free(sealed);
    hd_vault_close(&vault);
}

static void test_every_flipped_byte_fails(void **state)
{
    (void)state;
    struct hd_vault *vault = open_vault();
    assert_int_equal(add(vault, 1), HEARTH_OK);
    uint8_t *sealed;
    size_t len_bytes;
    char text[64];
    seal_text(vault, 1, "the rain in spain", &sealed, &len_bytes);
    for (size_t i = 0; i < len_bytes; i++)
        for (int bit = 0; bit < 8; bit++) {
            sealed[i] ^= (uint8_t)(1 << bit);
            assert_int_equal(open_text(vault, 1, &slot, sealed, len_bytes, text), HEARTH_FORMAT);
            sealed[i] ^= (uint8_t)(1 << bit);
        }
    for (size_t n = 0; n < len_bytes; n++)
        assert_int_equal(open_text(vault, 1, &slot, sealed, n, text), HEARTH_FORMAT);
    assert_int_equal(open_text(vault, 1, &slot, sealed, len_bytes, text), HEARTH_OK);
    free(sealed);
    hd_vault_close(&vault);
}

static void test_a_value_opens_only_in_its_place(void **state)
{
    (void)state;
    struct hd_vault *vault = open_vault();
    assert_int_equal(add(vault, 1), HEARTH_OK);
    assert_int_equal(add(vault, 2), HEARTH_OK);
    uint8_t *sealed;
    size_t len_bytes;
    char text[64];
    seal_text(vault, 1, "mine", &sealed, &len_bytes);
    struct hd_slot other_row = slot, other_field = slot, other_table = slot, shifted = slot;
    other_row.row.b[15] = 1;
    other_field.field = "title";
    other_table.table = "conversations";
    shifted.table = "turnst";
    shifted.field = "ext";
    assert_int_equal(open_text(vault, 1, &other_row, sealed, len_bytes, text), HEARTH_FORMAT);
    assert_int_equal(open_text(vault, 1, &other_field, sealed, len_bytes, text), HEARTH_FORMAT);
    assert_int_equal(open_text(vault, 1, &other_table, sealed, len_bytes, text), HEARTH_FORMAT);
    assert_int_equal(open_text(vault, 1, &shifted, sealed, len_bytes, text), HEARTH_FORMAT);
    assert_int_equal(open_text(vault, 2, &slot, sealed, len_bytes, text), HEARTH_FORMAT);
    assert_int_equal(open_text(vault, 1, &slot, sealed, len_bytes, text), HEARTH_OK);
    free(sealed);
    hd_vault_close(&vault);
}

static void test_destroyed_keys_open_nothing(void **state)
{
    (void)state;
    struct hd_vault *vault = open_vault();
    uint8_t *sealed[5];
    size_t len_bytes[5];
    char text[64];
    for (unsigned i = 0; i < 5; i++) {
        assert_int_equal(add(vault, i), HEARTH_OK);
        seal_text(vault, i, "a text", &sealed[i], &len_bytes[i]);
    }
    size_t old_len;
    const uint8_t *file = simdisk_file(disk, keys_path, &old_len);
    uint8_t *old = malloc(old_len);
    memcpy(old, file, old_len);
    uint64_t generation = hd_vault_generation(vault);
    struct hd_id gone[2] = {id_of(1), id_of(3)};
    assert_int_equal(hd_vault_destroy(vault, gone, 2, &err), HEARTH_OK);
    assert_int_equal(hd_vault_generation(vault), generation + 1);
    assert_int_equal(hd_vault_count(vault), 3);
    for (int restarted = 0; restarted < 2; restarted++) {
        for (unsigned i = 0; i < 5; i++)
            assert_int_equal(open_text(vault, i, &slot, sealed[i], len_bytes[i], text),
                             i == 1 || i == 3 ? HEARTH_NOT_FOUND : HEARTH_OK);
        hd_vault_close(&vault);
        simdisk_restart(disk, SIMDISK_DROP, 0);
        vault = open_vault();
    }
    // No wrapped key of the old generation stands in the new file, nor is one authentic in it.
    size_t new_len;
    uint8_t *now = simdisk_file(disk, keys_path, &new_len);
    for (size_t i = 80; i + 100 <= old_len; i += 100)
        assert_null(memmem(now, new_len, old + i + 52, 32));
    assert_int_equal(new_len, 80 + 3 * 100);
    hd_vault_close(&vault);
    uint8_t *forged = malloc(new_len + 100);
    memcpy(forged, now, new_len);
    memcpy(forged + new_len, old + 80 + 3 * 100, 100); // text 3 from before, at the place where it was
    simdisk_put(disk, keys_path, forged, new_len + 100);
    vault = open_vault();
    assert_int_equal(hd_vault_count(vault), 3);
    assert_int_equal(hd_vault_damaged_bytes(vault), 100);
    assert_int_equal(open_text(vault, 3, &slot, sealed[3], len_bytes[3], text), HEARTH_NOT_FOUND);
    hd_vault_close(&vault);
    for (int i = 0; i < 5; i++)
        free(sealed[i]);
    free(old);
    free(forged);
}

static void test_damage_is_told_and_nothing_is_touched(void **state)
{
    (void)state;
    struct hd_vault *vault = open_vault();
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(add(vault, i), HEARTH_OK);
    hd_vault_close(&vault);
    size_t n;
    uint8_t *file = simdisk_file(disk, keys_path, &n);
    uint8_t *good = malloc(n), *bad = malloc(n);
    memcpy(good, file, n);
    for (size_t i = 0; i < n; i++) { // the header refuses; a record is counted as lost
        memcpy(bad, good, n);
        bad[i] ^= 0x10;
        simdisk_put(disk, keys_path, bad, n);
        enum hearth_status status = hd_vault_open(&vault, dir, true, &err);
        assert_int_equal(status, i < 80 ? HEARTH_FORMAT : HEARTH_OK);
        if (status == HEARTH_FORMAT) {
            assert_non_null(strstr(err.text, keys_path));
        } else {
            assert_int_equal(hd_vault_count(vault), 3);
            assert_int_equal(hd_vault_damaged_bytes(vault), 100);
            assert_int_equal(add(vault, 9), HEARTH_FORMAT); // not before it is repaired
        }
        hd_vault_close(&vault);
        size_t after;
        assert_memory_equal(simdisk_file(disk, keys_path, &after), bad, n);
    }
    simdisk_put(disk, keys_path, good, n);
    uint8_t key[33] = {1};
    size_t key_len;
    memcpy(key, simdisk_file(disk, box_path, &key_len), 32);
    assert_int_equal(key_len, 32);
    key[5] ^= 1; // another box key
    simdisk_put(disk, box_path, key, 32);
    assert_int_equal(hd_vault_open(&vault, dir, true, &err), HEARTH_FORMAT);
    simdisk_put(disk, box_path, key, 31);
    assert_int_equal(hd_vault_open(&vault, dir, true, &err), HEARTH_FORMAT);
    assert_non_null(strstr(err.text, box_path));
    simdisk_put(disk, box_path, key, 33);
    assert_int_equal(hd_vault_open(&vault, dir, true, &err), HEARTH_FORMAT);
    simdisk_remove(disk, box_path); // never made anew beside existing keys
    assert_int_equal(hd_vault_open(&vault, dir, true, &err), HEARTH_FORMAT);
    assert_non_null(strstr(err.text, box_path));
    assert_null(simdisk_file(disk, box_path, &n));
    key[5] ^= 1;
    simdisk_put(disk, box_path, key, 32);
    simdisk_remove(disk, keys_path);
    assert_int_equal(hd_vault_open(&vault, dir, false, &err), HEARTH_FORMAT);
    assert_non_null(strstr(err.text, keys_path));
    free(good);
    free(bad);
}

static void test_repair_cuts_the_tail_or_rewrites(void **state)
{
    (void)state;
    for (int middle = 0; middle < 2; middle++) {
        struct hd_vault *vault = open_vault();
        for (unsigned i = 0; i < 3; i++)
            assert_int_equal(add(vault, 10 * (unsigned)middle + i), HEARTH_OK);
        hd_vault_close(&vault);
        size_t n;
        uint8_t *file = simdisk_file(disk, keys_path, &n), bad[2048];
        memcpy(bad, file, n);
        bad[n - (middle ? 150 : 50)] ^= 1;
        memset(bad + n, 0xaa, 37); // an append that was cut short
        simdisk_put(disk, keys_path, bad, n + 37);
        vault = open_vault();
        size_t good = hd_vault_count(vault);
        assert_int_equal(hd_vault_damaged_bytes(vault), 137);
        n_log_lines = 0;
        assert_int_equal(hd_vault_repair(vault, &err), HEARTH_OK);
        assert_int_equal(n_log_lines, 1);
        assert_int_equal(hd_vault_damaged_bytes(vault), 0);
        assert_int_equal(add(vault, 99 + (unsigned)middle), HEARTH_OK);
        hd_vault_close(&vault);
        simdisk_restart(disk, SIMDISK_DROP, 0);
        vault = open_vault();
        assert_int_equal(hd_vault_count(vault), good + 1);
        assert_int_equal(hd_vault_damaged_bytes(vault), 0);
        hd_vault_close(&vault);
    }
}

// As the top of firmware/vault.c describes records.
static void unwrap(const uint8_t *box, const uint8_t *file, size_t i, uint8_t key[32])
{
    const uint8_t *record = file + 80 + 100 * i;
    uint8_t aad[74] = "hearth.key";
    mbedtls_gcm_context gcm;
    memcpy(aad + 10, file + 24, 16);
    memcpy(aad + 26, file + 16, 8);
    memcpy(aad + 34, record, 40);
    mbedtls_gcm_init(&gcm);
    assert_int_equal(mbedtls_gcm_setkey(&gcm, MBEDTLS_CIPHER_ID_AES, box, 256), 0);
    assert_int_equal(mbedtls_gcm_auth_decrypt(&gcm, 32, record + 40, 12, aad, sizeof aad, record + 84, 16,
                                              record + 52, key), 0);
    mbedtls_gcm_free(&gcm);
}

static void test_keys_in_plain_are_nowhere(void **state)
{
    (void)state;
    struct hd_vault *vault = open_vault();
    assert_int_equal(add(vault, 1), HEARTH_OK);
    assert_int_equal(add(vault, 2), HEARTH_OK);
    assert_int_equal(add(vault, 3), HEARTH_OK);
    struct hd_id gone = id_of(1);
    assert_int_equal(hd_vault_destroy(vault, &gone, 1, &err), HEARTH_OK);
    hd_vault_close(&vault);
    size_t n;
    uint8_t *box = simdisk_file(disk, box_path, &n);
    size_t keys_len;
    uint8_t *keys = simdisk_file(disk, keys_path, &keys_len);
    assert_null(memmem(keys, keys_len, box, 32));
    uint8_t key[2][32], none[32] = {0};
    for (size_t i = 0; i < 2; i++) {
        unwrap(box, keys, i, key[i]);
        assert_memory_not_equal(key[i], none, 32);
        assert_false(simdisk_ever_held(disk, key[i], 32));
    }
    assert_memory_not_equal(key[0], key[1], 32);
}

static void test_records_are_good_only_in_their_place(void **state)
{
    (void)state;
    struct hd_vault *vault = open_vault();
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(add(vault, i), HEARTH_OK);
    hd_vault_close(&vault);
    size_t n;
    uint8_t *file = simdisk_file(disk, keys_path, &n), moved[480];
    memcpy(moved, file, n);
    memcpy(moved + 180, file + 280, 100);
    memcpy(moved + 280, file + 180, 100);
    simdisk_put(disk, keys_path, moved, n);
    vault = open_vault();
    assert_int_equal(hd_vault_count(vault), 2);
    assert_int_equal(hd_vault_damaged_bytes(vault), 200);
    hd_vault_close(&vault);
}

// Many keys in the course of time, few at once: every one of them is found and gone as the first was.
static void test_keys_come_and_go(void **state)
{
    (void)state;
    enum { ROUNDS = 250, EACH = 8 };
    struct hd_vault *vault = open_vault();
    for (unsigned round = 0; round < ROUNDS; round++) {
        struct hd_key_spec specs[EACH] = {0};
        struct hd_id ids[EACH];
        for (unsigned i = 0; i < EACH; i++) {
            ids[i] = id_of(round * EACH + i);
            specs[i] = (struct hd_key_spec){HD_KEY_TURN, ids[i], id_of(1000)};
            assert_false(hd_vault_has(vault, &ids[i]));
        }
        assert_int_equal(hd_vault_add(vault, specs, EACH, &err), HEARTH_OK);
        assert_int_equal(hd_vault_destroy(vault, ids, EACH, &err), HEARTH_OK);
        for (unsigned i = 0; i < EACH; i++)
            assert_false(hd_vault_has(vault, &ids[i]));
    }
    assert_int_equal(hd_vault_count(vault), 0);
    hd_vault_close(&vault);
}

// The last step of a deletion fails; who tries again must not be told that there was nothing left to do.
static void test_a_deletion_is_told_when_it_is_on_disk(void **state)
{
    (void)state;
    struct hd_vault *vault = open_vault();
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(add(vault, i), HEARTH_OK);
    struct hd_id first = id_of(0), second = id_of(1);
    unsigned before = simdisk_ops(disk);
    assert_int_equal(hd_vault_destroy(vault, &first, 1, &err), HEARTH_OK);
    unsigned n_ops = simdisk_ops(disk) - before;
    simdisk_fail_at(disk, simdisk_ops(disk) + n_ops);
    assert_int_equal(hd_vault_destroy(vault, &second, 1, &err), HEARTH_IO);
    simdisk_fail_at(disk, 0);
    assert_int_equal(hd_vault_destroy(vault, &second, 1, &err), HEARTH_OK);
    simdisk_cut_at(disk, simdisk_ops(disk) + 1);
    hd_vault_close(&vault);
    simdisk_restart(disk, SIMDISK_DROP, 0);
    simdisk_put(disk, "/box/turns.keys.new", "left over", 9);
    vault = open_vault();
    assert_false(hd_vault_has(vault, &second));
    assert_int_equal(hd_vault_count(vault), 1);
    size_t len;
    assert_null(simdisk_file(disk, "/box/turns.keys.new", &len)); // of a rewrite that did not end
    hd_vault_close(&vault);
}

static void test_full_disk_loses_nothing(void **state)
{
    (void)state;
    struct hd_vault *vault = open_vault();
    unsigned n = 0;
    simdisk_set_capacity(disk, 1500);
    while (add(vault, n) == HEARTH_OK)
        n++;
    assert_int_equal(err.code, HEARTH_IO);
    assert_non_null(strstr(err.text, "No space left"));
    assert_in_range(n, 10, 15);
    assert_int_equal(hd_vault_count(vault), n);
    struct hd_id gone = id_of(0);
    assert_int_equal(hd_vault_destroy(vault, &gone, 1, &err), HEARTH_IO);
    assert_true(hd_vault_has(vault, &gone));
    simdisk_set_capacity(disk, 0);
    assert_int_equal(add(vault, n), HEARTH_OK);
    assert_int_equal(hd_vault_destroy(vault, &gone, 1, &err), HEARTH_OK);
    hd_vault_close(&vault);
    simdisk_restart(disk, SIMDISK_DROP, 0);
    vault = open_vault();
    assert_int_equal(hd_vault_count(vault), n);
    assert_int_equal(hd_vault_damaged_bytes(vault), 0);
    hd_vault_close(&vault);
}

// ---- every operation once

enum { N_KEYS = 12 };
enum known { ABSENT, UNSURE, PRESENT, GOING, GONE };

static void try_add(struct hd_vault *vault, enum known *known, unsigned first, unsigned n)
{
    struct hd_key_spec specs[4] = {0};
    for (unsigned i = 0; i < n; i++) {
        specs[i] = (struct hd_key_spec){HD_KEY_TURN, id_of(first + i), id_of(1000)};
        known[first + i] = UNSURE;
    }
    if (hd_vault_add(vault, specs, n, &err) == HEARTH_OK)
        for (unsigned i = 0; i < n; i++)
            known[first + i] = PRESENT;
}

static void try_destroy(struct hd_vault *vault, enum known *known, unsigned first, unsigned n)
{
    struct hd_id ids[4] = {{{0}}};
    for (unsigned i = 0; i < n; i++) {
        ids[i] = id_of(first + i);
        if (known[first + i] == PRESENT) // nothing was ever sealed with a key whose making failed
            known[first + i] = GOING;
    }
    if (hd_vault_destroy(vault, ids, n, &err) == HEARTH_OK)
        for (unsigned i = 0; i < n; i++)
            known[first + i] = known[first + i] == GOING ? GONE : known[first + i];
}

static void scenario(enum known *known)
{
    struct hd_vault *vault;
    memset(known, 0, N_KEYS * sizeof *known);
    for (int round = 0; round < 2; round++) {
        unsigned at = (unsigned)round * N_KEYS / 2;
        if (hd_vault_open(&vault, dir, true, &err) != HEARTH_OK)
            return;
        if (hd_vault_damaged_bytes(vault) == 0) {
            try_add(vault, known, at, 1);
            try_add(vault, known, at + 1, 3);
            try_destroy(vault, known, at + 1, 2);
            try_add(vault, known, at + 4, 2);
            try_destroy(vault, known, at, 1);
            if (round == 1)
                try_destroy(vault, known, 4, 1);
        }
        hd_vault_close(&vault);
    }
}

// What is not as it was promised, after everything that a power cut may leave.
static unsigned broken_promises(const enum known *known)
{
    unsigned broken = 0;
    struct hd_vault *vault;
    if (hd_vault_open(&vault, dir, true, &err) != HEARTH_OK)
        return 1;
    for (unsigned i = 0; i < N_KEYS; i++) {
        struct hd_id id = id_of(i);
        bool has = hd_vault_has(vault, &id);
        broken += (known[i] == PRESENT && !has) || ((known[i] == GONE || known[i] == ABSENT) && has);
    }
    if (hd_vault_repair(vault, &err) != HEARTH_OK || add(vault, 500) != HEARTH_OK)
        broken++;
    hd_vault_close(&vault);
    return broken;
}

enum { SEEDS = 6 };

// Every operation is cut (or fails) once, under every policy. Returns broken promises; *runs counts.
static unsigned sweep(bool cut, const char *ignored_fsync, unsigned *runs)
{
    unsigned broken = 0;
    bool through = false; // the scenario ended before the operation was met
    for (unsigned op = 1; !through; op++)
        for (uint64_t seed = 0; seed < SEEDS + 2; seed++) {
            teardown(NULL);
            setup(NULL);
            simdisk_ignore_fsync(disk, ignored_fsync);
            if (cut)
                simdisk_cut_at(disk, op);
            else
                simdisk_fail_at(disk, op);
            enum known known[N_KEYS];
            scenario(known);
            through = op > simdisk_ops(disk);
            simdisk_restart(disk, seed == 0 ? SIMDISK_DROP : seed == 1 ? SIMDISK_KEEP : SIMDISK_TEAR, seed);
            broken += broken_promises(known);
            ++*runs;
        }
    return broken;
}

static void test_power_cut_at_every_operation(void **state)
{
    (void)state;
    unsigned runs = 0;
    assert_int_equal(sweep(true, NULL, &runs), 0);
    assert_true(runs > 40 * (SEEDS + 2));
    print_message("%u power cuts\n", runs);
}

static void test_error_at_every_operation(void **state)
{
    (void)state;
    unsigned runs = 0;
    assert_int_equal(sweep(false, NULL, &runs), 0);
    print_message("%u errors\n", runs);
}

static void test_error_and_then_a_power_cut(void **state)
{
    (void)state;
    unsigned broken = 0, runs = 0;
    bool through = false;
    for (unsigned op = 1; !through; op++) {
        bool cut_through = false;
        for (unsigned cut = op + 1; !cut_through; cut++, runs++) {
            teardown(NULL);
            setup(NULL);
            simdisk_fail_at(disk, op);
            simdisk_cut_at(disk, cut);
            enum known known[N_KEYS];
            scenario(known);
            through = op > simdisk_ops(disk);
            cut_through = cut > simdisk_ops(disk);
            simdisk_restart(disk, SIMDISK_DROP, 0);
            broken += broken_promises(known);
        }
    }
    assert_int_equal(broken, 0);
    print_message("%u runs\n", runs);
    assert_true(runs > 500);
}

// The process dies and the next one sees what was never synced; later the power goes.
static void test_death_of_the_process_and_then_a_power_cut(void **state)
{
    (void)state;
    unsigned broken = 0;
    bool through = false;
    for (unsigned op = 1; !through; op++) {
        teardown(NULL);
        setup(NULL);
        simdisk_cut_at(disk, op);
        enum known known[N_KEYS];
        scenario(known);
        through = op > simdisk_ops(disk);
        simdisk_next_process(disk);
        struct hd_vault *vault = open_vault();
        assert_int_equal(hd_vault_repair(vault, &err), HEARTH_OK);
        assert_int_equal(add(vault, 600), HEARTH_OK);
        struct hd_id id = id_of(600);
        simdisk_cut_at(disk, simdisk_ops(disk) + 1);
        hd_vault_close(&vault);
        simdisk_restart(disk, SIMDISK_DROP, 0);
        vault = open_vault();
        broken += !hd_vault_has(vault, &id);
        hd_vault_close(&vault);
        broken += broken_promises(known);
    }
    assert_int_equal(broken, 0);
}

static void test_each_fsync_is_needed(void **state)
{
    (void)state;
    static const char *const each[] = {"turns.keys", "turns.keys.new", "box.key.new", "/"};
    for (size_t i = 0; i < sizeof each / sizeof *each; i++) {
        unsigned runs = 0;
        if (sweep(true, each[i], &runs) == 0)
            fail_msg("without fsync of %s nothing was lost", each[i]);
    }
}

static void test_real_files(void **state)
{
    (void)state;
    char real[64], path[96];
    hd_io_set(NULL);
    check_folder_make(real);
    struct hd_vault *vault;
    assert_int_equal(hd_vault_open(&vault, real, true, &err), HEARTH_OK);
    assert_int_equal(add(vault, 1), HEARTH_OK);
    struct hd_id one = id_of(1);
    assert_int_equal(add(vault, 2), HEARTH_OK);
    assert_int_equal(hd_vault_destroy(vault, &one, 1, &err), HEARTH_OK);
    hd_vault_close(&vault);
    assert_int_equal(hd_vault_open(&vault, real, false, &err), HEARTH_OK);
    assert_int_equal(hd_vault_count(vault), 1);
    hd_vault_close(&vault);
    static const char *const names[] = {"box.key", "turns.keys"};
    for (int i = 0; i < 2; i++) {
        uint8_t *data;
        size_t n;
        snprintf(path, sizeof path, "%s/%s", real, names[i]);
        assert_int_equal(hd_io_read_file(path, 1000, &data, &n, &err), HEARTH_OK);
        assert_int_equal(n, i == 0 ? 32 : 180);
        free(data);
        assert_int_equal(remove(path), 0);
    }
    assert_int_equal(remove(real), 0); // nothing else was left there
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_round_trip_and_restart, setup, teardown),
        cmocka_unit_test_setup_teardown(test_every_flipped_byte_fails, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_value_opens_only_in_its_place, setup, teardown),
        cmocka_unit_test_setup_teardown(test_destroyed_keys_open_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_damage_is_told_and_nothing_is_touched, setup, teardown),
        cmocka_unit_test_setup_teardown(test_repair_cuts_the_tail_or_rewrites, setup, teardown),
        cmocka_unit_test_setup_teardown(test_keys_in_plain_are_nowhere, setup, teardown),
        cmocka_unit_test_setup_teardown(test_records_are_good_only_in_their_place, setup, teardown),
        cmocka_unit_test_setup_teardown(test_keys_come_and_go, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_deletion_is_told_when_it_is_on_disk, setup, teardown),
        cmocka_unit_test_setup_teardown(test_full_disk_loses_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_power_cut_at_every_operation, setup, teardown),
        cmocka_unit_test_setup_teardown(test_error_at_every_operation, setup, teardown),
        cmocka_unit_test_setup_teardown(test_error_and_then_a_power_cut, setup, teardown),
        cmocka_unit_test_setup_teardown(test_death_of_the_process_and_then_a_power_cut, setup, teardown),
        cmocka_unit_test_setup_teardown(test_each_fsync_is_needed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_real_files, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
