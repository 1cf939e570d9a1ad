// SPDX-License-Identifier: Apache-2.0
#include "engine/cpu/kernels.h"

void ht_kernels_avx512vnni(struct ht_kernels *kernels)
{
    (void)kernels;
}
