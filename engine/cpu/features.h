// SPDX-License-Identifier: Apache-2.0
// Which instruction sets this CPU and this operating system offer. Any thread.
#ifndef HT_CPU_FEATURES_H
#define HT_CPU_FEATURES_H

// The paths of engine/cpu in ascending order of preference; each includes what the ones before need.
enum ht_isa { HT_ISA_REF, HT_ISA_AVX2, HT_ISA_AVX512VNNI, HT_N_ISAS };

extern const char *const ht_isa_names[HT_N_ISAS]; // "ref", "avx2", "avx512vnni"
// The best path that can run here.
enum ht_isa ht_isa_best(void);

#endif
