// SPDX-License-Identifier: Apache-2.0
// Shared by the tests of the training graph: its losses and gradients beside a computation in double, which finite
// differences judge.
#ifndef GRADIENT_TEST_H
#define GRADIENT_TEST_H
#include "tests/check/train_model.h"
#include "tests/model/graph_test.h"

static inline const char *name_of(const struct hearth_adapter *a, size_t target, int half)
{
    static char name[80];
    char tensor[64];
    ht_adapter_tensor_name(&a->targets[target], tensor);
    snprintf(name, sizeof name, "%s %c", tensor, half ? 'B' : 'A');
    return name;
}

// The computation in double has the gradient that finite differences of its loss give.
static inline unsigned by_differences(const char *family, float dropout, float neftune)
{
    struct hearth_engine *engine = engine_open(family, NULL, 1);
    struct hearth_adapter *a = adapter_make(&engine->model.hp, ALL | HEAD, true);
    struct rows r = {0};
    unsigned failures = 0;
    rows_add(&r, 4, 1, true);
    rows_add(&r, 11, 2, true); // longer than the window
    struct train_model *m = train_model_make(&engine->model, a, &r.batch);
    train_model_draws(m, dropout, neftune, 3, 4);
    train_model_loss(m);
    train_model_back(m);
    check_reseed(9);
    for (size_t i = 0; i < a->n_targets; i++)
        for (int half = 0; half < 2; half++) {
            const struct ht_adapter_target *t = &a->targets[i];
            size_t from = half ? t->b_at : t->a_at, n = (size_t)t->rank * (half ? t->n : t->k);
            double largest = 0;
            for (size_t j = 0; j < n; j++)
                largest = fmax(largest, fabs(train_model_gradient(m)[from + j]));
            assert_true(largest > 1e-5); // one that could be wrong
            for (int j = 0; j < 2; j++) {
                size_t at = from + check_below((uint32_t)n);
                failures += train_slope_is(name_of(a, i, half), train_model_gradient(m)[at],
                                           train_slope(train_model_loss, m, train_model_values(m) + at), 0.1);
            }
        }
    train_model_free(m);
    hearth_adapter_close(&a);
    hearth_engine_close(&engine);
    return failures;
}

// Losses within of_loss, in the root mean square within a quarter of it; each matrix of gradients within of_gradient of
// its largest value.
static inline unsigned near(const struct hearth_adapter *a, struct train_model *m, const struct rows *r,
                            struct ht_graph *g, double of_loss, double of_gradient)
{
    unsigned failures = 0;
    float *gradient = vector_of(g, HT_GRAPH_GRADIENTS);
    train_model_loss(m);
    train_model_back(m);
    double squares = 0;
    for (uint32_t i = 0; i < r->batch.n_rows; i++) {
        double off = (double)ht_graph_losses(g)[i] - train_model_row_loss(m, i);
        failures += !(fabs(off) < of_loss);
        squares += off * off;
    }
    failures += !(sqrt(squares / r->batch.n_rows) < of_loss / 4);
    if (failures)
        print_message("%u losses are wrong\n", failures);
    for (size_t i = 0; i < a->n_targets; i++)
        for (int half = 0; half < 2; half++) {
            const struct ht_adapter_target *t = &a->targets[i];
            size_t from = half ? t->b_at : t->a_at, n = (size_t)t->rank * (half ? t->n : t->k);
            double largest = 0, error = 0;
            for (size_t j = 0; j < n; j++) {
                largest = fmax(largest, fabs(train_model_gradient(m)[from + j]));
                error = fmax(error, fabs((double)gradient[from + j] - train_model_gradient(m)[from + j]));
            }
            if (largest > 1e-6 && error <= of_gradient * largest)
                continue;
            print_message("%s: off by %g of %g\n", name_of(a, i, half), error, largest);
            failures++;
        }
    free(gradient);
    return failures;
}

static inline unsigned graph_near(const char *family, unsigned linears, bool mixed, struct ht_graph_params params)
{
    struct hearth_engine *engine = engine_open(family, NULL, 2);
    if (!engine->dev->train->supports(engine->device, params.precision)) {
        hearth_engine_close(&engine);
        return 0; // a CPU without it
    }
    check_reseed(77);
    struct hearth_adapter *a = adapter_make(&engine->model.hp, linears, mixed);
    struct rows r = {0};
    rows_add(&r, 13, 1, true);
    rows_add(&r, 20, 2, true);
    rows_add(&r, 2, 3, true);
    struct ht_graph *g = graph_make(engine, a, params);
    struct train_model *m = train_model_make(&engine->model, a, &r.batch);
    train_model_draws(m, params.dropout, params.neftune, 11, 1);
    pass(g, HT_GRAPH_TRAIN, &r.batch, 1);
    // f32 sums of some hundred terms over a few layers lose 1e-5 of the largest, a wrong term anywhere more than 1e-3.
    // bf16 keeps 8 bits of what goes into a product: a few hundredths after some layers. Of 410 models' losses (41
    // seeds) the root mean square is 0.006 in the mean and 0.016 at most; of their 14,350 rows three are off by 0.05
    // to 0.06.
    bool exact = params.precision == HT_TRAIN_F;
    unsigned failures = near(a, m, &r, g, exact ? 1e-5 : 0.1, exact ? 1e-4 : 0.1);
    if (failures)
        print_message("%s, linears %x\n", family, linears);
    train_model_free(m);
    ht_graph_destroy(&g);
    hearth_adapter_close(&a);
    hearth_engine_close(&engine);
    return failures;
}

#endif
