// SPDX-License-Identifier: Apache-2.0
// A witness: how fast ggml's CPU back end multiplies packed matrices, as `hearth bench --kernels` measures ours.
//   llama-kernels -t THREADS [TOTAL_MIB]
// W (4096, 4096) of each quantised type, rotating over matrices of together TOTAL_MIB (256), by 1, 2, 4 and 8
// columns; the median of nine passes. The buffer types that repack weights are tried too where they take the type: the
// better one counts. One JSON object on stdout: format -> columns -> GB/s.
#include <ctype.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "ggml.h"

enum { SIDE = 4096, MAX_MATRICES = 128, REPEATS = 9, N_COLUMNS = 4, MAX_BUFFER_TYPES = 8 };
static const int columns[N_COLUMNS] = {1, 2, 4, 8};
static const enum ggml_type types[] = {GGML_TYPE_Q4_0, GGML_TYPE_Q4_1, GGML_TYPE_Q5_0,  GGML_TYPE_Q5_1,
                                       GGML_TYPE_Q8_0, GGML_TYPE_Q2_K, GGML_TYPE_Q3_K,  GGML_TYPE_Q4_K,
                                       GGML_TYPE_Q5_K, GGML_TYPE_Q6_K, GGML_TYPE_IQ4_NL};

static void quiet(enum ggml_log_level level, const char *text, void *user)
{
    (void)level, (void)text, (void)user;
}

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// Rows whose every two bytes are a plain half float, as in engine/measure.c.
static void fill(struct ggml_tensor *w)
{
    size_t n = ggml_nbytes(w);
    unsigned char *bytes = malloc(n);
    uint32_t random = 1;
    for (size_t i = 0; i < n; i++) {
        random = random * 1664525u + 1013904223u;
        bytes[i] = (unsigned char)(0x10 | random >> 28);
    }
    ggml_backend_tensor_set(w, bytes, 0, n);
    free(bytes);
}

static struct ggml_context *new_context(size_t n_tensors)
{
    return ggml_init((struct ggml_init_params){
        .mem_size = n_tensors * ggml_tensor_overhead() + 2 * ggml_graph_overhead(), .no_alloc = true});
}

// Would the back end multiply by a tensor of this buffer type? Asked as llama.cpp asks.
static bool takes(ggml_backend_dev_t dev, ggml_backend_buffer_type_t buft, enum ggml_type type)
{
    struct ggml_context *ctx = new_context(8);
    struct ggml_tensor *w = ggml_new_tensor_2d(ctx, type, SIDE, SIDE),
                       *x = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, SIDE, 8), *y = ggml_mul_mat(ctx, w, x);
    w->buffer = ggml_backend_buft_alloc_buffer(buft, 0);
    bool taken = ggml_backend_dev_supports_op(dev, y);
    ggml_backend_buffer_free(w->buffer);
    ggml_free(ctx);
    return taken;
}

// GB/s of packed bytes by each number of columns; `best` keeps the larger.
static void measure(ggml_backend_t backend, ggml_backend_buffer_type_t buft, enum ggml_type type,
                    size_t total, double best[N_COLUMNS])
{
    size_t bytes = ggml_row_size(type, SIDE) * SIDE,
           n = total / bytes + 1 < MAX_MATRICES ? total / bytes + 1 : MAX_MATRICES;
    struct ggml_context *weights = new_context(MAX_MATRICES);
    struct ggml_tensor *w[MAX_MATRICES];
    for (size_t i = 0; i < n; i++)
        w[i] = ggml_new_tensor_2d(weights, type, SIDE, SIDE);
    ggml_backend_buffer_t buffer = ggml_backend_alloc_ctx_tensors_from_buft(weights, buft);
    for (size_t i = 0; i < n; i++)
        fill(w[i]);
    for (int c = 0; c < N_COLUMNS; c++) {
        struct ggml_context *ctx = new_context(2 * MAX_MATRICES);
        struct ggml_cgraph *graph = ggml_new_graph(ctx);
        struct ggml_tensor *x = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, SIDE, columns[c]);
        for (size_t i = 0; i < n; i++)
            ggml_build_forward_expand(graph, ggml_mul_mat(ctx, w[i], x));
        ggml_backend_buffer_t work = ggml_backend_alloc_ctx_tensors(ctx, backend);
        float *values = malloc(ggml_nbytes(x));
        for (int64_t i = 0; i < ggml_nelements(x); i++)
            values[i] = (float)((uint32_t)i * 2654435761u >> 16) / 32768.0f - 1.0f;
        ggml_backend_tensor_set(x, values, 0, ggml_nbytes(x));
        free(values);
        double took[REPEATS];
        for (int i = -1; i < REPEATS; i++) { // the first warms up
            double begin = now_s();
            ggml_backend_graph_compute(backend, graph);
            if (i >= 0)
                took[i] = now_s() - begin;
        }
        qsort(took, REPEATS, sizeof *took, compare);
        double speed = (double)(bytes * n) / took[REPEATS / 2] / 1e9;
        best[c] = speed > best[c] ? speed : best[c];
        ggml_backend_buffer_free(work);
        ggml_free(ctx);
    }
    ggml_backend_buffer_free(buffer);
    ggml_free(weights);
}

int main(int argc, char **argv)
{
    if (argc < 3 || strcmp(argv[1], "-t"))
        return 2;
    int n_threads = (int)strtol(argv[2], NULL, 10);
    size_t total = (size_t)(argc > 3 ? strtol(argv[3], NULL, 10) : 256) << 20;
    ggml_log_set(quiet, NULL);
    ggml_backend_t backend = ggml_backend_cpu_init();
    ggml_backend_dev_t dev = ggml_backend_get_device(backend);
    ggml_backend_cpu_set_n_threads(backend, n_threads);
    ggml_backend_buffer_type_t bufts[MAX_BUFFER_TYPES] = {ggml_backend_cpu_buffer_type()};
    int n_bufts = 1;
    ggml_backend_dev_get_extra_bufts_t extra =
        (ggml_backend_dev_get_extra_bufts_t)ggml_backend_reg_get_proc_address(
            ggml_backend_dev_backend_reg(dev), "ggml_backend_dev_get_extra_bufts");
    for (ggml_backend_buffer_type_t *b = extra ? extra(dev) : NULL; b && *b && n_bufts < MAX_BUFFER_TYPES;
         b++)
        bufts[n_bufts++] = *b;
    printf("{");
    for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
        double best[N_COLUMNS] = {0};
        for (int b = 0; b < n_bufts; b++)
            if (!b || takes(dev, bufts[b], types[t]))
                measure(backend, bufts[b], types[t], total, best);
        char name[16] = "";
        for (const char *from = ggml_type_name(types[t]), *to = from; *to && to - from < 15; to++)
            name[to - from] = (char)toupper((unsigned char)*to);
        printf("%s\"%s\":{", t ? "," : "", name);
        for (int c = 0; c < N_COLUMNS; c++)
            printf("%s\"%d\":%.2f", c ? "," : "", columns[c], best[c]);
        printf("}");
    }
    printf("}\n");
    ggml_backend_free(backend);
    return 0;
}
