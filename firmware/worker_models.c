// SPDX-License-Identifier: Apache-2.0
// Which models are loaded. Engine thread only; files are read by the loader thread, so that answers of loaded models
// go on while another one is checked and opened.
//
// A load has three steps: the file is checked and measured; room is made within the memory budget; it is opened. What
// does not fit even alone is refused before anything is unloaded. Room is made by unloading idle models, least recently
// used first, all at once and only when all that must go are idle. A model that others wait for the memory of begins no
// answers any more once it has had switch_ms since the first of them asked: then its running ones end and it goes.
// So two models that do not fit together take turns, and nobody waits for longer than a turn and its last answers. A
// load that nobody waits for any more is given up.
#include <stdlib.h>
#include <string.h>

#include "firmware/memory.h"
#include "firmware/model_files.h"
#include "firmware/worker_internal.h"

enum { LEAST_CTX = 4096, MOST_CTX = 1 << 22, PAGE = 32 };

// ---- what a model needs

static uint64_t needed(const struct hd_model_facts *facts, unsigned n_ctx)
{
    return facts->weight_bytes + facts->scratch_bytes + facts->kv_bytes_per_position * n_ctx;
}

static unsigned limit_ctx(const struct hd_model_facts *facts, uint64_t n)
{
    uint64_t most = facts->n_ctx_train < MOST_CTX ? facts->n_ctx_train : MOST_CTX;
    n = n < most ? n : most;
    return n > PAGE ? (unsigned)(n / PAGE * PAGE) : (unsigned)n;
}

static unsigned least_ctx(const struct hd_config *config, const struct hd_model_facts *facts)
{
    return config->n_ctx ? config->n_ctx : limit_ctx(facts, LEAST_CTX);
}

// Positions that `bytes` have room for, at least the least.
static unsigned ctx_within(const struct hd_config *config, const struct hd_model_facts *facts, uint64_t bytes)
{
    unsigned least = least_ctx(config, facts);
    uint64_t fixed = facts->weight_bytes + facts->scratch_bytes;
    uint64_t per_position = facts->kv_bytes_per_position ? facts->kv_bytes_per_position : 1;
    unsigned n = limit_ctx(facts, bytes > fixed ? (bytes - fixed) / per_position : 0);
    return config->n_ctx || n < least ? least : n;
}

// One conversation's: what the model was trained for, but at most half of what the budget leaves beside its weights:
// others want to live.
static unsigned one_ctx(const struct hd_config *config, const struct hd_model_facts *facts, uint64_t budget_bytes)
{
    uint64_t fixed = facts->weight_bytes + facts->scratch_bytes;
    uint64_t left = budget_bytes > fixed ? budget_bytes - fixed : 0;
    return ctx_within(config, facts, fixed + left / 2);
}

// As much for every session, of a quarter of what the budget leaves, and so that a second model like this one still
// fits; at least one conversation's.
static unsigned best_ctx(const struct hd_config *config, const struct hd_model_facts *facts, uint64_t budget_bytes)
{
    unsigned one = one_ctx(config, facts, budget_bytes);
    uint64_t second = needed(facts, one), fixed = facts->weight_bytes + facts->scratch_bytes;
    uint64_t left = budget_bytes > fixed ? budget_bytes - fixed : 0, room = left > second ? left - second : 0;
    room = room < left / 4 ? room : left / 4;
    uint64_t n = room / (facts->kv_bytes_per_position ? facts->kv_bytes_per_position : 1);
    uint64_t all = (uint64_t)config->max_sessions * limit_ctx(facts, MOST_CTX);
    n = n < all ? n : all;
    n = (n < MOST_CTX ? n : MOST_CTX) / PAGE * PAGE;
    return config->n_ctx || n < one ? one : (unsigned)n;
}

uint64_t hd_worker_needed(const struct hd_config *config, const struct hd_model_facts *facts,
                          uint64_t budget_bytes, bool *fits)
{
    *fits = needed(facts, least_ctx(config, facts)) <= budget_bytes;
    return needed(facts, best_ctx(config, facts, budget_bytes));
}

// ---- loaded models

struct hd_loaded *hd_models_loaded_at(struct hd_worker *worker, const char *path)
{
    for (unsigned i = 0; i < HD_MAX_LOADED; i++) {
        struct hd_loaded *model = &worker->models[i];
        if (model->engine && strcmp(model->path, path) == 0)
            return model;
    }
    return NULL;
}

static uint64_t bytes_of(const struct hd_loaded *model)
{
    return model->engine ? model->needed_bytes + model->adapter_bytes : 0;
}

static uint64_t held_bytes(const struct hd_worker *worker)
{
    uint64_t held = 0;
    for (unsigned i = 0; i < HD_MAX_LOADED; i++)
        held += bytes_of(&worker->models[i]);
    return held;
}

static void publish_models(struct hd_worker *worker, struct hd_worker_state *state) // {lock}
{
    state->n_models = 0;
    for (unsigned i = 0; i < HD_MAX_LOADED; i++) {
        const struct hd_loaded *model = &worker->models[i];
        if (!model->engine)
            continue;
        struct hd_model_state *to = &state->models[state->n_models++];
        *to = (struct hd_model_state){.loaded = true,
                                      .info = model->info,
                                      .needed_bytes = bytes_of(model),
                                      .since_ms = model->since_ms,
                                      .active = hd_model_active(model)};
        memcpy(to->name, model->name, sizeof to->name);
        memcpy(to->path, model->path, sizeof to->path);
        if (strcmp(model->path, worker->chosen_path) == 0)
            state->info = model->info;
    }
    if (worker->load.step == HD_LOAD_NONE || hd_models_loaded_at(worker, worker->load.path))
        return;
    struct hd_model_state *to = &state->models[state->n_models++];
    *to = (struct hd_model_state){.loading = true, .needed_bytes = worker->load.needed_bytes};
    hd_model_file_name(worker->load.path, to->name);
    memcpy(to->path, worker->load.path, sizeof to->path);
}

void hd_models_publish_pages(struct hd_worker *worker)
{
    unsigned all = 0, used = 0, cached = 0;
    for (unsigned i = 0; i < HD_MAX_LOADED; i++) {
        struct hearth_engine_info info = {0};
        if (worker->models[i].engine)
            hearth_engine_get_info(worker->models[i].engine, &info);
        all += info.n_pages;
        used += info.n_pages_used;
        cached += info.n_pages_cached;
    }
    pthread_mutex_lock(&worker->lock);
    worker->state.n_pages = all;
    worker->state.n_pages_used = used;
    worker->state.n_pages_cached = cached;
    pthread_mutex_unlock(&worker->lock);
}

void hd_models_publish(struct hd_worker *worker)
{
    pthread_mutex_lock(&worker->lock);
    struct hd_worker_state *state = &worker->state;
    state->loaded = worker->chosen_path[0] != 0;
    memcpy(state->path, worker->chosen_path, sizeof state->path);
    state->held_bytes = held_bytes(worker);
    publish_models(worker, state);
    pthread_mutex_unlock(&worker->lock);
}

void hd_models_close(struct hd_loaded *model)
{
    struct hd_worker *worker = model->worker;
    hd_train_lost(model, NULL);
    hd_worker_enter(worker);
    for (unsigned i = 0; i < model->n_slots; i++) {
        if (model->slots[i].session)
            hd_slot_close(&model->slots[i]);
    }
    hd_adapters_close(model);
    hd_loader_let_go(worker->loader, model->engine);
    hearth_engine_close(&model->engine);
    hd_worker_leave(worker);
    memset(model, 0, sizeof *model);
}

// Nothing can answer the questions for this model: they fail. Those that name none go with the one in use.
static void fail_waiting(struct hd_worker *worker, const char *path, bool in_use,
                         const struct hearth_error *error)
{
    char name[HD_MAX_MODEL_BYTES + 1];
    struct hd_waiting *waiting;
    hd_model_file_name(path, name);
    do {
        pthread_mutex_lock(&worker->lock);
        waiting = hd_queue_remove(worker, NULL, path);
        if (!waiting && in_use)
            waiting = hd_queue_remove(worker, NULL, "");
        pthread_mutex_unlock(&worker->lock);
        if (!waiting)
            continue;
        hd_worker_push_failed(worker, &waiting->job->response, name, error, NULL);
        hd_job_free(waiting->job);
        free(waiting);
    } while (waiting);
}

void hd_models_lost(struct hd_loaded *model, const struct hearth_error *error)
{
    struct hd_worker *worker = model->worker;
    bool in_use = strcmp(model->path, worker->chosen_path) == 0;
    for (unsigned i = 0; i < model->n_slots; i++) {
        struct hd_slot_session *slot = &model->slots[i];
        if (!slot->job)
            continue;
        hd_worker_push_failed(worker, &slot->job->response, model->name, error, NULL);
        hd_slot_end_job(slot);
    }
    hd_log(HD_LOG_ERROR, "the engine of %s failed: %s", model->name, error->text);
    hd_train_lost(model, error);
    hd_models_close(model);
    if (in_use) { // gone until somebody chooses one
        worker->chosen_path[0] = 0;
        pthread_mutex_lock(&worker->lock);
        snprintf(worker->state.problem, sizeof worker->state.problem, "%s", error->text);
        pthread_mutex_unlock(&worker->lock);
        fail_waiting(worker, "", true, error);
    }
    hd_models_publish(worker);
}

// ---- the end of a load

static void tell(struct hd_worker *worker, const struct hd_load_state *load, const struct hearth_error *error)
{
    struct hd_note note = {.type = HD_NOTE_MODEL, .error = *error, .text = strdup(load->path)};
    note.len_bytes = note.text ? strlen(note.text) : 0;
    note.tag = load->chosen ? load->tag : 0;
    hd_model_file_name(load->path, note.model);
    if (note.text || load->chosen)
        hd_worker_push(worker, &note);
}

static void end_load(struct hd_worker *worker, const struct hearth_error *error)
{
    struct hd_load_state load = worker->load;
    worker->load = (struct hd_load_state){0};
    bool in_use = strcmp(load.path, worker->chosen_path) == 0;
    for (unsigned i = 0; i < HD_MAX_LOADED; i++)
        worker->models[i].leaving = false;
    if (error->code == HEARTH_OK && load.chosen)
        memcpy(worker->chosen_path, load.path, sizeof load.path);
    if (error->code != HEARTH_OK && in_use && !hd_models_loaded_at(worker, load.path))
        worker->chosen_path[0] = 0; // it had made room for another, and does not come back
    pthread_mutex_lock(&worker->lock);
    worker->state.loading = worker->state.loading && !load.chosen;
    if (load.chosen || in_use)
        snprintf(worker->state.problem, sizeof worker->state.problem, "%s",
                 worker->chosen_path[0] ? "" : error->text);
    if (error->code == HEARTH_OK && load.chosen)
        worker->state.since_ms = hd_now_ms();
    pthread_mutex_unlock(&worker->lock);
    hd_models_publish(worker);
    if (error->code != HEARTH_OK)
        hd_train_no_model(worker, load.path, error);
    if (error->code != HEARTH_OK)
        fail_waiting(worker, load.path, !worker->chosen_path[0], error);
    tell(worker, &load, error);
}

static void install(struct hd_worker *worker, struct hd_loader_result *result)
{
    struct hd_loaded *model = worker->models;
    const struct hd_config *config = worker->params.config;
    while (model->engine)
        model++; // there is a place: try_room saw to it
    *model = (struct hd_loaded){.worker = worker,
                                .engine = result->engine,
                                .identity = result->file.identity,
                                .used = ++worker->use_counter,
                                .since_ms = hd_now_ms(),
                                .steady_ms = hd_steady_ms()};
    hearth_engine_get_info(model->engine, &model->info);
    memcpy(model->path, worker->load.path, sizeof model->path);
    hd_model_file_name(model->path, model->name);
    hd_model_tag(config, model->path, model->tag);
    model->needed_bytes = model->info.weight_bytes + model->info.kv_bytes + model->info.scratch_bytes;
    model->n_places = config->max_sessions < HD_MAX_SESSIONS ? config->max_sessions : HD_MAX_SESSIONS;
    model->n_slots = hd_config_engine_sessions(config);
    if (model->info.packed == HEARTH_PACKED_REFUSED)
        hd_log(HD_LOG_WARN, "packed weights were left out: %s", model->info.packed_problem);
    if (config->packed_cache && model->info.packed != HEARTH_PACKED_READ)
        hd_loader_keep(worker->loader, model->engine, model->path, &model->identity);
    end_load(worker, &result->error);
}

// ---- making room

static void refuse(struct hd_worker *worker, uint64_t budget_bytes)
{
    struct hearth_error error = {0};
    char name[HD_MAX_MODEL_BYTES + 1];
    const struct hd_model_facts *facts = &worker->load.file.facts;
    unsigned n_ctx = least_ctx(worker->params.config, facts);
    hd_model_file_name(worker->load.path, name);
    hd_fail(&error, HEARTH_UNSUPPORTED,
            "the model %s needs %.1f MiB (weights %.1f, %u positions %.1f, work %.1f), more than the memory "
            "budget"
            " of %.1f MiB: it was not loaded",
            name, (double)needed(facts, n_ctx) / 1048576, (double)facts->weight_bytes / 1048576, n_ctx,
            (double)(facts->kv_bytes_per_position * n_ctx) / 1048576, (double)facts->scratch_bytes / 1048576,
            (double)budget_bytes / 1048576);
    end_load(worker, &error);
}

static void on_checked(struct hd_worker *worker, const struct hd_loader_result *result)
{
    struct hd_load_state *load = &worker->load;
    if (result->error.code != HEARTH_OK) {
        end_load(worker, &result->error);
        return;
    }
    bool fits;
    load->file = result->file;
    load->budget_bytes = hd_memory_budget(worker->params.config->memory_budget_mib);
    load->needed_bytes =
        hd_worker_needed(worker->params.config, &load->file.facts, load->budget_bytes, &fits);
    load->step = HD_LOAD_ROOM;
    if (!fits)
        refuse(worker, load->budget_bytes);
    else
        hd_models_publish(worker);
}

static bool has_waiting(struct hd_worker *worker, const char *path)
{
    bool in_use = strcmp(path, worker->chosen_path) == 0, found = false;
    pthread_mutex_lock(&worker->lock);
    for (const struct hd_waiting *w = worker->first; w && !found; w = w->next)
        found = strcmp(w->path, path) == 0 || (in_use && !w->path[0]);
    pthread_mutex_unlock(&worker->lock);
    return found;
}

// When this model's turn is over, as far as the load that wants its memory goes.
static int64_t turn_ends_ms(const struct hd_worker *worker, const struct hd_loaded *model)
{
    const struct hd_load_state *load = &worker->load;
    int64_t from = load->since_ms > model->steady_ms ? load->since_ms : model->steady_ms;
    return load->chosen ? 0 : from + worker->params.switch_ms;
}

// The models that must go so that the load fits; least recently used first. The same file's old engine goes first.
// *enough is false when it does not fit beside the one that is trained on, which stays.
static unsigned choose_victims(struct hd_worker *worker, uint64_t need, struct hd_loaded *victims[HD_MAX_LOADED],
                               bool *enough)
{
    unsigned n = 0, n_loaded = 0;
    *enough = true;
    uint64_t held = held_bytes(worker);
    struct hd_loaded *same = hd_models_loaded_at(worker, worker->load.path);
    for (unsigned i = 0; i < HD_MAX_LOADED; i++)
        n_loaded += worker->models[i].engine != NULL;
    while (same || held + need > worker->load.budget_bytes || n_loaded - n == HD_MAX_LOADED) {
        struct hd_loaded *oldest = same;
        for (unsigned i = 0; i < HD_MAX_LOADED && !same; i++) {
            struct hd_loaded *model = &worker->models[i];
            bool taken = !model->engine || model->training;
            for (unsigned k = 0; k < n; k++)
                taken = taken || victims[k] == model;
            if (!taken && (!oldest || model->used < oldest->used))
                oldest = model;
        }
        if (!oldest || oldest->training) {
            *enough = worker->training.model == NULL;
            break;
        }
        same = NULL;
        held -= bytes_of(oldest);
        victims[n++] = oldest;
    }
    return n;
}

static void refuse_for_training(struct hd_worker *worker)
{
    struct hearth_error error = {0};
    char name[HD_MAX_MODEL_BYTES + 1];
    hd_model_file_name(worker->load.path, name);
    hd_fail(&error, HEARTH_BUSY, "the model %s has no room beside %s, which is being trained on: stop the training",
            name, worker->training.model->name);
    end_load(worker, &error);
}

bool hd_models_make_room(struct hd_worker *worker, uint64_t more_bytes, const struct hd_loaded *keep, const char *what,
                         struct hearth_error *err)
{
    uint64_t budget = hd_memory_budget(worker->params.config->memory_budget_mib);
    while (held_bytes(worker) + more_bytes > budget) {
        if (hd_adapters_shed(worker))
            continue;
        struct hd_loaded *oldest = NULL;
        for (unsigned i = 0; i < HD_MAX_LOADED; i++) {
            struct hd_loaded *model = &worker->models[i];
            bool stays = !model->engine || model == keep || model->training || hd_model_running(model) > 0 ||
                         strcmp(model->path, worker->chosen_path) == 0;
            if (!stays && (!oldest || model->used < oldest->used))
                oldest = model;
        }
        if (!oldest) {
            hd_fail(err, HEARTH_UNSUPPORTED,
                    "%s needs %.1f MiB, and of the memory budget of %.1f MiB %.1f are held by what is in use", what,
                    (double)more_bytes / 1048576, (double)budget / 1048576, (double)held_bytes(worker) / 1048576);
            return false;
        }
        hd_prefix_export_model(oldest);
        hd_log(HD_LOG_INFO, "model %s is unloaded: %s needs its memory", oldest->name, what);
        hd_models_close(oldest);
    }
    hd_models_publish(worker);
    return true;
}

// True when the load goes on; else the models that must go end what they write.
static bool try_room(struct hd_worker *worker)
{
    struct hd_load_state *load = &worker->load;
    const struct hd_config *config = worker->params.config;
    const struct hd_model_facts *facts = &load->file.facts;
    struct hd_loaded *victims[HD_MAX_LOADED];
    uint64_t least = needed(facts, least_ctx(config, facts));
    while (held_bytes(worker) + least > load->budget_bytes && hd_adapters_shed(worker))
        ; // rather than a model
    uint64_t held = held_bytes(worker), left = load->budget_bytes > held ? load->budget_bytes - held : 0;
    unsigned best = best_ctx(config, facts, load->budget_bytes), n_ctx = one_ctx(config, facts, load->budget_bytes);
    if (needed(facts, n_ctx) > left && least <= left)
        n_ctx = ctx_within(config, facts, left); // beside the others, with fewer positions
    bool idle = true, enough;
    unsigned n = choose_victims(worker, needed(facts, n_ctx), victims, &enough);
    if (!enough) {
        refuse_for_training(worker);
        return true;
    }
    int64_t now_ms = hd_steady_ms();
    for (unsigned i = 0; i < n; i++) {
        bool over = now_ms >= turn_ends_ms(worker, victims[i]);
        bool runs = hd_model_running(victims[i]) > 0;
        victims[i]->leaving = over;
        idle = idle && !runs && (over || !has_waiting(worker, victims[i]->path));
    }
    if (!idle)
        return false;
    for (unsigned i = 0; i < n; i++) {
        hd_prefix_export_model(victims[i]);
        hd_log(HD_LOG_INFO, "model %s is unloaded for another", victims[i]->name);
        hd_models_close(victims[i]);
    }
    if (held_bytes(worker) + needed(facts, best) <= load->budget_bytes)
        n_ctx = best;
    load->n_ctx = n_ctx;
    load->needed_bytes = needed(facts, n_ctx);
    load->step = HD_LOAD_OPEN;
    hd_models_publish(worker);
    hd_loader_open(worker->loader, load->path, n_ctx);
    return true;
}

int64_t hd_models_due_ms(const struct hd_worker *worker)
{
    int64_t due = 0, now_ms = hd_steady_ms();
    for (unsigned i = 0; i < HD_MAX_LOADED && worker->load.step == HD_LOAD_ROOM; i++) {
        const struct hd_loaded *model = &worker->models[i];
        int64_t ends_ms = model->engine ? turn_ends_ms(worker, model) : 0;
        if (ends_ms > now_ms && (!due || ends_ms < due))
            due = ends_ms;
    }
    return due;
}

// ---- beginning a load

// The choice of a model, else the oldest question for one that is not loaded. False: there is none.
static bool next_load(struct hd_worker *worker, struct hd_load_state *load)
{
    *load = (struct hd_load_state){.step = HD_LOAD_CHECK};
    bool found = false;
    pthread_mutex_lock(&worker->lock);
    if (worker->load_wanted) {
        worker->load_wanted = false;
        load->chosen = found = true;
        load->tag = worker->load_tag;
        load->since_ms = hd_steady_ms();
        memcpy(load->path, worker->load_path, sizeof load->path);
    }
    for (const struct hd_waiting *w = worker->first; w && !found; w = w->next) {
        const char *path = w->path[0] ? w->path : worker->chosen_path;
        if (!path[0] || hd_models_loaded_at(worker, path))
            continue;
        found = true;
        load->since_ms = w->since_ms;
        memcpy(load->path, path, sizeof load->path);
    }
    pthread_mutex_unlock(&worker->lock);
    const char *wanted = hd_train_wants(worker);
    if (!found && wanted && strlen(wanted) < sizeof load->path) {
        found = true;
        load->since_ms = hd_steady_ms();
        memcpy(load->path, wanted, strlen(wanted) + 1);
    }
    return found;
}

static bool begin(struct hd_worker *worker)
{
    static const struct hearth_error none;
    struct hd_load_state load;
    struct hd_file_identity identity;
    if (!next_load(worker, &load))
        return false;
    worker->load = load;
    const struct hd_loaded *model = hd_models_loaded_at(worker, load.path);
    if (model && hd_file_identify(load.path, &identity) && hd_file_same(&identity, &model->identity)) {
        end_load(worker, &none); // it is here already
        return true;
    }
    hd_models_publish(worker);
    hd_loader_check(worker->loader, load.path);
    return true;
}

// ---- giving a load up

static void end_dropped(struct hd_worker *worker)
{
    hd_log(HD_LOG_INFO, "nobody waits for %s any more: it is not loaded", worker->load.path);
    worker->load = (struct hd_load_state){0};
    for (unsigned i = 0; i < HD_MAX_LOADED; i++)
        worker->models[i].leaving = false;
    hd_models_publish(worker);
}

static void drop_unwanted(struct hd_worker *worker)
{
    struct hd_load_state *load = &worker->load;
    const char *training = hd_train_wants(worker);
    if (load->step == HD_LOAD_NONE || load->chosen || load->dropped || has_waiting(worker, load->path) ||
        (training && strcmp(training, load->path) == 0))
        return;
    if (load->step == HD_LOAD_ROOM) {
        end_dropped(worker);
    } else {
        load->dropped = true; // the loader comes back soon
        hd_loader_cancel(worker->loader);
    }
}

static void take_result(struct hd_worker *worker, struct hd_loader_result *result)
{
    bool dropped = worker->load.dropped;
    worker->load.dropped = false;
    if (result->error.code == HEARTH_CANCELED && dropped)
        end_dropped(worker); // who has come meanwhile begins another
    else if (!result->opened)
        on_checked(worker, result);
    else if (result->error.code == HEARTH_OK)
        install(worker, result);
    else
        end_load(worker, &result->error);
}

bool hd_models_round(struct hd_worker *worker)
{
    struct hd_loader_result result;
    pthread_mutex_lock(&worker->lock);
    bool done = worker->loader_done, stop = worker->stop;
    worker->loader_done = false;
    pthread_mutex_unlock(&worker->lock);
    if (stop)
        return false;
    if (done && hd_loader_take(worker->loader, &result)) {
        take_result(worker, &result);
        return true;
    }
    drop_unwanted(worker);
    if (worker->load.step == HD_LOAD_NONE)
        return begin(worker);
    return worker->load.step == HD_LOAD_ROOM && try_room(worker);
}
