// SPDX-License-Identifier: Apache-2.0
// Evaluation inside the engine: what the parts of eval_*.c share. Models stand behind function pointers, so that tests
// score with known log-probabilities. One thread per object; the engine thread or a command's main thread.
#ifndef HT_EVAL_H
#define HT_EVAL_H
#include <jansson.h>

#include "engine/base/error.h"
#include "engine/learn.h"
#include "engine/learn/data.h"

struct hearth_scorer {
    struct hearth_engine *engine;
    struct hearth_session *session;
    size_t n_vocab, chunk;   // rows of logits held at once
    unsigned adapter, held_adapter;
    int32_t *held;           // what the session's cache holds
    size_t n_held, held_capacity;
    float *logits;           // (chunk, n_vocab)
};
// -ln softmax(row)[target] with its sum in double; NaN if a logit is not a number. *best: none is larger.
double ht_eval_row(const float *row, size_t n, int32_t target, bool *best);

// Ids of a text; *ids is the caller's to ht_free.
HT_MUST_USE enum hearth_status ht_eval_tokenize(const struct hearth_engine *engine, const char *text, size_t len_bytes,
                                                unsigned flags, int32_t **ids, size_t *n_ids,
                                                struct hearth_error *err);
// Bytes that ids stand for, control tokens spelt out.
HT_MUST_USE enum hearth_status ht_eval_bytes(const struct hearth_engine *engine, const int32_t *ids, size_t n_ids,
                                             uint64_t *bytes, struct hearth_error *err);
uint64_t ht_eval_words(const char *text, size_t len_bytes); // runs between ASCII white space

// ---------------------------------------------------------------- records of a task file (eval_items.c)

enum ht_task_skip { // hearth_task_skip_names
    HT_TASK_NOT_JSON,
    HT_TASK_NOT_OBJECT,
    HT_TASK_MISSING, // a field is missing or of another kind
    HT_TASK_NO_SUCH, // the answer is none of the choices
    HT_TASK_TOO_LONG,
    HT_TASK_DAMAGED, // half-written, too large, nested too deeply
};

struct ht_task_file {
    struct ht_data_stream stream;
    struct ht_data_pool pool; // texts made for the record at hand
    json_t *value;
    uint64_t line;
    struct hearth_task_counts *counts;
};
HT_MUST_USE enum hearth_status ht_task_open(struct ht_task_file *file, const char *path,
                                            struct hearth_task_counts *counts, struct hearth_error *err);
void ht_task_close(struct ht_task_file *file);
// The next object; NULL in *value at the end. What is no object is counted. It lives until the next call.
HT_MUST_USE enum hearth_status ht_task_next(struct ht_task_file *file, const json_t **value, struct hearth_error *err);
void ht_task_skip(struct ht_task_file *file, enum ht_task_skip reason);
double ht_task_done(const struct ht_task_file *file); // share of the file
// The first field of these that is a text; {NULL} if there is none.
struct ht_text ht_task_field(const json_t *value, const char *const *keys);
const char *ht_task_string(struct ht_data_pool *pool, struct ht_text text); // NUL-terminated; "" on failure

// ---------------------------------------------------------------- choices (eval_choices.c)

struct ht_choice_model {
    enum hearth_status (*score)(void *user, struct ht_text context, struct ht_text answer, double *log_p,
                                unsigned *n_tokens, bool *best, struct hearth_error *err); // CONTEXT: too long
    void *user;
};
HT_MUST_USE enum hearth_status ht_choices_run(const struct ht_choice_model *model,
                                              const struct hearth_choices_params *params, struct hearth_choices *out,
                                              struct hearth_error *err);

// ---------------------------------------------------------------- generated answers (eval_gen.c, eval_match.c)

struct ht_gen_made {
    char *text; // the model's, NUL-terminated, until its next answer
    size_t len_bytes;
    unsigned n_tokens;
    enum hearth_stop_reason stop;
};
struct ht_gen_model {
    enum hearth_status (*answer)(void *user, const struct hearth_message *messages, size_t n_messages,
                                 struct ht_text prompt, struct ht_gen_made *made, struct hearth_error *err);
    void *user; // messages NULL: the prompt as it is
};
HT_MUST_USE enum hearth_status ht_gen_run(const struct ht_gen_model *model, const struct hearth_gen_params *params,
                                          struct hearth_gen *out, struct hearth_error *err);

struct ht_match;
HT_MUST_USE enum hearth_status ht_match_create(struct ht_match **matcher, enum hearth_match match,
                                                 const char *pattern, struct hearth_error *err);
void ht_match_destroy(struct ht_match **matcher);
// What of a NUL-terminated text is compared, in memory of the pool; NULL: nothing is found. `reference`: it is the
// record's answer, not the model's.
const char *ht_match_take(const struct ht_match *matcher, struct ht_data_pool *pool, const char *text,
                            bool reference);
// Both as taken. *score: F1, else 1 or 0.
bool ht_match_compare(const struct ht_match *matcher, struct ht_data_pool *pool, const char *made,
                        const char *wanted, double *score);

#endif
