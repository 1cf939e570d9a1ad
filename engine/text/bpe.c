// SPDX-License-Identifier: Apache-2.0
// Merging with a heap. Of equal ranks the leftmost pair goes first, as in `tokenizers` and `sentencepiece`. A
// heap entry counts only while its symbol is alive and its pair still has that rank; others are skipped.
#include "engine/text/bpe.h"

#include "engine/base/limits.h"
#include "engine/base/mem.h"
#include "engine/text/unicode.h"

static enum hearth_status no_memory(struct hearth_error *err)
{
    return ht_fail(err, HEARTH_NOMEM, "out of memory for tokenizing");
}

static enum hearth_status push(struct ht_merge *m, uint32_t rank, uint32_t left, struct hearth_error *err)
{
    if (m->n_heap == m->heap_capacity) {
        size_t capacity = m->heap_capacity ? 2 * m->heap_capacity : 256;
        if (!ht_grow((void **)&m->heap, m->n_heap, capacity, sizeof *m->heap))
            return no_memory(err);
        m->heap_capacity = capacity;
    }
    uint64_t entry = (uint64_t)rank << 32 | left;
    size_t at = m->n_heap++;
    for (; at && m->heap[(at - 1) / 2] > entry; at = (at - 1) / 2) {
        m->heap[at] = m->heap[(at - 1) / 2];
        m->n_steps++;
    }
    m->heap[at] = entry;
    return HEARTH_OK;
}

static uint64_t pop(struct ht_merge *m)
{
    uint64_t top = m->heap[0], last = m->heap[--m->n_heap];
    size_t at = 0;
    for (size_t child; (child = 2 * at + 1) < m->n_heap; at = child) {
        m->n_steps++;
        child += child + 1 < m->n_heap && m->heap[child + 1] < m->heap[child];
        if (m->heap[child] >= last)
            break;
        m->heap[at] = m->heap[child];
    }
    m->heap[at] = last;
    return top;
}

static uint32_t end_of(const struct ht_merge *m, uint32_t symbol)
{
    uint32_t next = m->symbols[symbol].next;
    return next == HT_NO_SYMBOL ? m->len_bytes : m->symbols[next].start;
}

static enum hearth_status note_unused(struct ht_merge *m, int32_t id, size_t left_bytes,
                                      struct hearth_error *err)
{
    if (!m->unused_split)
        m->unused_split = ht_calloc(m->vocab->n_tokens, sizeof *m->unused_split);
    if (!m->unused_split)
        return no_memory(err);
    m->unused_split[id] = (uint16_t)left_bytes; // less than HT_MAX_TOKEN_BYTES
    return HEARTH_OK;
}

// Ranks the pair (left, its next) and enters it.
static enum hearth_status consider(struct ht_merge *m, uint32_t left, struct hearth_error *err)
{
    struct ht_symbol *l = &m->symbols[left];
    l->rank = HT_NO_RANK;
    if (l->next == HT_NO_SYMBOL)
        return HEARTH_OK;
    const struct ht_symbol *r = &m->symbols[l->next];
    m->n_steps++;
    if (m->vocab->byte_level) {
        l->rank = ht_vocab_pair_rank(m->vocab, (uint32_t)l->id, (uint32_t)r->id);
    } else {
        int32_t id = ht_vocab_find(m->vocab, m->text + l->start, end_of(m, l->next) - l->start);
        if (id >= 0) {
            l->rank = m->vocab->rank[id];
            if (m->vocab->type[id] == HT_TOKEN_UNUSED)
                HT_TRY(note_unused(m, id, r->start - l->start, err));
        }
    }
    return l->rank == HT_NO_RANK ? HEARTH_OK : push(m, l->rank, left, err);
}

static enum hearth_status split_symbols(struct ht_merge *m, struct hearth_error *err)
{
    m->n_symbols = 0;
    if (m->len_bytes > m->symbol_capacity) {
        size_t capacity = m->symbol_capacity ? 2 * m->symbol_capacity : 64;
        if (capacity < m->len_bytes)
            capacity = m->len_bytes;
        if (!ht_grow((void **)&m->symbols, 0, capacity, sizeof *m->symbols))
            return no_memory(err);
        m->symbol_capacity = capacity;
    }
    for (uint32_t at = 0; at < m->len_bytes;) {
        uint32_t c, length = 1;
        int32_t id = -1;
        m->n_steps++;
        if (m->vocab->byte_level)
            id = m->vocab->byte_id[m->text[at]];
        else
            length = (uint32_t)ht_uc_next(m->text + at, m->len_bytes - at, &c);
        if (m->vocab->byte_level && id < 0) {
            m->n_dropped_bytes++;
        } else {
            uint32_t i = (uint32_t)m->n_symbols++;
            m->symbols[i] = (struct ht_symbol){i - 1, i + 1, at, HT_NO_RANK, id}; // 0 - 1 is HT_NO_SYMBOL
        }
        at += length;
    }
    if (m->n_symbols)
        m->symbols[m->n_symbols - 1].next = HT_NO_SYMBOL;
    return HEARTH_OK;
}

static void unite(struct ht_merge *m, uint32_t left)
{
    struct ht_symbol *l = &m->symbols[left], *r = &m->symbols[l->next];
    if (m->vocab->byte_level)
        l->id = (int32_t)m->vocab->merges[l->rank].result;
    l->next = r->next;
    r->rank = HT_NO_RANK; // dead: no heap entry of its counts any more
    if (l->next != HT_NO_SYMBOL)
        m->symbols[l->next].prev = left;
}

enum hearth_status ht_merge_run(struct ht_merge *m, const void *text, size_t len_bytes,
                                struct hearth_error *err)
{
    if (len_bytes > HT_MAX_STRETCH_BYTES)
        return ht_fail(err, HEARTH_LIMIT, "the text has %zu bytes without a place to split, more than %d",
                       len_bytes, HT_MAX_STRETCH_BYTES);
    m->text = text;
    m->len_bytes = (uint32_t)len_bytes;
    m->n_heap = 0;
    HT_TRY(split_symbols(m, err));
    for (uint32_t i = 0; i < m->n_symbols; i++)
        HT_TRY(consider(m, i, err));
    while (m->n_heap) {
        uint64_t top = pop(m);
        uint32_t left = (uint32_t)top, rank = (uint32_t)(top >> 32);
        if (m->symbols[left].rank != rank)
            continue;
        unite(m, left);
        HT_TRY(consider(m, left, err));
        if (m->symbols[left].prev != HT_NO_SYMBOL)
            HT_TRY(consider(m, m->symbols[left].prev, err));
    }
    return HEARTH_OK;
}

void ht_merge_free(struct ht_merge *m)
{
    ht_free(m->symbols);
    ht_free(m->heap);
    ht_free(m->unused_split);
    *m = (struct ht_merge){0};
}
