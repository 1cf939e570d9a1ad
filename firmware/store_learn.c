// SPDX-License-Identifier: Apache-2.0
// Rows of what the box learns from and has learnt. See store_learn.h. Server loop thread only.
#include "firmware/store_learn.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "firmware/store_db.h"

bool hd_learnt_name_ok(const char *name)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    size_t n = strlen(name);
    return n >= 1 && n <= HD_MAX_LEARNT_NAME && strspn(name, plain) == n && !strchr("._-", name[0]) &&
           strcmp(name, "none") != 0;
}

void hd_learnt_free(struct hd_learnt *items, size_t n)
{
    for (size_t i = 0; items && i < n; i++)
        free(items[i].meta);
    free(items);
}

static bool read_row(sqlite3_stmt *statement, struct hd_learnt *item)
{
    *item = (struct hd_learnt){.id = hd_db_id(statement, 0),
                               .kind = (enum hd_learnt_kind)sqlite3_column_int(statement, 1),
                               .person = hd_db_id(statement, 2),
                               .created_ms = sqlite3_column_int64(statement, 4),
                               .size_bytes = (uint64_t)sqlite3_column_int64(statement, 5)};
    hd_db_text(statement, 3, item->name, sizeof item->name);
    item->meta = malloc(HD_MAX_LEARNT_META + 1);
    if (!item->meta)
        return false;
    hd_db_text(statement, 6, item->meta, HD_MAX_LEARNT_META + 1);
    return true;
}

enum hearth_status hd_store_learnt_list(struct hd_store *store, struct hd_learnt **items, size_t *n,
                                        struct hearth_error *err)
{
    sqlite3_stmt *statement;
    bool row = false;
    *n = 0;
    *items = calloc(HD_MAX_LEARNT, sizeof **items);
    if (!*items)
        return hd_fail(err, HEARTH_NOMEM, "out of memory");
    enum hearth_status status = hd_db_prepare(
        store, &statement, err,
        "SELECT id, kind, person, name, created, size, meta FROM learnt ORDER BY created, rowid", "");
    if (status == HEARTH_OK)
        status = hd_db_step(store, &statement, &row, err);
    while (status == HEARTH_OK && row && *n < HD_MAX_LEARNT) {
        if (!read_row(statement, &(*items)[(*n)++]))
            status = hd_fail(err, HEARTH_NOMEM, "out of memory");
        if (status == HEARTH_OK)
            status = hd_db_step(store, &statement, &row, err);
    }
    hd_db_done(&statement);
    if (status != HEARTH_OK) {
        hd_learnt_free(*items, *n);
        *items = NULL;
        *n = 0;
    }
    return status;
}

static bool has(const struct hd_learnt *items, size_t n, const struct hd_id *id)
{
    bool found = false;
    for (size_t i = 0; i < n; i++)
        found = found || hd_id_equal(&items[i].id, id);
    return found;
}

static enum hearth_status destroy_others(struct hd_store *store, const struct hd_learnt *items, size_t n,
                                         struct hearth_error *err)
{
    size_t n_keys = hd_vault_find(store->vault, HD_KEY_LEARN, NULL, NULL, 0), n_orphans = 0;
    struct hd_id *ids = n_keys ? calloc(n_keys, sizeof *ids) : NULL;
    if (!ids)
        return n_keys ? hd_fail(err, HEARTH_NOMEM, "out of memory") : HEARTH_OK;
    hd_vault_find(store->vault, HD_KEY_LEARN, NULL, ids, n_keys);
    for (size_t i = 0; i < n_keys; i++) {
        if (!has(items, n, &ids[i]))
            ids[n_orphans++] = ids[i];
    }
    enum hearth_status status = n_orphans ? hd_vault_destroy(store->vault, ids, n_orphans, err) : HEARTH_OK;
    free(ids);
    return status;
}

enum hearth_status hd_store_learnt_drop_orphans(struct hd_store *store, struct hearth_error *err)
{
    struct hd_learnt *items;
    size_t n;
    enum hearth_status status = hd_store_learnt_list(store, &items, &n, err);
    if (status != HEARTH_OK)
        return status;
    status = destroy_others(store, items, n, err);
    hd_learnt_free(items, n);
    return status;
}

enum hearth_status hd_store_learnt_key(struct hd_store *store, const struct hd_id *person, struct hd_id *id,
                                       struct hearth_error *err)
{
    struct hd_key_spec spec = {.kind = HD_KEY_LEARN, .person = *person};
    enum hearth_status status = hd_id_random(&spec.id, err);
    if (status == HEARTH_OK)
        status = hd_vault_add(store->vault, &spec, 1, err);
    *id = spec.id;
    return status;
}

enum hearth_status hd_store_learnt_drop_key(struct hd_store *store, const struct hd_id *id, struct hearth_error *err)
{
    return hd_vault_destroy(store->vault, id, 1, err);
}

static enum hearth_status check(const struct hd_learnt *item, struct hearth_error *err)
{
    if (!hd_learnt_name_ok(item->name))
        return hd_fail(err, HEARTH_INVALID, "a name has 1 to 64 letters, digits, '.', '_' or '-'");
    if (strlen(item->meta) > HD_MAX_LEARNT_META)
        return hd_fail(err, HEARTH_LIMIT, "what is to be remembered of %s is too much", item->name);
    return HEARTH_OK;
}

enum hearth_status hd_store_learnt_add(struct hd_store *store, const struct hd_learnt *item, struct hearth_error *err)
{
    int64_t n = 0;
    enum hearth_status status = check(item, err);
    if (status == HEARTH_OK)
        status = hd_db_int(store, &n, 0, err, "SELECT count(*) FROM learnt", "");
    if (status == HEARTH_OK && n >= HD_MAX_LEARNT)
        status = hd_fail(err, HEARTH_LIMIT, "%d data sets and adapters are here already", HD_MAX_LEARNT);
    if (status == HEARTH_OK && !hd_vault_has(store->vault, &item->id))
        status = hd_fail(err, HEARTH_NOT_FOUND, "the key of %s was destroyed meanwhile", item->name);
    if (status == HEARTH_OK)
        status = hd_db_run(store, NULL, err,
                           "INSERT INTO learnt(id, kind, person, name, created, size, meta)"
                           " VALUES(?, ?, ?, ?, ?, ?, ?)",
                           "bibsiis", &item->id, (int64_t)item->kind, &item->person, item->name, item->created_ms,
                           (int64_t)item->size_bytes, item->meta);
    return status;
}

enum hearth_status hd_store_learnt_update(struct hd_store *store, const struct hd_learnt *item,
                                          struct hearth_error *err)
{
    int changed = 0;
    enum hearth_status status = check(item, err);
    if (status == HEARTH_OK)
        status = hd_db_run(store, &changed, err, "UPDATE learnt SET kind = ?, size = ?, meta = ? WHERE id = ?", "iisb",
                           (int64_t)item->kind, (int64_t)item->size_bytes, item->meta, &item->id);
    return status == HEARTH_OK && !changed ? hd_fail(err, HEARTH_NOT_FOUND, "%s was removed meanwhile", item->name)
                                           : status;
}

// Inside a transaction: rows are gone, choices of them too, keys are noted.
static enum hearth_status doom(struct hd_store *store, const char *where, const struct hd_id *id, int *changed,
                               struct hearth_error *err)
{
    static const char *const steps[] = {
        "INSERT OR IGNORE INTO doomed_keys(id) SELECT id FROM learnt WHERE %s = ?",
        "DELETE FROM adapter_choices WHERE adapter IN (SELECT id FROM learnt WHERE %s = ?)",
        "DELETE FROM learnt WHERE %s = ?",
    };
    char sql[160];
    enum hearth_status status = HEARTH_OK;
    store->keys_pending = true;
    for (size_t i = 0; i < sizeof steps / sizeof steps[0] && status == HEARTH_OK; i++) {
        snprintf(sql, sizeof sql, steps[i], where);
        status = hd_db_run(store, changed, err, sql, "b", id);
    }
    return status;
}

// What is still on its way in has a key and no row yet: it never becomes an item.
enum hearth_status hd_store_doom_learnt(struct hd_store *store, const struct hd_id *person, struct hearth_error *err)
{
    int changed = 0;
    size_t n = hd_vault_find(store->vault, HD_KEY_LEARN, person, NULL, 0);
    struct hd_id *ids = calloc(n + 1, sizeof *ids);
    if (!ids)
        return hd_fail(err, HEARTH_NOMEM, "out of memory");
    hd_vault_find(store->vault, HD_KEY_LEARN, person, ids, n);
    enum hearth_status status = doom(store, "person", person, &changed, err);
    for (size_t i = 0; i < n && status == HEARTH_OK; i++)
        status = hd_db_run(store, NULL, err, "INSERT OR IGNORE INTO doomed_keys(id) VALUES(?)", "b", &ids[i]);
    free(ids);
    return status;
}

// Inside a transaction.
static enum hearth_status doom_one(struct hd_store *store, const struct hd_id *id, struct hearth_error *err)
{
    int changed = 0;
    enum hearth_status status = doom(store, "id", id, &changed, err);
    return status == HEARTH_OK && !changed ? hd_fail(err, HEARTH_NOT_FOUND, "it is gone already") : status;
}

enum hearth_status hd_store_learnt_remove(struct hd_store *store, const struct hd_id *id, struct hearth_error *err)
{
    enum hearth_status status = hd_db_begin(store, err);
    if (status != HEARTH_OK)
        return status;
    status = hd_db_end(store, doom_one(store, id, err), err);
    return status == HEARTH_OK ? hd_store_destroy_doomed(store, err) : status;
}

enum hearth_status hd_store_learnt_replace(struct hd_store *store, const struct hd_id *old,
                                           const struct hd_learnt *item, struct hearth_error *err)
{
    enum hearth_status status = hd_db_begin(store, err);
    if (status != HEARTH_OK)
        return status;
    status = doom_one(store, old, err);
    if (status == HEARTH_OK)
        status = hd_store_learnt_add(store, item, err);
    struct hearth_error ignored = {0};
    status = hd_db_end(store, status, err);
    if (status == HEARTH_OK) // the new one is here: an old key that cannot be destroyed now is met again
        (void)hd_store_destroy_doomed(store, &ignored);
    return status;
}

// ---- choices

// A person's id as a blob that is never NULL: the box's own row has 16 zero bytes.
#define PERSON(id) (id)->b, (size_t)HD_ID_BYTES

enum hearth_status hd_store_choice_list(struct hd_store *store, struct hd_adapter_choice **list, size_t *n,
                                        struct hearth_error *err)
{
    sqlite3_stmt *statement;
    bool row = false;
    enum { MAX = HD_MAX_PEOPLE + 1 };
    *n = 0;
    *list = calloc(MAX, sizeof **list);
    if (!*list)
        return hd_fail(err, HEARTH_NOMEM, "out of memory");
    enum hearth_status status =
        hd_db_prepare(store, &statement, err, "SELECT person, adapter, scale FROM adapter_choices", "");
    if (status == HEARTH_OK)
        status = hd_db_step(store, &statement, &row, err);
    while (status == HEARTH_OK && row && *n < MAX) {
        (*list)[(*n)++] = (struct hd_adapter_choice){.person = hd_db_id(statement, 0),
                                                     .adapter = hd_db_id(statement, 1),
                                                     .scale = sqlite3_column_double(statement, 2)};
        status = hd_db_step(store, &statement, &row, err);
    }
    hd_db_done(&statement);
    if (status != HEARTH_OK) {
        free(*list);
        *list = NULL;
        *n = 0;
    }
    return status;
}

enum hearth_status hd_store_choice_set(struct hd_store *store, const struct hd_adapter_choice *choice,
                                       struct hearth_error *err)
{
    return hd_db_run(store, NULL, err,
                     "INSERT INTO adapter_choices(person, adapter, scale) VALUES(?1, ?2, ?3)"
                     " ON CONFLICT(person) DO UPDATE SET adapter = ?2, scale = ?3",
                     "xbd", PERSON(&choice->person), &choice->adapter, choice->scale);
}

enum hearth_status hd_store_choice_clear(struct hd_store *store, const struct hd_id *person, struct hearth_error *err)
{
    return hd_db_run(store, NULL, err, "DELETE FROM adapter_choices WHERE person = ?", "x", PERSON(person));
}
