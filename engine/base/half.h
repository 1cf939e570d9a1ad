// SPDX-License-Identifier: Apache-2.0
// f16 and bf16 to f32 and back, bit-exact in plain C (round to nearest, ties to even), NaN stays NaN. Pure; any thread.
#ifndef HT_HALF_H
#define HT_HALF_H
#include <stdint.h>
#include <string.h>

static inline float ht_bits_f32(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, 4);
    return f;
}
static inline uint32_t ht_f32_bits(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, 4);
    return bits;
}
static inline float ht_f16_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, mantissa = h & 1023;
    if (exponent == 31)
        return ht_bits_f32(sign | 0x7F800000 | mantissa << 13);
    if (exponent)
        return ht_bits_f32(sign | (exponent + 112) << 23 | mantissa << 13);
    float small = (float)mantissa * 0x1p-24f; // subnormal or zero: exact
    return ht_bits_f32(ht_f32_bits(small) | sign);
}
static inline uint16_t ht_f32_f16(float f)
{
    uint32_t bits = ht_f32_bits(f), sign = bits >> 16 & 0x8000, rest = bits & 0x7FFFFFFF;
    if (rest > 0x7F800000)
        return (uint16_t)(sign | 0x7E00 | (rest >> 13 & 0x1FF)); // NaN, quiet
    if (rest >= 0x47800000)
        return (uint16_t)(sign | 0x7C00);        // 65536 and more, infinity included
    if (rest < 0x38800000) {                     // below the smallest normal half: round at 2^-24
        float scaled = ht_bits_f32(rest) + 0.5f; // ulp of [0.5, 1) is 2^-24: the addition rounds
        return (uint16_t)(sign | (ht_f32_bits(scaled) - 0x3F000000));
    }
    uint32_t rounded = rest + 0xFFF + (rest >> 13 & 1);
    return (uint16_t)(sign | ((rounded - 0x38000000) >> 13)); // may carry into infinity, which is right
}
static inline float ht_bf16_f32(uint16_t b)
{
    return ht_bits_f32((uint32_t)b << 16);
}
static inline uint16_t ht_f32_bf16(float f)
{
    uint32_t bits = ht_f32_bits(f);
    if ((bits & 0x7FFFFFFF) > 0x7F800000)
        return (uint16_t)(bits >> 16 | 64);
    return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

#endif
