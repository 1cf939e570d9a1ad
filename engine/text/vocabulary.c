// SPDX-License-Identifier: Apache-2.0
// Builds a vocabulary from what a model file says; every entry is checked. Runs when a model is opened.
#include "engine/text/vocabulary.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/limits.h"
#include "engine/base/mem.h"
#include "engine/text/unicode.h"

enum {
    MAX_PROBES = 512, // a longer walk in a hash means names made to collide
    MAX_VOCAB_BYTES = 256 << 20,
};

const char *ht_vocab_file(const struct ht_vocab_source *source)
{
    return source->file ? source->file : "model";
}

static uint64_t hash_bytes(const unsigned char *bytes, size_t n)
{
    uint64_t h = 0x9E3779B97F4A7C15U ^ n;
    while (n) {
        uint64_t word = 0;
        size_t part = n < 8 ? n : 8;
        memcpy(&word, bytes, part);
        h = (h ^ word) * 0xD6E8FEB86659FD93U;
        h ^= h >> 32;
        bytes += part;
        n -= part;
    }
    return h * 0xD6E8FEB86659FD93U >> 16;
}

int32_t ht_vocab_find(const struct ht_vocab *v, const void *bytes, size_t len_bytes)
{
    if (!len_bytes || len_bytes > v->max_plain_bytes)
        return -1;
    for (size_t slot = hash_bytes(bytes, len_bytes) & v->by_bytes_mask; v->by_bytes[slot];
         slot = (slot + 1) & v->by_bytes_mask) {
        uint32_t id = v->by_bytes[slot] - 1;
        if (v->offset[id + 1] - v->offset[id] == len_bytes &&
            !memcmp(v->bytes + v->offset[id], bytes, len_bytes))
            return (int32_t)id;
    }
    return -1;
}

// Enters a token unless one with the same bytes is there; false when the hash is crowded on purpose.
static bool enter(struct ht_vocab *v, uint32_t id)
{
    struct ht_text t = ht_vocab_bytes(v, id);
    size_t slot = hash_bytes((const unsigned char *)t.bytes, t.len_bytes) & v->by_bytes_mask;
    for (int i = 0; i < MAX_PROBES; i++, slot = (slot + 1) & v->by_bytes_mask) {
        if (!v->by_bytes[slot]) {
            v->by_bytes[slot] = id + 1;
            if (t.len_bytes > v->max_plain_bytes)
                v->max_plain_bytes = t.len_bytes;
            return true;
        }
        struct ht_text other = ht_vocab_bytes(v, v->by_bytes[slot] - 1);
        if (other.len_bytes == t.len_bytes && !memcmp(other.bytes, t.bytes, t.len_bytes))
            return true;
    }
    return false;
}

// GPT-2 writes printable Latin-1 bytes as themselves and the other 68 as U+0100, U+0101, … in byte order.
int ht_byte_of_stand_in(uint32_t c)
{
    if ((c >= 0x21 && c <= 0x7E) || (c >= 0xA1 && c <= 0xAC) || (c >= 0xAE && c <= 0xFF))
        return (int)c;
    if (c < 0x100 || c > 0x143)
        return -1;
    c -= 0x100;
    if (c <= 0x20)
        return (int)c;
    return c <= 0x42 ? (int)(c - 0x21 + 0x7F) : 0xAD; // 0x7F … 0xA0, then 0xAD
}

// ---------------------------------------------------------------- bytes of the tokens

// Writes a token's raw bytes; false if a byte-level token has a character that stands for no byte (then its
// spelling is kept and text never becomes it).
static bool write_token(const struct ht_vocab *v, struct ht_text text, uint8_t type, unsigned char *out,
                        size_t *n_out)
{
    const unsigned char *s = (const unsigned char *)text.bytes;
    bool special = type == HT_TOKEN_CONTROL || type == HT_TOKEN_USER_DEFINED;
    size_t n = 0;
    for (size_t i = 0; i < text.len_bytes;) {
        uint32_t c;
        size_t length = ht_uc_next(s + i, text.len_bytes - i, &c);
        int byte = v->byte_level && !special ? ht_byte_of_stand_in(c) : -1;
        if (!v->byte_level && c == 0x2581) {
            out[n++] = ' ';
        } else if (byte >= 0) {
            out[n++] = (unsigned char)byte;
        } else if (v->byte_level && !special) {
            memcpy(out, s, text.len_bytes);
            *n_out = text.len_bytes;
            return false;
        } else {
            memcpy(out + n, s + i, length);
            n += length;
        }
        i += length;
    }
    *n_out = n;
    return true;
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                  : -1;
}

// The byte that "<0x41>" names, or -1.
static int parse_byte(struct ht_text t)
{
    if (t.len_bytes != 6 || memcmp(t.bytes, "<0x", 3) != 0 || t.bytes[5] != '>')
        return -1;
    int high = hex_digit(t.bytes[3]), low = hex_digit(t.bytes[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

static bool equals(struct ht_text t, const char *s)
{
    return strlen(s) == t.len_bytes && !memcmp(t.bytes, s, t.len_bytes);
}

static bool in_list(struct ht_text t, const char *const *list)
{
    if (t.bytes[0] != '<' && t.bytes[0] != '[') // as all marks begin: most tokens are seen at a glance
        return false;
    for (; *list; list++)
        if (equals(t, *list))
            return true;
    return false;
}

// Spelt like this, a token ends a turn or a text.
static const char *const end_marks[] = {
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<EOT>",
    "<｜end▁of▁sentence｜>",
    "<end_of_utterance>",
    NULL,
};
// Spelt like this, it separates turns. Files that call one of these a normal or user-defined token would let
// anybody type a turn of the conversation.
static const char *const turn_marks[] = {
    "<|im_start|>",
    "<|im_sep|>",
    "<start_of_turn>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|begin_of_text|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "[INST]",
    "[/INST]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[gMASK]",
    "<sop>",
    NULL,
};

static bool is_id(const struct ht_vocab_source *s, size_t i)
{
    int64_t id = (int64_t)i;
    return id == s->bos_id || id == s->eos_id || id == s->eot_id || id == s->eom_id;
}

static enum hearth_status check_token(const struct ht_vocab_source *s, size_t i, struct hearth_error *err)
{
    if (!s->tokens[i].len_bytes || !s->tokens[i].bytes)
        return ht_fail(err, HEARTH_FORMAT, "%s: token %zu is empty", ht_vocab_file(s), i);
    if (s->tokens[i].len_bytes > HT_MAX_TOKEN_BYTES)
        return ht_fail(err, HEARTH_LIMIT, "%s: token %zu has %zu bytes, more than %d", ht_vocab_file(s), i,
                       s->tokens[i].len_bytes, HT_MAX_TOKEN_BYTES);
    if (s->types && (s->types[i] < HT_TOKEN_UNDEFINED || s->types[i] > HT_TOKEN_BYTE))
        return ht_fail(err, HEARTH_FORMAT, "%s: token %zu has the unknown type %d", ht_vocab_file(s), i,
                       s->types[i]);
    if (s->scores && !isfinite(s->scores[i]))
        return ht_fail(err, HEARTH_FORMAT, "%s: the score of token %zu is not a number", ht_vocab_file(s), i);
    return HEARTH_OK;
}

// Type after promotion, bytes and end mark of token i.
static enum hearth_status add_token(struct ht_vocab *v, const struct ht_vocab_source *s, size_t i,
                                    bool *plain, struct hearth_error *err)
{
    struct ht_text text = s->tokens[i];
    uint8_t type = s->types && s->types[i] ? (uint8_t)s->types[i] : HT_TOKEN_NORMAL;
    bool end = in_list(text, end_marks);
    if ((type == HT_TOKEN_NORMAL || type == HT_TOKEN_USER_DEFINED) &&
        (end || in_list(text, turn_marks) || is_id(s, i)))
        type = HT_TOKEN_CONTROL;
    v->type[i] = type;
    int64_t id = (int64_t)i;
    v->is_end[i] = end || id == s->eos_id || id == s->eot_id || id == s->eom_id;
    size_t n;
    unsigned char *out = v->bytes + v->offset[i];
    *plain = write_token(v, text, type, out, &n);
    if (type == HT_TOKEN_BYTE) {
        int byte = parse_byte(text);
        if (byte < 0)
            return ht_fail(err, HEARTH_FORMAT, "%s: token %zu is of type byte but not spelt <0x00> to <0xFF>",
                           ht_vocab_file(s), i);
        out[0] = (unsigned char)byte;
        n = 1;
        if (v->byte_id[byte] < 0)
            v->byte_id[byte] = (int32_t)i;
    }
    bool special = type == HT_TOKEN_CONTROL || type == HT_TOKEN_USER_DEFINED;
    if (special && n > HT_MAX_SPECIAL_BYTES)
        return ht_fail(err, HEARTH_LIMIT, "%s: the special token %zu has %zu bytes, more than %d",
                       ht_vocab_file(s), i, n, HT_MAX_SPECIAL_BYTES);
    v->n_specials += special;
    // What text can become by merging; an unused token can be a step on the way. User-defined ones are cut
    // out before, except that a byte-level merge list may name one.
    *plain = *plain && (type == HT_TOKEN_NORMAL || type == HT_TOKEN_UNUSED ||
                        (type == HT_TOKEN_USER_DEFINED && v->byte_level));
    v->offset[i + 1] = v->offset[i] + (uint32_t)n;
    if (n > v->max_bytes)
        v->max_bytes = n;
    return HEARTH_OK;
}

static enum hearth_status add_tokens(struct ht_vocab *v, const struct ht_vocab_source *s,
                                     struct hearth_error *err)
{
    size_t total = 0, slots = 1;
    for (size_t i = 0; i < s->n_tokens; i++) {
        HT_TRY(check_token(s, i, err));
        total += s->tokens[i].len_bytes; // at most HT_MAX_VOCAB * HT_MAX_TOKEN_BYTES
    }
    if (total > MAX_VOCAB_BYTES)
        return ht_fail(err, HEARTH_LIMIT, "%s: the vocabulary has %zu bytes, more than %d", ht_vocab_file(s),
                       total, MAX_VOCAB_BYTES);
    while (slots < 2 * s->n_tokens)
        slots *= 2;
    v->by_bytes_mask = slots - 1;
    v->bytes = ht_calloc(total, 1);
    v->offset = ht_calloc(s->n_tokens + 1, sizeof *v->offset);
    v->type = ht_calloc(s->n_tokens, 1);
    v->is_end = ht_calloc(s->n_tokens, sizeof *v->is_end);
    v->by_bytes = ht_calloc(slots, sizeof *v->by_bytes);
    if (!v->bytes || !v->offset || !v->type || !v->is_end || !v->by_bytes)
        return ht_fail(err, HEARTH_NOMEM, "%s: out of memory for the vocabulary", ht_vocab_file(s));
    for (size_t i = 0; i < s->n_tokens; i++) {
        bool plain;
        HT_TRY(add_token(v, s, i, &plain, err));
        if (plain && !enter(v, (uint32_t)i))
            return ht_fail(err, HEARTH_LIMIT, "%s: tokens made to collide (token %zu)", ht_vocab_file(s), i);
    }
    return HEARTH_OK;
}

// ---------------------------------------------------------------- special tokens

struct sortable {
    const unsigned char *bytes;
    uint32_t n, id;
};

static int compare_bytes(const void *pa, const void *pb)
{
    const struct sortable *a = pa, *b = pb;
    int order = memcmp(a->bytes, b->bytes, a->n < b->n ? a->n : b->n);
    if (order)
        return order;
    if (a->n != b->n)
        return a->n < b->n ? -1 : 1;
    return a->id < b->id ? -1 : 1; // of equal ones the lowest id comes first and is found
}

static enum hearth_status sort_specials(struct ht_vocab *v, const struct ht_vocab_source *s,
                                        struct hearth_error *err)
{
    if (!v->n_specials)
        return HEARTH_OK;
    struct sortable *list = ht_calloc(v->n_specials, sizeof *list);
    v->specials = ht_calloc(v->n_specials, sizeof *v->specials);
    if (!list || !v->specials) {
        ht_free(list);
        return ht_fail(err, HEARTH_NOMEM, "%s: out of memory for the vocabulary", ht_vocab_file(s));
    }
    size_t n = 0;
    for (uint32_t id = 0; id < v->n_tokens; id++)
        if (v->type[id] == HT_TOKEN_CONTROL || v->type[id] == HT_TOKEN_USER_DEFINED)
            list[n++] = (struct sortable){v->bytes + v->offset[id], v->offset[id + 1] - v->offset[id], id};
    qsort(list, n, sizeof *list, compare_bytes);
    for (size_t i = 0; i < n; i++) {
        v->specials[i] = list[i].id;
        v->first[list[i].bytes[0] + 1]++;
    }
    for (int b = 0; b < 256; b++)
        v->first[b + 1] += v->first[b];
    ht_free(list);
    return HEARTH_OK;
}

// First of the specials in [low, high) whose byte `depth` is at least `byte` (shorter ones count as less).
static uint32_t narrow(const struct ht_vocab *v, uint32_t low, uint32_t high, size_t depth, unsigned byte)
{
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        struct ht_text t = ht_vocab_bytes(v, v->specials[middle]);
        if (t.len_bytes <= depth || (unsigned char)t.bytes[depth] < byte)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

int32_t ht_vocab_match_special(const struct ht_vocab *v, const unsigned char *text, size_t n,
                               size_t n_control, uint64_t *n_steps)
{
    int32_t best = -1;
    uint32_t low = v->first[text[0]], high = v->first[text[0] + 1];
    for (size_t depth = 1; low < high; depth++) {
        ++*n_steps;
        // Of one length the control token is preferred where it may match, then the lowest id.
        int32_t here = -1;
        for (; low < high && ht_vocab_bytes(v, v->specials[low]).len_bytes == depth; low++) {
            bool control = v->type[v->specials[low]] == HT_TOKEN_CONTROL;
            if ((!control || depth <= n_control) &&
                (here < 0 || (control && v->type[here] != HT_TOKEN_CONTROL)))
                here = (int32_t)v->specials[low];
        }
        if (here >= 0)
            best = here;
        if (depth >= n)
            break;
        low = narrow(v, low, high, depth, text[depth]);
        high = narrow(v, low, high, depth, text[depth] + 1U);
    }
    return best;
}

// ---------------------------------------------------------------- SentencePiece

static int compare_scores(const void *pa, const void *pb)
{
    float a = *(const float *)pa, b = *(const float *)pb;
    return a > b ? -1 : a < b;
}

static uint32_t rank_of(const float *sorted, size_t n, float score)
{
    size_t low = 0; // the first score that is not higher
    for (size_t high = n; low < high;) {
        size_t middle = low + (high - low) / 2;
        if (sorted[middle] > score)
            low = middle + 1;
        else
            high = middle;
    }
    return (uint32_t)low;
}

static void note_inner_spaces(struct ht_vocab *v, uint32_t id)
{
    struct ht_text t = ht_vocab_bytes(v, id);
    const unsigned char *b = (const unsigned char *)t.bytes;
    for (size_t i = 1; i < t.len_bytes; i++) {
        if (b[i] != ' ' || b[i - 1] == ' ')
            continue;
        unsigned first = i + 1 < t.len_bytes ? b[i + 1] : 0, last = i + 1 < t.len_bytes ? first : 255;
        for (unsigned next = first; next <= last; next++)
            v->inner_space[b[i - 1] << 5 | next >> 3] |= (uint8_t)(1U << (next & 7));
    }
}

static enum hearth_status rank_scores(struct ht_vocab *v, const struct ht_vocab_source *s,
                                      struct hearth_error *err)
{
    if (!s->scores)
        return ht_fail(err, HEARTH_FORMAT, "%s: the vocabulary has no scores (tokenizer.ggml.scores)",
                       ht_vocab_file(s));
    float *sorted = ht_calloc(v->n_tokens, sizeof *sorted);
    v->rank = ht_calloc(v->n_tokens, sizeof *v->rank);
    if (!sorted || !v->rank) {
        ht_free(sorted);
        return ht_fail(err, HEARTH_NOMEM, "%s: out of memory for the vocabulary", ht_vocab_file(s));
    }
    memcpy(sorted, s->scores, v->n_tokens * sizeof *sorted);
    qsort(sorted, v->n_tokens, sizeof *sorted, compare_scores);
    for (uint32_t id = 0, next = 0; id < v->n_tokens; id++) {
        // Most files list tokens by score: the next one's place is the next place.
        bool here = next && next < v->n_tokens && sorted[next] == s->scores[id] && sorted[next - 1] > s->scores[id];
        v->rank[id] = here ? next : rank_of(sorted, v->n_tokens, s->scores[id]);
        next = v->rank[id] + 1;
        if (v->type[id] != HT_TOKEN_CONTROL && v->type[id] != HT_TOKEN_BYTE)
            note_inner_spaces(v, id);
    }
    ht_free(sorted);
    for (int b = 0; b < 256; b++)
        if (v->byte_id[b] < 0 && v->unk < 0)
            return ht_fail(err, HEARTH_FORMAT,
                           "%s: the vocabulary has neither a token for byte 0x%02X nor one for unknown text",
                           ht_vocab_file(s), b);
    return HEARTH_OK;
}

// ---------------------------------------------------------------- the whole

static enum hearth_status check_ids(const struct ht_vocab_source *s, struct hearth_error *err)
{
    const struct {
        const char *name;
        int64_t id;
    } ids[] = {{"bos", s->bos_id}, {"eos", s->eos_id},     {"eot", s->eot_id},
               {"eom", s->eom_id}, {"unknown", s->unk_id}, {"padding", s->pad_id}};
    for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++)
        if (ids[i].id < -1 || ids[i].id >= (int64_t)s->n_tokens)
            return ht_fail(err, HEARTH_FORMAT,
                           "%s: the %s token id %lld is outside the vocabulary of %zu tokens",
                           ht_vocab_file(s), ids[i].name, (long long)ids[i].id, s->n_tokens);
    return HEARTH_OK;
}

static enum hearth_status build(struct ht_vocab *v, const struct ht_vocab_source *s, struct hearth_error *err)
{
    if (!s->model)
        return ht_fail(err, HEARTH_FORMAT, "%s: the file has no tokenizer (tokenizer.ggml.model)",
                       ht_vocab_file(s));
    v->byte_level = !strcmp(s->model, "gpt2");
    if (!v->byte_level && strcmp(s->model, "llama") != 0)
        return ht_fail(err, HEARTH_UNSUPPORTED, "%s: the tokenizer model '%.64s' is not known",
                       ht_vocab_file(s), s->model);
    if (v->byte_level && !(v->pre = ht_pre_tokenizer_find(s->pre, s->architecture)))
        return ht_fail(err, HEARTH_UNSUPPORTED, "%s: the pre-tokenizer '%.64s' is not known",
                       ht_vocab_file(s), s->pre);
    if (!s->n_tokens || !s->tokens)
        return ht_fail(err, HEARTH_FORMAT, "%s: the vocabulary is empty", ht_vocab_file(s));
    if (s->n_tokens > HT_MAX_VOCAB)
        return ht_fail(err, HEARTH_LIMIT, "%s: the vocabulary has %zu tokens, more than %d", ht_vocab_file(s),
                       s->n_tokens, HT_MAX_VOCAB);
    HT_TRY(check_ids(s, err));
    v->n_tokens = s->n_tokens;
    v->bos = (int32_t)s->bos_id;
    v->eos = (int32_t)s->eos_id;
    v->unk = (int32_t)s->unk_id;
    bool by_default = v->byte_level ? ht_pre_tokenizer_adds_bos(v->pre) : true;
    v->add_bos = v->bos >= 0 && (s->add_bos == HT_FLAG_ABSENT ? by_default : s->add_bos == HT_FLAG_YES);
    v->add_eos = v->eos >= 0 && s->add_eos == HT_FLAG_YES;
    v->add_space_prefix = !v->byte_level && s->add_space_prefix != HT_FLAG_NO;
    memset(v->byte_id, 0xFF, sizeof v->byte_id);
    HT_TRY(add_tokens(v, s, err));
    HT_TRY(sort_specials(v, s, err));
    return v->byte_level ? ht_vocab_build_merges(v, s, err) : rank_scores(v, s, err);
}

enum hearth_status ht_vocab_build(struct ht_vocab *vocab, const struct ht_vocab_source *source,
                                  struct hearth_error *err)
{
    *vocab = (struct ht_vocab){0};
    enum hearth_status status = build(vocab, source, err);
    if (status != HEARTH_OK)
        ht_vocab_free(vocab);
    return status;
}

void ht_vocab_free(struct ht_vocab *vocab)
{
    ht_free(vocab->bytes);
    ht_free(vocab->offset);
    ht_free(vocab->type);
    ht_free(vocab->is_end);
    ht_free(vocab->by_bytes);
    ht_free(vocab->specials);
    ht_free(vocab->merges);
    ht_free(vocab->by_pair);
    ht_free(vocab->rank);
    *vocab = (struct ht_vocab){0};
}
