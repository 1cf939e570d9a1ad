// SPDX-License-Identifier: Apache-2.0
// libFuzzer entry of the tokenizer and the chat format, on the vocabulary of a tiny model: what a person types never
// yields a control token, and decoding gives the bytes back.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { FIRST_CONTROL = 260, MAX_BYTES = 4096 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct hearth_engine *engine;
    static int32_t ids[MAX_BYTES + 64];
    static char text[8 * MAX_BYTES];
    struct hearth_engine_params params = {.model_path = "tests/golden/tiny-llama.gguf", .vocab_only = true};
    size_t n, len;
    if (!engine && hearth_engine_open(&engine, &params, NULL) != HEARTH_OK)
        abort();
    if (size > MAX_BYTES)
        return 0;
    if (hearth_tokenize(engine, (const char *)data, size, 0, ids, MAX_BYTES, &n, NULL) != HEARTH_OK)
        abort(); // every byte has a token
    for (size_t i = 0; i < n; i++)
        if (ids[i] >= FIRST_CONTROL)
            abort();
    if (hearth_detokenize(engine, ids, n, false, text, sizeof text, &len, NULL) != HEARTH_OK || len != size ||
        memcmp(text, data, size))
        abort();
    const struct hearth_message message = {.role = HEARTH_ROLE_USER, .text = (const char *)data, .len_bytes = size};
    (void)hearth_chat_tokenize(engine, &message, 1, ids, MAX_BYTES + 64, &n, NULL);
    return 0;
}
