// SPDX-License-Identifier: Apache-2.0
// LoRA adapters in the CPU's memory: packing what a slot holds, letting go of it. Engine thread, between submits.
#include <math.h>
#include <string.h>

#include "engine/base/free_memory.h"
#include "engine/base/mem.h"
#include "engine/cpu/cpu.h"

enum hearth_status ht_cpu_bank_create(struct ht_device *device, const struct ht_bank_params *params,
                                      struct ht_bank **out, struct hearth_error *err)
{
    (void)device;
    *out = NULL;
    HT_TRY(ht_check_bank_params(params, err));
    struct ht_bank *bank = ht_calloc(1, sizeof *bank);
    struct ht_weight_params *linears = ht_calloc(params->n_linears, sizeof *linears);
    if (!bank || !linears) {
        ht_free(bank);
        ht_free(linears);
        return ht_fail(err, HEARTH_NOMEM, "out of memory for the table of %u linears", params->n_linears);
    }
    memcpy(linears, params->linears, params->n_linears * sizeof *linears);
    bank->head.params = *params;
    bank->head.params.linears = linears;
    *out = bank;
    return HEARTH_OK;
}

static void slot_free(struct ht_bank_slot *slot)
{
    ht_free(slot->entries);
    ht_free_big(slot->data, slot->data_bytes);
    *slot = (struct ht_bank_slot){0};
}

void ht_cpu_bank_clear(struct ht_device *device, struct ht_bank *bank, uint32_t slot)
{
    (void)device;
    bool any = false;
    slot_free(&bank->slot[slot]);
    for (uint32_t i = 0; i < HT_MAX_BANK_SLOTS; i++)
        any = any || bank->slot[i].entries;
    if (any)
        return;
    ht_free_big(bank->u, bank->u_bytes);
    bank->u = NULL;
    bank->u_bytes = bank->u_stride = 0;
}

void ht_cpu_bank_destroy(struct ht_device *device, struct ht_bank **bank)
{
    struct ht_bank *b = *bank;
    *bank = NULL;
    if (!b)
        return;
    for (uint32_t i = 0; i < HT_MAX_BANK_SLOTS; i++)
        ht_cpu_bank_clear(device, b, i);
    ht_free((void *)b->head.params.linears);
    ht_free(b);
}

// ---- filling a slot

static size_t groups_of(uint32_t n)
{
    return (n + HT_GROUP - 1) / HT_GROUP;
}

// Floats of A and of B for one linear, each rounded to 64 bytes.
static size_t a_floats(const struct ht_weight_params *linear, size_t rank)
{
    return (rank * linear->k + 15) / 16 * 16;
}
static size_t b_floats(const struct ht_weight_params *linear, size_t rank)
{
    return groups_of(linear->n) * rank * HT_GROUP;
}

static size_t u_stride_of(uint32_t max_rank)
{
    return (max_rank + 15) / 16 * 16;
}

// Sums of ranks by linear; the largest. HT_MAX_BANK_SLOTS * HT_MAX_ADAPTER_RANK bounds a sum.
static uint32_t add_ranks(const struct ht_bank_piece *pieces, size_t n_pieces, struct ht_bank_entry *entries)
{
    uint32_t most = 0;
    for (size_t i = 0; i < n_pieces; i++) {
        uint32_t *rank = &entries[pieces[i].linear].rank;
        *rank += pieces[i].rank;
        most = *rank > most ? *rank : most;
    }
    return most;
}

// Each linear's A, then its B, in one block; returns its floats. data NULL: only that.
static size_t lay_out(const struct ht_bank *bank, struct ht_bank_entry *entries, float *data)
{
    size_t used = 0;
    for (uint32_t i = 0; i < bank->head.params.n_linears; i++) {
        const struct ht_weight_params *linear = &bank->head.params.linears[i];
        if (!entries[i].rank)
            continue;
        size_t a = used, b = a + a_floats(linear, entries[i].rank);
        used = b + b_floats(linear, entries[i].rank);
        if (data) {
            entries[i].a = data + a;
            entries[i].b = data + b;
        }
    }
    return used;
}

// Rank by rank behind what the linear already has (`done`). False: a scaled value is not finite.
static bool put_piece(const struct ht_bank *bank, const struct ht_bank_piece *piece, struct ht_bank_entry *entry,
                      uint32_t done)
{
    const struct ht_weight_params *linear = &bank->head.params.linears[piece->linear];
    float *a = (float *)entry->a + (size_t)done * linear->k, *b = (float *)entry->b;
    memcpy(a, piece->a, (size_t)piece->rank * linear->k * sizeof *a);
    bool finite = true;
    for (uint32_t i = 0; i < linear->n; i++)
        for (uint32_t j = 0; j < piece->rank; j++) {
            float value = piece->scale * piece->b[(size_t)i * piece->rank + j];
            b[((size_t)i / HT_GROUP * entry->rank + done + j) * HT_GROUP + i % HT_GROUP] = value;
            finite = finite && isfinite(value);
        }
    return finite;
}

static enum hearth_status put_pieces(const struct ht_bank *bank, const struct ht_bank_piece *pieces, size_t n_pieces,
                                     struct ht_bank_entry *entries, struct hearth_error *err)
{
    uint32_t *done = ht_calloc(bank->head.params.n_linears, sizeof *done);
    if (!done)
        return ht_fail(err, HEARTH_NOMEM, "out of memory for an adapter");
    bool finite = true;
    for (size_t i = 0; i < n_pieces && finite; i++) {
        finite = put_piece(bank, &pieces[i], &entries[pieces[i].linear], done[pieces[i].linear]);
        done[pieces[i].linear] += pieces[i].rank;
    }
    ht_free(done);
    return finite ? HEARTH_OK
                  : ht_fail(err, HEARTH_INVALID, "with its scale of %g the adapter has values that are no numbers",
                            (double)pieces[0].scale);
}

static size_t u_bytes_of(const struct ht_bank *bank, uint32_t max_rank)
{
    return 3 * (size_t)bank->head.params.rows * u_stride_of(max_rank) * sizeof(float);
}

// Refuses what cannot fit, with the figures. Free memory that is not known (0) refuses nothing.
static enum hearth_status check_room(const struct ht_bank *bank, const struct ht_bank_slot *slot,
                                     struct hearth_error *err)
{
    const double mib = 1048576;
    size_t u = u_bytes_of(bank, slot->max_rank);
    double need = (double)slot->data_bytes + (u > bank->u_bytes ? (double)u : 0), have = (double)ht_memory_free();
    if (have == 0 || need <= have)
        return HEARTH_OK;
    return ht_fail(err, HEARTH_NOMEM, "the adapter needs %.1f MiB, %.1f MiB are free", need / mib, have / mib);
}

static enum hearth_status make_slot(const struct ht_bank *bank, const struct ht_bank_piece *pieces, size_t n_pieces,
                                    struct ht_bank_slot *slot, struct hearth_error *err)
{
    slot->entries = ht_calloc(bank->head.params.n_linears, sizeof *slot->entries);
    if (!slot->entries)
        return ht_fail(err, HEARTH_NOMEM, "out of memory for an adapter");
    slot->max_rank = add_ranks(pieces, n_pieces, slot->entries);
    slot->data_bytes = lay_out(bank, slot->entries, NULL) * sizeof(float);
    HT_TRY(check_room(bank, slot, err));
    slot->data = ht_alloc_big(slot->data_bytes ? slot->data_bytes : 1);
    if (!slot->data)
        return ht_fail(err, HEARTH_NOMEM, "out of memory for %zu bytes of an adapter", slot->data_bytes);
    lay_out(bank, slot->entries, (float *)(void *)slot->data);
    return put_pieces(bank, pieces, n_pieces, slot->entries, err);
}

// Room for A x of the largest rank.
static enum hearth_status grow_u(struct ht_bank *bank, uint32_t max_rank, struct hearth_error *err)
{
    size_t bytes = u_bytes_of(bank, max_rank);
    if (bytes <= bank->u_bytes)
        return HEARTH_OK;
    float *u = ht_alloc_big(bytes);
    if (!u)
        return ht_fail(err, HEARTH_NOMEM, "out of memory for %zu bytes of an adapter's scratch", bytes);
    ht_free_big(bank->u, bank->u_bytes);
    bank->u = u;
    bank->u_bytes = bytes;
    bank->u_stride = (uint32_t)u_stride_of(max_rank);
    return HEARTH_OK;
}

uint64_t ht_cpu_bank_bytes(const struct ht_bank *bank)
{
    uint64_t bytes = bank->u_bytes;
    for (uint32_t i = 0; i < HT_MAX_BANK_SLOTS; i++)
        if (bank->slot[i].entries)
            bytes += bank->slot[i].data_bytes + bank->head.params.n_linears * sizeof(struct ht_bank_entry);
    return bytes;
}

enum hearth_status ht_cpu_bank_set(struct ht_device *device, struct ht_bank *bank, uint32_t slot,
                                   const struct ht_bank_piece *pieces, size_t n_pieces, struct hearth_error *err)
{
    (void)device;
    HT_TRY(ht_check_bank_pieces(bank, slot, pieces, n_pieces, err));
    struct ht_bank_slot made = {0};
    enum hearth_status status = make_slot(bank, pieces, n_pieces, &made, err);
    if (status == HEARTH_OK)
        status = grow_u(bank, made.max_rank, err);
    if (status != HEARTH_OK) {
        slot_free(&made);
        return status;
    }
    slot_free(&bank->slot[slot]);
    bank->slot[slot] = made;
    return HEARTH_OK;
}
