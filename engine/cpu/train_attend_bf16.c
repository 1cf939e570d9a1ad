// SPDX-License-Identifier: Apache-2.0
// Attention of training in contract B: the blocks' forms, and forward. Team threads, inside a submit.
#include "engine/cpu/train_attend_bf16.h"

#include <string.h>

// ---- what backward shares

uint32_t ht_ab_up(uint32_t n)
{
    return (n + HT_B_STEP - 1) / HT_B_STEP;
}

void *ht_ab_take(struct ht_ab_carver *c, size_t bytes)
{
    size_t at = c->used;
    c->used += (bytes + 63) / 64 * 64;
    return c->base ? c->base + at : NULL;
}

size_t ht_ab_x_bytes(uint32_t blocks, uint32_t dim)
{
    return (size_t)blocks * ht_ab_up(dim) * HT_B_PANEL * sizeof(uint16_t);
}

size_t ht_ab_turned_bytes(uint32_t blocks, uint32_t dim)
{
    return (size_t)blocks * ht_ab_up(dim) * 2 * HT_B_TILE * sizeof(uint16_t);
}

struct ht_ab ht_ab_make(const struct ht_attend *p, const struct ht_run *run)
{
    return (struct ht_ab){.p = p,
                          .run = run,
                          .kernels = run->device->bf16[p->precision],
                          .lanes = ht_train_kernels(run->device->isa)};
}

void ht_ab_head(struct ht_ab *a, uint32_t head, uint32_t from, uint32_t to)
{
    a->head = head;
    a->kv = head / (a->p->heads / a->p->kv_heads);
    a->from = from;
    a->rows = to - from;
    a->blocks = ht_ab_up(a->rows);
}

uint32_t ht_ab_rows_of(const struct ht_ab *a, uint32_t block)
{
    uint32_t left = a->rows - block * HT_B_STEP;
    return left < HT_B_STEP ? left : HT_B_STEP;
}

static const float *row_at(const struct ht_ab *a, const struct ht_ab_view *x, uint32_t block, uint32_t r)
{
    return ht_head_at(x->ref, a->from + block * HT_B_STEP + r, x->stride, x->head, x->dim);
}

void ht_ab_rows(const struct ht_ab *a, const struct ht_ab_view *x, uint32_t block, uint16_t *to)
{
    uint32_t n = ht_ab_rows_of(a, block), steps = ht_ab_up(x->dim);
    for (uint32_t r = 0; r < HT_B_STEP; r++) {
        uint16_t *row = to + (size_t)(r / HT_B_ROWS) * steps * HT_B_TILE + r % HT_B_ROWS * HT_B_STEP;
        if (r < n)
            a->kernels->round(row_at(a, x, block, r), x->dim, row);
        else
            for (uint32_t s = 0; s < steps; s++)
                memset(row + s * HT_B_TILE, 0, HT_B_STEP * sizeof *row);
    }
}

static void turn(const struct ht_ab *a, const struct ht_ab_view *x, uint32_t block)
{
    a->lanes->transpose(row_at(a, x, block, 0), x->stride, ht_ab_rows_of(a, block), x->dim, a->turned, HT_B_STEP);
}

void ht_ab_turned_rows(const struct ht_ab *a, const struct ht_ab_view *x, uint32_t block, uint16_t *to)
{
    turn(a, x, block);
    for (uint32_t d = 0; d < x->dim; d++)
        a->kernels->round(a->turned + d * HT_B_STEP, ht_ab_rows_of(a, block),
                          to + ((size_t)(d / HT_B_ROWS) * a->blocks + block) * HT_B_TILE + d % HT_B_ROWS * HT_B_STEP);
}

void ht_ab_lanes(const struct ht_ab *a, const struct ht_ab_view *x, uint32_t block, uint16_t *to)
{
    uint32_t n = ht_ab_rows_of(a, block), steps = ht_ab_up(x->dim);
    turn(a, x, block);
    for (uint32_t d = 0; d < steps * HT_B_STEP; d += 2, to += 2 * HT_B_LANES)
        a->kernels->pair(d < x->dim ? a->turned + d * HT_B_STEP : NULL,
                         d + 1 < x->dim ? a->turned + (d + 1) * HT_B_STEP : NULL, n, to);
}

void ht_ab_summed(const struct ht_ab *a, const struct ht_ab_view *x, uint32_t block, uint16_t *to)
{
    uint32_t rows = ht_ab_rows_of(a, block);
    for (uint32_t d = 0; d < x->dim; d += HT_B_LANES) {
        uint16_t *panel = to + ((size_t)(d / HT_B_LANES) * a->blocks + block) * HT_B_PANEL;
        uint32_t n = x->dim - d < HT_B_LANES ? x->dim - d : HT_B_LANES;
        for (uint32_t r = 0; r < HT_B_STEP; r += 2, panel += 2 * HT_B_LANES)
            a->kernels->pair(r < rows ? row_at(a, x, block, r) + d : NULL,
                             r + 1 < rows ? row_at(a, x, block, r + 1) + d : NULL, n, panel);
    }
}

uint32_t ht_ab_first_key(const struct ht_ab *a, uint32_t query)
{
    uint32_t r = query * HT_B_STEP, window = a->p->window;
    return window && r >= window ? (r - window + 1) / HT_B_STEP : 0;
}

uint32_t ht_ab_end_query(const struct ht_ab *a, uint32_t key)
{
    uint32_t window = a->p->window;
    uint64_t last = (uint64_t)key * HT_B_STEP + HT_B_STEP - 1 + window - 1;
    return window && last / HT_B_STEP < a->blocks ? (uint32_t)(last / HT_B_STEP) + 1 : a->blocks;
}

struct ht_bf16_pairs ht_ab_pairs(const struct ht_ab *a, uint32_t query, uint32_t key)
{
    return (struct ht_bf16_pairs){
        .score = {a->p->scale, a->p->softcap, ht_attend_slope(a->p, a->head)},
        .first = (int32_t)(query * HT_B_STEP) - (int32_t)(key * HT_B_STEP),
        .window = a->p->window ? a->p->window : 1u << 31,
        .n = ht_ab_rows_of(a, query),
    };
}

// ---- forward

struct forward { // a thread's scratch
    uint16_t *keys, *values, *query, *p;
    float *scores, *out; // (keys, 32), (v_dim, 32)
};

static size_t carve(struct ht_ab *a, uint32_t rows, unsigned char *base, struct forward *f)
{
    struct ht_ab_carver c = {.base = base};
    uint32_t blocks = ht_ab_up(rows), k_dim = a->p->k_dim, v_dim = a->p->v_dim;
    f->keys = ht_ab_take(&c, ht_ab_x_bytes(blocks, k_dim));
    f->values = ht_ab_take(&c, ht_ab_turned_bytes(blocks, v_dim));
    f->query = ht_ab_take(&c, ht_ab_x_bytes(1, k_dim));
    f->p = ht_ab_take(&c, (size_t)blocks * HT_B_PANEL * sizeof(uint16_t));
    f->scores = ht_ab_take(&c, (size_t)blocks * HT_B_STEP * HT_B_LANES * sizeof(float));
    f->out = ht_ab_take(&c, (size_t)ht_ab_up(v_dim) * HT_B_STEP * HT_B_LANES * sizeof(float));
    a->turned = ht_ab_take(&c, (size_t)(k_dim > v_dim ? k_dim : v_dim) * HT_B_STEP * sizeof(float));
    return c.used;
}

size_t ht_attend_bf16_thread_bytes(const struct ht_plan *plan, const struct ht_attend *p)
{
    struct forward f;
    return carve(&(struct ht_ab){.p = p}, plan->head.shape.rows, NULL, &f);
}

static void attend(const struct ht_ab *a, const struct forward *f, uint32_t query)
{
    const struct ht_attend *p = a->p;
    const uint32_t steps = ht_ab_up(p->k_dim), first = ht_ab_first_key(a, query), n = ht_ab_rows_of(a, query),
                   row = a->from + query * HT_B_STEP;
    const struct ht_ab_view q = {&p->q, p->q_stride, a->head, p->k_dim};
    const struct ht_bf16_pairs pairs = ht_ab_pairs(a, query, first);
    float top[HT_B_LANES], sum[HT_B_LANES];
    ht_ab_lanes(a, &q, query, f->query);
    for (uint32_t key = first; key <= query; key++)
        a->kernels->sum(&(struct ht_bf16_block){.panel = f->query,
                                                .x = f->keys + (size_t)key * 2 * steps * HT_B_TILE,
                                                .x_next = (size_t)steps * HT_B_TILE,
                                                .steps = steps,
                                                .rows = 2 * HT_B_ROWS,
                                                .acc = f->scores + (key - first) * HT_B_STEP * HT_B_LANES,
                                                .acc_stride = HT_B_LANES,
                                                .begin = true});
    a->kernels->softmax(&pairs, query + 1 - first, f->scores, f->p, top, sum);
    for (uint32_t d = 0; d < p->v_dim; d += 2 * HT_B_ROWS)
        a->kernels->sum(&(struct ht_bf16_block){
            .panel = f->p,
            .x = f->values + ((size_t)(d / HT_B_ROWS) * a->blocks + first) * HT_B_TILE,
            .x_next = (size_t)a->blocks * HT_B_TILE,
            .steps = query + 1 - first,
            .rows = 2 * HT_B_ROWS,
            .acc = f->out + d * HT_B_LANES,
            .acc_stride = HT_B_LANES,
            .begin = true});
    for (uint32_t i = 0; i < n; i++) {
        ht_ref_floats(&p->lse)[(size_t)(row + i) * p->lse_stride + a->head] = top[i] + (float)ht_log((double)sum[i]);
        sum[i] = 1.0f / sum[i];
    }
    for (uint32_t d = 0; d < p->v_dim; d++)
        for (uint32_t i = 0; i < n; i++)
            f->out[d * HT_B_LANES + i] *= sum[i];
    a->lanes->transpose(f->out, HT_B_LANES, p->v_dim, n, ht_head_at(&p->y, row, p->y_stride, a->head, p->v_dim),
                        p->y_stride);
}

static void attend_head(const struct ht_ab *a, const struct forward *f)
{
    const struct ht_attend *p = a->p;
    const struct ht_ab_view k = {&p->k, p->k_stride, a->kv, p->k_dim}, v = {&p->v, p->v_stride, a->kv, p->v_dim};
    for (uint32_t b = 0; b < a->blocks; b++) {
        ht_ab_rows(a, &k, b, f->keys + (size_t)b * 2 * ht_ab_up(p->k_dim) * HT_B_TILE);
        ht_ab_turned_rows(a, &v, b, f->values);
    }
    for (uint32_t b = 0; b < a->blocks; b++)
        attend(a, f, b);
}

void ht_bf16_run_attend(const struct ht_attend *p, const struct ht_run *run, unsigned thread)
{
    struct ht_ab a = ht_ab_make(p, run);
    struct forward f;
    uint32_t turn = 0, end;
    carve(&a, run->plan->head.shape.rows, ht_run_scratch(run, thread), &f);
    a.kernels->begin();
    for (uint32_t r = 0; r < run->n_rows; r = end) {
        end = ht_attend_block(run, r, run->n_rows);
        for (uint32_t h = 0; h < p->heads; h++)
            if (turn++ % run->n_threads == thread) {
                ht_ab_head(&a, h, r, end);
                attend_head(&a, &f);
            }
    }
    a.kernels->end();
}
