// SPDX-License-Identifier: Apache-2.0
// The thread team. Member 0 is whoever calls ht_pool_run; the others live here from create to destroy.
//
// Everything is built from one primitive, the event: a counter that one thread raises and others wait for,
// first spinning, then asleep in the kernel. Each has a cache line: a barrier of two threads moves two.
// Nobody yields: a scheduler may take the rest of the slice for that (Linux 6.18 does), and a team that yields starves
// beside other programs. On a busy machine the awaited thread may also stand in line behind the one that spins for it;
// so who has spun in vain some times in a row sleeps at once for a while, then tries again.
// A barrier: each member raises its own counter, member 0 gathers them all, then raises `release`.
// A run: member 0 raises `start`, works, and gathers the members' counters once more.
#include "engine/base/pool.h"

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/base/cpus.h"
#include "engine/base/limits.h"
#include "engine/base/mem.h"

enum {
    SPIN_TURNS = 2000, // pauses before sleeping: some tens of microseconds
    VAIN_SPINS = 4,    // in a row, and the next waits go without; then twice as many after each spin in vain
    MOST_WAITS = 64,   // that go without
    STACK_BYTES = 1 << 20,
};

struct event {
    _Alignas(HT_MEM_ALIGN) atomic_uint value; // only ever grows (modulo 2^32)
    atomic_uint sleepers;
};

// Of one thread: what spinning brought lately.
struct patience {
    unsigned in_vain;  // spins in a row that ended asleep
    unsigned to_sleep; // waits to come that do not spin
};

struct member {
    struct event arrived;     // raised by this member at each barrier and at the end of each run
    unsigned epoch;           // {this member} barriers and ends of runs so far
    struct patience patience; // {this member}
    unsigned index;           // constant
    struct ht_pool *pool;
    pthread_t thread;
};

struct ht_pool {
    struct event start, release;
    unsigned n_members, n_started;
    ht_pool_fn *fn; // {written by member 0 before `start`}; NULL ends the members
    void *arg;
    struct member members[];
};

static inline void cpu_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int reached(unsigned value, unsigned target)
{
    return (int)(value - target) >= 0;
}

// The order "value, sleepers" here and "sleepers, value" in event_wait, a full fence between the two, rules out that a
// sleeper is missed; the kernel checks the value again before it lets a thread sleep. Fences rather than sequentially
// consistent accesses: qemu-user 7.2 lets a later load pass an aarch64 store-release.
static void event_raise(struct event *event, unsigned value)
{
    atomic_store_explicit(&event->value, value, memory_order_release);
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load_explicit(&event->sleepers, memory_order_relaxed))
        syscall(SYS_futex, &event->value, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

// Whether the value was reached while this thread spun.
static int spin(const struct event *event, unsigned target, struct patience *patience)
{
    if (patience->to_sleep) {
        patience->to_sleep--;
        return reached(atomic_load_explicit(&event->value, memory_order_acquire), target);
    }
    for (int turn = 0; turn < SPIN_TURNS; turn++) {
        if (reached(atomic_load_explicit(&event->value, memory_order_acquire), target)) {
            patience->in_vain = 0;
            return 1;
        }
        cpu_pause();
    }
    if (++patience->in_vain >= VAIN_SPINS) {
        unsigned shift = patience->in_vain - VAIN_SPINS;
        patience->to_sleep = shift < 6 ? 1u << shift : MOST_WAITS;
    }
    return 0;
}

static void event_wait(struct event *event, unsigned target, struct patience *patience)
{
    if (spin(event, target, patience))
        return;
    atomic_fetch_add(&event->sleepers, 1);
    atomic_thread_fence(memory_order_seq_cst);
    for (;;) {
        unsigned value = atomic_load_explicit(&event->value, memory_order_acquire);
        if (reached(value, target))
            break;
        syscall(SYS_futex, &event->value, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
    }
    atomic_fetch_sub(&event->sleepers, 1);
}

static void gather(struct ht_pool *pool, unsigned epoch)
{
    for (unsigned i = 1; i < pool->n_members; i++)
        event_wait(&pool->members[i].arrived, epoch, &pool->members[0].patience);
}

void ht_pool_barrier(struct ht_pool *pool, unsigned thread)
{
    struct member *self = &pool->members[thread];
    unsigned epoch = ++self->epoch;
    if (thread) {
        event_raise(&self->arrived, epoch);
        event_wait(&pool->release, epoch, &self->patience);
    } else {
        gather(pool, epoch);
        event_raise(&pool->release, epoch);
    }
}

void ht_pool_run(struct ht_pool *pool, ht_pool_fn *fn, void *arg)
{
    pool->fn = fn;
    pool->arg = arg;
    event_raise(&pool->start, atomic_load_explicit(&pool->start.value, memory_order_relaxed) + 1);
    fn(arg, 0, pool->n_members);
    gather(pool, ++pool->members[0].epoch);
}

static void *member_main(void *arg)
{
    struct member *self = arg;
    struct ht_pool *pool = self->pool;
    for (unsigned run = 1;; run++) {
        event_wait(&pool->start, run, &self->patience);
        if (!pool->fn)
            return NULL;
        pool->fn(pool->arg, self->index, pool->n_members);
        event_raise(&self->arrived, ++self->epoch);
    }
}

void ht_pool_destroy(struct ht_pool **pool)
{
    struct ht_pool *p = *pool;
    *pool = NULL;
    if (!p)
        return;
    p->fn = NULL;
    event_raise(&p->start, atomic_load(&p->start.value) + 1);
    for (unsigned i = 1; i < p->n_started; i++)
        pthread_join(p->members[i].thread, NULL);
    ht_free(p);
}

unsigned ht_pool_size(const struct ht_pool *pool)
{
    return pool->n_members;
}

// Starts the members with signals blocked: those belong to the program's own threads. Faults stay open.
static int start_members(struct ht_pool *pool)
{
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS};
    sigset_t blocked, before;
    sigfillset(&blocked);
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++)
        sigdelset(&blocked, faults[i]);
    pthread_attr_t attr;
    int code = pthread_attr_init(&attr);
    if (code)
        return code;
    pthread_attr_setstacksize(&attr, STACK_BYTES);
    pthread_sigmask(SIG_BLOCK, &blocked, &before);
    for (unsigned i = 1; i < pool->n_members && !code; i++) {
        pool->members[i].pool = pool;
        pool->members[i].index = i;
        code = pthread_create(&pool->members[i].thread, &attr, member_main, &pool->members[i]);
        pool->n_started += !code;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    return code;
}

enum hearth_status ht_pool_create(struct ht_pool **pool, unsigned n_threads, struct hearth_error *err)
{
    *pool = NULL;
    unsigned n_cpus = ht_cpus_usable();
    if (!n_threads)
        n_threads = n_cpus;
    if (n_threads > HT_MAX_THREADS)
        return ht_fail(err, HEARTH_LIMIT, "%u threads asked for, at most %d allowed", n_threads,
                       HT_MAX_THREADS);
    struct ht_pool *p = ht_calloc(1, sizeof *p + n_threads * sizeof p->members[0]);
    if (!p)
        return ht_fail(err, HEARTH_NOMEM, "out of memory for a team of %u threads", n_threads);
    p->n_members = n_threads;
    p->n_started = 1;
    int code = start_members(p);
    if (code) {
        ht_pool_destroy(&p);
        return ht_fail(err, HEARTH_NOMEM, "cannot start %u threads (error %d)", n_threads, code);
    }
    *pool = p;
    return HEARTH_OK;
}
