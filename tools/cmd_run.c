// SPDX-License-Identifier: Apache-2.0
// hearth run: a conversation with a model in this process. Main thread, which is the engine thread too.
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "tools/adapters.h"
#include "tools/ask.h"
#include "tools/hearth.h"
#include "tools/json_line.h"
#include "tools/models.h"
#include "tools/packed.h"
#include "tools/run_grammar.h"

enum { MAX_MESSAGES = 4096, MAX_DRAFT = 7 };

struct chat {
    const struct cli *cli;
    struct hearth_engine *engine;
    struct hearth_session *session;
    struct hearth_engine_info info;
    struct hearth_sampling sampling;
    struct hearth_message *messages; // texts are owned
    size_t n_messages;
    const char *system;
    unsigned max_tokens, max_draft, adapter;
    const struct cli_list *stop;
    struct run_grammar grammar;
    bool raw, verbose, seed_given;
    bool typed; // questions are typed by hand: a refused one does not end the conversation

    // The answer that is being written.
    char *answer;
    size_t answer_len, answer_capacity;
    struct hearth_usage usage;
    struct hearth_error error;
    bool ended, failed;
};

static const char *stop_name(enum hearth_stop_reason stop)
{
    static const char *const names[] = {"none",         "end",       "stop_string", "max_tokens",
                                        "context_full", "cancelled", "error"};
    return (unsigned)stop < sizeof names / sizeof *names ? names[stop] : "?";
}

static bool keep(struct chat *chat, const char *text, size_t len_bytes)
{
    if (chat->answer_len + len_bytes + 1 > chat->answer_capacity) {
        size_t capacity = 2 * (chat->answer_len + len_bytes) + 1024;
        char *larger = realloc(chat->answer, capacity);
        if (!larger)
            return false;
        chat->answer = larger;
        chat->answer_capacity = capacity;
    }
    memcpy(chat->answer + chat->answer_len, text, len_bytes);
    chat->answer_len += len_bytes;
    chat->answer[chat->answer_len] = 0;
    return true;
}

static void on_event(void *user, const struct hearth_event *event)
{
    struct chat *chat = user;
    switch (event->type) {
    case HEARTH_EVENT_PROMPT: break;
    case HEARTH_EVENT_TEXT:
        if (!keep(chat, event->text, event->len_bytes))
            hearth_session_cancel(chat->session);
        if (!chat->cli->json && !ask_print(event->text, event->len_bytes))
            hearth_session_cancel(chat->session);
        break;
    case HEARTH_EVENT_FAILED:
        chat->failed = true;
        if (event->error)
            chat->error = *event->error;
        // fall through
    case HEARTH_EVENT_DONE:
        chat->ended = true;
        if (event->usage)
            chat->usage = *event->usage;
        break;
    }
}

// The prompt of completion mode: the text's own ids, nothing around them.
static int submit_raw(struct chat *chat, struct hearth_request *request, const char *text, size_t len_bytes)
{
    struct hearth_error err = {0};
    size_t capacity = len_bytes + 16, n = 0;
    int32_t *ids = malloc(capacity * sizeof *ids);
    if (!ids)
        return cli_fail(CLI_OSERR, "out of memory");
    enum hearth_status status =
        hearth_tokenize(chat->engine, text, len_bytes, HEARTH_TOKENIZE_BOS, ids, capacity, &n, &err);
    if (!status) {
        request->ids = ids;
        request->n_ids = n;
        status = hearth_session_submit(chat->session, request, &err);
    }
    free(ids);
    return status ? run_grammar_fail(&chat->grammar, &err) : CLI_OK;
}

static bool push(struct chat *chat, enum hearth_role role, const char *text, size_t len_bytes)
{
    if (chat->n_messages == MAX_MESSAGES)
        return false;
    char *copy = malloc(len_bytes + 1);
    if (!copy)
        return false;
    memcpy(copy, text, len_bytes);
    copy[len_bytes] = 0;
    chat->messages[chat->n_messages++] =
        (struct hearth_message){.role = role, .text = copy, .len_bytes = len_bytes};
    return true;
}

static void pop(struct chat *chat)
{
    if (!chat->n_messages)
        return;
    chat->n_messages--;
    free((char *)chat->messages[chat->n_messages].text);
    free((int32_t *)chat->messages[chat->n_messages].ids);
}

// Keeps the last turn's ids, so that it is never tokenized again. A stop string is in the ids but not in the
// text.
static void keep_ids(struct chat *chat)
{
    struct hearth_message *turn = &chat->messages[chat->n_messages - 1];
    size_t capacity = chat->usage.completion_tokens;
    int32_t *ids = capacity && chat->usage.stop != HEARTH_STOP_STRING ? malloc(capacity * sizeof *ids) : NULL;
    if (!ids)
        return;
    turn->n_ids = hearth_session_last_ids(chat->session, ids, capacity);
    turn->ids = ids;
}

static int submit(struct chat *chat, const char *text, size_t len_bytes)
{
    struct hearth_error err = {0};
    struct hearth_request request = {
        .sampling = chat->sampling,
        .max_tokens = chat->max_tokens,
        .stop = chat->stop->items,
        .n_stop = chat->stop->n,
        .max_draft = chat->max_draft,
        .adapter = chat->adapter,
        .grammar = chat->grammar.text,
        .grammar_len_bytes = chat->grammar.len_bytes,
        .grammar_type = chat->grammar.type,
        .on_event = on_event,
        .user = chat,
    };
    if (chat->raw)
        return submit_raw(chat, &request, text, len_bytes);
    if (!push(chat, HEARTH_ROLE_USER, text, len_bytes))
        return cli_fail(CLI_DATAERR, "the conversation is too long: /reset begins a new one");
    request.messages = chat->messages;
    request.n_messages = chat->n_messages;
    if (!hearth_session_submit(chat->session, &request, &err))
        return CLI_OK;
    pop(chat);
    return run_grammar_fail(&chat->grammar, &err);
}

static void print_usage(const struct chat *chat)
{
    const struct hearth_usage *usage = &chat->usage;
    double prompt_s = usage->prompt_ms / 1000, answer_s = usage->completion_ms / 1000;
    unsigned computed = usage->prompt_tokens - usage->cached_tokens;
    fprintf(stderr,
            "prompt %u tokens (%u cached), %.1f tok/s; answer %u tokens, %.1f tok/s (%u of %u proposed taken); "
            "first token %.0f ms; stop %s; seed %llu; numerics %s\n",
            usage->prompt_tokens, usage->cached_tokens, prompt_s > 0 ? computed / prompt_s : 0,
            usage->completion_tokens,
            answer_s > 0 && usage->completion_tokens > 1 ? (usage->completion_tokens - 1) / answer_s : 0,
            usage->accepted_tokens, usage->drafted_tokens, usage->first_token_ms, stop_name(usage->stop),
            (unsigned long long)usage->seed, usage->numerics_id);
}

static int print_json(const struct chat *chat)
{
    const struct hearth_usage *usage = &chat->usage;
    json_t *object = json_pack(
        "{s:s%, s:{s:i, s:i, s:i, s:i, s:i, s:f, s:f, s:f, s:o, s:s, s:s}}", "text", chat->answer ? chat->answer : "",
        chat->answer_len, "usage", "prompt_tokens", (int)usage->prompt_tokens, "cached_tokens",
        (int)usage->cached_tokens, "completion_tokens", (int)usage->completion_tokens, "drafted_tokens",
        (int)usage->drafted_tokens, "accepted_tokens", (int)usage->accepted_tokens, "prompt_ms",
        usage->prompt_ms, "first_token_ms", usage->first_token_ms, "completion_ms", usage->completion_ms,
        "seed", json_sprintf("%llu", (unsigned long long)usage->seed), "numerics_id", usage->numerics_id,
        "stop_reason", stop_name(usage->stop));
    return json_line(object, 0);
}

// Prints what ends an answer and keeps it as the assistant's turn.
static int finish(struct chat *chat, bool interrupted)
{
    if (chat->failed) {
        if (chat->answer_len && !chat->cli->json)
            fputc('\n', stdout);
        if (!chat->raw)
            pop(chat);
        return cli_fail_status(&chat->error);
    }
    int code = CLI_OK;
    if (chat->cli->json)
        code = print_json(chat);
    else if (!chat->answer_len || chat->answer[chat->answer_len - 1] != '\n')
        fputc('\n', stdout);
    if (!chat->raw && push(chat, HEARTH_ROLE_ASSISTANT, chat->answer ? chat->answer : "", chat->answer_len))
        keep_ids(chat);
    else if (!chat->raw)
        pop(chat);
    if (chat->verbose)
        print_usage(chat);
    if (chat->usage.stop == HEARTH_STOP_CONTEXT_FULL)
        cli_note("the context of %u tokens is full, the answer ends here (a larger --ctx, or /reset)",
                 chat->info.n_ctx);
    code = code ? code : cli_finish(CLI_OK);
    return code ? code : interrupted ? CLI_INTERRUPTED : CLI_OK;
}

static int answer(void *user, const char *text, size_t len_bytes)
{
    struct chat *chat = user;
    struct hearth_error err = {0};
    bool interrupted = false;
    chat->answer_len = 0;
    chat->ended = chat->failed = false;
    if (!chat->seed_given && getrandom(&chat->sampling.seed, sizeof chat->sampling.seed, 0) < 0)
        return cli_fail(CLI_OSERR, "no random numbers: %s", strerror(errno));
    int code = submit(chat, text, len_bytes);
    if (code)
        return chat->typed && code == CLI_DATAERR ? CLI_OK : code;
    while (!chat->ended) {
        unsigned n_busy;
        if (hearth_engine_step(chat->engine, &n_busy, &err))
            return cli_fail_status(&err);
        if (ask_interrupted() && !interrupted) {
            interrupted = true;
            hearth_session_cancel(chat->session);
        }
    }
    return finish(chat, interrupted);
}

static void reset(void *user)
{
    struct chat *chat = user;
    while (chat->n_messages > (chat->system ? 1u : 0u))
        pop(chat);
    hearth_session_truncate(chat->session, 0, NULL);
    puts("A new conversation.");
}

static int talk(struct chat *chat, const char *prompt)
{
    char welcome[512];
    struct hearth_error err = {0};
    if (hearth_session_create(chat->engine, &chat->session, &err))
        return cli_fail_status(&err);
    if (chat->raw || !strcmp(chat->info.chat_template, "none") || (chat->system && !*chat->system))
        chat->system = NULL; // completion mode has no place for one; empty: the model's own
    if (chat->system && !push(chat, HEARTH_ROLE_SYSTEM, chat->system, strlen(chat->system)))
        return cli_fail(CLI_OSERR, "out of memory");
    if (prompt) {
        ask_watch_interrupt();
        return answer(chat, prompt, strlen(prompt));
    }
    chat->typed = cli_is_tty(stdin);
    snprintf(welcome, sizeof welcome, "%s, %s, context %u tokens. /help lists commands, Ctrl-D leaves.",
             chat->info.name, chat->info.device, chat->info.n_ctx);
    struct ask ask = {.welcome = welcome, .answer = answer, .reset = reset, .user = chat};
    return ask_loop(&ask);
}

// Opens the model and talks; everything is freed whatever happens.
static int run(struct chat *chat, const struct model_options *model, const struct cli_list *adapters,
               const char *prompt)
{
    int code = models_open(&chat->engine, chat->cli, model);
    if (!code)
        code = adapters_load(chat->engine, model->model, adapters, &chat->adapter);
    if (code) {
        hearth_engine_close(&chat->engine);
        return code;
    }
    hearth_engine_get_info(chat->engine, &chat->info);
    if (!chat->raw && !strcmp(chat->info.chat_template, "none")) {
        cli_note("this model has no chat template: it goes on with your text (--template NAME chooses one)");
        chat->raw = true;
    }
    if (chat->verbose)
        fprintf(stderr, "%s (%s), %s, context %u tokens, template %s\n", chat->info.name,
                chat->info.file_type, chat->info.device, chat->info.n_ctx,
                chat->raw ? "none" : chat->info.chat_template);
    chat->messages = calloc(MAX_MESSAGES, sizeof *chat->messages);
    code = chat->messages ? talk(chat, prompt) : cli_fail(CLI_OSERR, "out of memory");
    while (chat->messages && chat->n_messages)
        pop(chat);
    free(chat->messages);
    free(chat->answer);
    hearth_session_destroy(&chat->session);
    if (!code)
        packed_keep(chat->engine, model, NULL); // nobody waits any more
    hearth_engine_close(&chat->engine);
    return code;
}

// The words of the command line.
static struct {
    struct chat chat;
    struct model_options model;
    struct cli_list stop, adapters;
    const char *prompt, *grammar, *schema;
    double temp, top_p, min_p, repeat, presence, frequency;
    uint64_t top_k, last_n, seed, max_tokens, max_draft;
    bool temp_given;
} words;

static const struct cli_option options[] = {
    {"model", 'm', CLI_TEXT, "MODEL", "file, or name of a model (default: the chosen one)",
     &words.model.model, 0, 0, NULL},
    {"prompt", 'p', CLI_TEXT, "TEXT", "answer this and end", &words.prompt, 0, 0, NULL},
    {"system", 0, CLI_TEXT, "TEXT", "system text that every conversation begins with, '' = the model's own",
     &words.chat.system, 0, 0, NULL},
    {"max-tokens", 'n', CLI_COUNT, "N", "end an answer after N tokens", &words.max_tokens, 1, 1e9, NULL},
    {"ctx", 0, CLI_COUNT, "N", "context in tokens (default: the model's, if it fits)", &words.model.n_ctx, 1,
     1 << 24, NULL},
    {"kv", 0, CLI_TEXT, "TYPE", "KV cache: f16, q8 or f32", &words.model.kv, 0, 0, NULL},
    {"exact", 0, CLI_FLAG, NULL, "float32 activations and KV (slow, for reference)", &words.model.exact, 0, 0,
     NULL},
    {"packed-cache", 0, CLI_FLAG, NULL, "keep the packed weights as a file, and read them from there next time",
     &words.model.packed_cache, 0, 0, NULL},
    {"temp", 0, CLI_REAL, "T", "temperature, 0 = always the likeliest token", &words.temp, 0, 5,
     &words.temp_given},
    {"top-k", 0, CLI_COUNT, "K", "draw from the K likeliest tokens, 0 = off", &words.top_k, 0, 1e6, NULL},
    {"top-p", 0, CLI_REAL, "P", "draw from the likeliest tokens of total P, 1 = off", &words.top_p, 1e-6, 1,
     NULL},
    {"min-p", 0, CLI_REAL, "P", "drop tokens below P times the likeliest, 0 = off", &words.min_p, 0, 1, NULL},
    {"repeat-penalty", 0, CLI_REAL, "R", "make repeated tokens less likely, 1 = off", &words.repeat, 0.1, 10,
     NULL},
    {"presence-penalty", 0, CLI_REAL, "R", "subtract R for a token that was there, 0 = off", &words.presence,
     -2, 2, NULL},
    {"frequency-penalty", 0, CLI_REAL, "R", "subtract R each time it was there, 0 = off", &words.frequency,
     -2, 2, NULL},
    {"penalty-last-n", 0, CLI_COUNT, "N", "tokens that the penalties look back on", &words.last_n, 0, 4096,
     NULL},
    {"seed", 0, CLI_COUNT, "N", "the same seed gives the same answer", &words.seed, 0, 0,
     &words.chat.seed_given},
    {"draft", 0, CLI_COUNT, "N",
     "propose up to N tokens a step from what was said (7); only speed depends on it, 0 = off", &words.max_draft, 0,
     MAX_DRAFT, NULL},
    {"stop", 0, CLI_LIST, "TEXT", "end the answer before this text; may be repeated", &words.stop, 0, 0,
     NULL},
    {"grammar", 0, CLI_TEXT, "FILE", "answers follow the GBNF grammar in this file", &words.grammar, 0, 0, NULL},
    {"json-schema", 0, CLI_TEXT, "FILE|JSON", "answers are JSON that holds for this schema; '{}' = any JSON",
     &words.schema, 0, 0, NULL},
    {"template", 0, CLI_TEXT, "T", "chat template by name, if the model's own is unknown",
     &words.model.chat_template, 0, 0, NULL},
    {"raw", 0, CLI_FLAG, NULL, "no chat template: the model goes on with the text", &words.chat.raw, 0, 0,
     NULL},
    {"adapter", 0, CLI_LIST, "A[:scale]", "answer with a LoRA adapter at this scale (1); repeated: with their sum",
     &words.adapters, 0, 0, NULL},
    {"verbose", 'v', CLI_FLAG, NULL, "counts, speed, seed and numerics id on stderr", &words.chat.verbose, 0,
     0, NULL},
};

static void set_defaults(void)
{
    struct hearth_sampling sampling;
    memset(&sampling, 0, sizeof sampling);
    hearth_sampling_default(&sampling);
    words.chat.system = "You are a helpful AI assistant."; // as hearthd's
    words.temp = sampling.temperature;
    words.top_k = sampling.top_k;
    words.top_p = sampling.top_p;
    words.min_p = sampling.min_p;
    words.repeat = sampling.repeat_penalty;
    words.presence = sampling.presence_penalty;
    words.frequency = sampling.frequency_penalty;
    words.last_n = sampling.penalty_last_n;
    words.max_draft = MAX_DRAFT;
}

static void take_sampling(struct hearth_sampling *sampling)
{
    hearth_sampling_default(sampling);
    sampling->temperature = (float)words.temp;
    sampling->top_k = (uint32_t)words.top_k;
    sampling->top_p = (float)words.top_p;
    sampling->min_p = (float)words.min_p;
    sampling->repeat_penalty = (float)words.repeat;
    sampling->presence_penalty = (float)words.presence;
    sampling->frequency_penalty = (float)words.frequency;
    sampling->penalty_last_n = (uint32_t)words.last_n;
    sampling->seed = words.seed;
}

int cmd_run(int argc, char **argv)
{
    struct cli cli = {
        .name = "run",
        .usage = "[-m MODEL] [-p TEXT]",
        .about = "Talks with a model in this terminal, without a server. With -p, exactly one answer goes to "
                 "stdout.\n"
                 "Without a terminal on stdin, each line is a question, answered at temperature 0 unless "
                 "--temp is given.",
        .example = "hearth run -p 'What is the capital of France?' --temp 0",
        .options = options,
        .n_options = sizeof options / sizeof *options,
    };
    set_defaults();
    int code = cli_parse(&cli, argc, argv);
    if (code >= 0)
        return code;
    struct chat *chat = &words.chat;
    chat->cli = &cli;
    chat->stop = &words.stop;
    chat->raw = chat->raw || (words.model.chat_template && !strcmp(words.model.chat_template, "raw"));
    chat->max_tokens = (unsigned)words.max_tokens;
    chat->max_draft = (unsigned)words.max_draft;
    if (!words.prompt && !words.temp_given && !cli_is_tty(stdin))
        words.temp = 0; // programs get the same answer each time
    take_sampling(&chat->sampling);
    code = run_grammar_read(&chat->grammar, words.grammar, words.schema);
    if (!code)
        code = run(chat, &words.model, &words.adapters, words.prompt);
    free(chat->grammar.text);
    return code;
}
