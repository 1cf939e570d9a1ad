// SPDX-License-Identifier: Apache-2.0
// From expressions to an automaton over bytes. Each expression is made from its end to its beginning: what follows is
// made first. Characters become sequences of byte sets (UTF-8), endings shared. Owned by one thread.
#include <string.h>

#include "engine/base/mem.h"
#include "engine/base/utf8.h"
#include "engine/text/grammar_build.h"

enum { SET_HASH = 4 * HT_MAX_GRAMMAR_SETS };

struct byte_set {
    uint32_t bits[8];
};

struct compiler {
    struct ht_grammar *g;
    const struct ht_builder *b;
    const bool *nullable;
    struct byte_set *sets;
    uint32_t n_sets, *hash; // [SET_HASH] set + 1
    uint32_t single[256];   // set of one byte + 1
    struct hearth_error *err;
    enum hearth_status status;
};

static uint32_t fail_limit(struct compiler *c, const char *what, int most)
{
    if (c->status == HEARTH_OK)
        c->status = ht_fail(c->err, HEARTH_LIMIT, "the grammar needs more than %d %s", most, what);
    return 0;
}

static uint32_t add_node(struct compiler *c, enum ht_node_kind kind, uint32_t a, uint32_t next)
{
    struct ht_grammar *g = c->g;
    if (c->status != HEARTH_OK)
        return 0;
    if (g->n_nodes == HT_MAX_GRAMMAR_NODES)
        return fail_limit(c, "states", HT_MAX_GRAMMAR_NODES);
    if (g->n_nodes == g->cap_nodes) {
        uint32_t grown = g->cap_nodes * 2 + 256;
        if (!ht_grow((void **)&g->nodes, g->n_nodes, grown, sizeof *g->nodes)) {
            c->status = ht_fail(c->err, HEARTH_NOMEM, "out of memory for a grammar of %u states", grown);
            return 0;
        }
        g->cap_nodes = grown;
    }
    g->nodes[g->n_nodes] = (struct ht_node){.kind = kind, .a = a, .next = next};
    return g->n_nodes++;
}

// ---- sets of bytes, each kept once

static uint32_t find_set(struct compiler *c, const struct byte_set *set)
{
    uint32_t h = 2166136261u;
    for (int i = 0; i < 8; i++)
        h = (h ^ set->bits[i]) * 16777619u ^ h >> 15;
    for (uint32_t at = h % SET_HASH;; at = (at + 1) % SET_HASH) {
        if (!c->hash[at]) {
            if (c->n_sets == HT_MAX_GRAMMAR_SETS)
                return fail_limit(c, "sets of bytes", HT_MAX_GRAMMAR_SETS);
            c->sets[c->n_sets++] = *set;
            return (c->hash[at] = c->n_sets) - 1;
        }
        if (!memcmp(&c->sets[c->hash[at] - 1], set, sizeof *set))
            return c->hash[at] - 1;
    }
}

static void add_bytes(struct byte_set *set, unsigned from, unsigned to)
{
    for (unsigned i = from; i <= to; i++)
        set->bits[i / 32] |= 1u << i % 32;
}

static uint32_t one_byte(struct compiler *c, unsigned char byte)
{
    if (!c->single[byte]) {
        struct byte_set set = {{0}};
        add_bytes(&set, byte, byte);
        c->single[byte] = find_set(c, &set) + 1;
    }
    return c->single[byte] - 1;
}

static uint32_t byte_node(struct compiler *c, const struct byte_set *set, uint32_t next)
{
    return add_node(c, HT_NODE_BYTES, find_set(c, set), next);
}

// ---- characters

// What one list of ranges has become so far: leads[i] leads to node target[i]; tails are shared.
enum { MAX_LEADS = 256, MAX_TAILS = 128 };
struct chars {
    uint32_t next;
    uint32_t n_leads, n_tails;
    struct {
        struct byte_set set;
        uint32_t target;
    } leads[MAX_LEADS];
    struct {
        unsigned char from, to;
        uint32_t next, node;
    } tails[MAX_TAILS]; // a ring: older ones are forgotten and made again
};

static uint32_t tail(struct compiler *c, struct chars *chars, unsigned from, unsigned to, uint32_t next)
{
    uint32_t n = chars->n_tails < MAX_TAILS ? chars->n_tails : MAX_TAILS;
    for (uint32_t i = 0; i < n; i++)
        if (chars->tails[i].from == from && chars->tails[i].to == to && chars->tails[i].next == next)
            return chars->tails[i].node;
    struct byte_set set = {{0}};
    add_bytes(&set, from, to);
    uint32_t node = byte_node(c, &set, next), at = chars->n_tails++ % MAX_TAILS;
    chars->tails[at].from = (unsigned char)from;
    chars->tails[at].to = (unsigned char)to;
    chars->tails[at].next = next;
    chars->tails[at].node = node;
    return node;
}

static void lead(struct compiler *c, struct chars *chars, unsigned from, unsigned to, uint32_t target)
{
    uint32_t i = 0;
    while (i < chars->n_leads && chars->leads[i].target != target)
        i++;
    if (i == MAX_LEADS) {
        fail_limit(c, "beginnings of characters in one class", MAX_LEADS);
        return;
    }
    if (i == chars->n_leads) {
        memset(&chars->leads[i].set, 0, sizeof chars->leads[i].set);
        chars->leads[i].target = target;
        chars->n_leads++;
    }
    add_bytes(&chars->leads[i].set, from, to);
}

// [from, to], all of one encoded length, split until each piece is one byte range at each place.
static void add_range(struct compiler *c, struct chars *chars, uint32_t from, uint32_t to)
{
    unsigned char low[4], high[4];
    unsigned n = (unsigned)ht_utf8_put(from, low);
    ht_utf8_put(to, high);
    for (unsigned i = 1; i < n; i++) { // the last i bytes must be free, or the ones before them equal
        uint32_t mask = (1u << 6 * i) - 1;
        if ((from & ~mask) == (to & ~mask))
            continue;
        if (from & mask) {
            add_range(c, chars, from, from | mask);
            add_range(c, chars, (from | mask) + 1, to);
            return;
        }
        if ((to & mask) != mask) {
            add_range(c, chars, from, (to & ~mask) - 1);
            add_range(c, chars, to & ~mask, to);
            return;
        }
    }
    uint32_t next = chars->next;
    for (unsigned i = n; i-- > 1;)
        next = tail(c, chars, low[i], high[i], next);
    lead(c, chars, low[0], high[0], next);
}

static uint32_t compile_chars(struct compiler *c, const struct ht_expr_item *e, uint32_t next)
{
    static const uint32_t ends[] = {0x7F, 0x7FF, 0xFFFF, 0x10FFFF};
    struct chars chars = {.next = next};
    for (uint32_t i = 0; i < e->b; i++) {
        struct ht_char_range r = c->b->ranges[e->a + i];
        for (int k = 0; k < 4 && r.from <= r.to; k++) {
            if (r.from > ends[k])
                continue;
            uint32_t to = r.to < ends[k] ? r.to : ends[k];
            add_range(c, &chars, r.from, to);
            r.from = to + 1;
        }
    }
    uint32_t node = 0;
    for (uint32_t i = 0; i < chars.n_leads; i++) {
        uint32_t one = byte_node(c, &chars.leads[i].set, chars.leads[i].target);
        node = i ? add_node(c, HT_NODE_FORK, one, node) : one;
    }
    if (!chars.n_leads) { // no character: a set without a byte
        struct byte_set none = {{0}};
        node = byte_node(c, &none, next);
    }
    return node;
}

// ---- expressions

static uint32_t compile(struct compiler *c, ht_expr e, uint32_t next);

static uint32_t compile_repeat(struct compiler *c, const struct ht_expr_item *e, uint32_t next)
{
    if (e->c == 1) // 0 to 1 times
        return add_node(c, HT_NODE_FORK, compile(c, e->a, next), next);
    if (e->c == HT_NO_END && e->b <= 1) {
        uint32_t loop = add_node(c, HT_NODE_FORK, 0, next), body = compile(c, e->a, loop);
        if (c->status == HEARTH_OK)
            c->g->nodes[loop].a = body;
        return e->b ? body : loop;
    }
    uint32_t body = compile(c, e->a, 0), node = add_node(c, HT_NODE_REPEAT, body, next);
    if (c->status == HEARTH_OK) {
        c->g->nodes[node].empty = c->nullable[e->a];
        c->g->nodes[node].min = c->nullable[e->a] ? 0 : e->b;
        c->g->nodes[node].max = e->c;
    }
    return node;
}

// Node where e begins, when it is followed by `next`. Long sequences and alternatives grow in `a`: no recursion there.
static uint32_t compile(struct compiler *c, ht_expr e, uint32_t next)
{
    if (c->status != HEARTH_OK)
        return 0;
    const struct ht_expr_item *x = &c->b->items[e];
    for (; x->kind == HT_EXPR_SEQ; x = &c->b->items[x->a])
        next = compile(c, x->b, next);
    switch (x->kind) {
    case HT_EXPR_EMPTY: return next;
    case HT_EXPR_LITERAL:
        for (uint32_t i = x->b; i-- > 0;)
            next = add_node(c, HT_NODE_BYTES, one_byte(c, c->b->bytes[x->a + i]), next);
        return next;
    case HT_EXPR_CHARS: return compile_chars(c, x, next);
    case HT_EXPR_REPEAT: return compile_repeat(c, x, next);
    case HT_EXPR_RULE: return add_node(c, HT_NODE_CALL, x->a, next);
    default:;
    }
    uint32_t node = compile(c, x->b, next); // HT_EXPR_ALT
    for (x = &c->b->items[x->a]; x->kind == HT_EXPR_ALT; x = &c->b->items[x->a])
        node = add_node(c, HT_NODE_FORK, compile(c, x->b, next), node);
    return add_node(c, HT_NODE_FORK, compile(c, (ht_expr)(x - c->b->items), next), node);
}

// ---- classes: bytes that are in the same sets

static void make_classes(struct compiler *c)
{
    struct ht_grammar *g = c->g;
    memset(g->class_of, 0, sizeof g->class_of);
    g->n_classes = 1;
    for (uint32_t s = 0; s < c->n_sets; s++) {
        uint16_t with[256] = {0}, count[256] = {0}, in[256] = {0}; // new class + 1 of the members of a class
        for (int i = 0; i < 256; i++) {
            count[g->class_of[i]]++;
            in[g->class_of[i]] += c->sets[s].bits[i / 32] >> i % 32 & 1;
        }
        for (int i = 0; i < 256; i++) {
            unsigned k = g->class_of[i];
            if (!(c->sets[s].bits[i / 32] >> i % 32 & 1) || in[k] == count[k])
                continue;
            if (!with[k])
                with[k] = (uint16_t)++g->n_classes;
        }
        for (int i = 0; i < 256; i++)
            if (c->sets[s].bits[i / 32] >> i % 32 & 1 && with[g->class_of[i]])
                g->class_of[i] = (uint8_t)(with[g->class_of[i]] - 1);
    }
    for (uint32_t s = 0; s < c->n_sets; s++)
        for (int i = 0; i < 256; i++)
            if (c->sets[s].bits[i / 32] >> i % 32 & 1)
                g->set_classes[s][g->class_of[i] / 32] |= 1u << g->class_of[i] % 32;
}

static enum hearth_status compile_rules(struct compiler *c, uint32_t root)
{
    struct ht_grammar *g = c->g;
    g->n_rules = c->b->n_rules;
    g->root = root;
    g->entry = ht_calloc(g->n_rules, sizeof *g->entry);
    c->sets = ht_calloc(HT_MAX_GRAMMAR_SETS, sizeof *c->sets);
    c->hash = ht_calloc(SET_HASH, sizeof *c->hash);
    if (!g->entry || !c->sets || !c->hash)
        return ht_fail(c->err, HEARTH_NOMEM, "out of memory for a grammar");
    add_node(c, HT_NODE_END, 0, 0); // node 0
    for (uint32_t r = 0; r < g->n_rules; r++)
        g->entry[r] = compile(c, c->b->rules[r].body, 0);
    HT_TRY(c->status);
    g->n_sets = c->n_sets;
    g->set_classes = ht_calloc(c->n_sets + 1, sizeof *g->set_classes);
    if (!g->set_classes)
        return ht_fail(c->err, HEARTH_NOMEM, "out of memory for a grammar of %u sets", c->n_sets);
    make_classes(c);
    return HEARTH_OK;
}

enum hearth_status ht_grammar_compile(struct ht_grammar **grammar, struct ht_builder *b, uint32_t root,
                                      struct hearth_error *err)
{
    *grammar = NULL;
    HT_TRY(b->status);
    bool *nullable = ht_calloc(b->n_items, sizeof *nullable);
    struct compiler c = {.g = ht_calloc(1, sizeof *c.g), .b = b, .nullable = nullable, .err = err};
    enum hearth_status status = HEARTH_OK;
    if (!nullable || !c.g)
        status = ht_fail(err, HEARTH_NOMEM, "out of memory for a grammar");
    if (status == HEARTH_OK)
        status = ht_grammar_check(b, root, nullable, err);
    if (status == HEARTH_OK)
        status = compile_rules(&c, root);
    ht_free(nullable);
    ht_free(c.sets);
    ht_free(c.hash);
    if (status != HEARTH_OK)
        ht_grammar_destroy(&c.g);
    *grammar = c.g;
    return status;
}

void ht_grammar_destroy(struct ht_grammar **grammar)
{
    struct ht_grammar *g = *grammar;
    *grammar = NULL;
    if (!g)
        return;
    ht_free(g->nodes);
    ht_free(g->entry);
    ht_free(g->set_classes);
    ht_free(g);
}

size_t ht_grammar_size_bytes(const struct ht_grammar *g)
{
    return sizeof *g + g->cap_nodes * sizeof *g->nodes + g->n_rules * sizeof *g->entry +
           (g->n_sets + 1) * sizeof *g->set_classes;
}
