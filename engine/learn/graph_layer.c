// SPDX-License-Identifier: Apache-2.0
// The decoder of engine/model/decoder.c for training, forward and back, written once for all families. Attention is
// among the rows themselves; LoRA stands beside each frozen product. Engine thread.
#include "engine/learn/graph_impl.h"

static const struct ht_ref none = {0};

struct at { // a layer being recorded
    struct ht_recorder *rec;
    const struct ht_graph *g;
    const struct ht_hparams *hp;
    const struct ht_layer *weights;
    const struct ht_graph_layer *own;
    const struct ht_graph_kept *kept;
    uint32_t index, n_q, n_k, n_v, n_o;
    bool head_norms;
};

static struct at layer_at(struct ht_recorder *rec, uint32_t index)
{
    const struct ht_graph *g = rec->g;
    const struct ht_hparams *hp = &g->model->hp;
    return (struct at){
        .rec = rec,
        .g = g,
        .hp = hp,
        .weights = &g->model->layers[index],
        .own = &g->layers[index],
        .kept = &g->layers[index].kept,
        .index = index,
        .n_q = hp->n_heads * hp->k_dim,
        .n_k = hp->n_kv_heads * hp->k_dim,
        .n_v = hp->n_kv_heads * hp->v_dim,
        .n_o = hp->n_heads * hp->v_dim,
        .head_norms = hp->features & HT_FEATURE_QK_NORM,
    };
}

static struct ht_graph_part part(const struct at *at, enum ht_matrix matrix, struct ht_ref y, struct ht_ref bias,
                                 uint32_t n)
{
    return (struct ht_graph_part){.w = at->weights->matrix[matrix], .y = y, .bias = bias, .n = n};
}

static enum hearth_status norm(const struct at *at, struct ht_ref x, struct ht_ref y, enum ht_vector w, bool add)
{
    return ht_record_norm(at->rec, x, y, at->weights->vector[w], 1, at->hp->n_embd, add, HT_ROWS_ALL);
}

static enum hearth_status norm_back(const struct at *at, struct ht_ref x, enum ht_vector w, struct ht_ref dy,
                                    struct ht_ref dx, bool add)
{
    return ht_record_norm_back(at->rec, x, at->weights->vector[w], dy, dx, 1, at->hp->n_embd, add, HT_ROWS_ALL);
}

// ---------------------------------------------------------------- attention

static enum hearth_status rotate(const struct at *at, struct ht_ref x, uint32_t heads, bool back)
{
    const struct ht_model *m = at->g->model;
    const struct ht_rope_back op = {{
        .x = x,
        .freq = ht_layer_is_local(at->hp, at->index) ? m->rope_freq_local : m->rope_freq,
        .stride = heads * at->hp->k_dim,
        .heads = heads,
        .dim = at->hp->k_dim,
        .n_rot = at->hp->n_rot,
        .kind = at->hp->arch->rope,
        .mscale = 1,
    }};
    struct ht_recorder *rec = at->rec;
    HT_TRY(ht_record_op(rec, ht_cost_values((double)at->g->p.rows * heads * at->hp->k_dim)));
    return back ? rec->train->rope_back(rec->plan, &op, rec->err) : rec->ops->rope(rec->plan, &op.rope, rec->err);
}

// q and k as attention reads them: rotated where they are kept, or normed and rotated into g->q and g->k.
static enum hearth_status turn(const struct at *at)
{
    struct ht_ref q = at->kept->q, k = at->kept->k;
    if (at->head_norms) {
        q = at->g->q;
        k = at->g->k;
        HT_TRY(ht_record_norm(at->rec, at->kept->q, q, at->weights->vector[HT_Q_NORM], at->hp->n_heads,
                              at->hp->k_dim, false, HT_ROWS_ALL));
        HT_TRY(ht_record_norm(at->rec, at->kept->k, k, at->weights->vector[HT_K_NORM], at->hp->n_kv_heads,
                              at->hp->k_dim, false, HT_ROWS_ALL));
    }
    HT_TRY(rotate(at, q, at->hp->n_heads, false));
    return rotate(at, k, at->hp->n_kv_heads, false);
}

static struct ht_ref moved(struct ht_ref ref, size_t floats)
{
    ref.offset += floats;
    return ref;
}

// Of kv heads [kv, kv + n) and the heads that read them.
static struct ht_attend attend_of(const struct at *at, uint32_t kv, uint32_t n)
{
    const struct ht_hparams *hp = at->hp;
    uint32_t share = hp->n_heads / hp->n_kv_heads, head = kv * share;
    return (struct ht_attend){
        .q = moved(at->head_norms ? at->g->q : at->kept->q, (size_t)head * hp->k_dim),
        .k = moved(at->head_norms ? at->g->k : at->kept->k, (size_t)kv * hp->k_dim),
        .v = moved(at->kept->v, (size_t)kv * hp->v_dim),
        .y = moved(at->kept->a, (size_t)head * hp->v_dim),
        .lse = moved(at->kept->lse, (size_t)kv * at->g->lse_floats),
        .q_stride = at->n_q,
        .k_stride = at->n_k,
        .v_stride = at->n_v,
        .y_stride = at->n_o,
        .lse_stride = n * share,
        .heads = n * share,
        .kv_heads = n,
        .k_dim = hp->k_dim,
        .v_dim = hp->v_dim,
        .scale = hp->attn_scale,
        .window = ht_layer_is_local(hp, at->index) ? hp->window : 0,
        .precision = ht_attend_precision(at->g),
    };
}

static enum hearth_status attend(const struct at *at, bool back)
{
    const struct ht_graph *g = at->g;
    uint32_t all = at->hp->n_kv_heads;
    for (uint32_t kv = 0; kv < all; kv += g->attend_kv) {
        uint32_t n = all - kv < g->attend_kv ? all - kv : g->attend_kv;
        struct ht_attend f = attend_of(at, kv, n);
        struct ht_recorder *rec = at->rec;
        HT_TRY(ht_record_op(rec, ht_cost_attend(g, f.heads, back)));
        if (!back) {
            HT_TRY(rec->train->attend(rec->plan, &f, rec->err));
            continue;
        }
        uint32_t head = kv * (at->hp->n_heads / all);
        const struct ht_attend_back op = {
            .f = f,
            .dy = moved(g->da, (size_t)head * f.v_dim),
            .dq = moved(g->dq, (size_t)head * f.k_dim),
            .dk = moved(g->dk, (size_t)kv * f.k_dim),
            .dv = moved(g->dv, (size_t)kv * f.v_dim),
            .dy_stride = at->n_o,
            .dq_stride = at->n_q,
            .dk_stride = at->n_k,
            .dv_stride = at->n_v,
        };
        HT_TRY(rec->train->attend_back(rec->plan, &op, rec->err));
    }
    return HEARTH_OK;
}

// The end of a branch: y = x + W from, or x + norm(W from); `given`: what goes into that norm. y NULL: it is known, and
// only what the way back needs is computed.
static enum hearth_status branch_end(const struct at *at, enum ht_graph_input input, enum ht_matrix matrix,
                                     struct ht_ref from, uint32_t k, enum ht_vector post, struct ht_ref given,
                                     struct ht_ref x, const struct ht_ref *y)
{
    const struct ht_graph_group *group = &at->own->group[input];
    bool normed = at->weights->vector[post].buf;
    struct ht_ref u = at->kept->u[input];
    HT_TRY(ht_record_lora_inner(at->rec, group, from, u));
    if (!y && !normed)
        return HEARTH_OK;
    struct ht_graph_part out = part(at, matrix, normed ? given : *y, none, at->hp->n_embd);
    if (y)
        HT_TRY(ht_record_copy(at->rec, x, *y, at->hp->n_embd));
    HT_TRY(ht_record_linear(at->rec, from, k, &out, 1, !normed, HT_ROWS_ALL));
    HT_TRY(ht_record_lora_outer(at->rec, group, u, &out));
    return normed && y ? norm(at, given, *y, post, true) : HEARTH_OK;
}

static enum hearth_status attention(const struct at *at)
{
    const struct ht_graph_kept *kept = at->kept;
    const struct ht_ref *vector = at->weights->vector;
    const struct ht_graph_group *group = &at->own->group[HT_INPUT_QKV];
    struct ht_ref n = at->g->n, u = kept->u[HT_INPUT_QKV];
    const struct ht_graph_part qkv[3] = {part(at, HT_ATTN_Q, kept->q, vector[HT_Q_BIAS], at->n_q),
                                         part(at, HT_ATTN_K, kept->k, vector[HT_K_BIAS], at->n_k),
                                         part(at, HT_ATTN_V, kept->v, vector[HT_V_BIAS], at->n_v)};
    HT_TRY(norm(at, at->own->x, n, HT_ATTN_NORM, false));
    HT_TRY(ht_record_linear(at->rec, n, at->hp->n_embd, qkv, 3, false, HT_ROWS_ALL));
    HT_TRY(ht_record_lora_inner(at->rec, group, n, u));
    HT_TRY(ht_record_lora_outer(at->rec, group, u, qkv));
    HT_TRY(turn(at));
    HT_TRY(attend(at, false));
    return branch_end(at, HT_INPUT_OUTPUT, HT_ATTN_OUTPUT, kept->a, at->n_o, HT_POST_ATTN_NORM, kept->o, at->own->x,
                      &kept->x1);
}

// From the gradient of y, g->dx: what the branch's last product gets. Through the post-norm if there is one.
static enum hearth_status branch_begin_back(const struct at *at, enum ht_vector post, struct ht_ref given,
                                            struct ht_ref *dy)
{
    bool normed = at->weights->vector[post].buf;
    *dy = normed ? at->g->d : at->g->dx;
    return normed ? norm_back(at, given, post, at->g->dx, *dy, false) : HEARTH_OK;
}

static enum hearth_status attention_back(const struct at *at, bool wants_dx)
{
    const struct ht_graph *g = at->g;
    const struct ht_graph_kept *kept = at->kept;
    const struct ht_hparams *hp = at->hp;
    struct ht_graph_part out = part(at, HT_ATTN_OUTPUT, none, none, hp->n_embd);
    const struct ht_graph_part qkv[3] = {part(at, HT_ATTN_Q, g->dq, none, at->n_q),
                                         part(at, HT_ATTN_K, g->dk, none, at->n_k),
                                         part(at, HT_ATTN_V, g->dv, none, at->n_v)};
    HT_TRY(branch_begin_back(at, HT_POST_ATTN_NORM, kept->o, &out.y));
    HT_TRY(ht_record_linear_t(at->rec, g->da, at->n_o, &out, 1, false, HT_ROWS_ALL));
    HT_TRY(ht_record_lora_back(at->rec, &at->own->group[HT_INPUT_OUTPUT], kept->a, kept->u[HT_INPUT_OUTPUT], &out,
                               &g->da));
    if (at->head_norms)
        HT_TRY(turn(at));
    HT_TRY(attend(at, true));
    HT_TRY(rotate(at, g->dq, hp->n_heads, true));
    HT_TRY(rotate(at, g->dk, hp->n_kv_heads, true));
    if (at->head_norms) {
        HT_TRY(ht_record_norm_back(at->rec, kept->q, at->weights->vector[HT_Q_NORM], g->dq, g->dq, hp->n_heads,
                                   hp->k_dim, false, HT_ROWS_ALL));
        HT_TRY(ht_record_norm_back(at->rec, kept->k, at->weights->vector[HT_K_NORM], g->dk, g->dk, hp->n_kv_heads,
                                   hp->k_dim, false, HT_ROWS_ALL));
    }
    HT_TRY(norm(at, at->own->x, g->n, HT_ATTN_NORM, false));
    if (wants_dx)
        HT_TRY(ht_record_linear_t(at->rec, g->dn, hp->n_embd, qkv, 3, false, HT_ROWS_ALL));
    HT_TRY(ht_record_lora_back(at->rec, &at->own->group[HT_INPUT_QKV], g->n, kept->u[HT_INPUT_QKV], qkv,
                               wants_dx ? &g->dn : NULL));
    return wants_dx ? norm_back(at, at->own->x, HT_ATTN_NORM, g->dn, g->dx, true) : HEARTH_OK;
}

// ---------------------------------------------------------------- FFN

static enum hearth_status activate(const struct at *at)
{
    uint32_t dim = at->hp->n_ff;
    const struct ht_glu op = {
        .gate = at->kept->gate,
        .up = at->kept->up,
        .y = at->g->h,
        .gate_stride = dim,
        .up_stride = dim,
        .y_stride = dim,
        .dim = dim,
        .act = at->hp->arch->act,
    };
    HT_TRY(ht_record_op(at->rec, ht_cost_values((double)at->g->p.rows * dim)));
    return at->rec->ops->glu(at->rec->plan, &op, at->rec->err);
}

// y: the next layer's x, or NULL as above.
static enum hearth_status ffn(const struct at *at, const struct ht_ref *y)
{
    const struct ht_graph_kept *kept = at->kept;
    const struct ht_graph_group *group = &at->own->group[HT_INPUT_GATE_UP];
    uint32_t n_ff = at->hp->n_ff;
    struct ht_ref n = at->g->n, h = at->g->h, u = kept->u[HT_INPUT_GATE_UP];
    const struct ht_graph_part gate_up[2] = {part(at, HT_FFN_GATE, kept->gate, none, n_ff),
                                             part(at, HT_FFN_UP, kept->up, none, n_ff)};
    HT_TRY(norm(at, kept->x1, n, HT_FFN_NORM, false));
    HT_TRY(ht_record_linear(at->rec, n, at->hp->n_embd, gate_up, 2, false, HT_ROWS_ALL));
    HT_TRY(ht_record_lora_inner(at->rec, group, n, u));
    HT_TRY(ht_record_lora_outer(at->rec, group, u, gate_up));
    HT_TRY(activate(at));
    return branch_end(at, HT_INPUT_DOWN, HT_FFN_DOWN, h, n_ff, HT_POST_FFN_NORM, kept->down, kept->x1, y);
}

static enum hearth_status activate_back(const struct at *at)
{
    const struct ht_graph *g = at->g;
    uint32_t dim = at->hp->n_ff;
    const struct ht_glu_back op = {
        .gate = at->kept->gate,
        .up = at->kept->up,
        .dy = g->dh,
        .dgate = g->dh,
        .dup = g->h,
        .gate_stride = dim,
        .up_stride = dim,
        .dy_stride = dim,
        .dgate_stride = dim,
        .dup_stride = dim,
        .dim = dim,
        .act = at->hp->arch->act,
    };
    HT_TRY(ht_record_op(at->rec, 2 * ht_cost_values((double)g->p.rows * dim)));
    return at->rec->train->glu_back(at->rec->plan, &op, at->rec->err);
}

static enum hearth_status ffn_back(const struct at *at, bool wants_dx)
{
    const struct ht_graph *g = at->g;
    const struct ht_graph_kept *kept = at->kept;
    const struct ht_graph_group *group = &at->own->group[HT_INPUT_GATE_UP];
    uint32_t n_ff = at->hp->n_ff, n_embd = at->hp->n_embd;
    struct ht_graph_part out = part(at, HT_FFN_DOWN, none, none, n_embd);
    const struct ht_graph_part gate_up[2] = {part(at, HT_FFN_GATE, g->dh, none, n_ff),
                                             part(at, HT_FFN_UP, g->h, none, n_ff)};
    HT_TRY(branch_begin_back(at, HT_POST_FFN_NORM, kept->down, &out.y));
    HT_TRY(ht_record_linear_t(at->rec, g->dh, n_ff, &out, 1, false, HT_ROWS_ALL));
    if (at->own->group[HT_INPUT_DOWN].n_targets)
        HT_TRY(activate(at));
    HT_TRY(ht_record_lora_back(at->rec, &at->own->group[HT_INPUT_DOWN], g->h, kept->u[HT_INPUT_DOWN], &out,
                               &g->dh));
    HT_TRY(activate_back(at));
    HT_TRY(norm(at, kept->x1, g->n, HT_FFN_NORM, false));
    if (wants_dx)
        HT_TRY(ht_record_linear_t(at->rec, g->dn, n_embd, gate_up, 2, false, HT_ROWS_ALL));
    HT_TRY(ht_record_lora_back(at->rec, group, g->n, kept->u[HT_INPUT_GATE_UP], gate_up,
                               wants_dx ? &g->dn : NULL));
    return wants_dx ? norm_back(at, kept->x1, HT_FFN_NORM, g->dn, g->dx, true) : HEARTH_OK;
}

// ---------------------------------------------------------------- the whole

static enum hearth_status embed(struct ht_recorder *rec)
{
    const struct ht_graph *g = rec->g;
    const struct ht_model *m = g->model;
    uint32_t n_embd = m->hp.n_embd;
    double us = ht_cost_values((double)g->p.rows * n_embd);
    const struct ht_embed op = {
        .w = m->token_embd, .y = g->layers[0].x, .stride = n_embd, .scale = m->hp.embd_scale};
    HT_TRY(ht_record_op(rec, us));
    HT_TRY(rec->ops->embed(rec->plan, &op, rec->err));
    if (!rec->draws || g->p.neftune <= 0)
        return HEARTH_OK;
    const struct ht_noise noise = {
        .x = g->layers[0].x, .stride = n_embd, .dim = n_embd, .stream = (1u << 24) - 1, .alpha = g->p.neftune};
    HT_TRY(ht_record_op(rec, us));
    return rec->train->noise(rec->plan, &noise, rec->err);
}

enum hearth_status ht_record_forward(struct ht_recorder *rec)
{
    uint32_t n_layers = rec->g->model->hp.n_layers;
    HT_TRY(embed(rec));
    for (uint32_t i = 0; i < n_layers; i++) {
        struct at at = layer_at(rec, i);
        HT_TRY(attention(&at));
        HT_TRY(ffn(&at, i + 1 < n_layers ? &rec->g->layers[i + 1].x : &rec->g->last));
    }
    return ht_record_end(rec);
}

// With checkpointing a layer is computed again first; the last one is what the forward pass has left.
enum hearth_status ht_record_backward(struct ht_recorder *rec)
{
    const struct ht_graph *g = rec->g;
    uint32_t n_layers = g->model->hp.n_layers;
    for (uint32_t i = n_layers; i-- > g->lowest;) {
        struct at at = layer_at(rec, i);
        const struct ht_graph_group *group = at.own->group;
        bool below = i > g->lowest, within = group[HT_INPUT_QKV].n_targets || group[HT_INPUT_OUTPUT].n_targets;
        if (g->p.checkpointing && i + 1 < n_layers) {
            HT_TRY(attention(&at));
            HT_TRY(ffn(&at, NULL));
        }
        HT_TRY(ffn_back(&at, below || within));
        if (below || within)
            HT_TRY(attention_back(&at, below));
    }
    return ht_record_end(rec);
}
