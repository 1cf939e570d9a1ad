// SPDX-License-Identifier: Apache-2.0
// What worker.c (queues, both threads) and worker_run.c (engine thread) share. Nobody else includes this.
#ifndef HD_WORKER_INTERNAL_H
#define HD_WORKER_INTERNAL_H
#include <pthread.h>
#include <stdatomic.h>

#include "firmware/limits.h"
#include "firmware/worker.h"

enum { HD_MAX_SLOTS = 64, HD_MAX_FORGETS = 256 };

struct hd_waiting {
    struct hd_waiting *next;
    struct hd_job *job;
};

// One conversation in the engine's cache. Engine thread only.
struct hd_slot_session {
    struct hd_worker *worker;
    struct hearth_session *session; // NULL = free place
    struct hd_id conversation;
    struct hd_job *job; // the one that runs, or NULL
    uint64_t used;      // for "least recently used"
    unsigned last_prompt_done;
    unsigned planned; // positions that the running job was promised
    bool forget;      // destroy as soon as it is idle
};

struct hd_worker {
    struct hd_worker_params params;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t work; // jobs, cancels, loads, stop
    pthread_cond_t room; // in the ring

    // {lock}
    bool stop;
    struct hd_waiting *first, *last;
    unsigned n_waiting, n_active;
    struct hd_id cancels[HD_MAX_QUEUE + HD_MAX_SLOTS];
    size_t n_cancels;
    bool cancel_all;
    struct hd_id forgets[HD_MAX_FORGETS];
    size_t n_forgets;
    bool forget_all; // more than fit: every idle session goes
    bool load_wanted;
    char load_path[HD_PATH_BYTES];
    uint64_t load_tag;
    struct hd_note ring[HD_RING_NOTES];
    size_t ring_first, ring_n;
    struct hd_worker_state state;

    // engine thread only
    struct hearth_engine *engine;
    struct hearth_engine_info info;
    char engine_path[HD_PATH_BYTES];
    struct hd_slot_session slots[HD_MAX_SLOTS];
    unsigned n_slots;
    uint64_t use_counter;
    bool wait_for_end; // the head of the queue found no room: try again when an answer has ended
};

// Engine thread: gives the note to the loop; waits while the ring is full. Takes over text and token_ids.
void hd_worker_push(struct hd_worker *worker, struct hd_note *note);
void *hd_worker_thread(void *worker);

#endif
