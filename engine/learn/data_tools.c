// SPDX-License-Identifier: Apache-2.0
// Tools in training data: what is offered and what is called, as files spell it, made what chat templates take
// (engine/text/chat_tools.h). Pure parsers over one item.
#include <stdio.h>

#include "engine/base/json_read.h"
#include "engine/learn/data.h"

// The value itself, or what a string spells; NULL: a string that spells nothing, or no memory (errno). The caller drops
// it.
static json_t *spelt(const json_t *value)
{
    struct ht_text text = ht_data_text_of(value);
    return text.bytes ? ht_json_read(text.bytes, text.len_bytes, JSON_ALLOW_NUL, NULL) : json_incref((json_t *)value);
}

// A turn that is a JSON list. False: memory (the pool remembers it).
static bool add_list(struct hearth_data_reader *r, enum hearth_role role, const json_t *list, float weight)
{
    enum { FLAGS = JSON_REAL_PRECISION(15) }; // 0.1 stays 0.1
    size_t n = json_dumpb(list, NULL, 0, FLAGS);
    struct ht_data_out out = ht_data_out_make(&r->pool, n);
    if (!n || !out.bytes || json_dumpb(list, out.bytes, n, FLAGS) != n)
        return false;
    ht_data_add(r, role, (struct ht_text){out.bytes, n})->weight = weight;
    return true;
}

bool ht_data_add_tools(struct hearth_data_reader *r, const json_t *value)
{
    const json_t *given = json_object_get(value, "tools"), *tool;
    if (!given || json_is_null(given) || (json_is_string(given) && ht_data_blank(ht_data_text_of(given))))
        return true;
    json_t *tools = spelt(given), *list = json_array();
    size_t i;
    bool good = list && json_is_array(tools);
    json_array_foreach(tools, i, tool)
    {
        bool bare = !json_is_object(json_object_get(tool, "function")); // {"name", "description", "parameters"}
        good = good && (!bare || json_is_string(json_object_get(tool, "name")));
        if (good)
            json_array_append_new(list, bare ? json_pack("{s:s, s:O}", "type", "function", "function", tool)
                                             : json_incref((json_t *)tool));
    }
    if (!good)
        ht_data_skip(r, HEARTH_DATA_SKIP_MISSING_FIELD);
    else if (json_array_size(list))
        good = add_list(r, HEARTH_ROLE_TOOLS, list, 0);
    json_decref(list);
    json_decref(tools);
    return good;
}

// {"name", "arguments", "id"} of one call, NULL if it is none. A call without an id gets one of nine digits, made of
// where it stands and of what it says: some templates give each an id.
static json_t *call_of(const struct hearth_data_reader *r, const json_t *call, size_t i)
{
    const json_t *function = json_object_get(call, "function"), *id = json_object_get(call, "id");
    if (!function)
        function = call;
    const json_t *name = json_object_get(function, "name");
    struct ht_text text = ht_data_text_of(name);
    json_t *arguments = spelt(json_object_get(function, "arguments"));
    json_t *out = text.bytes && json_is_object(arguments) ? json_object() : NULL;
    char made[16];
    if (out) {
        uint64_t hash = ht_data_hash(text.bytes, text.len_bytes, 64 * r->n_turns + i);
        snprintf(made, sizeof made, "%09llu", (unsigned long long)(hash % 1000000000));
        json_object_set(out, "name", (json_t *)name);
        json_object_set(out, "arguments", arguments);
        json_object_set_new(out, "id", json_is_string(id) ? json_incref((json_t *)id) : json_string(made));
    }
    json_decref(arguments);
    return out;
}

bool ht_data_add_calls(struct hearth_data_reader *r, const json_t *calls, float weight)
{
    json_t *whole = spelt(calls), *list = json_array();
    size_t i, n = json_is_array(whole) ? json_array_size(whole) : 1;
    bool good = list && whole && n;
    for (i = 0; i < n && good; i++)
        good = !json_array_append_new(list, call_of(r, json_is_array(whole) ? json_array_get(whole, i) : whole, i));
    if (!good)
        ht_data_skip(r, HEARTH_DATA_SKIP_MISSING_FIELD);
    else
        good = add_list(r, HEARTH_ROLE_CALLS, list, weight);
    json_decref(list);
    json_decref(whole);
    return good;
}
