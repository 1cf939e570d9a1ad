// SPDX-License-Identifier: Apache-2.0
// The lanes of the instruction set that a file is compiled for. Included by train_lanes.h, train_tile.h
// and train_row_lanes.h.
#ifndef HT_CPU_LANES_H
#define HT_CPU_LANES_H

// The vectors of 16 chains that begin within a row of n, from value i on. Unrolled, or the sums would live in memory.
#define EACH16(v, i, n)                                                                                      \
    _Pragma("GCC unroll 4") for (unsigned v = 0; v < SIXTEEN; v++) if ((i) + v * LANES < (n))

#if defined(__aarch64__)
#include "engine/cpu/lanes_neon.h"
#elif defined(__AVX512F__)
#include "engine/cpu/lanes_avx512.h"
#else
#include "engine/cpu/lanes_avx2.h"
#endif
#endif
