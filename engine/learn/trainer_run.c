// SPDX-License-Identifier: Apache-2.0
// A run as pieces of some milliseconds each: read, count, then step by step. What a piece does depends on the trainer's
// state alone, never on the clock; only reading and counting look at it, to end a piece. Engine thread.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/limits.h"
#include "engine/base/mem.h"
#include "engine/learn/trainer.h"
#include "engine/model/session.h"

static const double PIECE_S = 0.004; // of reading and counting

static double busy_s(const struct hearth_trainer *t)
{
    return t->busy_s + ht_now_s() - t->entered_s;
}

static struct hearth_train_step told(const struct hearth_trainer *t)
{
    uint32_t rows = t->rows_of_epoch[t->cursor.epoch];
    return (struct hearth_train_step){.step = t->step,
                                      .n_steps = t->n_steps,
                                      .epoch = t->cursor.epoch + (rows ? (double)t->cursor.rows_done / rows : 0),
                                      .loss = t->last_loss,
                                      .held_out = NAN,
                                      .lr = t->lr,
                                      .grad_norm = t->grad_norm,
                                      .tokens = t->tokens,
                                      .targets = t->targets,
                                      .seconds = busy_s(t)};
}

// ---------------------------------------------------------------- reading

// Why there is nothing to train on: all is held out, or the commonest reason why records were left out.
static enum hearth_status nothing_left(const struct hearth_trainer *t, struct hearth_error *err)
{
    static const char nothing[] = "the data holds nothing to train on";
    size_t file = 0;
    int reason = 0;
    for (size_t i = 0; i < t->params.data.n_files; i++)
        for (int k = 0; k < HEARTH_DATA_N_SKIPS; k++)
            if (t->counts[i].skipped[k] > t->counts[file].skipped[reason]) {
                file = i;
                reason = k;
            }
    const struct hearth_data_counts *c = &t->counts[file];
    if (t->store.n_samples)
        return ht_fail(err, HEARTH_FORMAT, "%s: all of its %llu samples are held out", nothing,
                       (unsigned long long)t->store.n_samples);
    if (!c->skipped[reason])
        return ht_fail(err, HEARTH_FORMAT, "%s", nothing);
    return ht_fail(err, HEARTH_FORMAT, "%s: %llu records of %.60s were left out: %s (first: line %llu)", nothing,
                   (unsigned long long)c->skipped[reason], ht_data_file_name(&t->files[file]),
                   hearth_data_skip_text((enum hearth_data_skip)reason), (unsigned long long)c->first_line[reason]);
}

// What a run of these samples cannot be.
static enum hearth_status check_samples(const struct hearth_trainer *t, struct hearth_error *err)
{
    double weight = 0;
    if (!t->info.n_train)
        return nothing_left(t, err);
    for (size_t i = 0; i < t->params.data.n_files; i++)
        weight += t->counts[i].n_records ? t->weights[i] : 0;
    if (!(weight > 0))
        return ht_fail(err, HEARTH_INVALID, "the files' weights leave nothing to train on");
    if (t->params.patience && !t->info.n_held_out)
        return ht_fail(err, HEARTH_INVALID, "patience needs held-out conversations, and of these none is: hold out a "
                       "larger share");
    return HEARTH_OK;
}

static enum hearth_status end_reading(struct hearth_trainer *t, struct hearth_error *err)
{
    unsigned char sum[HT_HASH_BYTES];
    struct ht_hash all;
    ht_hash_init(&all);
    for (size_t i = 0; i < t->params.data.n_files; i++) {
        hearth_data_set_get_counts(t->set, i, &t->counts[i], &t->formats[i]);
        ht_train_store_checksum(&t->store, i, sum);
        ht_hash_add(&all, sum, sizeof sum);
    }
    ht_hash_end(&all, sum);
    hearth_data_set_close(&t->set);
    if (t->resumed && memcmp(sum, t->data_checksum, sizeof sum))
        return ht_fail(err, HEARTH_INVALID, "the checkpoint is of another run: the training data has changed since");
    memcpy(t->data_checksum, sum, sizeof sum);
    t->info.n_held_out = t->store.n_held_out;
    t->info.n_train = t->store.n_samples - t->store.n_held_out;
    HT_TRY(check_samples(t, err));
    t->n_windows = ht_train_n_windows(&t->order, false);
    t->n_eval_windows = ht_train_n_windows(&t->order, true);
    t->phase = HT_TRAIN_COUNT;
    return HEARTH_OK;
}

void hearth_trainer_get_counts(const struct hearth_trainer *trainer, size_t file, struct hearth_data_counts *counts,
                               enum hearth_data_format *format)
{
    *counts = trainer->counts[file];
    *format = trainer->formats[file];
}

// Keeps each licence that is met once; a word within another one counts as met.
static void note_license(struct ht_train_licenses *known, const char *license)
{
    size_t at = strlen(known->text);
    if (license[0] && !strstr(known->text, license) && at + strlen(license) + 3 < sizeof known->text)
        snprintf(known->text + at, sizeof known->text - at, "%s%s", at ? ", " : "", license);
}

static enum hearth_status read_some(struct hearth_trainer *t, struct hearth_error *err)
{
    const struct hearth_data_sample *s;
    double until = ht_now_s() + PIECE_S;
    if (!t->set)
        HT_TRY(hearth_data_set_open(&t->set, &t->params.data, err));
    do {
        HT_TRY(hearth_data_set_next(t->set, &s, err));
        if (!s)
            return end_reading(t, err);
        if (s->record->pair_only || !s->n_tokens)
            continue;
        note_license(&t->licenses[s->file], s->record->license);
        double weight = t->weights[s->file];
        const char *id = weight != floor(weight) ? ht_data_set_id(t->set) : NULL;
        HT_TRY(ht_train_store_add(&t->store, s, id, err));
    } while (ht_now_s() < until);
    return HEARTH_OK;
}

// ---------------------------------------------------------------- counting: how many rows each epoch has

static enum hearth_status window_at(struct hearth_trainer *t, uint32_t epoch, uint32_t index, struct hearth_error *err)
{
    if (t->window_good && t->window_epoch == epoch && t->window_index == index)
        return HEARTH_OK;
    t->window_good = false;
    uint32_t n_windows = epoch == HT_TRAIN_HELD_OUT ? t->n_eval_windows : t->n_windows;
    HT_TRY(ht_train_window_make(&t->window, &t->order, epoch, index, n_windows, err));
    t->window_epoch = epoch;
    t->window_index = index;
    t->window_good = true;
    return HEARTH_OK;
}

static enum hearth_status end_epoch_count(struct hearth_trainer *t, struct hearth_error *err)
{
    if (t->n_epochs == t->epochs_capacity) {
        uint32_t to = t->epochs_capacity ? 2 * t->epochs_capacity : 16;
        void *rows = t->rows_of_epoch;
        if (t->n_epochs >= HT_MAX_TRAIN_EPOCHS)
            return ht_fail(err, HEARTH_LIMIT, "more than %d epochs are too many for one run", HT_MAX_TRAIN_EPOCHS);
        if (!ht_grow(&rows, t->epochs_capacity, to, sizeof *t->rows_of_epoch))
            return ht_fail(err, HEARTH_NOMEM, "out of memory to count %u epochs", to);
        t->rows_of_epoch = rows;
        t->epochs_capacity = to;
    }
    t->rows_of_epoch[t->n_epochs++] = (uint32_t)t->counted_rows;
    t->counted_steps += (t->counted_rows + t->params.n_batch - 1) / t->params.n_batch;
    t->counted_windows = 0;
    t->counted_rows = 0;
    return HEARTH_OK;
}

static enum hearth_status end_counting(struct hearth_trainer *t, struct hearth_error *err)
{
    double part = t->params.epochs - floor(t->params.epochs);
    uint64_t n_steps = t->params.max_steps;
    if (!n_steps) {
        n_steps = t->counted_steps;
        if (part > 0) { // of the last epoch only a part
            uint64_t last = (t->rows_of_epoch[t->n_epochs - 1] + t->params.n_batch - 1) / t->params.n_batch;
            n_steps = n_steps - last + (uint64_t)ceil(part * (double)last - 1e-9);
        }
    }
    if (!n_steps)
        return ht_fail(err, HEARTH_INVALID, "the files' weights leave nothing to train on");
    if (t->resumed && n_steps != t->n_steps)
        return ht_fail(err, HEARTH_INVALID, "the checkpoint is of another run: it has %llu steps, this one %llu",
                       (unsigned long long)t->n_steps, (unsigned long long)n_steps);
    const struct ht_train_cursor *c = &t->cursor;
    if (c->epoch >= t->n_epochs || c->rows_done > t->rows_of_epoch[c->epoch] || c->window > t->n_windows ||
        t->step > n_steps)
        return ht_fail(err, HEARTH_FORMAT, "the checkpoint stands where the run never comes");
    t->n_steps = n_steps;
    t->phase = HT_TRAIN_BORDER;
    t->info.last = told(t); // where a resumed run stands
    return HEARTH_OK;
}

static enum hearth_status count_some(struct hearth_trainer *t, struct hearth_error *err)
{
    double until = ht_now_s() + PIECE_S;
    do {
        bool end = t->params.max_steps ? t->counted_steps >= t->params.max_steps
                                       : (double)t->n_epochs >= ceil(t->params.epochs);
        if (end && !t->counted_windows)
            return end_counting(t, err);
        HT_TRY(window_at(t, t->n_epochs, t->counted_windows++, err));
        t->counted_rows += t->window.n_rows;
        if (t->counted_windows == t->n_windows)
            HT_TRY(end_epoch_count(t, err));
    } while (ht_now_s() < until);
    return HEARTH_OK;
}

// ---------------------------------------------------------------- passes

static enum hearth_status begin_micro(struct hearth_trainer *t, enum ht_graph_pass pass, struct hearth_error *err)
{
    uint32_t left = t->batch.n - t->at;
    t->n_at = left < t->n_micro ? left : t->n_micro;
    const struct ht_batch batch = ht_train_batch_part(&t->batch, t->at, t->n_at);
    return ht_graph_begin(t->graph, pass, &batch, t->params.seed, t->step + 1, err);
}

// Where a run stands whose numbers are none. Before the first update they come out of the model, whatever the data.
static const char *what_stays(const struct hearth_trainer *t, char text[96])
{
    if (!t->step)
        return "nothing was learned yet: the model gives it, or the adapter that it goes on from";
    if (t->info.saved_step)
        snprintf(text, 96, "the last checkpoint is of step %llu", (unsigned long long)t->info.saved_step);
    return t->info.saved_step ? text : "there is no checkpoint yet";
}

static enum hearth_status not_finite(struct hearth_trainer *t, const char *what, struct hearth_error *err)
{
    const struct ht_train_sample *s = t->batch.first;
    const char *path = t->files[s->file].path, *slash = strrchr(path, '/');
    char stays[96];
    return ht_fail(err, HEARTH_NUMERIC, "step %llu: %s is not a finite number (epoch %u, row %llu, from %.60s line "
                   "%llu on); %s", (unsigned long long)t->step + 1, what, t->cursor.epoch + 1,
                   (unsigned long long)t->cursor.rows_done - t->batch.n + 1, slash ? slash + 1 : path,
                   (unsigned long long)s->line, what_stays(t, stays));
}

// Adds up the micro-batch that has ended.
static void harvest(struct hearth_trainer *t)
{
    const float *losses = ht_graph_losses(t->graph);
    uint32_t from = 0, n = 0;
    for (uint32_t i = 0; i < t->at + t->n_at; i++) {
        from += i < t->at ? t->batch.used[i] : 0;
        n += i < t->at ? 0 : t->batch.used[i];
    }
    for (uint32_t r = 0; r < n; r++)
        if (t->batch.target[from + r] >= 0 && t->batch.weight[from + r] != 0)
            t->loss_sum += (double)t->batch.weight[from + r] * (double)losses[r];
    t->at += t->n_at;
}

// ---------------------------------------------------------------- optimizer steps

static enum hearth_status begin_step(struct hearth_trainer *t, struct hearth_error *err)
{
    struct ht_train_cursor *c = &t->cursor;
    t->began_s = busy_s(t);
    while (c->rows_done == t->rows_of_epoch[c->epoch])
        *c = (struct ht_train_cursor){.epoch = c->epoch + 1};
    ht_train_batch_begin(&t->batch);
    while (t->batch.n < t->params.n_batch && c->rows_done < t->rows_of_epoch[c->epoch]) {
        HT_TRY(window_at(t, c->epoch, c->window, err));
        if (c->row >= t->window.n_rows) {
            c->window++;
            c->row = 0;
            continue;
        }
        HT_TRY(ht_train_batch_add(&t->batch, &t->store, &t->window, c->row++, err));
        c->rows_done++;
    }
    ht_train_batch_normalise(&t->batch);
    t->at = 0;
    t->loss_sum = 0;
    t->phase = HT_TRAIN_PASS;
    return begin_micro(t, HT_GRAPH_TRAIN, err);
}

static enum hearth_status pass_some(struct hearth_trainer *t, struct hearth_error *err)
{
    uint32_t left;
    HT_TRY(ht_graph_run(t->graph, &left, err));
    if (left)
        return HEARTH_OK;
    harvest(t);
    if (!isfinite(t->loss_sum))
        return not_finite(t, "the loss", err);
    if (t->at < t->batch.n)
        return begin_micro(t, HT_GRAPH_TRAIN, err);
    t->phase = HT_TRAIN_NORM;
    return HEARTH_OK;
}

static enum hearth_status begin_update(struct hearth_trainer *t, struct hearth_error *err)
{
    float norm;
    HT_TRY(ht_graph_norm(t->graph, &norm, err));
    if (!isfinite(norm))
        return not_finite(t, "the norm of the gradient", err);
    t->grad_norm = (double)norm;
    t->lr = ht_train_rate(&t->params, t->step + 1, t->n_steps);
    t->phase = HT_TRAIN_UPDATE;
    return ht_graph_update(t->graph, t->step + 1, (float)t->lr, err);
}

static enum hearth_status end_step(struct hearth_trainer *t, struct hearth_error *err)
{
    t->step++;
    t->tokens += t->batch.n_rows;
    t->targets += t->batch.n_targets;
    t->last_loss = t->loss_sum;
    t->evaluated = t->saved = false;
    struct hearth_train_step step = told(t);
    double took = step.seconds - t->began_s;
    step.tokens_per_second = took > 0 ? t->batch.n_rows / took : 0;
    t->phase = HT_TRAIN_BORDER;
    return ht_train_report(t, &step, err);
}

static enum hearth_status update_some(struct hearth_trainer *t, struct hearth_error *err)
{
    uint32_t left;
    HT_TRY(ht_graph_run(t->graph, &left, err));
    return left ? HEARTH_OK : end_step(t, err);
}

// ---------------------------------------------------------------- evaluation

// The next held-out rows, or the end: then the phase is another one.
static enum hearth_status next_eval(struct hearth_trainer *t, struct hearth_error *err)
{
    ht_train_batch_begin(&t->batch);
    while (t->batch.n < t->n_micro && t->batch.n < t->params.n_batch && t->eval_window < t->n_eval_windows) {
        HT_TRY(window_at(t, HT_TRAIN_HELD_OUT, t->eval_window, err));
        if (t->eval_row == t->window.n_rows) {
            t->eval_window++;
            t->eval_row = 0;
            continue;
        }
        HT_TRY(ht_train_batch_add(&t->batch, &t->store, &t->window, t->eval_row++, err));
    }
    t->at = 0;
    t->weight_sum += t->batch.weight_sum;
    return t->batch.n ? begin_micro(t, HT_GRAPH_LOSS, err) : HEARTH_OK;
}

static enum hearth_status begin_eval(struct hearth_trainer *t, struct hearth_error *err)
{
    t->eval_window = t->eval_row = 0;
    t->loss_sum = t->weight_sum = 0;
    t->phase = HT_TRAIN_EVAL;
    return next_eval(t, err);
}

static enum hearth_status end_eval(struct hearth_trainer *t, struct hearth_error *err)
{
    double loss = t->loss_sum / t->weight_sum;
    t->last_held_out = loss;
    t->evaluated = true;
    t->saved = false;
    if (!t->step)
        t->first_held_out = loss;
    if (loss < t->best) {
        t->best = loss;
        t->best_step = t->step;
        t->n_bad = 0;
        if (t->best_values)
            HT_TRY(ht_graph_read(t->graph, HT_GRAPH_VALUES, t->best_values, err));
    } else {
        t->n_bad++;
    }
    t->stopped_early = t->params.patience && t->n_bad >= t->params.patience && t->step < t->n_steps;
    t->phase = HT_TRAIN_BORDER;
    struct hearth_train_step step = told(t);
    step.held_out = loss;
    return ht_train_report(t, &step, err);
}

static enum hearth_status eval_some(struct hearth_trainer *t, struct hearth_error *err)
{
    uint32_t left;
    HT_TRY(ht_graph_run(t->graph, &left, err));
    if (left)
        return HEARTH_OK;
    harvest(t);
    char stays[96];
    if (!isfinite(t->loss_sum))
        return ht_fail(err, HEARTH_NUMERIC, "step %llu: the held-out loss is not a finite number; %s",
                       (unsigned long long)t->step, what_stays(t, stays));
    if (t->info.saving) { // somebody waits: the evaluation begins anew afterwards
        t->phase = HT_TRAIN_BORDER;
        return HEARTH_OK;
    }
    HT_TRY(next_eval(t, err));
    return t->batch.n ? HEARTH_OK : end_eval(t, err);
}

// ---------------------------------------------------------------- between steps

static bool eval_due(const struct hearth_trainer *t)
{
    if (!t->info.n_held_out || t->evaluated)
        return false;
    if (!t->step || t->step == t->n_steps)
        return true;
    return t->params.eval_every ? t->step % t->params.eval_every == 0
                                : t->cursor.rows_done == t->rows_of_epoch[t->cursor.epoch];
}

static enum hearth_status border(struct hearth_trainer *t, struct hearth_error *err)
{
    bool end = t->step == t->n_steps || t->stopped_early;
    bool here = t->saved && t->saved_evaluated == t->evaluated;
    uint64_t every = t->params.checkpoint_every ? t->params.checkpoint_every : 50;
    if (t->info.saving && !here) {
        t->phase = HT_TRAIN_SAVE;
        return HEARTH_OK;
    }
    t->info.saving = false;
    if (eval_due(t))
        return begin_eval(t, err);
    if (!here && (end || (t->step && t->step % every == 0)))
        t->phase = HT_TRAIN_SAVE;
    else if (end)
        t->phase = HT_TRAIN_FINISH;
    else
        return begin_step(t, err);
    return HEARTH_OK;
}

static enum hearth_status save(struct hearth_trainer *t, struct hearth_error *err)
{
    bool done;
    HT_TRY(ht_train_save(t, &done, err));
    if (!done)
        return HEARTH_OK;
    t->saved = true;
    t->saved_evaluated = t->evaluated;
    t->info.saved_step = t->step;
    t->info.saving = false;
    t->phase = HT_TRAIN_BORDER;
    return HEARTH_OK;
}

static enum hearth_status finish(struct hearth_trainer *t, struct hearth_error *err)
{
    bool done;
    HT_TRY(ht_train_finish(t, &done, err));
    if (!done)
        return HEARTH_OK;
    t->phase = HT_TRAIN_ENDED;
    t->info.saving = false; // it is all there
    return HEARTH_OK;
}

enum hearth_status ht_train_piece(struct hearth_trainer *t, struct hearth_error *err)
{
    switch (t->phase) {
    case HT_TRAIN_OPEN: return ht_train_open(t, err);
    case HT_TRAIN_READ: return read_some(t, err);
    case HT_TRAIN_COUNT: return count_some(t, err);
    case HT_TRAIN_BORDER: return border(t, err);
    case HT_TRAIN_PASS: return pass_some(t, err);
    case HT_TRAIN_NORM: return begin_update(t, err);
    case HT_TRAIN_UPDATE: return update_some(t, err);
    case HT_TRAIN_EVAL: return eval_some(t, err);
    case HT_TRAIN_SAVE: return save(t, err);
    case HT_TRAIN_FINISH: return finish(t, err);
    case HT_TRAIN_ENDED: break;
    }
    return HEARTH_OK;
}
