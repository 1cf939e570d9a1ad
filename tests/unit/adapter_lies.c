// SPDX-License-Identifier: Apache-2.0
// Adapter files that do not add up are refused before anything is read by what they claim; and what a file says of
// scales means the same in memory, in GGUF and in PEFT.
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
#include <cmocka.h>

#include "engine/base/limits.h"
#include "engine/base/mem.h"
#include "engine/gguf/safetensors.h"
#include "engine/gguf/writer.h"
#include "engine/learn/adapter.h"
#include "tests/check/fault.h"

#define SHA "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
#define Q "blk.0.attn_q.weight"
enum { K = 4, N = 4, RANK = 2, MAX_RANK = HT_MAX_ADAPTER_RANK + 1 };
static char folder[64];

static int set_up(void **state)
{
    (void)state;
    check_folder_make(folder);
    mkdir(check_path(folder, "peft"), 0700);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    check_folder_remove(check_path(folder, "peft"));
    check_folder_remove(folder);
    return 0;
}

static void has(const char *text, const char *part)
{
    if (!strstr(text, part))
        print_error("\"%s\", wanted \"%s\"\n", text, part);
    assert_non_null(strstr(text, part));
}

// ---------------------------------------------------------------- GGUF

struct lie { // of a file of one pair; what is not named is as it should be
    float alpha, told, dropout, last; // told: hearth.adapter.alpha of an rsLoRA; last: of B's values
    const char *key;                  // one more
    uint64_t rank, third;             // third dimension of A
    const char *text;                 // NULL: a good file
};

static struct hearth_adapter *lying_gguf(const struct lie *lie)
{
    static const float values[MAX_RANK * K];
    uint64_t rank = lie->rank ? lie->rank : RANK, third = lie->third ? lie->third : 1;
    const char *path = check_path(folder, "a.gguf");
    struct ht_gguf_writer *w;
    struct hearth_adapter *a;
    struct hearth_error err = {0};
    assert_int_equal(ht_gguf_writer_begin(&w, path, 32, &err), HEARTH_OK);
    ht_gguf_writer_str(w, "general.type", "adapter", 7);
    ht_gguf_writer_str(w, "general.architecture", "llama", 5);
    ht_gguf_writer_str(w, "adapter.type", "lora", 4);
    ht_gguf_writer_f32(w, "adapter.lora.alpha", lie->alpha);
    if (lie->told != 0) {
        ht_gguf_writer_bool(w, "hearth.adapter.rslora", true);
        ht_gguf_writer_f32(w, "hearth.adapter.alpha", lie->told);
    }
    ht_gguf_writer_f32(w, "hearth.adapter.dropout", lie->dropout);
    if (lie->key)
        ht_gguf_writer_u32(w, lie->key, 1);
    ht_gguf_writer_tensor(w, Q ".lora_a", HT_TYPE_F32, lie->third ? 3 : 2, (const uint64_t[]){K, rank, third});
    ht_gguf_writer_tensor(w, Q ".lora_b", HT_TYPE_F32, 2, (const uint64_t[]){rank, N});
    assert_int_equal(ht_gguf_writer_data(w, values, rank * K * third * sizeof *values, &err), HEARTH_OK);
    assert_int_equal(ht_gguf_writer_data(w, values, (rank * N - 1) * sizeof *values, &err), HEARTH_OK);
    assert_int_equal(ht_gguf_writer_data(w, &lie->last, sizeof lie->last, &err), HEARTH_OK);
    assert_int_equal(ht_gguf_writer_finish(&w, &err), HEARTH_OK);
    enum hearth_status status = hearth_adapter_open(&a, path, NULL, &err);
    if (lie->text)
        has(err.text, lie->text);
    else if (status != HEARTH_OK)
        print_error("%s\n", err.text);
    assert_int_equal(status == HEARTH_OK, !lie->text);
    return a;
}

static void ggufs(void **state)
{
    (void)state;
    static const struct lie lies[] = {
        {.alpha = 6, .third = 2, .text = "lora_a is no matrix"},
        {.alpha = 6, .told = 6, .text = "adapter.lora.alpha and hearth.adapter.alpha disagree"},
        {.alpha = 6, .dropout = 1, .text = "dropout is not in [0, 1)"},
        {.alpha = 6, .dropout = NAN, .text = "dropout is not a finite number"},
        {.alpha = 6, .dropout = -0.25f, .text = "dropout is not in [0, 1)"},
        {.alpha = 6, .key = "adapter.alora.invocation_tokens", .text = "adapter.alora.invocation_tokens"},
        {.alpha = 6, .key = "hearth.adapter.later", .text = "hearth.adapter.later"},
        {.alpha = 6, .rank = MAX_RANK, .text = "has rank 4097"},
        {.alpha = 6, .last = NAN, .text = "no finite number"},
        {.alpha = 6, .last = -INFINITY, .text = "no finite number"},
    };
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++)
        assert_null(lying_gguf(&lies[i]));
}

// In llama.cpp's files alpha / rank is the scale, and an alpha of 0 means a scale of 1.
static void gguf_scales(void **state)
{
    (void)state;
    static const struct {
        struct lie file;
        float alpha, scale;
    } good[] = {
        {{.alpha = 6}, 6, 3},
        {{.alpha = 0}, 2, 1},
        {{.alpha = 12, .told = 6, .rank = 4}, 6, 3},
        {{.alpha = 12, .rank = 4}, 12, 3},
    };
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        struct hearth_adapter *a = lying_gguf(&good[i].file);
        assert_true(a->targets[0].alpha == good[i].alpha);
        assert_true(ht_adapter_scale(a, &a->targets[0]) == good[i].scale);
        hearth_adapter_close(&a);
    }
}

// ---------------------------------------------------------------- PEFT

#define HOME "base_model.model.model.layers.0."
#define A_OF(module) module ".lora_A.weight"
#define B_OF(module) module ".lora_B.weight"
#define CONFIG(more) "{\"peft_type\":\"LORA\",\"r\":2,\"lora_alpha\":6" more "}"
#define WHOLE {A_OF(HOME "self_attn.q_proj"), RANK, K}, {B_OF(HOME "self_attn.q_proj"), N, RANK}

struct part {
    const char *name;
    uint64_t rows, columns;
};

static enum hearth_status open_peft(struct hearth_adapter **a, const struct part *parts, const char *config,
                                    const char *heads, struct hearth_error *err)
{
    static float values[64];
    struct ht_safetensors_item items[8];
    const struct ht_safetensors_pair meta[] = {{"hearth.base.sha256", SHA},
                                               {"hearth.base.architecture", heads ? "llama" : "qwen2"},
                                               {"hearth.base.block_count", "1"},
                                               {"hearth.base.head_count", heads ? heads : "1"},
                                               {"hearth.base.head_count_kv", "1"}};
    const char *peft = check_path(folder, "peft");
    size_t n = 0;
    for (size_t i = 0; i < 64; i++)
        values[i] = (float)(i + 1) / 8;
    for (; parts[n].name; n++)
        items[n] =
            (struct ht_safetensors_item){parts[n].name, HT_TYPE_F32, 2, {parts[n].rows, parts[n].columns}, values};
    assert_int_equal(ht_safetensors_write(check_path(peft, "adapter_model.safetensors"), items, n, meta, 5, err),
                     HEARTH_OK);
    check_file_write(check_path(peft, "adapter_config.json"), config, strlen(config));
    return hearth_adapter_open(a, peft, NULL, err);
}

static void pefts(void **state)
{
    (void)state;
    static const struct {
        struct part parts[6];
        const char *heads, *text;
    } lies[] = {
        {{{A_OF(HOME "self_attn.q_proj"), 2, 4}, {B_OF(HOME "self_attn.q_proj"), 4, 3}}, NULL, "its partner 2"},
        {{{A_OF(HOME "self_attn.q_proj"), 2, 4}}, NULL, "lora_B of blk.0.attn_q.weight is missing"},
        {{{B_OF(HOME "self_attn.q_proj"), 4, 2}}, NULL, "lora_A of blk.0.attn_q.weight is missing"},
        {{WHOLE, {A_OF("base_model.model.model.language_model.layers.0.self_attn.q_proj"), 2, 8}},
         NULL,
         "stands there twice"},
        {{{A_OF("base_model.model.lm_head"), 2, 4},
          {B_OF("base_model.model.lm_head"), 6, 2},
          {"base_model.model.lm_head.base_layer.weight", 6, 5}},
         NULL,
         "has not the shape"},
        {{WHOLE, {"base_model.model.lm_head.base_layer.weight", 6, 4}}, NULL, "has not the shape"},
        {{WHOLE}, "4", "which are no 4 heads"}, // a head of one row has no halves to turn
        {{WHOLE}, "3", "which are no 3 heads"},
        {{WHOLE}, "0", "head_count in __metadata__"},
        {{WHOLE}, "4294967297", "head_count in __metadata__"},
    };
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        struct hearth_adapter *a;
        struct hearth_error err = {0};
        assert_int_equal(open_peft(&a, lies[i].parts, CONFIG(""), lies[i].heads, &err), HEARTH_FORMAT);
        assert_null(a);
        has(err.text, lies[i].text);
    }
}

// PEFT's patterns name whole words of a module's path.
static void patterns(void **state)
{
    (void)state;
    static const struct {
        const char *config;
        float alpha;
    } known[] = {
        {CONFIG(",\"alpha_pattern\":{\"q_proj\":10}"), 10},
        {CONFIG(",\"alpha_pattern\":{\"self_attn.q_proj$\":10}"), 10},
        {CONFIG(",\"alpha_pattern\":{\"^model.layers.0.self_attn.q_proj\":10}"), 10},
        {CONFIG(",\"alpha_pattern\":{\"proj\":10}"), 6},
        {CONFIG(",\"alpha_pattern\":{\"^q_proj\":10}"), 6},
        {CONFIG(",\"alpha_pattern\":{\"k_proj\":10,\"q_proj\":12,\"self_attn.q_proj\":14}"), 12},
        {CONFIG(",\"rank_pattern\":{\"proj\":10}"), 6},
    };
    static const struct part whole[] = {WHOLE, {0}};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        struct hearth_adapter *a;
        struct hearth_error err = {0};
        assert_int_equal(open_peft(&a, whole, known[i].config, NULL, &err), HEARTH_OK);
        assert_true(a->targets[0].alpha == known[i].alpha);
        hearth_adapter_close(&a);
    }
}

// A GGUF file has one alpha for all: where linears differ in alpha or rank, what they do must not.
static void mixed_scales(void **state)
{
    (void)state;
    static const struct part parts[] = {WHOLE,
                                        {A_OF(HOME "self_attn.o_proj"), 4, K},
                                        {B_OF(HOME "self_attn.o_proj"), N, 4},
                                        {0}};
    static const char *const configs[] = {
        CONFIG(",\"rank_pattern\":{\"o_proj\":4}"),
        CONFIG(",\"rank_pattern\":{\"o_proj\":4},\"alpha_pattern\":{\"o_proj\":10}"),
        CONFIG(",\"rank_pattern\":{\"o_proj\":4},\"use_rslora\":true"),
        CONFIG(",\"rank_pattern\":{\"o_proj\":4},\"alpha_pattern\":{\"o_proj\":10},\"use_rslora\":true"),
    };
    static const double want[][2] = {{3, 1.5}, {3, 2.5}, {4.242640687, 3}, {4.242640687, 5}};
    for (size_t i = 0; i < sizeof configs / sizeof configs[0]; i++) {
        struct hearth_adapter *a, *b;
        struct hearth_error err = {0};
        assert_int_equal(open_peft(&a, parts, configs[i], NULL, &err), HEARTH_OK);
        assert_int_equal(hearth_adapter_write_gguf(a, check_path(folder, "mixed.gguf"), &err), HEARTH_OK);
        assert_int_equal(hearth_adapter_open(&b, check_path(folder, "mixed.gguf"), NULL, &err), HEARTH_OK);
        for (size_t j = 0; j < 2; j++) {
            const struct ht_adapter_target *t = &a->targets[j], *u = &b->targets[j];
            double scale = (double)ht_adapter_scale(a, t), there = (double)ht_adapter_scale(b, u);
            assert_true(fabs(scale - want[i][j]) < 1e-6);
            for (size_t v = 0; v < (size_t)t->n * t->rank; v++)
                assert_true(fabs(there * (double)b->values[u->b_at + v] -
                                 scale * (double)a->values[t->b_at + v]) < 1e-5);
        }
        hearth_adapter_close(&a);
        hearth_adapter_close(&b);
    }
}

// ---------------------------------------------------------------- limits and first values

static void limits(void **state)
{
    (void)state;
    struct hearth_adapter *a;
    struct hearth_error err = {0};
    assert_int_equal(ht_adapter_new(&a, "many", "memory", &err), HEARTH_OK);
    for (int i = 0; i < HT_ADAPTER_LINEAGE_MAX; i++)
        assert_int_equal(ht_adapter_lineage_add(a, "hearth.lineage.x", "y", &err), HEARTH_OK);
    assert_int_equal(ht_adapter_lineage_add(a, "hearth.lineage.x", "y", &err), HEARTH_LIMIT);
    assert_int_equal(a->n_lineage, HT_ADAPTER_LINEAGE_MAX);
    hearth_adapter_close(&a);

    static const struct part whole[] = {WHOLE, {0}};
    char *config = malloc(HT_MAX_ADAPTER_CONFIG_BYTES + 2);
    memset(config, ' ', HT_MAX_ADAPTER_CONFIG_BYTES + 1);
    memcpy(config, CONFIG(""), strlen(CONFIG("")));
    config[HT_MAX_ADAPTER_CONFIG_BYTES + 1] = 0;
    assert_int_equal(open_peft(&a, whole, config, NULL, &err), HEARTH_LIMIT);
    has(err.text, "at most 1048576 are allowed");
    config[HT_MAX_ADAPTER_CONFIG_BYTES] = 0;
    assert_int_equal(open_peft(&a, whole, config, NULL, &err), HEARTH_OK);
    hearth_adapter_close(&a);
    free(config);
}

// Drawn piece by piece, wherever pieces end, as at once; and no two linears alike.
static void drawn_in_pieces(void **state)
{
    (void)state;
    static const struct part parts[] = {WHOLE,
                                        {A_OF(HOME "self_attn.k_proj"), RANK, K},
                                        {B_OF(HOME "self_attn.k_proj"), N, RANK},
                                        {0}};
    struct hearth_adapter *a, *b;
    struct hearth_error err = {0};
    for (int gaussian = 0; gaussian < 2; gaussian++) {
        assert_int_equal(open_peft(&a, parts, CONFIG(""), NULL, &err), HEARTH_OK);
        assert_int_equal(open_peft(&b, parts, CONFIG(""), NULL, &err), HEARTH_OK);
        ht_adapter_init(a, 5, gaussian);
        memset(b->values, 0, b->n_values * sizeof *b->values);
        for (size_t end = b->n_values, n; end; end -= n) { // from the end: nothing is left over from the piece before
            n = end < 3 ? end : 3;
            ht_adapter_init_part(b, 5, gaussian, end - n, n);
        }
        assert_memory_equal(a->values, b->values, a->n_values * sizeof *a->values);
        for (size_t i = 0; i < RANK * K; i++)
            assert_true(a->values[a->targets[0].a_at + i] != a->values[a->targets[1].a_at + i]);
        hearth_adapter_close(&a);
        hearth_adapter_close(&b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ggufs),        cmocka_unit_test(gguf_scales), cmocka_unit_test(pefts),
        cmocka_unit_test(patterns),     cmocka_unit_test(mixed_scales), cmocka_unit_test(limits),
        cmocka_unit_test(drawn_in_pieces),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
