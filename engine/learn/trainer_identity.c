// SPDX-License-Identifier: Apache-2.0
// What a run is, as one JSON object: it stands in the checkpoint and must be the same to go on, and in the manifest.
// Engine thread.
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/json_read.h"
#include "engine/base/mem.h"
#include "engine/learn/trainer.h"
#include "engine/model/session.h"

static json_t *number(double value) // JSON has no NaN
{
    return isfinite(value) ? json_real(value) : json_null();
}

static void hex_of(const unsigned char *bytes, size_t n, char *text)
{
    for (size_t i = 0; i < n; i++)
        snprintf(text + 2 * i, 3, "%02x", bytes[i]);
}

static json_t *describe_data(const struct hearth_data_set_params *d)
{
    static const char *const masks[] = {"assistant", "all", "last", "lead"};
    static const char *const longs[] = {"split", "cut the end", "cut the beginning", "leave out"};
    json_t *files = json_array();
    for (size_t i = 0; i < d->n_files; i++)
        json_array_append_new(files, json_pack("{s:s, s:s, s:f}", "file", ht_data_file_name(&d->files[i]), "format",
                                               hearth_data_format_name(d->files[i].format), "weight",
                                               d->files[i].weight));
    return json_pack("{s:o, s:s, s:s, s:I, s:f, s:f, s:b, s:b, s:I, s:I}", "files", files, "mask", masks[d->style.mask],
                     "too long", longs[d->style.too_long], "sequence", (json_int_t)d->n_seq, "held out", d->held_out,
                     "near", d->near, "keep duplicates", (int)d->keep_duplicates, "keep foreign names",
                     (int)d->keep_foreign_names, "seed", (json_int_t)d->seed, "epoch", (json_int_t)d->epoch);
}

static json_t *describe_init(const unsigned char *sum)
{
    char text[2 * HT_HASH_BYTES + 1];
    if (!sum)
        return json_string("new");
    hex_of(sum, HT_HASH_BYTES, text);
    return json_string(text);
}

static json_t *describe_targets(const struct hearth_adapter *a)
{
    json_t *list = json_array();
    for (uint32_t linear = 0; linear < HT_ADAPTER_LINEARS; linear++)
        for (size_t i = 0; i < a->n_targets; i++)
            if (a->targets[i].linear == linear) {
                json_array_append_new(list, json_string(ht_adapter_linear_gguf(linear)));
                break;
            }
    return list;
}

enum hearth_status ht_train_identity(struct hearth_trainer *t, const unsigned char init[HT_HASH_BYTES],
                                     struct hearth_error *err)
{
    static const char *const schedules[] = {"cosine", "linear", "constant"}, *const moments[] = {"f32", "8bit"};
    const struct hearth_train_params *p = &t->params;
    const struct ht_adapter_target *first = &t->adapter->targets[0];
    errno = 0; // see json_read.h
    json_t *run = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:o, s:I, s:f, s:b, s:b, s:o, s:f, s:f, s:f}", "base",
                            p->base_sha256, "moments", moments[p->moments], "precision", t->info.precision,
                            "numerics", t->info.numerics_id, "architecture", t->adapter->architecture,
                            "template", t->engine->info.chat_template, "targets", describe_targets(t->adapter), "rank",
                            (json_int_t)first->rank, "alpha", (double)first->alpha, "rslora", (int)t->adapter->rslora,
                            "gaussian", (int)p->gaussian, "init", describe_init(init), "dropout",
                            (double)p->dropout, "lora plus", (double)p->lora_plus, "neftune", (double)p->neftune);
    json_t *how = json_pack("{s:s, s:I, s:I, s:f, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:I, s:I, s:I}", "schedule",
                            schedules[p->schedule], "batch", (json_int_t)p->n_batch, "micro rows",
                            (json_int_t)p->n_micro_rows, "epochs", p->epochs, "steps", (json_int_t)p->max_steps, "lr",
                            p->lr, "warmup", p->warmup, "beta1", p->beta1, "beta2", p->beta2, "eps", p->eps, "decay",
                            p->decay, "clip", p->clip, "evaluate every", (json_int_t)p->eval_every, "patience",
                            (json_int_t)p->patience, "seed", (json_int_t)p->seed);
    json_t *data = describe_data(&p->data);
    bool good = run && how && data && !json_object_update(run, how) && !json_object_set(run, "data", data) &&
                errno != ENOMEM;
    json_decref(how);
    json_decref(data);
    if (!good) {
        json_decref(run);
        return ht_fail(err, HEARTH_NOMEM, "out of memory for the run's parameters");
    }
    t->identity = run;
    return HEARTH_OK;
}

char *ht_train_json(const json_t *value, size_t flags)
{
    flags |= JSON_REAL_PRECISION(9);
    size_t n = value ? json_dumpb(value, NULL, 0, flags) : 0;
    char *text = n ? ht_calloc(n + 1, 1) : NULL;
    if (text && json_dumpb(value, text, n, flags) != n) { // out of memory on the way
        ht_free(text);
        text = NULL;
    }
    return text;
}

static char *shown(const json_t *value)
{
    return ht_train_json(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_SORT_KEYS);
}

// What decides a value, as `hearth train` spells it.
static const char *option_of(const char *key)
{
    static const struct {
        const char *key, *option;
    } options[] = {
        {"targets", "--targets"},     {"rank", "--rank"},
        {"alpha", "--alpha"},         {"rslora", "--rslora"},
        {"init", "--init"},           {"dropout", "--dropout"},
        {"lora plus", "--lora-plus"}, {"neftune", "--neftune"},
        {"schedule", "--schedule"},   {"batch", "--batch times --accum"},
        {"micro rows", "--micro-rows"}, {"epochs", "--epochs"},
        {"steps", "--max-steps"},     {"lr", "--lr"},
        {"warmup", "--warmup"},       {"decay", "--decay"},
        {"clip", "--clip"},           {"evaluate every", "--eval-every"},
        {"patience", "--patience"},   {"seed", "--seed"},
        {"files", "--data"},          {"mask", "--mask"},
        {"too long", "--truncate"},   {"sequence", "--seq"},
        {"held out", "--held-out"},   {"near", "--near"},
        {"template", "--template"},   {"keep duplicates", "--keep-duplicates"},
        {"precision", "--precision"}, {"moments", "--moments"},
        {"base", "the SHA-256 of --model"}, {"numerics", "the numerics id"},
    };
    for (size_t i = 0; i < sizeof options / sizeof options[0]; i++)
        if (!strcmp(options[i].key, key))
            return options[i].option;
    return key;
}

// The first value that differs, of the objects and the objects in them.
static enum hearth_status compare(const json_t *there, const json_t *here, struct hearth_error *err)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)here, key, value) {
        const json_t *old = json_object_get(there, key);
        if (json_is_object(value) && json_is_object(old)) {
            HT_TRY(compare(old, value, err));
            continue;
        }
        char *a = old ? shown(old) : NULL, *b = shown(value);
        enum hearth_status status = HEARTH_OK;
        if (!b || (old && !a))
            status = ht_fail(err, HEARTH_NOMEM, "out of memory for the run's parameters");
        else if (!a || strcmp(a, b))
            status = ht_fail(err, HEARTH_INVALID, "the checkpoint is of another run: %s is %.60s there and %.60s here",
                             option_of(key), a ? a : "not told", b);
        ht_free(a);
        ht_free(b);
        HT_TRY(status);
    }
    return HEARTH_OK;
}

enum hearth_status ht_train_same(const struct hearth_trainer *t, const char *text, size_t len_bytes,
                                 struct hearth_error *err)
{
    errno = 0;
    json_t *there = ht_json_read(text, len_bytes, 0, NULL);
    enum hearth_status status = HEARTH_OK;
    if (errno == ENOMEM || (json_is_object(there) && !json_object_get(there, "moments") &&
                            json_object_set_new(there, "moments", json_string("f32")))) // older ones had f32 alone
        status = ht_fail(err, HEARTH_NOMEM, "out of memory for the run's parameters");
    else if (!json_is_object(there))
        status = ht_fail(err, HEARTH_FORMAT, "the checkpoint does not tell its parameters");
    else
        status = compare(there, t->identity, err);
    json_decref(there);
    return status;
}

// ---------------------------------------------------------------- the manifest

static json_t *reasons(const uint64_t *counts, int n, const char *(*text)(int))
{
    json_t *out = json_object();
    for (int i = 0; i < n; i++)
        if (counts[i])
            json_object_set_new(out, text(i), json_integer((json_int_t)counts[i]));
    return out;
}

static const char *skip_text(int i)
{
    return hearth_data_skip_text((enum hearth_data_skip)i);
}

static const char *fix_text(int i)
{
    return hearth_data_fix_text((enum hearth_data_fix)i);
}

static json_t *files_of(const struct hearth_trainer *t)
{
    json_t *files = json_array();
    for (size_t i = 0; i < t->params.data.n_files; i++) {
        const struct hearth_data_counts *c = &t->counts[i];
        const struct hearth_data_file *f = &t->files[i];
        unsigned char sum[HT_HASH_BYTES];
        char text[2 * HT_HASH_BYTES + 1];
        ht_train_store_checksum(&t->store, i, sum);
        hex_of(sum, sizeof sum, text);
        const char *license = t->licenses[i].text, *lang = f->lang ? f->lang : "";
        json_t *skipped = reasons(c->skipped, HEARTH_DATA_N_SKIPS, skip_text);
        json_t *changed = reasons(c->fixed, HEARTH_DATA_N_FIXES, fix_text);
        json_array_append_new(
            files, json_pack("{s:s, s:s, s:f, s:s, s:s, s:s, s:I, s:I, s:o, s:o}", "file", ht_data_file_name(f),
                             "format", hearth_data_format_name(t->formats[i]), "weight", f->weight, "license", license,
                             "lang", lang, "checksum", text, "records", (json_int_t)c->n_records, "turns",
                             (json_int_t)c->n_turns, "skipped", skipped, "changed", changed));
    }
    return files;
}

enum hearth_status ht_train_manifest(const struct hearth_trainer *t, char **text, struct hearth_error *err)
{
    double held_out = t->params.patience ? t->best : t->last_held_out;
    errno = 0; // see json_read.h
    json_t *all = json_pack("{s:s, s:s, s:O, s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:I, s:o, s:o, s:o}", "hearth",
                            hearth_version(), "name", t->params.name, "run", t->identity, "files", files_of(t),
                            "samples", (json_int_t)t->info.n_train, "held out samples", (json_int_t)t->info.n_held_out,
                            "parameters", (json_int_t)t->info.n_params, "steps", (json_int_t)t->step, "tokens",
                            (json_int_t)t->tokens, "targets", (json_int_t)t->targets, "stopped early",
                            (int)t->stopped_early, "best step", (json_int_t)t->best_step, "loss", number(t->last_loss),
                            "held out loss before", number(t->first_held_out), "held out loss", number(held_out));
    *text = errno == ENOMEM ? NULL : ht_train_json(all, JSON_INDENT(2));
    json_decref(all);
    return *text ? HEARTH_OK : ht_fail(err, HEARTH_NOMEM, "out of memory for the manifest");
}
