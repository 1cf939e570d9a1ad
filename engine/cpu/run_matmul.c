// SPDX-License-Identifier: Apache-2.0
// Matrix products: quantising x, choosing between the paths (they give the same bits), sharing out the
// outputs. Every thread computes a fixed range of 16-row groups of W for all rows of x. Team threads, inside
// a submit.
//   matvec   up to 8 rows: one group after another, streamed once from memory
//   few      the same for more than HT_FEW and up to 16 rows, where the CPU has kernels that read x side by side
//   panels   more rows: 32 rows of W unpacked into scratch, then a register tile of 32 x 6 per 6 rows of x
//   tall     the same with matrix registers, 12 rows of x at a time
//   plain    types or CPUs without these: the contract itself
//   float    contract F and float weights: a group as f32 (k, 16), one chain per output
#include <string.h>

#include "engine/base/mem.h"
#include "engine/cpu/cpu.h"

enum { TILE_ROWS = 2 * HT_GROUP, MAX_COLS = 8 };

struct job { // one thread's view of a call
    const struct ht_run *run;
    const struct ht_matmul *p;
    const float *x; // rows, x_stride apart
    uint32_t x_stride, rows;
    unsigned thread;
    unsigned char *scratch;        // this thread's, beyond normalised and quantised rows
    unsigned char *xrows;          // x quantised, as rows (xrow_at) ...
    const struct ht_xtile *xtiles; // ... or as tiles
    const struct ht_xtall *xtalls; // ... of either kind ...
    const struct ht_xfew *xfew;    // ... or side by side, in one or two sets
};

static bool is_float(const struct ht_device *device, const struct ht_weight *w)
{
    return device->precision == HT_PRECISION_F || w->layout->kind == HT_KIND_FLOAT;
}

// ---- quantised rows in memory

static size_t xrow_bytes(uint32_t k)
{
    return ht_round64(k) + 2 * ht_round64(k / 32 * sizeof(float)) + ht_round64(k / 16 * sizeof(int32_t));
}

static struct ht_xrow xrow_at(unsigned char *at, uint32_t k)
{
    struct ht_xrow x;
    x.q = (int8_t *)at;
    x.d = (float *)(void *)(at + ht_round64(k));
    x.ds = (float *)(void *)((unsigned char *)x.d + ht_round64(k / 32 * sizeof(float)));
    x.sum = (int32_t *)(void *)((unsigned char *)x.ds + ht_round64(k / 32 * sizeof(float)));
    return x;
}

static size_t xtile_bytes(uint32_t k)
{
    return k / 32 * sizeof(struct ht_xtile);
}

static void put_in_tile(const struct ht_xrow *x, uint32_t k, bool pairs, struct ht_xtile *tiles, unsigned c)
{
    for (uint32_t b = 0; b < k / 32; b++) {
        int32_t *q = tiles[b].q[0];
        for (unsigned i = 0; i < 8; i++)
            memcpy(q + (pairs ? (i / 2 * HT_COLS + c) * 2 + i % 2 : i * HT_COLS + c), x->q + 32 * b + 4 * i, 4);
        tiles[b].d[c] = x->d[b];
        tiles[b].ds[c] = x->ds[b];
        tiles[b].sum[0][c] = x->sum[2 * b];
        tiles[b].sum[1][c] = x->sum[2 * b + 1];
    }
}

static size_t xtall_bytes(uint32_t k)
{
    return k / 32 * sizeof(struct ht_xtall);
}

static void put_in_tall(const struct ht_xrow *x, uint32_t k, struct ht_xtall *tiles, unsigned c)
{
    for (uint32_t b = 0; b < k / 32; b++) {
        memcpy(tiles[b].q[c], x->q + 32 * b, 32);
        tiles[b].d[c] = x->d[b];
        tiles[b].ds[c] = x->ds[b];
        tiles[b].sum[0][c] = (float)x->sum[2 * b];
        tiles[b].sum[1][c] = (float)x->sum[2 * b + 1];
    }
}

static void put_in_few(const struct ht_xrow *x, uint32_t k, struct ht_xfew *few, unsigned c)
{
    for (uint32_t b = 0; b < k / 32; b++) {
        int32_t s0 = x->sum[2 * b], s1 = x->sum[2 * b + 1];
        memcpy(few[b].q[c], x->q + 32 * b, 32);
        few[b].d[c] = x->d[b];
        few[b].ds[c] = x->ds[b];
        few[b].sum[0][c] = (float)s0;
        few[b].sum[1][c] = (float)s1;
        few[b].sum[2][c] = (float)(s0 + s1);
    }
}

static uint32_t max_rows(const struct ht_plan *plan, const struct ht_matmul *p)
{
    return p->rows == HT_ROWS_OUT ? plan->head.shape.outs : plan->head.shape.rows;
}

// Shared: rows as xrows (up to 8, or all for the plain path), as tiles of 6 or 12, or up to 16 side by side.
size_t ht_matmul_shared_bytes(const struct ht_plan *plan, const struct ht_matmul *p)
{
    size_t rows = max_rows(plan, p);
    if (rows <= HT_FEW || p->k % 32)
        return 0;
    size_t as_rows = rows * xrow_bytes(p->k), as_tiles = (rows + HT_COLS - 1) / HT_COLS * xtile_bytes(p->k);
    size_t most = as_rows > as_tiles ? as_rows : as_tiles, as_few = 2 * (p->k / 32) * sizeof(struct ht_xfew);
    most = most > as_few ? most : as_few;
    bool tall = plan->device->kernels.tall_begin && rows >= HT_TALL_FROM;
    size_t as_talls = (rows + HT_TALL - 1) / HT_TALL * xtall_bytes(p->k);
    return tall && as_talls > most ? as_talls : most;
}

// Per thread: few rows normalised and quantised, one more quantised row; a panel, an f32 group or a row of
// blocks.
size_t ht_matmul_thread_bytes(const struct ht_plan *plan, const struct ht_matmul *p)
{
    (void)plan;
    size_t k = p->k, panel = k / 32 * ht_panel_block_bytes(HT_KIND_K16M),
           group = k * HT_GROUP * sizeof(float);
    size_t own = HT_FEW * (ht_round64(k * sizeof(float)) + xrow_bytes(p->k)) + xrow_bytes(p->k);
    size_t blocks = 2 * ht_round64(k * sizeof(float)); // a row in GGUF form, and as f32
    return own + (panel > group ? panel : group) + blocks;
}

// ---- outputs

static void put(const struct job *job, const struct ht_matmul_part *part, uint32_t row, uint32_t first, uint32_t n,
                const float *value)
{
    float *y = ht_ref_floats(&part->y) + (size_t)row * part->y_stride + first;
    const float *bias = part->bias.buf ? ht_ref_floats(&part->bias) + first : NULL;
    job->run->device->kernels.put(value, bias, part->add, n, y);
}

static uint32_t rows_left(const struct ht_weight *w, uint32_t group, uint32_t most)
{
    uint32_t left = w->head.params.n - group * HT_GROUP;
    return left < most ? left : most;
}

static struct ht_range group_share(const struct job *job, const struct ht_weight *w)
{
    return ht_share((w->head.params.n + HT_GROUP - 1) / HT_GROUP, job->thread, job->run->n_threads);
}

// ---- the paths

static void run_float(const struct job *job, const struct ht_matmul_part *part)
{
    const struct ht_weight *w = part->w;
    const struct ht_kernels *kernels = &job->run->device->kernels;
    enum ht_type type = w->head.params.type;
    uint32_t k = job->p->k;
    struct ht_range groups = group_share(job, w);
    float *panel = (float *)(void *)job->scratch, out[MAX_COLS * HT_GROUP];
    unsigned char *blocks = job->scratch + (size_t)k * HT_GROUP * sizeof(float);
    float *row = (float *)(void *)(blocks + ht_round64((size_t)k * sizeof(float)));
    for (uint32_t g = groups.from; g < groups.to; g++) {
        const unsigned char *tiles = ht_weight_group(w, g);
        const float *f32 = panel;
        if (type == HT_TYPE_F32)
            f32 = (const float *)(const void *)tiles;
        else if (type == HT_TYPE_F16)
            kernels->widen_f16((const uint16_t *)(const void *)tiles, (size_t)k * HT_GROUP, panel);
        else if (type == HT_TYPE_BF16)
            kernels->widen_bf16((const uint16_t *)(const void *)tiles, (size_t)k * HT_GROUP, panel);
        else if (kernels->dequant[type])
            kernels->dequant[type](tiles, k, panel);
        else
            for (unsigned r = 0; r < HT_GROUP; r++) {
                ht_layout_unpack_row(w->layout, tiles, k, r, blocks);
                ht_dequant_row(type, blocks, k, row);
                for (uint32_t i = 0; i < k; i++)
                    panel[(size_t)i * HT_GROUP + r] = row[i];
            }
        for (uint32_t r = 0; r < job->rows; r += MAX_COLS) {
            const float *x[MAX_COLS];
            unsigned n = job->rows - r < MAX_COLS ? job->rows - r : MAX_COLS;
            for (unsigned c = 0; c < n; c++)
                x[c] = job->x + (size_t)(r + c) * job->x_stride;
            kernels->dot_f(f32, k, x, n, out);
            for (unsigned c = 0; c < n; c++)
                put(job, part, r + c, g * HT_GROUP, rows_left(w, g, HT_GROUP), out + c * HT_GROUP);
        }
    }
}

static void run_plain(const struct job *job, const struct ht_matmul_part *part)
{
    const struct ht_weight *w = part->w;
    struct ht_range groups = group_share(job, w);
    for (uint32_t i = groups.from * HT_GROUP; i < groups.to * HT_GROUP && i < w->head.params.n; i++) {
        ht_layout_unpack_row(w->layout, ht_weight_group(w, i / HT_GROUP), job->p->k, i % HT_GROUP,
                             job->scratch);
        for (uint32_t r = 0; r < job->rows; r++) {
            struct ht_xrow x = xrow_at(job->xrows + xrow_bytes(job->p->k) * r, job->p->k);
            float t = ht_contract_dot_q(w->head.params.type, job->scratch, job->p->k, &x);
            put(job, part, r, i, 1, &t);
        }
    }
}

static void run_matvec(const struct job *job, const struct ht_matmul_part *part)
{
    const struct ht_weight *w = part->w;
    struct ht_range groups = group_share(job, w);
    const struct ht_kernels *kernels = &job->run->device->kernels;
    struct ht_xrow x[HT_MAX_MATVEC];
    _Alignas(64) float out[HT_MAX_MATVEC * HT_GROUP];
    enum ht_type type = w->head.params.type;
    for (uint32_t r = 0; r < job->rows; r++)
        x[r] = xrow_at(job->xrows + xrow_bytes(job->p->k) * r, job->p->k);
    for (uint32_t g = groups.from; g < groups.to; g++) {
        kernels->matvec[type](ht_weight_group(w, g), job->p->k, x, job->rows, out);
        for (unsigned c = 0; c < job->rows; c++)
            put(job, part, c, g * HT_GROUP, rows_left(w, g, HT_GROUP), out + c * HT_GROUP);
    }
}

// Rows of the first set: all, or an even half where kernels take two sets one after the other.
static uint32_t first_set(uint32_t rows)
{
    return rows <= HT_MAX_MATVEC ? rows : (rows + 3) / 4 * 2;
}

static void run_few(const struct job *job, const struct ht_matmul_part *part)
{
    const struct ht_weight *w = part->w;
    struct ht_range groups = group_share(job, w);
    const struct ht_kernels *kernels = &job->run->device->kernels;
    _Alignas(64) float out[HT_MAX_FEW * HT_GROUP];
    uint32_t k = job->p->k, first = first_set(job->rows);
    enum ht_type type = w->head.params.type;
    for (uint32_t g = groups.from; g < groups.to; g++) {
        kernels->few[type](ht_weight_group(w, g), k, job->xfew, first, out);
        if (first < job->rows) // the group is in the nearest cache now
            kernels->few[type](ht_weight_group(w, g), k, job->xfew + k / 32, job->rows - first, out + first * HT_GROUP);
        for (unsigned c = 0; c < job->rows; c++)
            put(job, part, c, g * HT_GROUP, rows_left(w, g, HT_GROUP), out + c * HT_GROUP);
    }
}

static void run_panels(const struct job *job, const struct ht_matmul_part *part)
{
    const struct ht_weight *w = part->w;
    const struct ht_kernels *kernels = &job->run->device->kernels;
    enum ht_type type = w->head.params.type;
    uint32_t k = job->p->k;
    struct ht_range groups = group_share(job, w);
    _Alignas(64) float out[HT_COLS * TILE_ROWS];
    for (uint32_t g = groups.from; g < groups.to; g += 2) {
        unsigned n_halves = groups.to - g < 2 ? 1 : 2;
        for (unsigned half = 0; half < n_halves; half++)
            kernels->panel[type](ht_weight_group(w, g + half), k, half, job->scratch);
        uint32_t n = rows_left(w, g, n_halves * HT_GROUP);
        for (uint32_t r = 0; r < job->rows; r += HT_COLS) {
            kernels->tile[type](job->scratch, job->xtiles + (size_t)(r / HT_COLS) * (k / 32), k, out);
            for (unsigned c = 0; c < HT_COLS && r + c < job->rows; c++)
                put(job, part, r + c, g * HT_GROUP, n, out + c * TILE_ROWS);
        }
    }
}

static void run_tall(const struct job *job, const struct ht_matmul_part *part)
{
    const struct ht_weight *w = part->w;
    const struct ht_kernels *kernels = &job->run->device->kernels;
    enum ht_type type = w->head.params.type;
    uint32_t k = job->p->k;
    struct ht_range groups = group_share(job, w);
    _Alignas(64) float out[HT_TALL * TILE_ROWS];
    kernels->tall_begin(type);
    for (uint32_t g = groups.from; g < groups.to; g += 2) {
        unsigned n_halves = groups.to - g < 2 ? 1 : 2;
        for (unsigned half = 0; half < n_halves; half++)
            kernels->panel[type](ht_weight_group(w, g + half), k, half, job->scratch);
        uint32_t n = rows_left(w, g, n_halves * HT_GROUP);
        for (uint32_t r = 0; r < job->rows; r += HT_TALL) {
            kernels->tall[type](job->scratch, job->xtalls + (size_t)(r / HT_TALL) * (k / 32), k, out);
            for (unsigned c = 0; c < HT_TALL && r + c < job->rows; c++)
                put(job, part, r + c, g * HT_GROUP, n, out + c * TILE_ROWS);
        }
    }
    kernels->tall_end();
}

// ---- a call: x is prepared in the one form that all its quantised parts read

enum path { PATH_FLOAT, PATH_PLAIN, PATH_MATVEC, PATH_FEW, PATH_PANELS, PATH_TALL };

static enum path path_of(const struct job *job)
{
    const struct ht_device *device = job->run->device;
    bool any = false, matvec = job->rows <= HT_MAX_MATVEC, panels = job->rows > HT_FEW,
         tall = job->rows >= HT_TALL_FROM, few = panels && job->rows <= HT_MAX_FEW;
    for (uint32_t i = 0; i < job->p->n_parts; i++) {
        const struct ht_weight *w = job->p->part[i].w;
        if (is_float(device, w))
            continue;
        any = true;
        matvec = matvec && device->kernels.matvec[w->head.params.type];
        few = few && device->kernels.few[w->head.params.type];
        panels = panels && device->kernels.tile[w->head.params.type];
        tall = tall && device->kernels.tall[w->head.params.type];
    }
    enum path many = tall ? PATH_TALL : panels ? PATH_PANELS : PATH_PLAIN;
    return !any ? PATH_FLOAT : few ? PATH_FEW : matvec ? PATH_MATVEC : many;
}

// Normalised rows for this thread alone; thread 0 also writes them where later ops may read them.
static void own_norm(struct job *job, const struct ht_rmsnorm *n, float *own)
{
    uint32_t stride = (uint32_t)(ht_round64(n->dim * sizeof(float)) / sizeof(float));
    for (uint32_t r = 0; r < job->rows; r++) {
        float *y = own + (size_t)r * stride;
        job->run->device->kernels.rmsnorm(ht_ref_floats(&n->x) + (size_t)r * n->x_stride,
                                          ht_ref_floats(&n->w), n->dim, n->eps, false, y);
        if (!job->thread)
            memcpy(ht_ref_floats(&n->y) + (size_t)r * n->y_stride, y, n->dim * sizeof(float));
    }
    job->x = own;
    job->x_stride = stride;
}

static void quantise_rows(const struct job *job, struct ht_range rows)
{
    for (uint32_t r = rows.from; r < rows.to; r++) {
        struct ht_xrow x = xrow_at(job->xrows + xrow_bytes(job->p->k) * r, job->p->k);
        job->run->device->kernels.quantise(job->x + (size_t)r * job->x_stride, job->p->k, &x);
    }
}

static void quantise_tiles(const struct job *job, unsigned char *to)
{
    uint32_t k = job->p->k;
    struct ht_range tiles = ht_share((job->rows + HT_COLS - 1) / HT_COLS, job->thread, job->run->n_threads);
    struct ht_xrow x = xrow_at(job->scratch, k);
    for (uint32_t t = tiles.from; t < tiles.to; t++)
        for (unsigned c = 0; c < HT_COLS; c++) {
            uint32_t r = t * HT_COLS + c;
            if (r < job->rows) // the last tile may repeat a row: computed and dropped
                job->run->device->kernels.quantise(job->x + (size_t)r * job->x_stride, k, &x);
            put_in_tile(&x, k, job->run->device->kernels.word_pairs,
                        (struct ht_xtile *)(void *)(to + xtile_bytes(k) * t), c);
        }
}

static void quantise_talls(const struct job *job, unsigned char *to)
{
    uint32_t k = job->p->k;
    struct ht_range tiles = ht_share((job->rows + HT_TALL - 1) / HT_TALL, job->thread, job->run->n_threads);
    struct ht_xrow x = xrow_at(job->scratch, k);
    for (uint32_t t = tiles.from; t < tiles.to; t++)
        for (uint32_t c = 0, r = t * HT_TALL; c < HT_TALL && r < job->rows; c++, r++) {
            job->run->device->kernels.quantise(job->x + (size_t)r * job->x_stride, k, &x);
            put_in_tall(&x, k, (struct ht_xtall *)(void *)(to + xtall_bytes(k) * t), c);
        }
}

// Rows side by side; an odd count is rounded up by the last row once more. The team shares out blocks of k: rows
// would lie in the same cache lines.
static void quantise_few(const struct job *job, struct ht_xfew *to)
{
    struct ht_range blocks = ht_share(job->p->k / 32, job->thread, job->run->n_threads);
    uint32_t k = 32 * (blocks.to - blocks.from), first = first_set(job->rows);
    struct ht_xrow x = xrow_at(job->scratch, k);
    for (uint32_t r = 0; r < job->rows; r++) {
        struct ht_xfew *set = to + (r < first ? 0 : job->p->k / 32) + blocks.from;
        uint32_t c = r < first ? r : r - first;
        job->run->device->kernels.quantise(job->x + (size_t)r * job->x_stride + 32 * blocks.from, k, &x);
        put_in_few(&x, k, set, c);
        if (r + 1 == job->rows && c % 2 == 0)
            put_in_few(&x, k, set, c + 1);
    }
}

// With few rows each thread quantises for itself; else the rows are shared out and all wait: true.
static bool prepare(struct job *job, enum path path, unsigned char *own)
{
    unsigned char *shared = job->run->plan->shared;
    if (path != PATH_PANELS && path != PATH_TALL && job->rows <= HT_FEW) {
        job->xrows = own;
        quantise_rows(job, (struct ht_range){0, job->rows});
        return false;
    }
    if (path == PATH_PANELS) {
        quantise_tiles(job, shared);
        job->xtiles = (const struct ht_xtile *)(const void *)shared;
    } else if (path == PATH_TALL) {
        quantise_talls(job, shared);
        job->xtalls = (const struct ht_xtall *)(const void *)shared;
    } else if (path == PATH_FEW) {
        job->xfew = (const struct ht_xfew *)(const void *)shared;
        quantise_few(job, (struct ht_xfew *)(void *)shared);
    } else {
        job->xrows = shared;
        quantise_rows(job, ht_share(job->rows, job->thread, job->run->n_threads));
    }
    ht_pool_barrier(job->run->device->pool, job->thread);
    return true;
}

static void run_part(const struct job *job, const struct ht_matmul_part *part, enum path path)
{
    if (is_float(job->run->device, part->w))
        run_float(job, part);
    else if (path == PATH_PLAIN)
        run_plain(job, part);
    else if (path == PATH_MATVEC)
        run_matvec(job, part);
    else if (path == PATH_FEW)
        run_few(job, part);
    else if (path == PATH_TALL)
        run_tall(job, part);
    else
        run_panels(job, part);
}

// With few rows the weights are one stream, broken at each barrier: this thread's first bytes of the next
// product are fetched before it waits.
static void fetch_ahead(const struct ht_call *call, const struct ht_run *run, unsigned thread)
{
    enum { LOOK = 8, BYTES = 4096 };
    const struct ht_call *end = run->plan->calls + run->plan->n_calls;
    for (const struct ht_call *next = call + 1; next < end && next <= call + LOOK; next++) {
        if (next->run != ht_run_matmul)
            continue;
        const struct ht_weight *w = next->p.matmul.part[0].w;
        uint32_t groups = (w->head.params.n + HT_GROUP - 1) / HT_GROUP;
        const unsigned char *at = ht_weight_group(w, ht_share(groups, thread, run->n_threads).from);
        for (size_t i = 0; i < BYTES; i += 64)
            __builtin_prefetch(at + i);
        return;
    }
}

void ht_run_matmul(const struct ht_call *call, const struct ht_run *run, unsigned thread)
{
    const struct ht_matmul *p = &call->p.matmul;
    unsigned char *scratch = ht_run_scratch(run, thread);
    size_t norm_bytes = HT_FEW * ht_round64(p->k * sizeof(float));
    struct job job = {.run = run,
                      .p = p,
                      .x = ht_ref_floats(&p->x),
                      .x_stride = p->x_stride,
                      .rows = ht_run_rows(run, p->rows),
                      .thread = thread,
                      .scratch = scratch + norm_bytes + HT_FEW * xrow_bytes(p->k)};
    if (!job.rows)
        return;
    if (call->fused && run->n_rows <= HT_FEW)
        own_norm(&job, &call[-1].p.rmsnorm, (float *)(void *)scratch);
    enum path path = path_of(&job);
    bool lora = ht_lora_live(p, run), waited = false;
    if (lora)
        ht_lora_down(p, run, thread, job.x, job.x_stride);
    if (path != PATH_FLOAT)
        waited = prepare(&job, path, scratch + norm_bytes);
    for (uint32_t i = 0; i < p->n_parts; i++)
        run_part(&job, &p->part[i], path);
    if (lora && !waited)
        ht_pool_barrier(run->device->pool, thread);
    if (lora)
        ht_lora_up(p, run, thread);
    if (job.rows <= HT_MAX_MATVEC)
        fetch_ahead(call, run, thread);
}
