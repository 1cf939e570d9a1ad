// SPDX-License-Identifier: Apache-2.0
// Training's ops on rows and flat vectors with AVX-512. Any thread.
#include "engine/cpu/train_row_lanes.h"

const struct ht_row_kernels ht_train_rows_avx512vnni = HT_OWN_ROW_KERNELS;
