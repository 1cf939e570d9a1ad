// SPDX-License-Identifier: Apache-2.0
// An answer as chat.completion, text_completion, or their chunks (openai_answer.h). Loop thread only.
#include "firmware/openai_answer.h"
#include "firmware/json_text.h"

#include <stdlib.h>
#include <string.h>

struct hd_answering *hd_answering_new(struct hd_exchange *x, const struct hd_openai_request *request)
{
    struct hd_answering *a = calloc(1, sizeof *a);
    uint8_t random[12];
    char hex[2 * sizeof random + 1];
    if (!a || hd_random(random, sizeof random, NULL) != HEARTH_OK || !(a->calls = json_array())) {
        free(a);
        return NULL;
    }
    hd_hex(hex, random, sizeof random);
    snprintf(a->id, sizeof a->id, "%s-%s", request->chat ? "chatcmpl" : "cmpl", hex);
    a->exchange = x;
    a->device = x->device.id;
    a->chat = request->chat;
    a->stream = request->stream;
    a->include_usage = request->include_usage;
    a->tools = request->tools;
    a->piece.state = request->called ? HEARTH_ANSWER_CALLED : 0;
    a->one_call = request->one_call;
    a->created_s = hd_now_ms() / 1000;
    memcpy(a->model, request->job->model, sizeof a->model);
    return a;
}

void hd_answering_free(struct hd_answering *a)
{
    if (!a)
        return;
    hd_wipe_free(a->text, a->capacity);
    hd_wipe_free(a->said, a->said_capacity);
    json_decref(a->calls);
    free(a);
}

static bool append(char **to, size_t *len, size_t *capacity, const char *text, size_t n)
{
    if (*len + n > *capacity) {
        size_t size = *capacity ? *capacity : 1024;
        while (size < *len + n)
            size *= 2;
        char *more = malloc(size);
        if (!more)
            return false;
        if (*len)
            memcpy(more, *to, *len);
        hd_wipe_free(*to, *capacity);
        *to = more;
        *capacity = size;
    }
    if (n)
        memcpy(*to + *len, text, n);
    *len += n;
    return true;
}

// ---- chunks

// Takes over `choices`; `usage` NULL = none.
static void send_chunk(struct hd_answering *a, json_t *choices, json_t *usage)
{
    json_t *chunk = json_pack("{s:s, s:s, s:I, s:s, s:o}", "id", a->id, "object",
                              a->chat ? "chat.completion.chunk" : "text_completion", "created",
                              (json_int_t)a->created_s, "model", a->model, "choices", choices);
    if (chunk && a->include_usage) // every chunk has it, all but the last null
        json_object_set_new(chunk, "usage", usage ? usage : json_null());
    char *text = hd_json_text(chunk, JSON_COMPACT), *event = NULL;
    json_decref(chunk);
    int n = text ? asprintf(&event, "data: %s\n\n", text) : -1;
    if (n > 0)
        hd_exchange_piece(a->exchange, event, (size_t)n);
    if (text)
        hd_wipe_free(text, strlen(text));
    if (n > 0)
        hd_wipe_free(event, (size_t)n);
}

// A delta of the chat; takes it over.
static void send_delta(struct hd_answering *a, json_t *delta, const char *finish)
{
    send_chunk(
        a,
        json_pack("[{s:i, s:o, s:n, s:s?}]", "index", 0, "delta", delta, "logprobs", "finish_reason", finish),
        NULL);
}

static void send_text(struct hd_answering *a, const char *text, size_t len)
{
    if (len == 0)
        return;
    if (a->chat)
        send_delta(a, json_pack("{s:s%}", "content", text, len), NULL);
    else
        send_chunk(
            a,
            json_pack("[{s:i, s:s%, s:n, s:n}]", "index", 0, "text", text, len, "logprobs", "finish_reason"),
            NULL);
}

void hd_answering_start(struct hd_answering *a)
{
    if (!a->stream)
        return;
    hd_exchange_stream(a->exchange, "text/event-stream; charset=utf-8");
    if (a->chat)
        send_delta(a, json_pack("{s:s, s:s}", "role", "assistant", "content", ""), NULL);
}

// ---- calls

static json_t *call_json(struct hd_answering *a, const struct hearth_piece *piece, bool with_index)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789AB";
    uint8_t random[HD_CALL_ID_BYTES];
    char id[HD_CALL_ID_BYTES + 1] = "";
    if (hd_random(random, sizeof random, NULL) != HEARTH_OK)
        return NULL;
    for (size_t i = 0; i < sizeof random; i++)
        id[i] = digits[random[i] & 63];
    json_t *call =
        json_pack("{s:s, s:s, s:{s:s%, s:s%}}", "id", id, "type", "function", "function", "name", piece->name,
                  piece->name_len_bytes, "arguments", piece->arguments, piece->arguments_len_bytes);
    if (call && with_index)
        json_object_set_new(call, "index", json_integer((json_int_t)a->n_calls));
    return call;
}

static bool take_piece(struct hd_answering *a, const struct hearth_piece *piece)
{
    if (piece->type == HEARTH_PIECE_CALL) {
        json_t *call = call_json(a, piece, a->stream);
        bool good = call != NULL;
        if (a->stream && good)
            send_delta(a, json_pack("{s:[o]}", "tool_calls", call), NULL);
        else if (good)
            good = json_array_append_new(a->calls, call) == 0;
        a->n_calls++;
        return good && !a->one_call;
    }
    if (a->stream)
        send_text(a, piece->text, piece->len_bytes);
    else
        return append(&a->said, &a->said_len, &a->said_capacity, piece->text, piece->len_bytes);
    return true;
}

// Splits what has come; false when nothing more is wanted.
static bool split(struct hd_answering *a, bool end)
{
    size_t at = 0;
    bool more = true;
    while (more) {
        hearth_answer_next(a->tool_format, a->text + at, a->len - at, end, &a->piece);
        if (a->piece.type == HEARTH_PIECE_NONE)
            break;
        more = take_piece(a, &a->piece);
        at += a->piece.used_bytes;
    }
    if (at) {
        memmove(a->text, a->text + at, a->len - at);
        a->len -= at;
    }
    return more;
}

bool hd_answering_text(struct hd_answering *a, const char *text, size_t len)
{
    if (a->full)
        return true; // it is being cancelled
    a->total += len;
    bool good = a->total <= HD_MAX_RESPONSE_TEXT_BYTES;
    if (good && a->stream && !a->tools)
        send_text(a, text, len);
    else if (good)
        good = append(&a->text, &a->len, &a->capacity, text, len) && (!a->tools || split(a, false));
    a->full = !good;
    return good;
}

// ---- ends

static const char *finish_of(const struct hd_answering *a, const struct hearth_usage *usage)
{
    if (a->n_calls)
        return "tool_calls";
    bool whole = usage->stop == HEARTH_STOP_END || usage->stop == HEARTH_STOP_STRING;
    return whole ? "stop" : "length";
}

static json_t *usage_json(const struct hearth_usage *u)
{
    return json_pack("{s:i, s:i, s:i, s:{s:i}}", "prompt_tokens", (int)u->prompt_tokens, "completion_tokens",
                     (int)u->completion_tokens, "total_tokens",
                     (int)(u->prompt_tokens + u->completion_tokens), "prompt_tokens_details", "cached_tokens",
                     (int)u->cached_tokens);
}

static void end_stream(struct hd_answering *a, const struct hearth_usage *usage)
{
    static const char done[] = "data: [DONE]\n\n";
    const char *finish = finish_of(a, usage);
    if (a->chat)
        send_delta(a, json_object(), finish);
    else
        send_chunk(
            a,
            json_pack("[{s:i, s:s, s:n, s:s}]", "index", 0, "text", "", "logprobs", "finish_reason", finish),
            NULL);
    if (a->include_usage)
        send_chunk(a, json_array(), usage_json(usage));
    hd_exchange_piece(a->exchange, done, sizeof done - 1);
    hd_exchange_end(a->exchange);
}

static json_t *whole(struct hd_answering *a, const char *text, size_t len, const char *finish)
{
    if (!a->chat)
        return json_pack("{s:i, s:s%, s:n, s:s}", "index", 0, "text", text, len, "logprobs", "finish_reason",
                         finish);
    json_t *message = json_pack("{s:s, s:o, s:n}", "role", "assistant", "content",
                                len || !a->n_calls ? json_stringn(text, len) : json_null(), "refusal");
    if (message && a->n_calls)
        json_object_set(message, "tool_calls", a->calls);
    return json_pack("{s:i, s:o, s:n, s:s}", "index", 0, "message", message, "logprobs", "finish_reason",
                     finish);
}

void hd_answering_done(struct hd_answering *a, const struct hearth_usage *usage)
{
    if (a->tools && !a->full)
        split(a, true);
    if (usage->stop == HEARTH_STOP_CANCELLED && !a->full) { // the box stops, or the person was removed
        const struct hearth_error error = {HEARTH_CANCELED, "the answer was cancelled"};
        if (a->exchange->status)
            hd_answering_broken(a, &error);
        else
            hd_exchange_error(a->exchange, 503, "cancelled", NULL, error.text);
        return;
    }
    if (a->stream) {
        end_stream(a, usage);
        return;
    }
    const char *text = a->tools ? a->said : a->text;
    size_t len = a->tools ? a->said_len : a->len;
    json_t *choice = whole(a, text ? text : "", len, finish_of(a, usage));
    json_t *answer =
        json_pack("{s:s, s:s, s:I, s:s, s:[o], s:o}", "id", a->id, "object",
                  a->chat ? "chat.completion" : "text_completion", "created", (json_int_t)a->created_s,
                  "model", a->model, "choices", choice, "usage", usage_json(usage));
    char *body = hd_json_text(answer, JSON_COMPACT);
    json_decref(answer);
    if (!body) {
        hd_exchange_error(a->exchange, 500, "memory", NULL, "out of memory");
        return;
    }
    hd_exchange_reply(a->exchange, 200, "application/json", NULL, body, strlen(body));
    hd_wipe_free(body, strlen(body));
}

void hd_answering_broken(struct hd_answering *a, const struct hearth_error *error)
{
    json_t *body = json_pack("{s:{s:s, s:s, s:n, s:s}}", "error", "message", error->text, "type",
                             "server_error", "param", "code", "answer_failed");
    char *text = hd_json_text(body, JSON_COMPACT), *event = NULL;
    json_decref(body);
    int n = text ? asprintf(&event, "data: %s\n\n", text) : -1;
    if (n > 0)
        hd_exchange_piece(a->exchange, event, (size_t)n);
    free(text);
    if (n > 0)
        free(event);
    hd_exchange_end(a->exchange);
}
