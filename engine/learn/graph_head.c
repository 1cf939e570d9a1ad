// SPDX-License-Identifier: Apache-2.0
// The head over a tile of the rows whose weight is not 0: logits in ranges of the vocabulary, the loss a few rows at a
// time, then back the same way. So there are never more logits than a tile's. Engine thread.
#include "engine/learn/graph_impl.h"

static const struct ht_ref none = {0};

static enum hearth_status logits(struct ht_recorder *rec)
{
    const struct ht_graph *g = rec->g;
    const struct ht_model *m = g->model;
    uint32_t n_embd = m->hp.n_embd;
    const struct ht_gather gather = {
        .x = g->last, .y = g->chosen, .x_stride = n_embd, .y_stride = n_embd, .dim = n_embd};
    HT_TRY(ht_record_op(rec, ht_cost_values((double)g->outs * n_embd)));
    HT_TRY(rec->ops->gather(rec->plan, &gather, rec->err));
    HT_TRY(ht_record_norm(rec, g->chosen, g->final, m->output_norm, 1, n_embd, false, HT_ROWS_OUT));
    const struct ht_graph_part head = {.w = m->output, .y = g->logits, .bias = none, .n = m->hp.n_vocab,
                                       .stride = g->logits_stride};
    HT_TRY(ht_record_linear(rec, g->final, n_embd, &head, 1, false, HT_ROWS_OUT));
    return ht_record_head_lora(rec);
}

static enum hearth_status losses(struct ht_recorder *rec)
{
    const struct ht_graph *g = rec->g;
    double per_row = 2 * ht_cost_values(g->model->hp.n_vocab);
    uint32_t most = ht_record_at_most(g, per_row, g->outs, 2);
    for (uint32_t from = 0; from < g->outs; from += most) {
        HT_TRY(ht_record_end(rec));
        rec->out_from = from;
        rec->n_outs = g->outs - from < most ? g->outs - from : most;
        struct ht_cross_entropy op = {.logits = g->logits,
                                      .loss = g->loss,
                                      .stride = g->logits_stride,
                                      .n_vocab = g->model->hp.n_vocab,
                                      .softcap = g->model->hp.final_softcap};
        op.logits.offset += (size_t)from * g->logits_stride;
        HT_TRY(ht_record_op(rec, per_row * most));
        HT_TRY(rec->train->cross_entropy(rec->plan, &op, rec->err));
    }
    HT_TRY(ht_record_end(rec));
    rec->out_from = rec->n_outs = 0;
    return HEARTH_OK;
}

static enum hearth_status back(struct ht_recorder *rec)
{
    const struct ht_graph *g = rec->g;
    const struct ht_model *m = g->model;
    uint32_t n_embd = m->hp.n_embd;
    const struct ht_graph_part head = {.w = m->output, .y = g->logits, .bias = none, .n = m->hp.n_vocab,
                                       .stride = g->logits_stride};
    HT_TRY(ht_record_head_lora_back(rec));
    if (g->lowest == UINT32_MAX) // no layer has a target: what is below learns nothing
        return HEARTH_OK;
    HT_TRY(ht_record_linear_t(rec, g->final, n_embd, &head, 1, false, HT_ROWS_OUT));
    HT_TRY(ht_record_head_lora_dx(rec, g->final));
    HT_TRY(ht_record_norm_back(rec, g->chosen, m->output_norm, g->final, g->final, 1, n_embd, false, HT_ROWS_OUT));
    const struct ht_scatter scatter = {
        .dy = g->final, .dx = g->dx, .dy_stride = n_embd, .dx_stride = n_embd, .dim = n_embd};
    HT_TRY(ht_record_op(rec, ht_cost_values((double)g->outs * n_embd)));
    return rec->train->scatter(rec->plan, &scatter, rec->err);
}

enum hearth_status ht_record_head(struct ht_recorder *rec)
{
    HT_TRY(logits(rec));
    HT_TRY(losses(rec));
    if (rec->to == &rec->g->head) // with dropout there is another one, for training
        rec->g->n_head_loss = rec->to->n;
    HT_TRY(back(rec));
    return ht_record_end(rec);
}
