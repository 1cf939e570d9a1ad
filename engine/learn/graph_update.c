// SPDX-License-Identifier: Apache-2.0
// The optimizer's step over the flat vectors: ranges of values that learn at one rate, where their moments lie, and the
// recording of clipping, AdamW and zeroing. Engine thread.
#include "engine/base/mem.h"
#include "engine/learn/graph_impl.h"

enum { FLAT_STEP = 1 << 20, MOMENT_STREAM = (1 << 24) - 2 }; // a stream of draws that nothing else has

// ---------------------------------------------------------------- ranges

static uint32_t step_of(size_t left)
{
    return left < FLAT_STEP ? (uint32_t)left : FLAT_STEP;
}

// Moments of bytes: each range begins a block of its own, and its scales at a border of 16.
static void add_range(struct ht_graph *g, size_t at, size_t n, float lr_factor)
{
    for (size_t end = at + n; at < end; at += FLAT_STEP) {
        struct ht_graph_range *r = &g->ranges[g->n_ranges++];
        *r = (struct ht_graph_range){
            .at = at, .n = step_of(end - at), .lr_factor = lr_factor, .code = g->n_codes, .scale = g->n_scales};
        size_t blocks = (r->n + HT_MOMENT_BLOCK - 1) / HT_MOMENT_BLOCK;
        g->n_codes += blocks * HT_MOMENT_BLOCK;
        g->n_scales += (2 * blocks + 15) / 16 * 16;
    }
}

// With LoRA+ A and B of each target on their own, since they learn at different rates.
enum hearth_status ht_graph_ranges(struct ht_graph *g, const struct hearth_adapter *adapter, struct hearth_error *err)
{
    size_t most = 2 * adapter->n_targets + g->n_values / FLAT_STEP + 1;
    g->ranges = ht_calloc(most, sizeof *g->ranges);
    if (!g->ranges)
        return ht_fail(err, HEARTH_NOMEM, "out of memory for the optimizer of %zu values", g->n_values);
    if (g->p.lora_plus == 1) {
        add_range(g, 0, g->n_values, 1);
        return HEARTH_OK;
    }
    for (size_t i = 0; i < adapter->n_targets; i++) {
        const struct ht_adapter_target *t = &adapter->targets[i];
        add_range(g, t->b_at, (size_t)t->n * t->rank, g->p.lora_plus);
        if (i && ht_adapter_same_input(t - 1, t))
            continue; // among the A's before
        size_t n = 0;
        for (size_t j = i; j < adapter->n_targets && ht_adapter_same_input(t, &adapter->targets[j]); j++)
            n += (size_t)adapter->targets[j].rank * t->k;
        add_range(g, t->a_at, n, 1);
    }
    return HEARTH_OK;
}

// ---------------------------------------------------------------- recording

// Values [at, …) of a flat vector.
static struct ht_ref part_of(struct ht_ref vector, size_t at)
{
    vector.offset += at;
    return vector;
}

static enum hearth_status record_sum(struct ht_recorder *rec)
{
    struct ht_graph *g = rec->g;
    const struct ht_sumsq op = {.x = g->vector[HT_GRAPH_GRADIENTS], .sum = g->sum, .n = (uint32_t)g->n_values};
    HT_TRY(ht_record_op(rec, ht_cost_values((double)g->n_values)));
    return rec->train->sumsq(rec->plan, &op, rec->err);
}

static enum hearth_status record_clip(struct ht_recorder *rec, size_t at, uint32_t n)
{
    struct ht_graph *g = rec->g;
    const struct ht_scale op = {
        .x = part_of(g->vector[HT_GRAPH_GRADIENTS], at), .sum = g->sum, .n = n, .max_norm = g->p.clip};
    HT_TRY(ht_record_op(rec, ht_cost_values(n)));
    return rec->train->scale(rec->plan, &op, rec->err);
}

static enum hearth_status record_adamw(struct ht_recorder *rec, const struct ht_graph_range *r)
{
    struct ht_graph *g = rec->g;
    const struct ht_adamw op = {
        .p = part_of(g->vector[HT_GRAPH_VALUES], r->at),
        .g = part_of(g->vector[HT_GRAPH_GRADIENTS], r->at),
        .m = part_of(g->vector[HT_GRAPH_MOMENT1], r->at),
        .v = part_of(g->vector[HT_GRAPH_MOMENT2], r->at),
        .n = r->n,
        .lr_factor = r->lr_factor,
        .beta1 = g->p.beta1,
        .beta2 = g->p.beta2,
        .eps = g->p.eps,
        .decay = g->p.decay,
    };
    HT_TRY(ht_record_op(rec, 3 * ht_cost_values(r->n)));
    return rec->train->adamw(rec->plan, &op, rec->err);
}

static enum hearth_status record_adamw8(struct ht_recorder *rec, const struct ht_graph_range *r)
{
    struct ht_graph *g = rec->g;
    const struct ht_adamw8 op = {
        .p = part_of(g->vector[HT_GRAPH_VALUES], r->at),
        .g = part_of(g->vector[HT_GRAPH_GRADIENTS], r->at),
        .m = part_of(g->codes[0], r->code / sizeof(float)),
        .v = part_of(g->codes[1], r->code / sizeof(float)),
        .scales = part_of(g->scales, r->scale),
        .n = r->n,
        .first = (uint32_t)r->code,
        .stream = MOMENT_STREAM,
        .lr_factor = r->lr_factor,
        .beta1 = g->p.beta1,
        .beta2 = g->p.beta2,
        .eps = g->p.eps,
        .decay = g->p.decay,
    };
    HT_TRY(ht_record_op(rec, 4 * ht_cost_values(r->n)));
    return rec->train->adamw8(rec->plan, &op, rec->err);
}

enum hearth_status ht_record_fill(struct ht_recorder *rec, struct ht_ref x, uint32_t n)
{
    const struct ht_fill op = {.x = x, .n = n};
    HT_TRY(ht_record_op(rec, ht_cost_values(n)));
    return rec->train->fill(rec->plan, &op, rec->err);
}

enum hearth_status ht_record_update(struct ht_graph *g, struct hearth_error *err)
{
    struct ht_recorder rec = ht_record_to(g, &g->update, err);
    if (g->p.clip > 0) {
        HT_TRY(record_sum(&rec));
        for (size_t at = 0; at < g->n_values; at += FLAT_STEP)
            HT_TRY(record_clip(&rec, at, step_of(g->n_values - at)));
    }
    for (size_t i = 0; i < g->n_ranges; i++)
        HT_TRY(g->p.moments == HT_GRAPH_MOMENTS_8BIT ? record_adamw8(&rec, &g->ranges[i])
                                                     : record_adamw(&rec, &g->ranges[i]));
    for (size_t at = 0; at < g->n_values; at += FLAT_STEP)
        HT_TRY(ht_record_fill(&rec, part_of(g->vector[HT_GRAPH_GRADIENTS], at), step_of(g->n_values - at)));
    HT_TRY(ht_record_end(&rec));
    rec = ht_record_to(g, &g->norm, err);
    HT_TRY(record_sum(&rec));
    return ht_record_end(&rec);
}
