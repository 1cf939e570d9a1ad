// SPDX-License-Identifier: Apache-2.0
// The contract in plain C gives the same bits on every machine: hashes of what it computes from fixed numbers, for
// every weight format and every op, against tests/golden/ops-bits.txt. The other tests of this folder hold each
// instruction set to that contract. `bits --write` prints the file anew.
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/base/half.h"
#include "engine/base/hash.h"
#include "engine/cpu/contract.h"
#include "engine/cpu/math.h"

#define GOLDEN "tests/golden/ops-bits.txt"
enum { K = 512, ROWS = 32, LINE_BYTES = 96 };

static uint32_t state_now;
static uint32_t number(void)
{
    state_now = state_now * 1664525u + 1013904223u;
    return state_now >> 8;
}
static float unit(void) // [-1, 1)
{
    return (float)((int32_t)number() - (1 << 23)) * 0x1p-23f;
}
static void fill(float *x, size_t n, float size)
{
    for (size_t i = 0; i < n; i++)
        x[i] = unit() * size;
}

// A row of K values as GGUF bytes: any codes, finite scales.
static void fill_row(enum ht_type type, unsigned char *row)
{
    const struct ht_layout *l = ht_layout_of(type);
    for (unsigned i = 0; i < K; i += l->block_values, row += l->block_bytes) {
        float v = unit();
        uint16_t half = type == HT_TYPE_BF16 ? ht_f32_bf16(v) : ht_f32_f16(v);
        if (l->kind == HT_KIND_FLOAT) {
            memcpy(row, type == HT_TYPE_F32 ? (void *)&v : (void *)&half, l->block_bytes);
            continue;
        }
        for (unsigned b = 0; b < l->block_bytes; b++)
            row[b] = (unsigned char)number();
        for (int f = 0; f < 3; f++)
            if (l->side[f].size == 2) {
                half = ht_f32_f16(unit() * 0.05f);
                memcpy(row + l->side[f].from, &half, 2);
            }
    }
}

static void weight(unsigned type, struct ht_hash *hash)
{
    static unsigned char row[4 * K];
    static int8_t q[K];
    float x[K], w[K], d[K / 32], ds[K / 32], y[2];
    int32_t sum[K / 16];
    struct ht_xrow xrow = {q, d, ds, sum};
    for (unsigned r = 0; r < ROWS; r++) {
        fill(x, K, 3);
        fill_row((enum ht_type)type, row);
        ht_dequant_row((enum ht_type)type, row, K, w);
        y[0] = y[1] = ht_contract_dot_f(w, x, K);
        ht_contract_quantise(x, K, &xrow);
        if (ht_layout_of((enum ht_type)type)->kind != HT_KIND_FLOAT)
            y[1] = ht_contract_dot_q((enum ht_type)type, row, K, &xrow);
        ht_hash_add(hash, y, sizeof y);
        ht_hash_add(hash, q, sizeof q);
        ht_hash_add(hash, ds, sizeof ds);
    }
}

enum op { NORM, ROPE_NORM, ROPE_NEOX, SILU, GELU, SOFTCAP, SOFTMAX, HALVES, N_OPS };
static const char *const op_names[] = {"rmsnorm", "rope-norm", "rope-neox", "silu",
                                       "gelu",    "softcap",   "softmax",   "halves"};

static void op(unsigned which, struct ht_hash *hash)
{
    float x[K], w[K], y[K], cosine[K / 2], sine[K / 2];
    for (unsigned r = 0; r < ROWS; r++) {
        fill(x, K, r % 4 ? 9.0f : 1e3f);
        fill(w, K, 2);
        memcpy(y, x, sizeof y);
        for (unsigned i = 0; i < K / 2; i++)
            ht_sincos((float)(r * 997) * w[i] * w[i], &sine[i], &cosine[i]);
        switch (which) {
        case NORM: ht_contract_rmsnorm(x, w, K - r, 1e-6f, r % 2, y); break;
        case ROPE_NORM: ht_contract_rope(y, cosine, sine, K, HT_ROPE_NORM); break;
        case ROPE_NEOX: ht_contract_rope(y, cosine, sine, K, HT_ROPE_NEOX); break;
        case SILU: ht_contract_glu(HT_ACT_SILU, x, w, y, K); break;
        case GELU: ht_contract_glu(HT_ACT_GELU_TANH, x, w, y, K); break;
        case SOFTCAP: ht_contract_softcap(y, K, 30.0f); break;
        case SOFTMAX:
            y[0] = ht_contract_softmax(y, 1, K - r, 0.125f, r % 2 ? 50.0f : 0, r % 3 ? 0 : 0.25f, K);
            break;
        default:
            for (unsigned i = 0; i < K; i++)
                y[i] = ht_f16_f32(ht_f32_f16(x[i] * 0x1p-14f)) + ht_bf16_f32(ht_f32_bf16(x[i]));
        }
        ht_hash_add(hash, y, sizeof y);
    }
}

// Line i of the golden file; false beyond the last.
static bool line_of(unsigned i, char line[LINE_BYTES])
{
    struct ht_hash hash;
    unsigned char bytes[HT_HASH_BYTES];
    int at;
    ht_hash_init(&hash);
    state_now = i;
    if (i < N_OPS) {
        at = snprintf(line, LINE_BYTES, "op %s ", op_names[i]);
        op(i, &hash);
    } else {
        unsigned type = i - N_OPS;
        if (type >= HT_N_TYPES)
            return false;
        line[0] = 0;
        if (!ht_layout_of((enum ht_type)type))
            return true; // no such format: an empty line, which is not written
        at = snprintf(line, LINE_BYTES, "weight %s ", ht_type_info((enum ht_type)type)->name);
        weight(type, &hash);
    }
    ht_hash_end(&hash, bytes);
    for (unsigned b = 0; b < HT_HASH_BYTES; b++)
        at += snprintf(line + at, LINE_BYTES - (size_t)at, "%02x", bytes[b]);
    return true;
}

static void contract_is_the_same_everywhere(void **state)
{
    (void)state;
    char got[LINE_BYTES], want[LINE_BYTES];
    unsigned n = 0;
    FILE *f = fopen(GOLDEN, "r");
    assert_non_null(f);
    for (unsigned i = 0; line_of(i, got); i++) {
        if (!got[0])
            continue;
        do
            assert_non_null(fgets(want, sizeof want, f));
        while (want[0] == '#');
        want[strcspn(want, "\n")] = 0;
        assert_string_equal(got, want);
        n++;
    }
    fclose(f);
    assert_int_equal(n, N_OPS + 14);
}

int main(int argc, char **argv)
{
    if (argc == 2 && !strcmp(argv[1], "--write")) {
        char line[LINE_BYTES];
        printf("# Hashes of what the contract in plain C computes (tests/ops/bits.c --write).\n");
        for (unsigned i = 0; line_of(i, line); i++)
            if (line[0])
                printf("%s\n", line);
        return 0;
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(contract_is_the_same_everywhere)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
