// SPDX-License-Identifier: Apache-2.0
// Which KV pages are free. Pages are refcounted so that full ones can be shared (prefix cache).
#ifndef HT_PAGES_H
#define HT_PAGES_H
#include <stdint.h>

#include "engine/base/error.h"

struct ht_pages {
    uint32_t *free; // stack of free page numbers
    uint32_t *refs; // [n_pages]
    uint32_t n_free, n_pages;
};
HT_MUST_USE enum hearth_status ht_pages_init(struct ht_pages *pages, uint32_t n_pages,
                                             struct hearth_error *err);
void ht_pages_deinit(struct ht_pages *pages);
// One page with one reference. False when none is free.
_Bool ht_pages_take(struct ht_pages *pages, uint32_t *page);
void ht_pages_share(struct ht_pages *pages, uint32_t page);
void ht_pages_drop(struct ht_pages *pages, uint32_t page); // free when nobody refers to it

#endif
