// SPDX-License-Identifier: Apache-2.0
// What the parts of `hearth eval` share. Main thread.
#ifndef HEARTH_TOOLS_EVAL_H
#define HEARTH_TOOLS_EVAL_H
#include <jansson.h>

#include "engine/learn.h"
#include "tools/models.h"
#include "tools/progress.h"

struct eval_words {
    struct model_options model;
    struct cli_list adapters, data, stop;
    const char *mask, *form, *shots, *match, *pattern;
    uint64_t window, stride, seq, seed, resamples, limit, max_tokens;
    double held_out, confidence, temperature;
    bool chunks, lines, items, raw;
};

struct eval {
    const struct cli *cli;
    const struct eval_words *words;
    struct hearth_engine *engine;
    struct hearth_engine_info info;
    struct hearth_scorer *scorer;
    struct progress bar;
    uint64_t bytes; // of the file under the bar
};

int eval_open(struct eval *eval, unsigned n_positions); // the engine; n_positions 0 = at most 2048
int eval_open_scorer(struct eval *eval);
void eval_close(struct eval *eval);
// The sum of adapters, or the base for no words and for the one word "base".
int eval_adapter(struct eval *eval, const struct cli_list *words, unsigned *id);
uint64_t eval_file_bytes(const char *path);
// Adds what says which model and adapters gave the numbers; prints and frees the object.
int eval_print(struct eval *eval, json_t *object);
void eval_print_skips(const char *path, const char *reason, uint64_t n, uint64_t line);
json_t *eval_number(double value); // null for NaN

// The verbs. args[0] is the verb.
int eval_ppl(struct eval *eval);
int eval_loss(struct eval *eval);
int eval_compare(struct eval *eval);
int eval_choices(struct eval *eval);
int eval_gen(struct eval *eval);

#endif
