// SPDX-License-Identifier: Apache-2.0
// hearth eval choices, gen: questions of a local file. Main thread.
#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/eval.h"
#include "tools/json_line.h"

// "FILE[:N]".
static char *split_shots(const char *word, unsigned *n)
{
    char *path = strdup(word), *colon = path ? strrchr(path, ':') : NULL, *end;
    *n = 5;
    if (colon && access(path, F_OK) && isdigit((unsigned char)colon[1])) {
        unsigned long count = strtoul(colon + 1, &end, 10);
        if (!*end && count >= 1 && count <= 64) {
            *n = (unsigned)count;
            *colon = 0;
        }
    }
    return path;
}

static json_t *skips(const struct hearth_task_counts *counts)
{
    json_t *out = json_object();
    for (int i = 0; i < HEARTH_TASK_SKIPS; i++)
        if (counts->skipped[i])
            json_object_set_new(out, hearth_task_skip_names[i], json_integer((json_int_t)counts->skipped[i]));
    return out;
}

static void print_all_skips(const char *path, const struct hearth_task_counts *counts)
{
    for (int i = 0; i < HEARTH_TASK_SKIPS; i++)
        eval_print_skips(path, hearth_task_skip_names[i], counts->skipped[i], counts->first_line[i]);
}

// Standard error of a share.
static double error_of(double share, uint64_t n)
{
    return n > 1 ? sqrt(share * (1 - share) / (double)(n - 1)) : NAN;
}

static bool print_item(json_t *line)
{
    bool good = json_put(line, stdout, JSON_COMPACT);
    json_decref(line);
    return good && !ferror(stdout);
}

// ---------------------------------------------------------------- choices

static bool on_choice(void *user, const struct hearth_choice_item *item, double done)
{
    struct eval *eval = user;
    progress_set(&eval->bar, (uint64_t)(done * (double)eval->bytes));
    if (!eval->words->items)
        return true;
    json_t *log_p = json_array(), *chosen = json_object();
    for (unsigned i = 0; i < item->n_choices; i++)
        json_array_append_new(log_p, eval_number(item->log_p[i]));
    for (int k = 0; k < HEARTH_CHOICE_SCORES; k++)
        json_object_set_new(chosen, hearth_choice_score_names[k], json_integer((json_int_t)item->chosen[k]));
    return print_item(json_pack("{s:I, s:s, s:i, s:o, s:o, s:b}", "line", (json_int_t)item->line, "group",
                                item->group, "answer", (int)item->answer, "log_p", log_p, "chosen", chosen, "best",
                                (int)item->best));
}

static int print_choices(struct eval *eval, const struct hearth_choices *c)
{
    double n = (double)c->counts.n_items;
    double word = exp(c->last_word_nll / (double)c->n_words);
    if (eval->cli->json) {
        json_t *out = json_pack("{s:I, s:o}", "items", (json_int_t)c->counts.n_items, "skipped", skips(&c->counts));
        for (int k = 0; k < HEARTH_CHOICE_SCORES; k++)
            json_object_set_new(out, hearth_choice_score_names[k], json_real((double)c->n_right[k] / n));
        json_object_set_new(out, "acc_stderr", eval_number(error_of((double)c->n_right[0] / n, c->counts.n_items)));
        json_object_set_new(out, "macro", json_real(c->macro));
        json_object_set_new(out, "groups", json_integer(c->n_groups));
        if (c->n_words)
            json_object_set_new(out, "word_perplexity", eval_number(word));
        return eval_print(eval, out);
    }
    printf("%llu questions in %u groups\n", (unsigned long long)c->counts.n_items, c->n_groups);
    for (int k = 0; k < HEARTH_CHOICE_SCORES; k++) {
        double share = (double)c->n_right[k] / n;
        printf("  %-11s %7.4f  +- %.4f\n", hearth_choice_score_names[k], share, error_of(share, c->counts.n_items));
    }
    printf("  %-11s %7.4f\n", "macro", c->macro);
    if (c->n_words)
        printf("  %-11s %9.4f\n", "perplexity", word);
    return cli_finish(CLI_OK);
}

int eval_choices(struct eval *eval)
{
    static const char *const forms[] = {"auto", "text", "letters", "last-word"};
    const struct eval_words *w = eval->words;
    struct hearth_choices_params params = {.path = eval->cli->args[1], .max_items = w->limit, .each = on_choice,
                                           .user = eval};
    struct hearth_choices out;
    struct hearth_error err = {0};
    unsigned form = 0, id;
    while (form < 4 && strcmp(forms[form], w->form))
        form++;
    if (form == 4)
        return cli_wrong(eval->cli, "--form '%s' is none of auto, text, letters, last-word", w->form);
    params.form = (enum hearth_choice_form)form;
    int code = eval_open(eval, (unsigned)w->seq);
    if (!code)
        code = eval_open_scorer(eval);
    if (!code)
        code = eval_adapter(eval, &w->adapters, &id);
    if (code)
        return code;
    hearth_scorer_use(eval->scorer, id);
    char *shots = w->shots ? split_shots(w->shots, &params.n_shots) : NULL;
    params.shots_path = shots;
    eval->bytes = eval_file_bytes(params.path);
    progress_start(&eval->bar, "scoring", 0, eval->bytes);
    enum hearth_status status = hearth_eval_choices(eval->scorer, &params, &out, &err);
    progress_end(&eval->bar);
    free(shots);
    if (status)
        return cli_fail_status(&err);
    print_all_skips(params.path, &out.counts);
    if (!out.counts.n_items)
        return cli_fail(CLI_DATAERR, "%s: holds no question that can be used", params.path);
    return print_choices(eval, &out);
}

// ---------------------------------------------------------------- gen

static bool on_answer(void *user, const struct hearth_gen_item *item, double done)
{
    struct eval *eval = user;
    progress_set(&eval->bar, (uint64_t)(done * (double)eval->bytes));
    if (!eval->words->items)
        return true;
    json_t *taken = item->taken ? json_string(item->taken) : json_null();
    json_t *text = json_stringn(item->text, item->len_bytes);
    return print_item(json_pack("{s:I, s:o, s:o, s:b, s:f, s:i}", "line", (json_int_t)item->line, "text",
                                text ? text : json_null(), "taken", taken ? taken : json_null(), "right",
                                (int)item->right, "score", item->score, "tokens", (int)item->n_tokens));
}

static int print_answers(struct eval *eval, const struct hearth_gen *g, bool f1)
{
    double n = (double)g->counts.n_items, share = (double)g->n_right / n;
    if (eval->cli->json) {
        json_t *out = json_pack("{s:I, s:o, s:f, s:o, s:I}", "items", (json_int_t)g->counts.n_items, "skipped",
                                skips(&g->counts), "acc", share, "acc_stderr",
                                eval_number(error_of(share, g->counts.n_items)), "nothing_taken",
                                (json_int_t)g->n_nothing);
        if (f1)
            json_object_set_new(out, "f1", json_real(g->score_sum / n));
        return eval_print(eval, out);
    }
    printf("%llu questions, of %llu answers nothing could be taken\n", (unsigned long long)g->counts.n_items,
           (unsigned long long)g->n_nothing);
    printf("  %-11s %7.4f  +- %.4f\n", "acc", share, error_of(share, g->counts.n_items));
    if (f1)
        printf("  %-11s %7.4f\n", "f1", g->score_sum / n);
    return cli_finish(CLI_OK);
}

int eval_gen(struct eval *eval)
{
    const struct eval_words *w = eval->words;
    struct hearth_gen_params params = {
        .path = eval->cli->args[1], .pattern = w->pattern, .stop = w->stop.items, .n_stop = w->stop.n,
        .max_tokens = (unsigned)w->max_tokens, .temperature = (float)w->temperature, .seed = w->seed,
        .max_items = w->limit, .each = on_answer, .user = eval};
    struct hearth_gen out;
    struct hearth_error err = {0};
    if (!hearth_match_find(w->match, &params.match))
        return cli_wrong(eval->cli, "--match '%s' is none of exact, contains, number, strict, regex, f1", w->match);
    if ((params.match == HEARTH_MATCH_REGEX) != (w->pattern != NULL))
        return cli_wrong(eval->cli, "--match regex and --pattern go together");
    int code = eval_open(eval, (unsigned)w->seq);
    if (!code)
        code = eval_adapter(eval, &w->adapters, &params.adapter);
    if (code)
        return code;
    params.chat = !w->raw && strcmp(eval->info.chat_template, "none") != 0;
    char *shots = w->shots ? split_shots(w->shots, &params.n_shots) : NULL;
    params.shots_path = shots;
    eval->bytes = eval_file_bytes(params.path);
    progress_start(&eval->bar, "answering", 0, eval->bytes);
    enum hearth_status status = hearth_eval_gen(eval->engine, &params, &out, &err);
    progress_end(&eval->bar);
    free(shots);
    if (status)
        return cli_fail_status(&err);
    print_all_skips(params.path, &out.counts);
    if (!out.counts.n_items)
        return cli_fail(CLI_DATAERR, "%s: holds no question that can be used", params.path);
    return print_answers(eval, &out, params.match == HEARTH_MATCH_F1);
}
