// SPDX-License-Identifier: Apache-2.0
// A person's own conversations become a data set of theirs, asked for from a device: read one after the other between
// everything else, as lines of the format "messages", into memory without a name, then sealed as any data set. Loop
// thread.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "firmware/learn_internal.h"

// ---- the end

static void tell(struct hd_learn *learn, const struct hearth_error *error)
{
    struct hd_learn_own *own = &learn->own;
    struct hd_client *client = own->client;
    struct hd_id request = own->request;
    if (own->lines)
        fclose(own->lines);
    *own = (struct hd_learn_own){0};
    if (client && error->code == HEARTH_OK)
        hd_api_done(client, &request);
    else if (client)
        hd_api_fail(client, &request, error);
}

static void imported(void *user, const struct hearth_error *error, const struct hd_learnt *item)
{
    (void)item;
    tell(user, error);
}

static enum hearth_status hand_over(struct hd_learn *learn, struct hearth_error *err)
{
    struct hd_learn_own *own = &learn->own;
    int fds[HD_TRAIN_N_DATA] = {-1, -1};
    json_t *counts = json_pack("{s:I, s:I}", "records", (json_int_t)own->n_records, "turns", (json_int_t)own->n_turns);
    bool good = counts && !fflush(own->lines) && (fds[0] = dup(fileno(own->lines))) >= 0;
    enum hearth_status status =
        good ? hd_learn_import_set(learn, own->name, &own->person, fds, counts, true,
                                   (struct hd_learn_waiter){imported, learn}, err)
             : hd_fail(err, HEARTH_NOMEM, "no memory for the conversations");
    json_decref(counts);
    own->handed = status == HEARTH_OK;
    return status;
}

// ---- a conversation

// Turns that teach something: answers that are whole, and what stands before them.
static size_t last_answer(const struct hd_conversation *conversation)
{
    size_t n = conversation->n_turns;
    while (n && !(conversation->turns[n - 1].role == HD_ROLE_ASSISTANT && conversation->turns[n - 1].finished &&
                  conversation->turns[n - 1].text_len))
        n--;
    return n;
}

static json_t *message_of(const struct hd_turn *turn)
{
    static const char *const roles[] = {"", "system", "user", "assistant"};
    json_t *message = json_pack("{s:s, s:s%}", "role", roles[turn->role], "content", turn->text, turn->text_len);
    if (message && turn->role == HD_ROLE_ASSISTANT && !turn->finished &&
        json_object_set_new(message, "weight", json_integer(0))) { // it teaches no end
        json_decref(message);
        return NULL;
    }
    return message;
}

enum hearth_status hd_learn_own_put(struct hd_learn_own *own, const struct hd_conversation *conversation,
                                    struct hearth_error *err)
{
    char id[2 * HD_ID_BYTES + 1];
    size_t n = last_answer(conversation);
    if (!n)
        return HEARTH_OK;
    json_t *messages = json_array();
    bool good = messages != NULL;
    for (size_t i = 0; good && i < n; i++)
        good = !json_array_append_new(messages, message_of(&conversation->turns[i]));
    hd_hex(id, conversation->head.id.b, HD_ID_BYTES);
    json_t *line = json_pack("{s:s, s:o}", "id", id, "messages", messages);
    good = good && line && json_dumpf(line, own->lines, JSON_COMPACT) == 0 && fputc('\n', own->lines) != EOF;
    json_decref(line);
    if (!good)
        return hd_fail(err, HEARTH_NOMEM, "no memory for the conversations");
    own->n_records++;
    own->n_turns += n;
    if (ftell(own->lines) > HD_MAX_SET_BYTES)
        return hd_fail(err, HEARTH_LIMIT, "the conversations are larger than a data set may be");
    return HEARTH_OK;
}

// *more is false when there is none left.
static enum hearth_status next(struct hd_learn *learn, bool *more, struct hearth_error *err)
{
    struct hd_learn_own *own = &learn->own;
    struct hd_store *store = learn->server->store;
    struct hd_conversation_list list = {0};
    struct hd_conversation conversation = {0};
    enum hearth_status status = hd_store_conversation_list(store, &own->person, 1, own->before_ms, &list, err);
    *more = status == HEARTH_OK && list.n > 0;
    if (*more) {
        own->before_ms = list.items[0].updated_ms;
        status = hd_store_conversation_get(store, &own->person, &list.items[0].id, false, &conversation, err);
    }
    hd_conversation_list_free(&list);
    if (*more && status == HEARTH_OK) {
        status = hd_learn_own_put(own, &conversation, err);
        hd_conversation_free(&conversation);
    }
    return status;
}

static void on_turn(lws_sorted_usec_list_t *sul)
{
    struct hd_learn_own *own = lws_container_of(sul, struct hd_learn_own, turn);
    struct hd_learn *learn = own->learn;
    struct hearth_error error = {0};
    bool more;
    enum hearth_status status = next(learn, &more, &error);
    if (status == HEARTH_OK && more) {
        lws_sul_schedule(learn->server->lws, 0, &own->turn, on_turn, 1);
        return;
    }
    if (status == HEARTH_OK && !own->n_records)
        status = hd_fail(&error, HEARTH_INVALID, "there are no conversations to learn from yet");
    if (status == HEARTH_OK)
        status = hand_over(learn, &error);
    error.code = status;
    if (status != HEARTH_OK)
        tell(learn, &error);
}

// ---- the beginning

static enum hearth_status check_unwanted(const struct hd_learn *learn, const char *name, struct hearth_error *err)
{
    for (size_t i = 0; i < learn->n_items; i++) {
        if (learn->items[i].kind != HD_LEARNT_RUN)
            continue;
        json_t *meta = hd_learnt_meta(&learn->items[i], err);
        if (!meta)
            return HEARTH_NOMEM;
        const char *set = json_string_value(json_object_get(meta, "data_set"));
        bool wanted = set && strcmp(set, name) == 0;
        json_decref(meta);
        if (wanted)
            return hd_fail(err, HEARTH_BUSY, "a training that is not done needs %s: let it go on, or discard it", name);
    }
    return HEARTH_OK;
}

enum hearth_status hd_learn_find_old(const struct hd_learn *learn, const char *name, const struct hd_id *person,
                                     const struct hd_learnt **old, struct hearth_error *err)
{
    *old = hd_learn_find(learn, HD_LEARNT_SET, name, NULL);
    if (!*old)
        return HEARTH_OK;
    if (!hd_id_equal(&(*old)->person, person))
        return hd_fail(err, HEARTH_INVALID, "there is a data set of that name already");
    if (hd_learn_uses(learn, &(*old)->id))
        return hd_fail(err, HEARTH_BUSY, "the training that runs needs %s: stop it first", name);
    return check_unwanted(learn, name, err);
}

enum hearth_status hd_learn_import_own(struct hd_learn *learn, const char *name, struct hd_client *client,
                                       const struct hd_id *request, struct hearth_error *err)
{
    struct hd_learn_own *own = &learn->own;
    if (own->lines)
        return hd_fail(err, HEARTH_BUSY, "other conversations are being read: try again in a moment");
    if (!hd_learnt_name_ok(name))
        return hd_fail(err, HEARTH_INVALID, "a name has 1 to 64 letters, digits, '.', '_' or '-', not first");
    const struct hd_learnt *old;
    enum hearth_status status = hd_learn_find_old(learn, name, &client->device.person, &old, err);
    if (status != HEARTH_OK)
        return status;
    int fd = memfd_create("hearth", MFD_CLOEXEC);
    FILE *lines = fd < 0 ? NULL : fdopen(fd, "w+e");
    if (!lines) {
        if (fd >= 0)
            close(fd);
        return hd_fail(err, HEARTH_NOMEM, "no memory for the conversations");
    }
    *own = (struct hd_learn_own){.learn = learn, .lines = lines, .client = client, .request = *request,
                                 .person = client->device.person};
    snprintf(own->name, sizeof own->name, "%s", name);
    lws_sul_schedule(learn->server->lws, 0, &own->turn, on_turn, 1);
    return HEARTH_OK;
}

void hd_learn_own_stop(struct hd_learn *learn, const char *why)
{
    struct hearth_error error = {0};
    if (!learn->own.lines || learn->own.handed) // then its key says whether it may still become a data set
        return;
    lws_sul_cancel(&learn->own.turn);
    hd_fail(&error, HEARTH_BUSY, "%s", why);
    tell(learn, &error);
}
