// SPDX-License-Identifier: Apache-2.0
// Model families as data: which tensors a layer has, which features the one decoder switches on.
// A new family that fits the decoder is a new row in arch.c; nothing else changes. Constants; any thread.
#ifndef HT_ARCH_H
#define HT_ARCH_H
#include <stdbool.h>
#include <stdint.h>

#include "engine/ops/ops.h"

// What a family may have beyond the plain pre-norm decoder. Required and optional features of a family are
// masks of these; a tensor whose feature the family lacks is not understood and is refused by name.
enum ht_feature {
    HT_FEATURE_QKV_BIAS = 1,    // q, k and v have biases
    HT_FEATURE_QK_NORM = 2,     // RMS norm of each head of q and k before RoPE
    HT_FEATURE_POST_NORM = 4,   // RMS norm of the attention and FFN outputs before they are added
    HT_FEATURE_ROPE_FREQS = 8,  // tensor rope_freqs: a divisor per frequency (Llama 3.1)
    HT_FEATURE_OWN_OUTPUT = 16, // output.weight; without it the head is tied to token_embd
};

// Sizes by name, resolved against the hyper-parameters.
enum ht_dim {
    HT_DIM_NONE,
    HT_DIM_EMBD,
    HT_DIM_VOCAB,
    HT_DIM_FF,
    HT_DIM_Q,
    HT_DIM_K,
    HT_DIM_V,
    HT_DIM_O,
    HT_DIM_HEAD,
    HT_DIM_HALF_ROT
};

// The weights of one layer that the decoder multiplies by, and the vectors it uses.
enum ht_matrix {
    HT_ATTN_Q,
    HT_ATTN_K,
    HT_ATTN_V,
    HT_ATTN_OUTPUT,
    HT_FFN_GATE,
    HT_FFN_UP,
    HT_FFN_DOWN,
    HT_N_MATRICES
};
enum ht_vector {
    HT_ATTN_NORM,
    HT_Q_BIAS,
    HT_K_BIAS,
    HT_V_BIAS,
    HT_Q_NORM,
    HT_K_NORM,
    HT_POST_ATTN_NORM,
    HT_FFN_NORM,
    HT_POST_FFN_NORM,
    HT_N_VECTORS
};

struct ht_tensor_spec {
    const char *suffix; // after "blk.N."
    uint8_t is_matrix, slot;
    enum ht_dim n, k; // matrix (n, k); vector: n = HT_DIM_NONE, k values
    unsigned feature; // 0 = every family
};
extern const struct ht_tensor_spec ht_layer_tensors[];
extern const unsigned ht_n_layer_tensors;

struct ht_arch {
    const char *name; // general.architecture
    enum ht_rope_kind rope;
    enum ht_act act;
    unsigned required, optional; // features
    bool embd_scale;             // embeddings times sqrt(n_embd)
    unsigned window_period; // every window_period-th layer sees everything, the others the window
    float rope_base, rope_base_local; // all three when the file does not say
    unsigned wide_scale_layers; // a model of this many layers scales q by sqrt(n_embd / n_heads), not by its
                                // head size
    const char *const *keys;    // hyper-parameters of this family beside the common ones, NULL-terminated
};
// NULL if the family is unknown.
const struct ht_arch *ht_arch_find(const char *name);
// "gemma3, llama, qwen2, qwen3": for messages.
const char *ht_arch_names(void);

#endif
