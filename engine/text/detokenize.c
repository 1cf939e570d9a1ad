// SPDX-License-Identifier: Apache-2.0
// Ids back to bytes, and what ids mean. Any thread.
#include <string.h>

#include "engine/text/tokenizer.h"
#include "engine/text/tokenizer_internal.h"

static bool known(const struct ht_vocab *v, int64_t id)
{
    return id >= 0 && (uint64_t)id < v->n_tokens;
}

static bool is_special(const struct ht_vocab *v, int64_t id)
{
    return v->type[id] == HT_TOKEN_CONTROL || v->type[id] == HT_TOKEN_USER_DEFINED;
}

struct ht_text ht_tokenizer_piece(const struct ht_tokenizer *tokenizer, int64_t id, bool special)
{
    const struct ht_vocab *v = &tokenizer->vocab;
    if (!known(v, id) || (!special && (v->type[id] == HT_TOKEN_CONTROL || v->type[id] == HT_TOKEN_UNKNOWN)))
        return (struct ht_text){"", 0};
    return ht_vocab_bytes(v, (uint32_t)id);
}

// The piece without the space prefix, where one belongs to it. *strip: the next text loses a leading space.
static struct ht_text next_piece(const struct ht_tokenizer *tokenizer, int64_t id, bool special, bool *strip)
{
    struct ht_text piece = ht_tokenizer_piece(tokenizer, id, special);
    const struct ht_vocab *v = &tokenizer->vocab;
    if (is_special(v, id)) {
        *strip = v->add_space_prefix;
    } else if (piece.len_bytes) {
        if (*strip && piece.bytes[0] == ' ') {
            piece.bytes++;
            piece.len_bytes--;
        }
        *strip = false;
    }
    return piece;
}

enum hearth_status ht_tokenizer_decode(const struct ht_tokenizer *tokenizer, const int32_t *ids, size_t n_ids,
                                       bool special, char *text, size_t capacity, size_t *len_bytes,
                                       struct hearth_error *err)
{
    const struct ht_vocab *v = &tokenizer->vocab;
    bool strip = v->add_space_prefix;
    *len_bytes = 0;
    for (size_t i = 0; i < n_ids; i++)
        if (!known(v, ids[i]))
            return ht_fail(err, HEARTH_INVALID, "token id %d is outside the vocabulary of %zu tokens", ids[i],
                           v->n_tokens);
    for (size_t i = 0; i < n_ids; i++) {
        struct ht_text piece = next_piece(tokenizer, ids[i], special, &strip);
        if (*len_bytes < capacity) {
            size_t room = capacity - *len_bytes;
            memcpy(text + *len_bytes, piece.bytes, piece.len_bytes < room ? piece.len_bytes : room);
        }
        *len_bytes += piece.len_bytes;
    }
    return HEARTH_OK;
}

// ---------------------------------------------------------------- ids

size_t ht_tokenizer_n_tokens(const struct ht_tokenizer *tokenizer)
{
    return tokenizer->vocab.n_tokens;
}

enum ht_token_type ht_tokenizer_type(const struct ht_tokenizer *tokenizer, int64_t id)
{
    return known(&tokenizer->vocab, id) ? (enum ht_token_type)tokenizer->vocab.type[id] : HT_TOKEN_UNDEFINED;
}

bool ht_tokenizer_is_end(const struct ht_tokenizer *tokenizer, int64_t id)
{
    return known(&tokenizer->vocab, id) && tokenizer->vocab.is_end[id];
}

int32_t ht_tokenizer_find_special(const struct ht_tokenizer *tokenizer, const char *text, size_t len_bytes)
{
    const struct ht_vocab *v = &tokenizer->vocab;
    uint64_t n_steps = 0;
    if (!len_bytes || !v->n_specials)
        return -1;
    int32_t id = ht_vocab_match_special(v, (const unsigned char *)text, len_bytes, len_bytes, &n_steps);
    return id >= 0 && ht_vocab_bytes(v, (uint32_t)id).len_bytes == len_bytes ? id : -1;
}

int32_t ht_tokenizer_bos(const struct ht_tokenizer *tokenizer)
{
    return tokenizer->vocab.bos;
}

int32_t ht_tokenizer_eos(const struct ht_tokenizer *tokenizer)
{
    return tokenizer->vocab.eos;
}
