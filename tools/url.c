// SPDX-License-Identifier: Apache-2.0
// Parsing https URLs and Location headers. Any thread.
#include "tools/url.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

static bool fail(const char **why, const char *reason)
{
    *why = reason;
    return false;
}

static bool parse_port(const char *text, size_t len, uint16_t *port)
{
    unsigned value = 0;
    if (!len || len > 5)
        return false;
    for (size_t i = 0; i < len; i++) {
        if (text[i] < '0' || text[i] > '9')
            return false;
        value = value * 10 + (unsigned)(text[i] - '0');
    }
    *port = (uint16_t)value;
    return value && value <= 65535;
}

// "host", "host:port", "[v6]:port"
static bool parse_authority(struct url *url, const char *text, size_t len, const char **why)
{
    const char *host = text, *end = text + len, *colon;
    size_t host_len;
    if (memchr(text, '@', len))
        return fail(why, "a user name or password in the URL");
    if (len && text[0] == '[') {
        const char *close = memchr(text, ']', len);
        if (!close)
            return fail(why, "a broken address");
        host = text + 1;
        host_len = (size_t)(close - host);
        colon = close + 1 < end ? close + 1 : NULL;
        if (colon && *colon != ':')
            return fail(why, "a broken address");
    } else {
        colon = memchr(text, ':', len);
        host_len = colon ? (size_t)(colon - text) : len;
    }
    if (!host_len || host_len >= sizeof url->host)
        return fail(why, "no usable host name");
    for (size_t i = 0; i < host_len; i++)
        if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._:", host[i]))
            return fail(why, "a host name with odd characters");
    memcpy(url->host, host, host_len);
    url->host[host_len] = 0;
    url->port = 443;
    if (colon && !parse_port(colon + 1, (size_t)(end - colon - 1), &url->port))
        return fail(why, "a broken port");
    return true;
}

static bool take_path(struct url *url, const char *text, const char **why)
{
    size_t len = strcspn(text, "#");
    bool slash = len && text[0] == '/';
    if (len + 2 > sizeof url->path)
        return fail(why, "a path that is too long");
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)text[i] <= ' ' || (unsigned char)text[i] >= 127)
            return fail(why, "a blank or an odd character");
    snprintf(url->path, sizeof url->path, "%s%.*s", slash ? "" : "/", (int)len, text);
    return true;
}

bool url_parse(struct url *url, const char *text, const char **why)
{
    if (!strncasecmp(text, "http://", 7))
        return fail(why, "http without TLS: only https is used");
    if (strncasecmp(text, "https://", 8))
        return fail(why, "no https URL");
    const char *rest = text + 8;
    size_t len = strcspn(rest, "/?#");
    return parse_authority(url, rest, len, why) && take_path(url, rest + len, why);
}

bool url_resolve(struct url *url, const struct url *base, const char *location, const char **why)
{
    char text[URL_PATH_MAX];
    if (!location[0])
        return fail(why, "an empty redirect");
    size_t scheme = strcspn(location, ":/?#");
    if (location[scheme] == ':')
        return url_parse(url, location, why);
    if (location[0] == '/' && location[1] == '/') {
        size_t len = strcspn(location + 2, "/?#");
        return parse_authority(url, location + 2, len, why) && take_path(url, location + 2 + len, why);
    }
    *url = *base;
    if (location[0] == '/')
        return take_path(url, location, why);
    size_t query = strcspn(base->path, "?"), dir = query;
    while (dir && base->path[dir - 1] != '/')
        dir--;
    int n = snprintf(text, sizeof text, "%.*s%s", (int)dir, base->path, location);
    if (n < 0 || (size_t)n >= sizeof text)
        return fail(why, "a path that is too long");
    return take_path(url, text, why);
}

bool url_same_origin(const struct url *a, const struct url *b)
{
    return a->port == b->port && !strcasecmp(a->host, b->host);
}

bool url_name_safe(const char *name)
{
    size_t len = strlen(name);
    return len && len < 200 && name[0] != '.' &&
           strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+-") == len;
}

static int hex_value(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

bool url_file_name(const struct url *url, char *name, size_t size)
{
    size_t end = strcspn(url->path, "?"), from = end, n = 0;
    while (from && url->path[from - 1] != '/')
        from--;
    for (size_t i = from; i < end && n + 1 < size; i++) {
        if (url->path[i] == '%' && i + 2 < end && hex_value(url->path[i + 1]) >= 0 &&
            hex_value(url->path[i + 2]) >= 0) {
            name[n++] = (char)(hex_value(url->path[i + 1]) * 16 + hex_value(url->path[i + 2]));
            i += 2;
        } else {
            name[n++] = url->path[i];
        }
    }
    name[n] = 0;
    return url_name_safe(name);
}
