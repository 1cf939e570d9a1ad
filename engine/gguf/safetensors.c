// SPDX-License-Identifier: Apache-2.0
// The safetensors reader: the header is measured before jansson sees it, its entries are copied and the JSON is let go.
// One thread.
#include "engine/gguf/safetensors.h"

#include <errno.h>
#include <jansson.h>
#include <string.h>

#include "engine/base/half.h"
#include "engine/base/io.h"
#include "engine/base/json_read.h"
#include "engine/base/limits.h"
#include "engine/base/mem.h"
#include "engine/gguf/gguf_impl.h"

enum { MAX_NAME_BYTES = 255, MAX_DEPTH = 3, ENTRY_BYTES = 45, PIECE = 4096 };

struct meta {
    const char *key, *value;
};
struct ht_safetensors {
    struct ht_file *file;
    struct ht_safetensor *tensors;
    struct meta *meta;
    size_t n_tensors, n_meta, header_bytes;
    char *text; // names and metadata
    size_t text_used;
    uint64_t data_bytes;
};

static const char *shown(const struct ht_safetensors *s)
{
    return ht_shown_path(ht_file_path(s->file));
}

// ---------------------------------------------------------------- header

// What jansson will build is bounded first: depth, and as many arrays and objects as entries of that length can have.
static bool measured(const char *text, size_t len)
{
    size_t depth = 0, containers = 0;
    bool quoted = false;
    for (size_t i = 0; i < len; i++) {
        char c = text[i];
        if (quoted) {
            if (c == '\\')
                i++;
            else if (c == '"')
                quoted = false;
        } else if (c == '"') {
            quoted = true;
        } else if (c == '{' || c == '[') {
            containers++;
            if (++depth > MAX_DEPTH)
                return false;
        } else if (c == '}' || c == ']') {
            if (depth)
                depth--;
        }
    }
    return containers <= 2 + 3 * (len / ENTRY_BYTES + 1);
}

static const char *keep(struct ht_safetensors *s, const char *text)
{
    size_t len = strlen(text) + 1; // no longer than between its quotes in the header
    char *at = s->text + s->text_used;
    memcpy(at, text, len);
    s->text_used += len;
    return at;
}

static bool whole_number(const json_t *value, uint64_t *number)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return false;
    *number = (uint64_t)json_integer_value(value);
    return true;
}

static bool type_of(const char *name, enum ht_type *type)
{
    *type = !strcmp(name, "F32") ? HT_TYPE_F32 : !strcmp(name, "F16") ? HT_TYPE_F16 : HT_TYPE_BF16;
    return !strcmp(name, "F32") || !strcmp(name, "F16") || !strcmp(name, "BF16");
}

static enum hearth_status read_shape(const struct ht_safetensors *s, struct ht_safetensor *t, const json_t *shape,
                                     struct hearth_error *err)
{
    if (!json_is_array(shape))
        return ht_fail(err, HEARTH_FORMAT, "%s: tensor %s has no shape", shown(s), t->name);
    if (json_array_size(shape) > HT_SAFETENSORS_DIMS)
        return ht_fail(err, HEARTH_UNSUPPORTED, "%s: tensor %s has %zu dimensions, at most %d are supported",
                       shown(s), t->name, json_array_size(shape), HT_SAFETENSORS_DIMS);
    t->n_dims = (unsigned)json_array_size(shape);
    size_t n = 1, bytes = 0;
    for (unsigned d = 0; d < HT_SAFETENSORS_DIMS; d++) {
        t->shape[d] = 1;
        if (d < t->n_dims && !whole_number(json_array_get(shape, d), &t->shape[d]))
            return ht_fail(err, HEARTH_FORMAT, "%s: tensor %s: a size that is no whole number", shown(s), t->name);
        if (!ht_mul(n, t->shape[d], &n))
            return ht_fail(err, HEARTH_FORMAT, "%s: tensor %s: the shape overflows", shown(s), t->name);
    }
    if (!ht_mul(n, ht_type_info(t->type)->block_bytes, &bytes))
        return ht_fail(err, HEARTH_FORMAT, "%s: tensor %s: the shape overflows", shown(s), t->name);
    t->n_values = n;
    t->size_bytes = bytes;
    return HEARTH_OK;
}

static enum hearth_status read_entry(struct ht_safetensors *s, const char *name, const json_t *entry,
                                     struct hearth_error *err)
{
    struct ht_safetensor *t = &s->tensors[s->n_tensors];
    size_t len = strlen(name);
    if (len < 1 || len > MAX_NAME_BYTES)
        return ht_fail(err, HEARTH_FORMAT, "%s: a tensor's name of %zu bytes, 1 to %d are allowed", shown(s), len,
                       MAX_NAME_BYTES);
    t->name = keep(s, name);
    const char *dtype = json_string_value(json_object_get(entry, "dtype"));
    if (!json_is_object(entry) || json_object_size(entry) != 3 || !dtype)
        return ht_fail(err, HEARTH_FORMAT, "%s: tensor %s is not described by dtype, shape and data_offsets",
                       shown(s), t->name);
    if (!type_of(dtype, &t->type))
        return ht_fail(err, HEARTH_UNSUPPORTED, "%s: tensor %s has type \"%.16s\" (F32, F16 and BF16 are supported)",
                       shown(s), t->name, dtype);
    HT_TRY(read_shape(s, t, json_object_get(entry, "shape"), err));
    const json_t *offsets = json_object_get(entry, "data_offsets");
    uint64_t begin = 0, end = 0;
    if (!json_is_array(offsets) || json_array_size(offsets) != 2 ||
        !whole_number(json_array_get(offsets, 0), &begin) || !whole_number(json_array_get(offsets, 1), &end))
        return ht_fail(err, HEARTH_FORMAT, "%s: tensor %s: data_offsets are not two whole numbers", shown(s),
                       t->name);
    if (begin > end || end > s->data_bytes)
        return ht_fail(err, HEARTH_FORMAT, "%s: tensor %s lies beyond the file's end", shown(s), t->name);
    if (end - begin != t->size_bytes)
        return ht_fail(err, HEARTH_FORMAT, "%s: tensor %s has %llu bytes, its shape needs %llu", shown(s), t->name,
                       (unsigned long long)(end - begin), (unsigned long long)t->size_bytes);
    t->offset = begin;
    s->n_tensors++;
    return HEARTH_OK;
}

static enum hearth_status read_meta(struct ht_safetensors *s, json_t *object, struct hearth_error *err)
{
    const char *key;
    json_t *value;
    if (!json_is_object(object))
        return ht_fail(err, HEARTH_FORMAT, "%s: __metadata__ is no object", shown(s));
    if (!json_object_size(object))
        return HEARTH_OK;
    s->meta = ht_calloc(json_object_size(object), sizeof *s->meta);
    if (!s->meta)
        return ht_fail(err, HEARTH_NOMEM, "%s: out of memory for the header", shown(s));
    json_object_foreach(object, key, value)
    {
        if (!json_is_string(value))
            return ht_fail(err, HEARTH_FORMAT, "%s: __metadata__ holds something that is no text", shown(s));
        s->meta[s->n_meta++] = (struct meta){keep(s, key), keep(s, json_string_value(value))};
    }
    return HEARTH_OK;
}

static int compare(const void *context, uint32_t a, uint32_t b)
{
    const struct ht_safetensor *t = context;
    if (t[a].offset != t[b].offset)
        return t[a].offset < t[b].offset ? -1 : 1;
    return t[a].size_bytes < t[b].size_bytes ? -1 : t[a].size_bytes > t[b].size_bytes;
}

// Puts the tensors in order of their data: one behind the other, from the first byte to the last.
static enum hearth_status in_order(struct ht_safetensors *s, struct hearth_error *err)
{
    size_t n = s->n_tensors;
    uint32_t *order = ht_calloc(n + 1, sizeof *order);
    struct ht_safetensor *sorted = ht_calloc(n + 1, sizeof *sorted);
    uint64_t at = 0;
    if (!order || !sorted) {
        ht_free(order);
        ht_free(sorted);
        return ht_fail(err, HEARTH_NOMEM, "%s: out of memory for the header", shown(s));
    }
    for (size_t i = 0; i < n; i++)
        order[i] = (uint32_t)i;
    ht_gguf_sort(order, n, compare, s->tensors);
    for (size_t i = 0; i < n; i++)
        sorted[i] = s->tensors[order[i]];
    ht_free(order);
    ht_free(s->tensors);
    s->tensors = sorted;
    for (size_t i = 0; i < n; i++) {
        if (sorted[i].offset != at)
            return ht_fail(err, HEARTH_FORMAT, "%s: tensor %s %s", shown(s), sorted[i].name,
                           sorted[i].offset < at ? "overlaps another" : "lies behind a hole");
        at += sorted[i].size_bytes;
        sorted[i].offset += 8 + s->header_bytes;
    }
    if (at != s->data_bytes)
        return ht_fail(err, HEARTH_FORMAT, "%s: %llu bytes belong to no tensor", shown(s),
                       (unsigned long long)(s->data_bytes - at));
    return HEARTH_OK;
}

static enum hearth_status read_root(struct ht_safetensors *s, json_t *root, struct hearth_error *err)
{
    const char *key;
    json_t *value;
    size_t n = json_object_size(root);
    if (n > HT_MAX_SAFETENSORS)
        return ht_fail(err, HEARTH_LIMIT, "%s: %zu tensors, at most %d are allowed", shown(s), n,
                       HT_MAX_SAFETENSORS);
    s->tensors = ht_calloc(n + 1, sizeof *s->tensors);
    if (!s->tensors)
        return ht_fail(err, HEARTH_NOMEM, "%s: out of memory for the header", shown(s));
    json_object_foreach(root, key, value)
    {
        if (!strcmp(key, "__metadata__"))
            HT_TRY(read_meta(s, value, err));
        else
            HT_TRY(read_entry(s, key, value, err));
    }
    return in_order(s, err);
}

static enum hearth_status parse(struct ht_safetensors *s, const char *header, struct hearth_error *err)
{
    if (header[0] != '{')
        return ht_fail(err, HEARTH_FORMAT, "%s: not a safetensors file", shown(s));
    if (!measured(header, s->header_bytes))
        return ht_fail(err, HEARTH_FORMAT, "%s: the header is nested too deeply or holds too many parts", shown(s));
    json_error_t wrong = {0};
    errno = 0;
    json_t *root = ht_json_read(header, s->header_bytes, JSON_REJECT_DUPLICATES, &wrong);
    if (!root && (!wrong.text[0] || errno == ENOMEM))
        return ht_fail(err, HEARTH_NOMEM, "%s: out of memory for the header", shown(s));
    if (!root)
        return ht_fail(err, HEARTH_FORMAT, "%s: the header is no JSON of the format (line %d, column %d)", shown(s),
                       wrong.line, wrong.column);
    enum hearth_status status = read_root(s, root, err);
    json_decref(root);
    return status;
}

static enum hearth_status read_header(struct ht_safetensors *s, struct hearth_error *err)
{
    unsigned char length[8];
    if (ht_file_size(s->file) < 8)
        return ht_fail(err, HEARTH_FORMAT, "%s: not a safetensors file: %llu bytes", shown(s),
                       (unsigned long long)ht_file_size(s->file));
    HT_TRY(ht_file_read(s->file, length, 8, 0, err));
    uint64_t bytes = ht_load_u64(length), left = ht_file_size(s->file) - 8;
    if (bytes < 2 || bytes > left)
        return ht_fail(err, HEARTH_FORMAT, "%s: not a safetensors file: a header of %llu bytes, %llu are left",
                       shown(s), (unsigned long long)bytes, (unsigned long long)left);
    if (bytes > HT_MAX_SAFETENSORS_HEADER_BYTES)
        return ht_fail(err, HEARTH_LIMIT, "%s: a header of %llu bytes, at most %d are allowed", shown(s),
                       (unsigned long long)bytes, HT_MAX_SAFETENSORS_HEADER_BYTES);
    s->header_bytes = (size_t)bytes;
    s->data_bytes = left - bytes;
    s->text = ht_calloc(s->header_bytes, 1);
    char *header = ht_calloc(s->header_bytes, 1);
    if (!header || !s->text) {
        ht_free(header);
        return ht_fail(err, HEARTH_NOMEM, "%s: out of memory for the header", shown(s));
    }
    enum hearth_status status = ht_file_read(s->file, header, s->header_bytes, 8, err);
    if (status == HEARTH_OK)
        status = parse(s, header, err);
    ht_free(header);
    return status;
}

enum hearth_status ht_safetensors_open(struct ht_safetensors **file, const char *path, struct hearth_error *err)
{
    *file = NULL;
    struct ht_safetensors *s = ht_calloc(1, sizeof *s);
    if (!s)
        return ht_fail(err, HEARTH_NOMEM, "%s: out of memory", ht_shown_path(path));
    enum hearth_status status = ht_file_open_read(&s->file, path, err);
    if (status == HEARTH_OK)
        status = read_header(s, err);
    if (status != HEARTH_OK)
        ht_safetensors_close(&s);
    *file = s;
    return status;
}

void ht_safetensors_close(struct ht_safetensors **file)
{
    struct ht_safetensors *s = *file;
    if (!s)
        return;
    ht_file_close(&s->file);
    ht_free(s->tensors);
    ht_free(s->meta);
    ht_free(s->text);
    ht_free(s);
    *file = NULL;
}

// ---------------------------------------------------------------- what it holds

size_t ht_safetensors_n(const struct ht_safetensors *file)
{
    return file->n_tensors;
}

const struct ht_safetensor *ht_safetensors_at(const struct ht_safetensors *file, size_t i)
{
    return &file->tensors[i];
}

const struct ht_safetensor *ht_safetensors_find(const struct ht_safetensors *file, const char *name)
{
    for (size_t i = 0; i < file->n_tensors; i++)
        if (!strcmp(file->tensors[i].name, name))
            return &file->tensors[i];
    return NULL;
}

size_t ht_safetensors_n_meta(const struct ht_safetensors *file)
{
    return file->n_meta;
}

void ht_safetensors_meta_at(const struct ht_safetensors *file, size_t i, const char **key, const char **value)
{
    *key = file->meta[i].key;
    *value = file->meta[i].value;
}

const char *ht_safetensors_meta(const struct ht_safetensors *file, const char *key)
{
    for (size_t i = 0; i < file->n_meta; i++)
        if (!strcmp(file->meta[i].key, key))
            return file->meta[i].value;
    return NULL;
}

enum hearth_status ht_safetensors_read(const struct ht_safetensors *file, const struct ht_safetensor *tensor,
                                       float *out, struct hearth_error *err)
{
    if (tensor->type == HT_TYPE_F32)
        return ht_file_read(file->file, out, (size_t)tensor->size_bytes, tensor->offset, err);
    uint16_t piece[PIECE];
    for (uint64_t at = 0; at < tensor->n_values; at += PIECE) {
        size_t n = tensor->n_values - at < PIECE ? (size_t)(tensor->n_values - at) : PIECE;
        HT_TRY(ht_file_read(file->file, piece, 2 * n, tensor->offset + 2 * at, err));
        for (size_t i = 0; i < n; i++)
            out[at + i] = tensor->type == HT_TYPE_F16 ? ht_f16_f32(piece[i]) : ht_bf16_f32(piece[i]);
    }
    return HEARTH_OK;
}

// ---------------------------------------------------------------- writing

static json_t *entry_of(const struct ht_safetensors_item *item, uint64_t *at)
{
    json_t *shape = json_array();
    uint64_t bytes = ht_type_info(item->type)->block_bytes;
    for (unsigned d = 0; d < item->n_dims; d++) {
        json_array_append_new(shape, json_integer((json_int_t)item->shape[d]));
        bytes *= item->shape[d];
    }
    uint64_t begin = *at;
    *at += bytes;
    const char *dtype = item->type == HT_TYPE_F32 ? "F32" : item->type == HT_TYPE_F16 ? "F16" : "BF16";
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", dtype, "shape", shape, "data_offsets", (json_int_t)begin,
                     (json_int_t)*at);
}

// The header's JSON, padded with blanks so that 8 + its length is a multiple of 8. NULL: no memory.
static char *header_text(const struct ht_safetensors_item *items, size_t n_items,
                         const struct ht_safetensors_pair *meta, size_t n_meta, size_t *len_bytes)
{
    json_t *root = json_object(), *strings = json_object();
    uint64_t at = 0;
    bool good = root && strings;
    for (size_t i = 0; good && i < n_meta; i++)
        good = !json_object_set_new(strings, meta[i].key, json_string(meta[i].value));
    good = good && !json_object_set(root, "__metadata__", strings);
    for (size_t i = 0; good && i < n_items; i++) {
        json_t *entry = entry_of(&items[i], &at);
        good = entry && json_array_size(json_object_get(entry, "shape")) == items[i].n_dims;
        if (good)
            good = !json_object_set(root, items[i].name, entry);
        json_decref(entry);
    }
    char *text = NULL;
    size_t len = good ? json_dumpb(root, NULL, 0, JSON_COMPACT) : 0;
    if (len) {
        *len_bytes = (len + 7) & ~(size_t)7;
        text = ht_calloc(*len_bytes, 1);
    }
    if (text) {
        memset(text, ' ', *len_bytes);
        if (json_dumpb(root, text, len, JSON_COMPACT) != len) { // out of memory on the way
            ht_free(text);
            text = NULL;
        }
    }
    json_decref(strings);
    json_decref(root);
    return text;
}

static enum hearth_status write_all(struct ht_file *f, const char *header, size_t header_bytes,
                                    const struct ht_safetensors_item *items, size_t n_items,
                                    struct hearth_error *err)
{
    unsigned char length[8];
    for (int i = 0; i < 8; i++)
        length[i] = (unsigned char)((uint64_t)header_bytes >> (8 * i));
    HT_TRY(ht_file_write(f, length, 8, err));
    HT_TRY(ht_file_write(f, header, header_bytes, err));
    for (size_t i = 0; i < n_items; i++) {
        size_t bytes = ht_type_info(items[i].type)->block_bytes;
        for (unsigned d = 0; d < items[i].n_dims; d++)
            bytes *= (size_t)items[i].shape[d];
        if (bytes)
            HT_TRY(ht_file_write(f, items[i].data, bytes, err));
    }
    return HEARTH_OK;
}

enum hearth_status ht_safetensors_write(const char *path, const struct ht_safetensors_item *items, size_t n_items,
                                        const struct ht_safetensors_pair *meta, size_t n_meta,
                                        struct hearth_error *err)
{
    size_t header_bytes = 0;
    char *header = header_text(items, n_items, meta, n_meta, &header_bytes);
    if (!header)
        return ht_fail(err, HEARTH_NOMEM, "%s: out of memory for the header", ht_shown_path(path));
    struct ht_file *f = NULL;
    enum hearth_status status = ht_file_create(&f, path, err);
    if (status == HEARTH_OK)
        status = write_all(f, header, header_bytes, items, n_items, err);
    if (status == HEARTH_OK)
        status = ht_file_commit(&f, err);
    else
        ht_file_close(&f);
    ht_free(header);
    return status;
}
