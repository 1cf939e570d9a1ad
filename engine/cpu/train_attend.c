// SPDX-License-Identifier: Apache-2.0
// Attention of training: forward, and backward that recomputes the scores. Scratch is one row of scores per thread and
// one number per (row, head): nothing grows with the square of the rows. Items are dealt out in turn, since the later
// rows of a segment see more. Team threads, inside a submit.
#include <math.h>
#include <string.h>

#include "engine/cpu/math.h"
#include "engine/cpu/train.h"

size_t ht_attend_thread_bytes(const struct ht_plan *plan)
{
    return 2 * (size_t)plan->head.shape.rows * sizeof(float);
}

size_t ht_attend_back_shared_bytes(const struct ht_plan *plan, const struct ht_attend_back *p)
{
    return (size_t)plan->head.shape.rows * p->f.heads * sizeof(float);
}

static float dot(const float *a, const float *b, uint32_t n)
{
    float acc = 0;
    for (uint32_t i = 0; i < n; i++)
        acc = fmaf(a[i], b[i], acc);
    return acc;
}

static const float *at(const struct ht_ref *ref, uint32_t row, uint32_t stride, uint32_t head, uint32_t dim)
{
    return ht_ref_floats(ref) + (size_t)row * stride + (size_t)head * dim;
}

static float score(const struct ht_attend *p, const float *q, const float *k)
{
    float s = dot(q, k, p->k_dim) * p->scale;
    return p->softcap > 0 ? p->softcap * ht_tanh(s / p->softcap) : s;
}

static uint32_t first_seen(const struct ht_attend *p, const struct ht_run *run, uint32_t r)
{
    uint32_t from = run->train->seg_from[r];
    return p->window && r - from >= p->window ? r - p->window + 1 : from;
}

// ---- forward

static void attend(const struct ht_attend *p, const struct ht_run *run, uint32_t r, uint32_t h, float *s)
{
    uint32_t kv = h / (p->heads / p->kv_heads), from = run->train->seg_from[r], lo = first_seen(p, run, r);
    const float *q = at(&p->q, r, p->q_stride, h, p->k_dim);
    float *y = ht_ref_floats(&p->y) + (size_t)r * p->y_stride + (size_t)h * p->v_dim;
    float top = -INFINITY, sum[16] = {0};
    for (uint32_t j = lo; j <= r; j++) {
        s[j - lo] = score(p, q, at(&p->k, j, p->k_stride, kv, p->k_dim));
        top = s[j - lo] > top ? s[j - lo] : top;
    }
    for (uint32_t j = lo; j <= r; j++) {
        s[j - lo] = ht_exp(s[j - lo] - top);
        sum[(j - from) % 16] += s[j - lo];
    }
    float l = ht_fold16f(sum);
    memset(y, 0, p->v_dim * sizeof *y);
    ht_chain(y, p->v_dim, s, 1, at(&p->v, lo, p->v_stride, kv, p->v_dim), p->v_stride, r - lo + 1);
    for (uint32_t d = 0; d < p->v_dim; d++)
        y[d] /= l;
    ht_ref_floats(&p->lse)[(size_t)r * p->lse_stride + h] = top + (float)ht_log((double)l);
}

void ht_run_attend(const struct ht_call *call, const struct ht_run *run, unsigned thread)
{
    const struct ht_attend *p = &call->p.attend;
    for (uint64_t i = thread; i < (uint64_t)run->n_rows * p->heads; i += run->n_threads)
        attend(p, run, (uint32_t)(i / p->heads), (uint32_t)(i % p->heads), ht_run_scratch(run, thread));
}

// ---- backward

struct pair { // gradient of one score, and its probability
    float p, ds;
};

static struct pair pair_of(const struct ht_attend_back *p, uint32_t r, uint32_t h, uint32_t j, float delta)
{
    const struct ht_attend *f = &p->f;
    uint32_t kv = h / (f->heads / f->kv_heads);
    float s = score(f, at(&f->q, r, f->q_stride, h, f->k_dim), at(&f->k, j, f->k_stride, kv, f->k_dim));
    float e = ht_exp(s - ht_ref_floats(&f->lse)[(size_t)r * f->lse_stride + h]);
    float dp = dot(at(&p->dy, r, p->dy_stride, h, f->v_dim), at(&f->v, j, f->v_stride, kv, f->v_dim), f->v_dim);
    float ds = e * (dp - delta);
    if (f->softcap > 0) {
        float t = s / f->softcap;
        ds = ds * fmaf(-t, t, 1.0f);
    }
    return (struct pair){e, ds * f->scale};
}

static void back_query(const struct ht_attend_back *p, const struct ht_run *run, uint32_t r, uint32_t h, float *delta,
                       float *ds)
{
    const struct ht_attend *f = &p->f;
    uint32_t kv = h / (f->heads / f->kv_heads), lo = first_seen(f, run, r);
    float *dq = ht_ref_floats(&p->dq) + (size_t)r * p->dq_stride + (size_t)h * f->k_dim;
    float d = dot(at(&p->dy, r, p->dy_stride, h, f->v_dim), at(&f->y, r, f->y_stride, h, f->v_dim), f->v_dim);
    delta[(size_t)r * f->heads + h] = d;
    for (uint32_t j = lo; j <= r; j++)
        ds[j - lo] = pair_of(p, r, h, j, d).ds;
    memset(dq, 0, f->k_dim * sizeof *dq);
    ht_chain(dq, f->k_dim, ds, 1, at(&f->k, lo, f->k_stride, kv, f->k_dim), f->k_stride, r - lo + 1);
}

static void back_key(const struct ht_attend_back *p, const struct ht_run *run, uint32_t j, uint32_t kv,
                     const float *delta, float *ds, float *probability)
{
    const struct ht_attend *f = &p->f;
    uint32_t share = f->heads / f->kv_heads, end = j;
    float *dk = ht_ref_floats(&p->dk) + (size_t)j * p->dk_stride + (size_t)kv * f->k_dim;
    float *dv = ht_ref_floats(&p->dv) + (size_t)j * p->dv_stride + (size_t)kv * f->v_dim;
    while (end < run->n_rows && run->train->seg_from[end] == run->train->seg_from[j] &&
           (!f->window || end - j < f->window))
        end++;
    memset(dk, 0, f->k_dim * sizeof *dk);
    memset(dv, 0, f->v_dim * sizeof *dv);
    for (uint32_t h = kv * share; h < (kv + 1) * share; h++) {
        for (uint32_t r = j; r < end; r++) {
            struct pair pair = pair_of(p, r, h, j, delta[(size_t)r * f->heads + h]);
            probability[r - j] = pair.p;
            ds[r - j] = pair.ds;
        }
        ht_chain(dk, f->k_dim, ds, 1, at(&f->q, j, f->q_stride, h, f->k_dim), f->q_stride, end - j);
        ht_chain(dv, f->v_dim, probability, 1, at(&p->dy, j, p->dy_stride, h, f->v_dim), p->dy_stride, end - j);
    }
}

void ht_run_attend_back(const struct ht_call *call, const struct ht_run *run, unsigned thread)
{
    const struct ht_attend_back *p = &call->p.attend_back;
    const struct ht_attend *f = &p->f;
    float *delta = (float *)(void *)run->plan->shared, *own = ht_run_scratch(run, thread);
    for (uint64_t i = thread; i < (uint64_t)run->n_rows * f->heads; i += run->n_threads)
        back_query(p, run, (uint32_t)(i / f->heads), (uint32_t)(i % f->heads), delta, own);
    ht_pool_barrier(run->device->pool, thread);
    for (uint64_t i = thread; i < (uint64_t)run->n_rows * f->kv_heads; i += run->n_threads)
        back_key(p, run, (uint32_t)(i / f->kv_heads), (uint32_t)(i % f->kv_heads), delta, own,
                 own + run->plan->head.shape.rows);
}
