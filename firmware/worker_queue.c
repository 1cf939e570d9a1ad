// SPDX-License-Identifier: Apache-2.0
// Who is next: waiting questions and what each person has had of the engine so far. Everything here is called under
// the worker's lock, by both threads.
//
// Each person has a count of the tokens that were computed for them. Whoever has the least is served next; between
// equals the one with fewer running answers, then the older question. Who comes, or comes back, starts where the least
// of those present stands: nobody saves up, and nobody pays for having been alone. While others wait nobody runs more
// than their share of the places; who is alone has them all. Who comes new waits for no answer of a flood: one of those
// is paused (worker_room.c) and waits here like a question, before its person's later ones. What finds no room holds
// the later ones of its person if that person has an answer, else everybody's.
#include <stdlib.h>
#include <string.h>

#include "firmware/worker_internal.h"

static bool is_here(const struct hd_person_work *work)
{
    return work->used && (work->waiting || work->running);
}

static struct hd_person_work *find(struct hd_worker *worker, const struct hd_id *person)
{
    for (size_t i = 0; i < HD_MAX_PEOPLE; i++) {
        struct hd_person_work *work = &worker->people[i];
        if (work->used && hd_id_equal(&work->person, person))
            return work;
    }
    return NULL;
}

// The least that anybody present has had; who has just left counts when nobody is.
static double least_tokens(const struct hd_worker *worker)
{
    double least = -1;
    for (size_t i = 0; i < HD_MAX_PEOPLE; i++) {
        const struct hd_person_work *work = &worker->people[i];
        if (is_here(work) && (least < 0 || work->tokens < least))
            least = work->tokens;
    }
    return least < 0 ? worker->tokens_floor : least;
}

struct hd_person_work *hd_queue_person(struct hd_worker *worker, const struct hd_id *person)
{
    struct hd_person_work *work = find(worker, person);
    if (work)
        return work;
    for (size_t i = 0; i < HD_MAX_PEOPLE; i++) { // a free place, else that of who was not seen for longest
        struct hd_person_work *place = &worker->people[i];
        if (!is_here(place) && (!work || place->used < work->used))
            work = place;
    }
    if (work)
        *work = (struct hd_person_work){.person = *person, .used = ++worker->people_counter};
    return work;
}

unsigned hd_queue_waiting(struct hd_worker *worker, const struct hd_id *person)
{
    const struct hd_person_work *work = find(worker, person);
    return work ? work->waiting : 0;
}

void hd_queue_add(struct hd_worker *worker, struct hd_waiting *waiting)
{
    struct hd_person_work *work = hd_queue_person(worker, &waiting->job->person);
    if (work && !is_here(work)) {
        double least = least_tokens(worker);
        work->tokens = work->tokens > least ? work->tokens : least;
    }
    if (work) {
        work->used = ++worker->people_counter;
        work->waiting++;
    }
    waiting->next = NULL;
    if (worker->last)
        worker->last->next = waiting;
    else
        worker->first = waiting;
    worker->last = waiting;
    worker->n_waiting++;
    hd_worker_poke(worker);
}

void hd_queue_put_back(struct hd_worker *worker, struct hd_waiting *waiting)
{
    struct hd_person_work *work = find(worker, &waiting->job->person);
    if (work)
        work->waiting++;
    waiting->next = worker->first;
    worker->first = waiting;
    if (!worker->last)
        worker->last = waiting;
    worker->n_waiting++;
}

void hd_queue_take_out(struct hd_worker *worker, struct hd_waiting *waiting)
{
    struct hd_waiting *before = NULL;
    for (struct hd_waiting *w = worker->first; w != waiting; w = w->next)
        before = w;
    if (before)
        before->next = waiting->next;
    else
        worker->first = waiting->next;
    if (worker->last == waiting)
        worker->last = before;
    worker->n_waiting--;
    struct hd_person_work *work = find(worker, &waiting->job->person);
    if (work)
        work->waiting--;
}

struct hd_waiting *hd_queue_remove(struct hd_worker *worker, const struct hd_id *response, const char *path)
{
    for (struct hd_waiting *w = worker->first; w; w = w->next) {
        if (w->slot || (response && !hd_id_equal(&w->job->response, response)) || (path && strcmp(w->path, path) != 0))
            continue;
        hd_queue_take_out(worker, w);
        return w;
    }
    return NULL;
}

// A paused answer names its model, where a question for the one in use may name none.
static const char *model_of(const struct hd_worker *worker, const struct hd_waiting *waiting)
{
    return waiting->path[0] ? waiting->path : worker->chosen_path;
}

bool hd_queue_is_held(const struct hd_worker *worker, const struct hd_waiting *waiting)
{
    const char *model = model_of(worker, waiting);
    for (const struct hd_waiting *w = worker->first; w; w = w->next) {
        if (w->held && hd_id_equal(&w->job->person, &waiting->job->person) && strcmp(model_of(worker, w), model) == 0)
            return true;
    }
    return false;
}

void hd_queue_release(struct hd_worker *worker)
{
    for (struct hd_waiting *w = worker->first; w; w = w->next)
        w->held = false;
}

// Of n_places, when everybody present gets as many.
static unsigned share(const struct hd_worker *worker, unsigned n_places)
{
    unsigned n = 0;
    for (size_t i = 0; i < HD_MAX_PEOPLE; i++)
        n += is_here(&worker->people[i]);
    return n > 1 ? (n_places + n - 1) / n : n_places;
}

static bool comes_before(const struct hd_person_work *a, const struct hd_person_work *b, unsigned cap)
{
    if ((a->running < cap) != (b->running < cap))
        return a->running < cap;
    if (a->tokens != b->tokens)
        return a->tokens < b->tokens;
    return a->running < b->running;
}

struct hd_waiting *hd_queue_pick(struct hd_worker *worker, unsigned n_places,
                                 bool (*may)(void *user, const struct hd_waiting *waiting), void *user)
{
    static const struct hd_person_work nobody;
    struct hd_waiting *best = NULL;
    const struct hd_person_work *best_work = &nobody;
    unsigned cap = share(worker, n_places);
    for (struct hd_waiting *w = worker->first; w; w = w->next) {
        const struct hd_person_work *work = find(worker, &w->job->person);
        work = work ? work : &nobody;
        if (may(user, w) && (!best || comes_before(work, best_work, cap))) {
            best = w;
            best_work = work;
        }
    }
    if (best)
        hd_queue_take_out(worker, best);
    return best;
}

void hd_queue_started(struct hd_worker *worker, const struct hd_id *person, int change)
{
    struct hd_person_work *work = find(worker, person);
    if (work)
        work->running = (unsigned)((int)work->running + change);
}

void hd_queue_charge(struct hd_worker *worker, const struct hd_id *person, double tokens)
{
    struct hd_person_work *work = find(worker, person);
    if (!work)
        return;
    work->tokens += tokens;
    worker->tokens_floor = work->tokens;
}
