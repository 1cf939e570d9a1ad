// SPDX-License-Identifier: Apache-2.0
// What this machine's int8 multipliers can do at best: the limit that prefill is compared with. Starts and joins its
// threads within the call.
#ifndef HEARTH_TOOLS_INT8_PEAK_H
#define HEARTH_TOOLS_INT8_PEAK_H

enum int8_unit { INT8_VNNI, INT8_AMX }; // 512-bit vpdpbusd; tdpbusd on full tiles

// 10^9 operations (a product and a sum are two) per second of all threads together, the best of several runs; 0 where
// the CPU or the system has no such unit.
double int8_peak_gops(enum int8_unit unit, unsigned n_threads);

#endif
