// SPDX-License-Identifier: Apache-2.0
// Building expressions. Owned by one thread.
#include "engine/text/grammar_build.h"

#include <stdio.h>
#include <string.h>

#include "engine/base/mem.h"

void ht_builder_init(struct ht_builder *b, struct hearth_error *err)
{
    *b = (struct ht_builder){.err = err};
    (void)ht_expr_literal(b, NULL, 0); // expression 0: the empty text
}

void ht_builder_free(struct ht_builder *b)
{
    ht_free(b->items);
    ht_free(b->ranges);
    ht_free(b->bytes);
    ht_free(b->rules);
    *b = (struct ht_builder){0};
}

void ht_builder_fail(struct ht_builder *b, enum hearth_status code, const char *format, ...)
{
    if (b->status != HEARTH_OK)
        return;
    va_list args;
    va_start(args, format);
    b->status = ht_failv(b->err, code, format, args);
    va_end(args);
}

// Room for n more of an array that may hold `most`.
static bool room(struct ht_builder *b, void **array, uint32_t used, uint32_t *cap, size_t n, uint32_t most,
                 size_t size_bytes, const char *what)
{
    if (b->status != HEARTH_OK)
        return false;
    if (n > most - used) {
        ht_builder_fail(b, HEARTH_LIMIT, "the grammar has more than %u %s", most, what);
        return false;
    }
    if (n <= *cap - used)
        return true;
    size_t grown = (size_t)*cap * 2 + n + 64;
    if (grown > most)
        grown = most;
    if (!ht_grow(array, used, grown, size_bytes)) {
        ht_builder_fail(b, HEARTH_NOMEM, "out of memory for a grammar of %zu %s", grown, what);
        return false;
    }
    *cap = (uint32_t)grown;
    return true;
}

#define ROOM(b, member, n, most, what)                                                                       \
    room(b, (void **)&(b)->member, (b)->n_##member, &(b)->cap_##member, n, most, sizeof *(b)->member, what)

static ht_expr add(struct ht_builder *b, enum ht_expr_kind kind, uint32_t a, uint32_t bb, uint32_t c)
{
    if (!ROOM(b, items, 1, HT_MAX_GRAMMAR_EXPRS, "parts"))
        return 0;
    b->items[b->n_items] = (struct ht_expr_item){.kind = (uint8_t)kind, .a = a, .b = bb, .c = c};
    return b->n_items++;
}

ht_expr ht_expr_literal(struct ht_builder *b, const void *bytes, size_t len_bytes)
{
    if (!len_bytes)
        return b->n_items ? 0 : add(b, HT_EXPR_EMPTY, 0, 0, 0);
    if (!ROOM(b, bytes, len_bytes, 4 * HT_MAX_GRAMMAR_BYTES, "bytes of text"))
        return 0;
    memcpy(b->bytes + b->n_bytes, bytes, len_bytes);
    b->n_bytes += (uint32_t)len_bytes;
    return add(b, HT_EXPR_LITERAL, b->n_bytes - (uint32_t)len_bytes, (uint32_t)len_bytes, 0);
}

ht_expr ht_expr_text(struct ht_builder *b, const char *text)
{
    return ht_expr_literal(b, text, strlen(text));
}

// ---- characters

enum { LAST_CHARACTER = 0x10FFFF, FIRST_SURROGATE = 0xD800, LAST_SURROGATE = 0xDFFF };

static void sift(struct ht_char_range *v, size_t i, size_t n)
{
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && v[child + 1].from > v[child].from)
            child++;
        if (v[i].from >= v[child].from)
            return;
        struct ht_char_range t = v[i];
        v[i] = v[child];
        v[child] = t;
    }
}

static void sort_ranges(struct ht_char_range *v, size_t n)
{
    for (size_t i = n / 2; i-- > 0;)
        sift(v, i, n);
    for (size_t end = n; end > 1; end--) {
        struct ht_char_range t = v[0];
        v[0] = v[end - 1];
        v[end - 1] = t;
        sift(v, 0, end - 1);
    }
}

// Adds [from, to] without the surrogates; the caller has made room for two.
static void put_range(struct ht_builder *b, uint32_t from, uint32_t to)
{
    if (to > LAST_CHARACTER)
        to = LAST_CHARACTER;
    if (from > to)
        return;
    if (from < FIRST_SURROGATE && to >= FIRST_SURROGATE)
        b->ranges[b->n_ranges++] = (struct ht_char_range){from, FIRST_SURROGATE - 1};
    else if (from < FIRST_SURROGATE)
        b->ranges[b->n_ranges++] = (struct ht_char_range){from, to};
    if (to > LAST_SURROGATE)
        b->ranges[b->n_ranges++] =
            (struct ht_char_range){from > LAST_SURROGATE ? from : LAST_SURROGATE + 1, to};
}

ht_expr ht_expr_chars(struct ht_builder *b, const struct ht_char_range *ranges, size_t n, bool negated)
{
    // The list is copied behind the place where its result goes, and sorted there.
    size_t most = 2 * n + 2;
    if (!ROOM(b, ranges, most + n, HT_MAX_GRAMMAR_EXPRS, "ranges of characters"))
        return 0;
    struct ht_char_range *sorted = b->ranges + b->n_ranges + most;
    if (n)
        memcpy(sorted, ranges, n * sizeof *ranges);
    sort_ranges(sorted, n);
    uint32_t first = b->n_ranges, at = 0; // `at`: the first character not yet looked at
    for (size_t i = 0; i < n;) {
        struct ht_char_range all = sorted[i];
        for (i++; i < n && sorted[i].from <= (uint64_t)all.to + 1; i++)
            all.to = sorted[i].to > all.to ? sorted[i].to : all.to;
        if (!negated)
            put_range(b, all.from, all.to);
        else if (all.from > at)
            put_range(b, at, all.from - 1);
        at = all.to < LAST_CHARACTER ? all.to + 1 : LAST_CHARACTER + 1;
    }
    if (negated)
        put_range(b, at, LAST_CHARACTER);
    return add(b, HT_EXPR_CHARS, first, b->n_ranges - first, 0);
}

ht_expr ht_expr_nothing(struct ht_builder *b)
{
    return ht_expr_chars(b, NULL, 0, false);
}

bool ht_expr_is_nothing(const struct ht_builder *b, ht_expr e)
{
    return b->status == HEARTH_OK && b->items[e].kind == HT_EXPR_CHARS && !b->items[e].b;
}

// ---- composition

ht_expr ht_expr_seq(struct ht_builder *b, ht_expr first, ht_expr then)
{
    if (!first || !then)
        return first ? first : then;
    if (ht_expr_is_nothing(b, first) || ht_expr_is_nothing(b, then)) // else an answer could run into it
        return ht_expr_nothing(b);
    return add(b, HT_EXPR_SEQ, first, then, 0);
}

ht_expr ht_expr_alt(struct ht_builder *b, ht_expr either, ht_expr or)
{
    if (ht_expr_is_nothing(b, either))
        return or ;
    if (ht_expr_is_nothing(b, or))
        return either;
    return add(b, HT_EXPR_ALT, either, or, 0);
}

ht_expr ht_expr_repeat(struct ht_builder *b, ht_expr body, uint32_t min, uint32_t max)
{
    if (!body || max == 0 || (!min && ht_expr_is_nothing(b, body)))
        return 0;
    if (min == 1 && max == 1)
        return body;
    if (min > HT_MAX_GRAMMAR_REPEAT || (max != HT_NO_END && max > HT_MAX_GRAMMAR_REPEAT)) {
        ht_builder_fail(b, HEARTH_LIMIT, "grammar: a repetition of %u: at most %d are allowed",
                        max != HT_NO_END && max > min ? max : min, HT_MAX_GRAMMAR_REPEAT);
        return 0;
    }
    return add(b, HT_EXPR_REPEAT, body, min, max);
}

ht_expr ht_expr_optional(struct ht_builder *b, ht_expr body)
{
    return ht_expr_repeat(b, body, 0, 1);
}

uint32_t ht_rule_new(struct ht_builder *b, const char *name, size_t len_bytes)
{
    if (!ROOM(b, rules, 1, HT_MAX_GRAMMAR_RULES, "rules"))
        return 0;
    struct ht_rule *rule = &b->rules[b->n_rules];
    *rule = (struct ht_rule){0};
    if (name)
        snprintf(rule->name, sizeof rule->name, "%.*s", (int)(len_bytes < 200 ? len_bytes : 200), name);
    else
        snprintf(rule->name, sizeof rule->name, "%u", b->n_rules);
    return b->n_rules++;
}

void ht_rule_set(struct ht_builder *b, uint32_t rule, ht_expr body)
{
    if (b->status != HEARTH_OK)
        return;
    b->rules[rule].body = body;
    b->rules[rule].defined = true;
}

ht_expr ht_expr_rule(struct ht_builder *b, uint32_t rule)
{
    return add(b, HT_EXPR_RULE, rule, 0, 0);
}
