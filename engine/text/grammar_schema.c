// SPDX-License-Identifier: Apache-2.0
// From a JSON schema to expressions. What is not understood is refused by name; annotations are passed over. Answers
// are a part of what the schema allows: properties come in the order in which they are listed, others only where
// additionalProperties says so, and where JSON allows blanks there is at most one. Messages name places by position,
// never by a name of the schema's author. Owned by one thread.
#include "engine/text/grammar_schema.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/json_read.h"
#include "engine/base/mem.h"

enum { MAX_TUPLE = 64, MAX_MEMBERS = 2048, MAX_ONE_OF = 256 };

static ht_expr convert(struct ht_schema_reader *r, json_t *schema);

bool ht_schema_ok(const struct ht_schema_reader *r)
{
    return r->b.status == HEARTH_OK;
}

ht_expr ht_schema_fail(struct ht_schema_reader *r, enum hearth_status code, const char *format, ...)
{
    char what[160], place[128] = "#";
    size_t n = 1;
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    for (unsigned i = 0; i < r->n_path && n < sizeof place - 48; i++) {
        n += (size_t)snprintf(place + n, sizeof place - n, "/%s", r->path[i].keyword);
        if (r->path[i].index != SIZE_MAX)
            n += (size_t)snprintf(place + n, sizeof place - n, "[%zu]", r->path[i].index);
    }
    ht_builder_fail(&r->b, code, "JSON schema, at %s: %s", place, what);
    return 0;
}

static ht_expr seq(struct ht_schema_reader *r, ht_expr a, ht_expr b)
{
    return ht_expr_seq(&r->b, a, b);
}

static ht_expr text(struct ht_schema_reader *r, const char *bytes)
{
    return ht_expr_text(&r->b, bytes);
}

ht_expr ht_schema_blank(struct ht_schema_reader *r)
{
    static const struct ht_char_range blank[] = {{' ', ' '}, {'\n', '\n'}};
    return ht_expr_optional(&r->b, ht_expr_chars(&r->b, blank, 2, false));
}

// "," and a blank, then e.
static ht_expr after_comma(struct ht_schema_reader *r, ht_expr e)
{
    return seq(r, seq(r, text(r, ","), ht_schema_blank(r)), e);
}

static ht_expr many(struct ht_schema_reader *r, ht_expr e, uint32_t min, uint32_t max)
{
    return ht_expr_repeat(&r->b, e, min, max);
}

// A rule of its own for e, so that it can stand in several places.
static uint32_t as_rule(struct ht_schema_reader *r, ht_expr e)
{
    uint32_t rule = ht_rule_new(&r->b, NULL, 0);
    ht_rule_set(&r->b, rule, e);
    return rule;
}

static ht_expr call(struct ht_schema_reader *r, uint32_t rule)
{
    return ht_expr_rule(&r->b, rule);
}

// Schema of a place below this one.
static ht_expr convert_at(struct ht_schema_reader *r, const char *keyword, size_t index, json_t *schema)
{
    if (r->n_path == HT_SCHEMA_PATH)
        return ht_schema_fail(r, HEARTH_LIMIT, "schemas are nested too deep");
    r->path[r->n_path].keyword = keyword;
    r->path[r->n_path++].index = index;
    ht_expr e = convert(r, schema);
    if (ht_schema_ok(r)) // the place of a failure stays
        r->n_path--;
    return e;
}

// ---- any value

static ht_expr brackets(struct ht_schema_reader *r, const char *open, ht_expr inner, const char *close)
{
    ht_expr content = ht_expr_optional(&r->b, seq(r, inner, ht_schema_blank(r)));
    return seq(r, seq(r, seq(r, text(r, open), ht_schema_blank(r)), content), text(r, close));
}

static ht_expr any_object(struct ht_schema_reader *r)
{
    uint32_t string = ht_schema_string_rule(r);
    ht_expr pair =
        seq(r, seq(r, seq(r, call(r, string), text(r, ":")), ht_schema_blank(r)), call(r, r->value));
    uint32_t member = as_rule(r, pair);
    return brackets(r, "{", seq(r, call(r, member), many(r, after_comma(r, call(r, member)), 0, HT_NO_END)),
                    "}");
}

static ht_expr any_array(struct ht_schema_reader *r)
{
    ht_expr more = many(r, after_comma(r, call(r, r->value)), 0, HT_NO_END);
    return brackets(r, "[", seq(r, call(r, r->value), more), "]");
}

static ht_expr any_value(struct ht_schema_reader *r)
{
    if (!r->value) {
        struct ht_builder *b = &r->b;
        r->value = ht_rule_new(b, "value", 5);
        ht_expr all = ht_expr_alt(b, any_object(r), any_array(r));
        all = ht_expr_alt(b, all, call(r, ht_schema_string_rule(r)));
        all = ht_expr_alt(b, all, ht_schema_number(r, NULL));
        all = ht_expr_alt(b, ht_expr_alt(b, all, text(r, "true")), text(r, "false"));
        ht_rule_set(b, r->value, ht_expr_alt(b, all, text(r, "null")));
    }
    return call(r, r->value);
}

// ---- const and enum: the value as compact JSON

static ht_expr constant(struct ht_schema_reader *r, const json_t *value)
{
    char number[32];
    if (json_is_real(value)) {
        ht_schema_print_real(json_real_value(value), number, sizeof number);
        return text(r, number);
    }
    size_t flags = JSON_ENCODE_ANY | JSON_COMPACT, n = json_dumpb(value, NULL, 0, flags);
    char *bytes = n ? ht_calloc(n, 1) : NULL;
    ht_expr e = 0;
    if (bytes && json_dumpb(value, bytes, n, flags) == n)
        e = ht_expr_literal(&r->b, bytes, n);
    else
        ht_schema_fail(r, HEARTH_NOMEM, "out of memory");
    ht_free(bytes);
    return e;
}

static bool has_type(const json_t *value, unsigned types)
{
    switch (json_typeof(value)) {
    case JSON_NULL: return types & HT_JSON_NULL;
    case JSON_TRUE:
    case JSON_FALSE: return types & HT_JSON_BOOLEAN;
    case JSON_INTEGER: return types & (HT_JSON_INTEGER | HT_JSON_NUMBER);
    case JSON_REAL: return types & HT_JSON_NUMBER;
    case JSON_STRING: return types & HT_JSON_STRING;
    case JSON_ARRAY: return types & HT_JSON_ARRAY;
    default: return types & HT_JSON_OBJECT;
    }
}

static ht_expr constants(struct ht_schema_reader *r, json_t *schema)
{
    json_t *one = json_object_get(schema, "const"), *list = json_object_get(schema, "enum"), *value;
    const char *key;
    json_object_foreach(
        schema, key,
        value) if (strcmp(key, "const") && strcmp(key, "enum") && strcmp(key, "type") &&
                   !ht_schema_is_annotation(
                       key)) return ht_schema_fail(r, HEARTH_UNSUPPORTED,
                                                   "`enum` or `const` beside other keywords than `type`");
    unsigned types = ht_schema_types(r, schema);
    ht_expr all = ht_expr_nothing(&r->b);
    if (list && !json_is_array(list))
        return ht_schema_fail(r, HEARTH_INVALID, "`enum` is no list");
    size_t n = list ? json_array_size(list) : 1;
    bool any = false;
    for (size_t i = 0; i < n && ht_schema_ok(r); i++) {
        value = list ? json_array_get(list, i) : one;
        if ((list && one && !json_equal(value, one)) || !has_type(value, types))
            continue;
        any = true;
        all = ht_expr_alt(&r->b, all, constant(r, value));
    }
    return any ? all : ht_schema_fail(r, HEARTH_INVALID, "no value is allowed");
}

// ---- objects

struct member {
    const char *name;
    json_t *schema;
    bool required;
    size_t index; // among the properties, SIZE_MAX = required only
};

// Properties as listed, then required ones that are not listed. NULL: failed.
static struct member *list_members(struct ht_schema_reader *r, json_t *schema, size_t *n)
{
    json_t *properties = json_object_get(schema, "properties"),
           *required = json_object_get(schema, "required"),
           *more = json_object_get(schema, "additionalProperties"), *value;
    const char *key;
    size_t i;
    *n = 0;
    if ((properties && !json_is_object(properties)) || (required && !json_is_array(required))) {
        ht_schema_fail(r, HEARTH_INVALID, "`properties` is no object, or `required` no list");
        return NULL;
    }
    if (json_object_size(properties) > MAX_MEMBERS || json_array_size(required) > MAX_MEMBERS) {
        ht_schema_fail(r, HEARTH_LIMIT, "more than %d properties", MAX_MEMBERS);
        return NULL;
    }
    struct member *members =
        ht_calloc(json_object_size(properties) + json_array_size(required) + 1, sizeof *members);
    if (!members) {
        ht_schema_fail(r, HEARTH_NOMEM, "out of memory");
        return NULL;
    }
    json_object_foreach(properties, key, value)
    {
        members[*n] = (struct member){.name = key, .schema = value, .index = *n};
        ++*n;
    }
    json_array_foreach(required, i, value)
    {
        const char *name = json_string_value(value);
        size_t k = 0, listed = *n;
        if (!name)
            ht_schema_fail(r, HEARTH_INVALID, "`required` holds something that is no name");
        while (name && k < listed && strcmp(members[k].name, name))
            k++;
        if (k == listed && name && json_is_false(more))
            ht_schema_fail(r, HEARTH_INVALID, "a required property is not allowed by `additionalProperties`");
        if (k == listed && name)
            members[(*n)++] =
                (struct member){.name = name, .schema = more ? more : json_true(), .index = SIZE_MAX};
        if (name)
            members[k].required = true;
    }
    return members;
}

static ht_expr pair(struct ht_schema_reader *r, const struct member *m)
{
    json_t *name = json_string(m->name);
    ht_expr key = name ? constant(r, name) : ht_schema_fail(r, HEARTH_NOMEM, "out of memory");
    json_decref(name);
    ht_expr value = m->index == SIZE_MAX ? convert_at(r, "required", SIZE_MAX, m->schema)
                                         : convert_at(r, "properties", m->index, m->schema);
    return seq(r, seq(r, seq(r, key, text(r, ":")), ht_schema_blank(r)), value);
}

struct others {
    bool allowed;
    uint32_t rule; // one pair that is not listed
};

// What may follow the members: others, and the blank before the bracket. `first`: nothing stands before.
static ht_expr other_members(struct ht_schema_reader *r, const struct others *o, bool first)
{
    if (!o->allowed)
        return first ? 0 : ht_schema_blank(r);
    ht_expr more = seq(r, many(r, after_comma(r, call(r, o->rule)), 0, HT_NO_END), ht_schema_blank(r));
    return first ? ht_expr_optional(&r->b, seq(r, call(r, o->rule), more)) : more;
}

// From the last member to the first: rules for "what comes from member i on", when something stands before it and when
// nothing does.
static ht_expr members(struct ht_schema_reader *r, const struct member *m, size_t n,
                       const struct others *others)
{
    struct ht_builder *b = &r->b;
    bool may_be_first = true; // no required member stands before i
    size_t first_required = n;
    for (size_t i = 0; i < n && may_be_first; i++)
        if (m[i].required) {
            first_required = i;
            may_be_first = false;
        }
    uint32_t begun = as_rule(r, other_members(r, others, false)), fresh = 0;
    bool has_fresh = first_required == n;
    if (has_fresh)
        fresh = as_rule(r, other_members(r, others, true));
    for (size_t i = n; i-- > 0 && ht_schema_ok(r);) {
        uint32_t one = as_rule(r, seq(r, pair(r, &m[i]), call(r, begun)));
        if (i <= first_required) { // nothing may stand before
            ht_expr here = call(r, one);
            fresh = as_rule(r, m[i].required ? here : ht_expr_alt(b, here, call(r, fresh)));
        }
        ht_expr here = after_comma(r, call(r, one));
        begun = as_rule(r, m[i].required ? here : ht_expr_alt(b, here, call(r, begun)));
    }
    return call(r, fresh);
}

static ht_expr object(struct ht_schema_reader *r, json_t *schema)
{
    json_t *more = json_object_get(schema, "additionalProperties"),
           *properties = json_object_get(schema, "properties");
    size_t n;
    struct member *list = list_members(r, schema, &n);
    if (!list)
        return 0;
    struct others others = {.allowed = more ? !json_is_false(more) : !properties};
    if (others.allowed && !n && (!more || json_is_true(more))) {
        ht_free(list);
        any_value(r);
        return ht_schema_ok(r) ? any_object(r) : 0;
    }
    if (others.allowed) {
        json_t *names = json_object(); // listed and required
        for (size_t i = 0; i < n; i++)
            json_object_set(names, list[i].name, list[i].schema);
        ht_expr key =
            names ? ht_schema_other_key(r, names) : ht_schema_fail(r, HEARTH_NOMEM, "out of memory");
        json_decref(names);
        key = seq(r, seq(r, key, text(r, ":")), ht_schema_blank(r));
        others.rule = as_rule(
            r, seq(r, key, convert_at(r, "additionalProperties", SIZE_MAX, more ? more : json_true())));
    }
    ht_expr inner = members(r, list, n, &others);
    ht_free(list);
    return seq(r, seq(r, text(r, "{"), ht_schema_blank(r)), seq(r, inner, text(r, "}")));
}

// ---- arrays

static bool count(struct ht_schema_reader *r, const json_t *schema, const char *keyword, uint32_t *out)
{
    const json_t *value = json_object_get(schema, keyword);
    if (!value)
        return true;
    double v = json_number_value(value);
    if (!json_is_number(value) || v < 0 || v != floor(v))
        return ht_schema_fail(r, HEARTH_INVALID, "`%s` is no count", keyword), false;
    bool far = v > HT_MAX_GRAMMAR_REPEAT;
    if (far && !strcmp(keyword, "minItems"))
        return ht_schema_fail(r, HEARTH_LIMIT, "`%s` is more than %d", keyword, HT_MAX_GRAMMAR_REPEAT), false;
    *out = far ? HT_NO_END : (uint32_t)v;
    return true;
}

// Items behind the first n_before ones, each after a comma.
static ht_expr further_items(struct ht_schema_reader *r, uint32_t item, uint32_t n_before, uint32_t min,
                             uint32_t max)
{
    min = min > n_before ? min - n_before : 0;
    if (max != HT_NO_END)
        max = max > n_before ? max - n_before : 0;
    return max ? many(r, after_comma(r, call(r, item)), min, max) : 0;
}

static ht_expr tuple(struct ht_schema_reader *r, json_t *prefix, uint32_t item, uint32_t min, uint32_t max)
{
    size_t n = json_array_size(prefix);
    if (n > MAX_TUPLE)
        return ht_schema_fail(r, HEARTH_LIMIT, "`prefixItems` has more than %d entries", MAX_TUPLE);
    if (n > max)
        n = max;
    ht_expr all = further_items(r, item, (uint32_t)n, min, max);
    for (size_t i = n; i-- > 0 && ht_schema_ok(r);) {
        if (i + 1 < n) {
            all = after_comma(r, all);
            if (min <= i + 1)
                all = ht_expr_optional(&r->b, all);
        }
        all = seq(r, convert_at(r, "prefixItems", i, json_array_get(prefix, i)), all);
    }
    return all;
}

static ht_expr array(struct ht_schema_reader *r, json_t *schema)
{
    json_t *items = json_object_get(schema, "items"), *prefix = json_object_get(schema, "prefixItems");
    const json_t *unique = json_object_get(schema, "uniqueItems");
    uint32_t min = 0, max = HT_NO_END, item = 0;
    if (unique && !json_is_false(unique))
        return ht_schema_fail(r, HEARTH_UNSUPPORTED, "`uniqueItems` is not supported");
    if (json_is_array(items)) { // draft 7 spells tuples like this
        prefix = items;
        items = json_object_get(schema, "additionalItems");
    }
    if (prefix && !json_is_array(prefix))
        return ht_schema_fail(r, HEARTH_INVALID, "`prefixItems` is no list");
    if (!count(r, schema, "minItems", &min) || !count(r, schema, "maxItems", &max))
        return 0;
    uint32_t n = (uint32_t)json_array_size(prefix);
    if (json_is_false(items) || (!items && prefix && min <= n))
        max = max < n ? max : n;
    if (max < min)
        return ht_schema_fail(r, HEARTH_INVALID, "more items are asked for than allowed");
    if (max == 0)
        return seq(r, seq(r, text(r, "["), ht_schema_blank(r)), text(r, "]"));
    if (max > n)
        item = as_rule(r, convert_at(r, "items", SIZE_MAX, items ? items : json_true()));
    ht_expr inner;
    if (n)
        inner = tuple(r, prefix, item, min, max);
    else
        inner = seq(r, call(r, item), further_items(r, item, 1, min, max));
    if (!min)
        return brackets(r, "[", inner, "]");
    return seq(r, seq(r, seq(r, text(r, "["), ht_schema_blank(r)), seq(r, inner, ht_schema_blank(r))),
               text(r, "]"));
}

// ---- alternatives and references

static ht_expr alternatives(struct ht_schema_reader *r, json_t *schema, const char *keyword)
{
    json_t *list = json_object_get(schema, keyword), *base = ht_schema_without(r, schema, keyword), *value;
    const char *key;
    bool beside = false;
    size_t i, k;
    if (!base)
        return 0;
    if (!json_is_array(list) || !json_array_size(list))
        return ht_schema_fail(r, HEARTH_INVALID, "`%s` is no list of schemas", keyword);
    if (keyword[0] == 'o' && json_array_size(list) > MAX_ONE_OF)
        return ht_schema_fail(r, HEARTH_LIMIT, "`oneOf` has more than %d schemas", MAX_ONE_OF);
    json_object_foreach(base, key, value) beside |= !ht_schema_is_annotation(key);
    ht_expr all = ht_expr_nothing(&r->b);
    json_array_foreach(list, i, value)
    {
        for (k = 0; keyword[0] == 'o' && k < i && ht_schema_ok(r); k++)
            if (!ht_schema_disjoint(r, value, json_array_get(list, k), 0) && ht_schema_ok(r))
                return ht_schema_fail(
                    r, HEARTH_UNSUPPORTED,
                    "`oneOf` whose schemas %zu and %zu do not plainly exclude each other; use `anyOf`", k, i);
        json_t *one = beside ? ht_schema_merge(r, base, value) : value;
        if (!one)
            return 0;
        all = ht_expr_alt(&r->b, all, convert_at(r, keyword, i, one));
    }
    return all;
}

// A rule for what a $ref points to: recursion is allowed.
static ht_expr reference(struct ht_schema_reader *r, const json_t *ref)
{
    json_t *to = ht_schema_resolve(r, ref);
    for (uint32_t i = 0; to && i < r->n_refs; i++)
        if (r->refs[i].schema == to)
            return call(r, r->refs[i].rule);
    if (!to)
        return 0;
    if (r->n_refs == r->cap_refs) {
        if (!ht_grow((void **)&r->refs, r->n_refs, r->cap_refs * 2 + 16, sizeof *r->refs))
            return ht_schema_fail(r, HEARTH_NOMEM, "out of memory");
        r->cap_refs = r->cap_refs * 2 + 16;
    }
    const char *name = strrchr(json_string_value(ref), '/');
    uint32_t rule = ht_rule_new(&r->b, name ? name + 1 : "#", name ? strlen(name + 1) : 1);
    r->refs[r->n_refs++] = (struct ht_schema_ref){to, rule};
    ht_rule_set(&r->b, rule, convert_at(r, "$ref", SIZE_MAX, to));
    return call(r, rule);
}

// ---- one schema

#define WORD "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz$-_"

static void refuse_unknown(struct ht_schema_reader *r, json_t *schema)
{
    static const char *const known[] = {"type",
                                        "properties",
                                        "required",
                                        "additionalProperties",
                                        "items",
                                        "prefixItems",
                                        "additionalItems",
                                        "minItems",
                                        "maxItems",
                                        "enum",
                                        "const",
                                        "anyOf",
                                        "oneOf",
                                        "allOf",
                                        "$ref",
                                        "minLength",
                                        "maxLength",
                                        "pattern",
                                        "format",
                                        "minimum",
                                        "maximum",
                                        "exclusiveMinimum",
                                        "exclusiveMaximum",
                                        "uniqueItems"};
    static const char *const others[] = {"not",
                                         "if",
                                         "then",
                                         "else",
                                         "patternProperties",
                                         "propertyNames",
                                         "minProperties",
                                         "maxProperties",
                                         "dependentRequired",
                                         "dependentSchemas",
                                         "dependencies",
                                         "unevaluatedProperties",
                                         "unevaluatedItems",
                                         "contains",
                                         "minContains",
                                         "maxContains",
                                         "multipleOf",
                                         "$anchor",
                                         "$dynamicRef",
                                         "$dynamicAnchor",
                                         "$recursiveRef",
                                         "$recursiveAnchor",
                                         "$vocabulary",
                                         "contentMediaType",
                                         "contentEncoding",
                                         "contentSchema",
                                         "nullable",
                                         "discriminator",
                                         "id"};
    const char *key;
    json_t *value;
    json_object_foreach(schema, key, value)
    {
        bool found = ht_schema_is_annotation(key);
        for (size_t i = 0; i < sizeof known / sizeof *known && !found; i++)
            found = !strcmp(key, known[i]);
        for (size_t i = 0; i < sizeof others / sizeof *others && !found; i++)
            if (!strcmp(key, others[i]))
                ht_schema_fail(r, HEARTH_UNSUPPORTED, "keyword `%s` is not supported", others[i]);
        bool word = strlen(key) <= 32 && strspn(key, WORD) == strlen(key);
        if (!found)
            ht_schema_fail(r, HEARTH_UNSUPPORTED, word ? "unknown keyword `%s`" : "an unknown keyword", key);
    }
}

static ht_expr of_types(struct ht_schema_reader *r, json_t *schema, unsigned types)
{
    struct ht_builder *b = &r->b;
    if (types == HT_JSON_ALL)
        return any_value(r);
    ht_expr all = ht_expr_nothing(b);
    if (types & HT_JSON_OBJECT)
        all = ht_expr_alt(b, all, object(r, schema));
    if (types & HT_JSON_ARRAY)
        all = ht_expr_alt(b, all, array(r, schema));
    if (types & HT_JSON_STRING)
        all = ht_expr_alt(b, all, ht_schema_string(r, schema));
    if (types & HT_JSON_NUMBER)
        all = ht_expr_alt(b, all, ht_schema_number(r, schema));
    if (types & HT_JSON_INTEGER)
        all = ht_expr_alt(b, all, ht_schema_integer(r, schema));
    if (types & HT_JSON_BOOLEAN)
        all = ht_expr_alt(b, ht_expr_alt(b, all, text(r, "true")), text(r, "false"));
    if (types & HT_JSON_NULL)
        all = ht_expr_alt(b, all, text(r, "null"));
    return all;
}

static bool only_annotations(json_t *schema, const char *but)
{
    const char *key;
    json_t *value;
    json_object_foreach(schema, key,
                        value) if (strcmp(key, but) && !ht_schema_is_annotation(key)) return false;
    return true;
}

static ht_expr convert_object(struct ht_schema_reader *r, json_t *schema)
{
    refuse_unknown(r, schema);
    if (!ht_schema_ok(r))
        return 0;
    if (only_annotations(schema, ""))
        return any_value(r);
    const json_t *ref = json_object_get(schema, "$ref");
    if (ref && only_annotations(schema, "$ref"))
        return reference(r, ref);
    if (ref || json_object_get(schema, "allOf")) {
        json_t *flat = ht_schema_merge(r, schema, json_true());
        return flat ? convert(r, flat) : 0;
    }
    if (json_object_get(schema, "anyOf"))
        return alternatives(r, schema, "anyOf");
    if (json_object_get(schema, "oneOf"))
        return alternatives(r, schema, "oneOf");
    if (json_object_get(schema, "const") || json_object_get(schema, "enum"))
        return constants(r, schema);
    return of_types(r, schema, ht_schema_types(r, schema));
}

static ht_expr convert(struct ht_schema_reader *r, json_t *schema)
{
    if (!ht_schema_ok(r))
        return 0;
    if (json_is_true(schema))
        return any_value(r);
    if (json_is_false(schema))
        return ht_expr_nothing(&r->b);
    if (!json_is_object(schema))
        return ht_schema_fail(r, HEARTH_INVALID, "a schema is neither an object nor true or false");
    if (r->nesting >= HT_MAX_GRAMMAR_NESTING)
        return ht_schema_fail(r, HEARTH_LIMIT, "schemas are nested more than %d deep",
                              HT_MAX_GRAMMAR_NESTING);
    r->nesting++;
    ht_expr e = convert_object(r, schema);
    r->nesting--;
    return e;
}

static enum hearth_status parse(const char *text, size_t len_bytes, json_t **root, struct hearth_error *err)
{
    json_error_t error;
    size_t blank = 0;
    errno = 0;
    while (blank < len_bytes && strchr(" \t\r\n", text[blank]) && text[blank])
        blank++;
    *root = blank == len_bytes ? json_object()
                               : ht_json_read(text, len_bytes, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &error);
    bool no_memory = errno == ENOMEM || (!*root && blank == len_bytes);
    if (*root)
        return HEARTH_OK;
    if (no_memory)
        return ht_fail(err, HEARTH_NOMEM, "out of memory for a JSON schema");
    return ht_fail(err, HEARTH_INVALID, "JSON schema: line %d, column %d: this is no valid JSON", error.line,
                   error.column);
}

enum hearth_status ht_grammar_from_json_schema(struct ht_grammar **grammar, const char *text,
                                               size_t len_bytes, struct hearth_error *err)
{
    *grammar = NULL;
    if (len_bytes > HT_MAX_GRAMMAR_BYTES)
        return ht_fail(err, HEARTH_LIMIT, "the JSON schema has %zu bytes, at most %d are allowed", len_bytes,
                       HT_MAX_GRAMMAR_BYTES);
    struct ht_schema_reader *r = ht_calloc(1, sizeof *r);
    if (!r)
        return ht_fail(err, HEARTH_NOMEM, "out of memory for a JSON schema");
    ht_builder_init(&r->b, err);
    enum hearth_status status = parse(text, len_bytes, &r->root, err);
    if (status == HEARTH_OK) {
        size_t losses = ht_json_losses();
        r->made = json_array();
        uint32_t root = ht_rule_new(&r->b, "#", 1);
        ht_rule_set(&r->b, root, convert(r, r->root));
        if (ht_json_losses() == losses) {
            status = ht_grammar_compile(grammar, &r->b, root, err);
        } else { // a merged schema may lack something, and mean another one
            status = ht_fail(err, HEARTH_NOMEM, "out of memory for a JSON schema");
        }
    }
    ht_builder_free(&r->b);
    ht_free(r->refs);
    json_decref(r->made);
    json_decref(r->root);
    ht_free(r);
    return status;
}
