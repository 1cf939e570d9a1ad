// SPDX-License-Identifier: Apache-2.0
// The terminal side of a conversation, shared by `run` and `chat`: line editing with history in memory only,
// Ctrl-C cancels the answer, Ctrl-D leaves, a pipe is a list of questions. Main thread.
#ifndef HEARTH_TOOLS_ASK_H
#define HEARTH_TOOLS_ASK_H
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

struct ask {
    const char *welcome; // shown once on a terminal
    // Answers one question, streaming to stdout. CLI_OK, CLI_INTERRUPTED (cancelled, goes on), or an exit
    // code that ends the conversation.
    int (*answer)(void *user, const char *text, size_t len_bytes);
    void (*reset)(void *user); // a new conversation
    void *user;
};

// Reads questions until the end of input. The exit code.
int ask_loop(const struct ask *ask);

void ask_watch_interrupt(void); // from now on Ctrl-C sets a flag instead of ending the program
bool ask_interrupted(void);     // since then

// Writes text of a model to stdout at once. On a terminal, control characters (escape sequences) become '?'.
// False if stdout cannot be written.
bool ask_print(const char *text, size_t len_bytes);

// All of a stream, at most max bytes; NULL with a line on stderr that names `where`, and *code set.
// NUL-terminated.
char *ask_read_all(FILE *stream, const char *where, size_t max_bytes, size_t *len_bytes, int *code);

#endif
