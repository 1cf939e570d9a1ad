// SPDX-License-Identifier: Apache-2.0
// Tool calls in an answer (chat_calls.h). Pure functions, any thread.
#include "engine/text/chat_calls.h"

#include <string.h>

#include "engine/text/json.h"

enum { MAX_NAME_BYTES = 64 };

static size_t blanks(const char *text, size_t at, size_t n)
{
    while (at < n && (text[at] == ' ' || text[at] == '\n' || text[at] == '\t' || text[at] == '\r'))
        at++;
    return at;
}

static bool name_is_good(struct ht_text name)
{
    for (size_t i = 0; i < name.len_bytes; i++) {
        char c = name.bytes[i];
        if (!(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z') && !(c >= '0' && c <= '9') && c != '_' &&
            c != '-' && c != '.')
            return false;
    }
    return name.len_bytes >= 1 && name.len_bytes <= MAX_NAME_BYTES;
}

// Whether a whole JSON value is a call; fills name and arguments.
static bool read_call(const char *text, size_t n, struct ht_piece *piece)
{
    struct ht_json_part part;
    if (!ht_json_find(text, n, "name", &part) || part.value[0] != '"')
        return false;
    piece->name = (struct ht_text){part.value + 1, part.value_len_bytes - 2};
    if (!ht_json_find(text, n, "arguments", &part) && !ht_json_find(text, n, "parameters", &part))
        return false;
    piece->arguments = (struct ht_text){part.value, part.value_len_bytes};
    return part.value[0] == '{' && name_is_good(piece->name);
}

static void take_text(struct ht_piece *piece, const char *text, size_t n, size_t used)
{
    piece->state = HT_ANSWER_TEXT;
    piece->type = n ? HT_PIECE_TEXT : HT_PIECE_NONE;
    piece->text = (struct ht_text){text, n};
    piece->used_bytes = n ? used : 0;
}

// An object at `at` that should be a call; what is none goes out as text from the beginning.
static void take_object(const char *text, size_t at, size_t n, bool end, unsigned after,
                        struct ht_piece *piece)
{
    size_t used;
    enum ht_json_end whole = ht_json_value(text + at, n - at, &used);
    if (whole == HT_JSON_CUT && !end)
        return;
    if (whole == HT_JSON_WHOLE && read_call(text + at, used, piece)) {
        piece->type = HT_PIECE_CALL;
        piece->used_bytes = at + used;
        piece->state = after;
    } else {
        take_text(piece, text, n, n);
    }
}

// The end mark after a call, if it is there. False: it may still come.
static bool take_close(const char *close, const char *text, size_t n, bool end, struct ht_piece *piece)
{
    size_t at = blanks(text, piece->used_bytes, n), len = strlen(close), left = n - at < len ? n - at : len;
    if (memcmp(text + at, close, left) != 0)
        return true;
    if (left < len && !end)
        return false;
    piece->used_bytes = at + left;
    return true;
}

// text[at] begins the opening mark.
static void take_marked(const struct ht_chat_tools *t, const char *text, size_t at, size_t n, bool end,
                        struct ht_piece *piece)
{
    size_t inside = blanks(text, at + strlen(t->open), n);
    bool list = inside < n && text[inside] == '[';
    if (inside == n && !end)
        return;
    inside += list;
    take_object(text, inside, n, end, list ? HT_ANSWER_LIST : HT_ANSWER_TEXT, piece);
    if (piece->type == HT_PIECE_TEXT) // no call: the mark alone is let go, what follows it is looked at again
        take_text(piece, text, at + strlen(t->open), at + strlen(t->open));
    else if (piece->type == HT_PIECE_CALL && t->close && !take_close(t->close, text, n, end, piece))
        piece->type = HT_PIECE_NONE;
}

static void take_any(const struct ht_chat_tools *t, const char *text, size_t n, bool end,
                     struct ht_piece *piece)
{
    size_t len = strlen(t->open), safe = n;
    const char *mark = n ? memmem(text, n, t->open, len) : NULL;
    size_t at = mark ? (size_t)(mark - text) : n;
    if (mark && blanks(text, 0, n) >= at) {
        take_marked(t, text, at, n, end, piece);
        return;
    }
    if (!mark && !end) // a mark may be beginning, and blanks before one are not told
        for (size_t k = len - 1 < n ? len - 1 : n; k; k--)
            if (memcmp(text + n - k, t->open, k) == 0) {
                safe = n - k;
                break;
            }
    safe = mark ? at : safe;
    size_t told = safe;
    while ((mark || !end) && told && blanks(text, told - 1, told) == told)
        told--;
    take_text(piece, text, told, mark ? at : told);
}

static void take_list(const char *text, size_t n, bool end, struct ht_piece *piece)
{
    size_t at = blanks(text, 0, n);
    if (at < n && text[at] == ',')
        at = blanks(text, at + 1, n);
    if (at < n && text[at] == ']') { // the list ends; what may follow is text
        at = blanks(text, at + 1, n);
        take_text(piece, text + at, n - at, n);
    } else if (at < n) {
        take_object(text, at, n, end, HT_ANSWER_LIST, piece);
    }
}

void ht_calls_next(const struct ht_chat_tools *t, const char *text, size_t n, bool end,
                   struct ht_piece *piece)
{
    unsigned state = piece->state;
    *piece = (struct ht_piece){.state = state};
    size_t at = blanks(text, 0, n);
    if (!t) {
        take_text(piece, text, n, n);
    } else if (state == HT_ANSWER_CALLED) {
        take_object(text, 0, n, end, t->calls_end ? HT_ANSWER_LIST : HT_ANSWER_TEXT, piece);
        if (piece->type == HT_PIECE_CALL && t->close && !take_close(t->close, text, n, end, piece))
            piece->type = HT_PIECE_NONE;
    } else if (state == HT_ANSWER_LIST) {
        take_list(text, n, end, piece);
    } else if (t->open) {
        take_any(t, text, n, end, piece);
    } else if (state == HT_ANSWER_START && at < n && text[at] == '{') {
        take_object(text, at, n, end, HT_ANSWER_TEXT, piece);
    } else if (state != HT_ANSWER_START || at < n || end) {
        take_text(piece, text, n, n);
    }
    if (piece->type == HT_PIECE_NONE)
        piece->state = state;
}
