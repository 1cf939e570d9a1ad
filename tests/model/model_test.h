// SPDX-License-Identifier: Apache-2.0
// Shared by the model tests: the tiny models of tests/golden, and small steps that must succeed.
#ifndef MODEL_TEST_H
#define MODEL_TEST_H
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/engine.h"

struct golden {
    uint32_t n_tokens, n_vocab;
    int32_t *ids;  // (n_tokens)
    float *logits; // (n_tokens, n_vocab)
};

static inline void must(enum hearth_status status, const struct hearth_error *err)
{
    if (status != HEARTH_OK)
        fail_msg("%s: %s", hearth_status_text(status), err->text);
}

static inline struct golden golden_read(const char *path)
{
    struct golden g;
    FILE *f = fopen(path, "rb");
    if (!f || fread(&g.n_tokens, 4, 1, f) != 1 || fread(&g.n_vocab, 4, 1, f) != 1)
        fail_msg("cannot read %s", path);
    g.ids = malloc(g.n_tokens * sizeof *g.ids);
    g.logits = malloc((size_t)g.n_tokens * g.n_vocab * sizeof *g.logits);
    if (fread(g.ids, 4, g.n_tokens, f) != g.n_tokens ||
        fread(g.logits, 4 * (size_t)g.n_vocab, g.n_tokens, f) != g.n_tokens)
        fail_msg("%s is cut short", path);
    fclose(f);
    return g;
}

static inline void golden_free(struct golden *g)
{
    free(g->ids);
    free(g->logits);
}

static inline struct hearth_engine *open_engine(struct hearth_engine_params params)
{
    struct hearth_engine *engine;
    struct hearth_error err;
    must(hearth_engine_open(&engine, &params, &err), &err);
    return engine;
}

static inline struct hearth_session *new_session(struct hearth_engine *engine)
{
    struct hearth_session *session;
    struct hearth_error err;
    must(hearth_session_create(engine, &session, &err), &err);
    return session;
}

// Appends ids in pieces of `chunk` (0 = all at once) and returns their logits (n, n_vocab); the caller frees.
static inline float *eval_ids(struct hearth_session *session, struct hearth_engine *engine,
                              const int32_t *ids, size_t n, size_t chunk)
{
    struct hearth_engine_info info;
    struct hearth_error err;
    hearth_engine_get_info(engine, &info);
    float *logits = malloc(n * info.n_vocab * sizeof *logits);
    for (size_t at = 0; at < n;) {
        size_t len = chunk && chunk < n - at ? chunk : n - at;
        struct hearth_span span = {
            .session = session, .ids = ids + at, .n_ids = len, .logits = logits + at * info.n_vocab};
        must(hearth_engine_eval(engine, &span, 1, &err), &err);
        at += len;
    }
    return logits;
}

#endif
