// SPDX-License-Identifier: Apache-2.0
// Code points and classes. utf8proc has the categories; what newer Unicode versions added stands here, so
// that ids do not depend on the version of utf8proc that a distribution ships (2.7 and 2.8 know Unicode 14
// and 15). Pure; any thread.
#include "engine/text/unicode.h"

#include <utf8proc.h>

#include "engine/base/utf8.h"

struct range {
    uint32_t first, last;
};

// Letters, numbers and punctuation of Unicode 15.0 to 16.0.
static const struct range new_letters[] = {
    {0x1C89, 0x1C8A},   {0xA7CB, 0xA7CD},   {0xA7DA, 0xA7DC},   {0x105C0, 0x105F3}, {0x10D4A, 0x10D65},
    {0x10D6F, 0x10D85}, {0x10EC2, 0x10EC4}, {0x1123F, 0x11240}, {0x11380, 0x11389}, {0x1138B, 0x1138B},
    {0x1138E, 0x1138E}, {0x11390, 0x113B5}, {0x113B7, 0x113B7}, {0x113D1, 0x113D1}, {0x113D3, 0x113D3},
    {0x11BC0, 0x11BE0}, {0x11F02, 0x11F02}, {0x11F04, 0x11F10}, {0x11F12, 0x11F33}, {0x1342F, 0x1342F},
    {0x13441, 0x13446}, {0x13460, 0x143FA}, {0x16100, 0x1611D}, {0x16D40, 0x16D6C}, {0x18CFF, 0x18CFF},
    {0x1B132, 0x1B132}, {0x1B155, 0x1B155}, {0x1DF25, 0x1DF2A}, {0x1E030, 0x1E06D}, {0x1E4D0, 0x1E4EB},
    {0x1E5D0, 0x1E5ED}, {0x1E5F0, 0x1E5F0}, {0x2B739, 0x2B739}, {0x2EBF0, 0x2EE5D}, {0x31350, 0x323AF},
};
static const struct range new_numbers[] = {
    {0x10D40, 0x10D49}, {0x116D0, 0x116E3}, {0x11BF0, 0x11BF9}, {0x11F50, 0x11F59}, {0x16130, 0x16139},
    {0x16D70, 0x16D79}, {0x1CCF0, 0x1CCF9}, {0x1D2C0, 0x1D2D3}, {0x1E4F0, 0x1E4F9}, {0x1E5F1, 0x1E5FA},
};
static const struct range new_punctuation[] = {
    {0x1B4E, 0x1B4F},   {0x1B7F, 0x1B7F},   {0x10D6E, 0x10D6E}, {0x113D4, 0x113D5}, {0x113D7, 0x113D8},
    {0x11B00, 0x11B09}, {0x11BE1, 0x11BE1}, {0x11F43, 0x11F4F}, {0x16D6D, 0x16D6F}, {0x1E5FF, 0x1E5FF},
};
static const struct range newer_numbers[] = {{0x11DE0, 0x11DE9}, {0x16FF4, 0x16FF6}}; // Unicode 17

static bool contains(const struct range *ranges, size_t n, uint32_t c)
{
    size_t low = 0; // the first range that does not end before c
    for (size_t high = n; low < high;) {
        size_t middle = low + (high - low) / 2;
        if (ranges[middle].last < c)
            low = middle + 1;
        else
            high = middle;
    }
    return low < n && ranges[low].first <= c;
}
#define CONTAINS(ranges, c) contains(ranges, sizeof(ranges) / sizeof(ranges)[0], c)

static bool is_space(uint32_t c)
{
    return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
           c == 0x3000;
}

static enum ht_uc newer_class(uint32_t c)
{
    if (CONTAINS(new_letters, c))
        return HT_UC_LETTER;
    if (CONTAINS(new_numbers, c))
        return HT_UC_NUMBER;
    return CONTAINS(new_punctuation, c) ? HT_UC_PUNCTUATION : HT_UC_OTHER;
}

enum ht_uc ht_uc_class(uint32_t c)
{
    if (is_space(c))
        return HT_UC_SPACE;
    if (c < 0x80) {
        if ((c | 0x20) >= 'a' && (c | 0x20) <= 'z')
            return HT_UC_LETTER;
        if (c >= '0' && c <= '9')
            return HT_UC_NUMBER;
    }
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO: return HT_UC_LETTER;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO: return HT_UC_NUMBER;
    case UTF8PROC_CATEGORY_PC:
    case UTF8PROC_CATEGORY_PD:
    case UTF8PROC_CATEGORY_PS:
    case UTF8PROC_CATEGORY_PE:
    case UTF8PROC_CATEGORY_PI:
    case UTF8PROC_CATEGORY_PF:
    case UTF8PROC_CATEGORY_PO: return HT_UC_PUNCTUATION;
    case UTF8PROC_CATEGORY_CN: return newer_class(c);
    default: return HT_UC_OTHER;
    }
}

bool ht_uc_is_numeric(uint32_t c)
{
    return ht_uc_class(c) == HT_UC_NUMBER || CONTAINS(newer_numbers, c);
}

size_t ht_uc_next(const unsigned char *s, size_t n, uint32_t *code_point)
{
    size_t length = ht_utf8_char(s, n);
    switch (length) {
    case 1: *code_point = s[0]; return 1;
    case 2: *code_point = (s[0] & 0x1FU) << 6 | (s[1] & 0x3FU); return 2;
    case 3: *code_point = (s[0] & 0x0FU) << 12 | (s[1] & 0x3FU) << 6 | (s[2] & 0x3FU); return 3;
    case 4:
        *code_point = (s[0] & 0x07U) << 18 | (s[1] & 0x3FU) << 12 | (s[2] & 0x3FU) << 6 | (s[3] & 0x3FU);
        return 4;
    default: *code_point = HT_NOT_UTF8; return 1;
    }
}
