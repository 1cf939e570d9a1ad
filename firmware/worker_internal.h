// SPDX-License-Identifier: Apache-2.0
// What the files worker*.c share. Nobody else includes this.
//   worker.c         the loop's side: ring, state, start and stop
//   worker_queue.c   who is next: the queue and what each person has had {lock}
//   worker_models.c  which models are loaded (engine thread)
//   worker_run.c     sessions, answers, the engine thread's round
//   worker_room.c    places and positions: who gives way to whom (engine thread)
//   worker_adapters.c  which adapters the loaded models have (engine thread)
//   worker_train.c   training between answers (engine thread)
//   worker_prefix.c  caches of conversations that come from disk and go there (engine thread)
#ifndef HD_WORKER_INTERNAL_H
#define HD_WORKER_INTERNAL_H
#include <pthread.h>
#include <stdatomic.h>

#include "firmware/limits.h"
#include "firmware/loader.h"
#include "firmware/worker.h"

enum {
    HD_MAX_SLOTS = HD_MAX_SESSIONS + HD_MAX_PAUSED,
    HD_MAX_FORGETS = 256,
    HD_MAX_PEOPLE = 256, // whose work is remembered
    HD_MAX_IMPORTS = 16, // caches waiting to be taken in
    HD_MAX_DIRTY = 64,   // people per model whose cache is newer than what is on disk
    HD_PREFIX_IDLE_MS = 10 * 1000,
    HD_SWITCH_MS =
        10 * 1000, // a model in place may begin answers this long while another waits for its memory
    HD_JOIN_MS = 10 * 1000,
    HD_TRAIN_SLICE_MS = 20,
    HD_TRAIN_STOP_MS = 7 * 1000,        // of HD_JOIN_MS, for a last checkpoint
    HD_TRAIN_SAVE_MS = 5 * 60 * 1000, // a checkpoint at least this often
};

struct hd_slot_session;

struct hd_waiting {
    struct hd_waiting *next;
    struct hd_job *job;
    struct hd_slot_session *slot; // NULL: it has not begun; else its answer is paused there
    int64_t since_ms;         // by hd_steady_ms
    char path[HD_PATH_BYTES]; // of the model; "" = the one in use when its turn comes
    bool held;                // there was no room for it: no question of this person begins before an answer ends
    bool forget;              // something of it was deleted meanwhile: nothing computed for it is kept
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
    struct hd_job *job; // the one that runs or is paused, or NULL
    struct hd_waiting *waiting; // the job's place in the queue: while it runs it is in none
    bool paused;
    uint64_t used;      // for "least recently used"
    uint64_t began;     // the order in which answers began
    unsigned last_prompt_done;
    unsigned planned;    // positions that the running job was promised
    unsigned needs;      // positions that it was promised before the pause
    unsigned pause_from; // positions that it must have reached before another pause
    double charged;   // tokens, so far
    struct hd_engine_adapter *adapter; // that the running job uses, or NULL
    bool forget;      // destroy as soon as it is idle
};

// An adapter in an engine.
struct hd_engine_adapter {
    struct hd_adapter *adapter; // NULL = free place
    float scale;
    unsigned id, running;
    uint64_t used;
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
    uint64_t adapter_bytes; // of its adapters' values, as read and as the engine has them
    int64_t since_ms, steady_ms; // Unix time; for waiting
    bool training;               // it stays loaded
    bool leaving;                // no answers begin any more: its memory is wanted
    bool wait_for_end; // somebody's question found no room in the cache: try again when an answer has ended
    struct hd_slot_session slots[HD_MAX_SLOTS];
    unsigned n_slots, n_places; // n_places: so many answer at once
    struct hd_dirty dirty[HD_MAX_DIRTY];
    unsigned n_dirty;
    char sha256[HD_SHA256_HEX_BYTES]; // "" = not looked up yet
    struct hd_engine_adapter adapters[HEARTH_MAX_ADAPTERS];
};

enum hd_load_step { HD_LOAD_NONE, HD_LOAD_CHECK, HD_LOAD_ROOM, HD_LOAD_OPEN };

// The load that is under way. Engine thread only.
struct hd_load_state {
    enum hd_load_step step;
    char path[HD_PATH_BYTES];
    bool chosen; // it shall become the model in use: `tag` is told
    bool dropped; // nobody waits for it any more
    uint64_t tag;
    int64_t since_ms; // when somebody began to wait for it
    struct hd_file_facts file;
    unsigned n_ctx;
    uint64_t needed_bytes, budget_bytes;
};

// The training that runs or waits. Engine thread only.
struct hd_training {
    struct hd_train_job *job; // NULL = there is none
    struct hearth_trainer *trainer;
    struct hd_loaded *model; // that it trains on
    struct hearth_adapter *learnt; // on its way to the loop
    uint64_t memory_bytes;
    enum hd_train_state state;
    bool stopping;
    int64_t stop_by_ms;   // 0 = when the border comes
    int64_t saved_ms;
    int64_t left_from_us; // 0 = not counting
    int64_t serve_us;     // of answers, since then
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
    struct hd_train_job *train_job; // that the engine thread has not taken yet
    bool train_there;               // one was given and has not ended
    bool train_stop, train_drop, train_failed;
    struct hearth_error train_error;
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
    struct hd_training training;
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
// What shall start, or go on, next among those that `may`; taken out of the queue. NULL: nothing.
struct hd_waiting *hd_queue_pick(struct hd_worker *worker, unsigned n_places,
                                 bool (*may)(void *user, const struct hd_waiting *waiting), void *user);
// The first one with this response (NULL: any) or, when path is not NULL, for this model; not begun yet, and taken out.
struct hd_waiting *hd_queue_remove(struct hd_worker *worker, const struct hd_id *response, const char *path);
void hd_queue_put_back(struct hd_worker *worker,
                       struct hd_waiting *waiting); // what was picked and found no room, or is paused
void hd_queue_take_out(struct hd_worker *worker, struct hd_waiting *waiting); // what is in it
// Whether a question of this person for this model waits for the end of an answer (engine thread); release: one has
// ended.
bool hd_queue_is_held(const struct hd_worker *worker, const struct hd_waiting *waiting);
void hd_queue_release(struct hd_worker *worker);
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
void hd_models_publish_pages(struct hd_worker *worker); // how full the KV pools are
// Lets go of idle adapters and unloads idle models but for `keep`, least recently used first, until `more_bytes` fit
// into the budget beside the rest. False: they do not; err tells the figures. `what` wants them, for the log.
bool hd_models_make_room(struct hd_worker *worker, uint64_t more_bytes, const struct hd_loaded *keep, const char *what,
                         struct hearth_error *err);

// worker_run.c (engine thread)
void *hd_worker_thread(void *worker);
void hd_slot_close(struct hd_slot_session *slot);
void hd_slot_end_job(struct hd_slot_session *slot);
void hd_worker_enter(struct hd_worker *worker); // into the engine, for the watchdog
void hd_worker_leave(struct hd_worker *worker);
// hearth_request.owner: of what the person keeps, or of questions that stand alone, whose cache is never stored.
uint64_t hd_worker_owner(struct hd_worker *worker, const struct hd_id *person, bool kept);
void hd_worker_forget_person(struct hd_loaded *model, const struct hd_id *person);
bool hd_worker_is_meant(const struct hd_forget *forget, const struct hd_id *person,
                        const struct hd_id *conversation); // any thread

// worker_room.c (engine thread)
unsigned hd_model_running(const struct hd_loaded *model); // answers that have begun, paused ones too
unsigned hd_model_active(const struct hd_loaded *model);  // without paused ones
unsigned hd_model_active_of(const struct hd_loaded *model, const struct hd_id *person);
size_t hd_model_longest(const struct hd_loaded *model); // positions that one conversation may have of all
// The idle session that was used longest ago; NULL if none. `keep` stays.
struct hd_slot_session *hd_slot_oldest_idle(struct hd_loaded *model, const struct hd_slot_session *keep);
// Whether somebody's answer could give its place to one more of this person.
bool hd_room_could_be_made(struct hd_loaded *model, const struct hd_id *person);
// A place and `need` positions for an answer of this person in `slot`: idle sessions (but for its own) are closed, and
// answers paused, as needed. False: that would not help, and nobody was paused.
bool hd_room_make(struct hd_loaded *model, const struct hd_slot_session *slot, const struct hd_id *person,
                  unsigned need);
void hd_room_for_running(struct hd_loaded *model); // for answers that outgrow what they were promised
// Lets a paused answer go on. BUSY: there is no room now.
enum hearth_status hd_slot_go_on(struct hd_slot_session *slot);

// worker_adapters.c (engine thread)
// Gives the slot the adapter that its job wants, if any. INVALID: it is for another model; BUSY: no room now.
enum hearth_status hd_adapters_take(struct hd_slot_session *slot, struct hd_job *job, unsigned *id,
                                    struct hearth_error *err);
void hd_adapters_end(struct hd_slot_session *slot); // its job has ended
void hd_adapters_round(struct hd_worker *worker);    // those that are gone leave the engines
bool hd_adapters_shed(struct hd_worker *worker); // the idle one that was used longest ago goes; false: none is idle
void hd_adapters_close(struct hd_loaded *model);     // before its engine is closed
const char *hd_model_sha256(struct hd_loaded *model); // "" = not known

// worker_train.c (engine thread)
void hd_train_round(struct hd_worker *worker);          // takes what was asked; begins when the model is there
bool hd_train_is_ready(const struct hd_worker *worker); // a slice could run
bool hd_train_is_leaving(const struct hd_worker *worker); // the thread shall end, and waits for a last checkpoint
void hd_train_slice(struct hd_worker *worker);          // when nobody is answered
void hd_train_served(struct hd_worker *worker, int64_t us); // answers took this long
// The model that a training waits for; NULL: none does.
const char *hd_train_wants(const struct hd_worker *worker);
void hd_train_no_model(struct hd_worker *worker, const char *path, const struct hearth_error *error);
void hd_train_lost(struct hd_loaded *model, const struct hearth_error *error);
void hd_train_end(struct hd_worker *worker, enum hd_train_state state, const struct hearth_error *error);
int64_t hd_steady_us(void);

// worker_prefix.c (engine thread)
void hd_prefix_mark(struct hd_loaded *model, const struct hd_id *person);   // its cache has grown
void hd_prefix_unmark(struct hd_loaded *model, const struct hd_id *person); // zero = everybody
void hd_prefix_take_imports(struct hd_worker *worker);
// Gives one person's cache to the loop, if one is due and the loop has taken the one before.
void hd_prefix_export(struct hd_worker *worker);
void hd_prefix_export_model(struct hd_loaded *model); // before it is unloaded
int64_t hd_prefix_due_ms(struct hd_worker *worker);   // 0 = nothing is due

#endif
