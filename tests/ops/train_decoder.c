// SPDX-License-Identifier: Apache-2.0
// A whole decoder of two layers composed of the oracle's ops: norms, q k v with LoRA, rope, attention over two packed
// segments, gated MLP, head, soft-capped cross-entropy. Its gradients of every LoRA A and B and of the input are
// what finite differences of the loss are.
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
    m->attend = (struct ht_ref_attend){ROWS, HEADS, KV, HEAD, HEAD, window, 0.5, softcap, seg_from};
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

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(finite_differences)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
