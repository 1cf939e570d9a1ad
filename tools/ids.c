// SPDX-License-Identifier: Apache-2.0
// Reading token ids, printing text as JSON. Main thread.
#include "tools/ids.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "tools/ask.h"
#include "tools/cli.h"
#include "tools/json_line.h"
#include "tools/paths.h"

enum { MAX_FILE_BYTES = 256 << 20 };

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == ',';
}

int ids_parse(const char *text, size_t len_bytes, const char *where, int32_t **ids, size_t *n_ids)
{
    *n_ids = 0;
    *ids = malloc((len_bytes / 2 + 1) * sizeof **ids); // an id and its blank take two bytes or more
    if (!*ids)
        return cli_fail(CLI_OSERR, "out of memory");
    size_t n = 0;
    for (size_t i = 0; i < len_bytes;) {
        if (is_blank(text[i])) {
            i++;
            continue;
        }
        int64_t value = 0;
        size_t from = i;
        while (i < len_bytes && text[i] >= '0' && text[i] <= '9' && value <= INT32_MAX)
            value = value * 10 + (text[i++] - '0');
        if (i == from || value > INT32_MAX || (i < len_bytes && !is_blank(text[i]))) {
            free(*ids);
            *ids = NULL;
            return cli_fail(CLI_DATAERR, "%s: word %zu is not a token id", where, n + 1);
        }
        (*ids)[n++] = (int32_t)value;
    }
    *n_ids = n;
    return CLI_OK;
}

int ids_read_file(const char *path, int32_t **ids, size_t *n_ids)
{
    int code = CLI_OK;
    size_t len_bytes = 0;
    *ids = NULL;
    *n_ids = 0;
    FILE *file = strcmp(path, "-") ? fopen(path, "rbe") : stdin;
    if (!file)
        return cli_fail(CLI_NOINPUT, "%s: %s", path, strerror(errno));
    char *text = ask_read_all(file, path, MAX_FILE_BYTES, &len_bytes, &code);
    if (file != stdin)
        fclose(file);
    if (!text)
        return code;
    code = ids_parse(text, len_bytes, path, ids, n_ids);
    free(text);
    if (!code && !*n_ids) {
        free(*ids);
        *ids = NULL;
        code = cli_fail(CLI_DATAERR, "%s: holds no token ids", path);
    }
    return code;
}

// Length of the valid UTF-8 character at text, 0 if it is none.
static size_t utf8_length(const unsigned char *text, size_t left)
{
    unsigned char c = text[0];
    size_t n = c < 0x80                 ? 1
               : c >= 0xC2 && c <= 0xDF ? 2
               : (c & 0xF0) == 0xE0     ? 3
               : c >= 0xF0 && c <= 0xF4 ? 4
                                        : 0;
    if (!n || n > left)
        return 0;
    for (size_t i = 1; i < n; i++)
        if ((text[i] & 0xC0) != 0x80)
            return 0;
    if ((c == 0xE0 && text[1] < 0xA0) || (c == 0xED && text[1] > 0x9F) || (c == 0xF0 && text[1] < 0x90) ||
        (c == 0xF4 && text[1] > 0x8F))
        return 0;
    return n;
}

int ids_print_json_text(const char *text, size_t len_bytes)
{
    char *clean = malloc(3 * len_bytes + 1);
    size_t n = 0;
    if (!clean)
        return cli_fail(CLI_OSERR, "out of memory");
    for (size_t i = 0; i < len_bytes;) {
        size_t step = utf8_length((const unsigned char *)text + i, len_bytes - i);
        memcpy(clean + n, step ? text + i : "\xEF\xBF\xBD", step ? step : 3);
        n += step ? step : 3;
        i += step ? step : 1;
    }
    json_t *object = json_pack("{s:s%}", "text", clean, n);
    free(clean);
    return json_line(object, 0);
}
