// SPDX-License-Identifier: Apache-2.0
// From token bytes to text that may be shown: whole UTF-8 characters only, and nothing that could still turn
// out to be the beginning of a stop string. Fixed memory; no allocation. Engine thread.
#ifndef HT_ANSWER_H
#define HT_ANSWER_H
#include <stdbool.h>
#include <stddef.h>

#include "engine/base/limits.h"

struct ht_answer {
    // Stop strings, back to back; stop i is stops[stop_at[i] .. stop_at[i + 1]).
    char stops[HT_MAX_STOP_STRINGS * HT_MAX_STOP_BYTES];
    size_t stop_at[HT_MAX_STOP_STRINGS + 1];
    unsigned n_stops;
    // Bytes received and not yet shown: a held-back beginning of a stop string and an unfinished character.
    char held[HT_MAX_STOP_BYTES + 8 + HT_MAX_TOKEN_BYTES];
    size_t n_held;
    // What the last push or finish lets out: valid UTF-8. Invalid bytes have become U+FFFD (3 bytes each).
    char out[3 * (HT_MAX_STOP_BYTES + 8 + HT_MAX_TOKEN_BYTES)];
    size_t n_out;
};
// Forgets everything, stop strings included.
void ht_answer_reset(struct ht_answer *answer);
// False if there are too many, or the string is empty or too long.
bool ht_answer_add_stop(struct ht_answer *answer, const char *stop, size_t len_bytes);
// Takes the bytes of one token (at most HT_MAX_TOKEN_BYTES). True if a stop string is complete: `out` then
// holds what stands before its first byte, and nothing more may be pushed.
bool ht_answer_push(struct ht_answer *answer, const char *bytes, size_t len_bytes);
// The end: lets out what was held back.
void ht_answer_finish(struct ht_answer *answer);

#endif
