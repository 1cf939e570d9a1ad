// SPDX-License-Identifier: Apache-2.0
// The oracle. Slow on purpose, double throughout, no tricks. Pure functions, any thread.
#include "engine/cpu/ref.h"

#include <math.h>

#include "engine/gguf/quant.h"

struct ht_ref_sum ht_ref_dot(enum ht_type type, const void *blocks, const float *x, uint32_t k)
{
    const struct ht_type_info *info = ht_type_info(type);
    const unsigned char *p = blocks;
    struct ht_ref_sum sum = {0, 0};
    float w[256];
    for (uint32_t i = 0; i < k; i += info->block_values, p += info->block_bytes) {
        ht_dequant_row(type, p, info->block_values, w);
        for (uint32_t j = 0; j < info->block_values; j++) {
            double term = (double)w[j] * (double)x[i + j];
            sum.value += term;
            sum.magnitude += fabs(term);
        }
    }
    return sum;
}

struct ht_ref_sum ht_ref_lora(const float *a, const float *b, uint32_t rank, double scale, const float *x, uint32_t k)
{
    struct ht_ref_sum sum = {0, 0};
    for (uint32_t j = 0; j < rank; j++)
        for (uint32_t i = 0; i < k; i++) {
            double term = scale * (double)b[j] * (double)a[(size_t)j * k + i] * (double)x[i];
            sum.value += term;
            sum.magnitude += fabs(term);
        }
    return sum;
}

void ht_ref_rmsnorm(const float *x, const float *w, uint32_t dim, double eps, double *y)
{
    double sum = 0;
    for (uint32_t i = 0; i < dim; i++)
        sum += (double)x[i] * (double)x[i];
    double scale = 1 / sqrt(sum / dim + eps);
    for (uint32_t i = 0; i < dim; i++)
        y[i] = (double)x[i] * scale * (double)w[i];
}

void ht_ref_rope(const float *x, double pos, const float *freq, uint32_t n_rot, enum ht_rope_kind kind,
                 double mscale, double *y)
{
    for (uint32_t i = 0; i < n_rot / 2; i++) {
        uint32_t a = kind == HT_ROPE_NORM ? 2 * i : i, b = kind == HT_ROPE_NORM ? 2 * i + 1 : i + n_rot / 2;
        double angle = (double)((float)pos * freq[i]), c = cos(angle) * mscale, s = sin(angle) * mscale;
        y[a] = (double)x[a] * c - (double)x[b] * s;
        y[b] = (double)x[a] * s + (double)x[b] * c;
    }
}

double ht_ref_glu(enum ht_act act, double gate, double up)
{
    if (act == HT_ACT_SILU)
        return gate / (1 + exp(-gate)) * up;
    double u = sqrt(2 / 3.14159265358979323846) * (gate + 0.044715 * gate * gate * gate);
    return 0.5 * gate * (1 + tanh(u)) * up;
}

double ht_ref_softcap(double x, double cap)
{
    return cap * tanh(x / cap);
}

void ht_ref_attention(const float *q, const float *k, const float *v, uint32_t n, uint32_t k_dim,
                      uint32_t v_dim, double scale, double softcap, const double *bias, double *y,
                      double *magnitude)
{
    double top = -INFINITY, total = 0;
    for (int pass = 0; pass < 2; pass++) { // first the largest score, then the sums
        for (uint32_t d = 0; d < v_dim; d++)
            y[d] = magnitude[d] = 0;
        total = 0;
        for (uint32_t j = 0; j < n; j++) {
            double s = 0;
            for (uint32_t d = 0; d < k_dim; d++)
                s += (double)q[d] * (double)k[(size_t)j * k_dim + d];
            s *= scale;
            if (softcap > 0)
                s = ht_ref_softcap(s, softcap);
            s += bias[j];
            if (!pass) {
                top = s > top ? s : top;
                continue;
            }
            double e = exp(s - top);
            total += e;
            for (uint32_t d = 0; d < v_dim; d++) {
                y[d] += e * (double)v[(size_t)j * v_dim + d];
                magnitude[d] += fabs(e * (double)v[(size_t)j * v_dim + d]);
            }
        }
    }
    for (uint32_t d = 0; d < v_dim; d++) {
        y[d] /= total;
        magnitude[d] /= total;
    }
}
