// SPDX-License-Identifier: Apache-2.0
// Sealed values, and keys outside of the vault. Any thread.
//
// Sealed value: 0 u8 version (1) | 1 u8 algorithm (1 = AES-256-GCM) | 2 u16 zero | 4 nonce (12) | text | tag (16)
//   AAD = "hearth.seal" | bytes 0..3 | u32 SCHEMA | key id (16) | row id (16) | u8 length + table | u8 length + field.
// Nonces are random.
#include "firmware/seal.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum {
    KEY_BYTES = 32,
    NONCE_BYTES = 12,
    TAG_BYTES = 16,
    SEAL_VERSION = 1,
    SEAL_HEAD_BYTES = 4,
    SEAL_SCHEMA = 1, // of what is inside the sealed fields
    SEAL_NAME_BYTES = 32,
    SEAL_AAD_BYTES = 11 + SEAL_HEAD_BYTES + 4 + 16 + 16 + 2 * (1 + SEAL_NAME_BYTES),
};

static enum hearth_status no_memory(struct hearth_error *err)
{
    return hd_fail(err, HEARTH_NOMEM, "out of memory");
}

static size_t put_name(uint8_t *p, const char *name)
{
    size_t len_bytes = strnlen(name, SEAL_NAME_BYTES);
    p[0] = (uint8_t)len_bytes;
    memcpy(p + 1, name, len_bytes);
    return 1 + len_bytes;
}

static size_t seal_aad(uint8_t aad[SEAL_AAD_BYTES], const uint8_t *head, const struct hd_id *key,
                       const struct hd_slot *slot)
{
    uint8_t *p = aad;
    memcpy(p, "hearth.seal", 11);
    p += 11;
    memcpy(p, head, SEAL_HEAD_BYTES);
    p += SEAL_HEAD_BYTES;
    memcpy(p, (const uint8_t[4]){SEAL_SCHEMA, 0, 0, 0}, 4);
    p += 4;
    memcpy(p, key->b, 16);
    p += 16;
    memcpy(p, slot->row.b, 16);
    p += 16;
    p += put_name(p, slot->table);
    p += put_name(p, slot->field);
    return (size_t)(p - aad);
}

enum hearth_status hd_seal_with(mbedtls_gcm_context *gcm, const struct hd_id *key, const struct hd_slot *slot,
                                const void *data, size_t len_bytes, uint8_t **out, size_t *out_len,
                                struct hearth_error *err)
{
    *out = NULL;
    *out_len = 0;
    if (len_bytes > HD_SEAL_MAX_BYTES)
        return hd_fail(err, HEARTH_LIMIT, "a text of %zu bytes is too long", len_bytes);
    uint8_t *sealed = malloc(len_bytes + HD_SEAL_OVERHEAD_BYTES);
    if (sealed == NULL)
        return no_memory(err);
    memcpy(sealed, (const uint8_t[SEAL_HEAD_BYTES]){SEAL_VERSION, 1, 0, 0}, SEAL_HEAD_BYTES);
    enum hearth_status status = hd_random(sealed + SEAL_HEAD_BYTES, NONCE_BYTES, err);
    if (status == HEARTH_OK) {
        uint8_t aad[SEAL_AAD_BYTES];
        size_t aad_len = seal_aad(aad, sealed, key, slot);
        uint8_t *text = sealed + SEAL_HEAD_BYTES + NONCE_BYTES;
        if (mbedtls_gcm_crypt_and_tag(gcm, MBEDTLS_GCM_ENCRYPT, len_bytes, sealed + SEAL_HEAD_BYTES, NONCE_BYTES, aad,
                                      aad_len, data, text, TAG_BYTES, text + len_bytes) != 0)
            status = hd_fail(err, HEARTH_NOMEM, "AES-GCM failed");
    }
    if (status != HEARTH_OK) {
        free(sealed);
        return status;
    }
    *out = sealed;
    *out_len = len_bytes + HD_SEAL_OVERHEAD_BYTES;
    return HEARTH_OK;
}

enum hearth_status hd_open_with(mbedtls_gcm_context *gcm, const struct hd_id *key, const struct hd_slot *slot,
                                const void *data, size_t len_bytes, uint8_t **out, size_t *out_len,
                                struct hearth_error *err)
{
    *out = NULL;
    *out_len = 0;
    const uint8_t *sealed = data;
    if (len_bytes < HD_SEAL_OVERHEAD_BYTES || len_bytes > (size_t)HD_SEAL_MAX_BYTES + HD_SEAL_OVERHEAD_BYTES ||
        sealed[0] != SEAL_VERSION || sealed[1] != 1)
        return hd_fail(err, HEARTH_FORMAT, "a stored %s of table %s is damaged", slot->field, slot->table);
    size_t text_len = len_bytes - HD_SEAL_OVERHEAD_BYTES;
    uint8_t *text = calloc(1, text_len + 1), aad[SEAL_AAD_BYTES];
    if (text == NULL)
        return no_memory(err);
    size_t aad_len = seal_aad(aad, sealed, key, slot);
    const uint8_t *body = sealed + SEAL_HEAD_BYTES + NONCE_BYTES;
    if (mbedtls_gcm_auth_decrypt(gcm, text_len, sealed + SEAL_HEAD_BYTES, NONCE_BYTES, aad, aad_len, body + text_len,
                                 TAG_BYTES, body, text) != 0) {
        hd_wipe_free(text, text_len);
        return hd_fail(err, HEARTH_FORMAT, "a stored %s of table %s is damaged", slot->field, slot->table);
    }
    *out = text;
    *out_len = text_len;
    return HEARTH_OK;
}

// ---- a key at hand

struct hd_sealer {
    atomic_uint refs;
    struct hd_id id;
    uint8_t *key; // hd_secret_alloc
};

enum hearth_status hd_sealer_new(struct hd_sealer **out, const struct hd_id *id, const uint8_t key[32],
                                 struct hearth_error *err)
{
    struct hd_sealer *sealer = calloc(1, sizeof *sealer);
    *out = NULL;
    if (sealer)
        sealer->key = hd_secret_alloc(KEY_BYTES);
    if (!sealer || !sealer->key) {
        free(sealer);
        return no_memory(err);
    }
    atomic_init(&sealer->refs, 1);
    sealer->id = *id;
    memcpy(sealer->key, key, KEY_BYTES);
    *out = sealer;
    return HEARTH_OK;
}

struct hd_sealer *hd_sealer_ref(struct hd_sealer *sealer)
{
    atomic_fetch_add(&sealer->refs, 1);
    return sealer;
}

void hd_sealer_unref(struct hd_sealer **out)
{
    struct hd_sealer *sealer = *out;
    *out = NULL;
    if (!sealer || atomic_fetch_sub(&sealer->refs, 1) != 1)
        return;
    hd_secret_free(sealer->key, KEY_BYTES);
    free(sealer);
}

const struct hd_id *hd_sealer_id(const struct hd_sealer *sealer)
{
    return &sealer->id;
}

static bool cipher(const struct hd_sealer *sealer, mbedtls_gcm_context *gcm)
{
    mbedtls_gcm_init(gcm);
    return mbedtls_gcm_setkey(gcm, MBEDTLS_CIPHER_ID_AES, sealer->key, KEY_BYTES * 8) == 0;
}

enum hearth_status hd_sealer_seal(const struct hd_sealer *sealer, const struct hd_slot *slot, const void *data,
                                  size_t len_bytes, uint8_t **out, size_t *out_len, struct hearth_error *err)
{
    mbedtls_gcm_context gcm;
    *out = NULL;
    enum hearth_status status = cipher(sealer, &gcm)
                                    ? hd_seal_with(&gcm, &sealer->id, slot, data, len_bytes, out, out_len, err)
                                    : no_memory(err);
    mbedtls_gcm_free(&gcm);
    return status;
}

enum hearth_status hd_sealer_open(const struct hd_sealer *sealer, const struct hd_slot *slot, const void *sealed,
                                  size_t len_bytes, uint8_t **out, size_t *out_len, struct hearth_error *err)
{
    mbedtls_gcm_context gcm;
    *out = NULL;
    enum hearth_status status = cipher(sealer, &gcm)
                                    ? hd_open_with(&gcm, &sealer->id, slot, sealed, len_bytes, out, out_len, err)
                                    : no_memory(err);
    mbedtls_gcm_free(&gcm);
    return status;
}
