// SPDX-License-Identifier: Apache-2.0
// LoRA beside a product. Down: u = A x, the ranks of few rows shared out, or many rows. Up: y += B u, right after the
// product and by the thread that computed it, so that nobody waits between the two. Rows side by side with one adapter
// go through together. Team threads, inside a submit.
#include "engine/cpu/cpu.h"

static int32_t slot_of(const struct ht_matmul *p, const struct ht_run *run, uint32_t row)
{
    return run->step->adapter[p->rows == HT_ROWS_OUT ? (uint32_t)run->step->out_row[row] : row];
}

// What the adapter of rows [row, *end) has for a linear, *end <= limit; NULL: nothing.
static const struct ht_bank_entry *next_rows(const struct ht_matmul *p, const struct ht_run *run, uint32_t linear,
                                             uint32_t row, uint32_t limit, uint32_t *end)
{
    int32_t slot = slot_of(p, run, row);
    for (*end = row + 1; *end < limit && slot_of(p, run, *end) == slot;)
        ++*end;
    if (slot < 0 || !p->bank->slot[slot].entries)
        return NULL;
    const struct ht_bank_entry *entry = &p->bank->slot[slot].entries[linear];
    return entry->rank ? entry : NULL;
}

static float *u_at(const struct ht_bank *bank, uint32_t part, uint32_t row)
{
    return bank->u + ((size_t)part * bank->head.params.rows + row) * bank->u_stride;
}

bool ht_lora_live(const struct ht_matmul *p, const struct ht_run *run)
{
    if (!p->bank || !run->slots)
        return false;
    for (uint32_t slot = 0; slot < p->bank->head.params.slots; slot++)
        for (uint32_t i = 0; run->slots >> slot & 1 && p->bank->slot[slot].entries && i < p->n_parts; i++)
            if (p->bank->slot[slot].entries[p->part[i].linear].rank)
                return true;
    return false;
}

void ht_lora_down(const struct ht_matmul *p, const struct ht_run *run, unsigned thread, const float *x,
                  uint32_t x_stride)
{
    enum { FEW_ROWS = 8 }; // per thread
    uint32_t n_rows = ht_run_rows(run, p->rows), end;
    bool many = n_rows >= FEW_ROWS * run->n_threads;
    struct ht_range rows = many ? ht_share(n_rows, thread, run->n_threads) : (struct ht_range){0, n_rows};
    for (uint32_t i = 0; i < p->n_parts; i++)
        for (uint32_t r = rows.from; r < rows.to; r = end) {
            const struct ht_bank_entry *e = next_rows(p, run, p->part[i].linear, r, rows.to, &end);
            if (!e)
                continue;
            struct ht_range j = many ? (struct ht_range){0, e->rank} : ht_share(e->rank, thread, run->n_threads);
            if (j.to > j.from)
                run->device->kernels.lora_down(e->a + (size_t)j.from * p->k, j.to - j.from, p->k,
                                               x + (size_t)r * x_stride, x_stride, end - r,
                                               u_at(p->bank, i, r) + j.from, p->bank->u_stride);
        }
}

void ht_lora_up(const struct ht_matmul *p, const struct ht_run *run, const struct ht_matmul_part *part,
                struct ht_range rows, struct ht_range outputs, float *y, size_t y_stride)
{
    for (uint32_t r = rows.from, end; r < rows.to; r = end) {
        const struct ht_bank_entry *e = next_rows(p, run, part->linear, r, rows.to, &end);
        if (e)
            run->device->kernels.lora_up(e->b + (size_t)outputs.from * e->rank, e->rank,
                                         u_at(p->bank, (uint32_t)(part - p->part), r), p->bank->u_stride, end - r,
                                         outputs.to - outputs.from, y + (r - rows.from) * y_stride, y_stride);
    }
}
