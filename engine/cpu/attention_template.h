// SPDX-License-Identifier: Apache-2.0
// Attention of any number of queries by blocks of a fixed number, each block's code made for one type of K and V. An
// instruction set's file includes this once, after its own
//   INLINE, score_queries (n queries by SCORE_POSITIONS positions from j on), value_queries (n queries),
//   SCORE_POSITIONS, SCORE_COUNTS(TAKE) and VALUE_COUNTS(TAKE): the counts of a block, largest first, as TAKE(n).
// It gives scores() and values() of struct ht_kernels (engine/cpu/kernels.h). Any thread.

INLINE void score_all(enum ht_kv_type type, const struct ht_kv_geometry *g, const unsigned char *k,
                      const float *q, unsigned n, float *out, size_t stride)
{
    size_t step = n;
#define TAKE(count)                                                                                          \
    for (; n >= (count); n -= (count), q += (count), out += (count)*stride)                                  \
        for (unsigned j = 0; j < HT_KV_PAGE; j += SCORE_POSITIONS)                                           \
            score_queries(type, g, k, q, step, count, j, out, stride);
    SCORE_COUNTS(TAKE)
#undef TAKE
}

static void scores(const struct ht_kv_geometry *g, const unsigned char *k, const float *q, unsigned n,
                   float *out, size_t stride)
{
    if (g->type == HT_KV_F16)
        score_all(HT_KV_F16, g, k, q, n, out, stride);
    else if (g->type == HT_KV_F32)
        score_all(HT_KV_F32, g, k, q, n, out, stride);
    else
        score_all(HT_KV_Q8, g, k, q, n, out, stride);
}

INLINE void value_all(enum ht_kv_type type, const struct ht_kv_geometry *g, const unsigned char *v,
                      const float *e, size_t stride, unsigned n, unsigned from, unsigned to,
                      float *const *acc)
{
#define TAKE(count)                                                                                          \
    for (; n >= (count); n -= (count), e += (count)*stride, acc += (count))                                  \
        value_queries(type, g, v, e, stride, count, from, to, acc);
    VALUE_COUNTS(TAKE)
#undef TAKE
}

static void values(const struct ht_kv_geometry *g, const unsigned char *v, const float *e, size_t stride,
                   unsigned n, unsigned from, unsigned to, float *const *acc)
{
    if (g->type == HT_KV_F16)
        value_all(HT_KV_F16, g, v, e, stride, n, from, to, acc);
    else if (g->type == HT_KV_F32)
        value_all(HT_KV_F32, g, v, e, stride, n, from, to, acc);
    else
        value_all(HT_KV_Q8, g, v, e, stride, n, from, to, acc);
}
