// SPDX-License-Identifier: Apache-2.0
// Training, data sets and adapters on the wire. Loop thread.
#include <stdlib.h>
#include <string.h>

#include "firmware/learn.h"

static bool may(struct hd_client *client, const struct hd_id *request, uint32_t scope)
{
    if (client->device.scopes & scope)
        return true;
    hd_api_error(client, request, HEARTH__V1__ERROR__CODE__CODE_FORBIDDEN,
                 scope == HD_SCOPE_TRAIN ? "this device may not train" : "this device may not chat");
    return false;
}

static bool learns(struct hd_client *client, const struct hd_id *request)
{
    if (client->server->learn)
        return true;
    hd_api_error(client, request, HEARTH__V1__ERROR__CODE__CODE_UNAVAILABLE, "this box cannot learn");
    return false;
}

// ---- training

static void put_text(json_t *ask, const char *key, const char *text)
{
    if (text[0])
        json_object_set_new(ask, key, json_string(text));
}

static void put_count(json_t *ask, const char *key, const Hearth__V1__OptionalUint32 *value)
{
    if (value)
        json_object_set_new(ask, key, json_integer(value->value));
}

static void put_real(json_t *ask, const char *key, const Hearth__V1__OptionalDouble *value)
{
    if (value)
        json_object_set_new(ask, key, json_real(value->value)); // NULL for what is no number: "is missing"
}

static json_t *ask_of(const Hearth__V1__TrainStart *body)
{
    static const char *const precisions[] = {"", "f32", "bf16"}, *const moments[] = {"", "8bit"};
    json_t *ask = json_object();
    char seed[24];
    put_text(ask, "data_set", body->data_set);
    put_text(ask, "adapter", body->adapter);
    put_text(ask, "model", body->model);
    put_text(ask, "init", body->init);
    put_text(ask, "targets", body->targets);
    put_text(ask, "precision", (unsigned)body->precision < 3 ? precisions[body->precision] : "unknown");
    put_text(ask, "moments", (unsigned)body->moments < 2 ? moments[body->moments] : "unknown");
    put_count(ask, "rank", body->rank);
    put_count(ask, "seq", body->seq);
    put_count(ask, "batch", body->batch);
    put_real(ask, "alpha", body->alpha);
    put_real(ask, "lr", body->lr);
    put_real(ask, "epochs", body->epochs);
    put_real(ask, "held_out", body->held_out);
    if (body->use)
        json_object_set_new(ask, "use", json_true());
    if (body->checkpointing)
        json_object_set_new(ask, "checkpointing", json_true());
    if (body->max_steps) // beyond what JSON holds it is too many in any case
        json_object_set_new(ask, "max_steps", json_integer(body->max_steps->value < INT64_MAX
                                                               ? (json_int_t)body->max_steps->value
                                                               : INT64_MAX));
    if (body->seed) {
        snprintf(seed, sizeof seed, "%llu", (unsigned long long)body->seed->value);
        json_object_set_new(ask, "seed", json_string(seed));
    }
    return ask;
}

static bool reals_are_numbers(const Hearth__V1__TrainStart *body)
{
    const Hearth__V1__OptionalDouble *const all[] = {body->alpha, body->lr, body->epochs, body->held_out};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (all[i] && !(all[i]->value >= -1e300 && all[i]->value <= 1e300))
            return false;
    return true;
}

void hd_api_train_start(struct hd_client *client, const struct hd_id *request, const Hearth__V1__TrainStart *body)
{
    struct hearth_error error = {0};
    if (!may(client, request, HD_SCOPE_TRAIN) || !learns(client, request))
        return;
    if (!reals_are_numbers(body)) {
        hd_api_error(client, request, HEARTH__V1__ERROR__CODE__CODE_INVALID, "a parameter is no number");
        return;
    }
    json_t *ask = ask_of(body);
    if (hd_learn_train(client->server->learn, ask, &client->device.person, &error) == HEARTH_OK)
        hd_learn_follow(client->server->learn, client, request);
    else
        hd_api_fail(client, request, &error);
    json_decref(ask);
}

void hd_api_train_stop(struct hd_client *client, const struct hd_id *request, const Hearth__V1__TrainStop *body)
{
    struct hearth_error error = {0};
    if (!may(client, request, HD_SCOPE_TRAIN) || !learns(client, request))
        return;
    if (strlen(body->adapter) > HD_MAX_LEARNT_NAME)
        hd_api_error(client, request, HEARTH__V1__ERROR__CODE__CODE_LIMIT, "adapter: at most 64 bytes");
    else if (hd_learn_stop(client->server->learn, body->adapter, body->discard, &client->device.person, &error) ==
             HEARTH_OK)
        hd_api_done(client, request);
    else
        hd_api_fail(client, request, &error);
}

void hd_api_train_follow(struct hd_client *client, const struct hd_id *request)
{
    if (may(client, request, HD_SCOPE_TRAIN))
        hd_learn_follow(client->server->learn, client, request);
}

void hd_api_import_conversations(struct hd_client *client, const struct hd_id *request,
                                 const Hearth__V1__ImportConversations *body)
{
    struct hearth_error error = {0};
    if (!may(client, request, HD_SCOPE_TRAIN) || !learns(client, request))
        return;
    if (strlen(body->data_set) > HD_MAX_LEARNT_NAME)
        hd_api_error(client, request, HEARTH__V1__ERROR__CODE__CODE_LIMIT, "data_set: at most 64 bytes");
    else if (hd_learn_import_own(client->server->learn, body->data_set, client, request, &error) != HEARTH_OK)
        hd_api_fail(client, request, &error);
}

// ---- lists

static uint64_t number(const json_t *meta, const char *key)
{
    json_int_t value = json_integer_value(json_object_get(meta, key));
    return value > 0 ? (uint64_t)value : 0;
}

void hd_api_list_data_sets(struct hd_client *client, const struct hd_id *request)
{
    struct hd_learn *learn = client->server->learn;
    Hearth__V1__DataSet sets[HD_MAX_LEARNT], *list[HD_MAX_LEARNT];
    Hearth__V1__DataSetList answer = HEARTH__V1__DATA_SET_LIST__INIT;
    Hearth__V1__ServerFrame frame = HEARTH__V1__SERVER_FRAME__INIT;
    const struct hd_learnt *item;
    struct hearth_error error = {0};
    if (!may(client, request, HD_SCOPE_TRAIN))
        return;
    for (size_t i = 0; (item = hd_learn_at(learn, i)) != NULL; i++) {
        if (item->kind != HD_LEARNT_SET || !hd_learn_is_visible(item, &client->device.person))
            continue;
        Hearth__V1__DataSet *set = list[answer.n_data_sets] = &sets[answer.n_data_sets];
        json_t *meta = hd_learnt_meta(item, &error);
        if (!meta) {
            hd_api_fail(client, request, &error);
            return;
        }
        hearth__v1__data_set__init(set);
        set->name = (char *)item->name;
        set->created_ms = (uint64_t)item->created_ms;
        set->size_bytes = item->size_bytes;
        set->records = number(meta, "records");
        set->turns = number(meta, "turns");
        set->own = !hd_id_is_zero(&item->person);
        json_decref(meta);
        answer.n_data_sets++;
    }
    answer.data_sets = list;
    frame.body_case = HEARTH__V1__SERVER_FRAME__BODY_DATA_SET_LIST;
    frame.data_set_list = &answer;
    hd_api_reply(client, request, &frame);
}

void hd_api_delete_data_set(struct hd_client *client, const struct hd_id *request,
                            const Hearth__V1__DeleteDataSet *body)
{
    struct hd_learn *learn = client->server->learn;
    const struct hd_id *person = &client->device.person;
    struct hearth_error error = {0};
    if (!may(client, request, HD_SCOPE_TRAIN) || !learns(client, request))
        return;
    const struct hd_learnt *item = hd_learn_find(learn, HD_LEARNT_SET, body->name, person);
    if (strlen(body->name) > HD_MAX_LEARNT_NAME)
        hd_api_error(client, request, HEARTH__V1__ERROR__CODE__CODE_LIMIT, "name: at most 64 bytes");
    else if (item && hd_id_is_zero(&item->person))
        hd_api_error(client, request, HEARTH__V1__ERROR__CODE__CODE_FORBIDDEN,
                     "it is the box's: its owner removes it there (hearth data rm)");
    else if (hd_learn_remove(learn, true, body->name, person, &error) == HEARTH_OK)
        hd_api_done(client, request);
    else
        hd_api_fail(client, request, &error);
}

// The name of the model whose file has this hash; NULL: none here.
static char *model_name(struct hd_model_file *files, size_t n, const char *sha256)
{
    for (size_t i = 0; i < n; i++)
        if (files[i].sha256[0] && strcmp(files[i].sha256, sha256) == 0)
            return files[i].name;
    return NULL;
}

static void fill_adapter(Hearth__V1__Adapter *adapter, const struct hd_learnt *item, const json_t *meta,
                         struct hd_model_file *files, size_t n_files)
{
    const char *base = json_string_value(json_object_get(meta, "base"));
    const char *data_set = json_string_value(json_object_get(meta, "data_set"));
    const char *init = json_string_value(json_object_get(meta, "init"));
    char *model = base ? model_name(files, n_files, base) : NULL;
    hearth__v1__adapter__init(adapter);
    adapter->name = (char *)item->name;
    adapter->created_ms = (uint64_t)item->created_ms;
    adapter->size_bytes = item->size_bytes;
    adapter->rank = (uint32_t)number(meta, "rank");
    adapter->n_params = number(meta, "n_params");
    adapter->own = !hd_id_is_zero(&item->person);
    adapter->scale = 1;
    if (base)
        adapter->base_sha256 = (char *)base;
    if (data_set)
        adapter->data_set = (char *)data_set;
    if (init)
        adapter->init = (char *)init;
    if (model)
        adapter->model = model;
}

static void send_adapters(struct hd_client *client, const struct hd_id *request, struct hd_model_file *files,
                          size_t n_files)
{
    struct hd_learn *learn = client->server->learn;
    Hearth__V1__Adapter adapters[HD_MAX_LEARNT], *list[HD_MAX_LEARNT];
    json_t *metas[HD_MAX_LEARNT];
    Hearth__V1__AdapterList answer = HEARTH__V1__ADAPTER_LIST__INIT;
    Hearth__V1__ServerFrame frame = HEARTH__V1__SERVER_FRAME__INIT;
    struct hd_adapter_choice choice = {0};
    const struct hd_learnt *item;
    struct hearth_error error = {0};
    bool own = false;
    hd_learn_choice(learn, &client->device.person, &choice, &own);
    for (size_t i = 0; !error.code && (item = hd_learn_at(learn, i)) != NULL; i++) {
        if (item->kind != HD_LEARNT_ADAPTER || !hd_learn_is_visible(item, &client->device.person))
            continue;
        size_t n = answer.n_adapters++;
        list[n] = &adapters[n];
        metas[n] = hd_learnt_meta(item, &error);
        fill_adapter(&adapters[n], item, metas[n], files, n_files);
        adapters[n].in_use = hd_id_equal(&item->id, &choice.adapter);
        if (adapters[n].in_use)
            adapters[n].scale = choice.scale;
    }
    answer.adapters = list;
    answer.chosen = own;
    frame.body_case = HEARTH__V1__SERVER_FRAME__BODY_ADAPTER_LIST;
    frame.adapter_list = &answer;
    if (error.code)
        hd_api_fail(client, request, &error);
    else
        hd_api_reply(client, request, &frame);
    for (size_t i = 0; i < answer.n_adapters; i++)
        json_decref(metas[i]);
}

void hd_api_list_adapters(struct hd_client *client, const struct hd_id *request)
{
    struct hd_model_file *files = NULL;
    struct hearth_error error = {0};
    size_t n_files = 0;
    if (!may(client, request, HD_SCOPE_CHAT))
        return;
    if (hd_models_list(client->server, &files, &n_files, &error) == HEARTH_OK)
        send_adapters(client, request, files, n_files);
    else
        hd_api_fail(client, request, &error);
    free(files);
}

void hd_api_use_adapter(struct hd_client *client, const struct hd_id *request, const Hearth__V1__UseAdapter *body)
{
    struct hearth_error error = {0};
    if (!may(client, request, HD_SCOPE_CHAT) || !learns(client, request))
        return;
    if (strlen(body->name) > HD_MAX_LEARNT_NAME)
        hd_api_error(client, request, HEARTH__V1__ERROR__CODE__CODE_LIMIT, "name: at most 64 bytes");
    else if (hd_learn_use(client->server->learn, &client->device.person, body->box_default ? NULL : body->name,
                          body->scale ? body->scale->value : 1, &error) == HEARTH_OK)
        hd_api_done(client, request);
    else
        hd_api_fail(client, request, &error);
}
