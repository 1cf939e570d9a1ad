// SPDX-License-Identifier: Apache-2.0
// Contract Q with AVX2: 8 rows of W in the lanes, one column of x after another. Without VNNI the products go
// through 16 bits: vpmaddubsw adds two products of an unsigned code and a signed q, which must stay below
// 2^15. Codes up to 31 allow four such sums (8 * 31 * 127 = 31496), codes up to 63 two (4 * 63 * 127 =
// 32004), bytes are cut into two nibbles first. So every sum is exact. Any thread.
#include "engine/cpu/codes_avx2.h"
#include "engine/cpu/overlay_avx2.h"

// One column of x for one 32: q[8] words `step` apart, and its sums.
struct column {
    const int32_t *q;
    size_t step;
    float d, ds;
    int32_t sum[2];
};

INLINE __m256i pair(__m256i w, const int32_t *q)
{
    int32_t v;
    memcpy(&v, q, 4);
    return _mm256_maddubs_epi16(w, _mm256_set1_epi32(v));
}
// Sum over 4 words of k: 8 lanes of int32
INLINE __m256i dot4(int max_code, const __m256i *w, const int32_t *q, size_t step)
{
    const __m256i ones = _mm256_set1_epi16(1), low = _mm256_set1_epi8(15);
    if (max_code <= 63) {
        __m256i a = _mm256_add_epi16(pair(w[0], q), pair(w[1], q + step));
        __m256i b = _mm256_add_epi16(pair(w[2], q + 2 * step), pair(w[3], q + 3 * step));
        if (max_code <= 31)
            return _mm256_madd_epi16(_mm256_add_epi16(a, b), ones);
        return _mm256_add_epi32(_mm256_madd_epi16(a, ones), _mm256_madd_epi16(b, ones));
    }
    __m256i lo = _mm256_setzero_si256(), hi = lo;
    for (int i = 0; i < 4; i++) {
        lo = _mm256_add_epi16(lo, pair(_mm256_and_si256(w[i], low), q + (size_t)i * step));
        hi = _mm256_add_epi16(hi,
                              pair(_mm256_and_si256(_mm256_srli_epi16(w[i], 4), low), q + (size_t)i * step));
    }
    return _mm256_add_epi32(_mm256_madd_epi16(lo, ones), _mm256_slli_epi32(_mm256_madd_epi16(hi, ones), 4));
}

// acc of one column after one 32
INLINE __m256 step(enum ht_kind kind, int zero, int max_code, const __m256i *w, const struct scales *s,
                   const struct column *x, __m256 acc)
{
    __m256i dot0 = dot4(max_code, w, x->q, x->step),
            dot1 = dot4(max_code, w + 4, x->q + 4 * x->step, x->step);
    __m256 dx = _mm256_set1_ps(x->d), ddx = _mm256_mul_ps(s->d, dx), isum;
    float s0 = (float)x->sum[0], s1 = (float)x->sum[1];
    if (kind == HT_KIND_K16 || kind == HT_KIND_K16M) {
        if (zero) {
            dot0 = _mm256_sub_epi32(dot0, _mm256_set1_epi32(zero * x->sum[0]));
            dot1 = _mm256_sub_epi32(dot1, _mm256_set1_epi32(zero * x->sum[1]));
        }
        isum = _mm256_mul_ps(_mm256_cvtepi32_ps(dot0), s->scale[0]); // integers below 2^24: exact
        isum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot1), s->scale[1], isum);
    } else {
        dot0 = _mm256_add_epi32(dot0, dot1);
        if (zero)
            dot0 = _mm256_sub_epi32(dot0, _mm256_set1_epi32(zero * (x->sum[0] + x->sum[1])));
        isum = _mm256_cvtepi32_ps(dot0);
        if (kind == HT_KIND_K32M)
            isum = _mm256_mul_ps(isum, s->scale[0]);
    }
    acc = _mm256_fmadd_ps(isum, ddx, acc);
    if (kind == HT_KIND_DM)
        acc = _mm256_fmadd_ps(s->m, _mm256_set1_ps(x->ds), acc);
    if (kind == HT_KIND_K32M)
        acc =
            _mm256_fnmadd_ps(_mm256_mul_ps(s->min[0], _mm256_set1_ps(s0 + s1)), _mm256_mul_ps(s->m, dx), acc);
    if (kind == HT_KIND_K16M) {
        __m256 msum =
            _mm256_fmadd_ps(s->min[1], _mm256_set1_ps(s1), _mm256_mul_ps(s->min[0], _mm256_set1_ps(s0)));
        acc = _mm256_fnmadd_ps(msum, _mm256_mul_ps(s->m, dx), acc);
    }
    return acc;
}

// ---- up to 8 rows of x, straight from the tiles

INLINE void columns(enum ht_type type, const unsigned char *tiles, uint32_t k, const struct ht_xrow *x,
                    unsigned n, float *out)
{
    __m256 acc[2][4];
    for (unsigned c = 0; c < n; c++)
        acc[0][c] = acc[1][c] = _mm256_setzero_ps();
    for (uint32_t b = 0; b < k / 32; b += blocks32_of(type), tiles += tile_bytes_of(type))
        for (unsigned j = 0; j < blocks32_of(type); j++)
            for (unsigned h = 0; h < 2; h++) {
                __m256i w[8];
                UNROLL
                for (unsigned i = 0; i < 8; i++)
                    w[i] = codes(type, tiles, j, i, h);
                struct scales s = scales_read(type, tiles, j, h);
                for (unsigned c = 0; c < n; c++) {
                    uint32_t at = b + j;
                    struct column column = {(const int32_t *)(const void *)(x[c].q + 32 * at),
                                            1,
                                            x[c].d[at],
                                            x[c].ds[at],
                                            {x[c].sum[2 * at], x[c].sum[2 * at + 1]}};
                    acc[h][c] =
                        step(kind_of(type), zero_of(type), max_code_of(type), w, &s, &column, acc[h][c]);
                }
            }
    for (unsigned c = 0; c < n; c++)
        for (unsigned h = 0; h < 2; h++)
            _mm256_storeu_ps(out + c * HT_GROUP + 8 * h, acc[h][c]);
}

INLINE void matvec(enum ht_type type, const unsigned char *tiles, uint32_t k, const struct ht_xrow *x,
                   unsigned n, float *out)
{
    for (; n >= 2; n -= 2, x += 2, out += 2 * HT_GROUP)
        columns(type, tiles, k, x, 2, out);
    if (n)
        columns(type, tiles, k, x, 1, out);
}

// ---- 5 to 8 rows of x side by side: codes of 8 rows of W are decoded once, every column runs over them

INLINE void few(enum ht_type type, const unsigned char *tiles, uint32_t k, const struct ht_xfew *x, unsigned n,
                float *out)
{
    __m256 acc[2][HT_MAX_MATVEC];
    for (unsigned c = 0; c < n; c++)
        acc[0][c] = acc[1][c] = _mm256_setzero_ps();
    for (uint32_t b = 0; b < k / 32; b += blocks32_of(type), tiles += tile_bytes_of(type))
        for (unsigned j = 0; j < blocks32_of(type); j++, x++)
            for (unsigned h = 0; h < 2; h++) {
                __m256i w[8];
                UNROLL
                for (unsigned i = 0; i < 8; i++)
                    w[i] = codes(type, tiles, j, i, h);
                struct scales s = scales_read(type, tiles, j, h);
                for (unsigned c = 0; c < n; c++) {
                    struct column column = {
                        x->q[c], 1, x->d[c], x->ds[c], {(int32_t)x->sum[0][c], (int32_t)x->sum[1][c]}};
                    acc[h][c] =
                        step(kind_of(type), zero_of(type), max_code_of(type), w, &s, &column, acc[h][c]);
                }
            }
    for (unsigned c = 0; c < n; c++)
        for (unsigned h = 0; h < 2; h++)
            _mm256_storeu_ps(out + c * HT_GROUP + 8 * h, acc[h][c]);
}

// ---- many rows, by panels

INLINE void panel(enum ht_type type, const unsigned char *tiles, uint32_t k, unsigned half, unsigned char *to)
{
    enum ht_kind kind = kind_of(type);
    for (uint32_t b = 0; b < k / 32; b += blocks32_of(type), tiles += tile_bytes_of(type))
        for (unsigned j = 0; j < blocks32_of(type); j++, to += ht_panel_block_bytes(kind))
            for (unsigned h = 0; h < 2; h++) {
                struct ht_panel *p = (struct ht_panel *)(void *)to;
                struct scales s = scales_read(type, tiles, j, h);
                UNROLL
                for (unsigned i = 0; i < 8; i++)
                    _mm256_storeu_si256((__m256i *)(void *)(p->code[i][half] + 32 * h),
                                        codes(type, tiles, j, i, h));
#define PUT(index, value) _mm256_storeu_ps(p->scale[index][half] + 8 * h, value)
                PUT(0, s.d);
                if (kind == HT_KIND_DM || kind == HT_KIND_K32M)
                    PUT(1, s.m);
                if (kind == HT_KIND_K32M) {
                    PUT(2, s.scale[0]);
                    PUT(3, s.min[0]);
                }
                if (kind == HT_KIND_K16 || kind == HT_KIND_K16M) {
                    PUT(1, s.scale[0]);
                    PUT(2, s.scale[1]);
                }
                if (kind == HT_KIND_K16M) {
                    PUT(3, s.m);
                    PUT(4, s.min[0]);
                    PUT(5, s.min[1]);
                }
#undef PUT
            }
}

INLINE void tile(enum ht_kind kind, int zero, int max_code, const unsigned char *panel,
                 const struct ht_xtile *x, uint32_t k, float *out)
{
    for (unsigned quarter = 0; quarter < 4; quarter++) {
        unsigned half = quarter / 2, h = quarter % 2;
        __m256 acc[HT_COLS];
        for (unsigned c = 0; c < HT_COLS; c++)
            acc[c] = _mm256_setzero_ps();
        const unsigned char *at = panel;
        for (uint32_t b = 0; b < k / 32; b++, at += ht_panel_block_bytes(kind)) {
            const struct ht_panel *p = (const struct ht_panel *)(const void *)at;
            struct scales s;
            __m256i w[8];
            for (unsigned i = 0; i < 8; i++)
                w[i] = load32(p->code[i][half] + 32 * h);
#define GET(index) _mm256_loadu_ps(p->scale[index][half] + 8 * h)
            s.d = GET(0);
            s.m = s.scale[0] = s.scale[1] = s.min[0] = s.min[1] = _mm256_setzero_ps();
            if (kind == HT_KIND_DM || kind == HT_KIND_K32M)
                s.m = GET(1);
            if (kind == HT_KIND_K32M) {
                s.scale[0] = GET(2);
                s.min[0] = GET(3);
            }
            if (kind == HT_KIND_K16 || kind == HT_KIND_K16M) {
                s.scale[0] = GET(1);
                s.scale[1] = GET(2);
            }
            if (kind == HT_KIND_K16M) {
                s.m = GET(3);
                s.min[0] = GET(4);
                s.min[1] = GET(5);
            }
#undef GET
            UNROLL
            for (unsigned c = 0; c < HT_COLS; c++) {
                struct column column = {
                    &x[b].q[0][c], HT_COLS, x[b].d[c], x[b].ds[c], {x[b].sum[0][c], x[b].sum[1][c]}};
                acc[c] = step(kind, zero, max_code, w, &s, &column, acc[c]);
            }
        }
        for (unsigned c = 0; c < HT_COLS; c++)
            _mm256_storeu_ps(out + c * 32 + 8 * quarter, acc[c]);
    }
}

#define FUNCTIONS(name)                                                                                      \
    static void name##_matvec(const unsigned char *tiles, uint32_t k, const struct ht_xrow *x, unsigned n,   \
                              float *out)                                                                    \
    {                                                                                                        \
        matvec(HT_TYPE_##name, tiles, k, x, n, out);                                                         \
    }                                                                                                        \
    static void name##_few(const unsigned char *tiles, uint32_t k, const struct ht_xfew *x, unsigned n,      \
                           float *out)                                                                       \
    {                                                                                                        \
        few(HT_TYPE_##name, tiles, k, x, n, out);                                                            \
    }                                                                                                        \
    static void name##_panel(const unsigned char *tiles, uint32_t k, unsigned half, unsigned char *to)       \
    {                                                                                                        \
        panel(HT_TYPE_##name, tiles, k, half, to);                                                           \
    }                                                                                                        \
    static void name##_tile(const unsigned char *p, const struct ht_xtile *x, uint32_t k, float *out)        \
    {                                                                                                        \
        tile(kind_of(HT_TYPE_##name), zero_of(HT_TYPE_##name), max_code_of(HT_TYPE_##name), p, x, k, out);   \
    }
HT_BLOCK_TYPES(FUNCTIONS)

void ht_matmul_avx2(struct ht_kernels *kernels)
{
    kernels->few_from = 5;
#define SET(name)                                                                                            \
    kernels->matvec[HT_TYPE_##name] = name##_matvec;                                                         \
    kernels->few[HT_TYPE_##name] = name##_few;                                                               \
    kernels->panel[HT_TYPE_##name] = name##_panel;                                                           \
    kernels->tile[HT_TYPE_##name] = name##_tile;
    HT_BLOCK_TYPES(SET)
#undef SET
}
