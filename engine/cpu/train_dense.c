// SPDX-License-Identifier: Apache-2.0
// Training products over plain f32 (the LoRA matrices). NT turns b around first, as much of it as stays in the cache;
// NT and NN share out the rows. TN shares out the longer side of y, and its vectors lie along that side: the other is
// often a rank of 8. Team threads, inside a submit.
#include <string.h>

#include "engine/cpu/train.h"

enum { PANEL_FLOATS = 1 << 16, ROWS_AT_ONCE = 24, SIDE = 64, COLUMNS = 192, CHAIN_AT_ONCE = 128 };

// Columns of y that NT makes at a time.
static uint32_t panel_columns(const struct ht_dense *p)
{
    uint32_t n = (p->n + 15) / 16 * 16;
    if ((size_t)p->k * n <= PANEL_FLOATS)
        return n;
    uint32_t fit = PANEL_FLOATS / p->k / 16 * 16;
    return fit > 16 ? fit : 16;
}

size_t ht_dense_thread_bytes(const struct ht_dense *p)
{
    if (p->kind == HT_DENSE_NN)
        return 0;
    return p->kind == HT_DENSE_NT ? (size_t)p->k * panel_columns(p) * sizeof(float)
                                  : 2 * SIDE * COLUMNS * sizeof(float);
}

// y[rows][from …] = a b, b (k, n)
static void dense_rows(const struct ht_dense *p, const struct ht_run *run, struct ht_range rows, uint32_t from,
                       uint32_t n, const float *b, size_t b_step)
{
    const struct ht_train_kernels *kernels = ht_train_kernels(run->device->isa);
    for (uint32_t r = rows.from; r < rows.to; r += ROWS_AT_ONCE)
        kernels->tile(&(struct ht_tile){.m = rows.to - r < ROWS_AT_ONCE ? rows.to - r : ROWS_AT_ONCE,
                                        .n = n,
                                        .count = p->k,
                                        .a = ht_ref_floats(&p->a) + (size_t)r * p->a_stride,
                                        .a_row = p->a_stride,
                                        .a_step = 1,
                                        .b = b,
                                        .b_step = b_step,
                                        .c = ht_ref_floats(&p->y) + (size_t)r * p->y_stride + from,
                                        .c_row = p->y_stride,
                                        .end = p->add ? HT_TILE_SCALED_ADD : HT_TILE_SCALED,
                                        .scale = p->scale});
}

static void dense_nt(const struct ht_dense *p, const struct ht_run *run, unsigned thread)
{
    const struct ht_train_kernels *kernels = ht_train_kernels(run->device->isa);
    struct ht_range rows = ht_share(ht_run_rows(run, p->rows), thread, run->n_threads);
    uint32_t width = panel_columns(p);
    float *panel = ht_run_scratch(run, thread);
    for (uint32_t from = 0; from < p->n && rows.from < rows.to; from += width) {
        uint32_t n = p->n - from < width ? p->n - from : width;
        kernels->transpose(ht_ref_floats(&p->b) + (size_t)from * p->b_stride, p->b_stride, n, p->k, panel, width);
        dense_rows(p, run, rows, from, n, panel, width);
    }
}

// What y holds, where a chain goes on, as t (m, COLUMNS).
static void begin_tn(const struct ht_train_kernels *kernels, const struct ht_dense *p, bool turned, uint32_t m,
                     uint32_t n, const float *y, float *t)
{
    if (turned)
        kernels->transpose(y, p->y_stride, n, m, t, COLUMNS);
    for (uint32_t r = 0; !turned && r < m; r++)
        memcpy(t + (size_t)r * COLUMNS, y + (size_t)r * p->y_stride, n * sizeof *t);
}

// Rows [i, i + m) of the short side and columns [j, j + n) of the long one, through t (m, COLUMNS).
static void dense_tn(const struct ht_dense *p, const struct ht_run *run, bool turned, uint32_t i, uint32_t m,
                     uint32_t j, uint32_t n, float *t)
{
    const struct ht_train_kernels *kernels = ht_train_kernels(run->device->isa);
    const float *a = ht_ref_floats(turned ? &p->b : &p->a), *b = ht_ref_floats(turned ? &p->a : &p->b);
    size_t a_stride = turned ? p->b_stride : p->a_stride, b_stride = turned ? p->a_stride : p->b_stride;
    uint32_t n_rows = ht_run_rows(run, p->rows);
    float *y = ht_ref_floats(&p->y) + (turned ? (size_t)j * p->y_stride + i : (size_t)i * p->y_stride + j);
    if (p->chain)
        begin_tn(kernels, p, turned, m, n, y, t);
    for (uint32_t r = 0; r < n_rows; r += CHAIN_AT_ONCE)
        kernels->tile(&(struct ht_tile){.m = m,
                                        .n = n,
                                        .count = n_rows - r < CHAIN_AT_ONCE ? n_rows - r : CHAIN_AT_ONCE,
                                        .a = a + r * a_stride + i,
                                        .a_row = 1,
                                        .a_step = a_stride,
                                        .b = b + r * b_stride + j,
                                        .b_step = b_stride,
                                        .c = t,
                                        .c_row = COLUMNS,
                                        .end = r || p->chain ? HT_TILE_CHAIN : HT_TILE_SET});
    uint32_t rows = turned ? n : m, columns = turned ? m : n, width = turned ? SIDE : COLUMNS;
    if (turned) {
        kernels->transpose(t, COLUMNS, m, n, t + SIDE * COLUMNS, SIDE);
        t += SIDE * COLUMNS;
    }
    for (uint32_t r = 0; r < rows; r++)
        kernels->put_scaled(t + (size_t)r * width, columns, p->scale, p->add, y + (size_t)r * p->y_stride);
}

void ht_run_dense(const struct ht_call *call, const struct ht_run *run, unsigned thread)
{
    const struct ht_dense *p = &call->p.dense;
    if (p->kind == HT_DENSE_NT) {
        dense_nt(p, run, thread);
    } else if (p->kind == HT_DENSE_NN) {
        dense_rows(p, run, ht_share(ht_run_rows(run, p->rows), thread, run->n_threads), 0, p->n, ht_ref_floats(&p->b),
                   p->b_stride);
    } else {
        bool turned = p->n < p->k;
        uint32_t side = turned ? p->n : p->k;
        struct ht_range columns = ht_share_columns(turned ? p->k : p->n, thread, run->n_threads);
        for (uint32_t j = columns.from; j < columns.to; j += COLUMNS)
            for (uint32_t i = 0; i < side; i += SIDE)
                dense_tn(p, run, turned, i, side - i < SIDE ? side - i : SIDE, j,
                         columns.to - j < COLUMNS ? columns.to - j : COLUMNS, ht_run_scratch(run, thread));
    }
}
