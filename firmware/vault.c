// SPDX-License-Identifier: Apache-2.0
// Keys of texts and the one seal/open pair. Owns box.key and turns.keys. Server loop thread only.
//
// box.key: 32 random bytes, mode 0600. It wraps every key and never changes.
//
// turns.keys: a header of 80 bytes, then records of 100 bytes; integers are little-endian.
//   header   0 magic "HRTHKEYS" | 8 u32 version (1) | 12 u32 record size (100) | 16 u64 generation |
//            24 file id (16) | 40 zero (12) | 52 nonce (12) | 64 tag (16)
//            tag = GCM(box key, nonce, no text, AAD = bytes 0..51): tells that this box.key belongs to this
//            file.
//   record   0 u8 kind (hd_key_kind) | 1 u8 wrapped by (0 = box key) | 2 u16 zero | 4 u32 index of the record
//   |
//            8 id (16) | 24 person (16) | 40 nonce (12) | 52 wrapped key (32) | 84 tag (16)
//            AAD = "hearth.key" | file id | u64 generation | bytes 0..39.
// A record is authentic only at its place, in its generation, in its file. New keys are appended and fsynced
// before anything is sealed with them. A deletion writes the whole file anew under the next generation
// (temporary file, fsync, rename, fsync of the folder), so the old records are no longer authentic beside the
// new header. "Wrapped by" leaves room for persons' keys: such a record names the person and is wrapped by
// that person's key instead.
//
// Sealed values: top of seal.c. Nonces are random everywhere. In memory keys stay wrapped; only the box key is held,
// and one text's key while it is used, in locked memory.
#include "firmware/vault.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <mbedtls/gcm.h>

#include "firmware/io.h"
#include "firmware/seal.h"

enum {
    KEY_BYTES = 32,
    NONCE_BYTES = 12,
    TAG_BYTES = 16,
    HEADER_BYTES = 80,
    HEADER_SIGNED_BYTES = 52,
    RECORD_BYTES = 100,
    RECORD_SIGNED_BYTES = 40,
    RECORD_NONCE = 40,
    RECORD_KEY = 52,
    RECORD_TAG = 84,
    RECORD_AAD_BYTES = 10 + 16 + 8 + RECORD_SIGNED_BYTES,
    FILE_VERSION = 1,
    NO_RECORD = -1,
};
static const char magic[8] = {'H', 'R', 'T', 'H', 'K', 'E', 'Y', 'S'};

struct secrets { // in locked memory
    uint8_t box_key[KEY_BYTES];
    uint8_t text_key[KEY_BYTES];
};

struct hd_vault {
    char *dir, *box_path, *keys_path, *fresh_path;
    struct secrets *secrets;
    mbedtls_gcm_context box; // keyed with box_key
    int fd;                  // turns.keys, for appending
    uint64_t generation;
    struct hd_id file_id;
    uint8_t *records; // n_records of RECORD_BYTES, as in the file; a damaged one has kind 0
    size_t n_records, capacity;
    size_t n_keys, n_damaged, tail_bytes; // tail: an incomplete last record
    uint32_t *index;                      // open addressing by id: record + 1, 0 = free
    size_t index_size;                    // power of two
    bool folder_dirty;                    // a rename may not be on disk yet
};

static enum hearth_status no_memory(struct hearth_error *err)
{
    return hd_fail(err, HEARTH_NOMEM, "out of memory");
}

static enum hearth_status cipher_failed(struct hearth_error *err)
{
    return hd_fail(err, HEARTH_NOMEM, "AES-GCM failed");
}

// ---- the index

static uint8_t *record_at(const struct hd_vault *vault, size_t i)
{
    return vault->records + i * RECORD_BYTES;
}

static size_t index_slot(const struct hd_vault *vault, const struct hd_id *id)
{
    size_t mask = vault->index_size - 1;
    size_t slot = (size_t)hd_get_le(id->b, 8) & mask;
    while (vault->index[slot] != 0 && memcmp(record_at(vault, vault->index[slot] - 1) + 8, id->b, 16) != 0)
        slot = (slot + 1) & mask;
    return slot;
}

static int64_t find_record(const struct hd_vault *vault, const struct hd_id *id)
{
    if (vault->index_size == 0)
        return NO_RECORD;
    return (int64_t)vault->index[index_slot(vault, id)] - 1;
}

static void index_record(struct hd_vault *vault, size_t i)
{
    struct hd_id id;
    memcpy(id.b, record_at(vault, i) + 8, sizeof id.b);
    vault->index[index_slot(vault, &id)] = (uint32_t)i + 1;
}

// Makes room for `n` records in all, in both tables; the index stays at most half full.
static bool reserve(struct hd_vault *vault, size_t n)
{
    if (n > vault->capacity) {
        size_t capacity = vault->capacity == 0 ? 64 : vault->capacity;
        while (capacity < n)
            capacity *= 2;
        uint8_t *records = realloc(vault->records, capacity * RECORD_BYTES);
        if (records == NULL)
            return false;
        vault->records = records;
        vault->capacity = capacity;
    }
    if (vault->index_size >= 2 * vault->capacity)
        return true;
    uint32_t *index = calloc(2 * vault->capacity, sizeof *index);
    if (index == NULL)
        return false;
    free(vault->index);
    vault->index = index;
    vault->index_size = 2 * vault->capacity;
    for (size_t i = 0; i < vault->n_records; i++)
        if (record_at(vault, i)[0] != 0)
            index_record(vault, i);
    return true;
}

// ---- wrapping

static void record_aad(uint8_t aad[RECORD_AAD_BYTES], const struct hd_id *file_id, uint64_t generation,
                       const uint8_t *record)
{
    memcpy(aad, "hearth.key", 10);
    memcpy(aad + 10, file_id->b, 16);
    hd_put_le(aad + 26, generation, 8);
    memcpy(aad + 34, record, RECORD_SIGNED_BYTES);
}

// record: bytes 0..39 are set; fills the rest.
static enum hearth_status wrap_key(struct hd_vault *vault, uint64_t generation, uint8_t *record,
                                   const uint8_t key[KEY_BYTES], struct hearth_error *err)
{
    enum hearth_status status = hd_random(record + RECORD_NONCE, NONCE_BYTES, err);
    if (status != HEARTH_OK)
        return status;
    uint8_t aad[RECORD_AAD_BYTES];
    record_aad(aad, &vault->file_id, generation, record);
    if (mbedtls_gcm_crypt_and_tag(&vault->box, MBEDTLS_GCM_ENCRYPT, KEY_BYTES, record + RECORD_NONCE,
                                  NONCE_BYTES, aad, sizeof aad, key, record + RECORD_KEY, TAG_BYTES,
                                  record + RECORD_TAG) != 0)
        return cipher_failed(err);
    return HEARTH_OK;
}

// Into secrets->text_key; false when the record is not authentic here.
static bool unwrap_key(struct hd_vault *vault, const uint8_t *record)
{
    uint8_t aad[RECORD_AAD_BYTES];
    record_aad(aad, &vault->file_id, vault->generation, record);
    return mbedtls_gcm_auth_decrypt(&vault->box, KEY_BYTES, record + RECORD_NONCE, NONCE_BYTES, aad,
                                    sizeof aad, record + RECORD_TAG, TAG_BYTES, record + RECORD_KEY,
                                    vault->secrets->text_key) == 0;
}

static void forget_text_key(struct hd_vault *vault)
{
    hd_wipe(vault->secrets->text_key, KEY_BYTES);
}

static enum hearth_status make_header(struct hd_vault *vault, uint64_t generation,
                                      uint8_t header[HEADER_BYTES], struct hearth_error *err)
{
    memset(header, 0, HEADER_BYTES);
    memcpy(header, magic, sizeof magic);
    hd_put_le(header + 8, FILE_VERSION, 4);
    hd_put_le(header + 12, RECORD_BYTES, 4);
    hd_put_le(header + 16, generation, 8);
    memcpy(header + 24, vault->file_id.b, 16);
    enum hearth_status status = hd_random(header + HEADER_SIGNED_BYTES, NONCE_BYTES, err);
    if (status != HEARTH_OK)
        return status;
    if (mbedtls_gcm_crypt_and_tag(&vault->box, MBEDTLS_GCM_ENCRYPT, 0, header + HEADER_SIGNED_BYTES,
                                  NONCE_BYTES, header, HEADER_SIGNED_BYTES, NULL, NULL, TAG_BYTES,
                                  header + 64) != 0)
        return cipher_failed(err);
    return HEARTH_OK;
}

// ---- opening

static enum hearth_status create_box_key(struct hd_vault *vault, struct hearth_error *err)
{
    enum hearth_status status = hd_random(vault->secrets->box_key, KEY_BYTES, err);
    if (status == HEARTH_OK)
        status = hd_io_replace(vault->box_path, vault->secrets->box_key, KEY_BYTES, err);
    return status;
}

static enum hearth_status load_box_key(struct hd_vault *vault, bool may_create, struct hearth_error *err)
{
    uint8_t *data;
    size_t len_bytes;
    enum hearth_status status = hd_io_read_file(vault->box_path, KEY_BYTES, &data, &len_bytes, err);
    if (status == HEARTH_NOT_FOUND) {
        if (!may_create)
            return hd_fail(err, HEARTH_FORMAT, "%s is missing: without it no stored text can be read",
                           vault->box_path);
        status = create_box_key(vault, err);
    } else if (status == HEARTH_LIMIT || (status == HEARTH_OK && len_bytes != KEY_BYTES)) {
        status =
            hd_fail(err, HEARTH_FORMAT, "%s is damaged: it must have %d bytes", vault->box_path, KEY_BYTES);
    } else if (status == HEARTH_OK) {
        memcpy(vault->secrets->box_key, data, KEY_BYTES);
    }
    hd_wipe_free(data, len_bytes);
    if (status == HEARTH_OK &&
        mbedtls_gcm_setkey(&vault->box, MBEDTLS_CIPHER_ID_AES, vault->secrets->box_key, KEY_BYTES * 8) != 0)
        status = cipher_failed(err);
    return status;
}

static enum hearth_status check_header(struct hd_vault *vault, const uint8_t *data, size_t len_bytes,
                                       struct hearth_error *err)
{
    const char *path = vault->keys_path;
    if (len_bytes < HEADER_BYTES || memcmp(data, magic, sizeof magic) != 0)
        return hd_fail(err, HEARTH_FORMAT, "%s is damaged: no key file header", path);
    if (hd_get_le(data + 8, 4) != FILE_VERSION)
        return hd_fail(err, HEARTH_FORMAT, "%s has version %u; this Hearth reads version %d", path,
                       (uint32_t)hd_get_le(data + 8, 4), FILE_VERSION);
    uint8_t none;
    if (hd_get_le(data + 12, 4) != RECORD_BYTES ||
        mbedtls_gcm_auth_decrypt(&vault->box, 0, data + HEADER_SIGNED_BYTES, NONCE_BYTES, data,
                                 HEADER_SIGNED_BYTES, data + 64, TAG_BYTES, &none, &none) != 0)
        return hd_fail(err, HEARTH_FORMAT, "%s is damaged, or %s is not its box key", path, vault->box_path);
    vault->generation = hd_get_le(data + 16, 8);
    memcpy(vault->file_id.b, data + 24, 16);
    return HEARTH_OK;
}

static enum hearth_status load_records(struct hd_vault *vault, const uint8_t *data, size_t len_bytes,
                                       struct hearth_error *err)
{
    size_t n = len_bytes / RECORD_BYTES;
    if (!reserve(vault, n))
        return no_memory(err);
    vault->tail_bytes = len_bytes % RECORD_BYTES;
    if (n == 0)
        return HEARTH_OK;
    memcpy(vault->records, data, n * RECORD_BYTES);
    for (size_t i = 0; i < n; i++) {
        uint8_t *record = record_at(vault, i);
        struct hd_id id;
        memcpy(id.b, record + 8, sizeof id.b);
        if (hd_get_le(record + 4, 4) == i && unwrap_key(vault, record) && find_record(vault, &id) == NO_RECORD) {
            index_record(vault, i);
            vault->n_keys++;
        } else {
            memset(record, 0, RECORD_BYTES);
            vault->n_damaged++;
        }
        vault->n_records = i + 1;
    }
    forget_text_key(vault);
    return HEARTH_OK;
}

static enum hearth_status create_keys(struct hd_vault *vault, struct hearth_error *err)
{
    uint8_t header[HEADER_BYTES];
    vault->generation = 1;
    enum hearth_status status = hd_id_random(&vault->file_id, err);
    if (status == HEARTH_OK)
        status = make_header(vault, vault->generation, header, err);
    if (status == HEARTH_OK)
        status = hd_io_replace(vault->keys_path, header, sizeof header, err);
    return status;
}

// Opens turns.keys for appending and makes sure that what was read is on disk: a process that died may have
// left it in the page cache only.
static enum hearth_status settle_files(struct hd_vault *vault, struct hearth_error *err)
{
    const struct hd_io *io = hd_io();
    int removed = io->unlink(io->user, vault->fresh_path); // of a rewrite that did not end
    if (removed < 0 && removed != -ENOENT)
        return hd_fail_errno(err, removed, "cannot remove", vault->fresh_path);
    vault->fd = io->open(io->user, vault->keys_path, O_RDWR, 0);
    if (vault->fd < 0)
        return hd_fail_errno(err, vault->fd, "cannot open", vault->keys_path);
    int result = io->fsync(io->user, vault->fd);
    if (result == 0)
        result = io->fsync_dir(io->user, vault->dir);
    return result == 0 ? HEARTH_OK : hd_fail_errno(err, result, "cannot sync", vault->keys_path);
}

static enum hearth_status load(struct hd_vault *vault, bool may_create, struct hearth_error *err)
{
    uint8_t *data;
    size_t len_bytes;
    size_t max_bytes = HEADER_BYTES + (size_t)(HD_VAULT_MAX_KEYS + 1) * RECORD_BYTES;
    enum hearth_status status = hd_io_read_file(vault->keys_path, max_bytes, &data, &len_bytes, err);
    bool absent = status == HEARTH_NOT_FOUND;
    if (absent && !may_create)
        return hd_fail(err, HEARTH_FORMAT, "%s is missing: without it no stored text can be read",
                       vault->keys_path);
    if (absent || status == HEARTH_OK)
        status = load_box_key(vault, absent, err);
    if (status == HEARTH_OK && absent) {
        status = create_keys(vault, err);
    } else if (status == HEARTH_OK) {
        status = check_header(vault, data, len_bytes, err);
        if (status == HEARTH_OK)
            status = load_records(vault, data + HEADER_BYTES, len_bytes - HEADER_BYTES, err);
    }
    free(data);
    return status == HEARTH_OK ? settle_files(vault, err) : status;
}

enum hearth_status hd_vault_open(struct hd_vault **out, const char *dir, bool may_create,
                                 struct hearth_error *err)
{
    *out = NULL;
    struct hd_vault *vault = calloc(1, sizeof *vault);
    if (vault == NULL)
        return no_memory(err);
    vault->fd = -1;
    mbedtls_gcm_init(&vault->box);
    vault->secrets = hd_secret_alloc(sizeof *vault->secrets);
    vault->dir = strdup(dir);
    enum hearth_status status = HEARTH_OK;
    if (vault->secrets == NULL || vault->dir == NULL || asprintf(&vault->box_path, "%s/box.key", dir) < 0 ||
        asprintf(&vault->keys_path, "%s/turns.keys", dir) < 0 ||
        asprintf(&vault->fresh_path, "%s/turns.keys.new", dir) < 0)
        status = no_memory(err);
    if (status == HEARTH_OK)
        status = load(vault, may_create, err);
    if (status != HEARTH_OK)
        hd_vault_close(&vault);
    *out = vault;
    return status;
}

void hd_vault_close(struct hd_vault **out)
{
    struct hd_vault *vault = *out;
    if (vault == NULL)
        return;
    if (vault->fd >= 0)
        (void)hd_io()->close(hd_io()->user, vault->fd);
    mbedtls_gcm_free(&vault->box);
    hd_secret_free(vault->secrets, sizeof *vault->secrets);
    free(vault->records);
    free(vault->index);
    free(vault->dir);
    free(vault->box_path);
    free(vault->keys_path);
    free(vault->fresh_path);
    free(vault);
    *out = NULL;
}

size_t hd_vault_count(const struct hd_vault *vault)
{
    return vault->n_keys;
}

uint64_t hd_vault_generation(const struct hd_vault *vault)
{
    return vault->generation;
}

struct hd_id hd_vault_file_id(const struct hd_vault *vault)
{
    return vault->file_id;
}

bool hd_vault_has(const struct hd_vault *vault, const struct hd_id *id)
{
    return find_record(vault, id) != NO_RECORD;
}

size_t hd_vault_damaged_bytes(const struct hd_vault *vault)
{
    return vault->n_damaged * RECORD_BYTES + vault->tail_bytes;
}

size_t hd_vault_find(const struct hd_vault *vault, enum hd_key_kind kind, const struct hd_id *person,
                     struct hd_id *ids, size_t capacity)
{
    size_t n = 0;
    for (size_t i = 0; i < vault->n_records; i++) {
        const uint8_t *record = record_at(vault, i);
        if (record[0] != (uint8_t)kind || (person != NULL && memcmp(record + 24, person->b, 16) != 0))
            continue;
        if (n < capacity)
            memcpy(ids[n].b, record + 8, 16);
        n++;
    }
    return n;
}

bool hd_vault_person(const struct hd_vault *vault, const struct hd_id *id, struct hd_id *person)
{
    int64_t record = find_record(vault, id);
    if (record != NO_RECORD)
        memcpy(person->b, record_at(vault, (size_t)record) + 24, 16);
    return record != NO_RECORD;
}

// ---- adding

// A rename that may not be on disk could be undone by a power cut, and with it all that was appended after.
static enum hearth_status settle_folder(struct hd_vault *vault, struct hearth_error *err)
{
    if (!vault->folder_dirty)
        return HEARTH_OK;
    int result = hd_io()->fsync_dir(hd_io()->user, vault->dir);
    if (result != 0)
        return hd_fail_errno(err, result, "cannot sync", vault->dir);
    vault->folder_dirty = false;
    return HEARTH_OK;
}

static enum hearth_status fill_records(struct hd_vault *vault, const struct hd_key_spec *specs, size_t n,
                                       struct hearth_error *err)
{
    enum hearth_status status = HEARTH_OK;
    for (size_t i = 0; i < n && status == HEARTH_OK; i++) {
        uint8_t *record = record_at(vault, vault->n_records + i);
        memset(record, 0, RECORD_BYTES);
        record[0] = (uint8_t)specs[i].kind;
        hd_put_le(record + 4, (uint32_t)(vault->n_records + i), 4);
        memcpy(record + 8, specs[i].id.b, 16);
        memcpy(record + 24, specs[i].person.b, 16);
        status = hd_random(vault->secrets->text_key, KEY_BYTES, err);
        if (status == HEARTH_OK)
            status = wrap_key(vault, vault->generation, record, vault->secrets->text_key, err);
    }
    forget_text_key(vault);
    return status;
}

static enum hearth_status check_specs(const struct hd_vault *vault, const struct hd_key_spec *specs, size_t n,
                                      struct hearth_error *err)
{
    if (n == 0 || n > HD_VAULT_MAX_BATCH)
        return hd_fail(err, HEARTH_INVALID, "%zu keys at once: 1 to %d are allowed", n, HD_VAULT_MAX_BATCH);
    if (vault->n_records + n > HD_VAULT_MAX_KEYS)
        return hd_fail(err, HEARTH_LIMIT, "%s is full: %d keys", vault->keys_path, HD_VAULT_MAX_KEYS);
    if (hd_vault_damaged_bytes(vault) != 0)
        return hd_fail(err, HEARTH_FORMAT, "%s is damaged and was not repaired", vault->keys_path);
    for (size_t i = 0; i < n; i++) {
        bool twice = hd_id_is_zero(&specs[i].id) || hd_vault_has(vault, &specs[i].id);
        for (size_t k = 0; k < i; k++)
            twice = twice || hd_id_equal(&specs[i].id, &specs[k].id);
        if (twice)
            return hd_fail(err, HEARTH_INVALID, "a key for this id exists already");
    }
    return HEARTH_OK;
}

enum hearth_status hd_vault_add(struct hd_vault *vault, const struct hd_key_spec *specs, size_t n,
                                struct hearth_error *err)
{
    enum hearth_status status = check_specs(vault, specs, n, err);
    if (status == HEARTH_OK)
        status = settle_folder(vault, err);
    if (status == HEARTH_OK && !reserve(vault, vault->n_records + n))
        status = no_memory(err);
    if (status == HEARTH_OK)
        status = fill_records(vault, specs, n, err);
    if (status != HEARTH_OK)
        return status;
    const struct hd_io *io = hd_io();
    uint64_t end = HEADER_BYTES + (uint64_t)vault->n_records * RECORD_BYTES;
    int result = hd_io_write_all(vault->fd, record_at(vault, vault->n_records), n * RECORD_BYTES, end);
    if (result == 0)
        result = io->fsync(io->user, vault->fd);
    if (result != 0) { // what was written is not counted, and the next append goes over it
        (void)io->truncate(io->user, vault->fd, end);
        return hd_fail_errno(err, result, "cannot write", vault->keys_path);
    }
    for (size_t i = 0; i < n; i++) {
        index_record(vault, vault->n_records);
        vault->n_records++;
        vault->n_keys++;
    }
    return HEARTH_OK;
}

// ---- destroying

// Writes `n` records to the temporary file and puts it in place; on success vault->fd is the new file.
static enum hearth_status swap_file(struct hd_vault *vault, const uint8_t *image, size_t len_bytes,
                                    struct hearth_error *err)
{
    const struct hd_io *io = hd_io();
    int fd = io->open(io->user, vault->fresh_path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (fd < 0)
        return hd_fail_errno(err, fd, "cannot create", vault->fresh_path);
    int result = hd_io_write_all(fd, image, len_bytes, 0);
    if (result == 0)
        result = io->fsync(io->user, fd);
    if (result == 0)
        result = io->rename(io->user, vault->fresh_path, vault->keys_path);
    if (result != 0) {
        (void)io->close(io->user, fd);
        (void)io->unlink(io->user, vault->fresh_path);
        return hd_fail_errno(err, result, "cannot write", vault->fresh_path);
    }
    (void)io->close(io->user, vault->fd);
    vault->fd = fd;
    vault->folder_dirty = true;
    return HEARTH_OK;
}

// The file anew, under the next generation, with the good records that `drop` (a byte each, NULL = none)
// spares.
static enum hearth_status rewrite(struct hd_vault *vault, const uint8_t *drop, struct hearth_error *err)
{
    size_t kept = 0;
    uint8_t *image = malloc(HEADER_BYTES + vault->n_records * RECORD_BYTES);
    if (image == NULL)
        return no_memory(err);
    uint64_t generation = vault->generation + 1;
    enum hearth_status status = make_header(vault, generation, image, err);
    for (size_t i = 0; i < vault->n_records && status == HEARTH_OK; i++) {
        const uint8_t *old = record_at(vault, i);
        if (old[0] == 0 || (drop != NULL && drop[i]))
            continue;
        uint8_t *record = image + HEADER_BYTES + kept * RECORD_BYTES;
        memcpy(record, old, RECORD_SIGNED_BYTES);
        hd_put_le(record + 4, (uint32_t)kept, 4);
        if (!unwrap_key(vault, old))
            status = cipher_failed(err);
        else
            status = wrap_key(vault, generation, record, vault->secrets->text_key, err);
        kept++;
    }
    forget_text_key(vault);
    if (status == HEARTH_OK)
        status = swap_file(vault, image, HEADER_BYTES + kept * RECORD_BYTES, err);
    if (status == HEARTH_OK) {
        memcpy(vault->records, image + HEADER_BYTES, kept * RECORD_BYTES);
        hd_wipe(record_at(vault, kept), (vault->n_records - kept) * RECORD_BYTES);
        vault->generation = generation;
        vault->n_records = vault->n_keys = kept;
        vault->n_damaged = vault->tail_bytes = 0;
        memset(vault->index, 0, vault->index_size * sizeof *vault->index);
        for (size_t i = 0; i < kept; i++)
            index_record(vault, i);
        status = settle_folder(vault, err);
    }
    free(image);
    return status;
}

enum hearth_status hd_vault_destroy(struct hd_vault *vault, const struct hd_id *ids, size_t n,
                                    struct hearth_error *err)
{
    uint8_t *drop = calloc(vault->n_records + 1, 1);
    if (drop == NULL)
        return no_memory(err);
    bool any = false;
    for (size_t i = 0; i < n; i++) {
        int64_t record = find_record(vault, &ids[i]);
        if (record == NO_RECORD)
            continue;
        drop[record] = 1;
        any = true;
    }
    enum hearth_status status = any ? rewrite(vault, drop, err) : settle_folder(vault, err);
    free(drop);
    return status;
}

enum hearth_status hd_vault_repair(struct hd_vault *vault, struct hearth_error *err)
{
    if (hd_vault_damaged_bytes(vault) == 0)
        return HEARTH_OK;
    size_t good = vault->n_records; // damaged records at the end are cut off, in between they need a rewrite
    while (good > 0 && record_at(vault, good - 1)[0] == 0)
        good--;
    hd_log(HD_LOG_WARN, "%s: %zu bytes that hold no key of a stored text are dropped", vault->keys_path,
           hd_vault_damaged_bytes(vault));
    if (vault->n_records - good != vault->n_damaged)
        return rewrite(vault, NULL, err);
    const struct hd_io *io = hd_io();
    int result = io->truncate(io->user, vault->fd, HEADER_BYTES + (uint64_t)good * RECORD_BYTES);
    if (result == 0)
        result = io->fsync(io->user, vault->fd);
    if (result != 0)
        return hd_fail_errno(err, result, "cannot cut", vault->keys_path);
    vault->n_records = good;
    vault->n_damaged = vault->tail_bytes = 0;
    return HEARTH_OK;
}

// ---- sealing

// A cipher keyed with the text's key; the caller frees it in any case.
static enum hearth_status text_cipher(struct hd_vault *vault, const struct hd_id *key,
                                      mbedtls_gcm_context *gcm, struct hearth_error *err)
{
    mbedtls_gcm_init(gcm);
    int64_t record = find_record(vault, key);
    if (record == NO_RECORD)
        return hd_fail(err, HEARTH_NOT_FOUND, "the key of this text was destroyed");
    bool good = unwrap_key(vault, record_at(vault, (size_t)record)) &&
                mbedtls_gcm_setkey(gcm, MBEDTLS_CIPHER_ID_AES, vault->secrets->text_key, KEY_BYTES * 8) == 0;
    forget_text_key(vault);
    return good ? HEARTH_OK : cipher_failed(err);
}

enum hearth_status hd_vault_seal(struct hd_vault *vault, const struct hd_id *key, const struct hd_slot *slot,
                                 const void *data, size_t len_bytes, uint8_t **out, size_t *out_len,
                                 struct hearth_error *err)
{
    mbedtls_gcm_context gcm;
    *out = NULL;
    *out_len = 0;
    enum hearth_status status = text_cipher(vault, key, &gcm, err);
    if (status == HEARTH_OK)
        status = hd_seal_with(&gcm, key, slot, data, len_bytes, out, out_len, err);
    mbedtls_gcm_free(&gcm);
    return status;
}

enum hearth_status hd_vault_open_value(struct hd_vault *vault, const struct hd_id *key,
                                       const struct hd_slot *slot, const void *data, size_t len_bytes,
                                       uint8_t **out, size_t *out_len, struct hearth_error *err)
{
    mbedtls_gcm_context gcm;
    *out = NULL;
    *out_len = 0;
    enum hearth_status status = text_cipher(vault, key, &gcm, err);
    if (status == HEARTH_OK)
        status = hd_open_with(&gcm, key, slot, data, len_bytes, out, out_len, err);
    mbedtls_gcm_free(&gcm);
    return status;
}

enum hearth_status hd_vault_sealer(struct hd_vault *vault, const struct hd_id *key, struct hd_sealer **sealer,
                                   struct hearth_error *err)
{
    *sealer = NULL;
    int64_t record = find_record(vault, key);
    if (record == NO_RECORD)
        return hd_fail(err, HEARTH_NOT_FOUND, "the key was destroyed");
    enum hearth_status status = unwrap_key(vault, record_at(vault, (size_t)record))
                                    ? hd_sealer_new(sealer, key, vault->secrets->text_key, err)
                                    : cipher_failed(err);
    forget_text_key(vault);
    return status;
}
