// SPDX-License-Identifier: Apache-2.0
// Matrix products: choosing between the paths (they give the same bits), quantising x, sharing out the outputs. Team
// threads, inside a submit.
//   matvec   up to 8 rows: one group of 16 outputs after another, streamed once from memory
//   few, panels, tall: more rows; run_many.c
//   plain    types or CPUs without these: the contract itself
//   float    contract F and float weights: a group as f32 (k, 16), one chain per output
// All but those of run_many.c give every thread a fixed range of groups for all rows of x.
#include <string.h>

#include "engine/base/mem.h"
#include "engine/cpu/matmul_job.h"

enum { MAX_COLS = 8 };

bool ht_part_is_float(const struct ht_device *device, const struct ht_weight *w)
{
    return device->precision == HT_PRECISION_F || w->layout->kind == HT_KIND_FLOAT;
}

// ---- quantised rows in memory

size_t ht_xrow_bytes(uint32_t k)
{
    return ht_round64(k) + 2 * ht_round64(k / 32 * sizeof(float)) + ht_round64(k / 16 * sizeof(int32_t));
}

struct ht_xrow ht_xrow_at(unsigned char *at, uint32_t k)
{
    struct ht_xrow x;
    x.q = (int8_t *)at;
    x.d = (float *)(void *)(at + ht_round64(k));
    x.ds = (float *)(void *)((unsigned char *)x.d + ht_round64(k / 32 * sizeof(float)));
    x.sum = (int32_t *)(void *)((unsigned char *)x.ds + ht_round64(k / 32 * sizeof(float)));
    return x;
}

static uint32_t max_rows(const struct ht_plan *plan, const struct ht_matmul *p)
{
    return p->rows == HT_ROWS_OUT ? plan->head.shape.outs : plan->head.shape.rows;
}

// Shared: rows as xrows (up to 8, or all for the plain path), or in a form of run_many.c.
size_t ht_matmul_shared_bytes(const struct ht_plan *plan, const struct ht_matmul *p)
{
    size_t rows = max_rows(plan, p);
    if (rows <= HT_FEW || p->k % 32)
        return 0;
    size_t as_rows = rows * ht_xrow_bytes(p->k), as_many = ht_many_shared_bytes(plan->device, p->k, (uint32_t)rows);
    return ht_round64(as_rows > as_many ? as_rows : as_many);
}

// Per thread: few rows normalised and quantised, one more quantised row; what run_many.c wants, an f32 group or a row
// of blocks.
size_t ht_matmul_thread_bytes(const struct ht_plan *plan, const struct ht_matmul *p)
{
    size_t k = p->k, many = ht_many_thread_bytes(p->k, max_rows(plan, p)), group = k * HT_GROUP * sizeof(float);
    size_t own = HT_FEW * (ht_round64(k * sizeof(float)) + ht_xrow_bytes(p->k)) + ht_xrow_bytes(p->k);
    size_t blocks = 2 * ht_round64(k * sizeof(float)); // a row in GGUF form, and as f32
    return own + (many > group ? many : group) + blocks;
}

// ---- outputs

void ht_put(const struct ht_job *job, const struct ht_matmul_part *part, uint32_t row, uint32_t first, uint32_t n,
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

static struct ht_range group_share(const struct ht_job *job, const struct ht_weight *w)
{
    return ht_share((w->head.params.n + HT_GROUP - 1) / HT_GROUP, job->thread, job->run->n_threads);
}

// ---- the paths

static void run_float(const struct ht_job *job, const struct ht_matmul_part *part)
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
                ht_put(job, part, r + c, g * HT_GROUP, rows_left(w, g, HT_GROUP), out + c * HT_GROUP);
        }
    }
}

static void run_plain(const struct ht_job *job, const struct ht_matmul_part *part)
{
    const struct ht_weight *w = part->w;
    struct ht_range groups = group_share(job, w);
    for (uint32_t i = groups.from * HT_GROUP; i < groups.to * HT_GROUP && i < w->head.params.n; i++) {
        ht_layout_unpack_row(w->layout, ht_weight_group(w, i / HT_GROUP), job->p->k, i % HT_GROUP,
                             job->scratch);
        for (uint32_t r = 0; r < job->rows; r++) {
            struct ht_xrow x = ht_xrow_at(job->xrows + ht_xrow_bytes(job->p->k) * r, job->p->k);
            float t = ht_contract_dot_q(w->head.params.type, job->scratch, job->p->k, &x);
            ht_put(job, part, r, i, 1, &t);
        }
    }
}

static void run_matvec(const struct ht_job *job, const struct ht_matmul_part *part)
{
    const struct ht_weight *w = part->w;
    struct ht_range groups = group_share(job, w);
    const struct ht_kernels *kernels = &job->run->device->kernels;
    struct ht_xrow x[HT_MAX_MATVEC];
    _Alignas(64) float out[HT_MAX_MATVEC * HT_GROUP];
    enum ht_type type = w->head.params.type;
    for (uint32_t r = 0; r < job->rows; r++)
        x[r] = ht_xrow_at(job->xrows + ht_xrow_bytes(job->p->k) * r, job->p->k);
    for (uint32_t g = groups.from; g < groups.to; g++) {
        kernels->matvec[type](ht_weight_group(w, g), job->p->k, x, job->rows, out);
        for (unsigned c = 0; c < job->rows; c++)
            ht_put(job, part, c, g * HT_GROUP, rows_left(w, g, HT_GROUP), out + c * HT_GROUP);
    }
}

// ---- a call: x is prepared in the one form that all its quantised parts read

enum ht_path ht_path_of(const struct ht_run *run, const struct ht_matmul *p, uint32_t rows)
{
    const struct ht_kernels *kernels = &run->device->kernels;
    bool any = false, matvec = rows <= HT_MAX_MATVEC, panels = rows > HT_FEW, tall = rows >= HT_TALL_FROM,
         few = panels && rows >= kernels->few_from && rows <= HT_MAX_FEW;
    for (uint32_t i = 0; i < p->n_parts; i++) {
        const struct ht_weight *w = p->part[i].w;
        if (ht_part_is_float(run->device, w))
            continue;
        any = true;
        matvec = matvec && kernels->matvec[w->head.params.type];
        few = few && kernels->few[w->head.params.type];
        panels = panels && kernels->tile[w->head.params.type];
        tall = tall && kernels->tall[w->head.params.type];
    }
    enum ht_path many = tall ? HT_PATH_TALL : panels ? HT_PATH_PANELS : HT_PATH_PLAIN;
    return !any ? HT_PATH_FLOAT : few ? HT_PATH_FEW : matvec ? HT_PATH_MATVEC : many;
}

// A product of gate and up whose GLU and the product after it follow (record.c saw that nobody else reads gate, up or
// y). Where both products take the same path of many rows, the first leaves the GLU's y quantised for the second.
bool ht_matmul_takes_glu(const struct ht_call *gate_up, const struct ht_run *run)
{
    if (!gate_up->glu_follows || !run->n_rows)
        return false;
    const struct ht_matmul *up = &gate_up[0].p.matmul, *down = &gate_up[2].p.matmul;
    enum ht_path path = ht_path_of(run, up, run->n_rows);
    return ht_path_is_many(path) && path == ht_path_of(run, down, run->n_rows);
}

// Normalised rows for this thread alone; thread 0 also writes them where later ops may read them.
static void own_norm(struct ht_job *job, const struct ht_rmsnorm *n, float *own)
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

static void quantise_rows(const struct ht_job *job, struct ht_range rows)
{
    for (uint32_t r = rows.from; r < rows.to; r++) {
        struct ht_xrow x = ht_xrow_at(job->xrows + ht_xrow_bytes(job->p->k) * r, job->p->k);
        job->run->device->kernels.quantise(job->x + (size_t)r * job->x_stride, job->p->k, &x);
    }
}

// Units of this product, and of the one after the GLU that it takes: the team waits once for both.
static void deal(const struct ht_job *job)
{
    ht_many_deal(job);
    if (job->glu)
        ht_many_deal(&(struct ht_job){.run = job->run, .p = job->after_glu, .thread = job->thread, .deal = 1});
}

// With few rows each thread quantises for itself; else the rows are shared out and all wait: true. After a GLU all is
// there but A x.
static bool prepare(struct ht_job *job, enum ht_path path, unsigned char *own)
{
    if (job->xmany && !job->lora)
        return false;
    struct ht_range all = {0, job->rows};
    bool many = ht_path_is_many(path), alone = !many && job->rows <= HT_FEW;
    job->xrows = alone ? own : job->run->plan->shared;
    if (!many)
        quantise_rows(job, alone ? all : ht_share(job->rows, job->thread, job->run->n_threads));
    else if (!job->xmany)
        ht_many_quantise(job, path, job->xmany = job->run->plan->shared);
    if (many && !job->deal)
        deal(job);
    if (!alone)
        ht_pool_barrier(job->run->device->pool, job->thread);
    return !alone;
}

static void run_parts(const struct ht_job *job, enum ht_path path)
{
    for (uint32_t i = 0; i < job->p->n_parts; i++) {
        const struct ht_matmul_part *part = &job->p->part[i];
        if (ht_part_is_float(job->run->device, part->w))
            run_float(job, part);
        else if (path == HT_PATH_PLAIN)
            run_plain(job, part);
        else if (path == HT_PATH_MATVEC)
            run_matvec(job, part);
    }
    if (ht_path_is_many(path))
        ht_many_run(job, path);
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

// What adapters add to the outputs of this thread's share; those of run_many.c have it already.
static void add_lora(const struct ht_job *job, enum ht_path path, bool waited)
{
    const struct ht_run *run = job->run;
    if (!waited)
        ht_pool_barrier(run->device->pool, job->thread);
    for (uint32_t i = 0; i < job->p->n_parts; i++) {
        const struct ht_matmul_part *part = &job->p->part[i];
        struct ht_range outputs = ht_share_columns(part->w->head.params.n, job->thread, run->n_threads);
        if (outputs.to > outputs.from && (!ht_path_is_many(path) || ht_part_is_float(run->device, part->w)))
            ht_lora_up(job->p, run, part, (struct ht_range){0, job->rows}, outputs,
                       ht_ref_floats(&part->y) + outputs.from, part->y_stride);
    }
}

void ht_run_matmul(const struct ht_call *call, const struct ht_run *run, unsigned thread)
{
    const struct ht_matmul *p = &call->p.matmul;
    unsigned char *scratch = ht_run_scratch(run, thread);
    size_t norm_bytes = HT_FEW * ht_round64(p->k * sizeof(float));
    struct ht_job job = {.run = run,
                         .p = p,
                         .x = ht_ref_floats(&p->x),
                         .x_stride = p->x_stride,
                         .rows = ht_run_rows(run, p->rows),
                         .thread = thread,
                         .scratch = scratch + norm_bytes + HT_FEW * ht_xrow_bytes(p->k)};
    if (!job.rows)
        return;
    if (call->fused && run->n_rows <= HT_FEW)
        own_norm(&job, &call[-1].p.rmsnorm, (float *)(void *)scratch);
    enum ht_path path = ht_path_of(run, p, job.rows);
    bool waited = false;
    job.lora = ht_lora_live(p, run);
    if (job.lora)
        ht_lora_down(p, run, thread, job.x, job.x_stride);
    unsigned char *glu_at = run->plan->shared + call->glu_offset;
    if (ht_matmul_takes_glu(call, run)) {
        job.glu = &call[1].p.glu;
        job.after_glu = &call[2].p.matmul;
        job.ymany = glu_at;
        job.keep_glu = ht_lora_live(&call[2].p.matmul, run);
    } else if (call->after_glu && ht_matmul_takes_glu(call - 2, run)) {
        job.xmany = glu_at;
        job.deal = 1;
    }
    if (path != HT_PATH_FLOAT)
        waited = prepare(&job, path, scratch + norm_bytes);
    run_parts(&job, path);
    if (job.lora)
        add_lora(&job, path, waited);
    if (job.rows <= HT_MAX_MATVEC)
        fetch_ahead(call, run, thread);
}
