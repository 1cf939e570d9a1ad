// SPDX-License-Identifier: Apache-2.0
// The only allocator of the engine, behind a hook so that tests can fail the n-th allocation for every n. Any thread.
#ifndef HT_MEM_H
#define HT_MEM_H
#include <stddef.h>

// The hook is process-wide and set before any engine exists (tests only). NULL members = libc's.
struct ht_mem_hook {
    void *(*alloc)(void *user, size_t size_bytes, size_t align); // zeroed, or NULL
    void (*free)(void *user, void *p);
    void *user;
};
void ht_mem_set_hook(const struct ht_mem_hook *hook); // NULL = libc

enum { HT_MEM_ALIGN = 64 };
// Zeroed, 64-byte aligned. NULL when out of memory, when count * size overflows, or when it is 0.
void *ht_calloc(size_t count, size_t size_bytes);
// Large blocks, 2 MiB aligned with huge pages advised where the system has them; freed by ht_free_big.
void *ht_alloc_big(size_t size_bytes);
void ht_free_big(void *p, size_t size_bytes);
void ht_free(void *p); // NULL is allowed
// Gives memory that was freed back to the system: worth its time after much was freed at once.
void ht_mem_trim(void);
// Grows *p from old to new count of `size_bytes`, new part zeroed. Leaves *p as it was on failure (false).
_Bool ht_grow(void **p, size_t old_count, size_t new_count, size_t size_bytes);
// a * b and a + b; false on overflow.
_Bool ht_mul(size_t a, size_t b, size_t *out);
_Bool ht_add(size_t a, size_t b, size_t *out);

#endif
