// SPDX-License-Identifier: Apache-2.0
// ShareGPT and its cleaning rules, in their order; every rule that leaves a conversation out is a counted reason.
#include <string.h>

#include "engine/base/utf8.h"
#include "engine/learn/data.h"

enum { MIN_CHARACTERS = 16, DIGIT_RUN = 9 };

static struct ht_text text_of(const struct hearth_data_turn *turn)
{
    return (struct ht_text){turn->text, turn->len_bytes};
}

// A turn of known role; calls are spelt as JSON. False: counted.
static bool add_turn(struct hearth_data_reader *r, const json_t *value, struct ht_text name, struct ht_text text)
{
    enum hearth_role role = ht_data_role(name);
    if (role == HEARTH_ROLE_CALLS)
        return ht_data_add_calls(r, value, 1);
    if (!role) {
        ht_data_skip(r, HEARTH_DATA_SKIP_UNKNOWN_ROLE);
        return false;
    }
    ht_data_add(r, role, text);
    return true;
}

static bool gather(struct hearth_data_reader *r, const json_t *turns)
{
    const json_t *turn;
    size_t i;
    json_array_foreach(turns, i, turn)
    {
        struct ht_text role = ht_data_field(turn, "from"), text = ht_data_field(turn, "value");
        if (!role.bytes)
            role = ht_data_field(turn, "role");
        if (!text.bytes)
            text = ht_data_field(turn, "content");
        if (!role.bytes && json_is_object(turn)) { // {"user": …, "assistant": …}
            struct ht_text user = ht_data_field(turn, "user"), assistant = ht_data_field(turn, "assistant");
            if (user.bytes)
                ht_data_add(r, HEARTH_ROLE_USER, user);
            if (assistant.bytes)
                ht_data_add(r, HEARTH_ROLE_ASSISTANT, assistant);
            if (user.bytes || assistant.bytes)
                continue;
        }
        if (!role.bytes || !text.bytes) {
            ht_data_skip(r, HEARTH_DATA_SKIP_MISSING_FIELD);
            return false;
        }
        const json_t *value = json_object_get(turn, "value");
        if (!add_turn(r, json_is_string(value) ? value : json_object_get(turn, "content"), role, text))
            return false;
    }
    return true;
}

// May a turn of role `next` stand behind one of role `last`? Calls and what tools gave back stand before the answer.
static bool follows(enum hearth_role last, enum hearth_role next)
{
    bool asked = last == HEARTH_ROLE_USER || last == HEARTH_ROLE_TOOL;
    if (next == HEARTH_ROLE_TOOL)
        return last == HEARTH_ROLE_CALLS || last == HEARTH_ROLE_TOOL;
    return next == HEARTH_ROLE_USER ? last == HEARTH_ROLE_ASSISTANT
                                    : asked && (next == HEARTH_ROLE_ASSISTANT || next == HEARTH_ROLE_CALLS);
}

static bool asks(const struct hearth_data_turn *turn) // or tells what a tool gave back: an answer is due
{
    return turn->role == HEARTH_ROLE_USER || turn->role == HEARTH_ROLE_TOOL;
}

// `first`: turns before it are tools and a system text. False: reason says why.
static bool order(struct hearth_data_reader *r, size_t first, enum hearth_data_skip *reason)
{
    *reason = HEARTH_DATA_SKIP_TOO_FEW_TURNS;
    if (r->n_turns - first <= 1)
        return false;
    if (r->turns[first].role != HEARTH_ROLE_USER) {
        r->n_turns--;
        memmove(r->turns + first, r->turns + first + 1, (r->n_turns - first) * sizeof *r->turns);
        ht_data_fix(r, HEARTH_DATA_FIX_LEADING);
    }
    if (asks(&r->turns[r->n_turns - 1])) {
        r->n_turns--;
        ht_data_fix(r, HEARTH_DATA_FIX_TRAILING);
    }
    if (r->n_turns - first <= 1)
        return false;
    *reason = HEARTH_DATA_SKIP_NOT_ALTERNATING;
    for (size_t i = first; i < r->n_turns; i++)
        if (!follows(i == first ? HEARTH_ROLE_ASSISTANT : r->turns[i - 1].role, r->turns[i].role))
            return false;
    return true;
}

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
}

static bool names(struct ht_text text, const char *word)
{
    size_t n = strlen(word);
    for (size_t i = 0; i + n <= text.len_bytes; i++) {
        size_t k = 0;
        while (k < n && lower(text.bytes[i + k]) == word[k])
            k++;
        if (k == n)
            return true;
    }
    return false;
}

static bool is_rate_limit(struct ht_text text)
{
    static const char notice[] = "Too many requests in 1 hour. Try again later.";
    size_t at = text.len_bytes && text.bytes[0] == '!';
    return text.len_bytes - at >= sizeof notice - 1 && !memcmp(text.bytes + at, notice, sizeof notice - 1);
}

// "\n1. " twice without a 2 in between.
static bool broken_list(struct ht_text text)
{
    bool begun = false;
    for (size_t i = 0; i < text.len_bytes; i++) {
        if (text.bytes[i] == '2')
            begun = false;
        if (text.len_bytes - i < 4 || memcmp(text.bytes + i, "\n1. ", 4) != 0)
            continue;
        if (begun)
            return true;
        begun = true;
    }
    return false;
}

static bool digit_run(struct ht_text text)
{
    size_t n = 0;
    for (size_t i = 0; i < text.len_bytes && n < DIGIT_RUN; i++) {
        bool digit = text.bytes[i] >= '0' && text.bytes[i] <= '9';
        n = !digit ? 0 : n && text.bytes[i] == text.bytes[i - 1] ? n + 1 : 1;
    }
    return n >= DIGIT_RUN;
}

static bool check_content(struct hearth_data_reader *r, size_t first, enum hearth_data_skip *reason)
{
    for (size_t i = first; i < r->n_turns; i++) {
        struct ht_text text = text_of(&r->turns[i]);
        *reason = HEARTH_DATA_SKIP_FOREIGN_NAME;
        if (!r->params.keep_foreign_names && (names(text, "openai") || names(text, "chatgpt")))
            return false;
        *reason = HEARTH_DATA_SKIP_RATE_LIMIT;
        if (r->turns[i].role == HEARTH_ROLE_ASSISTANT && is_rate_limit(text))
            return false;
    }
    return true;
}

static bool unprintable(struct ht_text text)
{
    return !text.len_bytes || (unsigned char)text.bytes[0] < 0x20 || (unsigned char)text.bytes[0] == 0x7F;
}

// HTML to Markdown, then up to the first turn that holds nothing.
static bool clean(struct hearth_data_reader *r, size_t first, enum hearth_data_skip *reason)
{
    size_t n = first, n_characters = 0;
    for (; n < r->n_turns; n++) {
        bool was_html = false, speech = r->turns[n].role <= HEARTH_ROLE_ASSISTANT; // what tools say stays as it is
        struct ht_text text = text_of(&r->turns[n]);
        if (speech)
            text = ht_data_clean(&r->pool, text, &was_html);
        if (r->pool.failed || unprintable(text))
            break;
        if (was_html)
            ht_data_fix(r, HEARTH_DATA_FIX_HTML);
        r->turns[n].text = text.bytes;
        r->turns[n].len_bytes = text.len_bytes;
    }
    if (n < r->n_turns)
        ht_data_fix(r, HEARTH_DATA_FIX_STOPPED);
    while (n > first && asks(&r->turns[n - 1]))
        n--;
    r->n_turns = n;
    *reason = HEARTH_DATA_SKIP_TOO_SHORT;
    for (size_t i = first; i < r->n_turns; i++)
        for (size_t k = 0; k < r->turns[i].len_bytes; k++)
            n_characters += ((unsigned char)r->turns[i].text[k] & 0xC0) != 0x80;
    return n_characters >= MIN_CHARACTERS;
}

static bool check_format(struct hearth_data_reader *r, size_t first, enum hearth_data_skip *reason)
{
    for (size_t i = first; i < r->n_turns; i++) {
        *reason = HEARTH_DATA_SKIP_REPEATED_DIGITS;
        if (digit_run(text_of(&r->turns[i])))
            return false;
        *reason = HEARTH_DATA_SKIP_BROKEN_LIST;
        if (broken_list(text_of(&r->turns[i])))
            return false;
    }
    return true;
}

static bool has_plugins(const json_t *value)
{
    const json_t *plugins = json_object_get(value, "plugins");
    return json_array_size(plugins) || json_object_size(plugins) || json_string_length(plugins);
}

// New id, no plugins, new first pair.
static enum hearth_status check_seen(struct hearth_data_reader *r, const json_t *value, size_t first, bool *good,
                                     enum hearth_data_skip *reason, struct hearth_error *err)
{
    const json_t *id = json_object_get(value, "id");
    bool fresh = true;
    *good = true;
    *reason = HEARTH_DATA_SKIP_SAME_ID;
    if (json_is_string(id))
        HT_TRY(ht_data_seen_add(&r->ids, ht_data_hash(json_string_value(id), json_string_length(id), 2), good, err));
    if (*good && has_plugins(value)) {
        *reason = HEARTH_DATA_SKIP_PLUGINS;
        *good = false;
    }
    if (!*good)
        return HEARTH_OK;
    *reason = HEARTH_DATA_SKIP_SAME_FIRST_PAIR;
    HT_TRY(ht_data_seen_add(&r->pairs, ht_data_content_hash(r->turns + first, 2, 3), &fresh, err));
    *good = fresh;
    return HEARTH_OK;
}

enum hearth_status ht_data_sharegpt(struct hearth_data_reader *r, const json_t *value, struct hearth_error *err)
{
    const json_t *turns = json_object_get(value, "conversations");
    enum hearth_data_skip reason = HEARTH_DATA_SKIP_MISSING_FIELD;
    if (!turns)
        turns = json_object_get(value, "items");
    if (!json_is_array(turns)) {
        ht_data_skip(r, reason);
        return HEARTH_OK;
    }
    ht_data_begin(r);
    if (!ht_data_add_tools(r, value))
        return HEARTH_OK;
    size_t first = r->n_turns;
    ht_data_add_system(r, value);
    if (!gather(r, turns) || r->failed)
        return HEARTH_OK;
    first += r->n_turns > first && r->turns[first].role == HEARTH_ROLE_SYSTEM;
    bool good = order(r, first, &reason) && check_content(r, first, &reason) && clean(r, first, &reason);
    if (r->pool.failed)
        return HEARTH_OK; // the reader tells
    if (good)
        HT_TRY(check_seen(r, value, first, &good, &reason, err));
    if (good && check_format(r, first, &reason))
        ht_data_emit(r, value);
    else
        ht_data_skip(r, reason);
    return HEARTH_OK;
}
