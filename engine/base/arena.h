// SPDX-License-Identifier: Apache-2.0
// One block, carved. Plan first (base NULL: only counts), then allocate once, then carve the same way again.
#ifndef HT_ARENA_H
#define HT_ARENA_H
#include <stddef.h>

struct ht_arena {
    unsigned char *base; // NULL while planning
    size_t size, used, peak;
    _Bool failed; // a carve did not fit or overflowed; sticky
};
// base NULL = planning, size = SIZE_MAX
void ht_arena_init(struct ht_arena *arena, void *base, size_t size_bytes);
// 64-byte aligned, uninitialised; NULL while planning, or when it does not fit (then `failed` is set).
// Under AddressSanitizer a poisoned gap follows each piece.
void *ht_arena_take(struct ht_arena *arena, size_t count, size_t size_bytes);
size_t ht_arena_mark(const struct ht_arena *arena);
void ht_arena_reset(struct ht_arena *arena, size_t mark);

#endif
