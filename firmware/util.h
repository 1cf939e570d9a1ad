// SPDX-License-Identifier: Apache-2.0
// Small helpers of the daemon: ids, clock, log, UTF-8, randomness, hashing, errors. Any thread, except the
// setters (main thread, before the others start).
#ifndef HD_UTIL_H
#define HD_UTIL_H
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/status.h"

enum { HD_ID_BYTES = 16, HD_SECRET_BYTES = 32, HD_HASH_BYTES = 32 };

struct hd_id {
    uint8_t b[HD_ID_BYTES];
};

// A file that has the same identity has the same content, as far as a file system tells.
struct hd_file_identity {
    uint64_t dev, ino, size_bytes, mtime_ns;
};
enum { HD_SHA256_HEX_BYTES = 65 };

bool hd_id_equal(const struct hd_id *a, const struct hd_id *b);
bool hd_id_is_zero(const struct hd_id *id); // the zero id stands for "none"
// false when len_bytes is not HD_ID_BYTES or the id is zero.
bool hd_id_from(struct hd_id *id, const void *data, size_t len_bytes);
enum hearth_status hd_id_random(struct hd_id *id, struct hearth_error *err);
// Lower-case hex; `out` has 2 * len_bytes + 1 bytes.
void hd_hex(char *out, const void *data, size_t len_bytes);
// false when `text` is not exactly 2 * len_bytes hex digits.
bool hd_unhex(void *out, size_t len_bytes, const char *text);

// A number in n_bytes [1..8], little-endian, as files and sealed values hold it.
void hd_put_le(uint8_t *to, uint64_t value, size_t n_bytes);
uint64_t hd_get_le(const uint8_t *from, size_t n_bytes);

// From the kernel's generator (getrandom), nothing else.
enum hearth_status hd_random(void *out, size_t len_bytes, struct hearth_error *err);
void hd_sha256(uint8_t out[HD_HASH_BYTES], const void *data, size_t len_bytes);
// Constant time in the contents.
bool hd_secret_equal(const void *a, const void *b, size_t len_bytes);
void hd_wipe(void *p, size_t len_bytes);      // not optimised away; NULL allowed
void hd_wipe_free(void *p, size_t len_bytes); // wipe, then free; NULL allowed
// A private page-aligned block for keys: locked in memory where allowed, left out of core dumps and forks.
void *hd_secret_alloc(size_t len_bytes);        // zeroed, NULL when out of memory
void hd_secret_free(void *p, size_t len_bytes); // wiped

int64_t hd_now_ms(void);                    // Unix time
void hd_clock_set(int64_t (*now_ms)(void)); // tests only; NULL = the system's

// UTF-8 as RFC 3629 has it (no surrogates, no overlong forms, at most U+10FFFF), without NUL bytes.
bool hd_utf8_valid(const char *text, size_t len_bytes);
// The longest prefix of at most max_bytes that ends at a character's border. `text` is valid UTF-8.
size_t hd_utf8_cut(const char *text, size_t len_bytes, size_t max_bytes);

// Fills err (NULL allowed) and returns code.
enum hearth_status hd_fail(struct hearth_error *err, enum hearth_status code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
// Fills err with IO (NOMEM for ENOMEM): "<what> <path>: <strerror>"; code is an errno, negative or positive.
enum hearth_status hd_fail_errno(struct hearth_error *err, int code, const char *what, const char *path);

enum hd_log_level { HD_LOG_ERROR, HD_LOG_WARN, HD_LOG_INFO, HD_LOG_DEBUG };
// One line without its newline. Never a user's text, never a secret. Default sink: stderr, up to INFO.
void hd_log(enum hd_log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));
void hd_log_set(void (*sink)(void *user, enum hd_log_level level, const char *line), void *user);

#endif
