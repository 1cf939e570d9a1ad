// SPDX-License-Identifier: Apache-2.0
// Names of split models: see split.h. Pure.
#include "tools/split.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char pattern[] = "-ddddd-of-ddddd.gguf";
enum { PATTERN_BYTES = sizeof pattern - 1, COUNT_AT = 10, DIGITS = 5 };

static bool matches(const char *at)
{
    for (size_t i = 0; i < PATTERN_BYTES; i++)
        if (pattern[i] == 'd' && i < PATTERN_BYTES - 5 ? !isdigit((unsigned char)at[i]) : at[i] != pattern[i])
            return false;
    return true;
}

// Where the last of such endings stands; NULL: nowhere.
static const char *find(const char *text)
{
    size_t len = strcspn(text, "?#");
    const char *found = NULL;
    for (size_t i = 0; i + PATTERN_BYTES <= len; i++)
        if (matches(text + i))
            found = text + i;
    return found;
}

unsigned split_count(const char *text)
{
    const char *at = find(text);
    unsigned long n = at ? strtoul(at + COUNT_AT, NULL, 10) : 0;
    unsigned long part = at ? strtoul(at + 1, NULL, 10) : 0;
    return n <= SPLIT_MAX_PARTS && part >= 1 && part <= n ? (unsigned)n : 0;
}

bool split_part(char *out, size_t size, const char *text, unsigned part)
{
    const char *at = find(text);
    int n = at ? snprintf(out, size, "%.*s%05u%s", (int)(at - text + 1), text, part, at + 1 + DIGITS) : -1;
    return n > 0 && (size_t)n < size;
}
