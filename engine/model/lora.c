// SPDX-License-Identifier: Apache-2.0
// The adapters of an engine and the slots of the device's bank: see lora.h. Engine thread.
#include "engine/model/lora.h"

#include <string.h>

#include "engine/base/mem.h"
#include "engine/model/session.h"

struct ht_weight_params ht_lora_shape(const struct ht_hparams *hp, uint32_t linear)
{
    struct ht_weight_params shape = {.n = hp->n_vocab, .k = hp->n_embd};
    for (unsigned i = 0; linear < ht_lora_head(hp) && i < ht_n_layer_tensors; i++) {
        const struct ht_tensor_spec *spec = &ht_layer_tensors[i];
        if (spec->is_matrix && spec->slot == linear % HT_N_MATRICES)
            shape = (struct ht_weight_params){.n = ht_dim_size(hp, spec->n), .k = ht_dim_size(hp, spec->k)};
    }
    return shape;
}

enum hearth_status ht_lora_make_bank(const struct ht_model *model, uint32_t rows, struct ht_bank **bank,
                                     struct hearth_error *err)
{
    const struct ht_hparams *hp = &model->hp;
    *bank = NULL;
    if (!model->dev->bank_create)
        return HEARTH_OK;
    uint32_t n_linears = ht_lora_head(hp) + 1;
    struct ht_weight_params *linears = ht_calloc(n_linears, sizeof *linears);
    if (!linears)
        return ht_fail(err, HEARTH_NOMEM, "out of memory for the table of %u linears", n_linears);
    for (uint32_t i = 0; i < n_linears; i++)
        linears[i] = ht_lora_shape(hp, i);
    const struct ht_bank_params params = {
        .linears = linears, .n_linears = n_linears, .slots = HEARTH_MAX_ADAPTERS, .rows = rows};
    enum hearth_status status = model->dev->bank_create(model->device, &params, bank, err);
    ht_free(linears);
    return status;
}

// Of what is computed with, in its order.
static struct ht_adapter_key key_of(const struct ht_hparams *hp, const struct ht_bank_piece *pieces, size_t n_pieces)
{
    struct ht_hash hash;
    struct ht_adapter_key key;
    unsigned char sum[HT_HASH_BYTES];
    ht_hash_init(&hash);
    for (size_t i = 0; i < n_pieces; i++) {
        const struct ht_bank_piece *p = &pieces[i];
        const struct ht_weight_params shape = ht_lora_shape(hp, p->linear);
        uint32_t head[2] = {p->linear, p->rank};
        ht_hash_add(&hash, head, sizeof head);
        ht_hash_add(&hash, &p->scale, sizeof p->scale);
        ht_hash_add(&hash, p->a, (size_t)p->rank * shape.k * sizeof *p->a);
        ht_hash_add(&hash, p->b, (size_t)p->rank * shape.n * sizeof *p->b);
    }
    ht_hash_end(&hash, sum);
    memcpy(key.part, sum, sizeof key.part);
    key.part[0] |= !key.part[0] && !key.part[1]; // zero is the base
    return key;
}

enum hearth_status ht_lora_load(struct hearth_engine *engine, const struct ht_bank_piece *pieces, size_t n_pieces,
                                unsigned *id, struct hearth_error *err)
{
    struct ht_loras *loras = &engine->loras;
    struct ht_context *ctx = &engine->ctx;
    uint32_t slot = 0;
    *id = 0;
    if (!ctx->bank)
        return ht_fail(err, HEARTH_UNSUPPORTED, "device %s cannot answer with adapters", engine->info.device);
    while (slot < HEARTH_MAX_ADAPTERS && loras->slot[slot].id)
        slot++;
    if (slot == HEARTH_MAX_ADAPTERS)
        return ht_fail(err, HEARTH_LIMIT, "%d adapters are loaded or still answering, more cannot be",
                       HEARTH_MAX_ADAPTERS);
    HT_TRY(engine->dev->bank_set(engine->device, ctx->bank, slot, pieces, n_pieces, err));
    engine->info.adapter_bytes = engine->dev->bank_bytes(ctx->bank);
    if (!++loras->last_id)
        loras->last_id = 1;
    *id = loras->last_id;
    loras->slot[slot] = (struct ht_lora){.id = *id, .key = key_of(&engine->model.hp, pieces, n_pieces)};
    return HEARTH_OK;
}

enum hearth_status ht_lora_find(const struct hearth_engine *engine, unsigned id, int32_t *slot,
                                struct hearth_error *err)
{
    *slot = HT_NO_ADAPTER;
    if (!id)
        return HEARTH_OK;
    for (int32_t i = 0; i < HEARTH_MAX_ADAPTERS; i++)
        if (engine->loras.slot[i].id == id && !engine->loras.slot[i].dropped) {
            *slot = i;
            return HEARTH_OK;
        }
    return ht_fail(err, HEARTH_NOT_FOUND, "no adapter %u is loaded", id);
}

struct ht_adapter_key ht_lora_key(const struct hearth_engine *engine, int32_t slot)
{
    return slot < 0 ? (struct ht_adapter_key){{0, 0}} : engine->loras.slot[slot].key;
}

void ht_lora_hold(struct hearth_engine *engine, int32_t slot)
{
    if (slot >= 0)
        engine->loras.slot[slot].n_running++;
}

static void let_go(struct hearth_engine *engine, int32_t slot)
{
    engine->loras.slot[slot] = (struct ht_lora){.id = 0};
    engine->dev->bank_clear(engine->device, engine->ctx.bank, (uint32_t)slot);
    engine->info.adapter_bytes = engine->dev->bank_bytes(engine->ctx.bank);
}

void ht_lora_release(struct hearth_engine *engine, int32_t slot)
{
    if (slot >= 0 && !--engine->loras.slot[slot].n_running && engine->loras.slot[slot].dropped)
        let_go(engine, slot);
}

enum hearth_status ht_lora_drop(struct hearth_engine *engine, unsigned id, struct hearth_error *err)
{
    int32_t slot;
    HT_TRY(ht_lora_find(engine, id, &slot, err));
    if (slot == HT_NO_ADAPTER)
        return ht_fail(err, HEARTH_NOT_FOUND, "the base cannot be dropped");
    engine->loras.slot[slot].dropped = true;
    if (!engine->loras.slot[slot].n_running)
        let_go(engine, slot);
    return HEARTH_OK;
}
