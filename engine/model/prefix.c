// SPDX-License-Identifier: Apache-2.0
// The table of the prefix cache: see prefix.h. Engine thread.
#include "engine/model/prefix.h"

#include <string.h>

#include "engine/base/mem.h"

static uint32_t n_buckets(uint32_t n_pages)
{
    uint32_t n = 1;
    while (n < n_pages)
        n *= 2;
    return n;
}

uint64_t ht_prefix_size(uint32_t n_pages)
{
    return (uint64_t)n_pages * sizeof(struct ht_prefix_node) + n_buckets(n_pages) * sizeof(uint32_t);
}

static void evict(void *user, uint32_t page)
{
    ht_prefix_remove(user, page);
}

enum hearth_status ht_prefix_init(struct ht_prefix *prefix, struct ht_pages *pages, struct hearth_error *err)
{
    *prefix = (struct ht_prefix){.pages = pages, .mask = n_buckets(pages->n_pages) - 1};
    prefix->nodes = ht_calloc(pages->n_pages, sizeof *prefix->nodes);
    prefix->buckets = ht_calloc((size_t)prefix->mask + 1, sizeof *prefix->buckets);
    if (!prefix->nodes || !prefix->buckets) {
        ht_prefix_deinit(prefix);
        return ht_fail(err, HEARTH_NOMEM, "out of memory for a prefix cache of %u KV pages", pages->n_pages);
    }
    memset(prefix->buckets, 0xFF, ((size_t)prefix->mask + 1) * sizeof *prefix->buckets); // HT_NO_PAGE
    pages->evict = evict;
    pages->user = prefix;
    return HEARTH_OK;
}

void ht_prefix_deinit(struct ht_prefix *prefix)
{
    ht_free(prefix->nodes);
    ht_free(prefix->buckets);
    *prefix = (struct ht_prefix){0};
}

// All pages after one another lie in one bucket.
static uint32_t *bucket_of(const struct ht_prefix *p, uint32_t parent, const struct ht_prefix_key *key)
{
    uint64_t h = (key->owner ^ key->adapter.part[0] ^ parent) * 0x9E3779B97F4A7C15u;
    h = (h ^ h >> 32) * 0xD6E8FEB86659FD93u;
    return &p->buckets[(h ^ h >> 32) & p->mask];
}

uint32_t ht_prefix_length(const struct ht_prefix_node *node)
{
    uint32_t n = HT_KV_PAGE;
    while (n && node->ids[n - 1] < 0)
        n--;
    return n;
}

static bool same_key(const struct ht_prefix_key *a, const struct ht_prefix_key *b)
{
    return a->owner == b->owner && ht_adapter_key_equal(a->adapter, b->adapter);
}

uint32_t ht_prefix_find(const struct ht_prefix *prefix, uint32_t parent, const int32_t *ids,
                        const struct ht_prefix_key *key)
{
    uint32_t page = *bucket_of(prefix, parent, key);
    for (; page != HT_NO_PAGE; page = prefix->nodes[page].next) {
        const struct ht_prefix_node *node = &prefix->nodes[page];
        if (node->parent == parent && same_key(&node->key, key) && !memcmp(node->ids, ids, sizeof node->ids))
            return page;
    }
    return HT_NO_PAGE;
}

uint32_t ht_prefix_next(const struct ht_prefix *prefix, uint32_t parent, const int32_t *ids,
                        const struct ht_prefix_key *key)
{
    const struct ht_prefix_key everybody = {.adapter = key->adapter};
    uint32_t page = ht_prefix_find(prefix, parent, ids, &everybody);
    return page == HT_NO_PAGE && key->owner ? ht_prefix_find(prefix, parent, ids, key) : page;
}

static uint32_t equal_ids(const struct ht_prefix_node *node, const int32_t *ids, uint32_t n)
{
    uint32_t same = 0;
    while (same < n && node->ids[same] == ids[same])
        same++;
    return same;
}

uint32_t ht_prefix_longest(const struct ht_prefix *prefix, uint32_t parent, const int32_t *ids, uint32_t n,
                           const struct ht_prefix_key *key, uint32_t *page)
{
    const struct ht_prefix_key keys[] = {{.adapter = key->adapter}, *key}; // everybody's first
    uint32_t best = 0;
    *page = HT_NO_PAGE;
    for (int k = 0; k < (key->owner ? 2 : 1); k++)
        for (uint32_t at = *bucket_of(prefix, parent, &keys[k]); at != HT_NO_PAGE; at = prefix->nodes[at].next) {
            const struct ht_prefix_node *node = &prefix->nodes[at];
            uint32_t same = node->parent == parent && same_key(&node->key, &keys[k]) ? equal_ids(node, ids, n) : 0;
            if (same > best) {
                best = same;
                *page = at;
            }
        }
    return best;
}

// Idle leaves that hold nothing but what `page` holds too.
static void drop_covered(struct ht_prefix *prefix, uint32_t page)
{
    const struct ht_prefix_node *node = &prefix->nodes[page];
    for (uint32_t at = node->next, next; at != HT_NO_PAGE; at = next) {
        const struct ht_prefix_node *leaf = &prefix->nodes[at];
        uint32_t n = ht_prefix_length(leaf);
        next = leaf->next;
        if (n < HT_KV_PAGE && !prefix->pages->refs[at] && leaf->parent == node->parent &&
            same_key(&leaf->key, &node->key) && equal_ids(leaf, node->ids, n) == n)
            ht_prefix_remove(prefix, at);
    }
}

void ht_prefix_add(struct ht_prefix *prefix, uint32_t page, uint32_t parent, const int32_t *ids,
                   const struct ht_prefix_key *key)
{
    struct ht_prefix_node *node = &prefix->nodes[page];
    uint32_t *bucket = bucket_of(prefix, parent, key);
    node->key = *key;
    node->parent = parent;
    node->listed = true;
    memcpy(node->ids, ids, sizeof node->ids);
    node->next = *bucket;
    *bucket = page;
    ht_pages_keep(prefix->pages, page);
    drop_covered(prefix, page);
}

void ht_prefix_remove(struct ht_prefix *prefix, uint32_t page)
{
    struct ht_prefix_node *node = &prefix->nodes[page];
    uint32_t *link = bucket_of(prefix, node->parent, &node->key);
    while (*link != page)
        link = &prefix->nodes[*link].next;
    *link = node->next;
    *node = (struct ht_prefix_node){.listed = false}; // what was said is not kept
    ht_pages_forget(prefix->pages, page);
}

void ht_prefix_forget(struct ht_prefix *prefix, uint64_t owner)
{
    for (uint32_t page = 0; page < prefix->pages->n_pages; page++)
        if (prefix->nodes[page].listed && (!owner || prefix->nodes[page].key.owner == owner))
            ht_prefix_remove(prefix, page);
}
