// SPDX-License-Identifier: Apache-2.0
// Training ops over flat vectors, and the ops that draw. Team threads, inside a submit.
#include <math.h>

#include "engine/base/rng.h"
#include "engine/cpu/train.h"

enum { SUM_BLOCK = 4096 };

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
    return (p->n - 1) / SUM_BLOCK + 1;
}

size_t ht_sumsq_shared_bytes(const struct ht_sumsq *p)
{
    return n_blocks(p) * sizeof(double);
}

static double block_sum(const float *x, uint32_t n)
{
    double p[16] = {0};
    for (uint32_t i = 0; i < n; i++)
        p[i % 16] += (double)x[i] * (double)x[i];
    for (int step = 8; step; step /= 2)
        for (int i = 0; i < step; i++)
            p[i] += p[i + step];
    return p[0];
}

void ht_run_sumsq(const struct ht_call *call, const struct ht_run *run, unsigned thread)
{
    const struct ht_sumsq *p = &call->p.sumsq;
    double *sums = (double *)(void *)run->plan->shared, total = 0;
    struct ht_range blocks = ht_share(n_blocks(p), thread, run->n_threads);
    for (uint32_t b = blocks.from; b < blocks.to; b++) {
        uint32_t from = b * SUM_BLOCK, left = p->n - from;
        sums[b] = block_sum(ht_ref_floats(&p->x) + from, left < SUM_BLOCK ? left : SUM_BLOCK);
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
    for (uint32_t i = c.from; i < c.to; i++)
        x[i] *= f;
}

void ht_run_adamw(const struct ht_call *call, const struct ht_run *run, unsigned thread)
{
    const struct ht_adamw *p = &call->p.adamw;
    const struct ht_train_values *values = run->train->values;
    struct ht_range c = ht_share_columns(p->n, thread, run->n_threads);
    float *w = ht_ref_floats(&p->p), *m = ht_ref_floats(&p->m), *v = ht_ref_floats(&p->v);
    const float *g = ht_ref_floats(&p->g);
    float rate = values->lr * p->lr_factor, step = -(rate / values->correction1), keep = 1.0f - rate * p->decay;
    for (uint32_t i = c.from; i < c.to; i++) {
        m[i] = fmaf(p->beta1, m[i], (1.0f - p->beta1) * g[i]);
        v[i] = fmaf(p->beta2, v[i], (1.0f - p->beta2) * g[i] * g[i]);
        w[i] = fmaf(step, m[i] / (sqrtf(v[i]) / values->correction2 + p->eps), w[i] * keep);
    }
}

// ---- draws

static struct ht_philox draw(const struct ht_run *run, uint32_t stream, uint32_t row, uint32_t column)
{
    const struct ht_train_values *values = run->train->values;
    return ht_philox(values->seed, (uint64_t)run->train->row_id[row] << 32 | column / 4,
                     values->step << 24 | stream);
}

void ht_run_dropout(const struct ht_call *call, const struct ht_run *run, unsigned thread)
{
    const struct ht_dropout *p = &call->p.dropout;
    struct ht_range rows = ht_share(run->n_rows, thread, run->n_threads);
    uint32_t limit = (uint32_t)((double)p->rate * 0x1p32);
    float scale = 1.0f / (1.0f - p->rate);
    for (uint32_t r = rows.from; r < rows.to; r++) {
        const float *x = ht_ref_floats(&p->x) + (size_t)r * p->x_stride;
        float *y = ht_ref_floats(&p->y) + (size_t)r * p->y_stride;
        struct ht_philox words = {{0}};
        for (uint32_t i = 0; i < p->dim; i++) {
            if (i % 4 == 0)
                words = draw(run, p->stream, r, i);
            float t = words.v[i % 4] >= limit ? x[i] * scale : 0.0f;
            y[i] = p->add ? y[i] + t : t;
        }
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
        float *x = ht_ref_floats(&p->x) + (size_t)r * p->stride;
        float size = p->alpha / sqrtf((float)segment_rows(run, r) * (float)p->dim);
        struct ht_philox words = {{0}};
        for (uint32_t i = 0; i < p->dim; i++) {
            if (i % 4 == 0)
                words = draw(run, p->stream, r, i);
            x[i] = fmaf(2.0f * ht_unit_f32(words.v[i % 4]) - 1.0f, size, x[i]);
        }
    }
}
