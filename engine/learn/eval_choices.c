// SPDX-License-Identifier: Apache-2.0
// Questions with choices by log-likelihood: which continuation the model finds likeliest, by its sum and by the sum
// over characters, bytes and tokens. One thread.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/base/utf8.h"
#include "engine/learn/eval.h"

enum { MOST_GROUPS = 4096, GROUP_BYTES = 64, MOST_SHOTS = 64 };

const char *const hearth_choice_score_names[HEARTH_CHOICE_SCORES] = {"acc", "acc_norm", "acc_bytes", "acc_tokens"};

struct question {
    struct ht_text context, text; // text: what the record asks
    struct ht_text choices[HEARTH_CHOICE_MAX], labels[HEARTH_CHOICE_MAX];
    struct ht_text group;
    unsigned n_choices, answer;
    enum hearth_choice_form form;
    bool chinese;
};

static struct ht_text text_of(const char *bytes)
{
    return (struct ht_text){bytes, strlen(bytes)};
}

static bool same(struct ht_text a, struct ht_text b)
{
    return a.bytes && b.bytes && a.len_bytes == b.len_bytes && !memcmp(a.bytes, b.bytes, a.len_bytes);
}

// ---------------------------------------------------------------- reading

static bool read_list(const json_t *list, struct ht_text out[HEARTH_CHOICE_MAX], unsigned *n)
{
    size_t size = json_array_size(list);
    if (size < 2 || size > HEARTH_CHOICE_MAX)
        return false;
    for (*n = 0; *n < size; ++*n) {
        out[*n] = ht_data_text_of(json_array_get(list, *n));
        if (!out[*n].bytes)
            return false;
    }
    return true;
}

// "choices", "endings" or "options": texts, objects of texts and labels; or fields A, B, C …
static bool read_choices(const json_t *value, struct question *q)
{
    static const char *const keys[] = {"choices", "endings", "options"};
    unsigned n_labels;
    for (size_t i = 0; i < 3; i++) {
        const json_t *list = json_object_get(value, keys[i]);
        if (json_is_array(list))
            return read_list(list, q->choices, &q->n_choices);
        if (json_is_object(list))
            return read_list(json_object_get(list, "text"), q->choices, &q->n_choices) &&
                   read_list(json_object_get(list, "label"), q->labels, &n_labels) && n_labels == q->n_choices;
    }
    for (q->n_choices = 0; q->n_choices < HEARTH_CHOICE_MAX; q->n_choices++) {
        char key[2] = {(char)('A' + q->n_choices), 0};
        q->choices[q->n_choices] = ht_data_field(value, key);
        if (!q->choices[q->n_choices].bytes)
            break;
    }
    return q->n_choices >= 2;
}

// A number from 0, a label, a letter, a number as text, or the choice itself.
static bool read_answer(const json_t *value, struct question *q)
{
    static const char *const keys[] = {"answer", "label", "answerKey", "gold", "target", NULL};
    const json_t *answer = NULL;
    for (size_t i = 0; keys[i] && !answer; i++)
        answer = json_object_get(value, keys[i]);
    if (json_is_integer(answer)) {
        json_int_t number = json_integer_value(answer);
        q->answer = number < 0 || number > HEARTH_CHOICE_MAX ? HEARTH_CHOICE_MAX : (unsigned)number;
        return true;
    }
    struct ht_text text = ht_data_trim(ht_data_text_of(answer));
    if (!text.bytes || !text.len_bytes)
        return false;
    q->answer = HEARTH_CHOICE_MAX;
    for (unsigned i = q->n_choices; i-- > 0;)
        if (same(q->labels[i], text) || same(q->choices[i], text))
            q->answer = i;
    char c = text.bytes[0];
    if (q->answer < HEARTH_CHOICE_MAX || text.len_bytes > 1 || q->labels[0].bytes)
        return true;
    q->answer = c >= 'A' && c <= 'Z' ? (unsigned)(c - 'A') : c >= 'a' && c <= 'z' ? (unsigned)(c - 'a') : q->answer;
    q->answer = c >= '0' && c <= '9' ? (unsigned)(c - '0') : q->answer;
    return true;
}

static bool has_chinese(struct ht_text text)
{
    for (size_t i = 0; i + 2 < text.len_bytes; i++) // U+4E00 to U+9FFF
        if ((unsigned char)text.bytes[i] >= 0xE4 && (unsigned char)text.bytes[i] <= 0xE9)
            return true;
    return false;
}

// The last word and what stands before it.
static bool cut_last_word(struct question *q)
{
    struct ht_text all = ht_data_trim(q->text);
    size_t at = all.len_bytes;
    while (at && all.bytes[at - 1] != ' ' && all.bytes[at - 1] != '\n' && all.bytes[at - 1] != '\t')
        at--;
    struct ht_text before = ht_data_trim((struct ht_text){all.bytes, at});
    q->context = before;
    q->choices[0] = (struct ht_text){all.bytes + at, all.len_bytes - at};
    q->n_choices = 1;
    q->answer = 0;
    return before.len_bytes && q->choices[0].len_bytes;
}

// False: counted in *reason.
static bool read_question(const json_t *value, enum hearth_choice_form form, struct question *q,
                          enum ht_task_skip *reason)
{
    static const char *const asks[] = {"ctx",   "prompt",  "question", "question_stem", "query",
                                       "input", "context", "sentence", "text",          NULL};
    static const char *const groups[] = {"subject", "category", "task", NULL};
    // Who has one of these asks for something else than the text's last word.
    static const char *const others[] = {"answer", "label",  "answerKey", "gold",    "target",
                                         "output", "response", "choices",  "endings", "options"};
    *q = (struct question){.text = ht_task_field(value, asks), .group = ht_task_field(value, groups)};
    *reason = HT_TASK_MISSING;
    if (!q->text.bytes)
        return false;
    bool choices = read_choices(value, q);
    q->form = form ? form : !choices ? HEARTH_CHOICE_LAST_WORD : HEARTH_CHOICE_TEXT;
    if (!form && choices && (ht_data_field(value, "subject").bytes || ht_data_field(value, "A").bytes))
        q->form = HEARTH_CHOICE_LETTERS;
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (!form && !choices && json_object_get(value, others[i]))
            return false;
    if (q->form == HEARTH_CHOICE_LAST_WORD)
        return cut_last_word(q);
    if (!choices || !read_answer(value, q))
        return false;
    q->chinese = has_chinese(q->text);
    *reason = HT_TASK_NO_SUCH;
    return q->answer < q->n_choices;
}

// ---------------------------------------------------------------- contexts

static struct ht_text join(struct ht_data_pool *pool, struct ht_text a, struct ht_text b)
{
    return ht_data_join(pool, a.bytes ? a : text_of(""), "", b);
}

// What stands before the choice.
static void make_context(struct ht_data_pool *pool, const json_t *value, struct question *q)
{
    struct ht_text c = q->text;
    if (q->form == HEARTH_CHOICE_LAST_WORD)
        return;
    if (q->form == HEARTH_CHOICE_LETTERS) {
        for (unsigned i = 0; i < q->n_choices; i++) {
            const char line[5] = {'\n', (char)('A' + i), '.', ' ', 0};
            c = ht_data_join(pool, c, line, q->choices[i]);
        }
        c = join(pool, c, text_of(q->chinese ? "\n答案：" : "\nAnswer:"));
    } else if (ht_data_field(value, "question").bytes) {
        c = ht_data_join(pool, text_of("Question: "), "", c);
        c = join(pool, c, text_of("\nAnswer:"));
    }
    q->context = c;
}

static bool blank_at(struct ht_text text, bool end)
{
    char c = text.len_bytes ? text.bytes[end ? text.len_bytes - 1 : 0] : ' ';
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

// The choice as it follows the context.
static struct ht_text continuation(struct ht_data_pool *pool, const struct question *q, unsigned i)
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
    struct ht_text choice = q->form == HEARTH_CHOICE_LETTERS ? (struct ht_text){letters + i, 1} : q->choices[i];
    bool glued = q->chinese && q->form == HEARTH_CHOICE_LETTERS;
    if (glued || blank_at(q->context, true) || blank_at(choice, false))
        return choice;
    return join(pool, text_of(" "), choice);
}

struct shots { // solved examples
    struct ht_data_pool pool;
    struct {
        struct ht_text text, group, context;
    } items[MOST_SHOTS * 64];
    size_t n;
};

static enum hearth_status read_shots(const struct hearth_choices_params *p, struct shots *shots,
                                     struct hearth_error *err)
{
    struct hearth_task_counts ignored = {0};
    struct ht_task_file file;
    const json_t *value;
    HT_TRY(ht_task_open(&file, p->shots_path, &ignored, err));
    enum hearth_status status = ht_task_next(&file, &value, err);
    for (; status == HEARTH_OK && value; status = ht_task_next(&file, &value, err)) {
        struct question q;
        enum ht_task_skip reason;
        if (shots->n == sizeof shots->items / sizeof *shots->items || !read_question(value, p->form, &q, &reason))
            continue;
        make_context(&file.pool, value, &q);
        struct ht_text text = join(&file.pool, q.context, continuation(&file.pool, &q, q.answer));
        shots->items[shots->n].text = join(&shots->pool, text, text_of("\n\n"));
        shots->items[shots->n].context = join(&shots->pool, q.context, text_of(""));
        shots->items[shots->n++].group = join(&shots->pool, q.group, text_of(""));
        if (file.pool.failed || shots->pool.failed)
            status = ht_fail(err, HEARTH_NOMEM, "out of memory for examples");
    }
    ht_task_close(&file);
    if (status == HEARTH_OK && !shots->n)
        status = ht_fail(err, HEARTH_FORMAT, "%s: holds no example that can be used", ht_shown_path(p->shots_path));
    return status;
}

// The heading of a subject and the examples before the context: the group's own, if it has some, and never the question
// itself with its answer.
static void add_shots(struct ht_data_pool *pool, const struct shots *shots, unsigned n_shots, struct question *q)
{
    struct ht_text head = text_of("");
    bool own = false;
    if (q->form == HEARTH_CHOICE_LETTERS && q->group.len_bytes && !q->chinese) {
        struct ht_data_out name = ht_data_out_make(pool, q->group.len_bytes);
        for (size_t i = 0; i < q->group.len_bytes; i++)
            ht_data_put(&name, q->group.bytes[i] == '_' ? " " : q->group.bytes + i, 1);
        head = ht_data_join(pool, text_of("The following are multiple choice questions (with answers) about "), "",
                            (struct ht_text){name.bytes, name.n});
        head = join(pool, head, text_of(".\n\n"));
    }
    for (size_t i = 0; shots && i < shots->n; i++)
        own |= same(shots->items[i].group, q->group);
    for (size_t i = 0, n = 0; shots && i < shots->n && n < n_shots; i++)
        if ((!own || same(shots->items[i].group, q->group)) && !same(shots->items[i].context, q->context)) {
            head = join(pool, head, shots->items[i].text);
            n++;
        }
    q->context = join(pool, head, q->context);
}

// ---------------------------------------------------------------- scoring

static unsigned largest(const double *values, const double *by, unsigned n)
{
    unsigned best = 0;
    for (unsigned i = 1; i < n; i++)
        best = values[i] / by[i] > values[best] / by[best] ? i : best;
    return best;
}

static double characters(struct ht_text text)
{
    size_t n = 0;
    for (size_t i = 0; i < text.len_bytes; i++)
        n += ((unsigned char)text.bytes[i] & 0xC0) != 0x80;
    return n ? (double)n : 1;
}

static enum hearth_status score_item(const struct ht_choice_model *model, struct ht_data_pool *pool,
                                     const struct question *q, struct hearth_choice_item *item,
                                     struct hearth_error *err)
{
    double by[HEARTH_CHOICE_SCORES][HEARTH_CHOICE_MAX];
    for (unsigned i = 0; i < q->n_choices; i++) {
        struct ht_text next = continuation(pool, q, i), bare = ht_data_trim(next);
        unsigned n_tokens = 1;
        if (pool->failed)
            return ht_fail(err, HEARTH_NOMEM, "out of memory for a question");
        HT_TRY(model->score(model->user, q->context, next, &item->log_p[i], &n_tokens, &item->best, err));
        by[0][i] = 1;
        by[1][i] = characters(bare);
        by[2][i] = bare.len_bytes ? (double)bare.len_bytes : 1;
        by[3][i] = n_tokens ? n_tokens : 1;
    }
    for (int k = 0; k < HEARTH_CHOICE_SCORES; k++)
        item->chosen[k] = largest(item->log_p, by[k], q->n_choices);
    return HEARTH_OK;
}

struct group {
    char name[GROUP_BYTES];
    uint64_t n, n_right;
};

struct run {
    const struct hearth_choices_params *params;
    struct hearth_choices *out;
    struct group *groups;
    unsigned n_groups;
    bool stop;
};

// The group's tally; beyond MOST_GROUPS they share the last one.
static struct group *group_of(struct run *run, const char *name)
{
    for (unsigned i = 0; i < run->n_groups; i++)
        if (!strcmp(run->groups[i].name, name))
            return &run->groups[i];
    if (run->n_groups == MOST_GROUPS)
        return &run->groups[MOST_GROUPS - 1];
    snprintf(run->groups[run->n_groups].name, GROUP_BYTES, "%s", name);
    return &run->groups[run->n_groups++];
}

static void count(struct run *run, const struct question *q, const struct hearth_choice_item *item, double done)
{
    struct hearth_choices *out = run->out;
    bool word = q->form == HEARTH_CHOICE_LAST_WORD;
    struct group *group = group_of(run, item->group);
    out->counts.n_items++;
    for (int k = 0; k < HEARTH_CHOICE_SCORES; k++)
        out->n_right[k] += word ? item->best : item->chosen[k] == item->answer;
    group->n++;
    group->n_right += word ? item->best : item->chosen[0] == item->answer;
    out->n_words += word;
    out->n_best += word && item->best;
    out->last_word_nll -= word ? item->log_p[0] : 0;
    if (run->params->each && !run->params->each(run->params->user, item, done))
        run->stop = true;
    if (run->params->max_items && out->counts.n_items >= run->params->max_items)
        run->stop = true;
}

static enum hearth_status one(struct run *run, const struct ht_choice_model *model, struct ht_task_file *file,
                              const struct shots *shots, const json_t *value, struct hearth_error *err)
{
    struct question q;
    enum ht_task_skip reason;
    struct hearth_choice_item item = {.line = file->line};
    if (!read_question(value, run->params->form, &q, &reason)) {
        ht_task_skip(file, reason);
        return HEARTH_OK;
    }
    char group[GROUP_BYTES];
    snprintf(group, sizeof group, "%.*s", (int)(q.group.len_bytes < 60 ? q.group.len_bytes : 60),
             q.group.bytes ? q.group.bytes : "");
    item.group = group;
    item.n_choices = q.n_choices;
    item.answer = q.answer;
    make_context(&file->pool, value, &q);
    add_shots(&file->pool, shots, run->params->n_shots, &q);
    enum hearth_status status = score_item(model, &file->pool, &q, &item, err);
    if (status == HEARTH_CONTEXT) {
        ht_task_skip(file, HT_TASK_TOO_LONG);
        return HEARTH_OK;
    }
    if (status == HEARTH_OK)
        count(run, &q, &item, ht_task_done(file));
    return status;
}

enum hearth_status ht_choices_run(const struct ht_choice_model *model, const struct hearth_choices_params *params,
                                  struct hearth_choices *out, struct hearth_error *err)
{
    struct run run = {.params = params, .out = out};
    struct shots *shots = NULL;
    struct ht_task_file file = {0};
    const json_t *value = NULL;
    *out = (struct hearth_choices){0};
    enum hearth_status status = ht_task_open(&file, params->path, &out->counts, err);
    if (status != HEARTH_OK)
        return status;
    run.groups = ht_calloc(MOST_GROUPS, sizeof *run.groups);
    if (params->shots_path)
        shots = ht_calloc(1, sizeof *shots);
    if (!run.groups || (params->shots_path && !shots))
        status = ht_fail(err, HEARTH_NOMEM, "out of memory for examples");
    else if (shots)
        status = read_shots(params, shots, err);
    while (status == HEARTH_OK && !run.stop) {
        status = ht_task_next(&file, &value, err);
        if (status != HEARTH_OK || !value)
            break;
        status = one(&run, model, &file, shots, value, err);
    }
    for (unsigned i = 0; i < run.n_groups; i++)
        out->macro += (double)run.groups[i].n_right / (double)run.groups[i].n / run.n_groups;
    out->n_groups = run.n_groups;
    if (shots)
        ht_data_pool_free(&shots->pool);
    ht_free(shots);
    ht_free(run.groups);
    ht_task_close(&file);
    return status;
}

// ---------------------------------------------------------------- a model

// Ids of both texts together; those after what the context alone begins with are the continuation.
static enum hearth_status score(void *user, struct ht_text context, struct ht_text answer, double *log_p,
                                unsigned *n_tokens, bool *best, struct hearth_error *err)
{
    struct hearth_scorer *s = user;
    int32_t *whole = NULL, *before = NULL;
    size_t n_whole, n_before, from = 0;
    size_t len = context.len_bytes + answer.len_bytes;
    char *text = ht_calloc(len + 1, 1);
    if (!text)
        return ht_fail(err, HEARTH_NOMEM, "out of memory for a question");
    memcpy(text, context.bytes, context.len_bytes);
    memcpy(text + context.len_bytes, answer.bytes, answer.len_bytes);
    enum hearth_status status = ht_eval_tokenize(s->engine, text, len, HEARTH_TOKENIZE_BOS, &whole, &n_whole, err);
    if (status == HEARTH_OK)
        status = ht_eval_tokenize(s->engine, text, context.len_bytes, HEARTH_TOKENIZE_BOS, &before, &n_before, err);
    while (status == HEARTH_OK && from < n_before && from + 1 < n_whole && whole[from] == before[from])
        from++;
    from = from ? from : 1;
    float *weights = status == HEARTH_OK ? ht_calloc(n_whole + 1, sizeof *weights) : NULL;
    double *nll = weights ? ht_calloc(n_whole + 1, sizeof *nll) : NULL;
    bool *is_best = nll ? ht_calloc(n_whole + 1, sizeof *is_best) : NULL;
    if (status == HEARTH_OK && !is_best)
        status = ht_fail(err, HEARTH_NOMEM, "out of memory for %zu tokens", n_whole);
    for (size_t i = from; status == HEARTH_OK && i < n_whole; i++)
        weights[i] = 1;
    if (status == HEARTH_OK)
        status = hearth_scorer_run(s, whole, n_whole, weights, nll, is_best, err);
    *log_p = 0;
    *best = true;
    *n_tokens = 0;
    for (size_t i = from; status == HEARTH_OK && i < n_whole; i++) {
        *log_p -= nll[i];
        *best &= is_best[i];
        ++*n_tokens;
    }
    ht_free(text);
    ht_free(whole);
    ht_free(before);
    ht_free(weights);
    ht_free(nll);
    ht_free(is_best);
    return status;
}

enum hearth_status hearth_eval_choices(struct hearth_scorer *scorer, const struct hearth_choices_params *params,
                                       struct hearth_choices *out, struct hearth_error *err)
{
    const struct ht_choice_model model = {score, scorer};
    return ht_choices_run(&model, params, out, err);
}
