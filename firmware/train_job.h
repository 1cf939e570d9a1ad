// SPDX-License-Identifier: Apache-2.0
// A training on its way from the loop to the engine thread, and what comes back. Loop thread until hd_worker_train has
// taken it, then the engine thread's.
#ifndef HD_TRAIN_JOB_H
#define HD_TRAIN_JOB_H
#include "firmware/adapters.h"
#include "firmware/run_files.h"

enum { HD_MAX_TARGETS_BYTES = 256, HD_TRAIN_N_DATA = 2 };

struct hd_train_job {
    uint64_t tag; // notes carry it
    char adapter[HD_MAX_LEARNT_NAME + 1], data_set[HD_MAX_LEARNT_NAME + 1];
    char model_path[HD_PATH_BYTES], base_sha256[HD_SHA256_HEX_BYTES];
    char targets[HD_MAX_TARGETS_BYTES + 1];
    struct hearth_train_params params; // but for its pointers
    int data_fds[HD_TRAIN_N_DATA];     // memory without a name; -1 = none
    enum hearth_data_format data_formats[HD_TRAIN_N_DATA];
    struct hd_adapter *init; // or NULL
    struct hd_run_files *files;
};
struct hd_train_job *hd_train_job_new(void); // without descriptors; NULL when out of memory
void hd_train_job_free(struct hd_train_job **job); // NULL allowed

enum hd_train_state { // as in hearth.proto
    HD_TRAIN_NONE = 0,
    HD_TRAIN_WAITING,
    HD_TRAIN_READING,
    HD_TRAIN_STEPPING,
    HD_TRAIN_EVALUATING,
    HD_TRAIN_STOPPING,
    HD_TRAIN_STOPPED,
    HD_TRAIN_DONE,
    HD_TRAIN_FAILED,
};

// What training has taken since the daemon started.
struct hd_train_figures {
    bool running;
    uint64_t n_slices, n_steps, n_tokens;
    double busy_s;    // in slices
    double left_s;    // that requests left while there was something to train
    double longest_s; // slice
    double memory_bytes, loss;
};

#endif
