// SPDX-License-Identifier: Apache-2.0
// A fast 128-bit checksum of a stream of bytes, at the speed of memory: finds damage, protects from nobody. Any change
// within one 8-byte word changes it for certain, others with all but 2^-128. The same on every machine.
// A stream belongs to one thread.
#ifndef HT_HASH_H
#define HT_HASH_H
#include <stddef.h>
#include <stdint.h>

enum { HT_HASH_LANES = 4, HT_HASH_BLOCK = 8 * HT_HASH_LANES, HT_HASH_BYTES = 16 };

struct ht_hash {
    uint64_t lane[HT_HASH_LANES], n_bytes;
    unsigned char part[HT_HASH_BLOCK]; // bytes that do not fill a block yet
};
void ht_hash_init(struct ht_hash *hash);
void ht_hash_add(struct ht_hash *hash, const void *data, size_t len_bytes);
void ht_hash_end(struct ht_hash *hash, unsigned char out[HT_HASH_BYTES]);

#endif
