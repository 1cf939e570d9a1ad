// SPDX-License-Identifier: Apache-2.0
// Answers that are being written or have ended lately: their events by seq, and who follows them. Loop thread
// only.
//
// An answer never waits for a follower: events go into a log with a byte cap and to `send`, which queues
// them. A log that was trimmed is told by one ResponseSnapshot. An ended answer stays HD_RESPONSE_KEEP_MS,
// then only its stored turn remains.
#ifndef HD_RESPONSES_H
#define HD_RESPONSES_H
#include "firmware/store.h"
#include "firmware/wire.h"

struct hd_responses;
struct hd_response;

// Queues one event for a socket. `event` is the caller's: take a reference to keep it. It must not change who
// follows.
typedef void hd_response_send_fn(void *user, void *socket, const struct hd_id *request,
                                 struct hd_blob *event);

// NULL when out of memory. max_log_bytes is per response.
struct hd_responses *hd_responses_new(size_t max_responses, size_t max_log_bytes, hd_response_send_fn *send,
                                      void *user);
void hd_responses_free(struct hd_responses **responses);

// NULL when max_responses are running or memory is out; ended ones give way to new ones, oldest first.
struct hd_response *hd_response_open(struct hd_responses *responses, const struct hd_accepted *ids,
                                     const struct hd_id *person);
struct hd_response *hd_response_find(struct hd_responses *responses, const struct hd_id *response);
// The running answer of a conversation; NULL if none.
struct hd_response *hd_response_running(struct hd_responses *responses, const struct hd_id *conversation);
struct hd_response *hd_response_by_turn(struct hd_responses *responses,
                                        const struct hd_id *turn); // user's or assistant's
const struct hd_accepted *hd_response_ids(const struct hd_response *response);
const struct hd_id *hd_response_person(const struct hd_response *response);
bool hd_response_is_running(const struct hd_response *response);
const char *hd_response_text(const struct hd_response *response, size_t *len_bytes); // so far
size_t *
hd_response_saved_len(struct hd_response *response); // the caller's note of how much of the text is on disk
unsigned *hd_response_left_out(struct hd_response *response); // and of turns that were too many for any prompt
size_t hd_responses_count_running(const struct hd_responses *responses);
// The i-th of all, for walks that do not open or prune; NULL at the end.
struct hd_response *hd_response_at(struct hd_responses *responses, size_t i);

// Adds an event: fills in response_id and seq. False when memory is out: the log was emptied, a snapshot will
// tell.
bool hd_response_event(struct hd_responses *responses, struct hd_response *response,
                       Hearth__V1__Event *event);
// Adds text to the answer and its output_text_delta. LIMIT: the answer is full, nothing was added.
enum hearth_status hd_response_append(struct hd_responses *responses, struct hd_response *response,
                                      const char *text, size_t len_bytes, struct hearth_error *err);
// No event follows any more.
void hd_response_end(struct hd_responses *responses, struct hd_response *response, int64_t now_ms);
// Wipes text and events at once (its turn was deleted). Followers are dropped.
void hd_response_forget(struct hd_responses *responses, struct hd_response *response);

// Sends what comes after after_seq, then live events, each with `request`. NOMEM: not attached.
enum hearth_status hd_response_follow(struct hd_responses *responses, struct hd_response *response,
                                      void *socket, const struct hd_id *request, uint64_t after_seq,
                                      struct hearth_error *err);
uint64_t hd_response_last_seq(const struct hd_response *response);
void hd_responses_drop_socket(struct hd_responses *responses, const void *socket);
// Forgets answers that ended long ago.
void hd_responses_prune(struct hd_responses *responses, int64_t now_ms);

// One snapshot event for a response that is only in the store. NULL when out of memory.
struct hd_blob *hd_response_snapshot(const struct hd_id *response, uint64_t seq, const char *text,
                                     bool finished);

#endif
