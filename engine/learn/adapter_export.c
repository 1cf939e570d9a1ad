// SPDX-License-Identifier: Apache-2.0
// Writes a folder as PEFT reads it. The configuration comes last: a folder without one is no adapter. One thread.
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/io.h"
#include "engine/base/json_read.h"
#include "engine/base/mem.h"
#include "engine/gguf/safetensors.h"
#include "engine/learn/adapter_peft.h"

enum { MODULE_BYTES = 96, TENSOR_BYTES = 160, N_META = HT_ADAPTER_LINEAGE_MAX + 8 };

struct names {
    char a[TENSOR_BYTES], b[TENSOR_BYTES];
};

static void module_name(const struct ht_adapter_target *t, char name[MODULE_BYTES])
{
    if (t->linear == HT_ADAPTER_OUTPUT)
        snprintf(name, MODULE_BYTES, "lm_head");
    else
        snprintf(name, MODULE_BYTES, "model.layers.%u.%s", t->layer, ht_adapter_linear_peft(t->linear));
}

// ---------------------------------------------------------------- the configuration

// Whether every layer of the base has this linear, or the head stands for itself: then its short name says it all.
static bool everywhere(const struct hearth_adapter *adapter, uint32_t linear)
{
    uint32_t n = 0;
    for (size_t i = 0; i < adapter->n_targets; i++)
        n += adapter->targets[i].linear == linear;
    return linear == HT_ADAPTER_OUTPUT || n == adapter->n_layers;
}

static json_t *target_modules(const struct hearth_adapter *adapter)
{
    json_t *list = json_array();
    char module[MODULE_BYTES];
    bool told[HT_ADAPTER_LINEARS] = {false};
    for (size_t i = 0; i < adapter->n_targets; i++) {
        const struct ht_adapter_target *t = &adapter->targets[i];
        const char *name = ht_adapter_linear_peft(t->linear), *dot = strchr(name, '.');
        module_name(t, module);
        if (!everywhere(adapter, t->linear)) {
            json_array_append_new(list, json_string(module));
        } else if (!told[t->linear]) {
            told[t->linear] = true;
            json_array_append_new(list, json_string(dot ? dot + 1 : name));
        }
    }
    return list;
}

// A whole number is written as one: PEFT's alpha is most often an integer.
static json_t *number(float value)
{
    double v = (double)value;
    return v == (double)(json_int_t)v ? json_integer((json_int_t)v) : json_real(v);
}

static json_t *make_config(const struct hearth_adapter *adapter)
{
    const struct ht_adapter_target *first = &adapter->targets[0];
    json_t *ranks = json_object(), *alphas = json_object();
    char module[MODULE_BYTES];
    bool good = ranks && alphas;
    for (size_t i = 1; i < adapter->n_targets; i++) {
        const struct ht_adapter_target *t = &adapter->targets[i];
        module_name(t, module);
        if (t->rank != first->rank)
            good = !json_object_set_new(ranks, module, json_integer(t->rank)) && good;
        if (t->alpha != first->alpha)
            good = !json_object_set_new(alphas, module, number(t->alpha)) && good;
    }
    json_t *config = json_pack(
        "{s:s, s:s, s:s, s:i, s:o, s:o, s:o, s:s, s:b, s:b, s:b, s:n, s:b, s:b, s:n, s:n, s:o, s:o}", "peft_type",
        "LORA", "task_type", "CAUSAL_LM", "base_model_name_or_path", adapter->base_name, "r", (int)first->rank,
        "lora_alpha", number(first->alpha), "lora_dropout", json_real((double)adapter->dropout), "target_modules",
        target_modules(adapter), "bias", "none", "fan_in_fan_out", 0, "init_lora_weights", 1, "inference_mode", 1,
        "modules_to_save", "use_rslora", (int)adapter->rslora, "use_dora", 0, "layers_to_transform", "layers_pattern",
        "rank_pattern", ranks, "alpha_pattern", alphas);
    if (!good) {
        json_decref(config);
        return NULL;
    }
    return config;
}

static enum hearth_status write_config(const struct hearth_adapter *adapter, const char *path,
                                       struct hearth_error *err)
{
    size_t losses = ht_json_losses();
    json_t *config = make_config(adapter);
    size_t len = config && ht_json_losses() == losses ? json_dumpb(config, NULL, 0, JSON_INDENT(2)) : 0;
    char *text = len ? ht_calloc(len + 1, 1) : NULL;
    enum hearth_status status = HEARTH_NOMEM;
    if (text && json_dumpb(config, text, len, JSON_INDENT(2)) == len) {
        text[len] = '\n';
        status = ht_file_replace(path, text, len + 1, err);
    } else {
        ht_fail(err, HEARTH_NOMEM, "%s: out of memory", ht_shown_path(path));
    }
    ht_free(text);
    json_decref(config);
    return status;
}

// ---------------------------------------------------------------- the tensors

// B's of the linears whose rows are turned, in PEFT's order, one behind the other. *turned NULL if there are none.
static enum hearth_status turn_back(const struct hearth_adapter *adapter, float **turned, struct hearth_error *err)
{
    size_t total = 0;
    uint32_t n_heads;
    *turned = NULL;
    for (size_t i = 0; i < adapter->n_targets; i++) {
        const struct ht_adapter_target *t = &adapter->targets[i];
        if (!ht_adapter_turned(adapter, t->linear, &n_heads))
            continue;
        if (!n_heads || t->n % (2 * n_heads))
            return ht_fail(err, HEARTH_FORMAT, "%s: %u rows of q or k are no %u heads", adapter->shown, t->n, n_heads);
        total += (size_t)t->n * t->rank;
    }
    if (!total)
        return HEARTH_OK;
    *turned = ht_calloc(total, sizeof **turned);
    if (!*turned)
        return ht_fail(err, HEARTH_NOMEM, "%s: out of memory", adapter->shown);
    float *at = *turned;
    for (size_t i = 0; i < adapter->n_targets; i++) {
        const struct ht_adapter_target *t = &adapter->targets[i];
        if (!ht_adapter_turned(adapter, t->linear, &n_heads))
            continue;
        ht_adapter_turn_rows(adapter->values + t->b_at, t->n, t->rank, n_heads, false, at);
        at += (size_t)t->n * t->rank;
    }
    return HEARTH_OK;
}

static void fill_items(const struct hearth_adapter *adapter, const float *turned, struct names *names,
                       struct ht_safetensors_item *items)
{
    char module[MODULE_BYTES];
    uint32_t n_heads;
    for (size_t i = 0; i < adapter->n_targets; i++) {
        const struct ht_adapter_target *t = &adapter->targets[i];
        const float *b = adapter->values + t->b_at;
        module_name(t, module);
        snprintf(names[i].a, TENSOR_BYTES, "base_model.model.%s.lora_A.weight", module);
        snprintf(names[i].b, TENSOR_BYTES, "base_model.model.%s.lora_B.weight", module);
        if (ht_adapter_turned(adapter, t->linear, &n_heads)) {
            b = turned;
            turned += (size_t)t->n * t->rank;
        }
        items[2 * i] = (struct ht_safetensors_item){
            names[i].a, HT_TYPE_F32, 2, {t->rank, t->k}, adapter->values + t->a_at};
        items[2 * i + 1] = (struct ht_safetensors_item){names[i].b, HT_TYPE_F32, 2, {t->n, t->rank}, b};
    }
}

static size_t fill_meta(const struct hearth_adapter *adapter, struct ht_safetensors_pair meta[N_META],
                        char numbers[3][12])
{
    size_t n = 0;
    snprintf(numbers[0], sizeof numbers[0], "%u", adapter->n_layers);
    snprintf(numbers[1], sizeof numbers[1], "%u", adapter->n_heads);
    snprintf(numbers[2], sizeof numbers[2], "%u", adapter->n_kv_heads);
    meta[n++] = (struct ht_safetensors_pair){"format", "pt"};
    meta[n++] = (struct ht_safetensors_pair){"hearth.base.sha256", adapter->base_sha256};
    meta[n++] = (struct ht_safetensors_pair){"hearth.base.architecture", adapter->architecture};
    meta[n++] = (struct ht_safetensors_pair){"hearth.base.block_count", numbers[0]};
    meta[n++] = (struct ht_safetensors_pair){"hearth.base.head_count", numbers[1]};
    meta[n++] = (struct ht_safetensors_pair){"hearth.base.head_count_kv", numbers[2]};
    if (adapter->name[0])
        meta[n++] = (struct ht_safetensors_pair){"general.name", adapter->name};
    for (size_t i = 0; i < adapter->n_lineage; i++)
        meta[n++] = (struct ht_safetensors_pair){adapter->lineage[i].key, adapter->lineage[i].value};
    return n;
}

static enum hearth_status write_tensors(const struct hearth_adapter *adapter, const char *path,
                                        struct hearth_error *err)
{
    struct ht_safetensors_pair meta[N_META];
    char numbers[3][12];
    float *turned;
    HT_TRY(turn_back(adapter, &turned, err));
    struct names *names = ht_calloc(adapter->n_targets, sizeof *names);
    struct ht_safetensors_item *items = ht_calloc(2 * adapter->n_targets, sizeof *items);
    enum hearth_status status;
    if (names && items) {
        fill_items(adapter, turned, names, items);
        size_t n_meta = fill_meta(adapter, meta, numbers);
        status = ht_safetensors_write(path, items, 2 * adapter->n_targets, meta, n_meta, err);
    } else {
        status = ht_fail(err, HEARTH_NOMEM, "%s: out of memory", adapter->shown);
    }
    ht_free(items);
    ht_free(names);
    ht_free(turned);
    return status;
}

enum hearth_status hearth_adapter_write_peft(const struct hearth_adapter *adapter, const char *folder,
                                             struct hearth_error *err)
{
    char config[HT_PEFT_PATH_BYTES], tensors[HT_PEFT_PATH_BYTES];
    struct stat st;
    HT_TRY(ht_adapter_writable(adapter, err));
    HT_TRY(ht_peft_path(config, folder, "adapter_config.json", err));
    HT_TRY(ht_peft_path(tensors, folder, "adapter_model.safetensors", err));
    bool made = !mkdir(folder, 0700);
    if (!made && errno != EEXIST)
        return ht_fail(err, HEARTH_IO, "%s: cannot make the folder: %s", ht_shown_path(folder), strerror(errno));
    if (!stat(config, &st) || !stat(tensors, &st))
        return ht_fail(err, HEARTH_INVALID, "%s holds an adapter already", ht_shown_path(folder));
    enum hearth_status status = write_tensors(adapter, tensors, err);
    if (status == HEARTH_OK) {
        status = write_config(adapter, config, err);
        if (status != HEARTH_OK)
            unlink(tensors);
    }
    if (status != HEARTH_OK && made)
        rmdir(folder);
    return status;
}
