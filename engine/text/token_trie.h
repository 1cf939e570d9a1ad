// SPDX-License-Identifier: Apache-2.0
// Inside of the token trie (engine/text/grammar.h). Nodes lie in depth-first order, children by byte; the tokens that
// end at node i are order[first(i) .. first(i + 1)). A walk is one pass over the nodes; what cannot go on is skipped.
//
// Plain tokens are short whole characters without quote, backslash and control characters: most of a vocabulary, and
// inside a JSON string all of them may come. They are a mask of their own, and only the rest is walked there.
#ifndef HT_TOKEN_TRIE_H
#define HT_TOKEN_TRIE_H
#include "engine/text/grammar.h"

enum { HT_PLAIN_CHARS = 16 }; // most characters of a plain token

struct ht_trie_node {
    uint32_t skip;  // the node after this one's subtree
    uint32_t first; // of the tokens that end here, in `order`
    uint16_t depth; // bytes from the root to this node
    uint8_t byte;
};

struct ht_trie_part {
    struct ht_trie_node *nodes; // (n_nodes + 1): the last one ends the lists
    uint32_t *order;            // (n_tokens) ids, sorted by bytes
    uint32_t n_nodes, n_tokens;
};

struct ht_trie {
    struct ht_trie_part all, rest; // rest: all but the plain tokens
    uint32_t *plain_mask;          // (n_words) the plain tokens
    uint32_t *held;                // (n_words) all tokens of the tree
    uint32_t n_vocab, n_words, max_bytes;
};

#endif
