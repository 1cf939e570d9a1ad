// SPDX-License-Identifier: Apache-2.0
// Files of questions: JSON lines, an array, or objects one after the other; what cannot be used is counted by reason
// with its first line. One thread per file.
#include <errno.h>
#include <string.h>

#include "engine/base/io.h"
#include "engine/base/json_read.h"
#include "engine/learn/eval.h"

const char *const hearth_task_skip_names[HEARTH_TASK_SKIPS] = {
    [HT_TASK_NOT_JSON] = "not valid JSON",
    [HT_TASK_NOT_OBJECT] = "not an object",
    [HT_TASK_MISSING] = "a field is missing or of another kind",
    [HT_TASK_NO_SUCH] = "the answer is none of the choices",
    [HT_TASK_TOO_LONG] = "more tokens than the context",
    [HT_TASK_DAMAGED] = "half-written, too large or nested too deeply",
};

enum hearth_status ht_task_open(struct ht_task_file *file, const char *path, struct hearth_task_counts *counts,
                                struct hearth_error *err)
{
    *file = (struct ht_task_file){.counts = counts};
    HT_TRY(ht_data_stream_open(&file->stream, path, err));
    if (file->stream.mode != HT_DATA_TEXT)
        return HEARTH_OK;
    ht_data_stream_close(&file->stream);
    return ht_fail(err, HEARTH_FORMAT, "%s: is no JSON: objects are wanted, one a line or in an array",
                   ht_shown_path(path));
}

void ht_task_close(struct ht_task_file *file)
{
    ht_data_stream_close(&file->stream);
    ht_data_pool_free(&file->pool);
    json_decref(file->value);
    file->value = NULL;
}

void ht_task_skip(struct ht_task_file *file, enum ht_task_skip reason)
{
    if (!file->counts->skipped[reason]++)
        file->counts->first_line[reason] = file->line;
}

enum hearth_status ht_task_next(struct ht_task_file *file, const json_t **value, struct hearth_error *err)
{
    struct ht_data_item item;
    bool more = true;
    *value = NULL;
    ht_data_reset(&file->pool);
    json_decref(file->value);
    file->value = NULL;
    while (!*value) {
        HT_TRY(ht_data_stream_next(&file->stream, &item, &more, err));
        if (!more)
            return HEARTH_OK;
        file->line = item.line;
        if (item.unusable) {
            ht_task_skip(file, HT_TASK_DAMAGED);
            continue;
        }
        errno = 0;
        file->value = ht_json_read(item.text.bytes, item.text.len_bytes, JSON_DECODE_ANY, NULL);
        if (errno == ENOMEM)
            return ht_fail(err, HEARTH_NOMEM, "%s:%llu: no memory for this record",
                           ht_shown_path(ht_file_path(file->stream.file)), (unsigned long long)item.line);
        if (json_is_object(file->value)) {
            *value = file->value;
            return HEARTH_OK;
        }
        ht_task_skip(file, file->value ? HT_TASK_NOT_OBJECT : item.last ? HT_TASK_DAMAGED : HT_TASK_NOT_JSON);
        json_decref(file->value);
        file->value = NULL;
    }
    return HEARTH_OK;
}

double ht_task_done(const struct ht_task_file *file)
{
    uint64_t size = ht_file_size(file->stream.file), left = file->stream.end - file->stream.at;
    return size ? (double)(file->stream.offset - left) / (double)size : 1;
}

struct ht_text ht_task_field(const json_t *value, const char *const *keys)
{
    for (; *keys; keys++) {
        struct ht_text text = ht_data_field(value, *keys);
        if (text.bytes)
            return text;
    }
    return (struct ht_text){0};
}

const char *ht_task_string(struct ht_data_pool *pool, struct ht_text text)
{
    char *out = ht_data_take(pool, text.len_bytes + 1, 1);
    if (!out)
        return "";
    for (size_t i = 0; i < text.len_bytes; i++)
        out[i] = text.bytes[i] ? text.bytes[i] : ' ';
    return out;
}
