// SPDX-License-Identifier: Apache-2.0
// Storing questions and answers. Keys are on disk before anything sealed with them; a question, its empty
// answer and the request's id are one transaction. Server loop thread only.
#include <stdlib.h>
#include <string.h>

#include "firmware/store_db.h"

enum { TITLE_BYTES = 60 };

// A sealed value on its way into a statement.
struct sealed {
    uint8_t *data;
    size_t len_bytes;
};

static enum hearth_status seal(struct hd_store *store, const struct hd_id *key, const struct hd_slot *slot,
                               const void *text, size_t text_len, struct sealed *sealed,
                               struct hearth_error *err)
{
    return hd_vault_seal(store->vault, key, slot, text, text_len, &sealed->data, &sealed->len_bytes, err);
}

static struct hd_slot turn_slot(const struct hd_id *turn, const char *field)
{
    return (struct hd_slot){.table = "turns", .field = field, .row = *turn};
}

static enum hearth_status find_request(struct hd_store *store, const struct hd_id *device,
                                       const struct hd_id *request, struct hd_accepted *accepted,
                                       struct hearth_error *err)
{
    memset(accepted, 0, sizeof *accepted);
    sqlite3_stmt *statement;
    enum hearth_status status = hd_db_prepare(store, &statement, err,
                                              "SELECT response, conversation, user_turn, assistant_turn"
                                              " FROM responses WHERE device = ? AND request = ?",
                                              "bb", device, request);
    if (status == HEARTH_OK)
        status = hd_db_step(store, &statement, &accepted->repeated, err);
    if (accepted->repeated) {
        accepted->response = hd_db_id(statement, 0);
        accepted->conversation = hd_db_id(statement, 1);
        accepted->user_turn = hd_db_id(statement, 2);
        accepted->assistant_turn = hd_db_id(statement, 3);
    }
    hd_db_done(&statement);
    return status;
}

enum hearth_status hd_store_request_find(struct hd_store *store, const struct hd_id *device,
                                         const struct hd_id *request, struct hd_accepted *accepted,
                                         struct hearth_error *err)
{
    enum hearth_status status = find_request(store, device, request, accepted, err);
    if (status == HEARTH_OK && !accepted->repeated)
        status = hd_fail(err, HEARTH_NOT_FOUND, "no such request");
    return status;
}

// ---- a question

// What one hd_store_chat_begin is about to write.
struct question {
    struct hd_accepted ids;
    struct hd_id system_turn; // zero = none
    bool fresh;               // a new conversation
    bool titled;              // the conversation has a title already
    int64_t next_seq, updated_ms;
    struct sealed title, system, text;
};

static enum hearth_status check_chat(const struct hd_chat *chat, struct hearth_error *err)
{
    if (hd_id_is_zero(&chat->person) || hd_id_is_zero(&chat->device) || hd_id_is_zero(&chat->request))
        return hd_fail(err, HEARTH_INVALID, "a question needs a person, a device and a request id");
    if (chat->text_len > HD_MAX_TEXT_BYTES || chat->system_len > HD_MAX_SYSTEM_BYTES)
        return hd_fail(err, HEARTH_LIMIT,
                       "the text has %zu bytes (at most %d), the system text %zu (at most %d)",
                       chat->text_len, HD_MAX_TEXT_BYTES, chat->system_len, HD_MAX_SYSTEM_BYTES);
    if (chat->text_len == 0)
        return hd_fail(err, HEARTH_INVALID, "the text is empty");
    if (!hd_utf8_valid(chat->text, chat->text_len) || !hd_utf8_valid(chat->system, chat->system_len))
        return hd_fail(err, HEARTH_INVALID, "the text is not UTF-8");
    if (chat->system_len > 0 && !hd_id_is_zero(&chat->conversation))
        return hd_fail(err, HEARTH_INVALID, "a system text goes only with a new conversation");
    return HEARTH_OK;
}

// The first line with something in it, cut to TITLE_BYTES.
static size_t make_title(const char *text, size_t text_len, char title[TITLE_BYTES + 4])
{
    size_t start = 0, end;
    while (start < text_len && (unsigned char)text[start] <= ' ')
        start++;
    for (end = start; end < text_len && (unsigned char)text[end] >= ' ';)
        end++;
    size_t n = hd_utf8_cut(text + start, end - start, TITLE_BYTES);
    memcpy(title, text + start, n);
    while (n > 0 && title[n - 1] == ' ')
        n--;
    if (start + n < end && end - start > TITLE_BYTES) {
        memcpy(title + n, "\xe2\x80\xa6", 3); // …
        n += 3;
    }
    return n;
}

static enum hearth_status find_conversation(struct hd_store *store, const struct hd_chat *chat,
                                            struct question *q, struct hearth_error *err)
{
    struct hd_person person;
    q->fresh = hd_id_is_zero(&chat->conversation);
    enum hearth_status status = hd_person_get(store, &chat->person, &person, err);
    if (status != HEARTH_OK || q->fresh)
        return status;
    q->ids.conversation = chat->conversation;
    sqlite3_stmt *statement;
    bool row = false;
    int64_t n_turns = 0, n_bytes = 0;
    status = hd_db_prepare(store, &statement, err,
                           "SELECT title IS NOT NULL, (SELECT count(*) FROM turns WHERE conversation = c.id),"
                           " (SELECT max(seq) FROM turns WHERE conversation = c.id),"
                           " (SELECT sum(length(text)) FROM turns WHERE conversation = c.id)"
                           " FROM conversations c WHERE id = ? AND person = ?",
                           "bb", &chat->conversation, &chat->person);
    if (status == HEARTH_OK)
        status = hd_db_step(store, &statement, &row, err);
    if (row) {
        q->titled = sqlite3_column_int(statement, 0) != 0;
        n_turns = sqlite3_column_int64(statement, 1);
        q->next_seq = sqlite3_column_int64(statement, 2) + 1;
        n_bytes = sqlite3_column_int64(statement, 3);
    } else if (status == HEARTH_OK) {
        status = hd_fail(err, HEARTH_NOT_FOUND, "no such conversation");
    }
    hd_db_done(&statement);
    if (status == HEARTH_OK && n_turns + 2 > HD_MAX_TURNS)
        status = hd_fail(err, HEARTH_LIMIT, "the conversation is full: %d turns", HD_MAX_TURNS);
    if (status == HEARTH_OK && n_bytes + (int64_t)chat->text_len > HD_MAX_CONVERSATION_BYTES)
        status = hd_fail(err, HEARTH_LIMIT, "the conversation is full: %d MiB", HD_MAX_CONVERSATION_BYTES >> 20);
    return status;
}

static enum hearth_status make_keys(struct hd_store *store, const struct hd_chat *chat, struct question *q,
                                    struct hearth_error *err)
{
    struct hd_key_spec specs[4];
    size_t n = 0;
    enum hearth_status status = hd_id_random(&q->ids.response, err);
    if (status == HEARTH_OK && q->fresh) {
        status = hd_id_random(&q->ids.conversation, err);
        specs[n++] = (struct hd_key_spec){HD_KEY_CONVERSATION, q->ids.conversation, chat->person};
    }
    if (status == HEARTH_OK && chat->system_len > 0) {
        status = hd_id_random(&q->system_turn, err);
        specs[n++] = (struct hd_key_spec){HD_KEY_TURN, q->system_turn, chat->person};
    }
    if (status == HEARTH_OK)
        status = hd_id_random(&q->ids.user_turn, err);
    if (status == HEARTH_OK)
        status = hd_id_random(&q->ids.assistant_turn, err);
    specs[n++] = (struct hd_key_spec){HD_KEY_TURN, q->ids.user_turn, chat->person};
    specs[n++] = (struct hd_key_spec){HD_KEY_TURN, q->ids.assistant_turn, chat->person};
    return status == HEARTH_OK ? hd_vault_add(store->vault, specs, n, err) : status;
}

static enum hearth_status seal_texts(struct hd_store *store, const struct hd_chat *chat, struct question *q,
                                     struct hearth_error *err)
{
    struct hd_slot slot = turn_slot(&q->ids.user_turn, "text");
    enum hearth_status status =
        seal(store, &q->ids.user_turn, &slot, chat->text, chat->text_len, &q->text, err);
    if (status == HEARTH_OK && chat->system_len > 0) {
        slot = turn_slot(&q->system_turn, "text");
        status = seal(store, &q->system_turn, &slot, chat->system, chat->system_len, &q->system, err);
    }
    if (status == HEARTH_OK && !q->titled) {
        char title[TITLE_BYTES + 4];
        size_t title_len = make_title(chat->text, chat->text_len, title);
        slot = (struct hd_slot){.table = "conversations", .field = "title", .row = q->ids.conversation};
        status = seal(store, &q->ids.user_turn, &slot, title, title_len, &q->title, err);
        hd_wipe(title, sizeof title);
    }
    return status;
}

static enum hearth_status insert_turn(struct hd_store *store, const struct question *q, int64_t seq,
                                      enum hd_role role, const struct hd_id *id, const struct sealed *text,
                                      int64_t now, struct hearth_error *err)
{
    bool answer = role == HD_ROLE_ASSISTANT;
    return hd_db_run(
        store, NULL, err,
        "INSERT INTO turns(id, conversation, parent, seq, role, text, created, finished, response)"
        " VALUES(?, ?, ?, ?, ?, ?, ?, iif(? = 3, NULL, ?), ?)",
        "bbbiixiiib", id, &q->ids.conversation, answer ? &q->ids.user_turn : NULL, seq, (int64_t)role,
        text == NULL ? NULL : text->data, text == NULL ? (size_t)0 : text->len_bytes, now, (int64_t)role, now,
        answer ? &q->ids.response : NULL);
}

// updated_ms is unique for a person, so that it can be a page cursor.
static enum hearth_status next_updated(struct hd_store *store, const struct hd_id *person,
                                       int64_t *updated_ms, struct hearth_error *err)
{
    int64_t last, now = hd_now_ms();
    enum hearth_status status = hd_db_int(
        store, &last, 0, err, "SELECT max(updated) FROM conversations WHERE person = ?", "b", person);
    *updated_ms = now > last ? now : last + 1;
    return status;
}

static enum hearth_status write_question(struct hd_store *store, const struct hd_chat *chat,
                                         const struct question *q, struct hearth_error *err)
{
    int64_t now = hd_now_ms(), updated, seq = q->next_seq;
    enum hearth_status status = next_updated(store, &chat->person, &updated, err);
    if (status == HEARTH_OK && q->fresh)
        status = hd_db_run(store, NULL, err,
                           "INSERT INTO conversations(id, person, created, updated) VALUES(?, ?, ?, ?)",
                           "bbii", &q->ids.conversation, &chat->person, now, updated);
    else if (status == HEARTH_OK)
        status = hd_db_run(store, NULL, err, "UPDATE conversations SET updated = ? WHERE id = ?", "ib",
                           updated, &q->ids.conversation);
    if (status == HEARTH_OK && !q->titled)
        status =
            hd_db_run(store, NULL, err, "UPDATE conversations SET title = ?, title_turn = ? WHERE id = ?",
                      "xbb", q->title.data, q->title.len_bytes, &q->ids.user_turn, &q->ids.conversation);
    if (status == HEARTH_OK && q->system.data != NULL)
        status = insert_turn(store, q, seq++, HD_ROLE_SYSTEM, &q->system_turn, &q->system, now, err);
    if (status == HEARTH_OK)
        status = insert_turn(store, q, seq++, HD_ROLE_USER, &q->ids.user_turn, &q->text, now, err);
    if (status == HEARTH_OK)
        status = insert_turn(store, q, seq, HD_ROLE_ASSISTANT, &q->ids.assistant_turn, NULL, now, err);
    if (status == HEARTH_OK)
        status = hd_db_run(store, NULL, err,
                           "INSERT INTO responses(device, request, response, conversation, user_turn,"
                           " assistant_turn, created) VALUES(?, ?, ?, ?, ?, ?, ?)",
                           "bbbbbbi", &chat->device, &chat->request, &q->ids.response, &q->ids.conversation,
                           &q->ids.user_turn, &q->ids.assistant_turn, now);
    return status;
}

enum hearth_status hd_store_chat_begin(struct hd_store *store, const struct hd_chat *chat,
                                       struct hd_accepted *accepted, struct hearth_error *err)
{
    memset(accepted, 0, sizeof *accepted);
    enum hearth_status status = check_chat(chat, err);
    if (status == HEARTH_OK)
        status = find_request(store, &chat->device, &chat->request, accepted, err);
    if (status != HEARTH_OK || accepted->repeated)
        return status;
    struct question q = {0};
    status = find_conversation(store, chat, &q, err);
    if (status == HEARTH_OK)
        status = make_keys(store, chat, &q, err);
    if (status == HEARTH_OK)
        status = seal_texts(store, chat, &q, err);
    if (status == HEARTH_OK)
        status = hd_db_begin(store, err);
    if (status == HEARTH_OK)
        status = hd_db_end(store, write_question(store, chat, &q, err), err);
    if (status == HEARTH_OK)
        *accepted = q.ids;
    free(q.title.data);
    free(q.system.data);
    free(q.text.data);
    return status;
}

// ---- an answer

static enum hearth_status seal_answer(struct hd_store *store, const struct hd_id *turn, const char *text,
                                      size_t text_len, struct sealed *sealed, struct hearth_error *err)
{
    if (text_len > HD_MAX_ANSWER_BYTES)
        return hd_fail(err, HEARTH_LIMIT, "the answer has %zu bytes, at most %d are stored", text_len,
                       HD_MAX_ANSWER_BYTES);
    size_t whole = hd_utf8_cut(text, text_len, text_len);
    if (!hd_utf8_valid(text, whole))
        return hd_fail(err, HEARTH_INVALID, "the answer is not UTF-8");
    struct hd_slot slot = turn_slot(turn, "text");
    return seal(store, turn, &slot, text, whole, sealed, err);
}

enum hearth_status hd_store_answer_save(struct hd_store *store, const struct hd_id *assistant_turn,
                                        const char *text, size_t text_len, struct hearth_error *err)
{
    struct sealed sealed = {0};
    int changed = 0;
    enum hearth_status status = seal_answer(store, assistant_turn, text, text_len, &sealed, err);
    if (status == HEARTH_OK)
        status =
            hd_db_run(store, &changed, err, "UPDATE turns SET text = ? WHERE id = ? AND finished IS NULL",
                      "xb", sealed.data, sealed.len_bytes, assistant_turn);
    if (status == HEARTH_OK && changed == 0)
        status = hd_fail(err, HEARTH_NOT_FOUND, "no such answer is being written");
    free(sealed.data);
    return status;
}

static enum hearth_status seal_tokens(struct hd_store *store, const struct hd_id *turn,
                                      const int32_t *token_ids, size_t n_tokens, struct sealed *sealed,
                                      struct hearth_error *err)
{
    if (token_ids == NULL)
        return HEARTH_OK;
    if (n_tokens > HD_MAX_ANSWER_TOKENS)
        return hd_fail(err, HEARTH_LIMIT, "the answer has %zu tokens, at most %d are stored", n_tokens,
                       HD_MAX_ANSWER_TOKENS);
    uint8_t *bytes = malloc(4 * n_tokens + 1);
    if (bytes == NULL)
        return hd_fail(err, HEARTH_NOMEM, "out of memory");
    for (size_t i = 0; i < n_tokens; i++)
        for (int k = 0; k < 4; k++)
            bytes[4 * i + (size_t)k] = (uint8_t)((uint32_t)token_ids[i] >> 8 * k);
    struct hd_slot slot = turn_slot(turn, "token_ids");
    enum hearth_status status = seal(store, turn, &slot, bytes, 4 * n_tokens, sealed, err);
    hd_wipe_free(bytes, 4 * n_tokens);
    return status;
}

static enum hearth_status write_answer(struct hd_store *store, const struct hd_id *turn,
                                       const struct sealed *text, const struct sealed *tokens,
                                       const struct hd_usage *usage, struct hearth_error *err)
{
    int changed = 0;
    enum hearth_status status = hd_db_run(
        store, &changed, err,
        "UPDATE turns SET text = ?, token_ids = ?, finished = ?, prompt_tokens = ?, cached_tokens = ?,"
        " completion_tokens = ?, prompt_ms = ?, first_token_ms = ?, completion_ms = ?, seed = ?,"
        " numerics_id = ?, stop_reason = ?, model = ?, model_tag = ? WHERE id = ? AND finished IS NULL",
        "xxiiiidddissssb", text->data, text->len_bytes, tokens->data, tokens->len_bytes, hd_now_ms(),
        (int64_t)usage->prompt_tokens, (int64_t)usage->cached_tokens, (int64_t)usage->completion_tokens,
        usage->prompt_ms, usage->first_token_ms, usage->completion_ms, (int64_t)usage->seed,
        usage->numerics_id, usage->stop_reason, usage->model, usage->model_tag, turn);
    if (status == HEARTH_OK && changed == 0)
        status = hd_fail(err, HEARTH_NOT_FOUND, "no such answer is being written");
    int64_t updated = 0, now = hd_now_ms();
    if (status == HEARTH_OK)
        status = hd_db_int(
            store, &updated, 0, err,
            "SELECT max(updated) FROM conversations WHERE person = (SELECT person FROM conversations"
            " WHERE id = (SELECT conversation FROM turns WHERE id = ?))",
            "b", turn);
    if (status == HEARTH_OK)
        status = hd_db_run(store, NULL, err,
                           "UPDATE conversations SET updated = ? WHERE id = (SELECT conversation FROM turns"
                           " WHERE id = ?)",
                           "ib", now > updated ? now : updated + 1, turn);
    return status;
}

enum hearth_status hd_store_answer_finish(struct hd_store *store, const struct hd_id *assistant_turn,
                                          const char *text, size_t text_len, const int32_t *token_ids,
                                          size_t n_tokens, const struct hd_usage *usage,
                                          struct hearth_error *err)
{
    struct sealed sealed = {0}, tokens = {0};
    enum hearth_status status = seal_answer(store, assistant_turn, text, text_len, &sealed, err);
    if (status == HEARTH_OK)
        status = seal_tokens(store, assistant_turn, token_ids, n_tokens, &tokens, err);
    if (status == HEARTH_OK)
        status = hd_db_begin(store, err);
    if (status == HEARTH_OK)
        status = hd_db_end(store, write_answer(store, assistant_turn, &sealed, &tokens, usage, err), err);
    free(sealed.data);
    free(tokens.data);
    return status;
}
