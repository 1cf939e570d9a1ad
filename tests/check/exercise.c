// SPDX-License-Identifier: Apache-2.0
// The walk through an opened GGUF file. Test thread.
#include "tests/check/exercise.h"

#include <string.h>

#include "engine/base/mem.h"
#include "engine/gguf/gguf.h"

static volatile unsigned sink; // keeps the reads

static void touch(const void *data, size_t len)
{
    const unsigned char *p = data;
    for (size_t i = 0; i < len; i++)
        sink += p[i];
}

static void walk_array(struct ht_gguf_array array)
{
    struct ht_gguf_str string;
    touch(array.data, array.size_bytes);
    for (uint64_t i = 0; i < array.count && array.kind != HT_GGUF_STRING; i++) {
        if (array.kind == HT_GGUF_F32 || array.kind == HT_GGUF_F64)
            sink += ht_gguf_array_f32(&array, i) > 0;
        else
            sink += (unsigned)ht_gguf_array_i64(&array, i);
    }
    while (ht_gguf_array_next(&array, &string))
        touch(string.text, string.len_bytes);
}

static void walk_keys(struct ht_gguf *g)
{
    for (size_t i = 0; i < ht_gguf_n_keys(g); i++) {
        const struct ht_gguf_key *key = ht_gguf_key_at(g, i);
        uint32_t u32;
        uint64_t u64;
        int64_t i64;
        float f;
        bool b;
        const char *text;
        size_t len;
        sink += (unsigned)ht_gguf_get_u32(g, key->name, &u32, NULL) +
                (unsigned)ht_gguf_get_u64(g, key->name, &u64, NULL);
        sink += (unsigned)ht_gguf_get_i64(g, key->name, &i64, NULL) +
                (unsigned)ht_gguf_get_f32(g, key->name, &f, NULL);
        sink += (unsigned)ht_gguf_get_bool(g, key->name, &b, NULL);
        if (ht_gguf_get_str(g, key->name, &text, &len, NULL) == HEARTH_OK)
            touch(text, len + 1);
        sink += (unsigned)strlen(key->name) + (ht_gguf_find_key(g, key->name) != key);
        walk_array(key->array);
    }
}

enum hearth_status exercise_gguf(const char *path, struct hearth_error *err)
{
    struct ht_gguf *g;
    HT_TRY(ht_gguf_open(&g, path, err));
    walk_keys(g);
    for (size_t i = 0; i < ht_gguf_n_tensors(g); i++) {
        const struct ht_gguf_tensor *tensor = ht_gguf_tensor_at(g, i);
        sink += ht_gguf_use_tensor(g, tensor->name) != tensor;
        const struct ht_type_info *info = ht_type_info(tensor->type);
        void *row = ht_calloc(1, (size_t)tensor->row_bytes); // fits in the file, hence in memory here
        float *values = ht_calloc(info->block_values, sizeof(float));
        if (row && values && ht_gguf_read(g, tensor, 0, (size_t)tensor->row_bytes, row, NULL) == HEARTH_OK) {
            ht_dequant_row(tensor->type, row, info->block_values, values);
            touch(row, (size_t)tensor->row_bytes);
            touch(values, info->block_values * sizeof(float));
        }
        ht_free(row);
        ht_free(values);
    }
    sink += ht_gguf_first_unused_tensor(g) != NULL;
    ht_gguf_close(&g);
    return HEARTH_OK;
}
