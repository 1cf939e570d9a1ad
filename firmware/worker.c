// SPDX-License-Identifier: Apache-2.0
// The loop thread's side of the engine thread: questions, ring of notes, state, start and stop. Everything
// shared is under one lock that is never held while the engine runs.
#include "firmware/worker.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "firmware/memory.h"
#include "firmware/model_files.h"
#include "firmware/worker_internal.h"

void hd_job_free(struct hd_job *job)
{
    if (!job)
        return;
    for (size_t i = 0; i < job->n_messages; i++) {
        hd_wipe_free(job->messages[i].text, job->messages[i].len_bytes);
        hd_wipe_free(job->messages[i].ids, job->messages[i].n_ids * sizeof *job->messages[i].ids);
    }
    free(job->messages);
    hd_wipe_free(job->prompt, job->prompt_len_bytes);
    hd_wipe_free(job->grammar, job->grammar_len_bytes);
    for (size_t i = 0; i < job->n_stops; i++)
        free(job->stops[i]);
    free((void *)job->sampling.logit_bias);
    hd_adapter_unref(&job->adapter);
    free(job);
}

void hd_note_free(struct hd_note *note)
{
    hd_wipe_free(note->text, note->len_bytes);
    hd_wipe_free(note->token_ids, note->n_tokens * sizeof *note->token_ids);
    hearth_adapter_close(&note->learnt);
    note->text = NULL;
    note->token_ids = NULL;
}

int64_t hd_steady_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

int64_t hd_steady_ms(void)
{
    return hd_steady_us() / 1000;
}

void hd_model_tag(const struct hd_config *config, const char *path, char tag[HD_MODEL_TAG_BYTES])
{
    struct hd_file_identity identity;
    uint8_t hash[HD_HASH_BYTES];
    char text[sizeof identity + sizeof config->chat_template];
    tag[0] = 0;
    if (!hd_file_identify(path, &identity))
        return;
    memcpy(text, &identity, sizeof identity);
    memcpy(text + sizeof identity, config->chat_template, sizeof config->chat_template);
    hd_sha256(hash, text, sizeof text);
    hd_hex(tag, hash, (HD_MODEL_TAG_BYTES - 1) / 2);
}

void hd_worker_poke(struct hd_worker *worker)
{
    worker->poked = true;
    pthread_cond_signal(&worker->work);
}

uint64_t hd_worker_owner(struct hd_worker *worker, const struct hd_id *person, bool kept)
{
    uint8_t text[sizeof worker->owner_key + HD_ID_BYTES + 1], hash[HD_HASH_BYTES];
    uint64_t owner;
    if (hd_id_is_zero(person))
        return 0; // nobody's
    memcpy(text, worker->owner_key, sizeof worker->owner_key);
    memcpy(text + sizeof worker->owner_key, person->b, HD_ID_BYTES);
    text[sizeof text - 1] = kept;
    hd_sha256(hash, text, sizeof text);
    memcpy(&owner, hash, sizeof owner);
    return owner ? owner : 1;
}

// ---- the loader's news (loader thread)

static void loader_done(void *user)
{
    struct hd_worker *worker = user;
    pthread_mutex_lock(&worker->lock);
    worker->loader_done = true;
    hd_worker_poke(worker);
    pthread_mutex_unlock(&worker->lock);
}

static void file_hashed(void *user, const char *path)
{
    struct hd_note note = {.type = HD_NOTE_FILE, .text = strdup(path)};
    note.len_bytes = note.text ? strlen(path) : 0;
    if (note.text)
        hd_worker_push(user, &note);
    hd_worker_adapters_changed(user); // a training may wait for it
}

static bool is_busy(void *user)
{
    struct hd_worker *worker = user;
    pthread_mutex_lock(&worker->lock);
    bool busy = worker->n_active || worker->n_waiting;
    pthread_mutex_unlock(&worker->lock);
    return busy;
}

// ---- start and stop

static enum hearth_status start_threads(struct hd_worker *worker, struct hearth_error *err)
{
    const struct hd_loader_params loader = {.config = worker->params.config,
                                            .check_ms = worker->params.check_ms,
                                            .done = loader_done,
                                            .hashed = file_hashed,
                                            .busy = is_busy,
                                            .user = worker};
    enum hearth_status status = hd_random(worker->owner_key, sizeof worker->owner_key, err);
    if (status == HEARTH_OK)
        status = hd_loader_start(&worker->loader, &loader, err);
    if (status != HEARTH_OK)
        return status;
    sigset_t all, before;
    sigfillset(&all); // signals are the loop thread's
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int code = pthread_create(&worker->thread, NULL, hd_worker_thread, worker);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!code)
        return HEARTH_OK;
    hd_loader_stop(&worker->loader);
    return hd_fail(err, HEARTH_NOMEM, "cannot start the engine thread: %s", strerror(code));
}

enum hearth_status hd_worker_start(struct hd_worker **out, const struct hd_worker_params *params,
                                   struct hearth_error *err)
{
    *out = NULL;
    struct hd_worker *worker = calloc(1, sizeof *worker);
    if (!worker)
        return hd_fail(err, HEARTH_NOMEM, "no memory for the engine thread");
    worker->params = *params;
    if (!worker->params.switch_ms)
        worker->params.switch_ms = HD_SWITCH_MS;
    if (!worker->params.prefix_idle_ms)
        worker->params.prefix_idle_ms = HD_PREFIX_IDLE_MS;
    if (!worker->params.train_save_ms)
        worker->params.train_save_ms = HD_TRAIN_SAVE_MS;
    pthread_mutex_init(&worker->lock, NULL);
    pthread_condattr_t steady;
    pthread_condattr_init(&steady);
    pthread_condattr_setclock(&steady, CLOCK_MONOTONIC);
    pthread_cond_init(&worker->work, &steady);
    pthread_condattr_destroy(&steady);
    pthread_cond_init(&worker->room, NULL);
    enum hearth_status status = start_threads(worker, err);
    if (status != HEARTH_OK) {
        free(worker);
        return status;
    }
    *out = worker;
    return HEARTH_OK;
}

static void drop_waiting(struct hd_worker *worker)
{
    for (struct hd_waiting *w = worker->first, *next; w; w = next) {
        next = w->next;
        hd_job_free(w->job);
        free(w);
    }
    for (size_t i = 0; i < worker->n_imports; i++)
        hd_wipe_free(worker->imports[i].data, worker->imports[i].len_bytes);
}

// False: the engine thread did not end in time.
static bool join(struct hd_worker *worker)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += HD_JOIN_MS / 1000;
    return pthread_timedjoin_np(worker->thread, NULL, &until) == 0;
}

void hd_worker_stop(struct hd_worker **out)
{
    struct hd_worker *worker = *out;
    *out = NULL;
    if (!worker)
        return;
    pthread_mutex_lock(&worker->lock);
    worker->stop = true;
    hd_worker_poke(worker);
    pthread_cond_broadcast(&worker->room);
    pthread_mutex_unlock(&worker->lock);
    if (!join(worker)) {
        hd_log(HD_LOG_ERROR, "the engine did not end within %d s: it is left alone", HD_JOIN_MS / 1000);
        return;
    }
    hd_loader_stop(&worker->loader);
    drop_waiting(worker);
    hd_train_job_free(&worker->train_job);
    struct hd_note note;
    while (hd_worker_next(worker, &note))
        hd_note_free(&note);
    pthread_mutex_destroy(&worker->lock);
    pthread_cond_destroy(&worker->work);
    pthread_cond_destroy(&worker->room);
    hd_wipe_free(worker, sizeof *worker);
}

// ---- questions

// The file that a name means: "" when it is whatever is in use. {lock} is not held.
static enum hearth_status resolve(struct hd_worker *worker, const char *model, char path[HD_PATH_BYTES],
                                  struct hearth_error *err)
{
    struct hd_model_file file;
    char name[HD_MAX_MODEL_BYTES + 1];
    path[0] = 0;
    if (!model[0] || strcmp(model, "default") == 0)
        return HEARTH_OK;
    enum hearth_status status = hd_model_file_find(worker->params.config, model, &file, err);
    if (status == HEARTH_OK) {
        memcpy(path, file.path, sizeof file.path);
        return HEARTH_OK;
    }
    pthread_mutex_lock(&worker->lock); // the model in use may lie outside of the folder
    hd_model_file_name(worker->state.path, name);
    bool in_use = strcmp(name, model) == 0;
    pthread_mutex_unlock(&worker->lock);
    return in_use ? HEARTH_OK : status;
}

static enum hearth_status check_submit(struct hd_worker *worker, const struct hd_id *person, const char *path,
                                       struct hearth_error *err) // {lock}
{
    const struct hd_worker_state *state = &worker->state;
    if (worker->stop)
        return hd_fail(err, HEARTH_UNSUPPORTED, "the box is stopping");
    if (!path[0] && !state->loaded && !state->loading)
        return hd_fail(err, HEARTH_UNSUPPORTED, "no model is loaded: %s",
                       state->problem[0] ? state->problem : "none was chosen");
    if (worker->n_waiting >= HD_MAX_QUEUE)
        return hd_fail(err, HEARTH_BUSY, "%d questions are waiting already: try again", HD_MAX_QUEUE);
    if (hd_queue_waiting(worker, person) >= HD_MAX_QUEUE_PERSON)
        return hd_fail(err, HEARTH_BUSY, "%d of your questions are waiting already: try again",
                       HD_MAX_QUEUE_PERSON);
    return HEARTH_OK;
}

enum hearth_status hd_worker_may_submit(struct hd_worker *worker, const struct hd_id *person,
                                        const char *model, char path[HD_PATH_BYTES], struct hearth_error *err)
{
    char own[HD_PATH_BYTES];
    char *file = path ? path : own;
    enum hearth_status status = resolve(worker, model, file, err);
    if (status != HEARTH_OK)
        return status;
    pthread_mutex_lock(&worker->lock);
    status = check_submit(worker, person, file, err);
    if (status == HEARTH_OK && !file[0])
        memcpy(file, worker->state.path, HD_PATH_BYTES);
    pthread_mutex_unlock(&worker->lock);
    return status;
}

enum hearth_status hd_worker_submit(struct hd_worker *worker, struct hd_job *job, struct hearth_error *err)
{
    if (!worker)
        return hd_fail(err, HEARTH_UNSUPPORTED, "the box is stopping");
    struct hd_waiting *waiting = calloc(1, sizeof *waiting);
    if (!waiting)
        return hd_fail(err, HEARTH_NOMEM, "no memory for the question");
    waiting->job = job;
    waiting->since_ms = hd_steady_ms();
    enum hearth_status status = resolve(worker, job->model, waiting->path, err);
    pthread_mutex_lock(&worker->lock);
    if (status == HEARTH_OK)
        status = check_submit(worker, &job->person, waiting->path, err);
    if (status == HEARTH_OK)
        hd_queue_add(worker, waiting);
    pthread_mutex_unlock(&worker->lock);
    if (status != HEARTH_OK)
        free(waiting);
    return status;
}

void hd_worker_cancel(struct hd_worker *worker, const struct hd_id *response)
{
    if (!worker)
        return;
    pthread_mutex_lock(&worker->lock);
    bool known = false;
    for (size_t i = 0; i < worker->n_cancels; i++)
        known = known || hd_id_equal(&worker->cancels[i], response);
    if (!known && worker->n_cancels < sizeof worker->cancels / sizeof worker->cancels[0])
        worker->cancels[worker->n_cancels++] = *response;
    hd_worker_poke(worker);
    pthread_mutex_unlock(&worker->lock);
}

void hd_worker_cancel_all(struct hd_worker *worker)
{
    pthread_mutex_lock(&worker->lock);
    worker->cancel_all = true;
    hd_worker_poke(worker);
    pthread_mutex_unlock(&worker->lock);
}

// What waits for the engine thread and is older than this deletion: questions may hold what was deleted, so what is
// computed for them is not kept; caches that came from disk are not taken in. {lock}
static void forget_waiting(struct hd_worker *worker, const struct hd_forget *forget)
{
    size_t n = 0;
    for (struct hd_waiting *w = worker->first; w; w = w->next)
        w->forget = w->forget || hd_worker_is_meant(forget, &w->job->person, &w->job->conversation);
    for (size_t i = 0; i < worker->n_imports; i++) {
        struct hd_import *import = &worker->imports[i];
        if (hd_id_is_zero(&forget->person) || hd_id_equal(&forget->person, &import->person))
            hd_wipe_free(import->data, import->len_bytes);
        else
            worker->imports[n++] = *import;
    }
    worker->n_imports = n;
}

void hd_worker_forget(struct hd_worker *worker, const struct hd_id *conversation, const struct hd_id *person)
{
    static const struct hd_id none;
    const struct hd_forget forget = {conversation ? *conversation : none, person ? *person : none};
    pthread_mutex_lock(&worker->lock);
    forget_waiting(worker, &forget);
    if (person && worker->n_forgets < HD_MAX_FORGETS)
        worker->forgets[worker->n_forgets++] = forget;
    else
        worker->forget_all = true;
    worker->forget_seq++;
    hd_worker_poke(worker);
    pthread_mutex_unlock(&worker->lock);
}

uint64_t hd_worker_forget_seq(struct hd_worker *worker)
{
    pthread_mutex_lock(&worker->lock);
    uint64_t seq = worker->forget_seq;
    pthread_mutex_unlock(&worker->lock);
    return seq;
}

void hd_worker_import(struct hd_worker *worker, const struct hd_id *person, const char *path, uint8_t *data,
                      size_t len_bytes)
{
    pthread_mutex_lock(&worker->lock);
    bool placed = worker->n_imports < HD_MAX_IMPORTS && !worker->stop;
    if (placed) {
        struct hd_import *import = &worker->imports[worker->n_imports++];
        *import = (struct hd_import){.person = *person, .data = data, .len_bytes = len_bytes};
        snprintf(import->path, sizeof import->path, "%s", path);
        hd_worker_poke(worker);
    }
    pthread_mutex_unlock(&worker->lock);
    if (!placed)
        hd_wipe_free(data, len_bytes);
}

// ---- training and adapters

void hd_worker_adapters_changed(struct hd_worker *worker)
{
    if (!worker)
        return;
    pthread_mutex_lock(&worker->lock);
    hd_worker_poke(worker);
    pthread_mutex_unlock(&worker->lock);
}

enum hearth_status hd_worker_train(struct hd_worker *worker, struct hd_train_job *job, struct hearth_error *err)
{
    if (!worker)
        return hd_fail(err, HEARTH_UNSUPPORTED, "the box is stopping");
    pthread_mutex_lock(&worker->lock);
    bool going = worker->train_there && worker->train_drop && !worker->train_job; // the one before, in a moment
    bool taken = !worker->train_there || going;
    if (taken) {
        worker->train_job = job;
        worker->train_there = true;
        if (!going)
            worker->train_stop = worker->train_drop = worker->train_failed = false;
        hd_worker_poke(worker);
    }
    pthread_mutex_unlock(&worker->lock);
    return taken ? HEARTH_OK : hd_fail(err, HEARTH_BUSY, "another training runs");
}

void hd_worker_train_stop(struct hd_worker *worker, bool at_once)
{
    if (!worker)
        return;
    pthread_mutex_lock(&worker->lock);
    worker->train_stop = true;
    worker->train_drop = worker->train_drop || at_once;
    hd_worker_poke(worker);
    pthread_mutex_unlock(&worker->lock);
}

void hd_worker_train_fail(struct hd_worker *worker, const struct hearth_error *error)
{
    if (!worker)
        return;
    pthread_mutex_lock(&worker->lock);
    worker->train_failed = true;
    worker->train_error = *error;
    hd_worker_poke(worker);
    pthread_mutex_unlock(&worker->lock);
}

void hd_worker_export_all(struct hd_worker *worker)
{
    pthread_mutex_lock(&worker->lock);
    worker->export_now = true;
    hd_worker_poke(worker);
    pthread_mutex_unlock(&worker->lock);
}

enum hearth_status hd_worker_load(struct hd_worker *worker, const char *path, uint64_t tag,
                                  struct hearth_error *err)
{
    enum hearth_status status = HEARTH_OK;
    pthread_mutex_lock(&worker->lock);
    if (strlen(path) >= sizeof worker->load_path)
        status = hd_fail(err, HEARTH_INVALID, "the model's path is too long");
    else if (worker->state.loading)
        status = hd_fail(err, HEARTH_BUSY, "a model is being loaded already");
    if (status == HEARTH_OK) {
        memcpy(worker->load_path, path, strlen(path) + 1);
        worker->load_tag = tag;
        worker->load_wanted = true;
        worker->state.loading = true;
        hd_worker_poke(worker);
    }
    pthread_mutex_unlock(&worker->lock);
    return status;
}

struct hd_loader *hd_worker_loader(struct hd_worker *worker)
{
    return worker->loader;
}

static void count_queued(struct hd_worker *worker, struct hd_worker_state *state) // {lock}
{
    for (const struct hd_waiting *w = worker->first; w; w = w->next) {
        const char *path = w->path[0] ? w->path : state->path;
        for (unsigned i = 0; i < state->n_models; i++)
            state->models[i].queued += strcmp(state->models[i].path, path) == 0;
    }
}

void hd_worker_state(struct hd_worker *worker, struct hd_worker_state *state)
{
    memset(state, 0, sizeof *state);
    if (!worker)
        return;
    pthread_mutex_lock(&worker->lock);
    *state = worker->state;
    state->queued = worker->n_waiting;
    state->active = worker->n_active;
    count_queued(worker, state);
    pthread_mutex_unlock(&worker->lock);
    long long since_ms = atomic_load(&worker->busy_since_ms);
    state->stalled = since_ms && hd_steady_ms() - since_ms > (int64_t)worker->params.config->stall_s * 1000;
    state->budget_bytes = hd_memory_budget(worker->params.config->memory_budget_mib);
}

bool hd_worker_next(struct hd_worker *worker, struct hd_note *note)
{
    pthread_mutex_lock(&worker->lock);
    bool any = worker->ring_n > 0;
    if (any) {
        *note = worker->ring[worker->ring_first];
        memset(&worker->ring[worker->ring_first], 0, sizeof *note);
        worker->ring_first = (worker->ring_first + 1) % HD_RING_NOTES;
        worker->ring_n--;
        pthread_cond_signal(&worker->room);
        if (note->type == HD_NOTE_PREFIXES) {
            worker->n_exports_out--;
            hd_worker_poke(worker);
        }
    }
    pthread_mutex_unlock(&worker->lock);
    return any;
}

void hd_worker_push(struct hd_worker *worker, struct hd_note *note)
{
    pthread_mutex_lock(&worker->lock);
    while (worker->ring_n == HD_RING_NOTES && !worker->stop)
        pthread_cond_wait(&worker->room, &worker->lock);
    bool placed = worker->ring_n < HD_RING_NOTES;
    worker->n_exports_out += placed && note->type == HD_NOTE_PREFIXES;
    if (placed)
        worker->ring[(worker->ring_first + worker->ring_n++) % HD_RING_NOTES] = *note;
    bool wake = placed && worker->ring_n == 1 && !worker->stop; // the loop empties the ring whenever it wakes
    pthread_mutex_unlock(&worker->lock);
    if (!placed)
        hd_note_free(note);
    if (wake)
        worker->params.wake(worker->params.user);
}

void hd_worker_push_failed(struct hd_worker *worker, const struct hd_id *response, const char *model,
                           const struct hearth_error *error, const struct hearth_usage *usage)
{
    struct hd_note note = {.type = HD_NOTE_FAILED, .response = *response, .error = *error};
    snprintf(note.model, sizeof note.model, "%s", model);
    if (usage)
        note.usage = *usage;
    note.usage.stop = HEARTH_STOP_ERROR;
    hd_worker_push(worker, &note);
}
