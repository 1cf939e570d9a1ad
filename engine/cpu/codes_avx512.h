// SPDX-License-Identifier: Apache-2.0
// Packed tiles read by AVX-512: codes of 16 rows as bytes, scales as floats. Included by the *_avx512vnni.c
// files only. `type` and the positions are compile-time constants wherever these are called: each call
// becomes a few instructions.
#ifndef HT_CODES_AVX512_H
#define HT_CODES_AVX512_H
#include <immintrin.h>
#include <string.h>

#include "engine/cpu/type_facts.h"

INLINE __m512i load64(const unsigned char *p)
{
    return _mm512_loadu_si512(p);
}
INLINE __m512i shifted(__m512i v, unsigned bits, int mask)
{
    return _mm512_and_si512(bits ? _mm512_srli_epi16(v, bits) : v, _mm512_set1_epi8((char)mask));
}
INLINE __m512i with_bit(__m512i code, const unsigned char *mask, int bit)
{
    uint64_t m;
    memcpy(&m, mask, 8);
    return _mm512_or_si512(code, _mm512_maskz_set1_epi8(m, (char)bit));
}

// Codes of values 32j + 4i .. + 3 of each row of the tile: byte 4r + b is row r.
INLINE __m512i codes(enum ht_type type, const unsigned char *tile, unsigned j, unsigned i)
{
    switch (type) {
    case HT_TYPE_Q8_0: return load64(tile + 64 * i);
    case HT_TYPE_IQ4_NL: {
        const __m128i table =
            _mm_setr_epi8(1, 24, 45, 63, 79, 93, 106, 118, (char)129, (char)141, (char)153, (char)166,
                          (char)181, (char)197, (char)217, (char)241); // HT_IQ4_NL_VALUES + 128
        return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table),
                                   shifted(load64(tile + 64 * (i % 4)), i / 4 * 4, 15));
    }
    case HT_TYPE_Q5_0:
    case HT_TYPE_Q5_1:
        return with_bit(shifted(load64(tile + 64 * (i % 4)), i / 4 * 4, 15), tile + 256 + 8 * i, 16);
    case HT_TYPE_Q2_K: return shifted(load64(tile + j / 4 * 512 + 64 * i), j % 4 * 2, 3);
    case HT_TYPE_Q3_K:
        return with_bit(shifted(load64(tile + j / 4 * 512 + 64 * i), j % 4 * 2, 3),
                        tile + 1024 + 64 * j + 8 * i, 4);
    case HT_TYPE_Q4_K: return shifted(load64(tile + j / 2 * 512 + 64 * i), j % 2 * 4, 15);
    case HT_TYPE_Q5_K:
        return with_bit(shifted(load64(tile + j / 2 * 512 + 64 * i), j % 2 * 4, 15),
                        tile + 2048 + 64 * j + 8 * i, 16);
    case HT_TYPE_Q6_K: {
        __m512i low = shifted(load64(tile + j / 4 * 1024 + j % 2 * 512 + 64 * i), j % 4 / 2 * 4, 15);
        __m512i high = load64(tile + 2048 + j / 4 * 512 + 64 * i);
        unsigned t = j % 4; // bits 2t of high to bits 4 and 5
        high = t < 2 ? _mm512_slli_epi16(high, 4 - 2 * t) : t > 2 ? _mm512_srli_epi16(high, 2) : high;
        return _mm512_or_si512(low, _mm512_and_si512(high, _mm512_set1_epi8(0x30)));
    }
    default: return shifted(load64(tile + 64 * (i % 4)), i / 4 * 4, 15);
    }
}

INLINE __m512 half16(const unsigned char *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
INLINE __m512 bytes16(__m128i v)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(v));
}
INLINE __m512 byte_of(__m512i words, unsigned byte) // unsigned byte of each lane's word
{
    return _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srli_epi32(words, 8 * byte), _mm512_set1_epi32(255)));
}

// Scales of a tile's 32s, as contract Q multiplies with them; all are small integers.
struct scales {
    __m512 d, m;     // d; m or dmin
    __m512i word[4]; // K types with packed words: four scale bytes of each row per word
    __m512i min[2];  // q4_k, q5_k: mins likewise
};
INLINE void scales_read(enum ht_type type, const unsigned char *tile, struct scales *s)
{
    const unsigned char *side = tile + side_of(type);
    enum ht_kind kind = kind_of(type);
    s->d = half16(side);
    if (kind == HT_KIND_DM || kind == HT_KIND_K32M || kind == HT_KIND_K16M)
        s->m = half16(side + 32);
    if (kind == HT_KIND_K32M) {
        const __m512i six = _mm512_set1_epi8(63), four = _mm512_set1_epi8(15), high = _mm512_set1_epi8(0x30);
        __m512i a = load64(side + 64), b = load64(side + 128), c = load64(side + 192);
        s->word[0] = _mm512_and_si512(a, six);
        s->min[0] = _mm512_and_si512(b, six);
        s->word[1] =
            _mm512_or_si512(_mm512_and_si512(c, four), _mm512_and_si512(_mm512_srli_epi32(a, 2), high));
        s->min[1] = _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi32(c, 4), four),
                                    _mm512_and_si512(_mm512_srli_epi32(b, 2), high));
    }
    if (type == HT_TYPE_Q3_K) {
        const __m512i four = _mm512_set1_epi8(15), two = _mm512_set1_epi8(3);
        __m512i a = load64(side + 32), b = load64(side + 96), c = load64(side + 160);
        for (unsigned q = 0; q < 4; q++) {
            __m512i low = _mm512_and_si512(_mm512_srli_epi32(q % 2 ? b : a, q / 2 * 4), four);
            __m512i high = _mm512_slli_epi32(_mm512_and_si512(_mm512_srli_epi32(c, 2 * q), two), 4);
            s->word[q] = _mm512_or_si512(low, high);
        }
    }
}
// Scale of the half h [0, 1] of the j-th 32 (the same for both in q4_k and q5_k).
INLINE __m512 scale_at(enum ht_type type, const unsigned char *tile, const struct scales *s, unsigned j,
                       unsigned h)
{
    unsigned g = 2 * j + h;
    const __m128i *bytes =
        (const __m128i *)(const void *)(tile + side_of(type) + (type == HT_TYPE_Q2_K ? 64 : 32));
    switch (type) {
    case HT_TYPE_Q2_K: return bytes16(_mm_and_si128(_mm_loadu_si128(bytes + g), _mm_set1_epi8(15)));
    case HT_TYPE_Q6_K: return bytes16(_mm_loadu_si128(bytes + g));
    case HT_TYPE_Q3_K: return _mm512_sub_ps(byte_of(s->word[g / 4], g % 4), _mm512_set1_ps(32.0f));
    default: return byte_of(s->word[j / 4], j % 4);
    }
}
INLINE __m512 min_at(enum ht_type type, const unsigned char *tile, const struct scales *s, unsigned j,
                     unsigned h)
{
    const __m128i *bytes = (const __m128i *)(const void *)(tile + side_of(type) + 64);
    if (type == HT_TYPE_Q2_K)
        return bytes16(
            _mm_and_si128(_mm_srli_epi16(_mm_loadu_si128(bytes + 2 * j + h), 4), _mm_set1_epi8(15)));
    return byte_of(s->min[j / 4], j % 4);
}

#endif
