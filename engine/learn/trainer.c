// SPDX-License-Identifier: Apache-2.0
// The trainer's door: checks what it is asked for, takes its memory, hands out pieces. Engine thread.
#include "engine/learn/trainer.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/limits.h"
#include "engine/base/mem.h"
#include "engine/model/session.h"

// Changes with every change of what a run computes that the device's own numerics do not tell.
#define TRAIN_VERSION "train/2"
// Of a checkpoint in one piece; drawn or copied in one: a few milliseconds each.
enum { SAVE_BYTES = 2 << 20, PIECE_VALUES = 1 << 18 };

void hearth_train_default(struct hearth_train_params *params)
{
    hearth_data_set_default(&params->data);
    params->data.held_out = 0.05;
    params->data.n_seq = 512;
    params->targets = "all";
    params->rank = 8;
    params->alpha = 16;
    params->lora_plus = 1;
    params->n_batch = 4;
    params->epochs = 3;
    params->lr = 2e-4;
    params->warmup = 0.03;
    params->beta1 = 0.9;
    params->beta2 = 0.999;
    params->eps = 1e-8;
    params->clip = 1;
}

// ---------------------------------------------------------------- checking

static enum hearth_status check_ranges(const struct hearth_train_params *p, struct hearth_error *err)
{
    static const struct {
        size_t at;
        const char *name;
        double least, most;
    } reals[] = {
        {offsetof(struct hearth_train_params, epochs), "epochs", 0, HT_MAX_TRAIN_EPOCHS},
        {offsetof(struct hearth_train_params, lr), "the learning rate", 0, 1e6},
        {offsetof(struct hearth_train_params, warmup), "the share of warm-up", 0, 1},
        {offsetof(struct hearth_train_params, beta1), "beta1", 0, 0.999999},
        {offsetof(struct hearth_train_params, beta2), "beta2", 0, 0.999999},
        {offsetof(struct hearth_train_params, eps), "epsilon", 1e-20, 1},
        {offsetof(struct hearth_train_params, decay), "the weight decay", 0, 1},
        {offsetof(struct hearth_train_params, clip), "the clip", 0, 1e9},
    };
    for (size_t i = 0; i < sizeof reals / sizeof reals[0]; i++) {
        double value;
        memcpy(&value, (const char *)p + reals[i].at, sizeof value);
        if (!(value >= reals[i].least && value <= reals[i].most))
            return ht_fail(err, HEARTH_INVALID, "%s is %g; %g to %g are allowed", reals[i].name, value, reals[i].least,
                           reals[i].most);
    }
    if (!(p->dropout >= 0 && p->dropout < 1) || !(p->neftune >= 0 && p->neftune < 1e4f) ||
        !(p->lora_plus > 0 && p->lora_plus < 1e4f))
        return ht_fail(err, HEARTH_INVALID, "dropout is in [0, 1), NEFTune's noise in [0, 1e4), "
                       "LoRA+'s ratio above 0");
    if (!p->init && (p->rank < 1 || p->rank > HT_MAX_ADAPTER_RANK || !(p->alpha > 0 && p->alpha < 1e9f)))
        return ht_fail(err, HEARTH_INVALID, "a rank is 1 to %d, alpha above 0", HT_MAX_ADAPTER_RANK);
    if ((unsigned)p->moments > HEARTH_TRAIN_MOMENTS_8BIT)
        return ht_fail(err, HEARTH_INVALID, "moments are kept in f32 or in 8 bits");
    if (!p->epochs && !p->max_steps)
        return ht_fail(err, HEARTH_INVALID, "neither epochs nor steps are asked for");
    return HEARTH_OK;
}

static enum hearth_status check(const struct hearth_engine *engine, const struct hearth_train_params *p,
                                struct hearth_error *err)
{
    HT_TRY(check_ranges(p, err));
    if (engine->vocab_only)
        return ht_fail(err, HEARTH_INVALID, "training needs the model's weights");
    if (!engine->dev->train)
        return ht_fail(err, HEARTH_UNSUPPORTED, "device %s cannot train", engine->dev->name);
    if (!p->base_sha256 || !ht_adapter_hex64(p->base_sha256))
        return ht_fail(err, HEARTH_INVALID, "training needs the model file's SHA-256, 64 lower-case hex digits");
    if (!p->files.folder && !(p->files.save && p->files.load))
        return ht_fail(err, HEARTH_INVALID, "a run needs a folder for its files");
    if (p->n_batch < 1 || p->n_batch > 65536)
        return ht_fail(err, HEARTH_INVALID, "%u sequences per step; 1 to 65536 are allowed", p->n_batch);
    if (!p->data.files || !p->data.n_files || p->data.n_files > HEARTH_DATA_MAX_FILES)
        return ht_fail(err, HEARTH_INVALID, "%zu data files; 1 to %d are allowed", p->data.n_files,
                       HEARTH_DATA_MAX_FILES);
    unsigned n_seq = p->data.n_seq ? p->data.n_seq : p->data.style.n_seq;
    if (n_seq == 1 || n_seq > engine->info.n_ctx_train)
        return ht_fail(err, HEARTH_CONTEXT, "sequences of %u tokens: the model was made for 2 to %u", n_seq,
                       engine->info.n_ctx_train);
    if (p->n_micro_rows && p->n_micro_rows < n_seq)
        return ht_fail(err, HEARTH_INVALID, "a micro-batch of %u rows does not hold a sequence of %u tokens",
                       p->n_micro_rows, n_seq);
    return HEARTH_OK;
}

// ---------------------------------------------------------------- own copies

static bool keep(struct hearth_trainer *t, const char **text)
{
    if (!*text)
        return true;
    size_t len = strlen(*text) + 1;
    char *copy = ht_calloc(len, 1);
    if (!copy)
        return false;
    memcpy(copy, *text, len);
    t->strings[t->n_strings++] = copy;
    *text = copy;
    return true;
}

static enum hearth_status copy_params(struct hearth_trainer *t, const struct hearth_train_params *params,
                                      struct hearth_error *err)
{
    size_t n = params->data.n_files;
    struct hearth_train_params *p = &t->params;
    *p = *params;
    if (!p->data.n_seq)
        p->data.n_seq = p->data.style.n_seq ? p->data.style.n_seq
                        : t->engine->info.n_ctx_train < 512 ? t->engine->info.n_ctx_train
                                                            : 512;
    p->data.engine = t->engine;
    if (!p->name)
        p->name = "";
    t->strings = ht_calloc(4 * n + 4, sizeof *t->strings);
    t->files = ht_calloc(n, sizeof *t->files);
    t->weights = ht_calloc(n, sizeof *t->weights);
    t->counts = ht_calloc(n, sizeof *t->counts);
    t->formats = ht_calloc(n, sizeof *t->formats);
    t->licenses = ht_calloc(n, sizeof *t->licenses);
    bool good = t->strings && t->files && t->weights && t->counts && t->formats && t->licenses;
    good = good && keep(t, &p->base_sha256) && keep(t, &p->name) && keep(t, &p->targets) &&
           keep(t, &p->files.folder);
    for (size_t i = 0; good && i < n; i++) {
        t->files[i] = params->data.files[i];
        t->weights[i] = t->files[i].weight;
        good = keep(t, &t->files[i].path) && keep(t, &t->files[i].license) && keep(t, &t->files[i].lang) &&
               keep(t, &t->files[i].name);
        if (good && !t->files[i].path)
            return ht_fail(err, HEARTH_INVALID, "a data file without a path");
    }
    p->data.files = t->files;
    return good ? HEARTH_OK : ht_fail(err, HEARTH_NOMEM, "out of memory for %zu data files", n);
}

// ---------------------------------------------------------------- opening

static enum ht_train_precision choose_precision(struct hearth_trainer *t)
{
    static const struct {
        enum ht_train_precision precision;
        const char *name;
    } known[] = {{HT_TRAIN_B_AMX, "bf16/amx"}, {HT_TRAIN_B_AVX512BF16, "bf16/avx512"}, {HT_TRAIN_F, "f32"}};
    size_t i = t->params.precision == HEARTH_TRAIN_F32 ? 2 : 0;
    while (i < 2 && !t->engine->dev->train->supports(t->engine->device, known[i].precision))
        i++;
    snprintf(t->info.precision, sizeof t->info.precision, "%s", known[i].name);
    struct ht_caps caps;
    struct ht_hash hash;
    unsigned char sum[HT_HASH_BYTES];
    t->engine->dev->caps(t->engine->device, &caps);
    ht_hash_init(&hash);
    const char *const parts[] = {TRAIN_VERSION, t->engine->dev->name, caps.numerics, known[i].name, "moments/8bit"};
    for (size_t k = 0; k < (t->params.moments == HEARTH_TRAIN_MOMENTS_8BIT ? 5 : 4); k++)
        ht_hash_add(&hash, parts[k], strlen(parts[k]) + 1);
    ht_hash_end(&hash, sum);
    for (size_t k = 0; k < HT_HASH_BYTES; k++)
        snprintf(t->info.numerics_id + 2 * k, 3, "%02x", sum[k]);
    return known[i].precision;
}

static enum hearth_status make_graph(struct hearth_trainer *t, struct hearth_error *err)
{
    const struct hearth_train_params *p = &t->params;
    const struct ht_graph_params params = {.rows = t->n_micro * p->data.n_seq,
                                           .checkpointing = p->checkpointing,
                                           .precision = choose_precision(t),
                                           .dropout = p->dropout,
                                           .neftune = p->neftune,
                                           .lora_plus = p->lora_plus,
                                           .beta1 = (float)p->beta1,
                                           .beta2 = (float)p->beta2,
                                           .eps = (float)p->eps,
                                           .decay = (float)p->decay,
                                           .moments = (enum ht_graph_moments)p->moments,
                                           .clip = (float)p->clip};
    uint64_t have = hearth_memory_free();
    HT_TRY(ht_graph_make(&t->graph, &t->engine->model, t->adapter, &params, err));
    t->info.memory_bytes = ht_graph_bytes(t->graph) + t->adapter->n_values * sizeof(float) * (p->patience ? 2 : 1);
    if (have && t->info.memory_bytes > have)
        return ht_fail(err, HEARTH_NOMEM, "training takes %llu MiB, %llu MiB are free; shorter sequences%s take less",
                       (unsigned long long)(t->info.memory_bytes >> 20), (unsigned long long)(have >> 20),
                       p->checkpointing ? "" : " or checkpointing");
    return HEARTH_OK;
}

static enum hearth_status prepare(struct hearth_trainer *t, const struct hearth_train_params *params,
                                  struct hearth_error *err)
{
    HT_TRY(copy_params(t, params, err));
    const struct hearth_train_params *p = &t->params;
    uint32_t n_seq = p->data.n_seq, together = p->n_micro_rows ? p->n_micro_rows / n_seq : 1;
    t->n_micro = together < p->n_batch ? together : p->n_batch;
    HT_TRY(ht_train_store_init(&t->store, p->data.n_files, err));
    t->order = (struct ht_train_order){.store = &t->store, .weights = t->weights, .seed = p->seed,
                                       .data_seed = p->data.seed, .data_epoch = p->data.epoch, .n_seq = n_seq};
    HT_TRY(ht_train_batch_init(&t->batch, p->n_batch, n_seq, err));
    HT_TRY(ht_train_adapter(t, err));
    t->info.n_params = t->adapter->n_values;
    if (p->patience) {
        t->best_values = ht_alloc_big(t->adapter->n_values * sizeof *t->best_values);
        if (!t->best_values)
            return ht_fail(err, HEARTH_NOMEM, "out of memory for the best adapter so far");
    }
    return make_graph(t, err);
}

enum hearth_status hearth_trainer_begin(struct hearth_trainer **trainer, struct hearth_engine *engine,
                                        const struct hearth_train_params *params, struct hearth_error *err)
{
    *trainer = NULL;
    HT_TRY(check(engine, params, err));
    struct hearth_trainer *t = ht_calloc(1, sizeof *t);
    if (!t)
        return ht_fail(err, HEARTH_NOMEM, "out of memory for a trainer");
    t->engine = engine;
    t->save_bytes = SAVE_BYTES;
    t->piece_values = PIECE_VALUES;
    t->best = INFINITY;
    t->last_loss = t->last_held_out = t->first_held_out = NAN;
    t->info.last.held_out = t->info.last.loss = NAN;
    enum hearth_status status = prepare(t, params, err);
    if (status == HEARTH_OK)
        *trainer = t;
    else
        hearth_trainer_close(&t);
    return status;
}

enum hearth_status hearth_trainer_open(struct hearth_trainer **trainer, struct hearth_engine *engine,
                                       const struct hearth_train_params *params, struct hearth_error *err)
{
    enum hearth_status status = hearth_trainer_begin(trainer, engine, params, err);
    while (status == HEARTH_OK && (*trainer)->phase == HT_TRAIN_OPEN)
        status = ht_train_piece(*trainer, err);
    if (status != HEARTH_OK)
        hearth_trainer_close(trainer);
    return status;
}

void hearth_trainer_close(struct hearth_trainer **trainer)
{
    struct hearth_trainer *t = *trainer;
    *trainer = NULL;
    if (!t)
        return;
    ht_train_save_drop(t);
    ht_train_load_drop(t);
    hearth_data_set_close(&t->set);
    ht_graph_destroy(&t->graph);
    ht_free_big(t->best_values, t->info.n_params * sizeof *t->best_values);
    hearth_adapter_close(&t->adapter);
    ht_train_store_free(&t->store);
    ht_train_window_free(&t->window);
    ht_train_batch_free(&t->batch);
    json_decref(t->identity);
    for (size_t i = 0; i < t->n_strings; i++)
        ht_free(t->strings[i]);
    ht_free(t->strings);
    ht_free(t->files);
    ht_free(t->weights);
    ht_free(t->counts);
    ht_free(t->formats);
    ht_free(t->licenses);
    ht_free(t->rows_of_epoch);
    ht_free(t);
}

// ---------------------------------------------------------------- working

enum hearth_status hearth_trainer_run(struct hearth_trainer *trainer, double budget_ms, struct hearth_error *err)
{
    struct hearth_trainer *t = trainer;
    if (t->failed)
        return ht_fail(err, t->failed, "%s", t->error.text);
    t->entered_s = ht_now_s();
    double until = t->entered_s + budget_ms / 1000;
    if (t->phase <= HT_TRAIN_COUNT)
        t->info.saving = false; // there is nothing new to save yet
    do {
        t->failed = ht_train_piece(t, &t->error);
    } while (!t->failed && t->phase != HT_TRAIN_ENDED && ht_now_s() < until);
    t->busy_s += ht_now_s() - t->entered_s;
    return t->failed ? ht_fail(err, t->failed, "%s", t->error.text) : HEARTH_OK;
}

void hearth_trainer_get_info(const struct hearth_trainer *trainer, struct hearth_train_info *info)
{
    const struct hearth_trainer *t = trainer;
    *info = t->info;
    info->stopped_early = t->stopped_early;
    if (t->phase == HT_TRAIN_READ) {
        info->n_train = t->store.n_samples - t->store.n_held_out;
        info->n_held_out = t->store.n_held_out;
    }
    if (t->phase == HT_TRAIN_EVAL && t->n_eval_windows) {
        double row = t->window.n_rows ? (double)t->eval_row / (double)t->window.n_rows : 0;
        info->evaluated = ((double)t->eval_window + row) / t->n_eval_windows;
    }
    info->state = trainer->phase == HT_TRAIN_OPEN    ? HEARTH_TRAIN_OPENING
                  : trainer->phase <= HT_TRAIN_COUNT ? HEARTH_TRAIN_READING
                  : trainer->phase == HT_TRAIN_EVAL  ? HEARTH_TRAIN_EVALUATING
                  : trainer->phase == HT_TRAIN_ENDED ? HEARTH_TRAIN_DONE
                                                     : HEARTH_TRAIN_STEPPING;
}

void hearth_trainer_checkpoint(struct hearth_trainer *trainer)
{
    trainer->info.saving = trainer->phase != HT_TRAIN_ENDED;
}

enum hearth_status hearth_trainer_adapter(struct hearth_trainer *trainer, struct hearth_adapter **adapter,
                                          struct hearth_error *err)
{
    enum ht_train_phase phase = trainer->phase;
    *adapter = NULL;
    if (phase == HT_TRAIN_ENDED) { // its values are there
        *adapter = trainer->adapter;
        trainer->adapter = NULL;
        return *adapter ? HEARTH_OK : ht_fail(err, HEARTH_INVALID, "the adapter was given away before");
    }
    if (phase != HT_TRAIN_READ && phase != HT_TRAIN_COUNT && phase != HT_TRAIN_BORDER && phase != HT_TRAIN_SAVE)
        return ht_fail(err, HEARTH_BUSY, "a step, the beginning or the end is under way: ask between steps");
    HT_TRY(ht_train_values(trainer, err));
    return ht_train_adapter_copy(adapter, trainer->adapter, err);
}
