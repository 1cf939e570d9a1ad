// SPDX-License-Identifier: Apache-2.0
// An adapter in memory and what its files share. y (n) = W x + scale · B (A x), A (rank, k), B (n, rank), f32.
// All values lie in one buffer, row-major, layer by layer: the A's of linears that read the same x stand behind each
// other as one matrix, then their B's: [A_q A_k A_v][B_q][B_k][B_v][A_output][B_output][A_gate A_up][B_gate][B_up]
// [A_down][B_down], the head last. Each bracket begins at a multiple of 16 values; what is between them is 0. Rows of B
// are in the base GGUF's order, or in PEFT's while `peft_rows` (a folder whose base is not known yet).
// One thread at a time. Engine thread or a command's main thread.
#ifndef HT_ADAPTER_H
#define HT_ADAPTER_H
#include "engine/base/error.h"
#include "engine/learn.h"
#include "engine/model/model.h"

enum {
    HT_ADAPTER_OUTPUT = HT_N_MATRICES, // the head; tied to the embeddings it is of the logits alone
    HT_ADAPTER_LINEARS,
    HT_ADAPTER_QKV = HT_ADAPTER_LINEARS, // fused ones, in files that are not bound yet: B's rows of q, k, v behind each
    HT_ADAPTER_GATE_UP,                  // other, of gate and up
    HT_ADAPTER_NAMES,
    HT_ADAPTER_NAME_BYTES = 256,
    HT_ADAPTER_LINEAGE_MAX = 64, // pairs
};

struct ht_adapter_target {
    uint32_t layer;  // 0 for the head
    uint32_t linear; // enum ht_matrix, HT_ADAPTER_OUTPUT, or a fused one
    uint32_t n, k, rank;
    float alpha;
    size_t a_at, b_at; // first value in `values`
};

struct ht_adapter_lineage { // a GGUF key that says where the adapter comes from; kept as it is
    char *key, *value;
};

struct hearth_adapter {
    struct ht_adapter_target *targets;
    size_t n_targets;
    float *values; // ht_alloc_big
    size_t n_values; // with what is between the matrices
    bool rslora; // scale = alpha / sqrt(rank), not alpha / rank
    bool peft_rows;
    float dropout;
    uint32_t n_layers, n_heads, n_kv_heads; // of the base; 0 = not known
    const char *format;
    char shown[128]; // the path, for messages
    char architecture[32], base_sha256[65];
    char name[HT_ADAPTER_NAME_BYTES], base_name[HT_ADAPTER_NAME_BYTES];
    struct ht_adapter_lineage lineage[HT_ADAPTER_LINEAGE_MAX];
    size_t n_lineage;
};

// The linears of a model that a target stands for, with their rows of B: itself, or those of a fused one. INVALID where
// the model has no such linear, or one of another shape, or where one of a fused one stands there on its own, too.
struct ht_adapter_part {
    uint32_t linear, first, n;
};
enum { HT_ADAPTER_MAX_PARTS = 3 };
HT_MUST_USE enum hearth_status ht_adapter_parts(const struct hearth_adapter *adapter,
                                                const struct ht_adapter_target *target, const struct ht_hparams *hp,
                                                struct ht_adapter_part parts[HT_ADAPTER_MAX_PARTS], size_t *n_parts,
                                                struct hearth_error *err);
bool ht_adapter_fused(const struct hearth_adapter *adapter);
// Each fused linear becomes those of the model, with an A of their own.
HT_MUST_USE enum hearth_status ht_adapter_unfuse(struct hearth_adapter *adapter, const struct ht_hparams *hp,
                                                 struct hearth_error *err);
// A target of a plain linear against the model, by name and shape.
HT_MUST_USE enum hearth_status ht_adapter_fits(const struct hearth_adapter *adapter,
                                               const struct ht_adapter_target *target, const struct ht_hparams *hp,
                                               struct hearth_error *err);

bool ht_adapter_same_input(const struct ht_adapter_target *a, const struct ht_adapter_target *b);
float ht_adapter_scale(const struct hearth_adapter *adapter, const struct ht_adapter_target *target);
const char *ht_adapter_linear_gguf(uint32_t linear); // "attn_q"
const char *ht_adapter_linear_peft(uint32_t linear); // "self_attn.q_proj"
void ht_adapter_tensor_name(const struct ht_adapter_target *target, char name[64]); // "blk.0.attn_q.weight"
// True for q and k of a family whose GGUF rows are turned (llama): `n_heads` of that linear then.
bool ht_adapter_turned(const struct hearth_adapter *adapter, uint32_t linear, uint32_t *n_heads);

// A new adapter for every layer's linears in `linears` (bit 1 << enum ht_matrix) and, with 1 << HT_ADAPTER_OUTPUT, the
// head; values zero.
struct ht_adapter_spec {
    unsigned linears;
    uint32_t rank;
    float alpha, dropout;
    bool rslora;
};
HT_MUST_USE enum hearth_status ht_adapter_create(struct hearth_adapter **adapter, const struct ht_hparams *hp,
                                                 const struct ht_adapter_spec *spec, struct hearth_error *err);
// PEFT's: B = 0 and A ~ U(±1/sqrt(k)), or N(0, 1/rank) with `gaussian`. Of the seed, layer and linear alone.
void ht_adapter_init(struct hearth_adapter *adapter, uint64_t seed, bool gaussian);
// The same of values [from, from + n) alone, which are 0 so far.
void ht_adapter_init_part(struct hearth_adapter *adapter, uint64_t seed, bool gaussian, size_t from, size_t n);

// ---- for the readers: an empty adapter; targets in any order, then sorted; room for their values
HT_MUST_USE enum hearth_status ht_adapter_new(struct hearth_adapter **adapter, const char *path, const char *format,
                                              struct hearth_error *err);
// Sorts, refuses doubles, checks ranks, shapes and alphas, lays out and allocates the values.
HT_MUST_USE enum hearth_status ht_adapter_lay_out(struct hearth_adapter *adapter, struct hearth_error *err);
// NULL if absent.
struct ht_adapter_target *ht_adapter_find(const struct hearth_adapter *adapter, uint32_t layer, uint32_t linear);
// Values are numbers, not infinities.
HT_MUST_USE enum hearth_status ht_adapter_check_values(const struct hearth_adapter *adapter,
                                                       struct hearth_error *err);
bool ht_adapter_lineage_known(const char *key); // whether a string key of a file is lineage
HT_MUST_USE enum hearth_status ht_adapter_lineage_add(struct hearth_adapter *adapter, const char *key,
                                                      const char *value, struct hearth_error *err);
bool ht_adapter_hex64(const char *text);
// Copies as much of a UTF-8 text as fits, whole characters only.
void ht_adapter_text(char *to, size_t size_bytes, const char *from);
// A layer's number, decimal without leading zeros, below HT_MAX_LAYERS, and `after` behind it: the text that follows,
// or NULL.
const char *ht_adapter_layer_number(const char *text, const char *after, uint32_t *layer);
// INVALID unless it is known which model the adapter is for.
HT_MUST_USE enum hearth_status ht_adapter_writable(const struct hearth_adapter *adapter, struct hearth_error *err);

// Checks identity, architecture and shapes against the base's header; turns PEFT's rows; records the base.
HT_MUST_USE enum hearth_status ht_adapter_bind(struct hearth_adapter *adapter, const struct hearth_adapter_base *base,
                                               struct hearth_error *err);
// The same without a file, by what the adapter itself tells of its base.
HT_MUST_USE enum hearth_status ht_adapter_turn(struct hearth_adapter *adapter, struct hearth_error *err);
// B (n, rank) -> out, rows from PEFT's order to GGUF's, or back.
void ht_adapter_turn_rows(const float *b, uint32_t n, uint32_t rank, uint32_t n_heads, bool to_gguf, float *out);

HT_MUST_USE enum hearth_status ht_adapter_read_gguf(struct hearth_adapter **adapter, const char *path,
                                                    struct hearth_error *err);
HT_MUST_USE enum hearth_status ht_adapter_read_peft(struct hearth_adapter **adapter, const char *folder,
                                                    struct hearth_error *err);

#endif
