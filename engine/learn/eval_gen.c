// SPDX-License-Identifier: Apache-2.0
// Questions that the model answers in its own words: prompts made, answers generated and compared. One thread.
#include <stdio.h>
#include <string.h>

#include "engine/base/limits.h"
#include "engine/base/mem.h"
#include "engine/learn/eval.h"

enum { MOST_SHOTS = 64, MOST_TURNS = 256, MOST_ANSWERS = 64, MAX_TOKENS = 256, ANSWER_BYTES = 1 << 20 };

struct question {
    struct ht_text head, ask, tail; // without a chat template: "Question: ", …, "\nAnswer:"
    struct hearth_message messages[MOST_TURNS];
    size_t n_messages; // with one; the last is a person's
    const char *answers[MOST_ANSWERS];
    size_t n_answers;
};

static struct ht_text text_of(const char *bytes)
{
    return (struct ht_text){bytes, strlen(bytes)};
}

static void add_message(struct question *q, enum hearth_role role, struct ht_text text)
{
    q->messages[q->n_messages++] = (struct hearth_message){.role = role, .text = text.bytes,
                                                           .len_bytes = text.len_bytes};
}

// ---------------------------------------------------------------- reading

static bool read_messages(const json_t *list, struct question *q)
{
    size_t n = json_array_size(list);
    if (!n || n > MOST_TURNS / 2)
        return false;
    for (size_t i = 0; i < n; i++) {
        struct ht_text text = ht_data_field(json_array_get(list, i), "content");
        enum hearth_role role = ht_data_role(ht_data_field(json_array_get(list, i), "role"));
        if (!text.bytes || !role || role > HEARTH_ROLE_ASSISTANT)
            return false;
        add_message(q, role, text);
    }
    return q->messages[n - 1].role == HEARTH_ROLE_USER;
}

// Texts that are right: "answer", "target" …, or a list of them.
static bool read_answers(struct ht_data_pool *pool, const json_t *value, struct question *q)
{
    static const char *const keys[] = {"answers", "answer", "target", "output", "response", "reference", "completion"};
    const json_t *answer = NULL;
    for (size_t i = 0; i < sizeof keys / sizeof *keys && !answer; i++)
        answer = json_object_get(value, keys[i]);
    if (json_is_string(answer)) {
        q->answers[q->n_answers++] = ht_task_string(pool, ht_data_text_of(answer));
    } else if (json_is_number(answer)) {
        char number[32];
        snprintf(number, sizeof number, "%.15g", json_number_value(answer));
        q->answers[q->n_answers++] = ht_task_string(pool, text_of(number));
    }
    for (size_t i = 0; i < json_array_size(answer) && q->n_answers < MOST_ANSWERS; i++) {
        struct ht_text text = ht_data_text_of(json_array_get(answer, i));
        if (!text.bytes)
            return false;
        q->answers[q->n_answers++] = ht_task_string(pool, text);
    }
    return q->n_answers > 0;
}

static bool read_question(struct ht_data_pool *pool, const json_t *value, struct question *q)
{
    static const char *const asks[] = {"prompt", "question", "instruction", "input", "text", NULL};
    const json_t *messages = json_object_get(value, "messages");
    *q = (struct question){.head = text_of(""), .tail = text_of("")};
    if (!read_answers(pool, value, q))
        return false;
    if (messages)
        return read_messages(messages, q);
    q->ask = ht_task_field(value, asks);
    if (!q->ask.bytes)
        return false;
    if (ht_data_field(value, "prompt").bytes) {
        return true; // as it is
    } else if (ht_data_field(value, "question").bytes) {
        q->head = text_of("Question: ");
        q->tail = text_of("\nAnswer:");
    } else if (ht_data_field(value, "instruction").bytes) {
        struct ht_text input = ht_data_field(value, "input");
        if (input.len_bytes)
            q->ask = ht_data_join(pool, q->ask, "\n\n", input);
        q->tail = text_of("\n");
    } else if (ht_data_field(value, "input").bytes) {
        q->head = text_of("Q: ");
        q->tail = text_of("\nA:");
    }
    return true;
}

// ---------------------------------------------------------------- examples

struct shots {
    struct ht_data_pool pool;
    struct ht_text asks[MOST_SHOTS], answers[MOST_SHOTS], blocks[MOST_SHOTS];
    size_t n;
};

static enum hearth_status read_shots(const struct hearth_gen_params *p, struct shots *shots, struct question *q,
                                     struct hearth_error *err)
{
    struct hearth_task_counts ignored = {0};
    struct ht_task_file file;
    const json_t *value = NULL;
    size_t most = (size_t)p->n_shots + 1; // the question that is asked may be one of them
    most = most < MOST_SHOTS ? most : MOST_SHOTS;
    HT_TRY(ht_task_open(&file, p->shots_path, &ignored, err));
    enum hearth_status status = ht_task_next(&file, &value, err);
    for (; status == HEARTH_OK && value && shots->n < most; status = ht_task_next(&file, &value, err)) {
        if (!read_question(&file.pool, value, q) || !q->ask.bytes)
            continue;
        struct ht_text answer = text_of(q->answers[0]);
        struct ht_text block = ht_data_join(&file.pool, q->head, "", q->ask);
        block = ht_data_join(&file.pool, block, "", q->tail);
        block = ht_data_join(&file.pool, block, q->tail.len_bytes && q->tail.bytes[q->tail.len_bytes - 1] == '\n' ? ""
                                                                                                                  : " ",
                             answer);
        shots->blocks[shots->n] = ht_data_join(&shots->pool, block, "\n\n", text_of(""));
        shots->asks[shots->n] = ht_data_join(&shots->pool, q->ask, "", text_of(""));
        shots->answers[shots->n++] = ht_data_join(&shots->pool, answer, "", text_of(""));
        if (file.pool.failed || shots->pool.failed)
            status = ht_fail(err, HEARTH_NOMEM, "out of memory for examples");
    }
    ht_task_close(&file);
    if (status == HEARTH_OK && !shots->n)
        status = ht_fail(err, HEARTH_FORMAT, "%s: holds no example that can be used", ht_shown_path(p->shots_path));
    return status;
}

// ---------------------------------------------------------------- items

struct run {
    const struct hearth_gen_params *params;
    const struct ht_gen_model *model;
    struct hearth_gen *out;
    struct ht_match *matcher;
    struct shots *shots;
    struct question *question;
    bool stop;
};

// Does example i stand before the question? n_shots do, and never the question itself with its answer.
static bool shows(const struct run *run, size_t i, size_t *n_shown)
{
    struct ht_text a = run->shots->asks[i], b = run->question->ask;
    bool itself = a.len_bytes == b.len_bytes && !memcmp(a.bytes, b.bytes, a.len_bytes);
    return !itself && (*n_shown)++ < run->params->n_shots;
}

static enum hearth_status ask(struct run *run, struct ht_data_pool *pool, struct ht_gen_made *made,
                              struct hearth_error *err)
{
    struct question *q = run->question;
    size_t n_shown = 0;
    if (q->n_messages && !run->params->chat)
        return ht_fail(err, HEARTH_INVALID, "%s: holds conversations, which a chat template must render",
                       ht_shown_path(run->params->path));
    if (!run->params->chat) {
        struct ht_text prompt = text_of("");
        for (size_t i = 0; run->shots && i < run->shots->n; i++)
            if (shows(run, i, &n_shown))
                prompt = ht_data_join(pool, prompt, "", run->shots->blocks[i]);
        prompt = ht_data_join(pool, prompt, "", q->head);
        prompt = ht_data_join(pool, prompt, "", q->ask);
        prompt = ht_data_join(pool, prompt, "", q->tail);
        if (pool->failed)
            return ht_fail(err, HEARTH_NOMEM, "out of memory for a prompt");
        return run->model->answer(run->model->user, NULL, 0, prompt, made, err);
    }
    if (!q->n_messages) {
        for (size_t i = 0; run->shots && i < run->shots->n; i++) {
            if (!shows(run, i, &n_shown))
                continue;
            add_message(q, HEARTH_ROLE_USER, run->shots->asks[i]);
            add_message(q, HEARTH_ROLE_ASSISTANT, run->shots->answers[i]);
        }
        add_message(q, HEARTH_ROLE_USER, q->ask);
    }
    return run->model->answer(run->model->user, q->messages, q->n_messages, (struct ht_text){0}, made, err);
}

static void compare(struct run *run, struct ht_data_pool *pool, const struct ht_gen_made *made,
                    struct hearth_gen_item *item)
{
    item->taken = ht_match_take(run->matcher, pool, made->text, false);
    for (size_t i = 0; i < run->question->n_answers && item->taken; i++) {
        double score = 0;
        const char *wanted = ht_match_take(run->matcher, pool, run->question->answers[i], true);
        bool right = wanted && ht_match_compare(run->matcher, pool, item->taken, wanted, &score);
        item->right |= right;
        item->score = score > item->score ? score : item->score;
    }
}

static enum hearth_status one(struct run *run, struct ht_task_file *file, const json_t *value,
                              struct hearth_error *err)
{
    struct ht_gen_made made = {0};
    if (!read_question(&file->pool, value, run->question)) {
        ht_task_skip(file, HT_TASK_MISSING);
        return HEARTH_OK;
    }
    enum hearth_status status = ask(run, &file->pool, &made, err);
    if (status == HEARTH_CONTEXT) {
        ht_task_skip(file, HT_TASK_TOO_LONG);
        return HEARTH_OK;
    }
    HT_TRY(status);
    struct hearth_gen_item item = {.line = file->line, .text = made.text, .len_bytes = made.len_bytes,
                                   .n_tokens = made.n_tokens, .stop = made.stop};
    compare(run, &file->pool, &made, &item);
    if (file->pool.failed)
        return ht_fail(err, HEARTH_NOMEM, "out of memory for an answer");
    run->out->counts.n_items++;
    run->out->n_right += item.right;
    run->out->n_nothing += !item.taken;
    run->out->score_sum += item.score;
    if (run->params->each && !run->params->each(run->params->user, &item, ht_task_done(file)))
        run->stop = true;
    if (run->params->max_items && run->out->counts.n_items >= run->params->max_items)
        run->stop = true;
    return HEARTH_OK;
}

enum hearth_status ht_gen_run(const struct ht_gen_model *model, const struct hearth_gen_params *params,
                              struct hearth_gen *out, struct hearth_error *err)
{
    struct run run = {.params = params, .model = model, .out = out};
    struct ht_task_file file = {0};
    const json_t *value = NULL;
    *out = (struct hearth_gen){0};
    if (params->match == HEARTH_MATCH_REGEX && !params->pattern)
        return ht_fail(err, HEARTH_INVALID, "comparing by a pattern needs one");
    HT_TRY(ht_match_create(&run.matcher, params->match, params->pattern, err));
    enum hearth_status status = ht_task_open(&file, params->path, &out->counts, err);
    if (status != HEARTH_OK)
        goto closed;
    run.question = ht_calloc(1, sizeof *run.question);
    run.shots = params->shots_path ? ht_calloc(1, sizeof *run.shots) : NULL;
    if (!run.question || (params->shots_path && !run.shots))
        status = ht_fail(err, HEARTH_NOMEM, "out of memory for questions");
    else if (run.shots)
        status = read_shots(params, run.shots, run.question, err);
    while (status == HEARTH_OK && !run.stop) {
        status = ht_task_next(&file, &value, err);
        if (status != HEARTH_OK || !value)
            break;
        status = one(&run, &file, value, err);
    }
    if (run.shots)
        ht_data_pool_free(&run.shots->pool);
    ht_free(run.shots);
    ht_free(run.question);
    ht_task_close(&file);
closed:
    ht_match_destroy(&run.matcher);
    return status;
}

// ---------------------------------------------------------------- a model

struct generator {
    struct hearth_engine *engine;
    struct hearth_session *session;
    const struct hearth_gen_params *params;
    char *text; // ANSWER_BYTES + 1
    size_t len;
    bool ended;
    struct hearth_usage usage;
    struct hearth_error failed;
};

static void on_event(void *user, const struct hearth_event *event)
{
    struct generator *g = user;
    if (event->type == HEARTH_EVENT_TEXT) {
        size_t n = event->len_bytes < ANSWER_BYTES - g->len ? event->len_bytes : ANSWER_BYTES - g->len;
        for (size_t i = 0; i < n; i++) // texts are compared as C strings
            g->text[g->len++] = event->text[i] ? event->text[i] : ' ';
    } else if (event->type == HEARTH_EVENT_DONE || event->type == HEARTH_EVENT_FAILED) {
        g->ended = true;
        g->usage = *event->usage;
        if (event->type == HEARTH_EVENT_FAILED)
            g->failed = *event->error;
    }
}

static enum hearth_status answer(void *user, const struct hearth_message *messages, size_t n_messages,
                                 struct ht_text prompt, struct ht_gen_made *made, struct hearth_error *err)
{
    struct generator *g = user;
    const struct hearth_gen_params *p = g->params;
    int32_t *ids = NULL;
    size_t n_ids = 0;
    unsigned busy = 0;
    if (!messages)
        HT_TRY(ht_eval_tokenize(g->engine, prompt.bytes, prompt.len_bytes, HEARTH_TOKENIZE_BOS, &ids, &n_ids, err));
    struct hearth_request request = {.messages = messages, .n_messages = n_messages, .ids = ids, .n_ids = n_ids,
                                     .max_tokens = p->max_tokens ? p->max_tokens : MAX_TOKENS, .stop = p->stop,
                                     .n_stop = p->n_stop, .adapter = p->adapter, .on_event = on_event, .user = g};
    hearth_sampling_default(&request.sampling);
    request.sampling.temperature = p->temperature;
    request.sampling.seed = p->seed;
    g->len = 0;
    g->ended = false;
    g->failed.code = HEARTH_OK;
    enum hearth_status status = hearth_session_submit(g->session, &request, err);
    ht_free(ids);
    while (status == HEARTH_OK && !g->ended)
        status = hearth_engine_step(g->engine, &busy, err);
    HT_TRY(status);
    if (g->failed.code != HEARTH_OK)
        return ht_fail(err, g->failed.code, "%s", g->failed.text);
    g->text[g->len] = 0;
    *made = (struct ht_gen_made){g->text, g->len, g->usage.completion_tokens, g->usage.stop};
    return HEARTH_OK;
}

enum hearth_status hearth_eval_gen(struct hearth_engine *engine, const struct hearth_gen_params *params,
                                   struct hearth_gen *out, struct hearth_error *err)
{
    struct generator g = {.engine = engine, .params = params, .text = ht_calloc(ANSWER_BYTES + 1, 1)};
    const struct ht_gen_model model = {answer, &g};
    *out = (struct hearth_gen){0};
    if (!g.text)
        return ht_fail(err, HEARTH_NOMEM, "out of memory for answers");
    enum hearth_status status = hearth_session_create(engine, &g.session, err);
    if (status == HEARTH_OK)
        status = ht_gen_run(&model, params, out, err);
    hearth_session_destroy(&g.session);
    ht_free(g.text);
    return status;
}
