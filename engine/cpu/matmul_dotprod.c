// SPDX-License-Identifier: Apache-2.0
// Matrix products with sdot; see matmul_neon.h. Any thread.
#include "engine/cpu/matmul_neon.h"

HT_BLOCK_TYPES(NEON_FUNCTIONS)

void ht_kernels_dotprod(struct ht_kernels *kernels)
{
    HT_BLOCK_TYPES(NEON_SET)
}
