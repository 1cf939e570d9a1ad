// SPDX-License-Identifier: Apache-2.0
// Adapters and their files: initial values, both formats and back bit by bit, a base that does not fit, files that are
// cut or lie, and every allocation and every write made to fail.
#include <errno.h>
#include <jansson.h>
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
#include "engine/gguf/writer.h"
#include "engine/learn/adapter.h"
#include "tests/check/fault.h"

#define BASE "tests/golden/tiny-llama.gguf"
#define SHA "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
static const struct hearth_adapter_base base = {BASE, SHA};
static char folder[64];

static void *json_alloc(size_t size_bytes)
{
    return ht_calloc(1, size_bytes);
}

static int set_up(void **state)
{
    (void)state;
    json_set_alloc_funcs(json_alloc, ht_free);
    check_folder_make(folder);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    static const char *const inner[] = {"peft0", "peft1", "config", "pickle"};
    ht_io_set_hook(NULL);
    for (size_t i = 0; i < sizeof inner / sizeof inner[0]; i++)
        check_folder_remove(check_path(folder, inner[i]));
    check_folder_remove(folder);
    return 0;
}

static const char *path_of(const char *name)
{
    return check_path(folder, name);
}

// One of the tiny model, bound to it, with values in B, too.
static struct hearth_adapter *made_of(unsigned linears, uint32_t rank, bool rslora)
{
    struct ht_gguf *gguf;
    struct ht_hparams hp;
    struct hearth_adapter *a;
    struct ht_adapter_spec spec = {.linears = linears, .rank = rank, .alpha = 6, .rslora = rslora, .dropout = 0.25f};
    assert_int_equal(ht_gguf_open(&gguf, BASE, NULL), HEARTH_OK);
    assert_int_equal(ht_hparams_read(&hp, gguf, NULL), HEARTH_OK);
    ht_gguf_close(&gguf);
    assert_int_equal(ht_adapter_create(&a, &hp, &spec, NULL), HEARTH_OK);
    ht_adapter_init(a, 7, false);
    for (size_t i = 0; i < a->n_targets; i++)
        for (size_t j = 0; j < (size_t)a->targets[i].n * rank; j++)
            a->values[a->targets[i].b_at + j] = (float)((a->targets[i].b_at + j) % 1000) / 7;
    assert_int_equal(ht_adapter_bind(a, &base, NULL), HEARTH_OK);
    ht_adapter_text(a->name, sizeof a->name, "r\xC3\xA4t");
    assert_int_equal(ht_adapter_lineage_add(a, "hearth.lineage.manifest", "m1", NULL), HEARTH_OK);
    return a;
}

static struct hearth_adapter *made(uint32_t rank, bool rslora)
{
    return made_of(0x7F, rank, rslora);
}

static void same(const struct hearth_adapter *a, const struct hearth_adapter *b)
{
    assert_int_equal(a->n_targets, b->n_targets);
    assert_memory_equal(a->targets, b->targets, a->n_targets * sizeof *a->targets);
    assert_int_equal(a->n_values, b->n_values);
    assert_memory_equal(a->values, b->values, a->n_values * sizeof *a->values);
    assert_int_equal(a->rslora, b->rslora);
    assert_true(a->dropout == b->dropout && a->n_heads == b->n_heads && a->n_kv_heads == b->n_kv_heads);
    assert_string_equal(a->architecture, b->architecture);
    assert_string_equal(a->base_sha256, b->base_sha256);
    assert_string_equal(a->name, b->name);
    assert_int_equal(b->n_lineage, a->n_lineage);
    assert_string_equal(a->lineage[0].value, b->lineage[0].value);
}

static void initial_values(void **state)
{
    (void)state;
    struct hearth_adapter *a = made(4, false);
    ht_adapter_init(a, 7, false);
    const struct ht_adapter_target *t = ht_adapter_find(a, 1, HT_FFN_DOWN);
    float bound = 1 / sqrtf((float)t->k), largest = 0, first = a->values[t->a_at];
    double sum = 0;
    size_t n = (size_t)t->rank * t->k;
    for (size_t i = 0; i < n; i++) {
        float v = a->values[t->a_at + i];
        assert_true(v >= -bound && v < bound);
        largest = fmaxf(largest, fabsf(v));
        sum += (double)v * (double)v;
    }
    assert_true(largest > 0.9f * bound);
    assert_true(fabs(sum / (double)n / ((double)bound * (double)bound / 3) - 1) < 6 / sqrt((double)n));
    for (size_t i = 0; i < (size_t)t->n * t->rank; i++)
        assert_true(a->values[t->b_at + i] == 0);
    assert_true(a->values[ht_adapter_find(a, 0, HT_FFN_DOWN)->a_at] != first);
    ht_adapter_init(a, 8, false);
    assert_true(a->values[t->a_at] != first);
    ht_adapter_init(a, 7, false);
    assert_true(a->values[t->a_at] == first);
    ht_adapter_init(a, 7, true);
    for (sum = 0, n = 0; n < (size_t)t->rank * t->k; n++)
        sum += (double)a->values[t->a_at + n] * (double)a->values[t->a_at + n];
    assert_true(fabs(sum / (double)n * t->rank * t->rank - 1) < 6 * sqrt(2 / (double)n)); // standard deviation 1 / rank
    hearth_adapter_close(&a);
}

// Linears that share their input have their A's behind each other; then come their B's.
static void layout(void **state)
{
    (void)state;
    struct hearth_adapter *a = made(3, false);
    static const uint32_t groups[][4] = {
        {3, HT_ATTN_Q, HT_ATTN_K, HT_ATTN_V}, {1, HT_ATTN_OUTPUT}, {2, HT_FFN_GATE, HT_FFN_UP}, {1, HT_FFN_DOWN}};
    size_t end = 0, n_params = 0;
    for (size_t i = 0; i < 2 * 4; i++) {
        const uint32_t *group = groups[i % 4];
        for (int half = 0; half < 2; half++)
            for (uint32_t j = 1; j <= group[0]; j++) {
                const struct ht_adapter_target *t = ht_adapter_find(a, (uint32_t)(i / 4), group[j]);
                size_t at = half ? t->b_at : t->a_at, n = (size_t)t->rank * (half ? t->n : t->k);
                assert_int_equal(at, half || j == 1 ? (end + 15) / 16 * 16 : end);
                for (size_t gap = end; gap < at; gap++)
                    assert_true(a->values[gap] == 0);
                end = at + n;
                n_params += n;
            }
    }
    struct hearth_adapter_info info;
    hearth_adapter_get_info(a, &info);
    assert_int_equal(a->n_values, end);
    assert_int_equal(info.n_params, n_params);
    hearth_adapter_close(&a);
}

static void same_file(const char *a, const char *b)
{
    static char left[1 << 20], right[1 << 20];
    FILE *f = fopen(a, "rb"), *g = fopen(b, "rb");
    assert_true(f && g);
    size_t n = fread(left, 1, sizeof left, f), m = fread(right, 1, sizeof right, g);
    fclose(f);
    fclose(g);
    assert_true(n > 0 && n < sizeof left);
    assert_int_equal(n, m);
    assert_memory_equal(left, right, n);
}

static void both_ways(void **state)
{
    (void)state;
    for (int rslora = 0; rslora < 2; rslora++) {
        struct hearth_adapter *a = made_of(rslora ? 0xFF : 0x7F, 3, rslora), *b, *c; // 0xFF: with the head
        const char *gguf = path_of("a.gguf"), *peft = path_of(rslora ? "peft1" : "peft0");
        struct hearth_error err = {0};
        assert_int_equal(hearth_adapter_write_gguf(a, gguf, &err), HEARTH_OK);
        assert_int_equal(hearth_adapter_open(&b, gguf, NULL, &err), HEARTH_OK);
        same(a, b);
        assert_int_equal(hearth_adapter_write_peft(b, peft, &err), HEARTH_OK);
        assert_int_equal(hearth_adapter_write_peft(b, peft, &err), HEARTH_INVALID); // one is there already
        assert_non_null(strstr(err.text, "holds an adapter already"));
        assert_int_equal(hearth_adapter_open(&c, peft, &base, &err), HEARTH_OK);
        same(a, c);
        hearth_adapter_close(&b);
        // T16: PEFT, GGUF, PEFT: the second folder's tensors are the first's, byte for byte
        assert_int_equal(hearth_adapter_write_gguf(c, gguf, &err), HEARTH_OK);
        assert_int_equal(hearth_adapter_open(&b, gguf, NULL, &err), HEARTH_OK);
        assert_int_equal(hearth_adapter_write_peft(b, path_of("again"), &err), HEARTH_OK);
        same_file(check_path(peft, "adapter_model.safetensors"),
                  check_path(path_of("again"), "adapter_model.safetensors"));
        same_file(check_path(peft, "adapter_config.json"), check_path(path_of("again"), "adapter_config.json"));
        check_folder_remove(path_of("again"));
        hearth_adapter_close(&a);
        hearth_adapter_close(&b);
        hearth_adapter_close(&c);
    }
}

static void turned_rows(void **state)
{
    (void)state;
    const float b[8] = {0, 1, 2, 3, 4, 5, 6, 7}, want[8] = {0, 2, 1, 3, 4, 6, 5, 7}; // two heads of four
    float there[8], back[8];
    ht_adapter_turn_rows(b, 8, 1, 2, true, there);
    assert_memory_equal(there, want, sizeof want);
    ht_adapter_turn_rows(there, 8, 1, 2, false, back);
    assert_memory_equal(back, b, sizeof b);
}

static void other_bases(void **state)
{
    (void)state;
    struct hearth_adapter *a = made(2, false), *b;
    struct hearth_error err = {0};
    static const struct {
        struct hearth_adapter_base base;
        const char *text;
    } wrong[] = {
        {{BASE, "10112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"}, "is for another base: SHA-256"},
        {{"tests/golden/tiny-qwen2.gguf", SHA}, "is an adapter for llama"},
        {{BASE, "xyz"}, "64 lower-case hex digits"},
        {{"tests/golden/none.gguf", SHA}, "none.gguf"},
    };
    assert_int_equal(hearth_adapter_write_gguf(a, path_of("a.gguf"), &err), HEARTH_OK);
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        assert_int_not_equal(hearth_adapter_open(&b, path_of("a.gguf"), &wrong[i].base, &err), HEARTH_OK);
        assert_null(b);
        assert_non_null(strstr(err.text, wrong[i].text));
    }
    struct ht_adapter_target *down = ht_adapter_find(a, 0, HT_FFN_DOWN), kept = *down;
    down->k--, down->n++; // still within its values
    assert_int_equal(ht_adapter_bind(a, &base, &err), HEARTH_INVALID);
    assert_non_null(strstr(err.text, "blk.0.ffn_down.weight is "));
    *down = kept;
    down->layer = 2;
    assert_int_equal(ht_adapter_bind(a, &base, &err), HEARTH_INVALID);
    assert_non_null(strstr(err.text, "no tensor blk.2.ffn_down.weight"));
    *down = kept;
    uint32_t *const sizes[] = {&a->n_layers, &a->n_heads, &a->n_kv_heads};
    for (size_t i = 0; i < 3; i++) {
        ++*sizes[i];
        assert_int_equal(ht_adapter_bind(a, &base, &err), HEARTH_INVALID);
        assert_non_null(strstr(err.text, "is an adapter for"));
        --*sizes[i];
    }
    assert_int_equal(ht_adapter_bind(a, &base, &err), HEARTH_OK);
    a->base_sha256[0] = 0;
    assert_int_equal(hearth_adapter_write_gguf(a, path_of("none.gguf"), &err), HEARTH_INVALID);
    assert_non_null(strstr(err.text, "name the base"));
    hearth_adapter_close(&a);
}

// A file of one or two tensors and a few keys, to be refused.
static void gguf_refused(const char *type, float alpha, const char *a, const char *b, uint64_t rank_b, float value,
                         const char *text)
{
    struct ht_gguf_writer *w;
    struct hearth_adapter *adapter;
    struct hearth_error err = {0};
    const float zeros[64] = {value};
    assert_int_equal(ht_gguf_writer_begin(&w, path_of("bad.gguf"), 32, &err), HEARTH_OK);
    ht_gguf_writer_str(w, "general.type", type, strlen(type));
    ht_gguf_writer_str(w, "general.architecture", "llama", 5);
    ht_gguf_writer_str(w, "adapter.type", "lora", 4);
    ht_gguf_writer_f32(w, "adapter.lora.alpha", alpha);
    ht_gguf_writer_tensor(w, a, HT_TYPE_F32, 2, (const uint64_t[]){4, 2});
    if (b)
        ht_gguf_writer_tensor(w, b, HT_TYPE_F32, 2, (const uint64_t[]){rank_b, 4});
    assert_int_equal(ht_gguf_writer_data(w, zeros, 32, &err), HEARTH_OK);
    if (b)
        assert_int_equal(ht_gguf_writer_data(w, zeros, 16 * rank_b, &err), HEARTH_OK);
    assert_int_equal(ht_gguf_writer_finish(&w, &err), HEARTH_OK);
    assert_int_not_equal(hearth_adapter_open(&adapter, path_of("bad.gguf"), NULL, &err), HEARTH_OK);
    assert_null(adapter);
    if (!strstr(err.text, text))
        print_error("\"%s\", wanted \"%s\"\n", err.text, text);
    assert_non_null(strstr(err.text, text));
}

#define NAME "blk.0.attn_q.weight"

static void lying_ggufs(void **state)
{
    (void)state;
    gguf_refused("model", 1, NAME ".lora_a", NAME ".lora_b", 2, 0, "is no adapter");
    gguf_refused("adapter", -1, NAME ".lora_a", NAME ".lora_b", 2, 0, "alpha of blk.0.attn_q.weight is -1");
    gguf_refused("adapter", NAN, NAME ".lora_a", NAME ".lora_b", 2, 0, "not a finite number");
    gguf_refused("adapter", 1, NAME ".lora_a", NAME ".lora_b", 3, 0, "has rank 2");
    gguf_refused("adapter", 1, NAME ".lora_a", NULL, 0, 0, NAME ".lora_b is missing");
    gguf_refused("adapter", 1, NAME ".lora_b", NULL, 0, 0, NAME ".lora_b is not understood");
    gguf_refused("adapter", 1, "blk.00.attn_q.weight.lora_a", NULL, 0, 0, "is not understood");
    gguf_refused("adapter", 1, "blk.512.attn_q.weight.lora_a", NULL, 0, 0, "is not understood");
    gguf_refused("adapter", 1, "blk.0.attn_norm.weight", NULL, 0, 0, "is not understood");
    gguf_refused("adapter", 1, "token_embd.weight.lora_a", "token_embd.weight.lora_b", 2, 0, "embeddings");
    gguf_refused("adapter", 1, NAME ".lora_a", NAME ".lora_b", 2, INFINITY, "no finite number");
}

static void config_refused(const char *config, const char *text)
{
    struct hearth_adapter *a = made(2, false), *b;
    struct hearth_error err = {0};
    const char *peft = path_of("config");
    char file[512];
    snprintf(file, sizeof file, "%s/adapter_config.json", peft);
    if (access(file, F_OK))
        assert_int_equal(hearth_adapter_write_peft(a, peft, &err), HEARTH_OK);
    check_file_write(file, config, strlen(config));
    enum hearth_status status = hearth_adapter_open(&b, peft, &base, &err);
    if (text && !strstr(err.text, text))
        print_error("%s: \"%s\", wanted \"%s\"\n", config, err.text, text);
    assert_int_equal(status == HEARTH_OK, !text);
    assert_true(!text || strstr(err.text, text));
    hearth_adapter_close(&a);
    hearth_adapter_close(&b);
}

#define CONFIG(more) "{\"peft_type\":\"LORA\",\"r\":2,\"lora_alpha\":6" more "}"

static void configurations(void **state)
{
    (void)state;
    config_refused(CONFIG(""), NULL);
    config_refused(CONFIG(",\"use_dora\":false,\"bias\":\"none\",\"modules_to_save\":[]"), NULL);
    config_refused(CONFIG(",\"use_dora\":true"), "use_dora is set");
    config_refused(CONFIG(",\"bias\":\"all\""), "bias is set");
    config_refused(CONFIG(",\"modules_to_save\":[\"lm_head\"]"), "modules_to_save is set");
    config_refused(CONFIG(",\"layer_replication\":[[0,1]]"), "layer_replication is set");
    config_refused(CONFIG(",\"init_lora_weights\":\"pissa\""), "changes the model's weights");
    config_refused(CONFIG(",\"rank_pattern\":{\"q_proj\":3}"), "has rank 2, the configuration says 3");
    config_refused(CONFIG(",\"alpha_pattern\":{\"layers\\\\.[0-9]+\":3}"), "no plain name");
    config_refused(CONFIG(",\"alpha_pattern\":{\"q_proj\":\"3\"}"), "no number");
    config_refused(CONFIG(",\"lora_dropout\":1"), "lora_dropout");
    config_refused(CONFIG(",\"use_rslora\":1"), "neither true nor false");
    config_refused("{\"peft_type\":\"IA3\"}", "only LORA");
    config_refused("{\"peft_type\":\"LORA\",\"r\":4}", "the configuration says 4");
    config_refused("{\"peft_type\":\"LORA\",\"r\":2,\"lora_alpha\":0}", "not above 0");
    config_refused("[]", "no JSON object");
    config_refused("", "no JSON object");
    char deep[9000];
    memset(deep, '[', sizeof deep - 1);
    deep[sizeof deep - 1] = 0;
    config_refused(deep, "no JSON object");
    const char *pickle = path_of("pickle");
    char file[512];
    struct hearth_adapter *a;
    struct hearth_error err = {0};
    mkdir(pickle, 0700);
    snprintf(file, sizeof file, "%s/adapter_config.json", pickle);
    check_file_write(file, CONFIG(""), strlen(CONFIG("")));
    snprintf(file, sizeof file, "%s/adapter_model.bin", pickle);
    check_file_write(file, "PK", 2);
    assert_int_equal(hearth_adapter_open(&a, pickle, NULL, &err), HEARTH_UNSUPPORTED);
    assert_non_null(strstr(err.text, "pickle"));
}

// Cut at every byte of its head and here and there in its data, and single bits turned over: never a crash; what is
// accepted is whole.
static void damaged(void **state)
{
    (void)state;
    struct hearth_adapter *a = made(1, false), *b;
    assert_int_equal(hearth_adapter_write_gguf(a, path_of("whole.gguf"), NULL), HEARTH_OK);
    FILE *f = fopen(path_of("whole.gguf"), "rb");
    unsigned char bytes[32768];
    size_t len = fread(bytes, 1, sizeof bytes, f);
    fclose(f);
    assert_true(len > 4096 && len < sizeof bytes);
    for (size_t cut = 0; cut < len; cut++) {
        struct hearth_error err = {0};
        check_file_write(path_of("cut.gguf"), bytes, cut);
        assert_int_not_equal(hearth_adapter_open(&b, path_of("cut.gguf"), NULL, &err), HEARTH_OK);
        assert_true(!b && err.text[0]);
    }
    for (size_t at = 0; at < 4096; at++) {
        struct hearth_error err = {0};
        bytes[at] ^= (unsigned char)(1u << at % 8);
        check_file_write(path_of("cut.gguf"), bytes, len);
        if (hearth_adapter_open(&b, path_of("cut.gguf"), NULL, &err) != HEARTH_OK)
            assert_true(!b && err.text[0]);
        hearth_adapter_close(&b);
        bytes[at] ^= (unsigned char)(1u << at % 8);
    }
    hearth_adapter_close(&a);
}

static enum hearth_status go_round(const struct hearth_adapter *a, struct hearth_error *err)
{
    struct hearth_adapter *b = NULL;
    char tensors[512];
    enum hearth_status status = hearth_adapter_write_gguf(a, path_of("r.gguf"), err);
    if (status == HEARTH_OK)
        status = hearth_adapter_open(&b, path_of("r.gguf"), &base, err);
    hearth_adapter_close(&b);
    if (status != HEARTH_OK)
        return status;
    status = hearth_adapter_write_peft(a, path_of("round"), err);
    if (status == HEARTH_OK)
        status = hearth_adapter_open(&b, path_of("round"), &base, err);
    else
        assert_int_equal(access(path_of("round"), F_OK), -1); // nothing half-made stays
    hearth_adapter_close(&b);
    snprintf(tensors, sizeof tensors, "%s/adapter_model.safetensors", path_of("round"));
    unlink(tensors);
    snprintf(tensors, sizeof tensors, "%s/adapter_config.json", path_of("round"));
    unlink(tensors);
    rmdir(path_of("round"));
    return status;
}

static void every_allocation(void **state)
{
    (void)state;
    struct hearth_adapter *a = made(1, false);
    enum hearth_status status = HEARTH_NOMEM;
    unsigned long n, n_calls;
    for (n = 1; status != HEARTH_OK; n++) {
        struct hearth_error err = {0};
        fault_memory_begin(n);
        status = go_round(a, &err);
        assert_int_equal(fault_memory_end(&n_calls), 0);
        assert_int_equal(status, n <= n_calls ? HEARTH_NOMEM : HEARTH_OK);
        assert_true(status == HEARTH_OK || err.text[0]);
        assert_true(n < 20000);
    }
    assert_true(n > 100);
    hearth_adapter_close(&a);
}

static void every_operation(void **state)
{
    (void)state;
    struct hearth_adapter *a = made(1, false);
    enum hearth_status status = HEARTH_IO;
    int fails_at = 1;
    for (; status != HEARTH_OK; fails_at++) {
        struct hearth_error err = {0};
        fault_io_begin(fails_at);
        status = go_round(a, &err);
        assert_true(status == HEARTH_OK || (status == HEARTH_IO && err.text[0]));
        assert_true(fails_at < 500);
    }
    fault_io_end();
    assert_true(fails_at > 20);
    hearth_adapter_close(&a);
}

static bool sum_up(void *user, const struct hearth_adapter_difference *one)
{
    double *sums = user;
    sums[0] += one->norm_difference;
    sums[1] += one->norm_a;
    sums[2] += 1;
    return true;
}

static void differences(void **state)
{
    (void)state;
    struct hearth_adapter *a = made(2, false), *b = made(2, false);
    double sums[3] = {0};
    assert_int_equal(hearth_adapter_diff(a, b, sum_up, sums, NULL), HEARTH_OK);
    assert_true(sums[0] == 0 && sums[1] > 1 && sums[2] == 14);
    for (size_t i = 0; i < b->n_targets; i++)
        b->targets[i].alpha *= 3; // the difference is twice A
    memset(sums, 0, sizeof sums);
    assert_int_equal(hearth_adapter_diff(a, b, sum_up, sums, NULL), HEARTH_OK);
    assert_true(fabs(sums[0] / sums[1] - 2) < 1e-9);
    hearth_adapter_close(&a);
    hearth_adapter_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(initial_values), cmocka_unit_test(layout), cmocka_unit_test(both_ways),
        cmocka_unit_test(turned_rows), cmocka_unit_test(other_bases), cmocka_unit_test(lying_ggufs),
        cmocka_unit_test(configurations), cmocka_unit_test(damaged), cmocka_unit_test(every_allocation),
        cmocka_unit_test(every_operation), cmocka_unit_test(differences),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
