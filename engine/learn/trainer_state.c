// SPDX-License-Identifier: Apache-2.0
// A run's checkpoint: one file, little-endian, written beside the old one and put in its place as a whole.
//   "HTRAIN01", u32 bytes of the identity, u32 bytes of the state, identity (JSON), state (the numbers below),
//   values, first moments, second moments and, with patience, the best values: n f32 each; checksum of all before it
#include <math.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/learn/trainer.h"

#define NAME "checkpoint.bin"
static const char magic[8] = {'H', 'T', 'R', 'A', 'I', 'N', '0', '1'};
enum { MAX_IDENTITY = 1 << 20, HEAD_BYTES = 16 };

// ---------------------------------------------------------------- the numbers

struct state {
    uint64_t n_values, step, n_steps, rows_done, tokens, targets, log_bytes, best_step, n_bad;
    double last_loss, last_held_out, first_held_out, best;
    uint32_t epoch, window, row, evaluated, stopped_early, n_vectors;
    unsigned char data_checksum[HT_HASH_BYTES];
};

static struct state state_of(const struct hearth_trainer *t)
{
    struct state s = {.n_values = t->adapter->n_values,
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

static void take_state(struct hearth_trainer *t, const struct state *s)
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

// ---------------------------------------------------------------- writing

struct sink { // a file, or memory for files.save
    struct ht_file *file;
    unsigned char *bytes;
    size_t at, capacity;
    struct ht_hash hash;
};

static enum hearth_status put(struct sink *sink, const void *data, size_t len_bytes, struct hearth_error *err)
{
    ht_hash_add(&sink->hash, data, len_bytes);
    if (sink->file)
        return ht_file_write(sink->file, data, len_bytes, err);
    memcpy(sink->bytes + sink->at, data, len_bytes);
    sink->at += len_bytes;
    return HEARTH_OK;
}

static enum hearth_status put_all(struct hearth_trainer *t, struct sink *sink, const char *identity,
                                  struct hearth_error *err)
{
    const struct state state = state_of(t);
    const uint32_t sizes[2] = {(uint32_t)strlen(identity), sizeof state};
    const size_t vector = t->adapter->n_values * sizeof(float);
    unsigned char sum[HT_HASH_BYTES];
    ht_hash_init(&sink->hash);
    HT_TRY(put(sink, magic, sizeof magic, err));
    HT_TRY(put(sink, sizes, sizeof sizes, err));
    HT_TRY(put(sink, identity, sizes[0], err));
    HT_TRY(put(sink, &state, sizeof state, err));
    static const enum ht_graph_vector vectors[] = {HT_GRAPH_VALUES, HT_GRAPH_MOMENT1, HT_GRAPH_MOMENT2};
    for (int i = 0; i < 3; i++) {
        HT_TRY(ht_graph_read(t->graph, vectors[i], t->adapter->values, err));
        HT_TRY(put(sink, t->adapter->values, vector, err));
    }
    if (t->best_values)
        HT_TRY(put(sink, t->best_values, vector, err));
    ht_hash_end(&sink->hash, sum);
    return put(sink, sum, sizeof sum, err);
}

static enum hearth_status save_file(struct hearth_trainer *t, const char *identity, struct hearth_error *err)
{
    struct sink sink = {0};
    char *path = ht_train_path(t, NAME);
    if (!path)
        return ht_fail(err, HEARTH_NOMEM, "out of memory for a path");
    enum hearth_status status = ht_file_create(&sink.file, path, err);
    ht_free(path);
    if (status == HEARTH_OK)
        status = put_all(t, &sink, identity, err);
    if (status == HEARTH_OK)
        return ht_file_commit(&sink.file, err);
    ht_file_close(&sink.file);
    return status;
}

static enum hearth_status save_memory(struct hearth_trainer *t, const char *identity, struct hearth_error *err)
{
    struct sink sink = {.capacity = HEAD_BYTES + strlen(identity) + sizeof(struct state) + HT_HASH_BYTES +
                                    (t->best_values ? 4 : 3) * t->adapter->n_values * sizeof(float)};
    sink.bytes = ht_alloc_big(sink.capacity);
    if (!sink.bytes)
        return ht_fail(err, HEARTH_NOMEM, "out of memory for a checkpoint of %zu bytes", sink.capacity);
    enum hearth_status status = put_all(t, &sink, identity, err);
    if (status == HEARTH_OK)
        status = t->params.files.save(t->params.files.user, NAME, sink.bytes, sink.at, err);
    ht_free_big(sink.bytes, sink.capacity);
    return status;
}

enum hearth_status ht_train_save(struct hearth_trainer *t, struct hearth_error *err)
{
    char *identity = ht_train_json(t->identity, JSON_COMPACT);
    if (!identity)
        return ht_fail(err, HEARTH_NOMEM, "out of memory for the run's parameters");
    enum hearth_status status = t->params.files.save ? save_memory(t, identity, err) : save_file(t, identity, err);
    ht_free(identity);
    return status;
}

// ---------------------------------------------------------------- reading

struct source { // a file, or memory from files.load
    struct ht_file *file;
    unsigned char *bytes;
    size_t at, size;
    struct ht_hash hash;
};

static enum hearth_status broken(struct hearth_error *err)
{
    return ht_fail(err, HEARTH_FORMAT, NAME " is damaged: the run cannot go on from it");
}

static enum hearth_status get(struct source *source, void *data, size_t len_bytes, struct hearth_error *err)
{
    if (len_bytes > source->size - source->at)
        return broken(err);
    if (source->file)
        HT_TRY(ht_file_read(source->file, data, len_bytes, source->at, err));
    else
        memcpy(data, source->bytes + source->at, len_bytes);
    source->at += len_bytes;
    ht_hash_add(&source->hash, data, len_bytes);
    return HEARTH_OK;
}

static enum hearth_status get_identity(struct hearth_trainer *t, struct source *source, size_t len_bytes,
                                       struct hearth_error *err)
{
    char *identity = ht_calloc(len_bytes + 1, 1);
    if (!identity)
        return ht_fail(err, HEARTH_NOMEM, "out of memory for a checkpoint");
    enum hearth_status status = get(source, identity, len_bytes, err);
    if (status == HEARTH_OK)
        status = ht_train_same(t, identity, len_bytes, err);
    ht_free(identity);
    return status;
}

static enum hearth_status get_vectors(struct hearth_trainer *t, struct source *source, struct hearth_error *err)
{
    static const enum ht_graph_vector vectors[] = {HT_GRAPH_VALUES, HT_GRAPH_MOMENT1, HT_GRAPH_MOMENT2};
    const size_t vector = t->adapter->n_values * sizeof(float);
    for (int i = 0; i < 3; i++) {
        HT_TRY(get(source, t->adapter->values, vector, err));
        HT_TRY(ht_graph_write(t->graph, vectors[i], t->adapter->values, err));
    }
    return t->best_values ? get(source, t->best_values, vector, err) : HEARTH_OK;
}

static enum hearth_status get_all(struct hearth_trainer *t, struct source *source, struct hearth_error *err)
{
    char head[sizeof magic];
    uint32_t sizes[2];
    struct state state;
    unsigned char sum[HT_HASH_BYTES], found[HT_HASH_BYTES];
    ht_hash_init(&source->hash);
    HT_TRY(get(source, head, sizeof head, err));
    HT_TRY(get(source, sizes, sizeof sizes, err));
    if (memcmp(head, magic, sizeof magic) || !sizes[0] || sizes[0] > MAX_IDENTITY || sizes[1] != sizeof state)
        return broken(err);
    HT_TRY(get_identity(t, source, sizes[0], err));
    HT_TRY(get(source, &state, sizeof state, err));
    size_t rest = (t->best_values ? 4 : 3) * t->adapter->n_values * sizeof(float) + HT_HASH_BYTES;
    if (state.n_values != t->adapter->n_values || source->size - source->at != rest)
        return broken(err);
    HT_TRY(get_vectors(t, source, err));
    ht_hash_end(&source->hash, sum);
    HT_TRY(get(source, found, sizeof found, err));
    if (memcmp(sum, found, sizeof sum))
        return broken(err);
    take_state(t, &state);
    return HEARTH_OK;
}

enum hearth_status ht_train_load(struct hearth_trainer *t, struct hearth_error *err)
{
    struct source source = {0};
    enum hearth_status status;
    if (t->params.files.load) {
        void *data = NULL;
        HT_TRY(t->params.files.load(t->params.files.user, NAME, &data, &source.size, err));
        source.bytes = data;
        status = get_all(t, &source, err);
        ht_free_foreign(data);
        return status;
    }
    char *path = ht_train_path(t, NAME);
    if (!path)
        return ht_fail(err, HEARTH_NOMEM, "out of memory for a path");
    status = ht_file_open_read(&source.file, path, err);
    ht_free(path);
    HT_TRY(status);
    source.size = (size_t)ht_file_size(source.file);
    status = get_all(t, &source, err);
    ht_file_close(&source.file);
    return status;
}
