// SPDX-License-Identifier: Apache-2.0
// All ops together: a decoder of SmolLM2's shapes with random weights. As a test: token by token, in chunks
// and at any thread count it gives the same logits, bit for bit. `decoder --bench [threads] [isa]` measures
// instead: decode and prefill against the machine's read bandwidth (medians).
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "engine/base/mem.h"
#include "engine/base/pool.h"
#include "tests/check/check.h"

struct shape {
    uint32_t layers, dim, heads, kv_heads, head_dim, ff, vocab, pages;
    enum ht_type type, out_type;
};
static const struct shape smollm2 = {30, 576, 9, 3, 64, 1536, 49152, 40, HT_TYPE_Q4_1, HT_TYPE_Q8_0};
static const struct shape small = {2, 576, 9, 3, 64, 1536, 320, 4, HT_TYPE_Q4_1, HT_TYPE_Q8_0};
enum { MAX_LAYERS = 30, N_MATRICES = 7 };

struct model {
    struct check_device d;
    struct shape s;
    struct ht_weight *w[MAX_LAYERS][N_MATRICES], *out;
    struct ht_kv *kv;
    struct ht_buf *buf;
    size_t weight_bytes;
};

static struct ht_weight *random_weight(struct model *m, enum ht_type type, uint32_t n, uint32_t k)
{
    uint64_t row_bytes;
    ht_row_bytes(type, k, &row_bytes);
    unsigned char *blocks = malloc(row_bytes * n);
    uint64_t x = check_random() | 1;
    for (uint64_t i = 0; i < row_bytes * n; i++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        blocks[i] = (unsigned char)(x >> 56);
    }
    unsigned step = ht_type_info(type)->block_bytes;
    for (uint64_t i = 0; i < row_bytes * n; i += step) { // d (and m) small, whatever the sign
        blocks[i + 1] = (unsigned char)((blocks[i + 1] & 0x80) | 0x20);
        if (type == HT_TYPE_Q4_1)
            blocks[i + 3] = (unsigned char)((blocks[i + 3] & 0x80) | 0x28);
    }
    struct ht_weight *w = check_weight(&m->d, type, n, k, blocks);
    struct ht_weight_params params = {type, n, k};
    m->weight_bytes += m->d.ops->weight_size(m->d.device, &params);
    free(blocks);
    return w;
}

static void model_make(struct model *m, const struct shape *s, const char *isa, unsigned n_threads)
{
    *m = (struct model){.s = *s};
    if (!check_open(&m->d, isa, n_threads, HT_PRECISION_Q)) {
        fprintf(stderr, "no such instruction set here\n");
        exit(1);
    }
    check_reseed(7);
    uint32_t q = s->heads * s->head_dim, kv = s->kv_heads * s->head_dim;
    uint32_t n[N_MATRICES] = {q, kv, kv, s->dim, s->ff, s->ff, s->dim},
             k[N_MATRICES] = {s->dim, s->dim, s->dim, q, s->dim, s->dim, s->ff};
    for (uint32_t l = 0; l < s->layers; l++)
        for (int i = 0; i < N_MATRICES; i++)
            m->w[l][i] = random_weight(m, s->type, n[i], k[i]);
    m->out = random_weight(m, s->out_type, s->vocab, s->dim);
    CHECK_OK(m->d.ops->kv_create(
        m->d.device,
        &(struct ht_kv_params){s->layers, s->kv_heads, s->head_dim, s->head_dim, s->pages, HT_KV_F16}, &m->kv,
        &check_err));
}

static void model_free(struct model *m)
{
    for (uint32_t l = 0; l < m->s.layers; l++)
        for (int i = 0; i < N_MATRICES; i++)
            m->d.ops->weight_destroy(m->d.device, &m->w[l][i]);
    m->d.ops->weight_destroy(m->d.device, &m->out);
    m->d.ops->kv_destroy(m->d.device, &m->kv);
    check_close(&m->d);
}

struct forward { // one recorded plan and its activations
    struct check_plan plan;
    struct ht_buf *buf;
    struct ht_ref x, norm, q, k, v, attended, gate, up, gain, freq, last, last_norm, logits, token;
};

static struct ht_ref carve(struct forward *f, size_t *at, size_t floats)
{
    struct ht_ref ref = {f->buf, *at};
    *at += (floats + 15) / 16 * 16;
    return ref;
}

// One product that reads x (rows, k): y = W x, or y += W x
static struct ht_matmul product(struct ht_ref x, uint32_t k, struct ht_weight *w, struct ht_ref y, uint32_t n,
                                bool add, enum ht_rows rows)
{
    struct ht_matmul mm = {.x = x, .x_stride = k, .k = k, .n_parts = 1, .rows = rows};
    mm.part[0] = (struct ht_matmul_part){.w = w, .y = y, .y_stride = n, .add = add};
    return mm;
}

static void also(struct ht_matmul *mm, struct ht_weight *w, struct ht_ref y, uint32_t n)
{
    mm->part[mm->n_parts++] = (struct ht_matmul_part){.w = w, .y = y, .y_stride = n};
}

static void record_layer(struct model *m, struct forward *f, uint32_t l)
{
    const struct shape *s = &m->s;
    const struct ht_ops *op = m->d.table;
    struct ht_plan *p = f->plan.plan;
    struct ht_weight **w = m->w[l];
    uint32_t q = s->heads * s->head_dim, kv = s->kv_heads * s->head_dim, dim = s->dim, hd = s->head_dim;
    struct ht_rmsnorm norm = {f->x, f->norm, f->gain, dim, dim, 1, dim, 1e-5f, false, HT_ROWS_ALL};
    struct ht_rope rope_q = {f->q, f->freq, q, s->heads, hd, hd, HT_ROPE_NORM, 1};
    struct ht_rope rope_k = {f->k, f->freq, kv, s->kv_heads, hd, hd, HT_ROPE_NORM, 1};
    struct ht_kv_store store = {m->kv, l, f->k, f->v, kv, kv};
    struct ht_attention attention = {m->kv, l, f->q, f->attended, q, q, s->heads, 0.125f, 0, 0, 0};
    struct ht_glu glu = {f->gate, f->up, f->gate, s->ff, s->ff, s->ff, s->ff, HT_ACT_SILU};
    struct ht_matmul qkv = product(f->norm, dim, w[0], f->q, q, false, HT_ROWS_ALL);
    struct ht_matmul gate_up = product(f->norm, dim, w[4], f->gate, s->ff, false, HT_ROWS_ALL);
    struct ht_matmul out = product(f->attended, q, w[3], f->x, dim, true, HT_ROWS_ALL);
    struct ht_matmul down = product(f->gate, s->ff, w[6], f->x, dim, true, HT_ROWS_ALL);
    also(&qkv, w[1], f->k, kv);
    also(&qkv, w[2], f->v, kv);
    also(&gate_up, w[5], f->up, s->ff);
    CHECK_OK(op->rmsnorm(p, &norm, &check_err));
    CHECK_OK(op->matmul(p, &qkv, &check_err));
    CHECK_OK(op->rope(p, &rope_q, &check_err));
    CHECK_OK(op->rope(p, &rope_k, &check_err));
    CHECK_OK(op->kv_store(p, &store, &check_err));
    CHECK_OK(op->attention(p, &attention, &check_err));
    CHECK_OK(op->matmul(p, &out, &check_err));
    CHECK_OK(op->rmsnorm(p, &norm, &check_err));
    CHECK_OK(op->matmul(p, &gate_up, &check_err));
    CHECK_OK(op->glu(p, &glu, &check_err));
    CHECK_OK(op->matmul(p, &down, &check_err));
}

static void place(struct model *m, struct forward *f, uint32_t rows)
{
    const struct shape *s = &m->s;
    uint32_t q = s->heads * s->head_dim, kv = s->kv_heads * s->head_dim;
    size_t at = 0,
           total = (size_t)rows * (2 * s->dim + 2 * q + 2 * kv + 2 * s->ff) + s->vocab + 4 * s->dim + 1024;
    CHECK_OK(m->d.ops->buf_create(m->d.device, total * sizeof(float), &f->buf, &check_err));
    f->x = carve(f, &at, (size_t)rows * s->dim);
    f->norm = carve(f, &at, (size_t)rows * s->dim);
    f->q = carve(f, &at, (size_t)rows * q);
    f->k = carve(f, &at, (size_t)rows * kv);
    f->v = carve(f, &at, (size_t)rows * kv);
    f->attended = carve(f, &at, (size_t)rows * q);
    f->gate = carve(f, &at, (size_t)rows * s->ff);
    f->up = carve(f, &at, (size_t)rows * s->ff);
    f->last = carve(f, &at, s->dim);
    f->last_norm = carve(f, &at, s->dim);
    f->gain = carve(f, &at, s->dim);
    f->freq = carve(f, &at, s->head_dim / 2);
    f->logits = carve(f, &at, s->vocab);
    f->token = carve(f, &at, 16);
    float *host = m->d.ops->buf_host(f->buf);
    for (uint32_t i = 0; i < s->dim; i++)
        host[f->gain.offset + i] = 1;
    for (uint32_t i = 0; i < s->head_dim / 2; i++)
        host[f->freq.offset + i] = 1.0f / (float)(1 + i * i);
}

static void forward_make(struct model *m, struct forward *f, uint32_t rows)
{
    const struct shape *s = &m->s;
    const struct ht_ops *op = m->d.table;
    uint32_t dim = s->dim;
    place(m, f, rows);
    f->plan = check_plan_begin(&m->d, (struct ht_step_shape){rows, 1, 1, s->pages, 0});
    struct ht_plan *p = f->plan.plan;
    struct ht_rmsnorm norm = {f->last, f->last_norm, f->gain, dim, dim, 1, dim, 1e-5f, false, HT_ROWS_OUT};
    struct ht_matmul head = product(f->last_norm, dim, m->out, f->logits, s->vocab, false, HT_ROWS_OUT);
    CHECK_OK(op->embed(p, &(struct ht_embed){m->out, f->x, dim, 1}, &check_err));
    for (uint32_t l = 0; l < s->layers; l++)
        record_layer(m, f, l);
    CHECK_OK(op->gather(p, &(struct ht_gather){f->x, f->last, dim, dim, dim}, &check_err));
    CHECK_OK(op->rmsnorm(p, &norm, &check_err));
    CHECK_OK(op->matmul(p, &head, &check_err));
    CHECK_OK(op->sample(p, &(struct ht_sample){f->logits, f->token, s->vocab, s->vocab}, &check_err));
    check_plan_end(&f->plan);
    f->plan.step.sampler[0] = (struct ht_sampler){
        .temperature = 0.7f, .top_p = 0.95f, .min_p = 0.05f, .top_k = 40, .repeat_penalty = 1, .active = 1};
}

static void forward_free(struct model *m, struct forward *f)
{
    check_plan_free(&f->plan);
    m->d.ops->buf_destroy(m->d.device, &f->buf);
}

static void forward_run(struct forward *f, uint32_t first, uint32_t n, uint32_t n_ids)
{
    struct ht_step *s = &f->plan.step;
    s->counts[0] = n;
    for (uint32_t r = 0; r < n; r++) {
        s->pos[r] = (int32_t)(first + r);
        s->ids[r] = (int32_t)((first + r) * 37 % n_ids);
    }
    s->out_row[0] = (int32_t)n - 1;
    check_plan_run(&f->plan);
}

static void any_feeding_gives_the_same_logits(void **state)
{
    (void)state;
    enum { TOKENS = 45 };
    static const uint32_t chunks[] = {1, 2, 8, 9, 45};
    float first[320], now[320];
    unsigned failures = 0;
    for (unsigned threads = 1; threads <= 3; threads++)
        for (unsigned c = 0; c < 5; c++) {
            struct model m;
            struct forward f;
            model_make(&m, &small, NULL, threads);
            forward_make(&m, &f, chunks[c]);
            for (uint32_t at = 0; at < TOKENS; at += chunks[c])
                forward_run(&f, at, TOKENS - at < chunks[c] ? TOKENS - at : chunks[c], small.vocab);
            bool is_first = threads == 1 && c == 0;
            CHECK_OK(m.d.ops->buf_read(m.d.device, f.buf, f.logits.offset * 4, is_first ? first : now,
                                       sizeof now, &check_err));
            failures += is_first ? !(first[0] == first[0]) : check_bits("logits", now, first, 320);
            forward_free(&m, &f);
            model_free(&m);
        }
    assert_int_equal(failures, 0);
}

// ---- bench

static clockid_t bench_clock =
    CLOCK_MONOTONIC; // one thread: its CPU time, so that a busy machine disturbs less

static double seconds(void)
{
    struct timespec t;
    clock_gettime(bench_clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

struct reading {
    const uint64_t *data;
    size_t words;
    uint64_t sums[HT_MAX_THREADS][8];
};

static void read_share(void *arg, unsigned thread, unsigned n_threads)
{
    struct reading *r = arg;
    size_t share = r->words / n_threads / 8 * 8;
    const uint64_t *p = r->data + share * thread;
    uint64_t sum[8] = {0};
    for (size_t i = 0; i < share; i += 8)
        for (int j = 0; j < 8; j++)
            sum[j] += p[i + (size_t)j];
    memcpy(r->sums[thread], sum, sizeof sum);
}

static double read_rate(unsigned n_threads, size_t bytes)
{
    struct ht_pool *pool;
    double t[9];
    struct reading *r = calloc(1, sizeof *r);
    CHECK_OK(ht_pool_create(&pool, n_threads, &check_err));
    uint64_t *data = ht_alloc_big(bytes);
    memset(data, 1, bytes);
    *r = (struct reading){.data = data, .words = bytes / 8};
    for (int i = 0; i < 9; i++) {
        double start = seconds();
        ht_pool_run(pool, read_share, r);
        t[i] = seconds() - start;
    }
    qsort(t, 9, sizeof *t, ascending);
    ht_free_big(data, bytes);
    ht_pool_destroy(&pool);
    free(r);
    return (double)bytes / t[4];
}

static int bench(unsigned threads, const char *isa)
{
    enum { ROUNDS = 5, TOKENS = 64 };
    struct model m;
    struct forward one, many;
    if (threads == 1)
        bench_clock = CLOCK_PROCESS_CPUTIME_ID;
    model_make(&m, &smollm2, isa, threads);
    forward_make(&m, &one, 1);
    forward_make(&m, &many, 512);
    double read = read_rate(threads, m.weight_bytes), decode[ROUNDS], prefill[ROUNDS];
    printf("weights %.1f MiB, read %.1f GiB/s\n", (double)m.weight_bytes / 0x1p20, read / 0x1p30);
    for (int round = 0; round < ROUNDS; round++) {
        double start = seconds(), t[TOKENS];
        forward_run(&many, 0, 512, smollm2.vocab);
        prefill[round] = seconds() - start;
        for (uint32_t i = 0; i < TOKENS; i++) {
            start = seconds();
            forward_run(&one, 128 + i, 1, smollm2.vocab);
            t[i] = seconds() - start;
        }
        qsort(t, TOKENS, sizeof *t, ascending);
        decode[round] = t[TOKENS / 2];
        printf("round %d: prefill(512) %.0f tok/s, decode %.0f tok/s\n", round, 512 / prefill[round],
               1 / decode[round]);
    }
    qsort(decode, ROUNDS, sizeof *decode, ascending);
    qsort(prefill, ROUNDS, sizeof *prefill, ascending);
    double rate = (double)m.weight_bytes / decode[ROUNDS / 2];
    printf("%s: median prefill(512) %.0f tok/s (best %.0f), decode %.0f tok/s = %.1f GiB/s, %.0f %% of the "
           "read rate\n",
           m.d.name, 512 / prefill[ROUNDS / 2], 512 / prefill[0], 1 / decode[ROUNDS / 2], rate / 0x1p30,
           100 * rate / read);
    forward_free(&m, &one);
    forward_free(&m, &many);
    model_free(&m);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "--bench"))
        return bench(argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : 2, argc > 3 ? argv[3] : NULL);
    const struct CMUnitTest tests[] = {cmocka_unit_test(any_feeding_gives_the_same_logits)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
