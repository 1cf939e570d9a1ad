// SPDX-License-Identifier: Apache-2.0
// The order of an epoch: each copy of a sample draws a 64-bit key from (seed, sample, epoch, copy); a window is a range
// of keys. Within it samples are packed into rows, and rows come in the order of the least key in each. Nothing of an
// epoch is stored: a window is made anew from the samples when its turn comes. Engine thread.
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "engine/learn/trainer.h"

enum { WINDOW_SAMPLES = 4096, ORDER_STREAM = 0x4F }; // 0x4F: the order of an epoch

static unsigned copies(const struct ht_train_order *order, const struct ht_train_sample *s, uint32_t epoch)
{
    if (epoch == HT_TRAIN_HELD_OUT)
        return s->held_out;
    if (s->held_out)
        return 0;
    double weight = order->weights[s->file];
    return s->id ? ht_data_copies(s->id, weight, order->data_seed, order->data_epoch + epoch) : (unsigned)weight;
}

// A power of two, so that one more record seldom changes it.
uint32_t ht_train_n_windows(const struct ht_train_order *order, bool held_out)
{
    double n = 0;
    uint32_t windows = 1;
    for (size_t i = 0; i < order->store->n_samples; i++) {
        const struct ht_train_sample *s = &order->store->samples[i];
        n += s->held_out != held_out ? 0 : held_out ? 1 : order->weights[s->file];
    }
    while (n / windows > WINDOW_SAMPLES)
        windows *= 2;
    return windows;
}

static uint64_t draw(const struct ht_train_order *order, const struct ht_train_sample *s, uint32_t epoch,
                     uint32_t copy)
{
    uint64_t use = (uint64_t)ORDER_STREAM << 56 | (uint64_t)(copy & 0xFFFFFF) << 32 | epoch;
    struct ht_philox word = ht_philox(order->seed, s->key, use);
    return (uint64_t)word.v[1] << 32 | word.v[0];
}

static bool room(struct ht_train_window *w)
{
    size_t to = w->capacity ? 2 * w->capacity : 256;
    void *entries = w->entries, *sorted = w->sorted, *lengths = w->lengths, *row_of = w->row_of, *from = w->row_from;
    void *places = w->places;
    bool good = ht_grow(&entries, w->capacity, to, sizeof *w->entries);
    good = ht_grow(&sorted, w->capacity, to, sizeof *w->sorted) && good;
    good = ht_grow(&lengths, w->capacity, to, sizeof *w->lengths) && good;
    good = ht_grow(&row_of, w->capacity, to, sizeof *w->row_of) && good;
    good = ht_grow(&from, w->capacity ? w->capacity + 1 : 0, to + 1, sizeof *w->row_from) && good;
    good = ht_grow(&places, w->capacity, to, sizeof *w->places) && good;
    w->entries = entries;
    w->sorted = sorted;
    w->lengths = lengths;
    w->row_of = row_of;
    w->row_from = from;
    w->places = places;
    if (good)
        w->capacity = to;
    return good;
}

static int by_key(const void *a, const void *b)
{
    const struct ht_train_entry *x = a, *y = b;
    if (x->key != y->key)
        return x->key < y->key ? -1 : 1;
    if (x->sample != y->sample)
        return x->sample < y->sample ? -1 : 1;
    return (x->copy > y->copy) - (x->copy < y->copy);
}

static int by_place(const void *a, const void *b)
{
    const struct ht_train_entry *x = a, *y = b;
    if (x->row != y->row)
        return x->row < y->row ? -1 : 1;
    return (x->start > y->start) - (x->start < y->start);
}

// Rows are numbered by the first of their samples; `sorted` and `row_from` follow.
static void number_rows(struct ht_train_window *w)
{
    uint32_t next = 0;
    memset(w->row_of, 0xFF, w->n_rows * sizeof *w->row_of);
    for (size_t i = 0; i < w->n_entries; i++) {
        uint32_t packed = w->places[i].row;
        if (w->row_of[packed] == UINT32_MAX)
            w->row_of[packed] = next++;
        w->entries[i].row = w->row_of[packed];
        w->entries[i].start = w->places[i].start;
    }
    memcpy(w->sorted, w->entries, w->n_entries * sizeof *w->sorted);
    qsort(w->sorted, w->n_entries, sizeof *w->sorted, by_place);
    for (uint32_t i = 0, row = 0; i <= w->n_entries; i++)
        while (row <= (i < w->n_entries ? w->sorted[i].row : w->n_rows))
            w->row_from[row++] = i;
}

enum hearth_status ht_train_window_make(struct ht_train_window *window, const struct ht_train_order *order,
                                        uint32_t epoch, uint32_t index, uint32_t n_windows, struct hearth_error *err)
{
    const struct ht_train_store *store = order->store;
    window->n_entries = window->n_rows = 0;
    for (uint32_t i = 0; i < store->n_samples; i++) {
        const struct ht_train_sample *s = &store->samples[i];
        unsigned n = copies(order, s, epoch);
        for (uint32_t copy = 0; copy < n; copy++) {
            uint64_t key = draw(order, s, epoch, copy);
            if ((uint32_t)((key >> 32) * n_windows >> 32) != index)
                continue;
            if (window->n_entries == window->capacity && !room(window))
                return ht_fail(err, HEARTH_NOMEM, "out of memory to put %zu samples in order", window->n_entries);
            window->entries[window->n_entries++] = (struct ht_train_entry){.key = key, .sample = i, .copy = copy};
        }
    }
    if (!window->n_entries)
        return HEARTH_OK;
    qsort(window->entries, window->n_entries, sizeof *window->entries, by_key);
    for (size_t i = 0; i < window->n_entries; i++)
        window->lengths[i] = store->samples[window->entries[i].sample].n_tokens;
    HT_TRY(hearth_data_pack(window->lengths, window->n_entries, order->n_seq, window->places, &window->n_rows, err));
    number_rows(window);
    return HEARTH_OK;
}

void ht_train_window_free(struct ht_train_window *window)
{
    ht_free(window->entries);
    ht_free(window->sorted);
    ht_free(window->lengths);
    ht_free(window->row_of);
    ht_free(window->row_from);
    ht_free(window->places);
    *window = (struct ht_train_window){0};
}
