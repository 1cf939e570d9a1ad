// SPDX-License-Identifier: Apache-2.0
// The inner loops of training with AVX-512. Any thread.
#include "engine/cpu/train_lanes.h"
#include "engine/cpu/train_tile.h"

const struct ht_train_kernels ht_train_avx512vnni = {
    .columns = HT_PANEL,
    .tile = tile,
    .transpose = transpose,
    .softmax = softmax,
    .pairs = pairs,
    .dot = dot,
    .put_scaled = put_scaled,
};
