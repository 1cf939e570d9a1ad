// SPDX-License-Identifier: Apache-2.0
// The checksum: the same however the bytes come, another one for every changed bit and every other length.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "engine/base/hash.h"

static void sum_of(const void *data, size_t n, size_t piece, unsigned char out[HT_HASH_BYTES])
{
    struct ht_hash hash;
    ht_hash_init(&hash);
    for (size_t at = 0; at < n; at += piece)
        ht_hash_add(&hash, (const unsigned char *)data + at, n - at < piece ? n - at : piece);
    ht_hash_end(&hash, out);
}

static unsigned char text[200];

static void pieces_do_not_matter(void **state)
{
    (void)state;
    unsigned char want[HT_HASH_BYTES], got[HT_HASH_BYTES];
    for (size_t n = 0; n <= sizeof text; n++) {
        sum_of(text, n, sizeof text, want);
        for (size_t piece = 1; piece < 70; piece++) {
            sum_of(text, n, piece, got);
            assert_memory_equal(got, want, sizeof want);
        }
    }
}

static void every_bit_and_length_counts(void **state)
{
    (void)state;
    static unsigned char seen[sizeof text * 9 + 2][HT_HASH_BYTES];
    size_t n_seen = 0;
    for (size_t n = 0; n <= sizeof text; n++)
        sum_of(text, n, 32, seen[n_seen++]);
    for (size_t bit = 0; bit < 8 * sizeof text; bit++) {
        text[bit / 8] ^= (unsigned char)(1 << bit % 8);
        sum_of(text, sizeof text, 32, seen[n_seen++]);
        text[bit / 8] ^= (unsigned char)(1 << bit % 8);
    }
    for (size_t i = 0; i < n_seen; i++)
        for (size_t j = 0; j < i; j++)
            assert_memory_not_equal(seen[i], seen[j], HT_HASH_BYTES);
}

// What files hold: the same on every machine and in every version.
static void known_value(void **state)
{
    (void)state;
    static const unsigned char want[HT_HASH_BYTES] = {0xAF, 0xDB, 0xE7, 0xC3, 0x14, 0x7E, 0x29, 0xC6,
                                                      0xA1, 0x62, 0x90, 0x0F, 0xA4, 0xF3, 0xD0, 0x07};
    unsigned char got[HT_HASH_BYTES];
    sum_of("a stored prefix cache", 21, 21, got);
    assert_memory_equal(got, want, sizeof want);
}

int main(void)
{
    for (size_t i = 0; i < sizeof text; i++)
        text[i] = (unsigned char)(i * 37);
    const struct CMUnitTest tests[] = {cmocka_unit_test(pieces_do_not_matter),
                                       cmocka_unit_test(every_bit_and_length_counts),
                                       cmocka_unit_test(known_value)};
    return cmocka_run_group_tests_name("base_hash", tests, NULL, NULL);
}
