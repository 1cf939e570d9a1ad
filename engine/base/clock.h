// SPDX-License-Identifier: Apache-2.0
// The clock, and the median of what was timed. Any thread.
#ifndef HT_CLOCK_H
#define HT_CLOCK_H
#include <time.h>

// Monotonic.
static inline double ht_now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

// Sorts the n values.
static inline double ht_median(double *values, int n)
{
    for (int i = 1; i < n; i++)
        for (int j = i; j > 0 && values[j] < values[j - 1]; j--) {
            double swap = values[j];
            values[j] = values[j - 1];
            values[j - 1] = swap;
        }
    return values[n / 2];
}

#endif
