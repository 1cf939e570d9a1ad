// SPDX-License-Identifier: Apache-2.0
// libFuzzer entry of the settings file: any bytes give settings or an error that names the file.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "firmware/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int fd = -1;
    static char path[64];
    static struct hd_config config; // over what the file before it left: settings stay valid whatever comes
    struct hearth_error err = {.text = ""};
    if (fd < 0) {
        fd = memfd_create("config", MFD_CLOEXEC);
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    }
    if (ftruncate(fd, 0) || pwrite(fd, data, size, 0) != (ssize_t)size)
        return 0;
    enum hearth_status status = hd_config_read_file(&config, path, &err);
    if (status != HEARTH_OK && !strstr(err.text, path))
        abort();
    if (!memchr(config.model, 0, sizeof config.model) || !memchr(config.names, 0, sizeof config.names) ||
        !memchr(config.system_prompt, 0, sizeof config.system_prompt) || config.max_sessions > 64 ||
        config.port > 65535)
        abort();
    return 0;
}
