// SPDX-License-Identifier: Apache-2.0
// Error texts: always one line of well-formed UTF-8, whatever a file's names held. Any thread.
#include "engine/base/error.h"

#include <stdio.h>
#include <string.h>

#include "engine/base/utf8.h"

// C0, DEL and C1 (two bytes, U+0080..U+009F): a terminal would obey them.
static int is_control(const unsigned char *s, size_t n)
{
    return n == 1 ? s[0] < 0x20 || s[0] == 0x7F : n == 2 && s[0] == 0xC2 && s[1] < 0xA0;
}

const char *ht_shown_path(const char *path)
{
    enum { SHOWN_BYTES = 100 };
    size_t len = strlen(path);
    if (len <= SHOWN_BYTES)
        return path;
    const char *tail = path + len - SHOWN_BYTES, *slash = strchr(tail, '/');
    if (slash && slash[1])
        return slash + 1;
    while ((*tail & 0xC0) == 0x80) // a character's middle
        tail++;
    return tail;
}

enum hearth_status ht_failv(struct hearth_error *err, enum hearth_status code, const char *format,
                            va_list args)
{
    if (!err)
        return code;
    // Formatted aside, since an argument may be err->text itself. The slack shows where a cut character ends.
    char raw[HEARTH_ERROR_TEXT_BYTES + 4];
    int len = vsnprintf(raw, sizeof raw, format, args);
    if (len < 0)
        raw[0] = 0;
    const unsigned char *s = (const unsigned char *)raw;
    size_t left = strlen(raw), used = 0;
    while (left) {
        size_t n = ht_utf8_char(s, left);
        size_t take = n ? n : 1;
        int replace = !n || is_control(s, n);
        size_t put = replace ? 1 : take;
        if (used + put >= sizeof err->text)
            break;
        if (replace)
            err->text[used] = '?';
        else
            memcpy(err->text + used, s, take);
        used += put;
        s += take;
        left -= take;
    }
    err->text[used] = 0;
    err->code = code;
    return code;
}

enum hearth_status ht_fail(struct hearth_error *err, enum hearth_status code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    ht_failv(err, code, format, args);
    va_end(args);
    return code;
}
