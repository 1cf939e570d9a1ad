// SPDX-License-Identifier: Apache-2.0
// hearth train start, stop and status, through the admin socket. What is not given is the box's default, or, where a
// training goes on, what it had. Main thread.
#include "tools/train_box.h"

#include <jansson.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tools/admin.h"
#include "tools/progress.h"

// Options that the box understands, and how admin.md's train.start and train.stop spell them.
static const char *const fields[][2] = {
    {"model", "model"},       {"init", "init"},           {"targets", "targets"}, {"precision", "precision"},
    {"person", "person"},     {"rank", "rank"},           {"seq", "seq"},         {"max-steps", "max_steps"},
    {"batch", "batch"},       {"seed", "seed"},           {"alpha", "alpha"},     {"lr", "lr"},
    {"epochs", "epochs"},     {"held-out", "held_out"},   {"use", "use"},         {"checkpointing", "checkpointing"},
    {"moments", "moments"},   {"discard", "discard"},
};

static const char *field_of(const char *option)
{
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++)
        if (!strcmp(fields[i][0], option))
            return fields[i][1];
    return NULL;
}

static json_t *value_of(const struct cli_option *option)
{
    char digits[24];
    switch (option->kind) {
    case CLI_FLAG: return json_boolean(*(const bool *)option->value);
    case CLI_TEXT: return json_string(*(const char *const *)option->value);
    case CLI_REAL: return json_real(*(const double *)option->value);
    case CLI_COUNT:
        if (strcmp(option->name, "seed"))
            return json_integer((json_int_t) * (const uint64_t *)option->value);
        snprintf(digits, sizeof digits, "%llu", (unsigned long long)*(const uint64_t *)option->value);
        return json_string(digits); // 64 bits, which JSON's numbers do not hold
    case CLI_LIST: break;
    }
    return NULL;
}

static volatile sig_atomic_t left;

static void on_signal(int number)
{
    left = number;
}

// line: on the terminal, in place of the one before it
static void print_status(const json_t *t, bool line)
{
    char rest[24];
    const char *state = admin_text(t, "state"), *problem = admin_text(t, "problem");
    double loss = json_number_value(json_object_get(t, "loss")),
           held_out = json_number_value(json_object_get(t, "held_out")),
           rate = json_number_value(json_object_get(t, "tokens_per_second")),
           eta = json_number_value(json_object_get(t, "eta_seconds"));
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    if (!out)
        return;
    fprintf(out, "%s%s%s", admin_text(t, "adapter"), admin_text(t, "adapter")[0] ? ": " : "", state);
    if (admin_number(t, "step"))
        fprintf(out, ", step %lld of %lld, loss %.4f", (long long)admin_number(t, "step"),
                (long long)admin_number(t, "n_steps"), loss);
    if (!strcmp(state, "stepping") && rate > 0) {
        progress_rest(rest, eta);
        fprintf(out, ", %s left, %.0f tok/s", rest, rate);
    }
    if (held_out > 0)
        fprintf(out, ", held out %.4f", held_out);
    if (problem[0])
        fprintf(out, ": %s", problem);
    if (!fclose(out)) {
        if (line)
            progress_line(text);
        else
            puts(text);
    }
    free(text);
}

static bool ended(const char *state)
{
    return !strcmp(state, "done") || !strcmp(state, "stopped") || !strcmp(state, "failed") || !strcmp(state, "none");
}

// Shows the training until it has ended; Ctrl-C lets it go on alone.
static int follow(const struct cli *cli)
{
    const struct sigaction action = {.sa_handler = on_signal};
    const struct timespec pause = {.tv_nsec = 300 * 1000 * 1000};
    bool tty = cli_is_tty(stderr);
    int code = CLI_OK;
    sigaction(SIGINT, &action, NULL);
    for (;;) {
        json_t *answer = admin_ask(json_pack("{s:s}", "cmd", "train.status"), &code);
        if (!answer)
            return code;
        const json_t *t = json_object_get(answer, "training");
        const char *state = admin_text(t, "state");
        bool end = ended(state), failed = !strcmp(state, "failed");
        if (tty && !end)
            print_status(t, true);
        if (end || left) {
            if (tty)
                fputs("\r\033[K", stderr);
            if (cli->json)
                admin_print_json(answer);
            else
                print_status(t, false);
            json_decref(answer);
            if (!end)
                cli_note("the box goes on with it; see: hearth train status");
            return cli_finish(failed ? CLI_FAILED : CLI_OK);
        }
        json_decref(answer);
        nanosleep(&pause, NULL);
    }
}

static json_t *request_of(const struct cli *cli, const struct cli_option *options, size_t n_options)
{
    bool start = !strcmp(cli->args[0], "start");
    json_t *request = start ? json_pack("{s:s, s:s, s:s}", "cmd", "train.start", "data_set", cli->args[1], "adapter",
                                        cli->args[2])
                            : json_pack("{s:s, s:s}", "cmd", "train.stop", "adapter",
                                        cli->n_args > 1 ? cli->args[1] : "");
    for (size_t i = 0; i < n_options; i++)
        if (*options[i].given)
            request = admin_with(request, field_of(options[i].name), value_of(&options[i]));
    return request;
}

static bool allowed(const char *option, bool start, bool stop)
{
    return strcmp(option, "discard") ? start && field_of(option) : stop;
}

// What an adapter to go on from brings itself (as in cmd_train.c; the box holds the adapter, so all are refused here).
static const char *brought_by_init(const struct cli_option *options, size_t n_options)
{
    const char *other = NULL;
    bool init = false;
    for (size_t i = 0; i < n_options; i++) {
        const char *name = options[i].name;
        init |= *options[i].given && !strcmp(name, "init");
        if (*options[i].given && (!strcmp(name, "rank") || !strcmp(name, "alpha") || !strcmp(name, "targets")))
            other = name;
    }
    return init ? other : NULL;
}

int train_box(const struct cli *cli, const struct cli_option *options, size_t n_options)
{
    const char *verb = cli->args[0];
    bool start = !strcmp(verb, "start"), stop = !strcmp(verb, "stop"), status = !strcmp(verb, "status");
    int code = CLI_OK;
    if (!start && !stop && !status)
        return cli_wrong(cli, "'%s' is not start, stop or status", verb);
    if (start ? cli->n_args != 3 : cli->n_args > 1 + stop)
        return cli_wrong(cli, start ? "'start' wants a data set and the adapter's name"
                                    : "too many words after '%s'", verb);
    for (size_t i = 0; i < n_options; i++)
        if (*options[i].given && !allowed(options[i].name, start, stop))
            return cli_wrong(cli, "--%s is not for '%s'", options[i].name, verb);
    if (brought_by_init(options, n_options))
        return cli_wrong(cli, "--init goes on with an adapter's own linears, ranks and scales: leave --%s out",
                         brought_by_init(options, n_options));
    if (status) {
        json_t *answer = admin_ask(json_pack("{s:s}", "cmd", "train.status"), &code);
        if (answer && cli->json)
            code = admin_print_json(answer);
        else if (answer)
            print_status(json_object_get(answer, "training"), false);
        json_decref(answer);
        return code ? code : cli_finish(CLI_OK);
    }
    json_t *answer = admin_ask(request_of(cli, options, n_options), &code);
    if (!answer)
        return code;
    json_decref(answer);
    return start ? follow(cli) : CLI_OK;
}
