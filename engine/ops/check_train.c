// SPDX-License-Identifier: Apache-2.0
// Argument checks of training ops and of the training block. Pure functions of their arguments, any thread.
#include "engine/ops/check_train.h"

#include <math.h>

#include "engine/base/mem.h"

#define REQUIRE(condition, what)                                                                             \
    do {                                                                                                     \
        if (!(condition))                                                                                    \
            return ht_fail(err, HEARTH_INVALID, "%s", what);                                                 \
    } while (0)

static const struct ht_step_shape *shape_of(const struct ht_plan *plan)
{
    return &((const struct ht_plan_head *)(const void *)plan)->shape;
}

static uint32_t rows_of(const struct ht_plan *plan, enum ht_rows rows)
{
    return rows == HT_ROWS_OUT ? shape_of(plan)->outs : shape_of(plan)->rows;
}

static enum hearth_status check_precision(enum ht_train_precision precision, struct hearth_error *err)
{
    REQUIRE(precision == HT_TRAIN_F || precision == HT_TRAIN_B_AVX512BF16 || precision == HT_TRAIN_B_AMX,
            "training product: unknown precision");
    return HEARTH_OK;
}

// A product with all of W, or with the rows [first, first + count) of its one part.
static enum hearth_status check_product(const struct ht_plan *plan, const struct ht_matmul *m, uint32_t first,
                                        uint32_t count, struct hearth_error *err)
{
    const struct ht_matmul_part *part = &m->part[0];
    if (!count) {
        REQUIRE(!first, "training product: a first row without a count");
        return ht_check_matmul(plan, m, err);
    }
    REQUIRE(m->n_parts == 1 && part->w, "training product: rows of W are for one part");
    const struct ht_weight_params *w = &((const struct ht_weight_head *)(const void *)part->w)->params;
    REQUIRE(w->k == m->k, "training product: k of the weight differs");
    REQUIRE(first % 16 == 0 && first <= w->n && count <= w->n - first, "training product: no such rows of W");
    uint32_t rows = rows_of(plan, m->rows);
    HT_TRY(ht_check_view("training product x", &m->x, rows, m->x_stride, m->k, err));
    if (part->bias.buf)
        HT_TRY(ht_check_view("training product bias", &part->bias, 1, 0, w->n, err));
    return ht_check_view("training product y", &part->y, rows, part->y_stride, count, err);
}

enum hearth_status ht_check_linear(const struct ht_plan *plan, const struct ht_linear *p, struct hearth_error *err)
{
    HT_TRY(check_precision(p->precision, err));
    return check_product(plan, &p->m, p->first, p->count, err);
}

enum hearth_status ht_check_linear_t(const struct ht_plan *plan, const struct ht_linear_t *p,
                                     struct hearth_error *err)
{
    HT_TRY(check_precision(p->precision, err));
    return check_product(plan, &p->m, p->first, p->count, err);
}

// Like ht_check_view; it may begin at any column of a wider matrix.
static enum hearth_status check_columns(const char *what, const struct ht_ref *ref, uint64_t rows, uint64_t stride,
                                        uint64_t width, struct hearth_error *err)
{
    struct ht_ref begin = {ref->buf, ref->offset / 16 * 16};
    HT_TRY(ht_check_view(what, &begin, rows, stride, width, err));
    uint64_t floats = ((const struct ht_buf_head *)(const void *)ref->buf)->size_bytes / sizeof(float);
    if ((rows - 1) * stride + width + ref->offset % 16 > floats - begin.offset)
        return ht_fail(err, HEARTH_INVALID, "%s: columns at %zu do not fit their buffer", what, ref->offset);
    return HEARTH_OK;
}

enum hearth_status ht_check_dense(const struct ht_plan *plan, const struct ht_dense *p, struct hearth_error *err)
{
    uint32_t rows = rows_of(plan, p->rows);
    REQUIRE(p->kind >= HT_DENSE_NT && p->kind <= HT_DENSE_TN, "dense: unknown kind");
    REQUIRE(p->n && p->n <= HT_MAX_VOCAB && p->k && p->k <= HT_MAX_VOCAB, "dense: shape");
    REQUIRE(isfinite(p->scale), "dense: scale");
    REQUIRE(!p->chain || (p->kind == HT_DENSE_TN && p->scale == 1 && !p->add), "dense: no such chain");
    uint32_t b_rows = p->kind == HT_DENSE_NT ? p->n : p->kind == HT_DENSE_NN ? p->k : rows;
    HT_TRY(check_columns("dense a", &p->a, rows, p->a_stride, p->k, err));
    HT_TRY(check_columns("dense b", &p->b, b_rows, p->b_stride, p->kind == HT_DENSE_NT ? p->k : p->n, err));
    return check_columns("dense y", &p->y, p->kind == HT_DENSE_TN ? p->k : rows, p->y_stride, p->n, err);
}

enum hearth_status ht_check_rmsnorm_back(const struct ht_plan *plan, const struct ht_rmsnorm_back *p,
                                         struct hearth_error *err)
{
    uint32_t rows = rows_of(plan, p->rows);
    uint64_t width = (uint64_t)p->groups * p->dim;
    HT_TRY(ht_check_view("rmsnorm_back x", &p->x, rows, p->x_stride, width, err));
    HT_TRY(ht_check_view("rmsnorm_back dy", &p->dy, rows, p->dy_stride, width, err));
    HT_TRY(ht_check_view("rmsnorm_back dx", &p->dx, rows, p->dx_stride, width, err));
    return ht_check_view("rmsnorm_back w", &p->w, 1, 0, p->dim, err);
}

enum hearth_status ht_check_layernorm(const struct ht_plan *plan, const struct ht_layernorm *p,
                                      struct hearth_error *err)
{
    uint32_t rows = rows_of(plan, p->rows);
    HT_TRY(ht_check_view("layernorm x", &p->x, rows, p->x_stride, p->dim, err));
    HT_TRY(ht_check_view("layernorm y", &p->y, rows, p->y_stride, p->dim, err));
    if (p->b.buf)
        HT_TRY(ht_check_view("layernorm b", &p->b, 1, 0, p->dim, err));
    return ht_check_view("layernorm w", &p->w, 1, 0, p->dim, err);
}

enum hearth_status ht_check_layernorm_back(const struct ht_plan *plan, const struct ht_layernorm_back *p,
                                           struct hearth_error *err)
{
    uint32_t rows = rows_of(plan, p->rows);
    HT_TRY(ht_check_view("layernorm_back x", &p->x, rows, p->x_stride, p->dim, err));
    HT_TRY(ht_check_view("layernorm_back dy", &p->dy, rows, p->dy_stride, p->dim, err));
    HT_TRY(ht_check_view("layernorm_back dx", &p->dx, rows, p->dx_stride, p->dim, err));
    return ht_check_view("layernorm_back w", &p->w, 1, 0, p->dim, err);
}

enum hearth_status ht_check_rope_back(const struct ht_plan *plan, const struct ht_rope_back *p,
                                      struct hearth_error *err)
{
    return ht_check_rope(plan, &p->rope, err);
}

enum hearth_status ht_check_glu_back(const struct ht_plan *plan, const struct ht_glu_back *p,
                                     struct hearth_error *err)
{
    uint32_t rows = shape_of(plan)->rows;
    REQUIRE(p->act == HT_ACT_SILU || p->act == HT_ACT_GELU_TANH, "glu_back: unknown function");
    HT_TRY(ht_check_view("glu_back gate", &p->gate, rows, p->gate_stride, p->dim, err));
    HT_TRY(ht_check_view("glu_back up", &p->up, rows, p->up_stride, p->dim, err));
    HT_TRY(ht_check_view("glu_back dy", &p->dy, rows, p->dy_stride, p->dim, err));
    HT_TRY(ht_check_view("glu_back dgate", &p->dgate, rows, p->dgate_stride, p->dim, err));
    return ht_check_view("glu_back dup", &p->dup, rows, p->dup_stride, p->dim, err);
}

enum hearth_status ht_check_softcap_back(const struct ht_plan *plan, const struct ht_softcap_back *p,
                                         struct hearth_error *err)
{
    uint32_t rows = rows_of(plan, p->rows);
    REQUIRE(p->cap > 0 && isfinite(p->cap), "softcap_back: the cap must be above 0");
    HT_TRY(ht_check_view("softcap_back y", &p->y, rows, p->y_stride, p->dim, err));
    HT_TRY(ht_check_view("softcap_back dy", &p->dy, rows, p->dy_stride, p->dim, err));
    return ht_check_view("softcap_back dx", &p->dx, rows, p->dx_stride, p->dim, err);
}

enum hearth_status ht_check_scatter(const struct ht_plan *plan, const struct ht_scatter *p, struct hearth_error *err)
{
    HT_TRY(ht_check_view("scatter dy", &p->dy, shape_of(plan)->outs, p->dy_stride, p->dim, err));
    return ht_check_view("scatter dx", &p->dx, shape_of(plan)->rows, p->dx_stride, p->dim, err);
}

enum hearth_status ht_check_attend(const struct ht_plan *plan, const struct ht_attend *p, struct hearth_error *err)
{
    uint32_t rows = shape_of(plan)->rows;
    REQUIRE(p->heads && p->heads <= HT_MAX_HEADS && p->kv_heads && p->heads % p->kv_heads == 0,
            "attend: heads per kv head");
    REQUIRE(p->k_dim && p->k_dim <= HT_MAX_HEAD_DIM && p->v_dim && p->v_dim <= HT_MAX_HEAD_DIM,
            "attend: head size");
    REQUIRE(p->softcap >= 0 && isfinite(p->softcap) && isfinite(p->scale) && isfinite(p->alibi_max_bias),
            "attend: scale, soft-cap or bias");
    HT_TRY(ht_check_view("attend q", &p->q, rows, p->q_stride, (uint64_t)p->heads * p->k_dim, err));
    HT_TRY(ht_check_view("attend k", &p->k, rows, p->k_stride, (uint64_t)p->kv_heads * p->k_dim, err));
    HT_TRY(ht_check_view("attend v", &p->v, rows, p->v_stride, (uint64_t)p->kv_heads * p->v_dim, err));
    HT_TRY(ht_check_view("attend y", &p->y, rows, p->y_stride, (uint64_t)p->heads * p->v_dim, err));
    return ht_check_view("attend lse", &p->lse, rows, p->lse_stride, p->heads, err);
}

enum hearth_status ht_check_attend_back(const struct ht_plan *plan, const struct ht_attend_back *p,
                                        struct hearth_error *err)
{
    uint32_t rows = shape_of(plan)->rows;
    const struct ht_attend *f = &p->f;
    HT_TRY(ht_check_attend(plan, f, err));
    HT_TRY(ht_check_view("attend_back dy", &p->dy, rows, p->dy_stride, (uint64_t)f->heads * f->v_dim, err));
    HT_TRY(ht_check_view("attend_back dq", &p->dq, rows, p->dq_stride, (uint64_t)f->heads * f->k_dim, err));
    HT_TRY(ht_check_view("attend_back dk", &p->dk, rows, p->dk_stride, (uint64_t)f->kv_heads * f->k_dim, err));
    return ht_check_view("attend_back dv", &p->dv, rows, p->dv_stride, (uint64_t)f->kv_heads * f->v_dim, err);
}

enum hearth_status ht_check_cross_entropy(const struct ht_plan *plan, const struct ht_cross_entropy *p,
                                          struct hearth_error *err)
{
    REQUIRE(p->n_vocab && p->n_vocab <= HT_MAX_VOCAB, "cross_entropy: vocabulary");
    REQUIRE(p->softcap >= 0 && isfinite(p->softcap), "cross_entropy: soft-cap");
    HT_TRY(ht_check_view("cross_entropy logits", &p->logits, shape_of(plan)->outs, p->stride, p->n_vocab, err));
    return ht_check_view("cross_entropy loss", &p->loss, 1, 0, shape_of(plan)->rows, err);
}

enum hearth_status ht_check_fill(const struct ht_plan *plan, const struct ht_fill *p, struct hearth_error *err)
{
    (void)plan;
    return ht_check_view("fill x", &p->x, 1, 0, p->n, err);
}

enum hearth_status ht_check_sumsq(const struct ht_plan *plan, const struct ht_sumsq *p, struct hearth_error *err)
{
    (void)plan;
    HT_TRY(ht_check_view("sumsq x", &p->x, 1, 0, p->n, err));
    return ht_check_view("sumsq sum", &p->sum, 1, 0, 1, err);
}

enum hearth_status ht_check_scale(const struct ht_plan *plan, const struct ht_scale *p, struct hearth_error *err)
{
    (void)plan;
    if (p->sum.buf) {
        REQUIRE(p->max_norm > 0, "scale: the largest norm must be above 0");
        HT_TRY(ht_check_view("scale sum", &p->sum, 1, 0, 1, err));
    }
    return ht_check_view("scale x", &p->x, 1, 0, p->n, err);
}

enum hearth_status ht_check_adamw(const struct ht_plan *plan, const struct ht_adamw *p, struct hearth_error *err)
{
    (void)plan;
    REQUIRE(p->beta1 >= 0 && p->beta1 < 1 && p->beta2 >= 0 && p->beta2 < 1 && p->eps >= 0 && isfinite(p->eps) &&
                isfinite(p->decay) && isfinite(p->lr_factor),
            "adamw: constants out of range");
    HT_TRY(ht_check_view("adamw p", &p->p, 1, 0, p->n, err));
    HT_TRY(ht_check_view("adamw g", &p->g, 1, 0, p->n, err));
    HT_TRY(ht_check_view("adamw m", &p->m, 1, 0, p->n, err));
    return ht_check_view("adamw v", &p->v, 1, 0, p->n, err);
}

enum hearth_status ht_check_adamw8(const struct ht_plan *plan, const struct ht_adamw8 *p, struct hearth_error *err)
{
    (void)plan;
    REQUIRE(p->beta1 >= 0 && p->beta1 < 1 && p->beta2 >= 0 && p->beta2 < 1 && p->eps >= 0 && isfinite(p->eps) &&
                isfinite(p->decay) && isfinite(p->lr_factor),
            "adamw8: constants out of range");
    REQUIRE(p->stream < 1u << 24 && p->first % HT_MOMENT_BLOCK == 0, "adamw8: stream or first value");
    HT_TRY(ht_check_view("adamw8 p", &p->p, 1, 0, p->n, err));
    HT_TRY(ht_check_view("adamw8 g", &p->g, 1, 0, p->n, err));
    HT_TRY(ht_check_view("adamw8 m", &p->m, 1, 0, ((uint64_t)p->n + 3) / 4, err));
    HT_TRY(ht_check_view("adamw8 v", &p->v, 1, 0, ((uint64_t)p->n + 3) / 4, err));
    return ht_check_view("adamw8 scales", &p->scales, 1, 0,
                         2 * (((uint64_t)p->n + HT_MOMENT_BLOCK - 1) / HT_MOMENT_BLOCK), err);
}

enum hearth_status ht_check_dropout(const struct ht_plan *plan, const struct ht_dropout *p, struct hearth_error *err)
{
    REQUIRE(p->rate >= 0 && p->rate < 1, "dropout: the rate must be in [0, 1)");
    REQUIRE(p->stream < 1u << 24, "dropout: stream");
    HT_TRY(ht_check_view("dropout x", &p->x, rows_of(plan, p->rows), p->x_stride, p->dim, err));
    return ht_check_view("dropout y", &p->y, rows_of(plan, p->rows), p->y_stride, p->dim, err);
}

enum hearth_status ht_check_noise(const struct ht_plan *plan, const struct ht_noise *p, struct hearth_error *err)
{
    REQUIRE(isfinite(p->alpha), "noise: alpha");
    REQUIRE(p->stream < 1u << 24, "noise: stream");
    return ht_check_view("noise x", &p->x, shape_of(plan)->rows, p->stride, p->dim, err);
}

enum hearth_status ht_check_train_step(const struct ht_train_step *train, const struct ht_step *step,
                                       uint32_t n_vocab, struct hearth_error *err)
{
    REQUIRE(train && train->base, "training step: no memory");
    REQUIRE(train->rows >= step->counts[0], "training step: fewer rows than the step has");
    for (uint32_t r = 0; r < step->counts[0]; r++) {
        uint32_t from = train->seg_from[r];
        REQUIRE(from == r || (r && from == train->seg_from[r - 1]), "training step: segments must be runs of rows");
    }
    for (uint32_t o = 0; n_vocab && o < step->counts[1]; o++) {
        int32_t r = step->out_row[o];
        REQUIRE(train->target[r] >= 0 && (uint32_t)train->target[r] < n_vocab, "training step: target out of range");
    }
    return HEARTH_OK;
}
