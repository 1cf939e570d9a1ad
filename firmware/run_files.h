// SPDX-License-Identifier: Apache-2.0
// The files of a training, sealed: what the trainer saves is copied, part by part, and written by the keeper thread, so
// that no slice waits for a disk; what it goes on from was read by that thread before. A file that is saved again
// before it was written replaces what waits. Any thread, but the parts of files come and go by one at a time.
#ifndef HD_RUN_FILES_H
#define HD_RUN_FILES_H
#include "engine/learn.h"
#include "firmware/keeper.h"
#include "firmware/sealed_file.h"

enum { HD_MAX_RUN_FILES = 8, HD_MAX_RUN_FILE_BYTES = 1 << 30 };

struct hd_run_files;
// Takes references of its own. `failed` is called on the loop thread when a file could not be written.
struct hd_run_files *hd_run_files_new(struct hd_keeper *keeper, const struct hd_sealed_place *place,
                                      void (*failed)(void *user, const struct hearth_error *error), void *user);
struct hd_run_files *hd_run_files_ref(struct hd_run_files *files);
void hd_run_files_unref(struct hd_run_files **files); // NULL allowed
// Nothing is written or told any more.
void hd_run_files_abandon(struct hd_run_files *files);

// hearth_train_files: `user` is the struct hd_run_files.
enum hearth_status hd_run_files_save(void *user, const struct hearth_train_part *part, struct hearth_error *err);
enum hearth_status hd_run_files_load(void *user, const char *name, size_t offset, void *bytes, size_t len_bytes,
                                     size_t *size_bytes, struct hearth_error *err);
// Keeper thread, before the trainer has the files: what it loads first is read from disk and unsealed, so that no slice
// waits for that. NOT_FOUND: there is none.
enum hearth_status hd_run_files_open(struct hd_run_files *files, const char *name, struct hearth_error *err);

#endif
