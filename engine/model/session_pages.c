// SPDX-License-Identifier: Apache-2.0
// A session's KV pages: its own, and those that it shares through the prefix cache. Full pages are entered when
// somebody may look for them: before a look-up, and before a session lets go of them; between steps they are always
// computed in full. The last, partly filled one is entered as a leaf when a session lets go of it, and from idle ones
// for their owner's other sessions. A page that is in the cache is never written: who goes on inside one takes a copy.
// Engine thread.
#include "engine/model/session.h"

#include <string.h>

static enum hearth_status no_page(const struct hearth_session *s, struct hearth_error *err)
{
    return ht_fail(err, HEARTH_CONTEXT, "the KV cache is full: %u positions for all sessions",
                   s->engine->info.n_ctx);
}

// Of equal pages one is enough: the session's own is given up for the one that the cache holds.
static void publish_page(struct hearth_session *s, uint32_t i, uint64_t owner)
{
    struct ht_prefix *prefix = &s->engine->ctx.prefix;
    uint32_t parent = i ? s->pages[i - 1] : HT_NO_PAGE;
    const int32_t *ids = s->tokens + (size_t)i * HT_KV_PAGE;
    const struct ht_prefix_key key = {.owner = owner, .adapter = s->made_under};
    uint32_t page = ht_prefix_next(prefix, parent, ids, &key);
    if (page == HT_NO_PAGE) {
        ht_prefix_add(prefix, s->pages[i], parent, ids, &key);
        return;
    }
    ht_pages_share(prefix->pages, page);
    ht_pages_drop(prefix->pages, s->pages[i]);
    s->pages[i] = page;
}

static void publish(struct hearth_session *s)
{
    const struct ht_prefix *prefix = &s->engine->ctx.prefix;
    for (uint32_t n_full = s->n_cached / HT_KV_PAGE; s->n_listed < n_full && !s->forgotten; s->n_listed++) {
        uint32_t i = s->n_listed;
        bool shared = (i + 1) * HT_KV_PAGE <= s->n_shared && (!i || !prefix->nodes[s->pages[i - 1]].key.owner);
        if (!shared && !s->owner)
            return;
        publish_page(s, i, shared ? 0 : s->owner);
    }
}

// What is cached beyond the full pages. What holds it already was just used.
static void publish_leaf(struct hearth_session *s)
{
    struct ht_prefix *prefix = &s->engine->ctx.prefix;
    const struct ht_prefix_key key = {.owner = s->owner, .adapter = s->made_under};
    uint32_t i = s->n_cached / HT_KV_PAGE, n = s->n_cached % HT_KV_PAGE, parent, page;
    int32_t ids[HT_KV_PAGE];
    publish(s);
    if (!n || !s->owner || s->forgotten || s->n_listed < i || prefix->nodes[s->pages[i]].listed)
        return;
    memset(ids, 0xFF, sizeof ids); // -1
    memcpy(ids, s->tokens + (size_t)i * HT_KV_PAGE, n * sizeof *ids);
    parent = i ? s->pages[i - 1] : HT_NO_PAGE;
    if (ht_prefix_longest(prefix, parent, ids, n, &key, &page) < n) {
        ht_prefix_add(prefix, s->pages[i], parent, ids, &key);
        return;
    }
    ht_pages_share(prefix->pages, page);
    ht_pages_drop(prefix->pages, page);
}

void ht_engine_publish(struct hearth_engine *engine, uint64_t owner, const struct hearth_session *without)
{
    for (uint32_t i = 0; i < engine->max_sessions; i++) {
        struct hearth_session *s = engine->sessions[i];
        if (s && s != without && s->owner == owner && s->phase == HT_IDLE)
            publish_leaf(s);
        else if (s)
            publish(s);
    }
}

// Makes the page that position n_cached lies in the session's own. CONTEXT if no page is left for a copy.
static enum hearth_status own_last_page(struct hearth_session *s, struct hearth_error *err)
{
    struct ht_context *ctx = &s->engine->ctx;
    uint32_t i = s->n_cached / HT_KV_PAGE, copy;
    if (i >= s->n_pages || (ctx->pages.refs[s->pages[i]] == 1 && !ctx->prefix.nodes[s->pages[i]].listed))
        return HEARTH_OK;
    if (ht_pages_take(&ctx->pages, &copy)) {
        enum hearth_status status =
            ctx->model->dev->kv_page_copy(ctx->model->device, ctx->kv, copy, s->pages[i], err);
        uint32_t drop = status == HEARTH_OK ? s->pages[i] : copy;
        s->pages[i] = status == HEARTH_OK ? copy : s->pages[i];
        ht_pages_drop(&ctx->pages, drop);
        HT_TRY(status);
    } else if (ctx->pages.refs[s->pages[i]] == 1) {
        ht_prefix_remove(&ctx->prefix, s->pages[i]); // nothing is idle, so nothing follows it in the cache
    } else {
        return no_page(s, err);
    }
    s->n_listed = s->n_listed < i ? s->n_listed : i;
    return HEARTH_OK;
}

enum hearth_status ht_session_reserve(struct hearth_session *s, uint32_t n, struct hearth_error *err)
{
    if (n > s->n_cached)
        HT_TRY(own_last_page(s, err));
    for (; (uint64_t)s->n_pages * HT_KV_PAGE < n; s->n_pages++)
        if (!ht_pages_take(&s->engine->ctx.pages, &s->pages[s->n_pages]))
            return no_page(s, err);
    return HEARTH_OK;
}

void ht_session_cut(struct hearth_session *s, uint32_t n)
{
    publish(s);
    uint32_t keep = (n + HT_KV_PAGE - 1) / HT_KV_PAGE;
    if (keep <= s->n_cached / HT_KV_PAGE)
        publish_leaf(s);
    while (s->n_pages > keep)
        ht_pages_drop(&s->engine->ctx.pages, s->pages[--s->n_pages]);
    if (s->n_listed > keep)
        s->n_listed = keep;
    if (s->n_cached > n)
        s->n_cached = n;
    if (s->n_tokens > n)
        s->n_tokens = n;
    if (s->n_shared > n)
        s->n_shared = n;
    if (s->n_cached <= s->n_listed * HT_KV_PAGE)
        s->forgotten = false;
}

// Nobody's cache is another one's: what only the last owner may find is given up.
static void change_owner(struct hearth_session *s, uint64_t owner)
{
    uint32_t n_shared = 0;
    if (s->owner == owner)
        return;
    publish(s);
    while (n_shared < s->n_listed && !s->engine->ctx.prefix.nodes[s->pages[n_shared]].key.owner)
        n_shared++;
    ht_session_cut(s, n_shared * HT_KV_PAGE);
    s->owner = owner;
}

void ht_session_make_under(struct hearth_session *s, struct ht_adapter_key adapter)
{
    if (!ht_adapter_key_equal(s->made_under, adapter))
        ht_session_cut(s, 0);
    s->made_under = adapter;
}

static uint32_t equal_ids(const struct hearth_session *s, const int32_t *ids, uint32_t n)
{
    uint32_t i = 0;
    while (i < s->n_cached && i < n && s->tokens[i] == ids[i])
        i++;
    return i;
}

// Position n_cached and what follows it lie in a copy of this page.
static bool take_copy(struct hearth_session *s, uint32_t page)
{
    struct ht_context *ctx = &s->engine->ctx;
    uint32_t copy;
    if (!ht_pages_take(&ctx->pages, &copy))
        return false;
    if (ctx->model->dev->kv_page_copy(ctx->model->device, ctx->kv, copy, page, NULL) != HEARTH_OK) {
        ht_pages_drop(&ctx->pages, copy);
        return false;
    }
    s->pages[s->n_pages++] = copy;
    return true;
}

// Takes a chain of full pages, and of the page `last` its first n_last positions.
static void take_chain(struct hearth_session *s, const uint32_t *found, uint32_t n_found, uint32_t last,
                       uint32_t n_last)
{
    struct ht_pages *pages = &s->engine->ctx.pages;
    uint32_t same = 0;
    if (n_last)
        ht_pages_share(pages, last); // stays while others go
    while (same < n_found && same < s->n_listed && s->pages[same] == found[same])
        same++;
    ht_session_cut(s, same * HT_KV_PAGE);
    for (uint32_t i = same; i < n_found; i++)
        ht_pages_share(pages, s->pages[s->n_pages++] = found[i]);
    s->n_listed = n_found;
    s->n_cached = n_found * HT_KV_PAGE;
    if (n_last && take_copy(s, last))
        s->n_cached += n_last;
    if (n_last)
        ht_pages_drop(pages, last);
}

uint32_t ht_session_adopt(struct hearth_session *s, const int32_t *ids, uint32_t n, const struct ht_prefix_key *key)
{
    struct ht_context *ctx = &s->engine->ctx;
    struct hearth_error err;
    ht_session_make_under(s, key->adapter);
    change_owner(s, key->owner);
    ht_engine_publish(s->engine, key->owner, s);
    uint32_t own = equal_ids(s, ids, n), n_found = 0, parent = HT_NO_PAGE, page;
    uint32_t *found = s->engine->found;
    for (; n - n_found * HT_KV_PAGE >= HT_KV_PAGE; parent = found[n_found++] = page)
        if ((page = ht_prefix_next(&ctx->prefix, parent, ids + n_found * HT_KV_PAGE, key)) == HT_NO_PAGE)
            break;
    uint32_t full = n_found * HT_KV_PAGE, rest = n - full < HT_KV_PAGE ? n - full : HT_KV_PAGE;
    uint32_t n_last = ht_prefix_longest(&ctx->prefix, parent, ids + full, rest, key, &page);
    if (full + n_last > own) {
        take_chain(s, found, n_found, page, n_last);
        return s->n_cached;
    }
    ht_session_cut(s, own);
    if (own_last_page(s, &err) != HEARTH_OK) // no page for a copy: compute the last one again
        ht_session_cut(s, own / HT_KV_PAGE * HT_KV_PAGE);
    return s->n_cached;
}

// What was to be forgotten still is when the ids are computed again.
void ht_session_release(struct hearth_session *s)
{
    uint32_t n_tokens = s->n_tokens, n_shared = s->n_shared;
    bool forgotten = s->forgotten;
    ht_session_cut(s, 0);
    s->n_tokens = n_tokens;
    s->n_shared = n_shared;
    s->forgotten = forgotten;
}

void ht_session_regain(struct hearth_session *s)
{
    const struct ht_prefix_key key = {.owner = s->owner, .adapter = s->made_under};
    uint32_t n_tokens = s->n_tokens, n_shared = s->n_shared;
    bool forgotten = s->forgotten;
    ht_session_adopt(s, s->tokens, n_tokens - 1, &key);
    s->n_tokens = n_tokens;
    s->n_shared = n_shared;
    s->forgotten = forgotten;
}

void hearth_engine_forget(struct hearth_engine *engine, uint64_t owner)
{
    if (engine->vocab_only)
        return;
    ht_prefix_forget(&engine->ctx.prefix, owner);
    for (uint32_t i = 0; i < engine->max_sessions; i++) {
        struct hearth_session *s = engine->sessions[i];
        if (!s || (owner && s->owner != owner))
            continue;
        uint32_t n = 0;
        while (n < s->n_listed && engine->ctx.prefix.nodes[s->pages[n]].listed)
            n++;
        s->n_listed = n;
        s->forgotten = s->n_tokens > n * HT_KV_PAGE;
    }
}
