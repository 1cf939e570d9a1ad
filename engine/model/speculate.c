// SPDX-License-Identifier: Apache-2.0
// Proposals out of what a session holds: see speculate.h. Engine thread.
#include "engine/model/speculate.h"

#include <stdbool.h>
#include <string.h>

#include "engine/base/mem.h"

enum {
    DEPTH = 128,   // places of a chain that are compared
    COMPARED = 32, // longest match told apart
};

enum hearth_status ht_drafter_init(struct ht_drafter *drafter, uint32_t n_positions, struct hearth_error *err)
{
    *drafter = (struct ht_drafter){.window = HT_DRAFT_WINDOW};
    while (drafter->window / 2 > n_positions)
        drafter->window /= 2;
    drafter->head = ht_calloc(HT_DRAFT_HEADS, sizeof *drafter->head);
    drafter->prev = ht_calloc(drafter->window, sizeof *drafter->prev);
    if (drafter->head && drafter->prev)
        return HEARTH_OK;
    ht_drafter_deinit(drafter);
    return ht_fail(err, HEARTH_NOMEM, "out of memory for looking back on %u positions", n_positions);
}

void ht_drafter_deinit(struct ht_drafter *drafter)
{
    ht_free(drafter->head);
    ht_free(drafter->prev);
    *drafter = (struct ht_drafter){0};
}

void ht_drafter_reset(struct ht_drafter *drafter)
{
    // What matches of each length are worth before this answer has told (docs/performance.md).
    static const float usual[HT_DRAFT_LENGTHS] = {0,    .15f, .30f, .45f, .55f, .60f, .65f, .70f,
                                                  .75f, .75f, .80f, .80f, .80f, .85f, .85f, .90f};
    memset(drafter->head, 0, HT_DRAFT_HEADS * sizeof *drafter->head);
    drafter->n_seen = drafter->match = drafter->length = 0;
    memcpy(drafter->right, usual, sizeof usual);
}

static uint32_t hash_of(int32_t id)
{
    uint32_t h = (uint32_t)id * 2654435761u;
    return (h ^ h >> 15) % HT_DRAFT_HEADS;
}

static float *right_at(struct ht_drafter *d, uint32_t length)
{
    return &d->right[length < HT_DRAFT_LENGTHS ? length : HT_DRAFT_LENGTHS - 1];
}

// The longest of the newest places that read like the end of ids[0 .. n); the newest of equals.
static void look_up(struct ht_drafter *d, const int32_t *ids, uint32_t n)
{
    d->match = d->length = 0;
    uint32_t place = d->head[hash_of(ids[n - 1])];
    for (int i = 0; i < DEPTH && place; i++) {
        uint32_t at = place - 1, same = 0;
        while (same < COMPARED && same < at && ids[at - 1 - same] == ids[n - 1 - same])
            same++;
        if (same > d->length) {
            d->match = at;
            d->length = same;
        }
        place = d->prev[at & (d->window - 1)]; // beyond the window a slot is a newer place's: as good as any
    }
}

static void remember(struct ht_drafter *d, const int32_t *ids, uint32_t place)
{
    uint32_t *head = &d->head[hash_of(ids[place - 1])];
    d->prev[place & (d->window - 1)] = *head;
    *head = place + 1;
}

void ht_drafter_learn(struct ht_drafter *d, const int32_t *ids, uint32_t n, uint32_t n_prompt)
{
    enum { MEMORY = 12 }; // answers of about so many tokens weigh
    for (; d->n_seen < n; d->n_seen++) {
        uint32_t at = d->n_seen;
        bool scored = at >= n_prompt;
        if (scored && d->length) {
            float *right = right_at(d, d->length);
            bool hit = ids[d->match] == ids[at];
            *right += ((hit ? 1.0f : 0.0f) - *right) / MEMORY;
            d->match = hit ? d->match + 1 : 0;
            d->length = hit ? d->length + 1 : 0;
        }
        if (at + 1 >= n_prompt && !d->length)
            look_up(d, ids, at + 1);
        remember(d, ids, at + 1);
    }
}

uint32_t ht_drafter_propose(const struct ht_drafter *d, int32_t *ids, uint32_t n, uint32_t max, float *chance)
{
    float all = 1;
    uint32_t count = d->length ? max : 0;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t length = d->length + i;
        all *= d->right[length < HT_DRAFT_LENGTHS ? length : HT_DRAFT_LENGTHS - 1];
        chance[i] = all;
        ids[n + i] = ids[d->match + i];
    }
    return count;
}
