// SPDX-License-Identifier: Apache-2.0
// Files of a training. See run_files.h. One lock guards what waits to be written. Any thread.
#include "firmware/run_files.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct waiting {
    char name[HD_SEALED_NAME_BYTES + 1]; // "" = free place
    uint8_t *data; // NULL = nothing waits
    size_t len_bytes;
};

struct hd_run_files {
    atomic_uint refs;
    atomic_bool abandoned;
    pthread_mutex_t lock;
    struct waiting waiting[HD_MAX_RUN_FILES]; // {lock}
    uint8_t *coming; // a file whose parts come, by the trainer's thread alone; NULL = none
    size_t coming_bytes;
    char opened[HD_SEALED_NAME_BYTES + 1]; // a file that is being loaded; "" = none
    int opened_fd;                         // memory without a name
    uint64_t opened_bytes, opened_at;      // at: where the last part ended
    struct hd_keeper *keeper;
    char dir[HD_PATH_BYTES];
    struct hd_sealer *sealer;
    void (*failed)(void *user, const struct hearth_error *error);
    void *user;
};

struct write_task {
    struct hd_task task;
    struct hd_run_files *files;
    unsigned at; // in waiting
    struct waiting old; // what another has taken the place of: to be wiped, nothing to be written
    struct hearth_error error;
};

struct hd_run_files *hd_run_files_new(struct hd_keeper *keeper, const struct hd_sealed_place *place,
                                      void (*failed)(void *user, const struct hearth_error *error), void *user)
{
    struct hd_run_files *files = calloc(1, sizeof *files);
    if (!files)
        return NULL;
    atomic_init(&files->refs, 1);
    atomic_init(&files->abandoned, false);
    pthread_mutex_init(&files->lock, NULL);
    files->opened_fd = -1;
    files->keeper = hd_keeper_ref(keeper);
    files->sealer = hd_sealer_ref(place->sealer);
    snprintf(files->dir, sizeof files->dir, "%s", place->dir);
    files->failed = failed;
    files->user = user;
    return files;
}

struct hd_run_files *hd_run_files_ref(struct hd_run_files *files)
{
    atomic_fetch_add(&files->refs, 1);
    return files;
}

void hd_run_files_unref(struct hd_run_files **out)
{
    struct hd_run_files *files = *out;
    *out = NULL;
    if (!files || atomic_fetch_sub(&files->refs, 1) != 1)
        return;
    for (size_t i = 0; i < HD_MAX_RUN_FILES; i++)
        hd_wipe_free(files->waiting[i].data, files->waiting[i].len_bytes);
    hd_wipe_free(files->coming, files->coming_bytes);
    if (files->opened_fd >= 0)
        close(files->opened_fd);
    hd_sealer_unref(&files->sealer);
    hd_keeper_unref(&files->keeper);
    pthread_mutex_destroy(&files->lock);
    free(files);
}

void hd_run_files_abandon(struct hd_run_files *files)
{
    atomic_store(&files->abandoned, true);
}

// ---- writing, on the keeper thread

static void run(struct hd_task *task)
{
    struct write_task *write = (struct write_task *)task;
    struct hd_run_files *files = write->files;
    const struct hd_sealed_place place = {files->dir, files->sealer};
    pthread_mutex_lock(&files->lock);
    struct waiting taken = files->waiting[write->at];
    files->waiting[write->at].data = NULL;
    pthread_mutex_unlock(&files->lock);
    if (!atomic_load(&files->abandoned) &&
        hd_sealed_write(&place, taken.name, taken.data, taken.len_bytes, &write->error) == HEARTH_OK)
        write->error.code = HEARTH_OK;
    hd_wipe_free(taken.data, taken.len_bytes);
}

static void done(struct hd_task *task)
{
    struct write_task *write = (struct write_task *)task;
    if (write->error.code != HEARTH_OK && !atomic_load(&write->files->abandoned))
        write->files->failed(write->files->user, &write->error);
    hd_run_files_unref(&write->files);
    free(write);
}

static void run_wipe(struct hd_task *task)
{
    struct write_task *wipe = (struct write_task *)task;
    hd_wipe_free(wipe->old.data, wipe->old.len_bytes);
}

// ---- for the trainer

static struct waiting *place_of(struct hd_run_files *files, const char *name) // {lock}
{
    struct waiting *free_place = NULL;
    for (size_t i = 0; i < HD_MAX_RUN_FILES; i++) {
        struct waiting *w = &files->waiting[i];
        if (strcmp(w->name, name) == 0)
            return w;
        if (!w->name[0] && !free_place)
            free_place = w;
    }
    if (free_place)
        snprintf(free_place->name, sizeof free_place->name, "%s", name);
    return free_place;
}

// A file is whole: it waits to be written. Takes data.
static enum hearth_status hand_over(struct hd_run_files *files, struct waiting *w, uint8_t *data, size_t len_bytes,
                                    struct hearth_error *err)
{
    struct write_task *write = calloc(1, sizeof *write);
    if (!write) {
        hd_wipe_free(data, len_bytes);
        return hd_fail(err, HEARTH_NOMEM, "no memory to save %s", w->name);
    }
    pthread_mutex_lock(&files->lock);
    struct waiting old = *w;
    w->data = data;
    w->len_bytes = len_bytes;
    pthread_mutex_unlock(&files->lock);
    *write = (struct write_task){.task = {.run = old.data ? run_wipe : run, .done = done}, // its turn comes as it is
                                 .files = hd_run_files_ref(files),
                                 .at = (unsigned)(w - files->waiting),
                                 .old = old};
    if (hd_keeper_add(files->keeper, &write->task))
        return HEARTH_OK;
    hd_wipe_free(old.data, old.len_bytes);
    hd_run_files_unref(&write->files);
    free(write);
    if (old.data)
        return HEARTH_OK;
    return hd_fail(err, HEARTH_IO, "%s is not saved: the box is stopping", w->name);
}

// Room for a file whose first part comes.
static enum hearth_status make_room(struct hd_run_files *files, const struct hearth_train_part *part,
                                    struct hearth_error *err)
{
    hd_wipe_free(files->coming, files->coming_bytes); // one that did not come to its end
    files->coming = malloc(part->size_bytes + 1);
    files->coming_bytes = files->coming ? part->size_bytes : 0;
    return files->coming ? HEARTH_OK : hd_fail(err, HEARTH_NOMEM, "no memory to save %s", part->name);
}

enum hearth_status hd_run_files_save(void *user, const struct hearth_train_part *part, struct hearth_error *err)
{
    struct hd_run_files *files = user;
    if (!hd_sealed_name_ok(part->name) || part->size_bytes > HD_MAX_RUN_FILE_BYTES)
        return hd_fail(err, HEARTH_LIMIT, "a file of a training has that name or size: it is not kept");
    enum hearth_status status = part->offset ? HEARTH_OK : make_room(files, part, err);
    if (status != HEARTH_OK)
        return status;
    if (!files->coming || part->size_bytes != files->coming_bytes || part->offset > part->size_bytes ||
        part->len_bytes > part->size_bytes - part->offset)
        return hd_fail(err, HEARTH_INVALID, "%s is saved in parts that do not fit", part->name);
    if (part->len_bytes)
        memcpy(files->coming + part->offset, part->data, part->len_bytes);
    if (part->offset + part->len_bytes < part->size_bytes)
        return HEARTH_OK;
    uint8_t *whole = files->coming;
    files->coming = NULL;
    files->coming_bytes = 0;
    pthread_mutex_lock(&files->lock);
    struct waiting *w = place_of(files, part->name);
    pthread_mutex_unlock(&files->lock);
    if (w)
        return hand_over(files, w, whole, part->size_bytes, err);
    hd_wipe_free(whole, part->size_bytes);
    return hd_fail(err, HEARTH_LIMIT, "a training has more than %d files", HD_MAX_RUN_FILES);
}

// ---- loading

static void close_opened(struct hd_run_files *files)
{
    if (files->opened_fd >= 0)
        close(files->opened_fd);
    files->opened_fd = -1;
    files->opened_bytes = files->opened_at = 0;
    files->opened[0] = 0;
}

enum hearth_status hd_run_files_open(struct hd_run_files *files, const char *name, struct hearth_error *err)
{
    const struct hd_sealed_place place = {files->dir, files->sealer};
    close_opened(files);
    enum hearth_status status =
        hd_sealed_read_fd(&place, name, HD_MAX_RUN_FILE_BYTES, &files->opened_fd, &files->opened_bytes, err);
    if (status == HEARTH_OK)
        snprintf(files->opened, sizeof files->opened, "%s", name);
    return status;
}

// What was read is given back at once: closing a large file would wait for all of it. After the last part it is as if
// it had not been opened.
static enum hearth_status read_opened(struct hd_run_files *files, size_t offset, void *bytes, size_t len_bytes,
                                      struct hearth_error *err)
{
    if (offset > files->opened_bytes || len_bytes > files->opened_bytes - offset)
        return hd_fail(err, HEARTH_INVALID, "%s is not as long as that", files->opened);
    for (size_t done = 0; done < len_bytes;) {
        ssize_t n = pread(files->opened_fd, (uint8_t *)bytes + done, len_bytes - done, (off_t)(offset + done));
        if (n <= 0)
            return hd_fail_errno(err, n < 0 ? errno : EIO, "cannot read", files->opened);
        done += (size_t)n;
    }
    if (len_bytes)
        (void)fallocate(files->opened_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)len_bytes);
    files->opened_at = offset + len_bytes;
    if (files->opened_at == files->opened_bytes)
        close_opened(files);
    return HEARTH_OK;
}

// True: it waits to be written, and `bytes` are of what waits.
static bool load_waiting(struct hd_run_files *files, const char *name, size_t offset, void *bytes, size_t len_bytes,
                         size_t *size_bytes)
{
    bool found = false;
    pthread_mutex_lock(&files->lock);
    for (size_t i = 0; i < HD_MAX_RUN_FILES; i++) {
        const struct waiting *w = &files->waiting[i];
        if (!w->data || strcmp(w->name, name) != 0 || offset > w->len_bytes || len_bytes > w->len_bytes - offset)
            continue;
        found = true;
        *size_bytes = w->len_bytes;
        if (len_bytes)
            memcpy(bytes, w->data + offset, len_bytes);
    }
    pthread_mutex_unlock(&files->lock);
    return found;
}

enum hearth_status hd_run_files_load(void *user, const char *name, size_t offset, void *bytes, size_t len_bytes,
                                     size_t *size_bytes, struct hearth_error *err)
{
    struct hd_run_files *files = user;
    enum hearth_status status = HEARTH_OK;
    *size_bytes = 0;
    if (load_waiting(files, name, offset, bytes, len_bytes, size_bytes))
        return HEARTH_OK;
    if (strcmp(files->opened, name) != 0 || offset < files->opened_at)
        status = hd_run_files_open(files, name, err);
    if (status != HEARTH_OK)
        return status;
    *size_bytes = files->opened_bytes;
    return read_opened(files, offset, bytes, len_bytes, err);
}
