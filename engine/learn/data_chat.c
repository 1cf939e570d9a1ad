// SPDX-License-Identifier: Apache-2.0
// Lists of messages: OpenAI's lines, one's own exported conversations, preference pairs. Pure parsers over one item.
#include <string.h>

#include "engine/base/mem.h"
#include "engine/learn/data.h"

// A content: a string, or parts of which the texts count. NULL bytes: neither.
static struct ht_text content_text(struct hearth_data_reader *r, const json_t *content)
{
    const json_t *part;
    size_t i;
    struct ht_text out = ht_data_text_of(content);
    if (!json_is_array(content))
        return out;
    out = (struct ht_text){"", 0};
    json_array_foreach(content, i, part)
    {
        struct ht_text text = json_is_string(part) ? ht_data_text_of(part) : ht_data_field(part, "text");
        if (!text.bytes)
            ht_data_fix(r, HEARTH_DATA_FIX_HIDDEN); // a picture, a sound
        else
            out = out.len_bytes ? ht_data_join(&r->pool, out, "\n", text) : text;
    }
    return out;
}

// What a turn says that it weighs, `otherwise` if nothing; what can be no weight is 0.
static float weight_of(const json_t *turn, float otherwise)
{
    const json_t *weight = json_object_get(turn, "weight");
    float w = json_is_number(weight) ? (float)json_number_value(weight) : otherwise;
    return w >= 0 && w <= 1000 ? w : 0;
}

// Adds the messages of a list; false when one cannot be used (counted).
static bool add_messages(struct hearth_data_reader *r, const json_t *messages)
{
    const json_t *message;
    size_t i;
    if (!json_is_array(messages)) {
        ht_data_skip(r, HEARTH_DATA_SKIP_MISSING_FIELD);
        return false;
    }
    json_array_foreach(messages, i, message)
    {
        struct ht_text name = ht_data_field(message, "role");
        if (!name.bytes)
            name = ht_data_field(message, "from");
        const json_t *content = json_object_get(message, "content"), *calls = json_object_get(message, "tool_calls");
        content = content ? content : json_object_get(message, "value");
        struct ht_text text = content_text(r, content);
        enum hearth_role role = name.bytes ? ht_data_role(name) : (enum hearth_role)0;
        if (!calls)
            calls = json_object_get(message, "function_call"); // as it was before there were several
        bool called = json_array_size(calls) > 0 || json_is_object(calls);
        if (role == HEARTH_ROLE_CALLS && !called) { // spelt as a turn's text
            calls = content;
            called = true;
            text = (struct ht_text){0};
        }
        if (!name.bytes || (!text.bytes && !called)) {
            ht_data_skip(r, HEARTH_DATA_SKIP_MISSING_FIELD);
            return false;
        }
        if (!role) {
            ht_data_skip(r, HEARTH_DATA_SKIP_UNKNOWN_ROLE);
            return false;
        }
        float w = weight_of(message, 1);
        if (text.len_bytes || !called) {
            struct hearth_data_turn *turn = ht_data_add(r, role, text);
            struct ht_text second = role == HEARTH_ROLE_USER ? ht_data_field(message, "input") : (struct ht_text){0};
            turn->weight *= w;
            if (second.len_bytes) { // a question's second field, as the box keeps it
                turn->input = second.bytes;
                turn->input_len_bytes = second.len_bytes;
            }
        }
        if (called && !ht_data_add_calls(r, calls, w))
            return false;
    }
    return true;
}

void ht_data_messages(struct hearth_data_reader *r, const json_t *value)
{
    const json_t *input = json_object_get(value, "input");
    const json_t *prompt = json_object_get(json_is_object(input) ? input : value, "messages");
    ht_data_begin(r);
    if (!ht_data_add_tools(r, value) || !add_messages(r, prompt))
        return;
    if (!json_is_object(input)) {
        ht_data_emit(r, value);
        return;
    }
    size_t n_shared = r->n_turns;
    if (!add_messages(r, json_object_get(value, "preferred_output")))
        return;
    size_t n_chosen = r->n_turns;
    if (add_messages(r, json_object_get(value, "non_preferred_output")))
        ht_data_emit_pair(r, value, n_shared, n_chosen);
}

// `hearth conversations export`: an answer that was not finished teaches no end of turn, so it weighs nothing.
void ht_data_export(struct hearth_data_reader *r, const json_t *value)
{
    const json_t *turns = json_object_get(value, "turns"), *turn;
    size_t i;
    ht_data_begin(r);
    if (!json_is_array(turns)) {
        ht_data_skip(r, HEARTH_DATA_SKIP_MISSING_FIELD);
        return;
    }
    json_array_foreach(turns, i, turn)
    {
        struct ht_text name = ht_data_field(turn, "role"), text = ht_data_field(turn, "text");
        if (!name.bytes || !text.bytes) {
            ht_data_skip(r, HEARTH_DATA_SKIP_MISSING_FIELD);
            return;
        }
        enum hearth_role role = ht_data_role(name);
        if (!role || role == HEARTH_ROLE_CALLS) {
            ht_data_skip(r, HEARTH_DATA_SKIP_UNKNOWN_ROLE);
            return;
        }
        struct hearth_data_turn *added = ht_data_add(r, role, text);
        added->weight = json_is_false(json_object_get(turn, "finished")) ? 0 : weight_of(turn, added->weight);
    }
    if (r->n_turns && r->turns[r->n_turns - 1].role == HEARTH_ROLE_USER) {
        r->n_turns--;
        ht_data_fix(r, HEARTH_DATA_FIX_TRAILING);
    }
    ht_data_emit(r, value);
}

// ---------------------------------------------------------------- preference pairs

// "\n\nHuman: …\n\nAssistant: …" as turns; false when it does not begin so.
static bool add_transcript(struct hearth_data_reader *r, struct ht_text text)
{
    static const char human[] = "\n\nHuman:", assistant[] = "\n\nAssistant:";
    enum { HUMAN_BYTES = sizeof human - 1, ASSISTANT_BYTES = sizeof assistant - 1 };
    const char *p = text.bytes, *end = p + text.len_bytes;
    if (text.len_bytes < HUMAN_BYTES || memcmp(p, human, HUMAN_BYTES) != 0)
        return false;
    while (p < end) {
        bool asks = (size_t)(end - p) >= HUMAN_BYTES && !memcmp(p, human, HUMAN_BYTES);
        p += asks ? HUMAN_BYTES : ASSISTANT_BYTES;
        const char *a = memmem(p, (size_t)(end - p), human, HUMAN_BYTES);
        const char *b = memmem(p, (size_t)(end - p), assistant, ASSISTANT_BYTES);
        const char *next = a && (!b || a < b) ? a : b ? b : end;
        ht_data_add(r, asks ? HEARTH_ROLE_USER : HEARTH_ROLE_ASSISTANT,
                    ht_data_trim((struct ht_text){p, (size_t)(next - p)}));
        p = next;
    }
    return true;
}

// One side of a pair: a list of messages, one message, a transcript, or an answer.
static bool add_side(struct hearth_data_reader *r, const json_t *side)
{
    struct ht_text text = ht_data_text_of(side);
    if (json_is_object(side)) {
        json_t *list = json_pack("[O]", side);
        bool good = list && add_messages(r, list);
        json_decref(list);
        return good;
    }
    if (text.bytes && !add_transcript(r, text))
        ht_data_add(r, HEARTH_ROLE_ASSISTANT, text);
    return text.bytes || add_messages(r, side);
}

static bool equal(const struct hearth_data_turn *a, const struct hearth_data_turn *b)
{
    return a->role == b->role && a->len_bytes == b->len_bytes && !memcmp(a->text, b->text, a->len_bytes);
}

void ht_data_preference(struct hearth_data_reader *r, const json_t *value)
{
    const json_t *conversations = json_object_get(value, "conversations"), *prompt = json_object_get(value, "prompt");
    struct ht_text question = ht_data_text_of(prompt);
    if (!question.bytes)
        question = ht_data_field(value, "question");
    ht_data_begin(r);
    if (conversations ? !add_messages(r, conversations) : json_is_array(prompt) && !add_messages(r, prompt))
        return;
    if (!r->n_turns)
        ht_data_add_system(r, value);
    if (question.bytes && !add_transcript(r, question))
        ht_data_add(r, HEARTH_ROLE_USER, question);
    size_t n_prompt = r->n_turns, n_shared = n_prompt;
    if (!add_side(r, json_object_get(value, "chosen")))
        return;
    size_t n_chosen = r->n_turns;
    if (!add_side(r, json_object_get(value, "rejected")) || r->failed)
        return;
    // What both sides begin with is the question; a prompt that the sides repeat is theirs.
    size_t k = 0, n_rejected = r->n_turns - n_chosen;
    while (n_prompt + k + 1 < n_chosen && k + 1 < n_rejected &&
           equal(&r->turns[n_prompt + k], &r->turns[n_chosen + k]))
        k++;
    memmove(r->turns + n_chosen, r->turns + n_chosen + k, (n_rejected - k) * sizeof *r->turns);
    r->n_turns -= k;
    n_shared += k;
    size_t repeated = n_prompt && k >= n_prompt ? n_prompt : 0;
    for (size_t i = 0; i < repeated; i++)
        if (!equal(&r->turns[i], &r->turns[n_prompt + i]))
            repeated = 0;
    memmove(r->turns, r->turns + repeated, (r->n_turns - repeated) * sizeof *r->turns);
    r->n_turns -= repeated;
    ht_data_emit_pair(r, value, n_shared - repeated, n_chosen - repeated);
}
