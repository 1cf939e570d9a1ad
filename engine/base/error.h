// SPDX-License-Identifier: Apache-2.0
// Raising and forwarding errors inside the engine. The text is written once, where the error arises. Any thread.
#ifndef HT_ERROR_H
#define HT_ERROR_H
#include <stdarg.h>

#include "engine/status.h"

// Fills *err (NULL allowed) with the code and the formatted text, cut to fit at a UTF-8 character's border,
// control characters replaced by '?'. Returns the code, so that `return ht_fail(err, HEARTH_IO, "…")` is
// the idiom.
enum hearth_status ht_fail(struct hearth_error *err, enum hearth_status code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
enum hearth_status ht_failv(struct hearth_error *err, enum hearth_status code, const char *format,
                            va_list args);

// A path as messages show it: whole, or its last folders and name, so that the cause still fits beside it.
const char *ht_shown_path(const char *path);

#define HT_TRY(expression)                                                                                   \
    do {                                                                                                     \
        enum hearth_status ht_try_status = (expression);                                                     \
        if (ht_try_status != HEARTH_OK)                                                                      \
            return ht_try_status;                                                                            \
    } while (0)

// For functions that clean up: sets `status` and jumps to `label`.
#define HT_TRY_TO(label, expression)                                                                         \
    do {                                                                                                     \
        status = (expression);                                                                               \
        if (status != HEARTH_OK)                                                                             \
            goto label;                                                                                      \
    } while (0)

#define HT_MUST_USE __attribute__((warn_unused_result))

#endif
