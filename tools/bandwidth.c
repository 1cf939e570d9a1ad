// SPDX-License-Identifier: Apache-2.0
// Read bandwidth: each thread sums its own piece, which it has touched first, so that pages lie near it.
#include "tools/bandwidth.h"

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "tools/progress.h"

enum { MAX_THREADS = 256, MAX_PASSES = 101 };

struct reader {
    pthread_t thread;
    pthread_barrier_t *barrier;
    const uint64_t *piece;
    size_t n_words;
    unsigned n_passes;
    double begin_s, end_s; // of the last pass, by the reader's own clock
    uint64_t sum;          // kept, so that the reads cannot be left out
};

// Wider loads need fewer instructions for the same bytes; gcc picks the widest that the CPU has at run time
// (before main: too early for ThreadSanitizer).
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_THREAD__)
#define WIDEST __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define WIDEST
#endif

// Sixteen sums hide the latency of the additions; the compiler turns them into vectors.
WIDEST static uint64_t read_piece(const uint64_t *piece, size_t n_words)
{
    uint64_t sums[16] = {0};
    for (size_t i = 0; i + 16 <= n_words; i += 16)
        for (size_t k = 0; k < 16; k++)
            sums[k] += piece[i + k];
    uint64_t sum = 0;
    for (size_t k = 0; k < 16; k++)
        sum += sums[k];
    return sum;
}

static void *read_all(void *user)
{
    struct reader *reader = user;
    memset((void *)reader->piece, 1, reader->n_words * sizeof *reader->piece);
    for (unsigned pass = 0; pass < reader->n_passes; pass++) {
        pthread_barrier_wait(reader->barrier);
        reader->begin_s = progress_clock_s();
        reader->sum += read_piece(reader->piece, reader->n_words);
        reader->end_s = progress_clock_s();
        pthread_barrier_wait(reader->barrier);
    }
    return NULL;
}

// From the first reader's begin to the last one's end: the caller itself may have been off the CPU meanwhile.
static double pass_seconds(const struct reader *readers, unsigned n_threads)
{
    double begin_s = readers[0].begin_s, end_s = readers[0].end_s;
    for (unsigned i = 1; i < n_threads; i++) {
        begin_s = readers[i].begin_s < begin_s ? readers[i].begin_s : begin_s;
        end_s = readers[i].end_s > end_s ? readers[i].end_s : end_s;
    }
    return end_s - begin_s;
}

// The caller is one more party of the barriers, between which the readers' clocks may be read. Returns the
// fastest pass: a limit of the machine is what it can do undisturbed. The first pass only warms up.
static double time_passes(pthread_barrier_t *barrier, const struct reader *readers, unsigned n_threads,
                          unsigned n_passes)
{
    double best_s = 0;
    for (unsigned pass = 0; pass < n_passes; pass++) {
        pthread_barrier_wait(barrier);
        pthread_barrier_wait(barrier);
        double seconds = pass_seconds(readers, n_threads);
        if (pass == 1 || (pass > 1 && seconds < best_s))
            best_s = seconds;
    }
    return best_s;
}

double bandwidth_read_gib_per_second(size_t len_bytes, unsigned n_threads, unsigned n_repeat)
{
    static struct reader readers[MAX_THREADS];
    pthread_barrier_t barrier;
    if (n_threads > MAX_THREADS)
        n_threads = MAX_THREADS;
    unsigned n_passes = n_repeat * 5 + 2 < MAX_PASSES ? n_repeat * 5 + 2 : MAX_PASSES;
    size_t n_words = len_bytes / sizeof(uint64_t) / n_threads / 16 * 16, started = 0;
    uint64_t *buffer = n_words ? aligned_alloc(64, n_words * n_threads * sizeof *buffer) : NULL;
    if (!buffer)
        return 0;
    if (pthread_barrier_init(&barrier, NULL, n_threads + 1)) {
        free(buffer);
        return 0;
    }
    for (; started < n_threads; started++) {
        readers[started] = (struct reader){.barrier = &barrier,
                                           .piece = buffer + started * n_words,
                                           .n_words = n_words,
                                           .n_passes = n_passes};
        if (pthread_create(&readers[started].thread, NULL, read_all, &readers[started]))
            break;
    }
    double seconds = 0;
    if (started == n_threads) {
        seconds = time_passes(&barrier, readers, n_threads, n_passes);
    } else { // too few threads to pass the barrier: end those that wait
        for (size_t i = 0; i < started; i++)
            pthread_cancel(readers[i].thread);
    }
    for (size_t i = 0; i < started; i++)
        pthread_join(readers[i].thread, NULL);
    pthread_barrier_destroy(&barrier);
    free(buffer);
    return seconds > 0 ? (double)(n_words * n_threads * sizeof(uint64_t)) / seconds / (1024.0 * 1024 * 1024)
                       : 0;
}
