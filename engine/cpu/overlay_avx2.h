// SPDX-License-Identifier: Apache-2.0
// The parts that overlay_avx2.c puts together; each sets its entries of the table. Called when a device is opened.
#ifndef HT_OVERLAY_AVX2_H
#define HT_OVERLAY_AVX2_H
#include "engine/cpu/kernels.h"

void ht_matmul_avx2(struct ht_kernels *kernels);
void ht_dequant_avx2(struct ht_kernels *kernels);
void ht_rows_avx2(struct ht_kernels *kernels);
void ht_attention_avx2(struct ht_kernels *kernels);
void ht_lora_avx2(struct ht_kernels *kernels);

#endif
