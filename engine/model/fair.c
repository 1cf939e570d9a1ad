// SPDX-License-Identifier: Apache-2.0
// Work that was counted, and who is next by it: see fair.h. Engine thread.
#include "engine/model/fair.h"

#include <math.h>

#include "engine/base/mem.h"

enum hearth_status ht_fair_init(struct ht_fair *fair, uint32_t max_sessions, struct hearth_error *err)
{
    // Twice as many as can run: who has just left is still known when he comes again.
    *fair = (struct ht_fair){.n_shares = 2 * max_sessions};
    fair->shares = ht_calloc(fair->n_shares, sizeof *fair->shares);
    return fair->shares ? HEARTH_OK
                        : ht_fail(err, HEARTH_NOMEM, "out of memory for the shares of %u sessions", max_sessions);
}

void ht_fair_deinit(struct ht_fair *fair)
{
    ht_free(fair->shares);
    *fair = (struct ht_fair){0};
}

uint32_t ht_fair_join(struct ht_fair *fair, uint64_t owner, uint32_t slot)
{
    slot = owner ? 0 : slot;
    uint32_t found = fair->n_shares;
    for (uint32_t i = 0; i < fair->n_shares; i++) {
        const struct ht_share *s = &fair->shares[i];
        if (s->owner == owner && s->slot == slot) {
            found = i;
            break;
        }
        if (!s->n_running && (found == fair->n_shares || s->work < fair->shares[found].work))
            found = i; // of those who left, the one who is least ahead is forgotten
    }
    struct ht_share *s = &fair->shares[found];
    if (s->owner != owner || s->slot != slot)
        *s = (struct ht_share){.owner = owner, .slot = slot};
    if (!s->n_running && s->work < fair->floor)
        s->work = fair->floor;
    s->n_running++;
    return found;
}

void ht_fair_leave(struct ht_fair *fair, uint32_t share)
{
    fair->shares[share].n_running--;
}

void ht_fair_begin(struct ht_fair *fair)
{
    double least = INFINITY;
    for (uint32_t i = 0; i < fair->n_shares; i++) {
        struct ht_share *s = &fair->shares[i];
        s->step_rows = 0;
        if (s->n_running && s->work < least)
            least = s->work;
    }
    if (least < INFINITY && least > fair->floor)
        fair->floor = least;
}

double ht_fair_least_other(const struct ht_fair *fair, uint32_t share)
{
    double least = INFINITY;
    for (uint32_t i = 0; i < fair->n_shares; i++)
        if (i != share && fair->shares[i].n_running && fair->shares[i].work < least)
            least = fair->shares[i].work;
    return least;
}

float ht_step_cost(uint32_t n_rows)
{
    static const struct {
        uint32_t rows;
        float cost;
    } known[] = {{0, 0},     {1, 1},     {2, 1.08f},  {3, 1.26f}, {4, 1.31f}, {5, 1.56f}, {6, 1.64f},
                 {7, 1.94f}, {8, 2.02f}, {12, 2.95f}, {16, 3.9f}, {32, 8.2f}, {64, 11.1f}};
    enum { N_KNOWN = sizeof known / sizeof *known };
    uint32_t i = 1;
    while (i < N_KNOWN - 1 && known[i].rows < n_rows)
        i++;
    if (n_rows > known[i].rows)
        return known[i].cost + HT_PROMPT_ROW_COST * (float)(n_rows - known[i].rows);
    float slope = (known[i].cost - known[i - 1].cost) / (float)(known[i].rows - known[i - 1].rows);
    return known[i].cost - slope * (float)(known[i].rows - n_rows);
}
