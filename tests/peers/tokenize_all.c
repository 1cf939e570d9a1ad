// SPDX-License-Identifier: Apache-2.0
// tokenize_all MODEL: many texts through libhearth in one process, for test_tokenizers.py. On stdin each text as
// u32 length and bytes; on stdout for each u32 count, i32 ids, u32 length and bytes of their decoding.
#include <stdio.h>
#include <stdlib.h>

#include "engine/engine.h"

static int stop(const struct hearth_error *err)
{
    fprintf(stderr, "tokenize_all: %s\n", err->text);
    return 1;
}

static int one(const struct hearth_engine *engine, uint32_t len_bytes)
{
    struct hearth_error err = {0};
    size_t capacity = len_bytes + 64, n, back;
    char *text = malloc(len_bytes + 1), *out = malloc(4 * capacity);
    int32_t *ids = malloc(capacity * sizeof *ids);
    if (!text || !out || !ids || fread(text, 1, len_bytes, stdin) != len_bytes)
        return 1;
    if (hearth_tokenize(engine, text, len_bytes, 0, ids, capacity, &n, &err) ||
        hearth_detokenize(engine, ids, n, false, out, 4 * capacity, &back, &err))
        return stop(&err);
    uint32_t counts[2] = {(uint32_t)n, (uint32_t)back};
    fwrite(&counts[0], 4, 1, stdout);
    fwrite(ids, 4, n, stdout);
    fwrite(&counts[1], 4, 1, stdout);
    fwrite(out, 1, back, stdout);
    free(text);
    free(out);
    free(ids);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    struct hearth_engine *engine;
    struct hearth_error err = {0};
    struct hearth_engine_params params = {.model_path = argv[1], .vocab_only = true, .device = "cpu"};
    if (hearth_engine_open(&engine, &params, &err))
        return stop(&err);
    int code = 0;
    for (uint32_t len_bytes; !code && fread(&len_bytes, 4, 1, stdin) == 1;)
        code = one(engine, len_bytes);
    hearth_engine_close(&engine);
    return code;
}
