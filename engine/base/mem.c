// SPDX-License-Identifier: Apache-2.0
// The allocator behind the hook; the only file of the engine that asks libc or the system for memory.
// Any thread; the hook itself is set before threads exist.
#include "engine/base/mem.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#ifdef __GLIBC__ // known once a header of libc is read
#include <malloc.h>
#endif

static struct ht_mem_hook hook;

enum { BIG_ALIGN = 2 << 20, PAGE = 64 << 10 }; // PAGE: the largest page size of the machines we run on

#if defined(__SANITIZE_ADDRESS__)
#define BIG_FROM_HEAP 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define BIG_FROM_HEAP 1
#endif
#endif
#ifndef BIG_FROM_HEAP
#define BIG_FROM_HEAP 0 // AddressSanitizer builds take big blocks from the heap, to have their bounds checked
#endif

void ht_mem_set_hook(const struct ht_mem_hook *new_hook)
{
    hook = new_hook ? *new_hook : (struct ht_mem_hook){0};
}

_Bool ht_mul(size_t a, size_t b, size_t *out)
{
    return !__builtin_mul_overflow(a, b, out);
}

_Bool ht_add(size_t a, size_t b, size_t *out)
{
    return !__builtin_add_overflow(a, b, out);
}

static void *heap_alloc(size_t size_bytes, size_t align)
{
    if (hook.alloc)
        return hook.alloc(hook.user, size_bytes, align);
    void *p;
    if (size_bytes > PTRDIFF_MAX - align || posix_memalign(&p, align, size_bytes))
        return NULL;
    return memset(p, 0, size_bytes);
}

void *ht_calloc(size_t count, size_t size_bytes)
{
    size_t total;
    if (!ht_mul(count, size_bytes, &total) || !total)
        return NULL;
    return heap_alloc(total, HT_MEM_ALIGN);
}

void ht_free(void *p)
{
    if (hook.free)
        hook.free(hook.user, p);
    else
        free(p);
}

void ht_mem_trim(void)
{
#ifdef __GLIBC__
    malloc_trim(0);
#endif
}

_Bool ht_grow(void **p, size_t old_count, size_t new_count, size_t size_bytes)
{
    void *grown = ht_calloc(new_count, size_bytes);
    if (!grown)
        return 0;
    if (old_count)
        memcpy(grown, *p, (old_count < new_count ? old_count : new_count) * size_bytes);
    ht_free(*p);
    *p = grown;
    return 1;
}

static int big_from_heap(void)
{
    return BIG_FROM_HEAP || hook.alloc || hook.free;
}

void *ht_alloc_big(size_t size_bytes)
{
    if (!size_bytes || size_bytes > PTRDIFF_MAX - 2 * BIG_ALIGN)
        return NULL;
    if (big_from_heap())
        return heap_alloc(size_bytes, BIG_ALIGN);
    size_t size = (size_bytes + PAGE - 1) & ~(size_t)(PAGE - 1);
    int flags = MAP_PRIVATE | MAP_ANONYMOUS;
    unsigned char *map = mmap(NULL, size + BIG_ALIGN, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (map == MAP_FAILED)
        return NULL;
    size_t head = -(uintptr_t)map & (BIG_ALIGN - 1); // both ends that stick out go back
    if (head)
        munmap(map, head);
    if (BIG_ALIGN - head)
        munmap(map + head + size, BIG_ALIGN - head);
#ifdef MADV_HUGEPAGE
    madvise(map + head, size, MADV_HUGEPAGE); // advice only
#endif
    return map + head;
}

void ht_free_big(void *p, size_t size_bytes)
{
    if (!p)
        return;
    if (big_from_heap())
        ht_free(p);
    else
        munmap(p, (size_bytes + PAGE - 1) & ~(size_t)(PAGE - 1));
}
