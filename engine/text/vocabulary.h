// SPDX-License-Identifier: Apache-2.0
// A checked vocabulary: bytes of every token, look-ups by bytes, merge ranks. Built once, then read-only.
//
// All matching is done on raw bytes: GPT-2's printable stand-ins are turned back into the bytes they stand
// for, SentencePiece's "▁" into a space.
#ifndef HT_VOCABULARY_H
#define HT_VOCABULARY_H
#include "engine/text/split.h"
#include "engine/text/tokenizer.h"

enum { HT_NO_RANK = UINT32_MAX };

struct ht_merge_rule {
    uint32_t left, right, result; // ids
};

struct ht_vocab {
    bool byte_level; // "gpt2"; else SentencePiece-BPE
    size_t n_tokens, n_merges, n_specials;
    unsigned char *bytes; // all tokens, one after the other
    uint32_t *offset;     // (n_tokens + 1) into bytes
    uint8_t *type;        // (n_tokens) enum ht_token_type, after promotion
    bool *is_end;         // (n_tokens)
    uint32_t *by_bytes;   // hash of the tokens that ordinary text can become: id + 1, 0 = free
    size_t by_bytes_mask;
    int32_t byte_id[256];         // the token of one byte, -1 = none
    uint32_t *specials;           // (n_specials) ids of control and user-defined tokens, sorted by bytes
    uint32_t first[257];          // specials that begin with byte b: [first[b], first[b + 1])
    struct ht_merge_rule *merges; // byte level: (n_merges), rank = index
    uint32_t *by_pair;            // hash of the pairs: merge + 1
    size_t by_pair_mask;
    uint32_t *rank; // SentencePiece: (n_tokens); the higher the score the lower; equal scores are equal
    uint8_t inner_space[8192]; // … bit (a << 8 | b): some token holds a, space, b, where a is no space
    size_t max_plain_bytes, max_bytes; // longest token that text can become; longest of all
    const struct ht_pre_tokenizer *pre;
    int32_t bos, eos, unk; // -1 = none
    bool add_bos, add_eos, add_space_prefix;
};

HT_MUST_USE enum hearth_status ht_vocab_build(struct ht_vocab *vocab, const struct ht_vocab_source *source,
                                              struct hearth_error *err);
void ht_vocab_free(struct ht_vocab *vocab);

static inline struct ht_text ht_vocab_bytes(const struct ht_vocab *vocab, uint32_t id)
{
    return (struct ht_text){(const char *)vocab->bytes + vocab->offset[id],
                            vocab->offset[id + 1] - vocab->offset[id]};
}
// The token that ordinary text of exactly these bytes can become, or -1.
int32_t ht_vocab_find(const struct ht_vocab *vocab, const void *bytes, size_t len_bytes);
// The rank at which two neighbours merge, HT_NO_RANK if they do not (byte level).
uint32_t ht_vocab_pair_rank(const struct ht_vocab *vocab, uint32_t left, uint32_t right);
// The longest control or user-defined token at text[0, n); control ones within the first n_control bytes
// only. -1 if there is none. *n_steps grows with the bytes compared.
int32_t ht_vocab_match_special(const struct ht_vocab *vocab, const unsigned char *text, size_t n,
                               size_t n_control, uint64_t *n_steps);

// The part that reads merges; vocabulary.c calls it.
HT_MUST_USE enum hearth_status
ht_vocab_build_merges(struct ht_vocab *vocab, const struct ht_vocab_source *source, struct hearth_error *err);
// Byte that a character of a byte-level token stands for, or -1.
int ht_byte_of_stand_in(uint32_t code_point);
const char *ht_vocab_file(const struct ht_vocab_source *source);

#endif
