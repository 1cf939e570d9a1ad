// SPDX-License-Identifier: Apache-2.0
#include "engine/model/pages.h"

#include "engine/base/mem.h"

enum hearth_status ht_pages_init(struct ht_pages *pages, uint32_t n_pages, struct hearth_error *err)
{
    *pages = (struct ht_pages){.n_free = n_pages, .n_pages = n_pages};
    pages->free = ht_calloc(n_pages, sizeof *pages->free);
    pages->refs = ht_calloc(n_pages, sizeof *pages->refs);
    if (!pages->free || !pages->refs) {
        ht_pages_deinit(pages);
        return ht_fail(err, HEARTH_NOMEM, "out of memory for the table of %u KV pages", n_pages);
    }
    for (uint32_t i = 0; i < n_pages; i++)
        pages->free[i] = n_pages - 1 - i; // page 0 is taken first
    return HEARTH_OK;
}

void ht_pages_deinit(struct ht_pages *pages)
{
    ht_free(pages->free);
    ht_free(pages->refs);
    *pages = (struct ht_pages){0};
}

_Bool ht_pages_take(struct ht_pages *pages, uint32_t *page)
{
    if (!pages->n_free)
        return 0;
    *page = pages->free[--pages->n_free];
    pages->refs[*page] = 1;
    return 1;
}

void ht_pages_share(struct ht_pages *pages, uint32_t page)
{
    pages->refs[page]++;
}

void ht_pages_drop(struct ht_pages *pages, uint32_t page)
{
    if (--pages->refs[page] == 0)
        pages->free[pages->n_free++] = page;
}
