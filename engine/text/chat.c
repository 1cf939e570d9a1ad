// SPDX-License-Identifier: Apache-2.0
// Renders messages with a chat format. Pure functions over the caller's memory, any thread.
#include "engine/text/chat.h"

#include <string.h>

#include "engine/base/limits.h"
#include "engine/text/chat_format.h"
#include "engine/text/chat_tools.h"
#include "engine/text/unicode.h"

enum { SEGMENTS_PER_MESSAGE = 16 };

static enum hearth_status copy_mark(char mark[HT_CHAT_MARK_BYTES], struct ht_text spelling,
                                    struct hearth_error *err)
{
    if (spelling.len_bytes >= HT_CHAT_MARK_BYTES)
        return ht_fail(err, HEARTH_LIMIT, "the model's BOS or EOS token is spelt with more than %d bytes",
                       HT_CHAT_MARK_BYTES - 1);
    memcpy(mark, spelling.bytes, spelling.len_bytes);
    mark[spelling.len_bytes] = '\0';
    return HEARTH_OK;
}

static void use_format(struct ht_chat *chat, const struct ht_chat_format *format)
{
    chat->format = format;
    if (format->system) {
        chat->system_len_bytes = strlen(format->system); // the longest built-in one is far below the cap
        memcpy(chat->system, format->system, chat->system_len_bytes);
    }
}

enum hearth_status ht_chat_init(struct ht_chat *chat, const char *name, const char *jinja,
                                size_t jinja_len_bytes, const struct ht_tokenizer *tokenizer,
                                struct hearth_error *err)
{
    *chat = (struct ht_chat){.bos = "<s>", .eos = "</s>"};
    if (tokenizer) {
        HT_TRY(copy_mark(chat->bos, ht_tokenizer_piece(tokenizer, ht_tokenizer_bos(tokenizer), true), err));
        HT_TRY(copy_mark(chat->eos, ht_tokenizer_piece(tokenizer, ht_tokenizer_eos(tokenizer), true), err));
    }
    if (name && (!strcmp(name, "none") || !strcmp(name, "raw")))
        return HEARTH_OK;
    if (name) {
        const struct ht_chat_format *format = ht_chat_find_format(name);
        if (!format)
            return ht_fail(err, HEARTH_NOT_FOUND, "there is no chat template named '%.64s'", name);
        use_format(chat, format);
        chat->tools = format->tools;
        chat->late_system = format->system_later != NULL;
        return HEARTH_OK;
    }
    if (!jinja || !jinja_len_bytes)
        return HEARTH_OK;
    HT_TRY(ht_chat_recognise(chat, jinja, jinja_len_bytes, err));
    if (!chat->system_len_bytes)
        use_format(chat, chat->format);
    return HEARTH_OK;
}

const char *ht_chat_name(const struct ht_chat *chat)
{
    return chat->format ? chat->format->name : "none";
}

const char *ht_chat_tool_format(const struct ht_chat *chat)
{
    return chat->tools ? chat->tools->name : "";
}

const char *ht_chat_call_mark(const struct ht_chat *chat)
{
    return chat->tools ? chat->tools->open : NULL;
}

const char *const *ht_chat_stops(const struct ht_chat *chat)
{
    static const char *const none[] = {NULL};
    return chat->format ? chat->format->stops : none;
}

size_t ht_chat_max_segments(size_t n_messages)
{
    return SEGMENTS_PER_MESSAGE * (n_messages + 2);
}

// ---------------------------------------------------------------- rendering

struct render {
    const struct ht_chat *chat;
    struct ht_segment *segments;
    size_t capacity, n;
    uint32_t turn, round;
    uint8_t origin; // of what is not the template's, while tools are rendered
    bool target;    // while tools are rendered
};

static void put(struct render *r, const char *bytes, size_t len_bytes, uint8_t origin, bool target)
{
    if (!len_bytes)
        return;
    if (r->n < r->capacity)
        r->segments[r->n] = (struct ht_segment){bytes, len_bytes, origin, target, r->turn};
    r->n++;
}

static void put_round(struct render *r)
{
    static const char digits[] = "0123456789";
    uint32_t unit = 1;
    while (r->round / unit >= 10)
        unit *= 10;
    for (; unit; unit /= 10)
        put(r, digits + r->round / unit % 10, 1, HT_ORIGIN_TEMPLATE, false);
}

// A string of the format, its stand-ins replaced.
static void put_template(struct render *r, const char *string, bool target)
{
    while (string && *string) {
        size_t n = strcspn(string, HT_BOS HT_EOS HT_ROUND);
        put(r, string, n, HT_ORIGIN_TEMPLATE, target);
        string += n;
        if (*string == HT_BOS[0])
            put(r, r->chat->bos, strlen(r->chat->bos), HT_ORIGIN_TEMPLATE, target);
        else if (*string == HT_EOS[0])
            put(r, r->chat->eos, strlen(r->chat->eos), HT_ORIGIN_TEMPLATE, target);
        else if (*string == HT_ROUND[0])
            put_round(r);
        string += *string != '\0';
    }
}

// Without the white space at its ends, as templates trim it: Unicode's, and the separators U+001C to U+001F.
static struct ht_text trim(struct ht_text text, bool left)
{
    size_t first = 0, last = 0; // what stays
    bool seen = !left;
    for (size_t i = 0; i < text.len_bytes;) {
        uint32_t c;
        i += ht_uc_next((const unsigned char *)text.bytes + i, text.len_bytes - i, &c);
        if (ht_uc_class(c) != HT_UC_SPACE && (c < 0x1C || c > 0x1F)) {
            seen = true;
            last = i;
        } else if (!seen) {
            first = last = i;
        }
    }
    return (struct ht_text){text.bytes ? text.bytes + first : NULL, last - first};
}

static void put_part(void *user, const char *bytes, size_t len_bytes, bool from_template)
{
    struct render *r = user;
    put(r, bytes, len_bytes, from_template ? HT_ORIGIN_TEMPLATE : r->origin, r->target);
}

static enum hearth_status put_tools(struct render *r, const struct ht_chat_message *tools, struct hearth_error *err)
{
    r->origin = HT_ORIGIN_SYSTEM;
    r->target = false;
    return ht_tools_render(r->chat->tools, tools, put_part, r, err);
}

// `tools`: to be given here, or NULL.
static enum hearth_status put_system(struct render *r, struct ht_text text, const struct ht_chat_message *tools,
                                     struct hearth_error *err)
{
    const struct ht_chat_format *f = r->chat->format;
    if (f->trims_system)
        text = trim(text, true);
    if (tools)
        put_template(r, r->chat->tools->system_mark, false);
    put_template(r, f->system_before, false);
    put(r, text.bytes, text.len_bytes, HT_ORIGIN_SYSTEM, false);
    if (tools && r->chat->tools->place == HT_TOOLS_IN_SYSTEM) {
        put_template(r, text.len_bytes ? "\n\n" : "", false);
        HT_TRY(put_tools(r, tools, err));
    }
    put_template(r, f->system_after, false);
    return HEARTH_OK;
}

// One that stands behind other messages.
static void put_late_system(struct render *r, struct ht_text text)
{
    const struct ht_chat_format *f = r->chat->format;
    if (f->trims_system)
        text = trim(text, true);
    put_template(r, f->system_later, false);
    put(r, text.bytes, text.len_bytes, HT_ORIGIN_SYSTEM, false);
    put_template(r, f->system_after, false);
}

// `tools`: those that stand before this turn or in it, or NULL.
static enum hearth_status put_user(struct render *r, const struct ht_chat_message *message,
                                   const struct ht_text *system, const struct ht_chat_message *tools,
                                   struct hearth_error *err)
{
    const struct ht_chat_format *f = r->chat->format;
    struct ht_text text = {message->text, message->len_bytes};
    if (r->round++)
        put_template(r, f->between, false);
    if (tools && r->chat->tools->place == HT_TOOLS_LAST_USER)
        HT_TRY(put_tools(r, tools, err));
    put_template(r, f->user_before, false);
    if (tools && r->chat->tools->place == HT_TOOLS_FIRST_USER)
        HT_TRY(put_tools(r, tools, err));
    if (system)
        HT_TRY(put_system(r, *system, NULL, err));
    if (f->trims)
        text = trim(text, !(system && f->trims_joined));
    put(r, text.bytes, text.len_bytes, HT_ORIGIN_USER, false);
    if (message->input_len_bytes || f->input_always) {
        put_template(r, f->input_before ? f->input_before : "\n\n", false);
        put(r, message->input, message->input_len_bytes, HT_ORIGIN_USER, false);
    }
    put_template(r, f->user_after, false);
    return HEARTH_OK;
}

// What follows the last "</think>"; false if there is none.
static bool after_thoughts(struct ht_text *text)
{
    static const char mark[] = "</think>";
    size_t n = sizeof mark - 1;
    for (size_t at = text->len_bytes; at >= n; at--) {
        if (memcmp(text->bytes + at - n, mark, n) != 0)
            continue;
        text->bytes += at;
        text->len_bytes -= at;
        return true;
    }
    return false;
}

static void skip_line_ends(struct ht_text *text)
{
    while (text->len_bytes && text->bytes[0] == '\n') {
        text->bytes++;
        text->len_bytes--;
    }
}

// `message` or `calls` may be NULL: a turn has a text, calls, or both.
static enum hearth_status put_assistant(struct render *r, const struct ht_chat_message *message,
                                        const struct ht_chat_message *calls, bool before_last_user, bool last,
                                        struct hearth_error *err)
{
    const struct ht_chat_format *f = r->chat->format;
    struct ht_text text = {message ? message->text : NULL, message ? message->len_bytes : 0};
    if (f->trims && message)
        text = trim(text, true);
    put_template(r, f->header, false);
    if (!calls)
        put_template(r, f->lead, false);
    if (f->forgets_thoughts && (before_last_user || last)) {
        struct ht_text answer = text;
        bool thought = after_thoughts(&answer);
        if (thought && before_last_user)
            text = answer;
        if (!thought && !before_last_user)
            put_template(r, "<think>\n\n</think>\n\n", false);
        if (thought == before_last_user)
            skip_line_ends(&text);
    }
    if (!calls || !r->chat->tools->drops_text)
        put(r, text.bytes, text.len_bytes, HT_ORIGIN_ASSISTANT, true);
    if (calls) {
        r->turn += message != NULL;
        r->origin = HT_ORIGIN_ASSISTANT;
        r->target = true;
        if (text.len_bytes && !r->chat->tools->drops_text)
            put_template(r, "\n", true);
        HT_TRY(ht_calls_render(r->chat->tools, calls, put_part, r, err));
    }
    put_template(r, last && f->last_end ? f->last_end : f->end, true);
    put_template(r, f->gap, false);
    return HEARTH_OK;
}

static const char *role_name(enum ht_role role)
{
    return role == HT_ROLE_SYSTEM ? "system" : role == HT_ROLE_USER ? "user" : "assistant";
}

static enum hearth_status check_message(const struct ht_chat *chat, const struct ht_chat_message *messages, size_t n,
                                        size_t i, struct hearth_error *err)
{
    const struct ht_chat_message *m = &messages[i];
    size_t system = messages[0].role == HT_ROLE_TOOLS && n > 1; // where a system text may stand
    if (m->role < HT_ROLE_SYSTEM || m->role > HT_ROLE_CALLS || (!m->text && m->len_bytes) ||
        (!m->input && m->input_len_bytes) || (m->input_len_bytes && m->role != HT_ROLE_USER))
        return ht_fail(err, HEARTH_INVALID, "message %zu has no valid role or text", i);
    if (m->role >= HT_ROLE_TOOL && !chat->tools)
        return ht_fail(err, HEARTH_UNSUPPORTED, "the model's chat template (%s) has no tools", chat->format->name);
    if (m->role == HT_ROLE_TOOLS && i)
        return ht_fail(err, HEARTH_INVALID, "message %zu is tools: only the first may be", i);
    if (m->role == HT_ROLE_SYSTEM && i > system && !chat->late_system)
        return ht_fail(err, HEARTH_INVALID,
                       "message %zu is a system message: with the chat template %s only the first may be", i,
                       chat->format->name);
    if (m->role == HT_ROLE_SYSTEM && chat->format->place == HT_CHAT_SYSTEM_NONE)
        return ht_fail(err, HEARTH_INVALID, "the chat template %s has no place for a system message",
                       chat->format->name);
    if (m->role == HT_ROLE_TOOL && (i == 0 || (messages[i - 1].role != HT_ROLE_CALLS &&
                                               messages[i - 1].role != HT_ROLE_TOOL)))
        return ht_fail(err, HEARTH_INVALID, "message %zu is a tool's answer: it follows calls", i);
    if (m->role == HT_ROLE_CALLS && !m->len_bytes && i + 1 < n)
        return ht_fail(err, HEARTH_INVALID, "message %zu has no calls", i);
    return HEARTH_OK;
}

// User and assistant take turns, user first; what belongs to tools does not count.
static enum hearth_status check_turns(const struct ht_chat_format *f, const struct ht_chat_message *messages, size_t n,
                                      struct hearth_error *err)
{
    enum ht_role due = HT_ROLE_USER;
    for (size_t i = 0; i < n; i++) {
        enum ht_role role = messages[i].role;
        bool calls = role == HT_ROLE_ASSISTANT && i + 1 < n && messages[i + 1].role == HT_ROLE_CALLS;
        if (calls || (role != HT_ROLE_USER && role != HT_ROLE_ASSISTANT))
            continue;
        if (role != due)
            return ht_fail(err, HEARTH_INVALID,
                           "message %zu is the %s's: with the chat template %s it is the %s's turn", i, role_name(role),
                           f->name, role_name(due));
        due = due == HT_ROLE_USER ? HT_ROLE_ASSISTANT : HT_ROLE_USER;
    }
    return HEARTH_OK;
}

static enum hearth_status check_messages(const struct ht_chat *chat, const struct ht_chat_message *messages,
                                         size_t n, bool generation, struct hearth_error *err)
{
    const struct ht_chat_format *f = chat->format;
    if (!f)
        return ht_fail(
            err, HEARTH_UNSUPPORTED,
            "the model has no chat template: it completes plain text; choose one with --template NAME");
    if (!n)
        return ht_fail(err, HEARTH_INVALID, "there is no message");
    if (n > HT_MAX_MESSAGES)
        return ht_fail(err, HEARTH_LIMIT, "%zu messages are more than %d", n, HT_MAX_MESSAGES);
    for (size_t i = 0; i < n; i++)
        HT_TRY(check_message(chat, messages, n, i, err));
    if (f->alternates)
        HT_TRY(check_turns(f, messages, n, err));
    const struct ht_chat_message *last = &messages[n - 1];
    if (last->role == HT_ROLE_TOOLS)
        return ht_fail(err, HEARTH_INVALID, "there is no message");
    if (f->place == HT_CHAT_SYSTEM_IN_USER && last->role == HT_ROLE_SYSTEM)
        return ht_fail(err, HEARTH_INVALID,
                       "with the chat template %s a system message needs a user message after it", f->name);
    if (generation && (last->role == HT_ROLE_ASSISTANT || (last->role == HT_ROLE_CALLS && last->len_bytes)))
        return ht_fail(err, HEARTH_INVALID,
                       "the last message is the assistant's: there is nothing to answer");
    if (!generation && last->role == HT_ROLE_CALLS && !last->len_bytes)
        return ht_fail(err, HEARTH_INVALID, "message %zu has no calls", n - 1);
    return HEARTH_OK;
}

// The system text in effect; false if there is none.
static bool find_system(const struct ht_chat *chat, const struct ht_chat_message *messages, size_t n,
                        struct ht_text *text)
{
    const struct ht_chat_format *f = chat->format;
    if (n && messages[0].role == HT_ROLE_SYSTEM) {
        *text = (struct ht_text){messages[0].text, messages[0].len_bytes};
        return true;
    }
    *text = (struct ht_text){chat->system, chat->system_len_bytes};
    if (f->system_input && n && messages[0].input_len_bytes)
        *text = (struct ht_text){f->system_input, strlen(f->system_input)};
    return text->len_bytes > 0 || f->system_always;
}

struct places { // of messages that matter while the others are rendered
    const struct ht_chat_message *tools, *calls;
    size_t first, first_user, last_user, n_results;
};

static enum hearth_status put_message(struct render *r, const struct ht_chat_message *messages, size_t n, size_t *at,
                                      struct places *places, const struct ht_text *system, struct hearth_error *err)
{
    const struct ht_chat_message *m = &messages[*at], *next = *at + 1 < n ? m + 1 : NULL;
    const struct ht_chat_tools *t = r->chat->tools;
    if (m->role == HT_ROLE_SYSTEM) {
        put_late_system(r, (struct ht_text){m->text, m->len_bytes});
        return HEARTH_OK;
    }
    if (m->role == HT_ROLE_USER) {
        size_t where = t && t->place == HT_TOOLS_LAST_USER ? places->last_user : places->first_user;
        return put_user(r, m, system, *at == where ? places->tools : NULL, err);
    }
    if (m->role == HT_ROLE_TOOL) {
        r->origin = HT_ORIGIN_USER;
        r->target = false;
        ht_result_render(t, m, places->calls, places->n_results++, put_part, r);
        if (!next || next->role != HT_ROLE_TOOL)
            put_template(r, t->results_end, false);
        return HEARTH_OK;
    }
    const struct ht_chat_message *text = m->role == HT_ROLE_ASSISTANT ? m : NULL, *calls = text ? NULL : m;
    if (text && next && next->role == HT_ROLE_CALLS && next->len_bytes)
        calls = next;
    bool before_last_user = *at < places->last_user;
    *at += text && calls;
    if (calls) {
        places->calls = calls;
        places->n_results = 0;
    }
    return put_assistant(r, text, calls, before_last_user, *at + 1 == n, err);
}

static struct places find_places(const struct ht_chat_message *messages, size_t n)
{
    struct places places = {.first_user = n};
    if (messages[0].role == HT_ROLE_TOOLS)
        places.tools = &messages[places.first++];
    for (size_t i = 0; i < n; i++) {
        if (messages[i].role != HT_ROLE_USER)
            continue;
        places.last_user = i;
        places.first_user = places.first_user < n ? places.first_user : i;
    }
    return places;
}

enum hearth_status ht_chat_render(const struct ht_chat *chat, const struct ht_chat_message *messages,
                                  size_t n_messages, bool generation, struct ht_segment *segments,
                                  size_t capacity, size_t *n_segments, struct hearth_error *err)
{
    *n_segments = 0;
    HT_TRY(check_messages(chat, messages, n_messages, generation, err));
    const struct ht_chat_format *f = chat->format;
    struct render r = {.chat = chat, .segments = segments, .capacity = capacity};
    struct places places = find_places(messages, n_messages);
    size_t n = n_messages, i = places.first;
    struct ht_text system;
    bool has_system = find_system(chat, messages + i, n - i, &system), forced = false;
    put_template(&r, f->begin, false);
    if (f->place == HT_CHAT_SYSTEM_FIRST &&
        (has_system || (places.tools && chat->tools->place == HT_TOOLS_IN_SYSTEM)))
        HT_TRY(put_system(&r, system, places.tools, err));
    for (i += messages[i].role == HT_ROLE_SYSTEM; i < n; i++) {
        r.turn = (uint32_t)i;
        bool inside = !r.round && has_system && f->place == HT_CHAT_SYSTEM_IN_USER;
        forced = messages[i].role == HT_ROLE_CALLS && !messages[i].len_bytes;
        if (!forced)
            HT_TRY(put_message(&r, messages, n, &i, &places, inside ? &system : NULL, err));
    }
    r.turn = (uint32_t)n_messages;
    if (generation) {
        put_template(&r, f->header, false);
        put_template(&r, f->prompt_end, false);
        if (forced)
            HT_TRY(ht_calls_render(chat->tools, &messages[n - 1], put_part, &r, err));
    }
    *n_segments = r.n;
    if (r.n > capacity)
        return ht_fail(err, HEARTH_LIMIT, "the rendered messages need %zu segments, more than %zu", r.n,
                       capacity);
    return HEARTH_OK;
}
