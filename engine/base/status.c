// SPDX-License-Identifier: Apache-2.0
// The texts of the status codes. Any thread.
#include "engine/status.h"

const char *hearth_status_text(enum hearth_status status)
{
    switch (status) {
#define STATUS_CASE(name, number, text)                                                                      \
    case HEARTH_##name: return text;
        HEARTH_STATUS_MAP(STATUS_CASE)
#undef STATUS_CASE
    }
    return "unknown status";
}
