// SPDX-License-Identifier: Apache-2.0
// How much memory this process may still take: what the system has free, or what its control groups leave, whichever
// is less. Any thread.
#ifndef HD_MEMORY_H
#define HD_MEMORY_H
#include <stdint.h>

// `root` stands before /proc and /sys: "" but in tests. 0 when nothing can be read.
uint64_t hd_memory_available(const char *root);
uint64_t hd_memory_resident(void); // of this process
// What all loaded models together may need: budget_mib, or with 0 what is free and what we hold, less an eighth.
uint64_t hd_memory_budget(unsigned budget_mib);

#endif
