// SPDX-License-Identifier: Apache-2.0
// Contract B with AMX: 32 rows of x by 32 outputs in four tiles of sums, two of x and two of W. Any thread; between
// begin and end the thread's tile registers are in use.
#include <immintrin.h>

#include "engine/cpu/train_bf16.h"

static void begin(void)
{
    static const struct { // what ldtilecfg reads
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } full = {.palette = 1, .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64}, .rows = {16, 16, 16, 16, 16, 16, 16, 16}};
    _tile_loadconfig(&full);
}

static void end(void)
{
    _tile_release();
}

enum { ROW_BYTES = HT_B_STEP * sizeof(uint16_t), PAIR_BYTES = HT_B_LANES * 2 * sizeof(uint16_t) };

// Tiles 0 and 1: sums of the first 16 rows, 2 and 3: of the others; 4 and 5 x; 6 and 7 W.
static void sum32(const struct ht_bf16_block *b)
{
    const size_t stride = b->acc_stride * sizeof(float);
    float *low = b->acc, *high = b->acc + HT_B_ROWS * b->acc_stride;
    const uint16_t *x = b->x, *w = b->panel;
    if (b->begin) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    } else {
        _tile_loadd(0, low, stride);
        _tile_loadd(1, low + 16, stride);
        _tile_loadd(2, high, stride);
        _tile_loadd(3, high + 16, stride);
    }
    for (uint32_t s = 0; s < b->steps; s++, x += HT_B_TILE, w += HT_B_PANEL) {
        _tile_loadd(6, w, PAIR_BYTES);
        _tile_loadd(4, x, ROW_BYTES);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, w + HT_B_LANES, PAIR_BYTES);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, x + b->x_next, ROW_BYTES);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, low, stride);
    _tile_stored(1, low + 16, stride);
    _tile_stored(2, high, stride);
    _tile_stored(3, high + 16, stride);
}

static void sum16(const struct ht_bf16_block *b)
{
    const size_t stride = b->acc_stride * sizeof(float);
    const uint16_t *x = b->x, *w = b->panel;
    if (b->begin) {
        _tile_zero(0);
        _tile_zero(1);
    } else {
        _tile_loadd(0, b->acc, stride);
        _tile_loadd(1, b->acc + 16, stride);
    }
    for (uint32_t s = 0; s < b->steps; s++, x += HT_B_TILE, w += HT_B_PANEL) {
        _tile_loadd(4, x, ROW_BYTES);
        _tile_loadd(6, w, PAIR_BYTES);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, w + HT_B_LANES, PAIR_BYTES);
        _tile_dpbf16ps(1, 4, 7);
    }
    _tile_stored(0, b->acc, stride);
    _tile_stored(1, b->acc + 16, stride);
}

static void sum(const struct ht_bf16_block *b)
{
    if (b->rows == 32)
        sum32(b);
    else
        sum16(b);
}

const struct ht_bf16_kernels ht_bf16_amx = {
    .begin = begin,
    .end = end,
    .round = ht_bf16_round_avx512bf16,
    .panel = ht_bf16_panel_avx512bf16,
    .panel_t = ht_bf16_panel_t_avx512bf16,
    .sum = sum,
    .pair = ht_bf16_pair_avx512bf16,
    .softmax = ht_bf16_softmax_avx512bf16,
    .pairs = ht_bf16_pairs_avx512bf16,
};
