// SPDX-License-Identifier: Apache-2.0
// Training's ops on rows and flat vectors with NEON. Any thread.
#include "engine/cpu/train_row_lanes.h"

const struct ht_row_kernels ht_train_rows_neon = {
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
