// SPDX-License-Identifier: Apache-2.0
// Parses the header of one GGUF file. Owns the rule that nothing in a file is believed: each count and length
// is held against the bytes that are left before anything is allocated or read for it. The loading thread.
//
// The header is read into one buffer that at most doubles as parsing proceeds, so that memory never runs
// ahead of bytes that were seen, and tensor data is not read. Names and strings are NUL-terminated in place:
// the byte behind each belongs to a field that has been parsed by then.
#include <stdio.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/base/utf8.h"
#include "engine/gguf/gguf_impl.h"

enum {
    FIRST_READ_BYTES = 64 << 10,
    MIN_KEY_BYTES = 8 + 1 + 4 + 1,            // length, name, type, value
    MIN_TENSOR_BYTES = 8 + 1 + 4 + 8 + 4 + 8, // length, name, n_dims, one dim, type, offset
    MIN_ALIGNMENT = 8,
    DEFAULT_ALIGNMENT = 32,
};

struct parser {
    struct ht_gguf *gguf;
    struct ht_gguf_part *part;
    struct hearth_error *err;
    uint64_t file_bytes;
    unsigned char *data; // the header so far
    size_t have, pos;
    const char *stage; // "key" or "tensor"; NULL = the file's head
    uint64_t index, count;
    size_t name_at, name_len; // of that key or tensor; length 0 = not known yet
};

__attribute__((format(printf, 3, 4))) static enum hearth_status
reject(const struct parser *p, enum hearth_status code, const char *format, ...)
{
    char why[120];
    const char *file = ht_shown_path(p->part->path);
    va_list args;
    va_start(args, format);
    vsnprintf(why, sizeof why, format, args);
    va_end(args);
    if (!p->stage)
        return ht_fail(p->err, code, "%s: %s", file, why);
    if (!p->name_len)
        return ht_fail(p->err, code, "%s: %s %llu of %llu: %s", file, p->stage,
                       (unsigned long long)p->index + 1, (unsigned long long)p->count, why);
    int shown = p->name_len > 64 ? 64 : (int)p->name_len;
    return ht_fail(p->err, code, "%s: %s %.*s: %s", file, p->stage, shown, (const char *)p->data + p->name_at,
                   why);
}

static uint64_t left(const struct parser *p)
{
    return p->file_bytes - p->pos;
}

// Makes n bytes at `pos` present in the buffer, which may move.
static enum hearth_status need(struct parser *p, uint64_t n)
{
    if (n > left(p))
        return reject(p, HEARTH_FORMAT, "the file ends here, at byte %llu",
                      (unsigned long long)p->file_bytes);
    uint64_t end = p->pos + n;
    if (end <= p->have)
        return HEARTH_OK;
    if (end > HT_MAX_GGUF_HEADER_BYTES)
        return reject(p, HEARTH_LIMIT, "the header is larger than %d MiB", HT_MAX_GGUF_HEADER_BYTES >> 20);
    uint64_t want = 2 * (uint64_t)p->have;
    if (want < FIRST_READ_BYTES)
        want = FIRST_READ_BYTES;
    if (want < end)
        want = end;
    if (want > p->file_bytes)
        want = p->file_bytes;
    void *data = p->data;
    if (!ht_grow(&data, p->have, (size_t)want + 1, 1)) // one more for the last NUL
        return reject(p, HEARTH_NOMEM, "out of memory");
    p->data = data;
    HT_TRY(ht_file_read(p->part->file, p->data + p->have, (size_t)want - p->have, p->have, p->err));
    p->have = (size_t)want;
    return HEARTH_OK;
}

static enum hearth_status take_u32(struct parser *p, uint32_t *value)
{
    HT_TRY(need(p, 4));
    *value = ht_load_u32(p->data + p->pos);
    p->pos += 4;
    return HEARTH_OK;
}

static enum hearth_status take_u64(struct parser *p, uint64_t *value)
{
    HT_TRY(need(p, 8));
    *value = ht_load_u64(p->data + p->pos);
    p->pos += 8;
    return HEARTH_OK;
}

// A length and that many bytes, which are then in the buffer at *at.
static enum hearth_status take_string(struct parser *p, uint64_t max_bytes, const char *what, size_t *at,
                                      size_t *len)
{
    uint64_t n;
    HT_TRY(take_u64(p, &n));
    if (n > left(p))
        return reject(p, HEARTH_FORMAT, "%s of %llu bytes, but the file has %llu left", what,
                      (unsigned long long)n, (unsigned long long)left(p));
    if (n > max_bytes)
        return reject(p, HEARTH_LIMIT, "%s of %llu bytes, at most %llu are allowed", what,
                      (unsigned long long)n, (unsigned long long)max_bytes);
    HT_TRY(need(p, n));
    *at = p->pos;
    *len = (size_t)n;
    p->pos += (size_t)n;
    return HEARTH_OK;
}

// The name of a key or tensor, from here on shown in messages.
static enum hearth_status take_name(struct parser *p, uint64_t max_bytes, size_t *name_at)
{
    size_t len = 0;
    HT_TRY(take_string(p, max_bytes, "a name", name_at, &len));
    const unsigned char *name = p->data + *name_at;
    if (!len)
        return reject(p, HEARTH_FORMAT, "the name is empty");
    if (memchr(name, 0, len) || !ht_utf8_valid(name, len))
        return reject(p, HEARTH_FORMAT, "the name is not well-formed UTF-8");
    p->name_at = *name_at;
    p->name_len = len;
    return HEARTH_OK;
}

// ---------------------------------------------------------------- keys

static enum hearth_status take_scalars(struct parser *p, enum ht_gguf_kind kind, uint64_t count)
{
    uint64_t bytes = count * ht_gguf_kind_bytes(kind); // count was held against left() before: no overflow
    HT_TRY(need(p, bytes));
    if (kind == HT_GGUF_BOOL)
        for (uint64_t i = 0; i < bytes; i++)
            if (p->data[p->pos + i] > 1)
                return reject(p, HEARTH_FORMAT, "%u is neither true nor false", p->data[p->pos + i]);
    p->pos += (size_t)bytes;
    return HEARTH_OK;
}

static enum hearth_status take_elements(struct parser *p, enum ht_gguf_kind kind, uint64_t count)
{
    if (kind != HT_GGUF_STRING)
        return take_scalars(p, kind, count);
    size_t at, len;
    for (uint64_t i = 0; i < count; i++)
        HT_TRY(take_string(p, HT_MAX_GGUF_STRING_BYTES, "a string", &at, &len));
    return HEARTH_OK;
}

static enum hearth_status take_kind(struct parser *p, const char *what, enum ht_gguf_kind *kind)
{
    uint32_t number;
    HT_TRY(take_u32(p, &number));
    if (number > HT_GGUF_F64)
        return reject(p, HEARTH_FORMAT, "%s type %u is not known", what, number);
    *kind = (enum ht_gguf_kind)number;
    return HEARTH_OK;
}

static enum hearth_status take_key(struct parser *p, struct ht_gguf_key_entry *entry)
{
    struct ht_gguf_key *key = &entry->key;
    HT_TRY(take_name(p, HT_MAX_GGUF_KEY_BYTES, &entry->name_at));
    HT_TRY(take_kind(p, "value", &key->kind));
    p->data[p->name_at + p->name_len] = 0; // the type's first byte
    key->array.kind = key->kind;
    key->array.count = 1;
    if (key->kind == HT_GGUF_ARRAY) {
        HT_TRY(take_kind(p, "element", &key->array.kind));
        if (key->array.kind == HT_GGUF_ARRAY)
            return reject(p, HEARTH_FORMAT, "an array of arrays");
        HT_TRY(take_u64(p, &key->array.count));
        uint64_t element_bytes = key->array.kind == HT_GGUF_STRING ? 8 : ht_gguf_kind_bytes(key->array.kind);
        if (key->array.count > left(p) / element_bytes)
            return reject(p, HEARTH_FORMAT, "an array of %llu values, but the file has %llu bytes left",
                          (unsigned long long)key->array.count, (unsigned long long)left(p));
    }
    entry->data_at = p->pos;
    HT_TRY(take_elements(p, key->array.kind, key->array.count));
    key->array.size_bytes = p->pos - entry->data_at;
    return HEARTH_OK;
}

static enum hearth_status take_keys(struct parser *p, uint64_t count)
{
    struct ht_gguf_part *part = p->part;
    if (count > left(p) / MIN_KEY_BYTES)
        return reject(p, HEARTH_FORMAT, "%llu keys claimed, but the file has %llu bytes left",
                      (unsigned long long)count, (unsigned long long)left(p));
    if (count > HT_MAX_GGUF_KEYS)
        return reject(p, HEARTH_LIMIT, "%llu keys, at most %d are allowed", (unsigned long long)count,
                      HT_MAX_GGUF_KEYS);
    if (!count)
        return HEARTH_OK;
    part->keys = ht_calloc((size_t)count, sizeof part->keys[0]);
    part->key_order = ht_calloc((size_t)count, sizeof part->key_order[0]);
    if (!part->keys || !part->key_order)
        return reject(p, HEARTH_NOMEM, "out of memory for %llu keys", (unsigned long long)count);
    p->stage = "key";
    p->count = count;
    for (p->index = 0; p->index < count; p->index++) {
        p->name_len = 0;
        HT_TRY(take_key(p, &part->keys[p->index]));
        part->n_keys++;
    }
    p->stage = NULL;
    return HEARTH_OK;
}

// ---------------------------------------------------------------- tensors

static enum hearth_status take_type(struct parser *p, struct ht_gguf_tensor *tensor)
{
    uint32_t number;
    HT_TRY(take_u32(p, &number));
    const struct ht_type_info *info = ht_type_known(number);
    if (!info)
        return reject(p, HEARTH_UNSUPPORTED, "type number %u is not known", number);
    if (!info->block_bytes || (!p->gguf->any_type && !ht_type_info((enum ht_type)number)))
        return reject(p, HEARTH_UNSUPPORTED, "type %s is not supported", info->name);
    tensor->type = (enum ht_type)number;
    return HEARTH_OK;
}

static enum hearth_status take_shape(struct parser *p, struct ht_gguf_tensor *tensor)
{
    HT_TRY(take_u32(p, &tensor->n_dims));
    if (tensor->n_dims < 1 || tensor->n_dims > HT_MAX_GGUF_DIMS)
        return reject(p, HEARTH_FORMAT, "%u dimensions, 1 to %d are allowed", tensor->n_dims,
                      HT_MAX_GGUF_DIMS);
    tensor->n_values = 1;
    for (unsigned i = 0; i < HT_MAX_GGUF_DIMS; i++) {
        uint64_t *ne = &tensor->ne[i];
        *ne = 1;
        if (i < tensor->n_dims)
            HT_TRY(take_u64(p, ne));
        if (!*ne)
            return reject(p, HEARTH_FORMAT, "dimension %u is 0", i);
        if (__builtin_mul_overflow(tensor->n_values, *ne, &tensor->n_values) || tensor->n_values > INT64_MAX)
            return reject(p, HEARTH_FORMAT, "the product of its dimensions overflows");
    }
    return HEARTH_OK;
}

static enum hearth_status take_tensor(struct parser *p, struct ht_gguf_tensor_entry *entry)
{
    struct ht_gguf_tensor *tensor = &entry->tensor;
    HT_TRY(take_name(p, HT_MAX_GGUF_NAME_BYTES, &entry->name_at));
    HT_TRY(take_shape(p, tensor));
    p->data[p->name_at + p->name_len] = 0; // the first byte of n_dims
    HT_TRY(take_type(p, tensor));
    const struct ht_type_info *info = ht_type_known(tensor->type);
    if (tensor->ne[0] % info->block_values)
        return reject(p, HEARTH_FORMAT, "rows of %llu values are not whole %s blocks of %u",
                      (unsigned long long)tensor->ne[0], info->name, info->block_values);
    if (!ht_row_bytes(tensor->type, tensor->ne[0], &tensor->row_bytes) ||
        __builtin_mul_overflow(tensor->row_bytes, tensor->n_values / tensor->ne[0], &tensor->size_bytes))
        return reject(p, HEARTH_FORMAT, "its size in bytes overflows");
    HT_TRY(take_u64(p, &tensor->offset));
    if (tensor->offset % p->part->alignment)
        return reject(p, HEARTH_FORMAT, "its offset %llu is not a multiple of %u",
                      (unsigned long long)tensor->offset, p->part->alignment);
    return HEARTH_OK;
}

static enum hearth_status take_tensors(struct parser *p, uint64_t count)
{
    struct ht_gguf *gguf = p->gguf;
    if (count > left(p) / MIN_TENSOR_BYTES)
        return reject(p, HEARTH_FORMAT, "%llu tensors claimed, but the file has %llu bytes left",
                      (unsigned long long)count, (unsigned long long)left(p));
    if (count > HT_MAX_GGUF_TENSORS || gguf->n_tensors + count > HT_MAX_GGUF_TENSORS)
        return reject(p, HEARTH_LIMIT, "%llu tensors, at most %d are allowed in a model",
                      (unsigned long long)count, HT_MAX_GGUF_TENSORS);
    p->part->first_tensor = gguf->n_tensors;
    p->part->n_tensors = (size_t)count;
    if (!count)
        return HEARTH_OK;
    void *tensors = gguf->tensors;
    if (!ht_grow(&tensors, gguf->n_tensors, gguf->n_tensors + (size_t)count, sizeof gguf->tensors[0]))
        return reject(p, HEARTH_NOMEM, "out of memory for %llu tensors", (unsigned long long)count);
    gguf->tensors = tensors;
    p->stage = "tensor";
    p->count = count;
    for (p->index = 0; p->index < count; p->index++) {
        struct ht_gguf_tensor_entry *entry = &gguf->tensors[gguf->n_tensors + p->index];
        p->name_len = 0;
        entry->tensor.part = (uint32_t)(p->part - gguf->parts);
        HT_TRY(take_tensor(p, entry));
    }
    gguf->n_tensors += (size_t)count;
    p->stage = NULL;
    return HEARTH_OK;
}

static int compare_offsets(const void *context, uint32_t a, uint32_t b)
{
    const struct ht_gguf_tensor_entry *tensors = context;
    uint64_t x = tensors[a].tensor.offset, y = tensors[b].tensor.offset;
    return x < y ? -1 : x > y;
}

// Turns the offsets into places in the file; all data lies inside it and apart.
static enum hearth_status place_tensors(struct parser *p)
{
    struct ht_gguf_part *part = p->part;
    const char *file = ht_shown_path(part->path);
    uint64_t mask = part->alignment - 1;
    part->data_start = (p->pos + mask) & ~mask; // pos <= file size < 2^63
    if (!part->n_tensors)
        return HEARTH_OK;
    struct ht_gguf_tensor_entry *tensors = p->gguf->tensors + part->first_tensor;
    for (size_t i = 0; i < part->n_tensors; i++) {
        struct ht_gguf_tensor *tensor = &tensors[i].tensor;
        uint64_t end;
        if (__builtin_add_overflow(tensor->offset, part->data_start, &tensor->offset) ||
            __builtin_add_overflow(tensor->offset, tensor->size_bytes, &end) || end > p->file_bytes)
            return ht_fail(p->err, HEARTH_FORMAT,
                           "%s: tensor %s: %llu bytes at %llu reach beyond the end of the file at %llu", file,
                           tensor->name, (unsigned long long)tensor->size_bytes,
                           (unsigned long long)tensor->offset, (unsigned long long)p->file_bytes);
    }
    uint32_t *order = ht_calloc(part->n_tensors, sizeof *order);
    if (!order)
        return reject(p, HEARTH_NOMEM, "out of memory");
    for (size_t i = 0; i < part->n_tensors; i++)
        order[i] = (uint32_t)i;
    ht_gguf_sort(order, part->n_tensors, compare_offsets, tensors);
    enum hearth_status status = HEARTH_OK;
    for (size_t i = 1; i < part->n_tensors && status == HEARTH_OK; i++) {
        const struct ht_gguf_tensor *a = &tensors[order[i - 1]].tensor, *b = &tensors[order[i]].tensor;
        if (a->offset + a->size_bytes > b->offset)
            status =
                ht_fail(p->err, HEARTH_FORMAT, "%s: tensor %s overlaps tensor %.64s", file, b->name, a->name);
    }
    ht_free(order);
    return status;
}

// ---------------------------------------------------------------- the whole

static enum hearth_status take_head(struct parser *p, uint64_t *n_tensors, uint64_t *n_keys)
{
    uint32_t version;
    if (!p->file_bytes)
        return reject(p, HEARTH_FORMAT, "the file is empty");
    HT_TRY(need(p, p->file_bytes < 4 ? p->file_bytes : 4));
    if (p->file_bytes < 4 || memcmp(p->data, "GGUF", 4))
        return reject(p, HEARTH_FORMAT, "not a GGUF file");
    p->pos = 4;
    HT_TRY(take_u32(p, &version));
    if (version && !(version & 0xFFFF))
        return reject(p, HEARTH_UNSUPPORTED, "a big-endian GGUF file, only little-endian ones are supported");
    if (version != 2 && version != 3) // 2 differs from 3 only in that it had no big-endian form
        return reject(p, HEARTH_UNSUPPORTED, "GGUF version %u, only 2 and 3 are supported", version);
    p->part->version = version;
    HT_TRY(take_u64(p, n_tensors));
    return take_u64(p, n_keys);
}

static enum hearth_status find_alignment(struct parser *p)
{
    p->part->alignment = DEFAULT_ALIGNMENT;
    for (size_t i = 0; i < p->part->n_keys; i++) {
        struct ht_gguf_key_entry *entry = &p->part->keys[i];
        struct ht_gguf_key key = entry->key;
        if (strcmp((const char *)p->data + entry->name_at, "general.alignment"))
            continue;
        key.array.data = p->data + entry->data_at;
        bool negative;
        uint64_t alignment;
        const char *file = ht_shown_path(p->part->path);
        if (!ht_gguf_key_integer(&key, &negative, &alignment))
            return ht_fail(p->err, HEARTH_FORMAT, "%s: key general.alignment is not a whole number", file);
        if (negative || alignment < MIN_ALIGNMENT || alignment > UINT32_MAX || alignment & (alignment - 1))
            return ht_fail(p->err, HEARTH_FORMAT,
                           "%s: key general.alignment: %s%llu is not a power of two of at least %d", file,
                           negative ? "-" : "", (unsigned long long)alignment, MIN_ALIGNMENT);
        p->part->alignment = (uint32_t)alignment;
        entry->used = true;
    }
    return HEARTH_OK;
}

static int compare_keys(const void *context, uint32_t a, uint32_t b)
{
    const struct ht_gguf_key_entry *keys = context;
    return strcmp(keys[a].key.name, keys[b].key.name);
}

static enum hearth_status order_keys(struct parser *p)
{
    struct ht_gguf_part *part = p->part;
    for (size_t i = 0; i < part->n_keys; i++)
        part->key_order[i] = (uint32_t)i;
    ht_gguf_sort(part->key_order, part->n_keys, compare_keys, part->keys);
    for (size_t i = 1; i < part->n_keys; i++)
        if (!compare_keys(part->keys, part->key_order[i - 1], part->key_order[i]))
            return ht_fail(p->err, HEARTH_FORMAT, "%s: key %.64s stands there twice",
                           ht_shown_path(part->path), part->keys[part->key_order[i]].key.name);
    return HEARTH_OK;
}

// Cuts the buffer to the header and makes the tables point into it.
static enum hearth_status settle(struct parser *p)
{
    struct ht_gguf_part *part = p->part;
    unsigned char *header = ht_calloc(p->pos + 1, 1);
    if (!header)
        return reject(p, HEARTH_NOMEM, "out of memory");
    memcpy(header, p->data, p->pos);
    ht_free(p->data);
    p->data = NULL;
    part->header = header;
    part->header_bytes = p->pos;
    for (size_t i = 0; i < part->n_keys; i++) {
        struct ht_gguf_key_entry *entry = &part->keys[i];
        entry->key.name = (const char *)header + entry->name_at;
        entry->key.array.data = header + entry->data_at;
        if (entry->key.kind == HT_GGUF_STRING)
            header[entry->data_at + entry->key.array.size_bytes] = 0; // the first byte of what follows
    }
    for (size_t i = 0; i < part->n_tensors; i++) {
        struct ht_gguf_tensor_entry *entry = &p->gguf->tensors[part->first_tensor + i];
        entry->tensor.name = (const char *)header + entry->name_at;
    }
    return HEARTH_OK;
}

static enum hearth_status parse(struct parser *p)
{
    uint64_t n_tensors, n_keys;
    HT_TRY(take_head(p, &n_tensors, &n_keys));
    HT_TRY(take_keys(p, n_keys));
    HT_TRY(find_alignment(p));
    HT_TRY(take_tensors(p, n_tensors));
    HT_TRY(settle(p));
    HT_TRY(order_keys(p));
    return place_tensors(p);
}

enum hearth_status ht_gguf_parse(struct ht_gguf *gguf, unsigned index, struct hearth_error *err)
{
    struct parser p = {.gguf = gguf, .part = &gguf->parts[index], .err = err};
    p.file_bytes = ht_file_size(p.part->file);
    enum hearth_status status = parse(&p);
    ht_free(p.data);
    return status;
}
