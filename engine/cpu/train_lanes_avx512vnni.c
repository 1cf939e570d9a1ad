// SPDX-License-Identifier: Apache-2.0
// The inner loops of training with AVX-512. Any thread.
#define TILE_VECTORS 4 // of a row that a register block has

#include "engine/cpu/lanes_avx512.h"
#include "engine/cpu/train_lanes.h"
#include "engine/cpu/train_tile.h"

const struct ht_train_kernels ht_train_avx512vnni = {
    .tile = tile, .transpose = transpose, .softmax = softmax, .pairs = pairs, .dot = dot, .divide = divide};
