// SPDX-License-Identifier: Apache-2.0
// Preloaded into a whole program (LD_PRELOAD): memory runs out at the n-th allocation. The file named by
// HEARTH_FAIL_CONTROL is shared memory of two numbers: allocations so far, and which of them fails (0 = none).
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static struct control {
    _Atomic uint64_t count, fail_at;
} *control;

void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("HEARTH_FAIL_CONTROL");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    void *p = fd >= 0 ? mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : MAP_FAILED;
    if (fd >= 0)
        close(fd);
    if (p != MAP_FAILED)
        control = p;
}

static int refuse(void)
{
    if (!control || atomic_fetch_add(&control->count, 1) + 1 != atomic_load(&control->fail_at))
        return 0;
    errno = ENOMEM; // as the C library's does
    return 1;
}

#pragma GCC visibility push(default)
void *malloc(size_t size)
{
    return refuse() ? NULL : __libc_malloc(size);
}
void *calloc(size_t n, size_t size)
{
    return refuse() ? NULL : __libc_calloc(n, size);
}
void *realloc(void *old, size_t size)
{
    return refuse() ? NULL : __libc_realloc(old, size);
}
#pragma GCC visibility pop
