// SPDX-License-Identifier: Apache-2.0
// What AVX2 with FMA and F16C does faster than plain C. Any thread.
#include "engine/cpu/overlay_avx2.h"

void ht_kernels_avx2(struct ht_kernels *kernels)
{
    ht_matmul_avx2(kernels);
    ht_dequant_avx2(kernels);
    ht_rows_avx2(kernels);
    ht_attention_avx2(kernels);
    ht_lora_avx2(kernels);
}
