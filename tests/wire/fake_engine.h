// SPDX-License-Identifier: Apache-2.0
// An engine of the tests: "models" are files with one line, answers are as many "x" as were asked for. Its functions
// stand in for those of libhearth, so that the worker's own doings can be seen step by step.
//
// The first line of a model file is what the model check's child does with it: "ok ARCH TYPE CTX WEIGHTS KV SCRATCH" is
// printed; "segv", "abort", "kill", "hang", "flood" and "exit" are done; anything else is printed and refused.
#ifndef WIRE_FAKE_ENGINE_H
#define WIRE_FAKE_ENGINE_H
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/engine.h"

enum { FAKE_MAX_SESSIONS = 16, FAKE_LOG = 1 << 16 };

struct hearth_session {
    struct hearth_engine *engine;
    bool busy, cancelled, paused;
    unsigned made, wanted, prompt, paused_at;
    uint64_t owner;
    void (*on_event)(void *user, const struct hearth_event *event);
    void *user;
};

struct hearth_engine {
    char name[64];
    struct hearth_engine_info info;
    struct hearth_session sessions[FAKE_MAX_SESSIONS];
    bool taken[FAKE_MAX_SESSIONS];
    size_t prefix_bytes;
};

struct fake_event { // what the engine thread did, in order
    char kind;      // o open, c close, s step, a answer begun, p paused, r goes on, f forget, i import, e export,
                    // w opening, g given up; k packed weights are being written, K were, l let go meanwhile
    char name[64];
    uint64_t owner;
};
static struct fake_event fake_log[FAKE_LOG];
static unsigned fake_n;
static pthread_mutex_t fake_lock = PTHREAD_MUTEX_INITIALIZER;
static atomic_uint fake_step_us = 200; // how long a step takes
static atomic_bool fake_hang;          // a step does not come back while it is set
static atomic_bool fake_held;          // one is there
static atomic_bool fake_endless;       // while it is set, answers stop one token before their end, unless cancelled
static atomic_bool fake_slow_open;     // opening takes until it is cleared, or nobody wants it
static atomic_bool fake_slow_write;    // writing packed weights takes until it is cleared, or it shall not go on
static atomic_bool fake_lost;          // the next step says that the device is lost
static atomic_uint fake_counts; // of a prompt's tokens
static atomic_uint fake_most_active, fake_most_taken; // sessions, and their positions, in any step
static atomic_uint fake_least_run; // positions that any session came further between two pauses

static inline void fake_note(char kind, const char *name, uint64_t owner)
{
    pthread_mutex_lock(&fake_lock);
    if (fake_n < FAKE_LOG) {
        fake_log[fake_n].kind = kind;
        fake_log[fake_n].owner = owner;
        snprintf(fake_log[fake_n++].name, sizeof fake_log[0].name, "%s", name);
    }
    pthread_mutex_unlock(&fake_lock);
}

// How many events there are; none from now on.
static inline unsigned fake_count(void)
{
    pthread_mutex_lock(&fake_lock);
    unsigned n = fake_n;
    pthread_mutex_unlock(&fake_lock);
    return n;
}

static inline void fake_forget(void)
{
    pthread_mutex_lock(&fake_lock);
    fake_n = 0;
    pthread_mutex_unlock(&fake_lock);
}

static inline void fake_reset(void)
{
    fake_forget();
    atomic_store(&fake_step_us, 200);
    atomic_store(&fake_endless, false);
    atomic_store(&fake_counts, 0);
    atomic_store(&fake_most_active, 0);
    atomic_store(&fake_most_taken, 0);
    atomic_store(&fake_least_run, 1 << 30);
}

// The first event of this kind (and name, if not NULL) from `from` on; -1: none.
static inline int fake_find(char kind, const char *name, unsigned from)
{
    int found = -1;
    pthread_mutex_lock(&fake_lock);
    for (unsigned i = from; i < fake_n && found < 0; i++) {
        if (fake_log[i].kind == kind && (!name || strcmp(fake_log[i].name, name) == 0))
            found = (int)i;
    }
    pthread_mutex_unlock(&fake_lock);
    return found;
}

static inline bool fake_line(const char *path, char line[256])
{
    FILE *file = fopen(path, "re");
    bool good = file && fgets(line, 256, file);
    if (file)
        fclose(file);
    if (good)
        line[strcspn(line, "\n")] = 0;
    return good;
}

// The model check's child.
static inline int fake_child(const char *path)
{
    char line[256];
    if (!fake_line(path, line))
        return 65;
    signal(SIGSEGV, SIG_DFL); // a sanitizer would catch it
    signal(SIGABRT, SIG_DFL);
    if (!strcmp(line, "segv"))
        kill(getpid(), SIGSEGV);
    if (!strcmp(line, "abort"))
        kill(getpid(), SIGABRT);
    if (!strcmp(line, "kill"))
        kill(getpid(), SIGKILL);
    while (!strcmp(line, "hang"))
        pause();
    while (!strcmp(line, "flood"))
        if (write(STDOUT_FILENO, "flood flood flood flood flood ", 30) < 0)
            return 1;
    if (!strcmp(line, "exit"))
        return 3;
    printf("%s\n", line);
    return strncmp(line, "ok ", 3) ? 65 : 0;
}

static inline enum hearth_status fake_fail(struct hearth_error *err, enum hearth_status code,
                                           const char *text)
{
    if (err) {
        err->code = code;
        snprintf(err->text, sizeof err->text, "%s", text);
    }
    return code;
}

enum hearth_status hearth_engine_open(struct hearth_engine **engine,
                                      const struct hearth_engine_params *params, struct hearth_error *err)
{
    char line[256] = "";
    unsigned long long weights = 0, kv = 0, scratch = 0;
    struct hearth_engine *e = calloc(1, sizeof *e);
    *engine = NULL;
    if (!e || !fake_line(params->model_path, line) ||
        sscanf(line, "ok %*s %*s %u %llu %llu %llu", &e->info.n_ctx_train, &weights, &kv, &scratch) != 4) {
        free(e);
        return fake_fail(err, HEARTH_FORMAT, "the fake model cannot be opened");
    }
    if (strstr(line, "broken")) {
        free(e);
        return fake_fail(err, HEARTH_FORMAT, "the fake model breaks when it is opened");
    }
    while (atomic_load(&fake_slow_open)) {
        usleep(1000);
        fake_note('w', "", 0);
        if (params->progress && !params->progress(params->progress_user, 0.5)) {
            free(e);
            fake_note('g', "", 0);
            return fake_fail(err, HEARTH_CANCELED, "given up");
        }
    }
    const char *slash = strrchr(params->model_path, '/');
    snprintf(e->name, sizeof e->name, "%s", slash ? slash + 1 : params->model_path);
    *strchr(e->name, '.') = 0;
    e->info.n_ctx = params->n_ctx;
    e->info.n_vocab = 100;
    e->info.weight_bytes = weights;
    e->info.kv_bytes = kv * params->n_ctx;
    e->info.scratch_bytes = scratch;
    fake_note('o', e->name, 0);
    *engine = e;
    return HEARTH_OK;
}

void hearth_engine_close(struct hearth_engine **engine)
{
    if (*engine)
        fake_note('c', (*engine)->name, 0);
    free(*engine);
    *engine = NULL;
}

void hearth_json_watch(void)
{
}

enum hearth_status hearth_engine_write_packed(const struct hearth_engine *engine, const char *dir,
                                              const char *base_sha256, bool (*go_on)(void *user), void *user,
                                              struct hearth_error *err)
{
    fake_note('k', engine->name, strlen(base_sha256));
    bool more = go_on(user);
    while (more && atomic_load(&fake_slow_write)) {
        usleep(1000);
        more = go_on(user);
    }
    fake_note(more ? 'K' : 'l', engine->name, strlen(dir)); // the engine is still there
    return more ? HEARTH_OK : fake_fail(err, HEARTH_CANCELED, "given up");
}

void hearth_engine_get_info(const struct hearth_engine *engine, struct hearth_engine_info *info)
{
    *info = engine->info;
}

enum hearth_status hearth_engine_fit(const struct hearth_engine_params *params, struct hearth_fit *fit,
                                     struct hearth_error *err)
{
    (void)params, (void)fit;
    return fake_fail(err, HEARTH_UNSUPPORTED, "not asked for in these tests");
}

static inline void fake_end(struct hearth_session *s)
{
    struct hearth_usage usage = {.prompt_tokens = s->prompt,
                                 .completion_tokens = s->made,
                                 .stop = s->cancelled ? HEARTH_STOP_CANCELLED : HEARTH_STOP_MAX_TOKENS};
    struct hearth_event event = {.type = HEARTH_EVENT_DONE, .usage = &usage};
    s->busy = s->paused = false;
    s->on_event(s->user, &event);
}

enum hearth_status hearth_engine_step(struct hearth_engine *engine, unsigned *n_busy,
                                      struct hearth_error *err)
{
    fake_note('s', engine->name, 0);
    usleep(atomic_load(&fake_step_us));
    while (atomic_load(&fake_hang)) {
        atomic_store(&fake_held, true);
        usleep(1000);
    }
    atomic_store(&fake_held, false);
    if (atomic_exchange(&fake_lost, false))
        return fake_fail(err, HEARTH_DEVICE_LOST, "the fake device is lost");
    *n_busy = 0;
    unsigned n_active = 0, taken = 0;
    for (unsigned i = 0; i < FAKE_MAX_SESSIONS; i++) {
        struct hearth_session *s = &engine->sessions[i];
        if (!s->busy || (s->paused && !s->cancelled))
            continue;
        struct hearth_event event = {.type = HEARTH_EVENT_TEXT, .text = "x", .len_bytes = 1};
        n_active += !s->paused; // a paused one is here to be cancelled
        taken += s->paused ? 0 : s->prompt + s->made;
        if (!s->cancelled && (s->made + 1 < s->wanted || !atomic_load(&fake_endless))) {
            s->made++;
            s->on_event(s->user, &event);
        }
        if (s->cancelled || s->made >= s->wanted)
            fake_end(s);
        *n_busy += s->busy;
    }
    if (n_active > atomic_load(&fake_most_active))
        atomic_store(&fake_most_active, n_active);
    if (taken > atomic_load(&fake_most_taken))
        atomic_store(&fake_most_taken, taken);
    return HEARTH_OK;
}

enum hearth_status hearth_session_create(struct hearth_engine *engine, struct hearth_session **session,
                                         struct hearth_error *err)
{
    *session = NULL;
    for (unsigned i = 0; i < FAKE_MAX_SESSIONS; i++) {
        if (engine->taken[i])
            continue;
        engine->taken[i] = true;
        engine->sessions[i] = (struct hearth_session){.engine = engine};
        *session = &engine->sessions[i];
        return HEARTH_OK;
    }
    return fake_fail(err, HEARTH_LIMIT, "no session is left");
}

void hearth_session_destroy(struct hearth_session **session)
{
    struct hearth_session *s = *session;
    if (s)
        s->engine->taken[s - s->engine->sessions] = false;
    *session = NULL;
}

unsigned hearth_session_length(const struct hearth_session *session)
{
    return session->paused ? 0 : session->prompt + session->made;
}

enum hearth_status hearth_session_submit(struct hearth_session *session, const struct hearth_request *request,
                                         struct hearth_error *err)
{
    if (session->busy)
        return fake_fail(err, HEARTH_BUSY, "the fake session answers");
    unsigned prompt = request->messages ? 10 * (unsigned)request->n_messages : (unsigned)request->n_ids;
    if (prompt >= session->engine->info.n_ctx)
        return fake_fail(err, HEARTH_CONTEXT, "the prompt does not fit");
    session->busy = true;
    session->cancelled = session->paused = false;
    session->made = session->paused_at = 0;
    session->wanted = request->max_tokens;
    session->prompt = prompt;
    session->on_event = request->on_event;
    session->user = request->user;
    session->owner = request->owner;
    session->engine->prefix_bytes += 100;
    fake_note('a', session->engine->name, request->owner);
    return HEARTH_OK;
}

void hearth_session_cancel(struct hearth_session *session)
{
    session->cancelled = true;
}

void hearth_session_pause(struct hearth_session *session)
{
    unsigned length = session->prompt + session->made;
    if (session->paused_at && length - session->paused_at < atomic_load(&fake_least_run))
        atomic_store(&fake_least_run, length - session->paused_at);
    session->paused_at = length;
    session->paused = session->busy;
    fake_note('p', session->engine->name, session->owner);
}

void hearth_session_resume(struct hearth_session *session)
{
    session->paused = false;
    fake_note('r', session->engine->name, session->owner);
}

size_t hearth_session_last_ids(const struct hearth_session *session, int32_t *ids, size_t capacity)
{
    for (size_t i = 0; i < session->made && i < capacity; i++)
        ids[i] = 7;
    return session->made;
}

enum hearth_status hearth_chat_tokenize(const struct hearth_engine *engine,
                                        const struct hearth_message *messages, size_t n_messages,
                                        int32_t *ids, size_t capacity, size_t *n_ids,
                                        struct hearth_error *err)
{
    (void)engine, (void)messages, (void)ids, (void)capacity, (void)err;
    atomic_fetch_add(&fake_counts, 1);
    *n_ids = 10 * n_messages;
    return HEARTH_OK;
}

enum hearth_status hearth_tokenize(const struct hearth_engine *engine, const char *text, size_t len_bytes,
                                   unsigned flags, int32_t *ids, size_t capacity, size_t *n_ids,
                                   struct hearth_error *err)
{
    (void)engine, (void)text, (void)flags, (void)err;
    *n_ids = len_bytes;
    for (size_t i = 0; i < len_bytes && i < capacity; i++)
        ids[i] = text[i];
    return len_bytes > capacity ? HEARTH_LIMIT : HEARTH_OK;
}

void hearth_sampling_default(struct hearth_sampling *sampling)
{
    *sampling = (struct hearth_sampling){.top_p = 1};
}

void hearth_engine_forget(struct hearth_engine *engine, uint64_t owner)
{
    fake_note('f', engine->name, owner);
    engine->prefix_bytes = 0;
}

enum hearth_status
hearth_engine_export_prefixes(struct hearth_engine *engine, uint64_t owner, uint64_t max_bytes,
                              bool (*write)(void *user, const void *data, size_t len_bytes), void *user,
                              struct hearth_error *err)
{
    (void)err, (void)max_bytes;
    static const char block[] = "cache of the fake engine";
    fake_note('e', engine->name, owner);
    return !engine->prefix_bytes || write(user, block, sizeof block) ? HEARTH_OK : HEARTH_IO;
}

enum hearth_status hearth_engine_import_prefixes(struct hearth_engine *engine, uint64_t owner,
                                                 const void *data, size_t len_bytes, unsigned *n_positions,
                                                 struct hearth_error *err)
{
    (void)data, (void)err;
    fake_note('i', engine->name, owner);
    *n_positions = (unsigned)len_bytes;
    return HEARTH_OK;
}

#endif
