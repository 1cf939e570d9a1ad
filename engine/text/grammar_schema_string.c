// SPDX-License-Identifier: Apache-2.0
// Strings of JSON schemas: lengths, patterns, formats; keys that no property has. Owned by one thread.
#include <math.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/base/utf8.h"
#include "engine/text/grammar_schema.h"

static ht_expr quoted(struct ht_schema_reader *r, ht_expr e)
{
    struct ht_builder *b = &r->b;
    return ht_expr_seq(b, ht_expr_seq(b, ht_expr_text(b, "\""), e), ht_expr_text(b, "\""));
}

uint32_t ht_schema_string_rule(struct ht_schema_reader *r)
{
    struct ht_builder *b = &r->b;
    if (!r->string) {
        uint32_t character = ht_schema_character_rule(r);
        r->string = ht_rule_new(b, "string", 6);
        ht_rule_set(b, r->string, quoted(r, ht_expr_repeat(b, ht_expr_rule(b, character), 0, HT_NO_END)));
    }
    return r->string;
}

// Years from 1000 on; days that the month has. RFC 3339.
#define DATE                                                                                                 \
    "(?:[1-9]\\d{3}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\\d|30)|"     \
    "02-(?:0[1-9]|1\\d|2[0-8]))|(?:[1-9]\\d(?:0[48]|[2468][048]|[13579][26])|(?:[2468][048]|[13579][26])00)" \
    "-02-29)"
#define TIME "(?:[01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(?:\\.\\d{1,6})?(?:Z|[+-](?:[01]\\d|2[0-3]):[0-5]\\d)"

static ht_expr format(struct ht_schema_reader *r, const json_t *value)
{
    static const struct {
        const char *name, *pattern;
    } formats[] = {{"date", "^" DATE "$"},
                   {"time", "^" TIME "$"},
                   {"date-time", "^" DATE "T" TIME "$"},
                   {"uuid", "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"}};
    static const char *const others[] = {"email",    "idn-email", "hostname",     "idn-hostname",
                                         "ipv4",     "ipv6",      "uri",          "uri-reference",
                                         "iri",      "duration",  "uri-template", "json-pointer",
                                         "regex",    "binary",    "byte",         "relative-json-pointer",
                                         "password", "int32",     "int64",        "iri-reference"};
    const char *name = json_string_value(value);
    if (!name)
        return ht_schema_fail(r, HEARTH_INVALID, "`format` is no string");
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        if (!strcmp(name, formats[i].name))
            return ht_schema_pattern(r, formats[i].pattern, strlen(formats[i].pattern));
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (!strcmp(name, others[i]))
            return ht_schema_fail(r, HEARTH_UNSUPPORTED, "format \"%s\" is not supported", others[i]);
    return ht_schema_fail(r, HEARTH_UNSUPPORTED, "this `format` is not supported");
}

static bool length(struct ht_schema_reader *r, const json_t *schema, const char *keyword, uint32_t *out)
{
    const json_t *value = json_object_get(schema, keyword);
    if (!value)
        return true;
    double v = json_number_value(value);
    if (!json_is_number(value) || v < 0 || v != floor(v))
        return ht_schema_fail(r, HEARTH_INVALID, "`%s` is no count", keyword), false;
    if (v > HT_MAX_GRAMMAR_REPEAT && !strcmp(keyword, "maxLength"))
        return true; // as good as none
    if (v > HT_MAX_GRAMMAR_REPEAT)
        return ht_schema_fail(r, HEARTH_LIMIT, "`%s` is more than %d", keyword, HT_MAX_GRAMMAR_REPEAT), false;
    *out = (uint32_t)v;
    return true;
}

ht_expr ht_schema_string(struct ht_schema_reader *r, const json_t *schema)
{
    uint32_t min = 0, max = HT_NO_END;
    const json_t *pattern = json_object_get(schema, "pattern"), *form = json_object_get(schema, "format");
    if (!length(r, schema, "minLength", &min) || !length(r, schema, "maxLength", &max))
        return 0;
    if (max < min)
        return ht_schema_fail(r, HEARTH_INVALID, "`maxLength` is below `minLength`");
    bool limited = min || max != HT_NO_END;
    if ((pattern != NULL) + (form != NULL) + limited > 1)
        return ht_schema_fail(
            r, HEARTH_UNSUPPORTED,
            "only one of `pattern`, `format` and `minLength`/`maxLength` is supported at a time");
    if (form)
        return quoted(r, format(r, form));
    if (pattern && !json_is_string(pattern))
        return ht_schema_fail(r, HEARTH_INVALID, "`pattern` is no string");
    if (pattern)
        return quoted(r, ht_schema_pattern(r, json_string_value(pattern), json_string_length(pattern)));
    if (!limited)
        return ht_expr_rule(&r->b, ht_schema_string_rule(r));
    uint32_t character = ht_schema_character_rule(r);
    return quoted(r, ht_expr_repeat(&r->b, ht_expr_rule(&r->b, character), min, max));
}

// ---- keys that no property has

enum { MAX_KEY_BYTES = 128, MAX_KEYS = 1024 };

struct names {
    const char **items; // sorted
    size_t n;
};

static const struct ht_char_range must_escape[] = {{0, 0x1F}, {'"', '"'}, {'\\', '\\'}};

// The rest of a key, quote included, when names[from .. to) are those that begin like it up to `at`.
static ht_expr other_rest(struct ht_schema_reader *r, const struct names *names, size_t from, size_t to,
                          size_t at)
{
    struct ht_builder *b = &r->b;
    struct ht_char_range *not_here = ht_calloc(to - from + 3, sizeof *not_here);
    if (!not_here)
        return ht_schema_fail(r, HEARTH_NOMEM, "out of memory");
    memcpy(not_here, must_escape, sizeof must_escape);
    size_t n = 3;
    bool is_name = false;
    ht_expr all = ht_expr_nothing(b);
    for (size_t i = from, end; i < to && ht_schema_ok(r); i = end) {
        const unsigned char *s = (const unsigned char *)names->items[i] + at;
        end = i + 1;
        if (!*s) {
            is_name = true;
            continue;
        }
        size_t len = ht_utf8_char(s, 4); // jansson holds valid UTF-8 only, NUL-terminated
        while (end < to && !strncmp(names->items[end] + at, (const char *)s, len))
            end++;
        uint32_t ch = len == 1 ? s[0] : s[0] & (0x7Fu >> len);
        for (size_t k = 1; k < len; k++)
            ch = ch << 6 | (s[k] & 0x3F);
        not_here[n++] = (struct ht_char_range){ch, ch};
        if (ch < 0x20 || ch == '"' || ch == '\\')
            continue; // escaped in the name, and other keys hold no escapes
        ht_expr below = other_rest(r, names, i, end, at + len);
        all = ht_expr_alt(b, all, ht_expr_seq(b, ht_expr_literal(b, s, len), below));
    }
    ht_expr any = ht_expr_repeat(b, ht_expr_chars(b, must_escape, 3, true), 0, HT_NO_END);
    ht_expr other =
        ht_expr_seq(b, ht_expr_chars(b, not_here, n, true), ht_expr_seq(b, any, ht_expr_text(b, "\"")));
    ht_free(not_here);
    all = ht_expr_alt(b, all, other);
    return is_name ? all : ht_expr_alt(b, all, ht_expr_text(b, "\""));
}

ht_expr ht_schema_other_key(struct ht_schema_reader *r, const json_t *properties)
{
    size_t n = json_object_size(properties);
    if (!n)
        return ht_expr_rule(&r->b, ht_schema_string_rule(r));
    if (n > MAX_KEYS)
        return ht_schema_fail(r, HEARTH_LIMIT, "`additionalProperties` beside more than %d properties",
                              MAX_KEYS);
    struct names names = {.items = ht_calloc(n, sizeof *names.items)};
    if (!names.items)
        return ht_schema_fail(r, HEARTH_NOMEM, "out of memory");
    bool too_long = false;
    for (void *at = json_object_iter((json_t *)(uintptr_t)properties); at;
         at = json_object_iter_next((json_t *)(uintptr_t)properties, at)) {
        const char *name = json_object_iter_key(at);
        too_long |= strlen(name) > MAX_KEY_BYTES;
        size_t i = names.n++;
        for (; i > 0 && strcmp(names.items[i - 1], name) > 0; i--)
            names.items[i] = names.items[i - 1];
        names.items[i] = name;
    }
    ht_expr e = 0;
    if (too_long)
        ht_schema_fail(r, HEARTH_UNSUPPORTED, "`additionalProperties` beside a name of more than %d bytes",
                       MAX_KEY_BYTES);
    else
        e = ht_expr_seq(&r->b, ht_expr_text(&r->b, "\""), other_rest(r, &names, 0, names.n, 0));
    ht_free(names.items);
    return e;
}
