// SPDX-License-Identifier: Apache-2.0
// Shared by the tests of the engine thread: a worker with the tests' engine, models as small files, questions, and what
// the notes have told.
#ifndef WIRE_WORKER_KIT_H
#define WIRE_WORKER_KIT_H
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <time.h>

#include "firmware/worker.h"
#include "tests/check/fault.h"
#include "tests/wire/fake_trainer.h"
#include "tests/wire/wait.h"

enum { MIB = 1 << 20, ENDED_MAX = 256, WAIT_MS = 20000 };

static char dir[64];
static struct hd_config config;
static struct hd_worker *worker;
static struct hearth_error err;
static unsigned char next_id;
static size_t ask_messages; // of a question; the fake model's prompt has ten tokens for each
static bool ask_whole;      // what does not fit fails, else its oldest turns are dropped

static struct { // what the notes have told
    struct hd_id started[ENDED_MAX], done[ENDED_MAX], failed[ENDED_MAX];
    unsigned n_started, n_done, n_failed, n_loads, n_prefixes, n_exported, n_dropped;
    struct hearth_error load_error, last_error;
    uint64_t load_tag, prefix_tag;
    char last_model[HD_MAX_MODEL_BYTES + 1];
    size_t n_text[ENDED_MAX]; // bytes, by the response's first byte
} seen;

static inline void wake(void *user)
{
    (void)user;
}

static inline void silent(void *user, enum hd_log_level level, const char *line)
{
    (void)user, (void)level, (void)line;
}

static inline void drain(void)
{
    struct hd_note note;
    while (hd_worker_next(worker, &note)) {
        switch (note.type) {
        case HD_NOTE_STARTED:
            seen.started[seen.n_started++] = note.response;
            seen.n_dropped += note.dropped_turns;
            memcpy(seen.last_model, note.model, sizeof note.model);
            break;
        case HD_NOTE_TEXT: seen.n_text[note.response.b[0]] += note.len_bytes; break;
        case HD_NOTE_DONE: seen.done[seen.n_done++] = note.response; break;
        case HD_NOTE_FAILED:
            seen.failed[seen.n_failed++] = note.response;
            seen.last_error = note.error;
            break;
        case HD_NOTE_MODEL:
            seen.n_loads++;
            seen.load_error = note.error;
            seen.load_tag = note.tag;
            break;
        case HD_NOTE_PREFIXES:
            seen.n_prefixes++;
            seen.prefix_tag = note.tag;
            break;
        case HD_NOTE_EXPORTED: seen.n_exported++; break;
        default: break;
        }
        hd_note_free(&note);
    }
}

#define WAIT_FOR(condition) WAIT_UNTIL(condition, seen.last_error.text)

static inline void write_model(const char *name, const char *line)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s.gguf", dir, name);
    FILE *file = fopen(path, "we");
    fprintf(file, "%s\n", line);
    fclose(file);
}

static inline const char *path_of(const char *name)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/%s.gguf", dir, name);
    return path;
}

static inline int setup(void **state)
{
    (void)state;
    hd_log_set(silent, NULL);
    check_folder_make(dir);
    memset(&config, 0, sizeof config);
    snprintf(config.models_dir, sizeof config.models_dir, "%s", dir);
    config.max_sessions = 4;
    config.memory_budget_mib = 100;
    config.stall_s = 1;
    config.prefix_cache_mib = 8;
    memset(&seen, 0, sizeof seen);
    fake_reset();
    next_id = 0;
    ask_messages = 1;
    ask_whole = false;
    write_model("one", "ok llama Q4_1 4096 41943040 1024 1048576"); // 40 + 4 + 1 MiB
    write_model("two", "ok llama Q4_1 4096 41943040 1024 1048576");
    write_model("huge", "ok llama Q4_1 4096 104857600 1024 1048576");
    return 0;
}

static inline void start(unsigned switch_ms)
{
    const struct hd_worker_params params = {
        .config = &config, .wake = wake, .check_ms = 3000, .switch_ms = switch_ms, .prefix_idle_ms = 50};
    assert_int_equal(hd_worker_start(&worker, &params, &err), HEARTH_OK);
}

static inline void use(const char *name)
{
    unsigned n = seen.n_loads;
    assert_int_equal(hd_worker_load(worker, path_of(name), 5, &err), HEARTH_OK);
    WAIT_FOR(seen.n_loads > n);
}

// Answers stand still from here on, in the middle of a step, until fake_hang is cleared. One must be there.
static inline void hold_step(void)
{
    atomic_store(&fake_held, false);
    atomic_store(&fake_hang, true);
    WAIT_FOR(atomic_load(&fake_held));
}

static inline int teardown(void **state)
{
    (void)state;
    atomic_store(&fake_hang, false);
    atomic_store(&fake_slow_open, false);
    atomic_store(&fake_slow_write, false);
    hd_worker_stop(&worker);
    check_folder_remove(dir);
    return 0;
}

static inline struct hd_id id_of(unsigned char value)
{
    struct hd_id id = {{0}};
    id.b[0] = value;
    id.b[1] = 1;
    return id;
}

// A question of a person; *id = its response.
static inline enum hearth_status ask(unsigned char person, const char *model, unsigned n_tokens, struct hd_id *id)
{
    struct hd_job *job = calloc(1, sizeof *job);
    job->messages = calloc(ask_messages, sizeof *job->messages);
    job->n_messages = ask_messages;
    for (size_t i = 0; i < ask_messages; i++)
        job->messages[i] =
            (struct hd_job_message){.role = HEARTH_ROLE_USER, .text = strdup("?"), .len_bytes = 1};
    job->person = id_of(person);
    *id = job->response = id_of(++next_id);
    job->conversation = id_of((unsigned char)(100 + next_id));
    job->max_tokens = n_tokens;
    job->drop_old = !ask_whole;
    snprintf(job->model, sizeof job->model, "%s", model);
    enum hearth_status status = hd_worker_submit(worker, job, &err);
    if (status != HEARTH_OK)
        hd_job_free(job);
    return status;
}

static inline int place_in(const struct hd_id *list, unsigned n, const struct hd_id *id)
{
    for (unsigned i = 0; i < n; i++) {
        if (hd_id_equal(&list[i], id))
            return (int)i;
    }
    return -1;
}

#endif
