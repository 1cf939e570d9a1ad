// SPDX-License-Identifier: Apache-2.0
// What ops, objects and steps say of themselves is checked before a back end believes it: each case is good as it
// stands, good at its limit, and refused one beyond.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "engine/ops/check.h"

enum { ROWS = 5, OUTS = 3, DIM = 32, PAGES = 2, HEADS = 4, KV_HEADS = 2 };

static struct ht_plan_head plan_head = {.shape = {ROWS, OUTS, 2, PAGES, 0}};
static struct ht_plan *const plan = (struct ht_plan *)(void *)&plan_head;
static struct ht_weight_head square_head = {{.type = HT_TYPE_F32, .n = DIM, .k = DIM}},
                             wide_head = {{.type = HT_TYPE_F32, .n = 2 * DIM, .k = DIM}},
                             deep_head = {{.type = HT_TYPE_F32, .n = DIM, .k = 2 * DIM}};
static struct ht_weight *const square = (struct ht_weight *)(void *)&square_head,
                               *const wide = (struct ht_weight *)(void *)&wide_head,
                               *const deep = (struct ht_weight *)(void *)&deep_head;
static struct ht_kv_head kv_head = {{.layers = 2, .kv_heads = KV_HEADS, .k_dim = DIM, .v_dim = DIM / 2, .n_pages = 4}};
static struct ht_kv *const kv = (struct ht_kv *)(void *)&kv_head;

// A view of exactly so many floats; `short_by` makes it smaller than that.
#define VIEW(n_floats, short_by) \
    ((struct ht_ref){(struct ht_buf *)(void *)&(struct ht_buf_head){((n_floats) - (short_by)) * sizeof(float)}, 0})

#define TAKEN(call) assert_int_equal(call, HEARTH_OK)
#define REFUSED(call) assert_int_equal(call, HEARTH_INVALID)
// The op is good as it is and refused after the change.
#define WRONG(name, params, change)                              \
    do {                                                         \
        struct ht_##name p = params;                             \
        TAKEN(ht_check_##name(plan, &p, NULL));                  \
        change;                                                  \
        REFUSED(ht_check_##name(plan, &p, NULL));                \
    } while (0)
// Each view of an op needs all of so many floats.
#define NEEDS(name, params, view, n_floats)                      \
    do {                                                         \
        struct ht_##name p = params;                             \
        p.view = VIEW(n_floats, 0);                              \
        TAKEN(ht_check_##name(plan, &p, NULL));                  \
        p.view = VIEW(n_floats, 1);                              \
        REFUSED(ht_check_##name(plan, &p, NULL));                \
        p.view.buf = NULL;                                       \
        REFUSED(ht_check_##name(plan, &p, NULL));                \
    } while (0)

static void views(void **state)
{
    (void)state;
    struct ht_buf_head buf = {.size_bytes = (3 * 40 + DIM) * sizeof(float)};
    struct ht_ref ref = {(struct ht_buf *)(void *)&buf, 0}, second = {ref.buf, 16}, odd = {ref.buf, 8},
                  outside = {ref.buf, 1600}, nowhere = {0};
    TAKEN(ht_check_view("x", &ref, 4, 40, DIM, NULL));
    REFUSED(ht_check_view("x", &ref, 4, 40, DIM + 1, NULL));
    REFUSED(ht_check_view("x", &ref, 4, 41, DIM, NULL));
    REFUSED(ht_check_view("x", &ref, 5, 40, DIM, NULL));
    REFUSED(ht_check_view("x", &second, 4, 40, DIM, NULL));
    TAKEN(ht_check_view("x", &second, 4, 34, DIM, NULL));
    REFUSED(ht_check_view("x", &odd, 1, 0, 1, NULL));
    REFUSED(ht_check_view("x", &outside, 1, 0, 1, NULL));
    REFUSED(ht_check_view("x", &nowhere, 1, 0, 1, NULL));
    TAKEN(ht_check_view("x", &ref, 1, 0, DIM, NULL)); // of one row the stride says nothing
    REFUSED(ht_check_view("x", &ref, 2, DIM - 1, DIM, NULL));
    REFUSED(ht_check_view("x", &ref, 0, 0, DIM, NULL));
    REFUSED(ht_check_view("x", &ref, 4, 40, 0, NULL));
    buf.size_bytes = SIZE_MAX;
    REFUSED(ht_check_view("x", &ref, 1, 0, (uint64_t)UINT32_MAX + 1, NULL));
}

static void ops_on_rows(void **state)
{
    (void)state;
    const size_t all = ROWS * DIM, outs = OUTS * DIM;
    const struct ht_embed embed = {.w = square, .y = VIEW(all, 0), .stride = DIM};
    NEEDS(embed, embed, y, all);
    WRONG(embed, embed, p.w = NULL);

    const struct ht_rmsnorm norm = {.x = VIEW(all, 0), .y = VIEW(all, 0), .w = VIEW(DIM / 2, 0), .x_stride = DIM,
                                    .y_stride = DIM, .groups = 2, .dim = DIM / 2};
    NEEDS(rmsnorm, norm, x, all);
    NEEDS(rmsnorm, norm, y, all);
    NEEDS(rmsnorm, norm, w, DIM / 2);
    WRONG(rmsnorm, norm, p.groups = 3);
    WRONG(rmsnorm, norm, p.groups = 0);
    struct ht_rmsnorm norm_outs = norm;
    norm_outs.rows = HT_ROWS_OUT;
    NEEDS(rmsnorm, norm_outs, x, outs);

    const struct ht_rope rope = {.x = VIEW(all, 0), .freq = VIEW(8, 0), .stride = DIM, .heads = 2, .dim = 16,
                                 .n_rot = 16};
    NEEDS(rope, rope, x, all);
    NEEDS(rope, rope, freq, 8);
    WRONG(rope, rope, p.n_rot = 0);
    WRONG(rope, rope, p.n_rot = 15);
    WRONG(rope, rope, (p.n_rot = 18, p.freq = VIEW(9, 0)));

    const struct ht_glu glu = {.gate = VIEW(all, 0), .up = VIEW(all, 0), .y = VIEW(all, 0), .gate_stride = DIM,
                               .up_stride = DIM, .y_stride = DIM, .dim = DIM, .act = HT_ACT_GELU_TANH};
    NEEDS(glu, glu, gate, all);
    NEEDS(glu, glu, up, all);
    NEEDS(glu, glu, y, all);
    WRONG(glu, glu, p.act = (enum ht_act)2);

    const struct ht_gather gather = {.x = VIEW(all, 0), .y = VIEW(outs, 0), .x_stride = DIM, .y_stride = DIM,
                                     .dim = DIM};
    NEEDS(gather, gather, x, all);
    NEEDS(gather, gather, y, outs);

    const struct ht_softcap cap = {.x = VIEW(all, 0), .stride = DIM, .dim = DIM, .cap = 30};
    NEEDS(softcap, cap, x, all);
    WRONG(softcap, cap, p.cap = 0);
    WRONG(softcap, cap, p.cap = INFINITY);

    const struct ht_sample sample = {.logits = VIEW(outs, 0), .token = VIEW(OUTS, 0), .stride = DIM, .n_vocab = DIM};
    NEEDS(sample, sample, logits, outs);
    NEEDS(sample, sample, token, OUTS);
    WRONG(sample, sample, p.n_vocab = 0);
    WRONG(sample, sample, (p.n_vocab = p.stride = HT_MAX_VOCAB + 1, p.logits = VIEW(OUTS * (HT_MAX_VOCAB + 1u), 0)));
    plan_head.shape.vocab = DIM;
    WRONG(sample, sample, p.n_vocab = DIM - 1); // the masks have another vocabulary
    plan_head.shape.vocab = 0;
}

static void products(void **state)
{
    (void)state;
    const size_t all = ROWS * DIM, outs = OUTS * DIM;
    const struct ht_weight_params linears[] = {wide_head.params, square_head.params, square_head.params};
    struct ht_bank_head bank_head = {{.linears = linears, .n_linears = 2, .slots = 1, .rows = ROWS}};
    const struct ht_matmul matmul = {
        .x = VIEW(all, 0),
        .x_stride = DIM,
        .k = DIM,
        .n_parts = 3,
        .part = {{.w = square, .y = VIEW(all, 0), .y_stride = DIM, .bias = VIEW(DIM, 0), .linear = 1},
                 {.w = square, .y = VIEW(all, 0), .y_stride = DIM, .linear = 1},
                 {.w = wide, .y = VIEW(2 * all, 0), .y_stride = 2 * DIM}}};
    NEEDS(matmul, matmul, x, all);
    NEEDS(matmul, matmul, part[1].y, all);
    NEEDS(matmul, matmul, part[2].y, 2 * all);
    WRONG(matmul, matmul, p.part[0].bias = VIEW(DIM, 1));
    WRONG(matmul, matmul, p.n_parts = 0);
    WRONG(matmul, matmul, p.n_parts = 4);
    WRONG(matmul, matmul, p.part[2].w = NULL);
    WRONG(matmul, matmul, p.part[1].w = deep);
    struct ht_matmul of_outs = matmul, with_bank = matmul;
    of_outs.rows = HT_ROWS_OUT;
    NEEDS(matmul, of_outs, x, outs);

    with_bank.bank = (struct ht_bank *)(void *)&bank_head;
    WRONG(matmul, with_bank, p.part[1].linear = 2);
    WRONG(matmul, with_bank, p.part[1].linear = 0); // that one is wide
    WRONG(matmul, with_bank, bank_head.params.rows = ROWS - 1);
    bank_head.params.rows = ROWS;
    const struct ht_weight_params deep_linears[] = {wide_head.params, deep_head.params};
    WRONG(matmul, with_bank, bank_head.params.linears = deep_linears);
}

static void ops_on_pages(void **state)
{
    (void)state;
    const struct ht_kv_store store = {.kv = kv, .layer = 1, .k = VIEW(ROWS * KV_HEADS * DIM, 0),
                                      .v = VIEW(ROWS * KV_HEADS * DIM / 2, 0), .k_stride = KV_HEADS * DIM,
                                      .v_stride = KV_HEADS * DIM / 2};
    NEEDS(kv_store, store, k, ROWS * KV_HEADS * DIM);
    NEEDS(kv_store, store, v, ROWS * KV_HEADS * DIM / 2);
    WRONG(kv_store, store, p.layer = 2);
    WRONG(kv_store, store, p.kv = NULL);

    const struct ht_attention attention = {.kv = kv, .layer = 1, .q = VIEW(ROWS * HEADS * DIM, 0),
                                           .y = VIEW(ROWS * HEADS * DIM / 2, 0), .q_stride = HEADS * DIM,
                                           .y_stride = HEADS * DIM / 2, .heads = HEADS, .scale = 1};
    NEEDS(attention, attention, q, ROWS * HEADS * DIM);
    NEEDS(attention, attention, y, ROWS * HEADS * DIM / 2);
    WRONG(attention, attention, p.layer = 2);
    WRONG(attention, attention, p.kv = NULL);
    WRONG(attention, attention, p.heads = 0);
    WRONG(attention, attention, p.heads = 3); // of two KV heads
    WRONG(attention, attention, p.softcap = -1);
    WRONG(attention, attention, p.softcap = INFINITY);
    WRONG(attention, attention, p.scale = NAN);
}

static enum hearth_status weight(enum ht_type type, uint32_t n, uint32_t k)
{
    return ht_check_weight_params(&(struct ht_weight_params){type, n, k}, NULL);
}

static void objects(void **state)
{
    (void)state;
    TAKEN(weight(HT_TYPE_Q4_0, HT_MAX_VOCAB, HT_MAX_FF));
    REFUSED(weight(HT_TYPE_Q4_0, HT_MAX_VOCAB + 1, 32));
    REFUSED(weight(HT_TYPE_Q4_0, 1, HT_MAX_FF + 32));
    REFUSED(weight(HT_TYPE_Q4_0, 0, 32));
    REFUSED(weight(HT_TYPE_Q4_0, 1, 0));
    REFUSED(weight(HT_TYPE_Q4_0, 1, 33));
    assert_int_equal(weight((enum ht_type)999, 1, 32), HEARTH_UNSUPPORTED);

    const struct ht_kv_params most = {.layers = HT_MAX_LAYERS, .kv_heads = HT_MAX_HEADS, .k_dim = HT_MAX_HEAD_DIM,
                                      .v_dim = HT_MAX_HEAD_DIM, .n_pages = 1, .type = HT_KV_Q8};
    struct ht_kv_params lies[12];
    for (size_t i = 0; i < 12; i++)
        lies[i] = most;
    lies[0].layers++, lies[1].kv_heads++, lies[2].k_dim++, lies[3].v_dim++;
    lies[4].layers = lies[5].kv_heads = lies[6].k_dim = lies[7].v_dim = lies[8].n_pages = 0;
    lies[9].type++, lies[10].type = (enum ht_kv_type)0, lies[11].type = (enum ht_kv_type)-1;
    TAKEN(ht_check_kv_params(&most, NULL));
    for (size_t i = 0; i < 12; i++)
        REFUSED(ht_check_kv_params(&lies[i], NULL));
}

static enum hearth_status bank_of(uint32_t n_linears, uint32_t slots, uint32_t rows, uint32_t n, uint32_t k)
{
    const struct ht_weight_params linears[] = {{HT_TYPE_F32, 1, 1}, {HT_TYPE_F32, n, k}};
    return ht_check_bank_params(&(struct ht_bank_params){linears, n_linears, slots, rows}, NULL);
}

static void banks(void **state)
{
    (void)state;
    TAKEN(bank_of(2, HT_MAX_BANK_SLOTS, HT_MAX_CTX, HT_MAX_VOCAB, HT_MAX_FF));
    REFUSED(bank_of(0, 1, 1, 1, 1));
    REFUSED(bank_of(2, 0, 1, 1, 1));
    REFUSED(bank_of(2, HT_MAX_BANK_SLOTS + 1, 1, 1, 1));
    REFUSED(bank_of(2, 1, 0, 1, 1));
    REFUSED(bank_of(2, 1, HT_MAX_CTX + 1, 1, 1));
    REFUSED(bank_of(2, 1, 1, 0, 1));
    REFUSED(bank_of(2, 1, 1, 1, 0));
    REFUSED(bank_of(2, 1, 1, HT_MAX_VOCAB + 1, 1));
    REFUSED(bank_of(2, 1, 1, 1, HT_MAX_FF + 1));

    struct ht_bank_head head = {{.n_linears = 2, .slots = 3}};
    const struct ht_bank *bank = (const struct ht_bank *)(void *)&head;
    struct ht_bank_piece many[2 * HT_MAX_BANK_SLOTS + 1];
    for (size_t i = 0; i < 2 * HT_MAX_BANK_SLOTS + 1; i++)
        many[i] = (struct ht_bank_piece){.linear = 1, .rank = HT_MAX_ADAPTER_RANK, .scale = 1};
    TAKEN(ht_check_bank_pieces(bank, 2, many, 2 * HT_MAX_BANK_SLOTS, NULL));
    REFUSED(ht_check_bank_pieces(bank, 2, many, 2 * HT_MAX_BANK_SLOTS + 1, NULL));
    REFUSED(ht_check_bank_pieces(bank, 3, many, 1, NULL));
    many[1].linear = 2;
    REFUSED(ht_check_bank_pieces(bank, 2, many, 2, NULL));
    many[1] = (struct ht_bank_piece){.linear = 1, .rank = 0, .scale = 1};
    REFUSED(ht_check_bank_pieces(bank, 2, many, 2, NULL));
    many[1].rank = HT_MAX_ADAPTER_RANK + 1;
    REFUSED(ht_check_bank_pieces(bank, 2, many, 2, NULL));
    many[1] = (struct ht_bank_piece){.linear = 1, .rank = 1, .scale = NAN};
    REFUSED(ht_check_bank_pieces(bank, 2, many, 2, NULL));
}

static enum hearth_status shape(uint32_t rows, uint32_t outs, uint32_t seqs, uint32_t pages, uint32_t vocab)
{
    return ht_check_step_shape(&(struct ht_step_shape){rows, outs, seqs, pages, vocab}, NULL);
}

static void shapes(void **state)
{
    (void)state;
    TAKEN(shape(HT_MAX_CTX, HT_MAX_CTX, HT_MAX_SESSIONS, HT_MAX_CTX / HT_KV_PAGE, HT_MAX_VOCAB));
    REFUSED(shape(0, 1, 1, 1, 0));
    REFUSED(shape(HT_MAX_CTX + 1, 1, 1, 1, 0));
    REFUSED(shape(1, 0, 1, 1, 0));
    REFUSED(shape(1, HT_MAX_CTX + 1, 1, 1, 0));
    REFUSED(shape(1, 1, 0, 1, 0));
    REFUSED(shape(1, 1, HT_MAX_SESSIONS + 1, 1, 0));
    REFUSED(shape(1, 1, 1, 0, 0));
    REFUSED(shape(1, 1, 1, HT_MAX_CTX / HT_KV_PAGE + 1, 0));
    REFUSED(shape(1, 1, 1, 1, HT_MAX_VOCAB + 1));
}

// What of a step depends on the pool, the embedding and the bank; the rest is in tests/ops/rows.c.
static void steps(void **state)
{
    (void)state;
    struct ht_step step;
    const struct ht_step_bounds bounds = {.n_pages = 4, .n_ids = 10, .n_slots = 2};
    void *base = calloc(1, ht_step_layout(&step, &plan_head.shape, NULL));
    assert_non_null(base);
    ht_step_layout(&step, &plan_head.shape, base);
    step.counts[0] = 3, step.counts[1] = 1, step.counts[2] = 2;
    step.seq[2] = 1;
    for (int32_t i = 0; i < 3; i++) // the first session ends on its second page
        step.pos[i] = HT_KV_PAGE - 1 + i, step.ids[i] = 9, step.adapter[i] = 1 - i;
    step.pos[2] = 0;
    for (uint32_t i = 0; i < 2 * PAGES; i++)
        step.page[i] = i;
    step.page[PAGES + 1] = 99; // of the second session, which does not come so far
    TAKEN(ht_check_step(plan, &step, &bounds, NULL));
    const struct {
        void *at;
        uint32_t value;
    } lies[] = {{&step.ids[1], 10},
                {&step.ids[1], -1u},
                {&step.adapter[1], 2},
                {&step.adapter[1], -2u},
                {&step.page[0], 4},
                {&step.page[1], 4},
                {&step.page[PAGES], 4},
                {&step.pos[2], HT_KV_PAGE},
                {&step.pos[2], PAGES * HT_KV_PAGE},
                {&step.shape.rows, ROWS - 1},
                {&step.shape.outs, OUTS - 1},
                {&step.shape.seqs, 1},
                {&step.shape.pages, PAGES - 1}};
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        uint32_t *at = lies[i].at, before = *at;
        *at = lies[i].value;
        REFUSED(ht_check_step(plan, &step, &bounds, NULL));
        *at = before;
    }
    step.seq[3] = step.seq[4] = 1, step.pos[3] = 1, step.pos[4] = 2;
    step.counts[0] = ROWS, step.counts[1] = OUTS;
    TAKEN(ht_check_step(plan, &step, &bounds, NULL));
    step.counts[1] = OUTS + 1; // as many rows, not as many outputs
    REFUSED(ht_check_step(plan, &step, &bounds, NULL));
    step.counts[0] = 3, step.counts[1] = 1;
    step.page[1] = 4; // not refused where nobody looks at pages
    TAKEN(ht_check_step(plan, &step, &(struct ht_step_bounds){0}, NULL));
    // the later row may need fewer pages than the one before it
    step.pos[0] = HT_KV_PAGE, step.pos[1] = 0;
    REFUSED(ht_check_step(plan, &step, &bounds, NULL));
    step.page[1] = 1;
    struct ht_step without = step;
    without.base = NULL;
    REFUSED(ht_check_step(plan, &without, &bounds, NULL));
    plan_head.shape.vocab = DIM; // the plan has masks, the step has none
    REFUSED(ht_check_step(plan, &step, &bounds, NULL));
    plan_head.shape.vocab = 0;
    TAKEN(ht_check_step(plan, &step, &bounds, NULL));
    free(base);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(views),   cmocka_unit_test(ops_on_rows), cmocka_unit_test(products),
        cmocka_unit_test(ops_on_pages), cmocka_unit_test(objects),     cmocka_unit_test(banks),
        cmocka_unit_test(shapes),  cmocka_unit_test(steps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
