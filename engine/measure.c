// SPDX-License-Identifier: Apache-2.0
// What this machine's matrix kernels and barriers do, for `hearth bench`. A product goes the way that a model's go:
// weights packed by the back end, a plan, a step. Any thread, one at a time.
#include <stdio.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/base/pool.h"
#include "engine/engine.h"
#include "engine/ops/backend.h"

enum { SIDE = 4096, MAX_MATRICES = 128, MAX_ROWS = 8, REPEATS = 9, BARRIERS = 20000 };

static const enum ht_type formats[] = {
    HT_TYPE_Q4_0, HT_TYPE_Q4_1, HT_TYPE_Q5_0, HT_TYPE_Q5_1, HT_TYPE_Q8_0, HT_TYPE_IQ4_NL,
    HT_TYPE_Q2_K, HT_TYPE_Q3_K, HT_TYPE_Q4_K, HT_TYPE_Q5_K, HT_TYPE_Q6_K,
};

struct bench {
    const struct ht_device_ops *dev;
    struct ht_device *device;
    struct ht_weight *matrix[MAX_MATRICES];
    unsigned n_matrices;
    struct ht_buf *work; // x (8, 4096), y (8, 4096)
    struct ht_step step;
    void *step_memory;
};

// Rows whose every two bytes are a plain half float: no scale is subnormal, infinite or NaN.
static enum hearth_status fill(struct bench *b, struct ht_weight *w, unsigned char *rows, size_t row_bytes,
                               struct hearth_error *err)
{
    enum { AT_ONCE = 64 };
    uint32_t random = 1;
    for (size_t i = 0; i < AT_ONCE * row_bytes; i++) {
        random = random * 1664525u + 1013904223u;
        rows[i] = (unsigned char)(0x10 | random >> 28);
    }
    for (uint32_t row = 0; row < SIDE; row += AT_ONCE)
        HT_TRY(b->dev->weight_write(b->device, w, row, AT_ONCE, rows, err));
    return HEARTH_OK;
}

static enum hearth_status make_matrices(struct bench *b, enum ht_type type, size_t total_bytes,
                                        struct hearth_error *err)
{
    uint64_t row_bytes;
    if (!ht_row_bytes(type, SIDE, &row_bytes))
        return ht_fail(err, HEARTH_INVALID, "no rows of %d values in this format", SIDE);
    size_t wanted = total_bytes / ((size_t)row_bytes * SIDE) + 1;
    unsigned char *rows = ht_calloc(64, (size_t)row_bytes);
    if (!rows)
        return ht_fail(err, HEARTH_NOMEM, "out of memory for a kernel test");
    enum hearth_status status = HEARTH_OK;
    const struct ht_weight_params params = {type, SIDE, SIDE};
    while (status == HEARTH_OK && b->n_matrices < wanted && b->n_matrices < MAX_MATRICES) {
        status = b->dev->weight_create(b->device, &params, &b->matrix[b->n_matrices], err);
        if (status == HEARTH_OK)
            status = fill(b, b->matrix[b->n_matrices++], rows, (size_t)row_bytes, err);
    }
    ht_free(rows);
    return status;
}

static enum hearth_status make_step(struct bench *b, struct hearth_error *err)
{
    const struct ht_step_shape shape = {.rows = MAX_ROWS, .outs = 1, .seqs = 1, .pages = 1};
    size_t size = ht_step_layout(&b->step, &shape, NULL);
    if (!(b->step_memory = ht_calloc(1, size)))
        return ht_fail(err, HEARTH_NOMEM, "out of memory for a kernel test");
    ht_step_layout(&b->step, &shape, b->step_memory);
    for (int32_t i = 0; i < MAX_ROWS; i++) {
        b->step.pos[i] = i;
        b->step.adapter[i] = -1;
    }
    b->step.counts[2] = 1;
    HT_TRY(b->dev->buf_create(b->device, 2 * MAX_ROWS * SIDE * sizeof(float), &b->work, err));
    for (uint32_t i = 0; i < MAX_ROWS * SIDE; i++) {
        float x = (float)(i * 2654435761u >> 16) / 32768.0f - 1.0f;
        HT_TRY(b->dev->buf_write(b->device, b->work, i * sizeof x, &x, sizeof x, err));
    }
    return HEARTH_OK;
}

// All matrices, one after another, by `rows` rows of x: the time of the median pass.
static enum hearth_status time_rows(struct bench *b, uint32_t rows, double *seconds, struct hearth_error *err)
{
    struct ht_step_shape shape = b->step.shape;
    struct ht_plan *plan;
    double took[REPEATS];
    shape.rows = rows;
    HT_TRY(b->dev->plan_begin(b->device, &shape, &plan, err));
    enum hearth_status status = HEARTH_OK;
    for (unsigned i = 0; status == HEARTH_OK && i < b->n_matrices; i++) {
        struct ht_matmul op = {.x = {b->work, 0}, .x_stride = SIDE, .k = SIDE, .n_parts = 1};
        op.part[0] =
            (struct ht_matmul_part){.w = b->matrix[i], .y = {b->work, MAX_ROWS * SIDE}, .y_stride = SIDE};
        status = b->dev->ops(b->device)->matmul(plan, &op, err);
    }
    if (status == HEARTH_OK)
        status = b->dev->plan_end(plan, err);
    b->step.counts[0] = rows;
    for (int i = -1; status == HEARTH_OK && i < REPEATS; i++) { // the first warms up
        double begin = ht_now_s();
        status = b->dev->submit(plan, &b->step, err);
        if (status == HEARTH_OK)
            status = b->dev->wait(b->device, 0, err);
        if (i >= 0)
            took[i] = ht_now_s() - begin;
    }
    b->dev->plan_destroy(&plan);
    *seconds = status == HEARTH_OK ? ht_median(took, REPEATS) : 0;
    return status;
}

static enum hearth_status measure(struct bench *b, enum ht_type type, size_t total_bytes,
                                  struct hearth_kernel_speed *out, struct hearth_error *err)
{
    HT_TRY(make_matrices(b, type, total_bytes, err));
    HT_TRY(make_step(b, err));
    uint64_t row_bytes = 0;
    ht_row_bytes(type, SIDE, &row_bytes);
    double bytes = (double)row_bytes * SIDE * b->n_matrices;
    for (unsigned c = 0; c < HEARTH_KERNEL_COLUMNS; c++) {
        double seconds;
        HT_TRY(time_rows(b, hearth_kernel_columns[c], &seconds, err));
        out->gb_per_second[c] = seconds > 0 ? bytes / seconds / 1e9 : 0;
    }
    return HEARTH_OK;
}

const unsigned hearth_kernel_columns[HEARTH_KERNEL_COLUMNS] = {1, 2, 4, 8};

enum hearth_status hearth_measure_kernel(unsigned index, unsigned n_threads, size_t total_bytes,
                                         struct hearth_kernel_speed *out, struct hearth_error *err)
{
    struct bench b = {0};
    struct ht_device_params params = {.n_threads = n_threads};
    *out = (struct hearth_kernel_speed){0};
    if (index >= sizeof formats / sizeof formats[0])
        return ht_fail(err, HEARTH_NOT_FOUND, "there are %zu formats", sizeof formats / sizeof formats[0]);
    snprintf(out->format, sizeof out->format, "%s", ht_type_info(formats[index])->name);
    HT_TRY(ht_backend_find("cpu", &b.dev, &params.index, err));
    HT_TRY(b.dev->open(&b.device, &params, err));
    enum hearth_status status = measure(&b, formats[index], total_bytes, out, err);
    for (unsigned i = 0; i < b.n_matrices; i++)
        b.dev->weight_destroy(b.device, &b.matrix[i]);
    b.dev->buf_destroy(b.device, &b.work);
    ht_free(b.step_memory);
    b.dev->close(&b.device);
    return status;
}

struct barriers {
    struct ht_pool *pool;
    double seconds;
};

static void pass_barriers(void *arg, unsigned thread, unsigned n_threads)
{
    struct barriers *b = arg;
    (void)n_threads;
    double begin = ht_now_s();
    for (int i = 0; i < BARRIERS; i++)
        ht_pool_barrier(b->pool, thread);
    if (!thread)
        b->seconds = ht_now_s() - begin;
}

enum hearth_status hearth_measure_barrier(unsigned n_threads, double *nanoseconds, struct hearth_error *err)
{
    struct barriers b = {0};
    double took[REPEATS];
    *nanoseconds = 0;
    HT_TRY(ht_pool_create(&b.pool, n_threads, err));
    for (int i = 0; i < REPEATS; i++) {
        ht_pool_run(b.pool, pass_barriers, &b);
        took[i] = b.seconds;
    }
    ht_pool_destroy(&b.pool);
    *nanoseconds = ht_median(took, REPEATS) / BARRIERS * 1e9;
    return HEARTH_OK;
}
