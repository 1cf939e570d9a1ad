// SPDX-License-Identifier: Apache-2.0
// What the box learns from and has learnt: data sets, the training that runs, adapters and who answers with which.
// Owns the folder "learn" in the state folder and the keeper thread. Server loop thread only.
#ifndef HD_LEARN_H
#define HD_LEARN_H
#include <jansson.h>

#include "firmware/server.h"
#include "firmware/store_learn.h"

enum {
    HD_MAX_SET_BYTES = 512 << 20,     // one data set, both of its parts
    HD_MAX_ADAPTER_BYTES = 512 << 20, // one file
    HD_MAX_TRAIN_POINTS = 256,        // of the curve, remembered
    HD_MAX_TRAIN_FOLLOWERS = 64,
    HD_TRAIN_TELL_MS = 250, // followers are told of steps at most this often
};

struct hd_learn;

// Finishes what a crash left. NULL: told in the log, and there is no learning.
struct hd_learn *hd_learn_open(struct hd_server *server);
// A training that a restart has interrupted goes on. After the worker was started.
void hd_learn_resume(struct hd_learn *learn);
// Writes what is left to be written. After the worker has stopped.
void hd_learn_close(struct hd_learn **learn);
void hd_learn_turn(struct hd_learn *learn); // the keeper thread has something to tell
void hd_learn_note(struct hd_learn *learn, struct hd_note *note); // HD_NOTE_TRAIN
// Rows may have gone with something that was deleted: what was made of them ends.
void hd_learn_sync(struct hd_learn *learn);
void hd_learn_drop_socket(struct hd_learn *learn, const struct hd_client *client);

// ---- data sets and adapters. `person` NULL = the box's owner, who sees all of them; else somebody, who sees what is
// nobody's or theirs. Items live until something is removed or added.

const struct hd_learnt *hd_learn_at(const struct hd_learn *learn, size_t i); // NULL at the end
const struct hd_learnt *hd_learn_find(const struct hd_learn *learn, enum hd_learnt_kind kind, const char *name,
                                      const struct hd_id *person);
// What a row remembers beside its columns; the caller drops it. NULL: no memory, which err tells.
json_t *hd_learnt_meta(const struct hd_learnt *item, struct hearth_error *err);
bool hd_learn_is_visible(const struct hd_learnt *item, const struct hd_id *person);
// BUSY while a training uses it. An adapter's name may be that of a training that is not done.
enum hearth_status hd_learn_remove(struct hd_learn *learn, bool set, const char *name, const struct hd_id *person,
                                   struct hearth_error *err);

// Who waits for something that the keeper thread does; told once, then it is forgotten. All zero: nobody.
struct hd_learn_waiter {
    void (*tell)(void *user, const struct hearth_error *error, const struct hd_learnt *item); // item: when OK
    void *user;
};
void hd_learn_forget_waiter(struct hd_learn *learn, const void *user);
// Takes over the descriptors in any case. fds[i] -1 = no such part. `person`: of whose conversations, zero = nobody's.
// `replace`: it takes the place of one of that name of the same person, in one step when it is on disk.
enum hearth_status hd_learn_import_set(struct hd_learn *learn, const char *name, const struct hd_id *person,
                                       int fds[HD_TRAIN_N_DATA], json_t *counts, bool replace,
                                       struct hd_learn_waiter waiter, struct hearth_error *err);
// The client's own conversations, as they are now; one of that name of the same person is replaced, or is still there
// if this fails. The client is told when it is on disk. BUSY: another is being read, or a training that is not done
// needs the present one.
enum hearth_status hd_learn_import_own(struct hd_learn *learn, const char *name, struct hd_client *client,
                                       const struct hd_id *request, struct hearth_error *err);
// A GGUF-LoRA file for a model of the models folder.
enum hearth_status hd_learn_import_adapter(struct hd_learn *learn, const char *name, int fd,
                                           struct hd_learn_waiter waiter, struct hearth_error *err);

// Writes an adapter's file, in plain, into `fd`: a plain file that was opened for writing. Takes over the descriptor.
// Of an adapter that is removed meanwhile NOT_FOUND is told, and the file may hold some of it.
enum hearth_status hd_learn_export_adapter(struct hd_learn *learn, const char *name, int fd,
                                           struct hd_learn_waiter waiter, struct hearth_error *err);

// ---- which adapter answers

// Gives the job its adapter: `name`, or with "" the person's choice, else the box's; "none" = none. INVALID: it is not
// for the model at `path`; NOT_FOUND; UNSUPPORTED: the model's hash is not known yet.
enum hearth_status hd_learn_pick(struct hd_learn *learn, const struct hd_id *person, const char *name,
                                 const char *path, struct hd_job *job, struct hearth_error *err);
// person zero = the box; name "" = the model alone; NULL = no choice.
enum hearth_status hd_learn_use(struct hd_learn *learn, const struct hd_id *person, const char *name, double scale,
                                struct hearth_error *err);
// What this person's answers are made with: *own = by a choice of theirs. False: nothing was chosen.
bool hd_learn_choice(const struct hd_learn *learn, const struct hd_id *person, struct hd_adapter_choice *choice,
                     bool *own);

// ---- training

// What is asked, as an object: data_set, adapter, model, init, use, rank, alpha, lr, epochs, max_steps, seq, batch,
// held_out, seed, precision, targets, checkpointing; what is not said has a default. BUSY, INVALID, NOT_FOUND, LIMIT.
enum hearth_status hd_learn_train(struct hd_learn *learn, const json_t *ask, const struct hd_id *person,
                                  struct hearth_error *err);
enum hearth_status hd_learn_stop(struct hd_learn *learn, const char *name, bool discard, const struct hd_id *person,
                                 struct hearth_error *err);
// Sends the present state, and what changes until the training has ended.
void hd_learn_follow(struct hd_learn *learn, struct hd_client *client, const struct hd_id *request);

struct hd_train_view {
    uint64_t seq;
    enum hd_train_state state;
    struct hd_id person; // whose own it is; zero = nobody's
    char adapter[HD_MAX_LEARNT_NAME + 1], data_set[HD_MAX_LEARNT_NAME + 1], model[HD_MAX_MODEL_BYTES + 1];
    char precision[16];
    struct hearth_train_step step;
    double held_out, eta_s;
    uint64_t memory_bytes;
    struct hearth_error error;
    struct {
        uint64_t step;
        double loss, held_out;
    } points[HD_MAX_TRAIN_POINTS];
    size_t n_points, n_told; // n_told of them were in an earlier status
};
const struct hd_train_view *hd_learn_view(const struct hd_learn *learn);
// Fills a status; names only for who may see them. `points` has HD_MAX_TRAIN_POINTS of each; NULL: none is told.
struct hd_train_points {
    Hearth__V1__TrainPoint items[HD_MAX_TRAIN_POINTS], *list[HD_MAX_TRAIN_POINTS];
    Hearth__V1__Error error;
};
void hd_learn_fill(const struct hd_train_view *view, const struct hd_id *person, bool all,
                   Hearth__V1__TrainStatus *status, struct hd_train_points *points);

#endif
