// SPDX-License-Identifier: Apache-2.0
// Typed access to the keys of a GGUF file. The loading thread.
#include <math.h>
#include <string.h>

#include "engine/base/half.h"
#include "engine/base/utf8.h"
#include "engine/gguf/gguf_impl.h"

size_t ht_gguf_kind_bytes(enum ht_gguf_kind kind)
{
    static const unsigned char bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return (unsigned)kind < sizeof bytes ? bytes[kind] : 0;
}

const char *ht_gguf_kind_name(enum ht_gguf_kind kind)
{
    static const char *const names[] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                        "bool", "string", "array", "u64", "i64", "f64"};
    return (unsigned)kind < sizeof names / sizeof names[0] ? names[kind] : "unknown";
}

// ---------------------------------------------------------------- the table

static struct ht_gguf_key_entry *find(const struct ht_gguf_part *part, const char *name)
{
    for (size_t low = 0, high = part->n_keys; low < high;) {
        size_t middle = low + (high - low) / 2;
        struct ht_gguf_key_entry *entry = &part->keys[part->key_order[middle]];
        int order = strcmp(name, entry->key.name);
        if (!order)
            return entry;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

const struct ht_gguf_key *ht_gguf_part_key(const struct ht_gguf_part *part, const char *name)
{
    struct ht_gguf_key_entry *entry = find(part, name);
    return entry ? &entry->key : NULL;
}

size_t ht_gguf_n_keys(const struct ht_gguf *gguf)
{
    return gguf->parts[0].n_keys;
}

const struct ht_gguf_key *ht_gguf_key_at(const struct ht_gguf *gguf, size_t index)
{
    return index < gguf->parts[0].n_keys ? &gguf->parts[0].keys[index].key : NULL;
}

const struct ht_gguf_key *ht_gguf_find_key(const struct ht_gguf *gguf, const char *name)
{
    return ht_gguf_part_key(&gguf->parts[0], name);
}

void ht_gguf_use_key(const struct ht_gguf *gguf, const char *name)
{
    struct ht_gguf_key_entry *entry = find(&gguf->parts[0], name);
    if (entry)
        entry->used = true;
}

const char *ht_gguf_first_unused_key(const struct ht_gguf *gguf, const char *prefix)
{
    const struct ht_gguf_part *part = &gguf->parts[0];
    for (size_t i = 0; i < part->n_keys; i++)
        if (!part->keys[i].used && !strncmp(part->keys[i].key.name, prefix, strlen(prefix)))
            return part->keys[i].key.name;
    return NULL;
}

enum hearth_status ht_gguf_refuse_unused_keys(const struct ht_gguf *gguf, const char *prefix,
                                              struct hearth_error *err)
{
    const char *name = ht_gguf_first_unused_key(gguf, prefix);
    if (name)
        return ht_fail(err, HEARTH_UNSUPPORTED, "%s: key %.80s is not understood", ht_gguf_shown(gguf), name);
    return HEARTH_OK;
}

// ---------------------------------------------------------------- scalars

// Integer at p as sign and magnitude; false if the kind is none.
static bool load_integer(enum ht_gguf_kind kind, const unsigned char *p, bool *negative, uint64_t *magnitude)
{
    int64_t value;
    *negative = false;
    switch (kind) {
    case HT_GGUF_U8: *magnitude = p[0]; return true;
    case HT_GGUF_U16: *magnitude = (uint64_t)p[0] | (uint64_t)p[1] << 8; return true;
    case HT_GGUF_U32: *magnitude = ht_load_u32(p); return true;
    case HT_GGUF_U64: *magnitude = ht_load_u64(p); return true;
    case HT_GGUF_I8: value = (int8_t)p[0]; break;
    case HT_GGUF_I16: value = (int16_t)(p[0] | p[1] << 8); break;
    case HT_GGUF_I32: value = (int32_t)ht_load_u32(p); break;
    case HT_GGUF_I64: value = (int64_t)ht_load_u64(p); break;
    default: return false;
    }
    *negative = value < 0;
    *magnitude = value < 0 ? -(uint64_t)value : (uint64_t)value;
    return true;
}

static double load_float(enum ht_gguf_kind kind, const unsigned char *p)
{
    if (kind == HT_GGUF_F32)
        return ht_bits_f32(ht_load_u32(p));
    uint64_t bits = ht_load_u64(p);
    double value;
    memcpy(&value, &bits, 8);
    return value;
}

bool ht_gguf_key_integer(const struct ht_gguf_key *key, bool *negative, uint64_t *magnitude)
{
    return load_integer(key->kind, key->array.data, negative, magnitude);
}

// The entry of a key, or NOT_FOUND.
static enum hearth_status look_up(const struct ht_gguf *gguf, const char *name,
                                  struct ht_gguf_key_entry **entry, struct hearth_error *err)
{
    *entry = find(&gguf->parts[0], name);
    if (!*entry)
        return ht_fail(err, HEARTH_NOT_FOUND, "%s: key %s is missing", ht_gguf_shown(gguf), name);
    return HEARTH_OK;
}

static enum hearth_status wrong_kind(const struct ht_gguf *gguf, const struct ht_gguf_key *key,
                                     const char *wanted, struct hearth_error *err)
{
    if (key->kind == HT_GGUF_ARRAY)
        return ht_fail(err, HEARTH_FORMAT, "%s: key %s is an array of %s, %s is wanted", ht_gguf_shown(gguf),
                       key->name, ht_gguf_kind_name(key->array.kind), wanted);
    return ht_fail(err, HEARTH_FORMAT, "%s: key %s is of type %s, %s is wanted", ht_gguf_shown(gguf),
                   key->name, ht_gguf_kind_name(key->kind), wanted);
}

// A whole number in [-min_magnitude, max].
static enum hearth_status get_integer(const struct ht_gguf *gguf, const char *name, uint64_t min_magnitude,
                                      uint64_t max, bool *negative, uint64_t *magnitude,
                                      struct hearth_error *err)
{
    struct ht_gguf_key_entry *entry;
    HT_TRY(look_up(gguf, name, &entry, err));
    if (!ht_gguf_key_integer(&entry->key, negative, magnitude))
        return wrong_kind(gguf, &entry->key, "a whole number", err);
    if (*magnitude > (*negative ? min_magnitude : max))
        return ht_fail(err, HEARTH_FORMAT, "%s: key %s: %s%llu is out of range", ht_gguf_shown(gguf), name,
                       *negative ? "-" : "", (unsigned long long)*magnitude);
    entry->used = true;
    return HEARTH_OK;
}

enum hearth_status ht_gguf_get_u32(const struct ht_gguf *gguf, const char *key, uint32_t *value,
                                   struct hearth_error *err)
{
    bool negative;
    uint64_t magnitude;
    HT_TRY(get_integer(gguf, key, 0, UINT32_MAX, &negative, &magnitude, err));
    *value = (uint32_t)magnitude;
    return HEARTH_OK;
}

enum hearth_status ht_gguf_get_u64(const struct ht_gguf *gguf, const char *key, uint64_t *value,
                                   struct hearth_error *err)
{
    bool negative;
    uint64_t magnitude;
    HT_TRY(get_integer(gguf, key, 0, UINT64_MAX, &negative, &magnitude, err));
    *value = magnitude;
    return HEARTH_OK;
}

enum hearth_status ht_gguf_get_i64(const struct ht_gguf *gguf, const char *key, int64_t *value,
                                   struct hearth_error *err)
{
    bool negative;
    uint64_t magnitude;
    HT_TRY(get_integer(gguf, key, (uint64_t)1 << 63, INT64_MAX, &negative, &magnitude, err));
    *value = (int64_t)(negative ? -magnitude : magnitude);
    return HEARTH_OK;
}

enum hearth_status ht_gguf_get_f32(const struct ht_gguf *gguf, const char *key, float *value,
                                   struct hearth_error *err)
{
    struct ht_gguf_key_entry *entry;
    bool negative;
    uint64_t magnitude;
    float found;
    HT_TRY(look_up(gguf, key, &entry, err));
    if (ht_gguf_key_integer(&entry->key, &negative, &magnitude))
        found = negative ? -(float)magnitude : (float)magnitude;
    else if (entry->key.kind == HT_GGUF_F32 || entry->key.kind == HT_GGUF_F64)
        found = (float)load_float(entry->key.kind, entry->key.array.data);
    else
        return wrong_kind(gguf, &entry->key, "a number", err);
    if (!isfinite(found))
        return ht_fail(err, HEARTH_FORMAT, "%s: key %s is not a finite number", ht_gguf_shown(gguf), key);
    *value = found;
    entry->used = true;
    return HEARTH_OK;
}

enum hearth_status ht_gguf_get_bool(const struct ht_gguf *gguf, const char *key, bool *value,
                                    struct hearth_error *err)
{
    struct ht_gguf_key_entry *entry;
    HT_TRY(look_up(gguf, key, &entry, err));
    if (entry->key.kind != HT_GGUF_BOOL)
        return wrong_kind(gguf, &entry->key, "true or false", err);
    *value = entry->key.array.data[0];
    entry->used = true;
    return HEARTH_OK;
}

enum hearth_status ht_gguf_get_str(const struct ht_gguf *gguf, const char *key, const char **text,
                                   size_t *len_bytes, struct hearth_error *err)
{
    struct ht_gguf_key_entry *entry;
    HT_TRY(look_up(gguf, key, &entry, err));
    if (entry->key.kind != HT_GGUF_STRING)
        return wrong_kind(gguf, &entry->key, "a string", err);
    const char *found = (const char *)entry->key.array.data + 8; // behind its length
    size_t len = entry->key.array.size_bytes - 8;
    if (memchr(found, 0, len) || !ht_utf8_valid(found, len))
        return ht_fail(err, HEARTH_FORMAT, "%s: key %s is not well-formed UTF-8 text", ht_gguf_shown(gguf),
                       key);
    *text = found;
    if (len_bytes)
        *len_bytes = len;
    entry->used = true;
    return HEARTH_OK;
}

// ---------------------------------------------------------------- arrays

static bool kind_suits(enum ht_gguf_kind kind, enum ht_gguf_kind wanted)
{
    if (wanted == HT_GGUF_F32)
        return kind == HT_GGUF_F32 || kind == HT_GGUF_F64;
    if (wanted == HT_GGUF_I64)
        return kind <= HT_GGUF_I32 || kind == HT_GGUF_U64 || kind == HT_GGUF_I64;
    return kind == wanted;
}

enum hearth_status ht_gguf_get_array(const struct ht_gguf *gguf, const char *key, enum ht_gguf_kind kind,
                                     struct ht_gguf_array *array, struct hearth_error *err)
{
    struct ht_gguf_key_entry *entry;
    HT_TRY(look_up(gguf, key, &entry, err));
    if (entry->key.kind != HT_GGUF_ARRAY || !kind_suits(entry->key.array.kind, kind)) {
        const char *wanted = kind == HT_GGUF_STRING ? "an array of strings"
                             : kind == HT_GGUF_BOOL ? "an array of true and false"
                             : kind == HT_GGUF_F32  ? "an array of float numbers"
                                                    : "an array of whole numbers";
        return wrong_kind(gguf, &entry->key, wanted, err);
    }
    *array = entry->key.array;
    entry->used = true;
    return HEARTH_OK;
}

int64_t ht_gguf_array_i64(const struct ht_gguf_array *array, uint64_t i)
{
    bool negative = false;
    uint64_t magnitude = 0;
    const unsigned char *p = array->data + (size_t)i * ht_gguf_kind_bytes(array->kind);
    if (array->kind == HT_GGUF_BOOL)
        return p[0];
    load_integer(array->kind, p, &negative, &magnitude);
    if (negative)
        return (int64_t)-magnitude;
    return magnitude > INT64_MAX ? INT64_MAX : (int64_t)magnitude;
}

float ht_gguf_array_f32(const struct ht_gguf_array *array, uint64_t i)
{
    return (float)load_float(array->kind, array->data + (size_t)i * ht_gguf_kind_bytes(array->kind));
}

bool ht_gguf_array_next(struct ht_gguf_array *array, struct ht_gguf_str *string)
{
    if (array->kind != HT_GGUF_STRING || !array->count)
        return false;
    size_t len = (size_t)ht_load_u64(array->data); // checked when the file was parsed
    string->text = (const char *)array->data + 8;
    string->len_bytes = len;
    array->data += 8 + len;
    array->size_bytes -= 8 + len;
    array->count--;
    return true;
}
