// SPDX-License-Identifier: Apache-2.0
// A model with an adapter in double: see train_model.h. One thread.
#include "tests/check/train_model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/rng.h"
#include "engine/cpu/ref.h"
#include "engine/cpu/train_ref.h"
#include "engine/ops/check.h"
#include "tests/check/train.h"

enum { MAX_ARRAYS = 4096 };

struct layer_state { // of each layer; gradients have the name with a d
    double *matrix[HT_N_MATRICES], *vector[HT_N_VECTORS]; // NULL = none
    double *x, *n1, *q_in, *k_in, *q, *k, *v, *a, *o, *x1, *n2, *gate, *up, *h, *down;
};
struct train_model {
    const struct ht_model *model;
    const struct hearth_adapter *adapter;
    struct ht_batch batch;
    struct layer_state *layers;
    struct ht_ref_attend attend;
    double *embedding, *head, *head_norm, *freq, *freq_local;
    double *values, *gradient, *row_loss, *last, *final, *logits_back; // logits_back (rows, vocab)
    float dropout, neftune;
    uint64_t seed, step;
    void *arrays[MAX_ARRAYS];
    size_t n_arrays;
};

static double *array(struct train_model *m, size_t n)
{
    double *x = train_doubles(n ? n : 1);
    if (m->n_arrays == MAX_ARRAYS)
        abort();
    m->arrays[m->n_arrays++] = x;
    return x;
}

// ---------------------------------------------------------------- weights

static double *read_matrix(struct train_model *m, const struct ht_weight *w, uint32_t n, uint32_t k)
{
    const struct ht_model *model = m->model;
    const struct ht_weight_head *head = (const struct ht_weight_head *)(const void *)w;
    double *out = array(m, (size_t)n * k);
    float *row = calloc(k, sizeof *row), *blocks = calloc(k, sizeof *blocks);
    for (uint32_t i = 0; i < n; i++) {
        CHECK_OK(model->dev->weight_unpack_row(model->device, w, i, blocks, &check_err));
        ht_dequant_row(head->params.type, blocks, k, row);
        for (uint32_t j = 0; j < k; j++)
            out[(size_t)i * k + j] = (double)row[j];
    }
    free(row);
    free(blocks);
    return out;
}

static double *read_vector(struct train_model *m, const struct ht_ref *ref, uint32_t n)
{
    if (!ref->buf)
        return NULL;
    double *out = array(m, n);
    const float *from = (const float *)m->model->dev->buf_host(ref->buf) + ref->offset;
    for (uint32_t i = 0; i < n; i++)
        out[i] = (double)from[i];
    return out;
}

static void read_layer(struct train_model *m, uint32_t index)
{
    const struct ht_hparams *hp = &m->model->hp;
    struct layer_state *l = &m->layers[index];
    for (unsigned i = 0; i < ht_n_layer_tensors; i++) {
        const struct ht_tensor_spec *spec = &ht_layer_tensors[i];
        if (spec->is_matrix)
            l->matrix[spec->slot] = read_matrix(m, m->model->layers[index].matrix[spec->slot],
                                                ht_dim_size(hp, spec->n), ht_dim_size(hp, spec->k));
        else
            l->vector[spec->slot] =
                read_vector(m, &m->model->layers[index].vector[spec->slot], ht_dim_size(hp, spec->k));
    }
    size_t r = m->batch.n_rows, n_q = (size_t)hp->n_heads * hp->k_dim, n_k = (size_t)hp->n_kv_heads * hp->k_dim;
    double **of_embd[] = {&l->x, &l->n1, &l->o, &l->x1, &l->n2, &l->down};
    for (size_t i = 0; i < sizeof of_embd / sizeof of_embd[0]; i++)
        *of_embd[i] = array(m, r * hp->n_embd);
    l->q = array(m, r * n_q), l->q_in = array(m, r * n_q);
    l->k = array(m, r * n_k), l->k_in = array(m, r * n_k);
    l->v = array(m, r * hp->n_kv_heads * hp->v_dim);
    l->a = array(m, r * hp->n_heads * hp->v_dim);
    l->gate = array(m, r * hp->n_ff), l->up = array(m, r * hp->n_ff), l->h = array(m, r * hp->n_ff);
}

struct train_model *train_model_make(const struct ht_model *model, const struct hearth_adapter *adapter,
                                     const struct ht_batch *batch)
{
    const struct ht_hparams *hp = &model->hp;
    struct train_model *m = calloc(1, sizeof *m);
    if (!m)
        abort();
    m->model = model;
    m->adapter = adapter;
    m->batch = *batch;
    m->layers = calloc(hp->n_layers, sizeof *m->layers);
    for (uint32_t i = 0; i < hp->n_layers; i++)
        read_layer(m, i);
    m->embedding = read_matrix(m, model->token_embd, hp->n_vocab, hp->n_embd);
    m->head = read_matrix(m, model->output, hp->n_vocab, hp->n_embd);
    m->head_norm = read_vector(m, &model->output_norm, hp->n_embd);
    m->freq = read_vector(m, &model->rope_freq, hp->n_rot / 2);
    m->freq_local = read_vector(m, &model->rope_freq_local, hp->n_rot / 2);
    m->values = array(m, adapter->n_values);
    m->gradient = array(m, adapter->n_values);
    for (size_t i = 0; i < adapter->n_values; i++)
        m->values[i] = (double)adapter->values[i];
    m->row_loss = array(m, batch->n_rows);
    m->last = array(m, (size_t)batch->n_rows * hp->n_embd);
    m->final = array(m, (size_t)batch->n_rows * hp->n_embd);
    m->logits_back = array(m, (size_t)batch->n_rows * hp->n_vocab);
    m->attend = (struct ht_ref_attend){.rows = batch->n_rows,
                                       .heads = hp->n_heads,
                                       .kv_heads = hp->n_kv_heads,
                                       .k_dim = hp->k_dim,
                                       .v_dim = hp->v_dim,
                                       .scale = (double)hp->attn_scale,
                                       .seg_from = batch->seg_from};
    return m;
}

void train_model_free(struct train_model *m)
{
    for (size_t i = 0; i < m->n_arrays; i++)
        free(m->arrays[i]);
    free(m->layers);
    free(m);
}

void train_model_draws(struct train_model *m, float dropout, float neftune, uint64_t seed, uint64_t step)
{
    m->dropout = dropout;
    m->neftune = neftune;
    m->seed = seed;
    m->step = step;
}

double *train_model_values(struct train_model *m)
{
    return m->values;
}

const double *train_model_gradient(const struct train_model *m)
{
    return m->gradient;
}

double train_model_row_loss(const struct train_model *m, uint32_t row)
{
    return m->row_loss[row];
}

// ---------------------------------------------------------------- draws

static uint32_t word(const struct train_model *m, uint32_t stream, uint32_t row, uint32_t column)
{
    struct ht_philox words =
        ht_philox(m->seed, (uint64_t)m->batch.row_id[row] << 32 | column / 4, m->step << 24 | stream);
    return words.v[column % 4];
}

// x as A of a target sees it, or a gradient on its way back.
static void drop(const struct train_model *m, uint32_t layer, uint32_t linear, const double *x, uint32_t k, double *y)
{
    for (uint32_t r = 0; r < m->batch.n_rows; r++)
        for (uint32_t i = 0; i < k; i++) {
            uint32_t draw = word(m, layer * HT_ADAPTER_LINEARS + linear, r, i);
            bool kept = draw >= (uint32_t)((double)m->dropout * 0x1p32);
            y[(size_t)r * k + i] = kept ? x[(size_t)r * k + i] / (1 - (double)m->dropout) : 0;
        }
}

static void add_noise(const struct train_model *m, double *x)
{
    uint32_t n = m->model->hp.n_embd;
    for (uint32_t r = 0; r < m->batch.n_rows; r++) {
        uint32_t length = 0;
        for (uint32_t s = 0; s < m->batch.n_rows; s++)
            length += m->batch.seg_from[s] == m->batch.seg_from[r];
        for (uint32_t i = 0; i < n; i++)
            x[(size_t)r * n + i] += (2 * (double)ht_unit_f32(word(m, (1u << 24) - 1, r, i)) - 1) *
                                    (double)m->neftune / sqrt((double)length * n);
    }
}

// ---------------------------------------------------------------- linears with their LoRA

struct linear {
    uint32_t layer, linear, n, k;
};

static const double *weight_of(const struct train_model *m, struct linear l)
{
    return l.linear == HT_ADAPTER_OUTPUT ? m->head : m->layers[l.layer].matrix[l.linear];
}

static void linear(struct train_model *m, struct linear l, const double *x, const double *bias, double *y)
{
    uint32_t rows = m->batch.n_rows;
    const struct ht_adapter_target *t = ht_adapter_find(m->adapter, l.layer, l.linear);
    memset(y, 0, (size_t)rows * l.n * sizeof *y);
    ht_ref_dense(HT_DENSE_NT, x, weight_of(m, l), rows, l.n, l.k, 1, y);
    for (size_t i = 0; bias && i < (size_t)rows * l.n; i++)
        y[i] += bias[i % l.n];
    if (!t)
        return;
    double *u = train_doubles((size_t)rows * t->rank), *xd = train_doubles((size_t)rows * l.k);
    drop(m, l.layer, l.linear, x, l.k, xd);
    ht_ref_dense(HT_DENSE_NT, xd, m->values + t->a_at, rows, t->rank, l.k, 1, u);
    ht_ref_dense(HT_DENSE_NT, u, m->values + t->b_at, rows, l.n, t->rank, (double)ht_adapter_scale(m->adapter, t), y);
    free(u);
    free(xd);
}

// dx is added to.
static void linear_back(struct train_model *m, struct linear l, const double *x, const double *dy, double *dx)
{
    uint32_t rows = m->batch.n_rows;
    const struct ht_adapter_target *t = ht_adapter_find(m->adapter, l.layer, l.linear);
    ht_ref_dense(HT_DENSE_NN, dy, weight_of(m, l), rows, l.k, l.n, 1, dx);
    if (!t)
        return;
    double scale = (double)ht_adapter_scale(m->adapter, t);
    double *u = train_doubles((size_t)rows * t->rank), *du = train_doubles((size_t)rows * t->rank);
    double *xd = train_doubles((size_t)rows * l.k), *dxd = train_doubles((size_t)rows * l.k);
    drop(m, l.layer, l.linear, x, l.k, xd);
    ht_ref_dense(HT_DENSE_NT, xd, m->values + t->a_at, rows, t->rank, l.k, 1, u);
    ht_ref_dense(HT_DENSE_NN, dy, m->values + t->b_at, rows, t->rank, l.n, scale, du);
    ht_ref_dense(HT_DENSE_TN, dy, u, rows, t->rank, l.n, scale, m->gradient + t->b_at);
    ht_ref_dense(HT_DENSE_TN, du, xd, rows, l.k, t->rank, 1, m->gradient + t->a_at);
    ht_ref_dense(HT_DENSE_NN, du, m->values + t->a_at, rows, l.k, t->rank, 1, dxd);
    drop(m, l.layer, l.linear, dxd, l.k, xd);
    for (size_t i = 0; i < (size_t)rows * l.k; i++)
        dx[i] += xd[i];
    free(u), free(du), free(xd), free(dxd);
}

static struct linear linear_of(const struct train_model *m, uint32_t layer, enum ht_matrix matrix)
{
    for (unsigned i = 0;; i++)
        if (ht_layer_tensors[i].is_matrix && ht_layer_tensors[i].slot == matrix)
            return (struct linear){layer, matrix, ht_dim_size(&m->model->hp, ht_layer_tensors[i].n),
                                   ht_dim_size(&m->model->hp, ht_layer_tensors[i].k)};
}

// ---------------------------------------------------------------- row ops

static void norm(const struct train_model *m, const double *x, const double *w, size_t n, uint32_t dim, double *y)
{
    for (size_t i = 0; i < n; i++)
        ht_ref_norm(x + i * dim, w, dim, (double)m->model->hp.norm_eps, y + i * dim);
}

static void norm_back(const struct train_model *m, const double *x, const double *w, const double *dy, size_t n,
                      uint32_t dim, double *dx)
{
    for (size_t i = 0; i < n; i++)
        ht_ref_norm_back(x + i * dim, w, dy + i * dim, dim, (double)m->model->hp.norm_eps, dx + i * dim);
}

static void rotate(const struct train_model *m, uint32_t layer, double *x, uint32_t heads, int direction)
{
    const struct ht_hparams *hp = &m->model->hp;
    const double *freq = ht_layer_is_local(hp, layer) ? m->freq_local : m->freq;
    double angle[HT_MAX_HEAD_DIM / 2];
    for (uint32_t r = 0; r < m->batch.n_rows; r++) {
        for (uint32_t i = 0; i < hp->n_rot / 2; i++)
            angle[i] = (double)((float)m->batch.pos[r] * (float)freq[i]); // an f32 product by contract
        for (uint32_t h = 0; h < heads; h++)
            ht_ref_rotate(x + ((size_t)r * heads + h) * hp->k_dim, angle, hp->n_rot, hp->arch->rope, 1, direction);
    }
}

static void add(double *to, const double *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        to[i] += x[i];
}

// ---------------------------------------------------------------- layers

static void layer(struct train_model *m, uint32_t index, double *y)
{
    const struct ht_hparams *hp = &m->model->hp;
    struct layer_state *l = &m->layers[index];
    size_t rows = m->batch.n_rows, n = rows * hp->n_embd;
    double *branch = train_doubles(n);
    norm(m, l->x, l->vector[HT_ATTN_NORM], rows, hp->n_embd, l->n1);
    linear(m, linear_of(m, index, HT_ATTN_Q), l->n1, l->vector[HT_Q_BIAS], l->q_in);
    linear(m, linear_of(m, index, HT_ATTN_K), l->n1, l->vector[HT_K_BIAS], l->k_in);
    linear(m, linear_of(m, index, HT_ATTN_V), l->n1, l->vector[HT_V_BIAS], l->v);
    memcpy(l->q, l->q_in, rows * hp->n_heads * hp->k_dim * sizeof *l->q);
    memcpy(l->k, l->k_in, rows * hp->n_kv_heads * hp->k_dim * sizeof *l->k);
    if (l->vector[HT_Q_NORM]) {
        norm(m, l->q_in, l->vector[HT_Q_NORM], rows * hp->n_heads, hp->k_dim, l->q);
        norm(m, l->k_in, l->vector[HT_K_NORM], rows * hp->n_kv_heads, hp->k_dim, l->k);
    }
    rotate(m, index, l->q, hp->n_heads, 1);
    rotate(m, index, l->k, hp->n_kv_heads, 1);
    m->attend.window = ht_layer_is_local(hp, index) ? hp->window : 0;
    memset(l->a, 0, rows * hp->n_heads * hp->v_dim * sizeof *l->a);
    ht_ref_attend(&m->attend, l->q, l->k, l->v, l->a);
    linear(m, linear_of(m, index, HT_ATTN_OUTPUT), l->a, NULL, l->o);
    memcpy(branch, l->o, n * sizeof *branch);
    if (l->vector[HT_POST_ATTN_NORM])
        norm(m, l->o, l->vector[HT_POST_ATTN_NORM], rows, hp->n_embd, branch);
    memcpy(l->x1, l->x, n * sizeof *l->x1);
    add(l->x1, branch, n);
    norm(m, l->x1, l->vector[HT_FFN_NORM], rows, hp->n_embd, l->n2);
    linear(m, linear_of(m, index, HT_FFN_GATE), l->n2, NULL, l->gate);
    linear(m, linear_of(m, index, HT_FFN_UP), l->n2, NULL, l->up);
    for (size_t i = 0; i < rows * hp->n_ff; i++)
        l->h[i] = ht_ref_gate(hp->arch->act, l->gate[i], l->up[i]);
    linear(m, linear_of(m, index, HT_FFN_DOWN), l->h, NULL, l->down);
    memcpy(branch, l->down, n * sizeof *branch);
    if (l->vector[HT_POST_FFN_NORM])
        norm(m, l->down, l->vector[HT_POST_FFN_NORM], rows, hp->n_embd, branch);
    memcpy(y, l->x1, n * sizeof *y);
    add(y, branch, n);
    free(branch);
}

// d: of a branch before its post-norm, from that of the stream.
static void post_back(const struct train_model *m, const double *given, const double *w, const double *dx, double *d)
{
    const struct ht_hparams *hp = &m->model->hp;
    memcpy(d, dx, (size_t)m->batch.n_rows * hp->n_embd * sizeof *d);
    if (w)
        norm_back(m, given, w, dx, m->batch.n_rows, hp->n_embd, d);
}

static void ffn_back(struct train_model *m, uint32_t index, double *dx)
{
    const struct ht_hparams *hp = &m->model->hp;
    struct layer_state *l = &m->layers[index];
    size_t n = (size_t)m->batch.n_rows * hp->n_embd, n_ff = (size_t)m->batch.n_rows * hp->n_ff;
    double *d = train_doubles(n), *dn = train_doubles(n), *dh = train_doubles(n_ff), *dgate = train_doubles(n_ff);
    double *dup = train_doubles(n_ff);
    post_back(m, l->down, l->vector[HT_POST_FFN_NORM], dx, d);
    linear_back(m, linear_of(m, index, HT_FFN_DOWN), l->h, d, dh);
    for (size_t i = 0; i < n_ff; i++)
        ht_ref_gate_back(hp->arch->act, l->gate[i], l->up[i], dh[i], &dgate[i], &dup[i]);
    linear_back(m, linear_of(m, index, HT_FFN_GATE), l->n2, dgate, dn);
    linear_back(m, linear_of(m, index, HT_FFN_UP), l->n2, dup, dn);
    norm_back(m, l->x1, l->vector[HT_FFN_NORM], dn, m->batch.n_rows, hp->n_embd, d);
    add(dx, d, n);
    free(d), free(dn), free(dh), free(dgate), free(dup);
}

static void attention_back(struct train_model *m, uint32_t index, double *dx)
{
    const struct ht_hparams *hp = &m->model->hp;
    struct layer_state *l = &m->layers[index];
    size_t rows = m->batch.n_rows, n = rows * hp->n_embd, n_q = rows * hp->n_heads * hp->k_dim;
    size_t n_k = rows * hp->n_kv_heads * hp->k_dim;
    double *d = train_doubles(n), *dn = train_doubles(n), *da = train_doubles(rows * hp->n_heads * hp->v_dim);
    double *dq = train_doubles(n_q), *dk = train_doubles(n_k), *dv = train_doubles(rows * hp->n_kv_heads * hp->v_dim);
    post_back(m, l->o, l->vector[HT_POST_ATTN_NORM], dx, d);
    linear_back(m, linear_of(m, index, HT_ATTN_OUTPUT), l->a, d, da);
    m->attend.window = ht_layer_is_local(hp, index) ? hp->window : 0;
    ht_ref_attend_back(&m->attend, l->q, l->k, l->v, da, false, dq, dk, dv);
    rotate(m, index, dq, hp->n_heads, -1);
    rotate(m, index, dk, hp->n_kv_heads, -1);
    if (l->vector[HT_Q_NORM]) {
        double *tq = train_doubles(n_q), *tk = train_doubles(n_k);
        norm_back(m, l->q_in, l->vector[HT_Q_NORM], dq, rows * hp->n_heads, hp->k_dim, tq);
        norm_back(m, l->k_in, l->vector[HT_K_NORM], dk, rows * hp->n_kv_heads, hp->k_dim, tk);
        memcpy(dq, tq, n_q * sizeof *dq);
        memcpy(dk, tk, n_k * sizeof *dk);
        free(tq), free(tk);
    }
    linear_back(m, linear_of(m, index, HT_ATTN_Q), l->n1, dq, dn);
    linear_back(m, linear_of(m, index, HT_ATTN_K), l->n1, dk, dn);
    linear_back(m, linear_of(m, index, HT_ATTN_V), l->n1, dv, dn);
    norm_back(m, l->x, l->vector[HT_ATTN_NORM], dn, rows, hp->n_embd, d);
    add(dx, d, n);
    free(d), free(dn), free(da), free(dq), free(dk), free(dv);
}

// ---------------------------------------------------------------- the whole

static bool counts(const struct ht_batch *b, uint32_t row)
{
    return b->target[row] >= 0 && b->weight[row] != 0;
}

double train_model_loss(void *user)
{
    struct train_model *m = user;
    const struct ht_hparams *hp = &m->model->hp;
    const struct ht_batch *b = &m->batch;
    uint32_t n = hp->n_embd;
    double total = 0, *logits = train_doubles((size_t)b->n_rows * hp->n_vocab);
    for (size_t i = 0; i < (size_t)b->n_rows * n; i++)
        m->layers[0].x[i] = (double)hp->embd_scale * m->embedding[(size_t)b->ids[i / n] * n + i % n];
    add_noise(m, m->layers[0].x);
    for (uint32_t i = 0; i < hp->n_layers; i++)
        layer(m, i, i + 1 < hp->n_layers ? m->layers[i + 1].x : m->last);
    norm(m, m->last, m->head_norm, b->n_rows, n, m->final);
    linear(m, (struct linear){0, HT_ADAPTER_OUTPUT, hp->n_vocab, n}, m->final, NULL, logits);
    memset(m->logits_back, 0, (size_t)b->n_rows * hp->n_vocab * sizeof *m->logits_back);
    for (uint32_t r = 0; r < b->n_rows; r++) {
        m->row_loss[r] = 0;
        if (!counts(b, r))
            continue;
        size_t at = (size_t)r * hp->n_vocab;
        m->row_loss[r] = ht_ref_cross_entropy(logits + at, hp->n_vocab, (double)hp->final_softcap,
                                              (uint32_t)b->target[r], (double)b->weight[r], m->logits_back + at);
        total += (double)b->weight[r] * m->row_loss[r];
    }
    free(logits);
    return total;
}

void train_model_back(struct train_model *m)
{
    const struct ht_hparams *hp = &m->model->hp;
    size_t n = (size_t)m->batch.n_rows * hp->n_embd;
    double *dn = train_doubles(n), *dx = train_doubles(n);
    memset(m->gradient, 0, m->adapter->n_values * sizeof *m->gradient);
    linear_back(m, (struct linear){0, HT_ADAPTER_OUTPUT, hp->n_vocab, hp->n_embd}, m->final, m->logits_back, dn);
    norm_back(m, m->last, m->head_norm, dn, m->batch.n_rows, hp->n_embd, dx);
    for (uint32_t i = hp->n_layers; i-- > 0;) {
        ffn_back(m, i, dx);
        attention_back(m, i, dx);
    }
    free(dn), free(dx);
}
