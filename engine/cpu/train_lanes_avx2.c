// SPDX-License-Identifier: Apache-2.0
// The inner loops of training with AVX2 with FMA. Any thread.
#define TILE_VECTORS 2 // of a row that a register block has

#include "engine/cpu/lanes_avx2.h"
#include "engine/cpu/train_lanes.h"
#include "engine/cpu/train_tile.h"

const struct ht_train_kernels ht_train_avx2 = {
    .tile = tile, .transpose = transpose, .softmax = softmax, .pairs = pairs, .dot = dot, .divide = divide};
