// SPDX-License-Identifier: Apache-2.0
// One step for everybody: a chunk of prompt tokens and one generated token for each session that answers.
#include "engine/model/session.h"

#include <string.h>

// While somebody reads an answer, prompts of others come in small chunks, so that tokens keep flowing.
enum { CHUNK_BESIDE_DECODE = 64 };

uint32_t ht_step_add_row(struct hearth_engine *engine, struct hearth_session *s, int32_t id, uint32_t pos)
{
    struct ht_step *step = &engine->ctx.step;
    uint32_t row = step->counts[0]++;
    step->ids[row] = id;
    step->pos[row] = (int32_t)pos;
    step->seq[row] = (int32_t)s->slot;
    step->adapter[row] = -1;
    return row;
}

void ht_step_set_pages(struct hearth_engine *engine, const struct hearth_session *s)
{
    struct ht_step *step = &engine->ctx.step;
    memcpy(step->page + (size_t)s->slot * step->shape.pages, s->pages, s->n_pages * sizeof *s->pages);
}

enum hearth_status ht_engine_check(struct hearth_engine *engine, enum hearth_status status)
{
    if (status == HEARTH_DEVICE_LOST)
        engine->lost = true;
    return status;
}

static void emit(struct hearth_session *s, const struct hearth_event *event)
{
    s->on_event(s->user, event);
}

// Ends the request. error NULL: DONE with the reason, else FAILED.
static void end(struct hearth_session *s, enum hearth_stop_reason reason, const struct hearth_error *error)
{
    double now = ht_now_s();
    s->usage.stop = reason;
    if (s->prompt_start_s > 0 && s->first_token_s > 0)
        s->usage.completion_ms = 1e3 * (now - s->first_token_s);
    s->phase = HT_IDLE;
    struct hearth_event event = {
        .type = error ? HEARTH_EVENT_FAILED : HEARTH_EVENT_DONE, .usage = &s->usage, .error = error};
    emit(s, &event);
}

static void emit_text(struct hearth_session *s)
{
    struct hearth_event event = {
        .type = HEARTH_EVENT_TEXT, .text = s->answer.out, .len_bytes = s->answer.n_out};
    if (s->answer.n_out)
        emit(s, &event);
}

static void end_with_held_text(struct hearth_session *s, enum hearth_stop_reason reason)
{
    ht_answer_finish(&s->answer);
    emit_text(s);
    end(s, reason, NULL);
}

// ---- what goes into the step

static bool penalizes(const struct hearth_sampling *p)
{
    return p->repeat_penalty != 1 || p->presence_penalty != 0 || p->frequency_penalty != 0;
}

static void fill_sampler(struct hearth_engine *e, const struct hearth_session *s, uint32_t out)
{
    struct ht_step *step = &e->ctx.step;
    const struct hearth_sampling *p = &s->sampling;
    struct ht_sampler *sampler = &step->sampler[out];
    *sampler = (struct ht_sampler){
        .seed = p->seed,
        .position = s->n_tokens,
        .temperature = p->temperature,
        .top_p = p->top_p,
        .min_p = p->min_p,
        .repeat_penalty = p->repeat_penalty,
        .presence_penalty = p->presence_penalty,
        .frequency_penalty = p->frequency_penalty,
        .top_k = p->top_k,
        .n_bias = (uint32_t)p->n_logit_bias,
        .active = 1,
    };
    if (penalizes(p))
        sampler->n_history = p->penalty_last_n < s->n_tokens ? p->penalty_last_n : s->n_tokens;
    for (uint32_t i = 0; i < sampler->n_history; i++)
        step->history[(size_t)out * HT_MAX_PENALTY_WINDOW + i] = s->tokens[s->n_tokens - 1 - i];
    for (uint32_t i = 0; i < sampler->n_bias; i++) {
        step->bias_token[(size_t)out * HT_MAX_LOGIT_BIAS + i] = s->bias[i].token;
        step->bias_value[(size_t)out * HT_MAX_LOGIT_BIAS + i] = s->bias[i].bias;
    }
}

// Up to n rows of what the session has not computed yet; an output row when it computes its last known token.
static void add_session(struct hearth_engine *e, struct hearth_session *s, uint32_t n)
{
    struct ht_step *step = &e->ctx.step;
    struct hearth_error error;
    uint32_t left = s->n_tokens - s->n_cached;
    if (n > left)
        n = left;
    if (ht_session_reserve(s, s->n_cached + n, &error) != HEARTH_OK) {
        if (s->phase == HT_DECODE)
            end_with_held_text(s, HEARTH_STOP_CONTEXT_FULL);
        else
            end(s, HEARTH_STOP_ERROR, &error);
        return;
    }
    if (s->prompt_start_s == 0)
        s->prompt_start_s = ht_now_s();
    uint32_t row = 0;
    for (uint32_t i = 0; i < n; i++)
        row = ht_step_add_row(e, s, s->tokens[s->n_cached + i], s->n_cached + i);
    ht_step_set_pages(e, s);
    s->step_rows = n;
    if (n == left) {
        uint32_t out = step->counts[1]++;
        step->out_row[out] = (int32_t)row;
        fill_sampler(e, s, out);
        s->step_out = out + 1;
    }
}

static struct hearth_session *session_at(const struct hearth_engine *e, uint32_t i)
{
    return e->sessions[(e->next + i) % e->max_sessions];
}

// Answers first, one row each; then prompts, until the rows are used up. Who goes first moves on each step.
static void fill_step(struct hearth_engine *e)
{
    struct ht_step *step = &e->ctx.step;
    memset(step->counts, 0, 4 * sizeof *step->counts);
    step->counts[2] = e->max_sessions;
    for (uint32_t i = 0; i < e->max_sessions; i++) {
        struct hearth_session *s = session_at(e, i);
        if (!s)
            continue;
        s->step_rows = s->step_out = 0;
        if (s->phase != HT_IDLE && atomic_load_explicit(&s->cancel, memory_order_relaxed))
            end_with_held_text(s, HEARTH_STOP_CANCELLED);
        if (s->phase == HT_DECODE)
            add_session(e, s, 1);
    }
    uint32_t rows = e->ctx.max_rows - step->counts[0];
    if (step->counts[0] && rows > CHUNK_BESIDE_DECODE)
        rows = CHUNK_BESIDE_DECODE;
    for (uint32_t i = 0; i < e->max_sessions && rows; i++) {
        struct hearth_session *s = session_at(e, i);
        if (!s || s->phase != HT_PROMPT)
            continue;
        add_session(e, s, rows);
        rows -= s->step_rows;
    }
    e->next = (e->next + 1) % e->max_sessions;
}

// ---- what comes out of it

static bool ends_turn(const struct hearth_engine *e, const struct hearth_session *s, int32_t token)
{
    for (uint32_t i = 0; i < s->n_end_ids; i++)
        if (s->end_ids[i] == token)
            return true;
    return ht_tokenizer_is_end(e->tokenizer, token);
}

static void take_token(struct hearth_engine *e, struct hearth_session *s, int32_t token)
{
    double now = ht_now_s();
    if (s->phase == HT_PROMPT) {
        s->phase = HT_DECODE;
        s->first_token_s = now;
        s->usage.prompt_ms = 1e3 * (now - s->prompt_start_s);
        s->usage.first_token_ms = 1e3 * (now - s->submit_s);
    }
    if (token < 0) {
        struct hearth_error error;
        ht_fail(&error, HEARTH_FORMAT, "the model gave no finite logits after %u tokens", s->n_tokens);
        end(s, HEARTH_STOP_ERROR, &error);
        return;
    }
    if (!s->ignore_end && ends_turn(e, s, token)) {
        end_with_held_text(s, HEARTH_STOP_END);
        return;
    }
    s->tokens[s->n_tokens++] = token;
    s->usage.completion_tokens++;
    struct ht_text piece = ht_tokenizer_piece(e->tokenizer, token, false);
    bool stopped = ht_answer_push(&s->answer, piece.bytes, piece.len_bytes);
    emit_text(s);
    if (stopped)
        end(s, HEARTH_STOP_STRING, NULL);
    else if (s->max_tokens && s->usage.completion_tokens >= s->max_tokens)
        end_with_held_text(s, HEARTH_STOP_MAX_TOKENS);
    else if (s->n_tokens >= e->session_limit)
        end_with_held_text(s, HEARTH_STOP_CONTEXT_FULL);
}

static void take_results(struct hearth_engine *e)
{
    for (uint32_t i = 0; i < e->max_sessions; i++) {
        struct hearth_session *s = e->sessions[i];
        if (!s || !s->step_rows)
            continue;
        s->n_cached += s->step_rows;
        if (s->phase == HT_PROMPT) {
            struct hearth_event event = {
                .type = HEARTH_EVENT_PROMPT, .prompt_done = s->n_cached, .prompt_total = s->n_prompt};
            emit(s, &event);
        }
        if (s->step_out)
            take_token(e, s, e->drawn[s->step_out - 1]);
    }
}

static enum hearth_status run_step(struct hearth_engine *e, struct hearth_error *err)
{
    const uint32_t *counts = e->ctx.step.counts;
    if (!counts[0])
        return HEARTH_OK;
    HT_TRY(ht_context_run_body(&e->ctx, err));
    if (!counts[1])
        return HEARTH_OK;
    HT_TRY(ht_context_run_head(&e->ctx, err));
    return ht_context_read_tokens(&e->ctx, e->drawn, counts[1], err);
}

enum hearth_status hearth_engine_step(struct hearth_engine *engine, unsigned *n_busy,
                                      struct hearth_error *err)
{
    *n_busy = 0;
    if (engine->vocab_only)
        return HEARTH_OK;
    if (engine->lost)
        return ht_fail(err, HEARTH_DEVICE_LOST, "device %s is lost", engine->info.device);
    fill_step(engine);
    struct hearth_error error;
    enum hearth_status status = ht_engine_check(engine, run_step(engine, &error));
    if (status == HEARTH_OK)
        take_results(engine);
    for (uint32_t i = 0; i < engine->max_sessions; i++) {
        struct hearth_session *s = engine->sessions[i];
        if (s && s->phase != HT_IDLE && status != HEARTH_OK)
            end(s, HEARTH_STOP_ERROR, &error);
        *n_busy += s && s->phase != HT_IDLE;
    }
    return status == HEARTH_OK ? HEARTH_OK : ht_fail(err, status, "%s", error.text);
}
