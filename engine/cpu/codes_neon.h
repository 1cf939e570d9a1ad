// SPDX-License-Identifier: Apache-2.0
// Packed tiles read by NEON, 4 rows at a time: codes as signed bytes, scales as vectors of 4. Included by the
// matmul_*.c files of aarch64 and dequant_neon.c only. `type` and the positions are compile-time constants wherever
// these are called, or fold where loops are unrolled: each call becomes a few instructions. Shifts are written as
// operators on vectors, which become immediates where the count is known.
#ifndef HT_CODES_NEON_H
#define HT_CODES_NEON_H
#include <arm_neon.h>
#include <string.h>

#include "engine/base/half.h"
#include "engine/cpu/type_facts.h"

// value = code - zero, as the codes come from here: q8_0 and iq4_nl are signed.
INLINE int signed_zero_of(enum ht_type type)
{
    return zero_of(type) == 128 ? 0 : zero_of(type);
}
INLINE int signed_max_of(enum ht_type type) // largest magnitude of a code
{
    return max_code_of(type) == 255 ? 128 : max_code_of(type);
}

INLINE uint8x16_t shifted(const unsigned char *p, unsigned bits, unsigned mask)
{
    uint8x16_t v = vld1q_u8(p);
    if (bits)
        v = v >> vdupq_n_u8((uint8_t)bits);
    return bits + (mask > 3 ? 4u : 2u) == 8 ? v : vandq_u8(v, vdupq_n_u8((uint8_t)mask));
}
// Sets `bit` in the bytes whose mask bit is set. words: two of the plane's 64-bit words; the second is asked for by
// `odd`; its bytes 2v and 2v + 1 are those of rows 4v .. 4v + 3.
INLINE uint8x16_t with_bit(uint8x16_t code, const unsigned char *words, unsigned odd, unsigned v, uint8_t bit)
{
    static const uint8_t spread[16] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1};
    static const uint8_t bits[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    uint8x16_t at = vaddq_u8(vld1q_u8(spread), vdupq_n_u8((uint8_t)(8 * odd + 2 * v)));
    uint8x16_t on = vtstq_u8(vqtbl1q_u8(vld1q_u8(words), at), vld1q_u8(bits));
    return vbslq_u8(vdupq_n_u8(bit), on, code);
}

// Codes of values 32j + 4i .. + 3 of rows 4v .. 4v + 3 of the tile: byte 4r + b is row 4v + r.
INLINE int8x16_t codes(enum ht_type type, const unsigned char *tile, unsigned j, unsigned i, unsigned v)
{
    const unsigned char *at = tile + 16 * v;
    unsigned odd = i % 2, even = i - odd;
    uint8x16_t code;
    switch (type) {
    case HT_TYPE_Q8_0: code = veorq_u8(vld1q_u8(at + 64 * i), vdupq_n_u8(128)); break;
    case HT_TYPE_IQ4_NL: {
        static const int8_t table[16] = {HT_IQ4_NL_VALUES};
        return vqtbl1q_s8(vld1q_s8(table), shifted(at + 64 * (i % 4), i / 4 * 4, 15));
    }
    case HT_TYPE_Q5_0:
    case HT_TYPE_Q5_1:
        code = with_bit(shifted(at + 64 * (i % 4), i / 4 * 4, 15), tile + 256 + 8 * even, odd, v, 16);
        break;
    case HT_TYPE_Q2_K: code = shifted(at + j / 4 * 512 + 64 * i, j % 4 * 2, 3); break;
    case HT_TYPE_Q3_K:
        code = with_bit(shifted(at + j / 4 * 512 + 64 * i, j % 4 * 2, 3), tile + 1024 + 64 * j + 8 * even,
                        odd, v, 4);
        break;
    case HT_TYPE_Q4_K: code = shifted(at + j / 2 * 512 + 64 * i, j % 2 * 4, 15); break;
    case HT_TYPE_Q5_K:
        code = with_bit(shifted(at + j / 2 * 512 + 64 * i, j % 2 * 4, 15), tile + 2048 + 64 * j + 8 * even,
                        odd, v, 16);
        break;
    case HT_TYPE_Q6_K: {
        uint8x16_t high = vld1q_u8(at + 2048 + j / 4 * 512 + 64 * i);
        unsigned t = j % 4; // bits 2t of high to bits 4 and 5
        high = t < 2 ? high << vdupq_n_u8((uint8_t)(4 - 2 * t)) : high >> vdupq_n_u8((uint8_t)(2 * t - 4));
        code = shifted(at + j / 4 * 1024 + j % 2 * 512 + 64 * i, t / 2 * 4, 15);
        code = vorrq_u8(code, vandq_u8(high, vdupq_n_u8(0x30)));
        break;
    }
    default: code = shifted(at + 64 * (i % 4), i / 4 * 4, 15);
    }
    return vreinterpretq_s8_u8(code);
}

// Scales of 4 rows for one 32; what a kind does not have is not read. All but d and m are small integers.
struct scales {
    float32x4_t d, m; // d; m or dmin
    int32x4_t scale[2];
    float32x4_t min[2];
};
INLINE float32x4_t half4(const unsigned char *p)
{
    return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p)));
}
INLINE int32x4_t bytes4(const unsigned char *p, unsigned shift,
                        unsigned mask) // signed bytes if the mask is 255
{
    uint32_t four;
    memcpy(&four, p, 4);
    uint8x8_t v = vreinterpret_u8_u32(vdup_n_u32(four));
    if (mask == 255)
        return vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u8(v))));
    v = vand_u8(v >> vdup_n_u8((uint8_t)shift), vdup_n_u8((uint8_t)mask));
    return vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(v))));
}
INLINE uint32x4_t bits4(const unsigned char *words, unsigned shift, uint32_t mask) // bits of 4 32-bit words
{
    return vandq_u32(vreinterpretq_u32_u8(vld1q_u8(words)) >> vdupq_n_u32(shift), vdupq_n_u32(mask));
}
// A six-bit number whose low bits and high two bits stand apart.
INLINE uint32x4_t six(const unsigned char *low, unsigned low_shift, const unsigned char *high,
                      unsigned high_shift)
{
    return vorrq_u32(bits4(low, low_shift, 15), bits4(high, high_shift, 3) << vdupq_n_u32(4));
}
INLINE struct scales scales_read(enum ht_type type, const unsigned char *tile, unsigned j, unsigned v)
{
    const unsigned char *side = tile + side_of(type),
                        *w = side + (type == HT_TYPE_Q3_K ? 32 : 64) + 16 * v; // 32-bit words
    struct scales s;
    enum ht_kind kind = kind_of(type);
    s.d = half4(side + 8 * v);
    s.m = s.min[0] = s.min[1] = vdupq_n_f32(0);
    s.scale[0] = s.scale[1] = vdupq_n_s32(1);
    if (kind == HT_KIND_DM || kind == HT_KIND_K32M || kind == HT_KIND_K16M)
        s.m = half4(side + 32 + 8 * v);
    for (unsigned half = 0; half < 2; half++) {
        unsigned g = 2 * j + half;
        if (type == HT_TYPE_Q2_K) {
            s.scale[half] = bytes4(side + 64 + 16 * g + 4 * v, 0, 15);
            s.min[half] = vcvtq_f32_s32(bytes4(side + 64 + 16 * g + 4 * v, 4, 15));
        } else if (type == HT_TYPE_Q6_K) {
            s.scale[half] = bytes4(side + 32 + 16 * g + 4 * v, 0, 255);
        } else if (type == HT_TYPE_Q3_K) {
            uint32x4_t n =
                six(w + 64 * (g / 4 % 2), 8 * (g % 4) + (g < 8 ? 0 : 4), w + 128, 8 * (g % 4) + g / 4 * 2);
            s.scale[half] = vsubq_s32(vreinterpretq_s32_u32(n), vdupq_n_s32(32));
        }
    }
    if (kind == HT_KIND_K32M) {
        unsigned at = 8 * (j % 4);
        uint32x4_t scale = j < 4 ? bits4(w, at, 63) : six(w + 128, at, w, at + 6);
        uint32x4_t min = j < 4 ? bits4(w + 64, at, 63) : six(w + 128, at + 4, w + 64, at + 6);
        s.scale[0] = vreinterpretq_s32_u32(scale);
        s.min[0] = vcvtq_f32_u32(min);
    }
    return s;
}

// The scales of a panel, 32 numbers each: d · [m | dmin] · scales · mins (kernels.h); integers stay integers.
#define PANEL_SCALES(F)                                                                                      \
    F(0, s->d)                                                                                               \
    if (kind == HT_KIND_DM || kind == HT_KIND_K32M) {                                                        \
        F(1, s->m)                                                                                           \
    }                                                                                                        \
    if (kind == HT_KIND_K32M) {                                                                              \
        F(2, s->scale[0])                                                                                    \
        F(3, s->min[0])                                                                                      \
    }                                                                                                        \
    if (kind == HT_KIND_K16 || kind == HT_KIND_K16M) {                                                       \
        F(1, s->scale[0])                                                                                    \
        F(2, s->scale[1])                                                                                    \
    }                                                                                                        \
    if (kind == HT_KIND_K16M) {                                                                              \
        F(3, s->m)                                                                                           \
        F(4, s->min[0])                                                                                      \
        F(5, s->min[1])                                                                                      \
    }
INLINE void scales_put(enum ht_kind kind, const struct scales *s, struct ht_panel *p, unsigned half,
                       unsigned v)
{
#define PUT(index, value) memcpy(p->scale[index][half] + 4 * v, &(value), 16);
    PANEL_SCALES(PUT)
#undef PUT
}
INLINE void scales_get(enum ht_kind kind, struct scales *s, const struct ht_panel *p, unsigned half,
                       unsigned v)
{
#define GET(index, value) memcpy(&(value), p->scale[index][half] + 4 * v, 16);
    PANEL_SCALES(GET)
#undef GET
}

#endif
