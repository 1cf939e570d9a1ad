// SPDX-License-Identifier: Apache-2.0
// Who has had how much of the engine's work lately. Work is counted in rows of a prompt; a row of an answer is charged
// what its step costs (ht_step_cost). A newcomer begins where the least served of those who are running stands: idling
// saves up nothing, and coming again forgives nothing. Engine thread.
#ifndef HT_FAIR_H
#define HT_FAIR_H
#include <stdbool.h>
#include <stdint.h>

#include "engine/base/error.h"

struct ht_share {
    uint64_t owner;     // 0: of the session in `slot` alone
    uint32_t slot;      // 0 where there is an owner
    uint32_t n_running; // requests
    uint32_t step_rows; // answers' rows in the step that is being planned
    double work;        // rows of prompts, so far
};
struct ht_fair {
    struct ht_share *shares;
    uint32_t n_shares;
    double floor; // the least work among those who run or ran last: only grows
};
HT_MUST_USE enum hearth_status ht_fair_init(struct ht_fair *fair, uint32_t max_sessions, struct hearth_error *err);
void ht_fair_deinit(struct ht_fair *fair);
// A request of this owner begins, in session `slot`. Returns its share, valid until ht_fair_leave.
uint32_t ht_fair_join(struct ht_fair *fair, uint64_t owner, uint32_t slot);
void ht_fair_leave(struct ht_fair *fair, uint32_t share);
// A step begins: moves the floor up, clears step_rows.
void ht_fair_begin(struct ht_fair *fair);
// The least work among running shares other than this one; infinite if there are none.
double ht_fair_least_other(const struct ht_fair *fair, uint32_t share);

// What a step of so many rows costs, in steps of one row; and what one row of a prompt costs. Constants measured on the
// reference machine (docs/performance.md), not a clock: decisions must come out the same each time.
float ht_step_cost(uint32_t n_rows);
#define HT_PROMPT_ROW_COST 0.18f

#endif
