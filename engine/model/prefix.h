// SPDX-License-Identifier: Apache-2.0
// The prefix cache: which KV pages hold what. A full page is found by the page before it, its 32 ids, compared one by
// one, the adapter that it was made under, and who may find it: one owner, or everybody (owner 0). A leaf is the partly
// filled end of an owner's chain, its ids padded with -1. Chains begin at HT_NO_PAGE and are made under one adapter;
// the pages that everybody finds come first, then those of one owner. A node lies in the table at its page's number:
// the cache adds no memory while it is used. Engine thread.
//
// Whoever holds a page holds all pages before it, and drops the deepest first. So a page becomes idle after those
// that follow it, and the oldest idle page, which is evicted first, never has one that follows it.
#ifndef HT_PREFIX_H
#define HT_PREFIX_H
#include <stdbool.h>

#include "engine/base/limits.h"
#include "engine/model/lora.h"
#include "engine/model/pages.h"

struct ht_prefix_key { // whose chains
    uint64_t owner; // 0 = everybody
    struct ht_adapter_key adapter;
};

struct ht_prefix_node {
    struct ht_prefix_key key;
    uint32_t parent; // the page before, or HT_NO_PAGE
    uint32_t next;   // of the same hash: siblings
    bool listed;     // else the page is in no chain and the rest says nothing
    int32_t ids[HT_KV_PAGE];
};

struct ht_prefix {
    struct ht_pages *pages;
    struct ht_prefix_node *nodes; // [n_pages]
    uint32_t *buckets;            // [mask + 1], HT_NO_PAGE = empty
    uint32_t mask;
};

// `pages` must not move; evicts from it.
HT_MUST_USE enum hearth_status ht_prefix_init(struct ht_prefix *prefix, struct ht_pages *pages,
                                              struct hearth_error *err);
void ht_prefix_deinit(struct ht_prefix *prefix);
uint64_t ht_prefix_size(uint32_t n_pages); // bytes of the tables

uint32_t ht_prefix_length(const struct ht_prefix_node *node); // ids; of a leaf fewer than 32
// The page after `parent` that holds these 32 ids, HT_NO_PAGE if there is none. Only this owner's.
uint32_t ht_prefix_find(const struct ht_prefix *prefix, uint32_t parent, const int32_t *ids,
                        const struct ht_prefix_key *key);
// The same for who asks: what everybody finds, else the owner's.
uint32_t ht_prefix_next(const struct ht_prefix *prefix, uint32_t parent, const int32_t *ids,
                        const struct ht_prefix_key *key);
// How many of n ids, at most 32, the page after `parent` that agrees longest begins with; *page = which, to be copied.
uint32_t ht_prefix_longest(const struct ht_prefix *prefix, uint32_t parent, const int32_t *ids, uint32_t n,
                           const struct ht_prefix_key *key, uint32_t *page);
// Enters a page that is referred to and not in the cache, and takes out idle leaves that hold no more than it. The
// parent is in, under the same adapter, everybody's or this owner's.
void ht_prefix_add(struct ht_prefix *prefix, uint32_t page, uint32_t parent, const int32_t *ids,
                   const struct ht_prefix_key *key);
// Takes a page out; it is free once nobody refers to it. Those after it must be out, or go out next.
void ht_prefix_remove(struct ht_prefix *prefix, uint32_t page);
// Takes out all pages of an owner, all of everybody and all owners with 0.
void ht_prefix_forget(struct ht_prefix *prefix, uint64_t owner);

#endif
