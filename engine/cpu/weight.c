// SPDX-License-Identifier: Apache-2.0
// Packed weights: create, fill row by row, read rows back. Engine thread; filling is shared out to the team.
#include <stdatomic.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/cpu/cpu.h"

// Sizes of a weight: false on overflow.
static bool weight_sizes(const struct ht_weight_params *params, struct ht_weight *w)
{
    uint64_t row_bytes;
    w->layout = ht_layout_of(params->type);
    if (!w->layout || !ht_row_bytes(params->type, params->k, &row_bytes) || row_bytes > SIZE_MAX / HT_GROUP)
        return false;
    w->row_bytes = (size_t)row_bytes;
    w->group_bytes = ht_round64(w->row_bytes * HT_GROUP);
    return ht_mul(w->group_bytes, (params->n + HT_GROUP - 1) / HT_GROUP, &w->size_bytes);
}

size_t ht_cpu_weight_size(const struct ht_device *device, const struct ht_weight_params *params)
{
    (void)device;
    struct ht_weight w = {0};
    return weight_sizes(params, &w) ? w.size_bytes : SIZE_MAX;
}

#ifdef __SANITIZE_ADDRESS__
enum { FIRST_BLOCK = 0, LAST_BLOCK = 0 }; // a block for each weight, so that its bounds are watched
#else
enum { FIRST_BLOCK = 2 << 20, LAST_BLOCK = 64 << 20 }; // bytes; each block is twice the one before
#endif

// Room for size_bytes in the device's block, or in a new one; NULL when out of memory.
static struct ht_weight_block *block_with_room(struct ht_device *device, size_t size_bytes)
{
    struct ht_weight_block *block = device->filling;
    if (block && block->size_bytes - block->used >= size_bytes)
        return block;
    size_t size = block ? 2 * block->size_bytes : FIRST_BLOCK;
    size = size > LAST_BLOCK ? LAST_BLOCK : size;
    size = size < size_bytes ? size_bytes : size;
    if (!(block = ht_calloc(1, sizeof *block)))
        return NULL;
    block->size_bytes = size;
    if (!(block->data = ht_alloc_big(size))) {
        ht_free(block);
        return NULL;
    }
    device->filling = block;
    return block;
}

enum hearth_status ht_cpu_weight_create(struct ht_device *device, const struct ht_weight_params *params,
                                        struct ht_weight **out, struct hearth_error *err)
{
    *out = NULL;
    struct ht_weight sizes = {.head.params = *params}, *w;
    HT_TRY(ht_check_weight_params(params, err));
    if (!weight_sizes(params, &sizes))
        return ht_fail(err, HEARTH_LIMIT, "a weight of %u x %u is too large", params->n, params->k);
    if (!(w = ht_calloc(1, sizeof *w)))
        return ht_fail(err, HEARTH_NOMEM, "out of memory for a weight");
    *w = sizes;
    if (!(w->block = block_with_room(device, w->size_bytes))) {
        ht_free(w);
        return ht_fail(err, HEARTH_NOMEM, "out of memory for a weight of %zu bytes", sizes.size_bytes);
    }
    w->data = w->block->data + w->block->used;
    w->block->used += w->size_bytes;
    w->block->n_weights++;
    *out = w;
    return HEARTH_OK;
}

void ht_cpu_weight_destroy(struct ht_device *device, struct ht_weight **w)
{
    struct ht_weight_block *block = *w ? (*w)->block : NULL;
    if (block && !--block->n_weights) {
        if (device->filling == block)
            device->filling = NULL;
        ht_free_big(block->data, block->size_bytes);
        ht_free(block);
    }
    ht_free(*w);
    *w = NULL;
}

struct pack_job {
    struct ht_weight *w;
    const unsigned char *blocks;
    uint32_t first, last; // rows
};

static void pack_rows(struct ht_weight *w, uint32_t first, uint32_t last, const unsigned char *blocks)
{
    for (uint32_t row = first; row < last; row++)
        ht_layout_pack_row(w->layout, blocks + w->row_bytes * (row - first), w->head.params.k, row % HT_GROUP,
                           ht_weight_group(w, row / HT_GROUP));
}

static uint32_t within(uint32_t row, uint32_t first, uint32_t last)
{
    return row < first ? first : row < last ? row : last;
}

static void pack_share(void *arg, unsigned thread, unsigned n_threads)
{
    const struct pack_job *job = arg;
    uint32_t first_group = job->first / HT_GROUP, n_groups = (job->last - 1) / HT_GROUP - first_group + 1;
    struct ht_range share = ht_share(n_groups, thread, n_threads);
    uint32_t from = within((first_group + share.from) * HT_GROUP, job->first, job->last),
             to = within((first_group + share.to) * HT_GROUP, job->first, job->last);
    pack_rows(job->w, from, to, job->blocks + job->w->row_bytes * (from - job->first));
}

static enum hearth_status check_rows(const struct ht_weight *w, uint32_t first_row, uint32_t n_rows,
                                     struct hearth_error *err)
{
    if (first_row > w->head.params.n || n_rows > w->head.params.n - first_row)
        return ht_fail(err, HEARTH_INVALID, "rows %u to %u of a weight of %u", first_row, first_row + n_rows,
                       w->head.params.n);
    return HEARTH_OK;
}

enum hearth_status ht_cpu_weight_write(struct ht_device *device, struct ht_weight *w, uint32_t first_row,
                                       uint32_t n_rows, const void *blocks, struct hearth_error *err)
{
    HT_TRY(check_rows(w, first_row, n_rows, err));
    if (!n_rows)
        return HEARTH_OK;
    struct pack_job job = {w, blocks, first_row, first_row + n_rows};
    ht_pool_run(device->pool, pack_share, &job);
    return HEARTH_OK;
}

// ---- from a source: every thread reads some groups into its own staging memory, which stays in its cache, and packs
// them, while others read or wait for the disk. Groups are handed out as threads come.

enum { STAGING_BYTES = 128 << 10 };

struct fill_job {
    struct ht_device *device;
    struct ht_weight *w;
    const struct ht_weight_source *source;
    uint32_t first, last; // rows
    uint32_t first_group, n_groups, groups_at_once;
    atomic_uint next;   // group, counted from first_group
    atomic_bool failed; // whoever sets it writes the two below
    enum hearth_status status;
    struct hearth_error error;
};

static void fill_share(void *arg, unsigned thread, unsigned n_threads)
{
    struct fill_job *job = arg;
    struct ht_weight *w = job->w;
    unsigned char *staging = job->device->staging + job->device->staging_bytes * thread;
    struct hearth_error error;
    (void)n_threads;
    while (!atomic_load(&job->failed)) {
        uint32_t g = atomic_fetch_add(&job->next, job->groups_at_once);
        if (g >= job->n_groups)
            return;
        uint32_t n = job->n_groups - g < job->groups_at_once ? job->n_groups - g : job->groups_at_once;
        uint32_t from = within((job->first_group + g) * HT_GROUP, job->first, job->last),
                 to = within((job->first_group + g + n) * HT_GROUP, job->first, job->last);
        enum hearth_status status = job->source->read(job->source->user, from, to - from, staging, &error);
        if (status == HEARTH_OK) {
            pack_rows(w, from, to, staging);
        } else if (!atomic_exchange(&job->failed, true)) {
            job->status = status;
            job->error = error;
        }
    }
}

// Room for a group's rows of this weight, at least, for each thread.
static bool have_staging(struct ht_device *device, const struct ht_weight *w)
{
    size_t bytes = ht_round64(w->row_bytes * HT_GROUP), all;
    bytes = bytes > STAGING_BYTES ? bytes : STAGING_BYTES;
    if (device->staging && device->staging_bytes >= bytes)
        return true;
    ht_free(device->staging);
    device->staging = ht_mul(bytes, device->n_threads, &all) ? ht_calloc(1, all) : NULL;
    device->staging_bytes = bytes;
    return device->staging;
}

enum hearth_status ht_cpu_weight_fill(struct ht_device *device, struct ht_weight *w, uint32_t first_row,
                                      uint32_t n_rows, const struct ht_weight_source *source,
                                      struct hearth_error *err)
{
    HT_TRY(check_rows(w, first_row, n_rows, err));
    if (!n_rows)
        return HEARTH_OK;
    if (!have_staging(device, w))
        return ht_fail(err, HEARTH_NOMEM, "out of memory for reading a weight");
    uint32_t first_group = first_row / HT_GROUP, n_groups = (first_row + n_rows - 1) / HT_GROUP - first_group + 1;
    struct fill_job job = {
        .device = device,
        .w = w,
        .source = source,
        .first = first_row,
        .last = first_row + n_rows,
        .first_group = first_group,
        .n_groups = n_groups,
        .groups_at_once = (uint32_t)(device->staging_bytes / (w->row_bytes * HT_GROUP)),
    };
    // Not more at once than leaves something for everybody.
    uint32_t share = n_groups / device->n_threads;
    job.groups_at_once = job.groups_at_once > share ? share ? share : 1 : job.groups_at_once;
    ht_pool_run(device->pool, fill_share, &job);
    return atomic_load(&job.failed) ? ht_fail(err, job.status, "%s", job.error.text) : HEARTH_OK;
}

enum hearth_status ht_cpu_weight_unpack_row(struct ht_device *device, const struct ht_weight *w, uint32_t row,
                                            void *blocks, struct hearth_error *err)
{
    (void)device;
    if (row >= w->head.params.n)
        return ht_fail(err, HEARTH_INVALID, "row %u of a weight of %u", row, w->head.params.n);
    ht_layout_unpack_row(w->layout, ht_weight_group(w, row / HT_GROUP), w->head.params.k, row % HT_GROUP,
                         blocks);
    return HEARTH_OK;
}
