// SPDX-License-Identifier: Apache-2.0
// The prefix cache as a block of bytes, to outlive the process: written and read here, sealed and stored by the caller.
// Engine thread.
//
//   head     struct block_head: magic, geometry of the pages, identity of the model's files and of the arithmetic
//   records  n_pages of: parent (number of an earlier record, or NO_PARENT), shared (1: everybody finds it), the
//            adapter that it was made under, 32 ids (of the end of an owner's chain fewer, then -1), the page's bytes
//            as the device keeps them
//   tail     checksum of all before it: finds damage; protecting the block is the caller's business
// Numbers are of the machine's own byte order: the magic tells another one. A parent stands before what follows it, the
// most recently used first, so that any beginning of the records is of use.
#include <math.h>
#include <string.h>

#include "engine/base/hash.h"
#include "engine/base/mem.h"
#include "engine/model/session.h"

#define MAGIC 0x3258465054524148u // "HARTPFX2"
enum { NO_PARENT = UINT32_MAX };

struct block_head {
    uint64_t magic, page_bytes;
    char numerics_id[40]; // KV type, contract and kernels
    unsigned char model[HT_HASH_BYTES];
    uint32_t page_positions, n_vocab, n_pages, zero;
};

struct record_head {
    uint32_t parent, shared;
    struct ht_adapter_key adapter;
    int32_t ids[HT_KV_PAGE];
};

static size_t page_bytes(const struct hearth_engine *e)
{
    struct ht_kv_params params;
    ht_context_kv_params(&e->model.hp, 1, e->ctx.params.kv, &params);
    return e->dev->kv_page_size(e->device, &params);
}

static void fill_head(const struct hearth_engine *e, struct block_head *head, uint32_t n_pages)
{
    memset(head, 0, sizeof *head);
    head->magic = MAGIC;
    head->page_bytes = page_bytes(e);
    memcpy(head->numerics_id, e->info.numerics_id, sizeof e->info.numerics_id);
    memcpy(head->model, e->identity, sizeof head->model);
    head->page_positions = HT_KV_PAGE;
    head->n_vocab = e->model.hp.n_vocab;
    head->n_pages = n_pages;
}

static enum hearth_status check_idle(const struct hearth_engine *e, struct hearth_error *err)
{
    if (e->vocab_only)
        return ht_fail(err, HEARTH_INVALID, "the engine was opened for its vocabulary only");
    for (uint32_t i = 0; i < e->max_sessions; i++)
        if (e->sessions[i] && e->sessions[i]->phase != HT_IDLE)
            return ht_fail(err, HEARTH_BUSY, "a session is answering");
    return HEARTH_OK;
}

// ---- out

struct out {
    struct hearth_engine *engine;
    uint32_t *order, n;  // pages in the order of the block
    uint32_t *number;    // [n_pages] page -> record + 1; WANTED: it will be written; 0: not
    unsigned char *page; // bytes of one
    struct ht_hash hash;
    bool (*write)(void *user, const void *data, size_t len_bytes);
    void *user;
};
enum { WANTED = UINT32_MAX };

// The owner's pages and those before them.
static void choose(struct out *o, uint64_t owner)
{
    const struct ht_prefix *prefix = &o->engine->ctx.prefix;
    for (uint32_t i = 0; i < prefix->pages->n_pages; i++)
        if (prefix->nodes[i].listed && prefix->nodes[i].key.owner == owner)
            for (uint32_t page = i; page != HT_NO_PAGE && !o->number[page]; page = prefix->nodes[page].parent)
                o->number[page] = WANTED;
}

static void take(struct out *o, uint32_t page)
{
    if (o->number[page] != WANTED)
        return;
    o->order[o->n++] = page;
    o->number[page] = o->n;
}

// What sessions hold, the latest request first; then what is idle, newest first: parents are newer.
static void put_in_order(struct out *o)
{
    const struct hearth_engine *e = o->engine;
    const struct ht_pages *pages = &e->ctx.pages;
    double before_s = HUGE_VAL;
    for (;;) {
        double latest_s = -1;
        for (uint32_t i = 0; i < e->max_sessions; i++)
            if (e->sessions[i] && e->sessions[i]->submit_s < before_s && e->sessions[i]->submit_s > latest_s)
                latest_s = e->sessions[i]->submit_s;
        if (latest_s < 0)
            break;
        for (uint32_t i = 0; i < e->max_sessions; i++)
            for (uint32_t j = 0;
                 e->sessions[i] && e->sessions[i]->submit_s == latest_s && j < e->sessions[i]->n_pages; j++)
                take(o, e->sessions[i]->pages[j]);
        before_s = latest_s;
    }
    for (uint32_t page = pages->newest; page != HT_NO_PAGE; page = pages->older[page])
        take(o, page);
}

static enum hearth_status put(struct out *o, const void *data, size_t len_bytes, struct hearth_error *err)
{
    ht_hash_add(&o->hash, data, len_bytes);
    return o->write(o->user, data, len_bytes)
               ? HEARTH_OK
               : ht_fail(err, HEARTH_IO, "the prefix cache could not be written");
}

static enum hearth_status write_block(struct out *o, uint64_t max_bytes, struct hearth_error *err)
{
    const struct hearth_engine *e = o->engine;
    const struct ht_prefix *prefix = &e->ctx.prefix;
    struct block_head head;
    struct record_head record;
    unsigned char sum[HT_HASH_BYTES];
    size_t size = page_bytes(e);
    if (max_bytes < sizeof head + sizeof sum)
        return ht_fail(err, HEARTH_LIMIT, "%llu bytes are too few for a prefix cache",
                       (unsigned long long)max_bytes);
    uint64_t fit = (max_bytes - sizeof head - sizeof sum) / (sizeof record + size);
    uint32_t n = fit < o->n ? (uint32_t)fit : o->n;
    ht_hash_init(&o->hash);
    fill_head(e, &head, n);
    HT_TRY(put(o, &head, sizeof head, err));
    for (uint32_t i = 0; i < n; i++) {
        const struct ht_prefix_node *node = &prefix->nodes[o->order[i]];
        record = (struct record_head){.parent = node->parent == HT_NO_PAGE ? NO_PARENT
                                                                           : o->number[node->parent] - 1,
                                      .shared = !node->key.owner,
                                      .adapter = node->key.adapter};
        memcpy(record.ids, node->ids, sizeof record.ids);
        HT_TRY(e->dev->kv_page_read(e->device, e->ctx.kv, o->order[i], o->page, err));
        HT_TRY(put(o, &record, sizeof record, err));
        HT_TRY(put(o, o->page, size, err));
    }
    ht_hash_end(&o->hash, sum);
    return put(o, sum, sizeof sum, err);
}

enum hearth_status
hearth_engine_export_prefixes(struct hearth_engine *engine, uint64_t owner, uint64_t max_bytes,
                              bool (*write)(void *user, const void *data, size_t len_bytes), void *user,
                              struct hearth_error *err)
{
    HT_TRY(check_idle(engine, err));
    ht_engine_publish(engine, owner, NULL);
    uint32_t n_pages = engine->ctx.pages.n_pages;
    struct out o = {.engine = engine, .write = write, .user = user};
    enum hearth_status status = HEARTH_OK;
    o.order = ht_calloc(n_pages, sizeof *o.order);
    o.number = ht_calloc(n_pages, sizeof *o.number);
    o.page = ht_calloc(1, page_bytes(engine));
    if (!o.order || !o.number || !o.page) {
        status = ht_fail(err, HEARTH_NOMEM, "out of memory for writing the prefix cache");
    } else {
        choose(&o, owner);
        put_in_order(&o);
        status = write_block(&o, max_bytes, err);
    }
    ht_free(o.order);
    ht_free(o.number);
    ht_free(o.page);
    return status;
}

// ---- in

struct in {
    struct hearth_engine *engine;
    const unsigned char *records;
    size_t record_bytes;
    uint32_t n;
};

static struct record_head record_at(const struct in *in, uint32_t i)
{
    struct record_head record;
    memcpy(&record, in->records + in->record_bytes * i, sizeof record);
    return record;
}

static enum hearth_status damaged(struct hearth_error *err)
{
    return ht_fail(err, HEARTH_FORMAT, "the stored prefix cache is damaged");
}

static enum hearth_status check_block(struct in *in, const unsigned char *data, size_t len_bytes,
                                      struct hearth_error *err)
{
    struct block_head head, want;
    struct ht_hash hash;
    unsigned char sum[HT_HASH_BYTES];
    if (len_bytes < sizeof head + sizeof sum)
        return damaged(err);
    size_t body = len_bytes - sizeof head - sizeof sum;
    memcpy(&head, data, sizeof head);
    ht_hash_init(&hash);
    ht_hash_add(&hash, data, len_bytes - sizeof sum);
    ht_hash_end(&hash, sum);
    if (memcmp(sum, data + len_bytes - sizeof sum, sizeof sum) != 0)
        return damaged(err);
    fill_head(in->engine, &want, head.n_pages);
    if (memcmp(&head, &want, sizeof head) != 0)
        return ht_fail(err, HEARTH_FORMAT, "the stored prefix cache is of another model or other arithmetic");
    in->records = data + sizeof head;
    in->record_bytes = sizeof(struct record_head) + (size_t)head.page_bytes;
    in->n = head.n_pages;
    return body % in->record_bytes || body / in->record_bytes != in->n ? damaged(err) : HEARTH_OK;
}

static uint32_t n_ids(const struct record_head *r)
{
    uint32_t n = HT_KV_PAGE;
    while (n && r->ids[n - 1] < 0)
        n--;
    return n;
}

static enum hearth_status check_records(const struct in *in, uint64_t owner, struct hearth_error *err)
{
    for (uint32_t i = 0; i < in->n; i++) {
        struct record_head r = record_at(in, i);
        if (r.shared > 1 || (!r.shared && !owner) || (r.parent != NO_PARENT && r.parent >= i))
            return damaged(err);
        struct record_head before = r.parent == NO_PARENT ? r : record_at(in, r.parent);
        uint32_t n = n_ids(&r);
        if (r.shared > before.shared || !ht_adapter_key_equal(r.adapter, before.adapter) || !n ||
            (n < HT_KV_PAGE && r.shared) || (r.parent != NO_PARENT && n_ids(&before) < HT_KV_PAGE))
            return damaged(err);
        for (uint32_t k = 0; k < HT_KV_PAGE; k++)
            if (k < n ? (uint32_t)r.ids[k] >= in->engine->model.hp.n_vocab : r.ids[k] != -1)
                return damaged(err);
    }
    return HEARTH_OK;
}

// Only free pages are taken, nothing is evicted. at[i] = the page of record i, or HT_NO_PAGE.
static enum hearth_status read_pages(const struct in *in, uint64_t owner, uint32_t *at, unsigned *n_positions,
                                     struct hearth_error *err)
{
    struct ht_context *ctx = &in->engine->ctx;
    for (uint32_t i = 0; i < in->n; i++) {
        struct record_head r = record_at(in, i);
        uint32_t parent = r.parent == NO_PARENT ? HT_NO_PAGE : at[r.parent], page;
        at[i] = HT_NO_PAGE;
        if (r.parent != NO_PARENT && parent == HT_NO_PAGE)
            continue; // there was no room for it
        const struct ht_prefix_key key = {.owner = r.shared ? 0 : owner, .adapter = r.adapter};
        uint32_t n = n_ids(&r);
        if (ht_prefix_longest(&ctx->prefix, parent, r.ids, n, &key, &page) == n)
            at[i] = page; // of a leaf, what holds it: nothing follows one
        if (at[i] != HT_NO_PAGE || !ctx->pages.n_free || !ht_pages_take(&ctx->pages, &page))
            continue;
        const unsigned char *bytes = in->records + in->record_bytes * i + sizeof r;
        enum hearth_status status =
            in->engine->dev->kv_page_write(in->engine->device, ctx->kv, page, bytes, err);
        if (status == HEARTH_OK) {
            ht_prefix_add(&ctx->prefix, page, parent, r.ids, &key);
            *n_positions += n;
            at[i] = page;
        }
        ht_pages_drop(&ctx->pages, page);
        if (status == HEARTH_OK)
            ht_pages_make_oldest(&ctx->pages, page); // older than what is here, and than what it follows
        HT_TRY(status);
    }
    return HEARTH_OK;
}

enum hearth_status hearth_engine_import_prefixes(struct hearth_engine *engine, uint64_t owner,
                                                 const void *data, size_t len_bytes, unsigned *n_positions,
                                                 struct hearth_error *err)
{
    struct in in = {.engine = engine};
    *n_positions = 0;
    HT_TRY(check_idle(engine, err));
    HT_TRY(check_block(&in, data, len_bytes, err));
    HT_TRY(check_records(&in, owner, err));
    if (!in.n)
        return HEARTH_OK;
    uint32_t *at = ht_calloc(in.n, sizeof *at);
    if (!at)
        return ht_fail(err, HEARTH_NOMEM, "out of memory for reading the prefix cache");
    enum hearth_status status = read_pages(&in, owner, at, n_positions, err);
    ht_free(at);
    return status;
}
