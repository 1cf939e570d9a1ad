// SPDX-License-Identifier: Apache-2.0
// The caches of people's conversations on disk, so that the first question after a restart need not compute again what
// the model had read before. Owns the folder "prefixes" in the state folder. Server loop thread only.
//
// One file for a person and a model, sealed with a key of that person in the vault. The key is destroyed in the same
// stroke as any turn, conversation or person is deleted (store_delete.c), and the files then go too. It is a cache:
// whatever cannot be written or read is dropped, with a log line at most.
#ifndef HD_PREFIXES_H
#define HD_PREFIXES_H
#include "firmware/config.h"
#include "firmware/store.h"
#include "firmware/worker.h"

struct hd_prefixes;

struct hd_prefixes_params {
    const struct hd_config *config;
    struct hd_store *store;
    // Takes what was read for the model at `path`; takes over data (malloc'ed).
    void (*give)(void *user, const struct hd_id *person, const char *path, uint8_t *data, size_t len_bytes);
    uint64_t (*forget_seq)(void *user); // an export of before that is worth nothing
    void *user;
};
// Removes what nobody can open any more. NULL when out of memory or the folder cannot be made: then nothing is kept.
struct hd_prefixes *hd_prefixes_open(const struct hd_prefixes_params *params);
void hd_prefixes_close(struct hd_prefixes **prefixes); // what is being written is dropped; NULL allowed
// prefixes may be NULL in all of these.
// A note HD_NOTE_PREFIXES; its text is taken over. Written by hd_prefixes_work.
void hd_prefixes_keep(struct hd_prefixes *prefixes, struct hd_note *note);
// The model at `path` was loaded: all that is kept for it is read by hd_prefixes_work.
void hd_prefixes_loaded(struct hd_prefixes *prefixes, const char *path);
// This person asks that model: what is kept for both is given now.
void hd_prefixes_want(struct hd_prefixes *prefixes, const struct hd_id *person, const char *path);
// The person's keys were destroyed (NULL: anybody's): the files go.
void hd_prefixes_forget(struct hd_prefixes *prefixes, const struct hd_id *person);
// A small piece of what is to be read or written. False: nothing is left.
bool hd_prefixes_work(struct hd_prefixes *prefixes);
uint64_t hd_prefixes_bytes(const struct hd_prefixes *prefixes); // on disk

#endif
