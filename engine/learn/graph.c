// SPDX-License-Identifier: Apache-2.0
// The graph: made once, then driven piece by piece. A pass is the forward pieces, the head's for each tile of output
// rows, and the backward ones. Engine thread.
#include "engine/learn/graph_impl.h"

#include <math.h>
#include <string.h>

#include "engine/base/mem.h"

enum { PIECE_US = 10000, LOGITS_BYTES = 128 << 20, TOUCH_BYTES = 16 << 20, MAX_VALUES = 1 << 30 };

// ---------------------------------------------------------------- recording

static bool draws(const struct ht_graph *g)
{
    return g->p.dropout > 0 || g->p.neftune > 0;
}

static bool head_draws(const struct ht_graph *g)
{
    return g->head_group.n_targets && g->p.dropout > 0;
}

// dx begins as zeros: the head's way back writes the rows that have a loss.
static enum hearth_status record_model(struct ht_graph *g, struct hearth_error *err)
{
    for (int drawn = 0; drawn <= draws(g); drawn++) {
        struct ht_recorder rec = ht_record_to(g, drawn ? &g->forward_drawn : &g->forward, err);
        rec.draws = drawn;
        HT_TRY(ht_record_fill(&rec, g->dx, g->p.rows * g->model->hp.n_embd));
        HT_TRY(ht_record_fill(&rec, g->loss, g->p.rows));
        HT_TRY(ht_record_forward(&rec));
    }
    for (int drawn = 0; drawn <= head_draws(g); drawn++) {
        struct ht_recorder head = ht_record_to(g, drawn ? &g->head_drawn : &g->head, err);
        head.draws = drawn;
        HT_TRY(ht_record_head(&head));
    }
    struct ht_recorder back = ht_record_to(g, &g->backward, err);
    back.draws = draws(g);
    return ht_record_backward(&back);
}

// ---------------------------------------------------------------- making

static enum hearth_status check(const struct ht_model *m, const struct hearth_adapter *adapter,
                                const struct ht_graph_params *p, struct hearth_error *err)
{
    if (!m->dev->train || !m->dev->train->supports(m->device, p->precision))
        return ht_fail(err, HEARTH_UNSUPPORTED, "the %s device cannot train%s", m->dev->name,
                       m->dev->train ? " in this precision" : "");
    if (!p->rows || p->rows > HT_MAX_TRAIN_ROWS)
        return ht_fail(err, HEARTH_LIMIT, "%u rows of a micro-batch, 1 to %d are allowed", p->rows, HT_MAX_TRAIN_ROWS);
    if (!(p->dropout >= 0 && p->dropout < 1 && p->neftune >= 0 && p->lora_plus > 0 && p->clip >= 0 &&
          isfinite(p->neftune) && isfinite(p->lora_plus) && isfinite(p->clip)))
        return ht_fail(err, HEARTH_INVALID, "dropout, NEFTune, LoRA+ or clipping out of range");
    if ((unsigned)p->moments > HT_GRAPH_MOMENTS_8BIT)
        return ht_fail(err, HEARTH_INVALID, "moments are f32 or bytes");
    if (adapter->peft_rows)
        return ht_fail(err, HEARTH_INVALID, "%s does not tell which model it is for: name the base", adapter->shown);
    if (adapter->n_values > MAX_VALUES)
        return ht_fail(err, HEARTH_LIMIT, "%s has more than %d values", adapter->shown, MAX_VALUES);
    return HEARTH_OK;
}

// Sizes that follow from rows and model. A tile is as large as the logits' memory allows, and all are alike.
static void choose(struct ht_graph *g)
{
    const struct ht_hparams *hp = &g->model->hp;
    uint32_t rows = g->p.rows, share = hp->n_heads / hp->n_kv_heads;
    g->logits_stride = (hp->n_vocab + 15) / 16 * 16;
    uint32_t most = (uint32_t)(g->p.logits_bytes / (g->logits_stride * sizeof(float)));
    most = most < 1 ? 1 : most < rows ? most : rows;
    uint32_t tiles = (rows + most - 1) / most, even = (rows + tiles - 1) / tiles;
    g->outs = (even + 15) / 16 * 16 <= most ? (even + 15) / 16 * 16 : even;
    g->lse_floats = (rows * share + 15) / 16 * 16;
    g->attend_kv = hp->n_kv_heads;
    if (hp->k_dim % 16 == 0 && hp->v_dim % 16 == 0)
        g->attend_kv = ht_record_at_most(g, ht_cost_attend(g, share, true), hp->n_kv_heads, 1);
}

static enum hearth_status make_blocks(struct ht_graph *g, struct hearth_error *err)
{
    uint32_t rows = g->p.rows;
    const struct ht_step_shape shape = {
        .rows = rows, .outs = g->outs, .seqs = 1, .pages = (rows + HT_KV_PAGE - 1) / HT_KV_PAGE};
    size_t step = ht_step_layout(&g->step, &shape, NULL), block = ht_train_step_layout(&g->block, rows, NULL);
    g->step_memory = ht_calloc(1, step);
    g->block_memory = ht_calloc(1, block);
    g->out_rows = ht_calloc(rows, sizeof *g->out_rows);
    g->losses = ht_calloc(rows, sizeof *g->losses);
    if (!g->step_memory || !g->block_memory || !g->out_rows || !g->losses)
        return ht_fail(err, HEARTH_NOMEM, "out of memory for a training step of %u rows", rows);
    ht_step_layout(&g->step, &shape, g->step_memory);
    ht_train_step_layout(&g->block, rows, g->block_memory);
    g->step.counts[2] = 1;
    for (uint32_t r = 0; r < rows; r++)
        g->step.adapter[r] = -1;
    g->bytes += step + block + rows * (sizeof *g->out_rows + sizeof *g->losses);
    return HEARTH_OK;
}

// What goes on with (values, moments) lies in one stretch, then gradients and a sum.
static enum hearth_status make_flat(struct ht_graph *g, struct hearth_error *err)
{
    const struct ht_model *m = g->model;
    bool bytes8 = g->p.moments == HT_GRAPH_MOMENTS_8BIT;
    size_t each = (g->n_values + 15) / 16 * 16, codes = g->n_codes / sizeof(float);
    g->state_floats = each + (bytes8 ? 2 * codes + g->n_scales : 2 * each);
    size_t bytes = (g->state_floats + each + 16) * sizeof(float);
    HT_TRY(m->dev->buf_create(m->device, bytes, &g->flat, err));
    g->vector[HT_GRAPH_VALUES] = (struct ht_ref){g->flat, 0};
    if (bytes8) {
        g->codes[0] = (struct ht_ref){g->flat, each};
        g->codes[1] = (struct ht_ref){g->flat, each + codes};
        g->scales = (struct ht_ref){g->flat, each + 2 * codes};
    } else {
        g->vector[HT_GRAPH_MOMENT1] = (struct ht_ref){g->flat, each};
        g->vector[HT_GRAPH_MOMENT2] = (struct ht_ref){g->flat, 2 * each};
    }
    g->vector[HT_GRAPH_GRADIENTS] = (struct ht_ref){g->flat, g->state_floats};
    g->sum = (struct ht_ref){g->flat, g->state_floats + each};
    g->bytes += bytes;
    return HEARTH_OK;
}

static enum hearth_status make_work(struct ht_graph *g, struct hearth_error *err)
{
    const struct ht_model *m = g->model;
    uint64_t floats;
    ht_graph_carve(g, NULL, &floats);
    if (floats > SIZE_MAX / sizeof(float))
        return ht_fail(err, HEARTH_NOMEM, "training needs more memory than can be addressed");
    HT_TRY(m->dev->buf_create(m->device, (size_t)floats * sizeof(float), &g->work, err));
    ht_graph_carve(g, g->work, &floats);
    g->bytes += floats * sizeof(float);
    return HEARTH_OK;
}

static enum hearth_status make(struct ht_graph *g, const struct hearth_adapter *adapter, struct hearth_error *err)
{
    g->layers = ht_calloc(g->model->hp.n_layers, sizeof *g->layers);
    if (!g->layers)
        return ht_fail(err, HEARTH_NOMEM, "out of memory for training %u layers", g->model->hp.n_layers);
    choose(g);
    HT_TRY(make_blocks(g, err));
    HT_TRY(ht_graph_ranges(g, adapter, err));
    HT_TRY(make_flat(g, err));
    HT_TRY(ht_graph_bind(g, adapter, err));
    HT_TRY(make_work(g, err));
    HT_TRY(record_model(g, err));
    return ht_record_update(g, err);
}

enum hearth_status ht_graph_make(struct ht_graph **graph, const struct ht_model *model,
                                 const struct hearth_adapter *adapter, const struct ht_graph_params *params,
                                 struct hearth_error *err)
{
    *graph = NULL;
    HT_TRY(check(model, adapter, params, err));
    struct ht_graph *g = ht_calloc(1, sizeof *g);
    if (!g)
        return ht_fail(err, HEARTH_NOMEM, "out of memory for training");
    g->model = model;
    g->train = model->dev->train;
    g->p = *params;
    g->p.piece_us = params->piece_us;
    if (!g->p.piece_us)
        g->p.piece_us = (uint32_t)(PIECE_US / g->train->slowness(model->device, params->precision));
    g->p.logits_bytes = params->logits_bytes ? params->logits_bytes : LOGITS_BYTES;
    g->n_values = adapter->n_values;
    enum hearth_status status = make(g, adapter, err);
    *graph = g;
    if (status != HEARTH_OK)
        ht_graph_destroy(graph);
    return status;
}

enum hearth_status ht_graph_create(struct ht_graph **graph, const struct ht_model *model,
                                   const struct hearth_adapter *adapter, const struct ht_graph_params *params,
                                   struct hearth_error *err)
{
    HT_TRY(ht_graph_make(graph, model, adapter, params, err));
    enum hearth_status status = ht_graph_write(*graph, HT_GRAPH_VALUES, adapter->values, err);
    if (status != HEARTH_OK)
        ht_graph_destroy(graph);
    return status;
}

uint64_t ht_graph_bytes(const struct ht_graph *graph)
{
    return graph->bytes;
}

enum hearth_status ht_graph_memory(const struct ht_model *model, const struct hearth_adapter *adapter,
                                   const struct ht_graph_params *params, uint64_t *bytes, struct hearth_error *err)
{
    struct ht_graph *g;
    *bytes = 0;
    HT_TRY(ht_graph_make(&g, model, adapter, params, err));
    *bytes = g->bytes;
    ht_graph_destroy(&g);
    return HEARTH_OK;
}

void ht_graph_destroy(struct ht_graph **graph)
{
    struct ht_graph *g = *graph;
    *graph = NULL;
    if (!g)
        return;
    const struct ht_device_ops *dev = g->model->dev;
    struct ht_pieces *all[] = {&g->forward,    &g->forward_drawn, &g->head, &g->head_drawn,
                               &g->backward, &g->update,        &g->norm};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        for (uint32_t j = 0; j < all[i]->n; j++)
            dev->plan_destroy(&all[i]->list[j].plan);
        ht_free(all[i]->list);
    }
    dev->buf_destroy(g->model->device, &g->work);
    dev->buf_destroy(g->model->device, &g->flat);
    ht_free(g->step_memory);
    ht_free(g->block_memory);
    ht_free(g->out_rows);
    ht_free(g->losses);
    ht_free(g->layers);
    ht_free(g->ranges);
    ht_free(g);
}

// ---------------------------------------------------------------- running

static enum hearth_status run_piece(struct ht_graph *g, const struct ht_piece *piece, struct hearth_error *err)
{
    const struct ht_model *m = g->model;
    HT_TRY(g->train->submit(piece->plan, &g->step, &g->block, err));
    return m->dev->wait(m->device, UINT64_MAX, err);
}

// A piece of the head for rows of tile `tile`.
static enum hearth_status run_head(struct ht_graph *g, uint32_t tile, const struct ht_piece *piece,
                                   struct hearth_error *err)
{
    uint32_t first = tile * g->outs + piece->out_from, most = piece->n_outs ? piece->n_outs : g->outs;
    if (first >= g->n_out_rows)
        return HEARTH_OK;
    uint32_t n = g->n_out_rows - first < most ? g->n_out_rows - first : most;
    g->step.counts[1] = n;
    memcpy(g->step.out_row, g->out_rows + first, n * sizeof *g->out_rows);
    enum hearth_status status = run_piece(g, piece, err);
    g->step.counts[1] = 0;
    return status;
}

static const struct ht_pieces *forward_of(const struct ht_graph *g)
{
    return g->pass == HT_GRAPH_TRAIN && draws(g) ? &g->forward_drawn : &g->forward;
}

static const struct ht_pieces *head_of(const struct ht_graph *g)
{
    return g->pass == HT_GRAPH_TRAIN && head_draws(g) ? &g->head_drawn : &g->head;
}

// The first write to a page of memory waits for the system to clear it. Logits lie row by row, a piece of the head
// writes a stretch of every row, and so the first one would wait for the pages of a whole tile (70 ms for 128 MiB).
// These are written to beforehand, some rows a piece; nothing is touched that a pass does not need.
static uint32_t rows_a_touch(const struct ht_graph *g)
{
    uint32_t rows = (uint32_t)(TOUCH_BYTES / (g->logits_stride * sizeof(float)));
    return rows ? rows : 1;
}

static uint32_t touch_pieces(const struct ht_graph *g)
{
    uint32_t rows = g->n_out_rows < g->outs ? g->n_out_rows : g->outs, each = rows_a_touch(g);
    return rows > g->rows_touched ? (rows - g->rows_touched + each - 1) / each : 0;
}

static void touch(struct ht_graph *g)
{
    enum { PAGE_FLOATS = 1024 };
    uint32_t rows = rows_a_touch(g);
    rows = rows < g->outs - g->rows_touched ? rows : g->outs - g->rows_touched;
    float *logits = g->model->dev->buf_host(g->logits.buf); // NULL: memory of a device of its own
    logits += logits ? g->logits.offset + (size_t)g->rows_touched * g->logits_stride : 0;
    for (size_t i = 0; logits && i < (size_t)rows * g->logits_stride; i += PAGE_FLOATS)
        logits[i] = 0;
    g->rows_touched += rows;
}

static uint32_t head_pieces(const struct ht_graph *g)
{
    return g->pass == HT_GRAPH_TRAIN ? head_of(g)->n : g->n_head_loss;
}

static enum hearth_status run_pass(struct ht_graph *g, struct hearth_error *err)
{
    const struct ht_pieces *forward = forward_of(g);
    uint32_t at = g->at, n_head = head_pieces(g), tiles = (g->n_out_rows + g->outs - 1) / g->outs;
    if (at < g->n_touch) {
        touch(g);
        return HEARTH_OK;
    }
    at -= g->n_touch;
    if (at < forward->n)
        return run_piece(g, &forward->list[at], err);
    at -= forward->n;
    if (at < tiles * n_head)
        return run_head(g, at / n_head, &head_of(g)->list[at % n_head], err);
    return run_piece(g, &g->backward.list[at - tiles * n_head], err);
}

static enum hearth_status check_batch(const struct ht_graph *g, const struct ht_batch *b, struct hearth_error *err)
{
    if (!b->n_rows || b->n_rows > g->p.rows)
        return ht_fail(err, HEARTH_INVALID, "%u rows of a micro-batch, 1 to %u are allowed", b->n_rows, g->p.rows);
    for (uint32_t r = 0; r < b->n_rows; r++) {
        if (b->ids[r] < 0 || (uint32_t)b->ids[r] >= g->model->hp.n_vocab || b->target[r] < -1 ||
            b->target[r] >= (int64_t)g->model->hp.n_vocab)
            return ht_fail(err, HEARTH_INVALID, "row %u has id %d and target %d, the vocabulary has %u", r, b->ids[r],
                           b->target[r], g->model->hp.n_vocab);
        bool run = b->seg_from[r] == r || (r && b->seg_from[r] == b->seg_from[r - 1]); // segments are runs of rows
        if (b->pos[r] >= g->p.rows || !run)
            return ht_fail(err, HEARTH_INVALID, "row %u has position %u in a segment from %u", r, b->pos[r],
                           b->seg_from[r]);
    }
    return HEARTH_OK;
}

enum hearth_status ht_graph_begin(struct ht_graph *graph, enum ht_graph_pass pass, const struct ht_batch *batch,
                                  uint64_t seed, uint64_t step, struct hearth_error *err)
{
    struct ht_graph *g = graph;
    uint32_t n = batch->n_rows;
    if (g->state != HT_GRAPH_IDLE)
        return ht_fail(err, HEARTH_INVALID, "training: the pass before has not ended");
    HT_TRY(check_batch(g, batch, err));
    g->step.counts[0] = n;
    g->step.counts[1] = 0;
    memcpy(g->step.ids, batch->ids, n * sizeof *batch->ids);
    memcpy(g->step.pos, batch->pos, n * sizeof *batch->pos);
    memcpy(g->block.seg_from, batch->seg_from, n * sizeof *batch->seg_from);
    memcpy(g->block.target, batch->target, n * sizeof *batch->target);
    memcpy(g->block.weight, batch->weight, n * sizeof *batch->weight);
    memcpy(g->block.row_id, batch->row_id, n * sizeof *batch->row_id);
    *g->block.values = (struct ht_train_values){.seed = seed, .step = step};
    memset(g->losses, 0, g->p.rows * sizeof *g->losses);
    g->n_out_rows = 0;
    for (uint32_t r = 0; r < n; r++)
        if (batch->target[r] >= 0 && batch->weight[r] != 0)
            g->out_rows[g->n_out_rows++] = (int32_t)r;
    g->pass = pass;
    g->state = HT_GRAPH_PASSING;
    g->at = g->n_pieces = g->n_touch = 0;
    if (!g->n_out_rows)
        return HEARTH_OK; // no loss and no gradient
    uint32_t tiles = (g->n_out_rows + g->outs - 1) / g->outs;
    g->n_touch = touch_pieces(g);
    g->n_pieces = g->n_touch + forward_of(g)->n + tiles * head_pieces(g) + (pass == HT_GRAPH_TRAIN ? g->backward.n : 0);
    return HEARTH_OK;
}

static enum hearth_status end(struct ht_graph *g, struct hearth_error *err)
{
    const struct ht_model *m = g->model;
    bool read = g->state == HT_GRAPH_PASSING && g->n_pieces;
    g->state = HT_GRAPH_IDLE;
    if (!read)
        return HEARTH_OK;
    return m->dev->buf_read(m->device, g->loss.buf, g->loss.offset * sizeof(float), g->losses,
                            g->step.counts[0] * sizeof *g->losses, err);
}

enum hearth_status ht_graph_run(struct ht_graph *graph, uint32_t *left, struct hearth_error *err)
{
    struct ht_graph *g = graph;
    enum hearth_status status = HEARTH_OK;
    *left = 0;
    if (g->state != HT_GRAPH_IDLE && g->at < g->n_pieces) {
        status = g->state == HT_GRAPH_PASSING ? run_pass(g, err) : run_piece(g, &g->update.list[g->at], err);
        g->at++;
    }
    if (status != HEARTH_OK) {
        g->state = HT_GRAPH_IDLE;
        return status;
    }
    *left = g->n_pieces - g->at;
    return *left ? HEARTH_OK : end(g, err);
}

const float *ht_graph_losses(const struct ht_graph *graph)
{
    return graph->losses;
}

enum hearth_status ht_graph_update(struct ht_graph *graph, uint64_t step, float lr, struct hearth_error *err)
{
    struct ht_graph *g = graph;
    if (g->state != HT_GRAPH_IDLE)
        return ht_fail(err, HEARTH_INVALID, "training: the pass before has not ended");
    if (!step)
        return ht_fail(err, HEARTH_INVALID, "training: optimizer steps begin with 1");
    g->block.values->step = step;
    g->block.values->lr = lr;
    g->block.values->correction1 = (float)(1 - pow((double)g->p.beta1, (double)step));
    g->block.values->correction2 = (float)sqrt(1 - pow((double)g->p.beta2, (double)step));
    g->step.counts[0] = 1; // no op here looks at rows
    g->step.counts[1] = 0;
    g->block.seg_from[0] = 0;
    g->step.pos[0] = 0;
    g->state = HT_GRAPH_UPDATING;
    g->at = 0;
    g->n_pieces = g->update.n;
    return HEARTH_OK;
}

enum hearth_status ht_graph_norm(struct ht_graph *graph, float *norm, struct hearth_error *err)
{
    struct ht_graph *g = graph;
    const struct ht_model *m = g->model;
    *norm = NAN;
    if (g->state != HT_GRAPH_IDLE)
        return ht_fail(err, HEARTH_INVALID, "training: the pass before has not ended");
    g->step.counts[0] = 1;
    g->step.counts[1] = 0;
    g->block.seg_from[0] = 0;
    g->step.pos[0] = 0;
    for (uint32_t i = 0; i < g->norm.n; i++)
        HT_TRY(run_piece(g, &g->norm.list[i], err));
    float sum;
    HT_TRY(m->dev->buf_read(m->device, g->sum.buf, g->sum.offset * sizeof(float), &sum, sizeof sum, err));
    *norm = sqrtf(sum);
    return HEARTH_OK;
}

// ---------------------------------------------------------------- flat vectors

size_t ht_graph_n_values(const struct ht_graph *graph)
{
    return graph->n_values;
}

static enum hearth_status check_vector(const struct ht_graph *g, enum ht_graph_vector which, struct hearth_error *err)
{
    return g->vector[which].buf ? HEARTH_OK
                                : ht_fail(err, HEARTH_INVALID, "training: the moments are bytes, not a vector");
}

enum hearth_status ht_graph_read(struct ht_graph *graph, enum ht_graph_vector which, float *values,
                                 struct hearth_error *err)
{
    const struct ht_ref *from = &graph->vector[which];
    const struct ht_model *m = graph->model;
    HT_TRY(check_vector(graph, which, err));
    return m->dev->buf_read(m->device, from->buf, from->offset * sizeof *values, values,
                            graph->n_values * sizeof *values, err);
}

enum hearth_status ht_graph_write(struct ht_graph *graph, enum ht_graph_vector which, const float *values,
                                  struct hearth_error *err)
{
    const struct ht_ref *to = &graph->vector[which];
    const struct ht_model *m = graph->model;
    HT_TRY(check_vector(graph, which, err));
    return m->dev->buf_write(m->device, to->buf, to->offset * sizeof *values, values,
                             graph->n_values * sizeof *values, err);
}

size_t ht_graph_state_bytes(const struct ht_graph *graph)
{
    return graph->state_floats * sizeof(float);
}

static enum hearth_status check_part(const struct ht_graph *g, size_t offset, size_t len_bytes,
                                     struct hearth_error *err)
{
    size_t all = ht_graph_state_bytes(g);
    if (offset > all || len_bytes > all - offset)
        return ht_fail(err, HEARTH_INVALID, "training: %zu bytes at %zu of a state of %zu", len_bytes, offset, all);
    return HEARTH_OK;
}

enum hearth_status ht_graph_state_read(struct ht_graph *graph, size_t offset, void *bytes, size_t len_bytes,
                                       struct hearth_error *err)
{
    const struct ht_model *m = graph->model;
    HT_TRY(check_part(graph, offset, len_bytes, err));
    return m->dev->buf_read(m->device, graph->flat, offset, bytes, len_bytes, err);
}

enum hearth_status ht_graph_state_write(struct ht_graph *graph, size_t offset, const void *bytes, size_t len_bytes,
                                        struct hearth_error *err)
{
    const struct ht_model *m = graph->model;
    HT_TRY(check_part(graph, offset, len_bytes, err));
    return m->dev->buf_write(m->device, graph->flat, offset, bytes, len_bytes, err);
}
