// SPDX-License-Identifier: Apache-2.0
// Recording: ops are cut into pieces by what they are thought to take, and products that are too long for one are gone
// through in rows of W. Engine thread.
#include "engine/base/mem.h"
#include "engine/learn/graph_impl.h"

// Rates on two cores, on the low side.
#define F_PER_US    1e5 // multiply-adds x 2 of f32 products, of bf16 ones, of attention in each
#define B_PER_US    4e5
#define ATTEND_PER_US 5e4
#define ATTEND_B_PER_US 1.5e5
#define UNPACK_PER_US 4e3 // weights
#define VALUES_PER_US 5e2 // of row ops
enum { W_ROWS = 64 };     // a range of W is a multiple of this: whole groups and tiles

double ht_cost_values(double n)
{
    return n / VALUES_PER_US;
}

enum ht_train_precision ht_attend_precision(const struct ht_graph *g)
{
    return g->model->hp.features & HT_FEATURE_QK_NORM ? HT_TRAIN_F : g->p.precision;
}

// Two products forward, over half of the rows x rows; seven backward.
double ht_cost_attend(const struct ht_graph *g, uint32_t heads, bool back)
{
    const struct ht_hparams *hp = &g->model->hp;
    double pairs = 0.5 * g->p.rows * g->p.rows * heads;
    double rate = ht_attend_precision(g) == HT_TRAIN_F ? ATTEND_PER_US : ATTEND_B_PER_US;
    return pairs * (hp->k_dim + hp->v_dim) * 2 * (back ? 3.5 : 1) / rate;
}

static double cost_product(const struct ht_recorder *rec, double rows, double n, double k)
{
    double rate = rec->g->p.precision == HT_TRAIN_F ? F_PER_US : B_PER_US;
    return 2 * rows * n * k / rate + n * k / UNPACK_PER_US;
}

uint32_t ht_record_at_most(const struct ht_graph *g, double us_per_one, uint32_t n, uint32_t whole)
{
    double fit = g->p.piece_us / us_per_one;
    uint32_t most = fit >= n ? n : (uint32_t)fit / whole * whole;
    most = most ? most : whole;
    return most < n ? most : n;
}

// ---------------------------------------------------------------- pieces

struct ht_recorder ht_record_to(struct ht_graph *g, struct ht_pieces *pieces, struct hearth_error *err)
{
    const struct ht_model *m = g->model;
    return (struct ht_recorder){
        .g = g, .to = pieces, .ops = m->dev->ops(m->device), .train = g->train, .err = err};
}

enum hearth_status ht_record_end(struct ht_recorder *rec)
{
    const struct ht_device_ops *dev = rec->g->model->dev;
    if (!rec->plan)
        return HEARTH_OK;
    HT_TRY(dev->plan_end(rec->plan, rec->err));
    rec->g->bytes += dev->plan_scratch(rec->plan);
    rec->plan = NULL;
    return HEARTH_OK;
}

static enum hearth_status begin(struct ht_recorder *rec)
{
    const struct ht_model *m = rec->g->model;
    struct ht_pieces *to = rec->to;
    if (to->n == to->capacity) {
        uint32_t capacity = to->capacity ? 2 * to->capacity : 64;
        void *list = to->list;
        if (!ht_grow(&list, to->capacity, capacity, sizeof *to->list))
            return ht_fail(rec->err, HEARTH_NOMEM, "out of memory for %u pieces of training", capacity);
        to->list = list;
        to->capacity = capacity;
    }
    struct ht_piece *piece = &to->list[to->n];
    struct ht_step_shape shape = rec->g->step.shape;
    shape.outs = rec->n_outs ? rec->n_outs : shape.outs;
    HT_TRY(m->dev->plan_begin(m->device, &shape, &piece->plan, rec->err));
    piece->out_from = rec->out_from;
    piece->n_outs = rec->n_outs;
    to->n++;
    rec->plan = piece->plan;
    rec->us = 0;
    return HEARTH_OK;
}

enum hearth_status ht_record_op(struct ht_recorder *rec, double us)
{
    if (rec->plan && rec->us + us > rec->g->p.piece_us)
        HT_TRY(ht_record_end(rec));
    if (!rec->plan)
        HT_TRY(begin(rec));
    rec->us += us;
    return HEARTH_OK;
}

// ---------------------------------------------------------------- row ops

static double n_rows(const struct ht_recorder *rec, enum ht_rows rows)
{
    return rows == HT_ROWS_OUT ? rec->g->outs : rec->g->p.rows;
}

enum hearth_status ht_record_copy(struct ht_recorder *rec, struct ht_ref from, struct ht_ref to, uint32_t dim)
{
    const struct ht_dropout op = {.x = from, .y = to, .x_stride = dim, .y_stride = dim, .dim = dim}; // drops nothing
    HT_TRY(ht_record_op(rec, ht_cost_values((double)rec->g->p.rows * dim)));
    return rec->train->dropout(rec->plan, &op, rec->err);
}

enum hearth_status ht_record_norm(struct ht_recorder *rec, struct ht_ref x, struct ht_ref y, struct ht_ref w,
                                  uint32_t groups, uint32_t dim, bool add, enum ht_rows rows)
{
    const struct ht_rmsnorm op = {
        .x = x,
        .y = y,
        .w = w,
        .x_stride = groups * dim,
        .y_stride = groups * dim,
        .groups = groups,
        .dim = dim,
        .eps = rec->g->model->hp.norm_eps,
        .add = add,
        .rows = rows,
    };
    HT_TRY(ht_record_op(rec, ht_cost_values(n_rows(rec, rows) * groups * dim)));
    return rec->ops->rmsnorm(rec->plan, &op, rec->err);
}

enum hearth_status ht_record_norm_back(struct ht_recorder *rec, struct ht_ref x, struct ht_ref w, struct ht_ref dy,
                                       struct ht_ref dx, uint32_t groups, uint32_t dim, bool add, enum ht_rows rows)
{
    const struct ht_rmsnorm_back op = {
        .x = x,
        .w = w,
        .dy = dy,
        .dx = dx,
        .x_stride = groups * dim,
        .dy_stride = groups * dim,
        .dx_stride = groups * dim,
        .groups = groups,
        .dim = dim,
        .eps = rec->g->model->hp.norm_eps,
        .add = add,
        .rows = rows,
    };
    HT_TRY(ht_record_op(rec, ht_cost_values(n_rows(rec, rows) * groups * dim)));
    return rec->train->rmsnorm_back(rec->plan, &op, rec->err);
}

// ---------------------------------------------------------------- products with frozen weights

static uint32_t stride_of(const struct ht_graph_part *part)
{
    return part->stride ? part->stride : part->n;
}

// The matmul of parts [from, from + n).
static struct ht_matmul matmul_of(struct ht_ref x, uint32_t k, const struct ht_graph_part *parts, uint32_t from,
                                  uint32_t n, bool add, enum ht_rows rows)
{
    struct ht_matmul m = {.x = x, .x_stride = k, .k = k, .n_parts = n, .rows = rows};
    for (uint32_t i = 0; i < n; i++)
        m.part[i] = (struct ht_matmul_part){.w = parts[from + i].w,
                                            .y = parts[from + i].y,
                                            .bias = parts[from + i].bias,
                                            .y_stride = stride_of(&parts[from + i]),
                                            .add = add};
    return m;
}

static uint32_t all_outputs(const struct ht_graph_part *parts, uint32_t n_parts)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < n_parts; i++)
        n += parts[i].n;
    return n;
}

enum hearth_status ht_record_linear(struct ht_recorder *rec, struct ht_ref x, uint32_t k,
                                    const struct ht_graph_part *parts, uint32_t n_parts, bool add, enum ht_rows rows)
{
    double per_row = cost_product(rec, n_rows(rec, rows), 1, k);
    uint32_t all = all_outputs(parts, n_parts);
    if (ht_record_at_most(rec->g, per_row, all, W_ROWS) == all) {
        const struct ht_linear op = {matmul_of(x, k, parts, 0, n_parts, add, rows), rec->g->p.precision, 0, 0};
        HT_TRY(ht_record_op(rec, per_row * all));
        return rec->train->linear(rec->plan, &op, rec->err);
    }
    for (uint32_t i = 0; i < n_parts; i++) {
        uint32_t most = ht_record_at_most(rec->g, per_row, parts[i].n, W_ROWS);
        for (uint32_t first = 0; first < parts[i].n; first += most) {
            uint32_t count = parts[i].n - first < most ? parts[i].n - first : most;
            struct ht_linear op = {matmul_of(x, k, parts, i, 1, add, rows), rec->g->p.precision, first, count};
            op.m.part[0].y.offset += first;
            HT_TRY(ht_record_op(rec, per_row * count));
            HT_TRY(rec->train->linear(rec->plan, &op, rec->err));
        }
    }
    return HEARTH_OK;
}

enum hearth_status ht_record_linear_t(struct ht_recorder *rec, struct ht_ref dx, uint32_t k,
                                      const struct ht_graph_part *parts, uint32_t n_parts, bool add,
                                      enum ht_rows rows)
{
    double per_row = cost_product(rec, n_rows(rec, rows), 1, k);
    uint32_t all = all_outputs(parts, n_parts);
    if (ht_record_at_most(rec->g, per_row, all, W_ROWS) == all) {
        const struct ht_linear_t op = {
            matmul_of(dx, k, parts, 0, n_parts, false, rows), add, rec->g->p.precision, 0, 0};
        HT_TRY(ht_record_op(rec, per_row * all));
        return rec->train->linear_t(rec->plan, &op, rec->err);
    }
    for (uint32_t i = 0; i < n_parts; i++) {
        uint32_t most = ht_record_at_most(rec->g, per_row, parts[i].n, W_ROWS);
        for (uint32_t first = 0; first < parts[i].n; first += most) {
            uint32_t count = parts[i].n - first < most ? parts[i].n - first : most;
            struct ht_linear_t op = {matmul_of(dx, k, parts, i, 1, false, rows), add || i || first,
                                     rec->g->p.precision, first, count};
            op.m.part[0].y.offset += first;
            HT_TRY(ht_record_op(rec, per_row * count));
            HT_TRY(rec->train->linear_t(rec->plan, &op, rec->err));
        }
    }
    return HEARTH_OK;
}
