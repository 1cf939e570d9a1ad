// SPDX-License-Identifier: Apache-2.0
// Chat, Cancel and Resume, and what the engine thread has to tell about answers. Loop thread.
//
// A question is stored before it is accepted, and an answer is stored before its end is told.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "firmware/learn.h"
#include "firmware/metrics.h"
#include "firmware/server.h"

// ---- events

static void emit(struct hd_server *server, struct hd_response *response, Hearth__V1__Event__EventCase which,
                 void *body)
{
    Hearth__V1__Event event = HEARTH__V1__EVENT__INIT;
    event.event_case = which;
    event.response_created = body; // one union
    hd_response_event(server->responses, response, &event);
}

static void emit_item_added(struct hd_server *server, struct hd_response *response)
{
    Hearth__V1__OutputItemAdded item = HEARTH__V1__OUTPUT_ITEM_ADDED__INIT;
    Hearth__V1__ContentPartAdded part = HEARTH__V1__CONTENT_PART_ADDED__INIT;
    item.item_id = hd_wire_bytes(hd_response_ids(response)->assistant_turn.b, HD_ID_BYTES);
    emit(server, response, HEARTH__V1__EVENT__EVENT_OUTPUT_ITEM_ADDED, &item);
    emit(server, response, HEARTH__V1__EVENT__EVENT_CONTENT_PART_ADDED, &part);
}

static void emit_item_done(struct hd_server *server, struct hd_response *response)
{
    size_t len;
    Hearth__V1__OutputTextDone text = HEARTH__V1__OUTPUT_TEXT_DONE__INIT;
    Hearth__V1__ContentPartDone part = HEARTH__V1__CONTENT_PART_DONE__INIT;
    Hearth__V1__OutputItemDone item = HEARTH__V1__OUTPUT_ITEM_DONE__INIT;
    text.text = (char *)hd_response_text(response, &len);
    item.item_id = hd_wire_bytes(hd_response_ids(response)->assistant_turn.b, HD_ID_BYTES);
    emit(server, response, HEARTH__V1__EVENT__EVENT_OUTPUT_TEXT_DONE, &text);
    emit(server, response, HEARTH__V1__EVENT__EVENT_CONTENT_PART_DONE, &part);
    emit(server, response, HEARTH__V1__EVENT__EVENT_OUTPUT_ITEM_DONE, &item);
}

static const char *stop_reason(enum hearth_stop_reason reason)
{
    switch (reason) {
    case HEARTH_STOP_END: return "end";
    case HEARTH_STOP_STRING: return "stop_string";
    case HEARTH_STOP_MAX_TOKENS: return "max_tokens";
    case HEARTH_STOP_CONTEXT_FULL: return "context_full";
    case HEARTH_STOP_CANCELLED: return "cancelled";
    default: return "error";
    }
}

static void fill_usage(Hearth__V1__Usage *usage, const struct hearth_usage *from)
{
    hearth__v1__usage__init(usage);
    usage->prompt_tokens = from->prompt_tokens;
    usage->cached_tokens = from->cached_tokens;
    usage->completion_tokens = from->completion_tokens;
    usage->prompt_ms = from->prompt_ms;
    usage->first_token_ms = from->first_token_ms;
    usage->completion_ms = from->completion_ms;
    usage->seed = from->seed;
    usage->numerics_id = (char *)from->numerics_id;
    usage->stop_reason = (char *)stop_reason(from->stop);
}

static void emit_failed(struct hd_server *server, struct hd_response *response, Hearth__V1__Error__Code code,
                        const char *text, const struct hearth_usage *from)
{
    Hearth__V1__Error error = HEARTH__V1__ERROR__INIT;
    Hearth__V1__Usage usage;
    Hearth__V1__ResponseFailed failed = HEARTH__V1__RESPONSE_FAILED__INIT;
    fill_usage(&usage, from);
    error.code = code;
    error.message = (char *)text;
    failed.error = &error;
    failed.usage = &usage;
    emit(server, response, HEARTH__V1__EVENT__EVENT_RESPONSE_FAILED, &failed);
}

static void emit_end(struct hd_server *server, struct hd_response *response, const struct hearth_usage *from)
{
    Hearth__V1__Usage usage;
    fill_usage(&usage, from);
    if (from->stop == HEARTH_STOP_END || from->stop == HEARTH_STOP_STRING) {
        Hearth__V1__ResponseCompleted completed = HEARTH__V1__RESPONSE_COMPLETED__INIT;
        completed.usage = &usage;
        emit(server, response, HEARTH__V1__EVENT__EVENT_RESPONSE_COMPLETED, &completed);
        return;
    }
    Hearth__V1__ResponseIncomplete incomplete = HEARTH__V1__RESPONSE_INCOMPLETE__INIT;
    incomplete.reason = from->stop == HEARTH_STOP_MAX_TOKENS
                            ? HEARTH__V1__RESPONSE_INCOMPLETE__REASON__REASON_MAX_TOKENS
                        : from->stop == HEARTH_STOP_CONTEXT_FULL
                            ? HEARTH__V1__RESPONSE_INCOMPLETE__REASON__REASON_CONTEXT_FULL
                            : HEARTH__V1__RESPONSE_INCOMPLETE__REASON__REASON_CANCELLED;
    incomplete.usage = &usage;
    emit(server, response, HEARTH__V1__EVENT__EVENT_RESPONSE_INCOMPLETE, &incomplete);
}

// ---- ends

static enum hearth_status store_end(struct hd_server *server, struct hd_response *response,
                                    const struct hearth_usage *from, const struct hd_note *note,
                                    struct hearth_error *err)
{
    size_t len;
    const char *text = hd_response_text(response, &len);
    struct hd_usage usage = {.prompt_tokens = from->prompt_tokens,
                             .cached_tokens = from->cached_tokens,
                             .completion_tokens = from->completion_tokens,
                             .prompt_ms = from->prompt_ms,
                             .first_token_ms = from->first_token_ms,
                             .completion_ms = from->completion_ms,
                             .seed = from->seed};
    snprintf(usage.numerics_id, sizeof usage.numerics_id, "%s", from->numerics_id);
    snprintf(usage.stop_reason, sizeof usage.stop_reason, "%s", stop_reason(from->stop));
    snprintf(usage.model, sizeof usage.model, "%s", note ? note->model : "");
    snprintf(usage.model_tag, sizeof usage.model_tag, "%s", note ? note->model_tag : "");
    return hd_store_answer_finish(server->store, &hd_response_ids(response)->assistant_turn, text, len,
                                  note ? note->token_ids : NULL, note ? note->n_tokens : 0, &usage, err);
}

static void end_failed(struct hd_server *server, struct hd_response *response,
                       const struct hearth_error *error, const struct hearth_usage *from)
{
    struct hearth_error ignored;
    struct hearth_usage usage = *from;
    usage.stop = HEARTH_STOP_ERROR;
    if (store_end(server, response, &usage, NULL, &ignored) != HEARTH_OK)
        hd_log(HD_LOG_ERROR, "an answer's end could not be stored: %s", ignored.text);
    emit_failed(server, response, hd_api_code(error->code), error->text, &usage);
    hd_response_end(server->responses, response, hd_now_ms());
}

static void end_done(struct hd_server *server, struct hd_response *response, const struct hd_note *note)
{
    struct hearth_error error = {0};
    size_t len;
    hd_response_text(response, &len);
    enum hearth_status status = store_end(server, response, &note->usage, note, &error);
    if (len > 0)
        emit_item_done(server, response);
    if (status == HEARTH_OK) {
        emit_end(server, response, &note->usage);
    } else {
        hd_log(HD_LOG_ERROR, "an answer could not be stored: %s", error.text);
        emit_failed(server, response, hd_api_code(status), error.text, &note->usage);
    }
    hd_response_end(server->responses, response, hd_now_ms());
}

// ---- the engine thread's notes

static void on_started(struct hd_server *server, struct hd_response *response, const struct hd_note *note)
{
    Hearth__V1__ResponseCreated created = HEARTH__V1__RESPONSE_CREATED__INIT;
    created.conversation_id = hd_wire_bytes(hd_response_ids(response)->conversation.b, HD_ID_BYTES);
    created.model = (char *)note->model;
    created.dropped_turns = note->dropped_turns + *hd_response_left_out(response);
    created.adapter = (char *)note->adapter;
    emit(server, response, HEARTH__V1__EVENT__EVENT_RESPONSE_CREATED, &created);
}

static void on_text(struct hd_server *server, struct hd_response *response, const struct hd_note *note)
{
    struct hearth_error error;
    size_t len;
    hd_response_text(response, &len);
    if (len == 0)
        emit_item_added(server, response);
    if (hd_response_append(server->responses, response, note->text, note->len_bytes, &error) != HEARTH_OK)
        hd_worker_cancel(server->worker, &note->response); // the answer is as long as may be
}

// What is no answer's. True: it was dealt with.
static bool on_other_note(struct hd_server *server, struct hd_note *note)
{
    switch (note->type) {
    case HD_NOTE_MODEL:
        hd_models_loaded(server, note);
        hd_metrics_load(server->metrics, note->error.code == HEARTH_OK);
        return true;
    case HD_NOTE_FILE: hd_models_hashed(server, note); return true;
    case HD_NOTE_PREFIXES:
        hd_prefixes_keep(server->prefixes, note);
        hd_server_work_prefixes(server);
        return true;
    case HD_NOTE_EXPORTED: server->exported = true; return true;
    case HD_NOTE_TRAIN: hd_learn_note(server->learn, note); return true;
    default: return false;
    }
}

static void on_note(struct hd_server *server, struct hd_note *note)
{
    if (on_other_note(server, note))
        return;
    struct hd_response *response = hd_response_find(server->responses, &note->response);
    if (!response && hd_openai_note(server, note))
        return;
    if (!response || !hd_response_is_running(response)) // deleted meanwhile
        return;
    Hearth__V1__ResponseInProgress progress = HEARTH__V1__RESPONSE_IN_PROGRESS__INIT;
    switch (note->type) {
    case HD_NOTE_STARTED: on_started(server, response, note); break;
    case HD_NOTE_PROMPT:
        progress.prompt_tokens = note->prompt_total;
        progress.prompt_tokens_done = note->prompt_done;
        emit(server, response, HEARTH__V1__EVENT__EVENT_RESPONSE_IN_PROGRESS, &progress);
        break;
    case HD_NOTE_TEXT: on_text(server, response, note); break;
    case HD_NOTE_DONE:
        hd_metrics_answer(server->metrics, HD_DOOR_WIRE, &note->usage);
        end_done(server, response, note);
        break;
    case HD_NOTE_FAILED:
        hd_metrics_answer(server->metrics, HD_DOOR_WIRE, &note->usage);
        end_failed(server, response, &note->error, &note->usage);
        break;
    default: break;
    }
}

void hd_api_notes(struct hd_server *server)
{
    struct hd_note note;
    while (server->worker && hd_worker_next(server->worker, &note)) {
        on_note(server, &note);
        hd_note_free(&note);
    }
}

void hd_api_save_answers(struct hd_server *server)
{
    struct hd_response *response;
    struct hearth_error error;
    for (size_t i = 0; (response = hd_response_at(server->responses, i)) != NULL; i++) {
        size_t len, *saved = hd_response_saved_len(response);
        const char *text = hd_response_text(response, &len);
        if (!hd_response_is_running(response) || len == *saved)
            continue;
        if (hd_store_answer_save(server->store, &hd_response_ids(response)->assistant_turn, text, len,
                                 &error) == HEARTH_OK)
            *saved = len;
        else
            hd_log(HD_LOG_WARN, "an answer could not be saved so far: %s", error.text);
    }
}

void hd_api_forget_turns(struct hd_server *server, const struct hd_deleted *deleted, const struct hd_id *person,
                         const struct hd_id *conversation)
{
    static const struct hearth_usage cancelled = {.stop = HEARTH_STOP_CANCELLED};
    if (deleted->n_turns == 0)
        return;
    for (size_t i = 0; i < deleted->n_turns; i++) {
        struct hd_response *response = hd_response_by_turn(server->responses, &deleted->turns[i]);
        if (!response)
            continue;
        if (hd_response_is_running(response)) {
            hd_worker_cancel(server->worker, &hd_response_ids(response)->response);
            emit_end(server, response, &cancelled);
        }
        hd_response_forget(server->responses, response);
    }
    hd_worker_forget(server->worker, conversation, person);
    hd_prefixes_forget(server->prefixes, person);
    hd_learn_sync(server->learn);
}

// ---- Chat: what is asked

static bool in_range(double value, double low, double high)
{
    return isfinite(value) && value >= low && value <= high;
}

static const char *read_penalties(struct hearth_sampling *to, const Hearth__V1__Sampling *from)
{
    if (from->repeat_penalty) {
        if (!in_range(from->repeat_penalty->value, 0.1, 10))
            return "repeat_penalty: 0.1 to 10";
        to->repeat_penalty = (float)from->repeat_penalty->value;
    }
    if (from->presence_penalty) {
        if (!in_range(from->presence_penalty->value, -2, 2))
            return "presence_penalty: -2 to 2";
        to->presence_penalty = (float)from->presence_penalty->value;
    }
    if (from->frequency_penalty) {
        if (!in_range(from->frequency_penalty->value, -2, 2))
            return "frequency_penalty: -2 to 2";
        to->frequency_penalty = (float)from->frequency_penalty->value;
    }
    if (from->penalty_last_n) {
        if (from->penalty_last_n->value > 4096)
            return "penalty_last_n: 0 to 4096";
        to->penalty_last_n = from->penalty_last_n->value;
    }
    return NULL;
}

// NULL, or what is wrong.
static const char *read_sampling(struct hearth_sampling *to, const Hearth__V1__Sampling *from)
{
    if (from->temperature) {
        if (!in_range(from->temperature->value, 0, 5))
            return "temperature: 0 to 5";
        to->temperature = (float)from->temperature->value;
    }
    if (from->top_k)
        to->top_k = from->top_k->value;
    if (from->top_p) {
        if (!in_range(from->top_p->value, 0, 1) || from->top_p->value <= 0)
            return "top_p: above 0, at most 1";
        to->top_p = (float)from->top_p->value;
    }
    if (from->min_p) {
        if (!in_range(from->min_p->value, 0, 1))
            return "min_p: 0 to 1";
        to->min_p = (float)from->min_p->value;
    }
    if (from->seed)
        to->seed = from->seed->value;
    return read_penalties(to, from);
}

static const char *read_logit_bias(struct hearth_sampling *to, const Hearth__V1__Sampling *from,
                                   unsigned n_vocab)
{
    struct hearth_logit_bias *list = from->n_logit_bias ? calloc(from->n_logit_bias, sizeof *list) : NULL;
    if (from->n_logit_bias && !list)
        return "out of memory";
    to->logit_bias = list;
    to->n_logit_bias = from->n_logit_bias;
    for (size_t i = 0; i < from->n_logit_bias; i++) {
        const Hearth__V1__LogitBias *bias = from->logit_bias[i];
        if (bias->token < 0 || (n_vocab && (unsigned)bias->token >= n_vocab) ||
            !in_range(bias->bias, -100, 100))
            return "logit_bias: a token of the vocabulary, -100 to 100";
        list[i] = (struct hearth_logit_bias){bias->token, bias->bias};
    }
    return NULL;
}

static const char *read_stops(struct hd_job *job, const Hearth__V1__Sampling *from)
{
    for (size_t i = 0; i < from->n_stop; i++) {
        size_t len = strlen(from->stop[i]);
        if (len < 1 || len > HD_MAX_STOP_BYTES)
            return "stop: each 1 to 256 bytes";
        if (!(job->stops[i] = strdup(from->stop[i])))
            return "out of memory";
        job->n_stops++;
    }
    return NULL;
}

static const char *read_job(struct hd_job *job, const Hearth__V1__Chat *chat, unsigned n_vocab)
{
    hearth_sampling_default(&job->sampling);
    if (hd_random(&job->sampling.seed, sizeof job->sampling.seed, NULL) != HEARTH_OK)
        return "no random numbers";
    job->drop_old = chat->overflow == HEARTH__V1__CHAT__OVERFLOW__OVERFLOW_DROP_OLD;
    const Hearth__V1__Sampling *sampling = chat->sampling;
    if (!sampling)
        return NULL;
    if (sampling->n_logit_bias > HD_MAX_LOGIT_BIAS || sampling->n_stop > HD_MAX_STOPS)
        return "logit_bias: at most 300; stop: at most 16";
    if (sampling->max_tokens && sampling->max_tokens->value == 0)
        return "max_tokens: 1 or more";
    job->max_tokens = sampling->max_tokens ? sampling->max_tokens->value : 0;
    const char *wrong = read_sampling(&job->sampling, sampling);
    if (!wrong)
        wrong = read_logit_bias(&job->sampling, sampling, n_vocab);
    return wrong ? wrong : read_stops(job, sampling);
}

// ---- Chat: the prompt

static bool add_message(struct hd_job *job, enum hearth_role role, const char *text, size_t len)
{
    struct hd_job_message *message = &job->messages[job->n_messages];
    message->text = malloc(len + 1);
    if (!message->text)
        return false;
    memcpy(message->text, text, len);
    message->text[len] = 0;
    message->role = role;
    message->len_bytes = len;
    job->n_messages++;
    return true;
}

// Ids are taken as they are only for the model that made them, and only when they spell the text.
static bool ids_fit(const struct hd_turn *turn, const char *tag)
{
    return turn->role == HD_ROLE_ASSISTANT && turn->token_ids && turn->n_tokens && turn->has_usage && tag[0] &&
           strcmp(turn->usage.model_tag, tag) == 0 &&
           (strcmp(turn->usage.stop_reason, "end") == 0 ||
            strcmp(turn->usage.stop_reason, "max_tokens") == 0);
}

// The first turn that goes into a prompt, beside a system text at 0: all of them where they are few enough, else the
// newest from a question on. The last question always does.
static size_t first_of_prompt(const struct hd_conversation *conversation)
{
    size_t n = conversation->n_turns, first = n, used = 0;
    for (size_t i = n; i-- > 0;) {
        const struct hd_turn *turn = &conversation->turns[i];
        used += turn->text_len;
        if (first < n && (used > HD_MAX_PROMPT_BYTES || n - i > HD_MAX_PROMPT_TURNS))
            return first;
        if (turn->role == HD_ROLE_USER)
            first = i;
    }
    return 0;
}

// The turns up to the answer that is to be written. Empty answers (failed, cancelled at once) are left out.
static enum hearth_status read_history(struct hd_server *server, struct hd_job *job,
                                       struct hd_response *response, struct hearth_error *err)
{
    const struct hd_accepted *ids = hd_response_ids(response);
    const struct hd_id *person = hd_response_person(response);
    struct hd_conversation conversation = {0};
    enum hearth_status status =
        hd_store_conversation_get(server->store, person, &ids->conversation, true, &conversation, err);
    if (status != HEARTH_OK)
        return status;
    job->messages = calloc(conversation.n_turns + 1, sizeof *job->messages);
    bool good = job->messages != NULL;
    bool has_system = conversation.n_turns && conversation.turns[0].role == HD_ROLE_SYSTEM;
    if (good && !has_system && server->config->system_prompt[0]) {
        good = add_message(job, HEARTH_ROLE_SYSTEM, server->config->system_prompt,
                           strlen(server->config->system_prompt));
        job->n_shared = good; // the household's own: everybody finds its cache
    }
    size_t first = first_of_prompt(&conversation);
    bool fits = first <= has_system || job->drop_old;
    for (size_t i = 0; good && fits && i < conversation.n_turns; i++) {
        struct hd_turn *turn = &conversation.turns[i];
        if (turn->text_len == 0 || hd_id_equal(&turn->id, &ids->assistant_turn))
            continue;
        if (i < first && !(i == 0 && has_system)) {
            ++*hd_response_left_out(response);
            continue;
        }
        good = add_message(job, (enum hearth_role)turn->role, turn->text, turn->text_len);
        if (good && ids_fit(turn, job->ids_tag)) {
            job->messages[job->n_messages - 1].ids = turn->token_ids; // moved
            job->messages[job->n_messages - 1].n_ids = turn->n_tokens;
            turn->token_ids = NULL;
            turn->n_tokens = 0;
        }
    }
    hd_conversation_free(&conversation);
    if (!fits)
        return hd_fail(err, HEARTH_CONTEXT, "the conversation is longer than any prompt may be: %d turns, %d MiB",
                       HD_MAX_PROMPT_TURNS, HD_MAX_PROMPT_BYTES >> 20);
    return good ? HEARTH_OK : hd_fail(err, HEARTH_NOMEM, "no memory for the prompt");
}

static void reply_accepted(struct hd_client *client, const struct hd_id *request,
                           const struct hd_accepted *ids)
{
    Hearth__V1__Accepted accepted = HEARTH__V1__ACCEPTED__INIT;
    accepted.response_id = hd_wire_bytes(ids->response.b, HD_ID_BYTES);
    accepted.conversation_id = hd_wire_bytes(ids->conversation.b, HD_ID_BYTES);
    accepted.user_turn_id = hd_wire_bytes(ids->user_turn.b, HD_ID_BYTES);
    accepted.assistant_turn_id = hd_wire_bytes(ids->assistant_turn.b, HD_ID_BYTES);
    Hearth__V1__ServerFrame frame = HEARTH__V1__SERVER_FRAME__INIT;
    frame.body_case = HEARTH__V1__SERVER_FRAME__BODY_ACCEPTED;
    frame.accepted = &accepted;
    hd_api_reply(client, request, &frame);
}

// Tells the answer from after_seq on, from memory or from the store.
static void follow(struct hd_client *client, const struct hd_id *request, const struct hd_id *id,
                   uint64_t after_seq)
{
    struct hd_server *server = client->server;
    struct hearth_error error = {0};
    struct hd_response *response = hd_response_find(server->responses, id);
    if (response && hd_id_equal(hd_response_person(response), &client->device.person)) {
        if (!hd_response_is_running(response) && after_seq >= hd_response_last_seq(response))
            hd_api_done(client, request); // ended, and all of it was seen
        else if (hd_response_follow(server->responses, response, client, request, after_seq, &error) !=
                 HEARTH_OK)
            hd_api_fail(client, request, &error);
        return;
    }
    struct hd_turn turn = {0};
    struct hd_id conversation;
    if (hd_store_response_get(server->store, &client->device.person, id, &turn, &conversation, &error) !=
        HEARTH_OK) {
        hd_api_fail(client, request, &error);
        return;
    }
    size_t len = turn.text_len <= HD_MAX_RESPONSE_TEXT_BYTES
                     ? turn.text_len
                     : hd_utf8_cut(turn.text, turn.text_len, HD_MAX_RESPONSE_TEXT_BYTES);
    turn.text[len] = 0;
    struct hd_blob *snapshot =
        hd_response_snapshot(id, after_seq < UINT64_MAX ? after_seq + 1 : after_seq, turn.text, true);
    if (snapshot)
        hd_client_send_event(server, client, request, snapshot);
    hd_blob_unref(snapshot);
    hd_turn_free(&turn);
}

// ---- Chat: taking it

// An answer of this person's is being written there. Of somebody else's conversation nothing is told, not even that.
static bool is_writing(struct hd_client *client, const struct hd_id *conversation)
{
    struct hd_response *running =
        hd_id_is_zero(conversation) ? NULL : hd_response_running(client->server->responses, conversation);
    return running && hd_id_equal(hd_response_person(running), &client->device.person);
}

// False after an answer: nothing can be taken now. Before anything is stored.
static bool may_ask(struct hd_client *client, const struct hd_id *request, struct hd_job *job,
                    const Hearth__V1__Chat *chat, const struct hd_id *conversation)
{
    const char *model = chat->model;
    struct hd_server *server = client->server;
    struct hearth_error error = {0};
    char path[HD_PATH_BYTES];
    if (server->stopping) {
        hd_api_error(client, request, HEARTH__V1__ERROR__CODE__CODE_UNAVAILABLE, "the box is stopping");
    } else if (strlen(model) > HD_MAX_MODEL_BYTES) {
        hd_api_error(client, request, HEARTH__V1__ERROR__CODE__CODE_LIMIT, "model: at most 128 bytes");
    } else if (strlen(chat->adapter) > HD_MAX_LEARNT_NAME) {
        hd_api_error(client, request, HEARTH__V1__ERROR__CODE__CODE_LIMIT, "adapter: at most 64 bytes");
    } else if (hd_worker_may_submit(server->worker, &client->device.person, model, path, &error) != HEARTH_OK) {
        hd_api_error(client, request, hd_api_code(error.code), error.text);
    } else if (is_writing(client, conversation)) {
        hd_api_error(client, request, HEARTH__V1__ERROR__CODE__CODE_BUSY,
                     "an answer in this conversation is still being written");
    } else if (hd_learn_pick(server->learn, &client->device.person, chat->adapter, path, job, &error) != HEARTH_OK) {
        hd_api_error(client, request, hd_api_code(error.code), error.text);
    } else {
        job->person = client->device.person;
        job->max_draft = HD_JOB_DRAFT;
        snprintf(job->model, sizeof job->model, "%s", model);
        hd_model_tag(server->config, path, job->ids_tag);
        hd_prefixes_want(server->prefixes, &job->person, path);
        return true;
    }
    return false;
}

// Of the model that shall answer, if it is loaded; 0 = not known.
static unsigned n_vocab(struct hd_server *server, const struct hd_job *job)
{
    struct hd_worker_state state;
    hd_worker_state(server->worker, &state);
    if (!job->model[0])
        return state.loaded ? state.info.n_vocab : 0;
    for (unsigned i = 0; i < state.n_models; i++) {
        if (state.models[i].loaded && strcmp(state.models[i].name, job->model) == 0)
            return state.models[i].info.n_vocab;
    }
    return 0;
}

static void start(struct hd_client *client, const struct hd_id *request, struct hd_job *job,
                  const struct hd_accepted *ids)
{
    static const struct hearth_usage nothing = {.stop = HEARTH_STOP_ERROR};
    struct hd_server *server = client->server;
    struct hearth_error error = {0};
    struct hd_response *response = hd_response_open(server->responses, ids, &client->device.person);
    reply_accepted(client, request, ids);
    if (!response) {
        struct hd_usage usage = {.stop_reason = "error"};
        hd_store_answer_finish(server->store, &ids->assistant_turn, "", 0, NULL, 0, &usage, &error);
        hd_api_error(client, request, HEARTH__V1__ERROR__CODE__CODE_BUSY,
                     "too many answers are being written");
        hd_job_free(job);
        return;
    }
    hd_response_follow(server->responses, response, client, request, 0, &error);
    job->response = ids->response;
    job->conversation = ids->conversation;
    enum hearth_status status = read_history(server, job, response, &error);
    if (status == HEARTH_OK)
        status = hd_worker_submit(server->worker, job, &error);
    if (status != HEARTH_OK) {
        hd_job_free(job);
        end_failed(server, response, &error, &nothing);
    }
}

static bool check_chat(struct hd_client *client, const struct hd_id *request, const Hearth__V1__Chat *chat,
                       struct hd_chat *out)
{
    *out = (struct hd_chat){.person = client->device.person,
                            .device = client->device.id,
                            .request = *request,
                            .text = chat->text,
                            .text_len = strlen(chat->text)};
    if (chat->conversation_id.len &&
        !hd_id_from(&out->conversation, chat->conversation_id.data, chat->conversation_id.len)) {
        hd_api_error(client, request, HEARTH__V1__ERROR__CODE__CODE_INVALID,
                     "conversation_id: 16 bytes or none");
        return false;
    }
    size_t system_len = strlen(chat->system);
    if (out->text_len < 1 || out->text_len > HD_MAX_TEXT_BYTES || system_len > HD_MAX_SYSTEM_BYTES) {
        hd_api_error(client, request, HEARTH__V1__ERROR__CODE__CODE_LIMIT,
                     "text: 1 byte to 256 KiB; system: at most 64 KiB");
        return false;
    }
    if (system_len) {
        out->system = chat->system;
        out->system_len = system_len;
    }
    return true;
}

void hd_api_chat(struct hd_client *client, const struct hd_id *request, const Hearth__V1__Chat *body)
{
    struct hd_server *server = client->server;
    struct hd_accepted ids;
    struct hd_chat chat;
    struct hearth_error error = {0};
    if (!check_chat(client, request, body, &chat))
        return;
    enum hearth_status status =
        hd_store_request_find(server->store, &client->device.id, request, &ids, &error);
    if (status == HEARTH_OK) { // asked before: the same answer
        reply_accepted(client, request, &ids);
        follow(client, request, &ids.response, 0);
        return;
    }
    if (status != HEARTH_NOT_FOUND) {
        hd_api_fail(client, request, &error);
        return;
    }
    struct hd_job *job = calloc(1, sizeof *job);
    if (job && !may_ask(client, request, job, body, &chat.conversation)) {
        hd_metrics_refused(server->metrics, HD_DOOR_WIRE);
        hd_job_free(job);
        return;
    }
    const char *wrong = job ? read_job(job, body, n_vocab(server, job)) : "out of memory";
    if (wrong) {
        hd_metrics_refused(server->metrics, HD_DOOR_WIRE);
        hd_api_error(client, request, HEARTH__V1__ERROR__CODE__CODE_INVALID, wrong);
    } else if (hd_store_chat_begin(server->store, &chat, &ids, &error) != HEARTH_OK) {
        hd_api_fail(client, request, &error);
    } else {
        start(client, request, job, &ids);
        return;
    }
    hd_job_free(job);
}

// ---- Cancel and Resume

void hd_api_cancel(struct hd_client *client, const struct hd_id *request, const Hearth__V1__Cancel *body)
{
    struct hd_server *server = client->server;
    struct hd_id id, conversation;
    struct hearth_error error = {0};
    if (!hd_id_from(&id, body->response_id.data, body->response_id.len)) {
        hd_api_error(client, request, HEARTH__V1__ERROR__CODE__CODE_INVALID, "response_id: 16 bytes");
        return;
    }
    struct hd_response *response = hd_response_find(server->responses, &id);
    if (response && hd_id_equal(hd_response_person(response), &client->device.person)) {
        if (hd_response_is_running(response))
            hd_worker_cancel(server->worker, &id);
        hd_api_done(client, request);
        return;
    }
    struct hd_turn turn = {0};
    if (hd_store_response_get(server->store, &client->device.person, &id, &turn, &conversation, &error) ==
        HEARTH_OK)
        hd_api_done(client, request); // it has ended long ago
    else
        hd_api_fail(client, request, &error);
    hd_turn_free(&turn);
}

void hd_api_resume(struct hd_client *client, const struct hd_id *request, const Hearth__V1__Resume *body)
{
    struct hd_id id;
    if (hd_id_from(&id, body->response_id.data, body->response_id.len))
        follow(client, request, &id, body->after_seq);
    else
        hd_api_error(client, request, HEARTH__V1__ERROR__CODE__CODE_INVALID, "response_id: 16 bytes");
}
