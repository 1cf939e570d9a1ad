// SPDX-License-Identifier: Apache-2.0
// Ids back to bytes, at once or as they come, and what ids mean. Any thread; a stream decoder belongs to one.
#include <string.h>

#include "engine/base/utf8.h"
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

// ---------------------------------------------------------------- streaming

void ht_stream_decoder_init(struct ht_stream_decoder *decoder, const struct ht_tokenizer *tokenizer,
                            bool special, bool at_text_start)
{
    *decoder = (struct ht_stream_decoder){.tokenizer = tokenizer,
                                          .special = special,
                                          .strip_space = at_text_start && tokenizer->vocab.add_space_prefix};
}

static size_t put_replacement(char *text)
{
    memcpy(text, "\xEF\xBF\xBD", 3);
    return 3;
}

// Whether n bytes that are no character yet can become one with more bytes.
static bool unfinished(const unsigned char *s, size_t n)
{
    static const unsigned char fill[2][2] = {{0x80, 0x80}, {0xBF, 0xBF}};
    for (int i = 0; i < 2 && n < 4;
         i++) { // some second byte of a lead suits, if any does, at one of its ends
        unsigned char whole[6];
        memcpy(whole, s, n);
        memset(whole + n, fill[i][0], sizeof whole - n);
        if (ht_utf8_char(whole, sizeof whole) > n)
            return true;
    }
    return false;
}

size_t ht_stream_decoder_push(struct ht_stream_decoder *d, int64_t id, char *text)
{
    if (!known(&d->tokenizer->vocab, id))
        return 0;
    struct ht_text piece = next_piece(d->tokenizer, id, d->special, &d->strip_space);
    size_t n = 0;
    for (size_t i = 0; i < piece.len_bytes; i++) {
        d->held[d->n_held++] = (unsigned char)piece.bytes[i];
        while (d->n_held) {
            size_t length = ht_utf8_char(d->held, d->n_held);
            if (!length && unfinished(d->held, d->n_held))
                break;
            if (length)
                memcpy(text + n, d->held, length);
            n += length ? length : put_replacement(text + n);
            if (!length)
                length = 1;
            d->n_held -= (unsigned)length;
            memmove(d->held, d->held + length, d->n_held);
        }
    }
    return n;
}

size_t ht_stream_decoder_finish(struct ht_stream_decoder *d, char *text)
{
    size_t n = d->n_held ? put_replacement(text) : 0;
    d->n_held = 0;
    return n;
}

size_t ht_tokenizer_max_piece_bytes(const struct ht_tokenizer *tokenizer)
{
    return 3 * (tokenizer->vocab.max_bytes + 3);
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

bool ht_tokenizer_adds_bos(const struct ht_tokenizer *tokenizer)
{
    return tokenizer->vocab.add_bos;
}
