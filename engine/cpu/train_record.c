// SPDX-License-Identifier: Apache-2.0
// Recording of training ops, as record.c does it for the others. Every output is noted as a whole: a call that touches
// it waits for the team. Engine thread.
#include "engine/cpu/train.h"

// Checks, adds the call, copies the parameters; `notes` is empty.
#define BEGIN(name)                                                                                          \
    HT_TRY(ht_check_##name(plan, p, err));                                                                   \
    struct ht_call *call = ht_plan_call(plan, ht_run_##name, err);                                           \
    if (!call)                                                                                               \
        return HEARTH_NOMEM;                                                                                 \
    call->p.name = *p;                                                                                       \
    plan->trains = true;                                                                                     \
    struct ht_notes notes = {.plan = plan}

static bool supports(const struct ht_device *device, enum ht_train_precision precision)
{
    return precision == HT_TRAIN_F || (precision <= HT_TRAIN_B_AMX && device->bf16[precision]);
}

static double slowness(const struct ht_device *device, enum ht_train_precision precision)
{
    static const double of[HT_N_ISAS] = {[HT_ISA_REF] = 50,       [HT_ISA_AVX2] = 2.5, [HT_ISA_AVX512VNNI] = 1,
                                         [HT_ISA_AMX] = 1,        [HT_ISA_NEON] = 8,   [HT_ISA_DOTPROD] = 4,
                                         [HT_ISA_I8MM] = 4};
    if (precision != HT_TRAIN_F)
        return 1;
    return of[device->isa] * (device->n_threads > 1 ? 1 : 2);
}

static enum hearth_status need(const struct ht_plan *plan, enum ht_train_precision precision, struct hearth_error *err)
{
    if (!supports(plan->device, precision))
        return ht_fail(err, HEARTH_UNSUPPORTED, "this CPU path does not train in this precision");
    return HEARTH_OK;
}

static enum hearth_status record_linear(struct ht_plan *plan, const struct ht_linear *p, struct hearth_error *err)
{
    HT_TRY(need(plan, p->precision, err));
    BEGIN(linear);
    ht_note_all(&notes, &p->m.x, p->m.rows, p->m.x_stride, p->m.k, false);
    for (uint32_t i = 0; i < p->m.n_parts; i++)
        ht_note_all(&notes, &p->m.part[i].y, p->m.rows, p->m.part[i].y_stride,
                    p->count ? p->count : p->m.part[i].w->head.params.n, true);
    if (p->precision == HT_TRAIN_F) {
        ht_want_scratch(plan, ht_linear_thread_bytes(plan, p), 0);
    } else {
        ht_note_shared(&notes);
        ht_want_scratch(plan, ht_bf16_thread_bytes(plan, &p->m), ht_bf16_shared_bytes(plan, &p->m, false, p->count));
    }
    ht_settle(call, &notes);
    return HEARTH_OK;
}

static enum hearth_status record_linear_t(struct ht_plan *plan, const struct ht_linear_t *p,
                                          struct hearth_error *err)
{
    HT_TRY(need(plan, p->precision, err));
    BEGIN(linear_t);
    ht_note_all(&notes, &p->m.x, p->m.rows, p->m.x_stride, p->m.k, true);
    for (uint32_t i = 0; i < p->m.n_parts; i++)
        ht_note_all(&notes, &p->m.part[i].y, p->m.rows, p->m.part[i].y_stride,
                    p->count ? p->count : p->m.part[i].w->head.params.n, false);
    if (p->precision == HT_TRAIN_F) {
        ht_want_scratch(plan, ht_linear_t_thread_bytes(), 0);
    } else {
        ht_note_shared(&notes);
        ht_want_scratch(plan, ht_bf16_thread_bytes(plan, &p->m), ht_bf16_shared_bytes(plan, &p->m, true, p->count));
    }
    ht_settle(call, &notes);
    return HEARTH_OK;
}

// (rows, width) that does not depend on the step's rows.
static void note_matrix(struct ht_notes *notes, const struct ht_ref *ref, uint32_t rows, uint32_t stride,
                        uint32_t width, bool write)
{
    ht_note_flat(notes, ref, (size_t)(rows - 1) * stride + width, write);
}

static enum hearth_status record_dense(struct ht_plan *plan, const struct ht_dense *p, struct hearth_error *err)
{
    BEGIN(dense);
    ht_note_all(&notes, &p->a, p->rows, p->a_stride, p->k, false);
    if (p->kind == HT_DENSE_TN)
        ht_note_all(&notes, &p->b, p->rows, p->b_stride, p->n, false);
    else
        note_matrix(&notes, &p->b, p->kind == HT_DENSE_NT ? p->n : p->k, p->b_stride,
                    p->kind == HT_DENSE_NT ? p->k : p->n, false);
    if (p->kind == HT_DENSE_TN)
        note_matrix(&notes, &p->y, p->k, p->y_stride, p->n, true);
    else
        ht_note_all(&notes, &p->y, p->rows, p->y_stride, p->n, true);
    ht_settle(call, &notes);
    ht_want_scratch(plan, ht_dense_thread_bytes(p), 0);
    return HEARTH_OK;
}

static enum hearth_status record_rmsnorm_back(struct ht_plan *plan, const struct ht_rmsnorm_back *p,
                                              struct hearth_error *err)
{
    BEGIN(rmsnorm_back);
    uint32_t width = p->groups * p->dim;
    ht_note_all(&notes, &p->x, p->rows, p->x_stride, width, false);
    ht_note_all(&notes, &p->dy, p->rows, p->dy_stride, width, false);
    ht_note_all(&notes, &p->dx, p->rows, p->dx_stride, width, true);
    ht_settle(call, &notes);
    return HEARTH_OK;
}

static enum hearth_status record_layernorm(struct ht_plan *plan, const struct ht_layernorm *p,
                                           struct hearth_error *err)
{
    BEGIN(layernorm);
    ht_note_all(&notes, &p->x, p->rows, p->x_stride, p->dim, false);
    ht_note_all(&notes, &p->y, p->rows, p->y_stride, p->dim, true);
    ht_settle(call, &notes);
    return HEARTH_OK;
}

static enum hearth_status record_layernorm_back(struct ht_plan *plan, const struct ht_layernorm_back *p,
                                                struct hearth_error *err)
{
    BEGIN(layernorm_back);
    ht_note_all(&notes, &p->x, p->rows, p->x_stride, p->dim, false);
    ht_note_all(&notes, &p->dy, p->rows, p->dy_stride, p->dim, false);
    ht_note_all(&notes, &p->dx, p->rows, p->dx_stride, p->dim, true);
    ht_settle(call, &notes);
    return HEARTH_OK;
}

static enum hearth_status record_rope_back(struct ht_plan *plan, const struct ht_rope_back *p,
                                           struct hearth_error *err)
{
    uint32_t table = 0;
    HT_TRY(ht_check_rope_back(plan, p, err));
    HT_TRY(ht_plan_rope(plan, &p->rope, &table, err));
    BEGIN(rope_back);
    call->rope_table = table;
    ht_note_all(&notes, &p->rope.x, HT_ROWS_ALL, p->rope.stride, p->rope.heads * p->rope.dim, true);
    ht_settle(call, &notes);
    ht_want_scratch(plan, p->rope.n_rot / 2 * sizeof(float), 0);
    return HEARTH_OK;
}

static enum hearth_status record_glu_back(struct ht_plan *plan, const struct ht_glu_back *p,
                                          struct hearth_error *err)
{
    BEGIN(glu_back);
    ht_note_all(&notes, &p->gate, HT_ROWS_ALL, p->gate_stride, p->dim, false);
    ht_note_all(&notes, &p->up, HT_ROWS_ALL, p->up_stride, p->dim, false);
    ht_note_all(&notes, &p->dy, HT_ROWS_ALL, p->dy_stride, p->dim, false);
    ht_note_all(&notes, &p->dgate, HT_ROWS_ALL, p->dgate_stride, p->dim, true);
    ht_note_all(&notes, &p->dup, HT_ROWS_ALL, p->dup_stride, p->dim, true);
    ht_settle(call, &notes);
    return HEARTH_OK;
}

static enum hearth_status record_softcap_back(struct ht_plan *plan, const struct ht_softcap_back *p,
                                              struct hearth_error *err)
{
    BEGIN(softcap_back);
    ht_note_all(&notes, &p->y, p->rows, p->y_stride, p->dim, false);
    ht_note_all(&notes, &p->dy, p->rows, p->dy_stride, p->dim, false);
    ht_note_all(&notes, &p->dx, p->rows, p->dx_stride, p->dim, true);
    ht_settle(call, &notes);
    return HEARTH_OK;
}

static enum hearth_status record_scatter(struct ht_plan *plan, const struct ht_scatter *p, struct hearth_error *err)
{
    BEGIN(scatter);
    ht_note_all(&notes, &p->dy, HT_ROWS_OUT, p->dy_stride, p->dim, false);
    ht_note_all(&notes, &p->dx, HT_ROWS_ALL, p->dx_stride, p->dim, true);
    ht_settle(call, &notes);
    return HEARTH_OK;
}

static void note_attend(struct ht_notes *notes, const struct ht_attend *p, bool forward)
{
    ht_note_all(notes, &p->q, HT_ROWS_ALL, p->q_stride, p->heads * p->k_dim, false);
    ht_note_all(notes, &p->k, HT_ROWS_ALL, p->k_stride, p->kv_heads * p->k_dim, false);
    ht_note_all(notes, &p->v, HT_ROWS_ALL, p->v_stride, p->kv_heads * p->v_dim, false);
    ht_note_all(notes, &p->y, HT_ROWS_ALL, p->y_stride, p->heads * p->v_dim, forward);
    ht_note_all(notes, &p->lse, HT_ROWS_ALL, p->lse_stride, p->heads, forward);
}

static enum hearth_status record_attend(struct ht_plan *plan, const struct ht_attend *p, struct hearth_error *err)
{
    HT_TRY(need(plan, p->precision, err));
    BEGIN(attend);
    note_attend(&notes, p, true);
    ht_note_shared(&notes);
    ht_settle(call, &notes);
    if (p->precision == HT_TRAIN_F)
        ht_want_scratch(plan, ht_attend_thread_bytes(plan), ht_attend_shared_bytes(plan, p));
    else
        ht_want_scratch(plan, ht_attend_bf16_thread_bytes(plan, p), 0);
    return HEARTH_OK;
}

static enum hearth_status record_attend_back(struct ht_plan *plan, const struct ht_attend_back *p,
                                             struct hearth_error *err)
{
    HT_TRY(need(plan, p->f.precision, err));
    BEGIN(attend_back);
    const struct ht_attend *f = &p->f;
    note_attend(&notes, f, false);
    ht_note_all(&notes, &p->dy, HT_ROWS_ALL, p->dy_stride, f->heads * f->v_dim, false);
    ht_note_all(&notes, &p->dq, HT_ROWS_ALL, p->dq_stride, f->heads * f->k_dim, true);
    ht_note_all(&notes, &p->dk, HT_ROWS_ALL, p->dk_stride, f->kv_heads * f->k_dim, true);
    ht_note_all(&notes, &p->dv, HT_ROWS_ALL, p->dv_stride, f->kv_heads * f->v_dim, true);
    ht_note_shared(&notes);
    ht_settle(call, &notes);
    if (f->precision == HT_TRAIN_F)
        ht_want_scratch(plan, ht_attend_back_thread_bytes(p), ht_attend_back_shared_bytes(plan, p));
    else
        ht_want_scratch(plan, ht_attend_bf16_back_thread_bytes(plan, p), ht_attend_bf16_back_shared_bytes(plan, p));
    return HEARTH_OK;
}

static enum hearth_status record_cross_entropy(struct ht_plan *plan, const struct ht_cross_entropy *p,
                                               struct hearth_error *err)
{
    BEGIN(cross_entropy);
    plan->n_vocab = plan->n_vocab && plan->n_vocab < p->n_vocab ? plan->n_vocab : p->n_vocab;
    ht_note_all(&notes, &p->logits, HT_ROWS_OUT, p->stride, p->n_vocab, true);
    ht_note_all(&notes, &p->loss, HT_ROWS_ALL, 1, 1, true);
    ht_settle(call, &notes);
    return HEARTH_OK;
}

static enum hearth_status record_fill(struct ht_plan *plan, const struct ht_fill *p, struct hearth_error *err)
{
    BEGIN(fill);
    ht_note_flat(&notes, &p->x, p->n, true);
    ht_settle(call, &notes);
    return HEARTH_OK;
}

static enum hearth_status record_sumsq(struct ht_plan *plan, const struct ht_sumsq *p, struct hearth_error *err)
{
    BEGIN(sumsq);
    ht_note_flat(&notes, &p->x, p->n, false);
    ht_note_flat(&notes, &p->sum, 1, true);
    ht_note_shared(&notes);
    ht_settle(call, &notes);
    ht_want_scratch(plan, 0, ht_sumsq_shared_bytes(p));
    return HEARTH_OK;
}

static enum hearth_status record_scale(struct ht_plan *plan, const struct ht_scale *p, struct hearth_error *err)
{
    BEGIN(scale);
    ht_note_flat(&notes, &p->x, p->n, true);
    if (p->sum.buf)
        ht_note_flat(&notes, &p->sum, 1, false);
    ht_settle(call, &notes);
    return HEARTH_OK;
}

static enum hearth_status record_adamw(struct ht_plan *plan, const struct ht_adamw *p, struct hearth_error *err)
{
    BEGIN(adamw);
    ht_note_flat(&notes, &p->p, p->n, true);
    ht_note_flat(&notes, &p->g, p->n, false);
    ht_note_flat(&notes, &p->m, p->n, true);
    ht_note_flat(&notes, &p->v, p->n, true);
    ht_settle(call, &notes);
    return HEARTH_OK;
}

static enum hearth_status record_adamw8(struct ht_plan *plan, const struct ht_adamw8 *p, struct hearth_error *err)
{
    BEGIN(adamw8);
    ht_note_flat(&notes, &p->p, p->n, true);
    ht_note_flat(&notes, &p->g, p->n, false);
    ht_note_flat(&notes, &p->m, ((size_t)p->n + 3) / 4, true);
    ht_note_flat(&notes, &p->v, ((size_t)p->n + 3) / 4, true);
    ht_note_flat(&notes, &p->scales, 2 * (((size_t)p->n - 1) / HT_MOMENT_BLOCK + 1), true);
    ht_settle(call, &notes);
    return HEARTH_OK;
}

static enum hearth_status record_dropout(struct ht_plan *plan, const struct ht_dropout *p, struct hearth_error *err)
{
    BEGIN(dropout);
    ht_note_all(&notes, &p->x, p->rows, p->x_stride, p->dim, false);
    ht_note_all(&notes, &p->y, p->rows, p->y_stride, p->dim, true);
    ht_settle(call, &notes);
    return HEARTH_OK;
}

static enum hearth_status record_noise(struct ht_plan *plan, const struct ht_noise *p, struct hearth_error *err)
{
    BEGIN(noise);
    ht_note_all(&notes, &p->x, HT_ROWS_ALL, p->stride, p->dim, true);
    ht_settle(call, &notes);
    return HEARTH_OK;
}

const struct ht_train_ops ht_cpu_train_ops = {
    .supports = supports,
    .slowness = slowness,
    .submit = ht_cpu_submit_train,
#define RECORD(name) .name = record_##name,
    HT_TRAIN_OPS_MAP(RECORD)
#undef RECORD
};
