// SPDX-License-Identifier: Apache-2.0
// A device behind a table: memory, weights, KV pool, plans. One const table per back end; backend.c names them
// and checks arguments once, so that back ends may trust them.
// Threads: a device and all it made belong to one thread at a time.
#ifndef HT_BACKEND_H
#define HT_BACKEND_H
#include "engine/ops/train.h"

struct ht_device; // first member: const struct ht_device_ops *ops

struct ht_device_params {
    unsigned index, n_threads; // n_threads 0 = all this process may use
    enum ht_precision precision;
    const char *isa; // NULL = best; else a name of caps.isa, for tests
};

struct ht_caps {
    char name[96]; // "cpu avx512vnni, 2 threads"
    // What bit-equality depends on beside the build: "cpu/1" (kernel version). Never the thread count.
    char numerics[64];
    uint64_t memory_bytes, free_bytes;
    uint32_t row_buckets[8]; // ascending; plans are made for these row counts
    uint32_t n_row_buckets;
};

struct ht_weight_params {
    enum ht_type type;
    uint32_t n, k; // rows (outputs), columns (inputs)
};

// Where rows of a weight come from: GGUF blocks of any rows, asked for by several threads at once.
struct ht_weight_source {
    enum hearth_status (*read)(void *user, uint32_t first_row, uint32_t n_rows, void *blocks,
                               struct hearth_error *err);
    void *user;
};

// Where packed weights come from: a stretch of one of the weights of a call, asked for by several threads at once. The
// source has checked what it gives.
struct ht_packed_source {
    enum hearth_status (*read)(void *user, uint32_t weight, uint64_t offset, size_t len_bytes, void *data,
                               struct hearth_error *err);
    void *user;
    size_t piece_bytes; // every offset is a multiple of it, every length this, or what is left of the weight
};

struct ht_kv_params {
    uint32_t layers, kv_heads, k_dim, v_dim, n_pages;
    enum ht_kv_type { HT_KV_F32 = 1, HT_KV_F16 = 2, HT_KV_Q8 = 3 } type;
};

// A bank of LoRA adapters. Plans refer to the bank; step.adapter names a slot of it. What slots hold changes between
// submits, plans stay as they are.
enum { HT_MAX_BANK_SLOTS = 32 };
struct ht_bank_params {
    const struct ht_weight_params *linears; // n and k of each linear that an adapter may have a part for; copied
    uint32_t n_linears, slots;
    uint32_t rows; // of a step, at most
};
struct ht_bank_piece { // what one adapter adds to one linear, borrowed for the call
    uint32_t linear, rank;
    float scale;        // B is kept as scale * B, rounded f32
    const float *a, *b; // A (rank, k), B (n, rank), row-major
};

struct ht_device_ops {
    const char *name; // "cpu"
    enum hearth_status (*open)(struct ht_device **out, const struct ht_device_params *params,
                               struct hearth_error *err);
    void (*close)(struct ht_device **device); // after everything made from it is destroyed
    void (*caps)(const struct ht_device *device, struct ht_caps *caps);
    const struct ht_ops *(*ops)(const struct ht_device *device);
    const struct ht_train_ops *train; // NULL: this back end cannot train
    bool (*supports_weight)(const struct ht_device *device, enum ht_type type);

    // Buffers: bytes, zeroed. write and read take byte offsets; read waits for submitted work.
    enum hearth_status (*buf_create)(struct ht_device *device, size_t size_bytes, struct ht_buf **out,
                                     struct hearth_error *err);
    void (*buf_destroy)(struct ht_device *device, struct ht_buf **buf);
    enum hearth_status (*buf_write)(struct ht_device *device, struct ht_buf *buf, size_t offset,
                                    const void *data, size_t len_bytes, struct hearth_error *err);
    enum hearth_status (*buf_read)(struct ht_device *device, struct ht_buf *buf, size_t offset, void *data,
                                   size_t len_bytes, struct hearth_error *err);
    // Host memory of the buffer if the device shares it (CPU), else NULL: read after wait only.
    void *(*buf_host)(struct ht_buf *buf);

    // Weights: filled row range by row range with GGUF blocks, repacked on the way; every row once.
    enum hearth_status (*weight_create)(struct ht_device *device, const struct ht_weight_params *params,
                                        struct ht_weight **out, struct hearth_error *err);
    enum hearth_status (*weight_write)(struct ht_device *device, struct ht_weight *w, uint32_t first_row,
                                       uint32_t n_rows, const void *blocks, struct hearth_error *err);
    // The same from a source: rows are read while others are packed. The first failure ends it.
    enum hearth_status (*weight_fill)(struct ht_device *device, struct ht_weight *w, uint32_t first_row,
                                      uint32_t n_rows, const struct ht_weight_source *source,
                                      struct hearth_error *err);
    // Row `row` again as its GGUF bytes (bit-equal to what was written).
    enum hearth_status (*weight_unpack_row)(struct ht_device *device, const struct ht_weight *w, uint32_t row,
                                            void *blocks, struct hearth_error *err);
    size_t (*weight_size)(const struct ht_device *device,
                          const struct ht_weight_params *params); // device bytes
    void (*weight_destroy)(struct ht_device *device, struct ht_weight **w);
    // The packed form, for files of it: weight_size bytes of each weight, as the device keeps them. packed_form names
    // it and changes with it; NULL: this device has none to store, and neither of the two below. packed_read may run
    // on another thread, beside submits. packed_fill fills new weights, or, when it fails, leaves them as new.
    const char *packed_form;
    enum hearth_status (*packed_read)(struct ht_device *device, const struct ht_weight *w, uint64_t offset,
                                      size_t len_bytes, void *data, struct hearth_error *err);
    enum hearth_status (*packed_fill)(struct ht_device *device, struct ht_weight *const *weights, uint32_t n_weights,
                                      const struct ht_packed_source *source, struct hearth_error *err);

    // KV pool: n_pages pages of 32 positions, all layers of a page together.
    enum hearth_status (*kv_create)(struct ht_device *device, const struct ht_kv_params *params,
                                    struct ht_kv **out, struct hearth_error *err);
    void (*kv_destroy)(struct ht_device *device, struct ht_kv **kv);
    size_t (*kv_page_size)(const struct ht_device *device,
                           const struct ht_kv_params *params); // bytes of one page, all layers
    // A page's bytes as the device keeps them (kv_page_size of them), all layers: for the prefix cache's file. Bound to
    // the numerics id; never read by another device. Between submits only.
    enum hearth_status (*kv_page_read)(struct ht_device *device, const struct ht_kv *kv, uint32_t page,
                                       void *data, struct hearth_error *err);
    enum hearth_status (*kv_page_write)(struct ht_device *device, struct ht_kv *kv, uint32_t page,
                                        const void *data, struct hearth_error *err);
    enum hearth_status (*kv_page_copy)(struct ht_device *device, struct ht_kv *kv, uint32_t to, uint32_t from,
                                       struct hearth_error *err);

    // LoRA bank; NULL where the back end has none. bank_set fills a slot, pieces of one linear stacked in their order,
    // and leaves it as it was when it fails (NOMEM; INVALID: a scaled value is not finite). An empty slot adds
    // nothing. bank_bytes: what all slots take now.
    enum hearth_status (*bank_create)(struct ht_device *device, const struct ht_bank_params *params,
                                      struct ht_bank **out, struct hearth_error *err);
    void (*bank_destroy)(struct ht_device *device, struct ht_bank **bank);
    uint64_t (*bank_bytes)(const struct ht_bank *bank);
    enum hearth_status (*bank_set)(struct ht_device *device, struct ht_bank *bank, uint32_t slot,
                                   const struct ht_bank_piece *pieces, size_t n_pieces, struct hearth_error *err);
    void (*bank_clear)(struct ht_device *device, struct ht_bank *bank, uint32_t slot);

    // Plans. Recorded once; `submit` replays with the step's values; `wait` returns when all is done. One step block
    // may serve plans of several row counts: its shape is at least each plan's, its counts are within the plan's.
    enum hearth_status (*plan_begin)(struct ht_device *device, const struct ht_step_shape *shape,
                                     struct ht_plan **out, struct hearth_error *err);
    enum hearth_status (*plan_end)(struct ht_plan *plan,
                                   struct hearth_error *err); // all memory it needs is taken here
    // Bytes by which plan_end made the device's scratch larger; the device keeps them until it is closed.
    size_t (*plan_scratch)(const struct ht_plan *plan);
    void (*plan_destroy)(struct ht_plan **plan);
    enum hearth_status (*submit)(struct ht_plan *plan, const struct ht_step *step, struct hearth_error *err);
    enum hearth_status (*wait)(struct ht_device *device, uint64_t timeout_ms, struct hearth_error *err);
    bool (*is_lost)(const struct ht_device *device); // sticky
};

// Picks by name: "auto", "cpu", "cuda[:i]", "vulkan[:i]". UNSUPPORTED names the back end that is absent.
HT_MUST_USE enum hearth_status ht_backend_find(const char *name, const struct ht_device_ops **ops,
                                               unsigned *index, struct hearth_error *err);

#endif
