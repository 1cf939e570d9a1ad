// SPDX-License-Identifier: Apache-2.0
// What the files learn*.c share. Nobody else includes this. Loop thread.
//   learn.c         items, choices, life
//   learn_import.c  data sets and adapters come in; adapters are opened
//   learn_own.c     a person's conversations become a data set of theirs
//   learn_quota.c   how much of the disk a person's may take
//   learn_train.c   the training: from what is asked to its end
//   learn_tell.c    who is told of it
#ifndef HD_LEARN_INTERNAL_H
#define HD_LEARN_INTERNAL_H
#include "firmware/keeper.h"
#include "firmware/learn.h"
#include "firmware/sealed_file.h"

// A piece of work for the keeper thread; the first member of the tasks in learn*.c.
struct hd_learn_task {
    struct hd_task task;
    struct hd_learn_task *next; // of learn->tasks
    struct hd_learn *learn;
    struct hd_learn_waiter waiter;
    struct hd_sealed_place place;
    char dir[HD_PATH_BYTES];
    struct hearth_error error;
};

struct hd_learn_follower {
    struct hd_client *client;
    struct hd_id request;
};

// A person's conversations on their way into a data set. `lines` NULL: there is none.
struct hd_learn_own {
    struct hd_learn *learn;
    FILE *lines;
    bool handed; // to the keeper thread
    struct hd_client *client; // that asked; NULL: gone
    struct hd_id request, person;
    char name[HD_MAX_LEARNT_NAME + 1];
    int64_t before_ms; // of the conversation that was read last
    uint64_t n_records, n_turns;
    lws_sorted_usec_list_t turn;
};

struct hd_learn {
    struct hd_server *server;
    struct hd_keeper *keeper;
    char dir[HD_PATH_BYTES];
    struct hd_learnt *items;
    size_t n_items;
    struct hd_adapter_choice *choices;
    size_t n_choices;
    struct hd_adapter *live[HD_MAX_LEARNT]; // that somebody answers or trains with, or will
    struct hd_learn_task *tasks;                   // that the keeper has

    // the training
    bool training; // one has been begun and has not ended, its last files included
    bool discard;
    uint64_t tag;
    struct hd_id run;  // its row
    struct hd_id set, init;
    struct hd_run_files *files;
    struct hearth_error unsaved; // why its last checkpoint could not be written
    struct hd_train_view view;
    uint64_t first_step; // of this process
    struct hd_learn_follower followers[HD_MAX_TRAIN_FOLLOWERS];
    size_t n_followers;
    lws_sorted_usec_list_t tell;
    struct hd_learn_own own;
    bool tell_due;
};

// learn.c
struct hd_learnt *hd_learn_by_id(struct hd_learn *learn, const struct hd_id *id);
enum hearth_status hd_learn_reload(struct hd_learn *learn, struct hearth_error *err); // rows and choices
enum hearth_status hd_learn_place(struct hd_learn *learn, const struct hd_id *item, struct hd_sealed_place *place,
                                  struct hearth_error *err); // its sealer is the caller's to give back
// The SHA-256 of a model's file; false: not known yet.
bool hd_learn_model_sha256(struct hd_learn *learn, const char *path, char sha256[HD_SHA256_HEX_BYTES]);

// learn_import.c
// NULL when out of memory. Takes over the place's sealer.
void *hd_learn_task_new(struct hd_learn *learn, size_t size, const struct hd_sealed_place *place,
                        void (*run)(struct hd_task *task), void (*done)(struct hd_task *task));
void hd_learn_task_end(struct hd_learn_task *task, const struct hd_learnt *item); // tells the waiter; frees it
// With a reference for the caller. NULL: err tells.
struct hd_adapter *hd_learn_open_adapter(struct hd_learn *learn, const struct hd_learnt *item,
                                         struct hearth_error *err);
void hd_learn_drop_idle(struct hd_learn *learn); // lets go of adapters that nobody else holds any more
void hd_learn_adapter_gone(struct hd_learn *learn, const struct hd_id *id);

// learn_quota.c
// LIMIT: a person's (NULL, zero: no limit) data sets and adapters would take more than they may with one more of this
// size, as far as it is known, in the place of `old` (NULL: of none).
enum hearth_status hd_learn_check_quota(const struct hd_learn *learn, const struct hd_id *person,
                                        const struct hd_learnt *old, uint64_t more_bytes, struct hearth_error *err);

// learn_train.c
bool hd_learn_uses(const struct hd_learn *learn, const struct hd_id *id); // the training that runs does
void hd_learn_abort(struct hd_learn *learn); // its row is gone: nothing more is written

// learn_own.c
// The data set whose place a new one of this name and person takes; NULL: the name is free. INVALID: it is somebody
// else's; BUSY: a training needs it.
enum hearth_status hd_learn_find_old(const struct hd_learn *learn, const char *name, const struct hd_id *person,
                                     const struct hd_learnt **old, struct hearth_error *err);
// One more line of `lines`, whole or not at all.
enum hearth_status hd_learn_own_put(struct hd_learn_own *own, const struct hd_conversation *conversation,
                                    struct hearth_error *err);
void hd_learn_own_stop(struct hd_learn *learn, const char *why); // while it reads; who asked is told

// learn_tell.c
void hd_learn_changed(struct hd_learn *learn, bool at_once);

#endif
