// SPDX-License-Identifier: Apache-2.0
// How fast training's products with frozen weights are here, for `hearth bench --train-products`. They go the
// way that training goes: weights packed by the back end, a plan, a step. Any thread, one at a time.
#include <stdio.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/engine.h"
#include "engine/ops/backend.h"

enum { MOST_PARTS = 3, REPEATS = 15, IN_A_RUN = 4 };

struct shape {
    const char *model;
    enum ht_type type;
    uint32_t rows, k, n_parts, n[MOST_PARTS];
};
static const struct shape shapes[] = {
    {"SmolLM2-135M", HT_TYPE_Q4_1, 512, 576, 1, {576}},
    {"SmolLM2-135M", HT_TYPE_Q4_1, 512, 576, 3, {576, 192, 192}},
    {"SmolLM2-135M", HT_TYPE_Q4_1, 512, 576, 2, {1536, 1536}},
    {"SmolLM2-135M", HT_TYPE_Q4_1, 512, 1536, 1, {576}},
    {"SmolLM2-135M", HT_TYPE_Q8_0, 64, 576, 1, {4096}}, // some rows of the head
    {"SmolLM2-135M", HT_TYPE_Q8_0, 256, 576, 1, {4096}},
    {"Gemma-3-270M", HT_TYPE_Q5_0, 512, 640, 2, {2048, 2048}},
    {"Gemma-3-270M", HT_TYPE_Q4_K, 512, 2048, 1, {640}},
    {"Gemma-3-270M", HT_TYPE_Q6_K, 512, 2048, 1, {640}},
    {"Gemma-3-270M", HT_TYPE_Q8_0, 128, 640, 1, {4096}},
};
enum { N_SHAPES = sizeof shapes / sizeof shapes[0] };

struct bench {
    const struct ht_device_ops *dev;
    const struct shape *s;
    enum ht_train_precision precision;
    struct ht_device *device;
    struct ht_weight *w[MOST_PARTS];
    struct ht_buf *x, *y;
    struct ht_plan *plan;
    struct ht_step step;
    struct ht_train_step train;
    void *step_memory, *train_memory;
    uint32_t n; // of all parts
    struct hearth_error *err;
};

static enum hearth_status make_step(struct bench *b, struct ht_step_shape *shape)
{
    *shape = (struct ht_step_shape){b->s->rows, 1, 1, 1, 0};
    size_t size = ht_step_layout(&b->step, shape, NULL);
    b->step_memory = ht_calloc(1, size);
    b->train_memory = ht_calloc(1, ht_train_step_layout(&b->train, b->s->rows, NULL));
    if (!b->step_memory || !b->train_memory)
        return ht_fail(b->err, HEARTH_NOMEM, "out of memory for a kernel test");
    ht_step_layout(&b->step, shape, b->step_memory);
    ht_train_step_layout(&b->train, b->s->rows, b->train_memory);
    for (uint32_t i = 0; i < b->s->rows; i++) {
        b->step.pos[i] = 0;
        b->step.adapter[i] = -1;
    }
    b->step.counts[0] = b->s->rows;
    b->step.counts[2] = 1;
    return HEARTH_OK;
}

// Rows whose every two bytes are a plain half float: no scale is subnormal, infinite or NaN.
static enum hearth_status make_weight(struct bench *b, uint32_t part)
{
    const struct ht_weight_params params = {b->s->type, b->s->n[part], b->s->k};
    uint64_t row_bytes;
    uint32_t random = 1;
    if (!ht_row_bytes(params.type, params.k, &row_bytes))
        return ht_fail(b->err, HEARTH_INVALID, "no such rows");
    HT_TRY(b->dev->weight_create(b->device, &params, &b->w[part], b->err));
    unsigned char *rows = ht_calloc(params.n, (size_t)row_bytes);
    if (!rows)
        return ht_fail(b->err, HEARTH_NOMEM, "out of memory for a kernel test");
    for (size_t i = 0; i < params.n * (size_t)row_bytes; i++) {
        random = random * 1664525u + 1013904223u;
        rows[i] = (unsigned char)(0x10 | random >> 28);
    }
    enum hearth_status status = b->dev->weight_write(b->device, b->w[part], 0, params.n, rows, b->err);
    ht_free(rows);
    return status;
}

static enum hearth_status make_values(struct bench *b, uint32_t width, struct ht_buf **buf)
{
    size_t n = (size_t)b->s->rows * width;
    HT_TRY(b->dev->buf_create(b->device, n * sizeof(float), buf, b->err));
    float *x = ht_calloc(n, sizeof *x);
    if (!x)
        return ht_fail(b->err, HEARTH_NOMEM, "out of memory for a kernel test");
    for (size_t i = 0; i < n; i++)
        x[i] = (float)((uint32_t)i * 2654435761u >> 16) / 65536.0f - 0.5f;
    enum hearth_status status = b->dev->buf_write(b->device, *buf, 0, x, n * sizeof *x, b->err);
    ht_free(x);
    return status;
}

static enum hearth_status record(struct bench *b, bool transposed)
{
    struct ht_linear f = {.precision = b->precision};
    struct ht_linear_t t = {.precision = b->precision};
    struct ht_matmul *m = transposed ? &t.m : &f.m;
    *m = (struct ht_matmul){.x = {b->x, 0}, .x_stride = b->s->k, .k = b->s->k, .n_parts = b->s->n_parts};
    for (uint32_t i = 0, at = 0; i < b->s->n_parts; at += b->s->n[i++])
        m->part[i] = (struct ht_matmul_part){.w = b->w[i], .y = {b->y, at}, .y_stride = b->n};
    return transposed ? b->dev->train->linear_t(b->plan, &t, b->err) : b->dev->train->linear(b->plan, &f, b->err);
}

static enum hearth_status time_product(struct bench *b, bool transposed, double *gops)
{
    struct ht_step_shape shape = b->step.shape;
    double took[REPEATS];
    HT_TRY(b->dev->plan_begin(b->device, &shape, &b->plan, b->err));
    for (int i = 0; i < IN_A_RUN; i++)
        HT_TRY(record(b, transposed));
    HT_TRY(b->dev->plan_end(b->plan, b->err));
    for (int i = -1; i < REPEATS; i++) { // the first warms up
        double begin = ht_now_s();
        HT_TRY(b->dev->train->submit(b->plan, &b->step, &b->train, b->err));
        HT_TRY(b->dev->wait(b->device, 0, b->err));
        took[i < 0 ? 0 : i] = ht_now_s() - begin;
    }
    b->dev->plan_destroy(&b->plan);
    *gops = 2e-9 * IN_A_RUN * b->s->rows * b->n * b->s->k / ht_median(took, REPEATS);
    return HEARTH_OK;
}

static enum hearth_status measure(struct bench *b, struct hearth_product_speed *out)
{
    struct ht_step_shape shape;
    if (!b->dev->train->supports(b->device, b->precision))
        return ht_fail(b->err, HEARTH_UNSUPPORTED, "this CPU does not train in this precision");
    HT_TRY(make_step(b, &shape));
    for (uint32_t i = 0; i < b->s->n_parts; i++)
        HT_TRY(make_weight(b, i));
    HT_TRY(make_values(b, b->s->k, &b->x));
    HT_TRY(make_values(b, b->n, &b->y));
    HT_TRY(time_product(b, false, &out->forward));
    return time_product(b, true, &out->transposed);
}

enum hearth_status hearth_measure_product(unsigned index, enum hearth_product_unit unit, unsigned n_threads,
                                          const char *cpu_isa, struct hearth_product_speed *out,
                                          struct hearth_error *err)
{
    struct bench b = {.precision = (enum ht_train_precision)unit, .err = err};
    struct ht_device_params params = {.n_threads = n_threads, .isa = cpu_isa};
    *out = (struct hearth_product_speed){0};
    if (index >= N_SHAPES)
        return ht_fail(err, HEARTH_NOT_FOUND, "there are %d products", (int)N_SHAPES);
    b.s = &shapes[index];
    for (uint32_t i = 0; i < b.s->n_parts; i++)
        b.n += b.s->n[i];
    snprintf(out->model, sizeof out->model, "%s", b.s->model);
    snprintf(out->format, sizeof out->format, "%s", ht_type_info(b.s->type)->name);
    out->rows = b.s->rows;
    out->n = b.n;
    out->k = b.s->k;
    out->parts = b.s->n_parts;
    HT_TRY(ht_backend_find("cpu", &b.dev, &params.index, err));
    HT_TRY(b.dev->open(&b.device, &params, err));
    enum hearth_status status = measure(&b, out);
    b.dev->plan_destroy(&b.plan);
    for (uint32_t i = 0; i < MOST_PARTS; i++)
        if (b.w[i])
            b.dev->weight_destroy(b.device, &b.w[i]);
    b.dev->buf_destroy(b.device, &b.x);
    b.dev->buf_destroy(b.device, &b.y);
    ht_free(b.step_memory);
    ht_free(b.train_memory);
    b.dev->close(&b.device);
    return status;
}
