// SPDX-License-Identifier: Apache-2.0
// A trainer of the tests, and adapters in the fake engine: a step takes fake_step_slices slices of some milliseconds, a
// checkpoint is saved at the border of a step. Stands in for what libhearth has.
#ifndef WIRE_FAKE_TRAINER_H
#define WIRE_FAKE_TRAINER_H
#include "engine/learn.h"
#include "tests/wire/fake_engine.h"

struct hearth_trainer {
    struct hearth_engine *engine;
    struct hearth_train_params params;
    struct hearth_train_info info;
    unsigned slices;
};
static atomic_uint fake_step_slices = 3;
static atomic_uint fake_slice_us = 2000;
static atomic_uint fake_train_bytes = 1 << 20;
static atomic_bool fake_train_nan; // the next step's loss is no number
static atomic_bool fake_opening;   // a beginning that lasts as long as this is true
static atomic_uint fake_loaded;    // adapters in engines
static atomic_uint fake_adapter_bytes; // what the next one takes of an engine
static unsigned fake_taken[4096];      // by id

void hearth_train_default(struct hearth_train_params *params)
{
    params->rank = 8;
    params->n_batch = 4;
}

enum hearth_status hearth_trainer_begin(struct hearth_trainer **trainer, struct hearth_engine *engine,
                                        const struct hearth_train_params *params, struct hearth_error *err)
{
    struct hearth_trainer *t = calloc(1, sizeof *t);
    uint64_t step = 0;
    size_t n = 0;
    *trainer = t;
    if (!t)
        return fake_fail(err, HEARTH_NOMEM, "no memory");
    t->engine = engine;
    t->params = *params;
    t->info.memory_bytes = atomic_load(&fake_train_bytes);
    snprintf(t->info.precision, sizeof t->info.precision, "f32");
    const struct hearth_train_files *files = &params->files;
    if (files->load(files->user, "checkpoint.bin", 0, NULL, 0, &n, err) == HEARTH_OK && n == sizeof step &&
        files->load(files->user, "checkpoint.bin", 0, &step, n, &n, err) == HEARTH_OK)
        t->info.last.step = t->info.saved_step = step;
    fake_note('T', engine->name, t->info.last.step);
    return HEARTH_OK;
}

static enum hearth_status fake_save(struct hearth_trainer *t, struct hearth_error *err)
{
    uint64_t step = t->info.last.step;
    t->info.saving = false;
    t->info.saved_step = step;
    fake_note('k', t->engine->name, step);
    const struct hearth_train_part part = {"checkpoint.bin", sizeof step, 0, &step, sizeof step};
    return t->params.files.save(t->params.files.user, &part, err);
}

enum hearth_status hearth_trainer_run(struct hearth_trainer *t, double budget_ms, struct hearth_error *err)
{
    (void)budget_ms;
    fake_note('t', t->engine->name, t->info.last.step);
    usleep(atomic_load(&fake_slice_us));
    t->info.state = atomic_load(&fake_opening) ? HEARTH_TRAIN_OPENING : HEARTH_TRAIN_READING;
    if (t->info.state == HEARTH_TRAIN_OPENING)
        return HEARTH_OK;
    if (++t->slices < atomic_load(&fake_step_slices))
        return HEARTH_OK;
    t->slices = 0;
    if (atomic_exchange(&fake_train_nan, false))
        return fake_fail(err, HEARTH_NUMERIC, "the loss is no number");
    t->info.last.step++;
    t->info.last.n_steps = t->params.max_steps;
    t->info.last.held_out = __builtin_nan("");
    t->info.last.loss = 1;
    t->params.on_step(t->params.user, &t->info.last);
    t->info.state = t->info.last.step >= t->params.max_steps ? HEARTH_TRAIN_DONE : HEARTH_TRAIN_STEPPING;
    return t->info.saving ? fake_save(t, err) : HEARTH_OK;
}

void hearth_trainer_get_info(const struct hearth_trainer *t, struct hearth_train_info *info)
{
    *info = t->info;
}

void hearth_trainer_checkpoint(struct hearth_trainer *t)
{
    t->info.saving = true;
}

enum hearth_status hearth_trainer_adapter(struct hearth_trainer *t, struct hearth_adapter **adapter,
                                          struct hearth_error *err)
{
    (void)t, (void)err;
    *adapter = NULL;
    return HEARTH_OK;
}

void hearth_trainer_close(struct hearth_trainer **trainer)
{
    if (*trainer)
        fake_note('C', (*trainer)->engine->name, (*trainer)->info.last.step);
    free(*trainer);
    *trainer = NULL;
}

enum hearth_status hearth_engine_adapter_load(struct hearth_engine *engine, const struct hearth_adapter_use *uses,
                                              size_t n_uses, const char *base_sha256, unsigned *id,
                                              struct hearth_error *err)
{
    static atomic_uint last;
    (void)uses, (void)n_uses, (void)base_sha256;
    *id = 0;
    if (atomic_load(&fake_loaded) >= HEARTH_MAX_ADAPTERS)
        return fake_fail(err, HEARTH_LIMIT, "too many");
    atomic_fetch_add(&fake_loaded, 1);
    *id = atomic_fetch_add(&last, 1) + 1;
    fake_taken[*id % 4096] = atomic_load(&fake_adapter_bytes);
    engine->info.adapter_bytes += fake_taken[*id % 4096];
    fake_note('L', engine->name, *id);
    return HEARTH_OK;
}

enum hearth_status hearth_engine_adapter_drop(struct hearth_engine *engine, unsigned id, struct hearth_error *err)
{
    (void)err;
    atomic_fetch_sub(&fake_loaded, 1);
    engine->info.adapter_bytes -= fake_taken[id % 4096];
    fake_note('D', engine->name, id);
    return HEARTH_OK;
}

#endif
