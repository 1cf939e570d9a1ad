// SPDX-License-Identifier: Apache-2.0
// Files whose linears are not one by one the model's: q, k, v and gate, up as one, PEFT's and GGUF's; an adapter of the
// head where it is tied to the embeddings, with PEFT's copy of the weight beside it. Held against what was divided by
// hand.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <cmocka.h>

#include "engine/base/mem.h"
#include "engine/gguf/safetensors.h"
#include "engine/gguf/writer.h"
#include "engine/learn/adapter.h"
#include "tests/check/fault.h"

#define SHA "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
enum { RANK = 3, MAX_ITEMS = 64, NAME_BYTES = 128 };
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

static const char *in_peft(const char *name)
{
    char path[96];
    snprintf(path, sizeof path, "peft/%s", name);
    return check_path(folder, path);
}

static struct ht_hparams hparams_of(const char *path)
{
    struct ht_gguf *gguf;
    struct ht_hparams hp;
    assert_int_equal(ht_gguf_open(&gguf, path, NULL), HEARTH_OK);
    assert_int_equal(ht_hparams_read(&hp, gguf, NULL), HEARTH_OK);
    ht_gguf_close(&gguf);
    return hp;
}

// ---------------------------------------------------------------- a file's tensors, one for each module's half

struct file {
    struct ht_hparams hp;
    char names[MAX_ITEMS][NAME_BYTES];
    float *data[MAX_ITEMS];
    struct ht_safetensors_item items[MAX_ITEMS];
    size_t n;
};

static void put(struct file *f, const char *name, const char *half, uint64_t rows, uint64_t columns)
{
    float *data = malloc((size_t)(rows * columns) * sizeof *data);
    snprintf(f->names[f->n], NAME_BYTES, "%s%s", name, half);
    for (size_t i = 0; i < rows * columns; i++)
        data[i] = (float)((i * 37 + f->n * 101) % 1009) / 64;
    f->data[f->n] = data;
    f->items[f->n] = (struct ht_safetensors_item){f->names[f->n], HT_TYPE_F32, 2, {rows, columns}, data};
    f->n++;
}

static uint32_t rows_of(const struct ht_hparams *hp, enum ht_dim a, enum ht_dim b, enum ht_dim c)
{
    return ht_dim_size(hp, a) + (b ? ht_dim_size(hp, b) : 0) + (c ? ht_dim_size(hp, c) : 0);
}

// Layer 0 fused, layer 1 with o alone, and the head.
static void file_make(struct file *f, const char *base, bool gguf)
{
    *f = (struct file){.hp = hparams_of(base)};
    const char *a = gguf ? ".lora_a" : ".lora_A.weight", *b = gguf ? ".lora_b" : ".lora_B.weight";
    const char *layer = gguf ? "blk.%u.%s" : "base_model.model.model.layers.%u.%s";
    const struct {
        uint32_t index, n, k;
        const char *gguf, *peft;
    } linears[] = {
        {0, rows_of(&f->hp, HT_DIM_Q, HT_DIM_K, HT_DIM_V), f->hp.n_embd, "attn_qkv.weight", "self_attn.qkv_proj"},
        {0, 2 * f->hp.n_ff, f->hp.n_embd, "ffn_up.weight", "mlp.gate_up_proj"},
        {1, f->hp.n_embd, rows_of(&f->hp, HT_DIM_O, 0, 0), "attn_output.weight", "self_attn.o_proj"},
    };
    for (size_t i = 0; i < 3; i++) {
        char name[96];
        snprintf(name, sizeof name, layer, linears[i].index, gguf ? linears[i].gguf : linears[i].peft);
        put(f, name, a, RANK, linears[i].k);
        put(f, name, b, linears[i].n, RANK);
    }
    put(f, gguf ? "output.weight" : "base_model.model.lm_head", a, RANK, f->hp.n_embd);
    put(f, gguf ? "output.weight" : "base_model.model.lm_head", b, f->hp.n_vocab, RANK);
    if (!gguf)
        put(f, "base_model.model.lm_head.base_layer.weight", "", f->hp.n_vocab, f->hp.n_embd);
}

static void file_free(struct file *f)
{
    for (size_t i = 0; i < f->n; i++)
        free(f->data[i]);
}

static void write_peft(const struct file *f)
{
    static const char config[] = "{\"peft_type\": \"LORA\", \"r\": 3, \"lora_alpha\": 6}";
    check_file_write(in_peft("adapter_config.json"), config, strlen(config));
    assert_int_equal(ht_safetensors_write(in_peft("adapter_model.safetensors"), f->items, f->n, NULL, 0, NULL),
                     HEARTH_OK);
}

static void write_gguf(const struct file *f)
{
    struct ht_gguf_writer *w;
    const char *arch = f->hp.arch->name;
    assert_int_equal(ht_gguf_writer_begin(&w, check_path(folder, "f.gguf"), 32, NULL), HEARTH_OK);
    ht_gguf_writer_str(w, "general.type", "adapter", 7);
    ht_gguf_writer_str(w, "general.architecture", arch, strlen(arch));
    ht_gguf_writer_str(w, "adapter.type", "lora", 4);
    ht_gguf_writer_f32(w, "adapter.lora.alpha", 6);
    for (size_t i = 0; i < f->n; i++)
        ht_gguf_writer_tensor(w, f->items[i].name, HT_TYPE_F32, 2,
                              (const uint64_t[]){f->items[i].shape[1], f->items[i].shape[0]});
    for (size_t i = 0; i < f->n; i++)
        assert_int_equal(ht_gguf_writer_data(w, f->data[i], f->items[i].shape[0] * f->items[i].shape[1] * sizeof(float),
                                             NULL), HEARTH_OK);
    assert_int_equal(ht_gguf_writer_finish(&w, NULL), HEARTH_OK);
}

static const char *path_of(bool gguf)
{
    return check_path(folder, gguf ? "f.gguf" : "peft");
}

// ---------------------------------------------------------------- against what was divided by hand

// Rows [first, + n) of item b, in the base's order.
static void is_part(const struct hearth_adapter *a, const struct file *f, size_t item, uint32_t layer, uint32_t linear,
                    uint32_t first, uint32_t n, uint32_t turned_heads)
{
    const struct ht_adapter_target *t = ht_adapter_find(a, layer, linear);
    float *want = malloc((size_t)n * RANK * sizeof *want);
    const float *from = f->data[item + 1] + (size_t)first * RANK;
    memcpy(want, from, (size_t)n * RANK * sizeof *want);
    for (uint32_t row = 0; row < n && turned_heads; row++) { // (head, half, i) -> (head, i, half)
        uint32_t size = n / turned_heads, head = row / size, half = row % size / (size / 2), i = row % (size / 2);
        memcpy(want + (head * size + 2 * i + half) * RANK, from + (size_t)row * RANK, RANK * sizeof *want);
    }
    assert_non_null(t);
    assert_true(t->n == n && t->rank == RANK && t->alpha == 6);
    assert_memory_equal(a->values + t->b_at, want, (size_t)n * RANK * sizeof *want);
    assert_memory_equal(a->values + t->a_at, f->data[item], (size_t)RANK * t->k * sizeof *want);
    free(want);
}

static void divided(void **state)
{
    (void)state;
    static const char *const bases[] = {"tests/golden/tiny-llama.gguf", "tests/golden/tiny-qwen3.gguf",
                                        "tests/golden/tiny-gemma3.gguf"};
    for (int i = 0; i < 6; i++) {
        bool gguf = i % 2, turned = !gguf && i < 2;
        const struct hearth_adapter_base base = {bases[i / 2], SHA};
        struct file f;
        file_make(&f, base.path, gguf);
        struct hearth_adapter *a, *b;
        struct hearth_error err = {0};
        if (gguf)
            write_gguf(&f);
        else
            write_peft(&f);
        if (hearth_adapter_open(&a, path_of(gguf), &base, &err))
            fail_msg("%s", err.text);
        uint32_t n_q = ht_dim_size(&f.hp, HT_DIM_Q), n_k = ht_dim_size(&f.hp, HT_DIM_K);
        assert_int_equal(a->n_targets, 7);
        is_part(a, &f, 0, 0, HT_ATTN_Q, 0, n_q, turned ? f.hp.n_heads : 0);
        is_part(a, &f, 0, 0, HT_ATTN_K, n_q, n_k, turned ? f.hp.n_kv_heads : 0);
        is_part(a, &f, 0, 0, HT_ATTN_V, n_q + n_k, ht_dim_size(&f.hp, HT_DIM_V), 0);
        is_part(a, &f, 2, 0, HT_FFN_GATE, 0, f.hp.n_ff, 0);
        is_part(a, &f, 2, 0, HT_FFN_UP, f.hp.n_ff, f.hp.n_ff, 0);
        is_part(a, &f, 4, 1, HT_ATTN_OUTPUT, 0, f.hp.n_embd, 0);
        is_part(a, &f, 6, 0, HT_ADAPTER_OUTPUT, 0, f.hp.n_vocab, 0);
        // what is written is the model's linears, and comes back
        assert_int_equal(hearth_adapter_write_gguf(a, check_path(folder, "again.gguf"), &err), HEARTH_OK);
        assert_int_equal(hearth_adapter_open(&b, check_path(folder, "again.gguf"), &base, &err), HEARTH_OK);
        assert_int_equal(b->n_values, a->n_values);
        assert_memory_equal(a->values, b->values, a->n_values * sizeof *a->values);
        hearth_adapter_close(&a);
        hearth_adapter_close(&b);
        file_free(&f);
    }
}

// Without the base it is shown as it is, and not written.
static void unknown_base(void **state)
{
    (void)state;
    struct file f;
    file_make(&f, "tests/golden/tiny-llama.gguf", false);
    struct hearth_adapter *a;
    struct hearth_error err = {0};
    struct hearth_adapter_target told;
    const struct ht_safetensors_pair meta[] = {{"hearth.base.sha256", SHA},
                                               {"hearth.base.architecture", "llama"},
                                               {"hearth.base.block_count", "2"},
                                               {"hearth.base.head_count", "4"},
                                               {"hearth.base.head_count_kv", "2"}};
    for (size_t n_meta = 0; n_meta <= 5; n_meta += 5) {
        write_peft(&f);
        assert_int_equal(ht_safetensors_write(in_peft("adapter_model.safetensors"), f.items, f.n, meta, n_meta, NULL),
                         HEARTH_OK);
        assert_int_equal(hearth_adapter_open(&a, path_of(false), NULL, &err), HEARTH_OK);
        assert_true(ht_adapter_fused(a) && a->peft_rows);
        assert_int_equal(hearth_adapter_get_target(a, 0, true, &told, &err), HEARTH_OK);
        assert_string_equal(told.name, "blk.0.attn_qkv.weight");
        assert_true(told.norm_delta > 0);
        assert_int_equal(hearth_adapter_write_gguf(a, check_path(folder, "no.gguf"), &err), HEARTH_INVALID);
        assert_non_null(strstr(err.text, "name the base"));
        a->peft_rows = false;
        assert_int_equal(hearth_adapter_write_peft(a, check_path(folder, "no"), &err), HEARTH_INVALID);
        assert_non_null(strstr(err.text, "name the base"));
        hearth_adapter_close(&a);
    }
    file_free(&f);
}

// ---------------------------------------------------------------- what is refused

static void refused(const struct file *f, bool gguf, const char *text)
{
    const struct hearth_adapter_base base = {"tests/golden/tiny-llama.gguf", SHA};
    struct hearth_adapter *a;
    struct hearth_error err = {0};
    if (gguf)
        write_gguf(f);
    else
        write_peft(f);
    assert_int_not_equal(hearth_adapter_open(&a, path_of(gguf), &base, &err), HEARTH_OK);
    assert_null(a);
    if (!strstr(err.text, text))
        fail_msg("\"%s\", wanted \"%s\"", err.text, text);
}

static void lies(void **state)
{
    (void)state;
    for (int gguf = 0; gguf < 2; gguf++) {
        struct file f;
        file_make(&f, "tests/golden/tiny-llama.gguf", gguf);
        for (size_t item = 1; item < 4; item += 2) { // a row less than the parts have
            f.items[item].shape[0]--;
            refused(&f, gguf, item == 1 ? "attn_qkv.weight is " : gguf ? "ffn_up.weight is " : "gate_up.weight is ");
            f.items[item].shape[0]++;
        }
        f.items[0].shape[1]--; // k of A
        refused(&f, gguf, "attn_qkv.weight is ");
        f.items[0].shape[1]++;
        f.items[7].shape[0]--; // of the head
        refused(&f, gguf, gguf ? "output.weight is " : "base_layer.weight has not the shape");
        f.items[7].shape[0]++;
        // a part that stands there on its own, too
        const char *own = gguf ? "blk.0.attn_k.weight" : "base_model.model.model.layers.0.self_attn.k_proj";
        put(&f, own, gguf ? ".lora_a" : ".lora_A.weight", RANK, f.hp.n_embd);
        put(&f, own, gguf ? ".lora_b" : ".lora_B.weight", ht_dim_size(&f.hp, HT_DIM_K), RANK);
        refused(&f, gguf, "blk.0.attn_k.weight stands there twice");
        file_free(&f);
    }
    struct file f;
    file_make(&f, "tests/golden/tiny-llama.gguf", false);
    struct ht_safetensors_item copy = f.items[8];
    f.items[6] = copy; // the copy of a head without a part for it
    f.n = 7;
    refused(&f, false, "base_layer.weight has not the shape");
    snprintf(f.names[8], NAME_BYTES, "base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight");
    refused(&f, false, "q_proj.base_layer.weight is not understood");
    f.n = 9;
    file_free(&f);
    file_make(&f, "tests/golden/tiny-llama.gguf", true);
    snprintf(f.names[2], NAME_BYTES, "blk.0.ffn_gate_up.weight.lora_a"); // a name that GGUF does not have
    refused(&f, true, "blk.0.ffn_gate_up.weight.lora_a is not understood");
    file_free(&f);
}

static void no_memory(void **state)
{
    (void)state;
    const struct hearth_adapter_base base = {"tests/golden/tiny-llama.gguf", SHA};
    struct file f;
    file_make(&f, base.path, true);
    enum hearth_status status = HEARTH_NOMEM;
    unsigned long n;
    write_gguf(&f);
    for (n = 1; status != HEARTH_OK; n++) {
        struct hearth_error err = {0};
        struct hearth_adapter *a;
        fault_memory_begin(n);
        status = hearth_adapter_open(&a, path_of(true), &base, &err);
        hearth_adapter_close(&a);
        assert_int_equal(fault_memory_end(NULL), 0);
        assert_true(status == HEARTH_OK || status == HEARTH_NOMEM);
        assert_true(n < 20000);
    }
    assert_true(n > 15);
    file_free(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(divided), cmocka_unit_test(unknown_base),
                                       cmocka_unit_test(lies), cmocka_unit_test(no_memory)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
