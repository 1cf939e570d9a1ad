// SPDX-License-Identifier: Apache-2.0
// A training from what is asked to its end. Its row holds what it is, so that it goes on after a restart; when it is
// done the row becomes that of the adapter, in one stroke. Loop thread, but for what is marked.
//
// What is learnt from a person's own conversations is theirs alone: data set, training and adapter carry the person,
// and go with anything that is deleted of them.
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "firmware/json_text.h"
#include "firmware/learn_internal.h"

enum field_kind { TEXT, FLAG, COUNT, BIG, REAL };
struct field {
    const char *name;
    enum field_kind kind;
    double min, max; // of a text: bytes
    size_t at;       // of numbers, in struct hearth_train_params
};
#define AT(member) offsetof(struct hearth_train_params, member)
static const struct field fields[] = {
    {"data_set", TEXT, 0, HD_MAX_LEARNT_NAME, 0},
    {"adapter", TEXT, 0, HD_MAX_LEARNT_NAME, 0},
    {"model", TEXT, 0, HD_MAX_MODEL_BYTES, 0},
    {"init", TEXT, 0, HD_MAX_LEARNT_NAME, 0},
    {"targets", TEXT, 0, HD_MAX_TARGETS_BYTES, 0},
    {"precision", TEXT, 0, 8, 0},
    {"moments", TEXT, 0, 8, 0},
    {"use", FLAG, 0, 0, 0},
    {"checkpointing", FLAG, 0, 0, AT(checkpointing)},
    {"rank", COUNT, 1, 256, AT(rank)},
    {"alpha", REAL, 1e-6, 4096, AT(alpha)},
    {"lr", REAL, 1e-9, 1, AT(lr)},
    {"epochs", REAL, 1e-6, 1000, AT(epochs)},
    {"max_steps", BIG, 0, 1e6, AT(max_steps)},
    {"seq", COUNT, 16, 32768, AT(data.n_seq)},
    {"batch", COUNT, 1, 256, AT(n_batch)},
    {"held_out", REAL, 0, 0.5, AT(data.held_out)},
    {"seed", TEXT, 1, 20, 0},
};
enum { N_FIELDS = sizeof fields / sizeof fields[0] };

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

// ---- what is asked

static enum hearth_status check_field(const struct field *f, const json_t *value, struct hearth_error *err)
{
    bool number = f->kind == REAL ? json_is_number(value) : json_is_integer(value);
    if (f->kind == TEXT && json_is_string(value)) {
        if (json_string_length(value) <= f->max)
            return HEARTH_OK;
        return hd_fail(err, HEARTH_LIMIT, "%s: at most %g bytes", f->name, f->max);
    }
    if (f->kind == FLAG && json_is_boolean(value))
        return HEARTH_OK;
    if (f->kind >= COUNT && number && json_number_value(value) >= f->min && json_number_value(value) <= f->max)
        return HEARTH_OK;
    if (f->kind >= COUNT)
        return hd_fail(err, HEARTH_INVALID, "%s: %g to %g", f->name, f->min, f->max);
    return hd_fail(err, HEARTH_INVALID, "%s: a %s", f->name, f->kind == TEXT ? "text" : "truth value");
}

static enum hearth_status check_ask(const json_t *ask, struct hearth_error *err)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)ask, key, value)
    {
        int i = 0;
        while (i < N_FIELDS && strcmp(fields[i].name, key) != 0)
            i++;
        if (i == N_FIELDS)
            return hd_fail(err, HEARTH_INVALID, "a training has no such parameter");
        enum hearth_status status = check_field(&fields[i], value, err);
        if (status != HEARTH_OK)
            return status;
    }
    const char *seed = text_of(ask, "seed"), *precision = text_of(ask, "precision"), *moments = text_of(ask, "moments");
    if (strspn(seed, "0123456789") != strlen(seed))
        return hd_fail(err, HEARTH_INVALID, "seed: decimal digits");
    if (precision[0] && strcmp(precision, "auto") && strcmp(precision, "f32") && strcmp(precision, "bf16"))
        return hd_fail(err, HEARTH_INVALID, "precision: auto, f32 or bf16");
    if (moments[0] && strcmp(moments, "f32") && strcmp(moments, "8bit"))
        return hd_fail(err, HEARTH_INVALID, "moments: f32 or 8bit");
    return HEARTH_OK;
}

// What a run's row says, over the defaults.
static void read_params(struct hearth_train_params *params, const json_t *meta)
{
    memset(params, 0, sizeof *params);
    hearth_train_default(params);
    for (int i = 0; i < N_FIELDS; i++) {
        const json_t *value = json_object_get(meta, fields[i].name);
        void *to = (char *)params + fields[i].at;
        if (!value || (fields[i].kind != FLAG && fields[i].kind < COUNT) || !fields[i].at)
            continue;
        if (fields[i].kind == FLAG)
            *(bool *)to = json_is_true(value);
        else if (fields[i].kind == COUNT)
            *(unsigned *)to = (unsigned)json_integer_value(value);
        else if (fields[i].kind == BIG)
            *(uint64_t *)to = (uint64_t)json_integer_value(value);
        else if (fields[i].at == AT(alpha))
            *(float *)to = (float)json_number_value(value);
        else
            *(double *)to = json_number_value(value);
    }
    params->seed = params->data.seed = strtoull(text_of(meta, "seed"), NULL, 10);
    const char *precision = text_of(meta, "precision");
    params->precision = !strcmp(precision, "f32")    ? HEARTH_TRAIN_F32
                        : !strcmp(precision, "bf16") ? HEARTH_TRAIN_BF16
                                                     : HEARTH_TRAIN_AUTO;
    params->moments = strcmp(text_of(meta, "moments"), "8bit") ? HEARTH_TRAIN_MOMENTS_F32 : HEARTH_TRAIN_MOMENTS_8BIT;
    params->resume = true;
}

// All of what was not said is said: a later Hearth with other defaults goes on as this one began.
static json_t *complete(const json_t *ask)
{
    struct hearth_train_params defaults = {0};
    json_t *meta = json_copy((json_t *)ask);
    hearth_train_default(&defaults);
    for (int i = 0; meta && i < N_FIELDS; i++) {
        const struct field *f = &fields[i];
        const void *from = (const char *)&defaults + f->at;
        if (json_object_get(meta, f->name))
            continue;
        json_t *value = f->kind == FLAG      ? json_boolean(f->at && *(const bool *)from)
                        : f->kind == COUNT   ? json_integer(*(const unsigned *)from)
                        : f->kind == BIG     ? json_integer((json_int_t) * (const uint64_t *)from)
                        : f->at == AT(alpha) ? json_real((double)*(const float *)from)
                        : f->kind == REAL    ? json_real(*(const double *)from)
                                             : json_string(!strcmp(f->name, "seed")        ? "0"
                                                           : !strcmp(f->name, "targets")   ? "all"
                                                           : !strcmp(f->name, "precision") ? "auto"
                                                           : !strcmp(f->name, "moments")   ? "f32"
                                                                                           : "");
        if (json_object_set_new(meta, f->name, value)) {
            json_decref(meta);
            return NULL;
        }
    }
    return meta;
}

// As `hearth train start` spells it: "--max-steps".
static void spell(char option[32], const char *key)
{
    snprintf(option, 32, strcmp(key, "data_set") ? "--%s" : "the data set", key);
    for (char *c = option; *c; c++)
        *c = *c == '_' ? '-' : *c;
}

// What is said again must be what it was.
static enum hearth_status check_same(const json_t *ask, const json_t *meta, struct hearth_error *err)
{
    enum { FLAGS = JSON_ENCODE_ANY | JSON_REAL_PRECISION(9) };
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)ask, key, value)
    {
        const json_t *was = json_object_get(meta, key);
        bool empty = json_is_string(value) && !json_string_length(value);
        bool same = json_is_number(value) ? json_number_value(value) == json_number_value(was)
                                          : json_equal(value, (json_t *)was);
        if (empty || same || strcmp(key, "use") == 0)
            continue;
        char option[32], *before = hd_json_text(was, FLAGS), *now = hd_json_text(value, FLAGS);
        spell(option, key);
        hd_fail(err, HEARTH_INVALID,
                "a training of that name was begun with %s %.60s, not %.60s: go on with what it had, or remove it",
                option, before ? before : "of its own", now ? now : "this");
        free(before);
        free(now);
        return err->code;
    }
    return HEARTH_OK;
}

// ---- its row

bool hd_learn_uses(const struct hd_learn *learn, const struct hd_id *id)
{
    return learn->training &&
           (hd_id_equal(id, &learn->run) || hd_id_equal(id, &learn->set) || hd_id_equal(id, &learn->init));
}

static enum hearth_status set_row_state(struct hd_learn *learn, const char *state, const struct hearth_error *why)
{
    struct hearth_error error = {0};
    struct hd_learnt *item = hd_learn_by_id(learn, &learn->run);
    if (!item)
        return HEARTH_NOT_FOUND;
    json_t *meta = hd_learnt_meta(item, &error);
    bool good = !json_object_set_new(meta, "state", json_string(state)) &&
                !json_object_set_new(meta, "problem", json_string(why ? why->text : ""));
    char *text = good ? hd_json_text(meta, JSON_COMPACT) : NULL;
    struct hd_learnt changed = *item;
    changed.meta = text;
    enum hearth_status status =
        text ? hd_store_learnt_update(learn->server->store, &changed, &error)
             : hd_fail(&error, HEARTH_NOMEM, "out of memory");
    free(text);
    json_decref(meta);
    if (status == HEARTH_OK)
        status = hd_learn_reload(learn, &error);
    if (status != HEARTH_OK)
        hd_log(HD_LOG_WARN, "the training's state could not be stored: %s", error.text);
    return status;
}

// ---- the end

static void end(struct hd_learn *learn, enum hd_train_state state, const struct hearth_error *error)
{
    static const struct hd_id none;
    hd_run_files_unref(&learn->files);
    learn->training = learn->discard = false;
    learn->run = learn->set = learn->init = none;
    learn->view.state = state;
    learn->view.memory_bytes = 0;
    learn->view.eta_s = 0;
    learn->view.error = error ? *error : (struct hearth_error){0};
    hd_learn_changed(learn, true);
}

void hd_learn_abort(struct hd_learn *learn)
{
    static const struct hearth_error gone = {.code = HEARTH_NOT_FOUND, .text = "what it learnt from was deleted"};
    if (!learn->training)
        return;
    if (learn->files)
        hd_run_files_abandon(learn->files);
    hd_worker_train_stop(learn->server->worker, true);
    learn->tag++; // what the engine thread still tells is of nobody
    end(learn, HD_TRAIN_FAILED, &gone);
    memset(learn->view.adapter, 0, sizeof learn->view.adapter);
    memset(learn->view.data_set, 0, sizeof learn->view.data_set);
    learn->view.n_points = learn->view.n_told = 0;
}

// What comes after everything that was saved before has been written.
struct finish {
    struct hd_learn_task base;
    enum hd_train_state state;
    uint64_t tag;
    struct hearth_adapter *adapter; // DONE
    uint64_t size_bytes, n_params;
    unsigned rank;
    char sha256[HD_SHA256_HEX_BYTES]; // of the adapter's file
};

static enum hearth_status hash_file(int fd, size_t size, char sha256[HD_SHA256_HEX_BYTES], struct hearth_error *err)
{
    uint8_t hash[HD_HASH_BYTES];
    void *bytes = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
    if (bytes == MAP_FAILED)
        return hd_fail(err, HEARTH_NOMEM, "no memory for the adapter");
    hd_sha256(hash, bytes, size);
    munmap(bytes, size);
    hd_hex(sha256, hash, sizeof hash);
    return HEARTH_OK;
}

static void run_finish(struct hd_task *task) // keeper thread
{
    struct finish *t = (struct finish *)task;
    struct hearth_error *err = &t->base.error;
    struct hearth_adapter_info info;
    struct hearth_adapter_target target;
    char path[32];
    if (!t->adapter || err->code != HEARTH_OK)
        return;
    int fd = memfd_create("hearth", MFD_CLOEXEC);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    err->code = fd < 0 ? hd_fail(err, HEARTH_NOMEM, "no memory for the adapter")
                       : hearth_adapter_write_gguf(t->adapter, path, err);
    off_t size = err->code == HEARTH_OK ? lseek(fd, 0, SEEK_END) : 0;
    if (err->code == HEARTH_OK)
        err->code = hash_file(fd, (size_t)size, t->sha256, err);
    if (err->code == HEARTH_OK)
        err->code = hd_sealed_write_fd(&t->base.place, "adapter.gguf", fd, (uint64_t)size, err);
    if (fd >= 0)
        close(fd);
    hearth_adapter_get_info(t->adapter, &info);
    t->size_bytes = (uint64_t)size;
    t->n_params = info.n_params;
    for (size_t i = 0; i < info.n_targets; i++)
        if (hearth_adapter_get_target(t->adapter, i, false, &target, NULL) == HEARTH_OK && target.rank > t->rank)
            t->rank = target.rank;
}

// The row becomes the adapter's.
static enum hearth_status become_adapter(struct hd_learn *learn, const struct finish *t, struct hearth_error *err)
{
    struct hd_learnt *item = hd_learn_by_id(learn, &learn->run);
    json_t *run = item ? hd_learnt_meta(item, err) : NULL;
    const struct hd_train_view *view = &learn->view;
    json_t *meta =
        json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:i, s:I, s:I, s:f, s:f}", "sha256", t->sha256, "base",
                  text_of(run, "base"), "model", text_of(run, "model"), "data_set", text_of(run, "data_set"),
                  "data_set_id", text_of(run, "data_set_id"), "init", text_of(run, "init"), "init_id",
                  text_of(run, "init_id"), "who", text_of(run, "who"), "rank", (int)t->rank, "n_params",
                  (json_int_t)t->n_params, "steps", (json_int_t)view->step.step, "loss",
                  isfinite(view->step.loss) ? view->step.loss : 0, "held_out", view->held_out);
    char *text = meta && run ? hd_json_text(meta, JSON_COMPACT) : NULL;
    bool use = json_is_true(json_object_get(run, "use"));
    struct hd_id who = {{0}};
    (void)hd_unhex(who.b, HD_ID_BYTES, text_of(run, "who"));
    json_decref(run);
    json_decref(meta);
    if (!text)
        return hd_fail(err, HEARTH_NOMEM, "out of memory");
    struct hd_learnt done = *item;
    char name[HD_MAX_LEARNT_NAME + 1];
    memcpy(name, item->name, sizeof name);
    done.kind = HD_LEARNT_ADAPTER;
    done.meta = text;
    done.size_bytes = t->size_bytes;
    enum hearth_status status = hd_store_learnt_update(learn->server->store, &done, err);
    free(text);
    if (status == HEARTH_OK)
        status = hd_learn_reload(learn, err);
    if (status == HEARTH_OK && use && hd_learn_use(learn, &who, name, 1, err) != HEARTH_OK)
        hd_log(HD_LOG_WARN, "%s is not used: %s", name, err->text);
    return status;
}

static void done_finish(struct hd_task *task)
{
    struct finish *t = (struct finish *)task;
    struct hd_learn *learn = t->base.learn;
    struct hearth_error error = t->base.error;
    hearth_adapter_close(&t->adapter);
    if (t->tag == learn->tag && learn->training) {
        if (t->state == HD_TRAIN_DONE && error.code == HEARTH_OK)
            error.code = become_adapter(learn, t, &error);
        else if (t->state == HD_TRAIN_STOPPED && error.code == HEARTH_OK && !learn->discard)
            error = learn->unsaved; // it goes on from the checkpoint before
        if (t->state == HD_TRAIN_STOPPED && error.code != HEARTH_OK)
            hd_log(HD_LOG_ERROR, "the training of %s is not saved as far as it came: %s", learn->view.adapter,
                   error.text);
        enum hd_train_state state = error.code == HEARTH_OK ? t->state : HD_TRAIN_FAILED;
        if (state == HD_TRAIN_DONE) {
            hd_sealed_remove(learn->dir, &learn->run, "checkpoint.bin");
            hd_sealed_remove(learn->dir, &learn->run, "manifest.json");
        } else if (learn->discard) {
            (void)hd_store_learnt_remove(learn->server->store, &learn->run, &error);
            learn->training = false; // so that its row's going aborts nothing
            hd_learn_sync(learn);
        } else {
            (void)set_row_state(learn, state == HD_TRAIN_STOPPED ? "stopped" : "failed", &error);
        }
        end(learn, state, state == HD_TRAIN_FAILED ? &error : NULL);
    }
    hd_learn_task_end(&t->base, NULL);
}

static void finish(struct hd_learn *learn, enum hd_train_state state, struct hearth_adapter **adapter,
                   const struct hearth_error *error)
{
    struct hd_sealed_place place = {0};
    struct hearth_error failed = *error;
    if (failed.code == HEARTH_OK)
        failed.code = hd_learn_place(learn, &learn->run, &place, &failed);
    struct finish *t = hd_learn_task_new(learn, sizeof *t, &place, run_finish, done_finish);
    if (!t) {
        hd_sealer_unref(&place.sealer);
        hd_fail(&failed, HEARTH_NOMEM, "out of memory");
        end(learn, HD_TRAIN_FAILED, &failed);
        return;
    }
    t->state = state;
    t->tag = learn->tag;
    t->adapter = *adapter;
    t->base.error = failed;
    *adapter = NULL;
    hd_keeper_add(learn->keeper, &t->base.task);
}

// ---- the beginning

struct begin {
    struct hd_learn_task base;
    struct hd_train_job *job;
};

static const char *const set_parts[HD_TRAIN_N_DATA] = {"data.messages", "data.text"};

static void run_begin(struct hd_task *task) // keeper thread; the place is the data set's
{
    struct begin *t = (struct begin *)task;
    struct hearth_error *err = &t->base.error;
    uint64_t n;
    int n_parts = 0;
    for (int i = 0; i < HD_TRAIN_N_DATA && err->code == HEARTH_OK; i++) {
        err->code = hd_sealed_read_fd(&t->base.place, set_parts[i], HD_MAX_SET_BYTES, &t->job->data_fds[i], &n, err);
        n_parts += err->code == HEARTH_OK;
        if (err->code == HEARTH_NOT_FOUND)
            *err = (struct hearth_error){0};
    }
    if (err->code == HEARTH_OK && !n_parts)
        err->code = hd_fail(err, HEARTH_FORMAT, "the files of the data set are gone");
    struct hearth_error ignored = {0}; // the trainer tells when it asks for it again
    if (err->code == HEARTH_OK)
        (void)hd_run_files_open(t->job->files, "checkpoint.bin", &ignored);
}

static void done_begin(struct hd_task *task)
{
    struct begin *t = (struct begin *)task;
    struct hd_learn *learn = t->base.learn;
    struct hearth_adapter *none = NULL;
    if (t->job->tag == learn->tag && learn->training && learn->server->worker) {
        if (t->base.error.code == HEARTH_OK && learn->view.state == HD_TRAIN_STOPPING) {
            finish(learn, HD_TRAIN_STOPPED, &none, &t->base.error);
        } else {
            if (t->base.error.code == HEARTH_OK &&
                hd_worker_train(learn->server->worker, t->job, &t->base.error) == HEARTH_OK)
                t->job = NULL;
            if (t->job)
                finish(learn, HD_TRAIN_FAILED, &none, &t->base.error);
        }
    }
    hd_train_job_free(&t->job);
    hd_learn_task_end(&t->base, NULL);
}

static void on_write_failed(void *user, const struct hearth_error *error)
{
    struct hd_learn *learn = user;
    learn->unsaved = *error; // a training that was to stop has ended for the worker
    hd_worker_train_fail(learn->server->worker, error);
}

// The job of a run's row; NULL: err tells.
static struct hd_train_job *make_job(struct hd_learn *learn, const struct hd_learnt *item, const json_t *meta,
                                     const char *model_path, struct hearth_error *err)
{
    struct hd_sealed_place place = {0};
    const char *init_name = text_of(meta, "init");
    const struct hd_learnt *init = hd_learn_find(learn, HD_LEARNT_ADAPTER, init_name, NULL);
    struct hd_train_job *job = hd_train_job_new();
    if (!job) {
        hd_fail(err, HEARTH_NOMEM, "out of memory");
        return NULL;
    }
    read_params(&job->params, meta);
    job->tag = learn->tag + 1;
    snprintf(job->adapter, sizeof job->adapter, "%s", item->name);
    snprintf(job->data_set, sizeof job->data_set, "%s", text_of(meta, "data_set"));
    snprintf(job->targets, sizeof job->targets, "%s", text_of(meta, "targets"));
    snprintf(job->base_sha256, sizeof job->base_sha256, "%s", text_of(meta, "base"));
    snprintf(job->model_path, sizeof job->model_path, "%s", model_path);
    job->data_formats[0] = HEARTH_DATA_MESSAGES;
    job->data_formats[1] = HEARTH_DATA_TEXT;
    if (init_name[0] && !init)
        hd_fail(err, HEARTH_NOT_FOUND, "the adapter %s that it begins from is not here", init_name);
    else if (init && !(job->init = hd_learn_open_adapter(learn, init, err)))
        ;
    else if (hd_learn_place(learn, &item->id, &place, err) == HEARTH_OK &&
             !(job->files = hd_run_files_new(learn->keeper, &place, on_write_failed, learn)))
        hd_fail(err, HEARTH_NOMEM, "out of memory");
    hd_sealer_unref(&place.sealer);
    if (!job->files)
        hd_train_job_free(&job);
    return job;
}

static void show_run(struct hd_learn *learn, const struct hd_learnt *item, const json_t *meta)
{
    uint64_t seq = learn->view.seq;
    learn->view = (struct hd_train_view){.seq = seq, .state = HD_TRAIN_WAITING, .person = item->person};
    snprintf(learn->view.adapter, sizeof learn->view.adapter, "%s", item->name);
    snprintf(learn->view.data_set, sizeof learn->view.data_set, "%s", text_of(meta, "data_set"));
    snprintf(learn->view.model, sizeof learn->view.model, "%s", text_of(meta, "model"));
    learn->first_step = UINT64_MAX;
}

static enum hearth_status begin_run(struct hd_learn *learn, const struct hd_id *run, const char *model_path,
                                    struct hearth_error *err)
{
    struct hd_sealed_place place = {0};
    const struct hd_learnt *item = hd_learn_by_id(learn, run);
    json_t *meta = hd_learnt_meta(item, err);
    if (!meta)
        return HEARTH_NOMEM;
    const struct hd_learnt *set = hd_learn_find(learn, HD_LEARNT_SET, text_of(meta, "data_set"), NULL);
    struct hd_train_job *job = NULL;
    struct begin *task = NULL;
    enum hearth_status status =
        set ? HEARTH_OK : hd_fail(err, HEARTH_NOT_FOUND, "its data set %s is not here", text_of(meta, "data_set"));
    if (status == HEARTH_OK)
        status = hd_learn_place(learn, &set->id, &place, err);
    if (status == HEARTH_OK && !(job = make_job(learn, item, meta, model_path, err)))
        status = err->code;
    if (status == HEARTH_OK && !(task = hd_learn_task_new(learn, sizeof *task, &place, run_begin, done_begin)))
        status = hd_fail(err, HEARTH_NOMEM, "out of memory");
    if (status != HEARTH_OK) {
        hd_sealer_unref(&place.sealer);
        hd_train_job_free(&job);
        json_decref(meta);
        return status;
    }
    task->job = job;
    learn->tag = job->tag;
    learn->unsaved = (struct hearth_error){0};
    learn->training = true;
    learn->discard = false;
    learn->run = *run;
    learn->set = set->id;
    learn->init = job->init ? job->init->id : (struct hd_id){{0}};
    learn->files = hd_run_files_ref(job->files);
    show_run(learn, item, meta);
    json_decref(meta);
    hd_keeper_add(learn->keeper, &task->base.task);
    (void)set_row_state(learn, "running", NULL);
    hd_learn_changed(learn, true);
    return HEARTH_OK;
}

static enum hearth_status model_of(struct hd_learn *learn, const char *name, char path[HD_PATH_BYTES],
                                   char sha256[HD_SHA256_HEX_BYTES], struct hearth_error *err)
{
    static const struct hd_id nobody;
    enum hearth_status status = hd_worker_may_submit(learn->server->worker, &nobody, name, path, err);
    if (status == HEARTH_OK && !hd_learn_model_sha256(learn, path, sha256)) {
        hd_models_show(learn->server, path);
        status = hd_fail(err, HEARTH_UNSUPPORTED, "the model's file is being looked at: try again in a moment");
    }
    return status;
}

// The row of a new run. *person: whose it becomes.
static enum hearth_status add_run(struct hd_learn *learn, const json_t *ask, const struct hd_id *person,
                                  const char *model_path, const char *sha256, struct hd_id *id,
                                  struct hearth_error *err)
{
    struct hd_learnt item = {.kind = HD_LEARNT_RUN, .created_ms = hd_now_ms()};
    const char *name = text_of(ask, "adapter"), *init_name = text_of(ask, "init");
    const struct hd_learnt *set = hd_learn_find(learn, HD_LEARNT_SET, text_of(ask, "data_set"), person);
    const struct hd_learnt *init = hd_learn_find(learn, HD_LEARNT_ADAPTER, init_name, person);
    char who[2 * HD_ID_BYTES + 1], id_text[2 * HD_ID_BYTES + 1], model[HD_MAX_MODEL_BYTES + 1];
    if (!hd_learnt_name_ok(name))
        return hd_fail(err, HEARTH_INVALID, "adapter: 1 to 64 letters, digits, '.', '_' or '-', not first");
    if (hd_learn_find(learn, HD_LEARNT_ADAPTER, name, NULL) || hd_learn_find(learn, HD_LEARNT_RUN, name, NULL))
        return hd_fail(err, HEARTH_INVALID, "there is an adapter of that name already");
    if (!set)
        return hd_fail(err, HEARTH_NOT_FOUND, "there is no data set of that name");
    if (init_name[0] && !init)
        return hd_fail(err, HEARTH_NOT_FOUND, "there is no adapter of the name that init tells");
    item.person = init && !hd_id_is_zero(&init->person) ? init->person : set->person;
    if (!hd_id_is_zero(&set->person) && !hd_id_equal(&set->person, &item.person))
        return hd_fail(err, HEARTH_INVALID, "what one person's conversations taught is not mixed with another's");
    snprintf(item.name, sizeof item.name, "%s", name);
    hd_hex(who, person ? person->b : item.person.b, HD_ID_BYTES); // whose answers are made with it, if `use`
    hd_model_file_name(model_path, model);
    json_t *meta = complete(ask);
    bool good = !json_object_set_new(meta, "model", json_string(model)) &&
                !json_object_set_new(meta, "base", json_string(sha256)) &&
                !json_object_set_new(meta, "who", json_string(who));
    hd_hex(id_text, set->id.b, HD_ID_BYTES); // names may come again, ids do not
    good = good && !json_object_set_new(meta, "data_set_id", json_string(id_text));
    hd_hex(id_text, init ? init->id.b : NULL, init ? HD_ID_BYTES : 0);
    good = good && !json_object_set_new(meta, "init_id", json_string(id_text));
    item.meta = good ? hd_json_text(meta, JSON_COMPACT) : NULL;
    json_decref(meta);
    enum hearth_status status = item.meta ? hd_store_learnt_key(learn->server->store, &item.person, &item.id, err)
                                          : hd_fail(err, HEARTH_NOMEM, "out of memory");
    if (status == HEARTH_OK)
        status = hd_store_learnt_add(learn->server->store, &item, err);
    free(item.meta);
    *id = item.id;
    return status == HEARTH_OK ? hd_learn_reload(learn, err) : status;
}

static enum hearth_status go_on(struct hd_learn *learn, const struct hd_learnt *run, const json_t *ask,
                                struct hearth_error *err)
{
    char path[HD_PATH_BYTES], sha256[HD_SHA256_HEX_BYTES];
    struct hd_id id = run->id;
    json_t *meta = hd_learnt_meta(run, err);
    enum hearth_status status = meta ? check_same(ask, meta, err) : HEARTH_NOMEM;
    if (status == HEARTH_OK)
        status = model_of(learn, text_of(meta, "model"), path, sha256, err);
    if (status == HEARTH_OK && strcmp(sha256, text_of(meta, "base")) != 0)
        status = hd_fail(err, HEARTH_INVALID, "the model %s is not the file that it was", text_of(meta, "model"));
    json_decref(meta);
    return status == HEARTH_OK ? begin_run(learn, &id, path, err) : status;
}

enum hearth_status hd_learn_train(struct hd_learn *learn, const json_t *ask, const struct hd_id *person,
                                  struct hearth_error *err)
{
    char path[HD_PATH_BYTES], sha256[HD_SHA256_HEX_BYTES];
    struct hd_id id;
    if (!learn || learn->server->stopping)
        return hd_fail(err, HEARTH_UNSUPPORTED, "this box cannot learn now");
    enum hearth_status status = check_ask(ask, err);
    if (status != HEARTH_OK)
        return status;
    const char *name = text_of(ask, "adapter");
    const struct hd_learnt *run = hd_learn_find(learn, HD_LEARNT_RUN, name, person);
    if (learn->training && run && hd_id_equal(&run->id, &learn->run)) { // asked again: it is followed
        json_t *meta = hd_learnt_meta(run, err);
        status = meta ? check_same(ask, meta, err) : HEARTH_NOMEM;
        json_decref(meta);
        return status;
    }
    if (learn->training)
        return hd_fail(err, HEARTH_BUSY, "another training runs: stop it first");
    if (run)
        return go_on(learn, run, ask, err);
    status = hd_learn_check_quota(learn, person, NULL, 0, err); // how large it becomes is not known yet
    if (status == HEARTH_OK)
        status = model_of(learn, text_of(ask, "model"), path, sha256, err);
    if (status == HEARTH_OK)
        status = add_run(learn, ask, person, path, sha256, &id, err);
    return status == HEARTH_OK ? begin_run(learn, &id, path, err) : status;
}

enum hearth_status hd_learn_stop(struct hd_learn *learn, const char *name, bool discard, const struct hd_id *person,
                                 struct hearth_error *err)
{
    const struct hd_learnt *run = learn && learn->training ? hd_learn_by_id(learn, &learn->run) : NULL;
    if (run && (!hd_learn_is_visible(run, person) || (name[0] && strcmp(run->name, name) != 0)))
        run = NULL;
    if (!run && learn && discard && name[0] && hd_learn_find(learn, HD_LEARNT_RUN, name, person)) {
        struct hd_id id = hd_learn_find(learn, HD_LEARNT_RUN, name, person)->id;
        enum hearth_status status = hd_store_learnt_remove(learn->server->store, &id, err);
        hd_learn_sync(learn);
        return status;
    }
    if (!run)
        return hd_fail(err, HEARTH_NOT_FOUND, "no such training runs");
    learn->discard = learn->discard || discard;
    learn->view.state = HD_TRAIN_STOPPING;
    hd_worker_train_stop(learn->server->worker, discard);
    hd_learn_changed(learn, true);
    return HEARTH_OK;
}

// The file of a row's model: in the models folder, or the one that the box was started with, wherever it lies.
static enum hearth_status model_of_row(struct hd_learn *learn, const char *name, char path[HD_PATH_BYTES],
                                       struct hearth_error *err)
{
    struct hd_server *server = learn->server;
    struct hd_model_file file;
    struct hearth_error ignored;
    char first[HD_MAX_MODEL_BYTES + 1];
    enum hearth_status status = hd_model_file_find(server->config, name, &file, err);
    if (status == HEARTH_OK) {
        memcpy(path, file.path, HD_PATH_BYTES);
    } else if (hd_models_first(server->config, server->store, path, &ignored) == HEARTH_OK) {
        hd_model_file_name(path, first);
        status = strcmp(first, name) == 0 ? HEARTH_OK : status;
    }
    if (status != HEARTH_OK)
        return hd_fail(err, status, "its model %s is not here: it goes on when the box has it again", name);
    hd_models_show(server, path); // its hash is compared before it begins
    return HEARTH_OK;
}

// Its row stays as it is: the next start tries again, and so does who asks for it.
static void cannot_go_on(struct hd_learn *learn, const struct hd_learnt *item, const json_t *meta,
                         const struct hearth_error *why)
{
    hd_log(HD_LOG_WARN, "the training of %s does not go on: %s", item->name, why->text);
    show_run(learn, item, meta);
    learn->view.state = HD_TRAIN_FAILED;
    learn->view.error = *why;
    learn->view.seq++;
}

// One that ran when the daemon ended.
void hd_learn_resume(struct hd_learn *learn)
{
    struct hearth_error error = {0};
    for (size_t i = 0; learn && i < learn->n_items && !learn->training; i++) {
        struct hd_id id = learn->items[i].id;
        if (learn->items[i].kind != HD_LEARNT_RUN)
            continue;
        json_t *meta = hd_learnt_meta(&learn->items[i], &error);
        char path[HD_PATH_BYTES];
        if (!meta)
            cannot_go_on(learn, &learn->items[i], NULL, &error);
        if (meta && strcmp(text_of(meta, "state"), "running") == 0) {
            enum hearth_status status = model_of_row(learn, text_of(meta, "model"), path, &error);
            if (status == HEARTH_OK)
                status = begin_run(learn, &id, path, &error);
            if (status != HEARTH_OK)
                cannot_go_on(learn, &learn->items[i], meta, &error);
            else
                hd_log(HD_LOG_INFO, "the training of %s goes on", text_of(meta, "adapter"));
        }
        json_decref(meta);
    }
}

// ---- what the engine thread tells

static void add_point(struct hd_train_view *view, const struct hearth_train_step *step)
{
    bool evaluation = !isnan(step->held_out);
    if (view->n_points == HD_MAX_TRAIN_POINTS) {
        memmove(view->points, view->points + 1, (HD_MAX_TRAIN_POINTS - 1) * sizeof view->points[0]);
        view->n_points--;
        view->n_told -= view->n_told > 0;
    }
    view->points[view->n_points].step = step->step;
    view->points[view->n_points].loss = evaluation || !isfinite(step->loss) ? 0 : step->loss;
    view->points[view->n_points++].held_out = evaluation && isfinite(step->held_out) ? step->held_out : 0;
}

static void on_step(struct hd_learn *learn, const struct hearth_train_step *step)
{
    struct hd_train_view *view = &learn->view;
    add_point(view, step);
    if (!isnan(step->held_out)) {
        view->held_out = isfinite(step->held_out) ? step->held_out : 0;
        return;
    }
    view->step = *step;
    if (learn->first_step == UINT64_MAX)
        learn->first_step = step->step - 1;
    uint64_t n_done = step->step - learn->first_step;
    view->eta_s = n_done && step->n_steps > step->step
                      ? step->seconds / (double)n_done * (double)(step->n_steps - step->step)
                      : 0;
}

void hd_learn_note(struct hd_learn *learn, struct hd_note *note)
{
    if (!learn || !learn->training || note->tag != learn->tag)
        return;
    struct hd_train_view *view = &learn->view;
    if (note->text)
        snprintf(view->precision, sizeof view->precision, "%s", note->text);
    if (note->memory_bytes)
        view->memory_bytes = note->memory_bytes;
    if (note->step.step)
        on_step(learn, &note->step);
    if (note->train_state >= HD_TRAIN_STOPPED) {
        finish(learn, note->train_state, &note->learnt, &note->error);
        return;
    }
    bool changed = view->state != note->train_state && view->state != HD_TRAIN_STOPPING;
    if (changed)
        view->state = note->train_state;
    hd_learn_changed(learn, changed);
}
