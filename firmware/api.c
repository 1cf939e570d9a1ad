// SPDX-License-Identifier: Apache-2.0
// Frames from clients: who is it, what is asked, may they. Chat, Cancel and Resume are in api_chat.c. Loop
// thread.
#include <stdlib.h>
#include <string.h>

#include "firmware/learn.h"
#include "firmware/memory.h"
#include "firmware/server.h"

enum { MAX_SOCKETS_PER_DEVICE = 8, MAX_REFUSED = 200 };

// ---- answers

void hd_api_reply(struct hd_client *client, const struct hd_id *request, Hearth__V1__ServerFrame *frame)
{
    if (request && !hd_id_is_zero(request))
        frame->request_id = hd_wire_bytes(request->b, HD_ID_BYTES);
    hd_client_send(client, hd_wire_frame(frame));
}

void hd_api_error(struct hd_client *client, const struct hd_id *request, Hearth__V1__Error__Code code,
                  const char *text)
{
    Hearth__V1__Error error = HEARTH__V1__ERROR__INIT;
    error.code = code;
    error.message = (char *)text;
    Hearth__V1__ServerFrame frame = HEARTH__V1__SERVER_FRAME__INIT;
    frame.body_case = HEARTH__V1__SERVER_FRAME__BODY_ERROR;
    frame.error = &error;
    hd_api_reply(client, request, &frame);
}

Hearth__V1__Error__Code hd_api_code(enum hearth_status status)
{
    switch (status) {
    case HEARTH_NOT_FOUND: return HEARTH__V1__ERROR__CODE__CODE_NOT_FOUND;
    case HEARTH_INVALID: return HEARTH__V1__ERROR__CODE__CODE_INVALID;
    case HEARTH_LIMIT: return HEARTH__V1__ERROR__CODE__CODE_LIMIT;
    case HEARTH_BUSY: return HEARTH__V1__ERROR__CODE__CODE_BUSY;
    case HEARTH_CONTEXT: return HEARTH__V1__ERROR__CODE__CODE_CONTEXT;
    case HEARTH_IO:
    case HEARTH_FORMAT: return HEARTH__V1__ERROR__CODE__CODE_STORAGE;
    case HEARTH_UNSUPPORTED:
    case HEARTH_DEVICE_LOST: return HEARTH__V1__ERROR__CODE__CODE_UNAVAILABLE;
    default: return HEARTH__V1__ERROR__CODE__CODE_INTERNAL;
    }
}

void hd_api_fail(struct hd_client *client, const struct hd_id *request, const struct hearth_error *error)
{
    if (error->code == HEARTH_IO || error->code == HEARTH_FORMAT || error->code == HEARTH_NOMEM)
        hd_log(HD_LOG_ERROR, "a request failed: %s", error->text);
    hd_api_error(client, request, hd_api_code(error->code), error->text);
}

void hd_api_done(struct hd_client *client, const struct hd_id *request)
{
    Hearth__V1__Done done = HEARTH__V1__DONE__INIT;
    Hearth__V1__ServerFrame frame = HEARTH__V1__SERVER_FRAME__INIT;
    frame.body_case = HEARTH__V1__SERVER_FRAME__BODY_DONE;
    frame.done = &done;
    hd_api_reply(client, request, &frame);
}

static void invalid(struct hd_client *client, const struct hd_id *request, const char *text)
{
    hd_api_error(client, request, HEARTH__V1__ERROR__CODE__CODE_INVALID, text);
}

static bool id_field(struct hd_client *client, const struct hd_id *request, struct hd_id *id,
                     ProtobufCBinaryData field, const char *complaint)
{
    if (hd_id_from(id, field.data, field.len))
        return true;
    invalid(client, request, complaint);
    return false;
}

// ---- Hello and Pair

static void fill_welcome(Hearth__V1__Welcome *welcome, char *scopes[3], const struct hd_device *device)
{
    static const uint32_t bits[] = {HD_SCOPE_CHAT, HD_SCOPE_TRAIN, HD_SCOPE_ADMIN};
    welcome->device_id = hd_wire_bytes(device->id.b, HD_ID_BYTES);
    welcome->person = (char *)device->person_name;
    welcome->scopes = scopes;
    for (size_t i = 0; i < sizeof bits / sizeof bits[0]; i++) {
        if (device->scopes & bits[i])
            scopes[welcome->n_scopes++] = (char *)hd_scope_name(bits[i]);
    }
    welcome->server = (char *)"hearthd " HEARTH_VERSION;
    welcome->now_ms = (uint64_t)hd_now_ms();
}

static void wrong_try(struct hd_client *client)
{
    char address[INET6_ADDRSTRLEN + 2];
    enum hd_try try = hd_guard_wrong_try(client->server->guard, &client->address, hd_now_ms());
    if (try == HD_TRY_WAIT_TOLD) {
        hd_address_format(address, &client->address, false);
        hd_log(HD_LOG_WARN, "%s: %d wrong tokens or pairing secrets within a minute; it must wait", address,
               HD_WRONG_TRIES_PER_MINUTE);
    }
    hd_client_close(client, HD_CLOSE_UNAUTHENTICATED,
                    try == HD_TRY_WRONG ? "token or secret unknown" : "too many wrong tries: wait a minute");
}

static void authenticated(struct hd_client *client)
{
    struct hd_connection *connection = lws_get_opaque_user_data(client->wsi);
    client->authenticated = connection->known = true;
    hd_guard_know(client->server->guard, &connection->address);
    lws_set_timer_usecs(client->wsi, LWS_SET_TIMER_USEC_CANCEL);
    if (hd_clients_count(client->server, &client->device.id) > MAX_SOCKETS_PER_DEVICE)
        hd_client_close(client, HD_CLOSE_TOO_MANY, "too many connections of this device");
}

static void hello(struct hd_client *client, const struct hd_id *request, const Hearth__V1__Hello *hello)
{
    struct hearth_error error = {0};
    if (strlen(hello->client) > HD_MAX_NAME_BYTES) {
        hd_client_close(client, HD_CLOSE_BAD_FRAME, "client: at most 64 bytes");
        return;
    }
    enum hearth_status status = hd_device_authenticate(
        client->server->store, hello->token.data, hello->token.len, hello->client, &client->device, &error);
    if (status == HEARTH_NOT_FOUND) {
        wrong_try(client);
        return;
    }
    if (status != HEARTH_OK) {
        hd_api_fail(client, request, &error);
        return;
    }
    authenticated(client);
    char *scopes[3];
    Hearth__V1__Welcome welcome = HEARTH__V1__WELCOME__INIT;
    Hearth__V1__ServerFrame frame = HEARTH__V1__SERVER_FRAME__INIT;
    fill_welcome(&welcome, scopes, &client->device);
    frame.body_case = HEARTH__V1__SERVER_FRAME__BODY_WELCOME;
    frame.welcome = &welcome;
    hd_api_reply(client, request, &frame);
}

static void pair(struct hd_client *client, const struct hd_id *request, const Hearth__V1__Pair *pair)
{
    struct hearth_error error = {0};
    uint8_t token[HD_SECRET_BYTES];
    size_t name_len = strlen(pair->device_name);
    if (name_len < 1 || name_len > HD_MAX_NAME_BYTES || strlen(pair->client) > HD_MAX_NAME_BYTES) {
        hd_client_close(client, HD_CLOSE_BAD_FRAME, "device_name: 1 to 64 bytes; client: at most 64");
        return;
    }
    enum hearth_status status =
        hd_pair_redeem(client->server->store, pair->secret.data, pair->secret.len, pair->device_name,
                       pair->client, &client->device, token, &error);
    if (status == HEARTH_NOT_FOUND) {
        wrong_try(client);
        return;
    }
    if (status != HEARTH_OK) {
        hd_api_fail(client, request, &error);
        return;
    }
    authenticated(client);
    char *scopes[3], id[2 * HD_ID_BYTES + 1];
    Hearth__V1__Welcome welcome = HEARTH__V1__WELCOME__INIT;
    Hearth__V1__Paired paired = HEARTH__V1__PAIRED__INIT;
    Hearth__V1__ServerFrame frame = HEARTH__V1__SERVER_FRAME__INIT;
    fill_welcome(&welcome, scopes, &client->device);
    paired.token = hd_wire_bytes(token, sizeof token);
    paired.welcome = &welcome;
    frame.body_case = HEARTH__V1__SERVER_FRAME__BODY_PAIRED;
    frame.paired = &paired;
    hd_api_reply(client, request, &frame);
    hd_wipe(token, sizeof token);
    hd_hex(id, client->device.id.b, HD_ID_BYTES);
    hd_log(HD_LOG_INFO, "device %s was paired", id);
}

// ---- models and status

static void fill_model(Hearth__V1__Model *model, struct hd_model_file *file)
{
    hearth__v1__model__init(model);
    model->name = file->name;
    model->size_bytes = file->size_bytes;
    model->architecture = file->architecture;
    model->file_type = file->file_type;
    model->sha256 = file->sha256;
    model->context_tokens = file->n_ctx;
    model->in_use = file->in_use;
    model->loaded = file->loaded;
    model->loading = file->loading;
    model->needed_bytes = file->needed_bytes;
    model->fits = file->fits;
    model->problem = file->problem;
}

static void list_models(struct hd_client *client, const struct hd_id *request)
{
    struct hd_model_file *files = NULL;
    struct hearth_error error = {0};
    size_t n = 0;
    if (hd_models_list(client->server, &files, &n, &error) != HEARTH_OK) {
        hd_api_fail(client, request, &error);
        return;
    }
    Hearth__V1__Model *models = calloc(n + 1, sizeof *models), **list = calloc(n + 1, sizeof *list);
    for (size_t i = 0; models && list && i < n; i++) {
        fill_model(&models[i], &files[i]);
        list[i] = &models[i];
    }
    Hearth__V1__ModelList answer = HEARTH__V1__MODEL_LIST__INIT;
    answer.models = list;
    answer.n_models = list && models ? n : 0;
    Hearth__V1__ServerFrame frame = HEARTH__V1__SERVER_FRAME__INIT;
    frame.body_case = HEARTH__V1__SERVER_FRAME__BODY_MODEL_LIST;
    frame.model_list = &answer;
    hd_api_reply(client, request, &frame);
    free(models);
    free(list);
    free(files);
}

static void use_model(struct hd_client *client, const struct hd_id *request, const Hearth__V1__UseModel *use)
{
    struct hearth_error error = {0};
    if (!(client->device.scopes & HD_SCOPE_ADMIN))
        hd_api_error(client, request, HEARTH__V1__ERROR__CODE__CODE_FORBIDDEN,
                     "this device may not choose the model");
    else if (hd_models_use(client->server, use->name, &client->device.id, request, &error) != HEARTH_OK)
        hd_api_fail(client, request, &error);
}

static void fill_loaded(Hearth__V1__Model *model, struct hd_model_state *from, bool in_use)
{
    hearth__v1__model__init(model);
    model->name = from->name;
    model->loading = from->loading;
    model->needed_bytes = from->needed_bytes;
    model->in_use = in_use;
    if (!from->loaded)
        return;
    model->loaded = model->fits = true;
    model->architecture = from->info.architecture;
    model->file_type = from->info.file_type;
    model->size_bytes = from->info.file_bytes;
    model->context_tokens = from->info.n_ctx;
}

// The model in use; it may have made room for another for the moment.
static void fill_in_use(Hearth__V1__Model *model, struct hd_worker_state *state, char name[HD_MAX_MODEL_BYTES + 1])
{
    hd_model_name(state, name);
    model->name = name;
    model->architecture = state->info.architecture;
    model->file_type = state->info.file_type;
    model->size_bytes = state->info.file_bytes;
    model->context_tokens = state->info.n_ctx;
    model->loaded = model->in_use = model->fits = true;
}

static void get_status(struct hd_client *client, const struct hd_id *request)
{
    struct hd_server *server = client->server;
    struct hd_worker_state state;
    hd_worker_state(server->worker, &state);
    Hearth__V1__Model model = HEARTH__V1__MODEL__INIT, models[HD_MAX_LOADED + 1], *list[HD_MAX_LOADED + 1];
    Hearth__V1__Status status = HEARTH__V1__STATUS__INIT;
    status.version = (char *)HEARTH_VERSION;
    status.uptime_ms = (uint64_t)(hd_now_ms() - server->started_ms);
    status.queue_depth = state.queued;
    status.active_responses = (uint32_t)hd_responses_count_running(server->responses);
    status.rss_bytes = hd_memory_resident();
    status.connected_devices = (uint32_t)hd_clients_count(server, NULL);
    status.memory_budget_bytes = state.budget_bytes;
    status.memory_held_bytes = state.held_bytes;
    status.stalled = state.stalled;
    for (unsigned i = 0; i < state.n_models; i++) {
        fill_loaded(&models[i], &state.models[i], strcmp(state.models[i].path, state.path) == 0);
        list[i] = &models[i];
    }
    status.models = list;
    status.n_models = state.n_models;
    char name[HD_MAX_MODEL_BYTES + 1];
    if (state.loaded) {
        fill_in_use(&model, &state, name);
        status.model = &model;
        status.device = state.info.device;
    }
    Hearth__V1__TrainStatus training;
    hd_learn_fill(hd_learn_view(server->learn), &client->device.person, false, &training, NULL);
    status.training = &training;
    Hearth__V1__ServerFrame frame = HEARTH__V1__SERVER_FRAME__INIT;
    frame.body_case = HEARTH__V1__SERVER_FRAME__BODY_STATUS;
    frame.status = &status;
    hd_api_reply(client, request, &frame);
}

static void ping(struct hd_client *client, const struct hd_id *request, const Hearth__V1__Ping *ping)
{
    if (ping->payload.len > HD_MAX_PING_BYTES) {
        hd_api_error(client, request, HEARTH__V1__ERROR__CODE__CODE_LIMIT, "payload: at most 64 bytes");
        return;
    }
    Hearth__V1__Pong pong = HEARTH__V1__PONG__INIT;
    pong.payload = ping->payload;
    Hearth__V1__ServerFrame frame = HEARTH__V1__SERVER_FRAME__INIT;
    frame.body_case = HEARTH__V1__SERVER_FRAME__BODY_PONG;
    frame.pong = &pong;
    hd_api_reply(client, request, &frame);
}

// ---- conversations

static void delete_turn(struct hd_client *client, const struct hd_id *request,
                        const Hearth__V1__DeleteTurn *body)
{
    struct hd_id turn;
    struct hd_deleted deleted = {0};
    struct hearth_error error = {0};
    if (!id_field(client, request, &turn, body->turn_id, "turn_id: 16 bytes"))
        return;
    enum hearth_status status =
        hd_store_turn_delete(client->server->store, &client->device.person, &turn, &deleted, &error);
    hd_api_forget_turns(client->server, &deleted, &client->device.person, NULL);
    hd_deleted_free(&deleted);
    if (status == HEARTH_OK)
        hd_api_done(client, request);
    else
        hd_api_fail(client, request, &error);
}

static void delete_conversation(struct hd_client *client, const struct hd_id *request,
                                const Hearth__V1__DeleteConversation *body)
{
    struct hd_id conversation;
    struct hd_deleted deleted = {0};
    struct hearth_error error = {0};
    if (!id_field(client, request, &conversation, body->conversation_id, "conversation_id: 16 bytes"))
        return;
    enum hearth_status status = hd_store_conversation_delete(client->server->store, &client->device.person,
                                                             &conversation, &deleted, &error);
    hd_api_forget_turns(client->server, &deleted, &client->device.person, &conversation);
    hd_deleted_free(&deleted);
    if (status == HEARTH_OK)
        hd_api_done(client, request);
    else
        hd_api_fail(client, request, &error);
}

static void rename_conversation(struct hd_client *client, const struct hd_id *request,
                                const Hearth__V1__RenameConversation *body)
{
    struct hd_id conversation;
    struct hearth_error error = {0};
    size_t len = strlen(body->title);
    if (!id_field(client, request, &conversation, body->conversation_id, "conversation_id: 16 bytes"))
        return;
    if (len < 1 || len > HD_MAX_TITLE_BYTES)
        hd_api_error(client, request, HEARTH__V1__ERROR__CODE__CODE_LIMIT, "title: 1 to 200 bytes");
    else if (hd_store_conversation_rename(client->server->store, &client->device.person, &conversation,
                                          body->title, len, &error) != HEARTH_OK)
        hd_api_fail(client, request, &error);
    else
        hd_api_done(client, request);
}

// ---- dispatch

static bool needs_chat_scope(Hearth__V1__ClientFrame__BodyCase body)
{
    return body >= HEARTH__V1__CLIENT_FRAME__BODY_CHAT &&
           body <= HEARTH__V1__CLIENT_FRAME__BODY_DELETE_CONVERSATION &&
           body != HEARTH__V1__CLIENT_FRAME__BODY_LIST_MODELS &&
           body != HEARTH__V1__CLIENT_FRAME__BODY_USE_MODEL;
}

static void dispatch(struct hd_client *client, const struct hd_id *request,
                     const Hearth__V1__ClientFrame *frame)
{
    if (needs_chat_scope(frame->body_case) && !(client->device.scopes & HD_SCOPE_CHAT)) {
        hd_api_error(client, request, HEARTH__V1__ERROR__CODE__CODE_FORBIDDEN, "this device may not chat");
        return;
    }
    hd_device_seen(client->server->store, &client->device.id);
    switch (frame->body_case) {
    case HEARTH__V1__CLIENT_FRAME__BODY_CHAT: hd_api_chat(client, request, frame->chat); break;
    case HEARTH__V1__CLIENT_FRAME__BODY_CANCEL: hd_api_cancel(client, request, frame->cancel); break;
    case HEARTH__V1__CLIENT_FRAME__BODY_RESUME: hd_api_resume(client, request, frame->resume); break;
    case HEARTH__V1__CLIENT_FRAME__BODY_LIST_MODELS: list_models(client, request); break;
    case HEARTH__V1__CLIENT_FRAME__BODY_USE_MODEL: use_model(client, request, frame->use_model); break;
    case HEARTH__V1__CLIENT_FRAME__BODY_LIST_CONVERSATIONS:
        hd_api_list_conversations(client, request, frame->list_conversations);
        break;
    case HEARTH__V1__CLIENT_FRAME__BODY_GET_CONVERSATION:
        hd_api_get_conversation(client, request, frame->get_conversation);
        break;
    case HEARTH__V1__CLIENT_FRAME__BODY_RENAME_CONVERSATION:
        rename_conversation(client, request, frame->rename_conversation);
        break;
    case HEARTH__V1__CLIENT_FRAME__BODY_DELETE_TURN: delete_turn(client, request, frame->delete_turn); break;
    case HEARTH__V1__CLIENT_FRAME__BODY_DELETE_CONVERSATION:
        delete_conversation(client, request, frame->delete_conversation);
        break;
    case HEARTH__V1__CLIENT_FRAME__BODY_GET_STATUS: get_status(client, request); break;
    case HEARTH__V1__CLIENT_FRAME__BODY_PING: ping(client, request, frame->ping); break;
    case HEARTH__V1__CLIENT_FRAME__BODY_TRAIN_START: hd_api_train_start(client, request, frame->train_start); break;
    case HEARTH__V1__CLIENT_FRAME__BODY_TRAIN_STOP: hd_api_train_stop(client, request, frame->train_stop); break;
    case HEARTH__V1__CLIENT_FRAME__BODY_TRAIN_FOLLOW: hd_api_train_follow(client, request); break;
    case HEARTH__V1__CLIENT_FRAME__BODY_IMPORT_CONVERSATIONS:
        hd_api_import_conversations(client, request, frame->import_conversations);
        break;
    case HEARTH__V1__CLIENT_FRAME__BODY_LIST_DATA_SETS: hd_api_list_data_sets(client, request); break;
    case HEARTH__V1__CLIENT_FRAME__BODY_DELETE_DATA_SET:
        hd_api_delete_data_set(client, request, frame->delete_data_set);
        break;
    case HEARTH__V1__CLIENT_FRAME__BODY_LIST_ADAPTERS: hd_api_list_adapters(client, request); break;
    case HEARTH__V1__CLIENT_FRAME__BODY_USE_ADAPTER: hd_api_use_adapter(client, request, frame->use_adapter); break;
    case HEARTH__V1__CLIENT_FRAME__BODY_HELLO:
    case HEARTH__V1__CLIENT_FRAME__BODY_PAIR:
        invalid(client, request, "this connection is authenticated already");
        break;
    default:
        hd_api_error(client, request, HEARTH__V1__ERROR__CODE__CODE_UNIMPLEMENTED,
                     "this box does not know that request");
        break;
    }
}

static void first_frame(struct hd_client *client, const struct hd_id *request,
                        const Hearth__V1__ClientFrame *frame)
{
    if (frame->body_case == HEARTH__V1__CLIENT_FRAME__BODY_HELLO)
        hello(client, request, frame->hello);
    else if (frame->body_case == HEARTH__V1__CLIENT_FRAME__BODY_PAIR)
        pair(client, request, frame->pair);
    else
        hd_client_close(client, HD_CLOSE_UNAUTHENTICATED, "the first frame is Hello or Pair");
}

// True when the device asks too fast; who goes on regardless is shown out.
static bool too_fast(struct hd_client *client)
{
    if (!hd_guard_too_fast(client->server->guard, &client->device.id, hd_now_ms())) {
        client->refused = 0;
        return false;
    }
    if (++client->refused > MAX_REFUSED)
        hd_client_close(client, HD_CLOSE_TOO_MANY, "too many frames");
    return true;
}

void hd_api_frame(struct hd_client *client, const uint8_t *data, size_t len_bytes)
{
    struct hd_message message;
    struct hearth_error error = {0};
    struct hd_id request = {{0}};
    bool fast = client->authenticated && too_fast(client);
    enum hearth_status status = hd_wire_decode(&message, data, len_bytes, &error);
    if (client->close_code) {
        hd_wire_release(&message);
        return;
    }
    bool has_id = status == HEARTH_OK &&
                  hd_id_from(&request, message.frame->request_id.data, message.frame->request_id.len);
    if (!client->authenticated && !has_id)
        hd_client_close(client, HD_CLOSE_UNAUTHENTICATED, "the first frame is Hello or Pair");
    else if (fast)
        hd_api_error(client, &request, HEARTH__V1__ERROR__CODE__CODE_LIMIT, "too many requests: slow down");
    else if (status == HEARTH_FORMAT)
        hd_client_close(client, HD_CLOSE_BAD_FRAME, error.text);
    else if (status != HEARTH_OK)
        hd_api_error(client, &request, HEARTH__V1__ERROR__CODE__CODE_LIMIT, error.text);
    else if (!has_id)
        invalid(client, NULL, "request_id: 16 bytes");
    else if (!client->authenticated)
        first_frame(client, &request, message.frame);
    else
        dispatch(client, &request, message.frame);
    hd_wire_release(&message);
}
