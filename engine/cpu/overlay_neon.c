// SPDX-License-Identifier: Apache-2.0
// What every aarch64 CPU does faster than plain C: NEON of ARMv8.0. Later instructions replace the matrix products
// only (matmul_dotprod.c, matmul_i8mm.c). Any thread.
#include "engine/cpu/overlay_neon.h"

void ht_kernels_neon(struct ht_kernels *kernels)
{
    ht_matmul_neon(kernels);
    ht_dequant_neon(kernels);
    ht_rows_neon(kernels);
    ht_attention_neon(kernels);
    ht_lora_neon(kernels);
}
