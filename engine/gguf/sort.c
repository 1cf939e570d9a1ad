// SPDX-License-Identifier: Apache-2.0
// Heapsort of indices: unlike libc's qsort it never allocates, and no file can make it slow. Any thread.
#include "engine/gguf/gguf_impl.h"

static void sink(uint32_t *order, size_t root, size_t n, ht_gguf_compare_fn *compare, const void *context)
{
    for (size_t child; (child = 2 * root + 1) < n; root = child) {
        if (child + 1 < n && compare(context, order[child], order[child + 1]) < 0)
            child++;
        if (compare(context, order[root], order[child]) >= 0)
            return;
        uint32_t swap = order[root];
        order[root] = order[child];
        order[child] = swap;
    }
}

void ht_gguf_sort(uint32_t *order, size_t n, ht_gguf_compare_fn *compare, const void *context)
{
    for (size_t root = n / 2; root-- > 0;)
        sink(order, root, n, compare, context);
    while (n > 1) {
        uint32_t swap = order[0];
        order[0] = order[--n];
        order[n] = swap;
        sink(order, 0, n, compare, context);
    }
}
