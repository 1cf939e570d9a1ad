// SPDX-License-Identifier: Apache-2.0
// Training between answers: one training at a time, in slices of some milliseconds, each only when nobody is answered.
// Whoever asks waits for the slice at hand and no longer. Engine thread only.
//
// A training waits for its model, which stays loaded until it ends. To stop it a checkpoint is asked for and slices run
// until it was saved; when the thread shall end, for HD_TRAIN_STOP_MS at most: the checkpoint before is then gone on
// from.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "firmware/memory.h"
#include "firmware/worker_internal.h"

struct hd_train_job *hd_train_job_new(void)
{
    struct hd_train_job *job = calloc(1, sizeof *job);
    for (int i = 0; job && i < HD_TRAIN_N_DATA; i++)
        job->data_fds[i] = -1;
    return job;
}

void hd_train_job_free(struct hd_train_job **out)
{
    struct hd_train_job *job = *out;
    *out = NULL;
    if (!job)
        return;
    for (int i = 0; i < HD_TRAIN_N_DATA; i++)
        if (job->data_fds[i] >= 0)
            close(job->data_fds[i]);
    hd_adapter_unref(&job->init);
    hd_run_files_unref(&job->files);
    free(job);
}

// ---- what the loop is told

static void push(struct hd_worker *worker, const struct hearth_train_step *step, const struct hearth_error *error)
{
    struct hd_training *t = &worker->training;
    struct hd_note note = {.type = HD_NOTE_TRAIN,
                           .tag = t->job->tag,
                           .train_state = t->stopping && t->state < HD_TRAIN_STOPPING ? HD_TRAIN_STOPPING : t->state,
                           .memory_bytes = t->memory_bytes};
    struct hearth_train_info info = {0};
    if (t->trainer)
        hearth_trainer_get_info(t->trainer, &info);
    if (info.precision[0])
        note.text = strdup(info.precision);
    note.len_bytes = note.text ? strlen(note.text) : 0;
    if (step)
        note.step = *step;
    if (error)
        note.error = *error;
    note.learnt = t->learnt;
    t->learnt = NULL;
    hd_worker_push(worker, &note);
}

static void on_step(void *user, const struct hearth_train_step *step)
{
    struct hd_worker *worker = user;
    pthread_mutex_lock(&worker->lock);
    struct hd_train_figures *figures = &worker->state.train;
    if (isnan(step->held_out)) {
        figures->n_steps++;
        figures->loss = step->loss;
    }
    pthread_mutex_unlock(&worker->lock);
    push(worker, step, NULL);
}

static void set_state(struct hd_worker *worker, enum hd_train_state state)
{
    if (worker->training.state == state)
        return;
    worker->training.state = state;
    push(worker, NULL, NULL);
}

// ---- counting time

void hd_train_served(struct hd_worker *worker, int64_t us)
{
    if (worker->training.trainer)
        worker->training.serve_us += us;
}

// A slice has ended, or the training has: what requests have left so far.
static void count(struct hd_worker *worker, int64_t slice_us, uint64_t n_tokens)
{
    struct hd_training *t = &worker->training;
    int64_t now_us = hd_steady_us();
    double left_s = t->left_from_us ? (double)(now_us - t->left_from_us - t->serve_us) / 1e6 : 0;
    t->left_from_us = now_us;
    t->serve_us = 0;
    pthread_mutex_lock(&worker->lock);
    struct hd_train_figures *figures = &worker->state.train;
    figures->running = t->trainer != NULL;
    figures->memory_bytes = (double)t->memory_bytes;
    figures->left_s += left_s > 0 ? left_s : 0;
    if (slice_us) {
        double s = (double)slice_us / 1e6;
        figures->n_slices++;
        figures->busy_s += s;
        figures->longest_s = s > figures->longest_s ? s : figures->longest_s;
        figures->n_tokens += n_tokens;
    }
    pthread_mutex_unlock(&worker->lock);
}

// ---- ends

void hd_train_end(struct hd_worker *worker, enum hd_train_state state, const struct hearth_error *error)
{
    struct hd_training *t = &worker->training;
    if (!t->job)
        return;
    hd_worker_enter(worker);
    hearth_trainer_close(&t->trainer);
    hd_worker_leave(worker);
    count(worker, 0, 0);
    if (t->model) {
        t->model->training = false;
        t->model->needed_bytes -= t->memory_bytes;
    }
    t->stopping = false;
    t->state = state;
    t->memory_bytes = 0;
    pthread_mutex_lock(&worker->lock);
    worker->state.train.running = false;
    worker->state.train.memory_bytes = 0;
    worker->train_there = worker->train_job != NULL; // given while this one was being dropped
    worker->train_stop = worker->train_drop = worker->train_failed = false;
    worker->again = worker->again || worker->train_there;
    pthread_mutex_unlock(&worker->lock);
    push(worker, NULL, error); // last: who is told may begin another one at once
    hd_train_job_free(&t->job);
    *t = (struct hd_training){0};
    hd_models_publish(worker);
}

static void fail(struct hd_worker *worker, const struct hearth_error *error)
{
    hd_log(HD_LOG_ERROR, "the training of %s ends: %s", worker->training.job->adapter, error->text);
    hd_train_end(worker, HD_TRAIN_FAILED, error);
}

void hd_train_no_model(struct hd_worker *worker, const char *path, const struct hearth_error *error)
{
    struct hd_training *t = &worker->training;
    if (t->job && !t->model && strcmp(t->job->model_path, path) == 0)
        fail(worker, error);
}

void hd_train_lost(struct hd_loaded *model, const struct hearth_error *error)
{
    static const struct hearth_error unloaded = {.code = HEARTH_UNSUPPORTED, .text = "its model was unloaded"};
    struct hd_worker *worker = model->worker;
    if (model->training && worker->training.model == model)
        fail(worker, error ? error : &unloaded);
}

// ---- the beginning

static enum hearth_status open_trainer(struct hd_worker *worker, struct hd_loaded *model, struct hearth_error *err)
{
    struct hd_training *t = &worker->training;
    struct hd_train_job *job = t->job;
    struct hearth_data_file files[HD_TRAIN_N_DATA];
    char paths[HD_TRAIN_N_DATA][32], names[HD_TRAIN_N_DATA][HD_MAX_LEARNT_NAME + 16];
    struct hearth_train_params params = job->params;
    params.data.files = files;
    for (int i = 0; i < HD_TRAIN_N_DATA; i++) {
        if (job->data_fds[i] < 0)
            continue;
        char *path = paths[params.data.n_files];
        snprintf(path, sizeof paths[0], "/proc/self/fd/%d", job->data_fds[i]);
        char *name = names[params.data.n_files];
        snprintf(name, sizeof names[0], "%s.%s", job->data_set, hearth_data_format_name(job->data_formats[i]));
        files[params.data.n_files++] =
            (struct hearth_data_file){.path = path, .format = job->data_formats[i], .weight = 1, .name = name};
    }
    params.data.engine = NULL;
    params.files = (struct hearth_train_files){
        .save = hd_run_files_save, .load = hd_run_files_load, .user = job->files};
    params.base_sha256 = job->base_sha256;
    params.name = job->adapter;
    params.targets = job->targets;
    params.init = job->init ? job->init->adapter : NULL;
    params.on_step = on_step;
    params.user = worker;
    hd_worker_enter(worker);
    enum hearth_status status = hearth_trainer_begin(&t->trainer, model->engine, &params, err);
    hd_worker_leave(worker);
    return status;
}

// Of the adapter that it begins from, as it was read; until the trainer has taken its values.
static uint64_t init_bytes(const struct hd_training *t)
{
    return t->job->init ? t->job->init->values_bytes : 0;
}

static void drop_init(struct hd_worker *worker)
{
    struct hd_training *t = &worker->training;
    uint64_t bytes = init_bytes(t);
    hd_adapter_unref(&t->job->init);
    t->memory_bytes -= bytes;
    t->model->needed_bytes -= bytes;
    count(worker, 0, 0);
    hd_models_publish(worker);
}

static void begin(struct hd_worker *worker, struct hd_loaded *model)
{
    struct hd_training *t = &worker->training;
    struct hearth_train_info info;
    struct hearth_error error = {0};
    t->model = model;
    model->training = true;
    if (strcmp(hd_model_sha256(model), t->job->base_sha256) != 0)
        hd_fail(&error, HEARTH_INVALID, "the model %s is not the file that it was", model->name);
    else if (t->job->init && atomic_load(&t->job->init->state) == HD_ADAPTER_FAILED)
        error = t->job->init->error;
    else
        error.code = open_trainer(worker, model, &error);
    if (error.code == HEARTH_OK) {
        hearth_trainer_get_info(t->trainer, &info);
        info.memory_bytes += init_bytes(t);
        if (!hd_models_make_room(worker, info.memory_bytes, model, "the training", &error))
            error.code = HEARTH_NOMEM;
    }
    if (error.code != HEARTH_OK) {
        fail(worker, &error);
        return;
    }
    t->memory_bytes = info.memory_bytes;
    model->needed_bytes += info.memory_bytes;
    t->saved_ms = hd_steady_ms();
    hd_log(HD_LOG_INFO, "training of %s on %s begins: %s, %.1f MiB", t->job->adapter, model->name, info.precision,
           (double)info.memory_bytes / 1048576);
    count(worker, 0, 0);
    hd_models_publish(worker);
}

static void begin_to_stop(struct hd_worker *worker)
{
    struct hd_training *t = &worker->training;
    t->stopping = true;
    hearth_trainer_checkpoint(t->trainer);
    push(worker, NULL, NULL);
}

void hd_train_round(struct hd_worker *worker)
{
    struct hd_training *t = &worker->training;
    bool taken = false;
    pthread_mutex_lock(&worker->lock);
    if (!t->job && worker->train_job) {
        t->job = worker->train_job;
        worker->train_job = NULL;
        taken = true;
    }
    bool leaving = worker->stop, stop = worker->train_stop || leaving, drop = worker->train_drop;
    bool failed = worker->train_failed;
    struct hearth_error error = worker->train_error;
    pthread_mutex_unlock(&worker->lock);
    if (!t->job)
        return;
    if (taken) {
        set_state(worker, HD_TRAIN_WAITING);
        worker->again = true; // somebody loads its model
    }
    if (failed) {
        fail(worker, &error);
    } else if (drop || (stop && !t->trainer)) {
        hd_train_end(worker, HD_TRAIN_STOPPED, NULL);
    } else if (stop && !t->stopping) {
        begin_to_stop(worker);
        t->stop_by_ms = leaving ? hd_steady_ms() + HD_TRAIN_STOP_MS : 0;
    } else if (leaving && !t->stop_by_ms) {
        t->stop_by_ms = hd_steady_ms() + HD_TRAIN_STOP_MS;
    } else if (!t->trainer) {
        struct hd_loaded *model = hd_models_loaded_at(worker, t->job->model_path);
        bool opening = t->job->init && atomic_load(&t->job->init->state) == HD_ADAPTER_OPENING;
        if (model && !model->leaving && !opening && hd_model_sha256(model)[0])
            begin(worker, model);
    }
}

const char *hd_train_wants(const struct hd_worker *worker)
{
    const struct hd_training *t = &worker->training;
    bool waits = t->job && !t->trainer;
    return waits && !hd_models_loaded_at((struct hd_worker *)worker, t->job->model_path) ? t->job->model_path : NULL;
}

bool hd_train_is_ready(const struct hd_worker *worker)
{
    return worker->training.trainer != NULL;
}

bool hd_train_is_leaving(const struct hd_worker *worker)
{
    const struct hd_training *t = &worker->training;
    return t->trainer && (!t->stop_by_ms || hd_steady_ms() < t->stop_by_ms);
}

// ---- a slice

static enum hd_train_state state_of(const struct hearth_train_info *info)
{
    switch (info->state) {
    case HEARTH_TRAIN_OPENING:
    case HEARTH_TRAIN_READING: return HD_TRAIN_READING;
    case HEARTH_TRAIN_EVALUATING: return HD_TRAIN_EVALUATING;
    default: return HD_TRAIN_STEPPING;
    }
}

void hd_train_slice(struct hd_worker *worker)
{
    struct hd_training *t = &worker->training;
    struct hearth_error error = {0};
    struct hearth_train_info before, info;
    if (!t->trainer)
        return;
    hearth_trainer_get_info(t->trainer, &before);
    int64_t from_us = hd_steady_us();
    hd_worker_enter(worker);
    enum hearth_status status = hearth_trainer_run(t->trainer, HD_TRAIN_SLICE_MS, &error);
    hd_worker_leave(worker);
    hearth_trainer_get_info(t->trainer, &info);
    if (t->job->init && info.state != HEARTH_TRAIN_OPENING)
        drop_init(worker);
    count(worker, hd_steady_us() - from_us, before.last.step ? info.last.tokens - before.last.tokens : 0);
    if (status != HEARTH_OK) {
        fail(worker, &error);
    } else if (info.state == HEARTH_TRAIN_DONE) {
        hd_log(HD_LOG_INFO, "training of %s is done after %llu steps", t->job->adapter,
               (unsigned long long)info.last.step);
        if (hearth_trainer_adapter(t->trainer, &t->learnt, &error) == HEARTH_OK)
            hd_train_end(worker, HD_TRAIN_DONE, NULL);
        else
            fail(worker, &error);
    } else if (t->stopping && !info.saving) {
        hd_log(HD_LOG_INFO, "training of %s is stopped after step %llu", t->job->adapter,
               (unsigned long long)info.last.step);
        hd_train_end(worker, HD_TRAIN_STOPPED, NULL);
    } else {
        set_state(worker, state_of(&info));
        if (hd_steady_ms() - t->saved_ms >= worker->params.train_save_ms) {
            t->saved_ms = hd_steady_ms();
            hearth_trainer_checkpoint(t->trainer);
        }
    }
}
