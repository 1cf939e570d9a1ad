// SPDX-License-Identifier: Apache-2.0
// The store's life: open with its checks and the completion of what a crash left, housekeeping, close, the
// chosen model. Owns the state folder's lock. Server loop thread only.
#include "firmware/store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "firmware/io.h"
#include "firmware/store_db.h"

static const int64_t day_ms = 86400000, requests_kept_days = 30;

static enum hearth_status take_lock(struct hd_store *store, struct hearth_error *err)
{
    const struct hd_io *io = hd_io();
    store->lock_fd = io->open(io->user, store->lock_path, O_RDWR | O_CREAT | O_NOFOLLOW, 0600);
    if (store->lock_fd < 0)
        return hd_fail_errno(err, store->lock_fd, "cannot open", store->lock_path);
    int result = io->lock(io->user, store->lock_fd, 0, 1);
    if (result == -EAGAIN)
        return hd_fail(err, HEARTH_BUSY, "another hearthd uses %s", store->dir);
    return result == 0 ? HEARTH_OK : hd_fail_errno(err, result, "cannot lock", store->lock_path);
}

// ---- rows and keys belong together

struct lost_keys {
    struct hd_id *ids;
    bool *is_turn;
    size_t n, capacity;
};

static enum hearth_status note_lost(struct lost_keys *lost, const struct hd_id *id, bool is_turn,
                                    struct hearth_error *err)
{
    if (lost->n == lost->capacity) {
        size_t capacity = lost->capacity == 0 ? 64 : 2 * lost->capacity;
        struct hd_id *ids = realloc(lost->ids, capacity * sizeof *ids);
        if (ids != NULL)
            lost->ids = ids;
        bool *is_turn_new = realloc(lost->is_turn, capacity * sizeof *is_turn_new);
        if (is_turn_new != NULL)
            lost->is_turn = is_turn_new;
        if (ids == NULL || is_turn_new == NULL)
            return hd_fail(err, HEARTH_NOMEM, "out of memory");
        lost->capacity = capacity;
    }
    lost->ids[lost->n] = *id;
    lost->is_turn[lost->n++] = is_turn;
    return HEARTH_OK;
}

static enum hearth_status find_lost(struct hd_store *store, struct lost_keys *lost, struct hearth_error *err)
{
    sqlite3_stmt *statement;
    bool row = false;
    enum hearth_status status = hd_db_prepare(
        store, &statement, err, "SELECT id, 1 FROM turns UNION ALL SELECT id, 0 FROM conversations", "");
    if (status == HEARTH_OK)
        status = hd_db_step(store, &statement, &row, err);
    while (status == HEARTH_OK && row) {
        struct hd_id id = hd_db_id(statement, 0);
        if (!hd_vault_has(store->vault, &id))
            status = note_lost(lost, &id, sqlite3_column_int(statement, 1) != 0, err);
        if (status == HEARTH_OK)
            status = hd_db_step(store, &statement, &row, err);
    }
    hd_db_done(&statement);
    return status;
}

static enum hearth_status remove_lost(struct hd_store *store, const struct lost_keys *lost,
                                      struct hearth_error *err)
{
    struct hd_deleted deleted = {0};
    enum hearth_status status = hd_db_begin(store, err);
    if (status != HEARTH_OK)
        return status;
    for (size_t i = 0; i < lost->n && status == HEARTH_OK; i++) {
        if (lost->is_turn[i])
            status = hd_store_doom_turn(store, &lost->ids[i], &deleted, err);
        else
            status = hd_store_doom_conversation(store, &lost->ids[i], &deleted, err);
    }
    status = hd_db_end(store, status, err);
    hd_deleted_free(&deleted);
    return status;
}

static enum hearth_status check_keys(struct hd_store *store, bool discard, struct hearth_error *err)
{
    struct lost_keys lost = {0};
    enum hearth_status status = find_lost(store, &lost, err);
    if (status == HEARTH_OK && lost.n > 0 && !discard)
        status =
            hd_fail(err, HEARTH_FORMAT,
                    "%s/turns.keys is damaged or older than hearth.db: %zu stored texts have lost their keys",
                    store->dir, lost.n);
    if (status == HEARTH_OK && lost.n > 0) {
        hd_log(HD_LOG_WARN, "%s: %zu stored texts without keys are removed", store->db_path, lost.n);
        status = remove_lost(store, &lost, err);
    }
    free(lost.ids);
    free(lost.is_turn);
    return status;
}

static enum hearth_status check_key_file(struct hd_store *store, struct hearth_error *err)
{
    sqlite3_stmt *statement;
    bool row = false;
    enum hearth_status status =
        hd_db_prepare(store, &statement, err, "SELECT value FROM meta WHERE key = 'key_file'", "");
    if (status == HEARTH_OK)
        status = hd_db_step(store, &statement, &row, err);
    struct hd_id expected = {{0}}, found = hd_vault_file_id(store->vault);
    if (row)
        expected = hd_db_id(statement, 0);
    hd_db_done(&statement);
    if (status == HEARTH_OK && !hd_id_equal(&expected, &found))
        status = hd_fail(err, HEARTH_FORMAT, "%s and %s/turns.keys do not belong together", store->db_path,
                         store->dir);
    return status;
}

// ---- open and close

// The database first, if there is one, since only an empty one allows new key files; else the vault first.
static enum hearth_status open_files(struct hd_store *store, struct hearth_error *err)
{
    int64_t version = 0;
    int exists = hd_io()->exists(hd_io()->user, store->db_path);
    if (exists < 0)
        return hd_fail_errno(err, exists, "cannot see", store->db_path);
    enum hearth_status status = exists ? hd_db_open(store, &version, err) : HEARTH_OK;
    if (status == HEARTH_OK)
        status = hd_vault_open(&store->vault, store->dir, version == 0, err);
    if (status == HEARTH_OK && version == 0 && hd_vault_count(store->vault) > 0)
        status =
            hd_fail(err, HEARTH_FORMAT, "%s is missing or empty, but %s/turns.keys has the keys of %zu texts",
                    store->db_path, store->dir, hd_vault_count(store->vault));
    if (status == HEARTH_OK && !exists)
        status = hd_db_open(store, &version, err);
    if (status == HEARTH_OK)
        status = hd_db_migrate(store, version, err);
    if (status == HEARTH_OK)
        status = check_key_file(store, err);
    return status;
}

static enum hearth_status recover(struct hd_store *store, bool discard, struct hearth_error *err)
{
    enum hearth_status status = check_keys(store, discard, err);
    store->keys_pending = true;
    if (status == HEARTH_OK)
        status = hd_store_destroy_doomed(store, err);
    if (status == HEARTH_OK)
        status = hd_vault_repair(store->vault, err);
    if (status == HEARTH_OK)
        status = hd_db_run(store, NULL, err,
                           "UPDATE turns SET finished = ?, stop_reason = 'error', numerics_id = '', seed = 0,"
                           " prompt_tokens = 0, cached_tokens = 0, completion_tokens = 0,"
                           " prompt_ms = 0, first_token_ms = 0, completion_ms = 0 WHERE finished IS NULL",
                           "i", hd_now_ms());
    return status;
}

enum hearth_status hd_store_open(struct hd_store **out, const struct hd_store_options *options,
                                 struct hearth_error *err)
{
    *out = NULL;
    struct hd_store *store = calloc(1, sizeof *store);
    if (store == NULL)
        return hd_fail(err, HEARTH_NOMEM, "out of memory");
    store->lock_fd = -1;
    store->dir = strdup(options->dir);
    enum hearth_status status = HEARTH_OK;
    if (store->dir == NULL || asprintf(&store->db_path, "%s/hearth.db", options->dir) < 0 ||
        asprintf(&store->lock_path, "%s/hearthd.lock", options->dir) < 0)
        status = hd_fail(err, HEARTH_NOMEM, "out of memory");
    if (status == HEARTH_OK)
        status = take_lock(store, err);
    if (status == HEARTH_OK)
        status = open_files(store, err);
    if (status == HEARTH_OK)
        status = recover(store, options->discard_unreadable, err);
    if (status != HEARTH_OK)
        hd_store_close(&store);
    *out = store;
    return status;
}

void hd_store_close(struct hd_store **out)
{
    struct hd_store *store = *out;
    if (store == NULL)
        return;
    if (store->db != NULL) {
        (void)hd_devices_write_seen(store, NULL);
        (void)sqlite3_close(store->db);
    }
    hd_vault_close(&store->vault);
    if (store->lock_fd >= 0)
        (void)hd_io()->close(hd_io()->user, store->lock_fd);
    free(store->dir);
    free(store->db_path);
    free(store->lock_path);
    free(store);
    *out = NULL;
}

enum hearth_status hd_store_tick(struct hd_store *store, struct hearth_error *err)
{
    int64_t now = hd_now_ms();
    enum hearth_status status = hd_store_destroy_doomed(store, err);
    if (status == HEARTH_OK)
        status = hd_devices_write_seen(store, err);
    if (status == HEARTH_OK)
        status = hd_db_run(store, NULL, err,
                           "DELETE FROM pairing_secrets WHERE used IS NOT NULL OR expires <= ?", "i", now);
    if (status == HEARTH_OK)
        status = hd_db_run(store, NULL, err, "DELETE FROM responses WHERE created < ?", "i",
                           now - requests_kept_days * day_ms);
    if (status == HEARTH_OK) { // what was overwritten or deleted leaves the log
        int code = sqlite3_wal_checkpoint_v2(store->db, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
        if (code != SQLITE_OK)
            status = hd_db_fail(store, code, err);
    }
    return status;
}

struct hd_vault *hd_store_vault(struct hd_store *store)
{
    return store->vault;
}

// ---- the model that answers

enum hearth_status hd_store_model_get(struct hd_store *store, char *name, struct hearth_error *err)
{
    sqlite3_stmt *statement;
    bool row = false;
    name[0] = '\0';
    enum hearth_status status =
        hd_db_prepare(store, &statement, err, "SELECT name FROM models ORDER BY last_used DESC LIMIT 1", "");
    if (status == HEARTH_OK)
        status = hd_db_step(store, &statement, &row, err);
    if (row)
        hd_db_text(statement, 0, name, HD_MAX_MODEL_BYTES + 1);
    else if (status == HEARTH_OK)
        status = hd_fail(err, HEARTH_NOT_FOUND, "no model was chosen yet");
    hd_db_done(&statement);
    return status;
}

enum hearth_status hd_store_model_set(struct hd_store *store, const char *name, const char *sha256_hex,
                                      struct hearth_error *err)
{
    size_t len_bytes = strlen(name);
    if (len_bytes == 0 || len_bytes > HD_MAX_MODEL_BYTES || !hd_utf8_valid(name, len_bytes))
        return hd_fail(err, HEARTH_INVALID, "a model's name has 1 to %d bytes of UTF-8", HD_MAX_MODEL_BYTES);
    int64_t last = 0, now = hd_now_ms();
    enum hearth_status status = hd_db_int(store, &last, 0, err, "SELECT max(last_used) FROM models", "");
    if (status != HEARTH_OK)
        return status;
    int64_t used = now > last ? now : last + 1;
    return hd_db_run(store, NULL, err,
                     "INSERT INTO models(name, sha256, first_used, last_used) VALUES(?1, ?2, ?3, ?3)"
                     " ON CONFLICT(name) DO UPDATE SET sha256 = ?2, last_used = ?3",
                     "ssi", name, sha256_hex == NULL ? "" : sha256_hex, used);
}

// ---- SHA-256 of model files

enum hearth_status hd_store_sha256_get(struct hd_store *store, const char *path,
                                       const struct hd_file_identity *identity,
                                       char sha256[HD_SHA256_HEX_BYTES], struct hearth_error *err)
{
    sqlite3_stmt *statement;
    bool row = false;
    sha256[0] = 0;
    enum hearth_status status =
        hd_db_prepare(store, &statement, err,
                      "SELECT sha256 FROM model_files WHERE path = ? AND dev = ? AND ino = ? AND size = ? AND"
                      " mtime = ?",
                      "siiii", path, (int64_t)identity->dev, (int64_t)identity->ino,
                      (int64_t)identity->size_bytes, (int64_t)identity->mtime_ns);
    if (status == HEARTH_OK)
        status = hd_db_step(store, &statement, &row, err);
    if (row)
        hd_db_text(statement, 0, sha256, HD_SHA256_HEX_BYTES);
    else if (status == HEARTH_OK)
        status = hd_fail(err, HEARTH_NOT_FOUND, "the SHA-256 of %s is not known", path);
    hd_db_done(&statement);
    return status;
}

enum hearth_status hd_store_sha256_set(struct hd_store *store, const char *path,
                                       const struct hd_file_identity *identity, const char *sha256,
                                       struct hearth_error *err)
{
    return hd_db_run(store, NULL, err,
                     "INSERT OR REPLACE INTO model_files(path, dev, ino, size, mtime, sha256)"
                     " VALUES(?, ?, ?, ?, ?, ?)",
                     "siiiis", path, (int64_t)identity->dev, (int64_t)identity->ino,
                     (int64_t)identity->size_bytes, (int64_t)identity->mtime_ns, sha256);
}
