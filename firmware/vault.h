// SPDX-License-Identifier: Apache-2.0
// Keys of texts and the one seal/open pair. Owns box.key and turns.keys in the state folder. A text can be
// read only while its key stands in turns.keys: hd_vault_destroy makes it unreadable wherever copies of it
// lie. Server loop thread only. Formats: top of vault.c. Users of the store need only hd_vault_seal/open, for
// data that the store does not know.
#ifndef HD_VAULT_H
#define HD_VAULT_H
#include "firmware/util.h"

struct hd_vault;

enum hd_key_kind {
    HD_KEY_TURN = 1,         // text and token ids of one turn
    HD_KEY_CONVERSATION = 2, // title
    HD_KEY_PREFIX = 3,       // a person's caches on disk (prefixes.h); goes with any deletion of theirs
    HD_KEY_LEARN = 4,        // a data set, a training or an adapter; of a person's conversations: as above
};

struct hd_key_spec {
    enum hd_key_kind kind;
    struct hd_id id;     // of the turn or conversation
    struct hd_id person; // whose it is
};

// Where a sealed value stands. It can be opened only there (additional data of AES-GCM).
struct hd_slot {
    const char *table; // at most 32 bytes
    const char *field; // at most 32 bytes
    struct hd_id row;
};

enum {
    HD_SEAL_OVERHEAD_BYTES = 32,  // sealed length = plain length + this
    HD_SEAL_MAX_BYTES = 64 << 20, // one value
    HD_VAULT_MAX_KEYS = 4 << 20,
    HD_VAULT_MAX_BATCH = 8, // keys in one hd_vault_add
};

// Opens or creates both files in `dir`. box.key is created only while turns.keys is absent, turns.keys only
// when `may_create`; a file that is missing, damaged or not the other's partner is FORMAT, and nothing is
// changed on disk.
enum hearth_status hd_vault_open(struct hd_vault **vault, const char *dir, bool may_create,
                                 struct hearth_error *err);
void hd_vault_close(struct hd_vault **vault); // wipes; NULL allowed
// Bytes of turns.keys that are no authentic record (a torn append after a crash, or damage); the store
// repairs, which drops them, once it knows that no row needs the lost keys.
size_t hd_vault_damaged_bytes(const struct hd_vault *vault);
enum hearth_status hd_vault_repair(struct hd_vault *vault, struct hearth_error *err);

size_t hd_vault_count(const struct hd_vault *vault);
uint64_t hd_vault_generation(const struct hd_vault *vault); // counts deletions
// 16 bytes that never change in the life of this key file; the store keeps them too.
struct hd_id hd_vault_file_id(const struct hd_vault *vault);
bool hd_vault_has(const struct hd_vault *vault, const struct hd_id *id);
// The first `capacity` ids of keys of this kind, of this person (NULL: anybody); returns how many there are.
size_t hd_vault_find(const struct hd_vault *vault, enum hd_key_kind kind, const struct hd_id *person,
                     struct hd_id *ids, size_t capacity);
// Whose key it is; false: there is no such key.
bool hd_vault_person(const struct hd_vault *vault, const struct hd_id *id, struct hd_id *person);
// Makes n random keys and returns when they are on disk. INVALID if an id has a key already.
enum hearth_status hd_vault_add(struct hd_vault *vault, const struct hd_key_spec *specs, size_t n,
                                struct hearth_error *err);
// Rewrites the key file without these keys, under the next generation, and returns when that is on disk.
// Ids without a key are skipped. When it fails, all or none of them are gone (hd_vault_has tells), and
// calling it again is right: success is said only when the new file is on disk.
enum hearth_status hd_vault_destroy(struct hd_vault *vault, const struct hd_id *ids, size_t n,
                                    struct hearth_error *err);

// The one pair. `out` is malloc'ed. open: NOT_FOUND when the key is gone, FORMAT when the value is not
// authentic here; its result is NUL-terminated beyond *out_len and is given back with hd_wipe_free.
enum hearth_status hd_vault_seal(struct hd_vault *vault, const struct hd_id *key, const struct hd_slot *slot,
                                 const void *data, size_t len_bytes, uint8_t **out, size_t *out_len,
                                 struct hearth_error *err);
enum hearth_status hd_vault_open_value(struct hd_vault *vault, const struct hd_id *key,
                                       const struct hd_slot *slot, const void *sealed, size_t len_bytes,
                                       uint8_t **out, size_t *out_len, struct hearth_error *err);

// The key taken out, for another thread (seal.h). Until the last reference goes it opens what it has sealed, also after
// hd_vault_destroy.
struct hd_sealer;
enum hearth_status hd_vault_sealer(struct hd_vault *vault, const struct hd_id *key, struct hd_sealer **sealer,
                                   struct hearth_error *err);

#endif
