// SPDX-License-Identifier: Apache-2.0
// What the files worker*.c share. Nobody else includes this.
//   worker.c         the loop's side: ring, state, start and stop
//   worker_queue.c   who is next: the queue and what each person has had {lock}
//   worker_models.c  which models are loaded (engine thread)
//   worker_run.c     sessions, answers, the engine thread's round
//   worker_prefix.c  caches of conversations that come from disk and go there (engine thread)
#ifndef HD_WORKER_INTERNAL_H
#define HD_WORKER_INTERNAL_H
#include <pthread.h>
#include <stdatomic.h>

#include "firmware/limits.h"
#include "firmware/loader.h"
#include "firmware/worker.h"

enum {
    HD_MAX_SLOTS = 64,
    HD_MAX_FORGETS = 256,
    HD_MAX_PEOPLE = 256, // whose work is remembered
    HD_MAX_IMPORTS = 16, // caches waiting to be taken in
    HD_MAX_DIRTY = 64,   // people per model whose cache is newer than what is on disk
    HD_PREFIX_IDLE_MS = 10 * 1000,
    HD_SWITCH_MS =
        10 * 1000, // a model in place may begin answers this long while another waits for its memory
    HD_JOIN_MS = 10 * 1000,
};

struct hd_waiting {
    struct hd_waiting *next;
    struct hd_job *job;
    int64_t since_ms;         // by hd_steady_ms
    char path[HD_PATH_BYTES]; // of the model; "" = the one in use when its turn comes
};

// What a person has had of the engine. The one with the least is served next.
struct hd_person_work {
    struct hd_id person;
    double tokens; // computed for this person; whoever comes (back) starts where the least of the others is
    unsigned waiting, running;
    uint64_t used; // for "least recently seen"; 0 = free place
};

struct hd_forget {
    struct hd_id conversation, person; // zero = all
};

struct hd_import {
    struct hd_id person;
    char path[HD_PATH_BYTES];
    uint8_t *data; // malloc'ed
    size_t len_bytes;
};

struct hd_loaded;

// One conversation in an engine's cache. Engine thread only.
struct hd_slot_session {
    struct hd_loaded *model;
    struct hearth_session *session; // NULL = free place
    struct hd_id conversation, person;
    struct hd_job *job; // the one that runs, or NULL
    uint64_t used;      // for "least recently used"
    unsigned last_prompt_done;
    unsigned planned; // positions that the running job was promised
    double charged;   // tokens, so far
    bool forget;      // destroy as soon as it is idle
};

struct hd_dirty {
    struct hd_id person;
    int64_t since_ms; // of the last answer
};

// A model in memory. Engine thread only.
struct hd_loaded {
    struct hd_worker *worker;
    struct hearth_engine *engine; // NULL = free place
    struct hearth_engine_info info;
    struct hd_file_identity identity;
    char path[HD_PATH_BYTES], name[HD_MAX_MODEL_BYTES + 1], tag[HD_MODEL_TAG_BYTES];
    uint64_t needed_bytes, used;
    int64_t since_ms, steady_ms; // Unix time; for waiting
    bool leaving;                // no answers begin any more: its memory is wanted
    bool wait_for_end; // somebody's question found no room in the cache: try again when an answer has ended
    struct hd_slot_session slots[HD_MAX_SLOTS];
    unsigned n_slots;
    struct hd_dirty dirty[HD_MAX_DIRTY];
    unsigned n_dirty;
};

enum hd_load_step { HD_LOAD_NONE, HD_LOAD_CHECK, HD_LOAD_ROOM, HD_LOAD_OPEN };

// The load that is under way. Engine thread only.
struct hd_load_state {
    enum hd_load_step step;
    char path[HD_PATH_BYTES];
    bool chosen; // it shall become the model in use: `tag` is told
    uint64_t tag;
    int64_t since_ms; // when somebody began to wait for it
    struct hd_file_facts file;
    unsigned n_ctx;
    uint64_t needed_bytes, budget_bytes;
};

struct hd_worker {
    struct hd_worker_params params;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t work; // jobs, cancels, loads, stop
    pthread_cond_t room; // in the ring
    struct hd_loader *loader;
    uint8_t owner_key[32];
    atomic_llong busy_since_ms; // the engine thread is in the engine since then; 0 = it is not

    // {lock}
    bool stop;
    bool poked; // there is something new for the engine thread
    struct hd_waiting *first, *last;
    unsigned n_waiting, n_active;
    struct hd_person_work people[HD_MAX_PEOPLE];
    uint64_t people_counter;
    double tokens_floor; // what the last one served had
    struct hd_id cancels[HD_MAX_QUEUE + HD_MAX_SLOTS * HD_MAX_LOADED];
    size_t n_cancels;
    bool cancel_all;
    struct hd_forget forgets[HD_MAX_FORGETS];
    size_t n_forgets;
    bool forget_all; // more than fit: everything goes
    uint64_t forget_seq;
    bool load_wanted;
    char load_path[HD_PATH_BYTES];
    uint64_t load_tag;
    struct hd_import imports[HD_MAX_IMPORTS];
    size_t n_imports;
    bool export_now;
    unsigned
        n_exports_out; // HD_NOTE_PREFIXES that the loop has not taken: one at a time, for the sake of memory
    bool loader_done;  // the loader has a result
    struct hd_note ring[HD_RING_NOTES];
    size_t ring_first, ring_n;
    struct hd_worker_state state;

    // engine thread only
    struct hd_loaded models[HD_MAX_LOADED];
    struct hd_load_state load;
    char chosen_path[HD_PATH_BYTES];
    uint64_t use_counter, forgotten_seq;
    bool again; // something has ended: look once more before waiting
};

int64_t hd_steady_ms(void);
void hd_worker_poke(struct hd_worker *worker); // {lock}: wakes the engine thread

// worker.c. Engine thread: gives the note to the loop; waits while the ring is full. Takes over text and token_ids.
void hd_worker_push(struct hd_worker *worker, struct hd_note *note);
void hd_worker_push_failed(struct hd_worker *worker, const struct hd_id *response, const char *model,
                           const struct hearth_error *error, const struct hearth_usage *usage);

// worker_queue.c {lock} all of them
struct hd_person_work *hd_queue_person(struct hd_worker *worker,
                                       const struct hd_id *person); // NULL: too many
void hd_queue_add(struct hd_worker *worker, struct hd_waiting *waiting);
// What shall start next among those that `may` start; taken out of the queue. NULL: nothing.
struct hd_waiting *hd_queue_pick(struct hd_worker *worker, unsigned n_places,
                                 bool (*may)(void *user, const struct hd_waiting *waiting), void *user);
// The first one with this response (NULL: any) or, when path is not NULL, for this model; taken out.
struct hd_waiting *hd_queue_remove(struct hd_worker *worker, const struct hd_id *response, const char *path);
void hd_queue_put_back(struct hd_worker *worker,
                       struct hd_waiting *waiting); // what was picked and found no room
void hd_queue_started(struct hd_worker *worker, const struct hd_id *person, int change); // of running answers
void hd_queue_charge(struct hd_worker *worker, const struct hd_id *person, double tokens);
unsigned hd_queue_waiting(struct hd_worker *worker, const struct hd_id *person);

// worker_models.c (engine thread)
struct hd_loaded *hd_models_loaded_at(struct hd_worker *worker, const char *path);
// Goes on with the load that is under way or begins one that somebody waits for. False: nothing could be done now.
bool hd_models_round(struct hd_worker *worker);
// When hd_models_round should be called again although nothing happened; 0 = need not be.
int64_t hd_models_due_ms(const struct hd_worker *worker);
void hd_models_close(struct hd_loaded *model);
// The engine is unusable: every running answer ends, and the model is gone.
void hd_models_lost(struct hd_loaded *model, const struct hearth_error *error);
void hd_models_publish(struct hd_worker *worker);

// worker_run.c (engine thread)
void *hd_worker_thread(void *worker);
unsigned hd_model_running(const struct hd_loaded *model);
void hd_slot_close(struct hd_slot_session *slot);
void hd_slot_end_job(struct hd_slot_session *slot);
void hd_worker_enter(struct hd_worker *worker); // into the engine, for the watchdog
void hd_worker_leave(struct hd_worker *worker);
// hearth_request.owner: of what the person keeps, or of questions that stand alone, whose cache is never stored.
uint64_t hd_worker_owner(struct hd_worker *worker, const struct hd_id *person, bool kept);
void hd_worker_forget_person(struct hd_loaded *model, const struct hd_id *person);

// worker_prefix.c (engine thread)
void hd_prefix_mark(struct hd_loaded *model, const struct hd_id *person);   // its cache has grown
void hd_prefix_unmark(struct hd_loaded *model, const struct hd_id *person); // zero = everybody
void hd_prefix_take_imports(struct hd_worker *worker);
// Gives one person's cache to the loop, if one is due and the loop has taken the one before.
void hd_prefix_export(struct hd_worker *worker);
void hd_prefix_export_model(struct hd_loaded *model); // before it is unloaded
int64_t hd_prefix_due_ms(struct hd_worker *worker);   // 0 = nothing is due

#endif
