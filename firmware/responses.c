// SPDX-License-Identifier: Apache-2.0
// Response logs and followers (see responses.h). Loop thread only.
#include "firmware/responses.h"

#include <stdlib.h>
#include <string.h>

#include "firmware/limits.h"

struct entry {
    struct entry *next;
    uint64_t seq;
    struct hd_blob *blob;
};

struct follower {
    struct follower *next;
    void *socket;
    struct hd_id request;
};

struct hd_response {
    struct hd_accepted ids;
    struct hd_id person;
    bool running;
    int64_t ended_ms;
    uint64_t order; // of opening
    uint64_t last_seq;
    struct entry *first, *last; // the log: consecutive seqs up to last_seq, or empty
    size_t log_bytes;
    char *text; // the answer so far, NUL-terminated
    size_t text_len, text_capacity;
    size_t saved_len;
    unsigned left_out;
    struct follower *followers;
};

struct hd_responses {
    struct hd_response **items;
    size_t n, capacity;
    size_t max_log_bytes;
    uint64_t opened;
    hd_response_send_fn *send;
    void *user;
};

struct hd_responses *hd_responses_new(size_t max_responses, size_t max_log_bytes, hd_response_send_fn *send,
                                      void *user)
{
    struct hd_responses *r = calloc(1, sizeof *r);
    struct hd_response **items = r ? calloc(max_responses, sizeof(struct hd_response *)) : NULL;
    if (!items) {
        free(r);
        return NULL;
    }
    *r = (struct hd_responses){.items = items,
                               .capacity = max_responses,
                               .max_log_bytes = max_log_bytes,
                               .send = send,
                               .user = user};
    return r;
}

static void drop_first(struct hd_response *response)
{
    struct entry *entry = response->first;
    response->first = entry->next;
    if (!response->first)
        response->last = NULL;
    response->log_bytes -= entry->blob->len_bytes;
    hd_blob_unref(entry->blob);
    free(entry);
}

static void drop_log(struct hd_response *response)
{
    while (response->first)
        drop_first(response);
}

static void drop_followers(struct hd_response *response)
{
    for (struct follower *f = response->followers, *next; f; f = next) {
        next = f->next;
        free(f);
    }
    response->followers = NULL;
}

static void response_free(struct hd_response *response)
{
    drop_log(response);
    drop_followers(response);
    hd_wipe_free(response->text, response->text_capacity);
    free(response);
}

void hd_responses_free(struct hd_responses **responses)
{
    struct hd_responses *r = *responses;
    if (!r)
        return;
    for (size_t i = 0; i < r->n; i++)
        response_free(r->items[i]);
    free(r->items);
    free(r);
    *responses = NULL;
}

static void remove_at(struct hd_responses *r, size_t i)
{
    response_free(r->items[i]);
    r->items[i] = r->items[--r->n];
}

// Makes room: the response that ended first goes.
static bool make_room(struct hd_responses *r)
{
    if (r->n < r->capacity)
        return true;
    size_t oldest = r->n;
    for (size_t i = 0; i < r->n; i++) {
        if (!r->items[i]->running && (oldest == r->n || r->items[i]->order < r->items[oldest]->order))
            oldest = i;
    }
    if (oldest == r->n)
        return false;
    remove_at(r, oldest);
    return true;
}

struct hd_response *hd_response_open(struct hd_responses *r, const struct hd_accepted *ids,
                                     const struct hd_id *person)
{
    struct hd_response *response = make_room(r) ? calloc(1, sizeof *response) : NULL;
    if (!response)
        return NULL;
    response->ids = *ids;
    response->person = *person;
    response->running = true;
    response->order = ++r->opened;
    r->items[r->n++] = response;
    return response;
}

struct hd_response *hd_response_find(struct hd_responses *r, const struct hd_id *id)
{
    for (size_t i = 0; i < r->n; i++) {
        if (hd_id_equal(&r->items[i]->ids.response, id))
            return r->items[i];
    }
    return NULL;
}

struct hd_response *hd_response_running(struct hd_responses *r, const struct hd_id *conversation)
{
    for (size_t i = 0; i < r->n; i++) {
        if (r->items[i]->running && hd_id_equal(&r->items[i]->ids.conversation, conversation))
            return r->items[i];
    }
    return NULL;
}

struct hd_response *hd_response_by_turn(struct hd_responses *r, const struct hd_id *turn)
{
    for (size_t i = 0; i < r->n; i++) {
        const struct hd_accepted *ids = &r->items[i]->ids;
        if (hd_id_equal(&ids->user_turn, turn) || hd_id_equal(&ids->assistant_turn, turn))
            return r->items[i];
    }
    return NULL;
}

const struct hd_accepted *hd_response_ids(const struct hd_response *response)
{
    return &response->ids;
}

const struct hd_id *hd_response_person(const struct hd_response *response)
{
    return &response->person;
}

bool hd_response_is_running(const struct hd_response *response)
{
    return response->running;
}

const char *hd_response_text(const struct hd_response *response, size_t *len_bytes)
{
    *len_bytes = response->text_len;
    return response->text ? response->text : "";
}

size_t *hd_response_saved_len(struct hd_response *response)
{
    return &response->saved_len;
}

unsigned *hd_response_left_out(struct hd_response *response)
{
    return &response->left_out;
}

uint64_t hd_response_last_seq(const struct hd_response *response)
{
    return response->last_seq;
}

size_t hd_responses_count_running(const struct hd_responses *r)
{
    size_t n = 0;
    for (size_t i = 0; i < r->n; i++)
        n += r->items[i]->running;
    return n;
}

struct hd_response *hd_response_at(struct hd_responses *r, size_t i)
{
    return i < r->n ? r->items[i] : NULL;
}

// ---- events

bool hd_response_event(struct hd_responses *r, struct hd_response *response, Hearth__V1__Event *event)
{
    event->response_id = hd_wire_bytes(response->ids.response.b, HD_ID_BYTES);
    event->seq = ++response->last_seq;
    struct hd_blob *blob = hd_wire_event(event);
    struct entry *entry = blob ? malloc(sizeof *entry) : NULL;
    if (!entry) {
        hd_blob_unref(blob);
        drop_log(response); // the log must not have a gap
        return false;
    }
    *entry = (struct entry){.seq = event->seq, .blob = blob};
    if (response->last)
        response->last->next = entry;
    else
        response->first = entry;
    response->last = entry;
    response->log_bytes += blob->len_bytes;
    hd_blob_ref(blob); // followers are told below, although the log may let go of it first
    while (response->first && response->log_bytes > r->max_log_bytes)
        drop_first(response);
    for (struct follower *f = response->followers, *next; f; f = next) {
        next = f->next; // sending may end the socket, and with it this follower
        r->send(r->user, f->socket, &f->request, blob);
    }
    hd_blob_unref(blob);
    return true;
}

static bool reserve_text(struct hd_response *response, size_t more)
{
    size_t need = response->text_len + more + 1;
    if (need <= response->text_capacity)
        return true;
    size_t capacity = response->text_capacity ? response->text_capacity : 1024;
    while (capacity < need)
        capacity *= 2;
    char *text = malloc(capacity); // not realloc: the old copy is wiped
    if (!text)
        return false;
    if (response->text)
        memcpy(text, response->text, response->text_len);
    hd_wipe_free(response->text, response->text_capacity);
    response->text = text;
    response->text_capacity = capacity;
    return true;
}

enum hearth_status hd_response_append(struct hd_responses *r, struct hd_response *response, const char *text,
                                      size_t len_bytes, struct hearth_error *err)
{
    if (len_bytes > HD_MAX_RESPONSE_TEXT_BYTES - response->text_len)
        return hd_fail(err, HEARTH_LIMIT, "the answer is longer than %d bytes", HD_MAX_RESPONSE_TEXT_BYTES);
    if (!reserve_text(response, len_bytes))
        return hd_fail(err, HEARTH_NOMEM, "no memory for the answer");
    char *delta = response->text + response->text_len;
    memcpy(delta, text, len_bytes);
    delta[len_bytes] = 0;
    response->text_len += len_bytes;
    Hearth__V1__OutputTextDelta body = HEARTH__V1__OUTPUT_TEXT_DELTA__INIT;
    body.delta = delta;
    Hearth__V1__Event event = HEARTH__V1__EVENT__INIT;
    event.event_case = HEARTH__V1__EVENT__EVENT_OUTPUT_TEXT_DELTA;
    event.output_text_delta = &body;
    hd_response_event(r, response, &event);
    return HEARTH_OK;
}

void hd_response_end(struct hd_responses *r, struct hd_response *response, int64_t now_ms)
{
    (void)r;
    response->running = false;
    response->ended_ms = now_ms;
    drop_followers(response);
}

void hd_response_forget(struct hd_responses *r, struct hd_response *response)
{
    for (size_t i = 0; i < r->n; i++) {
        if (r->items[i] == response) {
            remove_at(r, i);
            return;
        }
    }
}

// ---- followers

struct hd_blob *hd_response_snapshot(const struct hd_id *response, uint64_t seq, const char *text,
                                     bool finished)
{
    Hearth__V1__ResponseSnapshot body = HEARTH__V1__RESPONSE_SNAPSHOT__INIT;
    body.text = (char *)text;
    body.finished = finished;
    Hearth__V1__Event event = HEARTH__V1__EVENT__INIT;
    event.response_id = hd_wire_bytes(response->b, HD_ID_BYTES);
    event.seq = seq;
    event.event_case = HEARTH__V1__EVENT__EVENT_RESPONSE_SNAPSHOT;
    event.response_snapshot = &body;
    return hd_wire_event(&event);
}

static bool send_missed(struct hd_responses *r, struct hd_response *response, void *socket,
                        const struct hd_id *request, uint64_t after_seq)
{
    uint64_t first = response->first ? response->first->seq : response->last_seq + 1;
    if (after_seq >= first - 1) {
        for (struct entry *e = response->first; e; e = e->next) {
            if (e->seq > after_seq)
                r->send(r->user, socket, request, e->blob);
        }
        return true;
    }
    struct hd_blob *blob = hd_response_snapshot(&response->ids.response, response->last_seq,
                                                response->text ? response->text : "", !response->running);
    if (!blob)
        return false;
    r->send(r->user, socket, request, blob);
    hd_blob_unref(blob);
    return true;
}

enum hearth_status hd_response_follow(struct hd_responses *r, struct hd_response *response, void *socket,
                                      const struct hd_id *request, uint64_t after_seq,
                                      struct hearth_error *err)
{
    for (struct follower *f = response->followers; f; f = f->next) {
        if (f->socket == socket) { // once per socket: the newest request carries on
            f->request = *request;
            if (!send_missed(r, response, socket, request, after_seq))
                return hd_fail(err, HEARTH_NOMEM, "no memory to tell the answer so far");
            return HEARTH_OK;
        }
    }
    struct follower *follower = response->running ? calloc(1, sizeof *follower) : NULL;
    if (response->running && !follower)
        return hd_fail(err, HEARTH_NOMEM, "no memory to follow the answer");
    if (!send_missed(r, response, socket, request, after_seq)) {
        free(follower);
        return hd_fail(err, HEARTH_NOMEM, "no memory to tell the answer so far");
    }
    if (follower) {
        *follower = (struct follower){response->followers, socket, *request};
        response->followers = follower;
    }
    return HEARTH_OK;
}

void hd_responses_drop_socket(struct hd_responses *r, const void *socket)
{
    for (size_t i = 0; i < r->n; i++) {
        for (struct follower **link = &r->items[i]->followers; *link;) {
            struct follower *f = *link;
            if (f->socket == socket) {
                *link = f->next;
                free(f);
            } else {
                link = &f->next;
            }
        }
    }
}

void hd_responses_prune(struct hd_responses *r, int64_t now_ms)
{
    for (size_t i = r->n; i-- > 0;) {
        struct hd_response *response = r->items[i];
        if (!response->running && now_ms - response->ended_ms >= HD_RESPONSE_KEEP_MS)
            remove_at(r, i);
    }
}
