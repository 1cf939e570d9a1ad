// SPDX-License-Identifier: Apache-2.0
// Sampling. Rows go in rounds of a few: first the team copies and changes logits where a row asks for it and
// finds the maximum of every 256; then one thread a row picks. Only the blocks whose maximum can matter are
// looked into.
//
// Values, all f32: v = logit; ids outside the row's mask: -infinity; + each bias of the id in list order; if the id is
// in the history, v > 0 ? v / repeat : v * repeat, then v - presence, then v - frequency * count. Ids whose v is not
// finite are never drawn. z = v / temperature, e = ht_exp(z - z_max); sums run over the kept ids, largest v first
// (ties: lower id first).
//
// Ids more than 18 temperatures below the maximum are left out early: their e is below 2^-25, the running sum
// is at least 1, so that adding them changes no bit of it and none of them can be drawn. Team threads, inside
// a submit.
#include <math.h>
#include <string.h>

#include "engine/base/rng.h"
#include "engine/cpu/cpu.h"
#include "engine/cpu/math.h"

enum { ROUND_ROWS = 4, RADIX_BITS = 11, RADIX = 1 << RADIX_BITS, SMALL_SORT = 48 };

static size_t n_blocks(uint32_t n_vocab)
{
    return (n_vocab + HT_SAMPLE_BLOCK - 1) / HT_SAMPLE_BLOCK;
}

struct shared { // of one row of a round
    float *values, *maxima;
};

static size_t shared_row_bytes(uint32_t n_vocab)
{
    return ht_round64(n_vocab * sizeof(float)) + ht_round64(n_blocks(n_vocab) * sizeof(float));
}

static struct shared shared_row(const struct ht_run *run, uint32_t n_vocab, uint32_t i)
{
    unsigned char *at = run->plan->shared + shared_row_bytes(n_vocab) * i;
    return (struct shared){(float *)(void *)at, (float *)(void *)(at + ht_round64(n_vocab * sizeof(float)))};
}

size_t ht_sample_shared_bytes(const struct ht_plan *plan, const struct ht_sample *p)
{
    uint32_t outs = plan->head.shape.outs;
    return shared_row_bytes(p->n_vocab) * (outs < ROUND_ROWS ? outs : ROUND_ROWS);
}

size_t ht_sample_thread_bytes(const struct ht_plan *plan, const struct ht_sample *p)
{
    (void)plan;
    size_t history = HT_MAX_PENALTY_WINDOW * sizeof(int32_t),
           keys = 2 * (size_t)p->n_vocab * sizeof(uint64_t);
    return (history > keys ? history : keys) + RADIX * sizeof(uint32_t);
}

// ---- changed logits

static bool is_changed(const struct ht_sampler *s)
{
    bool penalties = s->repeat_penalty != 1.0f || s->presence_penalty != 0.0f || s->frequency_penalty != 0.0f;
    return s->masked || s->n_bias || (s->n_history && penalties);
}

static void sift(int32_t *v, uint32_t i, uint32_t n)
{
    for (uint32_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && v[child + 1] > v[child])
            child++;
        if (v[i] >= v[child])
            return;
        int32_t t = v[i];
        v[i] = v[child];
        v[child] = t;
    }
}

static void sort_ids(int32_t *v, uint32_t n)
{
    for (uint32_t i = n / 2; i-- > 0;)
        sift(v, i, n);
    for (uint32_t end = n; end > 1; end--) {
        int32_t t = v[0];
        v[0] = v[end - 1];
        v[end - 1] = t;
        sift(v, 0, end - 1);
    }
}

// Copies columns [from, to), from a multiple of 32; -infinity where the mask has no bit.
static void copy_masked(const uint32_t *mask, const float *logits, float *v, struct ht_range c)
{
    for (uint32_t at = c.from; at < c.to; at += 32) {
        uint32_t word = mask[at / 32], n = c.to - at < 32 ? c.to - at : 32;
        for (uint32_t i = 0; i < n; i++)
            v[at + i] = word >> i & 1 ? logits[at + i] : -INFINITY;
    }
}

// Copies columns [from, to) and applies what the sampler says about ids among them.
static void change(const struct ht_step *step, uint32_t o, const float *logits, float *v, struct ht_range c,
                   int32_t *ids)
{
    const struct ht_sampler *s = &step->sampler[o];
    const int32_t *history = step->history + (size_t)o * HT_MAX_PENALTY_WINDOW;
    const int32_t *token = step->bias_token + (size_t)o * HT_MAX_LOGIT_BIAS;
    const float *bias = step->bias_value + (size_t)o * HT_MAX_LOGIT_BIAS;
    if (s->masked)
        copy_masked(step->mask + (size_t)o * ht_mask_words(step->shape.vocab), logits, v, c);
    else
        memcpy(v + c.from, logits + c.from, (c.to - c.from) * sizeof *v);
    for (uint32_t i = 0; i < s->n_bias; i++)
        if (token[i] >= 0 && (uint32_t)token[i] >= c.from && (uint32_t)token[i] < c.to)
            v[token[i]] += bias[i];
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n_history; i++)
        if (history[i] >= 0 && (uint32_t)history[i] >= c.from && (uint32_t)history[i] < c.to)
            ids[n++] = history[i];
    sort_ids(ids, n);
    for (uint32_t i = 0, count; i < n; i += count) {
        for (count = 1; i + count < n && ids[i + count] == ids[i]; count++)
            ;
        float *x = &v[ids[i]];
        *x = *x > 0 ? *x / s->repeat_penalty : *x * s->repeat_penalty;
        *x = *x - s->presence_penalty;
        *x = *x - s->frequency_penalty * (float)count;
    }
}

// ---- candidates: 64-bit keys, value descending in the high half, id ascending in the low half

static uint64_t key_of(float v, uint32_t id)
{
    uint32_t bits = ht_f32_bits(v == 0 ? 0.0f : v); // -0 is 0
    uint32_t ascending = bits & 0x80000000 ? ~bits : bits | 0x80000000;
    return (uint64_t)~ascending << 32 | id;
}

static float value_of(uint64_t key)
{
    uint32_t ascending = ~(uint32_t)(key >> 32);
    return ht_bits_f32(ascending & 0x80000000 ? ascending & 0x7FFFFFFF : ~ascending);
}

// Keys come in with ascending ids; a stable sort by the high half is a sort by the whole key.
static uint64_t *sort_keys(uint64_t *keys, uint64_t *other, uint32_t *counts, uint32_t n)
{
    if (n <= SMALL_SORT) {
        for (uint32_t i = 1; i < n; i++) {
            uint64_t key = keys[i];
            uint32_t j = i;
            for (; j > 0 && keys[j - 1] > key; j--)
                keys[j] = keys[j - 1];
            keys[j] = key;
        }
        return keys;
    }
    for (int shift = 32; shift < 64; shift += RADIX_BITS) {
        memset(counts, 0, RADIX * sizeof *counts);
        for (uint32_t i = 0; i < n; i++)
            counts[keys[i] >> shift & (RADIX - 1)]++;
        for (uint32_t b = 0, at = 0; b < RADIX; b++) {
            uint32_t count = counts[b];
            counts[b] = at;
            at += count;
        }
        for (uint32_t i = 0; i < n; i++)
            other[counts[keys[i] >> shift & (RADIX - 1)]++] = keys[i];
        uint64_t *swap = keys;
        keys = other;
        other = swap;
    }
    return keys;
}

struct pick { // one row, on one thread
    const float *v, *maxima;
    uint32_t n_vocab;
    const struct ht_sampler *s;
    uint64_t *keys, *other;
    uint32_t *counts;
};

static int32_t greedy(const struct pick *p, float top)
{
    for (uint32_t b = 0;; b++)
        for (uint32_t i = b * HT_SAMPLE_BLOCK;
             p->maxima[b] == top && i < p->n_vocab && i < (b + 1) * HT_SAMPLE_BLOCK; i++)
            if (p->v[i] == top)
                return (int32_t)i;
}

// The k-th largest maximum of a block: at least k values reach it, so the k largest do.
static float kth_maximum(const struct pick *p, uint32_t k)
{
    uint32_t n = (uint32_t)n_blocks(p->n_vocab);
    if (k > n)
        return -INFINITY;
    for (uint32_t b = 0; b < n; b++)
        p->keys[b] = key_of(p->maxima[b], b);
    return value_of(sort_keys(p->keys, p->other, p->counts, n)[k - 1]);
}

static uint32_t collect(const struct pick *p, float least)
{
    uint32_t n = 0;
    for (uint32_t b = 0; b < n_blocks(p->n_vocab); b++)
        for (uint32_t i = b * HT_SAMPLE_BLOCK;
             p->maxima[b] >= least && i < p->n_vocab && i < (b + 1) * HT_SAMPLE_BLOCK; i++)
            if (p->v[i] >= least && p->v[i] < INFINITY)
                p->keys[n++] = key_of(p->v[i], i);
    return n;
}

// e: room for n floats
static int32_t draw(const struct pick *p, const uint64_t *keys, uint32_t n, float *e)
{
    const struct ht_sampler *s = p->s;
    float z_max = value_of(keys[0]) / s->temperature, total = 0, sum = 0;
    for (uint32_t i = 0; i < n; i++)
        total += e[i] = ht_exp(value_of(keys[i]) / s->temperature - z_max);
    if (s->top_p < 1.0f) {
        uint32_t kept = 0;
        do
            sum += e[kept];
        while (++kept < n && !(sum >= s->top_p * total));
        n = kept;
    }
    while (n > 1 && e[n - 1] < s->min_p)
        n--;
    total = sum = 0;
    for (uint32_t i = 0; i < n; i++)
        total += e[i];
    float u = ht_unit_f32(ht_philox(s->seed, s->position, 0).v[0]) * total;
    for (uint32_t i = 0; i < n; i++)
        if ((sum += e[i]) > u)
            return (int32_t)(uint32_t)keys[i];
    return (int32_t)(uint32_t)keys[n - 1];
}

static int32_t pick(const struct pick *p)
{
    const struct ht_sampler *s = p->s;
    float top = -INFINITY;
    for (uint32_t b = 0; b < n_blocks(p->n_vocab); b++)
        top = p->maxima[b] > top ? p->maxima[b] : top;
    if (top == -INFINITY)
        return -1;
    if (!(s->temperature > 0) || s->temperature == INFINITY)
        return greedy(p, top);
    bool limited = s->top_k && s->top_k < p->n_vocab;
    float least = top - (18.0f * s->temperature + fabsf(top) * 0x1p-20f);
    if (limited) {
        float kth = kth_maximum(p, s->top_k);
        least = kth > least ? kth : least;
    }
    uint32_t n = collect(p, least);
    uint64_t *keys = sort_keys(p->keys, p->other, p->counts, n),
             *spare = keys == p->keys ? p->other : p->keys;
    return draw(p, keys, limited && n > s->top_k ? s->top_k : n, (float *)(void *)spare);
}

// ---- the op

static void prepare_row(const struct ht_sample *p, const struct ht_run *run, uint32_t o, struct shared row,
                        unsigned thread)
{
    const float *logits = ht_ref_floats(&p->logits) + (size_t)o * p->stride, *v = logits;
    struct ht_range b = ht_share((uint32_t)n_blocks(p->n_vocab), thread, run->n_threads);
    uint32_t from = b.from * HT_SAMPLE_BLOCK, to = b.to * HT_SAMPLE_BLOCK;
    struct ht_range c = {from, to < p->n_vocab ? to : p->n_vocab};
    if (c.from >= c.to)
        return;
    if (is_changed(&run->step->sampler[o])) {
        change(run->step, o, logits, row.values, c, ht_run_scratch(run, thread));
        v = row.values;
    }
    run->device->kernels.block_max(v + c.from, c.to - c.from, row.maxima + b.from);
}

static void pick_row(const struct ht_sample *p, const struct ht_run *run, uint32_t o, struct shared row,
                     unsigned thread)
{
    const struct ht_sampler *s = &run->step->sampler[o];
    uint64_t *keys = ht_run_scratch(run, thread);
    struct pick job = {is_changed(s) ? row.values : ht_ref_floats(&p->logits) + (size_t)o * p->stride,
                       row.maxima,
                       p->n_vocab,
                       s,
                       keys,
                       keys + p->n_vocab,
                       (uint32_t *)(keys + 2 * (size_t)p->n_vocab)};
    int32_t token = pick(&job);
    memcpy(ht_ref_floats(&p->token) + o, &token, sizeof token);
}

void ht_run_sample(const struct ht_call *call, const struct ht_run *run, unsigned thread)
{
    const struct ht_sample *p = &call->p.sample;
    for (uint32_t o = 0; o < run->n_outs;) {
        uint32_t rows[ROUND_ROWS], n = 0;
        for (; o < run->n_outs && n < ROUND_ROWS; o++)
            if (run->step->sampler[o].active)
                rows[n++] = o;
        for (uint32_t i = 0; i < n; i++)
            prepare_row(p, run, rows[i], shared_row(run, p->n_vocab, i), thread);
        if (n)
            ht_pool_barrier(run->device->pool, thread);
        for (uint32_t i = 0; i < n; i++)
            if (i % run->n_threads == thread)
                pick_row(p, run, rows[i], shared_row(run, p->n_vocab, i), thread);
        if (o < run->n_outs && n)
            ht_pool_barrier(run->device->pool, thread);
    }
}
