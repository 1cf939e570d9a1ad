// SPDX-License-Identifier: Apache-2.0
// JSON values as text. See json_text.h. Pure; any thread.
#include "firmware/json_text.h"

#include <errno.h>
#include <stdlib.h>

#include "engine/engine.h"

static _Thread_local size_t n_losses;

static void *take(size_t size_bytes)
{
    void *p = malloc(size_bytes); // the library's own is not wrapped (reserve.h), this one is
    n_losses += !p;
    return p;
}

void hd_json_begin(void)
{
    json_set_alloc_funcs(take, free);
    hearth_json_watch(); // now, while there are no other threads
}

size_t hd_json_losses(void)
{
    return n_losses;
}

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
    size_t losses = n_losses;
    json_t *value = json_loadb(text, len_bytes, flags, error);
    if (n_losses == losses && errno != ENOMEM)
        return value;
    errno = ENOMEM; // a number behind the place sets it to 0
    json_decref(value);
    return NULL;
}
