// SPDX-License-Identifier: Apache-2.0
// Training's ops on rows and flat vectors with AVX-512. Any thread.
#include "engine/cpu/train_row_lanes.h"

const struct ht_row_kernels ht_train_rows_avx512vnni = {
    .rmsnorm_back = rmsnorm_back,
    .layernorm = layernorm,
    .layernorm_back = layernorm_back,
    .glu_back = glu_back,
    .softcap_back = softcap_back,
    .add = add_row,
    .cross_entropy = cross_entropy,
    .square_sum = square_sum,
    .scale = scale,
    .adamw = adamw,
    .adamw8 = adamw8,
    .dropout = dropout,
    .noise = noise,
};
