// SPDX-License-Identifier: Apache-2.0
// What models may take of this machine's memory. Any thread.
#ifndef HD_MEMORY_H
#define HD_MEMORY_H
#include <stdint.h>

uint64_t hd_memory_resident(void); // of this process
// What all loaded models together may need: budget_mib, or with 0 what is free and what we hold, less an eighth.
uint64_t hd_memory_budget(unsigned budget_mib);

#endif
