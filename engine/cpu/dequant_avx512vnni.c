// SPDX-License-Identifier: Apache-2.0
// Packed tiles as f32 for contract F: each value by the formula of engine/gguf/quant.h, every operation rounded in its
// order. A lane is a row of W. Any thread.
#include "engine/cpu/codes_avx512.h"
#include "engine/cpu/overlay_avx512vnni.h"

INLINE void four_values(enum ht_type type, __m512i codes, __m512 factor, __m512 offset, float *w)
{
    enum ht_kind kind = kind_of(type);
    const __m512i byte = _mm512_set1_epi32(255), zero = _mm512_set1_epi32(zero_of(type));
    UNROLL
    for (unsigned b = 0; b < 4; b++) {
        __m512i code = _mm512_and_si512(_mm512_srli_epi32(codes, 8 * b), byte);
        __m512 v = _mm512_mul_ps(factor, _mm512_cvtepi32_ps(_mm512_sub_epi32(code, zero)));
        if (kind == HT_KIND_DM)
            v = _mm512_add_ps(v, offset);
        if (kind == HT_KIND_K32M || kind == HT_KIND_K16M)
            v = _mm512_sub_ps(v, offset);
        _mm512_storeu_ps(w + b * HT_GROUP, v);
    }
}

INLINE void dequant(enum ht_type type, const unsigned char *tiles, uint32_t k, float *w)
{
    enum ht_kind kind = kind_of(type);
    struct scales s;
    for (uint32_t b = 0; b < k / 32; b += blocks32_of(type), tiles += tile_bytes_of(type)) {
        scales_read(type, tiles, &s);
        UNROLL
        for (unsigned j = 0; j < blocks32_of(type); j++)
            UNROLL
            for (unsigned i = 0; i < 8; i++, w += 4 * HT_GROUP) {
                __m512 factor = s.d, offset = _mm512_setzero_ps();
                if (kind != HT_KIND_D && kind != HT_KIND_DM)
                    factor = _mm512_mul_ps(s.d, scale_at(type, tiles, &s, j, i / 4));
                if (kind == HT_KIND_DM)
                    offset = s.m;
                if (kind == HT_KIND_K32M || kind == HT_KIND_K16M)
                    offset = _mm512_mul_ps(s.m, min_at(type, tiles, &s, j, i / 4));
                four_values(type, codes(type, tiles, j, i), factor, offset, w);
            }
    }
}

#define DEQUANT(name)                                                                                        \
    static void name##_dequant(const unsigned char *tiles, uint32_t k, float *w)                             \
    {                                                                                                        \
        dequant(HT_TYPE_##name, tiles, k, w);                                                                \
    }
HT_BLOCK_TYPES(DEQUANT)

void ht_dequant_avx512vnni(struct ht_kernels *kernels)
{
#define SET(name) kernels->dequant[HT_TYPE_##name] = name##_dequant;
    HT_BLOCK_TYPES(SET)
#undef SET
}
