// SPDX-License-Identifier: Apache-2.0
// Opens a GGUF model, one file or all parts of a split one, and hands out its tensors. The loading thread
// owns it; only ht_gguf_read may be called from several at once.
#include "engine/gguf/gguf.h"

#include <stdio.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/gguf/gguf_impl.h"

static enum hearth_status open_part(struct ht_gguf *gguf, const char *path, struct hearth_error *err)
{
    struct ht_gguf_part *part = &gguf->parts[gguf->n_parts];
    size_t len = strlen(path) + 1;
    part->path = ht_calloc(len, 1);
    if (!part->path)
        return ht_fail(err, HEARTH_NOMEM, "%s: out of memory", ht_shown_path(path));
    gguf->n_parts++;
    memcpy(part->path, path, len);
    HT_TRY(ht_file_open_read(&part->file, path, err));
    HT_TRY(ht_file_identity(part->file, part->identity, err));
    return ht_gguf_parse(gguf, gguf->n_parts - 1, err);
}

// ---------------------------------------------------------------- split models

// The unsigned value of a split key of `part`; absent = `missing`.
static enum hearth_status split_key(const struct ht_gguf_part *part, const char *name, uint64_t missing,
                                    uint64_t *value, struct hearth_error *err)
{
    const struct ht_gguf_key *key = ht_gguf_part_key(part, name);
    bool negative = false;
    *value = missing;
    if (key && (!ht_gguf_key_integer(key, &negative, value) || negative))
        return ht_fail(err, HEARTH_FORMAT, "%s: key %s is not a count", ht_shown_path(part->path), name);
    return HEARTH_OK;
}

// A later part carries split keys and its own alignment; anything else must repeat the first part's value,
// since nobody would read it there.
static enum hearth_status check_part_keys(const struct ht_gguf *gguf, const struct ht_gguf_part *part,
                                          struct hearth_error *err)
{
    for (size_t i = 0; i < part->n_keys; i++) {
        const struct ht_gguf_key *key = &part->keys[i].key;
        if (!strncmp(key->name, "split.", 6) || !strcmp(key->name, "general.alignment"))
            continue;
        const struct ht_gguf_key *first = ht_gguf_part_key(&gguf->parts[0], key->name);
        if (!first || first->kind != key->kind || first->array.kind != key->array.kind ||
            first->array.size_bytes != key->array.size_bytes ||
            memcmp(first->array.data, key->array.data, key->array.size_bytes))
            return ht_fail(err, HEARTH_FORMAT, "%s: key %.64s is not what the first part says",
                           ht_shown_path(part->path), key->name);
    }
    return HEARTH_OK;
}

static enum hearth_status check_part(const struct ht_gguf *gguf, unsigned index, uint64_t count,
                                     struct hearth_error *err)
{
    const struct ht_gguf_part *part = &gguf->parts[index];
    const char *file = ht_shown_path(part->path);
    uint64_t no, part_count;
    HT_TRY(split_key(part, "split.no", UINT64_MAX, &no, err));
    HT_TRY(split_key(part, "split.count", 0, &part_count, err));
    if (no != index)
        return ht_fail(err, HEARTH_FORMAT, "%s: key split.no does not say part %u (counted from 0)", file,
                       index);
    if (part_count != count)
        return ht_fail(err, HEARTH_FORMAT, "%s: key split.count is not %llu as in the first part", file,
                       (unsigned long long)count);
    return check_part_keys(gguf, part, err);
}

// "x-00001-of-00003.gguf" -> the path with part `number` (from 1) in place; path has room for just that.
static enum hearth_status open_later_parts(struct ht_gguf *gguf, char *path, unsigned count,
                                           struct hearth_error *err)
{
    char ending[40];
    size_t len = (size_t)snprintf(ending, sizeof ending, "-%05u-of-%05u.gguf", 1u, count);
    size_t path_len = strlen(path);
    if (path_len < len || strcmp(path + path_len - len, ending))
        return ht_fail(err, HEARTH_FORMAT, "%s: a model of %u parts, but the name does not end in %s",
                       ht_shown_path(path), count, ending);
    for (unsigned i = 1; i < count; i++) {
        // At most 1024 parts: always as long as the first.
        snprintf(ending, sizeof ending, "-%05u-of-%05u.gguf", i + 1, count);
        memcpy(path + path_len - len, ending, len);
        HT_TRY(open_part(gguf, path, err));
        HT_TRY(check_part(gguf, i, count, err));
    }
    return HEARTH_OK;
}

static enum hearth_status open_split(struct ht_gguf *gguf, struct hearth_error *err)
{
    const char *file = ht_shown_path(gguf->parts[0].path);
    uint64_t no, count, n_tensors;
    HT_TRY(split_key(&gguf->parts[0], "split.no", 0, &no, err));
    HT_TRY(split_key(&gguf->parts[0], "split.count", 1, &count, err));
    HT_TRY(split_key(&gguf->parts[0], "split.tensors.count", UINT64_MAX, &n_tensors, err));
    if (!count || no >= count)
        return ht_fail(err, HEARTH_FORMAT, "%s: keys split.no and split.count say part %llu of %llu", file,
                       (unsigned long long)no, (unsigned long long)count);
    if (count > HT_MAX_GGUF_SPLITS)
        return ht_fail(err, HEARTH_LIMIT, "%s: key split.count: %llu parts, at most %d are allowed", file,
                       (unsigned long long)count, HT_MAX_GGUF_SPLITS);
    if (no)
        return ht_fail(err, HEARTH_INVALID, "%s: this is part %llu of %llu, open the first one", file,
                       (unsigned long long)no + 1, (unsigned long long)count);
    if (count > 1) {
        void *parts = gguf->parts;
        if (!ht_grow(&parts, 1, (size_t)count, sizeof gguf->parts[0]))
            return ht_fail(err, HEARTH_NOMEM, "%s: out of memory", file);
        gguf->parts = parts;
        size_t size = strlen(gguf->parts[0].path) + 1;
        char *path = ht_calloc(size, 1);
        if (!path)
            return ht_fail(err, HEARTH_NOMEM, "%s: out of memory", file);
        memcpy(path, gguf->parts[0].path, size);
        enum hearth_status status = open_later_parts(gguf, path, (unsigned)count, err);
        ht_free(path);
        HT_TRY(status);
    }
    if (n_tensors != UINT64_MAX && n_tensors != gguf->n_tensors)
        return ht_fail(err, HEARTH_FORMAT,
                       "%s: key split.tensors.count says %llu, but the parts hold %zu tensors", file,
                       (unsigned long long)n_tensors, gguf->n_tensors);
    return HEARTH_OK;
}

// ---------------------------------------------------------------- open and close

static int compare_tensors(const void *context, uint32_t a, uint32_t b)
{
    const struct ht_gguf_tensor_entry *tensors = context;
    return strcmp(tensors[a].tensor.name, tensors[b].tensor.name);
}

static enum hearth_status order_tensors(struct ht_gguf *gguf, struct hearth_error *err)
{
    if (!gguf->n_tensors)
        return HEARTH_OK;
    uint32_t *order = ht_calloc(gguf->n_tensors, sizeof *order);
    if (!order)
        return ht_fail(err, HEARTH_NOMEM, "%s: out of memory", ht_gguf_shown(gguf));
    gguf->tensor_order = order;
    for (size_t i = 0; i < gguf->n_tensors; i++)
        order[i] = (uint32_t)i;
    ht_gguf_sort(order, gguf->n_tensors, compare_tensors, gguf->tensors);
    for (size_t i = 1; i < gguf->n_tensors; i++)
        if (!compare_tensors(gguf->tensors, order[i - 1], order[i])) {
            const struct ht_gguf_tensor *twice = &gguf->tensors[order[i]].tensor;
            return ht_fail(err, HEARTH_FORMAT, "%s: tensor %s stands there twice",
                           ht_shown_path(gguf->parts[twice->part].path), twice->name);
        }
    return HEARTH_OK;
}

static enum hearth_status open_model(struct ht_gguf **gguf, const char *path, bool any_type,
                                     struct hearth_error *err)
{
    *gguf = NULL;
    struct ht_gguf *g = ht_calloc(1, sizeof *g);
    if (g)
        g->parts = ht_calloc(1, sizeof g->parts[0]);
    enum hearth_status status = HEARTH_OK;
    if (!g || !g->parts) {
        status = ht_fail(err, HEARTH_NOMEM, "%s: out of memory", ht_shown_path(path));
        goto done;
    }
    g->any_type = any_type;
    HT_TRY_TO(done, open_part(g, path, err));
    HT_TRY_TO(done, open_split(g, err));
    HT_TRY_TO(done, order_tensors(g, err));
    ht_gguf_use_key(g, "split.no");
    ht_gguf_use_key(g, "split.count");
    ht_gguf_use_key(g, "split.tensors.count");
    *gguf = g;
    return HEARTH_OK;
done:
    ht_gguf_close(&g);
    return status;
}

enum hearth_status ht_gguf_open(struct ht_gguf **gguf, const char *path, struct hearth_error *err)
{
    return open_model(gguf, path, false, err);
}

enum hearth_status ht_gguf_open_any(struct ht_gguf **gguf, const char *path, struct hearth_error *err)
{
    return open_model(gguf, path, true, err);
}

void ht_gguf_close(struct ht_gguf **gguf)
{
    struct ht_gguf *g = *gguf;
    *gguf = NULL;
    if (!g)
        return;
    for (unsigned i = 0; i < g->n_parts; i++) {
        struct ht_gguf_part *part = &g->parts[i];
        ht_file_close(&part->file);
        ht_free(part->path);
        ht_free(part->header);
        ht_free(part->keys);
        ht_free(part->key_order);
    }
    ht_free(g->parts);
    ht_free(g->tensors);
    ht_free(g->tensor_order);
    ht_free(g);
}

// ---------------------------------------------------------------- the files

const char *ht_gguf_path(const struct ht_gguf *gguf)
{
    return gguf->parts[0].path;
}

const char *ht_gguf_shown(const struct ht_gguf *gguf)
{
    return ht_shown_path(gguf->parts[0].path);
}

unsigned ht_gguf_n_parts(const struct ht_gguf *gguf)
{
    return gguf->n_parts;
}

const char *ht_gguf_part_path(const struct ht_gguf *gguf, unsigned part)
{
    return gguf->parts[part].path;
}

uint64_t ht_gguf_part_bytes(const struct ht_gguf *gguf, unsigned part)
{
    return ht_file_size(gguf->parts[part].file);
}

uint64_t ht_gguf_file_bytes(const struct ht_gguf *gguf)
{
    uint64_t bytes = 0;
    for (unsigned i = 0; i < gguf->n_parts; i++)
        bytes += ht_gguf_part_bytes(gguf, i);
    return bytes;
}

uint32_t ht_gguf_version(const struct ht_gguf *gguf)
{
    return gguf->parts[0].version;
}

uint32_t ht_gguf_alignment(const struct ht_gguf *gguf)
{
    return gguf->parts[0].alignment;
}

const char *ht_gguf_identity(const struct ht_gguf *gguf, unsigned part)
{
    return gguf->parts[part].identity;
}

enum hearth_status ht_gguf_check_unchanged(const struct ht_gguf *gguf, struct hearth_error *err)
{
    for (unsigned i = 0; i < gguf->n_parts; i++) {
        char now[72];
        HT_TRY(ht_file_identity(gguf->parts[i].file, now, err));
        if (strcmp(now, gguf->parts[i].identity))
            return ht_fail(err, HEARTH_IO, "%s: the file changed since it was opened",
                           ht_shown_path(gguf->parts[i].path));
    }
    return HEARTH_OK;
}

// ---------------------------------------------------------------- tensors

size_t ht_gguf_n_tensors(const struct ht_gguf *gguf)
{
    return gguf->n_tensors;
}

const struct ht_gguf_tensor *ht_gguf_tensor_at(const struct ht_gguf *gguf, size_t index)
{
    return index < gguf->n_tensors ? &gguf->tensors[index].tensor : NULL;
}

static struct ht_gguf_tensor_entry *find(const struct ht_gguf *gguf, const char *name)
{
    for (size_t low = 0, high = gguf->n_tensors; low < high;) {
        size_t middle = low + (high - low) / 2;
        struct ht_gguf_tensor_entry *entry = &gguf->tensors[gguf->tensor_order[middle]];
        int order = strcmp(name, entry->tensor.name);
        if (!order)
            return entry;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

const struct ht_gguf_tensor *ht_gguf_find_tensor(const struct ht_gguf *gguf, const char *name)
{
    struct ht_gguf_tensor_entry *entry = find(gguf, name);
    return entry ? &entry->tensor : NULL;
}

const struct ht_gguf_tensor *ht_gguf_use_tensor(const struct ht_gguf *gguf, const char *name)
{
    struct ht_gguf_tensor_entry *entry = find(gguf, name);
    if (!entry)
        return NULL;
    entry->used = true;
    return &entry->tensor;
}

const struct ht_gguf_tensor *ht_gguf_first_unused_tensor(const struct ht_gguf *gguf)
{
    for (size_t i = 0; i < gguf->n_tensors; i++)
        if (!gguf->tensors[i].used)
            return &gguf->tensors[i].tensor;
    return NULL;
}

enum hearth_status ht_gguf_refuse_unused_tensors(const struct ht_gguf *gguf, struct hearth_error *err)
{
    const struct ht_gguf_tensor *tensor = ht_gguf_first_unused_tensor(gguf);
    if (tensor)
        return ht_fail(err, HEARTH_UNSUPPORTED, "%s: tensor %s is not understood",
                       ht_shown_path(gguf->parts[tensor->part].path), tensor->name);
    return HEARTH_OK;
}

enum hearth_status ht_gguf_read(const struct ht_gguf *gguf, const struct ht_gguf_tensor *tensor,
                                uint64_t offset, size_t len_bytes, void *data, struct hearth_error *err)
{
    const struct ht_gguf_part *part = &gguf->parts[tensor->part];
    if (offset > tensor->size_bytes || len_bytes > tensor->size_bytes - offset)
        return ht_fail(err, HEARTH_INVALID, "%s: tensor %s has %llu bytes, %zu asked for at %llu",
                       ht_shown_path(part->path), tensor->name, (unsigned long long)tensor->size_bytes,
                       len_bytes, (unsigned long long)offset);
    return ht_file_read(part->file, data, len_bytes, tensor->offset + offset, err);
}
