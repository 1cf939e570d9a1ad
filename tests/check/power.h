// SPDX-License-Identifier: Apache-2.0
// Power cuts under engine/base/io.h. Files lie in a real folder; beside it is kept what would outlive a cut: of each
// file what was fsynced, of each name what the last fsync of its folder saw. Single-threaded, one at a time.
#ifndef CHECK_POWER_H
#define CHECK_POWER_H
#include <stdbool.h>
#include <stdint.h>

enum power_policy {
    POWER_DROP, // only what was synced
    POWER_KEEP, // everything
    POWER_TEAR, // names and bytes that were not synced: some of them, by the seed
};

// Takes the hook of engine/base/io.h. The folder's files are durable as they are.
void power_begin(const char *folder);
void power_end(void);
// Operations so far that change something: creation, write, fsync, rename, unlink, fsync of the folder.
unsigned power_ops(void);
void power_cut_at(unsigned op);          // the power goes before operation `op` (from 1); 0 = never
void power_fail_at(unsigned op);         // this one fails, with ENOSPC for a write, else EIO; 0 = none
void power_ignore_fsync(const char *suffix); // of files whose path ends so; "/" = of folders; NULL = honest
bool power_is_gone(void);
// The power is back: the folder holds what survived.
void power_restart(enum power_policy policy, uint64_t seed);

#endif
