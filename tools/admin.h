// SPDX-License-Identifier: Apache-2.0
// The client of hearthd's admin socket (docs/admin.md): one JSON line out, JSON lines back. Main thread.
#ifndef HEARTH_TOOLS_ADMIN_H
#define HEARTH_TOOLS_ADMIN_H
#include <jansson.h>
#include <stdbool.h>

#include "tools/cli.h"

struct admin; // a connection

// NULL without a word if no hearthd listens.
struct admin *admin_connect(void);
// The same, with a line on stderr and *code set when it fails.
struct admin *admin_open(int *code);
void admin_close(struct admin **admin);

// Sends `request` (the reference is taken; NULL = out of memory) and returns the answer, NULL with one line
// on stderr and *code set when it fails or says "ok":false.
json_t *admin_call(struct admin *admin, json_t *request, int *code);
// The same with open files, which the daemon gets beside the request.
json_t *admin_call_fds(struct admin *admin, json_t *request, const int *fds, size_t n_fds, int *code);
// The next line of an answer that said "more":true; as admin_call.
json_t *admin_next(struct admin *admin, int *code);

// The request with one field more, whose reference is taken. NULL: out of memory, or no UTF-8; the request is gone
// then, since without the field it would ask for something else.
json_t *admin_with(json_t *request, const char *key, json_t *value);

// Connects, calls, closes.
json_t *admin_ask(json_t *request, int *code);

// Asks, and prints the answer: as JSON where that is asked for, else by `print`, or without one the line `done`. The
// reference of `request` is taken; NULL = out of memory. An exit code.
int admin_show(const struct cli *cli, json_t *request, void (*print)(const json_t *answer), const char *done);
// Asks for a way in (a link, a token) with these scopes, none = the box's rule; else as admin_show.
int admin_invite(const struct cli *cli, json_t *request, const struct cli_list *scopes,
                 void (*print)(const json_t *answer));

// Values of an answer, with a default where a field is missing or of another kind.
const char *admin_text(const json_t *object, const char *key);
json_int_t admin_number(const json_t *object, const char *key);

// Prints an answer as one JSON line, without its "ok" and "more". An exit code.
int admin_print_json(json_t *answer);
// "2026-11-22 14:03", local time; "never" for 0.
const char *admin_time(json_int_t unix_ms, char text[32]);
// Text of other people on a terminal: control characters become '?'.
void admin_print_clean(const char *text);

#endif
