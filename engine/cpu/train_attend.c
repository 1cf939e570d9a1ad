// SPDX-License-Identifier: Apache-2.0
// Attention of training, forward. The keys are transposed once; an item is a head and a few rows of one segment, whose
// scores stay in the cache. Nothing grows with the square of the rows. Items are dealt out in turn, since later rows
// see more. Team threads, inside a submit.
#include "engine/cpu/train_attend.h"

#include "engine/cpu/train_row_kernels.h"

enum { ROWS = 24, KEYS_AT_ONCE = 128 };

// ---- what the rows see

uint32_t ht_attend_first(const struct ht_attend *p, const struct ht_run *run, uint32_t r)
{
    uint32_t from = run->train->seg_from[r];
    return p->window && r - from >= p->window ? r - p->window + 1 : from;
}

uint32_t ht_attend_block(const struct ht_run *run, uint32_t r, uint32_t most)
{
    uint32_t end = r + 1;
    while (end < run->n_rows && end - r < most && run->train->seg_from[end] == run->train->seg_from[r])
        end++;
    return end;
}

const struct ht_span *ht_attend_spans(const struct ht_attend *p, const struct ht_run *run, uint32_t r, uint32_t n,
                                      uint32_t from, uint32_t to, struct ht_span *spans)
{
    if (ht_attend_first(p, run, r + n - 1) <= from && to <= r + 1)
        return NULL;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t lo = ht_attend_first(p, run, r + i), hi = r + i + 1;
        lo = lo < from ? from : lo > to ? to : lo;
        hi = hi < lo ? lo : hi > to ? to : hi;
        spans[i] = (struct ht_span){lo - from, hi - from};
    }
    return spans;
}

float ht_attend_slope(const struct ht_attend *p, uint32_t head)
{
    return ht_alibi_slope(p->heads, p->alibi_max_bias, head);
}

// ---- the keys, transposed

size_t ht_keys_floats(uint32_t rows, uint32_t dim)
{
    return (size_t)(rows + HT_KEYS - 1) / HT_KEYS * HT_KEYS * dim;
}

const float *ht_keys_at(const float *keys, uint32_t dim, uint32_t j)
{
    return keys + (size_t)(j / HT_KEYS) * HT_KEYS * dim + j % HT_KEYS;
}

void ht_keys_fill(const struct ht_run *run, unsigned thread, const struct ht_ref *x, uint32_t stride, uint32_t heads,
                  uint32_t dim, float *keys)
{
    const struct ht_train_kernels *kernels = ht_train_kernels(run->device->isa);
    uint32_t blocks = (run->n_rows + HT_KEYS - 1) / HT_KEYS;
    struct ht_range items = ht_share(blocks * heads, thread, run->n_threads);
    for (uint32_t i = items.from; i < items.to; i++) {
        uint32_t head = i / blocks, j = i % blocks * HT_KEYS, n = run->n_rows - j < HT_KEYS ? run->n_rows - j : HT_KEYS;
        kernels->transpose(ht_head_at(x, j, stride, head, dim), stride, n, dim,
                           keys + head * ht_keys_floats(run->plan->head.shape.rows, dim) + (size_t)j * dim, HT_KEYS);
    }
}

// ---- forward

static uint32_t score_row(const struct ht_plan *plan) // an odd number of cache lines from row to row
{
    return (plan->head.shape.rows + 31) / 32 * 32 + 16;
}

size_t ht_attend_thread_bytes(const struct ht_plan *plan)
{
    return (size_t)ROWS * score_row(plan) * sizeof(float);
}

size_t ht_attend_shared_bytes(const struct ht_plan *plan, const struct ht_attend *p)
{
    return p->kv_heads * ht_keys_floats(plan->head.shape.rows, p->k_dim) * sizeof(float);
}

// Rows [r, r + n) of a segment and head h.
static void attend(const struct ht_attend *p, const struct ht_run *run, uint32_t r, uint32_t n, uint32_t h, float *s)
{
    const struct ht_train_kernels *kernels = ht_train_kernels(run->device->isa);
    const struct ht_row_kernels *rows = ht_train_rows(run->device->isa);
    const struct ht_score score = {p->scale, p->softcap, ht_attend_slope(p, h)};
    uint32_t kv = h / (p->heads / p->kv_heads), from = run->train->seg_from[r], lo = ht_attend_first(p, run, r);
    uint32_t end = r + n, width = score_row(run->plan), next;
    const float *keys = (const float *)(const void *)run->plan->shared +
                        kv * ht_keys_floats(run->plan->head.shape.rows, p->k_dim);
    float *y = ht_head_at(&p->y, r, p->y_stride, h, p->v_dim), top[ROWS], sum[ROWS];
    struct ht_span spans[ROWS];
    for (uint32_t j = lo; j < end; j = next) { // columns of s: keys from the segment's first on
        next = (j / HT_KEYS + 1) * HT_KEYS < end ? (j / HT_KEYS + 1) * HT_KEYS : end;
        kernels->tile(&(struct ht_tile){.m = n,
                                        .n = next - j,
                                        .count = p->k_dim,
                                        .a = ht_head_at(&p->q, r, p->q_stride, h, p->k_dim),
                                        .a_row = p->q_stride,
                                        .a_step = 1,
                                        .b = ht_keys_at(keys, p->k_dim, j),
                                        .b_step = HT_KEYS,
                                        .c = s + (j - from),
                                        .c_row = width});
    }
    for (uint32_t i = 0; i < n; i++)
        sum[i] = kernels->softmax(s + (size_t)i * width, ht_attend_first(p, run, r + i) - from, r + i + 1 - from,
                                  &score, &top[i]);
    for (uint32_t j = lo; j < end; j = next) {
        next = end - j < KEYS_AT_ONCE ? end : j + KEYS_AT_ONCE;
        kernels->tile(&(struct ht_tile){.m = n,
                                        .n = p->v_dim,
                                        .count = next - j,
                                        .a = s + (j - from),
                                        .a_row = width,
                                        .a_step = 1,
                                        .b = ht_head_at(&p->v, j, p->v_stride, kv, p->v_dim),
                                        .b_step = p->v_stride,
                                        .c = y,
                                        .c_row = p->y_stride,
                                        .end = j == lo ? HT_TILE_SET : HT_TILE_CHAIN,
                                        .seen = ht_attend_spans(p, run, r, n, j, next, spans)});
    }
    for (uint32_t i = 0; i < n; i++)
        rows->scale(y + (size_t)i * p->y_stride, p->v_dim, 1.0f / sum[i]);
    for (uint32_t i = 0; i < n; i++)
        ht_ref_floats(&p->lse)[(size_t)(r + i) * p->lse_stride + h] = top[i] + (float)ht_log((double)sum[i]);
}

void ht_run_attend(const struct ht_call *call, const struct ht_run *run, unsigned thread)
{
    const struct ht_attend *p = &call->p.attend;
    uint32_t turn = 0, end;
    if (p->precision != HT_TRAIN_F) {
        ht_bf16_run_attend(p, run, thread);
        return;
    }
    ht_keys_fill(run, thread, &p->k, p->k_stride, p->kv_heads, p->k_dim, (float *)(void *)run->plan->shared);
    ht_pool_barrier(run->device->pool, thread);
    for (uint32_t h = 0; h < p->heads; h++, turn++)
        for (uint32_t r = 0; r < run->n_rows; r = end, turn++) {
            end = ht_attend_block(run, r, ROWS);
            if (turn % run->n_threads == thread)
                attend(p, run, r, end - r, h, ht_run_scratch(run, thread));
        }
}
