// SPDX-License-Identifier: Apache-2.0
// The ops that work row by row: who of the team does which part, kernels do the numbers. Team threads, inside
// a submit.
#include <string.h>

#include "engine/cpu/cpu.h"

// Items (part, row) of a call, shared out in order: the split that record.c calls ITEMS. Rows of one head go together,
// since their k lie in the same cache lines of a page.
static struct ht_range item_share(const struct ht_run *run, uint32_t rows, uint32_t items, unsigned thread)
{
    return ht_share(rows * items, thread, run->n_threads);
}

size_t ht_embed_thread_bytes(const struct ht_embed *p)
{
    return p->w->row_bytes;
}

void ht_run_embed(const struct ht_call *call, const struct ht_run *run, unsigned thread)
{
    const struct ht_embed *p = &call->p.embed;
    const struct ht_weight *w = p->w;
    uint32_t k = w->head.params.k;
    struct ht_range rows = ht_share(run->n_rows, thread, run->n_threads);
    void *blocks = ht_run_scratch(run, thread);
    for (uint32_t r = rows.from; r < rows.to; r++) {
        uint32_t id = (uint32_t)run->step->ids[r];
        float *y = ht_ref_floats(&p->y) + (size_t)r * p->stride;
        ht_layout_unpack_row(w->layout, ht_weight_group(w, id / HT_GROUP), k, id % HT_GROUP, blocks);
        ht_dequant_row(w->head.params.type, blocks, k, y);
        for (uint32_t i = 0; i < k; i++)
            y[i] *= p->scale;
    }
}

void ht_run_rmsnorm(const struct ht_call *call, const struct ht_run *run, unsigned thread)
{
    const struct ht_rmsnorm *p = &call->p.rmsnorm;
    if (call->deferred && run->n_rows <= HT_FEW)
        return;
    const float *x = ht_ref_floats(&p->x), *w = ht_ref_floats(&p->w);
    float *y = ht_ref_floats(&p->y);
    uint32_t rows = ht_run_rows(run, p->rows);
    struct ht_range items = item_share(run, rows, p->groups, thread);
    for (uint32_t i = items.from; i < items.to; i++) {
        size_t row = i % rows, at = (size_t)(i / rows) * p->dim;
        run->device->kernels.rmsnorm(x + row * p->x_stride + at, w, p->dim, p->eps, p->add,
                                     y + row * p->y_stride + at);
    }
}

void ht_run_rope(const struct ht_call *call, const struct ht_run *run, unsigned thread)
{
    const struct ht_rope *p = &call->p.rope;
    const struct ht_rope_table *table = &run->plan->ropes[call->rope_table];
    float *x = ht_ref_floats(&p->x);
    struct ht_range items = item_share(run, run->n_rows, p->heads, thread);
    for (uint32_t i = items.from; i < items.to; i++) {
        size_t row = i % run->n_rows, angles = row * table->pairs;
        run->device->kernels.rope(x + row * p->stride + (size_t)(i / run->n_rows) * p->dim,
                                  table->cosine + angles, table->sine + angles, p->n_rot, p->kind);
    }
}

void ht_run_kv_store(const struct ht_call *call, const struct ht_run *run, unsigned thread)
{
    const struct ht_kv_store *p = &call->p.kv_store;
    const struct ht_kv_params *kv = &p->kv->head.params;
    const struct ht_step *step = run->step;
    const float *k = ht_ref_floats(&p->k), *v = ht_ref_floats(&p->v);
    struct ht_range items = item_share(run, run->n_rows, kv->kv_heads, thread);
    for (uint32_t i = items.from; i < items.to; i++) {
        uint32_t row = i % run->n_rows, h = i / run->n_rows, pos = (uint32_t)step->pos[row];
        uint32_t page = step->page[(size_t)step->seq[row] * step->shape.pages + pos / HT_KV_PAGE];
        ht_kv_put(&p->kv->geometry, &run->device->kernels, ht_kv_head_at(p->kv, page, p->layer, h),
                  pos % HT_KV_PAGE, k + (size_t)row * p->k_stride + (size_t)h * kv->k_dim,
                  v + (size_t)row * p->v_stride + (size_t)h * kv->v_dim);
    }
}

void ht_run_glu(const struct ht_call *call, const struct ht_run *run, unsigned thread)
{
    const struct ht_glu *p = &call->p.glu;
    if (call->deferred && ht_matmul_takes_glu(call - 1, run))
        return;
    struct ht_range c = ht_share_columns(p->dim, thread, run->n_threads);
    const float *gate = ht_ref_floats(&p->gate) + c.from, *up = ht_ref_floats(&p->up) + c.from;
    float *y = ht_ref_floats(&p->y) + c.from;
    for (size_t r = 0; r < run->n_rows && c.to > c.from; r++)
        run->device->kernels.glu(p->act, gate + r * p->gate_stride, up + r * p->up_stride,
                                 y + r * p->y_stride, c.to - c.from);
}

void ht_run_gather(const struct ht_call *call, const struct ht_run *run, unsigned thread)
{
    const struct ht_gather *p = &call->p.gather;
    struct ht_range rows = ht_share(run->n_outs, thread, run->n_threads);
    for (uint32_t o = rows.from; o < rows.to; o++)
        memcpy(ht_ref_floats(&p->y) + (size_t)o * p->y_stride,
               ht_ref_floats(&p->x) + (size_t)run->step->out_row[o] * p->x_stride, p->dim * sizeof(float));
}

void ht_run_softcap(const struct ht_call *call, const struct ht_run *run, unsigned thread)
{
    const struct ht_softcap *p = &call->p.softcap;
    struct ht_range c = ht_share_columns(p->dim, thread, run->n_threads);
    uint32_t rows = ht_run_rows(run, p->rows);
    for (size_t r = 0; r < rows && c.to > c.from; r++)
        run->device->kernels.softcap(ht_ref_floats(&p->x) + r * p->stride + c.from, c.to - c.from, p->cap);
}
