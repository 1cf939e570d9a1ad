// SPDX-License-Identifier: Apache-2.0
// The GGUF writer: two growing buffers (keys, tensor table), then a stream of tensor data. One thread.
#include "engine/gguf/writer.h"

#include <string.h>

#include "engine/base/half.h"
#include "engine/base/io.h"
#include "engine/base/mem.h"

enum { PLAIN_ALIGNMENT = 32, VERSION = 3 };

struct bytes {
    void *data;
    size_t len, capacity;
};

struct ht_gguf_writer {
    struct ht_file *file;
    struct bytes keys, table, sizes; // sizes: uint64_t of each tensor
    uint64_t n_keys, n_tensors, alignment;
    uint64_t data_bytes; // announced so far, padding between tensors included
    bool streaming;      // the header is written
    size_t current;      // tensor that data goes to
    uint64_t current_left;
    struct hearth_error failed; // code OK = none
};

// ---------------------------------------------------------------- buffers

static void append(struct ht_gguf_writer *w, struct bytes *to, const void *data, size_t len)
{
    if (w->failed.code != HEARTH_OK)
        return;
    size_t want, capacity = to->capacity ? to->capacity : 4096;
    bool fits = ht_add(to->len, len, &want);
    while (fits && capacity < want)
        fits = ht_mul(capacity, 2, &capacity);
    if (!fits || (capacity > to->capacity && !ht_grow(&to->data, to->len, capacity, 1))) {
        ht_fail(&w->failed, HEARTH_NOMEM, "%s: out of memory for the header",
                ht_shown_path(ht_file_path(w->file)));
        return;
    }
    to->capacity = capacity;
    if (len)
        memcpy((unsigned char *)to->data + to->len, data, len);
    to->len = want;
}

static void append_number(struct ht_gguf_writer *w, struct bytes *to, uint64_t value, size_t size_bytes)
{
    unsigned char little[8];
    for (size_t i = 0; i < 8; i++)
        little[i] = (unsigned char)(value >> (8 * i));
    append(w, to, little, size_bytes);
}

static void append_string(struct ht_gguf_writer *w, struct bytes *to, const char *text, size_t len)
{
    append_number(w, to, len, 8);
    append(w, to, text, len);
}

// ---------------------------------------------------------------- keys

static void begin_key(struct ht_gguf_writer *w, const char *key, enum ht_gguf_kind kind)
{
    if (w->streaming && w->failed.code == HEARTH_OK)
        ht_fail(&w->failed, HEARTH_INVALID, "a key after the data began");
    append_string(w, &w->keys, key, strlen(key));
    append_number(w, &w->keys, kind, 4);
    w->n_keys++;
}

static void begin_array(struct ht_gguf_writer *w, const char *key, enum ht_gguf_kind kind, uint64_t n)
{
    begin_key(w, key, HT_GGUF_ARRAY);
    append_number(w, &w->keys, kind, 4);
    append_number(w, &w->keys, n, 8);
}

void ht_gguf_writer_u32(struct ht_gguf_writer *writer, const char *key, uint32_t value)
{
    begin_key(writer, key, HT_GGUF_U32);
    append_number(writer, &writer->keys, value, 4);
}

void ht_gguf_writer_u64(struct ht_gguf_writer *writer, const char *key, uint64_t value)
{
    begin_key(writer, key, HT_GGUF_U64);
    append_number(writer, &writer->keys, value, 8);
}

void ht_gguf_writer_f32(struct ht_gguf_writer *writer, const char *key, float value)
{
    begin_key(writer, key, HT_GGUF_F32);
    append_number(writer, &writer->keys, ht_f32_bits(value), 4);
}

void ht_gguf_writer_bool(struct ht_gguf_writer *writer, const char *key, bool value)
{
    begin_key(writer, key, HT_GGUF_BOOL);
    append_number(writer, &writer->keys, value, 1);
}

void ht_gguf_writer_str(struct ht_gguf_writer *writer, const char *key, const char *text, size_t len_bytes)
{
    begin_key(writer, key, HT_GGUF_STRING);
    append_string(writer, &writer->keys, text, len_bytes);
}

void ht_gguf_writer_strings(struct ht_gguf_writer *writer, const char *key, const struct ht_gguf_str *strings,
                            size_t n)
{
    begin_array(writer, key, HT_GGUF_STRING, n);
    for (size_t i = 0; i < n; i++)
        append_string(writer, &writer->keys, strings[i].text, strings[i].len_bytes);
}

void ht_gguf_writer_i32s(struct ht_gguf_writer *writer, const char *key, const int32_t *values, size_t n)
{
    begin_array(writer, key, HT_GGUF_I32, n);
    for (size_t i = 0; i < n; i++)
        append_number(writer, &writer->keys, (uint32_t)values[i], 4);
}

void ht_gguf_writer_f32s(struct ht_gguf_writer *writer, const char *key, const float *values, size_t n)
{
    begin_array(writer, key, HT_GGUF_F32, n);
    for (size_t i = 0; i < n; i++)
        append_number(writer, &writer->keys, ht_f32_bits(values[i]), 4);
}

void ht_gguf_writer_key(struct ht_gguf_writer *writer, const struct ht_gguf_key *key)
{
    if (key->kind == HT_GGUF_ARRAY)
        begin_array(writer, key->name, key->array.kind, key->array.count);
    else
        begin_key(writer, key->name, key->kind);
    append(writer, &writer->keys, key->array.data, key->array.size_bytes);
}

// ---------------------------------------------------------------- tensors

static uint64_t aligned(const struct ht_gguf_writer *w, uint64_t offset)
{
    return (offset + w->alignment - 1) & ~(w->alignment - 1);
}

void ht_gguf_writer_tensor(struct ht_gguf_writer *writer, const char *name, enum ht_type type,
                           unsigned n_dims, const uint64_t *ne)
{
    uint64_t row = 0, size = 0, rows = 1;
    bool known = n_dims >= 1 && ht_row_bytes(type, ne[0], &row);
    for (unsigned i = 1; i < n_dims && known; i++)
        known = !__builtin_mul_overflow(rows, ne[i], &rows);
    known = known && !__builtin_mul_overflow(row, rows, &size) && size && size < (uint64_t)1 << 62;
    if ((!known || writer->streaming) && writer->failed.code == HEARTH_OK)
        ht_fail(&writer->failed, HEARTH_INVALID, "tensor %.64s: %s", name,
                known ? "announced after the data began" : "its type and shape have no size");
    append_string(writer, &writer->table, name, strlen(name));
    append_number(writer, &writer->table, n_dims, 4);
    for (unsigned i = 0; i < n_dims; i++)
        append_number(writer, &writer->table, ne[i], 8);
    append_number(writer, &writer->table, type, 4);
    writer->data_bytes = aligned(writer, writer->data_bytes);
    append_number(writer, &writer->table, writer->data_bytes, 8);
    writer->data_bytes += size;
    append(writer, &writer->sizes, &size, sizeof size);
    writer->n_tensors++;
}

static uint64_t tensor_size(const struct ht_gguf_writer *w, size_t index)
{
    uint64_t size;
    memcpy(&size, (const unsigned char *)w->sizes.data + index * sizeof size, sizeof size);
    return size;
}

static enum hearth_status pad_file(struct ht_gguf_writer *w, struct hearth_error *err)
{
    static const unsigned char zeros[64];
    uint64_t at = ht_file_size(w->file), left = aligned(w, at) - at;
    while (left) {
        size_t n = left < sizeof zeros ? (size_t)left : sizeof zeros;
        HT_TRY(ht_file_write(w->file, zeros, n, err));
        left -= n;
    }
    return HEARTH_OK;
}

static enum hearth_status write_header(struct ht_gguf_writer *w, struct hearth_error *err)
{
    if (w->failed.code != HEARTH_OK)
        return ht_fail(err, w->failed.code, "%s", w->failed.text);
    if (w->streaming)
        return HEARTH_OK;
    struct bytes head = {0};
    append(w, &head, "GGUF", 4);
    append_number(w, &head, VERSION, 4);
    append_number(w, &head, w->n_tensors, 8);
    append_number(w, &head, w->n_keys, 8);
    enum hearth_status status = w->failed.code;
    if (status != HEARTH_OK)
        ht_fail(err, status, "%s", w->failed.text);
    else
        status = ht_file_write(w->file, head.data, head.len, err);
    ht_free(head.data);
    HT_TRY(status);
    HT_TRY(ht_file_write(w->file, w->keys.data, w->keys.len, err));
    HT_TRY(ht_file_write(w->file, w->table.data, w->table.len, err));
    w->streaming = true;
    w->current_left = w->n_tensors ? tensor_size(w, 0) : 0;
    return w->n_tensors ? pad_file(w, err) : HEARTH_OK;
}

enum hearth_status ht_gguf_writer_data(struct ht_gguf_writer *writer, const void *data, size_t len_bytes,
                                       struct hearth_error *err)
{
    const unsigned char *from = data;
    HT_TRY(write_header(writer, err));
    while (len_bytes) {
        if (writer->current >= writer->n_tensors)
            return ht_fail(err, HEARTH_INVALID, "%s: more data than its tensors hold",
                           ht_shown_path(ht_file_path(writer->file)));
        size_t n = len_bytes < writer->current_left ? len_bytes : (size_t)writer->current_left;
        HT_TRY(ht_file_write(writer->file, from, n, err));
        from += n;
        len_bytes -= n;
        writer->current_left -= n;
        if (!writer->current_left && ++writer->current < writer->n_tensors) {
            HT_TRY(pad_file(writer, err));
            writer->current_left = tensor_size(writer, writer->current);
        }
    }
    return HEARTH_OK;
}

// ---------------------------------------------------------------- begin and end

enum hearth_status ht_gguf_writer_begin(struct ht_gguf_writer **writer, const char *path, uint32_t alignment,
                                        struct hearth_error *err)
{
    *writer = NULL;
    if (!alignment || alignment & (alignment - 1))
        return ht_fail(err, HEARTH_INVALID, "alignment %u is not a power of two", alignment);
    struct ht_gguf_writer *w = ht_calloc(1, sizeof *w);
    if (!w)
        return ht_fail(err, HEARTH_NOMEM, "%s: out of memory", ht_shown_path(path));
    enum hearth_status status = ht_file_create(&w->file, path, err);
    if (status != HEARTH_OK) {
        ht_free(w);
        return status;
    }
    w->alignment = alignment;
    if (alignment != PLAIN_ALIGNMENT)
        ht_gguf_writer_u32(w, "general.alignment", alignment);
    *writer = w;
    return HEARTH_OK;
}

void ht_gguf_writer_discard(struct ht_gguf_writer **writer)
{
    struct ht_gguf_writer *w = *writer;
    *writer = NULL;
    if (!w)
        return;
    ht_file_close(&w->file);
    ht_free(w->keys.data);
    ht_free(w->table.data);
    ht_free(w->sizes.data);
    ht_free(w);
}

enum hearth_status ht_gguf_writer_finish(struct ht_gguf_writer **writer, struct hearth_error *err)
{
    struct ht_gguf_writer *w = *writer;
    enum hearth_status status = write_header(w, err);
    if (status == HEARTH_OK && w->current < w->n_tensors)
        status =
            ht_fail(err, HEARTH_INVALID, "%s: the data of %llu tensors is missing or short",
                    ht_shown_path(ht_file_path(w->file)), (unsigned long long)(w->n_tensors - w->current));
    if (status == HEARTH_OK)
        status = ht_file_commit(&w->file, err);
    ht_gguf_writer_discard(writer);
    return status;
}
