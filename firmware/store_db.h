// SPDX-License-Identifier: Apache-2.0
// Inside the store: the database handle, statements with bound values, sealed columns. Server loop thread
// only.
#ifndef HD_STORE_DB_H
#define HD_STORE_DB_H
#include <sqlite3.h>

#include "firmware/people.h"
#include "firmware/vault.h"

enum { HD_SEEN_MAX = 64 };

struct hd_store {
    char *dir, *db_path, *lock_path;
    int lock_fd;
    sqlite3 *db;
    struct hd_vault *vault;
    bool keys_pending; // doomed_keys may hold rows: a deletion is not complete
    struct {
        struct hd_id device;
        int64_t at_ms;
    } seen[HD_SEEN_MAX]; // last_seen, not written yet
    size_t n_seen;
    void (*revoked)(void *user, const struct hd_id *device);
    void *revoked_user;
};

// What sqlite3_… returned, as a status with a message that names the file.
enum hearth_status hd_db_fail(struct hd_store *store, int code, struct hearth_error *err);

// A statement with its values bound. `types` has a letter for each ?: i int64_t, d double, b const struct
// hd_id * (NULL or the zero id = SQL NULL), s const char *, x const void * and size_t (a blob; NULL = SQL
// NULL). Values must live until the statement is done. *statement is NULL after a failure.
enum hearth_status hd_db_prepare(struct hd_store *store, sqlite3_stmt **statement, struct hearth_error *err,
                                 const char *sql, const char *types, ...);
// *row: a row is there. When it is not, and on failure, the statement is finalized and *statement NULL.
enum hearth_status hd_db_step(struct hd_store *store, sqlite3_stmt **statement, bool *row,
                              struct hearth_error *err);
void hd_db_done(sqlite3_stmt **statement); // finalizes; NULL allowed
// Runs a statement that gives no rows; *changed (NULL allowed) = rows changed.
enum hearth_status hd_db_run(struct hd_store *store, int *changed, struct hearth_error *err, const char *sql,
                             const char *types, ...);
// The first column of the first row; `missing` when there is no row or it is NULL.
enum hearth_status hd_db_int(struct hd_store *store, int64_t *value, int64_t missing,
                             struct hearth_error *err, const char *sql, const char *types, ...);

enum hearth_status hd_db_begin(struct hd_store *store, struct hearth_error *err);
// Ends the transaction: commits when status is OK, else rolls back. Returns status, or why the commit failed.
enum hearth_status hd_db_end(struct hd_store *store, enum hearth_status status, struct hearth_error *err);

// A column that must hold an id; the zero id when it is NULL.
struct hd_id hd_db_id(sqlite3_stmt *statement, int column);
// Copies a text column, cut to size_bytes - 1.
void hd_db_text(sqlite3_stmt *statement, int column, char *out, size_t size_bytes);
// Opens a sealed column; NULL becomes an empty text. Free with hd_wipe_free.
enum hearth_status hd_db_open_sealed(struct hd_store *store, sqlite3_stmt *statement, int column,
                                     const struct hd_id *key, const struct hd_slot *slot, uint8_t **text,
                                     size_t *text_len, struct hearth_error *err);

// store_schema.c: configures the connection, creates or migrates, checks.
enum hearth_status hd_db_open(struct hd_store *store, int64_t *version, struct hearth_error *err);
enum hearth_status hd_db_migrate(struct hd_store *store, int64_t version, struct hearth_error *err);

// store_delete.c: destroys the keys that deletions have noted.
enum hearth_status hd_store_destroy_doomed(struct hd_store *store, struct hearth_error *err);
// Inside a transaction: note the keys of a turn or a conversation and remove it; its turns are added to
// `deleted`.
enum hearth_status hd_store_doom_turn(struct hd_store *store, const struct hd_id *turn,
                                      struct hd_deleted *deleted, struct hearth_error *err);
enum hearth_status hd_store_doom_conversation(struct hd_store *store, const struct hd_id *conversation,
                                              struct hd_deleted *deleted, struct hearth_error *err);
// A person with everything that is theirs. When it fails after the rows are gone, `deleted` is filled.
enum hearth_status hd_store_delete_person(struct hd_store *store, const struct hd_id *person,
                                          struct hd_deleted *deleted, struct hearth_error *err);
// store_learn.c, inside a transaction: all that was learnt from a person's conversations goes, its keys are noted.
enum hearth_status hd_store_doom_learnt(struct hd_store *store, const struct hd_id *person, struct hearth_error *err);
// people.c: `what` ("a person's name") has min_bytes..HD_MAX_NAME_BYTES of UTF-8, no control characters.
enum hearth_status hd_name_check(const char *what, const char *name, size_t min_bytes,
                                 struct hearth_error *err);
// people_devices.c
enum hearth_status hd_devices_write_seen(struct hd_store *store, struct hearth_error *err);

#endif
