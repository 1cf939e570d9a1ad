// SPDX-License-Identifier: Apache-2.0
// Shared by the trainer's tests: a tiny model, conversations about nothing, a folder for runs.
#ifndef TRAINER_TEST_H
#define TRAINER_TEST_H
#include "tests/model/model_test.h"

#include "engine/learn/trainer.h"
#include "tests/check/fault.h"

#define TRAIN_MODEL "tests/golden/tiny-llama.gguf"
#define TRAIN_SHA "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

struct bed {
    char folder[64], runs[64];
    const char *data;
    struct hearth_engine *engine;
    struct hearth_data_file files[2];
    struct hearth_train_params params;
    size_t save_bytes; // of a part of a checkpoint; 0 = as it is
};

// Conversations 0 … n - 1 without `without`; each is what it is whatever the others are.
static inline void write_chats(const char *path, unsigned n, unsigned without)
{
    static const char *const words[] = {"the", "sun", "is", "a", "star", "and", "it", "shines", "on", "us", "all"};
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    for (unsigned i = 0; i < n; i++) {
        uint32_t r = (i + 1) * 2654435761u;
        if (i == without)
            continue;
        fprintf(f, "{\"id\": \"chat%u\", \"messages\": [{\"role\": \"user\", \"content\": \"say %u", i, i);
        for (unsigned k = 0; k < 1 + i % 3; k++, r = r * 1664525u + 1013904223u)
            fprintf(f, " %s", words[r >> 16 & 7]);
        fprintf(f, "\"}, {\"role\": \"assistant\", \"content\": \"");
        for (unsigned k = 0; k < 2 + i % 5; k++, r = r * 1664525u + 1013904223u)
            fprintf(f, "%s%s", k ? " " : "", words[(r >> 16) % 11]);
        fprintf(f, "\"}]}\n");
    }
    fclose(f);
}

static inline struct hearth_engine *train_engine(unsigned n_threads)
{
    return open_engine((struct hearth_engine_params){.model_path = TRAIN_MODEL,
                                                     .device = "cpu",
                                                     .n_ctx = 64,
                                                     .max_sessions = 1,
                                                     .n_threads = n_threads,
                                                     .chat_template = "chatml"});
}

static inline void bed_params(struct bed *bed)
{
    struct hearth_train_params *p = &bed->params;
    *p = (struct hearth_train_params){.files = {.folder = bed->runs}, .base_sha256 = TRAIN_SHA, .name = "test"};
    hearth_train_default(p);
    bed->files[0] = (struct hearth_data_file){.path = bed->data, .weight = 1};
    p->data.files = bed->files;
    p->data.n_files = 1;
    p->data.n_seq = 64;
    p->data.near = 0;
    p->data.held_out = 0.2;
    p->rank = 2;
    p->alpha = 4;
    p->lr = 5e-3;
    p->n_batch = 2;
    p->epochs = 2;
    p->targets = "attn_q,ffn_down";
    p->precision = HEARTH_TRAIN_F32;
}

static inline void bed_make(struct bed *bed, unsigned n_chats)
{
    *bed = (struct bed){0};
    check_folder_make(bed->folder);
    check_folder_make(bed->runs);
    bed->data = check_path(bed->folder, "chats.jsonl");
    write_chats(bed->data, n_chats, UINT32_MAX);
    bed->engine = train_engine(1);
    bed_params(bed);
}

static inline void bed_free(struct bed *bed)
{
    hearth_engine_close(&bed->engine);
    check_folder_remove(bed->folder);
    check_folder_remove(bed->runs);
}

static inline void bed_empty(struct bed *bed) // for another run
{
    check_folder_remove(bed->runs);
    check_folder_make(bed->runs);
}

struct blob {
    unsigned char *data;
    size_t n;
};

static inline struct blob blob_read(const char *folder, const char *name)
{
    char path[256];
    struct blob b = {0};
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "rb");
    if (!f)
        return b;
    b.data = malloc(1 << 20);
    b.n = fread(b.data, 1, 1 << 20, f);
    fclose(f);
    return b;
}

static inline bool blob_same(struct blob a, struct blob b)
{
    return a.n && a.n == b.n && !memcmp(a.data, b.data, a.n);
}

static inline bool run_is_like(const struct bed *bed, struct blob want, const char *name)
{
    struct blob got = blob_read(bed->runs, name);
    bool same = blob_same(want, got);
    free(got.data);
    return same;
}

// From opening to the end, in pieces of budget_ms.
static inline enum hearth_status train_through(struct bed *bed, double budget_ms, struct hearth_train_info *info,
                                               struct hearth_error *err)
{
    struct hearth_trainer *t;
    enum hearth_status status = hearth_trainer_open(&t, bed->engine, &bed->params, err);
    *info = (struct hearth_train_info){0};
    if (status == HEARTH_OK && bed->save_bytes)
        t->save_bytes = bed->save_bytes;
    while (status == HEARTH_OK && info->state != HEARTH_TRAIN_DONE) {
        status = hearth_trainer_run(t, budget_ms, err);
        hearth_trainer_get_info(t, info);
    }
    hearth_trainer_close(&t);
    return status;
}

static inline void must_train(struct bed *bed, struct hearth_train_info *info)
{
    struct hearth_error err = {0};
    must(train_through(bed, 1e9, info, &err), &err);
}

#endif
