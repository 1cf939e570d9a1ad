// SPDX-License-Identifier: Apache-2.0
// Packing and unpacking of rows, in plain C. Pure functions, any thread.
#include "engine/cpu/layout.h"

#include <string.h>

static const struct ht_layout layouts[HT_N_TYPES] = {
    [HT_TYPE_F32] = {HT_KIND_FLOAT, 1, 4, 0, {0}, {{0, 4, 1}}},
    [HT_TYPE_F16] = {HT_KIND_FLOAT, 1, 2, 0, {0}, {{0, 2, 1}}},
    [HT_TYPE_BF16] = {HT_KIND_FLOAT, 1, 2, 0, {0}, {{0, 2, 1}}},
    [HT_TYPE_Q4_0] = {HT_KIND_D, 32, 18, 8, {2, 4, 0, 0, 0, 0}, {{0, 2, 1}}},
    [HT_TYPE_Q4_1] = {HT_KIND_DM, 32, 20, 0, {4, 4, 0, 0, 0, 0}, {{0, 2, 1}, {2, 2, 1}}},
    [HT_TYPE_Q5_0] = {HT_KIND_D, 32, 22, 16, {6, 4, 0, 0, 2, 4}, {{0, 2, 1}}},
    [HT_TYPE_Q5_1] = {HT_KIND_DM, 32, 24, 0, {8, 4, 0, 0, 4, 4}, {{0, 2, 1}, {2, 2, 1}}},
    [HT_TYPE_Q8_0] = {HT_KIND_D, 32, 34, 128, {2, 8, 0, 0, 0, 0}, {{0, 2, 1}}},
    [HT_TYPE_IQ4_NL] = {HT_KIND_D, 32, 18, 0, {2, 4, 0, 0, 0, 0}, {{0, 2, 1}}},
    [HT_TYPE_Q2_K] = {HT_KIND_K16M, 256, 84, 0, {16, 16, 0, 0, 0, 0}, {{80, 2, 1}, {82, 2, 1}, {0, 1, 16}}},
    [HT_TYPE_Q3_K] = {HT_KIND_K16, 256, 110, 4, {32, 16, 0, 0, 0, 32}, {{108, 2, 1}, {96, 4, 3}}},
    [HT_TYPE_Q4_K] = {HT_KIND_K32M, 256, 144, 0, {16, 32, 0, 0, 0, 0}, {{0, 2, 1}, {2, 2, 1}, {4, 4, 3}}},
    [HT_TYPE_Q5_K] = {HT_KIND_K32M, 256, 176, 0, {48, 32, 0, 0, 16, 32}, {{0, 2, 1}, {2, 2, 1}, {4, 4, 3}}},
    [HT_TYPE_Q6_K] = {HT_KIND_K16, 256, 210, 32, {0, 32, 128, 16, 0, 0}, {{208, 2, 1}, {192, 1, 16}}},
};

const struct ht_layout *ht_layout_of(enum ht_type type)
{
    return (unsigned)type < HT_N_TYPES && layouts[type].block_values ? &layouts[type] : NULL;
}

// The four bits of values 4i..4i+3 of the j-th 32 values, from the block's bit field.
static unsigned bits_get(const unsigned char *field, unsigned n_bytes, unsigned j, unsigned i)
{
    if (n_bytes == 4)
        return field[i / 2] >> (i % 2 * 4) & 15u;
    unsigned nibble = 0;
    for (unsigned b = 0; b < 4; b++)
        nibble |= (field[4 * i + b] >> j & 1u) << b;
    return nibble;
}

static void bits_set(unsigned char *field, unsigned n_bytes, unsigned j, unsigned i, unsigned nibble)
{
    if (n_bytes == 4) {
        field[i / 2] |= (unsigned char)(nibble << (i % 2 * 4));
        return;
    }
    for (unsigned b = 0; b < 4; b++)
        field[4 * i + b] |= (unsigned char)((nibble >> b & 1u) << j);
}

static void words_pack(const unsigned char *from, unsigned n_words, uint32_t flip, unsigned r,
                       unsigned char *to)
{
    for (unsigned c = 0; c < n_words; c++) {
        uint32_t word;
        memcpy(&word, from + 4 * c, 4);
        word ^= flip;
        memcpy(to + 64 * c + 4 * r, &word, 4);
    }
}

static void words_unpack(const unsigned char *from, unsigned n_words, uint32_t flip, unsigned r,
                         unsigned char *to)
{
    for (unsigned c = 0; c < n_words; c++) {
        uint32_t word;
        memcpy(&word, from + 64 * c + 4 * r, 4);
        word ^= flip;
        memcpy(to + 4 * c, &word, 4);
    }
}

static uint32_t flip_of(const struct ht_layout *layout) // q8_0: signed to biased
{
    return layout->zero == 128 ? 0x80808080u : 0;
}

static void tile_pack(const struct ht_layout *l, const unsigned char *block, unsigned r, unsigned char *tile)
{
    words_pack(block + l->code.low_from, l->code.low_words, flip_of(l), r, tile);
    tile += 64 * l->code.low_words;
    words_pack(block + l->code.high_from, l->code.high_words, 0, r, tile);
    tile += 64 * l->code.high_words;
    if (l->code.bits_bytes) {
        for (unsigned j = 0; j < l->block_values / 32u; j++)
            for (unsigned i = 0; i < 8; i++, tile += 8)
                tile[r / 2] |= (unsigned char)(bits_get(block + l->code.bits_from, l->code.bits_bytes, j, i)
                                               << (r % 2 * 4));
    }
    for (int f = 0; f < 3 && l->side[f].count; f++) {
        unsigned size = l->side[f].size;
        for (unsigned i = 0; i < l->side[f].count; i++, tile += HT_GROUP * size)
            memcpy(tile + r * size, block + l->side[f].from + i * size, size);
    }
}

static void tile_unpack(const struct ht_layout *l, const unsigned char *tile, unsigned r,
                        unsigned char *block)
{
    words_unpack(tile, l->code.low_words, flip_of(l), r, block + l->code.low_from);
    tile += 64 * l->code.low_words;
    words_unpack(tile, l->code.high_words, 0, r, block + l->code.high_from);
    tile += 64 * l->code.high_words;
    if (l->code.bits_bytes) {
        memset(block + l->code.bits_from, 0, l->code.bits_bytes);
        for (unsigned j = 0; j < l->block_values / 32u; j++)
            for (unsigned i = 0; i < 8; i++, tile += 8)
                bits_set(block + l->code.bits_from, l->code.bits_bytes, j, i,
                         tile[r / 2] >> (r % 2 * 4) & 15u);
    }
    for (int f = 0; f < 3 && l->side[f].count; f++) {
        unsigned size = l->side[f].size;
        for (unsigned i = 0; i < l->side[f].count; i++, tile += HT_GROUP * size)
            memcpy(block + l->side[f].from + i * size, tile + r * size, size);
    }
}

void ht_layout_pack_row(const struct ht_layout *layout, const void *blocks, uint32_t k, unsigned r,
                        unsigned char *group)
{
    const unsigned char *block = blocks;
    for (uint32_t i = 0; i < k; i += layout->block_values) {
        tile_pack(layout, block, r, group);
        block += layout->block_bytes;
        group += ht_layout_tile_bytes(layout);
    }
}

void ht_layout_unpack_row(const struct ht_layout *layout, const unsigned char *group, uint32_t k, unsigned r,
                          void *blocks)
{
    unsigned char *block = blocks;
    for (uint32_t i = 0; i < k; i += layout->block_values) {
        tile_unpack(layout, group, r, block);
        block += layout->block_bytes;
        group += ht_layout_tile_bytes(layout);
    }
}
