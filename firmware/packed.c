// SPDX-License-Identifier: Apache-2.0
// Which engines' packed weights are to be written, and writing them. See packed.h. The lock is not held while a file is
// written: `writing` keeps the engine.
#include "firmware/packed.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "firmware/util.h"

enum { N_PLACES = 16, MAX_TRIES = 8 }; // places: more than models are loaded

struct place {
    const struct hearth_engine *engine; // NULL = free place
    char path[HD_PATH_BYTES];
    struct hd_file_identity identity;
    unsigned tries; // that something else ended
};

struct hd_packed {
    pthread_mutex_t lock;
    pthread_cond_t done;
    struct place places[N_PLACES];
    const struct hearth_engine *writing; // NULL: nobody's
    atomic_bool let_go;                  // of the one that is written
    const struct hd_packed_work *work;   // loader thread
};

struct hd_packed *hd_packed_new(void)
{
    struct hd_packed *packed = calloc(1, sizeof *packed);
    if (packed) {
        pthread_mutex_init(&packed->lock, NULL);
        pthread_cond_init(&packed->done, NULL);
    }
    return packed;
}

void hd_packed_free(struct hd_packed *packed)
{
    if (!packed)
        return;
    pthread_mutex_destroy(&packed->lock);
    pthread_cond_destroy(&packed->done);
    free(packed);
}

void hd_packed_keep(struct hd_packed *packed, const struct hearth_engine *engine, const char *path,
                    const struct hd_file_identity *identity)
{
    pthread_mutex_lock(&packed->lock);
    for (size_t i = 0; i < N_PLACES; i++) {
        struct place *place = &packed->places[i];
        if (place->engine)
            continue;
        place->engine = engine;
        place->identity = *identity;
        place->tries = 0;
        snprintf(place->path, sizeof place->path, "%s", path);
        break;
    }
    pthread_mutex_unlock(&packed->lock);
}

static void forget(struct hd_packed *packed, const struct hearth_engine *engine) // {lock}
{
    for (size_t i = 0; i < N_PLACES; i++) {
        if (packed->places[i].engine == engine)
            packed->places[i].engine = NULL;
    }
}

void hd_packed_let_go(struct hd_packed *packed, const struct hearth_engine *engine)
{
    pthread_mutex_lock(&packed->lock);
    forget(packed, engine);
    while (packed->writing == engine) {
        atomic_store(&packed->let_go, true);
        pthread_cond_wait(&packed->done, &packed->lock);
    }
    pthread_mutex_unlock(&packed->lock);
}

static bool go_on(void *user)
{
    struct hd_packed *packed = user;
    return !atomic_load(&packed->let_go) && packed->work->go_on(packed->work->user);
}

// The next place whose file's hash is known, now being written; false: there is none.
static bool begin(struct hd_packed *packed, const struct hd_packed_work *work, struct place *place,
                  char sha256[HD_SHA256_HEX_BYTES])
{
    bool found = false;
    pthread_mutex_lock(&packed->lock);
    for (size_t i = 0; i < N_PLACES && !found; i++) {
        *place = packed->places[i];
        found = place->engine && work->sha256(work->user, place->path, &place->identity, sha256);
    }
    if (found) {
        packed->writing = place->engine;
        atomic_store(&packed->let_go, false);
    }
    pthread_mutex_unlock(&packed->lock);
    return found;
}

// It is tried again later, but a box that is never idle for long does not fill half of a file for ever.
static bool try_again(struct hd_packed *packed, const struct hearth_engine *engine) // {lock}
{
    for (size_t i = 0; i < N_PLACES; i++) {
        if (packed->places[i].engine == engine)
            return ++packed->places[i].tries < MAX_TRIES;
    }
    return false; // it was let go
}

bool hd_packed_write(struct hd_packed *packed, const struct hd_packed_work *work)
{
    struct place place;
    char sha256[HD_SHA256_HEX_BYTES];
    struct hearth_error error = {0};
    const char *dir = work->config->packed_dir;
    if (!begin(packed, work, &place, sha256))
        return false;
    packed->work = work;
    enum hearth_status status = hd_config_make_dir(dir, &error);
    if (status == HEARTH_OK)
        status = hearth_engine_write_packed(place.engine, dir, sha256, go_on, packed, &error);
    pthread_mutex_lock(&packed->lock);
    if (status != HEARTH_CANCELED || !try_again(packed, place.engine))
        forget(packed, place.engine);
    packed->writing = NULL;
    pthread_cond_broadcast(&packed->done);
    pthread_mutex_unlock(&packed->lock);
    if (status == HEARTH_OK)
        hd_log(HD_LOG_INFO, "packed weights of %s are kept in %s", place.path, dir);
    else if (status != HEARTH_CANCELED && status != HEARTH_BUSY)
        hd_log(HD_LOG_WARN, "packed weights of %s are not kept: %s", place.path, error.text);
    return true;
}
