// SPDX-License-Identifier: Apache-2.0
// People: list, add, find, remove. Server loop thread only.
#include "firmware/people.h"

#include <stdlib.h>
#include <string.h>

#include "firmware/store_db.h"

#define PERSON_COLUMNS "id, name, created"

static void read_person(sqlite3_stmt *statement, struct hd_person *person)
{
    memset(person, 0, sizeof *person);
    person->id = hd_db_id(statement, 0);
    hd_db_text(statement, 1, person->name, sizeof person->name);
    person->created_ms = sqlite3_column_int64(statement, 2);
}

enum hearth_status hd_name_check(const char *what, const char *name, size_t min_bytes,
                                 struct hearth_error *err)
{
    size_t len_bytes = strlen(name);
    bool good = len_bytes >= min_bytes && len_bytes <= HD_MAX_NAME_BYTES && hd_utf8_valid(name, len_bytes);
    for (size_t i = 0; i < len_bytes && good; i++)
        good = (unsigned char)name[i] >= ' ' && name[i] != 0x7f;
    if (good)
        return HEARTH_OK;
    return hd_fail(err, len_bytes > HD_MAX_NAME_BYTES ? HEARTH_LIMIT : HEARTH_INVALID,
                   "%s has %zu to %d bytes of UTF-8 without control characters", what, min_bytes,
                   HD_MAX_NAME_BYTES);
}

enum hearth_status hd_people_list(struct hd_store *store, struct hd_person **people, size_t *n,
                                  struct hearth_error *err)
{
    *n = 0;
    *people = calloc(HD_MAX_PEOPLE, sizeof **people);
    if (*people == NULL)
        return hd_fail(err, HEARTH_NOMEM, "out of memory");
    sqlite3_stmt *statement;
    bool row = false;
    enum hearth_status status = hd_db_prepare(
        store, &statement, err, "SELECT " PERSON_COLUMNS " FROM people ORDER BY created, rowid LIMIT ?", "i",
        (int64_t)HD_MAX_PEOPLE);
    if (status == HEARTH_OK)
        status = hd_db_step(store, &statement, &row, err);
    while (status == HEARTH_OK && row) {
        read_person(statement, &(*people)[(*n)++]);
        status = hd_db_step(store, &statement, &row, err);
    }
    hd_db_done(&statement);
    if (status != HEARTH_OK) {
        free(*people);
        *people = NULL;
        *n = 0;
    }
    return status;
}

static enum hearth_status first_person(struct hd_store *store, sqlite3_stmt **statement,
                                       struct hd_person *person, struct hearth_error *err)
{
    bool row = false;
    memset(person, 0, sizeof *person);
    enum hearth_status status = hd_db_step(store, statement, &row, err);
    if (row)
        read_person(*statement, person);
    else if (status == HEARTH_OK)
        status = hd_fail(err, HEARTH_NOT_FOUND, "no such person");
    hd_db_done(statement);
    return status;
}

enum hearth_status hd_person_find(struct hd_store *store, const char *name, struct hd_person *person,
                                  struct hearth_error *err)
{
    sqlite3_stmt *statement;
    enum hearth_status status = hd_db_prepare(
        store, &statement, err, "SELECT " PERSON_COLUMNS " FROM people WHERE name = ?", "s", name);
    return status == HEARTH_OK ? first_person(store, &statement, person, err) : status;
}

enum hearth_status hd_person_get(struct hd_store *store, const struct hd_id *id, struct hd_person *person,
                                 struct hearth_error *err)
{
    sqlite3_stmt *statement;
    enum hearth_status status =
        hd_db_prepare(store, &statement, err, "SELECT " PERSON_COLUMNS " FROM people WHERE id = ?", "b", id);
    return status == HEARTH_OK ? first_person(store, &statement, person, err) : status;
}

enum hearth_status hd_person_add(struct hd_store *store, const char *name, struct hd_person *person,
                                 struct hearth_error *err)
{
    memset(person, 0, sizeof *person);
    int64_t same = 0, n = 0;
    enum hearth_status status = hd_name_check("a person's name", name, 1, err);
    if (status == HEARTH_OK)
        status = hd_db_int(store, &same, 0, err, "SELECT count(*) FROM people WHERE name = ?", "s", name);
    if (status == HEARTH_OK)
        status = hd_db_int(store, &n, 0, err, "SELECT count(*) FROM people", "");
    if (status == HEARTH_OK && same > 0)
        status = hd_fail(err, HEARTH_INVALID, "there is a person of this name already");
    if (status == HEARTH_OK && n >= HD_MAX_PEOPLE)
        status = hd_fail(err, HEARTH_LIMIT, "there are %d people already", HD_MAX_PEOPLE);
    if (status == HEARTH_OK)
        status = hd_id_random(&person->id, err);
    if (status == HEARTH_OK)
        status = hd_db_run(store, NULL, err, "INSERT INTO people(id, name, created) VALUES(?, ?, ?)", "bsi",
                           &person->id, name, hd_now_ms());
    if (status != HEARTH_OK)
        return status;
    return hd_person_find(store, name, person, err);
}

enum hearth_status hd_person_remove(struct hd_store *store, const struct hd_id *person,
                                    struct hd_deleted *deleted, struct hearth_error *err)
{
    memset(deleted, 0, sizeof *deleted);
    struct hd_person found;
    struct hd_device *devices = NULL;
    size_t n_devices = 0;
    int64_t n = 0, still = 0;
    enum hearth_status status = hd_person_get(store, person, &found, err);
    if (status == HEARTH_OK)
        status = hd_db_int(store, &n, 0, err, "SELECT count(*) FROM people", "");
    if (status == HEARTH_OK && n <= 1)
        status = hd_fail(err, HEARTH_INVALID, "the last person cannot be removed");
    if (status == HEARTH_OK)
        status = hd_devices_list(store, person, &devices, &n_devices, err);
    if (status == HEARTH_OK) {
        status = hd_store_delete_person(store, person, deleted, err);
        // The rows may be gone although the keys could not be destroyed yet.
        bool gone = hd_db_int(store, &still, 1, NULL, "SELECT count(*) FROM people WHERE id = ?", "b",
                              person) == HEARTH_OK &&
                    still == 0;
        for (size_t i = 0; gone && store->revoked != NULL && i < n_devices; i++)
            store->revoked(store->revoked_user, &devices[i].id);
    }
    free(devices);
    return status;
}
