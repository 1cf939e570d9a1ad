// SPDX-License-Identifier: Apache-2.0
// Merges the symbols of one stretch of text, best pair first, with a linked list and a heap: n log n.
// Any thread; scratch belongs to the call.
#ifndef HT_BPE_H
#define HT_BPE_H
#include "engine/text/vocabulary.h"

struct ht_symbol {
    uint32_t prev, next; // indices, HT_NO_SYMBOL at the ends
    uint32_t start;      // first byte in the stretch; it ends where the next one starts
    uint32_t rank;       // of merging this one with the next; HT_NO_RANK = they do not merge
    int32_t id;          // byte level: the token; SentencePiece looks tokens up at the end
};
enum { HT_NO_SYMBOL = UINT32_MAX };

// Scratch of one encode call. Zero-initialise; ht_merge_free.
struct ht_merge {
    const struct ht_vocab *vocab;
    const unsigned char *text; // the stretch
    uint32_t len_bytes;
    struct ht_symbol *symbols; // symbols[0] is the first, if n_symbols > 0
    size_t n_symbols, symbol_capacity;
    uint64_t *heap; // rank << 32 | index of the left symbol, smallest on top
    size_t n_heap, heap_capacity;
    uint16_t
        *unused_split; // (n_tokens) bytes of the left part that an unused token was last made of; or NULL
    size_t n_dropped_bytes;
    uint64_t n_steps;
};
// NOMEM, or LIMIT for a stretch beyond HT_MAX_STRETCH_BYTES.
HT_MUST_USE enum hearth_status ht_merge_run(struct ht_merge *merge, const void *text, size_t len_bytes,
                                            struct hearth_error *err);
void ht_merge_free(struct ht_merge *merge);

#endif
