// SPDX-License-Identifier: Apache-2.0
// What --grammar and --json-schema of `hearth run` name. Main thread.
#ifndef RUN_GRAMMAR_H
#define RUN_GRAMMAR_H
#include "engine/engine.h"

struct run_grammar {
    char *text; // owned; NULL = none
    size_t len_bytes;
    enum hearth_grammar_type type;
    const char *file; // where the text is from; NULL: the command line
};
// file: a GBNF file; schema: a file, or a schema itself (it begins with `{`, or is empty). Either may be NULL. Returns
// an exit code; what is wrong has been told.
int run_grammar_read(struct run_grammar *grammar, const char *file, const char *schema);
// Tells why a request failed; of what is wrong in the grammar also in which file. Returns an exit code.
int run_grammar_fail(const struct run_grammar *grammar, const struct hearth_error *err);

#endif
