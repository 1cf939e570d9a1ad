// SPDX-License-Identifier: Apache-2.0
// Gate and up, GLU, down: recorded one after another the plan may run them as one, with many rows; the bits are those
// of each op in a plan of its own, and whoever reads gate or up finds what the contract of the ops says.
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "engine/cpu/cpu.h"
#include "tests/check/check.h"

enum { N_EMBD = 64, N_FF = 512, LAYERS = 2 };

struct mlp {
    struct check_device d;
    struct ht_weight *w[LAYERS][3]; // gate, up, down
    struct check_view x[LAYERS + 1], gate, up, seen;
    uint32_t rows;
    enum ht_act act;
};

static struct ht_weight *random_weight(struct check_device *d, enum ht_type type, uint32_t n, uint32_t k)
{
    uint64_t row_bytes = 0;
    ht_row_bytes(type, k, &row_bytes);
    unsigned char *blocks = malloc(row_bytes * n);
    for (uint32_t i = 0; i < n; i++)
        check_fill_blocks(type, blocks + row_bytes * i, k, CHECK_NORMAL);
    struct ht_weight *w = check_weight(d, type, n, k, blocks);
    free(blocks);
    return w;
}

static void mlp_make(struct mlp *m, enum ht_type in, enum ht_type out)
{
    check_reseed((uint64_t)in << 32 ^ (uint64_t)out << 16 ^ m->rows);
    uint32_t k = ht_type_info(in)->block_values > N_EMBD ? 256 : N_EMBD;
    for (unsigned l = 0; l < LAYERS; l++) {
        m->w[l][0] = random_weight(&m->d, in, N_FF, k);
        m->w[l][1] = random_weight(&m->d, in, N_FF, k);
        m->w[l][2] = random_weight(&m->d, out, k, N_FF);
    }
    for (unsigned l = 0; l <= LAYERS; l++)
        m->x[l] = check_view_make(&m->d, m->rows, k, k);
    m->gate = check_view_make(&m->d, m->rows, N_FF, N_FF + 16);
    m->up = check_view_make(&m->d, m->rows, N_FF, N_FF + 16);
    m->seen = check_view_make(&m->d, 1, N_FF, N_FF);
    float row[256];
    for (uint32_t r = 0; r < m->rows; r++) {
        check_fill(row, k, CHECK_NORMAL);
        check_view_put(&m->x[0], r, row);
    }
}

static unsigned mlp_free(struct mlp *m)
{
    struct check_view *views[] = {&m->x[0], &m->x[1], &m->x[2], &m->gate, &m->up, &m->seen};
    unsigned failures = 0;
    for (unsigned i = 0; i < sizeof views / sizeof views[0]; i++) {
        failures += check_view_guards(views[i], m->d.name);
        check_view_free(views[i]);
    }
    for (unsigned i = 0; i < 3 * LAYERS; i++)
        m->d.ops->weight_destroy(m->d.device, &m->w[i / 3][i % 3]);
    return failures;
}

enum op { GATE_UP, GLU, DOWN, READ, N_OPS };
static void record(struct mlp *m, struct ht_plan *plan, unsigned layer, enum op op)
{
    struct check_view *x = &m->x[layer], *y = &m->x[layer + 1];
    struct ht_matmul in = {.x = x->ref, .x_stride = x->stride, .k = x->width, .n_parts = 2}, out = {0};
    in.part[0] = (struct ht_matmul_part){.w = m->w[layer][0], .y = m->gate.ref, .y_stride = m->gate.stride};
    in.part[1] = (struct ht_matmul_part){.w = m->w[layer][1], .y = m->up.ref, .y_stride = m->up.stride};
    out = (struct ht_matmul){.x = m->gate.ref, .x_stride = m->gate.stride, .k = N_FF, .n_parts = 1};
    out.part[0] = (struct ht_matmul_part){.w = m->w[layer][2], .y = y->ref, .y_stride = y->stride};
    struct ht_glu glu = {m->gate.ref,    m->up.ref,      m->gate.ref, m->gate.stride,
                         m->up.stride, m->gate.stride, N_FF,        m->act};
    struct ht_gather read = {m->gate.ref, m->seen.ref, m->gate.stride, m->seen.stride, N_FF};
    if (op == READ)
        CHECK_OK(m->d.table->gather(plan, &read, &check_err));
    else if (op == GLU)
        CHECK_OK(m->d.table->glu(plan, &glu, &check_err));
    else
        CHECK_OK(m->d.table->matmul(plan, op == DOWN ? &out : &in, &check_err));
}

// Whether the first layer's GLU may be taken.
static bool run(struct mlp *m, bool apart, bool reading)
{
    struct ht_step_shape shape = {m->rows, 1, 1, (m->rows + 31) / 32, 0};
    struct check_plan plan = check_plan_begin(&m->d, shape);
    bool taken = false;
    for (unsigned i = 0; i < LAYERS * N_OPS; i++) {
        if (i % N_OPS == READ && !(reading && i < N_OPS))
            continue;
        record(m, plan.plan, i / N_OPS, (enum op)(i % N_OPS));
        if (!apart && i + 1 < LAYERS * N_OPS - 1)
            continue;
        check_plan_end(&plan);
        check_plan_run(&plan);
        taken = plan.plan->calls[0].glu_follows;
        check_plan_free(&plan);
        if (i + 1 < LAYERS * N_OPS - 1)
            plan = check_plan_begin(&m->d, shape);
    }
    return taken;
}

static void keep(float *to, const struct mlp *m)
{
    const struct check_view *views[] = {&m->x[1], &m->x[2], &m->gate, &m->up};
    for (unsigned i = 0; i < 4; i++)
        for (uint32_t r = 0; r < m->rows; r++)
            for (uint32_t c = 0; c < views[i]->width; c++)
                *to++ = check_view_row(views[i], r)[c];
    for (uint32_t c = 0; c < N_FF; c++)
        *to++ = check_view_row(&m->seen, 0)[c];
}

static unsigned one(const char *isa, unsigned threads, enum ht_type in, enum ht_type out, uint32_t rows)
{
    struct mlp m = {.rows = rows, .act = rows % 2 ? HT_ACT_SILU : HT_ACT_GELU_TANH};
    if (!check_open(&m.d, isa, threads, HT_PRECISION_Q))
        return 0;
    unsigned failures = 0;
    mlp_make(&m, in, out);
    size_t n = (size_t)rows * (2 * m.x[0].width + 2 * N_FF) + N_FF;
    float *want = malloc(n * sizeof *want), *got = malloc(n * sizeof *got);
    for (unsigned reading = 0; reading < 2; reading++) {
        run(&m, true, reading);
        keep(want, &m);
        bool taken = run(&m, false, reading);
        keep(got, &m);
        failures += check_bits(m.d.name, got, want, n) + (taken == (reading || rows <= HT_FEW));
    }
    free(want);
    free(got);
    failures += mlp_free(&m);
    check_close(&m.d);
    return failures;
}

static void together_as_apart(void **state)
{
    (void)state;
    static const uint32_t rows[] = {1, 3, 8, 13, HT_MAX_FEW, HT_MAX_FEW + 1, HT_TALL_FROM, HT_TALL_FROM + 15};
    static const enum ht_type types[][2] = {{HT_TYPE_Q4_1, HT_TYPE_Q4_1}, {HT_TYPE_Q4_K, HT_TYPE_Q6_K},
                                            {HT_TYPE_Q8_0, HT_TYPE_Q5_0}, {HT_TYPE_Q4_0, HT_TYPE_F16}};
    unsigned failures = 0;
    for (int isa = 0; check_isas[isa]; isa++)
        for (unsigned i = 0; i < 4 * 8; i++)
            failures += one(check_isas[isa], 1 + (i + i / 8) % 3, types[i / 8][0], types[i / 8][1], rows[i % 8]);
    assert_int_equal(failures, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(together_as_apart)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
