// SPDX-License-Identifier: Apache-2.0
// Training products in contract F. linear: a group of 16 rows of W as f32 (k, 16) for all rows of x, as in the float
// path of run_matmul.c. linear_t: a thread owns columns of dx and unpacks 16 rows of W for at most T_COLUMNS of them
// at a time, so that no matrix is ever dequantised as a whole. Team threads, inside a submit.
#include <string.h>

#include "engine/cpu/train.h"

enum { T_COLUMNS = 256, MAX_COLS = 8 };

// ---- linear

size_t ht_linear_thread_bytes(const struct ht_linear *p)
{
    size_t k = p->m.k;
    return k * HT_GROUP * sizeof(float) + 2 * ht_round64(k * sizeof(float));
}

// One group of W as f32 (k, 16): in `panel`, or where it lies.
static const float *group_f32(const struct ht_kernels *kernels, const struct ht_weight *w, uint32_t g, float *panel,
                              unsigned char *blocks)
{
    const unsigned char *tiles = ht_weight_group(w, g);
    enum ht_type type = w->head.params.type;
    uint32_t k = w->head.params.k;
    float *row = (float *)(void *)(blocks + ht_round64((size_t)k * sizeof(float)));
    if (type == HT_TYPE_F32)
        return (const float *)(const void *)tiles;
    if (type == HT_TYPE_F16) {
        kernels->widen_f16((const uint16_t *)(const void *)tiles, (size_t)k * HT_GROUP, panel);
    } else if (type == HT_TYPE_BF16) {
        kernels->widen_bf16((const uint16_t *)(const void *)tiles, (size_t)k * HT_GROUP, panel);
    } else if (kernels->dequant[type]) {
        kernels->dequant[type](tiles, k, panel);
    } else {
        for (unsigned r = 0; r < HT_GROUP; r++) {
            ht_layout_unpack_row(w->layout, tiles, k, r, blocks);
            ht_dequant_row(type, blocks, k, row);
            for (uint32_t i = 0; i < k; i++)
                panel[(size_t)i * HT_GROUP + r] = row[i];
        }
    }
    return panel;
}

// Rows [from, to) of W; `from` begins a group.
static void linear_part(const struct ht_run *run, const struct ht_matmul *p, const struct ht_matmul_part *part,
                        uint32_t from, uint32_t to, unsigned thread)
{
    const struct ht_kernels *kernels = &run->device->kernels;
    uint32_t n = to - from, rows = ht_run_rows(run, p->rows);
    struct ht_range groups = ht_share((n + HT_GROUP - 1) / HT_GROUP, thread, run->n_threads);
    float *panel = ht_run_scratch(run, thread), out[MAX_COLS * HT_GROUP];
    unsigned char *blocks = (unsigned char *)(panel + (size_t)p->k * HT_GROUP);
    for (uint32_t g = groups.from; g < groups.to; g++) {
        const float *w = group_f32(kernels, part->w, from / HT_GROUP + g, panel, blocks);
        uint32_t first = g * HT_GROUP, width = n - first < HT_GROUP ? n - first : HT_GROUP;
        const float *bias = part->bias.buf ? ht_ref_floats(&part->bias) + from + first : NULL;
        for (uint32_t r = 0; r < rows; r += MAX_COLS) {
            const float *x[MAX_COLS];
            unsigned cols = rows - r < MAX_COLS ? rows - r : MAX_COLS;
            for (unsigned c = 0; c < cols; c++)
                x[c] = ht_ref_floats(&p->x) + (size_t)(r + c) * p->x_stride;
            kernels->dot_f(w, p->k, x, cols, out);
            for (unsigned c = 0; c < cols; c++)
                kernels->put(out + c * HT_GROUP, bias, part->add, width,
                             ht_ref_floats(&part->y) + (size_t)(r + c) * part->y_stride + first);
        }
    }
}

void ht_run_linear(const struct ht_call *call, const struct ht_run *run, unsigned thread)
{
    const struct ht_linear *p = &call->p.linear;
    if (p->precision != HT_TRAIN_F) {
        ht_bf16_run_linear(p, run, thread);
        return;
    }
    for (uint32_t i = 0; i < p->m.n_parts; i++)
        linear_part(run, &p->m, &p->m.part[i], p->first,
                    p->count ? p->first + p->count : p->m.part[i].w->head.params.n, thread);
}

// ---- linear_t

size_t ht_linear_t_thread_bytes(const struct ht_linear_t *p)
{
    (void)p;
    return (HT_GROUP * T_COLUMNS + T_COLUMNS + 64) * sizeof(float); // 16 rows as f32; a row's blocks
}

// Columns [from, from + n) of 16 rows of W as f32 (16, T_COLUMNS); `from` begins a block.
static void unpack_columns(const struct ht_weight *w, uint32_t g, uint32_t from, uint32_t n, unsigned rows, float *out,
                           void *blocks)
{
    const unsigned char *tiles = ht_weight_group(w, g) +
                                 (size_t)(from / w->layout->block_values) * ht_layout_tile_bytes(w->layout);
    for (unsigned r = 0; r < rows; r++) {
        ht_layout_unpack_row(w->layout, tiles, n, r, blocks);
        ht_dequant_row(w->head.params.type, blocks, n, out + (size_t)r * T_COLUMNS);
    }
}

static void linear_t_columns(const struct ht_run *run, const struct ht_linear_t *p, uint32_t from, uint32_t n,
                             float *scratch)
{
    const struct ht_matmul *m = &p->m;
    uint32_t rows = ht_run_rows(run, m->rows);
    float *dx = ht_ref_floats(&m->x) + from;
    for (uint32_t r = 0; r < rows && !p->add; r++)
        memset(dx + (size_t)r * m->x_stride, 0, n * sizeof *dx);
    for (uint32_t i = 0; i < m->n_parts; i++) {
        const struct ht_matmul_part *part = &m->part[i];
        uint32_t n_out = p->count ? p->count : part->w->head.params.n; // of W from p->first on
        for (uint32_t j = 0; j < n_out; j += HT_GROUP) {
            unsigned group = n_out - j < HT_GROUP ? n_out - j : HT_GROUP;
            unpack_columns(part->w, (p->first + j) / HT_GROUP, from, n, group, scratch,
                           scratch + HT_GROUP * T_COLUMNS);
            for (uint32_t r = 0; r < rows; r++)
                ht_chain(dx + (size_t)r * m->x_stride, n,
                         ht_ref_floats(&part->y) + (size_t)r * part->y_stride + j, 1, scratch, T_COLUMNS, group);
        }
    }
}

void ht_run_linear_t(const struct ht_call *call, const struct ht_run *run, unsigned thread)
{
    const struct ht_linear_t *p = &call->p.linear_t;
    if (p->precision != HT_TRAIN_F) {
        ht_bf16_run_linear_t(p, run, thread);
        return;
    }
    uint32_t unit = HT_GROUP; // whole blocks of every part
    for (uint32_t i = 0; i < p->m.n_parts; i++)
        if (p->m.part[i].w->layout->block_values > unit)
            unit = p->m.part[i].w->layout->block_values;
    struct ht_range units = ht_share((p->m.k + unit - 1) / unit, thread, run->n_threads);
    uint32_t to = units.to * unit < p->m.k ? units.to * unit : p->m.k;
    for (uint32_t from = units.from * unit; from < to; from += T_COLUMNS)
        linear_t_columns(run, p, from, to - from < T_COLUMNS ? to - from : T_COLUMNS, ht_run_scratch(run, thread));
}
