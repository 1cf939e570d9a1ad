// SPDX-License-Identifier: Apache-2.0
// The adapter that a run begins with, and copies of it. Engine thread.
#include <math.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/learn/trainer.h"
#include "engine/model/session.h"

// Everything but the values, which are 0.
static enum hearth_status copy_frame(struct hearth_adapter **copy, const struct hearth_adapter *from,
                                     struct hearth_error *err)
{
    HT_TRY(ht_adapter_new(copy, "adapter", "memory", err));
    struct hearth_adapter *a = *copy;
    enum hearth_status status = HEARTH_NOMEM;
    a->rslora = from->rslora;
    a->peft_rows = from->peft_rows;
    a->dropout = from->dropout;
    a->n_layers = from->n_layers;
    a->n_heads = from->n_heads;
    a->n_kv_heads = from->n_kv_heads;
    memcpy(a->architecture, from->architecture, sizeof a->architecture);
    memcpy(a->base_sha256, from->base_sha256, sizeof a->base_sha256);
    memcpy(a->name, from->name, sizeof a->name);
    memcpy(a->base_name, from->base_name, sizeof a->base_name);
    a->targets = ht_calloc(from->n_targets, sizeof *a->targets);
    if (!a->targets) {
        ht_fail(err, HEARTH_NOMEM, "out of memory for an adapter");
        goto failed;
    }
    memcpy(a->targets, from->targets, from->n_targets * sizeof *a->targets);
    a->n_targets = from->n_targets;
    HT_TRY_TO(failed, ht_adapter_lay_out(a, err));
    for (size_t i = 0; i < from->n_lineage; i++)
        HT_TRY_TO(failed, ht_adapter_lineage_add(a, from->lineage[i].key, from->lineage[i].value, err));
    return HEARTH_OK;
failed:
    hearth_adapter_close(copy);
    return status;
}

enum hearth_status ht_train_adapter_copy(struct hearth_adapter **copy, const struct hearth_adapter *from,
                                         struct hearth_error *err)
{
    HT_TRY(copy_frame(copy, from, err));
    memcpy((*copy)->values, from->values, from->n_values * sizeof *from->values);
    return HEARTH_OK;
}

static bool is_word(const char *text, size_t len, const char *word)
{
    return strlen(word) == len && !strncmp(text, word, len);
}

// "attn_q,attn_v", or PEFT's last words ("q_proj"); "all" are those of the layers; "output" (or "lm_head") is the head.
static enum hearth_status parse_targets(const char *text, unsigned *linears, struct hearth_error *err)
{
    const unsigned all = (1u << HT_N_MATRICES) - 1;
    *linears = text ? 0 : all;
    while (text && *text) {
        size_t len = strcspn(text, ",");
        unsigned found = is_word(text, len, "all") ? all : 0;
        for (unsigned i = 0; i < HT_ADAPTER_LINEARS; i++) {
            const char *peft = ht_adapter_linear_peft(i), *dot = strrchr(peft, '.');
            if (is_word(text, len, ht_adapter_linear_gguf(i)) || is_word(text, len, dot ? dot + 1 : peft))
                found = 1u << i;
        }
        if (!found)
            return ht_fail(err, HEARTH_INVALID, "no linear \"%.*s\": attn_q, attn_k, attn_v, attn_output, ffn_gate, "
                           "ffn_up, ffn_down, output, or all (those of the layers)", len < 32 ? (int)len : 32, text);
        *linears |= found;
        text += len + (text[len] == ',');
    }
    return *linears ? HEARTH_OK : ht_fail(err, HEARTH_INVALID, "no linear is named to train");
}

// What a loaded adapter must share with the model.
static enum hearth_status check_init(const struct hearth_adapter *a, const struct hearth_trainer *t,
                                     struct hearth_error *err)
{
    const struct ht_hparams *hp = &t->engine->model.hp;
    if (a->peft_rows)
        return ht_fail(err, HEARTH_INVALID, "%s does not tell which model it is for: open it with its base", a->shown);
    if (a->base_sha256[0] && strcmp(a->base_sha256, t->params.base_sha256))
        return ht_fail(err, HEARTH_INVALID, "%s is for another base: SHA-256 %.12s..., this one has %.12s...", a->shown,
                       a->base_sha256, t->params.base_sha256);
    if (a->architecture[0] && strcmp(a->architecture, hp->arch->name))
        return ht_fail(err, HEARTH_INVALID, "%s is an adapter for %s, the model is %s", a->shown, a->architecture,
                       hp->arch->name);
    for (size_t i = 0; i < a->n_targets; i++)
        HT_TRY(ht_adapter_fits(a, &a->targets[i], hp, err));
    return HEARTH_OK;
}

static enum hearth_status made_new(struct hearth_trainer *t, struct hearth_error *err)
{
    const struct hearth_train_params *p = &t->params;
    struct ht_adapter_spec spec = {.rank = p->rank, .alpha = p->alpha, .dropout = p->dropout, .rslora = p->rslora};
    HT_TRY(parse_targets(p->targets, &spec.linears, err));
    return ht_adapter_create(&t->adapter, &t->engine->model.hp, &spec, err);
}

void ht_train_adapter_values(struct hearth_trainer *t, size_t from, size_t n)
{
    const struct hearth_adapter *init = t->params.init;
    if (init)
        memcpy(t->adapter->values + from, init->values + from, n * sizeof *init->values);
    else
        ht_adapter_init_part(t->adapter, t->params.seed, t->params.gaussian, from, n);
}

enum hearth_status ht_train_adapter(struct hearth_trainer *t, struct hearth_error *err)
{
    if (t->params.init) {
        HT_TRY(check_init(t->params.init, t, err));
        HT_TRY(copy_frame(&t->adapter, t->params.init, err));
        t->adapter->dropout = t->params.dropout;
    } else {
        HT_TRY(made_new(t, err));
    }
    struct hearth_adapter *a = t->adapter;
    const struct ht_hparams *hp = &t->engine->model.hp;
    ht_adapter_text(a->architecture, sizeof a->architecture, hp->arch->name);
    ht_adapter_text(a->base_sha256, sizeof a->base_sha256, t->params.base_sha256);
    ht_adapter_text(a->base_name, sizeof a->base_name, t->engine->info.name);
    ht_adapter_text(a->name, sizeof a->name, t->params.name);
    a->n_layers = hp->n_layers;
    a->n_heads = hp->n_heads;
    a->n_kv_heads = hp->n_kv_heads;
    return HEARTH_OK;
}
