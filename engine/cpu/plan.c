// SPDX-License-Identifier: Apache-2.0
// Plans: memory at plan_end, the walk over the recorded calls at submit. A barrier stands before a call only
// where it touches what another thread may still be writing or reading (record.c decides). Engine thread; the
// walk: the team.
#include <string.h>

#include "engine/base/mem.h"
#include "engine/cpu/cpu.h"
#include "engine/cpu/math.h"

struct ht_range ht_share(uint32_t n, unsigned thread, unsigned n_threads)
{
    return (struct ht_range){(uint32_t)((uint64_t)n * thread / n_threads),
                             (uint32_t)((uint64_t)n * (thread + 1) / n_threads)};
}

struct ht_range ht_share_columns(uint32_t n, unsigned thread, unsigned n_threads)
{
    struct ht_range groups = ht_share((n + HT_GROUP - 1) / HT_GROUP, thread, n_threads);
    uint32_t from = groups.from * HT_GROUP, to = groups.to * HT_GROUP;
    return (struct ht_range){from < n ? from : n, to < n ? to : n};
}

enum hearth_status ht_cpu_plan_begin(struct ht_device *device, const struct ht_step_shape *shape,
                                     struct ht_plan **out, struct hearth_error *err)
{
    *out = NULL;
    HT_TRY(ht_check_step_shape(shape, err));
    struct ht_plan *plan = ht_calloc(1, sizeof *plan);
    if (!plan)
        return ht_fail(err, HEARTH_NOMEM, "out of memory for a plan");
    plan->head.shape = *shape;
    plan->device = device;
    *out = plan;
    return HEARTH_OK;
}

enum hearth_status ht_cpu_plan_end(struct ht_plan *plan, struct hearth_error *err)
{
    size_t table = 0, tables, shared = ht_round64(plan->shared_bytes);
    plan->thread_bytes = ht_round64(plan->thread_bytes) + 64; // no two threads write the same line
    for (uint32_t i = 0; i < plan->n_ropes; i++)
        table += ht_round64((size_t)plan->head.shape.rows * plan->ropes[i].pairs * sizeof(float));
    tables = 2 * table;
    plan->scratch_bytes = shared + tables + plan->thread_bytes * plan->device->n_threads;
    if (!(plan->scratch = ht_alloc_big(plan->scratch_bytes)))
        return ht_fail(err, HEARTH_NOMEM, "out of memory for %zu bytes of a plan's scratch",
                       plan->scratch_bytes);
    plan->shared = plan->scratch;
    unsigned char *at = plan->scratch + shared;
    for (uint32_t i = 0; i < plan->n_ropes; i++) {
        size_t bytes = ht_round64((size_t)plan->head.shape.rows * plan->ropes[i].pairs * sizeof(float));
        plan->ropes[i].cosine = (float *)(void *)at;
        plan->ropes[i].sine = (float *)(void *)(at + bytes);
        at += 2 * bytes;
    }
    plan->thread_scratch = at;
    plan->ended = true;
    return HEARTH_OK;
}

size_t ht_cpu_plan_scratch(const struct ht_plan *plan)
{
    return plan->scratch_bytes;
}

void ht_cpu_plan_destroy(struct ht_plan **plan)
{
    if (*plan) {
        ht_free_big((*plan)->scratch, (*plan)->scratch_bytes);
        ht_free((*plan)->calls);
        ht_free(*plan);
    }
    *plan = NULL;
}

static void fill_ropes(const struct ht_run *run, unsigned thread)
{
    struct ht_range rows = ht_share(run->n_rows, thread, run->n_threads);
    for (uint32_t t = 0; t < run->plan->n_ropes; t++) {
        const struct ht_rope_table *table = &run->plan->ropes[t];
        const float *freq = ht_ref_floats(&table->freq);
        for (uint32_t r = rows.from; r < rows.to; r++)
            for (uint32_t i = 0; i < table->pairs; i++) {
                float sine, cosine;
                ht_sincos((float)run->step->pos[r] * freq[i], &sine, &cosine);
                table->cosine[(size_t)r * table->pairs + i] = cosine * table->mscale;
                table->sine[(size_t)r * table->pairs + i] = sine * table->mscale;
            }
    }
}

static void walk(void *arg, unsigned thread, unsigned n_threads)
{
    const struct ht_run *run = arg;
    const struct ht_plan *plan = run->plan;
    struct ht_pool *pool = run->device->pool;
    (void)n_threads;
    if (plan->n_ropes) {
        fill_ropes(run, thread);
        ht_pool_barrier(pool, thread);
    }
    for (uint32_t i = 0; i < plan->n_calls; i++) {
        const struct ht_call *call = &plan->calls[i];
        if (call->barrier == HT_BARRIER_ALWAYS || (call->barrier == HT_BARRIER_MANY && run->n_rows > HT_FEW))
            ht_pool_barrier(pool, thread);
        call->run(call, run, thread);
    }
}

static enum hearth_status submit(struct ht_plan *plan, const struct ht_step *step, const struct ht_train_step *train,
                                 struct hearth_error *err)
{
    if (!plan->ended)
        return ht_fail(err, HEARTH_INVALID, "the plan is still being recorded");
    struct ht_step_bounds bounds = {plan->kv ? plan->kv->head.params.n_pages : 0, plan->n_ids};
    HT_TRY(ht_check_step(plan, step, &bounds, err));
    if (plan->trains)
        HT_TRY(ht_check_train_step(train, step, plan->n_vocab, err));
    struct ht_run run = {plan->device,    plan,
                         step,            train,
                         step->counts[0], step->counts[1],
                         plan->device->n_threads};
    ht_pool_run(plan->device->pool, walk, &run);
    return HEARTH_OK;
}

enum hearth_status ht_cpu_submit(struct ht_plan *plan, const struct ht_step *step, struct hearth_error *err)
{
    return submit(plan, step, NULL, err);
}

enum hearth_status ht_cpu_submit_train(struct ht_plan *plan, const struct ht_step *step,
                                       const struct ht_train_step *train, struct hearth_error *err)
{
    return submit(plan, step, train, err);
}
