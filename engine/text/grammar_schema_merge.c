// SPDX-License-Identifier: Apache-2.0
// Schemas that hold together (allOf, keywords beside $ref or anyOf), and schemas that exclude each other (oneOf).
// Owned by one thread.
#include <string.h>

#include "engine/text/grammar_schema.h"

enum { MAX_MADE = 4096, MAX_HOPS = 32, MAX_COMPARED = 1 << 20 };

static json_t *keep(struct ht_schema_reader *r, json_t *schema)
{
    if (!schema || json_array_append_new(r->made, schema)) {
        ht_schema_fail(r, HEARTH_NOMEM, "out of memory");
        return NULL;
    }
    if (json_array_size(r->made) > MAX_MADE) {
        ht_schema_fail(r, HEARTH_LIMIT, "more than %d schemas come from putting others together", MAX_MADE);
        return NULL;
    }
    return schema;
}

bool ht_schema_is_annotation(const char *keyword)
{
    static const char *const all[] = {"title",      "description", "default",   "examples",
                                      "deprecated", "readOnly",    "writeOnly", "$comment",
                                      "$schema",    "$id",         "$defs",     "definitions"};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (!strcmp(keyword, all[i]))
            return true;
    return false;
}

static bool is_ref_only(json_t *schema)
{
    const char *key;
    json_t *value;
    json_object_foreach(schema, key,
                        value) if (strcmp(key, "$ref") && !ht_schema_is_annotation(key)) return false;
    return true;
}

// ---- $ref: "#" or a JSON pointer into the same text

static json_t *child_of(json_t *at, const char *token)
{
    if (json_is_object(at))
        return json_object_get(at, token);
    size_t index = 0, n = strlen(token);
    if (!json_is_array(at) || !n || n > 6 || strspn(token, "0123456789") != n)
        return NULL;
    for (; *token; token++)
        index = index * 10 + (size_t)(*token - '0');
    return json_array_get(at, index);
}

json_t *ht_schema_resolve(struct ht_schema_reader *r, const json_t *ref)
{
    char token[128];
    const char *s = json_string_value(ref);
    json_t *at = r->root;
    if (!s || s[0] != '#' || (s[1] && s[1] != '/')) {
        ht_schema_fail(r, s ? HEARTH_UNSUPPORTED : HEARTH_INVALID,
                       s ? "only a `$ref` to \"#\" or \"#/…\" is supported" : "`$ref` is no string");
        return NULL;
    }
    for (s++; at && *s == '/';) {
        size_t n = 0;
        for (s++; *s && *s != '/' && n < sizeof token - 1; s++)
            if (*s == '~' && (s[1] == '0' || s[1] == '1'))
                token[n++] = *++s == '0' ? '~' : '/';
            else
                token[n++] = *s;
        token[n] = 0;
        at = *s && *s != '/' ? NULL : child_of(at, token);
    }
    if (!at)
        ht_schema_fail(r, HEARTH_INVALID, "`$ref` points to nothing");
    return at;
}

json_t *ht_schema_without(struct ht_schema_reader *r, json_t *schema, const char *keyword)
{
    json_t *copy = keep(r, json_copy(schema));
    if (copy)
        json_object_del(copy, keyword);
    return copy;
}

// The schema itself, with $ref and allOf taken in.
static json_t *flat(struct ht_schema_reader *r, json_t *schema)
{
    for (int hops = 0; schema && json_is_object(schema); hops++) {
        json_t *ref = json_object_get(schema, "$ref"), *all = json_object_get(schema, "allOf");
        if (!ref && !all)
            return schema;
        if (hops == MAX_HOPS) {
            ht_schema_fail(r, HEARTH_LIMIT, "`$ref` and `allOf` lead on more than %d times", MAX_HOPS);
            return NULL;
        }
        if (ref) {
            json_t *to = ht_schema_resolve(r, ref);
            schema = !to || is_ref_only(schema)
                         ? to
                         : ht_schema_merge(r, to, ht_schema_without(r, schema, "$ref"));
            continue;
        }
        if (!json_is_array(all)) {
            ht_schema_fail(r, HEARTH_INVALID, "`allOf` is no list");
            return NULL;
        }
        json_t *part, *sum = ht_schema_without(r, schema, "allOf");
        size_t i;
        json_array_foreach(all, i, part) sum = sum ? ht_schema_merge(r, sum, part) : NULL;
        schema = sum;
    }
    return schema;
}

// ---- putting two together

static bool listed(const json_t *list, const json_t *value)
{
    for (size_t i = 0; i < json_array_size(list); i++)
        if (json_equal(json_array_get(list, i), value))
            return true;
    return false;
}

static json_t *as_list(json_t *value) // a new reference
{
    return json_is_array(value) ? json_incref(value) : json_pack("[O]", value);
}

// Values of both lists (`type`: number takes in integer).
static json_t *common(json_t *a, json_t *b, bool types)
{
    json_t *x = as_list(a), *y = as_list(b), *out = json_array(), *value;
    size_t i;
    json_array_foreach(x, i, value)
    {
        const char *name = json_string_value(value);
        json_t *number = json_string("number"), *integer = json_string("integer");
        if (listed(y, value) || (types && name && !strcmp(name, "integer") && listed(y, number)))
            json_array_append(out, value);
        else if (types && name && !strcmp(name, "number") && listed(y, integer))
            json_array_append(out, integer);
        json_decref(number);
        json_decref(integer);
    }
    json_decref(x);
    json_decref(y);
    return out;
}

static json_t *both(json_t *a, json_t *b)
{
    json_t *out = json_copy(a), *value;
    size_t i;
    json_array_foreach(b, i, value) if (!listed(a, value)) json_array_append(out, value);
    return out;
}

static bool closes(const json_t *schema)
{
    const json_t *more = json_object_get(schema, "additionalProperties");
    return more && !json_is_true(more);
}

static bool has_other_names(const json_t *a, json_t *b)
{
    const json_t *names = json_object_get(a, "properties");
    const char *key;
    json_t *value;
    json_object_foreach(json_object_get(b, "properties"), key,
                        value) if (!json_object_get(names, key)) return true;
    return false;
}

static json_t *merge_properties(struct ht_schema_reader *r, json_t *a, json_t *b)
{
    json_t *out = json_copy(a), *value;
    const char *key;
    json_object_foreach(b, key, value)
    {
        json_t *mine = json_object_get(a, key), *merged = mine ? ht_schema_merge(r, mine, value) : value;
        if (!merged || !out || json_object_set(out, key, merged)) {
            json_decref(out);
            return NULL;
        }
    }
    return out;
}

// One keyword that both have, with different values. A new reference, NULL: failed.
static json_t *merge_keyword(struct ht_schema_reader *r, const char *key, json_t *a, json_t *b)
{
    if (json_array_size(a) * json_array_size(b) > MAX_COMPARED) {
        ht_schema_fail(r, HEARTH_LIMIT, "lists too long to be put together");
        return NULL;
    }
    static const char *const largest[] = {"minimum", "exclusiveMinimum", "minLength", "minItems"},
                             *const smallest[] = {"maximum", "exclusiveMaximum", "maxLength", "maxItems"};
    for (size_t i = 0; json_is_number(a) && json_is_number(b) && i < 4; i++)
        if (!strcmp(key, largest[i]) || !strcmp(key, smallest[i])) {
            bool first = json_number_value(a) > json_number_value(b);
            return json_incref(first == !strcmp(key, largest[i]) ? a : b);
        }
    if (!strcmp(key, "type") || (!strcmp(key, "enum") && json_is_array(a) && json_is_array(b))) {
        json_t *out = common(a, b, key[0] == 't');
        if (json_array_size(out))
            return out;
        json_decref(out);
        ht_schema_fail(r, HEARTH_INVALID, "no value holds for all of `allOf`");
        return NULL;
    }
    if (!strcmp(key, "required") && json_is_array(a) && json_is_array(b))
        return both(a, b);
    if (!strcmp(key, "properties") && json_is_object(a) && json_is_object(b))
        return merge_properties(r, a, b);
    if (!strcmp(key, "items"))
        return json_incref(ht_schema_merge(r, a, b));
    if (!strcmp(key, "additionalProperties") && (json_is_false(a) || json_is_true(b)))
        return json_incref(a);
    if (!strcmp(key, "additionalProperties") && (json_is_false(b) || json_is_true(a)))
        return json_incref(b);
    ht_schema_fail(r, HEARTH_UNSUPPORTED,
                   "two different values of one keyword in `allOf` (or beside `$ref`, `anyOf`)");
    return NULL;
}

json_t *ht_schema_merge(struct ht_schema_reader *r, json_t *a, json_t *b)
{
    if (!ht_schema_ok(r) || !a || !b)
        return NULL;
    if (r->nesting >= HT_MAX_GRAMMAR_NESTING) {
        ht_schema_fail(r, HEARTH_LIMIT, "schemas are nested more than %d deep", HT_MAX_GRAMMAR_NESTING);
        return NULL;
    }
    r->nesting++;
    a = flat(r, a);
    b = a ? flat(r, b) : NULL;
    json_t *out = NULL;
    if (b && (json_is_true(a) || json_is_false(b)))
        out = b;
    else if (b && (json_is_true(b) || json_is_false(a)))
        out = a;
    else if (b && (!json_is_object(a) || !json_is_object(b)))
        ht_schema_fail(r, HEARTH_INVALID, "a schema is neither an object nor true or false");
    else if (b && ((closes(a) && has_other_names(a, b)) || (closes(b) && has_other_names(b, a))))
        ht_schema_fail(r, HEARTH_UNSUPPORTED,
                       "`additionalProperties` and properties of another schema in `allOf`");
    else if (b && (out = keep(r, json_copy(a))) != NULL) {
        const char *key;
        json_t *value;
        json_object_foreach(b, key, value)
        {
            json_t *mine = json_object_get(a, key), *merged;
            if (mine && (json_equal(mine, value) || ht_schema_is_annotation(key)))
                continue;
            merged = mine ? merge_keyword(r, key, mine, value) : json_incref(value);
            if (!merged || json_object_set_new(out, key, merged)) {
                ht_schema_fail(r, HEARTH_NOMEM, "out of memory"); // unless it has failed already
                out = NULL;
                break;
            }
        }
    }
    r->nesting--;
    return out;
}

// ---- oneOf: can a value hold for both?

unsigned ht_schema_types(struct ht_schema_reader *r, const json_t *schema)
{
    static const char *const names[] = {"null", "boolean", "integer", "number", "string", "array", "object"};
    static const struct {
        const char *keyword;
        unsigned type;
    } hints[] = {{"properties", HT_JSON_OBJECT},
                 {"required", HT_JSON_OBJECT},
                 {"additionalProperties", HT_JSON_OBJECT},
                 {"items", HT_JSON_ARRAY},
                 {"prefixItems", HT_JSON_ARRAY},
                 {"minItems", HT_JSON_ARRAY},
                 {"maxItems", HT_JSON_ARRAY},
                 {"additionalItems", HT_JSON_ARRAY},
                 {"minLength", HT_JSON_STRING},
                 {"maxLength", HT_JSON_STRING},
                 {"pattern", HT_JSON_STRING},
                 {"format", HT_JSON_STRING},
                 {"minimum", HT_JSON_NUMBER},
                 {"maximum", HT_JSON_NUMBER},
                 {"exclusiveMinimum", HT_JSON_NUMBER},
                 {"exclusiveMaximum", HT_JSON_NUMBER}};
    json_t *type = json_object_get(schema, "type");
    unsigned types = 0;
    if (!type) {
        for (size_t i = 0; i < sizeof hints / sizeof *hints; i++)
            if (json_object_get(schema, hints[i].keyword))
                types |= hints[i].type;
        return types ? types : HT_JSON_ALL;
    }
    size_t n = json_is_array(type) ? json_array_size(type) : 1;
    for (size_t i = 0; i < n; i++) {
        const char *name = json_string_value(json_is_array(type) ? json_array_get(type, i) : type);
        unsigned k = 0;
        while (name && k < 7 && strcmp(name, names[k]))
            k++;
        if (!name || k == 7) {
            ht_schema_fail(r, HEARTH_INVALID, "an unknown `type`");
            return 0;
        }
        types |= 1u << k;
    }
    if (!types)
        ht_schema_fail(r, HEARTH_INVALID, "`type` lists none");
    return types & HT_JSON_NUMBER ? types & ~(unsigned)HT_JSON_INTEGER : types;
}

static unsigned type_of(const json_t *value)
{
    static const unsigned types[] = {
        [JSON_OBJECT] = HT_JSON_OBJECT,   [JSON_ARRAY] = HT_JSON_ARRAY, [JSON_STRING] = HT_JSON_STRING,
        [JSON_INTEGER] = HT_JSON_INTEGER, [JSON_REAL] = HT_JSON_NUMBER, [JSON_TRUE] = HT_JSON_BOOLEAN,
        [JSON_FALSE] = HT_JSON_BOOLEAN,   [JSON_NULL] = HT_JSON_NULL};
    return types[json_typeof(value)];
}

static json_t *values_of(const json_t *schema) // a new list, or NULL
{
    json_t *value = json_object_get(schema, "const"), *list = json_object_get(schema, "enum");
    return value ? json_pack("[O]", value) : json_is_array(list) ? json_incref(list) : NULL;
}

// Types of the values that a schema allows; integer counts as number.
static unsigned reach(struct ht_schema_reader *r, const json_t *schema)
{
    json_t *values = values_of(schema);
    unsigned types = 0;
    for (size_t i = 0; i < json_array_size(values); i++)
        types |= type_of(json_array_get(values, i));
    if (!values)
        types = ht_schema_types(r, schema);
    json_decref(values);
    return types & HT_JSON_INTEGER ? types | HT_JSON_NUMBER : types;
}

// Numbers are compared as such: 1 and 1.0 are one value.
static bool same_value(const json_t *x, const json_t *y)
{
    if (json_is_number(x) && json_is_number(y))
        return json_number_value(x) == json_number_value(y);
    return json_equal(x, y);
}

static bool share_value(const json_t *x, const json_t *y)
{
    if (json_array_size(x) * json_array_size(y) > MAX_COMPARED)
        return true;
    for (size_t i = 0; i < json_array_size(x); i++)
        for (size_t k = 0; k < json_array_size(y); k++) {
            const json_t *a = json_array_get(x, i), *b = json_array_get(y, k);
            if (same_value(a, b) ||
                ((json_is_object(a) || json_is_array(a)) && json_typeof(a) == json_typeof(b)))
                return true; // numbers inside of these are not looked at
        }
    return false;
}

static bool objects_disjoint(struct ht_schema_reader *r, json_t *a, json_t *b, unsigned depth)
{
    json_t *name;
    size_t i;
    json_array_foreach(json_object_get(a, "required"), i, name)
    {
        const char *key = json_string_value(name);
        json_t *mine = json_object_get(json_object_get(a, "properties"), key),
               *other = json_object_get(json_object_get(b, "properties"), key);
        if (mine && other && ht_schema_disjoint(r, mine, other, depth + 1))
            return true; // where b has the key, its value is another
        if (key && !other && json_is_false(json_object_get(b, "additionalProperties")))
            return true;
    }
    return false;
}

bool ht_schema_disjoint(struct ht_schema_reader *r, json_t *a, json_t *b, unsigned depth)
{
    a = depth > 8 ? NULL : flat(r, a);
    b = a ? flat(r, b) : NULL;
    if (!b || !json_is_object(a) || !json_is_object(b) || json_object_get(a, "anyOf") ||
        json_object_get(b, "anyOf") || json_object_get(a, "oneOf") || json_object_get(b, "oneOf"))
        return false;
    unsigned common_types = reach(r, a) & reach(r, b);
    if (!common_types)
        return ht_schema_ok(r);
    json_t *x = values_of(a), *y = values_of(b);
    bool apart = x && y && !share_value(x, y);
    json_decref(x);
    json_decref(y);
    if (apart)
        return true;
    return common_types == HT_JSON_OBJECT &&
           (objects_disjoint(r, a, b, depth) || objects_disjoint(r, b, a, depth));
}
