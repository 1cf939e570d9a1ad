// SPDX-License-Identifier: Apache-2.0
// Readers: a file's items become records of one form, format by format. One thread per reader.
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "engine/base/io.h"
#include "engine/base/json_read.h"
#include "engine/base/limits.h"
#include "engine/base/mem.h"
#include "engine/base/utf8.h"
#include "engine/learn/data.h"

enum { LOOKED_AT = 16 }; // items that detection may pass over

static bool has(const json_t *value, const char *key)
{
    return json_object_get(value, key) != NULL;
}

static bool has_objects(const json_t *value, const char *key)
{
    return json_is_object(json_array_get(json_object_get(value, key), 0));
}

enum hearth_data_format ht_data_detect(const json_t *v)
{
    if (json_is_object(json_object_get(v, "mapping")))
        return HEARTH_DATA_CHATGPT;
    if (json_is_object(json_object_get(v, "prompt")) || (has(v, "message_id") && has(v, "text")))
        return HEARTH_DATA_OASST;
    if (has(v, "chosen") || has(v, "rejected"))
        return HEARTH_DATA_PREFERENCE;
    if (has_objects(v, "messages") || json_is_object(json_object_get(v, "input")))
        return HEARTH_DATA_MESSAGES;
    if (has_objects(v, "turns"))
        return HEARTH_DATA_EXPORT;
    if (has_objects(v, "conversations"))
        return HEARTH_DATA_SHAREGPT;
    if (json_is_array(json_object_get(v, "dialog")))
        return HEARTH_DATA_DAILY;
    if (has(v, "topic") && has(v, "input"))
        return HEARTH_DATA_BAIZE;
    if (has(v, "instruction") && (has(v, "response") || has(v, "category")))
        return HEARTH_DATA_DOLLY;
    if ((has(v, "instruction") && (has(v, "output") || has(v, "instances"))) || has(v, "completion_a") ||
        (has(v, "input") && (has(v, "output") || has(v, "target"))) || (has(v, "question") && has(v, "answer")))
        return HEARTH_DATA_ALPACA;
    return json_is_string(json_object_get(v, "text")) ? HEARTH_DATA_TEXT : HEARTH_DATA_AUTO;
}

// ---------------------------------------------------------------- items

// The item's object; NULL: skipped and counted, or memory ran out (errno).
static json_t *parse_item(struct hearth_data_reader *r, const struct ht_data_item *item)
{
    json_error_t cause;
    r->line = item->line;
    r->item_bytes = item->text.len_bytes;
    if (item->unusable) {
        ht_data_skip(r, item->skip);
        return NULL;
    }
    json_t *value = ht_json_read(item->text.bytes, item->text.len_bytes, JSON_ALLOW_NUL | JSON_DECODE_ANY, &cause);
    if (json_is_object(value) || errno == ENOMEM)
        return value;
    if (value) {
        ht_data_skip(r, HEARTH_DATA_SKIP_NOT_OBJECT);
        json_decref(value);
        return NULL;
    }
    bool foreign = !ht_utf8_valid(item->text.bytes, item->text.len_bytes);
    ht_data_skip(r, foreign                                                       ? HEARTH_DATA_SKIP_NOT_UTF8
                    : json_error_code(&cause) == json_error_stack_overflow        ? HEARTH_DATA_SKIP_TOO_DEEP
                    : item->last                                                  ? HEARTH_DATA_SKIP_CUT_OFF
                                                                                  : HEARTH_DATA_SKIP_NOT_JSON);
    return NULL;
}

void ht_data_text_record(struct hearth_data_reader *r, const json_t *value)
{
    ht_data_begin(r);
    struct ht_text text = ht_data_field(value, "text");
    if (!text.bytes) {
        ht_data_skip(r, HEARTH_DATA_SKIP_MISSING_FIELD);
        return;
    }
    ht_data_add(r, HEARTH_ROLE_ASSISTANT, text);
    struct hearth_data_record *record = ht_data_emit(r, value);
    if (record)
        record->raw = true;
}

static enum hearth_status take_object(struct hearth_data_reader *r, const json_t *value, struct hearth_error *err)
{
    static void (*const parsers[HEARTH_DATA_N_FORMATS])(struct hearth_data_reader *, const json_t *) = {
        [HEARTH_DATA_ALPACA] = ht_data_alpaca,         [HEARTH_DATA_DOLLY] = ht_data_dolly,
        [HEARTH_DATA_BAIZE] = ht_data_baize,           [HEARTH_DATA_DAILY] = ht_data_daily,
        [HEARTH_DATA_DAILY_DETOK] = ht_data_daily,     [HEARTH_DATA_MESSAGES] = ht_data_messages,
        [HEARTH_DATA_CHATGPT] = ht_data_chatgpt,       [HEARTH_DATA_OASST] = ht_data_oasst,
        [HEARTH_DATA_PREFERENCE] = ht_data_preference, [HEARTH_DATA_EXPORT] = ht_data_export,
        [HEARTH_DATA_TEXT] = ht_data_text_record,
    };
    if (r->format == HEARTH_DATA_SHAREGPT)
        return ht_data_sharegpt(r, value, err);
    parsers[r->format](r, value);
    return HEARTH_OK;
}

static void take_text(struct hearth_data_reader *r, const struct ht_data_item *item)
{
    r->line = item->line;
    if (item->unusable) {
        ht_data_skip(r, item->skip);
    } else if (!ht_utf8_valid(item->text.bytes, item->text.len_bytes) ||
               memchr(item->text.bytes, 0, item->text.len_bytes)) {
        ht_data_skip(r, HEARTH_DATA_SKIP_NOT_UTF8);
    } else if (r->format != HEARTH_DATA_TEXT) {
        ht_data_daily_line(r, item->text);
    } else if (!ht_data_blank(item->text)) {
        ht_data_begin(r);
        ht_data_add(r, HEARTH_ROLE_ASSISTANT, item->text);
        struct hearth_data_record *record = ht_data_emit(r, NULL);
        if (record)
            record->raw = true;
    }
}

// Takes one item; its records, if any, are in r->records.
static enum hearth_status take_item(struct hearth_data_reader *r, bool *more, struct hearth_error *err)
{
    struct ht_data_item item;
    r->n_records = r->next_record = 0;
    json_decref(r->value);
    r->value = NULL;
    ht_data_reset(&r->pool);
    HT_TRY(ht_data_stream_next(&r->stream, &item, more, err));
    errno = 0; // see json_read.h
    if (!*more) {
        if (r->tree) { // the last tree of messages that came one by one
            ht_data_oasst(r, NULL);
            *more = true;
        }
    } else if (r->plain) {
        take_text(r, &item);
    } else {
        r->value = parse_item(r, &item);
        if (r->value)
            HT_TRY(take_object(r, r->value, err));
    }
    if (r->failed || r->pool.failed || errno == ENOMEM)
        return ht_fail(err, HEARTH_NOMEM, "%s:%llu: no memory for this record", ht_shown_path(r->path),
                       (unsigned long long)r->line);
    return HEARTH_OK;
}

static bool differs(const struct hearth_data_turn *a, const struct hearth_data_turn *b)
{
    return a->role != b->role || a->len_bytes != b->len_bytes || memcmp(a->text, b->text, a->len_bytes) != 0;
}

enum hearth_status hearth_data_next(struct hearth_data_reader *r, const struct hearth_data_record **record,
                                    struct hearth_error *err)
{
    *record = NULL;
    for (;;) {
        bool more = true;
        while (r->next_record < r->n_records) {
            const struct hearth_data_record *next = &r->records[r->next_record++];
            bool same = next->n_rejected && next->n_rejected == next->n_turns - next->n_shared;
            for (size_t i = 0; same && i < next->n_rejected; i++)
                same = !differs(&next->rejected[i], &next->turns[next->n_shared + i]);
            if (same) { // nothing is preferred to itself
                ht_data_skip(r, HEARTH_DATA_SKIP_DUPLICATE);
                continue;
            }
            r->counts.n_records += !next->pair_only;
            r->counts.n_turns += next->pair_only ? 0 : next->n_turns;
            r->counts.n_pairs += next->n_rejected > 0;
            *record = next;
            return HEARTH_OK;
        }
        HT_TRY(take_item(r, &more, err));
        if (!more)
            return HEARTH_OK;
    }
}

// ---------------------------------------------------------------- opening

static bool holds(struct ht_text text, const char *what)
{
    return text.len_bytes && memmem(text.bytes, text.len_bytes, what, strlen(what));
}

// A plain text is taken for one only where its name does not say otherwise.
static enum hearth_status plain_format(struct hearth_data_reader *r, bool dialogs, struct hearth_error *err)
{
    static const char *const endings[][2] = {{".json", "does not begin as JSON does"},
                                             {".jsonl", "does not begin as JSON does"},
                                             {".ndjson", "does not begin as JSON does"},
                                             {".csv", "is a table: write it as JSON lines, an object a row, first"},
                                             {".tsv", "is a table: write it as JSON lines, an object a row, first"}};
    size_t len = strlen(r->path);
    r->format = dialogs ? HEARTH_DATA_DAILY : HEARTH_DATA_TEXT;
    for (size_t i = 0; i < sizeof endings / sizeof *endings && !dialogs; i++)
        if (len > strlen(endings[i][0]) && !strcasecmp(r->path + len - strlen(endings[i][0]), endings[i][0]))
            return ht_fail(err, HEARTH_FORMAT, "%s: %s; to learn it as it stands say :text behind its name",
                           ht_shown_path(r->path), endings[i][1]);
    return HEARTH_OK;
}

static enum hearth_status not_recognised(const struct hearth_data_reader *r, int n_items, int n_objects,
                                         struct hearth_error *err)
{
    char names[160] = "";
    if (!n_objects)
        return ht_fail(err, HEARTH_FORMAT, n_items ? "%s: the first records are no whole JSON objects"
                                                   : "%s: holds no records", ht_shown_path(r->path));
    for (int i = HEARTH_DATA_AUTO + 1; i < HEARTH_DATA_N_FORMATS; i++)
        snprintf(names + strlen(names), sizeof names - strlen(names), "%s%s", *names ? ", " : "",
                 hearth_data_format_name((enum hearth_data_format)i));
    return ht_fail(err, HEARTH_FORMAT, "%s: the format was not recognised; name it after a colon: %s",
                   ht_shown_path(r->path), names);
}

// Looks at the first objects with a stream of its own.
static enum hearth_status detect(struct hearth_data_reader *r, struct hearth_error *err)
{
    struct ht_data_stream stream;
    struct ht_data_item item;
    HT_TRY(ht_data_stream_open(&stream, r->path, err));
    bool more = true;
    int n_items = 0, n_objects = 0;
    enum hearth_status status = HEARTH_OK;
    if (stream.mode == HT_DATA_TEXT) {
        status = plain_format(r, holds(ht_data_stream_peek(&stream), "__eou__"), err);
        more = false;
    }
    for (int i = 0; i < LOOKED_AT && !r->format && more && !status; i++) {
        status = ht_data_stream_next(&stream, &item, &more, err);
        n_items += !status && more;
        if (status || !more || item.unusable)
            continue;
        errno = 0;
        json_t *value = ht_json_read(item.text.bytes, item.text.len_bytes, JSON_ALLOW_NUL, NULL);
        if (errno == ENOMEM)
            status = ht_fail(err, HEARTH_NOMEM, "no memory to read %s", ht_shown_path(r->path));
        r->format = ht_data_detect(value);
        n_objects += json_is_object(value);
        json_decref(value);
    }
    ht_data_stream_close(&stream);
    return !status && !r->format ? not_recognised(r, n_items, n_objects, err) : status;
}

static char *copy(const char *text)
{
    size_t n = strlen(text ? text : "") + 1;
    char *out = ht_calloc(n, 1);
    if (out && text)
        memcpy(out, text, n);
    return out;
}

enum hearth_status hearth_data_open(struct hearth_data_reader **reader,
                                    const struct hearth_data_reader_params *params, struct hearth_error *err)
{
    *reader = NULL;
    if (!params->path || !*params->path)
        return ht_fail(err, HEARTH_INVALID, "no data file was named");
    struct hearth_data_reader *r = ht_calloc(1, sizeof *r);
    enum hearth_status status = HEARTH_NOMEM;
    if (!r || !(r->path = copy(params->path)) || !(r->license = copy(params->license)) ||
        !(r->lang = copy(params->lang))) {
        ht_fail(err, HEARTH_NOMEM, "no memory to read %s", ht_shown_path(params->path));
        goto failed;
    }
    r->params = *params;
    r->format = params->format;
    const char *slash = strrchr(r->path, '/');
    r->source = slash ? slash + 1 : r->path;
    if (r->format == HEARTH_DATA_AUTO)
        HT_TRY_TO(failed, detect(r, err));
    HT_TRY_TO(failed, ht_data_stream_open(&r->stream, r->path, err));
    bool lines = r->format == HEARTH_DATA_DAILY || r->format == HEARTH_DATA_DAILY_DETOK;
    r->plain = r->stream.mode == HT_DATA_TEXT;
    if (r->plain && lines) {
        r->stream.mode = HT_DATA_LINES;
    } else if (r->plain && r->format != HEARTH_DATA_TEXT) {
        status = ht_fail(err, HEARTH_FORMAT, "%s: is not JSON, as '%s' is", ht_shown_path(r->path),
                         hearth_data_format_name(r->format));
        goto failed;
    }
    *reader = r;
    return HEARTH_OK;
failed:
    hearth_data_close(&r);
    return status;
}

void hearth_data_close(struct hearth_data_reader **reader)
{
    struct hearth_data_reader *r = *reader;
    *reader = NULL;
    if (!r)
        return;
    ht_data_stream_close(&r->stream);
    ht_data_pool_free(&r->pool);
    json_decref(r->value);
    json_decref(r->tree);
    ht_data_seen_free(&r->ids);
    ht_data_seen_free(&r->pairs);
    ht_free(r->turns);
    ht_free(r->records);
    ht_free(r->path);
    ht_free(r->license);
    ht_free(r->lang);
    ht_free(r);
}

void hearth_data_get_counts(const struct hearth_data_reader *r, struct hearth_data_counts *counts)
{
    *counts = r->counts;
}

enum hearth_data_format hearth_data_get_format(const struct hearth_data_reader *r)
{
    return r->format;
}
