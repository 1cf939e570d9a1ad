// SPDX-License-Identifier: Apache-2.0
// Training products with frozen weights in contract F: a panel of W as f32, small enough for L2, multiplied with all
// rows, then the next; no matrix is ever dequantised as a whole. Contract B: train_bf16.c. Team threads, inside a
// submit.
#include "engine/cpu/train.h"

#include <string.h>

#include "engine/cpu/train_kernels.h"

enum {
    LANES = 64,      // linear: rows of W in a panel
    AT_ONCE = 256,   // and values of each: whole blocks of every format
    T_COLUMNS = 256, // linear_t: columns of W in a panel
    T_ROWS = 64,     // and rows
    // A group's values of one panel as f32; a row of them as blocks and as f32.
    GROUP_FLOATS = AT_ONCE * HT_GROUP,
    OWN_FLOATS = LANES * AT_ONCE + GROUP_FLOATS + 2 * AT_ONCE,
};
_Static_assert(LANES * AT_ONCE == T_COLUMNS * T_ROWS && AT_ONCE == T_COLUMNS, "one scratch for both");

static uint32_t most_rows(const struct ht_plan *plan, enum ht_rows rows)
{
    return rows == HT_ROWS_OUT ? plan->head.shape.outs : plan->head.shape.rows;
}

size_t ht_linear_thread_bytes(const struct ht_plan *plan, const struct ht_linear *p)
{
    return (OWN_FLOATS + (size_t)most_rows(plan, p->m.rows) * LANES) * sizeof(float);
}

size_t ht_linear_t_thread_bytes(void)
{
    return OWN_FLOATS * sizeof(float);
}

// n values of 16 rows from `tiles` on as f32 (n, 16): in `to`, or where they lie.
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

struct lanes { // outputs [from, from + n) of a part
    const struct ht_matmul_part *part;
    uint32_t row, from, n; // row of W
};

static void linear_lanes(const struct ht_run *run, const struct ht_matmul *p, const struct lanes *lanes, float *panel)
{
    const struct ht_matmul_part *part = lanes->part;
    uint32_t rows = ht_run_rows(run, p->rows);
    float *group = panel + LANES * AT_ONCE, *acc = panel + OWN_FLOATS, *y = ht_ref_floats(&part->y) + lanes->from;
    const float *bias = part->bias.buf ? ht_ref_floats(&part->bias) + lanes->row : NULL;
    bool in_place = !bias && !part->add;
    struct ht_tile tile = {.m = rows, .n = lanes->n, .a_row = p->x_stride, .a_step = 1, .b = panel, .b_step = LANES};
    tile.c = in_place ? y : acc;
    tile.c_row = in_place ? part->y_stride : LANES;
    for (uint32_t k = 0; k < p->k; k += AT_ONCE) {
        tile.count = p->k - k < AT_ONCE ? p->k - k : AT_ONCE;
        tile.a = ht_ref_floats(&p->x) + k;
        tile.end = k ? HT_TILE_CHAIN : HT_TILE_SET;
        for (uint32_t lane = 0; lane < lanes->n; lane += HT_GROUP) {
            const float *w = group_f32(&run->device->kernels, part->w, tiles_at(part->w, lanes->row + lane, k),
                                       tile.count, group);
            for (uint32_t i = 0; i < tile.count; i++)
                memcpy(panel + i * LANES + lane, w + i * HT_GROUP, HT_GROUP * sizeof *w);
        }
        ht_train_kernels(run->device->isa)->tile(&tile);
    }
    for (uint32_t r = 0; r < rows && !in_place; r++)
        run->device->kernels.put(acc + (size_t)r * LANES, bias, part->add, lanes->n, y + (size_t)r * part->y_stride);
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
        for (uint32_t from = share.from; from < share.to; from += LANES) {
            struct lanes lanes = {part, p->first + from, from, share.to - from < LANES ? share.to - from : LANES};
            linear_lanes(run, &p->m, &lanes, ht_run_scratch(run, thread));
        }
    }
}

// ---- linear_t

// Columns [from, from + n) of rows of W from `row` on, as many as `count`, as f32 (count, T_COLUMNS); `from` begins a
// block, `row` a group.
static void unpack_columns(const struct ht_run *run, const struct ht_weight *w, uint32_t row, uint32_t count,
                           uint32_t from, uint32_t n, float *panel)
{
    const struct ht_train_kernels *kernels = ht_train_kernels(run->device->isa);
    for (uint32_t r = 0; r < count; r += HT_GROUP) {
        const float *group = group_f32(&run->device->kernels, w, tiles_at(w, row + r, from), n,
                                       panel + T_COLUMNS * T_ROWS);
        kernels->transpose(group, HT_GROUP, n, count - r < HT_GROUP ? count - r : HT_GROUP,
                           panel + (size_t)r * T_COLUMNS, T_COLUMNS);
    }
}

static void linear_t_columns(const struct ht_run *run, const struct ht_linear_t *p, uint32_t from, uint32_t n,
                             float *panel)
{
    const struct ht_matmul *m = &p->m;
    struct ht_tile tile = {.m = ht_run_rows(run, m->rows), .n = n, .a_step = 1, .b = panel, .b_step = T_COLUMNS};
    tile.c = ht_ref_floats(&m->x) + from;
    tile.c_row = m->x_stride;
    tile.end = p->add ? HT_TILE_CHAIN : HT_TILE_SET;
    for (uint32_t i = 0; i < m->n_parts; i++) {
        const struct ht_matmul_part *part = &m->part[i];
        uint32_t rows = p->count ? p->count : part->w->head.params.n; // of W from p->first on
        for (uint32_t j = 0; j < rows; j += T_ROWS, tile.end = HT_TILE_CHAIN) {
            tile.count = rows - j < T_ROWS ? rows - j : T_ROWS;
            tile.a = ht_ref_floats(&part->y) + j;
            tile.a_row = part->y_stride;
            unpack_columns(run, part->w, p->first + j, tile.count, from, n, panel);
            ht_train_kernels(run->device->isa)->tile(&tile);
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
