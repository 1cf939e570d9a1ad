// SPDX-License-Identifier: Apache-2.0
// libFuzzer entry of the training data readers and sets: the first byte names a format, the rest is the file.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/learn.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_set(const char *path, enum hearth_data_format format, const struct hearth_engine *engine)
{
    const struct hearth_data_file file = {.path = path, .format = format, .weight = 1};
    struct hearth_data_set_params params = {.files = &file, .n_files = 1, .engine = engine, .n_seq = 64};
    struct hearth_data_set *set;
    const struct hearth_data_sample *s;
    hearth_data_set_default(&params);
    if (hearth_data_set_open(&set, &params, NULL))
        return;
    while (!hearth_data_set_next(set, &s, NULL) && s) {
        size_t n_targets = 0;
        for (size_t i = 0; i < s->n_tokens; i++)
            n_targets += s->weights[i] > 0;
        if (s->n_tokens > 64 || n_targets != s->n_targets || (engine && !n_targets) || !s->record->n_turns)
            abort();
    }
    hearth_data_set_close(&set);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int fd = -1;
    static char path[64];
    static struct hearth_engine *engine;
    if (fd < 0) {
        const struct hearth_engine_params params = {
            .model_path = "tests/golden/tiny-llama.gguf", .vocab_only = true, .chat_template = "chatml"};
        fd = memfd_create("data", MFD_CLOEXEC);
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        if (hearth_engine_open(&engine, &params, NULL))
            abort();
    }
    if (!size || ftruncate(fd, 0) || pwrite(fd, data + 1, size - 1, 0) != (ssize_t)size - 1)
        return 0;
    enum hearth_data_format format = (enum hearth_data_format)(data[0] % HEARTH_DATA_N_FORMATS);
    read_set(path, HEARTH_DATA_AUTO, NULL);
    read_set(path, format, engine);
    return 0;
}
