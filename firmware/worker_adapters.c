// SPDX-License-Identifier: Apache-2.0
// Which adapters the loaded models have: taken when the first answer wants one, least recently used ones go when there
// are too many, those that were removed go as soon as nobody answers with them. Engine thread only.
#include <stdio.h>
#include <string.h>

#include "firmware/worker_internal.h"

const char *hd_model_sha256(struct hd_loaded *model)
{
    struct hd_file_facts facts;
    if (!model->sha256[0] && hd_loader_facts(model->worker->loader, model->path, &facts) &&
        hd_file_same(&facts.identity, &model->identity))
        memcpy(model->sha256, facts.sha256, sizeof model->sha256);
    return model->sha256;
}

// What the model's adapters take: as they were read, and in the engine.
static void measure(struct hd_loaded *model)
{
    struct hearth_engine_info info;
    hearth_engine_get_info(model->engine, &info);
    model->adapter_bytes = info.adapter_bytes;
    for (unsigned i = 0; i < HEARTH_MAX_ADAPTERS; i++)
        model->adapter_bytes += model->adapters[i].adapter ? model->adapters[i].adapter->values_bytes : 0;
}

static void let_go(struct hd_loaded *model, struct hd_engine_adapter *place)
{
    struct hearth_error ignored;
    hd_worker_enter(model->worker);
    (void)hearth_engine_adapter_drop(model->engine, place->id, &ignored);
    hd_worker_leave(model->worker);
    hd_adapter_unref(&place->adapter);
    memset(place, 0, sizeof *place);
    measure(model);
}

// A free place; with `make` that of the one that was used longest ago. NULL: all are in use.
static struct hd_engine_adapter *free_place(struct hd_loaded *model, bool make)
{
    struct hd_engine_adapter *oldest = NULL;
    for (unsigned i = 0; i < HEARTH_MAX_ADAPTERS; i++) {
        struct hd_engine_adapter *place = &model->adapters[i];
        if (!place->adapter && !make)
            return place;
        if (place->adapter && !place->running && (!oldest || place->used < oldest->used))
            oldest = place;
    }
    if (oldest)
        let_go(model, oldest);
    return oldest;
}

bool hd_adapters_shed(struct hd_worker *worker)
{
    struct hd_loaded *of = NULL;
    struct hd_engine_adapter *oldest = NULL;
    for (unsigned m = 0; m < HD_MAX_LOADED; m++) {
        for (unsigned i = 0; worker->models[m].engine && i < HEARTH_MAX_ADAPTERS; i++) {
            struct hd_engine_adapter *place = &worker->models[m].adapters[i];
            if (!place->adapter || place->running || (oldest && oldest->used <= place->used))
                continue;
            oldest = place;
            of = &worker->models[m];
        }
    }
    if (oldest)
        let_go(of, oldest);
    return oldest != NULL;
}

// BUSY: when an answer of this model has ended there may be room.
static enum hearth_status make_room(struct hd_loaded *model, const struct hd_adapter *adapter,
                                    struct hearth_error *err)
{
    char what[HD_MAX_LEARNT_NAME + 16];
    snprintf(what, sizeof what, "the adapter %s", adapter->name);
    if (hd_models_make_room(model->worker, 2 * adapter->values_bytes, model, what, err))
        return HEARTH_OK;
    bool held = false;
    for (unsigned i = 0; i < HEARTH_MAX_ADAPTERS; i++)
        held = held || model->adapters[i].running;
    return held ? HEARTH_BUSY : err->code;
}

static enum hearth_status load(struct hd_loaded *model, struct hd_adapter *adapter, float scale,
                               struct hd_engine_adapter **out, struct hearth_error *err)
{
    const struct hearth_adapter_use use = {adapter->adapter, scale};
    const char *sha256 = hd_model_sha256(model);
    unsigned id = 0;
    *out = NULL;
    enum hearth_status status = make_room(model, adapter, err);
    if (status != HEARTH_OK)
        return status;
    struct hd_engine_adapter *place = free_place(model, false);
    status = HEARTH_LIMIT;
    while (status == HEARTH_LIMIT) {
        if (!place && !(place = free_place(model, true)))
            return hd_fail(err, HEARTH_BUSY, "all places for adapters are in use");
        status = hearth_engine_adapter_load(model->engine, &use, 1, sha256[0] ? sha256 : NULL, &id, err);
        if (status == HEARTH_LIMIT)
            place = NULL;
    }
    if (status != HEARTH_OK)
        return status;
    *place = (struct hd_engine_adapter){.adapter = hd_adapter_ref(adapter), .scale = scale, .id = id};
    *out = place;
    measure(model);
    return HEARTH_OK;
}

static enum hearth_status check(struct hd_loaded *model, const struct hd_adapter *adapter, struct hearth_error *err)
{
    if (atomic_load(&adapter->gone))
        return hd_fail(err, HEARTH_NOT_FOUND, "the adapter %s was removed", adapter->name);
    if (atomic_load(&adapter->state) == HD_ADAPTER_FAILED)
        return hd_fail(err, adapter->error.code, "the adapter %s cannot be used: %s", adapter->name,
                       adapter->error.text);
    if (strcmp(hd_model_sha256(model), adapter->base_sha256) != 0)
        return hd_fail(err, HEARTH_INVALID, "the adapter %s is for another model than %s", adapter->name, model->name);
    return HEARTH_OK;
}

enum hearth_status hd_adapters_take(struct hd_slot_session *slot, struct hd_job *job, unsigned *id,
                                    struct hearth_error *err)
{
    struct hd_loaded *model = slot->model;
    struct hd_engine_adapter *place = NULL;
    *id = 0;
    slot->adapter = NULL;
    if (!job->adapter)
        return HEARTH_OK;
    enum hearth_status status = check(model, job->adapter, err);
    if (status == HEARTH_INVALID && job->adapter_optional)
        return HEARTH_OK;
    if (status != HEARTH_OK)
        return status;
    for (unsigned i = 0; i < HEARTH_MAX_ADAPTERS; i++) {
        struct hd_engine_adapter *p = &model->adapters[i];
        if (p->adapter && hd_id_equal(&p->adapter->id, &job->adapter->id) && p->scale == job->adapter_scale)
            place = p;
    }
    if (!place)
        status = load(model, job->adapter, job->adapter_scale, &place, err);
    if (status != HEARTH_OK)
        return status;
    place->running++;
    place->used = ++model->worker->use_counter;
    slot->adapter = place;
    *id = place->id;
    return HEARTH_OK;
}

void hd_adapters_end(struct hd_slot_session *slot)
{
    if (slot->adapter)
        slot->adapter->running--;
    slot->adapter = NULL;
}

void hd_adapters_round(struct hd_worker *worker)
{
    for (unsigned m = 0; m < HD_MAX_LOADED; m++) {
        struct hd_loaded *model = &worker->models[m];
        for (unsigned i = 0; model->engine && i < HEARTH_MAX_ADAPTERS; i++) {
            struct hd_engine_adapter *place = &model->adapters[i];
            if (place->adapter && !place->running && atomic_load(&place->adapter->gone))
                let_go(model, place);
        }
    }
}

void hd_adapters_close(struct hd_loaded *model)
{
    for (unsigned i = 0; i < HEARTH_MAX_ADAPTERS; i++)
        hd_adapter_unref(&model->adapters[i].adapter);
}
