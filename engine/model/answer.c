// SPDX-License-Identifier: Apache-2.0
// Text that may be shown: see answer.h. Engine thread.
#include "engine/model/answer.h"

#include <string.h>

#include "engine/base/utf8.h"

void ht_answer_reset(struct ht_answer *answer)
{
    answer->n_stops = 0;
    answer->stop_at[0] = 0;
    answer->n_held = 0;
    answer->n_out = 0;
}

bool ht_answer_add_stop(struct ht_answer *answer, const char *stop, size_t len_bytes)
{
    if (answer->n_stops == HT_MAX_STOP_STRINGS || len_bytes == 0 || len_bytes > HT_MAX_STOP_BYTES)
        return false;
    size_t at = answer->stop_at[answer->n_stops];
    memcpy(answer->stops + at, stop, len_bytes);
    answer->stop_at[++answer->n_stops] = at + len_bytes;
    return true;
}

// Moves n held bytes to `out`, character by character; an unfinished last character stays unless `all`.
static void let_out(struct ht_answer *answer, size_t n, bool all)
{
    size_t at = 0;
    while (at < n) {
        int length = ht_utf8_scan(answer->held + at, n - at);
        if (length == 0 && !all)
            break;
        if (length <= 0) {
            memcpy(answer->out + answer->n_out, "\xEF\xBF\xBD", 3);
            answer->n_out += 3;
            at++;
        } else {
            memcpy(answer->out + answer->n_out, answer->held + at, (size_t)length);
            answer->n_out += (size_t)length;
            at += (size_t)length;
        }
    }
    memmove(answer->held, answer->held + at, answer->n_held - at);
    answer->n_held -= at;
}

// The earliest place in `held` where a stop string stands (whole) or may still be beginning (at the end).
static size_t first_stop(const struct ht_answer *answer, bool *whole)
{
    *whole = false;
    for (size_t at = 0; at < answer->n_held; at++)
        for (unsigned i = 0; i < answer->n_stops; i++) {
            size_t length = answer->stop_at[i + 1] - answer->stop_at[i], left = answer->n_held - at;
            if (memcmp(answer->held + at, answer->stops + answer->stop_at[i], length < left ? length : left))
                continue;
            if (length <= left) {
                *whole = true;
                return at;
            }
        }
    for (size_t at = 0; at < answer->n_held; at++)
        for (unsigned i = 0; i < answer->n_stops; i++) {
            size_t length = answer->stop_at[i + 1] - answer->stop_at[i], left = answer->n_held - at;
            if (left < length && !memcmp(answer->held + at, answer->stops + answer->stop_at[i], left))
                return at;
        }
    return answer->n_held;
}

bool ht_answer_push(struct ht_answer *answer, const char *bytes, size_t len_bytes)
{
    answer->n_out = 0;
    if (len_bytes > HT_MAX_TOKEN_BYTES)
        len_bytes = HT_MAX_TOKEN_BYTES;
    memcpy(answer->held + answer->n_held, bytes, len_bytes);
    answer->n_held += len_bytes;
    bool whole;
    size_t safe = first_stop(answer, &whole);
    let_out(answer, safe, whole);
    return whole;
}

void ht_answer_finish(struct ht_answer *answer)
{
    answer->n_out = 0;
    let_out(answer, answer->n_held, true);
}
