// SPDX-License-Identifier: Apache-2.0
// JSON values as text. See json_text.h. Pure; any thread.
#include "firmware/json_text.h"

#include <errno.h>
#include <stdlib.h>

char *hd_json_text(const json_t *value, size_t flags)
{
    size_t n = value ? json_dumpb(value, NULL, 0, flags) : 0; // 0: out of memory
    char *text = n ? malloc(n + 1) : NULL;
    if (text && json_dumpb(value, text, n, flags) != n) {
        free(text);
        return NULL;
    }
    if (text)
        text[n] = '\0';
    return text;
}

json_t *hd_json_read(const char *text, size_t len_bytes, size_t flags, json_error_t *error)
{
    errno = 0;
    json_t *value = json_loadb(text, len_bytes, flags, error);
    if (value && errno == ENOMEM) {
        json_decref(value);
        return NULL;
    }
    return value;
}
