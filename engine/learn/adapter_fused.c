// SPDX-License-Identifier: Apache-2.0
// Holds an adapter's parts against a model's linears: names, shapes, and fused linears of files (q, k and v as one,
// gate and up as one), which become those of the model: the rows of B divided, A repeated. One thread.
#include <string.h>

#include "engine/base/mem.h"
#include "engine/learn/adapter.h"
#include "engine/model/lora.h"

static struct ht_weight_params shape_of(const struct ht_hparams *hp, uint32_t layer, uint32_t linear)
{
    return ht_lora_shape(hp, linear == HT_ADAPTER_OUTPUT ? ht_lora_head(hp) : ht_lora_linear(layer, linear));
}

static enum hearth_status has_layer(const struct hearth_adapter *adapter, const struct ht_adapter_target *t,
                                    const struct ht_hparams *hp, struct hearth_error *err)
{
    char name[64];
    if (t->linear == HT_ADAPTER_OUTPUT || t->layer < hp->n_layers)
        return HEARTH_OK;
    ht_adapter_tensor_name(t, name);
    return ht_fail(err, HEARTH_INVALID, "%s: the model has no tensor %s, it has %u layers", adapter->shown, name,
                   hp->n_layers);
}

static enum hearth_status is_shape(const struct hearth_adapter *adapter, const struct ht_adapter_target *t, uint64_t n,
                                   uint32_t k, struct hearth_error *err)
{
    char name[64];
    if (t->n == n && t->k == k)
        return HEARTH_OK;
    ht_adapter_tensor_name(t, name);
    return ht_fail(err, HEARTH_INVALID, "%s: %s is %u x %u, %llu x %u in the model", adapter->shown, name, t->n, t->k,
                   (unsigned long long)n, k);
}

enum hearth_status ht_adapter_fits(const struct hearth_adapter *adapter, const struct ht_adapter_target *target,
                                   const struct ht_hparams *hp, struct hearth_error *err)
{
    char name[64];
    ht_adapter_tensor_name(target, name);
    if (target->linear >= HT_ADAPTER_LINEARS)
        return ht_fail(err, HEARTH_INVALID, "%s: %s is fused: open it with its base", adapter->shown, name);
    HT_TRY(has_layer(adapter, target, hp, err));
    const struct ht_weight_params shape = shape_of(hp, target->layer, target->linear);
    return is_shape(adapter, target, shape.n, shape.k, err);
}

// What a target is in this model. In GGUF files gate and up as one bear up's name and have twice its rows.
static uint32_t linear_of(const struct hearth_adapter *adapter, const struct ht_adapter_target *t,
                          const struct ht_hparams *hp)
{
    bool twice = t->linear == HT_FFN_UP && t->n == 2 * (uint64_t)hp->n_ff && !strcmp(adapter->format, "gguf");
    return twice ? HT_ADAPTER_GATE_UP : t->linear;
}

static enum hearth_status twice(const struct hearth_adapter *adapter, const struct ht_adapter_target *t,
                                struct hearth_error *err)
{
    char name[64];
    ht_adapter_tensor_name(t, name);
    return ht_fail(err, HEARTH_FORMAT, "%s: %s stands there twice, on its own and in a fused linear", adapter->shown,
                   name);
}

enum hearth_status ht_adapter_parts(const struct hearth_adapter *adapter, const struct ht_adapter_target *target,
                                    const struct ht_hparams *hp, struct ht_adapter_part parts[HT_ADAPTER_MAX_PARTS],
                                    size_t *n_parts, struct hearth_error *err)
{
    static const uint32_t qkv[] = {HT_ATTN_Q, HT_ATTN_K, HT_ATTN_V}, gate_up[] = {HT_FFN_GATE, HT_FFN_UP};
    uint32_t linear = linear_of(adapter, target, hp);
    const uint32_t *of = linear == HT_ADAPTER_QKV ? qkv : linear == HT_ADAPTER_GATE_UP ? gate_up : &linear;
    *n_parts = linear == HT_ADAPTER_QKV ? 3 : linear == HT_ADAPTER_GATE_UP ? 2 : 1;
    uint64_t n = 0;
    HT_TRY(has_layer(adapter, target, hp, err));
    for (size_t i = 0; i < *n_parts; i++) {
        parts[i] = (struct ht_adapter_part){of[i], (uint32_t)n, shape_of(hp, target->layer, of[i]).n};
        n += parts[i].n;
        const struct ht_adapter_target *other = *n_parts > 1 ? ht_adapter_find(adapter, target->layer, of[i]) : NULL;
        if (other && other != target)
            return twice(adapter, other, err);
    }
    return is_shape(adapter, target, n, shape_of(hp, target->layer, of[0]).k, err);
}

bool ht_adapter_fused(const struct hearth_adapter *adapter)
{
    for (size_t i = 0; i < adapter->n_targets; i++)
        if (adapter->targets[i].linear >= HT_ADAPTER_LINEARS)
            return true;
    return false;
}

// The targets of all parts, in `next`, without values.
static enum hearth_status list_parts(const struct hearth_adapter *from, const struct ht_hparams *hp,
                                     struct hearth_adapter *next, bool *changed, struct hearth_error *err)
{
    struct ht_adapter_part parts[HT_ADAPTER_MAX_PARTS];
    size_t n;
    for (size_t i = 0; i < from->n_targets; i++) {
        const struct ht_adapter_target *t = &from->targets[i];
        HT_TRY(ht_adapter_parts(from, t, hp, parts, &n, err));
        *changed = *changed || n > 1;
        for (size_t p = 0; p < n; p++) {
            struct ht_adapter_target *one = &next->targets[next->n_targets++];
            *one = *t;
            one->linear = parts[p].linear;
            one->n = parts[p].n;
        }
    }
    return HEARTH_OK;
}

static enum hearth_status copy_parts(const struct hearth_adapter *from, const struct ht_hparams *hp,
                                     struct hearth_adapter *next, struct hearth_error *err)
{
    struct ht_adapter_part parts[HT_ADAPTER_MAX_PARTS];
    size_t n;
    for (size_t i = 0; i < from->n_targets; i++) {
        const struct ht_adapter_target *t = &from->targets[i];
        HT_TRY(ht_adapter_parts(from, t, hp, parts, &n, err));
        for (size_t p = 0; p < n; p++) {
            const struct ht_adapter_target *to = ht_adapter_find(next, t->layer, parts[p].linear);
            memcpy(next->values + to->a_at, from->values + t->a_at, (size_t)t->rank * t->k * sizeof(float));
            memcpy(next->values + to->b_at, from->values + t->b_at + (size_t)parts[p].first * t->rank,
                   (size_t)to->n * t->rank * sizeof(float));
        }
    }
    return HEARTH_OK;
}

enum hearth_status ht_adapter_unfuse(struct hearth_adapter *adapter, const struct ht_hparams *hp,
                                     struct hearth_error *err)
{
    struct hearth_adapter next = *adapter;
    bool changed = false;
    next.values = NULL;
    next.n_targets = next.n_values = 0;
    next.targets = ht_calloc(HT_ADAPTER_MAX_PARTS * adapter->n_targets, sizeof *next.targets);
    if (!next.targets)
        return ht_fail(err, HEARTH_NOMEM, "%s: out of memory", adapter->shown);
    enum hearth_status status = list_parts(adapter, hp, &next, &changed, err);
    if (status == HEARTH_OK && changed) {
        HT_TRY_TO(failed, ht_adapter_lay_out(&next, err));
        HT_TRY_TO(failed, copy_parts(adapter, hp, &next, err));
        ht_free(adapter->targets);
        ht_free_big(adapter->values, adapter->n_values * sizeof *adapter->values);
        *adapter = next;
        return HEARTH_OK;
    }
failed:
    ht_free(next.targets);
    ht_free_big(next.values, next.n_values * sizeof *next.values);
    return status;
}
