// SPDX-License-Identifier: Apache-2.0
// One step for everybody: a token, or several proposed ones to verify, for each session that answers, and a chunk of
// prompt tokens. First it is decided who gets which rows and pages, then rows are written. Engine thread.
#include "engine/model/session.h"

#include <math.h>
#include <string.h>

enum {
    CHUNK_BESIDE_DECODE = 64, // while somebody reads an answer, prompts come in small chunks: tokens keep flowing
    HEAD_START = 1024,        // rows of prompts that an owner may be ahead of others before answers go first
    MAX_DRAFT_ROWS = 16,      // of all sessions in one step
};

uint32_t ht_step_add_row(struct hearth_engine *engine, struct hearth_session *s, int32_t id, uint32_t pos)
{
    struct ht_step *step = &engine->ctx.step;
    uint32_t row = step->counts[0]++;
    step->ids[row] = id;
    step->pos[row] = (int32_t)pos;
    step->seq[row] = (int32_t)s->slot;
    step->adapter[row] = s->adapter;
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
    if (s->phase != HT_PAUSED)
        ht_fair_leave(&s->engine->fair, s->share);
    s->phase = HT_IDLE;
    ht_session_cut(s, s->n_tokens); // pages that only proposals reached
    ht_lora_release(s->engine, s->adapter);
    s->adapter = HT_NO_ADAPTER;
    ht_matcher_destroy(&s->matcher);
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

static bool is_cancelled(const struct hearth_session *s)
{
    return atomic_load_explicit(&s->cancel, memory_order_relaxed);
}

static void end_with_held_text(struct hearth_session *s, enum hearth_stop_reason reason)
{
    ht_answer_finish(&s->answer);
    emit_text(s);
    end(s, reason, NULL);
}

// ---- who gets what in this step

// Rows for the next n of its known ids. False: the cache is full, and the request has ended.
static bool grant(struct hearth_session *s, uint32_t n)
{
    struct hearth_error error;
    if (ht_session_reserve(s, s->n_cached + n, &error) == HEARTH_OK) {
        s->step_rows = n;
        return true;
    }
    if (s->n_tokens > s->n_prompt)
        end_with_held_text(s, HEARTH_STOP_CONTEXT_FULL);
    else
        end(s, HEARTH_STOP_ERROR, &error);
    return false;
}

static struct ht_share *share_of(const struct hearth_session *s)
{
    return &s->engine->fair.shares[s->share];
}

// The answer that goes next: of the owner with the fewest rows in this step, the session that has waited longest.
static struct hearth_session *next_answer(const struct hearth_engine *e)
{
    struct hearth_session *best = NULL;
    for (uint32_t i = 0; i < e->max_sessions; i++) {
        struct hearth_session *s = e->sessions[i];
        if (!s || s->phase != HT_DECODE || s->last_step == e->n_steps)
            continue;
        uint32_t rows = share_of(s)->step_rows, least = best ? share_of(best)->step_rows : 0;
        if (!best || rows < least || (rows == least && s->last_turn < best->last_turn))
            best = s;
    }
    return best;
}

// How many answers may go on in this step. Each of n owners is due 1/n of the machine: a step may cost no more than n
// times what the owner with the fewest answers would need alone.
static uint32_t answers_allowed(const struct hearth_engine *e)
{
    uint32_t n_answers = 0, n_owners = 0, fewest = UINT32_MAX;
    for (uint32_t i = 0; i < e->max_sessions; i++)
        if (e->sessions[i] && e->sessions[i]->phase == HT_DECODE) {
            n_answers++;
            share_of(e->sessions[i])->step_rows++;
        }
    for (uint32_t i = 0; i < e->fair.n_shares; i++) {
        uint32_t *rows = &e->fair.shares[i].step_rows;
        n_owners += *rows > 0;
        fewest = *rows && *rows < fewest ? *rows : fewest;
        *rows = 0;
    }
    uint32_t allowed = n_answers;
    while (n_owners > 1 && allowed > n_owners &&
           ht_step_cost(allowed) > (float)n_owners * ht_step_cost(fewest))
        allowed--;
    return allowed;
}

static uint32_t plan_answers(struct hearth_engine *e)
{
    uint32_t allowed = answers_allowed(e), n = 0;
    struct hearth_session *s;
    while (n < allowed && (s = next_answer(e))) {
        s->last_step = e->n_steps;
        s->last_turn = ++e->n_turns;
        if (!grant(s, 1))
            continue;
        share_of(s)->step_rows++;
        n++;
    }
    for (uint32_t i = 0; i < e->fair.n_shares; i++)
        if (n)
            e->fair.shares[i].work += (double)e->fair.shares[i].step_rows * (double)ht_step_cost(n) /
                                      (double)(HT_PROMPT_ROW_COST * (float)n);
    return n;
}

// The prompt that goes next: of the owner with the least work, the first that came. While others read answers, whoever
// has had his head start waits until they have caught up.
static struct hearth_session *next_prompt(const struct hearth_engine *e, bool beside_answers)
{
    struct hearth_session *best = NULL;
    for (uint32_t i = 0; i < e->max_sessions; i++) {
        struct hearth_session *s = e->sessions[i];
        if (!s || s->phase != HT_PROMPT || s->step_rows)
            continue;
        double work = share_of(s)->work, least = best ? share_of(best)->work : INFINITY;
        if (beside_answers && work > ht_fair_least_other(&e->fair, s->share) + HEAD_START)
            continue;
        if (!best || work < least || (s->share == best->share && s->order < best->order))
            best = s;
    }
    return best;
}

static uint32_t plan_prompts(struct hearth_engine *e, uint32_t n_answers)
{
    uint32_t room = e->ctx.max_rows - n_answers, n = 0;
    if (n_answers && room > CHUNK_BESIDE_DECODE)
        room = CHUNK_BESIDE_DECODE;
    struct hearth_session *s;
    while (n < room && (s = next_prompt(e, n_answers > 0))) {
        uint32_t left = s->n_tokens - s->n_cached, rows = left < room - n ? left : room - n;
        if (!grant(s, rows))
            continue;
        share_of(s)->work += rows;
        n += rows;
    }
    return n;
}

// How many tokens may be proposed for this session: with the one that is drawn after them no more than the request and
// the context can still take.
static uint32_t draft_limit(const struct hearth_session *s)
{
    uint32_t left = s->engine->session_limit - s->n_tokens;
    if (s->max_tokens && s->max_tokens - s->usage.completion_tokens < left)
        left = s->max_tokens - s->usage.completion_tokens;
    return s->max_draft < left ? s->max_draft : left - 1;
}

// Proposals in the order of their chances, all sessions together, as many as make the step give the most for its cost.
// What a prompt's row gives counts as what it costs.
static void plan_drafts(struct hearth_engine *e, uint32_t n_answers, uint32_t n_prompt_rows, uint32_t room)
{
    struct hearth_session *chosen[MAX_DRAFT_ROWS];
    uint32_t rows = n_answers + n_prompt_rows, n_best = 0;
    float gain = (float)n_answers + HT_PROMPT_ROW_COST * (float)n_prompt_rows, best = gain / ht_step_cost(rows);
    for (uint32_t n = 0; n < room && n < MAX_DRAFT_ROWS; n++) {
        struct hearth_session *next = NULL;
        for (uint32_t i = 0; i < e->max_sessions; i++) {
            struct hearth_session *s = e->sessions[i];
            if (s && s->step_draft < s->n_offered &&
                (!next || s->chance[s->step_draft] > next->chance[next->step_draft]))
                next = s;
        }
        if (!next)
            break;
        gain += next->chance[next->step_draft++];
        chosen[n] = next;
        float rate = gain / ht_step_cost(rows + n + 1);
        if (rate > best) {
            best = rate;
            n_best = n + 1;
        }
    }
    for (uint32_t i = 0; i < e->max_sessions; i++)
        if (e->sessions[i])
            e->sessions[i]->step_draft = 0;
    struct hearth_error error;
    for (uint32_t i = 0; i < n_best; i++) {
        struct hearth_session *s = chosen[i];
        if (ht_session_reserve(s, s->n_cached + s->step_draft + 2, &error) == HEARTH_OK)
            s->step_draft++;
    }
}

// ---- its rows

static bool penalizes(const struct hearth_sampling *p)
{
    return p->repeat_penalty != 1 || p->presence_penalty != 0 || p->frequency_penalty != 0;
}

// Output row `out` draws the token after the first n ids of the session (the last of them may be proposed).
static void fill_sampler(struct hearth_engine *e, const struct hearth_session *s, uint32_t out, uint32_t n)
{
    struct ht_step *step = &e->ctx.step;
    const struct hearth_sampling *p = &s->sampling;
    struct ht_sampler *sampler = &step->sampler[out];
    *sampler = (struct ht_sampler){
        .seed = p->seed,
        .position = n,
        .temperature = p->temperature,
        .top_p = p->top_p,
        .min_p = p->min_p,
        .repeat_penalty = p->repeat_penalty,
        .presence_penalty = p->presence_penalty,
        .frequency_penalty = p->frequency_penalty,
        .top_k = p->top_k,
        .n_bias = (uint32_t)p->n_logit_bias,
        .active = 1,
        .masked = s->matcher != NULL,
    };
    if (penalizes(p))
        sampler->n_history = p->penalty_last_n < n ? p->penalty_last_n : n;
    for (uint32_t i = 0; i < sampler->n_history; i++)
        step->history[(size_t)out * HT_MAX_PENALTY_WINDOW + i] = s->tokens[n - 1 - i];
    for (uint32_t i = 0; i < sampler->n_bias; i++) {
        step->bias_token[(size_t)out * HT_MAX_LOGIT_BIAS + i] = s->bias[i].token;
        step->bias_value[(size_t)out * HT_MAX_LOGIT_BIAS + i] = s->bias[i].bias;
    }
}

// The masks of the session's output rows. False: the grammar lets nothing follow, and the request has ended.
static bool fill_masks(struct hearth_engine *e, struct hearth_session *s)
{
    struct ht_step *step = &e->ctx.step;
    if (!s->matcher || s->n_cached + s->step_rows < s->n_tokens)
        return true;
    for (uint32_t i = 0; i <= s->step_draft; i++) {
        struct hearth_error error;
        enum ht_allowed allowed;
        uint32_t *mask = step->mask + (size_t)(step->counts[1] + i) * ht_mask_words(step->shape.vocab);
        enum hearth_status status =
            ht_matcher_mask(s->matcher, s->tokens + s->n_tokens, i, mask, &allowed, &error);
        if (status == HEARTH_OK && allowed == HT_ALLOWED_NOTHING)
            status = ht_fail(&error, HEARTH_FORMAT, "no token of the vocabulary goes on as the grammar asks");
        if (status == HEARTH_OK && (allowed == HT_ALLOWED_TOKENS || i))
            continue;
        if (i) { // the proposal that leads here is dropped
            s->step_draft = i - 1;
            return true;
        }
        s->step_rows = s->step_draft = 0;
        if (status == HEARTH_OK)
            end_with_held_text(s, HEARTH_STOP_END);
        else
            end(s, HEARTH_STOP_ERROR, &error);
        return false;
    }
    return true;
}

// The rows granted to a session; an output row for its last known id and for each proposed one.
static void add_rows(struct hearth_engine *e, struct hearth_session *s)
{
    struct ht_step *step = &e->ctx.step;
    if (s->prompt_start_s == 0)
        s->prompt_start_s = ht_now_s();
    for (uint32_t i = 0; i < s->step_rows + s->step_draft; i++) {
        uint32_t pos = s->n_cached + i, row = ht_step_add_row(e, s, s->tokens[pos], pos);
        if (pos + 1 < s->n_tokens)
            continue;
        uint32_t out = step->counts[1]++;
        step->out_row[out] = (int32_t)row;
        fill_sampler(e, s, out, pos + 1);
        if (!s->step_out)
            s->step_out = out + 1;
    }
    ht_step_set_pages(e, s);
}

// What each session that answers may propose. Returns the output rows that are free for it.
static uint32_t offer_drafts(struct hearth_engine *e, uint32_t n_rows)
{
    uint32_t n_outs = 0;
    for (uint32_t i = 0; i < e->max_sessions; i++) {
        struct hearth_session *s = e->sessions[i];
        if (!s || !s->step_rows)
            continue;
        n_outs += s->n_cached + s->step_rows == s->n_tokens;
        if (s->phase != HT_DECODE || !s->max_draft)
            continue;
        ht_drafter_learn(&s->drafter, s->tokens, s->n_tokens, s->n_prompt);
        s->n_offered = ht_drafter_propose(&s->drafter, s->tokens, s->n_tokens, draft_limit(s), s->chance);
        if (s->matcher) // what the grammar forbids is not proposed
            s->n_offered = ht_matcher_allowed(s->matcher, s->tokens + s->n_tokens, s->n_offered);
    }
    uint32_t outs = e->ctx.max_outs - n_outs, rows = e->ctx.max_rows - n_rows;
    return outs < rows ? outs : rows;
}

static void fill_step(struct hearth_engine *e)
{
    struct ht_step *step = &e->ctx.step;
    memset(step->counts, 0, 4 * sizeof *step->counts);
    step->counts[2] = e->max_sessions;
    e->n_steps++;
    ht_fair_begin(&e->fair);
    for (uint32_t i = 0; i < e->max_sessions; i++) {
        struct hearth_session *s = e->sessions[i];
        if (!s)
            continue;
        s->step_rows = s->step_draft = s->step_out = s->n_offered = 0;
        if (s->phase != HT_IDLE && is_cancelled(s))
            end_with_held_text(s, HEARTH_STOP_CANCELLED);
    }
    uint32_t n_answers = plan_answers(e), n_prompt_rows = plan_prompts(e, n_answers);
    plan_drafts(e, n_answers, n_prompt_rows, offer_drafts(e, n_answers + n_prompt_rows));
    for (uint32_t i = 0; i < e->max_sessions; i++)
        if (e->sessions[i] && e->sessions[i]->step_rows && fill_masks(e, e->sessions[i]))
            add_rows(e, e->sessions[i]);
}

// ---- what comes out of it

static bool ends_turn(const struct hearth_engine *e, const struct hearth_session *s, int32_t token)
{
    for (uint32_t i = 0; i < s->n_end_ids; i++)
        if (s->end_ids[i] == token)
            return true;
    return ht_tokenizer_is_end(e->tokenizer, token);
}

// What a token adds to the answer. The mark that opens tool calls is told although some models have it as a control
// token: whoever gave the tools looks for it.
static struct ht_text shown_piece(const struct hearth_engine *e, int32_t token)
{
    struct ht_text piece = ht_tokenizer_piece(e->tokenizer, token, false);
    const char *mark = ht_chat_call_mark(&e->chat);
    if (piece.len_bytes || !mark)
        return piece;
    struct ht_text spelt = ht_tokenizer_piece(e->tokenizer, token, true);
    return spelt.len_bytes == strlen(mark) && !memcmp(spelt.bytes, mark, spelt.len_bytes) ? spelt : piece;
}

static void take_token(struct hearth_engine *e, struct hearth_session *s, int32_t token)
{
    double now = ht_now_s();
    s->phase = HT_DECODE;
    if (s->first_token_s == 0) {
        s->first_token_s = now;
        s->usage.prompt_ms = 1e3 * (now - s->prompt_start_s);
        s->usage.first_token_ms = 1e3 * (now - s->submit_s);
    }
    if (token < 0) {
        struct hearth_error error;
        ht_fail(&error, HEARTH_FORMAT, "the model gave no finite logits%s after %u tokens",
                s->matcher ? " for what the grammar allows" : "", s->n_tokens);
        end(s, HEARTH_STOP_ERROR, &error);
        return;
    }
    if ((!s->ignore_end || s->matcher) && ends_turn(e, s, token)) {
        end_with_held_text(s, HEARTH_STOP_END);
        return;
    }
    s->tokens[s->n_tokens++] = token;
    s->usage.completion_tokens++;
    struct ht_text piece = shown_piece(e, token);
    bool stopped = ht_answer_push(&s->answer, piece.bytes, piece.len_bytes);
    bool complete = s->matcher && ht_matcher_take(s->matcher, token) && ht_matcher_is_finished(s->matcher);
    emit_text(s);
    if (stopped)
        end(s, HEARTH_STOP_STRING, NULL);
    else if (complete)
        end_with_held_text(s, HEARTH_STOP_END);
    else if (s->max_tokens && s->usage.completion_tokens >= s->max_tokens)
        end_with_held_text(s, HEARTH_STOP_MAX_TOKENS);
    else if (s->n_tokens >= e->session_limit)
        end_with_held_text(s, HEARTH_STOP_CONTEXT_FULL);
}

// The drawn tokens, as long as each is the one that the next row was computed for: what would have been drawn without
// proposals.
static void take_answer(struct hearth_engine *e, struct hearth_session *s)
{
    const int32_t *drawn = e->drawn + s->step_out - 1;
    for (uint32_t i = 0;; i++) {
        int32_t proposed = i < s->step_draft ? s->tokens[s->n_tokens] : -1;
        take_token(e, s, drawn[i]);
        if (s->phase == HT_IDLE || i == s->step_draft || drawn[i] != proposed || is_cancelled(s))
            return;
        s->n_cached++;
        s->usage.accepted_tokens++;
    }
}

// After a pause it goes on where it stood.
static void tell_prompt(struct hearth_session *s)
{
    uint32_t done = s->n_cached < s->n_prompt ? s->n_cached : s->n_prompt;
    struct hearth_event event = {.type = HEARTH_EVENT_PROMPT, .prompt_done = done, .prompt_total = s->n_prompt};
    if (done <= s->prompt_told)
        return;
    s->prompt_told = done;
    emit(s, &event);
}

static void take_results(struct hearth_engine *e)
{
    for (uint32_t i = 0; i < e->max_sessions; i++) {
        struct hearth_session *s = e->sessions[i];
        if (!s || !s->step_rows)
            continue;
        s->n_cached += s->step_rows;
        tell_prompt(s);
        s->usage.drafted_tokens += s->step_draft;
        if (s->step_out)
            take_answer(e, s);
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
        *n_busy += s && (s->phase == HT_PROMPT || s->phase == HT_DECODE);
    }
    return status == HEARTH_OK ? HEARTH_OK : ht_fail(err, status, "%s", error.text);
}
