// SPDX-License-Identifier: Apache-2.0
// The transformer decoder, written once: straight-line calls of the op table, switched by the family's
// features. x is the residual stream (R, n_embd); h takes what a norm or a post-normed branch gives. Engine thread.
#include "engine/model/context.h"

static enum hearth_status rmsnorm(const struct ht_ops *ops, struct ht_plan *plan, struct ht_ref x,
                                  struct ht_ref y, struct ht_ref w, uint32_t groups, uint32_t dim, float eps,
                                  bool add, enum ht_rows rows, struct hearth_error *err)
{
    const struct ht_rmsnorm op = {
        .x = x,
        .y = y,
        .w = w,
        .x_stride = groups * dim,
        .y_stride = groups * dim,
        .groups = groups,
        .dim = dim,
        .eps = eps,
        .add = add,
        .rows = rows,
    };
    return ops->rmsnorm(plan, &op, err);
}

// `linear`: its number in the bank of adapters.
static struct ht_matmul_part part(struct ht_weight *w, uint32_t linear, struct ht_ref y, struct ht_ref bias, uint32_t n,
                                  bool add)
{
    return (struct ht_matmul_part){.w = w, .y = y, .bias = bias, .y_stride = n, .linear = linear, .add = add};
}

static struct ht_matmul_part layer_part(const struct ht_model *m, uint32_t layer, enum ht_matrix matrix,
                                        struct ht_ref y, struct ht_ref bias, uint32_t n, bool add)
{
    return part(m->layers[layer].matrix[matrix], ht_lora_linear(layer, matrix), y, bias, n, add);
}

// h → q, k, v: one product over shared x, head norms, rotation, into the cache.
static enum hearth_status record_qkv(const struct ht_context *ctx, const struct ht_ops *ops,
                                     struct ht_plan *plan, uint32_t index, struct hearth_error *err)
{
    const struct ht_model *m = ctx->model;
    const struct ht_hparams *hp = &m->hp;
    const struct ht_layer *layer = &m->layers[index];
    uint32_t n_q = hp->n_heads * hp->k_dim, n_k = hp->n_kv_heads * hp->k_dim,
             n_v = hp->n_kv_heads * hp->v_dim;
    const struct ht_matmul qkv = {
        .x = ctx->h,
        .x_stride = hp->n_embd,
        .k = hp->n_embd,
        .n_parts = 3,
        .part = {layer_part(m, index, HT_ATTN_Q, ctx->q, layer->vector[HT_Q_BIAS], n_q, false),
                 layer_part(m, index, HT_ATTN_K, ctx->k, layer->vector[HT_K_BIAS], n_k, false),
                 layer_part(m, index, HT_ATTN_V, ctx->v, layer->vector[HT_V_BIAS], n_v, false)},
        .bank = ctx->bank,
    };
    HT_TRY(ops->matmul(plan, &qkv, err));
    if (hp->features & HT_FEATURE_QK_NORM) {
        HT_TRY(rmsnorm(ops, plan, ctx->q, ctx->q, layer->vector[HT_Q_NORM], hp->n_heads, hp->k_dim,
                       hp->norm_eps, false, HT_ROWS_ALL, err));
        HT_TRY(rmsnorm(ops, plan, ctx->k, ctx->k, layer->vector[HT_K_NORM], hp->n_kv_heads, hp->k_dim,
                       hp->norm_eps, false, HT_ROWS_ALL, err));
    }
    struct ht_rope rope = {
        .x = ctx->q,
        .freq = ht_layer_is_local(hp, index) ? m->rope_freq_local : m->rope_freq,
        .stride = n_q,
        .heads = hp->n_heads,
        .dim = hp->k_dim,
        .n_rot = hp->n_rot,
        .kind = hp->arch->rope,
        .mscale = 1,
    };
    HT_TRY(ops->rope(plan, &rope, err));
    rope.x = ctx->k;
    rope.stride = n_k;
    rope.heads = hp->n_kv_heads;
    HT_TRY(ops->rope(plan, &rope, err));
    const struct ht_kv_store store = {
        .kv = ctx->kv,
        .layer = index,
        .k = ctx->k,
        .v = ctx->v,
        .k_stride = n_k,
        .v_stride = n_v,
    };
    return ops->kv_store(plan, &store, err);
}

// A branch's last product adds to x directly, or goes through its post-norm first.
static enum hearth_status record_branch_end(const struct ht_context *ctx, const struct ht_ops *ops,
                                            struct ht_plan *plan, struct ht_ref from, uint32_t k,
                                            uint32_t layer, enum ht_matrix matrix, struct ht_ref post_norm,
                                            struct hearth_error *err)
{
    const struct ht_hparams *hp = &ctx->model->hp;
    struct ht_ref none = {0};
    bool post = post_norm.buf;
    const struct ht_matmul op = {
        .x = from,
        .x_stride = k,
        .k = k,
        .n_parts = 1,
        .part = {layer_part(ctx->model, layer, matrix, post ? ctx->h : ctx->x, none, hp->n_embd, !post)},
        .bank = ctx->bank,
    };
    HT_TRY(ops->matmul(plan, &op, err));
    if (!post)
        return HEARTH_OK;
    return rmsnorm(ops, plan, ctx->h, ctx->x, post_norm, 1, hp->n_embd, hp->norm_eps, true, HT_ROWS_ALL, err);
}

static enum hearth_status record_layer(const struct ht_context *ctx, const struct ht_ops *ops,
                                       struct ht_plan *plan, uint32_t index, struct hearth_error *err)
{
    const struct ht_model *m = ctx->model;
    const struct ht_hparams *hp = &m->hp;
    const struct ht_layer *layer = &m->layers[index];
    struct ht_ref none = {0};
    uint32_t n_o = hp->n_heads * hp->v_dim;

    HT_TRY(rmsnorm(ops, plan, ctx->x, ctx->h, layer->vector[HT_ATTN_NORM], 1, hp->n_embd, hp->norm_eps, false,
                   HT_ROWS_ALL, err));
    HT_TRY(record_qkv(ctx, ops, plan, index, err));
    const struct ht_attention attention = {
        .kv = ctx->kv,
        .layer = index,
        .q = ctx->q,
        .y = ctx->a,
        .q_stride = hp->n_heads * hp->k_dim,
        .y_stride = n_o,
        .heads = hp->n_heads,
        .scale = hp->attn_scale,
        .window = ht_layer_is_local(hp, index) ? hp->window : 0,
    };
    HT_TRY(ops->attention(plan, &attention, err));
    HT_TRY(record_branch_end(ctx, ops, plan, ctx->a, n_o, index, HT_ATTN_OUTPUT, layer->vector[HT_POST_ATTN_NORM],
                             err));

    HT_TRY(rmsnorm(ops, plan, ctx->x, ctx->h, layer->vector[HT_FFN_NORM], 1, hp->n_embd, hp->norm_eps, false,
                   HT_ROWS_ALL, err));
    const struct ht_matmul gate_up = {
        .x = ctx->h,
        .x_stride = hp->n_embd,
        .k = hp->n_embd,
        .n_parts = 2,
        .part = {layer_part(m, index, HT_FFN_GATE, ctx->gate, none, hp->n_ff, false),
                 layer_part(m, index, HT_FFN_UP, ctx->up, none, hp->n_ff, false)},
        .bank = ctx->bank,
    };
    HT_TRY(ops->matmul(plan, &gate_up, err));
    const struct ht_glu glu = {
        .gate = ctx->gate,
        .up = ctx->up,
        .y = ctx->gate,
        .gate_stride = hp->n_ff,
        .up_stride = hp->n_ff,
        .y_stride = hp->n_ff,
        .dim = hp->n_ff,
        .act = hp->arch->act,
    };
    HT_TRY(ops->glu(plan, &glu, err));
    return record_branch_end(ctx, ops, plan, ctx->gate, hp->n_ff, index, HT_FFN_DOWN, layer->vector[HT_POST_FFN_NORM],
                             err);
}

enum hearth_status ht_decoder_record_body(const struct ht_context *ctx, struct ht_plan *plan,
                                          struct hearth_error *err)
{
    const struct ht_model *m = ctx->model;
    const struct ht_ops *ops = m->dev->ops(m->device);
    const struct ht_embed embed = {
        .w = m->token_embd, .y = ctx->x, .stride = m->hp.n_embd, .scale = m->hp.embd_scale};
    HT_TRY(ops->embed(plan, &embed, err));
    for (uint32_t i = 0; i < m->hp.n_layers; i++)
        HT_TRY(record_layer(ctx, ops, plan, i, err));
    return HEARTH_OK;
}

enum hearth_status ht_decoder_record_head(const struct ht_context *ctx, struct ht_plan *plan,
                                          struct hearth_error *err)
{
    const struct ht_model *m = ctx->model;
    const struct ht_hparams *hp = &m->hp;
    const struct ht_ops *ops = m->dev->ops(m->device);
    struct ht_ref none = {0};
    const struct ht_gather gather = {
        .x = ctx->x, .y = ctx->out, .x_stride = hp->n_embd, .y_stride = hp->n_embd, .dim = hp->n_embd};
    HT_TRY(ops->gather(plan, &gather, err));
    HT_TRY(rmsnorm(ops, plan, ctx->out, ctx->out, m->output_norm, 1, hp->n_embd, hp->norm_eps, false,
                   HT_ROWS_OUT, err));
    const struct ht_matmul logits = {
        .x = ctx->out,
        .x_stride = hp->n_embd,
        .k = hp->n_embd,
        .n_parts = 1,
        .part = {part(m->output, ht_lora_head(hp), ctx->logits, none, ctx->logits_stride, false)},
        .rows = HT_ROWS_OUT,
        .bank = ctx->bank,
    };
    HT_TRY(ops->matmul(plan, &logits, err));
    if (hp->final_softcap > 0) {
        const struct ht_softcap cap = {
            .x = ctx->logits,
            .stride = ctx->logits_stride,
            .dim = hp->n_vocab,
            .cap = hp->final_softcap,
            .rows = HT_ROWS_OUT,
        };
        HT_TRY(ops->softcap(plan, &cap, err));
    }
    const struct ht_sample sample = {
        .logits = ctx->logits, .token = ctx->token, .stride = ctx->logits_stride, .n_vocab = hp->n_vocab};
    return ops->sample(plan, &sample, err);
}

static enum hearth_status need(const void *op, const char *name, const char *device, struct hearth_error *err)
{
    return op ? HEARTH_OK
              : ht_fail(err, HEARTH_UNSUPPORTED, "the op %s is not implemented on device %s", name, device);
}

enum hearth_status ht_decoder_check_ops(const struct ht_model *model, struct hearth_error *err)
{
    const struct ht_ops *ops = model->dev->ops(model->device);
    const char *device = model->dev->name;
#define HT_NEED(name) HT_TRY(need(*(void *const *)&ops->name, #name, device, err));
    HT_NEED(embed)
    HT_NEED(rmsnorm) HT_NEED(matmul) HT_NEED(rope) HT_NEED(kv_store) HT_NEED(attention) HT_NEED(glu)
        HT_NEED(gather) HT_NEED(sample) if (model->hp.final_softcap > 0) HT_NEED(softcap)
#undef HT_NEED
            return HEARTH_OK;
}
