// SPDX-License-Identifier: Apache-2.0
// The parts that overlay_neon.c puts together; each sets its entries of the table. Called when a device is opened.
#ifndef HT_OVERLAY_NEON_H
#define HT_OVERLAY_NEON_H
#include "engine/cpu/kernels.h"

void ht_matmul_neon(struct ht_kernels *kernels);
void ht_dequant_neon(struct ht_kernels *kernels);
void ht_rows_neon(struct ht_kernels *kernels);
void ht_attention_neon(struct ht_kernels *kernels);
void ht_lora_neon(struct ht_kernels *kernels);

#endif
