// SPDX-License-Identifier: Apache-2.0
// Training products with frozen weights in contract F: a strip of W as f32, as wide as a register tile and small enough
// for L1, multiplied with all rows, then the next; no matrix is ever dequantised as a whole. Contract B: train_bf16.c.
// Team threads, inside a submit.
#include "engine/cpu/train.h"

#include <string.h>

#include "engine/cpu/train_kernels.h"

enum {
    AT_ONCE = 256, // values of each row of W that are unpacked together: whole blocks of every format
    T_ROWS = 128,  // linear_t: rows of W in a panel of AT_ONCE columns, which is strips one behind the other
    // A group's values as f32; a row of them as blocks and as f32.
    GROUP_FLOATS = AT_ONCE * HT_GROUP,
    UNPACK_FLOATS = GROUP_FLOATS + 2 * AT_ONCE,
};

static uint32_t most_rows(const struct ht_plan *plan, enum ht_rows rows)
{
    return rows == HT_ROWS_OUT ? plan->head.shape.outs : plan->head.shape.rows;
}

size_t ht_linear_thread_bytes(const struct ht_plan *plan, const struct ht_linear *p)
{
    return (UNPACK_FLOATS + (AT_ONCE + (size_t)most_rows(plan, p->m.rows)) * HT_PANEL) * sizeof(float);
}

size_t ht_linear_t_thread_bytes(void)
{
    return (UNPACK_FLOATS + T_ROWS * AT_ONCE) * sizeof(float);
}

// n values of 16 rows from `tiles` on as f32 (n, 16): in `to`, which is UNPACK_FLOATS, or where they lie.
static const float *group_f32(const struct ht_kernels *kernels, const struct ht_weight *w, const unsigned char *tiles,
                              uint32_t n, float *to)
{
    enum ht_type type = w->head.params.type;
    float *row = to + GROUP_FLOATS, *blocks = row + AT_ONCE;
    if (type == HT_TYPE_F32)
        return (const float *)(const void *)tiles;
    if (type == HT_TYPE_F16) {
        kernels->widen_f16((const uint16_t *)(const void *)tiles, (size_t)n * HT_GROUP, to);
    } else if (type == HT_TYPE_BF16) {
        kernels->widen_bf16((const uint16_t *)(const void *)tiles, (size_t)n * HT_GROUP, to);
    } else if (kernels->dequant[type]) {
        kernels->dequant[type](tiles, n, to);
    } else {
        for (unsigned r = 0; r < HT_GROUP; r++) {
            ht_layout_unpack_row(w->layout, tiles, n, r, blocks);
            ht_dequant_row(type, blocks, n, row);
            for (uint32_t i = 0; i < n; i++)
                to[(size_t)i * HT_GROUP + r] = row[i];
        }
    }
    return to;
}

static const unsigned char *tiles_at(const struct ht_weight *w, uint32_t row, uint32_t column)
{
    return ht_weight_group(w, row / HT_GROUP) +
           (size_t)(column / w->layout->block_values) * ht_layout_tile_bytes(w->layout);
}

// ---- linear

struct lanes { // outputs [from, from + n) of a part, at most HT_PANEL
    const struct ht_matmul_part *part;
    uint32_t row, from, n; // row of W
};

// Values [k, k + n) of `width` rows of W from `row` on as f32 (n, width): in `own`, or where they lie.
static const float *strip_f32(const struct ht_run *run, const struct ht_weight *w, uint32_t row, uint32_t width,
                              uint32_t k, uint32_t n, float *own)
{
    float *strip = own + UNPACK_FLOATS;
    if (width == HT_GROUP)
        return group_f32(&run->device->kernels, w, tiles_at(w, row, k), n, own);
    for (uint32_t lane = 0; lane < width && row + lane < w->head.params.n; lane += HT_GROUP) {
        const float *group = group_f32(&run->device->kernels, w, tiles_at(w, row + lane, k), n, own);
        for (uint32_t i = 0; i < n; i++)
            memcpy(strip + i * width + lane, group + i * HT_GROUP, HT_GROUP * sizeof *group);
    }
    return strip;
}

static void linear_lanes(const struct ht_run *run, const struct ht_matmul *p, const struct lanes *lanes, float *own)
{
    const struct ht_train_kernels *kernels = ht_train_kernels(run->device->isa);
    const struct ht_matmul_part *part = lanes->part;
    uint32_t rows = ht_run_rows(run, p->rows), width = kernels->columns;
    float *acc = own + UNPACK_FLOATS + HT_PANEL * AT_ONCE, *y = ht_ref_floats(&part->y) + lanes->from;
    const float *bias = part->bias.buf ? ht_ref_floats(&part->bias) + lanes->row : NULL;
    bool in_place = !bias && !part->add;
    struct ht_tile tile = {.m = rows, .a_row = p->x_stride, .a_step = 1, .b_step = width};
    tile.c_row = in_place ? part->y_stride : HT_PANEL;
    for (uint32_t k = 0; k < p->k; k += AT_ONCE) {
        tile.count = p->k - k < AT_ONCE ? p->k - k : AT_ONCE;
        tile.a = ht_ref_floats(&p->x) + k;
        tile.end = k ? HT_TILE_CHAIN : HT_TILE_SET;
        for (uint32_t lane = 0; lane < lanes->n; lane += width) {
            tile.n = lanes->n - lane < width ? lanes->n - lane : width;
            tile.b = strip_f32(run, part->w, lanes->row + lane, width, k, tile.count, own);
            tile.c = (in_place ? y : acc) + lane;
            kernels->tile(&tile);
        }
    }
    for (uint32_t r = 0; r < rows && !in_place; r++)
        run->device->kernels.put(acc + (size_t)r * HT_PANEL, bias, part->add, lanes->n, y + (size_t)r * part->y_stride);
}

void ht_run_linear(const struct ht_call *call, const struct ht_run *run, unsigned thread)
{
    const struct ht_linear *p = &call->p.linear;
    if (p->precision != HT_TRAIN_F) {
        ht_bf16_run_linear(p, run, thread);
        return;
    }
    for (uint32_t i = 0; i < p->m.n_parts; i++) {
        const struct ht_matmul_part *part = &p->m.part[i];
        uint32_t n = p->count ? p->count : part->w->head.params.n;
        struct ht_range share = ht_share_columns(n, thread, run->n_threads);
        for (uint32_t from = share.from; from < share.to; from += HT_PANEL) {
            struct lanes lanes = {part, p->first + from, from, share.to - from};
            lanes.n = lanes.n < HT_PANEL ? lanes.n : HT_PANEL;
            linear_lanes(run, &p->m, &lanes, ht_run_scratch(run, thread));
        }
    }
}

// ---- linear_t

// Columns [from, from + n) of rows of W from `row` on, as many as `count`, as f32: behind `own` strips
// (T_ROWS, kernels->columns). `from` begins a block, `row` a group.
static void unpack_columns(const struct ht_run *run, const struct ht_weight *w, uint32_t row, uint32_t count,
                           uint32_t from, uint32_t n, float *own)
{
    const struct ht_train_kernels *kernels = ht_train_kernels(run->device->isa);
    for (uint32_t r = 0; r < count; r += HT_GROUP) {
        const float *group = group_f32(&run->device->kernels, w, tiles_at(w, row + r, from), n, own);
        uint32_t rows = count - r < HT_GROUP ? count - r : HT_GROUP, width = kernels->columns;
        for (uint32_t c = 0; c < n; c += width)
            kernels->transpose(group + (size_t)c * HT_GROUP, HT_GROUP, n - c < width ? n - c : width, rows,
                               own + UNPACK_FLOATS + (size_t)c * T_ROWS + r * width, width);
    }
}

static void linear_t_columns(const struct ht_run *run, const struct ht_linear_t *p, uint32_t from, uint32_t n,
                             float *own)
{
    const struct ht_matmul *m = &p->m;
    const struct ht_train_kernels *kernels = ht_train_kernels(run->device->isa);
    uint32_t width = kernels->columns;
    struct ht_tile tile = {.m = ht_run_rows(run, m->rows), .a_step = 1, .b_step = width, .c_row = m->x_stride};
    tile.end = p->add ? HT_TILE_CHAIN : HT_TILE_SET;
    for (uint32_t i = 0; i < m->n_parts; i++) {
        const struct ht_matmul_part *part = &m->part[i];
        uint32_t rows = p->count ? p->count : part->w->head.params.n; // of W from p->first on
        for (uint32_t j = 0; j < rows; j += T_ROWS, tile.end = HT_TILE_CHAIN) {
            tile.count = rows - j < T_ROWS ? rows - j : T_ROWS;
            tile.a = ht_ref_floats(&part->y) + j;
            tile.a_row = part->y_stride;
            unpack_columns(run, part->w, p->first + j, tile.count, from, n, own);
            for (uint32_t c = 0; c < n; c += width) {
                tile.n = n - c < width ? n - c : width;
                tile.b = own + UNPACK_FLOATS + (size_t)c * T_ROWS;
                tile.c = ht_ref_floats(&m->x) + from + c;
                kernels->tile(&tile);
            }
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
    for (uint32_t from = units.from * unit; from < to; from += AT_ONCE)
        linear_t_columns(run, p, from, to - from < AT_ONCE ? to - from : AT_ONCE, ht_run_scratch(run, thread));
}
