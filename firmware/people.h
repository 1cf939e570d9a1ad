// SPDX-License-Identifier: Apache-2.0
// People, their devices, device tokens and one-time pairing secrets; they live in the store's database.
// Tokens and secrets are random, are returned once and kept only as SHA-256. Server loop thread only.
//
// Status → wire: NOT_FOUND from hd_device_authenticate and hd_pair_redeem → CODE_UNAUTHENTICATED
// (unknown, used up, expired, revoked: one answer); the rest as in store.h.
#ifndef HD_PEOPLE_H
#define HD_PEOPLE_H
#include "firmware/store.h"

enum {
    HD_SCOPE_CHAT = 1,
    HD_SCOPE_TRAIN = 2,
    HD_SCOPE_ADMIN = 4,
    HD_SCOPE_ALL = 7,
};
enum {
    HD_MAX_NAME_BYTES = 64, // person and device names [1..64], client strings [0..64]
    HD_MAX_PEOPLE = 64,
    HD_MAX_DEVICES = 1024,    // not revoked
    HD_MAX_PAIR_SECRETS = 32, // not used and not expired
    HD_MAX_PAIR_TTL_MS = 7 * 86400000,
    HD_DEFAULT_PAIR_TTL_MS = 600000,
};

struct hd_person {
    struct hd_id id;
    char name[HD_MAX_NAME_BYTES + 1]; // unique; the first start creates "owner"
    int64_t created_ms;
};
// *people is malloc'ed (free), oldest first.
enum hearth_status hd_people_list(struct hd_store *store, struct hd_person **people, size_t *n,
                                  struct hearth_error *err);
enum hearth_status hd_person_add(struct hd_store *store, const char *name, struct hd_person *person,
                                 struct hearth_error *err);
enum hearth_status hd_person_find(struct hd_store *store, const char *name, struct hd_person *person,
                                  struct hearth_error *err);
enum hearth_status hd_person_get(struct hd_store *store, const struct hd_id *id, struct hd_person *person,
                                 struct hearth_error *err);
// Deletes all conversations (keys first), revokes all devices (the revoked callback runs), removes the
// person. INVALID for the last one. Answers that are being written are the caller's to cancel: `deleted`
// names the turns.
enum hearth_status hd_person_remove(struct hd_store *store, const struct hd_id *person,
                                    struct hd_deleted *deleted, struct hearth_error *err);

struct hd_device {
    struct hd_id id, person;
    char person_name[HD_MAX_NAME_BYTES + 1];
    char name[HD_MAX_NAME_BYTES + 1];
    char client[HD_MAX_NAME_BYTES + 1];
    uint32_t scopes;
    int64_t created_ms, last_seen_ms; // last_seen_ms 0 = never
};

// A new one-time secret for the pairing link. scopes: HD_SCOPE_… bits; ttl_ms 0 = HD_DEFAULT_PAIR_TTL_MS.
enum hearth_status hd_pair_create(struct hd_store *store, const struct hd_id *person, uint32_t scopes,
                                  int64_t ttl_ms, uint8_t secret[HD_SECRET_BYTES], struct hearth_error *err);
// Spends the secret and makes a device with a token. Both or nothing. NOT_FOUND: unknown, used or expired.
enum hearth_status hd_pair_redeem(struct hd_store *store, const void *secret, size_t secret_len,
                                  const char *device_name, const char *client, struct hd_device *device,
                                  uint8_t token[HD_SECRET_BYTES], struct hearth_error *err);
// Notes that a device other than this box's own terminal was invited: the listener may leave loopback, now and
// at every later start. hd_invited tells.
enum hearth_status hd_invite(struct hd_store *store, struct hearth_error *err);
enum hearth_status hd_invited(struct hd_store *store, bool *ever, struct hearth_error *err);

// token_len other than 32 is NOT_FOUND. Counts as "seen". `client` (NULL allowed) updates the device's client
// string.
enum hearth_status hd_device_authenticate(struct hd_store *store, const void *token, size_t token_len,
                                          const char *client, struct hd_device *device,
                                          struct hearth_error *err);
void hd_device_seen(struct hd_store *store,
                    const struct hd_id *device); // in memory; written by hd_store_tick and close
// person NULL = all people's. *devices is malloc'ed (free), oldest first, without revoked ones.
enum hearth_status hd_devices_list(struct hd_store *store, const struct hd_id *person,
                                   struct hd_device **devices, size_t *n, struct hearth_error *err);
// person NULL = whoever's it is (admin). On disk when it returns; then the callback runs.
enum hearth_status hd_device_revoke(struct hd_store *store, const struct hd_id *person,
                                    const struct hd_id *device, struct hearth_error *err);
// Called on the loop thread after a device was revoked, so that its open sockets are closed at once.
void hd_devices_on_revoked(struct hd_store *store, void (*revoked)(void *user, const struct hd_id *device),
                           void *user);

// "chat", "train", "admin" for one bit; NULL for anything else. And back: 0 when unknown.
const char *hd_scope_name(uint32_t scope);
uint32_t hd_scope_from(const char *name);

#endif
