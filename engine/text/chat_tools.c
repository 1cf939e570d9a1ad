// SPDX-License-Identifier: Apache-2.0
// The families of tool formats, and their rendering (chat_tools.h). Models were trained on exactly these bytes.
#include "engine/text/chat_tools.h"

#include <string.h>

#include "engine/text/json.h"

#define HERMES_BEGIN                                                                                         \
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with " \
    "function signatures within <tools></tools> XML tags:\n<tools>"
#define HERMES_END                                                                                           \
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "    \
    "<tool_call></tool_call> XML tags:\n<tool_call>\n{\"name\": <function-name>, \"arguments\": "            \
    "<args-json-object>}\n</tool_call>"
#define LLAMA_BEGIN                                                                                          \
    "Given the following functions, please respond with a JSON for a function call with its proper "         \
    "arguments that best answers the given prompt.\n\nRespond in the format {\"name\": function name, "      \
    "\"parameters\": dictionary of argument name and its value}.Do not use variables.\n\n"

const struct ht_chat_tools ht_tools_hermes = {
    .name = "hermes",
    .begin = HERMES_BEGIN,
    .item_before = "\n",
    .end = HERMES_END,
    .call_between = "\n",
    .name_before = "<tool_call>\n{\"name\": \"",
    .arguments_before = "\", \"arguments\": ",
    .call_end = "}\n</tool_call>",
    .forced = "<tool_call>\n",
    .results_begin = "<|im_start|>user",
    .result_before = "\n<tool_response>\n",
    .result_after = "\n</tool_response>",
    .results_end = "<|im_end|>\n",
    .open = "<tool_call>",
    .close = "</tool_call>",
};

const struct ht_chat_tools ht_tools_llama31 = {
    .name = "llama3.1",
    .place = HT_TOOLS_FIRST_USER,
    .system_mark = "Environment: ipython\n",
    .begin = LLAMA_BEGIN,
    .item_after = "\n\n",
    .indented = true,
    .name_before = "{\"name\": \"",
    .arguments_before = "\", \"parameters\": ",
    .call_end = "}",
    .one_call = true,
    .drops_text = true,
    .result_before = "<|start_header_id|>ipython<|end_header_id|>\n\n",
    .result_after = "<|eot_id|>",
    .quoted = true,
};

#define MISTRAL(gap)                                                                                         \
    .place = HT_TOOLS_LAST_USER, .begin = "[AVAILABLE_TOOLS]" gap "[",                                       \
    .item_before = "{\"type\": \"function\", \"function\": ", .item_after = "}", .between = ", ",            \
    .end = "][/AVAILABLE_TOOLS]", .function_only = true, .calls_begin = "[TOOL_CALLS]" gap "[",              \
    .call_between = ", ", .name_before = "{\"name\": \"",                                                    \
    .arguments_before = "\", \"arguments\": ", .id_before = ", \"id\": \"", .call_end = "\"}",               \
    .calls_end = "]", .drops_text = true, .forced = "[TOOL_CALLS]" gap "[",                                  \
    .result_before = "[TOOL_RESULTS]" gap "{\"content\": ", .result_id_before = ", \"call_id\": \"",         \
    .result_after = "\"}[/TOOL_RESULTS]", .open = "[TOOL_CALLS]"

const struct ht_chat_tools ht_tools_mistral = {.name = "mistral", MISTRAL(" ")};
const struct ht_chat_tools ht_tools_mistral_tekken = {.name = "mistral-tekken", MISTRAL("")};

const struct ht_chat_tools *ht_chat_tools_find(const char *name)
{
    static const struct ht_chat_tools *const all[] = {&ht_tools_hermes, &ht_tools_llama31, &ht_tools_mistral,
                                                      &ht_tools_mistral_tekken};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (!strcmp(all[i]->name, name))
            return all[i];
    return NULL;
}

static bool has(const char *text, size_t n, const char *mark)
{
    return memmem(text, n, mark, strlen(mark)) != NULL;
}

const struct ht_chat_tools *ht_chat_tools_recognise(const char *t, size_t n)
{
    if (has(t, n, "provided with function signatures within <tools></tools> XML tags:\\n<tools>") &&
        has(t, n, "{\\\"name\\\": <function-name>, \\\"arguments\\\": <args-json-object>}") &&
        has(t, n, "\\n<tool_response>\\n"))
        return &ht_tools_hermes;
    if (has(t, n, "Environment: ipython\\n") && has(t, n, "tools_in_user_message") &&
        has(t, n, "\"parameters\": "))
        return &ht_tools_llama31;
    if (has(t, n, "\"[AVAILABLE_TOOLS] [\"") && has(t, n, "\"[TOOL_CALLS] [\""))
        return &ht_tools_mistral;
    if (has(t, n, "\"[AVAILABLE_TOOLS][\"") && has(t, n, "\"[TOOL_CALLS][\""))
        return &ht_tools_mistral_tekken;
    return NULL;
}

// ---------------------------------------------------------------- rendering

struct out {
    ht_tools_put *put;
    void *user;
};

static void mark(const struct out *o, const char *text)
{
    if (text)
        o->put(o->user, text, strlen(text), true);
}

static void raw(const struct out *o, const char *text, size_t n)
{
    o->put(o->user, text, n, false);
}

// A JSON string as json.dumps writes it, without turning letters into escapes.
static void quote(const struct out *o, const char *text, size_t n)
{
    static const char *const escapes[0x20] = {
        "\\u0000", "\\u0001", "\\u0002", "\\u0003", "\\u0004", "\\u0005", "\\u0006", "\\u0007",
        "\\b",     "\\t",     "\\n",     "\\u000b", "\\f",     "\\r",     "\\u000e", "\\u000f",
        "\\u0010", "\\u0011", "\\u0012", "\\u0013", "\\u0014", "\\u0015", "\\u0016", "\\u0017",
        "\\u0018", "\\u0019", "\\u001a", "\\u001b", "\\u001c", "\\u001d", "\\u001e", "\\u001f"};
    size_t from = 0;
    mark(o, "\"");
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c >= 0x20 && c != '"' && c != '\\')
            continue;
        raw(o, text + from, i - from);
        mark(o, c == '"' ? "\\\"" : c == '\\' ? "\\\\" : escapes[c]);
        from = i + 1;
    }
    raw(o, text + from, n - from);
    mark(o, "\"");
}

// The inside of a JSON string with its short escapes undone.
static void unquote(const struct out *o, const char *text, size_t n)
{
    size_t from = 0;
    for (size_t i = 0; i + 1 < n; i++) {
        static const char names[] = "\"\\/bfnrt";
        static const char *const bytes[] = {"\"", "\\", "/", "\b", "\f", "\n", "\r", "\t"};
        const char *at = text[i] == '\\' ? strchr(names, text[i + 1]) : NULL;
        if (at && *at) {
            raw(o, text + from, i - from);
            raw(o, bytes[at - names], 1);
            from = i + 2;
        }
        i += text[i] == '\\';
    }
    raw(o, text + from, n - from);
}

static void new_line(const struct out *o, size_t depth)
{
    static const char blanks[] = "                                                                ";
    mark(o, "\n");
    for (size_t n = 4 * depth; n; n -= n < sizeof blanks - 1 ? n : sizeof blanks - 1)
        raw(o, blanks, n < sizeof blanks - 1 ? n : sizeof blanks - 1);
}

// A whole value over lines, as json.dumps(indent=4) writes it.
static void indent(const struct out *o, const char *text, size_t n)
{
    size_t depth = 0;
    for (size_t i = 0; i < n; i++) {
        size_t from = i, used;
        char c = text[i];
        switch (c) {
        case ' ':
        case '\t':
        case '\n':
        case '\r': continue;
        case '{':
        case '[':
            raw(o, text + i, 1);
            while (i + 1 < n && strchr(" \t\r\n", text[i + 1]))
                i++;
            if (i + 1 < n && (text[i + 1] == '}' || text[i + 1] == ']'))
                raw(o, text + ++i, 1);
            else
                new_line(o, ++depth);
            continue;
        case '}':
        case ']':
            new_line(o, --depth);
            raw(o, text + i, 1);
            continue;
        case ',':
            raw(o, text + i, 1);
            new_line(o, depth);
            continue;
        case ':': raw(o, ": ", 2); continue;
        default: break;
        }
        if (c == '"') {
            if (ht_json_value(text + i, n - i, &used) != HT_JSON_WHOLE)
                return;
        } else {
            used = strcspn(text + i, ",:]} \t\r\n");
        }
        raw(o, text + from, used);
        i += used - 1;
    }
}

// {"name": …} of a tool, its own strings as they are, for a template that joins them without escapes.
static void function_item(const struct out *o, const struct ht_json_part *function)
{
    struct ht_json_walk walk;
    struct ht_json_part part;
    bool first = true;
    mark(o, "{");
    ht_json_walk_begin(&walk, function->value, function->value_len_bytes);
    while (ht_json_walk_next(&walk, &part)) {
        if (part.key_len_bytes == 6 && !memcmp(part.key, "return", 6))
            continue;
        mark(o, first ? "\"" : ", \"");
        raw(o, part.key, part.key_len_bytes);
        mark(o, "\": ");
        if (part.value[0] == '"') {
            mark(o, "\"");
            unquote(o, part.value + 1, part.value_len_bytes - 2);
            mark(o, "\"");
        } else {
            raw(o, part.value, part.value_len_bytes);
        }
        first = false;
    }
    mark(o, "}");
}

enum hearth_status ht_tools_render(const struct ht_chat_tools *t, const struct ht_chat_message *message,
                                   ht_tools_put *put, void *user, struct hearth_error *err)
{
    const struct out o = {put, user};
    struct ht_json_walk walk;
    struct ht_json_part item, function;
    bool first = true;
    if (!ht_json_walk_begin(&walk, message->text, message->len_bytes) || walk.object)
        return ht_fail(err, HEARTH_INVALID, "the tools are not an array");
    mark(&o, t->begin);
    while (ht_json_walk_next(&walk, &item)) {
        if (!ht_json_find(item.value, item.value_len_bytes, "function", &function) ||
            function.value[0] != '{')
            return ht_fail(err, HEARTH_INVALID, "a tool is not a function");
        if (!first)
            mark(&o, t->between);
        first = false;
        mark(&o, t->item_before);
        if (t->function_only)
            function_item(&o, &function);
        else if (t->indented)
            indent(&o, item.value, item.value_len_bytes);
        else
            raw(&o, item.value, item.value_len_bytes);
        mark(&o, t->item_after);
    }
    mark(&o, t->end);
    return HEARTH_OK;
}

static bool string_of(const struct ht_json_part *object, const char *key, struct ht_json_part *out)
{
    if (!ht_json_find(object->value, object->value_len_bytes, key, out) || out->value[0] != '"')
        return false;
    out->value++;
    out->value_len_bytes -= 2;
    return true;
}

enum hearth_status ht_calls_render(const struct ht_chat_tools *t, const struct ht_chat_message *message,
                                   ht_tools_put *put, void *user, struct hearth_error *err)
{
    const struct out o = {put, user};
    struct ht_json_walk walk;
    struct ht_json_part call, name, arguments, id;
    size_t n = 0;
    if (!message->len_bytes) {
        mark(&o, t->forced);
        return HEARTH_OK;
    }
    if (!ht_json_walk_begin(&walk, message->text, message->len_bytes) || walk.object)
        return ht_fail(err, HEARTH_INVALID, "the calls are not an array");
    mark(&o, t->calls_begin);
    for (; ht_json_walk_next(&walk, &call); n++) {
        if (!string_of(&call, "name", &name) ||
            !ht_json_find(call.value, call.value_len_bytes, "arguments", &arguments) ||
            arguments.value[0] != '{' || (t->id_before && !string_of(&call, "id", &id)))
            return ht_fail(err, HEARTH_INVALID, "call %zu has no name, arguments or id", n + 1);
        if (n && t->one_call)
            return ht_fail(err, HEARTH_INVALID, "with this chat template a turn has one call at most");
        if (n)
            mark(&o, t->call_between);
        mark(&o, t->name_before);
        raw(&o, name.value, name.value_len_bytes);
        mark(&o, t->arguments_before);
        raw(&o, arguments.value, arguments.value_len_bytes);
        mark(&o, t->id_before);
        if (t->id_before)
            raw(&o, id.value, id.value_len_bytes);
        mark(&o, t->call_end);
    }
    mark(&o, t->calls_end);
    return n ? HEARTH_OK : ht_fail(err, HEARTH_INVALID, "the calls are an empty array");
}

void ht_result_render(const struct ht_chat_tools *t, const struct ht_chat_message *message,
                      const struct ht_chat_message *calls, size_t index, ht_tools_put *put, void *user)
{
    const struct out o = {put, user};
    struct ht_json_walk walk;
    struct ht_json_part call, id;
    if (index == 0)
        mark(&o, t->results_begin);
    mark(&o, t->result_before);
    if (t->quoted)
        quote(&o, message->text, message->len_bytes);
    else
        raw(&o, message->text, message->len_bytes);
    mark(&o, t->result_id_before);
    bool known = t->result_id_before && calls && ht_json_walk_begin(&walk, calls->text, calls->len_bytes);
    for (size_t i = 0; known && ht_json_walk_next(&walk, &call); i++)
        if (i == index && string_of(&call, "id", &id))
            raw(&o, id.value, id.value_len_bytes);
    mark(&o, t->result_after);
}
