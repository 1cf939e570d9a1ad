// SPDX-License-Identifier: Apache-2.0
// JSON texts as values. See json_read.h. Pure; any thread.
#include "engine/base/json_read.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>

static json_malloc_t take_before;
static _Thread_local bool failed;
static _Thread_local size_t n_losses;

static void *take(size_t size_bytes)
{
    void *p = take_before(size_bytes);
    failed = failed || !p;
    n_losses += !p;
    return p;
}

// In front of whatever the library was told to take memory from.
static void watch(void)
{
    json_free_t give;
    json_get_alloc_funcs(&take_before, &give);
    json_set_alloc_funcs(take, give);
}

void ht_json_watch(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, watch);
}

size_t ht_json_losses(void)
{
    ht_json_watch();
    return n_losses;
}

json_t *ht_json_read(const char *text, size_t len_bytes, size_t flags, json_error_t *error)
{
    int before = errno;
    ht_json_watch();
    failed = false;
    errno = 0;
    json_t *value = json_loadb(text, len_bytes, flags, error);
    bool no_memory = failed || errno == ENOMEM; // a number behind the place sets errno to 0
    errno = no_memory ? ENOMEM : before;
    if (no_memory) {
        json_decref(value);
        value = NULL;
    }
    return value;
}
