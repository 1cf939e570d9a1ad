// SPDX-License-Identifier: Apache-2.0
// The failing allocator, failing files and temporary folders. Allocation counts are atomic: pools allocate from one
// thread, but sanitizer builds watch.
#include "tests/check/fault.h"

#include <dirent.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/io.h"
#include "engine/base/mem.h"

enum { HEAD = 4096 }; // room for the size in front of a block, at any alignment up to this

static atomic_ulong n_calls, fail_call;
static atomic_long n_alive;
static atomic_size_t bytes_alive, bytes_peak;

static void *faulty_alloc(void *user, size_t size, size_t align)
{
    (void)user;
    if (atomic_fetch_add(&n_calls, 1) + 1 == atomic_load(&fail_call)) {
        errno = ENOMEM; // as the C library's does
        return NULL;
    }
    size_t head = align > HEAD ? align : HEAD; // big blocks: a whole unit of their alignment
    void *block;
    if (size > (size_t)1 << 40 || posix_memalign(&block, head, head + size))
        return NULL;
    memset((char *)block + head, 0, size);
    memcpy((char *)block + head - sizeof size, &size, sizeof size);
    memcpy((char *)block + head - 2 * sizeof size, &head, sizeof head);
    atomic_fetch_add(&n_alive, 1);
    size_t now = atomic_fetch_add(&bytes_alive, size) + size;
    if (now > atomic_load(&bytes_peak))
        atomic_store(&bytes_peak, now);
    return (char *)block + head;
}

static void faulty_free(void *user, void *p)
{
    (void)user;
    if (!p)
        return;
    size_t size, head;
    memcpy(&size, (char *)p - sizeof size, sizeof size);
    memcpy(&head, (char *)p - 2 * sizeof size, sizeof head);
    atomic_fetch_sub(&n_alive, 1);
    atomic_fetch_sub(&bytes_alive, size);
    free((char *)p - head);
}

void fault_memory_begin(unsigned long fail_at)
{
    static const struct ht_mem_hook hook = {.alloc = faulty_alloc, .free = faulty_free};
    n_calls = 0;
    fail_call = fail_at;
    n_alive = 0;
    bytes_alive = bytes_peak = 0;
    ht_mem_set_hook(&hook);
}

long fault_memory_end(unsigned long *n_allocations)
{
    ht_mem_set_hook(NULL);
    if (n_allocations)
        *n_allocations = n_calls;
    return n_alive;
}

void fault_memory_arm(unsigned long fail_at)
{
    n_calls = 0;
    fail_call = fail_at;
}

long fault_memory_alive(void)
{
    return n_alive;
}

unsigned long fault_memory_count(void)
{
    return n_calls;
}

size_t fault_memory_peak(void)
{
    return bytes_peak;
}

static void die(const char *what, const char *path)
{
    fprintf(stderr, "%s: %s\n", path, what);
    abort(); // the runner counts a signal as a failure
}

// ---------------------------------------------------------------- files

static int n_operations, fail_operation;

static bool fails_now(void)
{
    return ++n_operations == fail_operation;
}

static int64_t failing_write(void *user, int fd, const void *data, size_t len_bytes, uint64_t offset)
{
    (void)user;
    return fails_now() ? -ENOSPC : pwrite(fd, data, len_bytes, (off_t)offset);
}

static int failing_sync(void *user, int fd)
{
    (void)user;
    return fails_now() ? -EIO : fsync(fd);
}

static int failing_rename(void *user, const char *from, const char *to)
{
    (void)user;
    return fails_now() ? -EIO : rename(from, to);
}

void fault_io_begin(int fail_at)
{
    static const struct ht_io_hook hook = {.write_at = failing_write, .fsync = failing_sync, .rename = failing_rename};
    n_operations = 0;
    fail_operation = fail_at;
    ht_io_set_hook(&hook);
}

void fault_io_end(void)
{
    ht_io_set_hook(NULL);
}

int fault_io_count(void)
{
    return n_operations;
}

const char *check_folder_make(char path[64])
{
    // In memory where the system has that: tests write thousands of small files.
    snprintf(path, 64, "%s/hearth-test-XXXXXX", access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm");
    if (!mkdtemp(path))
        die("cannot make a folder", path);
    return path;
}

void check_folder_remove(const char *path)
{
    DIR *dir = opendir(path);
    if (!dir)
        die("cannot open the folder", path);
    for (struct dirent *entry; (entry = readdir(dir));) {
        char below[384];
        bool real = strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..");
        snprintf(below, sizeof below, "%s/%s", path, entry->d_name);
        if (real && unlink(below) && (errno == EISDIR || errno == EPERM))
            check_folder_remove(below);
    }
    closedir(dir);
    if (rmdir(path))
        die("cannot remove the folder", path);
}

const char *check_path(const char *folder, const char *name)
{
    static char paths[256][384];
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        char path[384];
        snprintf(path, sizeof path, "%s/%s", folder, name);
        if (!paths[i][0])
            memcpy(paths[i], path, sizeof path);
        if (!strcmp(paths[i], path))
            return paths[i];
    }
    die("too many paths", name);
    return NULL;
}

void check_file_write(const char *path, const void *data, size_t len_bytes)
{
    FILE *file = fopen(path, "wb");
    if (!file || (len_bytes && fwrite(data, 1, len_bytes, file) != len_bytes) || fclose(file))
        die("cannot write", path);
}

const char *check_file_make(const char *folder, const char *name, const char *text)
{
    const char *path = check_path(folder, name);
    check_file_write(path, text, strlen(text));
    return path;
}
