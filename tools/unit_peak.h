// SPDX-License-Identifier: Apache-2.0
// What this machine's multipliers can do at best: the limit that prefill and training are compared with. Starts and
// joins its threads within the call.
#ifndef HEARTH_TOOLS_UNIT_PEAK_H
#define HEARTH_TOOLS_UNIT_PEAK_H

enum unit {
    UNIT_INT8_VNNI,   // 512-bit vpdpbusd
    UNIT_INT8_AMX,    // tdpbusd on full tiles
    UNIT_F32,         // vfmadd231ps, 512 bits if there are, else 256
    UNIT_F32_AVX2,    // 256 bits
    UNIT_BF16_AVX512, // 512-bit vdpbf16ps
    UNIT_BF16_AMX,    // tdpbf16ps on full tiles
};

// 10^9 operations (a product and a sum are two) per second of all threads together, the best of several runs; 0 where
// the CPU or the system has no such unit.
double unit_peak_gops(enum unit unit, unsigned n_threads);

#endif
