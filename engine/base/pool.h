// SPDX-License-Identifier: Apache-2.0
// A team of threads that runs one function together. Member 0 is the calling thread. Between runs the others
// spin briefly, then sleep. Barriers inside a run cost well under a microsecond.
#ifndef HT_POOL_H
#define HT_POOL_H
#include "engine/base/error.h"

struct ht_pool;
typedef void ht_pool_fn(void *arg, unsigned thread, unsigned n_threads);

// n_threads 0 = the CPUs this process may use (affinity mask and cgroup quota), at most HT_MAX_THREADS.
HT_MUST_USE enum hearth_status ht_pool_create(struct ht_pool **pool, unsigned n_threads,
                                              struct hearth_error *err);
void ht_pool_destroy(struct ht_pool **pool);
unsigned ht_pool_size(const struct ht_pool *pool);
// Runs fn on every member and returns when all are done. One caller at a time.
void ht_pool_run(struct ht_pool *pool, ht_pool_fn *fn, void *arg);
// Inside a run: waits until all members are here. All writes before it are seen by all after it.
void ht_pool_barrier(struct ht_pool *pool, unsigned thread);

#endif
