// SPDX-License-Identifier: Apache-2.0
// Carving one block. Owned by one thread at a time.
#include "engine/base/arena.h"

#include <stdint.h>

#include "engine/base/mem.h"

#if defined(__SANITIZE_ADDRESS__)
#define ARENA_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ARENA_ASAN 1
#endif
#endif
#ifdef ARENA_ASAN
#include <sanitizer/asan_interface.h>
enum { GAP = HT_MEM_ALIGN };
#define POISON(p, n)   ASAN_POISON_MEMORY_REGION(p, n)
#define UNPOISON(p, n) ASAN_UNPOISON_MEMORY_REGION(p, n)
#else
enum { GAP = 0 };
#define POISON(p, n)   ((void)(p), (void)(n))
#define UNPOISON(p, n) ((void)(p), (void)(n))
#endif

void ht_arena_init(struct ht_arena *arena, void *base, size_t size_bytes)
{
    *arena = (struct ht_arena){.base = base, .size = base ? size_bytes : SIZE_MAX};
    if (base)
        POISON(base, size_bytes);
}

void *ht_arena_take(struct ht_arena *arena, size_t count, size_t size_bytes)
{
    // `used` is always a multiple of the alignment, so that a plan and its carving agree.
    size_t len, end;
    if (!ht_mul(count, size_bytes, &len) || !ht_add(len, HT_MEM_ALIGN - 1 + GAP, &end)) {
        arena->failed = 1;
        return NULL;
    }
    end &= ~(size_t)(HT_MEM_ALIGN - 1);
    if (!ht_add(arena->used, end, &end) || end > arena->size) {
        arena->failed = 1;
        return NULL;
    }
    unsigned char *p = arena->base ? arena->base + arena->used : NULL;
    if (p)
        UNPOISON(p, len);
    arena->used = end;
    if (end > arena->peak)
        arena->peak = end;
    return p;
}

size_t ht_arena_mark(const struct ht_arena *arena)
{
    return arena->used;
}

void ht_arena_reset(struct ht_arena *arena, size_t mark)
{
    if (arena->base)
        POISON(arena->base + mark, arena->used - mark);
    arena->used = mark;
}
