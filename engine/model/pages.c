// SPDX-License-Identifier: Apache-2.0
// Free, idle and shared KV pages: see pages.h. Engine thread.
#include "engine/model/pages.h"

#include "engine/base/mem.h"

enum hearth_status ht_pages_init(struct ht_pages *pages, uint32_t n_pages, struct hearth_error *err)
{
    *pages =
        (struct ht_pages){.n_free = n_pages, .n_pages = n_pages, .oldest = HT_NO_PAGE, .newest = HT_NO_PAGE};
    pages->free = ht_calloc(n_pages, sizeof *pages->free);
    pages->refs = ht_calloc(n_pages, sizeof *pages->refs);
    pages->kept = ht_calloc(n_pages, sizeof *pages->kept);
    pages->older = ht_calloc(n_pages, sizeof *pages->older);
    pages->newer = ht_calloc(n_pages, sizeof *pages->newer);
    if (!pages->free || !pages->refs || !pages->kept || !pages->older || !pages->newer) {
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
    ht_free(pages->kept);
    ht_free(pages->older);
    ht_free(pages->newer);
    *pages = (struct ht_pages){0};
}

uint64_t ht_pages_size(uint32_t n_pages)
{
    const struct ht_pages *p = NULL;
    return (uint64_t)n_pages *
           (sizeof *p->free + sizeof *p->refs + sizeof *p->kept + sizeof *p->older + sizeof *p->newer);
}

// ---- the list of idle pages

static void link_between(struct ht_pages *p, uint32_t page, uint32_t older, uint32_t newer)
{
    p->older[page] = older;
    p->newer[page] = newer;
    *(older == HT_NO_PAGE ? &p->oldest : &p->newer[older]) = page;
    *(newer == HT_NO_PAGE ? &p->newest : &p->older[newer]) = page;
    p->n_idle++;
}

static void unlink_idle(struct ht_pages *p, uint32_t page)
{
    uint32_t older = p->older[page], newer = p->newer[page];
    *(older == HT_NO_PAGE ? &p->oldest : &p->newer[older]) = newer;
    *(newer == HT_NO_PAGE ? &p->newest : &p->older[newer]) = older;
    p->n_idle--;
}

void ht_pages_make_oldest(struct ht_pages *pages, uint32_t page)
{
    unlink_idle(pages, page);
    link_between(pages, page, HT_NO_PAGE, pages->oldest);
}

// ---- references

_Bool ht_pages_take(struct ht_pages *pages, uint32_t *page)
{
    if (!pages->n_free && pages->n_idle)
        pages->evict(pages->user, pages->oldest);
    if (!pages->n_free)
        return 0;
    *page = pages->free[--pages->n_free];
    pages->refs[*page] = 1;
    return 1;
}

void ht_pages_share(struct ht_pages *pages, uint32_t page)
{
    if (!pages->refs[page]++)
        unlink_idle(pages, page);
}

void ht_pages_drop(struct ht_pages *pages, uint32_t page)
{
    if (--pages->refs[page])
        return;
    if (pages->kept[page])
        link_between(pages, page, pages->newest, HT_NO_PAGE);
    else
        pages->free[pages->n_free++] = page;
}

void ht_pages_keep(struct ht_pages *pages, uint32_t page)
{
    pages->kept[page] = 1;
}

void ht_pages_forget(struct ht_pages *pages, uint32_t page)
{
    pages->kept[page] = 0;
    if (pages->refs[page])
        return;
    unlink_idle(pages, page);
    pages->free[pages->n_free++] = page;
}
