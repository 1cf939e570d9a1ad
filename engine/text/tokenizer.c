// SPDX-License-Identifier: Apache-2.0
// Encoding: cut special tokens out, split the rest, merge, and give every token its byte range and origin.
// The tokenizer itself is read-only; all scratch belongs to the call. Any thread.
#include "engine/text/tokenizer.h"

#include <string.h>

#include "engine/base/limits.h"
#include "engine/base/mem.h"
#include "engine/text/bpe.h"
#include "engine/text/tokenizer_internal.h"

enum hearth_status ht_tokenizer_create(struct ht_tokenizer **tokenizer, const struct ht_vocab_source *source,
                                       struct hearth_error *err)
{
    *tokenizer = NULL;
    struct ht_tokenizer *t = ht_calloc(1, sizeof *t);
    if (!t)
        return ht_fail(err, HEARTH_NOMEM, "%s: out of memory for the vocabulary", ht_vocab_file(source));
    enum hearth_status status = ht_vocab_build(&t->vocab, source, err);
    if (status != HEARTH_OK) {
        ht_free(t);
        return status;
    }
    *tokenizer = t;
    return HEARTH_OK;
}

void ht_tokenizer_destroy(struct ht_tokenizer **tokenizer)
{
    if (!*tokenizer)
        return;
    ht_vocab_free(&(*tokenizer)->vocab);
    ht_free(*tokenizer);
    *tokenizer = NULL;
}

void ht_tokens_free(struct ht_tokens *tokens)
{
    ht_free(tokens->items);
    *tokens = (struct ht_tokens){0};
}

// One encode call. `text` is what is matched: the segments one after the other, in SentencePiece with every
// "▁" as one space. The cursor walks the segments themselves as tokens come out, so that ranges are theirs.
struct encoder {
    const struct ht_vocab *vocab;
    const struct ht_segment *segments;
    size_t n_segments;
    unsigned char *text;
    size_t len_bytes;
    size_t *control_end; // per segment: where in `text` the run of template segments that it is in ends, or 0
    size_t *text_end;    // per segment: where it ends in `text`
    struct ht_merge merge;
    struct ht_tokens *out;
    size_t first; // tokens in `out` before this call
    // cursor
    size_t segment, offset, position; // position = bytes of the concatenation before (segment, offset)
    size_t n_virtual;        // bytes at the front of the current stretch that are no text (the space prefix)
    struct ht_token dropped; // origins of dropped bytes, for the token that takes them over
};

static bool is_space_mark(const struct ht_segment *segment, size_t at)
{
    return segment->len_bytes - at >= 3 && !memcmp(segment->bytes + at, "\xE2\x96\x81", 3);
}

static enum hearth_status gather(struct encoder *e, struct hearth_error *err)
{
    size_t total = 0, n = 0;
    for (size_t i = 0; i < e->n_segments; i++) {
        const struct ht_segment *s = &e->segments[i];
        if ((!s->bytes && s->len_bytes) ||
            (s->origin != HT_ORIGIN_TEMPLATE && s->origin != HT_ORIGIN_SYSTEM &&
             s->origin != HT_ORIGIN_USER && s->origin != HT_ORIGIN_ASSISTANT))
            return ht_fail(err, HEARTH_INVALID, "segment %zu has no text or no origin", i);
        if (s->len_bytes > HT_MAX_TEXT_BYTES - total)
            return ht_fail(err, HEARTH_LIMIT, "the text has more than %d bytes", HT_MAX_TEXT_BYTES);
        total += s->len_bytes;
    }
    if (!total)
        return HEARTH_OK;
    e->text = ht_calloc(total, 1);
    e->control_end = ht_calloc(e->n_segments, sizeof *e->control_end);
    e->text_end = ht_calloc(e->n_segments, sizeof *e->text_end);
    if (!e->text || !e->control_end || !e->text_end)
        return ht_fail(err, HEARTH_NOMEM, "out of memory for tokenizing");
    for (size_t i = 0; i < e->n_segments; i++) {
        const struct ht_segment *s = &e->segments[i];
        for (size_t at = 0; at < s->len_bytes;) {
            const char *mark = e->vocab->byte_level ? NULL : memchr(s->bytes + at, 0xE2, s->len_bytes - at);
            size_t part = mark ? (size_t)(mark - s->bytes) - at : s->len_bytes - at;
            memcpy(e->text + n, s->bytes + at, part);
            n += part;
            at += part;
            if (at == s->len_bytes)
                break;
            bool space = is_space_mark(s, at);
            e->text[n++] = space ? ' ' : (unsigned char)s->bytes[at];
            at += space ? 3 : 1;
        }
        e->text_end[i] = n;
    }
    e->len_bytes = n;
    for (size_t i = e->n_segments; i-- > 0;) {
        if (e->segments[i].origin != HT_ORIGIN_TEMPLATE && e->segments[i].len_bytes)
            e->control_end[i] = 0;
        else if (i + 1 < e->n_segments && e->control_end[i + 1])
            e->control_end[i] = e->control_end[i + 1];
        else if (e->segments[i].origin == HT_ORIGIN_TEMPLATE)
            e->control_end[i] = e->text_end[i];
    }
    return HEARTH_OK;
}

// Moves the cursor over len_bytes of `text` and notes in the token what it passes.
static void advance(struct encoder *e, size_t len_bytes, struct ht_token *token)
{
    while (len_bytes) {
        const struct ht_segment *s = &e->segments[e->segment];
        if (e->offset == s->len_bytes) {
            e->segment++;
            e->offset = 0;
            continue;
        }
        size_t before = e->offset;
        if (e->vocab->byte_level) {
            size_t part = len_bytes < s->len_bytes - e->offset ? len_bytes : s->len_bytes - e->offset;
            e->offset += part;
            len_bytes -= part;
        } else {
            while (len_bytes && e->offset < s->len_bytes) {
                e->offset += is_space_mark(s, e->offset) ? 3 : 1;
                len_bytes--;
            }
        }
        e->position += e->offset - before;
        token->origins |= s->origin;
        token->target |= s->target;
        token->turn = s->turn;
    }
}

static enum hearth_status append(struct encoder *e, struct ht_token token, struct hearth_error *err)
{
    struct ht_tokens *out = e->out;
    if (out->n == out->capacity) {
        size_t capacity = out->capacity ? 2 * out->capacity : 64;
        if (!ht_grow((void **)&out->items, out->n, capacity, sizeof *out->items))
            return ht_fail(err, HEARTH_NOMEM, "out of memory for tokens");
        out->capacity = capacity;
    }
    out->items[out->n++] = token;
    return HEARTH_OK;
}

// A token of the next len_bytes of `text`.
static enum hearth_status emit(struct encoder *e, int32_t id, size_t len_bytes, struct hearth_error *err)
{
    struct ht_token token = e->dropped;
    size_t skip = len_bytes < e->n_virtual ? len_bytes : e->n_virtual;
    e->n_virtual -= skip;
    e->dropped = (struct ht_token){0};
    token.id = id;
    token.start = e->out->n > e->first ? e->out->items[e->out->n - 1].end : 0;
    advance(e, len_bytes - skip, &token);
    token.end = (uint32_t)e->position;
    return append(e, token, err);
}

// ---------------------------------------------------------------- byte level

static enum hearth_status encode_piece(struct encoder *e, const unsigned char *piece, size_t n,
                                       struct hearth_error *err)
{
    int32_t whole = -1;
    if (ht_pre_tokenizer_ignores_merges(e->vocab->pre))
        whole = ht_vocab_find(e->vocab, piece, n);
    if (whole >= 0 && e->vocab->type[whole] != HT_TOKEN_UNUSED)
        return emit(e, whole, n, err);
    struct ht_merge *m = &e->merge;
    HT_TRY(ht_merge_run(m, piece, n, err));
    advance(e, m->n_symbols ? m->symbols[0].start : n, &e->dropped);
    if (!m->n_symbols)
        return HEARTH_OK;
    for (uint32_t i = 0; i != HT_NO_SYMBOL; i = m->symbols[i].next) {
        const struct ht_symbol *s = &m->symbols[i];
        size_t end = s->next == HT_NO_SYMBOL ? n : m->symbols[s->next].start;
        HT_TRY(emit(e, s->id, end - s->start, err));
    }
    return HEARTH_OK;
}

static enum hearth_status encode_byte_level(struct encoder *e, size_t begin, size_t end,
                                            struct hearth_error *err)
{
    struct ht_splitter splitter;
    size_t start, n;
    ht_splitter_init(&splitter, e->vocab->pre, e->text + begin, end - begin);
    while ((n = ht_splitter_next(&splitter, &start)))
        HT_TRY(encode_piece(e, e->text + begin + start, n, err));
    e->out->n_steps += splitter.n_steps;
    return HEARTH_OK;
}

// ---------------------------------------------------------------- SentencePiece

// One symbol that is no token: its bytes, or "unknown" for each run of such symbols.
static enum hearth_status emit_bytes(struct encoder *e, const unsigned char *bytes, size_t n,
                                     struct hearth_error *err)
{
    bool all = true;
    for (size_t i = 0; i < n; i++)
        all = all && e->vocab->byte_id[bytes[i]] >= 0;
    if (all) {
        for (size_t i = 0; i < n; i++)
            HT_TRY(emit(e, e->vocab->byte_id[bytes[i]], 1, err));
        return HEARTH_OK;
    }
    struct ht_token *last = e->out->n > e->first ? &e->out->items[e->out->n - 1] : NULL;
    if (!last || last->id != e->vocab->unk)
        return emit(e, e->vocab->unk, n, err);
    size_t skip = n < e->n_virtual ? n : e->n_virtual;
    e->n_virtual -= skip;
    advance(e, n - skip, last);
    last->end = (uint32_t)e->position;
    return HEARTH_OK;
}

// A finished symbol. An unused token is taken apart again, the way it was last put together.
static enum hearth_status emit_symbol(struct encoder *e, const unsigned char *bytes, size_t n,
                                      struct hearth_error *err)
{
    // Parts still to do lie behind one another: `n` is the first, stack[] holds the ends of the others.
    size_t stack[HT_MAX_TOKEN_BYTES], depth = 0;
    for (;;) {
        int32_t id = ht_vocab_find(e->vocab, bytes, n);
        size_t left = id >= 0 && e->vocab->type[id] == HT_TOKEN_UNUSED && e->merge.unused_split
                          ? e->merge.unused_split[id]
                          : 0;
        if (left && left < n && depth < HT_MAX_TOKEN_BYTES) {
            stack[depth++] = n - left;
            n = left;
            continue;
        }
        if (id >= 0 && e->vocab->type[id] != HT_TOKEN_UNUSED)
            HT_TRY(emit(e, id, n, err));
        else
            HT_TRY(emit_bytes(e, bytes, n, err));
        if (!depth)
            return HEARTH_OK;
        bytes += n;
        n = stack[--depth];
    }
}

static enum hearth_status encode_stretch(struct encoder *e, const unsigned char *text, size_t n,
                                         struct hearth_error *err)
{
    struct ht_merge *m = &e->merge;
    HT_TRY(ht_merge_run(m, text, n, err));
    for (uint32_t i = 0; i != HT_NO_SYMBOL; i = m->symbols[i].next) {
        const struct ht_symbol *s = &m->symbols[i];
        size_t end = s->next == HT_NO_SYMBOL ? n : m->symbols[s->next].start;
        HT_TRY(emit_symbol(e, text + s->start, end - s->start, err));
    }
    return HEARTH_OK;
}

// Where the stretch that begins at `begin` ends: before a space that no token can hold together with what
// stands on both of its sides. Nothing merges across such a place.
static size_t stretch_end(const struct encoder *e, size_t begin, size_t end)
{
    for (size_t i = begin + 1; i < end; i++) {
        if (e->text[i] != ' ' || e->text[i - 1] == ' ')
            continue;
        unsigned before = e->text[i - 1], after = i + 1 < end ? e->text[i + 1] : 0;
        if (!(e->vocab->inner_space[before << 5 | after >> 3] >> (after & 7) & 1))
            return i;
    }
    return end;
}

static enum hearth_status encode_sentencepiece(struct encoder *e, size_t begin, size_t end, bool prefix,
                                               struct hearth_error *err)
{
    while (begin < end) {
        size_t cut = stretch_end(e, begin, end), n = cut - begin;
        e->out->n_steps += n;
        if (!prefix) {
            HT_TRY(encode_stretch(e, e->text + begin, n, err));
        } else {
            unsigned char *with_space = ht_calloc(n + 1, 1);
            if (!with_space)
                return ht_fail(err, HEARTH_NOMEM, "out of memory for tokenizing");
            with_space[0] = ' ';
            memcpy(with_space + 1, e->text + begin, n);
            e->n_virtual = 1;
            enum hearth_status status = encode_stretch(e, with_space, n + 1, err);
            ht_free(with_space);
            HT_TRY(status);
        }
        prefix = false;
        begin = cut;
    }
    return HEARTH_OK;
}

// ---------------------------------------------------------------- the whole text

static enum hearth_status encode_ordinary(struct encoder *e, size_t begin, size_t end, bool after_special,
                                          struct hearth_error *err)
{
    if (begin == end)
        return HEARTH_OK;
    if (e->vocab->byte_level)
        return encode_byte_level(e, begin, end, err);
    return encode_sentencepiece(e, begin, end, after_special && e->vocab->add_space_prefix, err);
}

static enum hearth_status encode_text(struct encoder *e, bool after_special, struct hearth_error *err)
{
    size_t begin = 0, segment = 0;
    for (size_t at = 0; at < e->len_bytes;) {
        while (at >= e->text_end[segment])
            segment++;
        size_t control_end = e->control_end[segment];
        e->out->n_steps++;
        int32_t id = e->vocab->n_specials
                         ? ht_vocab_match_special(e->vocab, e->text + at, e->len_bytes - at,
                                                  control_end > at ? control_end - at : 0, &e->out->n_steps)
                         : -1;
        if (id < 0) {
            at++;
            continue;
        }
        HT_TRY(encode_ordinary(e, begin, at, after_special, err));
        size_t n = ht_vocab_bytes(e->vocab, (uint32_t)id).len_bytes;
        HT_TRY(emit(e, id, n, err));
        at += n;
        begin = at;
        after_special = true;
    }
    return encode_ordinary(e, begin, e->len_bytes, after_special, err);
}

static enum hearth_status encode(struct encoder *e, unsigned flags, struct hearth_error *err)
{
    struct ht_tokens *out = e->out;
    const struct ht_vocab *v = e->vocab;
    HT_TRY(gather(e, err));
    bool after_special = !(flags & HT_ENCODE_CONTINUES); // the start of a text counts as one
    HT_TRY(encode_text(e, after_special, err));
    if (out->n > e->first) {
        struct ht_token *last = &out->items[out->n - 1];
        last->end = (uint32_t)e->position;
        last->origins |= e->dropped.origins;
        last->target |= e->dropped.target;
    }
    bool has_bos = out->n > e->first && out->items[e->first].id == v->bos;
    if ((flags & HT_ENCODE_BOS) && v->add_bos && !has_bos) {
        HT_TRY(append(e, (struct ht_token){.id = v->bos}, err));
        struct ht_token bos = out->items[out->n - 1];
        memmove(out->items + e->first + 1, out->items + e->first, (out->n - 1 - e->first) * sizeof bos);
        out->items[e->first] = bos;
    }
    bool has_eos = out->n > e->first && out->items[out->n - 1].id == v->eos;
    if ((flags & HT_ENCODE_EOS) && v->add_eos && !has_eos)
        HT_TRY(append(
            e, (struct ht_token){.id = v->eos, .start = (uint32_t)e->position, .end = (uint32_t)e->position},
            err));
    return HEARTH_OK;
}

enum hearth_status ht_tokenizer_encode(const struct ht_tokenizer *tokenizer,
                                       const struct ht_segment *segments, size_t n_segments, unsigned flags,
                                       struct ht_tokens *tokens, struct hearth_error *err)
{
    struct encoder e = {.vocab = &tokenizer->vocab,
                        .segments = segments,
                        .n_segments = n_segments,
                        .out = tokens,
                        .first = tokens->n,
                        .merge.vocab = &tokenizer->vocab};
    enum hearth_status status = encode(&e, flags, err);
    if (status != HEARTH_OK)
        tokens->n = e.first;
    else
        tokens->n_dropped_bytes += e.merge.n_dropped_bytes;
    tokens->n_steps += e.merge.n_steps;
    ht_merge_free(&e.merge);
    ht_free(e.text);
    ht_free(e.control_end);
    ht_free(e.text_end);
    return status;
}
