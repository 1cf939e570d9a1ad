// SPDX-License-Identifier: Apache-2.0
// libFuzzer entry of the safetensors reader and of PEFT folders: each input is a whole adapter_model.safetensors; what
// opens is read to its end, and as an adapter beside a configuration of rank 2, without a base and with one.
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/gguf/safetensors.h"
#include "engine/learn.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char folder[64], model[96], config[96];

static void leave(void)
{
    unlink(model);
    unlink(config);
    rmdir(folder);
}

static void begin(void)
{
    snprintf(folder, sizeof folder, "/dev/shm/hearth-fuzz-XXXXXX");
    if (!mkdtemp(folder))
        _exit(1);
    snprintf(model, sizeof model, "%s/adapter_model.safetensors", folder);
    snprintf(config, sizeof config, "%s/adapter_config.json", folder);
    FILE *f = fopen(config, "w");
    if (!f)
        _exit(1);
    fputs("{\"peft_type\":\"LORA\",\"r\":2,\"lora_alpha\":4}", f);
    fclose(f);
    atexit(leave);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!folder[0])
        begin();
    FILE *f = fopen(model, "wb");
    if (!f || fwrite(data, 1, size, f) != size || fclose(f))
        _exit(1);
    struct ht_safetensors *file;
    if (ht_safetensors_open(&file, model, NULL) == HEARTH_OK) {
        for (size_t i = 0; i < ht_safetensors_n(file); i++) {
            const struct ht_safetensor *t = ht_safetensors_at(file, i);
            float *out = malloc(t->n_values * sizeof *out + 1);
            if (!out || ht_safetensors_read(file, t, out, NULL) != HEARTH_OK)
                abort(); // it was checked to lie in the file
            free(out);
        }
        ht_safetensors_close(&file);
    }
    static const struct hearth_adapter_base base = {
        "tests/golden/tiny-llama.gguf", "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"};
    for (int bound = 0; bound < 2; bound++) {
        struct hearth_adapter *adapter;
        struct hearth_adapter_target target;
        if (hearth_adapter_open(&adapter, folder, bound ? &base : NULL, NULL) != HEARTH_OK)
            continue;
        hearth_adapter_get_target(adapter, 0, true, &target, NULL);
        hearth_adapter_close(&adapter);
    }
    return 0;
}
