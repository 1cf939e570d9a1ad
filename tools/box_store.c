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

// The file's object with its "boxes" array; an empty one where there is none that can be read.
static json_t *load(void)
{
    char path[PATHS_MAX];
    char *text = paths_get(path, PATHS_STATE, "client.json") ? paths_read(path, MAX_FILE_BYTES) : NULL;
    json_t *root = text ? json_loads(text, JSON_REJECT_DUPLICATES, NULL) : NULL;
    free(text);
    if (!json_is_array(json_object_get(root, "boxes"))) {
        json_decref(root);
        root = json_pack("{s:[]}", "boxes");
    }
    return root;
}

static int save(const json_t *root)
{
    char path[PATHS_MAX];
    char *text = json_dumps(root, JSON_INDENT(1));
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

bool box_store_find(struct box *box, const char *fp, const char *host)
{
    json_t *root = load();
    const json_t *boxes = json_object_get(root, "boxes");
    size_t i = find(boxes, fp, host);
    bool found = i < json_array_size(boxes) && take(box, json_array_get(boxes, i));
    json_decref(root);
    return found;
}

static int replace(const struct box *box, bool with_token)
{
    json_t *root = load(), *boxes = json_object_get(root, "boxes");
    json_t *entry = json_pack("{s:s, s:s, s:i, s:o}", "fp", box->fp, "host", box->host, "port",
                              (int)box->port, "ca", to_hex(box->ca, box->ca_len_bytes));
    if (entry && with_token)
        json_object_set_new(entry, "token", to_hex(box->token, sizeof box->token));
    size_t i = find(boxes, box->fp, NULL);
    if (!entry || (i == json_array_size(boxes) && i >= MAX_BOXES)) {
        json_decref(entry);
        json_decref(root);
        return cli_fail(CLI_OSERR, "client.json: no room for another box");
    }
    if (i < json_array_size(boxes))
        json_array_set_new(boxes, i, entry);
    else
        json_array_append_new(boxes, entry);
    int code = save(root);
    json_decref(root);
    return code;
}

int box_store_save(const struct box *box)
{
    return replace(box, box->has_token);
}

void box_store_forget_token(const struct box *box)
{
    replace(box, false);
}
