// SPDX-License-Identifier: Apache-2.0
// Products for many rows of x: the team quantises x side by side, in the form that the path reads, and shares out units
// of 32 outputs. Whoever is done early takes units from the end of another's share: which thread computes a unit
// changes no bit, and cores are not equally fast. Team threads, inside a submit.
//   few      3 to 16 rows: codes decoded once for up to 8 rows side by side
//   panels   32 rows of W unpacked into scratch, then a register tile of 32 x 6 per 6 rows of x
//   tall     the same with matrix registers, 12 rows of x at a time
// A gated product whose GLU follows (record.c) never writes gate and up: a unit is one block of 32 of the GLU's y,
// which is left quantised, as the next product reads it (and as f32 for its adapters). What adapters add to a unit's
// outputs is added while they are near.
#include <stdatomic.h>
#include <string.h>

#include "engine/cpu/matmul_job.h"

enum { UNIT = 2 * HT_GROUP };

// ---- forms of x: sets of rows side by side, a set after the other, each of k / 32 blocks

// Rows of the first set of the few: all, or an even half where kernels take two sets one after the other.
static uint32_t first_few(uint32_t rows)
{
    return rows <= HT_MAX_MATVEC ? rows : (rows + 3) / 4 * 2;
}

static uint32_t rows_of_set(enum ht_path path, uint32_t rows)
{
    return path == HT_PATH_TALL ? HT_TALL : path == HT_PATH_PANELS ? HT_COLS : first_few(rows);
}

static void put_in_tile(const struct ht_xrow *x, uint32_t n, bool pairs, struct ht_xtile *tiles, unsigned c)
{
    for (uint32_t b = 0; b < n; b++) {
        int32_t *q = tiles[b].q[0];
        for (unsigned i = 0; i < 8; i++)
            memcpy(q + (pairs ? (i / 2 * HT_COLS + c) * 2 + i % 2 : i * HT_COLS + c), x->q + 32 * b + 4 * i, 4);
        tiles[b].d[c] = x->d[b];
        tiles[b].ds[c] = x->ds[b];
        tiles[b].sum[0][c] = x->sum[2 * b];
        tiles[b].sum[1][c] = x->sum[2 * b + 1];
    }
}

static void put_in_tall(const struct ht_xrow *x, uint32_t n, struct ht_xtall *tiles, unsigned c)
{
    for (uint32_t b = 0; b < n; b++) {
        memcpy(tiles[b].q[c], x->q + 32 * b, 32);
        tiles[b].d[c] = x->d[b];
        tiles[b].ds[c] = x->ds[b];
        tiles[b].sum[0][c] = (float)x->sum[2 * b];
        tiles[b].sum[1][c] = (float)x->sum[2 * b + 1];
    }
}

static void put_in_few(const struct ht_xrow *x, uint32_t n, struct ht_xfew *few, unsigned c)
{
    for (uint32_t b = 0; b < n; b++) {
        int32_t s0 = x->sum[2 * b], s1 = x->sum[2 * b + 1];
        memcpy(few[b].q[c], x->q + 32 * b, 32);
        few[b].d[c] = x->d[b];
        few[b].ds[c] = x->ds[b];
        few[b].sum[0][c] = (float)s0;
        few[b].sum[1][c] = (float)s1;
        few[b].sum[2][c] = (float)(s0 + s1);
    }
}

// Blocks [first, first + n) of a row. Columns that a kernel computes beyond the last row repeat it.
static void put_row(const struct ht_job *job, enum ht_path path, unsigned char *form, uint32_t k, uint32_t row,
                    uint32_t first, uint32_t n, const struct ht_xrow *x)
{
    uint32_t in_set = rows_of_set(path, job->rows);
    uint32_t set = path == HT_PATH_TALL ? row / HT_TALL : path == HT_PATH_PANELS ? row / HT_COLS : row >= in_set;
    uint32_t c = row - set * in_set;
    size_t at = (size_t)set * (k / 32) + first;
    uint32_t columns = path == HT_PATH_FEW ? (c + 2) / 2 * 2 : in_set, end = row + 1 == job->rows ? columns : c + 1;
    for (; c < end; c++)
        if (path == HT_PATH_TALL)
            put_in_tall(x, n, (struct ht_xtall *)(void *)form + at, c);
        else if (path == HT_PATH_PANELS)
            put_in_tile(x, n, job->run->device->kernels.word_pairs, (struct ht_xtile *)(void *)form + at, c);
        else
            put_in_few(x, n, (struct ht_xfew *)(void *)form + at, c);
}

size_t ht_many_shared_bytes(const struct ht_device *device, uint32_t k, uint32_t rows)
{
    size_t tiles = (size_t)(rows + HT_COLS - 1) / HT_COLS * sizeof(struct ht_xtile),
           talls = (size_t)(rows + HT_TALL - 1) / HT_TALL * sizeof(struct ht_xtall), few = 2 * sizeof(struct ht_xfew);
    size_t most = tiles > few ? tiles : few;
    if (device->kernels.tall_begin && rows >= HT_TALL_FROM && talls > most)
        most = talls;
    return most * (k / 32);
}

// A panel, and gate's unit of every row.
size_t ht_many_thread_bytes(uint32_t k, uint32_t rows)
{
    return ht_round64(k / 32 * ht_panel_block_bytes(HT_KIND_K16M)) + (size_t)rows * UNIT * sizeof(float);
}

// The few: threads share out blocks of k, since rows would lie in the same cache lines. Else whole sets.
void ht_many_quantise(const struct ht_job *job, enum ht_path path, unsigned char *form)
{
    uint32_t k = job->p->k, in_set = rows_of_set(path, job->rows), from = 0, to = job->rows, first = 0, n = k / 32;
    if (path == HT_PATH_FEW) {
        struct ht_range blocks = ht_share(n, job->thread, job->run->n_threads);
        first = blocks.from;
        n = blocks.to - blocks.from;
    } else {
        struct ht_range sets = ht_share((to + in_set - 1) / in_set, job->thread, job->run->n_threads);
        from = sets.from * in_set;
        to = sets.to * in_set < to ? sets.to * in_set : to;
    }
    struct ht_xrow x = ht_xrow_at(job->scratch, k);
    for (uint32_t r = from; r < to && n; r++) {
        job->run->device->kernels.quantise(job->x + (size_t)r * job->x_stride + (size_t)32 * first, 32 * n, &x);
        put_row(job, path, form, k, r, first, n, &x);
    }
}

// ---- units: those of all quantised parts in a row, or, with a GLU, blocks of its y

static uint32_t units_of(const struct ht_job *job, const struct ht_matmul_part *part)
{
    return ht_part_is_float(job->run->device, part->w) ? 0 : (part->w->head.params.n + UNIT - 1) / UNIT;
}

static struct ht_deal *deal_of(const struct ht_job *job, unsigned thread)
{
    return &job->run->device->deals[job->deal * job->run->n_threads + thread];
}

void ht_many_deal(const struct ht_job *job)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < (job->glu ? 1 : job->p->n_parts); i++)
        n += units_of(job, &job->p->part[i]);
    struct ht_range own = ht_share(n, job->thread, job->run->n_threads);
    atomic_store_explicit(&deal_of(job, job->thread)->left, (uint64_t)own.from << 32 | own.to,
                          memory_order_relaxed);
}

// Of one's own share the first, of another's the last. False: nothing is left.
static bool take_unit(const struct ht_job *job, uint32_t *unit)
{
    for (unsigned i = 0; i < job->run->n_threads; i++) {
        _Atomic uint64_t *left = &deal_of(job, (job->thread + i) % job->run->n_threads)->left;
        uint64_t have = atomic_load_explicit(left, memory_order_relaxed), rest;
        do {
            uint32_t from = (uint32_t)(have >> 32), to = (uint32_t)have;
            if (from >= to)
                break;
            *unit = i ? to - 1 : from;
            rest = i ? have - 1 : have + (1ull << 32);
            if (atomic_compare_exchange_weak_explicit(left, &have, rest, memory_order_relaxed, memory_order_relaxed))
                return true;
        } while (true);
    }
    return false;
}

// ---- a unit's outputs

enum stage { STORE, KEEP_GATE, GATE_UP };
struct unit {
    const struct ht_matmul_part *part;
    enum ht_path path;
    enum stage stage;
    uint32_t index, n_outputs; // first output / 32; 32 or, at the end, fewer
};

static float *gate_of(const struct ht_job *job, uint32_t row)
{
    unsigned char *kept = job->scratch + ht_round64(job->p->k / 32 * ht_panel_block_bytes(HT_KIND_K16M));
    return (float *)(void *)kept + (size_t)row * UNIT;
}

// What adapters add to rows [row, row + n) of the unit, which lie at y.
static void add_lora(const struct ht_job *job, const struct unit *u, uint32_t row, uint32_t n, float *y,
                     size_t y_stride)
{
    if (job->lora)
        ht_lora_up(job->p, job->run, u->part, (struct ht_range){row, row + n},
                   (struct ht_range){u->index * UNIT, u->index * UNIT + u->n_outputs}, y, y_stride);
}

// value (n, 32): rows [row, row + n) of the unit
static void emit(const struct ht_job *job, const struct unit *u, uint32_t row, uint32_t n, float *value)
{
    const struct ht_kernels *kernels = &job->run->device->kernels;
    if (u->stage == STORE) {
        for (uint32_t c = 0; c < n; c++)
            ht_put(job, u->part, row + c, u->index * UNIT, u->n_outputs, value + (size_t)c * UNIT);
        add_lora(job, u, row, n, ht_ref_floats(&u->part->y) + (size_t)row * u->part->y_stride + u->index * UNIT,
                 u->part->y_stride);
        return;
    }
    add_lora(job, u, row, n, value, UNIT);
    if (u->stage == KEEP_GATE) {
        memcpy(gate_of(job, row), value, (size_t)n * UNIT * sizeof *value);
        return;
    }
    _Alignas(64) float y[HT_MAX_FEW * UNIT], d[HT_MAX_FEW], ds[HT_MAX_FEW];
    _Alignas(64) int8_t q[HT_MAX_FEW * UNIT];
    int32_t sum[2 * HT_MAX_FEW];
    kernels->glu(job->glu->act, gate_of(job, row), value, y, n * UNIT);
    kernels->quantise(y, n * UNIT, &(struct ht_xrow){q, d, ds, sum}); // blocks of 32: a row each
    for (uint32_t c = 0; c < n && job->keep_glu; c++)
        memcpy(ht_ref_floats(&job->glu->y) + (size_t)(row + c) * job->glu->y_stride + u->index * UNIT, y + c * UNIT,
               UNIT * sizeof *y);
    for (uint32_t c = 0; c < n; c++)
        put_row(job, u->path, job->ymany, job->glu->dim, row + c, u->index, 1,
                &(struct ht_xrow){q + (size_t)c * UNIT, d + c, ds + c, sum + 2 * (size_t)c});
}

static void few_unit(const struct ht_job *job, const struct unit *u)
{
    const struct ht_kernels *kernels = &job->run->device->kernels;
    const struct ht_weight *w = u->part->w;
    const struct ht_xfew *x = (const struct ht_xfew *)(const void *)job->xmany;
    uint32_t k = job->p->k, first = first_few(job->rows);
    _Alignas(64) float half[HT_MAX_FEW * HT_GROUP], out[HT_MAX_FEW * UNIT];
    for (uint32_t h = 0; h * HT_GROUP < u->n_outputs; h++) {
        const unsigned char *group = ht_weight_group(w, 2 * u->index + h);
        kernels->few[w->head.params.type](group, k, x, first, half);
        if (first < job->rows) // the group is in the nearest cache now
            kernels->few[w->head.params.type](group, k, x + k / 32, job->rows - first, half + first * HT_GROUP);
        for (uint32_t c = 0; c < job->rows; c++)
            memcpy(out + c * UNIT + h * HT_GROUP, half + c * HT_GROUP, HT_GROUP * sizeof *out);
    }
    emit(job, u, 0, job->rows, out);
}

static void panel_unit(const struct ht_job *job, const struct unit *u)
{
    const struct ht_kernels *kernels = &job->run->device->kernels;
    const struct ht_weight *w = u->part->w;
    enum ht_type type = w->head.params.type;
    uint32_t k = job->p->k, in_set = rows_of_set(u->path, job->rows);
    _Alignas(64) float out[HT_TALL * UNIT];
    for (uint32_t h = 0; h * HT_GROUP < u->n_outputs; h++)
        kernels->panel[type](ht_weight_group(w, 2 * u->index + h), k, h, job->scratch);
    for (uint32_t r = 0; r < job->rows; r += in_set) {
        size_t at = (size_t)(r / in_set) * (k / 32);
        if (u->path == HT_PATH_TALL)
            kernels->tall[type](job->scratch, (const struct ht_xtall *)(const void *)job->xmany + at, k, out);
        else
            kernels->tile[type](job->scratch, (const struct ht_xtile *)(const void *)job->xmany + at, k, out);
        emit(job, u, r, job->rows - r < in_set ? job->rows - r : in_set, out);
    }
}

static void run_unit(const struct ht_job *job, const struct unit *u)
{
    const struct ht_kernels *kernels = &job->run->device->kernels;
    if (u->path == HT_PATH_FEW) {
        few_unit(job, u);
        return;
    }
    if (u->path == HT_PATH_TALL)
        kernels->tall_begin(u->part->w->head.params.type);
    panel_unit(job, u);
    if (u->path == HT_PATH_TALL)
        kernels->tall_end();
}

void ht_many_run(const struct ht_job *job, enum ht_path path)
{
    struct unit u = {.path = path, .n_outputs = UNIT};
    for (uint32_t index; take_unit(job, &index);) {
        if (job->glu) {
            u.index = index;
            for (u.stage = KEEP_GATE; u.stage <= GATE_UP; u.stage++) {
                u.part = &job->p->part[u.stage - KEEP_GATE];
                run_unit(job, &u);
            }
            continue;
        }
        for (u.part = job->p->part; index >= units_of(job, u.part); u.part++)
            index -= units_of(job, u.part);
        uint32_t left = u.part->w->head.params.n - index * UNIT;
        u.index = index;
        u.n_outputs = left < UNIT ? left : UNIT;
        run_unit(job, &u);
    }
}
