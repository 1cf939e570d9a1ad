// SPDX-License-Identifier: Apache-2.0
// Waiting for what the engine thread does, for the tests of the worker. Whoever waits has WAIT_MS, and drain(),
// which takes the notes that have come.
#ifndef WIRE_WAIT_H
#define WIRE_WAIT_H
#include <time.h>
#include <unistd.h>

static inline int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

// error: the text of the last one, for the message.
#define WAIT_UNTIL(condition, error)                                                                                   \
    do {                                                                                                               \
        int64_t until_ms = now_ms() + WAIT_MS;                                                                         \
        drain();                                                                                                       \
        while (!(condition) && now_ms() < until_ms) {                                                                  \
            usleep(1000);                                                                                              \
            drain();                                                                                                   \
        }                                                                                                              \
        if (!(condition))                                                                                              \
            fail_msg("waited in vain for %s (%s)", #condition, error);                                                 \
    } while (0)

#endif
