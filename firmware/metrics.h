// SPDX-License-Identifier: Apache-2.0
// What the box counts about itself, and /metrics in Prometheus' text format. Numbers only: no name, no address, no
// text. Loop thread only.
#ifndef HD_METRICS_H
#define HD_METRICS_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "firmware/train_job.h"

enum hd_door { HD_DOOR_WIRE = 0, HD_DOOR_OPENAI, HD_N_DOORS };
enum hd_outcome { HD_COMPLETED = 0, HD_INCOMPLETE, HD_CANCELLED, HD_FAILED, HD_REFUSED, HD_N_OUTCOMES };

struct hd_metrics;
struct hd_metrics *hd_metrics_new(void); // NULL when out of memory
void hd_metrics_free(struct hd_metrics **metrics);

// An answer ended. `usage` as the engine told it.
void hd_metrics_answer(struct hd_metrics *metrics, enum hd_door door, const struct hearth_usage *usage);
void hd_metrics_refused(struct hd_metrics *metrics, enum hd_door door); // not even begun
void hd_metrics_http(struct hd_metrics *metrics, const char *route, unsigned status);
void hd_metrics_load(struct hd_metrics *metrics, bool good);
void hd_metrics_connection_refused(struct hd_metrics *metrics);

// What is as it is at this moment.
struct hd_gauges {
    double uptime_s, resident_bytes, weight_bytes, kv_bytes, context_tokens;
    double pages, pages_used, pages_cached; // of the KV pools of all loaded models
    double queued, active, sockets, devices, model_loaded;
    double watchdog_age_s; // since the loop last proved that it turns
    double stalled;        // 1 while the engine hangs in a step
    double models_loaded, models_held_bytes, models_budget_bytes;
    struct hd_train_figures train;
    const char *model, *device, *version;
};
// malloc'ed text, NULL when out of memory.
char *hd_metrics_text(const struct hd_metrics *metrics, const struct hd_gauges *gauges, size_t *len);

#endif
