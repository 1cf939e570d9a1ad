// SPDX-License-Identifier: Apache-2.0
// Contract Q for 3 to 8 rows of x at about the price of one: the codes of 16 rows of W are decoded once into eight
// registers, every column runs over them, and all that it needs of x lies in one stream with constant offsets. A lane
// is a row of W; integer sums are exact, and so are the products of integers done in f32 (below 2^24). Any thread.
#include "engine/cpu/codes_avx512.h"
#include "engine/cpu/overlay_avx512vnni.h"

enum { PREFETCH_BYTES = 8192 }; // as in matvec_avx512vnni.c

struct factors { // of one 32: what all columns share
    __m512 d, m, scale[2], min[2];
};

INLINE __m512 all(float x)
{
    return _mm512_set1_ps(x);
}

// acc + products of w with the 4 q in every lane, read by the instruction itself: compilers load them apart, which
// costs a tenth of the speed.
INLINE __m512i dot_all(__m512i acc, __m512i w, const int32_t *q)
{
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(w), "m"(*q));
    return acc;
}

INLINE __m512 less_zero(enum ht_type type, __m512i dot, float sum) // the sum over codes - zero
{
    __m512 isum = _mm512_cvtepi32_ps(dot);
    return zero_of(type) ? _mm512_fnmadd_ps(all((float)zero_of(type)), all(sum), isum) : isum;
}

INLINE __m512 column(enum ht_type type, const __m512i *w, const struct factors *f, const struct ht_xfew *x,
                     unsigned c, __m512 acc)
{
    enum ht_kind kind = kind_of(type);
    bool halves = kind == HT_KIND_K16 || kind == HT_KIND_K16M;
    __m512i dot0 = _mm512_setzero_si512(), dot1 = dot0;
    UNROLL
    for (unsigned i = 0; i < 4; i++) {
        dot0 = dot_all(dot0, w[i], &x->q[c][i]);
        if (halves)
            dot1 = dot_all(dot1, w[i + 4], &x->q[c][i + 4]);
        else
            dot0 = dot_all(dot0, w[i + 4], &x->q[c][i + 4]);
    }
    __m512 isum, dx = all(x->d[c]);
    if (halves) {
        isum = _mm512_mul_ps(less_zero(type, dot0, x->sum[0][c]), f->scale[0]);
        isum = _mm512_fmadd_ps(less_zero(type, dot1, x->sum[1][c]), f->scale[1], isum);
    } else {
        isum = less_zero(type, dot0, x->sum[2][c]);
        if (kind == HT_KIND_K32M)
            isum = _mm512_mul_ps(isum, f->scale[0]);
    }
    acc = _mm512_fmadd_ps(isum, _mm512_mul_ps(f->d, dx), acc);
    if (kind == HT_KIND_DM)
        acc = _mm512_fmadd_ps(f->m, all(x->ds[c]), acc);
    if (kind == HT_KIND_K32M)
        acc = _mm512_fnmadd_ps(_mm512_mul_ps(f->min[0], all(x->sum[2][c])), _mm512_mul_ps(f->m, dx), acc);
    if (kind == HT_KIND_K16M) {
        __m512 msum = _mm512_mul_ps(f->min[0], all(x->sum[0][c]));
        msum = _mm512_fmadd_ps(f->min[1], all(x->sum[1][c]), msum);
        acc = _mm512_fnmadd_ps(msum, _mm512_mul_ps(f->m, dx), acc);
    }
    return acc;
}

INLINE void columns(enum ht_type type, const unsigned char *tiles, uint32_t k, const struct ht_xfew *x,
                    unsigned n, float *out)
{
    enum ht_kind kind = kind_of(type);
    __m512 acc[HT_MAX_MATVEC];
    struct scales s;
    for (unsigned c = 0; c < n; c++)
        acc[c] = _mm512_setzero_ps();
    for (uint32_t b = 0; b < k / 32; b += blocks32_of(type), tiles += tile_bytes_of(type)) {
        for (unsigned line = 0; line < tile_bytes_of(type); line += 64)
            _mm_prefetch(tiles + PREFETCH_BYTES + line, _MM_HINT_T1);
        scales_read(type, tiles, &s);
        struct factors f = {.d = s.d, .m = s.m};
        UNROLL
        for (unsigned j = 0; j < blocks32_of(type); j++, x++) {
            __m512i w[8];
            UNROLL
            for (unsigned i = 0; i < 8; i++)
                w[i] = codes(type, tiles, j, i);
            if (kind == HT_KIND_K32M || kind == HT_KIND_K16 || kind == HT_KIND_K16M)
                f.scale[0] = scale_at(type, tiles, &s, j, 0);
            if (kind == HT_KIND_K16 || kind == HT_KIND_K16M)
                f.scale[1] = scale_at(type, tiles, &s, j, 1);
            if (kind == HT_KIND_K32M || kind == HT_KIND_K16M)
                f.min[0] = min_at(type, tiles, &s, j, 0);
            if (kind == HT_KIND_K16M)
                f.min[1] = min_at(type, tiles, &s, j, 1);
            UNROLL
            for (unsigned c = 0; c < n; c++)
                acc[c] = column(type, w, &f, x, c, acc[c]);
        }
    }
    for (unsigned c = 0; c < n; c++)
        _mm512_storeu_ps(out + c * HT_GROUP, acc[c]);
}

// Odd counts take the next even one.
INLINE void few(enum ht_type type, const unsigned char *tiles, uint32_t k, const struct ht_xfew *x,
                unsigned n, float *out)
{
    if (n <= 4)
        columns(type, tiles, k, x, 4, out);
    else if (n <= 6)
        columns(type, tiles, k, x, 6, out);
    else
        columns(type, tiles, k, x, 8, out);
}

#define FEW(name)                                                                                            \
    static void name##_few(const unsigned char *tiles, uint32_t k, const struct ht_xfew *x, unsigned n,      \
                           float *out)                                                                       \
    {                                                                                                        \
        few(HT_TYPE_##name, tiles, k, x, n, out);                                                            \
    }
HT_BLOCK_TYPES(FEW)

void ht_few_avx512vnni(struct ht_kernels *kernels)
{
    kernels->few_from = 3;
#define SET(name) kernels->few[HT_TYPE_##name] = name##_few;
    HT_BLOCK_TYPES(SET)
#undef SET
}
