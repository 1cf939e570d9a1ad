// SPDX-License-Identifier: Apache-2.0
// The loss of a training run: read from its log, drawn in the terminal and as SVG. Main thread.
#ifndef HEARTH_TOOLS_TRAIN_CURVE_H
#define HEARTH_TOOLS_TRAIN_CURVE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

struct curve_point {
    double step, loss;
};
struct curve {
    struct curve_point *train, *held_out;
    size_t n_train, n_held_out;
};
// Lines that are not a run's are passed over. False: it cannot be read, or memory is short.
bool curve_read(struct curve *curve, const char *path);
void curve_free(struct curve *curve);
void curve_print(const struct curve *curve, FILE *out);
// Readable on light and on dark ground. False with errno set.
bool curve_write_svg(const struct curve *curve, const char *path, const char *title);

#endif
