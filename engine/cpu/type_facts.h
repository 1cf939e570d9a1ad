// SPDX-License-Identifier: Apache-2.0
// What layout.c's table says, as functions that fold away where the type is a compile-time constant. Included
// by kernels.
#ifndef HT_TYPE_FACTS_H
#define HT_TYPE_FACTS_H
#include "engine/cpu/kernels.h"

#define INLINE static inline __attribute__((always_inline))
// Unrolled loops make positions constants. Not under a sanitizer, where the code would grow beyond all
// measure.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define UNROLL
#else
#define UNROLL _Pragma("GCC unroll 8")
#endif

// value = code - zero (q8_0 and iq4_nl: biased by 128)
INLINE int zero_of(enum ht_type type)
{
    return type == HT_TYPE_Q4_0                             ? 8
           : type == HT_TYPE_Q5_0                           ? 16
           : type == HT_TYPE_Q8_0 || type == HT_TYPE_IQ4_NL ? 128
           : type == HT_TYPE_Q3_K                           ? 4
           : type == HT_TYPE_Q6_K                           ? 32
                                                            : 0;
}
INLINE enum ht_kind kind_of(enum ht_type type)
{
    switch (type) {
    case HT_TYPE_Q4_1:
    case HT_TYPE_Q5_1: return HT_KIND_DM;
    case HT_TYPE_Q4_K:
    case HT_TYPE_Q5_K: return HT_KIND_K32M;
    case HT_TYPE_Q3_K:
    case HT_TYPE_Q6_K: return HT_KIND_K16;
    case HT_TYPE_Q2_K: return HT_KIND_K16M;
    default: return HT_KIND_D;
    }
}
INLINE unsigned tile_bytes_of(enum ht_type type)
{
    switch (type) {
    case HT_TYPE_Q4_0:
    case HT_TYPE_IQ4_NL: return 16 * 18;
    case HT_TYPE_Q4_1: return 16 * 20;
    case HT_TYPE_Q5_0: return 16 * 22;
    case HT_TYPE_Q5_1: return 16 * 24;
    case HT_TYPE_Q8_0: return 16 * 34;
    case HT_TYPE_Q2_K: return 16 * 84;
    case HT_TYPE_Q3_K: return 16 * 110;
    case HT_TYPE_Q4_K: return 16 * 144;
    case HT_TYPE_Q5_K: return 16 * 176;
    default: return 16 * 210;
    }
}
INLINE unsigned blocks32_of(enum ht_type type) // 32s in a tile
{
    return type >= HT_TYPE_Q2_K && type <= HT_TYPE_Q6_K ? 8 : 1;
}
INLINE unsigned side_of(enum ht_type type) // offset of d
{
    switch (type) {
    case HT_TYPE_Q8_0: return 512;
    case HT_TYPE_Q5_0:
    case HT_TYPE_Q5_1: return 256 + 64;
    case HT_TYPE_Q2_K: return 1024;
    case HT_TYPE_Q3_K: return 1024 + 512;
    case HT_TYPE_Q4_K: return 2048;
    case HT_TYPE_Q5_K: return 2048 + 512;
    case HT_TYPE_Q6_K: return 2048 + 1024;
    default: return 256;
    }
}
INLINE int max_code_of(enum ht_type type)
{
    switch (type) {
    case HT_TYPE_Q8_0:
    case HT_TYPE_IQ4_NL: return 255;
    case HT_TYPE_Q6_K: return 63;
    default: return 31;
    }
}

#endif
