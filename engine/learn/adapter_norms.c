// SPDX-License-Identifier: Apache-2.0
// Norms of what adapters add to a weight, and of the difference of two. The product B A is never made: with the small
// matrices of inner products, ||B A||² = Σ_ij (BᵀB)_ij (A Aᵀ)_ij, in double. One thread.
#include <math.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/learn/adapter.h"

struct side {
    const struct hearth_adapter *adapter;
    const struct ht_adapter_target *target; // NULL = absent
};

static double norm_of(const float *values, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)values[i] * (double)values[i];
    return sqrt(sum);
}

// Σ over rows i of the two products' common inner products: trace((B1 A1)ᵀ (B2 A2)). ata, btb: no room needed beyond
// one row of B's Gram matrix.
static double inner(const struct side *x, const struct side *y)
{
    if (!x->target || !y->target)
        return 0;
    const struct ht_adapter_target *p = x->target, *q = y->target;
    const float *ax = x->adapter->values + p->a_at, *ay = y->adapter->values + q->a_at;
    const float *bx = x->adapter->values + p->b_at, *by = y->adapter->values + q->b_at;
    double total = 0;
    for (uint32_t i = 0; i < p->rank; i++)
        for (uint32_t j = 0; j < q->rank; j++) {
            double aa = 0, bb = 0;
            for (uint32_t c = 0; c < p->k; c++)
                aa += (double)ax[(size_t)i * p->k + c] * (double)ay[(size_t)j * q->k + c];
            for (uint32_t r = 0; r < p->n; r++)
                bb += (double)bx[(size_t)r * p->rank + i] * (double)by[(size_t)r * q->rank + j];
            total += aa * bb;
        }
    return total * (double)ht_adapter_scale(x->adapter, p) * (double)ht_adapter_scale(y->adapter, q);
}

static double root(double square)
{
    return square > 0 ? sqrt(square) : 0; // rounding may leave a little below zero
}

enum hearth_status hearth_adapter_get_target(const struct hearth_adapter *adapter, size_t i, bool norms,
                                             struct hearth_adapter_target *target, struct hearth_error *err)
{
    *target = (struct hearth_adapter_target){.norm_a = NAN, .norm_b = NAN, .norm_delta = NAN};
    if (i >= adapter->n_targets)
        return ht_fail(err, HEARTH_INVALID, "target %zu of %zu", i, adapter->n_targets);
    const struct ht_adapter_target *t = &adapter->targets[i];
    ht_adapter_tensor_name(t, target->name);
    target->n = t->n;
    target->k = t->k;
    target->rank = t->rank;
    target->alpha = t->alpha;
    target->scale = ht_adapter_scale(adapter, t);
    if (norms) {
        struct side side = {adapter, t};
        target->norm_a = norm_of(adapter->values + t->a_at, (size_t)t->rank * t->k);
        target->norm_b = norm_of(adapter->values + t->b_at, (size_t)t->n * t->rank);
        target->norm_delta = root(inner(&side, &side));
    }
    return HEARTH_OK;
}

static bool equal(const struct side *x, const struct side *y)
{
    const struct ht_adapter_target *p = x->target, *q = y->target;
    return p && q && p->rank == q->rank && ht_adapter_scale(x->adapter, p) == ht_adapter_scale(y->adapter, q) &&
           !memcmp(x->adapter->values + p->a_at, y->adapter->values + q->a_at,
                   (size_t)p->k * p->rank * sizeof(float)) &&
           !memcmp(x->adapter->values + p->b_at, y->adapter->values + q->b_at,
                   (size_t)p->n * p->rank * sizeof(float));
}

static void compare(const struct side *x, const struct side *y, struct hearth_adapter_difference *one)
{
    double xx = inner(x, x), yy = inner(y, y);
    *one = (struct hearth_adapter_difference){.in_a = x->target, .in_b = y->target};
    ht_adapter_tensor_name(x->target ? x->target : y->target, one->name);
    one->norm_a = root(xx);
    one->norm_b = root(yy);
    if (!equal(x, y))
        one->norm_difference = root(xx + yy - 2 * inner(x, y));
}

static enum hearth_status comparable(const struct hearth_adapter *a, const struct hearth_adapter *b,
                                     struct hearth_error *err)
{
    char name[64];
    if (a->architecture[0] && b->architecture[0] && strcmp(a->architecture, b->architecture))
        return ht_fail(err, HEARTH_INVALID, "%s is for %s, %s for %s", a->shown, a->architecture, b->shown,
                       b->architecture);
    const struct hearth_adapter *known = a->peft_rows ? b : a;
    if (a->peft_rows != b->peft_rows && !strcmp(known->architecture, "llama"))
        return ht_fail(err, HEARTH_INVALID, "%s has PEFT's order of rows: import it first, with its base",
                       a->peft_rows ? a->shown : b->shown);
    for (size_t i = 0; i < a->n_targets; i++) {
        const struct ht_adapter_target *p = &a->targets[i], *q = ht_adapter_find(b, p->layer, p->linear);
        ht_adapter_tensor_name(p, name);
        if (q && (p->n != q->n || p->k != q->k))
            return ht_fail(err, HEARTH_INVALID, "%s is %u x %u in %s and %u x %u in %s", name, p->n, p->k, a->shown,
                           q->n, q->k, b->shown);
    }
    return HEARTH_OK;
}

enum hearth_status hearth_adapter_diff(const struct hearth_adapter *a, const struct hearth_adapter *b,
                                       bool (*each)(void *user, const struct hearth_adapter_difference *one),
                                       void *user, struct hearth_error *err)
{
    HT_TRY(comparable(a, b, err));
    struct hearth_adapter_difference one;
    for (size_t i = 0; i < a->n_targets; i++) {
        const struct ht_adapter_target *t = &a->targets[i];
        struct side x = {a, t}, y = {b, ht_adapter_find(b, t->layer, t->linear)};
        compare(&x, &y, &one);
        if (!each(user, &one))
            return ht_fail(err, HEARTH_CANCELED, "the reader of the differences stopped");
    }
    for (size_t i = 0; i < b->n_targets; i++) {
        const struct ht_adapter_target *t = &b->targets[i];
        struct side x = {a, NULL}, y = {b, t};
        if (ht_adapter_find(a, t->layer, t->linear))
            continue;
        compare(&x, &y, &one);
        if (!each(user, &one))
            return ht_fail(err, HEARTH_CANCELED, "the reader of the differences stopped");
    }
    return HEARTH_OK;
}
