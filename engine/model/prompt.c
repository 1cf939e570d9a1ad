// SPDX-License-Identifier: Apache-2.0
// Prompts out of texts and messages: see prompt.h. Any thread.
#include "engine/model/prompt.h"

#include <string.h>

#include "engine/base/mem.h"

struct ids { // a list with a cap: counts on past it
    int32_t *at;
    size_t capacity, n;
    size_t n_shared_messages, n_shared; // the first ids that hold nothing but text of the first messages
};

static void put(struct ids *out, const int32_t *ids, size_t n)
{
    for (size_t i = 0; i < n; i++, out->n++)
        if (out->n < out->capacity)
            out->at[out->n] = ids[i];
}

static enum hearth_status encode(const struct hearth_engine *engine, const struct ht_segment *segments,
                                 size_t n_segments, unsigned flags, struct ids *out, struct hearth_error *err)
{
    struct ht_tokens tokens = {0};
    enum hearth_status status =
        ht_tokenizer_encode(engine->tokenizer, segments, n_segments, flags, &tokens, err);
    for (size_t i = 0; status == HEARTH_OK && i < tokens.n; i++) {
        out->n_shared += out->n_shared == out->n && tokens.items[i].turn < out->n_shared_messages;
        put(out, &tokens.items[i].id, 1);
    }
    ht_tokens_free(&tokens);
    return status;
}

static enum hearth_status finish(const struct ids *out, size_t *n_ids, struct hearth_error *err)
{
    *n_ids = out->n;
    if (out->n > out->capacity)
        return ht_fail(err, HEARTH_LIMIT, "the text has %zu tokens, there is room for %zu", out->n,
                       out->capacity);
    return HEARTH_OK;
}

enum hearth_status ht_prompt_from_text(const struct hearth_engine *engine, const char *text, size_t len_bytes,
                                       unsigned flags, int32_t *ids, size_t capacity, size_t *n_ids,
                                       struct hearth_error *err)
{
    struct ids out = {.at = ids, .capacity = capacity};
    const struct ht_segment segment = {
        .bytes = text,
        .len_bytes = len_bytes,
        .origin = flags & HEARTH_TOKENIZE_SPECIAL ? HT_ORIGIN_TEMPLATE : HT_ORIGIN_USER,
    };
    *n_ids = 0;
    HT_TRY(encode(engine, &segment, 1, flags & HEARTH_TOKENIZE_BOS ? HT_ENCODE_BOS : 0, &out, err));
    return finish(&out, n_ids, err);
}

// Encodes the segments; where an assistant's own ids are known they stand for its text. A text is then
// encoded in the same pieces as when those ids were made: up to the assistant's words, and on from there.
static enum hearth_status encode_turns(const struct hearth_engine *engine,
                                       const struct hearth_message *messages, size_t n_messages,
                                       const struct ht_segment *segments, size_t n_segments, struct ids *out,
                                       struct hearth_error *err)
{
    size_t from = 0;
    unsigned flags = HT_ENCODE_BOS;
    for (size_t i = 0; i < n_segments; i++) {
        const struct ht_segment *s = &segments[i];
        const struct hearth_message *m = s->turn < n_messages ? &messages[s->turn] : NULL;
        if (s->origin != HT_ORIGIN_ASSISTANT || !m || !m->ids)
            continue;
        HT_TRY(encode(engine, segments + from, i - from, flags, out, err));
        flags = HT_ENCODE_CONTINUES;
        if (out->n_shared == out->n && s->turn < out->n_shared_messages)
            out->n_shared += m->n_ids;
        put(out, m->ids, m->n_ids);
        from = i + 1;
    }
    return encode(engine, segments + from, n_segments - from, flags, out, err);
}

static enum hearth_status check_messages(const struct hearth_engine *engine,
                                         const struct hearth_message *messages, size_t n_messages,
                                         struct hearth_error *err)
{
    if (n_messages == 0 || n_messages > HT_MAX_MESSAGES)
        return ht_fail(err, HEARTH_INVALID, "%zu messages; 1 to %d are allowed", n_messages, HT_MAX_MESSAGES);
    size_t n_vocab = ht_tokenizer_n_tokens(engine->tokenizer);
    for (size_t i = 0; i < n_messages; i++)
        for (size_t j = 0; messages[i].ids && j < messages[i].n_ids; j++)
            if (messages[i].ids[j] < 0 || (size_t)messages[i].ids[j] >= n_vocab)
                return ht_fail(err, HEARTH_INVALID, "message %zu has id %d, the vocabulary has %zu", i + 1,
                               messages[i].ids[j], n_vocab);
    return HEARTH_OK;
}

enum hearth_status ht_prompt_from_messages(const struct hearth_engine *engine,
                                           const struct hearth_message *messages, size_t n_messages,
                                           size_t n_shared, int32_t *ids, size_t capacity, size_t *n_ids,
                                           size_t *n_shared_ids, struct hearth_error *err)
{
    *n_ids = *n_shared_ids = 0;
    HT_TRY(check_messages(engine, messages, n_messages, err));
    struct ids out = {.at = ids, .capacity = capacity, .n_shared_messages = n_shared};
    size_t max_segments = 0, n_segments = 0;
    struct ht_segment *segments = NULL;
    struct ht_chat_message *turns = ht_calloc(n_messages, sizeof *turns);
    enum hearth_status status = HEARTH_OK;
    if (!turns)
        return ht_fail(err, HEARTH_NOMEM, "out of memory for %zu messages", n_messages);
    for (size_t i = 0; i < n_messages; i++)
        turns[i] = (struct ht_chat_message){
            .role = (enum ht_role)messages[i].role,
            .text = messages[i].text,
            .len_bytes = messages[i].len_bytes,
        };
    status = ht_chat_render(&engine->chat, turns, n_messages, true, NULL, 0, &max_segments, err); // counts
    if (status != HEARTH_OK && (status != HEARTH_LIMIT || !max_segments))
        goto out;
    segments = ht_calloc(max_segments + 1, sizeof *segments);
    if (!segments) {
        status = ht_fail(err, HEARTH_NOMEM, "out of memory for %zu messages", n_messages);
        goto out;
    }
    HT_TRY_TO(out, ht_chat_render(&engine->chat, turns, n_messages, true, segments, max_segments, &n_segments,
                                  err));
    HT_TRY_TO(out, encode_turns(engine, messages, n_messages, segments, n_segments, &out, err));
    status = finish(&out, n_ids, err);
    *n_shared_ids = out.n_shared;
out:
    ht_free(segments);
    ht_free(turns);
    return status;
}
