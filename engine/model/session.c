// SPDX-License-Identifier: Apache-2.0
// Sessions: their life, and taking in a request. Engine thread, but for the cancel flag.
#include "engine/model/session.h"

#include <math.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/model/constraint.h"
#include "engine/model/prompt.h"

static void free_session(struct hearth_session *s)
{
    if (!s)
        return;
    ht_free(s->tokens);
    ht_free(s->pages);
    ht_drafter_deinit(&s->drafter);
    ht_matcher_destroy(&s->matcher);
    ht_free(s);
}

enum hearth_status hearth_session_create(struct hearth_engine *engine, struct hearth_session **session,
                                         struct hearth_error *err)
{
    *session = NULL;
    if (engine->vocab_only)
        return ht_fail(err, HEARTH_INVALID, "the engine was opened for its vocabulary only");
    uint32_t slot = 0;
    while (slot < engine->max_sessions && engine->sessions[slot])
        slot++;
    if (slot == engine->max_sessions)
        return ht_fail(err, HEARTH_LIMIT, "all %u sessions are in use", engine->max_sessions);
    struct hearth_session *s = ht_calloc(1, sizeof *s);
    enum hearth_status status = HEARTH_NOMEM;
    if (s) {
        s->tokens = ht_calloc(engine->session_limit, sizeof *s->tokens);
        s->pages = ht_calloc(engine->ctx.pages.n_pages, sizeof *s->pages);
        status = ht_drafter_init(&s->drafter, engine->session_limit, err);
    }
    if (status != HEARTH_OK || !s->tokens || !s->pages) {
        free_session(s);
        return ht_fail(err, HEARTH_NOMEM, "out of memory for a session of %u positions",
                       engine->session_limit);
    }
    s->engine = engine;
    s->slot = slot;
    s->adapter = HT_NO_ADAPTER;
    engine->sessions[slot] = s;
    *session = s;
    return HEARTH_OK;
}

void hearth_session_destroy(struct hearth_session **session)
{
    struct hearth_session *s = *session;
    *session = NULL;
    if (!s)
        return;
    if (s->phase == HT_PROMPT || s->phase == HT_DECODE)
        ht_fair_leave(&s->engine->fair, s->share);
    if (s->phase != HT_IDLE)
        ht_lora_release(s->engine, s->adapter);
    ht_session_cut(s, 0);
    s->engine->sessions[s->slot] = NULL;
    free_session(s);
}

enum hearth_status hearth_session_truncate(struct hearth_session *session, unsigned n_keep,
                                           struct hearth_error *err)
{
    if (session->phase != HT_IDLE)
        return ht_fail(err, HEARTH_INVALID, "the session is answering");
    ht_session_cut(session, n_keep);
    return HEARTH_OK;
}

unsigned hearth_session_length(const struct hearth_session *session)
{
    return session->n_cached;
}

void hearth_session_cancel(struct hearth_session *session)
{
    atomic_store_explicit(&session->cancel, true, memory_order_relaxed);
}

size_t hearth_session_last_ids(const struct hearth_session *session, int32_t *ids, size_t capacity)
{
    size_t n = session->n_tokens > session->n_prompt ? session->n_tokens - session->n_prompt : 0;
    if (n > capacity)
        n = capacity;
    if (n)
        memcpy(ids, session->tokens + session->n_prompt, n * sizeof *ids);
    return n;
}

// ---- requests

void hearth_sampling_default(struct hearth_sampling *sampling)
{
    *sampling = (struct hearth_sampling){
        .temperature = 0.2f,
        .top_k = 40,
        .top_p = 0.95f,
        .min_p = 0.05f,
        .repeat_penalty = 1,
        .penalty_last_n = 64,
    };
}

static enum hearth_status in_range(const char *name, float value, float low, float high,
                                   struct hearth_error *err)
{
    if (value >= low && value <= high) // false for NaN
        return HEARTH_OK;
    return ht_fail(err, HEARTH_INVALID, "%s %g is not in [%g, %g]", name, (double)value, (double)low,
                   (double)high);
}

static enum hearth_status check_sampling(const struct hearth_sampling *p, uint32_t n_vocab,
                                         struct hearth_error *err)
{
    HT_TRY(in_range("temperature", p->temperature, 0, 100, err));
    HT_TRY(in_range("top_p", p->top_p, 0, 1, err));
    HT_TRY(in_range("min_p", p->min_p, 0, 1, err));
    HT_TRY(in_range("repeat_penalty", p->repeat_penalty, 0.01f, 100, err));
    HT_TRY(in_range("presence_penalty", p->presence_penalty, -100, 100, err));
    HT_TRY(in_range("frequency_penalty", p->frequency_penalty, -100, 100, err));
    if (p->penalty_last_n > HT_MAX_PENALTY_WINDOW)
        return ht_fail(err, HEARTH_LIMIT, "penalty_last_n %u is more than %d", p->penalty_last_n,
                       HT_MAX_PENALTY_WINDOW);
    if (p->n_logit_bias > HT_MAX_LOGIT_BIAS)
        return ht_fail(err, HEARTH_LIMIT, "%zu logit biases are more than %d", p->n_logit_bias,
                       HT_MAX_LOGIT_BIAS);
    for (size_t i = 0; i < p->n_logit_bias; i++) {
        if (p->logit_bias[i].token < 0 || (uint32_t)p->logit_bias[i].token >= n_vocab)
            return ht_fail(err, HEARTH_INVALID, "logit bias for token %d, the vocabulary has %u",
                           p->logit_bias[i].token, n_vocab);
        HT_TRY(in_range("logit bias", p->logit_bias[i].bias, -1000, 1000, err));
    }
    return HEARTH_OK;
}

// What the chat format ends a turn with: a mark that is a token ends it as that id (streaming hides control
// tokens), any other as text.
static enum hearth_status take_format_stops(struct hearth_session *s, struct hearth_error *err)
{
    for (const char *const *stop = ht_chat_stops(&s->engine->chat); *stop; stop++) {
        int32_t id = ht_tokenizer_find_special(s->engine->tokenizer, *stop, strlen(*stop));
        if (id >= 0 && s->n_end_ids < HT_CHAT_MAX_STOPS)
            s->end_ids[s->n_end_ids++] = id;
        else if (!ht_answer_add_stop(&s->answer, *stop, strlen(*stop)))
            return ht_fail(err, HEARTH_LIMIT, "with those of the chat template there are more than %d stop strings",
                           HT_MAX_STOP_STRINGS);
    }
    return HEARTH_OK;
}

// Copies what the request says into the session; nothing of the cache is touched yet.
static enum hearth_status take_settings(struct hearth_session *s, const struct hearth_request *r,
                                        struct hearth_error *err)
{
    HT_TRY(check_sampling(&r->sampling, s->engine->model.hp.n_vocab, err));
    s->sampling = r->sampling;
    if (r->sampling.n_logit_bias)
        memcpy(s->bias, r->sampling.logit_bias, r->sampling.n_logit_bias * sizeof *s->bias);
    s->sampling.logit_bias = s->bias;
    ht_answer_reset(&s->answer);
    s->n_end_ids = 0;
    if (r->n_stop > HT_MAX_STOP_STRINGS)
        return ht_fail(err, HEARTH_LIMIT, "%zu stop strings are more than %d", r->n_stop,
                       HT_MAX_STOP_STRINGS);
    for (size_t i = 0; i < r->n_stop; i++)
        if (!ht_answer_add_stop(&s->answer, r->stop[i], strlen(r->stop[i])))
            return ht_fail(err, HEARTH_INVALID, "stop string %zu has %zu bytes; 1 to %d are allowed", i + 1,
                           strlen(r->stop[i]), HT_MAX_STOP_BYTES);
    if (!r->messages)
        return HEARTH_OK;
    return take_format_stops(s, err);
}

static enum hearth_status check_ids(const int32_t *ids, size_t n, uint32_t n_vocab, struct hearth_error *err)
{
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || (uint32_t)ids[i] >= n_vocab)
            return ht_fail(err, HEARTH_INVALID, "id %d at place %zu, the vocabulary has %u", ids[i], i,
                           n_vocab);
    return HEARTH_OK;
}

// The prompt's ids into engine->prompt; n_ids counts them all, also when they do not fit.
static enum hearth_status take_prompt(struct hearth_session *s, const struct hearth_request *r, size_t *n_ids,
                                      size_t *n_shared_ids, struct hearth_error *err)
{
    struct hearth_engine *e = s->engine;
    if (r->messages) {
        enum hearth_status status = ht_prompt_from_messages(e, r->messages, r->n_messages, r->n_shared, e->prompt,
                                                            e->session_limit, n_ids, n_shared_ids, err);
        if (status != HEARTH_LIMIT)
            HT_TRY(status);
    } else {
        *n_ids = r->n_ids;
        if (r->n_ids <= e->session_limit) {
            HT_TRY(check_ids(r->ids, r->n_ids, e->model.hp.n_vocab, err));
            memcpy(e->prompt, r->ids, r->n_ids * sizeof *r->ids);
        }
    }
    if (*n_ids == 0)
        return ht_fail(err, HEARTH_INVALID, "the prompt is empty");
    if (*n_ids >= e->session_limit)
        return ht_fail(err, HEARTH_CONTEXT,
                       "the prompt has %zu tokens, the context holds %u with at least one for the answer",
                       *n_ids, e->session_limit);
    return HEARTH_OK;
}

enum hearth_status hearth_session_submit(struct hearth_session *session, const struct hearth_request *request,
                                         struct hearth_error *err)
{
    struct hearth_session *s = session;
    struct hearth_engine *e = s->engine;
    if (s->phase != HT_IDLE)
        return ht_fail(err, HEARTH_BUSY, "the session is answering");
    if (!request->on_event)
        return ht_fail(err, HEARTH_INVALID, "a request needs on_event");
    if (request->max_draft > HT_MAX_DRAFT)
        return ht_fail(err, HEARTH_LIMIT, "%u tokens proposed per step are more than %d", request->max_draft,
                       HT_MAX_DRAFT);
    if (e->lost)
        return ht_fail(err, HEARTH_DEVICE_LOST, "device %s is lost", e->info.device);
    double start_s = ht_now_s();
    size_t n_ids = 0, n_shared_ids = 0;
    int32_t adapter;
    HT_TRY(ht_lora_find(e, request->adapter, &adapter, err));
    HT_TRY(take_settings(s, request, err));
    HT_TRY(take_prompt(s, request, &n_ids, &n_shared_ids, err));
    HT_TRY(ht_constraint_create(&s->matcher, s, request, err));

    // The last prompt token runs anyway, for its logits.
    const struct ht_prefix_key key = {.owner = request->owner, .adapter = ht_lora_key(e, adapter)};
    uint32_t cached = ht_session_adopt(s, e->prompt, (uint32_t)n_ids - 1, &key);
    s->adapter = adapter;
    ht_lora_hold(e, adapter);
    memcpy(s->tokens, e->prompt, n_ids * sizeof *s->tokens);
    s->n_tokens = s->n_prompt = (uint32_t)n_ids;
    s->prompt_told = 0;
    s->n_shared = (uint32_t)n_shared_ids;

    s->max_tokens = request->max_tokens;
    s->ignore_end = request->ignore_end;
    s->max_draft = request->max_draft;
    ht_drafter_reset(&s->drafter);
    s->share = ht_fair_join(&e->fair, request->owner, s->slot);
    s->order = e->n_requests++;
    s->on_event = request->on_event;
    s->user = request->user;
    s->usage = (struct hearth_usage){
        .prompt_tokens = s->n_prompt, .cached_tokens = cached, .seed = s->sampling.seed};
    memcpy(s->usage.numerics_id, e->info.numerics_id, sizeof s->usage.numerics_id);
    s->submit_s = start_s;
    s->prompt_start_s = s->first_token_s = 0;
    atomic_store_explicit(&s->cancel, false, memory_order_relaxed);
    s->phase = HT_PROMPT;
    return HEARTH_OK;
}

// ---- pauses

void hearth_session_pause(struct hearth_session *session)
{
    struct hearth_session *s = session;
    if (s->phase == HT_IDLE || s->phase == HT_PAUSED)
        return;
    ht_session_release(s);
    ht_fair_leave(&s->engine->fair, s->share); // who does not run holds nobody back
    s->phase = HT_PAUSED;
    s->paused_s = ht_now_s();
}

void hearth_session_resume(struct hearth_session *session)
{
    struct hearth_session *s = session;
    if (s->phase != HT_PAUSED)
        return;
    ht_session_regain(s);
    s->share = ht_fair_join(&s->engine->fair, s->owner, s->slot);
    double pause_s = ht_now_s() - s->paused_s; // is not counted as work; what is computed again is
    if (s->first_token_s > 0)
        s->first_token_s += pause_s;
    else if (s->prompt_start_s > 0)
        s->prompt_start_s += pause_s;
    s->phase = s->n_tokens > s->n_prompt && s->n_cached + 1 == s->n_tokens ? HT_DECODE : HT_PROMPT;
}
