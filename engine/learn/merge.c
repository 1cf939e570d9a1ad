// SPDX-License-Identifier: Apache-2.0
// Adapters into their base: W + sum of scale · B A, row ranges streamed from file to file. One thread; what it holds is
// the adapters and a few rows.
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "engine/base/mem.h"
#include "engine/gguf/quantize.h"
#include "engine/gguf/writer.h"
#include "engine/learn/adapter.h"

enum { PIECE_BYTES = 1 << 20, MAX_ENTRIES = 1 << 20 };

struct part { // of one adapter for one tensor
    const float *a, *b;
    uint32_t rank;
    double scale;
};

#define OUTPUT "output.weight"

struct merge {
    const struct hearth_merge_params *params;
    struct ht_gguf *base;
    struct ht_gguf_writer *writer;
    bool keep;
    enum ht_type type;
    const struct ht_gguf_tensor *head; // tied and changed: the embeddings, which the head's own tensor is made of
    unsigned char *bytes; // PIECE_BYTES, or a row
    float *row, *again;
    double *sum;
    size_t row_values, row_bytes; // room
    uint64_t n_values, n_done, n_merged_values;
    double change, rounding; // sums of squares
    struct hearth_merge_report report;
};

// The parts that change a tensor; 0 = none.
static size_t parts_of(const struct merge *m, const char *name, struct part *parts)
{
    size_t n = 0;
    char own[64];
    for (size_t i = 0; i < m->params->n_uses; i++) {
        const struct hearth_adapter *adapter = m->params->uses[i].adapter;
        for (size_t t = 0; t < adapter->n_targets; t++) {
            const struct ht_adapter_target *target = &adapter->targets[t];
            ht_adapter_tensor_name(target, own);
            if (strcmp(own, name))
                continue;
            double scale = (double)m->params->uses[i].scale * (double)ht_adapter_scale(adapter, target);
            parts[n++] = (struct part){adapter->values + target->a_at, adapter->values + target->b_at, target->rank,
                                       scale};
            break;
        }
    }
    return n;
}

// ---------------------------------------------------------------- checks

// The tensor that a target is for; a tied head's is the embeddings.
static const struct ht_gguf_tensor *tensor_of(struct merge *m, const struct ht_adapter_target *t)
{
    char name[64];
    ht_adapter_tensor_name(t, name);
    const struct ht_gguf_tensor *w = ht_gguf_find_tensor(m->base, name);
    if (!w && t->linear == HT_ADAPTER_OUTPUT)
        w = m->head = ht_gguf_find_tensor(m->base, "token_embd.weight");
    return w;
}

static enum hearth_status check_adapter(struct merge *m, const struct hearth_adapter *adapter,
                                        struct hearth_error *err)
{
    char name[64];
    const char *shown = ht_gguf_shown(m->base), *arch = "";
    HT_TRY(ht_gguf_get_str(m->base, "general.architecture", &arch, NULL, err));
    if (adapter->peft_rows || strcmp(adapter->base_sha256, m->params->base->sha256) ||
        strcmp(adapter->architecture, arch))
        return ht_fail(err, HEARTH_INVALID, "%s was not opened as an adapter of %s", adapter->shown, shown);
    for (size_t i = 0; i < adapter->n_targets; i++) {
        const struct ht_adapter_target *t = &adapter->targets[i];
        ht_adapter_tensor_name(t, name);
        const struct ht_gguf_tensor *w = tensor_of(m, t);
        if (!w || w->ne[0] != t->k || w->ne[1] != t->n || w->n_values != w->ne[0] * w->ne[1])
            return ht_fail(err, HEARTH_INVALID, "%s: %s does not fit %s", adapter->shown, name, shown);
        if (!ht_type_info(w->type))
            return ht_fail(err, HEARTH_UNSUPPORTED, "%s: %s is of a type that is not computed with", shown, name);
    }
    return HEARTH_OK;
}

static enum hearth_status check(struct merge *m, const char *path, struct hearth_error *err)
{
    const struct hearth_merge_params *p = m->params;
    struct stat from, to;
    m->keep = !p->type || !strcasecmp(p->type, "keep");
    if (!m->keep && !ht_quantize_find(p->type, &m->type))
        return ht_fail(err, HEARTH_INVALID, "'%.32s' is no type that tensors can be written in", p->type);
    if (!p->base || !p->base->path || !p->base->sha256 || !p->n_uses || p->n_uses > HEARTH_MAX_ADAPTERS)
        return ht_fail(err, HEARTH_INVALID, "merging needs a base and 1 to %d adapters", HEARTH_MAX_ADAPTERS);
    HT_TRY(ht_gguf_open_any(&m->base, p->base->path, err));
    for (unsigned i = 0; i < ht_gguf_n_parts(m->base); i++)
        if (!stat(path, &to) && !stat(ht_gguf_part_path(m->base, i), &from) && from.st_dev == to.st_dev &&
            from.st_ino == to.st_ino)
            return ht_fail(err, HEARTH_INVALID, "%s is the base itself: name another file", ht_shown_path(path));
    for (size_t i = 0; i < p->n_uses; i++) {
        if (!p->uses[i].adapter || !isfinite(p->uses[i].scale))
            return ht_fail(err, HEARTH_INVALID, "adapter %zu is missing, or its scale is no number", i + 1);
        HT_TRY(check_adapter(m, p->uses[i].adapter, err));
    }
    return HEARTH_OK;
}

// ---------------------------------------------------------------- keys and table

static enum ht_type type_in(const struct merge *m, const struct ht_gguf_tensor *t)
{
    return m->keep ? t->type : ht_quantize_fits(m->type, t->ne[0]);
}

static void put_tensor(struct merge *m, const char *name, const struct ht_gguf_tensor *t)
{
    struct part parts[HEARTH_MAX_ADAPTERS];
    enum ht_type type = t->type;
    m->n_values += t->n_values;
    if (parts_of(m, name, parts)) {
        type = type_in(m, t);
        m->report.n_merged++;
        m->report.n_other_type += !m->keep && type != m->type;
        m->n_merged_values += t->n_values;
        m->row_values = t->ne[0] > m->row_values ? (size_t)t->ne[0] : m->row_values;
        m->row_bytes = t->row_bytes > m->row_bytes ? (size_t)t->row_bytes : m->row_bytes;
    }
    ht_gguf_writer_tensor(m->writer, name, type, t->n_dims, t->ne);
}

// Announces every tensor; counts values, and room for the longest row. A tied head gets a tensor of its own.
static void put_table(struct merge *m)
{
    for (size_t i = 0; i < ht_gguf_n_tensors(m->base); i++)
        put_tensor(m, ht_gguf_tensor_at(m->base, i)->name, ht_gguf_tensor_at(m->base, i));
    if (m->head)
        put_tensor(m, OUTPUT, m->head);
}

static bool begins(const char *text, const char *with)
{
    return !strncmp(text, with, strlen(with));
}

static void put_str(struct ht_gguf_writer *w, uint32_t entry, const char *what, const char *text)
{
    char key[64];
    snprintf(key, sizeof key, "hearth.merge.%u.%s", entry, what);
    if (text[0])
        ht_gguf_writer_str(w, key, text, strlen(text));
}

static enum hearth_status put_keys(struct merge *m, struct hearth_error *err)
{
    uint32_t n_before = 0;
    char key[64];
    HT_TRY(ht_gguf_optional(ht_gguf_get_u32(m->base, "hearth.merge.count", &n_before, err)));
    if (n_before > MAX_ENTRIES)
        return ht_fail(err, HEARTH_FORMAT, "%s: key hearth.merge.count is too large", ht_gguf_shown(m->base));
    for (size_t i = 0; i < ht_gguf_n_keys(m->base); i++) {
        const struct ht_gguf_key *k = ht_gguf_key_at(m->base, i);
        bool aligned = !strcmp(k->name, "general.alignment") && ht_gguf_alignment(m->base) != 32; // is written already
        if (aligned || begins(k->name, "split.") || !strcmp(k->name, "hearth.merge.count"))
            continue;
        if (!strcmp(k->name, "general.file_type") && !m->keep && 2 * m->n_merged_values > m->n_values)
            ht_gguf_writer_u32(m->writer, k->name, ht_quantize_file_type(m->type));
        else
            ht_gguf_writer_key(m->writer, k);
    }
    ht_gguf_writer_u32(m->writer, "hearth.merge.count", n_before + (uint32_t)m->params->n_uses);
    for (size_t i = 0; i < m->params->n_uses; i++) {
        const struct hearth_adapter *a = m->params->uses[i].adapter;
        uint32_t entry = n_before + (uint32_t)i;
        put_str(m->writer, entry, "base_name", a->base_name);
        put_str(m->writer, entry, "base_sha256", a->base_sha256);
        put_str(m->writer, entry, "adapter", a->name[0] ? a->name : a->shown);
        snprintf(key, sizeof key, "hearth.merge.%u.scale", entry);
        ht_gguf_writer_f32(m->writer, key, m->params->uses[i].scale);
    }
    return HEARTH_OK;
}

// ---------------------------------------------------------------- data

static enum hearth_status tell(struct merge *m, uint64_t n_values, struct hearth_error *err)
{
    m->n_done += n_values;
    double done = m->n_values ? (double)m->n_done / (double)m->n_values : 1;
    if (m->params->progress && !m->params->progress(m->params->progress_user, done))
        return ht_fail(err, HEARTH_CANCELED, "merging was canceled");
    return HEARTH_OK;
}

static enum hearth_status copy(struct merge *m, const struct ht_gguf_tensor *t, struct hearth_error *err)
{
    for (uint64_t at = 0; at < t->size_bytes; at += PIECE_BYTES) {
        size_t n = t->size_bytes - at < PIECE_BYTES ? (size_t)(t->size_bytes - at) : PIECE_BYTES;
        HT_TRY(ht_gguf_read(m->base, t, at, n, m->bytes, err));
        HT_TRY(ht_gguf_writer_data(m->writer, m->bytes, n, err));
        HT_TRY(tell(m, t->n_values / (t->size_bytes / PIECE_BYTES + 1), err));
    }
    return HEARTH_OK;
}

// Row i of W in m->row becomes row i of the sum.
static void add_parts(struct merge *m, uint64_t i, size_t k, const struct part *parts, size_t n_parts)
{
    for (size_t v = 0; v < k; v++)
        m->sum[v] = 0;
    for (size_t p = 0; p < n_parts; p++)
        for (uint32_t r = 0; r < parts[p].rank; r++) {
            double factor = parts[p].scale * (double)parts[p].b[i * parts[p].rank + r];
            const float *a = parts[p].a + (size_t)r * k;
            for (size_t v = 0; v < k; v++)
                m->sum[v] += factor * (double)a[v];
        }
    for (size_t v = 0; v < k; v++) {
        m->change += m->sum[v] * m->sum[v];
        m->row[v] = (float)((double)m->row[v] + m->sum[v]);
    }
}

static enum hearth_status merge_tensor(struct merge *m, const struct ht_gguf_tensor *t, const struct part *parts,
                                       size_t n_parts, struct hearth_error *err)
{
    size_t k = (size_t)t->ne[0];
    enum ht_type type = type_in(m, t);
    uint64_t out_bytes = 0;
    ht_row_bytes(type, k, &out_bytes);
    for (uint64_t i = 0; i < t->ne[1]; i++) {
        HT_TRY(ht_gguf_read(m->base, t, i * t->row_bytes, (size_t)t->row_bytes, m->bytes, err));
        ht_dequant_row(t->type, m->bytes, k, m->row);
        add_parts(m, i, k, parts, n_parts);
        if (!ht_quantize_row(type, m->row, k, m->bytes))
            return ht_fail(err, HEARTH_NUMERIC, "%s: row %llu of %s becomes no finite numbers", ht_gguf_shown(m->base),
                           (unsigned long long)i, t->name);
        ht_dequant_row(type, m->bytes, k, m->again);
        for (size_t v = 0; v < k; v++) {
            double off = (double)m->again[v] - (double)m->row[v];
            m->rounding += off * off;
        }
        HT_TRY(ht_gguf_writer_data(m->writer, m->bytes, (size_t)out_bytes, err));
        if (i % 64 == 63 || i + 1 == t->ne[1])
            HT_TRY(tell(m, (i % 64 + 1) * k, err));
    }
    return HEARTH_OK;
}

static enum hearth_status put_data(struct merge *m, struct hearth_error *err)
{
    struct part parts[HEARTH_MAX_ADAPTERS];
    size_t row = m->row_values * sizeof(float) > m->row_bytes ? m->row_values * sizeof(float) : m->row_bytes;
    m->bytes = ht_calloc(row > PIECE_BYTES ? row : PIECE_BYTES, 1);
    m->row = ht_calloc(m->row_values, sizeof *m->row);
    m->again = ht_calloc(m->row_values, sizeof *m->again);
    m->sum = ht_calloc(m->row_values, sizeof *m->sum);
    if (!m->bytes || !m->row || !m->again || !m->sum)
        return ht_fail(err, HEARTH_NOMEM, "%s: out of memory", ht_gguf_shown(m->base));
    for (size_t i = 0; i < ht_gguf_n_tensors(m->base); i++) {
        const struct ht_gguf_tensor *t = ht_gguf_tensor_at(m->base, i);
        size_t n = parts_of(m, t->name, parts);
        HT_TRY(n ? merge_tensor(m, t, parts, n, err) : copy(m, t, err));
    }
    if (m->head)
        HT_TRY(merge_tensor(m, m->head, parts, parts_of(m, OUTPUT, parts), err));
    return ht_gguf_check_unchanged(m->base, err);
}

static enum hearth_status run(struct merge *m, const char *path, struct hearth_error *err)
{
    HT_TRY(check(m, path, err));
    HT_TRY(ht_gguf_writer_begin(&m->writer, path, ht_gguf_alignment(m->base), err));
    put_table(m);
    HT_TRY(put_keys(m, err));
    HT_TRY(put_data(m, err));
    return ht_gguf_writer_finish(&m->writer, err);
}

enum hearth_status hearth_adapter_merge(const char *path, const struct hearth_merge_params *params,
                                        struct hearth_merge_report *report, struct hearth_error *err)
{
    struct merge m = {.params = params};
    enum hearth_status status = run(&m, path, err);
    ht_gguf_writer_discard(&m.writer);
    ht_gguf_close(&m.base);
    ht_free(m.bytes);
    ht_free(m.row);
    ht_free(m.again);
    ht_free(m.sum);
    double n = m.n_merged_values ? (double)m.n_merged_values : 1;
    m.report.rms_change = sqrt(m.change / n);
    m.report.rms_rounding = sqrt(m.rounding / n);
    if (report)
        *report = status == HEARTH_OK ? m.report : (struct hearth_merge_report){0};
    return status;
}
