// SPDX-License-Identifier: Apache-2.0
// Devices, their tokens, and one-time pairing secrets. Tokens and secrets are kept as SHA-256 only. They are
// 256 random bits, so that finding a row by its hash tells a guesser nothing; the hash that was found is
// compared once more in constant time. Server loop thread only.
#include <stdlib.h>
#include <string.h>

#include "firmware/store_db.h"

static const char *const scope_names[] = {"chat", "train", "admin"};

const char *hd_scope_name(uint32_t scope)
{
    for (uint32_t i = 0; i < sizeof scope_names / sizeof *scope_names; i++)
        if (scope == 1u << i)
            return scope_names[i];
    return NULL;
}

uint32_t hd_scope_from(const char *name)
{
    for (uint32_t i = 0; i < sizeof scope_names / sizeof *scope_names; i++)
        if (strcmp(name, scope_names[i]) == 0)
            return 1u << i;
    return 0;
}

// ---- pairing secrets

enum hearth_status hd_pair_create(struct hd_store *store, const struct hd_id *person, uint32_t scopes,
                                  int64_t ttl_ms, uint8_t secret[HD_SECRET_BYTES], struct hearth_error *err)
{
    struct hd_person found;
    int64_t now = hd_now_ms(), n = 0;
    uint8_t hash[HD_HASH_BYTES];
    memset(secret, 0, HD_SECRET_BYTES);
    if (ttl_ms == 0)
        ttl_ms = HD_DEFAULT_PAIR_TTL_MS;
    if (scopes == 0 || (scopes & ~(uint32_t)HD_SCOPE_ALL) != 0 || ttl_ms < 0 || ttl_ms > HD_MAX_PAIR_TTL_MS)
        return hd_fail(err, HEARTH_INVALID,
                       "a pairing secret needs scopes and a time limit of at most 7 days");
    enum hearth_status status = hd_person_get(store, person, &found, err);
    if (status == HEARTH_OK)
        status =
            hd_db_int(store, &n, 0, err,
                      "SELECT count(*) FROM pairing_secrets WHERE used IS NULL AND expires > ?", "i", now);
    if (status == HEARTH_OK && n >= HD_MAX_PAIR_SECRETS)
        status = hd_fail(err, HEARTH_LIMIT, "%d pairing links are open already", HD_MAX_PAIR_SECRETS);
    if (status == HEARTH_OK)
        status = hd_random(secret, HD_SECRET_BYTES, err);
    if (status != HEARTH_OK)
        return status;
    hd_sha256(hash, secret, HD_SECRET_BYTES);
    status =
        hd_db_run(store, NULL, err,
                  "INSERT INTO pairing_secrets(hash, person, scopes, created, expires) VALUES(?, ?, ?, ?, ?)",
                  "xbiii", hash, sizeof hash, person, (int64_t)scopes, now, now + ttl_ms);
    if (status != HEARTH_OK)
        hd_wipe(secret, HD_SECRET_BYTES);
    return status;
}

// Every open secret is compared, in constant time, whichever fits.
static enum hearth_status find_secret(struct hd_store *store, const uint8_t hash[HD_HASH_BYTES],
                                      struct hd_device *device, bool *found, struct hearth_error *err)
{
    *found = false;
    sqlite3_stmt *statement;
    bool row = false;
    enum hearth_status status =
        hd_db_prepare(store, &statement, err,
                      "SELECT s.hash, s.person, s.scopes, p.name FROM pairing_secrets s"
                      " JOIN people p ON p.id = s.person WHERE used IS NULL AND expires > ?",
                      "i", hd_now_ms());
    if (status == HEARTH_OK)
        status = hd_db_step(store, &statement, &row, err);
    while (status == HEARTH_OK && row) {
        if (sqlite3_column_bytes(statement, 0) == HD_HASH_BYTES &&
            hd_secret_equal(sqlite3_column_blob(statement, 0), hash, HD_HASH_BYTES)) {
            *found = true;
            device->person = hd_db_id(statement, 1);
            device->scopes = (uint32_t)sqlite3_column_int64(statement, 2);
            hd_db_text(statement, 3, device->person_name, sizeof device->person_name);
        }
        status = hd_db_step(store, &statement, &row, err);
    }
    hd_db_done(&statement);
    return status;
}

static enum hearth_status write_device(struct hd_store *store, const uint8_t secret_hash[HD_HASH_BYTES],
                                       const uint8_t token_hash[HD_HASH_BYTES],
                                       const struct hd_device *device, struct hearth_error *err)
{
    int changed = 0;
    enum hearth_status status =
        hd_db_run(store, &changed, err, "UPDATE pairing_secrets SET used = ? WHERE hash = ? AND used IS NULL",
                  "ix", device->created_ms, secret_hash, (size_t)HD_HASH_BYTES);
    if (status == HEARTH_OK && changed != 1)
        status = hd_fail(err, HEARTH_NOT_FOUND, "the pairing link is not valid");
    if (status == HEARTH_OK)
        status = hd_db_run(
            store, NULL, err,
            "INSERT INTO devices(id, person, name, client, token_hash, scopes, created, last_seen)"
            " VALUES(?, ?, ?, ?, ?, ?, ?, ?)",
            "bbssxiii", &device->id, &device->person, device->name, device->client, token_hash,
            (size_t)HD_HASH_BYTES, (int64_t)device->scopes, device->created_ms, device->last_seen_ms);
    return status;
}

enum hearth_status hd_pair_redeem(struct hd_store *store, const void *secret, size_t secret_len,
                                  const char *device_name, const char *client, struct hd_device *device,
                                  uint8_t token[HD_SECRET_BYTES], struct hearth_error *err)
{
    memset(device, 0, sizeof *device);
    memset(token, 0, HD_SECRET_BYTES);
    uint8_t secret_hash[HD_HASH_BYTES], token_hash[HD_HASH_BYTES];
    bool found = false;
    int64_t n = 0;
    enum hearth_status status = hd_name_check("a device's name", device_name, 1, err);
    if (status == HEARTH_OK)
        status = hd_name_check("a client's name", client, 0, err);
    if (status != HEARTH_OK)
        return status;
    hd_sha256(secret_hash, secret, secret_len);
    if (secret_len == HD_SECRET_BYTES)
        status = find_secret(store, secret_hash, device, &found, err);
    if (status == HEARTH_OK && !found)
        status = hd_fail(err, HEARTH_NOT_FOUND, "the pairing link is not valid");
    if (status == HEARTH_OK)
        status = hd_db_int(store, &n, 0, err, "SELECT count(*) FROM devices WHERE revoked IS NULL", "");
    if (status == HEARTH_OK && n >= HD_MAX_DEVICES)
        status = hd_fail(err, HEARTH_LIMIT, "%d devices are paired already", HD_MAX_DEVICES);
    if (status == HEARTH_OK)
        status = hd_id_random(&device->id, err);
    if (status == HEARTH_OK)
        status = hd_random(token, HD_SECRET_BYTES, err);
    if (status == HEARTH_OK)
        status = hd_db_begin(store, err);
    if (status == HEARTH_OK) {
        hd_sha256(token_hash, token, HD_SECRET_BYTES);
        memcpy(device->name, device_name, strlen(device_name));
        memcpy(device->client, client, strlen(client));
        device->created_ms = device->last_seen_ms = hd_now_ms();
        status = hd_db_end(store, write_device(store, secret_hash, token_hash, device, err), err);
    }
    if (status != HEARTH_OK) {
        hd_wipe(token, HD_SECRET_BYTES);
        memset(device, 0, sizeof *device);
    }
    return status;
}

enum hearth_status hd_invite(struct hd_store *store, struct hearth_error *err)
{
    return hd_db_run(store, NULL, err, "INSERT OR IGNORE INTO meta(key, value) VALUES('invited', x'01')", "");
}

enum hearth_status hd_invited(struct hd_store *store, bool *ever, struct hearth_error *err)
{
    int64_t n = 0;
    enum hearth_status status =
        hd_db_int(store, &n, 0, err, "SELECT count(*) FROM meta WHERE key = 'invited'", "");
    *ever = n > 0;
    return status;
}

// ---- devices

#define DEVICE_COLUMNS                                                                                       \
    "d.id, d.person, p.name, d.name, d.client, d.scopes, d.created, d.last_seen, d.token_hash"               \
    " FROM devices d JOIN people p ON p.id = d.person WHERE d.revoked IS NULL"
enum { TOKEN_HASH_COLUMN = 8 };

static void read_device(struct hd_store *store, sqlite3_stmt *statement, struct hd_device *device)
{
    memset(device, 0, sizeof *device);
    device->id = hd_db_id(statement, 0);
    device->person = hd_db_id(statement, 1);
    hd_db_text(statement, 2, device->person_name, sizeof device->person_name);
    hd_db_text(statement, 3, device->name, sizeof device->name);
    hd_db_text(statement, 4, device->client, sizeof device->client);
    device->scopes = (uint32_t)sqlite3_column_int64(statement, 5);
    device->created_ms = sqlite3_column_int64(statement, 6);
    device->last_seen_ms = sqlite3_column_int64(statement, 7);
    for (size_t i = 0; i < store->n_seen; i++)
        if (hd_id_equal(&store->seen[i].device, &device->id))
            device->last_seen_ms = store->seen[i].at_ms;
}

static void update_client(struct hd_store *store, struct hd_device *device, const char *client)
{
    if (strcmp(device->client, client) == 0)
        return;
    // A full disk must not keep a device out.
    if (hd_db_run(store, NULL, NULL, "UPDATE devices SET client = ? WHERE id = ?", "sb", client,
                  &device->id) != HEARTH_OK)
        hd_log(HD_LOG_WARN, "%s: a device's client could not be noted", store->db_path);
    memset(device->client, 0, sizeof device->client);
    memcpy(device->client, client, strlen(client));
}

enum hearth_status hd_device_authenticate(struct hd_store *store, const void *token, size_t token_len,
                                          const char *client, struct hd_device *device,
                                          struct hearth_error *err)
{
    memset(device, 0, sizeof *device);
    if (client != NULL) {
        enum hearth_status named = hd_name_check("a client's name", client, 0, err);
        if (named != HEARTH_OK)
            return named;
    }
    uint8_t hash[HD_HASH_BYTES];
    sqlite3_stmt *statement;
    bool row = false;
    hd_sha256(hash, token, token_len);
    enum hearth_status status = hd_db_prepare(
        store, &statement, err, "SELECT " DEVICE_COLUMNS " AND d.token_hash = ?", "x", hash, sizeof hash);
    if (status == HEARTH_OK)
        status = hd_db_step(store, &statement, &row, err);
    bool good = row && token_len == HD_SECRET_BYTES &&
                sqlite3_column_bytes(statement, TOKEN_HASH_COLUMN) == HD_HASH_BYTES &&
                hd_secret_equal(sqlite3_column_blob(statement, TOKEN_HASH_COLUMN), hash, HD_HASH_BYTES);
    if (good)
        read_device(store, statement, device);
    else if (status == HEARTH_OK)
        status = hd_fail(err, HEARTH_NOT_FOUND, "the device is not known here");
    hd_db_done(&statement);
    if (status != HEARTH_OK)
        return status;
    if (client != NULL)
        update_client(store, device, client);
    hd_device_seen(store, &device->id);
    return HEARTH_OK;
}

void hd_device_seen(struct hd_store *store, const struct hd_id *device)
{
    size_t i = 0;
    while (i < store->n_seen && !hd_id_equal(&store->seen[i].device, device))
        i++;
    if (i == HD_SEEN_MAX) {
        (void)hd_devices_write_seen(store, NULL);
        i = store->n_seen = 0; // times that could not be written are not worth keeping
    }
    store->seen[i].device = *device;
    store->seen[i].at_ms = hd_now_ms();
    if (i == store->n_seen)
        store->n_seen++;
}

enum hearth_status hd_devices_write_seen(struct hd_store *store, struct hearth_error *err)
{
    if (store->n_seen == 0)
        return HEARTH_OK;
    enum hearth_status status = hd_db_begin(store, err);
    if (status != HEARTH_OK)
        return status;
    for (size_t i = 0; i < store->n_seen && status == HEARTH_OK; i++)
        status = hd_db_run(store, NULL, err, "UPDATE devices SET last_seen = ? WHERE id = ?", "ib",
                           store->seen[i].at_ms, &store->seen[i].device);
    status = hd_db_end(store, status, err);
    if (status == HEARTH_OK)
        store->n_seen = 0;
    return status;
}

enum hearth_status hd_devices_list(struct hd_store *store, const struct hd_id *person,
                                   struct hd_device **devices, size_t *n, struct hearth_error *err)
{
    *n = 0;
    *devices = NULL;
    if (person != NULL && hd_id_is_zero(person)) // "nobody" must not mean "everybody"
        return hd_fail(err, HEARTH_NOT_FOUND, "no such person");
    sqlite3_stmt *statement;
    bool row = false;
    int64_t capacity = 0;
    enum hearth_status status =
        hd_db_int(store, &capacity, 0, err, "SELECT count(*) FROM devices WHERE revoked IS NULL", "");
    if (status != HEARTH_OK)
        return status;
    *devices = calloc((size_t)capacity + 1, sizeof **devices);
    if (*devices == NULL)
        return hd_fail(err, HEARTH_NOMEM, "out of memory");
    status = hd_db_prepare(store, &statement, err,
                           "SELECT " DEVICE_COLUMNS " AND (?1 IS NULL OR d.person = ?1)"
                           " ORDER BY d.created, d.rowid LIMIT ?2",
                           "bi", person, capacity);
    if (status == HEARTH_OK)
        status = hd_db_step(store, &statement, &row, err);
    while (status == HEARTH_OK && row) {
        read_device(store, statement, &(*devices)[(*n)++]);
        status = hd_db_step(store, &statement, &row, err);
    }
    hd_db_done(&statement);
    if (status != HEARTH_OK) {
        free(*devices);
        *devices = NULL;
        *n = 0;
    }
    return status;
}

enum hearth_status hd_device_revoke(struct hd_store *store, const struct hd_id *person,
                                    const struct hd_id *device, struct hearth_error *err)
{
    if (person != NULL && hd_id_is_zero(person)) // "nobody" must not mean "everybody"
        return hd_fail(err, HEARTH_NOT_FOUND, "no such person");
    int changed = 0;
    enum hearth_status status = hd_db_run(
        store, &changed, err,
        "UPDATE devices SET revoked = ?1 WHERE id = ?2 AND revoked IS NULL AND (?3 IS NULL OR person = ?3)",
        "ibb", hd_now_ms(), device, person);
    if (status == HEARTH_OK && changed == 0)
        status = hd_fail(err, HEARTH_NOT_FOUND, "no such device");
    if (status == HEARTH_OK && store->revoked != NULL)
        store->revoked(store->revoked_user, device);
    return status;
}

void hd_devices_on_revoked(struct hd_store *store, void (*revoked)(void *user, const struct hd_id *device),
                           void *user)
{
    store->revoked = revoked;
    store->revoked_user = user;
}
