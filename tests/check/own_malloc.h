// SPDX-License-Identifier: Apache-2.0
// A malloc of the test program's own, libraries included: it counts, and the n-th allocation fails (fail_at; 0 = none).
// A sanitizer has one already: then OWN_MALLOC is 0, nothing fails, and the sanitizer looks on. Once in a program.
// One thread.
#ifndef CHECK_OWN_MALLOC_H
#define CHECK_OWN_MALLOC_H
#include <errno.h>
#include <stddef.h>

#if defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__
#define OWN_MALLOC 0
#elif defined __has_feature
#define OWN_MALLOC (!__has_feature(address_sanitizer) && !__has_feature(thread_sanitizer))
#else
#define OWN_MALLOC 1
#endif

static long n_allocations, fail_at, live;

#if OWN_MALLOC

static int refuse(void)
{
    if (++n_allocations != fail_at)
        return 0;
    errno = ENOMEM; // as the C library's does
    return 1;
}

#pragma GCC visibility push(default) // so that the libraries find them
void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);
void __libc_free(void *);

void *malloc(size_t size)
{
    void *p = refuse() ? NULL : __libc_malloc(size);
    live += p != NULL;
    return p;
}

void *calloc(size_t n, size_t size)
{
    void *p = refuse() ? NULL : __libc_calloc(n, size);
    live += p != NULL;
    return p;
}

void *realloc(void *old, size_t size)
{
    if (refuse())
        return NULL;
    void *p = __libc_realloc(old, size);
    live += !old && p;
    return p;
}

void *aligned_alloc(size_t align, size_t size)
{
    void *p = refuse() ? NULL : __libc_memalign(align, size);
    live += p != NULL;
    return p;
}

int posix_memalign(void **p, size_t align, size_t size)
{
    *p = aligned_alloc(align, size);
    return *p ? 0 : ENOMEM;
}

void free(void *p)
{
    live -= p != NULL;
    __libc_free(p);
}
#pragma GCC visibility pop
#endif

#endif
