// SPDX-License-Identifier: Apache-2.0
// Packing samples into rows, best fit, longest first; and the row as a training step takes it. Pure but for scratch.
#include <string.h>

#include "engine/base/limits.h"
#include "engine/base/mem.h"
#include "engine/learn/data.h"

struct shelves { // open rows by the room that they have left
    uint32_t *first; // [n_seq + 1] row + 1 with exactly so much room; 0 = none
    uint32_t *next;  // [n] row + 1 after a row in its list
    uint64_t *some;  // a bit for each room that a row has
};

// The smallest room >= length that a row has; 0 = none.
static uint32_t find_room(const struct shelves *s, uint32_t length, uint32_t n_seq)
{
    uint32_t word = length / 64;
    uint64_t bits = s->some[word] & (UINT64_MAX << length % 64);
    while (!bits) {
        if (++word > n_seq / 64)
            return 0;
        bits = s->some[word];
    }
    return word * 64 + (uint32_t)__builtin_ctzll(bits);
}

static void shelve(struct shelves *s, uint32_t row, uint32_t left)
{
    if (!left)
        return;
    s->next[row] = s->first[left];
    s->first[left] = row + 1;
    s->some[left / 64] |= 1ull << left % 64;
}

static uint32_t take_row(struct shelves *s, uint32_t left)
{
    uint32_t row = s->first[left] - 1;
    s->first[left] = s->next[row];
    if (!s->first[left])
        s->some[left / 64] &= ~(1ull << left % 64);
    return row;
}

static size_t place_all(const uint32_t *lengths, const uint32_t *order, size_t n, uint32_t n_seq,
                        struct shelves *s, struct hearth_data_place *places)
{
    size_t n_rows = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t sample = order[i], length = lengths[sample], left = find_room(s, length, n_seq);
        uint32_t row = left ? take_row(s, left) : (uint32_t)n_rows++;
        if (!left)
            left = n_seq;
        places[sample] = (struct hearth_data_place){row, n_seq - left};
        shelve(s, row, left - length);
    }
    return n_rows;
}

// Longest first, the order of equal ones kept: a counting sort.
static void sort(const uint32_t *lengths, size_t n, uint32_t n_seq, uint32_t *count, uint32_t *order)
{
    uint32_t at = 0;
    for (size_t i = 0; i < n; i++)
        count[lengths[i]]++;
    for (uint32_t length = n_seq; length; length--) {
        uint32_t here = count[length];
        count[length] = at;
        at += here;
    }
    for (size_t i = 0; i < n; i++)
        order[count[lengths[i]]++] = (uint32_t)i;
}

enum hearth_status hearth_data_pack(const uint32_t *lengths, size_t n, uint32_t n_seq,
                                    struct hearth_data_place *places, size_t *n_rows, struct hearth_error *err)
{
    *n_rows = 0;
    if (!n_seq || n_seq > HT_MAX_CTX || n >= UINT32_MAX)
        return ht_fail(err, HEARTH_INVALID, "rows of %u tokens for %zu samples are not possible", n_seq, n);
    for (size_t i = 0; i < n; i++)
        if (!lengths[i] || lengths[i] > n_seq)
            return ht_fail(err, HEARTH_INVALID, "sample %zu has %u tokens, a row %u", i, lengths[i], n_seq);
    if (!n)
        return HEARTH_OK;
    struct shelves s = {.first = ht_calloc((size_t)n_seq + 1, sizeof *s.first), .next = ht_calloc(n, sizeof *s.next),
                        .some = ht_calloc(n_seq / 64 + 1, sizeof *s.some)};
    uint32_t *order = ht_calloc(n, sizeof *order), *count = ht_calloc((size_t)n_seq + 1, sizeof *count);
    enum hearth_status status = HEARTH_OK;
    if (s.first && s.next && s.some && order && count) {
        sort(lengths, n, n_seq, count, order);
        *n_rows = place_all(lengths, order, n, n_seq, &s, places);
    } else {
        status = ht_fail(err, HEARTH_NOMEM, "no memory to pack %zu samples", n);
    }
    ht_free(s.first);
    ht_free(s.next);
    ht_free(s.some);
    ht_free(order);
    ht_free(count);
    return status;
}

enum hearth_status hearth_data_row_put(const struct hearth_data_row *row, uint32_t n_seq, uint32_t start,
                                       const int32_t *ids, const float *weights, size_t n_tokens,
                                       struct hearth_error *err)
{
    if (!n_tokens || start > n_seq || n_tokens > n_seq - start)
        return ht_fail(err, HEARTH_INVALID, "%zu tokens at %u do not fit into a row of %u", n_tokens, start, n_seq);
    for (uint32_t i = 0; i < n_tokens; i++) {
        bool last = i + 1 == n_tokens;
        row->ids[start + i] = ids[i];
        row->pos[start + i] = i;
        row->seg_from[start + i] = start;
        row->target[start + i] = last ? -1 : ids[i + 1];
        row->weight[start + i] = last ? 0 : weights[i + 1];
    }
    return HEARTH_OK;
}
