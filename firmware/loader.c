// SPDX-License-Identifier: Apache-2.0
// The loader thread and its table of files. See loader.h. One lock guards everything; it is never held over work.
#include "firmware/loader.h"

#include <fcntl.h>
#include <mbedtls/sha256.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "firmware/packed.h"

enum { PIECE_BYTES = 4 << 20, PAUSE_MS = 500, N_KNOWN = 256 };
enum task { NOTHING, CHECK, OPEN, DONE };

struct known {
    char *path; // NULL = free place
    struct hd_file_facts file;
    bool looked; // nothing is left to do for this identity
};

struct hashing { // loader thread only
    int fd;
    size_t at; // in files
    mbedtls_sha256_context sha;
    struct hd_file_identity identity;
};

struct hd_loader {
    struct hd_loader_params params;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t work;
    atomic_bool stop; // also read by the model check
    atomic_bool halt; // of what was asked: it is not wanted any more, or the thread shall end
    bool wake; // there may be something to look at or to write
    enum task task;
    char path[HD_PATH_BYTES];
    unsigned n_ctx;
    struct hd_loader_result result;
    struct known files[N_KNOWN];
    struct hashing hashing;
    uint8_t *piece;
    struct hd_packed *packed;
};

bool hd_file_identify(const char *path, struct hd_file_identity *identity)
{
    struct stat st;
    memset(identity, 0, sizeof *identity);
    if (stat(path, &st) != 0 || !S_ISREG(st.st_mode))
        return false;
    *identity = (struct hd_file_identity){
        .dev = (uint64_t)st.st_dev,
        .ino = (uint64_t)st.st_ino,
        .size_bytes = (uint64_t)st.st_size,
        .mtime_ns = (uint64_t)st.st_mtim.tv_sec * 1000000000u + (uint64_t)st.st_mtim.tv_nsec,
    };
    return true;
}

bool hd_file_same(const struct hd_file_identity *a, const struct hd_file_identity *b)
{
    return a->dev == b->dev && a->ino == b->ino && a->size_bytes == b->size_bytes &&
           a->mtime_ns == b->mtime_ns;
}

// ---- the table {lock}

static struct known *find(struct hd_loader *loader, const char *path)
{
    for (size_t i = 0; i < N_KNOWN; i++) {
        if (loader->files[i].path && strcmp(loader->files[i].path, path) == 0)
            return &loader->files[i];
    }
    return NULL;
}

// The file's place with this identity; what was known of another identity is forgotten. NULL: the table is full.
static struct known *place(struct hd_loader *loader, const char *path,
                           const struct hd_file_identity *identity)
{
    struct known *known = find(loader, path);
    for (size_t i = 0; i < N_KNOWN && !known; i++) {
        if (!loader->files[i].path && (loader->files[i].path = strdup(path)) != NULL)
            known = &loader->files[i];
    }
    for (size_t i = 0; i < N_KNOWN && !known; i++) { // full: one that is done with makes room
        char *own = loader->files[i].looked ? strdup(path) : NULL;
        if (own) {
            free(loader->files[i].path);
            loader->files[i].path = own;
            known = &loader->files[i];
        }
    }
    if (known && !hd_file_same(&known->file.identity, identity)) {
        known->file = (struct hd_file_facts){.identity = *identity};
        known->looked = false;
    }
    return known;
}

void hd_loader_show(struct hd_loader *loader, const char *path)
{
    struct hd_file_identity identity;
    if (!hd_file_identify(path, &identity))
        return;
    pthread_mutex_lock(&loader->lock);
    if (place(loader, path, &identity)) {
        loader->wake = true;
        pthread_cond_signal(&loader->work);
    }
    pthread_mutex_unlock(&loader->lock);
}

void hd_loader_know(struct hd_loader *loader, const char *path, const struct hd_file_identity *identity,
                    const char *sha256)
{
    pthread_mutex_lock(&loader->lock);
    struct known *known = place(loader, path, identity);
    if (known)
        snprintf(known->file.sha256, sizeof known->file.sha256, "%s", sha256);
    pthread_mutex_unlock(&loader->lock);
}

bool hd_loader_facts(struct hd_loader *loader, const char *path, struct hd_file_facts *facts)
{
    struct hd_file_identity identity;
    memset(facts, 0, sizeof *facts);
    if (!hd_file_identify(path, &identity))
        return false;
    pthread_mutex_lock(&loader->lock);
    struct known *known = find(loader, path);
    bool found = known && hd_file_same(&known->file.identity, &identity);
    if (found)
        *facts = known->file;
    pthread_mutex_unlock(&loader->lock);
    return found;
}

// ---- checking (loader thread)

static enum hearth_status check_file(struct hd_loader *loader, const char *path, const atomic_bool *halt,
                                     struct hd_file_facts *file, struct hearth_error *err)
{
    if (hd_loader_facts(loader, path, file) && file->checked)
        return HEARTH_OK;
    struct hd_file_identity identity;
    struct hd_model_facts facts;
    struct hearth_error error = {0};
    if (!hd_file_identify(path, &identity))
        return hd_fail(err, HEARTH_NOT_FOUND, "%s: there is no such file", path);
    const struct hd_check check = {loader->params.config, loader->params.check_ms, halt};
    enum hearth_status status = hd_check_model(path, &check, &facts, &error);
    if (status != HEARTH_OK && atomic_load(halt)) // that says nothing about the file
        return hd_fail(err, HEARTH_CANCELED, "%s: nobody waits for it any more", path);
    if (status != HEARTH_OK)
        hd_fail(err, status, "%s", error.text);
    pthread_mutex_lock(&loader->lock);
    struct known *known = place(loader, path, &identity);
    *file = known ? known->file : (struct hd_file_facts){.identity = identity};
    file->checked = status == HEARTH_OK;
    file->facts = facts;
    snprintf(file->problem, sizeof file->problem, "%s", error.text);
    if (known)
        known->file = *file;
    pthread_mutex_unlock(&loader->lock);
    return status;
}

// ---- opening (loader thread)

static bool go_on(void *user, double done)
{
    struct hd_loader *loader = user;
    (void)done;
    return !atomic_load(&loader->halt);
}

static enum hearth_status open_engine(struct hd_loader *loader, const char *path, unsigned n_ctx,
                                      struct hd_loader_result *result)
{
    const struct hd_config *config = loader->params.config;
    struct hd_file_identity now;
    struct hearth_engine_params params = {
        .model_path = path,
        .device = config->device,
        .n_threads = config->n_threads,
        .n_ctx = n_ctx,
        .max_sessions = hd_config_engine_sessions(config),
        .kv = config->kv,
        .chat_template = config->chat_template[0] ? config->chat_template : NULL,
        .cpu_isa = config->cpu_isa[0] ? config->cpu_isa : NULL,
        .progress = go_on,
        .progress_user = loader,
    };
    if (!hd_loader_facts(loader, path, &result->file) || !result->file.checked)
        return hd_fail(&result->error, HEARTH_FORMAT, "%s: the file was changed after its check", path);
    if (config->packed_cache && result->file.sha256[0]) { // else it is read the next time
        params.packed_dir = config->packed_dir;
        params.base_sha256 = result->file.sha256;
    }
    enum hearth_status status = hearth_engine_open(&result->engine, &params, &result->error);
    if (status == HEARTH_OK &&
        !(hd_file_identify(path, &now) && hd_file_same(&now, &result->file.identity))) {
        hearth_engine_close(&result->engine);
        return hd_fail(&result->error, HEARTH_FORMAT, "%s: the file was changed while it was read", path);
    }
    return status;
}

static void work(struct hd_loader *loader, enum task task)
{
    struct hd_loader_result result = {.opened = task == OPEN};
    if (task == OPEN)
        result.error.code = open_engine(loader, loader->path, loader->n_ctx, &result);
    else
        result.error.code = check_file(loader, loader->path, &loader->halt, &result.file, &result.error);
    pthread_mutex_lock(&loader->lock);
    loader->result = result;
    loader->task = DONE;
    pthread_mutex_unlock(&loader->lock);
    loader->params.done(loader->params.user);
}

// ---- looking at files in the background (loader thread)

static void end_hashing(struct hd_loader *loader, bool good)
{
    struct hashing *h = &loader->hashing;
    uint8_t hash[HD_HASH_BYTES];
    char path[HD_PATH_BYTES] = "";
    close(h->fd);
    h->fd = -1;
    good = mbedtls_sha256_finish(&h->sha, hash) == 0 && good;
    mbedtls_sha256_free(&h->sha);
    pthread_mutex_lock(&loader->lock);
    struct known *known = &loader->files[h->at];
    if (hd_file_same(&known->file.identity, &h->identity)) {
        known->looked = true;
        if (good) {
            hd_hex(known->file.sha256, hash, sizeof hash);
            snprintf(path, sizeof path, "%s", known->path);
        }
    }
    pthread_mutex_unlock(&loader->lock);
    if (path[0])
        loader->params.hashed(loader->params.user, path);
}

static void hash_piece(struct hd_loader *loader)
{
    struct hashing *h = &loader->hashing;
    ssize_t n = read(h->fd, loader->piece, PIECE_BYTES);
    if (n > 0 && mbedtls_sha256_update(&h->sha, loader->piece, (size_t)n) == 0)
        return;
    struct stat st;
    bool same = n == 0 && fstat(h->fd, &st) == 0 && (uint64_t)st.st_size == h->identity.size_bytes;
    end_hashing(loader, same);
}

// The next thing to do for a shown file; false: nothing is left.
static bool look(struct hd_loader *loader)
{
    struct hd_file_facts file = {0}, ignored;
    char path[HD_PATH_BYTES] = "";
    size_t at = 0;
    if (loader->hashing.fd >= 0) {
        hash_piece(loader);
        return true;
    }
    pthread_mutex_lock(&loader->lock);
    while (at < N_KNOWN && !(loader->files[at].path && !loader->files[at].looked))
        at++;
    if (at < N_KNOWN) {
        file = loader->files[at].file;
        snprintf(path, sizeof path, "%s", loader->files[at].path);
        loader->files[at].looked = file.sha256[0] || file.problem[0]; // what is left is the check
    }
    pthread_mutex_unlock(&loader->lock);
    if (!path[0])
        return false;
    if (!file.checked && !file.problem[0]) {
        struct hearth_error error = {0};
        if (check_file(loader, path, &loader->stop, &ignored, &error) != HEARTH_OK && error.code != HEARTH_CANCELED)
            hd_log(HD_LOG_WARN, "a model cannot be served: %s", error.text);
        return true;
    }
    if (file.sha256[0])
        return true;
    loader->hashing.fd = open(path, O_RDONLY | O_CLOEXEC);
    loader->hashing.at = at;
    loader->hashing.identity = file.identity;
    mbedtls_sha256_init(&loader->hashing.sha);
    if (loader->hashing.fd < 0 || mbedtls_sha256_starts(&loader->hashing.sha, 0) != 0)
        end_hashing(loader, false);
    return true;
}

// ---- packed weights (loader thread)

static bool sha256_of(void *user, const char *path, const struct hd_file_identity *identity,
                      char sha256[HD_SHA256_HEX_BYTES])
{
    struct hd_file_facts facts;
    if (!hd_loader_facts(user, path, &facts) || !hd_file_same(&facts.identity, identity) || !facts.sha256[0])
        return false;
    memcpy(sha256, facts.sha256, HD_SHA256_HEX_BYTES);
    return true;
}

static bool nothing_else(void *user)
{
    struct hd_loader *loader = user;
    pthread_mutex_lock(&loader->lock);
    bool asked = loader->stop || loader->task == CHECK || loader->task == OPEN;
    pthread_mutex_unlock(&loader->lock);
    return !asked && !loader->params.busy(loader->params.user);
}

static bool write_packed(struct hd_loader *loader)
{
    const struct hd_packed_work work = {loader->params.config, sha256_of, nothing_else, loader};
    return hd_packed_write(loader->packed, &work);
}

void hd_loader_keep(struct hd_loader *loader, const struct hearth_engine *engine, const char *path,
                    const struct hd_file_identity *identity)
{
    hd_packed_keep(loader->packed, engine, path, identity);
    pthread_mutex_lock(&loader->lock);
    loader->wake = true;
    pthread_cond_signal(&loader->work);
    pthread_mutex_unlock(&loader->lock);
}

void hd_loader_let_go(struct hd_loader *loader, const struct hearth_engine *engine)
{
    hd_packed_let_go(loader->packed, engine);
}

// ---- the thread

static void wait_ms(struct hd_loader *loader, unsigned ms) // {lock}
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until); // a clock that is set back would make it sleep as long
    until.tv_sec += ms / 1000;
    until.tv_nsec += (long)(ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    pthread_cond_timedwait(&loader->work, &loader->lock, &until);
}

static void *run(void *user)
{
    struct hd_loader *loader = user;
    pthread_setname_np(pthread_self(), "loader");
    bool more = true;
    for (;;) {
        bool busy = loader->params.busy(loader->params.user);
        pthread_mutex_lock(&loader->lock);
        bool asked = loader->task == CHECK || loader->task == OPEN;
        if (!loader->stop && !asked && !more && !loader->wake) { // whoever shows a file or asks wakes this thread
            pthread_cond_wait(&loader->work, &loader->lock);
            more = true;
        } else if (!loader->stop && !asked && busy) {
            wait_ms(loader, PAUSE_MS);
        }
        more = more || loader->wake;
        loader->wake = false;
        bool stop = loader->stop;
        enum task task = loader->task;
        pthread_mutex_unlock(&loader->lock);
        if (stop)
            break;
        if (task == CHECK || task == OPEN)
            work(loader, task);
        else if (!busy)
            more = look(loader) || write_packed(loader);
    }
    if (loader->hashing.fd >= 0) {
        close(loader->hashing.fd);
        mbedtls_sha256_free(&loader->hashing.sha);
    }
    return NULL;
}

enum hearth_status hd_loader_start(struct hd_loader **out, const struct hd_loader_params *params,
                                   struct hearth_error *err)
{
    *out = NULL;
    struct hd_loader *loader = calloc(1, sizeof *loader);
    uint8_t *piece = malloc(PIECE_BYTES);
    if (loader)
        loader->packed = hd_packed_new();
    if (!loader || !piece || !loader->packed) {
        hd_packed_free(loader ? loader->packed : NULL);
        free(loader);
        free(piece);
        return hd_fail(err, HEARTH_NOMEM, "no memory for the loader thread");
    }
    loader->params = *params;
    loader->params.check_ms = params->check_ms ? params->check_ms : HD_CHECK_MS;
    loader->piece = piece;
    loader->hashing.fd = -1;
    pthread_mutex_init(&loader->lock, NULL);
    pthread_condattr_t steady;
    pthread_condattr_init(&steady);
    pthread_condattr_setclock(&steady, CLOCK_MONOTONIC);
    pthread_cond_init(&loader->work, &steady);
    pthread_condattr_destroy(&steady);
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int code = pthread_create(&loader->thread, NULL, run, loader);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (code) {
        hd_packed_free(loader->packed);
        free(piece);
        free(loader);
        return hd_fail(err, HEARTH_NOMEM, "cannot start the loader thread: %s", strerror(code));
    }
    *out = loader;
    return HEARTH_OK;
}

void hd_loader_stop(struct hd_loader **out)
{
    struct hd_loader *loader = *out;
    if (!loader)
        return;
    pthread_mutex_lock(&loader->lock);
    loader->stop = true;
    loader->halt = true;
    pthread_cond_signal(&loader->work);
    pthread_mutex_unlock(&loader->lock);
    pthread_join(loader->thread, NULL);
    hearth_engine_close(&loader->result.engine);
    for (size_t i = 0; i < N_KNOWN; i++)
        free(loader->files[i].path);
    pthread_mutex_destroy(&loader->lock);
    pthread_cond_destroy(&loader->work);
    hd_packed_free(loader->packed);
    free(loader->piece);
    free(loader);
    *out = NULL;
}

// ---- requests (engine thread)

static void ask(struct hd_loader *loader, enum task task, const char *path, unsigned n_ctx)
{
    pthread_mutex_lock(&loader->lock);
    snprintf(loader->path, sizeof loader->path, "%s", path);
    loader->n_ctx = n_ctx;
    loader->task = task;
    loader->halt = atomic_load(&loader->stop);
    pthread_cond_signal(&loader->work);
    pthread_mutex_unlock(&loader->lock);
}

void hd_loader_cancel(struct hd_loader *loader)
{
    atomic_store(&loader->halt, true);
}

void hd_loader_check(struct hd_loader *loader, const char *path)
{
    ask(loader, CHECK, path, 0);
}

void hd_loader_open(struct hd_loader *loader, const char *path, unsigned n_ctx)
{
    ask(loader, OPEN, path, n_ctx);
}

bool hd_loader_take(struct hd_loader *loader, struct hd_loader_result *result)
{
    pthread_mutex_lock(&loader->lock);
    bool done = loader->task == DONE;
    if (done) {
        *result = loader->result;
        memset(&loader->result, 0, sizeof loader->result);
        loader->task = NOTHING;
    }
    pthread_mutex_unlock(&loader->lock);
    return done;
}
