// SPDX-License-Identifier: Apache-2.0
// Faults on demand and temporary folders, for tests of any part.
#ifndef CHECK_FAULT_H
#define CHECK_FAULT_H
#include <stdbool.h>
#include <stddef.h>

// Puts a counting allocator behind engine/base/mem.h. The n-th allocation from now on fails (1 = the next),
// and those after it succeed again; 0 = none fails.
void fault_memory_begin(unsigned long fail_at);
// Takes it out again. *n_allocations = how many were asked for. Returns the blocks that were not freed.
long fault_memory_end(unsigned long *n_allocations);
void fault_memory_arm(unsigned long fail_at); // counts anew, in the midst of things; 0 = none fails
unsigned long fault_memory_count(void);       // allocations asked for since begin or arm
long fault_memory_alive(void);                // blocks
size_t fault_memory_peak(void); // most bytes alive at once since begin

// The n-th write, fsync or rename of engine/base/io.h from now on fails (a full disk, a broken one), those after it
// succeed; at most one hook is set at a time. fault_io_count: how many there were since.
void fault_io_begin(int fail_at);
void fault_io_end(void);
int fault_io_count(void);

// A fresh folder, removed with all that is in it by check_folder_remove. Fails the test if it cannot be made.
const char *check_folder_make(char path[64]);
void check_folder_remove(const char *path);
// folder/name, kept for the rest of the program (at most 256 different ones).
const char *check_path(const char *folder, const char *name);
void check_file_write(const char *path, const void *data, size_t len_bytes);
// Writes folder/name; its path as check_path gives it.
const char *check_file_make(const char *folder, const char *name, const char *text);

#endif
