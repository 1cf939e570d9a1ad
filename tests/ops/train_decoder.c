// SPDX-License-Identifier: Apache-2.0
// A whole decoder of two layers composed of the oracle's ops: norms, q k v with LoRA, rope, attention over two packed
// segments, gated MLP, head, soft-capped cross-entropy. Its gradients of every LoRA A and B and of the input are
// what finite differences of the loss are, and what a device's plan of the same ops computes.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/cpu/train_ref.h"
#include "tests/check/train.h"

enum { ROWS = 7, LAYERS = 2, RANK = 2, HEADS = 4, KV = 2, HEAD = 4, DIM = 6, FF = 10, VOCAB = 9 };
enum target { TQ, TK, TV, TO, TGATE, TUP, TDOWN, N_TARGETS };
static const uint32_t n_in[] = {DIM, DIM, DIM, HEADS * HEAD, DIM, DIM, FF};
static const uint32_t n_out[] = {HEADS * HEAD, KV * HEAD, KV *HEAD, DIM, FF, FF, DIM};
static const char *const target_names[] = {"q", "k", "v", "output", "gate", "up", "down"};
static const uint32_t seg_from[ROWS] = {0, 0, 0, 3, 3, 3, 3}, wanted[ROWS] = {1, 8, 3, 3, 0, 5, 2};
static const double weight[ROWS] = {0.2, 0.25, 0, 0.1, 0.3, 0, 0.15}, eps = 1e-5, lora = 1.5, cap = 4;

struct layer {
    double *w[N_TARGETS], *a[N_TARGETS], *b[N_TARGETS], *da[N_TARGETS], *db[N_TARGETS], *u[N_TARGETS];
    double *norm[2];
    double x[ROWS * DIM], n1[ROWS * DIM], q[ROWS * HEADS * HEAD], k[ROWS * KV * HEAD], v[ROWS * KV * HEAD];
    double seen[ROWS * HEADS * HEAD], x1[ROWS * DIM], n2[ROWS * DIM], gate[ROWS * FF], up[ROWS * FF], h[ROWS * FF];
};
struct model {
    struct layer layer[LAYERS];
    enum ht_act act;
    struct ht_ref_attend attend;
    double *norm, *head, x0[ROWS * DIM], dx[ROWS * DIM], last[ROWS * DIM], final[ROWS * DIM], d[ROWS * VOCAB];
};

static void linear(struct layer *l, enum target t, const double *x, double *y)
{
    memset(l->u[t], 0, ROWS * RANK * sizeof(double));
    ht_ref_dense(HT_DENSE_NT, x, l->w[t], ROWS, n_out[t], n_in[t], 1, y);
    ht_ref_dense(HT_DENSE_NT, x, l->a[t], ROWS, RANK, n_in[t], 1, l->u[t]);
    ht_ref_dense(HT_DENSE_NT, l->u[t], l->b[t], ROWS, n_out[t], RANK, lora, y);
}

static void linear_back(struct layer *l, enum target t, const double *x, const double *dy, double *dx)
{
    double du[ROWS * RANK] = {0};
    ht_ref_dense(HT_DENSE_NN, dy, l->w[t], ROWS, n_in[t], n_out[t], 1, dx);
    ht_ref_dense(HT_DENSE_NN, dy, l->b[t], ROWS, RANK, n_out[t], lora, du);
    ht_ref_dense(HT_DENSE_TN, dy, l->u[t], ROWS, RANK, n_out[t], lora, l->db[t]);
    ht_ref_dense(HT_DENSE_TN, du, x, ROWS, n_in[t], RANK, 1, l->da[t]);
    ht_ref_dense(HT_DENSE_NN, du, l->a[t], ROWS, n_in[t], RANK, 1, dx);
}

static void rotate(double *x, uint32_t heads, int direction)
{
    for (uint32_t r = 0; r < ROWS; r++) {
        double pos = r - seg_from[r], angle[HEAD / 2] = {pos, pos * 0.1};
        for (uint32_t h = 0; h < heads; h++)
            ht_ref_rotate(x + (r * heads + h) * HEAD, angle, HEAD, HT_ROPE_NEOX, 1, direction);
    }
}

#define CLEAR(x) memset(x, 0, sizeof(x))

static void layer_forward(struct model *m, struct layer *l, const double *x, double *y)
{
    memcpy(l->x, x, sizeof l->x);
    CLEAR(l->q), CLEAR(l->k), CLEAR(l->v), CLEAR(l->gate), CLEAR(l->up);
    for (int r = 0; r < ROWS; r++)
        ht_ref_norm(l->x + r * DIM, l->norm[0], DIM, eps, l->n1 + r * DIM);
    linear(l, TQ, l->n1, l->q);
    linear(l, TK, l->n1, l->k);
    linear(l, TV, l->n1, l->v);
    rotate(l->q, HEADS, 1);
    rotate(l->k, KV, 1);
    ht_ref_attend(&m->attend, l->q, l->k, l->v, l->seen);
    memcpy(l->x1, l->x, sizeof l->x1);
    linear(l, TO, l->seen, l->x1);
    for (int r = 0; r < ROWS; r++)
        ht_ref_norm(l->x1 + r * DIM, l->norm[1], DIM, eps, l->n2 + r * DIM);
    linear(l, TGATE, l->n2, l->gate);
    linear(l, TUP, l->n2, l->up);
    for (int i = 0; i < ROWS * FF; i++)
        l->h[i] = ht_ref_gate(m->act, l->gate[i], l->up[i]);
    memcpy(y, l->x1, sizeof l->x1);
    linear(l, TDOWN, l->h, y);
}

static void layer_backward(struct model *m, struct layer *l, double *dx) // of y, then of x
{
    double dh[ROWS * FF] = {0}, dgate[ROWS * FF], dup[ROWS * FF], dn[ROWS * DIM] = {0}, part[DIM];
    double dseen[ROWS * HEADS * HEAD] = {0}, dq[ROWS * HEADS * HEAD] = {0}, dk[ROWS * KV * HEAD] = {0},
           dv[ROWS * KV * HEAD] = {0};
    linear_back(l, TDOWN, l->h, dx, dh);
    for (int i = 0; i < ROWS * FF; i++)
        ht_ref_gate_back(m->act, l->gate[i], l->up[i], dh[i], &dgate[i], &dup[i]);
    linear_back(l, TGATE, l->n2, dgate, dn);
    linear_back(l, TUP, l->n2, dup, dn);
    for (int r = 0; r < ROWS; r++) {
        ht_ref_norm_back(l->x1 + r * DIM, l->norm[1], dn + r * DIM, DIM, eps, part);
        for (int i = 0; i < DIM; i++)
            dx[r * DIM + i] += part[i];
    }
    linear_back(l, TO, l->seen, dx, dseen);
    ht_ref_attend_back(&m->attend, l->q, l->k, l->v, dseen, false, dq, dk, dv);
    rotate(dq, HEADS, -1);
    rotate(dk, KV, -1);
    CLEAR(dn);
    linear_back(l, TQ, l->n1, dq, dn);
    linear_back(l, TK, l->n1, dk, dn);
    linear_back(l, TV, l->n1, dv, dn);
    for (int r = 0; r < ROWS; r++) {
        ht_ref_norm_back(l->x + r * DIM, l->norm[0], dn + r * DIM, DIM, eps, part);
        for (int i = 0; i < DIM; i++)
            dx[r * DIM + i] += part[i];
    }
}

static double forward(void *user)
{
    struct model *m = user;
    double logits[ROWS * VOCAB] = {0}, loss = 0;
    memcpy(m->last, m->x0, sizeof m->last);
    for (int i = 0; i < LAYERS; i++)
        layer_forward(m, &m->layer[i], m->last, m->last);
    for (int r = 0; r < ROWS; r++)
        ht_ref_norm(m->last + r * DIM, m->norm, DIM, eps, m->final + r * DIM);
    ht_ref_dense(HT_DENSE_NT, m->final, m->head, ROWS, VOCAB, DIM, 1, logits);
    for (int r = 0; r < ROWS; r++)
        loss += weight[r] * ht_ref_cross_entropy(logits + r * VOCAB, VOCAB, cap, wanted[r], weight[r],
                                                 m->d + r * VOCAB);
    return loss;
}

static void backward(struct model *m) // after forward
{
    double dn[ROWS * DIM] = {0};
    ht_ref_dense(HT_DENSE_NN, m->d, m->head, ROWS, DIM, VOCAB, 1, dn);
    for (int r = 0; r < ROWS; r++)
        ht_ref_norm_back(m->last + r * DIM, m->norm, dn + r * DIM, DIM, eps, m->dx + r * DIM);
    for (int i = LAYERS - 1; i >= 0; i--)
        layer_backward(m, &m->layer[i], m->dx);
}

static void model_make(struct model *m, enum ht_act act, uint32_t window, double softcap)
{
    memset(m, 0, sizeof *m);
    m->act = act;
    m->attend = (struct ht_ref_attend){ROWS, HEADS, KV, HEAD, HEAD, window, 0.5, softcap, 0, seg_from};
    m->norm = train_random_doubles(DIM);
    m->head = train_random_doubles(VOCAB * DIM);
    for (int i = 0; i < LAYERS; i++) {
        struct layer *l = &m->layer[i];
        l->norm[0] = train_random_doubles(DIM);
        l->norm[1] = train_random_doubles(DIM);
        for (int t = 0; t < N_TARGETS; t++) {
            l->w[t] = train_random_doubles(n_in[t] * n_out[t]);
            l->a[t] = train_random_doubles(RANK * n_in[t]);
            l->b[t] = train_random_doubles(n_out[t] * RANK);
            l->da[t] = train_doubles(RANK * n_in[t]);
            l->db[t] = train_doubles(n_out[t] * RANK);
            l->u[t] = train_doubles(ROWS * RANK);
        }
    }
    for (int i = 0; i < ROWS * DIM; i++)
        m->x0[i] = (double)check_unit();
}

static void model_free(struct model *m)
{
    for (int i = 0; i < LAYERS; i++) {
        struct layer *l = &m->layer[i];
        free(l->norm[0]);
        free(l->norm[1]);
        for (int t = 0; t < N_TARGETS; t++) {
            double *all[] = {l->w[t], l->a[t], l->b[t], l->da[t], l->db[t], l->u[t]};
            for (int j = 0; j < 6; j++)
                free(all[j]);
        }
    }
    free(m->norm);
    free(m->head);
}

static void finite_differences(void **state)
{
    (void)state;
    unsigned failures = 0;
    double size = 0;
    for (int c = 0; c < 4; c++) {
        struct model m;
        char what[64];
        check_reseed((uint64_t)c);
        model_make(&m, c % 2 ? HT_ACT_GELU_TANH : HT_ACT_SILU, c == 2 ? 2 : 0, c >= 2 ? 3 : 0);
        forward(&m);
        backward(&m);
        for (int i = 0; i < ROWS * DIM; i++)
            failures += train_slope_is("input", m.dx[i], train_slope(forward, &m, &m.x0[i]), 1);
        for (int i = 0; i < LAYERS * N_TARGETS; i++) {
            struct layer *l = &m.layer[i / N_TARGETS];
            int t = i % N_TARGETS;
            snprintf(what, sizeof what, "layer %d %s", i / N_TARGETS, target_names[t]);
            for (uint32_t j = 0; j < RANK * n_in[t]; j++)
                failures += train_slope_is(what, l->da[t][j], train_slope(forward, &m, &l->a[t][j]), 1);
            for (uint32_t j = 0; j < RANK * n_out[t]; j++) {
                failures += train_slope_is(what, l->db[t][j], train_slope(forward, &m, &l->b[t][j]), 1);
                size = fmax(size, fabs(l->db[t][j]));
            }
        }
        model_free(&m);
    }
    assert_int_equal(failures, 0);
    assert_true(size > 0.1); // gradients that could be wrong
}

// ---- the same decoder as a plan of a device: every path and thread count the same bits, near the oracle

enum { OUTS = 5, FLOATS = 1 << 16 };
struct device_layer {
    struct ht_weight *w[N_TARGETS];
    struct ht_ref a[N_TARGETS], b[N_TARGETS], da[N_TARGETS], db[N_TARGETS], u[N_TARGETS];
    struct ht_ref norm[2], x, n1, q, k, v, seen, lse, x1, n2, gate, up, h;
};
struct recorder {
    struct check_device *d;
    const struct model *m;
    struct train_plan p;
    struct check_view all; // memory of everything
    uint32_t used;
    struct device_layer layer[LAYERS];
    struct ht_ref freq, x0, dx, t; // t: a gradient of LoRA's middle
};

static struct ht_ref take(struct recorder *c, const double *x, uint32_t n)
{
    struct ht_ref ref = {c->all.buf, c->all.ref.offset + c->used};
    float *at = (float *)check_view_row(&c->all, 0) + c->used;
    for (uint32_t i = 0; i < n; i++)
        at[i] = x ? (float)x[i] : 0;
    c->used += (n + 15) / 16 * 16;
    if (c->used > FLOATS)
        abort();
    return ref;
}

static struct ht_weight *freeze(struct recorder *c, const double *x, uint32_t n, uint32_t k)
{
    float *blocks = malloc(sizeof *blocks * n * k);
    for (uint32_t i = 0; i < n * k; i++)
        blocks[i] = (float)x[i];
    struct ht_weight *w = check_weight(c->d, HT_TYPE_F32, n, k, blocks);
    free(blocks);
    return w;
}

#define RECORD(table, op, ...) CHECK_OK(table->op(c->p.base.plan, &(struct ht_##op){__VA_ARGS__}, &check_err))
#define TRAIN(op, ...)         RECORD(c->p.ops, op, __VA_ARGS__)
#define SERVE(op, ...)         RECORD(c->d->table, op, __VA_ARGS__)

static void record_linear(struct recorder *c, struct device_layer *l, int t, struct ht_ref x, struct ht_ref y, bool add)
{
    TRAIN(linear, {x, n_in[t], n_in[t], 1, {{l->w[t], y, {NULL, 0}, n_out[t], 0, add}}, HT_ROWS_ALL, NULL},
          HT_TRAIN_F, 0, 0);
    TRAIN(dense, HT_DENSE_NT, x, l->a[t], l->u[t], n_in[t], n_in[t], RANK, RANK, n_in[t], 1, false, false,
          HT_ROWS_ALL);
    TRAIN(dense, HT_DENSE_NT, l->u[t], l->b[t], y, RANK, RANK, n_out[t], n_out[t], RANK, (float)lora, true, false,
          HT_ROWS_ALL);
}

static void record_linear_back(struct recorder *c, struct device_layer *l, int t, struct ht_ref x, struct ht_ref dy,
                               struct ht_ref dx, bool add)
{
    TRAIN(linear_t, {dx, n_in[t], n_in[t], 1, {{l->w[t], dy, {NULL, 0}, n_out[t], 0, false}}, HT_ROWS_ALL, NULL}, add,
          HT_TRAIN_F, 0, 0);
    TRAIN(dense, HT_DENSE_NN, dy, l->b[t], c->t, n_out[t], RANK, RANK, RANK, n_out[t], (float)lora, false, false,
          HT_ROWS_ALL);
    TRAIN(dense, HT_DENSE_TN, dy, l->u[t], l->db[t], n_out[t], RANK, RANK, RANK, n_out[t], (float)lora, false, false,
          HT_ROWS_ALL);
    TRAIN(dense, HT_DENSE_TN, c->t, x, l->da[t], RANK, n_in[t], n_in[t], n_in[t], RANK, 1, false, false, HT_ROWS_ALL);
    TRAIN(dense, HT_DENSE_NN, c->t, l->a[t], dx, RANK, n_in[t], n_in[t], n_in[t], RANK, 1, true, false, HT_ROWS_ALL);
}

static struct ht_attend attend_of(const struct recorder *c, const struct device_layer *l)
{
    return (struct ht_attend){l->q, l->k, l->v, l->seen, l->lse, HEADS * HEAD, KV * HEAD, KV * HEAD, HEADS * HEAD,
                              HEADS, HEADS, KV, HEAD, HEAD, 0.5f, (float)c->m->attend.softcap, c->m->attend.window, 0,
                              HT_TRAIN_F};
}

static void record_forward(struct recorder *c, struct device_layer *l, struct ht_ref y)
{
    SERVE(rmsnorm, l->x, l->n1, l->norm[0], DIM, DIM, 1, DIM, (float)eps, false, HT_ROWS_ALL);
    record_linear(c, l, TQ, l->n1, l->q, false);
    record_linear(c, l, TK, l->n1, l->k, false);
    record_linear(c, l, TV, l->n1, l->v, false);
    SERVE(rope, l->q, c->freq, HEADS * HEAD, HEADS, HEAD, HEAD, HT_ROPE_NEOX, 1);
    SERVE(rope, l->k, c->freq, KV * HEAD, KV, HEAD, HEAD, HT_ROPE_NEOX, 1);
    struct ht_attend attend = attend_of(c, l);
    CHECK_OK(c->p.ops->attend(c->p.base.plan, &attend, &check_err));
    TRAIN(dropout, l->x, l->x1, DIM, DIM, DIM, 0, 0, false, HT_ROWS_ALL); // rate 0: a copy
    record_linear(c, l, TO, l->seen, l->x1, true);
    SERVE(rmsnorm, l->x1, l->n2, l->norm[1], DIM, DIM, 1, DIM, (float)eps, false, HT_ROWS_ALL);
    record_linear(c, l, TGATE, l->n2, l->gate, false);
    record_linear(c, l, TUP, l->n2, l->up, false);
    SERVE(glu, l->gate, l->up, l->h, FF, FF, FF, FF, c->m->act);
    TRAIN(dropout, l->x1, y, DIM, DIM, DIM, 0, 0, false, HT_ROWS_ALL);
    record_linear(c, l, TDOWN, l->h, y, true);
}

static void record_backward(struct recorder *c, struct device_layer *l)
{
    struct ht_ref dh = take(c, NULL, ROWS * FF), dup = take(c, NULL, ROWS * FF), dn = take(c, NULL, ROWS * DIM);
    struct ht_ref dseen = take(c, NULL, ROWS * HEADS * HEAD), dq = take(c, NULL, ROWS * HEADS * HEAD);
    struct ht_ref dk = take(c, NULL, ROWS * KV * HEAD), dv = take(c, NULL, ROWS * KV * HEAD);
    record_linear_back(c, l, TDOWN, l->h, c->dx, dh, false);
    TRAIN(glu_back, l->gate, l->up, dh, dh, dup, FF, FF, FF, FF, FF, FF, c->m->act);
    record_linear_back(c, l, TGATE, l->n2, dh, dn, false);
    record_linear_back(c, l, TUP, l->n2, dup, dn, true);
    TRAIN(rmsnorm_back, l->x1, l->norm[1], dn, c->dx, DIM, DIM, DIM, 1, DIM, (float)eps, true, HT_ROWS_ALL);
    record_linear_back(c, l, TO, l->seen, c->dx, dseen, false);
    TRAIN(attend_back, attend_of(c, l), dseen, dq, dk, dv, HEADS * HEAD, HEADS * HEAD, KV * HEAD, KV * HEAD);
    TRAIN(rope_back, {dq, c->freq, HEADS * HEAD, HEADS, HEAD, HEAD, HT_ROPE_NEOX, 1});
    TRAIN(rope_back, {dk, c->freq, KV * HEAD, KV, HEAD, HEAD, HT_ROPE_NEOX, 1});
    record_linear_back(c, l, TQ, l->n1, dq, dn, false);
    record_linear_back(c, l, TK, l->n1, dk, dn, true);
    record_linear_back(c, l, TV, l->n1, dv, dn, true);
    TRAIN(rmsnorm_back, l->x, l->norm[0], dn, c->dx, DIM, DIM, DIM, 1, DIM, (float)eps, true, HT_ROWS_ALL);
}

static void take_layer(struct recorder *c, int i)
{
    const struct layer *from = &c->m->layer[i];
    struct device_layer *l = &c->layer[i];
    struct ht_ref *rows[] = {&l->n1, &l->q, &l->k, &l->v, &l->seen, &l->lse, &l->x1, &l->n2, &l->gate, &l->up, &l->h};
    for (int j = 0; j < 2; j++)
        l->norm[j] = take(c, from->norm[j], DIM);
    for (unsigned j = 0; j < sizeof rows / sizeof rows[0]; j++)
        *rows[j] = take(c, NULL, ROWS * HEADS * HEAD); // the widest
    for (int t = 0; t < N_TARGETS; t++) {
        l->w[t] = freeze(c, from->w[t], n_out[t], n_in[t]);
        l->a[t] = take(c, from->a[t], RANK * n_in[t]);
        l->b[t] = take(c, from->b[t], RANK * n_out[t]);
        l->da[t] = take(c, NULL, RANK * n_in[t]);
        l->db[t] = take(c, NULL, RANK * n_out[t]);
        l->u[t] = take(c, NULL, ROWS * RANK);
    }
}

// Far above f32's error in so small a model, far below any gradient that is computed wrongly.
static unsigned near(const struct recorder *c, const char *what, struct ht_ref got, const double *want, size_t n)
{
    double bound[ROWS * DIM + FF * DIM];
    for (size_t i = 0; i < n; i++)
        bound[i] = 2e-5 * (1 + fabs(want[i]));
    return check_bounds(what, check_view_row(&c->all, 0) + (got.offset - c->all.ref.offset), want, bound, n);
}

static unsigned test_device(struct check_device *d)
{
    static const double freq[] = {1, 0.1};
    struct model m;
    unsigned failures = 0;
    check_reseed(3);
    model_make(&m, HT_ACT_GELU_TANH, 3, 3);
    forward(&m);
    backward(&m);
    struct recorder rec = {.d = d, .m = &m, .p = train_plan_begin(d, ROWS, OUTS)}, *c = &rec;
    c->all = check_view_make(d, 1, FLOATS, FLOATS);
    c->freq = take(c, freq, 2);
    c->x0 = take(c, m.x0, ROWS * DIM);
    c->dx = take(c, NULL, ROWS * DIM);
    c->t = take(c, NULL, ROWS * RANK);
    struct ht_ref last = take(c, NULL, ROWS * DIM), chosen = take(c, NULL, OUTS * DIM), dn = take(c, NULL, OUTS * DIM);
    struct ht_ref norm = take(c, m.norm, DIM), n = take(c, NULL, OUTS * DIM);
    struct ht_ref logits = take(c, NULL, OUTS * VOCAB), loss = take(c, NULL, ROWS);
    struct ht_weight *head = freeze(c, m.head, VOCAB, DIM);
    for (int i = 0; i < LAYERS; i++) {
        take_layer(c, i);
        c->layer[i].x = i ? take(c, NULL, ROWS * DIM) : c->x0;
    }
    for (int i = 0; i < LAYERS; i++)
        record_forward(c, &c->layer[i], i + 1 < LAYERS ? c->layer[i + 1].x : last);
    SERVE(gather, last, chosen, DIM, DIM, DIM);
    SERVE(rmsnorm, chosen, n, norm, DIM, DIM, 1, DIM, (float)eps, false, HT_ROWS_OUT);
    TRAIN(linear, {n, DIM, DIM, 1, {{head, logits, {NULL, 0}, VOCAB, 0, false}}, HT_ROWS_OUT, NULL}, HT_TRAIN_F, 0, 0);
    TRAIN(cross_entropy, logits, loss, VOCAB, VOCAB, (float)cap);
    TRAIN(linear_t, {dn, DIM, DIM, 1, {{head, logits, {NULL, 0}, VOCAB, 0, false}}, HT_ROWS_OUT, NULL}, false,
          HT_TRAIN_F, 0, 0);
    TRAIN(rmsnorm_back, chosen, norm, dn, dn, DIM, DIM, DIM, 1, DIM, (float)eps, false, HT_ROWS_OUT);
    TRAIN(fill, c->dx, ROWS * DIM, 0);
    TRAIN(scatter, dn, c->dx, DIM, DIM, DIM, false);
    for (int i = LAYERS - 1; i >= 0; i--)
        record_backward(c, &c->layer[i]);
    train_plan_end(&c->p);
    for (uint32_t r = 0, o = 0; r < ROWS; r++) {
        c->p.base.step.pos[r] = (int32_t)(r - seg_from[r]);
        c->p.train.seg_from[r] = seg_from[r];
        c->p.train.target[r] = (int32_t)wanted[r];
        c->p.train.weight[r] = (float)weight[r];
        if (weight[r] > 0)
            c->p.base.step.out_row[o++] = (int32_t)r;
    }
    for (int again = 0; again < 3; again++) // nothing of one step is left in the next
        train_plan_run(&c->p);
    failures += near(c, "input", c->dx, m.dx, ROWS * DIM) + train_same_bits("decoder", 0, &c->all);
    for (int i = 0; i < LAYERS * N_TARGETS; i++) {
        int t = i % N_TARGETS;
        const struct layer *l = &m.layer[i / N_TARGETS];
        failures += near(c, target_names[t], c->layer[i / N_TARGETS].da[t], l->da[t], RANK * n_in[t]);
        failures += near(c, target_names[t], c->layer[i / N_TARGETS].db[t], l->db[t], RANK * n_out[t]);
        d->ops->weight_destroy(d->device, &c->layer[i / N_TARGETS].w[t]);
    }
    d->ops->weight_destroy(d->device, &head);
    train_plan_free(&c->p);
    check_view_free(&c->all);
    model_free(&m);
    return failures;
}

static void device(void **state)
{
    (void)state;
    assert_int_equal(train_each_path(test_device), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(finite_differences), cmocka_unit_test(device)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
