// SPDX-License-Identifier: Apache-2.0
// Shared by the tests of the prefix cache: requests of an owner, and a check of all its tables.
#ifndef PREFIX_TEST_H
#define PREFIX_TEST_H
#include "engine/base/limits.h"
#include "engine/model/session.h"
#include "tests/check/fault.h"
#include "tests/model/model_test.h"

// The tiny models, told to have been trained for more positions.
static char folder[64];
#define MODEL      check_path(folder, "llama.gguf")
#define CHAT_MODEL check_path(folder, "gemma3.gguf")
enum { PAGE = HT_KV_PAGE, MAX_IDS = 512 };

struct answer {
    char text[8192];
    size_t n;
    bool ended, failed;
    struct hearth_usage usage;
};

static inline void on_event(void *user, const struct hearth_event *event)
{
    struct answer *a = user;
    if (event->type == HEARTH_EVENT_TEXT) {
        assert_true(a->n + event->len_bytes < sizeof a->text);
        memcpy(a->text + a->n, event->text, event->len_bytes);
        a->n += event->len_bytes;
    }
    if (event->type == HEARTH_EVENT_DONE || event->type == HEARTH_EVENT_FAILED) {
        a->ended = true;
        a->failed = event->type == HEARTH_EVENT_FAILED;
        a->usage = *event->usage;
    }
}

static inline struct hearth_engine *engine_for(unsigned sessions, unsigned n_ctx, enum hearth_kv_type kv,
                                               const char *isa)
{
    return open_engine((struct hearth_engine_params){.model_path = MODEL,
                                                     .device = "cpu",
                                                     .max_sessions = sessions,
                                                     .n_ctx = n_ctx,
                                                     .n_threads = 2,
                                                     .kv = kv,
                                                     .exact = kv == HEARTH_KV_F32,
                                                     .cpu_isa = isa});
}

static inline const int32_t *some_ids(uint32_t seed)
{
    static int32_t ids[4][MAX_IDS];
    for (uint32_t i = 0, x = seed; i < MAX_IDS; i++) {
        x = x * 1664525u + 1013904223u;
        ids[seed % 4][i] = (int32_t)(x >> 16) % 256;
    }
    return ids[seed % 4];
}

static inline struct hearth_request request_for(struct answer *answer, const int32_t *ids, size_t n,
                                                uint64_t owner)
{
    struct hearth_request r = {.ids = ids,
                               .n_ids = n,
                               .max_tokens = 6,
                               .ignore_end = true,
                               .owner = owner,
                               .on_event = on_event,
                               .user = answer};
    hearth_sampling_default(&r.sampling);
    r.sampling.temperature = 1;
    r.sampling.seed = 3;
    memset(answer, 0, sizeof *answer);
    return r;
}

// Every chain in the cache is whole, nothing is both free and in use, sessions refer to what they say.
static inline void check_cache(const struct hearth_engine *e)
{
    const struct ht_prefix *prefix = &e->ctx.prefix;
    const struct ht_pages *pages = &e->ctx.pages;
    static uint32_t refs[4096];
    memset(refs, 0, sizeof refs);
    for (uint32_t i = 0; i < e->max_sessions; i++)
        for (uint32_t k = 0; e->sessions[i] && k < e->sessions[i]->n_pages; k++)
            refs[e->sessions[i]->pages[k]]++;
    uint32_t n_idle = 0, n_used = 0;
    for (uint32_t p = 0; p < pages->n_pages; p++) {
        const struct ht_prefix_node *node = &prefix->nodes[p];
        assert_int_equal(refs[p], pages->refs[p]);
        assert_int_equal(node->listed, pages->kept[p]);
        n_used += refs[p] > 0;
        n_idle += !refs[p] && node->listed;
        if (!node->listed || node->parent == HT_NO_PAGE)
            continue;
        const struct ht_prefix_node *parent = &prefix->nodes[node->parent];
        assert_true(parent->listed);
        assert_true(!parent->key.owner || parent->key.owner == node->key.owner);
        assert_true(ht_adapter_key_equal(parent->key.adapter, node->key.adapter));
        assert_true(refs[node->parent] >= (refs[p] > 0));
    }
    assert_int_equal(n_idle, pages->n_idle);
    assert_int_equal(n_used + n_idle + pages->n_free, pages->n_pages);
    uint32_t n = 0, seen = 0;
    for (uint32_t p = pages->oldest; p != HT_NO_PAGE; p = pages->newer[p], n++)
        for (uint32_t q = pages->oldest; q != p; q = pages->newer[q]) // nothing older is before it in a chain
            seen += prefix->nodes[p].parent == q;
    assert_int_equal(n, n_idle);
    assert_int_equal(seen, 0);
}

static inline void run_all(struct hearth_engine *engine)
{
    struct hearth_error err;
    for (unsigned busy = 1, i = 0; busy; i++) {
        must(hearth_engine_step(engine, &busy, &err), &err);
        assert_true(i < 2000);
    }
}

static inline void ask(struct hearth_session *s, struct answer *answer, const int32_t *ids, size_t n,
                       uint64_t owner)
{
    struct hearth_error err;
    struct hearth_request r = request_for(answer, ids, n, owner);
    must(hearth_session_submit(s, &r, &err), &err);
    run_all(s->engine);
    assert_true(answer->ended && !answer->failed);
    check_cache(s->engine);
}

// In a new session that is gone afterwards.
static inline void ask_once(struct hearth_engine *engine, struct answer *answer, const int32_t *ids, size_t n,
                            uint64_t owner)
{
    struct hearth_session *s = new_session(engine);
    ask(s, answer, ids, n, owner);
    hearth_session_destroy(&s);
    check_cache(engine);
}

static inline void same_answer(const struct answer *a, const struct answer *b)
{
    assert_int_equal(a->n, b->n);
    assert_memory_equal(a->text, b->text, a->n);
}

static inline void lengthen(const char *from, const char *key, const char *to)
{
    static unsigned char bytes[1 << 19];
    FILE *f = fopen(from, "rb");
    assert_non_null(f);
    size_t n = fread(bytes, 1, sizeof bytes, f);
    fclose(f);
    unsigned char *at = memmem(bytes, n, key, strlen(key));
    assert_true(at && n < sizeof bytes);
    const uint32_t length = 4096;
    memcpy(at + strlen(key) + 4, &length, sizeof length); // after its type
    check_file_write(to, bytes, n);
}

static inline int set_up(void **state)
{
    (void)state;
    check_folder_make(folder);
    lengthen("tests/golden/tiny-llama-q8_0.gguf", "llama.context_length", MODEL);
    lengthen("tests/golden/tiny-gemma3.gguf", "gemma3.context_length", CHAT_MODEL);
    return 0;
}

static inline int tear_down(void **state)
{
    (void)state;
    check_folder_remove(folder);
    return 0;
}

#endif
