// SPDX-License-Identifier: Apache-2.0
// Reading conversations, and their titles. Every statement names the person. Server loop thread only.
#include <stdlib.h>
#include <string.h>

#include "firmware/store_db.h"

static enum hearth_status no_memory(struct hearth_error *err)
{
    return hd_fail(err, HEARTH_NOMEM, "out of memory");
}

// ---- heads: id, title, title_turn, created, updated, number of turns

#define HEAD_COLUMNS                                                                                         \
    "c.id, c.title, c.title_turn, c.created, c.updated,"                                                     \
    " (SELECT count(*) FROM turns WHERE conversation = c.id)"

static enum hearth_status read_head(struct hd_store *store, sqlite3_stmt *statement,
                                    struct hd_conversation_head *head, struct hearth_error *err)
{
    memset(head, 0, sizeof *head);
    head->id = hd_db_id(statement, 0);
    head->created_ms = sqlite3_column_int64(statement, 3);
    head->updated_ms = sqlite3_column_int64(statement, 4);
    head->turns = (uint32_t)sqlite3_column_int64(statement, 5);
    struct hd_id key = hd_db_id(statement, 2);
    if (hd_id_is_zero(&key))
        key = head->id;
    struct hd_slot slot = {.table = "conversations", .field = "title", .row = head->id};
    uint8_t *title;
    size_t title_len;
    enum hearth_status status = hd_db_open_sealed(store, statement, 1, &key, &slot, &title, &title_len, err);
    if (status == HEARTH_OK && title_len <= HD_MAX_TITLE_BYTES)
        memcpy(head->title, title, title_len);
    hd_wipe_free(title, title_len);
    return status;
}

enum hearth_status hd_store_conversation_list(struct hd_store *store, const struct hd_id *person,
                                              uint32_t limit, int64_t before_ms,
                                              struct hd_conversation_list *list, struct hearth_error *err)
{
    memset(list, 0, sizeof *list);
    if (limit > HD_MAX_PAGE)
        return hd_fail(err, HEARTH_LIMIT, "a list has at most %d conversations", HD_MAX_PAGE);
    if (limit == 0)
        limit = HD_DEFAULT_PAGE;
    list->items = calloc(limit, sizeof *list->items);
    if (list->items == NULL)
        return no_memory(err);
    sqlite3_stmt *statement;
    bool row = false;
    enum hearth_status status =
        hd_db_prepare(store, &statement, err,
                      "SELECT " HEAD_COLUMNS " FROM conversations c WHERE person = ?"
                      " AND updated < ? ORDER BY updated DESC LIMIT ?",
                      "bii", person, before_ms > 0 ? before_ms : INT64_MAX, (int64_t)limit + 1);
    if (status == HEARTH_OK)
        status = hd_db_step(store, &statement, &row, err);
    while (status == HEARTH_OK && row) {
        list->more = list->n == limit;
        if (list->more)
            break;
        status = read_head(store, statement, &list->items[list->n], err);
        if (status == HEARTH_OK) {
            list->n++;
            status = hd_db_step(store, &statement, &row, err);
        }
    }
    hd_db_done(&statement);
    if (status != HEARTH_OK)
        hd_conversation_list_free(list);
    return status;
}

void hd_conversation_list_free(struct hd_conversation_list *list)
{
    hd_wipe_free(list->items, list->n * sizeof *list->items);
    memset(list, 0, sizeof *list);
}

// ---- turns

#define TURN_COLUMNS                                                                                         \
    "t.id, t.parent, t.response, t.role, t.text, t.token_ids, t.created, t.finished, t.prompt_tokens,"       \
    " t.cached_tokens, t.completion_tokens, t.prompt_ms, t.first_token_ms, t.completion_ms, t.seed,"         \
    " t.numerics_id, t.stop_reason, t.conversation, t.model, t.model_tag"
enum { CONVERSATION_COLUMN = 17, MODEL_COLUMN = 18, MODEL_TAG_COLUMN = 19 };

static void read_usage(sqlite3_stmt *statement, struct hd_turn *turn)
{
    turn->has_usage = sqlite3_column_type(statement, 10) != SQLITE_NULL;
    if (!turn->has_usage)
        return;
    struct hd_usage *usage = &turn->usage;
    usage->prompt_tokens = (uint32_t)sqlite3_column_int64(statement, 8);
    usage->cached_tokens = (uint32_t)sqlite3_column_int64(statement, 9);
    usage->completion_tokens = (uint32_t)sqlite3_column_int64(statement, 10);
    usage->prompt_ms = sqlite3_column_double(statement, 11);
    usage->first_token_ms = sqlite3_column_double(statement, 12);
    usage->completion_ms = sqlite3_column_double(statement, 13);
    usage->seed = (uint64_t)sqlite3_column_int64(statement, 14);
    hd_db_text(statement, 15, usage->numerics_id, sizeof usage->numerics_id);
    hd_db_text(statement, 16, usage->stop_reason, sizeof usage->stop_reason);
    hd_db_text(statement, MODEL_COLUMN, usage->model, sizeof usage->model);
    hd_db_text(statement, MODEL_TAG_COLUMN, usage->model_tag, sizeof usage->model_tag);
}

static enum hearth_status read_tokens(struct hd_store *store, sqlite3_stmt *statement, struct hd_turn *turn,
                                      struct hearth_error *err)
{
    if (sqlite3_column_type(statement, 5) == SQLITE_NULL)
        return HEARTH_OK;
    struct hd_slot slot = {.table = "turns", .field = "token_ids", .row = turn->id};
    uint8_t *bytes;
    size_t len_bytes;
    enum hearth_status status =
        hd_db_open_sealed(store, statement, 5, &turn->id, &slot, &bytes, &len_bytes, err);
    if (status != HEARTH_OK)
        return status;
    size_t n = len_bytes / 4;
    turn->token_ids = malloc((n + 1) * sizeof *turn->token_ids);
    if (turn->token_ids == NULL)
        status = no_memory(err);
    for (size_t i = 0; i < n && status == HEARTH_OK; i++) {
        const uint8_t *p = bytes + 4 * i;
        turn->token_ids[i] =
            (int32_t)(p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24);
    }
    turn->n_tokens = status == HEARTH_OK ? n : 0;
    hd_wipe_free(bytes, len_bytes);
    return status;
}

static enum hearth_status read_turn(struct hd_store *store, sqlite3_stmt *statement, bool with_tokens,
                                    struct hd_turn *turn, struct hearth_error *err)
{
    memset(turn, 0, sizeof *turn);
    turn->id = hd_db_id(statement, 0);
    turn->parent = hd_db_id(statement, 1);
    turn->response = hd_db_id(statement, 2);
    turn->role = (enum hd_role)sqlite3_column_int(statement, 3);
    turn->created_ms = sqlite3_column_int64(statement, 6);
    turn->finished = sqlite3_column_type(statement, 7) != SQLITE_NULL;
    turn->finished_ms = sqlite3_column_int64(statement, 7);
    read_usage(statement, turn);
    struct hd_slot slot = {.table = "turns", .field = "text", .row = turn->id};
    uint8_t *text;
    enum hearth_status status =
        hd_db_open_sealed(store, statement, 4, &turn->id, &slot, &text, &turn->text_len, err);
    turn->text = (char *)text;
    if (status == HEARTH_OK && with_tokens)
        status = read_tokens(store, statement, turn, err);
    if (status != HEARTH_OK)
        hd_turn_free(turn);
    return status;
}

void hd_turn_free(struct hd_turn *turn)
{
    hd_wipe_free(turn->text, turn->text_len);
    hd_wipe_free(turn->token_ids, turn->n_tokens * sizeof *turn->token_ids);
    memset(turn, 0, sizeof *turn);
}

static enum hearth_status read_turns(struct hd_store *store, bool with_tokens, struct hd_conversation *out,
                                     struct hearth_error *err)
{
    sqlite3_stmt *statement;
    bool row = false;
    size_t capacity = out->head.turns;
    out->turns = calloc(capacity + 1, sizeof *out->turns);
    if (out->turns == NULL)
        return no_memory(err);
    enum hearth_status status =
        hd_db_prepare(store, &statement, err,
                      "SELECT " TURN_COLUMNS " FROM turns t WHERE conversation = ? ORDER BY seq LIMIT ?",
                      "bi", &out->head.id, (int64_t)capacity);
    if (status == HEARTH_OK)
        status = hd_db_step(store, &statement, &row, err);
    while (status == HEARTH_OK && row) {
        status = read_turn(store, statement, with_tokens, &out->turns[out->n_turns], err);
        if (status == HEARTH_OK) {
            out->n_turns++;
            status = hd_db_step(store, &statement, &row, err);
        }
    }
    hd_db_done(&statement);
    return status;
}

enum hearth_status hd_store_conversation_get(struct hd_store *store, const struct hd_id *person,
                                             const struct hd_id *conversation, bool with_tokens,
                                             struct hd_conversation *out, struct hearth_error *err)
{
    memset(out, 0, sizeof *out);
    sqlite3_stmt *statement;
    bool row = false;
    enum hearth_status status = hd_db_prepare(
        store, &statement, err, "SELECT " HEAD_COLUMNS " FROM conversations c WHERE id = ? AND person = ?",
        "bb", conversation, person);
    if (status == HEARTH_OK)
        status = hd_db_step(store, &statement, &row, err);
    if (row)
        status = read_head(store, statement, &out->head, err);
    else if (status == HEARTH_OK)
        status = hd_fail(err, HEARTH_NOT_FOUND, "no such conversation");
    hd_db_done(&statement);
    if (status == HEARTH_OK)
        status = read_turns(store, with_tokens, out, err);
    if (status != HEARTH_OK)
        hd_conversation_free(out);
    return status;
}

void hd_conversation_free(struct hd_conversation *conversation)
{
    for (size_t i = 0; i < conversation->n_turns; i++)
        hd_turn_free(&conversation->turns[i]);
    free(conversation->turns);
    hd_wipe(conversation, sizeof *conversation);
}

enum hearth_status hd_store_response_get(struct hd_store *store, const struct hd_id *person,
                                         const struct hd_id *response, struct hd_turn *turn,
                                         struct hd_id *conversation, struct hearth_error *err)
{
    memset(turn, 0, sizeof *turn);
    memset(conversation, 0, sizeof *conversation);
    sqlite3_stmt *statement;
    bool row = false;
    enum hearth_status status =
        hd_db_prepare(store, &statement, err,
                      "SELECT " TURN_COLUMNS " FROM turns t JOIN conversations c"
                      " ON c.id = t.conversation WHERE t.response = ? AND c.person = ?",
                      "bb", response, person);
    if (status == HEARTH_OK)
        status = hd_db_step(store, &statement, &row, err);
    if (row) {
        *conversation = hd_db_id(statement, CONVERSATION_COLUMN);
        status = read_turn(store, statement, true, turn, err);
    } else if (status == HEARTH_OK) {
        status = hd_fail(err, HEARTH_NOT_FOUND, "no such response");
    }
    hd_db_done(&statement);
    return status;
}

enum hearth_status hd_store_conversation_rename(struct hd_store *store, const struct hd_id *person,
                                                const struct hd_id *conversation, const char *title,
                                                size_t title_len, struct hearth_error *err)
{
    if (title_len > HD_MAX_TITLE_BYTES)
        return hd_fail(err, HEARTH_LIMIT, "a title has at most %d bytes", HD_MAX_TITLE_BYTES);
    if (title_len == 0 || !hd_utf8_valid(title, title_len))
        return hd_fail(err, HEARTH_INVALID, "a title has 1 to %d bytes of UTF-8", HD_MAX_TITLE_BYTES);
    int64_t exists = 0;
    enum hearth_status status =
        hd_db_int(store, &exists, 0, err, "SELECT 1 FROM conversations WHERE id = ? AND person = ?", "bb",
                  conversation, person);
    if (status == HEARTH_OK && !exists)
        status = hd_fail(err, HEARTH_NOT_FOUND, "no such conversation");
    if (status != HEARTH_OK)
        return status;
    struct hd_slot slot = {.table = "conversations", .field = "title", .row = *conversation};
    uint8_t *sealed;
    size_t sealed_len;
    status = hd_vault_seal(store->vault, conversation, &slot, title, title_len, &sealed, &sealed_len, err);
    if (status == HEARTH_OK)
        status =
            hd_db_run(store, NULL, err,
                      "UPDATE conversations SET title = ?, title_turn = NULL WHERE id = ? AND person = ?",
                      "xbb", sealed, sealed_len, conversation, person);
    free(sealed);
    return status;
}
