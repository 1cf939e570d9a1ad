// SPDX-License-Identifier: Apache-2.0
// SHA-256 by mbedTLS's message digest layer, whose calls are the same in 2.28 and 3.6. Any thread.
#include "tools/hash.h"

#include <errno.h>
#include <fcntl.h>
#include <mbedtls/md.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct hash {
    mbedtls_md_context_t md;
};

struct hash *hash_create(void)
{
    struct hash *hash = calloc(1, sizeof *hash);
    if (!hash)
        return NULL;
    mbedtls_md_init(&hash->md);
    if (mbedtls_md_setup(&hash->md, mbedtls_md_info_from_type(MBEDTLS_MD_SHA256), 0) ||
        mbedtls_md_starts(&hash->md)) {
        mbedtls_md_free(&hash->md);
        free(hash);
        return NULL;
    }
    return hash;
}

bool hash_add(struct hash *hash, const void *data, size_t len_bytes)
{
    return !mbedtls_md_update(&hash->md, data, len_bytes);
}

void hash_to_hex(const unsigned char bytes[HASH_BYTES], char hex[HASH_HEX])
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < HASH_BYTES; i++) {
        hex[2 * i] = digits[bytes[i] >> 4];
        hex[2 * i + 1] = digits[bytes[i] & 15];
    }
    hex[HASH_HEX - 1] = 0;
}

bool hash_end(struct hash **hash, char hex[HASH_HEX])
{
    unsigned char bytes[HASH_BYTES];
    hex[0] = 0;
    if (!*hash)
        return false;
    bool good = !mbedtls_md_finish(&(*hash)->md, bytes);
    if (good)
        hash_to_hex(bytes, hex);
    mbedtls_md_free(&(*hash)->md);
    free(*hash);
    *hash = NULL;
    return good;
}

bool hash_parse(const char *text, size_t len_bytes, char hex[HASH_HEX])
{
    hex[0] = 0;
    if (len_bytes != HASH_HEX - 1)
        return false;
    for (size_t i = 0; i < len_bytes; i++) {
        char c = text[i];
        if (c >= 'A' && c <= 'F')
            c = (char)(c - 'A' + 'a');
        if ((c < '0' || c > '9') && (c < 'a' || c > 'f')) {
            hex[0] = 0;
            return false;
        }
        hex[i] = c;
    }
    hex[len_bytes] = 0;
    return true;
}

bool hash_file(const char *path, struct progress *bar, char hex[HASH_HEX])
{
    enum { BLOCK = 1 << 20 };
    hex[0] = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    struct hash *hash = hash_create();
    unsigned char *block = malloc(BLOCK);
    uint64_t done = 0;
    ssize_t n = -1;
    errno = ENOMEM;
    while (hash && block) {
        n = read(fd, block, BLOCK);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0 || !hash_add(hash, block, (size_t)n))
            break;
        done += (uint64_t)n;
        if (bar)
            progress_set(bar, done);
    }
    int saved = errno;
    bool good = hash_end(&hash, hex) && n == 0;
    free(block);
    close(fd);
    errno = saved;
    if (!good)
        hex[0] = 0;
    return good;
}
