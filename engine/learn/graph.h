// SPDX-License-Identifier: Apache-2.0
// A micro-batch through the model and back: recorded plans over the packed base weights, in pieces that are each one
// submit of some milliseconds. Owns activations, the adapter's values with gradients and moments, and the step blocks.
// After creation nothing is allocated. Engine thread.
//
// The order in which pieces run is fixed; what runs between them does not matter. Losses and gradients depend on
// neither `checkpointing`, the number of threads nor what a text is packed with; in f32 not on the instruction set.
#ifndef HT_GRAPH_H
#define HT_GRAPH_H
#include "engine/learn/adapter.h"

enum ht_graph_moments {
    HT_GRAPH_MOMENTS_F32 = 0,
    HT_GRAPH_MOMENTS_8BIT, // a byte each, rounded by chance (struct ht_adamw8): a quarter of the memory
};

struct ht_graph_params {
    uint32_t rows;      // of a micro-batch, at most
    bool checkpointing; // keep each layer's input only and compute the rest again on the way back
    enum ht_train_precision precision;
    float dropout;      // of what goes into A
    float neftune;      // alpha; 0 = off
    float lora_plus;    // B learns this many times faster than A; 1 = as fast
    float beta1, beta2, eps, decay, clip; // AdamW; clip 0 = off
    enum ht_graph_moments moments;
    uint32_t piece_us;     // that a piece is thought to take at most, on two cores of a server; 0 = 10,000
    uint32_t logits_bytes; // of a tile of output rows, at most; 0 = 128 MiB
};

struct ht_batch { // rows of one micro-batch, side by side; borrowed until the pass has ended
    uint32_t n_rows;
    const int32_t *ids;
    const uint32_t *pos, *seg_from; // seg_from: first row of the row's segment
    const int32_t *target;          // -1 = none
    const float *weight;            // of the row's loss, normalisation of the whole optimizer step included
    const uint32_t *row_id;         // number within the optimizer step, for draws
};

enum ht_graph_pass {
    HT_GRAPH_TRAIN, // losses, and gradients are added to
    HT_GRAPH_LOSS,  // losses only: no dropout, no noise
};

struct ht_graph;
// The adapter's values are copied; its targets give the layout of everything flat. UNSUPPORTED: the device cannot train
// or not in this precision. The model must outlive the graph; the adapter need not.
HT_MUST_USE enum hearth_status ht_graph_create(struct ht_graph **graph, const struct ht_model *model,
                                               const struct hearth_adapter *adapter,
                                               const struct ht_graph_params *params, struct hearth_error *err);
// The same with values of 0: ht_graph_state_write gives it others, a part at a time. Its memory is promised, not used.
HT_MUST_USE enum hearth_status ht_graph_make(struct ht_graph **graph, const struct ht_model *model,
                                             const struct hearth_adapter *adapter,
                                             const struct ht_graph_params *params, struct hearth_error *err);
uint64_t ht_graph_bytes(const struct ht_graph *graph); // that it takes
void ht_graph_destroy(struct ht_graph **graph);
// What it takes: makes one, as a promise of memory, and lets go of it.
HT_MUST_USE enum hearth_status ht_graph_memory(const struct ht_model *model, const struct hearth_adapter *adapter,
                                               const struct ht_graph_params *params, uint64_t *bytes,
                                               struct hearth_error *err);

// Begins a pass over a batch. seed and step (of the optimizer) decide dropout, noise and the rounding of moments of
// bytes in the update that follows.
HT_MUST_USE enum hearth_status ht_graph_begin(struct ht_graph *graph, enum ht_graph_pass pass,
                                              const struct ht_batch *batch, uint64_t seed, uint64_t step,
                                              struct hearth_error *err);
// Runs the next piece of the pass, or of the update; *left = pieces that remain.
HT_MUST_USE enum hearth_status ht_graph_run(struct ht_graph *graph, uint32_t *left, struct hearth_error *err);
// After a pass: loss of each row (n_rows), nats, not weighted; rows of weight 0 or without target have 0.
const float *ht_graph_losses(const struct ht_graph *graph);

// Begins an optimizer step (from 1): clip, AdamW, gradients to 0. Its pieces go through ht_graph_run too.
HT_MUST_USE enum hearth_status ht_graph_update(struct ht_graph *graph, uint64_t step, float lr,
                                               struct hearth_error *err);
// Norm of all gradients before clipping; runs on its own. NaN or infinite where a gradient is.
HT_MUST_USE enum hearth_status ht_graph_norm(struct ht_graph *graph, float *norm, struct hearth_error *err);

// The flat vectors, n values each (hearth_adapter.n_values, its layout). Between passes only. INVALID: moments that are
// bytes.
enum ht_graph_vector { HT_GRAPH_VALUES, HT_GRAPH_GRADIENTS, HT_GRAPH_MOMENT1, HT_GRAPH_MOMENT2 };
size_t ht_graph_n_values(const struct ht_graph *graph);
HT_MUST_USE enum hearth_status ht_graph_read(struct ht_graph *graph, enum ht_graph_vector which, float *values,
                                             struct hearth_error *err);
HT_MUST_USE enum hearth_status ht_graph_write(struct ht_graph *graph, enum ht_graph_vector which, const float *values,
                                              struct hearth_error *err);
// What goes on with: values, then both moments as they are kept, as bytes; in parts of any length. Between passes only.
size_t ht_graph_state_bytes(const struct ht_graph *graph);
HT_MUST_USE enum hearth_status ht_graph_state_read(struct ht_graph *graph, size_t offset, void *bytes,
                                                   size_t len_bytes, struct hearth_error *err);
HT_MUST_USE enum hearth_status ht_graph_state_write(struct ht_graph *graph, size_t offset, const void *bytes,
                                                    size_t len_bytes, struct hearth_error *err);

#endif
