// SPDX-License-Identifier: Apache-2.0
// The automaton of a matcher: ways, states, and what a byte makes of them. One thread.
#include "engine/text/grammar_match.h"

#include <string.h>

#include "engine/base/mem.h"

static uint32_t mix(uint32_t a, uint32_t b, uint32_t c)
{
    uint64_t h = (a * 0x9E3779B97F4A7C15u) ^ (b * 0xC2B2AE3D27D4EB4Fu) ^ (c * 0x165667B19E3779F9u);
    return (uint32_t)((h ^ h >> 29) * 0xBF58476D1CE4E5B9u >> 32);
}

// ---- stacks

static void link_cell(struct ht_matcher *m, uint32_t cell)
{
    const struct ht_cell *c = &m->cells[cell];
    uint32_t at = mix(c->node, c->count, c->parent) % (2 * HT_MATCH_CELLS);
    while (m->cell_hash[at])
        at = (at + 1) % (2 * HT_MATCH_CELLS);
    m->cell_hash[at] = cell;
}

// The stack with one more entry. 0: too deep, or full (then trouble says so).
static uint32_t push(struct ht_matcher *m, uint32_t node, uint32_t count, uint32_t parent)
{
    for (uint32_t at = mix(node, count, parent) % (2 * HT_MATCH_CELLS); m->cell_hash[at];
         at = (at + 1) % (2 * HT_MATCH_CELLS)) {
        const struct ht_cell *c = &m->cells[m->cell_hash[at]];
        if (c->node == node && c->count == count && c->parent == parent)
            return m->cell_hash[at];
    }
    if (m->cells[parent].depth == HT_MAX_GRAMMAR_DEPTH) {
        m->too_deep = true;
        return 0;
    }
    if (m->n_cells == HT_MATCH_CELLS) {
        m->trouble = HT_TROUBLE_FULL;
        return 0;
    }
    m->cells[m->n_cells] =
        (struct ht_cell){.node = node, .count = count, .parent = parent, .depth = m->cells[parent].depth + 1};
    link_cell(m, m->n_cells);
    return m->n_cells++;
}

// ---- from one byte to the nodes that read the next

static void visit(struct ht_matcher *m, uint32_t node, uint32_t cell, uint32_t fresh)
{
    uint32_t at = mix(node, cell, 0) % (2 * HT_MATCH_VISITS);
    for (; m->seen[at].stamp == m->stamp; at = (at + 1) % (2 * HT_MATCH_VISITS)) {
        const struct ht_visit *v = &m->visits[m->seen[at].visit];
        if (v->node == node && v->cell == cell)
            return;
    }
    if (m->n_visits == HT_MATCH_VISITS) {
        m->trouble = HT_TROUBLE_WAYS;
        return;
    }
    m->seen[at].stamp = m->stamp;
    m->seen[at].visit = m->n_visits;
    m->visits[m->n_visits++] = (struct ht_visit){.node = node, .cell = cell, .fresh = fresh};
}

static void visit_under(struct ht_matcher *m, uint32_t node, uint32_t back, uint32_t count, uint32_t cell,
                        uint32_t fresh)
{
    uint32_t pushed = push(m, back, count, cell);
    if (pushed)
        visit(m, node, pushed, fresh + 1);
}

// At REPEAT node `at`, begun `count` times so far.
static void repeat(struct ht_matcher *m, uint32_t at, uint32_t count, uint32_t cell, uint32_t fresh)
{
    const struct ht_node *node = &m->g->nodes[at];
    if (count < node->max) {
        uint32_t next = count + 1, most = node->min ? node->min : 1;
        if (node->max == HT_NO_END && next > most)
            next = most; // beyond the minimum all counts are alike
        visit_under(m, node->a, at, next, cell, fresh);
    }
    if (count >= node->min)
        visit(m, node->next, cell, fresh);
}

static void return_to(struct ht_matcher *m, const struct ht_visit *v)
{
    struct ht_cell c = m->cells[v->cell];
    // A repeated part that was the empty text: once more gives nothing new, and it would never end.
    if (c.count && v->fresh)
        return;
    uint32_t fresh = v->fresh ? v->fresh - 1 : 0;
    if (m->g->nodes[c.node].kind == HT_NODE_REPEAT)
        repeat(m, c.node, c.count, c.parent, fresh);
    else
        visit(m, c.node, c.parent, fresh);
}

// Follows everything that reads no byte; ways that read one (or end) are moved to the front of `visits`.
static uint32_t close_over(struct ht_matcher *m)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < m->n_visits && !m->trouble; i++) {
        struct ht_visit v = m->visits[i];
        const struct ht_node *node = &m->g->nodes[v.node];
        switch (node->kind) {
        case HT_NODE_BYTES: break;
        case HT_NODE_END:
            if (v.cell) {
                return_to(m, &v);
                continue;
            }
            break;
        case HT_NODE_FORK:
            visit(m, node->a, v.cell, v.fresh);
            visit(m, node->next, v.cell, v.fresh);
            continue;
        case HT_NODE_CALL:
            if (node->next)
                visit_under(m, m->g->entry[node->a], node->next, 0, v.cell, v.fresh);
            else // the last thing of a rule: what called the rule goes on
                visit(m, m->g->entry[node->a], v.cell, v.fresh);
            continue;
        default: repeat(m, v.node, 0, v.cell, v.fresh); continue;
        }
        m->visits[i].fresh = UINT32_MAX; // a way
        n++;
    }
    m->work += m->n_visits;
    if (!m->trouble && n > HT_MAX_GRAMMAR_WAYS)
        m->trouble = HT_TROUBLE_WAYS;
    if (!m->trouble && m->work > HT_MATCH_WORK)
        m->trouble = HT_TROUBLE_WORK;
    return n;
}

// ---- states

static bool before(const struct ht_way *a, const struct ht_way *b)
{
    return a->node != b->node ? a->node < b->node : a->cell < b->cell;
}

static void sort_ways(struct ht_way *v, uint32_t n)
{
    static const uint32_t gaps[] = {1750, 701, 301, 132, 57, 23, 10, 4, 1};
    for (unsigned g = 0; g < sizeof gaps / sizeof *gaps; g++)
        for (uint32_t gap = gaps[g], i = gap; i < n; i++) {
            struct ht_way way = v[i];
            uint32_t j = i;
            for (; j >= gap && before(&way, &v[j - gap]); j -= gap)
                v[j] = v[j - gap];
            v[j] = way;
        }
}

// The state of ways[first .. first + n), which are the last ones; an equal one that is known takes their place.
static uint32_t intern(struct ht_matcher *m, uint32_t first, uint32_t n)
{
    uint32_t h = n;
    for (uint32_t i = first; i < first + n; i++)
        h = mix(h, m->ways[i].node, m->ways[i].cell);
    uint32_t at = h % (2 * HT_MATCH_STATES);
    for (; m->state_hash[at]; at = (at + 1) % (2 * HT_MATCH_STATES)) {
        const struct ht_match_state *s = &m->states[m->state_hash[at]];
        if (s->n == n && !memcmp(m->ways + s->first, m->ways + first, n * sizeof *m->ways)) {
            m->n_ways = first;
            return m->state_hash[at];
        }
    }
    if (m->n_states == m->max_states) {
        m->trouble = HT_TROUBLE_FULL;
        m->n_ways = first;
        return 0;
    }
    uint32_t state = m->n_states++;
    m->state_hash[at] = (uint16_t)state;
    // node END is 0: complete states have it first
    m->states[state] =
        (struct ht_match_state){.first = first, .n = n, .mask = -1, .complete = m->ways[first].node == 0};
    memset(m->steps + (size_t)state * m->g->n_classes, 0, m->g->n_classes * sizeof *m->steps);
    return state;
}

static void begin(struct ht_matcher *m)
{
    m->n_visits = 0;
    m->stamp++;
    m->trouble = HT_TROUBLE_NONE;
    if (m->stamp)
        return;
    memset(m->seen, 0, 2 * HT_MATCH_VISITS * sizeof *m->seen);
    m->stamp = 1;
}

// The state of what `visits` begins with. 0: trouble.
static uint32_t finish(struct ht_matcher *m)
{
    uint32_t n = close_over(m), first = m->n_ways;
    if (m->trouble)
        return 0;
    if (!n)
        return HT_STATE_DEAD;
    if (n > HT_MATCH_WAYS - first) {
        m->trouble = HT_TROUBLE_FULL;
        return 0;
    }
    for (uint32_t i = 0; i < m->n_visits; i++)
        if (m->visits[i].fresh == UINT32_MAX)
            m->ways[m->n_ways++] = (struct ht_way){m->visits[i].node, m->visits[i].cell};
    sort_ways(m->ways + first, n);
    return intern(m, first, n);
}

uint32_t ht_match_step(struct ht_matcher *m, uint32_t state, unsigned c)
{
    uint16_t *known = &m->steps[(size_t)state * m->g->n_classes + c];
    if (*known)
        return *known;
    begin(m);
    const struct ht_match_state *s = &m->states[state];
    for (uint32_t i = s->first; i < s->first + s->n && !m->trouble; i++) {
        const struct ht_node *node = &m->g->nodes[m->ways[i].node];
        if (node->kind == HT_NODE_BYTES && m->g->set_classes[node->a][c / 32] >> c % 32 & 1)
            visit(m, node->next, m->ways[i].cell, 0);
    }
    return *known = (uint16_t)finish(m);
}

// ---- forgetting

// Moves the ways of the kept states to the front.
static void keep_ways(struct ht_matcher *m, uint32_t low, uint32_t high, struct ht_match_state kept[2])
{
    uint32_t states[2] = {low, high}, at = 0;
    for (int i = 0; i < 2; i++) {
        struct ht_match_state s = m->states[states[i]];
        memmove(m->ways + at, m->ways + s.first, s.n * sizeof *m->ways);
        s.first = at;
        s.mask = -1;
        kept[i] = s;
        at += s.n;
    }
    m->n_ways = at;
}

static void compact_cells(struct ht_matcher *m)
{
    uint32_t *to = (uint32_t *)(void *)m->visits, n = 1; // visits are free between two bytes
    memset(to, 0, HT_MATCH_CELLS * sizeof *to);
    for (uint32_t i = 0; i < m->n_ways; i++)
        for (uint32_t cell = m->ways[i].cell; cell && !to[cell]; cell = m->cells[cell].parent)
            to[cell] = 1;
    memset(m->cell_hash, 0, 2 * HT_MATCH_CELLS * sizeof *m->cell_hash);
    for (uint32_t cell = 1; cell < m->n_cells; cell++) {
        if (!to[cell])
            continue;
        struct ht_cell c = m->cells[cell];
        c.parent = to[c.parent];
        m->cells[n] = c;
        link_cell(m, n);
        to[cell] = n++;
    }
    m->n_cells = n;
    for (uint32_t i = 0; i < m->n_ways; i++)
        m->ways[i].cell = to[m->ways[i].cell];
}

void ht_match_flush(struct ht_matcher *m, uint32_t *other)
{
    bool two = m->current != *other, first_is_low = m->states[m->current].first <= m->states[*other].first;
    uint32_t low = first_is_low ? m->current : *other, high = first_is_low ? *other : m->current;
    struct ht_match_state kept[2];
    keep_ways(m, low, high, kept);
    if (!two)
        m->n_ways = kept[0].n;
    compact_cells(m);
    memset(m->state_hash, 0, 2 * HT_MATCH_STATES * sizeof *m->state_hash);
    for (int i = 0; i < HT_MATCH_MASKS; i++)
        m->kept[i].state = 0;
    m->n_states = HT_STATE_FIRST;
    // The order of cells stays, so that sorted ways are sorted still.
    uint32_t n_ways = m->n_ways, first = intern(m, kept[0].first, kept[0].n), second = first;
    if (two) {
        m->n_ways = n_ways;
        second = intern(m, kept[1].first, kept[1].n);
    }
    m->current = first_is_low ? first : second;
    *other = first_is_low ? second : first;
    m->trouble = HT_TROUBLE_NONE;
}

uint32_t ht_match_byte(struct ht_matcher *m, uint32_t *state, unsigned char byte)
{
    unsigned c = m->g->class_of[byte];
    uint32_t next = ht_match_step(m, *state, c);
    if (!next && m->trouble == HT_TROUBLE_FULL) {
        ht_match_flush(m, state);
        next = ht_match_step(m, *state, c);
    }
    return next;
}

// ---- life

enum hearth_status ht_match_init(struct ht_matcher *m, struct hearth_error *err)
{
    m->max_states = HT_MATCH_STEPS / m->g->n_classes;
    if (m->max_states > HT_MATCH_STATES)
        m->max_states = HT_MATCH_STATES;
    m->cells = ht_calloc(HT_MATCH_CELLS, sizeof *m->cells);
    m->cell_hash = ht_calloc(2 * HT_MATCH_CELLS, sizeof *m->cell_hash);
    m->ways = ht_calloc(HT_MATCH_WAYS, sizeof *m->ways);
    m->states = ht_calloc(m->max_states, sizeof *m->states);
    m->state_hash = ht_calloc(2 * HT_MATCH_STATES, sizeof *m->state_hash);
    m->steps = ht_calloc((size_t)m->max_states * m->g->n_classes, sizeof *m->steps);
    m->visits = ht_calloc(HT_MATCH_VISITS, sizeof *m->visits);
    m->seen = ht_calloc(2 * HT_MATCH_VISITS, sizeof *m->seen);
    if (!m->cells || !m->cell_hash || !m->ways || !m->states || !m->state_hash || !m->steps || !m->visits ||
        !m->seen)
        return ht_fail(err, HEARTH_NOMEM, "out of memory for following a grammar");
    m->n_cells = 1;
    m->n_states = HT_STATE_FIRST;
    begin(m);
    visit(m, m->g->entry[m->g->root], 0, 0);
    m->current = finish(m);
    if (m->trouble || m->current == HT_STATE_DEAD)
        return ht_fail(err, HEARTH_LIMIT, "the grammar can begin in more than %d ways", HT_MAX_GRAMMAR_WAYS);
    return HEARTH_OK;
}

void ht_match_deinit(struct ht_matcher *m)
{
    ht_free(m->cells);
    ht_free(m->cell_hash);
    ht_free(m->ways);
    ht_free(m->states);
    ht_free(m->state_hash);
    ht_free(m->steps);
    ht_free(m->visits);
    ht_free(m->seen);
}
