// SPDX-License-Identifier: Apache-2.0
// What must hold before a grammar is made into an automaton: every rule is defined and can come to an end, and none
// calls itself before it has read a byte (an automaton would go round for ever). Owned by one thread.
#include "engine/base/mem.h"
#include "engine/text/grammar_build.h"

enum { MAX_PASSES = 256 };

struct flags { // (n_items) each
    bool *nullable, *productive;
};

// One expression from its children. Returns true if anything changed.
static bool update(const struct ht_builder *b, const struct flags *f, uint32_t i)
{
    const struct ht_expr_item *e = &b->items[i];
    bool nullable = false, productive = true;
    switch (e->kind) {
    case HT_EXPR_EMPTY: nullable = true; break;
    case HT_EXPR_LITERAL: break;
    case HT_EXPR_CHARS: productive = e->b != 0; break;
    case HT_EXPR_SEQ:
        nullable = f->nullable[e->a] && f->nullable[e->b];
        productive = f->productive[e->a] && f->productive[e->b];
        break;
    case HT_EXPR_ALT:
        nullable = f->nullable[e->a] || f->nullable[e->b];
        productive = f->productive[e->a] || f->productive[e->b];
        break;
    case HT_EXPR_REPEAT:
        nullable = !e->b || f->nullable[e->a];
        productive = !e->b || f->productive[e->a];
        break;
    default: // HT_EXPR_RULE
        nullable = f->nullable[b->rules[e->a].body];
        productive = f->productive[b->rules[e->a].body];
    }
    bool changed = nullable != f->nullable[i] || productive != f->productive[i];
    f->nullable[i] = nullable;
    f->productive[i] = productive;
    return changed;
}

// Rules are mostly named before they are defined: passes from the last expression to the first settle them soon, but
// children stand before their parents, so each pass goes both ways.
static enum hearth_status settle(const struct ht_builder *b, const struct flags *f, struct hearth_error *err)
{
    bool changed = true;
    for (int pass = 0; changed; pass++) {
        if (pass == MAX_PASSES)
            return ht_fail(err, HEARTH_LIMIT, "the rules of the grammar depend on each other too deeply");
        changed = false;
        for (uint32_t i = 0; i < b->n_items; i++)
            changed |= update(b, f, i);
        for (uint32_t i = b->n_items; i-- > 0;)
            changed |= update(b, f, i);
    }
    return HEARTH_OK;
}

// ---- left recursion: a walk over "may begin with"

struct walk {
    const struct ht_builder *b;
    const bool *nullable;
    uint32_t *edges, *first; // rule r may begin with rules edges[first[r] .. first[r + 1])
    uint32_t n_edges;
};

// Adds the rules that e may begin with (edges NULL: only counts). Depth: the nesting of groups.
static void begin_of(struct walk *w, ht_expr e)
{
    for (;;) {
        const struct ht_expr_item *x = &w->b->items[e];
        if (x->kind == HT_EXPR_RULE) {
            if (w->edges)
                w->edges[w->n_edges] = x->a;
            w->n_edges++;
            return;
        }
        if (x->kind == HT_EXPR_SEQ ? w->nullable[x->a] : x->kind == HT_EXPR_ALT)
            begin_of(w, x->b);
        else if (x->kind != HT_EXPR_SEQ && x->kind != HT_EXPR_REPEAT)
            return;
        e = x->a;
    }
}

static void list_edges(struct walk *w)
{
    w->n_edges = 0;
    for (uint32_t r = 0; r < w->b->n_rules; r++) {
        w->first[r] = w->n_edges;
        begin_of(w, w->b->rules[r].body);
    }
    w->first[w->b->n_rules] = w->n_edges;
}

static enum hearth_status fail_rule(const struct ht_rule *rule, const char *what, struct hearth_error *err)
{
    if (rule->line)
        return ht_fail(err, HEARTH_INVALID, "grammar: line %u: rule %s %s", rule->line, rule->name, what);
    return ht_fail(err, HEARTH_INVALID, "grammar: rule %s %s", rule->name, what);
}

// at[r]: the edge where the walk stands in rule r; stack: the rules it is in.
static enum hearth_status find_cycle(const struct walk *w, uint32_t *at, uint32_t *stack,
                                     unsigned char *color, struct hearth_error *err)
{
    enum { NEW, OPEN, DONE };
    for (uint32_t r = 0; r < w->b->n_rules; r++) {
        if (color[r] != NEW)
            continue;
        uint32_t depth = 0;
        stack[depth++] = r;
        color[r] = OPEN;
        at[r] = w->first[r];
        while (depth) {
            uint32_t top = stack[depth - 1];
            if (at[top] == w->first[top + 1]) {
                color[top] = DONE;
                depth--;
                continue;
            }
            uint32_t to = w->edges[at[top]++];
            if (color[to] == OPEN)
                return fail_rule(&w->b->rules[to],
                                 "is left-recursive: it calls itself before anything is read", err);
            if (color[to] == NEW) {
                color[to] = OPEN;
                at[to] = w->first[to];
                stack[depth++] = to;
            }
        }
    }
    return HEARTH_OK;
}

static enum hearth_status refuse_left_recursion(const struct ht_builder *b, const bool *nullable,
                                                struct hearth_error *err)
{
    struct walk w = {.b = b, .nullable = nullable};
    uint32_t *at = ht_calloc(b->n_rules, sizeof *at), *stack = ht_calloc(b->n_rules, sizeof *stack);
    unsigned char *color = ht_calloc(b->n_rules, 1);
    w.first = ht_calloc(b->n_rules + 1, sizeof *w.first);
    enum hearth_status status = HEARTH_NOMEM;
    if (at && stack && color && w.first) {
        list_edges(&w);
        w.edges = ht_calloc(w.n_edges + 1, sizeof *w.edges);
        if (w.edges) {
            list_edges(&w);
            status = find_cycle(&w, at, stack, color, err);
        }
    }
    if (status == HEARTH_NOMEM)
        ht_fail(err, status, "out of memory for checking a grammar of %u rules", b->n_rules);
    ht_free(at);
    ht_free(stack);
    ht_free(color);
    ht_free(w.first);
    ht_free(w.edges);
    return status;
}

enum hearth_status ht_grammar_check(struct ht_builder *b, uint32_t root, bool *nullable,
                                    struct hearth_error *err)
{
    for (uint32_t r = 0; r < b->n_rules; r++)
        if (!b->rules[r].defined)
            return fail_rule(&b->rules[r], "is not defined", err);
    struct flags f = {.nullable = nullable, .productive = ht_calloc(b->n_items, sizeof(bool))};
    if (!f.productive)
        return ht_fail(err, HEARTH_NOMEM, "out of memory for checking a grammar");
    enum hearth_status status = settle(b, &f, err);
    for (uint32_t r = 0; status == HEARTH_OK && r < b->n_rules; r++)
        if (!f.productive[b->rules[r].body])
            status = fail_rule(&b->rules[r], "never comes to an end", err);
    ht_free(f.productive);
    if (status == HEARTH_OK && root >= b->n_rules)
        status = ht_fail(err, HEARTH_INVALID, "the grammar has no rule root");
    return status == HEARTH_OK ? refuse_left_recursion(b, nullable, err) : status;
}
