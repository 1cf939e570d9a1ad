// SPDX-License-Identifier: Apache-2.0
// libFuzzer entry of the GGUF reader and of inspection: each input is a whole file, kept in memory.
//   clang -g -O1 -fsanitize=fuzzer,address,undefined … tests/fuzz/gguf.c tests/check/exercise.c engine/…
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/engine.h"
#include "tests/check/exercise.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool swallow(void *user, const char *text, size_t len)
{
    (void)user;
    (void)text;
    (void)len;
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int fd = -1;
    static char path[64];
    if (fd < 0) {
        fd = memfd_create("gguf", MFD_CLOEXEC);
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    }
    if (ftruncate(fd, 0) || pwrite(fd, data, size, 0) != (ssize_t)size)
        return 0;
    exercise_gguf(path, NULL);
    hearth_gguf_inspect(path, true, swallow, NULL, NULL);
    hearth_gguf_inspect(path, false, swallow, NULL, NULL);
    return 0;
}
