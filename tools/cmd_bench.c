// SPDX-License-Identifier: Apache-2.0
// hearth bench: speed and memory of a model on this machine, medians of several repeats. Main thread; the
// bandwidth test starts threads of its own.
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tools/bandwidth.h"
#include "tools/hearth.h"
#include "tools/json_line.h"
#include "tools/kernels.h"
#include "tools/machine.h"
#include "tools/models.h"
#include "tools/packed.h"
#include "tools/progress.h"
#include "tools/train_kernels.h"
#include "tools/train_products.h"
#include "tools/unit_peak.h"

enum {
    SHORT_PROMPT = 16,
    MAX_CLIENTS = 64,
    MAX_REPEAT = 100,
    FIRST_TURN = 1000,
    ANSWER = 16,
    SECOND_TURN = 40,
    BENCH_OWNER = 1,
};
// What happens to a conversation between its first and its second turn.
enum { SAME_SESSION, NEW_SESSION, RESTART, N_BETWEEN };
static const double GIB = 1024.0 * 1024.0 * 1024.0, MIB = 1024.0 * 1024.0;

struct bench {
    struct hearth_engine *engine;
    struct hearth_engine_info info;
    struct hearth_session *sessions[MAX_CLIENTS];
    uint64_t n_prompt, n_gen, n_clients, n_repeat;
    bool kernels, train_kernels, train_products, second_turn;
    uint64_t random; // state of the id generator: the same ids in every run
    double first_token_ms, prefill, decode, clients, barrier_ns, first_turn_ms, second_turn_ms[N_BETWEEN];
    double vnni_gops, amx_gops, packed_write_ms;
    enum hearth_packed packed; // of the first opening
    const struct cli *cli;
    const struct model_options *options;
};

struct outcome {
    struct hearth_usage usage;
    struct hearth_error error;
    bool ended, failed;
};

static void on_event(void *user, const struct hearth_event *event)
{
    struct outcome *outcome = user;
    if (event->type != HEARTH_EVENT_DONE && event->type != HEARTH_EVENT_FAILED)
        return;
    outcome->ended = true;
    outcome->failed = event->type == HEARTH_EVENT_FAILED;
    if (event->usage)
        outcome->usage = *event->usage;
    if (event->error)
        outcome->error = *event->error;
}

// Valid ids in no order (a linear congruential generator: reproducible, different at each call).
static void fill_ids(struct bench *bench, int32_t *ids, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        bench->random = bench->random * 6364136223846793005u + 1442695040888963407u;
        ids[i] = (int32_t)((bench->random >> 33) % bench->info.n_vocab);
    }
}

// Hands a greedy request to a session; what it holds of the prompt already stays. Owner 0: nothing is found elsewhere.
static int submit(struct hearth_session *session, uint64_t owner, const int32_t *ids, size_t n_ids, unsigned n_gen,
                  struct outcome *outcome)
{
    struct hearth_error err = {0};
    struct hearth_request request = {.ids = ids,
                                     .n_ids = n_ids,
                                     .max_tokens = n_gen,
                                     .ignore_end = true,
                                     .owner = owner,
                                     .on_event = on_event,
                                     .user = outcome};
    *outcome = (struct outcome){0};
    hearth_sampling_default(&request.sampling);
    request.sampling.temperature = 0;
    return hearth_session_submit(session, &request, &err) ? cli_fail_status(&err) : CLI_OK;
}

static int run_to_the_end(struct bench *bench, const struct outcome *outcomes, size_t n)
{
    struct hearth_error err = {0};
    for (unsigned n_busy = 1; n_busy;)
        if (hearth_engine_step(bench->engine, &n_busy, &err))
            return cli_fail_status(&err);
    for (size_t i = 0; i < n; i++)
        if (!outcomes[i].ended || outcomes[i].failed)
            return cli_fail_status(&outcomes[i].error);
    return CLI_OK;
}

// One request in each of the first n sessions, run to the end. Outcomes are filled; an exit code.
static int run_requests(struct bench *bench, size_t n, size_t n_prompt, unsigned n_gen,
                        struct outcome *outcomes)
{
    int code = CLI_OK;
    struct hearth_error err = {0};
    int32_t *ids = malloc(n_prompt * sizeof *ids);
    if (!ids)
        return cli_fail(CLI_OSERR, "out of memory");
    for (size_t i = 0; i < n && !code; i++) {
        fill_ids(bench, ids, n_prompt);
        code = hearth_session_truncate(bench->sessions[i], 0, &err)
                   ? cli_fail_status(&err)
                   : submit(bench->sessions[i], 0, ids, n_prompt, n_gen, &outcomes[i]);
    }
    free(ids);
    return code ? code : run_to_the_end(bench, outcomes, n);
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, size_t n)
{
    qsort(values, n, sizeof *values, compare);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

static double per_second(double count, double ms)
{
    return ms > 0 ? count * 1000 / ms : 0;
}

// From the start of the process, model file included, to the first token of a short prompt.
static int measure_first_token(struct bench *bench)
{
    struct outcome outcome;
    int code = run_requests(bench, 1, SHORT_PROMPT, 1, &outcome);
    bench->first_token_ms = machine_process_age_ms();
    return code;
}

static int measure_prefill(struct bench *bench)
{
    double values[MAX_REPEAT];
    struct outcome outcome;
    for (uint64_t i = 0; i < bench->n_repeat; i++) {
        int code = run_requests(bench, 1, (size_t)bench->n_prompt, 1, &outcome);
        if (code)
            return code;
        values[i] = per_second((double)bench->n_prompt, outcome.usage.first_token_ms);
    }
    bench->prefill = median(values, (size_t)bench->n_repeat);
    return CLI_OK;
}

// Tokens after each session's first, over the longest session's time for them.
static int measure_decode(struct bench *bench, size_t n_sessions, double *result)
{
    double values[MAX_REPEAT];
    struct outcome outcomes[MAX_CLIENTS];
    for (uint64_t i = 0; i < bench->n_repeat; i++) {
        int code = run_requests(bench, n_sessions, SHORT_PROMPT, (unsigned)bench->n_gen, outcomes);
        if (code)
            return code;
        double tokens = 0, ms = 0;
        for (size_t k = 0; k < n_sessions; k++) {
            tokens += outcomes[k].usage.completion_tokens - 1.0;
            ms = fmax(ms, outcomes[k].usage.completion_ms);
        }
        values[i] = per_second(tokens, ms);
    }
    *result = median(values, (size_t)bench->n_repeat);
    return CLI_OK;
}

static int create_sessions(struct bench *bench)
{
    struct hearth_error err = {0};
    for (size_t i = 0; i < bench->n_clients; i++)
        if (hearth_session_create(bench->engine, &bench->sessions[i], &err))
            return cli_fail_status(&err);
    return CLI_OK;
}

static void destroy_sessions(struct bench *bench)
{
    for (size_t i = 0; i < bench->n_clients; i++)
        hearth_session_destroy(&bench->sessions[i]);
}

struct stored {
    unsigned char *bytes;
    size_t len;
};

static bool store(void *user, const void *data, size_t len_bytes)
{
    struct stored *stored = user;
    unsigned char *bytes = realloc(stored->bytes, stored->len + len_bytes);
    if (!bytes)
        return false;
    memcpy(bytes + stored->len, data, len_bytes);
    *stored = (struct stored){bytes, stored->len + len_bytes};
    return true;
}

// As hearthd does at its end and at its next start: the prefixes go out, another engine takes them back.
static int restart(struct bench *bench)
{
    struct hearth_error err = {0};
    struct stored stored = {0};
    unsigned n_positions;
    int code = CLI_OK;
    if (hearth_engine_export_prefixes(bench->engine, BENCH_OWNER, UINT64_MAX, store, &stored, &err))
        code = cli_fail_status(&err);
    destroy_sessions(bench);
    if (!code) {
        hearth_engine_close(&bench->engine);
        code = models_open(&bench->engine, bench->cli, bench->options);
    }
    if (!code &&
        hearth_engine_import_prefixes(bench->engine, BENCH_OWNER, stored.bytes, stored.len, &n_positions, &err))
        code = cli_fail_status(&err);
    free(stored.bytes);
    return code ? code : create_sessions(bench);
}

// One turn: the time to the first token of its answer.
static int turn(struct bench *bench, const int32_t *ids, size_t n_ids, unsigned n_gen, double *first_token_ms)
{
    struct outcome outcome;
    int code = submit(bench->sessions[0], BENCH_OWNER, ids, n_ids, n_gen, &outcome);
    if (!code)
        code = run_to_the_end(bench, &outcome, 1);
    *first_token_ms = outcome.usage.first_token_ms;
    return code;
}

// A long question, a short answer, a short question after both: the time to the first token of each answer.
static int measure_turns(struct bench *bench)
{
    static int32_t ids[FIRST_TURN + ANSWER + SECOND_TURN];
    double first[N_BETWEEN * MAX_REPEAT], second[N_BETWEEN][MAX_REPEAT];
    struct hearth_error err = {0};
    for (size_t i = 0; i < N_BETWEEN * bench->n_repeat; i++) {
        size_t between = i % N_BETWEEN;
        fill_ids(bench, ids, sizeof ids / sizeof *ids);
        if (hearth_session_truncate(bench->sessions[0], 0, &err))
            return cli_fail_status(&err);
        int code = turn(bench, ids, FIRST_TURN, ANSWER, &first[i]);
        if (code)
            return code;
        hearth_session_last_ids(bench->sessions[0], ids + FIRST_TURN, ANSWER);
        if (between == NEW_SESSION) {
            destroy_sessions(bench);
            code = create_sessions(bench);
        } else if (between == RESTART) {
            code = restart(bench);
        }
        if (!code)
            code = turn(bench, ids, sizeof ids / sizeof *ids, 1, &second[between][i / N_BETWEEN]);
        if (code)
            return code;
    }
    bench->first_turn_ms = median(first, N_BETWEEN * (size_t)bench->n_repeat);
    for (size_t i = 0; i < N_BETWEEN; i++)
        bench->second_turn_ms[i] = median(second[i], (size_t)bench->n_repeat);
    return CLI_OK;
}

static int measure(struct bench *bench)
{
    int code = create_sessions(bench);
    if (!code)
        code = measure_first_token(bench);
    if (!code)
        code = measure_prefill(bench);
    if (!code)
        code = measure_decode(bench, 1, &bench->decode);
    bench->clients = bench->decode;
    if (!code && bench->n_clients > 1)
        code = measure_decode(bench, (size_t)bench->n_clients, &bench->clients);
    if (!code && bench->second_turn)
        code = measure_turns(bench);
    destroy_sessions(bench);
    return code;
}

static int print_result(const struct bench *bench, bool as_json, unsigned n_threads, double peak_rss_mib,
                        double copy)
{
    char cpu[128];
    machine_cpu_name(cpu);
    double bytes = (double)bench->info.weight_bytes * bench->decode / GIB;
    if (!as_json) {
        printf("%s, %s\n", bench->info.name, bench->info.file_type);
        printf("prefill        %10.1f tokens/s (prompt of %llu)\n", bench->prefill,
               (unsigned long long)bench->n_prompt);
        printf("decode         %10.1f tokens/s, %.1f GiB/s of weights\n", bench->decode, bytes);
        printf("%2llu client(s)   %10.1f tokens/s together\n", (unsigned long long)bench->n_clients,
               bench->clients);
        printf("memory reads   %10.1f GiB/s\n", copy);
        printf("barrier        %10.0f ns\n", bench->barrier_ns);
        if (bench->vnni_gops > 0)
            printf("int8 peak      %10.0f Gop/s (VNNI), %.0f Gop/s (AMX)\n", bench->vnni_gops, bench->amx_gops);
        printf("first token    %10.1f ms after the start of the process%s\n", bench->first_token_ms,
               bench->packed == HEARTH_PACKED_READ ? ", packed weights read from their file" : "");
        if (bench->packed_write_ms > 0)
            printf("packed cache   %10.1f ms to write\n", bench->packed_write_ms);
        if (bench->second_turn)
            printf("second turn    %10.1f ms to the first token, %.1f in a new session, %.1f after a restart\n"
                   "               (first turn of %d tokens: %.1f ms)\n",
                   bench->second_turn_ms[SAME_SESSION], bench->second_turn_ms[NEW_SESSION],
                   bench->second_turn_ms[RESTART], FIRST_TURN, bench->first_turn_ms);
        printf("peak memory    %10.1f MiB\n%s, %u threads, %s\n", peak_rss_mib, bench->info.device, n_threads,
               cpu);
        return cli_finish(CLI_OK);
    }
    json_t *object =
        json_pack("{s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:i, s:s, s:s}", "prefill_tokens_per_second",
                  bench->prefill, "decode_tokens_per_second", bench->decode, "clients_tokens_per_second",
                  bench->clients, "decode_gib_per_second", bytes, "copy_gib_per_second", copy,
                  "first_token_ms", bench->first_token_ms, "peak_rss_mib", peak_rss_mib, "barrier_ns",
                  bench->barrier_ns, "threads", (int)n_threads, "device", bench->info.device, "cpu", cpu);
    if (!object ||
        json_object_set_new(object, "weight_mib", json_real((double)bench->info.weight_bytes / MIB)) ||
        json_object_set_new(object, "int8_peak_gops", json_real(bench->vnni_gops)) ||
        json_object_set_new(object, "int8_amx_peak_gops", json_real(bench->amx_gops)))
        return cli_fail(CLI_OSERR, "out of memory");
    if (bench->options->packed_cache) {
        json_object_set_new(object, "packed_read", json_boolean(bench->packed == HEARTH_PACKED_READ));
        json_object_set_new(object, "packed_write_ms", json_real(bench->packed_write_ms));
    }
    if (bench->second_turn) {
        json_object_set_new(object, "first_turn_ms", json_real(bench->first_turn_ms));
        json_object_set_new(object, "second_turn_ms", json_real(bench->second_turn_ms[SAME_SESSION]));
        json_object_set_new(object, "second_turn_new_session_ms", json_real(bench->second_turn_ms[NEW_SESSION]));
        json_object_set_new(object, "second_turn_restart_ms", json_real(bench->second_turn_ms[RESTART]));
    }
    return json_line(object, JSON_REAL_PRECISION(6));
}

static int run(const struct cli *cli, struct model_options *options, struct bench *bench)
{
    uint64_t per_session = bench->n_gen + (bench->n_clients > 1 ? SHORT_PROMPT : bench->n_prompt) + 64;
    options->n_ctx = options->n_ctx ? options->n_ctx : bench->n_clients * per_session + bench->n_prompt;
    if (bench->second_turn && options->n_ctx < FIRST_TURN + ANSWER + SECOND_TURN + 64)
        options->n_ctx = FIRST_TURN + ANSWER + SECOND_TURN + 64;
    options->max_sessions = bench->n_clients;
    bench->cli = cli;
    bench->options = options;
    int code = models_open(&bench->engine, cli, options);
    if (code)
        return code;
    hearth_engine_get_info(bench->engine, &bench->info);
    bench->packed = bench->info.packed;
    unsigned n_threads = cli->n_threads ? (unsigned)cli->n_threads : machine_threads();
    code = measure(bench);
    double peak_rss_mib = machine_peak_rss_mib(); // before the bandwidth test takes memory of its own
    if (!code)
        packed_keep(bench->engine, options, &bench->packed_write_ms);
    hearth_engine_close(&bench->engine);
    if (code)
        return code;
    struct hearth_error err = {0};
    if (hearth_measure_barrier(n_threads, &bench->barrier_ns, &err))
        return cli_fail_status(&err);
    bench->vnni_gops = unit_peak_gops(UNIT_INT8_VNNI, n_threads);
    bench->amx_gops = unit_peak_gops(UNIT_INT8_AMX, n_threads);
    double copy =
        bandwidth_read_gib_per_second((size_t)bench->info.weight_bytes, n_threads, (unsigned)bench->n_repeat);
    return print_result(bench, cli->json, n_threads, peak_rss_mib, copy);
}

int cmd_bench(int argc, char **argv)
{
    struct model_options options = {0};
    struct bench bench = {.n_prompt = 512, .n_gen = 128, .n_clients = 1, .n_repeat = 3, .random = 42};
    const struct cli_option table[] = {
        {"model", 'm', CLI_TEXT, "MODEL", "file, or name of a model (default: the chosen one)",
         &options.model, 0, 0, NULL},
        {"prompt", 0, CLI_COUNT, "N", "prompt tokens of the prefill test (512)", &bench.n_prompt, 1, 1 << 20,
         NULL},
        {"gen", 0, CLI_COUNT, "N", "tokens generated by the decode tests (128)", &bench.n_gen, 2, 1 << 20,
         NULL},
        {"clients", 0, CLI_COUNT, "N", "sessions that decode together (1)", &bench.n_clients, 1, MAX_CLIENTS,
         NULL},
        {"repeat", 0, CLI_COUNT, "N", "repeats; medians are told (3)", &bench.n_repeat, 1, MAX_REPEAT, NULL},
        {"ctx", 0, CLI_COUNT, "N", "context in tokens (default: what the tests need)", &options.n_ctx, 1,
         1 << 24, NULL},
        {"kv", 0, CLI_TEXT, "TYPE", "KV cache: f16, q8 or f32", &options.kv, 0, 0, NULL},
        {"exact", 0, CLI_FLAG, NULL, "float32 activations and KV", &options.exact, 0, 0, NULL},
        {"cpu-isa", 0, CLI_TEXT, "NAME", "CPU path: ref, avx2, avx512vnni, amx, neon … (default: the best)",
         &options.cpu_isa, 0, 0, NULL},
        {"packed-cache", 0, CLI_FLAG, NULL, "read packed weights from their file, or write it for the next run",
         &options.packed_cache, 0, 0, NULL},
        {"second-turn", 0, CLI_FLAG, NULL, "also the first token of a second turn after a long first one",
         &bench.second_turn, 0, 0, NULL},
        {"kernels", 0, CLI_FLAG, NULL, "without a model: GB/s of the matrix product of every format",
         &bench.kernels, 0, 0, NULL},
        {"train-kernels", 0, CLI_FLAG, NULL, "without a model: what training's ops beside the frozen products take",
         &bench.train_kernels, 0, 0, NULL},
        {"train-products", 0, CLI_FLAG, NULL, "without a model: GFLOPS of training's products with frozen weights",
         &bench.train_products, 0, 0, NULL},
    };
    struct cli cli = {
        .name = "bench",
        .usage = "[-m MODEL] [--prompt N] [--gen N] [--clients N]",
        .about =
            "Measures prefill, decode, several clients together, the time to the first token from the "
            "start of the\n"
            "process, peak memory, and how fast, at best, all threads read a buffer as large as the weights.",
        .example = "hearth bench -m default --json",
        .options = table,
        .n_options = sizeof table / sizeof *table,
    };
    int code = cli_parse(&cli, argc, argv);
    if (code < 0 && bench.kernels)
        return kernels_measure(cli.n_threads ? (unsigned)cli.n_threads : machine_threads(), cli.json);
    if (code < 0 && bench.train_products)
        return train_products_measure(cli.n_threads ? (unsigned)cli.n_threads : machine_threads(), options.cpu_isa,
                                      cli.json);
    if (code < 0 && bench.train_kernels)
        return train_kernels_measure(cli.n_threads ? (unsigned)cli.n_threads : machine_threads(), options.cpu_isa,
                                     cli.json);
    return code >= 0 ? code : run(&cli, &options, &bench);
}
