// SPDX-License-Identifier: Apache-2.0
// Tiny models: see tiny.h. Test thread.
#include "tests/check/tiny.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/gguf/quantize.h"
#include "engine/gguf/writer.h"
#include "engine/model/model.h"
#include "tests/check/check.h"
#include "tests/check/fault.h"

enum { N_VOCAB = 264, N_CTX = 256, N_TENSORS = 1024 };
#define VOCABULARY "tests/golden/tiny-llama.gguf"

struct tensor {
    char name[64];
    enum ht_type type;
    uint32_t n, k; // n 0: a vector
    float around;  // of a vector's values
};

static void number(struct ht_gguf_writer *w, const char *family, const char *name, uint32_t value)
{
    char key[96];
    snprintf(key, sizeof key, "%s.%s", family, name);
    ht_gguf_writer_u32(w, key, value);
}

static void write_keys(struct ht_gguf_writer *w, const struct check_tiny *s)
{
    struct ht_gguf *from;
    CHECK_OK(ht_gguf_open(&from, VOCABULARY, &check_err));
    ht_gguf_writer_str(w, "general.architecture", s->family, strlen(s->family));
    for (size_t i = 0; i < ht_gguf_n_keys(from); i++)
        if (!strncmp(ht_gguf_key_at(from, i)->name, "tokenizer.", 10))
            ht_gguf_writer_key(w, ht_gguf_key_at(from, i));
    ht_gguf_close(&from);
    number(w, s->family, "block_count", s->layers);
    number(w, s->family, "embedding_length", s->n_embd);
    number(w, s->family, "feed_forward_length", s->n_ff);
    number(w, s->family, "context_length", N_CTX);
    number(w, s->family, "attention.head_count", s->heads);
    number(w, s->family, "attention.head_count_kv", s->kv_heads);
    number(w, s->family, "attention.key_length", s->k_dim);
    number(w, s->family, "attention.value_length", s->v_dim);
    char key[96];
    snprintf(key, sizeof key, "%s.attention.layer_norm_rms_epsilon", s->family);
    ht_gguf_writer_f32(w, key, 1e-5f);
    if (s->window)
        number(w, s->family, "attention.sliding_window", s->window);
    if (s->pattern)
        ht_gguf_writer_key(w, s->pattern);
}

static size_t list_tensors(const struct check_tiny *s, struct tensor *out)
{
    const struct ht_arch *arch = ht_arch_find(s->family);
    const struct ht_hparams hp = {.arch = arch,
                                  .n_embd = s->n_embd,
                                  .n_ff = s->n_ff,
                                  .n_heads = s->heads,
                                  .n_kv_heads = s->kv_heads,
                                  .k_dim = s->k_dim,
                                  .v_dim = s->v_dim};
    size_t n = 0;
    out[n++] = (struct tensor){"token_embd.weight", s->type, N_VOCAB, s->n_embd, 0};
    out[n++] = (struct tensor){"output_norm.weight", HT_TYPE_F32, 0, s->n_embd, 1};
    for (uint32_t layer = 0; layer < s->layers; layer++)
        for (unsigned i = 0; i < ht_n_layer_tensors; i++) {
            const struct ht_tensor_spec *spec = &ht_layer_tensors[i];
            if (spec->feature && !(arch->required & spec->feature))
                continue;
            if (n == N_TENSORS)
                abort();
            struct tensor *t = &out[n++];
            *t = (struct tensor){"", spec->is_matrix ? s->type : HT_TYPE_F32,
                                 spec->is_matrix ? ht_dim_size(&hp, spec->n) : 0, ht_dim_size(&hp, spec->k),
                                 strstr(spec->suffix, "norm") ? 1 : 0};
            snprintf(t->name, sizeof t->name, "blk.%u.%s", layer, spec->suffix);
        }
    return n;
}

static void write_values(struct ht_gguf_writer *w, const struct tensor *t)
{
    float *row = calloc(t->k, sizeof *row), *blocks = calloc(t->k, sizeof *blocks);
    uint64_t bytes = 0;
    if (!row || !blocks || !ht_row_bytes(t->type, t->k, &bytes))
        abort();
    for (uint32_t i = 0; i < (t->n ? t->n : 1); i++) {
        for (uint32_t j = 0; j < t->k; j++)
            row[j] = t->n ? check_unit() * 1.4f / sqrtf((float)t->k) : t->around + 0.3f * check_unit();
        if (!ht_quantize_row(t->type, row, t->k, blocks))
            abort();
        CHECK_OK(ht_gguf_writer_data(w, blocks, (size_t)bytes, &check_err));
    }
    free(row);
    free(blocks);
}

const char *check_tiny_make(const char *folder, const char *name, const struct check_tiny *shape)
{
    static struct tensor tensors[N_TENSORS];
    const char *path = check_path(folder, name);
    struct ht_gguf_writer *w;
    CHECK_OK(ht_gguf_writer_begin(&w, path, 32, &check_err));
    write_keys(w, shape);
    size_t n = list_tensors(shape, tensors);
    for (size_t i = 0; i < n; i++) {
        const uint64_t ne[] = {tensors[i].k, tensors[i].n};
        ht_gguf_writer_tensor(w, tensors[i].name, tensors[i].type, tensors[i].n ? 2 : 1, ne);
    }
    check_reseed(shape->k_dim * 1000 + shape->v_dim);
    for (size_t i = 0; i < n; i++)
        write_values(w, &tensors[i]);
    CHECK_OK(ht_gguf_writer_finish(&w, &check_err));
    return path;
}
