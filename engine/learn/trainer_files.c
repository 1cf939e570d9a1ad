// SPDX-License-Identifier: Apache-2.0
// A run's log, line by line as it goes, and what stands in its folder at the end. Engine thread.
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "engine/base/mem.h"
#include "engine/learn/trainer.h"

#define LOG "log.jsonl"

char *ht_train_path(const struct hearth_trainer *t, const char *name)
{
    size_t len = strlen(t->params.files.folder) + strlen(name) + 2;
    char *path = ht_calloc(len, 1);
    if (path)
        snprintf(path, len, "%s/%s", t->params.files.folder, name);
    return path;
}

static double peak_rss_mib(void)
{
    struct rusage usage;
    return getrusage(RUSAGE_SELF, &usage) ? 0 : (double)usage.ru_maxrss / 1024;
}

static int line_of(const struct hearth_train_step *s, char *line, size_t capacity)
{
    if (!isnan(s->held_out))
        return snprintf(line, capacity, "{\"step\": %llu, \"epoch\": %.4f, \"held_out\": %.6f}\n",
                        (unsigned long long)s->step, s->epoch, s->held_out);
    return snprintf(line, capacity,
                    "{\"step\": %llu, \"epoch\": %.4f, \"loss\": %.6f, \"lr\": %.6g, \"grad_norm\": %.6g, "
                    "\"tokens\": %llu, \"tokens_per_second\": %.1f, \"peak_rss_mib\": %.1f}\n",
                    (unsigned long long)s->step, s->epoch, s->loss, s->lr, s->grad_norm,
                    (unsigned long long)s->tokens, s->tokens_per_second, peak_rss_mib());
}

enum hearth_status ht_train_report(struct hearth_trainer *t, const struct hearth_train_step *step,
                                   struct hearth_error *err)
{
    t->info.last = *step;
    if (!t->params.files.save) {
        char line[320], *path = ht_train_path(t, LOG);
        if (!path)
            return ht_fail(err, HEARTH_NOMEM, "out of memory for a path");
        size_t n = (size_t)line_of(step, line, sizeof line);
        enum hearth_status status = ht_file_append(path, line, n, t->log_bytes, false, err);
        ht_free(path);
        HT_TRY(status);
        t->log_bytes += n;
    }
    if (t->params.on_step)
        t->params.on_step(t->params.user, step);
    return HEARTH_OK;
}

// Reads what the log has up to log_bytes; less after a power cut: whole lines then.
static enum hearth_status read_log(const char *path, size_t want, char **bytes, size_t *n, struct hearth_error *err)
{
    struct ht_file *file;
    enum hearth_status status = ht_file_open_read(&file, path, err);
    if (status != HEARTH_OK)
        return status;
    size_t size = (size_t)ht_file_size(file);
    *n = size < want ? size : want;
    *bytes = ht_calloc(*n + 1, 1);
    status = *bytes ? ht_file_read(file, *bytes, *n, 0, err) : ht_fail(err, HEARTH_NOMEM, "%s: out of memory", path);
    ht_file_close(&file);
    while (*bytes && *n && (*bytes)[*n - 1] != '\n')
        --*n;
    return status;
}

enum hearth_status ht_train_log_cut(struct hearth_trainer *t, struct hearth_error *err)
{
    char *bytes = NULL, *path = t->params.files.save ? NULL : ht_train_path(t, LOG);
    size_t n = 0;
    if (t->params.files.save)
        return HEARTH_OK;
    if (!path)
        return ht_fail(err, HEARTH_NOMEM, "out of memory for a path");
    enum hearth_status status = read_log(path, (size_t)t->log_bytes, &bytes, &n, err);
    if (status == HEARTH_OK || status == HEARTH_NOT_FOUND) {
        status = ht_file_replace(path, bytes ? bytes : "", n, err);
        t->log_bytes = n;
    }
    ht_free(bytes);
    ht_free(path);
    return status;
}

// ---------------------------------------------------------------- the end

// Takes the place of what an adapter that this one goes on from tells.
static enum hearth_status set_lineage(struct hearth_adapter *a, const char *key, const char *value,
                                      struct hearth_error *err)
{
    size_t at = 0, n = a->n_lineage;
    while (at < n && (!a->lineage[at].key || strcmp(a->lineage[at].key, key)))
        at++;
    HT_TRY(ht_adapter_lineage_add(a, key, value, err));
    if (at == n)
        return HEARTH_OK;
    ht_free(a->lineage[at].key);
    ht_free(a->lineage[at].value);
    a->lineage[at] = a->lineage[--a->n_lineage];
    return HEARTH_OK;
}

static enum hearth_status put_lineage(struct hearth_trainer *t, struct hearth_error *err)
{
    char names[1024] = "", number[32];
    for (size_t i = 0; i < t->params.data.n_files; i++) {
        const char *name = ht_data_file_name(&t->files[i]);
        size_t at = strlen(names);
        if (at + strlen(name) + 3 < sizeof names)
            snprintf(names + at, sizeof names - at, "%s%s", i ? ", " : "", name);
    }
    HT_TRY(set_lineage(t->adapter, "hearth.lineage.data", names, err));
    snprintf(number, sizeof number, "%llu", (unsigned long long)t->params.seed);
    HT_TRY(set_lineage(t->adapter, "hearth.lineage.seed", number, err));
    snprintf(number, sizeof number, "%llu", (unsigned long long)t->step);
    HT_TRY(set_lineage(t->adapter, "hearth.lineage.steps", number, err));
    HT_TRY(set_lineage(t->adapter, "hearth.lineage.numerics", t->info.numerics_id, err));
    return set_lineage(t->adapter, "hearth.lineage.precision", t->info.precision, err);
}

static enum hearth_status write_adapter(struct hearth_trainer *t, struct hearth_error *err)
{
    char *path = ht_train_path(t, "adapter.gguf");
    if (!path)
        return ht_fail(err, HEARTH_NOMEM, "out of memory for a path");
    enum hearth_status status = hearth_adapter_write_gguf(t->adapter, path, err);
    ht_free(path);
    return status;
}

static enum hearth_status write_manifest(struct hearth_trainer *t, struct hearth_error *err)
{
    char *text;
    HT_TRY(ht_train_manifest(t, &text, err));
    enum hearth_status status = HEARTH_NOMEM;
    if (t->params.files.save) {
        const struct hearth_train_part part = {"manifest.json", strlen(text), 0, text, strlen(text)};
        status = t->params.files.save(t->params.files.user, &part, err);
    } else {
        char *path = ht_train_path(t, "manifest.json");
        status = path ? ht_file_replace(path, text, strlen(text), err)
                      : ht_fail(err, HEARTH_NOMEM, "out of memory for a path");
        ht_free(path);
    }
    ht_free(text);
    return status;
}

enum hearth_status ht_train_values(struct hearth_trainer *t, struct hearth_error *err)
{
    HT_TRY(ht_graph_read(t->graph, HT_GRAPH_VALUES, t->adapter->values, err));
    return put_lineage(t, err);
}

// The next of what has been learnt become the adapter's values; with patience of the best of it.
static enum hearth_status finish_values(struct hearth_trainer *t, struct hearth_error *err)
{
    size_t at = t->finished_at, left = t->adapter->n_values - at, n = left < t->piece_values ? left : t->piece_values;
    float *values = t->adapter->values + at;
    t->finished_at += n;
    if (!t->best_values || !isfinite(t->best))
        return ht_graph_state_read(t->graph, at * sizeof *values, values, n * sizeof *values, err);
    memcpy(values, t->best_values + at, n * sizeof *values);
    return HEARTH_OK;
}

// The manifest comes last: where it is, the run is finished.
enum hearth_status ht_train_finish(struct hearth_trainer *t, bool *done, struct hearth_error *err)
{
    *done = false;
    if (t->finished_at < t->adapter->n_values)
        return finish_values(t, err);
    *done = t->finishing == 2;
    switch (t->finishing++) {
    case 0: return put_lineage(t, err);
    case 1: return t->params.files.save ? HEARTH_OK : write_adapter(t, err);
    default: return write_manifest(t, err);
    }
}
