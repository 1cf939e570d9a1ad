// SPDX-License-Identifier: Apache-2.0
// Contract Q for up to 8 rows of x: each group of 16 rows of W is one stream from memory, decoded once for up
// to 4 rows. A lane is a row of W, so there are no sums across lanes; all integer sums are exact, and so are
// the products of integers done in f32 (they stay below 2^24). Any thread.
#include "engine/cpu/codes_avx512.h"
#include "engine/cpu/overlay_avx512vnni.h"

enum {
    PREFETCH_BYTES = 8192
}; // ahead in the stream; beyond the end it touches what follows, which is harmless

INLINE __m512i four(const int8_t *q) // the same 4 q in every lane
{
    int32_t v;
    memcpy(&v, q, 4);
    return _mm512_set1_epi32(v);
}

INLINE __m512i start_of(enum ht_type type, int32_t sum) // what makes biased codes come out right
{
    return zero_of(type) ? _mm512_set1_epi32(-zero_of(type) * sum) : _mm512_setzero_si512();
}

// The b-th 32 of x (the j-th of the tile) for n rows of x.
INLINE void block(enum ht_type type, const unsigned char *tile, const struct scales *s, unsigned j,
                  uint32_t b, const struct ht_xrow *x, unsigned n, __m512 *acc)
{
    enum ht_kind kind = kind_of(type);
    __m512i dot[4][2];
    for (unsigned c = 0; c < n; c++) {
        int32_t s0 = x[c].sum[2 * b], s1 = x[c].sum[2 * b + 1];
        bool halves = kind == HT_KIND_K16 || kind == HT_KIND_K16M;
        dot[c][0] = start_of(type, halves ? s0 : s0 + s1);
        dot[c][1] = halves ? start_of(type, s1) : _mm512_setzero_si512();
    }
    UNROLL
    for (unsigned i = 0; i < 8; i++) {
        __m512i w = codes(type, tile, j, i);
        for (unsigned c = 0; c < n; c++)
            dot[c][i / 4] = _mm512_dpbusd_epi32(dot[c][i / 4], w, four(x[c].q + 32 * b + 4 * i));
    }
    for (unsigned c = 0; c < n; c++) {
        __m512 dx = _mm512_set1_ps(x[c].d[b]), ddx = _mm512_mul_ps(s->d, dx), isum;
        float s0 = (float)x[c].sum[2 * b], s1 = (float)x[c].sum[2 * b + 1];
        if (kind == HT_KIND_K16 || kind == HT_KIND_K16M) {
            isum = _mm512_mul_ps(_mm512_cvtepi32_ps(dot[c][0]), scale_at(type, tile, s, j, 0));
            isum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[c][1]), scale_at(type, tile, s, j, 1), isum);
        } else {
            isum = _mm512_cvtepi32_ps(_mm512_add_epi32(dot[c][0], dot[c][1]));
            if (kind == HT_KIND_K32M)
                isum = _mm512_mul_ps(isum, scale_at(type, tile, s, j, 0));
        }
        acc[c] = _mm512_fmadd_ps(isum, ddx, acc[c]);
        if (kind == HT_KIND_DM)
            acc[c] = _mm512_fmadd_ps(s->m, _mm512_set1_ps(x[c].ds[b]), acc[c]);
        if (kind == HT_KIND_K32M) {
            __m512 msum = _mm512_mul_ps(min_at(type, tile, s, j, 0), _mm512_set1_ps(s0 + s1));
            acc[c] = _mm512_fnmadd_ps(msum, _mm512_mul_ps(s->m, dx), acc[c]);
        }
        if (kind == HT_KIND_K16M) {
            __m512 msum = _mm512_mul_ps(min_at(type, tile, s, j, 0), _mm512_set1_ps(s0));
            msum = _mm512_fmadd_ps(min_at(type, tile, s, j, 1), _mm512_set1_ps(s1), msum);
            acc[c] = _mm512_fnmadd_ps(msum, _mm512_mul_ps(s->m, dx), acc[c]);
        }
    }
}

INLINE void columns(enum ht_type type, const unsigned char *tiles, uint32_t k, const struct ht_xrow *x,
                    unsigned n, float *out)
{
    __m512 acc[4];
    struct scales s;
    for (unsigned c = 0; c < n; c++)
        acc[c] = _mm512_setzero_ps();
    for (uint32_t b = 0; b < k / 32; b += blocks32_of(type), tiles += tile_bytes_of(type)) {
        for (unsigned line = 0; line < tile_bytes_of(type); line += 64)
            _mm_prefetch(tiles + PREFETCH_BYTES + line, _MM_HINT_T1);
        scales_read(type, tiles, &s);
        UNROLL
        for (unsigned j = 0; j < blocks32_of(type); j++)
            block(type, tiles, &s, j, b + j, x, n, acc);
    }
    for (unsigned c = 0; c < n; c++)
        _mm512_storeu_ps(out + c * HT_GROUP, acc[c]);
}

// A group stays in L1 while its columns are done four, two or one at a time.
INLINE void matvec(enum ht_type type, const unsigned char *tiles, uint32_t k, const struct ht_xrow *x,
                   unsigned n, float *out)
{
    for (; n >= 4; n -= 4, x += 4, out += 4 * HT_GROUP)
        columns(type, tiles, k, x, 4, out);
    for (; n >= 2; n -= 2, x += 2, out += 2 * HT_GROUP)
        columns(type, tiles, k, x, 2, out);
    if (n)
        columns(type, tiles, k, x, 1, out);
}

#define MATVEC(name)                                                                                         \
    static void name##_matvec(const unsigned char *tiles, uint32_t k, const struct ht_xrow *x, unsigned n,   \
                              float *out)                                                                    \
    {                                                                                                        \
        matvec(HT_TYPE_##name, tiles, k, x, n, out);                                                         \
    }
HT_BLOCK_TYPES(MATVEC)

void ht_matvec_avx512vnni(struct ht_kernels *kernels)
{
#define SET(name) kernels->matvec[HT_TYPE_##name] = name##_matvec;
    HT_BLOCK_TYPES(SET)
#undef SET
}
