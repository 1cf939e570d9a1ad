// SPDX-License-Identifier: Apache-2.0
// The families. Facts per family: docs/models.md. Constants; any thread.
#include "engine/model/arch.h"

#include <string.h>

#define MATRIX(suffix, slot, n, k)                                                                           \
    {                                                                                                        \
        suffix ".weight", 1, slot, n, k, 0                                                                   \
    }
#define VECTOR(suffix, slot, k, feature)                                                                     \
    {                                                                                                        \
        suffix, 0, slot, HT_DIM_NONE, k, feature                                                             \
    }

const struct ht_tensor_spec ht_layer_tensors[] = {
    VECTOR("attn_norm.weight", HT_ATTN_NORM, HT_DIM_EMBD, 0),
    MATRIX("attn_q", HT_ATTN_Q, HT_DIM_Q, HT_DIM_EMBD),
    MATRIX("attn_k", HT_ATTN_K, HT_DIM_K, HT_DIM_EMBD),
    MATRIX("attn_v", HT_ATTN_V, HT_DIM_V, HT_DIM_EMBD),
    VECTOR("attn_q.bias", HT_Q_BIAS, HT_DIM_Q, HT_FEATURE_QKV_BIAS),
    VECTOR("attn_k.bias", HT_K_BIAS, HT_DIM_K, HT_FEATURE_QKV_BIAS),
    VECTOR("attn_v.bias", HT_V_BIAS, HT_DIM_V, HT_FEATURE_QKV_BIAS),
    VECTOR("attn_q_norm.weight", HT_Q_NORM, HT_DIM_HEAD, HT_FEATURE_QK_NORM),
    VECTOR("attn_k_norm.weight", HT_K_NORM, HT_DIM_HEAD, HT_FEATURE_QK_NORM),
    MATRIX("attn_output", HT_ATTN_OUTPUT, HT_DIM_EMBD, HT_DIM_O),
    VECTOR("post_attention_norm.weight", HT_POST_ATTN_NORM, HT_DIM_EMBD, HT_FEATURE_POST_NORM),
    VECTOR("ffn_norm.weight", HT_FFN_NORM, HT_DIM_EMBD, 0),
    MATRIX("ffn_gate", HT_FFN_GATE, HT_DIM_FF, HT_DIM_EMBD),
    MATRIX("ffn_up", HT_FFN_UP, HT_DIM_FF, HT_DIM_EMBD),
    MATRIX("ffn_down", HT_FFN_DOWN, HT_DIM_EMBD, HT_DIM_FF),
    VECTOR("post_ffw_norm.weight", HT_POST_FFN_NORM, HT_DIM_EMBD, HT_FEATURE_POST_NORM),
};
const unsigned ht_n_layer_tensors = sizeof ht_layer_tensors / sizeof ht_layer_tensors[0];

static const char *const no_keys[] = {NULL};
static const char *const gemma3_keys[] = {"attention.sliding_window", "attention.sliding_window_pattern",
                                          "rope.freq_base_swa", "final_logit_softcapping", NULL};

static const struct ht_arch families[] = {
    {
        .name = "llama",
        .rope = HT_ROPE_NORM,
        .act = HT_ACT_SILU,
        .optional = HT_FEATURE_QKV_BIAS | HT_FEATURE_ROPE_FREQS | HT_FEATURE_OWN_OUTPUT,
        .rope_base = 10000,
        .keys = no_keys,
    },
    {
        .name = "qwen2",
        .rope = HT_ROPE_NEOX,
        .act = HT_ACT_SILU,
        .required = HT_FEATURE_QKV_BIAS,
        .optional = HT_FEATURE_OWN_OUTPUT,
        .rope_base = 10000,
        .keys = no_keys,
    },
    {
        .name = "qwen3",
        .rope = HT_ROPE_NEOX,
        .act = HT_ACT_SILU,
        .required = HT_FEATURE_QK_NORM,
        .optional = HT_FEATURE_OWN_OUTPUT,
        .rope_base = 10000,
        .keys = no_keys,
    },
    {
        .name = "gemma3",
        .rope = HT_ROPE_NEOX,
        .act = HT_ACT_GELU_TANH,
        .required = HT_FEATURE_QK_NORM | HT_FEATURE_POST_NORM,
        .optional = HT_FEATURE_OWN_OUTPUT,
        .embd_scale = true,
        .window_period = 6,
        .rope_base = 1000000,
        .rope_base_local = 10000,
        .wide_scale_layers = 62,
        .keys = gemma3_keys,
    },
};
enum { N_FAMILIES = sizeof families / sizeof families[0] };

const struct ht_arch *ht_arch_find(const char *name)
{
    for (int i = 0; i < N_FAMILIES; i++)
        if (!strcmp(families[i].name, name))
            return &families[i];
    return NULL;
}

const char *ht_arch_names(void)
{
    return "gemma3, llama, qwen2, qwen3";
}
