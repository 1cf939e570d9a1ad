// SPDX-License-Identifier: Apache-2.0
// What the files of the CPU back end share: its objects, recorded calls, and how work is split over the team.
// The engine thread owns all of it; inside a submit the team's threads read it and write disjoint parts of
// buffers.
#ifndef HT_CPU_H
#define HT_CPU_H
#include "engine/base/mem.h"
#include "engine/base/pool.h"
#include "engine/cpu/contract.h"
#include "engine/cpu/kernels.h"
#include "engine/cpu/kv.h"
#include "engine/ops/check_train.h"

struct ht_weight_block;

// The units of a product that a member of the team has left: from << 32 | to (run_many.c).
struct ht_deal {
    _Alignas(HT_MEM_ALIGN) _Atomic uint64_t left;
};

struct ht_device {
    const struct ht_device_ops *ops;
    struct ht_pool *pool;
    struct ht_kernels kernels;
    enum ht_isa isa;
    const struct ht_bf16_kernels *bf16[3]; // by enum ht_train_precision; NULL: not here
    enum ht_precision precision;
    unsigned n_threads;
    struct ht_ops table;
    struct ht_deal *deals;           // [2][n_threads]
    struct ht_weight_block *filling; // takes the next weight; NULL at first
    unsigned char *staging;          // a part per thread: rows as they come from the file; NULL at first
    size_t staging_bytes;            // of one part
    unsigned char *scratch;          // of the plan that runs; NULL at first
    size_t scratch_bytes;
};

struct ht_buf {
    struct ht_buf_head head;
    unsigned char *data;
    size_t taken_bytes;
};

// Weights are carved from blocks, one after another in the order of their creation, so that they lie on huge
// pages: alone, most are too small for one. A block is freed with its last weight.
struct ht_weight_block {
    unsigned char *data;
    size_t size_bytes, used;
    uint32_t n_weights;
};

struct ht_weight {
    struct ht_weight_head head;
    const struct ht_layout *layout;
    struct ht_weight_block *block;
    unsigned char *data;
    size_t size_bytes, row_bytes, group_bytes; // row_bytes: a row in GGUF form
};

struct ht_kv {
    struct ht_kv_head head;
    struct ht_kv_geometry geometry;
    unsigned char *data;
    size_t page_bytes, size_bytes;
};

struct ht_range {
    uint32_t from, to;
};

// ---- LoRA (bank.c, run_lora.c)

struct ht_bank_entry { // what a slot holds for a linear; rank 0 = nothing
    uint32_t rank;
    const float *a; // (rank, k)
    const float *b; // scaled; per 16 outputs (rank, 16), the last ones filled up with zeros
};
struct ht_bank_slot {
    struct ht_bank_entry *entries; // [n_linears], NULL = empty
    unsigned char *data;
    size_t data_bytes;
    uint32_t max_rank;
};
struct ht_bank {
    struct ht_bank_head head;
    struct ht_bank_slot slot[HT_MAX_BANK_SLOTS];
    // A x of one call: [3 parts][rows][u_stride], as wide as the largest rank of a slot wants.
    float *u;
    uint32_t u_stride;
    size_t u_bytes;
};

// ---- plans

enum { HT_MAX_CALLS = 16384, HT_MAX_ACCESSES = 96, HT_MAX_ROPES = 8 };

struct ht_call;
struct ht_run { // one submit
    const struct ht_device *device;
    const struct ht_plan *plan;
    const struct ht_step *step;
    const struct ht_train_step *train; // NULL: the plan does not train
    uint32_t n_rows, n_outs;           // R, O
    uint32_t slots;                    // bit s: a row has adapter s
    unsigned n_threads;
};
typedef void ht_call_fn(const struct ht_call *call, const struct ht_run *run, unsigned thread);

enum ht_barrier {
    HT_BARRIER_NEVER,
    HT_BARRIER_MANY,
    HT_BARRIER_ALWAYS
};                   // MANY: when the step has over HT_FEW rows
enum { HT_FEW = 2 }; // rows that each thread normalises and quantises for itself rather than wait for another

struct ht_call {
    ht_call_fn *run;
    enum ht_barrier barrier; // before this call
    union {
        struct ht_embed embed;
        struct ht_rmsnorm rmsnorm;
        struct ht_matmul matmul;
        struct ht_rope rope;
        struct ht_kv_store kv_store;
        struct ht_attention attention;
        struct ht_glu glu;
        struct ht_gather gather;
        struct ht_softcap softcap;
        struct ht_sample sample;
#define HT_CALL_MEMBER(name) struct ht_##name name;
        HT_TRAIN_OPS_MAP(HT_CALL_MEMBER)
#undef HT_CALL_MEMBER
    } p;
    bool fused; // matmul: the call before is the norm that makes its x, done here when the step has few rows
    bool deferred;       // rmsnorm: the matmul that follows does it then; glu: the matmul before may have done it
    // The product of gate and up, whose GLU and next product are the calls after it; that next product. Both are told
    // where in the shared scratch the GLU's y lies.
    bool glu_follows, after_glu;
    size_t glu_offset;
    uint32_t rope_table; // rope: which of the plan's tables
};

// Cosines and sines of a step's positions, made once for all rope ops with the same frequencies.
struct ht_rope_table {
    struct ht_ref freq;
    uint32_t pairs;
    float mscale;
    float *cosine, *sine; // [rows][pairs], in the plan's scratch
};

// A part of memory that a call reads or writes. `split`: how the threads share it; two calls that split the
// same memory in the same way need no barrier between them.
enum ht_split { HT_SPLIT_ANY, HT_SPLIT_COLUMNS, HT_SPLIT_ITEMS };
struct ht_access {
    uintptr_t from, to;
    bool write;
    enum ht_split split;
    enum ht_rows rows;
    bool dealt;             // columns of a product: with over HT_FEW rows any thread may have computed them
    uint32_t stride, parts; // of the split: floats from row to row; columns, or items (heads) of a row
};

struct ht_plan {
    struct ht_plan_head head;
    struct ht_device *device;
    struct ht_call *calls;
    uint32_t n_calls, n_calls_cap, n_ropes;
    struct ht_rope_table ropes[HT_MAX_ROPES];
    struct ht_access accesses[HT_MAX_ACCESSES]; // since the last barrier, while recording
    uint32_t n_accesses, n_before_norm;         // all; those older than the last rmsnorm's
    uint32_t gate_up;                           // 1 + the call that may take its GLU, as far as seen; 0 = none
    bool gate_gone, up_gone;                    // its outputs have been written over, without having been read
    const struct ht_kv *kv;                     // the pool that the plan's ops use
    const struct ht_bank *bank;                 // its LoRA bank; NULL = none
    uint32_t n_ids;                             // token ids that its embeddings have
    uint32_t n_vocab;                           // of its loss; 0 = none
    bool trains;                                // has training ops
    size_t shared_bytes, thread_bytes;          // scratch: wanted while recording
    unsigned char *shared, *thread_scratch; // of the device's scratch, while it runs; rope tables lie between
    size_t taken_bytes;                     // by which plan_end made the device's scratch larger
    bool ended;
};

// ---- shared helpers (plan.c)

// Thread's share of n items, in order.
struct ht_range ht_share(uint32_t n, unsigned thread, unsigned n_threads);
// Thread's share of n columns, in whole groups of 16.
struct ht_range ht_share_columns(uint32_t n, unsigned thread, unsigned n_threads);

static inline float *ht_ref_floats(const struct ht_ref *ref)
{
    return (float *)(void *)ref->buf->data + ref->offset;
}
static inline uint32_t ht_run_rows(const struct ht_run *run, enum ht_rows rows)
{
    return rows == HT_ROWS_OUT ? run->n_outs : run->n_rows;
}
static inline void *ht_run_scratch(const struct ht_run *run, unsigned thread)
{
    return run->plan->thread_scratch + run->plan->thread_bytes * thread;
}
static inline unsigned char *ht_weight_group(const struct ht_weight *w, uint32_t group)
{
    return w->data + w->group_bytes * group;
}
static inline unsigned char *ht_kv_head_at(const struct ht_kv *kv, uint32_t page, uint32_t layer,
                                           uint32_t kv_head)
{
    return kv->data + kv->page_bytes * page +
           kv->geometry.head_bytes * ((size_t)layer * kv->head.params.kv_heads + kv_head);
}
static inline size_t ht_round64(size_t bytes)
{
    return (bytes + 63) & ~(size_t)63;
}

// ---- one file per group of objects or ops
extern const struct ht_device_ops ht_cpu_device_ops; // cpu.c

enum hearth_status ht_cpu_weight_create(struct ht_device *device, const struct ht_weight_params *params,
                                        struct ht_weight **out, struct hearth_error *err);
enum hearth_status ht_cpu_weight_write(struct ht_device *device, struct ht_weight *w, uint32_t first_row,
                                       uint32_t n_rows, const void *blocks, struct hearth_error *err);
enum hearth_status ht_cpu_weight_fill(struct ht_device *device, struct ht_weight *w, uint32_t first_row,
                                      uint32_t n_rows, const struct ht_weight_source *source,
                                      struct hearth_error *err);
enum hearth_status ht_cpu_weight_unpack_row(struct ht_device *device, const struct ht_weight *w, uint32_t row,
                                            void *blocks, struct hearth_error *err);
size_t ht_cpu_weight_size(const struct ht_device *device, const struct ht_weight_params *params);
void ht_cpu_weight_destroy(struct ht_device *device, struct ht_weight **w);
enum hearth_status ht_cpu_packed_read(struct ht_device *device, const struct ht_weight *w, uint64_t offset,
                                      size_t len_bytes, void *data, struct hearth_error *err); // weight_packed.c
enum hearth_status ht_cpu_packed_fill(struct ht_device *device, struct ht_weight *const *weights, uint32_t n_weights,
                                      const struct ht_packed_source *source, struct hearth_error *err);

enum hearth_status ht_cpu_bank_create(struct ht_device *device, const struct ht_bank_params *params,
                                      struct ht_bank **out, struct hearth_error *err);
void ht_cpu_bank_destroy(struct ht_device *device, struct ht_bank **bank);
uint64_t ht_cpu_bank_bytes(const struct ht_bank *bank);
enum hearth_status ht_cpu_bank_set(struct ht_device *device, struct ht_bank *bank, uint32_t slot,
                                   const struct ht_bank_piece *pieces, size_t n_pieces, struct hearth_error *err);
void ht_cpu_bank_clear(struct ht_device *device, struct ht_bank *bank, uint32_t slot);
// Does any row's adapter have a part for this product? The same for the whole team.
bool ht_lora_live(const struct ht_matmul *p, const struct ht_run *run);
// This thread's share of A x; x rows are x_stride floats apart. All must have come here before ht_lora_up.
void ht_lora_down(const struct ht_matmul *p, const struct ht_run *run, unsigned thread, const float *x,
                  uint32_t x_stride);
// Adds B (A x) to outputs of a part, which begin a group of 16, for some rows; y: the first of both.
void ht_lora_up(const struct ht_matmul *p, const struct ht_run *run, const struct ht_matmul_part *part,
                struct ht_range rows, struct ht_range outputs, float *y, size_t y_stride);

enum hearth_status ht_cpu_plan_begin(struct ht_device *device, const struct ht_step_shape *shape,
                                     struct ht_plan **out, struct hearth_error *err);
enum hearth_status ht_cpu_plan_end(struct ht_plan *plan, struct hearth_error *err);
size_t ht_cpu_plan_scratch(const struct ht_plan *plan);
void ht_cpu_plan_destroy(struct ht_plan **plan);
enum hearth_status ht_cpu_submit(struct ht_plan *plan, const struct ht_step *step, struct hearth_error *err);
enum hearth_status ht_cpu_submit_train(struct ht_plan *plan, const struct ht_step *step,
                                       const struct ht_train_step *train, struct hearth_error *err);
void ht_cpu_record_table(struct ht_ops *table); // record.c: the entries that add calls to a plan
extern const struct ht_train_ops ht_cpu_train_ops; // train_record.c

ht_call_fn ht_run_embed, ht_run_rmsnorm, ht_run_rope, ht_run_kv_store, ht_run_glu, ht_run_gather,
    ht_run_softcap;
ht_call_fn ht_run_matmul, ht_run_attention, ht_run_sample;
// Does this call leave the GLU's y to the product after it? The same for the whole team.
bool ht_matmul_takes_glu(const struct ht_call *gate_up, const struct ht_run *run);
// Scratch that a thread, and the team, need for an op of a plan.
size_t ht_matmul_thread_bytes(const struct ht_plan *plan, const struct ht_matmul *p);
size_t ht_matmul_shared_bytes(const struct ht_plan *plan, const struct ht_matmul *p);
size_t ht_embed_thread_bytes(const struct ht_embed *p);
size_t ht_attention_thread_bytes(const struct ht_plan *plan, const struct ht_attention *p);
float ht_alibi_slope(uint32_t heads, float max_bias, uint32_t head); // 0 without a bias
size_t ht_sample_thread_bytes(const struct ht_plan *plan, const struct ht_sample *p);
size_t ht_sample_shared_bytes(const struct ht_plan *plan, const struct ht_sample *p);

#endif
