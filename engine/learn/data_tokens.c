// SPDX-License-Identifier: Apache-2.0
// Records as tokens: rendered with the engine's template, each token with its weight as a target. A token is a target
// if it overlaps a target segment: an answer, or the end-of-turn bytes after it. One thread per object.
#include <string.h>

#include "engine/base/limits.h"
#include "engine/base/mem.h"
#include "engine/learn/data.h"
#include "engine/model/session.h"

// Room for n elements; what was there is not kept in order.
static bool room(void **p, size_t *capacity, size_t n, size_t size_bytes)
{
    if (n <= *capacity)
        return true;
    size_t more = n + n / 2 + 16;
    if (!ht_grow(p, *capacity, more, size_bytes))
        return false;
    *capacity = more;
    return true;
}

#define ROOM(list, capacity, n) room((void **)&(list), &(capacity), (n), sizeof *(list))

static enum hearth_status no_memory(struct hearth_error *err)
{
    return ht_fail(err, HEARTH_NOMEM, "no memory to tokenize a record");
}

static bool segment_room(struct ht_data_tokens *t, size_t n)
{
    size_t capacity = t->segments_capacity;
    return ROOM(t->segment_weights, capacity, n) && ROOM(t->segments, t->segments_capacity, n);
}

// Segments of a conversation, rendered twice when tools make them more than expected.
static enum hearth_status render(struct ht_data_tokens *t, const struct hearth_engine *engine,
                                 const struct hearth_data_turn *turns, size_t n_turns, size_t *n,
                                 struct hearth_error *err)
{
    if (!ROOM(t->messages, t->messages_capacity, n_turns) || !segment_room(t, ht_chat_max_segments(n_turns)))
        return no_memory(err);
    for (size_t i = 0; i < n_turns; i++)
        t->messages[i] = (struct ht_chat_message){(enum ht_role)turns[i].role, turns[i].text, turns[i].len_bytes,
                                                  turns[i].input, turns[i].input_len_bytes};
    struct hearth_error ignored;
    enum hearth_status status = ht_chat_render(&engine->chat, t->messages, n_turns, false, t->segments,
                                               t->segments_capacity, n, &ignored);
    if (status == HEARTH_LIMIT && *n > t->segments_capacity) {
        if (!segment_room(t, *n))
            return no_memory(err);
    }
    return ht_chat_render(&engine->chat, t->messages, n_turns, false, t->segments, t->segments_capacity, n, err);
}

static void weigh_segments(struct ht_data_tokens *t, const struct hearth_engine *engine,
                           const struct hearth_data_turn *turns, size_t n_turns, size_t n, enum hearth_data_mask mask)
{
    size_t last = n_turns, n_bos = strlen(engine->chat.bos);
    for (size_t i = 0; i < n_turns; i++)
        if (turns[i].role == HEARTH_ROLE_ASSISTANT || turns[i].role == HEARTH_ROLE_CALLS)
            last = i;
    for (size_t i = 0; i < n; i++) {
        const struct ht_segment *s = &t->segments[i];
        float weight = s->turn < n_turns ? turns[s->turn].weight : 0.0f;
        if (!s->target)
            weight = mask == HEARTH_DATA_MASK_ALL ? 1.0f : 0.0f;
        else if (mask == HEARTH_DATA_MASK_LAST && s->turn != last)
            weight = 0.0f;
        t->segment_weights[i] = weight;
        bool lead = mask == HEARTH_DATA_MASK_LEAD && i && s->origin == HT_ORIGIN_ASSISTANT && s->target &&
                    s[-1].origin == HT_ORIGIN_TEMPLATE && n_bos && s[-1].len_bytes == n_bos &&
                    !memcmp(s[-1].bytes, engine->chat.bos, n_bos);
        if (lead)
            t->segment_weights[i - 1] = weight;
    }
}

// Each token takes the largest weight of the segments that it overlaps.
static void weigh_tokens(struct ht_data_tokens *t, size_t n_segments)
{
    size_t from = 0, segment = 0; // `from`: where segment begins
    for (size_t i = 0; i < t->n; i++) {
        const struct ht_token *token = &t->list.items[i];
        while (segment < n_segments && from + t->segments[segment].len_bytes <= token->start)
            from += t->segments[segment++].len_bytes;
        float weight = 0;
        size_t begin = from;
        for (size_t k = segment; k < n_segments && begin < token->end; begin += t->segments[k++].len_bytes)
            if (t->segment_weights[k] > weight && token->start < token->end)
                weight = t->segment_weights[k];
        t->ids[i] = token->id;
        t->weights[i] = i ? weight : 0; // nothing stands before the first one
        t->n_targets += t->weights[i] > 0;
    }
}

enum hearth_status ht_data_tokenize(struct ht_data_tokens *t, const struct hearth_engine *engine,
                                    const struct hearth_data_turn *turns, size_t n_turns, bool raw,
                                    enum hearth_data_mask mask, struct hearth_error *err)
{
    size_t n_segments = 1;
    t->n = t->n_targets = 0;
    t->list.n = 0;
    if (raw) {
        if (!segment_room(t, 1))
            return no_memory(err);
        t->segments[0] = (struct ht_segment){turns[0].text, turns[0].len_bytes, HT_ORIGIN_ASSISTANT, true, 0};
        t->segment_weights[0] = turns[0].weight;
    } else {
        HT_TRY(render(t, engine, turns, n_turns, &n_segments, err));
        weigh_segments(t, engine, turns, n_turns, n_segments, mask);
    }
    HT_TRY(ht_tokenizer_encode(engine->tokenizer, t->segments, n_segments, HT_ENCODE_BOS, &t->list, err));
    size_t capacity = t->tokens_capacity;
    if (!ROOM(t->ids, capacity, t->list.n) || !ROOM(t->weights, t->tokens_capacity, t->list.n))
        return no_memory(err);
    t->n = t->list.n;
    weigh_tokens(t, n_segments);
    return HEARTH_OK;
}

void ht_data_tokens_cut(struct ht_data_tokens *t, size_t from, size_t to)
{
    t->n = to - from;
    t->n_targets = 0;
    memmove(t->ids, t->ids + from, t->n * sizeof *t->ids);
    memmove(t->weights, t->weights + from, t->n * sizeof *t->weights);
    if (t->n)
        t->weights[0] = 0;
    for (size_t i = 0; i < t->n; i++)
        t->n_targets += t->weights[i] > 0;
}

void ht_data_tokens_free(struct ht_data_tokens *t)
{
    ht_tokens_free(&t->list);
    ht_free(t->segments);
    ht_free(t->segment_weights);
    ht_free(t->messages);
    ht_free(t->weights);
    ht_free(t->ids);
    *t = (struct ht_data_tokens){0};
}
