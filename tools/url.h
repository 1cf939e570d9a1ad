// SPDX-License-Identifier: Apache-2.0
// https URLs, strictly. Any thread.
#ifndef HEARTH_TOOLS_URL_H
#define HEARTH_TOOLS_URL_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { URL_HOST_MAX = 256, URL_PATH_MAX = 4096, URL_TEXT_MAX = URL_HOST_MAX + URL_PATH_MAX + 32 };

struct url {
    char host[URL_HOST_MAX]; // without brackets
    uint16_t port;
    char path[URL_PATH_MAX]; // begins with '/', query included, fragment dropped
};

// False with the reason in *why (a literal).
bool url_parse(struct url *url, const char *text, const char **why);
// A Location header, absolute or relative to base.
bool url_resolve(struct url *url, const struct url *base, const char *location, const char **why);
bool url_same_origin(const struct url *a, const struct url *b);
// The last part of the path, percent-decoded. False if it is empty or no safe file name.
bool url_file_name(const struct url *url, char *name, size_t size);
// A file name that is safe in any folder: letters, digits and ._+- only, not beginning with a dot.
bool url_name_safe(const char *name);

#endif
