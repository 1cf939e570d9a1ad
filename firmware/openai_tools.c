// SPDX-License-Identifier: Apache-2.0
// tools and tool_choice of a chat request (openai.h): what the template is given, and the grammar that makes a call
// certain. Pure; any thread.
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "firmware/openai.h"

enum { MAX_REF_BYTES = 256 };

static const char *name_of(const json_t *tool)
{
    return json_string_value(json_object_get(json_object_get(tool, "function"), "name"));
}

static bool check_tools(struct hd_openai_request *r, const json_t *tools)
{
    size_t i, j;
    const json_t *tool, *other;
    if (!json_is_array(tools) || json_array_size(tools) > HD_MAX_TOOLS)
        return hd_openai_wrong(r, "tools", "tools: an array of at most %d", HD_MAX_TOOLS);
    json_array_foreach(tools, i, tool)
    {
        const char *type = json_string_value(json_object_get(tool, "type"));
        const json_t *function = json_object_get(tool, "function"),
                     *parameters = json_object_get(function, "parameters");
        char param[32];
        snprintf(param, sizeof param, "tools[%zu]", i);
        if (!type || strcmp(type, "function") != 0)
            return hd_openai_wrong(r, param, "%s.type: only function", param);
        if (!hd_openai_is_name(name_of(tool), HD_MAX_TOOL_NAME_BYTES))
            return hd_openai_wrong(r, param, "%s.function.name: 1 to %d letters, digits, '_', '-', '.'",
                                   param, HD_MAX_TOOL_NAME_BYTES);
        if (parameters && !json_is_object(parameters))
            return hd_openai_wrong(r, param, "%s.function.parameters: a JSON schema", param);
        json_array_foreach(tools, j, other)
        {
            if (j < i && !strcmp(name_of(other), name_of(tool)))
                return hd_openai_wrong(r, param, "%s.function.name: came before", param);
        }
    }
    return true;
}

// What tool_choice says; `name` the function it names, or NULL.
static bool read_choice(struct hd_openai_request *r, const json_t *choice, enum hd_tool_choice *out,
                        const char **name)
{
    const char *text = json_string_value(choice);
    *name = NULL;
    *out = HD_TOOLS_AUTO;
    if (!choice || json_is_null(choice) || (text && !strcmp(text, "auto")))
        return true;
    *out = text && !strcmp(text, "none") ? HD_TOOLS_NONE : HD_TOOLS_FORCED;
    if (text && (*out == HD_TOOLS_NONE || !strcmp(text, "required")))
        return true;
    *name = name_of(choice);
    return *name ||
           hd_openai_wrong(r, "tool_choice", "tool_choice: none, auto, required or a function's name");
}

bool hd_openai_tools(struct hd_openai_request *r, const json_t *body)
{
    const json_t *tools = json_object_get(body, "tools");
    const char *name;
    enum hd_tool_choice choice;
    if (!read_choice(r, json_object_get(body, "tool_choice"), &choice, &name))
        return false;
    bool any = tools && !json_is_null(tools) && (!json_is_array(tools) || json_array_size(tools) > 0);
    if (any && !check_tools(r, tools))
        return false;
    if (!any)
        return choice != HD_TOOLS_FORCED ||
               hd_openai_wrong(r, "tool_choice", "tool_choice: there are no tools");
    if (choice == HD_TOOLS_NONE)
        return true;
    if (r->job->grammar)
        return hd_openai_wrong(r, "tools", "tools: not together with response_format or grammar");
    r->job->messages = calloc(1, sizeof *r->job->messages);
    char *text = r->job->messages ? hd_openai_spell(tools) : NULL;
    r->tools = true;
    bool good = text && hd_openai_add_message(r, HEARTH_ROLE_TOOLS, text, strlen(text));
    free(text);
    return good || hd_openai_no_memory(r);
}

// ---- a forced call

// Every "$ref" of the parameters finds them where they move to: "#/$defs/" and the tool's number.
static bool move_refs(json_t *value, size_t tool, size_t depth)
{
    const char *key;
    json_t *item;
    size_t i;
    bool good = depth <= HD_MAX_JSON_DEPTH;
    if (!good)
        return false;
    json_array_foreach(value, i, item) good = good && move_refs(item, tool, depth + 1);
    json_object_foreach(value, key, item)
    {
        char ref[MAX_REF_BYTES];
        const char *text = strcmp(key, "$ref") ? NULL : json_string_value(item);
        if (text && text[0] == '#') {
            int n = snprintf(ref, sizeof ref, "#/$defs/%zu%s", tool, text + 1);
            good = good && n > 0 && (size_t)n < sizeof ref && json_string_set(item, ref) == 0;
        }
        good = good && move_refs(item, tool, depth + 1);
    }
    return good;
}

// {"name": the tool's, "arguments": by its parameters, which become one of the definitions}; NULL on failure.
static json_t *schema_of(const json_t *tool, size_t index, json_t *definitions)
{
    const json_t *given = json_object_get(json_object_get(tool, "function"), "parameters");
    json_t *parameters = given ? json_deep_copy(given) : json_pack("{s:s}", "type", "object");
    char number[24], ref[40];
    snprintf(number, sizeof number, "%zu", index);
    snprintf(ref, sizeof ref, "#/$defs/%s", number);
    if (!parameters || !move_refs(parameters, index, 0)) {
        json_decref(parameters);
        return NULL;
    }
    if (json_object_set_new(definitions, number, parameters) != 0)
        return NULL;
    return json_pack("{s:s, s:{s:{s:s}, s:{s:s}}, s:[s, s], s:b}", "type", "object", "properties", "name",
                     "const", name_of(tool), "arguments", "$ref", ref, "required", "name", "arguments",
                     "additionalProperties", 0);
}

static json_t *schema_of_all(const json_t *tools, const char *name)
{
    size_t i;
    const json_t *tool;
    json_t *list = json_array(), *definitions = json_object(), *whole = NULL;
    bool good = list && definitions;
    json_array_foreach(tools, i, tool)
    {
        if (good && (!name || !strcmp(name, name_of(tool))))
            good = json_array_append_new(list, schema_of(tool, i, definitions)) == 0;
    }
    if (good && json_array_size(list) == 1)
        whole = json_incref(json_array_get(list, 0));
    else if (good && json_array_size(list) > 1)
        whole = json_pack("{s:O}", "anyOf", list);
    if (whole && json_object_set(whole, "$defs", definitions) != 0) {
        json_decref(whole);
        whole = NULL;
    }
    json_decref(list);
    json_decref(definitions);
    return whole;
}

bool hd_openai_force_call(struct hd_openai_request *r, const json_t *body)
{
    const char *name;
    enum hd_tool_choice choice;
    const json_t *tools = json_object_get(body, "tools"), *tool;
    size_t i;
    if (!r->tools || !read_choice(r, json_object_get(body, "tool_choice"), &choice, &name) ||
        choice != HD_TOOLS_FORCED)
        return r->status == 0;
    bool known = name == NULL;
    json_array_foreach(tools, i, tool) known = known || !strcmp(name, name_of(tool));
    if (!known)
        return hd_openai_wrong(r, "tool_choice", "tool_choice: no tool has that name");
    errno = 0;
    json_t *schema = schema_of_all(tools, name);
    if (!schema && errno == ENOMEM)
        return hd_openai_no_memory(r);
    if (!schema)
        return hd_openai_wrong(r, "tools", "tools: a schema is too deep, or a $ref too long");
    r->job->grammar = hd_openai_spell(schema);
    json_decref(schema);
    if (!r->job->grammar)
        return hd_openai_no_memory(r);
    r->job->grammar_len_bytes = strlen(r->job->grammar);
    r->job->grammar_type = HEARTH_GRAMMAR_JSON_SCHEMA;
    r->called = true;
    return hd_openai_add_message(r, HEARTH_ROLE_CALLS, "", 0);
}
