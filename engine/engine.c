// SPDX-License-Identifier: Apache-2.0
// The public API: opens and closes engines, checks arguments once, calls inward. Knows no back end.
// Engine thread, unless engine.h says otherwise.
#include "engine/engine.h"

#include <stdio.h>
#include <string.h>

#include "engine/base/json_read.h"
#include "engine/base/mem.h"
#include "engine/model/prompt.h"
#include "engine/model/session.h"
#include "engine/model/vocab.h"

// Changes with every change of a kernel's bits; part of the numerics id.
#define NUMERICS_VERSION "1"

const char *hearth_version(void)
{
    return HEARTH_VERSION;
}

void hearth_json_watch(void)
{
    ht_json_watch();
}

// ---- what is told about a file

// general.file_type as the converters number it.
static const char *file_type_name(uint32_t number)
{
    static const char *const names[] = {
        [0] = "F32",     [1] = "F16",     [2] = "Q4_0",    [3] = "Q4_1",    [7] = "Q8_0",    [8] = "Q5_0",
        [9] = "Q5_1",    [10] = "Q2_K",   [11] = "Q3_K_S", [12] = "Q3_K_M", [13] = "Q3_K_L", [14] = "Q4_K_S",
        [15] = "Q4_K_M", [16] = "Q5_K_S", [17] = "Q5_K_M", [18] = "Q6_K",   [25] = "IQ4_NL", [32] = "BF16",
    };
    return number < sizeof names / sizeof names[0] && names[number] ? names[number] : "mixed";
}

static void base_name(const char *path, char *out, size_t capacity)
{
    const char *slash = strrchr(path, '/');
    snprintf(out, capacity, "%s", slash ? slash + 1 : path);
}

static enum hearth_status describe_file(const struct ht_gguf *gguf, struct hearth_engine_info *info,
                                        struct hearth_error *err)
{
    const char *name = NULL, *arch = "";
    uint32_t file_type = UINT32_MAX;
    HT_TRY(ht_gguf_optional(ht_gguf_get_str(gguf, "general.name", &name, NULL, err)));
    HT_TRY(ht_gguf_optional(ht_gguf_get_str(gguf, "general.architecture", &arch, NULL, err)));
    HT_TRY(ht_gguf_optional(ht_gguf_get_u32(gguf, "general.file_type", &file_type, err)));
    if (name && *name)
        snprintf(info->name, sizeof info->name, "%.*s", (int)sizeof info->name - 1, name);
    else
        base_name(ht_gguf_path(gguf), info->name, sizeof info->name);
    snprintf(info->architecture, sizeof info->architecture, "%.*s", (int)sizeof info->architecture - 1, arch);
    snprintf(info->file_type, sizeof info->file_type, "%s", file_type_name(file_type));
    info->file_bytes = ht_gguf_file_bytes(gguf);
    return HEARTH_OK;
}

// 128 bits of FNV-1a over the text, as hex: names a choice of arithmetic, protects nothing.
static void hash_hex(const char *text, char out[33])
{
    uint64_t a = 0xCBF29CE484222325u, b = 0x84222325CBF29CE4u;
    for (; *text; text++) {
        a = (a ^ (unsigned char)*text) * 0x100000001B3u;
        b = (b ^ (unsigned char)*text) * 0x100000001B3u ^ a >> 29;
    }
    snprintf(out, 33, "%016llx%016llx", (unsigned long long)a, (unsigned long long)b);
}

// Device, inode, size and time of change of every part, from the n-th of these on.
static void identify(const struct ht_gguf *gguf, unsigned n, unsigned char identity[HT_HASH_BYTES])
{
    struct ht_hash hash;
    ht_hash_init(&hash);
    for (unsigned i = 0; i < ht_gguf_n_parts(gguf); i++) {
        const char *text = ht_gguf_identity(gguf, i);
        for (unsigned k = 0; k < n && strchr(text, '-'); k++)
            text = strchr(text, '-') + 1;
        ht_hash_add(&hash, text, strlen(text) + 1);
    }
    ht_hash_end(&hash, identity);
}

static void describe_packed(struct hearth_engine *e, const struct ht_gguf *gguf)
{
    struct ht_caps caps;
    char text[256];
    e->dev->caps(e->device, &caps);
    snprintf(text, sizeof text, "%s|%s|%s|%s", NUMERICS_VERSION, e->dev->name, caps.numerics, e->dev->packed_form);
    hash_hex(text, e->packed.form);
    identify(gguf, 2, e->packed.files); // a copy elsewhere, or a disk of another number, is the same model
}

static void describe_engine(struct hearth_engine *e, const struct ht_caps *caps, enum ht_kv_type kv,
                            bool exact)
{
    static const char *const kv_names[] = {"", "f32", "f16", "q8"};
    struct hearth_engine_info *info = &e->info;
    const struct ht_hparams *hp = &e->model.hp;
    char text[192];
    snprintf(info->device, sizeof info->device, "%s", caps->name);
    snprintf(text, sizeof text, "%s|%s|%s|%s|%s", NUMERICS_VERSION, e->dev->name, caps->numerics,
             exact ? "F" : "Q", kv_names[kv]);
    hash_hex(text, info->numerics_id);
    info->n_layers = hp->n_layers;
    info->n_embd = hp->n_embd;
    info->n_heads = hp->n_heads;
    info->n_kv_heads = hp->n_kv_heads;
    info->n_vocab = hp->n_vocab;
    info->n_ctx_train = hp->n_ctx_train;
    info->n_ctx = e->ctx.params.n_ctx;
    info->n_params = e->model.n_params;
    info->weight_bytes = e->model.weight_bytes;
    info->kv_bytes = e->ctx.kv_bytes;
    info->scratch_bytes = e->ctx.scratch_bytes;
}

// ---- opening

struct plan { // what the parameters come to
    enum ht_kv_type kv;
    uint32_t n_ctx, seqs;
};

static enum hearth_status check_params(const struct hearth_engine_params *p, struct plan *plan,
                                       struct hearth_error *err)
{
    if (!p->model_path || !*p->model_path)
        return ht_fail(err, HEARTH_INVALID, "no model file was named");
    if (p->max_sessions > HT_MAX_SESSIONS)
        return ht_fail(err, HEARTH_LIMIT, "%u sessions are more than %d", p->max_sessions, HT_MAX_SESSIONS);
    if (p->n_ctx > HT_MAX_CTX)
        return ht_fail(err, HEARTH_LIMIT, "a context of %u positions is more than %d", p->n_ctx, HT_MAX_CTX);
    if (p->n_threads > HT_MAX_THREADS)
        return ht_fail(err, HEARTH_LIMIT, "%u threads are more than %d", p->n_threads, HT_MAX_THREADS);
    if ((unsigned)p->kv > HEARTH_KV_Q8)
        return ht_fail(err, HEARTH_INVALID, "KV type %d is unknown", (int)p->kv);
    if (p->packed_dir && !ht_packed_sha256_valid(p->base_sha256))
        return ht_fail(err, HEARTH_INVALID, "packed weights want the SHA-256 of their base");
    plan->kv = p->kv == HEARTH_KV_DEFAULT ? (p->exact ? HT_KV_F32 : HT_KV_F16) : (enum ht_kv_type)p->kv;
    plan->seqs = p->max_sessions ? p->max_sessions : 1;
    plan->n_ctx = p->n_ctx;
    return HEARTH_OK;
}

static enum hearth_status open_device(const struct hearth_engine_params *p, const struct ht_device_ops **dev,
                                      struct ht_device **device, struct hearth_error *err)
{
    unsigned index;
    HT_TRY(ht_backend_find(p->device, dev, &index, err));
    const struct ht_device_params params = {
        .index = index,
        .n_threads = p->n_threads,
        .precision = p->exact ? HT_PRECISION_F : HT_PRECISION_Q,
        .isa = p->cpu_isa,
    };
    return (*dev)->open(device, &params, err);
}

// Bytes of KV for one position, all layers.
static double kv_bytes_per_position(const struct ht_hparams *hp, const struct ht_device_ops *dev,
                                    const struct ht_device *device, enum ht_kv_type kv)
{
    struct ht_kv_params params;
    ht_context_kv_params(hp, 1, kv, &params);
    return (double)dev->kv_page_size(device, &params) / HT_KV_PAGE;
}

static uint32_t rows_of(const struct ht_caps *caps)
{
    return caps->row_buckets[caps->n_row_buckets - 1];
}

// Positions that fit into what is free beside weights and activations, an eighth of it left to others.
static uint32_t context_that_fits(const struct ht_hparams *hp, const struct ht_caps *caps,
                                  uint64_t other_bytes, double per_position)
{
    double room = (double)caps->free_bytes * 7 / 8 - (double)other_bytes;
    double n = room > 0 ? room / per_position : 0;
    n = n < hp->n_ctx_train ? n : hp->n_ctx_train;
    return (uint32_t)n / HT_KV_PAGE * HT_KV_PAGE;
}

// Memory that is free, and what is taken of it before positions: asked before any of it is used.
struct room {
    uint64_t free_bytes, weight_bytes, scratch_bytes;
    double per_position;
    uint32_t n_ctx_fit;
};

static void measure_room(const struct ht_model *m, const struct plan *plan, uint64_t scratch_bytes, struct room *room)
{
    struct ht_caps caps;
    m->dev->caps(m->device, &caps);
    uint64_t work = ht_context_work_size(&m->hp, rows_of(&caps), plan->seqs > 16 ? plan->seqs : 16);
    room->free_bytes = caps.free_bytes;
    room->weight_bytes = m->weight_bytes;
    room->per_position = kv_bytes_per_position(&m->hp, m->dev, m->device, plan->kv);
    room->scratch_bytes = scratch_bytes ? scratch_bytes : work;
    room->scratch_bytes += (uint64_t)(room->per_position * HT_KV_PAGE * (plan->seqs - 1)); // last pages, partly empty
    room->n_ctx_fit =
        context_that_fits(&m->hp, &caps, room->weight_bytes + room->scratch_bytes, room->per_position);
}

// Refuses what cannot fit, with the figures. Free memory that is not known (0) refuses nothing.
static enum hearth_status check_room(const char *name, const struct room *room, uint32_t n_ctx,
                                     struct hearth_error *err)
{
    const double mib = 1048576, kv_bytes = room->per_position * n_ctx;
    double need = (double)room->weight_bytes + (double)room->scratch_bytes + kv_bytes;
    if (!room->free_bytes || need <= (double)room->free_bytes)
        return HEARTH_OK;
    char fits[64] = "not even the weights fit";
    if (room->n_ctx_fit)
        snprintf(fits, sizeof fits, "%u positions would fit", room->n_ctx_fit);
    return ht_fail(err, HEARTH_NOMEM,
                   "%.60s needs %.0f MiB (weights %.0f, %u positions %.0f, scratch %.0f), %.0f MiB are free: %s", name,
                   need / mib, (double)room->weight_bytes / mib, n_ctx, kv_bytes / mib,
                   (double)room->scratch_bytes / mib, (double)room->free_bytes / mib, fits);
}

static enum hearth_status choose_context(const struct ht_model *m, const char *name, struct plan *plan,
                                         struct hearth_error *err)
{
    struct room room;
    measure_room(m, plan, 0, &room);
    if (!plan->n_ctx)
        plan->n_ctx = room.n_ctx_fit || m->hp.n_ctx_train >= HT_KV_PAGE ? room.n_ctx_fit : m->hp.n_ctx_train;
    HT_TRY(check_room(name, &room, plan->n_ctx ? plan->n_ctx : HT_KV_PAGE, err));
    if (plan->n_ctx)
        return HEARTH_OK;
    return ht_fail(err, HEARTH_NOMEM, "%s: no memory is left for the KV cache: %.0f MiB are free", name,
                   (double)room.free_bytes / 1048576);
}

// The model and its context, not read yet: memory is promised, not used.
static enum hearth_status make_room(const struct ht_hparams *hp, struct ht_gguf *gguf, const struct ht_device_ops *dev,
                                    struct ht_device *device, const char *name, struct plan *plan,
                                    struct ht_model *model, struct ht_context *ctx, struct room *room,
                                    struct hearth_error *err)
{
    HT_TRY(ht_model_create(model, hp, gguf, dev, device, err));
    HT_TRY(ht_decoder_check_ops(model, err));
    HT_TRY(choose_context(model, name, plan, err));
    const struct ht_context_params params = {.n_ctx = plan->n_ctx, .seqs = plan->seqs, .kv = plan->kv};
    HT_TRY(ht_context_create(ctx, model, &params, err));
    measure_room(model, plan, ctx->scratch_bytes, room);
    return HEARTH_OK;
}

static enum hearth_status make_sessions(struct hearth_engine *e, const struct plan *plan,
                                        struct hearth_error *err)
{
    uint32_t limit = e->model.hp.n_ctx_train;
    e->session_limit = plan->n_ctx < limit ? plan->n_ctx : limit;
    e->max_sessions = plan->seqs;
    e->sessions = ht_calloc(plan->seqs, sizeof *e->sessions);
    e->prompt = ht_calloc(e->session_limit, sizeof *e->prompt);
    e->drawn = ht_calloc(e->ctx.max_outs, sizeof *e->drawn);
    e->found = ht_calloc(e->ctx.pages.n_pages, sizeof *e->found);
    if (!e->sessions || !e->prompt || !e->drawn || !e->found)
        return ht_fail(err, HEARTH_NOMEM, "out of memory for %u sessions", plan->seqs);
    return ht_fair_init(&e->fair, plan->seqs, err);
}

static void note_packed(struct hearth_engine *e, enum hearth_packed what, const struct hearth_error *error)
{
    e->info.packed = what;
    snprintf(e->info.packed_problem, sizeof e->info.packed_problem, "%s",
             what == HEARTH_PACKED_REFUSED ? error->text : "");
}

// The weights, from the file of packed ones where there is one that is good.
static enum hearth_status read_weights(struct hearth_engine *e, const struct hearth_engine_params *p,
                                       struct ht_gguf *gguf, struct hearth_error *err)
{
    struct ht_packed *packed = NULL;
    struct hearth_error why = {.code = HEARTH_OK};
    if (e->dev->packed_form)
        describe_packed(e, gguf);
    if (e->dev->packed_form && p->packed_dir) {
        memcpy(e->packed.base_sha256, p->base_sha256, HT_SHA256_HEX);
        enum hearth_status found = ht_packed_open(&packed, p->packed_dir, &e->packed, &e->model, &why);
        note_packed(e, found == HEARTH_NOT_FOUND ? HEARTH_PACKED_ABSENT : HEARTH_PACKED_REFUSED, &why);
    }
    why = (struct hearth_error){.code = HEARTH_OK};
    enum hearth_status status = ht_model_read(&e->model, gguf, packed, &why, p->progress, p->progress_user, err);
    if (packed)
        note_packed(e, why.code == HEARTH_OK ? HEARTH_PACKED_READ : HEARTH_PACKED_REFUSED, &why);
    ht_packed_close(&packed);
    HT_TRY(status);
    e->unchanged = ht_gguf_check_unchanged(gguf, NULL) == HEARTH_OK;
    return HEARTH_OK;
}

static enum hearth_status open_model(struct hearth_engine *e, const struct hearth_engine_params *p,
                                     struct ht_gguf *gguf, struct plan *plan, struct hearth_error *err)
{
    struct ht_hparams hp;
    HT_TRY(ht_hparams_read(&hp, gguf, err));
    if (ht_tokenizer_n_tokens(e->tokenizer) > hp.n_vocab)
        return ht_fail(err, HEARTH_FORMAT, "%s: %zu tokens, but token_embd.weight has %u rows",
                       ht_gguf_shown(gguf), ht_tokenizer_n_tokens(e->tokenizer), hp.n_vocab);
    HT_TRY(open_device(p, &e->dev, &e->device, err));
    struct room room;
    HT_TRY(make_room(&hp, gguf, e->dev, e->device, e->info.name, plan, &e->model, &e->ctx, &room, err));
    HT_TRY(check_room(e->info.name, &room, plan->n_ctx, err));
    HT_TRY(read_weights(e, p, gguf, err));
    HT_TRY(make_sessions(e, plan, err));
    struct ht_caps caps;
    e->dev->caps(e->device, &caps);
    describe_engine(e, &caps, plan->kv, p->exact);
    identify(gguf, 0, e->identity);
    return HEARTH_OK;
}

static enum hearth_status open_file(struct hearth_engine *e, const struct hearth_engine_params *p,
                                    struct ht_gguf *gguf, struct plan *plan, struct hearth_error *err)
{
    HT_TRY(describe_file(gguf, &e->info, err));
    HT_TRY(ht_vocab_load(gguf, &e->tokenizer, err));
    HT_TRY(ht_vocab_chat(gguf, p->chat_template, e->tokenizer, &e->chat, err));
    snprintf(e->info.chat_template, sizeof e->info.chat_template, "%s", ht_chat_name(&e->chat));
    snprintf(e->info.tool_format, sizeof e->info.tool_format, "%s", ht_chat_tool_format(&e->chat));
    e->info.late_system = e->chat.late_system;
    e->info.n_vocab = (unsigned)ht_tokenizer_n_tokens(e->tokenizer);
    if (!p->vocab_only)
        return open_model(e, p, gguf, plan, err);
    e->vocab_only = true;
    struct ht_hparams hp;
    HT_TRY(ht_hparams_read(&hp, gguf, err));
    e->info.n_ctx_train = hp.n_ctx_train;
    return HEARTH_OK;
}

enum hearth_status hearth_engine_open(struct hearth_engine **engine,
                                      const struct hearth_engine_params *params, struct hearth_error *err)
{
    *engine = NULL;
    struct plan plan = {0};
    struct ht_gguf *gguf = NULL;
    HT_TRY(check_params(params, &plan, err));
    HT_TRY(ht_gguf_open(&gguf, params->model_path, err));
    struct hearth_engine *e = ht_calloc(1, sizeof *e);
    enum hearth_status status = e ? open_file(e, params, gguf, &plan, err)
                                  : ht_fail(err, HEARTH_NOMEM, "out of memory for an engine");
    ht_gguf_close(&gguf);
    ht_mem_trim();
    *engine = e;
    if (status != HEARTH_OK)
        hearth_engine_close(engine);
    return status;
}

void hearth_engine_close(struct hearth_engine **engine)
{
    struct hearth_engine *e = *engine;
    *engine = NULL;
    if (!e)
        return;
    for (uint32_t i = 0; e->sessions && i < e->max_sessions; i++) {
        struct hearth_session *s = e->sessions[i];
        hearth_session_destroy(&s);
    }
    ht_context_destroy(&e->ctx);
    ht_model_unload(&e->model);
    if (e->dev)
        e->dev->close(&e->device);
    ht_trie_destroy(&e->trie);
    ht_tokenizer_destroy(&e->tokenizer);
    ht_free(e->sessions);
    ht_free(e->prompt);
    ht_free(e->drawn);
    ht_free(e->found);
    ht_fair_deinit(&e->fair);
    ht_free(e);
}

void hearth_engine_get_info(const struct hearth_engine *engine, struct hearth_engine_info *info)
{
    const struct ht_pages *pages = &engine->ctx.pages;
    *info = engine->info;
    info->n_pages = pages->n_pages;
    info->n_pages_used = pages->n_pages - pages->n_free - pages->n_idle;
    info->n_pages_cached = pages->n_idle;
}

// A context that is not larger than what most models are trained for stands for all: scratch hardly grows with it.
static enum hearth_status measure_fit(struct plan *plan, struct ht_gguf *gguf, const struct ht_device_ops *dev,
                                      struct ht_device *device, struct hearth_fit *fit, struct hearth_error *err)
{
    enum { N_CTX = 2048 };
    struct ht_hparams hp;
    struct ht_model model = {0};
    struct ht_context ctx = {0};
    struct room room;
    HT_TRY(ht_hparams_read(&hp, gguf, err));
    enum hearth_status status = HEARTH_OK;
    HT_TRY_TO(out, ht_model_create(&model, &hp, gguf, dev, device, err));
    HT_TRY_TO(out, ht_decoder_check_ops(&model, err));
    const struct ht_context_params params = {
        .n_ctx = plan->n_ctx ? plan->n_ctx : N_CTX, .seqs = plan->seqs, .kv = plan->kv};
    HT_TRY_TO(out, ht_context_create(&ctx, &model, &params, err));
    measure_room(&model, plan, ctx.scratch_bytes, &room);
    fit->weight_bytes = room.weight_bytes;
    fit->kv_bytes_per_position = (uint64_t)room.per_position;
    fit->scratch_bytes = room.scratch_bytes;
    fit->available_bytes = room.free_bytes;
    fit->n_ctx_train = hp.n_ctx_train;
    fit->n_ctx_fit = room.n_ctx_fit;
out:
    ht_context_destroy(&ctx);
    ht_model_unload(&model);
    return status;
}

enum hearth_status hearth_engine_fit(const struct hearth_engine_params *params, struct hearth_fit *fit,
                                     struct hearth_error *err)
{
    *fit = (struct hearth_fit){0};
    struct plan plan = {0};
    struct ht_gguf *gguf = NULL;
    const struct ht_device_ops *dev = NULL;
    struct ht_device *device = NULL;
    HT_TRY(check_params(params, &plan, err));
    HT_TRY(ht_gguf_open(&gguf, params->model_path, err));
    enum hearth_status status = open_device(params, &dev, &device, err);
    if (status == HEARTH_OK) {
        status = measure_fit(&plan, gguf, dev, device, fit, err);
        dev->close(&device);
    }
    ht_gguf_close(&gguf);
    return status;
}

// ---- text

enum hearth_status hearth_tokenize(const struct hearth_engine *engine, const char *text, size_t len_bytes,
                                   unsigned flags, int32_t *ids, size_t capacity, size_t *n_ids,
                                   struct hearth_error *err)
{
    return ht_prompt_from_text(engine, text, len_bytes, flags, ids, capacity, n_ids, err);
}

enum hearth_status hearth_detokenize(const struct hearth_engine *engine, const int32_t *ids, size_t n_ids,
                                     bool special, char *text, size_t capacity, size_t *len_bytes,
                                     struct hearth_error *err)
{
    return ht_tokenizer_decode(engine->tokenizer, ids, n_ids, special, text, capacity, len_bytes, err);
}

enum hearth_status hearth_chat_tokenize(const struct hearth_engine *engine,
                                        const struct hearth_message *messages, size_t n_messages,
                                        int32_t *ids, size_t capacity, size_t *n_ids,
                                        struct hearth_error *err)
{
    size_t n_shared_ids;
    return ht_prompt_from_messages(engine, messages, n_messages, 0, ids, capacity, n_ids, &n_shared_ids, err);
}

const char *const *hearth_chat_template_names(void)
{
    return ht_chat_names();
}
