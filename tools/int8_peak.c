// SPDX-License-Identifier: Apache-2.0
// Loops of nothing but the instruction in question, on registers, on every thread at once.
#include "tools/int8_peak.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "tools/progress.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { MAX_THREADS = 256, RUNS = 5, TURNS = 400000, VNNI_PER_TURN = 24, AMX_PER_TURN = 4 };
// A vector is 64 products, a pair of tiles 16 x 16 x 64.
static const double VNNI_OPS = 64 * 2, AMX_OPS = 16 * 16 * 64 * 2;

static bool has(enum int8_unit unit)
{
    enum { OSXSAVE = 1 << 27, F = 1 << 16, VNNI = 1 << 11, TILE = 1 << 24, INT8 = 1 << 25 };
    const uint32_t zmm = 0xE6, tiles = 3u << 17;
    uint32_t a, b, c, d, low, high;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & OSXSAVE) || !__get_cpuid_count(7, 0, &a, &b, &c, &d))
        return false;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if (unit == INT8_VNNI)
        return (b & F) && (c & VNNI) && (low & zmm) == zmm;
    enum { REQUEST = 0x1023, TILE_DATA = 18 };
    return (d & (TILE | INT8)) == (TILE | INT8) && (low & tiles) == tiles &&
           !syscall(SYS_arch_prctl, REQUEST, TILE_DATA);
}

// Registers are named in the text alone: the compiler need not know them, since nothing else runs in between.
static void vnni_turns(unsigned n)
{
    while (n--)
        __asm__ volatile(".irp i,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23\n"
                         "vpdpbusd %%zmm30, %%zmm31, %%zmm\\i\n"
                         ".endr" ::
                             : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
                               "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
    __asm__ volatile("vzeroupper");
}

static void amx_turns(unsigned n)
{
    static const struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } shapes = {
        .palette = 1, .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64}, .rows = {16, 16, 16, 16, 16, 16, 16, 16}};
    __asm__ volatile("ldtilecfg %0" ::"m"(shapes));
    while (n--)
        __asm__ volatile("tdpbusd %tmm7, %tmm6, %tmm0\n"
                         "tdpbusd %tmm7, %tmm6, %tmm1\n"
                         "tdpbusd %tmm5, %tmm4, %tmm2\n"
                         "tdpbusd %tmm5, %tmm4, %tmm3");
    __asm__ volatile("tilerelease");
}

struct runner {
    pthread_t thread;
    pthread_barrier_t *barrier;
    enum int8_unit unit;
    double best;
};

static void *run(void *user)
{
    struct runner *runner = user;
    const bool amx = runner->unit == INT8_AMX;
    const double ops = TURNS * (amx ? AMX_PER_TURN * AMX_OPS : VNNI_PER_TURN * VNNI_OPS);
    for (unsigned i = 0; i < RUNS; i++) {
        pthread_barrier_wait(runner->barrier);
        double begin_s = progress_clock_s();
        (amx ? amx_turns : vnni_turns)(TURNS);
        double rate = ops / (progress_clock_s() - begin_s) / 1e9;
        runner->best = rate > runner->best ? rate : runner->best;
    }
    return NULL;
}

double int8_peak_gops(enum int8_unit unit, unsigned n_threads)
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
double int8_peak_gops(enum int8_unit unit, unsigned n_threads)
{
    (void)unit, (void)n_threads;
    return 0;
}
#endif
