// SPDX-License-Identifier: Apache-2.0
// The merge list of a byte-level vocabulary: "left right" lines in order of rank. Runs when a model is
// opened.
#include <string.h>

#include "engine/base/limits.h"
#include "engine/base/mem.h"
#include "engine/text/unicode.h"
#include "engine/text/vocabulary.h"

enum { MAX_PROBES = 512, MAX_MERGES = 4 * HT_MAX_VOCAB };

static size_t pair_slot(const struct ht_vocab *v, uint32_t left, uint32_t right)
{
    uint64_t h = ((uint64_t)left << 32 | right) * 0xD6E8FEB86659FD93U;
    h = (h ^ h >> 32) * 0xD6E8FEB86659FD93U;
    return (size_t)(h >> 24) & v->by_pair_mask;
}

uint32_t ht_vocab_pair_rank(const struct ht_vocab *v, uint32_t left, uint32_t right)
{
    for (size_t slot = pair_slot(v, left, right); v->by_pair[slot]; slot = (slot + 1) & v->by_pair_mask) {
        const struct ht_merge_rule *m = &v->merges[v->by_pair[slot] - 1];
        if (m->left == left && m->right == right)
            return v->by_pair[slot] - 1;
    }
    return HT_NO_RANK;
}

// Of a pair that is listed twice the first rank stands.
static bool enter_pair(struct ht_vocab *v, uint32_t rank)
{
    const struct ht_merge_rule *m = &v->merges[rank];
    size_t slot = pair_slot(v, m->left, m->right);
    for (int i = 0; i < MAX_PROBES; i++, slot = (slot + 1) & v->by_pair_mask) {
        if (!v->by_pair[slot]) {
            v->by_pair[slot] = rank + 1;
            return true;
        }
        const struct ht_merge_rule *other = &v->merges[v->by_pair[slot] - 1];
        if (other->left == m->left && other->right == m->right)
            return true;
    }
    return false;
}

// Raw bytes of one side; 0 if it is empty, too long, or has a character that stands for no byte.
static size_t side_bytes(const char *text, size_t len_bytes, unsigned char out[HT_MAX_TOKEN_BYTES])
{
    size_t n = 0;
    for (size_t i = 0; i < len_bytes && n < HT_MAX_TOKEN_BYTES;) {
        uint32_t c;
        i += ht_uc_next((const unsigned char *)text + i, len_bytes - i, &c);
        int byte = ht_byte_of_stand_in(c);
        if (byte < 0 || (i < len_bytes && n + 1 == HT_MAX_TOKEN_BYTES))
            return 0;
        out[n++] = (unsigned char)byte;
    }
    return n;
}

static enum hearth_status read_merge(struct ht_vocab *v, const struct ht_vocab_source *s, size_t i,
                                     struct hearth_error *err)
{
    struct ht_text line = s->merges[i];
    const char *space = line.bytes && line.len_bytes ? memchr(line.bytes, ' ', line.len_bytes) : NULL;
    if (!space)
        return ht_fail(err, HEARTH_FORMAT, "%s: merge %zu is not two tokens with a space between",
                       ht_vocab_file(s), i);
    unsigned char bytes[2 * HT_MAX_TOKEN_BYTES];
    size_t n_left = side_bytes(line.bytes, (size_t)(space - line.bytes), bytes);
    const char *right = space + 1;
    size_t n_right =
        n_left ? side_bytes(right, (size_t)(line.bytes + line.len_bytes - right), bytes + n_left) : 0;
    if (!n_right)
        return ht_fail(err, HEARTH_FORMAT, "%s: merge %zu is not two byte-level tokens with a space between",
                       ht_vocab_file(s), i);
    int32_t left_id = ht_vocab_find(v, bytes, n_left), right_id = ht_vocab_find(v, bytes + n_left, n_right);
    int32_t result = ht_vocab_find(v, bytes, n_left + n_right);
    if (left_id < 0 || right_id < 0 || result < 0)
        return ht_fail(err, HEARTH_FORMAT, "%s: merge %zu names a token that the vocabulary does not have",
                       ht_vocab_file(s), i);
    v->merges[i] = (struct ht_merge_rule){(uint32_t)left_id, (uint32_t)right_id, (uint32_t)result};
    if (!enter_pair(v, (uint32_t)i))
        return ht_fail(err, HEARTH_LIMIT, "%s: merges made to collide (merge %zu)", ht_vocab_file(s), i);
    return HEARTH_OK;
}

enum hearth_status ht_vocab_build_merges(struct ht_vocab *v, const struct ht_vocab_source *s,
                                         struct hearth_error *err)
{
    if (!s->n_merges || !s->merges)
        return ht_fail(err, HEARTH_FORMAT, "%s: the vocabulary has no merges (tokenizer.ggml.merges)",
                       ht_vocab_file(s));
    if (s->n_merges > MAX_MERGES)
        return ht_fail(err, HEARTH_LIMIT, "%s: %zu merges are more than %d", ht_vocab_file(s), s->n_merges,
                       MAX_MERGES);
    size_t slots = 1;
    while (slots < 2 * s->n_merges)
        slots *= 2;
    v->n_merges = s->n_merges;
    v->by_pair_mask = slots - 1;
    v->merges = ht_calloc(s->n_merges, sizeof *v->merges);
    v->by_pair = ht_calloc(slots, sizeof *v->by_pair);
    if (!v->merges || !v->by_pair)
        return ht_fail(err, HEARTH_NOMEM, "%s: out of memory for the merges", ht_vocab_file(s));
    for (size_t i = 0; i < s->n_merges; i++)
        HT_TRY(read_merge(v, s, i, err));
    for (int b = 0; b < 256; b++) {
        unsigned char byte = (unsigned char)b;
        v->byte_id[b] = ht_vocab_find(v, &byte, 1);
    }
    return HEARTH_OK;
}
