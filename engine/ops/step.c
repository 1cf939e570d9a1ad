// SPDX-License-Identifier: Apache-2.0
// Where each array of a step block lies: one pass that counts and, with a base, sets pointers. Any thread.
#include "engine/base/mem.h"
#include "engine/ops/train.h"

enum { STEP_ALIGN = 64 };

struct cursor {
    unsigned char *base;
    size_t used;
    bool failed;
};

static void *take(struct cursor *cursor, size_t count, size_t size_bytes)
{
    size_t bytes, end;
    if (!ht_mul(count, size_bytes, &bytes) || !ht_add(bytes, STEP_ALIGN - 1, &bytes) ||
        !ht_add(cursor->used, bytes & ~(size_t)(STEP_ALIGN - 1), &end)) {
        cursor->failed = true;
        return NULL;
    }
    void *p = cursor->base ? cursor->base + cursor->used : NULL;
    cursor->used = end;
    return p;
}

size_t ht_step_layout(struct ht_step *step, const struct ht_step_shape *shape, void *base)
{
    struct cursor c = {.base = base};
    size_t pages, history, bias, mask;
    if (!ht_mul(shape->seqs, shape->pages, &pages) || !ht_mul(shape->outs, HT_MAX_PENALTY_WINDOW, &history) ||
        !ht_mul(shape->outs, HT_MAX_LOGIT_BIAS, &bias) ||
        !ht_mul(shape->outs, ht_mask_words(shape->vocab), &mask))
        return 0;
    struct ht_step s = {.base = base, .shape = *shape};
    s.counts = take(&c, 4, sizeof *s.counts);
    s.ids = take(&c, shape->rows, sizeof *s.ids);
    s.pos = take(&c, shape->rows, sizeof *s.pos);
    s.seq = take(&c, shape->rows, sizeof *s.seq);
    s.adapter = take(&c, shape->rows, sizeof *s.adapter);
    s.out_row = take(&c, shape->outs, sizeof *s.out_row);
    s.page = take(&c, pages, sizeof *s.page);
    s.sampler = take(&c, shape->outs, sizeof *s.sampler);
    s.history = take(&c, history, sizeof *s.history);
    s.bias_token = take(&c, bias, sizeof *s.bias_token);
    s.bias_value = take(&c, bias, sizeof *s.bias_value);
    s.mask = take(&c, mask, sizeof *s.mask);
    if (c.failed)
        return 0;
    s.size_bytes = c.used;
    *step = s;
    return c.used;
}

size_t ht_train_step_layout(struct ht_train_step *step, uint32_t rows, void *base)
{
    struct cursor c = {.base = base};
    struct ht_train_step s = {.base = base, .rows = rows};
    s.values = take(&c, 1, sizeof *s.values);
    s.seg_from = take(&c, rows, sizeof *s.seg_from);
    s.target = take(&c, rows, sizeof *s.target);
    s.weight = take(&c, rows, sizeof *s.weight);
    s.row_id = take(&c, rows, sizeof *s.row_id);
    if (c.failed)
        return 0;
    s.size_bytes = c.used;
    *step = s;
    return c.used;
}
