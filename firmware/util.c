// SPDX-License-Identifier: Apache-2.0
// Ids, clock, log, UTF-8, randomness, hashing, errors. Owns the log sink and the clock, set before threads
// start.
#include "firmware/util.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include <mbedtls/constant_time.h>
#include <mbedtls/md.h>
#include <mbedtls/platform_util.h>

// ---- ids

bool hd_id_equal(const struct hd_id *a, const struct hd_id *b)
{
    return memcmp(a->b, b->b, HD_ID_BYTES) == 0;
}

bool hd_id_is_zero(const struct hd_id *id)
{
    static const struct hd_id zero;
    return hd_id_equal(id, &zero);
}

bool hd_id_from(struct hd_id *id, const void *data, size_t len_bytes)
{
    memset(id, 0, sizeof *id);
    if (len_bytes != HD_ID_BYTES)
        return false;
    memcpy(id->b, data, HD_ID_BYTES);
    return !hd_id_is_zero(id);
}

enum hearth_status hd_id_random(struct hd_id *id, struct hearth_error *err)
{
    do {
        enum hearth_status status = hd_random(id->b, sizeof id->b, err);
        if (status != HEARTH_OK)
            return status;
    } while (hd_id_is_zero(id));
    return HEARTH_OK;
}

void hd_hex(char *out, const void *data, size_t len_bytes)
{
    static const char digits[] = "0123456789abcdef";
    const uint8_t *bytes = data;
    for (size_t i = 0; i < len_bytes; i++) {
        out[2 * i] = digits[bytes[i] >> 4];
        out[2 * i + 1] = digits[bytes[i] & 15];
    }
    out[2 * len_bytes] = '\0';
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

bool hd_unhex(void *out, size_t len_bytes, const char *text)
{
    uint8_t *bytes = out;
    for (size_t i = 0; i < len_bytes; i++) {
        int high = hex_value(text[2 * i]);
        int low = high < 0 ? -1 : hex_value(text[2 * i + 1]);
        if (low < 0)
            return false;
        bytes[i] = (uint8_t)(high << 4 | low);
    }
    return text[2 * len_bytes] == '\0';
}

void hd_put_le(uint8_t *to, uint64_t value, size_t n_bytes)
{
    for (size_t i = 0; i < n_bytes; i++)
        to[i] = (uint8_t)(value >> 8 * i);
}

uint64_t hd_get_le(const uint8_t *from, size_t n_bytes)
{
    uint64_t value = 0;
    for (size_t i = 0; i < n_bytes; i++)
        value |= (uint64_t)from[i] << 8 * i;
    return value;
}

// ---- secrets

enum hearth_status hd_random(void *out, size_t len_bytes, struct hearth_error *err)
{
    uint8_t *bytes = out;
    while (len_bytes > 0) {
        ssize_t got = getrandom(bytes, len_bytes, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return hd_fail(err, HEARTH_IO, "no random numbers from the kernel: %s", strerror(errno));
        bytes += got;
        len_bytes -= (size_t)got;
    }
    return HEARTH_OK;
}

void hd_sha256(uint8_t out[HD_HASH_BYTES], const void *data, size_t len_bytes)
{
    const mbedtls_md_info_t *info = mbedtls_md_info_from_type(MBEDTLS_MD_SHA256);
    if (info == NULL || mbedtls_md(info, data, len_bytes, out) != 0) {
        hd_log(HD_LOG_ERROR, "SHA-256 does not work in this build of mbedTLS");
        abort(); // nothing that compares hashes may go on
    }
}

bool hd_secret_equal(const void *a, const void *b, size_t len_bytes)
{
    return mbedtls_ct_memcmp(a, b, len_bytes) == 0;
}

void hd_wipe(void *p, size_t len_bytes)
{
    if (p != NULL)
        mbedtls_platform_zeroize(p, len_bytes);
}

void hd_wipe_free(void *p, size_t len_bytes)
{
    hd_wipe(p, len_bytes);
    free(p);
}

static size_t whole_pages(size_t len_bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return (len_bytes + page - 1) / page * page;
}

void *hd_secret_alloc(size_t len_bytes)
{
    size_t size = whole_pages(len_bytes);
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    if (mlock(p, size) != 0)
        hd_log(HD_LOG_WARN, "keys cannot be locked in memory (%s): they may reach the swap", strerror(errno));
    (void)madvise(p, size, MADV_DONTDUMP);
    (void)madvise(p, size, MADV_DONTFORK);
    return p;
}

void hd_secret_free(void *p, size_t len_bytes)
{
    if (p == NULL)
        return;
    hd_wipe(p, len_bytes);
    munmap(p, whole_pages(len_bytes));
}

// ---- clock

static int64_t (*clock_override)(void);

int64_t hd_now_ms(void)
{
    if (clock_override != NULL)
        return clock_override();
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void hd_clock_set(int64_t (*now_ms)(void))
{
    clock_override = now_ms;
}

// ---- UTF-8

// Length of the character at text, 0 if it is not well-formed, -1 if it is cut off by the end.
static int utf8_char(const uint8_t *text, size_t len_bytes)
{
    uint8_t c = text[0];
    if (c < 0x80)
        return c == 0 ? 0 : 1;
    int n = c >= 0xc2 && c <= 0xdf ? 2 : (c & 0xf0) == 0xe0 ? 3 : c >= 0xf0 && c <= 0xf4 ? 4 : 0;
    for (int i = 1; i < n; i++) {
        if ((size_t)i >= len_bytes)
            return -1;
        uint8_t low = 0x80, high = 0xbf;
        if (i == 1) { // no overlong forms, no surrogates, nothing above U+10FFFF
            low = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80;
            high = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
        }
        if (text[i] < low || text[i] > high)
            return 0;
    }
    return n;
}

bool hd_utf8_valid(const char *text, size_t len_bytes)
{
    const uint8_t *bytes = (const uint8_t *)text;
    for (size_t i = 0; i < len_bytes;) {
        int n = utf8_char(bytes + i, len_bytes - i);
        if (n <= 0)
            return false;
        i += (size_t)n;
    }
    return true;
}

size_t hd_utf8_cut(const char *text, size_t len_bytes, size_t max_bytes)
{
    size_t end = len_bytes < max_bytes ? len_bytes : max_bytes;
    if (end == 0)
        return 0;
    size_t start = end - 1; // of the last character, which may be cut off
    while (start > 0 && end - start < 4 && ((uint8_t)text[start] & 0xc0) == 0x80)
        start--;
    return utf8_char((const uint8_t *)text + start, end - start) == -1 ? start : end;
}

// ---- errors and log

enum hearth_status hd_fail(struct hearth_error *err, enum hearth_status code, const char *format, ...)
{
    if (err != NULL) {
        va_list args;
        va_start(args, format);
        err->code = code;
        vsnprintf(err->text, sizeof err->text, format, args);
        va_end(args);
    }
    return code;
}

enum hearth_status hd_fail_errno(struct hearth_error *err, int code, const char *what, const char *path)
{
    int positive = code < 0 ? -code : code;
    return hd_fail(err, positive == ENOMEM ? HEARTH_NOMEM : HEARTH_IO, "%s %s: %s", what, path,
                   strerror(positive));
}

static void log_to_stderr(void *user, enum hd_log_level level, const char *line)
{
    (void)user;
    static const char *const names[] = {"error", "warning", "info", "debug"};
    if (level <= HD_LOG_INFO)
        fprintf(stderr, "hearthd: %s: %s\n", names[level], line);
}

static void (*log_sink)(void *, enum hd_log_level, const char *) = log_to_stderr;
static void *log_user;

void hd_log_set(void (*sink)(void *user, enum hd_log_level level, const char *line), void *user)
{
    log_sink = sink != NULL ? sink : log_to_stderr;
    log_user = user;
}

void hd_log(enum hd_log_level level, const char *format, ...)
{
    char line[512];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    log_sink(log_user, level, line);
}
