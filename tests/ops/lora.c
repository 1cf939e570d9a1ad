// SPDX-License-Identifier: Apache-2.0
// LoRA beside matmul: every path and thread count against the contract, the contract against the oracle; rows of
// several adapters and of none in one step; what a bank refuses.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/base/mem.h"
#include "engine/cpu/contract.h"
#include "engine/cpu/ref.h"
#include "tests/check/matmul_case.h"

enum { PARTS = 3, SLOTS = 4, MAX_RANK = 40 };

struct shape {
    uint32_t k, n[PARTS], n_parts, rows;
    enum ht_type type;
    enum ht_rows which;
    bool add;
};

struct piece { // of a slot, for a part; two per slot and part at most
    uint32_t slot, part, rank;
    float scale, *a, *b;
};

struct lora_case {
    struct check_device *d;
    struct shape s;
    struct ht_weight *w[PARTS];
    unsigned char *blocks[PARTS];
    struct check_view x, y[PARTS];
    float *old[PARTS], *xs;
    struct ht_bank *bank;
    struct piece pieces[16];
    unsigned n_pieces;
    struct check_plan plan;
};

static float *filled(size_t n, enum check_input input)
{
    float *v = malloc(n * sizeof *v);
    check_fill(v, n, input);
    return v;
}

// Slot 0: all parts. Slot 1: the middle part, twice: a sum. Slot 2: the first part, rank 1. Slot 3: empty.
static void make_pieces(struct lora_case *c, enum check_input input)
{
    static const struct piece list[] = {
        {.slot = 0, .part = 0, .rank = 8, .scale = 0.5f},  {.slot = 0, .part = 1, .rank = 5, .scale = 2},
        {.slot = 0, .part = 2, .rank = 33, .scale = 1},    {.slot = 1, .part = 1, .rank = 4, .scale = -1.5f},
        {.slot = 1, .part = 1, .rank = 16, .scale = 0.3f}, {.slot = 2, .part = 0, .rank = 1, .scale = 1},
    };
    for (unsigned i = 0; i < sizeof list / sizeof *list; i++) {
        if (list[i].part >= c->s.n_parts)
            continue;
        struct piece *p = &c->pieces[c->n_pieces++];
        *p = list[i];
        p->a = filled((size_t)p->rank * c->s.k, input);
        p->b = filled((size_t)p->rank * c->s.n[p->part], CHECK_NORMAL);
    }
}

static void set_slots(struct lora_case *c)
{
    for (uint32_t slot = 0; slot < SLOTS - 1; slot++) {
        struct ht_bank_piece pieces[16];
        size_t n = 0;
        for (unsigned i = 0; i < c->n_pieces; i++) {
            const struct piece *p = &c->pieces[i];
            if (p->slot == slot)
                pieces[n++] = (struct ht_bank_piece){p->part, p->rank, p->scale, p->a, p->b};
        }
        CHECK_OK(c->d->ops->bank_set(c->d->device, c->bank, slot, pieces, n, &check_err));
    }
}

static void case_begin(struct lora_case *c, struct check_device *d, const struct shape *s, enum check_input input)
{
    struct ht_weight_params linears[PARTS];
    *c = (struct lora_case){.d = d, .s = *s};
    check_reseed((uint64_t)s->k << 32 ^ s->n[0] << 16 ^ s->rows << 4 ^ (unsigned)input);
    c->x = check_view_make(d, s->rows, s->k, s->k + 3);
    c->xs = filled((size_t)s->rows * s->k, input);
    c->plan = check_plan_begin(d, (struct ht_step_shape){s->rows, s->rows, 1, (s->rows + 31) / 32, 0});
    struct ht_matmul mm = {.x = c->x.ref, .x_stride = c->x.stride, .k = s->k, .n_parts = s->n_parts, .rows = s->which};
    for (uint32_t i = 0; i < s->n_parts; i++) {
        uint64_t row_bytes;
        ht_row_bytes(s->type, s->k, &row_bytes);
        c->blocks[i] = malloc(row_bytes * s->n[i]);
        for (uint32_t r = 0; r < s->n[i]; r++)
            check_fill_blocks(s->type, c->blocks[i] + row_bytes * r, s->k, CHECK_NORMAL);
        c->w[i] = check_weight(d, s->type, s->n[i], s->k, c->blocks[i]);
        c->y[i] = check_view_make(d, s->rows, s->n[i], s->n[i] + 5);
        c->old[i] = filled((size_t)s->rows * s->n[i], CHECK_NORMAL);
        linears[i] = (struct ht_weight_params){.n = s->n[i], .k = s->k};
        mm.part[i] = (struct ht_matmul_part){
            .w = c->w[i], .y = c->y[i].ref, .y_stride = c->y[i].stride, .linear = i, .add = s->add};
    }
    const struct ht_bank_params params = {.linears = linears, .n_linears = s->n_parts, .slots = SLOTS, .rows = s->rows};
    CHECK_OK(d->ops->bank_create(d->device, &params, &c->bank, &check_err));
    make_pieces(c, input);
    set_slots(c);
    mm.bank = c->bank;
    CHECK_OK(d->table->matmul(c->plan.plan, &mm, &check_err));
    check_plan_end(&c->plan);
}

static void case_run(struct lora_case *c)
{
    for (uint32_t r = 0; r < c->s.rows; r++) {
        check_view_put(&c->x, r, c->xs + (size_t)r * c->s.k);
        for (uint32_t i = 0; i < c->s.n_parts; i++)
            check_view_put(&c->y[i], r, c->old[i] + (size_t)r * c->s.n[i]);
    }
    check_plan_run(&c->plan);
}

static void case_end(struct lora_case *c)
{
    check_plan_free(&c->plan);
    c->d->ops->bank_destroy(c->d->device, &c->bank);
    check_view_free(&c->x);
    for (uint32_t i = 0; i < c->s.n_parts; i++) {
        c->d->ops->weight_destroy(c->d->device, &c->w[i]);
        check_view_free(&c->y[i]);
        free(c->blocks[i]);
        free(c->old[i]);
    }
    for (unsigned i = 0; i < c->n_pieces; i++) {
        free(c->pieces[i].a);
        free(c->pieces[i].b);
    }
    free(c->xs);
}

// What the contract adds to y (n) for slot and part: pieces stacked by hand.
static void add_lora(const struct lora_case *c, int32_t slot, uint32_t part, const float *x, float *y)
{
    float u[MAX_RANK];
    static float b[MAX_RANK * HT_GROUP];
    for (uint32_t first = 0; first < c->s.n[part]; first += HT_GROUP) {
        uint32_t n = c->s.n[part] - first < HT_GROUP ? c->s.n[part] - first : HT_GROUP, rank = 0;
        for (unsigned i = 0; i < c->n_pieces; i++) {
            const struct piece *p = &c->pieces[i];
            if ((int32_t)p->slot != slot || p->part != part)
                continue;
            for (uint32_t j = 0; j < p->rank; j++, rank++) {
                u[rank] = ht_contract_lora_down(p->a + (size_t)j * c->s.k, x, c->s.k);
                for (uint32_t o = 0; o < n; o++)
                    b[rank * HT_GROUP + o] = p->scale * p->b[(size_t)(first + o) * p->rank + j];
            }
        }
        if (rank)
            ht_contract_lora_up(b, rank, u, n, y + first);
    }
}

static unsigned case_check(struct lora_case *c, enum ht_precision precision, const char *what)
{
    unsigned failures = 0;
    const struct ht_step *step = &c->plan.step;
    uint32_t rows = c->s.which == HT_ROWS_OUT ? step->counts[1] : step->counts[0];
    for (uint32_t i = 0; i < c->s.n_parts; i++) {
        uint32_t n = c->s.n[i];
        float *want = malloc((size_t)c->s.rows * n * sizeof *want);
        matmul_contract(c->s.type, c->blocks[i], n, c->s.k, c->xs, rows, precision, NULL, c->s.add ? c->old[i] : NULL,
                        want);
        for (uint32_t r = 0; r < rows && !failures; r++) {
            int32_t row = c->s.which == HT_ROWS_OUT ? step->out_row[r] : (int32_t)r;
            add_lora(c, step->adapter[row], i, c->xs + (size_t)r * c->s.k, want + (size_t)r * n);
            failures += check_bits(what, check_view_row(&c->y[i], r), want + (size_t)r * n, n);
        }
        failures += check_view_guards(&c->y[i], what);
        free(want);
    }
    return failures + check_view_guards(&c->x, what);
}

static const struct shape shapes[] = {
    {.k = 64, .n = {48, 16, 33}, .n_parts = 3, .type = HT_TYPE_Q4_1},
    {.k = 96, .n = {20, 31, 0}, .n_parts = 2, .type = HT_TYPE_Q8_0, .add = true},
    {.k = 256, .n = {97, 0, 0}, .n_parts = 1, .type = HT_TYPE_Q6_K, .which = HT_ROWS_OUT},
    {.k = 37, .n = {17, 5, 16}, .n_parts = 3, .type = HT_TYPE_F16},
    {.k = 7, .n = {1, 2, 3}, .n_parts = 3, .type = HT_TYPE_F32, .add = true},
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

// How adapters lie in a step: one for all, all kinds side by side in runs, alternating, none.
static void assign(struct lora_case *c, unsigned way)
{
    struct ht_step *step = &c->plan.step;
    for (uint32_t r = 0; r < c->s.rows; r++)
        step->adapter[r] = way == 0 ? 0 : way == 1 ? (int32_t)(r / 3 % 5) - 1 : way == 2 ? (int32_t)(r % 4) - 1 : -1;
    for (uint32_t o = 0; o < c->s.rows; o++) // outputs are not rows
        step->out_row[o] = (int32_t)(c->s.rows - 1 - o);
    step->counts[1] = (c->s.rows + 1) / 2;
}

static unsigned paths(struct check_device *d, enum ht_precision precision)
{
    static const uint32_t row_list[] = {1, 2, 3, 5, 8, 13, 16, 31, 70};
    unsigned failures = 0;
    for (unsigned i = 0; i < N_SHAPES; i++)
        for (unsigned r = 0; r < sizeof row_list / sizeof *row_list; r++) {
            struct shape s = shapes[i];
            struct lora_case c;
            s.rows = row_list[r];
            case_begin(&c, d, &s, (enum check_input)((i + r) % CHECK_N_INPUTS));
            for (unsigned way = 0; way < 4; way++) {
                char what[96];
                snprintf(what, sizeof what, "lora %s shape %u rows %u way %u", d->name, i, s.rows, way);
                assign(&c, way);
                case_run(&c);
                failures += case_check(&c, precision, what);
            }
            case_end(&c);
        }
    return failures;
}

static void paths_equal_contract(void **state)
{
    (void)state;
    unsigned failures = 0;
    for (int isa = 0; check_isas[isa]; isa++)
        for (unsigned threads = 1; threads <= 3; threads++)
            for (int precision = HT_PRECISION_Q; precision <= HT_PRECISION_F; precision++) {
                struct check_device d;
                if ((threads > 1 && precision == HT_PRECISION_F) ||
                    !check_open(&d, check_isas[isa], threads, (enum ht_precision)precision))
                    continue;
                failures += paths(&d, (enum ht_precision)precision);
                check_close(&d);
            }
    assert_int_equal(failures, 0);
}

// The adapter of SmolLM2-135M's linears on the best path, many rows.
static void model_shapes(void **state)
{
    (void)state;
    struct check_device d;
    struct lora_case c;
    unsigned failures = 0;
    static const struct shape list[] = {
        {.k = 576, .n = {576, 192, 192}, .n_parts = 3, .rows = 64, .type = HT_TYPE_Q4_1},
        {.k = 1536, .n = {576, 0, 0}, .n_parts = 1, .rows = 9, .type = HT_TYPE_Q4_1, .add = true},
    };
    assert_true(check_open(&d, NULL, 2, HT_PRECISION_Q));
    for (unsigned i = 0; i < 2; i++) {
        case_begin(&c, &d, &list[i], CHECK_NORMAL);
        assign(&c, 1);
        case_run(&c);
        failures += case_check(&c, HT_PRECISION_Q, "lora model shape");
        case_end(&c);
    }
    check_close(&d);
    assert_int_equal(failures, 0);
}

// u: ceil(k / 16) fma and 4 additions on the longest chain; B: one product; t: rank fma; y: one addition of its own.
static void contract_within_bound(void **state)
{
    (void)state;
    enum { K = 333, N = 16 };
    unsigned failures = 0;
    for (unsigned input = 0; input < CHECK_N_FINITE; input++)
        for (uint32_t rank = 1; rank <= 24; rank += 23) {
            float u[24], b[24 * N], y[N] = {0};
            if (input == CHECK_DENORMAL || input == CHECK_LIMITS)
                continue; // below and above the normal range errors are not relative
            check_reseed(input * 100 + rank);
            float *a = filled((size_t)rank * K, CHECK_NORMAL), *bs = filled((size_t)rank * N, CHECK_NORMAL),
                  *x = filled(K, (enum check_input)input);
            for (uint32_t j = 0; j < rank; j++) {
                u[j] = ht_contract_lora_down(a + (size_t)j * K, x, K);
                for (uint32_t i = 0; i < N; i++)
                    b[j * HT_GROUP + i] = 0.7f * bs[(size_t)i * rank + j];
            }
            ht_contract_lora_up(b, rank, u, N, y);
            for (uint32_t i = 0; i < N; i++) {
                struct ht_ref_sum want = ht_ref_lora(a, bs + (size_t)i * rank, rank, (double)0.7f, x, K);
                double bound = check_gamma((K + 15) / 16 + 4 + 1 + rank + 1) * want.magnitude + 0x1p-140;
                failures += check_bounds("lora", &y[i], &want.value, &bound, 1);
            }
            free(a);
            free(bs);
            free(x);
        }
    assert_int_equal(failures, 0);
}

// A slot is replaced, emptied and filled again between submits of one plan; a failure leaves it as it was.
static void slots_come_and_go(void **state)
{
    (void)state;
    struct check_device d;
    struct lora_case c;
    struct shape s = shapes[0];
    s.rows = 6;
    assert_true(check_open(&d, NULL, 2, HT_PRECISION_Q));
    case_begin(&c, &d, &s, CHECK_NORMAL);
    assign(&c, 2);
    uint64_t full = d.ops->bank_bytes(c.bank);
    d.ops->bank_clear(d.device, c.bank, 0);
    uint64_t less = d.ops->bank_bytes(c.bank);
    assert_true(less < full && less > 0);
    case_run(&c);
    for (uint32_t r = 0; r < s.rows; r++)
        c.plan.step.adapter[r] = c.plan.step.adapter[r] == 0 ? -1 : c.plan.step.adapter[r];
    assert_int_equal(case_check(&c, HT_PRECISION_Q, "an empty slot"), 0);
    set_slots(&c);
    assert_int_equal(d.ops->bank_bytes(c.bank), full);
    assign(&c, 2);
    case_run(&c);
    assert_int_equal(case_check(&c, HT_PRECISION_Q, "filled again"), 0);

    float huge[3] = {1e38f, 1e38f, 1e38f};
    const struct ht_bank_piece wrong[] = {{.linear = 3, .rank = 1, .scale = 1, .a = c.xs, .b = c.xs},
                                          {.linear = 0, .rank = 0, .scale = 1, .a = c.xs, .b = c.xs},
                                          {.linear = 0, .rank = 5000, .scale = 1, .a = c.xs, .b = c.xs},
                                          {.linear = 0, .rank = 1, .scale = NAN, .a = c.xs, .b = c.xs},
                                          {.linear = 2, .rank = 1, .scale = 1e30f, .a = c.xs, .b = c.xs}};
    memcpy(c.xs, huge, sizeof huge); // too large once scaled
    for (unsigned i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_int_equal(d.ops->bank_set(d.device, c.bank, 0, &wrong[i], 1, &check_err), HEARTH_INVALID);
    assert_int_equal(d.ops->bank_set(d.device, c.bank, SLOTS, wrong, 0, &check_err), HEARTH_INVALID);
    case_run(&c);
    assert_int_equal(case_check(&c, HT_PRECISION_Q, "after refusals"), 0);
    c.plan.step.adapter[0] = SLOTS;
    assert_int_equal(d.ops->submit(c.plan.plan, &c.plan.step, &check_err), HEARTH_INVALID);
    for (uint32_t slot = 0; slot < SLOTS; slot++)
        d.ops->bank_clear(d.device, c.bank, slot);
    assert_int_equal(d.ops->bank_bytes(c.bank), 0);
    case_end(&c);
    check_close(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(paths_equal_contract), cmocka_unit_test(model_shapes),
                                       cmocka_unit_test(contract_within_bound), cmocka_unit_test(slots_come_and_go)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
