// SPDX-License-Identifier: Apache-2.0
// Shared by the tests of files of packed weights: a folder, a model in it, and what an opening came to.
#ifndef PACKED_TEST_H
#define PACKED_TEST_H
#include "tests/model/model_test.h"

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/io.h"
#include "engine/model/session.h"
#include "tests/check/fault.h"

static char dir[64]; // a test's own

static inline int make_folder(void **state)
{
    (void)state;
    check_folder_make(dir);
    return 0;
}

static inline int remove_folder(void **state)
{
    (void)state;
    ht_io_set_hook(NULL);
    check_folder_remove(dir);
    return 0;
}

#define TINY "tests/golden/tiny-qwen2-q4_1.gguf"
#define BASE "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
#define OTHER_BASE "ff112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

// Where things lie in a file (engine/model/packed.c).
enum { HEAD_BYTES = 152, FORM_AT = 88, ENTRY_BYTES = 32, PIECE_BYTES = 128 << 10, TAIL_BYTES = HT_HASH_BYTES };

struct blob {
    unsigned char *data;
    size_t n;
};

static inline struct blob blob_of(const char *path)
{
    struct stat st;
    struct blob b = {NULL, 0};
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    assert_int_equal(fstat(fileno(f), &st), 0);
    b.n = (size_t)st.st_size;
    b.data = malloc(b.n + 1);
    assert_int_equal(fread(b.data, 1, b.n, f), b.n);
    fclose(f);
    return b;
}

static inline void blob_put(const char *path, const unsigned char *data, size_t n)
{
    unlink(path);
    check_file_write(path, data, n);
    assert_int_equal(chmod(path, 0600), 0);
}

static inline struct hearth_engine_params packed_params(const char *model, const char *dir)
{
    return (struct hearth_engine_params){
        .model_path = model, .device = "cpu", .n_ctx = 64, .n_threads = 2, .packed_dir = dir, .base_sha256 = BASE};
}

static inline enum hearth_packed packed_of(const struct hearth_engine *engine)
{
    struct hearth_engine_info info;
    hearth_engine_get_info(engine, &info);
    assert_true((info.packed == HEARTH_PACKED_REFUSED) == (strlen(info.packed_problem) > 5));
    return info.packed;
}

// Logits of a few ids, freed by the caller; closes the engine.
static inline float *logits_of(struct hearth_engine **engine, size_t *n)
{
    static const int32_t ids[] = {5, 6, 7, 8, 9, 250, 3};
    struct hearth_engine_info info;
    hearth_engine_get_info(*engine, &info);
    *n = info.n_vocab * sizeof ids / sizeof *ids;
    float *logits = eval_ids(new_session(*engine), *engine, ids, sizeof ids / sizeof *ids, 4);
    hearth_engine_close(engine);
    return logits;
}

// Opens, compares the logits with those of the same model packed as ever, and tells what became of the file.
static inline enum hearth_packed open_and_compare(struct hearth_engine_params params)
{
    size_t n, n_want;
    struct hearth_engine *engine = open_engine(params);
    enum hearth_packed packed = packed_of(engine);
    float *got = logits_of(&engine, &n);
    params.packed_dir = NULL;
    engine = open_engine(params);
    assert_int_equal(packed_of(engine), HEARTH_PACKED_NONE);
    float *want = logits_of(&engine, &n_want);
    assert_int_equal(n, n_want);
    assert_memory_equal(got, want, n * sizeof *got);
    free(got);
    free(want);
    return packed;
}

static inline enum hearth_status write_packed(struct hearth_engine_params params, struct hearth_error *err)
{
    struct hearth_engine *engine = open_engine((struct hearth_engine_params){
        .model_path = params.model_path, .device = "cpu", .n_ctx = 64, .n_threads = 2});
    enum hearth_status status =
        hearth_engine_write_packed(engine, params.packed_dir, params.base_sha256, NULL, NULL, err);
    hearth_engine_close(&engine);
    return status;
}

// The names in a folder: how many, and the last one.
static inline unsigned names_in(const char *dir, char name[256])
{
    unsigned n = 0;
    DIR *folder = opendir(dir);
    assert_non_null(folder);
    for (struct dirent *entry; (entry = readdir(folder));)
        if (entry->d_name[0] != '.') {
            n++;
            snprintf(name, 256, "%s", entry->d_name);
        }
    closedir(folder);
    return n;
}

// A folder with the file of this model in it; its path stays until the program ends.
static inline const char *packed_file(const char *dir, const char *model)
{
    char name[256];
    struct hearth_error err;
    must(write_packed(packed_params(model, dir), &err), &err);
    assert_int_equal(names_in(dir, name), 1);
    return check_path(dir, name);
}

#endif
