// SPDX-License-Identifier: Apache-2.0
// Sealed files. See sealed_file.h. Any thread.
//
// Integers are little-endian: 0 magic "HRTHLRN1" | 8 id of the item's key (16) | 24 id of this writing (16), then
// records: u32 length | sealed. The first record is the head (u64 bytes of the content), the others are the content in
// parts of PART_BYTES. A part opens only with this writing's id, the file's name and its number: parts of two writings
// cannot be mixed. Written beside its name, fsynced and renamed: a power cut leaves the one before or this one.
#include "firmware/sealed_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "firmware/io.h"

enum {
    PREFACE_BYTES = 8 + 2 * HD_ID_BYTES,
    PART_BYTES = 1 << 20,
    ITEM_HEX = 2 * HD_ID_BYTES,
    FILE_PATH_BYTES = HD_PATH_BYTES + ITEM_HEX + HD_SEALED_NAME_BYTES + 32,
};
static const char magic[8] = {'H', 'R', 'T', 'H', 'L', 'R', 'N', '1'};

struct transfer {
    const struct hd_sealed_place *place;
    const char *name;
    int fd;
    struct hd_id writing;
    uint64_t offset;
    unsigned part; // 0 = the head
};

bool hd_sealed_name_ok(const char *name)
{
    size_t n = strlen(name);
    return n >= 1 && n <= HD_SEALED_NAME_BYTES && name[0] != '.' &&
           strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == n;
}

static enum hearth_status path_of(const char *dir, const struct hd_id *item, const char *name, const char *suffix,
                                  char path[FILE_PATH_BYTES], struct hearth_error *err)
{
    char hex[ITEM_HEX + 1];
    hd_hex(hex, item->b, HD_ID_BYTES);
    if (!hd_sealed_name_ok(name))
        return hd_fail(err, HEARTH_INVALID, "a file of the box cannot have that name");
    int n = snprintf(path, FILE_PATH_BYTES, "%s/%s.%s%s", dir, hex, name, suffix);
    return n < FILE_PATH_BYTES ? HEARTH_OK : hd_fail(err, HEARTH_INVALID, "%s: the path is too long", dir);
}

static struct hd_slot slot_of(const struct transfer *t, char field[24])
{
    snprintf(field, 24, t->part ? "part %u" : "head", t->part);
    return (struct hd_slot){.table = t->name, .field = field, .row = t->writing};
}

// ---- writing

static enum hearth_status write_record(struct transfer *t, const void *data, size_t len_bytes, struct hearth_error *err)
{
    char field[24];
    uint8_t *sealed, length[4];
    size_t sealed_len;
    struct hd_slot slot = slot_of(t, field);
    enum hearth_status status = hd_sealer_seal(t->place->sealer, &slot, data, len_bytes, &sealed, &sealed_len, err);
    if (status != HEARTH_OK)
        return status;
    hd_put_le(length, sealed_len, 4);
    int result = hd_io_write_all(t->fd, length, sizeof length, t->offset);
    if (result == 0)
        result = hd_io_write_all(t->fd, sealed, sealed_len, t->offset + sizeof length);
    free(sealed);
    t->offset += sizeof length + sealed_len;
    t->part++;
    return result == 0 ? HEARTH_OK : hd_fail_errno(err, result, "cannot write in", t->place->dir);
}

// Content comes from memory or, with data NULL, from an open file.
static enum hearth_status write_content(struct transfer *t, const uint8_t *data, int from, uint64_t len_bytes,
                                        struct hearth_error *err)
{
    uint8_t preface[PREFACE_BYTES], head[8];
    uint8_t *buffer = data ? NULL : malloc(PART_BYTES);
    if (!data && !buffer)
        return hd_fail(err, HEARTH_NOMEM, "out of memory");
    memcpy(preface, magic, sizeof magic);
    memcpy(preface + 8, hd_sealer_id(t->place->sealer)->b, HD_ID_BYTES);
    memcpy(preface + 8 + HD_ID_BYTES, t->writing.b, HD_ID_BYTES);
    hd_put_le(head, len_bytes, 8);
    int result = hd_io_write_all(t->fd, preface, sizeof preface, 0);
    t->offset = PREFACE_BYTES;
    enum hearth_status status = result == 0 ? write_record(t, head, sizeof head, err)
                                            : hd_fail_errno(err, result, "cannot write in", t->place->dir);
    for (uint64_t at = 0; at < len_bytes && status == HEARTH_OK;) {
        size_t n = len_bytes - at < PART_BYTES ? (size_t)(len_bytes - at) : PART_BYTES;
        if (!data && pread(from, buffer, n, (off_t)at) != (ssize_t)n)
            status = hd_fail(err, HEARTH_IO, "what was to be stored is shorter than was said");
        else
            status = write_record(t, data ? data + at : buffer, n, err);
        at += n;
    }
    hd_wipe_free(buffer, buffer ? PART_BYTES : 0);
    return status;
}

static enum hearth_status write_file(const struct hd_sealed_place *place, const char *name, const uint8_t *data,
                                     int from, uint64_t len_bytes, struct hearth_error *err)
{
    const struct hd_io *io = hd_io();
    const struct hd_id *item = hd_sealer_id(place->sealer);
    struct transfer t = {.place = place, .name = name, .fd = -1};
    char path[FILE_PATH_BYTES], fresh[FILE_PATH_BYTES];
    enum hearth_status status = path_of(place->dir, item, name, "", path, err);
    if (status == HEARTH_OK)
        status = path_of(place->dir, item, name, "~new", fresh, err);
    if (status == HEARTH_OK)
        status = hd_id_random(&t.writing, err);
    if (status != HEARTH_OK)
        return status;
    t.fd = io->open(io->user, fresh, O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW, 0600);
    if (t.fd < 0)
        return hd_fail_errno(err, t.fd, "cannot write in", place->dir);
    status = write_content(&t, data, from, len_bytes, err);
    int result = status == HEARTH_OK ? io->fsync(io->user, t.fd) : 0, closed = io->close(io->user, t.fd);
    result = result ? result : closed;
    if (status == HEARTH_OK && result == 0)
        result = io->rename(io->user, fresh, path);
    if (status != HEARTH_OK || result != 0)
        (void)io->unlink(io->user, fresh);
    else
        result = io->fsync_dir(io->user, place->dir);
    if (status == HEARTH_OK && result != 0)
        status = hd_fail_errno(err, result, "cannot write in", place->dir);
    return status;
}

enum hearth_status hd_sealed_write(const struct hd_sealed_place *place, const char *name, const void *data,
                                   size_t len_bytes, struct hearth_error *err)
{
    return write_file(place, name, len_bytes ? data : (const void *)"", -1, len_bytes, err);
}

enum hearth_status hd_sealed_write_fd(const struct hd_sealed_place *place, const char *name, int fd, uint64_t len_bytes,
                                      struct hearth_error *err)
{
    return write_file(place, name, NULL, fd, len_bytes, err);
}

// ---- reading

static enum hearth_status damaged(const struct transfer *t, struct hearth_error *err)
{
    return hd_fail(err, HEARTH_FORMAT, "%s: a stored %s is damaged", t->place->dir, t->name);
}

// *data is malloc'ed.
static enum hearth_status read_record(struct transfer *t, uint8_t **data, size_t *len_bytes, struct hearth_error *err)
{
    char field[24];
    uint8_t length[4];
    *data = NULL;
    *len_bytes = 0;
    if (hd_io_read_all(t->fd, length, sizeof length, t->offset) != (int64_t)sizeof length)
        return damaged(t, err);
    size_t sealed_len = (size_t)hd_get_le(length, 4);
    if (sealed_len > PART_BYTES + HD_SEAL_OVERHEAD_BYTES)
        return damaged(t, err);
    uint8_t *sealed = malloc(sealed_len + 1);
    if (!sealed)
        return hd_fail(err, HEARTH_NOMEM, "out of memory");
    struct hd_slot slot = slot_of(t, field);
    enum hearth_status status =
        hd_io_read_all(t->fd, sealed, sealed_len, t->offset + sizeof length) == (int64_t)sealed_len
            ? hd_sealer_open(t->place->sealer, &slot, sealed, sealed_len, data, len_bytes, err)
            : damaged(t, err);
    free(sealed);
    t->offset += sizeof length + sealed_len;
    t->part++;
    return status;
}

// Opens the file and reads its head.
static enum hearth_status begin(struct transfer *t, uint64_t max_bytes, uint64_t *len_bytes, struct hearth_error *err)
{
    char path[FILE_PATH_BYTES];
    uint8_t preface[PREFACE_BYTES], *head = NULL;
    size_t head_len = 0;
    const struct hd_io *io = hd_io();
    const struct hd_id *item = hd_sealer_id(t->place->sealer);
    enum hearth_status status = path_of(t->place->dir, item, t->name, "", path, err);
    if (status != HEARTH_OK)
        return status;
    t->fd = io->open(io->user, path, O_RDONLY | O_NOFOLLOW, 0);
    if (t->fd == -ENOENT)
        return hd_fail(err, HEARTH_NOT_FOUND, "%s: there is no stored %s", t->place->dir, t->name);
    if (t->fd < 0)
        return hd_fail_errno(err, t->fd, "cannot read in", t->place->dir);
    bool good = hd_io_read_all(t->fd, preface, sizeof preface, 0) == (int64_t)sizeof preface &&
                memcmp(preface, magic, sizeof magic) == 0 && memcmp(preface + 8, item->b, HD_ID_BYTES) == 0;
    t->offset = PREFACE_BYTES;
    memcpy(t->writing.b, preface + 8 + HD_ID_BYTES, HD_ID_BYTES);
    status = good ? read_record(t, &head, &head_len, err) : damaged(t, err);
    if (status == HEARTH_OK && head_len != 8)
        status = damaged(t, err);
    if (status == HEARTH_OK)
        *len_bytes = hd_get_le(head, 8);
    hd_wipe_free(head, head_len);
    if (status == HEARTH_OK && *len_bytes > max_bytes)
        status = hd_fail(err, HEARTH_LIMIT, "%s: a stored %s is larger than it may be", t->place->dir, t->name);
    return status;
}

enum hearth_status hd_sealed_copy(const struct hd_sealed_place *place, const char *name, uint64_t max_bytes, int fd,
                                  uint64_t *len_bytes, struct hearth_error *err)
{
    struct transfer t = {.place = place, .name = name, .fd = -1};
    *len_bytes = 0;
    enum hearth_status status = begin(&t, max_bytes, len_bytes, err);
    for (uint64_t at = 0; at < *len_bytes && status == HEARTH_OK;) {
        uint8_t *part;
        size_t n;
        status = read_record(&t, &part, &n, err);
        if (status == HEARTH_OK && (n == 0 || n > *len_bytes - at))
            status = damaged(&t, err);
        ssize_t written = status == HEARTH_OK ? pwrite(fd, part, n, (off_t)at) : (ssize_t)n;
        if (written != (ssize_t)n)
            status = hd_fail_errno(err, written < 0 ? errno : ENOSPC, "cannot write a copy of the stored", name);
        hd_wipe_free(part, n);
        at += n;
    }
    if (t.fd >= 0)
        (void)hd_io()->close(hd_io()->user, t.fd);
    return status;
}

enum hearth_status hd_sealed_read_fd(const struct hd_sealed_place *place, const char *name, uint64_t max_bytes, int *fd,
                                     uint64_t *len_bytes, struct hearth_error *err)
{
    *len_bytes = 0;
    *fd = memfd_create("hearth", MFD_CLOEXEC);
    if (*fd < 0)
        return hd_fail_errno(err, errno, "cannot make room for a stored", name);
    enum hearth_status status = hd_sealed_copy(place, name, max_bytes, *fd, len_bytes, err);
    if (status != HEARTH_OK) {
        close(*fd);
        *fd = -1;
    }
    return status;
}

// ---- the folder

struct sweep {
    const char *dir;
    const struct hd_id *item; // of which
    bool (*kept)(void *user, const struct hd_id *item);
    void *user;
};

// Whose file it is by its name; *whole: none that a crash left half-written.
static bool item_of(const char *name, struct hd_id *id, bool *whole)
{
    char hex[ITEM_HEX + 1];
    snprintf(hex, sizeof hex, "%s", name);
    bool ours = hd_unhex(id->b, HD_ID_BYTES, hex) && name[ITEM_HEX] == '.';
    *whole = ours && hd_sealed_name_ok(name + ITEM_HEX + 1);
    return ours;
}

static void look_at(void *arg, const char *name)
{
    const struct sweep *sweep = arg;
    char path[FILE_PATH_BYTES];
    struct hd_id id = {{0}};
    bool whole, ours = item_of(name, &id, &whole);
    bool goes = sweep->item ? ours && hd_id_equal(&id, sweep->item) : !whole || !sweep->kept(sweep->user, &id);
    if (goes && snprintf(path, sizeof path, "%s/%s", sweep->dir, name) < (int)sizeof path)
        (void)hd_io()->unlink(hd_io()->user, path);
}

void hd_sealed_remove(const char *dir, const struct hd_id *item, const char *name)
{
    char path[FILE_PATH_BYTES];
    struct hearth_error ignored;
    struct sweep sweep = {.dir = dir, .item = item};
    if (!name)
        (void)hd_io()->list(hd_io()->user, dir, look_at, &sweep);
    else if (path_of(dir, item, name, "", path, &ignored) == HEARTH_OK)
        (void)hd_io()->unlink(hd_io()->user, path);
}

struct measure {
    const char *dir;
    const struct hd_id *item;
    uint64_t bytes;
};

static void add_size(void *arg, const char *name)
{
    struct measure *m = arg;
    const struct hd_io *io = hd_io();
    char path[FILE_PATH_BYTES];
    struct hd_id id = {{0}};
    bool whole;
    if (!item_of(name, &id, &whole) || !whole || !hd_id_equal(&id, m->item) ||
        snprintf(path, sizeof path, "%s/%s", m->dir, name) >= (int)sizeof path)
        return;
    int fd = io->open(io->user, path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0);
    int64_t size = fd < 0 ? 0 : io->size(io->user, fd);
    m->bytes += size > 0 ? (uint64_t)size : 0;
    if (fd >= 0)
        (void)io->close(io->user, fd);
}

uint64_t hd_sealed_size(const char *dir, const struct hd_id *item)
{
    struct measure m = {.dir = dir, .item = item};
    (void)hd_io()->list(hd_io()->user, dir, add_size, &m);
    return m.bytes;
}

void hd_sealed_sweep(const char *dir, bool (*kept)(void *user, const struct hd_id *item), void *user)
{
    struct sweep sweep = {.dir = dir, .kept = kept, .user = user};
    (void)hd_io()->list(hd_io()->user, dir, look_at, &sweep);
}
