// SPDX-License-Identifier: Apache-2.0
// Matrix products with the NEON of every aarch64 CPU; see matmul_neon.h. Any thread.
#include "engine/cpu/matmul_neon.h"
#include "engine/cpu/overlay_neon.h"

HT_BLOCK_TYPES(NEON_FUNCTIONS)

void ht_matmul_neon(struct ht_kernels *kernels)
{
    HT_BLOCK_TYPES(NEON_SET)
}
