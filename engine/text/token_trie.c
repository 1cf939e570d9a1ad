// SPDX-License-Identifier: Apache-2.0
// Building the token trie: ids sorted by their bytes, then one pass. Control, unknown and unused tokens and those
// without bytes are left out: an answer never holds them. Once built, read-only.
#include "engine/text/token_trie.h"

#include <string.h>

#include "engine/base/limits.h"
#include "engine/base/mem.h"
#include "engine/base/utf8.h"

struct key {
    uint64_t prefix; // the first eight bytes, so that most comparisons need no look at the text
    uint32_t id, len_bytes;
    const unsigned char *bytes;
};

static bool less(const struct key *x, const struct key *y)
{
    if (x->prefix != y->prefix)
        return x->prefix < y->prefix;
    uint32_t n = x->len_bytes < y->len_bytes ? x->len_bytes : y->len_bytes;
    int order = memcmp(x->bytes, y->bytes, n);
    if (order)
        return order < 0;
    return x->len_bytes != y->len_bytes ? x->len_bytes < y->len_bytes : x->id < y->id;
}

// Merge sort; `other` has room for n. Returns where the result lies.
static struct key *sort(struct key *keys, struct key *other, uint32_t n)
{
    for (uint32_t width = 1; width < n; width *= 2) {
        for (uint32_t at = 0; at < n; at += 2 * width) {
            uint32_t middle = n - at < width ? n : at + width, end = n - at < 2 * width ? n : at + 2 * width;
            for (uint32_t i = at, j = middle, k = at; k < end; k++)
                other[k] = j < end && (i == middle || less(&keys[j], &keys[i])) ? keys[j++] : keys[i++];
        }
        struct key *swap = keys;
        keys = other;
        other = swap;
    }
    return keys;
}

static bool usable(const struct ht_tokenizer *tokenizer, uint32_t id, struct ht_text *piece)
{
    enum ht_token_type type = ht_tokenizer_type(tokenizer, id);
    *piece = ht_tokenizer_piece(tokenizer, id, false);
    return piece->len_bytes && piece->len_bytes <= HT_MAX_TOKEN_BYTES &&
           !ht_tokenizer_is_end(tokenizer, id) &&
           (type == HT_TOKEN_NORMAL || type == HT_TOKEN_USER_DEFINED || type == HT_TOKEN_BYTE);
}

static bool is_plain(const unsigned char *s, uint32_t n)
{
    uint32_t chars = 0;
    for (uint32_t i = 0, length; i < n; i += length, chars++) {
        length = (uint32_t)ht_utf8_char(s + i, n - i);
        if (!length || chars == HT_PLAIN_CHARS || s[i] < 0x20 || s[i] == '"' || s[i] == '\\' || s[i] == 0x7F)
            return false;
    }
    return true;
}

static enum hearth_status no_memory(struct hearth_error *err)
{
    return ht_fail(err, HEARTH_NOMEM, "out of memory for the tree of the vocabulary");
}

static uint32_t common(const struct key *a, const struct key *b)
{
    uint32_t n = 0;
    while (n < a->len_bytes && n < b->len_bytes && a->bytes[n] == b->bytes[n])
        n++;
    return n;
}

static enum hearth_status make_part(struct ht_trie_part *part, const struct key *keys, uint32_t n,
                                    uint32_t max_bytes, struct hearth_error *err)
{
    size_t n_nodes = 1;
    for (uint32_t i = 0; i < n; i++)
        n_nodes += keys[i].len_bytes - (i ? common(&keys[i - 1], &keys[i]) : 0);
    if (n_nodes >= UINT32_MAX)
        return ht_fail(err, HEARTH_LIMIT, "the vocabulary has too many bytes");
    uint32_t *path = ht_calloc(max_bytes + 1, sizeof *path); // the open node of each depth
    part->nodes = ht_calloc(n_nodes + 1, sizeof *part->nodes);
    part->order = ht_calloc(n + 1, sizeof *part->order);
    if (!path || !part->nodes || !part->order) {
        ht_free(path);
        return no_memory(err);
    }
    uint32_t at = 1, depth = 0;
    for (uint32_t i = 0; i <= n; i++) {
        uint32_t shared = i && i < n ? common(&keys[i - 1], &keys[i]) : 0;
        for (; depth > shared; depth--)
            part->nodes[path[depth]].skip = at;
        for (; i < n && depth < keys[i].len_bytes; at++) {
            part->nodes[at] = (struct ht_trie_node){
                .first = i, .byte = keys[i].bytes[depth], .depth = (uint16_t)(depth + 1)};
            path[++depth] = at;
        }
        if (i < n)
            part->order[i] = keys[i].id;
    }
    part->nodes[0].skip = at;
    part->nodes[at] = (struct ht_trie_node){.skip = at, .first = n};
    part->n_nodes = at;
    part->n_tokens = n;
    ht_free(path);
    return HEARTH_OK;
}

// Plain tokens become the mask, the others stay in keys: n of them.
static enum hearth_status take_plain(struct ht_trie *t, struct key *keys, uint32_t *n,
                                     struct hearth_error *err)
{
    uint32_t rest = 0;
    t->plain_mask = ht_calloc(t->n_words + 1, sizeof *t->plain_mask);
    if (!t->plain_mask)
        return no_memory(err);
    for (uint32_t i = 0; i < *n; i++)
        if (is_plain(keys[i].bytes, keys[i].len_bytes))
            t->plain_mask[keys[i].id / 32] |= 1u << keys[i].id % 32;
        else
            keys[rest++] = keys[i];
    *n = rest;
    return HEARTH_OK;
}

static enum hearth_status build(struct ht_trie *t, const struct ht_tokenizer *tokenizer, struct key *keys,
                                struct key *other, struct hearth_error *err)
{
    uint32_t n = 0;
    t->held = ht_calloc(t->n_words + 1, sizeof *t->held);
    if (!t->held)
        return no_memory(err);
    for (uint32_t id = 0; id < t->n_vocab; id++) {
        struct ht_text piece;
        if (!usable(tokenizer, id, &piece))
            continue;
        t->held[id / 32] |= 1u << id % 32;
        struct key *key = &keys[n++];
        *key = (struct key){
            .id = id, .len_bytes = (uint32_t)piece.len_bytes, .bytes = (const unsigned char *)piece.bytes};
        for (uint32_t i = 0; i < 8; i++)
            key->prefix = key->prefix << 8 | (i < key->len_bytes ? key->bytes[i] : 0);
        if (key->len_bytes > t->max_bytes)
            t->max_bytes = key->len_bytes;
    }
    keys = sort(keys, other, n);
    HT_TRY(make_part(&t->all, keys, n, t->max_bytes, err));
    HT_TRY(take_plain(t, keys, &n, err));
    return make_part(&t->rest, keys, n, t->max_bytes, err);
}

enum hearth_status ht_trie_create(struct ht_trie **trie, const struct ht_tokenizer *tokenizer,
                                  struct hearth_error *err)
{
    uint32_t n_vocab = (uint32_t)ht_tokenizer_n_tokens(tokenizer);
    struct ht_trie *t = ht_calloc(1, sizeof *t);
    struct key *keys = ht_calloc(n_vocab, sizeof *keys), *other = ht_calloc(n_vocab, sizeof *other);
    enum hearth_status status = HEARTH_OK;
    if (t && keys && other) {
        t->n_vocab = n_vocab;
        t->n_words = n_vocab / 32 + (n_vocab % 32 != 0);
        status = build(t, tokenizer, keys, other, err);
    } else {
        status = no_memory(err);
    }
    ht_free(keys);
    ht_free(other);
    if (status != HEARTH_OK)
        ht_trie_destroy(&t);
    *trie = t;
    return status;
}

static void free_part(struct ht_trie_part *part)
{
    ht_free(part->nodes);
    ht_free(part->order);
}

void ht_trie_destroy(struct ht_trie **trie)
{
    struct ht_trie *t = *trie;
    *trie = NULL;
    if (!t)
        return;
    free_part(&t->all);
    free_part(&t->rest);
    ht_free(t->plain_mask);
    ht_free(t->held);
    ht_free(t);
}

size_t ht_trie_size_bytes(const struct ht_trie *t)
{
    size_t nodes = t->all.n_nodes + t->rest.n_nodes + 2, ids = (size_t)t->all.n_tokens + t->rest.n_tokens + 3;
    return sizeof *t + nodes * sizeof *t->all.nodes + (ids + 2 * t->n_words) * sizeof(uint32_t);
}
