// SPDX-License-Identifier: Apache-2.0
// Training products over plain f32 (the LoRA matrices). Team threads, inside a submit.
#include <math.h>

#include "engine/cpu/train.h"

enum { T_COLUMNS = 256, MAX_COLS = 8 };

void ht_chain(float *acc, uint32_t n, const float *a, size_t a_stride, const float *b, size_t b_stride,
              uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        float s = a[i * a_stride];
        const float *row = b + i * b_stride;
        for (uint32_t c = 0; c < n; c++)
            acc[c] = fmaf(s, row[c], acc[c]);
    }
}

size_t ht_dense_thread_bytes(const struct ht_dense *p)
{
    return p->kind == HT_DENSE_NT ? (size_t)p->k * HT_GROUP * sizeof(float) : 0;
}

static void put_scaled(const struct ht_dense *p, const float *t, uint32_t n, float *y)
{
    for (uint32_t i = 0; i < n; i++)
        y[i] = p->add ? fmaf(p->scale, t[i], y[i]) : p->scale * t[i];
}

static void dense_nt(const struct ht_dense *p, const struct ht_run *run, unsigned thread)
{
    struct ht_range rows = ht_share(run->n_rows, thread, run->n_threads);
    float *panel = ht_run_scratch(run, thread), out[MAX_COLS * HT_GROUP];
    for (uint32_t first = 0; first < p->n && rows.from < rows.to; first += HT_GROUP) {
        uint32_t width = p->n - first < HT_GROUP ? p->n - first : HT_GROUP;
        for (uint32_t c = 0; c < HT_GROUP; c++) { // lanes beyond n: the last row again, not written out
            uint32_t row = first + (c < width ? c : width - 1);
            const float *b = ht_ref_floats(&p->b) + (size_t)row * p->b_stride;
            for (uint32_t i = 0; i < p->k; i++)
                panel[(size_t)i * HT_GROUP + c] = b[i];
        }
        for (uint32_t r = rows.from; r < rows.to; r += MAX_COLS) {
            const float *a[MAX_COLS];
            unsigned cols = rows.to - r < MAX_COLS ? rows.to - r : MAX_COLS;
            for (unsigned c = 0; c < cols; c++)
                a[c] = ht_ref_floats(&p->a) + (size_t)(r + c) * p->a_stride;
            run->device->kernels.dot_f(panel, p->k, a, cols, out);
            for (unsigned c = 0; c < cols; c++)
                put_scaled(p, out + c * HT_GROUP, width,
                           ht_ref_floats(&p->y) + (size_t)(r + c) * p->y_stride + first);
        }
    }
}

// NN: item = row of a, chain along it. TN: item = column of a, chain down it.
static void dense_n(const struct ht_dense *p, const struct ht_run *run, unsigned thread)
{
    bool tn = p->kind == HT_DENSE_TN;
    uint32_t chunks = (p->n + T_COLUMNS - 1) / T_COLUMNS;
    struct ht_range rows = ht_share(tn ? p->k : run->n_rows, thread, run->n_threads);
    for (uint32_t chunk = 0; chunk < chunks; chunk++) {
        uint32_t first = chunk * T_COLUMNS, n = p->n - first < T_COLUMNS ? p->n - first : T_COLUMNS;
        for (uint32_t i = rows.from; i < rows.to; i++) {
            float acc[T_COLUMNS] = {0};
            const float *a = ht_ref_floats(&p->a) + (tn ? i : (size_t)i * p->a_stride);
            ht_chain(acc, n, a, tn ? p->a_stride : 1, ht_ref_floats(&p->b) + first, p->b_stride,
                     tn ? run->n_rows : p->k);
            put_scaled(p, acc, n, ht_ref_floats(&p->y) + (size_t)i * p->y_stride + first);
        }
    }
}

void ht_run_dense(const struct ht_call *call, const struct ht_run *run, unsigned thread)
{
    if (call->p.dense.kind == HT_DENSE_NT)
        dense_nt(&call->p.dense, run, thread);
    else
        dense_n(&call->p.dense, run, thread);
}
