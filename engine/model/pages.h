// SPDX-License-Identifier: Apache-2.0
// Which KV pages are free. Pages are refcounted so that full ones can be shared. One that the prefix cache keeps is
// not free when nobody refers to it but idle: it is taken back, the longest idle one first, when no page is free.
// Engine thread.
#ifndef HT_PAGES_H
#define HT_PAGES_H
#include <stdint.h>

#include "engine/base/error.h"

enum { HT_NO_PAGE = UINT32_MAX };

struct ht_pages {
    uint32_t *free;          // stack of free page numbers
    uint32_t *refs;          // [n_pages]
    _Bool *kept;             // [n_pages]: idle instead of free when nobody refers to it
    uint32_t *older, *newer; // [n_pages]: neighbours in the list of idle pages
    uint32_t oldest, newest; // its ends, HT_NO_PAGE when it is empty
    uint32_t n_free, n_idle, n_pages;
    void (*evict)(void *user, uint32_t page); // must call ht_pages_forget; set by who keeps pages
    void *user;
};
HT_MUST_USE enum hearth_status ht_pages_init(struct ht_pages *pages, uint32_t n_pages,
                                             struct hearth_error *err);
void ht_pages_deinit(struct ht_pages *pages);
uint64_t ht_pages_size(uint32_t n_pages); // bytes of the tables
// One page with one reference, an idle one evicted if need be. False when none can be had.
_Bool ht_pages_take(struct ht_pages *pages, uint32_t *page);
void ht_pages_share(struct ht_pages *pages, uint32_t page); // an idle one too
void ht_pages_drop(struct ht_pages *pages, uint32_t page);  // free, or idle, when nobody refers to it
void ht_pages_keep(struct ht_pages *pages, uint32_t page);
void ht_pages_forget(struct ht_pages *pages, uint32_t page); // kept no longer
// A kept page that nobody refers to becomes the oldest idle one instead of the newest.
void ht_pages_make_oldest(struct ht_pages *pages, uint32_t page);

#endif
