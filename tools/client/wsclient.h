// SPDX-License-Identifier: Apache-2.0
// One connection of hearth.v1 to a box: TLS verified against the box's own authority, one protobuf frame per
// WebSocket message. Blocking calls; everything runs on the calling thread.
#ifndef HEARTH_CLIENT_WSCLIENT_H
#define HEARTH_CLIENT_WSCLIENT_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hearth/v1/hearth.pb-c.h"

struct wsclient;

enum wsclient_state {
    WSCLIENT_OPEN,
    WSCLIENT_UNREACHABLE, // no connection
    WSCLIENT_UNTRUSTED,   // the box's certificate is not from its authority, or names another host
    WSCLIENT_LOST,        // was open, ended; wsclient_close_code tells
    WSCLIENT_INTERRUPTED, // the `interrupted` callback said so
    WSCLIENT_NO_MEMORY,
};

struct wsclient_params {
    const char *host; // name or address, without brackets
    uint16_t port;
    const unsigned char *ca; // the box's authority: PEM (with its NUL counted) or DER
    size_t ca_len_bytes;
    unsigned connect_timeout_ms;
    bool (*interrupted)(void); // asked several times a second; NULL = never
};

// Connects. On any state but WSCLIENT_OPEN *client is NULL and `why` (160 bytes) holds a short reason.
enum wsclient_state wsclient_connect(struct wsclient **client, const struct wsclient_params *params,
                                     char why[160]);
void wsclient_destroy(struct wsclient **client); // closes; accepts &NULL

// Queues a frame. False: no memory, or the connection is gone.
bool wsclient_send(struct wsclient *client, const Hearth__V1__ClientFrame *frame);
// The next frame; free it with wsclient_frame_free. NULL after timeout_ms, or when the connection is not open
// any more (wsclient_get_state) and everything that came has been taken.
Hearth__V1__ServerFrame *wsclient_receive(struct wsclient *client, unsigned timeout_ms);
void wsclient_frame_free(Hearth__V1__ServerFrame **frame);

enum wsclient_state wsclient_get_state(const struct wsclient *client);
unsigned wsclient_close_code(const struct wsclient *client); // the peer's, 0 if none

// 16 random bytes for ids. False: no random numbers.
bool wsclient_random_id(uint8_t id[16]);

#endif
