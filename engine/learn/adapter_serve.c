// SPDX-License-Identifier: Apache-2.0
// Adapters in answers: held against the model of an engine, put together piece by piece, handed to it. Engine thread.
#include <math.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/learn/adapter.h"
#include "engine/model/session.h"

static enum hearth_status wrong_model(const struct hearth_adapter *a, const struct hearth_engine *e,
                                      struct hearth_error *err)
{
    return ht_fail(err, HEARTH_INVALID, "%s is an adapter for %s with %u layers of %u and %u heads, not for %.60s",
                   a->shown, a->architecture[0] ? a->architecture : "another model", a->n_layers, a->n_heads,
                   a->n_kv_heads, e->info.name);
}

static enum hearth_status check_use(const struct hearth_adapter_use *use, const struct hearth_engine *e,
                                    const char *base_sha256, struct hearth_error *err)
{
    const struct hearth_adapter *a = use->adapter;
    const struct ht_hparams *hp = &e->model.hp;
    struct ht_adapter_part parts[HT_ADAPTER_MAX_PARTS];
    size_t n_parts;
    if (!a || !isfinite(use->scale))
        return ht_fail(err, HEARTH_INVALID, "an adapter and a finite scale are needed");
    if (base_sha256 && a->base_sha256[0] && strcmp(base_sha256, a->base_sha256))
        return ht_fail(err, HEARTH_INVALID, "%s is for another base: SHA-256 %.12s..., %.60s has %.12s...", a->shown,
                       a->base_sha256, e->info.name, base_sha256);
    if ((a->architecture[0] && strcmp(a->architecture, hp->arch->name)) ||
        (a->n_layers && a->n_layers != hp->n_layers) || (a->n_heads && a->n_heads != hp->n_heads) ||
        (a->n_kv_heads && a->n_kv_heads != hp->n_kv_heads))
        return wrong_model(a, e, err);
    for (size_t i = 0; i < a->n_targets; i++)
        HT_TRY(ht_adapter_parts(a, &a->targets[i], hp, parts, &n_parts, err));
    return ht_adapter_check_values(a, err);
}

// ---- pieces

struct pieces {
    struct ht_bank_piece *list;
    size_t n;
    float *turned; // B's whose rows come in PEFT's order, one after another
    size_t n_turned;
};

// Heads of q or k whose rows must be turned: those of a llama folder that does not tell its base. 0 = none.
static uint32_t turned_heads(const struct hearth_adapter *a, uint32_t linear, const struct ht_hparams *hp)
{
    if (!a->peft_rows || strcmp(hp->arch->name, "llama"))
        return 0;
    return linear == HT_ATTN_Q ? hp->n_heads : linear == HT_ATTN_K ? hp->n_kv_heads : 0;
}

static void add(struct pieces *p, const struct hearth_adapter_use *use, const struct ht_adapter_target *t,
                const struct ht_adapter_part *part, const struct ht_hparams *hp)
{
    const struct hearth_adapter *a = use->adapter;
    uint32_t heads = turned_heads(a, part->linear, hp);
    const float *b = a->values + t->b_at + (size_t)part->first * t->rank;
    if (heads) {
        float *to = p->turned + p->n_turned;
        ht_adapter_turn_rows(b, part->n, t->rank, heads, true, to);
        p->n_turned += (size_t)part->n * t->rank;
        b = to;
    }
    bool head = part->linear == HT_ADAPTER_OUTPUT;
    p->list[p->n++] = (struct ht_bank_piece){
        .linear = head ? ht_lora_head(hp) : ht_lora_linear(t->layer, part->linear),
        .rank = t->rank,
        .scale = use->scale * ht_adapter_scale(a, t),
        .a = a->values + t->a_at,
        .b = b,
    };
}

// The pieces of all adapters; with p->list NULL only how many they are, and values of rows that are turned.
static enum hearth_status list(struct pieces *p, const struct hearth_adapter_use *uses, size_t n_uses,
                               const struct ht_hparams *hp, struct hearth_error *err)
{
    struct ht_adapter_part parts[HT_ADAPTER_MAX_PARTS];
    size_t n;
    for (size_t u = 0; u < n_uses; u++)
        for (size_t i = 0; i < uses[u].adapter->n_targets; i++) {
            const struct ht_adapter_target *t = &uses[u].adapter->targets[i];
            HT_TRY(ht_adapter_parts(uses[u].adapter, t, hp, parts, &n, err));
            for (size_t j = 0; j < n; j++)
                if (p->list) {
                    add(p, &uses[u], t, &parts[j], hp);
                } else {
                    p->n++;
                    if (turned_heads(uses[u].adapter, parts[j].linear, hp))
                        p->n_turned += (size_t)parts[j].n * t->rank;
                }
        }
    return HEARTH_OK;
}

static enum hearth_status load(struct hearth_engine *e, const struct hearth_adapter_use *uses, size_t n_uses,
                               unsigned *id, struct hearth_error *err)
{
    struct pieces room = {0}, p = {0};
    const struct ht_hparams *hp = &e->model.hp;
    HT_TRY(list(&room, uses, n_uses, hp, err));
    p.list = ht_calloc(room.n, sizeof *p.list);
    p.turned = room.n_turned ? ht_calloc(room.n_turned, sizeof *p.turned) : NULL;
    enum hearth_status status;
    if (!p.list || (room.n_turned && !p.turned))
        status = ht_fail(err, HEARTH_NOMEM, "out of memory for %zu parts of adapters", room.n);
    else
        status = list(&p, uses, n_uses, hp, err);
    if (status == HEARTH_OK)
        status = ht_lora_load(e, p.list, p.n, id, err);
    ht_free(p.list);
    ht_free(p.turned);
    return status;
}

enum hearth_status hearth_engine_adapter_load(struct hearth_engine *engine, const struct hearth_adapter_use *uses,
                                              size_t n_uses, const char *base_sha256, unsigned *id,
                                              struct hearth_error *err)
{
    *id = 0;
    if (engine->vocab_only)
        return ht_fail(err, HEARTH_INVALID, "the engine was opened for its vocabulary only");
    if (!n_uses || n_uses > HEARTH_MAX_ADAPTERS)
        return ht_fail(err, n_uses ? HEARTH_LIMIT : HEARTH_INVALID, "1 to %d adapters make a sum, not %zu",
                       HEARTH_MAX_ADAPTERS, n_uses);
    for (size_t i = 0; i < n_uses; i++)
        HT_TRY(check_use(&uses[i], engine, base_sha256, err));
    return load(engine, uses, n_uses, id, err);
}

enum hearth_status hearth_engine_adapter_drop(struct hearth_engine *engine, unsigned id, struct hearth_error *err)
{
    return ht_lora_drop(engine, id, err);
}
