// SPDX-License-Identifier: Apache-2.0
// Counters, histograms and their text (metrics.h). Loop thread only.
#include "firmware/metrics.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_HTTP = 64, N_BOUNDS = 12 };

struct histogram {
    uint64_t counts[N_BOUNDS + 1];
    double sum;
};

struct hd_metrics {
    uint64_t answers[HD_N_DOORS][HD_N_OUTCOMES];
    uint64_t prompt, cached, generated, drafted, accepted;
    uint64_t loads[2], connections_refused;
    struct histogram first_token, per_token;
    struct { // routes are the daemon's own strings
        const char *route;
        unsigned status;
        uint64_t n;
    } http[MAX_HTTP];
    size_t n_http;
};

static const double first_token_bounds[N_BOUNDS] = {0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60};
static const double per_token_bounds[N_BOUNDS] = {0.001, 0.0025, 0.005, 0.01, 0.02, 0.04,
                                                  0.08,  0.15,   0.3,   0.6,  1,    3};
static const char *const door_names[HD_N_DOORS] = {"wire", "openai"};
static const char *const outcome_names[HD_N_OUTCOMES] = {"completed", "incomplete", "cancelled", "failed",
                                                         "refused"};

struct hd_metrics *hd_metrics_new(void)
{
    return calloc(1, sizeof(struct hd_metrics));
}

void hd_metrics_free(struct hd_metrics **metrics)
{
    free(*metrics);
    *metrics = NULL;
}

static void observe(struct histogram *histogram, const double bounds[N_BOUNDS], double value)
{
    size_t i = 0;
    while (i < N_BOUNDS && value > bounds[i])
        i++;
    histogram->counts[i]++;
    histogram->sum += value;
}

static enum hd_outcome outcome_of(enum hearth_stop_reason stop)
{
    switch (stop) {
    case HEARTH_STOP_END:
    case HEARTH_STOP_STRING: return HD_COMPLETED;
    case HEARTH_STOP_MAX_TOKENS:
    case HEARTH_STOP_CONTEXT_FULL: return HD_INCOMPLETE;
    case HEARTH_STOP_CANCELLED: return HD_CANCELLED;
    default: return HD_FAILED;
    }
}

void hd_metrics_answer(struct hd_metrics *metrics, enum hd_door door, const struct hearth_usage *usage)
{
    metrics->answers[door][outcome_of(usage->stop)]++;
    metrics->prompt += usage->prompt_tokens;
    metrics->cached += usage->cached_tokens;
    metrics->generated += usage->completion_tokens;
    metrics->drafted += usage->drafted_tokens;
    metrics->accepted += usage->accepted_tokens;
    if (usage->completion_tokens > 0)
        observe(&metrics->first_token, first_token_bounds, usage->first_token_ms / 1e3);
    if (usage->completion_tokens > 1)
        observe(&metrics->per_token, per_token_bounds,
                usage->completion_ms / 1e3 / (usage->completion_tokens - 1));
}

void hd_metrics_refused(struct hd_metrics *metrics, enum hd_door door)
{
    metrics->answers[door][HD_REFUSED]++;
}

void hd_metrics_http(struct hd_metrics *metrics, const char *route, unsigned status)
{
    size_t i = 0;
    while (i < metrics->n_http && (metrics->http[i].route != route || metrics->http[i].status != status))
        i++;
    if (i == MAX_HTTP)
        return;
    if (i == metrics->n_http) {
        metrics->http[i].route = route;
        metrics->http[i].status = status;
        metrics->n_http++;
    }
    metrics->http[i].n++;
}

void hd_metrics_load(struct hd_metrics *metrics, bool good)
{
    metrics->loads[good]++;
}

void hd_metrics_connection_refused(struct hd_metrics *metrics)
{
    metrics->connections_refused++;
}

// ---- text

static void head(FILE *out, const char *name, const char *type, const char *help)
{
    fprintf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void counter(FILE *out, const char *name, const char *help, uint64_t value)
{
    head(out, name, "counter", help);
    fprintf(out, "%s %llu\n", name, (unsigned long long)value);
}

static void gauge(FILE *out, const char *name, const char *help, double value)
{
    head(out, name, "gauge", help);
    fprintf(out, "%s %.17g\n", name, value);
}

static void histogram(FILE *out, const char *name, const char *help, const struct histogram *h,
                      const double bounds[N_BOUNDS])
{
    uint64_t n = 0;
    head(out, name, "histogram", help);
    for (size_t i = 0; i < N_BOUNDS; i++)
        fprintf(out, "%s_bucket{le=\"%g\"} %llu\n", name, bounds[i], (unsigned long long)(n += h->counts[i]));
    n += h->counts[N_BOUNDS];
    fprintf(out, "%s_bucket{le=\"+Inf\"} %llu\n%s_sum %.17g\n%s_count %llu\n", name, (unsigned long long)n,
            name, h->sum, name, (unsigned long long)n);
}

static void label(FILE *out, const char *text)
{
    for (; *text; text++) {
        if (*text == '\\' || *text == '"')
            fputc('\\', out);
        if (*text == '\n')
            fputs("\\n", out);
        else
            fputc(*text, out);
    }
}

static void write_gauges(FILE *out, const struct hd_gauges *g)
{
    head(out, "hearth_build_info", "gauge", "Version of the daemon.");
    fprintf(out, "hearth_build_info{version=\"%s\"} 1\n", g->version);
    head(out, "hearth_model_loaded", "gauge", "1 while a model answers.");
    fputs("hearth_model_loaded{model=\"", out);
    label(out, g->model);
    fputs("\",device=\"", out);
    label(out, g->device);
    fprintf(out, "\"} %g\n", g->model_loaded);
    gauge(out, "hearth_uptime_seconds", "Since the daemon started.", g->uptime_s);
    gauge(out, "hearth_resident_memory_bytes", "Memory of the process.", g->resident_bytes);
    gauge(out, "hearth_weights_bytes", "Weights in memory, as the device holds them.", g->weight_bytes);
    gauge(out, "hearth_kv_cache_bytes", "The pool of key and value pages.", g->kv_bytes);
    gauge(out, "hearth_kv_cache_tokens", "Positions that the pool holds.", g->context_tokens);
    gauge(out, "hearth_kv_pages", "Pages of 32 positions in the pools of all loaded models.", g->pages);
    gauge(out, "hearth_kv_pages_used", "Pages that conversations hold.", g->pages_used);
    gauge(out, "hearth_kv_pages_cached", "Pages that only the prefix cache keeps.", g->pages_cached);
    gauge(out, "hearth_requests_queued", "Questions that wait for the engine.", g->queued);
    gauge(out, "hearth_requests_active", "Questions that the engine works on.", g->active);
    gauge(out, "hearth_connections", "Open connections, of whatever kind.", g->sockets);
    gauge(out, "hearth_devices_connected", "Authenticated WebSockets.", g->devices);
    gauge(out, "hearth_loop_lag_seconds", "How long ago the server loop last turned on its own timer.",
          g->watchdog_age_s);
    gauge(out, "hearth_engine_stalled", "1 while a step of the engine takes longer than stall_s.",
          g->stalled);
    gauge(out, "hearth_models_loaded", "Models in memory.", g->models_loaded);
    gauge(out, "hearth_models_held_bytes", "Memory that the loaded models need.", g->models_held_bytes);
    gauge(out, "hearth_models_budget_bytes", "Memory that models may have.", g->models_budget_bytes);
}

// Running sums since the daemon started; left: what requests left while there was something to train.
static void write_training(FILE *out, const struct hd_train_figures *t)
{
    gauge(out, "hearth_train_running", "1 while a training runs.", t->running);
    gauge(out, "hearth_train_memory_bytes", "Memory that it takes beside the model.", t->memory_bytes);
    gauge(out, "hearth_train_loss", "Of the last step, nats per target.", t->loss);
    gauge(out, "hearth_train_slice_seconds_max", "The longest slice.", t->longest_s);
    counter(out, "hearth_train_steps_total", "Optimizer steps.", t->n_steps);
    counter(out, "hearth_train_tokens_total", "Tokens trained on.", t->n_tokens);
    counter(out, "hearth_train_slices_total", "Slices that were run.", t->n_slices);
    head(out, "hearth_train_busy_seconds_total", "counter", "Time spent in slices.");
    fprintf(out, "hearth_train_busy_seconds_total %.6f\n", t->busy_s);
    head(out, "hearth_train_left_seconds_total", "counter", "Time that requests left to a training.");
    fprintf(out, "hearth_train_left_seconds_total %.6f\n", t->left_s);
}

static void write_counters(FILE *out, const struct hd_metrics *m)
{
    head(out, "hearth_requests_total", "counter",
         "Questions, by the door they came through and how they ended.");
    for (int d = 0; d < HD_N_DOORS; d++)
        for (int o = 0; o < HD_N_OUTCOMES; o++)
            fprintf(out, "hearth_requests_total{door=\"%s\",outcome=\"%s\"} %llu\n", door_names[d],
                    outcome_names[o], (unsigned long long)m->answers[d][o]);
    counter(out, "hearth_tokens_prompt_total", "Tokens of prompts.", m->prompt);
    counter(out, "hearth_tokens_cached_total", "Tokens of prompts that a cache had already.", m->cached);
    counter(out, "hearth_tokens_generated_total", "Tokens of answers.", m->generated);
    counter(out, "hearth_tokens_drafted_total", "Tokens proposed by speculation.", m->drafted);
    counter(out, "hearth_tokens_accepted_total", "Tokens of speculation that were taken.", m->accepted);
    histogram(out, "hearth_time_to_first_token_seconds",
              "From the engine's taking a question to its first token.", &m->first_token, first_token_bounds);
    histogram(out, "hearth_time_per_token_seconds", "Mean time of an answer's further tokens.", &m->per_token,
              per_token_bounds);
    head(out, "hearth_model_loads_total", "counter", "Models loaded, or not.");
    fprintf(
        out,
        "hearth_model_loads_total{result=\"ok\"} %llu\nhearth_model_loads_total{result=\"failed\"} %llu\n",
        (unsigned long long)m->loads[1], (unsigned long long)m->loads[0]);
    counter(out, "hearth_connections_refused_total", "Connections refused for their number.",
            m->connections_refused);
    head(out, "hearth_http_requests_total", "counter", "Computed HTTP requests; 499: the client had gone.");
    for (size_t i = 0; i < m->n_http; i++)
        fprintf(out, "hearth_http_requests_total{route=\"%s\",code=\"%u\"} %llu\n", m->http[i].route,
                m->http[i].status, (unsigned long long)m->http[i].n);
}

char *hd_metrics_text(const struct hd_metrics *metrics, const struct hd_gauges *gauges, size_t *len)
{
    char *text = NULL;
    FILE *out = open_memstream(&text, len);
    if (!out)
        return NULL;
    write_gauges(out, gauges);
    write_training(out, &gauges->train);
    write_counters(out, metrics);
    bool good = ferror(out) == 0;
    if (fclose(out) != 0 || !good) {
        free(text);
        return NULL;
    }
    return text;
}
