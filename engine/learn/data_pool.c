// SPDX-License-Identifier: Apache-2.0
// Memory of the record at hand, texts in the making, hashes and sets of hashes. One thread per object.
#include <string.h>

#include "engine/base/limits.h"
#include "engine/base/mem.h"
#include "engine/learn/data.h"

enum { BLOCK_BYTES = 64 << 10, ALIGN = 16 };

struct ht_data_block {
    struct ht_data_block *next;
    size_t used, capacity;
    _Alignas(ALIGN) unsigned char bytes[];
};

void *ht_data_take(struct ht_data_pool *pool, size_t count, size_t size_bytes)
{
    size_t n;
    if (!ht_mul(count, size_bytes, &n) || !ht_add(n, ALIGN, &n)) {
        pool->failed = true;
        return NULL;
    }
    n &= ~(size_t)(ALIGN - 1);
    struct ht_data_block *block = pool->first;
    if (!block || block->capacity - block->used < n) {
        size_t capacity = n > BLOCK_BYTES ? n : BLOCK_BYTES;
        block = ht_calloc(1, sizeof *block + capacity);
        if (!block) {
            pool->failed = true;
            return NULL;
        }
        block->capacity = capacity;
        block->next = pool->first;
        pool->first = block;
    }
    void *out = block->bytes + block->used;
    block->used += n;
    return out;
}

void ht_data_reset(struct ht_data_pool *pool)
{
    struct ht_data_block *keep = NULL, *next;
    for (struct ht_data_block *block = pool->first; block; block = next) {
        next = block->next;
        if (!keep && block->capacity == BLOCK_BYTES) {
            memset(block->bytes, 0, block->used);
            block->used = 0;
            block->next = NULL;
            keep = block;
        } else {
            ht_free(block);
        }
    }
    *pool = (struct ht_data_pool){.first = keep};
}

void ht_data_pool_free(struct ht_data_pool *pool)
{
    ht_data_reset(pool);
    ht_free(pool->first);
    pool->first = NULL;
}

struct ht_data_out ht_data_out_make(struct ht_data_pool *pool, size_t capacity)
{
    struct ht_data_out out = {.bytes = ht_data_take(pool, capacity + 1, 1)};
    out.capacity = out.bytes ? capacity : 0;
    return out;
}

void ht_data_put(struct ht_data_out *out, const char *bytes, size_t len_bytes)
{
    size_t n = len_bytes < out->capacity - out->n ? len_bytes : out->capacity - out->n;
    if (n)
        memcpy(out->bytes + out->n, bytes, n);
    out->n += n;
}

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

struct ht_text ht_data_trim(struct ht_text text)
{
    while (text.len_bytes && is_space(text.bytes[text.len_bytes - 1]))
        text.len_bytes--;
    while (text.len_bytes && is_space(text.bytes[0])) {
        text.bytes++;
        text.len_bytes--;
    }
    return text;
}

bool ht_data_blank(struct ht_text text)
{
    return ht_data_trim(text).len_bytes == 0;
}

struct ht_text ht_data_join(struct ht_data_pool *pool, struct ht_text a, const char *between, struct ht_text b)
{
    size_t n = strlen(between);
    struct ht_data_out out = ht_data_out_make(pool, a.len_bytes + n + b.len_bytes);
    ht_data_put(&out, a.bytes, a.len_bytes);
    ht_data_put(&out, between, n);
    ht_data_put(&out, b.bytes, b.len_bytes);
    return (struct ht_text){out.bytes, out.n};
}

const char *ht_data_string(struct ht_data_pool *pool, struct ht_text text)
{
    struct ht_data_out out = ht_data_out_make(pool, text.len_bytes);
    if (!out.bytes)
        return "";
    for (size_t i = 0; i < text.len_bytes; i++)
        out.bytes[i] = (unsigned char)text.bytes[i] < 0x20 ? '?' : text.bytes[i];
    return out.bytes;
}

static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
}

uint64_t ht_data_hash(const void *bytes, size_t len_bytes, uint64_t seed)
{
    const unsigned char *p = bytes;
    uint64_t h = mix(seed + 0x9E3779B97F4A7C15u) ^ len_bytes;
    for (size_t i = 0; i < len_bytes; i += 8) {
        uint64_t word = 0;
        for (size_t k = 0; k < 8 && i + k < len_bytes; k++)
            word |= (uint64_t)p[i + k] << 8 * k;
        h = mix(h ^ word) + 0x9E3779B97F4A7C15u;
    }
    return mix(h);
}

static bool insert(uint64_t *slots, size_t capacity, uint64_t value)
{
    size_t i = (size_t)value & (capacity - 1);
    while (slots[i] && slots[i] != value)
        i = (i + 1) & (capacity - 1);
    bool fresh = !slots[i];
    slots[i] = value;
    return fresh;
}

enum hearth_status ht_data_seen_add(struct ht_data_seen *seen, uint64_t value, bool *fresh,
                                    struct hearth_error *err)
{
    value += !value;
    if (2 * (seen->n + 1) > seen->capacity) {
        size_t capacity = seen->capacity ? 2 * seen->capacity : 1024;
        if (seen->n >= HT_MAX_DATA_RECORDS)
            return ht_fail(err, HEARTH_LIMIT, "more than %d records are too many for one set", HT_MAX_DATA_RECORDS);
        uint64_t *slots = ht_calloc(capacity, sizeof *slots);
        if (!slots)
            return ht_fail(err, HEARTH_NOMEM, "no memory to tell %zu records apart", capacity / 2);
        for (size_t i = 0; i < seen->capacity; i++)
            if (seen->slots[i])
                insert(slots, capacity, seen->slots[i]);
        ht_free(seen->slots);
        seen->slots = slots;
        seen->capacity = capacity;
    }
    *fresh = insert(seen->slots, seen->capacity, value);
    seen->n += *fresh;
    return HEARTH_OK;
}

void ht_data_seen_free(struct ht_data_seen *seen)
{
    ht_free(seen->slots);
    *seen = (struct ht_data_seen){0};
}
