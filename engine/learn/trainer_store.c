// SPDX-License-Identifier: Apache-2.0
// Samples in memory for the length of a run: ids as they are, weights as runs, in blocks that never move.
// Engine thread.
#include <string.h>

#include "engine/base/limits.h"
#include "engine/base/mem.h"
#include "engine/learn/trainer.h"

enum { BLOCK_BYTES = 256 << 10, ALIGN = 8 };

struct ht_train_block {
    struct ht_train_block *next;
    size_t used, capacity;
    _Alignas(ALIGN) unsigned char bytes[];
};

static void *take(struct ht_train_store *store, size_t size_bytes)
{
    struct ht_train_block *block = store->blocks;
    size_t n = (size_bytes + ALIGN - 1) & ~(size_t)(ALIGN - 1);
    if (!block || block->capacity - block->used < n) {
        size_t capacity = n > BLOCK_BYTES ? n : BLOCK_BYTES;
        block = ht_calloc(1, sizeof *block + capacity);
        if (!block)
            return NULL;
        block->capacity = capacity;
        block->next = store->blocks;
        store->blocks = block;
    }
    block->used += n;
    return block->bytes + block->used - n;
}

enum hearth_status ht_train_store_init(struct ht_train_store *store, size_t n_files, struct hearth_error *err)
{
    *store = (struct ht_train_store){.n_files = n_files};
    store->checksums = ht_calloc(n_files, sizeof *store->checksums);
    if (!store->checksums)
        return ht_fail(err, HEARTH_NOMEM, "out of memory for %zu data files", n_files);
    for (size_t i = 0; i < n_files; i++)
        ht_hash_init(&store->checksums[i]);
    return HEARTH_OK;
}

void ht_train_store_free(struct ht_train_store *store)
{
    for (struct ht_train_block *block = store->blocks, *next; block; block = next) {
        next = block->next;
        ht_free(block);
    }
    ht_free(store->samples);
    ht_free(store->checksums);
    *store = (struct ht_train_store){0};
}

static size_t count_runs(const float *weights, size_t n)
{
    size_t n_runs = n > 0;
    for (size_t i = 1; i < n; i++)
        n_runs += weights[i] != weights[i - 1];
    return n_runs;
}

static void put_runs(struct ht_train_run *runs, const float *weights, size_t n)
{
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        if (i && weights[i] != weights[i - 1])
            at++;
        runs[at].weight = weights[i];
        runs[at].n++;
    }
}

// Of the id of the piece and of its tokens: the same record in two files, and two records of one id, differ.
static uint64_t key_of(const struct hearth_data_sample *s)
{
    uint64_t key = ht_data_hash(s->record->id, strlen(s->record->id), s->piece);
    return ht_data_hash(s->ids, s->n_tokens * sizeof *s->ids, key);
}

static void add_checksum(struct ht_hash *hash, const struct ht_train_sample *s)
{
    const uint64_t head[] = {s->key, s->n_tokens, s->n_runs, s->held_out};
    ht_hash_add(hash, head, sizeof head);
    ht_hash_add(hash, s->ids, s->n_tokens * sizeof *s->ids);
    ht_hash_add(hash, s->runs, s->n_runs * sizeof *s->runs);
}

enum hearth_status ht_train_store_add(struct ht_train_store *store, const struct hearth_data_sample *sample,
                                      const char *id, struct hearth_error *err)
{
    size_t n = sample->n_tokens, n_runs = count_runs(sample->weights, n), capacity = store->capacity;
    if (store->n_samples >= HT_MAX_TRAIN_SAMPLES || n > HT_MAX_TRAIN_TOKENS - store->n_tokens)
        return ht_fail(err, HEARTH_LIMIT, "%s: more than %d samples or %d tokens are too many for one run",
                       ht_shown_path(sample->record->source), HT_MAX_TRAIN_SAMPLES, HT_MAX_TRAIN_TOKENS);
    if (store->n_samples == capacity) {
        void *samples = store->samples;
        if (!ht_grow(&samples, capacity, capacity ? 2 * capacity : 256, sizeof *store->samples))
            return ht_fail(err, HEARTH_NOMEM, "out of memory for more than %zu samples", capacity);
        store->samples = samples;
        store->capacity = capacity ? 2 * capacity : 256;
    }
    int32_t *ids = take(store, n * sizeof *ids);
    struct ht_train_run *runs = ids ? take(store, n_runs * sizeof *runs) : NULL;
    char *own_id = runs && id ? take(store, strlen(id) + 1) : NULL;
    if (!runs || (id && !own_id))
        return ht_fail(err, HEARTH_NOMEM, "out of memory for more than %llu tokens of training data",
                       (unsigned long long)store->n_tokens);
    memcpy(ids, sample->ids, n * sizeof *ids);
    put_runs(runs, sample->weights, n);
    if (id)
        memcpy(own_id, id, strlen(id) + 1);
    struct ht_train_sample *s = &store->samples[store->n_samples++];
    *s = (struct ht_train_sample){.ids = ids, .runs = runs, .id = own_id, .key = key_of(sample),
                                  .line = sample->record->line, .n_tokens = (uint32_t)n, .n_runs = (uint32_t)n_runs,
                                  .file = (uint16_t)sample->file, .held_out = sample->held_out};
    store->n_held_out += s->held_out;
    store->n_tokens += n;
    if (s->n_tokens > store->longest)
        store->longest = s->n_tokens;
    add_checksum(&store->checksums[s->file], s);
    return HEARTH_OK;
}

void ht_train_store_checksum(const struct ht_train_store *store, size_t file, unsigned char out[HT_HASH_BYTES])
{
    struct ht_hash copy = store->checksums[file];
    ht_hash_end(&copy, out);
}
