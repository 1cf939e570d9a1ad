// SPDX-License-Identifier: Apache-2.0
// One matmul over one shape: see matmul_case.h. One thread.
#include "tests/check/matmul_case.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/cpu/contract.h"

void matmul_contract(enum ht_type type, const void *blocks, uint32_t n, uint32_t k, const float *x,
                     uint32_t rows, enum ht_precision precision, const float *bias, const float *old,
                     float *y)
{
    uint64_t row_bytes;
    ht_row_bytes(type, k, &row_bytes);
    bool exact = precision == HT_PRECISION_F || ht_type_info(type)->block_values == 1;
    size_t blocks32 = k / 32 + 1;
    struct ht_xrow q = {malloc(k + 1), malloc(blocks32 * 4), malloc(blocks32 * 4), malloc(blocks32 * 8)};
    float *w = malloc(k * sizeof *w);
    for (uint32_t r = 0; r < rows; r++) {
        if (!exact)
            ht_contract_quantise(x + (size_t)r * k, k, &q);
        for (uint32_t i = 0; i < n; i++) {
            const char *row = (const char *)blocks + row_bytes * i;
            float t;
            if (exact) {
                ht_dequant_row(type, row, k, w);
                t = ht_contract_dot_f(w, x + (size_t)r * k, k);
            } else {
                t = ht_contract_dot_q(type, row, k, &q);
            }
            if (bias)
                t += bias[i];
            y[(size_t)r * n + i] = old ? old[(size_t)r * n + i] + t : t;
        }
    }
    free(q.q);
    free(q.d);
    free(q.ds);
    free(q.sum);
    free(w);
}

struct part {
    enum ht_type type;
    uint32_t n;
    unsigned char *blocks;
    float *bias, *old, *want;
    struct ht_weight *w;
    struct check_view y, b;
};

static void part_make(struct check_device *d, const struct matmul_case *c, enum ht_type type, uint32_t n,
                      struct part *p)
{
    uint64_t row_bytes;
    ht_row_bytes(type, c->k, &row_bytes);
    *p = (struct part){.type = type, .n = n};
    p->blocks = malloc(row_bytes * n);
    p->bias = malloc(n * sizeof *p->bias);
    p->old = malloc((size_t)n * c->rows * sizeof *p->old);
    p->want = malloc((size_t)n * c->rows * sizeof *p->want);
    for (uint32_t i = 0; i < n; i++)
        check_fill_blocks(type, p->blocks + row_bytes * i, c->k, c->weights);
    check_fill(p->bias, n, CHECK_NORMAL);
    check_fill(p->old, (size_t)n * c->rows, CHECK_NORMAL);
    p->w = check_weight(d, type, n, c->k, p->blocks);
    p->y = check_view_make(d, c->rows, n, n + c->pad);
    p->b = check_view_make(d, 1, n, n);
    check_view_put(&p->b, 0, p->bias);
    for (uint32_t r = 0; r < c->rows && c->add; r++)
        check_view_put(&p->y, r, p->old + (size_t)r * n);
}

static void part_free(struct check_device *d, struct part *p)
{
    d->ops->weight_destroy(d->device, &p->w);
    check_view_free(&p->y);
    check_view_free(&p->b);
    free(p->blocks);
    free(p->bias);
    free(p->old);
    free(p->want);
}

unsigned matmul_case_run(struct check_device *d, const struct matmul_case *c, enum ht_precision precision)
{
    char what[160];
    struct part part[2];
    unsigned n_parts = c->n2 ? 2 : 1, failures = 0;
    float *x = malloc((size_t)c->rows * c->k * sizeof *x);
    snprintf(what, sizeof what, "matmul %s %s (%u,%u) rows %u x %s w %s%s%s", d->name,
             ht_type_info(c->type)->name, c->n, c->k, c->rows, check_input_names[c->input],
             check_input_names[c->weights], c->bias ? " bias" : "", c->add ? " add" : "");
    check_reseed((uint64_t)c->type << 48 ^ (uint64_t)c->n << 32 ^ (uint64_t)c->k << 16 ^ c->rows ^
                 (uint64_t)c->input << 12);
    for (uint32_t r = 0; r < c->rows; r++)
        check_fill(x + (size_t)r * c->k, c->k, c->input);
    part_make(d, c, c->type, c->n, &part[0]);
    if (c->n2)
        part_make(d, c, c->type2, c->n2, &part[1]);
    struct check_view xv = check_view_make(d, c->rows, c->k, c->k + c->pad);
    for (uint32_t r = 0; r < c->rows; r++)
        check_view_put(&xv, r, x + (size_t)r * c->k);
    struct ht_matmul mm = {
        .x = xv.ref, .x_stride = xv.stride, .k = c->k, .n_parts = n_parts, .rows = HT_ROWS_ALL};
    for (unsigned i = 0; i < n_parts; i++)
        mm.part[i] = (struct ht_matmul_part){.w = part[i].w,
                                             .y = part[i].y.ref,
                                             .y_stride = part[i].y.stride,
                                             .add = c->add,
                                             .bias = c->bias ? part[i].b.ref : (struct ht_ref){NULL, 0}};
    struct check_plan plan = check_plan_begin(d, (struct ht_step_shape){c->rows, 1, 1, (c->rows + 31) / 32, 0});
    CHECK_OK(d->table->matmul(plan.plan, &mm, &check_err));
    check_plan_end(&plan);
    check_plan_run(&plan);
    for (unsigned i = 0; i < n_parts; i++) {
        struct part *p = &part[i];
        matmul_contract(p->type, p->blocks, p->n, c->k, x, c->rows, precision, c->bias ? p->bias : NULL,
                        c->add ? p->old : NULL, p->want);
        for (uint32_t r = 0; r < c->rows && !failures; r++)
            failures += check_bits(what, check_view_row(&p->y, r), p->want + (size_t)r * p->n, p->n);
        failures += check_view_guards(&p->y, what);
    }
    failures += check_view_guards(&xv, what);
    if (!c->add) { // run again: the same bits
        check_plan_run(&plan);
        for (uint32_t r = 0; r < c->rows && !failures; r++)
            failures += check_bits(what, check_view_row(&part[0].y, r), part[0].want + (size_t)r * part[0].n,
                                   part[0].n);
    }
    check_plan_free(&plan);
    check_view_free(&xv);
    for (unsigned i = 0; i < n_parts; i++)
        part_free(d, &part[i]);
    free(x);
    return failures;
}
