// SPDX-License-Identifier: Apache-2.0
// Causal attention over the paged cache. A unit of work is a block of neighbouring rows of one session and
// some query heads of one kv head: up to 12 (row, head) queries that read each k and v once. Every query's
// sums run in the order that ops.h states, whatever the blocks are. Team threads, inside a submit.
#include <math.h>
#include <string.h>

#include "engine/base/limits.h"
#include "engine/cpu/cpu.h"

struct unit {
    uint32_t row, n_rows;   // rows of one session at consecutive positions
    uint32_t head, n_heads; // of one kv head; n_rows * n_heads <= HT_MAX_QUERIES
};

struct query {
    uint32_t from, to; // positions [from, to) that it sees
};

static size_t score_stride(const struct ht_plan *plan)
{
    return (size_t)plan->head.shape.pages * HT_KV_PAGE;
}

size_t ht_attention_thread_bytes(const struct ht_plan *plan, const struct ht_attention *p)
{
    const struct ht_kv_params *kv = &p->kv->head.params;
    return HT_MAX_QUERIES * (score_stride(plan) + kv->v_dim + kv->k_dim) * sizeof(float);
}

float ht_alibi_slope(uint32_t heads, float max_bias, uint32_t head)
{
    if (max_bias <= 0)
        return 0;
    uint32_t power = 1; // largest power of two that is not above the number of heads
    while (2 * power <= heads)
        power *= 2;
    double bias = max_bias, step = head < power ? head + 1 : (2 * (head - power) + 1) / 2.0;
    return (float)exp2(-bias * step / power);
}

static const unsigned char *head_page(const struct ht_attention *p, const struct ht_step *step, uint32_t row,
                                      uint32_t kv_head, uint32_t page)
{
    const uint32_t *pages = step->page + (size_t)step->seq[row] * step->shape.pages;
    return ht_kv_head_at(p->kv, pages[page], p->layer, kv_head);
}

// Adds e * v of positions [from, to) for queries [q0, q0 + n) to acc.
static void add_values(const struct ht_attention *p, const struct ht_run *run, const struct unit *unit,
                       const float *e, uint32_t q0, uint32_t n, uint32_t from, uint32_t to, float *const *acc)
{
    const struct ht_kv_geometry *g = &p->kv->geometry;
    uint32_t kv_head = unit->head / (p->heads / p->kv->head.params.kv_heads);
    size_t stride = score_stride(run->plan);
    while (from < to) {
        uint32_t page = from / HT_KV_PAGE, start = page * HT_KV_PAGE;
        uint32_t end = to < start + HT_KV_PAGE ? to : start + HT_KV_PAGE;
        const unsigned char *head = head_page(p, run->step, unit->row, kv_head, page);
        run->device->kernels.values(g, head + g->v_at, e + q0 * stride + start, stride, n, from - start,
                                    end - start, acc + q0);
        from = end;
    }
}

static void run_unit(const struct ht_call *call, const struct ht_run *run, const struct unit *unit,
                     float *scratch)
{
    const struct ht_attention *p = &call->p.attention;
    const struct ht_kernels *kernels = &run->device->kernels;
    const struct ht_kv_params *kv = &p->kv->head.params;
    uint32_t kv_head = unit->head / (p->heads / kv->kv_heads), n = unit->n_rows * unit->n_heads;
    size_t stride = score_stride(run->plan);
    float *acc[HT_MAX_QUERIES], sum[HT_MAX_QUERIES], *s = scratch, *out = scratch + HT_MAX_QUERIES * stride;
    float *q = out + (size_t)HT_MAX_QUERIES * kv->v_dim; // (k_dim, n)
    struct query range[HT_MAX_QUERIES];
    uint32_t first = UINT32_MAX, last = 0, common_from = 0, common_to = UINT32_MAX;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t row = unit->row + i / unit->n_heads, pos = (uint32_t)run->step->pos[row];
        const float *from = ht_ref_floats(&p->q) + (size_t)row * p->q_stride +
                            (size_t)(unit->head + i % unit->n_heads) * kv->k_dim;
        for (uint32_t d = 0; d < kv->k_dim; d++)
            q[(size_t)d * n + i] = from[d];
        acc[i] = out + (size_t)i * kv->v_dim;
        range[i] = (struct query){p->window && pos >= p->window ? pos - p->window + 1 : 0, pos + 1};
        first = range[i].from < first ? range[i].from : first;
        last = range[i].to > last ? range[i].to : last;
        common_from = range[i].from > common_from ? range[i].from : common_from;
        common_to = range[i].to < common_to ? range[i].to : common_to;
    }
    for (uint32_t page = first / HT_KV_PAGE; page <= (last - 1) / HT_KV_PAGE; page++)
        kernels->scores(&p->kv->geometry, head_page(p, run->step, unit->row, kv_head, page), q, n,
                        s + page * HT_KV_PAGE, stride);
    for (uint32_t i = 0; i < n; i++)
        sum[i] = kernels->softmax(s + i * stride, range[i].from, range[i].to, p->scale, p->softcap,
                                  ht_alibi_slope(p->heads, p->alibi_max_bias, unit->head + i % unit->n_heads),
                                  range[i].to - 1);
    memset(out, 0, (size_t)n * kv->v_dim * sizeof(float));
    if (common_from >= common_to) // windows that do not meet
        common_from = common_to = 0;
    for (uint32_t i = 0; i < n && common_to; i++)
        if (range[i].from < common_from)
            add_values(p, run, unit, s, i, 1, range[i].from, common_from, acc);
    add_values(p, run, unit, s, 0, n, common_from, common_to, acc);
    for (uint32_t i = common_to ? unit->n_heads : 0; i < n; i += unit->n_heads) {
        if (common_to) // each row sees one position more than the row before it, and so do those after it
            add_values(p, run, unit, s, i, n - i, range[i].to - 1, range[i].to, acc);
        else
            add_values(p, run, unit, s, i, unit->n_heads, range[i].from, range[i].to, acc);
    }
    for (uint32_t i = 0; i < n; i++) {
        float *y = ht_ref_floats(&p->y) + (size_t)(unit->row + i / unit->n_heads) * p->y_stride +
                   (size_t)(unit->head + i % unit->n_heads) * kv->v_dim;
        for (uint32_t d = 0; d < kv->v_dim; d++)
            y[d] = acc[i][d] / sum[i];
    }
}

// Rows that follow each other in one session, at most `most`, beginning at row r.
static uint32_t rows_together(const struct ht_step *step, uint32_t r, uint32_t n_rows, uint32_t most)
{
    uint32_t n = 1;
    while (n < most && r + n < n_rows && step->seq[r + n] == step->seq[r] &&
           step->pos[r + n] == step->pos[r] + (int32_t)n)
        n++;
    return n;
}

// Few rows: heads are shared out one by one, in the order of their kv heads, so that all threads have as much work and
// a kv head's pages stay with the thread that wrote them.
static void run_few(const struct ht_call *call, const struct ht_run *run, unsigned thread, float *scratch)
{
    const struct ht_attention *p = &call->p.attention;
    uint32_t group = p->heads / p->kv->head.params.kv_heads, of_kv_head = run->n_rows * group;
    struct ht_range items = ht_share(run->n_rows * p->heads, thread, run->n_threads);
    while (items.from < items.to) {
        uint32_t kv_head = items.from / of_kv_head, row = items.from % of_kv_head / group, head = items.from % group;
        uint32_t left = items.to - items.from, n_heads = group - head < left ? group - head : left, n_rows = 1;
        if (n_heads > HT_MAX_QUERIES)
            n_heads = HT_MAX_QUERIES;
        else if (n_heads == group) {
            uint32_t most = HT_MAX_QUERIES / group < left / group ? HT_MAX_QUERIES / group : left / group;
            n_rows = rows_together(run->step, row, run->n_rows, most);
        }
        run_unit(call, run, &(struct unit){row, n_rows, kv_head * group + head, n_heads}, scratch);
        items.from += n_rows * n_heads;
    }
}

// Many: blocks of rows, dealt in turn (a block's work grows with its position).
void ht_run_attention(const struct ht_call *call, const struct ht_run *run, unsigned thread)
{
    const struct ht_attention *p = &call->p.attention;
    uint32_t kv_heads = p->kv->head.params.kv_heads, group = p->heads / kv_heads;
    float *scratch = ht_run_scratch(run, thread);
    uint32_t n_heads = group < HT_MAX_QUERIES ? group : HT_MAX_QUERIES, per_unit = HT_MAX_QUERIES / n_heads;
    if (run->n_rows <= HT_MAX_FEW || run->n_rows < 2 * run->n_threads) {
        run_few(call, run, thread, scratch);
        return;
    }
    uint32_t turn = 0;
    for (uint32_t r = 0, n; r < run->n_rows; r += n) {
        n = rows_together(run->step, r, run->n_rows, per_unit);
        for (uint32_t kv_head = 0; kv_head < kv_heads; kv_head++)
            for (uint32_t h = 0; h < group; h += n_heads, turn++)
                if (turn % run->n_threads == thread)
                    run_unit(
                        call, run,
                        &(struct unit){r, n, kv_head * group + h, group - h < n_heads ? group - h : n_heads},
                        scratch);
    }
}
