// SPDX-License-Identifier: Apache-2.0
// hearth_gguf_inspect: what a GGUF file holds, as JSON or as text. Any thread, one at a time per call.
//
// Names and strings come from the file: they leave here escaped, so that neither a JSON reader nor a terminal
// can be fooled by them. Bytes that are not UTF-8 become U+FFFD.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/utf8.h"
#include "engine/engine.h"
#include "engine/gguf/gguf.h"

enum {
    JSON_WHOLE_ARRAY = 64,   // longer arrays are abbreviated
    FIRST_VALUES = 8,        // to these
    TEXT_STRING_BYTES = 100, // shown of a string in text
};

struct out {
    bool (*write)(void *user, const char *text, size_t len_bytes);
    void *user;
    bool json, stopped;
    size_t used;
    char buffer[4096];
};

static void flush(struct out *out)
{
    if (out->used && !out->stopped && !out->write(out->user, out->buffer, out->used))
        out->stopped = true;
    out->used = 0;
}

static void put(struct out *out, const char *text, size_t len)
{
    while (len) {
        size_t room = sizeof out->buffer - out->used, n = len < room ? len : room;
        memcpy(out->buffer + out->used, text, n);
        out->used += n;
        text += n;
        len -= n;
        if (out->used == sizeof out->buffer)
            flush(out);
    }
}

static void put_text(struct out *out, const char *text)
{
    put(out, text, strlen(text));
}

// Numbers and short words of our own; never a name from the file.
__attribute__((format(printf, 2, 3))) static void putf(struct out *out, const char *format, ...)
{
    char text[128];
    va_list args;
    va_start(args, format);
    int len = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (len > 0)
        put(out, text, (size_t)len < sizeof text ? (size_t)len : sizeof text - 1);
}

static void put_escaped(struct out *out, const char *text, size_t len)
{
    for (size_t i = 0, n; i < len; i += n ? n : 1) {
        unsigned char c = (unsigned char)text[i];
        n = ht_utf8_char(text + i, len - i);
        if (!n)
            put_text(out, "\xEF\xBF\xBD");
        else if (c == '"' || c == '\\')
            putf(out, "\\%c", c);
        else if (c == '\n')
            put_text(out, "\\n");
        else if (c == '\t')
            put_text(out, "\\t");
        else if (c < 0x20 || c == 0x7F)
            putf(out, "\\u%04x", c);
        else if (c == 0xC2 && (unsigned char)text[i + 1] < 0xA0)
            putf(out, "\\u%04x", (unsigned char)text[i + 1]);
        else
            put(out, text + i, n);
    }
}

static void put_name(struct out *out, const char *name)
{
    put_escaped(out, name, strlen(name));
}

static void put_string(struct out *out, const struct ht_gguf_str *string)
{
    size_t len = string->len_bytes;
    bool cut = !out->json && len > TEXT_STRING_BYTES;
    if (cut)
        for (len = TEXT_STRING_BYTES; len && ((unsigned char)string->text[len] & 0xC0) == 0x80;)
            len--; // to the beginning of a character
    put_text(out, "\"");
    put_escaped(out, string->text, len);
    put_text(out, "\"");
    if (cut)
        putf(out, " ... (%zu bytes)", string->len_bytes);
}

static void put_float(struct out *out, float value)
{
    char text[32];
    if (!isfinite(value)) {
        put_text(out, "null");
        return;
    }
    int len = 0;
    for (int digits = 6; digits <= 9; digits++) { // the fewest that give the same float back
        len = snprintf(text, sizeof text, "%.*g", digits, (double)value);
        if (strtof(text, NULL) == value)
            break;
    }
    for (int i = 0; i < len; i++)
        if (text[i] == ',') // the program around us may have set a locale
            text[i] = '.';
    put(out, text, (size_t)len);
}

// Element i; strings are taken off the array, in order.
static void put_element(struct out *out, struct ht_gguf_array *array, uint64_t i)
{
    struct ht_gguf_str string;
    switch (array->kind) {
    case HT_GGUF_STRING:
        if (ht_gguf_array_next(array, &string))
            put_string(out, &string);
        break;
    case HT_GGUF_BOOL: putf(out, "%s", ht_gguf_array_i64(array, i) ? "true" : "false"); break;
    case HT_GGUF_F32:
    case HT_GGUF_F64: put_float(out, ht_gguf_array_f32(array, i)); break;
    default: putf(out, "%lld", (long long)ht_gguf_array_i64(array, i));
    }
}

static void put_elements(struct out *out, const struct ht_gguf_array *array, uint64_t n)
{
    struct ht_gguf_array rest = *array;
    for (uint64_t i = 0; i < n && !out->stopped; i++) {
        if (i)
            put_text(out, ", ");
        put_element(out, &rest, i);
    }
}

static void put_value(struct out *out, const struct ht_gguf_key *key)
{
    const struct ht_gguf_array *array = &key->array;
    uint64_t whole = out->json ? JSON_WHOLE_ARRAY : FIRST_VALUES;
    if (key->kind != HT_GGUF_ARRAY) {
        put_elements(out, array, 1);
    } else if (array->count <= whole) {
        put_text(out, "[");
        put_elements(out, array, array->count);
        put_text(out, "]");
    } else if (out->json) {
        putf(out, "{\"count\": %llu, \"first\": [", (unsigned long long)array->count);
        put_elements(out, array, FIRST_VALUES);
        put_text(out, "]}");
    } else {
        put_text(out, "[");
        put_elements(out, array, FIRST_VALUES);
        putf(out, ", ...] (%llu values)", (unsigned long long)array->count);
    }
}

struct totals {
    uint64_t tensors[64], values[64], bytes[64]; // by type number
    uint64_t n_params, n_bytes;
};

static void add_up(const struct ht_gguf *gguf, struct totals *totals)
{
    memset(totals, 0, sizeof *totals);
    for (size_t i = 0; i < ht_gguf_n_tensors(gguf); i++) {
        const struct ht_gguf_tensor *tensor = ht_gguf_tensor_at(gguf, i);
        totals->tensors[tensor->type]++;
        totals->values[tensor->type] += tensor->n_values;
        totals->bytes[tensor->type] += tensor->size_bytes;
        totals->n_params += tensor->n_values;
        totals->n_bytes += tensor->size_bytes;
    }
}

// ---------------------------------------------------------------- JSON

static void json_head(struct out *out, const struct ht_gguf *gguf, const struct totals *totals)
{
    put_text(out, "{\n\"file\": \"");
    put_name(out, ht_gguf_path(gguf));
    putf(out, "\",\n\"version\": %u,\n\"alignment\": %u,\n", ht_gguf_version(gguf), ht_gguf_alignment(gguf));
    putf(out, "\"file_bytes\": %llu,\n", (unsigned long long)ht_gguf_file_bytes(gguf));
    putf(out, "\"n_params\": %llu,\n\"n_tensors\": %zu,\n", (unsigned long long)totals->n_params,
         ht_gguf_n_tensors(gguf));
    putf(out, "\"tensor_bytes\": %llu,\n\"parts\": [", (unsigned long long)totals->n_bytes);
    for (unsigned i = 0; i < ht_gguf_n_parts(gguf); i++) {
        putf(out, "%s{\"path\": \"", i ? ", " : "");
        put_name(out, ht_gguf_part_path(gguf, i));
        putf(out, "\", \"bytes\": %llu}", (unsigned long long)ht_gguf_part_bytes(gguf, i));
    }
    put_text(out, "],\n\"types\": {");
    const char *comma = "";
    for (uint32_t type = 0; ht_type_known(type); type++)
        if (totals->tensors[type]) {
            putf(out, "%s\"%s\": {\"tensors\": %llu, ", comma, ht_type_known(type)->name,
                 (unsigned long long)totals->tensors[type]);
            putf(out, "\"values\": %llu, \"bytes\": %llu}", (unsigned long long)totals->values[type],
                 (unsigned long long)totals->bytes[type]);
            comma = ", ";
        }
    put_text(out, "},\n");
}

static void json_body(struct out *out, const struct ht_gguf *gguf)
{
    put_text(out, "\"keys\": {");
    for (size_t i = 0; i < ht_gguf_n_keys(gguf) && !out->stopped; i++) {
        const struct ht_gguf_key *key = ht_gguf_key_at(gguf, i);
        putf(out, "%s\n  \"", i ? "," : "");
        put_name(out, key->name);
        putf(out, "\": {\"type\": \"%s%s\", \"value\": ", key->kind == HT_GGUF_ARRAY ? "array of " : "",
             ht_gguf_kind_name(key->array.kind));
        put_value(out, key);
        put_text(out, "}");
    }
    put_text(out, "\n},\n\"tensors\": [");
    for (size_t i = 0; i < ht_gguf_n_tensors(gguf) && !out->stopped; i++) {
        const struct ht_gguf_tensor *tensor = ht_gguf_tensor_at(gguf, i);
        putf(out, "%s\n  {\"name\": \"", i ? "," : "");
        put_name(out, tensor->name);
        putf(out, "\", \"type\": \"%s\", \"shape\": [", ht_type_known(tensor->type)->name);
        for (unsigned d = 0; d < tensor->n_dims; d++)
            putf(out, "%s%llu", d ? ", " : "", (unsigned long long)tensor->ne[d]);
        putf(out, "], \"bytes\": %llu, \"offset\": %llu, \"part\": %u}",
             (unsigned long long)tensor->size_bytes, (unsigned long long)tensor->offset, tensor->part);
    }
    put_text(out, "\n]\n}\n");
}

// ---------------------------------------------------------------- text

static void pad(struct out *out, size_t used, size_t width)
{
    do
        put_text(out, " ");
    while (++used < width);
}

static void text_body(struct out *out, const struct ht_gguf *gguf, const struct totals *totals)
{
    put_name(out, ht_gguf_path(gguf));
    putf(out, ": GGUF version %u, %u part%s, %llu bytes\n", ht_gguf_version(gguf), ht_gguf_n_parts(gguf),
         ht_gguf_n_parts(gguf) == 1 ? "" : "s", (unsigned long long)ht_gguf_file_bytes(gguf));
    putf(out, "\n%zu keys\n", ht_gguf_n_keys(gguf));
    for (size_t i = 0; i < ht_gguf_n_keys(gguf) && !out->stopped; i++) {
        const struct ht_gguf_key *key = ht_gguf_key_at(gguf, i);
        put_text(out, "  ");
        put_name(out, key->name);
        pad(out, strlen(key->name), 44);
        put_value(out, key);
        put_text(out, "\n");
    }
    putf(out, "\n%zu tensors\n", ht_gguf_n_tensors(gguf));
    for (size_t i = 0; i < ht_gguf_n_tensors(gguf) && !out->stopped; i++) {
        const struct ht_gguf_tensor *tensor = ht_gguf_tensor_at(gguf, i);
        put_text(out, "  ");
        put_name(out, tensor->name);
        pad(out, strlen(tensor->name), 44);
        putf(out, "%-8s", ht_type_known(tensor->type)->name);
        for (unsigned d = 0; d < tensor->n_dims; d++)
            putf(out, "%s%llu", d ? " x " : "", (unsigned long long)tensor->ne[d]);
        putf(out, ", %llu bytes at %llu", (unsigned long long)tensor->size_bytes,
             (unsigned long long)tensor->offset);
        if (ht_gguf_n_parts(gguf) > 1)
            putf(out, " of part %u", tensor->part + 1);
        put_text(out, "\n");
    }
    put_text(out, "\n");
    for (uint32_t type = 0; ht_type_known(type); type++)
        if (totals->tensors[type])
            putf(out, "%-8s %6llu tensors %14llu values %14llu bytes\n", ht_type_known(type)->name,
                 (unsigned long long)totals->tensors[type], (unsigned long long)totals->values[type],
                 (unsigned long long)totals->bytes[type]);
    putf(out, "%llu parameters, %llu bytes of weights\n", (unsigned long long)totals->n_params,
         (unsigned long long)totals->n_bytes);
}

enum hearth_status hearth_gguf_inspect(const char *path, bool json,
                                       bool (*write)(void *user, const char *text, size_t len_bytes),
                                       void *user, struct hearth_error *err)
{
    if (!path || !write)
        return ht_fail(err, HEARTH_INVALID, "hearth_gguf_inspect: a path and a writer are needed");
    struct ht_gguf *gguf;
    HT_TRY(ht_gguf_open_any(&gguf, path, err));
    struct out out = {.write = write, .user = user, .json = json};
    struct totals totals;
    add_up(gguf, &totals);
    if (json) {
        json_head(&out, gguf, &totals);
        json_body(&out, gguf);
    } else {
        text_body(&out, gguf, &totals);
    }
    flush(&out);
    ht_gguf_close(&gguf);
    return out.stopped ? ht_fail(err, HEARTH_CANCELED, "the writer stopped") : HEARTH_OK;
}
