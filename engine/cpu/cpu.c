// SPDX-License-Identifier: Apache-2.0
// The CPU as a device: opening, buffers, the KV pool and the table of entry points. Engine thread.
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/free_memory.h"
#include "engine/base/mem.h"
#include "engine/cpu/cpu.h"
#include "engine/cpu/train_bf16.h"

static enum hearth_status pick_isa(const char *name, enum ht_isa *isa, struct hearth_error *err)
{
    *isa = ht_isa_best();
    if (!name)
        return HEARTH_OK;
    for (int i = 0; i < HT_N_ISAS; i++)
        if (!strcmp(name, ht_isa_names[i])) {
            if (!ht_isa_can((enum ht_isa)i))
                return ht_fail(err, HEARTH_UNSUPPORTED, "this CPU has no %s", name);
            *isa = (enum ht_isa)i;
            return HEARTH_OK;
        }
    return ht_fail(err, HEARTH_INVALID, "unknown instruction set '%.40s': use %s", name,
                   "ref, avx2, avx512vnni, amx, neon, dotprod or i8mm");
}

static enum hearth_status cpu_open(struct ht_device **out, const struct ht_device_params *params,
                                   struct hearth_error *err)
{
    *out = NULL;
    enum ht_isa isa;
    HT_TRY(pick_isa(params->isa, &isa, err));
    struct ht_device *device = ht_calloc(1, sizeof *device);
    if (!device)
        return ht_fail(err, HEARTH_NOMEM, "out of memory for the CPU device");
    enum hearth_status status = ht_pool_create(&device->pool, params->n_threads, err);
    if (status == HEARTH_OK && !(device->deals = ht_calloc(2 * ht_pool_size(device->pool), sizeof *device->deals)))
        status = ht_fail(err, HEARTH_NOMEM, "out of memory for the CPU device");
    if (status != HEARTH_OK) {
        ht_pool_destroy(&device->pool);
        ht_free(device);
        return status;
    }
    device->ops = &ht_cpu_device_ops;
    device->isa = isa;
    device->precision = params->precision;
    device->n_threads = ht_pool_size(device->pool);
    ht_kernels_ref(&device->kernels);
#if defined(__x86_64__)
    if (isa >= HT_ISA_AVX2)
        ht_kernels_avx2(&device->kernels);
    if (isa >= HT_ISA_AVX512VNNI)
        ht_kernels_avx512vnni(&device->kernels);
    if (isa >= HT_ISA_AMX)
        ht_kernels_amx(&device->kernels);
#elif defined(__aarch64__)
    if (isa >= HT_ISA_NEON)
        ht_kernels_neon(&device->kernels);
    if (isa >= HT_ISA_DOTPROD)
        ht_kernels_dotprod(&device->kernels);
    if (isa >= HT_ISA_I8MM)
        ht_kernels_i8mm(&device->kernels);
#endif
    for (int i = HT_TRAIN_B_AVX512BF16; i <= HT_TRAIN_B_AMX; i++)
        device->bf16[i] = ht_bf16_kernels(isa, (enum ht_train_precision)i);
    ht_cpu_record_table(&device->table);
    *out = device;
    return HEARTH_OK;
}

static void cpu_close(struct ht_device **device)
{
    if (*device) {
        ht_pool_destroy(&(*device)->pool);
        ht_free((*device)->staging);
        ht_free((*device)->deals);
        ht_free_big((*device)->scratch, (*device)->scratch_bytes);
        ht_free(*device);
    }
    *device = NULL;
}

static void cpu_caps(const struct ht_device *device, struct ht_caps *caps)
{
    static const uint32_t buckets[] = {1, 2, 4, 8, 64, 256, 512};
    *caps = (struct ht_caps){.n_row_buckets = sizeof buckets / sizeof buckets[0]};
    snprintf(caps->name, sizeof caps->name, "cpu %s, %u thread%s", ht_isa_names[device->isa],
             device->n_threads, device->n_threads == 1 ? "" : "s");
    snprintf(caps->numerics, sizeof caps->numerics, "cpu/1");
    memcpy(caps->row_buckets, buckets, sizeof buckets);
    long page = sysconf(_SC_PAGESIZE), pages = sysconf(_SC_PHYS_PAGES);
    if (page > 0 && pages > 0)
        caps->memory_bytes = (uint64_t)page * (uint64_t)pages;
    caps->free_bytes = ht_memory_free();
}

static const struct ht_ops *cpu_ops(const struct ht_device *device)
{
    return &device->table;
}

static bool cpu_supports_weight(const struct ht_device *device, enum ht_type type)
{
    (void)device;
    return ht_layout_of(type) != NULL;
}

// ---- buffers

static enum hearth_status cpu_buf_create(struct ht_device *device, size_t size_bytes, struct ht_buf **out,
                                         struct hearth_error *err)
{
    (void)device;
    *out = NULL;
    struct ht_buf *buf = ht_calloc(1, sizeof *buf);
    if (buf) {
        buf->head.size_bytes = size_bytes;
        buf->taken_bytes = size_bytes ? size_bytes : 1;
        buf->data = ht_alloc_big(buf->taken_bytes);
    }
    if (!buf || !buf->data) {
        ht_free(buf);
        return ht_fail(err, HEARTH_NOMEM, "out of memory for a buffer of %zu bytes", size_bytes);
    }
    *out = buf;
    return HEARTH_OK;
}

static void cpu_buf_destroy(struct ht_device *device, struct ht_buf **buf)
{
    (void)device;
    if (*buf) {
        ht_free_big((*buf)->data, (*buf)->taken_bytes);
        ht_free(*buf);
    }
    *buf = NULL;
}

static enum hearth_status check_range(const struct ht_buf *buf, size_t offset, size_t len_bytes,
                                      struct hearth_error *err)
{
    if (offset > buf->head.size_bytes || len_bytes > buf->head.size_bytes - offset)
        return ht_fail(err, HEARTH_INVALID, "%zu bytes at %zu of a buffer of %zu", len_bytes, offset,
                       buf->head.size_bytes);
    return HEARTH_OK;
}

static enum hearth_status cpu_buf_write(struct ht_device *device, struct ht_buf *buf, size_t offset,
                                        const void *data, size_t len_bytes, struct hearth_error *err)
{
    (void)device;
    HT_TRY(check_range(buf, offset, len_bytes, err));
    memcpy(buf->data + offset, data, len_bytes);
    return HEARTH_OK;
}

static enum hearth_status cpu_buf_read(struct ht_device *device, struct ht_buf *buf, size_t offset,
                                       void *data, size_t len_bytes, struct hearth_error *err)
{
    (void)device;
    HT_TRY(check_range(buf, offset, len_bytes, err));
    memcpy(data, buf->data + offset, len_bytes);
    return HEARTH_OK;
}

static void *cpu_buf_host(struct ht_buf *buf)
{
    return buf->data;
}

// ---- KV pool

static bool page_size(const struct ht_kv_params *params, size_t *bytes)
{
    struct ht_kv_geometry g;
    ht_kv_geometry(params, &g);
    return ht_mul(g.head_bytes, params->kv_heads, bytes) && ht_mul(*bytes, params->layers, bytes);
}

static size_t cpu_kv_page_size(const struct ht_device *device, const struct ht_kv_params *params)
{
    (void)device;
    size_t bytes;
    return page_size(params, &bytes) ? bytes : SIZE_MAX;
}

static enum hearth_status cpu_kv_create(struct ht_device *device, const struct ht_kv_params *params,
                                        struct ht_kv **out, struct hearth_error *err)
{
    (void)device;
    *out = NULL;
    struct ht_kv sizes = {.head.params = *params}, *kv;
    HT_TRY(ht_check_kv_params(params, err));
    ht_kv_geometry(params, &sizes.geometry);
    if (!page_size(params, &sizes.page_bytes) ||
        !ht_mul(sizes.page_bytes, params->n_pages, &sizes.size_bytes) ||
        !ht_add(sizes.size_bytes, 64, &sizes.size_bytes)) // kernels may read a vector beyond the last value
        return ht_fail(err, HEARTH_LIMIT, "a KV pool of %u pages is too large", params->n_pages);
    if (!(kv = ht_calloc(1, sizeof *kv)))
        return ht_fail(err, HEARTH_NOMEM, "out of memory for the KV pool");
    *kv = sizes;
    if (!(kv->data = ht_alloc_big(kv->size_bytes))) {
        ht_free(kv);
        return ht_fail(err, HEARTH_NOMEM, "out of memory for a KV pool of %zu bytes", sizes.size_bytes);
    }
    *out = kv;
    return HEARTH_OK;
}

static void cpu_kv_destroy(struct ht_device *device, struct ht_kv **kv)
{
    (void)device;
    if (*kv) {
        ht_free_big((*kv)->data, (*kv)->size_bytes);
        ht_free(*kv);
    }
    *kv = NULL;
}

static enum hearth_status check_page(const struct ht_kv *kv, uint32_t page, struct hearth_error *err)
{
    if (page >= kv->head.params.n_pages)
        return ht_fail(err, HEARTH_INVALID, "KV page %u of %u", page, kv->head.params.n_pages);
    return HEARTH_OK;
}

static enum hearth_status cpu_kv_page_copy(struct ht_device *device, struct ht_kv *kv, uint32_t to,
                                           uint32_t from, struct hearth_error *err)
{
    (void)device;
    HT_TRY(check_page(kv, to, err));
    HT_TRY(check_page(kv, from, err));
    if (to != from)
        memcpy(kv->data + kv->page_bytes * to, kv->data + kv->page_bytes * from, kv->page_bytes);
    return HEARTH_OK;
}

static enum hearth_status cpu_kv_page_read(struct ht_device *device, const struct ht_kv *kv, uint32_t page,
                                           void *data, struct hearth_error *err)
{
    (void)device;
    HT_TRY(check_page(kv, page, err));
    memcpy(data, kv->data + kv->page_bytes * page, kv->page_bytes);
    return HEARTH_OK;
}

static enum hearth_status cpu_kv_page_write(struct ht_device *device, struct ht_kv *kv, uint32_t page,
                                            const void *data, struct hearth_error *err)
{
    (void)device;
    HT_TRY(check_page(kv, page, err));
    memcpy(kv->data + kv->page_bytes * page, data, kv->page_bytes);
    return HEARTH_OK;
}

// ---- the table. A submit runs to its end, so there is nothing to wait for and nothing to lose.

static enum hearth_status cpu_wait(struct ht_device *device, uint64_t timeout_ms, struct hearth_error *err)
{
    (void)device;
    (void)timeout_ms;
    (void)err;
    return HEARTH_OK;
}

static bool cpu_is_lost(const struct ht_device *device)
{
    (void)device;
    return false;
}

const struct ht_device_ops ht_cpu_device_ops = {
    .name = "cpu",
    .open = cpu_open,
    .close = cpu_close,
    .caps = cpu_caps,
    .ops = cpu_ops,
    .train = &ht_cpu_train_ops,
    .supports_weight = cpu_supports_weight,
    .buf_create = cpu_buf_create,
    .buf_destroy = cpu_buf_destroy,
    .buf_write = cpu_buf_write,
    .buf_read = cpu_buf_read,
    .buf_host = cpu_buf_host,
    .weight_create = ht_cpu_weight_create,
    .weight_write = ht_cpu_weight_write,
    .weight_fill = ht_cpu_weight_fill,
    .weight_unpack_row = ht_cpu_weight_unpack_row,
    .weight_size = ht_cpu_weight_size,
    .weight_destroy = ht_cpu_weight_destroy,
    .packed_form = HT_LAYOUT_NAME,
    .packed_read = ht_cpu_packed_read,
    .packed_fill = ht_cpu_packed_fill,
    .kv_create = cpu_kv_create,
    .kv_destroy = cpu_kv_destroy,
    .kv_page_size = cpu_kv_page_size,
    .kv_page_read = cpu_kv_page_read,
    .kv_page_write = cpu_kv_page_write,
    .kv_page_copy = cpu_kv_page_copy,
    .bank_create = ht_cpu_bank_create,
    .bank_destroy = ht_cpu_bank_destroy,
    .bank_bytes = ht_cpu_bank_bytes,
    .bank_set = ht_cpu_bank_set,
    .bank_clear = ht_cpu_bank_clear,
    .plan_begin = ht_cpu_plan_begin,
    .plan_end = ht_cpu_plan_end,
    .plan_scratch = ht_cpu_plan_scratch,
    .plan_destroy = ht_cpu_plan_destroy,
    .submit = ht_cpu_submit,
    .wait = cpu_wait,
    .is_lost = cpu_is_lost,
};
