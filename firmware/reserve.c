// SPDX-License-Identifier: Apache-2.0
// malloc, calloc and realloc in front of the C library's: see reserve.h. Any thread.
#include "firmware/reserve.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum { RESERVE_BYTES = 256 << 10 };

static _Atomic(void *) reserve;

// Names that the linker gives (--wrap): __wrap_ takes the calls, __real_ is the C library's.
void *__real_malloc(size_t size_bytes);
void *__real_calloc(size_t n, size_t size_bytes);
void *__real_realloc(void *old, size_t size_bytes);
void *__wrap_malloc(size_t size_bytes);
void *__wrap_calloc(size_t n, size_t size_bytes);
void *__wrap_realloc(void *old, size_t size_bytes);

static bool use_up(void)
{
    void *p = atomic_exchange(&reserve, NULL);
    free(p);
    return p != NULL;
}

void *__wrap_malloc(size_t size_bytes)
{
    void *p = __real_malloc(size_bytes);
    return p || !size_bytes || !use_up() ? p : __real_malloc(size_bytes);
}

void *__wrap_calloc(size_t n, size_t size_bytes)
{
    void *p = __real_calloc(n, size_bytes);
    return p || !n || !size_bytes || !use_up() ? p : __real_calloc(n, size_bytes);
}

void *__wrap_realloc(void *old, size_t size_bytes)
{
    void *p = __real_realloc(old, size_bytes);
    return p || !size_bytes || !use_up() ? p : __real_realloc(old, size_bytes);
}

bool hd_reserve_refill(void)
{
    if (atomic_load(&reserve))
        return true;
    void *p = __real_malloc(RESERVE_BYTES), *empty = NULL;
    if (!p)
        return false;
    memset(p, 1, RESERVE_BYTES); // so that its pages are there when they are needed
    if (!atomic_compare_exchange_strong(&reserve, &empty, p))
        free(p);
    return true;
}

void hd_reserve_free(void)
{
    use_up();
}
