// SPDX-License-Identifier: Apache-2.0
// A run's checkpoint: one file, little-endian, written beside the old one and put in its place as a whole.
//   "HTRAIN01", u32 bytes of the identity, u32 bytes of the state, identity (JSON), state (the numbers below),
//   values, first and second moments (n f32 each, or what ht_graph_state_bytes has of moments of bytes) and, with
//   patience, the best values (n f32); checksum of all before it
// Engine thread.
#include <math.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/learn/trainer.h"

#define NAME "checkpoint.bin"
static const char magic[8] = {'H', 'T', 'R', 'A', 'I', 'N', '0', '1'};
enum { MAX_IDENTITY = 1 << 20, HEAD_BYTES = 16 };

// ---------------------------------------------------------------- the numbers

struct ht_train_state {
    uint64_t n_values, step, n_steps, rows_done, tokens, targets, log_bytes, best_step, n_bad;
    double last_loss, last_held_out, first_held_out, best;
    uint32_t epoch, window, row, evaluated, stopped_early, n_vectors;
    unsigned char data_checksum[HT_HASH_BYTES];
};

static struct ht_train_state state_of(const struct hearth_trainer *t)
{
    struct ht_train_state s = {.n_values = t->adapter->n_values,
                      .step = t->step,
                      .n_steps = t->n_steps,
                      .rows_done = t->cursor.rows_done,
                      .tokens = t->tokens,
                      .targets = t->targets,
                      .log_bytes = t->log_bytes,
                      .best_step = t->best_step,
                      .n_bad = t->n_bad,
                      .last_loss = t->last_loss,
                      .last_held_out = t->last_held_out,
                      .first_held_out = t->first_held_out,
                      .best = t->best,
                      .epoch = t->cursor.epoch,
                      .window = t->cursor.window,
                      .row = t->cursor.row,
                      .evaluated = t->evaluated,
                      .stopped_early = t->stopped_early,
                      .n_vectors = t->best_values ? 4 : 3};
    memcpy(s.data_checksum, t->data_checksum, sizeof s.data_checksum);
    return s;
}

static void take_state(struct hearth_trainer *t, const struct ht_train_state *s)
{
    t->step = s->step;
    t->n_steps = s->n_steps;
    t->cursor = (struct ht_train_cursor){s->epoch, s->window, s->row, s->rows_done};
    t->tokens = s->tokens;
    t->targets = s->targets;
    t->log_bytes = s->log_bytes;
    t->best_step = s->best_step;
    t->n_bad = s->n_bad;
    t->last_loss = s->last_loss;
    t->last_held_out = s->last_held_out;
    t->first_held_out = s->first_held_out;
    t->best = s->best;
    t->evaluated = s->evaluated;
    t->stopped_early = s->stopped_early;
    memcpy(t->data_checksum, s->data_checksum, sizeof s->data_checksum);
}

// ---------------------------------------------------------------- writing, a part in each piece

static size_t vectors_bytes(const struct hearth_trainer *t)
{
    return ht_graph_state_bytes(t->graph) + (t->best_values ? t->adapter->n_values * sizeof(float) : 0);
}

// Appends to the file, or hands it to files.save.
static enum hearth_status put(struct hearth_trainer *t, const void *data, size_t len_bytes, struct hearth_error *err)
{
    struct ht_train_saver *s = &t->saver;
    const struct hearth_train_part part = {NAME, s->size, s->at, data, len_bytes};
    ht_hash_add(&s->hash, data, len_bytes);
    s->at += len_bytes;
    return s->file ? ht_file_write(s->file, data, len_bytes, err)
                   : t->params.files.save(t->params.files.user, &part, err);
}

static enum hearth_status open_file(struct hearth_trainer *t, struct hearth_error *err)
{
    char *path = ht_train_path(t, NAME);
    if (!path)
        return ht_fail(err, HEARTH_NOMEM, "out of memory for a path");
    enum hearth_status status = ht_file_create(&t->saver.file, path, err);
    ht_free(path);
    return status;
}

static enum hearth_status begin(struct hearth_trainer *t, const char *identity, struct hearth_error *err)
{
    struct ht_train_saver *s = &t->saver;
    const struct ht_train_state state = state_of(t);
    const uint32_t sizes[2] = {(uint32_t)strlen(identity), sizeof state};
    s->buffer = ht_calloc(1, t->save_bytes);
    if (!s->buffer)
        return ht_fail(err, HEARTH_NOMEM, "out of memory for a checkpoint");
    if (!t->params.files.save)
        HT_TRY(open_file(t, err));
    s->vectors_at = HEAD_BYTES + sizes[0] + sizes[1];
    s->size = s->vectors_at + vectors_bytes(t) + HT_HASH_BYTES;
    ht_hash_init(&s->hash);
    HT_TRY(put(t, magic, sizeof magic, err));
    HT_TRY(put(t, sizes, sizeof sizes, err));
    HT_TRY(put(t, identity, sizes[0], err));
    return put(t, &state, sizeof state, err);
}

// The next values, moments or best values.
static enum hearth_status put_some(struct hearth_trainer *t, struct hearth_error *err)
{
    struct ht_train_saver *s = &t->saver;
    size_t at = s->at - s->vectors_at, states = ht_graph_state_bytes(t->graph);
    size_t left = (at < states ? states : vectors_bytes(t)) - at, n = left < t->save_bytes ? left : t->save_bytes;
    if (at < states)
        HT_TRY(ht_graph_state_read(t->graph, at, s->buffer, n, err));
    return put(t, at < states ? s->buffer : (unsigned char *)t->best_values + (at - states), n, err);
}

static enum hearth_status end(struct hearth_trainer *t, struct hearth_error *err)
{
    struct ht_train_saver *s = &t->saver;
    unsigned char sum[HT_HASH_BYTES];
    ht_hash_end(&s->hash, sum);
    HT_TRY(put(t, sum, sizeof sum, err));
    return s->file ? ht_file_commit(&s->file, err) : HEARTH_OK;
}

static enum hearth_status save_some(struct hearth_trainer *t, bool *done, struct hearth_error *err)
{
    struct ht_train_saver *s = &t->saver;
    if (!s->buffer) {
        char *identity = ht_train_json(t->identity, JSON_COMPACT);
        if (!identity)
            return ht_fail(err, HEARTH_NOMEM, "out of memory for the run's parameters");
        enum hearth_status status = begin(t, identity, err);
        ht_free(identity);
        return status;
    }
    if (s->at + HT_HASH_BYTES < s->size)
        return put_some(t, err);
    *done = true;
    return end(t, err);
}

void ht_train_save_drop(struct hearth_trainer *t)
{
    ht_file_close(&t->saver.file);
    ht_free(t->saver.buffer);
    t->saver = (struct ht_train_saver){0};
}

enum hearth_status ht_train_save(struct hearth_trainer *t, bool *done, struct hearth_error *err)
{
    *done = false;
    enum hearth_status status = save_some(t, done, err);
    if (status != HEARTH_OK || *done)
        ht_train_save_drop(t);
    return status;
}

// ---------------------------------------------------------------- reading, a part in each piece

static enum hearth_status broken(const struct hearth_trainer *t, struct hearth_error *err)
{
    const char *folder = t->params.files.load ? NULL : t->params.files.folder;
    return ht_fail(err, HEARTH_FORMAT, "%s%s" NAME " is damaged: the run cannot go on from it",
                   folder ? ht_shown_path(folder) : "", folder ? "/" : "");
}

// The next bytes of the file, or of what files.load gives.
static enum hearth_status get(struct hearth_trainer *t, void *data, size_t len_bytes, struct hearth_error *err)
{
    struct ht_train_loader *l = &t->loader;
    size_t size;
    if (len_bytes > l->size - l->at)
        return broken(t, err);
    HT_TRY(l->file ? ht_file_read(l->file, data, len_bytes, l->at, err)
                   : t->params.files.load(t->params.files.user, NAME, l->at, data, len_bytes, &size, err));
    l->at += len_bytes;
    ht_hash_add(&l->hash, data, len_bytes);
    return HEARTH_OK;
}

static enum hearth_status open_source(struct hearth_trainer *t, struct hearth_error *err)
{
    struct ht_train_loader *l = &t->loader;
    if (t->params.files.load)
        return t->params.files.load(t->params.files.user, NAME, 0, NULL, 0, &l->size, err);
    char *path = ht_train_path(t, NAME);
    if (!path)
        return ht_fail(err, HEARTH_NOMEM, "out of memory for a path");
    enum hearth_status status = ht_file_open_read(&l->file, path, err);
    ht_free(path);
    l->size = status == HEARTH_OK ? (size_t)ht_file_size(l->file) : 0;
    return status;
}

static enum hearth_status get_identity(struct hearth_trainer *t, size_t len_bytes, struct hearth_error *err)
{
    char *identity = ht_calloc(len_bytes + 1, 1);
    if (!identity)
        return ht_fail(err, HEARTH_NOMEM, "out of memory for a checkpoint");
    enum hearth_status status = get(t, identity, len_bytes, err);
    if (status == HEARTH_OK)
        status = ht_train_same(t, identity, len_bytes, err);
    ht_free(identity);
    return status;
}

// Everything before the vectors.
static enum hearth_status begin_load(struct hearth_trainer *t, struct hearth_error *err)
{
    struct ht_train_loader *l = &t->loader;
    char head[sizeof magic];
    uint32_t sizes[2];
    HT_TRY(open_source(t, err));
    l->buffer = ht_calloc(1, t->save_bytes);
    l->state = ht_calloc(1, sizeof *l->state);
    if (!l->buffer || !l->state)
        return ht_fail(err, HEARTH_NOMEM, "out of memory for a checkpoint");
    ht_hash_init(&l->hash);
    HT_TRY(get(t, head, sizeof head, err));
    HT_TRY(get(t, sizes, sizeof sizes, err));
    if (memcmp(head, magic, sizeof magic) || !sizes[0] || sizes[0] > MAX_IDENTITY || sizes[1] != sizeof *l->state)
        return broken(t, err);
    HT_TRY(get_identity(t, sizes[0], err));
    HT_TRY(get(t, l->state, sizeof *l->state, err));
    l->vectors_at = l->at;
    if (l->state->n_values != t->adapter->n_values || l->size - l->at != vectors_bytes(t) + HT_HASH_BYTES)
        return broken(t, err);
    return HEARTH_OK;
}

// The next values, moments or best values.
static enum hearth_status get_some(struct hearth_trainer *t, struct hearth_error *err)
{
    struct ht_train_loader *l = &t->loader;
    size_t at = l->at - l->vectors_at, states = ht_graph_state_bytes(t->graph);
    size_t left = (at < states ? states : vectors_bytes(t)) - at, n = left < t->save_bytes ? left : t->save_bytes;
    if (at >= states)
        return get(t, (unsigned char *)t->best_values + (at - states), n, err);
    HT_TRY(get(t, l->buffer, n, err));
    return ht_graph_state_write(t->graph, at, l->buffer, n, err);
}

static enum hearth_status end_load(struct hearth_trainer *t, struct hearth_error *err)
{
    unsigned char sum[HT_HASH_BYTES], found[HT_HASH_BYTES];
    ht_hash_end(&t->loader.hash, sum);
    HT_TRY(get(t, found, sizeof found, err));
    if (memcmp(sum, found, sizeof sum))
        return broken(t, err);
    take_state(t, t->loader.state);
    return HEARTH_OK;
}

void ht_train_load_drop(struct hearth_trainer *t)
{
    ht_file_close(&t->loader.file);
    ht_free(t->loader.buffer);
    ht_free(t->loader.state);
    t->loader = (struct ht_train_loader){0};
}

enum hearth_status ht_train_load(struct hearth_trainer *t, bool *done, struct hearth_error *err)
{
    struct ht_train_loader *l = &t->loader;
    bool begun = l->buffer != NULL;
    *done = begun && l->at + HT_HASH_BYTES == l->size;
    enum hearth_status status = !begun ? begin_load(t, err) : *done ? end_load(t, err) : get_some(t, err);
    if (status != HEARTH_OK || *done)
        ht_train_load_drop(t);
    return status;
}
