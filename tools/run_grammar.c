// SPDX-License-Identifier: Apache-2.0
// Reading a grammar or a schema for `hearth run`. Main thread.
#include "tools/run_grammar.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tools/cli.h"

enum { MAX_BYTES = 256 << 10 }; // the engine takes no more

static int read_file(struct run_grammar *grammar, const char *path)
{
    grammar->file = path;
    FILE *f = fopen(path, "rb");
    if (!f)
        return cli_fail(CLI_NOINPUT, "%s: %s", path, strerror(errno));
    grammar->text = malloc(MAX_BYTES + 1);
    grammar->len_bytes = grammar->text ? fread(grammar->text, 1, MAX_BYTES + 1, f) : 0;
    int error = ferror(f) ? errno : 0;
    fclose(f);
    if (!grammar->text)
        return cli_fail(CLI_OSERR, "out of memory");
    if (error)
        return cli_fail(CLI_NOINPUT, "%s: %s", path, strerror(error));
    if (grammar->len_bytes > MAX_BYTES)
        return cli_fail(CLI_DATAERR, "%s has more than %d bytes", path, MAX_BYTES);
    return CLI_OK;
}

int run_grammar_read(struct run_grammar *grammar, const char *file, const char *schema)
{
    *grammar = (struct run_grammar){.type = schema ? HEARTH_GRAMMAR_JSON_SCHEMA : HEARTH_GRAMMAR_GBNF};
    if (file && schema)
        return cli_fail(CLI_USAGE, "--grammar and --json-schema cannot be given together");
    if (!file && !schema)
        return CLI_OK;
    const char *begin = schema ? schema + strspn(schema, " \t\r\n") : NULL;
    if (!schema || (*begin && *begin != '{'))
        return read_file(grammar, schema ? schema : file);
    grammar->text = strdup(schema);
    if (!grammar->text)
        return cli_fail(CLI_OSERR, "out of memory");
    grammar->len_bytes = strlen(schema);
    return CLI_OK;
}

int run_grammar_fail(const struct run_grammar *grammar, const struct hearth_error *err)
{
    bool within = strstr(err->text, "grammar") || strstr(err->text, "JSON schema");
    if (!grammar->file || !within || err->code == HEARTH_NOMEM)
        return cli_fail_status(err);
    return cli_fail(cli_exit_code(err->code), "%s: %s", grammar->file, err->text);
}
