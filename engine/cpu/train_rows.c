// SPDX-License-Identifier: Apache-2.0
// Backward of the ops that work row by row, and the loss: who does which part, kernels do the numbers. A row belongs to
// one thread. Team threads, inside a submit.
#include <string.h>

#include "engine/cpu/train.h"
#include "engine/cpu/train_row_kernels.h"

// ---- norms, rope

void ht_run_rmsnorm_back(const struct ht_call *call, const struct ht_run *run, unsigned thread)
{
    const struct ht_rmsnorm_back *p = &call->p.rmsnorm_back;
    const struct ht_row_kernels *kernels = ht_train_rows(run->device->isa);
    struct ht_range items = ht_share(ht_run_rows(run, p->rows) * p->groups, thread, run->n_threads);
    for (uint32_t i = items.from; i < items.to; i++) {
        size_t row = i / p->groups, at = (size_t)(i % p->groups) * p->dim;
        kernels->rmsnorm_back(ht_ref_floats(&p->x) + row * p->x_stride + at, ht_ref_floats(&p->w),
                              ht_ref_floats(&p->dy) + row * p->dy_stride + at, p->dim, p->eps, p->add,
                              ht_ref_floats(&p->dx) + row * p->dx_stride + at);
    }
}

void ht_run_layernorm(const struct ht_call *call, const struct ht_run *run, unsigned thread)
{
    const struct ht_layernorm *p = &call->p.layernorm;
    struct ht_range rows = ht_share(ht_run_rows(run, p->rows), thread, run->n_threads);
    for (size_t r = rows.from; r < rows.to; r++)
        ht_train_rows(run->device->isa)
            ->layernorm(ht_ref_floats(&p->x) + r * p->x_stride, ht_ref_floats(&p->w),
                        p->b.buf ? ht_ref_floats(&p->b) : NULL, p->dim, p->eps, ht_ref_floats(&p->y) + r * p->y_stride);
}

void ht_run_layernorm_back(const struct ht_call *call, const struct ht_run *run, unsigned thread)
{
    const struct ht_layernorm_back *p = &call->p.layernorm_back;
    struct ht_range rows = ht_share(ht_run_rows(run, p->rows), thread, run->n_threads);
    for (size_t r = rows.from; r < rows.to; r++)
        ht_train_rows(run->device->isa)
            ->layernorm_back(ht_ref_floats(&p->x) + r * p->x_stride, ht_ref_floats(&p->w),
                             ht_ref_floats(&p->dy) + r * p->dy_stride, p->dim, p->eps, p->add,
                             ht_ref_floats(&p->dx) + r * p->dx_stride);
}

// The transposed rotation is the one by the negative angle.
void ht_run_rope_back(const struct ht_call *call, const struct ht_run *run, unsigned thread)
{
    const struct ht_rope *p = &call->p.rope_back.rope;
    const struct ht_rope_table *table = &run->plan->ropes[call->rope_table];
    float *sine = ht_run_scratch(run, thread);
    struct ht_range rows = ht_share(run->n_rows, thread, run->n_threads);
    for (uint32_t r = rows.from; r < rows.to; r++) {
        size_t angles = (size_t)r * table->pairs;
        for (uint32_t i = 0; i < table->pairs; i++)
            sine[i] = -table->sine[angles + i];
        for (uint32_t h = 0; h < p->heads; h++)
            run->device->kernels.rope(ht_ref_floats(&p->x) + (size_t)r * p->stride + (size_t)h * p->dim,
                                      table->cosine + angles, sine, p->n_rot, p->kind);
    }
}

// ---- activations

void ht_run_glu_back(const struct ht_call *call, const struct ht_run *run, unsigned thread)
{
    const struct ht_glu_back *p = &call->p.glu_back;
    struct ht_range rows = ht_share(run->n_rows, thread, run->n_threads);
    for (size_t r = rows.from; r < rows.to; r++)
        ht_train_rows(run->device->isa)
            ->glu_back(p->act, ht_ref_floats(&p->gate) + r * p->gate_stride, ht_ref_floats(&p->up) + r * p->up_stride,
                       ht_ref_floats(&p->dy) + r * p->dy_stride, p->dim, ht_ref_floats(&p->dgate) + r * p->dgate_stride,
                       ht_ref_floats(&p->dup) + r * p->dup_stride);
}

void ht_run_softcap_back(const struct ht_call *call, const struct ht_run *run, unsigned thread)
{
    const struct ht_softcap_back *p = &call->p.softcap_back;
    struct ht_range rows = ht_share(ht_run_rows(run, p->rows), thread, run->n_threads);
    for (size_t r = rows.from; r < rows.to; r++)
        ht_train_rows(run->device->isa)
            ->softcap_back(ht_ref_floats(&p->y) + r * p->y_stride, ht_ref_floats(&p->dy) + r * p->dy_stride, p->dim,
                           p->cap, ht_ref_floats(&p->dx) + r * p->dx_stride);
}

void ht_run_scatter(const struct ht_call *call, const struct ht_run *run, unsigned thread)
{
    const struct ht_scatter *p = &call->p.scatter;
    struct ht_range rows = ht_share(run->n_outs, thread, run->n_threads);
    for (uint32_t o = rows.from; o < rows.to; o++) {
        const float *dy = ht_ref_floats(&p->dy) + (size_t)o * p->dy_stride;
        float *dx = ht_ref_floats(&p->dx) + (size_t)run->step->out_row[o] * p->dx_stride;
        if (p->add)
            ht_train_rows(run->device->isa)->add(dy, p->dim, dx);
        else
            memmove(dx, dy, p->dim * sizeof *dx);
    }
}

// ---- the loss

void ht_run_cross_entropy(const struct ht_call *call, const struct ht_run *run, unsigned thread)
{
    const struct ht_cross_entropy *p = &call->p.cross_entropy;
    struct ht_range rows = ht_share(run->n_outs, thread, run->n_threads);
    for (uint32_t o = rows.from; o < rows.to; o++) {
        uint32_t r = (uint32_t)run->step->out_row[o];
        ht_ref_floats(&p->loss)[r] =
            ht_train_rows(run->device->isa)
                ->cross_entropy(ht_ref_floats(&p->logits) + (size_t)o * p->stride, p->n_vocab, p->softcap,
                                (uint32_t)run->train->target[r], run->train->weight[r]);
    }
}
