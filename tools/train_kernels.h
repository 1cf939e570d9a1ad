// SPDX-License-Identifier: Apache-2.0
// hearth bench --train-kernels: what training's ops beside the frozen products take. Main thread.
#ifndef HEARTH_TOOLS_TRAIN_KERNELS_H
#define HEARTH_TOOLS_TRAIN_KERNELS_H
#include <stdbool.h>

int train_kernels_measure(unsigned n_threads, const char *cpu_isa, bool as_json); // an exit code; NULL = the best

#endif
