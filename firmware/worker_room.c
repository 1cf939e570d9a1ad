// SPDX-License-Identifier: Apache-2.0
// Places and positions: so many answers run at once, and all sessions share one pool of positions. Idle sessions give
// way to answers. Where that is not enough, somebody's answer is paused: it keeps its session and what was drawn, its
// positions go to whoever needs them, and it waits in the queue, before its person's later questions, to go on as if
// nothing had been (hearth_session_pause). Engine thread only.
//
// An answer gives way to somebody else's when its person has at least two more running than the other: then both are
// nearer to each other, and nobody's last one ever stands still for a question. That cannot go round in circles: each
// such pause makes the sum of the squares of what people have running smaller, and only an answer's end or a new
// question changes it otherwise. One that has gone on gets LEAST_RUN positions further before it is paused again.
// When running answers outgrow the pool, one of whoever has the most running, the last that began, is paused: the first
// that began always ends.
#include <stdlib.h>
#include <string.h>

#include "firmware/worker_internal.h"

enum {
    PAGE_ROOM = 64, // sessions take whole pages
    LEAST_RUN = 32,
};

// ---- who has what

unsigned hd_model_running(const struct hd_loaded *model)
{
    unsigned n = 0;
    for (unsigned i = 0; i < model->n_slots; i++)
        n += model->slots[i].job != NULL;
    return n;
}

static bool is_active(const struct hd_slot_session *slot)
{
    return slot->job && !slot->paused;
}

unsigned hd_model_active(const struct hd_loaded *model)
{
    unsigned n = 0;
    for (unsigned i = 0; i < model->n_slots; i++)
        n += is_active(&model->slots[i]);
    return n;
}

// Without those that were chosen to give way (NULL: nobody was).
static unsigned active_of(const struct hd_loaded *model, const struct hd_id *person, const bool *chosen)
{
    unsigned n = 0;
    for (unsigned i = 0; i < model->n_slots; i++) {
        const struct hd_slot_session *slot = &model->slots[i];
        n += is_active(slot) && !(chosen && chosen[i]) && hd_id_equal(&slot->job->person, person);
    }
    return n;
}

unsigned hd_model_active_of(const struct hd_loaded *model, const struct hd_id *person)
{
    return active_of(model, person, NULL);
}

size_t hd_model_longest(const struct hd_loaded *model)
{
    unsigned trained = model->info.n_ctx_train;
    return trained && trained < model->info.n_ctx ? trained : model->info.n_ctx;
}

struct hd_slot_session *hd_slot_oldest_idle(struct hd_loaded *model, const struct hd_slot_session *keep)
{
    struct hd_slot_session *oldest = NULL;
    for (unsigned i = 0; i < model->n_slots; i++) {
        struct hd_slot_session *slot = &model->slots[i];
        if (slot->session && !slot->job && slot != keep && (!oldest || slot->used < oldest->used))
            oldest = slot;
    }
    return oldest;
}

static unsigned taken_by(const struct hd_slot_session *slot)
{
    if (!slot->session || slot->paused)
        return 0;
    unsigned length = hearth_session_length(slot->session) + PAGE_ROOM / 2;
    return length > slot->planned ? length : slot->planned;
}

// What `need` positions for `slot` and everybody else's come to; chosen ones give theirs up.
static uint64_t total_with(const struct hd_loaded *model, const struct hd_slot_session *slot, unsigned need,
                           const bool *chosen)
{
    uint64_t taken = need;
    for (unsigned i = 0; i < model->n_slots; i++)
        taken += &model->slots[i] != slot && !(chosen && chosen[i]) ? taken_by(&model->slots[i]) : 0;
    return taken;
}

// Closes idle sessions (but for its own) until `need` positions are free for `slot`. False: they are not.
static bool close_idle(struct hd_loaded *model, const struct hd_slot_session *slot, unsigned need)
{
    while (total_with(model, slot, need, NULL) > model->info.n_ctx) {
        struct hd_slot_session *idle = hd_slot_oldest_idle(model, slot);
        if (!idle)
            return false;
        hd_slot_close(idle);
    }
    return true;
}

// ---- pauses

static void pause_answer(struct hd_slot_session *slot)
{
    struct hd_worker *worker = slot->model->worker;
    size_t most = hd_model_longest(slot->model);
    unsigned length = hearth_session_length(slot->session), needs = length + 2 * PAGE_ROOM;
    needs = needs > slot->planned ? needs : slot->planned;
    slot->needs = needs < most ? needs : (unsigned)most;
    slot->pause_from = length + LEAST_RUN;
    slot->planned = 0;
    slot->paused = true;
    hearth_session_pause(slot->session);
    slot->waiting->slot = slot;
    slot->waiting->held = false;
    memcpy(slot->waiting->path, slot->model->path, sizeof slot->waiting->path); // whichever is in use by then
    pthread_mutex_lock(&worker->lock);
    worker->n_active--;
    hd_queue_started(worker, &slot->job->person, -1);
    hd_queue_put_back(worker, slot->waiting);
    pthread_mutex_unlock(&worker->lock);
    hd_models_publish(worker);
}

// Whether `a` shall rather be paused than `b`, where `lacking` positions are wanted: the smallest that has them, else
// the largest; else what began last.
static bool is_better(const struct hd_slot_session *a, const struct hd_slot_session *b, uint64_t lacking)
{
    unsigned at = taken_by(a), bt = taken_by(b);
    if (lacking && at != bt)
        return at >= lacking ? bt < lacking || at < bt : at > bt;
    return a->began > b->began;
}

// The answer that gives way to one more of this person; NULL: none does.
static struct hd_slot_session *gives_way(struct hd_loaded *model, const struct hd_id *person, const bool *chosen,
                                         uint64_t lacking)
{
    struct hd_slot_session *best = NULL;
    unsigned most = 0, own = active_of(model, person, chosen);
    for (unsigned i = 0; i < model->n_slots; i++) {
        struct hd_slot_session *slot = &model->slots[i];
        if (!is_active(slot) || (chosen && chosen[i]) || hearth_session_length(slot->session) < slot->pause_from)
            continue;
        unsigned n = active_of(model, &slot->job->person, chosen);
        if (n >= own + 2 && (n > most || (n == most && is_better(slot, best, lacking)))) {
            best = slot;
            most = n;
        }
    }
    return best;
}

bool hd_room_could_be_made(struct hd_loaded *model, const struct hd_id *person)
{
    return gives_way(model, person, NULL, 0) != NULL;
}

bool hd_room_make(struct hd_loaded *model, const struct hd_slot_session *slot, const struct hd_id *person,
                  unsigned need)
{
    bool chosen[HD_MAX_SLOTS] = {false};
    unsigned n_active = hd_model_active(model);
    close_idle(model, slot, need);
    for (;;) {
        uint64_t total = total_with(model, slot, need, chosen);
        uint64_t lacking = total > model->info.n_ctx ? total - model->info.n_ctx : 0;
        if (!lacking && n_active < model->n_places)
            break;
        struct hd_slot_session *other = gives_way(model, person, chosen, lacking);
        if (!other)
            return false;
        chosen[other - model->slots] = true;
        n_active--;
    }
    for (unsigned i = 0; i < model->n_slots; i++) {
        if (chosen[i])
            pause_answer(&model->slots[i]);
    }
    return true;
}

// Of whoever has the most running, what began last.
static struct hd_slot_session *last_of_most(struct hd_loaded *model)
{
    struct hd_slot_session *best = NULL;
    unsigned most = 0;
    for (unsigned i = 0; i < model->n_slots; i++) {
        struct hd_slot_session *slot = &model->slots[i];
        unsigned n = is_active(slot) ? active_of(model, &slot->job->person, NULL) : 0;
        if (n > most || (n && n == most && slot->began > best->began)) {
            best = slot;
            most = n;
        }
    }
    return best;
}

void hd_room_for_running(struct hd_loaded *model)
{
    size_t most = hd_model_longest(model);
    for (unsigned i = 0; i < model->n_slots; i++) {
        struct hd_slot_session *slot = &model->slots[i];
        if (!is_active(slot) || hearth_session_length(slot->session) + PAGE_ROOM <= slot->planned)
            continue;
        size_t need = hearth_session_length(slot->session) + 2 * PAGE_ROOM;
        slot->planned = (unsigned)(need < most ? need : most);
        while (!slot->paused && !close_idle(model, slot, slot->planned) && hd_model_active(model) > 1)
            pause_answer(last_of_most(model));
    }
}

enum hearth_status hd_slot_go_on(struct hd_slot_session *slot)
{
    struct hd_loaded *model = slot->model;
    if (!hd_room_make(model, slot, &slot->job->person, slot->needs) && hd_model_active(model) > 0)
        return HEARTH_BUSY;
    slot->planned = slot->needs;
    slot->paused = false;
    hearth_session_resume(slot->session);
    return HEARTH_OK;
}
