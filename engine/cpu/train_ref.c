// SPDX-License-Identifier: Apache-2.0
// The oracle of training. Slow on purpose, double throughout, no tricks. Pure functions, any thread.
#include "engine/cpu/train_ref.h"

#include <math.h>

#define REF_PI 3.14159265358979323846

void ht_ref_dense(enum ht_dense_kind kind, const double *a, const double *b, uint32_t rows, uint32_t n, uint32_t k,
                  double scale, double *y)
{
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < k; i++)
            for (size_t j = 0; j < n; j++) {
                if (kind == HT_DENSE_NT)
                    y[r * n + j] += scale * a[r * k + i] * b[j * k + i];
                else if (kind == HT_DENSE_NN)
                    y[r * n + j] += scale * a[r * k + i] * b[i * n + j];
                else
                    y[i * n + j] += scale * a[r * k + i] * b[r * n + j];
            }
}

void ht_ref_norm(const double *x, const double *w, uint32_t dim, double eps, double *y)
{
    double sum = 0;
    for (uint32_t i = 0; i < dim; i++)
        sum += x[i] * x[i];
    for (uint32_t i = 0; i < dim; i++)
        y[i] = x[i] / sqrt(sum / dim + eps) * w[i];
}

void ht_ref_norm_back(const double *x, const double *w, const double *dy, uint32_t dim, double eps, double *dx)
{
    double sum = 0, along = 0;
    for (uint32_t i = 0; i < dim; i++) {
        sum += x[i] * x[i];
        along += w[i] * dy[i] * x[i];
    }
    double root = sqrt(sum / dim + eps);
    for (uint32_t i = 0; i < dim; i++)
        dx[i] = w[i] * dy[i] / root - x[i] * along / (dim * root * root * root);
}

static double spread_of(const double *x, uint32_t dim, double eps, double *mean)
{
    double sum = 0, squares = 0;
    for (uint32_t i = 0; i < dim; i++)
        sum += x[i];
    *mean = sum / dim;
    for (uint32_t i = 0; i < dim; i++)
        squares += (x[i] - *mean) * (x[i] - *mean);
    return sqrt(squares / dim + eps);
}

void ht_ref_layernorm(const double *x, const double *w, const double *b, uint32_t dim, double eps, double *y)
{
    double mean, root = spread_of(x, dim, eps, &mean);
    for (uint32_t i = 0; i < dim; i++)
        y[i] = (x[i] - mean) / root * w[i] + (b ? b[i] : 0);
}

void ht_ref_layernorm_back(const double *x, const double *w, const double *dy, uint32_t dim, double eps, double *dx)
{
    double mean, root = spread_of(x, dim, eps, &mean), sum = 0, along = 0;
    for (uint32_t i = 0; i < dim; i++) {
        sum += w[i] * dy[i];
        along += w[i] * dy[i] * (x[i] - mean);
    }
    for (uint32_t i = 0; i < dim; i++)
        dx[i] = (w[i] * dy[i] - sum / dim) / root - (x[i] - mean) * along / (dim * root * root * root);
}

void ht_ref_rotate(double *x, const double *angle, uint32_t n_rot, enum ht_rope_kind kind, double mscale,
                   int direction)
{
    for (uint32_t i = 0; i < n_rot / 2; i++) {
        uint32_t a = kind == HT_ROPE_NORM ? 2 * i : i, b = kind == HT_ROPE_NORM ? 2 * i + 1 : i + n_rot / 2;
        double c = cos(angle[i]) * mscale, s = direction * sin(angle[i]) * mscale, va = x[a], vb = x[b];
        x[a] = va * c - vb * s;
        x[b] = va * s + vb * c;
    }
}

static double act_value(enum ht_act act, double g)
{
    if (act == HT_ACT_SILU)
        return g / (1 + exp(-g));
    return 0.5 * g * (1 + tanh(sqrt(2 / REF_PI) * (g + 0.044715 * g * g * g)));
}

static double act_slope(enum ht_act act, double g)
{
    if (act == HT_ACT_SILU) {
        double q = 1 / (1 + exp(-g));
        return q + g * q * (1 - q);
    }
    double t = tanh(sqrt(2 / REF_PI) * (g + 0.044715 * g * g * g));
    return 0.5 * (1 + t) + 0.5 * g * (1 - t * t) * sqrt(2 / REF_PI) * (1 + 3 * 0.044715 * g * g);
}

double ht_ref_gate(enum ht_act act, double gate, double up)
{
    return act_value(act, gate) * up;
}

void ht_ref_gate_back(enum ht_act act, double gate, double up, double dy, double *dgate, double *dup)
{
    *dgate = dy * up * act_slope(act, gate);
    *dup = dy * act_value(act, gate);
}

double ht_ref_cap_back(double x, double cap, double dy)
{
    double t = tanh(x / cap);
    return dy * (1 - t * t);
}

// ---- attention

// ALiBi: heads 0 … P - 1, P the largest power of two, have the slopes 2^(-bias (h + 1) / P); the others lie between.
static double lean(const struct ht_ref_attend *p, uint32_t head)
{
    double power = exp2(floor(log2(p->heads)));
    if (p->alibi_max_bias <= 0)
        return 0;
    return exp2(-p->alibi_max_bias * (head < power ? head + 1 : head - power + 0.5) / power);
}

static double score(const struct ht_ref_attend *p, uint32_t head, uint32_t r, uint32_t j, const double *q,
                    const double *k, double *slope)
{
    double s = 0;
    for (uint32_t d = 0; d < p->k_dim; d++)
        s += q[d] * k[d];
    s *= p->scale;
    *slope = p->scale;
    if (p->softcap > 0) {
        double t = tanh(s / p->softcap);
        *slope *= 1 - t * t;
        s = p->softcap * t;
    }
    return s + lean(p, head) * ((double)j - (double)r);
}

struct row { // what a query row sees
    uint32_t lo;
    double top, total;
};

static struct row row_of(const struct ht_ref_attend *p, uint32_t h, uint32_t r, const double *q, const double *k)
{
    struct row row = {p->seg_from[r], -INFINITY, 0};
    double slope;
    if (p->window && r + 1 > p->window && r + 1 - p->window > row.lo)
        row.lo = r + 1 - p->window;
    for (uint32_t j = row.lo; j <= r; j++)
        row.top = fmax(row.top, score(p, h, r, j, q, k + (size_t)j * p->kv_heads * p->k_dim, &slope));
    for (uint32_t j = row.lo; j <= r; j++)
        row.total += exp(score(p, h, r, j, q, k + (size_t)j * p->kv_heads * p->k_dim, &slope) - row.top);
    return row;
}

void ht_ref_attend(const struct ht_ref_attend *p, const double *q, const double *k, const double *v, double *y)
{
    for (uint32_t r = 0; r < p->rows; r++)
        for (uint32_t h = 0; h < p->heads; h++) {
            size_t kv = h / (p->heads / p->kv_heads), item = (size_t)r * p->heads + h;
            const double *qh = q + item * p->k_dim, *kh = k + kv * p->k_dim, *vh = v + kv * p->v_dim;
            struct row row = row_of(p, h, r, qh, kh);
            double slope;
            for (uint32_t d = 0; d < p->v_dim; d++) {
                double sum = 0;
                for (size_t j = row.lo; j <= r; j++) {
                    double s = score(p, h, r, (uint32_t)j, qh, kh + j * p->kv_heads * p->k_dim, &slope);
                    sum += exp(s - row.top) / row.total * vh[j * p->kv_heads * p->v_dim + d];
                }
                y[item * p->v_dim + d] = sum;
            }
        }
}

static double along(const double *a, const double *b, uint32_t n, bool magnitudes)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += magnitudes ? fabs(a[i] * b[i]) : a[i] * b[i];
    return sum;
}

void ht_ref_attend_back(const struct ht_ref_attend *p, const double *q, const double *k, const double *v,
                        const double *dy, bool magnitudes, double *dq, double *dk, double *dv)
{
    size_t k_row = (size_t)p->kv_heads * p->k_dim, v_row = (size_t)p->kv_heads * p->v_dim;
    for (uint32_t r = 0; r < p->rows; r++)
        for (uint32_t h = 0; h < p->heads; h++) {
            size_t kv = h / (p->heads / p->kv_heads), item = (size_t)r * p->heads + h;
            const double *qh = q + item * p->k_dim, *dyh = dy + item * p->v_dim;
            struct row row = row_of(p, h, r, qh, k + kv * p->k_dim);
            double mean = 0, slope; // of the gradients of the probabilities
            for (size_t j = row.lo; j <= r; j++) {
                double s = score(p, h, r, (uint32_t)j, qh, k + j * k_row + kv * p->k_dim, &slope);
                mean += exp(s - row.top) / row.total * along(dyh, v + j * v_row + kv * p->v_dim, p->v_dim, magnitudes);
            }
            for (size_t j = row.lo; j <= r; j++) {
                const double *kh = k + j * k_row + kv * p->k_dim;
                double w = exp(score(p, h, r, (uint32_t)j, qh, kh, &slope) - row.top) / row.total;
                double dw = along(dyh, v + j * v_row + kv * p->v_dim, p->v_dim, magnitudes);
                double ds = w * (magnitudes ? dw + mean : dw - mean) * (magnitudes ? fabs(p->scale) : slope);
                for (uint32_t d = 0; d < p->k_dim; d++) {
                    dq[item * p->k_dim + d] += ds * (magnitudes ? fabs(kh[d]) : kh[d]);
                    dk[j * k_row + kv * p->k_dim + d] += ds * (magnitudes ? fabs(qh[d]) : qh[d]);
                }
                for (uint32_t d = 0; d < p->v_dim; d++)
                    dv[j * v_row + kv * p->v_dim + d] += w * (magnitudes ? fabs(dyh[d]) : dyh[d]);
            }
        }
}

// ---- loss, optimizer

double ht_ref_cross_entropy(const double *logits, uint32_t n, double softcap, uint32_t target, double weight,
                            double *d)
{
    double top = -INFINITY, total = 0;
    for (int pass = 0; pass < 2; pass++)
        for (uint32_t j = 0; j < n; j++) {
            double z = softcap > 0 ? softcap * tanh(logits[j] / softcap) : logits[j];
            if (!pass)
                top = fmax(top, z);
            else
                total += exp(z - top);
        }
    double wanted = softcap > 0 ? softcap * tanh(logits[target] / softcap) : logits[target];
    for (uint32_t j = 0; d && j < n; j++) {
        double t = softcap > 0 ? tanh(logits[j] / softcap) : 0, z = softcap > 0 ? softcap * t : logits[j];
        d[j] = (exp(z - top) / total - (j == target)) * weight * (1 - t * t);
    }
    return top + log(total) - wanted;
}

void ht_ref_adamw(const struct ht_ref_adamw *p, double g, double *w, double *m, double *v)
{
    *m = p->beta1 * *m + (1 - p->beta1) * g;
    *v = p->beta2 * *v + (1 - p->beta2) * g * g;
    double first = *m / (1 - pow(p->beta1, p->step)), second = *v / (1 - pow(p->beta2, p->step));
    *w = *w * (1 - p->rate * p->decay) - p->rate * first / (sqrt(second) + p->eps);
}
