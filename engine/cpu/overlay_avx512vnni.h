// SPDX-License-Identifier: Apache-2.0
// The parts that overlay_avx512vnni.c puts together; each sets its entries of the table.
// Called when a device is opened.
#ifndef HT_OVERLAY_AVX512VNNI_H
#define HT_OVERLAY_AVX512VNNI_H
#include "engine/cpu/kernels.h"

void ht_matvec_avx512vnni(struct ht_kernels *kernels);
void ht_few_avx512vnni(struct ht_kernels *kernels);
void ht_dequant_avx512vnni(struct ht_kernels *kernels);
void ht_panel_avx512vnni(struct ht_kernels *kernels);
void ht_rows_avx512vnni(struct ht_kernels *kernels);
void ht_attention_avx512vnni(struct ht_kernels *kernels);
void ht_lora_avx512vnni(struct ht_kernels *kernels);

#endif
