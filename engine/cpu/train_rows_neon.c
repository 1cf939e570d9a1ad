// SPDX-License-Identifier: Apache-2.0
// Training's ops on rows and flat vectors with NEON. Any thread.
#include "engine/cpu/train_row_lanes.h"

const struct ht_row_kernels ht_train_rows_neon = HT_OWN_ROW_KERNELS;
