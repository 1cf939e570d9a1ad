// SPDX-License-Identifier: Apache-2.0
// Which tokens may come next, from what the session already holds: the longest recent place that reads like the end
// of the session proposes what followed there. A hash chain finds it without a search over the text; how often
// matches of each length were right in this answer tells how far to trust one. A proposal never changes an answer, so
// nothing here needs to be exact but cheap. Memory is planned with the session; nothing is allocated later. Engine
// thread.
#ifndef HT_SPECULATE_H
#define HT_SPECULATE_H
#include <stdint.h>

#include "engine/base/error.h"

enum {
    HT_MAX_DRAFT = 7,        // tokens proposed for one step
    HT_DRAFT_LENGTHS = 16,   // match lengths told apart; longer ones count as the last
    HT_DRAFT_HEADS = 4096,   // heads of hash chains
    HT_DRAFT_WINDOW = 32768, // places that chains remember, at most
};

struct ht_drafter {
    uint32_t *head; // [HT_DRAFT_HEADS] hash → newest place + 1 (a place: how many ids stand before it)
    uint32_t *prev; // [window] place → the one before with the same hash + 1
    uint32_t window, n_seen;
    uint32_t match, length;        // ids[match] is likely next: `length` ids before it end the text; 0 = none
    float right[HT_DRAFT_LENGTHS]; // how often a match of this length was right
};

// For sessions of up to n_positions ids.
HT_MUST_USE enum hearth_status ht_drafter_init(struct ht_drafter *drafter, uint32_t n_positions,
                                               struct hearth_error *err);
void ht_drafter_deinit(struct ht_drafter *drafter); // a zeroed one too
// A new request begins: forgets ids and experience.
void ht_drafter_reset(struct ht_drafter *drafter);
// ids[0 .. n) are known now, n > 0, those of the last call unchanged. Those from n_prompt on teach how far to trust
// matches.
void ht_drafter_learn(struct ht_drafter *drafter, const int32_t *ids, uint32_t n, uint32_t n_prompt);
// Writes up to `max` (<= HT_MAX_DRAFT) likely ids to ids[n ..], and for each the chance that it and all before it are
// right. Returns how many. ids[0 .. n) are those that were learnt.
uint32_t ht_drafter_propose(const struct ht_drafter *drafter, int32_t *ids, uint32_t n, uint32_t max,
                            float *chance);

#endif
