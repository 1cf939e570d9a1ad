// SPDX-License-Identifier: Apache-2.0
// The engine thread: gives questions a session, steps the engines of all loaded models in turn, tells what happens.
// Only this thread touches engines, but for the loader thread while it opens one.
//
// A conversation keeps its session, so that the next question finds its KV cache; when places or KV run out, the least
// recently used idle one goes, then somebody's answer is paused (worker_room.c). One note DONE or FAILED ends every job
// that was taken.
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "firmware/worker_internal.h"

enum {
    ANSWER_ROOM =
        512, // positions promised to an answer at first, and kept free for it when old turns are dropped
    BYTES_PER_ID = 3, // where ids cannot be counted beforehand
};

static void push_cancelled(struct hd_worker *worker, const struct hd_job *job)
{
    struct hd_note note = {.type = HD_NOTE_DONE, .response = job->response};
    note.usage.seed = job->sampling.seed;
    note.usage.stop = HEARTH_STOP_CANCELLED;
    hd_worker_push(worker, &note);
}

void hd_worker_enter(struct hd_worker *worker)
{
    atomic_store(&worker->busy_since_ms, hd_steady_ms());
}

void hd_worker_leave(struct hd_worker *worker)
{
    atomic_store(&worker->busy_since_ms, 0);
}

// ---- events of the engine, on this thread

static bool is_kept(const struct hd_job *job)
{
    return !hd_id_is_zero(&job->conversation);
}

// What this person has had, so that the next one's turn comes.
static void charge(struct hd_slot_session *slot, double tokens)
{
    struct hd_worker *worker = slot->model->worker;
    slot->charged += tokens;
    pthread_mutex_lock(&worker->lock);
    hd_queue_charge(worker, &slot->job->person, tokens);
    pthread_mutex_unlock(&worker->lock);
}

void hd_slot_end_job(struct hd_slot_session *slot)
{
    struct hd_loaded *model = slot->model;
    struct hd_worker *worker = model->worker;
    struct hd_job *job = slot->job;
    struct hd_waiting *waiting = slot->waiting;
    bool paused = slot->paused; // it was cancelled there, or lost
    slot->planned = slot->pause_from = 0;
    slot->job = NULL;
    slot->waiting = NULL;
    slot->paused = false;
    hd_adapters_end(slot);
    slot->used = model->used = ++worker->use_counter;
    slot->forget = slot->forget || !is_kept(job); // a question that stands alone is not continued
    model->wait_for_end = false;
    worker->again = true;
    pthread_mutex_lock(&worker->lock);
    if (paused) {
        hd_queue_take_out(worker, waiting);
    } else {
        worker->n_active--;
        hd_queue_started(worker, &job->person, -1);
    }
    hd_queue_release(worker);
    pthread_mutex_unlock(&worker->lock);
    hd_job_free(job);
    free(waiting);
    hd_models_publish(worker);
}

static void name_model(struct hd_note *note, const struct hd_slot_session *slot)
{
    const struct hd_loaded *model = slot->model;
    if (slot->adapter)
        memcpy(note->adapter, slot->adapter->adapter->name, sizeof note->adapter);
    memcpy(note->model, model->name, sizeof note->model);
    memcpy(note->model_tag, model->tag, sizeof note->model_tag);
}

static void push_text(struct hd_slot_session *slot, const struct hearth_event *event)
{
    static const char replacement[] = "\xef\xbf\xbd";
    struct hd_note note = {.type = HD_NOTE_TEXT, .response = slot->job->response};
    note.text = malloc(3 * event->len_bytes + 1);
    if (!note.text) { // an answer with a hole would be wrong
        hearth_session_cancel(slot->session);
        return;
    }
    for (size_t i = 0; i < event->len_bytes; i++) {
        if (event->text[i]) {
            note.text[note.len_bytes++] = event->text[i];
        } else { // a model may say NUL; wire and store know none
            memcpy(note.text + note.len_bytes, replacement, 3);
            note.len_bytes += 3;
        }
    }
    note.text[note.len_bytes] = 0;
    hd_worker_push(slot->model->worker, &note);
}

static void push_done(struct hd_slot_session *slot, const struct hearth_usage *usage)
{
    struct hd_note note = {.type = HD_NOTE_DONE, .response = slot->job->response, .usage = *usage};
    name_model(&note, slot);
    size_t n = usage->completion_tokens;
    note.token_ids = n ? calloc(n, sizeof *note.token_ids) : NULL;
    if (note.token_ids) {
        size_t got = hearth_session_last_ids(slot->session, note.token_ids, n);
        note.n_tokens = got < n ? got : n;
    }
    hd_worker_push(slot->model->worker, &note);
}

static void push_prompt(struct hd_slot_session *slot, const struct hearth_event *event)
{
    struct hd_note note = {.type = HD_NOTE_PROMPT,
                           .response = slot->job->response,
                           .prompt_done = event->prompt_done,
                           .prompt_total = event->prompt_total};
    if (event->prompt_done == slot->last_prompt_done)
        return;
    slot->last_prompt_done = event->prompt_done;
    hd_worker_push(slot->model->worker, &note);
}

// The estimates so far are put right.
static void settle(struct hd_slot_session *slot, const struct hearth_usage *usage)
{
    double computed =
        usage ? (double)usage->prompt_tokens - usage->cached_tokens + usage->completion_tokens : 0;
    charge(slot, computed - slot->charged);
}

static void on_event(void *user, const struct hearth_event *event)
{
    struct hd_slot_session *slot = user;
    switch (event->type) {
    case HEARTH_EVENT_PROMPT: push_prompt(slot, event); break;
    case HEARTH_EVENT_TEXT:
        charge(slot, 1);
        push_text(slot, event);
        break;
    case HEARTH_EVENT_DONE:
        settle(slot, event->usage);
        push_done(slot, event->usage);
        if (is_kept(slot->job) && !slot->forget)
            hd_prefix_mark(slot->model, &slot->job->person);
        hd_slot_end_job(slot);
        break;
    case HEARTH_EVENT_FAILED:
        settle(slot, event->usage);
        hd_worker_push_failed(slot->model->worker, &slot->job->response, slot->model->name, event->error,
                              event->usage);
        hd_slot_end_job(slot);
        break;
    }
}

// ---- sessions

static unsigned count_running(const struct hd_worker *worker)
{
    unsigned n = 0;
    for (unsigned i = 0; i < HD_MAX_LOADED; i++)
        n += hd_model_running(&worker->models[i]);
    return n;
}

void hd_slot_close(struct hd_slot_session *slot)
{
    hearth_session_destroy(&slot->session);
    memset(&slot->conversation, 0, sizeof slot->conversation);
    memset(&slot->person, 0, sizeof slot->person);
    slot->planned = 0;
    slot->forget = false;
}

static struct hd_slot_session *slot_of(struct hd_loaded *model, const struct hd_id *conversation)
{
    for (unsigned i = 0; i < model->n_slots && !hd_id_is_zero(conversation); i++) {
        if (model->slots[i].session && hd_id_equal(&model->slots[i].conversation, conversation))
            return &model->slots[i];
    }
    return NULL;
}

// A place with a session for the job: its conversation's own, a free one, or that of an idle conversation. NULL:
// all run.
static struct hd_slot_session *take_slot(struct hd_loaded *model, const struct hd_job *job,
                                         struct hearth_error *err)
{
    struct hd_slot_session *slot = slot_of(model, &job->conversation);
    if (slot)
        return slot->job ? NULL : slot;
    for (unsigned i = 0; i < model->n_slots && !slot; i++) {
        if (!model->slots[i].session)
            slot = &model->slots[i];
    }
    if (!slot) {
        slot = hd_slot_oldest_idle(model, NULL);
        if (!slot)
            return NULL;
        hd_slot_close(slot);
    }
    if (hearth_session_create(model->engine, &slot->session, err) != HEARTH_OK)
        return slot; // without session: the caller fails the job
    slot->model = model;
    slot->conversation = job->conversation;
    slot->person = job->person;
    return slot;
}

// ---- the prompt

struct prompt {
    struct hearth_message *messages; // NULL: ids
    size_t n;
    int32_t *ids;
    size_t n_ids; // how many the prompt comes to; a guess where the engine decides
    unsigned dropped;
};

static void free_prompt(struct prompt *prompt)
{
    free(prompt->messages);
    hd_wipe_free(prompt->ids, prompt->ids ? prompt->n_ids * sizeof *prompt->ids : 0);
}

static void count_ids(const struct hd_loaded *model, struct prompt *prompt)
{
    struct hearth_error ignored;
    enum hearth_status status =
        hearth_chat_tokenize(model->engine, prompt->messages, prompt->n, NULL, 0, &prompt->n_ids, &ignored);
    if (status == HEARTH_OK || status == HEARTH_LIMIT)
        return;
    prompt->n_ids = 0;
    for (size_t i = 0; i < prompt->n; i++)
        prompt->n_ids += prompt->messages[i].len_bytes / BYTES_PER_ID;
}

// Removes the `n` oldest questions with their answers; tools and a system text stay, and so does the last question. How
// many were removed.
static size_t drop_oldest(struct prompt *prompt, size_t n)
{
    struct hearth_message *messages = prompt->messages;
    size_t first = 0, dropped = 0;
    while (first < prompt->n &&
           (messages[first].role == HEARTH_ROLE_SYSTEM || messages[first].role == HEARTH_ROLE_TOOLS))
        first++;
    size_t next = first;
    for (size_t i = first + 1; i < prompt->n && dropped < n; i++) {
        if (messages[i].role == HEARTH_ROLE_USER) {
            next = i;
            dropped++;
        }
    }
    memmove(messages + first, messages + next, (prompt->n - next) * sizeof *messages);
    prompt->dropped += (unsigned)(next - first);
    prompt->n -= next - first;
    return dropped;
}

static size_t n_droppable(const struct prompt *prompt)
{
    size_t n = 0, first = 0;
    while (first < prompt->n && (prompt->messages[first].role == HEARTH_ROLE_SYSTEM ||
                                 prompt->messages[first].role == HEARTH_ROLE_TOOLS))
        first++;
    for (size_t i = first + 1; i < prompt->n; i++)
        n += prompt->messages[i].role == HEARTH_ROLE_USER;
    return n;
}

// Drops as few as needed, all but the last question if need be. How many can stay is looked for from the newest on,
// twice as many at a time, then by halves: what is counted stays near what fits, however long the conversation is.
static void drop_until(const struct hd_loaded *model, struct prompt *prompt, size_t max_ids)
{
    struct prompt all = *prompt;
    size_t n = n_droppable(prompt), kept = 0, too_many = n, step = 1;
    bool grows = true;
    if (prompt->n_ids <= max_ids || !n || !(all.messages = calloc(all.n, sizeof *all.messages)))
        return;
    memcpy(all.messages, prompt->messages, all.n * sizeof *all.messages);
    while (true) {
        bool last = too_many - kept <= 1;
        if (!grows || kept + step >= too_many)
            step = (too_many - kept) / 2;
        memcpy(prompt->messages, all.messages, all.n * sizeof *all.messages);
        prompt->n = all.n;
        prompt->dropped = all.dropped;
        drop_oldest(prompt, n - kept - (last ? 0 : step));
        count_ids(model, prompt);
        if (last)
            break;
        grows = grows && prompt->n_ids <= max_ids;
        if (prompt->n_ids > max_ids) {
            too_many = kept + step;
        } else {
            kept += step;
            step *= 2;
        }
    }
    free(all.messages);
}

static enum hearth_status tokenize(const struct hd_loaded *model, const struct hd_job *job,
                                   struct prompt *prompt, struct hearth_error *err)
{
    size_t n = 0;
    enum hearth_status status = hearth_tokenize(model->engine, job->prompt, job->prompt_len_bytes,
                                                HEARTH_TOKENIZE_BOS, NULL, 0, &n, err);
    if (status != HEARTH_OK && status != HEARTH_LIMIT)
        return status;
    prompt->ids = calloc(n + 1, sizeof *prompt->ids);
    if (!prompt->ids)
        return hd_fail(err, HEARTH_NOMEM, "no memory for the prompt");
    prompt->n_ids = n;
    return hearth_tokenize(model->engine, job->prompt, job->prompt_len_bytes, HEARTH_TOKENIZE_BOS,
                           prompt->ids, n, &n, err);
}

// A system message behind others, where the chat template has no place for it, is told by its place in what was asked.
static enum hearth_status check_late_system(const struct hd_loaded *model, const struct hd_job *job,
                                            struct hearth_error *err)
{
    size_t first = job->n_messages && job->messages[0].role == HEARTH_ROLE_TOOLS;
    if (model->info.late_system || strcmp(model->info.chat_template, "none") == 0)
        return HEARTH_OK;
    for (size_t i = first + 1; i < job->n_messages; i++)
        if (job->messages[i].role == HEARTH_ROLE_SYSTEM)
            return hd_fail(err, HEARTH_INVALID,
                           "messages[%zu] is a system message: the model's chat template (%s) takes them only at the "
                           "beginning",
                           job->messages[i].asked_at, model->info.chat_template);
    return HEARTH_OK;
}

static enum hearth_status make_prompt(const struct hd_loaded *model, const struct hd_job *job,
                                      struct prompt *prompt, struct hearth_error *err)
{
    *prompt = (struct prompt){0};
    if (job->prompt)
        return tokenize(model, job, prompt, err);
    enum hearth_status status = check_late_system(model, job, err);
    if (status != HEARTH_OK)
        return status;
    bool ids_fit = strcmp(job->ids_tag, model->tag) == 0; // else they are another model's
    prompt->messages = calloc(job->n_messages + 1, sizeof *prompt->messages);
    if (!prompt->messages)
        return hd_fail(err, HEARTH_NOMEM, "no memory for the prompt");
    prompt->n = job->n_messages;
    for (size_t i = 0; i < job->n_messages; i++) {
        const struct hd_job_message *m = &job->messages[i];
        prompt->messages[i] =
            (struct hearth_message){.role = m->role, .text = m->text, .len_bytes = m->len_bytes};
        if (ids_fit) {
            prompt->messages[i].ids = m->ids;
            prompt->messages[i].n_ids = m->n_ids;
        }
    }
    count_ids(model, prompt);
    return HEARTH_OK;
}

// ---- starting

static enum hearth_status submit(struct hd_slot_session *slot, struct hd_job *job,
                                 const struct prompt *prompt, struct hearth_error *err)
{
    struct hd_worker *worker = slot->model->worker;
    struct hearth_request request = {
        .messages = prompt->messages,
        .n_messages = prompt->n,
        .ids = prompt->ids,
        .n_ids = prompt->ids ? prompt->n_ids : 0,
        .sampling = job->sampling,
        .max_tokens = job->max_tokens,
        .stop = (const char *const *)job->stops,
        .n_stop = job->n_stops,
        .owner = hd_worker_owner(worker, &job->person, is_kept(job)),
        .n_shared = job->n_shared < prompt->n ? job->n_shared : 0,
        .grammar = job->grammar,
        .grammar_len_bytes = job->grammar_len_bytes,
        .grammar_type = job->grammar_type,
        .max_draft = job->max_draft,
        .on_event = on_event,
        .user = slot,
    };
    enum hearth_status status = hd_adapters_take(slot, job, &request.adapter, err);
    if (status != HEARTH_OK)
        return status;
    slot->last_prompt_done = 0;
    slot->charged = 0;
    slot->job = job; // events may come as soon as the engine has it
    status = hearth_session_submit(slot->session, &request, err);
    if (status != HEARTH_OK) {
        slot->job = NULL;
        hd_adapters_end(slot);
    }
    return status;
}

static size_t answer_room(const struct hd_loaded *model, const struct hd_job *job)
{
    size_t room = hd_model_longest(model) / 4 < ANSWER_ROOM ? hd_model_longest(model) / 4 : ANSWER_ROOM;
    return job->max_tokens && job->max_tokens < room ? job->max_tokens : room;
}

static enum hearth_status start_prompt(struct hd_slot_session *slot, struct hd_job *job,
                                       struct prompt *prompt, struct hearth_error *err)
{
    struct hd_loaded *model = slot->model;
    size_t room = answer_room(model, job), n_ctx = hd_model_longest(model);
    bool may_drop = job->drop_old && prompt->messages;
    if (may_drop)
        drop_until(model, prompt, n_ctx > room ? n_ctx - room : 0);
    size_t need = prompt->n_ids + room < n_ctx ? prompt->n_ids + room : n_ctx;
    if (!hd_room_make(model, slot, &job->person, (unsigned)need) && hd_model_active(model) > 0)
        return HEARTH_BUSY;
    slot->planned = (unsigned)need;
    enum hearth_status status = submit(slot, job, prompt, err);
    while (status == HEARTH_CONTEXT && may_drop && drop_oldest(prompt, 1))
        status = submit(slot, job, prompt, err);
    if (status != HEARTH_OK)
        slot->planned = 0;
    return status;
}

// OK: running. BUSY: try again when another answer has ended. Else failed for good.
static enum hearth_status start_job(struct hd_slot_session *slot, struct hd_job *job,
                                    struct hearth_error *err)
{
    struct prompt prompt;
    enum hearth_status status = make_prompt(slot->model, job, &prompt, err);
    if (status == HEARTH_OK)
        status = start_prompt(slot, job, &prompt, err);
    if (status == HEARTH_OK) {
        struct hd_note note = {
            .type = HD_NOTE_STARTED, .response = job->response, .dropped_turns = prompt.dropped};
        name_model(&note, slot);
        charge(slot, (double)prompt.n_ids);
        hd_worker_push(slot->model->worker, &note);
    }
    free_prompt(&prompt);
    return status;
}

struct asking {
    struct hd_worker *worker;
    bool by_pausing; // somebody's answer may have to give way
};

static bool has_place(struct hd_loaded *model, const struct hd_waiting *waiting, bool by_pausing)
{
    if (!waiting->slot && hd_model_running(model) == model->n_slots)
        return false;
    return hd_model_active(model) < model->n_places ||
           (by_pausing && hd_room_could_be_made(model, &waiting->job->person));
}

// Whether a question could begin now, or a paused answer go on, as far as the queue sees it. {lock}
static bool may_start(void *user, const struct hd_waiting *waiting)
{
    const struct asking *asking = user;
    struct hd_worker *worker = asking->worker;
    struct hd_loaded *model =
        hd_models_loaded_at(worker, waiting->path[0] ? waiting->path : worker->chosen_path);
    if (!model || model->wait_for_end || hd_queue_is_held(worker, waiting) ||
        !has_place(model, waiting, asking->by_pausing))
        return false;
    if (waiting->slot)
        return true;
    const struct hd_adapter *adapter = waiting->job->adapter;
    if (model->leaving || (adapter && atomic_load(&adapter->state) == HD_ADAPTER_OPENING))
        return false;
    const struct hd_slot_session *slot = slot_of(model, &waiting->job->conversation);
    return !slot || !slot->job;
}

static struct hd_waiting *pick(struct hd_worker *worker)
{
    struct asking asking = {.worker = worker};
    struct hd_waiting *waiting = NULL;
    pthread_mutex_lock(&worker->lock);
    for (int i = 0; i < 2 && !waiting && !worker->stop; i++) { // who has room without a pause comes first
        asking.by_pausing = i > 0;
        waiting = hd_queue_pick(worker, worker->params.config->max_sessions, may_start, &asking);
    }
    if (waiting) {
        worker->n_active++;
        hd_queue_started(worker, &waiting->job->person, 1);
    }
    pthread_mutex_unlock(&worker->lock);
    return waiting;
}

// Not started after all: back into the queue, or failed.
static void unpick(struct hd_worker *worker, struct hd_waiting *waiting, const char *model,
                   const struct hearth_error *failed)
{
    if (failed)
        hd_worker_push_failed(worker, &waiting->job->response, model, failed, NULL);
    pthread_mutex_lock(&worker->lock);
    worker->n_active--;
    hd_queue_started(worker, &waiting->job->person, -1);
    if (!failed)
        hd_queue_put_back(worker, waiting);
    pthread_mutex_unlock(&worker->lock);
    if (failed) {
        hd_job_free(waiting->job);
        free(waiting);
    }
}

// A session for a question, and its request; or a paused answer goes on. OK, BUSY or failed as start_job says.
static enum hearth_status begin(struct hd_loaded *model, struct hd_waiting *waiting, struct hearth_error *err)
{
    if (waiting->slot)
        return hd_slot_go_on(waiting->slot);
    struct hd_slot_session *slot = take_slot(model, waiting->job, err);
    if (!slot)
        return HEARTH_BUSY;
    enum hearth_status status = slot->session ? start_job(slot, waiting->job, err) : err->code;
    if (status != HEARTH_OK)
        return status;
    slot->waiting = waiting;
    slot->began = ++model->worker->use_counter;
    slot->forget = slot->forget || waiting->forget;
    return HEARTH_OK;
}

// What could not begin was read all the same: who floods the box with such has no turn before others for it.
static void charge_failed(struct hd_worker *worker, const struct hd_job *job)
{
    enum { BYTES_PER_TOKEN = 4 }; // about
    size_t bytes = job->prompt_len_bytes;
    for (size_t i = 0; i < job->n_messages; i++)
        bytes += job->messages[i].len_bytes;
    pthread_mutex_lock(&worker->lock);
    hd_queue_charge(worker, &job->person, 1 + (double)bytes / BYTES_PER_TOKEN);
    pthread_mutex_unlock(&worker->lock);
}

static void start_jobs(struct hd_worker *worker)
{
    struct hd_waiting *waiting;
    bool any = false;
    for (; (waiting = pick(worker)) != NULL; any = true) {
        struct hearth_error error = {0};
        struct hd_loaded *model =
            hd_models_loaded_at(worker, waiting->path[0] ? waiting->path : worker->chosen_path);
        model->used = ++worker->use_counter;
        hd_worker_enter(worker);
        enum hearth_status status = begin(model, waiting, &error);
        hd_worker_leave(worker);
        if (status == HEARTH_OK)
            continue;
        if (status == HEARTH_BUSY && hd_model_active(model) > 0) {
            if (hd_model_active_of(model, &waiting->job->person))
                waiting->held = true; // who has an answer waits alone
            else
                model->wait_for_end = true; // it is their turn: nobody takes what becomes free
            unpick(worker, waiting, model->name, NULL);
        } else {
            charge_failed(worker, waiting->job);
            unpick(worker, waiting, model->name, &error);
        }
    }
    if (any)
        hd_models_publish(worker);
}

// ---- cancelling and forgetting

static void cancel(struct hd_worker *worker, const struct hd_id *response) // NULL = every one
{
    struct hd_waiting *waiting;
    do {
        pthread_mutex_lock(&worker->lock);
        waiting = hd_queue_remove(worker, response, NULL);
        pthread_mutex_unlock(&worker->lock);
        if (!waiting)
            continue;
        push_cancelled(worker, waiting->job);
        hd_job_free(waiting->job);
        free(waiting);
    } while (waiting);
    for (unsigned m = 0; m < HD_MAX_LOADED; m++) {
        for (unsigned s = 0; s < worker->models[m].n_slots; s++) {
            struct hd_slot_session *slot = &worker->models[m].slots[s];
            if (slot->job && (!response || hd_id_equal(&slot->job->response, response)))
                hearth_session_cancel(slot->session);
        }
    }
}

static void do_cancels(struct hd_worker *worker)
{
    struct hd_id ids[sizeof worker->cancels / sizeof worker->cancels[0]];
    pthread_mutex_lock(&worker->lock);
    size_t n = worker->n_cancels;
    bool all = worker->cancel_all || worker->stop;
    memcpy(ids, worker->cancels, n * sizeof ids[0]);
    worker->n_cancels = 0;
    worker->cancel_all = false;
    pthread_mutex_unlock(&worker->lock);
    for (size_t i = 0; i < n; i++)
        cancel(worker, &ids[i]);
    if (all)
        cancel(worker, NULL);
}

bool hd_worker_is_meant(const struct hd_forget *forget, const struct hd_id *person, const struct hd_id *conversation)
{
    return (hd_id_is_zero(&forget->person) || hd_id_equal(&forget->person, person)) &&
           (hd_id_is_zero(&forget->conversation) || hd_id_equal(&forget->conversation, conversation));
}

// Idle sessions that were to go are closed, and with them every page that was kept for their owner.
static void close_forgotten(struct hd_loaded *model)
{
    for (unsigned i = 0; i < model->n_slots; i++) {
        struct hd_slot_session *slot = &model->slots[i];
        if (!slot->session || slot->job || !slot->forget)
            continue;
        struct hd_id person = slot->person;
        bool kept = !hd_id_is_zero(&slot->conversation);
        hd_slot_close(slot);
        if (kept)
            hd_worker_forget_person(model, &person);
    }
}

void hd_worker_forget_person(struct hd_loaded *model, const struct hd_id *person)
{
    struct hd_worker *worker = model->worker;
    bool everybody = hd_id_is_zero(person);
    hearth_engine_forget(model->engine, everybody ? 0 : hd_worker_owner(worker, person, true));
    if (!everybody)
        hearth_engine_forget(model->engine, hd_worker_owner(worker, person, false));
    hd_prefix_unmark(model, person);
}

static void forget(struct hd_loaded *model, const struct hd_forget *forget)
{
    for (unsigned i = 0; i < model->n_slots; i++) {
        struct hd_slot_session *slot = &model->slots[i];
        slot->forget =
            slot->forget || (slot->session && hd_worker_is_meant(forget, &slot->person, &slot->conversation));
    }
    close_forgotten(model);
    hd_worker_forget_person(model, &forget->person);
}

static void do_forgets(struct hd_worker *worker)
{
    struct hd_forget forgets[HD_MAX_FORGETS];
    pthread_mutex_lock(&worker->lock);
    size_t n = worker->n_forgets;
    bool all = worker->forget_all;
    memcpy(forgets, worker->forgets, n * sizeof forgets[0]);
    worker->n_forgets = 0;
    worker->forget_all = false;
    worker->forgotten_seq = worker->forget_seq;
    pthread_mutex_unlock(&worker->lock);
    if (all)
        forgets[n < HD_MAX_FORGETS ? n++ : n - 1] = (struct hd_forget){0};
    hd_worker_enter(worker);
    for (unsigned m = 0; m < HD_MAX_LOADED; m++) {
        struct hd_loaded *model = &worker->models[m];
        for (size_t i = 0; model->engine && i < n; i++)
            forget(model, &forgets[i]);
        if (model->engine)
            close_forgotten(model);
    }
    hd_worker_leave(worker);
}

// ---- the thread's round

static void sleep_until(struct hd_worker *worker, int64_t due_ms) // {lock}; 0 = until woken
{
    struct timespec until = {.tv_sec = due_ms / 1000, .tv_nsec = due_ms % 1000 * 1000000};
    if (due_ms)
        pthread_cond_timedwait(&worker->work, &worker->lock, &until);
    else
        pthread_cond_wait(&worker->work, &worker->lock);
}

// True when there is something to do, false when the thread shall end.
static bool wait_for_work(struct hd_worker *worker)
{
    bool running = count_running(worker) > 0, go_on = running || worker->again || hd_train_is_ready(worker);
    int64_t load_ms = hd_models_due_ms(worker), due_ms = hd_prefix_due_ms(worker);
    due_ms = load_ms && (!due_ms || load_ms < due_ms) ? load_ms : due_ms;
    worker->again = false;
    pthread_mutex_lock(&worker->lock);
    while (!worker->stop && !worker->poked && !go_on && !(due_ms && hd_steady_ms() >= due_ms))
        sleep_until(worker, due_ms);
    worker->poked = false;
    bool stop = worker->stop;
    pthread_mutex_unlock(&worker->lock);
    return !stop || running || hd_train_is_leaving(worker);
}

// One step of every model that answers, so that two of them share the machine.
static void step_all(struct hd_worker *worker)
{
    for (unsigned m = 0; m < HD_MAX_LOADED; m++) {
        struct hd_loaded *model = &worker->models[m];
        struct hearth_error error = {0};
        unsigned n_busy;
        if (!model->engine || hd_model_running(model) == 0)
            continue;
        hd_worker_enter(worker);
        hd_room_for_running(model);
        enum hearth_status status = hearth_engine_step(model->engine, &n_busy, &error);
        hd_worker_leave(worker);
        if (status != HEARTH_OK)
            hd_models_lost(model, &error);
    }
}

void *hd_worker_thread(void *user)
{
    struct hd_worker *worker = user;
    pthread_setname_np(pthread_self(), "engine");
    while (wait_for_work(worker)) {
        int64_t from_us = hd_steady_us();
        bool serves = count_running(worker) > 0;
        do_cancels(worker);
        do_forgets(worker);
        hd_prefix_take_imports(worker);
        hd_adapters_round(worker);
        do
            start_jobs(worker);
        while (hd_models_round(worker));
        hd_train_round(worker); // its model may have come
        serves = serves || count_running(worker) > 0;
        step_all(worker);
        hd_models_publish_pages(worker);
        do_forgets(worker); // of conversations whose answer has just ended
        if (serves)
            hd_train_served(worker, hd_steady_us() - from_us);
        if (count_running(worker) > 0)
            continue;
        hd_prefix_export(worker);
        hd_train_slice(worker);
    }
    hd_train_end(worker, HD_TRAIN_STOPPED, NULL);
    for (unsigned m = 0; m < HD_MAX_LOADED; m++) {
        if (worker->models[m].engine)
            hd_models_close(&worker->models[m]);
    }
    return NULL;
}
