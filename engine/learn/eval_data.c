// SPDX-License-Identifier: Apache-2.0
// Losses of records as training has them, and the paired bootstrap over them. One thread.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "engine/learn/eval.h"

struct rows { // room for a sample's numbers
    double *nll;
    char *text;
    size_t capacity, text_capacity;
};

static enum hearth_status no_memory(struct hearth_error *err)
{
    return ht_fail(err, HEARTH_NOMEM, "out of memory for a record");
}

// Bytes and words of ids[1, n): the first is never scored.
static enum hearth_status measure(const struct hearth_engine *engine, const struct hearth_data_sample *s,
                                  struct rows *rows, struct hearth_ppl_text *text, struct hearth_error *err)
{
    uint64_t bytes;
    size_t len;
    HT_TRY(ht_eval_bytes(engine, s->ids + 1, s->n_tokens - 1, &bytes, err));
    if (bytes > rows->text_capacity) {
        ht_free(rows->text);
        rows->text_capacity = 2 * (size_t)bytes;
        rows->text = ht_calloc(rows->text_capacity, 1);
    }
    if (!rows->text && bytes) {
        rows->text_capacity = 0;
        return no_memory(err);
    }
    HT_TRY(hearth_detokenize(engine, s->ids + 1, s->n_tokens - 1, true, rows->text, rows->text_capacity, &len, err));
    text->bytes = len;
    text->words = ht_eval_words(rows->text, len);
    return HEARTH_OK;
}

static enum hearth_status score(struct hearth_scorer *scorer, const struct hearth_data_sample *s, bool all,
                                struct rows *rows, struct hearth_eval_record *record, struct hearth_error *err)
{
    *record = (struct hearth_eval_record){.sample = s};
    if (s->n_tokens > rows->capacity) {
        ht_free(rows->nll);
        rows->capacity = 2 * s->n_tokens;
        rows->nll = ht_calloc(rows->capacity, sizeof *rows->nll);
    }
    if (!rows->nll) {
        rows->capacity = 0;
        return no_memory(err);
    }
    HT_TRY(hearth_scorer_run(scorer, s->ids, s->n_tokens, all ? NULL : s->weights, rows->nll, NULL, err));
    for (size_t i = 1; i < s->n_tokens; i++) {
        double weight = (double)s->weights[i];
        record->text.nll[0] += all ? rows->nll[i] : 0;
        record->text.n_tokens[0] += all;
        if (weight == 0)
            continue;
        record->nll += weight * rows->nll[i];
        record->weight += weight;
        record->text.nll[1] += rows->nll[i];
        record->text.n_tokens[1]++;
    }
    return all ? measure(scorer->engine, s, rows, &record->text, err) : HEARTH_OK;
}

static bool wanted(const struct hearth_eval_data_params *p, const struct hearth_data_sample *s)
{
    if (s->record->pair_only || !s->copies || !s->n_targets)
        return false;
    return !p->held_out || (p->held_out > 0) == s->held_out;
}

enum hearth_status hearth_eval_data(struct hearth_scorer *scorer, const struct hearth_eval_data_params *params,
                                    struct hearth_data_counts *counts, struct hearth_error *err)
{
    struct hearth_data_set_params data = params->data;
    struct hearth_engine_info info;
    struct hearth_data_set *set;
    struct rows rows = {0};
    enum hearth_data_format format;
    hearth_engine_get_info(scorer->engine, &info);
    data.engine = scorer->engine;
    if (!data.n_seq)
        data.n_seq = data.style.n_seq;
    if (!data.n_seq || data.n_seq > info.n_ctx)
        data.n_seq = info.n_ctx;
    HT_TRY(hearth_data_set_open(&set, &data, err));
    enum hearth_status status = HEARTH_OK;
    for (bool more = true; more && status == HEARTH_OK;) {
        const struct hearth_data_sample *sample;
        struct hearth_eval_record record;
        status = hearth_data_set_next(set, &sample, err);
        if (status != HEARTH_OK || !sample)
            break;
        if (!wanted(params, sample))
            continue;
        status = score(scorer, sample, params->all, &rows, &record, err);
        more = status == HEARTH_OK && params->each(params->user, &record);
    }
    for (size_t i = 0; counts && i < data.n_files; i++)
        hearth_data_set_get_counts(set, i, &counts[i], &format);
    hearth_data_set_close(&set);
    ht_free(rows.nll);
    ht_free(rows.text);
    return status;
}

// ---------------------------------------------------------------- the bootstrap

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static bool sums_are_numbers(const double *a, const double *b, const double *weights, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!isfinite(a[i]) || !isfinite(b[i]) || !(weights[i] > 0) || isinf(weights[i]))
            return false;
    return true;
}

enum hearth_status hearth_bootstrap_paired(const double *a, const double *b, const double *weights, size_t n,
                                           unsigned n_resamples, double confidence, uint64_t seed,
                                           struct hearth_bootstrap *out, struct hearth_error *err)
{
    *out = (struct hearth_bootstrap){0};
    if (!n || n > UINT32_MAX || n_resamples < 1 || n_resamples > 1000000 || !(confidence > 0 && confidence < 1))
        return ht_fail(err, HEARTH_INVALID, "a bootstrap needs records, 1 to 1000000 resamples, confidence in (0, 1)");
    if (!sums_are_numbers(a, b, weights, n))
        return ht_fail(err, HEARTH_NUMERIC, "a record's loss is not a finite number, or its weight not above 0");
    double *values = ht_calloc(n_resamples, 2 * sizeof *values), *relative = values + n_resamples;
    double all_a = 0, all_b = 0, all_w = 0;
    if (!values)
        return ht_fail(err, HEARTH_NOMEM, "out of memory for %u resamples", n_resamples);
    for (size_t i = 0; i < n; i++) {
        all_a += a[i];
        all_b += b[i];
        all_w += weights[i];
    }
    for (unsigned r = 0; r < n_resamples; r++) {
        double sum_a = 0, sum_b = 0, sum_w = 0;
        struct ht_philox draw = {{0}};
        for (size_t i = 0; i < n; i++) {
            if (i % 4 == 0)
                draw = ht_philox(seed, i / 4, UINT64_C(0x42) << 56 | r); // 0x42: the bootstrap's draws
            size_t unit = (size_t)((uint64_t)draw.v[i % 4] * n >> 32);
            sum_a += a[unit];
            sum_b += b[unit];
            sum_w += weights[unit];
        }
        values[r] = (sum_b - sum_a) / sum_w;
        relative[r] = (sum_b - sum_a) / sum_a;
    }
    qsort(values, n_resamples, sizeof *values, by_value);
    qsort(relative, n_resamples, sizeof *relative, by_value);
    size_t end = (size_t)((double)n_resamples * (1 - confidence) / 2);
    *out = (struct hearth_bootstrap){
        .loss_a = all_a / all_w,
        .loss_b = all_b / all_w,
        .difference = (all_b - all_a) / all_w,
        .low = values[end],
        .high = values[n_resamples - 1 - end],
        .relative = (all_b - all_a) / all_a,
        .relative_low = relative[end],
        .relative_high = relative[n_resamples - 1 - end],
        .n_resamples = n_resamples,
    };
    ht_free(values);
    return HEARTH_OK;
}
