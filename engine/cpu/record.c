// SPDX-License-Identifier: Apache-2.0
// Recording: each op checks its arguments, adds a call, notes what memory it touches, and asks for scratch.
// From the notes follows where the team must wait. Engine thread.
#include <string.h>

#include "engine/base/mem.h"
#include "engine/cpu/record.h"

struct ht_call *ht_plan_call(struct ht_plan *plan, ht_call_fn *run, struct hearth_error *err)
{
    if (plan->ended || plan->n_calls == HT_MAX_CALLS) {
        ht_fail(err, HEARTH_LIMIT, plan->ended ? "the plan has ended" : "a plan of more than %d ops",
                HT_MAX_CALLS);
        return NULL;
    }
    if (plan->n_calls == plan->n_calls_cap) {
        uint32_t cap = plan->n_calls_cap ? 2 * plan->n_calls_cap : 64;
        void *calls = plan->calls;
        if (!ht_grow(&calls, plan->n_calls_cap, cap, sizeof *plan->calls)) {
            ht_fail(err, HEARTH_NOMEM, "out of memory for a plan of %u ops", cap);
            return NULL;
        }
        plan->calls = calls;
        plan->n_calls_cap = cap;
    }
    struct ht_call *call = &plan->calls[plan->n_calls++];
    call->run = run;
    return call;
}

void ht_want_scratch(struct ht_plan *plan, size_t thread_bytes, size_t shared_bytes)
{
    plan->thread_bytes = thread_bytes > plan->thread_bytes ? thread_bytes : plan->thread_bytes;
    plan->shared_bytes = shared_bytes > plan->shared_bytes ? shared_bytes : plan->shared_bytes;
}

// ---- accesses of the call being recorded

// The team's scratch and the bank's A x lie at addresses that are nobody's.
enum { AT_SHARED = 0, AT_LORA = 1 };

static void note(struct ht_notes *notes, struct ht_access access)
{
    notes->list[notes->n++] = access;
}

static struct ht_access view(const struct ht_notes *notes, const struct ht_ref *ref, enum ht_rows rows,
                             uint32_t stride, uint32_t width, bool write)
{
    const struct ht_step_shape *shape = &notes->plan->head.shape;
    uint32_t n = rows == HT_ROWS_OUT ? shape->outs : shape->rows;
    uintptr_t from = (uintptr_t)ht_ref_floats(ref);
    return (struct ht_access){.from = from,
                              .to = from + ((size_t)(n - 1) * stride + width) * sizeof(float),
                              .write = write,
                              .rows = rows,
                              .stride = stride};
}

void ht_note_all(struct ht_notes *notes, const struct ht_ref *ref, enum ht_rows rows, uint32_t stride,
                 uint32_t width, bool write)
{
    note(notes, view(notes, ref, rows, stride, width, write));
}

void ht_note_columns(struct ht_notes *notes, const struct ht_ref *ref, enum ht_rows rows, uint32_t stride,
                     uint32_t width, bool write)
{
    struct ht_access a = view(notes, ref, rows, stride, width, write);
    a.split = HT_SPLIT_COLUMNS;
    a.parts = width;
    note(notes, a);
}

void ht_note_items(struct ht_notes *notes, const struct ht_ref *ref, enum ht_rows rows, uint32_t stride,
                   uint32_t items, uint32_t dim, bool write)
{
    struct ht_access a = view(notes, ref, rows, stride, items * dim, write);
    a.split = HT_SPLIT_ITEMS;
    a.parts = items;
    note(notes, a);
}

static void note_kv(struct ht_notes *notes, const struct ht_kv *kv, uint32_t layer, bool write)
{
    uintptr_t at = (uintptr_t)kv->data + layer; // a layer lies in every page: its number stands for all of it
    note(notes, (struct ht_access){.from = at, .to = at + 1, .write = write});
}

void ht_note_flat(struct ht_notes *notes, const struct ht_ref *ref, size_t n, bool write)
{
    uintptr_t from = (uintptr_t)ht_ref_floats(ref);
    note(notes, (struct ht_access){.from = from, .to = from + n * sizeof(float), .write = write});
}

void ht_note_shared(struct ht_notes *notes)
{
    note(notes, (struct ht_access){.from = AT_SHARED, .to = AT_SHARED + 1, .write = true});
}

static enum ht_barrier conflict(const struct ht_access *a, const struct ht_access *b)
{
    if (a->to <= b->from || b->to <= a->from || !(a->write || b->write))
        return HT_BARRIER_NEVER;
    bool alike = a->split != HT_SPLIT_ANY && a->split == b->split && a->from == b->from && a->to == b->to &&
                 a->stride == b->stride && a->parts == b->parts && a->rows == b->rows;
    return !alike ? HT_BARRIER_ALWAYS : a->dealt || b->dealt ? HT_BARRIER_MANY : HT_BARRIER_NEVER;
}

static enum ht_barrier conflicts(const struct ht_plan *plan, uint32_t n_accesses, const struct ht_notes *notes)
{
    enum ht_barrier most = HT_BARRIER_NEVER;
    for (uint32_t i = 0; i < n_accesses; i++)
        for (unsigned j = 0; j < notes->n; j++) {
            enum ht_barrier b = conflict(&plan->accesses[i], &notes->list[j]);
            most = b > most ? b : most;
        }
    return most;
}

// A product may take the GLU after it only if nobody reads gate or up (y lies in one of them) but the GLU and the
// product after that: known once a later call writes over both.
static void watch_gate_up(struct ht_plan *plan, const struct ht_notes *notes)
{
    const struct ht_matmul *p = plan->gate_up ? &plan->calls[plan->gate_up - 1].p.matmul : NULL;
    for (unsigned j = 0; p && j < notes->n; j++) {
        const struct ht_access *a = &notes->list[j];
        for (unsigned i = 0; i < 2; i++) {
            struct ht_access y = view(notes, &p->part[i].y, p->rows, p->part[i].y_stride, p->part[i].w->head.params.n,
                                      true);
            bool *gone = i ? &plan->up_gone : &plan->gate_gone;
            if (*gone || a->to <= y.from || y.to <= a->from)
                continue;
            if (!a->write || a->from != y.from || a->to != y.to || a->stride != y.stride || a->rows != y.rows) {
                plan->gate_up = 0;
                return;
            }
            *gone = true;
        }
    }
    if (p && plan->gate_gone && plan->up_gone) {
        struct ht_call *gate_up = &plan->calls[plan->gate_up - 1];
        gate_up[0].glu_follows = gate_up[1].deferred = gate_up[2].after_glu = true;
        plan->gate_up = 0;
    }
}

// Sets the call's barrier. `n_before`: accesses recorded before the norm that this call may take over, or
// all.
static void settle(struct ht_call *call, const struct ht_notes *notes, uint32_t n_before)
{
    struct ht_plan *plan = notes->plan;
    bool full = plan->n_accesses + notes->n > HT_MAX_ACCESSES;
    watch_gate_up(plan, notes);
    if (full || conflicts(plan, n_before, notes) == HT_BARRIER_ALWAYS)
        call->barrier = HT_BARRIER_ALWAYS;
    else if (conflicts(plan, plan->n_accesses, notes))
        call->barrier = HT_BARRIER_MANY;
    if (call->barrier == HT_BARRIER_ALWAYS)
        plan->n_accesses = 0;
    for (unsigned j = 0; j < notes->n; j++)
        plan->accesses[plan->n_accesses++] = notes->list[j];
}

void ht_settle(struct ht_call *call, const struct ht_notes *notes)
{
    settle(call, notes, notes->plan->n_accesses);
}

// ---- the ops

static enum hearth_status record_embed(struct ht_plan *plan, const struct ht_embed *p,
                                       struct hearth_error *err)
{
    HT_TRY(ht_check_embed(plan, p, err));
    struct ht_call *call = ht_plan_call(plan, ht_run_embed, err);
    if (!call)
        return HEARTH_NOMEM;
    uint32_t n = p->w->head.params.n;
    plan->n_ids = plan->n_ids && plan->n_ids < n ? plan->n_ids : n;
    call->p.embed = *p;
    struct ht_notes notes = {.plan = plan};
    ht_note_all(&notes, &p->y, HT_ROWS_ALL, p->stride, p->w->head.params.k, true);
    ht_settle(call, &notes);
    ht_want_scratch(plan, ht_embed_thread_bytes(p), 0);
    return HEARTH_OK;
}

static enum hearth_status record_rmsnorm(struct ht_plan *plan, const struct ht_rmsnorm *p,
                                         struct hearth_error *err)
{
    HT_TRY(ht_check_rmsnorm(plan, p, err));
    struct ht_call *call = ht_plan_call(plan, ht_run_rmsnorm, err);
    if (!call)
        return HEARTH_NOMEM;
    call->p.rmsnorm = *p;
    struct ht_notes notes = {.plan = plan};
    ht_note_items(&notes, &p->x, p->rows, p->x_stride, p->groups, p->dim, false);
    ht_note_items(&notes, &p->y, p->rows, p->y_stride, p->groups, p->dim, true);
    ht_settle(call, &notes);
    plan->n_before_norm = plan->n_accesses - notes.n;
    return HEARTH_OK;
}

static bool overlaps(const struct ht_plan *plan, const struct ht_rmsnorm *n)
{
    struct ht_notes notes = {.plan = (struct ht_plan *)plan};
    struct ht_access x = view(&notes, &n->x, n->rows, n->x_stride, n->dim, false);
    struct ht_access y = view(&notes, &n->y, n->rows, n->y_stride, n->dim, true);
    return x.from < y.to && y.from < x.to;
}

// With few rows, each thread normalises for itself inside the matmul that reads the result: one barrier less.
static bool takes_norm(const struct ht_plan *plan, const struct ht_matmul *p)
{
    if (plan->n_calls < 2 || plan->calls[plan->n_calls - 2].run != ht_run_rmsnorm)
        return false;
    const struct ht_rmsnorm *n = &plan->calls[plan->n_calls - 2].p.rmsnorm;
    return n->groups == 1 && !n->add && n->rows == p->rows && n->dim == p->k && n->y.buf == p->x.buf &&
           n->y.offset == p->x.offset && n->y_stride == p->x_stride && !overlaps(plan, n);
}

static bool same_ref(const struct ht_ref *a, const struct ht_ref *b)
{
    return a->buf == b->buf && a->offset == b->offset;
}

// The call just recorded multiplies a GLU's y, gate and up of which the call before that made, in whole blocks.
static bool ends_gated(const struct ht_plan *plan)
{
    if (plan->n_calls < 3)
        return false;
    const struct ht_call *c = &plan->calls[plan->n_calls - 3];
    if (c[0].run != ht_run_matmul || c[1].run != ht_run_glu)
        return false;
    const struct ht_matmul *up = &c[0].p.matmul, *down = &c[2].p.matmul;
    const struct ht_glu *g = &c[1].p.glu;
    const struct ht_matmul_part *part = up->part;
    if (up->n_parts != 2 || up->rows != HT_ROWS_ALL || down->rows != HT_ROWS_ALL || g->dim % 32 || down->k != g->dim)
        return false;
    for (unsigned i = 0; i < 2; i++)
        if (part[i].add || part[i].bias.buf || part[i].w->head.params.n != g->dim || part[i].y_stride != g->y_stride ||
            !same_ref(&part[i].y, i ? &g->up : &g->gate))
            return false;
    return g->gate_stride == g->y_stride && g->up_stride == g->y_stride && down->x_stride == g->y_stride &&
           same_ref(&down->x, &g->y) && (same_ref(&g->y, &g->gate) || same_ref(&g->y, &g->up));
}

static enum hearth_status record_matmul(struct ht_plan *plan, const struct ht_matmul *p,
                                        struct hearth_error *err)
{
    HT_TRY(ht_check_matmul(plan, p, err));
    if (p->bank && plan->bank && plan->bank != p->bank)
        return ht_fail(err, HEARTH_INVALID, "a plan uses one LoRA bank");
    plan->bank = p->bank ? p->bank : plan->bank;
    struct ht_call *call = ht_plan_call(plan, ht_run_matmul, err);
    if (!call)
        return HEARTH_NOMEM;
    call->p.matmul = *p;
    struct ht_notes notes = {.plan = plan};
    ht_note_all(&notes, &p->x, p->rows, p->x_stride, p->k, false);
    for (uint32_t i = 0; i < p->n_parts; i++) {
        ht_note_columns(&notes, &p->part[i].y, p->rows, p->part[i].y_stride, p->part[i].w->head.params.n, true);
        notes.list[notes.n - 1].dealt = true;
    }
    if (ht_matmul_shared_bytes(plan, p))
        ht_note_shared(&notes);
    if (p->bank)
        note(&notes, (struct ht_access){.from = AT_LORA, .to = AT_LORA + 1, .write = true});
    call->fused = takes_norm(plan, p);
    if (call->fused) { // every thread reads all of what the norm reads, whoever wrote it
        const struct ht_rmsnorm *norm = &call[-1].p.rmsnorm;
        ht_note_all(&notes, &norm->x, norm->rows, norm->x_stride, norm->dim, false);
        call[-1].deferred = true;
        settle(call, &notes, plan->n_before_norm);
    } else {
        ht_settle(call, &notes);
    }
    size_t shared = ht_matmul_shared_bytes(plan, p), before = 0;
    if (shared && ends_gated(plan)) { // both forms of x live at once
        plan->gate_up = plan->n_calls - 2;
        plan->gate_gone = plan->up_gone = false;
        before = ht_matmul_shared_bytes(plan, &call[-2].p.matmul);
        call[0].glu_offset = call[-2].glu_offset = before;
    }
    ht_want_scratch(plan, ht_matmul_thread_bytes(plan, p), before + shared);
    return HEARTH_OK;
}

enum hearth_status ht_plan_rope(struct ht_plan *plan, const struct ht_rope *p, uint32_t *table,
                                struct hearth_error *err)
{
    uint32_t t = 0;
    for (; t < plan->n_ropes; t++) {
        const struct ht_rope_table *have = &plan->ropes[t];
        if (have->freq.buf == p->freq.buf && have->freq.offset == p->freq.offset && have->pairs == p->n_rot / 2 &&
            have->mscale == p->mscale)
            break;
    }
    if (t == HT_MAX_ROPES)
        return ht_fail(err, HEARTH_LIMIT, "a plan with more than %d kinds of rope", HT_MAX_ROPES);
    if (t == plan->n_ropes)
        plan->ropes[plan->n_ropes++] =
            (struct ht_rope_table){.freq = p->freq, .pairs = p->n_rot / 2, .mscale = p->mscale};
    *table = t;
    return HEARTH_OK;
}

static enum hearth_status record_rope(struct ht_plan *plan, const struct ht_rope *p, struct hearth_error *err)
{
    uint32_t table = 0;
    HT_TRY(ht_check_rope(plan, p, err));
    HT_TRY(ht_plan_rope(plan, p, &table, err));
    struct ht_call *call = ht_plan_call(plan, ht_run_rope, err);
    if (!call)
        return HEARTH_NOMEM;
    call->p.rope = *p;
    call->rope_table = table;
    struct ht_notes notes = {.plan = plan};
    ht_note_items(&notes, &p->x, HT_ROWS_ALL, p->stride, p->heads, p->dim, true);
    ht_settle(call, &notes);
    return HEARTH_OK;
}

static enum hearth_status use_kv(struct ht_plan *plan, const struct ht_kv *kv, struct hearth_error *err)
{
    if (plan->kv && plan->kv != kv)
        return ht_fail(err, HEARTH_INVALID, "a plan uses one KV pool");
    plan->kv = kv;
    return HEARTH_OK;
}

static enum hearth_status record_kv_store(struct ht_plan *plan, const struct ht_kv_store *p,
                                          struct hearth_error *err)
{
    HT_TRY(ht_check_kv_store(plan, p, err));
    HT_TRY(use_kv(plan, p->kv, err));
    struct ht_call *call = ht_plan_call(plan, ht_run_kv_store, err);
    if (!call)
        return HEARTH_NOMEM;
    call->p.kv_store = *p;
    const struct ht_kv_params *kv = &p->kv->head.params;
    struct ht_notes notes = {.plan = plan};
    ht_note_items(&notes, &p->k, HT_ROWS_ALL, p->k_stride, kv->kv_heads, kv->k_dim, false);
    ht_note_items(&notes, &p->v, HT_ROWS_ALL, p->v_stride, kv->kv_heads, kv->v_dim, false);
    note_kv(&notes, p->kv, p->layer, true);
    ht_settle(call, &notes);
    return HEARTH_OK;
}

static enum hearth_status record_attention(struct ht_plan *plan, const struct ht_attention *p,
                                           struct hearth_error *err)
{
    HT_TRY(ht_check_attention(plan, p, err));
    HT_TRY(use_kv(plan, p->kv, err));
    struct ht_call *call = ht_plan_call(plan, ht_run_attention, err);
    if (!call)
        return HEARTH_NOMEM;
    call->p.attention = *p;
    const struct ht_kv_params *kv = &p->kv->head.params;
    struct ht_notes notes = {.plan = plan};
    ht_note_all(&notes, &p->q, HT_ROWS_ALL, p->q_stride, p->heads * kv->k_dim, false);
    ht_note_all(&notes, &p->y, HT_ROWS_ALL, p->y_stride, p->heads * kv->v_dim, true);
    note_kv(&notes, p->kv, p->layer, false);
    ht_settle(call, &notes);
    ht_want_scratch(plan, ht_attention_thread_bytes(plan, p), 0);
    return HEARTH_OK;
}

static enum hearth_status record_glu(struct ht_plan *plan, const struct ht_glu *p, struct hearth_error *err)
{
    HT_TRY(ht_check_glu(plan, p, err));
    struct ht_call *call = ht_plan_call(plan, ht_run_glu, err);
    if (!call)
        return HEARTH_NOMEM;
    call->p.glu = *p;
    struct ht_notes notes = {.plan = plan};
    ht_note_columns(&notes, &p->gate, HT_ROWS_ALL, p->gate_stride, p->dim, false);
    ht_note_columns(&notes, &p->up, HT_ROWS_ALL, p->up_stride, p->dim, false);
    ht_note_columns(&notes, &p->y, HT_ROWS_ALL, p->y_stride, p->dim, true);
    ht_settle(call, &notes);
    return HEARTH_OK;
}

static enum hearth_status record_gather(struct ht_plan *plan, const struct ht_gather *p,
                                        struct hearth_error *err)
{
    HT_TRY(ht_check_gather(plan, p, err));
    struct ht_call *call = ht_plan_call(plan, ht_run_gather, err);
    if (!call)
        return HEARTH_NOMEM;
    call->p.gather = *p;
    struct ht_notes notes = {.plan = plan};
    ht_note_all(&notes, &p->x, HT_ROWS_ALL, p->x_stride, p->dim, false);
    ht_note_items(&notes, &p->y, HT_ROWS_OUT, p->y_stride, 1, p->dim, true);
    ht_settle(call, &notes);
    return HEARTH_OK;
}

static enum hearth_status record_softcap(struct ht_plan *plan, const struct ht_softcap *p,
                                         struct hearth_error *err)
{
    HT_TRY(ht_check_softcap(plan, p, err));
    struct ht_call *call = ht_plan_call(plan, ht_run_softcap, err);
    if (!call)
        return HEARTH_NOMEM;
    call->p.softcap = *p;
    struct ht_notes notes = {.plan = plan};
    ht_note_columns(&notes, &p->x, p->rows, p->stride, p->dim, true);
    ht_settle(call, &notes);
    return HEARTH_OK;
}

static enum hearth_status record_sample(struct ht_plan *plan, const struct ht_sample *p,
                                        struct hearth_error *err)
{
    HT_TRY(ht_check_sample(plan, p, err));
    struct ht_call *call = ht_plan_call(plan, ht_run_sample, err);
    if (!call)
        return HEARTH_NOMEM;
    call->p.sample = *p;
    struct ht_notes notes = {.plan = plan};
    ht_note_all(&notes, &p->logits, HT_ROWS_OUT, p->stride, p->n_vocab, false);
    ht_note_all(&notes, &p->token, HT_ROWS_OUT, 1, 1, true);
    ht_note_shared(&notes);
    ht_settle(call, &notes);
    ht_want_scratch(plan, ht_sample_thread_bytes(plan, p), ht_sample_shared_bytes(plan, p));
    return HEARTH_OK;
}

void ht_cpu_record_table(struct ht_ops *table)
{
#define RECORD(name) table->name = record_##name;
    HT_OPS_MAP(RECORD)
#undef RECORD
}
