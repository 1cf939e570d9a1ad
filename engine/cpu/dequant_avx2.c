// SPDX-License-Identifier: Apache-2.0
// Packed tiles as f32 for contract F: each value by the formula of engine/gguf/quant.h, every operation rounded in its
// order. A lane is a row of W, 8 of the 16 at a time. Any thread.
#include "engine/cpu/codes_avx2.h"
#include "engine/cpu/overlay_avx2.h"

// Four neighbours in k of 8 rows: w (4, 16).
INLINE void four_values(enum ht_type type, __m256i codes, __m256 factor, __m256 offset, float *w)
{
    enum ht_kind kind = kind_of(type);
    const __m256i byte = _mm256_set1_epi32(255), zero = _mm256_set1_epi32(zero_of(type));
    UNROLL
    for (unsigned b = 0; b < 4; b++) {
        __m256i code = b < 3 ? _mm256_and_si256(_mm256_srli_epi32(codes, (int)(8 * b)), byte)
                             : _mm256_srli_epi32(codes, 24);
        __m256 v = _mm256_mul_ps(factor, _mm256_cvtepi32_ps(_mm256_sub_epi32(code, zero)));
        if (kind == HT_KIND_DM)
            v = _mm256_add_ps(v, offset);
        if (kind == HT_KIND_K32M || kind == HT_KIND_K16M)
            v = _mm256_sub_ps(v, offset);
        _mm256_storeu_ps(w + b * HT_GROUP, v);
    }
}

// Rows 8h .. 8h + 7 of the j-th 32 of a tile: w (32, 16).
INLINE void dequant32(enum ht_type type, const unsigned char *tile, unsigned j, unsigned h, float *w)
{
    enum ht_kind kind = kind_of(type);
    struct scales s = scales_read(type, tile, j, h);
    UNROLL
    for (unsigned i = 0; i < 8; i++, w += 4 * HT_GROUP) {
        unsigned half = kind == HT_KIND_K32M ? 0 : i / 4;
        __m256 factor = s.d, offset = _mm256_setzero_ps();
        if (kind != HT_KIND_D && kind != HT_KIND_DM)
            factor = _mm256_mul_ps(s.d, s.scale[half]);
        if (kind == HT_KIND_DM)
            offset = s.m;
        if (kind == HT_KIND_K32M || kind == HT_KIND_K16M)
            offset = _mm256_mul_ps(s.m, s.min[half]);
        four_values(type, codes(type, tile, j, i, h), factor, offset, w);
    }
}

INLINE void dequant(enum ht_type type, const unsigned char *tiles, uint32_t k, float *w)
{
    for (uint32_t b = 0; b < k / 32; b += blocks32_of(type), tiles += tile_bytes_of(type))
        UNROLL
        for (unsigned j = 0; j < blocks32_of(type); j++, w += 32 * HT_GROUP) {
            dequant32(type, tiles, j, 0, w);
            dequant32(type, tiles, j, 1, w + 8);
        }
}

#define DEQUANT(name)                                                                                        \
    static void name##_dequant(const unsigned char *tiles, uint32_t k, float *w)                             \
    {                                                                                                        \
        dequant(HT_TYPE_##name, tiles, k, w);                                                                \
    }
HT_BLOCK_TYPES(DEQUANT)

void ht_dequant_avx2(struct ht_kernels *kernels)
{
#define SET(name) kernels->dequant[HT_TYPE_##name] = name##_dequant;
    HT_BLOCK_TYPES(SET)
#undef SET
}
