// SPDX-License-Identifier: Apache-2.0
// Reading GBNF: rules of literals, character classes, names, groups and repetitions. A rule ends at the end of its
// line, but inside of groups and after `::=` and `|` lines go on. Nothing of the text gets into a message but the name
// of a rule. Owned by one thread.
#include <string.h>

#include "engine/base/utf8.h"
#include "engine/text/grammar_build.h"

enum { NAMES = 2 * HT_MAX_GRAMMAR_RULES };

struct reader {
    struct ht_builder *b;
    const unsigned char *text;
    size_t at, n;
    unsigned nesting;
    uint32_t line; // of line_at
    size_t line_at;
    uint16_t names[NAMES]; // hash of rule names: rule + 1
};

// Fails at the place where the reader stands.
static ht_expr fail_at(struct reader *r, enum hearth_status code, const char *what)
{
    unsigned line = 1, column = 1;
    for (size_t i = 0; i < r->at && i < r->n; i++) {
        column = r->text[i] == '\n' ? 1 : column + ((r->text[i] & 0xC0) != 0x80);
        line += r->text[i] == '\n';
    }
    ht_builder_fail(r->b, code, "grammar: line %u, column %u: %s", line, column, what);
    return 0;
}

static ht_expr fail(struct reader *r, const char *what)
{
    return fail_at(r, HEARTH_INVALID, what);
}

static bool ok(const struct reader *r)
{
    return r->b->status == HEARTH_OK;
}

static int peek(const struct reader *r)
{
    return r->at < r->n ? r->text[r->at] : -1;
}

static bool take(struct reader *r, char c)
{
    if (peek(r) != (unsigned char)c)
        return false;
    r->at++;
    return true;
}

// Blanks and comments; line ends too where a rule goes on over them.
static void skip(struct reader *r, bool lines)
{
    for (int c; (c = peek(r)) >= 0; r->at++) {
        if (c == '#')
            while (r->at + 1 < r->n && r->text[r->at + 1] != '\n')
                r->at++;
        else if (c != ' ' && c != '\t' && !(lines && (c == '\n' || c == '\r')))
            return;
    }
}

static bool is_name(int c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
}

// The rule with the name that stands here, made if it is new.
static uint32_t take_rule(struct reader *r)
{
    size_t from = r->at;
    while (is_name(peek(r)))
        r->at++;
    size_t len = r->at - from;
    if (!len || len >= HT_RULE_NAME_BYTES) {
        fail(r, len ? "the name of a rule has more than 47 characters" : "the name of a rule is missing");
        return 0;
    }
    uint32_t h = 2166136261u;
    for (size_t i = from; i < r->at; i++)
        h = (h ^ r->text[i]) * 16777619u;
    for (h = (h ^ h >> 15) % NAMES; r->names[h]; h = (h + 1) % NAMES) {
        const char *name = r->b->rules[r->names[h] - 1].name;
        if (strlen(name) == len && !memcmp(name, r->text + from, len))
            return r->names[h] - 1u;
    }
    uint32_t rule = ht_rule_new(r->b, (const char *)r->text + from, len);
    if (!ok(r))
        return 0;
    for (; r->line_at < from; r->line_at++)
        r->line += r->text[r->line_at] == '\n';
    r->b->rules[rule].line = r->line;
    r->names[h] = (uint16_t)(rule + 1);
    return rule;
}

// ---- characters

static bool take_hex(struct reader *r, int digits, uint32_t *ch)
{
    *ch = 0;
    for (int i = 0; i < digits; i++, r->at++) {
        int c = peek(r), value = c >= '0' && c <= '9'   ? c - '0'
                                 : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                 : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                                        : -1;
        if (value < 0)
            return fail(r, "a hexadecimal digit is missing"), false;
        *ch = *ch * 16 + (uint32_t)value;
    }
    if (*ch > 0x10FFFF || (*ch >= 0xD800 && *ch <= 0xDFFF))
        return fail(r, "an escape is no Unicode character"), false;
    return true;
}

static bool take_escape(struct reader *r, uint32_t *ch)
{
    static const char from[] = "nrt\\\"[]", to[] = "\n\r\t\\\"[]";
    int c = peek(r);
    if (c < 0)
        return fail(r, "the text ends in an escape"), false;
    r->at++;
    if (c == 'x' || c == 'u' || c == 'U')
        return take_hex(r, c == 'x' ? 2 : c == 'u' ? 4 : 8, ch);
    const char *known = strchr(from, c);
    if (!known || !c) {
        r->at--;
        return fail(r, "an unknown escape"), false;
    }
    *ch = (unsigned char)to[known - from];
    return true;
}

static bool take_char(struct reader *r, uint32_t *ch)
{
    if (take(r, '\\'))
        return take_escape(r, ch);
    size_t n = ht_utf8_char(r->text + r->at, r->n - r->at);
    if (!n)
        return fail(r, r->at < r->n ? "a byte is not UTF-8" : "the text ends in a literal or a class"), false;
    const unsigned char *s = r->text + r->at;
    *ch = n == 1 ? s[0] : s[0] & (0x7Fu >> n);
    for (size_t i = 1; i < n; i++)
        *ch = *ch << 6 | (s[i] & 0x3F);
    r->at += n;
    return true;
}

static ht_expr literal(struct reader *r)
{
    ht_expr all = 0;
    unsigned char bytes[256];
    size_t n = 0;
    while (ok(r) && !take(r, '"')) {
        uint32_t ch;
        if (peek(r) == '\n')
            return fail(r, "a literal goes over the end of the line");
        if (!take_char(r, &ch))
            return 0;
        if (n + 4 > sizeof bytes) {
            all = ht_expr_seq(r->b, all, ht_expr_literal(r->b, bytes, n));
            n = 0;
        }
        n += ht_utf8_put(ch, bytes + n);
    }
    return ht_expr_seq(r->b, all, ht_expr_literal(r->b, bytes, n));
}

static ht_expr class(struct reader *r)
{
    enum { MAX_RANGES = 512 };
    struct ht_char_range ranges[MAX_RANGES];
    size_t n = 0;
    bool negated = take(r, '^');
    while (ok(r) && !take(r, ']')) {
        struct ht_char_range range;
        if (n == MAX_RANGES)
            return fail_at(r, HEARTH_LIMIT, "a class has more than 512 parts");
        if (!take_char(r, &range.from))
            return 0;
        range.to = range.from;
        if (peek(r) == '-' && r->at + 1 < r->n && r->text[r->at + 1] != ']') {
            r->at++;
            if (!take_char(r, &range.to))
                return 0;
            if (range.to < range.from)
                return fail(r, "a range of characters runs backwards");
        }
        ranges[n++] = range;
    }
    if (!n && !negated)
        return fail(r, "an empty class");
    return ht_expr_chars(r->b, ranges, n, negated);
}

// ---- repetitions, sequences, alternatives

static bool take_number(struct reader *r, uint32_t *value)
{
    bool any = false;
    for (*value = 0; peek(r) >= '0' && peek(r) <= '9'; r->at++, any = true)
        if ((*value = *value * 10 + (uint32_t)(peek(r) - '0')) > HT_MAX_GRAMMAR_REPEAT)
            return fail_at(r, HEARTH_LIMIT, "a repetition of more than 65536"), false;
    return any;
}

// After `{`: m} m,} m,n} ,n}
static ht_expr repetition(struct reader *r, ht_expr body, bool lines)
{
    uint32_t min = 0, max = HT_NO_END;
    skip(r, lines);
    bool has_min = take_number(r, &min);
    skip(r, lines);
    if (take(r, ',')) {
        skip(r, lines);
        bool has_max = take_number(r, &max);
        if (!has_max)
            max = HT_NO_END;
        if (!has_min && !has_max)
            return fail(r, "a repetition without a number");
    } else {
        if (!has_min)
            return fail(r, "a repetition without a number");
        max = min;
    }
    skip(r, lines);
    if (!take(r, '}'))
        return fail(r, "a repetition has no `}`");
    if (max < min)
        return fail(r, "a repetition's maximum is below its minimum");
    return ht_expr_repeat(r->b, body, min, max);
}

static ht_expr alternatives(struct reader *r, bool nested);

static ht_expr group(struct reader *r)
{
    if (r->nesting == HT_MAX_GRAMMAR_NESTING)
        return fail_at(r, HEARTH_LIMIT, "groups are nested more than 64 deep");
    r->nesting++;
    skip(r, true);
    ht_expr e = alternatives(r, true);
    r->nesting--;
    if (ok(r) && !take(r, ')'))
        return fail(r, "a group has no `)`");
    return e;
}

// One literal, class, name or group. *found false: none stands here.
static ht_expr element(struct reader *r, bool *found)
{
    int c = peek(r);
    *found = true;
    if (take(r, '"'))
        return literal(r);
    if (take(r, '['))
        return class(r);
    if (take(r, '('))
        return group(r);
    if (take(r, '.'))
        return ht_expr_chars(r->b, NULL, 0, true);
    if (is_name(c))
        return ht_expr_rule(r->b, take_rule(r));
    if (c == '<' || c == '!')
        return fail_at(r, HEARTH_UNSUPPORTED, "token references are not supported");
    *found = false;
    return 0;
}

static ht_expr sequence(struct reader *r, bool nested)
{
    ht_expr all = 0;
    while (ok(r)) {
        bool found, repeated = false;
        ht_expr e = element(r, &found);
        if (!found)
            break;
        skip(r, nested);
        for (; ok(r); repeated = true) {
            if (take(r, '*'))
                e = ht_expr_repeat(r->b, e, 0, HT_NO_END);
            else if (take(r, '+'))
                e = ht_expr_repeat(r->b, e, 1, HT_NO_END);
            else if (take(r, '?'))
                e = ht_expr_optional(r->b, e);
            else if (take(r, '{'))
                e = repetition(r, e, nested);
            else
                break;
            if (repeated)
                return fail(r, "two repetitions in a row; use a group");
            skip(r, nested);
        }
        all = ht_expr_seq(r->b, all, e);
    }
    return all;
}

static ht_expr alternatives(struct reader *r, bool nested)
{
    ht_expr all = sequence(r, nested);
    while (ok(r) && take(r, '|')) {
        skip(r, true);
        all = ht_expr_alt(r->b, all, sequence(r, nested));
    }
    return all;
}

static void rule(struct reader *r)
{
    uint32_t index = take_rule(r);
    skip(r, false);
    if (!ok(r))
        return;
    if (r->n - r->at < 3 || memcmp(r->text + r->at, "::=", 3)) {
        fail(r, "`::=` is missing after the name of a rule");
        return;
    }
    if (r->b->rules[index].defined) {
        fail(r, "this rule is defined a second time");
        return;
    }
    r->at += 3;
    skip(r, true);
    ht_rule_set(r->b, index, alternatives(r, false));
    if (ok(r) && peek(r) >= 0 && peek(r) != '\n' && peek(r) != '\r')
        fail(r, peek(r) == ')' ? "a `)` without its `(`" : "this cannot stand here");
}

enum hearth_status ht_grammar_from_gbnf(struct ht_grammar **grammar, const char *text, size_t len_bytes,
                                        struct hearth_error *err)
{
    struct ht_builder b;
    *grammar = NULL;
    if (len_bytes > HT_MAX_GRAMMAR_BYTES)
        return ht_fail(err, HEARTH_LIMIT, "the grammar has %zu bytes, at most %d are allowed", len_bytes,
                       HT_MAX_GRAMMAR_BYTES);
    ht_builder_init(&b, err);
    struct reader r = {.b = &b, .text = (const unsigned char *)text, .n = len_bytes, .line = 1};
    for (skip(&r, true); ok(&r) && r.at < r.n; skip(&r, true))
        rule(&r);
    uint32_t root = 0;
    while (root < b.n_rules && strcmp(b.rules[root].name, "root"))
        root++;
    enum hearth_status status = ht_grammar_compile(grammar, &b, root, err);
    ht_builder_free(&b);
    return status;
}
