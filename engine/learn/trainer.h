// SPDX-License-Identifier: Apache-2.0
// The trainer inside: samples in memory, windows of an epoch, optimizer steps, checkpoints. Engine thread.
//
// Everything that decides a run follows from parameters, samples and the cursor (epoch, window, row); orders come from
// hashes of (seed, sample), so that another sample moves none.
#ifndef HT_TRAINER_H
#define HT_TRAINER_H
#include <jansson.h>

#include "engine/base/hash.h"
#include "engine/base/io.h"
#include "engine/learn/data.h"
#include "engine/learn/graph.h"

// ---------------------------------------------------------------- samples (trainer_store.c)

struct ht_train_run { // weights of tokens that follow each other
    uint32_t n;
    float weight;
};
struct ht_train_sample {
    const int32_t *ids;
    const struct ht_train_run *runs;
    const char *id; // of its record, where only a share of them is in an epoch; else NULL
    uint64_t key;   // of id, piece and tokens: what its place in an epoch is drawn from
    uint64_t line;
    uint32_t n_tokens, n_runs;
    uint16_t file;
    bool held_out;
};

struct ht_train_block;
struct ht_train_store {
    struct ht_train_block *blocks;
    struct ht_train_sample *samples;
    size_t n_samples, capacity;
    uint64_t n_held_out, n_tokens;
    uint32_t longest;
    struct ht_hash *checksums; // [n_files] of what came out of each file
    size_t n_files;
};
HT_MUST_USE enum hearth_status ht_train_store_init(struct ht_train_store *store, size_t n_files,
                                                   struct hearth_error *err);
void ht_train_store_free(struct ht_train_store *store);
// id: of the whole record, or NULL where it is not needed. LIMIT when there are too many tokens or samples.
HT_MUST_USE enum hearth_status ht_train_store_add(struct ht_train_store *store, const struct hearth_data_sample *sample,
                                                  const char *id, struct hearth_error *err);
void ht_train_store_checksum(const struct ht_train_store *store, size_t file, unsigned char out[HT_HASH_BYTES]);

// ---------------------------------------------------------------- an epoch's order (trainer_window.c)

// The samples of an epoch fall into windows by their drawn keys; those of a window are packed into rows together.
struct ht_train_order {
    const struct ht_train_store *store;
    const double *weights; // [n_files] how often a record is in an epoch
    uint64_t seed, data_seed;
    uint32_t data_epoch;   // added to the epoch where shares of records are drawn
    uint32_t n_seq;
};
struct ht_train_entry {
    uint64_t key;
    uint32_t sample, copy;
    uint32_t row, start;
};
struct ht_train_window {
    struct ht_train_entry *entries, *sorted; // sorted: by row, then start
    uint32_t *lengths, *row_of, *row_from;   // row_from [n_rows + 1] into `sorted`
    struct hearth_data_place *places;
    size_t n_entries, capacity, n_rows;
};
enum { HT_TRAIN_HELD_OUT = UINT32_MAX }; // as an epoch: the held-out samples, once each
uint32_t ht_train_n_windows(const struct ht_train_order *order, bool held_out);
HT_MUST_USE enum hearth_status ht_train_window_make(struct ht_train_window *window, const struct ht_train_order *order,
                                                    uint32_t epoch, uint32_t index, uint32_t n_windows,
                                                    struct hearth_error *err);
void ht_train_window_free(struct ht_train_window *window);

// ---------------------------------------------------------------- rows of a step (trainer_batch.c)

struct ht_train_cursor { // the next row
    uint32_t epoch, window, row;
    uint64_t rows_done; // of the epoch
};
struct ht_train_batch { // up to n_sequences rows of up to n_seq positions, one after the other
    int32_t *ids, *target;
    uint32_t *pos, *seg_from, *row_id;
    float *weight;
    float *unrolled;    // [n_seq] weights of the sample at hand
    uint32_t *used;     // [n_sequences] positions of each
    uint32_t n, n_sequences, n_seq;
    uint32_t n_rows;    // positions of all
    uint64_t n_targets;
    double weight_sum;  // of the samples' own weights
    const struct ht_train_sample *first; // for messages
};
HT_MUST_USE enum hearth_status ht_train_batch_init(struct ht_train_batch *batch, uint32_t n_sequences, uint32_t n_seq,
                                                   struct hearth_error *err);
void ht_train_batch_free(struct ht_train_batch *batch);
void ht_train_batch_begin(struct ht_train_batch *batch);
// Adds row `row` of the window.
HT_MUST_USE enum hearth_status ht_train_batch_add(struct ht_train_batch *batch, const struct ht_train_store *store,
                                                  const struct ht_train_window *window, uint32_t row,
                                                  struct hearth_error *err);
// Weights become those of the step's mean.
void ht_train_batch_normalise(struct ht_train_batch *batch);
// Sequences [first, first + n) as one micro-batch.
struct ht_batch ht_train_batch_part(struct ht_train_batch *batch, uint32_t first, uint32_t n);

// ---------------------------------------------------------------- the trainer

enum ht_train_phase { HT_TRAIN_OPEN, HT_TRAIN_READ, HT_TRAIN_COUNT, HT_TRAIN_BORDER, HT_TRAIN_PASS, HT_TRAIN_NORM,
                      HT_TRAIN_UPDATE, HT_TRAIN_EVAL, HT_TRAIN_SAVE, HT_TRAIN_FINISH, HT_TRAIN_ENDED };

struct ht_train_opening { // what is there of the beginning
    size_t at;            // values
    struct ht_hash hash;  // of the alphas and values that it begins from
};

struct ht_train_saver { // a checkpoint that is being written; buffer NULL: none is
    struct ht_file *file;  // NULL: through files.save
    unsigned char *buffer; // save_bytes
    size_t at, vectors_at, size;
    struct ht_hash hash;
};

struct ht_train_state;
struct ht_train_loader { // a checkpoint that is being read; buffer NULL: none is
    struct ht_file *file;  // NULL: through files.load
    unsigned char *buffer; // save_bytes
    size_t at, vectors_at, size;
    struct ht_hash hash;
    struct ht_train_state *state; // its numbers
};

struct ht_train_licenses { // that a file's records tell, joined by ", "
    char text[160];
};

struct hearth_trainer {
    struct hearth_engine *engine;
    struct hearth_train_params params; // strings and files are own copies
    char **strings;
    size_t n_strings;
    struct hearth_data_file *files;
    double *weights;
    struct hearth_adapter *adapter; // its values are also where vectors of the graph are read to
    struct ht_graph *graph;
    struct ht_train_store store;
    struct ht_train_order order;
    struct ht_train_window window;
    struct ht_train_batch batch;
    struct hearth_data_set *set;      // while reading
    struct hearth_data_counts *counts; // [n_files], after reading
    struct ht_train_licenses *licenses; // [n_files]
    enum hearth_data_format *formats;
    json_t *identity; // what a run is: parameters, base, numerics, data
    struct hearth_train_info info;
    enum ht_train_phase phase;
    enum hearth_status failed; // sticky
    struct hearth_error error;

    uint32_t n_micro; // sequences computed together
    uint32_t window_epoch, window_index; // of what `window` holds
    bool window_good;
    uint32_t n_windows, n_eval_windows;
    uint32_t *rows_of_epoch; // [n_epochs]
    uint32_t n_epochs, epochs_capacity, counted_windows;
    uint64_t counted_rows, counted_steps;

    // ---- what a checkpoint holds beside the vectors
    uint64_t step, n_steps;
    struct ht_train_cursor cursor;
    uint64_t tokens, targets, log_bytes;
    double last_loss, last_held_out, first_held_out, best;
    uint64_t best_step, n_bad; // evaluations without gain since
    bool evaluated;            // at this step
    bool stopped_early;
    float *best_values; // with patience
    unsigned char data_checksum[HT_HASH_BYTES];

    bool resumed, saved, saved_evaluated; // saved: there is a checkpoint of this step
    struct ht_train_saver saver;
    struct ht_train_loader loader;
    struct ht_train_opening opening;
    size_t save_bytes;   // that a piece writes or reads of a checkpoint
    size_t piece_values; // that a piece draws or copies
    size_t finished_at;  // values of the end that are there
    unsigned finishing;  // pieces behind them that are done

    // ---- the step or evaluation at hand
    uint32_t at, n_at; // the micro-batch's first sequence, and its sequences
    uint32_t eval_window, eval_row;
    double loss_sum, weight_sum, grad_norm, lr;
    double began_s, busy_s, entered_s; // of the step, in seconds spent here; before this call; of this call
};

// ---- schedule (trainer_schedule.c): the learning rate of optimizer step `step` (from 1) of n_steps
double ht_train_rate(const struct hearth_train_params *params, uint64_t step, uint64_t n_steps);

// ---- identity and manifest (trainer_identity.c)
// init: checksum of what it begins from; NULL: of a new adapter
HT_MUST_USE enum hearth_status ht_train_identity(struct hearth_trainer *t, const unsigned char init[HT_HASH_BYTES],
                                                 struct hearth_error *err);
// INVALID with the first thing that differs.
HT_MUST_USE enum hearth_status ht_train_same(const struct hearth_trainer *t, const char *text, size_t len_bytes,
                                             struct hearth_error *err);
// JSON as text, and the manifest; freed with ht_free. NULL: memory is short.
// Numbers with as many digits as tell floats apart.
char *ht_train_json(const json_t *value, size_t flags);
HT_MUST_USE enum hearth_status ht_train_manifest(const struct hearth_trainer *t, char **text,
                                                 struct hearth_error *err);

// ---- the checkpoint (trainer_state.c)
// A piece of one; the state must not change before it is done.
HT_MUST_USE enum hearth_status ht_train_save(struct hearth_trainer *t, bool *done, struct hearth_error *err);
void ht_train_save_drop(struct hearth_trainer *t); // one that is not done
// A piece of reading one into graph and trainer. NOT_FOUND: there is none.
HT_MUST_USE enum hearth_status ht_train_load(struct hearth_trainer *t, bool *done, struct hearth_error *err);
void ht_train_load_drop(struct hearth_trainer *t); // one that is not done

// ---- log and results (trainer_files.c)
HT_MUST_USE enum hearth_status ht_train_report(struct hearth_trainer *t, const struct hearth_train_step *step,
                                               struct hearth_error *err);
// The log ends where the checkpoint was made.
HT_MUST_USE enum hearth_status ht_train_log_cut(struct hearth_trainer *t, struct hearth_error *err);
// A piece of the end.
HT_MUST_USE enum hearth_status ht_train_finish(struct hearth_trainer *t, bool *done, struct hearth_error *err);
// t->adapter becomes what has been learnt so far, lineage included, at once.
HT_MUST_USE enum hearth_status ht_train_values(struct hearth_trainer *t, struct hearth_error *err);
// folder/name, freed with ht_free; NULL when memory is short.
char *ht_train_path(const struct hearth_trainer *t, const char *name);

// ---- adapters (trainer_adapter.c)
// The run's own, its values still 0.
HT_MUST_USE enum hearth_status ht_train_adapter(struct hearth_trainer *t, struct hearth_error *err);
// Its first values [from, from + n), drawn or those of params.init.
void ht_train_adapter_values(struct hearth_trainer *t, size_t from, size_t n);
HT_MUST_USE enum hearth_status ht_train_adapter_copy(struct hearth_adapter **copy, const struct hearth_adapter *from,
                                                     struct hearth_error *err);

// ---- the beginning (trainer_open.c): a piece of it
HT_MUST_USE enum hearth_status ht_train_open(struct hearth_trainer *t, struct hearth_error *err);

// ---- pieces (trainer_run.c)
HT_MUST_USE enum hearth_status ht_train_piece(struct hearth_trainer *t, struct hearth_error *err);

#endif
