// SPDX-License-Identifier: Apache-2.0
// Holds an adapter against the model it is for: identity, architecture, the shape of every part, the order of rows.
// One thread.
#include <string.h>
#include <sys/stat.h>

#include "engine/base/mem.h"
#include "engine/learn/adapter.h"

// Head h's row (half, i) of PEFT is row (i, half) in llama's GGUF: pairs that turn together lie side by side there.
void ht_adapter_turn_rows(const float *b, uint32_t n, uint32_t rank, uint32_t n_heads, bool to_gguf, float *out)
{
    uint32_t head = n / n_heads;
    for (uint32_t row = 0; row < n; row++) {
        uint32_t first = row / head * head, i = row - first;
        uint32_t other = first + (i < head / 2 ? 2 * i : 2 * (i - head / 2) + 1); // where PEFT's row lies in GGUF
        const float *from = b + (size_t)(to_gguf ? row : other) * rank;
        memcpy(out + (size_t)(to_gguf ? other : row) * rank, from, rank * sizeof *out);
    }
}

enum hearth_status ht_adapter_turn(struct hearth_adapter *adapter, struct hearth_error *err)
{
    char name[64];
    uint32_t n_heads;
    for (size_t i = 0; adapter->peft_rows && i < adapter->n_targets; i++) {
        const struct ht_adapter_target *t = &adapter->targets[i];
        if (!ht_adapter_turned(adapter, t->linear, &n_heads))
            continue;
        ht_adapter_tensor_name(t, name);
        if (!n_heads || t->n % (2 * n_heads))
            return ht_fail(err, HEARTH_FORMAT, "%s: %s has %u rows, which are no %u heads", adapter->shown, name, t->n,
                           n_heads);
        size_t count = (size_t)t->n * t->rank;
        float *copy = ht_calloc(count, sizeof *copy), *b = adapter->values + t->b_at;
        if (!copy)
            return ht_fail(err, HEARTH_NOMEM, "%s: out of memory", adapter->shown);
        memcpy(copy, b, count * sizeof *copy);
        ht_adapter_turn_rows(copy, t->n, t->rank, n_heads, true, b);
        ht_free(copy);
    }
    adapter->peft_rows = false;
    return HEARTH_OK;
}

static enum hearth_status check_shapes(const struct hearth_adapter *adapter, const struct ht_gguf *gguf,
                                       struct hearth_error *err)
{
    char name[64];
    for (size_t i = 0; i < adapter->n_targets; i++) {
        const struct ht_adapter_target *t = &adapter->targets[i];
        ht_adapter_tensor_name(t, name);
        const struct ht_gguf_tensor *w = ht_gguf_find_tensor(gguf, name);
        if (!w && t->linear == HT_ADAPTER_OUTPUT) // tied: the embeddings are the head, too
            w = ht_gguf_find_tensor(gguf, "token_embd.weight");
        if (!w)
            return ht_fail(err, HEARTH_INVALID, "%s: %s has no tensor %s", adapter->shown, ht_gguf_shown(gguf), name);
        if (w->ne[0] != t->k || w->ne[1] != t->n || w->n_values != w->ne[0] * w->ne[1])
            return ht_fail(err, HEARTH_INVALID, "%s: %s is %u x %u, %llu x %llu in %s", adapter->shown, name, t->n,
                           t->k, (unsigned long long)w->ne[1], (unsigned long long)w->ne[0], ht_gguf_shown(gguf));
    }
    return HEARTH_OK;
}

static enum hearth_status check_known(const struct hearth_adapter *adapter, const struct ht_hparams *hp,
                                      const char *shown, struct hearth_error *err)
{
    if (adapter->architecture[0] && strcmp(adapter->architecture, hp->arch->name))
        return ht_fail(err, HEARTH_INVALID, "%s is an adapter for %s, %s is %s", adapter->shown,
                       adapter->architecture, shown, hp->arch->name);
    if ((adapter->n_layers && adapter->n_layers != hp->n_layers) ||
        (adapter->n_heads && adapter->n_heads != hp->n_heads) ||
        (adapter->n_kv_heads && adapter->n_kv_heads != hp->n_kv_heads))
        return ht_fail(err, HEARTH_INVALID, "%s is an adapter for %u layers of %u and %u heads, %s has %u of %u and %u",
                       adapter->shown, adapter->n_layers, adapter->n_heads, adapter->n_kv_heads, shown, hp->n_layers,
                       hp->n_heads, hp->n_kv_heads);
    return HEARTH_OK;
}

static enum hearth_status bind(struct hearth_adapter *adapter, struct ht_gguf *gguf, const char *sha256,
                               struct hearth_error *err)
{
    struct ht_hparams hp;
    const char *name = "";
    HT_TRY(ht_hparams_read(&hp, gguf, err));
    HT_TRY(check_known(adapter, &hp, ht_gguf_shown(gguf), err));
    HT_TRY(ht_adapter_unfuse(adapter, &hp, err));
    HT_TRY(check_shapes(adapter, gguf, err));
    HT_TRY(ht_gguf_optional(ht_gguf_get_str(gguf, "general.name", &name, NULL, err)));
    ht_adapter_text(adapter->architecture, sizeof adapter->architecture, hp.arch->name);
    ht_adapter_text(adapter->base_sha256, sizeof adapter->base_sha256, sha256);
    if (!adapter->base_name[0])
        ht_adapter_text(adapter->base_name, sizeof adapter->base_name, name);
    adapter->n_layers = hp.n_layers;
    adapter->n_heads = hp.n_heads;
    adapter->n_kv_heads = hp.n_kv_heads;
    return ht_adapter_turn(adapter, err);
}

enum hearth_status ht_adapter_bind(struct hearth_adapter *adapter, const struct hearth_adapter_base *base,
                                   struct hearth_error *err)
{
    if (!base->path || !base->sha256 || !ht_adapter_hex64(base->sha256))
        return ht_fail(err, HEARTH_INVALID, "a base needs a path and a SHA-256 of 64 lower-case hex digits");
    if (adapter->base_sha256[0] && strcmp(adapter->base_sha256, base->sha256))
        return ht_fail(err, HEARTH_INVALID, "%s is for another base: SHA-256 %.12s..., %s has %.12s...", adapter->shown,
                       adapter->base_sha256, ht_shown_path(base->path), base->sha256);
    struct ht_gguf *gguf;
    HT_TRY(ht_gguf_open(&gguf, base->path, err));
    enum hearth_status status = bind(adapter, gguf, base->sha256, err);
    ht_gguf_close(&gguf);
    return status;
}

enum hearth_status hearth_adapter_open(struct hearth_adapter **adapter, const char *path,
                                       const struct hearth_adapter_base *base, struct hearth_error *err)
{
    struct stat st;
    *adapter = NULL;
    bool folder = !stat(path, &st) && S_ISDIR(st.st_mode);
    HT_TRY(folder ? ht_adapter_read_peft(adapter, path, err) : ht_adapter_read_gguf(adapter, path, err));
    struct hearth_adapter *a = *adapter;
    enum hearth_status status = HEARTH_OK;
    if (base)
        status = ht_adapter_bind(a, base, err);
    else if (a->base_sha256[0] && a->architecture[0] && !ht_adapter_fused(a))
        status = ht_adapter_turn(a, err);
    if (status != HEARTH_OK)
        hearth_adapter_close(adapter);
    return status;
}
