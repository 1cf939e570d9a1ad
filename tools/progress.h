// SPDX-License-Identifier: Apache-2.0
// One progress bar on stderr, drawn only on a terminal, at most ten times a second. One thread at a time.
#ifndef HEARTH_TOOLS_PROGRESS_H
#define HEARTH_TOOLS_PROGRESS_H
#include <stdbool.h>
#include <stdint.h>

struct progress {
    const char *label;
    uint64_t total; // 0 = unknown
    uint64_t start_value;
    double started_s, drawn_s;
    bool active; // stderr is a terminal
    bool shown;
};

// `done` = where it starts (a resumed download); `total` in bytes, or 0.
void progress_start(struct progress *bar, const char *label, uint64_t done, uint64_t total);
void progress_set(struct progress *bar, uint64_t done);
void progress_end(struct progress *bar); // removes the bar

// Seconds on a clock that only goes forward.
double progress_clock_s(void);
int progress_columns(void);                        // of the terminal
void progress_rest(char text[24], double seconds); // "12 s", "3 min", "2.0 h"
void progress_line(const char *text);              // in place of the one before it, cut where the terminal ends

#endif
