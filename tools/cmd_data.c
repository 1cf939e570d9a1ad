// SPDX-License-Identifier: Apache-2.0
// hearth data: what a file of training data holds and what would be learned from it. Main thread.
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "engine/learn.h"
#include "tools/data_box.h"
#include "tools/data_file.h"
#include "tools/data_record.h"
#include "tools/hearth.h"
#include "tools/json_line.h"
#include "tools/models.h"

struct inspection {
    struct hearth_data_file files[HEARTH_DATA_MAX_FILES];
    size_t n_files;
    struct hearth_engine *engine;
    struct hearth_data_set *set;
    uint64_t n_shown, n_samples, n_tokens, n_targets, n_held_out, n_epoch;
    uint32_t *lengths; // of the samples that train in this epoch, once for each copy
    size_t n_lengths, lengths_capacity;
    size_t n_rows;
    bool color, json;
};

// ---- the masked view

static void print_clean(const char *text, size_t len_bytes)
{
    for (size_t i = 0; i < len_bytes; i++) {
        unsigned char c = (unsigned char)text[i];
        bool c1 = c == 0xC2 && i + 1 < len_bytes && (unsigned char)text[i + 1] < 0xA0;
        if (c1)
            i++;
        fputc(c1 || (c < 0x20 && c != '\n' && c != '\t') || c == 0x7F ? '?' : c, stdout);
    }
}

static void mark(const struct inspection *x, bool target, bool begin)
{
    if (!target)
        return;
    if (x->color)
        fputs(begin ? "\033[1;32m" : "\033[0m", stdout);
    else
        fputs(begin ? "\u27E6" : "\u27E7", stdout);
}

// A run of tokens that are all targets, or none of them.
static int print_run(const struct inspection *x, const int32_t *ids, size_t n, bool target)
{
    struct hearth_error err = {0};
    size_t len = 0;
    hearth_detokenize(x->engine, ids, n, true, NULL, 0, &len, &err);
    char *text = malloc(len + 1);
    if (!text)
        return cli_fail(CLI_OSERR, "out of memory");
    enum hearth_status status = hearth_detokenize(x->engine, ids, n, true, text, len, &len, &err);
    mark(x, target, true);
    if (!status)
        print_clean(text, len);
    mark(x, target, false);
    free(text);
    return status ? cli_fail_status(&err) : CLI_OK;
}

static int print_tokens(const struct inspection *x, const struct hearth_data_sample *s)
{
    int code = CLI_OK;
    for (size_t i = 0, end; i < s->n_tokens && !code; i = end) {
        bool target = s->weights[i] > 0;
        for (end = i + 1; end < s->n_tokens && (s->weights[end] > 0) == target;)
            end++;
        code = print_run(x, s->ids + i, end - i, target);
    }
    return code;
}

static void print_turns(const struct inspection *x, const struct hearth_data_record *r)
{
    static const char *const roles[] = {"", "system", "user", "assistant", "tool", "tools", "calls"};
    for (size_t i = 0; i < r->n_turns; i++) {
        const struct hearth_data_turn *t = &r->turns[i];
        printf("%s: ", roles[t->role]);
        mark(x, t->weight > 0, true);
        print_clean(t->text, t->len_bytes);
        if (t->input) {
            fputs("\n\n", stdout);
            print_clean(t->input, t->input_len_bytes);
        }
        mark(x, t->weight > 0, false);
        fputc('\n', stdout);
    }
}

static int print_sample(const struct inspection *x, const struct hearth_data_sample *s)
{
    const struct hearth_data_record *r = s->record;
    int code = CLI_OK;
    printf("--- ");
    print_clean(r->id, strlen(r->id));
    printf(" (%s:%llu", r->source, (unsigned long long)r->line);
    if (s->ids)
        printf(", %zu tokens, %zu targets", s->n_tokens, s->n_targets);
    if (s->copies != 1)
        printf(", %u times in this epoch", s->copies);
    printf("%s%s)\n", s->held_out ? ", held out" : "", r->n_rejected ? ", pair" : "");
    if (s->ids)
        code = print_tokens(x, s);
    else
        print_turns(x, r);
    fputs("\n", stdout);
    return code;
}

// ---- counts

static int add_lengths(struct inspection *x, const struct hearth_data_sample *s)
{
    for (unsigned i = 0; i < s->copies && s->n_tokens; i++) {
        if (x->n_lengths == x->lengths_capacity) {
            size_t capacity = x->lengths_capacity ? 2 * x->lengths_capacity : 1024;
            uint32_t *more = realloc(x->lengths, capacity * sizeof *more);
            if (!more)
                return cli_fail(CLI_OSERR, "out of memory for %zu samples", capacity);
            x->lengths = more;
            x->lengths_capacity = capacity;
        }
        x->lengths[x->n_lengths++] = (uint32_t)s->n_tokens;
    }
    return CLI_OK;
}

static int read_all(struct inspection *x)
{
    struct hearth_error err = {0};
    const struct hearth_data_sample *s;
    for (;;) {
        if (hearth_data_set_next(x->set, &s, &err))
            return cli_fail_status(&err);
        if (!s)
            return CLI_OK;
        int code = !x->json && !s->record->pair_only && x->n_samples < x->n_shown ? print_sample(x, s) : CLI_OK;
        if (!code && s->record->pair_only) // its good answer is a sample of its own
            continue;
        x->n_samples++;
        x->n_held_out += s->held_out;
        x->n_tokens += s->n_tokens;
        x->n_targets += s->n_targets;
        if (!code && !s->held_out)
            code = add_lengths(x, s);
        if (code)
            return code;
    }
}

static int pack(struct inspection *x)
{
    struct hearth_error err = {0};
    if (!x->n_lengths)
        return CLI_OK;
    struct hearth_data_place *places = malloc(x->n_lengths * sizeof *places);
    if (!places)
        return cli_fail(CLI_OSERR, "out of memory for %zu samples", x->n_lengths);
    for (size_t i = 0; i < x->n_lengths; i++)
        x->n_epoch += x->lengths[i];
    enum hearth_status status =
        hearth_data_pack(x->lengths, x->n_lengths, hearth_data_set_seq(x->set), places, &x->n_rows, &err);
    free(places);
    return status ? cli_fail_status(&err) : CLI_OK;
}

static int print_json(const struct inspection *x)
{
    json_t *files = json_array();
    for (size_t i = 0; i < x->n_files; i++) {
        struct hearth_data_counts c;
        enum hearth_data_format format;
        hearth_data_set_get_counts(x->set, i, &c, &format);
        json_array_append_new(
            files, json_pack("{s:s, s:s, s:f, s:I, s:I, s:I, s:o, s:o}", "file", x->files[i].path, "format",
                             hearth_data_format_name(format), "weight", x->files[i].weight, "records",
                             (json_int_t)c.n_records, "turns", (json_int_t)c.n_turns, "pairs", (json_int_t)c.n_pairs,
                             "skipped", data_reasons_json(c.skipped, HEARTH_DATA_N_SKIPS, false), "changed",
                             data_reasons_json(c.fixed, HEARTH_DATA_N_FIXES, true)));
    }
    json_t *all = json_pack("{s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "files", files, "samples",
                            (json_int_t)x->n_samples, "held_out", (json_int_t)x->n_held_out, "tokens",
                            (json_int_t)x->n_tokens, "targets", (json_int_t)x->n_targets, "seq",
                            (json_int_t)hearth_data_set_seq(x->set), "rows", (json_int_t)x->n_rows,
                            "epoch_tokens", (json_int_t)x->n_epoch);
    return json_line(all, 0);
}

static void print_counts(const struct inspection *x)
{
    for (size_t i = 0; i < x->n_files; i++) {
        struct hearth_data_counts c;
        enum hearth_data_format format;
        hearth_data_set_get_counts(x->set, i, &c, &format);
        printf("%s: %s, %llu records, %llu turns", x->files[i].path, hearth_data_format_name(format),
               (unsigned long long)c.n_records, (unsigned long long)c.n_turns);
        printf(c.n_pairs ? ", %llu pairs\n" : "\n", (unsigned long long)c.n_pairs);
        for (int k = 0; k < HEARTH_DATA_N_SKIPS; k++)
            if (c.skipped[k])
                printf("  left out   %8llu  %s (first: line %llu)\n", (unsigned long long)c.skipped[k],
                       hearth_data_skip_text((enum hearth_data_skip)k), (unsigned long long)c.first_line[k]);
        for (int k = 0; k < HEARTH_DATA_N_FIXES; k++)
            if (c.fixed[k])
                printf("  changed    %8llu  %s\n", (unsigned long long)c.fixed[k],
                       hearth_data_fix_text((enum hearth_data_fix)k));
    }
    printf("samples: %llu, of them %llu held out\n", (unsigned long long)x->n_samples,
           (unsigned long long)x->n_held_out);
    if (!x->engine)
        return;
    printf("tokens: %llu, targets: %llu (%.1f %%)\n", (unsigned long long)x->n_tokens,
           (unsigned long long)x->n_targets, x->n_tokens ? 100.0 * (double)x->n_targets / (double)x->n_tokens : 0);
    unsigned seq = hearth_data_set_seq(x->set);
    if (x->n_rows)
        printf("an epoch: %zu rows of %u tokens, %.1f %% full\n", x->n_rows, seq,
               100.0 * (double)x->n_epoch / ((double)x->n_rows * seq));
}

static int inspect(struct inspection *x, const struct hearth_data_set_params *params)
{
    struct hearth_error err = {0};
    if (hearth_data_set_open(&x->set, params, &err))
        return cli_fail_status(&err);
    int code = read_all(x);
    if (!code)
        code = pack(x);
    if (!code && x->json)
        code = print_json(x);
    else if (!code)
        print_counts(x);
    hearth_data_set_close(&x->set);
    free(x->lengths);
    return code ? code : cli_finish(CLI_OK);
}

struct words {
    const char *mask;
    uint64_t seq, show, seed;
    double held_out, near;
    bool keep_duplicates;
};

static int run(const struct cli *cli, const struct words *words, const struct model_options *options)
{
    static struct inspection x; // zero, and too large for a stack
    struct hearth_data_set_params params = {.n_seq = (unsigned)words->seq, .seed = words->seed};
    hearth_data_set_default(&params);
    params.held_out = words->held_out;
    params.near = words->near;
    params.keep_duplicates = words->keep_duplicates;
    int wrong = data_file_style(cli, words->mask, &params.style);
    if (wrong)
        return wrong;
    x.n_files = (size_t)cli->n_args - 1;
    x.n_shown = words->show;
    x.color = cli_color(stdout);
    x.json = cli->json;
    for (size_t i = 0; i < x.n_files && !wrong; i++)
        wrong = data_file_parse(cli, cli->args[i + 1], &x.files[i]);
    if (wrong)
        return wrong;
    if (options->model || options->chat_template) {
        int code = models_open(&x.engine, cli, options);
        if (code)
            return code;
    }
    params.files = x.files;
    params.n_files = x.n_files;
    params.engine = x.engine;
    int code = inspect(&x, &params);
    hearth_engine_close(&x.engine);
    return code;
}

int cmd_data(int argc, char **argv)
{
    struct words words = {.mask = "assistant", .show = 3, .held_out = 0.01, .near = 0.8};
    struct model_options options = {.vocab_only = true};
    struct data_box_words box = {0};
    const struct cli_option table[] = {
        {"model", 'm', CLI_TEXT, "MODEL", "count tokens and targets with this model's tokenizer and template",
         &options.model, 0, 0, NULL},
        {"template", 0, CLI_TEXT, "NAME", "chat template (default: the model file's)", &options.chat_template, 0, 0,
         NULL},
        {"mask", 0, CLI_TEXT, "NAME", "what is learned: assistant (default), all, last, or a system's style",
         &words.mask, 0, 0, NULL},
        {"seq", 0, CLI_COUNT, "N", "tokens of a sequence (default: the style's or the model's)", &words.seq, 16,
         1 << 22, NULL},
        {"show", 0, CLI_COUNT, "N", "print the first N samples (3)", &words.show, 0, 1e9, NULL},
        {"held-out", 0, CLI_REAL, "SHARE", "conversations kept for evaluation (0.01)", &words.held_out, 0, 0.99, NULL},
        {"near", 0, CLI_REAL, "SHARE", "likeness that makes a near-duplicate (0.8); 0: exact ones only", &words.near,
         0, 1, NULL},
        {"keep-duplicates", 0, CLI_FLAG, NULL, "leave no duplicates out", &words.keep_duplicates, 0, 0, NULL},
        {"seed", 0, CLI_COUNT, "N", "of the split and of fractional weights (0)", &words.seed, 0, 0, NULL},
        {"conversations", 0, CLI_FLAG, NULL, "with import: a person's own conversations", &box.conversations, 0, 0,
         NULL},
        {"person", 0, CLI_TEXT, "NAME", "whose (needed if several people live here)", &box.person, 0, 0, NULL},
    };
    struct cli cli = {
        .name = "data",
        .usage = "inspect FILE[:FORMAT][:WEIGHT]... | import NAME FILE[:FORMAT]... |\n"
                 "       import NAME --conversations [--person P] | list | rm NAME",
        .about = "inspect shows what would be learned from files of training data: records with their targets "
                 "marked, and\nwhat was left out, by reason. Without -m or --template nothing is tokenized. import "
                 "gives files, or a person's\nown conversations, to the running box as a data set, which it keeps "
                 "sealed; rm destroys its key. Formats: docs/data.md.",
        .example = "hearth data inspect -m default --seq 512 chats.json:sharegpt notes.txt:0.5",
        .options = table,
        .n_options = sizeof table / sizeof *table,
        .min_args = 1,
        .max_args = HEARTH_DATA_MAX_FILES,
    };
    int code = cli_parse(&cli, argc, argv);
    if (code >= 0)
        return code;
    if (data_box_is_verb(cli.args[0]))
        return data_box(&cli, &box);
    if (strcmp(cli.args[0], "inspect") != 0)
        return cli_wrong(&cli, "'%s' is none of inspect, import, list, rm", cli.args[0]);
    if (cli.n_args < 2)
        return cli_wrong(&cli, "inspect wants a file");
    return run(&cli, &words, &options);
}
