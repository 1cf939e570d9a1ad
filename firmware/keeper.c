// SPDX-License-Identifier: Apache-2.0
// The keeper thread: two queues under one lock. See keeper.h.
#include "firmware/keeper.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "firmware/util.h"

struct queue {
    struct hd_task *first, *last;
};

struct hd_keeper {
    atomic_uint refs;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t work;
    void (*wake)(void *user);
    void *user;
    struct queue todo, done; // {lock}
    bool stop, ended;        // {lock}; ended: nothing is taken any more
};

static void put(struct queue *queue, struct hd_task *task)
{
    task->next = NULL;
    if (queue->last)
        queue->last->next = task;
    else
        queue->first = task;
    queue->last = task;
}

static struct hd_task *take(struct queue *queue)
{
    struct hd_task *task = queue->first;
    if (!task)
        return NULL;
    queue->first = task->next;
    if (!queue->first)
        queue->last = NULL;
    return task;
}

static void *run(void *user)
{
    struct hd_keeper *keeper = user;
    pthread_mutex_lock(&keeper->lock);
    for (;;) {
        struct hd_task *task = take(&keeper->todo);
        if (!task && keeper->stop)
            break;
        if (!task) {
            pthread_cond_wait(&keeper->work, &keeper->lock);
            continue;
        }
        pthread_mutex_unlock(&keeper->lock);
        task->run(task);
        pthread_mutex_lock(&keeper->lock);
        put(&keeper->done, task);
        bool wake = !keeper->stop;
        pthread_mutex_unlock(&keeper->lock);
        if (wake)
            keeper->wake(keeper->user);
        pthread_mutex_lock(&keeper->lock);
    }
    keeper->ended = true;
    pthread_mutex_unlock(&keeper->lock);
    return NULL;
}

enum hearth_status hd_keeper_start(struct hd_keeper **out, void (*wake)(void *user), void *user,
                                   struct hearth_error *err)
{
    struct hd_keeper *keeper = calloc(1, sizeof *keeper);
    *out = NULL;
    if (!keeper)
        return hd_fail(err, HEARTH_NOMEM, "no memory for the keeper thread");
    atomic_init(&keeper->refs, 1);
    keeper->wake = wake;
    keeper->user = user;
    pthread_mutex_init(&keeper->lock, NULL);
    pthread_cond_init(&keeper->work, NULL);
    sigset_t all, before;
    sigfillset(&all); // signals are the loop thread's
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int code = pthread_create(&keeper->thread, NULL, run, keeper);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (code) {
        free(keeper);
        return hd_fail(err, HEARTH_NOMEM, "cannot start the keeper thread: %s", strerror(code));
    }
    *out = keeper;
    return HEARTH_OK;
}

bool hd_keeper_add(struct hd_keeper *keeper, struct hd_task *task)
{
    pthread_mutex_lock(&keeper->lock);
    bool taken = !keeper->ended;
    if (taken)
        put(&keeper->todo, task);
    pthread_cond_signal(&keeper->work);
    pthread_mutex_unlock(&keeper->lock);
    return taken;
}

struct hd_keeper *hd_keeper_ref(struct hd_keeper *keeper)
{
    atomic_fetch_add(&keeper->refs, 1);
    return keeper;
}

void hd_keeper_unref(struct hd_keeper **out)
{
    struct hd_keeper *keeper = *out;
    *out = NULL;
    if (!keeper || atomic_fetch_sub(&keeper->refs, 1) != 1)
        return;
    pthread_mutex_destroy(&keeper->lock);
    pthread_cond_destroy(&keeper->work);
    free(keeper);
}

void hd_keeper_tell(struct hd_keeper *keeper)
{
    struct hd_task *task;
    do {
        pthread_mutex_lock(&keeper->lock);
        task = take(&keeper->done);
        pthread_mutex_unlock(&keeper->lock);
        if (task)
            task->done(task);
    } while (task);
}

void hd_keeper_stop(struct hd_keeper **out)
{
    struct hd_keeper *keeper = *out;
    *out = NULL;
    if (!keeper)
        return;
    pthread_mutex_lock(&keeper->lock);
    keeper->stop = true;
    pthread_cond_signal(&keeper->work);
    pthread_mutex_unlock(&keeper->lock);
    pthread_join(keeper->thread, NULL);
    hd_keeper_tell(keeper);
    hd_keeper_unref(&keeper);
}
