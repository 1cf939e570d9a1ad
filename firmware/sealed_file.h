// SPDX-License-Identifier: Apache-2.0
// Files of what the box learns from and has learnt: each is sealed in parts with its item's key, and replaced as a
// whole or not at all. Any thread; one writer for a file at a time. Format: top of sealed_file.c.
#ifndef HD_SEALED_FILE_H
#define HD_SEALED_FILE_H
#include "firmware/config.h"
#include "firmware/seal.h"

enum { HD_SEALED_NAME_BYTES = 32 }; // "adapter.gguf", "data": letters, digits, '.', '_', '-'; no leading '.'

// Where an item's files lie: `dir`/<id of the sealer's key in hex>.<name>.
struct hd_sealed_place {
    const char *dir;
    struct hd_sealer *sealer;
};

bool hd_sealed_name_ok(const char *name);
// On disk when it returns. What stood there is replaced.
enum hearth_status hd_sealed_write(const struct hd_sealed_place *place, const char *name, const void *data,
                                   size_t len_bytes, struct hearth_error *err);
// The same of the first len_bytes of an open file that can be read at any place; IO if it is shorter.
enum hearth_status hd_sealed_write_fd(const struct hd_sealed_place *place, const char *name, int fd, uint64_t len_bytes,
                                      struct hearth_error *err);
// Into memory that has a path, /proc/self/fd/<fd>, but no name on any disk. *fd is the caller's to close; -1 when it
// fails: NOT_FOUND, FORMAT (damaged), LIMIT (more than max_bytes).
enum hearth_status hd_sealed_read_fd(const struct hd_sealed_place *place, const char *name, uint64_t max_bytes, int *fd,
                                     uint64_t *len_bytes, struct hearth_error *err);
// The same into an open file, from its beginning on, a part at a time; when it fails some of them stand there.
enum hearth_status hd_sealed_copy(const struct hd_sealed_place *place, const char *name, uint64_t max_bytes, int fd,
                                  uint64_t *len_bytes, struct hearth_error *err);
// Removes the file `name` of an item, or with NULL all of its files.
void hd_sealed_remove(const char *dir, const struct hd_id *item, const char *name);
// What all whole files of an item take.
uint64_t hd_sealed_size(const char *dir, const struct hd_id *item);
// Removes every file of the folder whose item is not `kept`, and what a crash left half-written.
void hd_sealed_sweep(const char *dir, bool (*kept)(void *user, const struct hd_id *item), void *user);

#endif
