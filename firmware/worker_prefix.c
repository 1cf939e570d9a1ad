// SPDX-License-Identifier: Apache-2.0
// Caches of conversations that outlive the process: whose are newer than what is on disk, and the way of the bytes
// between engine and loop. Engine thread only. prefixes.c seals and keeps them.
#include <stdlib.h>
#include <string.h>

#include "firmware/worker_internal.h"

enum { SHARE = 4 }; // one person's cache is at most this part of the budget

static uint64_t max_bytes(const struct hd_worker *worker)
{
    return ((uint64_t)worker->params.config->prefix_cache_mib << 20) / SHARE;
}

void hd_prefix_mark(struct hd_loaded *model, const struct hd_id *person)
{
    unsigned i = 0;
    if (hd_id_is_zero(person) || max_bytes(model->worker) == 0)
        return;
    while (i < model->n_dirty && !hd_id_equal(&model->dirty[i].person, person))
        i++;
    if (i == HD_MAX_DIRTY)
        return;
    model->dirty[i] = (struct hd_dirty){*person, hd_steady_ms()};
    model->n_dirty += i == model->n_dirty;
}

void hd_prefix_unmark(struct hd_loaded *model, const struct hd_id *person)
{
    unsigned kept = 0;
    for (unsigned i = 0; i < model->n_dirty; i++) {
        if (!hd_id_is_zero(person) && !hd_id_equal(&model->dirty[i].person, person))
            model->dirty[kept++] = model->dirty[i];
    }
    model->n_dirty = kept;
}

// ---- in

static void take(struct hd_worker *worker, const struct hd_import *import)
{
    struct hd_loaded *model = hd_models_loaded_at(worker, import->path);
    struct hearth_error error = {0};
    unsigned n = 0;
    if (!model)
        return;
    hd_worker_enter(worker);
    enum hearth_status status =
        hearth_engine_import_prefixes(model->engine, hd_worker_owner(worker, &import->person, true),
                                      import->data, import->len_bytes, &n, &error);
    hd_worker_leave(worker);
    hd_log(HD_LOG_DEBUG, "%u positions of a cache came back%s%s", n, status == HEARTH_OK ? "" : ": ",
           status == HEARTH_OK ? "" : error.text);
}

void hd_prefix_take_imports(struct hd_worker *worker)
{
    struct hd_import imports[HD_MAX_IMPORTS];
    pthread_mutex_lock(&worker->lock);
    size_t n = worker->n_imports;
    memcpy(imports, worker->imports, n * sizeof imports[0]);
    worker->n_imports = 0;
    pthread_mutex_unlock(&worker->lock);
    for (size_t i = 0; i < n; i++) {
        take(worker, &imports[i]);
        hd_wipe_free(imports[i].data, imports[i].len_bytes);
    }
}

// ---- out

struct buffer {
    uint8_t *data;
    size_t len_bytes, capacity;
};

static bool append(void *user, const void *data, size_t len_bytes)
{
    struct buffer *buffer = user;
    if (buffer->len_bytes + len_bytes > buffer->capacity) {
        size_t capacity = buffer->capacity + buffer->capacity / 2 + len_bytes + (64 << 10);
        uint8_t *more = malloc(capacity);
        if (!more)
            return false;
        if (buffer->data)
            memcpy(more, buffer->data, buffer->len_bytes);
        hd_wipe_free(buffer->data, buffer->len_bytes);
        buffer->data = more;
        buffer->capacity = capacity;
    }
    memcpy(buffer->data + buffer->len_bytes, data, len_bytes);
    buffer->len_bytes += len_bytes;
    return true;
}

static void export(struct hd_loaded *model, unsigned i)
{
    struct hd_worker *worker = model->worker;
    struct hd_id person = model->dirty[i].person;
    struct buffer buffer = {0};
    struct hearth_error error = {0};
    hd_worker_enter(worker);
    enum hearth_status status = hearth_engine_export_prefixes(
        model->engine, hd_worker_owner(worker, &person, true), max_bytes(worker), append, &buffer, &error);
    hd_worker_leave(worker);
    hd_prefix_unmark(model, &person);
    if (status != HEARTH_OK || !buffer.len_bytes) {
        hd_log(HD_LOG_DEBUG, "a cache could not be exported: %s", error.text);
        hd_wipe_free(buffer.data, buffer.len_bytes);
        return;
    }
    struct hd_note note = {.type = HD_NOTE_PREFIXES,
                           .person = person,
                           .text = (char *)buffer.data,
                           .len_bytes = buffer.len_bytes,
                           .tag = worker->forgotten_seq};
    memcpy(note.model, model->name, sizeof note.model);
    memcpy(note.model_tag, model->tag, sizeof note.model_tag);
    hd_worker_push(worker, &note);
}

void hd_prefix_export_model(struct hd_loaded *model)
{
    while (model->n_dirty)
        export(model, 0);
}

static bool is_due(const struct hd_worker *worker, const struct hd_dirty *dirty, int64_t now_ms)
{
    return now_ms >= dirty->since_ms + worker->params.prefix_idle_ms;
}

void hd_prefix_export(struct hd_worker *worker)
{
    struct hd_note done = {.type = HD_NOTE_EXPORTED};
    pthread_mutex_lock(&worker->lock);
    bool all = worker->export_now, full = worker->n_exports_out > 0, waiting = worker->first && !all;
    pthread_mutex_unlock(&worker->lock);
    int64_t now_ms = hd_steady_ms();
    if (full || waiting)
        return;
    for (unsigned m = 0; m < HD_MAX_LOADED; m++) {
        struct hd_loaded *model = &worker->models[m];
        for (unsigned i = 0; i < model->n_dirty; i++) {
            if (all || is_due(worker, &model->dirty[i], now_ms)) {
                export(model, i);
                worker->again = true;
                return;
            }
        }
    }
    if (!all)
        return;
    pthread_mutex_lock(&worker->lock);
    worker->export_now = false;
    pthread_mutex_unlock(&worker->lock);
    hd_worker_push(worker, &done);
}

int64_t hd_prefix_due_ms(struct hd_worker *worker)
{
    int64_t due = 0;
    pthread_mutex_lock(&worker->lock);
    bool later = worker->n_exports_out > 0 || worker->first; // whose end wakes this thread
    pthread_mutex_unlock(&worker->lock);
    if (later)
        return 0;
    for (unsigned m = 0; m < HD_MAX_LOADED; m++) {
        const struct hd_loaded *model = &worker->models[m];
        for (unsigned i = 0; i < model->n_dirty; i++) {
            int64_t at = model->dirty[i].since_ms + worker->params.prefix_idle_ms;
            due = !due || at < due ? at : due;
        }
    }
    return due;
}
