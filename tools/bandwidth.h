// SPDX-License-Identifier: Apache-2.0
// How fast this machine's threads together read memory. Starts and joins its threads within the call.
#ifndef HEARTH_TOOLS_BANDWIDTH_H
#define HEARTH_TOOLS_BANDWIDTH_H
#include <stddef.h>

// The fastest of several passes over a buffer of len_bytes (five for each of n_repeat); 0 if memory or
// threads are short.
double bandwidth_read_gib_per_second(size_t len_bytes, unsigned n_threads, unsigned n_repeat);

#endif
