// SPDX-License-Identifier: Apache-2.0
// What models may take: see memory.h. Any thread.
#include "firmware/memory.h"

#include <stdio.h>
#include <unistd.h>

#include "engine/engine.h"

uint64_t hd_memory_resident(void)
{
    unsigned long size = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "re");
    if (file && fscanf(file, "%lu %lu", &size, &resident) != 2)
        resident = 0;
    if (file)
        fclose(file);
    return (uint64_t)resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

uint64_t hd_memory_budget(unsigned budget_mib)
{
    if (budget_mib)
        return (uint64_t)budget_mib << 20;
    uint64_t ours = hearth_memory_free() + hd_memory_resident();
    return ours - ours / 8;
}
