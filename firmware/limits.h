// SPDX-License-Identifier: Apache-2.0
// Every cap of the daemon's outside: the wire, sockets, queues and logs. Constants only. docs/protocol.md
// states them.
#ifndef HD_LIMITS_H
#define HD_LIMITS_H

enum {
    // frames
    HD_MAX_FRAME_BYTES = 1 << 20,       // one WebSocket message, either way
    HD_MAX_FIRST_FRAME_BYTES = 4 << 10, // before authentication
    HD_MAX_WIRE_FIELDS = 4096,          // fields of one message, all levels together
    HD_MAX_WIRE_DEPTH = 4,              // ClientFrame.chat.sampling.temperature
    HD_MAX_ARENA_BYTES = 4 << 20,       // unpacked size of one message

    // fields of the schema, besides those that store.h and people.h state
    HD_MAX_LOGIT_BIAS = 300,
    HD_MAX_STOPS = 16,
    HD_MAX_STOP_BYTES = 256,
    HD_MAX_PING_BYTES = 64,

    // sockets
    HD_MAX_CONNECTIONS = 256, // all addresses together
    HD_MAX_CONNECTIONS_PER_ADDRESS = 32,
    HD_MAX_ADDRESSES = 1024, // remembered by the guard
    HD_UNKNOWN_MS = 1000, // a connection without a token that is older gives way where there is no room for another
    HD_HANDSHAKES_PER_SECOND = 50, // of TLS, sustained, in all: beyond it addresses take turns
    HD_HANDSHAKES_BURST = 100,
    HD_FIRST_FRAME_MS = 10 * 1000,
    HD_HANDSHAKE_S = 10,               // TLS and HTTP headers
    HD_MAX_SEND_QUEUE_BYTES = 4 << 20, // per socket; beyond it the reader is too slow
    HD_CLOSE_GRACE_S = 2,              // for a close frame to leave; then the socket is cut
    HD_WRONG_TRIES_PER_MINUTE = 5,     // per address; then it is told to wait out the minute
    HD_TOLD_PER_MINUTE = 10,           // addresses that the log names for it
    HD_FRAMES_PER_SECOND = 40,         // per device, over all its connections, sustained
    HD_FRAMES_BURST = 200,
    HD_READ_BYTES_PER_FRAME = 256 << 10, // of conversations: reading more counts as more frames
    HD_MAX_RATES = 256, // devices whose rate is remembered

    // responses
    HD_MAX_QUEUE = 64,                   // requests waiting for the engine
    HD_MAX_QUEUE_PERSON = 32,            // of them one person's
    HD_MAX_RESPONSES = 512,              // remembered, running or ended
    HD_MAX_RESPONSE_LOG_BYTES = 1 << 20, // events kept per response; older ones are told by a snapshot
    HD_RESPONSE_KEEP_MS = 10 * 60 * 1000,
    HD_MAX_RESPONSE_TEXT_BYTES = 768 << 10, // text of one answer: a snapshot must fit in a frame
    HD_MAX_PROMPT_TURNS = 4096,             // of a conversation, given to the model
    HD_MAX_PROMPT_BYTES = 2 << 20,
    HD_RING_NOTES = 1024,        // engine thread to loop thread

    // computed HTTP
    HD_MAX_BODY_BYTES = 2 << 20,
    HD_MAX_DRAIN_BYTES = 32 << 20, // of a body that is refused
    HD_BODY_S = 30,             // for a body to arrive, whole
    HD_STALL_S = 30,            // without a byte taken by the reader; then it is cut
    HD_MAX_ASKS_PER_DEVICE = 8, // questions of one device over HTTP at once

    // admin socket
    HD_MAX_ADMIN_LINE_BYTES = 64 << 10,
    HD_MAX_ADMIN_CLIENTS = 16,
};

// WebSocket close codes of hearth.v1, and the standard ones that it sends
enum {
    HD_CLOSE_GOING_AWAY = 1001,
    HD_CLOSE_TEXT = 1003,
    HD_CLOSE_TOO_BIG = 1009,
    HD_CLOSE_BAD_FRAME = 4400,
    HD_CLOSE_UNAUTHENTICATED = 4401,
    HD_CLOSE_REVOKED = 4403,
    HD_CLOSE_TIMEOUT = 4408, // first frame too late, or the reader too slow
    HD_CLOSE_TOO_MANY = 4429,
};

#endif
