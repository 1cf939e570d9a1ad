// SPDX-License-Identifier: Apache-2.0
// /health and /metrics. Whoever reaches the port may read /health: it says whether the box lives and answers, nothing
// else. /metrics is for this machine and for tokens with scope admin. Loop thread only.
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "firmware/http.h"
#include "firmware/metrics.h"

static bool is_ready(struct hd_server *server)
{
    struct hd_worker_state state;
    hd_worker_state(server->worker, &state);
    return state.loaded && !state.stalled && !server->stopping;
}

static void reply(struct hd_exchange *x, bool good, const char *body)
{
    hd_exchange_reply(x, good ? HTTP_STATUS_OK : HTTP_STATUS_SERVICE_UNAVAILABLE, "application/json", NULL,
                      body, strlen(body));
}

void hd_health(struct hd_exchange *x)
{
    bool ready = is_ready(x->server);
    char body[80];
    struct hd_worker_state state;
    hd_worker_state(x->server->worker, &state);
    snprintf(body, sizeof body, "{\"status\":\"ok\",\"live\":true,\"ready\":%s,\"training\":%s}",
             ready ? "true" : "false", state.train.running ? "true" : "false");
    reply(x, true, body);
}

void hd_health_live(struct hd_exchange *x)
{
    reply(x, true, "{\"live\":true}");
}

void hd_health_ready(struct hd_exchange *x)
{
    bool ready = is_ready(x->server);
    reply(x, ready, ready ? "{\"ready\":true}" : "{\"ready\":false}");
}

static double resident_bytes(void)
{
    unsigned long size = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "re");
    if (file && fscanf(file, "%lu %lu", &size, &resident) != 2)
        resident = 0;
    if (file)
        fclose(file);
    return (double)resident * (double)sysconf(_SC_PAGESIZE);
}

void hd_metrics_page(struct hd_exchange *x)
{
    struct hd_server *server = x->server;
    struct hd_worker_state state;
    char name[HD_MAX_MODEL_BYTES + 1] = "";
    hd_worker_state(server->worker, &state);
    if (state.loaded)
        hd_model_name(&state, name);
    int64_t now = hd_now_ms();
    struct hd_gauges gauges = {
        .uptime_s = (double)(now - server->started_ms) / 1e3,
        .resident_bytes = resident_bytes(),
        .weight_bytes = (double)state.info.weight_bytes,
        .kv_bytes = (double)state.info.kv_bytes,
        .context_tokens = state.info.n_ctx,
        .pages = state.n_pages,
        .pages_used = state.n_pages_used,
        .pages_cached = state.n_pages_cached,
        .queued = state.queued,
        .active = state.active,
        .sockets = (double)hd_guard_connections(server->guard),
        .devices = (double)hd_clients_count(server, NULL),
        .model_loaded = state.loaded,
        .watchdog_age_s = (double)(now - server->turned_ms) / 1e3,
        .stalled = state.stalled,
        .models_held_bytes = (double)state.held_bytes,
        .models_budget_bytes = (double)state.budget_bytes,
        .train = state.train,
        .model = name,
        .device = state.loaded ? state.info.device : "",
        .version = HEARTH_VERSION,
    };
    for (unsigned i = 0; i < state.n_models; i++)
        gauges.models_loaded += state.models[i].loaded;
    size_t len = 0;
    char *text = hd_metrics_text(server->metrics, &gauges, &len);
    if (text)
        hd_exchange_reply(x, HTTP_STATUS_OK, "text/plain; version=0.0.4; charset=utf-8", NULL, text, len);
    else
        hd_exchange_error(x, HTTP_STATUS_INTERNAL_SERVER_ERROR, "memory", NULL, "out of memory");
    free(text);
}
