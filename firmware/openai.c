// SPDX-License-Identifier: Apache-2.0
// The OpenAI-compatible door: takes questions, hands out answers. What a client asked is in its job and its answer
// in memory until it has left; a client that goes takes its question along. Loop thread only.
#include <stdlib.h>
#include <string.h>

#include "firmware/http.h"
#include "firmware/json_text.h"
#include "firmware/learn.h"
#include "firmware/metrics.h"
#include "firmware/openai.h"
#include "firmware/openai_answer.h"

static bool send_json(struct hd_exchange *x, unsigned status, json_t *value)
{
    char *text = hd_json_text(value, JSON_COMPACT);
    json_decref(value);
    if (text)
        hd_exchange_reply(x, status, "application/json", NULL, text, strlen(text));
    else
        hd_exchange_error(x, HTTP_STATUS_INTERNAL_SERVER_ERROR, "memory", NULL, "out of memory");
    free(text);
    return text != NULL;
}

// ---- models

static json_t *model_json(const struct hd_server *server, const char *name)
{
    return json_pack("{s:s, s:s, s:I, s:s}", "id", name, "object", "model", "created",
                     (json_int_t)(server->started_ms / 1000), "owned_by", "hearth");
}

// Each model once more with every adapter for it: "MODEL@ADAPTER". False: no memory.
static bool add_adapters(struct hd_exchange *x, json_t *list, const struct hd_model_file *files, size_t n)
{
    const struct hd_learnt *item;
    char name[HD_MAX_MODEL_BYTES + HD_MAX_LEARNT_NAME + 2];
    struct hearth_error error;
    bool good = true;
    for (size_t i = 0; good && (item = hd_learn_at(x->server->learn, i)) != NULL; i++) {
        if (item->kind != HD_LEARNT_ADAPTER || !hd_learn_is_visible(item, &x->device.person))
            continue;
        json_t *meta = hd_learnt_meta(item, &error);
        good = meta != NULL;
        const char *base = json_string_value(json_object_get(meta, "base"));
        for (size_t k = 0; base && base[0] && k < n; k++) {
            if (strcmp(files[k].sha256, base) != 0)
                continue;
            snprintf(name, sizeof name, "%s@%s", files[k].name, item->name);
            good = good && !json_array_append_new(list, model_json(x->server, name));
        }
        json_decref(meta);
    }
    return good;
}

// All of them; NULL when that has been answered with an error.
static json_t *list_models(struct hd_exchange *x)
{
    struct hd_model_file *files = NULL;
    struct hearth_error error = {0};
    size_t n = 0;
    if (hd_models_list(x->server, &files, &n, &error) != HEARTH_OK) {
        hd_exchange_error(x, HTTP_STATUS_INTERNAL_SERVER_ERROR, "storage", NULL, error.text);
        return NULL;
    }
    json_t *list = json_array();
    bool good = list != NULL;
    for (size_t i = 0; good && i < n; i++)
        good = !json_array_append_new(list, model_json(x->server, files[i].name));
    good = good && add_adapters(x, list, files, n);
    free(files);
    if (good)
        return list;
    json_decref(list);
    hd_exchange_error(x, HTTP_STATUS_INTERNAL_SERVER_ERROR, "memory", NULL, "out of memory");
    return NULL;
}

void hd_openai_models(struct hd_exchange *x)
{
    json_t *list = list_models(x);
    if (list)
        send_json(x, HTTP_STATUS_OK, json_pack("{s:s, s:o}", "object", "list", "data", list));
}

void hd_openai_model(struct hd_exchange *x)
{
    json_t *list = list_models(x), *model, *found = NULL;
    size_t i;
    json_array_foreach(list, i, model)
    {
        if (strcmp(json_string_value(json_object_get(model, "id")), x->rest) == 0)
            found = model;
    }
    if (found)
        send_json(x, HTTP_STATUS_OK, json_incref(found));
    else if (list)
        hd_exchange_error(x, HTTP_STATUS_NOT_FOUND, "model_not_found", "model",
                          "there is no model of that name");
    json_decref(list);
}

// ---- asking

static size_t count_of(const struct hd_server *server, const struct hd_id *device)
{
    size_t n = 0;
    for (const struct hd_answering *a = server->answering; a; a = a->next)
        n += !device || hd_id_equal(&a->device, device);
    return n;
}

size_t hd_openai_count(const struct hd_server *server)
{
    return count_of(server, NULL);
}

static struct hd_answering *find(struct hd_server *server, const struct hd_id *response)
{
    struct hd_answering *a = server->answering;
    while (a && !hd_id_equal(&a->response, response))
        a = a->next;
    return a;
}

static void forget(struct hd_server *server, struct hd_answering *answering)
{
    for (struct hd_answering **link = &server->answering; *link; link = &(*link)->next) {
        if (*link == answering) {
            *link = answering->next;
            break;
        }
    }
    if (answering->exchange)
        answering->exchange->answering = NULL;
    hd_answering_free(answering);
}

void hd_openai_gone(struct hd_exchange *x)
{
    if (!x->answering)
        return;
    struct hd_answering *a = x->answering;
    static const struct hearth_usage gone = {.stop = HEARTH_STOP_CANCELLED};
    hd_worker_cancel(x->server->worker, &a->response);
    hd_metrics_answer(x->server->metrics, HD_DOOR_OPENAI, &gone);
    forget(x->server, a);
}

// A status of the box as HTTP has it.
static void refuse(struct hd_exchange *x, const struct hearth_error *error)
{
    switch (error->code) {
    case HEARTH_BUSY: hd_exchange_error(x, 429, "busy", NULL, error->text); break;
    case HEARTH_NOT_FOUND: hd_exchange_error(x, 404, "model_not_found", "model", error->text); break;
    case HEARTH_CONTEXT:
        hd_exchange_error(x, 400, "context_length_exceeded",
                          x->route->run == hd_openai_chat ? "messages" : "prompt", error->text);
        break;
    case HEARTH_INVALID:
    case HEARTH_LIMIT: hd_exchange_error(x, 400, "invalid_value", NULL, error->text); break;
    case HEARTH_UNSUPPORTED: hd_exchange_error(x, 400, "unsupported", NULL, error->text); break;
    case HEARTH_DEVICE_LOST: hd_exchange_error(x, 503, "no_model", NULL, error->text); break;
    default: hd_exchange_error(x, 500, "internal", NULL, error->text); break;
    }
}

// What the engine thread does not decide.
static bool cannot_ask(struct hd_exchange *x)
{
    if (x->server->stopping)
        hd_exchange_error(x, 503, "stopping", NULL, "the box is stopping");
    else if (count_of(x->server, &x->device.id) >= HD_MAX_ASKS_PER_DEVICE)
        hd_exchange_error(x, 429, "busy", NULL, "too many questions of this token are waiting: try again");
    else
        return false;
    return true;
}

// "MODEL@ADAPTER": cuts the adapter off, unless a model's own name is like that.
static const char *cut_adapter(const struct hd_server *server, struct hd_job *job)
{
    struct hd_model_file file;
    struct hearth_error ignored;
    char *at = strrchr(job->model, '@');
    if (!at || hd_model_file_find(server->config, job->model, &file, &ignored) == HEARTH_OK)
        return "";
    *at = 0;
    return at[1] ? at + 1 : "none";
}

static enum hearth_status pick_adapter(struct hd_exchange *x, struct hd_job *job, struct hearth_error *err)
{
    char path[HD_PATH_BYTES], name[HD_MAX_MODEL_BYTES + 1];
    snprintf(name, sizeof name, "%s", cut_adapter(x->server, job));
    enum hearth_status status = hd_worker_may_submit(x->server->worker, &job->person, job->model, path, err);
    return status == HEARTH_OK ? hd_learn_pick(x->server->learn, &job->person, name, path, job, err) : status;
}

static void ask(struct hd_exchange *x, struct hd_openai_request *request)
{
    struct hd_server *server = x->server;
    struct hearth_error error = {0};
    struct hd_answering *a = hd_answering_new(x, request);
    enum hearth_status status = a ? hd_id_random(&a->response, &error) : HEARTH_NOMEM;
    if (status == HEARTH_OK) {
        request->job->response = a->response;
        request->job->person = x->device.person;
        status = pick_adapter(x, request->job, &error);
    }
    if (status == HEARTH_OK) {
        status = hd_worker_submit(server->worker, request->job, &error);
    }
    if (status != HEARTH_OK) {
        hd_answering_free(a);
        error.code = status == HEARTH_UNSUPPORTED ? HEARTH_DEVICE_LOST : status; // no model
        refuse(x, &error);
        return;
    }
    request->job = NULL; // the engine thread's
    a->next = server->answering;
    server->answering = a;
    x->answering = a;
}

static void question(struct hd_exchange *x, bool chat)
{
    struct hd_openai_request request;
    char mime[64] = "";
    lws_hdr_copy(x->wsi, mime, sizeof mime, WSI_TOKEN_HTTP_CONTENT_TYPE);
    if (strncasecmp(mime, "application/json", 16) != 0) {
        hd_exchange_error(x, 415, "media_type", NULL, "the body is application/json");
    } else if (!hd_openai_parse(&request, x->body, x->body_len, chat)) {
        hd_exchange_error(x, request.status, request.code, request.param[0] ? request.param : NULL,
                          request.text);
    } else if (!chat || hd_openai_default_system(&request, x->server->config->system_prompt)) {
        if (!cannot_ask(x))
            ask(x, &request);
        hd_openai_release(&request);
    } else {
        hd_exchange_error(x, request.status, request.code, NULL, request.text);
        hd_openai_release(&request);
    }
    if (!x->answering)
        hd_metrics_refused(x->server->metrics, HD_DOOR_OPENAI);
}

void hd_openai_chat(struct hd_exchange *x)
{
    question(x, true);
}

void hd_openai_complete(struct hd_exchange *x)
{
    question(x, false);
}

// ---- answers

static void started(struct hd_server *server, struct hd_answering *a, const struct hd_note *note)
{
    struct hd_worker_state state;
    hd_worker_state(server->worker, &state);
    const char *format = state.info.tool_format;
    if (note->model[0])
        memcpy(a->model, note->model, sizeof a->model);
    else if (state.loaded)
        hd_model_name(&state, a->model);
    for (unsigned i = 0; i < state.n_models; i++)
        if (!strcmp(state.models[i].name, a->model))
            format = state.models[i].info.tool_format;
    memcpy(a->tool_format, format, sizeof a->tool_format);
    size_t len = strlen(a->model);
    if (note->adapter[0])
        snprintf(a->model + len, sizeof a->model - len, "@%s", note->adapter);
    hd_answering_start(a);
}

bool hd_openai_note(struct hd_server *server, const struct hd_note *note)
{
    struct hd_answering *a = note->type == HD_NOTE_MODEL ? NULL : find(server, &note->response);
    if (!a)
        return false;
    struct hd_exchange *x = a->exchange;
    switch (note->type) {
    case HD_NOTE_STARTED: started(server, a, note); break;
    case HD_NOTE_TEXT:
        if (!hd_answering_text(a, note->text, note->len_bytes))
            hd_worker_cancel(server->worker, &a->response); // as long as may be, or one call was enough
        break;
    case HD_NOTE_DONE:
    case HD_NOTE_FAILED:
        hd_metrics_answer(server->metrics, HD_DOOR_OPENAI, &note->usage);
        if (note->type == HD_NOTE_DONE)
            hd_answering_done(a, &note->usage);
        else if (x->status)
            hd_answering_broken(a, &note->error);
        else
            refuse(x, &note->error);
        forget(server, a);
        break;
    default: break;
    }
    return true;
}
