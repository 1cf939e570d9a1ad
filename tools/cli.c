// SPDX-License-Identifier: Apache-2.0
// Options, help and errors of the `hearth` command. Main thread.
#include "tools/cli.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_OPTIONS = 40, N_COMMON = 4, FIRST_LONG = 1000 };

static const char *const common_help[N_COMMON][3] = {
    {"device", "D", "auto, cpu, cuda[:i] or vulkan[:i]"},
    {"threads", "N", "threads to compute with (default: the cores this process may use)"},
    {"json", NULL, "answer in JSON, for programs"},
    {"help", NULL, "show this help"},
};

bool cli_is_tty(FILE *stream)
{
    return isatty(fileno(stream)) == 1;
}

bool cli_color(FILE *stream)
{
    const char *no_color = getenv("NO_COLOR");
    return cli_is_tty(stream) && (!no_color || !no_color[0]);
}

const char *cli_size(uint64_t bytes, char text[24])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double value = (double)bytes;
    size_t unit = 0;
    while (value >= 1024 && unit + 1 < sizeof units / sizeof *units) {
        value /= 1024;
        unit++;
    }
    snprintf(text, 24, unit && value < 100 ? "%.1f %s" : "%.0f %s", value, units[unit]);
    return text;
}

bool cli_device_valid(const char *device)
{
    if (!strcmp(device, "auto") || !strcmp(device, "cpu"))
        return true;
    size_t n = !strncmp(device, "cuda", 4) ? 4 : !strncmp(device, "vulkan", 6) ? 6 : 0;
    if (!n)
        return false;
    const char *rest = device + n;
    return !rest[0] || (rest[0] == ':' && rest[1] && strlen(rest) <= 3 &&
                        strspn(rest + 1, "0123456789") == strlen(rest + 1));
}

static void print_line(const char *format, va_list args)
{
    fflush(stdout);
    fputs("hearth: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
}

int cli_fail(int code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    print_line(format, args);
    va_end(args);
    return code;
}

void cli_note(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    print_line(format, args);
    va_end(args);
}

int cli_wrong(const struct cli *cli, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fprintf(stderr, "hearth %s: ", cli->name);
    vfprintf(stderr, format, args);
    fprintf(stderr, " (see: hearth %s --help)\n", cli->name);
    va_end(args);
    return CLI_USAGE;
}

int cli_check_list_words(const struct cli *cli, const char *add, const char *remove)
{
    const char *verb = cli->args[0];
    bool named = cli->n_args == 2;
    if (!strcmp(verb, "list"))
        return named ? cli_wrong(cli, "'list' takes no name") : -1;
    if (strcmp(verb, add) && strcmp(verb, remove))
        return cli_wrong(cli, "'%s' is none of list, %s, %s", verb, add, remove);
    return named ? -1 : cli_wrong(cli, "'%s' wants a name", verb);
}

int cli_exit_code(enum hearth_status status)
{
    switch (status) {
    case HEARTH_OK: return CLI_OK;
    case HEARTH_NOMEM: return CLI_OSERR;
    case HEARTH_INVALID:
    case HEARTH_FORMAT:
    case HEARTH_LIMIT:
    case HEARTH_NUMERIC:
    case HEARTH_CONTEXT: return CLI_DATAERR;
    case HEARTH_IO: return CLI_IOERR;
    case HEARTH_UNSUPPORTED:
    case HEARTH_DEVICE_LOST: return CLI_UNAVAILABLE;
    case HEARTH_CANCELED: return CLI_INTERRUPTED;
    case HEARTH_NOT_FOUND: return CLI_NOINPUT;
    case HEARTH_BUSY: return CLI_TEMPFAIL;
    }
    return CLI_SOFTWARE;
}

int cli_fail_status(const struct hearth_error *err)
{
    return cli_fail(cli_exit_code(err->code), "%s", err->text[0] ? err->text : hearth_status_text(err->code));
}

int cli_finish(int code)
{
    if (fflush(stdout) || ferror(stdout))
        return cli_fail(CLI_IOERR, "cannot write the output: %s", strerror(errno));
    return code;
}

static void print_option(char letter, const char *name, const char *argument, const char *help)
{
    char left[64];
    if (letter)
        snprintf(left, sizeof left, "-%c, --%s%s%s", letter, name, argument ? " " : "",
                 argument ? argument : "");
    else
        snprintf(left, sizeof left, "    --%s%s%s", name, argument ? " " : "", argument ? argument : "");
    printf("  %-29s %s\n", left, help);
}

static int print_help(const struct cli *cli)
{
    printf("Usage: hearth %s%s%s\n\n%s\n\nOptions:\n", cli->name, cli->usage[0] ? " " : "", cli->usage,
           cli->about);
    for (size_t i = 0; i < cli->n_options; i++) {
        const struct cli_option *option = &cli->options[i];
        print_option(option->letter, option->name, option->argument, option->help);
    }
    for (size_t i = 0; i < N_COMMON; i++)
        print_option(i == N_COMMON - 1 ? 'h' : 0, common_help[i][0], common_help[i][1], common_help[i][2]);
    printf("\nExample:\n  %s\n", cli->example);
    return cli_finish(CLI_OK);
}

static bool read_count(const char *text, uint64_t *value)
{
    if (text[0] < '0' || text[0] > '9')
        return false;
    char *end;
    errno = 0;
    *value = strtoull(text, &end, 10);
    return !errno && !*end;
}

static bool read_real(const char *text, double *value)
{
    char *end;
    errno = 0;
    *value = strtod(text, &end);
    return !errno && end != text && !*end && isfinite(*value);
}

// Stores one option's argument; false with a message on stderr.
static bool take(const struct cli *cli, const struct cli_option *option, char *text)
{
    bool limited = option->min != 0 || option->max != 0;
    double number = 0;
    uint64_t count;
    struct cli_list *list;
    switch (option->kind) {
    case CLI_FLAG: *(bool *)option->value = true; break;
    case CLI_TEXT: *(const char **)option->value = text; break;
    case CLI_COUNT:
        if (!read_count(text, &count)) {
            cli_wrong(cli, "--%s wants a whole number, not '%s'", option->name, text);
            return false;
        }
        *(uint64_t *)option->value = count;
        number = (double)count;
        break;
    case CLI_REAL:
        if (!read_real(text, &number)) {
            cli_wrong(cli, "--%s wants a number, not '%s'", option->name, text);
            return false;
        }
        *(double *)option->value = number;
        break;
    case CLI_LIST:
        list = option->value;
        if (list->n == CLI_LIST_MAX) {
            cli_wrong(cli, "--%s is given more than %d times", option->name, CLI_LIST_MAX);
            return false;
        }
        list->items[list->n++] = text;
        break;
    }
    if ((option->kind == CLI_COUNT || option->kind == CLI_REAL) && limited &&
        (number < option->min || number > option->max)) {
        cli_wrong(cli, "--%s must lie between %.12g and %.12g", option->name, option->min, option->max);
        return false;
    }
    if (option->given)
        *option->given = true;
    return true;
}

// Tables for getopt_long: the command's options, then the common ones.
static void build_tables(const struct cli *cli, struct option *table, char *letters)
{
    size_t n = 0, k = 0;
    letters[k++] = ':';
    for (size_t i = 0; i < cli->n_options && i < MAX_OPTIONS; i++) {
        const struct cli_option *option = &cli->options[i];
        int has = option->kind == CLI_FLAG ? no_argument : required_argument;
        table[n++] = (struct option){option->name, has, NULL, FIRST_LONG + (int)i};
        if (option->letter) {
            letters[k++] = option->letter;
            if (has == required_argument)
                letters[k++] = ':';
        }
    }
    for (size_t i = 0; i < N_COMMON; i++)
        table[n++] = (struct option){common_help[i][0], common_help[i][1] ? required_argument : no_argument,
                                     NULL, FIRST_LONG + MAX_OPTIONS + (int)i};
    letters[k++] = 'h';
    letters[k] = 0;
    table[n] = (struct option){0};
}

static const struct cli_option *option_of(const struct cli *cli, int code)
{
    if (code >= FIRST_LONG && code < FIRST_LONG + MAX_OPTIONS)
        return &cli->options[code - FIRST_LONG];
    for (size_t i = 0; i < cli->n_options; i++)
        if (cli->options[i].letter && cli->options[i].letter == code)
            return &cli->options[i];
    return NULL;
}

static int take_common(struct cli *cli, int index, char *text)
{
    static struct cli_option threads = {.name = "threads", .kind = CLI_COUNT, .min = 1, .max = 1024};
    switch (index) {
    case 0:
        cli->device = text;
        if (cli_device_valid(text))
            return -1;
        return cli_wrong(cli, "--device wants auto, cpu, cuda[:i] or vulkan[:i], not '%s'", text);
    case 1: threads.value = &cli->n_threads; return take(cli, &threads, text) ? -1 : CLI_USAGE;
    case 2: cli->json = true; return -1;
    default: return print_help(cli);
    }
}

int cli_parse(struct cli *cli, int argc, char **argv)
{
    struct option table[MAX_OPTIONS + N_COMMON + 1];
    char letters[2 * MAX_OPTIONS + 4];
    build_tables(cli, table, letters);
    cli->device = "auto";
    opterr = 0;
    optind = 1;
    for (;;) {
        int code = getopt_long(argc, argv, letters, table, NULL);
        if (code == -1)
            break;
        if (code == ':')
            return cli_wrong(cli, "'%s' wants an argument", argv[optind - 1]);
        if (code == '?' && optopt && optopt < FIRST_LONG)
            return cli_wrong(cli, "no option '-%c'", optopt);
        if (code == '?')
            return cli_wrong(cli, "no option '%s'", argv[optind - 1]);
        if (code == 'h')
            return print_help(cli);
        if (code >= FIRST_LONG + MAX_OPTIONS) {
            int result = take_common(cli, code - FIRST_LONG - MAX_OPTIONS, optarg);
            if (result >= 0)
                return result;
        } else if (!take(cli, option_of(cli, code), optarg)) {
            return CLI_USAGE;
        }
    }
    cli->args = argv + optind;
    cli->n_args = argc - optind;
    if (cli->n_args < cli->min_args)
        return cli_wrong(cli, cli->n_args ? "a word is missing" : "usage: hearth %s %s", cli->name,
                         cli->usage);
    if (cli->n_args > cli->max_args)
        return cli_wrong(cli, "'%s' is one word too many", cli->args[cli->max_args]);
    return -1;
}
