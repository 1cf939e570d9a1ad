// SPDX-License-Identifier: Apache-2.0
// What AVX-512 with VNNI does faster than AVX2. Any thread.
#include "engine/cpu/overlay_avx512vnni.h"

void ht_kernels_avx512vnni(struct ht_kernels *kernels)
{
    ht_matvec_avx512vnni(kernels);
    ht_few_avx512vnni(kernels);
    ht_dequant_avx512vnni(kernels);
    ht_panel_avx512vnni(kernels);
    ht_rows_avx512vnni(kernels);
    ht_attention_avx512vnni(kernels);
    ht_lora_avx512vnni(kernels);
}
