// SPDX-License-Identifier: Apache-2.0
// The requests of the admin socket (docs/admin.md). Loop thread.
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "firmware/admin_internal.h"
#include "firmware/json_text.h"
#include "firmware/memory.h"

enum { MIN_TTL_S = 10, MAX_TTL_S = 86400, DEFAULT_TTL_S = 600 };

static json_t *hex(const struct hd_id *id)
{
    char text[2 * HD_ID_BYTES + 1];
    hd_hex(text, id->b, HD_ID_BYTES);
    return json_string(text);
}

static json_t *scopes_json(uint32_t scopes)
{
    json_t *list = json_array();
    for (uint32_t bit = 1; bit && bit <= HD_SCOPE_ALL; bit <<= 1) {
        if (scopes & bit)
            json_array_append_new(list, json_string(hd_scope_name(bit)));
    }
    return list;
}

bool hd_admin_unpack(struct hd_admin_client *client, json_t *request, const char *format, ...)
{
    json_error_t error;
    va_list fields;
    va_start(fields, format);
    bool read = !json_vunpack_ex(request, &error, JSON_STRICT, format, fields);
    va_end(fields);
    if (!read)
        hd_admin_error(client, "invalid", error.text);
    return read;
}

static bool find_person(struct hd_admin_client *client, const char *name, struct hd_person *person)
{
    struct hearth_error error = {0};
    if (hd_person_find(client->server->store, name, person, &error) == HEARTH_OK)
        return true;
    hd_admin_fail(client, &error);
    return false;
}

static bool read_id(struct hd_admin_client *client, const char *text, struct hd_id *id)
{
    if (hd_unhex(id->b, HD_ID_BYTES, text))
        return true;
    hd_admin_error(client, "invalid", "an id has 32 hexadecimal digits");
    return false;
}

// ---- status and models

static json_t *model_json(const struct hd_model_file *file)
{
    return json_pack("{s:s, s:s, s:s, s:s, s:I, s:i, s:b, s:b, s:b, s:I, s:b, s:s, s:s}", "name", file->name,
                     "file", file->path, "architecture", file->architecture, "file_type", file->file_type,
                     "size_bytes", (json_int_t)file->size_bytes, "context_tokens", (int)file->n_ctx, "loaded",
                     file->loaded, "in_use", file->in_use, "loading", file->loading, "needed_bytes",
                     (json_int_t)file->needed_bytes, "fits", file->fits, "sha256", file->sha256, "problem",
                     file->problem);
}

json_t *hd_admin_model(struct hd_server *server)
{
    struct hd_worker_state state;
    struct hd_model_file file = {.loaded = true, .in_use = true, .fits = true};
    hd_worker_state(server->worker, &state);
    if (!state.loaded)
        return json_null();
    hd_model_name(&state, file.name);
    memcpy(file.path, state.path, sizeof file.path);
    memcpy(file.architecture, state.info.architecture, sizeof file.architecture);
    memcpy(file.file_type, state.info.file_type, sizeof file.file_type);
    file.size_bytes = state.info.file_bytes;
    file.n_ctx = state.info.n_ctx;
    file.needed_bytes = state.info.weight_bytes + state.info.kv_bytes + state.info.scratch_bytes;
    return model_json(&file);
}

// Those that are loaded or being loaded.
static json_t *loaded_json(const struct hd_worker_state *state)
{
    json_t *list = json_array();
    for (unsigned i = 0; i < state->n_models; i++) {
        const struct hd_model_state *model = &state->models[i];
        json_array_append_new(
            list, json_pack("{s:s, s:s, s:s, s:I, s:i, s:i, s:i, s:b}", "name", model->name, "file", model->path,
                            "state", model->loading ? "loading" : "loaded", "needed_bytes",
                            (json_int_t)model->needed_bytes, "context_tokens", (int)model->info.n_ctx, "queued",
                            (int)model->queued, "active", (int)model->active, "in_use",
                            strcmp(model->path, state->path) == 0));
    }
    return list;
}

static enum hearth_status count_all(struct hd_server *server, size_t *n_people, size_t *n_devices,
                                    struct hearth_error *err)
{
    struct hd_person *people = NULL;
    struct hd_device *devices = NULL;
    enum hearth_status status = hd_people_list(server->store, &people, n_people, err);
    if (status == HEARTH_OK)
        status = hd_devices_list(server->store, NULL, &devices, n_devices, err);
    free(people);
    free(devices);
    return status;
}

static json_t *urls(struct hd_server *server, const char *secret)
{
    char url[600];
    json_t *list = json_array();
    for (size_t i = 0; hd_server_url(server, i, secret, url, sizeof url); i++)
        json_array_append_new(list, json_string(url));
    return list;
}

static void status(struct hd_admin_client *client, json_t *request)
{
    const char *cmd;
    struct hd_server *server = client->server;
    struct hd_worker_state state;
    char fp[33], ca_file[HD_PATH_BYTES + 16];
    size_t n_people, n_devices;
    struct hearth_error error = {0};
    if (!hd_admin_unpack(client, request, "{s:s}", "cmd", &cmd))
        return;
    if (count_all(server, &n_people, &n_devices, &error) != HEARTH_OK) {
        hd_admin_fail(client, &error);
        return;
    }
    hd_worker_state(server->worker, &state);
    hd_hex(fp, server->identity->pin, 16);
    snprintf(ca_file, sizeof ca_file, "%s/tls/ca.crt", server->config->state_dir);
    const char *problem = state.loading      ? "the model is being loaded"
                          : state.problem[0] ? state.problem
                                             : server->model_problem;
    json_t *answer = json_pack(
        "{s:b, s:s, s:i, s:I, s:s, s:s, s:i, s:s, s:o, s:s, s:o, s:o}", "ok", 1, "version", HEARTH_VERSION,
        "pid", (int)getpid(), "uptime_ms", (json_int_t)(hd_now_ms() - server->started_ms), "state_dir",
        server->config->state_dir, "models_dir", server->config->models_dir, "port",
        (int)server->config->port, "listen", server->open_to_all ? "all" : "loopback", "urls",
        urls(server, NULL), "fp", fp, "ca_file",
        server->identity->ca_der ? json_string(ca_file) : json_null(), "model", hd_admin_model(server));
    json_t *more =
        json_pack("{s:o, s:s, s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:I}", "model_error",
                  state.loaded ? json_null() : json_string(problem), "device", state.info.device,
                  "numerics_id", state.info.numerics_id, "queue_depth", (int)state.queued, "active_responses",
                  (int)hd_responses_count_running(server->responses), "engine_active", (int)state.active,
                  "connected_devices", (int)hd_clients_count(server, NULL), "n_people", (int)n_people,
                  "n_devices", (int)n_devices, "rss_bytes", (json_int_t)hd_memory_resident());
    json_t *memory = json_pack("{s:o, s:I, s:I, s:b}", "models", loaded_json(&state), "memory_budget_bytes",
                               (json_int_t)state.budget_bytes, "memory_held_bytes", (json_int_t)state.held_bytes,
                               "stalled", state.stalled);
    json_object_update(answer, memory);
    json_decref(memory);
    json_object_update(answer, more);
    json_decref(more);
    json_object_set_new(answer, "training", hd_admin_training(server));
    hd_admin_answer(client, answer);
}

static void models(struct hd_admin_client *client, json_t *request)
{
    const char *cmd;
    struct hd_model_file *files = NULL;
    struct hearth_error error = {0};
    size_t n = 0;
    if (!hd_admin_unpack(client, request, "{s:s}", "cmd", &cmd))
        return;
    if (hd_models_list(client->server, &files, &n, &error) != HEARTH_OK) {
        hd_admin_fail(client, &error);
        return;
    }
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(list, model_json(&files[i]));
    free(files);
    hd_admin_answer(client, json_pack("{s:b, s:o}", "ok", 1, "models", list));
}

static void use_model(struct hd_admin_client *client, json_t *request)
{
    const char *cmd, *name;
    struct hearth_error error = {0};
    if (!hd_admin_unpack(client, request, "{s:s, s:s}", "cmd", &cmd, "name", &name))
        return;
    if (hd_models_use(client->server, name, NULL, NULL, &error) == HEARTH_OK)
        client->waits_for_model = true;
    else
        hd_admin_fail(client, &error);
}

static void shut_down(struct hd_admin_client *client, json_t *request)
{
    const char *cmd;
    if (!hd_admin_unpack(client, request, "{s:s}", "cmd", &cmd))
        return;
    hd_log(HD_LOG_INFO, "asked to end at the admin socket");
    client->stop_when_sent = true;
    hd_admin_answer(client, json_pack("{s:b}", "ok", 1));
}

// ---- people

static json_t *person_json(const struct hd_person *person)
{
    return json_pack("{s:o, s:s, s:I}", "id", hex(&person->id), "name", person->name, "created_ms",
                     (json_int_t)person->created_ms);
}

static void people_add(struct hd_admin_client *client, json_t *request)
{
    const char *cmd, *name;
    struct hd_person person;
    struct hearth_error error = {0};
    if (!hd_admin_unpack(client, request, "{s:s, s:s}", "cmd", &cmd, "name", &name))
        return;
    if (hd_person_find(client->server->store, name, &person, &error) == HEARTH_OK)
        hd_admin_error(client, "exists", "there is a person of that name already");
    else if (hd_person_add(client->server->store, name, &person, &error) != HEARTH_OK)
        hd_admin_fail(client, &error);
    else
        hd_admin_answer(client, json_pack("{s:b, s:o}", "ok", 1, "person", person_json(&person)));
}

static enum hearth_status count_conversations(struct hd_store *store, const struct hd_id *person, size_t *n,
                                              struct hearth_error *err)
{
    int64_t before_ms = 0;
    struct hd_conversation_list list;
    bool more = true;
    *n = 0;
    while (more) {
        list = (struct hd_conversation_list){0};
        enum hearth_status status =
            hd_store_conversation_list(store, person, HD_MAX_PAGE, before_ms, &list, err);
        if (status != HEARTH_OK)
            return status;
        *n += list.n;
        more = list.more && list.n;
        before_ms = list.n ? list.items[list.n - 1].updated_ms : 0;
        hd_conversation_list_free(&list);
    }
    return HEARTH_OK;
}

static void people_list(struct hd_admin_client *client, json_t *request)
{
    const char *cmd;
    struct hd_store *store = client->server->store;
    struct hd_person *people = NULL;
    struct hearth_error error = {0};
    size_t n = 0;
    if (!hd_admin_unpack(client, request, "{s:s}", "cmd", &cmd))
        return;
    enum hearth_status status = hd_people_list(store, &people, &n, &error);
    json_t *list = json_array();
    for (size_t i = 0; status == HEARTH_OK && i < n; i++) {
        struct hd_device *devices = NULL;
        size_t n_devices, n_conversations;
        status = hd_devices_list(store, &people[i].id, &devices, &n_devices, &error);
        free(devices);
        if (status == HEARTH_OK)
            status = count_conversations(store, &people[i].id, &n_conversations, &error);
        if (status != HEARTH_OK)
            break;
        json_t *person = person_json(&people[i]);
        json_object_set_new(person, "n_devices", json_integer((json_int_t)n_devices));
        json_object_set_new(person, "n_conversations", json_integer((json_int_t)n_conversations));
        json_array_append_new(list, person);
    }
    free(people);
    if (status == HEARTH_OK) {
        hd_admin_answer(client, json_pack("{s:b, s:o}", "ok", 1, "people", list));
    } else {
        json_decref(list);
        hd_admin_fail(client, &error);
    }
}

static void people_remove(struct hd_admin_client *client, json_t *request)
{
    const char *cmd, *name;
    struct hd_person person;
    struct hd_deleted deleted = {0};
    struct hearth_error error = {0};
    if (!hd_admin_unpack(client, request, "{s:s, s:s}", "cmd", &cmd, "person", &name) ||
        !find_person(client, name, &person))
        return;
    enum hearth_status code = hd_person_remove(client->server->store, &person.id, &deleted, &error);
    hd_api_forget_turns(client->server, &deleted, &person.id, NULL);
    hd_deleted_free(&deleted);
    if (code == HEARTH_OK)
        hd_admin_answer(client, json_pack("{s:b}", "ok", 1));
    else
        hd_admin_fail(client, &error);
}

// ---- pairing and devices

static void base64url(char out[48], const uint8_t secret[HD_SECRET_BYTES])
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    size_t n = 0;
    for (size_t bit = 0; bit < HD_SECRET_BYTES * 8; bit += 6) {
        unsigned pair =
            (unsigned)secret[bit / 8] << 8 | (bit / 8 + 1 < HD_SECRET_BYTES ? secret[bit / 8 + 1] : 0u);
        out[n++] = digits[pair >> (10 - bit % 8) & 63];
    }
    out[n] = 0;
}

// 0 after an answer; the default is everything for whoever is invited first and chatting for later ones.
static uint32_t read_scopes(struct hd_admin_client *client, json_t *list)
{
    uint32_t scopes = 0;
    bool ever = true;
    struct hearth_error error = {0};
    if (!list) {
        if (hd_invited(client->server->store, &ever, &error) != HEARTH_OK) {
            hd_admin_fail(client, &error);
            return 0;
        }
        return ever ? HD_SCOPE_CHAT : HD_SCOPE_ALL;
    }
    size_t i;
    json_t *item;
    json_array_foreach(list, i, item)
    {
        uint32_t bit = json_is_string(item) ? hd_scope_from(json_string_value(item)) : 0;
        scopes = bit ? scopes | bit : 0;
        if (!bit)
            break;
    }
    if (!scopes)
        hd_admin_error(client, "invalid", "scopes: an array of \"chat\", \"train\", \"admin\"");
    return scopes;
}

static bool person_for_pairing(struct hd_admin_client *client, const char *name, bool create,
                               struct hd_person *person)
{
    struct hearth_error error = {0};
    enum hearth_status code = hd_person_find(client->server->store, name, person, &error);
    if (code == HEARTH_NOT_FOUND && create)
        code = hd_person_add(client->server->store, name, person, &error);
    if (code != HEARTH_OK)
        hd_admin_fail(client, &error);
    return code == HEARTH_OK;
}

static json_t *addresses(const struct hd_names *names)
{
    char text[INET6_ADDRSTRLEN + 2];
    json_t *list = json_array();
    for (size_t i = 0; i < names->n_ip; i++) {
        if (hd_address_is_loopback(&names->ip[i]))
            continue;
        hd_address_format(text, &names->ip[i], false);
        json_array_append_new(list, json_string(text));
    }
    return list;
}

static void pair(struct hd_admin_client *client, json_t *request)
{
    const char *cmd, *name;
    int ttl_s = DEFAULT_TTL_S, create = 0, local = 0;
    json_t *list = NULL;
    struct hd_server *server = client->server;
    struct hd_person person;
    struct hearth_error error = {0};
    uint8_t secret[HD_SECRET_BYTES];
    char text[48], fp[33];
    if (!hd_admin_unpack(client, request, "{s:s, s:s, s?i, s?b, s?b, s?o}", "cmd", &cmd, "person", &name, "ttl_s",
                         &ttl_s, "create", &create, "local", &local, "scopes", &list))
        return;
    if (ttl_s < MIN_TTL_S || ttl_s > MAX_TTL_S) {
        hd_admin_error(client, "invalid", "ttl_s: 10 to 86400");
        return;
    }
    uint32_t scopes = read_scopes(client, list);
    if (!scopes || !person_for_pairing(client, name, create, &person))
        return;
    int64_t expires_ms = hd_now_ms() + (int64_t)ttl_s * 1000;
    if (hd_pair_create(server->store, &person.id, scopes, (int64_t)ttl_s * 1000, secret, &error) !=
        HEARTH_OK) {
        hd_admin_fail(client, &error);
        return;
    }
    if (!local && hd_invite(server->store, &error) != HEARTH_OK) {
        hd_admin_fail(client, &error);
        return;
    }
    if (!local)
        hd_listen_invited(server);
    base64url(text, secret);
    hd_hex(fp, server->identity->pin, 16);
    json_t *links = urls(server, text);
    hd_admin_answer(client,
                    json_pack("{s:b, s:O, s:o, s:s, s:s, s:s, s:i, s:o, s:I, s:s}", "ok", 1, "link",
                              json_array_get(links, 0), "links", links, "secret", text, "fp", fp, "host",
                              server->open_to_all ? server->names.dns[0] : "localhost", "port",
                              (int)server->config->port, "addresses", addresses(&server->names), "expires_ms",
                              (json_int_t)expires_ms, "person", person.name));
    hd_wipe(secret, sizeof secret);
    hd_wipe(text, sizeof text);
}

static void devices_list(struct hd_admin_client *client, json_t *request)
{
    const char *cmd, *name = NULL;
    struct hd_person person;
    struct hd_device *devices = NULL;
    struct hearth_error error = {0};
    size_t n = 0;
    if (!hd_admin_unpack(client, request, "{s:s, s?s}", "cmd", &cmd, "person", &name) ||
        (name && !find_person(client, name, &person)))
        return;
    if (hd_devices_list(client->server->store, name ? &person.id : NULL, &devices, &n, &error) != HEARTH_OK) {
        hd_admin_fail(client, &error);
        return;
    }
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++) {
        const struct hd_device *d = &devices[i];
        json_array_append_new(list, json_pack("{s:o, s:s, s:s, s:s, s:o, s:I, s:I, s:b}", "id", hex(&d->id),
                                              "person", d->person_name, "name", d->name, "client", d->client,
                                              "scopes", scopes_json(d->scopes), "created_ms",
                                              (json_int_t)d->created_ms, "last_seen_ms",
                                              (json_int_t)d->last_seen_ms, "connected",
                                              hd_clients_count(client->server, &d->id) > 0));
    }
    free(devices);
    hd_admin_answer(client, json_pack("{s:b, s:o}", "ok", 1, "devices", list));
}

static void devices_revoke(struct hd_admin_client *client, json_t *request)
{
    const char *cmd, *text;
    struct hd_id id;
    struct hearth_error error = {0};
    if (!hd_admin_unpack(client, request, "{s:s, s:s}", "cmd", &cmd, "id", &text) || !read_id(client, text, &id))
        return;
    size_t n = hd_clients_count(client->server, &id);
    if (hd_device_revoke(client->server->store, NULL, &id, &error) != HEARTH_OK) { // closes its sockets
        hd_admin_fail(client, &error);
        return;
    }
    hd_log(HD_LOG_INFO, "device %s was revoked", text);
    hd_admin_answer(client, json_pack("{s:b, s:i}", "ok", 1, "n_closed", (int)n));
}

// ---- conversations

static json_t *head_json(const struct hd_conversation_head *head)
{
    return json_pack("{s:o, s:s, s:I, s:I, s:i}", "id", hex(&head->id), "title", head->title, "created_ms",
                     (json_int_t)head->created_ms, "updated_ms", (json_int_t)head->updated_ms, "n_turns",
                     (int)head->turns);
}

static json_t *usage_json(const struct hd_usage *usage)
{
    char seed[24];
    snprintf(seed, sizeof seed, "%llu", (unsigned long long)usage->seed);
    return json_pack("{s:i, s:i, s:i, s:f, s:f, s:f, s:s, s:s, s:s}", "prompt_tokens",
                     (int)usage->prompt_tokens, "cached_tokens", (int)usage->cached_tokens,
                     "completion_tokens", (int)usage->completion_tokens, "prompt_ms", usage->prompt_ms,
                     "first_token_ms", usage->first_token_ms, "completion_ms", usage->completion_ms, "seed",
                     seed, "numerics_id", usage->numerics_id, "stop_reason", usage->stop_reason);
}

static json_t *conversation_json(const struct hd_conversation *conversation)
{
    static const char *const roles[] = {"", "system", "user", "assistant"};
    json_t *turns = json_array(), *out = head_json(&conversation->head);
    for (size_t i = 0; i < conversation->n_turns; i++) {
        const struct hd_turn *turn = &conversation->turns[i];
        json_array_append_new(turns,
                              json_pack("{s:o, s:s, s:s%, s:I, s:b, s:o}", "id", hex(&turn->id), "role",
                                        roles[turn->role], "text", turn->text, turn->text_len, "created_ms",
                                        (json_int_t)turn->created_ms, "finished", turn->finished, "usage",
                                        turn->has_usage ? usage_json(&turn->usage) : json_null()));
    }
    json_object_set_new(out, "turns", turns);
    return out;
}

static void conversations_list(struct hd_admin_client *client, json_t *request)
{
    const char *cmd, *name;
    int limit = 0;
    json_int_t before_ms = 0;
    struct hd_person person;
    struct hd_conversation_list found = {0};
    struct hearth_error error = {0};
    if (!hd_admin_unpack(client, request, "{s:s, s:s, s?i, s?I}", "cmd", &cmd, "person", &name, "limit", &limit,
                         "before_ms", &before_ms) ||
        !find_person(client, name, &person))
        return;
    if (limit < 0 || before_ms < 0)
        hd_admin_error(client, "invalid", "limit and before_ms are not negative");
    else if (hd_store_conversation_list(client->server->store, &person.id, (uint32_t)limit, before_ms, &found,
                                        &error) != HEARTH_OK)
        hd_admin_fail(client, &error);
    else {
        json_t *list = json_array();
        for (size_t i = 0; i < found.n; i++)
            json_array_append_new(list, head_json(&found.items[i]));
        hd_admin_answer(client,
                        json_pack("{s:b, s:o, s:b}", "ok", 1, "conversations", list, "has_more", found.more));
        hd_conversation_list_free(&found);
    }
}

static void conversations_show(struct hd_admin_client *client, json_t *request)
{
    const char *cmd, *name, *text;
    struct hd_person person;
    struct hd_id id;
    struct hd_conversation conversation = {0};
    struct hearth_error error = {0};
    if (!hd_admin_unpack(client, request, "{s:s, s:s, s:s}", "cmd", &cmd, "person", &name, "id", &text) ||
        !find_person(client, name, &person) || !read_id(client, text, &id))
        return;
    if (hd_store_conversation_get(client->server->store, &person.id, &id, false, &conversation, &error) !=
        HEARTH_OK) {
        hd_admin_fail(client, &error);
        return;
    }
    hd_admin_answer(client,
                    json_pack("{s:b, s:o}", "ok", 1, "conversation", conversation_json(&conversation)));
    hd_conversation_free(&conversation);
}

void hd_admin_export_next(struct hd_admin_client *client)
{
    struct hd_store *store = client->server->store;
    struct hd_conversation_list list = {0};
    struct hd_conversation conversation = {0};
    struct hearth_error error = {0};
    hd_admin_begin(client);
    enum hearth_status code = hd_store_conversation_list(store, &client->export_person.id, 1,
                                                         client->export_before_ms, &list, &error);
    if (code == HEARTH_OK && list.n == 0) {
        client->exporting = false;
        hd_admin_answer(client, json_pack("{s:b, s:b, s:I}", "ok", 1, "more", 0, "n_conversations",
                                          (json_int_t)client->n_exported));
        hd_conversation_list_free(&list);
        return;
    }
    if (code == HEARTH_OK) {
        client->export_before_ms = list.items[0].updated_ms;
        code = hd_store_conversation_get(store, &client->export_person.id, &list.items[0].id, false,
                                         &conversation, &error);
        hd_conversation_list_free(&list);
    }
    if (code != HEARTH_OK) {
        client->exporting = false;
        hd_admin_fail(client, &error);
        return;
    }
    client->n_exported++;
    hd_admin_answer(client, json_pack("{s:b, s:b, s:o}", "ok", 1, "more", 1, "conversation",
                                      conversation_json(&conversation)));
    hd_conversation_free(&conversation);
}

static void conversations_export(struct hd_admin_client *client, json_t *request)
{
    const char *cmd, *name;
    if (!hd_admin_unpack(client, request, "{s:s, s:s}", "cmd", &cmd, "person", &name) ||
        !find_person(client, name, &client->export_person))
        return;
    client->exporting = true;
    client->export_before_ms = 0;
    client->n_exported = 0;
    hd_admin_export_next(client);
}

static void conversations_delete(struct hd_admin_client *client, json_t *request)
{
    const char *cmd, *name, *text;
    struct hd_person person;
    struct hd_id id;
    struct hd_deleted deleted = {0};
    struct hearth_error error = {0};
    if (!hd_admin_unpack(client, request, "{s:s, s:s, s:s}", "cmd", &cmd, "person", &name, "id", &text) ||
        !find_person(client, name, &person) || !read_id(client, text, &id))
        return;
    enum hearth_status code =
        hd_store_conversation_delete(client->server->store, &person.id, &id, &deleted, &error);
    hd_api_forget_turns(client->server, &deleted, &person.id, &id);
    hd_deleted_free(&deleted);
    if (code == HEARTH_OK)
        hd_admin_answer(client, json_pack("{s:b}", "ok", 1));
    else
        hd_admin_fail(client, &error);
}

// ---- dispatch

static const struct {
    const char *name;
    void (*run)(struct hd_admin_client *client, json_t *request);
} commands[] = {
    {"status", status},
    {"people.add", people_add},
    {"people.list", people_list},
    {"people.remove", people_remove},
    {"pair", pair},
    {"token.create", hd_admin_token_create},
    {"devices.list", devices_list},
    {"devices.revoke", devices_revoke},
    {"conversations.list", conversations_list},
    {"conversations.show", conversations_show},
    {"conversations.export", conversations_export},
    {"conversations.delete", conversations_delete},
    {"data.import", hd_admin_data_import},
    {"data.list", hd_admin_data_list},
    {"data.remove", hd_admin_data_remove},
    {"adapters.export", hd_admin_adapters_export},
    {"adapters.import", hd_admin_adapters_import},
    {"adapters.list", hd_admin_adapters_list},
    {"adapters.use", hd_admin_adapters_use},
    {"adapters.remove", hd_admin_adapters_remove},
    {"train.start", hd_admin_train_start},
    {"train.stop", hd_admin_train_stop},
    {"train.status", hd_admin_train_status},
    {"models", models},
    {"use-model", use_model},
    {"shutdown", shut_down},
};

void hd_admin_request(struct hd_admin_client *client, const char *line, size_t len_bytes)
{
    json_error_t error;
    json_t *request = hd_json_read(line, len_bytes, JSON_REJECT_DUPLICATES, &error);
    if (!request && errno == ENOMEM) {
        hd_admin_error(client, "internal", "out of memory");
        return;
    }
    const char *cmd = json_string_value(json_object_get(request, "cmd"));
    if (!cmd) {
        hd_admin_error(client, "invalid",
                       request ? "a request is an object with \"cmd\""
                               : "a request is one JSON object on one line");
        json_decref(request);
        return;
    }
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
        if (strcmp(commands[i].name, cmd) == 0) {
            commands[i].run(client, request);
            json_decref(request);
            return;
        }
    }
    hd_admin_error(client, "unknown_command", "there is no such command (docs/admin.md)");
    json_decref(request);
}
