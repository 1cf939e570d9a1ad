// SPDX-License-Identifier: Apache-2.0
// Log-probabilities of sequences: pieces of ids go through the engine, each piece's logits become numbers at once.
// One thread per scorer.
#include <math.h>
#include <string.h>

#include "engine/base/limits.h"
#include "engine/base/mem.h"
#include "engine/learn/eval.h"

enum { LOGIT_BYTES = 32 << 20, MOST_ROWS = 64, BLIND_ROWS = 4096 };

double ht_eval_row(const float *row, size_t n, int32_t target, bool *best)
{
    float top = row[target];
    bool larger = false;
    for (size_t i = 0; i < n; i++)
        if (!(row[i] <= top)) {
            top = row[i];
            larger = true;
        }
    double sum = 0, far = (double)top - 60; // below it exp adds nothing that a double would show
    for (size_t i = 0; i < n; i++)
        if (!((double)row[i] < far))
            sum += exp((double)row[i] - (double)top);
    *best = !larger;
    double nll = log(sum) + (double)top - (double)row[target];
    return isfinite(nll) ? nll : NAN;
}

enum hearth_status hearth_scorer_open(struct hearth_scorer **scorer, struct hearth_engine *engine,
                                      struct hearth_error *err)
{
    struct hearth_engine_info info;
    enum hearth_status status = HEARTH_NOMEM;
    hearth_engine_get_info(engine, &info);
    struct hearth_scorer *s = *scorer = ht_calloc(1, sizeof *s);
    if (!s)
        return ht_fail(err, HEARTH_NOMEM, "out of memory for scoring");
    s->engine = engine;
    s->n_vocab = info.n_vocab;
    s->chunk = LOGIT_BYTES / (info.n_vocab * sizeof *s->logits);
    s->chunk = s->chunk < 1 ? 1 : s->chunk > MOST_ROWS ? MOST_ROWS : s->chunk;
    s->held_capacity = info.n_ctx;
    s->held = ht_calloc(s->held_capacity, sizeof *s->held);
    s->logits = ht_calloc(s->chunk * s->n_vocab, sizeof *s->logits);
    if (s->held && s->logits)
        status = hearth_session_create(engine, &s->session, err);
    else
        ht_fail(err, HEARTH_NOMEM, "out of memory for %zu rows of logits", s->chunk);
    if (status != HEARTH_OK)
        hearth_scorer_close(scorer);
    return status;
}

void hearth_scorer_close(struct hearth_scorer **scorer)
{
    struct hearth_scorer *s = *scorer;
    *scorer = NULL;
    if (!s)
        return;
    hearth_session_destroy(&s->session);
    ht_free(s->held);
    ht_free(s->logits);
    ht_free(s);
}

void hearth_scorer_use(struct hearth_scorer *scorer, unsigned adapter)
{
    scorer->adapter = adapter;
}

// Forgets what is not in common with ids, and from row n_most on.
static enum hearth_status keep_common(struct hearth_scorer *s, const int32_t *ids, size_t n_most,
                                      struct hearth_error *err)
{
    size_t keep = 0;
    while (s->adapter == s->held_adapter && keep < s->n_held && keep < n_most && s->held[keep] == ids[keep])
        keep++;
    s->held_adapter = s->adapter;
    s->n_held = keep;
    return hearth_session_truncate(s->session, (unsigned)keep, err);
}

static enum hearth_status feed(struct hearth_scorer *s, const int32_t *ids, size_t n, bool logits,
                               struct hearth_error *err)
{
    const struct hearth_span span = {.session = s->session,
                                     .ids = ids + s->n_held,
                                     .n_ids = n,
                                     .logits = logits ? s->logits : NULL,
                                     .adapter = s->adapter};
    HT_TRY(hearth_engine_eval(s->engine, &span, 1, err));
    memcpy(s->held + s->n_held, span.ids, n * sizeof *ids);
    s->n_held += n;
    return HEARTH_OK;
}

static bool asked(const float *weights, size_t i)
{
    return !weights || weights[i] != 0;
}

static enum hearth_status score(struct hearth_scorer *s, const int32_t *ids, size_t first, size_t end,
                                const float *weights, double *nll, bool *best, struct hearth_error *err)
{
    HT_TRY(keep_common(s, ids, first - 1, err));
    while (s->n_held + 1 < end) { // row r says what ids[r + 1] is worth
        size_t from = s->n_held + 1, n = 1;
        bool logits = asked(weights, from), is_best;
        size_t most = logits ? s->chunk : BLIND_ROWS;
        while (n < most && from + n < end && asked(weights, from + n) == logits)
            n++;
        HT_TRY(feed(s, ids, n, logits, err));
        for (size_t i = 0; i < n && logits; i++) {
            int32_t target = ids[from + i];
            if (target < 0 || (size_t)target >= s->n_vocab)
                return ht_fail(err, HEARTH_INVALID, "id %d at place %zu, the vocabulary has %zu", target, from + i,
                               s->n_vocab);
            nll[from + i] = ht_eval_row(s->logits + i * s->n_vocab, s->n_vocab, target, &is_best);
            if (isnan(nll[from + i]))
                return ht_fail(err, HEARTH_NUMERIC, "a logit at place %zu is not a finite number", from + i - 1);
            if (best)
                best[from + i] = is_best;
        }
    }
    return HEARTH_OK;
}

enum hearth_status hearth_scorer_run(struct hearth_scorer *scorer, const int32_t *ids, size_t n_ids,
                                     const float *weights, double *nll, bool *best, struct hearth_error *err)
{
    size_t first = 1, end = n_ids;
    for (size_t i = 0; i < n_ids; i++) {
        nll[i] = 0;
        if (best)
            best[i] = false;
    }
    if (n_ids > scorer->held_capacity)
        return ht_fail(err, HEARTH_CONTEXT, "%zu tokens, the context holds %zu", n_ids, scorer->held_capacity);
    while (first < end && !asked(weights, first))
        first++;
    while (end > first && !asked(weights, end - 1))
        end--;
    if (first >= end)
        return HEARTH_OK;
    enum hearth_status status = score(scorer, ids, first, end, weights, nll, best, err);
    if (status != HEARTH_OK) {
        scorer->n_held = 0; // what the session holds is not known
        if (hearth_session_truncate(scorer->session, 0, NULL) != HEARTH_OK)
            scorer->held_adapter = 0;
    }
    return status;
}

// ---------------------------------------------------------------- texts

enum hearth_status ht_eval_tokenize(const struct hearth_engine *engine, const char *text, size_t len_bytes,
                                    unsigned flags, int32_t **ids, size_t *n_ids, struct hearth_error *err)
{
    size_t capacity = len_bytes / 3 + 16;
    for (*ids = NULL, *n_ids = 0;;) {
        ht_free(*ids);
        *ids = ht_calloc(capacity, sizeof **ids);
        if (!*ids)
            return ht_fail(err, HEARTH_NOMEM, "out of memory for %zu tokens", capacity);
        enum hearth_status status = hearth_tokenize(engine, text, len_bytes, flags, *ids, capacity, n_ids, err);
        if (status == HEARTH_LIMIT && *n_ids > capacity) {
            capacity = *n_ids;
            continue;
        }
        if (status != HEARTH_OK) {
            ht_free(*ids);
            *ids = NULL;
            *n_ids = 0;
        }
        return status;
    }
}

enum hearth_status ht_eval_bytes(const struct hearth_engine *engine, const int32_t *ids, size_t n_ids, uint64_t *bytes,
                                 struct hearth_error *err)
{
    size_t len = 0;
    *bytes = 0;
    enum hearth_status status = n_ids ? hearth_detokenize(engine, ids, n_ids, true, NULL, 0, &len, err) : HEARTH_OK;
    *bytes = len;
    return status == HEARTH_LIMIT ? HEARTH_OK : status; // no room was given
}

uint64_t ht_eval_words(const char *text, size_t len_bytes)
{
    uint64_t words = 0;
    bool inside = false;
    for (size_t i = 0; i < len_bytes; i++) {
        bool blank = text[i] == ' ' || (text[i] >= '\t' && text[i] <= '\r');
        words += !blank && !inside;
        inside = !blank;
    }
    return words;
}
