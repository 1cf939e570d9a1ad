// SPDX-License-Identifier: Apache-2.0
// libFuzzer entry of the key files: a genuine pair with three keys is damaged as the input says, then opened and used.
// Input: per edit 4 bytes: file (low bit) and kind, offset (u16), value; kind 3 puts the rest of the input in the
// file's place. A damaged file is refused or tells its damage; no key comes out of it that was not in it.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "firmware/vault.h"
#include "tests/check/simdisk.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { N_KEYS = 3 };
static const char *const paths[2] = {"/box/box.key", "/box/turns.keys"};
static const char text[] = "what was said";

static struct hd_id id_of(unsigned n)
{
    struct hd_id id = {{0}};
    id.b[0] = (uint8_t)(n + 1);
    return id;
}

static void need(bool holds)
{
    if (!holds)
        abort();
}

// The genuine files and a value sealed with each key; made once.
static uint8_t *genuine[2], *sealed[N_KEYS];
static size_t genuine_len[2], sealed_len[N_KEYS];

static struct hd_slot slot_of(unsigned n)
{
    return (struct hd_slot){.table = "turns", .field = "text", .row = id_of(n)};
}

static void make_genuine(struct simdisk *disk)
{
    struct hd_vault *vault;
    struct hd_key_spec specs[N_KEYS];
    need(hd_vault_open(&vault, "/box", true, NULL) == HEARTH_OK);
    for (unsigned i = 0; i < N_KEYS; i++)
        specs[i] = (struct hd_key_spec){.kind = HD_KEY_TURN, .id = id_of(i), .person = id_of(9)};
    need(hd_vault_add(vault, specs, N_KEYS, NULL) == HEARTH_OK);
    for (unsigned i = 0; i < N_KEYS; i++) {
        struct hd_slot slot = slot_of(i);
        need(hd_vault_seal(vault, &specs[i].id, &slot, text, sizeof text, &sealed[i], &sealed_len[i], NULL) ==
             HEARTH_OK);
    }
    hd_vault_close(&vault);
    for (int i = 0; i < 2; i++) {
        const uint8_t *file = simdisk_file(disk, paths[i], &genuine_len[i]);
        genuine[i] = malloc(genuine_len[i]);
        need(file && genuine[i]);
        memcpy(genuine[i], file, genuine_len[i]);
    }
}

// Applies one edit; returns the input bytes it took.
static size_t edit(uint8_t *file[2], size_t len[2], const uint8_t *data, size_t size)
{
    int which = data[0] & 1;
    size_t at = (size_t)(data[1] | data[2] << 8);
    switch (data[0] >> 1 & 3) {
    case 0:
        if (at < len[which])
            file[which][at] ^= data[3];
        return 4;
    case 1:
        len[which] = at < len[which] ? at : len[which];
        return 4;
    case 2: // a record twice
        if (which && len[1] >= 180 && len[1] + 100 <= 4096) {
            memmove(file[1] + len[1], file[1] + 80, 100);
            len[1] += 100;
        }
        return 4;
    default:
        len[which] = size - 4 < 4096 ? size - 4 : 4096;
        memcpy(file[which], data + 4, len[which]);
        return size;
    }
}

static void use(struct hd_vault *vault)
{
    for (unsigned i = 0; i < N_KEYS; i++) {
        struct hd_id id = id_of(i);
        struct hd_slot slot = slot_of(i);
        uint8_t *out;
        size_t n;
        if (hd_vault_open_value(vault, &id, &slot, sealed[i], sealed_len[i], &out, &n, NULL) == HEARTH_OK) {
            need(n == sizeof text && memcmp(out, text, n) == 0);
            hd_wipe_free(out, n);
        }
    }
    need(hd_vault_count(vault) <= N_KEYS);
    if (hd_vault_damaged_bytes(vault))
        need(hd_vault_repair(vault, NULL) == HEARTH_OK && hd_vault_damaged_bytes(vault) == 0);
    struct hd_id first = id_of(0);
    need(hd_vault_destroy(vault, &first, 1, NULL) == HEARTH_OK && !hd_vault_has(vault, &first));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t bytes[2][4096 + 4096];
    struct simdisk *disk = simdisk_new();
    struct hd_io io = simdisk_io(disk);
    hd_io_set(&io);
    if (!genuine[0])
        make_genuine(disk);
    uint8_t *file[2] = {bytes[0], bytes[1]};
    size_t len[2] = {genuine_len[0], genuine_len[1]};
    for (int i = 0; i < 2; i++)
        memcpy(file[i], genuine[i], len[i]);
    while (size >= 4) {
        size_t taken = edit(file, len, data, size);
        data += taken;
        size -= taken;
    }
    for (int i = 0; i < 2; i++)
        simdisk_put(disk, paths[i], file[i], len[i]);
    struct hd_vault *vault;
    if (hd_vault_open(&vault, "/box", false, NULL) == HEARTH_OK)
        use(vault);
    hd_vault_close(&vault);
    hd_io_set(NULL);
    simdisk_free(disk);
    return 0;
}
