// SPDX-License-Identifier: Apache-2.0
// The loop thread's side of the engine thread: queue of jobs, ring of notes, start and stop. Everything
// shared is under one lock that is never held while the engine runs.
#include "firmware/worker.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

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
    free(job);
}

void hd_note_free(struct hd_note *note)
{
    hd_wipe_free(note->text, note->len_bytes);
    hd_wipe_free(note->token_ids, note->n_tokens * sizeof *note->token_ids);
    note->text = NULL;
    note->token_ids = NULL;
}

enum hearth_status hd_worker_start(struct hd_worker **out, const struct hd_worker_params *params,
                                   struct hearth_error *err)
{
    *out = NULL;
    struct hd_worker *worker = calloc(1, sizeof *worker);
    if (!worker)
        return hd_fail(err, HEARTH_NOMEM, "no memory for the engine thread");
    worker->params = *params;
    pthread_mutex_init(&worker->lock, NULL);
    pthread_cond_init(&worker->work, NULL);
    pthread_cond_init(&worker->room, NULL);
    sigset_t all, before;
    sigfillset(&all); // signals are the loop thread's
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int code = pthread_create(&worker->thread, NULL, hd_worker_thread, worker);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (code) {
        free(worker);
        return hd_fail(err, HEARTH_NOMEM, "cannot start the engine thread: %s", strerror(code));
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
    worker->first = worker->last = NULL;
    worker->n_waiting = 0;
}

void hd_worker_stop(struct hd_worker **out)
{
    struct hd_worker *worker = *out;
    if (!worker)
        return;
    pthread_mutex_lock(&worker->lock);
    worker->stop = true;
    pthread_cond_signal(&worker->work);
    pthread_cond_signal(&worker->room);
    pthread_mutex_unlock(&worker->lock);
    pthread_join(worker->thread, NULL);
    drop_waiting(worker);
    struct hd_note note;
    while (hd_worker_next(worker, &note))
        hd_note_free(&note);
    pthread_mutex_destroy(&worker->lock);
    pthread_cond_destroy(&worker->work);
    pthread_cond_destroy(&worker->room);
    hd_wipe_free(worker, sizeof *worker);
    *out = NULL;
}

static enum hearth_status check_submit(const struct hd_worker *worker, struct hearth_error *err)
{
    const struct hd_worker_state *state = &worker->state;
    if (worker->stop)
        return hd_fail(err, HEARTH_UNSUPPORTED, "the box is stopping");
    if (!state->loaded && !state->loading)
        return hd_fail(err, HEARTH_UNSUPPORTED, "no model is loaded: %s",
                       state->problem[0] ? state->problem : "none was chosen");
    if (worker->n_waiting >= HD_MAX_QUEUE)
        return hd_fail(err, HEARTH_BUSY, "%d questions are waiting already: try again", HD_MAX_QUEUE);
    return HEARTH_OK;
}

enum hearth_status hd_worker_submit(struct hd_worker *worker, struct hd_job *job, struct hearth_error *err)
{
    struct hd_waiting *waiting = malloc(sizeof *waiting);
    if (!waiting)
        return hd_fail(err, HEARTH_NOMEM, "no memory for the question");
    *waiting = (struct hd_waiting){NULL, job};
    pthread_mutex_lock(&worker->lock);
    enum hearth_status status = check_submit(worker, err);
    if (status == HEARTH_OK) {
        if (worker->last)
            worker->last->next = waiting;
        else
            worker->first = waiting;
        worker->last = waiting;
        worker->n_waiting++;
        pthread_cond_signal(&worker->work);
    }
    pthread_mutex_unlock(&worker->lock);
    if (status != HEARTH_OK)
        free(waiting);
    return status;
}

void hd_worker_cancel(struct hd_worker *worker, const struct hd_id *response)
{
    pthread_mutex_lock(&worker->lock);
    bool known = false;
    for (size_t i = 0; i < worker->n_cancels; i++)
        known = known || hd_id_equal(&worker->cancels[i], response);
    if (!known && worker->n_cancels < sizeof worker->cancels / sizeof worker->cancels[0])
        worker->cancels[worker->n_cancels++] = *response;
    pthread_cond_signal(&worker->work);
    pthread_mutex_unlock(&worker->lock);
}

void hd_worker_cancel_all(struct hd_worker *worker)
{
    pthread_mutex_lock(&worker->lock);
    worker->cancel_all = true;
    pthread_cond_signal(&worker->work);
    pthread_mutex_unlock(&worker->lock);
}

void hd_worker_forget(struct hd_worker *worker, const struct hd_id *conversation)
{
    pthread_mutex_lock(&worker->lock);
    if (conversation && worker->n_forgets < HD_MAX_FORGETS)
        worker->forgets[worker->n_forgets++] = *conversation;
    else
        worker->forget_all = true;
    pthread_cond_signal(&worker->work);
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
        pthread_cond_signal(&worker->work);
    }
    pthread_mutex_unlock(&worker->lock);
    return status;
}

void hd_worker_state(struct hd_worker *worker, struct hd_worker_state *state)
{
    pthread_mutex_lock(&worker->lock);
    *state = worker->state;
    state->queued = worker->n_waiting;
    state->active = worker->n_active;
    pthread_mutex_unlock(&worker->lock);
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
    if (placed)
        worker->ring[(worker->ring_first + worker->ring_n++) % HD_RING_NOTES] = *note;
    bool wake = placed && worker->ring_n == 1; // the loop empties the ring whenever it wakes
    pthread_mutex_unlock(&worker->lock);
    if (!placed)
        hd_note_free(note);
    if (wake)
        worker->params.wake(worker->params.user);
}
