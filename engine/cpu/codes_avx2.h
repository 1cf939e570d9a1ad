// SPDX-License-Identifier: Apache-2.0
// Packed tiles read by AVX2: codes of 8 of the 16 rows as bytes, scales as floats. Included by the *_avx2.c files only.
// `type` and the positions are compile-time constants wherever these are called.
#ifndef HT_CODES_AVX2_H
#define HT_CODES_AVX2_H
#include <immintrin.h>
#include <string.h>

#include "engine/cpu/type_facts.h"

INLINE __m256i load32(const unsigned char *p)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)p);
}
INLINE __m256i shifted(__m256i v, int bits, int mask)
{
    return _mm256_and_si256(bits ? _mm256_srli_epi16(v, bits) : v, _mm256_set1_epi8((char)mask));
}
INLINE __m256i with_bit(__m256i code, const unsigned char *mask, int bit) // 32 mask bits, one a byte
{
    int32_t m;
    memcpy(&m, mask, 4);
    const __m256i spread = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2,
                                            2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
    const __m256i bits = _mm256_set1_epi64x((long long)0x8040201008040201u);
    __m256i on = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(m), spread), bits);
    return _mm256_or_si256(code, _mm256_and_si256(_mm256_cmpeq_epi8(on, bits), _mm256_set1_epi8((char)bit)));
}

// Codes of values 32j + 4i .. + 3 of rows 8h .. 8h + 7 of the tile (see codes_avx512.h).
INLINE __m256i codes(enum ht_type type, const unsigned char *tile, unsigned j, unsigned i, unsigned h)
{
    const unsigned char *at = tile + 32 * h;
    switch (type) {
    case HT_TYPE_Q8_0: return load32(at + 64 * i);
    case HT_TYPE_IQ4_NL: {
        const __m128i table =
            _mm_setr_epi8(1, 24, 45, 63, 79, 93, 106, 118, (char)129, (char)141, (char)153, (char)166,
                          (char)181, (char)197, (char)217, (char)241); // HT_IQ4_NL_VALUES + 128
        return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table),
                                   shifted(load32(at + 64 * (i % 4)), i / 4 * 4, 15));
    }
    case HT_TYPE_Q5_0:
    case HT_TYPE_Q5_1:
        return with_bit(shifted(load32(at + 64 * (i % 4)), i / 4 * 4, 15), tile + 256 + 8 * i + 4 * h, 16);
    case HT_TYPE_Q2_K: return shifted(load32(at + j / 4 * 512 + 64 * i), j % 4 * 2, 3);
    case HT_TYPE_Q3_K:
        return with_bit(shifted(load32(at + j / 4 * 512 + 64 * i), j % 4 * 2, 3),
                        tile + 1024 + 64 * j + 8 * i + 4 * h, 4);
    case HT_TYPE_Q4_K: return shifted(load32(at + j / 2 * 512 + 64 * i), j % 2 * 4, 15);
    case HT_TYPE_Q5_K:
        return with_bit(shifted(load32(at + j / 2 * 512 + 64 * i), j % 2 * 4, 15),
                        tile + 2048 + 64 * j + 8 * i + 4 * h, 16);
    case HT_TYPE_Q6_K: {
        __m256i low = shifted(load32(at + j / 4 * 1024 + j % 2 * 512 + 64 * i), j % 4 / 2 * 4, 15);
        __m256i high = shifted(load32(at + 2048 + j / 4 * 512 + 64 * i), j % 4 * 2, 3);
        return _mm256_or_si256(low, _mm256_slli_epi16(high, 4));
    }
    default: return shifted(load32(at + 64 * (i % 4)), i / 4 * 4, 15);
    }
}

// Scales of 8 rows for one 32; what a kind does not have is not read.
struct scales {
    __m256 d, m, scale[2], min[2];
};
INLINE __m256 half8(const unsigned char *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
}
INLINE __m256 bytes8(const unsigned char *p, int shift, int mask) // signed bytes if the mask is 255
{
    __m128i v = _mm_loadl_epi64((const __m128i *)(const void *)p);
    if (mask != 255)
        v = _mm_and_si128(_mm_srli_epi16(v, shift), _mm_set1_epi8((char)mask));
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(v));
}
INLINE __m256i bits8(const unsigned char *words, unsigned shift, int mask) // bits of 8 32-bit words
{
    return _mm256_and_si256(_mm256_srli_epi32(load32(words), (int)shift), _mm256_set1_epi32(mask));
}
// A six-bit number whose low bits and high two bits stand apart.
INLINE __m256i six(const unsigned char *low, unsigned low_shift, const unsigned char *high,
                   unsigned high_shift)
{
    return _mm256_or_si256(bits8(low, low_shift, 15), _mm256_slli_epi32(bits8(high, high_shift, 3), 4));
}
INLINE struct scales scales_read(enum ht_type type, const unsigned char *tile, unsigned j, unsigned h)
{
    const unsigned char *side = tile + side_of(type),
                        *w = side + (type == HT_TYPE_Q3_K ? 32 : 64) + 32 * h; // 32-bit words
    struct scales s;
    enum ht_kind kind = kind_of(type);
    s.d = half8(side + 16 * h);
    s.m = s.scale[0] = s.scale[1] = s.min[0] = s.min[1] = _mm256_setzero_ps();
    if (kind == HT_KIND_DM || kind == HT_KIND_K32M || kind == HT_KIND_K16M)
        s.m = half8(side + 32 + 16 * h);
    for (unsigned half = 0; half < 2; half++) {
        unsigned g = 2 * j + half;
        if (type == HT_TYPE_Q2_K) {
            s.scale[half] = bytes8(side + 64 + 16 * g + 8 * h, 0, 15);
            s.min[half] = bytes8(side + 64 + 16 * g + 8 * h, 4, 15);
        } else if (type == HT_TYPE_Q6_K) {
            s.scale[half] = bytes8(side + 32 + 16 * g + 8 * h, 0, 255);
        } else if (type == HT_TYPE_Q3_K) {
            __m256i v =
                six(w + 64 * (g / 4 % 2), 8 * (g % 4) + (g < 8 ? 0 : 4), w + 128, 8 * (g % 4) + g / 4 * 2);
            s.scale[half] = _mm256_cvtepi32_ps(_mm256_sub_epi32(v, _mm256_set1_epi32(32)));
        }
    }
    if (kind == HT_KIND_K32M) {
        unsigned at = 8 * (j % 4);
        __m256i scale = j < 4 ? bits8(w, at, 63) : six(w + 128, at, w, at + 6);
        __m256i min = j < 4 ? bits8(w + 64, at, 63) : six(w + 128, at + 4, w + 64, at + 6);
        s.scale[0] = _mm256_cvtepi32_ps(scale);
        s.min[0] = _mm256_cvtepi32_ps(min);
    }
    return s;
}

#endif
