// SPDX-License-Identifier: Apache-2.0
// Contract B with AVX-512 BF16: rounding, panels of every format straight from their packed tiles, sums of pairs. Codes
// of up to five bits become floats by a table in registers, which looks at low bits only, so that nothing is masked.
// Any thread.
#include <immintrin.h>

#include "engine/cpu/codes_avx512.h"
#include "engine/cpu/train_bf16.h"

#define BLOCK_AND_FLOAT_TYPES(X) HT_BLOCK_TYPES(X) X(F32) X(F16) X(BF16)

INLINE bool is_float(enum ht_type type)
{
    return type == HT_TYPE_F32 || type == HT_TYPE_F16 || type == HT_TYPE_BF16;
}

// ---- rounding

void ht_bf16_round_avx512bf16(const float *x, uint32_t n, uint16_t *to)
{
    for (uint32_t i = 0; i < n; i += HT_B_STEP, to += HT_B_TILE) {
        uint32_t left = n - i;
        __mmask16 low = left >= 16 ? 0xFFFF : (__mmask16)((1u << left) - 1),
                  high = left >= 32  ? 0xFFFF
                         : left > 16 ? (__mmask16)((1u << (left - 16)) - 1)
                                     : 0;
        __m512 a = _mm512_maskz_loadu_ps(low, x + i), b = _mm512_maskz_loadu_ps(high, x + i + 16);
        _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh(b, a));
    }
}

// ---- values of a tile, a lane per row of W

struct factors { // of 32 values: of the first 16 and of the others
    __m512 factor[2], offset[2];
};
INLINE struct factors factors_of(enum ht_type type, const unsigned char *tile, const struct scales *s, unsigned j)
{
    enum ht_kind kind = kind_of(type);
    struct factors f = {{s->d, s->d}, {s->m, s->m}};
    for (unsigned h = 0; h < 2; h++) {
        if (kind != HT_KIND_D && kind != HT_KIND_DM)
            f.factor[h] = _mm512_mul_ps(s->d, scale_at(type, tile, s, j, h));
        if (kind == HT_KIND_K32M || kind == HT_KIND_K16M)
            f.offset[h] = _mm512_mul_ps(s->m, min_at(type, tile, s, j, h));
    }
    return f;
}

INLINE bool has_table(enum ht_type type)
{
    return type != HT_TYPE_Q8_0 && type != HT_TYPE_Q6_K;
}
INLINE bool has_fifth_bit(enum ht_type type)
{
    return type == HT_TYPE_Q5_0 || type == HT_TYPE_Q5_1 || type == HT_TYPE_Q5_K;
}
INLINE __m512 table_of(enum ht_type type, int from) // values of the codes from … from + 15
{
    const __m512i count = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    if (type == HT_TYPE_IQ4_NL) {
        static const int8_t values[16] = {HT_IQ4_NL_VALUES};
        return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)values)));
    }
    return _mm512_cvtepi32_ps(_mm512_add_epi32(count, _mm512_set1_epi32(from - zero_of(type))));
}

// Codes 4i … 4i + 3 of the j-th 32, four to a lane; their lowest bits stand at bit `at` of each byte.
INLINE __m512i code_words(enum ht_type type, const unsigned char *tile, unsigned j, unsigned i, unsigned *at)
{
    *at = 0;
    switch (type) {
    case HT_TYPE_Q4_0:
    case HT_TYPE_Q4_1:
    case HT_TYPE_IQ4_NL: *at = i / 4 * 4; return load64(tile + 64 * (i % 4));
    case HT_TYPE_Q4_K: *at = j % 2 * 4; return load64(tile + j / 2 * 512 + 64 * i);
    case HT_TYPE_Q8_0: return _mm512_xor_si512(codes(type, tile, j, i), _mm512_set1_epi8((char)0x80));
    case HT_TYPE_Q6_K: return _mm512_sub_epi8(codes(type, tile, j, i), _mm512_set1_epi8(32));
    default: return codes(type, tile, j, i);
    }
}

INLINE __m512 float_of(enum ht_type type, const unsigned char *tile) // 16 rows at one k
{
    const __m256i *half = (const __m256i *)(const void *)tile;
    if (type == HT_TYPE_F32)
        return _mm512_loadu_ps(tile);
    if (type == HT_TYPE_F16)
        return _mm512_cvtph_ps(_mm256_loadu_si256(half));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(half)), 16));
}

// Values 4i … 4i + 3 of the j-th 32. Products with codes are exact wherever an offset is added to them, so that one
// rounding does for the formula's two. Of float types: the first n of 32, zeros for the others.
INLINE void four_values(enum ht_type type, const unsigned char *tile, const struct factors *f, unsigned j, unsigned i,
                        uint32_t n, __m512 v[4])
{
    enum ht_kind kind = kind_of(type);
    if (is_float(type)) {
        const unsigned size = type == HT_TYPE_F32 ? 64 : 32;
        for (unsigned b = 0; b < 4; b++)
            v[b] = 4 * i + b < n ? float_of(type, tile + (4 * i + b) * size) : _mm512_setzero_ps();
        return;
    }
    const __m512 low = table_of(type, 0), high = table_of(type, 16), factor = f->factor[i / 4],
                 offset = f->offset[i / 4];
    unsigned at;
    __m512i words = code_words(type, tile, j, i, &at);
    UNROLL
    for (unsigned b = 0; b < 4; b++) {
        __m512i index = 8 * b + at ? _mm512_srli_epi32(words, 8 * b + at) : words;
        __m512 code;
        if (has_fifth_bit(type))
            code = _mm512_permutex2var_ps(low, index, high);
        else if (has_table(type))
            code = _mm512_permutexvar_ps(index, low);
        else
            code = _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(words, 24 - 8 * b), 24));
        v[b] = kind == HT_KIND_DM                              ? _mm512_fmadd_ps(factor, code, offset)
               : kind == HT_KIND_K32M || kind == HT_KIND_K16M ? _mm512_fmsub_ps(factor, code, offset)
                                                               : _mm512_mul_ps(factor, code);
    }
}

// ---- panels

INLINE __m512i both(__m512 high, __m512 low)
{
    return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

// 32 values of 16 rows as pairs along k: lanes are rows.
INLINE void step_of(enum ht_type type, const unsigned char *tile, const struct factors *f, unsigned j, uint32_t n,
                    uint16_t *to)
{
    const __m512i zip = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                                         5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    UNROLL
    for (unsigned i = 0; i < 8; i++, to += 4 * HT_B_LANES) {
        __m512 v[4];
        four_values(type, tile, f, j, i, n, v);
        _mm512_storeu_si512(to, _mm512_permutexvar_epi16(zip, both(v[1], v[0])));
        _mm512_storeu_si512(to + 2 * HT_B_LANES, _mm512_permutexvar_epi16(zip, both(v[3], v[2])));
    }
}

// 4 x 4 dwords of each quarter: q[i] of x[j] becomes x[i] of q[j].
INLINE void turn_quarters(__m512i x[4])
{
    __m512i a = _mm512_unpacklo_epi32(x[0], x[1]), b = _mm512_unpackhi_epi32(x[0], x[1]),
            c = _mm512_unpacklo_epi32(x[2], x[3]), d = _mm512_unpackhi_epi32(x[2], x[3]);
    x[0] = _mm512_unpacklo_epi64(a, c);
    x[1] = _mm512_unpackhi_epi64(a, c);
    x[2] = _mm512_unpacklo_epi64(b, d);
    x[3] = _mm512_unpackhi_epi64(b, d);
}

// 32 values of 16 rows as pairs along the rows: lanes are columns. Rounding two columns, four apart, puts the rows of
// each side by side: 8 pairs of one, 8 of the other; then dwords change places until a vector is a pair's columns.
INLINE void turned_step_of(enum ht_type type, const unsigned char *tile, const struct factors *f, unsigned j,
                           uint32_t n, uint16_t *to)
{
    UNROLL
    for (unsigned h = 0; h < 2; h++) {
        __m512i x[2][4];
        UNROLL
        for (unsigned m = 0; m < 2; m++) {
            __m512 first[4], second[4];
            four_values(type, tile, f, j, 4 * h + 2 * m, n, first);
            four_values(type, tile, f, j, 4 * h + 2 * m + 1, n, second);
            for (unsigned b = 0; b < 4; b++)
                x[m][b] = both(second[b], first[b]);
            turn_quarters(x[m]);
        }
        for (unsigned p = 0; p < 4; p++) {
            _mm512_storeu_si512(to + (p * HT_B_LANES + 16 * h) * 2, _mm512_shuffle_i32x4(x[0][p], x[1][p], 0x88));
            _mm512_storeu_si512(to + ((p + 4) * HT_B_LANES + 16 * h) * 2,
                                _mm512_shuffle_i32x4(x[0][p], x[1][p], 0xDD));
        }
    }
}

INLINE void step_either(enum ht_type type, bool turned, const unsigned char *tile, const struct factors *f, unsigned j,
                        uint32_t n, uint16_t *to)
{
    if (turned)
        turned_step_of(type, tile, f, j, n, to);
    else
        step_of(type, tile, f, j, n, to);
}

INLINE void unpack(enum ht_type type, bool turned, const unsigned char *tile, unsigned j, uint32_t n, uint16_t *to)
{
    struct scales s;
    struct factors f;
    if (is_float(type)) {
        step_either(type, turned, tile, NULL, 0, n, to);
        return;
    }
    scales_read(type, tile, &s);
#define CASE(J)                                                                                              \
    case J:                                                                                                  \
        f = factors_of(type, tile, &s, J);                                                                   \
        step_either(type, turned, tile, &f, J, 32, to);                                                      \
        return;
    switch (blocks32_of(type) == 1 ? 0 : j) {
        CASE(0)
        CASE(1)
        CASE(2)
        CASE(3)
        CASE(4)
        CASE(5)
        CASE(6)
        CASE(7)
    default: return;
    }
#undef CASE
}

#define UNPACK(name)                                                                                         \
    static void name##_panel(const unsigned char *tile, unsigned j, uint32_t n, uint16_t *to)                \
    {                                                                                                        \
        unpack(HT_TYPE_##name, false, tile, j, n, to);                                                       \
    }                                                                                                        \
    static void name##_panel_t(const unsigned char *tile, unsigned j, uint32_t n, uint16_t *to)              \
    {                                                                                                        \
        unpack(HT_TYPE_##name, true, tile, j, n, to);                                                        \
    }
BLOCK_AND_FLOAT_TYPES(UNPACK)

typedef void unpack_fn(const unsigned char *tile, unsigned j, uint32_t n, uint16_t *to);

void ht_bf16_panel_avx512bf16(enum ht_type type, const unsigned char *tile, unsigned j, uint32_t n, unsigned half,
                              uint16_t *panel)
{
#define ENTRY(name) [HT_TYPE_##name] = name##_panel,
    static unpack_fn *const of[HT_N_TYPES] = {BLOCK_AND_FLOAT_TYPES(ENTRY)};
#undef ENTRY
    of[type](tile, j, n, panel + (size_t)half * HT_GROUP * 2);
}

void ht_bf16_panel_t_avx512bf16(enum ht_type type, const unsigned char *tile, unsigned j, uint32_t n, unsigned half,
                                uint16_t *panel)
{
#define ENTRY(name) [HT_TYPE_##name] = name##_panel_t,
    static unpack_fn *const of[HT_N_TYPES] = {BLOCK_AND_FLOAT_TYPES(ENTRY)};
#undef ENTRY
    of[type](tile, j, n, panel + (size_t)half * 8 * HT_B_LANES * 2);
}

// ---- sums: 8 rows by 32 lanes in registers

INLINE __m512bh pairs_at(const uint16_t *p)
{
    return (__m512bh)_mm512_loadu_si512(p);
}

static void sum8(const struct ht_bf16_block *b, const uint16_t *x, float *acc)
{
    __m512 t[8][2];
    UNROLL
    for (unsigned r = 0; r < 8; r++)
        for (unsigned h = 0; h < 2; h++)
            t[r][h] = b->begin ? _mm512_setzero_ps() : _mm512_loadu_ps(acc + r * b->acc_stride + 16 * h);
    const uint16_t *w = b->panel;
    for (uint32_t s = 0; s < b->steps; s++, x += HT_B_TILE, w += HT_B_PANEL)
        for (unsigned i = 0; i < 16; i++) {
            __m512bh w0 = pairs_at(w + i * 2 * HT_B_LANES), w1 = pairs_at(w + i * 2 * HT_B_LANES + 32);
            UNROLL
            for (unsigned r = 0; r < 8; r++) {
                int32_t pair;
                memcpy(&pair, x + r * HT_B_STEP + 2 * i, sizeof pair);
                __m512bh both = (__m512bh)_mm512_set1_epi32(pair);
                t[r][0] = _mm512_dpbf16_ps(t[r][0], both, w0);
                t[r][1] = _mm512_dpbf16_ps(t[r][1], both, w1);
            }
        }
    UNROLL
    for (unsigned r = 0; r < 8; r++)
        for (unsigned h = 0; h < 2; h++)
            _mm512_storeu_ps(acc + r * b->acc_stride + 16 * h, t[r][h]);
}

static void sum(const struct ht_bf16_block *b)
{
    for (uint32_t r = 0; r < b->rows; r += 8)
        sum8(b, b->x + r / HT_B_ROWS * b->x_next + r % HT_B_ROWS * HT_B_STEP, b->acc + r * b->acc_stride);
}

static void nothing(void)
{
}

const struct ht_bf16_kernels ht_bf16_avx512bf16 = {
    .begin = nothing,
    .end = nothing,
    .round = ht_bf16_round_avx512bf16,
    .panel = ht_bf16_panel_avx512bf16,
    .panel_t = ht_bf16_panel_t_avx512bf16,
    .sum = sum,
    .pair = ht_bf16_pair_avx512bf16,
    .softmax = ht_bf16_softmax_avx512bf16,
    .pairs = ht_bf16_pairs_avx512bf16,
};
