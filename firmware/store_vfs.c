// SPDX-License-Identifier: Apache-2.0
// SQLite's files through the hooks of io.h, so that power-cut tests see its writes too. Server loop thread.
// One process and one connection use the database: locks between connections do nothing, and another process
// is kept out, the sqlite3 shell included, by a lock on the bytes that SQLite itself locks, held as long as
// the file is open. Without shared memory WAL needs PRAGMA locking_mode=EXCLUSIVE. Temporary files are
// refused: none is needed with temp_store=MEMORY, and none may ever be written.
#include "firmware/store_vfs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include <sqlite3.h>

#include "firmware/io.h"

enum { PATH_BYTES = 1024, LOCK_START = 0x40000000, LOCK_BYTES = 512, SECTOR_BYTES = 4096 };

struct vfs_file {
    sqlite3_file base;
    int fd;
    bool created;    // its name may not be on disk yet
    bool delete_too; // SQLITE_OPEN_DELETEONCLOSE
    char path[PATH_BYTES];
};

static int sync_folder(const char *path)
{
    char dir[PATH_BYTES];
    const char *slash = strrchr(path, '/');
    snprintf(dir, sizeof dir, "%.*s", slash == NULL ? 1 : (int)(slash - path), slash == NULL ? "." : path);
    return hd_io()->fsync_dir(hd_io()->user, dir);
}

static int file_close(sqlite3_file *base)
{
    struct vfs_file *file = (struct vfs_file *)base;
    const struct hd_io *io = hd_io();
    int result = io->close(io->user, file->fd);
    if (file->delete_too)
        (void)io->unlink(io->user, file->path);
    return result == 0 ? SQLITE_OK : SQLITE_IOERR_CLOSE;
}

static int file_read(sqlite3_file *base, void *data, int len_bytes, sqlite3_int64 offset)
{
    struct vfs_file *file = (struct vfs_file *)base;
    int64_t got = hd_io_read_all(file->fd, data, (size_t)len_bytes, (uint64_t)offset);
    if (got < 0)
        return SQLITE_IOERR_READ;
    if (got == len_bytes)
        return SQLITE_OK;
    memset((char *)data + got, 0, (size_t)(len_bytes - got));
    return SQLITE_IOERR_SHORT_READ;
}

static int file_write(sqlite3_file *base, const void *data, int len_bytes, sqlite3_int64 offset)
{
    struct vfs_file *file = (struct vfs_file *)base;
    int result = hd_io_write_all(file->fd, data, (size_t)len_bytes, (uint64_t)offset);
    return result == 0                              ? SQLITE_OK
           : result == -ENOSPC || result == -EDQUOT ? SQLITE_FULL
                                                    : SQLITE_IOERR_WRITE;
}

static int file_truncate(sqlite3_file *base, sqlite3_int64 size_bytes)
{
    struct vfs_file *file = (struct vfs_file *)base;
    int result = hd_io()->truncate(hd_io()->user, file->fd, (uint64_t)size_bytes);
    return result == 0 ? SQLITE_OK : SQLITE_IOERR_TRUNCATE;
}

static int file_sync(sqlite3_file *base, int flags)
{
    (void)flags;
    struct vfs_file *file = (struct vfs_file *)base;
    if (hd_io()->fsync(hd_io()->user, file->fd) != 0)
        return SQLITE_IOERR_FSYNC;
    if (file->created) {
        if (sync_folder(file->path) != 0)
            return SQLITE_IOERR_DIR_FSYNC;
        file->created = false;
    }
    return SQLITE_OK;
}

static int file_size(sqlite3_file *base, sqlite3_int64 *size_bytes)
{
    struct vfs_file *file = (struct vfs_file *)base;
    int64_t size = hd_io()->size(hd_io()->user, file->fd);
    *size_bytes = size < 0 ? 0 : size;
    return size < 0 ? SQLITE_IOERR_FSTAT : SQLITE_OK;
}

static int file_lock(sqlite3_file *base, int level)
{
    (void)base;
    (void)level;
    return SQLITE_OK;
}

static int file_check_lock(sqlite3_file *base, int *locked)
{
    (void)base;
    *locked = 0;
    return SQLITE_OK;
}

static int file_control(sqlite3_file *base, int op, void *argument)
{
    (void)base;
    (void)op;
    (void)argument;
    return SQLITE_NOTFOUND;
}

static int file_sector_size(sqlite3_file *base)
{
    (void)base;
    return SECTOR_BYTES;
}

static int file_characteristics(sqlite3_file *base)
{
    (void)base;
    return 0; // nothing is promised about writes that a power cut interrupts
}

static const sqlite3_io_methods file_methods = {
    .iVersion = 1,
    .xClose = file_close,
    .xRead = file_read,
    .xWrite = file_write,
    .xTruncate = file_truncate,
    .xSync = file_sync,
    .xFileSize = file_size,
    .xLock = file_lock,
    .xUnlock = file_lock,
    .xCheckReservedLock = file_check_lock,
    .xFileControl = file_control,
    .xSectorSize = file_sector_size,
    .xDeviceCharacteristics = file_characteristics,
};

static int vfs_open(sqlite3_vfs *vfs, const char *path, sqlite3_file *base, int flags, int *out_flags)
{
    (void)vfs;
    struct vfs_file *file = (struct vfs_file *)base;
    const struct hd_io *io = hd_io();
    file->base.pMethods = NULL;
    if (path == NULL || strlen(path) >= sizeof file->path)
        return SQLITE_CANTOPEN;
    bool existed = io->exists(io->user, path) == 1;
    int mode = flags & SQLITE_OPEN_READWRITE ? O_RDWR : O_RDONLY;
    if (flags & SQLITE_OPEN_CREATE)
        mode |= O_CREAT;
    if (flags & SQLITE_OPEN_EXCLUSIVE)
        mode |= O_EXCL;
    file->fd = io->open(io->user, path, mode | O_NOFOLLOW, 0600);
    if (file->fd < 0)
        return SQLITE_CANTOPEN;
    if (flags & SQLITE_OPEN_MAIN_DB && io->lock(io->user, file->fd, LOCK_START, LOCK_BYTES) != 0) {
        (void)io->close(io->user, file->fd);
        return SQLITE_BUSY;
    }
    file->created = !existed;
    file->delete_too = (flags & SQLITE_OPEN_DELETEONCLOSE) != 0;
    snprintf(file->path, sizeof file->path, "%s", path);
    file->base.pMethods = &file_methods;
    if (out_flags != NULL)
        *out_flags = flags;
    return SQLITE_OK;
}

static int vfs_delete(sqlite3_vfs *vfs, const char *path, int sync)
{
    (void)vfs;
    int result = hd_io()->unlink(hd_io()->user, path);
    if (result == -ENOENT)
        return SQLITE_IOERR_DELETE_NOENT;
    if (result != 0)
        return SQLITE_IOERR_DELETE;
    return sync && sync_folder(path) != 0 ? SQLITE_IOERR_DIR_FSYNC : SQLITE_OK;
}

static int vfs_access(sqlite3_vfs *vfs, const char *path, int flags, int *result)
{
    (void)vfs;
    (void)flags;
    int exists = hd_io()->exists(hd_io()->user, path);
    *result = exists == 1;
    return exists < 0 ? SQLITE_IOERR_ACCESS : SQLITE_OK;
}

static int vfs_full_path(sqlite3_vfs *vfs, const char *path, int out_bytes, char *out)
{
    (void)vfs;
    int n = snprintf(out, (size_t)out_bytes, "%s", path);
    return n < out_bytes ? SQLITE_OK : SQLITE_CANTOPEN;
}

int hd_store_vfs_register(void)
{
    static sqlite3_vfs vfs;
    if (vfs.zName != NULL)
        return SQLITE_OK;
    sqlite3_vfs *system = sqlite3_vfs_find(NULL);
    if (system == NULL)
        return SQLITE_ERROR;
    vfs = (sqlite3_vfs){
        .iVersion = 2,
        .szOsFile = sizeof(struct vfs_file),
        .mxPathname = PATH_BYTES - 1,
        .zName = HD_STORE_VFS,
        .pAppData = system->pAppData,
        .xOpen = vfs_open,
        .xDelete = vfs_delete,
        .xAccess = vfs_access,
        .xFullPathname = vfs_full_path,
        .xRandomness = system->xRandomness,
        .xSleep = system->xSleep,
        .xCurrentTime = system->xCurrentTime,
        .xGetLastError = system->xGetLastError,
        .xCurrentTimeInt64 = system->iVersion >= 2 ? system->xCurrentTimeInt64 : NULL,
    };
    if (vfs.xCurrentTimeInt64 == NULL)
        vfs.iVersion = 1;
    return sqlite3_vfs_register(&vfs, 0);
}
