// SPDX-License-Identifier: Apache-2.0
// Argument checks of ops and steps. Pure functions of their arguments, any thread.
#include "engine/ops/check.h"

#include <math.h>

#include "engine/base/mem.h"

static const struct ht_step_shape *shape_of(const struct ht_plan *plan)
{
    return &((const struct ht_plan_head *)(const void *)plan)->shape;
}
static const struct ht_weight_params *weight_of(const struct ht_weight *w)
{
    return &((const struct ht_weight_head *)(const void *)w)->params;
}
static const struct ht_kv_params *kv_of(const struct ht_kv *kv)
{
    return &((const struct ht_kv_head *)(const void *)kv)->params;
}

// (rows, width) floats at ref, `stride` apart, inside the buffer?
enum hearth_status ht_check_view(const char *what, const struct ht_ref *ref, uint64_t rows, uint64_t stride,
                                 uint64_t width, struct hearth_error *err)
{
    if (!ref->buf)
        return ht_fail(err, HEARTH_INVALID, "%s: no buffer", what);
    uint64_t floats = ((const struct ht_buf_head *)(const void *)ref->buf)->size_bytes / sizeof(float);
    if (!rows || !width || width > UINT32_MAX || (rows > 1 && stride < width))
        return ht_fail(err, HEARTH_INVALID, "%s: %llu rows of %llu values, stride %llu", what,
                       (unsigned long long)rows, (unsigned long long)width, (unsigned long long)stride);
    // rows and stride are 32-bit each: the product cannot overflow
    if (ref->offset % 16 || ref->offset > floats || (rows - 1) * stride + width > floats - ref->offset)
        return ht_fail(err, HEARTH_INVALID, "%s: %llu rows of %llu values at %zu do not fit a buffer of %llu",
                       what, (unsigned long long)rows, (unsigned long long)width, ref->offset,
                       (unsigned long long)floats);
    return HEARTH_OK;
}

static const struct ht_bank_params *bank_of(const struct ht_bank *bank)
{
    return &((const struct ht_bank_head *)(const void *)bank)->params;
}

static uint32_t rows_of(const struct ht_plan *plan, enum ht_rows rows)
{
    return rows == HT_ROWS_OUT ? shape_of(plan)->outs : shape_of(plan)->rows;
}

#define REQUIRE(condition, what)                                                                             \
    do {                                                                                                     \
        if (!(condition))                                                                                    \
            return ht_fail(err, HEARTH_INVALID, "%s", what);                                                 \
    } while (0)

enum hearth_status ht_check_embed(const struct ht_plan *plan, const struct ht_embed *p,
                                  struct hearth_error *err)
{
    REQUIRE(p->w, "embed: no weight");
    return ht_check_view("embed y", &p->y, shape_of(plan)->rows, p->stride, weight_of(p->w)->k, err);
}

enum hearth_status ht_check_rmsnorm(const struct ht_plan *plan, const struct ht_rmsnorm *p,
                                    struct hearth_error *err)
{
    uint32_t rows = rows_of(plan, p->rows);
    uint64_t width = (uint64_t)p->groups * p->dim;
    HT_TRY(ht_check_view("rmsnorm x", &p->x, rows, p->x_stride, width, err));
    HT_TRY(ht_check_view("rmsnorm y", &p->y, rows, p->y_stride, width, err));
    return ht_check_view("rmsnorm w", &p->w, 1, 0, p->dim, err);
}

enum hearth_status ht_check_matmul(const struct ht_plan *plan, const struct ht_matmul *p,
                                   struct hearth_error *err)
{
    uint32_t rows = rows_of(plan, p->rows);
    REQUIRE(p->n_parts >= 1 && p->n_parts <= 3, "matmul: 1 to 3 parts");
    HT_TRY(ht_check_view("matmul x", &p->x, rows, p->x_stride, p->k, err));
    for (uint32_t i = 0; i < p->n_parts; i++) {
        const struct ht_matmul_part *part = &p->part[i];
        REQUIRE(part->w, "matmul: no weight");
        REQUIRE(weight_of(part->w)->k == p->k, "matmul: k of the weight differs");
        HT_TRY(ht_check_view("matmul y", &part->y, rows, part->y_stride, weight_of(part->w)->n, err));
        if (part->bias.buf)
            HT_TRY(ht_check_view("matmul bias", &part->bias, 1, 0, weight_of(part->w)->n, err));
        if (p->bank) {
            REQUIRE(part->linear < bank_of(p->bank)->n_linears, "matmul: no such linear in the bank");
            const struct ht_weight_params *linear = &bank_of(p->bank)->linears[part->linear];
            REQUIRE(linear->n == weight_of(part->w)->n && linear->k == p->k,
                    "matmul: the bank's linear is of another shape");
            REQUIRE(bank_of(p->bank)->rows >= rows, "matmul: more rows than the bank has room for");
        }
    }
    return HEARTH_OK;
}

enum hearth_status ht_check_rope(const struct ht_plan *plan, const struct ht_rope *p,
                                 struct hearth_error *err)
{
    REQUIRE(p->n_rot && p->n_rot % 2 == 0 && p->n_rot <= p->dim,
            "rope: n_rot must be even and at most the head size");
    HT_TRY(ht_check_view("rope x", &p->x, shape_of(plan)->rows, p->stride, (uint64_t)p->heads * p->dim, err));
    return ht_check_view("rope freq", &p->freq, 1, 0, p->n_rot / 2, err);
}

enum hearth_status ht_check_kv_store(const struct ht_plan *plan, const struct ht_kv_store *p,
                                     struct hearth_error *err)
{
    REQUIRE(p->kv && p->layer < kv_of(p->kv)->layers, "kv_store: no such layer");
    const struct ht_kv_params *kv = kv_of(p->kv);
    HT_TRY(ht_check_view("kv_store k", &p->k, shape_of(plan)->rows, p->k_stride, (uint64_t)kv->kv_heads * kv->k_dim,
                err));
    return ht_check_view("kv_store v", &p->v, shape_of(plan)->rows, p->v_stride, (uint64_t)kv->kv_heads * kv->v_dim,
                err);
}

enum hearth_status ht_check_attention(const struct ht_plan *plan, const struct ht_attention *p,
                                      struct hearth_error *err)
{
    REQUIRE(p->kv && p->layer < kv_of(p->kv)->layers, "attention: no such layer");
    const struct ht_kv_params *kv = kv_of(p->kv);
    REQUIRE(p->heads && p->heads <= HT_MAX_HEADS && p->heads % kv->kv_heads == 0,
            "attention: heads per kv head");
    REQUIRE(p->softcap >= 0 && isfinite(p->softcap) && isfinite(p->scale), "attention: scale or soft-cap");
    HT_TRY(
        ht_check_view("attention q", &p->q, shape_of(plan)->rows, p->q_stride, (uint64_t)p->heads * kv->k_dim, err));
    return ht_check_view("attention y", &p->y, shape_of(plan)->rows, p->y_stride, (uint64_t)p->heads * kv->v_dim, err);
}

enum hearth_status ht_check_glu(const struct ht_plan *plan, const struct ht_glu *p, struct hearth_error *err)
{
    uint32_t rows = shape_of(plan)->rows;
    REQUIRE(p->act == HT_ACT_SILU || p->act == HT_ACT_GELU_TANH, "glu: unknown function");
    HT_TRY(ht_check_view("glu gate", &p->gate, rows, p->gate_stride, p->dim, err));
    HT_TRY(ht_check_view("glu up", &p->up, rows, p->up_stride, p->dim, err));
    return ht_check_view("glu y", &p->y, rows, p->y_stride, p->dim, err);
}

enum hearth_status ht_check_gather(const struct ht_plan *plan, const struct ht_gather *p,
                                   struct hearth_error *err)
{
    HT_TRY(ht_check_view("gather x", &p->x, shape_of(plan)->rows, p->x_stride, p->dim, err));
    return ht_check_view("gather y", &p->y, shape_of(plan)->outs, p->y_stride, p->dim, err);
}

enum hearth_status ht_check_softcap(const struct ht_plan *plan, const struct ht_softcap *p,
                                    struct hearth_error *err)
{
    REQUIRE(p->cap > 0 && isfinite(p->cap), "softcap: the cap must be above 0");
    return ht_check_view("softcap x", &p->x, rows_of(plan, p->rows), p->stride, p->dim, err);
}

enum hearth_status ht_check_sample(const struct ht_plan *plan, const struct ht_sample *p,
                                   struct hearth_error *err)
{
    REQUIRE(p->n_vocab && p->n_vocab <= HT_MAX_VOCAB, "sample: vocabulary");
    REQUIRE(!shape_of(plan)->vocab || shape_of(plan)->vocab == p->n_vocab, "sample: masks of another vocabulary");
    HT_TRY(ht_check_view("sample logits", &p->logits, shape_of(plan)->outs, p->stride, p->n_vocab, err));
    return ht_check_view("sample token", &p->token, 1, 0, shape_of(plan)->outs, err);
}

// ---- objects

enum hearth_status ht_check_weight_params(const struct ht_weight_params *params, struct hearth_error *err)
{
    const struct ht_type_info *info = ht_type_info(params->type);
    if (!info)
        return ht_fail(err, HEARTH_UNSUPPORTED, "weight type %d", (int)params->type);
    if (!params->n || !params->k || params->k % info->block_values || params->n > HT_MAX_VOCAB ||
        params->k > HT_MAX_FF)
        return ht_fail(err, HEARTH_INVALID, "a weight of %u x %u as %s", params->n, params->k, info->name);
    return HEARTH_OK;
}

enum hearth_status ht_check_kv_params(const struct ht_kv_params *params, struct hearth_error *err)
{
    REQUIRE(params->type >= HT_KV_F32 && params->type <= HT_KV_Q8, "KV pool: unknown type");
    REQUIRE(params->layers && params->layers <= HT_MAX_LAYERS, "KV pool: layers");
    REQUIRE(params->kv_heads && params->kv_heads <= HT_MAX_HEADS, "KV pool: heads");
    REQUIRE(params->k_dim && params->k_dim <= HT_MAX_HEAD_DIM && params->v_dim &&
                params->v_dim <= HT_MAX_HEAD_DIM,
            "KV pool: head size");
    REQUIRE(params->n_pages, "KV pool: no pages");
    return HEARTH_OK;
}

enum hearth_status ht_check_bank_params(const struct ht_bank_params *params, struct hearth_error *err)
{
    REQUIRE(params->slots && params->slots <= HT_MAX_BANK_SLOTS, "LoRA bank: slots");
    REQUIRE(params->rows && params->rows <= HT_MAX_CTX, "LoRA bank: rows");
    REQUIRE(params->n_linears, "LoRA bank: no linears");
    for (uint32_t i = 0; i < params->n_linears; i++) {
        const struct ht_weight_params *linear = &params->linears[i];
        REQUIRE(linear->n && linear->n <= HT_MAX_VOCAB && linear->k && linear->k <= HT_MAX_FF,
                "LoRA bank: shape of a linear");
    }
    return HEARTH_OK;
}

enum hearth_status ht_check_bank_pieces(const struct ht_bank *bank, uint32_t slot,
                                        const struct ht_bank_piece *pieces, size_t n_pieces,
                                        struct hearth_error *err)
{
    REQUIRE(slot < bank_of(bank)->slots, "LoRA bank: no such slot");
    REQUIRE(n_pieces <= (size_t)bank_of(bank)->n_linears * HT_MAX_BANK_SLOTS, "LoRA bank: too many pieces");
    for (size_t i = 0; i < n_pieces; i++) {
        REQUIRE(pieces[i].linear < bank_of(bank)->n_linears, "LoRA bank: no such linear");
        REQUIRE(pieces[i].rank && pieces[i].rank <= HT_MAX_ADAPTER_RANK, "LoRA bank: rank");
        REQUIRE(isfinite(pieces[i].scale), "LoRA bank: scale");
    }
    return HEARTH_OK;
}

enum hearth_status ht_check_step_shape(const struct ht_step_shape *shape, struct hearth_error *err)
{
    REQUIRE(shape->rows && shape->rows <= HT_MAX_CTX, "plan: rows");
    REQUIRE(shape->outs && shape->outs <= HT_MAX_CTX, "plan: outputs");
    REQUIRE(shape->seqs && shape->seqs <= HT_MAX_SESSIONS, "plan: sessions");
    REQUIRE(shape->pages && shape->pages <= HT_MAX_CTX / HT_KV_PAGE, "plan: pages");
    REQUIRE(shape->vocab <= HT_MAX_VOCAB, "plan: vocabulary");
    return HEARTH_OK;
}

static enum hearth_status check_rows(const struct ht_step *step, const struct ht_step_bounds *bounds,
                                     struct hearth_error *err)
{
    const struct ht_step_shape *shape = &step->shape;
    uint32_t n_seqs = step->counts[2];
    for (uint32_t r = 0; r < step->counts[0]; r++) {
        int32_t seq = step->seq[r], pos = step->pos[r];
        if (bounds->n_ids)
            REQUIRE(step->ids[r] >= 0 && (uint32_t)step->ids[r] < bounds->n_ids,
                    "step: token id out of range");
        if (bounds->n_slots)
            REQUIRE(step->adapter[r] >= -1 && step->adapter[r] < (int32_t)bounds->n_slots,
                    "step: adapter out of range");
        REQUIRE(seq >= 0 && (uint32_t)seq < n_seqs, "step: session out of range");
        REQUIRE(pos >= 0 && (uint32_t)pos < shape->pages * HT_KV_PAGE,
                "step: position beyond the page table");
        if (!bounds->n_pages ||
            (r + 1 < step->counts[0] && step->seq[r + 1] == seq && step->pos[r + 1] > pos))
            continue; // the last row of a session needs the most pages
        for (uint32_t i = 0; i <= (uint32_t)pos / HT_KV_PAGE; i++)
            REQUIRE(step->page[(size_t)seq * shape->pages + i] < bounds->n_pages, "step: page out of range");
    }
    return HEARTH_OK;
}

enum hearth_status ht_check_step(const struct ht_plan *plan, const struct ht_step *step,
                                 const struct ht_step_bounds *bounds, struct hearth_error *err)
{
    const struct ht_step_shape *want = shape_of(plan), *have = &step->shape;
    REQUIRE(step->base, "step: no memory");
    REQUIRE(have->rows >= want->rows && have->outs >= want->outs && have->seqs >= want->seqs &&
                have->pages >= want->pages && (!want->vocab || have->vocab == want->vocab),
            "step: smaller than the plan's shape");
    REQUIRE(step->counts[0] && step->counts[0] <= want->rows, "step: row count");
    REQUIRE(step->counts[1] <= want->outs && step->counts[1] <= step->counts[0], "step: output count");
    REQUIRE(step->counts[2] && step->counts[2] <= want->seqs, "step: session count");
    HT_TRY(check_rows(step, bounds, err));
    for (uint32_t o = 0; o < step->counts[1]; o++) {
        const struct ht_sampler *s = &step->sampler[o];
        REQUIRE(step->out_row[o] >= 0 && (uint32_t)step->out_row[o] < step->counts[0],
                "step: output row out of range");
        REQUIRE(s->n_history <= HT_MAX_PENALTY_WINDOW && s->n_bias <= HT_MAX_LOGIT_BIAS,
                "step: sampler lists too long");
        REQUIRE(!s->masked || want->vocab, "step: a mask, but the plan has none");
    }
    return HEARTH_OK;
}
