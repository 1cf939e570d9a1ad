// SPDX-License-Identifier: Apache-2.0
// One HTTPS GET at a time, with the linked TLS. The certificate and the host's name are always verified.
// Blocks the calling thread; callbacks run on it.
#ifndef HEARTH_TOOLS_HTTPS_H
#define HEARTH_TOOLS_HTTPS_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tools/url.h"

struct https_reply {
    int status; // 0 = no reply came
    char location[URL_TEXT_MAX];
    char etag[256], linked_etag[256]; // as sent, quotes included
    bool has_length, has_range;
    uint64_t length;                               // of this reply's body
    uint64_t range_first, range_last, range_total; // Content-Range of a 206
    char error[160];                               // why it ended badly
};

enum https_end {
    HTTPS_WHOLE,       // the whole body came
    HTTPS_STOPPED,     // a callback returned false
    HTTPS_BROKEN,      // the connection was lost, or nothing came for too long
    HTTPS_UNREACHABLE, // no connection
    HTTPS_UNTRUSTED,   // the server's certificate is not vouched for
    HTTPS_INTERRUPTED, // Ctrl-C
};

struct https_call {
    const struct url *url;
    const char *ca_file;  // NULL = the system's
    const char *if_range; // with range_from > 0: the ETag that the bytes at hand belong to
    uint64_t range_from;
    const char *bearer; // NULL = no credentials
    unsigned idle_timeout_s;
    bool (*on_head)(void *user, const struct https_reply *reply);
    bool (*on_body)(void *user, const void *data, size_t len_bytes);
    void *user;
};

// HTTPS_UNREACHABLE also when the certificate authorities cannot be read; reply->error says so.
enum https_end https_get(const struct https_call *call, struct https_reply *reply);

#endif
