// SPDX-License-Identifier: Apache-2.0
// Four lanes take the words in turn; each step (xor, multiply by an odd number, xor of a shift) can be undone, so two
// streams that differ in one word end in different lanes.
#include "engine/base/hash.h"

#include <string.h>

static const uint64_t odd[HT_HASH_LANES] = {0x9E3779B97F4A7C15u, 0xD6E8FEB86659FD93u, 0xA0761D6478BD642Fu,
                                            0xE7037ED1A0B428DBu};

static inline uint64_t mix(uint64_t h, uint64_t word, uint64_t factor)
{
    h = (h ^ word) * factor;
    return h ^ h >> 29;
}

static inline uint64_t load_le(const unsigned char *p)
{
    uint64_t word;
    memcpy(&word, p, sizeof word);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    word = __builtin_bswap64(word);
#endif
    return word;
}

static void add_block(struct ht_hash *hash, const unsigned char *block)
{
    for (int i = 0; i < HT_HASH_LANES; i++)
        hash->lane[i] = mix(hash->lane[i], load_le(block + 8 * i), odd[i]);
}

void ht_hash_init(struct ht_hash *hash)
{
    *hash = (struct ht_hash){.n_bytes = 0};
    for (int i = 0; i < HT_HASH_LANES; i++)
        hash->lane[i] = odd[i] >> 1;
}

void ht_hash_add(struct ht_hash *hash, const void *data, size_t len_bytes)
{
    const unsigned char *at = data;
    size_t held = hash->n_bytes % HT_HASH_BLOCK, room = HT_HASH_BLOCK - held;
    hash->n_bytes += len_bytes;
    if (held && len_bytes >= room) {
        memcpy(hash->part + held, at, room);
        add_block(hash, hash->part);
        at += room;
        len_bytes -= room;
        held = 0;
    }
    for (; !held && len_bytes >= HT_HASH_BLOCK; at += HT_HASH_BLOCK, len_bytes -= HT_HASH_BLOCK)
        add_block(hash, at);
    if (len_bytes)
        memcpy(hash->part + held, at, len_bytes);
}

void ht_hash_end(struct ht_hash *hash, unsigned char out[HT_HASH_BYTES])
{
    size_t held = hash->n_bytes % HT_HASH_BLOCK;
    memset(hash->part + held, 0, HT_HASH_BLOCK - held);
    add_block(hash, hash->part);
    uint64_t a = hash->n_bytes, b = ~hash->n_bytes;
    for (int i = 0; i < HT_HASH_LANES; i++) {
        a = mix(a, hash->lane[i], odd[i]);
        b = mix(b, hash->lane[HT_HASH_LANES - 1 - i] ^ a, odd[i]);
    }
    for (int i = 0; i < 8; i++) {
        out[i] = (unsigned char)(a >> 8 * i);
        out[8 + i] = (unsigned char)(b >> 8 * i);
    }
}
