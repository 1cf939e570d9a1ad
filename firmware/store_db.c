// SPDX-License-Identifier: Apache-2.0
// Inside the store: statements with bound values, transactions, sealed columns. Server loop thread only.
#include "firmware/store_db.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum hearth_status hd_db_fail(struct hd_store *store, int code, struct hearth_error *err)
{
    const char *path = store->db_path;
    switch (code & 0xff) {
    case SQLITE_NOMEM:
        return hd_fail(err, HEARTH_NOMEM, "out of memory");
    case SQLITE_FULL:
        return hd_fail(err, HEARTH_IO, "%s cannot be written: the disk is full", path);
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        return hd_fail(err, HEARTH_FORMAT, "%s is damaged: %s", path, sqlite3_errstr(code));
    case SQLITE_BUSY:
        return hd_fail(err, HEARTH_BUSY, "%s is in use by another process", path);
    case SQLITE_TOOBIG:
        return hd_fail(err, HEARTH_LIMIT, "a value is too long for %s", path);
    default:
        return hd_fail(err, HEARTH_IO, "%s: %s (SQLite %d)", path, sqlite3_errstr(code), code);
    }
}

static int bind_one(sqlite3_stmt *statement, int at, char type, va_list *values)
{
    if (type == 'i')
        return sqlite3_bind_int64(statement, at, va_arg(*values, int64_t));
    if (type == 'd')
        return sqlite3_bind_double(statement, at, va_arg(*values, double));
    if (type == 's')
        return sqlite3_bind_text(statement, at, va_arg(*values, const char *), -1, SQLITE_STATIC);
    if (type == 'b') {
        const struct hd_id *id = va_arg(*values, const struct hd_id *);
        if (id == NULL || hd_id_is_zero(id))
            return sqlite3_bind_null(statement, at);
        return sqlite3_bind_blob(statement, at, id->b, sizeof id->b, SQLITE_STATIC);
    }
    if (type == 'x') {
        const void *data = va_arg(*values, const void *);
        size_t len_bytes = va_arg(*values, size_t);
        return sqlite3_bind_blob64(statement, at, data, len_bytes, SQLITE_STATIC);
    }
    return SQLITE_MISUSE;
}

static enum hearth_status prepare(struct hd_store *store, sqlite3_stmt **statement, struct hearth_error *err,
                                  const char *sql, const char *types, va_list *values)
{
    *statement = NULL;
    int code = sqlite3_prepare_v2(store->db, sql, -1, statement, NULL);
    for (int i = 0; code == SQLITE_OK && types[i] != '\0'; i++)
        code = bind_one(*statement, i + 1, types[i], values);
    if (code == SQLITE_OK)
        return HEARTH_OK;
    hd_db_done(statement);
    return hd_db_fail(store, code, err);
}

enum hearth_status hd_db_prepare(struct hd_store *store, sqlite3_stmt **statement, struct hearth_error *err,
                                 const char *sql, const char *types, ...)
{
    va_list values;
    va_start(values, types);
    enum hearth_status status = prepare(store, statement, err, sql, types, &values);
    va_end(values);
    return status;
}

enum hearth_status hd_db_step(struct hd_store *store, sqlite3_stmt **statement, bool *row,
                              struct hearth_error *err)
{
    int code = sqlite3_step(*statement);
    *row = code == SQLITE_ROW;
    if (*row)
        return HEARTH_OK;
    hd_db_done(statement);
    return code == SQLITE_DONE ? HEARTH_OK : hd_db_fail(store, code, err);
}

void hd_db_done(sqlite3_stmt **statement)
{
    sqlite3_finalize(*statement);
    *statement = NULL;
}

enum hearth_status hd_db_run(struct hd_store *store, int *changed, struct hearth_error *err, const char *sql,
                             const char *types, ...)
{
    sqlite3_stmt *statement;
    va_list values;
    va_start(values, types);
    enum hearth_status status = prepare(store, &statement, err, sql, types, &values);
    va_end(values);
    bool row = false;
    if (status == HEARTH_OK)
        status = hd_db_step(store, &statement, &row, err);
    hd_db_done(&statement);
    if (changed != NULL)
        *changed = status == HEARTH_OK ? sqlite3_changes(store->db) : 0;
    return status;
}

enum hearth_status hd_db_int(struct hd_store *store, int64_t *value, int64_t missing,
                             struct hearth_error *err, const char *sql, const char *types, ...)
{
    *value = missing;
    sqlite3_stmt *statement;
    va_list values;
    va_start(values, types);
    enum hearth_status status = prepare(store, &statement, err, sql, types, &values);
    va_end(values);
    bool row = false;
    if (status == HEARTH_OK)
        status = hd_db_step(store, &statement, &row, err);
    if (row && sqlite3_column_type(statement, 0) != SQLITE_NULL)
        *value = sqlite3_column_int64(statement, 0);
    hd_db_done(&statement);
    return status;
}

enum hearth_status hd_db_begin(struct hd_store *store, struct hearth_error *err)
{
    return hd_db_run(store, NULL, err, "BEGIN IMMEDIATE", "");
}

enum hearth_status hd_db_end(struct hd_store *store, enum hearth_status status, struct hearth_error *err)
{
    if (status == HEARTH_OK)
        status = hd_db_run(store, NULL, err, "COMMIT", "");
    if (status != HEARTH_OK && !sqlite3_get_autocommit(store->db))
        (void)hd_db_run(store, NULL, NULL, "ROLLBACK", "");
    return status;
}

struct hd_id hd_db_id(sqlite3_stmt *statement, int column)
{
    struct hd_id id;
    int len_bytes = sqlite3_column_bytes(statement, column);
    (void)hd_id_from(&id, sqlite3_column_blob(statement, column), (size_t)len_bytes);
    return id;
}

void hd_db_text(sqlite3_stmt *statement, int column, char *out, size_t size_bytes)
{
    const unsigned char *text = sqlite3_column_text(statement, column);
    snprintf(out, size_bytes, "%s", text == NULL ? "" : (const char *)text);
}

enum hearth_status hd_db_open_sealed(struct hd_store *store, sqlite3_stmt *statement, int column,
                                     const struct hd_id *key, const struct hd_slot *slot, uint8_t **text,
                                     size_t *text_len, struct hearth_error *err)
{
    *text = NULL;
    *text_len = 0;
    if (sqlite3_column_type(statement, column) == SQLITE_NULL) {
        *text = calloc(1, 1);
        return *text != NULL ? HEARTH_OK : hd_fail(err, HEARTH_NOMEM, "out of memory");
    }
    const void *sealed = sqlite3_column_blob(statement, column);
    size_t len_bytes = (size_t)sqlite3_column_bytes(statement, column);
    enum hearth_status status =
        hd_vault_open_value(store->vault, key, slot, sealed, len_bytes, text, text_len, err);
    if (status == HEARTH_NOT_FOUND) // the start made sure that every row has its key
        return hd_fail(err, HEARTH_FORMAT, "the key of a stored %s is lost", slot->field);
    return status;
}
