// SPDX-License-Identifier: Apache-2.0
// libhearth, learning: training data, adapters, the trainer. Public, installed as <hearth/learn.h>.
//
// A reader streams one file as records in one normal form; a set puts several files through duplicate removal, the
// train/held-out split and the mixture, renders each record with the engine's chat template and says for every token
// how much it is a target. Memory is bounded by the longest record and a fixed number of bytes per record kept.
// Each object belongs to one thread at a time. The conventions of engine.h hold.
#ifndef HEARTH_LEARN_H
#define HEARTH_LEARN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine.h"
#include "status.h"

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

// ---------------------------------------------------------------- records

// Names are what a user writes after "FILE:".
#define HEARTH_DATA_FORMAT_MAP(X)                \
    X(AUTO, "auto")                              \
    X(ALPACA, "alpaca")                          \
    X(DOLLY, "dolly")                            \
    X(SHAREGPT, "sharegpt")                      \
    X(BAIZE, "baize")                            \
    X(DAILY, "dailydialog")                      \
    X(DAILY_DETOK, "dailydialog-detok")          \
    X(MESSAGES, "messages")                      \
    X(CHATGPT, "chatgpt")                        \
    X(OASST, "oasst")                            \
    X(PREFERENCE, "preference")                  \
    X(EXPORT, "hearth")                          \
    X(TEXT, "text")

enum hearth_data_format {
#define HEARTH_DATA_FORMAT_ENUM(name, text) HEARTH_DATA_##name,
    HEARTH_DATA_FORMAT_MAP(HEARTH_DATA_FORMAT_ENUM)
#undef HEARTH_DATA_FORMAT_ENUM
        HEARTH_DATA_N_FORMATS
};
const char *hearth_data_format_name(enum hearth_data_format format); // never NULL
// False for an unknown name.
bool hearth_data_format_find(const char *name, enum hearth_data_format *format);

// Why a record was left out.
#define HEARTH_DATA_SKIP_MAP(X)                                                     \
    X(NOT_JSON, "not valid JSON")                                                   \
    X(NOT_UTF8, "not UTF-8 text")                                                   \
    X(CUT_OFF, "half-written: the file ends inside it")                             \
    X(TOO_LARGE, "more bytes than a record may have")                               \
    X(TOO_DEEP, "nested too deeply")                                                \
    X(NOT_OBJECT, "not an object")                                                  \
    X(BEHIND, "stands behind the array of records")                                 \
    X(MISSING_FIELD, "a field is missing or of another kind")                       \
    X(EMPTY, "question or answer is empty")                                         \
    X(UNKNOWN_ROLE, "a role that is not known")                                     \
    X(NO_ANSWER, "no answer to learn from")                                         \
    X(TOO_FEW_TURNS, "at most one turn")                                            \
    X(NOT_ALTERNATING, "speakers do not take turns")                                \
    X(FOREIGN_NAME, "names another assistant or its maker")                         \
    X(RATE_LIMIT, "an answer is a rate-limit notice")                               \
    X(TOO_SHORT, "fewer than 16 characters")                                        \
    X(SAME_ID, "id seen before")                                                    \
    X(PLUGINS, "uses plugins")                                                      \
    X(SAME_FIRST_PAIR, "first question and answer seen before")                     \
    X(BROKEN_LIST, "broken list numbers")                                           \
    X(REPEATED_DIGITS, "a digit repeated nine times or more")                       \
    X(CYCLE, "its messages form a circle")                                          \
    X(DUPLICATE, "duplicate")                                                       \
    X(NEAR_DUPLICATE, "near-duplicate")                                             \
    X(TEMPLATE, "the chat template cannot express it")                              \
    X(TOOLS, "calls tools, for which the chat template has no form")                \
    X(TOO_LONG, "more tokens than a sequence")                                      \
    X(PAIR_TOO_LONG, "one question with its answer is longer than a sequence")      \
    X(NO_TARGET, "nothing in it is a target")

enum hearth_data_skip {
#define HEARTH_DATA_SKIP_ENUM(name, text) HEARTH_DATA_SKIP_##name,
    HEARTH_DATA_SKIP_MAP(HEARTH_DATA_SKIP_ENUM)
#undef HEARTH_DATA_SKIP_ENUM
        HEARTH_DATA_N_SKIPS
};
const char *hearth_data_skip_text(enum hearth_data_skip skip); // never NULL

// What was changed in records that were kept.
#define HEARTH_DATA_FIX_MAP(X)                                     \
    X(LEADING, "turns before the first question dropped")          \
    X(TRAILING, "a question without an answer dropped")            \
    X(STOPPED, "cut before an empty or unprintable turn")          \
    X(HTML, "HTML made Markdown")                                  \
    X(CITATIONS, "citation marks removed")                         \
    X(HIDDEN, "hidden or technical messages passed over")          \
    X(MERGED, "an answer's parts joined")                          \
    X(SPLIT, "split to fit a sequence")                            \
    X(TRUNCATED, "truncated to a sequence")                        \
    X(TOOLS, "offered tools left out: none was called, and the chat template has no form for them")

enum hearth_data_fix {
#define HEARTH_DATA_FIX_ENUM(name, text) HEARTH_DATA_FIX_##name,
    HEARTH_DATA_FIX_MAP(HEARTH_DATA_FIX_ENUM)
#undef HEARTH_DATA_FIX_ENUM
        HEARTH_DATA_N_FIXES
};
const char *hearth_data_fix_text(enum hearth_data_fix fix); // never NULL

struct hearth_data_turn {
    enum hearth_role role;
    const char *text;
    size_t len_bytes;
    const char *input; // a question's second field (Alpaca's "input", Dolly's "context"); NULL = none
    size_t input_len_bytes;
    float weight; // of its tokens as targets: 1 for answers, 0 else, unless the file says otherwise
};

// Valid until the reader's or set's next call.
struct hearth_data_record {
    const char *id;     // the file's, or made of the content; never NULL
    const char *source; // the file's name without its folders
    const char *license, *lang, *teacher; // "" = not said
    const struct hearth_data_turn *turns;
    size_t n_turns;
    // A preference pair: `rejected` would stand in the place of the turns from n_shared on. n_rejected 0 = none.
    const struct hearth_data_turn *rejected;
    size_t n_rejected, n_shared;
    bool pair_only; // the good answer is in a record of its own too: for preference learning only
    bool raw;       // plain text: one turn, no chat template
    uint64_t line;  // where it begins in the file, from 1
};

struct hearth_data_counts {
    uint64_t n_records; // that came out, and their turns; those with pair_only are counted in n_pairs alone
    uint64_t n_turns, n_pairs;
    uint64_t skipped[HEARTH_DATA_N_SKIPS];
    uint64_t fixed[HEARTH_DATA_N_FIXES];
    uint64_t first_line[HEARTH_DATA_N_SKIPS]; // of the first one skipped for that reason; 0 = none
};

struct hearth_data_reader;
struct hearth_data_reader_params {
    const char *path;
    enum hearth_data_format format; // AUTO: by the first records
    const char *license, *lang;     // of a file that does not say; NULL = ""
    bool keep_foreign_names;        // ShareGPT: keep conversations that name another assistant
};
// FORMAT for a file that is empty, not text, or of no known format: the message names file and line. On failure *reader
// is NULL.
enum hearth_status hearth_data_open(struct hearth_data_reader **reader,
                                    const struct hearth_data_reader_params *params, struct hearth_error *err);
// The last record is gone with it.
void hearth_data_close(struct hearth_data_reader **reader);
// *record = NULL at the end. A record that cannot be used is counted and passed over.
enum hearth_status hearth_data_next(struct hearth_data_reader *reader, const struct hearth_data_record **record,
                                    struct hearth_error *err);
// Of what was read so far, and the format that was found (never AUTO).
void hearth_data_get_counts(const struct hearth_data_reader *reader, struct hearth_data_counts *counts);
enum hearth_data_format hearth_data_get_format(const struct hearth_data_reader *reader);

// ---------------------------------------------------------------- sets: tokens and masks

enum hearth_data_mask {
    HEARTH_DATA_MASK_ASSISTANT = 0, // every answer and the end-of-turn bytes after it, by its turn's weight
    HEARTH_DATA_MASK_ALL,           // everything; an answer of weight 0 stays 0
    HEARTH_DATA_MASK_LAST,          // the last answer only
    HEARTH_DATA_MASK_LEAD,          // as ASSISTANT, and a BOS right before an answer (Phoenix)
};
enum hearth_data_long {
    HEARTH_DATA_LONG_SPLIT = 0, // at pair borders; a pair that is too long alone is left out and counted
    HEARTH_DATA_LONG_RIGHT,     // the end is cut off
    HEARTH_DATA_LONG_LEFT,      // the beginning is cut off
    HEARTH_DATA_LONG_DROP,      // left out
};
struct hearth_data_style {
    enum hearth_data_mask mask;
    enum hearth_data_long too_long;
    unsigned n_seq; // its sequence length; 0 = none of its own
};
// How known systems were trained: "assistant", "all", "last", "alpaca", "vicuna", "llmtune" … False: unknown name.
bool hearth_data_style_find(const char *name, struct hearth_data_style *style);
const char *const *hearth_data_style_names(void); // NULL-terminated

struct hearth_data_file {
    const char *path;
    enum hearth_data_format format;
    double weight; // how often each of its records appears in an epoch; 0.5 = half of them, by the seed
    const char *license, *lang;
    const char *name; // that a run's identity and lineage tell; NULL = the path's last part
};

enum { HEARTH_DATA_MAX_FILES = 256 };

struct hearth_data_set;
struct hearth_data_set_params { // zero-initialise, then hearth_data_set_default
    const struct hearth_data_file *files;
    size_t n_files;
    const struct hearth_engine *engine; // tokenizer and template; NULL = records only. Must outlive the set
    struct hearth_data_style style;
    unsigned n_seq;    // tokens of a sequence; 0 = the style's, else the model's context
    double held_out;   // share of the conversations that is kept for evaluation [0, 1)
    double near;       // Jaccard likeness from which on records are duplicates; 0 = exact ones only
    bool keep_duplicates;
    bool keep_foreign_names;
    uint64_t seed;
    uint32_t epoch; // which records of a file with a fractional weight take part
};
// Sets near to 0.8 and held_out to 0.01.
void hearth_data_set_default(struct hearth_data_set_params *params);

struct hearth_data_sample { // valid until the next call
    const struct hearth_data_record *record; // the piece: its turns are those of the sample
    size_t file;                             // index of its file
    unsigned piece;                          // of a conversation that was split: 0, 1 …
    bool held_out;
    unsigned copies;      // in this epoch; 0 = not in this one
    const int32_t *ids;   // NULL without an engine
    const float *weights; // of ids[i] as the target of what stands before; weights[0] is 0
    size_t n_tokens, n_targets;
    // Of a pair: its turns before n_shared and the rejected side instead of the rest. NULL and 0 = none.
    const int32_t *rejected_ids;
    const float *rejected_weights;
    size_t n_rejected_tokens, n_rejected_targets;
};

// Files are opened one after another, as their records are asked for; path, license and lang are copied. INVALID: no
// files, too many, or a parameter outside of its range.
enum hearth_status hearth_data_set_open(struct hearth_data_set **set, const struct hearth_data_set_params *params,
                                        struct hearth_error *err);
void hearth_data_set_close(struct hearth_data_set **set);
// *sample = NULL at the end. Of a pair both sides fit into a sequence.
enum hearth_status hearth_data_set_next(struct hearth_data_set *set, const struct hearth_data_sample **sample,
                                        struct hearth_error *err);
// Of a file: what its reader and the set left out together, and the format that was found.
void hearth_data_set_get_counts(const struct hearth_data_set *set, size_t file, struct hearth_data_counts *counts,
                                enum hearth_data_format *format);
unsigned hearth_data_set_seq(const struct hearth_data_set *set); // 0 = no limit

// Splitting is by conversation id and seed alone: another record moves none.
bool hearth_data_is_held_out(const char *id, uint64_t seed, double share);

// ---------------------------------------------------------------- packing

struct hearth_data_place {
    uint32_t row, start; // which row, and where in it
};
// Best fit, longest first, into rows of n_seq tokens. INVALID for a length of 0 or above n_seq. The same lengths give
// the same places. places has n elements.
enum hearth_status hearth_data_pack(const uint32_t *lengths, size_t n, uint32_t n_seq,
                                    struct hearth_data_place *places, size_t *n_rows, struct hearth_error *err);

// One row of n_seq positions. Row r predicts target[r] with weight[r]; the last position of a segment predicts nothing.
struct hearth_data_row {
    int32_t *ids, *target; // target -1 = none
    uint32_t *pos;         // from 0 in each segment
    uint32_t *seg_from;    // first position of its segment: attention looks no further back
    float *weight;
};
// Puts a sample at `start`; INVALID if it does not fit in n_seq.
enum hearth_status hearth_data_row_put(const struct hearth_data_row *row, uint32_t n_seq, uint32_t start,
                                       const int32_t *ids, const float *weights, size_t n_tokens,
                                       struct hearth_error *err);

// ---------------------------------------------------------------- adapters (docs/adapters.md)

// A LoRA adapter in memory: y = W x + scale · B (A x) for each linear it has a part for.
struct hearth_adapter;

// The model that an adapter is for. The caller computes the SHA-256 of the whole file (64 lower-case hex digits).
struct hearth_adapter_base {
    const char *path;   // GGUF; only its header is read
    const char *sha256;
};

// Opens a GGUF-LoRA file, or a folder as PEFT writes it. With a base everything is checked against it: SHA-256 where
// the adapter tells one, architecture, the shape of every part; what does not fit is refused, and the base is recorded.
// Without one (NULL) a PEFT folder that names no base can be looked at and compared, but not written.
enum hearth_status hearth_adapter_open(struct hearth_adapter **adapter, const char *path,
                                       const struct hearth_adapter_base *base, struct hearth_error *err);
void hearth_adapter_close(struct hearth_adapter **adapter);
// A GGUF-LoRA file in f32, all or nothing; needs a known base. What stood at `path` is replaced.
enum hearth_status hearth_adapter_write_gguf(const struct hearth_adapter *adapter, const char *path,
                                             struct hearth_error *err);
// A PEFT folder: made if it is not there; one that holds an adapter already is refused. adapter_config.json is written
// last, so that a folder without it is no adapter.
enum hearth_status hearth_adapter_write_peft(const struct hearth_adapter *adapter, const char *folder,
                                             struct hearth_error *err);

struct hearth_adapter_info {
    const char *format;       // "gguf", "peft" or "memory"
    const char *name;         // "" = none
    const char *architecture; // "" = not known
    const char *base_name, *base_sha256; // "" = not known
    bool rslora;
    float dropout; // that it was trained with
    size_t n_targets;
    uint64_t n_params;
};
struct hearth_adapter_target {
    char name[64]; // of the base's tensor: "blk.0.attn_q.weight"
    unsigned n, k, rank;
    float alpha, scale;
    double norm_a, norm_b, norm_delta; // Frobenius; of scale · B A. NaN where it was not asked for
};
// Strings live as long as the adapter.
void hearth_adapter_get_info(const struct hearth_adapter *adapter, struct hearth_adapter_info *info);
// i < n_targets, in the order layer, linear. INVALID beyond. Computes the norms if `norms`.
enum hearth_status hearth_adapter_get_target(const struct hearth_adapter *adapter, size_t i, bool norms,
                                             struct hearth_adapter_target *target, struct hearth_error *err);

struct hearth_adapter_difference {
    char name[64];
    bool in_a, in_b;
    double norm_a, norm_b, norm_difference; // Frobenius norms of both products and of their difference
};
// For every linear that one of the two has. Both must be of one shape and one order of rows.
enum hearth_status hearth_adapter_diff(const struct hearth_adapter *a, const struct hearth_adapter *b,
                                       bool (*each)(void *user, const struct hearth_adapter_difference *one),
                                       void *user, struct hearth_error *err);

// ---------------------------------------------------------------- merging (docs/adapters.md)

struct hearth_merge_params { // zero-initialise
    const struct hearth_adapter_base *base;
    const struct hearth_adapter_use *uses; // each opened with this base; scales may be negative
    size_t n_uses;                         // [1..HEARTH_MAX_ADAPTERS]
    const char *type;                      // of the changed tensors: "keep" (or NULL), "f32", "f16", "q4_1", "q6_k" …
    bool (*progress)(void *user, double done); // share that is done, in [0, 1]; false cancels. May be NULL
    void *progress_user;
};
struct hearth_merge_report {
    size_t n_merged;        // tensors that were changed
    size_t n_other_type;    // of them: in another type than asked for, as their rows are not whole blocks of it
    double rms_change;      // root of the mean square of what the adapters add
    double rms_rounding;    // … of what writing the sums in their type adds: 0 for f32
};
// Writes the base with W + sum of scale · B A in place of each W that an adapter has a part for, as a whole GGUF file
// in one part; every other tensor and key is copied byte for byte, but for general.file_type where most values are now
// of another type. What was merged stands in keys hearth.merge.*. All or nothing; bounded memory. `report` may be NULL.
enum hearth_status hearth_adapter_merge(const char *path, const struct hearth_merge_params *params,
                                        struct hearth_merge_report *report, struct hearth_error *err);

// ---------------------------------------------------------------- training (docs/training.md)

// Trains an adapter on the model of an engine, on its packed weights, between the answers that the engine gives: the
// same thread calls hearth_engine_step and hearth_trainer_run, each run one or more pieces of some milliseconds.
// Same parameters, data and numerics id: the same bytes, however often it was interrupted.
struct hearth_trainer;

enum hearth_train_schedule { HEARTH_TRAIN_COSINE = 0, HEARTH_TRAIN_LINEAR, HEARTH_TRAIN_CONSTANT };
enum hearth_train_precision {
    HEARTH_TRAIN_AUTO = 0, // BF16 where the CPU has it, else F32; hearth_trainer_info says which
    HEARTH_TRAIN_F32,
    HEARTH_TRAIN_BF16,
};
enum hearth_train_moments { // of AdamW
    HEARTH_TRAIN_MOMENTS_F32 = 0,
    HEARTH_TRAIN_MOMENTS_8BIT, // two bytes for a value, not eight; other bytes come out
};
enum hearth_train_state {
    HEARTH_TRAIN_OPENING = 0, // what hearth_trainer_begin has left
    HEARTH_TRAIN_READING,     // the data set
    HEARTH_TRAIN_STEPPING,
    HEARTH_TRAIN_EVALUATING,  // held-out loss
    HEARTH_TRAIN_DONE,
};

struct hearth_train_part { // of a file that is saved: they come in order, the last one ends at size_bytes
    const char *name;
    size_t size_bytes, offset; // of the whole file; of this part in it
    const void *data;
    size_t len_bytes;
};
// Where a run's files go: "checkpoint.bin", and at the end "manifest.json". Each is replaced as a whole, when its last
// part was saved, or not at all, and stays after a power cut. NULL functions: files in `folder`, which exists; then
// "adapter.gguf" too, and "log.jsonl" with a line per step. With functions on_step tells the steps;
// hearth_trainer_adapter gives the adapter.
struct hearth_train_files {
    const char *folder;
    enum hearth_status (*save)(void *user, const struct hearth_train_part *part, struct hearth_error *err);
    // Fills `bytes` (len_bytes 0: nothing) with those from `offset` on; *size_bytes = of the whole file. Parts are
    // asked for in order. NOT_FOUND: no such file.
    enum hearth_status (*load)(void *user, const char *name, size_t offset, void *bytes, size_t len_bytes,
                               size_t *size_bytes, struct hearth_error *err);
    void *user;
};

struct hearth_train_step { // one optimizer step, or an evaluation
    uint64_t step, n_steps; // from 1
    double epoch;
    double loss;      // mean over the step's targets, nats
    double held_out;  // of an evaluation; NaN else
    double lr, grad_norm;
    uint64_t tokens, targets; // since the run began, all its parts
    double seconds;           // spent training in this process
    double tokens_per_second; // of this step
};

// Zero-initialise, then hearth_train_default, whose values are those in brackets. Others than a member takes: INVALID.
struct hearth_train_params {
    struct hearth_data_set_params data; // its engine is set by the trainer; strings are copied
    struct hearth_train_files files;
    const char *base_sha256; // of the model file; the caller computes it
    const char *name;        // of the adapter; NULL = ""
    const char *targets;     // ["all"] linears of the layers, or names joined by commas: "attn_q,attn_v"
    unsigned rank;           // [8] from 1 on
    float alpha;             // [16] above 0; what B A counts: alpha / rank
    float dropout;           // [0] share of what goes into A that is left out, below 1
    float lora_plus;         // [1] how many times faster than A B learns (LoRA+)
    float neftune;           // [0] alpha of NEFTune's noise on embeddings; 0 = none
    bool rslora;             // alpha / sqrt(rank) instead
    bool gaussian;           // A begins normally distributed instead of uniformly (PEFT's ways)
    const struct hearth_adapter *init; // goes on from this one (its targets, ranks and scales); NULL = a new one
    enum hearth_train_precision precision;
    enum hearth_train_schedule schedule;
    enum hearth_train_moments moments;
    bool checkpointing;    // keep less of each layer and compute it again: less memory, more time, the same bits
    unsigned n_batch;      // [4] sequences of n_seq tokens per optimizer step
    unsigned n_micro_rows; // rows computed together; 0 = chosen. Part of the run's identity
    double epochs;         // [3] a part of one is allowed
    uint64_t max_steps;    // 0 = by epochs
    double lr, warmup;     // [2e-4] at the top of the schedule; [0.03] share of the steps until there
    double beta1, beta2, eps, decay; // AdamW [0.9, 0.999, 1e-8, 0]
    double clip;           // [1] most that the norm of all gradients may be; 0 = any
    unsigned eval_every, checkpoint_every; // optimizer steps; 0 = at the end of an epoch / every 50 steps
    unsigned patience;     // evaluations without gain before it stops early; 0 = never
    uint64_t seed;
    bool resume;           // go on from the files' checkpoint; INVALID if it is of other parameters, data or numerics
    void (*on_step)(void *user, const struct hearth_train_step *step);
    void *user;
};
void hearth_train_default(struct hearth_train_params *params);

struct hearth_train_info {
    enum hearth_train_state state;
    struct hearth_train_step last; // step 0: none yet
    char precision[16];            // "f32", "bf16/amx", "bf16/avx512"
    char numerics_id[33];
    uint64_t n_train, n_held_out;  // samples; while READING, those that are there
    double evaluated;              // share of the evaluation under way
    uint64_t n_params, memory_bytes;
    uint64_t saved_step; // of the last checkpoint
    bool saving;         // a checkpoint was asked for and is not written yet
    bool stopped_early;
};

// Plans, takes its memory and gives it its first values. Nothing is read yet but the checkpoint.
enum hearth_status hearth_trainer_open(struct hearth_trainer **trainer, struct hearth_engine *engine,
                                       const struct hearth_train_params *params, struct hearth_error *err);
// The same without what takes long: hearth_trainer_run does that in pieces of its own, and fails where opening would.
// params->init must live while the state is OPENING; the memory is known at once.
enum hearth_status hearth_trainer_begin(struct hearth_trainer **trainer, struct hearth_engine *engine,
                                        const struct hearth_train_params *params, struct hearth_error *err);
// Works for about budget_ms (at least one piece; 0 = exactly one). A failure (a loss that is no number: NUMERIC, a full
// disk: IO) ends the run; the last good checkpoint is there.
enum hearth_status hearth_trainer_run(struct hearth_trainer *trainer, double budget_ms, struct hearth_error *err);
void hearth_trainer_get_info(const struct hearth_trainer *trainer, struct hearth_train_info *info);
// What was left out of a file and changed in it, and the format that was found. All 0 while the state is READING.
void hearth_trainer_get_counts(const struct hearth_trainer *trainer, size_t file, struct hearth_data_counts *counts,
                               enum hearth_data_format *format);
// Writes a checkpoint at the next border of an optimizer step that hearth_trainer_run reaches.
void hearth_trainer_checkpoint(struct hearth_trainer *trainer);
// What has been learnt so far; the caller closes it. Once the state is DONE this gives the trainer's own away and can
// be asked once; before, it is a copy, made between steps.
enum hearth_status hearth_trainer_adapter(struct hearth_trainer *trainer, struct hearth_adapter **adapter,
                                          struct hearth_error *err);
// Lets go of everything; what came after the last checkpoint is lost.
void hearth_trainer_close(struct hearth_trainer **trainer);

// ---------------------------------------------------------------- evaluation (docs/evaluation.md)

// Log-probabilities of token sequences by one session of an engine: pieces of a text's logits, never all of them.
struct hearth_scorer;
// Takes a session of the engine. The engine must outlive it.
enum hearth_status hearth_scorer_open(struct hearth_scorer **scorer, struct hearth_engine *engine,
                                      struct hearth_error *err);
void hearth_scorer_close(struct hearth_scorer **scorer);
void hearth_scorer_use(struct hearth_scorer *scorer, unsigned adapter); // 0 = the base alone
// nll[i] = -ln p(ids[i] | ids[0..i)) where weights[i] is not 0, else 0; nll[0] is 0. weights NULL: all but the first.
// best[i] (may be NULL): no other id was likelier. Softmax sums are in double. What ids begins with in common with the
// call before is not computed again; rows that nothing asks for get no logits. Arrays have n_ids elements.
// NUMERIC: a logit is not a finite number.
enum hearth_status hearth_scorer_run(struct hearth_scorer *scorer, const int32_t *ids, size_t n_ids,
                                     const float *weights, double *nll, bool *best, struct hearth_error *err);

// One text: sums of negative log-probabilities (nats) over [0] all scored tokens and [1] those of answers.
struct hearth_ppl_text {
    double nll[2];
    uint64_t n_tokens[2];
    uint64_t bytes, words; // of the scored tokens; of the text, between white space
};
struct hearth_ppl { // zero-initialise; sums over texts
    struct hearth_ppl_text sum;
    double seed_sum[2]; // of exp(nll / n_tokens)
    uint64_t n_texts[2];
};
void hearth_ppl_add(struct hearth_ppl *ppl, const struct hearth_ppl_text *text);
void hearth_ppl_add_sums(struct hearth_ppl *ppl, const struct hearth_ppl *more); // of another file
struct hearth_ppl_numbers { // NaN where nothing was scored
    double seed_all, seed_response;   // (1/N) sum of exp(NLL_i / n_i) over texts
    double token_all, token_response; // exp(sum of NLL_i / sum of n_i)
    double bits_per_byte;             // sum of NLL / (ln 2 · bytes)
    double word;                      // exp(sum of NLL / words)
};
void hearth_ppl_get(const struct hearth_ppl *ppl, struct hearth_ppl_numbers *numbers);

// Which ids a window feeds, [begin, end), and which it scores, [from, end). With BOS every window but the first begins
// with one of its own, which takes a place.
struct hearth_window {
    size_t begin, from, end;
};
// The window after *at; {0} is before the first. Each token but an unscored first one is scored once, with at least
// window - stride tokens before it where the text has them. False: none is left.
bool hearth_window_next(struct hearth_window *at, size_t n_ids, size_t window, size_t stride, bool bos);

struct hearth_ppl_params { // zero-initialise
    const char *path;
    size_t window, stride; // 0: as much as the engine holds, at most 2048; half a window
    bool chunks;           // llama.cpp's way: whole chunks of `window` (512), the first id BOS, the second half scored
    bool lines;            // each line of a plain text is a text of its own
    bool (*progress)(void *user, double done); // false cancels
    void *user;
};
// Plain text. FORMAT: empty, not UTF-8, or shorter than chunks need.
enum hearth_status hearth_ppl_file(struct hearth_scorer *scorer, const struct hearth_ppl_params *params,
                                   struct hearth_ppl *ppl, struct hearth_error *err);

struct hearth_eval_record { // valid during the callback
    const struct hearth_data_sample *sample;
    double nll, weight;          // sums over its targets: weight · nll, and weight; their quotient is the loss
    struct hearth_ppl_text text; // [1] are the targets; [0] only with `all`
};
struct hearth_eval_data_params { // zero-initialise
    struct hearth_data_set_params data; // with the engine; a whole epoch's copies count once
    bool all;                           // score every token, not the targets alone
    int held_out;                       // 0 = every record, 1 = those that training holds out, -1 = the others
    bool (*each)(void *user, const struct hearth_eval_record *record); // false ends it
    void *user;
};
// counts (may be NULL) has an element per file.
enum hearth_status hearth_eval_data(struct hearth_scorer *scorer, const struct hearth_eval_data_params *params,
                                    struct hearth_data_counts *counts, struct hearth_error *err);

// Paired bootstrap over units (conversations) that both sides were scored on: difference = (sum of b - sum of a) / sum
// of weights. Units are drawn with replacement, by Philox of the seed; an interval is between the order statistics
// floor(n (1 - confidence) / 2) from either end.
struct hearth_bootstrap {
    double loss_a, loss_b, difference, low, high;
    double relative, relative_low, relative_high; // (loss_b - loss_a) / loss_a
    unsigned n_resamples;
};
// a, b, weights: n sums of weight · nll and of weights, one of each a unit. 1 to 1,000,000 resamples, confidence in
// (0, 1), else INVALID; NUMERIC: a sum that is not finite, or a weight not above 0. Pure; any thread.
enum hearth_status hearth_bootstrap_paired(const double *a, const double *b, const double *weights, size_t n,
                                           unsigned n_resamples, double confidence, uint64_t seed,
                                           struct hearth_bootstrap *out, struct hearth_error *err);

// ---- questions with choices, and answers that are compared: local JSON lines (docs/evaluation.md has the fields)

enum hearth_choice_form {
    HEARTH_CHOICE_AUTO = 0, // LETTERS for records with a subject or choices A to D, else TEXT
    HEARTH_CHOICE_TEXT,     // the choice's text after the context
    HEARTH_CHOICE_LETTERS,  // choices are listed, " A" to " D" after "Answer:" are compared
    HEARTH_CHOICE_LAST_WORD, // LAMBADA: is the last word what the model would say?
};
enum { HEARTH_CHOICE_MAX = 26, HEARTH_CHOICE_SCORES = 4, HEARTH_TASK_SKIPS = 6 };
// "acc", "acc_norm", "acc_bytes", "acc_tokens"; why a record was left out
extern const char *const hearth_choice_score_names[HEARTH_CHOICE_SCORES];
extern const char *const hearth_task_skip_names[HEARTH_TASK_SKIPS];

struct hearth_choice_item { // valid during the callback
    uint64_t line;
    const char *group; // the record's subject, "" = none
    unsigned n_choices, answer;
    double log_p[HEARTH_CHOICE_MAX];        // sums
    unsigned chosen[HEARTH_CHOICE_SCORES];  // by sum, by sum / characters, / bytes, / tokens
    bool best;                              // LAST_WORD: every token was the likeliest
};
struct hearth_task_counts {
    uint64_t n_items;
    uint64_t skipped[HEARTH_TASK_SKIPS], first_line[HEARTH_TASK_SKIPS];
};
struct hearth_choices {
    struct hearth_task_counts counts;
    uint64_t n_right[HEARTH_CHOICE_SCORES];
    uint64_t n_words, n_best; // LAST_WORD: items, and those that were said
    double macro;         // mean over groups of n_right[0] / n
    unsigned n_groups;
    double last_word_nll; // sum; with n_words the perplexity of the word
};
struct hearth_choices_params { // zero-initialise
    const char *path;
    enum hearth_choice_form form;
    const char *shots_path; // solved examples put before each question; NULL = none
    unsigned n_shots;       // of the same group where there are some, in file order
    uint64_t max_items;     // 0 = all
    bool (*each)(void *user, const struct hearth_choice_item *item, double done); // false ends it. May be NULL
    void *user;
};
// Records that cannot be used are counted and passed over; FORMAT: shots_path has none that can.
enum hearth_status hearth_eval_choices(struct hearth_scorer *scorer, const struct hearth_choices_params *params,
                                       struct hearth_choices *out, struct hearth_error *err);

// How a generated answer is compared with the record's.
#define HEARTH_MATCH_MAP(X)                                                                          \
    X(EXACT, "exact")       /* equal but for white space at the ends */                              \
    X(CONTAINS, "contains") /* occurs in it, letters' case apart */                                  \
    X(NUMBER, "number")     /* the last number in it */                                              \
    X(STRICT, "strict")     /* the number after "####" */                                            \
    X(REGEX, "regex")       /* what the pattern's first group, or the whole pattern, catches */      \
    X(F1, "f1")             /* words in common, without case, articles and punctuation; EM beside it */
enum hearth_match {
#define HEARTH_MATCH_ENUM(name, text) HEARTH_MATCH_##name,
    HEARTH_MATCH_MAP(HEARTH_MATCH_ENUM)
#undef HEARTH_MATCH_ENUM
        HEARTH_N_MATCHES
};
const char *hearth_match_name(enum hearth_match match); // never NULL
// False for an unknown name.
bool hearth_match_find(const char *name, enum hearth_match *match);

struct hearth_gen_item { // valid during the callback
    uint64_t line;
    const char *text; // generated
    size_t len_bytes;
    const char *taken; // what was compared; NULL = nothing could be extracted
    bool right;
    double score; // F1's; else 0 or 1
    unsigned n_tokens;
    enum hearth_stop_reason stop;
};
struct hearth_gen {
    struct hearth_task_counts counts;
    uint64_t n_right, n_nothing; // nothing: no answer could be extracted
    double score_sum;
};
struct hearth_gen_params { // zero-initialise
    const char *path;
    enum hearth_match match;
    const char *pattern;   // REGEX: POSIX extended; the last place that it matches counts
    bool chat;             // the prompt is a user's turn in the model's template
    const char *const *stop;
    size_t n_stop;
    unsigned max_tokens;   // 0 = 256
    unsigned adapter;      // hearth_engine_adapter_load's id; 0 = the base alone
    float temperature;            // 0 = greedy
    uint64_t seed, max_items;
    const char *shots_path;
    unsigned n_shots;
    bool (*each)(void *user, const struct hearth_gen_item *item, double done);
    void *user;
};
// On one session of the engine, which it makes and destroys. INVALID: REGEX without a pattern that compiles, or
// conversations without `chat`. Else as hearth_eval_choices.
enum hearth_status hearth_eval_gen(struct hearth_engine *engine, const struct hearth_gen_params *params,
                                   struct hearth_gen *out, struct hearth_error *err);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
