// SPDX-License-Identifier: Apache-2.0
// Hyper-parameters from the file's keys, each checked against its cap. What a family does not know it
// refuses. The loading thread.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/model/model.h"

struct reader {
    const struct ht_gguf *gguf;
    const char *arch;
    char key[96];
    struct hearth_error *err;
};

static const char *key_of(struct reader *r, const char *name)
{
    snprintf(r->key, sizeof r->key, "%s.%s", r->arch, name);
    return r->key;
}

// A whole number in [low, high]; `fallback` where the key is absent, which is an error if fallback < 0.
static enum hearth_status whole(struct reader *r, const char *name, uint32_t low, uint32_t high,
                                int64_t fallback, uint32_t *value)
{
    uint32_t v = 0;
    enum hearth_status status = ht_gguf_get_u32(r->gguf, key_of(r, name), &v, r->err);
    if (status == HEARTH_NOT_FOUND && fallback >= 0) {
        *value = (uint32_t)fallback;
        return HEARTH_OK;
    }
    if (status == HEARTH_NOT_FOUND)
        return ht_fail(r->err, HEARTH_FORMAT, "%s: key %s is missing", ht_gguf_shown(r->gguf), r->key);
    HT_TRY(status);
    if (v < low || v > high)
        return ht_fail(r->err, HEARTH_LIMIT, "%s: key %s is %u, not in [%u, %u]", ht_gguf_shown(r->gguf),
                       r->key, v, low, high);
    *value = v;
    return HEARTH_OK;
}

// As `whole`; some files spell it as one number per layer, which is fine while all are equal.
static enum hearth_status whole_per_layer(struct reader *r, const char *name, uint32_t low, uint32_t high,
                                          int64_t fallback, uint32_t *value)
{
    const struct ht_gguf_key *key = ht_gguf_find_key(r->gguf, key_of(r, name));
    if (!key || key->kind != HT_GGUF_ARRAY)
        return whole(r, name, low, high, fallback, value);
    struct ht_gguf_array array;
    HT_TRY(ht_gguf_get_array(r->gguf, r->key, HT_GGUF_I64, &array, r->err));
    int64_t first = array.count ? ht_gguf_array_i64(&array, 0) : 0;
    for (uint64_t i = 1; i < array.count; i++)
        if (ht_gguf_array_i64(&array, i) != first)
            return ht_fail(r->err, HEARTH_UNSUPPORTED, "%s: key %s differs from layer to layer",
                           ht_gguf_shown(r->gguf), r->key);
    if (first < low || first > high)
        return ht_fail(r->err, HEARTH_LIMIT, "%s: key %s is %lld, not in [%u, %u]", ht_gguf_shown(r->gguf),
                       r->key, (long long)first, low, high);
    *value = (uint32_t)first;
    return HEARTH_OK;
}

static enum hearth_status real(struct reader *r, const char *name, float low, float high, float fallback,
                               float *value)
{
    float v = fallback;
    HT_TRY(ht_gguf_optional(ht_gguf_get_f32(r->gguf, key_of(r, name), &v, r->err)));
    if (!(v >= low && v <= high))
        return ht_fail(r->err, HEARTH_LIMIT, "%s: key %s is %g, not in [%g, %g]", ht_gguf_shown(r->gguf),
                       r->key, (double)v, (double)low, (double)high);
    *value = v;
    return HEARTH_OK;
}

static bool family_key(const struct ht_arch *arch, const char *name)
{
    for (const char *const *key = arch->keys; *key; key++)
        if (!strcmp(*key, name))
            return true;
    return false;
}

static enum hearth_status read_sizes(struct reader *r, struct ht_hparams *hp)
{
    HT_TRY(whole(r, "block_count", 1, HT_MAX_LAYERS, -1, &hp->n_layers));
    HT_TRY(whole(r, "embedding_length", 1, HT_MAX_EMBD, -1, &hp->n_embd));
    HT_TRY(whole_per_layer(r, "feed_forward_length", 1, HT_MAX_FF, -1, &hp->n_ff));
    HT_TRY(whole(r, "context_length", 1, HT_MAX_CTX, -1, &hp->n_ctx_train));
    HT_TRY(whole_per_layer(r, "attention.head_count", 1, HT_MAX_HEADS, -1, &hp->n_heads));
    HT_TRY(whole_per_layer(r, "attention.head_count_kv", 1, HT_MAX_HEADS, hp->n_heads, &hp->n_kv_heads));
    if (hp->n_heads % hp->n_kv_heads)
        return ht_fail(r->err, HEARTH_FORMAT, "%s: %u heads are no multiple of %u kv heads",
                       ht_gguf_shown(r->gguf), hp->n_heads, hp->n_kv_heads);
    uint32_t head = hp->n_embd / hp->n_heads;
    HT_TRY(whole(r, "attention.key_length", 1, HT_MAX_HEAD_DIM, head, &hp->k_dim));
    HT_TRY(whole(r, "attention.value_length", 1, HT_MAX_HEAD_DIM, head, &hp->v_dim));
    HT_TRY(whole(r, "rope.dimension_count", 2, hp->k_dim, hp->k_dim, &hp->n_rot));
    if (hp->k_dim == 0 || hp->k_dim > HT_MAX_HEAD_DIM || hp->v_dim == 0 || hp->v_dim > HT_MAX_HEAD_DIM)
        return ht_fail(r->err, HEARTH_LIMIT, "%s: heads of %u and %u values, 1 to %d are allowed",
                       ht_gguf_shown(r->gguf), hp->k_dim, hp->v_dim, HT_MAX_HEAD_DIM);
    if (hp->n_rot % 2)
        return ht_fail(r->err, HEARTH_FORMAT, "%s: key %s.rope.dimension_count is odd",
                       ht_gguf_shown(r->gguf), r->arch);
    return HEARTH_OK;
}

static enum hearth_status read_rope(struct reader *r, struct ht_hparams *hp)
{
    const char *scaling = "none";
    HT_TRY(real(r, "rope.freq_base", 1, 1e12f, hp->arch->rope_base, &hp->rope_base));
    HT_TRY(
        ht_gguf_optional(ht_gguf_get_str(r->gguf, key_of(r, "rope.scaling.type"), &scaling, NULL, r->err)));
    float factor = 1;
    HT_TRY(real(r, "rope.scaling.factor", 1e-3f, 1e6f, 1, &factor));
    HT_TRY(real(r, "rope.scale_linear", 1e-3f, 1e6f, factor, &factor));
    hp->rope_divisor = 1;
    if (!strcmp(scaling, "linear"))
        hp->rope_divisor = factor;
    else if (strcmp(scaling, "none"))
        return ht_fail(r->err, HEARTH_UNSUPPORTED,
                       "%s: RoPE scaling \"%.32s\" is not supported (none, linear)", ht_gguf_shown(r->gguf),
                       scaling);
    return HEARTH_OK;
}

static void set_local(struct ht_hparams *hp, uint32_t layer, bool local)
{
    hp->local_layers[layer / 64] |= (uint64_t)local << layer % 64;
}

// Which layers see only the window: a bool for each (some writers spell it 0 or 1), or how many follow each other up to
// one that sees everything.
static enum hearth_status read_pattern(struct reader *r, struct ht_hparams *hp)
{
    static const char name[] = "attention.sliding_window_pattern";
    const struct ht_gguf_key *key = ht_gguf_find_key(r->gguf, key_of(r, name));
    uint32_t period = 0;
    if (!key || key->kind != HT_GGUF_ARRAY) {
        HT_TRY(whole(r, name, 1, HT_MAX_LAYERS, hp->arch->window_period, &period));
        for (uint32_t i = 0; i < hp->n_layers; i++)
            set_local(hp, i, i % period < period - 1);
        return HEARTH_OK;
    }
    bool numbers = key->array.kind == HT_GGUF_U32 || key->array.kind == HT_GGUF_I32;
    struct ht_gguf_array array;
    HT_TRY(ht_gguf_get_array(r->gguf, r->key, numbers ? HT_GGUF_I64 : HT_GGUF_BOOL, &array, r->err));
    if (array.count != hp->n_layers)
        return ht_fail(r->err, HEARTH_FORMAT, "%s: key %s has %llu values, the model %u layers",
                       ht_gguf_shown(r->gguf), r->key, (unsigned long long)array.count, hp->n_layers);
    for (uint32_t i = 0; i < hp->n_layers; i++) {
        int64_t local = ht_gguf_array_i64(&array, i);
        if (local < 0 || local > 1)
            return ht_fail(r->err, HEARTH_FORMAT, "%s: key %s is %lld for layer %u, 0 and 1 are allowed",
                           ht_gguf_shown(r->gguf), r->key, (long long)local, i);
        set_local(hp, i, local);
    }
    return HEARTH_OK;
}

static enum hearth_status read_window(struct reader *r, struct ht_hparams *hp)
{
    if (!family_key(hp->arch, "attention.sliding_window"))
        return HEARTH_OK;
    HT_TRY(whole(r, "attention.sliding_window", 1, HT_MAX_CTX, -1, &hp->window));
    HT_TRY(read_pattern(r, hp));
    HT_TRY(real(r, "rope.freq_base_swa", 1, 1e12f, hp->arch->rope_base_local, &hp->rope_base_local));
    return real(r, "final_logit_softcapping", 0, 1e6f, 0, &hp->final_softcap);
}

// Known, and without consequence for the computation, or only allowed with the value that means "none".
static enum hearth_status read_rest(struct reader *r, struct ht_hparams *hp)
{
    uint32_t experts = 0;
    HT_TRY(whole(r, "expert_count", 0, 1u << 20, 0, &experts));
    if (experts)
        return ht_fail(r->err, HEARTH_UNSUPPORTED, "%s: mixtures of experts are not supported",
                       ht_gguf_shown(r->gguf));
    HT_TRY(whole(r, "expert_used_count", 0, 1u << 20, 0, &experts));
    uint32_t n_vocab = 0;
    HT_TRY(whole(r, "vocab_size", 1, HT_MAX_VOCAB, hp->n_vocab, &n_vocab));
    if (n_vocab != hp->n_vocab)
        return ht_fail(r->err, HEARTH_FORMAT, "%s: key %s.vocab_size is %u, token_embd.weight has %u rows",
                       ht_gguf_shown(r->gguf), r->arch, n_vocab, hp->n_vocab);
    bool causal = true;
    HT_TRY(ht_gguf_optional(ht_gguf_get_bool(r->gguf, key_of(r, "attention.causal"), &causal, r->err)));
    if (!causal)
        return ht_fail(r->err, HEARTH_UNSUPPORTED, "%s: attention that is not causal is not supported",
                       ht_gguf_shown(r->gguf));
    return HEARTH_OK;
}

// What the tensors say: the vocabulary and the optional features.
static enum hearth_status read_features(const struct ht_gguf *gguf, struct ht_hparams *hp,
                                        struct hearth_error *err)
{
    const struct ht_gguf_tensor *embd = ht_gguf_find_tensor(gguf, "token_embd.weight");
    if (!embd)
        return ht_fail(err, HEARTH_FORMAT, "%s: tensor token_embd.weight is missing", ht_gguf_shown(gguf));
    if (embd->ne[1] < 1 || embd->ne[1] > HT_MAX_VOCAB)
        return ht_fail(err, HEARTH_LIMIT, "%s: tensor token_embd.weight has %llu rows, 1 to %d are allowed",
                       ht_gguf_shown(gguf), (unsigned long long)embd->ne[1], HT_MAX_VOCAB);
    hp->n_vocab = (uint32_t)embd->ne[1];
    hp->features = hp->arch->required;
    static const struct {
        const char *tensor;
        unsigned feature;
    } marks[] = {
        {"output.weight", HT_FEATURE_OWN_OUTPUT},
        {"rope_freqs.weight", HT_FEATURE_ROPE_FREQS},
        {"blk.0.attn_q.bias", HT_FEATURE_QKV_BIAS},
    };
    for (size_t i = 0; i < sizeof marks / sizeof marks[0]; i++)
        if (hp->arch->optional & marks[i].feature && ht_gguf_find_tensor(gguf, marks[i].tensor))
            hp->features |= marks[i].feature;
    return HEARTH_OK;
}

enum hearth_status ht_hparams_read(struct ht_hparams *hp, struct ht_gguf *gguf, struct hearth_error *err)
{
    *hp = (struct ht_hparams){0};
    const char *arch = NULL, *type = "model";
    HT_TRY(ht_gguf_get_str(gguf, "general.architecture", &arch, NULL, err));
    HT_TRY(ht_gguf_optional(ht_gguf_get_str(gguf, "general.type", &type, NULL, err)));
    if (strcmp(type, "model"))
        return ht_fail(err, HEARTH_UNSUPPORTED, "%s is not a model but a file of type \"%.32s\"",
                       ht_gguf_shown(gguf), type);
    hp->arch = ht_arch_find(arch);
    if (!hp->arch)
        return ht_fail(err, HEARTH_UNSUPPORTED, "%s: architecture \"%.32s\" is not supported (%s)",
                       ht_gguf_shown(gguf), arch, ht_arch_names());
    struct reader r = {.gguf = gguf, .arch = hp->arch->name, .err = err};
    HT_TRY(read_features(gguf, hp, err));
    HT_TRY(read_sizes(&r, hp));
    HT_TRY(real(&r, "attention.layer_norm_rms_epsilon", 1e-12f, 1, -1, &hp->norm_eps));
    HT_TRY(read_rope(&r, hp));
    HT_TRY(read_window(&r, hp));
    HT_TRY(read_rest(&r, hp));
    hp->embd_scale = hp->arch->embd_scale ? sqrtf((float)hp->n_embd) : 1;
    bool wide = hp->arch->wide_scale_layers && hp->n_layers == hp->arch->wide_scale_layers;
    hp->attn_scale = 1 / sqrtf(wide ? (float)hp->n_embd / (float)hp->n_heads : (float)hp->k_dim);
    char prefix[64];
    snprintf(prefix, sizeof prefix, "%s.", hp->arch->name);
    return ht_gguf_refuse_unused_keys(gguf, prefix, err);
}

uint32_t ht_dim_size(const struct ht_hparams *hp, enum ht_dim dim)
{
    switch (dim) {
    case HT_DIM_EMBD: return hp->n_embd;
    case HT_DIM_VOCAB: return hp->n_vocab;
    case HT_DIM_FF: return hp->n_ff;
    case HT_DIM_Q: return hp->n_heads * hp->k_dim;
    case HT_DIM_K: return hp->n_kv_heads * hp->k_dim;
    case HT_DIM_V: return hp->n_kv_heads * hp->v_dim;
    case HT_DIM_O: return hp->n_heads * hp->v_dim;
    case HT_DIM_HEAD: return hp->k_dim;
    case HT_DIM_HALF_ROT: return hp->n_rot / 2;
    case HT_DIM_NONE: break;
    }
    return 1;
}
