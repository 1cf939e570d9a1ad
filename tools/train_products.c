// SPDX-License-Identifier: Apache-2.0
// hearth bench --train-products: see train_products.h. Main thread.
#include "tools/train_products.h"

#include <jansson.h>
#include <string.h>

#include "engine/engine.h"
#include "tools/cli.h"
#include "tools/hearth.h"
#include "tools/json_line.h"
#include "tools/machine.h"
#include "tools/unit_peak.h"

enum { MOST_SHAPES = 32, N_UNITS = 3 };
static const struct {
    const char *name;
    enum unit unit;
} units[N_UNITS] = { // by enum hearth_product_unit
    {"f32", UNIT_F32},
    {"bf16/avx512", UNIT_BF16_AVX512},
    {"bf16/amx", UNIT_BF16_AMX},
};

struct result {
    double peak[N_UNITS][MOST_SHAPES]; // measured right before each product; 0: not known
    struct hearth_product_speed speed[N_UNITS][MOST_SHAPES];
    unsigned n;
};

static int measure(unsigned n_threads, const char *cpu_isa, struct result *result)
{
    for (unsigned u = 0; u < N_UNITS; u++) {
        bool narrow = units[u].unit == UNIT_F32 && cpu_isa && !strcmp(cpu_isa, "avx2");
        struct hearth_error err = {0};
        enum hearth_status status = HEARTH_OK;
        for (unsigned i = 0; i < MOST_SHAPES && !status; i++) {
            result->peak[u][i] = unit_peak_gops(narrow ? UNIT_F32_AVX2 : units[u].unit, n_threads);
            status = hearth_measure_product(i, (enum hearth_product_unit)u, n_threads, cpu_isa, &result->speed[u][i],
                                            &err);
            result->n = status ? result->n : i + 1 > result->n ? i + 1 : result->n;
        }
        if (status && status != HEARTH_NOT_FOUND && (status != HEARTH_UNSUPPORTED || units[u].unit == UNIT_F32))
            return cli_fail_status(&err);
    }
    return CLI_OK;
}

static int print_json(const struct result *result, unsigned n_threads, const char *cpu)
{
    json_t *all = json_array();
    for (unsigned u = 0; all && u < N_UNITS; u++)
        for (unsigned i = 0; i < result->n && result->speed[u][i].forward > 0; i++) {
            const struct hearth_product_speed *s = &result->speed[u][i];
            json_array_append_new(
                all, json_pack("{s:s, s:f, s:s, s:s, s:i, s:i, s:i, s:f, s:f}", "unit", units[u].name, "peak_gops",
                               result->peak[u][i], "model", s->model, "format", s->format, "rows", (int)s->rows, "n",
                               (int)s->n, "k", (int)s->k, "forward_gops", s->forward, "transposed_gops",
                               s->transposed));
        }
    json_t *object = json_pack("{s:o, s:i, s:s}", "products", all, "threads", (int)n_threads, "cpu", cpu);
    return json_line(object, JSON_REAL_PRECISION(6));
}

int train_products_measure(unsigned n_threads, const char *cpu_isa, bool as_json)
{
    static struct result result;
    char cpu[128];
    int code = measure(n_threads, cpu_isa, &result);
    if (code)
        return code;
    machine_cpu_name(cpu);
    if (as_json)
        return print_json(&result, n_threads, cpu);
    printf("frozen W (n, k), %u threads: GFLOPS forwards and transposed, and their share of the unit's peak\n",
           n_threads);
    for (unsigned u = 0; u < N_UNITS; u++)
        for (unsigned i = 0; i < result.n && result.speed[u][i].forward > 0; i++) {
            const struct hearth_product_speed *s = &result.speed[u][i];
            double percent = result.peak[u][i] > 0 ? 100 / result.peak[u][i] : 0;
            printf("%-12s %-13s %-5s %4u rows  %5u x %-5u%8.0f %3.0f %%%8.0f %3.0f %%  of %.0f\n", units[u].name,
                   s->model, s->format, s->rows, s->n, s->k, s->forward, percent * s->forward, s->transposed,
                   percent * s->transposed, result.peak[u][i]);
        }
    printf("%s\n", cpu);
    return cli_finish(CLI_OK);
}
