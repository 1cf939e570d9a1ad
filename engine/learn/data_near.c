// SPDX-License-Identifier: Apache-2.0
// Near-duplicates by MinHash: 64 minima of 16 bits over shingles of five words, found through 8 bands of 4. The share
// of equal minima estimates the Jaccard likeness. 256 bytes a record; the same records in the same order give the same
// answer. One thread per object.
#include <string.h>

#include "engine/base/limits.h"
#include "engine/base/mem.h"
#include "engine/base/utf8.h"
#include "engine/learn/data.h"

enum { LANES = 64, BANDS = 8, BAND_LANES = 4, SHINGLE = 5, MIN_SHINGLES = 4, MAX_LOOKED_AT = 64 };

struct entry {
    uint32_t tag, record; // record + 1; 0 = free
};
struct ht_data_near {
    uint16_t (*minima)[LANES]; // [capacity]
    struct entry *entries;     // [2 * BANDS * capacity]
    size_t n, capacity;
    unsigned n_alike; // lanes from which on two records are alike
};

struct sketch { // of one record in the making
    uint32_t min[LANES];
    uint64_t words[SHINGLE];
    size_t n_words;
};

enum hearth_status ht_data_near_create(struct ht_data_near **near, double threshold, struct hearth_error *err)
{
    *near = ht_calloc(1, sizeof **near);
    if (!*near)
        return ht_fail(err, HEARTH_NOMEM, "no memory to find near-duplicates");
    (*near)->n_alike = (unsigned)(threshold * LANES + 0.999);
    return HEARTH_OK;
}

void ht_data_near_destroy(struct ht_data_near **near)
{
    if (*near) {
        ht_free((*near)->minima);
        ht_free((*near)->entries);
    }
    ht_free(*near);
    *near = NULL;
}

uint64_t ht_data_content_hash(const struct hearth_data_turn *turns, size_t n_turns, uint64_t seed)
{
    uint64_t h = seed;
    for (size_t i = 0; i < n_turns; i++) {
        h = ht_data_hash(turns[i].text, turns[i].len_bytes, h * 31 + (uint64_t)turns[i].role);
        if (turns[i].input_len_bytes)
            h = ht_data_hash(turns[i].input, turns[i].input_len_bytes, h);
    }
    return h;
}

static void add_word(struct sketch *s, uint64_t word)
{
    s->words[s->n_words++ % SHINGLE] = word;
    if (s->n_words < SHINGLE)
        return;
    uint64_t h = 0;
    for (size_t i = 0; i < SHINGLE; i++)
        h = (h ^ s->words[(s->n_words + i) % SHINGLE]) * 0x9E3779B97F4A7C15u;
    h ^= h >> 29;
    for (uint64_t lane = 0; lane < LANES; lane++) { // multiply-shift, an odd factor for each lane
        uint64_t x = (h + lane * 0xD1342543DE82EF95u) * (2 * lane * 0x94D049BB133111EBu + 0xBF58476D1CE4E5B9u);
        uint32_t value = (uint32_t)(x >> 32);
        s->min[lane] = value < s->min[lane] ? value : s->min[lane];
    }
}

// Words: runs of ASCII letters and digits, and every other character that is not ASCII.
static void add_text(struct sketch *s, const char *text, size_t len_bytes)
{
    char word[64];
    size_t n = 0;
    for (size_t i = 0; i < len_bytes;) {
        unsigned char c = (unsigned char)text[i];
        size_t step = c < 0x80 ? 1 : ht_utf8_char(text + i, len_bytes - i);
        bool letter = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
        if (letter && n < sizeof word)
            word[n++] = (char)(c >= 'A' && c <= 'Z' ? c + 32 : c);
        if (!letter && n) {
            add_word(s, ht_data_hash(word, n, 4));
            n = 0;
        }
        if (c >= 0x80)
            add_word(s, ht_data_hash(text + i, step ? step : 1, 4));
        i += step ? step : 1;
    }
    if (n)
        add_word(s, ht_data_hash(word, n, 4));
}

static uint32_t tag_of(const uint16_t *minima, size_t band)
{
    uint64_t h = ht_data_hash(minima + band * BAND_LANES, BAND_LANES * sizeof *minima, band);
    return (uint32_t)(h >> 32);
}

static void enter(struct ht_data_near *near, size_t record)
{
    size_t mask = 2 * BANDS * near->capacity - 1;
    for (size_t band = 0; band < BANDS; band++) {
        uint32_t tag = tag_of(near->minima[record], band);
        size_t i = tag & mask, seen = 0; // a chain as long as what is looked at needs no more
        while (near->entries[i].record && seen < MAX_LOOKED_AT) {
            seen += near->entries[i].tag == tag;
            i = (i + 1) & mask;
        }
        if (!near->entries[i].record)
            near->entries[i] = (struct entry){tag, (uint32_t)record + 1};
    }
}

static enum hearth_status grow(struct ht_data_near *near, struct hearth_error *err)
{
    size_t capacity = near->capacity ? 2 * near->capacity : 256;
    if (near->n >= HT_MAX_DATA_RECORDS)
        return ht_fail(err, HEARTH_LIMIT, "near-duplicates are told among %d records at most", HT_MAX_DATA_RECORDS);
    void *minima = near->minima;
    struct entry *entries = ht_calloc(2 * BANDS * capacity, sizeof *entries);
    if (!entries || !ht_grow(&minima, near->capacity, capacity, sizeof *near->minima)) {
        ht_free(entries);
        return ht_fail(err, HEARTH_NOMEM, "no memory to tell %zu records apart", capacity);
    }
    ht_free(near->entries);
    near->minima = minima;
    near->entries = entries;
    near->capacity = capacity;
    for (size_t i = 0; i < near->n; i++)
        enter(near, i);
    return HEARTH_OK;
}

static bool find(const struct ht_data_near *near, const uint16_t *minima)
{
    size_t mask = 2 * BANDS * near->capacity - 1;
    for (size_t band = 0; band < BANDS; band++) {
        uint32_t tag = tag_of(minima, band);
        size_t i = tag & mask;
        for (; near->entries[i].record; i = (i + 1) & mask) {
            if (near->entries[i].tag != tag)
                continue;
            const uint16_t *other = near->minima[near->entries[i].record - 1];
            unsigned same = 0;
            for (size_t lane = 0; lane < LANES; lane++)
                same += other[lane] == minima[lane];
            if (same >= near->n_alike)
                return true;
        }
    }
    return false;
}

enum hearth_status ht_data_near_add(struct ht_data_near *near, const struct hearth_data_record *record, bool *like,
                                    struct hearth_error *err)
{
    struct sketch s = {0};
    *like = false;
    memset(s.min, 0xFF, sizeof s.min);
    for (size_t i = 0; i < record->n_turns; i++) {
        add_text(&s, record->turns[i].text, record->turns[i].len_bytes);
        add_text(&s, record->turns[i].input, record->turns[i].input_len_bytes);
    }
    if (s.n_words < SHINGLE + MIN_SHINGLES) // too short to be like another one without being the same
        return HEARTH_OK;
    if (near->n == near->capacity)
        HT_TRY(grow(near, err));
    uint16_t *minima = near->minima[near->n];
    for (size_t lane = 0; lane < LANES; lane++)
        minima[lane] = (uint16_t)(s.min[lane] ^ s.min[lane] >> 16);
    *like = find(near, minima);
    if (!*like)
        enter(near, near->n++);
    return HEARTH_OK;
}
