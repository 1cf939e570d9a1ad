// SPDX-License-Identifier: Apache-2.0
// hearth bench --kernels: every quantised format's product as bytes per second, beside what memory gives. Main thread.
#ifndef HEARTH_TOOLS_KERNELS_H
#define HEARTH_TOOLS_KERNELS_H
#include <stdbool.h>

int kernels_measure(unsigned n_threads, bool as_json); // an exit code

#endif
