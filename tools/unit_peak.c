// SPDX-License-Identifier: Apache-2.0
// Loops of nothing but the instruction in question, on registers, on every thread at once.
#include "tools/unit_peak.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "tools/progress.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { MAX_THREADS = 256, RUNS = 5, TURNS = 400000, VECTORS_PER_TURN = 24, TILES_PER_TURN = 4 };

struct cpu { // leaves 1 (ecx), 7 (ebx, ecx, edx), 7.1 (eax); XCR0
    uint32_t c1, b7, c7, d7, a71, saved;
};

static bool read_cpu(struct cpu *cpu)
{
    enum { OSXSAVE = 1 << 27 };
    uint32_t a, b, c, d, high;
    if (!__get_cpuid(1, &a, &b, &cpu->c1, &d) || !(cpu->c1 & OSXSAVE) ||
        !__get_cpuid_count(7, 0, &a, &cpu->b7, &cpu->c7, &cpu->d7))
        return false;
    cpu->a71 = a && __get_cpuid_count(7, 1, &a, &b, &c, &d) ? a : 0;
    __asm__ volatile("xgetbv" : "=a"(cpu->saved), "=d"(high) : "c"(0));
    return true;
}

static bool has_vectors(const struct cpu *cpu, bool wide)
{
    enum { FMA = 1 << 12, AVX2 = 1 << 5, F = 1 << 16 };
    const uint32_t ymm = 6, zmm = 0xE6;
    return wide ? (cpu->b7 & F) && (cpu->saved & zmm) == zmm
                : (cpu->c1 & FMA) && (cpu->b7 & AVX2) && (cpu->saved & ymm) == ymm;
}

static bool has(enum unit unit)
{
    enum { VNNI = 1 << 11, VECTOR_BF16 = 1 << 5, BF16 = 1 << 22, TILE = 1 << 24, INT8 = 1 << 25 };
    enum { REQUEST = 0x1023, TILE_DATA = 18 };
    const uint32_t tiles = 3u << 17;
    struct cpu cpu;
    if (!read_cpu(&cpu))
        return false;
    switch (unit) {
    case UNIT_F32:
    case UNIT_F32_AVX2: return has_vectors(&cpu, false);
    case UNIT_INT8_VNNI: return has_vectors(&cpu, true) && (cpu.c7 & VNNI);
    case UNIT_BF16_AVX512: return has_vectors(&cpu, true) && (cpu.a71 & VECTOR_BF16);
    default: break;
    }
    const uint32_t need = TILE | (unit == UNIT_INT8_AMX ? INT8 : BF16);
    return (cpu.d7 & need) == need && (cpu.saved & tiles) == tiles && !syscall(SYS_arch_prctl, REQUEST, TILE_DATA);
}

// Registers are named in the text alone: the compiler need not know them, since nothing else runs in between. They
// begin as zeros: what happens to lie in them could be numbers that slow a multiplier down.
#define VECTOR_TURNS(name, instruction)                                                                      \
    static void name(unsigned n)                                                                             \
    {                                                                                                        \
        __asm__ volatile("vzeroall\n.irp i,16,17,18,19,20,21,22,23,30,31\n"                                  \
                         "vpxord %%zmm\\i, %%zmm\\i, %%zmm\\i\n.endr" ::                                     \
                             : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",       \
                               "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");                \
        while (n--)                                                                                          \
            __asm__ volatile(".irp i,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23\n" instruction \
                             "\n.endr" ::                                                                    \
                                 : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",   \
                                   "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");            \
        __asm__ volatile("vzeroupper");                                                                      \
    }
VECTOR_TURNS(vnni_turns, "vpdpbusd %%zmm30, %%zmm31, %%zmm\\i")
VECTOR_TURNS(bf16_turns, "vdpbf16ps %%zmm30, %%zmm31, %%zmm\\i")
VECTOR_TURNS(wide_turns, "vfmadd231ps %%zmm30, %%zmm31, %%zmm\\i")

static void narrow_turns(unsigned n)
{
    __asm__ volatile("vzeroall" ::
                         : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
                           "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
    while (n--)
        __asm__ volatile(".irp i,0,1,2,3,4,5,6,7,8,9,10,11\n"
                         "vfmadd231ps %%ymm14, %%ymm15, %%ymm\\i\n"
                         "vfmadd231ps %%ymm14, %%ymm15, %%ymm\\i\n"
                         ".endr" ::
                             : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
                               "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
    __asm__ volatile("vzeroupper");
}

#define TILE_TURNS(name, instruction)                                                                        \
    static void name(unsigned n)                                                                             \
    {                                                                                                        \
        static const struct {                                                                                \
            uint8_t palette, start_row, reserved[14];                                                        \
            uint16_t row_bytes[16];                                                                          \
            uint8_t rows[16];                                                                                \
        } shapes = {.palette = 1,                                                                            \
                    .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},                                           \
                    .rows = {16, 16, 16, 16, 16, 16, 16, 16}};                                               \
        __asm__ volatile("ldtilecfg %0" ::"m"(shapes));                                                      \
        while (n--)                                                                                          \
            __asm__ volatile(instruction " %tmm7, %tmm6, %tmm0\n" instruction " %tmm7, %tmm6, %tmm1\n"       \
                             instruction " %tmm5, %tmm4, %tmm2\n" instruction " %tmm5, %tmm4, %tmm3");       \
        __asm__ volatile("tilerelease");                                                                     \
    }
TILE_TURNS(int8_tile_turns, "tdpbusd")
TILE_TURNS(bf16_tile_turns, "tdpbf16ps")

// Operations of a turn, and the loop.
static double unit_of(enum unit unit, void (**turns)(unsigned n))
{
    struct cpu cpu;
    bool wide = read_cpu(&cpu) && has_vectors(&cpu, true);
    switch (unit) {
    case UNIT_INT8_VNNI: *turns = vnni_turns; return VECTORS_PER_TURN * 64 * 2;
    case UNIT_BF16_AVX512: *turns = bf16_turns; return VECTORS_PER_TURN * 32 * 2;
    case UNIT_F32: *turns = wide ? wide_turns : narrow_turns; return VECTORS_PER_TURN * (wide ? 16 : 8) * 2;
    case UNIT_F32_AVX2: *turns = narrow_turns; return VECTORS_PER_TURN * 8 * 2;
    case UNIT_INT8_AMX: *turns = int8_tile_turns; return TILES_PER_TURN * 16 * 16 * 64 * 2;
    default: *turns = bf16_tile_turns; return TILES_PER_TURN * 16 * 16 * 32 * 2;
    }
}

struct runner {
    pthread_t thread;
    pthread_barrier_t *barrier;
    enum unit unit;
    double best;
};

static void *run(void *user)
{
    struct runner *runner = user;
    void (*turns)(unsigned n);
    const double ops = TURNS * unit_of(runner->unit, &turns);
    for (unsigned i = 0; i < RUNS; i++) {
        pthread_barrier_wait(runner->barrier);
        double begin_s = progress_clock_s();
        turns(TURNS);
        double rate = ops / (progress_clock_s() - begin_s) / 1e9;
        runner->best = rate > runner->best ? rate : runner->best;
    }
    return NULL;
}

double unit_peak_gops(enum unit unit, unsigned n_threads)
{
    static struct runner runners[MAX_THREADS];
    pthread_barrier_t barrier;
    n_threads = n_threads > MAX_THREADS ? MAX_THREADS : n_threads;
    if (!n_threads || !has(unit) || pthread_barrier_init(&barrier, NULL, n_threads))
        return 0;
    unsigned started = 0;
    double sum = 0;
    for (; started < n_threads; started++) {
        runners[started] = (struct runner){.barrier = &barrier, .unit = unit};
        if (pthread_create(&runners[started].thread, NULL, run, &runners[started]))
            break;
    }
    for (unsigned i = 0; i < started; i++) {
        if (started < n_threads) // too few to pass the barrier
            pthread_cancel(runners[i].thread);
        pthread_join(runners[i].thread, NULL);
        sum += runners[i].best;
    }
    pthread_barrier_destroy(&barrier);
    return started == n_threads ? sum : 0;
}
#else
double unit_peak_gops(enum unit unit, unsigned n_threads)
{
    (void)unit, (void)n_threads;
    return 0;
}
#endif
