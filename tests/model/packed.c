// SPDX-License-Identifier: Apache-2.0
// Files of packed weights: the bits are those of packing, for every model and every type of weight; whatever is wrong
// with a file, it is left out with a reason, and the answer is the same.
#include "tests/model/packed_test.h"

#include <fcntl.h>

#include "tests/check/check.h"

// ---- the same bits

static void comes_back(const char *model)
{
    struct hearth_engine_params p = packed_params(model, dir);
    assert_int_equal(open_and_compare(p), HEARTH_PACKED_ABSENT);
    packed_file(dir, model);
    assert_int_equal(open_and_compare(p), HEARTH_PACKED_READ);
    p.cpu_isa = "ref";
    p.n_threads = 3;
    p.kv = HEARTH_KV_Q8;
    assert_int_equal(open_and_compare(p), HEARTH_PACKED_READ); // of no instruction set, thread count or KV type
    p = packed_params(model, dir);
    p.exact = true;
    assert_int_equal(open_and_compare(p), HEARTH_PACKED_READ);
}

static void same_bits(void **state)
{
    comes_back(*state);
}

static void same_bits_of_a_real_model(void **state)
{
    const char *const *names = *state; // the variable, the file in the cache
    char path[1024];
    const char *home = getenv("HOME"), *named = getenv(names[0]);
    snprintf(path, sizeof path, "%s/.cache/hearth/models/%s", home ? home : "", names[1]);
    struct hearth_engine_params p = packed_params(named ? named : path, dir);
    if (access(p.model_path, R_OK)) {
        printf("# skip: no %s\n", names[2]);
        skip();
    }
    packed_file(dir, p.model_path);
    assert_int_equal(open_and_compare(p), HEARTH_PACKED_READ);
}

struct device_copy {
    struct check_device *d;
    struct ht_weight *const *from;
    unsigned fail_at; // of a source that fails: a piece; 0 = none
    atomic_uint n;
};

static enum hearth_status give(void *user, uint32_t weight, uint64_t offset, size_t len, void *data,
                               struct hearth_error *err)
{
    struct device_copy *c = user;
    if (atomic_fetch_add(&c->n, 1) + 1 == c->fail_at) {
        memset(data, 0xAB, len); // what a failing read may have left
        return ht_fail(err, HEARTH_IO, "the disk is gone");
    }
    return c->d->ops->packed_read(c->d->device, c->from[weight], offset, len, data, err);
}

enum { N_ROWS = 37, K = 512, MAX_ROW = 4 * K }; // the last group is partly filled

// Weights of every type, out and in by pieces that do not divide them; a fill that fails leaves zeros.
static void every_type(void **state)
{
    (void)state;
    struct check_device d;
    struct ht_weight *from[HT_N_TYPES], *to[HT_N_TYPES];
    static unsigned char blocks[HT_N_TYPES][N_ROWS * MAX_ROW], row[MAX_ROW], byte;
    struct hearth_error err;
    assert_true(check_open(&d, "ref", 3, HT_PRECISION_Q));
    for (unsigned i = 0; i < check_n_types; i++) {
        const struct ht_weight_params params = {check_types[i], N_ROWS, K};
        uint64_t row_bytes;
        assert_true(ht_row_bytes(check_types[i], K, &row_bytes));
        for (unsigned r = 0; r < N_ROWS; r++)
            check_fill_blocks(check_types[i], blocks[i] + r * row_bytes, K, CHECK_NORMAL);
        from[i] = check_weight(&d, check_types[i], N_ROWS, K, blocks[i]);
        must(d.ops->weight_create(d.device, &params, &to[i], &err), &err);
    }
    struct device_copy c = {.d = &d, .from = from};
    const struct ht_packed_source source = {.read = give, .user = &c, .piece_bytes = 4096 + 64};
    for (c.fail_at = 1; c.fail_at < 60; c.fail_at += 7) {
        c.n = 0;
        assert_int_equal(d.ops->packed_fill(d.device, to, check_n_types, &source, &err), HEARTH_IO);
        for (unsigned i = 0; i < check_n_types; i++)
            for (uint64_t at = 0; d.ops->packed_read(d.device, to[i], at, 1, &byte, NULL) == HEARTH_OK; at++)
                assert_int_equal(byte, 0);
    }
    c.fail_at = 0;
    must(d.ops->packed_fill(d.device, to, check_n_types, &source, &err), &err);
    for (unsigned i = 0; i < check_n_types; i++)
        for (unsigned r = 0; r < N_ROWS; r++) {
            uint64_t row_bytes;
            assert_true(ht_row_bytes(check_types[i], K, &row_bytes));
            must(d.ops->weight_unpack_row(d.device, to[i], r, row, &err), &err);
            assert_memory_equal(row, blocks[i] + r * row_bytes, row_bytes);
        }
    for (unsigned i = 0; i < check_n_types; i++) {
        d.ops->weight_destroy(d.device, &from[i]);
        d.ops->weight_destroy(d.device, &to[i]);
    }
    check_close(&d);
}

// ---- what is refused

// The file with a change; it is left out, the answer is the same, and the next writing mends it.
static void refused(const char *path, const unsigned char *data, size_t n, const char *what, size_t at)
{
    blob_put(path, data, n);
    enum hearth_packed packed = open_and_compare(packed_params(TINY, dir));
    if (packed != HEARTH_PACKED_REFUSED)
        fail_msg("%s %zu: %d", what, at, (int)packed);
}

static void every_flipped_bit(void **state)
{
    (void)state;
    const char *path = packed_file(dir, TINY);
    struct blob b = blob_of(path);
    unsigned bit = 0;
    for (size_t at = 0; at < b.n; at += at < 1500 ? 3 : 101) {
        b.data[at] ^= (unsigned char)(1u << bit++ % 8);
        refused(path, b.data, b.n, "a flipped bit at", at);
        b.data[at] ^= (unsigned char)(1u << (bit - 1) % 8);
    }
    b.data[b.n - 1] ^= 1;
    refused(path, b.data, b.n, "the last byte", b.n - 1);
    struct hearth_error err;
    must(write_packed(packed_params(TINY, dir), &err), &err);
    assert_int_equal(open_and_compare(packed_params(TINY, dir)), HEARTH_PACKED_READ);
    free(b.data);
}

static void every_cut(void **state)
{
    (void)state;
    const char *path = packed_file(dir, TINY);
    struct blob b = blob_of(path);
    b.data[b.n] = 0;
    uint32_t n_weights;
    memcpy(&n_weights, b.data + HEAD_BYTES - 16, sizeof n_weights);
    assert_true(n_weights > 10 && n_weights < 100);
    refused(path, b.data, 0, "cut at", 0);
    refused(path, b.data, HEAD_BYTES, "cut at", HEAD_BYTES);
    refused(path, b.data, HEAD_BYTES + n_weights * ENTRY_BYTES, "cut behind the entries of", n_weights);
    for (uint32_t i = 0; i < n_weights; i++) {
        uint64_t offset;
        memcpy(&offset, b.data + HEAD_BYTES + i * ENTRY_BYTES, sizeof offset);
        assert_true(offset < b.n);
        refused(path, b.data, offset, "cut before weight", i);
        refused(path, b.data, offset + 1, "cut in weight", i);
    }
    refused(path, b.data, b.n - 1, "cut at", b.n - 1);
    refused(path, b.data, b.n + 1, "longer by", 1);
    free(b.data);
}

static uint32_t random_state = 4711;
static uint32_t random_bits(void)
{
    random_state = random_state * 1664525u + 1013904223u;
    return random_state >> 8;
}

// Signed like a good one: only the comparison with the model in hand finds it.
static void sign(struct blob *b)
{
    uint64_t front;
    struct ht_hash hash;
    memcpy(&front, b->data + HEAD_BYTES, sizeof front); // the first weight's offset
    if (front < TAIL_BYTES || front > b->n)
        return;
    ht_hash_init(&hash);
    ht_hash_add(&hash, b->data, front - TAIL_BYTES);
    ht_hash_end(&hash, b->data + front - TAIL_BYTES);
}

static void mutants(void **state)
{
    (void)state;
    enum { N_MUTANTS = 1000 };
    const char *path = packed_file(dir, TINY), *seed = getenv("HEARTH_TEST_SEED");
    struct blob good = blob_of(path), b = blob_of(path);
    if (seed) // make test-long sets it
        random_state = (uint32_t)strtoul(seed, NULL, 10);
    struct hearth_engine *engine = open_engine(packed_params(TINY, NULL));
    size_t n;
    float *want = logits_of(&engine, &n);
    for (int i = 0; i < N_MUTANTS; i++) {
        memcpy(b.data, good.data, good.n);
        b.n = random_bits() % 16 ? good.n : random_bits() % good.n;
        for (uint32_t k = 0, changes = 1 + random_bits() % 4; k < changes && b.n; k++)
            b.data[random_bits() % (random_bits() % 4 && b.n > 1500 ? 1500 : b.n)] =
                (unsigned char)(random_bits() % 3 ? random_bits() : 255);
        if (i % 2 && b.n > HEAD_BYTES + ENTRY_BYTES)
            sign(&b);
        bool same = b.n == good.n && !memcmp(b.data, good.data, b.n);
        blob_put(path, b.data, b.n);
        engine = open_engine(packed_params(TINY, dir));
        if (packed_of(engine) != (same ? HEARTH_PACKED_READ : HEARTH_PACKED_REFUSED))
            assert_true(i % 2); // what fills the front up may be anything, if it is signed
        float *got = logits_of(&engine, &n);
        assert_memory_equal(got, want, n * sizeof *got);
        free(got);
    }
    free(want);
    free(good.data);
    free(b.data);
}

static void copy_file(const char *from, const char *to)
{
    struct blob b = blob_of(from);
    blob_put(to, b.data, b.n);
    free(b.data);
}

static void set_time(const char *path, time_t seconds)
{
    const struct timespec times[2] = {{.tv_sec = seconds}, {.tv_sec = seconds}};
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}

// A file of another model, of another state of this one, of another base or form, under this one's name.
static void files_of_others(void **state)
{
    (void)state;
    char models[64];
    check_folder_make(models);
    const char *model = check_path(models, "model.gguf"), *copy = check_path(models, "copy.gguf");
    copy_file(TINY, model);
    copy_file(TINY, copy);
    set_time(model, 1000000000);
    set_time(copy, 1000000000);
    const char *path = packed_file(dir, model);
    struct blob b = blob_of(path);
    assert_int_equal(open_and_compare(packed_params(model, dir)), HEARTH_PACKED_READ);
    assert_int_equal(open_and_compare(packed_params(copy, dir)), HEARTH_PACKED_READ); // wherever it lies
    set_time(copy, 1000000001); // the SHA-256 that the caller tells may be an old one
    assert_int_equal(open_and_compare(packed_params(copy, dir)), HEARTH_PACKED_REFUSED);
    copy_file("tests/golden/tiny-qwen3.gguf", model);
    set_time(model, 1000000000);
    assert_int_equal(open_and_compare(packed_params(model, dir)), HEARTH_PACKED_REFUSED);
    copy_file(TINY, model);
    set_time(model, 1000000000);
    assert_int_equal(open_and_compare(packed_params(model, dir)), HEARTH_PACKED_READ);

    struct hearth_engine_params other = packed_params(model, dir);
    other.base_sha256 = OTHER_BASE;
    assert_int_equal(open_and_compare(other), HEARTH_PACKED_ABSENT);
    char *renamed = strdup(path);
    memcpy(renamed + strlen(dir) + 1, OTHER_BASE, 64);
    copy_file(path, renamed);
    assert_int_equal(open_and_compare(other), HEARTH_PACKED_REFUSED);
    b.data[FORM_AT] ^= 1; // another layout, its checksum right
    sign(&b);
    blob_put(path, b.data, b.n);
    assert_int_equal(open_and_compare(packed_params(model, dir)), HEARTH_PACKED_REFUSED);
    free(renamed);
    free(b.data);
    check_folder_remove(models);
}

static void files_that_others_may_have_written(void **state)
{
    (void)state;
    const char *path = packed_file(dir, TINY), *aside = check_path(dir, "aside");
    const struct hearth_engine_params p = packed_params(TINY, dir);
    static const mode_t modes[] = {0620, 0602, 0666};
    for (unsigned i = 0; i < sizeof modes / sizeof *modes; i++) {
        assert_int_equal(chmod(path, modes[i]), 0);
        assert_int_equal(open_and_compare(p), HEARTH_PACKED_REFUSED);
    }
    assert_int_equal(chmod(path, 0400), 0);
    assert_int_equal(open_and_compare(p), HEARTH_PACKED_READ);
    if (!geteuid()) { // only root can give a file away
        assert_int_equal(chown(path, 1, (gid_t)-1), 0);
        assert_int_equal(open_and_compare(p), HEARTH_PACKED_REFUSED);
        assert_int_equal(chown(path, 0, (gid_t)-1), 0);
    }
    assert_int_equal(rename(path, aside), 0);
    assert_int_equal(symlink("aside", path), 0);
    assert_int_equal(open_and_compare(p), HEARTH_PACKED_REFUSED);
    unlink(path);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(open_and_compare(p), HEARTH_PACKED_REFUSED);
    unlink(path);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(open_and_compare(p), HEARTH_PACKED_REFUSED);
    assert_int_equal(rmdir(path), 0);
    struct hearth_engine_params nowhere = p;
    nowhere.packed_dir = check_path(dir, "no-folder");
    assert_int_equal(open_and_compare(nowhere), HEARTH_PACKED_ABSENT);
}

// ---- what callers can do wrong

static void arguments(void **state)
{
    (void)state;
    static const char *const bad[] = {NULL, "", "00", BASE "0", "../" BASE,
                                      "00112233445566778899AABBCCDDEEFF00112233445566778899aabbccddeeff"};
    struct hearth_error err;
    struct hearth_engine *engine;
    struct hearth_engine_params p = packed_params(TINY, dir);
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
        p.base_sha256 = bad[i];
        assert_int_equal(hearth_engine_open(&engine, &p, &err), HEARTH_INVALID);
        assert_null(engine);
        assert_int_equal(write_packed(p, &err), HEARTH_INVALID);
    }
    p.base_sha256 = BASE;
    p.vocab_only = true;
    engine = open_engine(p);
    assert_int_equal(packed_of(engine), HEARTH_PACKED_NONE);
    assert_int_equal(hearth_engine_write_packed(engine, dir, BASE, NULL, NULL, &err), HEARTH_INVALID);
    hearth_engine_close(&engine);
    p.packed_dir = check_path(dir, "no-folder");
    assert_int_equal(write_packed(p, &err), HEARTH_NOT_FOUND);
    char name[256];
    assert_int_equal(names_in(dir, name), 0);
}

#define MODEL(name)                                                                                          \
    {                                                                                                        \
        "same_bits " name, same_bits, make_folder, remove_folder,                                            \
            (void *)(uintptr_t)("tests/golden/" name ".gguf")                                                \
    }

int main(void)
{
    static const char *smollm2[] = {"HEARTH_TEST_SMOLLM2", "SmolLM2-135M-Instruct-Q4_1.gguf", "smollm2"};
    static const char *gemma3[] = {"HEARTH_TEST_GEMMA3", "gemma-3-270m-Q4_K_M.gguf", "gemma3"};
    const struct CMUnitTest tests[] = {
        MODEL("tiny-llama"),
        MODEL("tiny-llama-q8_0"),
        MODEL("tiny-qwen2"),
        MODEL("tiny-qwen2-q4_1"),
        MODEL("tiny-qwen3"),
        MODEL("tiny-gemma3"),
        {"same_bits smollm2", same_bits_of_a_real_model, make_folder, remove_folder, smollm2},
        {"same_bits gemma3", same_bits_of_a_real_model, make_folder, remove_folder, gemma3},
        cmocka_unit_test(every_type),
        cmocka_unit_test_setup_teardown(every_flipped_bit, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(every_cut, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(mutants, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(files_of_others, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(files_that_others_may_have_written, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(arguments, make_folder, remove_folder),
    };
    return cmocka_run_group_tests_name("packed", tests, NULL, NULL);
}
