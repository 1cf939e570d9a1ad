// SPDX-License-Identifier: Apache-2.0
// How much memory this process may still take. Any thread; reads a few small system files.
#ifndef HT_FREE_MEMORY_H
#define HT_FREE_MEMORY_H
#include <stdint.h>

// What the system can give without swapping, and no more than the process's control groups allow. 0 = not known.
uint64_t ht_memory_free(void);
// What the groups allow beyond what they use, counting file pages that nobody needs as free: UINT64_MAX = no limit. For
// tests: see ht_cgroup_visit.
uint64_t ht_memory_of_cgroup(const char *self, const char *root);

#endif
