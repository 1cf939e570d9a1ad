// SPDX-License-Identifier: Apache-2.0
// The harness of the op tests: see check.h. One thread.
#include "tests/check/check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/base/half.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"

struct hearth_error check_err;
bool check_quiet;
const char *const check_isas[] = {"ref",  "avx2",    "avx512vnni", "amx",
                                  "neon", "dotprod", "i8mm",       NULL};
const char *const check_input_names[CHECK_N_INPUTS] = {"normal",   "zeros",    "one-hot",   "limits",
                                                       "denormal", "outliers", "non-finite"};
const enum ht_type check_types[] = {
    HT_TYPE_F32,  HT_TYPE_F16,  HT_TYPE_BF16, HT_TYPE_Q4_0, HT_TYPE_Q4_1, HT_TYPE_Q5_0, HT_TYPE_Q5_1,
    HT_TYPE_Q8_0, HT_TYPE_Q2_K, HT_TYPE_Q3_K, HT_TYPE_Q4_K, HT_TYPE_Q5_K, HT_TYPE_Q6_K, HT_TYPE_IQ4_NL,
};
const unsigned check_n_types = sizeof check_types / sizeof check_types[0];

void check_ok(enum hearth_status status, const char *what, const char *file, int line)
{
    if (status == HEARTH_OK)
        return;
    fprintf(stderr, "%s:%d: %s: %s\n", file, line, what, check_err.text);
    abort();
}

// ---- random numbers

static uint64_t salt_now, counter;

uint64_t check_seed(void)
{
    static uint64_t seed;
    static bool known;
    if (!known) {
        const char *text = getenv("HEARTH_TEST_SEED");
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        seed = !text                     ? 1
               : !strcmp(text, "random") ? (uint64_t)now.tv_nsec ^ (uint64_t)now.tv_sec << 20
                                         : strtoull(text, NULL, 0);
        known = true;
        printf("# HEARTH_TEST_SEED=%llu\n", (unsigned long long)seed);
    }
    return seed;
}

void check_reseed(uint64_t salt)
{
    salt_now = salt;
    counter = 0;
}

uint32_t check_random(void)
{
    uint64_t at = counter++;
    return ht_philox(check_seed(), salt_now, at / 4).v[at % 4];
}

uint32_t check_below(uint32_t n)
{
    return (uint32_t)((uint64_t)check_random() * n >> 32);
}

float check_unit(void)
{
    return (float)(int32_t)check_random() * 0x1p-31f;
}

// ---- inputs

void check_fill(float *x, size_t n, enum check_input input)
{
    static const float limits[] = {127, -127, 127.49f, -128, 63.5f, 0.5f, -0.5f, 1.5f, 2.5f, -2.5f, 0, -0.0f};
    for (size_t i = 0; i < n; i++) {
        switch (input) {
        case CHECK_ZEROS:
        case CHECK_ONE_HOT: x[i] = 0; break;
        case CHECK_LIMITS: x[i] = limits[check_below(sizeof limits / sizeof limits[0])]; break;
        case CHECK_DENORMAL: x[i] = check_unit() * (check_below(2) ? 0x1p-128f : 0x1p-112f); break;
        case CHECK_OUTLIERS: x[i] = check_below(19) ? check_unit() : 3e4f * check_unit(); break;
        default: x[i] = check_unit() + check_unit() + check_unit();
        }
    }
    if (input == CHECK_ONE_HOT && n)
        x[check_below((uint32_t)n)] = -3.25f;
    if (input == CHECK_NONFINITE && n) {
        x[check_below((uint32_t)n)] = INFINITY;
        x[check_below((uint32_t)n)] = -INFINITY;
        x[check_below((uint32_t)n)] = NAN;
    }
}

// Half floats of a block: their offsets.
static unsigned halves_of(enum ht_type type, unsigned at[2])
{
    at[0] = 0;
    at[1] = 2;
    switch (type) {
    case HT_TYPE_Q4_1:
    case HT_TYPE_Q5_1:
    case HT_TYPE_Q4_K:
    case HT_TYPE_Q5_K: return 2;
    case HT_TYPE_Q2_K:
        at[0] = 80;
        at[1] = 82;
        return 2;
    case HT_TYPE_Q3_K: at[0] = 108; return 1;
    case HT_TYPE_Q6_K: at[0] = 208; return 1;
    default: return 1;
    }
}

static uint16_t random_half(enum check_input input)
{
    float v = check_unit() * 0.05f;
    if (input == CHECK_ZEROS)
        v = 0;
    if (input == CHECK_DENORMAL)
        v = check_unit() * 0x1p-18f;
    if (input == CHECK_OUTLIERS && !check_below(5))
        v = check_unit() * 6e4f;
    if (input == CHECK_NONFINITE && !check_below(9))
        v = check_below(2) ? INFINITY : NAN;
    return ht_f32_f16(v);
}

void check_fill_blocks(enum ht_type type, void *blocks, uint32_t k, enum check_input input)
{
    const struct ht_type_info *info = ht_type_info(type);
    unsigned char *p = blocks;
    for (uint32_t i = 0; i < k; i += info->block_values, p += info->block_bytes) {
        if (info->block_values == 1) {
            float v;
            check_fill(&v, 1, input == CHECK_NONFINITE || input == CHECK_ONE_HOT ? CHECK_NORMAL : input);
            uint16_t half = type == HT_TYPE_F16 ? ht_f32_f16(v) : ht_f32_bf16(v);
            memcpy(p, type == HT_TYPE_F32 ? (void *)&v : (void *)&half, info->block_bytes);
            continue;
        }
        uint32_t constant = check_below(3)   ? 0
                            : check_below(2) ? 0
                                             : 0xFFFFFFFF; // some blocks of lowest or highest codes
        bool random = input != CHECK_LIMITS || check_below(2);
        for (unsigned b = 0; b < info->block_bytes; b++)
            p[b] = (unsigned char)(random ? check_random() : constant);
        if (type == HT_TYPE_Q8_0 && input == CHECK_LIMITS)
            memset(p, constant ? 0x80 : 0x7F, info->block_bytes);
        unsigned at[2], n = halves_of(type, at);
        for (unsigned h = 0; h < n; h++) {
            uint16_t half = random_half(input);
            memcpy(p + at[h], &half, 2);
        }
    }
}

// ---- devices

bool check_open(struct check_device *d, const char *isa, unsigned n_threads, enum ht_precision precision)
{
    unsigned index;
    memset(d, 0, sizeof *d);
    CHECK_OK(ht_backend_find("cpu", &d->ops, &index, &check_err));
    struct ht_device_params params = {.n_threads = n_threads, .precision = precision, .isa = isa};
    enum hearth_status status = d->ops->open(&d->device, &params, &check_err);
    if (status == HEARTH_UNSUPPORTED)
        return false;
    CHECK_OK(status);
    d->table = d->ops->ops(d->device);
    snprintf(d->name, sizeof d->name, "%s, %u threads", isa ? isa : "best", n_threads);
    return true;
}

void check_close(struct check_device *d)
{
    d->ops->close(&d->device);
}

// ---- watched buffers

enum { GUARD = 64 };                                            // floats on each side
static const uint32_t pattern = 0x7FC0BEEF, fresh = 0x7FC0F00D; // both NaN

struct check_view check_view_make(struct check_device *d, uint32_t rows, uint32_t width, uint32_t stride)
{
    struct check_view v = {.d = d, .rows = rows, .width = width, .stride = stride};
    size_t n = 2 * GUARD + (size_t)rows * stride;
    CHECK_OK(d->ops->buf_create(d->device, n * sizeof(float), &v.buf, &check_err));
    v.ref = (struct ht_ref){v.buf, GUARD};
    uint32_t *p = d->ops->buf_host(v.buf);
    for (size_t i = 0; i < n; i++)
        p[i] = pattern;
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t i = 0; i < width; i++)
            p[GUARD + (size_t)r * stride + i] = fresh;
    return v;
}

void check_view_put(struct check_view *v, uint32_t row, const float *x)
{
    memcpy((float *)check_view_row(v, row), x, v->width * sizeof *x);
}

const float *check_view_row(const struct check_view *v, uint32_t row)
{
    return (const float *)v->d->ops->buf_host(v->buf) + GUARD + (size_t)row * v->stride;
}

unsigned check_view_guards(const struct check_view *v, const char *what)
{
    const uint32_t *p = v->d->ops->buf_host(v->buf);
    size_t n = 2 * GUARD + (size_t)v->rows * v->stride;
    unsigned failures = 0;
    for (size_t i = 0; i < n; i++) {
        size_t in = i - GUARD;
        bool inside = i >= GUARD && in / v->stride < v->rows && in % v->stride < v->width;
        if (!inside && p[i] != pattern && !failures++ && !check_quiet)
            fprintf(stderr, "%s: wrote outside: float %zd of (%u, %u) stride %u\n", what, (ptrdiff_t)in,
                    v->rows, v->width, v->stride);
    }
    return failures;
}

void check_view_free(struct check_view *v)
{
    v->d->ops->buf_destroy(v->d->device, &v->buf);
}

// ---- comparing

bool check_same_bits(float a, float b)
{
    return (a != a && b != b) || ht_f32_bits(a) == ht_f32_bits(b);
}

unsigned check_bits(const char *what, const float *got, const float *want, size_t n)
{
    unsigned failures = 0;
    for (size_t i = 0; i < n; i++)
        if (!check_same_bits(got[i], want[i]) && !failures++ && !check_quiet)
            fprintf(stderr, "HEARTH_TEST_SEED=%llu %s: [%zu] got %a, want %a\n",
                    (unsigned long long)check_seed(), what, i, (double)got[i], (double)want[i]);
    return failures;
}

unsigned check_bounds(const char *what, const float *got, const double *want, const double *bound, size_t n)
{
    unsigned failures = 0;
    for (size_t i = 0; i < n; i++) {
        bool good = want[i] != want[i]
                        ? got[i] != got[i]
                        : fabs((double)got[i] - want[i]) <= bound[i] || (double)got[i] == want[i];
        if (!good && !failures++ && !check_quiet)
            fprintf(stderr, "HEARTH_TEST_SEED=%llu %s: [%zu] got %.9g, want %.9g within %.3g\n",
                    (unsigned long long)check_seed(), what, i, (double)got[i], want[i], bound[i]);
    }
    return failures;
}

double check_gamma(double roundings)
{
    return roundings * 0x1p-24 / (1 - roundings * 0x1p-24);
}

// ---- weights and plans

struct ht_weight *check_weight(struct check_device *d, enum ht_type type, uint32_t n, uint32_t k,
                               const void *blocks)
{
    struct ht_weight *w;
    struct ht_weight_params params = {type, n, k};
    uint64_t row_bytes;
    ht_row_bytes(type, k, &row_bytes);
    CHECK_OK(d->ops->weight_create(d->device, &params, &w, &check_err));
    uint32_t first = n > 5 ? 5 : n; // two parts, the border inside a group of rows
    CHECK_OK(d->ops->weight_write(d->device, w, 0, first, blocks, &check_err));
    CHECK_OK(d->ops->weight_write(d->device, w, first, n - first, (const char *)blocks + first * row_bytes,
                                  &check_err));
    return w;
}

struct check_plan check_plan_begin(struct check_device *d, struct ht_step_shape shape)
{
    struct check_plan p = {.d = d};
    CHECK_OK(d->ops->plan_begin(d->device, &shape, &p.plan, &check_err));
    size_t bytes = ht_step_layout(&p.step, &shape, NULL);
    p.memory = ht_calloc(1, bytes);
    ht_step_layout(&p.step, &shape, p.memory);
    return p;
}

void check_plan_end(struct check_plan *p)
{
    struct ht_step *s = &p->step;
    CHECK_OK(p->d->ops->plan_end(p->plan, &check_err));
    s->counts[0] = s->shape.rows;
    s->counts[1] = s->shape.outs;
    s->counts[2] = 1;
    for (uint32_t r = 0; r < s->shape.rows; r++)
        s->pos[r] = (int32_t)r;
    for (uint32_t o = 0; o < s->shape.outs; o++)
        s->out_row[o] = (int32_t)o;
    for (uint32_t i = 0; i < s->shape.pages * s->shape.seqs; i++)
        s->page[i] = i;
}

void check_plan_run(struct check_plan *p)
{
    CHECK_OK(p->d->ops->submit(p->plan, &p->step, &check_err));
    CHECK_OK(p->d->ops->wait(p->d->device, 60000, &check_err));
}

void check_plan_free(struct check_plan *p)
{
    p->d->ops->plan_destroy(&p->plan);
    ht_free(p->memory);
}
