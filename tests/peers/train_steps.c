// SPDX-License-Identifier: Apache-2.0
// Trains an adapter on packed rows through the engine's graph alone, for the comparisons of test_training.py and for
// timing.
//   train_steps MODEL ADAPTER ROWS PRECISION STEPS MICRO LR OUT.gguf [keep | again [ISA]]
// ADAPTER: a GGUF file, or new:RANK (then OUT.gguf is ""). ROWS: little-endian u32 n (rows of a micro-batch), u32
// batches, then for each batch n of each of: id, position, first row of the segment, target (-1 = none), weight (f32,
// normalised over the optimizer step). PRECISION: f32, bf16 (the best there is; exit status 3: none), bf16/avx512. A
// step takes MICRO batches, round and round; MICRO 0: only losses; STEPS 0: the gradient of MICRO batches goes to
// OUT.gguf, each with draws of its own. Dropout is what ADAPTER says. again: with checkpointing. stdout: a line of JSON
// per step, then one in all.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/learn/graph_impl.h"
#include "engine/model/session.h"

static struct hearth_error err;
static double longest_ms[4], spent_ms[4]; // forward, head, backward, update

static void must(enum hearth_status status)
{
    if (status == HEARTH_OK)
        return;
    fprintf(stderr, "%s\n", err.text);
    exit(1);
}

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

struct data {
    uint32_t n, n_batches;
    unsigned char *bytes;
    uint32_t *row_id;
};

static struct data read_rows(const char *path)
{
    struct data d = {0};
    FILE *f = fopen(path, "rb");
    if (!f || fread(&d.n, 4, 1, f) != 1 || fread(&d.n_batches, 4, 1, f) != 1)
        exit(2);
    size_t bytes = (size_t)d.n * d.n_batches * 5 * 4;
    d.bytes = malloc(bytes);
    d.row_id = malloc((size_t)d.n * sizeof *d.row_id);
    if (!d.bytes || !d.row_id || fread(d.bytes, 1, bytes, f) != bytes)
        exit(2);
    fclose(f);
    return d;
}

static struct ht_batch batch_of(const struct data *d, uint32_t number, uint32_t micro)
{
    size_t each = (size_t)d->n * 4;
    const unsigned char *at = d->bytes + number % d->n_batches * each * 5;
    for (uint32_t r = 0; r < d->n; r++)
        d->row_id[r] = micro * d->n + r;
    return (struct ht_batch){.n_rows = d->n,
                             .ids = (const int32_t *)(const void *)at,
                             .pos = (const uint32_t *)(const void *)(at + each),
                             .seg_from = (const uint32_t *)(const void *)(at + 2 * each),
                             .target = (const int32_t *)(const void *)(at + 3 * each),
                             .weight = (const float *)(const void *)(at + 4 * each),
                             .row_id = d->row_id};
}

static int kind_of(const struct ht_graph *g)
{
    if (g->state == HT_GRAPH_UPDATING)
        return 3;
    if (g->at < g->n_touch + g->forward.n)
        return 0;
    return g->n_pieces - g->at <= g->backward.n && g->pass == HT_GRAPH_TRAIN ? 2 : 1;
}

static void run(struct ht_graph *g)
{
    uint32_t left;
    do {
        int kind = kind_of(g);
        double from = now_ms();
        must(ht_graph_run(g, &left, &err));
        double ms = now_ms() - from;
        spent_ms[kind] += ms;
        longest_ms[kind] = ms > longest_ms[kind] ? ms : longest_ms[kind];
    } while (left);
}

static double pass(struct ht_graph *g, enum ht_graph_pass which, const struct ht_batch *batch, uint64_t step)
{
    double loss = 0;
    must(ht_graph_begin(g, which, batch, 1, step, &err));
    run(g);
    for (uint32_t r = 0; r < batch->n_rows; r++)
        loss += (double)batch->weight[r] * (double)ht_graph_losses(g)[r];
    return loss;
}

static long high_water_kib(void)
{
    char line[256];
    long kib = 0;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f))
        if (!strncmp(line, "VmHWM:", 6))
            kib = strtol(line + 6, NULL, 10);
    if (f)
        fclose(f);
    return kib;
}

static enum ht_train_precision precision_of(const struct hearth_engine *e, const char *name)
{
    bool avx512 = e->dev->train->supports(e->device, HT_TRAIN_B_AVX512BF16);
    if (!strcmp(name, "f32"))
        return HT_TRAIN_F;
    if (!strcmp(name, "bf16") && e->dev->train->supports(e->device, HT_TRAIN_B_AMX))
        return HT_TRAIN_B_AMX;
    if (!avx512) {
        fprintf(stderr, "no %s on this CPU\n", name);
        exit(3);
    }
    return HT_TRAIN_B_AVX512BF16;
}

static void step_line(uint32_t step, double loss, double norm, double ms, uint32_t rows)
{
    printf("{\"step\": %u, \"loss\": %.9g, \"grad_norm\": %.9g, \"ms\": %.1f, \"tokens_per_second\": %.1f}\n", step,
           loss, norm, ms, rows / ms * 1e3);
    fflush(stdout);
}

static void train(struct ht_graph *g, const struct data *d, uint32_t steps, uint32_t micro, float lr)
{
    for (uint32_t step = 0; step < steps; step++) {
        double loss = 0, from = now_ms();
        float norm = 0;
        for (uint32_t i = 0; i < (micro ? micro : 1); i++) {
            struct ht_batch batch = batch_of(d, step * (micro ? micro : 1) + i, i);
            loss += pass(g, micro ? HT_GRAPH_TRAIN : HT_GRAPH_LOSS, &batch, step + 1);
        }
        if (micro) {
            must(ht_graph_norm(g, &norm, &err));
            must(ht_graph_update(g, step + 1, lr, &err));
            run(g);
        }
        step_line(step, loss, (double)norm, now_ms() - from, d->n * (micro ? micro : 1));
    }
}

static void gradient(struct ht_graph *g, const struct data *d, uint32_t micro)
{
    double loss = 0, from = now_ms();
    float norm;
    for (uint32_t i = 0; i < micro; i++) {
        struct ht_batch batch = batch_of(d, i, i);
        loss += pass(g, HT_GRAPH_TRAIN, &batch, 1);
    }
    must(ht_graph_norm(g, &norm, &err));
    step_line(0, loss, (double)norm, now_ms() - from, d->n * micro);
}

int main(int argc, char **argv)
{
    if (argc < 9)
        return 2;
    struct hearth_engine *e;
    struct hearth_adapter *a;
    struct ht_graph *g;
    struct data d = read_rows(argv[3]);
    const struct hearth_engine_params engine_params = {.model_path = argv[1], .device = "cpu", .n_ctx = 64,
                                                       .cpu_isa = argc > 10 ? argv[10] : NULL};
    must(hearth_engine_open(&e, &engine_params, &err));
    if (!strncmp(argv[2], "new:", 4)) {
        const struct ht_adapter_spec spec = {
            .linears = 0x7F, .rank = (uint32_t)strtoul(argv[2] + 4, NULL, 10), .alpha = 2 * strtof(argv[2] + 4, NULL)};
        must(ht_adapter_create(&a, &e->model.hp, &spec, &err));
        ht_adapter_init(a, 1, false);
    } else {
        must(hearth_adapter_open(&a, argv[2], NULL, &err));
    }
    const struct ht_graph_params params = {.rows = d.n,
                                           .checkpointing = argc > 9 && !strcmp(argv[9], "again"),
                                           .precision = precision_of(e, argv[4]),
                                           .dropout = a->dropout,
                                           .lora_plus = 1,
                                           .beta1 = 0.9f,
                                           .beta2 = 0.999f,
                                           .eps = 1e-8f,
                                           .clip = 1};
    uint64_t told;
    must(ht_graph_memory(&e->model, a, &params, &told, &err));
    must(ht_graph_create(&g, &e->model, a, &params, &err));
    uint32_t steps = (uint32_t)strtoul(argv[5], NULL, 10), micro = (uint32_t)strtoul(argv[6], NULL, 10);
    if (steps)
        train(g, &d, steps, micro, strtof(argv[7], NULL));
    else
        gradient(g, &d, micro);
    must(ht_graph_read(g, steps ? HT_GRAPH_VALUES : HT_GRAPH_GRADIENTS, a->values, &err));
    if (argv[8][0])
        must(hearth_adapter_write_gguf(a, argv[8], &err));
    printf("{\"pieces\": [%u, %u, %u, %u], \"longest_ms\": [%.2f, %.2f, %.2f, %.2f], \"spent_ms\": [%.0f, %.0f, %.0f, "
           "%.0f], \"graph_mib\": %.1f, \"vm_hwm_mib\": %.1f, \"device\": \"%s\"}\n",
           g->forward.n, g->head.n, g->backward.n, g->update.n, longest_ms[0], longest_ms[1], longest_ms[2],
           longest_ms[3], spent_ms[0], spent_ms[1], spent_ms[2], spent_ms[3], (double)told / 1048576,
           (double)high_water_kib() / 1024, e->info.device);
    ht_graph_destroy(&g);
    hearth_adapter_close(&a);
    hearth_engine_close(&e);
    return 0;
}
