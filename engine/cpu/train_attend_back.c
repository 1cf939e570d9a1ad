// SPDX-License-Identifier: Apache-2.0
// Backward of attention. Head after head, CHUNK rows at a time: each thread recomputes the pairs of these rows with a
// range of the keys, adds to dk and dv of that range, which are its own, and leaves the gradients of the scores in the
// team's memory; after a barrier the rows are dealt out for dq. So every pair is computed once, and each sum runs in
// its order whatever the number of threads. Two such parts of memory in turn: one barrier per chunk. Team threads,
// inside a submit.
#include <string.h>

#include "engine/cpu/train_attend.h"

enum { CHUNK = 192, ROWS = 48, DQ_ROWS = 24, KEYS_AT_ONCE = 128, UNIT = 16 };

struct back { // one call, seen by one thread
    const struct ht_attend_back *p;
    const struct ht_run *run;
    const struct ht_train_kernels *kernels;
    float *keys, *values, *delta, *ds[2], *own;
    uint32_t width; // of ds: keys, an odd number of cache lines
    unsigned thread;
};

struct chunk { // rows and the range of keys that a thread has
    uint32_t head, from, to, key_from, key_to;
    float *ds; // (CHUNK, width)
};

static uint32_t ds_row(const struct ht_plan *plan)
{
    return (plan->head.shape.rows + 31) / 32 * 32 + 16;
}

size_t ht_attend_back_thread_bytes(const struct ht_attend_back *p)
{
    (void)p;
    return ROWS * HT_KEYS * sizeof(float);
}

size_t ht_attend_back_shared_bytes(const struct ht_plan *plan, const struct ht_attend_back *p)
{
    uint32_t rows = plan->head.shape.rows;
    size_t keys = p->f.kv_heads * (ht_keys_floats(rows, p->f.k_dim) + ht_keys_floats(rows, p->f.v_dim));
    return (keys + 2 * (size_t)CHUNK * ds_row(plan) + (size_t)rows * p->f.heads) * sizeof(float);
}

static struct back back_make(const struct ht_attend_back *p, const struct ht_run *run, unsigned thread)
{
    uint32_t rows = run->plan->head.shape.rows;
    struct back b = {.p = p, .run = run, .kernels = ht_train_kernels(run->device->isa), .thread = thread};
    b.width = ds_row(run->plan);
    b.keys = (float *)(void *)run->plan->shared;
    b.values = b.keys + p->f.kv_heads * ht_keys_floats(rows, p->f.k_dim);
    b.ds[0] = b.values + p->f.kv_heads * ht_keys_floats(rows, p->f.v_dim);
    b.ds[1] = b.ds[0] + (size_t)CHUNK * b.width;
    b.delta = b.ds[1] + (size_t)CHUNK * b.width;
    b.own = ht_run_scratch(run, thread);
    return b;
}

// Transposed keys and values, dk and dv cleared, D of each row and head.
static void prepare(const struct back *b)
{
    const struct ht_attend_back *p = b->p;
    const struct ht_attend *f = &p->f;
    struct ht_range rows = ht_share(b->run->n_rows, b->thread, b->run->n_threads);
    ht_keys_fill(b->run, b->thread, &f->k, f->k_stride, f->kv_heads, f->k_dim, b->keys);
    ht_keys_fill(b->run, b->thread, &f->v, f->v_stride, f->kv_heads, f->v_dim, b->values);
    for (uint32_t r = rows.from; r < rows.to; r++) {
        memset(ht_head_at(&p->dk, r, p->dk_stride, 0, 0), 0, (size_t)f->kv_heads * f->k_dim * sizeof(float));
        memset(ht_head_at(&p->dv, r, p->dv_stride, 0, 0), 0, (size_t)f->kv_heads * f->v_dim * sizeof(float));
        for (uint32_t h = 0; h < f->heads; h++)
            b->delta[(size_t)r * f->heads + h] = b->kernels->dot(ht_head_at(&p->dy, r, p->dy_stride, h, f->v_dim),
                                                                 ht_head_at(&f->y, r, f->y_stride, h, f->v_dim),
                                                                 f->v_dim);
    }
}

struct block { // rows of a chunk that lie in one segment, and the first key that the first of them sees
    uint32_t from, to, first;
};

// What the UNIT keys from j on cost: the rows of the blocks that see some of them.
static uint32_t work_of(const struct block *blocks, uint32_t n, uint32_t j)
{
    uint32_t work = 0;
    for (uint32_t i = 0; i < n; i++)
        work += j < blocks[i].to && j + UNIT > blocks[i].first ? blocks[i].to - blocks[i].from : 0;
    return work;
}

// The thread's range of the keys, so that all have about the same to do.
static void share_keys(const struct back *b, struct chunk *c)
{
    struct block blocks[CHUNK];
    uint32_t n_blocks = 0, first = ht_attend_first(&b->p->f, b->run, c->from) / UNIT * UNIT;
    uint64_t total = 0, sum = 0, n = b->run->n_threads;
    for (uint32_t r = c->from, end; r < c->to; r = end) {
        end = ht_attend_block(b->run, r, c->to - r < ROWS ? c->to - r : ROWS);
        blocks[n_blocks++] = (struct block){r, end, ht_attend_first(&b->p->f, b->run, r)};
    }
    for (uint32_t j = first; j < c->to; j += UNIT)
        total += work_of(blocks, n_blocks, j);
    c->key_from = c->key_to = c->to;
    for (uint32_t j = first; j < c->to; j += UNIT) {
        uint64_t work = work_of(blocks, n_blocks, j), owner = (2 * sum + work) * n / (2 * total);
        if (owner == b->thread) {
            c->key_from = c->key_from < j ? c->key_from : j;
            c->key_to = j + UNIT < c->to ? j + UNIT : c->to;
        }
        sum += work;
    }
}

// dk or dv of keys [j, j + n) += over rows [r, r + n_rows) of g[i][key] * x[i].
static void add_rows(const struct back *b, const struct ht_ref *out, uint32_t out_stride, const struct ht_ref *x,
                     uint32_t x_stride, uint32_t head, uint32_t dim, const float *g, size_t g_row, uint32_t j,
                     uint32_t n, uint32_t r, uint32_t n_rows)
{
    const struct ht_attend *f = &b->p->f;
    struct ht_span spans[HT_KEYS];
    bool all = j + n <= r + 1 && (!f->window || r + n_rows <= j + f->window);
    for (uint32_t i = 0; i < n && !all; i++) { // key j + i is seen by rows from itself on
        uint32_t from = j + i < r ? 0 : j + i - r, to = n_rows;
        if (f->window && j + i + f->window < r + n_rows)
            to = j + i + f->window > r ? j + i + f->window - r : 0;
        from = from < n_rows ? from : n_rows;
        spans[i] = (struct ht_span){from, to > from ? to : from};
    }
    b->kernels->tile(&(struct ht_tile){.m = n,
                                       .n = dim,
                                       .count = n_rows,
                                       .a = g,
                                       .a_row = 1,
                                       .a_step = g_row,
                                       .b = ht_head_at(x, r, x_stride, head, dim),
                                       .b_step = x_stride,
                                       .c = ht_head_at(out, j, out_stride, head / (f->heads / f->kv_heads), dim),
                                       .c_row = out_stride,
                                       .end = HT_TILE_CHAIN,
                                       .seen = all ? NULL : spans});
}

static void products(const struct back *b, const struct ht_ref *x, uint32_t stride, uint32_t head, uint32_t dim,
                     const float *keys, uint32_t j, uint32_t n, uint32_t r, uint32_t n_rows, float *out, size_t out_row)
{
    keys += head / (b->p->f.heads / b->p->f.kv_heads) * ht_keys_floats(b->run->plan->head.shape.rows, dim);
    b->kernels->tile(&(struct ht_tile){.m = n_rows,
                                       .n = n,
                                       .count = dim,
                                       .a = ht_head_at(x, r, stride, head, dim),
                                       .a_row = stride,
                                       .a_step = 1,
                                       .b = ht_keys_at(keys, dim, j),
                                       .b_step = HT_KEYS,
                                       .c = out,
                                       .c_row = out_row});
}

// Rows [r, r + n_rows) of a segment with keys [j, j + n) of one block of HT_KEYS.
static void back_pairs(const struct back *b, const struct chunk *c, uint32_t r, uint32_t n_rows, uint32_t j,
                       uint32_t n)
{
    const struct ht_attend_back *p = b->p;
    const struct ht_attend *f = &p->f;
    const struct ht_score score = {f->scale, f->softcap, ht_attend_slope(f, c->head)};
    float *ds = c->ds + (size_t)(r - c->from) * b->width + j;
    products(b, &f->q, f->q_stride, c->head, f->k_dim, b->keys, j, n, r, n_rows, b->own, HT_KEYS);
    products(b, &p->dy, p->dy_stride, c->head, f->v_dim, b->values, j, n, r, n_rows, ds, b->width);
    for (uint32_t i = 0; i < n_rows; i++) {
        uint32_t lo = ht_attend_first(f, b->run, r + i), hi = r + i + 1 < j + n ? r + i + 1 : j + n;
        lo = lo > j ? lo : j;
        if (lo < hi)
            b->kernels->pairs(b->own + i * HT_KEYS + (lo - j), ds + i * (size_t)b->width + (lo - j), hi - lo, &score,
                              (int32_t)lo - (int32_t)(r + i),
                              ht_ref_floats(&f->lse)[(size_t)(r + i) * f->lse_stride + c->head],
                              b->delta[(size_t)(r + i) * f->heads + c->head]);
    }
    add_rows(b, &p->dv, p->dv_stride, &p->dy, p->dy_stride, c->head, f->v_dim, b->own, HT_KEYS, j, n, r, n_rows);
    add_rows(b, &p->dk, p->dk_stride, &f->q, f->q_stride, c->head, f->k_dim, ds, b->width, j, n, r, n_rows);
}

static void back_keys(const struct back *b, const struct chunk *c)
{
    for (uint32_t r = c->from, end; r < c->to; r = end) {
        end = ht_attend_block(b->run, r, c->to - r < ROWS ? c->to - r : ROWS);
        uint32_t from = ht_attend_first(&b->p->f, b->run, r), to = end < c->key_to ? end : c->key_to, next;
        from = from > c->key_from ? from : c->key_from;
        for (uint32_t j = from; j < to; j = next) {
            next = (j / HT_KEYS + 1) * HT_KEYS < to ? (j / HT_KEYS + 1) * HT_KEYS : to;
            back_pairs(b, c, r, end - r, j, next - j);
        }
    }
}

static void back_query(const struct back *b, const struct chunk *c, uint32_t r, uint32_t n)
{
    const struct ht_attend_back *p = b->p;
    const struct ht_attend *f = &p->f;
    uint32_t lo = ht_attend_first(f, b->run, r), end = r + n, next;
    struct ht_span spans[DQ_ROWS];
    for (uint32_t j = lo; j < end; j = next) {
        next = end - j < KEYS_AT_ONCE ? end : j + KEYS_AT_ONCE;
        b->kernels->tile(&(struct ht_tile){
            .m = n,
            .n = f->k_dim,
            .count = next - j,
            .a = c->ds + (size_t)(r - c->from) * b->width + j,
            .a_row = b->width,
            .a_step = 1,
            .b = ht_head_at(&f->k, j, f->k_stride, c->head / (f->heads / f->kv_heads), f->k_dim),
            .b_step = f->k_stride,
            .c = ht_head_at(&p->dq, r, p->dq_stride, c->head, f->k_dim),
            .c_row = p->dq_stride,
            .end = j == lo ? HT_TILE_SET : HT_TILE_CHAIN,
            .seen = ht_attend_spans(f, b->run, r, n, j, next, spans)});
    }
}

void ht_run_attend_back(const struct ht_call *call, const struct ht_run *run, unsigned thread)
{
    if (call->p.attend_back.f.precision != HT_TRAIN_F) {
        ht_bf16_run_attend_back(&call->p.attend_back, run, thread);
        return;
    }
    const struct back b = back_make(&call->p.attend_back, run, thread);
    uint32_t n_chunks = (run->n_rows + CHUNK - 1) / CHUNK, end;
    prepare(&b);
    ht_pool_barrier(run->device->pool, thread);
    for (uint32_t i = 0; i < n_chunks * b.p->f.heads; i++) {
        struct chunk c = {.head = i / n_chunks, .from = i % n_chunks * CHUNK, .ds = b.ds[i % 2]};
        c.to = run->n_rows - c.from < CHUNK ? run->n_rows : c.from + CHUNK;
        share_keys(&b, &c);
        back_keys(&b, &c);
        ht_pool_barrier(run->device->pool, thread);
        uint32_t turn = 0, n_threads = run->n_threads;
        for (uint32_t r = c.from; r < c.to; r = end, turn++) { // to and fro, since later rows see more
            end = ht_attend_block(run, r, c.to - r < DQ_ROWS ? c.to - r : DQ_ROWS);
            uint32_t place = turn % (2 * n_threads);
            if ((place < n_threads ? place : 2 * n_threads - 1 - place) == thread)
                back_query(&b, &c, r, end - r);
        }
    }
}
