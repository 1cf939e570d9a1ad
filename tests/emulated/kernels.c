// SPDX-License-Identifier: Apache-2.0
// Calls one kernel some times, for tests/emulated/counts.py, which counts the instructions it takes:
//   kernels ISA matvec|panel|tile|scores|values|dequant TYPE COLUMNS TIMES
//   kernels ref|neon chains|softmax|pairs|norm|glu|loss|adamw|adamw8 f32 COLUMNS TIMES
// TYPE: a weight format, or f32, f16, q8 of the KV cache. COLUMNS: rows of x, or queries. The second line is
// training's, `chains` a tile of its products. Shapes are below.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/cpu/contract.h"
#include "engine/cpu/kv.h"
#include "engine/cpu/train_kernels.h"
#include "engine/cpu/train_row_kernels.h"

enum { K = 1024, DIM = 64, MOST = 12 };

static _Alignas(64) unsigned char tiles[16 * K * 4],
    panel_bytes[K / 32 * (1024 + 6 * 128)], page[2 * 32 * DIM * 4 + 4096];
static struct ht_xtile xtiles[K / 32];
static int8_t q[MOST][K];
static float d[MOST][K / 32], ds[MOST][K / 32], out[MOST * 64], query[DIM * MOST], e[MOST * 32],
    sums[MOST][DIM];
static int32_t sum[MOST][K / 16];
static float w[K * 16], rows[MOST][K], more[2][K];
static int8_t m8[K];
static uint8_t v8[K];

static enum ht_type type_of(const char *name)
{
    for (int t = 0; t < HT_N_TYPES; t++)
        if (ht_layout_of((enum ht_type)t) && !strcmp(ht_type_info((enum ht_type)t)->name, name))
            return (enum ht_type)t;
    return HT_TYPE_F32;
}

struct job {
    const struct ht_kernels *kernels;
    const struct ht_train_kernels *train;
    const struct ht_row_kernels *train_rows;
    enum ht_type type;
    struct ht_kv_geometry g;
    struct ht_xrow x[MOST];
    float *acc[MOST];
    unsigned columns;
};
static void matvec(struct job *j)
{
    j->kernels->matvec[j->type](tiles, K, j->x, j->columns, out);
}
static void panel(struct job *j)
{
    j->kernels->panel[j->type](tiles, K, 0, panel_bytes);
}
static void tile(struct job *j)
{
    j->kernels->tile[j->type](panel_bytes, xtiles, K, out);
}
static void scores(struct job *j)
{
    j->kernels->scores(&j->g, page, query, j->columns, e, 32);
}
static void values(struct job *j)
{
    j->kernels->values(&j->g, page + j->g.v_at, e, 32, j->columns, 0, 32, j->acc);
}
static void dequant(struct job *j)
{
    j->kernels->dequant[j->type](tiles, K, w);
}
static void chains(struct job *j)
{
    const struct ht_tile tile = {.m = j->columns,
                                 .n = 16,
                                 .count = K,
                                 .a = rows[0],
                                 .a_row = K,
                                 .a_step = 1,
                                 .b = w,
                                 .b_step = 16,
                                 .c = out,
                                 .c_row = 16};
    j->train->tile(&tile);
}
static void softmax(struct job *j)
{
    const struct ht_score score = {.scale = 1};
    j->train->softmax(rows[0], 0, K, &score, out);
}
static void pairs(struct job *j)
{
    const struct ht_score score = {.scale = 1};
    j->train->pairs(rows[0], rows[1], K, &score, 0, 0, 0);
}
static void norm(struct job *j)
{
    j->train_rows->rmsnorm_back(rows[0], rows[1], rows[2], K, 1, true, rows[3]);
}
static void glu(struct job *j)
{
    j->train_rows->glu_back(HT_ACT_SILU, rows[0], rows[1], rows[2], K, more[0], more[1]);
}
static void loss(struct job *j)
{
    j->train_rows->cross_entropy(rows[0], K, 0, 1, 1);
}
static const struct ht_adamw_step step = {0.5f, 0.5f, 1, 1, 1, 1};
static void adamw(struct job *j)
{
    j->train_rows->adamw(&step, rows[0], K, rows[1], more[0], more[1]);
}
static void adamw8(struct job *j)
{
    float scales[2] = {1, 1};
    const struct ht_draw draw = {1, 2, 3};
    for (uint32_t i = 0; i < K; i += HT_MOMENT_BLOCK)
        j->train_rows->adamw8(&step, &draw, i, rows[0] + i, HT_MOMENT_BLOCK, rows[1] + i, m8 + i, v8 + i,
                              scales);
}
static const struct {
    const char *name;
    void (*call)(struct job *j);
} ops[] = {{"matvec", matvec}, {"panel", panel},     {"tile", tile},     {"scores", scores},
           {"values", values}, {"dequant", dequant}, {"chains", chains}, {"softmax", softmax},
           {"pairs", pairs},   {"norm", norm},       {"glu", glu},       {"loss", loss},
           {"adamw", adamw},   {"adamw8", adamw8}};

static void times(void (*call)(struct job *j), struct job *j, unsigned long n)
{
    for (; n; n--)
        call(j);
}

int main(int argc, char **argv)
{
    struct ht_kernels kernels;
    if (argc != 6)
        return 64;
    ht_kernels_ref(&kernels);
    enum ht_isa isa = HT_ISA_REF;
    while (isa < HT_N_ISAS && strcmp(argv[1], ht_isa_names[isa]))
        isa++;
    if (isa == HT_N_ISAS)
        return 64;
    if (isa >= HT_ISA_NEON)
        ht_kernels_neon(&kernels);
    if (isa >= HT_ISA_DOTPROD)
        ht_kernels_dotprod(&kernels);
    if (isa >= HT_ISA_I8MM)
        ht_kernels_i8mm(&kernels);
    struct job j = {.kernels = &kernels,
                    .train = ht_train_kernels(isa),
                    .train_rows = ht_train_rows(isa),
                    .type = type_of(argv[3]),
                    .columns = (unsigned)strtoul(argv[4], NULL, 10)};
    for (unsigned c = 0; c < MOST; c++) {
        j.x[c] = (struct ht_xrow){q[c], d[c], ds[c], sum[c]};
        j.acc[c] = sums[c];
    }
    struct ht_kv_params params = {.layers = 1, .kv_heads = 1, .k_dim = DIM, .v_dim = DIM, .n_pages = 1};
    params.type = !strcmp(argv[3], "f16") ? HT_KV_F16 : !strcmp(argv[3], "q8") ? HT_KV_Q8 : HT_KV_F32;
    ht_kv_geometry(&params, &j.g);
    for (unsigned i = 0; i < sizeof ops / sizeof ops[0]; i++)
        if (!strcmp(argv[2], ops[i].name))
            times(ops[i].call, &j, strtoul(argv[5], NULL, 10));
    return 0;
}
