// SPDX-License-Identifier: Apache-2.0
// Training ops over flat vectors, and the ops that draw. Team threads, inside a submit.
#include <math.h>

#include "engine/cpu/train.h"
#include "engine/cpu/train_row_kernels.h"

void ht_run_fill(const struct ht_call *call, const struct ht_run *run, unsigned thread)
{
    const struct ht_fill *p = &call->p.fill;
    struct ht_range c = ht_share_columns(p->n, thread, run->n_threads);
    for (uint32_t i = c.from; i < c.to; i++)
        ht_ref_floats(&p->x)[i] = p->value;
}

// ---- sum of squares

static uint32_t n_blocks(const struct ht_sumsq *p)
{
    return (p->n - 1) / HT_SUM_BLOCK + 1;
}

size_t ht_sumsq_shared_bytes(const struct ht_sumsq *p)
{
    return n_blocks(p) * sizeof(double);
}

void ht_run_sumsq(const struct ht_call *call, const struct ht_run *run, unsigned thread)
{
    const struct ht_sumsq *p = &call->p.sumsq;
    double *sums = (double *)(void *)run->plan->shared, total = 0;
    const struct ht_row_kernels *kernels = ht_train_rows(run->device->isa);
    struct ht_range blocks = ht_share(n_blocks(p), thread, run->n_threads);
    for (uint32_t b = blocks.from; b < blocks.to; b++) {
        uint32_t from = b * HT_SUM_BLOCK, left = p->n - from;
        sums[b] = kernels->square_sum(ht_ref_floats(&p->x) + from, left < HT_SUM_BLOCK ? left : HT_SUM_BLOCK);
    }
    ht_pool_barrier(run->device->pool, thread);
    if (thread)
        return;
    for (uint32_t b = 0; b < n_blocks(p); b++)
        total += sums[b];
    *ht_ref_floats(&p->sum) = (float)total;
}

void ht_run_scale(const struct ht_call *call, const struct ht_run *run, unsigned thread)
{
    const struct ht_scale *p = &call->p.scale;
    struct ht_range c = ht_share_columns(p->n, thread, run->n_threads);
    float *x = ht_ref_floats(&p->x), f = p->factor;
    if (p->sum.buf) {
        float norm = sqrtf(*ht_ref_floats(&p->sum));
        f = !isfinite(norm) ? NAN : norm > p->max_norm ? p->max_norm / (norm + 1e-6f) : 1.0f;
    }
    ht_train_rows(run->device->isa)->scale(x + c.from, c.to - c.from, f);
}

void ht_run_adamw(const struct ht_call *call, const struct ht_run *run, unsigned thread)
{
    const struct ht_adamw *p = &call->p.adamw;
    const struct ht_train_values *values = run->train->values;
    struct ht_range c = ht_share_columns(p->n, thread, run->n_threads);
    float *w = ht_ref_floats(&p->p), *m = ht_ref_floats(&p->m), *v = ht_ref_floats(&p->v);
    const float *g = ht_ref_floats(&p->g);
    float rate = values->lr * p->lr_factor;
    const struct ht_adamw_step s = {p->beta1, p->beta2, p->eps, values->correction2, -(rate / values->correction1),
                                    1.0f - rate * p->decay};
    ht_train_rows(run->device->isa)->adamw(&s, g + c.from, c.to - c.from, w + c.from, m + c.from, v + c.from);
}

void ht_run_adamw8(const struct ht_call *call, const struct ht_run *run, unsigned thread)
{
    const struct ht_adamw8 *p = &call->p.adamw8;
    const struct ht_train_values *values = run->train->values;
    struct ht_range blocks = ht_share((p->n - 1) / HT_MOMENT_BLOCK + 1, thread, run->n_threads);
    float rate = values->lr * p->lr_factor;
    const struct ht_adamw_step s = {p->beta1, p->beta2, p->eps, values->correction2, -(rate / values->correction1),
                                    1.0f - rate * p->decay};
    const struct ht_draw draw = {values->seed, values->step << 24 | p->stream, 0};
    for (uint32_t b = blocks.from; b < blocks.to; b++) {
        uint32_t i = b * HT_MOMENT_BLOCK, n = p->n - i < HT_MOMENT_BLOCK ? p->n - i : HT_MOMENT_BLOCK;
        ht_train_rows(run->device->isa)
            ->adamw8(&s, &draw, p->first + i, ht_ref_floats(&p->g) + i, n, ht_ref_floats(&p->p) + i,
                     (int8_t *)(void *)ht_ref_floats(&p->m) + i, (uint8_t *)(void *)ht_ref_floats(&p->v) + i,
                     ht_ref_floats(&p->scales) + 2 * (size_t)b);
    }
}

// ---- draws

static struct ht_draw draw_of(const struct ht_run *run, uint32_t stream, uint32_t row)
{
    const struct ht_train_values *values = run->train->values;
    return (struct ht_draw){values->seed, values->step << 24 | stream, run->train->row_id[row]};
}

void ht_run_dropout(const struct ht_call *call, const struct ht_run *run, unsigned thread)
{
    const struct ht_dropout *p = &call->p.dropout;
    bool outs = p->rows == HT_ROWS_OUT;
    struct ht_range rows = ht_share(ht_run_rows(run, p->rows), thread, run->n_threads);
    uint32_t limit = (uint32_t)((double)p->rate * 0x1p32);
    for (uint32_t r = rows.from; r < rows.to; r++) {
        struct ht_draw draw = draw_of(run, p->stream, outs ? (uint32_t)run->step->out_row[r] : r);
        ht_train_rows(run->device->isa)
            ->dropout(&draw, ht_ref_floats(&p->x) + (size_t)r * p->x_stride, p->dim, limit, 1.0f / (1.0f - p->rate),
                      p->add, ht_ref_floats(&p->y) + (size_t)r * p->y_stride);
    }
}

static uint32_t segment_rows(const struct ht_run *run, uint32_t r)
{
    uint32_t from = run->train->seg_from[r], end = r + 1;
    while (end < run->n_rows && run->train->seg_from[end] == from)
        end++;
    return end - from;
}

void ht_run_noise(const struct ht_call *call, const struct ht_run *run, unsigned thread)
{
    const struct ht_noise *p = &call->p.noise;
    struct ht_range rows = ht_share(run->n_rows, thread, run->n_threads);
    for (uint32_t r = rows.from; r < rows.to; r++) {
        struct ht_draw draw = draw_of(run, p->stream, r);
        ht_train_rows(run->device->isa)
            ->noise(&draw, ht_ref_floats(&p->x) + (size_t)r * p->stride, p->dim,
                    p->alpha / sqrtf((float)segment_rows(run, r) * (float)p->dim));
    }
}
