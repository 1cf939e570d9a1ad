// SPDX-License-Identifier: Apache-2.0
// sample: every path against the definition done the long way (sort everything, no shortcuts).
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "engine/base/rng.h"
#include "engine/cpu/math.h"
#include "tests/check/check.h"

struct candidate {
    float v;
    int32_t id;
};

static int by_value(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    return x->v != y->v ? (x->v < y->v) - (x->v > y->v) : (x->id > y->id) - (x->id < y->id);
}

static int32_t defined(const float *logits, uint32_t n_vocab, const struct ht_sampler *s,
                       const int32_t *history, const int32_t *token, const float *bias, const uint32_t *mask)
{
    float *v = malloc(n_vocab * sizeof *v);
    uint32_t *count = calloc(n_vocab, sizeof *count), n = 0;
    struct candidate *c = malloc(n_vocab * sizeof *c);
    memcpy(v, logits, n_vocab * sizeof *v);
    for (uint32_t i = 0; i < s->n_bias; i++)
        if (token[i] >= 0 && (uint32_t)token[i] < n_vocab)
            v[token[i]] += bias[i];
    for (uint32_t i = 0; i < s->n_history; i++)
        if (history[i] >= 0 && (uint32_t)history[i] < n_vocab)
            count[history[i]]++;
    for (uint32_t i = 0; i < n_vocab; i++) {
        if (count[i]) {
            v[i] = v[i] > 0 ? v[i] / s->repeat_penalty : v[i] * s->repeat_penalty;
            v[i] -= s->presence_penalty;
            v[i] -= s->frequency_penalty * (float)count[i];
        }
        if (isfinite(v[i]) && (!s->masked || mask[i / 32] >> i % 32 & 1))
            c[n++] = (struct candidate){v[i], (int32_t)i};
    }
    qsort(c, n, sizeof *c, by_value);
    int32_t id = n ? c[0].id : -1;
    if (n && s->temperature > 0) {
        if (s->top_k && s->top_k < n)
            n = s->top_k;
        float top = c[0].v / s->temperature, total = 0, sum = 0;
        for (uint32_t i = 0; i < n; i++)
            total += c[i].v = ht_exp(c[i].v / s->temperature - top);
        if (s->top_p < 1) {
            uint32_t kept = 1;
            for (sum = c[0].v; kept < n && !(sum >= s->top_p * total); kept++)
                sum += c[kept].v;
            n = kept;
        }
        while (n > 1 && c[n - 1].v < s->min_p)
            n--;
        total = sum = 0;
        for (uint32_t i = 0; i < n; i++)
            total += c[i].v;
        float u = ht_unit_f32(ht_philox(s->seed, s->position, 0).v[0]) * total;
        uint32_t i = 0;
        for (; i + 1 < n && !((sum += c[i].v) > u); i++)
            ;
        id = c[i].id;
    }
    free(v);
    free(count);
    free(c);
    return id;
}

enum { OUTS = 6 };

// Nothing, few, half or all ids.
static void fill_mask(uint32_t *mask, uint32_t n_words)
{
    uint32_t density = check_below(4);
    for (uint32_t i = 0; i < n_words; i++) {
        uint32_t word = check_random();
        word = density == 0 ? 0 : density == 1 ? word & check_random() & check_random() & check_random() : word;
        mask[i] = density == 3 ? UINT32_MAX : word;
    }
}

static unsigned run_case(struct check_device *d, uint32_t n_vocab, unsigned salt)
{
    unsigned failures = 0;
    static const uint32_t top_ks[] = {0, 1, 2, 40, 64, 1000};
    static const float temperatures[] = {0, 0.7f, 1.0f, 0.05f, 3.0f, 40.0f};
    check_reseed(salt);
    struct check_view logits = check_view_make(d, OUTS, n_vocab, n_vocab + salt % 3),
                      token = check_view_make(d, 1, OUTS, OUTS);
    struct check_plan p = check_plan_begin(d, (struct ht_step_shape){OUTS, OUTS, 1, 1, n_vocab});
    CHECK_OK(d->table->sample(p.plan, &(struct ht_sample){logits.ref, token.ref, logits.stride, n_vocab},
                              &check_err));
    check_plan_end(&p);
    float *x = malloc(n_vocab * sizeof *x);
    for (uint32_t o = 0; o < OUTS; o++) {
        struct ht_sampler *s = &p.step.sampler[o];
        bool off = check_below(2);
        *s = (struct ht_sampler){.seed = check_random(),
                                 .position = check_random(),
                                 .temperature = temperatures[check_below(6)],
                                 .top_p = check_below(2)   ? 1.0f
                                          : check_below(2) ? 0.9f
                                                           : 0.0f,
                                 .min_p = check_below(2) ? 0 : 0.05f,
                                 .repeat_penalty = off ? 1.0f : 1.3f,
                                 .presence_penalty = off ? 0 : 0.5f,
                                 .frequency_penalty = off ? 0 : 0.25f,
                                 .top_k = top_ks[check_below(6)],
                                 .n_history = check_below(80),
                                 .n_bias = off ? 0 : check_below(5),
                                 .active = o != 3,
                                 .masked = check_below(2)};
        check_fill(x, n_vocab, check_below(CHECK_N_INPUTS));
        if (check_below(2))
            for (uint32_t i = 0; i < n_vocab; i++)
                x[i] = floorf(x[i] * 4); // many ties
        if (salt % 7 == 0 && o == 1)
            for (uint32_t i = 0; i < n_vocab; i++)
                x[i] = i % 2 ? -INFINITY : NAN;
        check_view_put(&logits, o, x);
        fill_mask(p.step.mask + o * ht_mask_words(n_vocab), ht_mask_words(n_vocab));
        for (uint32_t i = 0; i < s->n_history; i++)
            p.step.history[o * HT_MAX_PENALTY_WINDOW + i] =
                (int32_t)check_below(check_below(2) ? 9 : n_vocab + 3) - 1;
        for (uint32_t i = 0; i < s->n_bias; i++) {
            p.step.bias_token[o * HT_MAX_LOGIT_BIAS + i] = (int32_t)check_below(n_vocab);
            p.step.bias_value[o * HT_MAX_LOGIT_BIAS + i] = check_below(4) ? 5 * check_unit() : -INFINITY;
        }
    }
    check_plan_run(&p);
    for (uint32_t o = 0; o < OUTS; o++) {
        int32_t got, want = defined(check_view_row(&logits, o), n_vocab, &p.step.sampler[o],
                                    p.step.history + o * HT_MAX_PENALTY_WINDOW,
                                    p.step.bias_token + o * HT_MAX_LOGIT_BIAS,
                                    p.step.bias_value + o * HT_MAX_LOGIT_BIAS,
                                    p.step.mask + o * ht_mask_words(n_vocab));
        memcpy(&got, check_view_row(&token, 0) + o, 4);
        if (!p.step.sampler[o].active)
            want = 0x7FC0F00D; // not drawn: as it was
        if (got != want && !failures++)
            fprintf(stderr, "HEARTH_TEST_SEED=%llu sample %s vocab %u case %u row %u: got %d, want %d\n",
                    (unsigned long long)check_seed(), d->name, n_vocab, salt, o, got, want);
    }
    failures += check_view_guards(&logits, "sample logits") + check_view_guards(&token, "sample token");
    free(x);
    check_plan_free(&p);
    check_view_free(&logits);
    check_view_free(&token);
    return failures;
}

static void paths_equal_definition(void **state)
{
    (void)state;
    static const uint32_t vocabs[] = {1, 2, 31, 255, 256, 257, 1000, 4099};
    unsigned failures = 0;
    for (int isa = 0; check_isas[isa]; isa++)
        for (unsigned threads = 1; threads <= 3; threads++) {
            struct check_device d;
            if (!check_open(&d, check_isas[isa], threads, HT_PRECISION_Q))
                continue;
            for (unsigned i = 0; i < 96; i++)
                failures += run_case(&d, vocabs[i % 8], i);
            failures += run_case(&d, 49152, 1000 + threads);
            check_close(&d);
        }
    assert_int_equal(failures, 0);
}

static unsigned draws_as_defined(struct check_device *d, const char *what, const float *x, uint32_t n_vocab,
                                 struct ht_sampler s, unsigned n_draws)
{
    unsigned failures = 0;
    struct check_view logits = check_view_make(d, 1, n_vocab, n_vocab), token = check_view_make(d, 1, 1, 1);
    check_view_put(&logits, 0, x);
    struct check_plan p = check_plan_begin(d, (struct ht_step_shape){1, 1, 1, 1, n_vocab});
    CHECK_OK(d->table->sample(p.plan, &(struct ht_sample){logits.ref, token.ref, n_vocab, n_vocab}, &check_err));
    check_plan_end(&p);
    s.active = 1;
    s.repeat_penalty = 1;
    for (s.position = 0; s.position < n_draws; s.position++) {
        int32_t got, want = defined(x, n_vocab, &s, NULL, NULL, NULL, NULL);
        p.step.sampler[0] = s;
        check_plan_run(&p);
        memcpy(&got, check_view_row(&token, 0), 4);
        if (got != want && !failures++)
            fprintf(stderr, "%s %s, draw %llu: got %d, want %d\n", d->name, what, (unsigned long long)s.position, got,
                    want);
    }
    check_plan_free(&p);
    check_view_free(&logits);
    check_view_free(&token);
    return failures;
}

// Where a shortcut would show: more blocks than top_k asks for, a tail of many small ones, ties at the border of min_p,
// and the two zeros.
static void corners(void **state)
{
    (void)state;
    enum { N = 49152 };
    static const float zeros[][3] = {{-0.0f, 0.0f, -1}, {0.0f, -0.0f, -1}, {-1, -0.0f, 0.0f}}, tied[] = {1, 3, 2, 3};
    struct check_device d;
    unsigned failures = 0;
    float *x = malloc(N * sizeof *x);
    assert_true(check_open(&d, NULL, 2, HT_PRECISION_Q));
    check_reseed(11);
    check_fill(x, N, CHECK_NORMAL);
    failures += draws_as_defined(&d, "top-k", x, N, (struct ht_sampler){.temperature = 9, .top_p = 1, .top_k = 40}, 25);
    for (uint32_t i = 0; i < N; i++)
        x[i] = i == 777 ? 0 : -12.5f - (float)(i % 8) / 64;
    failures += draws_as_defined(&d, "tail", x, N, (struct ht_sampler){.temperature = 1, .top_p = 1}, 40);
    failures += draws_as_defined(&d, "min-p", tied, 4,
                                 (struct ht_sampler){.temperature = 1, .top_p = 1, .min_p = 1}, 40);
    for (int i = 0; i < 3; i++)
        failures += draws_as_defined(&d, "zeros", zeros[i], 3,
                                     (struct ht_sampler){.temperature = 1, .top_p = 1, .top_k = 1}, 2);
    check_close(&d);
    free(x);
    assert_int_equal(failures, 0);
}

// Draws follow the distribution: chi-square of 20,000 draws from 8 tokens stays below 29.9 (p = 1e-4, 7
// degrees).
static void draws_follow_the_distribution(void **state)
{
    (void)state;
    struct check_device d;
    assert_true(check_open(&d, NULL, 1, HT_PRECISION_Q));
    static const float x[8] = {0, 1, -1, 2, 0.5f, 1.5f, -2, 0.25f};
    struct check_view logits = check_view_make(&d, 1, 8, 8), token = check_view_make(&d, 1, 1, 1);
    check_view_put(&logits, 0, x);
    struct check_plan p = check_plan_begin(&d, (struct ht_step_shape){1, 1, 1, 1, 0});
    CHECK_OK(d.table->sample(p.plan, &(struct ht_sample){logits.ref, token.ref, 8, 8}, &check_err));
    check_plan_end(&p);
    double expected[8], total = 0, chi = 0;
    unsigned seen[8] = {0};
    for (int i = 0; i < 8; i++)
        total += expected[i] = exp((double)x[i]);
    for (unsigned i = 0; i < 20000; i++) {
        p.step.sampler[0] = (struct ht_sampler){
            .seed = 42, .position = i, .temperature = 1, .top_p = 1, .repeat_penalty = 1, .active = 1};
        check_plan_run(&p);
        int32_t id;
        memcpy(&id, check_view_row(&token, 0), 4);
        seen[id]++;
    }
    for (int i = 0; i < 8; i++) {
        double want = expected[i] / total * 20000;
        chi += (seen[i] - want) * (seen[i] - want) / want;
    }
    assert_true(chi < 29.9);
    check_plan_free(&p);
    check_view_free(&logits);
    check_view_free(&token);
    check_close(&d);
}

static int bench(void)
{
    static const uint32_t vocabs[] = {49152, 262144};
    for (int v = 0; v < 2; v++)
        for (int mode = 0; mode < 5; mode++) {
            static const char *const names[] = {"greedy", "top-k 40", "top-k 40, penalties",
                                                "temperature 1, no top-k", "top-k 40, a mask"};
            struct check_device d;
            check_open(&d, NULL, 2, HT_PRECISION_Q);
            struct check_view logits = check_view_make(&d, 1, vocabs[v], vocabs[v]),
                              token = check_view_make(&d, 1, 1, 1);
            float *x = malloc(vocabs[v] * sizeof *x);
            check_fill(x, vocabs[v], CHECK_NORMAL);
            for (uint32_t i = 0; i < vocabs[v]; i++)
                x[i] *= 4;
            check_view_put(&logits, 0, x);
            struct check_plan p = check_plan_begin(&d, (struct ht_step_shape){1, 1, 1, 1, vocabs[v]});
            CHECK_OK(d.table->sample(p.plan, &(struct ht_sample){logits.ref, token.ref, vocabs[v], vocabs[v]},
                                     &check_err));
            check_plan_end(&p);
            p.step.sampler[0] = (struct ht_sampler){.temperature = mode ? 0.8f : 0,
                                                    .top_p = 0.95f,
                                                    .min_p = 0.05f,
                                                    .repeat_penalty = mode == 2 ? 1.1f : 1,
                                                    .n_history = 64,
                                                    .top_k = mode == 3 ? 0 : 40,
                                                    .active = 1,
                                                    .masked = mode == 4};
            memset(p.step.mask, 0xA5, ht_mask_words(vocabs[v]) * sizeof *p.step.mask);
            double best = 1;
            for (int i = 0; i < 200; i++) {
                struct timespec a, b;
                clock_gettime(CLOCK_MONOTONIC, &a);
                check_plan_run(&p);
                clock_gettime(CLOCK_MONOTONIC, &b);
                best = fmin(best, (double)(b.tv_sec - a.tv_sec) + 1e-9 * (double)(b.tv_nsec - a.tv_nsec));
            }
            printf("vocab %u, %s: %.0f us (best of 200)\n", vocabs[v], names[mode], best * 1e6);
            free(x);
            check_plan_free(&p);
            check_view_free(&logits);
            check_view_free(&token);
            check_close(&d);
        }
    return 0;
}

int main(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "--bench"))
        return bench();
    const struct CMUnitTest tests[] = {cmocka_unit_test(paths_equal_definition), cmocka_unit_test(corners),
                                       cmocka_unit_test(draws_follow_the_distribution)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
