// SPDX-License-Identifier: Apache-2.0
// Merging adapters into their base: values against a sum in double, everything else byte for byte, what the file tells
// of itself, refusals, and every allocation and every write made to fail.
#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "engine/base/io.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "engine/gguf/quantize.h"
#include "engine/gguf/writer.h"
#include "engine/learn/adapter.h"
#include "tests/check/fault.h"

#define BASE "tests/golden/tiny-llama.gguf"
#define SHA "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
static const struct hearth_adapter_base base = {BASE, SHA};
static char folder[64];

static int set_up(void **state)
{
    (void)state;
    check_folder_make(folder);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    ht_io_set_hook(NULL);
    check_folder_remove(folder);
    return 0;
}

static const char *path_of(const char *name)
{
    return check_path(folder, name);
}

// For the tiny model, linears as told, with values in B.
static struct hearth_adapter *made(const struct hearth_adapter_base *of, unsigned linears, uint32_t rank, uint64_t seed)
{
    struct ht_gguf *gguf;
    struct ht_hparams hp;
    struct hearth_adapter *a;
    struct ht_adapter_spec spec = {.linears = linears, .rank = rank, .alpha = 6};
    assert_int_equal(ht_gguf_open(&gguf, of->path, NULL), HEARTH_OK);
    assert_int_equal(ht_hparams_read(&hp, gguf, NULL), HEARTH_OK);
    ht_gguf_close(&gguf);
    assert_int_equal(ht_adapter_create(&a, &hp, &spec, NULL), HEARTH_OK);
    ht_adapter_init(a, seed, false);
    for (size_t i = 0; i < a->n_targets; i++)
        for (size_t j = 0; j < (size_t)a->targets[i].n * rank; j++)
            a->values[a->targets[i].b_at + j] = 0.2f * (ht_unit_f32(ht_philox(seed, j, i).v[0]) - 0.5f);
    assert_int_equal(ht_adapter_bind(a, of, NULL), HEARTH_OK);
    ht_adapter_text(a->name, sizeof a->name, "evening");
    return a;
}

static struct ht_gguf *opened(const char *path)
{
    struct ht_gguf *gguf;
    struct hearth_error err = {0};
    if (ht_gguf_open(&gguf, path, &err))
        fail_msg("%s", err.text);
    return gguf;
}

// A tensor as it lies in the file.
static unsigned char *bytes_of(const struct ht_gguf *gguf, const struct ht_gguf_tensor *t)
{
    unsigned char *bytes = malloc(t->size_bytes);
    assert_int_equal(ht_gguf_read(gguf, t, 0, t->size_bytes, bytes, NULL), HEARTH_OK);
    return bytes;
}

static float *values_of(const struct ht_gguf *gguf, const struct ht_gguf_tensor *t)
{
    unsigned char *bytes = bytes_of(gguf, t);
    float *values = malloc(t->n_values * sizeof *values);
    ht_dequant_row(t->type, bytes, t->n_values, values);
    free(bytes);
    return values;
}

// W + sum of scale · B A in double, for one tensor; false if no adapter has a part for it.
static bool oracle(const struct hearth_adapter_use *uses, size_t n_uses, const char *name, const float *w, double *sum)
{
    bool any = false;
    char own[64];
    for (size_t u = 0; u < n_uses; u++)
        for (size_t i = 0; i < uses[u].adapter->n_targets; i++) {
            const struct ht_adapter_target *t = &uses[u].adapter->targets[i];
            const float *a = uses[u].adapter->values + t->a_at, *b = uses[u].adapter->values + t->b_at;
            ht_adapter_tensor_name(t, own);
            if (strcmp(own, name))
                continue;
            for (size_t v = 0; v < (size_t)t->n * t->k && !any; v++)
                sum[v] = (double)w[v];
            any = true;
            for (size_t v = 0; v < (size_t)t->n * t->k; v++)
                for (size_t r = 0; r < t->rank; r++)
                    sum[v] += (double)uses[u].scale * ((double)t->alpha / t->rank) *
                              (double)b[v / t->k * t->rank + r] * (double)a[r * t->k + v % t->k];
        }
    return any;
}

static enum hearth_status merge(const char *name, const struct hearth_adapter_use *uses, size_t n_uses,
                                const char *type, struct hearth_merge_report *report, struct hearth_error *err)
{
    const struct hearth_merge_params params = {.base = &base, .uses = uses, .n_uses = n_uses, .type = type};
    return hearth_adapter_merge(path_of(name), &params, report, err);
}

// The most that rounding to a type may move a value, relative to the row's largest; blocks are checked elsewhere.
static double allowed(const char *type)
{
    return !strcmp(type, "f32") ? ldexp(1, -23) : !strcmp(type, "f16") ? ldexp(1, -11) : 0.14;
}

static void check_tensor(const struct ht_gguf *before, const struct ht_gguf *after, size_t i,
                         const struct hearth_adapter_use *uses, size_t n_uses, const char *type, size_t *n_merged)
{
    const struct ht_gguf_tensor *t = ht_gguf_tensor_at(before, i), *u = ht_gguf_tensor_at(after, i);
    assert_string_equal(t->name, u->name);
    assert_memory_equal(t->ne, u->ne, sizeof t->ne);
    float *w = values_of(before, t), *got = values_of(after, u);
    double *sum = malloc(t->n_values * sizeof *sum), top = 0;
    if (oracle(uses, n_uses, t->name, w, sum)) {
        ++*n_merged;
        for (uint64_t v = 0; v < t->n_values; v++)
            top = fmax(top, fabs(sum[v]));
        for (uint64_t v = 0; v < t->n_values; v++)
            if (!(fabs((double)got[v] - sum[v]) <= allowed(type) * top))
                fail_msg("%s value %llu: %g, wanted %g", t->name, (unsigned long long)v, (double)got[v], sum[v]);
    } else {
        unsigned char *a = bytes_of(before, t), *b = bytes_of(after, u);
        assert_int_equal(t->type, u->type);
        assert_memory_equal(a, b, t->size_bytes);
        free(a);
        free(b);
    }
    free(w);
    free(got);
    free(sum);
}

static void sums(void **state)
{
    (void)state;
    static const char *const types[] = {"f32", "f16", "keep", "Q4_1", "q8_0", "iq4_nl"};
    struct hearth_adapter *one = made(&base, 0x7F, 3, 7), *two = made(&base, 1u << HT_ATTN_V | 1u << HT_FFN_DOWN, 2, 8);
    const struct hearth_adapter_use uses[] = {{one, 1}, {two, -0.5f}};
    for (size_t k = 0; k < sizeof types / sizeof *types; k++)
        for (size_t n_uses = 1; n_uses <= 2; n_uses++) {
            struct hearth_error err = {0};
            struct hearth_merge_report report;
            size_t n_merged = 0;
            if (merge("m.gguf", uses, n_uses, types[k], &report, &err))
                fail_msg("%s: %s", types[k], err.text);
            struct ht_gguf *before = opened(BASE), *after = opened(path_of("m.gguf"));
            assert_int_equal(ht_gguf_n_tensors(before), ht_gguf_n_tensors(after));
            for (size_t i = 0; i < ht_gguf_n_tensors(before); i++)
                check_tensor(before, after, i, uses, n_uses, types[k], &n_merged);
            assert_int_equal(report.n_merged, n_merged);
            assert_int_equal(n_merged, one->n_targets);
            assert_true(report.rms_change > 0 && (k != 0 || report.rms_rounding == 0));
            assert_true(k < 3 || (report.rms_rounding > 0 && report.rms_rounding < 0.1));
            ht_gguf_close(&before);
            ht_gguf_close(&after);
        }
    hearth_adapter_close(&one);
    hearth_adapter_close(&two);
}

// A head that is tied to the embeddings gets a tensor of its own, behind what was there, which stays as it was.
static void tied_head(void **state)
{
    (void)state;
    const struct hearth_adapter_base tied = {"tests/golden/tiny-qwen2-q4_1.gguf", SHA};
    static const char *const types[] = {"f32", "keep"};
    struct hearth_adapter *a = made(&tied, 1u << HT_ATTN_V | 1u << HT_ADAPTER_OUTPUT, 3, 7);
    const struct hearth_adapter_use uses[] = {{a, 1}, {a, -0.25f}};
    for (int k = 0; k < 2; k++) {
        struct hearth_error err = {0};
        struct hearth_merge_report report;
        const struct hearth_merge_params params = {.base = &tied, .uses = uses, .n_uses = 2, .type = types[k]};
        if (hearth_adapter_merge(path_of("m.gguf"), &params, &report, &err))
            fail_msg("%s", err.text);
        struct ht_gguf *before = opened(tied.path), *after = opened(path_of("m.gguf"));
        size_t n = ht_gguf_n_tensors(before), n_merged = 0;
        assert_int_equal(ht_gguf_n_tensors(after), n + 1);
        for (size_t i = 0; i < n; i++)
            check_tensor(before, after, i, uses, 2, types[k], &n_merged);
        assert_int_equal(report.n_merged, a->n_targets);
        assert_int_equal(n_merged + 1, a->n_targets);
        const struct ht_gguf_tensor *w = ht_gguf_find_tensor(before, "token_embd.weight");
        const struct ht_gguf_tensor *head = ht_gguf_tensor_at(after, n);
        assert_string_equal(head->name, "output.weight");
        assert_int_equal(head->type, k ? w->type : HT_TYPE_F32);
        float *from = values_of(before, w), *got = values_of(after, head);
        double *sum = malloc(w->n_values * sizeof *sum), top = 0;
        assert_true(oracle(uses, 2, "output.weight", from, sum));
        for (uint64_t v = 0; v < w->n_values; v++)
            top = fmax(top, fabs(sum[v]));
        for (uint64_t v = 0; v < w->n_values; v++)
            assert_true(fabs((double)got[v] - sum[v]) <= allowed(types[k]) * top);
        free(from);
        free(got);
        free(sum);
        ht_gguf_close(&before);
        ht_gguf_close(&after);
    }
    hearth_adapter_close(&a);
}

static bool same_key(const struct ht_gguf_key *a, const struct ht_gguf_key *b)
{
    return !strcmp(a->name, b->name) && a->kind == b->kind && a->array.size_bytes == b->array.size_bytes &&
           !memcmp(a->array.data, b->array.data, a->array.size_bytes);
}

// Every key but the type of most values comes first, as it was; then what was merged, also of a file merged before.
static void keys(void **state)
{
    (void)state;
    struct hearth_adapter *a = made(&base, 0x7F, 2, 7);
    const struct hearth_adapter_use use = {a, 0.5f};
    assert_int_equal(merge("m.gguf", &use, 1, "f16", NULL, NULL), HEARTH_OK);
    struct ht_gguf *before = opened(BASE), *after = opened(path_of("m.gguf"));
    for (size_t i = 0; i < ht_gguf_n_keys(before); i++) {
        const struct ht_gguf_key *key = ht_gguf_key_at(before, i);
        assert_true(same_key(key, ht_gguf_key_at(after, i)) || !strcmp(key->name, "general.file_type"));
    }
    uint32_t count = 0;
    float scale = 0;
    const char *text = "";
    assert_int_equal(ht_gguf_get_u32(after, "hearth.merge.count", &count, NULL), HEARTH_OK);
    assert_int_equal(ht_gguf_get_f32(after, "hearth.merge.0.scale", &scale, NULL), HEARTH_OK);
    assert_true(count == 1 && scale == 0.5f);
    assert_int_equal(ht_gguf_get_str(after, "hearth.merge.0.base_sha256", &text, NULL, NULL), HEARTH_OK);
    assert_string_equal(text, SHA);
    assert_int_equal(ht_gguf_get_str(after, "hearth.merge.0.adapter", &text, NULL, NULL), HEARTH_OK);
    assert_string_equal(text, "evening");
    ht_gguf_close(&before);
    ht_gguf_close(&after);
    hearth_adapter_close(&a);

    const struct hearth_adapter_base merged = {path_of("m.gguf"), SHA};
    a = made(&merged, 1, 1, 9);
    const struct hearth_adapter_use again = {a, 2};
    const struct hearth_merge_params params = {.base = &merged, .uses = &again, .n_uses = 1};
    assert_int_equal(hearth_adapter_merge(path_of("n.gguf"), &params, NULL, NULL), HEARTH_OK);
    after = opened(path_of("n.gguf"));
    assert_int_equal(ht_gguf_get_u32(after, "hearth.merge.count", &count, NULL), HEARTH_OK);
    assert_int_equal(count, 2);
    assert_int_equal(ht_gguf_get_f32(after, "hearth.merge.0.scale", &scale, NULL), HEARTH_OK);
    assert_true(scale == 0.5f);
    assert_int_equal(ht_gguf_get_f32(after, "hearth.merge.1.scale", &scale, NULL), HEARTH_OK);
    assert_true(scale == 2);
    ht_gguf_close(&after);
    hearth_adapter_close(&a);
}

static bool stop_half_way(void *user, double done)
{
    *(double *)user = done;
    return done < 0.5;
}

static void refused(void **state)
{
    (void)state;
    struct hearth_adapter *a = made(&base, 0x7F, 2, 7), *loose;
    struct hearth_adapter_use use = {a, 1};
    struct hearth_error err = {0};
    struct stat st;
    double done = 0;
    assert_int_equal(merge("x.gguf", &use, 1, "q4", NULL, &err), HEARTH_INVALID);
    assert_non_null(strstr(err.text, "q4"));
    assert_int_equal(merge("x.gguf", &use, 0, NULL, NULL, &err), HEARTH_INVALID);
    use.scale = NAN;
    assert_int_equal(merge("x.gguf", &use, 1, NULL, NULL, &err), HEARTH_INVALID);
    use.scale = 1;
    const struct hearth_adapter_base qwen = {"tests/golden/tiny-qwen2.gguf", SHA};
    struct hearth_merge_params params = {.uses = &use, .n_uses = 1};
    char other_sha[65] = SHA;
    other_sha[0] = 'f';
    params.base = &(const struct hearth_adapter_base){BASE, other_sha};
    assert_int_equal(hearth_adapter_merge(path_of("x.gguf"), &params, NULL, &err), HEARTH_INVALID);
    params.base = &qwen; // the right name, another model
    assert_int_equal(hearth_adapter_merge(path_of("x.gguf"), &params, NULL, &err), HEARTH_INVALID);
    params.base = &base;
    assert_int_equal(symlink("m.gguf", path_of("link.gguf")), 0); // m.gguf: made by the tests above
    params.base = &(const struct hearth_adapter_base){path_of("m.gguf"), SHA};
    assert_int_equal(hearth_adapter_merge(path_of("link.gguf"), &params, NULL, &err), HEARTH_INVALID);
    assert_non_null(strstr(err.text, "the base itself"));
    params.base = &base;
    params.progress = stop_half_way;
    params.progress_user = &done;
    assert_int_equal(hearth_adapter_merge(path_of("x.gguf"), &params, NULL, &err), HEARTH_CANCELED);
    assert_true(done >= 0.5);
    params.progress = NULL;
    a->values[a->targets[3].b_at] = 3e38f;
    a->values[a->targets[3].a_at] = 3e38f;
    assert_int_equal(hearth_adapter_merge(path_of("x.gguf"), &params, NULL, &err), HEARTH_NUMERIC);
    a->values[a->targets[3].b_at] = a->values[a->targets[3].a_at] = 1;
    a->peft_rows = true;
    assert_int_equal(hearth_adapter_merge(path_of("x.gguf"), &params, NULL, &err), HEARTH_INVALID);
    a->peft_rows = false;
    assert_int_equal(hearth_adapter_write_gguf(a, path_of("a.gguf"), NULL), HEARTH_OK);
    assert_int_equal(hearth_adapter_open(&loose, path_of("a.gguf"), NULL, NULL), HEARTH_OK);
    use.adapter = loose; // tells its base itself
    assert_int_equal(merge("y.gguf", &use, 1, NULL, NULL, &err), HEARTH_OK);
    hearth_adapter_close(&loose);
    hearth_adapter_close(&a);
    assert_int_equal(stat(path_of("x.gguf"), &st), -1);
    assert_int_equal(stat(path_of("x.gguf.tmp"), &st), -1);
}

// What stood there before stays whole.
static void nothing_half_made(void **state)
{
    (void)state;
    struct hearth_adapter *a = made(&base, 1u << HT_ATTN_Q, 1, 7);
    const struct hearth_adapter_use use = {a, 1};
    enum hearth_status status = HEARTH_IO;
    struct stat st;
    check_file_write(path_of("old.gguf"), "old", 3);
    int fails_at = 1;
    for (; status != HEARTH_OK; fails_at++) {
        struct hearth_error err = {0};
        fault_io_begin(fails_at);
        assert_int_equal(stat(path_of("old.gguf"), &st), 0);
        assert_int_equal(st.st_size, 3);
        status = merge("old.gguf", &use, 1, "f16", NULL, &err);
        assert_true(status == HEARTH_OK || (status == HEARTH_IO && err.text[0]));
        assert_true(fails_at < 1000);
        if (fault_io_count() == fails_at && status != HEARTH_OK && !stat(path_of("old.gguf"), &st) && st.st_size != 3)
            break; // the folder's fsync: the new name stands, whole
    }
    fault_io_end();
    assert_true(fails_at > 20);
    status = HEARTH_NOMEM;
    for (unsigned long n = 1; status != HEARTH_OK; n++) {
        struct hearth_error err = {0};
        fault_memory_begin(n);
        status = merge("new.gguf", &use, 1, "q4_0", NULL, &err);
        assert_int_equal(fault_memory_end(NULL), 0);
        assert_true(status == HEARTH_OK || (status == HEARTH_NOMEM && err.text[0]));
        assert_int_equal(stat(path_of("new.gguf"), &st), status == HEARTH_OK ? 0 : -1);
        assert_true(n < 1000);
    }
    hearth_adapter_close(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums), cmocka_unit_test(tied_head),
        cmocka_unit_test(keys),
        cmocka_unit_test(refused),
        cmocka_unit_test(nothing_half_made),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
