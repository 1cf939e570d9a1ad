// SPDX-License-Identifier: Apache-2.0
// A model file is first opened by a child process without network and with little of everything, so that a
// hostile file that crashes the reader costs one error line.
#ifndef HD_CHECK_H
#define HD_CHECK_H
#include <stdatomic.h>

#include "firmware/config.h"

enum { HD_CHECK_MS = 60 * 1000 };

// What the child read in the header.
struct hd_model_facts {
    char architecture[32], file_type[16];
    unsigned n_ctx_train;
    uint64_t weight_bytes, kv_bytes_per_position, scratch_bytes; // as hearth_engine_fit has them
};

struct hd_check {
    const struct hd_config *config;
    unsigned timeout_ms;       // HD_CHECK_MS
    const atomic_bool *cancel; // set by another thread: give up
};
// Runs `hearthd --check-model path` and waits for it. Any thread. OK and *facts, or what the child said or died of.
enum hearth_status hd_check_model(const char *path, const struct hd_check *check,
                                  struct hd_model_facts *facts, struct hearth_error *err);
// The child's work: gives rights away, reads the header, prints one line to stdout: the facts, or why the file cannot
// be served. Returns the exit code.
int hd_check_main(const struct hd_config *config);
// Reads the child's line. False: it is none of those that hd_check_main prints.
bool hd_check_read(const char *line, struct hd_model_facts *facts);

#endif
