// SPDX-License-Identifier: Apache-2.0
// Sealing and opening with a key that is at hand. Any thread. The format of a sealed value: top of seal.c.
#ifndef HD_SEAL_H
#define HD_SEAL_H
#include <mbedtls/gcm.h>

#include "firmware/vault.h"

// `gcm` is keyed with the key of this id. As hd_vault_seal and hd_vault_open_value.
enum hearth_status hd_seal_with(mbedtls_gcm_context *gcm, const struct hd_id *key, const struct hd_slot *slot,
                                const void *data, size_t len_bytes, uint8_t **out, size_t *out_len,
                                struct hearth_error *err);
enum hearth_status hd_open_with(mbedtls_gcm_context *gcm, const struct hd_id *key, const struct hd_slot *slot,
                                const void *sealed, size_t len_bytes, uint8_t **out, size_t *out_len,
                                struct hearth_error *err);

// A key outside of the vault, in memory that is locked and wiped with the last reference.
struct hd_sealer;
enum hearth_status hd_sealer_new(struct hd_sealer **sealer, const struct hd_id *id, const uint8_t key[32],
                                 struct hearth_error *err);
struct hd_sealer *hd_sealer_ref(struct hd_sealer *sealer);
void hd_sealer_unref(struct hd_sealer **sealer); // NULL allowed
const struct hd_id *hd_sealer_id(const struct hd_sealer *sealer);
enum hearth_status hd_sealer_seal(const struct hd_sealer *sealer, const struct hd_slot *slot, const void *data,
                                  size_t len_bytes, uint8_t **out, size_t *out_len, struct hearth_error *err);
enum hearth_status hd_sealer_open(const struct hd_sealer *sealer, const struct hd_slot *slot, const void *sealed,
                                  size_t len_bytes, uint8_t **out, size_t *out_len, struct hearth_error *err);

#endif
