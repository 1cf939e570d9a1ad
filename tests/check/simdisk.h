// SPDX-License-Identifier: Apache-2.0
// A disk in memory behind firmware/io.h that can fail an operation, fill up, lie about fsync and lose its
// power. What a power cut leaves: of each file what was fsynced, plus, by policy, none, all or a random torn
// part of what was written since; names only as they were at the last fsync of their folder (or a prefix of
// what came after). Single-threaded; one disk at a time is put in use with hd_io_set.
#ifndef CHECK_SIMDISK_H
#define CHECK_SIMDISK_H
#include "firmware/io.h"

struct simdisk;

enum simdisk_policy { SIMDISK_DROP, SIMDISK_KEEP, SIMDISK_TEAR };

struct simdisk *simdisk_new(void);
void simdisk_free(struct simdisk *disk);
struct hd_io simdisk_io(struct simdisk *disk);

// Operations so far that change something: creation, write, truncate, fsync, rename, unlink, fsync of a
// folder.
unsigned simdisk_ops(const struct simdisk *disk);
void simdisk_cut_at(struct simdisk *disk,
                    unsigned op); // the power goes before operation `op` (from 1); 0 = never
void simdisk_fail_at(struct simdisk *disk, unsigned op); // this one operation fails with EIO; 0 = none
bool simdisk_is_dead(const struct simdisk *disk);
void simdisk_set_capacity(struct simdisk *disk, size_t bytes); // ENOSPC beyond; 0 = no limit
// fsync of files opened under a path that ends so does nothing; "/" = fsync of folders does nothing; NULL =
// honest.
void simdisk_ignore_fsync(struct simdisk *disk, const char *suffix);
// The process died and another one starts: open files are gone, everything else is as it was, synced or not.
void simdisk_next_process(struct simdisk *disk);
// The power is back: open files are gone, the disk holds what survived.
void simdisk_restart(struct simdisk *disk, enum simdisk_policy policy, uint64_t seed);

// A file's bytes now, NULL if it does not exist; valid until the disk changes.
uint8_t *simdisk_file(struct simdisk *disk, const char *path, size_t *len_bytes);
void simdisk_put(struct simdisk *disk, const char *path, const void *data, size_t len_bytes); // durable
void simdisk_remove(struct simdisk *disk, const char *path);                                  // durable
// Do these bytes stand anywhere, in any file there ever was, removed ones and overwritten parts included?
bool simdisk_ever_held(const struct simdisk *disk, const void *bytes, size_t len_bytes);

#endif
