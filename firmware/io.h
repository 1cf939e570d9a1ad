// SPDX-License-Identifier: Apache-2.0
// Every file operation of the vault and of SQLite (through store_vfs.c), behind one table of hooks, so that tests
// can fail, tear or lose the n-th operation and cut the power. Server loop thread only.
#ifndef HD_IO_H
#define HD_IO_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "engine/status.h"

// Each returns 0 or -errno; open returns a descriptor or -errno; read and write return bytes or -errno.
struct hd_io {
    int (*open)(void *user, const char *path, int flags, mode_t mode); // O_CLOEXEC is added by the caller
    int64_t (*read_at)(void *user, int fd, void *data, size_t len_bytes, uint64_t offset);
    int64_t (*write_at)(void *user, int fd, const void *data, size_t len_bytes, uint64_t offset);
    int (*truncate)(void *user, int fd, uint64_t size_bytes);
    int (*fsync)(void *user, int fd);
    int (*close)(void *user, int fd);
    int64_t (*size)(void *user, int fd);
    // For this open file only; -EAGAIN when another one holds part of the range.
    int (*lock)(void *user, int fd, uint64_t start, uint64_t len_bytes);
    int (*rename)(void *user, const char *from, const char *to);
    int (*unlink)(void *user, const char *path);
    int (*exists)(void *user, const char *path);   // 1, 0 or -errno
    // Calls `each` with the name of every file in the folder, in any order; names may be removed meanwhile.
    int (*list)(void *user, const char *dir, void (*each)(void *arg, const char *name), void *arg);
    int (*fsync_dir)(void *user, const char *dir); // makes names created, renamed or removed in `dir` durable
    void *user;
};

// The table in use. Set before any store is opened (tests only); NULL = the system's.
void hd_io_set(const struct hd_io *io);
const struct hd_io *hd_io(void);

// All of `len_bytes` or an error (short writes are continued).
int hd_io_write_all(int fd, const void *data, size_t len_bytes, uint64_t offset);
// Bytes read (less than asked at the end of the file) or -errno.
int64_t hd_io_read_all(int fd, void *data, size_t len_bytes, uint64_t offset);
// Writes all or nothing: `path`.new, fsync, rename, fsync of the folder. Mode 0600.
enum hearth_status hd_io_replace(const char *path, const void *data, size_t len_bytes,
                                 struct hearth_error *err);
// The whole file in memory (malloc; wiped and freed by the caller). LIMIT above `max_bytes`, NOT_FOUND if
// absent.
enum hearth_status hd_io_read_file(const char *path, size_t max_bytes, uint8_t **data, size_t *len_bytes,
                                   struct hearth_error *err);

#endif
