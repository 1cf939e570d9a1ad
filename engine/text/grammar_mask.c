// SPDX-License-Identifier: Apache-2.0
// Which tokens may come next: one walk over the token trie beside the automaton. Masks are kept by state. One thread.
#include <string.h>

#include "engine/base/mem.h"
#include "engine/text/grammar_match.h"

// ---- plain text: where every plain character leads to one state, and so on for as long as plain tokens are, all
// plain tokens are allowed and only the rest of the vocabulary needs a look.

enum {
    ASCII,
    LEAD_2,
    LEAD_E0,
    LEAD_3,
    LEAD_ED,
    LEAD_F0,
    LEAD_F1,
    LEAD_F4,
    TAIL,
    TAIL_E0,
    TAIL_ED,
    TAIL_F0,
    TAIL_F4
};

static void add_classes(struct ht_matcher *m, int list, unsigned from, unsigned to)
{
    struct ht_class_list *l = &m->lists[list];
    for (unsigned byte = from; byte <= to; byte++) {
        uint8_t c = m->g->class_of[byte];
        if ((byte != '"' && byte != '\\') && !memchr(l->classes, c, l->n))
            l->classes[l->n++] = c;
    }
}

static void list_classes(struct ht_matcher *m)
{
    static const struct {
        unsigned char list, from, to;
    } ranges[] = {{ASCII, 0x20, 0x7E},   {LEAD_2, 0xC2, 0xDF},  {LEAD_E0, 0xE0, 0xE0}, {LEAD_3, 0xE1, 0xEC},
                  {LEAD_3, 0xEE, 0xEF},  {LEAD_ED, 0xED, 0xED}, {LEAD_F0, 0xF0, 0xF0}, {LEAD_F1, 0xF1, 0xF3},
                  {LEAD_F4, 0xF4, 0xF4}, {TAIL, 0x80, 0xBF},    {TAIL_E0, 0xA0, 0xBF}, {TAIL_ED, 0x80, 0x9F},
                  {TAIL_F0, 0x90, 0xBF}, {TAIL_F4, 0x80, 0x8F}};
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++)
        add_classes(m, ranges[i].list, ranges[i].from, ranges[i].to);
}

// The one state that all classes of the lists lead to, list after list; 0 if there is none such.
static uint32_t through(struct ht_matcher *m, uint32_t state, const unsigned char *lists, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        const struct ht_class_list *l = &m->lists[lists[i]];
        uint32_t to = ht_match_step(m, state, l->classes[0]);
        for (unsigned k = 1; to > HT_STATE_DEAD && k < l->n; k++)
            if (ht_match_step(m, state, l->classes[k]) != to)
                return 0;
        if (to <= HT_STATE_DEAD)
            return 0;
        state = to;
    }
    return state;
}

// The state after any plain character, 0 if they differ.
static uint32_t after_plain(struct ht_matcher *m, uint32_t state)
{
    static const unsigned char ways[][4] = {{LEAD_2, TAIL},
                                            {LEAD_E0, TAIL_E0, TAIL},
                                            {LEAD_3, TAIL, TAIL},
                                            {LEAD_ED, TAIL_ED, TAIL},
                                            {LEAD_F0, TAIL_F0, TAIL, TAIL},
                                            {LEAD_F1, TAIL, TAIL, TAIL},
                                            {LEAD_F4, TAIL_F4, TAIL, TAIL}};
    static const unsigned char lengths[] = {2, 3, 3, 3, 4, 4, 4};
    uint32_t to = through(m, state, (const unsigned char[]){ASCII}, 1);
    for (unsigned i = 0; to && i < sizeof lengths; i++)
        if (through(m, state, ways[i], lengths[i]) != to)
            return 0;
    return to;
}

static bool takes_plain(struct ht_matcher *m, uint32_t state)
{
    for (int i = 0; i < HT_PLAIN_CHARS; i++) {
        uint32_t to = after_plain(m, state);
        if (!to)
            return false;
        if (to == state)
            return true;
        state = to;
    }
    return true;
}

// ---- the walk

static enum hearth_status fail_trouble(const struct ht_matcher *m, struct hearth_error *err)
{
    if (m->trouble == HT_TROUBLE_WORK)
        return ht_fail(err, HEARTH_LIMIT, "the grammar is too costly: one token took more than %d steps",
                       HT_MATCH_WORK);
    return ht_fail(err, HEARTH_LIMIT,
                   "the grammar is too ambiguous: more than %d ways to read the answer so far",
                   HT_MAX_GRAMMAR_WAYS);
}

// The tables are full in the middle of a walk: forgets them and goes the path again.
static bool walk_again(struct ht_matcher *m, uint32_t *root, uint32_t depth)
{
    ht_match_flush(m, root);
    m->path[0] = (uint16_t)*root;
    for (uint32_t d = 1; d <= depth; d++) {
        uint32_t next = ht_match_step(m, m->path[d - 1], m->g->class_of[m->path_bytes[d]]);
        if (!next)
            return false;
        m->path[d] = (uint16_t)next;
    }
    return true;
}

static enum hearth_status walk(struct ht_matcher *m, const struct ht_trie_part *part, uint32_t *root,
                               uint32_t *mask, struct hearth_error *err)
{
    const struct ht_trie_node *nodes = part->nodes;
    uint32_t n_classes = m->g->n_classes;
    m->path[0] = (uint16_t)*root;
    for (uint32_t i = 1; i < part->n_nodes;) {
        const struct ht_trie_node *node = &nodes[i];
        uint32_t from = m->path[node->depth - 1], c = m->g->class_of[node->byte],
                 next = m->steps[(size_t)from * n_classes + c];
        if (!next) {
            next = ht_match_step(m, from, c);
            if (!next && m->trouble == HT_TROUBLE_FULL && walk_again(m, root, node->depth - 1u))
                next = ht_match_step(m, m->path[node->depth - 1], c);
            if (!next)
                return fail_trouble(m, err);
        }
        if (next == HT_STATE_DEAD) {
            i = node->skip;
            continue;
        }
        m->path[node->depth] = (uint16_t)next;
        m->path_bytes[node->depth] = node->byte;
        for (uint32_t k = node->first; k < nodes[i + 1].first; k++)
            mask[part->order[k] / 32] |= 1u << part->order[k] % 32;
        i++;
    }
    return HEARTH_OK;
}

// The mask of *root into `mask`.
static enum hearth_status make_mask(struct ht_matcher *m, uint32_t *root, uint32_t *mask,
                                    enum ht_allowed *allowed, struct hearth_error *err)
{
    if (m->n_states + 512 > m->max_states)
        ht_match_flush(m, root);
    memset(mask, 0, m->n_words * sizeof *mask);
    if (takes_plain(m, *root)) {
        memcpy(mask, m->trie->plain_mask, m->trie->n_words * sizeof *mask);
        HT_TRY(walk(m, &m->trie->rest, root, mask, err));
    } else {
        HT_TRY(walk(m, &m->trie->all, root, mask, err));
    }
    bool complete = m->states[*root].complete, any = false;
    for (uint32_t i = 0; i < m->n_end_ids; i++) // also where one is spelt like text
        mask[m->end_ids[i] / 32] &= ~(1u << m->end_ids[i] % 32);
    for (uint32_t i = 0; i < m->n_words && !any; i++)
        any = mask[i] != 0;
    for (uint32_t i = 0; complete && i < m->n_end_ids; i++)
        mask[m->end_ids[i] / 32] |= 1u << m->end_ids[i] % 32;
    *allowed = any ? HT_ALLOWED_TOKENS : complete ? HT_ALLOWED_END : HT_ALLOWED_NOTHING;
    return HEARTH_OK;
}

// A place for one more mask: the one that was not used for longest.
static uint32_t free_mask(const struct ht_matcher *m)
{
    uint32_t oldest = 0;
    for (uint32_t i = 0; i < HT_MATCH_MASKS; i++) {
        if (!m->kept[i].state)
            return i;
        if (m->kept[i].used < m->kept[oldest].used)
            oldest = i;
    }
    return oldest;
}

static enum hearth_status mask_of(struct ht_matcher *m, uint32_t *state, uint32_t *mask,
                                  enum ht_allowed *allowed, struct hearth_error *err)
{
    if (m->states[*state].mask < 0) {
        HT_TRY(make_mask(m, state, mask, allowed, err)); // may give states new numbers
        uint32_t at = free_mask(m);
        if (m->kept[at].state)
            m->states[m->kept[at].state].mask = -1;
        m->kept[at].state = *state;
        m->kept[at].used = ++m->clock;
        m->kept[at].allowed = *allowed;
        m->states[*state].mask = (int32_t)at;
        memcpy(m->masks + (size_t)at * m->n_words, mask, m->n_words * sizeof *mask);
        return HEARTH_OK;
    }
    uint32_t at = (uint32_t)m->states[*state].mask;
    m->kept[at].used = ++m->clock;
    *allowed = m->kept[at].allowed;
    memcpy(mask, m->masks + (size_t)at * m->n_words, m->n_words * sizeof *mask);
    return HEARTH_OK;
}

// ---- tokens

static void begin_call(struct ht_matcher *m)
{
    m->work = 0;
    m->trouble = HT_TROUBLE_NONE;
}

static bool is_end(const struct ht_matcher *m, int32_t id)
{
    for (uint32_t i = 0; i < m->n_end_ids; i++)
        if (m->end_ids[i] == id)
            return true;
    return false;
}

// *state after the bytes of id; false (and *state as it was, but for its number) if they are not allowed.
static bool pass(struct ht_matcher *m, uint32_t *state, int32_t id)
{
    struct ht_text piece = ht_tokenizer_piece(m->tokenizer, id, false);
    uint32_t at = *state;
    if (!piece.len_bytes || !(m->trie->held[id / 32] >> id % 32 & 1) || is_end(m, id))
        return false;
    for (size_t i = 0; i < piece.len_bytes; i++) {
        uint32_t next = ht_match_byte(m, &at, (unsigned char)piece.bytes[i]);
        if (next <= HT_STATE_DEAD)
            return false;
        at = next;
    }
    *state = at;
    return true;
}

enum hearth_status ht_matcher_mask(struct ht_matcher *m, const int32_t *ids, uint32_t n_ids, uint32_t *mask,
                                   enum ht_allowed *allowed, struct hearth_error *err)
{
    begin_call(m);
    *allowed = HT_ALLOWED_NOTHING;
    uint32_t state = m->current;
    for (uint32_t i = 0; i < n_ids; i++)
        if (!pass(m, &state, ids[i]))
            return m->trouble ? fail_trouble(m, err)
                              : ht_fail(err, HEARTH_INVALID, "draft token %u does not follow the grammar", i);
    HT_TRY(mask_of(m, &state, mask, allowed, err));
    if (*allowed == HT_ALLOWED_NOTHING && m->too_deep)
        return ht_fail(err, HEARTH_LIMIT, "the grammar's rules are nested more than %d deep",
                       HT_MAX_GRAMMAR_DEPTH);
    return HEARTH_OK;
}

uint32_t ht_matcher_allowed(struct ht_matcher *m, const int32_t *ids, uint32_t n_ids)
{
    begin_call(m);
    uint32_t state = m->current, n = 0;
    while (n < n_ids && pass(m, &state, ids[n]))
        n++;
    return n;
}

bool ht_matcher_take(struct ht_matcher *m, int32_t id)
{
    begin_call(m);
    uint32_t state = m->current;
    if (!pass(m, &state, id))
        return false;
    m->current = state;
    return true;
}

bool ht_matcher_is_complete(const struct ht_matcher *m)
{
    return m->states[m->current].complete;
}

bool ht_matcher_is_finished(const struct ht_matcher *m)
{
    return m->states[m->current].complete && m->states[m->current].n == 1;
}

// ---- life

static bool list_ends(struct ht_matcher *m, const int32_t *end_ids, uint32_t n_end_ids)
{
    uint32_t n = 0, n_tokens = m->trie->n_vocab;
    for (uint32_t id = 0; id < n_tokens; id++)
        n += ht_tokenizer_is_end(m->tokenizer, id);
    m->end_ids = ht_calloc(n + n_end_ids + 1, sizeof *m->end_ids);
    if (!m->end_ids)
        return false;
    for (uint32_t id = 0; id < n_tokens; id++)
        if (ht_tokenizer_is_end(m->tokenizer, id))
            m->end_ids[m->n_end_ids++] = (int32_t)id;
    for (uint32_t i = 0; i < n_end_ids; i++)
        if (end_ids[i] >= 0 && (uint32_t)end_ids[i] < m->n_vocab)
            m->end_ids[m->n_end_ids++] = end_ids[i];
    return true;
}

static enum hearth_status create(struct ht_matcher *m, const int32_t *end_ids, uint32_t n_end_ids,
                                 struct hearth_error *err)
{
    if (m->trie->n_vocab > m->n_vocab)
        return ht_fail(err, HEARTH_FORMAT, "the vocabulary has %u tokens, the model gives logits for %u",
                       m->trie->n_vocab, m->n_vocab);
    m->masks = ht_calloc((size_t)HT_MATCH_MASKS * m->n_words, sizeof *m->masks);
    m->path = ht_calloc(m->trie->max_bytes + 1, sizeof *m->path);
    m->path_bytes = ht_calloc(m->trie->max_bytes + 1, 1);
    if (!m->masks || !m->path || !m->path_bytes || !list_ends(m, end_ids, n_end_ids))
        return ht_fail(err, HEARTH_NOMEM, "out of memory for following a grammar");
    list_classes(m);
    return ht_match_init(m, err);
}

enum hearth_status ht_matcher_create(struct ht_matcher **matcher, struct ht_grammar **grammar,
                                     const struct ht_trie *trie, const struct ht_tokenizer *tokenizer,
                                     uint32_t n_vocab, const int32_t *end_ids, uint32_t n_end_ids,
                                     struct hearth_error *err)
{
    struct ht_matcher *m = *matcher = ht_calloc(1, sizeof *m);
    if (!m) {
        ht_grammar_destroy(grammar);
        return ht_fail(err, HEARTH_NOMEM, "out of memory for following a grammar");
    }
    m->g = *grammar;
    *grammar = NULL;
    m->trie = trie;
    m->tokenizer = tokenizer;
    m->n_vocab = n_vocab;
    m->n_words = n_vocab / 32 + (n_vocab % 32 != 0);
    enum hearth_status status = create(m, end_ids, n_end_ids, err);
    if (status != HEARTH_OK)
        ht_matcher_destroy(matcher);
    return status;
}

void ht_matcher_destroy(struct ht_matcher **matcher)
{
    struct ht_matcher *m = *matcher;
    *matcher = NULL;
    if (!m)
        return;
    ht_match_deinit(m);
    ht_free(m->end_ids);
    ht_free(m->masks);
    ht_free(m->path);
    ht_free(m->path_bytes);
    ht_grammar_destroy(&m->g);
    ht_free(m);
}

size_t ht_matcher_size_bytes(const struct ht_matcher *m)
{
    return sizeof *m + ht_grammar_size_bytes(m->g) + (size_t)HT_MATCH_MASKS * m->n_words * sizeof *m->masks +
           HT_MATCH_CELLS * (sizeof *m->cells + 2 * sizeof *m->cell_hash) + HT_MATCH_WAYS * sizeof *m->ways +
           m->max_states * (sizeof *m->states + m->g->n_classes * sizeof *m->steps) +
           2 * HT_MATCH_STATES * sizeof *m->state_hash +
           HT_MATCH_VISITS * (sizeof *m->visits + 2 * sizeof *m->seen) +
           m->trie->max_bytes * (sizeof *m->path + 1) + m->n_end_ids * sizeof *m->end_ids;
}
