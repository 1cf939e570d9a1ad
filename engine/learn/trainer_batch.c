// SPDX-License-Identifier: Apache-2.0
// The rows of one optimizer step, side by side, as the graph takes them. Engine thread.
#include <string.h>

#include "engine/base/mem.h"
#include "engine/learn/trainer.h"

enum hearth_status ht_train_batch_init(struct ht_train_batch *batch, uint32_t n_sequences, uint32_t n_seq,
                                       struct hearth_error *err)
{
    size_t n;
    *batch = (struct ht_train_batch){.n_sequences = n_sequences, .n_seq = n_seq};
    bool good = ht_mul(n_sequences, n_seq, &n) && n < UINT32_MAX;
    good = good && (batch->ids = ht_calloc(n, sizeof *batch->ids)) != NULL;
    good = good && (batch->target = ht_calloc(n, sizeof *batch->target)) != NULL;
    good = good && (batch->pos = ht_calloc(n, sizeof *batch->pos)) != NULL;
    good = good && (batch->seg_from = ht_calloc(n, sizeof *batch->seg_from)) != NULL;
    good = good && (batch->row_id = ht_calloc(n, sizeof *batch->row_id)) != NULL;
    good = good && (batch->weight = ht_calloc(n, sizeof *batch->weight)) != NULL;
    good = good && (batch->unrolled = ht_calloc(n_seq, sizeof *batch->unrolled)) != NULL;
    good = good && (batch->used = ht_calloc(n_sequences, sizeof *batch->used)) != NULL;
    if (!good)
        return ht_fail(err, HEARTH_NOMEM, "out of memory for %u sequences of %u tokens", n_sequences, n_seq);
    return HEARTH_OK;
}

void ht_train_batch_free(struct ht_train_batch *batch)
{
    ht_free(batch->ids);
    ht_free(batch->target);
    ht_free(batch->pos);
    ht_free(batch->seg_from);
    ht_free(batch->row_id);
    ht_free(batch->weight);
    ht_free(batch->unrolled);
    ht_free(batch->used);
    *batch = (struct ht_train_batch){0};
}

void ht_train_batch_begin(struct ht_train_batch *batch)
{
    batch->n = batch->n_rows = 0;
    batch->n_targets = 0;
    batch->weight_sum = 0;
    batch->first = NULL;
}

// The weights of a sample, unrolled.
static void put_weights(const struct ht_train_sample *s, float *weights)
{
    uint32_t at = 0;
    for (uint32_t i = 0; i < s->n_runs; i++)
        for (uint32_t k = 0; k < s->runs[i].n; k++)
            weights[at++] = s->runs[i].weight;
}

// seg_from counts from the batch's first position until batch_part makes it the micro-batch's.
enum hearth_status ht_train_batch_add(struct ht_train_batch *batch, const struct ht_train_store *store,
                                      const struct ht_train_window *window, uint32_t row, struct hearth_error *err)
{
    uint32_t base = batch->n_rows, used = 0, sequence = batch->n++;
    const struct hearth_data_row to = {.ids = batch->ids + base, .target = batch->target + base,
                                       .pos = batch->pos + base, .seg_from = batch->seg_from + base,
                                       .weight = batch->weight + base};
    for (uint32_t i = window->row_from[row]; i < window->row_from[row + 1]; i++) {
        const struct ht_train_entry *e = &window->sorted[i];
        const struct ht_train_sample *s = &store->samples[e->sample];
        put_weights(s, batch->unrolled);
        HT_TRY(hearth_data_row_put(&to, batch->n_seq, e->start, s->ids, batch->unrolled, s->n_tokens, err));
        if (!batch->first)
            batch->first = s;
        used += s->n_tokens;
    }
    for (uint32_t r = 0; r < used; r++) {
        batch->row_id[base + r] = sequence * batch->n_seq + r;
        batch->seg_from[base + r] += base;
        batch->weight_sum += to.weight[r];
        batch->n_targets += to.weight[r] > 0;
    }
    batch->used[sequence] = used;
    batch->n_rows += used;
    return HEARTH_OK;
}

void ht_train_batch_normalise(struct ht_train_batch *batch)
{
    for (uint32_t r = 0; r < batch->n_rows; r++)
        batch->weight[r] = (float)(batch->weight[r] / batch->weight_sum);
}

struct ht_batch ht_train_batch_part(struct ht_train_batch *batch, uint32_t first, uint32_t n)
{
    uint32_t from = 0, rows = 0;
    for (uint32_t i = 0; i < first; i++)
        from += batch->used[i];
    for (uint32_t i = first; i < first + n; i++)
        rows += batch->used[i];
    for (uint32_t r = from; r < from + rows; r++) // each part is made once
        batch->seg_from[r] -= from;
    return (struct ht_batch){.n_rows = rows, .ids = batch->ids + from, .pos = batch->pos + from,
                             .seg_from = batch->seg_from + from, .target = batch->target + from,
                             .weight = batch->weight + from, .row_id = batch->row_id + from};
}
