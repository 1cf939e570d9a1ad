// SPDX-License-Identifier: Apache-2.0
// hearth tokenize: text on stdin to token ids, and back. Main thread.
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tools/ask.h"
#include "tools/hearth.h"
#include "tools/ids.h"
#include "tools/models.h"

enum { MAX_TEXT_BYTES = 256 << 20 };

static void print_ids(const int32_t *ids, size_t n, bool json)
{
    if (json)
        fputs("{\"ids\":[", stdout);
    for (size_t i = 0; i < n; i++)
        printf("%s%d", i ? (json ? "," : " ") : "", (int)ids[i]);
    fputs(json ? "]}\n" : "\n", stdout);
}

static int encode(const struct hearth_engine *engine, const char *text, size_t len_bytes, bool special,
                  bool json)
{
    struct hearth_error err = {0};
    unsigned flags = special ? HEARTH_TOKENIZE_SPECIAL | HEARTH_TOKENIZE_BOS : 0;
    size_t capacity = len_bytes + 16, n = 0; // a token has a byte or more, but for BOS and a leading blank
    for (int attempt = 0; attempt < 2; attempt++) {
        int32_t *ids = malloc(capacity * sizeof *ids);
        if (!ids)
            return cli_fail(CLI_OSERR, "out of memory for %zu tokens", capacity);
        enum hearth_status status = hearth_tokenize(engine, text, len_bytes, flags, ids, capacity, &n, &err);
        if (!status)
            print_ids(ids, n, json);
        free(ids);
        if (status != HEARTH_LIMIT || n <= capacity)
            return status ? cli_fail_status(&err) : cli_finish(CLI_OK);
        capacity = n;
    }
    return cli_fail_status(&err);
}

static int decode(const struct hearth_engine *engine, const char *text, size_t len_bytes, bool special,
                  bool json)
{
    struct hearth_error err = {0};
    int32_t *ids;
    size_t n, need = 0;
    int code = ids_parse(text, len_bytes, "stdin", &ids, &n);
    if (code)
        return code;
    enum hearth_status status = hearth_detokenize(engine, ids, n, special, NULL, 0, &need, &err);
    char *out = NULL;
    if (status == HEARTH_OK || status == HEARTH_LIMIT) {
        out = malloc(need + 1);
        status = out ? hearth_detokenize(engine, ids, n, special, out, need, &need, &err) : HEARTH_NOMEM;
    }
    if (status)
        code = cli_fail_status(&err);
    else if (json)
        code = ids_print_json_text(out, need);
    else
        fwrite(out, 1, need, stdout);
    free(out);
    free(ids);
    return code ? code : cli_finish(CLI_OK);
}

int cmd_tokenize(int argc, char **argv)
{
    struct model_options options = {.vocab_only = true};
    bool special = false, back = false;
    const struct cli_option table[] = {
        {"model", 'm', CLI_TEXT, "MODEL", "file, or name of a model (default: the chosen one)",
         &options.model, 0, 0, NULL},
        {"special", 0, CLI_FLAG, NULL, "begin with BOS; control tokens spelt in the text are tokens",
         &special, 0, 0, NULL},
        {"decode", 0, CLI_FLAG, NULL, "stdin holds ids, stdout gets the text", &back, 0, 0, NULL},
    };
    struct cli cli = {
        .name = "tokenize",
        .usage = "[-m MODEL] [--special] [--decode]",
        .about = "Turns the text on stdin into token ids, separated by blanks; --decode does the reverse.",
        .example = "printf 'Hello, world' | hearth tokenize -m default",
        .options = table,
        .n_options = sizeof table / sizeof *table,
    };
    int code = cli_parse(&cli, argc, argv);
    if (code >= 0)
        return code;
    struct hearth_engine *engine;
    code = models_open(&engine, &cli, &options);
    if (code)
        return code;
    size_t len_bytes;
    char *text = ask_read_all(stdin, "stdin", MAX_TEXT_BYTES, &len_bytes, &code);
    if (text)
        code = (back ? decode : encode)(engine, text, len_bytes, special, cli.json);
    free(text);
    hearth_engine_close(&engine);
    return code;
}
