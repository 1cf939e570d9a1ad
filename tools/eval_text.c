// SPDX-License-Identifier: Apache-2.0
// hearth eval ppl, loss, compare: numbers over tokens of texts and records. Main thread.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tools/data_file.h"
#include "tools/eval.h"
#include "tools/json_line.h"

// ---------------------------------------------------------------- records

// Files as words; `list` has n. Each word is cut where its path ends.
static int take_data(struct eval *eval, const char *const *list, size_t n, struct hearth_data_file *files,
                     struct hearth_data_set_params *params)
{
    const struct eval_words *w = eval->words;
    *params = (struct hearth_data_set_params){.files = files, .n_files = n};
    hearth_data_set_default(params);
    params->held_out = w->held_out;
    params->near = 0;
    params->keep_duplicates = true;
    params->seed = w->seed;
    params->n_seq = (unsigned)w->seq;
    int code = data_file_style(eval->cli, w->mask, &params->style);
    for (size_t i = 0; i < n && !code; i++) {
        code = data_file_parse(eval->cli, (char *)list[i], &files[i]); // words of argv
        files[i].weight = 1;
    }
    return code;
}

static unsigned positions(const struct eval *eval)
{
    struct hearth_data_style style = {0};
    hearth_data_style_find(eval->words->mask, &style);
    return (unsigned)(eval->words->seq ? eval->words->seq : style.n_seq);
}

static uint64_t text_bytes(const struct hearth_data_record *record)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < record->n_turns; i++)
        bytes += record->turns[i].len_bytes + record->turns[i].input_len_bytes;
    return bytes;
}

// `first`: what is left out is told.
static int run_data(struct eval *eval, const struct hearth_data_set_params *data, bool all, bool first,
                    bool (*each)(void *user, const struct hearth_eval_record *record), void *user)
{
    struct hearth_error err = {0};
    struct hearth_data_counts counts[CLI_LIST_MAX];
    const struct hearth_eval_data_params params = {
        .data = *data, .all = all, .held_out = data->held_out > 0, .each = each, .user = user};
    uint64_t total = 0;
    for (size_t i = 0; i < data->n_files; i++)
        total += eval_file_bytes(data->files[i].path);
    eval->bytes = 0;
    progress_start(&eval->bar, "scoring", 0, total);
    enum hearth_status status = hearth_eval_data(eval->scorer, &params, counts, &err);
    progress_end(&eval->bar);
    for (size_t i = 0; i < data->n_files && !status && first; i++)
        data_file_note_skips(data->files[i].path, &counts[i]);
    return status ? cli_fail_status(&err) : CLI_OK;
}

static void move_bar(struct eval *eval, const struct hearth_eval_record *record)
{
    eval->bytes += text_bytes(record->sample->record);
    progress_set(&eval->bar, eval->bytes);
}

// ---------------------------------------------------------------- ppl

struct ppl_job {
    struct eval *eval;
    struct hearth_ppl one, all;
    json_t *files;
};

static bool add_record(void *user, const struct hearth_eval_record *record)
{
    struct ppl_job *job = user;
    hearth_ppl_add(&job->one, &record->text);
    move_bar(job->eval, record);
    return true;
}

static bool on_text(void *user, double done)
{
    struct eval *eval = user;
    progress_set(&eval->bar, (uint64_t)(done * (double)eval->bytes));
    return true;
}

// A plain text, or records? *format of a file that does not name one is found.
static int is_text(const struct hearth_data_file *file, bool *text)
{
    struct hearth_data_reader *reader;
    struct hearth_error err = {0};
    const struct hearth_data_reader_params params = {.path = file->path, .format = file->format};
    if (hearth_data_open(&reader, &params, &err))
        return cli_fail_status(&err);
    *text = hearth_data_get_format(reader) == HEARTH_DATA_TEXT;
    hearth_data_close(&reader);
    FILE *f = *text ? fopen(file->path, "rbe") : NULL;
    int c = ' ';
    while (f && (c == ' ' || c == '\n' || c == '\t' || c == '\r'))
        c = fgetc(f);
    if (f)
        fclose(f);
    *text = *text && c != '{'; // objects with a text are records
    return CLI_OK;
}

static json_t *ppl_json(const struct hearth_ppl *ppl)
{
    struct hearth_ppl_numbers n;
    hearth_ppl_get(ppl, &n);
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:o}", "texts",
                     (json_int_t)ppl->n_texts[0], "tokens", (json_int_t)ppl->sum.n_tokens[0], "response_tokens",
                     (json_int_t)ppl->sum.n_tokens[1], "bytes", (json_int_t)ppl->sum.bytes, "words",
                     (json_int_t)ppl->sum.words, "seed_all", eval_number(n.seed_all), "seed_response",
                     eval_number(n.seed_response), "token_all", eval_number(n.token_all), "token_response",
                     eval_number(n.token_response), "bits_per_byte", eval_number(n.bits_per_byte), "word",
                     eval_number(n.word));
}

static void print_cell(double value)
{
    if (isfinite(value))
        printf(" %12.4f", value);
    else
        printf(" %12s", "-");
}

static void ppl_text(const char *name, const struct hearth_ppl *ppl)
{
    struct hearth_ppl_numbers n;
    hearth_ppl_get(ppl, &n);
    printf("%s: %llu texts, %llu tokens (%llu of answers), %llu bytes\n", name, (unsigned long long)ppl->n_texts[0],
           (unsigned long long)ppl->sum.n_tokens[0], (unsigned long long)ppl->sum.n_tokens[1],
           (unsigned long long)ppl->sum.bytes);
    printf("  perplexity %12s %12s\n  seed      ", "all", "response");
    print_cell(n.seed_all);
    print_cell(n.seed_response);
    printf("\n  token     ");
    print_cell(n.token_all);
    print_cell(n.token_response);
    printf("\n  word      ");
    print_cell(n.word);
    printf("\n  bits/byte ");
    print_cell(n.bits_per_byte);
    printf("\n");
}

static int ppl_file(struct ppl_job *job, char *word)
{
    struct eval *eval = job->eval;
    const struct eval_words *w = eval->words;
    struct hearth_data_file file;
    struct hearth_data_set_params data;
    struct hearth_error err = {0};
    const char *list[] = {word};
    bool text = false;
    int code = take_data(eval, list, 1, &file, &data);
    if (!code)
        code = is_text(&file, &text);
    if (code)
        return code;
    job->one = (struct hearth_ppl){0};
    eval->bytes = eval_file_bytes(file.path);
    progress_start(&eval->bar, "scoring", 0, eval->bytes);
    const struct hearth_ppl_params params = {.path = file.path, .window = (size_t)w->window,
                                             .stride = (size_t)w->stride, .chunks = w->chunks, .lines = w->lines,
                                             .progress = on_text, .user = eval};
    if (!text)
        code = run_data(eval, &data, true, true, add_record, job);
    else if (hearth_ppl_file(eval->scorer, &params, &job->one, &err))
        code = cli_fail_status(&err);
    progress_end(&eval->bar);
    if (code)
        return code;
    hearth_ppl_add_sums(&job->all, &job->one);
    if (eval->cli->json) {
        json_t *one = ppl_json(&job->one);
        json_object_set_new(one, "file", json_string(file.path));
        json_array_append_new(job->files, one);
    } else {
        ppl_text(file.path, &job->one);
    }
    return CLI_OK;
}

int eval_ppl(struct eval *eval)
{
    const struct eval_words *w = eval->words;
    struct ppl_job job = {.eval = eval};
    unsigned id, n = (unsigned)(w->window ? w->window : w->chunks ? 512 : 0), most = positions(eval);
    most = n > most ? n : n || most > 2048 ? most : 0; // without a window, texts have what a model gives
    if (w->lines && w->chunks)
        return cli_wrong(eval->cli, "--chunks goes over a whole text, not --lines");
    if (w->stride && w->stride >= (w->window ? w->window : n ? n : 2048))
        return cli_wrong(eval->cli, "--stride is below the window");
    int code = eval_open(eval, most);
    if (!code)
        code = eval_open_scorer(eval);
    if (!code)
        code = eval_adapter(eval, &w->adapters, &id);
    if (code)
        return code;
    hearth_scorer_use(eval->scorer, id);
    double started = progress_clock_s();
    job.files = json_array();
    for (int i = 1; i < eval->cli->n_args && !code; i++)
        code = ppl_file(&job, eval->cli->args[i]);
    if (code || !eval->cli->json) {
        json_decref(job.files);
        if (!code && eval->cli->n_args > 2)
            ppl_text("all", &job.all);
        return code ? code : cli_finish(CLI_OK);
    }
    return eval_print(eval, json_pack("{s:o, s:o, s:f}", "files", job.files, "all", ppl_json(&job.all), "seconds",
                                      progress_clock_s() - started));
}

// ---------------------------------------------------------------- loss

struct loss_job {
    struct eval *eval;
    const struct hearth_data_file *files;
    uint64_t n_records, n_targets;
    double nll, weight;
    bool failed;
};

static bool print_loss(void *user, const struct hearth_eval_record *record)
{
    struct loss_job *job = user;
    const struct hearth_data_sample *s = record->sample;
    move_bar(job->eval, record);
    job->n_records++;
    job->n_targets += record->text.n_tokens[1];
    job->nll += record->nll;
    job->weight += record->weight;
    json_t *line = json_pack("{s:s, s:s, s:I, s:i, s:b, s:I, s:I, s:o, s:o}", "id", s->record->id, "file",
                             job->files[s->file].path, "line", (json_int_t)s->record->line, "piece", (int)s->piece,
                             "held_out", (int)s->held_out, "tokens", (json_int_t)s->n_tokens, "targets",
                             (json_int_t)record->text.n_tokens[1], "nll", eval_number(record->nll), "loss",
                             eval_number(record->nll / record->weight));
    job->failed = job->failed || !json_put(line, stdout, JSON_COMPACT);
    json_decref(line);
    return !job->failed && !ferror(stdout);
}

int eval_loss(struct eval *eval)
{
    const struct eval_words *w = eval->words;
    struct hearth_data_file files[CLI_LIST_MAX];
    struct hearth_data_set_params data;
    struct loss_job job = {.eval = eval, .files = files};
    unsigned id;
    int code = take_data(eval, w->data.items, w->data.n, files, &data);
    if (!code)
        code = eval_open(eval, positions(eval));
    if (!code)
        code = eval_open_scorer(eval);
    if (!code)
        code = eval_adapter(eval, &w->adapters, &id);
    if (code)
        return code;
    hearth_scorer_use(eval->scorer, id);
    code = run_data(eval, &data, false, true, print_loss, &job);
    if (!code && job.failed)
        code = cli_fail(CLI_IOERR, "a record could not be written as JSON");
    if (code)
        return code;
    if (eval->cli->json)
        return eval_print(eval, json_pack("{s:I, s:I, s:o}", "records", (json_int_t)job.n_records, "targets",
                                          (json_int_t)job.n_targets, "loss", eval_number(job.nll / job.weight)));
    cli_note("%llu records, %llu targets, loss %.6f", (unsigned long long)job.n_records,
             (unsigned long long)job.n_targets, job.nll / job.weight);
    return cli_finish(CLI_OK);
}

// ---------------------------------------------------------------- compare

struct units { // conversations: sums over their pieces
    struct eval *eval;
    double *nll[2], *weight;
    size_t n, capacity, file;
    int side;
    uint64_t n_records, n_targets, line;
    bool out_of_memory;
};

static bool grow(struct units *u)
{
    size_t capacity = u->capacity ? 2 * u->capacity : 1024;
    double **lists[] = {&u->nll[0], &u->nll[1], &u->weight};
    for (size_t i = 0; i < 3; i++) {
        double *more = realloc(*lists[i], capacity * sizeof *more);
        if (!more)
            return false;
        *lists[i] = more;
    }
    u->capacity = capacity;
    return true;
}

static bool add_unit(void *user, const struct hearth_eval_record *record)
{
    struct units *u = user;
    const struct hearth_data_sample *s = record->sample;
    bool same = u->n && s->piece && s->file == u->file && s->record->line == u->line;
    move_bar(u->eval, record);
    if (!same && u->n == u->capacity && !grow(u)) {
        u->out_of_memory = true;
        return false;
    }
    if (!same) {
        u->nll[u->side][u->n] = 0;
        u->weight[u->n++] = 0;
    }
    u->file = s->file;
    u->line = s->record->line;
    u->nll[u->side][u->n - 1] += record->nll;
    u->weight[u->n - 1] += record->weight;
    u->n_records++;
    u->n_targets += record->text.n_tokens[1];
    return true;
}

static int print_comparison(struct units *u, const struct hearth_bootstrap *x)
{
    struct eval *eval = u->eval;
    char *const *sides = eval->cli->args + 1;
    if (eval->cli->json)
        return eval_print(
            eval, json_pack("{s:s, s:s, s:I, s:I, s:I, s:f, s:f, s:f, s:[f, f], s:f, s:[f, f], s:f, s:i, s:I}", "a",
                            sides[0], "b", sides[1], "records", (json_int_t)u->n_records, "conversations",
                            (json_int_t)u->n, "targets", (json_int_t)u->n_targets, "loss_a", x->loss_a, "loss_b",
                            x->loss_b, "difference", x->difference, "interval", x->low, x->high, "relative",
                            x->relative, "relative_interval", x->relative_low, x->relative_high, "confidence",
                            eval->words->confidence, "resamples", (int)x->n_resamples, "seed",
                            (json_int_t)eval->words->seed));
    double share = 100 * eval->words->confidence;
    printf("%llu records of %zu conversations, %llu targets\n", (unsigned long long)u->n_records, u->n,
           (unsigned long long)u->n_targets);
    printf("loss      A %10.6f  %s\n          B %10.6f  %s\n", x->loss_a, sides[0], x->loss_b, sides[1]);
    printf("B - A       %+10.6f  %.4g %%: %+.6f to %+.6f\n", x->difference, share, x->low, x->high);
    printf("relative    %+9.3f %%  %.4g %%: %+.3f %% to %+.3f %%\n", 100 * x->relative, share, 100 * x->relative_low,
           100 * x->relative_high);
    printf("%u resamples over conversations, seed %llu\n", x->n_resamples, (unsigned long long)eval->words->seed);
    return cli_finish(CLI_OK);
}

static int compare(struct units *u, const struct hearth_data_set_params *data)
{
    struct eval *eval = u->eval;
    struct hearth_bootstrap x;
    struct hearth_error err = {0};
    int code = CLI_OK;
    for (u->side = 0; u->side < 2 && !code; u->side++) {
        const struct cli_list one = {.items = {eval->cli->args[1 + u->side]}, .n = 1};
        unsigned id;
        u->n = u->n_records = u->n_targets = 0;
        code = eval_adapter(eval, &one, &id);
        if (code)
            break;
        hearth_scorer_use(eval->scorer, id);
        code = run_data(eval, data, false, !u->side, add_unit, u);
        if (!code && u->out_of_memory)
            code = cli_fail(CLI_OSERR, "out of memory for %zu conversations", u->n);
        if (!code && id && hearth_engine_adapter_drop(eval->engine, id, &err))
            code = cli_fail_status(&err);
    }
    if (!code && !u->n)
        code = cli_fail(CLI_DATAERR, "no record is left to compare on");
    if (!code && hearth_bootstrap_paired(u->nll[0], u->nll[1], u->weight, u->n, (unsigned)eval->words->resamples,
                                         eval->words->confidence, eval->words->seed, &x, &err))
        code = cli_fail_status(&err);
    return code ? code : print_comparison(u, &x);
}

int eval_compare(struct eval *eval)
{
    struct hearth_data_file files[CLI_LIST_MAX];
    struct hearth_data_set_params data;
    struct units units = {.eval = eval};
    if (eval->words->adapters.n)
        return cli_wrong(eval->cli, "compare takes its adapters as A and B, not as --adapter");
    int code = take_data(eval, eval->words->data.items, eval->words->data.n, files, &data);
    if (!code)
        code = eval_open(eval, positions(eval));
    if (!code)
        code = eval_open_scorer(eval);
    if (!code)
        code = compare(&units, &data);
    free(units.nll[0]);
    free(units.nll[1]);
    free(units.weight);
    return code;
}
