// SPDX-License-Identifier: Apache-2.0
// A model file is first opened by a child process without network and with little of everything, so that a
// hostile file that crashes the reader costs one error line.
#ifndef HD_CHECK_H
#define HD_CHECK_H
#include "engine/status.h"

// Runs `hearthd --check-model path` and waits for it. Any thread. OK, or what the child said or died of.
enum hearth_status hd_check_model(const char *path, struct hearth_error *err);
// The child's work: gives rights away, reads the header, prints one line to stdout if it cannot be served.
// Returns the exit code.
int hd_check_main(const char *path);

#endif
