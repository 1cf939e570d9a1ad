// SPDX-License-Identifier: Apache-2.0
// Questions from a terminal or a pipe. The signal handler only sets a flag; whoever answers looks at it
// between steps. Main thread.
#include "tools/ask.h"

#include <errno.h>
#include <histedit.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <wchar.h>

#include "tools/cli.h"

enum { HISTORY_LINES = 500 };

static volatile sig_atomic_t interrupted;

static void on_interrupt(int number)
{
    (void)number;
    interrupted = 1;
}

void ask_watch_interrupt(void)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_interrupt; // no SA_RESTART: a blocking read returns
    interrupted = 0;
    sigaction(SIGINT, &action, NULL);
}

bool ask_interrupted(void)
{
    return interrupted != 0;
}

bool ask_print(const char *text, size_t len_bytes)
{
    if (!cli_is_tty(stdout)) {
        fwrite(text, 1, len_bytes, stdout);
        return !fflush(stdout);
    }
    for (size_t i = 0; i < len_bytes; i++) {
        unsigned char c = (unsigned char)text[i], next = i + 1 < len_bytes ? (unsigned char)text[i + 1] : 0;
        if (c == 0xC2 && next >= 0x80 && next < 0xA0) { // U+0080 to U+009F
            fputc('?', stdout);
            i++;
        } else {
            fputc((c < ' ' && c != '\n' && c != '\t') || c == 127 ? '?' : c, stdout);
        }
    }
    return !fflush(stdout);
}

char *ask_read_all(FILE *stream, const char *where, size_t max_bytes, size_t *len_bytes, int *code)
{
    size_t capacity = 65536, len = 0;
    char *text = malloc(capacity + 1);
    *len_bytes = 0;
    while (text) {
        size_t n = fread(text + len, 1, capacity - len, stream);
        len += n;
        if (len < capacity || len > max_bytes)
            break;
        capacity *= 2;
        char *larger = realloc(text, capacity + 1);
        if (!larger)
            free(text);
        text = larger;
    }
    if (!text) {
        *code = cli_fail(CLI_OSERR, "out of memory while reading %s", where);
        return NULL;
    }
    if (ferror(stream) || len > max_bytes) {
        *code = ferror(stream) ? cli_fail(CLI_IOERR, "cannot read %s: %s", where, strerror(errno))
                               : cli_fail(CLI_DATAERR, "%s holds more than %zu bytes", where, max_bytes);
        free(text);
        return NULL;
    }
    text[len] = 0;
    *len_bytes = len;
    return text;
}

static int ask_pipe(const struct ask *ask)
{
    char *line = NULL;
    size_t capacity = 0;
    ssize_t n;
    int code = CLI_OK;
    ask_watch_interrupt();
    while (!code && !ask_interrupted() && (n = getline(&line, &capacity, stdin)) >= 0) {
        while (n && (line[n - 1] == '\n' || line[n - 1] == '\r'))
            line[--n] = 0;
        if (n)
            code = ask->answer(ask->user, line, (size_t)n);
    }
    if (!code && ferror(stdin) && !ask_interrupted())
        code = cli_fail(CLI_IOERR, "cannot read stdin: %s", strerror(errno));
    free(line);
    return ask_interrupted() ? CLI_INTERRUPTED : code;
}

static char *prompt_text(EditLine *editor)
{
    (void)editor;
    static char text[] = "> ";
    return text;
}

static void print_commands(void)
{
    fputs(
        "/help   this list\n/reset  forget this conversation and begin a new one\n/quit   leave (or Ctrl-D)\n"
        "Ctrl-C  stop the answer\n",
        stdout);
}

// True if the line was a command; *leave is set by /quit.
static bool take_command(const struct ask *ask, const char *line, bool *leave)
{
    if (!strcmp(line, "/help"))
        print_commands();
    else if (!strcmp(line, "/reset"))
        ask->reset(ask->user);
    else if (!strcmp(line, "/quit") || !strcmp(line, "/exit"))
        *leave = true;
    else if (line[0] == '/' && !strchr(line, ' '))
        printf("no command %s (see /help)\n", line);
    else
        return false;
    return true;
}

// Waits for a byte on stdin. False after Ctrl-C: the signal is let in only while waiting, so that none is
// missed.
static bool wait_for_input(void)
{
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
    sigset_t only_interrupt, before;
    sigemptyset(&only_interrupt);
    sigaddset(&only_interrupt, SIGINT);
    sigprocmask(SIG_BLOCK, &only_interrupt, &before);
    int n = 0;
    while (!interrupted && n <= 0) {
        n = ppoll(&input, 1, NULL, &before);
        if (n < 0 && errno != EINTR)
            break;
    }
    sigprocmask(SIG_SETMASK, &before, NULL);
    return !interrupted;
}

// The editor's source of characters. libedit repeats a read that a signal ends; here Ctrl-C ends the line
// instead.
static int read_char(EditLine *editor, wchar_t *character)
{
    mbstate_t state;
    char byte;
    (void)editor;
    memset(&state, 0, sizeof state);
    for (;;) {
        if (!wait_for_input()) {
            *character = L'\n';
            return 1;
        }
        ssize_t n = read(STDIN_FILENO, &byte, 1);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return (int)n;
        size_t used = mbrtowc(character, &byte, 1, &state);
        if (used == (size_t)-1)
            memset(&state, 0, sizeof state); // no UTF-8: left out
        if (used == (size_t)-1 || used == (size_t)-2)
            continue;
        if (*character == L'\0') // Ctrl-D, typed while an answer was written and the terminal read lines
            *character = L'\4';
        return 1;
    }
}

// One question typed by hand; NULL at the end of input. The text belongs to the editor.
static const char *read_line(EditLine *editor, int *len)
{
    for (;;) {
        ask_watch_interrupt();
        const char *line = el_gets(editor, len);
        if (!line || *len <= 0)
            return NULL;
        if (!interrupted)
            return line; // else what was typed is dropped
    }
}

static int ask_terminal(const struct ask *ask, EditLine *editor, History *past)
{
    HistEvent event;
    bool leave = false;
    int code = CLI_OK, len;
    while (!leave && (!code || code == CLI_INTERRUPTED)) {
        const char *line = read_line(editor, &len);
        if (!line)
            break;
        char *text = strndup(line, (size_t)len);
        if (!text)
            return cli_fail(CLI_OSERR, "out of memory");
        text[strcspn(text, "\r\n")] = 0;
        if (text[0]) {
            history(past, &event, H_ENTER, text);
            if (!take_command(ask, text, &leave)) {
                ask_watch_interrupt();
                code = ask->answer(ask->user, text, strlen(text));
            }
        }
        free(text);
    }
    return code == CLI_INTERRUPTED ? CLI_OK : code;
}

int ask_loop(const struct ask *ask)
{
    if (!cli_is_tty(stdin))
        return ask_pipe(ask);
    EditLine *editor = el_init("hearth", stdin, stdout, stderr);
    History *past = history_init();
    HistEvent event;
    if (!editor || !past) {
        if (editor)
            el_end(editor);
        return cli_fail(CLI_OSERR, "cannot set the terminal up");
    }
    history(past, &event, H_SETSIZE, HISTORY_LINES);
    el_set(editor, EL_PROMPT, prompt_text);
    el_set(editor, EL_EDITOR, "emacs");
    el_wset(editor, EL_GETCFN, read_char);
    el_set(editor, EL_HIST, history, past);
    printf("%s\n", ask->welcome);
    int code = ask_terminal(ask, editor, past);
    fputc('\n', stdout);
    history_end(past);
    el_end(editor);
    return code;
}
