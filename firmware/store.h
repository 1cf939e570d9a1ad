// SPDX-License-Identifier: Apache-2.0
// Conversations, turns and answers in SQLite, every text sealed by the vault. Owns hearth.db, box.key,
// turns.keys and hearthd.lock in the state folder. Server loop thread only: no function may be called from
// another thread; the engine thread never touches the store. People, devices and pairing secrets live in the
// same file: people.h.
//
// Every function that takes a person sees only what is that person's; for anything else the answer is
// NOT_FOUND, the same as for what does not exist. Returned texts are valid UTF-8 and NUL-terminated; lengths
// do not count the NUL.
//
// Status → wire: NOT_FOUND → CODE_NOT_FOUND, INVALID → CODE_INVALID, LIMIT → CODE_LIMIT,
// IO and FORMAT → CODE_STORAGE (disk full, damaged file: nothing was stored), NOMEM → CODE_INTERNAL.
// After IO the store stays usable: the failed call changed nothing, a later call may succeed.
#ifndef HD_STORE_H
#define HD_STORE_H
#include "firmware/util.h"

struct hd_store;
struct hd_vault;

// Limits; those of the wire stand in hearth.proto.
enum {
    HD_MAX_TEXT_BYTES = 256 << 10, // what a person says
    HD_MAX_SYSTEM_BYTES = 64 << 10,
    HD_MAX_ANSWER_BYTES = 16 << 20,
    HD_MAX_TITLE_BYTES = 200,
    HD_MAX_MODEL_BYTES = 128,
    HD_MAX_TURNS = 20000, // in a conversation
    HD_MAX_CONVERSATION_BYTES = 16 << 20, // beyond it no question is taken: all of it is read for each
    HD_MAX_ANSWER_TOKENS = 4 << 20,
    HD_MAX_PAGE = 200, // conversations in a list
    HD_DEFAULT_PAGE = 50,
    HD_NUMERICS_ID_BYTES = 64,
    HD_STOP_REASON_BYTES = 16,
    HD_TAG_BYTES = 17,
    HD_PARTIAL_MS = 2000, // save an answer that is being written at most this often
};

enum hd_role { HD_ROLE_SYSTEM = 1, HD_ROLE_USER = 2, HD_ROLE_ASSISTANT = 3 }; // as in hearth.proto

struct hd_store_options {
    const char *dir; // the state folder; must exist, mode 0700
    // Start although keys of stored texts are lost (a damaged or older turns.keys): those texts are removed,
    // with a log line. Otherwise such a start fails with FORMAT and leaves the files alone.
    bool discard_unreadable;
};

// Opens or creates. BUSY: another hearthd has the folder. FORMAT: a file is damaged; it is named and left
// alone. Finishes what a crash left: deletions are completed, answers half written are marked finished with
// what is stored (stop_reason "error").
enum hearth_status hd_store_open(struct hd_store **store, const struct hd_store_options *options,
                                 struct hearth_error *err);
void hd_store_close(struct hd_store **store); // NULL allowed
// Housekeeping, every minute or so: last_seen of devices, expired pairing secrets, old request ids, WAL checkpoint.
enum hearth_status hd_store_tick(struct hd_store *store, struct hearth_error *err);
// Borrowed, as long as the store: for what is sealed outside of it (adapters, data sets, caches).
struct hd_vault *hd_store_vault(struct hd_store *store);

// ---- a question and its answer

struct hd_usage {
    uint32_t prompt_tokens, cached_tokens, completion_tokens;
    double prompt_ms, first_token_ms, completion_ms;
    uint64_t seed;
    char numerics_id[HD_NUMERICS_ID_BYTES]; // NUL-terminated
    char stop_reason[HD_STOP_REASON_BYTES]; // NUL-terminated
    char model[HD_MAX_MODEL_BYTES + 1];     // that answered; "" in answers of old
    char model_tag[HD_TAG_BYTES];           // of which file the token ids are (worker.h)
};

struct hd_chat {
    struct hd_id person, device;
    struct hd_id request;      // unique per device
    struct hd_id conversation; // zero = a new one
    const char *text;          // [1 .. HD_MAX_TEXT_BYTES]
    size_t text_len;
    const char *system; // NULL = none; INVALID with an existing conversation
    size_t system_len;
};
struct hd_accepted {
    struct hd_id response, conversation, user_turn, assistant_turn;
    bool repeated; // this device has sent this request before: ids are those of the first time, nothing was
                   // stored
};
// Stores the question and opens the (empty) answer, all in one transaction, on disk when it returns. A new
// conversation gets its title from the first line of the text.
enum hearth_status hd_store_chat_begin(struct hd_store *store, const struct hd_chat *chat,
                                       struct hd_accepted *accepted, struct hearth_error *err);
// Ids of an earlier hd_store_chat_begin; NOT_FOUND if there was none.
enum hearth_status hd_store_request_find(struct hd_store *store, const struct hd_id *device,
                                         const struct hd_id *request, struct hd_accepted *accepted,
                                         struct hearth_error *err);
// The answer so far, whole, so that a crash loses little; see HD_PARTIAL_MS. May end inside a character: the
// incomplete tail is left out. NOT_FOUND when the turn was deleted meanwhile: then the response should be
// cancelled.
enum hearth_status hd_store_answer_save(struct hd_store *store, const struct hd_id *assistant_turn,
                                        const char *text, size_t text_len, struct hearth_error *err);
// The end. token_ids (may be NULL) are the generated ids, kept so that a turn is never tokenised again.
enum hearth_status hd_store_answer_finish(struct hd_store *store, const struct hd_id *assistant_turn,
                                          const char *text, size_t text_len, const int32_t *token_ids,
                                          size_t n_tokens, const struct hd_usage *usage,
                                          struct hearth_error *err);

// ---- conversations

struct hd_conversation_head {
    struct hd_id id;
    char title[HD_MAX_TITLE_BYTES + 1];
    int64_t created_ms, updated_ms; // updated_ms is unique among a person's conversations: a page cursor
    uint32_t turns;
};
struct hd_conversation_list {
    struct hd_conversation_head *items; // newest first
    size_t n;
    bool more;
};
// limit 0 = HD_DEFAULT_PAGE, at most HD_MAX_PAGE (LIMIT); before_ms 0 = from the newest.
enum hearth_status hd_store_conversation_list(struct hd_store *store, const struct hd_id *person,
                                              uint32_t limit, int64_t before_ms,
                                              struct hd_conversation_list *list, struct hearth_error *err);
void hd_conversation_list_free(struct hd_conversation_list *list); // wipes

struct hd_turn {
    struct hd_id id;
    struct hd_id parent;   // the user's turn that an answer belongs to; zero otherwise
    struct hd_id response; // answers; zero otherwise
    enum hd_role role;
    char *text;
    size_t text_len;
    int32_t *token_ids; // finished answers stored with ids, when asked for; else NULL
    size_t n_tokens;
    int64_t created_ms, finished_ms;
    bool finished; // false only while an answer is being written
    bool has_usage;
    struct hd_usage usage;
};
struct hd_conversation {
    struct hd_conversation_head head;
    struct hd_turn *turns; // oldest first
    size_t n_turns;
};
// All of it, for GetConversation and as the history of a prompt (with_tokens). An unfinished answer is the
// last turn with the text of its last save; callers that hold a newer text show that.
enum hearth_status hd_store_conversation_get(struct hd_store *store, const struct hd_id *person,
                                             const struct hd_id *conversation, bool with_tokens,
                                             struct hd_conversation *out, struct hearth_error *err);
void hd_conversation_free(struct hd_conversation *conversation); // wipes
enum hearth_status hd_store_conversation_rename(struct hd_store *store, const struct hd_id *person,
                                                const struct hd_id *conversation, const char *title,
                                                size_t title_len, struct hearth_error *err);
// For Resume of a response that is no longer in memory: its turn, text included. Free with hd_turn_free.
enum hearth_status hd_store_response_get(struct hd_store *store, const struct hd_id *person,
                                         const struct hd_id *response, struct hd_turn *turn,
                                         struct hd_id *conversation, struct hearth_error *err);
void hd_turn_free(struct hd_turn *turn); // wipes

// ---- deletion: one transaction removes the rows and notes their keys, then the keys are destroyed, and only
// then is success said. A crash in between is completed at the next start. When the first step succeeded and
// the second failed the answer is IO, the texts are no longer shown, and hd_store_tick, a later deletion or
// the next start completes it. Answers that are being written belong to the caller, who cancels them:
// `deleted` names the turns (on IO too).

struct hd_deleted {
    struct hd_id *turns; // malloc'ed; free with hd_deleted_free
    size_t n_turns;
};
// A user's turn goes with the answers to it. An answer or a system turn goes alone.
enum hearth_status hd_store_turn_delete(struct hd_store *store, const struct hd_id *person,
                                        const struct hd_id *turn, struct hd_deleted *deleted,
                                        struct hearth_error *err);
enum hearth_status hd_store_conversation_delete(struct hd_store *store, const struct hd_id *person,
                                                const struct hd_id *conversation, struct hd_deleted *deleted,
                                                struct hearth_error *err);
void hd_deleted_free(struct hd_deleted *deleted);

// ---- the model that answers, remembered over a restart

// `name` has HD_MAX_MODEL_BYTES + 1 bytes; NOT_FOUND when none was chosen yet.
enum hearth_status hd_store_model_get(struct hd_store *store, char *name, struct hearth_error *err);
enum hearth_status hd_store_model_set(struct hd_store *store, const char *name, const char *sha256_hex,
                                      struct hearth_error *err);

// ---- SHA-256 of model files, as long as they are not changed

// NOT_FOUND when it is not known for a file of this identity.
enum hearth_status hd_store_sha256_get(struct hd_store *store, const char *path,
                                       const struct hd_file_identity *identity,
                                       char sha256[HD_SHA256_HEX_BYTES], struct hearth_error *err);
enum hearth_status hd_store_sha256_set(struct hd_store *store, const char *path,
                                       const struct hd_file_identity *identity, const char *sha256,
                                       struct hearth_error *err);

#endif
