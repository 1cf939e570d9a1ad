// SPDX-License-Identifier: Apache-2.0
// The sink of hd_log (util.h): one line per event on stderr; text, systemd's <N> prefix under the journal, or
// JSON. No text of a conversation, no token and no secret is ever logged, at any level: ids and counts only.
#ifndef HD_LOG_H
#define HD_LOG_H
#include <stdbool.h>

#include "firmware/util.h"

enum hd_log_format { HD_LOG_TEXT = 0, HD_LOG_JSON };

// Called once, before other threads exist. Lines above `level` are dropped.
void hd_log_init(enum hd_log_format format, enum hd_log_level level);

#endif
