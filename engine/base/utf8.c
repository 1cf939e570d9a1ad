// SPDX-License-Identifier: Apache-2.0
// Well-formed UTF-8. Pure functions, any thread.
#include "engine/base/utf8.h"

int ht_utf8_scan(const void *text, size_t len_bytes)
{
    const unsigned char *s = text;
    if (!len_bytes)
        return 0;
    if (s[0] < 0x80)
        return 1;
    if (s[0] < 0xC2 || s[0] > 0xF4)
        return -1;
    size_t n = s[0] >= 0xF0 ? 4 : s[0] >= 0xE0 ? 3 : 2;
    // The second byte's range excludes overlong forms, surrogates and what lies above U+10FFFF.
    unsigned low = s[0] == 0xE0 ? 0xA0 : s[0] == 0xF0 ? 0x90 : 0x80;
    unsigned high = s[0] == 0xED ? 0x9F : s[0] == 0xF4 ? 0x8F : 0xBF;
    for (size_t i = 1; i < n; i++, low = 0x80, high = 0xBF) {
        if (i == len_bytes)
            return 0;
        if (s[i] < low || s[i] > high)
            return -1;
    }
    return (int)n;
}

size_t ht_utf8_char(const void *text, size_t len_bytes)
{
    int n = ht_utf8_scan(text, len_bytes);
    return n > 0 ? (size_t)n : 0;
}

size_t ht_utf8_put(unsigned ch, unsigned char *out)
{
    size_t n = ch < 0x80 ? 1 : ch < 0x800 ? 2 : ch < 0x10000 ? 3 : 4;
    static const unsigned char lead[] = {0, 0, 0xC0, 0xE0, 0xF0};
    for (size_t i = n; i-- > 1; ch >>= 6)
        out[i] = (unsigned char)(0x80 | (ch & 0x3F));
    out[0] = (unsigned char)(lead[n] | ch);
    return n;
}

_Bool ht_utf8_valid(const void *text, size_t len_bytes)
{
    const unsigned char *s = text;
    for (size_t i = 0, n; i < len_bytes; i += n) {
        n = ht_utf8_char(s + i, len_bytes - i);
        if (!n)
            return 0;
    }
    return 1;
}
