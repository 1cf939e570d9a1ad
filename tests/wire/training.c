// SPDX-License-Identifier: Apache-2.0
// Training and adapters on the engine thread, with an engine and a trainer of the tests: who is served when, what a
// stop keeps, what stays loaded, which adapter a question gets.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <time.h>

#include "firmware/worker.h"
#include "tests/check/fault.h"
#include "tests/wire/fake_trainer.h"
#include "tests/wire/wait.h"

enum { WAIT_MS = 20000 };

static char dir[64];
static struct hd_config config;
static struct hd_worker *worker;
static struct hd_keeper *keeper;
static struct hd_sealer *sealer;
static struct hd_run_files *files;
static struct hearth_error err;
static unsigned char next_id, asker; // asker: a person

static struct {
    unsigned n_started, n_done, n_failed, n_loads, n_steps, n_states, n_write_failed;
    enum hd_train_state states[64];
    uint64_t last_step;
    char adapter[HD_MAX_LEARNT_NAME + 1];
    struct hearth_error last_error, train_error;
} seen;

static void wake(void *user)
{
    (void)user;
}

static void silent(void *user, enum hd_log_level level, const char *line)
{
    (void)user, (void)level, (void)line;
}

static void on_write_failed(void *user, const struct hearth_error *error)
{
    (void)user, (void)error;
    seen.n_write_failed++;
}

static void take(struct hd_note *note)
{
    switch (note->type) {
    case HD_NOTE_STARTED:
        seen.n_started++;
        memcpy(seen.adapter, note->adapter, sizeof seen.adapter);
        break;
    case HD_NOTE_DONE: seen.n_done++; break;
    case HD_NOTE_FAILED:
        seen.n_failed++;
        seen.last_error = note->error;
        break;
    case HD_NOTE_MODEL: seen.n_loads++; break;
    case HD_NOTE_TRAIN:
        if (note->step.step) {
            seen.n_steps++;
            seen.last_step = note->step.step;
        } else if (seen.n_states < 64) {
            seen.states[seen.n_states++] = note->train_state;
            seen.train_error = note->error;
        }
        break;
    default: break;
    }
}

static void drain(void)
{
    struct hd_note note;
    while (worker && hd_worker_next(worker, &note)) {
        take(&note);
        hd_note_free(&note);
    }
    hd_keeper_tell(keeper);
}

static enum hd_train_state state_now(void)
{
    return seen.n_states ? seen.states[seen.n_states - 1] : HD_TRAIN_NONE;
}

#define WAIT_FOR(condition) WAIT_UNTIL(condition, seen.train_error.text)

static const char *path_of(const char *name)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/%s.gguf", dir, name);
    return path;
}

static void write_model(const char *name, const char *line)
{
    FILE *file = fopen(path_of(name), "we");
    fprintf(file, "%s\n", line);
    fclose(file);
}

static unsigned save_ms;

static void start(void)
{
    const struct hd_worker_params params = {.config = &config, .wake = wake, .check_ms = 10000, .prefix_idle_ms = 50,
                                            .switch_ms = 50, .train_save_ms = save_ms};
    assert_int_equal(hd_worker_start(&worker, &params, &err), HEARTH_OK);
    hd_loader_show(hd_worker_loader(worker), path_of("one"));
}

static int setup(void **state)
{
    (void)state;
    static const uint8_t key[32] = {1, 2, 3};
    hd_log_set(silent, NULL);
    check_folder_make(dir);
    memset(&config, 0, sizeof config);
    snprintf(config.models_dir, sizeof config.models_dir, "%s", dir);
    config.max_sessions = 4;
    config.memory_budget_mib = 100;
    config.n_ctx = 4096;
    config.stall_s = 5;
    memset(&seen, 0, sizeof seen);
    fake_forget();
    next_id = save_ms = 0;
    asker = 1;
    atomic_store(&fake_step_us, 200);
    atomic_store(&fake_step_slices, 3);
    atomic_store(&fake_slice_us, 2000);
    atomic_store(&fake_train_bytes, 1 << 20);
    atomic_store(&fake_opening, false);
    atomic_store(&fake_loaded, 0);
    atomic_store(&fake_adapter_bytes, 0);
    write_model("one", "ok llama Q4_1 4096 41943040 1024 1048576"); // 40 + 4 + 1 MiB
    write_model("two", "ok llama Q4_1 4096 83886080 1024 1048576"); // has no room beside it
    struct hd_id id = {{7}};
    assert_int_equal(hd_keeper_start(&keeper, wake, NULL, &err), HEARTH_OK);
    assert_int_equal(hd_sealer_new(&sealer, &id, key, &err), HEARTH_OK);
    const struct hd_sealed_place place = {dir, sealer};
    files = hd_run_files_new(keeper, &place, on_write_failed, NULL);
    start();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    hd_worker_stop(&worker);
    hd_keeper_stop(&keeper);
    hd_run_files_unref(&files);
    hd_sealer_unref(&sealer);
    check_folder_remove(dir);
    return 0;
}

static struct hd_id id_of(unsigned char value)
{
    struct hd_id id = {{value, 1}};
    return id;
}

static void use(const char *name)
{
    unsigned n = seen.n_loads;
    assert_int_equal(hd_worker_load(worker, path_of(name), 5, &err), HEARTH_OK);
    WAIT_FOR(seen.n_loads > n);
}

static const char *sha256_of(const char *name)
{
    static struct hd_file_facts facts;
    hd_loader_show(hd_worker_loader(worker), path_of(name));
    WAIT_FOR(hd_loader_facts(hd_worker_loader(worker), path_of(name), &facts) && facts.sha256[0]);
    return facts.sha256;
}

static enum hearth_status ask(const char *model, unsigned n_tokens, struct hd_adapter *adapter, bool optional)
{
    struct hd_job *job = calloc(1, sizeof *job);
    job->messages = calloc(1, sizeof *job->messages);
    job->n_messages = 1;
    job->messages[0] = (struct hd_job_message){.role = HEARTH_ROLE_USER, .text = strdup("?"), .len_bytes = 1};
    job->person = id_of(asker);
    job->response = id_of(++next_id);
    job->conversation = id_of((unsigned char)(100 + next_id));
    job->max_tokens = n_tokens;
    job->adapter = adapter ? hd_adapter_ref(adapter) : NULL;
    job->adapter_scale = 1;
    job->adapter_optional = optional;
    snprintf(job->model, sizeof job->model, "%s", model);
    enum hearth_status status = hd_worker_submit(worker, job, &err);
    if (status != HEARTH_OK)
        hd_job_free(job);
    return status;
}

static struct hd_adapter *train_init; // that the next training begins from; its job's
static const char *train_base;        // SHA-256 of the file that it was begun on; NULL = as it is now
static enum hearth_status train(uint64_t n_steps)
{
    struct hd_train_job *job = hd_train_job_new();
    job->tag = 1;
    snprintf(job->adapter, sizeof job->adapter, "a");
    snprintf(job->targets, sizeof job->targets, "all");
    snprintf(job->model_path, sizeof job->model_path, "%s", path_of("one"));
    snprintf(job->base_sha256, sizeof job->base_sha256, "%s", train_base ? train_base : sha256_of("one"));
    train_base = NULL;
    job->params.max_steps = n_steps;
    job->init = train_init;
    train_init = NULL;
    job->files = hd_run_files_ref(files);
    enum hearth_status status = hd_worker_train(worker, job, &err);
    if (status != HEARTH_OK)
        hd_train_job_free(&job);
    return status;
}

static struct hd_adapter *adapter_of(unsigned char id, const char *base, enum hd_adapter_state state)
{
    struct hd_id item = id_of(id);
    char name[8];
    snprintf(name, sizeof name, "a%u", id);
    struct hd_adapter *adapter = hd_adapter_new(&item, name, base);
    atomic_store(&adapter->state, state);
    return adapter;
}

// Until the checkpoint of this step is on disk.
static void wait_written(uint64_t step)
{
    const struct hd_sealed_place place = {dir, sealer};
    uint64_t found = 0, n;
    int64_t until_ms = now_ms() + WAIT_MS;
    while (found != step && now_ms() < until_ms) {
        hd_keeper_tell(keeper);
        int fd;
        if (hd_sealed_read_fd(&place, "checkpoint.bin", sizeof found, &fd, &n, &err) == HEARTH_OK) {
            assert_int_equal(pread(fd, &found, sizeof found, 0), n);
            close(fd);
        }
        usleep(1000);
    }
    assert_int_equal(found, step);
}

static unsigned count_of(char kind, unsigned from, unsigned to)
{
    unsigned n = 0;
    pthread_mutex_lock(&fake_lock);
    for (unsigned i = from; i < to && i < fake_n; i++)
        n += fake_log[i].kind == kind;
    pthread_mutex_unlock(&fake_lock);
    return n;
}

// ---- who is served when

static void a_training_runs_to_its_end_and_loads_its_model(void **state)
{
    (void)state;
    assert_int_equal(train(5), HEARTH_OK);
    assert_int_equal(train(5), HEARTH_BUSY);
    WAIT_FOR(state_now() == HD_TRAIN_DONE);
    assert_int_equal(seen.states[0], HD_TRAIN_WAITING);
    assert_int_equal(seen.n_steps, 5);
    assert_int_equal(count_of('t', 0, fake_count()), 15);
    struct hd_worker_state now;
    hd_worker_state(worker, &now);
    assert_true(!now.train.running && now.train.n_slices == 15 && now.train.n_steps == 5);
    assert_true(now.train.busy_s > 0 && now.train.left_s >= now.train.busy_s && now.train.longest_s > 0);
    assert_int_equal(train(1), HEARTH_OK); // room for the next one
    WAIT_FOR(seen.n_steps == 6);
}

// From the first step of the engine for a question to its last one there is no slice.
static void nobody_waits_for_more_than_a_slice(void **state)
{
    (void)state;
    use("one");
    assert_int_equal(train(100000), HEARTH_OK);
    WAIT_FOR(seen.n_steps > 2);
    for (int i = 0; i < 5; i++) {
        unsigned asked = fake_count();
        assert_int_equal(ask("", 20, NULL, false), HEARTH_OK);
        WAIT_FOR(seen.n_done == (unsigned)i + 1);
        int begun = fake_find('a', NULL, asked), first = fake_find('s', NULL, asked);
        assert_true(begun >= 0 && first > begun);
        assert_in_range(count_of('t', asked, (unsigned)begun), 0, 2); // the one at hand, and one that began meanwhile
        unsigned last = (unsigned)first;
        for (unsigned n = 0; n < 20; n++, last++)
            last = (unsigned)fake_find('s', NULL, last);
        assert_int_equal(count_of('t', (unsigned)begun, last), 0);
        if (fake_count() > FAKE_LOG / 2)
            break;
    }
    struct hd_worker_state now;
    hd_worker_state(worker, &now);
    assert_true(now.train.busy_s > 0.8 * now.train.left_s);
}

static void a_stop_keeps_what_was_learnt(void **state)
{
    (void)state;
    assert_int_equal(train(100000), HEARTH_OK);
    WAIT_FOR(seen.n_steps > 2);
    hd_worker_train_stop(worker, false);
    WAIT_FOR(state_now() == HD_TRAIN_STOPPED);
    uint64_t stopped_at = seen.last_step;
    int saved = fake_find('k', NULL, 0);
    assert_true(saved >= 0 && fake_log[saved].owner == stopped_at);
    assert_int_equal(seen.states[seen.n_states - 2], HD_TRAIN_STOPPING);
    wait_written(stopped_at);
    fake_forget();
    assert_int_equal(train(100000), HEARTH_OK); // goes on where it was
    WAIT_FOR(fake_find('T', NULL, 0) >= 0);
    assert_int_equal(fake_log[fake_find('T', NULL, 0)].owner, stopped_at);
    hd_worker_train_stop(worker, true); // at once: nothing is saved
    WAIT_FOR(state_now() == HD_TRAIN_STOPPED && fake_find('C', NULL, 0) >= 0);
    assert_int_equal(fake_find('k', NULL, 0), -1);
}

static void the_end_of_the_thread_waits_for_a_checkpoint(void **state)
{
    (void)state;
    assert_int_equal(train(100000), HEARTH_OK);
    WAIT_FOR(seen.n_steps > 2);
    hd_worker_stop(&worker);
    assert_true(fake_find('k', NULL, 0) >= 0);
    uint64_t step = fake_log[fake_find('k', NULL, 0)].owner;
    wait_written(step);
    fake_forget();
    start();
    assert_int_equal(train(100000), HEARTH_OK);
    WAIT_FOR(fake_find('T', NULL, 0) >= 0);
    assert_int_equal(fake_log[fake_find('T', NULL, 0)].owner, step);
    atomic_store(&fake_step_slices, 1000000); // a border that does not come
    WAIT_FOR(fake_find('t', NULL, 0) >= 0);
    int64_t from_ms = now_ms();
    hd_worker_stop(&worker);
    assert_in_range(now_ms() - from_ms, 6000, 9500);
}

static void a_checkpoint_comes_now_and_then(void **state)
{
    (void)state;
    hd_worker_stop(&worker);
    save_ms = 50;
    start();
    assert_int_equal(train(100000), HEARTH_OK);
    WAIT_FOR(count_of('k', 0, fake_count()) > 1); // and another one
    WAIT_FOR(state_now() == HD_TRAIN_STEPPING);
    hd_worker_train_stop(worker, true);
    WAIT_FOR(state_now() == HD_TRAIN_STOPPED);
    unsigned last = fake_count();
    while (fake_log[--last].kind != 'k')
        ;
    wait_written(fake_log[last].owner);
}

static void what_fails_is_told(void **state)
{
    (void)state;
    assert_int_equal(train(100000), HEARTH_OK);
    WAIT_FOR(seen.n_steps > 1);
    atomic_store(&fake_train_nan, true);
    WAIT_FOR(state_now() == HD_TRAIN_FAILED);
    assert_int_equal(seen.train_error.code, HEARTH_NUMERIC);
    const struct hearth_error full = {.code = HEARTH_IO, .text = "the disk is full"};
    assert_int_equal(train(100000), HEARTH_OK);
    unsigned n = seen.n_steps;
    WAIT_FOR(seen.n_steps > n);
    hd_worker_train_fail(worker, &full);
    WAIT_FOR(state_now() == HD_TRAIN_FAILED);
    assert_int_equal(seen.train_error.code, HEARTH_IO);
    atomic_store(&fake_train_bytes, 90 << 20); // more than the budget has beside the model
    assert_int_equal(train(100000), HEARTH_OK);
    WAIT_FOR(seen.n_states && state_now() == HD_TRAIN_FAILED && seen.train_error.code == HEARTH_NOMEM);
    atomic_store(&fake_train_bytes, 1 << 20);
    n = seen.n_steps;
    train_base = "00";
    assert_int_equal(train(100000), HEARTH_OK);
    WAIT_FOR(state_now() == HD_TRAIN_FAILED && seen.train_error.code == HEARTH_INVALID);
    assert_non_null(strstr(seen.train_error.text, "is not the file that it was"));
    train_init = adapter_of(1, sha256_of("one"), HD_ADAPTER_FAILED);
    train_init->error.code = HEARTH_FORMAT;
    assert_int_equal(train(100000), HEARTH_OK);
    WAIT_FOR(state_now() == HD_TRAIN_FAILED && seen.train_error.code == HEARTH_FORMAT);
    assert_int_equal(seen.n_steps, n);
    assert_int_equal(train(100000), HEARTH_OK);
    WAIT_FOR(seen.n_steps > n);
    atomic_store(&fake_lost, true);
    assert_int_equal(ask("one", 5, NULL, false), HEARTH_OK);
    WAIT_FOR(state_now() == HD_TRAIN_FAILED && seen.train_error.code == HEARTH_DEVICE_LOST);
}

static void its_model_stays_loaded(void **state)
{
    (void)state;
    use("one");
    assert_int_equal(train(100000), HEARTH_OK);
    WAIT_FOR(seen.n_steps > 1);
    assert_int_equal(ask("two", 5, NULL, false), HEARTH_OK);
    WAIT_FOR(seen.n_failed == 1);
    assert_int_equal(seen.last_error.code, HEARTH_BUSY);
    assert_int_equal(fake_find('c', "one", 0), -1);
    assert_int_equal(ask("one", 5, NULL, false), HEARTH_OK);
    WAIT_FOR(seen.n_done == 1);
    unsigned n = seen.n_steps;
    WAIT_FOR(seen.n_steps > n); // and it goes on
    hd_worker_train_stop(worker, true);
    WAIT_FOR(state_now() == HD_TRAIN_STOPPED);
    assert_int_equal(ask("two", 5, NULL, false), HEARTH_OK); // now it may go
    WAIT_FOR(seen.n_done == 2);
    assert_true(fake_find('c', "one", 0) >= 0);
}

// ---- adapters

// Where an engine let go of the adapter of this id; -1: it did not.
static int dropped_at(uint64_t id)
{
    int at = fake_find('D', NULL, 0);
    while (at >= 0 && fake_log[at].owner != id)
        at = fake_find('D', NULL, (unsigned)at + 1);
    return at;
}

static void a_question_gets_its_adapter(void **state)
{
    (void)state;
    use("one");
    struct hd_adapter *a = adapter_of(1, sha256_of("one"), HD_ADAPTER_OPENING);
    assert_int_equal(ask("", 5, a, false), HEARTH_OK);
    assert_int_equal(ask("", 5, NULL, false), HEARTH_OK); // does not wait for the other
    WAIT_FOR(seen.n_done == 1);
    assert_string_equal(seen.adapter, "");
    atomic_store(&a->state, HD_ADAPTER_OPEN);
    hd_worker_adapters_changed(worker);
    WAIT_FOR(seen.n_done == 2);
    assert_string_equal(seen.adapter, "a1");
    assert_int_equal(ask("", 5, a, false), HEARTH_OK);
    WAIT_FOR(seen.n_done == 3);
    assert_int_equal(count_of('L', 0, fake_count()), 1); // loaded once
    atomic_store(&a->gone, true);
    hd_worker_adapters_changed(worker);
    WAIT_FOR(fake_find('D', NULL, 0) >= 0);
    assert_int_equal(ask("", 5, a, false), HEARTH_OK);
    WAIT_FOR(seen.n_failed == 1);
    assert_int_equal(seen.last_error.code, HEARTH_NOT_FOUND);
    hd_adapter_unref(&a);
}

// Removed meanwhile: it answers to its end with what it began with, and the engine lets go then.
static void a_paused_answer_keeps_its_adapter(void **state)
{
    (void)state;
    hd_worker_stop(&worker);
    config.max_sessions = 2;
    start();
    use("one");
    struct hd_adapter *a = adapter_of(1, sha256_of("one"), HD_ADAPTER_OPEN);
    atomic_store(&fake_step_us, 2000);
    assert_int_equal(ask("", 150, NULL, false), HEARTH_OK);
    assert_int_equal(ask("", 150, a, false), HEARTH_OK);
    WAIT_FOR(seen.n_started == 2);
    asker = 2;
    assert_int_equal(ask("", 150, NULL, false), HEARTH_OK);
    asker = 1;
    WAIT_FOR(seen.n_started == 3);
    int paused = fake_find('p', NULL, 0);
    assert_true(paused >= 0 && seen.n_done == 0);
    atomic_store(&a->gone, true);
    hd_worker_adapters_changed(worker);
    for (unsigned char i = 2; i <= HEARTH_MAX_ADAPTERS + 2; i++) { // nor does it give its place to others
        struct hd_adapter *other = adapter_of(i, sha256_of("one"), HD_ADAPTER_OPEN);
        assert_int_equal(ask("", 1, other, false), HEARTH_OK);
        hd_adapter_unref(&other);
    }
    assert_int_equal(ask("", 5, a, false), HEARTH_OK); // no new one begins with it
    hd_adapter_unref(&a);
    WAIT_FOR(seen.n_done == 4 + HEARTH_MAX_ADAPTERS && seen.n_failed == 1);
    assert_int_equal(seen.last_error.code, HEARTH_NOT_FOUND);
    uint64_t id = fake_log[fake_find('L', NULL, 0)].owner;
    int dropped = -1;
    WAIT_FOR((dropped = dropped_at(id)) >= 0);
    assert_true(dropped > fake_find('r', NULL, (unsigned)paused));
}

static void one_for_another_model_is_refused_or_left_out(void **state)
{
    (void)state;
    use("one");
    (void)sha256_of("one");
    struct hd_adapter *other = adapter_of(1, "00", HD_ADAPTER_OPEN), *bad = adapter_of(2, "00", HD_ADAPTER_FAILED);
    assert_int_equal(ask("", 5, other, false), HEARTH_OK);
    WAIT_FOR(seen.n_failed == 1);
    assert_int_equal(seen.last_error.code, HEARTH_INVALID);
    assert_int_equal(ask("", 5, other, true), HEARTH_OK);
    WAIT_FOR(seen.n_done == 1);
    assert_string_equal(seen.adapter, "");
    bad->error.code = HEARTH_FORMAT;
    assert_int_equal(ask("", 5, bad, true), HEARTH_OK); // an answer is not made without it in silence
    WAIT_FOR(seen.n_failed == 2);
    assert_int_equal(count_of('L', 0, fake_count()), 0);
    hd_adapter_unref(&other);
    hd_adapter_unref(&bad);
}

static void the_least_recently_used_gives_way(void **state)
{
    (void)state;
    use("one");
    for (unsigned char i = 1; i <= HEARTH_MAX_ADAPTERS + 4; i++) {
        struct hd_adapter *a = adapter_of(i, sha256_of("one"), HD_ADAPTER_OPEN);
        assert_int_equal(ask("", 2, a, false), HEARTH_OK);
        WAIT_FOR(seen.n_done == i);
        hd_adapter_unref(&a);
    }
    assert_int_equal(atomic_load(&fake_loaded), HEARTH_MAX_ADAPTERS);
    assert_int_equal(count_of('D', 0, fake_count()), 4);
    assert_int_equal(fake_log[fake_find('D', NULL, 0)].owner, fake_log[fake_find('L', NULL, 0)].owner);
}

// With values of so many MiB; the engine holds as many again.
static void ask_with(unsigned char id, unsigned mib, const char *model)
{
    struct hd_adapter *a = adapter_of(id, sha256_of("one"), HD_ADAPTER_OPEN);
    a->values_bytes = (uint64_t)mib << 20;
    atomic_store(&fake_adapter_bytes, mib << 20);
    assert_int_equal(ask(model, 2, a, false), HEARTH_OK);
    unsigned n = seen.n_done + seen.n_failed;
    WAIT_FOR(seen.n_done + seen.n_failed > n);
    hd_adapter_unref(&a);
}

static uint64_t held_mib(void)
{
    struct hd_worker_state now;
    hd_worker_state(worker, &now);
    return now.held_bytes >> 20;
}

static void adapters_count_in_the_budget(void **state)
{
    (void)state;
    use("one");
    assert_int_equal(held_mib(), 45);
    ask_with(1, 12, "");
    WAIT_FOR(held_mib() == 45 + 24);
    ask_with(2, 12, "");
    assert_int_equal(count_of('D', 0, fake_count()), 0);
    WAIT_FOR(held_mib() == 45 + 48);
    ask_with(3, 12, ""); // the first one makes room
    assert_int_equal(count_of('D', 0, fake_count()), 1);
    WAIT_FOR(held_mib() == 45 + 48);
    ask_with(4, 40, "");
    assert_int_equal(seen.n_done, 3);
    assert_int_equal(seen.n_failed, 1);
    assert_int_equal(seen.last_error.code, HEARTH_UNSUPPORTED);
    assert_non_null(strstr(seen.last_error.text, "the adapter a4 needs 80.0 MiB"));
    assert_non_null(strstr(seen.last_error.text, "memory budget of 100.0 MiB"));
    assert_int_equal(fake_find('c', "one", 0), -1); // the model that answers stays
    ask_with(5, 12, "");
    assert_int_equal(seen.n_done, 4);
}

// The budget: 100 MiB, of which the model has 45 and a training 1. What it begins from counts until it has begun.
static void what_a_training_begins_from_counts(void **state)
{
    (void)state;
    use("one");
    train_init = adapter_of(1, sha256_of("one"), HD_ADAPTER_OPEN);
    train_init->values_bytes = 60 << 20;
    assert_int_equal(train(100000), HEARTH_OK);
    WAIT_FOR(seen.n_states && state_now() == HD_TRAIN_FAILED);
    assert_non_null(strstr(seen.train_error.text, "the training needs 61.0 MiB"));
    assert_int_equal(held_mib(), 45);
    atomic_store(&fake_opening, true);
    train_init = adapter_of(1, sha256_of("one"), HD_ADAPTER_OPEN);
    train_init->values_bytes = 30 << 20;
    assert_int_equal(train(100000), HEARTH_OK);
    WAIT_FOR(held_mib() == 45 + 31);
    ask_with(2, 13, ""); // 26 MiB: there are 24
    assert_int_equal(seen.n_failed, 1);
    assert_non_null(strstr(seen.last_error.text, "the adapter a2 needs 26.0 MiB"));
    atomic_store(&fake_opening, false);
    WAIT_FOR(held_mib() == 45 + 1);
    ask_with(2, 13, "");
    assert_int_equal(seen.n_done, 1);
    hd_worker_train_stop(worker, true);
    WAIT_FOR(held_mib() == 45 + 26); // its own is given back
}

static void an_idle_model_or_adapter_makes_room(void **state)
{
    (void)state;
    write_model("small", "ok llama Q4_1 4096 20971520 1024 1048576"); // 20 + 4 + 1 MiB
    use("one");
    assert_int_equal(ask("small", 2, NULL, false), HEARTH_OK);
    WAIT_FOR(seen.n_done == 1);
    assert_int_equal(held_mib(), 45 + 25);
    ask_with(1, 20, "");
    assert_int_equal(seen.n_done, 2);
    assert_true(fake_find('c', "small", 0) >= 0);
    WAIT_FOR(held_mib() == 45 + 40);
    assert_int_equal(ask("small", 2, NULL, false), HEARTH_OK); // and an idle adapter for a model
    WAIT_FOR(seen.n_done == 3);
    assert_int_equal(count_of('D', 0, fake_count()), 1);
    assert_int_equal(fake_find('c', "one", 0), -1);
}

int main(int argc, char **argv)
{
    if (argc > 2 && strcmp(argv[1], "--check-model") == 0) // as the worker calls its own program
        return fake_child(argv[2]);
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(a_training_runs_to_its_end_and_loads_its_model),
        TEST(nobody_waits_for_more_than_a_slice),
        TEST(a_stop_keeps_what_was_learnt),
        TEST(the_end_of_the_thread_waits_for_a_checkpoint),
        TEST(a_checkpoint_comes_now_and_then),
        TEST(what_fails_is_told),
        TEST(its_model_stays_loaded),
        TEST(a_question_gets_its_adapter),
        TEST(a_paused_answer_keeps_its_adapter),
        TEST(one_for_another_model_is_refused_or_left_out),
        TEST(the_least_recently_used_gives_way),
        TEST(adapters_count_in_the_budget),
        TEST(what_a_training_begins_from_counts),
        TEST(an_idle_model_or_adapter_makes_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
