// SPDX-License-Identifier: Apache-2.0
// The database: its settings, its tables, its checks at the start. Server loop thread only.
// Every text of a person is a sealed blob (vault.c): conversations.title, turns.text, turns.token_ids. In
// plain: ids, times, sizes, roles, usage figures, names of people, devices and models.
#include "firmware/store_db.h"

#include <stdio.h>
#include <string.h>

#include "firmware/store_vfs.h"

enum {
    APPLICATION_ID = 0x48525448, // "HRTH"
    SCHEMA_VERSION = 3,
    BUSY_MS = 2000,
    WAL_KEEP_BYTES = 4 << 20,
    MAX_VALUE_BYTES = HD_SEAL_MAX_BYTES + 4096,
};

static const char schema_1[] =
    "CREATE TABLE meta(key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;"
    "CREATE TABLE people(id BLOB NOT NULL UNIQUE, name TEXT NOT NULL UNIQUE, created INTEGER NOT NULL) "
    "STRICT;"
    "CREATE TABLE devices(id BLOB NOT NULL UNIQUE,"
    "  person BLOB NOT NULL REFERENCES people(id) ON DELETE CASCADE,"
    "  name TEXT NOT NULL, client TEXT NOT NULL, token_hash BLOB NOT NULL UNIQUE, scopes INTEGER NOT NULL,"
    "  created INTEGER NOT NULL, last_seen INTEGER NOT NULL, revoked INTEGER) STRICT;"
    "CREATE INDEX devices_person ON devices(person);"
    "CREATE TABLE pairing_secrets(hash BLOB NOT NULL UNIQUE,"
    "  person BLOB NOT NULL REFERENCES people(id) ON DELETE CASCADE,"
    "  scopes INTEGER NOT NULL, created INTEGER NOT NULL, expires INTEGER NOT NULL, used INTEGER) STRICT;"
    "CREATE INDEX pairing_person ON pairing_secrets(person);"
    "CREATE TABLE conversations(id BLOB NOT NULL UNIQUE, person BLOB NOT NULL REFERENCES people(id),"
    // A title taken from a question is sealed with that turn's key (title_turn) and goes with it.
    "  title BLOB, title_turn BLOB, created INTEGER NOT NULL, updated INTEGER NOT NULL, UNIQUE(person, "
    "updated)) STRICT;"
    "CREATE TABLE turns(id BLOB NOT NULL UNIQUE,"
    "  conversation BLOB NOT NULL REFERENCES conversations(id) ON DELETE CASCADE,"
    "  parent BLOB, seq INTEGER NOT NULL, role INTEGER NOT NULL, text BLOB, token_ids BLOB,"
    "  created INTEGER NOT NULL, finished INTEGER, response BLOB UNIQUE,"
    "  prompt_tokens INTEGER, cached_tokens INTEGER, completion_tokens INTEGER,"
    "  prompt_ms REAL, first_token_ms REAL, completion_ms REAL, seed INTEGER, numerics_id TEXT, stop_reason "
    "TEXT,"
    "  UNIQUE(conversation, seq)) STRICT;"
    "CREATE INDEX turns_parent ON turns(parent);"
    // Outlives its turns: a request that is sent again must not bring back what was deleted.
    "CREATE TABLE responses(device BLOB NOT NULL, request BLOB NOT NULL, response BLOB NOT NULL,"
    "  conversation BLOB NOT NULL, user_turn BLOB NOT NULL, assistant_turn BLOB NOT NULL,"
    "  created INTEGER NOT NULL, PRIMARY KEY(device, request)) STRICT, WITHOUT ROWID;"
    "CREATE INDEX responses_created ON responses(created);"
    // Keys of removed rows that turns.keys may still hold.
    "CREATE TABLE doomed_keys(id BLOB NOT NULL PRIMARY KEY) STRICT, WITHOUT ROWID;"
    "CREATE TABLE models(name TEXT PRIMARY KEY, sha256 TEXT NOT NULL, first_used INTEGER NOT NULL,"
    "  last_used INTEGER NOT NULL) STRICT, WITHOUT ROWID;";

// Which model an answer is of, and the SHA-256 of model files.
static const char schema_2[] =
    "ALTER TABLE turns ADD COLUMN model TEXT;"
    "ALTER TABLE turns ADD COLUMN model_tag TEXT;"
    "CREATE TABLE model_files(path TEXT PRIMARY KEY, dev INTEGER NOT NULL, ino INTEGER NOT NULL,"
    "  size INTEGER NOT NULL, mtime INTEGER NOT NULL, sha256 TEXT NOT NULL) STRICT, WITHOUT ROWID;";

// Data sets, trainings, adapters (store_learn.h). person is NULL for nobody's; in adapter_choices 16 zero bytes stand
// for whoever has made no choice.
static const char schema_3[] =
    "CREATE TABLE learnt(id BLOB NOT NULL UNIQUE, kind INTEGER NOT NULL, person BLOB, name TEXT NOT NULL,"
    "  created INTEGER NOT NULL, size INTEGER NOT NULL, meta TEXT NOT NULL, UNIQUE(kind, name)) STRICT;"
    "CREATE INDEX learnt_person ON learnt(person);"
    "CREATE TABLE adapter_choices(person BLOB NOT NULL PRIMARY KEY, adapter BLOB, scale REAL NOT NULL) STRICT,"
    " WITHOUT ROWID;";

static int configure(sqlite3 *db)
{
    (void)sqlite3_extended_result_codes(db, 1);
    (void)sqlite3_busy_timeout(db, BUSY_MS);
    (void)sqlite3_limit(db, SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES);
    (void)sqlite3_limit(db, SQLITE_LIMIT_ATTACHED, 0);
    (void)sqlite3_db_config(db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    (void)sqlite3_db_config(db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
    (void)sqlite3_db_config(db, SQLITE_DBCONFIG_DQS_DDL, 0, NULL);
    (void)sqlite3_db_config(db, SQLITE_DBCONFIG_DQS_DML, 0, NULL);
    (void)sqlite3_db_config(db, SQLITE_DBCONFIG_ENABLE_TRIGGER, 0, NULL);
    (void)sqlite3_db_config(db, SQLITE_DBCONFIG_ENABLE_VIEW, 0, NULL);
    // locking_mode comes before anything touches the file: WAL without shared memory needs it.
    return sqlite3_exec(db,
                        "PRAGMA locking_mode=EXCLUSIVE; PRAGMA temp_store=MEMORY; PRAGMA secure_delete=ON;"
                        "PRAGMA foreign_keys=ON; PRAGMA cell_size_check=ON; PRAGMA mmap_size=0;"
                        "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;",
                        NULL, NULL, NULL);
}

static enum hearth_status check_wal(struct hd_store *store, struct hearth_error *err)
{
    sqlite3_stmt *statement;
    bool row = false;
    char mode[16] = "";
    enum hearth_status status = hd_db_prepare(store, &statement, err, "PRAGMA journal_mode", "");
    if (status == HEARTH_OK)
        status = hd_db_step(store, &statement, &row, err);
    if (row)
        hd_db_text(statement, 0, mode, sizeof mode);
    hd_db_done(&statement);
    if (status == HEARTH_OK && strcmp(mode, "wal") != 0)
        status = hd_fail(err, HEARTH_IO, "%s has no write-ahead log (journal mode %s)", store->db_path, mode);
    return status;
}

static enum hearth_status check_health(struct hd_store *store, struct hearth_error *err)
{
    sqlite3_stmt *statement;
    bool row = false;
    enum hearth_status status = hd_db_prepare(store, &statement, err, "PRAGMA quick_check(1)", "");
    if (status == HEARTH_OK)
        status = hd_db_step(store, &statement, &row, err);
    char said[120] = "no answer";
    if (row)
        hd_db_text(statement, 0, said, sizeof said);
    hd_db_done(&statement);
    if (status == HEARTH_OK && sqlite3_stricmp(said, "ok") != 0)
        status = hd_fail(err, HEARTH_FORMAT, "%s is damaged: %s", store->db_path, said);
    return status;
}

enum hearth_status hd_db_open(struct hd_store *store, int64_t *version, struct hearth_error *err)
{
    *version = 0;
    int code = hd_store_vfs_register();
    if (code == SQLITE_OK)
        code =
            sqlite3_open_v2(store->db_path, &store->db,
                            SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, HD_STORE_VFS);
    if (code == SQLITE_OK)
        code = configure(store->db);
    if (code != SQLITE_OK)
        return hd_db_fail(store, code, err);
    char limit[64];
    snprintf(limit, sizeof limit, "PRAGMA journal_size_limit=%d", WAL_KEEP_BYTES);
    (void)sqlite3_exec(store->db, limit, NULL, NULL, NULL);
    int64_t application = 0, tables = 0;
    enum hearth_status status = check_wal(store, err);
    if (status == HEARTH_OK)
        status = hd_db_int(store, version, 0, err, "PRAGMA user_version", "");
    if (status == HEARTH_OK)
        status = hd_db_int(store, &application, 0, err, "PRAGMA application_id", "");
    if (status == HEARTH_OK)
        status = hd_db_int(store, &tables, 0, err, "SELECT count(*) FROM sqlite_schema", "");
    if (status != HEARTH_OK)
        return status;
    if (*version == 0 && application == 0 && tables == 0)
        return HEARTH_OK;
    if (application != APPLICATION_ID || *version < 1)
        return hd_fail(err, HEARTH_FORMAT, "%s is not a database of Hearth", store->db_path);
    if (*version > SCHEMA_VERSION)
        return hd_fail(err, HEARTH_FORMAT, "%s was made by a newer Hearth (schema %lld; this one knows %d)",
                       store->db_path, (long long)*version, SCHEMA_VERSION);
    return check_health(store, err);
}

static enum hearth_status first_rows(struct hd_store *store, struct hearth_error *err)
{
    struct hd_id file_id = hd_vault_file_id(store->vault), owner;
    enum hearth_status status = hd_id_random(&owner, err);
    if (status == HEARTH_OK)
        status =
            hd_db_run(store, NULL, err, "INSERT INTO meta(key, value) VALUES('key_file', ?)", "b", &file_id);
    if (status == HEARTH_OK)
        status = hd_db_run(store, NULL, err, "INSERT INTO people(id, name, created) VALUES(?, 'owner', ?)",
                           "bi", &owner, hd_now_ms());
    return status;
}

// One step up, in its own transaction.
static enum hearth_status step_up(struct hd_store *store, int64_t version, struct hearth_error *err)
{
    static const char *const steps[SCHEMA_VERSION] = {schema_1, schema_2, schema_3};
    char stamp[96];
    snprintf(stamp, sizeof stamp, "PRAGMA application_id=%d; PRAGMA user_version=%d;", APPLICATION_ID,
             (int)version + 1);
    enum hearth_status status = hd_db_begin(store, err);
    if (status != HEARTH_OK)
        return status;
    int code = sqlite3_exec(store->db, steps[version], NULL, NULL, NULL);
    if (code == SQLITE_OK)
        code = sqlite3_exec(store->db, stamp, NULL, NULL, NULL);
    if (code != SQLITE_OK)
        status = hd_db_fail(store, code, err);
    if (status == HEARTH_OK && version == 0)
        status = first_rows(store, err);
    return hd_db_end(store, status, err);
}

enum hearth_status hd_db_migrate(struct hd_store *store, int64_t version, struct hearth_error *err)
{
    enum hearth_status status = HEARTH_OK;
    for (; version < SCHEMA_VERSION && status == HEARTH_OK; version++)
        status = step_up(store, version, err);
    return status;
}
