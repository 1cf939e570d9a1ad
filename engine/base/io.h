// SPDX-License-Identifier: Apache-2.0
// Files, behind a hook so that tests can fail, tear or lose the n-th operation (power-cut tests).
// Messages show paths as given, long ones by their end. All calls retry EINTR and handle short reads and
// writes. Any thread; the hook is set before threads exist.
#ifndef HT_IO_H
#define HT_IO_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/error.h"

struct ht_file; // one open file; not thread-safe except ht_file_read (positioned)

// Process-wide, set before use (tests only). Each returns 0 or -errno; read and write return bytes or -errno.
struct ht_io_hook {
    int (*open)(void *user, const char *path, int flags, int mode);
    int64_t (*read_at)(void *user, int fd, void *data, size_t len_bytes, uint64_t offset);
    int64_t (*write_at)(void *user, int fd, const void *data, size_t len_bytes, uint64_t offset);
    int (*fsync)(void *user, int fd);
    int (*close)(void *user, int fd);
    int (*rename)(void *user, const char *from, const char *to);
    int (*unlink)(void *user, const char *path);
    int (*fsync_dir)(void *user, const char *dir); // makes a rename or unlink in `dir` durable
    void *user;
};
void ht_io_set_hook(const struct ht_io_hook *hook); // NULL = the system's; NULL members too

// Regular files only.
HT_MUST_USE enum hearth_status ht_file_open_read(struct ht_file **file, const char *path,
                                                 struct hearth_error *err);
// The same of a file that nobody but this user can have written, under its own name: INVALID for a link, another owner,
// or where group or others may write.
HT_MUST_USE enum hearth_status ht_file_open_own(struct ht_file **file, const char *path, struct hearth_error *err);
void ht_file_close(struct ht_file **file);
uint64_t ht_file_size(const struct ht_file *file);
const char *ht_file_path(const struct ht_file *file);
// Exactly len bytes at offset; a short file is FORMAT ("file ends at …"), never a partial result.
HT_MUST_USE enum hearth_status ht_file_read(const struct ht_file *file, void *data, size_t len_bytes,
                                            uint64_t offset, struct hearth_error *err);
// (device, inode, size, mtime) as one string of hex, for caches keyed by file identity. `id` has 72 bytes.
HT_MUST_USE enum hearth_status ht_file_identity(const struct ht_file *file, char id[72],
                                                struct hearth_error *err);
// Writing a large file in pieces: ht_file_create opens PATH.tmp (one writer per path at a time),
// ht_file_write appends, ht_file_commit makes it durable under its name (fsync, rename, fsync of the folder)
// and closes it. Closing without a commit, also after a failure, removes the temporary. New files are
// readable by their owner only. A descriptor of the caller's ("/proc/self/fd/N": memory without a name) is written in
// place: nothing is renamed or synced.
HT_MUST_USE enum hearth_status ht_file_create(struct ht_file **file, const char *path,
                                              struct hearth_error *err);
// ht_file_create for a path that several processes may want to write: BUSY while another one does. What a killed one
// left is taken over.
HT_MUST_USE enum hearth_status ht_file_create_alone(struct ht_file **file, const char *path, struct hearth_error *err);
HT_MUST_USE enum hearth_status ht_file_write(struct ht_file *file, const void *data, size_t len_bytes,
                                             struct hearth_error *err);
// What was written so far is on the disk when it returns: ht_file_commit then waits for the rest only.
HT_MUST_USE enum hearth_status ht_file_sync(struct ht_file *file, struct hearth_error *err);
// *file is NULL afterwards, whatever the outcome.
HT_MUST_USE enum hearth_status ht_file_commit(struct ht_file **file, struct hearth_error *err);
// Writes all or nothing: temporary file beside it, fsync, rename, fsync of the folder.
HT_MUST_USE enum hearth_status ht_file_replace(const char *path, const void *data, size_t len_bytes,
                                               struct hearth_error *err);

// Writes at `offset`, which is the file's end or before it; makes the file if it is not there. A log's lines: only with
// `durable` do they stay after a power cut.
HT_MUST_USE enum hearth_status ht_file_append(const char *path, const void *data, size_t len_bytes, uint64_t offset,
                                              bool durable, struct hearth_error *err);

// Removes a file; one that is not there is no error. With `idle`, a temporary of ht_file_create_alone: only where
// nobody writes it.
HT_MUST_USE enum hearth_status ht_file_remove(const char *path, bool idle, struct hearth_error *err);
// Calls `each` with the name and size of every regular file of a folder, links left out, in no order; it may remove
// them. A folder that is not there has none.
HT_MUST_USE enum hearth_status ht_folder_walk(const char *dir,
                                              void (*each)(void *user, const char *name, uint64_t size), void *user,
                                              struct hearth_error *err);
// Bytes that the folder's disk has left for this user; 0: not known.
uint64_t ht_folder_free(const char *dir);

#endif
