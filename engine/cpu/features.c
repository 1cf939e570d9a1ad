// SPDX-License-Identifier: Apache-2.0
// CPUID and XGETBV, or the kernel's hardware capabilities, asked afresh each time: no global state. Any thread.
#include "engine/cpu/features.h"

const char *const ht_isa_names[HT_N_ISAS] = {"ref", "avx2", "avx512vnni", "amx", "neon", "dotprod", "i8mm"};

#if defined(__x86_64__)
#include <cpuid.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

static uint64_t saved_by_system(void) // XCR0: register states the system saves
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

// Tile registers are large: Linux gives them to a process that asks (once for all its threads), unless a limit or a
// small signal stack speaks against it.
static bool amx_allowed(uint32_t leaf7_edx, uint64_t saved)
{
    enum { BF16 = 1 << 22, TILE = 1 << 24, INT8 = 1 << 25, ALL = BF16 | TILE | INT8, REQUEST = 0x1023, TILE_DATA = 18 };
    const uint64_t tiles = 3ull << 17;
    if ((leaf7_edx & ALL) != ALL || (saved & tiles) != tiles)
        return false;
    return !syscall(SYS_arch_prctl, REQUEST, TILE_DATA);
}

enum ht_isa ht_isa_best(void)
{
    enum { OSXSAVE = 1 << 27, FMA = 1 << 12, F16C = 1 << 29 };                      // leaf 1, ecx
    enum { AVX2 = 1 << 5, BMI2 = 1 << 8, F = 1 << 16, DQ = 1 << 17, BW = 1 << 30 }; // leaf 7, ebx
    const uint32_t vl = 1u << 31, vnni = 1 << 11;                                   // leaf 7, ebx and ecx
    const uint64_t ymm = 6, zmm = 0xE6;
    uint32_t a, b, c, d, b7, c7, d7;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & (OSXSAVE | FMA | F16C)) != (OSXSAVE | FMA | F16C))
        return HT_ISA_REF;
    if (!__get_cpuid_count(7, 0, &a, &b7, &c7, &d7))
        return HT_ISA_REF;
    uint64_t saved = saved_by_system();
    if ((saved & ymm) != ymm || (b7 & (AVX2 | BMI2)) != (AVX2 | BMI2))
        return HT_ISA_REF;
    const uint32_t need = F | DQ | BW | vl;
    if ((saved & zmm) != zmm || (b7 & need) != need || !(c7 & vnni))
        return HT_ISA_AVX2;
    return amx_allowed(d7, saved) ? HT_ISA_AMX : HT_ISA_AVX512VNNI;
}

bool ht_isa_has_bf16(void)
{
    uint32_t a, b, c, d;
    return ht_isa_best() >= HT_ISA_AVX512VNNI && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1 << 5);
}

enum { FIRST = HT_ISA_AVX2 }; // of this family
#elif defined(__aarch64__)
#include <sys/auxv.h>

enum ht_isa ht_isa_best(void)
{
    const unsigned long asimddp = 1ul << 20, i8mm = 1ul << 13; // AT_HWCAP, AT_HWCAP2
    if (!(getauxval(AT_HWCAP) & asimddp))
        return HT_ISA_NEON;
    return getauxval(AT_HWCAP2) & i8mm ? HT_ISA_I8MM : HT_ISA_DOTPROD;
}

bool ht_isa_has_bf16(void)
{
    return false;
}

enum { FIRST = HT_ISA_NEON };
#else
enum ht_isa ht_isa_best(void)
{
    return HT_ISA_REF;
}

bool ht_isa_has_bf16(void)
{
    return false;
}

enum { FIRST = HT_N_ISAS };
#endif

bool ht_isa_can(enum ht_isa isa)
{
    return isa == HT_ISA_REF || ((int)isa >= (int)FIRST && isa <= ht_isa_best());
}
