// SPDX-License-Identifier: Apache-2.0
// The inner loops of training with AVX2 with FMA. Any thread.
#include "engine/cpu/train_lanes.h"
#include "engine/cpu/train_tile.h"

const struct ht_train_kernels ht_train_avx2 = HT_OWN_TRAIN_KERNELS(TILE_VECTORS * LANES);
