// SPDX-License-Identifier: Apache-2.0
// The lanes of the instruction set that a file is compiled for. Included by train_lanes_*.c and what they include.
#ifndef HT_LANES_AVX_H
#define HT_LANES_AVX_H
#ifdef __AVX512F__
#include "engine/cpu/lanes_avx512.h"
#else
#include "engine/cpu/lanes_avx2.h"
#endif
#endif
