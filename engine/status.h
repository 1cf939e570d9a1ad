// SPDX-License-Identifier: Apache-2.0
// Status codes and the error message of libhearth. Public, installed as <hearth/status.h>.
#ifndef HEARTH_STATUS_H
#define HEARTH_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

// One list makes the enum, the names and the texts. Numbers are pinned: scripts and logs rely on them.
#define HEARTH_STATUS_MAP(X)                         \
    X(OK, 0, "ok")                                   \
    X(NOMEM, 1, "out of memory")                     \
    X(INVALID, 2, "invalid argument")                \
    X(FORMAT, 3, "malformed input")                  \
    X(IO, 4, "input/output error")                   \
    X(UNSUPPORTED, 5, "not supported")               \
    X(LIMIT, 6, "limit exceeded")                    \
    X(DEVICE_LOST, 7, "device lost")                 \
    X(CANCELED, 8, "canceled")                       \
    X(NOT_FOUND, 9, "not found")                     \
    X(CONTEXT, 10, "context full")                   \
    X(BUSY, 11, "busy")                              \
    X(NUMERIC, 12, "not a finite number")

enum hearth_status {
#define HEARTH_STATUS_ENUM(name, number, text) HEARTH_##name = (number),
    HEARTH_STATUS_MAP(HEARTH_STATUS_ENUM)
#undef HEARTH_STATUS_ENUM
};

enum { HEARTH_ERROR_TEXT_BYTES = 240 };

// Owned by the caller, filled by the callee when it fails, untouched when it succeeds. `text` is a
// NUL-terminated UTF-8 line that names the file and the cause; it never holds a user's words.
// Wherever a function takes a `struct hearth_error *`, NULL is allowed.
struct hearth_error {
    enum hearth_status code;
    char text[HEARTH_ERROR_TEXT_BYTES];
};

// The short English text of a code ("out of memory"); never NULL. Thread-safe.
const char *hearth_status_text(enum hearth_status status);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
