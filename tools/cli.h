// SPDX-License-Identifier: Apache-2.0
// What every command of `hearth` shares: options as data, help, one-line errors and exit codes.
// Runs on the main thread.
#ifndef HEARTH_TOOLS_CLI_H
#define HEARTH_TOOLS_CLI_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "engine/status.h"

// Exit codes: 0, 1, 2 and sysexits(3).
enum cli_exit {
    CLI_OK = 0,
    CLI_FAILED = 1,
    CLI_USAGE = 2,
    CLI_DATAERR = 65,
    CLI_NOINPUT = 66,
    CLI_UNAVAILABLE = 69,
    CLI_SOFTWARE = 70,
    CLI_OSERR = 71,
    CLI_CANTCREAT = 73,
    CLI_IOERR = 74,
    CLI_TEMPFAIL = 75,
    CLI_NOPERM = 77,
    CLI_CONFIG = 78,
    CLI_INTERRUPTED = 130,
};

enum cli_kind {
    CLI_FLAG,  // bool *
    CLI_TEXT,  // const char **
    CLI_COUNT, // uint64_t *
    CLI_REAL,  // double *
    CLI_LIST,  // struct cli_list *: may be given several times
};

enum { CLI_LIST_MAX = 16 };
struct cli_list {
    const char *items[CLI_LIST_MAX];
    size_t n;
};

struct cli_option {
    const char *name; // "ctx", without dashes
    char letter;      // 'm' for -m; 0 = none
    enum cli_kind kind;
    const char *argument; // "N" in the help; NULL for flags
    const char *help;
    void *value;     // see cli_kind
    double min, max; // CLI_COUNT and CLI_REAL; both 0 = any
    bool *given;     // may be NULL
};

struct cli {
    const char *name;    // "run"
    const char *usage;   // "[-m MODEL] [-p TEXT]"
    const char *about;   // one or a few sentences
    const char *example; // one full command line
    const struct cli_option *options;
    size_t n_options;
    int min_args, max_args;

    // Filled by cli_parse: the options of all commands, and the other words.
    bool json;
    const char *device; // "auto"
    uint64_t n_threads; // 0 = all
    char **args;
    int n_args;
};

// Reads the words of a command; argv[0] is the command's name. Returns -1 to go on, else the exit code.
int cli_parse(struct cli *cli, int argc, char **argv);

// Both print one line "hearth …: message" on stderr and return the exit code.
int cli_fail(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));
int cli_wrong(const struct cli *cli, const char *format, ...)
    __attribute__((format(printf, 2, 3))); // returns 2
// The words of a command "list | ADD NAME | REMOVE NAME", whose last two are given: -1 if they are right, else the exit
// code, after its line on stderr.
int cli_check_list_words(const struct cli *cli, const char *add, const char *remove);
// Something that a person should know, on stderr; nothing failed.
void cli_note(const char *format, ...) __attribute__((format(printf, 1, 2)));
// As cli_fail, for an error of the engine.
int cli_fail_status(const struct hearth_error *err);
int cli_exit_code(enum hearth_status status);
// After the last output: flushes stdout; a full disk or a closed pipe becomes an exit code.
int cli_finish(int code);

bool cli_is_tty(FILE *stream);
bool cli_color(FILE *stream);                        // a tty and no NO_COLOR
const char *cli_size(uint64_t bytes, char text[24]); // "92.3 MiB"

// "cpu", "cuda:1" … : true if the text is a device this program knows by name.
bool cli_device_valid(const char *device);

#endif
