// SPDX-License-Identifier: Apache-2.0
// Runs linear and linear_t in contract B: all round x together, then each thread goes through its panels of 32 outputs.
// A panel is unpacked a few steps at a time, so that it stays in L1 while all rows pass by. Team threads, inside a
// submit.
#include "engine/cpu/train_bf16.h"

#include <string.h>

#include "engine/cpu/train.h"

// Sums of some panels, gone through chunk by chunk while x's chunk stays in L2; all of x, where that stays there.
enum { PANELS_BYTES = 640 << 10, X_BYTES = 1 << 20 };

struct job { // one thread's view
    const struct ht_run *run;
    const struct ht_bf16_kernels *kernels;
    const struct ht_matmul *p;
    bool transposed, add; // add: linear_t's
    uint32_t first, count;
    uint16_t *x;          // tiles: 16 rows, all their steps, the next 16 rows …
    uint32_t rows, steps; // steps of a row
    uint32_t together;    // panels
    uint16_t *panel[2];
    float *acc; // (together, rows, 32)
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

static uint32_t panels_together(uint32_t blocks)
{
    uint32_t n = PANELS_BYTES / (blocks * HT_B_ROWS * HT_B_LANES * (uint32_t)sizeof(float));
    return n ? n : 1;
}

size_t ht_bf16_thread_bytes(const struct ht_plan *plan, const struct ht_matmul *p)
{
    size_t blocks = blocks_of_rows(plan, p->rows);
    return 2 * HT_B_MOST * HT_B_PANEL * sizeof(uint16_t) +
           panels_together((uint32_t)blocks) * blocks * HT_B_ROWS * HT_B_LANES * sizeof(float);
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
                         unsigned thread)
{
    uint16_t *scratch = ht_run_scratch(run, thread);
    return (struct job){
        .run = run,
        .kernels = run->device->bf16[precision],
        .p = p,
        .x = (uint16_t *)(void *)run->plan->shared,
        .rows = ht_run_rows(run, p->rows),
        .together = panels_together(blocks_of_rows(run->plan, p->rows)),
        .panel = {scratch, scratch + HT_B_MOST * HT_B_PANEL},
        .acc = (float *)(void *)(scratch + 2 * HT_B_MOST * HT_B_PANEL),
    };
}

// Columns of x (rows, n) become tiles from step `first` on. What follows the last row stays: its sums go nowhere.
static void round_rows(const struct job *job, const struct ht_ref *x, size_t stride, uint32_t n, uint32_t first,
                       unsigned thread)
{
    struct ht_range blocks = ht_share(up(job->rows, HT_B_ROWS), thread, job->run->n_threads);
    for (uint32_t r = blocks.from * HT_B_ROWS; r < blocks.to * HT_B_ROWS && r < job->rows; r++)
        job->kernels->round(ht_ref_floats(x) + r * stride, n,
                            job->x + ((size_t)(r / HT_B_ROWS) * job->steps + first) * HT_B_TILE +
                                r % HT_B_ROWS * HT_B_STEP);
}

// ---- what a thread goes through: some panels at a time; for these, all that is summed, a few steps at a time

struct item {                  // some steps of a panel
    uint32_t panel, from, to;  // of those gone through together, [from, to)
    uint32_t part, step, steps; // of the part: linear's only one, or one of linear_t's
    uint32_t x;                // the step among x's
};

static uint32_t steps_of_part(const struct job *job, uint32_t part)
{
    return job->transposed ? up(rows_of_w(&job->p->part[part], job->count), HT_B_STEP) : job->steps;
}

static void set_steps(const struct job *job, struct item *i)
{
    uint32_t all = steps_of_part(job, i->part), at_once = up(all, up(all, HT_B_MOST)); // as equal as may be
    i->steps = all - i->step < at_once ? all - i->step : at_once;
}

static struct item first_item(const struct job *job, struct ht_range panels, uint32_t part)
{
    struct item i = {.panel = panels.from, .from = panels.from, .part = part};
    i.to = panels.to - panels.from < job->together ? panels.to : panels.from + job->together;
    set_steps(job, &i);
    return i;
}

static bool last_steps(const struct job *job, const struct item *i)
{
    return i->x + i->steps == job->steps;
}

// The next of the panels [.., end); false: there is none.
static bool next_item(const struct job *job, struct item *i, uint32_t end)
{
    if (++i->panel < i->to)
        return true;
    if (last_steps(job, i)) {
        struct ht_range left = {i->to, end};
        *i = first_item(job, left, job->transposed ? 0 : i->part);
        return left.from < end;
    }
    i->panel = i->from;
    i->x += i->steps;
    i->step += i->steps;
    if (i->step == steps_of_part(job, i->part)) {
        i->part++;
        i->step = 0;
    }
    set_steps(job, i);
    return true;
}

// What the next panel will want of W in the place of this: beside it if columns are lanes, else two groups on. Of a
// tile that holds several times 32 values a part each time.
static void fetch_next(const struct job *job, const struct ht_weight *w, const unsigned char *tile, uint32_t column)
{
    enum { LINE = 64 };
    uint32_t values = w->layout->block_values, bytes = ht_layout_tile_bytes(w->layout) * (values == 1 ? HT_B_STEP : 1);
    uint32_t parts = values > HT_B_STEP ? values / HT_B_STEP : 1, part = column / HT_B_STEP % parts;
    size_t next = (size_t)(tile - w->data) + (job->transposed ? bytes : 2 * w->group_bytes);
    if (next + bytes > w->group_bytes * up(w->head.params.n, HT_GROUP))
        return;
    for (uint32_t at = bytes / parts * part; at < bytes / parts * (part + 1); at += LINE)
        __builtin_prefetch(w->data + next + at, 0, 2);
}

// Half of one step of the item's panel, from 16 rows of W.
static void unpack(const struct job *job, const struct item *item, uint32_t halves, uint16_t *panel)
{
    const struct ht_matmul_part *part = &job->p->part[item->part];
    const struct ht_weight *w = part->w;
    uint32_t n = rows_of_w(part, job->count), step = item->step + halves / 2, half = halves % 2;
    uint32_t row = (job->transposed ? step * HT_B_STEP : item->panel * HT_B_LANES) + half * HT_GROUP;
    uint32_t column = (job->transposed ? item->panel : step) * HT_B_STEP, left = w->head.params.k - column;
    uint32_t block = w->layout->block_values;
    uint16_t *to = panel + (size_t)(halves / 2) * HT_B_PANEL;
    if (row < n) {
        const unsigned char *tile = ht_weight_group(w, (job->first + row) / HT_GROUP) +
                                    (size_t)(column / block) * ht_layout_tile_bytes(w->layout);
        fetch_next(job, w, tile, column);
        (job->transposed ? job->kernels->panel_t : job->kernels->panel)(
            w->head.params.type, tile, block == 1 ? 0 : column % block / HT_B_STEP, left < HT_B_STEP ? left : HT_B_STEP,
            half, to);
    }
    to += (size_t)half * 8 * HT_B_LANES * 2;
    if (job->transposed) // rows that are not there: zeros
        for (uint32_t i = row < n ? n - row : 0; i < HT_GROUP; i++)
            for (unsigned lane = 0; lane < HT_B_LANES; lane++)
                to[(i / 2 * HT_B_LANES + lane) * 2 + i % 2] = 0;
}

static struct outputs outputs_of(const struct job *job, const struct item *i)
{
    const struct ht_matmul_part *part = &job->p->part[i->part];
    uint32_t lane = i->panel * HT_B_LANES;
    struct outputs out;
    if (job->transposed)
        out = (struct outputs){ht_ref_floats(&job->p->x) + lane, job->p->x_stride, job->p->k - lane, NULL, job->add};
    else
        out = (struct outputs){ht_ref_floats(&part->y) + lane, part->y_stride, rows_of_w(part, job->count) - lane,
                               part->bias.buf ? ht_ref_floats(&part->bias) + job->first + lane : NULL, part->add};
    out.n = out.n < HT_B_LANES ? out.n : HT_B_LANES;
    return out;
}

static void put(const struct job *job, const struct outputs *out, const float *acc, uint32_t from, uint32_t to)
{
    for (uint32_t r = from; r < to; r++)
        job->run->device->kernels.put(acc + (r - from) * HT_B_LANES, out->bias, out->add, out->n,
                                      out->y + r * out->stride);
}

// All rows by an item's panel; between them, bit by bit, the panel of the next item (NULL: none): vectors work on that
// while matrix registers multiply. Sums are kept in y itself where nothing else is to be done with them.
static void multiply(const struct job *job, const struct item *item, const uint16_t *panel, const struct item *next,
                     uint16_t *next_panel)
{
    const struct outputs out = outputs_of(job, item);
    const uint32_t padded = up(job->rows, HT_B_ROWS) * HT_B_ROWS, halves = next ? 2 * next->steps : 0;
    const bool whole = out.n == HT_B_LANES && !out.bias && !out.add, end = last_steps(job, item);
    float *acc = job->acc + (size_t)(item->panel - item->from) * padded * HT_B_LANES;
    uint32_t done = 0;
    for (uint32_t r = 0; r < padded; r += 2 * HT_B_ROWS) {
        struct ht_bf16_block block = {.panel = panel,
                                      .x = job->x + ((size_t)(r / HT_B_ROWS) * job->steps + item->x) * HT_B_TILE,
                                      .x_next = (size_t)job->steps * HT_B_TILE,
                                      .steps = item->steps,
                                      .rows = padded - r < 2 * HT_B_ROWS ? HT_B_ROWS : 2 * HT_B_ROWS,
                                      .acc = acc + (size_t)r * HT_B_LANES,
                                      .acc_stride = HT_B_LANES,
                                      .begin = !item->x};
        uint32_t to = r + block.rows < job->rows ? r + block.rows : job->rows;
        bool in_place = whole && r + block.rows <= job->rows;
        if (in_place) {
            block.acc = out.y + r * out.stride;
            block.acc_stride = out.stride;
        }
        job->kernels->sum(&block);
        if (end && !in_place)
            put(job, &out, block.acc, r, to);
        for (; done < (uint64_t)halves * (r + block.rows) / padded; done++)
            unpack(job, next, done, next_panel);
    }
}

static void run_panels(const struct job *job, struct ht_range panels, uint32_t part)
{
    struct item item = first_item(job, panels, part), next;
    if (panels.from >= panels.to || !job->rows)
        return;
    for (uint32_t i = 0; i < 2 * item.steps; i++)
        unpack(job, &item, i, job->panel[0]);
    bool more = true;
    for (unsigned now = 0; more; item = next, now = !now) {
        next = item;
        more = next_item(job, &next, panels.to);
        multiply(job, &item, job->panel[now], more ? &next : NULL, job->panel[!now]);
    }
}

void ht_bf16_run_linear(const struct ht_linear *p, const struct ht_run *run, unsigned thread)
{
    struct job job = job_of(run, &p->m, p->precision, thread);
    job.first = p->first;
    job.count = p->count;
    job.steps = up(p->m.k, HT_B_STEP);
    if ((size_t)up(job.rows, HT_B_ROWS) * job.steps * HT_B_TILE * sizeof(uint16_t) <= X_BYTES)
        job.together = 1; // x stays in L2 as a whole: W is read as it lies
    round_rows(&job, &p->m.x, p->m.x_stride, p->m.k, 0, thread);
    ht_pool_barrier(run->device->pool, thread);
    job.kernels->begin();
    for (uint32_t i = 0; i < p->m.n_parts; i++)
        run_panels(&job, ht_share(up(rows_of_w(&p->m.part[i], p->count), HT_B_LANES), thread, run->n_threads), i);
    job.kernels->end();
}

void ht_bf16_run_linear_t(const struct ht_linear_t *p, const struct ht_run *run, unsigned thread)
{
    struct job job = job_of(run, &p->m, p->precision, thread);
    job.first = p->first;
    job.count = p->count;
    job.transposed = true;
    job.add = p->add;
    job.steps = steps_t(&p->m, p->count);
    for (uint32_t i = 0, before = 0; i < p->m.n_parts; i++) {
        const struct ht_matmul_part *part = &p->m.part[i];
        round_rows(&job, &part->y, part->y_stride, rows_of_w(part, p->count), before, thread);
        before += up(rows_of_w(part, p->count), HT_B_STEP);
    }
    ht_pool_barrier(run->device->pool, thread);
    job.kernels->begin();
    run_panels(&job, ht_share(up(p->m.k, HT_B_LANES), thread, run->n_threads), 0);
    job.kernels->end();
}
