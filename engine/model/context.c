// SPDX-License-Identifier: Apache-2.0
// Planning and recording what a model runs in: see context.h. Engine thread.
#include "engine/model/context.h"

#include <string.h>

#include "engine/base/mem.h"

// Rows of activations start on 64-byte borders: floats per tensor, rounded up to 16.
static uint64_t floats(uint64_t rows, uint64_t width)
{
    return (rows * width + 15) / 16 * 16;
}

static struct ht_ref take(uint64_t *used, struct ht_buf *buf, uint64_t rows, uint64_t width)
{
    struct ht_ref ref = {.buf = buf, .offset = (size_t)*used};
    *used += floats(rows, width);
    return ref;
}

// The one list of activation tensors: measures (buf NULL) and carves.
static uint64_t carve(struct ht_context *ctx, const struct ht_hparams *hp, struct ht_buf *buf, uint32_t rows,
                      uint32_t outs)
{
    uint64_t used = 0;
    ctx->x = take(&used, buf, rows, hp->n_embd);
    ctx->h = take(&used, buf, rows, hp->n_embd);
    ctx->q = take(&used, buf, rows, (uint64_t)hp->n_heads * hp->k_dim);
    ctx->k = take(&used, buf, rows, (uint64_t)hp->n_kv_heads * hp->k_dim);
    ctx->v = take(&used, buf, rows, (uint64_t)hp->n_kv_heads * hp->v_dim);
    ctx->a = take(&used, buf, rows, (uint64_t)hp->n_heads * hp->v_dim);
    ctx->gate = take(&used, buf, rows, hp->n_ff);
    ctx->up = take(&used, buf, rows, hp->n_ff);
    ctx->out = take(&used, buf, outs, hp->n_embd);
    ctx->logits_stride = (hp->n_vocab + 15) / 16 * 16;
    ctx->logits = take(&used, buf, outs, ctx->logits_stride);
    ctx->token = take(&used, buf, outs, 1);
    return used;
}

uint64_t ht_context_work_size(const struct ht_hparams *hp, uint32_t rows, uint32_t outs)
{
    struct ht_context measured;
    return carve(&measured, hp, NULL, rows, outs) * sizeof(float);
}

void ht_context_kv_params(const struct ht_hparams *hp, uint32_t n_pages, enum ht_kv_type type,
                          struct ht_kv_params *out)
{
    *out = (struct ht_kv_params){
        .layers = hp->n_layers,
        .kv_heads = hp->n_kv_heads,
        .k_dim = hp->k_dim,
        .v_dim = hp->v_dim,
        .n_pages = n_pages,
        .type = type,
    };
}

static enum hearth_status make_kv(struct ht_context *ctx, struct hearth_error *err)
{
    const struct ht_model *m = ctx->model;
    // Every session may leave its last page partly empty.
    uint32_t n_pages = (ctx->params.n_ctx + HT_KV_PAGE - 1) / HT_KV_PAGE + ctx->params.seqs - 1;
    struct ht_kv_params kv;
    ht_context_kv_params(&m->hp, n_pages, ctx->params.kv, &kv);
    HT_TRY(m->dev->kv_create(m->device, &kv, &ctx->kv, err));
    ctx->kv_bytes = (uint64_t)m->dev->kv_page_size(m->device, &kv) * n_pages;
    ctx->scratch_bytes += ht_pages_size(n_pages) + ht_prefix_size(n_pages);
    HT_TRY(ht_pages_init(&ctx->pages, n_pages, err));
    return ht_prefix_init(&ctx->prefix, &ctx->pages, err);
}

static enum hearth_status make_step(struct ht_context *ctx, struct hearth_error *err)
{
    struct ht_step_shape shape = {
        .rows = ctx->max_rows,
        .outs = ctx->max_outs,
        .seqs = ctx->params.seqs,
        .pages = ctx->pages.n_pages,
        .vocab = ctx->model->hp.n_vocab,
    };
    size_t size = ht_step_layout(&ctx->step, &shape, NULL);
    if (size)
        ctx->step_memory = ht_calloc(1, size);
    if (!ctx->step_memory)
        return ht_fail(err, HEARTH_NOMEM, "out of memory for a step block of %u rows and %u KV pages",
                       shape.rows, shape.pages);
    ht_step_layout(&ctx->step, &shape, ctx->step_memory);
    ctx->scratch_bytes += size;
    return HEARTH_OK;
}

static enum hearth_status make_plan(struct ht_context *ctx, uint32_t rows, struct ht_plan **plan,
                                    enum hearth_status (*record)(const struct ht_context *, struct ht_plan *,
                                                                 struct hearth_error *),
                                    struct hearth_error *err)
{
    const struct ht_model *m = ctx->model;
    struct ht_step_shape shape = ctx->step.shape;
    shape.rows = rows;
    HT_TRY(m->dev->plan_begin(m->device, &shape, plan, err));
    HT_TRY(record(ctx, *plan, err));
    HT_TRY(m->dev->plan_end(*plan, err));
    ctx->scratch_bytes += m->dev->plan_scratch(*plan);
    return HEARTH_OK;
}

static enum hearth_status create(struct ht_context *ctx, struct hearth_error *err)
{
    const struct ht_model *m = ctx->model;
    struct ht_caps caps;
    m->dev->caps(m->device, &caps);
    for (uint32_t i = 0; i < caps.n_row_buckets && i < HT_MAX_BUCKETS; i++)
        ctx->bucket[ctx->n_buckets++] = caps.row_buckets[i];
    ctx->max_rows = ctx->bucket[ctx->n_buckets - 1];
    // Outputs: one for each session, and enough that scoring a text does not go row by row through the head.
    ctx->max_outs = ctx->params.seqs > 16 ? ctx->params.seqs : 16;
    if (ctx->max_outs > ctx->max_rows)
        return ht_fail(err, HEARTH_LIMIT, "%u sessions are more than the %u rows of a step", ctx->params.seqs,
                       ctx->max_rows);

    uint64_t work = ht_context_work_size(&m->hp, ctx->max_rows, ctx->max_outs);
    if (work > SIZE_MAX)
        return ht_fail(err, HEARTH_NOMEM, "activations need more memory than can be addressed");
    HT_TRY(m->dev->buf_create(m->device, (size_t)work, &ctx->work, err));
    carve(ctx, &m->hp, ctx->work, ctx->max_rows, ctx->max_outs);
    ctx->scratch_bytes = work;
    HT_TRY(ht_lora_make_bank(m, ctx->max_rows, &ctx->bank, err));
    HT_TRY(make_kv(ctx, err));
    HT_TRY(make_step(ctx, err));
    for (uint32_t i = 0; i < ctx->n_buckets; i++)
        HT_TRY(make_plan(ctx, ctx->bucket[i], &ctx->body[i], ht_decoder_record_body, err));
    return make_plan(ctx, ctx->max_rows, &ctx->head, ht_decoder_record_head, err);
}

enum hearth_status ht_context_create(struct ht_context *ctx, const struct ht_model *model,
                                     const struct ht_context_params *params, struct hearth_error *err)
{
    *ctx = (struct ht_context){.model = model, .params = *params};
    enum hearth_status status = create(ctx, err);
    if (status != HEARTH_OK)
        ht_context_destroy(ctx);
    return status;
}

void ht_context_destroy(struct ht_context *ctx)
{
    if (ctx->model) {
        const struct ht_device_ops *dev = ctx->model->dev;
        for (uint32_t i = 0; i < ctx->n_buckets; i++)
            dev->plan_destroy(&ctx->body[i]);
        dev->plan_destroy(&ctx->head);
        if (ctx->bank)
            dev->bank_destroy(ctx->model->device, &ctx->bank);
        dev->kv_destroy(ctx->model->device, &ctx->kv);
        dev->buf_destroy(ctx->model->device, &ctx->work);
    }
    ht_prefix_deinit(&ctx->prefix);
    ht_pages_deinit(&ctx->pages);
    ht_free(ctx->step_memory);
    *ctx = (struct ht_context){0};
}

static enum hearth_status run(struct ht_context *ctx, struct ht_plan *plan, struct hearth_error *err)
{
    const struct ht_model *m = ctx->model;
    HT_TRY(m->dev->submit(plan, &ctx->step, err));
    return m->dev->wait(m->device, UINT64_MAX, err);
}

enum hearth_status ht_context_run_body(struct ht_context *ctx, struct hearth_error *err)
{
    uint32_t i = 0;
    while (ctx->bucket[i] < ctx->step.counts[0])
        i++;
    return run(ctx, ctx->body[i], err);
}

enum hearth_status ht_context_run_head(struct ht_context *ctx, struct hearth_error *err)
{
    return run(ctx, ctx->head, err);
}

enum hearth_status ht_context_read_tokens(struct ht_context *ctx, int32_t *tokens, uint32_t n,
                                          struct hearth_error *err)
{
    const struct ht_model *m = ctx->model;
    return m->dev->buf_read(m->device, ctx->token.buf, ctx->token.offset * sizeof(float), tokens,
                            n * sizeof *tokens, err);
}

enum hearth_status ht_context_read_logits(struct ht_context *ctx, uint32_t out, float *logits,
                                          struct hearth_error *err)
{
    const struct ht_model *m = ctx->model;
    size_t offset = ctx->logits.offset + (size_t)out * ctx->logits_stride;
    return m->dev->buf_read(m->device, ctx->logits.buf, offset * sizeof(float), logits,
                            m->hp.n_vocab * sizeof *logits, err);
}
