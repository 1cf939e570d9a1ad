// SPDX-License-Identifier: Apache-2.0
// Packed weights as they are, out to a file and in from one. Reading out: any thread; filling: engine thread, shared
// out to the team, piece by piece over all weights of a call, so that small ones keep nobody waiting.
#include <stdatomic.h>
#include <string.h>

#include "engine/cpu/cpu.h"

enum hearth_status ht_cpu_packed_read(struct ht_device *device, const struct ht_weight *w, uint64_t offset,
                                      size_t len_bytes, void *data, struct hearth_error *err)
{
    (void)device;
    if (offset > w->size_bytes || len_bytes > w->size_bytes - offset)
        return ht_fail(err, HEARTH_INVALID, "bytes beyond the end of a weight of %zu", w->size_bytes);
    memcpy(data, w->data + offset, len_bytes);
    return HEARTH_OK;
}

struct packed_job {
    struct ht_weight *const *weights;
    uint32_t n_weights;
    const struct ht_packed_source *source;
    atomic_ullong next; // piece, counted over all weights
    atomic_bool failed; // whoever sets it writes the two below
    enum hearth_status status;
    struct hearth_error error;
};

static void packed_share(void *arg, unsigned thread, unsigned n_threads)
{
    struct packed_job *job = arg;
    const struct ht_packed_source *source = job->source;
    struct hearth_error error;
    uint64_t passed = 0; // pieces of the weights before `at`: numbers only rise, so nobody goes back
    uint32_t at = 0;
    (void)thread, (void)n_threads;
    while (!atomic_load(&job->failed)) {
        uint64_t piece = atomic_fetch_add(&job->next, 1), n;
        while (at < job->n_weights &&
               piece - passed >= (n = (job->weights[at]->size_bytes + source->piece_bytes - 1) / source->piece_bytes)) {
            passed += n;
            at++;
        }
        if (at == job->n_weights)
            return;
        struct ht_weight *w = job->weights[at];
        size_t offset = (size_t)(piece - passed) * source->piece_bytes, left = w->size_bytes - offset;
        size_t len = left < source->piece_bytes ? left : source->piece_bytes;
        enum hearth_status status = source->read(source->user, at, offset, len, w->data + offset, &error);
        if (status != HEARTH_OK && !atomic_exchange(&job->failed, true)) {
            job->status = status;
            job->error = error;
        }
    }
}

enum hearth_status ht_cpu_packed_fill(struct ht_device *device, struct ht_weight *const *weights, uint32_t n_weights,
                                      const struct ht_packed_source *source, struct hearth_error *err)
{
    struct packed_job job = {.weights = weights, .n_weights = n_weights, .source = source};
    ht_pool_run(device->pool, packed_share, &job);
    if (!atomic_load(&job.failed))
        return HEARTH_OK;
    for (uint32_t i = 0; i < n_weights; i++) // rows are packed into zeroed memory
        memset(weights[i]->data, 0, weights[i]->size_bytes);
    return ht_fail(err, job.status, "%s", job.error.text);
}
