// SPDX-License-Identifier: Apache-2.0
// Scoring: ids in, logits out, many sessions in one batch, nothing sampled. Engine thread.
#include "engine/model/session.h"

#include <string.h>

static enum hearth_status check_spans(struct hearth_engine *e, const struct hearth_span *spans,
                                      size_t n_spans, struct hearth_error *err)
{
    for (size_t i = 0; i < n_spans; i++) {
        struct hearth_session *s = spans[i].session;
        if (!s || s->engine != e)
            return ht_fail(err, HEARTH_INVALID, "span %zu names no session of this engine", i);
        if (s->phase != HT_IDLE)
            return ht_fail(err, HEARTH_BUSY, "the session of span %zu is answering", i);
        for (size_t j = 0; j < i; j++)
            if (spans[j].session == s)
                return ht_fail(err, HEARTH_INVALID, "spans %zu and %zu name the same session", j, i);
        int32_t adapter;
        HT_TRY(ht_lora_find(e, spans[i].adapter, &adapter, err));
        if (spans[i].n_ids > e->session_limit - s->n_cached)
            return ht_fail(err, HEARTH_CONTEXT, "%zu ids after %u positions, the context holds %u",
                           spans[i].n_ids, s->n_cached, e->session_limit);
        for (size_t j = 0; j < spans[i].n_ids; j++)
            if (spans[i].ids[j] < 0 || (uint32_t)spans[i].ids[j] >= e->model.hp.n_vocab)
                return ht_fail(err, HEARTH_INVALID, "id %d at place %zu, the vocabulary has %u",
                               spans[i].ids[j], j, e->model.hp.n_vocab);
    }
    return HEARTH_OK;
}

// The head, a few output rows at a time: rows [first, first + n) of the step to logits[0 .. n).
static enum hearth_status read_logits(struct hearth_engine *e, uint32_t first, uint32_t n, float *logits,
                                      struct hearth_error *err)
{
    struct ht_step *step = &e->ctx.step;
    size_t n_vocab = e->model.hp.n_vocab;
    for (uint32_t done = 0; done < n;) {
        uint32_t outs = n - done < e->ctx.max_outs ? n - done : e->ctx.max_outs;
        step->counts[1] = outs;
        for (uint32_t i = 0; i < outs; i++) {
            step->out_row[i] = (int32_t)(first + done + i);
            step->sampler[i] = (struct ht_sampler){.active = 0};
        }
        HT_TRY(ht_context_run_head(&e->ctx, err));
        for (uint32_t i = 0; i < outs; i++)
            HT_TRY(ht_context_read_logits(&e->ctx, i, logits + (done + i) * n_vocab, err));
        done += outs;
    }
    return HEARTH_OK;
}

// Runs rows of spans from *span, *at on until the step is full; moves both on.
static enum hearth_status run_rows(struct hearth_engine *e, const struct hearth_span *spans, size_t n_spans,
                                   size_t *span, size_t *at, struct hearth_error *err)
{
    struct ht_step *step = &e->ctx.step;
    size_t first_span = *span, first_at = *at;
    memset(step->counts, 0, 4 * sizeof *step->counts);
    step->counts[2] = e->max_sessions;
    while (*span < n_spans && step->counts[0] < e->ctx.max_rows) {
        const struct hearth_span *p = &spans[*span];
        struct hearth_session *s = p->session;
        size_t room = e->ctx.max_rows - step->counts[0], n = p->n_ids - *at < room ? p->n_ids - *at : room;
        HT_TRY(ht_session_reserve(s, s->n_cached + (uint32_t)n, err));
        for (size_t i = 0; i < n; i++) {
            s->tokens[s->n_cached + i] = p->ids[*at + i];
            ht_step_add_row(e, s, p->ids[*at + i], s->n_cached + (uint32_t)i);
        }
        ht_step_set_pages(e, s);
        *at += n;
        if (*at == p->n_ids) {
            ++*span;
            *at = 0;
        }
    }
    if (!step->counts[0])
        return HEARTH_OK;
    HT_TRY(ht_context_run_body(&e->ctx, err));
    for (uint32_t row = 0, rows = step->counts[0]; row < rows;) {
        const struct hearth_span *p = &spans[first_span];
        size_t left = p->n_ids - first_at, n = left < rows - row ? left : rows - row;
        struct hearth_session *s = p->session;
        s->n_cached += (uint32_t)n;
        s->n_tokens = s->n_prompt = s->n_cached;
        if (p->logits)
            HT_TRY(read_logits(e, row, (uint32_t)n, p->logits + first_at * e->model.hp.n_vocab, err));
        row += (uint32_t)n;
        first_span++;
        first_at = 0;
    }
    return HEARTH_OK;
}

static enum hearth_status run_spans(struct hearth_engine *e, const struct hearth_span *spans, size_t n_spans,
                                    struct hearth_error *err)
{
    for (size_t span = 0, at = 0; span < n_spans;)
        HT_TRY(ht_engine_check(e, run_rows(e, spans, n_spans, &span, &at, err)));
    return HEARTH_OK;
}

// Its rows go under the span's adapter; what the session holds of another one is computed again.
static enum hearth_status begin_span(struct hearth_engine *e, const struct hearth_span *span, struct hearth_error *err)
{
    struct hearth_session *s = span->session;
    uint32_t n = s->n_cached;
    HT_TRY(ht_lora_find(e, span->adapter, &s->adapter, err));
    ht_session_make_under(s, ht_lora_key(e, s->adapter));
    const struct hearth_span again = {.session = s, .ids = s->tokens, .n_ids = n - s->n_cached};
    return again.n_ids ? run_spans(e, &again, 1, err) : HEARTH_OK;
}

enum hearth_status hearth_engine_eval(struct hearth_engine *engine, const struct hearth_span *spans,
                                      size_t n_spans, struct hearth_error *err)
{
    if (engine->vocab_only)
        return ht_fail(err, HEARTH_INVALID, "the engine was opened for its vocabulary only");
    if (engine->lost)
        return ht_fail(err, HEARTH_DEVICE_LOST, "device %s is lost", engine->info.device);
    HT_TRY(check_spans(engine, spans, n_spans, err));
    enum hearth_status status = HEARTH_OK;
    for (size_t i = 0; i < n_spans && status == HEARTH_OK; i++)
        status = begin_span(engine, &spans[i], err);
    if (status == HEARTH_OK)
        status = run_spans(engine, spans, n_spans, err);
    for (size_t i = 0; i < n_spans; i++)
        spans[i].session->adapter = HT_NO_ADAPTER;
    return status;
}
