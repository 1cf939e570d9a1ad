// SPDX-License-Identifier: Apache-2.0
// Reads a folder of PEFT: adapter_config.json and adapter_model.safetensors. What the configuration asks for and Hearth
// does not do is refused by name. One thread.
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/base/io.h"
#include "engine/base/json_read.h"
#include "engine/base/mem.h"
#include "engine/gguf/safetensors.h"
#include "engine/learn/adapter.h"
#include "engine/learn/adapter_peft.h"

// ---------------------------------------------------------------- the configuration

// Keys that must be absent, null, false, empty or a given text, and why.
static const struct {
    const char *key, *allowed, *reason;
} refusals[] = {
    {"use_dora", NULL, "DoRA scales whole rows of the weight"},
    {"bias", "none", "biases that were trained are no part of an adapter"},
    {"lora_bias", NULL, "biases that were trained are no part of an adapter"},
    {"modules_to_save", NULL, "whole modules that were trained are no part of an adapter"},
    {"layer_replication", NULL, "it changes the layers of the model"},
    {"fan_in_fan_out", NULL, "transposed weights belong to other families"},
    {"trainable_token_indices", NULL, "embeddings that were trained are no part of an adapter"},
    {"target_parameters", NULL, "parts of fused experts are not supported"},
    {"alora_invocation_tokens", NULL, "adapters that begin at certain words are not supported"},
    {"use_qalora", NULL, "QALoRA pools the input"},
    {"use_bdlora", NULL, "block-diagonal adapters are not supported"},
    {"arrow_config", NULL, "routing between adapters is not supported"},
    {"kasa_config", NULL, "KaSA changes the weight"},
    {"velora_config", NULL, "VeLoRA is not supported"},
    {"monteclora_config", NULL, "sampled adapters are not supported"},
};

static bool says_nothing(const json_t *value, const char *allowed)
{
    if (!value || json_is_null(value) || json_is_false(value))
        return true;
    if (json_is_string(value))
        return allowed && !strcmp(json_string_value(value), allowed);
    return (json_is_array(value) && !json_array_size(value)) || (json_is_object(value) && !json_object_size(value));
}

// Ways to begin that also change the base's weights.
static bool keeps_base(const json_t *init)
{
    const char *name = json_string_value(init);
    return !name || !strcmp(name, "gaussian") || !strcmp(name, "eva") || !strcmp(name, "orthogonal");
}

static enum hearth_status check_config(const char *shown, const json_t *config, struct hearth_error *err)
{
    const char *type = json_string_value(json_object_get(config, "peft_type"));
    if (!type || strcmp(type, "LORA"))
        return ht_fail(err, HEARTH_UNSUPPORTED, "%s: peft_type is \"%.32s\", only LORA is supported", shown,
                       type ? type : "");
    for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++)
        if (!says_nothing(json_object_get(config, refusals[i].key), refusals[i].allowed))
            return ht_fail(err, HEARTH_UNSUPPORTED, "%s: %s is set: %s", shown, refusals[i].key, refusals[i].reason);
    const json_t *init = json_object_get(config, "init_lora_weights");
    if (!keeps_base(init))
        return ht_fail(err, HEARTH_UNSUPPORTED,
                       "%s: init_lora_weights \"%.32s\" changes the model's weights too: convert it to a plain LoRA",
                       shown, json_string_value(init));
    return HEARTH_OK;
}

static enum hearth_status load_config(json_t **config, const char *path, struct hearth_error *err)
{
    struct ht_file *file = NULL;
    HT_TRY(ht_file_open_read(&file, path, err));
    const char *shown = ht_shown_path(path);
    uint64_t bytes = ht_file_size(file);
    char *text = bytes <= HT_MAX_ADAPTER_CONFIG_BYTES ? ht_calloc((size_t)bytes + 1, 1) : NULL;
    enum hearth_status status;
    if (bytes > HT_MAX_ADAPTER_CONFIG_BYTES)
        status = ht_fail(err, HEARTH_LIMIT, "%s has %llu bytes, at most %d are allowed", shown,
                         (unsigned long long)bytes, HT_MAX_ADAPTER_CONFIG_BYTES);
    else if (!text)
        status = ht_fail(err, HEARTH_NOMEM, "%s: out of memory", shown);
    else
        status = ht_file_read(file, text, (size_t)bytes, 0, err);
    ht_file_close(&file);
    json_error_t wrong = {0};
    errno = 0;
    if (status == HEARTH_OK)
        *config = ht_json_read(text, (size_t)bytes, JSON_REJECT_DUPLICATES, &wrong);
    ht_free(text);
    if (status != HEARTH_OK)
        return status;
    if (!*config && (!wrong.text[0] || errno == ENOMEM))
        return ht_fail(err, HEARTH_NOMEM, "%s: out of memory", shown);
    if (!json_is_object(*config))
        return ht_fail(err, HEARTH_FORMAT, "%s: no JSON object (line %d, column %d)", shown, wrong.line, wrong.column);
    return check_config(shown, *config, err);
}

// ---------------------------------------------------------------- rank and alpha

enum match { NO_MATCH, MATCH, NOT_PLAIN };

// PEFT's rule, (.*\.)?(pattern)$ on the module's name, for patterns that are plain names ('.' stands for itself).
static enum match matches(const char *pattern, const char *module)
{
    bool whole = pattern[0] == '^';
    pattern += whole;
    size_t len = strlen(pattern), module_len = strlen(module);
    if (len && pattern[len - 1] == '$')
        len--;
    for (size_t i = 0; i < len; i++)
        if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.", pattern[i]))
            return NOT_PLAIN;
    if (!len || len > module_len || strncmp(module + module_len - len, pattern, len))
        return NO_MATCH;
    return len == module_len || (!whole && module[module_len - len - 1] == '.') ? MATCH : NO_MATCH;
}

// The value of the first pattern that matches, else `value` as it was.
static enum hearth_status by_pattern(const char *shown, json_t *patterns, const char *module, double *value,
                                     struct hearth_error *err)
{
    const char *pattern;
    json_t *number;
    json_object_foreach(patterns, pattern, number)
    {
        enum match found = matches(pattern, module);
        if (found == NOT_PLAIN)
            return ht_fail(err, HEARTH_UNSUPPORTED, "%s: a rank_pattern or alpha_pattern that is no plain name", shown);
        if (found == MATCH && !json_is_number(number))
            return ht_fail(err, HEARTH_FORMAT, "%s: a rank_pattern or alpha_pattern that is no number", shown);
        if (found == MATCH) {
            *value = json_number_value(number);
            return HEARTH_OK;
        }
    }
    return HEARTH_OK;
}

// ---------------------------------------------------------------- the tensors

struct peft {
    struct hearth_adapter *adapter;
    struct ht_safetensors *file;
    json_t *config;
    const char *shown; // of the folder
};

bool ht_peft_parse(const char *name, struct ht_adapter_target *which, bool *is_b, size_t *module_at, size_t *module_len)
{
    static const char *const homes[] = {"model.layers.", "model.language_model.layers.",
                                        "language_model.model.layers."};
    static const char start[] = "base_model.model.";
    if (strncmp(name, start, sizeof start - 1))
        return false;
    const char *module = name + sizeof start - 1, *rest = module;
    uint32_t layer = 0;
    bool within = false;
    for (size_t i = 0; i < sizeof homes / sizeof homes[0]; i++)
        if (!strncmp(module, homes[i], strlen(homes[i]))) {
            rest = ht_adapter_layer_number(module + strlen(homes[i]), ".", &layer);
            within = true;
        }
    for (uint32_t linear = 0; rest && linear < HT_ADAPTER_NAMES; linear++) {
        const char *word = ht_adapter_linear_peft(linear), *after = rest + strlen(word);
        if (within == (linear == HT_ADAPTER_OUTPUT) || strncmp(rest, word, strlen(word)))
            continue;
        *is_b = !strcmp(after, ".lora_B.weight");
        if (!*is_b && strcmp(after, ".lora_A.weight"))
            continue;
        which->layer = layer;
        which->linear = linear;
        *module_at = sizeof start - 1;
        *module_len = (size_t)(after - module);
        return true;
    }
    return false;
}

static enum hearth_status set_rank(const struct peft *p, struct ht_adapter_target *t, const char *module,
                                   struct hearth_error *err)
{
    const json_t *r = json_object_get(p->config, "r"), *alpha_of = json_object_get(p->config, "lora_alpha");
    double rank = 8, alpha = 8; // PEFT's when the file does not say
    if ((r && !json_is_integer(r)) || (alpha_of && !json_is_number(alpha_of)))
        return ht_fail(err, HEARTH_FORMAT, "%s: r or lora_alpha is no number", p->shown);
    rank = r ? json_number_value(r) : rank;
    alpha = alpha_of ? json_number_value(alpha_of) : alpha;
    HT_TRY(by_pattern(p->shown, json_object_get(p->config, "rank_pattern"), module, &rank, err));
    HT_TRY(by_pattern(p->shown, json_object_get(p->config, "alpha_pattern"), module, &alpha, err));
    if (rank != (double)t->rank)
        return ht_fail(err, HEARTH_FORMAT, "%s: %s has rank %u, the configuration says %g", p->shown, module, t->rank,
                       rank);
    t->alpha = (float)alpha;
    return HEARTH_OK;
}

static enum hearth_status add_part(const struct peft *p, const struct ht_safetensor *s, struct hearth_error *err)
{
    struct ht_adapter_target which = {0};
    struct hearth_adapter *adapter = p->adapter;
    bool is_b = false;
    size_t at, len;
    char module[256];
    if (strstr(s->name, "embed_tokens") || strstr(s->name, "lora_embedding_"))
        return ht_fail(err, HEARTH_UNSUPPORTED, "%s: adapters of embeddings are not supported", p->shown);
    if (!ht_peft_parse(s->name, &which, &is_b, &at, &len))
        return ht_fail(err, HEARTH_UNSUPPORTED, "%s: tensor %s is not understood", p->shown, s->name);
    if (s->n_dims != 2 || s->shape[0] < 1 || s->shape[0] > UINT32_MAX || s->shape[1] < 1 || s->shape[1] > UINT32_MAX)
        return ht_fail(err, HEARTH_FORMAT, "%s: tensor %s is no matrix", p->shown, s->name);
    struct ht_adapter_target *t = ht_adapter_find(adapter, which.layer, which.linear);
    uint32_t rank = (uint32_t)s->shape[is_b];
    if (!t) {
        t = &adapter->targets[adapter->n_targets++];
        *t = which;
        t->rank = rank;
    }
    if (is_b ? t->n : t->k)
        return ht_fail(err, HEARTH_FORMAT, "%s: tensor %s stands there twice", p->shown, s->name);
    if (t->rank != rank)
        return ht_fail(err, HEARTH_FORMAT, "%s: tensor %s has rank %u, its partner %u", p->shown, s->name, rank,
                       t->rank);
    *(is_b ? &t->n : &t->k) = (uint32_t)s->shape[!is_b];
    memcpy(module, s->name + at, len); // names have at most 255 bytes
    module[len] = 0;
    return set_rank(p, t, module, err);
}

// Beside an adapter of the head PEFT lays a copy of the head's own weight. The base file has it: not read.
static bool is_copy(const struct ht_safetensor *s)
{
    return !strcmp(s->name, "base_model.model.lm_head.base_layer.weight");
}

static enum hearth_status check_copy(const struct peft *p, const struct ht_safetensor *s, struct hearth_error *err)
{
    const struct ht_adapter_target *t = ht_adapter_find(p->adapter, 0, HT_ADAPTER_OUTPUT);
    if (!t || s->n_dims != 2 || s->shape[0] != t->n || s->shape[1] != t->k)
        return ht_fail(err, HEARTH_FORMAT, "%s: tensor %s has not the shape of the adapter's part for it", p->shown,
                       s->name);
    return HEARTH_OK;
}

static enum hearth_status read_values(const struct peft *p, const struct ht_safetensor *s, struct hearth_error *err)
{
    struct ht_adapter_target which = {0};
    bool is_b = false;
    size_t at, len;
    if (is_copy(s))
        return check_copy(p, s, err);
    ht_peft_parse(s->name, &which, &is_b, &at, &len);
    const struct ht_adapter_target *t = ht_adapter_find(p->adapter, which.layer, which.linear);
    return ht_safetensors_read(p->file, s, p->adapter->values + (is_b ? t->b_at : t->a_at), err);
}

static enum hearth_status read_tensors(const struct peft *p, struct hearth_error *err)
{
    struct hearth_adapter *adapter = p->adapter;
    size_t n = ht_safetensors_n(p->file);
    char name[64];
    if (n > 2 * (HT_MAX_LAYERS * HT_ADAPTER_NAMES + 1))
        return ht_fail(err, HEARTH_LIMIT, "%s: %zu tensors are more than the linears of a model", p->shown, n);
    adapter->targets = ht_calloc(n + 1, sizeof *adapter->targets);
    if (!adapter->targets)
        return ht_fail(err, HEARTH_NOMEM, "%s: out of memory", p->shown);
    for (size_t i = 0; i < n; i++)
        if (!is_copy(ht_safetensors_at(p->file, i)))
            HT_TRY(add_part(p, ht_safetensors_at(p->file, i), err));
    for (size_t i = 0; i < adapter->n_targets; i++) {
        const struct ht_adapter_target *t = &adapter->targets[i];
        ht_adapter_tensor_name(t, name);
        if (!t->n || !t->k)
            return ht_fail(err, HEARTH_FORMAT, "%s: %s of %s is missing", p->shown, t->k ? "lora_B" : "lora_A", name);
    }
    HT_TRY(ht_adapter_lay_out(adapter, err));
    for (size_t i = 0; i < n; i++)
        HT_TRY(read_values(p, ht_safetensors_at(p->file, i), err));
    return ht_adapter_check_values(adapter, err);
}

// ---------------------------------------------------------------- what our own folders tell of the base

static enum hearth_status number_of(const struct peft *p, const char *key, uint32_t cap, uint32_t *value,
                                    struct hearth_error *err)
{
    const char *text = ht_safetensors_meta(p->file, key);
    size_t len = text ? strlen(text) : 0;
    if (!text)
        return HEARTH_OK;
    unsigned long number = len <= 6 && strspn(text, "0123456789") == len ? strtoul(text, NULL, 10) : 0;
    if (number < 1 || number > cap)
        return ht_fail(err, HEARTH_FORMAT, "%s: %s in __metadata__ is not in [1, %u]", p->shown, key, cap);
    *value = (uint32_t)number;
    return HEARTH_OK;
}

static enum hearth_status read_origin(const struct peft *p, struct hearth_error *err)
{
    struct hearth_adapter *adapter = p->adapter;
    const char *sha = ht_safetensors_meta(p->file, "hearth.base.sha256"), *key, *value;
    const char *arch = ht_safetensors_meta(p->file, "hearth.base.architecture");
    const char *name = ht_safetensors_meta(p->file, "general.name");
    const char *base = json_string_value(json_object_get(p->config, "base_model_name_or_path"));
    if ((sha && !ht_adapter_hex64(sha)) || (arch && !ht_arch_find(arch)) || !sha != !arch)
        return ht_fail(err, HEARTH_FORMAT, "%s: what __metadata__ tells of the base is no SHA-256 and architecture",
                       p->shown);
    ht_adapter_text(adapter->base_sha256, sizeof adapter->base_sha256, sha ? sha : "");
    ht_adapter_text(adapter->architecture, sizeof adapter->architecture, arch ? arch : "");
    ht_adapter_text(adapter->name, sizeof adapter->name, name ? name : "");
    ht_adapter_text(adapter->base_name, sizeof adapter->base_name, base ? base : "");
    HT_TRY(number_of(p, "hearth.base.block_count", HT_MAX_LAYERS, &adapter->n_layers, err));
    HT_TRY(number_of(p, "hearth.base.head_count", HT_MAX_HEADS, &adapter->n_heads, err));
    HT_TRY(number_of(p, "hearth.base.head_count_kv", HT_MAX_HEADS, &adapter->n_kv_heads, err));
    for (size_t i = 0; i < ht_safetensors_n_meta(p->file); i++) {
        ht_safetensors_meta_at(p->file, i, &key, &value);
        if (ht_adapter_lineage_known(key))
            HT_TRY(ht_adapter_lineage_add(adapter, key, value, err));
    }
    return HEARTH_OK;
}

static enum hearth_status read_folder(struct peft *p, const char *folder, struct hearth_error *err)
{
    char path[HT_PEFT_PATH_BYTES];
    struct stat st;
    HT_TRY(ht_peft_path(path, folder, "adapter_config.json", err));
    HT_TRY(load_config(&p->config, path, err));
    HT_TRY(ht_peft_path(path, folder, "adapter_model.bin", err));
    bool pickled = !stat(path, &st);
    HT_TRY(ht_peft_path(path, folder, "adapter_model.safetensors", err));
    if (stat(path, &st) && pickled)
        return ht_fail(err, HEARTH_UNSUPPORTED,
                       "%s: adapter_model.bin is a pickle, which can run programs: save it as safetensors", p->shown);
    HT_TRY(ht_safetensors_open(&p->file, path, err));
    const json_t *dropout = json_object_get(p->config, "lora_dropout");
    if (dropout && !(json_is_number(dropout) && json_number_value(dropout) >= 0 && json_number_value(dropout) < 1))
        return ht_fail(err, HEARTH_FORMAT, "%s: lora_dropout is not in [0, 1)", p->shown);
    p->adapter->dropout = dropout ? (float)json_number_value(dropout) : 0;
    const json_t *rslora = json_object_get(p->config, "use_rslora");
    if (rslora && !json_is_boolean(rslora) && !json_is_null(rslora))
        return ht_fail(err, HEARTH_FORMAT, "%s: use_rslora is neither true nor false", p->shown);
    p->adapter->rslora = json_is_true(rslora);
    p->adapter->peft_rows = true;
    HT_TRY(read_tensors(p, err));
    return read_origin(p, err);
}

enum hearth_status ht_peft_path(char path[HT_PEFT_PATH_BYTES], const char *folder, const char *name,
                                struct hearth_error *err)
{
    int n = snprintf(path, HT_PEFT_PATH_BYTES, "%s/%s", folder, name);
    if (n < 0 || n >= HT_PEFT_PATH_BYTES)
        return ht_fail(err, HEARTH_INVALID, "%s: the path is too long", ht_shown_path(folder));
    return HEARTH_OK;
}

enum hearth_status ht_adapter_read_peft(struct hearth_adapter **adapter, const char *folder, struct hearth_error *err)
{
    HT_TRY(ht_adapter_new(adapter, folder, "peft", err));
    struct peft p = {.adapter = *adapter, .shown = (*adapter)->shown};
    enum hearth_status status = read_folder(&p, folder, err);
    ht_safetensors_close(&p.file);
    json_decref(p.config);
    if (status != HEARTH_OK)
        hearth_adapter_close(adapter);
    return status;
}
