// SPDX-License-Identifier: Apache-2.0
// The engine thread: loads models, gives jobs a session, steps the engine. Only this thread touches the
// engine.
//
// A conversation keeps its session, so that the next question finds its KV cache; when places or KV run out,
// the least recently used idle one goes. One note DONE or FAILED ends every job that was taken.
#include <stdlib.h>
#include <string.h>

#include "firmware/check.h"
#include "firmware/worker_internal.h"

enum {
    ANSWER_ROOM =
        512, // positions promised to an answer at first, and kept free for it when old turns are dropped
    PAGE_ROOM = 64,   // sessions take whole pages
    BYTES_PER_ID = 3, // where ids cannot be counted beforehand
};

static void push_failed(struct hd_worker *worker, const struct hd_id *response,
                        const struct hearth_error *error, const struct hearth_usage *usage)
{
    struct hd_note note = {.type = HD_NOTE_FAILED, .response = *response, .error = *error};
    if (usage)
        note.usage = *usage;
    note.usage.stop = HEARTH_STOP_ERROR;
    hd_worker_push(worker, &note);
}

static void push_cancelled(struct hd_worker *worker, const struct hd_job *job)
{
    struct hd_note note = {.type = HD_NOTE_DONE, .response = job->response};
    note.usage.seed = job->sampling.seed;
    note.usage.stop = HEARTH_STOP_CANCELLED;
    hd_worker_push(worker, &note);
}

// ---- events of the engine, on this thread

static void end_job(struct hd_slot_session *slot)
{
    struct hd_worker *worker = slot->worker;
    slot->planned = 0;
    hd_job_free(slot->job);
    slot->job = NULL;
    slot->used = ++worker->use_counter;
    worker->wait_for_end = false;
    pthread_mutex_lock(&worker->lock);
    worker->n_active--;
    pthread_mutex_unlock(&worker->lock);
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
    hd_worker_push(slot->worker, &note);
}

static void push_done(struct hd_slot_session *slot, const struct hearth_usage *usage)
{
    struct hd_note note = {.type = HD_NOTE_DONE, .response = slot->job->response, .usage = *usage};
    size_t n = usage->completion_tokens;
    note.token_ids = n ? calloc(n, sizeof *note.token_ids) : NULL;
    if (note.token_ids) {
        size_t got = hearth_session_last_ids(slot->session, note.token_ids, n);
        note.n_tokens = got < n ? got : n;
    }
    hd_worker_push(slot->worker, &note);
}

static void on_event(void *user, const struct hearth_event *event)
{
    struct hd_slot_session *slot = user;
    switch (event->type) {
    case HEARTH_EVENT_PROMPT:
        if (event->prompt_done != slot->last_prompt_done) {
            struct hd_note note = {.type = HD_NOTE_PROMPT,
                                   .response = slot->job->response,
                                   .prompt_done = event->prompt_done,
                                   .prompt_total = event->prompt_total};
            slot->last_prompt_done = event->prompt_done;
            hd_worker_push(slot->worker, &note);
        }
        break;
    case HEARTH_EVENT_TEXT: push_text(slot, event); break;
    case HEARTH_EVENT_DONE:
        push_done(slot, event->usage);
        end_job(slot);
        break;
    case HEARTH_EVENT_FAILED:
        push_failed(slot->worker, &slot->job->response, event->error, event->usage);
        end_job(slot);
        break;
    }
}

// ---- sessions

static unsigned count_running(const struct hd_worker *worker)
{
    unsigned n = 0;
    for (unsigned i = 0; i < worker->n_slots; i++)
        n += worker->slots[i].job != NULL;
    return n;
}

static void close_slot(struct hd_slot_session *slot)
{
    hearth_session_destroy(&slot->session);
    memset(&slot->conversation, 0, sizeof slot->conversation);
    slot->planned = 0;
    slot->forget = false;
}

// The idle session that was used longest ago; NULL if none. `keep` stays.
static struct hd_slot_session *oldest_idle(struct hd_worker *worker, const struct hd_slot_session *keep)
{
    struct hd_slot_session *oldest = NULL;
    for (unsigned i = 0; i < worker->n_slots; i++) {
        struct hd_slot_session *slot = &worker->slots[i];
        if (slot->session && !slot->job && slot != keep && (!oldest || slot->used < oldest->used))
            oldest = slot;
    }
    return oldest;
}

// A place with a session for the conversation: its own, a free one, or that of an idle conversation. NULL:
// all run.
static struct hd_slot_session *take_slot(struct hd_worker *worker, const struct hd_id *conversation,
                                         struct hearth_error *err)
{
    struct hd_slot_session *slot = NULL;
    for (unsigned i = 0; i < worker->n_slots; i++) {
        if (worker->slots[i].session && hd_id_equal(&worker->slots[i].conversation, conversation))
            return worker->slots[i].job ? NULL : &worker->slots[i];
    }
    for (unsigned i = 0; i < worker->n_slots && !slot; i++) {
        if (!worker->slots[i].session)
            slot = &worker->slots[i];
    }
    if (!slot) {
        slot = oldest_idle(worker, NULL);
        if (!slot)
            return NULL;
        close_slot(slot);
    }
    if (hearth_session_create(worker->engine, &slot->session, err) != HEARTH_OK)
        return slot; // without session: the caller fails the job
    slot->worker = worker;
    slot->conversation = *conversation;
    return slot;
}

// ---- room: all sessions share one pool of positions, and idle ones give way to those that answer

static unsigned taken_by(const struct hd_slot_session *slot)
{
    unsigned length = slot->session ? hearth_session_length(slot->session) + PAGE_ROOM / 2 : 0;
    return length > slot->planned ? length : slot->planned;
}

// True when `need` positions are free for `slot`, after idle sessions (but for its own) were closed as
// needed.
static bool make_room(struct hd_worker *worker, const struct hd_slot_session *slot, unsigned need)
{
    for (;;) {
        uint64_t taken = need;
        for (unsigned i = 0; i < worker->n_slots; i++)
            taken += &worker->slots[i] != slot ? taken_by(&worker->slots[i]) : 0;
        if (taken <= worker->info.n_ctx)
            return true;
        struct hd_slot_session *idle = oldest_idle(worker, slot);
        if (!idle)
            return false;
        close_slot(idle);
    }
}

// Answers that outgrow what they were promised push idle sessions out.
static void make_room_for_running(struct hd_worker *worker)
{
    for (unsigned i = 0; i < worker->n_slots; i++) {
        struct hd_slot_session *slot = &worker->slots[i];
        if (slot->job && hearth_session_length(slot->session) + PAGE_ROOM > slot->planned) {
            slot->planned = hearth_session_length(slot->session) + 2 * PAGE_ROOM;
            make_room(worker, slot, slot->planned);
        }
    }
}

// ---- the prompt

// How many ids a prompt has; a guess when the model has no chat template (then the engine decides).
static size_t count_ids(struct hd_worker *worker, const struct hearth_message *messages, size_t n)
{
    size_t n_ids = 0;
    struct hearth_error ignored;
    enum hearth_status status = hearth_chat_tokenize(worker->engine, messages, n, NULL, 0, &n_ids, &ignored);
    if (status == HEARTH_OK || status == HEARTH_LIMIT)
        return n_ids;
    for (size_t i = 0; i < n; i++)
        n_ids += messages[i].len_bytes / BYTES_PER_ID;
    return n_ids;
}

// Removes the oldest question with its answers; a system text stays. False when only the last question is
// left.
static bool drop_oldest(struct hearth_message *messages, size_t *n, unsigned *dropped)
{
    size_t first = *n && messages[0].role == HEARTH_ROLE_SYSTEM ? 1 : 0, next = first + 1;
    while (next < *n && messages[next].role != HEARTH_ROLE_USER)
        next++;
    if (next >= *n)
        return false;
    memmove(messages + first, messages + next, (*n - next) * sizeof *messages);
    *dropped += (unsigned)(next - first);
    *n -= next - first;
    return true;
}

static enum hearth_status submit(struct hd_slot_session *slot, struct hd_job *job,
                                 const struct hearth_message *messages, size_t n, struct hearth_error *err)
{
    struct hearth_request request = {.messages = messages,
                                     .n_messages = n,
                                     .sampling = job->sampling,
                                     .max_tokens = job->max_tokens,
                                     .stop = (const char *const *)job->stops,
                                     .n_stop = job->n_stops,
                                     .on_event = on_event,
                                     .user = slot};
    slot->last_prompt_done = 0;
    slot->job = job; // events may come as soon as the engine has it
    enum hearth_status status = hearth_session_submit(slot->session, &request, err);
    if (status != HEARTH_OK)
        slot->job = NULL;
    return status;
}

static size_t answer_room(const struct hd_worker *worker, const struct hd_job *job)
{
    size_t room = worker->info.n_ctx / 4 < ANSWER_ROOM ? worker->info.n_ctx / 4 : ANSWER_ROOM;
    return job->max_tokens && job->max_tokens < room ? job->max_tokens : room;
}

// OK: running. BUSY: try again when another answer has ended. Else failed for good.
static enum hearth_status start_job(struct hd_slot_session *slot, struct hd_job *job,
                                    struct hearth_error *err)
{
    struct hd_worker *worker = slot->worker;
    struct hearth_message *messages = calloc(job->n_messages, sizeof *messages);
    if (!messages)
        return hd_fail(err, HEARTH_NOMEM, "no memory for the prompt");
    for (size_t i = 0; i < job->n_messages; i++) {
        const struct hd_job_message *m = &job->messages[i];
        messages[i] = (struct hearth_message){
            .role = m->role, .text = m->text, .len_bytes = m->len_bytes, .ids = m->ids, .n_ids = m->n_ids};
    }
    size_t n = job->n_messages, room = answer_room(worker, job), n_ids = count_ids(worker, messages, n);
    unsigned dropped = 0;
    while (job->drop_old && n_ids + room > worker->info.n_ctx && drop_oldest(messages, &n, &dropped))
        n_ids = count_ids(worker, messages, n);
    size_t need = n_ids + room < worker->info.n_ctx ? n_ids + room : worker->info.n_ctx;
    enum hearth_status status = HEARTH_BUSY;
    if (make_room(worker, slot, (unsigned)need) || count_running(worker) == 0) {
        slot->planned = (unsigned)need;
        status = submit(slot, job, messages, n, err);
        while (status == HEARTH_CONTEXT && job->drop_old && drop_oldest(messages, &n, &dropped))
            status = submit(slot, job, messages, n, err);
    }
    free(messages);
    if (status != HEARTH_OK) {
        slot->planned = 0;
        return status;
    }
    struct hd_note note = {.type = HD_NOTE_STARTED, .response = job->response, .dropped_turns = dropped};
    hd_worker_push(worker, &note);
    return HEARTH_OK;
}

// ---- the thread's round

static struct hd_job *pop_job(struct hd_worker *worker)
{
    struct hd_job *job = NULL;
    pthread_mutex_lock(&worker->lock);
    struct hd_waiting *waiting = worker->first;
    if (waiting) {
        worker->first = waiting->next;
        if (!worker->first)
            worker->last = NULL;
        worker->n_waiting--;
        worker->n_active++;
        job = waiting->job;
    }
    pthread_mutex_unlock(&worker->lock);
    free(waiting);
    return job;
}

// Back to the head of the queue. Without memory for that the job fails.
static void push_back(struct hd_worker *worker, struct hd_job *job)
{
    worker->wait_for_end = count_running(worker) > 0;
    struct hd_waiting *waiting = malloc(sizeof *waiting);
    pthread_mutex_lock(&worker->lock);
    worker->n_active--;
    if (waiting) {
        *waiting = (struct hd_waiting){worker->first, job};
        worker->first = waiting;
        if (!worker->last)
            worker->last = waiting;
        worker->n_waiting++;
    }
    pthread_mutex_unlock(&worker->lock);
    if (!waiting) {
        struct hearth_error error = {HEARTH_NOMEM, "no memory for the question"};
        push_failed(worker, &job->response, &error, NULL);
        hd_job_free(job);
    }
}

static void fail_job(struct hd_worker *worker, struct hd_job *job, const struct hearth_error *error)
{
    push_failed(worker, &job->response, error, NULL);
    hd_job_free(job);
    pthread_mutex_lock(&worker->lock);
    worker->n_active--;
    pthread_mutex_unlock(&worker->lock);
}

static void start_jobs(struct hd_worker *worker)
{
    struct hd_job *job;
    while (!worker->wait_for_end && count_running(worker) < worker->n_slots &&
           (job = pop_job(worker)) != NULL) {
        struct hearth_error error = {0};
        struct hd_slot_session *slot = take_slot(worker, &job->conversation, &error);
        if (!slot) {
            push_back(worker, job);
            return;
        }
        enum hearth_status status = slot->session ? start_job(slot, job, &error) : error.code;
        if (status == HEARTH_BUSY && count_running(worker) > 0) {
            push_back(worker, job);
            return;
        }
        if (status != HEARTH_OK)
            fail_job(worker, job, &error);
    }
}

static struct hd_job *unlink_cancelled(struct hd_worker *worker, const struct hd_id *response) // {lock}
{
    for (struct hd_waiting **link = &worker->first, *before = NULL; *link;
         before = *link, link = &(*link)->next) {
        struct hd_waiting *waiting = *link;
        if (response && !hd_id_equal(&waiting->job->response, response))
            continue;
        struct hd_job *job = waiting->job;
        *link = waiting->next;
        if (worker->last == waiting)
            worker->last = before;
        worker->n_waiting--;
        free(waiting);
        return job;
    }
    return NULL;
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
    for (size_t i = 0; i < n + all; i++) {
        const struct hd_id *id = i < n ? &ids[i] : NULL; // NULL = every one
        struct hd_job *job;
        do {
            pthread_mutex_lock(&worker->lock);
            job = unlink_cancelled(worker, id);
            pthread_mutex_unlock(&worker->lock);
            if (job) {
                push_cancelled(worker, job);
                hd_job_free(job);
            }
        } while (job);
        for (unsigned s = 0; s < worker->n_slots; s++) {
            struct hd_slot_session *slot = &worker->slots[s];
            if (slot->job && (!id || hd_id_equal(&slot->job->response, id)))
                hearth_session_cancel(slot->session);
        }
    }
}

static void do_forgets(struct hd_worker *worker)
{
    struct hd_id ids[HD_MAX_FORGETS];
    pthread_mutex_lock(&worker->lock);
    size_t n = worker->n_forgets;
    bool all = worker->forget_all;
    memcpy(ids, worker->forgets, n * sizeof ids[0]);
    worker->n_forgets = 0;
    worker->forget_all = false;
    pthread_mutex_unlock(&worker->lock);
    for (unsigned s = 0; s < worker->n_slots; s++) {
        struct hd_slot_session *slot = &worker->slots[s];
        if (!slot->session)
            continue;
        slot->forget = slot->forget || all;
        for (size_t i = 0; i < n; i++)
            slot->forget = slot->forget || hd_id_equal(&slot->conversation, &ids[i]);
        if (slot->forget && !slot->job)
            close_slot(slot);
    }
}

// ---- models

static void close_engine(struct hd_worker *worker)
{
    for (unsigned i = 0; i < worker->n_slots; i++) {
        if (worker->slots[i].session)
            close_slot(&worker->slots[i]);
    }
    worker->n_slots = 0;
    hearth_engine_close(&worker->engine);
}

static enum hearth_status open_engine(struct hd_worker *worker, const char *path, struct hearth_error *err)
{
    const struct hd_config *config = worker->params.config;
    struct hearth_engine_params params = {
        .model_path = path,
        .device = config->device,
        .n_threads = config->n_threads,
        .n_ctx = config->n_ctx,
        .max_sessions = config->max_sessions,
        .kv = config->kv,
        .chat_template = config->chat_template[0] ? config->chat_template : NULL,
        .cpu_isa = config->cpu_isa[0] ? config->cpu_isa : NULL,
    };
    enum hearth_status status = hearth_engine_open(&worker->engine, &params, err);
    if (status == HEARTH_OK) {
        snprintf(worker->engine_path, sizeof worker->engine_path, "%s", path);
        worker->n_slots = config->max_sessions < HD_MAX_SLOTS ? config->max_sessions : HD_MAX_SLOTS;
    }
    return status;
}

static void publish(struct hd_worker *worker, const struct hearth_error *problem)
{
    memset(&worker->info, 0, sizeof worker->info);
    if (worker->engine)
        hearth_engine_get_info(worker->engine, &worker->info);
    pthread_mutex_lock(&worker->lock);
    worker->state.loading = false;
    worker->state.loaded = worker->engine != NULL;
    worker->state.info = worker->info;
    worker->state.since_ms = hd_now_ms();
    snprintf(worker->state.path, sizeof worker->state.path, "%s", worker->engine ? worker->engine_path : "");
    snprintf(worker->state.problem, sizeof worker->state.problem, "%s", worker->engine ? "" : problem->text);
    pthread_mutex_unlock(&worker->lock);
}

static void do_load(struct hd_worker *worker)
{
    char path[HD_PATH_BYTES], before[HD_PATH_BYTES] = "";
    struct hearth_error error = {0}, again = {0};
    pthread_mutex_lock(&worker->lock);
    memcpy(path, worker->load_path, sizeof path);
    uint64_t tag = worker->load_tag;
    worker->load_wanted = false;
    pthread_mutex_unlock(&worker->lock);
    enum hearth_status status = hd_check_model(path, &error);
    if (status == HEARTH_OK) {
        if (worker->engine)
            memcpy(before, worker->engine_path, sizeof before);
        close_engine(worker); // both at once may not fit in memory
        status = open_engine(worker, path, &error);
        if (status != HEARTH_OK && before[0])
            open_engine(worker, before, &again);
    }
    publish(worker, &error);
    if (!worker->engine) { // nothing can answer what waits
        struct hd_job *job;
        while ((job = pop_job(worker)) != NULL)
            fail_job(worker, job, &error);
    }
    struct hd_note note = {.type = HD_NOTE_MODEL, .tag = tag, .error = error};
    note.error.code = status;
    hd_worker_push(worker, &note);
}

// The engine is unusable: every running answer ends, and the model is gone until somebody chooses one.
static void lose_engine(struct hd_worker *worker, const struct hearth_error *error)
{
    for (unsigned i = 0; i < worker->n_slots; i++) {
        struct hd_slot_session *slot = &worker->slots[i];
        if (slot->job) {
            push_failed(worker, &slot->job->response, error, NULL);
            end_job(slot);
        }
    }
    close_engine(worker);
    publish(worker, error);
    hd_log(HD_LOG_ERROR, "the engine failed: %s", error->text);
}

// True when there is something to do, false when the thread shall end.
static bool wait_for_work(struct hd_worker *worker, bool *load)
{
    bool running = count_running(worker) > 0;
    pthread_mutex_lock(&worker->lock);
    while (!worker->stop && !running && !(worker->first && worker->engine) && !worker->load_wanted &&
           !worker->n_cancels && !worker->cancel_all && !worker->n_forgets && !worker->forget_all)
        pthread_cond_wait(&worker->work, &worker->lock);
    bool go_on = !worker->stop || running;
    *load = worker->load_wanted && !running && !worker->stop;
    pthread_mutex_unlock(&worker->lock);
    return go_on;
}

void *hd_worker_thread(void *user)
{
    struct hd_worker *worker = user;
    bool load;
    while (wait_for_work(worker, &load)) {
        do_cancels(worker);
        do_forgets(worker);
        if (load)
            do_load(worker);
        pthread_mutex_lock(&worker->lock);
        bool may_start = worker->engine && !worker->load_wanted && !worker->stop;
        pthread_mutex_unlock(&worker->lock);
        if (may_start)
            start_jobs(worker);
        make_room_for_running(worker);
        unsigned n_busy = 0;
        struct hearth_error error = {0};
        if (worker->engine && count_running(worker) > 0 &&
            hearth_engine_step(worker->engine, &n_busy, &error) != HEARTH_OK)
            lose_engine(worker, &error);
        do_forgets(worker); // of conversations whose answer has just ended
    }
    close_engine(worker);
    return NULL;
}
