// SPDX-License-Identifier: Apache-2.0
// The keeper thread: work that reads and writes files for long, in the order in which it was given, so that neither the
// server loop nor the engine thread waits for a disk. Functions: any thread, unless they say otherwise.
#ifndef HD_KEEPER_H
#define HD_KEEPER_H
#include <stdbool.h>

#include "engine/status.h"

// The first member of a piece of work. The keeper owns it from hd_keeper_add until `done` was called.
struct hd_task {
    struct hd_task *next;
    void (*run)(struct hd_task *task);  // keeper thread
    void (*done)(struct hd_task *task); // loop thread: frees it
};

struct hd_keeper;
// `wake` is called on the keeper thread when something is done.
enum hearth_status hd_keeper_start(struct hd_keeper **keeper, void (*wake)(void *user), void *user,
                                   struct hearth_error *err);
// False: it has ended, and the task stays the caller's. That never happens to the loop thread before hd_keeper_stop.
bool hd_keeper_add(struct hd_keeper *keeper, struct hd_task *task);
// For other threads, which may outlive it: an engine thread that hangs is left alone at the end.
struct hd_keeper *hd_keeper_ref(struct hd_keeper *keeper);
void hd_keeper_unref(struct hd_keeper **keeper); // NULL allowed
// Loop thread: tells what is done.
void hd_keeper_tell(struct hd_keeper *keeper);
// Loop thread: runs what is left, tells it, ends the thread and gives its reference back. NULL allowed.
void hd_keeper_stop(struct hd_keeper **keeper);

#endif
