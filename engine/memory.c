// SPDX-License-Identifier: Apache-2.0
// The public view of free memory, apart from engine.c so that a program can have it without an engine. Any thread.
#include "engine/base/free_memory.h"
#include "engine/engine.h"

uint64_t hearth_memory_free(void)
{
    return ht_memory_free();
}
