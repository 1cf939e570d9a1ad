// SPDX-License-Identifier: Apache-2.0
// client.json: {"boxes":[{"fp","host","port","token","ca"}]}, token and authority in hexadecimal. Mode 0600,
// replaced whole. Main thread.
#include "tools/box_store.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/cli.h"
#include "tools/json_line.h"
#include "tools/paths.h"

enum { MAX_FILE_BYTES = 1 << 20, MAX_BOXES = 64 };

static bool from_hex(const char *text, unsigned char *bytes, size_t capacity, size_t *n)
{
    size_t len = text ? strlen(text) : 1;
    *n = 0;
    if (len % 2 || len / 2 > capacity)
        return false;
    for (size_t i = 0; i < len; i += 2) {
        unsigned value;
        if (strspn(text + i, "0123456789abcdef") < 2 || sscanf(text + i, "%2x", &value) != 1)
            return false;
        bytes[(*n)++] = (unsigned char)value;
    }
    return true;
}

static json_t *to_hex(const unsigned char *bytes, size_t n)
{
    static const char digits[] = "0123456789abcdef";
    char *text = malloc(2 * n + 1);
    if (!text)
        return NULL;
    for (size_t i = 0; i < n; i++) {
        text[2 * i] = digits[bytes[i] >> 4];
        text[2 * i + 1] = digits[bytes[i] & 15];
    }
    json_t *value = json_stringn(text, 2 * n);
    free(text);
    return value;
}

// The file's object with its "boxes" array; an empty one where there is no file. NULL: it is there, and cannot be read
// or understood; it stays as it is, whoever wanted to change it. *code then.
static json_t *load(int *code)
{
    char path[PATHS_MAX];
    json_error_t error;
    *code = CLI_OK;
    if (!paths_get(path, PATHS_STATE, "client.json")) {
        *code = cli_fail(CLI_OSERR, "client.json: its path is too long");
        return NULL;
    }
    char *text = paths_read(path, MAX_FILE_BYTES);
    json_t *root = text ? json_loads(text, JSON_REJECT_DUPLICATES, &error) : NULL;
    if (!text && errno == ENOENT)
        root = json_pack("{s:[]}", "boxes");
    else if (!text)
        *code = cli_fail(CLI_IOERR, "%s: cannot read: %s", path, strerror(errno));
    else if (!json_whole())
        *code = cli_fail(CLI_OSERR, "%s: out of memory", path);
    else if (!json_is_array(json_object_get(root, "boxes")))
        *code = cli_fail(CLI_DATAERR, "%s: damaged; move it away, and pair anew", path);
    if (text)
        memset(text, 0, strlen(text));
    free(text);
    if (*code) {
        json_decref(root);
        root = NULL;
    } else if (!root) {
        *code = cli_fail(CLI_OSERR, "out of memory");
    }
    return root;
}

static int save(const json_t *root)
{
    char path[PATHS_MAX];
    char *text = json_whole() ? json_dumps(root, JSON_INDENT(1)) : NULL;
    if (!text)
        return cli_fail(CLI_OSERR, "out of memory");
    bool good = paths_get(path, PATHS_STATE, "client.json") && paths_make_parent(path) &&
                paths_replace(path, text, strlen(text), 0600);
    memset(text, 0, strlen(text));
    free(text);
    return good ? CLI_OK : cli_fail(CLI_CANTCREAT, "client.json: cannot write: %s", strerror(errno));
}

static const char *text_of(const json_t *entry, const char *key)
{
    const char *text = json_string_value(json_object_get(entry, key));
    return text ? text : "";
}

static bool take(struct box *box, const json_t *entry)
{
    json_int_t port = json_integer_value(json_object_get(entry, "port"));
    size_t n;
    if (strlen(text_of(entry, "fp")) >= sizeof box->fp ||
        strlen(text_of(entry, "host")) >= sizeof box->host || port < 1 || port > 65535 ||
        !from_hex(text_of(entry, "ca"), box->ca, IDENTITY_CA_MAX, &box->ca_len_bytes))
        return false;
    snprintf(box->fp, sizeof box->fp, "%s", text_of(entry, "fp"));
    snprintf(box->host, sizeof box->host, "%s", text_of(entry, "host"));
    box->port = (uint16_t)port;
    box->has_token =
        from_hex(text_of(entry, "token"), box->token, sizeof box->token, &n) && n == BOX_TOKEN_BYTES;
    return true;
}

static size_t find(const json_t *boxes, const char *fp, const char *host)
{
    for (size_t i = 0; i < json_array_size(boxes); i++) {
        const json_t *entry = json_array_get(boxes, i);
        if ((!fp || !strcmp(fp, text_of(entry, "fp"))) && (!host || !strcmp(host, text_of(entry, "host"))))
            return i;
    }
    return json_array_size(boxes);
}

int box_store_find(struct box *box, const char *fp, const char *host, bool *found)
{
    int code;
    json_t *root = load(&code);
    const json_t *boxes = json_object_get(root, "boxes");
    size_t i = find(boxes, fp, host);
    *found = i < json_array_size(boxes) && take(box, json_array_get(boxes, i));
    json_decref(root);
    return code;
}

// NULL: out of memory, none of it is lost in silence.
static json_t *entry_of(const struct box *box, bool with_token)
{
    json_t *entry = json_pack("{s:s, s:s, s:i, s:o}", "fp", box->fp, "host", box->host, "port", (int)box->port, "ca",
                              to_hex(box->ca, box->ca_len_bytes));
    if (entry && with_token && json_object_set_new(entry, "token", to_hex(box->token, sizeof box->token))) {
        json_decref(entry);
        return NULL;
    }
    return entry;
}

static int replace(const struct box *box, bool with_token)
{
    int code;
    json_t *root = load(&code), *boxes = json_object_get(root, "boxes");
    if (!root)
        return code;
    size_t i = find(boxes, box->fp, NULL), n = json_array_size(boxes);
    json_t *entry = i == n && n >= MAX_BOXES ? NULL : entry_of(box, with_token);
    if (i == n && n >= MAX_BOXES)
        code = cli_fail(CLI_OSERR, "client.json: no room for another box");
    else if (i < n ? json_array_set_new(boxes, i, entry) : json_array_append_new(boxes, entry))
        code = cli_fail(CLI_OSERR, "out of memory");
    else
        code = save(root);
    json_decref(root);
    return code;
}

int box_store_save(const struct box *box)
{
    return replace(box, box->has_token);
}

int box_store_forget_token(const struct box *box)
{
    return replace(box, false);
}
