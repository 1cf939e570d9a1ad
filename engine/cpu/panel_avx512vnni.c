// SPDX-License-Identifier: Apache-2.0
// Contract Q for many rows of x: 32 rows of W are unpacked once into a panel that stays in L2, and a register
// tile of 32 x 6 outputs runs over it for every 6 rows of x. Two-thirds of its multiplier work is dot
// products; the rest is the contract's scaling of every 32 values. Any thread.
#include "engine/cpu/codes_avx512.h"
#include "engine/cpu/overlay_avx512vnni.h"

INLINE void put16(struct ht_panel *p, unsigned index, unsigned half, __m512 v)
{
    _mm512_storeu_ps(p->scale[index][half], v);
}

INLINE void panel(enum ht_type type, const unsigned char *tiles, uint32_t k, unsigned half, unsigned char *to)
{
    enum ht_kind kind = kind_of(type);
    struct scales s;
    for (uint32_t b = 0; b < k / 32; b += blocks32_of(type), tiles += tile_bytes_of(type)) {
        scales_read(type, tiles, &s);
        UNROLL
        for (unsigned j = 0; j < blocks32_of(type); j++, to += ht_panel_block_bytes(kind)) {
            struct ht_panel *p = (struct ht_panel *)(void *)to;
            UNROLL
            for (unsigned i = 0; i < 8; i++)
                _mm512_storeu_si512(p->code[i][half], codes(type, tiles, j, i));
            put16(p, 0, half, s.d);
            if (kind == HT_KIND_DM)
                put16(p, 1, half, s.m);
            if (kind == HT_KIND_K32M) {
                put16(p, 1, half, s.m);
                put16(p, 2, half, scale_at(type, tiles, &s, j, 0));
                put16(p, 3, half, min_at(type, tiles, &s, j, 0));
            }
            if (kind == HT_KIND_K16 || kind == HT_KIND_K16M) {
                put16(p, 1, half, scale_at(type, tiles, &s, j, 0));
                put16(p, 2, half, scale_at(type, tiles, &s, j, 1));
            }
            if (kind == HT_KIND_K16M) {
                put16(p, 3, half, s.m);
                put16(p, 4, half, min_at(type, tiles, &s, j, 0));
                put16(p, 5, half, min_at(type, tiles, &s, j, 1));
            }
        }
    }
}

INLINE __m512i start_of(int zero, int32_t sum)
{
    return zero ? _mm512_set1_epi32(-zero * sum) : _mm512_setzero_si512();
}

// d, dm and K32M: 32 rows at a time, so that a broadcast of x serves two vectors of W.
INLINE void tile32(enum ht_kind kind, int zero, const unsigned char *panel, const struct ht_xtile *x,
                   uint32_t k, float *out)
{
    __m512 acc[HT_COLS][2];
    for (unsigned c = 0; c < HT_COLS; c++)
        acc[c][0] = acc[c][1] = _mm512_setzero_ps();
    for (uint32_t b = 0; b < k / 32; b++, panel += ht_panel_block_bytes(kind), x++) {
        const struct ht_panel *p = (const struct ht_panel *)(const void *)panel;
        __m512i dot[HT_COLS][2];
        UNROLL
        for (unsigned c = 0; c < HT_COLS; c++)
            dot[c][0] = dot[c][1] = start_of(zero, zero ? x->sum[0][c] + x->sum[1][c] : 0);
        UNROLL
        for (unsigned i = 0; i < 8; i++) {
            __m512i w0 = _mm512_loadu_si512(p->code[i][0]), w1 = _mm512_loadu_si512(p->code[i][1]);
            UNROLL
            for (unsigned c = 0; c < HT_COLS; c++) {
                __m512i q = _mm512_set1_epi32(x->q[i][c]);
                dot[c][0] = _mm512_dpbusd_epi32(dot[c][0], w0, q);
                dot[c][1] = _mm512_dpbusd_epi32(dot[c][1], w1, q);
            }
        }
        UNROLL
        for (unsigned h = 0; h < 2; h++) {
            __m512 d = _mm512_loadu_ps(p->scale[0][h]);
            UNROLL
            for (unsigned c = 0; c < HT_COLS; c++) {
                __m512 isum = _mm512_cvtepi32_ps(dot[c][h]), dx = _mm512_set1_ps(x->d[c]);
                if (kind == HT_KIND_K32M)
                    isum = _mm512_mul_ps(isum, _mm512_loadu_ps(p->scale[2][h]));
                acc[c][h] = _mm512_fmadd_ps(isum, _mm512_mul_ps(d, dx), acc[c][h]);
                if (kind == HT_KIND_DM)
                    acc[c][h] =
                        _mm512_fmadd_ps(_mm512_loadu_ps(p->scale[1][h]), _mm512_set1_ps(x->ds[c]), acc[c][h]);
                if (kind == HT_KIND_K32M) {
                    __m512 sum = _mm512_set1_ps((float)(x->sum[0][c] + x->sum[1][c]));
                    __m512 msum = _mm512_mul_ps(_mm512_loadu_ps(p->scale[3][h]), sum);
                    acc[c][h] =
                        _mm512_fnmadd_ps(msum, _mm512_mul_ps(_mm512_loadu_ps(p->scale[1][h]), dx), acc[c][h]);
                }
            }
        }
    }
    for (unsigned c = 0; c < HT_COLS; c++)
        for (unsigned h = 0; h < 2; h++)
            _mm512_storeu_ps(out + c * 32 + h * 16, acc[c][h]);
}

// K16 and K16M: two sums per 32 values; 16 rows at a time, so that accumulators fit the registers.
INLINE void tile16(enum ht_kind kind, int zero, const unsigned char *panel, const struct ht_xtile *x,
                   uint32_t k, unsigned h, float *out)
{
    __m512 acc[HT_COLS];
    for (unsigned c = 0; c < HT_COLS; c++)
        acc[c] = _mm512_setzero_ps();
    for (uint32_t b = 0; b < k / 32; b++, panel += ht_panel_block_bytes(kind), x++) {
        const struct ht_panel *p = (const struct ht_panel *)(const void *)panel;
        __m512i dot[HT_COLS][2];
        UNROLL
        for (unsigned c = 0; c < HT_COLS; c++) {
            dot[c][0] = start_of(zero, x->sum[0][c]);
            dot[c][1] = start_of(zero, x->sum[1][c]);
        }
        UNROLL
        for (unsigned i = 0; i < 8; i++) {
            __m512i w = _mm512_loadu_si512(p->code[i][h]);
            UNROLL
            for (unsigned c = 0; c < HT_COLS; c++)
                dot[c][i / 4] = _mm512_dpbusd_epi32(dot[c][i / 4], w, _mm512_set1_epi32(x->q[i][c]));
        }
        __m512 d = _mm512_loadu_ps(p->scale[0][h]), scale0 = _mm512_loadu_ps(p->scale[1][h]),
               scale1 = _mm512_loadu_ps(p->scale[2][h]);
        UNROLL
        for (unsigned c = 0; c < HT_COLS; c++) {
            __m512 dx = _mm512_set1_ps(x->d[c]), isum = _mm512_mul_ps(_mm512_cvtepi32_ps(dot[c][0]), scale0);
            isum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[c][1]), scale1, isum);
            acc[c] = _mm512_fmadd_ps(isum, _mm512_mul_ps(d, dx), acc[c]);
            if (kind == HT_KIND_K16M) {
                __m512 msum =
                    _mm512_mul_ps(_mm512_loadu_ps(p->scale[4][h]), _mm512_set1_ps((float)x->sum[0][c]));
                msum = _mm512_fmadd_ps(_mm512_loadu_ps(p->scale[5][h]), _mm512_set1_ps((float)x->sum[1][c]),
                                       msum);
                acc[c] = _mm512_fnmadd_ps(msum, _mm512_mul_ps(_mm512_loadu_ps(p->scale[3][h]), dx), acc[c]);
            }
        }
    }
    for (unsigned c = 0; c < HT_COLS; c++)
        _mm512_storeu_ps(out + c * 32 + h * 16, acc[c]);
}

#define PANEL(name)                                                                                          \
    static void name##_panel(const unsigned char *tiles, uint32_t k, unsigned half, unsigned char *to)       \
    {                                                                                                        \
        panel(HT_TYPE_##name, tiles, k, half, to);                                                           \
    }
HT_BLOCK_TYPES(PANEL)

// One function per kind and zero, shared by the types that agree on both.
#define TILE32(name, kind, zero)                                                                             \
    static void name##_tile(const unsigned char *panel, const struct ht_xtile *x, uint32_t k, float *out)    \
    {                                                                                                        \
        tile32(kind, zero, panel, x, k, out);                                                                \
    }
#define TILE16(name, kind, zero)                                                                             \
    static void name##_tile(const unsigned char *panel, const struct ht_xtile *x, uint32_t k, float *out)    \
    {                                                                                                        \
        tile16(kind, zero, panel, x, k, 0, out);                                                             \
        tile16(kind, zero, panel, x, k, 1, out);                                                             \
    }
TILE32(d8, HT_KIND_D, 8)
TILE32(d16, HT_KIND_D, 16)
TILE32(d128, HT_KIND_D, 128)
TILE32(dm, HT_KIND_DM, 0)
TILE32(k32m, HT_KIND_K32M, 0)
TILE16(k16_4, HT_KIND_K16, 4)
TILE16(k16_32, HT_KIND_K16, 32)
TILE16(k16m, HT_KIND_K16M, 0)

void ht_panel_avx512vnni(struct ht_kernels *kernels)
{
#define SET(name) kernels->panel[HT_TYPE_##name] = name##_panel;
    HT_BLOCK_TYPES(SET)
#undef SET
    kernels->tile[HT_TYPE_Q4_0] = d8_tile;
    kernels->tile[HT_TYPE_Q5_0] = d16_tile;
    kernels->tile[HT_TYPE_Q8_0] = kernels->tile[HT_TYPE_IQ4_NL] = d128_tile;
    kernels->tile[HT_TYPE_Q4_1] = kernels->tile[HT_TYPE_Q5_1] = dm_tile;
    kernels->tile[HT_TYPE_Q4_K] = kernels->tile[HT_TYPE_Q5_K] = k32m_tile;
    kernels->tile[HT_TYPE_Q3_K] = k16_4_tile;
    kernels->tile[HT_TYPE_Q6_K] = k16_32_tile;
    kernels->tile[HT_TYPE_Q2_K] = k16m_tile;
}
