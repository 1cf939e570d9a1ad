// SPDX-License-Identifier: Apache-2.0
// Counter-based random numbers: Philox4x32-10 (Salmon et al., SC'11). The same (key, counter) gives the same
// bits on every back end, in any order; nothing has to be stored to resume. Pure; any thread.
#ifndef HT_RNG_H
#define HT_RNG_H
#include <stdint.h>

struct ht_philox {
    uint32_t v[4];
};
// key = seed; counter = (position, stream): distinct uses take distinct streams.
struct ht_philox ht_philox(uint64_t key, uint64_t counter_lo, uint64_t counter_hi);
// 24 random bits as a float in [0, 1).
static inline float ht_unit_f32(uint32_t bits)
{
    return (float)(bits >> 8) * 0x1p-24f;
}

#endif
