// SPDX-License-Identifier: Apache-2.0
// What the files of the graph share: where everything lies, the pieces, and recording. Engine thread.
#ifndef HT_GRAPH_IMPL_H
#define HT_GRAPH_IMPL_H
#include "engine/learn/graph.h"

// ---------------------------------------------------------------- adapter

enum ht_graph_input { // of a layer's linears: those that read the same x
    HT_INPUT_QKV,
    HT_INPUT_OUTPUT,
    HT_INPUT_GATE_UP,
    HT_INPUT_DOWN,
    HT_N_INPUTS
};

struct ht_graph_target { // y += scale * u Bᵀ, u = x Aᵀ
    uint32_t place;      // of its y among those of the input: q k v, gate up
    uint32_t n, rank, column; // column: its first one in u
    uint32_t stream;          // of its dropout
    float scale;
    struct ht_ref a, b, da, db;
};

struct ht_graph_group { // the targets of one input; their A's are one matrix
    uint32_t n_targets, k, rank; // rank: of all
    struct ht_ref a, da;         // (rank, k)
    struct ht_graph_target target[3];
};

// ---------------------------------------------------------------- memory

// What the way back needs of a layer. With checkpointing all layers share one. Strides are widths.
struct ht_graph_kept {
    struct ht_ref q, k, v, a, lse; // q, k after rope; with head norms what goes into them; a: attention's output
    struct ht_ref x1, gate, up;    // x1: the residual stream after attention
    struct ht_ref o, down;         // what goes into the post-norms, if there are any
    struct ht_ref u[HT_N_INPUTS];  // (rows, rank of the group)
};

struct ht_graph_layer {
    struct ht_graph_group group[HT_N_INPUTS];
    struct ht_graph_kept kept;
    struct ht_ref x; // its input
};

struct ht_graph_range { // values [at, at + n), which learn at one rate
    size_t at, code, scale; // code, scale: the first ones of moments of bytes
    uint32_t n;
    float lr_factor;
};

struct ht_piece { // one submit
    struct ht_plan *plan;
    uint32_t out_from, n_outs; // rows of the tile it works on; n_outs 0: all of them
};
struct ht_pieces {
    struct ht_piece *list;
    uint32_t n, capacity;
};

struct ht_graph {
    const struct ht_model *model;
    const struct ht_train_ops *train;
    struct ht_graph_params p;
    uint32_t outs;       // rows of a tile of the head
    uint32_t lowest;     // layer that has a target and none below has; UINT32_MAX: the head alone has one
    struct ht_graph_layer *layers;
    struct ht_graph_group head_group; // at most one target
    size_t n_values;
    uint32_t attend_kv;  // kv heads of one attention op
    uint32_t lse_floats; // log-sum-exps of a kv head's queries
    uint32_t logits_stride;

    struct ht_graph_range *ranges;
    size_t n_ranges, n_codes, n_scales;   // the last two: moments of bytes
    struct ht_buf *flat;                  // values, both moments, gradients, a sum
    struct ht_ref vector[4], sum;         // of moments of bytes no vector, but
    struct ht_ref codes[2], scales;       // these (struct ht_adamw8)
    size_t state_floats;                  // of values and moments
    struct ht_buf *work;
    struct ht_ref last;                   // the residual stream behind the last layer
    struct ht_ref n, dx, dn, d, t, xd;    // normed; gradients; of what a post-norm gives; of u; a dropped x
    struct ht_ref h, dh;                  // FFN: lie where attention has the following
    struct ht_ref q, k, da, dq, dk, dv;
    struct ht_ref chosen, final, logits, loss, head_u; // head; head_u: (outs, rank), scaled

    struct ht_pieces forward, forward_drawn; // the second with dropout and noise, if there are any
    struct ht_pieces head, head_drawn; // the second where the head's own LoRA has dropout
    struct ht_pieces backward, update, norm;
    uint32_t n_head_loss; // pieces of `head` up to the loss

    struct ht_step step;
    struct ht_train_step block;
    void *step_memory, *block_memory;
    int32_t *out_rows; // of the batch
    uint32_t n_out_rows;
    float *losses;
    uint64_t bytes;

    enum ht_graph_state { HT_GRAPH_IDLE = 0, HT_GRAPH_PASSING, HT_GRAPH_UPDATING } state;
    enum ht_graph_pass pass;
    uint32_t at, n_pieces;
    uint32_t n_touch, rows_touched; // pieces of this pass, and rows of logits, that have taken their memory
};

// graph_layout.c: where everything lies. work_floats: what `work` has to hold.
void ht_graph_carve(struct ht_graph *g, struct ht_buf *work, uint64_t *work_floats);
HT_MUST_USE enum hearth_status ht_graph_bind(struct ht_graph *g, const struct hearth_adapter *adapter,
                                             struct hearth_error *err);

// ---------------------------------------------------------------- recording (graph_record.c)

// Ops are recorded one after the other; a new piece begins where the next op would make it too long.
struct ht_recorder {
    struct ht_graph *g;
    struct ht_pieces *to;
    struct ht_plan *plan; // of the piece that is being recorded; NULL = none
    double us;            // that it is thought to take
    uint32_t out_from, n_outs; // of the pieces to come
    bool draws;                // dropout and noise
    const struct ht_ops *ops;
    const struct ht_train_ops *train;
    struct hearth_error *err;
};
struct ht_recorder ht_record_to(struct ht_graph *g, struct ht_pieces *pieces, struct hearth_error *err);
// The op that follows is thought to take `us`: rec->plan is then where it goes.
HT_MUST_USE enum hearth_status ht_record_op(struct ht_recorder *rec, double us);
HT_MUST_USE enum hearth_status ht_record_end(struct ht_recorder *rec); // of the piece

// Microseconds on two cores of a server; only the cutting depends on it, no value does.
double ht_cost_values(double n); // of a row op over n values
// Of attention. Where q and k are normed for each head their scores are large, and bf16 in them alone takes the norm of
// Gemma's gradient off by up to 1.7 % (f32: 0.7 %; 2,048 tokens): those stay in f32.
enum ht_train_precision ht_attend_precision(const struct ht_graph *g);
double ht_cost_attend(const struct ht_graph *g, uint32_t heads, bool back);
// Of n things at us_per_one: how many one piece takes, a multiple of `whole` and at least that, or n.
uint32_t ht_record_at_most(const struct ht_graph *g, double us_per_one, uint32_t n, uint32_t whole);

HT_MUST_USE enum hearth_status ht_record_copy(struct ht_recorder *rec, struct ht_ref from, struct ht_ref to,
                                              uint32_t dim);
// y = [y +] norm(x); dx = [dx +] its gradient.                              x, y, dy, dx (rows, groups, dim)
HT_MUST_USE enum hearth_status ht_record_norm(struct ht_recorder *rec, struct ht_ref x, struct ht_ref y,
                                              struct ht_ref w, uint32_t groups, uint32_t dim, bool add,
                                              enum ht_rows rows);
HT_MUST_USE enum hearth_status ht_record_norm_back(struct ht_recorder *rec, struct ht_ref x, struct ht_ref w,
                                                   struct ht_ref dy, struct ht_ref dx, uint32_t groups, uint32_t dim,
                                                   bool add, enum ht_rows rows);
// Frozen products. n: outputs of each part.
struct ht_graph_part {
    struct ht_weight *w;
    struct ht_ref y, bias;
    uint32_t n, stride; // stride of y; 0 = n
};
HT_MUST_USE enum hearth_status ht_record_linear(struct ht_recorder *rec, struct ht_ref x, uint32_t k,
                                                const struct ht_graph_part *parts, uint32_t n_parts, bool add,
                                                enum ht_rows rows);
HT_MUST_USE enum hearth_status ht_record_linear_t(struct ht_recorder *rec, struct ht_ref dx, uint32_t k,
                                                  const struct ht_graph_part *parts, uint32_t n_parts, bool add,
                                                  enum ht_rows rows);

// graph_lora.c: u = x Aᵀ; y += u Bᵀ of each target; and back. parts: as of the frozen product beside it.
HT_MUST_USE enum hearth_status ht_record_lora_inner(struct ht_recorder *rec, const struct ht_graph_group *group,
                                                    struct ht_ref x, struct ht_ref u);
HT_MUST_USE enum hearth_status ht_record_lora_outer(struct ht_recorder *rec, const struct ht_graph_group *group,
                                                    struct ht_ref u, const struct ht_graph_part *parts);
// Adds to dA, dB and, unless dx is none, to dx. parts' y: the gradients of the outputs.
HT_MUST_USE enum hearth_status ht_record_lora_back(struct ht_recorder *rec, const struct ht_graph_group *group,
                                                   struct ht_ref x, struct ht_ref u,
                                                   const struct ht_graph_part *parts, const struct ht_ref *dx);

// Of the head, for a tile: behind the frozen product's logits; from their gradient, dA and dB; behind its dx.
HT_MUST_USE enum hearth_status ht_record_head_lora(struct ht_recorder *rec);
HT_MUST_USE enum hearth_status ht_record_head_lora_back(struct ht_recorder *rec);
HT_MUST_USE enum hearth_status ht_record_head_lora_dx(struct ht_recorder *rec, struct ht_ref dx);

// graph_update.c. Ranges come before what is carved of them.
HT_MUST_USE enum hearth_status ht_graph_ranges(struct ht_graph *g, const struct hearth_adapter *adapter,
                                               struct hearth_error *err);
HT_MUST_USE enum hearth_status ht_record_update(struct ht_graph *g, struct hearth_error *err);
HT_MUST_USE enum hearth_status ht_record_fill(struct ht_recorder *rec, struct ht_ref x, uint32_t n); // with 0

// graph_layer.c, graph_head.c
HT_MUST_USE enum hearth_status ht_record_forward(struct ht_recorder *rec);
HT_MUST_USE enum hearth_status ht_record_backward(struct ht_recorder *rec);
HT_MUST_USE enum hearth_status ht_record_head(struct ht_recorder *rec);

#endif
