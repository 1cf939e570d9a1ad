// SPDX-License-Identifier: Apache-2.0
// The packed form of a weight: one layout per type, read by every CPU path, so that weights are packed once.
//
// Rows are taken in groups of 16 (the last one padded with zero rows); a vector lane is a row. A group is a
// sequence of tiles along k, one stream: a tile holds one GGUF block of each of its 16 rows and has exactly
// their size. Inside a tile, r = row in the group:
//   byte planes  the code bytes of the block (qs, ql, q6_k's qh), four by four: bytes 4c..4c+3 at 64c + 4r,
//                so that a 64-byte vector holds four neighbours in k of 16 rows. q8_0 stores the code + 128.
//   bit plane    the fifth bits (q5) or third bits (q3_k): per 32 values eight 64-bit words i, bit 4r + b of
//                word i belongs to value 4i + b: a vector mask
//   side         d, then m or dmin, 16 half floats each; then scales: bytes of q2_k and q6_k 16 at a time,
//                the 12 bytes of the other K types as three planes of 16 32-bit words
// F32, F16, BF16: tile = one k, 16 values.
#ifndef HT_CPU_LAYOUT_H
#define HT_CPU_LAYOUT_H
#include "engine/gguf/quant.h"

enum { HT_GROUP = 16 }; // rows

// Files of packed weights are bound to this name: another layout has another one.
#define HT_LAYOUT_NAME "rows16/1"

// The block-quantised types.
#define HT_BLOCK_TYPES(X)                                                                                    \
    X(Q4_0) X(Q4_1) X(Q5_0) X(Q5_1) X(Q8_0) X(IQ4_NL) X(Q2_K) X(Q3_K) X(Q4_K) X(Q5_K) X(Q6_K)

enum ht_kind {     // which sums contract Q makes per 32 values (engine/ops/ops.h)
    HT_KIND_FLOAT, // none: contract F
    HT_KIND_D,     // d
    HT_KIND_DM,    // d and m
    HT_KIND_K32M,  // d and dmin, a scale and a min per 32
    HT_KIND_K16,   // d, a scale per 16
    HT_KIND_K16M,  // d and dmin, a scale and a min per 16
};

struct ht_layout {
    enum ht_kind kind;
    uint16_t block_values, block_bytes;
    int16_t zero;                    // value = stored code - zero (IQ4_NL: a table instead)
    struct {                         // planes in the order of the tile; counts 0 = none
        uint8_t low_from, low_words; // from this byte of the block, so many 4-byte words
        uint8_t high_from, high_words;
        uint8_t bits_from, bits_bytes; // 4 (q5_0, q5_1) or 32 (K types)
    } code;
    struct { // fields copied as they are: `count` elements of `size` bytes
        uint8_t from, size, count;
    } side[3];
};

// NULL for a type without packed form.
const struct ht_layout *ht_layout_of(enum ht_type type);
static inline uint32_t ht_layout_tile_bytes(const struct ht_layout *layout)
{
    return (uint32_t)HT_GROUP * layout->block_bytes;
}
// k values of one row: GGUF blocks to row r of the group, and back. Rows of a group share bytes: pack them on
// one thread, into zeroed memory, each row once.
void ht_layout_pack_row(const struct ht_layout *layout, const void *blocks, uint32_t k, unsigned r,
                        unsigned char *group);
void ht_layout_unpack_row(const struct ht_layout *layout, const unsigned char *group, uint32_t k, unsigned r,
                          void *blocks);

#endif
