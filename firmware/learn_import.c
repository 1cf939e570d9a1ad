// SPDX-License-Identifier: Apache-2.0
// Data sets and adapters come into the box, adapters go out of it and are opened, all of it on the keeper thread. Loop
// thread, but for what is marked.
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "firmware/json_text.h"
#include "firmware/learn_internal.h"

static const char *const set_parts[HD_TRAIN_N_DATA] = {"data.messages", "data.text"};

// ---- tasks

void *hd_learn_task_new(struct hd_learn *learn, size_t size, const struct hd_sealed_place *place,
                        void (*run)(struct hd_task *task), void (*done)(struct hd_task *task))
{
    struct hd_learn_task *task = calloc(1, size);
    if (!task)
        return NULL;
    task->task.run = run;
    task->task.done = done;
    task->learn = learn;
    task->place = *place;
    snprintf(task->dir, sizeof task->dir, "%s", learn->dir);
    task->place.dir = task->dir;
    task->next = learn->tasks;
    learn->tasks = task;
    return task;
}

void hd_learn_task_end(struct hd_learn_task *task, const struct hd_learnt *item)
{
    struct hd_learn *learn = task->learn;
    for (struct hd_learn_task **link = &learn->tasks; *link; link = &(*link)->next) {
        if (*link == task) {
            *link = task->next;
            break;
        }
    }
    if (task->waiter.tell)
        task->waiter.tell(task->waiter.user, &task->error, item);
    hd_sealer_unref(&task->place.sealer);
    free(task);
}

void hd_learn_forget_waiter(struct hd_learn *learn, const void *user)
{
    for (struct hd_learn_task *task = learn ? learn->tasks : NULL; task; task = task->next)
        if (task->waiter.user == user)
            task->waiter = (struct hd_learn_waiter){0};
}

// ---- common to both

static enum hearth_status file_size(int fd, uint64_t max_bytes, uint64_t *size, struct hearth_error *err)
{
    struct stat st;
    *size = 0;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || st.st_size < 0)
        return hd_fail(err, HEARTH_INVALID, "what was given is no plain file");
    if ((uint64_t)st.st_size > max_bytes)
        return hd_fail(err, HEARTH_LIMIT, "%llu bytes are more than the %llu that are allowed",
                       (unsigned long long)st.st_size, (unsigned long long)max_bytes);
    *size = (uint64_t)st.st_size;
    return HEARTH_OK;
}

// `old`: whose place it takes; NULL: nobody's.
static enum hearth_status check_name(struct hd_learn *learn, bool set, const char *name, const struct hd_learnt *old,
                                     struct hearth_error *err)
{
    if (!hd_learnt_name_ok(name))
        return hd_fail(err, HEARTH_INVALID, "a name has 1 to 64 letters, digits, '.', '_' or '-', not first");
    if (set ? hd_learn_find(learn, HD_LEARNT_SET, name, NULL) != old
            : hd_learn_find(learn, HD_LEARNT_ADAPTER, name, NULL) || hd_learn_find(learn, HD_LEARNT_RUN, name, NULL))
        return hd_fail(err, HEARTH_INVALID, "there is %s of that name already", set ? "a data set" : "an adapter");
    if (!old && learn->n_items >= HD_MAX_LEARNT)
        return hd_fail(err, HEARTH_LIMIT, "%d data sets and adapters are here already", HD_MAX_LEARNT);
    return HEARTH_OK;
}

// A new item's key and place.
static enum hearth_status new_item(struct hd_learn *learn, const struct hd_id *person, struct hd_id *id,
                                   struct hd_sealed_place *place, struct hearth_error *err)
{
    enum hearth_status status = hd_store_learnt_key(learn->server->store, person, id, err);
    return status == HEARTH_OK ? hd_learn_place(learn, id, place, err) : status;
}

// The files are on disk: the row makes them an item. `replace`: one of that name of the same person gives way to it.
static void add_item(struct hd_learn_task *task, struct hd_learnt *item, bool replace)
{
    struct hd_learn *learn = task->learn;
    struct hd_store *store = learn->server->store;
    struct hearth_error ignored;
    struct hd_id id = item->id;
    const struct hd_learnt *old = NULL;
    if (task->error.code == HEARTH_OK && replace) // others may have come meanwhile, or begun a training
        task->error.code = hd_learn_find_old(learn, item->name, &item->person, &old, &task->error);
    if (task->error.code == HEARTH_OK)
        task->error.code = check_name(learn, item->kind == HD_LEARNT_SET, item->name, old, &task->error);
    if (task->error.code == HEARTH_OK)
        task->error.code = hd_learn_check_quota(learn, &item->person, old, item->size_bytes, &task->error);
    if (task->error.code == HEARTH_OK)
        task->error.code = old ? hd_store_learnt_replace(store, &old->id, item, &task->error)
                               : hd_store_learnt_add(store, item, &task->error);
    if (task->error.code == HEARTH_OK && old)
        hd_learn_sync(learn); // the old one's file goes
    else if (task->error.code == HEARTH_OK)
        task->error.code = hd_learn_reload(learn, &task->error);
    if (task->error.code != HEARTH_OK) {
        (void)hd_store_learnt_drop_key(store, &id, &ignored);
        hd_sealed_remove(learn->dir, &id, NULL);
    }
    free(item->meta);
    hd_learn_task_end(task, task->error.code == HEARTH_OK ? hd_learn_by_id(learn, &id) : NULL);
}

// ---- data sets

struct import_set {
    struct hd_learn_task base;
    struct hd_learnt item;
    bool replace;
    int fds[HD_TRAIN_N_DATA];
    uint64_t sizes[HD_TRAIN_N_DATA];
};

static void run_import_set(struct hd_task *task) // keeper thread
{
    struct import_set *t = (struct import_set *)task;
    struct hearth_error *err = &t->base.error;
    for (int i = 0; i < HD_TRAIN_N_DATA && err->code == HEARTH_OK; i++)
        if (t->fds[i] >= 0)
            err->code = hd_sealed_write_fd(&t->base.place, set_parts[i], t->fds[i], t->sizes[i], err);
    for (int i = 0; i < HD_TRAIN_N_DATA; i++)
        if (t->fds[i] >= 0)
            close(t->fds[i]);
}

static void done_import_set(struct hd_task *task)
{
    struct import_set *t = (struct import_set *)task;
    add_item(&t->base, &t->item, t->replace);
}

static enum hearth_status begin_import_set(struct hd_learn *learn, struct hd_learnt *item,
                                           int fds[HD_TRAIN_N_DATA], const uint64_t sizes[HD_TRAIN_N_DATA],
                                           bool replace, struct hd_learn_waiter waiter, struct hearth_error *err)
{
    struct hd_sealed_place place = {0};
    enum hearth_status status = new_item(learn, &item->person, &item->id, &place, err);
    struct import_set *task =
        status == HEARTH_OK
            ? hd_learn_task_new(learn, sizeof *task, &place, run_import_set, done_import_set)
            : NULL;
    if (!task) {
        hd_sealer_unref(&place.sealer);
        return status == HEARTH_OK ? hd_fail(err, HEARTH_NOMEM, "out of memory") : status;
    }
    task->item = *item;
    task->replace = replace;
    task->base.waiter = waiter;
    memcpy(task->sizes, sizes, sizeof task->sizes);
    memcpy(task->fds, fds, sizeof task->fds);
    hd_keeper_add(learn->keeper, &task->base.task);
    return HEARTH_OK;
}

enum hearth_status hd_learn_import_set(struct hd_learn *learn, const char *name, const struct hd_id *person,
                                       int fds[HD_TRAIN_N_DATA], json_t *counts, bool replace,
                                       struct hd_learn_waiter waiter, struct hearth_error *err)
{
    struct hd_learnt item = {.kind = HD_LEARNT_SET, .person = *person, .created_ms = hd_now_ms()};
    uint64_t sizes[HD_TRAIN_N_DATA] = {0};
    const struct hd_learnt *old = NULL;
    enum hearth_status status = learn ? HEARTH_OK : hd_fail(err, HEARTH_UNSUPPORTED, "this box cannot learn");
    if (status == HEARTH_OK && replace)
        status = hd_learn_find_old(learn, name, person, &old, err);
    if (status == HEARTH_OK)
        status = check_name(learn, true, name, old, err);
    for (int i = 0; i < HD_TRAIN_N_DATA && status == HEARTH_OK; i++) {
        if (fds[i] >= 0)
            status = file_size(fds[i], HD_MAX_SET_BYTES - item.size_bytes, &sizes[i], err);
        item.size_bytes += sizes[i];
    }
    if (status == HEARTH_OK && !item.size_bytes)
        status = hd_fail(err, HEARTH_INVALID, "there is nothing in it to learn from");
    if (status == HEARTH_OK)
        status = hd_learn_check_quota(learn, person, old, item.size_bytes, err);
    snprintf(item.name, sizeof item.name, "%s", name);
    if (status == HEARTH_OK && !(item.meta = hd_json_text(counts, JSON_COMPACT)))
        status = hd_fail(err, HEARTH_NOMEM, "out of memory");
    if (status == HEARTH_OK && strlen(item.meta) > HD_MAX_LEARNT_META)
        status = hd_fail(err, HEARTH_LIMIT, "its counts are too long");
    if (status == HEARTH_OK)
        status = begin_import_set(learn, &item, fds, sizes, replace, waiter, err);
    if (status == HEARTH_OK)
        return status;
    free(item.meta);
    for (int i = 0; i < HD_TRAIN_N_DATA; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    return status;
}

// ---- adapters

struct known_model {
    char path[HD_PATH_BYTES], sha256[HD_SHA256_HEX_BYTES];
};
struct import_adapter {
    struct hd_learn_task base;
    struct hd_learnt item;
    int fd;
    struct known_model *models;
    size_t n_models;
    bool all_known; // there is no model whose hash is not known yet
    json_t *meta;
};

// The bytes as they are now: what is checked is what is kept.
static int own_copy(int from, uint64_t size, struct hearth_error *err)
{
    char *buffer = malloc(1 << 20);
    int fd = memfd_create("hearth", MFD_CLOEXEC);
    bool good = buffer && fd >= 0;
    for (uint64_t at = 0; good && at < size;) {
        size_t n = size - at < 1 << 20 ? (size_t)(size - at) : 1 << 20;
        good = pread(from, buffer, n, (off_t)at) == (ssize_t)n && pwrite(fd, buffer, n, (off_t)at) == (ssize_t)n;
        at += n;
    }
    free(buffer);
    if (good)
        return fd;
    if (fd >= 0)
        close(fd);
    hd_fail(err, HEARTH_IO, "the adapter's file could not be read whole");
    return -1;
}

static unsigned largest_rank(const struct hearth_adapter *adapter, size_t n_targets)
{
    struct hearth_adapter_target target;
    unsigned rank = 0;
    for (size_t i = 0; i < n_targets; i++)
        if (hearth_adapter_get_target(adapter, i, false, &target, NULL) == HEARTH_OK && target.rank > rank)
            rank = target.rank;
    return rank;
}

// Against its model, which must be here.
static enum hearth_status check_adapter(struct import_adapter *t, const char *path, struct hearth_error *err)
{
    struct hearth_adapter *adapter = NULL;
    struct hearth_adapter_info info;
    const struct known_model *model = NULL;
    enum hearth_status status = hearth_adapter_open(&adapter, path, NULL, err);
    if (status != HEARTH_OK)
        return status;
    hearth_adapter_get_info(adapter, &info);
    for (size_t i = 0; i < t->n_models; i++)
        if (info.base_sha256[0] && strcmp(t->models[i].sha256, info.base_sha256) == 0)
            model = &t->models[i];
    if (!info.base_sha256[0])
        status = hd_fail(err, HEARTH_INVALID, "the adapter does not tell which model it is for: name it with --base");
    else if (!model && !t->all_known)
        status = hd_fail(err, HEARTH_UNSUPPORTED, "the models' files are being looked at: try again in a moment");
    else if (!model)
        status = hd_fail(err, HEARTH_NOT_FOUND, "the model that it is for (SHA-256 %.12s...) is not on this box",
                         info.base_sha256);
    hearth_adapter_close(&adapter);
    if (status != HEARTH_OK)
        return status;
    const struct hearth_adapter_base base = {model->path, model->sha256};
    status = hearth_adapter_open(&adapter, path, &base, err);
    if (status != HEARTH_OK)
        return status;
    hearth_adapter_get_info(adapter, &info);
    t->meta = json_pack("{s:s, s:i, s:I}", "base", model->sha256, "rank", (int)largest_rank(adapter, info.n_targets),
                        "n_params", (json_int_t)info.n_params);
    hearth_adapter_close(&adapter);
    return t->meta ? HEARTH_OK : hd_fail(err, HEARTH_NOMEM, "out of memory");
}

static void run_import_adapter(struct hd_task *task) // keeper thread
{
    struct import_adapter *t = (struct import_adapter *)task;
    struct hearth_error *err = &t->base.error;
    char path[32];
    int fd = own_copy(t->fd, t->item.size_bytes, err);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (fd >= 0)
        err->code = check_adapter(t, path, err);
    if (err->code == HEARTH_OK)
        err->code = hd_sealed_write_fd(&t->base.place, "adapter.gguf", fd, t->item.size_bytes, err);
    if (fd >= 0)
        close(fd);
    close(t->fd);
}

static void done_import_adapter(struct hd_task *task)
{
    struct import_adapter *t = (struct import_adapter *)task;
    free(t->models);
    t->item.meta = hd_json_text(t->meta, JSON_COMPACT);
    json_decref(t->meta);
    if (!t->item.meta && t->base.error.code == HEARTH_OK)
        t->base.error.code = hd_fail(&t->base.error, HEARTH_NOMEM, "out of memory");
    add_item(&t->base, &t->item, false);
}

static enum hearth_status known_models(struct hd_learn *learn, struct known_model **models, size_t *n, bool *all,
                                       struct hearth_error *err)
{
    struct hd_model_file *files;
    size_t n_files;
    *n = 0;
    *all = true;
    *models = NULL;
    enum hearth_status status = hd_models_list(learn->server, &files, &n_files, err);
    if (status != HEARTH_OK)
        return status;
    *models = calloc(n_files + 1, sizeof **models);
    for (size_t i = 0; *models && i < n_files; i++) {
        *all = *all && (files[i].sha256[0] || files[i].problem[0]);
        if (!files[i].sha256[0])
            continue;
        memcpy((*models)[*n].path, files[i].path, sizeof files[i].path);
        memcpy((*models)[(*n)++].sha256, files[i].sha256, HD_SHA256_HEX_BYTES);
    }
    free(files);
    return *models ? HEARTH_OK : hd_fail(err, HEARTH_NOMEM, "out of memory");
}

enum hearth_status hd_learn_import_adapter(struct hd_learn *learn, const char *name, int fd,
                                           struct hd_learn_waiter waiter, struct hearth_error *err)
{
    static const struct hd_id nobody;
    struct hd_learnt item = {.kind = HD_LEARNT_ADAPTER, .created_ms = hd_now_ms()};
    struct known_model *models = NULL;
    struct hd_sealed_place place = {0};
    size_t n_models = 0;
    bool all_known = true;
    enum hearth_status status =
        learn ? check_name(learn, false, name, NULL, err) : hd_fail(err, HEARTH_UNSUPPORTED, "this box cannot learn");
    if (status == HEARTH_OK)
        status = file_size(fd, HD_MAX_ADAPTER_BYTES, &item.size_bytes, err);
    if (status == HEARTH_OK)
        status = known_models(learn, &models, &n_models, &all_known, err);
    if (status == HEARTH_OK)
        status = new_item(learn, &nobody, &item.id, &place, err);
    struct import_adapter *task =
        status == HEARTH_OK
            ? hd_learn_task_new(learn, sizeof *task, &place, run_import_adapter, done_import_adapter)
            : NULL;
    if (!task) {
        hd_sealer_unref(&place.sealer);
        free(models);
        close(fd);
        return status == HEARTH_OK ? hd_fail(err, HEARTH_NOMEM, "out of memory") : status;
    }
    snprintf(item.name, sizeof item.name, "%s", name);
    task->item = item;
    task->base.waiter = waiter;
    task->fd = fd;
    task->models = models;
    task->n_models = n_models;
    task->all_known = all_known;
    hd_keeper_add(learn->keeper, &task->base.task);
    return HEARTH_OK;
}

// ---- an adapter goes out

struct export_adapter {
    struct hd_learn_task base;
    struct hd_id item;
    int fd;
};

static void run_export(struct hd_task *task) // keeper thread
{
    struct export_adapter *t = (struct export_adapter *)task;
    struct hearth_error *err = &t->base.error;
    uint64_t n;
    err->code = hd_sealed_copy(&t->base.place, "adapter.gguf", HD_MAX_ADAPTER_BYTES, t->fd, &n, err);
    if (err->code == HEARTH_OK && ftruncate(t->fd, (off_t)n) != 0)
        err->code = hd_fail(err, HEARTH_IO, "the file cannot be cut to its length: %s", strerror(errno));
    close(t->fd);
}

static void done_export(struct hd_task *task)
{
    struct export_adapter *t = (struct export_adapter *)task;
    struct hearth_error *err = &t->base.error;
    const struct hd_learnt *item = hd_learn_by_id(t->base.learn, &t->item);
    if (err->code == HEARTH_OK && !item)
        err->code = hd_fail(err, HEARTH_NOT_FOUND, "the adapter was removed meanwhile");
    hd_learn_task_end(&t->base, err->code == HEARTH_OK ? item : NULL);
}

enum hearth_status hd_learn_export_adapter(struct hd_learn *learn, const char *name, int fd,
                                           struct hd_learn_waiter waiter, struct hearth_error *err)
{
    struct hd_sealed_place place = {0};
    uint64_t ignored;
    const struct hd_learnt *item = hd_learn_find(learn, HD_LEARNT_ADAPTER, name, NULL);
    enum hearth_status status =
        item ? file_size(fd, INT64_MAX, &ignored, err)
             : hd_fail(err, HEARTH_NOT_FOUND, "there is no adapter of that name");
    if (status == HEARTH_OK)
        status = hd_learn_place(learn, &item->id, &place, err);
    struct export_adapter *task =
        status == HEARTH_OK ? hd_learn_task_new(learn, sizeof *task, &place, run_export, done_export) : NULL;
    if (!task) {
        hd_sealer_unref(&place.sealer);
        close(fd);
        return status == HEARTH_OK ? hd_fail(err, HEARTH_NOMEM, "out of memory") : status;
    }
    task->item = item->id;
    task->base.waiter = waiter;
    task->fd = fd;
    hd_keeper_add(learn->keeper, &task->base.task);
    return HEARTH_OK;
}

// ---- opening an adapter

struct open_adapter {
    struct hd_learn_task base;
    struct hd_adapter *adapter;
};

static void run_open(struct hd_task *task) // keeper thread
{
    struct open_adapter *t = (struct open_adapter *)task;
    struct hd_adapter *adapter = t->adapter;
    struct hearth_adapter_info info;
    char path[32];
    uint64_t n;
    int fd;
    enum hearth_status status = hd_sealed_read_fd(&t->base.place, "adapter.gguf", HD_MAX_ADAPTER_BYTES, &fd, &n,
                                                  &adapter->error);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (status == HEARTH_OK)
        status = hearth_adapter_open(&adapter->adapter, path, NULL, &adapter->error);
    if (fd >= 0)
        close(fd);
    if (status == HEARTH_OK) {
        hearth_adapter_get_info(adapter->adapter, &info);
        adapter->values_bytes = info.n_params * sizeof(float);
    }
    adapter->error.code = status;
    atomic_store(&adapter->state, status == HEARTH_OK ? HD_ADAPTER_OPEN : HD_ADAPTER_FAILED);
}

static void done_open(struct hd_task *task)
{
    struct open_adapter *t = (struct open_adapter *)task;
    struct hd_learn *learn = t->base.learn;
    if (atomic_load(&t->adapter->state) == HD_ADAPTER_FAILED) {
        hd_log(HD_LOG_ERROR, "the adapter %s cannot be read: %s", t->adapter->name, t->adapter->error.text);
        for (size_t i = 0; i < HD_MAX_LEARNT; i++) // the next one who wants it tries again
            if (learn->live[i] == t->adapter)
                hd_adapter_unref(&learn->live[i]);
    }
    hd_adapter_unref(&t->adapter);
    hd_worker_adapters_changed(learn->server->worker);
    hd_learn_task_end(&t->base, NULL);
}

void hd_learn_drop_idle(struct hd_learn *learn)
{
    for (size_t i = 0; i < HD_MAX_LEARNT; i++) // nobody but this thread takes references of it
        if (learn->live[i] && atomic_load(&learn->live[i]->refs) == 1)
            hd_adapter_unref(&learn->live[i]);
}

// False: there are more of them than can be learnt.
static bool keep(struct hd_learn *learn, struct hd_adapter *adapter)
{
    size_t at = 0;
    while (at < HD_MAX_LEARNT && learn->live[at])
        at++;
    if (at < HD_MAX_LEARNT)
        learn->live[at] = hd_adapter_ref(adapter);
    return at < HD_MAX_LEARNT;
}

struct hd_adapter *hd_learn_open_adapter(struct hd_learn *learn, const struct hd_learnt *item,
                                         struct hearth_error *err)
{
    for (size_t i = 0; i < HD_MAX_LEARNT; i++)
        if (learn->live[i] && hd_id_equal(&learn->live[i]->id, &item->id))
            return hd_adapter_ref(learn->live[i]);
    struct hd_sealed_place place = {0};
    json_t *meta = hd_learnt_meta(item, err);
    if (!meta)
        return NULL;
    const char *base = json_string_value(json_object_get(meta, "base"));
    enum hearth_status status = hd_learn_place(learn, &item->id, &place, err);
    struct hd_adapter *adapter = status == HEARTH_OK ? hd_adapter_new(&item->id, item->name, base ? base : "") : NULL;
    struct open_adapter *task =
        adapter && keep(learn, adapter) ? hd_learn_task_new(learn, sizeof *task, &place, run_open, done_open) : NULL;
    json_decref(meta);
    if (!task) {
        hd_sealer_unref(&place.sealer);
        hd_learn_adapter_gone(learn, &item->id);
        hd_adapter_unref(&adapter);
        if (status == HEARTH_OK)
            hd_fail(err, HEARTH_NOMEM, "out of memory");
        return NULL;
    }
    task->adapter = hd_adapter_ref(adapter);
    hd_keeper_add(learn->keeper, &task->base.task);
    return adapter;
}

void hd_learn_adapter_gone(struct hd_learn *learn, const struct hd_id *id)
{
    for (size_t i = 0; i < HD_MAX_LEARNT; i++) {
        struct hd_adapter *adapter = learn->live[i];
        if (!adapter || !hd_id_equal(&adapter->id, id))
            continue;
        atomic_store(&adapter->gone, true);
        hd_adapter_unref(&learn->live[i]);
        hd_worker_adapters_changed(learn->server->worker);
    }
}
