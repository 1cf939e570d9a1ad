// SPDX-License-Identifier: Apache-2.0
// The inner loops of training with AVX-512. Any thread.
#include "engine/cpu/train_lanes.h"
#include "engine/cpu/train_tile.h"

const struct ht_train_kernels ht_train_avx512vnni = HT_OWN_TRAIN_KERNELS(HT_PANEL);
