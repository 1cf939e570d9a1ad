// SPDX-License-Identifier: Apache-2.0
// GGUF-LoRA files, as llama.cpp reads them: "<tensor of the base>.lora_a" (k, rank) and ".lora_b" (rank, n), one alpha.
// Keys of our own ("hearth.…") tell the base's SHA-256 and sizes. One thread.
#include <math.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/gguf/writer.h"
#include "engine/learn/adapter.h"

enum { PIECE = 4096 };

// "blk.0.attn_q.weight", a fused "blk.0.attn_qkv.weight", or "output.weight", then the suffix.
static bool parse_name(const char *name, const char *suffix, struct ht_adapter_target *target)
{
    const char *rest = name;
    uint32_t layer = 0;
    bool block = !strncmp(name, "blk.", 4);
    if (block)
        rest = ht_adapter_layer_number(name + 4, ".", &layer);
    for (uint32_t linear = 0; rest && linear < HT_ADAPTER_GATE_UP; linear++) {
        const char *word = ht_adapter_linear_gguf(linear);
        size_t len = strlen(word);
        if (block == (linear == HT_ADAPTER_OUTPUT))
            continue;
        if (!strncmp(rest, word, len) && !strncmp(rest + len, ".weight", 7) && !strcmp(rest + len + 7, suffix)) {
            target->layer = layer;
            target->linear = linear;
            return true;
        }
    }
    return false;
}

static void part_name(const struct ht_adapter_target *target, const char *suffix, char name[80])
{
    ht_adapter_tensor_name(target, name);
    memcpy(name + strlen(name), suffix, strlen(suffix) + 1);
}

// ---------------------------------------------------------------- reading

static enum hearth_status check_part(const struct ht_gguf *g, const struct ht_gguf_tensor *t,
                                     struct hearth_error *err)
{
    if (t->type != HT_TYPE_F32 && t->type != HT_TYPE_F16 && t->type != HT_TYPE_BF16 && t->type != HT_TYPE_Q8_0)
        return ht_fail(err, HEARTH_UNSUPPORTED, "%s: tensor %s is %s (f32, f16, bf16 and q8_0 are supported)",
                       ht_gguf_shown(g), t->name, ht_type_known(t->type)->name);
    if (t->n_values != t->ne[0] * t->ne[1] || t->ne[0] > UINT32_MAX || t->ne[1] > UINT32_MAX)
        return ht_fail(err, HEARTH_FORMAT, "%s: tensor %s is no matrix", ht_gguf_shown(g), t->name);
    return HEARTH_OK;
}

static enum hearth_status add_pair(struct hearth_adapter *adapter, const struct ht_gguf *g,
                                   const struct ht_adapter_target *which, struct hearth_error *err)
{
    char a_name[80], b_name[80];
    part_name(which, ".lora_a", a_name);
    part_name(which, ".lora_b", b_name);
    const struct ht_gguf_tensor *a = ht_gguf_use_tensor(g, a_name), *b = ht_gguf_use_tensor(g, b_name);
    if (!a || !b)
        return ht_fail(err, HEARTH_FORMAT, "%s: tensor %s is missing", ht_gguf_shown(g), a ? b_name : a_name);
    HT_TRY(check_part(g, a, err));
    HT_TRY(check_part(g, b, err));
    if (a->ne[1] != b->ne[0])
        return ht_fail(err, HEARTH_FORMAT, "%s: %s has rank %llu, %s %llu", ht_gguf_shown(g), a_name,
                       (unsigned long long)a->ne[1], b_name, (unsigned long long)b->ne[0]);
    struct ht_adapter_target *t = &adapter->targets[adapter->n_targets++];
    *t = *which;
    t->k = (uint32_t)a->ne[0];
    t->rank = (uint32_t)a->ne[1];
    t->n = (uint32_t)b->ne[1];
    return HEARTH_OK;
}

static enum hearth_status read_table(struct hearth_adapter *adapter, const struct ht_gguf *g,
                                     struct hearth_error *err)
{
    size_t n = ht_gguf_n_tensors(g);
    adapter->targets = ht_calloc(n + 1, sizeof *adapter->targets);
    if (!adapter->targets)
        return ht_fail(err, HEARTH_NOMEM, "%s: out of memory", ht_gguf_shown(g));
    for (size_t i = 0; i < n; i++) {
        struct ht_adapter_target which = {0};
        const char *name = ht_gguf_tensor_at(g, i)->name;
        if (!strncmp(name, "token_embd.", 11))
            return ht_fail(err, HEARTH_UNSUPPORTED, "%s: adapters of embeddings are not supported", ht_gguf_shown(g));
        if (parse_name(name, ".lora_a", &which))
            HT_TRY(add_pair(adapter, g, &which, err));
        else if (!parse_name(name, ".lora_b", &which))
            return ht_fail(err, HEARTH_UNSUPPORTED, "%s: tensor %s is not understood", ht_gguf_shown(g), name);
    }
    return ht_gguf_refuse_unused_tensors(g, err); // a B without its A
}

static enum hearth_status read_alpha(struct hearth_adapter *adapter, const struct ht_gguf *g,
                                     struct hearth_error *err)
{
    float alpha = 0, told = 0;
    bool rslora = false;
    HT_TRY(ht_gguf_get_f32(g, "adapter.lora.alpha", &alpha, err));
    HT_TRY(ht_gguf_optional(ht_gguf_get_bool(g, "hearth.adapter.rslora", &rslora, err)));
    HT_TRY(ht_gguf_optional(ht_gguf_get_f32(g, "hearth.adapter.dropout", &adapter->dropout, err)));
    if (!(adapter->dropout >= 0 && adapter->dropout < 1))
        return ht_fail(err, HEARTH_FORMAT, "%s: key hearth.adapter.dropout is not in [0, 1)", ht_gguf_shown(g));
    if (rslora)
        HT_TRY(ht_gguf_get_f32(g, "hearth.adapter.alpha", &told, err));
    adapter->rslora = rslora;
    for (size_t i = 0; i < adapter->n_targets; i++) {
        struct ht_adapter_target *t = &adapter->targets[i];
        if (rslora && told * sqrtf((float)t->rank) != alpha)
            return ht_fail(err, HEARTH_FORMAT, "%s: adapter.lora.alpha and hearth.adapter.alpha disagree",
                           ht_gguf_shown(g));
        t->alpha = rslora ? told : alpha != 0 ? alpha : (float)t->rank; // 0: a scale of 1
    }
    return HEARTH_OK;
}

static enum hearth_status read_base(struct hearth_adapter *adapter, const struct ht_gguf *g,
                                    struct hearth_error *err)
{
    const char *text = "";
    HT_TRY(ht_gguf_optional(ht_gguf_get_str(g, "general.name", &text, NULL, err)));
    ht_adapter_text(adapter->name, sizeof adapter->name, text);
    text = "";
    HT_TRY(ht_gguf_optional(ht_gguf_get_str(g, "general.base_model.0.name", &text, NULL, err)));
    ht_adapter_text(adapter->base_name, sizeof adapter->base_name, text);
    text = "";
    HT_TRY(ht_gguf_optional(ht_gguf_get_str(g, "hearth.base.sha256", &text, NULL, err)));
    if (text[0] && !ht_adapter_hex64(text))
        return ht_fail(err, HEARTH_FORMAT, "%s: key hearth.base.sha256 is no SHA-256", ht_gguf_shown(g));
    ht_adapter_text(adapter->base_sha256, sizeof adapter->base_sha256, text);
    HT_TRY(ht_gguf_optional(ht_gguf_get_u32(g, "hearth.base.block_count", &adapter->n_layers, err)));
    HT_TRY(ht_gguf_optional(ht_gguf_get_u32(g, "hearth.base.head_count", &adapter->n_heads, err)));
    HT_TRY(ht_gguf_optional(ht_gguf_get_u32(g, "hearth.base.head_count_kv", &adapter->n_kv_heads, err)));
    if (adapter->n_layers > HT_MAX_LAYERS || adapter->n_heads > HT_MAX_HEADS || adapter->n_kv_heads > HT_MAX_HEADS)
        return ht_fail(err, HEARTH_FORMAT, "%s: the sizes of the base are beyond what is allowed", ht_gguf_shown(g));
    for (size_t i = 0; i < ht_gguf_n_keys(g); i++) {
        const struct ht_gguf_key *key = ht_gguf_key_at(g, i);
        if (key->kind != HT_GGUF_STRING || !ht_adapter_lineage_known(key->name))
            continue;
        HT_TRY(ht_gguf_get_str(g, key->name, &text, NULL, err));
        HT_TRY(ht_adapter_lineage_add(adapter, key->name, text, err));
    }
    return HEARTH_OK;
}

static enum hearth_status read_head(struct hearth_adapter *adapter, const struct ht_gguf *g,
                                    struct hearth_error *err)
{
    const char *type = "model", *arch = "", *kind = "";
    HT_TRY(ht_gguf_optional(ht_gguf_get_str(g, "general.type", &type, NULL, err)));
    if (strcmp(type, "adapter"))
        return ht_fail(err, HEARTH_UNSUPPORTED, "%s is no adapter but a file of type \"%.32s\"", ht_gguf_shown(g),
                       type);
    HT_TRY(ht_gguf_get_str(g, "adapter.type", &kind, NULL, err));
    if (strcmp(kind, "lora"))
        return ht_fail(err, HEARTH_UNSUPPORTED, "%s: adapters of type \"%.32s\" are not supported (lora)",
                       ht_gguf_shown(g), kind);
    HT_TRY(ht_gguf_get_str(g, "general.architecture", &arch, NULL, err));
    if (!ht_arch_find(arch))
        return ht_fail(err, HEARTH_UNSUPPORTED, "%s: architecture \"%.32s\" is not supported (%s)", ht_gguf_shown(g),
                       arch, ht_arch_names());
    ht_adapter_text(adapter->architecture, sizeof adapter->architecture, arch);
    if (ht_gguf_n_parts(g) != 1)
        return ht_fail(err, HEARTH_UNSUPPORTED, "%s: adapters in several parts are not supported", ht_gguf_shown(g));
    HT_TRY(read_table(adapter, g, err));
    HT_TRY(read_alpha(adapter, g, err));
    HT_TRY(read_base(adapter, g, err));
    HT_TRY(ht_gguf_refuse_unused_keys(g, "adapter.", err)); // adapter.alora…: active after certain words only
    return ht_gguf_refuse_unused_keys(g, "hearth.adapter.", err);
}

static enum hearth_status read_values(const struct ht_gguf *g, const char *name, float *out, struct hearth_error *err)
{
    const struct ht_gguf_tensor *t = ht_gguf_find_tensor(g, name);
    if (t->type == HT_TYPE_F32)
        return ht_gguf_read(g, t, 0, (size_t)t->size_bytes, out, err);
    unsigned char *row = ht_calloc((size_t)t->row_bytes, 1);
    if (!row)
        return ht_fail(err, HEARTH_NOMEM, "%s: out of memory", ht_gguf_shown(g));
    enum hearth_status status = HEARTH_OK;
    for (uint64_t i = 0; status == HEARTH_OK && i < t->ne[1]; i++) {
        status = ht_gguf_read(g, t, i * t->row_bytes, (size_t)t->row_bytes, row, err);
        if (status == HEARTH_OK)
            ht_dequant_row(t->type, row, (size_t)t->ne[0], out + i * t->ne[0]);
    }
    ht_free(row);
    return status;
}

static enum hearth_status read_all(struct hearth_adapter *adapter, const struct ht_gguf *g, struct hearth_error *err)
{
    char name[80];
    HT_TRY(read_head(adapter, g, err));
    HT_TRY(ht_adapter_lay_out(adapter, err));
    for (size_t i = 0; i < adapter->n_targets; i++) {
        const struct ht_adapter_target *t = &adapter->targets[i];
        part_name(t, ".lora_a", name);
        HT_TRY(read_values(g, name, adapter->values + t->a_at, err));
        part_name(t, ".lora_b", name);
        HT_TRY(read_values(g, name, adapter->values + t->b_at, err));
    }
    return ht_adapter_check_values(adapter, err);
}

enum hearth_status ht_adapter_read_gguf(struct hearth_adapter **adapter, const char *path, struct hearth_error *err)
{
    struct ht_gguf *g = NULL;
    *adapter = NULL;
    HT_TRY(ht_gguf_open_any(&g, path, err));
    enum hearth_status status = ht_adapter_new(adapter, path, "gguf", err);
    if (status == HEARTH_OK)
        status = read_all(*adapter, g, err);
    if (status != HEARTH_OK)
        hearth_adapter_close(adapter);
    ht_gguf_close(&g);
    return status;
}

// ---------------------------------------------------------------- writing

// The file has one alpha for all and scale = alpha / rank.
static float file_alpha(const struct hearth_adapter *adapter, const struct ht_adapter_target *t)
{
    return adapter->rslora ? t->alpha * sqrtf((float)t->rank) : t->alpha;
}

static bool uniform(const struct hearth_adapter *adapter)
{
    for (size_t i = 1; i < adapter->n_targets; i++)
        if (adapter->targets[i].rank != adapter->targets[0].rank ||
            adapter->targets[i].alpha != adapter->targets[0].alpha)
            return false;
    return true;
}

static void put_text(struct ht_gguf_writer *w, const char *key, const char *text)
{
    if (text[0])
        ht_gguf_writer_str(w, key, text, strlen(text));
}

static void put_keys(struct ht_gguf_writer *w, const struct hearth_adapter *adapter)
{
    put_text(w, "general.type", "adapter");
    put_text(w, "general.architecture", adapter->architecture);
    put_text(w, "general.name", adapter->name);
    put_text(w, "adapter.type", "lora");
    ht_gguf_writer_f32(w, "adapter.lora.alpha", file_alpha(adapter, &adapter->targets[0]));
    ht_gguf_writer_u32(w, "general.base_model.count", 1);
    put_text(w, "general.base_model.0.name", adapter->base_name);
    put_text(w, "hearth.base.sha256", adapter->base_sha256);
    ht_gguf_writer_u32(w, "hearth.base.block_count", adapter->n_layers);
    ht_gguf_writer_u32(w, "hearth.base.head_count", adapter->n_heads);
    ht_gguf_writer_u32(w, "hearth.base.head_count_kv", adapter->n_kv_heads);
    if (adapter->rslora && uniform(adapter)) {
        ht_gguf_writer_bool(w, "hearth.adapter.rslora", true);
        ht_gguf_writer_f32(w, "hearth.adapter.alpha", adapter->targets[0].alpha);
    }
    if (adapter->dropout > 0)
        ht_gguf_writer_f32(w, "hearth.adapter.dropout", adapter->dropout);
    for (size_t i = 0; i < adapter->n_lineage; i++)
        put_text(w, adapter->lineage[i].key, adapter->lineage[i].value);
}

// B, times what its alpha is more than the file's.
static enum hearth_status put_b(struct ht_gguf_writer *w, const float *b, size_t count, float factor,
                                struct hearth_error *err)
{
    float piece[PIECE];
    if (factor == 1)
        return ht_gguf_writer_data(w, b, count * sizeof *b, err);
    for (size_t at = 0; at < count; at += PIECE) {
        size_t n = count - at < PIECE ? count - at : PIECE;
        for (size_t i = 0; i < n; i++)
            piece[i] = b[at + i] * factor;
        HT_TRY(ht_gguf_writer_data(w, piece, n * sizeof *b, err));
    }
    return HEARTH_OK;
}

static enum hearth_status put_all(struct ht_gguf_writer *w, const struct hearth_adapter *adapter,
                                  struct hearth_error *err)
{
    char name[80];
    put_keys(w, adapter);
    for (size_t i = 0; i < adapter->n_targets; i++) {
        const struct ht_adapter_target *t = &adapter->targets[i];
        part_name(t, ".lora_a", name);
        ht_gguf_writer_tensor(w, name, HT_TYPE_F32, 2, (const uint64_t[]){t->k, t->rank});
        part_name(t, ".lora_b", name);
        ht_gguf_writer_tensor(w, name, HT_TYPE_F32, 2, (const uint64_t[]){t->rank, t->n});
    }
    float alpha = file_alpha(adapter, &adapter->targets[0]);
    for (size_t i = 0; i < adapter->n_targets; i++) {
        const struct ht_adapter_target *t = &adapter->targets[i];
        HT_TRY(ht_gguf_writer_data(w, adapter->values + t->a_at, (size_t)t->rank * t->k * sizeof(float), err));
        HT_TRY(put_b(w, adapter->values + t->b_at, (size_t)t->n * t->rank, file_alpha(adapter, t) / alpha, err));
    }
    return HEARTH_OK;
}

enum hearth_status hearth_adapter_write_gguf(const struct hearth_adapter *adapter, const char *path,
                                             struct hearth_error *err)
{
    struct ht_gguf_writer *w = NULL;
    HT_TRY(ht_adapter_writable(adapter, err));
    HT_TRY(ht_gguf_writer_begin(&w, path, 32, err));
    enum hearth_status status = put_all(w, adapter, err);
    if (status == HEARTH_OK)
        return ht_gguf_writer_finish(&w, err);
    ht_gguf_writer_discard(&w);
    return status;
}
