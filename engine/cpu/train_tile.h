// SPDX-License-Identifier: Apache-2.0
// ht_train_kernels.tile and .transpose in vectors: a block of chains in registers, lanes along b. How many registers a
// CPU has decides the blocks. Included by train_lanes_*.c only.
#ifndef HT_TRAIN_TILE_H
#define HT_TRAIN_TILE_H
#include "engine/cpu/lanes.h"
#include "engine/cpu/train_kernels.h"

// Unrolled in full before anything else, or the blocks would live in memory.
#define EACH(i, n) _Pragma("GCC unroll 12") for (unsigned i = 0; i < (n); i++)

// Vectors in part cost more, on some CPUs much more, than whole ones: `last` is NULL where the last vector is whole.
LANE_FN lanes load_last(const float *p, const lane_part *last)
{
    return last ? load_some(p, *last) : load(p);
}
LANE_FN void store_last(float *p, const lane_part *last, lanes v)
{
    if (last)
        store_some(p, *last, v);
    else
        store(p, v);
}

// Rows [r, r + MR), columns [j, j + NV vectors), of the last vector the lanes of `last`; i in `span`. MR, NV and
// whether `last` is NULL are constants where this is inlined.
LANE_FN void tile_block(const struct ht_tile *t, uint32_t r, uint32_t j, unsigned MR, unsigned NV,
                        const lane_part *last, struct ht_span span, enum ht_tile_end end)
{
    lanes acc[12][TILE_VECTORS];
    float *c = t->c + r * t->c_row + j;
    EACH (m, MR)
        EACH (v, NV)
            acc[m][v] = end == HT_TILE_CHAIN ? load_last(c + m * t->c_row + v * LANES, v + 1 < NV ? NULL : last)
                                             : all_of(0);
    // a of rows 3i … 3i + 2 from one pointer: fewer of them to keep
    const float *a[4], *b = t->b + span.from * t->b_step + j;
    EACH (m, (MR + 2) / 3)
        a[m] = t->a + (r + 3 * m) * t->a_row + span.from * t->a_step;
    for (uint32_t i = span.from; i < span.to; i++, b += t->b_step) {
        lanes column[TILE_VECTORS];
        EACH (v, NV)
            column[v] = load_last(b + v * LANES, v + 1 < NV ? NULL : last);
        EACH (m, MR) {
            lanes x = all_of(a[m / 3][m % 3 * t->a_row]);
            EACH (v, NV)
                acc[m][v] = fma_of(x, column[v], acc[m][v]);
        }
        EACH (m, (MR + 2) / 3)
            a[m] += t->a_step;
    }
    const lanes scale = all_of(t->scale);
    EACH (m, MR)
        EACH (v, NV) {
            float *y = c + m * t->c_row + v * LANES;
            const lane_part *lane = v + 1 < NV ? NULL : last;
            if (end == HT_TILE_SCALED)
                acc[m][v] = mul(scale, acc[m][v]);
            else if (end == HT_TILE_SCALED_ADD)
                acc[m][v] = fma_of(scale, acc[m][v], load_last(y, lane));
            store_last(y, lane, acc[m][v]);
        }
}

// The same where rows see spans of their own: what all see in one block, the edges row by row.
LANE_FN void tile_seen(const struct ht_tile *t, uint32_t r, uint32_t j, unsigned MR, unsigned NV,
                       const lane_part *last)
{
    struct ht_span all = {0, t->count};
    if (!t->seen) {
        tile_block(t, r, j, MR, NV, last, all, t->end);
        return;
    }
    for (unsigned m = 0; m < MR; m++) {
        struct ht_span s = t->seen[r + m];
        all.from = s.from > all.from ? s.from : all.from;
        all.to = s.to < all.to ? s.to : all.to;
    }
    bool common = all.from < all.to;
    for (unsigned m = 0; m < MR; m++) {
        struct ht_span s = t->seen[r + m];
        if (!common || s.from < all.from || t->end != HT_TILE_CHAIN)
            tile_block(t, r + m, j, 1, NV, last, (struct ht_span){s.from, common ? all.from : s.to}, t->end);
    }
    if (!common)
        return;
    tile_block(t, r, j, MR, NV, last, all, HT_TILE_CHAIN);
    for (unsigned m = 0; m < MR; m++)
        if (t->seen[r + m].to > all.to)
            tile_block(t, r + m, j, 1, NV, last, (struct ht_span){all.to, t->seen[r + m].to}, HT_TILE_CHAIN);
}

// All rows of NV vectors from column j on, in blocks of MOST rows and what remains.
LANE_FN void tile_rows(const struct ht_tile *t, uint32_t j, unsigned NV, unsigned most, const lane_part *last)
{
    uint32_t r = 0;
    for (; t->m - r >= most; r += most)
        tile_seen(t, r, j, most, NV, last);
    if (most > 6 && t->m - r >= 6) {
        tile_seen(t, r, j, 6, NV, last);
        r += 6;
    }
    if (most > 3 && t->m - r >= 3) {
        tile_seen(t, r, j, 3, NV, last);
        r += 3;
    }
    for (; r < t->m; r++)
        tile_seen(t, r, j, 1, NV, last);
}

// The first n of NV vectors, or all.
#define TILE_COLUMNS(NV, MOST)                                                                               \
    static void tile_columns_##NV(const struct ht_tile *t, uint32_t j, uint32_t n)                           \
    {                                                                                                        \
        const lane_part last = first_of(n - (NV - 1) * LANES);                                               \
        if (n >= NV * LANES)                                                                                 \
            tile_rows(t, j, NV, MOST, NULL);                                                                 \
        else                                                                                                 \
            tile_rows(t, j, NV, MOST, &last);                                                                \
    }

#if TILE_VECTORS == 4
TILE_COLUMNS(4, 6)
TILE_COLUMNS(3, 8)
TILE_COLUMNS(2, 12)
TILE_COLUMNS(1, 12)
#else
TILE_COLUMNS(2, 6)
TILE_COLUMNS(1, 12)
#endif

static void tile(const struct ht_tile *t)
{
    uint32_t j = 0;
#if TILE_VECTORS == 4
    if (t->m == 8 || t->m == 16) // three vectors wide, all rows in full blocks
        for (; t->n - j >= 3 * LANES; j += 3 * LANES)
            tile_columns_3(t, j, 3 * LANES);
    for (; t->n - j >= 4 * LANES; j += 4 * LANES)
        tile_columns_4(t, j, 4 * LANES);
    uint32_t left = t->n - j;
    if (left > 3 * LANES)
        tile_columns_4(t, j, left);
    else if (left > 2 * LANES)
        tile_columns_3(t, j, left);
    else if (left > LANES)
        tile_columns_2(t, j, left);
#else
    for (; t->n - j >= 2 * LANES; j += 2 * LANES)
        tile_columns_2(t, j, 2 * LANES);
    uint32_t left = t->n - j;
    if (left > LANES)
        tile_columns_2(t, j, left);
#endif
    else if (left)
        tile_columns_1(t, j, left);
}

static void transpose(const float *x, size_t x_row, uint32_t rows, uint32_t columns, float *y, size_t y_row)
{
    for (uint32_t r = 0; r < rows; r += LANES)
        for (uint32_t c = 0; c < columns; c += LANES) {
            lanes v[LANES];
            uint32_t height = rows - r < LANES ? rows - r : LANES,
                     width = columns - c < LANES ? columns - c : LANES;
            if (height == LANES && width == LANES) {
                for (uint32_t i = 0; i < LANES; i++)
                    v[i] = load(x + (r + i) * x_row + c);
                transpose_lanes(v);
                for (uint32_t i = 0; i < LANES; i++)
                    store(y + (c + i) * y_row + r, v[i]);
                continue;
            }
            for (uint32_t i = 0; i < LANES; i++)
                v[i] = i < height ? load_some(x + (r + i) * x_row + c, first_of(width)) : all_of(0);
            transpose_lanes(v);
            for (uint32_t i = 0; i < LANES; i++)
                if (i < width)
                    store_some(y + (c + i) * y_row + r, first_of(height), v[i]);
        }
}

#endif
