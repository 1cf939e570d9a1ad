// SPDX-License-Identifier: Apache-2.0
// hearth eval: what a model and its adapters make of texts, records and questions. Main thread, which is the engine
// thread too.
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tools/adapters.h"
#include "tools/eval.h"
#include "tools/hearth.h"
#include "tools/json_line.h"

static struct eval_words words = {
    .model = {.max_sessions = 1},
    .mask = "assistant",
    .form = "auto",
    .match = "exact",
    .resamples = 10000,
    .confidence = 0.95,
    .max_tokens = 256,
};

static const struct cli_option options[] = {
    {"model", 'm', CLI_TEXT, "MODEL", "file, or name of a model (default: the chosen one)", &words.model.model, 0, 0,
     NULL},
    {"adapter", 0, CLI_LIST, "A[:scale]", "a LoRA adapter at this scale (1); repeated: their sum", &words.adapters, 0,
     0, NULL},
    {"exact", 0, CLI_FLAG, NULL, "float32 activations and KV, one chain per output (slow)", &words.model.exact, 0, 0,
     NULL},
    {"kv", 0, CLI_TEXT, "TYPE", "KV cache: f16, q8 or f32", &words.model.kv, 0, 0, NULL},
    {"template", 0, CLI_TEXT, "NAME", "chat template (default: the model file's)", &words.model.chat_template, 0, 0,
     NULL},
    {"window", 0, CLI_COUNT, "N", "ppl: tokens a text is seen through (2048, or what the model has)", &words.window, 4,
     1 << 22, NULL},
    {"stride", 0, CLI_COUNT, "N", "ppl: tokens that each window scores (half of it)", &words.stride, 1, 1 << 22, NULL},
    {"chunks", 0, CLI_FLAG, NULL, "ppl: llama.cpp's way: chunks of 512, the second half of each", &words.chunks, 0, 0,
     NULL},
    {"lines", 0, CLI_FLAG, NULL, "ppl: each line of a plain text is a text", &words.lines, 0, 0, NULL},
    {"data", 'd', CLI_LIST, "F[:FORMAT]", "loss, compare: records as hearth train takes them; several are one",
     &words.data, 0, 0, NULL},
    {"mask", 0, CLI_TEXT, "NAME", "what counts: assistant (default), all, last, or a system's style", &words.mask, 0,
     0, NULL},
    {"seq", 0, CLI_COUNT, "N", "tokens of a sequence (the style's, or 2048)", &words.seq, 16, 1 << 22, NULL},
    {"held-out", 0, CLI_REAL, "SHARE", "only those that training with this share and --seed holds out",
     &words.held_out, 0, 0.99, NULL},
    {"seed", 0, CLI_COUNT, "N", "of the split, of the bootstrap and of drawing (0)", &words.seed, 0, 0, NULL},
    {"resamples", 0, CLI_COUNT, "N", "compare: of the bootstrap (10000)", &words.resamples, 1, 1000000, NULL},
    {"confidence", 0, CLI_REAL, "SHARE", "compare: of the interval (0.95)", &words.confidence, 0.01, 0.9999, NULL},
    {"form", 0, CLI_TEXT, "NAME", "choices: auto (default), text, letters, last-word", &words.form, 0, 0, NULL},
    {"shots", 0, CLI_TEXT, "FILE[:N]", "choices, gen: N (5) solved examples before each question", &words.shots, 0, 0,
     NULL},
    {"match", 0, CLI_TEXT, "NAME", "gen: exact (default), contains, number, strict, regex, f1", &words.match, 0, 0,
     NULL},
    {"pattern", 0, CLI_TEXT, "REGEX", "gen: what is taken from an answer; POSIX extended", &words.pattern, 0, 0, NULL},
    {"raw", 0, CLI_FLAG, NULL, "gen: prompts as they are, without the chat template", &words.raw, 0, 0, NULL},
    {"stop", 0, CLI_LIST, "TEXT", "gen: an answer ends before it", &words.stop, 0, 0, NULL},
    {"max-tokens", 0, CLI_COUNT, "N", "gen: of an answer (256)", &words.max_tokens, 1, 1 << 20, NULL},
    {"temperature", 0, CLI_REAL, "T", "gen: 0 (default) takes the likeliest", &words.temperature, 0, 10, NULL},
    {"limit", 0, CLI_COUNT, "N", "choices, gen: the first N questions", &words.limit, 1, 1e9, NULL},
    {"items", 0, CLI_FLAG, NULL, "choices, gen: a JSON line for each question", &words.items, 0, 0, NULL},
};

// ---------------------------------------------------------------- shared

int eval_open(struct eval *eval, unsigned n_positions)
{
    struct model_options model = eval->words->model;
    char path[PATHS_MAX];
    struct hearth_fit fit;
    int code = models_find(path, model.model);
    if (code)
        return code;
    const struct hearth_engine_params params = {.model_path = path, .device = eval->cli->device, .n_ctx = 64};
    if (!hearth_engine_fit(&params, &fit, NULL)) { // else opening tells what is wrong
        unsigned most = n_positions > eval->words->seq ? n_positions : (unsigned)eval->words->seq;
        if (most > fit.n_ctx_train)
            return cli_wrong(eval->cli, "--window or --seq is %u tokens, the model was made for at most %u", most,
                             fit.n_ctx_train);
        if (!n_positions)
            n_positions = fit.n_ctx_train < 2048 ? fit.n_ctx_train : 2048;
    }
    model.n_ctx = n_positions;
    code = models_open(&eval->engine, eval->cli, &model);
    if (!code)
        hearth_engine_get_info(eval->engine, &eval->info);
    return code;
}

int eval_open_scorer(struct eval *eval)
{
    struct hearth_error err = {0};
    return hearth_scorer_open(&eval->scorer, eval->engine, &err) ? cli_fail_status(&err) : CLI_OK;
}

void eval_close(struct eval *eval)
{
    progress_end(&eval->bar);
    hearth_scorer_close(&eval->scorer);
    hearth_engine_close(&eval->engine);
}

int eval_adapter(struct eval *eval, const struct cli_list *list, unsigned *id)
{
    *id = 0;
    if (!list->n || (list->n == 1 && !strcmp(list->items[0], "base")))
        return CLI_OK;
    return adapters_load(eval->engine, eval->words->model.model, list, id);
}

uint64_t eval_file_bytes(const char *path)
{
    struct stat st;
    return stat(path, &st) ? 0 : (uint64_t)st.st_size;
}

json_t *eval_number(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

int eval_print(struct eval *eval, json_t *object)
{
    json_t *adapters = json_array();
    for (size_t i = 0; i < eval->words->adapters.n; i++)
        json_array_append_new(adapters, json_string(eval->words->adapters.items[i]));
    json_object_set_new(object, "model", json_string(eval->info.name));
    json_object_set_new(object, "adapters", adapters);
    json_object_set_new(object, "numerics_id", json_string(eval->info.numerics_id));
    return json_line(object, 0);
}

void eval_print_skips(const char *path, const char *reason, uint64_t n, uint64_t line)
{
    if (n)
        cli_note("%s: left out %llu: %s (first: line %llu)", path, (unsigned long long)n, reason,
                 (unsigned long long)line);
}

// ---------------------------------------------------------------- the command

static const struct {
    const char *name;
    int (*run)(struct eval *eval);
    int min_args, max_args; // beside the verb
} verbs[] = {
    {"ppl", eval_ppl, 1, 256},     {"loss", eval_loss, 0, 0}, {"compare", eval_compare, 2, 2},
    {"choices", eval_choices, 1, 1}, {"gen", eval_gen, 1, 1},
};

int cmd_eval(int argc, char **argv)
{
    struct cli cli = {
        .name = "eval",
        .usage = "ppl FILE... | loss --data F | compare A B --data F | choices FILE | gen FILE",
        .about =
            "Measures a model with or without adapters. ppl: perplexities and bits per byte of texts and of records.\n"
            "loss: the loss of each record, as JSON lines. compare: two adapters (or base) on the same records, with\n"
            "an interval. choices: questions by the likelihood of their answers. gen: answers in the model's words.\n"
            "What the numbers mean and which fields the files have: docs/evaluation.md.",
        .example = "hearth eval compare base evening.gguf -m default --data chats.jsonl --held-out 0.05",
        .options = options,
        .n_options = sizeof options / sizeof *options,
        .min_args = 1,
        .max_args = 257,
    };
    int code = cli_parse(&cli, argc, argv);
    if (code >= 0)
        return code;
    for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++) {
        if (strcmp(cli.args[0], verbs[i].name))
            continue;
        if (cli.n_args - 1 < verbs[i].min_args || cli.n_args - 1 > verbs[i].max_args)
            return cli_wrong(&cli, "%s wants %s", verbs[i].name,
                             verbs[i].max_args == 2   ? "two adapters, or 'base' and one"
                             : verbs[i].max_args == 0 ? "its files as --data"
                             : verbs[i].max_args == 1 ? "one file"
                                                      : "a file");
        if (verbs[i].max_args % 2 == 0 && verbs[i].max_args < 3 && !words.data.n)
            return cli_wrong(&cli, "%s wants --data FILE", verbs[i].name);
        struct eval eval = {.cli = &cli, .words = &words};
        code = verbs[i].run(&eval);
        eval_close(&eval);
        return code;
    }
    return cli_wrong(&cli, "'%s' is none of ppl, loss, compare, choices, gen", cli.args[0]);
}
