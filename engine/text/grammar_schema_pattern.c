// SPDX-License-Identifier: Apache-2.0
// `pattern`: a part of ECMA's regular expressions, over characters as a JSON string spells them (a quote is \" there).
// Literals, `.`, classes, \d \w \s and their opposites, \t \n \r \f \v \0 \xHH \uHHHH, groups without names,
// alternatives, * + ? {m,n} (lazy ones are the same), ^ at the beginning and $ at the end of an alternative of the
// whole. What looks around, back or for borders is UNSUPPORTED. Owned by one thread.
#include <string.h>

#include "engine/base/utf8.h"
#include "engine/text/grammar_schema.h"

enum { MAX_RANGES = 128 };

struct pattern {
    struct ht_schema_reader *r;
    const unsigned char *text;
    size_t at, n;
    unsigned nesting;
};

struct set {
    struct ht_char_range ranges[MAX_RANGES];
    size_t n;
    bool negated;
};

static ht_expr fail(struct pattern *p, enum hearth_status code, const char *what)
{
    return ht_schema_fail(p->r, code, "pattern, byte %zu: %s", p->at, what);
}

static bool ok(const struct pattern *p)
{
    return ht_schema_ok(p->r);
}

static int peek(const struct pattern *p)
{
    return p->at < p->n ? p->text[p->at] : -1;
}

static bool take(struct pattern *p, char c)
{
    if (peek(p) != (unsigned char)c)
        return false;
    p->at++;
    return true;
}

// ---- one character, as JSON spells it

static bool holds(const struct set *s, uint32_t ch)
{
    bool in = false;
    for (size_t i = 0; i < s->n && !in; i++)
        in = ch >= s->ranges[i].from && ch <= s->ranges[i].to;
    return in != s->negated;
}

static void add(struct pattern *p, struct set *s, uint32_t from, uint32_t to)
{
    if (s->n == MAX_RANGES)
        fail(p, HEARTH_LIMIT, "a class has too many parts");
    else
        s->ranges[s->n++] = (struct ht_char_range){from, to};
}

// What the class means among characters that stand for themselves, and the spellings of the others.
static ht_expr spelt(struct pattern *p, const struct set *s)
{
    static const char special[] = "\"\\\b\f\n\r\t", letters[] = "\"\\bfnrt";
    struct ht_builder *b = &p->r->b;
    struct ht_char_range raw[2 * MAX_RANGES + 8], escaped[8];
    size_t n = 0, n_escaped = 0;
    if (s->negated) { // all but these, and but what must be escaped
        memcpy(raw, s->ranges, s->n * sizeof *raw);
        n = s->n;
        raw[n++] = (struct ht_char_range){0, 0x1F};
        raw[n++] = (struct ht_char_range){'"', '"'};
        raw[n++] = (struct ht_char_range){'\\', '\\'};
    } else {
        static const struct ht_char_range allowed[] = {{0x20, 0x21}, {0x23, 0x5B}, {0x5D, 0x10FFFF}};
        for (size_t i = 0; i < s->n; i++)
            for (int k = 0; k < 3 && n < 2 * MAX_RANGES + 5; k++) {
                uint32_t from = s->ranges[i].from > allowed[k].from ? s->ranges[i].from : allowed[k].from,
                         to = s->ranges[i].to < allowed[k].to ? s->ranges[i].to : allowed[k].to;
                if (from <= to)
                    raw[n++] = (struct ht_char_range){from, to};
            }
    }
    ht_expr all = ht_expr_chars(b, raw, n, s->negated);
    for (int i = 0; special[i]; i++)
        if (holds(s, (unsigned char)special[i]))
            escaped[n_escaped++] =
                (struct ht_char_range){(unsigned char)letters[i], (unsigned char)letters[i]};
    if (n_escaped)
        all = ht_expr_alt(b, all,
                          ht_expr_seq(b, ht_expr_text(b, "\\"), ht_expr_chars(b, escaped, n_escaped, false)));
    for (uint32_t ch = 1; ch < 0x20 && !s->negated; ch++)
        if (holds(s, ch) && !strchr(special, (int)ch)) {
            static const char hex[] = "0123456789abcdef";
            char text[] = {'\\', 'u', '0', '0', ch < 16 ? '0' : '1', hex[ch % 16], 0};
            all = ht_expr_alt(b, all, ht_expr_text(b, text));
        }
    return all;
}

// ---- reading classes

static void add_shorthand(struct pattern *p, struct set *s, int letter)
{
    static const struct ht_char_range digits[] = {{'0', '9'}},
                                      word[] = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}},
                                      space[] = {{9, 13},          {32, 32},         {0xA0, 0xA0},
                                                 {0x1680, 0x1680}, {0x2000, 0x200A}, {0x2028, 0x2029},
                                                 {0x202F, 0x202F}, {0x205F, 0x205F}, {0x3000, 0x3000},
                                                 {0xFEFF, 0xFEFF}};
    const struct ht_char_range *ranges = letter == 'd' || letter == 'D'   ? digits
                                         : letter == 'w' || letter == 'W' ? word
                                                                          : space;
    size_t n = ranges == digits ? 1 : ranges == word ? 4 : sizeof space / sizeof *space;
    uint32_t at = 0;
    for (size_t i = 0; i < n; i++) {
        if (letter >= 'a')
            add(p, s, ranges[i].from, ranges[i].to);
        else if (ranges[i].from > at)
            add(p, s, at, ranges[i].from - 1);
        at = ranges[i].to + 1;
    }
    if (letter < 'a')
        add(p, s, at, 0x10FFFF);
}

static bool take_hex(struct pattern *p, int digits, uint32_t *ch)
{
    *ch = 0;
    for (int i = 0; i < digits; i++, p->at++) {
        int c = peek(p), value = c >= '0' && c <= '9'   ? c - '0'
                                 : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                 : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                                        : -1;
        if (value < 0)
            return fail(p, HEARTH_INVALID, "a hexadecimal digit is missing"), false;
        *ch = *ch * 16 + (uint32_t)value;
    }
    if (*ch >= 0xD800 && *ch <= 0xDFFF)
        return fail(p, HEARTH_UNSUPPORTED, "half of a character is not supported"), false;
    return true;
}

// After a backslash: a character into *ch, or a shorthand into the set (*ch = UINT32_MAX).
static bool take_escape(struct pattern *p, struct set *s, uint32_t *ch)
{
    static const char from[] = "tnrfv", to[] = "\t\n\r\f\v", same[] = "^$\\.*+?()[]{}|/-\"'#&,:;<=>@_`~ !%";
    int c = peek(p);
    p->at++;
    *ch = UINT32_MAX;
    if (c > 0 && strchr("dDwWsS", c))
        return add_shorthand(p, s, c), ok(p);
    if (c == 'x' || c == 'u')
        return take_hex(p, c == 'x' ? 2 : 4, ch);
    if (c == '0' && !(peek(p) >= '0' && peek(p) <= '9'))
        return *ch = 0, true;
    const char *known = c > 0 ? strchr(from, c) : NULL;
    if (known)
        *ch = (unsigned char)to[known - from];
    else if (c > 0 && strchr(same, c))
        *ch = (uint32_t)c;
    else
        return fail(p, c < 0 ? HEARTH_INVALID : HEARTH_UNSUPPORTED,
                    c < 0 ? "it ends in a backslash" : "this escape is not supported"),
               false;
    return true;
}

static bool take_char(struct pattern *p, struct set *s, uint32_t *ch)
{
    if (take(p, '\\'))
        return take_escape(p, s, ch);
    const unsigned char *c = p->text + p->at;
    size_t n = ht_utf8_char(c, p->n - p->at);
    if (!n)
        return fail(p, HEARTH_INVALID, "it ends in a class"), false;
    *ch = n == 1 ? c[0] : c[0] & (0x7Fu >> n);
    for (size_t i = 1; i < n; i++)
        *ch = *ch << 6 | (c[i] & 0x3F);
    p->at += n;
    return true;
}

static ht_expr class(struct pattern *p)
{
    struct set s = {.negated = take(p, '^')};
    while (ok(p) && !take(p, ']')) {
        uint32_t from, to;
        if (!take_char(p, &s, &from))
            return 0;
        if (from == UINT32_MAX)
            continue;
        to = from;
        if (peek(p) == '-' && p->at + 1 < p->n && p->text[p->at + 1] != ']') {
            p->at++;
            if (!take_char(p, &s, &to))
                return 0;
            if (to == UINT32_MAX || to < from)
                return fail(p, HEARTH_INVALID, "a range of characters runs backwards");
        }
        add(p, &s, from, to);
    }
    return spelt(p, &s);
}

// ---- atoms, sequences, alternatives

static ht_expr alternatives(struct pattern *p, bool outermost);

static ht_expr group(struct pattern *p)
{
    if (p->nesting == HT_MAX_GRAMMAR_NESTING)
        return fail(p, HEARTH_LIMIT, "groups are nested more than 64 deep");
    if (take(p, '?') && !take(p, ':'))
        return fail(p, HEARTH_UNSUPPORTED, "looking around and named groups are not supported");
    p->nesting++;
    ht_expr e = alternatives(p, false);
    p->nesting--;
    if (ok(p) && !take(p, ')'))
        return fail(p, HEARTH_INVALID, "a group has no `)`");
    return e;
}

static ht_expr atom(struct pattern *p)
{
    struct set s = {0};
    uint32_t ch;
    if (take(p, '('))
        return group(p);
    if (take(p, '['))
        return class(p);
    if (take(p, '.')) {
        s = (struct set){.ranges = {{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}}, .n = 3, .negated = true};
        return spelt(p, &s);
    }
    if (strchr("^$", peek(p)))
        return fail(p, HEARTH_UNSUPPORTED, "^ and $ are supported at the ends only");
    if (strchr("*+?{}]", peek(p)))
        return fail(p, HEARTH_INVALID, "this cannot stand here");
    if (!take_char(p, &s, &ch))
        return 0;
    if (ch != UINT32_MAX)
        add(p, &s, ch, ch);
    return spelt(p, &s);
}

static bool take_number(struct pattern *p, uint32_t *value)
{
    bool any = false;
    for (*value = 0; peek(p) >= '0' && peek(p) <= '9'; p->at++, any = true)
        if ((*value = *value * 10 + (uint32_t)(peek(p) - '0')) > HT_MAX_GRAMMAR_REPEAT)
            return fail(p, HEARTH_LIMIT, "a repetition of more than 65536"), false;
    return any;
}

static ht_expr repeated(struct pattern *p, ht_expr e)
{
    uint32_t min = 0, max = HT_NO_END;
    if (take(p, '?'))
        max = 1;
    else if (take(p, '+'))
        min = 1;
    else if (take(p, '{')) {
        if (!take_number(p, &min))
            return fail(p, HEARTH_INVALID, "a repetition without a number");
        if (!take(p, ','))
            max = min;
        else if (!take_number(p, &max))
            max = HT_NO_END;
        if (!take(p, '}') || max < min)
            return fail(p, HEARTH_INVALID, "a repetition is malformed");
    } else if (!take(p, '*')) {
        return e;
    }
    take(p, '?'); // lazy: the same strings
    return ht_expr_repeat(&p->r->b, e, min, max);
}

static ht_expr anything(struct pattern *p)
{
    struct ht_builder *b = &p->r->b;
    return ht_expr_repeat(b, ht_expr_rule(b, ht_schema_character_rule(p->r)), 0, HT_NO_END);
}

static ht_expr sequence(struct pattern *p, bool outermost)
{
    struct ht_builder *b = &p->r->b;
    ht_expr all = outermost && !take(p, '^') ? anything(p) : 0;
    bool to_the_end = false;
    while (ok(p) && peek(p) >= 0 && peek(p) != '|' && peek(p) != ')') {
        if (outermost && peek(p) == '$' && (p->at + 1 == p->n || p->text[p->at + 1] == '|')) {
            p->at++;
            to_the_end = true;
            break;
        }
        ht_expr one = atom(p);
        all = ht_expr_seq(b, all, ok(p) ? repeated(p, one) : 0);
    }
    return outermost && !to_the_end ? ht_expr_seq(b, all, anything(p)) : all;
}

static ht_expr alternatives(struct pattern *p, bool outermost)
{
    ht_expr all = sequence(p, outermost);
    while (ok(p) && take(p, '|'))
        all = ht_expr_alt(&p->r->b, all, sequence(p, outermost));
    return all;
}

ht_expr ht_schema_pattern(struct ht_schema_reader *r, const char *pattern, size_t len_bytes)
{
    struct pattern p = {.r = r, .text = (const unsigned char *)pattern, .n = len_bytes};
    ht_expr e = alternatives(&p, true);
    return ok(&p) && p.at < p.n ? fail(&p, HEARTH_INVALID, "a `)` without its `(`") : e;
}

// Any character of a JSON string: \u0000 and halves of characters are left out.
uint32_t ht_schema_character_rule(struct ht_schema_reader *r)
{
    struct ht_builder *b = &r->b;
    if (r->character)
        return r->character;
    static const struct ht_char_range special[] = {{0, 0x1F}, {'"', '"'}, {'\\', '\\'}},
                                      letters[] = {{'"', '"'}, {'/', '/'}, {'\\', '\\'}, {'b', 'b'},
                                                   {'f', 'f'}, {'n', 'n'}, {'r', 'r'},   {'t', 't'}},
                                      hex[] = {{'0', '9'}, {'a', 'f'}, {'A', 'F'}},
                                      not_zero[] = {{'1', '9'}, {'a', 'f'}, {'A', 'F'}},
                                      not_d[] = {{'1', '9'}, {'a', 'c'}, {'A', 'C'}, {'e', 'f'}, {'E', 'F'}},
                                      d[] = {{'d', 'd'}, {'D', 'D'}}, low[] = {{'0', '7'}},
                                      high[] = {{'8', '9'}, {'a', 'b'}, {'A', 'B'}},
                                      higher[] = {{'c', 'f'}, {'C', 'F'}};
#define SET(name) ht_expr_chars(b, name, sizeof name / sizeof *name, false)
#define HEX(n)    ht_expr_repeat(b, SET(hex), n, n)
#define SEQ(x, y) ht_expr_seq(b, x, y)
    r->character = ht_rule_new(b, "character", 9);
    ht_expr after_zero =
        ht_expr_alt(b, SEQ(SET(not_zero), HEX(2)), SEQ(ht_expr_text(b, "0"), SEQ(SET(not_zero), HEX(1))));
    after_zero = ht_expr_alt(b, after_zero, SEQ(ht_expr_text(b, "00"), SET(not_zero)));
    ht_expr u = ht_expr_alt(b, SEQ(ht_expr_text(b, "0"), after_zero), SEQ(SET(not_d), HEX(3)));
    u = ht_expr_alt(b, u, SEQ(SET(d), SEQ(SET(low), HEX(2))));
    ht_expr pair = SEQ(SEQ(SET(d), SEQ(SET(high), HEX(2))),
                       SEQ(ht_expr_text(b, "\\u"), SEQ(SET(d), SEQ(SET(higher), HEX(2)))));
    u = SEQ(ht_expr_text(b, "u"), ht_expr_alt(b, u, pair));
    ht_expr escaped = SEQ(ht_expr_text(b, "\\"), ht_expr_alt(b, SET(letters), u));
    ht_rule_set(b, r->character, ht_expr_alt(b, ht_expr_chars(b, special, 3, true), escaped));
#undef SET
#undef HEX
#undef SEQ
    return r->character;
}
