// SPDX-License-Identifier: Apache-2.0
// Perplexity: the four definitions, bits per byte and word perplexity; windows over a long text. One thread.
#include <math.h>
#include <string.h>

#include "engine/base/io.h"
#include "engine/base/limits.h"
#include "engine/base/mem.h"
#include "engine/base/utf8.h"
#include "engine/learn/eval.h"

enum { MOST_WINDOW = 2048, CHUNK = 512 };

void hearth_ppl_add(struct hearth_ppl *ppl, const struct hearth_ppl_text *text)
{
    for (int k = 0; k < 2; k++) {
        if (!text->n_tokens[k])
            continue;
        ppl->sum.nll[k] += text->nll[k];
        ppl->sum.n_tokens[k] += text->n_tokens[k];
        ppl->seed_sum[k] += exp(text->nll[k] / (double)text->n_tokens[k]);
        ppl->n_texts[k]++;
    }
    if (text->n_tokens[0]) {
        ppl->sum.bytes += text->bytes;
        ppl->sum.words += text->words;
    }
}

void hearth_ppl_add_sums(struct hearth_ppl *ppl, const struct hearth_ppl *more)
{
    for (int k = 0; k < 2; k++) {
        ppl->sum.nll[k] += more->sum.nll[k];
        ppl->sum.n_tokens[k] += more->sum.n_tokens[k];
        ppl->seed_sum[k] += more->seed_sum[k];
        ppl->n_texts[k] += more->n_texts[k];
    }
    ppl->sum.bytes += more->sum.bytes;
    ppl->sum.words += more->sum.words;
}

static double quotient(double a, uint64_t b)
{
    return b ? a / (double)b : NAN;
}

void hearth_ppl_get(const struct hearth_ppl *ppl, struct hearth_ppl_numbers *numbers)
{
    const struct hearth_ppl_text *s = &ppl->sum;
    *numbers = (struct hearth_ppl_numbers){
        .seed_all = quotient(ppl->seed_sum[0], ppl->n_texts[0]),
        .seed_response = quotient(ppl->seed_sum[1], ppl->n_texts[1]),
        .token_all = exp(quotient(s->nll[0], s->n_tokens[0])),
        .token_response = exp(quotient(s->nll[1], s->n_tokens[1])),
        .bits_per_byte = s->n_tokens[0] ? quotient(s->nll[0] / log(2), s->bytes) : NAN,
        .word = s->n_tokens[0] ? exp(quotient(s->nll[0], s->words)) : NAN,
    };
}

bool hearth_window_next(struct hearth_window *at, size_t n_ids, size_t window, size_t stride, bool bos)
{
    if (!at->end) { // the first: its own BOS, if there is one, stands in ids[0]
        *at = (struct hearth_window){0, 1, n_ids < window ? n_ids : window};
        return at->end > 1;
    }
    if (at->end >= n_ids)
        return false;
    size_t room = window - bos, end = n_ids - at->end < stride ? n_ids : at->end + stride;
    *at = (struct hearth_window){end > room ? end - room : 0, at->end, end};
    return true;
}

// ---------------------------------------------------------------- a text

struct text_job {
    struct hearth_scorer *scorer;
    const struct hearth_ppl_params *params;
    size_t window, stride;
    bool bos;
    int32_t bos_id;
    int32_t *ids; // a window's
    float *weights;
    double *nll;
    double done, share; // of the file: before this text, and this text's part
};

static enum hearth_status tell(const struct text_job *job, size_t at, size_t n, struct hearth_error *err)
{
    double done = job->done + (n ? job->share * (double)at / (double)n : job->share);
    if (job->params->progress && !job->params->progress(job->params->user, done))
        return ht_fail(err, HEARTH_CANCELED, "scoring was canceled");
    return HEARTH_OK;
}

// ids[begin, end) behind `lead` ids that stand in job->ids already; [from, end) are scored.
static enum hearth_status score_window(struct text_job *job, const int32_t *ids, const struct hearth_window *w,
                                       size_t lead, struct hearth_ppl_text *text, struct hearth_error *err)
{
    size_t n = lead + w->end - w->begin;
    memcpy(job->ids + lead, ids + w->begin, (w->end - w->begin) * sizeof *ids);
    for (size_t i = 0; i < n; i++)
        job->weights[i] = i >= lead + w->from - w->begin ? 1.0f : 0.0f;
    HT_TRY(hearth_scorer_run(job->scorer, job->ids, n, job->weights, job->nll, NULL, err));
    for (size_t i = lead + w->from - w->begin; i < n; i++)
        text->nll[0] += job->nll[i];
    text->n_tokens[0] += w->end - w->from;
    return HEARTH_OK;
}

static enum hearth_status slide(struct text_job *job, const int32_t *ids, size_t n_ids, struct hearth_ppl_text *text,
                                struct hearth_error *err)
{
    struct hearth_window w = {0};
    while (hearth_window_next(&w, n_ids, job->window, job->stride, job->bos)) {
        size_t lead = job->bos && w.from > 1;
        if (lead)
            job->ids[0] = job->bos_id;
        HT_TRY(score_window(job, ids, &w, lead, text, err));
        HT_TRY(tell(job, w.end, n_ids, err));
    }
    uint64_t first = 0; // a first id that is no BOS is not scored: its bytes do not count
    if (!job->bos && n_ids)
        HT_TRY(ht_eval_bytes(job->scorer->engine, ids, 1, &first, err));
    text->bytes -= first < text->bytes ? first : text->bytes;
    return HEARTH_OK;
}

static enum hearth_status chunk(struct text_job *job, const int32_t *ids, size_t n_ids, struct hearth_ppl_text *text,
                                struct hearth_error *err)
{
    size_t n = job->window;
    if (n_ids < 2 * n)
        return ht_fail(err, HEARTH_FORMAT, "%s: has %zu tokens; chunks of %zu want twice as many",
                       ht_shown_path(job->params->path), n_ids, n);
    text->bytes = text->words = 0;
    for (size_t at = 0; at + n <= n_ids; at += n) {
        size_t lead = job->bos;
        struct hearth_window w = {at + lead, at + n / 2 + 1, at + n};
        if (lead)
            job->ids[0] = job->bos_id;
        HT_TRY(score_window(job, ids, &w, lead, text, err));
        uint64_t bytes;
        HT_TRY(ht_eval_bytes(job->scorer->engine, ids + w.from, w.end - w.from, &bytes, err));
        text->bytes += bytes;
        HT_TRY(tell(job, w.end, n_ids, err));
    }
    return HEARTH_OK;
}

static enum hearth_status one_text(struct text_job *job, const char *bytes, size_t len, struct hearth_ppl *ppl,
                                   struct hearth_error *err)
{
    int32_t *ids;
    size_t n_ids;
    struct hearth_ppl_text text = {.bytes = len, .words = ht_eval_words(bytes, len)};
    HT_TRY(ht_eval_tokenize(job->scorer->engine, bytes, len, HEARTH_TOKENIZE_BOS, &ids, &n_ids, err));
    enum hearth_status status = job->params->chunks ? chunk(job, ids, n_ids, &text, err)
                                                    : slide(job, ids, n_ids, &text, err);
    ht_free(ids);
    if (status == HEARTH_OK)
        hearth_ppl_add(ppl, &text);
    return status;
}

static enum hearth_status each_line(struct text_job *job, const char *bytes, size_t len, struct hearth_ppl *ppl,
                                    struct hearth_error *err)
{
    for (size_t at = 0, end; at < len; at = end + 1) {
        const char *newline = memchr(bytes + at, '\n', len - at);
        end = newline ? (size_t)(newline - bytes) : len;
        size_t stop = end > at && bytes[end - 1] == '\r' ? end - 1 : end;
        job->done = (double)at / (double)len;
        job->share = (double)(end - at) / (double)len;
        if (ht_eval_words(bytes + at, stop - at))
            HT_TRY(one_text(job, bytes + at, stop - at, ppl, err));
    }
    return HEARTH_OK;
}

// ---------------------------------------------------------------- a file

static enum hearth_status read_text(const char *path, char **text, size_t *len, struct hearth_error *err)
{
    struct ht_file *file;
    *text = NULL;
    HT_TRY(ht_file_open_read(&file, path, err));
    uint64_t size = ht_file_size(file);
    enum hearth_status status = HEARTH_OK;
    *len = (size_t)size;
    if (size > HT_MAX_TEXT_BYTES)
        status = ht_fail(err, HEARTH_LIMIT, "%s: is larger than %d bytes", ht_shown_path(path), HT_MAX_TEXT_BYTES);
    else if (!(*text = ht_calloc(*len + 1, 1)))
        status = ht_fail(err, HEARTH_NOMEM, "%s: out of memory", ht_shown_path(path));
    else
        status = ht_file_read(file, *text, *len, 0, err);
    ht_file_close(&file);
    if (status == HEARTH_OK && !ht_eval_words(*text, *len))
        status = ht_fail(err, HEARTH_FORMAT, "%s: is empty", ht_shown_path(path));
    else if (status == HEARTH_OK && (!ht_utf8_valid(*text, *len) || memchr(*text, 0, *len)))
        status = ht_fail(err, HEARTH_FORMAT, "%s: is not UTF-8 text", ht_shown_path(path));
    if (status == HEARTH_OK || !*text)
        return status;
    ht_free(*text);
    *text = NULL;
    return status;
}

// Windows and whether there is a BOS.
static enum hearth_status set_up(struct text_job *job, struct hearth_error *err)
{
    const struct hearth_ppl_params *p = job->params;
    struct hearth_engine_info info;
    int32_t *ids;
    size_t n_ids;
    hearth_engine_get_info(job->scorer->engine, &info);
    if (p->chunks && p->lines)
        return ht_fail(err, HEARTH_INVALID, "chunks go over a whole text, not line by line");
    size_t most = info.n_ctx < MOST_WINDOW ? info.n_ctx : MOST_WINDOW;
    job->window = p->window ? p->window : p->chunks ? CHUNK : most;
    job->stride = p->stride ? p->stride : job->window / 2;
    if (job->window < 4 || job->window > info.n_ctx || !job->stride || job->stride >= job->window)
        return ht_fail(err, HEARTH_INVALID, "a window of %zu in steps of %zu; 4 to %u positions are allowed, and "
                       "steps below the window", job->window, job->stride, info.n_ctx);
    HT_TRY(ht_eval_tokenize(job->scorer->engine, "", 0, HEARTH_TOKENIZE_BOS, &ids, &n_ids, err));
    job->bos = n_ids > 0;
    job->bos_id = n_ids ? ids[0] : 0;
    ht_free(ids);
    job->ids = ht_calloc(job->window + 1, sizeof *job->ids);
    job->weights = ht_calloc(job->window + 1, sizeof *job->weights);
    job->nll = ht_calloc(job->window + 1, sizeof *job->nll);
    if (!job->ids || !job->weights || !job->nll)
        return ht_fail(err, HEARTH_NOMEM, "out of memory for a window of %zu", job->window);
    return HEARTH_OK;
}

enum hearth_status hearth_ppl_file(struct hearth_scorer *scorer, const struct hearth_ppl_params *params,
                                   struct hearth_ppl *ppl, struct hearth_error *err)
{
    struct text_job job = {.scorer = scorer, .params = params, .share = 1};
    char *text = NULL;
    size_t len = 0;
    enum hearth_status status = read_text(params->path, &text, &len, err);
    if (status == HEARTH_OK)
        status = set_up(&job, err);
    if (status == HEARTH_OK)
        status = params->lines ? each_line(&job, text, len, ppl, err) : one_text(&job, text, len, ppl, err);
    ht_free(text);
    ht_free(job.ids);
    ht_free(job.weights);
    ht_free(job.nll);
    return status;
}
