// SPDX-License-Identifier: Apache-2.0
// Contract Q for many rows of x with AMX: matrix registers multiply, vectors do the contract's scaling of every 32
// values. A product is 12 rows of x by 16 rows of W by one block: its int32 sums are stored to a ring that stays in
// L1, while the vectors scale those of an earlier block into 12 x 32 sums, which stay in registers.
//
// What the order of instructions follows from (Sapphire Rapids): a product's sums come after 52 cycles, so two blocks
// are under way; tilezero makes the next product wait for it, a load of one repeated line does not; while tiles are
// in use, a core has one 512-bit multiplier instead of two, so nothing that an adder can do is left to it. The line
// that is loaded holds 1.5 * 2^23 as a float: the sums are then floats that a subtraction makes exact.
// Any thread; between begin and end the thread's tile registers are in use.
#include <immintrin.h>

#include "engine/cpu/kernels.h"
#include "engine/cpu/type_facts.h"

#define UNROLL12 _Pragma("GCC unroll 12")

struct shapes { // what ldtilecfg reads
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};
// Tiles 0..3 sums, 4 and 5 x, 6 and 7 W, whose rows hold 4 values of k of 16 rows of W.
static const struct shapes of_32 = {.palette = 1,
                                    .row_bytes = {64, 64, 64, 64, 32, 32, 64, 64},
                                    .rows = {HT_TALL, HT_TALL, HT_TALL, HT_TALL, HT_TALL, HT_TALL, 8, 8}};
static const struct shapes of_16 = {.palette = 1,
                                    .row_bytes = {64, 64, 64, 64, 16, 16, 64, 64},
                                    .rows = {HT_TALL, HT_TALL, HT_TALL, HT_TALL, HT_TALL, HT_TALL, 4, 4}};

static bool has_16s(enum ht_type type)
{
    return ht_layout_of(type)->kind == HT_KIND_K16 || ht_layout_of(type)->kind == HT_KIND_K16M;
}

static void begin(enum ht_type type)
{
    _tile_loadconfig(has_16s(type) ? &of_16 : &of_32);
}

static void end(void)
{
    _tile_release();
}

#define START 12582912.0f // 1.5 * 2^23
static const _Alignas(64) float start_line[16] = {START, START, START, START, START, START, START, START,
                                                  START, START, START, START, START, START, START, START};

typedef float ring[4][HT_TALL][16]; // sums of 16 rows of W each, as floats above START

// c = start + a b; the tiles' numbers are part of the instructions.
#define PRODUCT(c, a, b)                                                                                     \
    do {                                                                                                     \
        _tile_loadd(c, start_line, 0);                                                                       \
        _tile_dpbsud(c, a, b);                                                                               \
    } while (0)
#define STORE(c, to) _tile_stored(c, to, 64)

struct walk { // one block
    const struct ht_panel *p;
    const struct ht_xtall *x;
};
INLINE struct walk at(const unsigned char *panel, size_t step, const struct ht_xtall *x, uint32_t b)
{
    return (struct walk){(const struct ht_panel *)(const void *)(panel + step * b), x + b};
}

// START plus zero times the sums of q: what to take from each row of x's sums. Exact.
INLINE void offsets(int zero, __m512 sum, float *off)
{
    _mm512_store_ps(off, _mm512_fmadd_ps(_mm512_set1_ps((float)zero), sum, _mm512_set1_ps(START)));
}

INLINE __m512 sums(const float (*from)[16], unsigned r, int zero, const float *off)
{
    return _mm512_sub_ps(_mm512_load_ps(from[r]), _mm512_set1_ps(zero ? off[r] : START));
}

// Sums of 32 values of one half of the panel's rows.
INLINE void scale32(enum ht_kind kind, int zero, struct walk w, unsigned h, const float (*from)[16],
                    const float *off, __m512 (*acc)[2])
{
    const struct ht_panel *p = w.p;
    const __m512 d = _mm512_loadu_ps(p->scale[0][h]);
    UNROLL12
    for (unsigned r = 0; r < HT_TALL; r++) {
        __m512 isum = sums(from, r, zero, off), dx = _mm512_set1_ps(w.x->d[r]);
        if (kind == HT_KIND_K32M)
            isum = _mm512_mul_ps(isum, _mm512_loadu_ps(p->scale[2][h]));
        acc[r][h] = _mm512_fmadd_ps(isum, _mm512_mul_ps(d, dx), acc[r][h]);
        if (kind == HT_KIND_DM)
            acc[r][h] =
                _mm512_fmadd_ps(_mm512_loadu_ps(p->scale[1][h]), _mm512_set1_ps(w.x->ds[r]), acc[r][h]);
        if (kind == HT_KIND_K32M) {
            __m512 msum = _mm512_mul_ps(_mm512_loadu_ps(p->scale[3][h]), _mm512_set1_ps(off[r]));
            acc[r][h] =
                _mm512_fnmadd_ps(msum, _mm512_mul_ps(_mm512_loadu_ps(p->scale[1][h]), dx), acc[r][h]);
        }
    }
}

// Both halves of a block whose sums are in from[0] and from[1].
INLINE void scale_block(enum ht_kind kind, int zero, struct walk w, const float (*from)[HT_TALL][16],
                        __m512 (*acc)[2])
{
    _Alignas(64) float off[16]; // k32m has no zero: there, the sums of q
    __m512 sum = _mm512_add_ps(_mm512_loadu_ps(w.x->sum[0]), _mm512_loadu_ps(w.x->sum[1]));
    if (kind == HT_KIND_K32M)
        _mm512_store_ps(off, sum);
    else if (zero)
        offsets(zero, sum, off);
    scale32(kind, zero, w, 0, from[0], off, acc);
    scale32(kind, zero, w, 1, from[1], off, acc);
}

INLINE void acc_clear(__m512 (*acc)[2])
{
    UNROLL12
    for (unsigned r = 0; r < HT_TALL; r++)
        acc[r][0] = acc[r][1] = _mm512_setzero_ps();
}
INLINE void acc_store(__m512 (*acc)[2], float *out)
{
    UNROLL12
    for (unsigned r = 0; r < HT_TALL; r++) {
        _mm512_storeu_ps(out + r * 32, acc[r][0]);
        _mm512_storeu_ps(out + r * 32 + 16, acc[r][1]);
    }
}

// d, dm and K32M. Even blocks use tiles 0 and 1 of the sums and 4 of x, odd ones 2, 3 and 5.
#define BEGIN32(w, c, a)                                                                                     \
    do {                                                                                                     \
        _tile_loadd(a, (w).x->q, 32);                                                                        \
        _tile_loadd(6, (w).p->code[0][0], 128);                                                              \
        PRODUCT(c, a, 6);                                                                                    \
    } while (0)
#define BEGIN32_HIGH(w, c, a)                                                                                \
    do {                                                                                                     \
        _tile_loadd(7, (w).p->code[0][1], 128);                                                              \
        PRODUCT(c, a, 7);                                                                                    \
    } while (0)

INLINE void tall32(enum ht_kind kind, int zero, const unsigned char *panel, const struct ht_xtall *x,
                   uint32_t k, float *out)
{
    const size_t step = ht_panel_block_bytes(kind);
    const uint32_t n = k / 32;
    _Alignas(64) ring sum;
    __m512 acc[HT_TALL][2];
    acc_clear(acc);
    struct walk w = at(panel, step, x, 0);
    BEGIN32(w, 0, 4);
    BEGIN32_HIGH(w, 1, 4);
    if (n > 1) {
        w = at(panel, step, x, 1);
        BEGIN32(w, 2, 5);
        BEGIN32_HIGH(w, 3, 5);
    }
    uint32_t b = 0;
    for (; b + 2 <= n; b += 2) {
        bool more = b + 2 < n, two_more = b + 3 < n;
        w = at(panel, step, x, b + 2);
        STORE(0, sum[0]);
        if (more)
            BEGIN32(w, 0, 4);
        STORE(1, sum[1]);
        if (more)
            BEGIN32_HIGH(w, 1, 4);
        scale_block(kind, zero, at(panel, step, x, b), sum, acc);
        w = at(panel, step, x, b + 3);
        STORE(2, sum[2]);
        if (two_more)
            BEGIN32(w, 2, 5);
        STORE(3, sum[3]);
        if (two_more)
            BEGIN32_HIGH(w, 3, 5);
        scale_block(kind, zero, at(panel, step, x, b + 1), sum + 2, acc);
    }
    if (b < n) {
        STORE(0, sum[0]);
        STORE(1, sum[1]);
        scale_block(kind, zero, at(panel, step, x, b), sum, acc);
    }
    acc_store(acc, out);
}

// K16 and K16M: sums of the 16s of a block, tiles 0 and 1 those of the first, 2 and 3 of the second.
INLINE void scale16(enum ht_kind kind, int zero, struct walk w, unsigned h, const float (*first)[16],
                    const float (*second)[16], const float *off, __m512 (*acc)[2])
{
    const struct ht_panel *p = w.p;
    const __m512 d = _mm512_loadu_ps(p->scale[0][h]);
    UNROLL12
    for (unsigned r = 0; r < HT_TALL; r++) {
        __m512 dx = _mm512_set1_ps(w.x->d[r]),
               isum = _mm512_mul_ps(sums(first, r, zero, off), _mm512_loadu_ps(p->scale[1][h]));
        isum = _mm512_fmadd_ps(sums(second, r, zero, off + 16), _mm512_loadu_ps(p->scale[2][h]), isum);
        acc[r][h] = _mm512_fmadd_ps(isum, _mm512_mul_ps(d, dx), acc[r][h]);
        if (kind == HT_KIND_K16M) {
            __m512 msum = _mm512_mul_ps(_mm512_loadu_ps(p->scale[4][h]), _mm512_set1_ps(w.x->sum[0][r]));
            msum =
                _mm512_fmadd_ps(_mm512_loadu_ps(p->scale[5][h]), _mm512_set1_ps(w.x->sum[1][r]), msum);
            acc[r][h] =
                _mm512_fnmadd_ps(msum, _mm512_mul_ps(_mm512_loadu_ps(p->scale[3][h]), dx), acc[r][h]);
        }
    }
}

#define BEGIN16(w, c, a, b, from, h)                                                                         \
    do {                                                                                                     \
        _tile_loadd(b, (w).p->code[from][h], 128);                                                           \
        PRODUCT(c, a, b);                                                                                    \
    } while (0)

INLINE void tall16(enum ht_kind kind, int zero, const unsigned char *panel, const struct ht_xtall *x,
                   uint32_t k, float *out)
{
    const size_t step = ht_panel_block_bytes(kind);
    const uint32_t n = k / 32;
    _Alignas(64) ring sum;
    __m512 acc[HT_TALL][2];
    acc_clear(acc);
    struct walk w = at(panel, step, x, 0);
    _tile_loadd(4, w.x->q, 32);
    BEGIN16(w, 0, 4, 6, 0, 0);
    BEGIN16(w, 1, 4, 7, 0, 1);
    _tile_loadd(5, w.x->q[0] + 16, 32);
    BEGIN16(w, 2, 5, 6, 4, 0);
    BEGIN16(w, 3, 5, 7, 4, 1);
    for (uint32_t b = 0; b < n; b++) {
        bool more = b + 1 < n;
        w = at(panel, step, x, b + 1);
        STORE(0, sum[0]);
        if (more) {
            _tile_loadd(4, w.x->q, 32);
            BEGIN16(w, 0, 4, 6, 0, 0);
        }
        STORE(1, sum[1]);
        if (more)
            BEGIN16(w, 1, 4, 7, 0, 1);
        STORE(2, sum[2]);
        if (more) {
            _tile_loadd(5, w.x->q[0] + 16, 32);
            BEGIN16(w, 2, 5, 6, 4, 0);
        }
        STORE(3, sum[3]);
        if (more)
            BEGIN16(w, 3, 5, 7, 4, 1);
        w = at(panel, step, x, b);
        _Alignas(64) float off[32];
        if (zero) {
            offsets(zero, _mm512_loadu_ps(w.x->sum[0]), off);
            offsets(zero, _mm512_loadu_ps(w.x->sum[1]), off + 16);
        }
        scale16(kind, zero, w, 0, sum[0], sum[2], off, acc);
        scale16(kind, zero, w, 1, sum[1], sum[3], off, acc);
    }
    acc_store(acc, out);
}

// One function per kind and zero, shared by the types that agree on both.
#define TALL(name, width, kind, zero)                                                                        \
    static void name##_tall(const unsigned char *panel, const struct ht_xtall *x, uint32_t k, float *out)    \
    {                                                                                                        \
        tall##width(kind, zero, panel, x, k, out);                                                           \
    }
TALL(d8, 32, HT_KIND_D, 8)
TALL(d16, 32, HT_KIND_D, 16)
TALL(d128, 32, HT_KIND_D, 128)
TALL(dm, 32, HT_KIND_DM, 0)
TALL(k32m, 32, HT_KIND_K32M, 0)
TALL(k16_4, 16, HT_KIND_K16, 4)
TALL(k16_32, 16, HT_KIND_K16, 32)
TALL(k16m, 16, HT_KIND_K16M, 0)

void ht_kernels_amx(struct ht_kernels *kernels)
{
    kernels->tall_begin = begin;
    kernels->tall_end = end;
    kernels->tall[HT_TYPE_Q4_0] = d8_tall;
    kernels->tall[HT_TYPE_Q5_0] = d16_tall;
    kernels->tall[HT_TYPE_Q8_0] = kernels->tall[HT_TYPE_IQ4_NL] = d128_tall;
    kernels->tall[HT_TYPE_Q4_1] = kernels->tall[HT_TYPE_Q5_1] = dm_tall;
    kernels->tall[HT_TYPE_Q4_K] = kernels->tall[HT_TYPE_Q5_K] = k32m_tall;
    kernels->tall[HT_TYPE_Q3_K] = k16_4_tall;
    kernels->tall[HT_TYPE_Q6_K] = k16_32_tall;
    kernels->tall[HT_TYPE_Q2_K] = k16m_tall;
}
