// SPDX-License-Identifier: Apache-2.0
// Training's ops on rows and flat vectors with AVX2 with FMA. Any thread.
#include "engine/cpu/train_row_lanes.h"

const struct ht_row_kernels ht_train_rows_avx2 = HT_OWN_ROW_KERNELS;
