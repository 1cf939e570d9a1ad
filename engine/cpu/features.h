// SPDX-License-Identifier: Apache-2.0
// Which instruction sets this CPU and this operating system offer. Any thread.
#ifndef HT_CPU_FEATURES_H
#define HT_CPU_FEATURES_H

#include <stdbool.h>

// The paths of engine/cpu. Plain C, then those of x86-64, then those of aarch64, each family in ascending order of
// preference; within a family each includes what the ones before need.
//   amx      AVX-512 VNNI, and int8 tiles that the system lets this process use (Sapphire Rapids and later)
//   neon     what every aarch64 CPU has (Cortex-A53, A57, A72)
//   dotprod  sdot: 4 products and their sum (Cortex-A55, A76 and later)
//   i8mm     smmla: 2 x 2 sums of 8 products (Neoverse V1 and N2, Cortex-A510, A710, X2, Apple M2 and later)
enum ht_isa {
    HT_ISA_REF,
    HT_ISA_AVX2,
    HT_ISA_AVX512VNNI,
    HT_ISA_AMX,
    HT_ISA_NEON,
    HT_ISA_DOTPROD,
    HT_ISA_I8MM,
    HT_N_ISAS
};

extern const char *const ht_isa_names[HT_N_ISAS]; // "ref", "avx2", "avx512vnni", "neon" ...
// The best path that can run here, and whether a path can.
enum ht_isa ht_isa_best(void);
bool ht_isa_can(enum ht_isa isa);
// Whether an AVX-512 path may use vdpbf16ps and what rounds to bf16.
bool ht_isa_has_bf16(void);

#endif
