// SPDX-License-Identifier: Apache-2.0
// What training's ops other than the frozen products cost on this machine: each op of a layer, the loss and the
// optimizer step, with the shapes of two models and LoRA of rank 8 on all linears, recorded into plans as training does
// it. Any thread, one at a time.
#include <stdio.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/engine.h"
#include "engine/ops/backend.h"

enum { ROWS = HEARTH_TRAIN_ROWS, RANK = 8, REPEATS = 15, LOGIT_FLOATS = 12 << 20, PIECE = 2 << 20 };

struct shape {
    const char *name;
    uint32_t dim, heads, kv_heads, head_dim, ff, vocab, layers, norms;
    enum ht_act act;
};
static const struct shape shapes[] = {
    {"SmolLM2-135M", 576, 9, 3, 64, 1536, 49152, 30, 2, HT_ACT_SILU},
    {"Gemma-3-270M", 640, 4, 1, 256, 2048, 262144, 18, 4, HT_ACT_GELU_TANH},
};
enum { N_SHAPES = sizeof shapes / sizeof shapes[0] };

struct bench {
    const struct ht_device_ops *dev;
    const struct shape *s;
    struct ht_device *device;
    struct ht_buf *work;
    struct ht_plan *plan;
    struct ht_step step;
    struct ht_train_step train;
    void *step_memory, *train_memory;
    struct hearth_train_op_speed *out;
    struct hearth_error *err;
};

// Matrix i of at most PIECE floats.
static struct ht_ref piece(const struct bench *b, unsigned i)
{
    return (struct ht_ref){b->work, (size_t)i * PIECE};
}

#define RECORD(op, ...) b->dev->train->op(b->plan, &(struct ht_##op){__VA_ARGS__}, b->err)

static struct ht_attend attend_of(const struct bench *b)
{
    const struct shape *s = b->s;
    uint32_t q = s->heads * s->head_dim, k = s->kv_heads * s->head_dim;
    return (struct ht_attend){.q = piece(b, 0),
                              .k = piece(b, 1),
                              .v = piece(b, 2),
                              .y = piece(b, 3),
                              .lse = piece(b, 4),
                              .q_stride = q,
                              .k_stride = k,
                              .v_stride = k,
                              .y_stride = q,
                              .lse_stride = s->heads,
                              .heads = s->heads,
                              .kv_heads = s->kv_heads,
                              .k_dim = s->head_dim,
                              .v_dim = s->head_dim,
                              .scale = 0.1f};
}

// A pair of row and key is two products of head_dim on the way forward and five on the way back.
static void count_pairs(struct bench *b, double products)
{
    b->out->gflop = products * 2 * b->s->head_dim * b->s->heads * ROWS * (ROWS + 1) / 2 * 1e-9;
    b->out->per_batch = b->s->layers;
}

static enum hearth_status attend(struct bench *b)
{
    struct ht_attend op = attend_of(b);
    count_pairs(b, 2);
    return b->dev->train->attend(b->plan, &op, b->err);
}

static enum hearth_status attend_back(struct bench *b)
{
    struct ht_attend f = attend_of(b);
    count_pairs(b, 5);
    return RECORD(attend_back, .f = f, .dy = piece(b, 5), .dq = piece(b, 6), .dk = piece(b, 7), .dv = piece(b, 8),
                  .dy_stride = f.y_stride, .dq_stride = f.q_stride, .dk_stride = f.k_stride, .dv_stride = f.v_stride);
}

// The linears of a layer: q k v, o, gate up, down; those of a group share their input, and their A's lie together.
struct group {
    uint32_t k, n_parts, n[3];
};

static void groups_of(const struct shape *s, struct group g[4])
{
    uint32_t q = s->heads * s->head_dim, k = s->kv_heads * s->head_dim;
    g[0] = (struct group){s->dim, 3, {q, k, k}};
    g[1] = (struct group){q, 1, {s->dim}};
    g[2] = (struct group){s->dim, 2, {s->ff, s->ff}};
    g[3] = (struct group){s->ff, 1, {s->dim}};
}

static enum hearth_status dense(struct bench *b, enum ht_dense_kind kind, uint32_t a_stride, uint32_t b_stride,
                                uint32_t y_stride, uint32_t n, uint32_t k, bool add)
{
    b->out->gflop += 2e-9 * ROWS * n * k;
    return RECORD(dense, .kind = kind, .a = piece(b, 0), .b = piece(b, 1), .y = piece(b, 2), .a_stride = a_stride,
                  .b_stride = b_stride, .y_stride = y_stride, .n = n, .k = k, .scale = 0.5f, .add = add);
}

static enum hearth_status dense_inputs(struct bench *b, enum ht_dense_kind kind)
{
    struct group g[4];
    groups_of(b->s, g);
    b->out->per_batch = b->s->layers;
    for (int i = 0; i < 4; i++) {
        uint32_t rank = g[i].n_parts * RANK, k = g[i].k;
        if (kind == HT_DENSE_NT) // u = x Aᵀ
            HT_TRY(dense(b, kind, k, k, rank, rank, k, false));
        else if (kind == HT_DENSE_NN) // dx += t A
            HT_TRY(dense(b, kind, rank, k, k, k, rank, true));
        else // dA += tᵀ x
            HT_TRY(dense(b, kind, rank, k, k, k, rank, true));
    }
    return HEARTH_OK;
}

static enum hearth_status dense_outputs(struct bench *b, enum ht_dense_kind kind)
{
    struct group g[4];
    groups_of(b->s, g);
    b->out->per_batch = b->s->layers;
    for (int i = 0; i < 4; i++)
        for (uint32_t j = 0; j < g[i].n_parts; j++) {
            uint32_t rank = g[i].n_parts * RANK, n = g[i].n[j];
            if (kind == HT_DENSE_NT) // y += u Bᵀ
                HT_TRY(dense(b, kind, rank, RANK, n, n, RANK, true));
            else if (kind == HT_DENSE_NN) // t = dy B
                HT_TRY(dense(b, kind, n, RANK, rank, RANK, n, false));
            else // dB += dyᵀ u
                HT_TRY(dense(b, kind, n, rank, RANK, RANK, n, true));
        }
    return HEARTH_OK;
}

static enum hearth_status down_forward(struct bench *b)
{
    return dense_inputs(b, HT_DENSE_NT);
}
static enum hearth_status up_forward(struct bench *b)
{
    return dense_outputs(b, HT_DENSE_NT);
}
static enum hearth_status up_back(struct bench *b)
{
    return dense_outputs(b, HT_DENSE_NN);
}
static enum hearth_status gradient_b(struct bench *b)
{
    return dense_outputs(b, HT_DENSE_TN);
}
static enum hearth_status down_back(struct bench *b)
{
    return dense_inputs(b, HT_DENSE_NN);
}
static enum hearth_status gradient_a(struct bench *b)
{
    return dense_inputs(b, HT_DENSE_TN);
}

// Rows of `width` floats, of which `streams` are read or written.
static void count_rows(struct bench *b, double per_batch, double width, double streams)
{
    b->out->gigabytes = 4e-9 * ROWS * width * streams;
    b->out->per_batch = per_batch;
}

static enum hearth_status rmsnorm_back(struct bench *b)
{
    uint32_t dim = b->s->dim;
    count_rows(b, b->s->norms * b->s->layers + 1, dim, 4);
    return RECORD(rmsnorm_back, .x = piece(b, 0), .w = piece(b, 1), .dy = piece(b, 2), .dx = piece(b, 3),
                  .x_stride = dim, .dy_stride = dim, .dx_stride = dim, .groups = 1, .dim = dim, .eps = 1e-5f,
                  .add = true);
}

static enum hearth_status rope_back(struct bench *b)
{
    uint32_t heads = b->s->heads + b->s->kv_heads, dim = b->s->head_dim;
    count_rows(b, b->s->layers, heads * dim, 2);
    return RECORD(rope_back, .rope = {.x = piece(b, 0), .freq = piece(b, 1), .stride = heads * dim, .heads = heads,
                                      .dim = dim, .n_rot = dim, .kind = HT_ROPE_NEOX, .mscale = 1});
}

static enum hearth_status glu_back(struct bench *b)
{
    uint32_t ff = b->s->ff;
    count_rows(b, b->s->layers, ff, 5);
    return RECORD(glu_back, .gate = piece(b, 0), .up = piece(b, 1), .dy = piece(b, 2), .dgate = piece(b, 3),
                  .dup = piece(b, 4), .gate_stride = ff, .up_stride = ff, .dy_stride = ff, .dgate_stride = ff,
                  .dup_stride = ff, .dim = ff, .act = b->s->act);
}

static enum hearth_status scatter(struct bench *b)
{
    uint32_t dim = b->s->dim, rows = LOGIT_FLOATS / b->s->vocab;
    b->out->gigabytes = 4e-9 * rows * dim * 3;
    b->out->per_batch = (double)ROWS / rows;
    return RECORD(scatter, .dy = piece(b, 0), .dx = piece(b, 2), .dy_stride = dim, .dx_stride = dim, .dim = dim,
                  .add = true);
}

static enum hearth_status dropout(struct bench *b)
{
    uint32_t dim = b->s->dim;
    count_rows(b, b->s->layers * 2, dim, 2); // beside it, inputs of other widths
    return RECORD(dropout, .x = piece(b, 0), .y = piece(b, 2), .x_stride = dim, .y_stride = dim, .dim = dim,
                  .stream = 7, .rate = 0.05f);
}

static enum hearth_status noise(struct bench *b)
{
    uint32_t dim = b->s->dim;
    count_rows(b, 1, dim, 2);
    return RECORD(noise, .x = piece(b, 0), .stride = dim, .dim = dim, .stream = 7, .alpha = 5);
}

static enum hearth_status cross_entropy(struct bench *b)
{
    uint32_t vocab = b->s->vocab, rows = LOGIT_FLOATS / vocab;
    b->out->gigabytes = 4e-9 * rows * vocab * 3; // read twice, written once
    b->out->per_batch = (double)ROWS / rows;
    return RECORD(cross_entropy, .logits = piece(b, 0), .loss = piece(b, 9), .stride = vocab, .n_vocab = vocab);
}

// The flat ops run once per optimizer step; so many values has an adapter.
static uint32_t n_values(const struct shape *s)
{
    struct group g[4];
    uint32_t n = 0;
    groups_of(s, g);
    for (int i = 0; i < 4; i++)
        for (uint32_t j = 0; j < g[i].n_parts; j++)
            n += s->layers * RANK * (g[i].k + g[i].n[j]);
    return n;
}

static enum hearth_status flat(struct bench *b, double streams)
{
    b->out->gigabytes = 4e-9 * n_values(b->s) * streams;
    b->out->per_batch = 1;
    return HEARTH_OK;
}

static enum hearth_status sumsq(struct bench *b)
{
    HT_TRY(flat(b, 1));
    return RECORD(sumsq, .x = piece(b, 0), .sum = piece(b, 9), .n = n_values(b->s));
}

static enum hearth_status scale(struct bench *b)
{
    HT_TRY(flat(b, 2));
    return RECORD(scale, .x = piece(b, 0), .n = n_values(b->s), .factor = 1);
}

static enum hearth_status adamw(struct bench *b)
{
    HT_TRY(flat(b, 7));
    return RECORD(adamw, .p = piece(b, 0), .g = piece(b, 3), .m = piece(b, 6), .v = piece(b, 9), .n = n_values(b->s),
                  .lr_factor = 1, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f);
}

static enum hearth_status adamw8(struct bench *b)
{
    HT_TRY(flat(b, 4));
    b->out->per_batch = 0; // in place of adamw
    return RECORD(adamw8, .p = piece(b, 0), .g = piece(b, 3), .m = piece(b, 6), .v = piece(b, 8),
                  .scales = piece(b, 10), .n = n_values(b->s), .lr_factor = 1, .beta1 = 0.9f, .beta2 = 0.999f,
                  .eps = 1e-8f);
}

static const struct {
    const char *name;
    enum hearth_status (*record)(struct bench *b);
} cases[] = {
    {"attend", attend},
    {"attend_back", attend_back},
    {"u = x A'", down_forward},
    {"y += u B'", up_forward},
    {"t = dy B", up_back},
    {"dB += dy' u", gradient_b},
    {"dA += t' x", gradient_a},
    {"dx += t A", down_back},
    {"glu_back", glu_back},
    {"rope_back", rope_back},
    {"rmsnorm_back", rmsnorm_back},
    {"scatter", scatter},
    {"dropout", dropout},
    {"noise", noise},
    {"cross_entropy", cross_entropy},
    {"sumsq", sumsq},
    {"scale", scale},
    {"adamw", adamw},
    {"adamw8 (instead)", adamw8},
};
enum { N_CASES = sizeof cases / sizeof cases[0] };

static enum hearth_status make_step(struct bench *b, struct ht_step_shape *shape)
{
    *shape = (struct ht_step_shape){
        .rows = ROWS, .outs = LOGIT_FLOATS / b->s->vocab, .seqs = 1, .pages = ROWS / HT_KV_PAGE + 1};
    b->step_memory = ht_calloc(1, ht_step_layout(&b->step, shape, NULL));
    b->train_memory = ht_calloc(1, ht_train_step_layout(&b->train, ROWS, NULL));
    if (!b->step_memory || !b->train_memory)
        return ht_fail(b->err, HEARTH_NOMEM, "out of memory for a kernel test");
    ht_step_layout(&b->step, shape, b->step_memory);
    ht_train_step_layout(&b->train, ROWS, b->train_memory);
    for (int32_t i = 0; i < ROWS; i++) {
        b->step.pos[i] = i;
        if ((uint32_t)i < shape->outs)
            b->step.out_row[i] = i;
        b->step.adapter[i] = -1;
        b->train.row_id[i] = (uint32_t)i;
        b->train.weight[i] = 1.0f / ROWS;
    }
    *b->train.values = (struct ht_train_values){.step = 1, .lr = 1e-4f, .correction1 = 1, .correction2 = 1};
    b->step.counts[0] = ROWS;
    b->step.counts[1] = shape->outs;
    b->step.counts[2] = 1;
    return HEARTH_OK;
}

static enum hearth_status fill_work(struct bench *b)
{
    enum { N = 13 * PIECE, AT_ONCE = 1 << 16 };
    HT_TRY(b->dev->buf_create(b->device, N * sizeof(float), &b->work, b->err));
    float *x = ht_calloc(AT_ONCE, sizeof *x);
    if (!x)
        return ht_fail(b->err, HEARTH_NOMEM, "out of memory for a kernel test");
    enum hearth_status status = HEARTH_OK;
    for (size_t i = 0; i < N && status == HEARTH_OK; i += AT_ONCE) {
        for (uint32_t j = 0; j < AT_ONCE; j++)
            x[j] = (float)(((uint32_t)i + j) * 2654435761u >> 16) / 65536.0f;
        status = b->dev->buf_write(b->device, b->work, i * sizeof *x, x, AT_ONCE * sizeof *x, b->err);
    }
    ht_free(x);
    return status;
}

static enum hearth_status measure(struct bench *b, enum hearth_status (*record)(struct bench *b))
{
    struct ht_step_shape shape;
    double took[REPEATS];
    HT_TRY(make_step(b, &shape));
    HT_TRY(fill_work(b));
    HT_TRY(b->dev->plan_begin(b->device, &shape, &b->plan, b->err));
    HT_TRY(record(b));
    HT_TRY(b->dev->plan_end(b->plan, b->err));
    for (int i = -2; i < REPEATS; i++) { // the first warm up
        double begin = ht_now_s();
        HT_TRY(b->dev->train->submit(b->plan, &b->step, &b->train, b->err));
        HT_TRY(b->dev->wait(b->device, 0, b->err));
        took[i < 0 ? 0 : i] = ht_now_s() - begin;
    }
    b->out->milliseconds = ht_median(took, REPEATS) * 1e3;
    return HEARTH_OK;
}

enum hearth_status hearth_measure_train_op(unsigned index, unsigned n_threads, const char *cpu_isa,
                                           struct hearth_train_op_speed *out, struct hearth_error *err)
{
    struct bench b = {.out = out, .err = err};
    struct ht_device_params params = {.n_threads = n_threads, .isa = cpu_isa};
    *out = (struct hearth_train_op_speed){0};
    if (index >= N_SHAPES * N_CASES)
        return ht_fail(err, HEARTH_NOT_FOUND, "there are %d ops", (int)(N_SHAPES * N_CASES));
    b.s = &shapes[index / N_CASES];
    snprintf(out->model, sizeof out->model, "%s", b.s->name);
    snprintf(out->op, sizeof out->op, "%s", cases[index % N_CASES].name);
    HT_TRY(ht_backend_find("cpu", &b.dev, &params.index, err));
    HT_TRY(b.dev->open(&b.device, &params, err));
    enum hearth_status status = measure(&b, cases[index % N_CASES].record);
    b.dev->plan_destroy(&b.plan);
    b.dev->buf_destroy(b.device, &b.work);
    ht_free(b.step_memory);
    ht_free(b.train_memory);
    b.dev->close(&b.device);
    return status;
}
