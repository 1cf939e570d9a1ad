// SPDX-License-Identifier: Apache-2.0
// The boxes that this user's terminal is paired with, and connecting to one: the box of this machine by its
// admin socket, others by a pairing link once. Tokens live in $XDG_STATE_HOME/hearth/client.json (0600). Main
// thread.
#ifndef HEARTH_TOOLS_BOX_H
#define HEARTH_TOOLS_BOX_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tools/client/identity.h"
#include "tools/client/wsclient.h"

enum { BOX_TOKEN_BYTES = 32 };

struct box {
    char fp[96];    // the box's identity, as its links spell it
    char host[256]; // name or address
    uint16_t port;
    unsigned char ca[IDENTITY_CA_MAX + 1]; // the box's authority, DER or PEM with its NUL
    size_t ca_len_bytes;
    uint8_t token[BOX_TOKEN_BYTES];
    bool has_token;
    bool local;                      // of this machine: pairs itself by the admin socket
    uint8_t secret[BOX_TOKEN_BYTES]; // of a pairing link that was not used yet
    bool has_secret;
};

// The box of this machine (host NULL), a paired one by its name or address, or one by its pairing link.
// CLI_OK, or an exit code after one line on stderr.
int box_find(struct box *box, const char *host);
// Connects and introduces itself: Hello with the token, else Pair. `quiet`: no line on stderr for a box that
// cannot be reached (the caller tries again): CLI_TEMPFAIL. CLI_INTERRUPTED after Ctrl-C.
int box_connect(struct box *box, struct wsclient **client, bool quiet);

#endif
