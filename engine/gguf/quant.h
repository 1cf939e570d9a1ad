// SPDX-License-Identifier: Apache-2.0
// The weight formats of GGUF that Hearth computes with: block layouts (C11, C++ and CUDA), type numbers,
// sizes, and the plain C reference that turns blocks into float32. Pure; any thread.
//
// A tensor's rows are cut into blocks of `block_values` consecutive values. All numbers are little-endian; d,
// m and dmin are IEEE half floats kept as bits. "Nibbles lo/hi" means: byte i of qs holds one code in its low
// four bits and another in its high four. Every formula is evaluated in float32, each operation rounded on
// its own, in the order the parentheses show.
#ifndef HT_QUANT_H
#define HT_QUANT_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#define HT_STATIC_ASSERT(condition, text) static_assert(condition, text)
#else
#define HT_STATIC_ASSERT(condition, text) _Static_assert(condition, text)
#endif
#ifdef __CUDACC__
#define HT_QUANT_FN static inline __host__ __device__
#else
#define HT_QUANT_FN static inline
#endif

enum ht_type { // the numbers stand in files
    HT_TYPE_F32 = 0,
    HT_TYPE_F16 = 1,
    HT_TYPE_Q4_0 = 2,
    HT_TYPE_Q4_1 = 3,
    HT_TYPE_Q5_0 = 6,
    HT_TYPE_Q5_1 = 7,
    HT_TYPE_Q8_0 = 8,
    HT_TYPE_Q2_K = 10,
    HT_TYPE_Q3_K = 11,
    HT_TYPE_Q4_K = 12,
    HT_TYPE_Q5_K = 13,
    HT_TYPE_Q6_K = 14,
    HT_TYPE_IQ4_NL = 20,
    HT_TYPE_BF16 = 30,
};
enum { HT_N_TYPES = 31 }; // one more than the largest number above: tables indexed by type

// ---- blocks of 32 values

// value[i] = d * (code - 8); code of i = nibble lo of qs[i] for i < 16, nibble hi of qs[i - 16] for the
// others
struct ht_block_q4_0 {
    uint16_t d;
    uint8_t qs[16];
};
// value[i] = (d * code) + m; codes as in q4_0
struct ht_block_q4_1 {
    uint16_t d, m;
    uint8_t qs[16];
};
// value[i] = d * (code - 16); code = nibble as in q4_0, plus 16 where bit i of the 32-bit word qh is set
struct ht_block_q5_0 {
    uint16_t d;
    uint8_t qh[4], qs[16];
};
// value[i] = (d * code) + m; codes as in q5_0
struct ht_block_q5_1 {
    uint16_t d, m;
    uint8_t qh[4], qs[16];
};
// value[i] = d * qs[i]
struct ht_block_q8_0 {
    uint16_t d;
    int8_t qs[32];
};
// value[i] = d * HT_IQ4_NL_VALUES[code]; codes as in q4_0
struct ht_block_iq4_nl {
    uint16_t d;
    uint8_t qs[16];
};

// ---- super-blocks of 256 values

// 16 groups of 16 values. value[i] = ((d * (scales[g] & 15)) * code) - (dmin * (scales[g] >> 4)), g = i / 16.
// Code of i: with half = i / 128, j = i % 128: bits 2*(j/32) and above of qs[32 * half + j % 32], two of
// them.
struct ht_block_q2_k {
    uint8_t scales[16], qs[64];
    uint16_t d, dmin;
};
// 16 groups of 16 values. value[i] = (d * ht_q3_k_scale(scales, g)) * code, g = i / 16; code in [-4, 3]: two
// bits as in q2_k, minus 4 unless bit i / 32 of hmask[i % 32] is set.
struct ht_block_q3_k {
    uint8_t hmask[32], qs[64], scales[12];
    uint16_t d;
};
// 8 groups of 32 values. value[i] = ((d * scale_g) * code) - (dmin * min_g), g = i / 32, scale and min from
// ht_k_scale and ht_k_min. Code: groups 2p and 2p+1 are nibbles lo and hi of qs[32 * p + i % 32].
struct ht_block_q4_k {
    uint16_t d, dmin;
    uint8_t scales[12], qs[128];
};
// As q4_k, and code + 16 where bit g of qh[i % 32] is set.
struct ht_block_q5_k {
    uint16_t d, dmin;
    uint8_t scales[12], qh[32], qs[128];
};
// 16 groups of 16 values. value[i] = (d * scales[i / 16]) * (code - 32). Six-bit code: with half = i / 128,
// j = i % 128: low four bits are nibble (j < 64 ? lo : hi) of ql[64 * half + j % 64], high two are bits
// 2*(j/32) and above of qh[32 * half + j % 32].
struct ht_block_q6_k {
    uint8_t ql[128], qh[64];
    int8_t scales[16];
    uint16_t d;
};

HT_STATIC_ASSERT(sizeof(struct ht_block_q4_0) == 18, "q4_0");
HT_STATIC_ASSERT(sizeof(struct ht_block_q4_1) == 20, "q4_1");
HT_STATIC_ASSERT(sizeof(struct ht_block_q5_0) == 22, "q5_0");
HT_STATIC_ASSERT(sizeof(struct ht_block_q5_1) == 24, "q5_1");
HT_STATIC_ASSERT(sizeof(struct ht_block_q8_0) == 34, "q8_0");
HT_STATIC_ASSERT(sizeof(struct ht_block_iq4_nl) == 18, "iq4_nl");
HT_STATIC_ASSERT(sizeof(struct ht_block_q2_k) == 84, "q2_k");
HT_STATIC_ASSERT(sizeof(struct ht_block_q3_k) == 110, "q3_k");
HT_STATIC_ASSERT(sizeof(struct ht_block_q4_k) == 144, "q4_k");
HT_STATIC_ASSERT(sizeof(struct ht_block_q5_k) == 176, "q5_k");
HT_STATIC_ASSERT(sizeof(struct ht_block_q6_k) == 210, "q6_k");

#define HT_IQ4_NL_VALUES -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113

// Six-bit scale and min of group g [0..7] of q4_k and q5_k. Groups 0-3: the low six bits of bytes g and g +
// 4. Groups 4-7: four low bits in the nibbles of byte g + 4, two high bits atop the bytes of group g - 4.
HT_QUANT_FN unsigned ht_k_scale(const uint8_t scales[12], unsigned g)
{
    return g < 4 ? scales[g] & 63u : (scales[g + 4] & 15u) | (unsigned)(scales[g - 4] >> 6) << 4;
}
HT_QUANT_FN unsigned ht_k_min(const uint8_t scales[12], unsigned g)
{
    return g < 4 ? scales[g + 4] & 63u : (unsigned)(scales[g + 4] >> 4) | (unsigned)(scales[g] >> 6) << 4;
}
// Six-bit scale minus 32 of group g [0..15] of q3_k: nibble lo (g < 8) or hi of byte g % 8, and two high bits
// from byte 8 + g % 4 at bit 2 * (g / 4).
HT_QUANT_FN int ht_q3_k_scale(const uint8_t scales[12], unsigned g)
{
    unsigned low = g < 8 ? scales[g] & 15u : (unsigned)(scales[g - 8] >> 4);
    unsigned high = (unsigned)(scales[8 + g % 4] >> (2 * (g / 4))) & 3u;
    return (int)(low | high << 4) - 32;
}

#ifdef __cplusplus
extern "C" {
#endif

struct ht_type_info {
    const char *name;      // "Q4_1"
    uint32_t block_values; // values per block
    uint32_t block_bytes;
};

// What Hearth computes with; NULL for every other number. Thread-safe, as all of the below.
const struct ht_type_info *ht_type_info(enum ht_type type);
// The types above and those that GGUF knows but Hearth refuses ("IQ2_XS"), so that a message can name them
// and a file can be listed. block_bytes is 0 for types that were withdrawn. NULL if nobody knows the number.
const struct ht_type_info *ht_type_known(uint32_t number);
// Bytes of a row of n values: false if the type is not known, n is not whole blocks, or the result overflows.
bool ht_row_bytes(uint32_t number, uint64_t n_values, uint64_t *bytes);

// blocks (n_values / block_values) -> out (n_values). `type` must be one that ht_type_info knows, n_values
// whole blocks; `blocks` need not be aligned. This is the meaning of the formats; faster code is held to it.
void ht_dequant_row(enum ht_type type, const void *blocks, size_t n_values, float *out);

#ifdef __cplusplus
}
#endif
#endif
