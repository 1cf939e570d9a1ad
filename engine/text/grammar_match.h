// SPDX-License-Identifier: Apache-2.0
// Inside of a matcher. A way is one reading of the answer so far: the node that reads the next byte, and a stack of
// where to go on after rules and repeated parts. A state is the set of all ways; states and what each class of bytes
// makes of them are found once and kept, so that most bytes cost one look-up. When the tables are full, all but the
// states in use are forgotten and found again. One thread.
#ifndef HT_GRAMMAR_MATCH_H
#define HT_GRAMMAR_MATCH_H
#include "engine/text/grammar_build.h"
#include "engine/text/token_trie.h"

enum {
    HT_MATCH_CELLS = 1 << 15,
    HT_MATCH_STATES = 1 << 12,
    HT_MATCH_WAYS = 1 << 16,   // of all states
    HT_MATCH_VISITS = 1 << 15, // nodes passed on the way from one byte to the next
    HT_MATCH_STEPS = 1 << 19,  // entries of the table state × class
    HT_MATCH_MASKS = 32,       // masks kept
    HT_MATCH_WORK = 8000000,  // nodes passed for one mask, at most: about a tenth of a second
};
// 0 = not yet known, or the tables are full
enum { HT_STATE_DEAD = 1, HT_STATE_FIRST = 2 };

struct ht_cell {     // one entry of a stack; 0 = the bottom
    uint32_t node;   // where to go on
    uint32_t count;  // at a REPEAT node: times begun; 0 = a rule's return
    uint32_t parent; // the entry below; always a smaller index
    uint32_t depth;
};

struct ht_way {
    uint32_t node, cell; // node BYTES; or END on the bottom: the answer is complete
};

struct ht_match_state {
    uint32_t first, n; // ways[first .. first + n), sorted
    int32_t mask;      // kept mask, -1 = none
    bool complete;
};

struct ht_visit {
    uint32_t node, cell, fresh; // fresh: entries pushed since the last byte
};

enum ht_trouble { HT_TROUBLE_NONE = 0, HT_TROUBLE_FULL, HT_TROUBLE_WAYS, HT_TROUBLE_WORK };

// Classes of the bytes of a range, each once.
struct ht_class_list {
    uint8_t n, classes[128];
};

struct ht_matcher {
    struct ht_grammar *g;
    const struct ht_trie *trie;
    const struct ht_tokenizer *tokenizer;
    uint32_t n_vocab, n_words;
    int32_t *end_ids;
    uint32_t n_end_ids;
    // ---- the automaton
    struct ht_cell *cells;
    uint32_t n_cells, *cell_hash; // [2 * CELLS] cell, 0 = free
    struct ht_way *ways;
    uint32_t n_ways;
    struct ht_match_state *states;
    uint32_t n_states, max_states;
    uint16_t *state_hash; // [2 * STATES] state, 0 = free
    uint16_t *steps;      // [max_states][n_classes]
    struct ht_visit *visits;
    uint32_t n_visits, stamp;
    struct {
        uint32_t stamp, visit;
    } * seen;         // [2 * VISITS] hash of (node, cell)
    uint32_t current; // the answer so far
    uint64_t work;    // nodes passed since the public call began
    enum ht_trouble trouble;
    bool too_deep; // some way was left because the stack was full
    // ---- masks
    uint32_t *masks; // [MASKS][n_words]
    struct {
        uint32_t state, used; // used: when, by clock
        enum ht_allowed allowed;
    } kept[HT_MATCH_MASKS];
    uint32_t clock;
    uint16_t *path;                 // [max_bytes + 1] states along the walk
    uint8_t *path_bytes;            // [max_bytes + 1]
    struct ht_class_list lists[13]; // by enum in grammar_mask.c
};

HT_MUST_USE enum hearth_status ht_match_init(struct ht_matcher *m, struct hearth_error *err);
void ht_match_deinit(struct ht_matcher *m);
// The state after a byte of class c: DEAD, or 0 with m->trouble set.
uint32_t ht_match_step(struct ht_matcher *m, uint32_t state, unsigned c);
// Forgets all states but m->current and *other (which get new numbers).
void ht_match_flush(struct ht_matcher *m, uint32_t *other);
// The state after a byte; makes room if need be, for which *state must be the only one in use beside m->current.
uint32_t ht_match_byte(struct ht_matcher *m, uint32_t *state, unsigned char byte);

#endif
