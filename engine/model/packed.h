// SPDX-License-Identifier: Apache-2.0
// Files of packed weights: what a device made of a model, so that the next start need not pack. A cache: whatever is
// wrong with a file, the weights are packed from the model's own. Reading: the loading thread, with the device's team.
#ifndef HT_PACKED_H
#define HT_PACKED_H
#include "engine/base/hash.h"
#include "engine/model/model.h"

enum { HT_SHA256_HEX = 64, HT_PACKED_FORM_HEX = 32 };

// What a file is bound to. Contract and KV type, of which the numerics id is made too, change no byte of weights.
struct ht_packed_key {
    char base_sha256[HT_SHA256_HEX + 1];
    char form[HT_PACKED_FORM_HEX + 1];  // back end, its arithmetic, its layout
    unsigned char files[HT_HASH_BYTES]; // size and time of change of the model's files: it may be split
};
bool ht_packed_sha256_valid(const char *hex);

// A file that was found, and fits this model. NOT_FOUND: there is none.
struct ht_packed;
HT_MUST_USE enum hearth_status ht_packed_open(struct ht_packed **packed, const char *dir,
                                              const struct ht_packed_key *key, const struct ht_model *model,
                                              struct hearth_error *err);
void ht_packed_close(struct ht_packed **packed);
uint32_t ht_packed_n_weights(const struct ht_packed *packed);
// Fills weights [from, *to) of the model in one go, about *bytes of them; then *bytes is what they are. After a failure
// those are as new, and the ones before are good.
HT_MUST_USE enum hearth_status ht_packed_fill(struct ht_packed *packed, uint32_t from, uint32_t *to, uint64_t *bytes,
                                              struct hearth_error *err);
// Which of them a weight is.
bool ht_packed_index(const struct ht_packed *packed, const struct ht_weight *w, uint32_t *index);

#endif
