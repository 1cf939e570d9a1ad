// SPDX-License-Identifier: Apache-2.0
// Runs linear and linear_t in contract B: all round x together, then each thread goes through its panels of 32 outputs.
// A panel is unpacked a few steps at a time, so that it stays in L1 while all rows pass by. Team threads, inside a
// submit.
#include "engine/cpu/train_bf16.h"

#include <string.h>

#include "engine/cpu/train.h"

struct job { // one thread's view
    const struct ht_run *run;
    const struct ht_bf16_kernels *kernels;
    uint16_t *x;          // tiles: 16 rows, all their steps, the next 16 rows …
    uint32_t rows, steps; // steps of a row
    uint16_t *panel;
    float *acc; // (rows, 32)
};

struct outputs { // n <= 32 columns from y on
    float *y;
    size_t stride;
    uint32_t n;
    const float *bias;
    bool add;
};

static uint32_t up(uint32_t n, uint32_t unit)
{
    return (n + unit - 1) / unit;
}

static uint32_t rows_of_w(const struct ht_matmul_part *part, uint32_t count)
{
    return count ? count : part->w->head.params.n;
}

// ---- scratch

static uint32_t blocks_of_rows(const struct ht_plan *plan, enum ht_rows rows)
{
    return up(rows == HT_ROWS_OUT ? plan->head.shape.outs : plan->head.shape.rows, HT_B_ROWS);
}

size_t ht_bf16_thread_bytes(const struct ht_plan *plan, const struct ht_matmul *p)
{
    return HT_B_MOST * HT_B_PANEL * sizeof(uint16_t) +
           (size_t)blocks_of_rows(plan, p->rows) * HT_B_ROWS * HT_B_LANES * sizeof(float);
}

static uint32_t steps_t(const struct ht_matmul *p, uint32_t count)
{
    uint32_t steps = 0;
    for (uint32_t i = 0; i < p->n_parts; i++)
        steps += up(rows_of_w(&p->part[i], count), HT_B_STEP);
    return steps;
}

size_t ht_bf16_shared_bytes(const struct ht_plan *plan, const struct ht_matmul *p, bool transposed, uint32_t count)
{
    uint32_t steps = transposed ? steps_t(p, count) : up(p->k, HT_B_STEP);
    return (size_t)blocks_of_rows(plan, p->rows) * steps * HT_B_TILE * sizeof(uint16_t);
}

static struct job job_of(const struct ht_run *run, const struct ht_matmul *p, enum ht_train_precision precision,
                         uint32_t steps, unsigned thread)
{
    unsigned char *scratch = ht_run_scratch(run, thread);
    size_t panel_bytes = HT_B_MOST * HT_B_PANEL * sizeof(uint16_t);
    return (struct job){.run = run,
                        .kernels = ht_bf16_kernels(run->device->isa, precision),
                        .x = (uint16_t *)(void *)run->plan->shared,
                        .rows = ht_run_rows(run, p->rows),
                        .steps = steps,
                        .panel = (uint16_t *)(void *)scratch,
                        .acc = (float *)(void *)(scratch + panel_bytes)};
}

// Columns of x (rows, n) become tiles from step `first` on. What follows the last row stays as it is: its sums go nowhere.
static void round_rows(const struct job *job, const struct ht_ref *x, size_t stride, uint32_t n, uint32_t first,
                       unsigned thread)
{
    struct ht_range blocks = ht_share(up(job->rows, HT_B_ROWS), thread, job->run->n_threads);
    for (uint32_t r = blocks.from * HT_B_ROWS; r < blocks.to * HT_B_ROWS && r < job->rows; r++)
        job->kernels->round(ht_ref_floats(x) + r * stride, n,
                            job->x + ((size_t)(r / HT_B_ROWS) * job->steps + first) * HT_B_TILE +
                                r % HT_B_ROWS * HT_B_STEP);
}

// ---- one panel, some of its steps, all rows

struct chunk {
    uint32_t first, steps; // of a row of x
    bool begin, end;       // the first and the last of these outputs
};

static void put(const struct job *job, const struct outputs *out, const float *acc, uint32_t from, uint32_t to)
{
    for (uint32_t r = from; r < to; r++)
        job->run->device->kernels.put(acc + (r - from) * HT_B_LANES, out->bias, out->add, out->n,
                                      out->y + r * out->stride);
}

// Sums are kept in y itself where nothing else is to be done with them.
static void multiply(const struct job *job, const struct chunk *c, const struct outputs *out)
{
    uint32_t padded = up(job->rows, HT_B_ROWS) * HT_B_ROWS;
    bool whole = out->n == HT_B_LANES && !out->bias && !out->add;
    for (uint32_t r = 0; r < padded; r += 2 * HT_B_ROWS) {
        struct ht_bf16_block block = {.panel = job->panel,
                                      .x = job->x + ((size_t)(r / HT_B_ROWS) * job->steps + c->first) * HT_B_TILE,
                                      .x_next = (size_t)job->steps * HT_B_TILE,
                                      .steps = c->steps,
                                      .rows = padded - r < 2 * HT_B_ROWS ? HT_B_ROWS : 2 * HT_B_ROWS,
                                      .acc = c->begin && c->end ? job->acc : job->acc + (size_t)r * HT_B_LANES,
                                      .acc_stride = HT_B_LANES,
                                      .begin = c->begin};
        uint32_t to = r + block.rows < job->rows ? r + block.rows : job->rows;
        bool in_place = whole && r + block.rows <= job->rows;
        if (in_place) {
            block.acc = out->y + r * out->stride;
            block.acc_stride = out->stride;
        }
        job->kernels->sum(&block);
        if (c->end && !in_place)
            put(job, out, block.acc, r, to);
    }
}

// Steps at once: as equal as may be, and whole blocks of the format.
static uint32_t steps_at_once(uint32_t steps, uint32_t unit)
{
    uint32_t most = HT_B_MOST / unit * unit, n = up(steps, most);
    return up(up(steps, n), unit) * unit;
}

static const unsigned char *tile_at(const struct ht_weight *w, uint32_t group, uint32_t k)
{
    return ht_weight_group(w, group) + (size_t)(k / w->layout->block_values) * ht_layout_tile_bytes(w->layout);
}

// ---- linear

static void linear_panel(const struct job *job, const struct ht_linear *p, const struct ht_matmul_part *part,
                         uint32_t lane)
{
    const struct ht_weight *w = part->w;
    uint32_t k = p->m.k, n = rows_of_w(part, p->count) - lane, unit = w->layout->block_values / HT_B_STEP;
    uint32_t at_once = steps_at_once(job->steps, unit ? unit : 1);
    const struct outputs out = {ht_ref_floats(&part->y) + lane, part->y_stride, n < HT_B_LANES ? n : HT_B_LANES,
                                part->bias.buf ? ht_ref_floats(&part->bias) + p->first + lane : NULL, part->add};
    for (uint32_t s = 0; s < job->steps; s += at_once) {
        uint32_t steps = job->steps - s < at_once ? job->steps - s : at_once, from = s * HT_B_STEP,
                 values = k - from < steps * HT_B_STEP ? k - from : steps * HT_B_STEP;
        for (unsigned half = 0; half < 2 && half * HT_GROUP < out.n; half++)
            job->kernels->panel(w->head.params.type, tile_at(w, (p->first + lane) / HT_GROUP + half, from), values,
                                half, job->panel);
        multiply(job, &(struct chunk){s, steps, !s, s + steps == job->steps}, &out);
    }
}

void ht_bf16_run_linear(const struct ht_linear *p, const struct ht_run *run, unsigned thread)
{
    struct job job = job_of(run, &p->m, p->precision, up(p->m.k, HT_B_STEP), thread);
    round_rows(&job, &p->m.x, p->m.x_stride, p->m.k, 0, thread);
    ht_pool_barrier(run->device->pool, thread);
    job.kernels->begin();
    for (uint32_t i = 0; i < p->m.n_parts; i++) {
        struct ht_range panels = ht_share(up(rows_of_w(&p->m.part[i], p->count), HT_B_LANES), thread, run->n_threads);
        for (uint32_t j = panels.from; j < panels.to; j++)
            linear_panel(&job, p, &p->m.part[i], j * HT_B_LANES);
    }
    job.kernels->end();
}

// ---- linear_t

// 32 columns of the rows [row, row + 32) of W, zeros from row n on, as one step.
static void turned_step(const struct job *job, const struct ht_weight *w, uint32_t first, uint32_t row, uint32_t n,
                        uint32_t column, uint16_t *to)
{
    uint32_t block = w->layout->block_values, columns = w->head.params.k - column;
    for (unsigned half = 0; half < 2; half++, row += HT_GROUP) {
        uint16_t *pairs = to + (size_t)half * 8 * HT_B_LANES * 2;
        if (row < n)
            job->kernels->panel_t(w->head.params.type, tile_at(w, (first + row) / HT_GROUP, column),
                                  block == 1 ? 0 : column % block / HT_B_STEP,
                                  columns < HT_B_LANES ? columns : HT_B_LANES, half, to);
        for (uint32_t i = row < n ? n - row : 0; i < HT_GROUP; i++)
            for (unsigned lane = 0; lane < HT_B_LANES; lane++)
                pairs[(i / 2 * HT_B_LANES + lane) * 2 + i % 2] = 0;
    }
}

static void linear_t_panel(const struct job *job, const struct ht_linear_t *p, uint32_t column)
{
    uint32_t left = p->m.k - column, before = 0;
    const struct outputs out = {ht_ref_floats(&p->m.x) + column, p->m.x_stride, left < HT_B_LANES ? left : HT_B_LANES,
                                NULL, p->add};
    for (uint32_t i = 0; i < p->m.n_parts; i++) {
        const struct ht_matmul_part *part = &p->m.part[i];
        uint32_t n = rows_of_w(part, p->count), all = up(n, HT_B_STEP), at_once = steps_at_once(all, 1);
        for (uint32_t s = 0; s < all; s += at_once) {
            uint32_t steps = all - s < at_once ? all - s : at_once, at = before + s;
            for (uint32_t j = 0; j < steps; j++)
                turned_step(job, part->w, p->first, (s + j) * HT_B_STEP, n, column,
                            job->panel + (size_t)j * HT_B_PANEL);
            multiply(job, &(struct chunk){at, steps, !at, at + steps == job->steps}, &out);
        }
        before += all;
    }
}

void ht_bf16_run_linear_t(const struct ht_linear_t *p, const struct ht_run *run, unsigned thread)
{
    struct job job = job_of(run, &p->m, p->precision, steps_t(&p->m, p->count), thread);
    for (uint32_t i = 0, before = 0; i < p->m.n_parts; i++) {
        const struct ht_matmul_part *part = &p->m.part[i];
        uint32_t n = rows_of_w(part, p->count);
        round_rows(&job, &part->y, part->y_stride, n, before, thread);
        before += up(n, HT_B_STEP);
    }
    ht_pool_barrier(run->device->pool, thread);
    job.kernels->begin();
    struct ht_range panels = ht_share(up(p->m.k, HT_B_LANES), thread, run->n_threads);
    for (uint32_t j = panels.from; j < panels.to; j++)
        linear_t_panel(&job, p, j * HT_B_LANES);
    job.kernels->end();
}
