// SPDX-License-Identifier: Apache-2.0
// Deletion. One transaction removes rows and notes their keys in doomed_keys; then the vault destroys the
// keys; then the notes go. Whatever is interrupted is taken up again by the next deletion, tick or start.
// Server loop thread only.
#include <stdlib.h>
#include <string.h>

#include "firmware/store_db.h"

static enum hearth_status add_id(struct hd_deleted *list, const struct hd_id *id, struct hearth_error *err)
{
    if ((list->n_turns & (list->n_turns - 1)) == 0) { // a power of two: full
        struct hd_id *turns =
            realloc(list->turns, (list->n_turns == 0 ? 1 : 2 * list->n_turns) * sizeof *turns);
        if (turns == NULL)
            return hd_fail(err, HEARTH_NOMEM, "out of memory");
        list->turns = turns;
    }
    list->turns[list->n_turns++] = *id;
    return HEARTH_OK;
}

void hd_deleted_free(struct hd_deleted *deleted)
{
    free(deleted->turns);
    memset(deleted, 0, sizeof *deleted);
}

// Adds the first column of every row to `list`; `id` is bound when it is not NULL.
static enum hearth_status collect(struct hd_store *store, struct hd_deleted *list, struct hearth_error *err,
                                  const char *sql, const struct hd_id *id)
{
    sqlite3_stmt *statement;
    bool row = false;
    enum hearth_status status = hd_db_prepare(store, &statement, err, sql, id == NULL ? "" : "b", id);
    if (status == HEARTH_OK)
        status = hd_db_step(store, &statement, &row, err);
    while (status == HEARTH_OK && row) {
        struct hd_id found = hd_db_id(statement, 0);
        status = add_id(list, &found, err);
        if (status == HEARTH_OK)
            status = hd_db_step(store, &statement, &row, err);
    }
    hd_db_done(&statement);
    return status;
}

enum hearth_status hd_store_destroy_doomed(struct hd_store *store, struct hearth_error *err)
{
    if (!store->keys_pending)
        return HEARTH_OK;
    struct hd_deleted doomed = {0};
    enum hearth_status status = collect(store, &doomed, err, "SELECT id FROM doomed_keys", NULL);
    if (status == HEARTH_OK)
        status = hd_vault_destroy(store->vault, doomed.turns, doomed.n_turns, err);
    // The keys are gone for good; notes that cannot be removed now do no harm and are met again.
    if (status == HEARTH_OK &&
        (doomed.n_turns == 0 || hd_db_run(store, NULL, NULL, "DELETE FROM doomed_keys", "") == HEARTH_OK))
        store->keys_pending = false;
    hd_deleted_free(&doomed);
    return status;
}

static enum hearth_status doom_key(struct hd_store *store, const struct hd_id *id, struct hearth_error *err)
{
    store->keys_pending = true;
    return hd_db_run(store, NULL, err, "INSERT OR IGNORE INTO doomed_keys(id) VALUES(?)", "b", id);
}

enum hearth_status hd_store_doom_turn(struct hd_store *store, const struct hd_id *turn,
                                      struct hd_deleted *deleted, struct hearth_error *err)
{
    enum hearth_status status = doom_key(store, turn, err);
    if (status == HEARTH_OK) // a title that was taken from this turn goes with it
        status =
            hd_db_run(store, NULL, err,
                      "UPDATE conversations SET title = NULL, title_turn = NULL WHERE title_turn = ?1 AND"
                      " id = (SELECT conversation FROM turns WHERE id = ?1)",
                      "b", turn);
    if (status == HEARTH_OK)
        status = hd_db_run(store, NULL, err, "DELETE FROM turns WHERE id = ?", "b", turn);
    return status == HEARTH_OK ? add_id(deleted, turn, err) : status;
}

enum hearth_status hd_store_doom_conversation(struct hd_store *store, const struct hd_id *conversation,
                                              struct hd_deleted *deleted, struct hearth_error *err)
{
    enum hearth_status status =
        collect(store, deleted, err, "SELECT id FROM turns WHERE conversation = ?", conversation);
    if (status == HEARTH_OK)
        status = doom_key(store, conversation, err);
    if (status == HEARTH_OK)
        status =
            hd_db_run(store, NULL, err,
                      "INSERT OR IGNORE INTO doomed_keys(id) SELECT id FROM turns WHERE conversation = ?",
                      "b", conversation);
    if (status == HEARTH_OK) // its turns follow by the foreign key
        status = hd_db_run(store, NULL, err, "DELETE FROM conversations WHERE id = ?", "b", conversation);
    return status;
}

// A person's caches on disk may hold anything of theirs, and so may what was learnt from their conversations: with the
// first thing deleted these go too.
static enum hearth_status doom_derived(struct hd_store *store, const struct hd_id *person,
                                        struct hearth_error *err)
{
    struct hd_id ids[HD_VAULT_MAX_BATCH];
    size_t n = hd_vault_find(store->vault, HD_KEY_PREFIX, person, ids, HD_VAULT_MAX_BATCH);
    enum hearth_status status = HEARTH_OK;
    for (size_t i = 0; i < n && i < HD_VAULT_MAX_BATCH && status == HEARTH_OK; i++)
        status = doom_key(store, &ids[i], err);
    return status == HEARTH_OK ? hd_store_doom_learnt(store, person, err) : status;
}

// The rest of every deletion: commit, then the keys.
static enum hearth_status finish(struct hd_store *store, enum hearth_status status,
                                 struct hd_deleted *deleted, struct hearth_error *err)
{
    status = hd_db_end(store, status, err);
    if (status != HEARTH_OK) {
        hd_deleted_free(deleted);
        return status;
    }
    return hd_store_destroy_doomed(store, err);
}

enum hearth_status hd_store_turn_delete(struct hd_store *store, const struct hd_id *person,
                                        const struct hd_id *turn, struct hd_deleted *deleted,
                                        struct hearth_error *err)
{
    memset(deleted, 0, sizeof *deleted);
    int64_t role = 0;
    struct hd_deleted answers = {0};
    enum hearth_status status =
        hd_db_int(store, &role, 0, err,
                  "SELECT t.role FROM turns t JOIN conversations c ON c.id = t.conversation"
                  " WHERE t.id = ? AND c.person = ?",
                  "bb", turn, person);
    if (status == HEARTH_OK && role == 0)
        status = hd_fail(err, HEARTH_NOT_FOUND, "no such turn");
    if (status == HEARTH_OK && role == HD_ROLE_USER)
        status = collect(store, &answers, err, "SELECT id FROM turns WHERE parent = ? ORDER BY seq", turn);
    if (status == HEARTH_OK)
        status = hd_db_begin(store, err);
    if (status == HEARTH_OK) {
        status = doom_derived(store, person, err);
        if (status == HEARTH_OK)
            status = hd_store_doom_turn(store, turn, deleted, err);
        for (size_t i = 0; i < answers.n_turns && status == HEARTH_OK; i++)
            status = hd_store_doom_turn(store, &answers.turns[i], deleted, err);
        status = finish(store, status, deleted, err);
    }
    hd_deleted_free(&answers);
    return status;
}

enum hearth_status hd_store_conversation_delete(struct hd_store *store, const struct hd_id *person,
                                                const struct hd_id *conversation, struct hd_deleted *deleted,
                                                struct hearth_error *err)
{
    memset(deleted, 0, sizeof *deleted);
    int64_t exists = 0;
    enum hearth_status status =
        hd_db_int(store, &exists, 0, err, "SELECT 1 FROM conversations WHERE id = ? AND person = ?", "bb",
                  conversation, person);
    if (status == HEARTH_OK && !exists)
        status = hd_fail(err, HEARTH_NOT_FOUND, "no such conversation");
    if (status == HEARTH_OK)
        status = hd_db_begin(store, err);
    if (status == HEARTH_OK) {
        status = doom_derived(store, person, err);
        if (status == HEARTH_OK)
            status = hd_store_doom_conversation(store, conversation, deleted, err);
        status = finish(store, status, deleted, err);
    }
    return status;
}

enum hearth_status hd_store_delete_person(struct hd_store *store, const struct hd_id *person,
                                          struct hd_deleted *deleted, struct hearth_error *err)
{
    memset(deleted, 0, sizeof *deleted);
    struct hd_deleted conversations = {0};
    enum hearth_status status =
        collect(store, &conversations, err, "SELECT id FROM conversations WHERE person = ?", person);
    if (status == HEARTH_OK)
        status = hd_db_begin(store, err);
    if (status == HEARTH_OK) {
        status = doom_derived(store, person, err);
        for (size_t i = 0; i < conversations.n_turns && status == HEARTH_OK; i++)
            status = hd_store_doom_conversation(store, &conversations.turns[i], deleted, err);
        if (status == HEARTH_OK)
            status =
                hd_db_run(store, NULL, err,
                          "DELETE FROM responses WHERE device IN (SELECT id FROM devices WHERE person = ?)",
                          "b", person);
        if (status == HEARTH_OK)
            status = hd_db_run(store, NULL, err, "DELETE FROM adapter_choices WHERE person = ?", "b", person);
        if (status == HEARTH_OK) // devices and pairing secrets follow by the foreign keys
            status = hd_db_run(store, NULL, err, "DELETE FROM people WHERE id = ?", "b", person);
        status = finish(store, status, deleted, err);
    }
    hd_deleted_free(&conversations);
    return status;
}
