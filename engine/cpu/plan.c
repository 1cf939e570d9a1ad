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

static size_t rope_bytes(const struct ht_plan *plan, uint32_t table)
{
    return ht_round64((size_t)plan->head.shape.rows * plan->ropes[table].pairs * sizeof(float));
}

// Plans of a device run one after the other: they share its scratch, which is as large as the largest wants.
enum hearth_status ht_cpu_plan_end(struct ht_plan *plan, struct hearth_error *err)
{
    struct ht_device *device = plan->device;
    plan->thread_bytes = ht_round64(plan->thread_bytes) + 64; // no two threads write the same line
    size_t need = ht_round64(plan->shared_bytes) + plan->thread_bytes * device->n_threads;
    for (uint32_t i = 0; i < plan->n_ropes; i++)
        need += 2 * rope_bytes(plan, i);
    if (need > device->scratch_bytes) {
        unsigned char *scratch = ht_alloc_big(need);
        if (!scratch)
            return ht_fail(err, HEARTH_NOMEM, "out of memory for %zu bytes of a plan's scratch", need);
        ht_free_big(device->scratch, device->scratch_bytes);
        plan->taken_bytes = need - device->scratch_bytes;
        device->scratch = scratch;
        device->scratch_bytes = need;
    }
    plan->ended = true;
    return HEARTH_OK;
}

static void place_scratch(struct ht_plan *plan)
{
    unsigned char *at = plan->shared = plan->device->scratch;
    at += ht_round64(plan->shared_bytes);
    for (uint32_t i = 0; i < plan->n_ropes; i++) {
        plan->ropes[i].cosine = (float *)(void *)at;
        plan->ropes[i].sine = (float *)(void *)(at + rope_bytes(plan, i));
        at += 2 * rope_bytes(plan, i);
    }
    plan->thread_scratch = at;
}

size_t ht_cpu_plan_scratch(const struct ht_plan *plan)
{
    return plan->taken_bytes;
}

void ht_cpu_plan_destroy(struct ht_plan **plan)
{
    if (*plan) {
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

// A GLU that the product before it has done needs no waiting: the product after it waits.
static bool waits(const struct ht_call *call, const struct ht_run *run)
{
    if (call->barrier != HT_BARRIER_MANY || run->n_rows <= HT_FEW)
        return call->barrier == HT_BARRIER_ALWAYS;
    return !(call->run == ht_run_glu && call->deferred && ht_matmul_takes_glu(call - 1, run));
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
        if (waits(call, run))
            ht_pool_barrier(pool, thread);
        call->run(call, run, thread);
    }
}

static uint32_t slots_of(const struct ht_step *step)
{
    uint32_t slots = 0;
    for (uint32_t r = 0; r < step->counts[0]; r++)
        if (step->adapter[r] >= 0)
            slots |= 1u << step->adapter[r];
    return slots;
}

static enum hearth_status submit(struct ht_plan *plan, const struct ht_step *step, const struct ht_train_step *train,
                                 struct hearth_error *err)
{
    if (!plan->ended)
        return ht_fail(err, HEARTH_INVALID, "the plan is still being recorded");
    struct ht_step_bounds bounds = {plan->kv ? plan->kv->head.params.n_pages : 0, plan->n_ids,
                                    plan->bank ? plan->bank->head.params.slots : 0};
    HT_TRY(ht_check_step(plan, step, &bounds, err));
    if (plan->trains)
        HT_TRY(ht_check_train_step(train, step, plan->n_vocab, err));
    place_scratch(plan);
    struct ht_run run = {.device = plan->device,
                         .plan = plan,
                         .step = step,
                         .train = train,
                         .n_rows = step->counts[0],
                         .n_outs = step->counts[1],
                         .slots = plan->bank ? slots_of(step) : 0,
                         .n_threads = plan->device->n_threads};
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
