// SPDX-License-Identifier: Apache-2.0
// Packed tiles as f32 for contract F: each value by the formula of engine/gguf/quant.h, every operation rounded in its
// order. A lane is a row of W, 4 of the 16 at a time. Any thread.
#include "engine/cpu/codes_neon.h"
#include "engine/cpu/overlay_neon.h"

// Four neighbours in k of 4 rows: w (4, 16).
INLINE void four_values(enum ht_type type, int8x16_t codes, float32x4_t factor, float32x4_t offset, float *w)
{
    enum ht_kind kind = kind_of(type);
    int32x4_t words = vreinterpretq_s32_s8(codes);
    UNROLL
    for (unsigned b = 0; b < 4; b++) {
        int32x4_t code = (words << vdupq_n_s32((int)(24 - 8 * b))) >> vdupq_n_s32(24);
        float32x4_t v = vmulq_f32(factor, vcvtq_f32_s32(vsubq_s32(code, vdupq_n_s32(signed_zero_of(type)))));
        if (kind == HT_KIND_DM)
            v = vaddq_f32(v, offset);
        if (kind == HT_KIND_K32M || kind == HT_KIND_K16M)
            v = vsubq_f32(v, offset);
        vst1q_f32(w + b * HT_GROUP, v);
    }
}

// Rows 4v .. 4v + 3 of the j-th 32 of a tile: w (32, 16).
INLINE void dequant32(enum ht_type type, const unsigned char *tile, unsigned j, unsigned v, float *w)
{
    enum ht_kind kind = kind_of(type);
    struct scales s = scales_read(type, tile, j, v);
    UNROLL
    for (unsigned i = 0; i < 8; i++, w += 4 * HT_GROUP) {
        unsigned half = kind == HT_KIND_K32M ? 0 : i / 4;
        float32x4_t factor = s.d, offset = vdupq_n_f32(0);
        if (kind != HT_KIND_D && kind != HT_KIND_DM)
            factor = vmulq_f32(s.d, vcvtq_f32_s32(s.scale[half]));
        if (kind == HT_KIND_DM)
            offset = s.m;
        if (kind == HT_KIND_K32M || kind == HT_KIND_K16M)
            offset = vmulq_f32(s.m, s.min[half]);
        four_values(type, codes(type, tile, j, i, v), factor, offset, w);
    }
}

INLINE void dequant(enum ht_type type, const unsigned char *tiles, uint32_t k, float *w)
{
    for (uint32_t b = 0; b < k / 32; b += blocks32_of(type), tiles += tile_bytes_of(type))
        UNROLL
    for (unsigned j = 0; j < blocks32_of(type); j++, w += 32 * HT_GROUP)
        for (unsigned v = 0; v < 4; v++)
            dequant32(type, tiles, j, v, w + 4 * v);
}

#define DEQUANT(name)                                                                                        \
    static void name##_dequant(const unsigned char *tiles, uint32_t k, float *w)                             \
    {                                                                                                        \
        dequant(HT_TYPE_##name, tiles, k, w);                                                                \
    }
HT_BLOCK_TYPES(DEQUANT)

void ht_dequant_neon(struct ht_kernels *kernels)
{
#define SET(name) kernels->dequant[HT_TYPE_##name] = name##_dequant;
    HT_BLOCK_TYPES(SET)
#undef SET
}
