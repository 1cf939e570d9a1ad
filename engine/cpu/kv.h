// SPDX-License-Identifier: Apache-2.0
// The bytes of a KV page; kv.c has the formats. Any thread (rows of distinct positions or heads at a time).
#ifndef HT_CPU_KV_H
#define HT_CPU_KV_H
#include "engine/cpu/kernels.h"

void ht_kv_geometry(const struct ht_kv_params *params, struct ht_kv_geometry *out);
// Stores k (k_dim) and v (v_dim) at position j [0..31] of the head's page part.
void ht_kv_put(const struct ht_kv_geometry *g, const struct ht_kernels *kernels, unsigned char *head,
               unsigned j, const float *k, const float *v);
// Values as attention reads them.
float ht_kv_get_k(const struct ht_kv_geometry *g, const unsigned char *head, unsigned j, uint32_t d);
float ht_kv_get_v(const struct ht_kv_geometry *g, const unsigned char *head, unsigned j, uint32_t d);

#endif
