// SPDX-License-Identifier: Apache-2.0
// Records as JSON. See data_record.h. Main thread.
#include "tools/data_record.h"

#include <string.h>

// [{"name", "arguments", "id"}] as messages have it.
static json_t *calls_of(const struct hearth_data_turn *turn)
{
    json_t *list = json_loadb(turn->text, turn->len_bytes, 0, NULL), *out = json_array(), *call;
    size_t i;
    json_array_foreach(list, i, call)
    {
        json_t *item = json_pack("{s:{s:O?, s:O?}}", "function", "name", json_object_get(call, "name"), "arguments",
                                 json_object_get(call, "arguments"));
        if (json_object_get(call, "id"))
            json_object_set(item, "id", json_object_get(call, "id"));
        json_array_append_new(out, item);
    }
    json_decref(list);
    return out;
}

static bool add_turns(json_t *messages, const struct hearth_data_turn *turns, size_t n)
{
    static const char *const roles[] = {"", "system", "user", "assistant", "tool", "", "assistant"};
    bool good = true;
    for (size_t i = 0; i < n && good; i++) {
        if (turns[i].role == HEARTH_ROLE_TOOLS)
            continue; // stands beside the messages
        bool calls = turns[i].role == HEARTH_ROLE_CALLS;
        json_t *message = json_pack("{s:s, s:o}", "role", roles[turns[i].role], calls ? "tool_calls" : "content",
                                    calls ? calls_of(&turns[i]) : json_stringn(turns[i].text, turns[i].len_bytes));
        if (message && turns[i].input)
            json_object_set_new(message, "input", json_stringn(turns[i].input, turns[i].input_len_bytes));
        bool answer = calls || turns[i].role == HEARTH_ROLE_ASSISTANT;
        if (message && answer && turns[i].weight != 1)
            json_object_set_new(message, "weight", json_real((double)turns[i].weight));
        good = message && json_array_append_new(messages, message) == 0;
    }
    return good;
}

json_t *data_record_json(const struct hearth_data_record *r, bool *raw)
{
    json_t *out = json_pack("{s:s}", "id", r->id), *messages = json_array();
    const char *const keys[] = {"license", "lang", "teacher"}, *const values[] = {r->license, r->lang, r->teacher};
    bool good = out && messages;
    *raw = r->raw;
    for (size_t i = 0; good && i < 3; i++)
        if (values[i][0])
            json_object_set_new(out, keys[i], json_string(values[i]));
    if (good && r->n_turns && r->turns[0].role == HEARTH_ROLE_TOOLS)
        json_object_set_new(out, "tools", json_loadb(r->turns[0].text, r->turns[0].len_bytes, 0, NULL));
    if (good && r->raw) {
        good = json_object_set_new(out, "text", json_stringn(r->turns[0].text, r->turns[0].len_bytes)) == 0;
    } else if (good && r->n_rejected) {
        json_t *chosen = json_array(), *rejected = json_array();
        good = add_turns(messages, r->turns, r->n_shared) &&
               add_turns(chosen, r->turns + r->n_shared, r->n_turns - r->n_shared) &&
               add_turns(rejected, r->rejected, r->n_rejected);
        json_object_set_new(out, "input", json_pack("{s:O}", "messages", messages));
        json_object_set_new(out, "preferred_output", chosen);
        json_object_set_new(out, "non_preferred_output", rejected);
    } else if (good) {
        good = add_turns(messages, r->turns, r->n_turns) && json_object_set(out, "messages", messages) == 0;
    }
    json_decref(messages);
    if (!good)
        json_decref(out);
    return good ? out : NULL;
}

json_t *data_reasons_json(const uint64_t *counts, int n, bool fixes)
{
    json_t *out = json_object();
    for (int i = 0; i < n; i++)
        if (counts[i])
            json_object_set_new(out, fixes ? hearth_data_fix_text((enum hearth_data_fix)i)
                                           : hearth_data_skip_text((enum hearth_data_skip)i),
                                json_integer((json_int_t)counts[i]));
    return out;
}
