// SPDX-License-Identifier: Apache-2.0
// Backward of the ops that work row by row, and the loss. A row belongs to one thread. Team threads, inside a submit.
#include <math.h>
#include <string.h>

#include "engine/cpu/math.h"
#include "engine/cpu/train.h"

double ht_log(double x)
{
    if (!(x > 0) || isinf(x))
        return x > 0 ? x : NAN;
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    int e = (int)(bits >> 52) - 1022;
    bits = (bits & 0xFFFFFFFFFFFFF) | 1022ull << 52;
    double m;
    memcpy(&m, &bits, sizeof m); // [0.5, 1)
    if (m < 0x1.6a09e667f3bcdp-1) {
        m *= 2;
        e--;
    }
    double s = (m - 1) / (m + 1), z = s * s, sum = 0; // z <= 0.02944: the term after the last is below 1e-17
    for (int i = 21; i >= 3; i -= 2)
        sum = (sum + 1.0 / i) * z;
    return (double)e * 0x1.62e42fefa39efp-1 + 2 * (s + s * sum);
}

// ---- norm, rope

static void rmsnorm_back(const struct ht_rmsnorm_back *p, const float *x, const float *w, const float *dy, float *dx)
{
    float squares[16] = {0}, products[16] = {0};
    for (uint32_t i = 0; i < p->dim; i++) {
        squares[i % 16] = fmaf(x[i], x[i], squares[i % 16]);
        products[i % 16] = fmaf(w[i] * dy[i], x[i], products[i % 16]);
    }
    float s = 1.0f / sqrtf(ht_fold16f(squares) / (float)p->dim + p->eps);
    float c = ht_fold16f(products) * s * s / (float)p->dim;
    for (uint32_t i = 0; i < p->dim; i++) {
        float t = s * fmaf(-c, x[i], w[i] * dy[i]);
        dx[i] = p->add ? dx[i] + t : t;
    }
}

void ht_run_rmsnorm_back(const struct ht_call *call, const struct ht_run *run, unsigned thread)
{
    const struct ht_rmsnorm_back *p = &call->p.rmsnorm_back;
    struct ht_range items = ht_share(ht_run_rows(run, p->rows) * p->groups, thread, run->n_threads);
    for (uint32_t i = items.from; i < items.to; i++) {
        size_t row = i / p->groups, at = (size_t)(i % p->groups) * p->dim;
        rmsnorm_back(p, ht_ref_floats(&p->x) + row * p->x_stride + at, ht_ref_floats(&p->w),
                     ht_ref_floats(&p->dy) + row * p->dy_stride + at,
                     ht_ref_floats(&p->dx) + row * p->dx_stride + at);
    }
}

// The transposed rotation is the one by the negative angle.
void ht_run_rope_back(const struct ht_call *call, const struct ht_run *run, unsigned thread)
{
    const struct ht_rope *p = &call->p.rope_back.rope;
    const struct ht_rope_table *table = &run->plan->ropes[call->rope_table];
    float *sine = ht_run_scratch(run, thread);
    struct ht_range rows = ht_share(run->n_rows, thread, run->n_threads);
    for (uint32_t r = rows.from; r < rows.to; r++) {
        size_t angles = (size_t)r * table->pairs;
        for (uint32_t i = 0; i < table->pairs; i++)
            sine[i] = -table->sine[angles + i];
        for (uint32_t h = 0; h < p->heads; h++)
            run->device->kernels.rope(ht_ref_floats(&p->x) + (size_t)r * p->stride + (size_t)h * p->dim,
                                      table->cosine + angles, sine, p->n_rot, p->kind);
    }
}

// ---- activations

static float silu_slope(float g)
{
    float q = 1.0f / (1.0f + ht_exp(-g));
    return q * fmaf(g, 1.0f - q, 1.0f);
}

static float gelu_slope(float g)
{
    float t = ht_tanh(HT_GELU_SCALE * fmaf(HT_GELU_CUBE, g * (g * g), g));
    float inner = HT_GELU_SCALE * fmaf(3.0f * HT_GELU_CUBE, g * g, 1.0f);
    return fmaf(0.5f * g * (1.0f - t * t), inner, 0.5f * (1.0f + t));
}

void ht_run_glu_back(const struct ht_call *call, const struct ht_run *run, unsigned thread)
{
    const struct ht_glu_back *p = &call->p.glu_back;
    bool silu = p->act == HT_ACT_SILU;
    struct ht_range rows = ht_share(run->n_rows, thread, run->n_threads);
    for (size_t r = rows.from; r < rows.to; r++) {
        const float *gate = ht_ref_floats(&p->gate) + r * p->gate_stride;
        const float *up = ht_ref_floats(&p->up) + r * p->up_stride, *dy = ht_ref_floats(&p->dy) + r * p->dy_stride;
        float *dgate = ht_ref_floats(&p->dgate) + r * p->dgate_stride;
        float *dup = ht_ref_floats(&p->dup) + r * p->dup_stride;
        for (uint32_t i = 0; i < p->dim; i++) {
            float g = gate[i], u = up[i], d = dy[i];
            dup[i] = d * (silu ? ht_silu(g) : ht_gelu_tanh(g));
            dgate[i] = (d * u) * (silu ? silu_slope(g) : gelu_slope(g));
        }
    }
}

void ht_run_softcap_back(const struct ht_call *call, const struct ht_run *run, unsigned thread)
{
    const struct ht_softcap_back *p = &call->p.softcap_back;
    struct ht_range rows = ht_share(ht_run_rows(run, p->rows), thread, run->n_threads);
    for (size_t r = rows.from; r < rows.to; r++) {
        const float *y = ht_ref_floats(&p->y) + r * p->y_stride, *dy = ht_ref_floats(&p->dy) + r * p->dy_stride;
        float *dx = ht_ref_floats(&p->dx) + r * p->dx_stride;
        for (uint32_t i = 0; i < p->dim; i++) {
            float t = y[i] / p->cap;
            dx[i] = dy[i] * fmaf(-t, t, 1.0f);
        }
    }
}

void ht_run_scatter(const struct ht_call *call, const struct ht_run *run, unsigned thread)
{
    const struct ht_scatter *p = &call->p.scatter;
    struct ht_range rows = ht_share(run->n_outs, thread, run->n_threads);
    for (uint32_t o = rows.from; o < rows.to; o++) {
        const float *dy = ht_ref_floats(&p->dy) + (size_t)o * p->dy_stride;
        float *dx = ht_ref_floats(&p->dx) + (size_t)run->step->out_row[o] * p->dx_stride;
        for (uint32_t i = 0; i < p->dim; i++)
            dx[i] = p->add ? dx[i] + dy[i] : dy[i];
    }
}

// ---- the loss

static float cross_entropy(const struct ht_cross_entropy *p, float *x, uint32_t target, float weight)
{
    float top = -INFINITY, sum[16] = {0};
    if (p->softcap > 0)
        for (uint32_t j = 0; j < p->n_vocab; j++)
            x[j] = p->softcap * ht_tanh(x[j] / p->softcap);
    for (uint32_t j = 0; j < p->n_vocab; j++)
        top = x[j] > top ? x[j] : top; // a NaN is passed over here and comes back in the sum
    for (uint32_t j = 0; j < p->n_vocab; j++)
        sum[j % 16] += ht_exp(x[j] - top);
    float l = ht_fold16f(sum), loss = (float)ht_log((double)l) + (top - x[target]);
    for (uint32_t j = 0; j < p->n_vocab; j++) {
        float z = x[j];
        x[j] = (ht_exp(z - top) / l - (j == target ? 1.0f : 0.0f)) * weight;
        if (p->softcap > 0) {
            float t = z / p->softcap;
            x[j] = x[j] * fmaf(-t, t, 1.0f);
        }
    }
    return loss;
}

void ht_run_cross_entropy(const struct ht_call *call, const struct ht_run *run, unsigned thread)
{
    const struct ht_cross_entropy *p = &call->p.cross_entropy;
    struct ht_range rows = ht_share(run->n_outs, thread, run->n_threads);
    for (uint32_t o = rows.from; o < rows.to; o++) {
        uint32_t r = (uint32_t)run->step->out_row[o];
        ht_ref_floats(&p->loss)[r] = cross_entropy(p, ht_ref_floats(&p->logits) + (size_t)o * p->stride,
                                                   (uint32_t)run->train->target[r], run->train->weight[r]);
    }
}
