// SPDX-License-Identifier: Apache-2.0
// Files behind the I/O hook; the only place of the engine that opens, writes or renames files for good.
// The hook is set before threads exist; a file belongs to one thread, only ht_file_read may be shared.
#include "engine/base/io.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "engine/base/mem.h"

static struct ht_io_hook hook;

enum { PIECE_BYTES = 1 << 30, NEW_FILE_MODE = 0600 }; // one system call moves less than 2 GiB

struct ht_file {
    int fd;
    bool writing;
    bool alone;      // the temporary is locked: it is closed once it has its name
    uint64_t size;   // as found at open; while writing, the bytes so far
    char *temporary; // of a file being written, else NULL
    char path[];
};

void ht_io_set_hook(const struct ht_io_hook *new_hook)
{
    hook = new_hook ? *new_hook : (struct ht_io_hook){0};
}

static int io_open(const char *path, int flags, int mode)
{
    int fd;
    do {
        fd = hook.open ? hook.open(hook.user, path, flags, mode) : open(path, flags, mode);
        if (!hook.open && fd < 0)
            fd = -errno;
    } while (fd == -EINTR);
    return fd;
}

static int64_t io_read_at(int fd, void *data, size_t len, uint64_t offset)
{
    if (hook.read_at)
        return hook.read_at(hook.user, fd, data, len, offset);
    ssize_t n = pread(fd, data, len, (off_t)offset);
    return n < 0 ? -errno : n;
}

static int64_t io_write_at(int fd, const void *data, size_t len, uint64_t offset)
{
    if (hook.write_at)
        return hook.write_at(hook.user, fd, data, len, offset);
    ssize_t n = pwrite(fd, data, len, (off_t)offset);
    return n < 0 ? -errno : n;
}

static int io_fsync(int fd)
{
    int code;
    do {
        code = hook.fsync ? hook.fsync(hook.user, fd) : fsync(fd) ? -errno : 0;
    } while (code == -EINTR);
    return code;
}

static int io_close(int fd)
{
    if (hook.close)
        return hook.close(hook.user, fd);
    return close(fd) && errno != EINTR ? -errno : 0; // after EINTR the descriptor is closed all the same
}

static int io_rename(const char *from, const char *to)
{
    if (hook.rename)
        return hook.rename(hook.user, from, to);
    return rename(from, to) ? -errno : 0;
}

static int io_unlink(const char *path)
{
    if (hook.unlink)
        return hook.unlink(hook.user, path);
    return unlink(path) ? -errno : 0;
}

static int io_fsync_dir(const char *dir)
{
    if (hook.fsync_dir)
        return hook.fsync_dir(hook.user, dir);
    int fd = io_open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (fd < 0)
        return fd;
    int code = fsync(fd) ? -errno : 0;
    close(fd);
    return code == -EINVAL ? 0 : code; // a file system that cannot sync folders needs no syncing
}

static enum hearth_status fail_errno(struct hearth_error *err, const char *path, const char *what, int code)
{
    char buffer[96];
    enum hearth_status status = HEARTH_IO;
    if (code == ENOENT || code == ENOTDIR)
        status = HEARTH_NOT_FOUND;
    else if (code == ENOMEM)
        status = HEARTH_NOMEM;
    return ht_fail(err, status, "%s: cannot %s: %s", ht_shown_path(path), what,
                   strerror_r(code, buffer, sizeof buffer));
}

static struct ht_file *file_new(const char *path)
{
    size_t len = strlen(path) + 1;
    struct ht_file *f = ht_calloc(1, sizeof *f + len);
    if (f) {
        f->fd = -1;
        memcpy(f->path, path, len);
    }
    return f;
}

static bool is_own(const struct stat *stat)
{
    return stat->st_uid == geteuid() && !(stat->st_mode & (S_IWGRP | S_IWOTH));
}

static enum hearth_status open_read(struct ht_file **file, const char *path, bool own, struct hearth_error *err)
{
    *file = NULL;
    struct ht_file *f = file_new(path);
    if (!f)
        return ht_fail(err, HEARTH_NOMEM, "%s: out of memory", ht_shown_path(path));
    struct stat stat;
    enum hearth_status status = HEARTH_OK;
    int flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY; // a FIFO must not make us wait
    int fd = io_open(path, own ? flags | O_NOFOLLOW : flags, 0);
    if (fd < 0) {
        status = fail_errno(err, path, "open", -fd);
        goto done;
    }
    f->fd = fd;
    if (fstat(fd, &stat))
        status = fail_errno(err, path, "look at", errno);
    else if (!S_ISREG(stat.st_mode))
        status = ht_fail(err, HEARTH_INVALID, "%s: not a regular file", ht_shown_path(path));
    else if (own && !is_own(&stat))
        status = ht_fail(err, HEARTH_INVALID, "%s: others may have written it", ht_shown_path(path));
    else
        f->size = (uint64_t)stat.st_size;
done:
    if (status != HEARTH_OK)
        ht_file_close(&f);
    *file = f;
    return status;
}

enum hearth_status ht_file_open_read(struct ht_file **file, const char *path, struct hearth_error *err)
{
    return open_read(file, path, false, err);
}

enum hearth_status ht_file_open_own(struct ht_file **file, const char *path, struct hearth_error *err)
{
    return open_read(file, path, true, err);
}

void ht_file_close(struct ht_file **file)
{
    struct ht_file *f = *file;
    *file = NULL;
    if (!f)
        return;
    if (f->temporary && f->writing)
        io_unlink(f->temporary); // while it is still locked
    if (f->fd >= 0)
        io_close(f->fd);
    ht_free(f->temporary);
    ht_free(f);
}

uint64_t ht_file_size(const struct ht_file *file)
{
    return file->size;
}

const char *ht_file_path(const struct ht_file *file)
{
    return file->path;
}

enum hearth_status ht_file_read(const struct ht_file *file, void *data, size_t len_bytes, uint64_t offset,
                                struct hearth_error *err)
{
    unsigned char *to = data;
    uint64_t end;
    if (__builtin_add_overflow(offset, len_bytes, &end) || end > INT64_MAX)
        return ht_fail(err, HEARTH_FORMAT, "%s: nothing can stand at offset %llu", ht_shown_path(file->path),
                       (unsigned long long)offset);
    for (uint64_t at = offset; at < end;) {
        size_t want = end - at > PIECE_BYTES ? PIECE_BYTES : (size_t)(end - at);
        int64_t n = io_read_at(file->fd, to, want, at);
        if (n == -EINTR)
            continue;
        if (n < 0)
            return fail_errno(err, file->path, "read", (int)-n);
        if (n == 0 || (uint64_t)n > want)
            return ht_fail(err, HEARTH_FORMAT, "%s: file ends at %llu, %zu bytes wanted at %llu",
                           ht_shown_path(file->path), (unsigned long long)at, len_bytes,
                           (unsigned long long)offset);
        to += n;
        at += (uint64_t)n;
    }
    return HEARTH_OK;
}

enum hearth_status ht_file_identity(const struct ht_file *file, char id[72], struct hearth_error *err)
{
    struct stat now; // asked anew, so that a changed file is noticed
    id[0] = 0;
    if (fstat(file->fd, &now))
        return fail_errno(err, file->path, "look at", errno);
    uint64_t mtime_ns = (uint64_t)now.st_mtim.tv_sec * 1000000000u + (uint64_t)now.st_mtim.tv_nsec;
    snprintf(id, 72, "%llx-%llx-%llx-%llx", (unsigned long long)now.st_dev, (unsigned long long)now.st_ino,
             (unsigned long long)now.st_size, (unsigned long long)mtime_ns);
    return HEARTH_OK;
}

static enum hearth_status create_in_place(struct ht_file **file, const char *path, struct hearth_error *err)
{
    struct ht_file *f = file_new(path);
    if (!f)
        return ht_fail(err, HEARTH_NOMEM, "%s: out of memory", ht_shown_path(path));
    f->fd = io_open(path, O_WRONLY | O_TRUNC | O_CLOEXEC, 0);
    if (f->fd < 0) {
        enum hearth_status status = fail_errno(err, path, "open", -f->fd);
        ht_file_close(&f);
        return status;
    }
    *file = f;
    return HEARTH_OK;
}

static enum hearth_status new_temporary(struct ht_file **file, const char *path, struct hearth_error *err)
{
    struct ht_file *f = file_new(path);
    size_t len = strlen(path) + sizeof ".tmp";
    if (f)
        f->temporary = ht_calloc(len, 1);
    if (!f || !f->temporary) {
        ht_file_close(&f);
        return ht_fail(err, HEARTH_NOMEM, "%s: out of memory", ht_shown_path(path));
    }
    snprintf(f->temporary, len, "%s.tmp", path);
    *file = f;
    return HEARTH_OK;
}

enum hearth_status ht_file_create(struct ht_file **file, const char *path, struct hearth_error *err)
{
    *file = NULL;
    if (!strncmp(path, "/proc/self/fd/", 14))
        return create_in_place(file, path, err);
    struct ht_file *f;
    HT_TRY(new_temporary(&f, path, err));
    io_unlink(f->temporary); // left by a crash; O_EXCL below makes sure that nothing is followed or shared
    int fd = io_open(f->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, NEW_FILE_MODE);
    if (fd < 0) {
        enum hearth_status status = fail_errno(err, f->temporary, "create", -fd);
        ht_file_close(&f);
        return status;
    }
    f->fd = fd;
    f->writing = true;
    *file = f;
    return HEARTH_OK;
}

// Locks what lies at `path`: 0, -EWOULDBLOCK while another process has it, or another -errno. Who has the lock of a
// file that still has this name is alone: it is renamed and removed under the lock only.
static int lock_named(int fd, const char *path)
{
    struct stat open, named;
    if (flock(fd, LOCK_EX | LOCK_NB))
        return -errno;
    if (fstat(fd, &open) || lstat(path, &named))
        return errno == ENOENT ? -EWOULDBLOCK : -errno;
    if (open.st_dev != named.st_dev || open.st_ino != named.st_ino)
        return -EWOULDBLOCK;
    return S_ISREG(open.st_mode) && open.st_nlink == 1 && is_own(&open) ? 0 : -EPERM;
}

enum hearth_status ht_file_create_alone(struct ht_file **file, const char *path, struct hearth_error *err)
{
    struct ht_file *f;
    *file = NULL;
    HT_TRY(new_temporary(&f, path, err));
    enum hearth_status status = HEARTH_OK;
    f->fd = io_open(f->temporary, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, NEW_FILE_MODE);
    int code = f->fd < 0 ? f->fd : lock_named(f->fd, f->temporary);
    if (!code && ftruncate(f->fd, 0))
        code = -errno;
    if (code == -EWOULDBLOCK)
        status = ht_fail(err, HEARTH_BUSY, "%s: another process writes it", ht_shown_path(path));
    else if (code)
        status = fail_errno(err, f->temporary, "create", -code);
    f->writing = f->alone = !code;
    if (code)
        ht_file_close(&f);
    *file = f;
    return status;
}

enum hearth_status ht_file_write(struct ht_file *file, const void *data, size_t len_bytes,
                                 struct hearth_error *err)
{
    const unsigned char *from = data;
    while (len_bytes) {
        size_t want = len_bytes > PIECE_BYTES ? PIECE_BYTES : len_bytes;
        int64_t n = io_write_at(file->fd, from, want, file->size);
        if (n == -EINTR)
            continue;
        if (n <= 0 || (uint64_t)n > want)
            return fail_errno(err, file->temporary ? file->temporary : file->path, "write", n < 0 ? (int)-n : EIO);
        from += n;
        len_bytes -= (size_t)n;
        file->size += (uint64_t)n;
    }
    return HEARTH_OK;
}

enum hearth_status ht_file_sync(struct ht_file *file, struct hearth_error *err)
{
    int code = io_fsync(file->fd);
    return code ? fail_errno(err, file->temporary ? file->temporary : file->path, "sync", -code) : HEARTH_OK;
}

// "a/b" -> "a", "/b" -> "/", "b" -> "."; cuts `path` in place.
static const char *folder_of(char *path)
{
    char *slash = strrchr(path, '/');
    if (!slash)
        return ".";
    if (slash == path)
        return "/";
    *slash = 0;
    return path;
}

enum hearth_status ht_file_commit(struct ht_file **file, struct hearth_error *err)
{
    struct ht_file *f = *file;
    enum hearth_status status = HEARTH_OK;
    if (!f->temporary) { // in place
        ht_file_close(file);
        return HEARTH_OK;
    }
    int code = io_fsync(f->fd);
    const char *what = "sync";
    if (!code && !f->alone) {
        what = "close";
        code = io_close(f->fd);
        f->fd = -1;
    }
    if (!code) {
        what = "rename";
        code = io_rename(f->temporary, f->path);
    }
    if (code) {
        status = fail_errno(err, f->temporary, what, -code);
    } else {
        f->writing = false; // from here on there is no temporary to remove
        code = io_fsync_dir(folder_of(f->temporary));
        if (code)
            status = fail_errno(err, f->path, "sync the folder of the file", -code);
    }
    ht_file_close(file);
    return status;
}

enum hearth_status ht_file_replace(const char *path, const void *data, size_t len_bytes,
                                   struct hearth_error *err)
{
    struct ht_file *file;
    HT_TRY(ht_file_create(&file, path, err));
    enum hearth_status status = ht_file_write(file, data, len_bytes, err);
    if (status == HEARTH_OK)
        return ht_file_commit(&file, err);
    ht_file_close(&file);
    return status;
}

enum hearth_status ht_file_append(const char *path, const void *data, size_t len_bytes, uint64_t offset, bool durable,
                                  struct hearth_error *err)
{
    const unsigned char *from = data;
    int fd = io_open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, NEW_FILE_MODE);
    if (fd < 0)
        return fail_errno(err, path, "open", -fd);
    enum hearth_status status = HEARTH_OK;
    while (len_bytes && status == HEARTH_OK) {
        int64_t n = io_write_at(fd, from, len_bytes, offset);
        if (n == -EINTR)
            continue;
        if (n <= 0 || (uint64_t)n > len_bytes) {
            status = fail_errno(err, path, "write", n < 0 ? (int)-n : EIO);
            break;
        }
        from += n;
        len_bytes -= (size_t)n;
        offset += (uint64_t)n;
    }
    int code = status == HEARTH_OK && durable ? io_fsync(fd) : 0;
    if (code)
        status = fail_errno(err, path, "sync", -code);
    code = io_close(fd);
    if (code && status == HEARTH_OK)
        status = fail_errno(err, path, "close", -code);
    return status;
}

enum hearth_status ht_file_remove(const char *path, bool idle, struct hearth_error *err)
{
    int fd = -1, code = 0;
    if (idle) {
        fd = io_open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0);
        code = fd < 0 ? fd : lock_named(fd, path);
    }
    if (!code)
        code = io_unlink(path);
    if (fd >= 0)
        io_close(fd);
    if (code == -EWOULDBLOCK)
        return ht_fail(err, HEARTH_BUSY, "%s: another process writes it", ht_shown_path(path));
    return code && code != -ENOENT ? fail_errno(err, path, "remove", -code) : HEARTH_OK;
}

enum hearth_status ht_folder_walk(const char *dir, void (*each)(void *user, const char *name, uint64_t size),
                                  void *user, struct hearth_error *err)
{
    DIR *folder = opendir(dir);
    struct dirent *entry;
    struct stat st;
    if (!folder)
        return errno == ENOENT ? HEARTH_OK : fail_errno(err, dir, "look into", errno);
    while ((entry = readdir(folder)))
        if (!fstatat(dirfd(folder), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) && S_ISREG(st.st_mode))
            each(user, entry->d_name, (uint64_t)st.st_size);
    closedir(folder);
    return HEARTH_OK;
}

uint64_t ht_folder_free(const char *dir)
{
    struct statvfs fs;
    return statvfs(dir, &fs) ? 0 : (uint64_t)fs.f_bavail * fs.f_frsize;
}
