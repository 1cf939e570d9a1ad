// SPDX-License-Identifier: Apache-2.0
// Backward of attention in contract B. Every pair is computed once: a block of keys with all queries that see it gives
// dv and dk of these keys; a few blocks of keys together add to dq. Heads of one kv head are summed behind that, in
// their order. Team threads, inside a submit.
#include "engine/cpu/train_attend_bf16.h"
#include "engine/cpu/train_row_kernels.h"

#include <string.h>

enum { TOGETHER = 4, SQUARE = HT_B_STEP * HT_B_LANES }; // blocks of keys that add to dq together; pairs of two blocks

struct back { // a thread's view
    struct ht_ab a;
    const struct ht_attend_back *p;
    uint16_t *k_rows, *v_rows, *k_turned;              // keys
    uint16_t *q_lanes, *dy_lanes, *q_summed, *dy_summed; // queries
    uint16_t *pairs, *ds;   // of a block of keys, as x: 32 keys, a step for each block of queries
    uint16_t *ds_panels;    // [block of queries][TOGETHER] keys are summed
    float *lse, *delta;     // [query]
    float *s, *dp, *dq, *t; // dq: [block of queries](k_dim, 32)
    float *sums;            // the team's: dk, dv of the heads but the first of each kv head
};

static size_t carve(struct back *b, uint32_t rows, unsigned char *base)
{
    struct ht_ab_carver c = {.base = base};
    const struct ht_attend *f = &b->p->f;
    uint32_t blocks = ht_ab_up(rows), k_dim = f->k_dim, v_dim = f->v_dim;
    size_t lanes = HT_B_LANES * sizeof(float), panel = HT_B_PANEL * sizeof(uint16_t);
    b->k_rows = ht_ab_take(&c, ht_ab_x_bytes(blocks, k_dim));
    b->v_rows = ht_ab_take(&c, ht_ab_x_bytes(blocks, v_dim));
    b->k_turned = ht_ab_take(&c, ht_ab_turned_bytes(blocks, k_dim));
    b->q_lanes = ht_ab_take(&c, ht_ab_x_bytes(blocks, k_dim));
    b->q_summed = ht_ab_take(&c, ht_ab_x_bytes(blocks, k_dim));
    b->dy_lanes = ht_ab_take(&c, ht_ab_x_bytes(blocks, v_dim));
    b->dy_summed = ht_ab_take(&c, ht_ab_x_bytes(blocks, v_dim));
    b->pairs = ht_ab_take(&c, blocks * panel);
    b->ds = ht_ab_take(&c, blocks * panel);
    b->ds_panels = ht_ab_take(&c, blocks * TOGETHER * panel);
    b->lse = ht_ab_take(&c, blocks * lanes);
    b->delta = ht_ab_take(&c, blocks * lanes);
    b->s = ht_ab_take(&c, SQUARE * sizeof(float));
    b->dp = ht_ab_take(&c, SQUARE * sizeof(float));
    b->t = ht_ab_take(&c, SQUARE * sizeof(float));
    b->dq = ht_ab_take(&c, (size_t)blocks * ht_ab_up(k_dim) * HT_B_STEP * lanes);
    b->a.turned = ht_ab_take(&c, (size_t)(k_dim > v_dim ? k_dim : v_dim) * lanes);
    return c.used;
}

size_t ht_attend_bf16_back_thread_bytes(const struct ht_plan *plan, const struct ht_attend_back *p)
{
    struct back b = {.p = p};
    return carve(&b, plan->head.shape.rows, NULL);
}

size_t ht_attend_bf16_back_shared_bytes(const struct ht_plan *plan, const struct ht_attend_back *p)
{
    return (size_t)(p->f.heads - p->f.kv_heads) * plan->head.shape.rows * (p->f.k_dim + p->f.v_dim) * sizeof(float);
}

// ---- one head of one segment

static void prepare(const struct back *b)
{
    const struct ht_ab *a = &b->a;
    const struct ht_attend *f = a->p;
    const struct ht_ab_view q = {&f->q, f->q_stride, a->head, f->k_dim}, k = {&f->k, f->k_stride, a->kv, f->k_dim},
                            v = {&f->v, f->v_stride, a->kv, f->v_dim},
                            dy = {&b->p->dy, b->p->dy_stride, a->head, f->v_dim};
    const size_t k_size = (size_t)ht_ab_up(f->k_dim) * HT_B_PANEL, v_size = (size_t)ht_ab_up(f->v_dim) * HT_B_PANEL;
    for (uint32_t i = 0; i < a->blocks; i++) {
        ht_ab_rows(a, &k, i, b->k_rows + i * k_size);
        ht_ab_rows(a, &v, i, b->v_rows + i * v_size);
        ht_ab_turned_rows(a, &k, i, b->k_turned);
        ht_ab_lanes(a, &q, i, b->q_lanes + i * k_size);
        ht_ab_lanes(a, &dy, i, b->dy_lanes + i * v_size);
        ht_ab_summed(a, &q, i, b->q_summed);
        ht_ab_summed(a, &dy, i, b->dy_summed);
    }
    for (uint32_t i = 0; i < a->rows; i++) {
        uint32_t r = a->from + i;
        b->lse[i] = ht_ref_floats(&f->lse)[(size_t)r * f->lse_stride + a->head];
        b->delta[i] = a->lanes->dot(ht_head_at(&b->p->dy, r, b->p->dy_stride, a->head, f->v_dim),
                                    ht_head_at(&f->y, r, f->y_stride, a->head, f->v_dim), f->v_dim);
    }
    for (uint32_t i = a->rows; i < a->blocks * HT_B_STEP; i++)
        b->lse[i] = b->delta[i] = 0;
}

// 32 keys by 32 queries: dot products over dim.
static void products(const struct back *b, const uint16_t *rows, const uint16_t *lanes, uint32_t dim, uint32_t key,
                     uint32_t query, float *out)
{
    const uint32_t steps = ht_ab_up(dim);
    b->a.kernels->sum(&(struct ht_bf16_block){.panel = lanes + (size_t)query * steps * HT_B_PANEL,
                                              .x = rows + (size_t)key * steps * HT_B_PANEL,
                                              .x_next = (size_t)steps * HT_B_TILE,
                                              .steps = steps,
                                              .rows = 2 * HT_B_ROWS,
                                              .acc = out,
                                              .acc_stride = HT_B_LANES,
                                              .begin = true});
}

// dk or dv of a block of keys: over the queries [key, end) of g (as x, from its start) by what they are summed with.
static void sum_queries(const struct back *b, const uint16_t *g, const uint16_t *summed, uint32_t key, uint32_t end,
                        uint32_t dim, float *out, size_t stride)
{
    const struct ht_ab *a = &b->a;
    for (uint32_t d = 0; d < dim; d += HT_B_LANES) {
        uint32_t n = dim - d < HT_B_LANES ? dim - d : HT_B_LANES;
        a->kernels->sum(&(struct ht_bf16_block){
            .panel = summed + ((size_t)(d / HT_B_LANES) * a->blocks + key) * HT_B_PANEL,
            .x = g,
            .x_next = (size_t)a->blocks * HT_B_TILE,
            .steps = end - key,
            .rows = 2 * HT_B_ROWS,
            .acc = b->t,
            .acc_stride = HT_B_LANES,
            .begin = true});
        for (uint32_t r = 0; r < ht_ab_rows_of(a, key); r++)
            memcpy(out + r * stride + d, b->t + r * HT_B_LANES, n * sizeof *out);
    }
}

// Where this head's dk (or dv) lies: the op's own for a kv head's first, the team's for the others.
static float *place_of(const struct back *b, bool values, uint32_t row, size_t *stride)
{
    const struct ht_ab *a = &b->a;
    const struct ht_attend *f = a->p;
    uint32_t share = f->heads / f->kv_heads, rows = a->run->plan->head.shape.rows, other = a->head % share;
    if (!other) {
        *stride = values ? b->p->dv_stride : b->p->dk_stride;
        return values ? ht_head_at(&b->p->dv, row, b->p->dv_stride, a->kv, f->v_dim)
                      : ht_head_at(&b->p->dk, row, b->p->dk_stride, a->kv, f->k_dim);
    }
    *stride = f->k_dim + f->v_dim;
    return b->sums + ((size_t)(a->kv * (share - 1) + other - 1) * rows + row) * *stride + (values ? f->k_dim : 0);
}

static void back_key(const struct back *b, uint32_t key, uint32_t first)
{
    const struct ht_ab *a = &b->a;
    const uint32_t end = ht_ab_end_query(a, key), k_dim = a->p->k_dim, v_dim = a->p->v_dim;
    for (uint32_t query = key; query < end; query++) {
        const struct ht_bf16_pairs pairs = ht_ab_pairs(a, query, key);
        products(b, b->k_rows, b->q_lanes, k_dim, key, query, b->s);
        products(b, b->v_rows, b->dy_lanes, v_dim, key, query, b->dp);
        a->kernels->pairs(&pairs, b->s, b->dp, b->lse + query * HT_B_LANES, b->delta + query * HT_B_LANES,
                          b->pairs + (size_t)(query - key) * HT_B_TILE, b->ds + (size_t)(query - key) * HT_B_TILE,
                          (size_t)a->blocks * HT_B_TILE,
                          b->ds_panels + ((size_t)query * TOGETHER + key - first) * HT_B_PANEL);
    }
    size_t stride;
    float *dv = place_of(b, true, a->from + key * HT_B_STEP, &stride);
    sum_queries(b, b->pairs, b->dy_summed, key, end, v_dim, dv, stride);
    float *dk = place_of(b, false, a->from + key * HT_B_STEP, &stride);
    sum_queries(b, b->ds, b->q_summed, key, end, k_dim, dk, stride);
}

// Blocks of keys [first, to) add to dq of all queries that see them.
static void add_to_dq(const struct back *b, uint32_t first, uint32_t to)
{
    const struct ht_ab *a = &b->a;
    const uint32_t k_dim = a->p->k_dim, end = ht_ab_end_query(a, to - 1);
    for (uint32_t query = first; query < end; query++) {
        uint32_t seen = ht_ab_first_key(a, query), low = seen > first ? seen : first,
                 high = query + 1 < to ? query + 1 : to;
        for (uint32_t d = 0; d < k_dim && low < high; d += 2 * HT_B_ROWS)
            a->kernels->sum(&(struct ht_bf16_block){
                .panel = b->ds_panels + ((size_t)query * TOGETHER + low - first) * HT_B_PANEL,
                .x = b->k_turned + ((size_t)(d / HT_B_ROWS) * a->blocks + low) * HT_B_TILE,
                .x_next = (size_t)a->blocks * HT_B_TILE,
                .steps = high - low,
                .rows = 2 * HT_B_ROWS,
                .acc = b->dq + (size_t)query * ht_ab_up(k_dim) * SQUARE + d * HT_B_LANES,
                .acc_stride = HT_B_LANES,
                .begin = low == seen});
    }
}

static void back_head(const struct back *b)
{
    const struct ht_ab *a = &b->a;
    const uint32_t k_dim = a->p->k_dim;
    prepare(b);
    for (uint32_t first = 0, to; first < a->blocks; first = to) {
        to = a->blocks - first < TOGETHER ? a->blocks : first + TOGETHER;
        for (uint32_t key = first; key < to; key++)
            back_key(b, key, first);
        add_to_dq(b, first, to);
    }
    for (uint32_t query = 0; query < a->blocks; query++)
        a->lanes->transpose(b->dq + (size_t)query * ht_ab_up(k_dim) * SQUARE, HT_B_LANES, k_dim,
                            ht_ab_rows_of(a, query),
                            ht_head_at(&b->p->dq, a->from + query * HT_B_STEP, b->p->dq_stride, a->head, k_dim),
                            b->p->dq_stride);
}

// dk and dv += those of the other heads of the kv head.
static void add_heads(const struct back *b, unsigned thread)
{
    const struct ht_attend *f = &b->p->f;
    const struct ht_run *run = b->a.run;
    const struct ht_row_kernels *rows = ht_train_rows(run->device->isa);
    struct ht_range range = ht_share(run->n_rows, thread, run->n_threads);
    uint32_t others = f->heads / f->kv_heads - 1, most = run->plan->head.shape.rows, width = f->k_dim + f->v_dim;
    for (uint32_t kv = 0; kv < f->kv_heads; kv++)
        for (uint32_t i = 0; i < others; i++)
            for (uint32_t r = range.from; r < range.to; r++) {
                const float *sum = b->sums + ((size_t)(kv * others + i) * most + r) * width;
                rows->add(sum, f->k_dim, ht_head_at(&b->p->dk, r, b->p->dk_stride, kv, f->k_dim));
                rows->add(sum + f->k_dim, f->v_dim, ht_head_at(&b->p->dv, r, b->p->dv_stride, kv, f->v_dim));
            }
}

void ht_bf16_run_attend_back(const struct ht_attend_back *p, const struct ht_run *run, unsigned thread)
{
    struct back b = {.p = p, .a = ht_ab_make(&p->f, run), .sums = (float *)(void *)run->plan->shared};
    uint32_t turn = 0, end;
    carve(&b, run->plan->head.shape.rows, ht_run_scratch(run, thread));
    b.a.kernels->begin();
    for (uint32_t r = 0; r < run->n_rows; r = end) {
        end = ht_attend_block(run, r, run->n_rows);
        for (uint32_t h = 0; h < p->f.heads; h++)
            if (turn++ % run->n_threads == thread) {
                ht_ab_head(&b.a, h, r, end);
                back_head(&b);
            }
    }
    b.a.kernels->end();
    if (p->f.heads == p->f.kv_heads)
        return;
    ht_pool_barrier(run->device->pool, thread);
    add_heads(&b, thread);
}
