// SPDX-License-Identifier: Apache-2.0
// Pre-tokenizers of byte-level BPE: they cut a text into pieces; tokens never cross a cut. Any thread.
//
// The patterns are few and fixed, and only look forward: each is a hand-written scanner, so that no text can
// hit a match limit or cost more than a few looks at each character.
#ifndef HT_SPLIT_H
#define HT_SPLIT_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ht_pre_tokenizer; // one way to cut

// By tokenizer.ggml.pre; NULL if the name is unknown. `pre` NULL means "default", or "gpt-2" for the
// architectures whose files never name one.
const struct ht_pre_tokenizer *ht_pre_tokenizer_find(const char *pre, const char *architecture);
bool ht_pre_tokenizer_ignores_merges(
    const struct ht_pre_tokenizer *pre);                            // a piece that is a token is taken whole
bool ht_pre_tokenizer_adds_bos(const struct ht_pre_tokenizer *pre); // unless the file says otherwise

struct ht_splitter {
    const struct ht_pre_tokenizer *pre;
    const unsigned char *text;
    size_t position, outer_end, inner_end,
        end;          // nested cuts: outer_end and inner_end are where the current ones end
    uint64_t n_steps; // characters looked at
};
void ht_splitter_init(struct ht_splitter *splitter, const struct ht_pre_tokenizer *pre, const void *text,
                      size_t len_bytes);
// The next piece as text[*start, *start + returned bytes); 0 at the end.
size_t ht_splitter_next(struct ht_splitter *splitter, size_t *start);

#endif
