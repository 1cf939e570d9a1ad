// SPDX-License-Identifier: Apache-2.0
// Requests of the admin socket about data sets, training and adapters (docs/admin.md). Loop thread.
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "firmware/admin_internal.h"
#include "firmware/learn.h"

// *id = of the person of this name; zero for NULL.
static bool find_person(struct hd_admin_client *client, const char *name, struct hd_id *id)
{
    struct hd_person person = {0};
    struct hearth_error error = {0};
    memset(id, 0, sizeof *id);
    if (!name)
        return true;
    if (hd_person_find(client->server->store, name, &person, &error) != HEARTH_OK) {
        hd_admin_fail(client, &error);
        return false;
    }
    *id = person.id;
    return true;
}

// JSON's null for nobody; NULL when that cannot be told.
static json_t *person_name(struct hd_server *server, const struct hd_id *id)
{
    struct hd_person person;
    struct hearth_error ignored;
    enum hearth_status status = HEARTH_NOT_FOUND;
    if (!hd_id_is_zero(id))
        status = hd_person_get(server->store, id, &person, &ignored);
    return status == HEARTH_OK ? json_string(person.name) : status == HEARTH_NOT_FOUND ? json_null() : NULL;
}

static void ok_or_fail(struct hd_admin_client *client, enum hearth_status status, const struct hearth_error *error)
{
    if (status == HEARTH_OK)
        hd_admin_answer(client, json_pack("{s:b}", "ok", 1));
    else
        hd_admin_fail(client, error);
}

// Name, times, size and what else is remembered of an item. NULL: no memory, and so the answer is none.
static json_t *item_json(struct hd_server *server, const struct hd_learnt *item)
{
    struct hearth_error ignored;
    json_t *out = hd_learnt_meta(item, &ignored);
    bool good = out != NULL;
    char id[2 * HD_ID_BYTES + 1];
    hd_hex(id, item->id.b, HD_ID_BYTES);
    json_object_del(out, "who");
    good = good && !json_object_set_new(out, "id", json_string(id));
    good = good && !json_object_set_new(out, "name", json_string(item->name));
    good = good && !json_object_set_new(out, "person", person_name(server, &item->person));
    good = good && !json_object_set_new(out, "created_ms", json_integer(item->created_ms));
    good = good && !json_object_set_new(out, "size_bytes", json_integer((json_int_t)item->size_bytes));
    if (!good)
        json_decref(out);
    return good ? out : NULL;
}

static json_t *list_json(struct hd_server *server, enum hd_learnt_kind kind)
{
    json_t *list = json_array();
    const struct hd_learnt *item;
    bool good = list != NULL;
    for (size_t i = 0; good && (item = hd_learn_at(server->learn, i)) != NULL; i++)
        good = item->kind != kind || !json_array_append_new(list, item_json(server, item));
    if (!good)
        json_decref(list);
    return good ? list : NULL;
}

// ---- what comes in

static void told(void *user, const struct hearth_error *error, const struct hd_learnt *item)
{
    struct hd_admin_client *client = user;
    client->waits_for_learn = false;
    hd_admin_begin(client);
    if (item)
        hd_admin_answer(client, json_pack("{s:b, s:o}", "ok", 1, "item", item_json(client->server, item)));
    else
        hd_admin_fail(client, error);
}

static int take_fd(struct hd_admin_client *client)
{
    int fd = client->n_fds ? client->fds[0] : -1;
    if (client->n_fds)
        memmove(client->fds, client->fds + 1, --client->n_fds * sizeof client->fds[0]);
    return fd;
}

void hd_admin_data_import(struct hd_admin_client *client, json_t *request)
{
    const char *cmd, *name, *person_name = NULL;
    int messages = 0, text = 0, fds[HD_TRAIN_N_DATA] = {-1, -1};
    json_t *counts;
    struct hd_id person;
    struct hearth_error error = {0};
    if (!hd_admin_unpack(client, request, "{s:s, s:s, s?s, s?b, s?b, s:o}", "cmd", &cmd, "name", &name, "person",
                         &person_name, "messages", &messages, "text", &text, "counts", &counts) ||
        !find_person(client, person_name, &person))
        return;
    if (!json_is_object(counts) || client->n_fds != (unsigned)(messages + text)) {
        hd_admin_error(client, "invalid", "counts: an object; one descriptor for messages and one for text");
        return;
    }
    if (messages)
        fds[0] = take_fd(client);
    if (text)
        fds[1] = take_fd(client);
    if (hd_learn_import_set(client->server->learn, name, &person, fds, counts, false,
                            (struct hd_learn_waiter){told, client}, &error) == HEARTH_OK)
        client->waits_for_learn = true;
    else
        hd_admin_fail(client, &error);
}

// import and export: both have a name and a descriptor.
static void move_adapter(struct hd_admin_client *client, json_t *request,
                         enum hearth_status (*move)(struct hd_learn *learn, const char *name, int fd,
                                                    struct hd_learn_waiter waiter, struct hearth_error *err))
{
    const char *cmd, *name;
    struct hearth_error error = {0};
    if (!hd_admin_unpack(client, request, "{s:s, s:s}", "cmd", &cmd, "name", &name))
        return;
    if (client->n_fds != 1)
        hd_admin_error(client, "invalid", "the adapter's file comes as a descriptor");
    else if (move(client->server->learn, name, take_fd(client), (struct hd_learn_waiter){told, client}, &error) ==
             HEARTH_OK)
        client->waits_for_learn = true;
    else
        hd_admin_fail(client, &error);
}

void hd_admin_adapters_import(struct hd_admin_client *client, json_t *request)
{
    move_adapter(client, request, hd_learn_import_adapter);
}

void hd_admin_adapters_export(struct hd_admin_client *client, json_t *request)
{
    move_adapter(client, request, hd_learn_export_adapter);
}

// ---- data sets

void hd_admin_data_list(struct hd_admin_client *client, json_t *request)
{
    const char *cmd;
    if (!hd_admin_unpack(client, request, "{s:s}", "cmd", &cmd))
        return;
    hd_admin_answer(client, json_pack("{s:b, s:o}", "ok", 1, "data_sets", list_json(client->server, HD_LEARNT_SET)));
}

static void remove_item(struct hd_admin_client *client, json_t *request, bool set)
{
    const char *cmd, *name;
    struct hearth_error error = {0};
    if (!hd_admin_unpack(client, request, "{s:s, s:s}", "cmd", &cmd, "name", &name))
        return;
    if (!client->server->learn)
        hd_admin_error(client, "unavailable", "this box cannot learn");
    else
        ok_or_fail(client, hd_learn_remove(client->server->learn, set, name, NULL, &error), &error);
}

void hd_admin_data_remove(struct hd_admin_client *client, json_t *request)
{
    remove_item(client, request, true);
}

// ---- adapters

// NULL: they cannot be told.
static json_t *choices_json(struct hd_server *server)
{
    static const struct hd_id box;
    struct hd_person *people = NULL;
    struct hearth_error ignored;
    size_t n = 0;
    if (hd_people_list(server->store, &people, &n, &ignored) != HEARTH_OK)
        return NULL;
    json_t *list = json_array();
    for (size_t i = 0; i <= n; i++) { // the box first
        struct hd_adapter_choice choice;
        bool own;
        if (!hd_learn_choice(server->learn, i ? &people[i - 1].id : &box, &choice, &own) || !own)
            continue;
        const struct hd_learnt *item;
        size_t k = 0;
        while ((item = hd_learn_at(server->learn, k)) && !hd_id_equal(&item->id, &choice.adapter))
            k++;
        json_array_append_new(list, json_pack("{s:o, s:o, s:f}", "person",
                                              i ? json_string(people[i - 1].name) : json_null(), "adapter",
                                              item ? json_string(item->name) : json_null(), "scale", choice.scale));
    }
    free(people);
    return list;
}

void hd_admin_adapters_list(struct hd_admin_client *client, json_t *request)
{
    const char *cmd;
    struct hd_server *server = client->server;
    if (!hd_admin_unpack(client, request, "{s:s}", "cmd", &cmd))
        return;
    hd_admin_answer(client, json_pack("{s:b, s:o, s:o, s:o}", "ok", 1, "adapters", list_json(server, HD_LEARNT_ADAPTER),
                                      "trainings", list_json(server, HD_LEARNT_RUN), "choices", choices_json(server)));
}

void hd_admin_adapters_use(struct hd_admin_client *client, json_t *request)
{
    const char *cmd, *name = NULL, *person_name = NULL;
    double scale = 1;
    struct hd_id person;
    struct hearth_error error = {0};
    if (!hd_admin_unpack(client, request, "{s:s, s?s, s?s, s?F}", "cmd", &cmd, "name", &name, "person",
                         &person_name, "scale", &scale) ||
        !find_person(client, person_name, &person))
        return;
    if (!client->server->learn)
        hd_admin_error(client, "unavailable", "this box cannot learn");
    else
        ok_or_fail(client, hd_learn_use(client->server->learn, &person, name, scale, &error), &error);
}

void hd_admin_adapters_remove(struct hd_admin_client *client, json_t *request)
{
    remove_item(client, request, false);
}

// ---- training

void hd_admin_train_start(struct hd_admin_client *client, json_t *request)
{
    struct hearth_error error = {0};
    struct hd_id person;
    json_t *ask = json_copy(request);
    const char *name = json_string_value(json_object_get(ask, "person"));
    if (!find_person(client, name, &person)) {
        json_decref(ask);
        return;
    }
    json_object_del(ask, "cmd");
    json_object_del(ask, "person");
    ok_or_fail(client, hd_learn_train(client->server->learn, ask, name ? &person : NULL, &error), &error);
    json_decref(ask);
}

void hd_admin_train_stop(struct hd_admin_client *client, json_t *request)
{
    const char *cmd, *name = "";
    int discard = 0;
    struct hearth_error error = {0};
    if (!hd_admin_unpack(client, request, "{s:s, s?s, s?b}", "cmd", &cmd, "adapter", &name, "discard", &discard))
        return;
    ok_or_fail(client, hd_learn_stop(client->server->learn, name, discard, NULL, &error), &error);
}

json_t *hd_admin_training(struct hd_server *server)
{
    static const char *const states[] = {"none",       "waiting",  "reading", "stepping", "evaluating",
                                         "stopping",   "stopped",  "done",    "failed"};
    const struct hd_train_view *view = hd_learn_view(server->learn);
    struct hd_worker_state worker;
    hd_worker_state(server->worker, &worker);
    json_t *out = json_pack("{s:s, s:s, s:s, s:s, s:I, s:I, s:f, s:f, s:f, s:f, s:s, s:s, s:I}", "state",
                            states[view->state], "adapter", view->adapter, "data_set", view->data_set, "model",
                            view->model, "step", (json_int_t)view->step.step, "n_steps",
                            (json_int_t)view->step.n_steps, "held_out", view->held_out, "eta_seconds", view->eta_s,
                            "tokens_per_second", view->step.tokens_per_second, "seconds", view->step.seconds,
                            "precision", view->precision, "problem", view->error.text, "memory_bytes",
                            (json_int_t)view->memory_bytes);
    json_object_set_new(out, "loss", json_real(view->step.loss));
    json_object_set_new(out, "slices", json_pack("{s:I, s:f, s:f, s:f}", "n", (json_int_t)worker.train.n_slices,
                                                 "longest_s", worker.train.longest_s, "busy_s", worker.train.busy_s,
                                                 "left_s", worker.train.left_s));
    return out;
}

void hd_admin_train_status(struct hd_admin_client *client, json_t *request)
{
    const char *cmd;
    if (!hd_admin_unpack(client, request, "{s:s}", "cmd", &cmd))
        return;
    hd_admin_answer(client, json_pack("{s:b, s:o}", "ok", 1, "training", hd_admin_training(client->server)));
}
