// SPDX-License-Identifier: Apache-2.0
// Parts of JSON texts (json.h). Pure functions, any thread.
#include "engine/text/json.h"

#include <string.h>

enum { MAX_DEPTH = 64 };

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static size_t skip_blanks(const char *text, size_t at, size_t n)
{
    while (at < n && is_blank(text[at]))
        at++;
    return at;
}

// text[at] is the opening quote.
static enum ht_json_end skip_string(const char *text, size_t *at, size_t n)
{
    for (size_t i = *at + 1; i < n; i++) {
        if ((unsigned char)text[i] < 0x20)
            return HT_JSON_BAD;
        if (text[i] == '\\') {
            if (i + 1 < n && !strchr("\"\\/bfnrtu", text[i + 1]))
                return HT_JSON_BAD;
            i++;
        } else if (text[i] == '"') {
            *at = i + 1;
            return HT_JSON_WHOLE;
        }
    }
    return HT_JSON_CUT;
}

static enum ht_json_end skip_word(const char *text, size_t *at, size_t n)
{
    static const char *const words[] = {"true", "false", "null"};
    size_t i = *at;
    for (size_t w = 0; w < sizeof words / sizeof *words; w++) {
        size_t len = strlen(words[w]), left = n - i < len ? n - i : len;
        if (memcmp(text + i, words[w], left) != 0)
            continue;
        *at = i + left;
        return left == len ? HT_JSON_WHOLE : HT_JSON_CUT;
    }
    if (text[i] != '-' && (text[i] < '0' || text[i] > '9'))
        return HT_JSON_BAD;
    while (i < n && (strchr("+-.eE", text[i]) ? text[i] != '\0' : text[i] >= '0' && text[i] <= '9'))
        i++;
    *at = i;
    return i < n ? HT_JSON_WHOLE : HT_JSON_CUT;
}

enum ht_json_end ht_json_value(const char *text, size_t n, size_t *used)
{
    char open[MAX_DEPTH];
    size_t depth = 0, at = 0;
    enum { VALUE, VALUE_OR_CLOSE, KEY, KEY_OR_CLOSE, AFTER } due = VALUE;
    *used = 0;
    for (;;) {
        at = skip_blanks(text, at, n);
        if (at == n)
            return HT_JSON_CUT;
        char c = text[at];
        enum ht_json_end end = HT_JSON_WHOLE;
        if ((c == '}' || c == ']') && depth && due != VALUE && due != KEY) {
            if (open[--depth] != (c == '}' ? '{' : '['))
                return HT_JSON_BAD;
            at++;
            due = AFTER;
        } else if (due == AFTER) {
            if (c != ',')
                return HT_JSON_BAD;
            at++;
            due = open[depth - 1] == '{' ? KEY : VALUE;
            continue;
        } else if (due == KEY || due == KEY_OR_CLOSE) {
            if (c != '"' || (end = skip_string(text, &at, n)) != HT_JSON_WHOLE)
                return c == '"' ? end : HT_JSON_BAD;
            at = skip_blanks(text, at, n);
            if (at == n || text[at] != ':')
                return at == n ? HT_JSON_CUT : HT_JSON_BAD;
            at++;
            due = VALUE;
            continue;
        } else if (c == '{' || c == '[') {
            if (depth == MAX_DEPTH)
                return HT_JSON_BAD;
            open[depth++] = c;
            at++;
            due = c == '{' ? KEY_OR_CLOSE : VALUE_OR_CLOSE;
            continue;
        } else {
            end = c == '"' ? skip_string(text, &at, n) : skip_word(text, &at, n);
            if (end == HT_JSON_BAD || (end == HT_JSON_CUT && (depth || at < n || c == '"')))
                return end;
            due = AFTER;
        }
        if (depth == 0) {
            *used = at;
            return end;
        }
    }
}

bool ht_json_walk_begin(struct ht_json_walk *walk, const char *text, size_t n)
{
    size_t used, at = skip_blanks(text, 0, n);
    *walk = (struct ht_json_walk){.bad = true};
    if (at == n || (text[at] != '{' && text[at] != '[') || ht_json_value(text, n, &used) != HT_JSON_WHOLE)
        return false;
    *walk = (struct ht_json_walk){.at = text + at + 1, .end = text + used - 1, .object = text[at] == '{'};
    return true;
}

bool ht_json_walk_next(struct ht_json_walk *walk, struct ht_json_part *part)
{
    size_t n = (size_t)(walk->end - walk->at), at = skip_blanks(walk->at, 0, n), used;
    *part = (struct ht_json_part){0};
    if (walk->bad || at == n)
        return false;
    if (walk->at[at] == ',')
        at = skip_blanks(walk->at, at + 1, n);
    if (walk->object) {
        part->key = walk->at + at + 1;
        if (skip_string(walk->at, &at, n) != HT_JSON_WHOLE) {
            walk->bad = true;
            return false;
        }
        part->key_len_bytes = (size_t)(walk->at + at - 1 - part->key);
        at = skip_blanks(walk->at, at, n) + 1;
    }
    at = skip_blanks(walk->at, at, n);
    // The closing bracket is there too, so that a number knows its end.
    walk->bad = ht_json_value(walk->at + at, n - at + 1, &used) != HT_JSON_WHOLE;
    part->value = walk->at + at;
    part->value_len_bytes = used;
    walk->at += at + used;
    return !walk->bad;
}

bool ht_json_find(const char *text, size_t n, const char *key, struct ht_json_part *part)
{
    struct ht_json_walk walk;
    size_t len = strlen(key);
    if (!ht_json_walk_begin(&walk, text, n) || !walk.object)
        return false;
    while (ht_json_walk_next(&walk, part))
        if (part->key_len_bytes == len && memcmp(part->key, key, len) == 0)
            return true;
    return false;
}
