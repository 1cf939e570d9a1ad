// SPDX-License-Identifier: Apache-2.0
// The web page's files, embedded into the binary (build/gen/web_assets.c, made by tools/build-web). Constant
// data.
#ifndef HD_ASSETS_H
#define HD_ASSETS_H
#include <stddef.h>

struct hd_asset {
    const char *path; // "/app.js"; the page itself is "/index.html"
    const char *mime; // "text/javascript; charset=utf-8"
    const char *etag; // without quotes, changes with the content
    const unsigned char *data;
    size_t len_bytes;
};
extern const struct hd_asset hd_assets[];
extern const size_t hd_n_assets;

#endif
