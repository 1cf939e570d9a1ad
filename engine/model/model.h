// SPDX-License-Identifier: Apache-2.0
// A model in a device's memory: hyper-parameters, packed weights, small vectors. Read-only once loaded.
// Loaded by one thread, then read by the engine thread.
#ifndef HT_MODEL_H
#define HT_MODEL_H
#include "engine/gguf/gguf.h"
#include "engine/model/arch.h"
#include "engine/ops/backend.h"

struct ht_hparams {
    const struct ht_arch *arch;
    unsigned features; // enum ht_feature that this file has
    uint32_t n_layers, n_embd, n_ff, n_vocab, n_heads, n_kv_heads, k_dim, v_dim, n_rot, n_ctx_train;
    float norm_eps, embd_scale, attn_scale, final_softcap;
    float rope_base, rope_base_local, rope_divisor; // divisor: linear position scaling of the global layers
    uint32_t window;                                // 0 = none
    uint64_t local_layers[HT_MAX_LAYERS / 64];      // a bit for each layer that sees only the window
};

// True if layer sees only the window (and turns with the local base).
static inline bool ht_layer_is_local(const struct ht_hparams *hp, uint32_t layer)
{
    return hp->local_layers[layer / 64] >> layer % 64 & 1;
}
uint32_t ht_dim_size(const struct ht_hparams *hp, enum ht_dim dim);

// Reads and checks the hyper-parameters; every key "<arch>.*" that is not understood is refused by name.
HT_MUST_USE enum hearth_status ht_hparams_read(struct ht_hparams *hp, struct ht_gguf *gguf,
                                               struct hearth_error *err);

struct ht_layer {
    struct ht_weight *matrix[HT_N_MATRICES];
    struct ht_ref vector[HT_N_VECTORS]; // buf NULL = the family has none
};

struct ht_model {
    struct ht_hparams hp;
    const struct ht_device_ops *dev;
    struct ht_device *device;
    struct ht_weight *token_embd, *output; // output == token_embd when tied
    struct ht_layer *layers;               // [n_layers]
    struct ht_buf *vectors;                // norms, biases, rope frequencies
    struct ht_ref output_norm, rope_freq, rope_freq_local;
    uint64_t weight_bytes, n_params;
    uint64_t file_bytes, longest_vector; // of its tensors in the file
};

// Checks every tensor against the family and makes room for the weights, which is not used yet: what the model takes is
// known before the first byte of it is read. A tensor that is not understood is refused.
HT_MUST_USE enum hearth_status ht_model_create(struct ht_model *model, const struct ht_hparams *hp,
                                               struct ht_gguf *gguf, const struct ht_device_ops *dev,
                                               struct ht_device *device, struct hearth_error *err);
// Reads and packs them. From `packed` (NULL = none) they come as they are there; the first failure of that is told in
// *packed_err, and the rest is packed. progress may be NULL; it returns false to cancel.
struct ht_packed;
HT_MUST_USE enum hearth_status ht_model_read(struct ht_model *model, struct ht_gguf *gguf, struct ht_packed *packed,
                                             struct hearth_error *packed_err,
                                             bool (*progress)(void *user, double done), void *user,
                                             struct hearth_error *err);
void ht_model_unload(struct ht_model *model); // a zeroed or half-loaded model too

#endif
