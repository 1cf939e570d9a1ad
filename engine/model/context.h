// SPDX-License-Identifier: Apache-2.0
// What running a model takes beside its weights: activations, the KV pool, the recorded plans, the step
// block. Everything is planned and allocated at creation; a step allocates nothing. Engine thread.
#ifndef HT_CONTEXT_H
#define HT_CONTEXT_H
#include "engine/model/lora.h"
#include "engine/model/model.h"
#include "engine/model/prefix.h"

enum { HT_MAX_BUCKETS = 8 };

struct ht_context_params {
    uint32_t n_ctx; // KV positions of all sessions together
    uint32_t seqs;  // sessions
    enum ht_kv_type kv;
};

struct ht_context {
    const struct ht_model *model;
    struct ht_context_params params;
    uint32_t n_buckets, bucket[HT_MAX_BUCKETS]; // row capacities, ascending
    uint32_t max_rows, max_outs;
    struct ht_buf *work;                      // all activations
    struct ht_ref x, h, q, k, v, a, gate, up; // (max_rows, …)
    struct ht_ref out, logits, token;         // (max_outs, n_embd), (max_outs, n_vocab), (max_outs)
    uint32_t logits_stride;
    struct ht_bank *bank; // of adapters; NULL where the device has none
    struct ht_kv *kv;
    struct ht_pages pages;
    struct ht_prefix prefix;
    struct ht_plan *body[HT_MAX_BUCKETS]; // ids → the residual stream x, KV written
    struct ht_plan *head;                 // x → logits and tokens of the output rows
    struct ht_step step;
    void *step_memory;
    uint64_t kv_bytes, scratch_bytes;
};

HT_MUST_USE enum hearth_status ht_context_create(struct ht_context *ctx, const struct ht_model *model,
                                                 const struct ht_context_params *params,
                                                 struct hearth_error *err);
void ht_context_destroy(struct ht_context *ctx); // a zeroed or half-made context too
// Bytes of the activation buffers for this model (without the plans' scratch); KV bytes of one page of 32
// positions.
uint64_t ht_context_work_size(const struct ht_hparams *hp, uint32_t rows, uint32_t outs);
void ht_context_kv_params(const struct ht_hparams *hp, uint32_t n_pages, enum ht_kv_type type,
                          struct ht_kv_params *out);

// Runs the decoder over the step block's rows (counts[0] rows), then waits.
HT_MUST_USE enum hearth_status ht_context_run_body(struct ht_context *ctx, struct hearth_error *err);
// Runs the head over the step block's output rows (counts[1]), then waits.
HT_MUST_USE enum hearth_status ht_context_run_head(struct ht_context *ctx, struct hearth_error *err);
HT_MUST_USE enum hearth_status ht_context_read_tokens(struct ht_context *ctx, int32_t *tokens, uint32_t n,
                                                      struct hearth_error *err);
// Row `out` of the logits: n_vocab floats.
HT_MUST_USE enum hearth_status ht_context_read_logits(struct ht_context *ctx, uint32_t out, float *logits,
                                                      struct hearth_error *err);

// The decoder, written once for all families (decoder.c): records the body, or the head, into a plan.
HT_MUST_USE enum hearth_status ht_decoder_record_body(const struct ht_context *ctx, struct ht_plan *plan,
                                                      struct hearth_error *err);
HT_MUST_USE enum hearth_status ht_decoder_record_head(const struct ht_context *ctx, struct ht_plan *plan,
                                                      struct hearth_error *err);
// Every op and weight type this model needs must be there: UNSUPPORTED names the missing one.
HT_MUST_USE enum hearth_status ht_decoder_check_ops(const struct ht_model *model, struct hearth_error *err);

#endif
