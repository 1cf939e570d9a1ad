// SPDX-License-Identifier: Apache-2.0
// hearth bench --kernels: see kernels.h. Main thread.
#include "tools/kernels.h"

#include <jansson.h>

#include "engine/engine.h"
#include "tools/bandwidth.h"
#include "tools/hearth.h"
#include "tools/cli.h"
#include "tools/json_line.h"
#include "tools/machine.h"

enum { MAX_FORMATS = 32, READ_REPEATS = 3 };
static const size_t total_bytes = 256u << 20; // more than caches near the cores hold
static const double GIB = 1024.0 * 1024.0 * 1024.0;

struct result {
    struct hearth_kernel_speed speed[MAX_FORMATS];
    double read_gb[MAX_FORMATS]; // memory reads, measured right before each format
    unsigned n;
    double barrier_ns;
};

static int measure(unsigned n_threads, struct result *result)
{
    struct hearth_error err = {0};
    if (hearth_measure_barrier(n_threads, &result->barrier_ns, &err))
        return cli_fail_status(&err);
    for (; result->n < MAX_FORMATS; result->n++) {
        result->read_gb[result->n] =
            bandwidth_read_gib_per_second(total_bytes, n_threads, READ_REPEATS) * GIB / 1e9;
        enum hearth_status status =
            hearth_measure_kernel(result->n, n_threads, total_bytes, &result->speed[result->n], &err);
        if (status == HEARTH_NOT_FOUND)
            break;
        if (status)
            return cli_fail_status(&err);
    }
    return CLI_OK;
}

static int print_json(const struct result *result, unsigned n_threads, const char *cpu)
{
    json_t *formats = json_array();
    for (unsigned i = 0; formats && i < result->n; i++) {
        json_t *columns = json_object();
        for (unsigned c = 0; columns && c < HEARTH_KERNEL_COLUMNS; c++) {
            char name[16];
            snprintf(name, sizeof name, "%u", hearth_kernel_columns[c]);
            json_object_set_new(columns, name, json_real(result->speed[i].gb_per_second[c]));
        }
        json_array_append_new(formats, json_pack("{s:s, s:f, s:o}", "format", result->speed[i].format,
                                                 "read_gb_per_second", result->read_gb[i],
                                                 "gb_per_second_by_columns", columns));
    }
    json_t *object = json_pack("{s:o, s:f, s:i, s:s}", "kernels", formats, "barrier_ns", result->barrier_ns,
                               "threads", (int)n_threads, "cpu", cpu);
    return json_line(object, JSON_REAL_PRECISION(6));
}

int kernels_measure(unsigned n_threads, bool as_json)
{
    static struct result result;
    char cpu[128];
    int code = measure(n_threads, &result);
    if (code)
        return code;
    machine_cpu_name(cpu);
    if (as_json)
        return print_json(&result, n_threads, cpu);
    printf("y = W x, W 4096 x 4096, %u threads: GB/s of packed weights\n%-8s", n_threads, "columns");
    for (unsigned c = 0; c < HEARTH_KERNEL_COLUMNS; c++)
        printf("%9u", hearth_kernel_columns[c]);
    printf("   memory\n");
    for (unsigned i = 0; i < result.n; i++) {
        printf("%-8s", result.speed[i].format);
        for (unsigned c = 0; c < HEARTH_KERNEL_COLUMNS; c++)
            printf("%9.1f", result.speed[i].gb_per_second[c]);
        printf("%9.1f\n", result.read_gb[i]);
    }
    printf("barrier %9.0f ns\n%s\n", result.barrier_ns, cpu);
    return cli_finish(CLI_OK);
}
