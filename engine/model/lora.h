// SPDX-License-Identifier: Apache-2.0
// The adapters of an engine: which slot of the device's bank holds which, and who still uses it. A dropped one keeps
// its slot until the last request that uses it has ended. Engine thread, between submits.
#ifndef HT_LORA_H
#define HT_LORA_H
#include "engine/engine.h"
#include "engine/model/model.h"

// What an adapter's values are, scales included: KV made under one is used under an equal one only. Zero: the base.
struct ht_adapter_key {
    uint64_t part[2];
};
static inline bool ht_adapter_key_equal(struct ht_adapter_key a, struct ht_adapter_key b)
{
    return a.part[0] == b.part[0] && a.part[1] == b.part[1];
}

enum { HT_NO_ADAPTER = -1 };
struct ht_lora {
    unsigned id; // 0: the slot is free
    uint32_t n_running;
    bool dropped;
    struct ht_adapter_key key;
};
struct ht_loras {
    struct ht_lora slot[HEARTH_MAX_ADAPTERS];
    unsigned last_id;
};

// Linears of the bank: those of the layers, then the head.
static inline uint32_t ht_lora_linear(uint32_t layer, uint32_t matrix)
{
    return layer * HT_N_MATRICES + matrix;
}
static inline uint32_t ht_lora_head(const struct ht_hparams *hp)
{
    return hp->n_layers * HT_N_MATRICES;
}
struct ht_weight_params ht_lora_shape(const struct ht_hparams *hp, uint32_t linear); // n and k
// The bank of a model, empty; steps have at most `rows`. NULL where the device has none.
HT_MUST_USE enum hearth_status ht_lora_make_bank(const struct ht_model *model, uint32_t rows, struct ht_bank **bank,
                                                 struct hearth_error *err);
// What hearth_engine_adapter_load comes to, once the pieces are known to fit the model.
HT_MUST_USE enum hearth_status ht_lora_load(struct hearth_engine *engine, const struct ht_bank_piece *pieces,
                                            size_t n_pieces, unsigned *id, struct hearth_error *err);
// hearth_engine_adapter_drop.
HT_MUST_USE enum hearth_status ht_lora_drop(struct hearth_engine *engine, unsigned id, struct hearth_error *err);
// The slot of an adapter that was not dropped; id 0: HT_NO_ADAPTER. NOT_FOUND else.
HT_MUST_USE enum hearth_status ht_lora_find(const struct hearth_engine *engine, unsigned id, int32_t *slot,
                                            struct hearth_error *err);
struct ht_adapter_key ht_lora_key(const struct hearth_engine *engine, int32_t slot);
// A request begins and ends; HT_NO_ADAPTER does nothing.
void ht_lora_hold(struct hearth_engine *engine, int32_t slot);
void ht_lora_release(struct hearth_engine *engine, int32_t slot);

#endif
