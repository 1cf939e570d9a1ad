// SPDX-License-Identifier: Apache-2.0
// A data file as items: lines, elements of one array, or values one after the other. Bounded memory: the longest item
// and one piece of the file; an item beyond the cap is passed over without being kept. One thread per stream.
#include <string.h>

#include "engine/base/io.h"
#include "engine/base/limits.h"
#include "engine/base/mem.h"
#include "engine/learn/data.h"

enum { PIECE = 256 << 10 };

// Reads on; false in *more at the end of the file. What was before `at` goes.
static enum hearth_status fill(struct ht_data_stream *s, bool *more, struct hearth_error *err)
{
    uint64_t left = ht_file_size(s->file) - s->offset;
    *more = left > 0;
    if (!left)
        return HEARTH_OK;
    if (s->at) {
        memmove(s->buf, s->buf + s->at, s->end - s->at);
        s->end -= s->at;
        s->at = 0;
    }
    size_t n = left < PIECE ? (size_t)left : PIECE;
    if (s->capacity - s->end < n) {
        size_t capacity = 2 * s->capacity > s->end + PIECE ? 2 * s->capacity : s->end + PIECE;
        void *p = s->buf;
        if (!ht_grow(&p, s->capacity, capacity, 1))
            return ht_fail(err, HEARTH_NOMEM, "%s: no memory for a record of more than %zu bytes",
                           ht_shown_path(ht_file_path(s->file)), s->end);
        s->buf = p;
        s->capacity = capacity;
    }
    HT_TRY(ht_file_read(s->file, s->buf + s->end, n, s->offset, err));
    s->offset += n;
    s->end += n;
    return HEARTH_OK;
}

static void step_over(struct ht_data_stream *s, size_t n)
{
    for (const char *p = s->buf + s->at, *end = p + n; (p = memchr(p, '\n', (size_t)(end - p))); p++)
        s->line++;
    s->at += n;
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

// The next byte that is no white space; -1 at the end.
static enum hearth_status next_solid(struct ht_data_stream *s, int *c, struct hearth_error *err)
{
    for (;;) {
        size_t n = 0;
        while (s->at + n < s->end && is_blank(s->buf[s->at + n]))
            n++;
        step_over(s, n);
        if (s->at < s->end) {
            *c = (unsigned char)s->buf[s->at];
            return HEARTH_OK;
        }
        bool more;
        HT_TRY(fill(s, &more, err));
        if (!more) {
            *c = -1;
            return HEARTH_OK;
        }
    }
}

struct scan { // of one JSON value
    unsigned depth, deepest;
    bool in_string, escaped, begun, done;
};

// Bytes of p[0, n) that belong to the value.
static size_t scan_value(struct scan *v, const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        char c = p[i];
        if (v->in_string) {
            if (v->escaped)
                v->escaped = false;
            else if (c == '\\')
                v->escaped = true;
            else if (c == '"')
                v->in_string = false;
            v->done = !v->in_string && !v->depth;
        } else if (c == '"') {
            v->in_string = true;
        } else if (c == '{' || c == '[') {
            v->depth++;
            v->deepest = v->depth > v->deepest ? v->depth : v->deepest;
        } else if ((c == '}' || c == ']') && v->depth) {
            v->done = --v->depth == 0;
        } else if (!v->depth && v->begun && (is_blank(c) || c == ',' || c == ']')) {
            v->done = true;
            return i;
        }
        v->begun = true;
        if (v->done)
            return i + 1;
    }
    return n;
}

static void judge(struct ht_data_item *item, bool large, const struct scan *v, bool cut)
{
    item->unusable = large || cut || v->deepest > HT_MAX_DATA_NESTING;
    item->skip = large ? HEARTH_DATA_SKIP_TOO_LARGE : cut ? HEARTH_DATA_SKIP_CUT_OFF : HEARTH_DATA_SKIP_TOO_DEEP;
}

// One value that begins at `at`; *item's text lies in the buffer until the next call.
static enum hearth_status take_value(struct ht_data_stream *s, struct ht_data_item *item, struct hearth_error *err)
{
    struct scan v = {0};
    bool large = false, more = true;
    size_t n = 0;
    while (!v.done) {
        n += scan_value(&v, s->buf + s->at + n, s->end - s->at - n);
        if (v.done)
            break;
        if (n > HT_MAX_DATA_RECORD_BYTES) {
            large = true;
            step_over(s, n);
            n = 0;
        }
        HT_TRY(fill(s, &more, err));
        if (!more)
            break;
    }
    large |= n > HT_MAX_DATA_RECORD_BYTES;
    item->text = (struct ht_text){s->buf + s->at, n};
    judge(item, large, &v, !v.done && v.depth + v.in_string > 0);
    item->last = !more;
    step_over(s, n);
    return HEARTH_OK;
}

static enum hearth_status next_value(struct ht_data_stream *s, struct ht_data_item *item, bool *more,
                                     struct hearth_error *err)
{
    int c;
    for (;;) {
        HT_TRY(next_solid(s, &c, err));
        if (c == ',' || (c == '[' && s->mode == HT_DATA_ARRAY && !s->opened)) {
            s->opened |= c == '[';
            step_over(s, 1);
            continue;
        }
        break;
    }
    if (c == '}' && s->closed && s->wrapped) {
        s->wrapped = false;
        step_over(s, 1);
        return next_value(s, item, more, err);
    }
    *item = (struct ht_data_item){.line = s->line};
    if (c == -1 || s->closed) {
        // An array that was not closed lost its end, and something that follows one was not looked at.
        item->unusable = c != -1 || (s->mode == HT_DATA_ARRAY && (!s->closed || s->wrapped));
        item->skip = c == -1 ? HEARTH_DATA_SKIP_CUT_OFF : HEARTH_DATA_SKIP_BEHIND;
        *more = item->unusable;
        s->ended = true;
        return HEARTH_OK;
    }
    if (c == ']' && s->mode == HT_DATA_ARRAY) {
        s->closed = true;
        step_over(s, 1);
        return next_value(s, item, more, err);
    }
    *more = true;
    HT_TRY(take_value(s, item, err));
    if (item->unusable && item->skip == HEARTH_DATA_SKIP_CUT_OFF)
        s->ended = true;
    return HEARTH_OK;
}

static enum hearth_status next_line(struct ht_data_stream *s, struct ht_data_item *item, struct hearth_error *err)
{
    bool large = false, more = true;
    size_t n = 0;
    *item = (struct ht_data_item){.line = s->line};
    for (;;) {
        const char *end = s->end > s->at + n ? memchr(s->buf + s->at + n, '\n', s->end - s->at - n) : NULL;
        if (end) {
            n = (size_t)(end - (s->buf + s->at));
            break;
        }
        n = s->end - s->at;
        if (n > HT_MAX_DATA_RECORD_BYTES) {
            large = true;
            step_over(s, n);
            n = 0;
        }
        HT_TRY(fill(s, &more, err));
        if (!more)
            break;
    }
    struct scan v = {0};
    item->text = (struct ht_text){s->buf + s->at, n};
    if (s->mode == HT_DATA_LINES)
        while (n && scan_value(&v, item->text.bytes, n) < n && !v.done)
            ;
    judge(item, large || n > HT_MAX_DATA_RECORD_BYTES, &v, false);
    item->last = !more;
    step_over(s, n + (more ? 1 : 0));
    return HEARTH_OK;
}

// Plain text: whole lines up to the cap of a piece, so that all pieces together are the file.
static enum hearth_status next_text(struct ht_data_stream *s, struct ht_data_item *item, bool *more,
                                    struct hearth_error *err)
{
    bool rest = true;
    while (s->end - s->at < HT_MAX_DATA_TEXT_BYTES && rest)
        HT_TRY(fill(s, &rest, err));
    size_t n = s->end - s->at, cut = n;
    *item = (struct ht_data_item){.line = s->line};
    *more = n > 0;
    if (n > HT_MAX_DATA_TEXT_BYTES) {
        const char *p = s->buf + s->at;
        size_t line = 0;
        n = HT_MAX_DATA_TEXT_BYTES;
        cut = 0;
        for (size_t i = 1; i < n; i++) {
            if (p[i] == '\n' && p[i - 1] == '\n')
                cut = i + 1;
            if (p[i] == '\n')
                line = i + 1;
        }
        cut = cut >= n / 2 ? cut : line ? line : n;
        while (cut == n && cut > 1 && ((unsigned char)p[cut] & 0xC0) == 0x80 && n - cut < 4)
            n = --cut; // not inside a character
    }
    item->text = (struct ht_text){s->buf + s->at, cut};
    step_over(s, cut);
    return HEARTH_OK;
}

enum hearth_status ht_data_stream_next(struct ht_data_stream *s, struct ht_data_item *item, bool *more,
                                       struct hearth_error *err)
{
    *more = false;
    if (s->ended)
        return HEARTH_OK;
    if (s->mode == HT_DATA_TEXT)
        return next_text(s, item, more, err);
    if (s->mode != HT_DATA_LINES)
        return next_value(s, item, more, err);
    int c;
    HT_TRY(next_solid(s, &c, err));
    if (c == -1)
        return HEARTH_OK;
    *more = true;
    return next_line(s, item, err);
}

// ---------------------------------------------------------------- opening

static enum hearth_status check_text(const struct ht_data_stream *s, struct hearth_error *err)
{
    static const struct {
        const char *begin, *what; // files that people have and that are no text
    } known[] = {{"\xFF\xFE", "is UTF-16 or UTF-32; UTF-8 is needed"},
                 {"\xFE\xFF", "is UTF-16; UTF-8 is needed"},
                 {"\x1F\x8B", "is compressed (gzip): unpack it first"},
                 {"PK\3\4", "is a zip archive: unpack it first"},
                 {"\x28\xB5\x2F\xFD", "is compressed (zstd): unpack it first"},
                 {"\xFD" "7zXZ", "is compressed (xz): unpack it first"},
                 {"PAR1", "is a Parquet table: write it as JSON lines first"}};
    const unsigned char *p = (const unsigned char *)s->buf;
    const char *path = ht_shown_path(ht_file_path(s->file));
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (s->end >= strlen(known[i].begin) && !memcmp(p, known[i].begin, strlen(known[i].begin)))
            return ht_fail(err, HEARTH_FORMAT, "%s: %s", path, known[i].what);
    for (size_t i = 0; i < s->end; i++)
        if (p[i] < 0x20 && !is_blank((char)p[i]) && p[i] != '\f' && p[i] != '\v' && p[i] != 0x1B && p[i] != '\b')
            return ht_fail(err, HEARTH_FORMAT, "%s: is not text (a byte of value %u at %zu)", path, p[i], i);
    return HEARTH_OK;
}

// One object a line, or objects one after the other: does the first line hold a whole one, and nothing but it?
static enum ht_data_mode lines_or_values(const struct ht_data_stream *s)
{
    struct scan v = {0};
    const char *p = s->buf + s->at, *end = memchr(p, '\n', s->end - s->at);
    size_t all = end ? (size_t)(end - p) : s->end - s->at, n = scan_value(&v, p, all);
    while (v.done && n < all && is_blank(p[n]))
        n++;
    if (v.done && n < all && (p[n] == '{' || p[n] == ','))
        return HT_DATA_VALUES;
    if (!end)
        return HT_DATA_LINES;
    while (end < s->buf + s->end && is_blank(*end))
        end++;
    bool next_opens = end < s->buf + s->end && *end == '{';
    return v.done || next_opens ? HT_DATA_LINES : HT_DATA_VALUES;
}

static size_t skip_blanks(const char *p, size_t i, size_t n)
{
    while (i < n && is_blank(p[i]))
        i++;
    return i;
}

// An object that is nothing but the wrapping of an array of objects: where that array begins in p[0, n), else 0. Before
// it may stand what is a string, a number or a word. One that ends within p with more behind it is a record.
static size_t wrapped_array(const char *p, size_t n)
{
    static const char *const keys[] = {"\"data\"", "\"train\"", "\"examples\"", "\"records\"", "\"samples\""};
    struct scan whole = {0};
    size_t i = skip_blanks(p, scan_value(&whole, p, n), n);
    if (whole.done && i < n)
        return 0;
    for (i = skip_blanks(p, 1, n); i < n && p[i] == '"'; i = skip_blanks(p, i + 1, n)) {
        struct scan key = {0}, value = {0};
        size_t from = i, len = scan_value(&key, p + i, n - i);
        i = skip_blanks(p, i + len, n);
        if (i == n || p[i] != ':' || (i = skip_blanks(p, i + 1, n)) == n)
            return 0;
        for (size_t k = 0; k < sizeof keys / sizeof *keys && p[i] == '['; k++)
            if (len == strlen(keys[k]) && !memcmp(p + from, keys[k], len))
                return (from = skip_blanks(p, i + 1, n)) < n && p[from] == '{' ? i : 0;
        if (p[i] == '[' || p[i] == '{')
            return 0;
        i = skip_blanks(p, i + scan_value(&value, p + i, n - i), n);
        if (i == n || p[i] != ',')
            return 0;
    }
    return 0;
}

static enum hearth_status find_mode(struct ht_data_stream *s, struct hearth_error *err)
{
    int c;
    if (s->end >= 3 && !memcmp(s->buf, "\xEF\xBB\xBF", 3))
        s->at = 3;
    size_t at = s->at;
    uint64_t line = s->line;
    HT_TRY(next_solid(s, &c, err));
    if (c == -1)
        return ht_fail(err, HEARTH_FORMAT, "%s: is empty", ht_shown_path(ht_file_path(s->file)));
    if (c == '{') {
        bool more = true;
        while (more && !memchr(s->buf + s->at, '\n', s->end - s->at) && s->end < HT_MAX_DATA_RECORD_BYTES)
            HT_TRY(fill(s, &more, err));
        size_t array = wrapped_array(s->buf + s->at, s->end - s->at);
        s->mode = array ? HT_DATA_ARRAY : lines_or_values(s);
        s->wrapped = array > 0;
        step_over(s, array);
        return HEARTH_OK;
    }
    if (c == '[') {
        size_t i = s->at + 1;
        while (i < s->end && is_blank(s->buf[i]))
            i++;
        if (i == s->end || strchr("{[]\"", s->buf[i])) {
            s->mode = HT_DATA_ARRAY;
            return HEARTH_OK;
        }
    }
    s->mode = HT_DATA_TEXT;
    if (s->offset <= PIECE) { // leading white space is text too
        s->at = at;
        s->line = line;
    }
    return HEARTH_OK;
}

enum hearth_status ht_data_stream_open(struct ht_data_stream *s, const char *path,
                                       struct hearth_error *err)
{
    bool more;
    *s = (struct ht_data_stream){.line = 1};
    enum hearth_status status = ht_file_open_read(&s->file, path, err);
    if (status)
        return status;
    HT_TRY_TO(failed, fill(s, &more, err));
    if (!more) {
        status = ht_fail(err, HEARTH_FORMAT, "%s: is empty", ht_shown_path(path));
        goto failed;
    }
    HT_TRY_TO(failed, check_text(s, err));
    HT_TRY_TO(failed, find_mode(s, err));
    return HEARTH_OK;
failed:
    ht_data_stream_close(s);
    return status;
}

void ht_data_stream_close(struct ht_data_stream *s)
{
    ht_file_close(&s->file);
    ht_free(s->buf);
    *s = (struct ht_data_stream){0};
}

struct ht_text ht_data_stream_peek(const struct ht_data_stream *s)
{
    return (struct ht_text){s->buf + s->at, s->end - s->at};
}
