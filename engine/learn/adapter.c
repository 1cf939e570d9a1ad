// SPDX-License-Identifier: Apache-2.0
// The adapter in memory: layout, names, initial values, what callers ask about it. One thread.
#include "engine/learn/adapter.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "engine/base/utf8.h"

static const struct {
    const char *gguf, *peft;
} linears[HT_ADAPTER_NAMES] = {
    [HT_ATTN_Q] = {"attn_q", "self_attn.q_proj"},
    [HT_ATTN_K] = {"attn_k", "self_attn.k_proj"},
    [HT_ATTN_V] = {"attn_v", "self_attn.v_proj"},
    [HT_ATTN_OUTPUT] = {"attn_output", "self_attn.o_proj"},
    [HT_FFN_GATE] = {"ffn_gate", "mlp.gate_proj"},
    [HT_FFN_UP] = {"ffn_up", "mlp.up_proj"},
    [HT_FFN_DOWN] = {"ffn_down", "mlp.down_proj"},
    [HT_ADAPTER_OUTPUT] = {"output", "lm_head"},
    [HT_ADAPTER_QKV] = {"attn_qkv", "self_attn.qkv_proj"},
    [HT_ADAPTER_GATE_UP] = {"ffn_gate_up", "mlp.gate_up_proj"}, // in GGUF it is an ffn_up of twice the rows
};

const char *ht_adapter_linear_gguf(uint32_t linear)
{
    return linears[linear].gguf;
}

const char *ht_adapter_linear_peft(uint32_t linear)
{
    return linears[linear].peft;
}

void ht_adapter_tensor_name(const struct ht_adapter_target *target, char name[64])
{
    if (target->linear == HT_ADAPTER_OUTPUT)
        snprintf(name, 64, "output.weight");
    else
        snprintf(name, 64, "blk.%u.%s.weight", target->layer, linears[target->linear].gguf);
}

float ht_adapter_scale(const struct hearth_adapter *adapter, const struct ht_adapter_target *target)
{
    float rank = (float)target->rank;
    return target->alpha / (adapter->rslora ? sqrtf(rank) : rank);
}

bool ht_adapter_turned(const struct hearth_adapter *adapter, uint32_t linear, uint32_t *n_heads)
{
    *n_heads = linear == HT_ATTN_Q ? adapter->n_heads : adapter->n_kv_heads;
    return !strcmp(adapter->architecture, "llama") && (linear == HT_ATTN_Q || linear == HT_ATTN_K);
}

// ---------------------------------------------------------------- making

enum hearth_status ht_adapter_new(struct hearth_adapter **adapter, const char *path, const char *format,
                                  struct hearth_error *err)
{
    *adapter = ht_calloc(1, sizeof **adapter);
    if (!*adapter)
        return ht_fail(err, HEARTH_NOMEM, "%s: out of memory", ht_shown_path(path));
    (*adapter)->format = format;
    ht_adapter_text((*adapter)->shown, sizeof (*adapter)->shown, ht_shown_path(path));
    return HEARTH_OK;
}

void hearth_adapter_close(struct hearth_adapter **adapter)
{
    struct hearth_adapter *a = *adapter;
    if (!a)
        return;
    for (size_t i = 0; i < a->n_lineage; i++) {
        ht_free(a->lineage[i].key);
        ht_free(a->lineage[i].value);
    }
    ht_free_big(a->values, a->n_values * sizeof *a->values);
    ht_free(a->targets);
    ht_free(a);
    *adapter = NULL;
}

// Layers first, the head last.
static uint64_t place(const struct ht_adapter_target *t)
{
    uint64_t layer = t->linear == HT_ADAPTER_OUTPUT ? UINT32_MAX : t->layer;
    return layer << 8 | t->linear;
}

struct ht_adapter_target *ht_adapter_find(const struct hearth_adapter *adapter, uint32_t layer, uint32_t linear)
{
    for (size_t i = 0; i < adapter->n_targets; i++)
        if (adapter->targets[i].linear == linear && adapter->targets[i].layer == layer)
            return &adapter->targets[i];
    return NULL;
}

// q, k and v of a layer read the same x, and so do gate and up.
bool ht_adapter_same_input(const struct ht_adapter_target *a, const struct ht_adapter_target *b)
{
    static const uint8_t input[HT_ADAPTER_NAMES] = {
        [HT_ATTN_Q] = 0,   [HT_ATTN_K] = 0,   [HT_ATTN_V] = 0,         [HT_ATTN_OUTPUT] = 1, [HT_FFN_GATE] = 2,
        [HT_FFN_UP] = 2,   [HT_FFN_DOWN] = 3, [HT_ADAPTER_OUTPUT] = 4, [HT_ADAPTER_QKV] = 5, [HT_ADAPTER_GATE_UP] = 6,
    };
    return a->layer == b->layer && input[a->linear] == input[b->linear] && a->k == b->k;
}

static void sort_targets(struct ht_adapter_target *targets, size_t n)
{
    for (size_t i = 1; i < n; i++) { // at most HT_MAX_LAYERS * HT_ADAPTER_NAMES, most often in order
        struct ht_adapter_target one = targets[i];
        size_t at = i;
        for (; at > 0 && place(&targets[at - 1]) > place(&one); at--)
            targets[at] = targets[at - 1];
        targets[at] = one;
    }
}

static enum hearth_status check_target(const struct hearth_adapter *adapter, const struct ht_adapter_target *t,
                                       struct hearth_error *err)
{
    char name[64];
    ht_adapter_tensor_name(t, name);
    if (t > adapter->targets && place(t) == place(t - 1))
        return ht_fail(err, HEARTH_FORMAT, "%s: %s stands there twice", adapter->shown, name);
    if (t->rank < 1 || t->rank > HT_MAX_ADAPTER_RANK)
        return ht_fail(err, HEARTH_LIMIT, "%s: %s has rank %u, 1 to %d are allowed", adapter->shown, name, t->rank,
                       HT_MAX_ADAPTER_RANK);
    if (t->k < 1 || t->n < 1 || t->k > HT_MAX_VOCAB || t->n > HT_MAX_VOCAB)
        return ht_fail(err, HEARTH_LIMIT, "%s: %s is %u x %u, 1 to %d are allowed", adapter->shown, name, t->n, t->k,
                       HT_MAX_VOCAB);
    if (!(t->alpha > 0 && t->alpha < 1e9f))
        return ht_fail(err, HEARTH_FORMAT, "%s: alpha of %s is %g, not above 0", adapter->shown, name,
                       (double)t->alpha);
    return HEARTH_OK;
}

// Room for n more values behind `total`, which begins on a border of 16 if `aligned`.
static bool place_values(size_t *total, size_t rows, size_t columns, bool aligned, size_t *at)
{
    size_t n;
    if (aligned && (!ht_add(*total, 15, total)))
        return false;
    *total -= aligned ? *total % 16 : 0;
    *at = *total;
    return ht_mul(rows, columns, &n) && ht_add(*total, n, total) && *total <= SIZE_MAX / 8;
}

enum hearth_status ht_adapter_lay_out(struct hearth_adapter *adapter, struct hearth_error *err)
{
    size_t total = 0, n_targets = adapter->n_targets, n;
    struct ht_adapter_target *targets = adapter->targets;
    if (!n_targets)
        return ht_fail(err, HEARTH_FORMAT, "%s: the adapter holds no linear", adapter->shown);
    sort_targets(targets, n_targets);
    for (size_t i = 0; i < n_targets; i++)
        HT_TRY(check_target(adapter, &targets[i], err));
    bool fits = true;
    for (size_t i = 0; i < n_targets; i += n) {
        for (n = 0; i + n < n_targets && ht_adapter_same_input(&targets[i], &targets[i + n]); n++)
            fits = fits && place_values(&total, targets[i + n].rank, targets[i + n].k, !n, &targets[i + n].a_at);
        for (size_t j = i; j < i + n; j++)
            fits = fits && place_values(&total, targets[j].n, targets[j].rank, true, &targets[j].b_at);
    }
    if (!fits)
        return ht_fail(err, HEARTH_LIMIT, "%s: the adapter is too large", adapter->shown);
    adapter->values = ht_alloc_big(total * sizeof *adapter->values);
    if (!adapter->values)
        return ht_fail(err, HEARTH_NOMEM, "%s: out of memory for %zu values", adapter->shown, total);
    adapter->n_values = total;
    return HEARTH_OK;
}

enum hearth_status ht_adapter_create(struct hearth_adapter **adapter, const struct ht_hparams *hp,
                                     const struct ht_adapter_spec *spec, struct hearth_error *err)
{
    HT_TRY(ht_adapter_new(adapter, "adapter", "memory", err));
    struct hearth_adapter *a = *adapter;
    enum hearth_status status = HEARTH_NOMEM;
    ht_adapter_text(a->architecture, sizeof a->architecture, hp->arch->name);
    a->n_layers = hp->n_layers;
    a->n_heads = hp->n_heads;
    a->n_kv_heads = hp->n_kv_heads;
    a->rslora = spec->rslora;
    a->dropout = spec->dropout;
    a->targets = ht_calloc((size_t)hp->n_layers * HT_N_MATRICES + 1, sizeof *a->targets);
    for (uint32_t layer = 0; a->targets && layer < hp->n_layers; layer++)
        for (unsigned i = 0; i < ht_n_layer_tensors; i++) {
            const struct ht_tensor_spec *tensor = &ht_layer_tensors[i];
            if (tensor->is_matrix && spec->linears >> tensor->slot & 1)
                a->targets[a->n_targets++] = (struct ht_adapter_target){.layer = layer,
                                                                        .linear = tensor->slot,
                                                                        .n = ht_dim_size(hp, tensor->n),
                                                                        .k = ht_dim_size(hp, tensor->k),
                                                                        .rank = spec->rank,
                                                                        .alpha = spec->alpha};
        }
    if (a->targets && spec->linears >> HT_ADAPTER_OUTPUT & 1)
        a->targets[a->n_targets++] = (struct ht_adapter_target){.linear = HT_ADAPTER_OUTPUT,
                                                                .n = hp->n_vocab,
                                                                .k = hp->n_embd,
                                                                .rank = spec->rank,
                                                                .alpha = spec->alpha};
    if (a->targets)
        status = ht_adapter_lay_out(a, err);
    else
        ht_fail(err, HEARTH_NOMEM, "out of memory for an adapter");
    if (status != HEARTH_OK)
        hearth_adapter_close(adapter);
    return status;
}

// A standard normal value from two draws; libm's log and cos, so the last bit is the machine's.
static float normal(uint32_t a, uint32_t b)
{
    double u = 1 - (double)ht_unit_f32(a), v = (double)ht_unit_f32(b); // u in (0, 1]
    return (float)(sqrt(-2 * log(u)) * cos(6.283185307179586 * v));
}

// Values [from, to) of a target's A.
static void draw_values(const struct ht_adapter_target *t, float *a, size_t from, size_t to, uint64_t seed,
                        bool gaussian)
{
    uint64_t stream = UINT64_C(0x41) << 56 | (uint64_t)t->layer << 8 | t->linear; // 0x41: A's first values
    float bound = 1 / sqrtf((float)t->k), deviation = 1 / (float)t->rank;
    struct ht_philox draw; // of two values
    for (size_t v = from; v < to; v++) {
        if (v % 2 == 0 || v == from)
            draw = ht_philox(seed, v / 2, stream);
        const uint32_t *bits = &draw.v[2 * (v % 2)];
        a[v] = gaussian ? deviation * normal(bits[0], bits[1]) : bound * (2 * ht_unit_f32(bits[0]) - 1);
    }
}

void ht_adapter_init_part(struct hearth_adapter *adapter, uint64_t seed, bool gaussian, size_t from, size_t n)
{
    for (size_t i = 0; i < adapter->n_targets; i++) {
        const struct ht_adapter_target *t = &adapter->targets[i];
        size_t first = t->a_at, end = first + (size_t)t->rank * t->k;
        size_t lo = from > first ? from : first, hi = from + n < end ? from + n : end;
        if (lo < hi)
            draw_values(t, adapter->values + first, lo - first, hi - first, seed, gaussian);
    }
}

void ht_adapter_init(struct hearth_adapter *adapter, uint64_t seed, bool gaussian)
{
    memset(adapter->values, 0, adapter->n_values * sizeof *adapter->values);
    ht_adapter_init_part(adapter, seed, gaussian, 0, adapter->n_values);
}

static bool all_finite(const float *values, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!isfinite(values[i]))
            return false;
    return true;
}

enum hearth_status ht_adapter_check_values(const struct hearth_adapter *adapter, struct hearth_error *err)
{
    char name[64];
    for (size_t i = 0; i < adapter->n_targets; i++) {
        const struct ht_adapter_target *t = &adapter->targets[i];
        if (all_finite(adapter->values + t->a_at, (size_t)t->rank * t->k) &&
            all_finite(adapter->values + t->b_at, (size_t)t->n * t->rank))
            continue;
        ht_adapter_tensor_name(t, name);
        return ht_fail(err, HEARTH_FORMAT, "%s: %s holds a value that is no finite number", adapter->shown, name);
    }
    return HEARTH_OK;
}

// ---------------------------------------------------------------- lineage

bool ht_adapter_lineage_known(const char *key)
{
    static const char *const own[] = {"general.architecture", "general.type", "general.name",
                                      "general.base_model.0.name"};
    for (size_t i = 0; i < sizeof own / sizeof own[0]; i++)
        if (!strcmp(key, own[i]))
            return false;
    return !strncmp(key, "general.", 8) || !strncmp(key, "hearth.lineage.", 15) ||
           !strcmp(key, "adapter.lora.task_name") || !strcmp(key, "adapter.lora.prompt_prefix");
}

static char *copy_of(const char *text)
{
    size_t len = strlen(text) + 1;
    char *copy = ht_calloc(len, 1);
    if (copy)
        memcpy(copy, text, len);
    return copy;
}

enum hearth_status ht_adapter_lineage_add(struct hearth_adapter *adapter, const char *key, const char *value,
                                          struct hearth_error *err)
{
    if (adapter->n_lineage == HT_ADAPTER_LINEAGE_MAX)
        return ht_fail(err, HEARTH_LIMIT, "%s: more than %d keys of lineage", adapter->shown,
                       HT_ADAPTER_LINEAGE_MAX);
    struct ht_adapter_lineage *one = &adapter->lineage[adapter->n_lineage];
    *one = (struct ht_adapter_lineage){copy_of(key), copy_of(value)};
    adapter->n_lineage++;
    if (!one->key || !one->value)
        return ht_fail(err, HEARTH_NOMEM, "%s: out of memory", adapter->shown);
    return HEARTH_OK;
}

bool ht_adapter_hex64(const char *text)
{
    return strlen(text) == 64 && strspn(text, "0123456789abcdef") == 64;
}

void ht_adapter_text(char *to, size_t size_bytes, const char *from)
{
    size_t left = strlen(from), at = 0, n;
    while (at < left && (n = ht_utf8_char(from + at, left - at)) && at + n < size_bytes)
        at += n;
    memcpy(to, from, at);
    to[at] = 0;
}

const char *ht_adapter_layer_number(const char *text, const char *after, uint32_t *layer)
{
    size_t digits = strspn(text, "0123456789");
    *layer = 0;
    if (digits < 1 || digits > 3 || (digits > 1 && text[0] == '0'))
        return NULL;
    for (size_t i = 0; i < digits; i++)
        *layer = *layer * 10 + (uint32_t)(text[i] - '0');
    if (*layer >= HT_MAX_LAYERS || strncmp(text + digits, after, strlen(after)))
        return NULL;
    return text + digits + strlen(after);
}

enum hearth_status ht_adapter_writable(const struct hearth_adapter *adapter, struct hearth_error *err)
{
    if (!adapter->base_sha256[0] || !adapter->architecture[0] || adapter->peft_rows || !adapter->n_layers ||
        !adapter->n_heads || !adapter->n_kv_heads)
        return ht_fail(err, HEARTH_INVALID, "%s does not tell which model it is for: name the base", adapter->shown);
    if (ht_adapter_fused(adapter))
        return ht_fail(err, HEARTH_INVALID, "%s has fused linears: name the base, which tells their sizes",
                       adapter->shown);
    return HEARTH_OK;
}

// ---------------------------------------------------------------- asking

void hearth_adapter_get_info(const struct hearth_adapter *adapter, struct hearth_adapter_info *info)
{
    *info = (struct hearth_adapter_info){
        .format = adapter->format,
        .name = adapter->name,
        .architecture = adapter->architecture,
        .base_name = adapter->base_name,
        .base_sha256 = adapter->base_sha256,
        .rslora = adapter->rslora,
        .dropout = adapter->dropout,
        .n_targets = adapter->n_targets,
    };
    for (size_t i = 0; i < adapter->n_targets; i++)
        info->n_params += ((uint64_t)adapter->targets[i].n + adapter->targets[i].k) * adapter->targets[i].rank;
}
