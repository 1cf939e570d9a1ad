// SPDX-License-Identifier: Apache-2.0
// messages of a chat request → the job's messages (openai.h). Pure; any thread.
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "firmware/json_text.h"
#include "firmware/limits.h"
#include "firmware/openai.h"
#include "firmware/util.h"

enum { MESSAGES_RESERVED = 4, MAX_CALLS = 64, MAX_ID_BYTES = 64 };

// Calls of the assistant's message before, and which of them were answered.
struct calls {
    const char *ids[MAX_CALLS];
    bool answered[MAX_CALLS];
    size_t n, n_answered;
    size_t at; // job message of the first answer
};

static bool fill(struct hd_openai_request *r, size_t at, enum hearth_role role, const char *text, size_t len)
{
    struct hd_job_message *m = &r->job->messages[at];
    m->text = malloc(len + 1);
    if (!m->text)
        return hd_openai_no_memory(r);
    if (len)
        memcpy(m->text, text, len);
    m->text[len] = 0;
    m->role = role;
    m->len_bytes = len;
    return true;
}

bool hd_openai_add_message(struct hd_openai_request *r, enum hearth_role role, const char *text, size_t len)
{
    return fill(r, r->job->n_messages++, role, text, len); // n first: what is there is freed with the job
}

bool hd_openai_is_name(const char *text, size_t max_bytes)
{
    size_t len = text ? strlen(text) : 0;
    for (size_t i = 0; i < len; i++)
        if (!isalnum((unsigned char)text[i]) && !strchr("_-.", text[i]))
            return false;
    return len >= 1 && len <= max_bytes;
}

// The text of "content": a string, or parts of type text, joined. malloc'ed in *text; NULL content is "".
static bool read_content(struct hd_openai_request *r, const json_t *content, size_t index, char **text,
                         size_t *len)
{
    size_t i;
    const json_t *part;
    char param[64];
    snprintf(param, sizeof param, "messages[%zu].content", index);
    *len = json_string_length(content);
    *text = NULL;
    json_array_foreach(content, i, part)
    {
        const char *type = json_string_value(json_object_get(part, "type"));
        if (!type || strcmp(type, "text") != 0 || !json_is_string(json_object_get(part, "text")))
            return hd_openai_wrong(r, param, "%s: only parts of type text", param);
        *len += json_string_length(json_object_get(part, "text"));
    }
    if (content && !json_is_string(content) && !json_is_array(content) && !json_is_null(content))
        return hd_openai_wrong(r, param, "%s: a string or an array of parts", param);
    if (!(*text = malloc(*len + 1)))
        return hd_openai_no_memory(r);
    char *to = *text;
    if (json_is_string(content))
        memcpy(to, json_string_value(content), *len);
    json_array_foreach(content, i, part)
    {
        const json_t *piece = json_object_get(part, "text");
        memcpy(to, json_string_value(piece), json_string_length(piece));
        to += json_string_length(piece);
    }
    (*text)[*len] = 0;
    return true;
}

// ---- tool calls

static bool write_call(struct hd_openai_request *r, FILE *out, const json_t *call, const char *param,
                       struct calls *calls)
{
    const json_t *function = json_object_get(call, "function");
    const char *id = json_string_value(json_object_get(call, "id")),
               *name = json_string_value(json_object_get(function, "name")),
               *arguments = json_string_value(json_object_get(function, "arguments"));
    if (!hd_openai_is_name(id, MAX_ID_BYTES) || !hd_openai_is_name(name, HD_MAX_TOOL_NAME_BYTES) || !arguments)
        return hd_openai_wrong(r, param, "%s: each call has id, function.name and function.arguments", param);
    if (calls->n == MAX_CALLS)
        return hd_openai_wrong(r, param, "%s: at most %d calls in one message", param, MAX_CALLS);
    json_error_t error;
    size_t len = strlen(arguments);
    bool scanned = !hd_json_scan(arguments, len);
    json_t *object = scanned ? hd_json_read(arguments, len, JSON_REJECT_DUPLICATES, &error) : NULL;
    if (scanned && !object && errno == ENOMEM)
        return hd_openai_no_memory(r);
    bool good = json_is_object(object);
    json_decref(object);
    if (!good)
        return hd_openai_wrong(r, param, "%s: function.arguments is a JSON object, as a string", param);
    size_t from = strspn(arguments, " \t\r\n");
    while (strchr(" \t\r\n", arguments[len - 1]))
        len--;
    fprintf(out, "%s{\"name\": \"%s\", \"arguments\": %.*s, \"id\": \"%s\"}", calls->n ? ", " : "", name,
            (int)(len - from), arguments + from, id);
    calls->ids[calls->n++] = id;
    return true;
}

static bool add_calls(struct hd_openai_request *r, const json_t *list, size_t index, struct calls *calls)
{
    size_t i, len = 0;
    const json_t *call;
    char param[64], *text = NULL;
    snprintf(param, sizeof param, "messages[%zu].tool_calls", index);
    if (!json_is_array(list))
        return hd_openai_wrong(r, param, "%s: an array of calls", param);
    FILE *out = open_memstream(&text, &len);
    if (!out)
        return hd_openai_no_memory(r);
    bool good = true;
    fputc('[', out);
    json_array_foreach(list, i, call) good = good && write_call(r, out, call, param, calls);
    fputc(']', out);
    bool failed = ferror(out) | fclose(out);
    if (good && (failed || !text)) // glibc's fclose keeps silent when it has no memory for the text
        good = hd_openai_no_memory(r);
    good = good && hd_openai_add_message(r, HEARTH_ROLE_CALLS, text, len);
    free(text);
    calls->at = r->job->n_messages; // places for the answers, in the order of the calls
    return good;
}

static bool add_answer(struct hd_openai_request *r, const json_t *message, size_t index, struct calls *calls,
                       const char *text, size_t len)
{
    char param[64];
    size_t i = 0;
    const char *id = json_string_value(json_object_get(message, "tool_call_id"));
    snprintf(param, sizeof param, "messages[%zu].tool_call_id", index);
    while (i < calls->n && (!id || strcmp(calls->ids[i], id) != 0 || calls->answered[i]))
        i++;
    if (i == calls->n)
        return hd_openai_wrong(r, param, "%s: no call of the message before has that id", param);
    calls->answered[i] = true;
    calls->n_answered++;
    r->job->n_messages = calls->at + calls->n; // those not filled yet are NULL
    return fill(r, calls->at + i, HEARTH_ROLE_TOOL, text, len);
}

// ---- one message

static bool check_fields(struct hd_openai_request *r, const json_t *message, size_t index)
{
    static const char *const known[] = {"role", "content", "name", "tool_calls", "tool_call_id"};
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)message, key, value)
    {
        bool good = json_is_null(value);
        for (size_t i = 0; i < sizeof known / sizeof *known; i++)
            good = good || !strcmp(known[i], key);
        if (!good) {
            char param[96];
            snprintf(param, sizeof param, "messages[%zu].%.*s", index, (int)hd_utf8_cut(key, strlen(key), 40),
                     key);
            return hd_openai_wrong(r, param, "messages[%zu]: a field that this box does not support", index);
        }
    }
    return true;
}

static enum hearth_role role_of(const char *name)
{
    static const struct {
        const char *name;
        enum hearth_role role;
    } roles[] = {{"system", HEARTH_ROLE_SYSTEM},
                 {"developer", HEARTH_ROLE_SYSTEM},
                 {"user", HEARTH_ROLE_USER},
                 {"assistant", HEARTH_ROLE_ASSISTANT},
                 {"tool", HEARTH_ROLE_TOOL}};
    for (size_t i = 0; name && i < sizeof roles / sizeof *roles; i++)
        if (!strcmp(roles[i].name, name))
            return roles[i].role;
    return 0;
}

static bool all_answered(struct hd_openai_request *r, const struct calls *calls, size_t index)
{
    return calls->n_answered == calls->n ||
           hd_openai_wrong(r, "messages", "messages[%zu]: a call before it has no message of role tool",
                           index);
}

static bool add(struct hd_openai_request *r, const json_t *message, size_t index, struct calls *calls)
{
    char param[64], *text;
    size_t len;
    enum hearth_role role = role_of(json_string_value(json_object_get(message, "role")));
    const json_t *content = json_object_get(message, "content"),
                 *list = json_object_get(message, "tool_calls");
    snprintf(param, sizeof param, "messages[%zu].role", index);
    if (!json_is_object(message) || !role)
        return hd_openai_wrong(r, param, "%s: system, developer, user, assistant or tool", param);
    bool calls_tools = list && !json_is_null(list) && !(json_is_array(list) && json_array_size(list) == 0);
    if (calls_tools && role != HEARTH_ROLE_ASSISTANT)
        return hd_openai_wrong(r, param, "messages[%zu]: only the assistant has tool_calls", index);
    if (!calls_tools && (!content || json_is_null(content)))
        return hd_openai_wrong(r, param, "messages[%zu]: content is missing", index);
    if (!check_fields(r, message, index) || (role != HEARTH_ROLE_TOOL && !all_answered(r, calls, index)) ||
        !read_content(r, content, index, &text, &len))
        return false;
    bool good = true;
    r->job->messages[r->job->n_messages].asked_at = index;
    if (role == HEARTH_ROLE_TOOL)
        good = add_answer(r, message, index, calls, text, len);
    else if (len || !calls_tools)
        good = hd_openai_add_message(r, role, text, len);
    if (role != HEARTH_ROLE_TOOL)
        *calls = (struct calls){0};
    free(text);
    return good && (!calls_tools || add_calls(r, list, index, calls));
}

// System messages at the beginning become one, an empty line between them.
static bool join_systems(struct hd_openai_request *r)
{
    struct hd_job *job = r->job;
    size_t first = job->n_messages && job->messages[0].role == HEARTH_ROLE_TOOLS, end = first, len = 0, at = 0;
    for (; end < job->n_messages && job->messages[end].role == HEARTH_ROLE_SYSTEM; end++)
        len += job->messages[end].len_bytes + 2;
    if (end < first + 2)
        return true;
    char *text = malloc(len);
    if (!text)
        return hd_openai_no_memory(r);
    for (size_t i = first; i < end; i++) {
        struct hd_job_message *m = &job->messages[i];
        size_t gap = at && m->len_bytes ? 2 : 0;
        memcpy(text + at, "\n\n", gap);
        memcpy(text + at + gap, m->text, m->len_bytes);
        at += gap + m->len_bytes;
        hd_wipe_free(m->text, m->len_bytes);
    }
    text[at] = 0; // of the 2 bytes that the first one did not take
    job->messages[first].text = text;
    job->messages[first].len_bytes = at;
    memmove(job->messages + first + 1, job->messages + end, (job->n_messages - end) * sizeof *job->messages);
    job->n_messages -= end - first - 1;
    return true;
}

bool hd_openai_messages(struct hd_openai_request *r, const json_t *messages)
{
    size_t i, n = json_array_size(messages), n_calls = 0;
    const json_t *message;
    struct calls calls = {0};
    if (!json_is_array(messages) || n == 0 || n > HD_MAX_PROMPT_TURNS)
        return hd_openai_wrong(r, "messages", "messages: an array of 1 to %d", HD_MAX_PROMPT_TURNS);
    json_array_foreach(messages, i, message) n_calls +=
        json_array_size(json_object_get(message, "tool_calls"));
    struct hd_job_message *list = calloc(2 * n + n_calls + MESSAGES_RESERVED, sizeof *list);
    if (!list)
        return hd_openai_no_memory(r);
    if (r->job->n_messages) // TOOLS
        list[0] = r->job->messages[0];
    free(r->job->messages);
    r->job->messages = list;
    json_array_foreach(messages, i, message)
    {
        if (!add(r, message, i, &calls))
            return false;
    }
    return all_answered(r, &calls, n) && join_systems(r);
}

bool hd_openai_default_system(struct hd_openai_request *r, const char *text)
{
    struct hd_job *job = r->job;
    size_t at = job->n_messages && job->messages[0].role == HEARTH_ROLE_TOOLS;
    if (!*text || (at < job->n_messages && job->messages[at].role == HEARTH_ROLE_SYSTEM))
        return true;
    memmove(job->messages + at + 1, job->messages + at, (job->n_messages - at) * sizeof *job->messages);
    memset(&job->messages[at], 0, sizeof job->messages[at]);
    job->n_messages++;
    job->n_shared = at ? 0 : 1;
    return fill(r, at, HEARTH_ROLE_SYSTEM, text, strlen(text));
}
