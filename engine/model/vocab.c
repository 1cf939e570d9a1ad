// SPDX-License-Identifier: Apache-2.0
// The vocabulary's keys of a model file, checked: see vocab.h. The loading thread.
#include "engine/model/vocab.h"

#include "engine/base/mem.h"

struct lists { // what the source points to while the tokenizer is made
    struct ht_text *tokens, *merges;
    float *scores;
    int32_t *types;
};

static enum hearth_status no_memory(const struct ht_gguf *gguf, struct hearth_error *err)
{
    return ht_fail(err, HEARTH_NOMEM, "%s: out of memory for the vocabulary", ht_gguf_shown(gguf));
}

static enum hearth_status read_strings(const struct ht_gguf *gguf, const char *key, struct ht_text **out,
                                       size_t *n, struct hearth_error *err)
{
    struct ht_gguf_array array;
    HT_TRY(ht_gguf_get_array(gguf, key, HT_GGUF_STRING, &array, err));
    if (array.count > 4 * (uint64_t)HT_MAX_VOCAB)
        return ht_fail(err, HEARTH_LIMIT, "%s: key %s has %llu entries", ht_gguf_shown(gguf), key,
                       (unsigned long long)array.count);
    *n = (size_t)array.count;
    if (!*n)
        return HEARTH_OK;
    *out = ht_calloc(*n, sizeof **out);
    if (!*out)
        return no_memory(gguf, err);
    struct ht_gguf_str s;
    for (size_t i = 0; i < *n && ht_gguf_array_next(&array, &s); i++)
        (*out)[i] = (struct ht_text){.bytes = s.text, .len_bytes = s.len_bytes};
    return HEARTH_OK;
}

static enum hearth_status same_length(const struct ht_gguf *gguf, const char *key, uint64_t count,
                                      size_t n_tokens, struct hearth_error *err)
{
    if (count == n_tokens)
        return HEARTH_OK;
    return ht_fail(err, HEARTH_FORMAT, "%s: key %s has %llu entries for %zu tokens", ht_gguf_shown(gguf), key,
                   (unsigned long long)count, n_tokens);
}

static enum hearth_status read_scores(const struct ht_gguf *gguf, size_t n, struct lists *lists,
                                      struct hearth_error *err)
{
    struct ht_gguf_array array;
    enum hearth_status status = ht_gguf_get_array(gguf, "tokenizer.ggml.scores", HT_GGUF_F32, &array, err);
    if (status != HEARTH_OK)
        return ht_gguf_optional(status);
    HT_TRY(same_length(gguf, "tokenizer.ggml.scores", array.count, n, err));
    lists->scores = ht_calloc(n, sizeof *lists->scores);
    if (!lists->scores)
        return no_memory(gguf, err);
    for (size_t i = 0; i < n; i++)
        lists->scores[i] = ht_gguf_array_f32(&array, i);
    return HEARTH_OK;
}

static enum hearth_status read_types(const struct ht_gguf *gguf, size_t n, struct lists *lists,
                                     struct hearth_error *err)
{
    struct ht_gguf_array array;
    enum hearth_status status =
        ht_gguf_get_array(gguf, "tokenizer.ggml.token_type", HT_GGUF_I64, &array, err);
    if (status != HEARTH_OK)
        return ht_gguf_optional(status);
    HT_TRY(same_length(gguf, "tokenizer.ggml.token_type", array.count, n, err));
    lists->types = ht_calloc(n, sizeof *lists->types);
    if (!lists->types)
        return no_memory(gguf, err);
    for (size_t i = 0; i < n; i++) {
        int64_t type = ht_gguf_array_i64(&array, i);
        lists->types[i] = type < 0 || type > 255 ? 255 : (int32_t)type; // 255: refused by the tokenizer
    }
    return HEARTH_OK;
}

static enum hearth_status read_id(const struct ht_gguf *gguf, const char *key, int64_t *id,
                                  struct hearth_error *err)
{
    *id = -1;
    return ht_gguf_optional(ht_gguf_get_i64(gguf, key, id, err));
}

static enum hearth_status read_flag(const struct ht_gguf *gguf, const char *key, enum ht_vocab_flag *flag,
                                    struct hearth_error *err)
{
    bool value = false;
    enum hearth_status status = ht_gguf_get_bool(gguf, key, &value, err);
    *flag = status == HEARTH_NOT_FOUND ? HT_FLAG_ABSENT : value ? HT_FLAG_YES : HT_FLAG_NO;
    return ht_gguf_optional(status);
}

static enum hearth_status read_source(const struct ht_gguf *gguf, struct ht_vocab_source *v,
                                      struct lists *lists, struct hearth_error *err)
{
    HT_TRY(ht_gguf_get_str(gguf, "tokenizer.ggml.model", &v->model, NULL, err));
    HT_TRY(ht_gguf_optional(ht_gguf_get_str(gguf, "tokenizer.ggml.pre", &v->pre, NULL, err)));
    HT_TRY(ht_gguf_optional(ht_gguf_get_str(gguf, "general.architecture", &v->architecture, NULL, err)));
    HT_TRY(read_strings(gguf, "tokenizer.ggml.tokens", &lists->tokens, &v->n_tokens, err));
    HT_TRY(ht_gguf_optional(read_strings(gguf, "tokenizer.ggml.merges", &lists->merges, &v->n_merges, err)));
    HT_TRY(read_scores(gguf, v->n_tokens, lists, err));
    HT_TRY(read_types(gguf, v->n_tokens, lists, err));
    HT_TRY(read_id(gguf, "tokenizer.ggml.bos_token_id", &v->bos_id, err));
    HT_TRY(read_id(gguf, "tokenizer.ggml.eos_token_id", &v->eos_id, err));
    HT_TRY(read_id(gguf, "tokenizer.ggml.eot_token_id", &v->eot_id, err));
    HT_TRY(read_id(gguf, "tokenizer.ggml.eom_token_id", &v->eom_id, err));
    HT_TRY(read_id(gguf, "tokenizer.ggml.unknown_token_id", &v->unk_id, err));
    HT_TRY(read_id(gguf, "tokenizer.ggml.padding_token_id", &v->pad_id, err));
    HT_TRY(read_flag(gguf, "tokenizer.ggml.add_bos_token", &v->add_bos, err));
    HT_TRY(read_flag(gguf, "tokenizer.ggml.add_eos_token", &v->add_eos, err));
    return read_flag(gguf, "tokenizer.ggml.add_space_prefix", &v->add_space_prefix, err);
}

enum hearth_status ht_vocab_load(const struct ht_gguf *gguf, struct ht_tokenizer **tokenizer,
                                 struct hearth_error *err)
{
    struct ht_vocab_source source = {.file = ht_gguf_shown(gguf)};
    struct lists lists = {0};
    *tokenizer = NULL;
    enum hearth_status status = read_source(gguf, &source, &lists, err);
    if (status == HEARTH_NOT_FOUND)
        status = ht_fail(err, HEARTH_FORMAT, "%s has no tokenizer", ht_gguf_shown(gguf));
    source.tokens = lists.tokens;
    source.merges = lists.merges;
    source.scores = lists.scores;
    source.types = lists.types;
    if (status == HEARTH_OK)
        status = ht_tokenizer_create(tokenizer, &source, err);
    ht_free(lists.tokens);
    ht_free(lists.merges);
    ht_free(lists.scores);
    ht_free(lists.types);
    return status;
}

enum hearth_status ht_vocab_chat(const struct ht_gguf *gguf, const char *name,
                                 const struct ht_tokenizer *tokenizer, struct ht_chat *chat,
                                 struct hearth_error *err)
{
    const char *template = NULL;
    size_t len_bytes = 0;
    HT_TRY(ht_gguf_optional(ht_gguf_get_str(gguf, "tokenizer.chat_template", &template, &len_bytes, err)));
    return ht_chat_init(chat, name, template, len_bytes, tokenizer, err);
}
