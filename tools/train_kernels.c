// SPDX-License-Identifier: Apache-2.0
// hearth bench --train-kernels: see train_kernels.h. Main thread.
#include "tools/train_kernels.h"

#include <jansson.h>
#include <string.h>

#include "engine/engine.h"
#include "tools/cli.h"
#include "tools/hearth.h"
#include "tools/json_line.h"
#include "tools/machine.h"

enum { MAX_OPS = 128 };

static int measure(unsigned n_threads, const char *cpu_isa, struct hearth_train_op_speed *ops, unsigned *n)
{
    struct hearth_error err = {0};
    for (*n = 0; *n < MAX_OPS; (*n)++) {
        enum hearth_status status = hearth_measure_train_op(*n, n_threads, cpu_isa, &ops[*n], &err);
        if (status == HEARTH_NOT_FOUND)
            break;
        if (status)
            return cli_fail_status(&err);
    }
    return CLI_OK;
}

static double per_second(double amount, double milliseconds)
{
    return milliseconds > 0 ? amount / milliseconds * 1e3 : 0;
}

static int print_json(const struct hearth_train_op_speed *ops, unsigned n, unsigned n_threads, const char *cpu)
{
    json_t *list = json_array();
    for (unsigned i = 0; list && i < n; i++)
        json_array_append_new(list, json_pack("{s:s, s:s, s:f, s:f, s:f, s:f}", "model", ops[i].model, "op", ops[i].op,
                                              "ms", ops[i].milliseconds, "times", ops[i].per_batch, "gflop_per_second",
                                              per_second(ops[i].gflop, ops[i].milliseconds), "gb_per_second",
                                              per_second(ops[i].gigabytes, ops[i].milliseconds)));
    json_t *object = json_pack("{s:o, s:i, s:i, s:s}", "train_ops", list, "rows", (int)HEARTH_TRAIN_ROWS, "threads",
                               (int)n_threads, "cpu", cpu);
    return json_line(object, JSON_REAL_PRECISION(6));
}

int train_kernels_measure(unsigned n_threads, const char *cpu_isa, bool as_json)
{
    static struct hearth_train_op_speed ops[MAX_OPS];
    unsigned n;
    char cpu[128];
    double sum = 0;
    int code = measure(n_threads, cpu_isa, ops, &n);
    if (code)
        return code;
    machine_cpu_name(cpu);
    if (as_json)
        return print_json(ops, n, n_threads, cpu);
    printf("micro-batch of %d rows, LoRA of rank 8, f32, %u threads\n", HEARTH_TRAIN_ROWS, n_threads);
    for (unsigned i = 0; i < n; i++) {
        const struct hearth_train_op_speed *op = &ops[i];
        if (!i || strcmp(op->model, ops[i - 1].model))
            printf("%-16s %10s %8s %10s %9s %8s\n", op->model, "ms", "times", "ms in all", "GFLOP/s", "GB/s");
        sum += op->milliseconds * op->per_batch;
        printf("%-16s %10.3f %8.1f %10.2f %9.1f %8.1f\n", op->op, op->milliseconds, op->per_batch,
               op->milliseconds * op->per_batch, per_second(op->gflop, op->milliseconds),
               per_second(op->gigabytes, op->milliseconds));
        if (i + 1 == n || strcmp(op->model, ops[i + 1].model)) {
            printf("%-16s %30.2f\n", "together", sum);
            sum = 0;
        }
    }
    printf("%s\n", cpu);
    return cli_finish(CLI_OK);
}
