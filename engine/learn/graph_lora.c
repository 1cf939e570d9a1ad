// SPDX-License-Identifier: Apache-2.0
// LoRA beside a frozen product, as dense products: A x once for all linears that read x, unless dropout gives each its
// own x (PEFT's way). Engine thread.
#include "engine/learn/graph_impl.h"

static enum hearth_status dense(struct ht_recorder *rec, const struct ht_dense *op)
{
    double rate = 5e4; // small products: half the rate of large ones, about
    HT_TRY(ht_record_op(rec, 2.0 * rec->g->p.rows * op->n * op->k / rate));
    return rec->train->dense(rec->plan, op, rec->err);
}

static enum hearth_status drop(struct ht_recorder *rec, const struct ht_graph_target *t, uint32_t dim,
                               struct ht_ref from, struct ht_ref to, bool add)
{
    const struct ht_dropout op = {.x = from,
                                  .y = to,
                                  .x_stride = dim,
                                  .y_stride = dim,
                                  .dim = dim,
                                  .stream = t->stream,
                                  .rate = rec->g->p.dropout,
                                  .add = add};
    HT_TRY(ht_record_op(rec, ht_cost_values((double)rec->g->p.rows * dim)));
    return rec->train->dropout(rec->plan, &op, rec->err);
}

static bool drops(const struct ht_recorder *rec)
{
    return rec->draws && rec->g->p.dropout > 0;
}

static struct ht_ref column(struct ht_ref u, const struct ht_graph_target *t)
{
    u.offset += t->column;
    return u;
}

// x (rows, k) -> u (rows, rank)
enum hearth_status ht_record_lora_inner(struct ht_recorder *rec, const struct ht_graph_group *group, struct ht_ref x,
                                        struct ht_ref u)
{
    struct ht_dense op = {.kind = HT_DENSE_NT,
                          .a = x,
                          .b = group->a,
                          .y = u,
                          .a_stride = group->k,
                          .b_stride = group->k,
                          .y_stride = group->rank,
                          .n = group->rank,
                          .k = group->k,
                          .scale = 1};
    if (!group->n_targets)
        return HEARTH_OK;
    if (!drops(rec))
        return dense(rec, &op);
    for (uint32_t i = 0; i < group->n_targets; i++) {
        const struct ht_graph_target *t = &group->target[i];
        HT_TRY(drop(rec, t, group->k, x, rec->g->xd, false));
        op.a = rec->g->xd;
        op.b = t->a;
        op.y = column(u, t);
        op.n = t->rank;
        HT_TRY(dense(rec, &op));
    }
    return HEARTH_OK;
}

// u (rows, rank) -> y_i (rows, n_i) += scale * u_i B_iᵀ
enum hearth_status ht_record_lora_outer(struct ht_recorder *rec, const struct ht_graph_group *group, struct ht_ref u,
                                        const struct ht_graph_part *parts)
{
    for (uint32_t i = 0; i < group->n_targets; i++) {
        const struct ht_graph_target *t = &group->target[i];
        const struct ht_dense op = {.kind = HT_DENSE_NT,
                                    .a = column(u, t),
                                    .b = t->b,
                                    .y = parts[t->place].y,
                                    .a_stride = group->rank,
                                    .b_stride = t->rank,
                                    .y_stride = t->n,
                                    .n = t->n,
                                    .k = t->rank,
                                    .scale = t->scale,
                                    .add = true};
        HT_TRY(dense(rec, &op));
    }
    return HEARTH_OK;
}

// t_i = scale * dy_i B_i into its columns of t; dB_i += scale * dy_iᵀ u_i
static enum hearth_status outer_back(struct ht_recorder *rec, const struct ht_graph_group *group,
                                     const struct ht_graph_target *t, struct ht_ref u, struct ht_ref dy)
{
    const struct ht_dense dt = {.kind = HT_DENSE_NN,
                                .a = dy,
                                .b = t->b,
                                .y = column(rec->g->t, t),
                                .a_stride = t->n,
                                .b_stride = t->rank,
                                .y_stride = group->rank,
                                .n = t->rank,
                                .k = t->n,
                                .scale = t->scale};
    const struct ht_dense db = {.kind = HT_DENSE_TN,
                                .a = dy,
                                .b = column(u, t),
                                .y = t->db,
                                .a_stride = t->n,
                                .b_stride = group->rank,
                                .y_stride = t->rank,
                                .n = t->rank,
                                .k = t->n,
                                .scale = t->scale,
                                .add = true};
    HT_TRY(dense(rec, &dt));
    return dense(rec, &db);
}

// dA (rank, k) += tᵀ x; dx (rows, k) [+]= t A; t: columns of g->t, rank of them
static enum hearth_status inner_back(struct ht_recorder *rec, const struct ht_graph_group *group, struct ht_ref t,
                                     uint32_t rank, struct ht_ref a, struct ht_ref da, struct ht_ref x,
                                     const struct ht_ref *dx, bool add)
{
    const struct ht_dense to_a = {.kind = HT_DENSE_TN,
                                  .a = t,
                                  .b = x,
                                  .y = da,
                                  .a_stride = group->rank,
                                  .b_stride = group->k,
                                  .y_stride = group->k,
                                  .n = group->k,
                                  .k = rank,
                                  .scale = 1,
                                  .add = true};
    HT_TRY(dense(rec, &to_a));
    if (!dx)
        return HEARTH_OK;
    const struct ht_dense to_x = {.kind = HT_DENSE_NN,
                                  .a = t,
                                  .b = a,
                                  .y = *dx,
                                  .a_stride = group->rank,
                                  .b_stride = group->k,
                                  .y_stride = group->k,
                                  .n = group->k,
                                  .k = rank,
                                  .scale = 1,
                                  .add = add};
    return dense(rec, &to_x);
}

enum hearth_status ht_record_lora_back(struct ht_recorder *rec, const struct ht_graph_group *group, struct ht_ref x,
                                       struct ht_ref u, const struct ht_graph_part *parts, const struct ht_ref *dx)
{
    const struct ht_graph *g = rec->g;
    if (!group->n_targets)
        return HEARTH_OK;
    for (uint32_t i = 0; i < group->n_targets; i++)
        HT_TRY(outer_back(rec, group, &group->target[i], u, parts[group->target[i].place].y));
    if (!drops(rec))
        return inner_back(rec, group, g->t, group->rank, group->a, group->da, x, dx, true);
    for (uint32_t i = 0; i < group->n_targets; i++) {
        const struct ht_graph_target *t = &group->target[i];
        HT_TRY(drop(rec, t, group->k, x, g->xd, false));
        HT_TRY(inner_back(rec, group, column(g->t, t), t->rank, t->a, t->da, g->xd, dx ? &g->xd : NULL, false));
        if (dx)
            HT_TRY(drop(rec, t, group->k, g->xd, *dx, true));
    }
    return HEARTH_OK;
}
