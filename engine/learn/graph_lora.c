// SPDX-License-Identifier: Apache-2.0
// LoRA beside a frozen product, as dense products: A x once for all linears that read x, unless dropout gives each its
// own x (PEFT's way). The head's own is of a tile of output rows: its sums over rows go on from tile to tile as one
// chain, so that the size of a tile changes no bit. Engine thread.
#include "engine/learn/graph_impl.h"

#define DENSE_PER_US 5e4 // small products: half the rate of large ones, about

static enum hearth_status dense(struct ht_recorder *rec, const struct ht_dense *op)
{
    uint32_t rows = op->rows == HT_ROWS_OUT ? rec->g->outs : rec->g->p.rows;
    HT_TRY(ht_record_op(rec, 2.0 * rows * op->n * op->k / DENSE_PER_US));
    return rec->train->dense(rec->plan, op, rec->err);
}

static enum hearth_status drop_rows(struct ht_recorder *rec, const struct ht_graph_target *t, uint32_t dim,
                                    struct ht_ref from, struct ht_ref to, bool add, enum ht_rows rows)
{
    uint32_t n_rows = rows == HT_ROWS_OUT ? rec->g->outs : rec->g->p.rows;
    const struct ht_dropout op = {.x = from,
                                  .y = to,
                                  .x_stride = dim,
                                  .y_stride = dim,
                                  .dim = dim,
                                  .stream = t->stream,
                                  .rate = rec->g->p.dropout,
                                  .add = add,
                                  .rows = rows};
    HT_TRY(ht_record_op(rec, ht_cost_values((double)n_rows * dim)));
    return rec->train->dropout(rec->plan, &op, rec->err);
}

static enum hearth_status drop(struct ht_recorder *rec, const struct ht_graph_target *t, uint32_t dim,
                               struct ht_ref from, struct ht_ref to, bool add)
{
    return drop_rows(rec, t, dim, from, to, add, HT_ROWS_ALL);
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

// ---------------------------------------------------------------- the head's

static struct ht_ref from_float(struct ht_ref ref, size_t floats)
{
    ref.offset += floats;
    return ref;
}

// Ids of a range of the vocabulary that one piece takes.
static uint32_t ids_at_most(const struct ht_graph *g, const struct ht_graph_target *t)
{
    return ht_record_at_most(g, 2.0 * g->outs * t->rank / DENSE_PER_US, t->n, 64);
}

// What A of the head reads: the tile's normed rows, or g->xd with what dropout leaves of them.
static enum hearth_status head_input(struct ht_recorder *rec, struct ht_ref *x)
{
    const struct ht_graph *g = rec->g;
    const struct ht_graph_group *group = &g->head_group;
    *x = drops(rec) ? g->xd : g->final;
    return drops(rec) ? drop_rows(rec, &group->target[0], group->k, g->final, g->xd, false, HT_ROWS_OUT) : HEARTH_OK;
}

// u = scale * x Aᵀ; logits += u Bᵀ
enum hearth_status ht_record_head_lora(struct ht_recorder *rec)
{
    const struct ht_graph *g = rec->g;
    const struct ht_graph_group *group = &g->head_group;
    const struct ht_graph_target *t = &group->target[0];
    struct ht_ref x;
    if (!group->n_targets)
        return HEARTH_OK;
    HT_TRY(head_input(rec, &x));
    const struct ht_dense inner = {.kind = HT_DENSE_NT,
                                   .a = x,
                                   .b = t->a,
                                   .y = g->head_u,
                                   .a_stride = group->k,
                                   .b_stride = group->k,
                                   .y_stride = t->rank,
                                   .n = t->rank,
                                   .k = group->k,
                                   .scale = t->scale,
                                   .rows = HT_ROWS_OUT};
    HT_TRY(dense(rec, &inner));
    uint32_t most = ids_at_most(g, t);
    for (uint32_t id = 0; id < t->n; id += most) {
        const struct ht_dense outer = {.kind = HT_DENSE_NT,
                                       .a = g->head_u,
                                       .b = from_float(t->b, (size_t)id * t->rank),
                                       .y = from_float(g->logits, id),
                                       .a_stride = t->rank,
                                       .b_stride = t->rank,
                                       .y_stride = g->logits_stride,
                                       .n = t->n - id < most ? t->n - id : most,
                                       .k = t->rank,
                                       .scale = 1,
                                       .add = true,
                                       .rows = HT_ROWS_OUT};
        HT_TRY(dense(rec, &outer));
    }
    return HEARTH_OK;
}

// t = scale * dlogits B, a few rows at a time: the chain is as long as the vocabulary.
static enum hearth_status head_t(struct ht_recorder *rec, const struct ht_graph_target *t)
{
    const struct ht_graph *g = rec->g;
    uint32_t most = ht_record_at_most(g, 2.0 * t->n * t->rank / DENSE_PER_US, g->outs, 2);
    HT_TRY(ht_record_end(rec));
    for (uint32_t row = 0; row < g->outs; row += most) {
        const struct ht_dense op = {.kind = HT_DENSE_NN,
                                    .a = from_float(g->logits, (size_t)row * g->logits_stride),
                                    .b = t->b,
                                    .y = from_float(g->t, (size_t)row * t->rank),
                                    .a_stride = g->logits_stride,
                                    .b_stride = t->rank,
                                    .y_stride = t->rank,
                                    .n = t->rank,
                                    .k = t->n,
                                    .scale = t->scale,
                                    .rows = HT_ROWS_OUT};
        rec->out_from = row;
        rec->n_outs = g->outs - row < most ? g->outs - row : most;
        HT_TRY(dense(rec, &op));
        HT_TRY(ht_record_end(rec));
    }
    rec->out_from = rec->n_outs = 0;
    return HEARTH_OK;
}

// dB += dlogitsᵀ u, dA += tᵀ x
enum hearth_status ht_record_head_lora_back(struct ht_recorder *rec)
{
    const struct ht_graph *g = rec->g;
    const struct ht_graph_group *group = &g->head_group;
    const struct ht_graph_target *t = &group->target[0];
    struct ht_ref x;
    if (!group->n_targets)
        return HEARTH_OK;
    HT_TRY(head_t(rec, t));
    uint32_t most = ids_at_most(g, t);
    for (uint32_t id = 0; id < t->n; id += most) {
        const struct ht_dense db = {.kind = HT_DENSE_TN,
                                    .a = from_float(g->logits, id),
                                    .b = g->head_u,
                                    .y = from_float(t->db, (size_t)id * t->rank),
                                    .a_stride = g->logits_stride,
                                    .b_stride = t->rank,
                                    .y_stride = t->rank,
                                    .n = t->rank,
                                    .k = t->n - id < most ? t->n - id : most,
                                    .scale = 1,
                                    .chain = true,
                                    .rows = HT_ROWS_OUT};
        HT_TRY(dense(rec, &db));
    }
    HT_TRY(head_input(rec, &x));
    const struct ht_dense da = {.kind = HT_DENSE_TN,
                                .a = g->t,
                                .b = x,
                                .y = t->da,
                                .a_stride = t->rank,
                                .b_stride = group->k,
                                .y_stride = group->k,
                                .n = group->k,
                                .k = t->rank,
                                .scale = 1,
                                .chain = true,
                                .rows = HT_ROWS_OUT};
    return dense(rec, &da);
}

// dx += t A, behind what the frozen head gives
enum hearth_status ht_record_head_lora_dx(struct ht_recorder *rec, struct ht_ref dx)
{
    const struct ht_graph *g = rec->g;
    const struct ht_graph_group *group = &g->head_group;
    const struct ht_graph_target *t = &group->target[0];
    if (!group->n_targets)
        return HEARTH_OK;
    const struct ht_dense op = {.kind = HT_DENSE_NN,
                                .a = g->t,
                                .b = t->a,
                                .y = drops(rec) ? g->xd : dx,
                                .a_stride = t->rank,
                                .b_stride = group->k,
                                .y_stride = group->k,
                                .n = group->k,
                                .k = t->rank,
                                .scale = 1,
                                .add = !drops(rec),
                                .rows = HT_ROWS_OUT};
    HT_TRY(dense(rec, &op));
    return drops(rec) ? drop_rows(rec, t, group->k, g->xd, dx, true, HT_ROWS_OUT) : HEARTH_OK;
}
