// SPDX-License-Identifier: Apache-2.0
// The system's side of the file hooks, and what is built on them. Server loop thread.
#include "firmware/io.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "firmware/util.h"

#define RETRY(result, call)                                                                                  \
    do                                                                                                       \
        result = (call);                                                                                     \
    while (result < 0 && errno == EINTR)

static int system_open(void *user, const char *path, int flags, mode_t mode)
{
    (void)user;
    int fd;
    RETRY(fd, open(path, flags | O_CLOEXEC, mode));
    return fd < 0 ? -errno : fd;
}

static int64_t system_read_at(void *user, int fd, void *data, size_t len_bytes, uint64_t offset)
{
    (void)user;
    ssize_t n;
    RETRY(n, pread(fd, data, len_bytes, (off_t)offset));
    return n < 0 ? -errno : n;
}

static int64_t system_write_at(void *user, int fd, const void *data, size_t len_bytes, uint64_t offset)
{
    (void)user;
    ssize_t n;
    RETRY(n, pwrite(fd, data, len_bytes, (off_t)offset));
    return n < 0 ? -errno : n;
}

static int system_truncate(void *user, int fd, uint64_t size_bytes)
{
    (void)user;
    int result;
    RETRY(result, ftruncate(fd, (off_t)size_bytes));
    return result < 0 ? -errno : 0;
}

static int system_fsync(void *user, int fd)
{
    (void)user;
    int result;
    RETRY(result, fsync(fd));
    return result < 0 ? -errno : 0;
}

static int system_close(void *user, int fd)
{
    (void)user;
    return close(fd) < 0 && errno != EINTR ? -errno : 0;
}

static int64_t system_size(void *user, int fd)
{
    (void)user;
    struct stat info;
    return fstat(fd, &info) < 0 ? -errno : info.st_size;
}

static int system_lock(void *user, int fd, uint64_t start, uint64_t len_bytes)
{
    (void)user;
    struct flock range = {
        .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = (off_t)start, .l_len = (off_t)len_bytes};
    if (fcntl(fd, F_OFD_SETLK, &range) == 0)
        return 0;
    return errno == EACCES ? -EAGAIN : -errno;
}

static int system_rename(void *user, const char *from, const char *to)
{
    (void)user;
    return rename(from, to) < 0 ? -errno : 0;
}

static int system_unlink(void *user, const char *path)
{
    (void)user;
    return unlink(path) < 0 ? -errno : 0;
}

static int system_exists(void *user, const char *path)
{
    (void)user;
    struct stat info;
    if (stat(path, &info) == 0)
        return 1;
    return errno == ENOENT ? 0 : -errno;
}

static int system_list(void *user, const char *path, void (*each)(void *arg, const char *name), void *arg)
{
    (void)user;
    DIR *dir = opendir(path);
    if (!dir)
        return -errno;
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            each(arg, entry->d_name);
    }
    closedir(dir);
    return 0;
}

static int system_fsync_dir(void *user, const char *dir)
{
    int fd = system_open(user, dir, O_RDONLY | O_DIRECTORY, 0);
    if (fd < 0)
        return fd;
    int result = system_fsync(user, fd);
    close(fd);
    return result;
}

static const struct hd_io system_io = {
    .open = system_open,
    .read_at = system_read_at,
    .write_at = system_write_at,
    .truncate = system_truncate,
    .fsync = system_fsync,
    .close = system_close,
    .size = system_size,
    .lock = system_lock,
    .rename = system_rename,
    .unlink = system_unlink,
    .exists = system_exists,
    .list = system_list,
    .fsync_dir = system_fsync_dir,
};
static const struct hd_io *io_in_use = &system_io;

void hd_io_set(const struct hd_io *io)
{
    io_in_use = io != NULL ? io : &system_io;
}

const struct hd_io *hd_io(void)
{
    return io_in_use;
}

int hd_io_write_all(int fd, const void *data, size_t len_bytes, uint64_t offset)
{
    const struct hd_io *io = hd_io();
    const uint8_t *bytes = data;
    while (len_bytes > 0) {
        int64_t n = io->write_at(io->user, fd, bytes, len_bytes, offset);
        if (n <= 0)
            return n < 0 ? (int)n : -ENOSPC;
        bytes += n;
        offset += (uint64_t)n;
        len_bytes -= (size_t)n;
    }
    return 0;
}

int64_t hd_io_read_all(int fd, void *data, size_t len_bytes, uint64_t offset)
{
    const struct hd_io *io = hd_io();
    uint8_t *bytes = data;
    size_t got = 0;
    while (got < len_bytes) {
        int64_t n = io->read_at(io->user, fd, bytes + got, len_bytes - got, offset + got);
        if (n < 0)
            return n;
        if (n == 0)
            break;
        got += (size_t)n;
    }
    return (int64_t)got;
}

// The folder of `path`, malloc'ed.
static char *folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (slash == NULL)
        return strdup(".");
    return strndup(path, slash == path ? 1 : (size_t)(slash - path));
}

static int replace_file(const char *path, const char *fresh, const char *dir, const void *data,
                        size_t len_bytes)
{
    const struct hd_io *io = hd_io();
    int fd = io->open(io->user, fresh, O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (fd < 0)
        return fd;
    int result = hd_io_write_all(fd, data, len_bytes, 0);
    if (result == 0)
        result = io->fsync(io->user, fd);
    int closed = io->close(io->user, fd);
    if (result == 0)
        result = closed;
    if (result == 0)
        result = io->rename(io->user, fresh, path);
    if (result != 0) {
        (void)io->unlink(io->user, fresh);
        return result;
    }
    return io->fsync_dir(io->user, dir);
}

enum hearth_status hd_io_replace(const char *path, const void *data, size_t len_bytes,
                                 struct hearth_error *err)
{
    char *dir = folder_of(path), *fresh = NULL;
    if (dir == NULL || asprintf(&fresh, "%s.new", path) < 0) {
        free(dir);
        return hd_fail(err, HEARTH_NOMEM, "out of memory");
    }
    int result = replace_file(path, fresh, dir, data, len_bytes);
    free(fresh);
    free(dir);
    return result == 0 ? HEARTH_OK : hd_fail_errno(err, result, "cannot write", path);
}

enum hearth_status hd_io_read_file(const char *path, size_t max_bytes, uint8_t **data, size_t *len_bytes,
                                   struct hearth_error *err)
{
    const struct hd_io *io = hd_io();
    *data = NULL;
    *len_bytes = 0;
    int fd = io->open(io->user, path, O_RDONLY, 0);
    if (fd == -ENOENT)
        return hd_fail(err, HEARTH_NOT_FOUND, "%s is missing", path);
    if (fd < 0)
        return hd_fail_errno(err, fd, "cannot open", path);
    int64_t size = io->size(io->user, fd);
    int64_t got = size < 0 ? size : 0;
    uint8_t *bytes = NULL;
    if (size >= 0 && (uint64_t)size <= max_bytes) {
        bytes = malloc((size_t)size + 1);
        got = bytes == NULL ? -ENOMEM : hd_io_read_all(fd, bytes, (size_t)size, 0);
    }
    (void)io->close(io->user, fd);
    if (got < 0) {
        free(bytes);
        return hd_fail_errno(err, (int)got, "cannot read", path);
    }
    if (bytes == NULL)
        return hd_fail(err, HEARTH_LIMIT, "%s is larger than %zu bytes", path, max_bytes);
    *data = bytes;
    *len_bytes = (size_t)got;
    return HEARTH_OK;
}
